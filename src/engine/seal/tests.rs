//! What a pass makes of files that change around it.

use super::disk::{TICK, tick_left};
use super::*;
use crate::base::range::SliceRange;
use crate::content::section::VerifySection;
use crate::store::StoreConfig;
use std::fs;
use std::os::unix::fs::FileExt;

struct Bench {
    sealer: Arc<Sealer>,
    tree: PathBuf,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store"), StoreConfig::roomy()).unwrap());
    let sealer = Sealer::new(store, ConvergenceSecret::PUBLIC, Scheme { k: 2, m: 1 }).unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    Bench { sealer, tree, _dir: dir }
}

impl Bench {
    fn pass(&self, extent: &Extent, job: u64) -> Pass {
        self.sealer.directory(&self.tree, extent, job).unwrap()
    }
}

#[test]
fn file_that_grew_since_its_directory_was_read_waits_for_the_next_pass() {
    let bench = bench();
    let path = bench.tree.join("log");
    fs::write(&path, vec![1; 100_000]).unwrap();
    let before = fs::symlink_metadata(&path).unwrap();
    fs::write(&path, vec![1; 200_000]).unwrap();
    let run = bench.sealer.run(&bench.tree, &Extent::All, 1);
    assert_eq!(run.file(Path::new("log"), &before).unwrap(), None);
    assert_eq!(lock(&run.sink).unstable, [PathBuf::from("log")]);
    // The same of a short one.
    fs::write(&path, b"short").unwrap();
    let before = fs::symlink_metadata(&path).unwrap();
    fs::write(&path, b"longer").unwrap();
    assert_eq!(read_short(&path, &before, |_| Ok(())).unwrap(), None);
}

#[test]
fn pass_that_finds_its_groups_with_an_earlier_job_remembers_that_job() {
    let bench = bench();
    fs::create_dir(bench.tree.join("dir")).unwrap();
    fs::write(bench.tree.join("dir/small"), b"text").unwrap();
    fs::write(bench.tree.join("large"), vec![1; 100_000]).unwrap();
    assert!(!bench.pass(&Extent::All, 1).groups.is_empty());
    let earlier = |job| {
        let found = bench.sealer.store.state().value(record::EARLIER, &record::job_to_bytes(job)).unwrap();
        record::jobs_from_bytes(&found.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(earlier(1), [0; 0]);
    // The directories are on record, leaf by leaf.
    assert!(bench.pass(&Extent::All, 2).groups.is_empty());
    assert_eq!(earlier(2), [1]);
    // The bytes of a file are there under another name; its directory is new.
    fs::copy(bench.tree.join("large"), bench.tree.join("copy")).unwrap();
    assert!(!bench.pass(&Extent::All, 3).groups.is_empty());
    assert_eq!(earlier(3), [1]);
}

#[test]
fn file_that_is_renamed_away_while_it_is_looked_at_ends_no_pass() {
    let bench = bench();
    let path = bench.tree.join("temporary");
    for size in [10, 100_000] {
        fs::write(&path, vec![1; size]).unwrap();
        let before = fs::symlink_metadata(&path).unwrap();
        fs::rename(&path, bench.tree.join("final")).unwrap();
        let run = bench.sealer.run(&bench.tree, &Extent::All, 1);
        if size > PACKED_BYTES_MAX {
            assert_eq!(run.file(Path::new("temporary"), &before).unwrap(), None);
        }
        assert_eq!(read_short(&path, &before, |_| Ok(())).unwrap(), None);
        std::os::unix::fs::symlink("final", &path).unwrap();
        assert_eq!(read_short(&path, &before, |_| Ok(())).unwrap(), None);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn file_is_read_only_when_a_further_change_would_show_in_its_stamp() {
    let stamp = |seconds, nanos| Stamp { size: 0, modified: (0, 0), changed: (seconds, nanos) };
    let now = UNIX_EPOCH + Duration::new(1000, 5_000_000);
    assert_eq!(tick_left(&stamp(1000, 5_000_000), now), TICK, "changed in this tick");
    assert_eq!(tick_left(&stamp(1000, 0), now), TICK - Duration::from_millis(5));
    assert_eq!(tick_left(&stamp(999, 980_000_000), now), Duration::ZERO);
    assert_eq!(tick_left(&stamp(-5, 0), now), Duration::ZERO, "before 1970");
    assert_eq!(tick_left(&stamp(5000, 0), now), TICK, "in the future");
    let bench = bench();
    let path = bench.tree.join("file");
    fs::write(&path, b"text").unwrap();
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert_eq!(read_short(&path, &metadata, |_| Ok(())).unwrap().as_deref(), Some(&b"text"[..]));
    assert_eq!(tick_left(&Stamp::of(&metadata), SystemTime::now()), Duration::ZERO);
}

#[test]
fn directory_that_moved_is_looked_at_to_its_bottom() {
    let bench = bench();
    fs::create_dir_all(bench.tree.join("old/sub")).unwrap();
    fs::write(bench.tree.join("old/sub/file"), b"first").unwrap();
    bench.pass(&Extent::All, 1);
    // Written and moved before anything of it was looked at again.
    fs::write(bench.tree.join("old/sub/file"), b"second").unwrap();
    fs::rename(bench.tree.join("old"), bench.tree.join("new")).unwrap();
    let mut changes = super::super::change::Changes::default();
    ["old/sub/file", "old"].iter().for_each(|path| changes.add(Path::new(path)));
    changes.add_below(Path::new("new"));
    let pass = bench.pass(&changes.extent(), 2);
    assert_eq!(pass.root, bench.pass(&Extent::All, 3).root);
}

#[test]
fn file_that_was_written_to_without_a_trace_in_its_times_is_read_again() {
    let bench = bench();
    fs::write(bench.tree.join("short"), b"text").unwrap();
    fs::write(bench.tree.join("large"), vec![7; 100_000]).unwrap();
    let begun = micros(SystemTime::now());
    let root = bench.pass(&Extent::All, 1_000).root;
    let ended = micros(SystemTime::now());
    let key = |name: &str| record::inode_key(&fs::symlink_metadata(bench.tree.join(name)).unwrap());
    let job = |name: &str| bench.sealer.file_record(&key(name)).unwrap().map(|record| record.job);
    let distrust = |since| bench.sealer.distrust(&["short", "large"].map(|name| (key(name), since)).into()).unwrap();
    // Opened after it was read: what is on record of it is true.
    distrust(ended + 1);
    bench.pass(&Extent::All, 2_000);
    assert_eq!((job("short"), job("large")), (Some(1_000), Some(1_000)));
    // Opened while the pass ran that read it, though after that began.
    distrust(begun);
    assert_eq!((job("short"), job("large")), (None, None));
    assert_eq!(bench.pass(&Extent::All, 3_000).root, root);
    assert_eq!((job("short"), job("large")), (Some(3_000), Some(3_000)));
}

#[test]
fn what_was_read_of_a_file_that_may_be_mapped_is_final_only_when_its_times_are_old() {
    let bench = bench();
    bench.sealer.may_be_mapped(Box::new(|_| true));
    let paths = [("large", 100_000), ("short", 10)].map(|(name, size)| {
        let path = bench.tree.join(name);
        fs::write(&path, vec![1; size]).unwrap();
        path
    });
    let known =
        |path: &PathBuf| bench.sealer.file_record(&record::inode_key(&fs::metadata(path).unwrap())).unwrap().is_some();
    let mut young = bench.pass(&Extent::All, 1).young;
    young.sort();
    assert_eq!(young, [PathBuf::from("large"), PathBuf::from("short")]);
    assert!(!paths.iter().any(known));
    for path in &paths {
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - 2 * SETTLE).unwrap();
    }
    assert_eq!(bench.pass(&Extent::All, 2).young, Vec::<PathBuf>::new());
    assert!(paths.iter().all(known));
}

#[test]
fn directory_beyond_a_limit_is_left_out_and_named_and_the_rest_is_sealed() {
    let bench = bench();
    fs::write(bench.tree.join("file"), b"text").unwrap();
    let deep: PathBuf = std::iter::repeat_n("d", crate::base::limit::TREE_DEPTH_MAX + 3).collect();
    fs::create_dir_all(bench.tree.join(&deep)).unwrap();
    let pass = bench.pass(&Extent::All, 1);
    let told: Vec<String> = pass.unreadable.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("nested deeper than 256") && told[0].len() < 300, "{told:?}");
    assert_eq!(pass.unstable.len(), 1);
    // All that is not too deep was sealed.
    let known = |path: &Path, table| {
        let key = record::inode_key(&fs::symlink_metadata(bench.tree.join(path)).unwrap());
        bench.sealer.store.state().value(table, &key).unwrap().is_some()
    };
    let at = |depth: usize| deep.components().take(depth).collect::<PathBuf>();
    assert!(known(Path::new("file"), record::FILES) && known(Path::new(""), record::DIRECTORIES));
    assert!(known(&at(crate::base::limit::TREE_DEPTH_MAX), record::DIRECTORIES));
    assert!(!known(&at(crate::base::limit::TREE_DEPTH_MAX + 1), record::DIRECTORIES));
    fs::remove_dir_all(bench.tree.join(at(crate::base::limit::TREE_DEPTH_MAX + 1))).unwrap();
    assert!(bench.pass(&Extent::All, 2).unreadable.is_empty());
}

#[test]
fn what_is_read_is_as_long_as_asked_for_or_nothing() {
    let bench = bench();
    let path = bench.tree.join("file");
    fs::write(&path, (0..100u8).collect::<Vec<u8>>()).unwrap();
    let file = File::open(&path).unwrap();
    assert_eq!(disk::read_exact(&file, 10, 20).unwrap(), (10..30).collect::<Vec<u8>>());
    assert_eq!(disk::read_exact(&file, 90, 10).unwrap(), (90..100).collect::<Vec<u8>>());
    assert_eq!(disk::read_exact(&file, 90, 11).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn holes_are_sealed_once_and_are_the_zeros_that_they_read_as() {
    let bench = bench();
    let (sparse, written) = (bench.tree.join("sparse"), bench.tree.join("written"));
    let size: u64 = 64 << 20;
    let file = File::create(&sparse).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(b"in the middle", size / 2 + 5).unwrap();
    let mut bytes = vec![0; size as usize];
    bytes[(size / 2 + 5) as usize..][..13].copy_from_slice(b"in the middle");
    fs::write(&written, &bytes).unwrap();
    let node = |path: &Path| {
        let run = bench.sealer.run(&bench.tree, &Extent::All, 1);
        let node = run.file(path.strip_prefix(&bench.tree).unwrap(), &fs::metadata(path).unwrap()).unwrap().unwrap();
        (node, lock(&run.zeros).len())
    };
    let (of_holes, kinds) = node(&sparse);
    assert_eq!(kinds, 1, "all holes are of one length");
    // All is here that readers will ask for, before the other file is sealed.
    let mut pending = vec![of_holes.verify()];
    let mut chunks = 0;
    while let Some(node) = pending.pop() {
        let bytes = bench.sealer.store.read(&node.id, SliceRange::whole(node.len)).unwrap().unwrap();
        let section = VerifySection::open(&node.key, &bytes).unwrap();
        let ids: Vec<ChunkId> = section.stripes.iter().flat_map(|stripe| stripe.ids.clone()).collect();
        assert!(bench.sealer.store.holds_each(&ids).unwrap().into_iter().all(|held| held));
        chunks += ids.len();
        pending.extend(section.children);
    }
    // 32 stripes of 2+1.
    assert_eq!(chunks, 96);
    assert_eq!((of_holes, 0), node(&written));
}
