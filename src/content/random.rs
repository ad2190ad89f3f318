//! Whether bytes look random: Pearson's chi-square test over byte counts, so that no host stores readable text.

use crate::base::limit::SLICE_BYTES;

/// The largest statistic that passes, with 255 degrees of freedom: random bytes exceed it once in 60 million chunks, and
/// 30 bytes of English text, or of base64 more than 200, do.
const STATISTIC_MAX: u64 = 400;
/// Of a chunk of more than one slice only the first byte of every four counts: it costs a fifth of counting all.
const STEP: usize = 4;

/// Whether a chunk's bytes look random, so that a host may keep them. Publishers seal again what does not.
pub fn looks_random(chunk: &[u8]) -> bool {
    let mut counts = ByteCounts::new(chunk.len());
    chunk.chunks(SLICE_BYTES).for_each(|slice| counts.add(slice));
    counts.look_random()
}

/// Byte counts of a chunk that comes slice by slice.
pub(crate) struct ByteCounts {
    counts: [u32; 256],
    total: u64,
    every: bool,
}

impl ByteCounts {
    pub(crate) fn new(chunk_len: usize) -> ByteCounts {
        ByteCounts { counts: [0; 256], total: 0, every: chunk_len <= SLICE_BYTES }
    }

    /// Counts the next bytes; all but the last must be a multiple of four long.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        if self.every {
            bytes.iter().for_each(|byte| self.counts[usize::from(*byte)] += 1);
            self.total += bytes.len() as u64;
            return;
        }
        let (steps, rest) = bytes.as_chunks::<STEP>();
        steps.iter().map(|step| &step[0]).chain(rest.first()).for_each(|byte| self.counts[usize::from(*byte)] += 1);
        self.total += bytes.len().div_ceil(STEP) as u64;
    }

    /// X² = 256 / n * sum(count²) - n, compared without division.
    pub(crate) fn look_random(&self) -> bool {
        let squares: u64 = self.counts.iter().map(|count| u64::from(*count) * u64::from(*count)).sum();
        squares * 256 <= (self.total + STATISTIC_MAX) * self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keystream(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn keystream_of_any_length_passes() {
        for (seed, len) in [100, 1000, 16_384, 16_385, 100_000, 1 << 20].into_iter().enumerate() {
            assert!(looks_random(&keystream(len, seed as u8)), "length {len}");
        }
        assert!(looks_random(&[]));
        assert!(looks_random(&[7]));
        assert!(!looks_random(&[7, 7]));
    }

    #[test]
    fn text_code_zeros_and_base64_do_not_pass() {
        let text = include_bytes!("random.rs");
        for len in [100, 1000, text.len()] {
            assert!(!looks_random(&text[..len]), "length {len}");
        }
        assert!(!looks_random(&text.repeat(300)));
        assert!(!looks_random(&vec![0; 1 << 20]));
        let base64: Vec<u8> = keystream(20_000, 9).iter().map(|byte| byte & 63).collect();
        assert!(!looks_random(&base64));
        assert!(!looks_random(&base64[..300]));
    }

    #[test]
    fn slices_count_like_the_whole() {
        for len in [16_385, 40_001, 65_536] {
            let bytes = keystream(len, 3);
            let mut counts = ByteCounts::new(len);
            bytes.chunks(SLICE_BYTES).for_each(|slice| counts.add(slice));
            assert_eq!(counts.total, len.div_ceil(4) as u64);
            assert_eq!(counts.counts.iter().map(|count| u64::from(*count)).sum::<u64>(), counts.total);
        }
    }
}
