//! Files that hold secrets: read only where nobody else can, written whole or not at all.

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Why a file with a secret is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Others can read it.
    #[error("{path} is open to other users (mode {mode:03o}); close it with: chmod 600 '{path}'")]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("{path} belongs to user {owner}, not to user {user} who runs this; correct it with: chown {user} '{path}'")]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it must be.
        user: u32,
    },
    /// A link, a folder or a pipe.
    #[error("{path} is not a regular file")]
    NotFile {
        /// Which.
        path: PathBuf,
    },
    /// It is longer than such a file can be.
    #[error("{path} is over {max} bytes")]
    Long {
        /// Which.
        path: PathBuf,
        /// The bound.
        max: usize,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> SecretError {
    SecretError::Io { action, path: path.into(), source }
}

fn open(path: &Path, flags: OFlags) -> Result<File, rustix::io::Errno> {
    // NONBLOCK: somebody may have put a pipe in the file's place.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?))
}

fn check(path: &Path, found: &Metadata) -> Result<(), SecretError> {
    if !found.is_file() {
        return Err(SecretError::NotFile { path: path.into() });
    }
    let user = rustix::process::geteuid().as_raw();
    // What root put there for us (a systemd credential) is not less secret.
    if found.uid() != user && found.uid() != 0 {
        return Err(SecretError::Owner { path: path.into(), owner: found.uid(), user });
    }
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::TooOpen { path: path.into(), mode });
    }
    Ok(())
}

/// Reads a secret of at most `max` bytes; `None` when there is no such file.
pub(super) fn read(path: &Path, max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, SecretError> {
    let file = match open(path, OFlags::RDONLY) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Err(SecretError::NotFile { path: path.into() }),
        Err(errno) => return Err(failed("open", path, errno.into())),
    };
    check(path, &file.metadata().map_err(|e| failed("inspect", path, e))?)?;
    // Sized in advance, so that no copy of the secret is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(max + 1));
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|e| failed("read", path, e))?;
    if bytes.len() > max {
        return Err(SecretError::Long { path: path.into(), max });
    }
    Ok(Some(bytes))
}

/// Writes a file for its user alone that is not there yet. After a crash it is there whole or not at all; with an error of kind
/// `AlreadyExists` another one was there and is untouched.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<(), SecretError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &draft, e)),
        _ => {}
    }
    let mut file = open(&draft, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
        .map_err(|errno| failed("create", &draft, errno.into()))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| failed("write", &draft, e))?;
    let moved = match rustix::fs::renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE) {
        // File systems that cannot promise it: a link does, as far as they have links.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(&draft, path).and_then(|()| std::fs::remove_file(&draft))
        }
        other => other.map_err(io::Error::from),
    };
    if let Err(error) = moved {
        let _ = std::fs::remove_file(&draft);
        return Err(failed("create", path, error));
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(|e| failed("write", folder, e))
}

/// Copies a secret of at most `max` bytes into a new file.
pub(super) fn copy(from: &Path, to: &Path, max: usize) -> Result<bool, SecretError> {
    let Some(bytes) = read(from, max)? else { return Ok(false) };
    create(to, &bytes).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secret_is_written_once_for_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(read(&path, 10).unwrap().is_none());
        // What a crash left is no hindrance.
        std::fs::write(folder.path().join("secret.new"), "half").unwrap();
        create(&path, b"first").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = create(&path, b"second").unwrap_err();
        assert!(matches!(&error, SecretError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists));
        assert_eq!(&**read(&path, 5).unwrap().unwrap(), b"first");
        assert!(matches!(read(&path, 4), Err(SecretError::Long { max: 4, .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn secret_that_others_can_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        create(&path, b"text").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path, 10).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600 '"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        read(&path, 10).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read(&link, 10), Err(SecretError::NotFile { .. })));
        assert!(matches!(read(folder.path(), 10), Err(SecretError::NotFile { .. })));
    }
}
