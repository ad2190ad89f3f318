//! The index: which chunk lies where, in redb, changed in batches.

use super::error::StoreError;
use super::folder::Folder;
use super::record::record_bytes;
use super::schema::*;
use super::segment::{Place, Segments};
use crate::base::digest::ChunkId;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, WriteTransaction};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

const FILE: &str = "index.redb";
const DAMAGED_FILE: &str = "index.redb.damaged";

/// A database of redb that survives its own failures: after an I/O error redb refuses everything, so it is opened anew.
pub(super) struct Base {
    file: &'static str,
    cache_bytes: usize,
    open: RwLock<Option<Database>>,
    /// Last: it is locked until the database is closed. Who came between would be told that the file is damaged.
    folder: Arc<Folder>,
}

impl Base {
    /// Opens or makes the database in file `file` of the folder.
    pub(super) fn open(folder: Arc<Folder>, file: &'static str, cache_bytes: usize) -> Result<Base, StoreError> {
        let base = Base { file, cache_bytes, open: RwLock::new(None), folder };
        let database = match base.load() {
            // Opening may have to repair, and so to write.
            Err(StoreError::Full) => base.folder.release().and_then(|()| base.load())?,
            other => other?,
        };
        *base.open.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(base)
    }

    fn load(&self) -> Result<Database, StoreError> {
        let file = self.folder.file(self.file)?;
        guarded(|| Ok(redb::Builder::new().set_cache_size(self.cache_bytes).create_file(file)?))
            .map_err(StoreError::index)
    }

    /// Runs `work` on the database; once more when somebody else's failure had locked it up, and on a full disk, with what was
    /// set aside.
    pub(super) fn with<R>(&self, mut work: impl FnMut(&Database) -> Result<R, redb::Error>) -> Result<R, StoreError> {
        match self.attempt(&mut work) {
            Err(redb::Error::PreviousIo) => self.attempt(work),
            Err(redb::Error::Io(e)) if StoreError::is_full(&e) => self.attempt(work),
            other => other,
        }
        .map_err(StoreError::index)
    }

    /// Runs `work` on the database. When redb has locked itself up after an I/O error, opens it anew for the next one; when it
    /// finds its file damaged, by an error or by a panic, leaves a mark for the next start.
    fn attempt<R>(&self, work: impl FnOnce(&Database) -> Result<R, redb::Error>) -> Result<R, redb::Error> {
        let result = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            match open.as_ref() {
                Some(database) => guarded(|| work(database)),
                None => Err(redb::Error::PreviousIo),
            }
        };
        let Err(error) = &result else { return result };
        let damaged = matches!(error, redb::Error::Corrupted(_) | redb::Error::LockPoisoned(_));
        if damaged && self.file == FILE {
            let _ = self.folder.file(&suspect(self.file));
        }
        if damaged || matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
            // On a full disk what was set aside is needed now: for opening it, which may write, and for the next try.
            if matches!(error, redb::Error::Io(e) if StoreError::is_full(e)) {
                let _ = self.folder.release();
            }
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            // Closed first: two handles on one file would fight over its lock.
            let _ = guarded(|| {
                *open = None;
                Ok(())
            });
            match self.load() {
                Ok(database) => *open = Some(database),
                Err(StoreError::Full) => return Err(redb::Error::Io(ErrorKind::StorageFull.into())),
                Err(error) => tracing::warn!(%error, file = self.file, "a database could not be opened anew"),
            }
        }
        result
    }

    /// One transaction.
    pub(super) fn write<R>(
        &self,
        durability: Durability,
        mut work: impl FnMut(&WriteTransaction) -> Result<R, redb::Error>,
    ) -> Result<R, StoreError> {
        self.with(|database| {
            let mut tx = database.begin_write()?;
            // A quick repair keeps the start short after a crash, however large the file; it starts from the last durable commit.
            tx.set_quick_repair(matches!(durability, Durability::Immediate));
            tx.set_durability(durability).map_err(|e| redb::Error::Corrupted(e.to_string()))?;
            let result = work(&tx)?;
            tx.commit()?;
            Ok(result)
        })
    }
}

/// A damaged file makes redb panic here and there; that must not take the program down.
fn guarded<R>(work: impl FnOnce() -> Result<R, redb::Error>) -> Result<R, redb::Error> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let result = result.unwrap_or_else(|_| Err(redb::Error::Corrupted("the database makes no sense".to_string())));
    result.map_err(|error| match error {
        redb::Error::Io(e) if matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            redb::Error::Corrupted(e.to_string())
        }
        other => other,
    })
}

/// Name of the file whose presence says that a database was found damaged.
fn suspect(file: &str) -> String {
    format!("{file}.suspect")
}

/// The index of a store.
pub(super) struct Index {
    base: Base,
}

/// One chunk's change in a commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    /// Which chunk.
    pub(super) id: ChunkId,
    /// What the index has of it.
    pub(super) saved: Row,
    /// What it shall have.
    pub(super) now: Row,
}

/// A change of the pins.
#[derive(Debug, Clone, Copy)]
pub(super) enum PinChange {
    /// The root's pin covers the chunk.
    Add(ChunkId, ChunkId),
    /// It does no longer.
    Remove(ChunkId, ChunkId),
}

/// Everything that goes into one commit.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Changed chunks.
    pub(super) changes: Vec<Change>,
    /// Stretches that were given up before any commit knew them, with their lengths.
    pub(super) lost: Vec<(Place, u64)>,
    /// Stretches of `FREED` that are punched by now.
    pub(super) punched: Vec<Place>,
    /// Pins.
    pub(super) pins: Vec<PinChange>,
    /// Segments that were sealed before the changes were collected.
    pub(super) sealed: Vec<u32>,
    /// Whether to write down the heat of every segment.
    pub(super) heat: bool,
}

/// What a commit brought.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// To punch, and then to name in the next batch.
    pub(super) freed: Vec<(Place, u64)>,
    /// Segments without anything live: to remove.
    pub(super) dead: Vec<u32>,
    /// The new sums.
    pub(super) totals: Totals,
}

impl Batch {
    /// Whether there is nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        let Batch { changes, lost, punched, pins, sealed, heat } = self;
        let nothing = changes.is_empty() && lost.is_empty() && pins.is_empty() && sealed.is_empty();
        // A list of what was punched alone is not worth a commit, until the last.
        nothing && (!*heat || punched.is_empty())
    }
}

/// What is read at opening.
#[derive(Debug)]
pub(super) struct Loaded {
    /// All segments.
    pub(super) segments: Vec<(u32, SegmentRow)>,
    /// Number of the next one.
    pub(super) next: u32,
    /// The sums.
    pub(super) totals: Totals,
    /// Still to punch.
    pub(super) freed: Vec<(Place, u64)>,
}

impl Index {
    /// Opens or makes the index. True: it is new, and does not know what the segments hold.
    pub(super) fn open(folder: Arc<Folder>, cache_bytes: usize) -> Result<(Index, bool), StoreError> {
        if folder.has(&suspect(FILE)) {
            folder.rename(FILE, DAMAGED_FILE)?;
            folder.remove(&suspect(FILE))?;
        }
        match Index::try_open(folder.clone(), cache_bytes) {
            Err(StoreError::Index(why)) => {
                tracing::error!(why, "the index is damaged, it will be made again from the segments");
                folder.rename(FILE, DAMAGED_FILE)?;
                folder.remove(&suspect(FILE))?;
                Index::try_open(folder, cache_bytes)
            }
            other => other,
        }
    }

    fn try_open(folder: Arc<Folder>, cache_bytes: usize) -> Result<(Index, bool), StoreError> {
        let index = Index { base: Base::open(folder, FILE, cache_bytes)? };
        let made = index.base.with(|database| {
            let tx = database.begin_read()?;
            match tx.open_table(META) {
                Ok(meta) => Ok(meta.get(NEXT_SEGMENT)?.is_some()),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })?;
        if !made {
            // At once, so that readers always find them.
            index.base.write(Durability::Immediate, |tx| {
                tx.open_table(CHUNKS)?;
                tx.open_table(PLACES)?;
                tx.open_table(SEGMENTS)?;
                tx.open_table(FREED)?;
                tx.open_table(LEASES)?;
                tx.open_table(PINS)?;
                tx.open_table(PINNED)?;
                tx.open_table(META)?;
                Ok(())
            })?;
        }
        Ok((index, !made))
    }

    /// All segments, the number of the next one, the sums, and what is still to punch. Its cost grows with segments, not with chunks.
    pub(super) fn load(&self) -> Result<Loaded, StoreError> {
        self.base.with(|database| {
            let tx = database.begin_read()?;
            let mut rows = Vec::new();
            for item in tx.open_table(SEGMENTS)?.iter()? {
                let (number, row) = item?;
                let row = SegmentRow::from_bytes(row.value())
                    .ok_or_else(|| redb::Error::Corrupted("a segment's row".to_string()))?;
                rows.push((number.value(), row));
            }
            let meta = tx.open_table(META)?;
            let next = meta.get(NEXT_SEGMENT)?.map_or(0, |number| number.value());
            let totals = totals(&meta)?;
            let mut freed = Vec::new();
            for item in tx.open_table(FREED)?.iter()? {
                let (key, len) = item?;
                freed.push((place_of(key.value()), len.value()));
            }
            Ok(Loaded { segments: rows, next: u32::try_from(next).unwrap_or(u32::MAX), totals, freed })
        })
    }

    /// What was committed of a chunk.
    pub(super) fn row(&self, id: &ChunkId) -> Result<Option<Row>, StoreError> {
        self.base.with(|database| {
            let tx = database.begin_read()?;
            let row = tx.open_table(CHUNKS)?.get(id.as_bytes())?;
            Ok(row.and_then(|row| Row::from_bytes(id, row.value())))
        })
    }

    /// The same for several chunks.
    pub(super) fn rows(&self, ids: &[ChunkId]) -> Result<Vec<Option<Row>>, StoreError> {
        self.base.with(|database| {
            let tx = database.begin_read()?;
            let table = tx.open_table(CHUNKS)?;
            let row = |id: &ChunkId| Ok(table.get(id.as_bytes())?.and_then(|row| Row::from_bytes(id, row.value())));
            ids.iter().map(row).collect()
        })
    }

    /// At most `max` committed rows after `after`, in order of their ids.
    pub(super) fn page(&self, after: Option<&ChunkId>, max: usize) -> Result<Vec<(ChunkId, Row)>, StoreError> {
        use std::ops::Bound;
        self.base.with(|database| {
            let tx = database.begin_read()?;
            let table = tx.open_table(CHUNKS)?;
            let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_bytes()));
            let mut found = Vec::new();
            for item in table.range::<&[u8; 32]>((from, Bound::Unbounded))?.take(max) {
                let (id, row) = item?;
                let id = ChunkId(*id.value());
                // A damaged row is listed as an empty one, so that who pages on knows the last id.
                found.push((id, Row::from_bytes(&id, row.value()).unwrap_or_default()));
            }
            Ok(found)
        })
    }

    /// At most `max` chunks of a segment from block `block` on, in order of their places.
    pub(super) fn in_segment(&self, from: Place, max: usize) -> Result<Vec<(Place, ChunkId)>, StoreError> {
        self.base.with(|database| {
            let tx = database.begin_read()?;
            let table = tx.open_table(PLACES)?;
            let end = place_key(Place { segment: from.segment, block: u32::MAX });
            let mut found = Vec::new();
            for item in table.range(place_key(from)..=end)?.take(max) {
                let (key, id) = item?;
                found.push((place_of(key.value()), ChunkId(*id.value())));
            }
            Ok(found)
        })
    }

    /// At most `max` chunks whose lease ended at `now`.
    pub(super) fn expired(&self, now: u64, max: usize) -> Result<Vec<ChunkId>, StoreError> {
        self.base.with(|database| {
            let tx = database.begin_read()?;
            let table = tx.open_table(LEASES)?;
            let mut found = Vec::new();
            for item in table.range(..=(now, &[u8::MAX; 32]))?.take(max) {
                found.push(ChunkId(*item?.0.value().1));
            }
            Ok(found)
        })
    }

    /// At most `max` chunks of a pin after `after`, each with whether another pin covers it too.
    pub(super) fn pinned(
        &self,
        root: &ChunkId,
        after: Option<&ChunkId>,
        max: usize,
    ) -> Result<Vec<(ChunkId, bool)>, StoreError> {
        use std::ops::Bound;
        self.base.with(|database| {
            let tx = database.begin_read()?;
            let (pins, pinned) = (tx.open_table(PINS)?, tx.open_table(PINNED)?);
            let low = (root.as_bytes(), after.map_or(&[0; 32], ChunkId::as_bytes));
            let from = if after.is_some() { Bound::Excluded(low) } else { Bound::Included(low) };
            let to = Bound::Included((root.as_bytes(), &[u8::MAX; 32]));
            let mut found = Vec::new();
            for item in pins.range::<(&[u8; 32], &[u8; 32])>((from, to))?.take(max) {
                let id = ChunkId(*item?.0.value().1);
                let mut others = false;
                for other in pinned.range((id.as_bytes(), &[0; 32])..=(id.as_bytes(), &[u8::MAX; 32]))?.take(2) {
                    others |= other?.0.value().1 != root.as_bytes();
                }
                found.push((id, others));
            }
            Ok(found)
        })
    }

    /// Commits a batch durably. `segments` tells where each segment ends now; their rows are brought up to date with the commit.
    pub(super) fn commit(&self, batch: &Batch, segments: &Segments) -> Result<Committed, StoreError> {
        let (committed, rows) = self.base.write(Durability::Immediate, |tx| apply(tx, batch, segments))?;
        for (number, row) in rows {
            if let Some(segment) = segments.get(number) {
                *segment.row.lock().unwrap_or_else(PoisonError::into_inner) = row;
            }
        }
        Ok(committed)
    }
}

fn totals(meta: &impl ReadableTable<&'static str, u64>) -> Result<Totals, redb::Error> {
    let mut numbers = [0; TOTAL_NAMES.len()];
    for (number, name) in numbers.iter_mut().zip(TOTAL_NAMES) {
        *number = meta.get(name)?.map_or(0, |number| number.value());
    }
    Ok(Totals::from_numbers(numbers))
}

type Applied = (Committed, BTreeMap<u32, SegmentRow>);

fn apply(tx: &WriteTransaction, batch: &Batch, segments: &Segments) -> Result<Applied, redb::Error> {
    let mut chunks = tx.open_table(CHUNKS)?;
    let mut places = tx.open_table(PLACES)?;
    let mut freed = tx.open_table(FREED)?;
    let mut leases = tx.open_table(LEASES)?;
    let mut meta = tx.open_table(META)?;
    let mut rows: BTreeMap<u32, SegmentRow> = BTreeMap::new();
    let mut committed = Committed { totals: totals(&meta)?, ..Committed::default() };
    let row_of = |number: u32| {
        let segment = segments.get(number)?;
        Some(*segment.row.lock().unwrap_or_else(PoisonError::into_inner))
    };

    for place in &batch.punched {
        freed.remove(place_key(*place))?;
    }
    for Change { id, saved, now } in &batch.changes {
        if saved == now {
            continue;
        }
        committed.totals.subtract(saved);
        committed.totals.add(now);
        for (row, counts_in) in [(saved, false), (now, true)] {
            let Some(place) = row.place else { continue };
            let Some(known) = rows.get(&place.segment).copied().or_else(|| row_of(place.segment)) else { continue };
            let evictable = if row.is_evictable() { row.disk_bytes() } else { 0 };
            let changed = if counts_in {
                SegmentRow { live: known.live + row.disk_bytes(), evictable: known.evictable + evictable, ..known }
            } else {
                SegmentRow {
                    live: known.live.saturating_sub(row.disk_bytes()),
                    evictable: known.evictable.saturating_sub(evictable),
                    ..known
                }
            };
            rows.insert(place.segment, changed);
        }
        if saved.place != now.place {
            if let Some(place) = saved.place {
                places.remove(place_key(place))?;
                committed.freed.push((place, record_bytes(saved.len)));
            }
            if let Some(place) = now.place {
                places.insert(place_key(place), id.as_bytes())?;
            }
        }
        if saved.class != now.class {
            if let Class::Hosted { until } = saved.class {
                leases.remove((until, id.as_bytes()))?;
            }
            if let Class::Hosted { until } = now.class {
                leases.insert((until, id.as_bytes()), ())?;
            }
        }
        if now.is_empty() {
            chunks.remove(id.as_bytes())?;
        } else {
            chunks.insert(id.as_bytes(), &now.to_bytes(id))?;
        }
    }
    committed.freed.extend(&batch.lost);
    for (place, len) in &committed.freed {
        freed.insert(place_key(*place), *len)?;
    }
    if !batch.pins.is_empty() {
        let (mut pins, mut pinned) = (tx.open_table(PINS)?, tx.open_table(PINNED)?);
        for change in &batch.pins {
            match change {
                PinChange::Add(root, id) => {
                    pins.insert((root.as_bytes(), id.as_bytes()), ())?;
                    pinned.insert((id.as_bytes(), root.as_bytes()), ())?;
                }
                PinChange::Remove(root, id) => {
                    pins.remove((root.as_bytes(), id.as_bytes()))?;
                    pinned.remove((id.as_bytes(), root.as_bytes()))?;
                }
            }
        }
    }

    let mut table = tx.open_table(SEGMENTS)?;
    for (number, segment) in segments.all() {
        let before = *segment.row.lock().unwrap_or_else(PoisonError::into_inner);
        let mut row = rows.get(&number).copied().unwrap_or(before);
        row.end = segment.end.load(Ordering::Acquire);
        row.sealed = before.sealed || batch.sealed.contains(&number);
        if row != before || batch.heat {
            row.heat = segment.heat.load(Ordering::Relaxed);
        }
        if row.sealed && row.live == 0 {
            table.remove(number)?;
            for item in freed.extract_from_if(
                place_key(Place { segment: number, block: 0 })..=place_key(Place { segment: number, block: u32::MAX }),
                |_, _| true,
            )? {
                item?;
            }
            committed.freed.retain(|(place, _)| place.segment != number);
            committed.dead.push(number);
            rows.remove(&number);
        } else if row != before {
            table.insert(number, &row.to_bytes())?;
            rows.insert(number, row);
        }
    }
    meta.insert(NEXT_SEGMENT, u64::from(segments.next()))?;
    for (name, number) in TOTAL_NAMES.iter().zip(committed.totals.numbers()) {
        meta.insert(*name, number)?;
    }
    Ok((committed, rows))
}
