//! Any k of n: which slices of which shards satisfy a want. A column is one slice number through all shards of a stripe.

use crate::base::range::SliceRange;

/// Columns (as a set of slices) that are present in at least `k` of the shards. Counts all 64 columns at once in
/// bit-sliced counters.
pub(super) fn columns_of_k(shards: &[u64], k: u8) -> u64 {
    let mut planes = [0u64; 6];
    for &shard in shards {
        let mut carry = shard;
        for plane in &mut planes {
            (*plane, carry) = (*plane ^ carry, *plane & carry);
        }
        // 48 shards at most: six planes never overflow.
    }
    let mut more = 0u64;
    let mut equal = u64::MAX;
    for (bit, plane) in planes.iter().enumerate().rev() {
        if k >> bit & 1 == 1 {
            equal &= plane;
        } else {
            more |= equal & plane;
            equal &= !plane;
        }
    }
    more | equal
}

/// Columns not satisfied yet: some wanted shard lacks the slice, and fewer than `k` shards have it.
pub(super) fn open_columns(need: &[u64], have: &[u64], k: u8) -> u64 {
    let missing = need.iter().zip(have).fold(0, |open, (need, have)| open | (need & !have));
    if missing == 0 { 0 } else { missing & !columns_of_k(have, k) }
}

/// The run of set bits that starts at the lowest bit of `start`, at most `max` long. `start` must be a subset of `mask`, not 0.
pub(super) fn run_from(mask: u64, start: u64, max: u8) -> SliceRange {
    let first = start.trailing_zeros().min(63);
    let count = (mask >> first).trailing_ones().clamp(1, u32::from(max.max(1)));
    SliceRange { first: first as u8, count: count as u8 }
}

/// Slices that a chunk of `len` bytes has; all when the length is not known (0).
pub(super) fn slices_of(len: u32) -> u64 {
    if len == 0 { u64::MAX } else { SliceRange::whole(len).mask() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::range::runs;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn columns_are_counted_as_a_slow_twin_counts_them(shards in proptest::collection::vec(any::<u64>(), 1..48), k in 1u8..48) {
            let mut slow = 0u64;
            for column in 0..64 {
                if shards.iter().filter(|shard| *shard >> column & 1 == 1).count() >= usize::from(k) {
                    slow |= 1 << column;
                }
            }
            prop_assert_eq!(columns_of_k(&shards, k), slow);
        }

        #[test]
        fn runs_cover_a_mask_exactly(mask: u64) {
            let mut seen = 0u64;
            for run in runs(mask) {
                prop_assert_eq!(seen & run.mask(), 0);
                seen |= run.mask();
            }
            prop_assert_eq!(seen, mask);
        }
    }

    #[test]
    fn any_k_shards_close_a_column() {
        assert_eq!(open_columns(&[1, 1, 0, 0], &[1, 0, 0, 0], 2), 1);
        assert_eq!(open_columns(&[1, 1, 0, 0], &[1, 0, 0, 1], 2), 0);
        assert_eq!(open_columns(&[3, 3, 0, 0], &[3, 0, 0, 1], 2), 2);
        assert_eq!(open_columns(&[3, 0, 0, 0], &[3, 0, 0, 0], 2), 0);
        assert_eq!(run_from(0b1111_0110, 0b0010_0000, 2), SliceRange { first: 5, count: 2 });
    }
}
