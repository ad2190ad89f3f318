//! How often each chunk is asked for, decayed over about an hour, in bounded memory.

use crate::base::digest::ChunkId;
use crate::base::time::Instant;
use crate::wire::message::Demand;
use std::collections::BTreeMap;

/// Chunks counted at once.
const CHUNKS_MAX: usize = 65_536;
/// Counts fall by their share of this time: the sum of a steady rate is then what was asked in so long.
const LIFE_SECONDS: u64 = 3600;
/// Counts fall in steps of at most so much, and are nothing after so long.
const STEP_SECONDS: u64 = 600;
const NOTHING_SECONDS: u64 = 8 * LIFE_SECONDS;
/// Counts are kept in sixteenths, so that they decay smoothly.
const ONE: u64 = 16;

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Popularity {
    counts: BTreeMap<ChunkId, Count>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    asked: u64,
    missed: u64,
    at: u64,
}

impl Popularity {
    /// Counts one request for a chunk, in vain or not, and gives the demand so far.
    pub(crate) fn count(&mut self, now: Instant, chunk: &ChunkId, missed: bool) -> Demand {
        let second = now.0 / 1_000_000;
        if self.counts.len() >= CHUNKS_MAX && !self.counts.contains_key(chunk) {
            self.make_room(second);
        }
        let count = self.counts.entry(*chunk).or_insert(Count { at: second, ..Count::default() });
        *count = count.decayed(second);
        count.asked = count.asked.saturating_add(ONE);
        if missed {
            count.missed = count.missed.saturating_add(ONE);
        }
        count.demand()
    }

    /// The demand for a chunk.
    pub(crate) fn demand(&self, now: Instant, chunk: &ChunkId) -> Demand {
        self.counts.get(chunk).map_or(Demand::default(), |count| count.decayed(now.0 / 1_000_000).demand())
    }

    /// Forgets what was hardly asked for: ever more, until a quarter is free.
    fn make_room(&mut self, second: u64) {
        let mut floor = ONE;
        while self.counts.len() > CHUNKS_MAX / 4 * 3 {
            self.counts.retain(|_, count| count.decayed(second).asked > floor);
            floor = floor.saturating_mul(2);
        }
    }
}

impl Count {
    fn decayed(self, second: u64) -> Count {
        let mut age = second.saturating_sub(self.at);
        // Small steps would be rounded away: below a minute nothing is moved.
        if age < 60 {
            return self;
        }
        if age >= NOTHING_SECONDS {
            return Count { asked: 0, missed: 0, at: second };
        }
        let Count { mut asked, mut missed, .. } = self;
        while age > 0 {
            let step = age.min(STEP_SECONDS);
            let fall = |value: u64| value - (value.saturating_mul(step) + LIFE_SECONDS / 2) / LIFE_SECONDS;
            (asked, missed) = (fall(asked), fall(missed));
            age -= step;
        }
        Count { asked, missed, at: second }
    }

    fn demand(self) -> Demand {
        let whole = |value: u64| (value / ONE).min(u64::from(u32::MAX)) as u32;
        Demand { asked: whole(self.asked), missed: whole(self.missed) }
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
    fn demand_is_what_was_asked_in_about_an_hour() {
        let mut popularity = Popularity::default();
        let mut demand = Demand::default();
        for minute in 0..600u64 {
            demand = popularity.count(Instant(minute * 60_000_000), &chunk(1), minute % 2 == 0);
        }
        assert!((50..=70).contains(&demand.asked), "{demand:?}");
        assert!((25..=35).contains(&demand.missed), "{demand:?}");
        let later = popularity.demand(Instant(6000 * 60_000_000), &chunk(1));
        assert_eq!(later, Demand::default());
    }

    #[test]
    fn memory_is_bounded_and_the_popular_stay() {
        let mut popularity = Popularity::default();
        for _ in 0..50 {
            popularity.count(Instant(0), &chunk(0), false);
        }
        for number in 1..200_000 {
            popularity.count(Instant(0), &chunk(number), true);
        }
        assert!(popularity.counts.len() <= CHUNKS_MAX);
        assert_eq!(popularity.demand(Instant(0), &chunk(0)).asked, 50);
    }
}
