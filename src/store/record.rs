//! Layout of segment files: a header block, then records, each a chunk with its outline before it.

use crate::base::digest::ChunkId;
use crate::base::limit::{CHUNK_BYTES_MAX, CHUNK_SLICES_MAX, SLICE_BYTES};
use crate::base::range::slice_count;
use crate::content::chunk::Outline;

/// Records begin at multiples of this, so that freeing one frees whole blocks of the file system.
pub(super) const BLOCK: u64 = 4096;
/// Bytes of a record before the outline.
pub(super) const HEADER_BYTES: usize = 64;

const SEGMENT_MAGIC: [u8; 8] = *b"tornetS1";
const RECORD_MAGIC: [u8; 8] = *b"tornetC1";

const _: () = assert!(HEADER_BYTES + 32 * CHUNK_SLICES_MAX <= BLOCK as usize, "header and outline fit in one block");

/// Bytes between a record's start and its payload: a chunk of one slice has no outline and follows its header at once.
pub(super) fn payload_start(len: u32) -> u64 {
    if len as usize <= SLICE_BYTES { HEADER_BYTES as u64 } else { BLOCK }
}

/// Bytes that a record of a chunk of `len` bytes occupies, rounded up to blocks.
pub(super) fn record_bytes(len: u32) -> u64 {
    (payload_start(len) + u64::from(len)).next_multiple_of(BLOCK)
}

/// Bytes of disk that the record occupies when only the slices of `mask` were written.
pub(super) fn disk_bytes(len: u32, mask: u64) -> u64 {
    let holes = u64::from(slice_count(len)).saturating_sub(u64::from(mask.count_ones()));
    record_bytes(len).saturating_sub(holes * SLICE_BYTES as u64).max(BLOCK)
}

/// All slices of a chunk of `len` bytes.
pub(super) fn whole_mask(len: u32) -> u64 {
    crate::base::range::SliceRange::whole(len).mask()
}

/// The first block of a segment.
pub(super) fn segment_header(number: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    block[..8].copy_from_slice(&SEGMENT_MAGIC);
    block[8..12].copy_from_slice(&number.to_le_bytes());
    block
}

/// What stands before the payload: header, outline, zeros.
pub(super) fn record_header(id: &ChunkId, outline: &Outline, kind: u8) -> Vec<u8> {
    let mut out = vec![0; payload_start(outline.len) as usize];
    out[..8].copy_from_slice(&RECORD_MAGIC);
    out[8..12].copy_from_slice(&outline.len.to_le_bytes());
    out[12] = kind;
    out[16..48].copy_from_slice(id.as_bytes());
    for (place, hash) in out[HEADER_BYTES..].chunks_exact_mut(32).zip(&outline.hashes) {
        place.copy_from_slice(hash);
    }
    let check = check(&out);
    out[56..64].copy_from_slice(&check);
    out
}

/// First 8 bytes of the hash of everything before the payload, without the check itself.
fn check(block: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(block.get(..56).unwrap_or_default());
    hasher.update(block.get(HEADER_BYTES..).unwrap_or_default());
    let mut check = [0; 8];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    check
}

/// A record's header, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The chunk.
    pub(super) id: ChunkId,
    /// What it was first stored as.
    pub(super) kind: u8,
    /// Its slices' hashes; verified against the id.
    pub(super) outline: Outline,
}

/// Reads what stands before a payload. `block` holds the record's first block (or as much of it as there is).
pub(super) fn parse_header(block: &[u8]) -> Option<Header> {
    if block.get(..8)? != RECORD_MAGIC {
        return None;
    }
    let len = u32::from_le_bytes(block.get(8..12)?.try_into().ok()?);
    if len == 0 || len as usize > CHUNK_BYTES_MAX {
        return None;
    }
    let before = block.get(..payload_start(len) as usize)?;
    if before.get(56..64)? != check(before) {
        return None;
    }
    let id = ChunkId(before.get(16..48)?.try_into().ok()?);
    let slices = usize::from(slice_count(len));
    let hashes = if slices <= 1 { 0 } else { slices };
    let hashes = before.get(HEADER_BYTES..HEADER_BYTES + hashes * 32)?;
    let hashes = hashes.chunks_exact(32).filter_map(|hash| hash.try_into().ok()).collect();
    let outline = Outline { len, hashes };
    outline.verify(&id).then_some(Header { id, kind: *before.get(12)?, outline })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_reads_back_and_no_flipped_bit_passes() {
        for len in [1, 4032, SLICE_BYTES, SLICE_BYTES + 1, 100_000, CHUNK_BYTES_MAX] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
            let (id, outline) = Outline::of(&bytes);
            let block = record_header(&id, &outline, 2);
            assert_eq!(block.len() as u64, payload_start(len as u32));
            assert_eq!(parse_header(&block), Some(Header { id, kind: 2, outline }));
            for bit in (0..block.len() * 8).step_by(61) {
                let mut bad = block.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(parse_header(&bad), None, "bit {bit} of a chunk of {len} bytes");
            }
            assert_eq!(parse_header(&block[..block.len() - 1]), None);
        }
    }

    #[test]
    fn disk_bytes_counts_header_and_written_slices() {
        assert_eq!(record_bytes(1), 4096);
        assert_eq!(record_bytes(4032), 4096);
        assert_eq!(record_bytes(4033), 8192);
        assert_eq!(record_bytes(CHUNK_BYTES_MAX as u32), 4096 + 1024 * 1024);
        assert_eq!(disk_bytes(CHUNK_BYTES_MAX as u32, 1), 4096 + 16384);
        assert_eq!(disk_bytes(CHUNK_BYTES_MAX as u32, u64::MAX), record_bytes(CHUNK_BYTES_MAX as u32));
        assert_eq!(disk_bytes(100, 0), 4096);
    }
}
