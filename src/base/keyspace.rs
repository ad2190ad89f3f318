//! The 256-bit key space with the XOR distance (Maymounkov and Mazières, "Kademlia", 2002).

use super::digest::{ChunkId, hex};
use super::peer::PeerId;
use std::fmt;

/// A position in the key space. A chunk stands at its `ChunkId`, a peer at the BLAKE3 hash of its `PeerId`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

/// XOR of two keys, compared as a 256-bit big-endian number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Distance(pub [u8; 32]);

impl Key {
    /// The XOR distance to `other`.
    pub fn distance(&self, other: &Key) -> Distance {
        // The hottest line of a simulated swarm, and that runs without optimisation: no iterators here.
        let mut out = self.0;
        let mut place = 0;
        while place < out.len() {
            out[place] ^= other.0[place];
            place += 1;
        }
        Distance(out)
    }
}

impl Distance {
    /// How many leading bits are zero: 256 for the distance of a key to itself. The bucket of a contact.
    pub fn leading_zeros(&self) -> u32 {
        let mut zeros = 0;
        for byte in self.0 {
            zeros += byte.leading_zeros();
            if byte != 0 {
                break;
            }
        }
        zeros
    }
}

impl From<ChunkId> for Key {
    fn from(id: ChunkId) -> Key {
        Key(id.0)
    }
}

impl From<PeerId> for Key {
    fn from(peer: PeerId) -> Key {
        Key(*blake3::hash(&peer.0).as_bytes())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:.8}")
    }
}
