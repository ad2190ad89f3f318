//! The system's mount table as this process sees it, read from /proc alone, so that a mount that does not answer is no hindrance.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The kernel's name of our kind of file system.
pub(super) const KIND: &str = "fuse.tornet";

/// What our mounts are called in the table.
pub(super) const SOURCE: &str = "tornet";

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The kernel's number of it.
    pub id: u64,
    /// Device numbers of its file system as `major:minor`.
    pub device: String,
    /// Which directory of the file system is to be seen there; its top is `/`.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    kind: String,
    source: OsString,
}

impl Mounted {
    /// Whether it is a tornet mount.
    pub fn is_ours(&self) -> bool {
        self.kind == KIND || (self.kind == "fuse" && self.source == SOURCE)
    }
}

/// All mounts that this process sees, in the order of mounting.
pub fn table() -> io::Result<Vec<Mounted>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that is to be seen exactly at `point`: the topmost one.
pub fn find<'a>(mounts: &'a [Mounted], point: &Path) -> Option<&'a Mounted> {
    mounts.iter().rev().find(|mount| mount.point.as_os_str().as_bytes() == point.as_os_str().as_bytes())
}

fn parse(table: &[u8]) -> Vec<Mounted> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [FIELD...] - KIND SOURCE OPTIONS`, as proc(5) has it.
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8(field.to_vec()).ok();
    let id = text(fields.next()?)?.parse().ok()?;
    let device = text(fields.nth(1)?)?;
    let root = PathBuf::from(unescape(fields.next()?));
    let point = PathBuf::from(unescape(fields.next()?));
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mounted { id, device, root, point, kind: text(rest.next()?)?, source: unescape(rest.next()?) })
}

/// Undoes the kernel's `\040` for characters that would break its lines.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten().and_then(|digits| {
            digits.iter().try_fold(0u8, |value, digit| match digit {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(digit - b'0'),
                _ => None,
            })
        });
        match code {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_with_its_escapes() {
        let table = b"22 1 0:21 / /proc rw,nosuid - proc proc rw\n\
            99 22 0:44 / /mnt/my\\040net rw,nosuid,nodev shared:1 master:2 - fuse.tornet tornet rw,user_id=0\n\
            100 22 0:44 /photos /srv/p rw - fuse.tornet tornet rw\nnonsense\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 3);
        let ours: Vec<_> = mounts.iter().filter(|mount| mount.is_ours()).collect();
        assert_eq!(ours.len(), 2);
        assert_eq!((ours[0].id, ours[0].device.as_str()), (99, "0:44"));
        assert_eq!(ours[1].root, Path::new("/photos"));
        assert_eq!(find(&mounts, Path::new("/mnt/my net")).map(|mount| mount.id), Some(99));
    }
}
