//! Chain data from a server that knows transactions by address. It learns which addresses are ours, and it is not believed: what it says
//! counts only in blocks that follow from those that are known, with the work that they claim.

use super::backend::{Ask, Source};
use super::follow::{Following, Shared};
use super::headers::genesis;
use super::network::Network;
use super::proof::Proof;
use super::scan::{Memory, View};
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::{BlockHash, FeeRate, ScriptBuf, Transaction, Txid};
use bdk_wallet::chain::{BlockId, CheckPoint};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tracing::debug;

/// How long an answer may take, from the question to its last byte.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How long an answer may be.
pub(super) const ANSWER_BYTES: u64 = 64 << 20;
/// Blocks within which an estimated fee should do.
pub(super) const FEE_TARGET: u16 = 6;
/// How often in turn the chain may change under our hands before it is taken for a lie.
const MOVES_MAX: u32 = 10;

/// A server as it is asked: nothing that it says is believed here, and no answer may be longer or take longer than `ANSWER_BYTES` and
/// `ANSWER_TIME` allow. Its errors are sentences that name it.
pub(super) trait Server: Send + Sync + Sized + 'static {
    /// The setting that names it.
    const KEY: &'static str;
    /// How much is asked for at a time.
    const BATCH: usize;
    /// How users know it.
    fn name(url: &str) -> String;
    fn connect(url: &str) -> Result<Self, String>;
    /// How often it is asked for new blocks.
    fn pause(&self) -> Duration {
        Duration::from_secs(1)
    }
    /// The newest block.
    fn tip(&self) -> Result<BlockId, String>;
    /// Headers from this height on, at most `count`; at least one, where there is such a block.
    fn headers(&self, from: u32, count: u32) -> Result<Vec<Header>, String>;
    /// For each of these scripts, which transactions in blocks use it, and the heights of those blocks.
    fn histories(&self, scripts: &[ScriptBuf]) -> Result<Vec<Vec<(Txid, u32)>>, String>;
    fn transactions(&self, txids: &[Txid]) -> Result<Vec<Transaction>, String>;
    /// For each of these transactions, proof that the block at this height holds it.
    fn proofs(&self, places: &[(Txid, u32)]) -> Result<Vec<Option<Proof>>, String>;
    fn send(&self, tx: &Transaction) -> Result<(), String>;
    fn fee_rate(&self) -> Option<FeeRate>;
}

/// One server of a kind.
pub(super) struct Indexed<S> {
    network: Network,
    url: String,
    server: std::marker::PhantomData<fn() -> S>,
}

impl<S: Server> Indexed<S> {
    pub(super) fn new(network: Network, url: String) -> Indexed<S> {
        Indexed { network, url, server: std::marker::PhantomData }
    }

    /// A connection with a server of the right chain. Nothing is told to any other.
    async fn connect(&self) -> Result<Arc<S>, String> {
        let (network, url) = (self.network, self.url.clone());
        blocking(move || {
            let server = S::connect(&url)?;
            let first = server.headers(0, 1)?.first().map(Header::block_hash);
            if first == Some(genesis(network)) {
                return Ok(Arc::new(server));
            }
            let (name, key) = (S::name(&url), S::KEY);
            Err(format!(
                "{name} follows another chain than that of the network {network}: set payments.network to its chain, or {key} to a \
                 server of this one"
            ))
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

impl<S: Server> Source for Indexed<S> {
    async fn follow(&mut self, shared: &Arc<Shared>, following: &mut Following) -> Result<(), String> {
        let server = self.connect().await?;
        send_open(&server, shared).await?;
        let memory = Arc::new(Mutex::new(Memory::of(&shared.wallet())));
        let mut watching = JoinSet::new();
        let (network, shared) = (self.network, shared.clone());
        let watch = Watch { server: server.clone(), shared, network, memory, moves: 0, last: None };
        let name = S::name(&self.url);
        watching.spawn(watch.run(name));
        loop {
            tokio::select! {
                ended = watching.join_next() => {
                    return match ended {
                        Some(Ok(why)) => Err(why),
                        Some(Err(error)) => Err(error.to_string()),
                        None => Err("the server is no longer asked".into()),
                    };
                }
                ask = following.next() => match ask {
                    None => return Ok(()),
                    Some(Ask::Send(tx, answer)) => {
                        let server = server.clone();
                        drop(answer.send(blocking(move || server.send(&tx)).await));
                    }
                    Some(Ask::FeeRate(answer)) => {
                        let server = server.clone();
                        let _ = answer.send(blocking(move || Ok(server.fee_rate())).await.ok().flatten());
                    }
                    // With each new block all addresses are asked for, whenever they were revealed.
                    Some(Ask::Renew) => {}
                },
            }
        }
    }
}

/// Hands the network what it should know.
async fn send_open<S: Server>(server: &Arc<S>, shared: &Arc<Shared>) -> Result<(), String> {
    for (id, tx) in shared.open_transactions().await? {
        let server = server.clone();
        // One that is refused is kept: it may be taken with a higher fee, or later.
        if let Err(why) = blocking(move || server.send(&tx)).await {
            debug!(intent = %id, %why, "not taken again");
        }
    }
    Ok(())
}

/// Asks for new blocks for ever.
struct Watch<S> {
    server: Arc<S>,
    shared: Arc<Shared>,
    network: Network,
    memory: Arc<Mutex<Memory>>,
    /// How often in turn the chain changed while it was looked at.
    moves: u32,
    /// The end of the chain when it was looked at last.
    last: Option<BlockHash>,
}

impl<S: Server> Watch<S> {
    /// Gives the reason why it ended.
    async fn run(mut self, name: String) -> String {
        loop {
            match self.look(&name).await {
                Err(why) => return why,
                Ok(()) if self.moves > MOVES_MAX => {
                    return format!("{name} contradicts itself from one answer to the next");
                }
                Ok(()) => tokio::time::sleep(self.server.pause()).await,
            }
        }
    }

    async fn look(&mut self, name: &str) -> Result<(), String> {
        let server = self.server.clone();
        let tip = blocking(move || server.tip()).await?;
        if self.last == Some(tip.hash) {
            // It may have lagged behind for a moment.
            if self.shared.progress.borrow().trouble.is_some() {
                self.shared.reached();
            }
            return Ok(());
        }
        let view = View::of(&self.shared.wallet(), self.network);
        if tip.height < view.height() {
            // In the midst of a reorganisation for a moment; else it lags behind.
            let why =
                format!("{name} knows no more than {} of the {} blocks that are known here", tip.height, view.height());
            self.shared.progress.send_modify(|progress| progress.trouble = Some(why));
            return Ok(());
        }
        let (server, memory, named) = (self.server.clone(), self.memory.clone(), name.to_string());
        let look = move || {
            let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
            view.ask(&named, server.as_ref(), tip, &mut memory)
        };
        let Some(update) = blocking(look).await? else {
            self.moves += 1;
            return Ok(());
        };
        self.moves = 0;
        let end = update.chain.as_ref().map(CheckPoint::hash);
        self.shared.apply(move |library| library.apply_update(update).map_err(|error| error.to_string())).await?;
        self.shared.reached();
        self.last = end;
        // A reorganisation may have taken a payment out of its block.
        send_open(&self.server, &self.shared).await
    }
}
