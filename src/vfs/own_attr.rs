//! The own tree's attributes, plain and extended.

use crate::base::sync::lock;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::attr::{Attr, PERMISSIONS, SetAttr, SetTime};
use super::node::Node;
use super::own::{OwnTree, number};

/// The largest value and list that Linux allows.
const XATTR_BYTES_MAX: usize = 65536;

impl OwnTree {
    pub(crate) fn attr(&self, node: u64, handle: Option<u64>) -> Result<Attr, Errno> {
        if let Some(file) = handle.and_then(|handle| self.files.find(handle).ok()) {
            return Ok(Attr::from(&rustix::fs::fstat(&file.fd)?));
        }
        Ok(Attr::from(&self.nodes.stat(&self.nodes.find(node)?)?))
    }

    pub(crate) fn set_attr(&self, id: u64, set: &SetAttr) -> Result<Attr, Errno> {
        let node = self.nodes.find(id)?;
        let fd = self.nodes.fd(&node)?;
        let turn = lock(&node.times);
        if let Some(mode) = set.mode {
            if node.kind == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            rustix::fs::chmodat(
                &self.descriptors,
                number(&fd),
                Mode::from_raw_mode(mode & PERMISSIONS),
                AtFlags::empty(),
            )?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            let (owner, group) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
            rustix::fs::chownat(&*fd, "", owner, group, AtFlags::EMPTY_PATH)?;
        }
        if let Some(size) = set.size {
            match set.handle.and_then(|handle| self.files.find(handle).ok()).filter(|file| file.writable) {
                Some(file) => rustix::fs::ftruncate(&file.fd, size)?,
                None if node.kind != FileType::RegularFile => return Err(Errno::INVAL),
                None => {
                    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                    let file = rustix::fs::openat(&self.descriptors, number(&fd), flags, Mode::empty())?;
                    rustix::fs::ftruncate(&file, size)?;
                }
            }
            if set.kill_privileges {
                self.kill_privileges(&node)?;
            }
            *lock(&node.stamp) = Some((&rustix::fs::fstat(&*fd)?).into());
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let time = |time: Option<SetTime>| match time {
                None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
                Some(SetTime::At(time)) => Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) },
            };
            let times = Timestamps { last_access: time(set.atime), last_modification: time(set.mtime) };
            rustix::fs::utimensat(&*fd, "", &times, AtFlags::EMPTY_PATH)?;
            *lock(&node.stamp) = Some((&rustix::fs::fstat(&*fd)?).into());
        }
        let stat = rustix::fs::fstat(&*fd)?;
        drop(turn);
        // Times of access are not published.
        if set.mode.or(set.uid).or(set.gid).is_some() || set.size.is_some() || set.mtime.is_some() {
            self.changed_node(&node, stat.st_nlink);
        }
        Ok(Attr::from(&stat))
    }

    /// Drops set-user-id, and set-group-id where it means that, as any write by an ordinary user does.
    pub(super) fn kill_privileges(&self, node: &Arc<Node>) -> Result<(), Errno> {
        let mode = self.nodes.stat(node)?.st_mode;
        let mut kept = mode & !0o4000;
        if mode & 0o010 != 0 {
            kept &= !0o2000;
        }
        if kept != mode {
            let fd = self.nodes.fd(node)?;
            let mode = Mode::from_raw_mode(kept & PERMISSIONS);
            rustix::fs::chmodat(&self.descriptors, number(&fd), mode, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Runs `act` on a path that leads to the node, whatever its name is by now.
    fn with_path<T>(&self, node: u64, act: impl FnOnce(&str) -> Result<T, Errno>) -> Result<T, Errno> {
        let node = self.nodes.find(node)?;
        // The way through /proc would follow a link's target; Linux keeps user attributes off links anyway.
        if node.kind == FileType::Symlink {
            return Err(Errno::PERM);
        }
        let fd = self.nodes.fd(&node)?;
        act(&format!("/proc/self/fd/{}", number(&fd)))
    }

    pub(crate) fn xattr(&self, node: u64, name: &OsStr) -> Result<Vec<u8>, Errno> {
        supported(name)?;
        self.with_path(node, |path| read_growing(|buffer| rustix::fs::getxattr(path, name, buffer)))
            .map_err(|error| if error == Errno::PERM { Errno::NODATA } else { error })
    }

    pub(crate) fn xattrs(&self, node: u64) -> Result<Vec<u8>, Errno> {
        if self.nodes.find(node)?.kind == FileType::Symlink {
            return Ok(Vec::new());
        }
        let mut names = self.with_path(node, |path| read_growing(|buffer| rustix::fs::listxattr(path, buffer)))?;
        // Only what can be read is listed.
        names = names
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| supported(OsStr::from_bytes(name)).is_ok())
            .flatten()
            .copied()
            .collect();
        Ok(names)
    }

    pub(crate) fn set_xattr(&self, node: u64, name: &OsStr, value: &[u8], flags: u32) -> Result<(), Errno> {
        supported(name)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        self.with_path(node, |path| rustix::fs::setxattr(path, name, value, flags))?;
        let node = self.nodes.find(node)?;
        self.changed_node(&node, self.nodes.stat(&node)?.st_nlink);
        Ok(())
    }

    pub(crate) fn remove_xattr(&self, node: u64, name: &OsStr) -> Result<(), Errno> {
        supported(name)?;
        self.with_path(node, |path| rustix::fs::removexattr(path, name))?;
        let node = self.nodes.find(node)?;
        self.changed_node(&node, self.nodes.stat(&node)?.st_nlink);
        Ok(())
    }
}

/// The `utimensat` values for "leave as it is" and "now".
pub(super) const UTIME_OMIT: i64 = (1 << 30) - 2;
const UTIME_NOW: i64 = (1 << 30) - 1;

/// Attributes of the system and its security modules are the mount's business, not the file's; programs take this answer
/// as "none here" and stay quiet, and the kernel asks once only.
pub(super) fn supported(name: &OsStr) -> Result<(), Errno> {
    let name = name.as_bytes();
    if name.starts_with(b"user.") || name.starts_with(b"trusted.") { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

fn read_growing(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < XATTR_BYTES_MAX => buffer.resize(XATTR_BYTES_MAX, 0),
            Err(error) => return Err(error),
        }
    }
}
