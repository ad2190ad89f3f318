//! The whole mount as one file system: sends each operation to the tree that its node belongs to.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::io::Errno;

use super::attr::{Attr, Caller, Entry, KEPT, Listing, Lookup, Opened, SetAttr, Space};
use super::backing::Lend;
use super::control::{CONTROL, Control, NAMES, Owner, REF, TOP};
use super::error::{Error, Result};
use super::foreign::{FOREIGN, Foreign};
use super::node::ROOT;
use super::outcome::Outcome;
use super::own::OwnTree;
use super::refusal::Refusals;
use super::swarm::Swarm;
use crate::base::time::Timestamp;

/// How often files that stay open are asked whether they changed.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

const READ_ONLY: &str = "published trees never change: copy the file into your own tree and change the copy";

/// Settings of one mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Let the kernel gather small writes and write them later.
    pub writeback: bool,
}

/// The file system: own tree, published trees, control files.
pub struct Filesystem {
    pub(super) own: Arc<OwnTree>,
    pub(super) foreign: Arc<Foreign>,
    control: Arc<Control>,
    pub(super) swarm: Arc<dyn Swarm>,
    refusals: Arc<Refusals>,
    settings: Settings,
}

impl std::fmt::Debug for Filesystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filesystem").field("own", &self.own).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Own,
    Control,
    Foreign,
}

impl Family {
    pub(super) fn of(node: u64) -> Family {
        if node & FOREIGN != 0 {
            Family::Foreign
        } else if node & CONTROL != 0 {
            Family::Control
        } else {
            Family::Own
        }
    }
}

impl Filesystem {
    /// The file system whose own tree is the directory `tree`.
    pub fn open(tree: &Path, swarm: Arc<dyn Swarm>, settings: Settings) -> std::result::Result<Arc<Filesystem>, Error> {
        let own = OwnTree::open(tree, settings.writeback, swarm.clone())
            .map_err(|errno| Error::because(errno, format!("cannot open the own tree {}: {errno}", tree.display())))?;
        let mapped = own.mapped.clone();
        swarm.may_be_mapped(Box::new(move |file| mapped.may_be_stored_to(file)));
        let own = Arc::new(own);
        let open = Arc::downgrade(&own);
        swarm.ask_open_files(Box::new(move || {
            if let Some(own) = open.upgrade() {
                own.tell_open();
            }
        }));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let owner = Owner {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            since: Timestamp { seconds: now.as_secs() as i64, nanos: now.subsec_nanos() },
        };
        let refusals = Arc::<Refusals>::default();
        Ok(Arc::new(Filesystem {
            own,
            foreign: Arc::new(Foreign::new(swarm.clone(), owner, refusals.clone())),
            control: Arc::new(Control::new(swarm.clone(), owner)),
            swarm,
            refusals,
            settings,
        }))
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// What was refused lately.
    pub fn refusals(&self) -> &Arc<Refusals> {
        &self.refusals
    }

    /// Tells of changes in files that stay open, for as long as the file system is in use.
    pub async fn watch(this: Weak<Filesystem>) {
        let mut ticks = tokio::time::interval(TELL_INTERVAL);
        loop {
            ticks.tick().await;
            let Some(filesystem) = this.upgrade() else { return };
            filesystem.own.tell_all();
        }
    }

    /// Where a node is below the mount point; for messages.
    fn path(&self, node: u64) -> PathBuf {
        match Family::of(node) {
            Family::Own => self.own.path(node).unwrap_or_default(),
            Family::Control => match node {
                REF => "ref",
                NAMES => "names",
                _ => ".tornet",
            }
            .into(),
            Family::Foreign => self.foreign.path(node),
        }
    }

    /// Refuses a change in a tree that has none.
    pub(super) fn writable(&self, node: u64) -> Result<()> {
        match Family::of(node) {
            Family::Own => Ok(()),
            Family::Control => Err(Errno::ROFS.into()),
            Family::Foreign => {
                self.refusals.note(&self.path(node), None, READ_ONLY);
                Err(Error::because(Errno::ROFS, READ_ONLY))
            }
        }
    }

    /// Finds a name in a directory.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Outcome<Lookup> {
        match Family::of(parent) {
            Family::Own => match self.control.top(name).filter(|_| parent == ROOT) {
                Some(top) => top.map(Lookup::Found).into(),
                None => self.own.lookup(parent, name).into(),
            },
            Family::Control if matches!(parent, REF | NAMES) => self.foreign.lookup(parent, name),
            Family::Control => self.control.lookup(name).into(),
            Family::Foreign => self.foreign.lookup(parent, name),
        }
    }

    /// The kernel gives back look-ups that it was counted.
    pub fn forget(&self, node: u64, lookups: u64) {
        match Family::of(node) {
            Family::Own => self.own.forget(node, lookups),
            Family::Control => {}
            Family::Foreign => self.foreign.forget(node, lookups),
        }
    }

    /// For how long the kernel may keep the attributes of a node.
    pub fn kept(&self, node: u64) -> Duration {
        match Family::of(node) {
            Family::Own => self.own.nodes.find(node).map_or(KEPT, |node| self.own.kept(&node)),
            Family::Control | Family::Foreign => KEPT,
        }
    }

    /// Attributes of a node.
    pub fn attr(&self, node: u64, handle: Option<u64>) -> Outcome<Attr> {
        match Family::of(node) {
            Family::Own => self.own.attr(node, handle).into(),
            Family::Control => self.control.attr(node).into(),
            Family::Foreign => self.foreign.attr(node).into(),
        }
    }

    /// Changes attributes.
    pub fn set_attr(&self, node: u64, set: &SetAttr) -> Outcome<Attr> {
        match self.writable(node) {
            Ok(()) => self.own.set_attr(node, set).into(),
            Err(error) => Outcome::refused(error),
        }
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, node: u64) -> Outcome<Vec<u8>> {
        match Family::of(node) {
            Family::Own => self.own.readlink(node).into(),
            Family::Control => Outcome::refused(Errno::INVAL),
            Family::Foreign => self.foreign.readlink(node).into(),
        }
    }

    /// Makes a directory.
    pub fn mkdir(&self, parent: u64, name: &OsStr, mode: u32, caller: Caller) -> Result<Entry> {
        self.writable(parent)?;
        Ok(self.own.mkdir(parent, name, mode, caller)?)
    }

    /// Makes a file, named pipe, socket, or device (`device` as the kernel encodes it in 32 bits). Only files are published;
    /// a device is inert in a mount, which is always `nodev`.
    pub fn mknod(&self, parent: u64, name: &OsStr, mode: u32, device: u32, caller: Caller) -> Result<Entry> {
        self.writable(parent)?;
        Ok(self.own.mknod(parent, name, mode, device, caller)?)
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, parent: u64, name: &OsStr, target: &OsStr, caller: Caller) -> Result<Entry> {
        self.writable(parent)?;
        Ok(self.own.symlink(parent, name, target, caller)?)
    }

    /// Gives a file a further name.
    pub fn link(&self, node: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        self.writable(parent)?;
        if Family::of(node) != Family::Own {
            return Err(Errno::XDEV.into());
        }
        Ok(self.own.link(node, parent, name)?)
    }

    /// Takes a name from a file.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.writable(parent)?;
        Ok(self.own.unlink(parent, name)?)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.writable(parent)?;
        Ok(self.own.rmdir(parent, name)?)
    }

    /// Renames, with the flags of `renameat2`.
    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), flags: u32) -> Result<()> {
        self.writable(from.0)?;
        self.writable(to.0)?;
        Ok(self.own.rename(from, to, flags)?)
    }

    /// Opens a file with the flags of `open`; a file of the own tree is lent to the kernel by `lend`, which may decline.
    pub fn open_file(&self, node: u64, flags: u32, lend: Lend<'_>) -> Outcome<Opened> {
        let writing = flags & 0o3 != 0;
        match Family::of(node) {
            Family::Own => self.own.open_file(node, flags, lend).into(),
            Family::Control => self.control.open(node, writing),
            Family::Foreign if writing => Outcome::Now(self.writable(node).map(|()| Opened::default())),
            Family::Foreign => self.foreign.open_file(node),
        }
    }

    /// Makes a file and opens it.
    pub fn create(
        &self,
        parent: u64,
        name: &OsStr,
        flags: u32,
        mode: u32,
        caller: Caller,
        lend: Lend<'_>,
    ) -> Result<(Entry, Opened)> {
        self.writable(parent)?;
        Ok(self.own.create(parent, name, flags, mode, caller, lend)?)
    }

    /// Makes a file without a name and opens it.
    pub fn create_nameless(
        &self,
        parent: u64,
        flags: u32,
        mode: u32,
        caller: Caller,
        lend: Lend<'_>,
    ) -> Result<(Entry, Opened)> {
        self.writable(parent)?;
        Ok(self.own.create_nameless(parent, flags, mode, caller, lend)?)
    }

    /// Reads a file of the own tree into `buffer`; `None` when the file is of another kind and wants [`Filesystem::read`].
    pub fn read_own(&self, node: u64, handle: u64, offset: u64, buffer: &mut [u8]) -> Option<Result<usize>> {
        (Family::of(node) == Family::Own).then(|| Ok(self.own.read(handle, offset, buffer)?))
    }

    /// Reads up to `len` bytes from `offset`; fewer only at the end.
    pub fn read(&self, node: u64, handle: u64, offset: u64, len: u32) -> Outcome<Bytes> {
        match Family::of(node) {
            Family::Own => {
                let mut buffer = vec![0; len as usize];
                let read = self.own.read(handle, offset, &mut buffer);
                read.map(|len| Bytes::from(buffer).slice(..len)).into()
            }
            Family::Control => self.control.read(handle, offset, len).map(Bytes::from).into(),
            Family::Foreign => self.foreign.read(handle, offset, len),
        }
    }

    /// Writes to a file.
    pub fn write(&self, node: u64, handle: u64, offset: u64, data: &[u8], kill_privileges: bool) -> Result<usize> {
        self.writable(node)?;
        Ok(self.own.write(handle, offset, data, kill_privileges)?)
    }

    /// A program closed a file.
    pub fn flush(&self, node: u64, handle: u64) -> Result<()> {
        match Family::of(node) {
            Family::Own => Ok(self.own.flush(handle)?),
            Family::Control | Family::Foreign => Ok(()),
        }
    }

    /// The last program closed a file.
    pub fn close_file(&self, node: u64, handle: u64) {
        match Family::of(node) {
            Family::Own => self.own.close_file(handle),
            Family::Control => self.control.close(handle),
            Family::Foreign => self.foreign.close_file(handle),
        }
    }

    /// Makes a file's content durable.
    pub fn sync_file(&self, node: u64, handle: u64, data_only: bool) -> Outcome<()> {
        let own = self.own.clone();
        self.apart(node, move || own.sync_file(handle, data_only))
    }

    /// Reserves or frees space in a file.
    pub fn allocate(&self, node: u64, handle: u64, offset: u64, len: u64, mode: u32) -> Outcome<()> {
        if let Err(error) = self.writable(node) {
            return Outcome::refused(error);
        }
        let own = self.own.clone();
        self.apart(node, move || own.allocate(handle, offset, len, mode))
    }

    /// Work on a disk that may take long: away from the threads that take requests.
    fn apart<T: Default + Send + 'static>(
        &self,
        node: u64,
        work: impl FnOnce() -> std::result::Result<T, Errno> + Send + 'static,
    ) -> Outcome<T> {
        if Family::of(node) != Family::Own {
            return Outcome::Now(Ok(T::default()));
        }
        Outcome::later(async {
            let done = tokio::task::spawn_blocking(work).await;
            Ok(done.map_err(|_| Error::because(Errno::IO, "the program is ending"))??)
        })
    }

    /// Finds data or a hole.
    pub fn seek(&self, node: u64, handle: u64, offset: u64, whence: u32) -> Result<u64> {
        match Family::of(node) {
            // What the kernel has not written yet would look like a hole: then it takes the whole file for data.
            Family::Own if self.settings.writeback => Err(Errno::NOSYS.into()),
            Family::Own => Ok(self.own.seek(handle, offset, whence)?),
            // All of it is data. Not "unknown here": the kernel would not ask for any file again.
            Family::Control => all_data(self.control.attr(node)?.size, offset, whence),
            Family::Foreign => all_data(self.foreign.attr(node)?.size, offset, whence),
        }
    }

    /// Copies between two open files.
    pub fn copy_range(&self, from: (u64, u64, u64), to: (u64, u64, u64), len: u64) -> Outcome<usize> {
        if let Err(error) = self.writable(to.0) {
            return Outcome::refused(error);
        }
        if Family::of(from.0) != Family::Own {
            return Outcome::refused(Errno::XDEV);
        }
        let own = self.own.clone();
        self.apart(to.0, move || own.copy_range((from.1, from.2), (to.1, to.2), len))
    }

    /// Opens a directory.
    pub fn open_directory(&self, node: u64) -> Outcome<Opened> {
        let opened = |handle| Opened { handle, keep_cache: true, direct: false, no_flush: true, ..Opened::default() };
        match Family::of(node) {
            Family::Own => self.own.open_directory(node).map(opened).into(),
            // Names come and go without a word to the kernel.
            Family::Control if node == NAMES => Outcome::Now(Ok(Opened { keep_cache: false, ..opened(0) })),
            Family::Control => Outcome::Now(Ok(opened(0))),
            Family::Foreign => self.foreign.open_directory(node).map(opened).into(),
        }
    }

    /// Lists a directory from a position on.
    pub fn list<L: Listing>(&self, node: u64, handle: u64, offset: u64, mut listing: L) -> Outcome<L> {
        let listed = match Family::of(node) {
            Family::Own => {
                let top = TOP.iter().filter(|_| node == ROOT);
                let top: Vec<_> =
                    top.filter_map(|(name, node)| Some((*name, self.control.entry(*node).ok()?))).collect();
                self.own.list(handle, offset, &top, &mut listing)
            }
            Family::Control if node == NAMES => {
                self.foreign.list_names(offset, &mut listing);
                Ok(())
            }
            Family::Control => self.control.list(node, offset, &mut listing),
            Family::Foreign => return self.foreign.list(handle, offset, listing),
        };
        listed.map(|()| listing).into()
    }

    /// A directory was closed.
    pub fn close_directory(&self, node: u64, handle: u64) {
        match Family::of(node) {
            Family::Own => self.own.close_directory(handle),
            Family::Control => {}
            Family::Foreign => self.foreign.close_directory(handle),
        }
    }

    /// Makes a directory's names durable.
    pub fn sync_directory(&self, node: u64, handle: u64) -> Outcome<()> {
        let own = self.own.clone();
        self.apart(node, move || own.sync_directory(handle))
    }

    /// Space on the disk that holds the own tree.
    pub fn space(&self) -> Result<Space> {
        Ok(self.own.space()?)
    }
}

/// Finds data (`SEEK_DATA`, 3) or the end (`SEEK_HOLE`, 4) in a file of `size` bytes without holes.
fn all_data(size: u64, offset: u64, whence: u32) -> Result<u64> {
    match whence {
        3 | 4 if offset >= size => Err(Errno::NXIO.into()),
        3 => Ok(offset),
        4 => Ok(size),
        _ => Err(Errno::INVAL.into()),
    }
}
