//! A wallet in a test, beside a full node: made, opened, given a coin.

use super::bitcoin::Bitcoin;
use super::{Lab, PATIENCE};
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;
use tornet::chain::{
    Backend, Chain, ChainConfig, ChainError, FeeRate, IntentId, IntentState, Network, Passphrase, Seed, Start,
    StoreError, folder, seed_file,
};

/// What a wallet of a test is given.
pub const COIN: u64 = 1_000_000;
/// What it pays.
pub const PAID: u64 = 50_000;
/// What that may cost.
pub const FEE_MAX: u64 = 10_000;

/// A fee rate.
pub fn rate(sat_per_vb: u64) -> FeeRate {
    FeeRate::from_sat_per_vb(sat_per_vb).unwrap()
}

/// A wallet on the disk; opened and dropped as a test likes.
pub struct Place {
    pub data: PathBuf,
    pub backend: Backend,
    pub start: Start,
}

impl Place {
    /// A seed that was never used.
    pub fn new(lab: &Lab, name: &str, backend: Backend) -> Place {
        let data = lab.make_dir(name);
        std::fs::create_dir_all(folder(&data)).unwrap();
        Seed::generate().unwrap().save(&seed_file(&data), &passphrase()).unwrap();
        Place { data, backend, start: Start::New }
    }

    /// Its seed.
    pub fn seed(&self) -> Seed {
        Seed::load(&seed_file(&self.data), &passphrase()).unwrap()
    }

    /// Opened, as far as it has come.
    pub async fn try_open(&self) -> Result<Chain, ChainError> {
        let config = ChainConfig { network: Network::Regtest, backend: self.backend.clone(), start: self.start };
        Chain::open(&folder(&self.data), self.seed(), config).await
    }

    /// Opened, and at the end of the chain. The process before, or the handle, may still be letting go of the file.
    pub async fn open(&self) -> Chain {
        let opened = tokio::time::timeout(PATIENCE, async {
            loop {
                match self.try_open().await {
                    Ok(chain) => return chain,
                    Err(ChainError::Store(StoreError::InUse(_))) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let chain = opened.await.expect("the file is let go of");
        soon("the end of the chain", || chain.status().synced.then_some(())).await;
        chain
    }

    /// With a coin of its own in a block.
    pub async fn open_with_coin(&self, node: &Bitcoin) -> Chain {
        let chain = self.open().await;
        fund(&chain, node, COIN).await;
        chain
    }
}

/// Of every seed here.
pub fn passphrase() -> Passphrase {
    Passphrase::new("correct horse").unwrap()
}

/// A node as a peer of bitcoin's own network.
pub fn p2p(node: &Bitcoin) -> Backend {
    Backend::P2p { peers: vec![node.address()] }
}

/// A node by its RPC.
pub fn bitcoind(node: &Bitcoin) -> Backend {
    Backend::Bitcoind { url: node.rpc_url(), cookie: node.cookie() }
}

/// An Electrum server beside a node.
#[cfg(feature = "electrum")]
pub fn electrum(node: &Bitcoin) -> Backend {
    <super::electrum::Electrum as super::server::Server>::source(node)
}

/// An Esplora server beside a node.
#[cfg(feature = "esplora")]
pub fn esplora(node: &Bitcoin) -> Backend {
    <super::esplora::Esplora as super::server::Server>::source(node)
}

/// Runs a test.
#[track_caller]
pub fn run(test: impl Future<Output = ()>) {
    Runtime::new().unwrap().block_on(test);
}

/// Polls until `probe` gives something.
pub async fn soon<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(value) = probe() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Waits until the wallet knows the newest block.
pub async fn at_height(chain: &Chain, node: &Bitcoin) {
    let height = node.height();
    soon("the newest block", || (chain.status().height >= height).then_some(())).await;
}

/// Has the node pay the wallet, in a block; gives the address.
pub async fn fund(chain: &Chain, node: &Bitcoin, sat: u64) -> String {
    let address = chain.fresh_address().await.unwrap();
    node.pay(&address, sat);
    node.mine(1);
    soon("a coin", || chain.received(&address).unwrap().first().filter(|coin| coin.sat == sat).map(|_| ())).await;
    address
}

/// Waits for the state of a payment.
pub async fn state_of(chain: &Chain, id: IntentId, what: &str, wanted: impl Fn(IntentState) -> bool) {
    soon(what, || wanted(chain.intent(id).unwrap().state).then_some(())).await;
}

/// Name of a payment.
pub fn id(number: u8) -> IntentId {
    IntentId([number; 16])
}

/// Whether no process has the wallet's file open.
pub fn place_is_free(place: &Place) -> Option<()> {
    let file = std::fs::File::open(folder(&place.data).join("regtest.redb")).ok()?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).ok()
}
