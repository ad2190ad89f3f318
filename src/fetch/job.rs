//! A want while it is worked on.

use super::stripe::{open_columns, slices_of};
use super::want::{Want, WantId};
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::base::range::{SliceRange, runs};
use crate::base::time::Instant;
use std::collections::BTreeMap;

/// A want with what it has and what it lacks.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: WantId,
    pub(super) want: Want,
    /// Order of arrival.
    pub(super) seq: u64,
    pub(super) created: Instant,
    /// Wanted slices of each shard.
    pub(super) need: Vec<u64>,
    /// Slices of each shard in the store.
    pub(super) have: Vec<u64>,
    /// Columns not satisfied.
    pub(super) open: u64,
    /// Columns to be had from other shards because a wanted shard cannot be had in time.
    pub(super) rebuild: u64,
    /// Shards asked for these columns, as a set.
    pub(super) enlisted: u64,
    pub(super) likely: Vec<PeerId>,
    /// Bytes that each peer brought.
    pub(super) brought: BTreeMap<PeerId, u64>,
}

impl Job {
    pub(super) fn new(now: Instant, seq: u64, want: Want) -> Job {
        let all = slices_of(want.chunk_len);
        let mut need = vec![0; want.chunks.len()];
        let mut have = vec![0; want.chunks.len()];
        if want.chunk_len == 0 {
            need.iter_mut().take(1).for_each(|first| *first = u64::MAX);
        } else {
            mark(&mut need, &want.needs, all);
        }
        mark(&mut have, &want.have, all);
        let likely = want.likely.iter().map(|contact| contact.peer).collect();
        let mut job = Job {
            id: want.id,
            want,
            seq,
            created: now,
            need,
            have,
            open: 0,
            rebuild: 0,
            enlisted: 0,
            likely,
            brought: BTreeMap::new(),
        };
        job.settle();
        job
    }

    /// Recounts the open columns.
    pub(super) fn settle(&mut self) {
        self.open = open_columns(&self.need, &self.have, self.want.data);
    }

    /// The true length of shard `index` is known now.
    pub(super) fn cut(&mut self, index: u8, len: u32) {
        if let Some(need) = self.need.get_mut(usize::from(index)) {
            *need &= slices_of(len);
        }
    }

    pub(super) fn got(&mut self, index: u8, slices: u64) {
        if let Some(have) = self.have.get_mut(usize::from(index)) {
            *have |= slices;
        }
    }

    /// The slices of shard `index` that would bring the want forward.
    pub(super) fn wanted(&self, index: u8) -> u64 {
        let place = usize::from(index);
        let (Some(need), Some(have)) = (self.need.get(place), self.have.get(place)) else { return 0 };
        let rebuild = if self.enlisted >> index & 1 == 1 { self.rebuild } else { 0 };
        (need | rebuild) & !have & self.open
    }

    /// How many shards the stripe has.
    pub(super) fn shards(&self) -> u8 {
        self.want.chunks.len() as u8
    }

    pub(super) fn chunk(&self, index: u8) -> Option<ChunkId> {
        self.want.chunks.get(usize::from(index)).copied()
    }

    /// All columns that the want is about.
    pub(super) fn columns(&self) -> u64 {
        self.need.iter().fold(0, |all, need| all | need)
    }

    /// What of it the store has, by shard.
    pub(super) fn ranges(&self) -> Vec<(u8, SliceRange)> {
        let columns = self.columns();
        self.have
            .iter()
            .enumerate()
            .flat_map(|(index, have)| runs(have & columns).map(move |range| (index as u8, range)))
            .collect()
    }

    /// Shards of which every open column is here.
    pub(super) fn complete(&self) -> usize {
        self.have.iter().filter(|have| self.open & !**have == 0).count()
    }
}

fn mark(masks: &mut [u64], ranges: &[(u8, SliceRange)], all: u64) {
    for (index, range) in ranges {
        if let Some(mask) = masks.get_mut(usize::from(*index)) {
            *mask |= range.mask() & all;
        }
    }
}
