//! Floor 4: bitcoin: a wallet and the chain it follows. It knows how to pay, not when.
//!
//! `wallet` is the wallet library and its file as one: every change that must survive is committed before anything leaves. `follow`
//! keeps it in step with the chain through a backend. `Chain` is what others hold.

mod backend;
mod bitcoind;
#[cfg(feature = "electrum")]
mod electrum;
mod error;
#[cfg(feature = "esplora")]
mod esplora;
mod follow;
mod handle;
#[cfg(any(feature = "electrum", feature = "esplora"))]
mod headers;
#[cfg(any(feature = "electrum", feature = "esplora"))]
mod indexed;
mod intent;
mod network;
mod p2p;
mod pay;
#[cfg(any(feature = "electrum", feature = "esplora"))]
mod proof;
#[cfg(any(feature = "electrum", feature = "esplora"))]
mod scan;
mod secret;
mod seed;
mod state;
mod store;
mod wallet;

pub use backend::Backend;
pub use bdk_wallet::bitcoin::{FeeRate, OutPoint, Txid};
pub use error::ChainError;
pub use handle::{Chain, Status};
pub use intent::{Intent, IntentId, IntentState};
pub use network::{Network, NetworkError};
pub use secret::SecretError;
pub use seed::{Passphrase, Seed, SeedError, copy_seed};
pub use store::StoreError;
pub use wallet::{ADDRESSES_OPEN_MAX, Balance, Event, Movement, Received, Start};

use std::path::{Path, PathBuf};

/// How a wallet is opened.
#[derive(Debug, Clone)]
pub struct ChainConfig {
    /// Which chain.
    pub network: Network,
    /// Where its data come from.
    pub backend: Backend,
    /// What a wallet that has no file yet is taken for.
    pub start: Start,
}

/// Where the seed of a wallet lies, below the data directory.
pub fn seed_file(data_dir: &Path) -> PathBuf {
    folder(data_dir).join("seed")
}

/// The folder of everything that belongs to wallets.
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("wallet")
}
