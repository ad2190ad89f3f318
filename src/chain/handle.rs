//! The wallet as others hold it: cheap to clone, closed when the last handle is dropped.

use super::backend::{Ask, Backend};
use super::bitcoind::Bitcoind;
#[cfg(feature = "electrum")]
use super::electrum::Electrum;
use super::error::ChainError;
#[cfg(feature = "esplora")]
use super::esplora::Esplora;
use super::follow::{self, Following, Progress, Shared};
#[cfg(any(feature = "electrum", feature = "esplora"))]
use super::indexed::Indexed;
use super::intent::{Intent, IntentId};
use super::p2p::P2p;
use super::seed::Seed;
use super::wallet::{Balance, Event, Movement, Received, Start, Wallet};
use super::{ChainConfig, Network};
use bdk_wallet::bitcoin::FeeRate;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// What miners are offered when nothing better is known, and the least that nodes pass on everywhere.
const FEE_RATE_MIN: FeeRate = FeeRate::BROADCAST_MIN;

/// How the wallet is.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Height of the newest block that is known.
    pub height: u32,
    /// Whether that is the end of the chain, as far as the source knows.
    pub synced: bool,
    /// How far the blocks are looked through, from 0 to 1.
    pub part: f32,
    /// What keeps the source from working.
    pub trouble: Option<String>,
}

/// An open wallet that follows the chain.
#[derive(Clone)]
pub struct Chain {
    shared: Arc<Shared>,
    ask: mpsc::UnboundedSender<Ask>,
    network: Network,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chain({})", self.network)
    }
}

fn make_folder(folder: &Path) -> Result<(), ChainError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(ChainError::Folder)
}

impl Chain {
    /// Makes the wallet of `seed` in `folder`, or checks the one that is there, and closes it again.
    pub fn create(folder: &Path, seed: &Seed, network: Network, start: Start) -> Result<(), ChainError> {
        make_folder(folder)?;
        Wallet::open(&folder.join(format!("{network}.redb")), seed, network, start).map(drop)
    }

    /// Opens the wallet of `seed` in `folder`, or makes it, and begins to follow the chain: payments that are open are sent again before
    /// anything is asked. Must be called within a tokio runtime.
    pub async fn open(folder: &Path, seed: Seed, config: ChainConfig) -> Result<Chain, ChainError> {
        let network = config.network;
        make_folder(folder)?;
        let file = folder.join(format!("{network}.redb"));
        let opened = blocking(move || Wallet::open(&file, &seed, network, config.start)).await?;
        let shared = Arc::new(Shared::new(opened));
        let (ask, asked) = mpsc::unbounded_channel();
        let following = Following::new(asked);
        match config.backend {
            Backend::P2p { peers } => {
                drop(tokio::spawn(follow::run(P2p::new(network, peers), shared.clone(), following)))
            }
            Backend::Bitcoind { url, cookie } => {
                drop(tokio::spawn(follow::run(Bitcoind::new(url, cookie), shared.clone(), following)));
            }
            #[cfg(feature = "electrum")]
            Backend::Electrum { url } => {
                let source = Indexed::<Electrum>::new(network, url);
                drop(tokio::spawn(follow::run(source, shared.clone(), following)));
            }
            #[cfg(feature = "esplora")]
            Backend::Esplora { url } => {
                let source = Indexed::<Esplora>::new(network, url);
                drop(tokio::spawn(follow::run(source, shared.clone(), following)));
            }
        }
        Ok(Chain { shared, ask, network })
    }

    /// Which chain of blocks.
    pub fn network(&self) -> Network {
        self.network
    }

    /// How far the wallet is.
    pub fn status(&self) -> Status {
        let Progress { synced, part, trouble } = self.shared.progress.borrow().clone();
        Status { height: self.shared.wallet().height(), synced, part, trouble }
    }

    /// Waits until the end of the chain is reached.
    pub async fn synced(&self) -> Result<(), ChainError> {
        let mut progress: watch::Receiver<Progress> = self.shared.progress.subscribe();
        progress.wait_for(|progress| progress.synced).await.map(|_| ()).map_err(|_| ChainError::Closed)
    }

    /// What happens from now on. Who is slow misses some, and looks at `intents` and `received` instead.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Wallet) -> Result<T, ChainError> + Send + 'static,
    ) -> Result<T, ChainError> {
        let shared = self.shared.clone();
        blocking(move || work(&mut shared.wallet())).await
    }

    // Receiving.

    /// An address for one payer, never handed out before. It is waited for until it is paid or released.
    pub async fn fresh_address(&self) -> Result<String, ChainError> {
        // A wallet that is new takes the first end of the chain that it sees for its birth: what was paid before would be missed.
        let progress = self.shared.progress.borrow().clone();
        if self.shared.wallet().is_blank() && !progress.synced {
            let why = progress.trouble.unwrap_or_else(|| "it is being read".into());
            return Err(ChainError::Behind(why));
        }
        let (_, address) = self.with(Wallet::fresh_address).await?;
        let _ = self.ask.send(Ask::Renew);
        Ok(address)
    }

    /// An address is no longer waited for: its invoice has expired. What is paid to it nevertheless is still found.
    pub async fn release(&self, address: &str) -> Result<(), ChainError> {
        let address = address.to_string();
        self.with(move |wallet| wallet.release(&address)).await
    }

    /// What was paid to an address.
    pub fn received(&self, address: &str) -> Result<Vec<Received>, ChainError> {
        self.shared.wallet().received(address)
    }

    /// What there is.
    pub fn balance(&self) -> Balance {
        self.shared.wallet().balance()
    }

    /// Every transaction that concerned this wallet, the newest first.
    pub fn history(&self) -> Vec<Movement> {
        self.shared.wallet().history()
    }

    // Paying.

    /// What miners want at present, as far as the source knows; never more than `max`, which is the caller's own limit.
    pub async fn fee_rate(&self, max: FeeRate) -> FeeRate {
        let (sender, answer) = oneshot::channel();
        let _ = self.ask.send(Ask::FeeRate(sender));
        let known = answer.await.ok().flatten().unwrap_or(FEE_RATE_MIN);
        known.max(FEE_RATE_MIN).min(max)
    }

    /// The payment of this name: signed, its coins taken, all of it on the disk; nothing is sent. The same name again gives what it gave
    /// before, whatever the rate. Only confirmed coins are spent.
    pub async fn prepare(
        &self,
        id: IntentId,
        outputs: &[(String, u64)],
        rate: FeeRate,
        fee_max_sat: u64,
    ) -> Result<Intent, ChainError> {
        let outputs = outputs.to_vec();
        self.with(move |wallet| wallet.prepare(id, &outputs, rate, fee_max_sat)).await
    }

    /// Hands a payment to the network; again, if it was before. An error of kind `Broadcast` does not undo that: it is tried again by itself.
    pub async fn broadcast(&self, id: IntentId) -> Result<(), ChainError> {
        let tx = self.with(move |wallet| wallet.hand_out(id)).await?;
        let (sender, answer) = oneshot::channel();
        self.ask.send(Ask::Send(Box::new(tx), sender)).map_err(|_| ChainError::Closed)?;
        answer
            .await
            .map_err(|_| ChainError::Broadcast("the source was begun anew".into()))?
            .map_err(ChainError::Broadcast)
    }

    /// Signs a transaction that takes the place of a payment's newest one and pays a higher fee; `broadcast` sends it.
    pub async fn bump(&self, id: IntentId, rate: FeeRate, fee_max_sat: u64) -> Result<Intent, ChainError> {
        self.with(move |wallet| wallet.bump(id, rate, fee_max_sat)).await
    }

    /// Takes a payment back: at once where it was never handed out; else a payment to ourselves is signed that takes its place, which
    /// `broadcast` sends. Until that one is in a block, either may win.
    pub async fn cancel(&self, id: IntentId, rate: FeeRate, fee_max_sat: u64) -> Result<Intent, ChainError> {
        self.with(move |wallet| wallet.cancel(id, rate, fee_max_sat)).await
    }

    /// One payment as it stands.
    pub fn intent(&self, id: IntentId) -> Result<Intent, ChainError> {
        self.shared.wallet().intent(id)
    }

    /// Every payment as it stands.
    pub fn intents(&self) -> Vec<Intent> {
        self.shared.wallet().intents()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ChainError> + Send + 'static,
) -> Result<T, ChainError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ChainError::Closed))
}
