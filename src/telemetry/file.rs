//! A log file that cannot fill the disk: past its limit it becomes `log.1`, in place of the one before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tracing_subscriber::fmt::MakeWriter;

/// The log and the one before it are at most this long each, and one line.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// The file that log lines go to.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    max: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    written: u64,
}

fn append(path: &Path) -> io::Result<State> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let written = file.metadata()?.len();
    Ok(State { file, written })
}

impl LogFile {
    /// Opens the log at `path`, mode 0600, and continues it.
    pub fn open(path: &Path) -> io::Result<LogFile> {
        LogFile::open_with(path, LOG_BYTES_MAX)
    }

    fn open_with(path: &Path, max: u64) -> io::Result<LogFile> {
        Ok(LogFile { path: path.to_path_buf(), max, state: Mutex::new(append(path)?) })
    }
}

impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.written >= self.max {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
            *state = append(&self.path)?;
        }
        state.file.write_all(line)?;
        state.written += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = &'a LogFile;
    fn make_writer(&'a self) -> &'a LogFile {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_log_is_private_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = LogFile::open_with(&path, 1000).unwrap();
        for _ in 0..200 {
            (&log).write_all(&[b'x'; 50]).unwrap();
        }
        drop(log);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::metadata(&path).unwrap().len() <= 1050);
        assert!(fs::metadata(dir.path().join("log.1")).unwrap().len() <= 1050);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
