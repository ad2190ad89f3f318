//! What is to be published, and how far it is.

use crate::base::digest::ChunkId;

/// Names a publish job until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// A tree's chunks to be hosted. The job is forgotten by itself when all is hosted on distinct peers and announced; while peers are too few
/// for that it stays, and spreads over those who come.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Its name.
    pub job: JobId,
    /// Groups of chunks that must lie on distinct peers: a stripe (each chunk to one peer), or a lone chunk.
    pub groups: Vec<Group>,
    /// How long the hosts shall keep them, seconds.
    pub lease: u32,
}

/// Chunks that must lie on distinct peers.
#[derive(Debug, Clone)]
pub struct Group {
    /// Id and length in bytes of each.
    pub chunks: Vec<(ChunkId, u32)>,
    /// How many of them give all others; 0 where that does not matter.
    pub data: u8,
    /// On how many distinct peers each chunk shall lie: 1 for the chunks of a stripe, m + 1 for a lone chunk.
    pub copies: u8,
}

/// How far a publish job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Chunk copies that peers confirmed to hold.
    pub hosted: u64,
    /// Chunk copies wanted.
    pub wanted: u64,
    /// Distinct hosts of the worst-off group.
    pub hosts_min: u16,
    /// Distinct hosts that this group should have.
    pub hosts_wanted: u16,
    /// Chunks announced in their neighbourhood.
    pub announced: u64,
    /// Chunks to announce.
    pub to_announce: u64,
}
