//! Listing the own tree's directories.

use crate::base::sync::lock;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::attr::{Entry, Item, Listing};
use super::node::{Node, ROOT};
use super::own::{OwnTree, RESERVED, number};

/// Bytes of directory read at once.
const READ_BYTES: usize = 32 << 10;

/// An open directory. A position is that of the file system below, moved on by the number of our own names that stand first. So it
/// means the same in every opening of the directory, whatever was removed meanwhile: the kernel keeps listings, and may begin with one
/// that another opening made and go on with this.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    node: Arc<Node>,
    fd: OwnedFd,
    read: Mutex<Names>,
}

/// One buffer of names.
#[derive(Debug, Default)]
struct Names {
    text: Vec<u8>,
    names: Vec<Name>,
    /// Where the first of them was found.
    start: u64,
    /// The next one to be listed.
    next: usize,
    /// Nothing follows them.
    complete: bool,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    start: usize,
    len: u8,
    kind: u8,
    ino: u64,
    /// Where a listing goes on after it.
    after: u64,
}

const KINDS: [FileType; 7] = [
    FileType::RegularFile,
    FileType::Directory,
    FileType::Symlink,
    FileType::Fifo,
    FileType::Socket,
    FileType::CharacterDevice,
    FileType::BlockDevice,
];

impl Names {
    fn push(&mut self, name: &[u8], kind: FileType, ino: u64, after: u64) {
        // Linux has no names longer than this.
        let Ok(len) = u8::try_from(name.len()) else { return };
        let kind = KINDS.iter().position(|known| *known == kind).unwrap_or(0) as u8;
        self.names.push(Name { start: self.text.len(), len, kind, ino, after });
        self.text.extend_from_slice(name);
    }

    /// The name at `index`, its kind, inode number, and where a listing goes on after it.
    fn get(&self, index: usize) -> Option<(&[u8], FileType, u64, u64)> {
        let name = self.names.get(index)?;
        let text = self.text.get(name.start..name.start.checked_add(usize::from(name.len))?)?;
        Some((text, *KINDS.get(usize::from(name.kind))?, name.ino, name.after))
    }

    /// Goes to position `offset`, if that is among these names.
    fn go_to(&mut self, offset: u64) -> bool {
        let after = |index: usize| match index.checked_sub(1) {
            None => Some(self.start),
            Some(before) => self.names.get(before).map(|name| name.after),
        };
        // Mostly where the last listing ended.
        let found = if after(self.next) == Some(offset) {
            Some(self.next)
        } else {
            (0..=self.names.len()).find(|index| after(*index) == Some(offset))
        };
        self.next = found.unwrap_or(self.next);
        found.is_some()
    }
}

impl OpenDirectory {
    /// Begins anew at position `offset`; `first` are names that stand before those on disk.
    fn seek(&self, names: &mut Names, offset: u64, first: &[(&[u8], Entry)]) -> Result<(), Errno> {
        let ours = first.len() as u64;
        *names = Names { start: offset.min(ours), ..Names::default() };
        for (place, (name, entry)) in (1..).zip(first).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            names.push(name, FileType::Directory, entry.node, place);
        }
        if offset >= ours {
            names.start = offset;
        }
        rustix::fs::seek(&self.fd, SeekFrom::Start(offset.saturating_sub(ours)))?;
        Ok(())
    }

    /// Reads the next buffer in place of the one before. `ours` is how far positions are moved on.
    fn read_more(&self, names: &mut Names, ours: u64) -> Result<(), Errno> {
        let start = names.names.last().map_or(names.start, |name| name.after);
        *names = Names { start, ..Names::default() };
        let mut buffer = Vec::with_capacity(READ_BYTES);
        let mut entries = RawDir::new(&self.fd, buffer.spare_capacity_mut());
        loop {
            let Some(entry) = entries.next() else {
                names.complete = true;
                return Ok(());
            };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            // What lies under a reserved name is hidden by ours.
            if !(self.node.id == ROOT && RESERVED.contains(&name)) {
                // The end may be the highest position there is.
                let after = entry.next_entry_cookie().saturating_add(ours).min(i64::MAX as u64);
                names.push(name, entry.file_type(), entry.ino(), after);
            }
            if entries.is_buffer_empty() {
                return Ok(());
            }
        }
    }
}

impl OwnTree {
    pub(crate) fn open_directory(&self, node: u64) -> Result<u64, Errno> {
        let node = self.nodes.find(node)?;
        let path = self.nodes.fd(&node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.descriptors, number(&path), flags, Mode::empty())?;
        Ok(self.directories.insert(OpenDirectory { node, fd, read: Mutex::default() }))
    }

    /// Lists from position `offset`; `first` are names that stand before those on disk.
    pub(crate) fn list(
        &self,
        handle: u64,
        offset: u64,
        first: &[(&[u8], Entry)],
        listing: &mut dyn Listing,
    ) -> Result<(), Errno> {
        let directory = self.directories.find(handle)?;
        let mut names = lock(&directory.read);
        // A listing that begins sees the directory as it is now.
        if offset == 0 || !names.go_to(offset) {
            directory.seek(&mut names, offset, first)?;
        }
        loop {
            while names.next >= names.names.len() {
                if names.complete {
                    return Ok(());
                }
                directory.read_more(&mut names, first.len() as u64)?;
            }
            let Some((name, kind, ino, offset)) = names.get(names.next) else { return Ok(()) };
            let ours = first.iter().find(|(own, _)| *own == name);
            let entry = match ours {
                _ if !listing.wants_attributes() || name == b"." || name == b".." => None,
                Some((_, entry)) => Some(*entry),
                None => self.item(&directory, name),
            };
            let item = Item {
                ino: entry.map_or(ino, |entry| entry.attr.ino),
                offset,
                kind: entry.map_or(kind, |entry| entry.attr.kind()),
                name,
                entry,
            };
            if !listing.add(&item) {
                if let Some(entry) = entry.filter(|_| ours.is_none()) {
                    self.forget(entry.node, 1);
                }
                return Ok(());
            }
            names.next += 1;
        }
    }

    /// The attributes of a name in a listing; `None` for one that is gone by now, which is then listed as it was.
    fn item(&self, directory: &OpenDirectory, name: &[u8]) -> Option<Entry> {
        let name = OsStr::from_bytes(name);
        let stat = rustix::fs::statat(&directory.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(self.entry(&directory.node, name, &stat))
    }

    pub(crate) fn close_directory(&self, handle: u64) {
        self.directories.remove(handle);
    }

    pub(crate) fn sync_directory(&self, handle: u64) -> Result<(), Errno> {
        rustix::fs::fsync(&self.directories.find(handle)?.fd)
    }
}
