//! The wallet of a running node: there is none, or it is locked, or open.

use crate::base::sync::lock;
use crate::chain::{self, Backend, Chain, ChainConfig, ChainError, Network, Passphrase, Seed, Start};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

/// Settings of the wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurseSettings {
    /// Which chain of blocks.
    pub network: Network,
    /// Where its data come from.
    pub backend: Backend,
    /// The file that holds the passphrase; without one the wallet stays locked until it is unlocked by hand.
    pub passphrase: Option<PathBuf>,
}

/// How the wallet of a node is.
#[derive(Debug, Clone)]
pub enum PurseState {
    /// There is no seed.
    None,
    /// There is a seed, and nobody gave its passphrase; or it did not do.
    Locked(Option<String>),
    /// It follows the chain.
    Open(Chain),
}

struct Inner {
    data_dir: PathBuf,
    settings: PurseSettings,
    open: watch::Sender<Option<Chain>>,
    /// Why it could not be opened at the start.
    trouble: std::sync::Mutex<Option<String>>,
    opening: Mutex<()>,
}

/// The wallet of a node. Cheap to clone.
#[derive(Clone)]
pub struct Purse(Arc<Inner>);

impl Purse {
    /// The wallet below `data_dir`, not opened yet.
    pub(super) fn new(data_dir: &Path, settings: PurseSettings) -> Purse {
        Purse(Arc::new(Inner {
            data_dir: data_dir.to_path_buf(),
            settings,
            open: watch::Sender::new(None),
            trouble: std::sync::Mutex::default(),
            opening: Mutex::default(),
        }))
    }

    /// Opens it if there is one and its passphrase is at hand.
    pub(super) async fn open_at_start(self) {
        let Some(path) = self.0.settings.passphrase.clone().filter(|_| self.has_seed()) else { return };
        let opened = match Passphrase::read(&path) {
            Ok(passphrase) => self.unlock(passphrase).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = opened {
            warn!(%why, "the wallet stays locked");
            *lock(&self.0.trouble) = Some(why);
        }
    }

    /// Opens the wallet, which then follows the chain. Does nothing when it is open.
    pub async fn unlock(&self, passphrase: Passphrase) -> Result<(), ChainError> {
        let _one = self.0.opening.lock().await;
        if self.0.open.borrow().is_some() {
            return Ok(());
        }
        let file = chain::seed_file(&self.0.data_dir);
        // It takes a while on purpose: guessing should.
        let seed = tokio::task::spawn_blocking(move || Seed::load(&file, &passphrase)).await;
        let seed = seed.map_err(|_| ChainError::Closed)??;
        let PurseSettings { network, backend, .. } = self.0.settings.clone();
        let config = ChainConfig { network, backend, start: Start::New };
        let chain = Chain::open(&chain::folder(&self.0.data_dir), seed, config).await?;
        info!(%network, "wallet open");
        *lock(&self.0.trouble) = None;
        self.0.open.send_replace(Some(chain));
        Ok(())
    }

    /// Closes it, so that another process may open it.
    pub(super) fn close(&self) {
        self.0.open.send_replace(None);
    }

    fn has_seed(&self) -> bool {
        chain::seed_file(&self.0.data_dir).exists()
    }

    /// How it is.
    pub fn state(&self) -> PurseState {
        match &*self.0.open.borrow() {
            Some(chain) => PurseState::Open(chain.clone()),
            None if self.has_seed() => PurseState::Locked(lock(&self.0.trouble).clone()),
            None => PurseState::None,
        }
    }

    /// Tells when it is opened.
    pub fn opened(&self) -> watch::Receiver<Option<Chain>> {
        self.0.open.subscribe()
    }

    /// Which chain of blocks it is set to.
    pub fn network(&self) -> Network {
        self.0.settings.network
    }
}
