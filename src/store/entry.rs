//! What is known of single chunks in memory: those not yet on disk or in the index, and some used lately.

use super::error::StoreError;
use super::index::{Change, Index};
use super::record::whole_mask;
use super::schema::Row;
use super::segment::Place;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::range::{SliceRange, slice_count};
use crate::content::chunk::Outline;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;
/// Entries kept for their recent use, in each shard; with outlines about 8 MiB in all.
const ENTRIES_MAX: usize = 256;
/// How often a load is tried without the lock before it is done under it.
const LOADS_MAX: usize = 8;

/// Slices that wait to be written.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Which.
    pub(super) slices: SliceRange,
    /// Their bytes.
    pub(super) bytes: Bytes,
}

/// A chunk.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// As it is: `mask` counts what was written to the segment.
    pub(super) row: Row,
    /// As the index has it.
    saved: Row,
    /// Not written yet, in order of arrival.
    pub(super) pieces: Vec<Piece>,
    /// Hashes of the slices, if known here; otherwise they stand in the record.
    pub(super) outline: Option<Arc<Outline>>,
    /// Stands in the writer's queue.
    pub(super) queued: bool,
    /// Read since the clock's hand last passed.
    pub(super) used: bool,
    /// When slices last came, by the store's clock; 0: not since it was loaded.
    came: u64,
    /// When it was last read, likewise.
    read: u64,
    /// Counts up when content is given up, so that who works on it without the lock notices.
    pub(super) generation: u64,
    /// Counts changes of `row`.
    version: u64,
    /// Differs, or may differ, from the index; stands in the shard's list.
    dirty: bool,
}

impl Entry {
    fn loaded(row: Row) -> Entry {
        Entry { row, saved: row, ..Entry::default() }
    }

    /// Slices came.
    pub(super) fn note_came(&mut self, now: u64) {
        self.came = now;
    }

    /// Slices were read.
    pub(super) fn note_read(&mut self, now: u64) {
        (self.used, self.read) = (true, now);
    }

    /// Whether it came after `since`, and nothing of it was read from then on: somebody fetched it and is about to.
    pub(super) fn is_awaited(&self, since: u64) -> bool {
        self.came > self.read && self.came > since
    }

    /// Whether it came or was read after `since`.
    pub(super) fn is_in_use(&self, since: u64) -> bool {
        self.came.max(self.read) > since
    }

    /// Slices that are here, on disk or in memory.
    pub(super) fn mask(&self) -> u64 {
        self.pieces.iter().fold(self.row.mask, |mask, piece| mask | piece.slices.mask())
    }

    /// Whether all slices are here.
    pub(super) fn is_whole(&self) -> bool {
        self.row.len > 0 && self.mask() == whole_mask(self.row.len)
    }

    /// Whether the last slice is here, which alone proves the chunk's length.
    pub(super) fn proves_len(&self) -> bool {
        self.mask() >> slice_count(self.row.len).saturating_sub(1) & 1 != 0
    }

    /// Changes the row and sees to it that the next commit writes it.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Row)) {
        let before = self.row;
        change(&mut self.row);
        if self.row != before {
            self.version += 1;
        }
    }

    /// Gives all content up, that on disk and that in memory. Returns bytes freed in memory, and a place that no commit would free.
    pub(super) fn give_up(&mut self) -> (u64, Option<(Place, u32)>) {
        let pending = self.pieces.drain(..).map(|piece| piece.bytes.len() as u64).sum();
        let lost = self.row.place.filter(|place| self.saved.place != Some(*place)).map(|place| (place, self.row.len));
        self.outline = None;
        self.generation += 1;
        self.change(|row| {
            row.place = None;
            row.mask = 0;
        });
        (pending, lost)
    }

    /// Bytes of one slice, if it waits in memory.
    pub(super) fn pending_slice(&self, index: u8) -> Option<Bytes> {
        let piece = self.pieces.iter().rev().find(|piece| piece.slices.mask() >> index & 1 != 0)?;
        let start = usize::from(index.checked_sub(piece.slices.first)?) * SLICE_BYTES;
        let end = (start + SLICE_BYTES).min(piece.bytes.len());
        (start < end).then(|| piece.bytes.slice(start..end))
    }

    fn is_idle(&self) -> bool {
        !self.dirty && !self.queued && self.pieces.is_empty()
    }
}

#[derive(Default)]
struct Shard {
    entries: HashMap<ChunkId, Entry>,
    dirty: Vec<ChunkId>,
    clock: VecDeque<ChunkId>,
    /// Counts removals: a row read from the index while it changed may be older than what was removed.
    removals: u64,
}

impl Shard {
    fn insert(&mut self, id: ChunkId, entry: Entry) -> &mut Entry {
        self.clock.push_back(id);
        let mut steps = 8;
        while (self.entries.len() >= ENTRIES_MAX || self.clock.len() > 4 * ENTRIES_MAX) && steps > 0 {
            steps -= 1;
            let Some(oldest) = self.clock.pop_front() else { break };
            if oldest == id {
                self.clock.push_back(oldest);
                continue;
            }
            match self.entries.get_mut(&oldest) {
                Some(old) if old.used || !old.is_idle() => {
                    old.used = false;
                    self.clock.push_back(oldest);
                }
                Some(_) => {
                    self.entries.remove(&oldest);
                    self.removals += 1;
                }
                None => {}
            }
        }
        self.entries.entry(id).or_insert(entry)
    }
}

/// All entries.
pub(super) struct Entries {
    shards: Vec<Mutex<Shard>>,
}

/// A dirty entry as it was when collected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Collected {
    /// What to commit.
    pub(super) change: Change,
    version: u64,
}

impl Entries {
    /// None.
    pub(super) fn new() -> Entries {
        Entries { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, id: &ChunkId) -> MutexGuard<'_, Shard> {
        // The first byte, as ids are hashes.
        let shard = &self.shards[usize::from(id.as_bytes()[0]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a chunk; `None` when nothing is known of it. What `work` changes in the row is committed later.
    pub(super) fn look<R>(
        &self,
        index: &Index,
        id: &ChunkId,
        work: impl FnOnce(&mut Entry) -> R,
    ) -> Result<Option<R>, StoreError> {
        self.run(index, id, false, work)
    }

    /// The same, making an empty entry when nothing is known.
    pub(super) fn make<R>(
        &self,
        index: &Index,
        id: &ChunkId,
        work: impl FnOnce(&mut Entry) -> R,
    ) -> Result<R, StoreError> {
        let result = self.run(index, id, true, work)?;
        Ok(result.expect("an entry was made, so the work was done"))
    }

    /// The same for what memory knows; never looks into the index.
    pub(super) fn peek<R>(&self, id: &ChunkId, work: impl FnOnce(&Entry) -> R) -> Option<R> {
        self.shard(id).entries.get(id).map(work)
    }

    fn run<R>(
        &self,
        index: &Index,
        id: &ChunkId,
        make: bool,
        work: impl FnOnce(&mut Entry) -> R,
    ) -> Result<Option<R>, StoreError> {
        let mut shard = self.shard(id);
        if !shard.entries.contains_key(id) {
            for attempt in 0.. {
                let removals = shard.removals;
                let row = if attempt < LOADS_MAX {
                    drop(shard);
                    let row = index.row(id)?;
                    shard = self.shard(id);
                    if shard.entries.contains_key(id) {
                        break;
                    }
                    row
                } else {
                    index.row(id)?
                };
                if shard.removals == removals {
                    match row {
                        Some(row) => shard.insert(*id, Entry::loaded(row)),
                        None if make => shard.insert(*id, Entry::default()),
                        None => return Ok(None),
                    };
                    break;
                }
            }
        }
        let Some(entry) = shard.entries.get_mut(id) else { return Ok(None) };
        let version = entry.version;
        let result = work(entry);
        if entry.version != version && !entry.dirty {
            entry.dirty = true;
            shard.dirty.push(*id);
        } else if entry.is_idle() && entry.row.is_empty() {
            shard.entries.remove(id);
            shard.removals += 1;
        }
        Ok(Some(result))
    }

    /// All entries that differ from the index. They stay dirty until `committed`.
    pub(super) fn collect(&self) -> Vec<Collected> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let shard = &mut *shard;
            for id in shard.dirty.drain(..) {
                if let Some(entry) = shard.entries.get(&id) {
                    let change = Change { id, saved: entry.saved, now: entry.row };
                    found.push(Collected { change, version: entry.version });
                }
            }
        }
        found
    }

    /// After a commit of what was collected; `done` tells whether it succeeded.
    pub(super) fn committed(&self, collected: &[Collected], done: bool) {
        for Collected { change, version } in collected {
            let mut shard = self.shard(&change.id);
            let shard = &mut *shard;
            let Some(entry) = shard.entries.get_mut(&change.id) else { continue };
            if done {
                entry.saved = change.now;
            }
            if done && entry.version == *version {
                entry.dirty = false;
                if entry.is_idle() && entry.row.is_empty() {
                    shard.entries.remove(&change.id);
                    shard.removals += 1;
                }
            } else {
                shard.dirty.push(change.id);
            }
        }
    }
}
