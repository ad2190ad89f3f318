//! Where chain data come from: the interface that every kind of source has, and their settings.

use super::follow::{Following, Shared};
use bdk_wallet::bitcoin::{FeeRate, Transaction};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// A source of chain data, as it is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// Bitcoin's own network, by compact block filters (BIP 157): nothing to install, nobody learns our addresses.
    P2p {
        /// Full nodes that serve filters; none but them are asked. When empty, nodes are found as bitcoin's own programs find them.
        peers: Vec<SocketAddr>,
    },
    /// The RPC of a full node.
    Bitcoind {
        /// As in `http://127.0.0.1:8332`.
        url: String,
        /// The file by which that node knows its user.
        cookie: PathBuf,
    },
    /// An Electrum server: it learns which addresses are ours.
    #[cfg(feature = "electrum")]
    Electrum {
        /// As in `tcp://127.0.0.1:50001`.
        url: String,
    },
    /// An Esplora server: it learns which addresses are ours.
    #[cfg(feature = "esplora")]
    Esplora {
        /// Where its REST interface begins, as in `http://127.0.0.1:3000`.
        url: String,
    },
}

/// What a source must be able to do. `follow` runs until the wallet is closed or something fails; then it is begun again.
pub(super) trait Source: Send + 'static {
    /// Sends what is open, then hands every change of the chain to the wallet and does what it is asked through `following`.
    fn follow(
        &mut self,
        shared: &Arc<Shared>,
        following: &mut Following,
    ) -> impl Future<Output = Result<(), String>> + Send;
}

/// What a source is asked besides.
pub(super) enum Ask {
    /// Hand this to the network; the answer is whether it was taken, as far as that can be known.
    Send(Box<Transaction>, tokio::sync::oneshot::Sender<Result<(), String>>),
    /// What miners want at present.
    FeeRate(tokio::sync::oneshot::Sender<Option<FeeRate>>),
    /// More addresses are waited for than the source was told of.
    Renew,
}
