//! The own tree's open files: opening, reading, writing, and the word that they changed.

use crate::base::sync::lock;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::SystemTime;

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, SeekFrom, Timespec, Timestamps};
use rustix::io::Errno;

use super::attr::{Attr, Caller, Entry, KEPT, Opened, PERMISSIONS};
use super::backing::{Lend, Lent};
use super::lease;
use super::mapped::Mapped;
use super::node::{Node, Stamp};
use super::own::{OwnTree, number};
use super::own_attr::UTIME_OMIT;
use super::swarm::Reach;

/// A file that a program has open.
pub(crate) struct OpenFile {
    pub(super) node: Arc<Node>,
    pub(super) fd: OwnedFd,
    pub(super) writable: bool,
    /// Written to since the last word about it.
    dirty: AtomicBool,
    /// The first failure of a write, to be told once more on closing.
    failure: AtomicI32,
    /// Set when the kernel serves this file: writes then pass us by.
    lent: Option<Lent>,
    opened: SystemTime,
    mapped: Arc<Mapped>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.lent = None;
        if self.node.openings.close() {
            self.mapped.closed(&self.node);
        }
    }
}

impl OpenFile {
    /// A file that the kernel may have written is told of when it is closed, however coarse the times of its file system.
    fn assume_dirty(&self) {
        if self.lent.is_some() {
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    fn failed(&self, error: Errno) -> Errno {
        if matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::IO) {
            self.failure.store(error.raw_os_error(), Ordering::Relaxed);
        }
        error
    }
}

/// Flags that are ours to decide, not the caller's.
const OUR_FLAGS: OFlags = OFlags::CREATE
    .union(OFlags::EXCL)
    .union(OFlags::NOCTTY)
    .union(OFlags::DIRECT)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::TRUNC);

impl OwnTree {
    /// What the underlying file is opened with, for a program that asked for `flags`.
    fn open_flags(&self, flags: u32) -> OFlags {
        let mut flags = OFlags::from_bits_retain(flags) - OUR_FLAGS;
        if self.writeback {
            // The kernel fills and appends pages itself, so it must be able to read and to write anywhere.
            if flags.contains(OFlags::WRONLY) {
                flags = (flags - OFlags::WRONLY) | OFlags::RDWR;
            }
            flags -= OFlags::APPEND;
        }
        flags | OFlags::CLOEXEC
    }

    fn opened(
        &self,
        node: Arc<Node>,
        fd: OwnedFd,
        flags: OFlags,
        dirty: bool,
        keep_cache: bool,
        lend: Lend<'_>,
    ) -> Opened {
        let writable = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        let lent = node.openings.open(lend, fd.as_fd());
        let shown = lent.clone();
        let stale = lent.is_some() && flags.contains(OFlags::RDWR) && self.mapped.opened(&node);
        let mapped = self.mapped.clone();
        let (dirty, failure) = (AtomicBool::new(dirty), AtomicI32::new(0));
        let opened = SystemTime::now();
        // Of a file that the kernel writes by itself no failure is known here that the program was not told, and who wants to know
        // what became of its bytes asks the open files.
        let no_flush = !writable || lent.is_some();
        let handle = self.files.insert(OpenFile { node, fd, writable, dirty, failure, lent, opened, mapped });
        Opened { handle, keep_cache, direct: false, no_flush, lent: shown, stale }
    }

    pub(crate) fn open_file(&self, id: u64, flags: u32, lend: Lend<'_>) -> Result<Opened, Errno> {
        let node = self.nodes.find(id)?;
        if node.kind != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let flags = self.open_flags(flags);
        let fd = match self.nodes.open_at(&node, flags) {
            // No name is left, but the kernel still knows it.
            Err(Errno::STALE) => {
                let path = self.nodes.fd(&node)?;
                rustix::fs::openat(&self.descriptors, number(&path), flags, Mode::empty())?
            }
            other => other?,
        };
        let stamp = Stamp::from(&rustix::fs::fstat(&fd)?);
        let before = lock(&node.stamp).replace(stamp);
        let keep_cache = before.is_none_or(|before| before == stamp);
        Ok(self.opened(node, fd, flags, false, keep_cache, lend))
    }

    pub(crate) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        flags: u32,
        mode: u32,
        caller: Caller,
        lend: Lend<'_>,
    ) -> Result<(Entry, Opened), Errno> {
        self.check_name(parent, name)?;
        let parent = self.nodes.find(parent)?;
        let dir = self.nodes.fd(&parent)?;
        let asked = OFlags::from_bits_retain(flags);
        let own = self.open_flags(flags) | OFlags::NOFOLLOW;
        let mode_bits = Mode::from_raw_mode(mode & PERMISSIONS);
        // Whether it is new decides who owns it.
        let (fd, new) = match rustix::fs::openat(&*dir, name, own | OFlags::CREATE | OFlags::EXCL, mode_bits) {
            Ok(fd) => (fd, true),
            Err(Errno::EXIST) if !asked.contains(OFlags::EXCL) => {
                (rustix::fs::openat(&*dir, name, own | (asked & OFlags::TRUNC), Mode::empty())?, false)
            }
            Err(error) => return Err(error),
        };
        if new {
            self.give(&dir, name, Some(&fd), mode, caller)?;
        }
        let stat = rustix::fs::fstat(&fd)?;
        let node = self.nodes.intern(&parent, name.as_bytes(), &stat);
        *lock(&node.stamp) = Some((&stat).into());
        let opened = self.opened(node.clone(), fd, own, true, new, lend);
        // Nothing can be stored to an empty file through a map, and once it grows the kernel asks again.
        let kept = if new { KEPT } else { self.kept(&node) };
        let entry = Entry { node: node.id, attr: Attr::from(&stat), kept };
        if !own.intersects(OFlags::WRONLY | OFlags::RDWR) {
            self.changed_in(&parent, name, Reach::Here);
        }
        Ok((entry, opened))
    }

    /// Makes a file without a name (`O_TMPFILE`), which a later link may give it.
    pub(crate) fn create_nameless(
        &self,
        parent: u64,
        flags: u32,
        mode: u32,
        caller: Caller,
        lend: Lend<'_>,
    ) -> Result<(Entry, Opened), Errno> {
        let parent = self.nodes.find(parent)?;
        let dir = self.nodes.fd(&parent)?;
        let own = self.open_flags(flags);
        // O_EXCL here means "never to be linked".
        let tmp = own | OFlags::TMPFILE | (OFlags::from_bits_retain(flags) & OFlags::EXCL);
        let fd = rustix::fs::openat(&*dir, ".", tmp, Mode::from_raw_mode(mode & PERMISSIONS))?;
        self.give(&dir, OsStr::new(""), Some(&fd), mode, caller)?;
        let stat = rustix::fs::fstat(&fd)?;
        let path = rustix::fs::openat(&self.descriptors, number(&fd), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let node = self.nodes.intern_nameless(path, &stat);
        let opened = self.opened(node.clone(), fd, own, false, true, lend);
        Ok((Entry { node: node.id, attr: Attr::from(&stat), kept: KEPT }, opened))
    }

    /// Fills `buffer` from `offset`; fewer bytes only at the end of the file.
    pub(crate) fn read(&self, handle: u64, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let file = self.files.find(handle)?;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&file.fd, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(Errno::INTR) => {}
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Changes a file's content. Where the kernel gathers writes it keeps the times, too, and tells them by themselves: those of
    /// its late writes are not the file's.
    fn changing<T>(&self, file: &OpenFile, change: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        if !self.writeback {
            return change();
        }
        let turn = lock(&file.node.times);
        let before = rustix::fs::fstat(&file.fd)?;
        let done = change();
        let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let modified = Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec as i64 };
        let kept = Timestamps { last_access: omitted, last_modification: modified };
        rustix::fs::futimens(&file.fd, &kept)?;
        drop(turn);
        done
    }

    /// Writes `data` at `offset`; fewer bytes than given only when the disk takes no more.
    pub(crate) fn write(&self, handle: u64, offset: u64, data: &[u8], kill_privileges: bool) -> Result<usize, Errno> {
        let file = self.files.find(handle)?;
        let done = self.changing(&file, || Self::write_all(&file, offset, data))?;
        if kill_privileges {
            self.kill_privileges(&file.node)?;
        }
        file.dirty.store(true, Ordering::Relaxed);
        Ok(done)
    }

    fn write_all(file: &OpenFile, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pwrite(&file.fd, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(Errno::INTR) => {}
                Err(error) => {
                    let error = file.failed(error);
                    if done == 0 {
                        return Err(error);
                    }
                    break;
                }
            }
        }
        Ok(done)
    }

    /// A descriptor of the open file was closed: tells what a write before it failed of.
    pub(crate) fn flush(&self, handle: u64) -> Result<(), Errno> {
        let file = self.files.find(handle)?;
        file.assume_dirty();
        self.tell(&file);
        match file.failure.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            failure => Err(Errno::from_raw_os_error(failure)),
        }
    }

    pub(crate) fn sync_file(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        let file = self.files.find(handle)?;
        let done = if data_only { rustix::fs::fdatasync(&file.fd) } else { rustix::fs::fsync(&file.fd) };
        self.tell(&file);
        done.map_err(|error| file.failed(error))
    }

    pub(crate) fn close_file(&self, handle: u64) {
        if let Ok(file) = self.files.find(handle) {
            file.assume_dirty();
            // Through a map of it programs write for as long as they like after the one time that its times tell of.
            if file.writable && file.lent.is_some() {
                self.swarm.rewritten(file.node.key.numbers(), file.opened);
            }
            // Before it is out of the table, where it is asked.
            self.tell(&file);
            self.files.remove(handle);
            let node = file.node.clone();
            drop(file);
            if self.mapped.holds(node.key) {
                self.end_mapped(&node);
            }
        }
    }

    /// Whether nothing can store to the file any more; then it is not looked at any longer.
    fn end_mapped(&self, node: &Arc<Node>) {
        let file = if node.openings.are_any() { None } else { self.nodes.open_at(node, OFlags::RDONLY).ok() };
        if file.is_some_and(|file| !lease::has_writers(file.as_fd())) {
            // The last stores may have come since the last look.
            self.tell_node(node);
            self.mapped.ended(node);
        }
    }

    /// Says that the file changed, if it did since the last time.
    fn tell(&self, file: &OpenFile) {
        if !file.writable {
            return;
        }
        // Held until the word is out: who asks meanwhile would take what was told before for all there is.
        let mut stamp = lock(&file.node.stamp);
        let written = file.dirty.swap(false, Ordering::Relaxed);
        if !written && file.lent.is_none() {
            return;
        }
        let Ok(stat) = rustix::fs::fstat(&file.fd) else { return };
        let now = Stamp::from(&stat);
        // What the kernel wrote by itself shows in the file's times alone.
        if stamp.replace(now) != Some(now) || written {
            self.changed_node(&file.node, stat.st_nlink);
        }
    }

    /// Says that the file changed, if its times show it.
    pub(super) fn tell_node(&self, node: &Arc<Node>) {
        let Ok(stat) = self.nodes.stat(node) else { return };
        let now = Stamp::from(&stat);
        let mut stamp = lock(&node.stamp);
        if stamp.replace(now) != Some(now) {
            self.changed_node(node, stat.st_nlink);
        }
    }

    /// Says which files changed among those still open.
    pub(crate) fn tell_open(&self) {
        self.files.all().iter().for_each(|file| self.tell(file));
    }

    /// Says which files changed among those still open or mapped; to be called every second or so.
    pub(crate) fn tell_all(&self) {
        self.tell_open();
        self.mapped.all().iter().for_each(|node| {
            self.tell_node(node);
            self.end_mapped(node);
        });
    }

    pub(crate) fn allocate(&self, handle: u64, offset: u64, len: u64, mode: u32) -> Result<(), Errno> {
        let file = self.files.find(handle)?;
        let mode = FallocateFlags::from_bits_retain(mode);
        self.changing(&file, || rustix::fs::fallocate(&file.fd, mode, offset, len))
            .map_err(|error| file.failed(error))?;
        file.dirty.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Finds data (`SEEK_DATA`, 3) or a hole (`SEEK_HOLE`, 4).
    pub(crate) fn seek(&self, handle: u64, offset: u64, whence: u32) -> Result<u64, Errno> {
        let file = self.files.find(handle)?;
        let from = match whence {
            3 => SeekFrom::Data(offset),
            4 => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        rustix::fs::seek(&file.fd, from)
    }

    pub(crate) fn copy_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<usize, Errno> {
        let (source, target) = (self.files.find(from.0)?, self.files.find(to.0)?);
        let (mut offset_from, mut offset_to) = (from.1, to.1);
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
        let (input, output) = (source.fd.as_fd(), target.fd.as_fd());
        let copied = self.changing(&target, || {
            rustix::fs::copy_file_range(input, Some(&mut offset_from), output, Some(&mut offset_to), len)
        });
        let copied = copied.map_err(|error| target.failed(error))?;
        target.dirty.store(true, Ordering::Relaxed);
        Ok(copied)
    }
}
