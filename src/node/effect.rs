//! What the node machine wants done.

use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
pub use crate::fetch::want::{WantFailure, WantFailureKind, WantId, WantOk};
pub use crate::ledger::Record;
pub use crate::publish::job::{JobId, Progress};
pub use crate::publish::kept::Kept;
pub use crate::publish::{ErrandId, TendId};
pub use crate::wallet::WalletAction;
pub use crate::wire::call::CallId;
use crate::wire::head::SignedHead;
use crate::wire::message::{Demand, Fetch, Located, Request, Response};

/// Names a request of a peer until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// One thing to do.
#[derive(Debug)]
pub enum Effect {
    /// Ask a peer, over the open link to it or by dialling its addresses. Ends with `Input::Answered`. For `Request::Fetch`
    /// the shell verifies each slice against the outline, stores it, and reports `Input::Delivered` as it goes. A
    /// `Request::Receipt` or an invoice is signed by the shell before it is sent.
    Call {
        /// Its name.
        call: CallId,
        /// Whom.
        to: Contact,
        /// What.
        request: Request,
        /// When to give up.
        deadline: Instant,
    },
    /// Ask a peer to prove that it holds a chunk: as `Call` with a fetch, but what comes is verified and not stored, and nothing is
    /// reported before the end.
    Check {
        /// Its name.
        call: CallId,
        /// Whom.
        to: Contact,
        /// What.
        fetch: Fetch,
        /// How long the chunk is.
        chunk_len: u32,
        /// When to give up.
        deadline: Instant,
    },
    /// Give a call up; its `Input::Answered` (`Cancelled`, or a result that crossed) still comes.
    Cancel {
        /// Which.
        call: CallId,
    },
    /// Answer a request.
    Answer {
        /// Which.
        token: Token,
        /// With what.
        response: Response,
    },
    /// Answer a fetch from the store; if the store lacks any of the slices, answer `otherwise`.
    Serve {
        /// Which.
        token: Token,
        /// What was asked.
        fetch: Fetch,
        /// How often it is asked for.
        demand: Demand,
        /// The referral or refusal when it is not held.
        otherwise: Response,
        /// What all of the slices cost; for fewer less.
        charge: Msat,
        /// It ends with one `Input::Served`.
        told: bool,
    },
    /// Write these accounts down durably, in one transaction (`None`: remove it), then say `Input::Booked`.
    Book {
        /// Account by account.
        records: Vec<(PeerId, Option<Record>)>,
    },
    /// Of payments: rows to be written down, or a step at the signer. Ends with `Input::Wallet`. Of the actions only those that no
    /// message to a peer carries out.
    Wallet(Box<WalletAction>),
    /// A peer charges for its service, and lends more to those with a higher rank than ours: look for one, if that did not begin.
    Rank(u8),
    /// Answer a locate: fill in `located.held` from the store first.
    AnswerLocated {
        /// Which.
        token: Token,
        /// The chunks asked for.
        chunks: Vec<ChunkId>,
        /// What the machine knows of other holders.
        located: Located,
    },
    /// Of an accepted host offer: reserve and mark as hosted in the store, so that eviction spares them until `until`.
    /// The machine then pulls them by itself (`Call` with `Fetch`).
    Keep {
        /// Chunk and length.
        chunks: Vec<(ChunkId, u32)>,
        /// On whose behalf.
        owner: PeerId,
        /// Seconds from now; 0: they need not be kept any more (they could not be pulled).
        lease: u32,
    },
    /// These chunks earn too little for the room that they take: give them up, unless they are kept here for another reason. What is gone
    /// comes back as `Input::Dropped`.
    Discard {
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// Chunks that others are promised to be kept for them are here: make them durable, then say `Input::Kept`.
    Settle {
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// A host confirmed a chunk of a job: it is to be added to the record of the group, with a fresh lease.
    Placed {
        /// Of which job.
        job: JobId,
        /// First chunk of the group.
        group: ChunkId,
        /// Which chunk.
        chunk: ChunkId,
        /// Who.
        peer: PeerId,
    },
    /// Read records of what is looked after, in order of keys; answered by `Input::KeptPage`.
    ReadKept {
        /// Those with keys after this one.
        after: Option<Vec<u8>>,
        /// At most so many.
        max: usize,
    },
    /// Write a record down, if it is still there. A holder that was added since it was read, as `Placed`, stays.
    WriteKept {
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        kept: Kept,
    },
    /// A peer that is on record as a holder went out of reach, or is back: on who is away one cannot count.
    Away {
        /// Who.
        peer: PeerId,
        /// Whether it is out of reach.
        away: bool,
    },
    /// Make lost shards of a stripe from slices of any k others in the store, check and store them; then say `Input::Rebuilt`.
    Rebuild {
        /// Names the answer.
        tend: TendId,
        /// All chunks of the stripe.
        chunks: Vec<ChunkId>,
        /// How many of them give all others.
        data: u8,
        /// Length of each.
        chunk_len: u32,
        /// Which to make.
        lost: Vec<u8>,
    },
    /// The end of a `Command::Tend`.
    Tended {
        /// Which.
        errand: ErrandId,
        /// Its groups, in order, with the holders that gave a slice now.
        kept: Vec<Kept>,
    },
    /// A want ended.
    WantDone {
        /// Which.
        want: WantId,
        /// All wanted slices, or k shards that give them, are in the store; or why not.
        result: Result<WantOk, WantFailure>,
    },
    /// Progress of a publish job.
    Published {
        /// Which.
        job: JobId,
        /// How far it is.
        progress: Progress,
    },
    /// Answer to `Command::Locate`.
    Located {
        /// Which.
        want: WantId,
        /// For each chunk, in order: who is known to hold it.
        holders: Vec<(ChunkId, Vec<Contact>)>,
    },
    /// Answer to `Command::FindHead` and `Command::SetHead`.
    Head {
        /// Which.
        want: WantId,
        /// The newest state that this node and those who answered know of.
        newest: Option<SignedHead>,
        /// Peers that answered; to `SetHead`, those that keep this state or a newer one.
        answered: usize,
    },
    /// Contacts worth remembering across a restart, the best first (at most a few hundred; sent now and then).
    Remember(Vec<Contact>),
    /// A peer did something that an honest one does not. Close its links and do not dial it until told.
    Drop {
        /// Who.
        peer: PeerId,
        /// What it did.
        why: &'static str,
    },
}
