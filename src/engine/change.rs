//! Which paths of the own tree changed since it was last read.

use super::seal::Extent;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// Changed paths, relative to the root of the tree; the empty path is the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Everything is to be looked at: at start, since changes may have been missed.
    all: bool,
    /// These alone. What changed below a directory has a path of its own.
    paths: BTreeSet<PathBuf>,
    /// These and whatever is below them: what is on record of it may be of another time or place.
    below: BTreeSet<PathBuf>,
    /// Files by `inode_key` whose records are not to be relied on if they were read since then (microseconds of Unix time).
    rewritten: BTreeMap<[u8; 16], u64>,
}

impl Changes {
    /// Everything.
    pub(super) fn all() -> Changes {
        Changes { all: true, ..Changes::default() }
    }

    pub(super) fn is_all(&self) -> bool {
        self.all
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.paths.is_empty() && self.below.is_empty()
    }

    /// Paths; a full look at the tree counts as one.
    pub(super) fn len(&self) -> u64 {
        u64::from(self.all) + (self.paths.len() + self.below.len()) as u64
    }

    pub(super) fn add(&mut self, path: &Path) {
        if !self.paths.contains(path) {
            self.paths.insert(path.to_path_buf());
        }
    }

    pub(super) fn add_below(&mut self, path: &Path) {
        if !self.covers_below(path) {
            self.below.insert(path.to_path_buf());
        }
    }

    pub(super) fn add_rewritten(&mut self, file: [u8; 16], since: u64) {
        let known = self.rewritten.entry(file).or_insert(since);
        *known = since.min(*known);
    }

    pub(super) fn rewritten(&self) -> &BTreeMap<[u8; 16], u64> {
        &self.rewritten
    }

    pub(super) fn merge(&mut self, other: Changes) {
        other.rewritten.into_iter().for_each(|(file, since)| self.add_rewritten(file, since));
        self.all |= other.all;
        self.paths.extend(other.paths);
        self.below.extend(other.below);
    }

    /// Whether the path, or anything at or below it, changed.
    pub(super) fn touches(&self, path: &Path) -> bool {
        self.all || holds_below(&self.paths, path) || holds_below(&self.below, path) || self.covers_below(path)
    }

    fn covers_below(&self, path: &Path) -> bool {
        !self.below.is_empty() && path.ancestors().any(|step| self.below.contains(step))
    }

    /// What a pass has to look into: the changed paths and all directories above them.
    pub(super) fn extent(&self) -> Extent {
        if self.all {
            return Extent::All;
        }
        let mut paths = BTreeSet::new();
        for path in self.paths.iter().chain(&self.below) {
            for step in path.ancestors() {
                if !paths.insert(step.to_path_buf()) {
                    break;
                }
            }
        }
        Extent::Paths { paths, below: self.below.clone() }
    }
}

/// Whether any of `paths` is `path` or below it.
fn holds_below(paths: &BTreeSet<PathBuf>, path: &Path) -> bool {
    // Paths are ordered by components, so everything below `path` follows it directly.
    paths.range::<Path, _>((Bound::Included(path), Bound::Unbounded)).next().is_some_and(|p| p.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(paths: &[&str], below: &[&str]) -> Changes {
        let mut changes = Changes::default();
        paths.iter().for_each(|path| changes.add(Path::new(path)));
        below.iter().for_each(|path| changes.add_below(Path::new(path)));
        changes
    }

    #[test]
    fn a_change_touches_the_path_and_everything_above_it() {
        let changes = changes(&["a/b/c", "x"], &[]);
        for path in ["", "a", "a/b", "a/b/c", "x"] {
            assert!(changes.touches(Path::new(path)), "{path}");
        }
        for path in ["a/b/c/d", "a/bb", "b", "xx"] {
            assert!(!changes.touches(Path::new(path)), "{path}");
        }
        let Extent::Paths { paths, .. } = changes.extent() else { panic!("not everything changed") };
        assert_eq!(paths.iter().filter_map(|p| p.to_str()).collect::<Vec<_>>(), ["", "a", "a/b", "a/b/c", "x"]);
    }

    #[test]
    fn a_change_of_all_below_a_path_touches_that_too() {
        let changes = changes(&[], &["a/b"]);
        for path in ["", "a", "a/b", "a/b/c", "a/b/c/d"] {
            assert!(changes.touches(Path::new(path)), "{path}");
            assert!(changes.extent().covers(Path::new(path)), "{path}");
        }
        for path in ["a/bb", "b"] {
            assert!(!changes.touches(Path::new(path)), "{path}");
            assert!(!changes.extent().covers(Path::new(path)), "{path}");
        }
        assert_eq!(changes.len(), 1);
    }

    #[test]
    fn nothing_is_lost_when_changes_are_put_back() {
        let mut changes_now = changes(&["new"], &[]);
        changes_now.merge(changes(&["old"], &["moved"]));
        assert_eq!(changes_now, changes(&["new", "old"], &["moved"]));
        changes_now.merge(Changes::all());
        assert!(changes_now.is_all() && changes_now.touches(Path::new("any")));
    }
}
