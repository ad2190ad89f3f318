//! The last refusals by path, for `tornet why`.

use crate::base::sync::lock;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Refusals remembered; the oldest go first.
const REFUSALS_MAX: usize = 1024;

#[derive(Debug)]
struct Refused {
    /// Which bytes; nothing if it could not even be opened.
    bytes: Option<Range<u64>>,
    reason: String,
    when: Instant,
}

#[derive(Debug, Default)]
struct Kept {
    reasons: HashMap<PathBuf, Refused>,
    order: VecDeque<PathBuf>,
}

/// What was refused lately, and why. Paths are below the mount point.
#[derive(Debug, Default)]
pub struct Refusals {
    kept: Mutex<Kept>,
    /// Whether there is any: asked at every read.
    any: AtomicBool,
}

impl Refusals {
    /// Remembers why `path`, or these bytes of it, were refused.
    pub fn note(&self, path: &Path, bytes: Option<Range<u64>>, reason: &str) {
        let mut kept = lock(&self.kept);
        let refused = Refused { bytes, reason: reason.to_string(), when: Instant::now() };
        if kept.reasons.insert(path.to_path_buf(), refused).is_none() {
            self.any.store(true, Ordering::Relaxed);
            kept.order.push_back(path.to_path_buf());
            if kept.order.len() > REFUSALS_MAX
                && let Some(oldest) = kept.order.pop_front()
            {
                kept.reasons.remove(&oldest);
            }
        }
    }

    /// Forgets what was refused of the path that is opened now, or of which these bytes are read now.
    pub fn served(&self, path: impl FnOnce() -> PathBuf, bytes: Option<&Range<u64>>) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let path = path();
        let mut kept = lock(&self.kept);
        let again = |refused: &Refused| match (&refused.bytes, bytes) {
            (None, _) => true,
            (Some(refused), Some(served)) => served.contains(&refused.start),
            (Some(_), None) => false,
        };
        if kept.reasons.get(&path).is_some_and(again) {
            kept.reasons.remove(&path);
            kept.order.retain(|known| *known != path);
            self.any.store(!kept.order.is_empty(), Ordering::Relaxed);
        }
    }

    /// Why `path` was refused last, and how long ago that was.
    pub fn at(&self, path: &Path) -> Option<(PathBuf, String, Duration)> {
        lock(&self.kept).told(path)
    }

    /// The same of `path` or, where that was not refused, of what was refused last below or above it.
    pub fn around(&self, path: &Path) -> Option<(PathBuf, String, Duration)> {
        let kept = lock(&self.kept);
        let near = |known: &&PathBuf| known.starts_with(path) || path.starts_with(known);
        kept.told(path).or_else(|| kept.told(kept.order.iter().rev().find(near)?))
    }
}

impl Kept {
    fn told(&self, path: &Path) -> Option<(PathBuf, String, Duration)> {
        let (path, refused) = self.reasons.get_key_value(path)?;
        Some((path.clone(), refused.reason.clone(), refused.when.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_found_by_its_path_and_by_paths_around_it() {
        let refusals = Refusals::default();
        refusals.note(Path::new("ref/x/film.mkv"), None, "no peer answered");
        assert_eq!(refusals.around(Path::new("ref/x/film.mkv")).unwrap().1, "no peer answered");
        assert_eq!(refusals.around(Path::new("ref/x")).unwrap().0, Path::new("ref/x/film.mkv"));
        assert_eq!(refusals.around(Path::new("ref/y")), None);
        assert_eq!(refusals.at(Path::new("ref/x/film.mkv")).unwrap().1, "no peer answered");
        assert_eq!(refusals.at(Path::new("ref/x")), None);
    }

    #[test]
    fn what_is_served_since_is_no_longer_refused() {
        let (refusals, path) = (Refusals::default(), || PathBuf::from("ref/x/film.mkv"));
        refusals.note(&path(), Some(100..200), "no peer answered");
        refusals.served(path, None);
        refusals.served(path, Some(&(200..300)));
        assert!(refusals.at(&path()).is_some(), "other bytes of it are no answer");
        refusals.served(path, Some(&(0..101)));
        assert_eq!(refusals.at(&path()), None);
        refusals.note(&path(), None, "no such manifest");
        refusals.served(path, None);
        assert_eq!(refusals.around(Path::new("ref/x")), None);
        refusals.served(|| panic!("asked without need"), None);
    }

    #[test]
    fn the_number_of_refusals_is_bounded() {
        let refusals = Refusals::default();
        for n in 0..REFUSALS_MAX + 10 {
            refusals.note(Path::new(&n.to_string()), None, "x");
        }
        assert_eq!(lock(&refusals.kept).reasons.len(), REFUSALS_MAX);
        assert_eq!(refusals.around(Path::new("3")), None);
        assert!(refusals.around(Path::new("20")).is_some());
    }
}
