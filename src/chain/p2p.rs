//! Chain data from bitcoin's own network, by compact block filters (BIP 157 and 158).
//!
//! A filter says whether a block may hold one of our scripts; only then the block is fetched. So nobody learns our addresses, and nothing
//! is known of transactions that are in no block.

use super::backend::{Ask, Source};
use super::follow::{Following, Shared};
use super::network::Network;
use super::wallet::{LOOKAHEAD, Start, Wallet};
use bdk_kyoto::bip157::{HashCheckpoint, Info, Requester, TrustedPeer, Warning};
use bdk_kyoto::{BuilderExt, LoggingSubscribers, SyncConfig, Update, UpdateSubscriber, bip157, wallets};
use bdk_wallet::bitcoin::{BlockHash, FeeRate, Transaction};
use bdk_wallet::chain::{BlockId, CheckPoint};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

/// How long a node may take to ask for a transaction that it was told of. One that has it does not ask.
const SEND_MAX: Duration = Duration::from_secs(10);
/// How long an estimate of the fee may take.
const FEE_MAX: Duration = Duration::from_secs(10);
/// Nodes to be connected with when none are named: filters of several are held against each other.
const PEERS: u8 = 3;

/// Name of the client's thread.
const THREAD: &str = "light-client";

/// What keeps the client from working.
const AWAY: &str = "no node of the bitcoin network can be reached";

/// A light client.
pub(super) struct P2p {
    network: Network,
    peers: Vec<SocketAddr>,
}

impl P2p {
    pub(super) fn new(network: Network, peers: Vec<SocketAddr>) -> P2p {
        P2p { network, peers }
    }

    fn builder(&self) -> bip157::Builder {
        let builder = bip157::Builder::new(self.network.into()).fetch_witness_data();
        if self.peers.is_empty() {
            return builder.required_peers(PEERS);
        }
        let peers = self.peers.iter().map(|addr| TrustedPeer::from_socket_addr(*addr));
        builder.add_peers(peers).whitelist_only().required_peers(self.peers.len().min(usize::from(PEERS)) as u8)
    }

    /// A client for the wallet as it is now: it looks for the addresses that are revealed and the next `LOOKAHEAD`.
    fn client(
        &self,
        wallet: &Wallet,
    ) -> Result<(Client, LoggingSubscribers, UpdateSubscriber<wallets::Single>), String> {
        let builder = self.builder();
        let built = match (wallet.is_blank(), wallet.start()) {
            (false, _) => {
                let config = SyncConfig::sync_from_last_checkpoint().lookahead(LOOKAHEAD).build();
                builder.build_with_wallet(wallet.library(), config)
            }
            (true, Start::New) => builder.build_with_wallet(wallet.library(), SyncConfig::new_wallet_sync().build()),
            (true, Start::Restored { addresses, .. }) => {
                let anchor = match self.network {
                    Network::Bitcoin => HashCheckpoint::taproot_activation(),
                    other => HashCheckpoint::from_genesis(bdk_wallet::bitcoin::Network::from(other)),
                };
                let config = SyncConfig::wallet_recovery_sync(anchor, addresses.max(LOOKAHEAD)).build();
                builder.build_with_wallet(wallet.library(), config)
            }
        };
        let (client, logging, updates) = built.map_err(|error| error.to_string())?.subscribe();
        let workers = Builder::new_multi_thread().worker_threads(1).thread_name(THREAD).enable_all().build();
        let workers = workers.map_err(|error| error.to_string())?;
        let requester = {
            let _inside = workers.enter();
            client.start().requester()
        };
        Ok((Client { requester, workers: Some(workers) }, logging, updates))
    }
}

/// A client at work. Its tasks run on a thread of their own and end with it: in bip157 0.7 a connection whose client has ended turns round and round, at the cost of
/// a whole core, until its peer closes it.
struct Client {
    requester: Requester,
    workers: Option<Runtime>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // One that ended already needs no word.
        let _ = self.requester.shutdown();
        if let Some(workers) = self.workers.take() {
            workers.shutdown_background();
        }
    }
}

impl Source for P2p {
    async fn follow(&mut self, shared: &Arc<Shared>, following: &mut Following) -> Result<(), String> {
        let (blank, revealed, client) = {
            let wallet = shared.wallet();
            (wallet.is_blank(), wallet.revealed(), self.client(&wallet)?)
        };
        let (client, logging, updates) = client;
        let requester = &client.requester;
        let mut tasks = JoinSet::new();
        for (id, tx) in shared.open_transactions().await? {
            debug!(intent = %id, "sent again");
            tasks.spawn(submit(requester.clone(), tx));
        }
        let (sender, mut found) = mpsc::channel(1);
        // On a task of its own: waiting for an update must not be broken off.
        tasks.spawn(hand_over(updates, sender));
        tasks.spawn(listen(logging, shared.clone()));
        loop {
            tokio::select! {
                update = found.recv() => {
                    let Some(update) = update else { return Err(AWAY.into()) };
                    apply(shared, update).await?;
                    shared.reached();
                    // A wallet's first look holds every block's header in memory: no longer needed. And a reorganisation may have taken a
                    // payment out of its block.
                    if blank {
                        return Ok(());
                    }
                    for (_, tx) in shared.open_transactions().await? {
                        tasks.spawn(submit(requester.clone(), tx));
                    }
                }
                ask = following.next() => match ask {
                    None => return Ok(()),
                    Some(Ask::Send(tx, answer)) => {
                        let sending = submit(requester.clone(), *tx);
                        tasks.spawn(async move { drop(answer.send(sending.await)); Ok(()) });
                    }
                    Some(Ask::FeeRate(answer)) => {
                        let requester = requester.clone();
                        tasks.spawn(async move { let _ = answer.send(fee_rate(requester).await); Ok(()) });
                    }
                    // It looks no further than from where it began: with half of that used up it begins anew, before one is missed.
                    Some(Ask::Renew) => {
                        let now = shared.wallet().revealed();
                        if now.map_or(0, |now| now + 1) > revealed.map_or(0, |then| then + 1) + LOOKAHEAD / 2 {
                            return Ok(());
                        }
                    }
                },
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

async fn hand_over(mut updates: UpdateSubscriber<wallets::Single>, sender: mpsc::Sender<Update>) -> Result<(), String> {
    while let Ok(update) = updates.update().await {
        if sender.send(update).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// What the client tells as it goes.
async fn listen(mut logging: LoggingSubscribers, shared: Arc<Shared>) -> Result<(), String> {
    loop {
        tokio::select! {
            info = logging.info_subscriber.recv() => match info {
                None => return Ok(()),
                Some(Info::Progress(progress)) => {
                    let part = progress.fraction_complete();
                    shared.progress.send_modify(|shown| shown.part = if part.is_finite() { part.min(1.0) } else { 0.0 });
                }
                Some(other) => debug!(%other, "light client"),
            },
            warning = logging.warning_subscriber.recv() => match warning {
                None => return Ok(()),
                Some(Warning::NeedConnections { connected: 0, .. }) => shared.progress.send_modify(|shown| {
                    if !shown.synced {
                        shown.trouble = Some("no node of the bitcoin network is connected yet".into());
                    }
                }),
                Some(other) => debug!(%other, "light client"),
            },
        }
    }
}

/// Only blocks that matter: the client knows every one since it began, the wallet would keep them for ever.
async fn apply(shared: &Arc<Shared>, mut update: Update) -> Result<(), String> {
    if let Some(chain) = update.chain.take() {
        let mut heights = shared.wallet().heights_kept(chain.height());
        heights.extend(update.tx_update.anchors.iter().map(|(anchor, _)| anchor.block_id.height));
        let mut blocks: Vec<BlockId> =
            chain.iter().filter(|block| heights.contains(&block.height())).map(|block| block.block_id()).collect();
        blocks.reverse();
        update.chain = CheckPoint::from_block_ids(blocks).ok();
    }
    shared.apply(move |library| library.apply_update(update).map_err(|error| error.to_string())).await
}

/// Tells a node of a transaction, which it then asks for, unless it has it.
async fn submit(requester: Requester, tx: Transaction) -> Result<(), String> {
    match tokio::time::timeout(SEND_MAX, requester.submit_package(tx)).await {
        Ok(Ok(_)) | Err(_) => Ok(()),
        // The client ended meanwhile; it is begun again.
        Ok(Err(_)) => Err(AWAY.into()),
    }
}

/// What the newest block's transactions paid on average, and at least what the nodes that we know pass on. A rough guess.
async fn fee_rate(requester: Requester) -> Option<FeeRate> {
    let known = async {
        let passed = requester.broadcast_min_feerate().await.ok()?;
        let tip: BlockHash = requester.chain_tip().await.ok()?.hash;
        let mined = requester.average_fee_rate(tip).await.ok();
        Some(mined.map_or(passed, |mined| mined.max(passed)))
    };
    tokio::time::timeout(FEE_MAX, known).await.ok().flatten()
}
