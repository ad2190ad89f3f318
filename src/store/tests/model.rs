//! Random operations on the store and on its twin.

use super::*;
use crate::store::memory::MemoryStore;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Put(usize, Class),
    PutSlices { chunk: usize, first: u8, count: u8, class: Class },
    Read { chunk: usize, first: u8, count: u8 },
    SetClass(usize, Class),
    Pin(usize, Vec<usize>),
    Unpin(usize),
    Remove(usize),
    Flush,
    Evict(u64),
    Discard(Vec<usize>),
    Reopen,
}

const LENS: [usize; 12] =
    [1, 4032, 16_384, 16_385, 40_000, 65_536, 131_072, 200_000, 262_144, 700_001, 1_000_000, 1 << 20];

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        4 => Just(Class::Cached),
        1 => Just(Class::Own),
        1 => (u64::MAX - 9..u64::MAX).prop_map(|until| Class::Hosted { until }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let chunk = 0..LENS.len();
    prop_oneof![
        4 => (chunk.clone(), class()).prop_map(|(chunk, class)| Step::Put(chunk, class)),
        8 => (chunk.clone(), 0..64u8, 1..20u8, class())
            .prop_map(|(chunk, first, count, class)| Step::PutSlices { chunk, first, count, class }),
        10 => (chunk.clone(), 0..64u8, 0..64u8).prop_map(|(chunk, first, count)| Step::Read { chunk, first, count }),
        1 => (chunk.clone(), class()).prop_map(|(chunk, class)| Step::SetClass(chunk, class)),
        1 => (0..3usize, prop::collection::vec(chunk.clone(), 0..4)).prop_map(|(root, chunks)| Step::Pin(root, chunks)),
        1 => (0..3usize).prop_map(Step::Unpin),
        1 => chunk.clone().prop_map(Step::Remove),
        2 => Just(Step::Flush),
        1 => (0..2_000_000u64).prop_map(Step::Evict),
        1 => prop::collection::vec(chunk.clone(), 0..6).prop_map(Step::Discard),
        1 => Just(Step::Reopen),
    ]
}

/// The store holds what the twin holds, and says the same of it.
fn agree(store: &Store, twin: &MemoryStore, chunks: &[(ChunkId, Outline, Bytes)]) {
    let ids: Vec<ChunkId> = chunks.iter().map(|(id, _, _)| *id).collect();
    let held: Vec<bool> = ids.iter().map(|id| twin.holds(id)).collect();
    assert_eq!(store.holds_each(&ids).unwrap(), held);
    for (id, _, bytes) in chunks {
        assert_eq!(store.slices(id).unwrap(), twin.slices(id));
        assert_eq!(store.outline(id).unwrap(), twin.outline(id));
        assert_eq!(store.read(id, whole(bytes.len())).unwrap(), twin.read(id, whole(bytes.len())));
        let class = store.class(id).unwrap().filter(|class| *class != Class::Cached);
        assert_eq!(class, twin.class(id).filter(|class| *class != Class::Cached));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn store_does_as_its_twin(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { segment_bytes: 2 << 20, pending_bytes: 1 << 20, ..roomy() };
        let mut store = Store::open(dir.path(), config.clone()).unwrap();
        let mut twin = MemoryStore::new();
        let chunks: Vec<_> = LENS.iter().enumerate().map(|(i, len)| chunk(i as u64, *len)).collect();
        let root = |i: usize| ChunkId([i as u8; 32]);
        for step in steps {
            match step {
                Step::Put(i, class) => {
                    let (id, outline, bytes) = &chunks[i];
                    store.put(id, outline, bytes.clone(), class).unwrap();
                    twin.put(id, outline, bytes.clone(), class).unwrap();
                }
                Step::PutSlices { chunk, first, count, class } => {
                    let (id, outline, bytes) = &chunks[chunk];
                    let span = SliceRange { first, count }.bytes(outline.len);
                    let piece = bytes.slice(span.start as usize..span.end as usize);
                    let stored = store.put_slices(id, outline, first, piece.clone(), class);
                    prop_assert_eq!(stored.is_ok(), twin.put_slices(id, outline, first, piece, class).is_ok());
                }
                Step::Read { chunk, first, count } => {
                    let slices = SliceRange { first, count };
                    let (id, _, _) = &chunks[chunk];
                    let expected = twin.read(id, slices);
                    if let Some(bytes) = store.read_memory(id, slices) {
                        prop_assert_eq!(Some(&bytes), expected.as_ref());
                    }
                    prop_assert_eq!(store.read(id, slices).unwrap(), expected);
                }
                Step::SetClass(i, class) => {
                    store.set_class(&[chunks[i].0], class).unwrap();
                    twin.set_class(&[chunks[i].0], class);
                }
                Step::Pin(label, list) => {
                    let ids: Vec<ChunkId> = list.iter().map(|i| chunks[*i].0).collect();
                    store.pin(&root(label), &ids).unwrap();
                    twin.pin(&root(label), &ids);
                }
                Step::Unpin(label) => {
                    store.unpin(&root(label)).unwrap();
                    twin.unpin(&root(label));
                }
                Step::Remove(i) => {
                    // A removed chunk is out of its pins only once they end, so the twin would differ.
                    if !twin.is_pinned(&chunks[i].0) {
                        store.remove(&[chunks[i].0]).unwrap();
                        twin.remove(&[chunks[i].0]);
                    }
                }
                Step::Flush => {
                    store.flush().unwrap();
                    prop_assert_eq!(store.usage().pending_bytes, 0);
                    let whole: Vec<ChunkId> = twin.whole_chunks(None, 100);
                    prop_assert_eq!(store.whole_chunks(None, 100).unwrap(), whole);
                }
                Step::Evict(bytes) => {
                    store.flush().unwrap();
                    store.inner.evict(bytes).unwrap();
                    store.flush().unwrap();
                    for (id, _, _) in &chunks {
                        // Which chunks go is the store's to say, but only such as may go, and each as a whole.
                        if store.slices(id).unwrap().is_none() && twin.slices(id).is_some() {
                            prop_assert_eq!(twin.class(id), Some(Class::Cached));
                            prop_assert!(!twin.is_pinned(id));
                            twin.drop_slices(id, u64::MAX);
                        }
                    }
                }
                Step::Discard(list) => {
                    let ids: Vec<ChunkId> = list.iter().map(|i| chunks[*i].0).collect();
                    store.flush().unwrap();
                    store.discard(&ids).unwrap();
                    for id in &ids {
                        let goes = twin.class(id).is_none_or(|class| class == Class::Cached) && !twin.is_pinned(id);
                        prop_assert!(!goes || store.slices(id).unwrap().is_none());
                        if goes {
                            twin.drop_slices(id, u64::MAX);
                        }
                    }
                }
                Step::Reopen => {
                    drop(store);
                    store = Store::open(dir.path(), config.clone()).unwrap();
                }
            }
        }
        agree(&store, &twin, &chunks);
        drop(store);
        let store = Store::open(dir.path(), config).unwrap();
        agree(&store, &twin, &chunks);
        let usage = store.usage();
        prop_assert_eq!(usage.damaged_slices, 0);
        prop_assert_eq!(usage.chunks, twin.whole_chunks(None, 100).len() as u64);
    }
}
