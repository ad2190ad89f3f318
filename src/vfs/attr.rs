//! What is told and asked about a file: attributes, entries, changes, space; free of any kernel interface's layout.

use std::time::Duration;

use rustix::fs::{FileType, Stat};

use super::backing::Lent;
use crate::base::time::Timestamp;

/// How long the kernel may keep what only we change: in effect for ever, as every change passes the kernel first.
pub const KEPT: Duration = Duration::from_secs(1 << 30);

/// The permission bits, with set-user-id, set-group-id and sticky.
pub(crate) const PERMISSIONS: u32 = 0o7777;

/// On whose behalf an operation is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// The calling thread; 0 when it is not visible from here.
    pub pid: u32,
}

/// Attributes of one file, as `stat` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number shown to programs.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Kind and permissions, as in `st_mode`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of a device, as the kernel's interface has it: 12 bits major, 20 bits minor, the minor's low 8 bits lowest.
    pub rdev: u32,
    /// Preferred size of requests.
    pub blksize: u32,
}

impl Attr {
    /// The kind of file in `mode`.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

impl From<&Stat> for Attr {
    fn from(stat: &Stat) -> Attr {
        let time = |seconds: i64, nanos: u64| Timestamp { seconds, nanos: nanos.min(999_999_999) as u32 };
        Attr {
            ino: stat.st_ino,
            size: stat.st_size.max(0) as u64,
            blocks: stat.st_blocks.max(0) as u64,
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            mode: stat.st_mode,
            nlink: stat.st_nlink.min(u64::from(u32::MAX)) as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: narrow_device(stat.st_rdev),
            blksize: stat.st_blksize.clamp(512, 1 << 20) as u32,
        }
    }
}

/// A device number in the 32 bits of the kernel's interface.
fn narrow_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// The way back.
pub(super) fn wide_device(device: u32) -> u64 {
    rustix::fs::makedev(device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

/// A name found: its node and attributes, and how long the kernel may keep both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node's number towards the kernel; never used twice for different files.
    pub node: u64,
    /// Its attributes.
    pub attr: Attr,
    /// For how long name and attributes hold.
    pub kept: Duration,
}

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The name and what it leads to.
    Found(Entry),
    /// No such name, and none will appear for this long without passing through here.
    Missing(Duration),
}

/// A moment asked for in a change of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The moment of the change.
    Now,
    /// This moment.
    At(Timestamp),
}

/// The changes of attributes asked for in one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// New permissions.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New time of access.
    pub atime: Option<SetTime>,
    /// New time of change.
    pub mtime: Option<SetTime>,
    /// The open file it is asked through, if any.
    pub handle: Option<u64>,
    /// Set-user-id and set-group-id are to be dropped, as a write does.
    pub kill_privileges: bool,
}

/// A file that was opened.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// The handle for later operations.
    pub handle: u64,
    /// Pages that the kernel holds of this file are still true.
    pub keep_cache: bool,
    /// Reads and writes pass by the kernel's cache (files without a size).
    pub direct: bool,
    /// Closing needs no word to us.
    pub no_flush: bool,
    /// The kernel reads and writes the file by itself, by this registration.
    pub lent: Option<Lent>,
    /// What the kernel knows of the file's attributes may no longer be relied on, as the file can be mapped from now on.
    pub stale: bool,
}

/// Space of the file system, in the terms of `statvfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Blocks that ordinary users may take.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Bytes per block.
    pub block_bytes: u32,
    /// Longest name in bytes.
    pub name_bytes_max: u32,
}

/// One name in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// Inode number shown to programs.
    pub ino: u64,
    /// Where a listing goes on after this name.
    pub offset: u64,
    /// Kind of file.
    pub kind: FileType,
    /// The name.
    pub name: &'a [u8],
    /// Its node and attributes, where they were asked for and are at hand.
    pub entry: Option<Entry>,
}

/// Where a listing is written to, of limited size.
pub trait Listing: Send + 'static {
    /// Attributes are wanted with each name.
    fn wants_attributes(&self) -> bool;
    /// Adds an item; false when it does not fit any more.
    fn add(&mut self, item: &Item<'_>) -> bool;
}
