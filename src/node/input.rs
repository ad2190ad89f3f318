//! What the node machine is told.

use super::effect::Token;
use crate::base::digest::ChunkId;
use crate::base::peer::{Contact, PeerId};
use crate::base::range::SliceRange;
use crate::base::time::Instant;
pub use crate::fetch::want::{Urgency, Want, WantId};
pub use crate::wire::call::{Answer, CallId};
use crate::wire::message::{CallFailure, Request};
use std::net::SocketAddr;

/// One event.
#[derive(Debug)]
pub enum Input {
    /// A link is up and its handshake done.
    LinkUp {
        /// With whom (authenticated).
        peer: PeerId,
        /// The address it is at.
        addr: SocketAddr,
        /// Whether we opened it.
        dialled: bool,
    },
    /// The last link to this peer ended.
    LinkDown {
        /// Which.
        peer: PeerId,
    },
    /// A peer asks; answered by exactly one `Effect::Answer`, `Effect::Serve` or `Effect::AnswerLocated` with this token.
    Request {
        /// Who asks.
        from: PeerId,
        /// Names the open stream.
        token: Token,
        /// What it asks.
        request: Request,
    },
    /// The end of an `Effect::Call`.
    Answered {
        /// Which call.
        call: CallId,
        /// How it ended. For a fetch the bytes are in the store by now.
        result: Result<Answer, CallFailure>,
    },
    /// More slices of a running fetch call were verified and stored.
    Delivered {
        /// Which call.
        call: CallId,
        /// Which slices.
        slices: SliceRange,
    },
    /// The store holds these chunks whole, anew (fetched, published or pulled).
    Stored {
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// The store no longer holds these chunks whole (evicted, damaged, lease over): they are not announced again.
    Dropped {
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// The engine wants something.
    Command(Command),
}

/// Names a publish job until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// What the engine wants of the swarm.
#[derive(Debug, Clone)]
pub enum Command {
    /// Bring slices into the store. Ends with one `Effect::WantDone`.
    Want(Want),
    /// No longer wanted; no `WantDone` follows.
    Unwant(WantId),
    /// Have chunks hosted and announced. Progress comes as `Effect::Published`.
    Publish(Publish),
    /// Forget a publish job.
    Unpublish(JobId),
    /// Try these contacts (configuration, command line, mDNS, remembered peers).
    Bootstrap(Vec<Contact>),
    /// Look a key's neighbourhood up and announce these held chunks there (also done by itself before they expire).
    Announce(Vec<ChunkId>),
    /// Ask the swarm, not this node, who holds these chunks; ends with one `Effect::Located`.
    Locate {
        /// Names the answer.
        want: WantId,
        /// Which chunks.
        chunks: Vec<ChunkId>,
        /// When to give up.
        deadline: Instant,
    },
}

/// A tree's chunks to be hosted.
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
    /// On how many distinct peers each chunk shall lie: 1 for the chunks of a stripe, m + 1 for a lone chunk.
    pub copies: u8,
}
