//! How a body is cut into extents and chunks: geometry only.

use super::erasure::Scheme;
use crate::base::limit::{CHUNK_BYTES_MAX, SHARD_BYTES_MIN, SLICE_BYTES};

/// A contiguous range of a body that one stripe holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentPlan {
    /// Where it begins in the body.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
    /// What its stripe looks like.
    pub shape: StripeShape,
}

/// What the stripe of an extent looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StripeShape {
    /// Length of each chunk.
    pub chunk_len: u32,
    /// Data chunks.
    pub data: u8,
    /// Parity chunks; none beside a lone data chunk.
    pub parity: u8,
}

/// Length of an extent that is not a body's last.
pub fn extent_len(scheme: Scheme) -> u64 {
    u64::from(scheme.k) * CHUNK_BYTES_MAX as u64
}

/// The extents of a body of `size` bytes, in order.
pub fn plan(size: u64, scheme: Scheme) -> impl Iterator<Item = ExtentPlan> + use<> {
    let step = extent_len(scheme).max(1);
    (0..size.div_ceil(step)).filter_map(move |place| {
        let offset = place * step;
        let len = step.min(size - offset);
        shape(scheme, len).map(|shape| ExtentPlan { offset, len, shape })
    })
}

/// The shape of a stripe that holds `len` bytes; `None` when there is none: no bytes, or more than an extent has.
pub fn shape(scheme: Scheme, len: u64) -> Option<StripeShape> {
    if len == 0 || len > extent_len(scheme) {
        return None;
    }
    let split = len.div_ceil(SHARD_BYTES_MIN as u64).min(u64::from(scheme.k));
    if split == 1 {
        return Some(StripeShape { chunk_len: u32::try_from(len).ok()?, data: 1, parity: 0 });
    }
    let chunk_len = len.div_ceil(split).next_multiple_of(SLICE_BYTES as u64);
    // Rounding up may leave chunks at the end with nothing to hold.
    let data = u8::try_from(len.div_ceil(chunk_len)).ok()?;
    Some(StripeShape { chunk_len: u32::try_from(chunk_len).ok()?, data, parity: parity(scheme, data) })
}

/// Parity chunks beside `data` data chunks.
pub(crate) fn parity(scheme: Scheme, data: u8) -> u8 {
    if data > 1 { scheme.m } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shapes(size: u64) -> Vec<(u64, u32, u8, u8)> {
        plan(size, Scheme::DEFAULT).map(|p| (p.len, p.shape.chunk_len, p.shape.data, p.shape.parity)).collect()
    }

    #[test]
    fn short_bodies_are_lone_and_long_ones_are_stripes() {
        const MIB: u64 = 1 << 20;
        assert_eq!(shapes(0), []);
        assert_eq!(shapes(1), [(1, 1, 1, 0)]);
        assert_eq!(shapes(131_072), [(131_072, 131_072, 1, 0)]);
        assert_eq!(shapes(131_073), [(131_073, 81_920, 2, 4)]);
        assert_eq!(shapes(MIB), [(MIB, 131_072, 8, 4)]);
        assert_eq!(shapes(MIB + 1), [(MIB + 1, 147_456, 8, 4)]);
        assert_eq!(shapes(8 * MIB), [(8 * MIB, 1_048_576, 8, 4)]);
        assert_eq!(shapes(8 * MIB + 5), [(8 * MIB, 1_048_576, 8, 4), (5, 5, 1, 0)]);
        let replicas = Scheme { k: 1, m: 2 };
        assert_eq!(plan(3 * MIB, replicas).map(|p| p.shape.parity).collect::<Vec<_>>(), [0, 0, 0]);
        let wide = shape(Scheme { k: 47, m: 1 }, 47 * 131_072 + 1).unwrap();
        assert_eq!((wide.chunk_len, wide.data), (147_456, 42));
    }

    proptest! {
        #[test]
        fn extents_follow_each_other_and_every_chunk_holds_something(k in 1u8..=47, m in 1u8..=24, size in 0u64..200 << 20) {
            let scheme = Scheme { k, m };
            let mut end = 0;
            for extent in plan(size, scheme) {
                let StripeShape { chunk_len, data, parity } = extent.shape;
                prop_assert_eq!(extent.offset, end);
                end += extent.len;
                prop_assert!(data >= 1 && data <= k && chunk_len as usize <= CHUNK_BYTES_MAX);
                prop_assert!(extent.len <= u64::from(chunk_len) * u64::from(data));
                prop_assert!(extent.len > u64::from(chunk_len) * u64::from(data - 1));
                prop_assert_eq!(parity, if data == 1 { 0 } else { m });
                let whole_slices = (chunk_len as usize).is_multiple_of(SLICE_BYTES);
                prop_assert!(whole_slices || (data == 1 && u64::from(chunk_len) == extent.len));
            }
            prop_assert_eq!(end, size);
        }
    }
}
