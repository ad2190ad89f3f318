//! What an engine is started with, already validated.

use super::purse::PurseSettings;
use crate::base::peer::Contact;
use crate::base::week::Week;
use crate::chain::{Backend, Network};
use crate::content::erasure::Scheme;
use crate::ledger::CreditConfig;
use crate::market::MarketConfig;
use crate::publish::KeeperConfig;
use crate::wallet::PayConfig;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Whether equal files of different publishers make equal chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Convergence {
    /// A secret of this user: nobody can confirm that we hold a file that they know.
    #[default]
    Private,
    /// One secret for all: equal bytes are stored once in the whole swarm.
    Public,
}

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Identity, tree, store and log; made with mode 0700 when it does not exist.
    pub data_dir: PathBuf,
    /// UDP address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether another port will do where that one is taken: rather the one of the last time.
    pub other_port: bool,
    /// Peers to join the swarm through, besides those remembered.
    pub bootstrap: Vec<Contact>,
    /// Bytes of disk for other people's chunks: cached and hosted.
    pub cache_bytes: u64,
    /// Of these, bytes at most that host offers may fill.
    pub host_bytes_max: u64,
    /// What may be bought to be held for others.
    pub market: MarketConfig,
    /// Data and parity chunks of a stripe.
    pub scheme: Scheme,
    /// Secret of chunk keys.
    pub convergence: Convergence,
    /// Look for peers on the local network.
    pub mdns: bool,
    /// A read that the swarm cannot answer fails after this.
    pub read_deadline: Duration,
    /// For how long hosts are asked to keep chunks, seconds.
    pub lease: u32,
    /// How what is published and pinned is looked after; its lease is the one above.
    pub keeper: KeeperConfig,
    /// What is charged, and how far peers are trusted.
    pub credit: CreditConfig,
    /// On which terms peers are paid, and pay.
    pub payments: PayConfig,
    /// How much is sent of chunks, by the local time.
    pub upload: Week,
    /// Part of one processor, in percent, that looks for a better rank once a peer charges something; 0: none.
    pub rank_percent: u8,
    /// The wallet.
    pub purse: PurseSettings,
    /// A change in the own tree is published once nothing changed for this long.
    pub quiet: Duration,
}

impl Settings {
    /// The embedded defaults, for a node that keeps everything under `data_dir`.
    pub fn new(data_dir: PathBuf) -> Settings {
        Settings {
            data_dir,
            listen: SocketAddr::from(([0, 0, 0, 0], 41641)),
            other_port: false,
            bootstrap: Vec::new(),
            cache_bytes: 20 << 30,
            host_bytes_max: 10 << 30,
            market: MarketConfig::default(),
            scheme: Scheme { k: 8, m: 4 },
            convergence: Convergence::Private,
            mdns: true,
            read_deadline: Duration::from_secs(30),
            lease: 30 * 86_400,
            keeper: KeeperConfig::default(),
            credit: CreditConfig::default(),
            payments: PayConfig::default(),
            upload: Week::default(),
            rank_percent: 0,
            purse: PurseSettings {
                network: Network::Signet,
                backend: Backend::P2p { peers: Vec::new() },
                passphrase: None,
            },
            quiet: Duration::from_millis(500),
        }
    }
}
