//! Tables and rows of the index. `FORMAT.md` beside this file describes the whole folder.

use super::record::{disk_bytes, whole_mask};
use super::segment::Place;
use crate::base::digest::ChunkId;
use crate::base::limit::CHUNK_BYTES_MAX;
use redb::TableDefinition;

/// Chunk id to `Row`.
pub(super) const CHUNKS: TableDefinition<&[u8; 32], &[u8; ROW_BYTES]> = TableDefinition::new("chunks.1");
/// Segment and block (`place_key`) to chunk id: what lies where, for eviction.
pub(super) const PLACES: TableDefinition<u64, &[u8; 32]> = TableDefinition::new("places.1");
/// Segment number to `SegmentRow`.
pub(super) const SEGMENTS: TableDefinition<u32, &[u8; SEGMENT_ROW_BYTES]> = TableDefinition::new("segments.1");
/// Stretches to punch (`place_key` to bytes): freed in the index, maybe not yet on disk.
pub(super) const FREED: TableDefinition<u64, u64> = TableDefinition::new("freed.1");
/// (end of lease in Unix seconds, chunk id): leases by their end.
pub(super) const LEASES: TableDefinition<(u64, &[u8; 32]), ()> = TableDefinition::new("leases.1");
/// (root, chunk id): what a pin covers.
pub(super) const PINS: TableDefinition<(&[u8; 32], &[u8; 32]), ()> = TableDefinition::new("pins.1");
/// (chunk id, root): which pins cover a chunk.
pub(super) const PINNED: TableDefinition<(&[u8; 32], &[u8; 32]), ()> = TableDefinition::new("pinned.1");
/// Name to number: `NEXT_SEGMENT` and the sums of `Totals`.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta.1");
/// Number of the next segment; numbers are never used twice.
pub(super) const NEXT_SEGMENT: &str = "next segment";

/// Length of a chunk's row.
pub(super) const ROW_BYTES: usize = 32;
/// Length of a segment's row.
pub(super) const SEGMENT_ROW_BYTES: usize = 40;

/// Why a chunk is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Kept while it earns its place: the first to go, the least recently used before others.
    #[default]
    Cached,
    /// Kept for another peer until its lease ends (Unix seconds), then cached.
    Hosted {
        /// When the lease ends.
        until: u64,
    },
    /// Of a tree published here: kept until told otherwise.
    Own,
}

impl Class {
    /// The number that stands for it on disk.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Class::Cached => 0,
            Class::Hosted { .. } => 1,
            Class::Own => 2,
        }
    }

    /// When the lease ends; 0 without one.
    pub(super) fn until(&self) -> u64 {
        match self {
            Class::Hosted { until } => *until,
            Class::Cached | Class::Own => 0,
        }
    }

    /// Of two reasons to keep a chunk the one that keeps it longer.
    pub(super) fn stronger(self, other: Class) -> Class {
        match (self, other) {
            (Class::Own, _) | (_, Class::Own) => Class::Own,
            (Class::Hosted { until: a }, Class::Hosted { until: b }) => Class::Hosted { until: a.max(b) },
            (Class::Hosted { until }, Class::Cached) | (Class::Cached, Class::Hosted { until }) => {
                Class::Hosted { until }
            }
            (Class::Cached, Class::Cached) => Class::Cached,
        }
    }
}

/// What the index says of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Row {
    /// Length of the chunk; 0 while that is not known (pinned or leased before it came).
    pub(super) len: u32,
    /// Where its record is, if any slice was written.
    pub(super) place: Option<Place>,
    /// Which slices were written.
    pub(super) mask: u64,
    /// Why it is kept.
    pub(super) class: Class,
    /// Whether any pin covers it.
    pub(super) pinned: bool,
}

impl Row {
    /// Whether there is nothing to remember.
    pub(super) fn is_empty(&self) -> bool {
        self.place.is_none() && !self.pinned && self.class == Class::Cached
    }

    /// Whether all slices were written.
    pub(super) fn is_whole(&self) -> bool {
        self.place.is_some() && self.mask == whole_mask(self.len)
    }

    /// Whether it may be dropped for want of space.
    pub(super) fn is_evictable(&self) -> bool {
        self.place.is_some() && !self.pinned && self.class == Class::Cached
    }

    /// Bytes on disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        if self.place.is_some() { disk_bytes(self.len, self.mask) } else { 0 }
    }

    /// As it stands in the table under `id`.
    pub(super) fn to_bytes(self, id: &ChunkId) -> [u8; ROW_BYTES] {
        let mut out = [0; ROW_BYTES];
        let place = self.place.unwrap_or(Place { segment: u32::MAX, block: u32::MAX });
        out[0..4].copy_from_slice(&self.len.to_le_bytes());
        out[4..8].copy_from_slice(&place.segment.to_le_bytes());
        out[8..12].copy_from_slice(&place.block.to_le_bytes());
        out[12] = self.class.kind();
        out[13] = u8::from(self.pinned);
        out[16..24].copy_from_slice(&self.mask.to_le_bytes());
        out[24..32].copy_from_slice(&self.class.until().to_le_bytes());
        let check = row_check(id, &out);
        out[14..16].copy_from_slice(&check);
        out
    }

    /// From the table; `None` when a row of `id` cannot look like that.
    pub(super) fn from_bytes(id: &ChunkId, bytes: &[u8; ROW_BYTES]) -> Option<Row> {
        if row_check(id, bytes) != bytes[14..16] {
            return None;
        }
        let len = u32_at(bytes, 0)?;
        let place = Place { segment: u32_at(bytes, 4)?, block: u32_at(bytes, 8)? };
        let place = (place.segment != u32::MAX).then_some(place);
        let until = u64_at(bytes, 24)?;
        let class = match bytes[12] {
            0 => Class::Cached,
            1 => Class::Hosted { until },
            2 => Class::Own,
            _ => return None,
        };
        let mask = u64_at(bytes, 16)?;
        let fits = len as usize <= CHUNK_BYTES_MAX && mask & !whole_mask(len) == 0 && (place.is_none() || len > 0);
        fits.then_some(Row { len, place, mask, class, pinned: bytes[13] & 1 != 0 })
    }
}

/// First two bytes of the hash of id and row, the check itself taken as zero: redb does not check what it reads.
fn row_check(id: &ChunkId, row: &[u8; ROW_BYTES]) -> [u8; 2] {
    let mut bare = *row;
    bare[14..16].fill(0);
    let mut both = [0; 32 + ROW_BYTES];
    both[..32].copy_from_slice(id.as_bytes());
    both[32..].copy_from_slice(&bare);
    let hash = blake3::hash(&both);
    [hash.as_bytes()[0], hash.as_bytes()[1]]
}

/// What the index says of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SegmentRow {
    /// Where its last committed record ends; what lies behind is cut off at the next start.
    pub(super) end: u64,
    /// Bytes of live records.
    pub(super) live: u64,
    /// Of these, bytes that may be evicted.
    pub(super) evictable: u64,
    /// Bytes read lately.
    pub(super) heat: u64,
    /// Whether nothing is appended any more.
    pub(super) sealed: bool,
    /// What it is for: 0 what is kept, 1 what may be evicted, so that segments of these die as a whole.
    pub(super) lane: u8,
}

impl SegmentRow {
    /// As it stands in the table.
    pub(super) fn to_bytes(self) -> [u8; SEGMENT_ROW_BYTES] {
        let mut out = [0; SEGMENT_ROW_BYTES];
        let flags = u64::from(self.sealed) | u64::from(self.lane) << 1;
        let numbers = [self.end, self.live, self.evictable, self.heat, flags];
        for (place, number) in out.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// From the table.
    pub(super) fn from_bytes(bytes: &[u8; SEGMENT_ROW_BYTES]) -> Option<SegmentRow> {
        Some(SegmentRow {
            end: u64_at(bytes, 0)?,
            live: u64_at(bytes, 8)?,
            evictable: u64_at(bytes, 16)?,
            heat: u64_at(bytes, 24)?,
            sealed: bytes[32] & 1 != 0,
            lane: bytes[32] >> 1 & 1,
        })
    }
}

/// Sums over all chunks, kept with every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    /// Bytes on disk of own chunks.
    pub(super) own: u64,
    /// Bytes on disk of hosted chunks.
    pub(super) hosted: u64,
    /// Bytes on disk of cached chunks that a pin covers.
    pub(super) pinned: u64,
    /// Bytes on disk of chunks that may be evicted.
    pub(super) cached: u64,
    /// Chunks held whole.
    pub(super) whole: u64,
    /// Chunks held in part.
    pub(super) partial: u64,
}

/// Names of the sums in `META`, in the order of `Totals::numbers`.
pub(super) const TOTAL_NAMES: [&str; 6] =
    ["own bytes", "hosted bytes", "pinned bytes", "cached bytes", "whole chunks", "partial chunks"];

impl Totals {
    /// The sums in the order of `TOTAL_NAMES`.
    pub(super) fn numbers(&self) -> [u64; 6] {
        [self.own, self.hosted, self.pinned, self.cached, self.whole, self.partial]
    }

    /// The reverse of `numbers`.
    pub(super) fn from_numbers(numbers: [u64; 6]) -> Totals {
        let [own, hosted, pinned, cached, whole, partial] = numbers;
        Totals { own, hosted, pinned, cached, whole, partial }
    }

    /// Counts a row in.
    pub(super) fn add(&mut self, row: &Row) {
        if row.place.is_some() {
            let bytes = row.disk_bytes();
            *self.sum(row) = self.sum(row).saturating_add(bytes);
            let count = if row.is_whole() { &mut self.whole } else { &mut self.partial };
            *count = count.saturating_add(1);
        }
    }

    /// Counts a row out.
    pub(super) fn subtract(&mut self, row: &Row) {
        if row.place.is_some() {
            let bytes = row.disk_bytes();
            *self.sum(row) = self.sum(row).saturating_sub(bytes);
            let count = if row.is_whole() { &mut self.whole } else { &mut self.partial };
            *count = count.saturating_sub(1);
        }
    }

    fn sum(&mut self, row: &Row) -> &mut u64 {
        match row.class {
            Class::Own => &mut self.own,
            Class::Hosted { .. } => &mut self.hosted,
            Class::Cached if row.pinned => &mut self.pinned,
            Class::Cached => &mut self.cached,
        }
    }
}

/// Key of a place: segment number above, block below.
pub(super) fn place_key(place: Place) -> u64 {
    u64::from(place.segment) << 32 | u64::from(place.block)
}

/// The reverse of `place_key`.
pub(super) fn place_of(key: u64) -> Place {
    Place { segment: (key >> 32) as u32, block: key as u32 }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class() -> impl Strategy<Value = Class> {
        prop_oneof![Just(Class::Cached), any::<u64>().prop_map(|until| Class::Hosted { until }), Just(Class::Own)]
    }

    proptest! {
        #[test]
        fn row_reads_back_under_its_id_alone(
            len in 1u32..=1 << 20, segment in 0..u32::MAX, block: u32, held: bool, mask: u64, class in class(), pinned: bool, id: [u8; 32]
        ) {
            let place = held.then_some(Place { segment, block });
            let row = Row { len, place, mask: mask & whole_mask(len), class, pinned };
            let bytes = row.to_bytes(&ChunkId(id));
            prop_assert_eq!(Row::from_bytes(&ChunkId(id), &bytes), Some(row));
        }

        #[test]
        fn any_bytes_are_a_row_or_refused(id: [u8; 32], mut bytes: [u8; ROW_BYTES]) {
            let id = ChunkId(id);
            let check = row_check(&id, &bytes);
            bytes[14..16].copy_from_slice(&check);
            if let Some(row) = Row::from_bytes(&id, &bytes) {
                prop_assert_eq!(Row::from_bytes(&id, &row.to_bytes(&id)), Some(row));
            }
        }

        #[test]
        fn segment_row_reads_back(end: u64, live: u64, evictable: u64, heat: u64, sealed: bool, lane in 0..2u8) {
            let row = SegmentRow { end, live, evictable, heat, sealed, lane };
            prop_assert_eq!(SegmentRow::from_bytes(&row.to_bytes()), Some(row));
        }

        #[test]
        fn place_key_keeps_order(a: (u32, u32), b: (u32, u32)) {
            let [a, b] = [a, b].map(|(segment, block)| Place { segment, block });
            prop_assert_eq!(place_of(place_key(a)), a);
            prop_assert_eq!(a.cmp(&b), place_key(a).cmp(&place_key(b)));
        }
    }

    #[test]
    fn row_is_as_the_format_says() {
        let place = Some(Place { segment: 3, block: 5 });
        let row = Row { len: 100_000, place, mask: 0x7f, class: Class::Own, pinned: false };
        let hex: String = row.to_bytes(&ChunkId([7; 32])).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "a086010003000000050000000200b5627f000000000000000000000000000000");
        assert!(include_str!("FORMAT.md").contains("CHECK = `b562`"));
    }

    #[test]
    fn totals_return_to_zero() {
        let row = |class, pinned| Row {
            len: 1 << 20,
            place: Some(Place { segment: 1, block: 1 }),
            mask: u64::MAX,
            class,
            pinned,
        };
        let rows = [
            row(Class::Own, false),
            row(Class::Cached, true),
            row(Class::Cached, false),
            row(Class::Hosted { until: 7 }, false),
        ];
        let mut totals = Totals::default();
        rows.iter().for_each(|row| totals.add(row));
        assert_eq!(totals.numbers(), [1_052_672, 1_052_672, 1_052_672, 1_052_672, 4, 0]);
        assert_eq!(Totals::from_numbers(totals.numbers()), totals);
        rows.iter().for_each(|row| totals.subtract(row));
        assert_eq!(totals, Totals::default());
    }
}
