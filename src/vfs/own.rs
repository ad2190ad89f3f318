//! The own tree: a real directory exported by its inodes; names, links, creation and removal.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

use super::attr::{Attr, Caller, Entry, KEPT, Lookup, PERMISSIONS, Space, wide_device};
use super::handle::Handles;
use super::mapped::Mapped;
use super::node::{Node, Nodes, ROOT, Unnamed};
use super::own_file::OpenFile;
use super::own_list::OpenDirectory;
use super::swarm::{Reach, Swarm};

/// Names at the top of the tree that belong to the file system itself.
pub const RESERVED: [&[u8]; 3] = [b"ref", b"names", b".tornet"];

/// The exported directory. Calls block on the local disk only.
pub(crate) struct OwnTree {
    pub(super) nodes: Nodes,
    pub(super) files: Handles<OpenFile>,
    pub(super) directories: Handles<OpenDirectory>,
    pub(super) mapped: Arc<Mapped>,
    /// `/proc/self/fd`, through which a descriptor is opened again.
    pub(super) descriptors: OwnedFd,
    /// The kernel gathers writes itself and writes them later.
    pub(super) writeback: bool,
    /// Files may be given to their callers.
    privileged: bool,
    /// Told of every change, with the path below the root of the tree.
    pub(super) swarm: Arc<dyn Swarm>,
}

impl fmt::Debug for OwnTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnTree").field("root", self.nodes.root()).finish_non_exhaustive()
    }
}

/// Makes the calling thread create files with exactly the modes it names. Call it once in each thread that serves a mount: the mask is the
/// thread's own from then on, so the rest of the process keeps its strict one.
pub fn enter_thread() -> Result<(), Errno> {
    #[allow(deprecated)] // deprecated for what sharing *descriptors* can do; this is about the mask alone
    rustix::thread::unshare(rustix::thread::UnshareFlags::FS)?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Allows the process as many open files as the system lets it have, and says how many.
pub(crate) fn raise_files_max() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit = getrlimit(Resource::Nofile);
    }
    limit.current.unwrap_or(1 << 20)
}

impl OwnTree {
    /// Opens the directory `root`, which must exist.
    pub(crate) fn open(root: &Path, writeback: bool, swarm: Arc<dyn Swarm>) -> Result<OwnTree, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let descriptors = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
        // Half for nodes, the rest for open files, the store and the network.
        let open_max = usize::try_from(raise_files_max() / 2).unwrap_or(usize::MAX).min(1 << 16);
        Ok(OwnTree {
            nodes: Nodes::new(fd, &stat, open_max),
            files: Handles::default(),
            directories: Handles::default(),
            mapped: Arc::default(),
            descriptors,
            writeback,
            privileged: rustix::process::geteuid().is_root(),
            swarm,
        })
    }

    pub(super) fn changed_in(&self, parent: &Node, name: &OsStr, reach: Reach) {
        // A directory without a path was removed, and nothing in it is published; or it is being renamed, and then
        // everything in it is looked at afterwards.
        if let Some(path) = parent.path() {
            self.swarm.changed(&path.join(name), reach);
        }
    }

    /// The file changed under all of its `links` names; where not all are known, any may be one of its names.
    pub(super) fn changed_node(&self, node: &Arc<Node>, links: u64) {
        if node.kind == FileType::Directory {
            if let Some(path) = node.path() {
                self.swarm.changed(&path, Reach::Here);
            }
            return;
        }
        let places = node.places();
        if links > places.len() as u64 {
            self.swarm.changed(Path::new(""), Reach::Below);
        }
        for place in places {
            self.changed_in(&place.parent, place.name(), Reach::Here);
        }
    }

    /// Where the node is below the root of the tree; `None` when it has no name any more.
    pub(crate) fn path(&self, node: u64) -> Option<PathBuf> {
        self.nodes.find(node).ok()?.path()
    }

    /// Refuses what is no name of one entry, and, at the top, names that are not the user's.
    pub(super) fn check_name(&self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let bytes = name.as_bytes();
        if bytes.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(Errno::INVAL);
        }
        if parent == ROOT && RESERVED.contains(&bytes) { Err(Errno::PERM) } else { Ok(()) }
    }

    pub(super) fn entry(&self, parent: &Arc<Node>, name: &OsStr, stat: &Stat) -> Entry {
        let node = self.nodes.intern(parent, name.as_bytes(), stat);
        Entry { node: node.id, attr: Attr::from(stat), kept: self.kept(&node) }
    }

    /// For how long the kernel may keep what it is told of the node.
    pub(super) fn kept(&self, node: &Node) -> Duration {
        if node.kind == FileType::RegularFile && self.mapped.holds(node.key) { Duration::ZERO } else { KEPT }
    }

    /// The kernel gives back look-ups that it was counted.
    pub(crate) fn forget(&self, id: u64, lookups: u64) {
        if let Some(node) = self.nodes.forget(id, lookups) {
            // The last stores through a map may have come since the last look.
            if self.mapped.holds(node.key) {
                self.tell_node(&node);
                self.mapped.forgotten(&node);
            }
        }
    }

    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Lookup, Errno> {
        if self.check_name(parent, name) == Err(Errno::PERM) {
            return Ok(Lookup::Missing(KEPT));
        }
        let parent = self.nodes.find(parent)?;
        let dir = self.nodes.fd(&parent)?;
        match rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Lookup::Found(self.entry(&parent, name, &stat))),
            Err(Errno::NOENT) => Ok(Lookup::Missing(KEPT)),
            Err(error) => Err(error),
        }
    }

    /// Gives a new file to the caller: who made it owns it, unless its directory hands down the group.
    pub(super) fn give(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        fd: Option<&OwnedFd>,
        mode: u32,
        caller: Caller,
    ) -> Result<(), Errno> {
        if !self.privileged || (caller.uid == 0 && caller.gid == 0) {
            return Ok(());
        }
        let inherits = rustix::fs::fstat(parent)?.st_mode & 0o2000 != 0;
        let group = (!inherits).then(|| Gid::from_raw(caller.gid));
        let owner = Some(Uid::from_raw(caller.uid));
        match fd {
            Some(fd) => rustix::fs::fchown(fd, owner, group)?,
            None => rustix::fs::chownat(parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?,
        }
        // A change of owner drops these bits; the caller asked for them.
        if mode & 0o6000 != 0 {
            let mode = Mode::from_raw_mode(mode & PERMISSIONS);
            match fd {
                Some(fd) => rustix::fs::fchmod(fd, mode)?,
                None => rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?,
            }
        }
        Ok(())
    }

    /// Finishes the creation of `name`: owner, node, and the word that it is new.
    fn created(&self, parent: &Arc<Node>, name: &OsStr, mode: u32, caller: Caller) -> Result<Entry, Errno> {
        let dir = self.nodes.fd(parent)?;
        self.give(&dir, name, None, mode, caller)?;
        let stat = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let entry = self.entry(parent, name, &stat);
        self.changed_in(parent, name, Reach::Here);
        Ok(entry)
    }

    pub(crate) fn mkdir(&self, parent: u64, name: &OsStr, mode: u32, caller: Caller) -> Result<Entry, Errno> {
        self.check_name(parent, name)?;
        let parent = self.nodes.find(parent)?;
        let dir = self.nodes.fd(&parent)?;
        rustix::fs::mkdirat(&*dir, name, Mode::from_raw_mode(mode & PERMISSIONS))?;
        self.created(&parent, name, 0, caller)
    }

    /// Makes an empty file, a named pipe or a socket. Device nodes have no place in a tree that is given to others.
    pub(crate) fn mknod(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        device: u32,
        caller: Caller,
    ) -> Result<Entry, Errno> {
        self.check_name(parent, name)?;
        let kind = FileType::from_raw_mode(mode);
        let device = match kind {
            FileType::RegularFile | FileType::Fifo | FileType::Socket => 0,
            // The kernel has seen to it that the caller may make one.
            FileType::CharacterDevice | FileType::BlockDevice => wide_device(device),
            _ => return Err(Errno::PERM),
        };
        let parent = self.nodes.find(parent)?;
        let dir = self.nodes.fd(&parent)?;
        rustix::fs::mknodat(&*dir, name, kind, Mode::from_raw_mode(mode & PERMISSIONS), device)?;
        self.created(&parent, name, if kind == FileType::RegularFile { mode } else { 0 }, caller)
    }

    pub(crate) fn symlink(&self, parent: u64, name: &OsStr, target: &OsStr, caller: Caller) -> Result<Entry, Errno> {
        self.check_name(parent, name)?;
        let parent = self.nodes.find(parent)?;
        let dir = self.nodes.fd(&parent)?;
        rustix::fs::symlinkat(target, &*dir, name)?;
        self.created(&parent, name, 0, caller)
    }

    pub(crate) fn link(&self, node: u64, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        self.check_name(parent, name)?;
        let (node, parent) = (self.nodes.find(node)?, self.nodes.find(parent)?);
        let (file, dir) = (self.nodes.fd(&node)?, self.nodes.fd(&parent)?);
        match rustix::fs::linkat(&*file, "", &*dir, name, AtFlags::EMPTY_PATH) {
            // Linking a bare descriptor takes a privilege; the way through /proc takes none.
            Err(Errno::NOENT) => {
                rustix::fs::linkat(&self.descriptors, number(&file), &*dir, name, AtFlags::SYMLINK_FOLLOW)?;
            }
            other => other?,
        }
        let stat = rustix::fs::fstat(&*file)?;
        let entry = self.entry(&parent, name, &stat);
        self.changed_in(&parent, name, Reach::Here);
        Ok(entry)
    }

    pub(crate) fn unlink(&self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        self.remove(parent, name, AtFlags::empty())
    }

    pub(crate) fn rmdir(&self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, parent: u64, name: &OsStr, flags: AtFlags) -> Result<(), Errno> {
        self.check_name(parent, name)?;
        let parent = self.nodes.find(parent)?;
        let dir = self.nodes.fd(&parent)?;
        let unnamed = self.nodes.unname(&parent, name.as_bytes());
        let done = rustix::fs::unlinkat(&*dir, name, flags);
        match done {
            Ok(()) => self.changed_in(&parent, name, Reach::Here),
            Err(_) => self.undo(unnamed),
        }
        done
    }

    /// Renames; `flags` are those of `renameat2` (no replacing, exchange).
    pub(crate) fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), flags: u32) -> Result<(), Errno> {
        let ((parent, name), (parent_new, name_new)) = (from, to);
        self.check_name(parent, name)?;
        self.check_name(parent_new, name_new)?;
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        // Overlay's whiteouts are device nodes.
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let (parent, parent_new) = (self.nodes.find(parent)?, self.nodes.find(parent_new)?);
        let (dir, dir_new) = (self.nodes.fd(&parent)?, self.nodes.fd(&parent_new)?);
        let moved = self.nodes.unname(&parent, name.as_bytes());
        let replaced = self.nodes.unname(&parent_new, name_new.as_bytes());
        // Two names of one file: renaming does nothing.
        let same = matches!((&moved, &replaced), (Some(a), Some(b)) if a.node.id == b.node.id);
        let done = rustix::fs::renameat_with(&*dir, name, &*dir_new, name_new, flags);
        if done.is_err() || same {
            self.undo(moved);
            self.undo(replaced);
            return done;
        }
        let links = |node: &Arc<Node>| self.nodes.stat(node).map_or(1, |stat| stat.st_nlink);
        if let Some(moved) = moved {
            let links = links(&moved.node);
            moved.moved(&parent_new, name_new.as_bytes(), links);
        }
        if flags.contains(RenameFlags::EXCHANGE)
            && let Some(replaced) = replaced
        {
            let links = links(&replaced.node);
            replaced.moved(&parent, name.as_bytes(), links);
        }
        // What changed in a directory under its old name, and was not looked at yet, is to be looked for under the new one.
        let exchanged = flags.contains(RenameFlags::EXCHANGE);
        self.changed_in(&parent, name, if exchanged { Reach::Below } else { Reach::Here });
        self.changed_in(&parent_new, name_new, Reach::Below);
        Ok(())
    }

    /// A name is not taken from its node after all. Without it no path led there: changes told meanwhile are told now.
    fn undo(&self, unnamed: Option<Unnamed>) {
        if let Some(node) = unnamed.map(Unnamed::undo)
            && node.kind == FileType::Directory
            && let Some(path) = node.path()
        {
            self.swarm.changed(&path, Reach::Below);
        }
    }

    pub(crate) fn readlink(&self, node: u64) -> Result<Vec<u8>, Errno> {
        let node = self.nodes.find(node)?;
        let fd = self.nodes.fd(&node)?;
        Ok(rustix::fs::readlinkat(&*fd, "", Vec::new())?.into_bytes())
    }

    pub(crate) fn space(&self) -> Result<Space, Errno> {
        let fd = self.nodes.fd(self.nodes.root())?;
        let stat = rustix::fs::fstatvfs(&*fd)?;
        Ok(Space {
            blocks: stat.f_blocks,
            free: stat.f_bfree,
            available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            block_bytes: stat.f_frsize.min(u64::from(u32::MAX)) as u32,
            name_bytes_max: 255,
        })
    }
}

/// The name of a descriptor within `/proc/self/fd`.
pub(super) fn number(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd().to_string()
}
