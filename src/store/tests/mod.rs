//! The store against its twin in memory, and what it must survive.

mod crash;
mod model;

use super::*;
use crate::base::range::SliceRange;

/// A chunk of `len` bytes that depends on `seed` alone.
pub(super) fn chunk(seed: u64, len: usize) -> (ChunkId, Outline, Bytes) {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let (id, outline) = Outline::of(&bytes);
    (id, outline, Bytes::from(bytes))
}

pub(super) fn whole(len: usize) -> SliceRange {
    SliceRange::whole(len as u32)
}

/// A store that evicts nothing by itself.
pub(super) fn roomy() -> StoreConfig {
    StoreConfig { segment_bytes: 8 << 20, ..StoreConfig::roomy() }
}

#[test]
fn what_is_put_reads_back_at_once_after_a_flush_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let chunks: Vec<_> =
        [1, 100, 16_384, 16_385, 300_000, 1 << 20].iter().enumerate().map(|(i, len)| chunk(i as u64, *len)).collect();
    let check = |store: &Store| {
        for (id, outline, bytes) in &chunks {
            assert!(store.holds(id).unwrap());
            assert_eq!(store.read(id, whole(bytes.len())).unwrap().unwrap(), bytes);
            assert_eq!(store.outline(id).unwrap().as_ref(), Some(outline));
            let last = slice_count(outline.len) - 1;
            let part = store.read(id, SliceRange { first: last, count: 9 }).unwrap().unwrap();
            assert_eq!(part, bytes.slice(usize::from(last) * 16_384..));
        }
    };
    let store = Store::open(dir.path(), roomy()).unwrap();
    for (id, outline, bytes) in &chunks {
        assert_eq!(store.slices(id).unwrap(), None);
        store.put(id, outline, bytes.clone(), Class::Own).unwrap();
    }
    check(&store);
    store.flush().unwrap();
    check(&store);
    let usage = store.usage();
    assert_eq!((usage.chunks, usage.chunks_partial, usage.pending_bytes), (6, 0, 0));
    drop(store);
    let store = Store::open(dir.path(), roomy()).unwrap();
    check(&store);
    assert_eq!(store.usage().own_bytes, usage.own_bytes);
    let mut ids: Vec<ChunkId> = chunks.iter().map(|(id, _, _)| *id).collect();
    ids.sort();
    assert_eq!(store.whole_chunks(None, 100).unwrap(), ids);
    assert_eq!(store.whole_chunks(Some(&ids[1]), 2).unwrap(), ids[2..4]);
}

#[test]
fn slices_make_a_chunk_whole_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    let (id, outline, bytes) = chunk(7, 1_000_000);
    for (step, first) in [60u8, 3, 0, 20, 40, 1, 2, 4].into_iter().enumerate() {
        let last = [62, 4, 1, 40, 60, 2, 3, 20][step];
        let span = SliceRange { first, count: last - first }.bytes(outline.len);
        let piece = bytes.slice(span.start as usize..span.end as usize);
        assert!(!store.holds(&id).unwrap());
        assert_eq!(store.read(&id, whole(bytes.len())).unwrap(), None);
        store.put_slices(&id, &outline, first, piece.clone(), Class::Cached).unwrap();
        if step % 2 == 1 {
            store.flush().unwrap();
        }
        assert_eq!(store.read(&id, SliceRange { first, count: last - first }).unwrap().unwrap(), piece);
    }
    assert!(store.holds(&id).unwrap());
    assert_eq!(store.read(&id, whole(bytes.len())).unwrap().unwrap(), bytes);
    store.flush().unwrap();
    assert_eq!(store.read(&id, whole(bytes.len())).unwrap().unwrap(), bytes);
}

#[test]
fn state_tables_keep_their_pairs_in_order_and_their_transactions_whole() {
    const PEERS: Table = Table("peers.1");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    assert_eq!(store.state().value(PEERS, b"a").unwrap(), None);
    for durable in [false, true] {
        let put = |tx: &mut Transaction<'_>| {
            for key in ["b", "a1", "a2", "a3", "c"] {
                tx.put(PEERS, key.as_bytes(), format!("{key} {durable}").as_bytes())?;
            }
            assert!(tx.delete(PEERS, b"c")?);
            assert_eq!(tx.range(PEERS, b"", None, 100)?.len(), 4);
            Ok::<_, StoreError>(())
        };
        store.state().write(durable, put).unwrap();
    }
    let refused: Result<(), StoreError> = store.state().write(true, |tx| {
        tx.put(PEERS, b"a1", b"lost")?;
        Err(StoreError::Closed)
    });
    assert!(matches!(refused, Err(StoreError::Closed)));
    drop(store);
    let store = Store::open(dir.path(), roomy()).unwrap();
    let pair = |key: &str| (key.as_bytes().to_vec(), format!("{key} true").into_bytes());
    assert_eq!(store.state().range(PEERS, b"a", None, 9).unwrap(), [pair("a1"), pair("a2"), pair("a3")]);
    assert_eq!(store.state().range(PEERS, b"a", Some(b"a1"), 1).unwrap(), [pair("a2")]);
    assert_eq!(store.state().value(PEERS, b"b").unwrap(), Some(b"b true".to_vec()));
}

#[test]
fn store_that_is_being_closed_is_in_use_and_not_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), roomy()).unwrap();
    for round in 0..30 {
        let (id, outline, bytes) = chunk(round, 1000);
        store.put(&id, &outline, bytes, Class::Own).unwrap();
        let closing = std::thread::spawn(move || drop(store));
        store = loop {
            match Store::open(dir.path(), roomy()) {
                Ok(store) => break store,
                Err(StoreError::InUse { .. }) => std::thread::yield_now(),
                Err(error) => panic!("round {round}: {error}"),
            }
        };
        closing.join().unwrap();
    }
}

#[test]
fn what_is_own_is_stored_where_others_find_no_room() {
    let dir = tempfile::tempdir().unwrap();
    // Whatever is free is too little.
    let config = || StoreConfig { disk_free_min: 1.0, pending_bytes: 4 << 20, ..roomy() };
    let store = Store::open(dir.path(), config()).unwrap();
    while store.usage().trouble.is_none() {
        store.flush().unwrap();
    }
    let hosted = Class::Hosted { until: u64::MAX };
    let (cached, host, own) = (chunk(1, 300_000), chunk(2, 300_000), chunk(3, 300_000));
    for ((id, outline, bytes), class) in [(&cached, Class::Cached), (&host, hosted), (&own, Class::Own)] {
        store.put(id, outline, bytes.clone(), class).unwrap();
        assert_eq!(store.read(id, whole(300_000)).unwrap().unwrap(), bytes);
    }
    store.flush().unwrap();
    assert!(matches!(store.flush_hosted(), Err(StoreError::Full)));
    assert!(store.usage().trouble.unwrap().contains("100 %"));
    // However much is read or offered: it passes through memory.
    for seed in 10..40 {
        let (id, outline, bytes) = chunk(seed, 1 << 20);
        store.put(&id, &outline, bytes.clone(), if seed % 2 == 0 { hosted } else { Class::Cached }).unwrap();
        assert_eq!(store.read(&id, whole(1 << 20)).unwrap().unwrap(), bytes);
    }
    let (id, outline, bytes) = chunk(4, 1 << 20);
    store.put(&id, &outline, bytes.clone(), Class::Own).unwrap();
    store.flush().unwrap();
    drop(store);
    let store = Store::open(dir.path(), roomy()).unwrap();
    assert_eq!(store.read(&id, whole(1 << 20)).unwrap().unwrap(), bytes);
    assert!(store.holds(&own.0).unwrap() && !store.holds(&host.0).unwrap());
}

#[test]
fn what_was_read_makes_room_before_what_came_and_was_not_read_yet() {
    let dir = tempfile::tempdir().unwrap();
    // Segments of four chunks each.
    let store = Store::open(dir.path(), StoreConfig { segment_bytes: 4 << 20, ..roomy() }).unwrap();
    let len = 1 << 20;
    let chunks: Vec<_> = (0..12).map(|seed| chunk(seed, len)).collect();
    for (id, outline, bytes) in &chunks {
        store.put(id, outline, bytes.clone(), Class::Cached).unwrap();
    }
    store.flush().unwrap();
    // A reader came as far as the middle of chunk 6; the rest was fetched ahead for him.
    for (place, (id, _, bytes)) in chunks.iter().enumerate().take(7) {
        let part = if place == 6 { SliceRange { first: 0, count: 8 } } else { whole(bytes.len()) };
        store.read(id, part).unwrap().unwrap();
    }
    let held = || -> Vec<bool> { chunks.iter().map(|(id, _, _)| store.holds(id).unwrap()).collect() };
    store.inner.evict(5 * len as u64).unwrap();
    let left: Vec<bool> = (0..12).map(|place| place >= 5).collect();
    assert_eq!(held(), left, "the oldest of what was read goes");
    store.inner.evict(2 * len as u64).unwrap();
    let left: Vec<bool> = (0..12).map(|place| place >= 7).collect();
    assert_eq!(held(), left, "then the rest of it");
    store.inner.evict(3 * len as u64).unwrap();
    let left: Vec<bool> = (0..12).map(|place| place >= 10).collect();
    assert_eq!(held(), left, "the limit holds even so");
}

#[test]
fn what_peers_ask_for_goes_after_what_nobody_reads_the_most_wanted_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig { segment_bytes: 4 << 20, ..roomy() }).unwrap();
    let len = 1u64 << 20;
    // So much came since that none of the first twelve is awaited or in use any more.
    let chunks: Vec<_> = (0..12).map(|seed| chunk(seed, 1 << 20)).collect();
    for (id, outline, bytes) in &chunks {
        store.put(id, outline, bytes.clone(), Class::Cached).unwrap();
    }
    store.inner.came.fetch_add(4 << 30, Ordering::Relaxed);
    store.flush().unwrap();
    for (place, reads) in [(1, 3.0), (2, 50.0), (5, 4.0), (9, 9.0)] {
        store.note_asked(&chunks[place].0, reads);
    }
    store.note_asked(&chunks[3].0, 1.0);
    let held = || -> Vec<usize> { (0..12).filter(|place| store.holds(&chunks[*place].0).unwrap()).collect() };
    store.inner.evict(8 * len).unwrap();
    assert_eq!(held(), [1, 2, 5, 9]);
    store.inner.evict(2 * len).unwrap();
    assert_eq!(held(), [2, 9]);
    let dropped: BTreeSet<ChunkId> = store.take_dropped().into_iter().collect();
    assert!(dropped.len() == 10 && !dropped.contains(&chunks[9].0));
    store.inner.evict(2 * len).unwrap();
    assert_eq!(held(), [0; 0]);
}

#[test]
fn discarding_spares_what_is_kept_for_another_reason() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), roomy()).unwrap();
    let chunks: Vec<_> = (0..4).map(|seed| chunk(seed, 100_000)).collect();
    let classes = [Class::Own, Class::Hosted { until: u64::MAX - 1 }, Class::Cached, Class::Cached];
    for ((id, outline, bytes), class) in chunks.iter().zip(classes) {
        store.put(id, outline, bytes.clone(), class).unwrap();
    }
    let ids: Vec<ChunkId> = chunks.iter().map(|(id, _, _)| *id).collect();
    store.pin(&chunk(9, 1).0, &ids[2..3]).unwrap();
    store.flush().unwrap();
    store.discard(&ids).unwrap();
    assert_eq!(store.holds_each(&ids).unwrap(), [true, true, true, false]);
    assert_eq!(store.take_dropped(), ids[3..]);
}

#[test]
fn what_is_pinned_before_it_comes_is_never_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig { disk_free_min: 0.0, ..StoreConfig::sized(16 << 20) }).unwrap();
    let chunks: Vec<_> = (0..48).map(|seed| chunk(seed, 1 << 20)).collect();
    let (root, ids) = (chunk(99, 9).0, chunks.iter().map(|(id, _, _)| *id).collect::<Vec<_>>());
    assert!(!store.is_pinned(&root).unwrap());
    store.pin(&root, &ids).unwrap();
    assert!(store.is_pinned(&root).unwrap());
    for (id, outline, bytes) in &chunks {
        store.put(id, outline, bytes.clone(), Class::Cached).unwrap();
    }
    store.flush().unwrap();
    assert!(store.holds_each(&ids).unwrap().iter().all(|held| *held));
    let usage = store.usage();
    assert!(usage.pinned_bytes >= 48 << 20 && usage.cached_bytes == 0, "{usage:?}");
}
