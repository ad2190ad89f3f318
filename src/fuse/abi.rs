//! The kernel's FUSE protocol, version 7.45: numbers, and the layout of what goes either way.
//!
//! Layouts are those of Linux' `include/uapi/linux/fuse.h`, in the machine's byte order. Reading is total: a request that is too short
//! gives `None`, never a panic.

use std::time::Duration;

use rustix::fs::FileType;

use crate::vfs::{Attr, Entry, Item};

/// The version spoken here.
pub(super) const VERSION: (u32, u32) = (7, 45);
/// The oldest minor version understood: Linux 5.11, the first whose kernel drops set-user-id bits for us.
pub(super) const MINOR_MIN: u32 = 33;

/// Operations, by the number in a request's header.
pub(super) mod op {
    pub(in crate::fuse) const LOOKUP: u32 = 1;
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const GETATTR: u32 = 3;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const READLINK: u32 = 5;
    pub(in crate::fuse) const SYMLINK: u32 = 6;
    pub(in crate::fuse) const MKNOD: u32 = 8;
    pub(in crate::fuse) const MKDIR: u32 = 9;
    pub(in crate::fuse) const UNLINK: u32 = 10;
    pub(in crate::fuse) const RMDIR: u32 = 11;
    pub(in crate::fuse) const RENAME: u32 = 12;
    pub(in crate::fuse) const LINK: u32 = 13;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const STATFS: u32 = 17;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const SETXATTR: u32 = 21;
    pub(in crate::fuse) const GETXATTR: u32 = 22;
    pub(in crate::fuse) const LISTXATTR: u32 = 23;
    pub(in crate::fuse) const REMOVEXATTR: u32 = 24;
    pub(in crate::fuse) const FLUSH: u32 = 25;
    pub(in crate::fuse) const INIT: u32 = 26;
    pub(in crate::fuse) const OPENDIR: u32 = 27;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const RELEASEDIR: u32 = 29;
    pub(in crate::fuse) const FSYNCDIR: u32 = 30;
    pub(in crate::fuse) const CREATE: u32 = 35;
    pub(in crate::fuse) const INTERRUPT: u32 = 36;
    pub(in crate::fuse) const DESTROY: u32 = 38;
    pub(in crate::fuse) const IOCTL: u32 = 39;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const READDIRPLUS: u32 = 44;
    pub(in crate::fuse) const RENAME2: u32 = 45;
    pub(in crate::fuse) const LSEEK: u32 = 46;
    pub(in crate::fuse) const COPY_FILE_RANGE: u32 = 47;
    pub(in crate::fuse) const TMPFILE: u32 = 51;
}

/// What both sides can do, agreed at the start.
pub(super) mod init {
    pub(in crate::fuse) const ASYNC_READ: u64 = 1;
    pub(in crate::fuse) const BIG_WRITES: u64 = 1 << 5;
    pub(in crate::fuse) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in crate::fuse) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in crate::fuse) const ASYNC_DIO: u64 = 1 << 15;
    pub(in crate::fuse) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(in crate::fuse) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in crate::fuse) const MAX_PAGES: u64 = 1 << 22;
    pub(in crate::fuse) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in crate::fuse) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub(in crate::fuse) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in crate::fuse) const INIT_EXT: u64 = 1 << 30;
}

/// How an opened file is to be treated.
pub(super) mod fopen {
    pub(in crate::fuse) const DIRECT_IO: u32 = 1;
    pub(in crate::fuse) const KEEP_CACHE: u32 = 1 << 1;
    pub(in crate::fuse) const CACHE_DIR: u32 = 1 << 3;
    pub(in crate::fuse) const NOFLUSH: u32 = 1 << 5;
}

/// Which attributes a SETATTR sets.
pub(super) mod set {
    pub(in crate::fuse) const MODE: u32 = 1;
    pub(in crate::fuse) const UID: u32 = 1 << 1;
    pub(in crate::fuse) const GID: u32 = 1 << 2;
    pub(in crate::fuse) const SIZE: u32 = 1 << 3;
    pub(in crate::fuse) const ATIME: u32 = 1 << 4;
    pub(in crate::fuse) const MTIME: u32 = 1 << 5;
    pub(in crate::fuse) const FH: u32 = 1 << 6;
    pub(in crate::fuse) const ATIME_NOW: u32 = 1 << 7;
    pub(in crate::fuse) const MTIME_NOW: u32 = 1 << 8;
    pub(in crate::fuse) const KILL_SUIDGID: u32 = 1 << 11;
}

/// GETATTR names an open file.
pub(super) const GETATTR_FH: u32 = 1;
/// WRITE drops set-user-id and set-group-id.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// FSYNC concerns the data alone.
pub(super) const FSYNC_FDATASYNC: u32 = 1;

/// Bytes of a request's header.
pub(super) const HEADER_BYTES: usize = 40;
/// Bytes of an answer's header.
pub(super) const ANSWER_BYTES: usize = 16;

/// A request's header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
}

/// Splits a request into its header and what follows.
pub(super) fn request(bytes: &[u8]) -> Option<(Header, Body<'_>)> {
    let mut body = Body(bytes);
    let len = body.u32()? as usize;
    let (opcode, unique, node) = (body.u32()?, body.u64()?, body.u64()?);
    let (uid, gid, pid) = (body.u32()?, body.u32()?, body.u32()?);
    // Extensions, of which we asked for none, follow the body.
    let extensions = usize::from(body.u16()?).checked_mul(8)?;
    let end = len.checked_sub(extensions)?;
    let rest = bytes.get(HEADER_BYTES..end)?;
    Some((Header { opcode, unique, node, uid, gid, pid }, Body(rest)))
}

/// What is left to read of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// Text up to a zero byte.
    pub(super) fn text(&mut self) -> Option<&'a std::ffi::OsStr> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(1..)?;
        Some(std::os::unix::ffi::OsStrExt::from_bytes(text))
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// An answer's content being put together.
#[derive(Debug, Default)]
pub(super) struct Answer(pub(super) Vec<u8>);

impl Answer {
    pub(super) fn with_capacity(bytes: usize) -> Answer {
        Answer(Vec::with_capacity(bytes))
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn i64(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }

    pub(super) fn zeros(mut self, len: usize) -> Self {
        self.0.resize(self.0.len() + len, 0);
        self
    }

    fn attr(self, attr: &Attr) -> Self {
        self.u64(attr.ino)
            .u64(attr.size)
            .u64(attr.blocks)
            .i64(attr.atime.seconds)
            .i64(attr.mtime.seconds)
            .i64(attr.ctime.seconds)
            .u32(attr.atime.nanos)
            .u32(attr.mtime.nanos)
            .u32(attr.ctime.nanos)
            .u32(attr.mode)
            .u32(attr.nlink)
            .u32(attr.uid)
            .u32(attr.gid)
            .u32(attr.rdev)
            .u32(attr.blksize)
            .u32(0)
    }

    pub(super) fn attributes(self, attr: &Attr, kept: Duration) -> Self {
        self.u64(kept.as_secs()).u32(kept.subsec_nanos()).u32(0).attr(attr)
    }

    pub(super) fn entry(self, entry: &Entry) -> Self {
        let (seconds, nanos) = (entry.kept.as_secs(), entry.kept.subsec_nanos());
        self.u64(entry.node).u64(0).u64(seconds).u64(seconds).u32(nanos).u32(nanos).attr(&entry.attr)
    }

    /// The entry that stands for "no such name", kept as long as a real one.
    pub(super) fn missing(self, kept: Duration) -> Self {
        self.u64(0).u64(0).u64(kept.as_secs()).u64(0).u32(kept.subsec_nanos()).u32(0).zeros(ATTR_BYTES)
    }

    pub(super) fn opened(self, handle: u64, flags: u32) -> Self {
        self.u64(handle).u32(flags).u32(0)
    }

    /// Adds a directory entry if it fits in `max` bytes; `plus` says whether attributes go with it.
    pub(super) fn item(&mut self, item: &Item<'_>, plus: bool, max: usize) -> bool {
        let bytes = if plus { ENTRY_BYTES } else { 0 } + DIRENT_BYTES + item.name.len();
        let padded = bytes.next_multiple_of(8);
        if self.0.len() + padded > max {
            return false;
        }
        let mut answer = std::mem::take(self);
        if plus {
            answer = match &item.entry {
                Some(entry) => answer.entry(entry),
                None => answer.zeros(ENTRY_BYTES),
            };
        }
        answer = answer.u64(item.ino).u64(item.offset).u32(item.name.len() as u32).u32(dirent_kind(item.kind));
        answer.0.extend_from_slice(item.name);
        *self = answer.zeros(padded - bytes);
        true
    }
}

const ATTR_BYTES: usize = 88;
const ENTRY_BYTES: usize = 40 + ATTR_BYTES;
const DIRENT_BYTES: usize = 24;

fn dirent_kind(kind: FileType) -> u32 {
    kind.as_raw_mode() >> 12
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some((_, mut body)) = request(&bytes) {
                let _ = (body.u64(), body.text(), body.u32(), body.bytes(7), body.u16());
            }
        }
    }

    #[test]
    fn answers_have_the_kernels_sizes() {
        let attr = Attr::from(&rustix::fs::stat("/").unwrap());
        let entry = Entry { node: 7, attr, kept: Duration::from_secs(1) };
        assert_eq!(Answer::default().attributes(&attr, Duration::ZERO).0.len(), 104);
        assert_eq!(Answer::default().entry(&entry).0.len(), 128);
        assert_eq!(Answer::default().missing(Duration::ZERO).0.len(), 128);
        assert_eq!(Answer::default().opened(1, 2).0.len(), 16);
    }

    #[test]
    fn a_listing_ends_where_its_space_does() {
        let item = Item { ino: 1, offset: 1, kind: FileType::Directory, name: b"abc", entry: None };
        let mut answer = Answer::default();
        assert!(answer.item(&item, false, 64) && answer.item(&item, false, 64));
        assert_eq!(answer.0.len(), 64);
        assert!(!answer.item(&item, false, 64));
        assert!(answer.item(&item, true, 64 + 160));
        assert_eq!(answer.0.len(), 64 + 160);
    }
}
