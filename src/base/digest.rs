//! BLAKE3 digests as names: what a chunk is called.

use std::fmt;

/// Name of a chunk: the plain BLAKE3 hash of its bytes (which are ciphertext), 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// Hashes `bytes`, the whole chunk.
    pub fn of(bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::hash(bytes).as_bytes())
    }

    /// The 32 bytes of the name.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ChunkId {
    /// The whole name as 64 hexadecimal digits; with `{:.8}` only its first 8.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:.8}")
    }
}

pub(crate) fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let digits = f.precision().unwrap_or(bytes.len() * 2);
    for (place, byte) in bytes.iter().enumerate() {
        match digits.saturating_sub(place * 2) {
            0 => break,
            1 => write!(f, "{:x}", byte >> 4)?,
            _ => write!(f, "{byte:02x}")?,
        }
    }
    Ok(())
}
