//! Ranges of slices within one chunk.

/// Slices `first .. first + count` of a chunk; a slice is 16 KiB, the last of a chunk may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceRange {
    /// Number of the first slice, below 64.
    pub first: u8,
    /// How many, at most 64.
    pub count: u8,
}

impl SliceRange {
    /// All slices of a chunk of `chunk_len` bytes.
    pub fn whole(chunk_len: u32) -> SliceRange {
        SliceRange { first: 0, count: slice_count(chunk_len) }
    }

    /// The slices that hold bytes `start .. end` of a chunk.
    pub fn covering(start: u32, end: u32) -> SliceRange {
        let size = super::limit::SLICE_BYTES as u32;
        let first = start / size;
        let last = end.div_ceil(size).max(first);
        SliceRange { first: first as u8, count: (last - first) as u8 }
    }

    /// One past the last slice.
    pub fn end(&self) -> u8 {
        self.first.saturating_add(self.count)
    }

    /// One bit for each slice, slice 0 the lowest.
    pub fn mask(&self) -> u64 {
        let ones = if self.count >= 64 { u64::MAX } else { (1u64 << self.count) - 1 };
        if self.first >= 64 { 0 } else { ones << self.first }
    }

    /// The bytes of a chunk of `chunk_len` bytes that these slices cover, as `start .. end`, cut at the chunk's end.
    pub fn bytes(&self, chunk_len: u32) -> std::ops::Range<u32> {
        let size = super::limit::SLICE_BYTES as u32;
        (u32::from(self.first) * size).min(chunk_len)..(u32::from(self.end()) * size).min(chunk_len)
    }
}

/// How many slices a chunk of `chunk_len` bytes has.
pub fn slice_count(chunk_len: u32) -> u8 {
    chunk_len.div_ceil(super::limit::SLICE_BYTES as u32).min(u32::from(u8::MAX)) as u8
}

/// The runs of set bits as ranges, lowest first.
pub fn runs(mut mask: u64) -> impl Iterator<Item = SliceRange> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let first = mask.trailing_zeros();
        let count = (mask >> first).trailing_ones();
        let range = SliceRange { first: first as u8, count: count as u8 };
        mask &= !range.mask();
        Some(range)
    })
}
