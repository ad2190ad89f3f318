//! Reading slices: from memory as they are, from disk verified.

use super::Inner;
use super::entry::Entry;
use super::error::StoreError;
use super::record::{BLOCK, parse_header, payload_start, whole_mask};
use super::schema::Class;
use super::segment::Place;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::range::{SliceRange, slice_count};
use crate::base::sync::lock;
use crate::content::chunk::Outline;
use bytes::Bytes;
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How often a read is tried again because the chunk moved meanwhile.
const TRIES: usize = 4;

enum View {
    Missing,
    Memory(Bytes),
    Disk { place: Place, len: u32, slices: SliceRange, pending: Vec<(u8, Bytes)>, outline: Option<Arc<Outline>> },
}

/// The slices `wanted` that there can be in a chunk of `len` bytes.
fn cut(wanted: SliceRange, len: u32) -> SliceRange {
    let count = slice_count(len);
    SliceRange { first: wanted.first, count: wanted.end().min(count).saturating_sub(wanted.first) }
}

/// The slices' bytes if all of them wait in memory.
pub(super) fn from_memory(entry: &Entry, wanted: SliceRange) -> Option<Bytes> {
    let slices = cut(wanted, entry.row.len);
    let span = slices.bytes(entry.row.len);
    if slices.count == 0 {
        return None;
    }
    if let Some(piece) = entry.pieces.iter().find(|piece| slices.mask() & !piece.slices.mask() == 0) {
        let skip = piece.slices.bytes(entry.row.len).start;
        return Some(piece.bytes.slice((span.start - skip) as usize..(span.end - skip) as usize));
    }
    let pending = entry.pieces.iter().fold(0, |mask, piece| mask | piece.slices.mask());
    if slices.mask() & !pending != 0 {
        return None;
    }
    let mut out = Vec::with_capacity((span.end - span.start) as usize);
    for index in slices.first..slices.end() {
        out.extend_from_slice(&entry.pending_slice(index)?);
    }
    Some(Bytes::from(out))
}

fn view(entry: &mut Entry, wanted: SliceRange, now: u64) -> View {
    let slices = cut(wanted, entry.row.len);
    if slices.count == 0 || slices.mask() & !entry.mask() != 0 {
        return View::Missing;
    }
    entry.note_read(now);
    if let Some(bytes) = from_memory(entry, wanted) {
        return View::Memory(bytes);
    }
    let Some(place) = entry.row.place else { return View::Missing };
    let pending = (slices.first..slices.end()).filter_map(|i| Some((i, entry.pending_slice(i)?))).collect();
    View::Disk { place, len: entry.row.len, slices, pending, outline: entry.outline.clone() }
}

impl Inner {
    /// See `Store::read`.
    pub(super) fn read(&self, id: &ChunkId, wanted: SliceRange) -> Result<Option<Bytes>, StoreError> {
        for _ in 0..TRIES {
            let view = self.entries.look(&self.index, id, |entry| view(entry, wanted, self.now()))?;
            let (place, len, slices, pending, outline) = match view {
                None | Some(View::Missing) => return Ok(None),
                Some(View::Memory(bytes)) => return Ok(Some(bytes)),
                Some(View::Disk { place, len, slices, pending, outline }) => (place, len, slices, pending, outline),
            };
            let bytes = self.read_payload(place, len, slices)?;
            if pending.is_empty() && slices == SliceRange::whole(len) && ChunkId::of(&bytes) == *id {
                return Ok(Some(bytes));
            }
            // From here on slice by slice: a part of the chunk, parts of it in memory, or something is wrong.
            let outline = match outline {
                Some(outline) => Some(outline),
                None => self.read_outline(id, place, len)?,
            };
            let mut bad = 0u64;
            let mut out = Vec::new();
            for index in slices.first..slices.end() {
                if let Some((_, slice)) = pending.iter().find(|(i, _)| *i == index) {
                    out.push(slice.clone());
                    continue;
                }
                let start = (usize::from(index - slices.first) * SLICE_BYTES).min(bytes.len());
                let slice = bytes.slice(start..(start + SLICE_BYTES).min(bytes.len()));
                let good = outline.as_ref().is_some_and(|outline| outline.check_slice(id, index, &slice));
                if !good {
                    bad |= 1 << index;
                }
                out.push(slice);
            }
            if bad == 0 {
                return Ok(Some(if pending.is_empty() { bytes } else { Bytes::from(out.concat()) }));
            }
            if self.damaged(id, place, bad, outline.is_some())? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// See `Store::read_ready`.
    pub(super) fn read_ready(&self, id: &ChunkId, wanted: SliceRange) -> Option<Bytes> {
        let (place, len, slices, outline) =
            match self.entries.look(&self.index, id, |entry| view(entry, wanted, self.now())).ok()?? {
                View::Missing => return None,
                View::Memory(bytes) => return Some(bytes),
                // A mixture is rare: the other way has the code for it.
                View::Disk { pending, .. } if !pending.is_empty() => return None,
                View::Disk { place, len, slices, outline, .. } => (place, len, slices, outline),
            };
        let span = slices.bytes(len);
        let count = (span.end - span.start) as usize;
        let at = place.offset() + payload_start(len) + u64::from(span.start);
        let bytes = self.segments.read_cached(place.segment, at, count)?;
        let good = match outline {
            Some(outline) => {
                (slices.first..slices.end()).zip(bytes.chunks(SLICE_BYTES)).all(|(i, s)| outline.check_slice(id, i, s))
            }
            None => slices == SliceRange::whole(len) && ChunkId::of(&bytes) == *id,
        };
        if !good {
            return None;
        }
        self.warm_segment(place, count);
        Some(bytes)
    }

    /// Counts `bytes` read from the segment at `place`.
    fn warm_segment(&self, place: Place, bytes: usize) {
        if let Some(segment) = self.segments.get(place.segment) {
            segment.heat.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    fn read_payload(&self, place: Place, len: u32, slices: SliceRange) -> Result<Bytes, StoreError> {
        let span = slices.bytes(len);
        let count = (span.end - span.start) as usize;
        self.warm_segment(place, count);
        self.read_disk(place, payload_start(len) + u64::from(span.start), count)
    }

    /// Bytes of a record; none when the disk cannot read them, which no check passes. Other errors (too many open files)
    /// say nothing about the data.
    fn read_disk(&self, place: Place, at: u64, count: usize) -> Result<Bytes, StoreError> {
        match self.segments.read(place.segment, place.offset() + at, count) {
            Err(StoreError::Io { source, .. })
                if source.raw_os_error() == Some(Errno::IO.raw_os_error())
                    || source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(Bytes::new())
            }
            other => other,
        }
    }

    /// The outline from a record, remembered in memory. `None` when it is damaged beyond recovery from the payload.
    fn read_outline(&self, id: &ChunkId, place: Place, len: u32) -> Result<Option<Arc<Outline>>, StoreError> {
        let outline = if len as usize <= SLICE_BYTES {
            Some(Outline { len, hashes: Vec::new() })
        } else {
            let block = self.read_disk(place, 0, BLOCK as usize)?;
            let header = parse_header(&block).filter(|header| header.id == *id && header.outline.len == len);
            match header {
                Some(header) => Some(header.outline),
                None => {
                    let (found, outline) = Outline::of(&self.read_payload(place, len, SliceRange::whole(len))?);
                    (found == *id).then_some(outline)
                }
            }
        };
        let outline = outline.map(Arc::new);
        if let Some(outline) = &outline {
            self.entries.look(&self.index, id, |entry| {
                if entry.row.place == Some(place) && entry.row.len == len {
                    entry.outline.get_or_insert_with(|| outline.clone());
                }
            })?;
        }
        Ok(outline)
    }

    /// See `Store::outline`.
    pub(super) fn outline(&self, id: &ChunkId) -> Result<Option<Arc<Outline>>, StoreError> {
        for _ in 0..TRIES {
            let known = self.entries.look(&self.index, id, |entry| {
                let here = entry.mask() != 0;
                here.then(|| (entry.outline.clone(), entry.row.place, entry.row.len))
            })?;
            match known.flatten() {
                None => return Ok(None),
                Some((Some(outline), _, _)) => return Ok(Some(outline)),
                Some((None, None, _)) => return Ok(None),
                Some((None, Some(place), len)) => {
                    if let Some(outline) = self.read_outline(id, place, len)? {
                        return Ok(Some(outline));
                    }
                    if self.damaged(id, place, whole_mask(len), false)? {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Slices of a record failed their check. False when the record was given up meanwhile, so that nothing is wrong.
    fn damaged(&self, id: &ChunkId, place: Place, bad: u64, outline: bool) -> Result<bool, StoreError> {
        let dropped = self.entries.look(&self.index, id, |entry| {
            if entry.row.place != Some(place) {
                return None;
            }
            let bad = if outline { bad & entry.row.mask } else { entry.row.mask };
            entry.change(|row| row.mask &= !bad);
            let freed = if entry.row.mask == 0 && entry.pieces.is_empty() { entry.give_up() } else { (0, None) };
            Some((bad, freed, entry.row.class == Class::Own))
        })?;
        let Some((bad, freed, own)) = dropped.flatten() else { return Ok(false) };
        self.free(freed);
        if own {
            lock(&self.damaged_own).insert(*id);
        }
        if bad != 0 {
            tracing::warn!(chunk = %format_args!("{id:.8}"), slices = bad.count_ones(), "damaged on disk, dropped");
            self.counters.damaged_slices.fetch_add(u64::from(bad.count_ones()), Ordering::Relaxed);
            self.note_dropped(id);
            self.rounds.nudge();
        }
        Ok(true)
    }
}
