//! Which chunks the trees that are kept consist of, in little memory.

use crate::base::digest::ChunkId;
use crate::base::limit::{MANIFEST_DEPTH_MAX, TREE_DEPTH_MAX};
use crate::base::range::SliceRange;
use crate::content::reference::{VerifyNodeRef, VerifyRef};
use crate::content::section::{NodeError, VerifySection};
use crate::store::{Store, StoreError};
use std::collections::HashSet;

/// Bits for each chunk: with `PROBES` one in a thousand chunks that nothing refers to is taken for one that is kept, until the next run,
/// which takes other bits.
const BITS: u64 = 16;
const PROBES: usize = 6;
const BITS_MIN: u64 = 1 << 16;
/// 16 MiB.
const BITS_MAX: u64 = 1 << 27;

/// Why the trees could not be walked.
#[derive(Debug, thiserror::Error)]
pub(super) enum MarkError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest that must be here is not.
    #[error("a manifest of a tree that is kept is not here: {0}")]
    Missing(ChunkId),
    /// A manifest of ours cannot be read.
    #[error("a manifest of a tree that is kept cannot be read: {0}")]
    Manifest(#[from] NodeError),
    /// The engine is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// The marked chunks. Nodes are told for certain (but for 64 bits of their hashes), data chunks by a Bloom filter, which may hold too
/// many of them and never too few.
pub(super) struct Marks {
    nodes: HashSet<u64>,
    bits: Vec<u64>,
    mask: u64,
    seed: [u8; 32],
}

impl Marks {
    /// None, with room for `chunks`.
    pub(super) fn new(chunks: u64, seed: [u8; 32]) -> Marks {
        let bits = chunks.saturating_mul(BITS).clamp(BITS_MIN, BITS_MAX).next_power_of_two();
        Marks { nodes: HashSet::new(), bits: vec![0; (bits / 64) as usize], mask: bits - 1, seed }
    }

    fn probes(&self, id: &ChunkId) -> impl Iterator<Item = (usize, u64)> + use<> {
        let hash = blake3::keyed_hash(&self.seed, id.as_bytes());
        let (mask, bytes) = (self.mask, *hash.as_bytes());
        (0..PROBES).map(move |probe| {
            let word = bytes.get(probe * 5..probe * 5 + 5).unwrap_or_default();
            let place = word.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)) & mask;
            ((place / 64) as usize, 1 << (place % 64))
        })
    }

    fn add(&mut self, id: &ChunkId) {
        for (word, bit) in self.probes(id) {
            if let Some(word) = self.bits.get_mut(word) {
                *word |= bit;
            }
        }
    }

    /// Whether the chunk belongs to a tree that is kept; seldom also of one that does not.
    pub(super) fn may_hold(&self, id: &ChunkId) -> bool {
        self.probes(id).all(|(word, bit)| self.bits.get(word).is_none_or(|word| word & bit != 0))
    }

    /// Whether this node belongs to a tree that is kept.
    pub(super) fn holds_node(&self, id: &ChunkId) -> bool {
        self.nodes.contains(&short(id))
    }

    /// Marks everything under a reference. All manifests must be in the store.
    pub(super) fn tree(&mut self, store: &Store, root: &VerifyRef, go_on: &dyn Fn() -> bool) -> Result<(), MarkError> {
        let mut pending: Vec<(VerifyNodeRef, usize)> = vec![(root.node, 0)];
        while let Some((node, depth)) = pending.pop() {
            if !self.nodes.insert(short(&node.id)) {
                continue;
            }
            if !go_on() {
                return Err(MarkError::Stopped);
            }
            if depth > TREE_DEPTH_MAX * MANIFEST_DEPTH_MAX {
                return Err(MarkError::Manifest(NodeError::Range));
            }
            self.add(&node.id);
            let bytes = store.read(&node.id, SliceRange::whole(node.len))?.ok_or(MarkError::Missing(node.id))?;
            let section = VerifySection::open(&node.key, &bytes)?;
            section.stripes.iter().flat_map(|stripe| &stripe.ids).for_each(|id| self.add(id));
            pending.extend(section.children.into_iter().map(|child| (child, depth + 1)));
        }
        Ok(())
    }
}

fn short(id: &ChunkId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> ChunkId {
        ChunkId::of(&number.to_le_bytes())
    }

    #[test]
    fn no_marked_chunk_is_ever_missed_and_few_others_are_taken_for_marked() {
        for (count, room) in [(1000, 1000), (20_000, 20_000), (20_000, 10)] {
            let mut marks = Marks::new(room, [7; 32]);
            (0..count).for_each(|number| marks.add(&id(number)));
            assert!((0..count).all(|number| marks.may_hold(&id(number))));
            let wrong = (count..2 * count).filter(|number| marks.may_hold(&id(*number))).count();
            if room >= u64::from(count) {
                assert!(wrong * 100 < count as usize, "{wrong} of {count}");
            }
        }
    }

    #[test]
    fn another_seed_takes_other_chunks_for_marked() {
        let wrong = |seed| {
            let mut marks = Marks::new(10, [seed; 32]);
            (0..20_000).for_each(|number| marks.add(&id(number)));
            (20_000..40_000).filter(|number| marks.may_hold(&id(*number))).collect::<HashSet<u32>>()
        };
        let (first, second) = (wrong(1), wrong(2));
        assert!(!first.is_empty() && first.intersection(&second).count() < first.len());
    }
}
