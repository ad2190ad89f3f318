//! What the keeper is told and what it wants.

use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::publish::kept::Kept;
use std::time::Duration;

/// How often is looked, and for how much.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// Each holder proves once in so long that it holds a chunk.
    pub period: Duration,
    /// A holder that gives nothing for so long is replaced, sooner where few are left.
    pub patience: Duration,
    /// Bytes that proofs and repair may take in a second.
    pub rate: u64,
    /// For how long hosts are asked to keep chunks, seconds; renewed when half of it is over.
    pub lease: u32,
}

impl Default for KeeperConfig {
    fn default() -> KeeperConfig {
        let day = Duration::from_secs(86_400);
        KeeperConfig { period: day, patience: day, rate: 1 << 20, lease: 30 * 86_400 }
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub kept: Kept,
    /// It is still being published.
    pub placing: bool,
}

/// Names a group while it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TendId(pub u64);

/// Names a proof that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckId(pub u64);

/// Names a renewal until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RenewalId(pub u64);

/// Names what the user wants looked at now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrandId(pub u64);

/// How a holder answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It gave the slice.
    Given,
    /// It says that it does not have it, or gave something else.
    Gone,
    /// It did not answer.
    Silent,
    /// It has its reasons, or we have: this says nothing.
    Unsure,
}

/// What the keeper wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeeperAction {
    /// The records after this key, at most so many; they come through `page`.
    Page {
        /// Key of the last record of the page before.
        after: Option<Vec<u8>>,
        /// At most.
        max: usize,
    },
    /// Ask a peer for one slice; ends with `checked`.
    Check {
        /// Its name.
        check: CheckId,
        /// Whom.
        peer: PeerId,
        /// Of which chunk.
        chunk: ChunkId,
        /// How long the chunk is.
        len: u32,
        /// Which slice.
        slice: u8,
        /// For so long it kept the chunk, as it promised to, since it proved that last.
        kept: Duration,
    },
    /// Find out who says that it holds these; ends with `found`.
    Search {
        /// For which group.
        tend: TendId,
        /// Which.
        chunks: Vec<ChunkId>,
        /// Also of those who were silent when they were last asked anything.
        thorough: bool,
    },
    /// Offer a peer what it holds anew, for another lease; ends with `renewed`.
    Renew {
        /// Its name.
        renewal: RenewalId,
        /// Whom.
        peer: PeerId,
        /// Chunk and length; at most `limit::IDS_MAX`.
        chunks: Vec<(ChunkId, u32)>,
        /// Seconds from now.
        lease: u32,
    },
    /// Make good what a group lacks; new holders are told by `placed`, the end by `mended`.
    Mend {
        /// Which group.
        tend: TendId,
        /// As it is.
        kept: Kept,
        /// For each chunk, who may be counted on.
        hosts: Vec<Vec<PeerId>>,
    },
    /// Write a record down.
    Write {
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        kept: Kept,
    },
    /// See whether a peer is there.
    Call(PeerId),
    /// A peer that is on record as a holder went out of reach, or is back.
    Away {
        /// Who.
        peer: PeerId,
        /// Whether it is out of reach.
        away: bool,
    },
    /// What the user wanted looked at was.
    Done {
        /// Which errand.
        errand: ErrandId,
        /// Its groups, in order, with the holders that gave a slice.
        kept: Vec<Kept>,
    },
}

/// Counts for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeeperStats {
    /// Groups looked at now.
    pub tends: usize,
    /// Of them, those that are made good.
    pub mending: usize,
    /// Slices given since the start.
    pub proofs: u64,
    /// Proofs not given since the start, whatever the reason.
    pub failures: u64,
    /// Passes over all records since the start.
    pub passes: u64,
}
