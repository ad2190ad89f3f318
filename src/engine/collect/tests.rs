//! Nothing that is needed is ever forgotten, wherever a run ends.

use super::super::seal::{Extent, Pass, Sealer};
use super::*;
use crate::base::range::SliceRange;
use crate::content::cipher::ConvergenceSecret;
use crate::content::erasure::Scheme;
use crate::content::section::VerifySection;
use crate::content::walk::VerifyWalk;
use crate::store::StoreConfig;
use std::cell::Cell;
use std::fs;
use std::path::Path;

struct Bench {
    sealer: Arc<Sealer>,
    collector: Collector,
    tree: PathBuf,
    job: Cell<u64>,
    dir: tempfile::TempDir,
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        Bench::open(dir)
    }

    fn open(dir: tempfile::TempDir) -> Bench {
        let store = Arc::new(Store::open(&dir.path().join("store"), StoreConfig::roomy()).unwrap());
        let sealer = Sealer::new(store.clone(), ConvergenceSecret::PUBLIC, Scheme { k: 2, m: 1 }).unwrap();
        let tree = dir.path().join("tree");
        let collector = Collector { store, gate: Arc::default(), tree: tree.clone() };
        Bench { sealer, collector, tree, job: Cell::new(1), dir }
    }

    /// Ends as by a crash, as far as the collector knows, and starts again.
    fn again(self) -> Bench {
        let Bench { sealer, collector, dir, .. } = self;
        drop((sealer, collector));
        Bench::open(dir)
    }

    fn store(&self) -> &Store {
        &self.collector.store
    }

    fn write(&self, name: &str, seed: u8, len: usize) {
        let path = self.tree.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(seed, len)).unwrap();
    }

    fn keep(&self, key: &[u8], root: &RootRef) {
        self.store().state().write(true, |tx| tx.put(record::ROOTS, key, &record::root_to_bytes(root, 1))).unwrap();
    }

    fn seal(&self, dir: &Path) -> Pass {
        self.job.set(self.job.get() + 1);
        self.sealer.directory(dir, &Extent::All, self.job.get()).unwrap()
    }

    fn publish(&self) -> RootRef {
        let _passing = self.collector.gate.enter();
        let root = RootRef { kind: Kind::Directory, node: self.seal(&self.tree).root };
        self.keep(record::TREE, &root);
        root
    }

    fn collect(&self) -> Collected {
        let collected = self.collector.run(true, &|| true).unwrap().unwrap();
        self.store().flush().unwrap();
        collected
    }

    /// All chunks of a tree, of which every manifest must be here.
    fn chunks(&self, root: &RootRef) -> BTreeSet<ChunkId> {
        let (mut walk, mut found) = (VerifyWalk::new(&root.verify()), BTreeSet::new());
        while let Some(node) = walk.next() {
            let bytes = self.store().read(&node.id, SliceRange::whole(node.len)).unwrap().unwrap();
            let section = VerifySection::open(&node.key, &bytes).unwrap();
            found.extend(walk.opened(&node, &section).unwrap().into_iter().flat_map(|group| group.ids));
        }
        found
    }

    #[track_caller]
    fn assert_own(&self, root: &RootRef) {
        for id in self.chunks(root) {
            assert_eq!(self.store().class(&id).unwrap(), Some(Class::Own), "{id} of the tree that is kept");
            assert!(self.store().holds(&id).unwrap(), "{id} is not here");
        }
    }
}

/// A tree of large and packed files, directories and a link, and a change that leaves much of it behind.
fn moved_on() -> (Bench, RootRef, RootRef) {
    let bench = Bench::new();
    bench.write("large", 1, 3_000_000);
    bench.write("stays", 2, 2_000_000);
    for place in 0..30 {
        bench.write(&format!("dir/small{place:02}"), place, 20_000);
    }
    std::os::unix::fs::symlink("large", bench.tree.join("dir/link")).unwrap();
    let old = bench.publish();
    fs::remove_file(bench.tree.join("large")).unwrap();
    bench.write("dir/small07", 99, 21_000);
    let new = bench.publish();
    (bench, old, new)
}

#[test]
fn chunks_of_a_deleted_file_are_no_longer_own_and_the_tree_still_is() {
    let (bench, old, new) = moved_on();
    let (before, after) = (bench.chunks(&old), bench.chunks(&new));
    bench.store().flush().unwrap();
    let usage = bench.store().usage();
    let collected = bench.collect();
    let gone = before.difference(&after).count() as u64;
    assert!(gone > 5 && collected.chunks <= gone && collected.chunks + 2 >= gone, "{collected:?} of {gone}");
    bench.assert_own(&new);
    let now = bench.store().usage();
    assert!(usage.own_bytes > now.own_bytes + 4_000_000, "{usage:?} {now:?}");
    assert!(now.cached_bytes > 4_000_000);
    // Still here, until the space is needed.
    bench.chunks(&old);
    assert!(bench.collect().chunks <= 2, "what was missed by chance, at most");
}

#[test]
fn run_that_ends_anywhere_leaves_all_that_is_needed() {
    for steps in 0.. {
        let (bench, old, new) = moved_on();
        let forgotten = bench.chunks(&old);
        let marks = bench.collector.mark(&|| true).unwrap().unwrap();
        let left = Cell::new(steps);
        let hold = || {
            left.set(left.get() - 1);
            (left.get() >= 0).then_some(None)
        };
        let done = bench.collector.sweep(&marks, &hold, &|| true).unwrap().is_some();
        bench.assert_own(&new);
        // What was forgotten so far goes at once: the worst that can follow.
        bench.store().flush().unwrap();
        let gone: Vec<ChunkId> =
            forgotten.into_iter().filter(|id| bench.store().class(id).unwrap() == Some(Class::Cached)).collect();
        bench.store().remove(&gone).unwrap();
        let bench = bench.again();
        bench.assert_own(&new);
        assert_eq!(bench.publish(), new, "after {steps} steps");
        bench.assert_own(&new);
        // The tree as it was before is sealed anew where that is needed, though records of it were there.
        bench.write("large", 1, 3_000_000);
        let back = bench.publish();
        bench.assert_own(&back);
        bench.collect();
        bench.assert_own(&back);
        if done {
            assert!(steps >= 3, "the run took {steps} steps");
            return;
        }
    }
}

#[test]
fn tree_that_comes_back_is_whole_though_it_was_on_record() {
    let bench = Bench::new();
    bench.write("dir/a", 1, 200_000);
    bench.write("dir/b", 2, 200_000);
    fs::create_dir(bench.tree.join("empty")).unwrap();
    let both = bench.publish();
    // A rename changes neither size nor time: the leaf with both files is the same again when the file is back.
    fs::rename(bench.tree.join("dir/a"), bench.tree.join("a")).unwrap();
    fs::remove_dir(bench.tree.join("empty")).unwrap();
    bench.publish();
    let forgotten = bench.chunks(&both);
    assert!(bench.collect().chunks > 0);
    let gone: Vec<ChunkId> =
        forgotten.into_iter().filter(|id| bench.store().class(id).unwrap() == Some(Class::Cached)).collect();
    bench.store().remove(&gone).unwrap();
    fs::rename(bench.tree.join("a"), bench.tree.join("dir/a")).unwrap();
    fs::create_dir(bench.tree.join("empty")).unwrap();
    let back = bench.publish();
    bench.assert_own(&back);
    // Hosts are asked anew for what was forgotten and came back.
    let pending = bench.store().state().range(record::PENDING, &bench.job.get().to_be_bytes(), None, 100).unwrap();
    assert!(!pending.is_empty());
}

#[test]
fn pass_that_begins_meanwhile_ends_a_run() {
    let (bench, old, _) = moved_on();
    let chunks = bench.chunks(&old);
    let gate = bench.collector.gate.clone();
    let passing = gate.enter();
    assert_eq!(bench.collector.run(true, &|| true).unwrap(), None);
    assert_eq!(bench.collector.run(false, &|| true).unwrap(), None);
    drop(passing);
    // It begins once the marks are made.
    let begun = Cell::new(false);
    let go_on = || {
        if !begun.replace(true) {
            drop(gate.enter());
        }
        true
    };
    assert_eq!(bench.collector.run(true, &go_on).unwrap(), None);
    assert!(chunks.iter().all(|id| bench.store().class(id).unwrap() == Some(Class::Own)));
    assert!(bench.collector.run(false, &|| true).unwrap().unwrap().chunks > 0);
}

#[test]
fn what_was_published_on_demand_is_kept_and_so_is_a_packed_file_with_a_reference_while_it_stands() {
    let (bench, _, new) = moved_on();
    let outside = bench.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), noise(50, 1_000_000)).unwrap();
    let published = RootRef { kind: Kind::Directory, node: bench.seal(&outside).root };
    bench.keep(&record::published_key(&published), &published);
    let path = bench.tree.join("dir/small03");
    let metadata = fs::symlink_metadata(&path).unwrap();
    let node = bench.sealer.file(&path, 77).unwrap().root;
    let single = RootRef { kind: Kind::File, node };
    let stamp = record::Stamp::of(&metadata);
    let row = SingleRecord { stamp, node, path: "dir/small03".into() }.to_bytes();
    let key = record::inode_key(&metadata);
    bench.store().state().write(true, |tx| tx.put(record::SINGLES, &key, &row)).map_err(|e: StoreError| e).unwrap();
    bench.collect();
    [new, published, single].iter().for_each(|root| bench.assert_own(root));
    fs::remove_file(&path).unwrap();
    let now = bench.publish();
    let collected = bench.collect();
    assert!(collected.jobs.contains(&77), "hosts for it are no longer looked for: {collected:?}");
    [now, published].iter().for_each(|root| bench.assert_own(root));
    assert_eq!(bench.store().class(&single.node.id).unwrap(), Some(Class::Cached));
}

#[test]
fn manifest_that_is_missing_stops_everything() {
    let (bench, old, new) = moved_on();
    bench.store().remove(&[new.node.id]).unwrap();
    assert!(matches!(bench.collector.run(true, &|| true), Err(MarkError::Missing(_))));
    assert!(bench.chunks(&old).iter().all(|id| bench.store().class(id).unwrap() == Some(Class::Own)));
}
