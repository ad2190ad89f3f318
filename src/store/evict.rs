//! Making room: ends leases, keeps the cache within its quota and the disk above its floor.

use super::commit::Carry;
use super::error::StoreError;
use super::schema::{Class, Totals};
use super::segment::Place;
use super::{Entry, Inner};
use crate::base::digest::ChunkId;
use crate::base::sync::lock;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// Chunks looked at in one step.
const PAGE: usize = 1024;
/// The segments' heat is halved whenever this part of the cache was written anew.
const COOLING: u64 = 4;
/// This part of the cache is never promised to hosted chunks: who reads needs it.
const CACHED_SHARE: u64 = 8;
/// Of what came last and was not read yet, this part of the cache waits for its reader; all before is like any other chunk.
const AWAITED_SHARE: u64 = 2;
/// More than that no readers have under way.
const AWAITED_MAX: u64 = 256 << 20;

/// What a pass of eviction leaves alone. The next takes more, for when the one before did not find enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spare {
    /// What was read lately, what peers read twice an hour or more, and what came for a reader who was not there yet.
    Used,
    /// What is being read now, what peers read eight times an hour or more, and what came for a reader who was not there yet.
    Wanted,
    /// What is being read now, and what came for a reader who was not there yet.
    InUse,
    /// What came for a reader who was not there yet: of what was read, the oldest goes.
    Awaited,
    /// Nothing.
    Nothing,
}

impl Spare {
    /// Of the chunks that came or were read since `since`, and are asked for so often.
    fn spares(self, entry: &Entry, since: u64, level: u32) -> bool {
        match self {
            Spare::Used => entry.used || level >= 1 || entry.is_awaited(since),
            Spare::Wanted => level >= 3 || entry.is_in_use(since),
            Spare::InUse => entry.is_in_use(since),
            Spare::Awaited => entry.is_awaited(since),
            Spare::Nothing => false,
        }
    }
}

impl Inner {
    /// Done after each commit.
    pub(super) fn maintain(&self, carry: &mut Carry) -> Result<(), StoreError> {
        // Where this finds the disk full, making room is all the more urgent.
        let persisted = self.state.persist();
        if lock(&self.failed).is_some() {
            return persisted;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        while self.end_leases(now)? {
            self.commit(carry, false)?;
        }
        let written = self.counters.written_bytes.load(Ordering::Relaxed);
        if written.saturating_sub(carry.cooled) > self.config.cache_bytes / COOLING {
            carry.cooled = written;
            for (_, segment) in self.segments.all() {
                let heat = segment.heat.load(Ordering::Relaxed);
                segment.heat.fetch_sub(heat / 2, Ordering::Relaxed);
            }
        }
        let (free, size) = self.folder.space()?;
        let Totals { cached, hosted, .. } = *lock(&self.totals);
        let floor = self.floor(size);
        let over = cached.saturating_add(hosted).saturating_sub(self.quota()).min(cached);
        let wanted = over.max(floor.saturating_sub(free).min(cached));
        let mut evicted = 0;
        if wanted > 0 {
            evicted = self.evict(wanted)?;
            self.commit(carry, false)?;
        }
        // Set aside again as soon as that leaves room; until then it is not there to be given back.
        if free.saturating_add(evicted) >= floor
            && let Err(error) = self.folder.reserve()
        {
            tracing::debug!(%error, "no space set aside");
        }
        let tight = free.saturating_add(evicted) < floor;
        if self.tight.swap(tight, Ordering::AcqRel) != tight {
            tracing::info!(tight, free, floor, "free space against its floor");
        }
        persisted
    }

    /// Bytes of cached and hosted chunks down to which is evicted. Leaves room for what may be written until the next look, so that the
    /// quota holds at every moment: before the next round and during it as much as the writer is let ahead, and what a flush has it
    /// write besides.
    fn quota(&self) -> u64 {
        let headroom = 4 * self.commit_bytes() + self.budget.max();
        self.config.cache_bytes.saturating_sub(headroom)
    }

    /// What came after this moment, in bytes that came before it, may be awaited.
    fn recently(&self) -> u64 {
        self.now().saturating_sub((self.quota() / AWAITED_SHARE).min(AWAITED_MAX))
    }

    /// Bytes of the disk that stay free of cached and hosted chunks.
    fn floor(&self, size: u64) -> u64 {
        let floor = (size as f64 * self.config.disk_free_min.clamp(0.0, 1.0)) as u64;
        // What is kept is written once there is space set aside, so what is cached makes room for that too.
        floor.saturating_add(self.folder.unreserved())
    }

    /// Bytes more of hosted chunks that the disk and the quota have room for, cached ones making way.
    pub(super) fn room(&self, totals: &Totals, free: u64, size: u64) -> u64 {
        let on_disk = free.saturating_add(totals.cached).saturating_sub(self.floor(size));
        let for_cached = self.config.cache_bytes / CACHED_SHARE;
        let of_quota = self.quota().saturating_sub(for_cached).saturating_sub(totals.hosted);
        on_disk.min(of_quota).saturating_sub(self.budget.used())
    }

    fn end_leases(&self, now: u64) -> Result<bool, StoreError> {
        let ended = self.index.expired(now, PAGE)?;
        for id in &ended {
            self.entries.look(&self.index, id, |entry| {
                if matches!(entry.row.class, Class::Hosted { until } if until <= now) {
                    entry.change(|row| row.class = Class::Cached);
                }
            })?;
        }
        Ok(!ended.is_empty())
    }

    /// Gives up at least `wanted` bytes of cached chunks, if there are as many: in the coldest segments first, and in these
    /// the chunks that nobody read lately, the least that peers ask for before others. What was fetched a moment ago and not read yet goes last: who fetched it would fetch it again.
    pub(super) fn evict(&self, wanted: u64) -> Result<u64, StoreError> {
        let mut candidates = Vec::new();
        let since = self.recently();
        for (number, segment) in self.segments.all() {
            let row = *segment.row.lock().unwrap_or_else(PoisonError::into_inner);
            // Reads for each byte held, in sixteenths: about equally cold segments go by age.
            let heat = segment.heat.load(Ordering::Relaxed).saturating_mul(16);
            let written = segment.written.load(Ordering::Relaxed);
            // Nobody had the time to read what was just written: it is not cold. Of such segments the oldest goes first.
            let recent = written > since;
            let order = |heat| (recent, if recent { written } else { heat }, number);
            candidates.extend(heat.checked_div(row.evictable).map(order));
        }
        candidates.sort_unstable();
        let mut freed = 0;
        // Without holes in files only a whole segment gives space back, so nothing in it is spared.
        let passes = [Spare::Used, Spare::Wanted, Spare::InUse, Spare::Awaited, Spare::Nothing];
        let passes = if self.segments.punches() { &passes[..] } else { &[Spare::Nothing] };
        for spare in passes {
            for (_, _, number) in &candidates {
                freed += self.evict_from(*number, wanted.saturating_sub(freed), *spare)?;
                if freed >= wanted {
                    break;
                }
            }
            if freed >= wanted {
                break;
            }
        }
        self.counters.evicted_bytes.fetch_add(freed, Ordering::Relaxed);
        Ok(freed)
    }

    fn evict_from(&self, segment: u32, wanted: u64, spare: Spare) -> Result<u64, StoreError> {
        let mut freed = 0;
        let since = self.recently();
        let mut from = Place { segment, block: 0 };
        while freed < wanted || !self.segments.punches() {
            let page = self.index.in_segment(from, PAGE)?;
            for (place, id) in &page {
                if freed >= wanted && self.segments.punches() {
                    break;
                }
                let level = self.worth.level(self.seconds(), id);
                let bytes = self.give_up(id, |entry| {
                    entry.row.place == Some(*place)
                        && entry.row.is_evictable()
                        && entry.pieces.is_empty()
                        && !spare.spares(entry, since, level)
                })?;
                if bytes > 0 {
                    self.note_dropped(id);
                    self.worth.forget(id);
                }
                freed += bytes;
                from.block = place.block.saturating_add(1);
            }
            if page.len() < PAGE {
                break;
            }
        }
        Ok(freed)
    }

    /// Drops the oldest chunk that waits in memory because the disk takes nothing, if it is cached, or hosted and nobody was told yet that it
    /// is durable. False when there is none.
    pub(super) fn drop_stuck(&self) -> Result<bool, StoreError> {
        let ids: Vec<ChunkId> = lock(&self.stuck).clone();
        for id in ids {
            let dropped = self.entries.look(&self.index, &id, |entry| {
                let promised = match entry.row.class {
                    Class::Own => true,
                    Class::Hosted { .. } => entry.row.place.is_some(),
                    Class::Cached => false,
                };
                let droppable = !entry.pieces.is_empty() && !promised && !entry.row.pinned;
                droppable.then(|| {
                    entry.generation += 1;
                    entry.pieces.drain(..).map(|piece| piece.bytes.len() as u64).sum::<u64>()
                })
            })?;
            if let Some(bytes) = dropped.flatten() {
                self.budget.give(bytes);
                self.note_dropped(&id);
                let mut stuck = lock(&self.stuck);
                if let Some(at) = stuck.iter().position(|other| *other == id) {
                    stuck.remove(at);
                }
                return Ok(true);
            }
        }
        Ok(false)
    }
}
