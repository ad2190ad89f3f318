//! What of a tree cannot be fetched while the rest of it is.

use super::error::{ReadError, ReadErrorKind};
use super::survey::Counter;
use crate::base::digest::ChunkId;
use crate::base::sync::lock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// When nothing at all came for so many deadlines, what was not tried by then is not tried.
const BARREN_MAX: u32 = 10;

/// A part of a tree that could not be fetched.
#[derive(Debug)]
pub struct Missing {
    /// Where it lies in the tree.
    pub path: PathBuf,
    /// Why.
    pub error: ReadError,
}

/// What could not be fetched so far.
pub(super) struct Missed {
    all: Mutex<Vec<Missing>>,
    /// Packs that could not be had: no file in one of them is waited for again.
    packs: Mutex<BTreeMap<ChunkId, ReadError>>,
    progress: Arc<Counter>,
    /// How much had come when something came last, and when that was noticed.
    alive: Mutex<(u64, Instant)>,
    barren_max: Duration,
}

impl Missed {
    pub(super) fn new(deadline: Duration, progress: Arc<Counter>) -> Missed {
        let alive = Mutex::new((0, Instant::now()));
        let barren_max = deadline * BARREN_MAX;
        Missed { all: Mutex::default(), packs: Mutex::default(), progress, alive, barren_max }
    }

    /// Remembers what failed; an error where going on would be of no use.
    pub(super) fn note(&self, path: PathBuf, pack: Option<ChunkId>, error: ReadError) -> Result<(), ReadError> {
        let here = matches!(error.kind, ReadErrorKind::Store | ReadErrorKind::Stopped);
        // All of it: there is nothing else.
        if here || path.as_os_str().is_empty() {
            return Err(error);
        }
        if let Some(pack) = pack {
            lock(&self.packs).insert(pack, error.clone());
        }
        let mut alive = lock(&self.alive);
        let done = self.progress.done.load(Ordering::Relaxed);
        if alive.0 != done {
            *alive = (done, Instant::now());
        }
        let barren = alive.1.elapsed();
        if barren > self.barren_max {
            let detail = format!("nothing came for {} s, and the rest was not tried: {error}", barren.as_secs());
            return Err(ReadError::new(error.kind, detail));
        }
        lock(&self.all).push(Missing { path, error });
        Ok(())
    }

    /// Whether a file lies in a pack that could not be had; then it is missing, too.
    pub(super) fn goes_with(&self, path: &Path, pack: Option<ChunkId>) -> bool {
        let Some(error) = pack.and_then(|pack| lock(&self.packs).get(&pack).cloned()) else { return false };
        lock(&self.all).push(Missing { path: path.to_path_buf(), error });
        true
    }

    /// Where it would lie below `dest`.
    pub(super) fn places(&self, dest: &Path) -> Vec<PathBuf> {
        lock(&self.all).iter().map(|missing| dest.join(&missing.path)).collect()
    }

    /// All of it.
    pub(super) fn all(self) -> Vec<Missing> {
        self.all.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: ReadErrorKind) -> ReadError {
        ReadError::new(kind, "nobody has it")
    }

    #[test]
    fn a_lost_pack_is_waited_for_once_and_what_fails_here_ends_all() {
        let missed = Missed::new(Duration::from_secs(60), Arc::default());
        let (lost, other) = (ChunkId::of(b"lost"), ChunkId::of(b"other"));
        assert!(!missed.goes_with(Path::new("a"), Some(lost)));
        missed.note("a".into(), Some(lost), failure(ReadErrorKind::Timeout)).unwrap();
        assert!(missed.goes_with(Path::new("b"), Some(lost)) && !missed.goes_with(Path::new("c"), Some(other)));
        assert!(!missed.goes_with(Path::new("d"), None));
        assert_eq!(missed.places(Path::new("to")), [Path::new("to/a"), Path::new("to/b")]);
        for kind in [ReadErrorKind::Store, ReadErrorKind::Stopped] {
            assert!(missed.note("e".into(), None, failure(kind)).is_err());
        }
        // A file's own reference.
        assert!(missed.note(PathBuf::new(), None, failure(ReadErrorKind::Timeout)).is_err());
    }

    #[test]
    fn where_nothing_comes_for_long_the_rest_is_not_tried() {
        let progress = Arc::new(Counter::default());
        let missed = Missed::new(Duration::ZERO, progress.clone());
        let note = || missed.note("a".into(), None, failure(ReadErrorKind::Timeout));
        assert!(note().unwrap_err().to_string().contains("the rest was not tried: nobody has it"));
        let missed = Missed { barren_max: Duration::from_secs(60), ..missed };
        missed.note("a".into(), None, failure(ReadErrorKind::Timeout)).unwrap();
        lock(&missed.alive).1 -= Duration::from_secs(90);
        progress.done.store(1, Ordering::Relaxed);
        missed.note("a".into(), None, failure(ReadErrorKind::Timeout)).unwrap();
        lock(&missed.alive).1 -= Duration::from_secs(90);
        assert!(missed.note("a".into(), None, failure(ReadErrorKind::Timeout)).is_err());
    }
}
