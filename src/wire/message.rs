//! All messages. Layouts, limits and examples stand in `FORMAT.md`.

use super::head::SignedHead;
use super::payment::Payment;
use super::receipt::Receipt;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::head::HeadId;
use crate::base::keyspace::Key;
use crate::base::peer::{Contact, PeerId};
use crate::base::range::SliceRange;
use std::net::SocketAddr;

/// Longest text in `Hello::agent`; printable ASCII.
pub const HELLO_AGENT_BYTES_MAX: usize = 64;
/// Longest life of a provider record: a day and a half.
pub const TTL_SECONDS_MAX: u32 = 36 * 3600;
/// Longest body of a message whose place is only kept.
pub const OPAQUE_BYTES_MAX: usize = 4096;
/// Most contacts that the providers of one `Located` point into.
pub const LOCATED_CONTACTS_MAX: usize = 255;

/// What one peer asks of another. One to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// First on every new link, from both sides.
    Hello(Hello),
    /// The contacts closest to a key that the peer knows.
    Find {
        /// Where in the key space.
        key: Key,
    },
    /// Who holds these chunks: the peer itself, peers it heard of, or contacts closer to the first of them.
    Locate {
        /// At most `limit::IDS_MAX`, not empty.
        chunks: Vec<ChunkId>,
    },
    /// Slices of one chunk.
    Fetch(Fetch),
    /// The sender holds these chunks; to be kept until it expires.
    Announce {
        /// At most `limit::IDS_MAX`, not empty.
        chunks: Vec<ChunkId>,
        /// Seconds from now, at most a day and a half.
        ttl: u32,
    },
    /// Would the peer keep these chunks? It answers which, and pulls them from the sender.
    Host(Host),
    /// What the sender has received of the receiver so far, signed.
    Receipt(Statement),
    /// What others acknowledge having received of the sender: it is no stranger to those who know them.
    Testimony {
        /// At most `limit::TESTIMONY_MAX`, not empty.
        receipts: Vec<Witnessed>,
    },
    /// An invoice, a payment on one, or the wish for one.
    Payment(Payment),
    /// The newest state of a head that the receiver keeps.
    Head {
        /// Which.
        id: HeadId,
    },
    /// A state of a head, to be kept until nobody has told it again for long.
    SetHead(SignedHead),
    /// Relay and hole punching: place kept for the reach issue; refused by this version.
    Reach(Vec<u8>),
}

/// What a peer says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Program and version, at most 64 bytes, for logs only.
    pub agent: String,
    /// Addresses at which the sender believes it can be reached (port matters most).
    pub addrs: Vec<SocketAddr>,
    /// Proof-of-work nonce for the sender's rank; 0 means none.
    pub rank_nonce: u64,
    /// What the sender charges.
    pub price: Price,
    /// Bit set of `capability` values.
    pub capabilities: u64,
    /// The address from which the sender sees the receiver.
    pub observed: Option<SocketAddr>,
}

/// Bits of `Hello::capabilities`.
pub mod capability {
    /// Keeps provider records for others and answers look-ups.
    pub const ROUTES: u64 = 1;
    /// Accepts host offers.
    pub const HOSTS: u64 = 2;
}

/// A seller's posted price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Price {
    /// For each GiB delivered.
    pub per_gib: Msat,
    /// For each request answered.
    pub per_request: Msat,
}

impl Price {
    /// What one answer of so many bytes costs at most: parts of a millisatoshi count as a whole one.
    pub fn of(&self, bytes: u64) -> Msat {
        let parts = u128::from(self.per_gib.0) * u128::from(bytes);
        let whole = parts.div_ceil(1 << 30).min(u128::from(u64::MAX)) as u64;
        Msat(whole).saturating_add(self.per_request)
    }

    /// Whether everything is free.
    pub fn is_zero(&self) -> bool {
        *self == Price::default()
    }
}

/// A request for slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Of which chunk.
    pub chunk: ChunkId,
    /// Which slices; `count` 0 asks for the outline alone.
    pub slices: SliceRange,
    /// Whether to send the outline (the slice hashes that prove every slice) first.
    pub outline: bool,
    /// The most that the asker will pay for this answer.
    pub ceiling: Msat,
}

/// A receipt, and what its issuer says of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// Of all that came from the receiver of this message.
    pub receipt: Receipt,
    /// The receipt covers everything, and nothing that was asked for is still waited for.
    pub settled: bool,
}

/// A receipt that another peer signed for the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witnessed {
    /// Who signed it.
    pub issuer: PeerId,
    /// Its newest one.
    pub receipt: Receipt,
}

/// An offer to pay for hosting: in arrears, with the proofs that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Chunk and its length in bytes; at most `limit::IDS_MAX`, not empty.
    pub chunks: Vec<(ChunkId, u32)>,
    /// How long, in seconds from now.
    pub lease: u32,
    /// Offered for each GiB and day, at most.
    pub price: Msat,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To `Hello`: the same about the answering side.
    Hello(Hello),
    /// To `Find`.
    Found {
        /// At most `limit::CONTACTS_MAX`.
        contacts: Vec<Contact>,
    },
    /// To `Locate`.
    Located(Located),
    /// To `Fetch`; the outline (if asked for) and the slices' bytes follow on the stream.
    Slices(Slices),
    /// To `Fetch`, when the peer does not hold (all of) what was asked.
    Referral {
        /// Peers that announced the chunk here.
        holders: Vec<Contact>,
        /// Contacts closer to the chunk than the answering peer.
        closer: Vec<Contact>,
        /// How often it is asked for.
        demand: Demand,
    },
    /// To `Announce`: how many were kept.
    Announced {
        /// Of the announced chunks, from the front.
        kept: u32,
    },
    /// To `Host`: bit i set when the i-th chunk of the offer is accepted.
    Hosting {
        /// Little-endian bit set, as many bits as chunks were offered.
        accepted: Vec<u8>,
    },
    /// To `Receipt`: the highest receipt of the asker that the answering peer holds.
    Receipted {
        /// As the asker signed it.
        held: Option<Receipt>,
    },
    /// To `Head` and `SetHead`: the newest state that the answering peer keeps now.
    Head {
        /// As its owner signed it; to `SetHead` also the one that was just told. None where it has none, or no room.
        held: Option<SignedHead>,
    },
    /// To `Payment` and `Testimony`: it is seen to.
    Noted,
    /// Nothing was done.
    Refused(Refusal),
}

/// Answer to `Locate`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Located {
    /// Bit i set: the answering peer holds all of the i-th chunk itself.
    pub held: Vec<u8>,
    /// Contacts that `providers` points into; at most 255.
    pub contacts: Vec<Contact>,
    /// (index of chunk, index into `contacts`): that contact announced that chunk.
    pub providers: Vec<(u16, u8)>,
    /// Contacts closer to the first chunk than the answering peer; at most `limit::CONTACTS_MAX`.
    pub closer: Vec<Contact>,
}

/// How slices are announced before they follow on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slices {
    /// Length of the whole chunk in bytes; proved by outline and slices.
    pub chunk_len: u32,
    /// Which slices follow: those asked for, cut at the chunk's end.
    pub slices: SliceRange,
    /// Whether the outline stands before them (32 bytes for each slice of the whole chunk; nothing when it has only one).
    pub outline: bool,
    /// What this answer costs.
    pub charge: Msat,
    /// How often the chunk is asked for here.
    pub demand: Demand,
}

/// Popularity of a chunk as one peer sees it: decayed counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Requests in the last hour, decayed.
    pub asked: u32,
    /// Searches for it that found nothing.
    pub missed: u32,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The message is not one that this version knows.
    Unknown,
    /// It does not decode, or breaks a limit.
    Malformed,
    /// Too much to do; ask again later.
    Busy,
    /// No space or quota for it.
    Full,
    /// The asker would owe more than its credit line.
    CreditLimit {
        /// What it owes.
        owed: Msat,
        /// What it may owe.
        line: Msat,
    },
    /// The price is over the ceiling of the request.
    Price,
    /// The asker is not welcome here.
    Denied,
    /// Nobody is paid here.
    Unpaid,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())?;
        match self {
            Refusal::CreditLimit { owed, line } => write!(f, ", {owed} owed of at most {line}"),
            _ => Ok(()),
        }
    }
}

/// A failed call, as the asking side sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// No link could be opened.
    #[error("peer {0} cannot be reached")]
    Unreachable(PeerId),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The link ended first.
    #[error("the link ended")]
    LinkLost,
    /// It refused.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// What it sent does not decode, or is not what was asked for: its fault.
    #[error("a false answer: {0}")]
    False(&'static str),
    /// Our own store could not take it: not the peer's fault.
    #[error("the local store failed")]
    Store,
    /// We cancelled it.
    #[error("cancelled")]
    Cancelled,
}
