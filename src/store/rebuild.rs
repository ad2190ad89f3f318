//! Makes a lost or damaged index again from what the segments hold. Reads everything, so it is the last resort.

use super::error::StoreError;
use super::folder::Folder;
use super::index::{Batch, Change, Index};
use super::record::{BLOCK, Header, parse_header, payload_start, record_bytes};
use super::schema::{Class, Row, SegmentRow};
use super::segment::{Place, Segments, list};
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::range::slice_count;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A hosted chunk whose lease is forgotten is kept for so long: long enough for the owner to renew it.
const LEASE_SECONDS: u64 = 2 * 24 * 3600;

/// Fills a new index. Pins are forgotten, later changes of classes too; what is not whole or damaged is taken as far as it is good.
pub(super) fn rebuild(folder: &Arc<Folder>, index: &Index) -> Result<(), StoreError> {
    let numbers = list(folder)?;
    let Some(last) = numbers.last().copied() else { return Ok(()) };
    tracing::warn!(segments = numbers.len(), "reading all segments to make the index again");
    let mut rows = Vec::new();
    for number in &numbers {
        let end = super::segment::len(folder, *number)?.next_multiple_of(BLOCK).max(BLOCK);
        rows.push((*number, SegmentRow { end, ..SegmentRow::default() }));
    }
    let segments = Segments::open(folder.clone(), rows.clone(), last.saturating_add(1))?;
    let mut found: BTreeMap<ChunkId, Row> = BTreeMap::new();
    for (number, row) in rows {
        scan(&segments, number, row.end, &mut found)?;
    }
    let changes = found.into_iter().map(|(id, now)| Change { id, saved: Row::default(), now }).collect();
    let batch = Batch { changes, sealed: numbers, ..Batch::default() };
    for dead in index.commit(&batch, &segments)?.dead {
        segments.remove(dead)?;
    }
    Ok(())
}

/// Takes what is good in one segment.
fn scan(segments: &Segments, number: u32, end: u64, found: &mut BTreeMap<ChunkId, Row>) -> Result<(), StoreError> {
    let mut at = BLOCK;
    while at < end {
        let block = segments.read(number, at, BLOCK as usize)?;
        let Some(header) = parse_header(&block) else {
            // A hole, or the rest of something damaged: the next record starts at some block.
            at = segments.next_data(number, at + BLOCK)?;
            continue;
        };
        let len = header.outline.len;
        let mask = good_slices(segments, number, at, &header)?;
        let place = Place { segment: number, block: (at / BLOCK) as u32 };
        let row = Row { len, place: Some(place), mask, class: class_of(header.kind), pinned: false };
        if mask != 0 && found.get(&header.id).is_none_or(|old| old.mask.count_ones() <= mask.count_ones()) {
            found.insert(header.id, row);
        }
        at += record_bytes(len);
    }
    Ok(())
}

fn good_slices(segments: &Segments, number: u32, at: u64, header: &Header) -> Result<u64, StoreError> {
    let len = header.outline.len;
    let bytes = segments.read(number, at + payload_start(len), len as usize)?;
    let mut mask = 0;
    for index in 0..slice_count(len) {
        let start = (usize::from(index) * SLICE_BYTES).min(bytes.len());
        let end = (start + SLICE_BYTES).min(bytes.len());
        if header.outline.check_slice(&header.id, index, &bytes[start..end]) {
            mask |= 1 << index;
        }
    }
    Ok(mask)
}

fn class_of(kind: u8) -> Class {
    match kind {
        2 => Class::Own,
        1 => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            Class::Hosted { until: now + LEASE_SECONDS }
        }
        _ => Class::Cached,
    }
}
