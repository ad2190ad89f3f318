//! What can go wrong with a wallet, and what to do about it.

use super::intent::IntentId;
use super::network::Network;
use super::seed::SeedError;
use super::store::StoreError;

/// Why the wallet did not do it. Amounts are in sat.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The seed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder cannot be made.
    #[error("cannot make the wallet's folder: {0}")]
    Folder(std::io::Error),
    /// A write failed: what is in memory is no longer what is on the disk.
    #[error(
        "the wallet does nothing more since its file could not be written ({0}); see to the disk, then start again"
    )]
    Failed(String),
    /// The file is of another seed or network.
    #[error("the wallet file is not one of this seed on {network}: {why}; move it away to begin anew with this seed")]
    Foreign {
        /// The network that was asked for.
        network: Network,
        /// What the library says.
        why: String,
    },
    /// The chain has not been read yet.
    #[error("the wallet has not reached the end of the chain yet: {0}")]
    Behind(String),
    /// Too many addresses are waited for.
    #[error("{max} addresses are waited for already: one must be paid or given up first")]
    TooManyAddresses {
        /// The bound.
        max: usize,
    },
    /// The text is no address of this network.
    #[error("{address:?} is no address of the network {network}: {why}")]
    Address {
        /// What was given.
        address: String,
        /// Where it should be valid.
        network: Network,
        /// What the library says.
        why: String,
    },
    /// Not enough confirmed coins.
    #[error(
        "not enough coins: {needed} sat are needed with the fee, {available} sat are confirmed and free; {pending} sat are not confirmed yet"
    )]
    Short {
        /// Amount and fee.
        needed: u64,
        /// What can be spent now.
        available: u64,
        /// What waits for a block.
        pending: u64,
    },
    /// Too small to be passed on.
    #[error("{sat} sat are too little to be sent: no node passes so small an output on")]
    Dust {
        /// The amount.
        sat: u64,
    },
    /// The fee is over what the caller allows.
    #[error("the fee would be {fee} sat, over the limit of {max} sat")]
    Fee {
        /// What it would cost.
        fee: u64,
        /// What may be paid.
        max: u64,
    },
    /// A replacement must pay more than what it replaces.
    #[error("to replace the transaction, its fee rate must be at least {}", crate::base::units::FeeRate(*required))]
    FeeRate {
        /// The lowest that will do.
        required: u64,
    },
    /// The name was used for something else.
    #[error("payment {0} was begun with other amounts or addresses")]
    Different(IntentId),
    /// Nothing is known of it.
    #[error("no payment {0} is known")]
    Unknown(IntentId),
    /// Its state does not allow it.
    #[error("payment {id} is {state}: it cannot be {wish}")]
    State {
        /// Which.
        id: IntentId,
        /// How it is.
        state: &'static str,
        /// What was asked for.
        wish: &'static str,
    },
    /// The wallet library refused for a reason that should not occur.
    #[error("the transaction cannot be made: {0}")]
    Build(String),
    /// The network did not take the transaction.
    #[error("the transaction is kept and sent again later, but was not taken now: {0}")]
    Broadcast(String),
    /// The wallet was closed.
    #[error("the wallet is closed")]
    Closed,
}
