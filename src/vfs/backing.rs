//! Files that the kernel reads and writes below us by itself (FUSE passthrough), where it can and we may.
//!
//! All descriptors of one file that are open at a time must be of one kind, and the kernel's ones share one registration: it refuses anything else
//! with EIO. So the first to open decides, and the last to close ends it.

use crate::base::sync::lock;
use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

/// A file's registration with the kernel; dropping it ends it. Only the floor above knows what it is.
pub type Lent = Arc<dyn Any + Send + Sync>;

/// Registers an open file with the kernel, if that is possible.
pub type Lend<'a> = &'a dyn Fn(BorrowedFd<'_>) -> Option<Lent>;

/// How a file is open now.
#[derive(Debug, Default)]
pub(super) struct Openings(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    count: u32,
    lent: Option<Lent>,
}

impl Openings {
    /// One opening more, by way of `file`. Gives the registration if the kernel serves this file.
    pub(super) fn open(&self, lend: Lend<'_>, file: BorrowedFd<'_>) -> Option<Lent> {
        let mut state = lock(&self.0);
        if state.count == 0 {
            state.lent = lend(file);
        }
        state.count = state.count.saturating_add(1);
        state.lent.clone()
    }

    /// One opening less. Tells whether that was the last.
    pub(super) fn close(&self) -> bool {
        let mut state = lock(&self.0);
        state.count = state.count.saturating_sub(1);
        if state.count == 0 {
            state.lent = None;
        }
        state.count == 0
    }

    /// Whether the file is open at all.
    pub(super) fn are_any(&self) -> bool {
        lock(&self.0).count > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn all_openings_at_a_time_share_one_registration() {
        let file = std::fs::File::open("/").unwrap();
        let openings = Openings::default();
        let lent: Lent = Arc::new(7u8);
        let seen = Arc::downgrade(&lent);
        let first = openings.open(&|_| Some(lent.clone()), file.as_fd()).unwrap();
        let second = openings.open(&|_| Some(Arc::new(8u8)), file.as_fd()).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second, lent));
        openings.close();
        assert!(seen.upgrade().is_some());
        openings.close();
        assert!(seen.upgrade().is_none());
    }

    #[test]
    fn a_file_opened_without_stays_without_until_it_is_closed() {
        let file = std::fs::File::open("/").unwrap();
        let openings = Openings::default();
        assert!(openings.open(&|_| None, file.as_fd()).is_none());
        assert!(openings.open(&|_| Some(Arc::new(1)), file.as_fd()).is_none());
        openings.close();
        openings.close();
        assert!(openings.open(&|_| Some(Arc::new(1)), file.as_fd()).is_some());
    }
}
