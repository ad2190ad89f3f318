//! Copies a published tree out to plain files: many units at once, resumable, checked against the manifest.

use super::bulk::Unit;
use super::error::{ReadError, ReadErrorKind};
use super::missed::{Missed, Missing};
use super::reader::{Body, Child, FileHandle};
use super::start::Engine;
use super::survey::{Counter, Visit, os_name};
use crate::base::digest::ChunkId;
use crate::base::limit::NAME_BYTES_MAX;
use crate::base::sync::lock;
use crate::base::time::Timestamp;
use crate::content::reference::RootRef;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// Units (up to 1 MiB each) that are fetched at once.
const UNITS: usize = 24;
/// Small files that are fetched at once.
const FILES: usize = 32;
/// A file of at most this many bytes is one of many; a larger one is copied by itself.
const SMALL: u64 = 1 << 20;

/// How the names of unfinished copies end.
const PART_END: &str = ".tornet-part";
/// How long one waits for another copy to the same place: one that was broken off ends a moment later.
const OTHER_WAIT: Duration = Duration::from_secs(10);
const OTHER_LOOK: Duration = Duration::from_millis(20);

impl Engine {
    /// Copies what a reference points to, to `dest`: a file becomes the file `dest`, a directory the directory `dest`
    /// (which may exist: what is there already and equal is kept, so an interrupted copy goes on where it stopped). What an
    /// interrupted copy of another tree left there goes when this one is complete; one that fails leaves what it fetched, and nothing else.
    /// What cannot be read of a tree keeps nothing else from being fetched: it is given back.
    pub async fn copy_out(
        &self,
        reference: &RootRef,
        dest: &Path,
        deadline: Duration,
        progress: Arc<Counter>,
    ) -> Result<Vec<Missing>, ReadError> {
        let made = Made::default();
        let missed = Missed::new(deadline, progress.clone());
        self.copy_tree(reference, dest, deadline, progress, &made, &missed).await?;
        lock(&made.0).clear();
        Ok(missed.all())
    }

    async fn copy_tree(
        &self,
        reference: &RootRef,
        dest: &Path,
        deadline: Duration,
        progress: Arc<Counter>,
        made: &Made,
        missed: &Missed,
    ) -> Result<(), ReadError> {
        let small: Mutex<JoinSet<Ended>> = Mutex::default();
        let ended = |done: Option<Result<Ended, JoinError>>| match done {
            Some(Ok((path, pack, Err(error)))) => missed.note(path, pack, error),
            Some(Err(_)) => Err(ReadError::stopped()),
            Some(Ok((_, _, Ok(())))) | None => Ok(()),
        };
        let directories = Mutex::new(Vec::new());
        let files = self.reader().fetcher.at_once(FILES);
        // Unfinished files that were there before, until they turn out to belong to this tree.
        let stale = Mutex::new(BTreeSet::new());
        let walked = self.walk(reference, deadline, async |path, visit| {
            let target = if path.as_os_str().is_empty() { dest.to_path_buf() } else { dest.join(path) };
            lock(&stale).remove(&target);
            match visit {
                Visit::Directory(child) => {
                    let new = make_dir(&target)?;
                    if new {
                        lock(&made.0).push(target.clone());
                    } else {
                        lock(&stale).extend(parts(&target));
                    }
                    if child.is_none() {
                        lock(&stale).insert(part_name(&target));
                    }
                    if new || child.is_some() {
                        lock(&directories).push((target, child.cloned()));
                    }
                    Ok(())
                }
                Visit::Symlink(link, child) => make_link(&target, &link, child),
                Visit::Unreadable(error) => missed.note(path.to_path_buf(), None, error),
                Visit::File(file, child) => {
                    progress.total.fetch_add(file.size(), Ordering::Relaxed);
                    let (engine, child, progress) = (self.clone(), child.cloned(), progress.clone());
                    let (path, pack) = (path.to_path_buf(), pack(&file));
                    if file.size() > SMALL {
                        let copied = engine.copy_file(file, child, target, deadline, progress).await;
                        return copied.or_else(|error| missed.note(path, pack, error));
                    }
                    if missed.goes_with(&path, pack) {
                        return Ok(());
                    }
                    let mut set = std::mem::take(&mut *lock(&small));
                    set.spawn(
                        async move { (path, pack, engine.copy_file(file, child, target, deadline, progress).await) },
                    );
                    let mut result = Ok(());
                    while result.is_ok() && set.len() >= files {
                        result = ended(set.join_next().await);
                    }
                    *lock(&small) = set;
                    result
                }
            }
        });
        let mut result = walked.await;
        let mut set = std::mem::take(&mut *lock(&small));
        while result.is_ok() && !set.is_empty() {
            result = ended(set.join_next().await);
        }
        // Those that go on end first: what they made without filling it they take away.
        set.shutdown().await;
        result?;
        let missing = missed.places(dest);
        // Begun copies of what is missing may be among them.
        for path in std::mem::take(&mut *lock(&stale)).into_iter().filter(|_| missing.is_empty()) {
            let _ = std::fs::remove_file(path);
        }
        // Directories that were made for what did not come, and hold nothing else.
        let mut idle: Vec<PathBuf> = lock(&made.0).clone();
        idle.retain(|dir| missing.iter().any(|path| path.starts_with(dir)));
        let mut idle: BTreeSet<PathBuf> =
            idle.into_iter().rev().filter(|dir| std::fs::remove_dir(dir).is_ok()).collect();
        // Attributes of directories last, the deepest first: filling a directory changes its time.
        for (path, child) in lock(&directories).iter().rev().filter(|(path, _)| !idle.remove(path)) {
            match child {
                Some(child) => set_attributes(path, child),
                // A reference says nothing of its top's permissions: like those of a file.
                None => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)),
            }
            .map_err(|error| local(path, error))?;
        }
        Ok(())
    }

    async fn copy_file(
        &self,
        file: Arc<FileHandle>,
        child: Option<Child>,
        target: PathBuf,
        deadline: Duration,
        progress: Arc<Counter>,
    ) -> Result<(), ReadError> {
        if let Ok(there) = std::fs::symlink_metadata(&target)
            && there.is_file()
            && there.size() == file.size()
            && child
                .as_ref()
                .is_some_and(|c| (c.mtime.seconds, i64::from(c.mtime.nanos)) == (there.mtime(), there.mtime_nsec()))
        {
            progress.done.fetch_add(file.size(), Ordering::Relaxed);
            return Ok(());
        }
        if let Ok(there) = std::fs::symlink_metadata(&target)
            && !there.is_file()
            && !there.is_symlink()
        {
            let what = if there.is_dir() {
                "it is a directory; name a file in it"
            } else {
                "it is a device, pipe or socket, which is not replaced by a file"
            };
            return Err(local(&target, what));
        }
        let part = Arc::new(Part::open(&target, file.size()).await?);
        let mut set = JoinSet::new();
        let mut filled = self.fill(&file, &part, deadline, &progress, &mut set).await;
        while filled.is_ok() && !set.is_empty() {
            filled = joined(set.join_next().await);
        }
        set.shutdown().await;
        filled.map_err(|error| part.remembered(error))?;
        let (executable, shown) = (file.executable(), target.clone());
        let finish = move || -> std::io::Result<()> {
            match &child {
                Some(child) => set_attributes(&part.path, child)?,
                None => {
                    let mode = if executable { 0o755 } else { 0o644 };
                    std::fs::set_permissions(&part.path, std::fs::Permissions::from_mode(mode))?;
                }
            }
            part.filled.store(true, Ordering::Relaxed);
            std::fs::rename(&part.path, &target)
        };
        tokio::task::spawn_blocking(finish)
            .await
            .map_err(|_| ReadError::stopped())?
            .map_err(|error| local(&shown, error))
    }

    /// Fetches the file's units into its unfinished copy; the last of them are still under way in `set` when this returns.
    async fn fill(
        &self,
        file: &Arc<FileHandle>,
        part: &Arc<Part>,
        deadline: Duration,
        progress: &Arc<Counter>,
        set: &mut JoinSet<Result<(), ReadError>>,
    ) -> Result<(), ReadError> {
        let reader = self.reader().clone();
        let units = reader.fetcher.at_once(UNITS);
        let mut at = 0;
        while at < file.size() {
            let until = Instant::now() + deadline;
            let unit = reader.unit_at(file, at, until).await?;
            at += unit.len;
            let (reader, file, part, progress) = (reader.clone(), file.clone(), part.clone(), progress.clone());
            set.spawn(async move {
                let len = unit.len;
                if part.had >= unit.offset + len && kept(&part, &unit).await {
                    progress.done.fetch_add(len, Ordering::Relaxed);
                    return Ok(());
                }
                let offset = unit.offset;
                let bytes = reader.read_bulk(&file, offset..offset + len, Instant::now() + deadline).await?;
                part.filled.store(true, Ordering::Relaxed);
                let output = part.clone();
                tokio::task::spawn_blocking(move || output.file.write_all_at(&bytes, offset))
                    .await
                    .map_err(|_| ReadError::stopped())?
                    .map_err(|error| local(&part.path, error))?;
                progress.done.fetch_add(len, Ordering::Relaxed);
                Ok(())
            });
            while set.len() >= units {
                joined(set.join_next().await)?;
            }
        }
        Ok(())
    }
}

/// How the copy of a small file ended: its place in the tree, its pack.
type Ended = (PathBuf, Option<ChunkId>, Result<(), ReadError>);

/// What names the pack that a file lies in.
fn pack(file: &FileHandle) -> Option<ChunkId> {
    let Body::Packed { pack, .. } = &file.body else { return None };
    pack.data.first().map(|chunk| chunk.id)
}

/// Directories that a copy made. Those of them in which nothing is go with it, unless it succeeds.
#[derive(Default)]
struct Made(Mutex<Vec<PathBuf>>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in lock(&self.0).iter().rev() {
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// An unfinished copy of a file, new or left by an earlier run. It stays for the next run unless nothing came for it.
struct Part {
    path: PathBuf,
    file: File,
    /// Its length when it was opened.
    had: u64,
    filled: AtomicBool,
}

impl Part {
    async fn open(target: &Path, size: u64) -> Result<Part, ReadError> {
        let path = part_name(target);
        let (file, had) = open_alone(&path).await?;
        let part = Part { path, file, had, filled: AtomicBool::new(had > 0) };
        part.file.set_len(size).map_err(|error| local(&part.path, error))?;
        Ok(part)
    }

    /// Tells where what came until then is.
    fn remembered(&self, error: ReadError) -> ReadError {
        if !self.filled.load(Ordering::Relaxed) {
            return error;
        }
        let kept =
            format!("what came so far is kept in {}, and the same command goes on from there", self.path.display());
        ReadError::new(error.kind, format!("{}; {kept}", error.detail))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.filled.load(Ordering::Relaxed) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn joined(result: Option<Result<Result<(), ReadError>, tokio::task::JoinError>>) -> Result<(), ReadError> {
    result.unwrap_or(Ok(Ok(()))).map_err(|_| ReadError::stopped())?
}

/// Whether an interrupted copy left these bytes, right to the last bit: they seal to the chunk's name.
async fn kept(part: &Arc<Part>, unit: &Unit) -> bool {
    let (part, unit) = (part.clone(), unit.clone());
    let check = move || {
        let mut plain = vec![0; unit.len as usize];
        part.file.read_exact_at(&mut plain, unit.offset).is_ok() && unit.matches(plain)
    };
    tokio::task::spawn_blocking(check).await.unwrap_or(false)
}

fn part_name(target: &Path) -> PathBuf {
    let whole = target.file_name().unwrap_or_default();
    let mut name = std::ffi::OsString::from(".");
    name.push(whole);
    name.push(PART_END);
    if name.len() > NAME_BYTES_MAX {
        // The same on every run, or an interrupted copy would not be found again.
        name = format!(".{:.32}{PART_END}", ChunkId::of(whole.as_encoded_bytes())).into();
    }
    target.with_file_name(name)
}

/// The unfinished copies in a directory.
fn parts(directory: &Path) -> Vec<PathBuf> {
    let unfinished = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        name.starts_with(b".")
            && name.ends_with(PART_END.as_bytes())
            && entry.file_type().is_ok_and(|kind| kind.is_file())
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(unfinished).map(|entry| entry.path()).collect()
}

/// Opens the unfinished copy once nobody else writes to it; with its length.
async fn open_alone(path: &Path) -> Result<(File, u64), ReadError> {
    let until = Instant::now() + OTHER_WAIT;
    loop {
        let file = open_part(path).map_err(|error| local(path, error))?;
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        if locked == Err(Errno::WOULDBLOCK) {
            if Instant::now() >= until {
                return Err(local(path, "another command is writing to it: wait for its end, or name another place"));
            }
            tokio::time::sleep(OTHER_LOOK).await;
            continue;
        }
        let mine = file.metadata().map_err(|error| local(path, error))?;
        let there = std::fs::symlink_metadata(path);
        // Who had it before may have finished it, or taken it away. Where there are no locks one does without.
        if locked.is_err() || there.is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino())) {
            return Ok((file, mine.len()));
        }
    }
}

/// Opens the unfinished copy, new or left by an earlier run; never through a symbolic link.
fn open_part(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?))
}

/// Whether it had to be made.
fn make_dir(path: &Path) -> Result<bool, ReadError> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let there = std::fs::symlink_metadata(path).map_err(|error| local(path, error))?;
            if there.is_dir() { Ok(false) } else { Err(local(path, "something that is no directory is in the way")) }
        }
        other => other.map(|()| true).map_err(|error| local(path, error)),
    }
}

fn make_link(path: &Path, target: &[u8], child: &Child) -> Result<(), ReadError> {
    match std::os::unix::fs::symlink(os_name(target), path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let same = std::fs::read_link(path).is_ok_and(|there| there.as_os_str() == os_name(target));
            if !same {
                return Err(local(path, "something else of that name is in the way"));
            }
        }
        other => other.map_err(|error| local(path, error))?,
    }
    set_times(path, child.mtime).map_err(|error| local(path, error))
}

fn set_attributes(path: &Path, child: &Child) -> std::io::Result<()> {
    for (name, value) in &child.xattrs {
        // A file system without attributes still takes the file.
        let _ = rustix::fs::lsetxattr(path, os_name(name), value, XattrFlags::empty());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(u32::from(child.mode)))?;
    set_times(path, child.mtime)
}

fn set_times(path: &Path, time: Timestamp) -> std::io::Result<()> {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn local(path: &Path, error: impl std::fmt::Display) -> ReadError {
    ReadError::new(ReadErrorKind::Store, format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_waits_for_another_to_the_same_place_and_loses_nothing_to_its_end() {
        let lab = tempfile::tempdir().unwrap();
        let target = lab.path().join("film");
        // The first takes its unfinished file away as it is given up; another finishes.
        for finished in [false, true] {
            let first = Part::open(&target, 9).await.unwrap();
            first.filled.store(finished, Ordering::Relaxed);
            let path = target.clone();
            let second = tokio::spawn(async move { Part::open(&path, 9).await.unwrap() });
            tokio::time::sleep(4 * OTHER_LOOK).await;
            assert!(!second.is_finished());
            if finished {
                std::fs::rename(&first.path, &target).unwrap();
            }
            drop(first);
            let second = second.await.unwrap();
            second.filled.store(true, Ordering::Relaxed);
            std::fs::rename(&second.path, &target).unwrap();
        }
    }
}
