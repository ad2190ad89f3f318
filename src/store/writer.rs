//! The thread that writes what was put to the segments.

use super::Inner;
use super::entry::Piece;
use super::error::StoreError;
use super::record::{payload_start, record_bytes, record_header};
use super::schema::Class;
use super::segment::Place;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::sync::lock;
use crate::content::chunk::Outline;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Segments that are appended to: one for what is kept, one for what may be evicted, so that these die as a whole.
#[derive(Debug, Default)]
struct Lanes {
    open: [Option<u32>; 2],
}

struct Job {
    generation: u64,
    len: u32,
    place: Option<Place>,
    class: Class,
    pinned: bool,
    pieces: Vec<Piece>,
    outline: Option<Arc<Outline>>,
}

/// Runs until the queue is closed and empty.
pub(super) fn run(inner: &Inner) {
    let mut lanes = Lanes::adopt(inner);
    let _guard = inner.queue.guard();
    while let Some(id) = inner.queue.pop() {
        match write(inner, &mut lanes, &id) {
            Ok(bytes) => {
                if bytes > 0 {
                    inner.counters.written_bytes.fetch_add(bytes, Ordering::Relaxed);
                    let due = inner.commit_bytes();
                    inner.rounds.wrote(bytes, due, 2 * due);
                }
            }
            Err(error) => {
                if !inner.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "chunks wait in memory: the store cannot write");
                }
                lock(&inner.stuck).push(id);
                inner.budget.set_stuck(Some(error));
                // Tried again with the next round, so one must come.
                inner.rounds.nudge();
            }
        }
        inner.queue.finish();
    }
}

fn write(inner: &Inner, lanes: &mut Lanes, id: &ChunkId) -> Result<u64, StoreError> {
    let job = inner.entries.look(&inner.index, id, |entry| {
        entry.queued = false;
        Job {
            generation: entry.generation,
            len: entry.row.len,
            place: entry.row.place,
            class: entry.row.class,
            pinned: entry.row.pinned,
            pieces: entry.pieces.clone(),
            outline: entry.outline.clone(),
        }
    })?;
    let Some(job) = job.filter(|job| !job.pieces.is_empty()) else { return Ok(0) };
    let kept = job.class == Class::Own || job.pinned;
    if !kept && inner.tight.load(Ordering::Acquire) {
        return Err(StoreError::Full);
    }
    // Without space set aside, chunks could fill the disk so that not even the index can say which of them to give up.
    inner.folder.reserve()?;
    let bytes: u64 = job.pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
    let (place, fresh) = match (job.place, &job.outline) {
        (Some(place), _) => (place, None),
        (None, Some(outline)) => {
            let lane = usize::from(!kept && !matches!(job.class, Class::Hosted { .. }));
            let place = lanes.place(inner, lane, record_bytes(job.len))?;
            (place, Some(record_header(id, outline, job.class.kind())))
        }
        (None, None) => return Err(StoreError::Index("a chunk without an outline".to_string())),
    };
    let written = write_pieces(inner, place, &job, fresh.as_deref());
    if let (Err(StoreError::Io { .. }), true) = (&written, fresh.is_some()) {
        // A bad spot of the disk, maybe: go on elsewhere.
        lanes.leave(inner, place.segment);
    }
    if let (Err(StoreError::Io { source, .. }), None) = (&written, &fresh)
        && source.kind() == std::io::ErrorKind::NotFound
    {
        // Its segment is gone, and what was written with it: begin again elsewhere.
        inner.entries.look(&inner.index, id, |entry| {
            if entry.row.place == Some(place) {
                entry.change(|row| (row.place, row.mask) = (None, 0));
            }
        })?;
        return write(inner, lanes, id);
    }
    written?;
    if let Some(segment) = inner.segments.get(place.segment) {
        segment.written.store(inner.now(), Ordering::Relaxed);
        if fresh.is_some() {
            segment.end.store(place.offset() + record_bytes(job.len), Ordering::Release);
        }
    }
    let mask = job.pieces.iter().fold(0, |mask, piece| mask | piece.slices.mask());
    let after = inner.entries.look(&inner.index, id, |entry| {
        let same = entry.generation == job.generation;
        if same {
            entry.pieces.drain(..job.pieces.len().min(entry.pieces.len()));
            entry.change(|row| {
                row.place = Some(place);
                row.mask |= mask;
            });
        }
        (same, entry.row.place == Some(place))
    })?;
    let (same, in_use) = after.unwrap_or((false, false));
    if same {
        inner.budget.give(bytes);
    }
    if !in_use {
        // Given up in the meantime, and its memory with it; what was written since lies in nobody's place.
        lock(&inner.lost).push((place, record_bytes(job.len)));
    }
    Ok(bytes)
}

fn write_pieces(inner: &Inner, place: Place, job: &Job, header: Option<&[u8]>) -> Result<(), StoreError> {
    let payload = place.offset() + payload_start(job.len);
    let mut header = header;
    for piece in &job.pieces {
        let at = payload + u64::from(piece.slices.first) * SLICE_BYTES as u64;
        match header.take_if(|_| piece.slices.first == 0) {
            Some(header) => inner.segments.write(place.segment, &[header, &piece.bytes], place.offset())?,
            None => inner.segments.write(place.segment, &[&piece.bytes], at)?,
        }
    }
    header.map_or(Ok(()), |header| inner.segments.write(place.segment, &[header], place.offset()))
}

impl Lanes {
    /// Goes on with the segments that were open when the store was last closed.
    fn adopt(inner: &Inner) -> Lanes {
        let mut lanes = Lanes::default();
        for (number, segment) in inner.segments.all() {
            let lane = usize::from(lock(&segment.row).lane);
            if segment.sealed.load(Ordering::Acquire) {
                continue;
            }
            match lanes.open.get_mut(lane) {
                Some(open @ None) => *open = Some(number),
                _ => segment.sealed.store(true, Ordering::Release),
            }
        }
        lanes
    }

    /// Room for a record at the end of a lane's segment, or of a new one.
    fn place(&mut self, inner: &Inner, lane: usize, bytes: u64) -> Result<Place, StoreError> {
        if let Some(number) = self.open[lane] {
            if let Some(segment) = inner.segments.get(number) {
                let end = segment.end.load(Ordering::Acquire);
                if end + bytes <= inner.config.segment_bytes.max(bytes + super::record::BLOCK) {
                    return Ok(Place { segment: number, block: (end / super::record::BLOCK) as u32 });
                }
            }
            self.leave(inner, number);
        }
        let number = inner.segments.create(lane as u8)?;
        self.open[lane] = Some(number);
        Ok(Place { segment: number, block: 1 })
    }

    fn leave(&mut self, inner: &Inner, number: u32) {
        for lane in &mut self.open {
            if *lane == Some(number) {
                *lane = None;
            }
        }
        if let Some(segment) = inner.segments.get(number) {
            segment.sealed.store(true, Ordering::Release);
        }
    }
}
