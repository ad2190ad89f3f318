//! Which chunks peers ask for, and about how often: eviction spares them longest.

use crate::base::digest::ChunkId;
use crate::base::sync::lock;
use std::collections::HashMap;
use std::sync::Mutex;

/// Chunks remembered.
const CHUNKS_MAX: usize = 16_384;
/// What is asked for half as often every so many seconds is asked for at a steady rate: see `market::popularity`.
const HALF_LIFE_SECONDS: f64 = 2495.0;
/// When all of them are wanted, nothing is made room for before so many seconds.
const PAUSE_SECONDS: f64 = 60.0;

/// How often chunks are asked for, as powers of two; each falls by one in a half-life.
#[derive(Debug, Default)]
pub(super) struct Worth {
    ranks: Mutex<Ranks>,
}

#[derive(Debug, Default)]
struct Ranks {
    /// Logarithm of the number of reads, plus the half-lives that had passed then: so nothing changes while time passes.
    of: HashMap<ChunkId, f32>,
    /// No room is made before this second: who asks for ever more chunks does not make us look through all of them each time.
    full_until: f64,
}

impl Worth {
    /// At second `now` peers read a chunk so many times in an hour.
    pub(super) fn note(&self, now: f64, id: &ChunkId, reads: f64) {
        if reads < 2.0 {
            return;
        }
        let at = now / HALF_LIFE_SECONDS;
        let rank = (reads.log2() + at) as f32;
        let mut ranks = lock(&self.ranks);
        if ranks.of.len() >= CHUNKS_MAX && !ranks.of.contains_key(id) {
            if now < ranks.full_until {
                return;
            }
            ranks.of.retain(|_, rank| f64::from(*rank) >= at + 1.0);
            if ranks.of.len() >= CHUNKS_MAX {
                ranks.full_until = now + PAUSE_SECONDS;
                return;
            }
        }
        let known = ranks.of.entry(*id).or_insert(rank);
        *known = known.max(rank);
    }

    /// The power of two: 0 is less than twice an hour.
    pub(super) fn level(&self, now: f64, id: &ChunkId) -> u32 {
        let rank = lock(&self.ranks).of.get(id).copied();
        rank.map_or(0, |rank| (f64::from(rank) - now / HALF_LIFE_SECONDS).max(0.0) as u32)
    }

    /// A chunk is gone.
    pub(super) fn forget(&self, id: &ChunkId) {
        lock(&self.ranks).of.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u32) -> ChunkId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        ChunkId(id)
    }

    #[test]
    fn what_is_asked_for_counts_by_powers_of_two_and_fades() {
        let worth = Worth::default();
        worth.note(0.0, &chunk(1), 9.0);
        worth.note(0.0, &chunk(2), 1.0);
        assert_eq!((worth.level(1.0, &chunk(1)), worth.level(1.0, &chunk(2)), worth.level(1.0, &chunk(3))), (3, 0, 0));
        assert_eq!((worth.level(2500.0, &chunk(1)), worth.level(20_000.0, &chunk(1))), (2, 0));
        worth.note(2500.0, &chunk(1), 2.0);
        assert_eq!(worth.level(2500.0, &chunk(1)), 2);
        worth.forget(&chunk(1));
        assert_eq!(worth.level(2500.0, &chunk(1)), 0);
    }

    #[test]
    fn memory_is_bounded_and_what_faded_makes_room() {
        let worth = Worth::default();
        for number in 0..3 * CHUNKS_MAX as u32 {
            worth.note(0.0, &chunk(number), 4.0);
        }
        assert_eq!(lock(&worth.ranks).of.len(), CHUNKS_MAX);
        worth.note(10_000.0, &chunk(u32::MAX), 4.0);
        assert_eq!(worth.level(10_000.0, &chunk(u32::MAX)), 2);
        assert_eq!(lock(&worth.ranks).of.len(), 1);
    }
}
