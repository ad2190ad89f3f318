//! Who holds a mount: read from /proc alone, so that a mount that no longer answers is no hindrance.

use crate::fuse::{self, Mounted};
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long the look for holders of a mount that cannot be seen may take: its file system is asked what it is.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// What the kernel calls FUSE where it gives kinds of file systems as numbers.
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;

/// Every tornet mount that this process sees, in the order of mounting.
pub(super) fn mounts() -> io::Result<Vec<Mounted>> {
    Ok(fuse::table()?.into_iter().filter(Mounted::is_ours).collect())
}

/// A process that holds a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its number.
    pub(super) pid: u32,
    /// Its name.
    name: String,
    /// How it holds it.
    how: String,
    /// Whether it has a file open for writing.
    pub(super) writes: bool,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {}) {}", crate::base::text::escape(self.name.as_bytes()), self.pid, self.how)
    }
}

/// Processes that hold `mount`, as far as this user may look.
pub(super) fn holders(mount: &Mounted) -> Vec<Holder> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = BTreeMap::new();
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        // What this process holds it has from the shell that started it, which is named.
        if let Some(pid) = pid.filter(|pid| *pid != std::process::id())
            && let Some(holder) = holder(pid, &entry.path(), mount)
        {
            found.insert(pid, holder);
        }
    }
    found.into_values().collect()
}

fn holder(pid: u32, dir: &Path, mount: &Mounted) -> Option<Holder> {
    let name = || fs::read_to_string(dir.join("comm")).unwrap_or_default().trim_end().to_string();
    let inside = |link: &str| fs::read_link(dir.join(link)).is_ok_and(|path| path.starts_with(&mount.point));
    let mut open = None;
    for entry in fs::read_dir(dir.join("fdinfo")).into_iter().flatten().flatten() {
        let Ok(info) = fs::read_to_string(entry.path()) else { continue };
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("mnt_id:").and_then(|id| id.parse::<u64>().ok()) != Some(mount.id) {
            continue;
        }
        let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok()).unwrap_or(0);
        let path = fs::read_link(dir.join("fd").join(entry.file_name())).unwrap_or_default();
        let path = crate::base::text::escape(path.as_os_str().as_bytes()).to_string();
        if flags & 0o3 != 0 {
            return Some(Holder { pid, name: name(), how: format!("is writing {path}"), writes: true });
        }
        open = Some(format!("has {path} open"));
    }
    let how = open
        .or_else(|| inside("cwd").then(|| "has its working directory there".to_string()))
        .or_else(|| inside("root").then(|| "has its root directory there".to_string()))
        .or_else(|| inside("exe").then(|| "was started from there".to_string()))
        .or_else(|| maps(dir, mount).then(|| "has a file mapped from there".to_string()))?;
    Some(Holder { pid, name: name(), how, writes: false })
}

/// Processes that hold a mount which is in no mount table any more (`umount -l`), as far as this user may look.
pub(super) fn holders_unseen() -> Vec<Holder> {
    let (sender, found) = mpsc::channel();
    // A mount that does not answer holds the thread, and not this process.
    std::thread::spawn(move || {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            if let Some(holder) = pid.and_then(|pid| holder_unseen(pid, &entry.path())) {
                let _ = sender.send(holder);
            }
        }
    });
    let until = Instant::now() + LOOK_MAX;
    std::iter::from_fn(|| found.recv_timeout(until.saturating_duration_since(Instant::now())).ok()).collect()
}

fn holder_unseen(pid: u32, dir: &Path) -> Option<Holder> {
    let table = fs::read_to_string(dir.join("mountinfo")).ok()?;
    let seen: BTreeSet<&str> = table.lines().filter_map(|line| line.split(' ').next()).collect();
    let unseen = |info: &str| {
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        id.is_some_and(|id| !seen.contains(id.trim()))
    };
    let holder = |how: String| {
        let name = fs::read_to_string(dir.join("comm")).unwrap_or_default().trim_end().to_string();
        Holder { pid, name, how, writes: false }
    };
    for entry in fs::read_dir(dir.join("fdinfo")).ok()?.flatten() {
        let link = dir.join("fd").join(entry.file_name());
        let path = fs::read_link(&link).unwrap_or_default();
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        // Pipes and the like lie in no mount either, and have no path.
        if path.is_absolute() && unseen(&info) && is_fuse(&link) {
            return Some(holder(format!("has {} open", crate::base::text::escape(path.as_os_str().as_bytes()))));
        }
    }
    // Opened for its place alone, which asks no file system.
    let there = rustix::fs::open(dir.join("cwd"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", there.as_raw_fd())).unwrap_or_default();
    let inside = unseen(&info) && is_fuse(&dir.join("cwd"));
    inside.then(|| holder("has its working directory there".to_string()))
}

fn is_fuse(link: &Path) -> bool {
    rustix::fs::statfs(link).is_ok_and(|stat| stat.f_type as u64 == FUSE_SUPER_MAGIC)
}

fn maps(dir: &Path, mount: &Mounted) -> bool {
    let Some((major, minor)) = mount.device.split_once(':') else { return false };
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else { return false };
    // address perms offset dev inode path
    let device = format!("{major:02x}:{minor:02x}");
    fs::read(dir.join("maps"))
        .unwrap_or_default()
        .split(|b| *b == b'\n')
        .any(|line| line.split(|b| *b == b' ').filter(|field| !field.is_empty()).nth(3) == Some(device.as_bytes()))
}

/// The tornet mount in which `path` lies, or would lie when it is made. `path` is absolute.
pub(super) fn around(path: &Path) -> io::Result<Option<PathBuf>> {
    // Links are followed as far as there is something; what is not there yet has none.
    let there = path.ancestors().find_map(|above| above.canonicalize().ok()).unwrap_or_default();
    Ok(mounts()?.into_iter().map(|mount| mount.point).rfind(|point| there.starts_with(point)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_an_open_file_is_named() {
        let table = fuse::table().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let mount = table
            .iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.as_os_str().len());
        let file = fs::File::create(path.join("held")).unwrap();
        let own = holder(std::process::id(), Path::new("/proc/self"), mount.unwrap()).unwrap();
        assert!(own.writes, "{own}");
        drop(file);
    }
}
