//! The store's folder: private, ours, locked; every file in it is opened relative to it and never through a link.

use super::error::StoreError;
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const PRIVATE_DIR: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::from_raw_mode(0o600);

const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 4 << 20;

/// An open, locked folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    dir: OwnedFd,
    segments: OwnedFd,
    lock: File,
}

impl Drop for Folder {
    /// Closing alone would leave the folder locked as long as a process that is just being started has a copy of the handle.
    fn drop(&mut self) {
        let _ = fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

impl Folder {
    /// Opens or makes the folder and locks it against other processes.
    pub(super) fn open(path: &Path) -> Result<Folder, StoreError> {
        let wrong = |why| StoreError::Folder { folder: path.to_path_buf(), why };
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))
            .map_err(|e| StoreError::io("make", path.display().to_string(), e))?;
        let dir = open_dir(fs::CWD, path)?;
        let stat = fs::fstat(&dir).map_err(|e| StoreError::io("look at", path.display().to_string(), e))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(wrong("it belongs to another user"));
        }
        if stat.st_mode & 0o077 != 0 {
            fs::fchmod(&dir, PRIVATE_DIR)
                .map_err(|e| StoreError::io("close to others", path.display().to_string(), e))?;
        }
        let lock = lock(&dir, path)?;
        let segments = open_dir(dir.as_fd(), Path::new("segments"))?;
        Ok(Folder { path: path.to_path_buf(), dir, segments, lock })
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of segments in it.
    pub(super) fn segments(&self) -> BorrowedFd<'_> {
        self.segments.as_fd()
    }

    /// Opens or makes a file directly in the folder.
    pub(super) fn file(&self, name: &str) -> Result<File, StoreError> {
        open_file(self.dir.as_fd(), name, OFlags::CREATE)
    }

    /// Whether the folder has such a file.
    pub(super) fn has(&self, name: &str) -> bool {
        fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Moves a file of the folder out of the way, if it is there.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), StoreError> {
        match fs::renameat(&self.dir, from, &self.dir, to) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(StoreError::io("rename", from, e)),
        }
    }

    /// Removes a file of the folder, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        match fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(StoreError::io("remove", name, e)),
        }
    }

    /// Makes the names of its files durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        fs::fsync(&self.dir).map_err(|e| StoreError::io("sync", self.path.display().to_string(), e))
    }

    /// Sets some space aside that `release` gives back when the disk is full: even to free space the index must write.
    pub(super) fn reserve(&self) -> Result<(), StoreError> {
        if self.has(RESERVE) {
            return Ok(());
        }
        let file = self.file(RESERVE)?;
        let set_aside = match fs::fallocate(&file, fs::FallocateFlags::empty(), 0, RESERVE_BYTES) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&file),
            other => other.map_err(std::io::Error::from),
        };
        if set_aside.is_err() {
            self.remove(RESERVE)?;
        }
        set_aside.map_err(|e| StoreError::io("set space aside in", RESERVE, e))
    }

    /// Bytes that `reserve` would set aside now.
    pub(super) fn unreserved(&self) -> u64 {
        if self.has(RESERVE) { 0 } else { RESERVE_BYTES }
    }

    /// Gives back what `reserve` set aside.
    pub(super) fn release(&self) -> Result<(), StoreError> {
        self.remove(RESERVE)
    }

    /// Bytes free for us and bytes in all of the file system that holds the folder.
    pub(super) fn space(&self) -> Result<(u64, u64), StoreError> {
        let stat = fs::fstatvfs(&self.dir).map_err(|e| StoreError::io("measure", "the disk", e))?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }
}

/// Opens a file for reading and writing, private, not through a symbolic link.
pub(super) fn open_file(dir: BorrowedFd<'_>, name: &str, extra: OFlags) -> Result<File, StoreError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | extra;
    let file = fs::openat(dir, name, flags, PRIVATE_FILE).map_err(|e| StoreError::io("open", name, e))?;
    Ok(File::from(file))
}

/// Takes the space by writing, where the file system cannot set it aside otherwise.
fn fill(mut file: &File) -> std::io::Result<()> {
    let block = vec![0; 64 << 10];
    (0..RESERVE_BYTES / block.len() as u64).try_for_each(|_| file.write_all(&block))
}

fn open_dir(at: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, StoreError> {
    let text = || path.display().to_string();
    match fs::mkdirat(at, path, PRIVATE_DIR) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(StoreError::io("make", text(), e)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(at, path, flags, Mode::empty()).map_err(|e| match e {
        rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => {
            StoreError::Folder { folder: path.to_path_buf(), why: "it is a link or a file, not a folder" }
        }
        e => StoreError::io("open", text(), e),
    })
}

fn lock(dir: &OwnedFd, path: &Path) -> Result<File, StoreError> {
    let mut file = open_file(dir.as_fd(), "lock", OFlags::CREATE)?;
    match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = (&mut file).take(20).read_to_string(&mut pid);
            let pid = pid.trim();
            let known = !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
            let pid = if known { pid.to_string() } else { "?".to_string() };
            return Err(StoreError::InUse { folder: path.to_path_buf(), pid });
        }
        Err(e) => return Err(StoreError::io("lock", path.display().to_string(), e)),
    }
    // The text only serves the message above, so a full disk may refuse it.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}
