//! What is wanted of the swarm, and how a want ends.

use crate::base::digest::ChunkId;
use crate::base::peer::{Contact, PeerId};
use crate::base::range::SliceRange;
use crate::base::time::Instant;
use crate::wire::message::{CallFailure, Refusal};
use std::collections::BTreeSet;

/// Names a want until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WantId(pub u64);

/// Slices of the chunks of one stripe, or of a lone chunk (k = 1, one id: manifests, directories, short files).
#[derive(Debug, Clone)]
pub struct Want {
    /// Its name.
    pub id: WantId,
    /// All chunk ids of the stripe, data first, then parity.
    pub chunks: Vec<ChunkId>,
    /// How many of them are data (k): any k of them give the wanted slices.
    pub data: u8,
    /// Length of each of them in bytes; 0 when not known (a root): then `needs` is taken as "all slices".
    pub chunk_len: u32,
    /// Which slices of which data chunks (index below k) are missing here.
    pub needs: Vec<(u8, SliceRange)>,
    /// Slices that the store has already, by index: usable for rebuilding.
    pub have: Vec<(u8, SliceRange)>,
    /// What it is for.
    pub urgency: Urgency,
    /// When it fails with `WantFailure::Timeout`.
    pub deadline: Instant,
    /// Peers that delivered other chunks of the same tree, the best first.
    pub likely: Vec<Contact>,
}

/// Order among wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// A reader waits for it.
    Reader,
    /// A reader will probably want it soon.
    Ahead,
    /// Pins, warm-up.
    Bulk,
    /// Chunks that their publisher wants kept here (`Want::likely`): never paid for.
    Host,
}

/// What a finished want brought.
#[derive(Debug, Clone, Default)]
pub struct WantOk {
    /// Slices now in the store, by index into the stripe's chunks: either those wanted, or the same slices of k others.
    pub have: Vec<(u8, SliceRange)>,
    /// Who delivered, the best first: pass them as `likely` with the tree's next want.
    pub providers: Vec<Contact>,
}

/// Why a want failed, in full, for `tornet why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantFailure {
    /// The class, for errno.
    pub kind: WantFailureKind,
    /// Chunks that could not be had, with what was tried for each.
    pub missing: Vec<(ChunkId, Vec<(PeerId, CallFailure)>)>,
    /// How many shards of the stripe were found, and how many are needed.
    pub found: u8,
    /// k.
    pub needed: u8,
}

impl WantFailure {
    /// The peers that have some of it and give no more on credit.
    pub fn short_of_credit(&self) -> BTreeSet<PeerId> {
        let refuses = |failure: &CallFailure| matches!(failure, CallFailure::Refused(Refusal::CreditLimit { .. }));
        let tried = self.missing.iter().flat_map(|(_, tried)| tried);
        tried.filter(|(_, failure)| refuses(failure)).map(|(peer, _)| *peer).collect()
    }
}

/// Class of a failed want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WantFailureKind {
    /// No peer in time.
    Timeout,
    /// Peers were found, and all they had was damaged.
    Damaged,
    /// All peers in reach were asked and too few shards exist.
    NotFound,
    /// Over the price limit of the user.
    Price(Refusal),
}
