//! What was bought, and what each chunk of it earns: the least goes first.

use super::decay::{Scale, Weight};
use crate::base::digest::ChunkId;
use crate::base::time::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// Chunks in it at most.
pub(super) const CHUNKS_MAX: usize = 65_536;

/// Bought chunks.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    scale: Scale,
    chunks: BTreeMap<ChunkId, Bought>,
    /// By what they earn, the least first. Time changes nothing in it.
    order: BTreeSet<(Weight, ChunkId)>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Bought {
    bytes: u32,
    /// Whole reads, fading.
    reads: Weight,
}

impl Inventory {
    /// A chunk came that is expected to be read so often in an hour.
    pub(super) fn insert(&mut self, now: Instant, id: ChunkId, bytes: u32, expected: f64) {
        self.remove(&id);
        self.rebase(now);
        let reads = Weight(expected * self.scale.one(now));
        self.chunks.insert(id, Bought { bytes, reads });
        self.order.insert((reads, id));
        self.bytes += u64::from(bytes);
    }

    /// So many bytes of it were asked for. False: it is not in here.
    pub(super) fn served(&mut self, now: Instant, id: &ChunkId, bytes: u64) -> bool {
        self.rebase(now);
        let one = self.scale.one(now);
        let Some(bought) = self.chunks.get_mut(id) else { return false };
        self.order.remove(&(bought.reads, *id));
        bought.reads.0 += one * (bytes as f64 / f64::from(bought.bytes.max(1))).min(1.0);
        self.order.insert((bought.reads, *id));
        true
    }

    /// What earns the least, and how often it is read in an hour.
    pub(super) fn worst(&self, now: Instant) -> Option<(ChunkId, f64)> {
        self.order.first().map(|(reads, id)| (*id, self.scale.value(now, *reads)))
    }

    pub(super) fn remove(&mut self, id: &ChunkId) -> bool {
        let Some(bought) = self.chunks.remove(id) else { return false };
        self.order.remove(&(bought.reads, *id));
        self.bytes -= u64::from(bought.bytes);
        true
    }

    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.chunks.contains_key(id)
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn rebase(&mut self, now: Instant) {
        let Some(factor) = self.scale.rebase(now) else { return };
        self.order.clear();
        for (id, bought) in &mut self.chunks {
            bought.reads.0 *= factor;
            self.order.insert((bought.reads, *id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(number: u8) -> ChunkId {
        ChunkId([number; 32])
    }

    proptest! {
        #[test]
        fn the_sums_and_the_order_are_those_of_a_naive_twin(
            steps in prop::collection::vec((0u8..4, 0u8..12, 1u64..90_000), 1..200),
        ) {
            let mut inventory = Inventory::default();
            let mut twin: BTreeMap<ChunkId, Vec<(u64, f64)>> = BTreeMap::new();
            let mut now = Instant(0);
            for (what, number, wait) in steps {
                now = Instant(now.0 + wait * 1_000_000);
                let id = chunk(number);
                match what {
                    0 => {
                        inventory.insert(now, id, 100, 2.0);
                        twin.insert(id, vec![(now.0, 2.0)]);
                    }
                    1 => {
                        inventory.remove(&id);
                        twin.remove(&id);
                    }
                    _ => {
                        prop_assert_eq!(inventory.served(now, &id, 50), twin.contains_key(&id));
                        if let Some(reads) = twin.get_mut(&id) {
                            reads.push((now.0, 0.5));
                        }
                    }
                }
                prop_assert_eq!(inventory.bytes(), 100 * twin.len() as u64);
                prop_assert_eq!(inventory.order.len(), inventory.len());
                let value = |reads: &Vec<(u64, f64)>| {
                    let age = |at: u64| (now.0 - at) as f64 / (64.0 * 38_988_000.0);
                    reads.iter().map(|(at, worth)| worth * (-age(*at)).exp2()).sum::<f64>()
                };
                let least = twin.values().map(value).fold(f64::INFINITY, f64::min);
                if let Some((_, worst)) = inventory.worst(now) {
                    prop_assert!((worst - least).abs() <= 0.05 * least.max(1e-9), "{} is not {}", worst, least);
                }
            }
        }
    }
}
