//! Floor 4: chunks on disk, and small tables for the rest. Payloads lie in append-only segment files, the index in redb.
//! What is put is visible at once and written in the background; `flush` makes it durable, many callers sharing one commit.
//! `FORMAT.md` beside this file describes the folder.

mod commit;
mod entry;
mod error;
mod evict;
#[cfg(test)]
mod fault;
mod folder;
mod index;
pub mod memory;
mod queue;
mod read;
mod rebuild;
mod record;
mod schema;
mod segment;
pub mod state;
mod worth;
mod writer;

pub use error::StoreError;
pub use schema::Class;
pub use state::{Table, Transaction};

use crate::base::digest::ChunkId;
use crate::base::limit::CHUNK_BYTES_MAX;
use crate::base::range::{SliceRange, slice_count};
use crate::base::sync::lock;
use crate::content::chunk::Outline;
use bytes::Bytes;
use entry::{Entries, Entry, Piece};
use folder::Folder;
use index::{Index, PinChange};
use queue::{Budget, Queue, Rounds};
use record::whole_mask;
use schema::Totals;
use segment::{Place, Segments};
use state::State;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;
use worth::Worth;

/// Pins taken at once before they are committed.
const PINS_MAX: usize = 16 * 1024;
/// Bytes that may wait in memory, however small the cache.
const PENDING_BYTES_MIN: u64 = 1 << 20;
/// Segments that fill a small cache, and how small they are at the smallest.
const SEGMENTS: u64 = 16;
const SEGMENT_BYTES_MIN: u64 = 4 << 20;
/// Dropped chunks remembered until asked for.
const DROPPED_MAX: usize = 64 * 1024;

/// How a store shall work.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreConfig {
    /// Bytes on disk that cached and hosted chunks may take together.
    pub cache_bytes: u64,
    /// Share of the disk that stays free of cached and hosted chunks, 0 to 1.
    pub disk_free_min: f64,
    /// Bytes that may wait in memory to be written.
    pub pending_bytes: u64,
    /// A segment is closed when it would grow longer.
    pub segment_bytes: u64,
    /// Memory for pages of the index.
    pub index_cache_bytes: usize,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            cache_bytes: 10 << 30,
            disk_free_min: 0.1,
            pending_bytes: 32 << 20,
            segment_bytes: 256 << 20,
            index_cache_bytes: 12 << 20,
        }
    }
}

impl StoreConfig {
    /// For a cache of so many bytes: the smaller it is, the smaller its segments, as these are what is warm or cold.
    pub fn sized(cache_bytes: u64) -> StoreConfig {
        let usual = StoreConfig::default();
        let segment_bytes = (cache_bytes / SEGMENTS).clamp(SEGMENT_BYTES_MIN, usual.segment_bytes);
        StoreConfig { cache_bytes, segment_bytes, ..usual }
    }

    /// For tests: how full the machine's own disk is makes no difference.
    #[cfg(test)]
    pub(crate) fn roomy() -> StoreConfig {
        StoreConfig { disk_free_min: 0.0, ..StoreConfig::default() }
    }
}

/// Hosted chunks, each with its length and the end of its lease, and the last chunk that was looked at.
pub type HostedPage = (Vec<(ChunkId, u32, u64)>, ChunkId);

/// What is here of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Length of the whole chunk in bytes.
    pub chunk_len: u32,
    /// Bit i set: slice i is here.
    pub mask: u64,
    /// Whether its outline is here (always, when any slice is).
    pub outline: bool,
}

impl Held {
    /// Whether all slices are here.
    pub fn is_whole(&self) -> bool {
        self.chunk_len > 0 && self.mask == whole_mask(self.chunk_len)
    }
}

/// What the store takes and what happened to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on disk of own chunks.
    pub own_bytes: u64,
    /// Bytes on disk of hosted chunks.
    pub hosted_bytes: u64,
    /// Bytes on disk of cached chunks that a pin covers.
    pub pinned_bytes: u64,
    /// Bytes on disk of chunks that may be evicted.
    pub cached_bytes: u64,
    /// What cached and hosted chunks together may take.
    pub cache_bytes_max: u64,
    /// Bytes more of hosted chunks that there is room for, where need be in the place of cached ones.
    pub room_bytes: u64,
    /// Chunks held whole.
    pub chunks: u64,
    /// Chunks held in part.
    pub chunks_partial: u64,
    /// Bytes that wait in memory.
    pub pending_bytes: u64,
    /// Bytes free on the disk.
    pub disk_free: u64,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// Slices that failed their check when read from disk, since the start.
    pub damaged_slices: u64,
    /// Bytes of chunks evicted since the start.
    pub evicted_bytes: u64,
    /// Bytes written to segments since the start.
    pub written_bytes: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Why nothing, or not everything, can be written now.
    pub trouble: Option<String>,
}

/// What the threads and callers share.
struct Inner {
    config: StoreConfig,
    /// See `now`.
    came: AtomicU64,
    folder: Arc<Folder>,
    segments: Segments,
    index: Index,
    state: State,
    entries: Entries,
    queue: Queue,
    budget: Budget,
    rounds: Rounds,
    /// Given up before any commit knew of them.
    lost: Mutex<Vec<(Place, u64)>>,
    pins: Mutex<Vec<PinChange>>,
    /// One change of pins at a time.
    pinning: Mutex<()>,
    /// Chunks that could not be written and wait for a better time.
    stuck: Mutex<Vec<ChunkId>>,
    totals: Mutex<Totals>,
    /// What peers ask for.
    worth: Worth,
    opened: Instant,
    /// No longer held whole, though nobody asked for that.
    dropped: Mutex<Vec<ChunkId>>,
    /// Own chunks of which slices failed their check.
    damaged_own: Mutex<BTreeSet<ChunkId>>,
    counters: Counters,
    /// The disk is full up to its floor: cached and hosted chunks stay in memory.
    tight: AtomicBool,
    /// It was said that the writer cannot write.
    told: AtomicBool,
    /// The disk failed.
    failed: Mutex<Option<String>>,
}

#[derive(Default)]
struct Counters {
    damaged_slices: AtomicU64,
    evicted_bytes: AtomicU64,
    written_bytes: AtomicU64,
    commits: AtomicU64,
}

/// Chunks and tables in a folder. All methods take `&self`, may be called from any thread, and may block for the disk.
pub struct Store {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

impl Store {
    /// Opens or makes the store in folder `dir`. Takes the same time however much it holds.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Store, StoreError> {
        let folder = Arc::new(Folder::open(dir)?);
        if let Err(error) = folder.reserve() {
            tracing::debug!(%error, "no space set aside");
        }
        let (index, new) = Index::open(folder.clone(), config.index_cache_bytes)?;
        let state = State::open(folder.clone())?;
        folder.sync()?;
        if new {
            rebuild::rebuild(&folder, &index)?;
        }
        let loaded = index.load()?;
        let segments = Segments::open(folder.clone(), loaded.segments, loaded.next)?;
        let inner = Arc::new(Inner {
            budget: Budget::new(config.pending_bytes.min(config.cache_bytes / 8).max(PENDING_BYTES_MIN)),
            config,
            came: AtomicU64::new(0),
            folder,
            segments,
            index,
            state,
            entries: Entries::new(),
            queue: Queue::default(),
            rounds: Rounds::default(),
            lost: Mutex::default(),
            pins: Mutex::default(),
            pinning: Mutex::default(),
            stuck: Mutex::default(),
            totals: Mutex::new(loaded.totals),
            worth: Worth::default(),
            opened: Instant::now(),
            dropped: Mutex::default(),
            damaged_own: Mutex::default(),
            counters: Counters::default(),
            tight: AtomicBool::new(false),
            told: AtomicBool::new(false),
            failed: Mutex::default(),
        });
        let mut store = Store { inner: inner.clone(), threads: Vec::new() };
        let (writing, committing) = (inner.clone(), inner);
        store.spawn("store-write", move || writer::run(&writing))?;
        store.spawn("store-commit", move || commit::run(&committing, loaded.freed))?;
        Ok(store)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new().name(name.to_string()).spawn(work);
        self.threads.push(thread.map_err(|e| StoreError::io("start", "a thread", e))?);
        Ok(())
    }

    /// Stores a whole chunk, whose bytes the caller has hashed or sealed. Readers see it when this returns.
    pub fn put(
        &self,
        id: &ChunkId,
        outline: &Outline,
        bytes: impl Into<Bytes>,
        class: Class,
    ) -> Result<(), StoreError> {
        self.put_slices(id, outline, 0, bytes, class)
    }

    /// Stores slices from number `first` on, each of which the caller has verified against the outline. Readers see them when
    /// this returns; the chunk becomes whole by itself. The stronger of the old and the new class holds.
    pub fn put_slices(
        &self,
        id: &ChunkId,
        outline: &Outline,
        first: u8,
        bytes: impl Into<Bytes>,
        class: Class,
    ) -> Result<(), StoreError> {
        let bytes = bytes.into();
        let slices = SliceRange { first, count: slice_count(bytes.len().try_into().unwrap_or(u32::MAX)) };
        let span = slices.bytes(outline.len);
        let fits = outline.len > 0
            && outline.len as usize <= CHUNK_BYTES_MAX
            && slices.end() <= slice_count(outline.len)
            && !bytes.is_empty()
            && (span.end - span.start) as usize == bytes.len();
        if !fits {
            return Err(StoreError::Slices(*id));
        }
        self.inner.put(id, outline, Piece { slices, bytes }, class)
    }

    /// What is here of a chunk; `None` when nothing.
    pub fn slices(&self, id: &ChunkId) -> Result<Option<Held>, StoreError> {
        let held = |entry: &mut Entry| Held { chunk_len: entry.row.len, mask: entry.mask(), outline: true };
        Ok(self.inner.entries.look(&self.inner.index, id, held)?.filter(|held| held.mask != 0))
    }

    /// Whether a chunk is here whole.
    pub fn holds(&self, id: &ChunkId) -> Result<bool, StoreError> {
        Ok(self.slices(id)?.is_some_and(|held| held.is_whole()))
    }

    /// The same for many, faster than one by one.
    pub fn holds_each(&self, ids: &[ChunkId]) -> Result<Vec<bool>, StoreError> {
        // Memory after the index: an entry leaves memory only once the index has it.
        let known = |id: &ChunkId| self.inner.entries.peek(id, Entry::is_whole);
        let before: Vec<Option<bool>> = ids.iter().map(known).collect();
        let rows = self.inner.index.rows(ids)?;
        let each = ids.iter().zip(before).zip(rows);
        Ok(each
            .map(|((id, before), row)| known(id).or(before).unwrap_or(row.is_some_and(|row| row.is_whole())))
            .collect())
    }

    /// Bytes of the slices, cut at the chunk's end; `None` when any of them is missing. What comes from disk is verified:
    /// a slice that fails counts as missing from then on.
    pub fn read(&self, id: &ChunkId, slices: SliceRange) -> Result<Option<Bytes>, StoreError> {
        self.inner.read(id, slices)
    }

    /// The same if they are in memory, ours or the kernel's, and nothing is wrong with them; waits for no disk but where the index
    /// must ask it where the chunk is.
    pub fn read_ready(&self, id: &ChunkId, slices: SliceRange) -> Option<Bytes> {
        self.inner.read_ready(id, slices)
    }

    /// The same if the bytes are still in our memory; never waits for the disk.
    pub fn read_memory(&self, id: &ChunkId, slices: SliceRange) -> Option<Bytes> {
        self.inner.entries.peek(id, |entry| read::from_memory(entry, slices))?
    }

    /// The outline of a chunk of which any slice is here.
    pub fn outline(&self, id: &ChunkId) -> Result<Option<Outline>, StoreError> {
        Ok(self.inner.outline(id)?.map(|outline| Outline::clone(&outline)))
    }

    /// Makes everything durable that was put, classed, pinned or removed before the call, but for cached and hosted chunks that there is no
    /// room for. An error leaves all of it visible and is tried again later.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.rounds.flush(false)
    }

    /// The same, and an error also while there is no room for hosted chunks.
    pub fn flush_hosted(&self) -> Result<(), StoreError> {
        self.inner.rounds.flush(true)
    }

    /// Whether `put` of so many bytes would have to wait for the disk.
    pub fn is_crowded(&self, bytes: usize) -> bool {
        self.inner.budget.is_crowded(bytes as u64)
    }

    /// Why a chunk is kept; `None` when nothing is known of it.
    pub fn class(&self, id: &ChunkId) -> Result<Option<Class>, StoreError> {
        self.inner.entries.look(&self.inner.index, id, |entry| entry.row.class)
    }

    /// Changes why chunks are kept, weaker or stronger; also of chunks that are to come.
    pub fn set_class(&self, ids: &[ChunkId], class: Class) -> Result<(), StoreError> {
        for id in ids {
            self.inner.entries.make(&self.inner.index, id, |entry| entry.change(|row| row.class = class))?;
        }
        self.inner.rounds.nudge();
        Ok(())
    }

    /// At most `max` ids of own chunks after `after`, in order, and the id to continue from; `None` at the end. As of the last
    /// commit.
    pub fn own_chunks(
        &self,
        after: Option<&ChunkId>,
        max: usize,
    ) -> Result<Option<(Vec<ChunkId>, ChunkId)>, StoreError> {
        let page = self.inner.index.page(after, max)?;
        let Some((last, _)) = page.last().copied() else { return Ok(None) };
        let own = page.into_iter().filter(|(_, row)| row.class == Class::Own);
        Ok(Some((own.map(|(id, _)| id).collect(), last)))
    }

    /// Keeps chunks, here or to come, until `root` is unpinned; may be called again with more.
    pub fn pin(&self, root: &ChunkId, ids: &[ChunkId]) -> Result<(), StoreError> {
        let _one = lock(&self.inner.pinning);
        for page in ids.chunks(PINS_MAX) {
            for id in page {
                self.inner.entries.make(&self.inner.index, id, |entry| entry.change(|row| row.pinned = true))?;
            }
            let mut pins = lock(&self.inner.pins);
            pins.extend(page.iter().map(|id| PinChange::Add(*root, *id)));
            let many = pins.len() >= PINS_MAX;
            drop(pins);
            if many {
                self.flush()?;
            }
        }
        self.inner.rounds.nudge();
        Ok(())
    }

    /// Whether any chunk is kept for `root`.
    pub fn is_pinned(&self, root: &ChunkId) -> Result<bool, StoreError> {
        self.flush()?;
        Ok(!self.inner.index.pinned(root, None, 1)?.is_empty())
    }

    /// Ends what `pin` began; whether it had. Chunks that no other pin covers may be evicted again.
    pub fn unpin(&self, root: &ChunkId) -> Result<bool, StoreError> {
        let _one = lock(&self.inner.pinning);
        let mut after = None;
        loop {
            // The index alone knows all that a pin covers.
            self.flush()?;
            let page = self.inner.index.pinned(root, after.as_ref(), PINS_MAX)?;
            let Some((last, _)) = page.last() else { return Ok(after.is_some()) };
            after = Some(*last);
            for (id, others) in &page {
                if !others {
                    let unpin = |entry: &mut Entry| entry.change(|row| row.pinned = false);
                    self.inner.entries.look(&self.inner.index, id, unpin)?;
                }
            }
            lock(&self.inner.pins).extend(page.iter().map(|(id, _)| PinChange::Remove(*root, *id)));
            self.inner.rounds.nudge();
        }
    }

    /// Drops chunks whatever their class; pins and classes of them are forgotten, too.
    pub fn remove(&self, ids: &[ChunkId]) -> Result<(), StoreError> {
        for id in ids {
            self.inner.give_up(id, |_| true)?;
            let forget = |entry: &mut Entry| entry.change(|row| *row = schema::Row::default());
            self.inner.entries.look(&self.inner.index, id, forget)?;
        }
        self.inner.rounds.nudge();
        Ok(())
    }

    /// Peers read a chunk about so many times in an hour: it is evicted after what nobody reads.
    pub fn note_asked(&self, id: &ChunkId, reads: f64) {
        self.inner.worth.note(self.inner.seconds(), id, reads);
    }

    /// Gives chunks up that are cached and nothing else: own, hosted and pinned ones stay, and those that are not written yet.
    pub fn discard(&self, ids: &[ChunkId]) -> Result<(), StoreError> {
        for id in ids {
            if self.inner.give_up(id, |entry| entry.row.is_evictable() && entry.pieces.is_empty())? > 0 {
                self.inner.note_dropped(id);
            }
        }
        self.inner.rounds.nudge();
        Ok(())
    }

    /// At most `max` ids of chunks held whole, after `after`, in order; with the last one to continue from. What was put since
    /// the last commit (a second, or `flush`) may be missing.
    pub fn whole_chunks(&self, after: Option<&ChunkId>, max: usize) -> Result<Vec<ChunkId>, StoreError> {
        let mut found = Vec::new();
        let mut after = after.copied();
        while found.len() < max {
            let page = self.inner.index.page(after.as_ref(), (max - found.len()).clamp(64, 4096))?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            found.extend(page.iter().filter(|(_, row)| row.is_whole()).map(|(id, _)| *id));
        }
        found.truncate(max);
        Ok(found)
    }

    /// What is hosted among the chunks after `after`, at most `max` of which are looked at: id, length, and until when (Unix seconds); with the
    /// last one looked at. `None` at the end. As of the last commit.
    pub fn hosted_chunks(&self, after: Option<&ChunkId>, max: usize) -> Result<Option<HostedPage>, StoreError> {
        let page = self.inner.index.page(after, max)?;
        let Some((last, _)) = page.last().copied() else { return Ok(None) };
        let hosted = page.into_iter().filter_map(|(id, row)| match row.class {
            Class::Hosted { until } if row.is_whole() => Some((id, row.len, until)),
            _ => None,
        });
        Ok(Some((hosted.collect(), last)))
    }

    /// Chunks evicted, or of which slices failed their check, since the last call; the newest are forgotten where they are many.
    pub fn take_dropped(&self) -> Vec<ChunkId> {
        std::mem::take(&mut *lock(&self.inner.dropped))
    }

    /// Own chunks of which slices failed their check since the last call: to be made anew.
    pub fn take_damaged_own(&self) -> BTreeSet<ChunkId> {
        std::mem::take(&mut *lock(&self.inner.damaged_own))
    }

    /// Slices that were found damaged on disk since the store was opened.
    pub fn damaged_slices(&self) -> u64 {
        self.inner.counters.damaged_slices.load(Ordering::Relaxed)
    }

    /// What the store takes and what happened to it; sums are those of the last commit.
    pub fn usage(&self) -> Usage {
        self.inner.usage()
    }

    /// Bytes that cached and hosted chunks may take.
    pub fn cache_bytes(&self) -> u64 {
        self.inner.config.cache_bytes
    }

    /// The small tables.
    pub fn state(&self) -> &State {
        &self.inner.state
    }

    /// Where the store lies.
    pub fn dir(&self) -> &Path {
        self.inner.folder.path()
    }
}

impl Drop for Store {
    /// Writes and commits what is still in memory. Whoever needs to know whether that worked calls `flush` first.
    fn drop(&mut self) {
        self.inner.rounds.close();
        // The committer first: its last round has the writer write what is left.
        for thread in self.threads.drain(..).rev() {
            let _ = thread.join();
            self.inner.queue.close();
        }
    }
}

impl Inner {
    /// The clock of eviction: bytes that came since the start. Nothing ages while nothing comes.
    fn now(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// Seconds since the store was opened.
    fn seconds(&self) -> f64 {
        self.opened.elapsed().as_secs_f64()
    }

    fn put(&self, id: &ChunkId, outline: &Outline, piece: Piece, class: Class) -> Result<(), StoreError> {
        if let Some(why) = &*lock(&self.failed) {
            return Err(StoreError::ReadOnly(why.clone()));
        }
        let mask = piece.slices.mask();
        let bytes = piece.bytes.len() as u64;
        // Checked once for each stay in memory: 63 compressions.
        if self.entries.peek(id, |entry| entry.outline.is_some()) != Some(true) && !outline.verify(id) {
            return Err(StoreError::Outline(*id));
        }
        self.take_memory(bytes)?;
        let result = self.entries.make(&self.index, id, |entry| {
            if entry.row.len == outline.len && entry.mask() & mask == mask {
                entry.change(|row| row.class = row.class.stronger(class));
                return Ok((bytes, None));
            }
            let mut freed = (0, None);
            if entry.row.len != outline.len {
                // Two lengths for one id: only the last slice proves which one is true.
                let last = 1 << slice_count(outline.len).saturating_sub(1);
                if entry.mask() != 0 && (entry.proves_len() || mask & last == 0) {
                    return Err(StoreError::Slices(*id));
                }
                freed = entry.give_up();
                entry.change(|row| row.len = outline.len);
            }
            match &entry.outline {
                Some(known) if **known != *outline => {
                    if !outline.verify(id) {
                        return Err(StoreError::Outline(*id));
                    }
                }
                Some(_) => {}
                None => entry.outline = Some(Arc::new(outline.clone())),
            }
            entry.change(|row| row.class = row.class.stronger(class));
            entry.note_came(self.came.fetch_add(bytes, Ordering::Relaxed) + bytes);
            entry.pieces.push(piece);
            if !entry.queued {
                entry.queued = true;
                // Under the entry's lock: who finds it queued may count on it being in the queue.
                self.queue.push(*id);
            }
            Ok(freed)
        });
        match result {
            Ok(Ok(freed)) => {
                self.free(freed);
                self.rounds.nudge();
                Ok(())
            }
            Ok(Err(error)) | Err(error) => {
                self.budget.give(bytes);
                Err(error)
            }
        }
    }

    /// Takes room in memory. When the disk is full, cached chunks that wait there make room, the oldest first.
    fn take_memory(&self, bytes: u64) -> Result<(), StoreError> {
        let mut waited = false;
        loop {
            match self.budget.take(bytes) {
                Ok(()) => return Ok(()),
                Err(_) if self.drop_stuck()? => {}
                // The writer may not have tried yet what came last, so nothing of it counts as stuck.
                Err(_) if !waited => {
                    waited = true;
                    self.queue.drain();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Somebody may have been told that this chunk is here.
    fn note_dropped(&self, id: &ChunkId) {
        let mut dropped = lock(&self.dropped);
        if dropped.len() < DROPPED_MAX && dropped.last() != Some(id) {
            dropped.push(*id);
        }
    }

    /// Gives back what an entry gave up.
    fn free(&self, (pending, lost): (u64, Option<(Place, u32)>)) {
        if pending > 0 {
            self.budget.give(pending);
        }
        if let Some((place, len)) = lost {
            lock(&self.lost).push((place, record::record_bytes(len)));
        }
    }

    /// Gives up the content of a chunk if `allowed`; returns the bytes of disk that this frees.
    fn give_up(&self, id: &ChunkId, allowed: impl FnOnce(&mut Entry) -> bool) -> Result<u64, StoreError> {
        let freed = self.entries.look(&self.index, id, |entry| {
            allowed(entry).then(|| {
                let bytes = entry.row.disk_bytes();
                (bytes, entry.give_up())
            })
        })?;
        let Some((bytes, freed)) = freed.flatten() else { return Ok(0) };
        self.free(freed);
        Ok(bytes)
    }

    fn usage(&self) -> Usage {
        let totals = *lock(&self.totals);
        let (disk_free, disk_bytes) = self.folder.space().unwrap_or_default();
        let tight = self.tight.load(Ordering::Acquire).then(|| {
            let percent = self.config.disk_free_min * 100.0;
            format!("less than {percent:.0} % of the store's disk is free: nothing of others is kept here until there is more")
        });
        let stuck = || self.budget.stuck().map(|error| error.to_string());
        let trouble = lock(&self.failed).clone().or(tight).or_else(stuck);
        Usage {
            own_bytes: totals.own,
            hosted_bytes: totals.hosted,
            pinned_bytes: totals.pinned,
            cached_bytes: totals.cached,
            cache_bytes_max: self.config.cache_bytes,
            room_bytes: if lock(&self.failed).is_some() { 0 } else { self.room(&totals, disk_free, disk_bytes) },
            chunks: totals.whole,
            chunks_partial: totals.partial,
            pending_bytes: self.budget.used(),
            disk_free,
            disk_bytes,
            damaged_slices: self.counters.damaged_slices.load(Ordering::Relaxed),
            evicted_bytes: self.counters.evicted_bytes.load(Ordering::Relaxed),
            written_bytes: self.counters.written_bytes.load(Ordering::Relaxed),
            commits: self.counters.commits.load(Ordering::Relaxed),
            trouble,
        }
    }
}

#[cfg(test)]
mod tests;
