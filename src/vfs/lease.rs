//! Whether anybody can write to a file at this moment, be it only through a map that outlived its descriptor. The kernel tells that to who
//! asks it for a lease.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Names the signal that tells of a lease in somebody's way. The C library has it, its binding (0.2) has not.
const F_SETSIG: libc::c_int = 10;

/// Whether the file, which is open here for reading alone, may be open or mapped for writing anywhere. True, too, where the file system
/// gives no leases.
pub(super) fn has_writers(file: BorrowedFd<'_>) -> bool {
    let ask = |command, argument: libc::c_int| {
        // SAFETY: these commands take a number and touch no memory of ours.
        unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
    };
    // Who opens the file for writing meanwhile waits until the lease is given back, which is at once. We would be told of that by a signal:
    // by one that does nothing.
    if !ask(F_SETSIG, libc::SIGURG) || !ask(libc::F_SETLEASE, libc::F_RDLCK) {
        return true;
    }
    !ask(libc::F_SETLEASE, libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn a_writer_is_seen_and_its_end_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        assert!(!has_writers(file.as_fd()));
        let reader = File::open(&path).unwrap();
        assert!(!has_writers(file.as_fd()));
        let writer = File::options().write(true).open(&path).unwrap();
        assert!(has_writers(file.as_fd()));
        drop((reader, writer));
        assert!(!has_writers(file.as_fd()));
        File::options().write(true).open(&path).unwrap();
    }
}
