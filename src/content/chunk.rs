//! Chunks and the proof of their slices: the outline, a flattened BLAKE3 tree.

use crate::base::digest::ChunkId;
use crate::base::limit::{CHUNK_BYTES_MAX, CHUNK_SLICES_MAX, SLICE_BYTES};
use crate::base::range::slice_count;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;

/// BLAKE3 chaining value of one slice at its place in a chunk.
pub type SliceHash = [u8; 32];

/// The hashes of a chunk's slices. Checked against the `ChunkId` once, it proves every slice by one hash, in any order and from any peer.
///
/// An outline of *claimed* length that verifies proves the tree above the slices; the length itself is proved by the last
/// slice. Who does not know a chunk's length beforehand can be lied to: references and manifests therefore carry it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// Length of the chunk in bytes.
    pub len: u32,
    /// One hash for each slice; empty when the chunk has at most one (it is then checked by its id).
    pub hashes: Vec<SliceHash>,
}

/// A chunk as it is stored and sent: ciphertext with its name and proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedChunk {
    /// Its name.
    pub id: ChunkId,
    /// Its slices' hashes.
    pub outline: Outline,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Outline {
    /// Hashes a whole chunk, once.
    pub fn of(bytes: &[u8]) -> (ChunkId, Outline) {
        let len = bytes.len() as u32;
        if bytes.len() <= SLICE_BYTES {
            return (ChunkId::of(bytes), Outline { len, hashes: Vec::new() });
        }
        let hashes: Vec<SliceHash> =
            bytes.chunks(SLICE_BYTES).enumerate().map(|(index, slice)| slice_hash(index as u64, slice)).collect();
        (root(&hashes), Outline { len, hashes })
    }

    /// The outline of several slices whose hashes were taken one by one with [`slice_hash`].
    pub(crate) fn from_hashes(len: u32, hashes: Vec<SliceHash>) -> (ChunkId, Outline) {
        (root(&hashes), Outline { len, hashes })
    }

    /// Whether these are the slice hashes of the chunk `id`. For a chunk of one slice there is nothing to check but its form.
    pub fn verify(&self, id: &ChunkId) -> bool {
        self.well_formed() && (self.hashes.is_empty() || root(&self.hashes) == *id)
    }

    /// Whether `bytes` are slice `index` of the chunk `id`, given that this outline was verified against `id`.
    pub fn check_slice(&self, id: &ChunkId, index: u8, bytes: &[u8]) -> bool {
        if !self.well_formed() || bytes.is_empty() || self.slice_len(index) != bytes.len() {
            return false;
        }
        match self.hashes.get(usize::from(index)) {
            Some(hash) => slice_hash(u64::from(index), bytes) == *hash,
            None => self.hashes.is_empty() && ChunkId::of(bytes) == *id,
        }
    }

    /// Length of slice `index` in bytes; 0 past the end.
    pub fn slice_len(&self, index: u8) -> usize {
        (self.len as usize).saturating_sub(usize::from(index) * SLICE_BYTES).min(SLICE_BYTES)
    }

    /// The hashes one after another, as they are stored and sent: 32 bytes for each slice, nothing for a chunk of one slice.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.hashes.concat()
    }

    /// Reads what `to_bytes` wrote for a chunk of `len` bytes; `None` when it has not the right length.
    pub fn from_bytes(len: u32, bytes: &[u8]) -> Option<Outline> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        let outline = Outline { len, hashes: hashes.to_vec() };
        (rest.is_empty() && outline.well_formed()).then_some(outline)
    }

    /// How many bytes `to_bytes` gives for a chunk of `len` bytes.
    pub fn encoded_len(len: u32) -> usize {
        match slice_count(len) {
            0 | 1 => 0,
            count => usize::from(count) * 32,
        }
    }

    fn well_formed(&self) -> bool {
        self.len as usize <= CHUNK_BYTES_MAX && self.hashes.len() * 32 == Outline::encoded_len(self.len)
    }
}

/// The chaining value of the slice `index` of a chunk of more than one slice.
pub(crate) fn slice_hash(index: u64, slice: &[u8]) -> SliceHash {
    debug_assert!(!slice.is_empty() && slice.len() <= SLICE_BYTES && index < CHUNK_SLICES_MAX as u64);
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index * SLICE_BYTES as u64);
    hasher.update(slice);
    hasher.finalize_non_root()
}

fn root(hashes: &[SliceHash]) -> ChunkId {
    let (left, right) = hashes.split_at(left_count(hashes.len()));
    ChunkId(*merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes())
}

fn subtree(hashes: &[SliceHash]) -> SliceHash {
    match hashes {
        [] => [0; 32], // not reached: every split below and above has two sides that are not empty
        [one] => *one,
        _ => {
            let (left, right) = hashes.split_at(left_count(hashes.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// Slices in the left subtree: the largest power of two below `count`.
fn left_count(count: usize) -> usize {
    count.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|place| (place * 7 + place / 251) as u8).collect()
    }

    #[test]
    fn outline_gives_the_plain_blake3_hash_at_every_length() {
        let bytes = sample(CHUNK_BYTES_MAX);
        for slices in 0..=64usize {
            for len in [slices * SLICE_BYTES, slices * SLICE_BYTES + 1, (slices * SLICE_BYTES).saturating_sub(1)] {
                let bytes = &bytes[..len.min(CHUNK_BYTES_MAX)];
                let (id, outline) = Outline::of(bytes);
                assert_eq!(id, ChunkId::of(bytes), "length {len}");
                assert!(outline.verify(&id));
                assert_eq!(outline.to_bytes().len(), Outline::encoded_len(bytes.len() as u32));
            }
        }
    }

    #[test]
    fn every_slice_is_proved_and_no_other_bytes_are() {
        for len in [1, 100, SLICE_BYTES, SLICE_BYTES + 1, 5 * SLICE_BYTES + 77] {
            let bytes = sample(len);
            let (id, outline) = Outline::of(&bytes);
            let slices: Vec<&[u8]> = bytes.chunks(SLICE_BYTES).collect();
            for (index, slice) in slices.iter().enumerate() {
                assert!(outline.check_slice(&id, index as u8, slice));
                assert!(!outline.check_slice(&id, index as u8 + 1, slice));
                assert!(!outline.check_slice(&id, index as u8, &slice[1..]));
                let mut flipped = slice.to_vec();
                flipped[slice.len() / 2] ^= 1;
                assert!(!outline.check_slice(&id, index as u8, &flipped));
            }
        }
    }

    #[test]
    fn an_outline_of_another_length_proves_no_slice() {
        let bytes = sample(4 * SLICE_BYTES);
        let (id, outline) = Outline::of(&bytes);
        let halves: Vec<SliceHash> =
            outline.hashes.chunks(2).map(|pair| merge_subtrees_non_root(&pair[0], &pair[1], Mode::Hash)).collect();
        // The known hole: subtrees passed off as slices. It verifies, so whoever does not know the length must not trust it.
        let false_outline = Outline { len: 2 * SLICE_BYTES as u32, hashes: halves };
        assert!(false_outline.verify(&id));
        assert!(!false_outline.check_slice(&id, 0, &bytes[..SLICE_BYTES]));
        let longer = Outline { len: 4 * SLICE_BYTES as u32 + 1, ..outline };
        assert!(!longer.verify(&id));
    }

    proptest! {
        #[test]
        fn outlines_come_back_and_arbitrary_ones_are_checked(len in 0u32..1_200_000, bytes in proptest::collection::vec(any::<u8>(), 0..2100)) {
            if let Some(outline) = Outline::from_bytes(len, &bytes) {
                prop_assert_eq!(outline.to_bytes(), bytes.clone());
            }
            let id = ChunkId::of(&bytes);
            let claimed = Outline { len, hashes: bytes.as_chunks::<32>().0.to_vec() };
            prop_assert!(claimed.hashes.is_empty() || !claimed.verify(&id));
            let _ = claimed.check_slice(&id, (len % 256) as u8, &bytes);
        }
    }
}
