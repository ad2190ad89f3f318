//! Payments that were begun: named by who wants them, kept until the chain has settled them.

use bdk_wallet::bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bdk_wallet::bitcoin::{OutPoint, Transaction, Txid};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Name of a payment, chosen by who wants it: the same name is never paid twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntentId(pub [u8; 16]);

impl fmt::Display for IntentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How far a payment is, as the chain has it now: a reorganisation may take it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntentState {
    /// Signed and on the disk; nobody has seen it.
    Signed,
    /// Handed to the network, or about to be.
    Broadcast,
    /// In a block.
    Confirmed {
        /// Height of the block.
        height: u32,
    },
    /// A payment to ourselves takes its coins, and is not in a block yet: either of the two may still win.
    Cancelling,
    /// It can no longer be paid: it was given up unseen, or the payment to ourselves is in a block.
    Cancelled {
        /// Height of that block; `None` when it was given up before anybody saw it.
        height: Option<u32>,
    },
    /// Another transaction in a block took its coins: the seed is used elsewhere.
    Replaced {
        /// That transaction.
        by: Txid,
        /// Height of its block.
        height: u32,
    },
}

impl IntentState {
    /// Whether it holds coins and may still be paid: it is in no block.
    pub fn is_open(&self) -> bool {
        matches!(self, IntentState::Signed | IntentState::Broadcast | IntentState::Cancelling)
    }
}

/// A payment, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// Its name.
    pub id: IntentId,
    /// Who gets how many sat.
    pub outputs: Vec<(String, u64)>,
    /// The transaction that counts: the one in a block, else the newest.
    pub txid: Txid,
    /// What that one pays to miners, in sat.
    pub fee_sat: u64,
    /// Where that one pays the outputs, in their order; empty when it takes the payment back.
    pub outpoints: Vec<OutPoint>,
    /// Every transaction that was signed for it, the oldest first; at most one of them can be in the chain.
    pub txids: Vec<Txid>,
    /// How far it is.
    pub state: IntentState,
}

/// What a transaction of a payment does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Pays its outputs.
    Pay,
    /// Pays ourselves with the same coins.
    Cancel,
}

/// A transaction signed for a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Version {
    pub(super) kind: Kind,
    pub(super) fee_sat: u64,
    /// Written before it is handed out: what is false here nobody has seen.
    pub(super) handed_out: bool,
    #[serde(with = "raw")]
    pub(super) tx: Transaction,
}

/// A payment as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Record {
    pub(super) outputs: Vec<(String, u64)>,
    pub(super) fee_max_sat: u64,
    /// Never empty; all spend a coin in common.
    pub(super) versions: Vec<Version>,
    /// Given up before anybody saw it.
    pub(super) void: bool,
}

impl Record {
    /// The newest transaction: the one that is sent.
    pub(super) fn newest(&self) -> &Version {
        self.versions.last().expect("a payment has a transaction from its first commit on")
    }

    /// Whether anybody may have seen any of its transactions.
    pub(super) fn was_handed_out(&self) -> bool {
        self.versions.iter().any(|version| version.handed_out)
    }
}

/// A transaction as the hexadecimal digits of its network form.
mod raw {
    use super::{Transaction, deserialize_hex, serialize_hex};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(tx: &Transaction, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&serialize_hex(tx))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Transaction, D::Error> {
        deserialize_hex(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}
