//! The last refusals by path, for `tornet why`.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::node::lock;

/// Refusals remembered; the oldest go first.
const REFUSALS_MAX: usize = 1024;

#[derive(Debug, Default)]
struct Kept {
    reasons: HashMap<PathBuf, (String, Instant)>,
    order: VecDeque<PathBuf>,
}

/// What was refused lately, and why. Paths are below the mount point.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Kept>);

impl Refusals {
    /// Remembers why `path` was refused.
    pub fn note(&self, path: &Path, reason: &str) {
        let mut kept = lock(&self.0);
        if kept.reasons.insert(path.to_path_buf(), (reason.to_string(), Instant::now())).is_none() {
            kept.order.push_back(path.to_path_buf());
            if kept.order.len() > REFUSALS_MAX
                && let Some(oldest) = kept.order.pop_front()
            {
                kept.reasons.remove(&oldest);
            }
        }
    }

    /// Why `path` was refused last, and how long ago that was.
    pub fn at(&self, path: &Path) -> Option<(PathBuf, String, Duration)> {
        lock(&self.0).told(path)
    }

    /// The same of `path` or, where that was not refused, of what was refused last below or above it.
    pub fn around(&self, path: &Path) -> Option<(PathBuf, String, Duration)> {
        let kept = lock(&self.0);
        let near = |known: &&PathBuf| known.starts_with(path) || path.starts_with(known);
        kept.told(path).or_else(|| kept.told(kept.order.iter().rev().find(near)?))
    }
}

impl Kept {
    fn told(&self, path: &Path) -> Option<(PathBuf, String, Duration)> {
        let (reason, when) = self.reasons.get(path)?;
        Some((path.to_path_buf(), reason.clone(), when.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_found_by_its_path_and_by_paths_around_it() {
        let refusals = Refusals::default();
        refusals.note(Path::new("ref/x/film.mkv"), "no peer answered");
        assert_eq!(refusals.around(Path::new("ref/x/film.mkv")).unwrap().1, "no peer answered");
        assert_eq!(refusals.around(Path::new("ref/x")).unwrap().0, Path::new("ref/x/film.mkv"));
        assert_eq!(refusals.around(Path::new("ref/y")), None);
        assert_eq!(refusals.at(Path::new("ref/x/film.mkv")).unwrap().1, "no peer answered");
        assert_eq!(refusals.at(Path::new("ref/x")), None);
    }

    #[test]
    fn the_number_of_refusals_is_bounded() {
        let refusals = Refusals::default();
        for n in 0..REFUSALS_MAX + 10 {
            refusals.note(Path::new(&n.to_string()), "x");
        }
        assert_eq!(lock(&refusals.0).reasons.len(), REFUSALS_MAX);
        assert_eq!(refusals.around(Path::new("3")), None);
        assert!(refusals.around(Path::new("20")).is_some());
    }
}
