//! Reading files and directories that may change meanwhile.

use super::SealError;
use crate::base::limit::{PACKED_BYTES_MAX, XATTRS_BYTES_MAX};
use crate::content::build::travelling_xattrs;
use crate::content::directory::{Xattrs, xattr_travels};
use crate::engine::record::{self, Stamp};
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longer than the clock that stamps files takes from tick to tick (10 ms at most on Linux).
pub(super) const TICK: Duration = Duration::from_millis(20);

/// Something that was removed while the tree was read is no failure.
pub(super) fn gone<T>(path: &Path, error: std::io::Error) -> Result<Option<T>, SealError> {
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(None),
        _ => Err(SealError::read(path, error)),
    }
}

/// What was a file a moment ago is gone, or something else stands there.
pub(super) fn replaced(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Waits until a change of the file would show in its stamp. File systems take times from a clock that ticks every few
/// milliseconds: of two changes within one tick the second leaves the stamp as it is, and would be missed for ever by
/// somebody who read the file between them.
pub(super) fn wait_for_tick(stamp: &Stamp) {
    let left = tick_left(stamp, SystemTime::now());
    if !left.is_zero() {
        std::thread::sleep(left);
    }
}

pub(super) fn tick_left(stamp: &Stamp, now: SystemTime) -> Duration {
    let (seconds, nanos) = stamp.changed;
    let Ok(now) = now.duration_since(UNIX_EPOCH) else { return Duration::ZERO };
    let changed = Duration::new(u64::try_from(seconds).unwrap_or(0), nanos);
    match now.checked_sub(changed) {
        Some(age) => TICK.saturating_sub(age),
        // A clock that was set back; how long it takes to catch up is not known.
        None => TICK,
    }
}

/// The names in a directory, in the order that the format wants.
pub(super) fn list(path: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// A short file's bytes; `None` when it is not any more what `metadata` says.
pub(super) fn read_short(
    path: &Path,
    metadata: &Metadata,
    make_clean: impl FnOnce(&File) -> std::io::Result<()>,
) -> std::io::Result<Option<Vec<u8>>> {
    let stamp = Stamp::of(metadata);
    wait_for_tick(&stamp);
    let file = match open(path) {
        Err(error) if replaced(&error) => return Ok(None),
        other => other?,
    };
    make_clean(&file)?;
    let mut bytes = Vec::with_capacity(stamp.size as usize + 1);
    (&file).take(PACKED_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    let same = record::inode_key(&after) == record::inode_key(metadata) && Stamp::of(&after) == stamp;
    Ok((same && bytes.len() as u64 == stamp.size).then_some(bytes))
}

/// So many bytes from there on, into memory that is not zeroed first.
pub(super) fn read_exact(file: &File, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Whether nothing is stored of these bytes, which read as zeros then. A file system that cannot tell has no holes.
pub(super) fn is_hole(file: &File, offset: u64, len: u64) -> bool {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => data >= offset.saturating_add(len),
        // No data from here to the end.
        Err(error) => error == rustix::io::Errno::NXIO,
    }
}

/// The extended attributes that travel; a file system that has none is as good as a file without.
pub(super) fn xattrs(path: &Path) -> Xattrs {
    let mut names = [0u8; 4096];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else { return Xattrs::new() };
    let names = names.get(..len).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let wanted = names.filter(|name| xattr_travels(name));
    let all = wanted.filter_map(|name| {
        let mut value = [0u8; XATTRS_BYTES_MAX];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
        Some((name.to_vec(), value.get(..len)?.to_vec()))
    });
    travelling_xattrs(all)
}

/// Opens for reading without following a link in the last place, and without waiting for a writer of a pipe.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    std::fs::OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}
