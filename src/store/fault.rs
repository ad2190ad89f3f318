//! Faults of a disk, on demand, for tests.

use rustix::io::Errno;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Which faults a store's segments have.
#[derive(Debug)]
pub(super) struct Faults {
    room: AtomicI64,
    write: AtomicBool,
    sync: AtomicBool,
    read: AtomicBool,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            room: AtomicI64::new(i64::MAX),
            write: AtomicBool::new(false),
            sync: AtomicBool::new(false),
            read: AtomicBool::new(false),
        }
    }
}

impl Faults {
    /// The disk has room for so many bytes more.
    pub(super) fn set_room(&self, bytes: i64) {
        self.room.store(bytes, Ordering::SeqCst);
    }

    /// Every write fails from now on.
    pub(super) fn set_write(&self, fails: bool) {
        self.write.store(fails, Ordering::SeqCst);
    }

    /// Every sync fails from now on.
    pub(super) fn set_sync(&self, fails: bool) {
        self.sync.store(fails, Ordering::SeqCst);
    }

    /// Every read fails from now on.
    pub(super) fn set_read(&self, fails: bool) {
        self.read.store(fails, Ordering::SeqCst);
    }

    pub(super) fn spend(&self, bytes: usize) -> Result<(), Errno> {
        if self.write.load(Ordering::SeqCst) {
            return Err(Errno::IO);
        }
        let bytes = bytes as i64;
        let taken = self.room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| {
            if room == i64::MAX { Some(room) } else { (room >= bytes).then(|| room - bytes) }
        });
        taken.map(|_| ()).map_err(|_| Errno::NOSPC)
    }

    pub(super) fn sync(&self) -> Result<(), Errno> {
        if self.sync.load(Ordering::SeqCst) { Err(Errno::IO) } else { Ok(()) }
    }

    pub(super) fn read(&self) -> Result<(), Errno> {
        if self.read.load(Ordering::SeqCst) { Err(Errno::IO) } else { Ok(()) }
    }
}
