//! Chain data from a server that knows transactions by address. It learns which addresses are ours, and it is not believed: what it says
//! counts only in blocks that follow from those that are known, with the work that they claim.

use super::backend::{Ask, Source};
use super::follow::{Following, Shared};
use super::headers::{self, anchor, genesis};
use super::network::Network;
use super::wallet::{LOOKAHEAD, Start, Wallet};
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::{BlockHash, FeeRate, Transaction, Txid};
use bdk_wallet::chain::spk_client::{FullScanRequest, FullScanResponse};
use bdk_wallet::chain::{BlockId, CheckPoint, ConfirmationBlockTime};
use bdk_wallet::{KeychainKind, Update};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tracing::debug;

/// How often the server is asked for new blocks.
const POLL: Duration = Duration::from_secs(1);
/// Addresses that are asked for behind the last that was handed out.
const GAP: u32 = 20;
/// Addresses that are asked for at most behind it, whatever the server says of them.
const REACH: u32 = 10_000;
/// Blocks at the end of the chain with which a new wallet begins.
const FIRST_BLOCKS: u32 = 8;
/// How often in turn the chain may change under our hands before it is taken for a lie.
const MOVES_MAX: u32 = 10;

/// A server as it is asked. Its errors are sentences that name it.
pub(super) trait Server: Send + Sync + Sized + 'static {
    /// How users know it.
    fn name(url: &str) -> String;
    fn connect(url: &str) -> Result<Self, String>;
    /// Transactions that need not be asked for.
    fn know(&self, txs: Vec<Arc<Transaction>>);
    /// The newest block.
    fn tip(&self) -> Result<BlockId, String>;
    /// Headers from this height on, at least one and at most `count`.
    fn headers(&self, from: u32, count: u32) -> Result<Vec<Header>, String>;
    /// The transactions of these addresses. Those of a block come with proof that it holds them, or not at all.
    fn scan(&self, request: FullScanRequest<KeychainKind>, gap: usize) -> Result<Scan, String>;
    fn send(&self, tx: &Transaction) -> Result<(), String>;
    fn fee_rate(&self) -> Option<FeeRate>;
}

pub(super) type Scan = FullScanResponse<KeychainKind>;

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
            Err(format!("{} follows another chain than that of the network {network}", S::name(&url)))
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
        server.know(shared.wallet().library().transactions().map(|tx| tx.tx_node.tx.clone()).collect());
        let mut watching = JoinSet::new();
        let watch =
            Watch { server: server.clone(), shared: shared.clone(), network: self.network, moves: 0, last: None };
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
                Ok(()) => tokio::time::sleep(POLL).await,
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
        if tip.height < view.tip.height() {
            // In the midst of a reorganisation for a moment; else it lags behind.
            let why = format!(
                "{name} knows no more than {} of the {} blocks that are known here",
                tip.height,
                view.tip.height()
            );
            self.shared.progress.send_modify(|progress| progress.trouble = Some(why));
            return Ok(());
        }
        let server = self.server.clone();
        let named = name.to_string();
        let Some(update) = blocking(move || view.ask(&named, server.as_ref())).await? else {
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

/// What is asked, and what is known already.
struct View {
    network: Network,
    tip: CheckPoint,
    /// Whether nothing can be in any block so far.
    unused: bool,
    request: FullScanRequest<KeychainKind>,
    gap: u32,
}

impl View {
    fn of(wallet: &Wallet, network: Network) -> View {
        let library = wallet.library();
        let index = library.spk_index();
        let restored = matches!(wallet.start(), Start::Restored { .. });
        let gap = if restored && wallet.is_blank() { LOOKAHEAD } else { GAP };
        let tip = library.latest_checkpoint();
        let mut request = FullScanRequest::builder().chain_tip(tip.clone());
        for (keychain, scripts) in index.all_unbounded_spk_iters() {
            let last = index.last_revealed_index(keychain);
            let end = last.map_or(0, |last| last + 1) + REACH;
            request = request.spks_for_keychain(keychain, scripts.take_while(move |(number, _)| *number < end));
            if let Some(last) = last {
                request = request.last_revealed_for_keychain(keychain, last);
            }
        }
        View { network, tip, unused: !restored && wallet.is_blank(), request: request.build(), gap }
    }

    /// What became new; `None` when the chain changed meanwhile.
    fn ask<S: Server>(self, name: &str, server: &S) -> Result<Option<Update>, String> {
        let found = server.scan(self.request, self.gap as usize)?;
        let Some(end) = found.chain_update else { return Ok(None) };
        let shared =
            self.tip.iter().find(|block| end.get(block.height()).is_some_and(|other| other.hash() == block.hash()));
        let Some(shared) = shared else { return Ok(None) };
        let mut known = Known { network: self.network, name, server, blocks: BTreeMap::new() };
        known.blocks.extend(shared.iter().map(|block| (block.height(), block.hash())));
        let anchor = anchor(self.network);
        known.blocks.insert(anchor.height, anchor.hash);
        let from = if self.unused && shared.height() == 0 {
            // Whoever is new begins at the end, and believes the work in it.
            (end.height() + 1).saturating_sub(FIRST_BLOCKS)
        } else if end.height() > anchor.height {
            shared.height().max(anchor.height)
        } else {
            shared.height()
        };
        if !known.learn(from, end.height())? {
            return Ok(None);
        }
        let mut tx_update = found.tx_update;
        let proven = known
            .all(end.iter().take_while(|block| block.height() > shared.height()).map(|block| block.block_id()))?
            && known
                .all(tx_update.anchors.iter().map(|(anchor, _): &(ConfirmationBlockTime, Txid)| anchor.block_id))?;
        if !proven {
            return Ok(None);
        }
        // What is in no block is neither counted nor forgotten on anybody's word.
        let confirmed: HashSet<Txid> = tx_update.anchors.iter().map(|(_, txid)| *txid).collect();
        tx_update.txs.retain(|tx| confirmed.contains(&tx.compute_txid()));
        tx_update.txouts.clear();
        tx_update.seen_ats.clear();
        tx_update.evicted_ats.clear();
        Ok(Some(Update { last_active_indices: found.last_active_indices, tx_update, chain: Some(end) }))
    }
}

/// Blocks that are believed.
struct Known<'a, S> {
    network: Network,
    name: &'a str,
    server: &'a S,
    blocks: BTreeMap<u32, BlockHash>,
}

impl<S: Server> Known<'_, S> {
    /// Takes the headers from one height to another for known when they keep the rules and agree with what is known at either end; whether they agree.
    fn learn(&mut self, from: u32, to: u32) -> Result<bool, String> {
        let mut headers: Vec<Header> = Vec::new();
        while let Some(lacking) = (to + 1 - from).checked_sub(headers.len() as u32).filter(|lacking| *lacking > 0) {
            let more = self.server.headers(from + headers.len() as u32, lacking)?;
            if more.is_empty() {
                return Ok(false);
            }
            headers.extend(more.into_iter().take(lacking as usize));
        }
        let hashes: Vec<(u32, BlockHash)> = (from..).zip(headers.iter().map(Header::block_hash)).collect();
        // A chain that changes under our hands is no lie.
        if hashes.iter().any(|(height, hash)| self.blocks.get(height).is_some_and(|known| known != hash)) {
            return Ok(false);
        }
        headers::check(self.network, from, &headers)
            .map_err(|what| format!("{} is not believed: {what}", self.name))?;
        self.blocks.extend(hashes);
        Ok(true)
    }

    /// Whether all of these are known, or lead to one that is.
    fn all(&mut self, blocks: impl Iterator<Item = BlockId>) -> Result<bool, String> {
        for block in blocks {
            if !self.blocks.contains_key(&block.height) {
                let Some(next) = self.blocks.range(block.height..).next().map(|(height, _)| *height) else {
                    return Ok(false);
                };
                if !self.learn(block.height, next)? {
                    return Ok(false);
                }
            }
            if self.blocks.get(&block.height) != Some(&block.hash) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
