//! Keeps the wallet in step with the chain: one task, one source, begun again when it fails.

use super::backend::{Ask, Source};
use super::intent::IntentId;
use super::wallet::{Event, Wallet};
use bdk_wallet::Wallet as Library;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use tracing::{debug, info, warn};

/// Between two attempts with a source that fails.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How far the wallet is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Progress {
    /// The end of the chain was reached since the wallet was opened.
    pub(super) synced: bool,
    /// Of the blocks to look through, from 0 to 1.
    pub(super) part: f32,
    /// What keeps the source from working.
    pub(super) trouble: Option<String>,
}

/// What the task and the handles share.
pub(super) struct Shared {
    wallet: Mutex<Wallet>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) progress: watch::Sender<Progress>,
}

impl Shared {
    pub(super) fn new(wallet: Wallet) -> Shared {
        let events = broadcast::Sender::new(256);
        Shared { wallet: Mutex::new(wallet), events, progress: watch::Sender::new(Progress::default()) }
    }

    /// The wallet. What panicked with it in hand committed nothing of what it did.
    pub(super) fn wallet(&self) -> MutexGuard<'_, Wallet> {
        self.wallet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies what a source found, off the event loop: it is written to the disk.
    pub(super) async fn apply(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Library) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let this = self.clone();
        let work = move || this.wallet().apply(change);
        let events = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())??;
        for event in events {
            debug!(?event, "chain");
            // Nobody need listen.
            let _ = self.events.send(event);
        }
        Ok(())
    }

    /// The end of the chain is reached.
    pub(super) fn reached(&self) {
        self.progress.send_modify(|progress| *progress = Progress { synced: true, part: 1.0, trouble: None });
    }

    /// The transactions that the network should know, marked as handed out.
    pub(super) async fn open_transactions(
        self: &Arc<Self>,
    ) -> Result<Vec<(IntentId, bdk_wallet::bitcoin::Transaction)>, String> {
        let this = self.clone();
        let work = move || {
            let mut wallet = this.wallet();
            let open = wallet.open_intents();
            open.into_iter().map(|id| Ok((id, wallet.hand_out(id)?))).collect::<Result<Vec<_>, super::ChainError>>()
        };
        let found = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
        found.map_err(|error| error.to_string())
    }
}

/// What the task is asked.
pub(super) struct Following {
    asked: mpsc::UnboundedReceiver<Ask>,
}

impl Following {
    pub(super) fn new(asked: mpsc::UnboundedReceiver<Ask>) -> Following {
        Following { asked }
    }

    /// The next request; `None` when every handle is gone. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Ask> {
        self.asked.recv().await
    }
}

/// Follows the chain until every handle is gone.
pub(super) async fn run(mut source: impl Source, shared: Arc<Shared>, mut following: Following) {
    let mut pause = PAUSE_MIN;
    loop {
        let began = tokio::time::Instant::now();
        match source.follow(&shared, &mut following).await {
            Ok(()) if following.asked.is_closed() => {
                info!("the wallet no longer follows the chain");
                return;
            }
            Ok(()) => continue,
            Err(why) => {
                warn!(%why, "no chain data");
                shared.progress.send_modify(|progress| progress.trouble = Some(why.clone()));
                if began.elapsed() > PAUSE_MAX {
                    pause = PAUSE_MIN;
                }
                let until = tokio::time::Instant::now() + pause;
                pause = (pause * 2).min(PAUSE_MAX);
                // Who asks meanwhile is told at once why it cannot be done.
                loop {
                    match tokio::time::timeout_at(until, following.next()).await {
                        Err(_) => break,
                        Ok(None) => return,
                        Ok(Some(Ask::Send(_, answer))) => drop(answer.send(Err(why.clone()))),
                        Ok(Some(Ask::FeeRate(answer))) => {
                            let _ = answer.send(None);
                        }
                        Ok(Some(Ask::Renew)) => {}
                    }
                }
            }
        }
    }
}
