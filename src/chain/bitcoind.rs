//! Chain data from the RPC of a full node of one's own: every block is looked through here, so that node learns nothing of us but the
//! transactions that we send.

use super::backend::{Ask, Source};
use super::follow::{Following, Shared};
use super::wallet::Start;
use bdk_bitcoind_rpc::bitcoincore_rpc::{Auth, Client, Error, RpcApi, jsonrpc};
use bdk_bitcoind_rpc::{BlockEvent, Emitter, NO_EXPECTED_MEMPOOL_TXS};
use bdk_wallet::Update;
use bdk_wallet::bitcoin::{Amount, Block, FeeRate, Transaction};
use bdk_wallet::chain::{BlockId, CheckPoint};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

/// How often the node is asked for new blocks.
const POLL: Duration = Duration::from_secs(1);
/// Blocks that are applied in one commit while the wallet catches up.
const BATCH: usize = 16;
/// Blocks within which an estimated fee should do.
const FEE_TARGET: u16 = 6;
/// What the node answers when a transaction is in a block already.
const ALREADY_IN_CHAIN: i32 = -27;

/// A full node.
pub(super) struct Bitcoind {
    url: String,
    cookie: PathBuf,
}

impl Bitcoind {
    pub(super) fn new(url: String, cookie: PathBuf) -> Bitcoind {
        Bitcoind { url, cookie }
    }

    /// Runs `work` with a connection, off the event loop.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Client) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, String> {
        let (url, cookie) = (self.url.clone(), self.cookie.clone());
        let run = move || {
            // The node writes another cookie each time that it starts.
            let client = Client::new(&url, Auth::CookieFile(cookie.clone())).map_err(|e| said(&url, &cookie, &e))?;
            work(&client).map_err(|e| said(&url, &cookie, &e))
        };
        tokio::task::spawn_blocking(run).await.map_err(|error| error.to_string())?
    }

    async fn send(&self, tx: Transaction) -> Result<(), String> {
        self.ask(move |client| match client.send_raw_transaction(&tx) {
            Err(Error::JsonRpc(jsonrpc::Error::Rpc(error))) if error.code == ALREADY_IN_CHAIN => Ok(()),
            other => other.map(drop),
        })
        .await
    }

    /// A new wallet begins at the present end of the chain.
    async fn begin(&self, shared: &Arc<Shared>) -> Result<u32, String> {
        let (blank, start, genesis) = {
            let wallet = shared.wallet();
            let genesis = wallet.library().local_chain().genesis_hash();
            (wallet.is_blank(), wallet.start(), BlockId { height: 0, hash: genesis })
        };
        match start {
            Start::Restored { height, .. } => Ok(height),
            Start::New if !blank => Ok(0),
            Start::New => {
                let tip = self
                    .ask(|client| {
                        let height = client.get_block_count()?;
                        Ok((height, client.get_block_hash(height)?))
                    })
                    .await?;
                let height = u32::try_from(tip.0).map_err(|_| "the node's chain is too long".to_string())?;
                if height > 0 {
                    let blocks = [genesis, BlockId { height, hash: tip.1 }];
                    let chain = CheckPoint::from_block_ids(blocks).ok();
                    let update = Update { chain, ..Update::default() };
                    shared.apply(move |library| library.apply_update(update).map_err(|e| e.to_string())).await?;
                }
                Ok(0)
            }
        }
    }
}

fn said(url: &str, cookie: &std::path::Path, error: &Error) -> String {
    match error {
        Error::InvalidCookieFile | Error::Io(_) => format!("cannot read the cookie file {}: {error}", cookie.display()),
        Error::JsonRpc(jsonrpc::Error::Rpc(error)) => format!("the full node at {url} says: {}", error.message),
        other => format!("the full node at {url} does not answer: {other}"),
    }
}

type Found = Result<Vec<BlockEvent<Block>>, String>;

/// Asks for blocks for ever; an empty batch is the end of the chain.
async fn poll(mut emitter: Emitter<Arc<Client>>, url: String, cookie: PathBuf, found: mpsc::Sender<Found>) {
    loop {
        let (url, cookie) = (url.clone(), cookie.clone());
        let work = move || {
            let mut batch = Vec::new();
            while batch.len() < BATCH {
                match emitter.next_block() {
                    Ok(Some(block)) => batch.push(block),
                    Ok(None) => break,
                    Err(error) => return (emitter, Err(said(&url, &cookie, &error))),
                }
            }
            (emitter, Ok(batch))
        };
        let Ok((back, batch)) = tokio::task::spawn_blocking(work).await else { return };
        emitter = back;
        let idle = batch.as_ref().is_ok_and(|batch| batch.len() < BATCH);
        if found.send(batch).await.is_err() {
            return;
        }
        if idle {
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Source for Bitcoind {
    async fn follow(&mut self, shared: &Arc<Shared>, following: &mut Following) -> Result<(), String> {
        for (id, tx) in shared.open_transactions().await? {
            // One that the node refuses is kept: it may be taken with a higher fee, or later.
            if let Err(why) = self.send(tx).await {
                debug!(intent = %id, %why, "not taken again");
            }
        }
        let start = self.begin(shared).await?;
        let client = Client::new(&self.url, Auth::CookieFile(self.cookie.clone()));
        let client = Arc::new(client.map_err(|error| said(&self.url, &self.cookie, &error))?);
        let tip = shared.wallet().library().latest_checkpoint();
        let emitter = Emitter::new(client, tip, start, NO_EXPECTED_MEMPOOL_TXS);
        let (sender, mut found) = mpsc::channel(1);
        let mut polling = JoinSet::new();
        polling.spawn(poll(emitter, self.url.clone(), self.cookie.clone(), sender));
        loop {
            tokio::select! {
                batch = found.recv() => {
                    let batch = batch.ok_or("the full node is no longer asked")??;
                    let (moved, end) = (!batch.is_empty(), batch.len() < BATCH);
                    if moved {
                        shared.apply(move |library| {
                            batch.iter().try_for_each(|event| {
                                let (height, before) = (event.block_height(), event.connected_to());
                                library.apply_block_connected_to(&event.block, height, before).map_err(|e| e.to_string())
                            })
                        }).await?;
                    }
                    if end {
                        shared.reached();
                    }
                    // A reorganisation may have taken a payment out of its block, and the node's memory is no archive.
                    if moved && end {
                        for (id, tx) in shared.open_transactions().await? {
                            if let Err(why) = self.send(tx).await {
                                debug!(intent = %id, %why, "not taken again");
                            }
                        }
                    }
                }
                ask = following.next() => match ask {
                    None => return Ok(()),
                    Some(Ask::Send(tx, answer)) => drop(answer.send(self.send(*tx).await)),
                    Some(Ask::FeeRate(answer)) => {
                        let asked = self.ask(|client| client.estimate_smart_fee(FEE_TARGET, None)).await;
                        let _ = answer.send(asked.ok().and_then(|found| found.fee_rate).map(rate));
                    }
                    // Every block is looked through for all addresses, whenever they were revealed.
                    Some(Ask::Renew) => {}
                },
            }
        }
    }
}

/// From an amount for a thousand virtual bytes.
fn rate(per_kvb: Amount) -> FeeRate {
    FeeRate::from_sat_per_kwu(per_kvb.to_sat().div_ceil(4))
}
