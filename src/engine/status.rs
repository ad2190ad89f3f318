//! What the node says of itself: for `tornet status`, `.tornet/status` and `tornet peers`.

use crate::base::digest::ChunkId;
use crate::base::path::PathText;
use crate::ledger::Balance;
use crate::market::MarketStats;
use crate::wallet::{Allowance, Payment, State};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a node is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountStatus {
    /// Absolute paths, the first mount first.
    pub points: Vec<PathBuf>,
    /// Whether the node ends once there is none any more.
    pub ends_with_mount: bool,
}

/// One screen of health.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Program version.
    pub version: String,
    /// Process number.
    pub pid: u32,
    /// Our `PeerId` as hexadecimal digits.
    pub peer: String,
    /// The address to hand to others as `--bootstrap`.
    pub address: String,
    /// All addresses (IP:PORT) at which others may reach it, the likeliest first.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// UDP address that we listen on.
    pub listen: String,
    /// Where identity, tree and store are.
    pub data_dir: PathText,
    /// Where the node is mounted, the first mount first.
    #[serde(default)]
    pub mountpoints: Vec<PathText>,
    /// Whether it ends once it is mounted nowhere any more.
    #[serde(default)]
    pub ends_with_mount: bool,
    /// Seconds since start.
    pub uptime: u64,
    /// Peers with an open link.
    pub peers_linked: u64,
    /// Peers known.
    pub peers_known: u64,
    /// Reference of the own tree as last published.
    pub tree: Option<String>,
    /// Changed paths of the own tree that are not published yet.
    pub staged: u64,
    /// Why that failed when it was tried last, or why the store takes no more.
    pub trouble: Option<String>,
    /// Bytes of the running publishing pass: done and in all.
    pub publishing: Option<Work>,
    /// Chunk copies that peers hold for us, of those wanted, over all unfinished jobs.
    pub hosting: Work,
    /// How well others keep what is published and pinned here, by what they proved; `None` while that is being counted.
    pub kept: Option<KeptStatus>,
    /// Whether everything published is hosted as wanted, as its hosts proved when last asked, and nothing is staged.
    pub safe_to_shut_down: bool,
    /// Disk use.
    pub store: StoreStatus,
    /// How much is sent of chunks.
    #[serde(default)]
    pub upload: UploadStatus,
    /// What is bought to be held for others.
    #[serde(default)]
    pub market: MarketStatus,
    /// What hosting costs, and brings.
    #[serde(default)]
    pub rent: RentStatus,
    /// Damaged records that reading found and dropped.
    pub damaged: u64,
    /// What peers owe us in all.
    pub owed_to_us_msat: u64,
    /// What we owe in all.
    pub owed_by_us_msat: u64,
    /// What proof of work our identity stands on.
    pub rank: u8,
    /// Whether peers are paid, and pay.
    pub spending: bool,
    /// What may be paid beyond the limits.
    #[serde(default)]
    pub allowed: Vec<AllowanceStatus>,
}

/// What hosting costs, and brings.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct RentStatus {
    /// Charged for what is hosted here, since the start.
    pub charged_msat: u64,
    /// Charged by those who host for us, since the start.
    pub paid_msat: u64,
    /// Peers that keep nothing for what is offered.
    pub dear_hosts: u64,
}

/// How things stand with one peer, in millisatoshi.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct BalanceStatus {
    /// `PeerId` as hexadecimal digits.
    pub peer: String,
    /// What it owes us; negative: what we owe it.
    pub owed_msat: i64,
    /// What we provided and it acknowledged.
    pub provided_msat: u64,
    /// What it provided to us.
    pub received_msat: u64,
    /// Provided and not acknowledged yet.
    pub unacknowledged_msat: u64,
    /// Provided, and never acknowledged.
    pub disputed_msat: u64,
    /// What it may owe.
    pub line_msat: u64,
    /// Its rank.
    pub rank: u8,
    /// What it paid us, as far as that counts.
    pub credited_msat: u64,
    /// What we paid it, as far as that counts.
    pub paid_msat: u64,
    /// What is on its way to it.
    pub in_flight_msat: u64,
    /// What we owe beyond that.
    pub due_msat: u64,
    /// Why that is not paid.
    pub held_up: Option<String>,
}

impl From<&Balance> for BalanceStatus {
    fn from(balance: &Balance) -> BalanceStatus {
        BalanceStatus {
            peer: balance.peer.to_string(),
            owed_msat: balance.owed(),
            provided_msat: balance.acknowledged.0,
            received_msat: balance.received.0,
            unacknowledged_msat: balance.unacknowledged.0,
            disputed_msat: balance.disputed.0,
            line_msat: balance.line.0,
            rank: balance.rank,
            credited_msat: balance.payments.credited.0,
            paid_msat: balance.payments.paid.0,
            in_flight_msat: balance.payments.pending.0,
            due_msat: balance.owed().min(0).unsigned_abs().saturating_sub(balance.payments.pending.0),
            held_up: None,
        }
    }
}

/// A payment of this node.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct PaymentStatus {
    /// Its name.
    pub payment: String,
    /// When it was reserved, in seconds since 1970.
    pub time: u64,
    /// `reserved`, `signed`, `sent`, `confirmed`, `cancelling` or `cancelled`.
    pub state: String,
    /// Blocks that hold it.
    pub blocks: u32,
    /// What its creditors get.
    pub amount_sat: u64,
    /// What miners get.
    pub fee_sat: u64,
    /// What miners may get at most.
    pub fee_max_sat: u64,
    /// Its creditors, as hexadecimal digits.
    pub peers: Vec<String>,
    /// Its transaction, once there is one.
    pub txid: Option<String>,
}

impl PaymentStatus {
    /// Whether it is not settled yet.
    pub fn is_open(&self) -> bool {
        self.blocks == 0 && self.state != super::audit::word(State::Cancelled(0))
    }
}

impl From<&Payment> for PaymentStatus {
    fn from(payment: &Payment) -> PaymentStatus {
        let outpoint = payment.outputs.first().and_then(|output| output.outpoint);
        PaymentStatus {
            payment: payment.id.to_string(),
            time: payment.at,
            state: super::audit::word(payment.state).to_string(),
            blocks: if let State::Confirmed(blocks) = payment.state { blocks } else { 0 },
            amount_sat: payment.outputs.iter().map(|output| output.value.0).sum(),
            fee_sat: payment.fee.0,
            fee_max_sat: payment.fee_cap.0,
            peers: payment.outputs.iter().map(|output| output.peer.to_string()).collect(),
            txid: outpoint.map(|outpoint| outpoint.txid.to_string()),
        }
    }
}

/// What the user allowed beyond the limits of `[payments]` for one tree, as far as it is not used up.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct AllowanceStatus {
    /// The id of the tree's root.
    pub tree: String,
    /// When, in seconds since 1970.
    pub time: u64,
    /// How much, fees included.
    pub given_sat: u64,
    /// What of it is left.
    pub left_sat: u64,
}

impl From<(ChunkId, Allowance)> for AllowanceStatus {
    fn from((tree, allowance): (ChunkId, Allowance)) -> AllowanceStatus {
        let (given_sat, left_sat) = (allowance.given.0, allowance.left.0);
        AllowanceStatus { tree: tree.to_string(), time: allowance.at, given_sat, left_sat }
    }
}

/// Done and in all, in the unit that the field names.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, Default)]
pub struct Work {
    /// So far.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// How well something is kept by others.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct KeptStatus {
    /// Stripes and lone chunks.
    pub groups: u64,
    /// Of them, those of which each chunk is held as often as it should be.
    pub whole: u64,
    /// Those that could not be read from the hosts alone.
    pub lost: u64,
    /// Distinct hosts of the worst-off of them, and how many it should have.
    pub hosts: u16,
    /// See `hosts`.
    pub wanted: u16,
    /// Unix time of the oldest of the last proofs; nothing when some chunk was never proved.
    pub proved: Option<u64>,
}

/// The limit of upload that is in force.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct UploadStatus {
    /// Bits a second; nothing: no limit.
    pub limit_bits: Option<u64>,
    /// Unix time at which that changes; nothing: it does not.
    pub until: Option<u64>,
    /// The same as the clock on the wall will show it.
    pub until_local: Option<String>,
    /// What holds then, as in `limit_bits`.
    pub then_bits: Option<u64>,
}

/// What is bought to be held for others, and what came of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct MarketStatus {
    /// Part of the key space around this node whose chunks it takes up, in parts of a thousand million.
    pub radius_parts: u64,
    /// Whole reads an hour that a chunk must be expected to have before it is bought, in thousandths.
    pub floor_milli: u64,
    /// Bytes a second on offer.
    pub offer_bytes: u64,
    /// Bytes a second asked for, a mean over ten minutes.
    pub load_bytes: u64,
    /// Chunks that were bought and are here.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks bought since the start.
    pub bought: u64,
    /// Their bytes.
    pub bought_bytes: u64,
    /// Of them, those that were dropped for better ones.
    pub dropped: u64,
    /// Bytes of bought chunks sent to peers since the start.
    pub sent_bytes: u64,
    /// Bytes that may be bought now; more comes with time.
    pub left_bytes: u64,
}

impl From<MarketStats> for MarketStatus {
    fn from(stats: MarketStats) -> MarketStatus {
        MarketStatus {
            radius_parts: stats.radius_parts,
            floor_milli: stats.floor_milli,
            offer_bytes: stats.offer,
            load_bytes: stats.load,
            chunks: stats.chunks as u64,
            bytes: stats.bytes,
            bought: stats.bought,
            bought_bytes: stats.bought_bytes,
            dropped: stats.dropped,
            sent_bytes: stats.sent_bytes,
            left_bytes: stats.left_bytes,
        }
    }
}

/// Bytes on disk by class.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct StoreStatus {
    /// Own chunks.
    pub own_bytes: u64,
    /// Hosted for others.
    pub hosted_bytes: u64,
    /// Cached: given up when space is needed.
    pub cached_bytes: u64,
    /// Kept by a pin.
    pub pinned_bytes: u64,
    /// The limit for cached and hosted together.
    pub limit_bytes: u64,
}

/// One linked peer.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct PeerStatus {
    /// `PeerId` as hexadecimal digits.
    pub peer: String,
    /// Address of the link.
    pub address: String,
    /// Round trip in milliseconds.
    pub rtt_ms: f64,
    /// Bytes sent and received over this link, headers included.
    pub sent_bytes: u64,
    /// Received.
    pub received_bytes: u64,
}
