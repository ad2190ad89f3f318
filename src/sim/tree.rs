//! Trees of chunks without content: what the swarm stores and readers read.

use crate::base::digest::ChunkId;
use crate::base::random::Random;
use crate::publish::job::Group;

/// A stripe: k data chunks, then m parity chunks, of equal length.
#[derive(Debug, Clone)]
pub struct Stripe {
    /// All ids, data first.
    pub chunks: Vec<ChunkId>,
    /// Length of each in bytes.
    pub len: u32,
}

/// What one publisher makes available: a root node and stripes under it.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The manifest: a lone chunk and its length.
    pub root: (ChunkId, u32),
    /// The file's body, in order.
    pub stripes: Vec<Stripe>,
    /// Data chunks of each stripe.
    pub data: u8,
    /// Parity chunks of each stripe.
    pub parity: u8,
}

impl Tree {
    /// A tree of random names.
    pub fn random(random: &mut Random, stripes: usize, data: u8, parity: u8, len: u32) -> Tree {
        let shards = usize::from(data) + usize::from(parity);
        let stripe =
            |random: &mut Random| Stripe { chunks: (0..shards).map(|_| ChunkId(random.bytes32())).collect(), len };
        Tree {
            root: (ChunkId(random.bytes32()), random.between(200, 40_000) as u32),
            stripes: (0..stripes).map(|_| stripe(random)).collect(),
            data,
            parity,
        }
    }

    /// All chunks with their lengths.
    pub fn chunks(&self) -> Vec<(ChunkId, u32)> {
        let body = self.stripes.iter().flat_map(|stripe| stripe.chunks.iter().map(|id| (*id, stripe.len)));
        std::iter::once(self.root).chain(body).collect()
    }

    /// The groups in which it is to be hosted.
    pub fn groups(&self) -> Vec<Group> {
        let root = Group { chunks: vec![self.root], data: 1, copies: self.parity + 1 };
        let group = |stripe: &Stripe| {
            let chunks = stripe.chunks.iter().map(|id| (*id, stripe.len)).collect();
            Group { chunks, data: self.data, copies: 1 }
        };
        let body = self.stripes.iter().map(group);
        std::iter::once(root).chain(body).collect()
    }
}
