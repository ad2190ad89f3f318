//! Reed-Solomon coding of stripes: any k of k + m shards give all others. The coding crate is known to this file only.

use crate::base::limit::STRIPE_CHUNKS_MAX;
use reed_solomon_erasure::galois_8;
use std::fmt;
use std::str::FromStr;

/// Identifies the code in manifests: systematic Reed-Solomon over GF(2^8) with polynomial 0x11d, where shard i is the value at
/// point i of the polynomial through the data shards.
pub const CODEC: u8 = 1;

/// Bytes of each shard worked on at a time: those of a whole stripe stay in the processor's nearest caches.
const BLOCK_BYTES: usize = 4096;

/// How many data and parity chunks a stripe has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheme {
    /// Data chunks, at least 1.
    pub k: u8,
    /// Parity chunks; also how many copies of a lone chunk are kept beside the first.
    pub m: u8,
}

/// Why a scheme was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// Not two numbers.
    #[error("redundancy is written as data+parity, such as 8+4")]
    Form,
    /// No data.
    #[error("redundancy needs at least one data chunk, such as 8+4")]
    NoData,
    /// Too wide.
    #[error("redundancy {0} has more than {STRIPE_CHUNKS_MAX} chunks in a stripe; choose smaller numbers")]
    TooWide(String),
}

/// Why shards cannot be rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RebuildError {
    /// Fewer than k distinct shards.
    #[error("{got} shards are too few to rebuild from: {needed} are needed")]
    TooFew {
        /// Usable shards given.
        got: usize,
        /// k.
        needed: usize,
    },
    /// The shards have different lengths.
    #[error("shards of different lengths do not belong together")]
    Length,
    /// An index at or over k + m.
    #[error("shard {0} is not in the scheme")]
    Index(u8),
}

impl Scheme {
    /// Eight and four.
    pub const DEFAULT: Scheme = Scheme { k: 8, m: 4 };

    /// A scheme within the limits.
    pub fn new(k: u8, m: u8) -> Result<Scheme, SchemeError> {
        let scheme = Scheme { k, m };
        if k == 0 {
            Err(SchemeError::NoData)
        } else if scheme.total() > STRIPE_CHUNKS_MAX {
            Err(SchemeError::TooWide(scheme.to_string()))
        } else {
            Ok(scheme)
        }
    }

    /// k + m.
    pub fn total(&self) -> usize {
        usize::from(self.k) + usize::from(self.m)
    }

    /// On how many peers a chunk without a stripe (manifest, short file) is kept whole.
    pub fn copies(&self) -> u8 {
        self.m.saturating_add(1)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

impl FromStr for Scheme {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Scheme, SchemeError> {
        let (k, m) = text.split_once('+').ok_or(SchemeError::Form)?;
        let number = |digits: &str| {
            let digits = digits.trim();
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u8>().map_err(|_| SchemeError::TooWide(text.to_string())))
        };
        Scheme::new(number(k).ok_or(SchemeError::Form)??, number(m).ok_or(SchemeError::Form)??)
    }
}

/// The parity shards of `data`, which are `scheme.k` shards of equal length.
///
/// # Panics
/// When the number or the lengths of the shards differ: that is a mistake of the caller, not of a peer.
pub fn encode(scheme: Scheme, data: &[&[u8]]) -> Vec<Vec<u8>> {
    let len = data.first().map_or(0, |shard| shard.len());
    assert!(data.len() == usize::from(scheme.k) && data.iter().all(|shard| shard.len() == len), "{scheme} shards");
    let points: Vec<u8> = (0..scheme.k).collect();
    let rows: Vec<Vec<u8>> = (scheme.k..scheme.total() as u8).map(|wanted| coefficients(&points, wanted)).collect();
    combine(&rows, data, len)
}

/// The shards with indices `wanted` (data first, then parity), from any k others. All are the same range of their chunks:
/// the code works byte by byte, so that slices of chunks give slices of chunks.
pub fn rebuild(scheme: Scheme, shards: &[(u8, &[u8])], wanted: &[u8]) -> Result<Vec<Vec<u8>>, RebuildError> {
    let (needed, total) = (usize::from(scheme.k), scheme.total().min(STRIPE_CHUNKS_MAX) as u8);
    if let Some(index) = shards.iter().map(|(index, _)| index).chain(wanted).find(|index| **index >= total) {
        return Err(RebuildError::Index(*index));
    }
    let mut points: Vec<u8> = Vec::with_capacity(needed);
    let mut inputs: Vec<&[u8]> = Vec::with_capacity(needed);
    for (index, bytes) in shards {
        if points.len() < needed && !points.contains(index) {
            points.push(*index);
            inputs.push(bytes);
        }
    }
    if points.len() < needed || needed == 0 {
        return Err(RebuildError::TooFew { got: points.len(), needed });
    }
    let len = inputs.first().map_or(0, |shard| shard.len());
    if inputs.iter().any(|shard| shard.len() != len) {
        return Err(RebuildError::Length);
    }
    let rows: Vec<Vec<u8>> = wanted.iter().map(|wanted| coefficients(&points, *wanted)).collect();
    Ok(combine(&rows, &inputs, len))
}

/// Lagrange's interpolation: what each shard at `points` counts for in the shard at `wanted`. Points are distinct.
/// Over these points it is the same code as the one from the Vandermonde matrix made systematic.
fn coefficients(points: &[u8], wanted: u8) -> Vec<u8> {
    let coefficient = |(here, point): (usize, &u8)| {
        let others = points.iter().enumerate().filter(|(place, _)| *place != here).map(|(_, other)| other);
        others.fold(1, |product, other| galois_8::mul(product, galois_8::div(wanted ^ other, point ^ other)))
    };
    points.iter().enumerate().map(coefficient).collect()
}

/// For each row the sum of the inputs, each times its coefficient.
fn combine(rows: &[Vec<u8>], inputs: &[&[u8]], len: usize) -> Vec<Vec<u8>> {
    let mut outputs: Vec<Vec<u8>> = rows.iter().map(|_| vec![0; len]).collect();
    for start in (0..len).step_by(BLOCK_BYTES) {
        let block = start..(start + BLOCK_BYTES).min(len);
        for (row, output) in rows.iter().zip(&mut outputs) {
            let output = &mut output[block.clone()];
            let mut first = true;
            for (coefficient, input) in row.iter().zip(inputs).filter(|(coefficient, _)| **coefficient != 0) {
                let input = &input[block.clone()];
                match (first, coefficient) {
                    (true, 1) => output.copy_from_slice(input),
                    (true, _) => galois_8::mul_slice(*coefficient, input, output),
                    (false, _) => galois_8::mul_slice_xor(*coefficient, input, output),
                }
                first = false;
            }
        }
    }
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use reed_solomon_erasure::galois_8::ReedSolomon;

    fn shards(count: usize, len: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|shard| {
                let mut bytes = vec![0; len];
                blake3::Hasher::new().update(&[shard as u8]).finalize_xof().fill(&mut bytes);
                bytes
            })
            .collect()
    }

    fn refs(shards: &[Vec<u8>]) -> Vec<&[u8]> {
        shards.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn parity_is_that_of_the_usual_systematic_code() {
        for (k, m) in [(1, 1), (2, 1), (8, 4), (5, 7), (16, 32), (29, 19), (47, 1)] {
            let data = shards(k, 333);
            let ours = encode(Scheme::new(k as u8, m as u8).unwrap(), &refs(&data));
            let mut theirs = vec![vec![0; 333]; m];
            ReedSolomon::new(k, m).unwrap().encode_sep(&data, &mut theirs).unwrap();
            assert_eq!(ours, theirs, "{k}+{m}");
        }
    }

    #[test]
    fn every_pattern_of_four_losses_of_8_4_is_rebuilt() {
        let data = shards(8, 70);
        let parity = encode(Scheme::DEFAULT, &refs(&data));
        let all: Vec<Vec<u8>> = data.into_iter().chain(parity).collect();
        let mut patterns = 0;
        for lost in (0u16..1 << 12).filter(|lost| lost.count_ones() == 4) {
            let have: Vec<(u8, &[u8])> =
                (0..12u8).filter(|i| lost >> i & 1 == 0).map(|i| (i, &all[usize::from(i)][..])).collect();
            let wanted: Vec<u8> = (0..12u8).filter(|i| lost >> i & 1 == 1).collect();
            let rebuilt = rebuild(Scheme::DEFAULT, &have, &wanted).unwrap();
            for (index, bytes) in wanted.iter().zip(rebuilt) {
                assert_eq!(bytes, all[usize::from(*index)], "lost {lost:012b}");
            }
            patterns += 1;
        }
        assert_eq!(patterns, 495);
    }

    #[test]
    fn what_cannot_be_rebuilt_is_refused() {
        let data = shards(8, 10);
        let have: Vec<(u8, &[u8])> = data.iter().enumerate().map(|(i, shard)| (i as u8, &shard[..])).collect();
        assert_eq!(rebuild(Scheme::DEFAULT, &have[1..], &[0]), Err(RebuildError::TooFew { got: 7, needed: 8 }));
        let twice = [&have[1..], &have[1..2]].concat();
        assert_eq!(rebuild(Scheme::DEFAULT, &twice, &[0]), Err(RebuildError::TooFew { got: 7, needed: 8 }));
        assert_eq!(rebuild(Scheme::DEFAULT, &have, &[12]), Err(RebuildError::Index(12)));
        let uneven = [&have[1..], &[(8, &data[0][..9])]].concat();
        assert_eq!(rebuild(Scheme::DEFAULT, &uneven, &[0]), Err(RebuildError::Length));
        assert_eq!(rebuild(Scheme::DEFAULT, &have, &[3]).unwrap(), [data[3].clone()]);
        let empty: Vec<(u8, &[u8])> = (0..8).map(|i| (i, &[][..])).collect();
        assert_eq!(rebuild(Scheme::DEFAULT, &empty, &[9]).unwrap(), [Vec::<u8>::new()]);
    }

    #[test]
    fn schemes_are_read_and_refused() {
        assert_eq!("8+4".parse(), Ok(Scheme::DEFAULT));
        assert_eq!(" 16 + 32 ".parse::<Scheme>().unwrap().to_string(), "16+32");
        assert_eq!("1+0".parse(), Ok(Scheme { k: 1, m: 0 }));
        assert_eq!("8".parse::<Scheme>(), Err(SchemeError::Form));
        assert_eq!("8+".parse::<Scheme>(), Err(SchemeError::Form));
        assert_eq!("+8+4".parse::<Scheme>(), Err(SchemeError::Form));
        assert_eq!("0+4".parse::<Scheme>(), Err(SchemeError::NoData));
        assert!(matches!("40+9".parse::<Scheme>(), Err(SchemeError::TooWide(_))));
        assert!(matches!("8+999".parse::<Scheme>(), Err(SchemeError::TooWide(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_k_shards_of_any_scheme_give_the_others(k in 1u8..=24, m in 1u8..=24, seed: u64, len in 1usize..9000) {
            let scheme = Scheme::new(k, m).unwrap();
            let data = shards(usize::from(k), len);
            let parity = encode(scheme, &refs(&data));
            let all: Vec<Vec<u8>> = data.into_iter().chain(parity).collect();
            let mut order: Vec<u8> = (0..k + m).collect();
            order.sort_by_key(|index| *blake3::hash(&(seed ^ u64::from(*index)).to_le_bytes()).as_bytes());
            let (have, lost) = order.split_at(usize::from(k));
            let have: Vec<(u8, &[u8])> = have.iter().map(|index| (*index, &all[usize::from(*index)][..])).collect();
            let rebuilt = rebuild(scheme, &have, lost).unwrap();
            for (index, bytes) in lost.iter().zip(rebuilt) {
                prop_assert_eq!(&bytes, &all[usize::from(*index)]);
            }
        }
    }
}
