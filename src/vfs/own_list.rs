//! Listing the own tree's directories.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::attr::{Entry, Item, Listing};
use super::node::{Node, ROOT, lock};
use super::own::{OwnTree, RESERVED, number};

/// Bytes of directory read at once.
const READ_BYTES: usize = 32 << 10;

/// An open directory. What was read of it is kept until it is closed, and a position is an index into that: so positions stay
/// good however the directory changes meanwhile, and names of ours can stand among those on disk.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    node: Arc<Node>,
    fd: OwnedFd,
    read: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    text: Vec<u8>,
    names: Vec<Name>,
    complete: bool,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    start: usize,
    len: u8,
    kind: u8,
    ino: u64,
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
    fn push(&mut self, name: &[u8], kind: FileType, ino: u64) {
        // Linux has no names longer than this.
        let Ok(len) = u8::try_from(name.len()) else { return };
        let kind = KINDS.iter().position(|known| *known == kind).unwrap_or(0) as u8;
        self.names.push(Name { start: self.text.len(), len, kind, ino });
        self.text.extend_from_slice(name);
    }

    fn get(&self, index: usize) -> Option<(&[u8], FileType, u64)> {
        let name = self.names.get(index)?;
        let text = self.text.get(name.start..name.start.checked_add(usize::from(name.len))?)?;
        Some((text, *KINDS.get(usize::from(name.kind))?, name.ino))
    }
}

impl OpenDirectory {
    /// Reads one buffer more.
    fn read_more(&self, names: &mut Names) -> Result<(), Errno> {
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
                names.push(name, entry.file_type(), entry.ino());
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
        if offset == 0 {
            *names = Names::default();
            rustix::fs::seek(&directory.fd, SeekFrom::Start(0))?;
            first.iter().for_each(|(name, entry)| names.push(name, FileType::Directory, entry.node));
        }
        let mut index = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        loop {
            while index >= names.names.len() {
                if names.complete {
                    return Ok(());
                }
                directory.read_more(&mut names)?;
            }
            let Some((name, kind, ino)) = names.get(index) else { return Ok(()) };
            let offset = index as u64 + 1;
            let entry = match first.get(index) {
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
                if let Some(entry) = entry {
                    self.nodes.forget(entry.node, 1);
                }
                return Ok(());
            }
            index += 1;
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
