//! What the node machine is told.

use super::effect::Token;
use crate::base::amount::Msat;
use crate::base::bitcoin::Sat;
use crate::base::digest::ChunkId;
use crate::base::head::HeadId;
use crate::base::peer::{Contact, PeerId};
use crate::base::range::SliceRange;
use crate::base::time::Instant;
use crate::base::units::FeeRate;
pub use crate::fetch::want::{Urgency, Want, WantId};
use crate::ledger::CreditConfig;
pub use crate::publish::job::{Group, JobId, Publish};
pub use crate::publish::kept::{Holder, Kept};
pub use crate::publish::{ErrandId, TendId};
pub use crate::wallet::{PayConfig, PaymentId, WalletEvent};
pub use crate::wire::call::{Answer, CallId};
use crate::wire::head::SignedHead;
use crate::wire::message::{CallFailure, Request};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// One event.
#[derive(Debug)]
pub enum Input {
    /// A link is up and its handshake done.
    LinkUp {
        /// A round trip, as the transport measured it so far.
        rtt: Option<Duration>,
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
    /// A peer asks; answered by exactly one `Effect::Answer`, `Effect::Serve` or `Effect::AnswerLocated` with this token. The signature
    /// of a receipt or an invoice was checked before.
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
        /// Their part of what the answer costs.
        charge: Msat,
    },
    /// The end of an `Effect::Serve` that is to be told.
    Served {
        /// Which.
        token: Token,
        /// What was sent of the chunk.
        bytes: u64,
        /// What was charged; nothing when nothing was sent.
        charge: Msat,
        /// All of it was sent. Else it may have been less.
        whole: bool,
    },
    /// The end of an `Effect::Book`.
    Booked,
    /// What the signer and the chain tell: the end of an `Effect::Wallet`, or by themselves.
    Wallet(WalletEvent),
    /// The store holds these chunks whole, anew (fetched, published or pulled).
    Stored {
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// What an earlier run of the node promised to keep for others and has: id, length, and for how many seconds from now.
    Hosted {
        /// Which.
        chunks: Vec<(ChunkId, u32, u32)>,
    },
    /// The end of an `Effect::Settle`: no power cut takes these chunks away any more.
    Kept {
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// The store no longer holds these chunks whole (evicted, damaged, lease over): they are not announced again.
    Dropped {
        /// Which.
        chunks: Vec<ChunkId>,
    },
    /// What the store says of its space, at the start and when it changes.
    Room {
        /// Bytes on its disk of what is kept for others.
        hosted: u64,
        /// Bytes more of others' that it could take.
        free: u64,
    },
    /// The answer to an `Effect::ReadKept`.
    KeptPage {
        /// Key and record, in order of keys.
        rows: Vec<(Vec<u8>, Kept)>,
        /// There are no others after these.
        end: bool,
    },
    /// The end of an `Effect::Rebuild`.
    Rebuilt {
        /// Of which group.
        tend: TendId,
        /// The lost chunks are in the store.
        well: bool,
    },
    /// The engine wants something.
    Command(Command),
}

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
    /// Have the holders of these groups, and others who say that they hold some of them, prove it now; and make good what is missing. Ends
    /// with one `Effect::Tended`.
    Tend {
        /// Names the answer.
        errand: ErrandId,
        /// Which.
        groups: Vec<Kept>,
        /// Whether to make good.
        repair: bool,
    },
    /// A nonce that gives us a better rank was found.
    Rank(u64),
    /// Pay a peer: what is owed, or this much, as far as the limits allow. `Node::ordered` tells what became of it.
    Pay {
        /// Whom.
        peer: PeerId,
        /// How much.
        amount: Option<Sat>,
    },
    /// Raise the fee of a payment. `Node::raised` tells what became of it.
    Raise {
        /// Which.
        id: PaymentId,
        /// To this rate, or to what miners want at present.
        rate: Option<FeeRate>,
        /// The most that the fee may be then, if the payment's own limit allows more.
        fee_max: Option<Sat>,
    },
    /// So much may be paid beyond the limits, once, to peers that refuse a read of a tree.
    Allow {
        /// The id of its root.
        tree: ChunkId,
        /// How much to all of them together, fees included.
        amount: Sat,
    },
    /// A read of a tree failed because these peers refused it on credit.
    Lacked {
        /// The id of its root.
        tree: ChunkId,
        /// Who.
        peers: BTreeSet<PeerId>,
    },
    /// No more bytes a second are sent of chunks from now on; `None`: as many as the line carries.
    Upload(Option<u64>),
    /// Other terms of credit and payment from now on.
    Terms {
        /// What is charged, and how far peers are trusted.
        credit: CreditConfig,
        /// On which terms peers are paid.
        payments: PayConfig,
    },
    /// Try these contacts (configuration, command line, mDNS, remembered peers).
    Bootstrap(Vec<Contact>),
    /// Look a key's neighbourhood up and announce these held chunks there (also done by itself before they expire).
    Announce(Vec<ChunkId>),
    /// Look for the newest state of a head; ends with one `Effect::Head`.
    FindHead {
        /// Names the answer.
        want: WantId,
        /// Which head.
        id: HeadId,
    },
    /// Have a state of a head, which its owner signed, kept by the peers closest to it; ends with one `Effect::Head`.
    SetHead {
        /// Names the answer.
        want: WantId,
        /// The state.
        head: SignedHead,
    },
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
