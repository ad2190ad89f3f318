//! Kills, flipped bits, torn tails, full and failing disks.

use super::*;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CHILD_DIR: &str = "TORNET_STORE_TEST_DIR";
const SMALL_DISK: &str = "TORNET_STORE_TEST_SMALL_DISK";
const CHILD_FROM: &str = "TORNET_STORE_TEST_FROM";

/// The n-th chunk of the kill test, and whether it is put as own.
fn nth(n: u64) -> ((ChunkId, Outline, Bytes), bool) {
    (chunk(1_000 + n, [100_000, 20_000, 262_144, 5_000][(n % 4) as usize]), n.is_multiple_of(3))
}

fn small() -> StoreConfig {
    // Small enough that segments fill up, chunks are evicted and segments removed all the time.
    StoreConfig { cache_bytes: 8 << 20, segment_bytes: 1 << 20, pending_bytes: 1 << 20, ..roomy() }
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Not a test by itself: what the killed process runs.
#[test]
fn process_that_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let from: u64 = std::env::var(CHILD_FROM).unwrap().parse().unwrap();
    let store = Store::open(Path::new(&dir), small()).unwrap();
    for n in from.. {
        let ((id, outline, bytes), own) = nth(n);
        let class = if own { Class::Own } else { Class::Cached };
        if n.is_multiple_of(5) {
            for first in (0..slice_count(outline.len)).rev() {
                let span = SliceRange { first, count: 1 }.bytes(outline.len);
                let slice = bytes.slice(span.start as usize..span.end as usize);
                store.put_slices(&id, &outline, first, slice, class).unwrap();
            }
        } else {
            store.put(&id, &outline, bytes, class).unwrap();
        }
        if n % 7 == 6 {
            store.flush().unwrap();
            println!("\nflushed {n}");
        }
    }
}

#[test]
fn after_a_kill_at_any_moment_nothing_flushed_is_lost_and_nothing_wrong_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut flushed = None;
    let mut tried = 0;
    let mut cached_kept = 0;
    for kill in 0..24u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::tests::crash::process_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, dir.path())
            .env(CHILD_FROM, tried.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let number = |line: String| line.strip_prefix("flushed ").map(|n| n.parse::<u64>().unwrap());
        // Some kills hit the opening, others the writing, each at another moment.
        for line in (kill % 4 != 3).then_some(&mut lines).into_iter().flatten() {
            if let Some(n) = number(line) {
                flushed = Some(n);
                if n >= tried + kill % 5 * 7 {
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_micros(kill * 773 % 9_000));
        child.kill().unwrap();
        child.wait().unwrap();
        // Flushes whose news came too late for the kill count, too.
        flushed = lines.filter_map(number).last().or(flushed);

        let store = Store::open(dir.path(), small()).unwrap();
        let known = flushed.map_or(0, |n| n + 1);
        for n in 0..known + 40 {
            let ((id, outline, bytes), own) = nth(n);
            match store.read(&id, whole(bytes.len())).unwrap() {
                Some(read) => {
                    assert_eq!(read, bytes, "chunk {n} after kill {kill}");
                    assert_eq!(store.outline(&id).unwrap(), Some(outline));
                    cached_kept += u64::from(!own);
                }
                None => assert!(n >= known || !own, "flushed chunk {n} is lost after kill {kill}"),
            }
        }
        let usage = store.usage();
        assert_eq!(usage.damaged_slices, 0, "after kill {kill}");
        assert!(usage.cached_bytes <= usage.cache_bytes_max, "{usage:?}");
        tried = known;
    }
    assert!(tried > 100 && cached_kept > 0, "the test tested something: {tried}, {cached_kept}");
    let usage = Store::open(dir.path(), small()).unwrap().usage();
    let on_disk: u64 = segment_files(dir.path())
        .iter()
        .map(|path| std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap()) * 512)
        .sum();
    let counted = usage.own_bytes + usage.cached_bytes;
    assert!(on_disk <= counted + counted / 4 + (4 << 20), "space leaks: {on_disk} on disk, {counted} counted");
}

#[test]
fn flipped_bit_in_a_segment_is_never_served_and_heals_by_storing_again() {
    let dir = tempfile::tempdir().unwrap();
    let chunks: Vec<_> = (0..40).map(|n| chunk(n, [3_000, 16_384, 70_000, 300_000][n as usize % 4])).collect();
    let store = Store::open(dir.path(), roomy()).unwrap();
    for (id, outline, bytes) in &chunks {
        store.put(id, outline, bytes.clone(), Class::Own).unwrap();
    }
    drop(store);
    let (mut damaged, mut healed) = (0, 0);
    for round in 0..30u64 {
        for path in segment_files(dir.path()) {
            let mut bytes = std::fs::read(&path).unwrap();
            let at = (round * 7_919_317 + 4096) as usize % bytes.len();
            bytes[at] ^= 1 << (round % 8);
            std::fs::write(&path, bytes).unwrap();
        }
        let store = Store::open(dir.path(), roomy()).unwrap();
        for (id, outline, bytes) in &chunks {
            for slices in [SliceRange { first: 1, count: 2 }, whole(bytes.len())] {
                let span = slices.bytes(outline.len);
                match store.read(id, slices).unwrap() {
                    Some(read) => assert_eq!(read, bytes.slice(span.start as usize..span.end as usize)),
                    None if span.is_empty() => {}
                    None => damaged += 1,
                }
            }
            let held = store.slices(id).unwrap();
            if !held.is_some_and(|held| held.is_whole()) {
                // What is still good need not be fetched again.
                let mask = held.map_or(0, |held| held.mask);
                assert!(outline.len < 20_000 || mask.count_ones() + 1 >= u32::from(slice_count(outline.len)));
                for first in (0..slice_count(outline.len)).filter(|index| mask >> index & 1 == 0) {
                    let span = SliceRange { first, count: 1 }.bytes(outline.len);
                    let slice = bytes.slice(span.start as usize..span.end as usize);
                    store.put_slices(id, outline, first, slice, Class::Own).unwrap();
                }
                assert!(store.take_dropped().contains(id));
                store.flush().unwrap();
                assert_eq!(store.read(id, whole(bytes.len())).unwrap().as_ref(), Some(bytes));
                healed += 1;
            }
        }
    }
    assert!(damaged > 5 && healed > 5, "{damaged} {healed}");
}

#[test]
fn flipped_bit_in_a_header_costs_at_most_its_outline() {
    let dir = tempfile::tempdir().unwrap();
    let (id, outline, bytes) = chunk(1, 200_000);
    let store = Store::open(dir.path(), roomy()).unwrap();
    store.put(&id, &outline, bytes.clone(), Class::Own).unwrap();
    drop(store);
    let path = &segment_files(dir.path())[0];
    let mut raw = std::fs::read(path).unwrap();
    raw[4096 + 100] ^= 4;
    std::fs::write(path, raw).unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    assert_eq!(store.read(&id, SliceRange { first: 3, count: 1 }).unwrap().unwrap(), bytes.slice(49_152..65_536));
    assert_eq!(store.outline(&id).unwrap(), Some(outline));
}

#[test]
fn torn_tail_is_cut_off_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let (id, outline, bytes) = chunk(1, 200_000);
    let store = Store::open(dir.path(), roomy()).unwrap();
    store.put(&id, &outline, bytes.clone(), Class::Own).unwrap();
    drop(store);
    let path = &segment_files(dir.path())[0];
    let mut raw = std::fs::read(path).unwrap();
    let len = raw.len();
    raw.extend((0..77_777).map(|i| i as u8));
    std::fs::write(path, raw).unwrap();
    std::fs::write(dir.path().join("segments/000000ff.segment"), b"never committed").unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    assert_eq!(segment_files(dir.path()).len(), 1);
    assert_eq!(std::fs::metadata(path).unwrap().len(), len.next_multiple_of(4096) as u64);
    assert_eq!(store.read(&id, whole(bytes.len())).unwrap().unwrap(), bytes);
    let (id, outline, bytes) = chunk(2, 50_000);
    store.put(&id, &outline, bytes.clone(), Class::Own).unwrap();
    store.flush().unwrap();
    assert_eq!(store.read(&id, whole(bytes.len())).unwrap().unwrap(), bytes);
}

#[test]
fn vanished_or_shortened_segments_are_missing_chunks_not_errors() {
    let dir = tempfile::tempdir().unwrap();
    let chunks: Vec<_> = (0..30).map(|n| chunk(n, 300_000)).collect();
    let config = StoreConfig { segment_bytes: 2 << 20, ..roomy() };
    let store = Store::open(dir.path(), config.clone()).unwrap();
    for (id, outline, bytes) in &chunks {
        store.put(id, outline, bytes.clone(), Class::Own).unwrap();
    }
    drop(store);
    let files = segment_files(dir.path());
    std::fs::remove_file(&files[1]).unwrap();
    std::fs::File::options().write(true).open(&files[2]).unwrap().set_len(100_000).unwrap();
    let store = Store::open(dir.path(), config).unwrap();
    let mut missing = 0;
    for (id, outline, bytes) in &chunks {
        match store.read(id, whole(bytes.len())).unwrap() {
            Some(read) => assert_eq!(read, bytes),
            None => {
                missing += 1;
                store.put(id, outline, bytes.clone(), Class::Own).unwrap();
            }
        }
    }
    assert!((5..20).contains(&missing), "{missing}");
    store.flush().unwrap();
    for (id, _, bytes) in &chunks {
        assert_eq!(store.read(id, whole(bytes.len())).unwrap().as_ref(), Some(bytes));
    }
}

#[test]
fn part_of_a_chunk_in_a_vanished_segment_is_written_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (id, outline, bytes) = chunk(0, 300_000);
    let store = Store::open(dir.path(), roomy()).unwrap();
    store.put_slices(&id, &outline, 0, bytes.slice(..65_536), Class::Own).unwrap();
    drop(store);
    std::fs::remove_file(&segment_files(dir.path())[0]).unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    let slice = |first: u8| {
        let span = SliceRange { first, count: 1 }.bytes(outline.len);
        store
            .put_slices(&id, &outline, first, bytes.slice(span.start as usize..span.end as usize), Class::Own)
            .unwrap();
    };
    slice(7);
    store.flush().unwrap();
    assert_eq!(store.slices(&id).unwrap().unwrap().mask, 1 << 7);
    (0..slice_count(outline.len)).for_each(slice);
    store.flush().unwrap();
    assert_eq!(store.read(&id, whole(bytes.len())).unwrap().unwrap(), bytes);
}

#[test]
fn full_disk_is_said_and_old_data_stays_readable_until_there_is_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small()).unwrap();
    let (old, old_outline, old_bytes) = chunk(0, 500_000);
    store.put(&old, &old_outline, old_bytes.clone(), Class::Own).unwrap();
    store.flush().unwrap();
    store.inner.segments.faults.set_room(300_000);
    let chunks: Vec<_> = (1..20).map(|n| chunk(n, 150_000)).collect();
    let (mut taken, mut refused) = (Vec::new(), 0);
    for (id, outline, bytes) in &chunks {
        match store.put(id, outline, bytes.clone(), Class::Own) {
            Ok(()) => taken.push((id, bytes)),
            Err(StoreError::Full) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0 && taken.len() > 2);
    assert!(matches!(store.flush(), Err(StoreError::Full)));
    assert!(store.usage().trouble.unwrap().contains("no space"));
    let check = || {
        assert_eq!(store.read(&old, whole(500_000)).unwrap().unwrap(), old_bytes);
        for (id, bytes) in &taken {
            assert_eq!(store.read(id, whole(150_000)).unwrap().as_ref(), Some(*bytes));
        }
    };
    check();
    store.inner.segments.faults.set_room(i64::MAX);
    store.flush().unwrap();
    assert_eq!(store.usage().trouble, None);
    check();
    for (id, outline, bytes) in &chunks {
        store.put(id, outline, bytes.clone(), Class::Own).unwrap();
    }
    store.flush().unwrap();
}

#[test]
fn cached_chunks_pass_through_memory_while_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small()).unwrap();
    store.inner.segments.faults.set_room(0);
    for n in 0..40 {
        let (id, outline, bytes) = chunk(n, 150_000);
        store.put(&id, &outline, bytes.clone(), Class::Cached).unwrap();
        assert_eq!(store.read(&id, whole(150_000)).unwrap().unwrap(), bytes);
    }
    // Nothing that must be on disk is missing there.
    store.flush().unwrap();
    assert!(store.usage().pending_bytes <= 1 << 20);
}

#[test]
fn failed_sync_commits_nothing_and_leaves_what_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    let (old, old_outline, old_bytes) = chunk(0, 500_000);
    store.put(&old, &old_outline, old_bytes.clone(), Class::Own).unwrap();
    store.flush().unwrap();
    store.inner.segments.faults.set_sync(true);
    let (id, outline, bytes) = chunk(1, 500_000);
    store.put(&id, &outline, bytes.clone(), Class::Own).unwrap();
    assert!(store.flush().is_err());
    store.inner.segments.faults.set_sync(false);
    assert_eq!(store.read(&id, whole(500_000)).unwrap().unwrap(), bytes);
    let (next, next_outline, next_bytes) = chunk(2, 500_000);
    assert!(matches!(store.put(&next, &next_outline, next_bytes, Class::Own), Err(StoreError::ReadOnly(_))));
    assert!(matches!(store.flush(), Err(StoreError::ReadOnly(_))));
    assert_eq!(store.read(&old, whole(500_000)).unwrap().unwrap(), old_bytes);
    drop(store);
    let store = Store::open(dir.path(), roomy()).unwrap();
    assert_eq!(store.read(&old, whole(500_000)).unwrap().unwrap(), old_bytes);
    assert_eq!(store.slices(&id).unwrap(), None);
}

#[test]
fn unreadable_disk_is_a_missing_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    let (id, outline, bytes) = chunk(0, 500_000);
    store.put(&id, &outline, bytes.clone(), Class::Cached).unwrap();
    store.flush().unwrap();
    store.inner.segments.faults.set_read(true);
    assert_eq!(store.read(&id, whole(500_000)).unwrap(), None);
    assert_eq!(store.take_dropped(), [id]);
    store.inner.segments.faults.set_read(false);
    store.put(&id, &outline, bytes.clone(), Class::Cached).unwrap();
    store.flush().unwrap();
    assert_eq!(store.read(&id, whole(500_000)).unwrap().unwrap(), bytes);
}

#[test]
fn failing_writes_are_tried_again_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    let (id, outline, bytes) = chunk(0, 500_000);
    store.inner.segments.faults.set_write(true);
    store.put(&id, &outline, bytes.clone(), Class::Own).unwrap();
    assert!(store.flush().is_err());
    assert_eq!(store.read(&id, whole(500_000)).unwrap().unwrap(), bytes);
    store.inner.segments.faults.set_write(false);
    store.flush().unwrap();
    drop(store);
    let store = Store::open(dir.path(), roomy()).unwrap();
    assert_eq!(store.read(&id, whole(500_000)).unwrap().unwrap(), bytes);
}

#[test]
fn second_process_is_told_the_first_ones_number() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    let error = Store::open(dir.path(), roomy()).err().unwrap();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(store);
    Store::open(dir.path(), roomy()).unwrap();
}

#[test]
fn folder_is_private_and_no_link_is_followed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let store = Store::open(&path, roomy()).unwrap();
    let (id, outline, bytes) = chunk(0, 500_000);
    store.put(&id, &outline, bytes, Class::Own).unwrap();
    store.flush().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("segments"))), (0o700, 0o700));
    for name in ["lock", "index.redb", "state.redb"] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&segment_files(&path)[0]), 0o600);
    drop(store);
    for name in ["index.redb", "lock", "segments"] {
        let (real, moved) = (path.join(name), dir.path().join(name));
        std::fs::rename(&real, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &real).unwrap();
        assert!(Store::open(&path, roomy()).is_err(), "{name} is a link");
        std::fs::remove_file(&real).unwrap();
        std::fs::rename(&moved, &real).unwrap();
    }
    std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
    assert!(Store::open(&dir.path().join("link"), roomy()).is_err());
    assert!(Store::open(&path, roomy()).unwrap().holds(&id).unwrap());
}

#[test]
fn cache_keeps_its_quota_and_what_must_stay_stays() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { cache_bytes: 24 << 20, segment_bytes: 4 << 20, ..roomy() };
    let store = Store::open(dir.path(), config.clone()).unwrap();
    let len = 256 << 10;
    let put = |n: u64, class| {
        let (id, outline, bytes) = chunk(n, len);
        store.put(&id, &outline, bytes, class).unwrap();
        id
    };
    let root = ChunkId([9; 32]);
    let pinned: Vec<ChunkId> = (0..10).map(|n| chunk(n, len).0).collect();
    store.pin(&root, &pinned).unwrap();
    (0..10).for_each(|n| _ = put(n, Class::Cached));
    let own: Vec<ChunkId> = (10..20).map(|n| put(n, Class::Own)).collect();
    let hosted: Vec<ChunkId> = (20..30).map(|n| put(n, Class::Hosted { until: u64::MAX - 1 })).collect();
    let expired: Vec<ChunkId> = (30..40).map(|n| put(n, Class::Hosted { until: 1_000 })).collect();
    // A warm segment shields its cold chunks, too, so the warm ones get one of their own.
    (60..92).for_each(|n| _ = put(n, Class::Cached));
    let hot: Vec<ChunkId> = (40..48).map(|n| put(n, Class::Cached)).collect();
    for n in 100..600 {
        put(n, Class::Cached);
        hot.iter().for_each(|id| drop(store.read(id, SliceRange { first: 0, count: 1 }).unwrap()));
        if n % 50 == 0 {
            store.flush().unwrap();
        }
        let usage = store.usage();
        assert!(usage.cached_bytes <= config.cache_bytes, "{usage:?}");
    }
    store.flush().unwrap();
    let held = |ids: &[ChunkId]| ids.iter().filter(|id| store.holds(id).unwrap()).count();
    assert_eq!([held(&pinned), held(&own), held(&hosted)], [10, 10, 10]);
    assert_eq!(held(&expired), 0, "a lease that ended protects no longer");
    assert_eq!(held(&hot), 8, "what is read stays");
    let dropped: BTreeSet<ChunkId> = store.take_dropped().into_iter().collect();
    assert!(expired.iter().all(|id| dropped.contains(id)), "whoever announced them is told");
    let kept = [&pinned, &own, &hosted, &hot].into_iter().flatten();
    assert!(kept.into_iter().all(|id| !dropped.contains(id)));
    let usage = store.usage();
    assert!(usage.evicted_bytes > 80 << 20, "{usage:?}");
    assert_eq!((usage.own_bytes, usage.hosted_bytes), (10 * (4096 + len as u64), 10 * (4096 + len as u64)));
    assert_eq!(usage.pinned_bytes, 10 * (4096 + len as u64));
    store.unpin(&root).unwrap();
    store.set_class(&own, Class::Cached).unwrap();
    (600..800).for_each(|n| _ = put(n, Class::Cached));
    store.flush().unwrap();
    // Eviction follows the commit that flush waits for; one more round sees it through.
    store.set_class(&hot, Class::Cached).unwrap();
    put(999, Class::Cached);
    store.flush().unwrap();
    assert_eq!([held(&pinned), held(&own)], [0, 0], "nothing keeps these any more");
}

#[test]
fn opening_reads_no_more_with_many_chunks_than_with_few() {
    let read_at_opening = |chunks: u64| {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), roomy()).unwrap();
        for n in 0..chunks {
            let (id, outline, bytes) = chunk(n, 64);
            store.put(&id, &outline, bytes, Class::Own).unwrap();
        }
        store.flush().unwrap();
        // As after a crash: copied while open.
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("segments")).unwrap();
        for path in ["index.redb", "state.redb"] {
            std::fs::copy(dir.path().join(path), copy.path().join(path)).unwrap();
        }
        for path in segment_files(dir.path()) {
            // Their lengths matter, their content is not looked at.
            let file = std::fs::File::create(copy.path().join("segments").join(path.file_name().unwrap())).unwrap();
            file.set_len(std::fs::metadata(&path).unwrap().len()).unwrap();
        }
        // What redb reads for itself is its own affair (with debug assertions on, all of its file).
        let before = bytes_read();
        let database = redb::Builder::new().create_file(open_rw(&copy.path().join("index.redb"))).unwrap();
        let redb_alone = bytes_read() - before;
        drop(database);
        let before = bytes_read();
        let begin = Instant::now();
        let store = Store::open(copy.path(), roomy()).unwrap();
        let (read, time) = (bytes_read() - before, begin.elapsed());
        assert_eq!(store.usage().chunks, chunks);
        println!("{chunks} chunks: {time:?}, {read} bytes of which redb alone {redb_alone}");
        read.saturating_sub(redb_alone)
    };
    let (few, many) = (read_at_opening(10), read_at_opening(30_000));
    assert!(many < few + 100_000, "{few} {many}");
}

fn open_rw(path: &Path) -> std::fs::File {
    std::fs::File::options().read(true).write(true).open(path).unwrap()
}

/// Bytes that this thread has read by system calls.
fn bytes_read() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn many_threads_put_and_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { cache_bytes: 20 << 20, segment_bytes: 2 << 20, ..roomy() };
    let store = Store::open(dir.path(), config).unwrap();
    let chunks: Vec<_> = (0..60).map(|n| chunk(n, 200_000 + n as usize)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (store, chunks) = (&store, &chunks);
            scope.spawn(move || {
                for step in 0..400usize {
                    let (id, outline, bytes) = &chunks[(step * (thread + 3) + thread) % chunks.len()];
                    match (step + thread) % 5 {
                        0 => store.put(id, outline, bytes.clone(), Class::Cached).unwrap(),
                        1 | 2 => {
                            let slices = SliceRange { first: (step % 10) as u8, count: 3 };
                            let span = slices.bytes(outline.len);
                            let piece = bytes.slice(span.start as usize..span.end as usize);
                            store.put_slices(id, outline, slices.first, piece, Class::Cached).unwrap();
                        }
                        3 if step % 40 == 3 => store.remove(&[*id]).unwrap(),
                        3 if step % 40 == 8 => store.flush().unwrap(),
                        _ => {
                            let slices = SliceRange { first: (step % 7) as u8, count: 1 + (step % 13) as u8 };
                            let span = slices.bytes(outline.len);
                            if let Some(read) = store.read(id, slices).unwrap() {
                                assert_eq!(read, bytes.slice(span.start as usize..span.end as usize));
                            }
                        }
                    }
                }
            });
        }
    });
    store.flush().unwrap();
    let usage = store.usage();
    assert_eq!((usage.damaged_slices, usage.pending_bytes), (0, 0));
}

#[test]
fn lost_index_is_made_again_from_the_segments() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { segment_bytes: 1 << 20, ..roomy() };
    let store = Store::open(dir.path(), config.clone()).unwrap();
    let chunks: Vec<_> = (0..30).map(|n| chunk(n, [3_000, 16_384, 70_000, 300_000][n as usize % 4])).collect();
    for (id, outline, bytes) in &chunks {
        store.put(id, outline, bytes.clone(), Class::Own).unwrap();
    }
    let (part, part_outline, part_bytes) = chunk(77, 100_000);
    store.put_slices(&part, &part_outline, 2, part_bytes.slice(32_768..65_536), Class::Cached).unwrap();
    store.flush().unwrap();
    let gone: Vec<ChunkId> = chunks[10..14].iter().map(|(id, _, _)| *id).collect();
    store.remove(&gone).unwrap();
    store.flush().unwrap();
    let before = store.usage();
    drop(store);
    std::fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = Store::open(dir.path(), config.clone()).unwrap();
    for (id, outline, bytes) in &chunks {
        let here = !gone.contains(id);
        assert_eq!(store.read(id, whole(bytes.len())).unwrap(), here.then(|| bytes.clone()));
        assert_eq!(store.outline(id).unwrap(), here.then(|| outline.clone()));
        assert_eq!(store.class(id).unwrap(), here.then_some(Class::Own));
    }
    assert_eq!(store.slices(&part).unwrap().unwrap().mask, 0b1100);
    let after = store.usage();
    assert_eq!((after.own_bytes, after.cached_bytes), (before.own_bytes, before.cached_bytes));
    store.put_slices(&part, &part_outline, 0, part_bytes.slice(..32_768), Class::Cached).unwrap();
    store.put_slices(&part, &part_outline, 4, part_bytes.slice(65_536..), Class::Cached).unwrap();
    drop(store);
    let store = Store::open(dir.path(), config).unwrap();
    assert_eq!(store.read(&part, whole(100_000)).unwrap().unwrap(), part_bytes);
}

#[test]
fn flipped_bit_in_the_index_serves_nothing_wrong_and_takes_nothing_down() {
    let master = tempfile::tempdir().unwrap();
    let chunks: Vec<_> = (0..60).map(|n| chunk(n, [3_000, 16_384, 70_000][n as usize % 3])).collect();
    let store = Store::open(master.path(), roomy()).unwrap();
    for (id, outline, bytes) in &chunks {
        store.put(id, outline, bytes.clone(), Class::Own).unwrap();
    }
    drop(store);
    let good = std::fs::read(master.path().join("index.redb")).unwrap();
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let mut lost = 0;
    for round in 0..40usize {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("segments")).unwrap();
        for path in segment_files(master.path()) {
            std::fs::copy(&path, dir.path().join("segments").join(path.file_name().unwrap())).unwrap();
        }
        let mut bad = good.clone();
        // The first pages hold what everything hangs on.
        let at = if round < 10 { used[round * 13 % 200.min(used.len())] } else { used[round * 7_919 % used.len()] };
        bad[at] ^= 1 << (round % 8);
        std::fs::write(dir.path().join("index.redb"), &bad).unwrap();
        // Damage may show at once, or later; a second start repairs what the first one noticed.
        for _ in 0..2 {
            let Ok(store) = Store::open(dir.path(), roomy()) else { continue };
            for (id, _, bytes) in &chunks {
                if let Ok(Some(read)) = store.read(id, whole(bytes.len())) {
                    assert_eq!(read, bytes);
                }
            }
            let _ = store.whole_chunks(None, 100);
            let (id, outline, bytes) = chunk(1_000, 20_000);
            let _ = store.put(&id, &outline, bytes, Class::Cached);
            let _ = store.flush();
        }
        let store = Store::open(dir.path(), roomy()).unwrap();
        lost += chunks.iter().filter(|(id, _, _)| !store.holds(id).unwrap_or(false)).count();
    }
    assert!(lost < 200, "most survives: {lost} of 2400 lost");
}

/// Not a test by itself: runs on a file system of 24 MiB of its own.
#[test]
fn process_on_a_small_disk() {
    let Ok(dir) = std::env::var(SMALL_DISK) else { return };
    let config = StoreConfig { segment_bytes: 4 << 20, pending_bytes: 1 << 20, ..roomy() };
    let store = Store::open(Path::new(&dir), config.clone()).unwrap();
    let mut flushed = Vec::new();
    let full = 'fill: {
        for n in 0.. {
            let (id, outline, bytes) = chunk(n, if n % 2 == 0 { 200_000 } else { 3_000 });
            if let Err(error) = store.put(&id, &outline, bytes.clone(), Class::Own).and_then(|()| store.flush()) {
                break 'fill error;
            }
            flushed.push((id, bytes));
        }
        unreachable!()
    };
    assert!(matches!(full, StoreError::Full), "{full}");
    assert!(flushed.len() > 50);
    // Now to the last byte, as any other program may.
    let mut filler = std::fs::File::create(Path::new(&dir).join("filler")).unwrap();
    while std::io::Write::write(&mut filler, &[1; 4096]).is_ok() {}
    let check = |store: &Store, flushed: &[(ChunkId, Bytes)]| {
        for (id, bytes) in flushed {
            assert_eq!(store.read(id, whole(bytes.len())).unwrap().as_ref(), Some(bytes));
        }
    };
    check(&store, &flushed);
    // Space can be freed even so.
    let gone: Vec<ChunkId> = flushed.drain(..20).map(|(id, _)| id).collect();
    store.remove(&gone).unwrap();
    let _ = store.flush();
    store.flush().unwrap();
    check(&store, &flushed);
    let (id, outline, bytes) = chunk(9_999, 300_000);
    store.put(&id, &outline, bytes.clone(), Class::Own).unwrap();
    store.flush().unwrap();
    flushed.push((id, bytes));
    drop(store);
    let store = Store::open(Path::new(&dir), config).unwrap();
    check(&store, &flushed);
    assert!(!store.holds(&gone[0]).unwrap());
    println!("\nsurvived the small disk");
}

#[test]
fn full_file_system_loses_nothing_and_can_be_freed() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=24m tmpfs \"$0\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["store::tests::crash::process_on_a_small_disk", "--exact", "--nocapture", "--test-threads=1"])
        .env(SMALL_DISK, dir.path())
        .output();
    let Ok(output) = output else { return println!("skipped: no unshare here") };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !out.contains("running 1 test") {
        return println!("skipped: no namespaces here: {err}");
    }
    assert!(out.contains("survived the small disk"), "{out}\n{err}");
}
