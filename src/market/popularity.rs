//! How often each chunk is asked for, held here or in vain, in bounded memory: counters for what is asked for again, a sketch for the rest.

use super::decay::{Scale, Weight};
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::message::Demand;
use std::collections::BTreeMap;

/// Chunks that have counters of their own.
const CHUNKS_MAX: usize = 32_768;
/// When they are full, what was asked for more often than this gets one, in the place of what was asked for less.
const AGAIN: f64 = 1.5;
/// The sketch: rows and cells of each (Cormode, Muthukrishnan 2005).
const ROWS: usize = 4;
const CELLS: usize = 16_384;

/// The counters.
#[derive(Debug)]
pub struct Popularity {
    scale: Scale,
    chunks: BTreeMap<ChunkId, Count>,
    /// Empty until the counters are full for the first time.
    tail: Vec<f32>,
    seed: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    asked: Weight,
    missed: Weight,
    /// Who asked in vain last.
    by: u64,
}

impl Popularity {
    /// Nothing was asked for yet. Where chunks lie in the sketch is by `seed`, so that nobody can crowd one out on purpose.
    pub fn new(seed: u64) -> Popularity {
        Popularity { scale: Scale::default(), chunks: BTreeMap::new(), tail: Vec::new(), seed }
    }

    /// Counts one request of a peer for a chunk, in vain or not, and gives the demand so far. In vain counts only who did not do so last: a
    /// peer that asks again and again is one that wants it.
    pub fn count(&mut self, now: Instant, chunk: &ChunkId, by: &PeerId, missed: bool) -> Demand {
        self.rebase(now);
        let one = self.scale.one(now);
        let by = mark(by);
        let full = self.chunks.len() >= CHUNKS_MAX;
        if !self.chunks.contains_key(chunk) {
            let asked = self.tail_add(chunk, one, full);
            if full {
                if asked < AGAIN * one {
                    return self.demand(now, chunk);
                }
                self.make_room(now);
            }
            let before = Weight((asked - one).max(0.0));
            let missed = if missed { before } else { Weight::default() };
            self.chunks.insert(*chunk, Count { asked: before, missed, by: 0 });
        }
        if let Some(count) = self.chunks.get_mut(chunk) {
            count.asked.0 += one;
            if missed && count.by != by {
                count.missed.0 += one;
                count.by = by;
            }
        }
        self.demand(now, chunk)
    }

    /// The demand for a chunk.
    pub fn demand(&self, now: Instant, chunk: &ChunkId) -> Demand {
        let whole = |weight| self.scale.value(now, weight).round().clamp(0.0, f64::from(u32::MAX)) as u32;
        match self.chunks.get(chunk) {
            Some(count) => Demand { asked: whole(count.asked), missed: whole(count.missed) },
            None => Demand { asked: whole(Weight(f64::from(self.tail(chunk)))), missed: 0 },
        }
    }

    /// How often it was asked for in vain, in requests an hour.
    pub fn missed(&self, now: Instant, chunk: &ChunkId) -> f64 {
        self.chunks.get(chunk).map_or(0.0, |count| self.scale.value(now, count.missed))
    }

    /// Chunks with counters of their own.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn rebase(&mut self, now: Instant) {
        let Some(factor) = self.scale.rebase(now) else { return };
        for count in self.chunks.values_mut() {
            count.asked.0 *= factor;
            count.missed.0 *= factor;
        }
        for cell in &mut self.tail {
            *cell = (f64::from(*cell) * factor) as f32;
        }
    }

    /// Counters of what was hardly asked for go into the sketch: ever more, until a quarter is free.
    fn make_room(&mut self, now: Instant) {
        let mut floor = self.scale.one(now);
        while self.chunks.len() > CHUNKS_MAX / 4 * 3 {
            let least = Weight(floor);
            let gone: Vec<(ChunkId, Weight)> = self
                .chunks
                .iter()
                .filter(|(_, count)| count.asked <= least)
                .map(|(chunk, count)| (*chunk, count.asked))
                .collect();
            for (chunk, asked) in gone {
                self.chunks.remove(&chunk);
                self.tail_raise(&chunk, asked.0 as f32);
            }
            floor *= 2.0;
        }
    }

    fn cells(&self, chunk: &ChunkId) -> [usize; ROWS] {
        let word = |place: usize| chunk.0.get(place * 8..place * 8 + 8).and_then(|part| part.try_into().ok());
        let word = |place: usize| word(place).map_or(0, u64::from_le_bytes);
        let mut cells = [0; ROWS];
        for (row, cell) in cells.iter_mut().enumerate() {
            // Chunk ids in requests need not be hashes of anything: all of them and the seed go in.
            let mut mixed = self.seed.wrapping_add(row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for place in 0..4 {
                mixed = (mixed ^ word(place)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed ^= mixed >> 29;
            }
            *cell = row * CELLS + (mixed >> 32) as usize % CELLS;
        }
        cells
    }

    fn tail(&self, chunk: &ChunkId) -> f32 {
        let cells = self.cells(chunk).into_iter().filter_map(|cell| self.tail.get(cell));
        cells.copied().reduce(f32::min).unwrap_or(0.0)
    }

    fn tail_raise(&mut self, chunk: &ChunkId, to: f32) {
        for cell in self.cells(chunk) {
            if let Some(cell) = self.tail.get_mut(cell) {
                *cell = cell.max(to);
            }
        }
    }

    /// What the sketch has of a chunk with one request more, which is added to it where that has no counter of its own.
    fn tail_add(&mut self, chunk: &ChunkId, one: f64, add: bool) -> f64 {
        if add && self.tail.is_empty() {
            self.tail = vec![0.0; ROWS * CELLS];
        }
        let asked = f64::from(self.tail(chunk)) + one;
        if add {
            self.tail_raise(chunk, asked as f32);
        }
        asked
    }
}

fn mark(peer: &PeerId) -> u64 {
    peer.0.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(number: u32) -> ChunkId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        ChunkId(id)
    }

    fn peer(number: u32) -> PeerId {
        PeerId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn demand_is_what_was_asked_in_about_an_hour() {
        let mut popularity = Popularity::new(1);
        let mut demand = Demand::default();
        for minute in 0..600u32 {
            let now = Instant(u64::from(minute) * 60_000_000);
            demand = popularity.count(now, &chunk(1), &peer(minute), minute % 2 == 0);
        }
        assert!((57..=63).contains(&demand.asked), "{demand:?}");
        assert!((27..=33).contains(&demand.missed), "{demand:?}");
        let later = popularity.demand(Instant(6000 * 60_000_000), &chunk(1));
        assert_eq!(later, Demand::default());
    }

    #[test]
    fn who_asks_again_and_again_wants_it_once() {
        let mut popularity = Popularity::new(1);
        for _ in 0..20 {
            popularity.count(Instant(0), &chunk(1), &peer(1), true);
        }
        assert_eq!(popularity.demand(Instant(0), &chunk(1)), Demand { asked: 20, missed: 1 });
        popularity.count(Instant(0), &chunk(1), &peer(2), true);
        assert_eq!(popularity.demand(Instant(0), &chunk(1)).missed, 2);
    }

    #[test]
    fn memory_is_bounded_and_the_popular_stay_and_come_in() {
        let mut popularity = Popularity::new(1);
        for number in 0..50 {
            popularity.count(Instant(0), &chunk(0), &peer(number), false);
        }
        for number in 1..200_000 {
            popularity.count(Instant(0), &chunk(number), &peer(1), true);
        }
        assert!(popularity.len() <= CHUNKS_MAX && popularity.tail.len() == ROWS * CELLS);
        assert_eq!(popularity.demand(Instant(0), &chunk(0)).asked, 50);
        // A flood of names does not hide a chunk that is asked for from then on.
        for number in 0..30 {
            popularity.count(Instant(0), &chunk(999_999), &peer(number), true);
        }
        let demand = popularity.demand(Instant(0), &chunk(999_999));
        assert!(demand.missed >= 28, "{demand:?}");
    }

    #[test]
    fn the_sketch_counts_the_tail_about_right() {
        let mut popularity = Popularity::new(7);
        for number in 0..CHUNKS_MAX as u32 {
            popularity.count(Instant(0), &chunk(number), &peer(1), true);
            popularity.count(Instant(0), &chunk(number), &peer(2), true);
        }
        for number in 0..2_000 {
            popularity.count(Instant(0), &chunk(1_000_000 + number), &peer(1), true);
        }
        let over = (0..2_000).filter(|n| popularity.demand(Instant(0), &chunk(1_000_000 + n)).asked != 1).count();
        assert!(over < 40, "{over} of 2000 are counted wrong");
    }

    proptest! {
        #[test]
        fn never_counts_less_than_was_asked_while_little_time_passes(asked in prop::collection::vec(0u32..50, 1..400)) {
            let mut popularity = Popularity::new(3);
            let mut naive = BTreeMap::new();
            for number in asked {
                popularity.count(Instant(0), &chunk(number), &peer(number), false);
                *naive.entry(number).or_insert(0u32) += 1;
            }
            for (number, times) in naive {
                prop_assert_eq!(popularity.demand(Instant(0), &chunk(number)).asked, times);
            }
        }
    }
}
