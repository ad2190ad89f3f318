//! Assembly: identity, store, sockets, machine and tasks, started and stopped as one.

use super::audit::{self, AuditEntry};
use super::book;
use super::clock::Clock;
use super::discovery;
use super::fetcher::Fetcher;
use super::keep::Keeping;
use super::link::Links;
use super::memory;
use super::names::{NameKeys, Names};
use super::pay::{self, Payer};
use super::port;
use super::purse::Purse;
use super::rank;
use super::reactor::{self, Event, Shell};
use super::reader::Reader;
use super::seal::Sealer;
use super::setting::{Convergence, Settings};
use super::status::{
    AllowanceStatus, KeptStatus, MarketStatus, MountStatus, PeerStatus, RentStatus, Status, StoreStatus,
};
use super::swarm::Swarm;
use super::timetable::Timetable;
use super::writer::Writer;
use crate::base::digest::ChunkId;
use crate::base::path::PathText;
use crate::base::peer::{Contact, PeerId};
use crate::base::sync::lock;
use crate::base::week::Week;
use crate::content::cipher::ConvergenceSecret;
use crate::ledger::CreditConfig;
use crate::ledger::share::ShareConfig;
use crate::net::endpoint::OpenError;
use crate::net::identity::{Identity, IdentityError};
use crate::net::own;
use crate::node::input::{Command, Input};
use crate::node::{Node, NodeConfig};
use crate::publish::KeeperConfig;
use crate::store::{Store, StoreConfig, StoreError};
use crate::wallet::PayConfig;
use crate::wire::close::CloseReason;
use std::fs::{DirBuilder, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// How often the machine is told what the store dropped, and how much room it has.
const TELL_CHANGES: Duration = Duration::from_secs(2);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made or used.
    #[error("cannot use the data directory {path}: {source}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others may look into the data directory.
    #[error("the data directory {path} is open to others (mode {mode:04o}); close it with: chmod 700 {path}")]
    DataDirMode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Threads for sealing.
    #[error("cannot start worker threads: {0}")]
    Threads(String),
    /// Randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

struct Inner {
    settings: Settings,
    peer: PeerId,
    addr: SocketAddr,
    tree: PathBuf,
    clock: Clock,
    store: Arc<Store>,
    swarm: Swarm,
    links: Arc<Links>,
    reader: Reader,
    writer: Writer,
    names: Names,
    purse: Purse,
    keeping: Arc<Keeping>,
    timetable: Arc<Timetable>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// A running node. Cheap to clone; `stop` ends it for all clones.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl Engine {
    /// Starts a node. Takes constant time however much is stored.
    pub async fn start(settings: Settings) -> Result<Engine, StartError> {
        private_dir(&settings.data_dir)?;
        let tree = settings.data_dir.join("tree");
        if !tree.is_dir() {
            make_dir(&tree, 0o755)?;
            // Whatever the program's file mode mask: the mount's top is a directory like any other, and who may enter the data
            // directory is decided above it.
            let open = Permissions::from_mode(0o755);
            std::fs::set_permissions(&tree, open)
                .map_err(|source| StartError::DataDir { path: tree.clone(), source })?;
            sync_dir(&tree)?;
        }
        // First what only one node can have: another that starts at the same moment ends here.
        let store_config = StoreConfig::sized(settings.cache_bytes);
        let store_dir = settings.data_dir.join("store");
        let store = tokio::task::spawn_blocking(move || Store::open(&store_dir, store_config))
            .await
            .map_err(|error| StartError::Threads(error.to_string()))??;
        let store = Arc::new(store);
        let identity = Identity::load_or_create(&settings.data_dir.join("identity"))?;
        let secret = match settings.convergence {
            Convergence::Private => ConvergenceSecret(identity.derive("tornet v1 private convergence secret")),
            Convergence::Public => ConvergenceSecret::PUBLIC,
        };
        let peer = identity.peer();
        let name_keys = NameKeys::of(&identity);
        let endpoint = port::open(&identity, settings.listen, settings.other_port, &settings.data_dir)?;
        sync_dir(&settings.data_dir)?;
        let addr = endpoint.local_addr();

        let clock = Clock::start();
        let (events, queue) = mpsc::unbounded_channel();
        let swarm = Swarm::new(events.clone(), clock);
        let links = Links::new(endpoint, peer, events.clone());
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| StartError::Random(error.to_string()))?;
        let timetable = Arc::new(Timetable::new(settings.upload.clone()));
        let node_config = NodeConfig {
            addrs: advertised(addr),
            host_bytes_max: settings.host_bytes_max,
            host_bytes_used: store.usage().hosted_bytes,
            credit: settings.credit,
            accounts: book::recall(&store)?,
            rank_nonce: rank::recall(&store, &peer),
            payments: settings.payments,
            wallet: pay::recall(&store)?,
            upload: ShareConfig { rate: timetable.rate(), ..ShareConfig::default() },
            keeper: KeeperConfig { lease: settings.lease, ..settings.keeper.clone() },
            market: settings.market,
            unix: reactor::unix_now(),
            ..NodeConfig::default()
        };
        let search = rank::Search {
            store: store.clone(),
            swarm: swarm.clone(),
            peer,
            percent: settings.rank_percent,
            begun: AtomicBool::new(false),
        };
        let keeping = Keeping::new(store.clone(), settings.lease);
        let node = Node::new(node_config, peer, u64::from_le_bytes(seed));
        let purse = Purse::new(&settings.data_dir, settings.purse.clone());
        let payer = Payer::new(store.clone(), events.clone(), purse.opened());
        let shell = Shell {
            clock,
            identity,
            links: links.clone(),
            store: store.clone(),
            payer: payer.clone(),
            events,
            waiting: swarm.waiting.clone(),
            keeping: keeping.clone(),
            search: Arc::new(search),
        };
        let sealer = Sealer::new(store.clone(), secret, settings.scheme).map_err(StartError::Threads)?;
        let fetcher = Arc::new(Fetcher::new(store.clone(), swarm.clone()));
        let reader = Reader::new(fetcher);
        let writer = Writer::new(store.clone(), swarm.clone(), sealer, tree.clone(), settings.quiet, keeping.clone());

        let names = Names::new(store.clone(), swarm.clone(), writer.clone(), reader.clone(), tree.clone(), name_keys)?;

        let mut tasks = vec![tokio::spawn(reactor::run(node, shell, queue)), tokio::spawn(links.clone().accept())];
        // What the user names is the newest word.
        swarm.command(Command::Bootstrap(memory::recall(&store)));
        swarm.command(Command::Bootstrap(settings.bootstrap.clone()));
        let adopting = keeping.clone();
        tokio::task::spawn_blocking(move || adopting.adopt());
        tasks.push(tokio::spawn(keeping.clone().run(swarm.events.clone())));
        tasks.push(tokio::spawn(links.clone().tidy(swarm.clone())));
        tasks.push(tokio::spawn(tell_stored(store.clone(), swarm.clone())));
        tasks.push(tokio::spawn(tell_changes(store.clone(), swarm.clone())));
        tasks.push(tokio::spawn(writer.clone().run()));
        tasks.push(tokio::spawn(writer.clone().collect()));
        tasks.push(tokio::spawn(writer.clone().mend()));
        tasks.push(tokio::spawn(names.clone().run()));
        tasks.push(tokio::spawn(purse.clone().open_at_start()));
        tasks.push(tokio::spawn(payer.run()));
        tasks.push(tokio::spawn(timetable.clone().run(swarm.clone())));
        if settings.mdns {
            tasks.push(tokio::spawn(discovery::run(swarm.clone(), peer, addr)));
        }
        info!(peer = %peer, %addr, "node started");
        let tasks = Mutex::new(tasks);
        let inner = Inner {
            settings,
            peer,
            addr,
            tree,
            clock,
            store,
            swarm,
            links,
            reader,
            writer,
            names,
            purse,
            keeping,
            timetable,
            tasks,
        };
        Ok(Engine { inner: Arc::new(inner) })
    }

    /// Who we are.
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer
    }

    /// The UDP address that we listen on.
    pub fn listen_addr(&self) -> SocketAddr {
        self.inner.addr
    }

    /// Where others reach it, the likeliest first: a wildcard address stands for those that the machine has now.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        own::reachable(self.inner.addr)
    }

    /// What others pass as `--bootstrap`: our key at the likeliest of our addresses.
    pub fn bootstrap_text(&self) -> String {
        self.bootstrap_at(&self.addresses())
    }

    fn bootstrap_at(&self, addresses: &[SocketAddr]) -> String {
        Contact { peer: self.inner.peer, addrs: addresses.iter().take(1).copied().collect() }.to_string()
    }

    /// The plain directory behind the own tree.
    pub fn tree_dir(&self) -> &Path {
        &self.inner.tree
    }

    /// Where everything of this node lies.
    pub fn data_dir(&self) -> &Path {
        &self.inner.settings.data_dir
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Reads published trees.
    pub fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    /// Publishes the own tree.
    pub fn writer(&self) -> &Writer {
        &self.inner.writer
    }

    /// Mutable names.
    pub fn names(&self) -> &Names {
        &self.inner.names
    }

    /// The wallet.
    pub fn purse(&self) -> &Purse {
        &self.inner.purse
    }

    pub(super) fn swarm(&self) -> &Swarm {
        &self.inner.swarm
    }

    pub(super) fn links(&self) -> &Arc<Links> {
        &self.inner.links
    }

    pub(super) fn keeping(&self) -> &Arc<Keeping> {
        &self.inner.keeping
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.inner.store
    }

    /// One screen of health of a node that is mounted there.
    pub async fn status(&self, mounted: MountStatus) -> Status {
        let inner = &self.inner;
        let known = inner.swarm.inspect(|node| (node.stats(), node.rank(), node.pays(), node.allowances())).await;
        let (stats, rank, spending, allowed) = known.unwrap_or_default();
        let usage = inner.store.usage();
        // Before what is counted: what is sealed meanwhile counts as staged or as not kept yet.
        let staged = inner.writer.staged();
        let writer = inner.writer.clone();
        let kept = tokio::task::spawn_blocking(move || writer.kept()).await.ok().flatten();
        let hosting = inner.writer.hosting();
        let addresses = self.addresses();
        Status {
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            peer: inner.peer.to_string(),
            address: self.bootstrap_at(&addresses),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            listen: inner.addr.to_string(),
            data_dir: PathText::from(self.data_dir()),
            mountpoints: mounted.points.into_iter().map(PathText).collect(),
            ends_with_mount: mounted.ends_with_mount,
            uptime: inner.clock.now().0 / 1_000_000,
            peers_linked: inner.links.all().len() as u64,
            peers_known: stats.contacts as u64,
            tree: inner.writer.tree_reference(),
            staged,
            trouble: inner.writer.trouble().or(usage.trouble),
            publishing: inner.writer.sealing(),
            hosting,
            kept: kept.map(|kept| KeptStatus {
                groups: kept.groups,
                whole: kept.whole,
                lost: kept.lost,
                hosts: kept.worst.0,
                wanted: kept.worst.1,
                proved: (kept.oldest > 0).then_some(kept.oldest),
            }),
            safe_to_shut_down: staged == 0
                && (kept.is_some_and(|kept| kept.groups == kept.whole)
                    || usage.pinned_bytes == 0 && inner.writer.has_nothing()),
            store: StoreStatus {
                own_bytes: usage.own_bytes,
                hosted_bytes: usage.hosted_bytes,
                cached_bytes: usage.cached_bytes,
                pinned_bytes: usage.pinned_bytes,
                limit_bytes: inner.settings.cache_bytes,
            },
            upload: inner.timetable.status(),
            market: MarketStatus::from(stats.market),
            rent: RentStatus {
                charged_msat: stats.rent.0.0,
                paid_msat: stats.rent.1.0,
                dear_hosts: stats.dear_hosts as u64,
            },
            damaged: usage.damaged_slices,
            owed_to_us_msat: stats.credit.owed_to_us.0,
            owed_by_us_msat: stats.credit.owed_by_us.0,
            rank,
            spending,
            allowed: allowed.into_iter().map(AllowanceStatus::from).collect(),
        }
    }

    /// The peers with an open link.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let links = self.inner.links.all();
        let status = links.iter().map(|link| {
            let stats = link.stats();
            PeerStatus {
                peer: link.peer().to_string(),
                address: link.remote_addr().to_string(),
                rtt_ms: link.rtt().as_secs_f64() * 1000.0,
                sent_bytes: stats.sent_bytes,
                received_bytes: stats.received_bytes,
            }
        });
        status.collect()
    }

    /// Other terms of credit and payment from now on; peers are told.
    pub fn set_terms(&self, credit: CreditConfig, payments: PayConfig) {
        self.inner.swarm.command(Command::Terms { credit, payments });
    }

    /// Other limits of upload from now on.
    pub fn limit_upload(&self, week: Week) {
        self.inner.timetable.set(week);
    }

    /// Entries of the audit log from this number on; none at its end.
    pub async fn audit(&self, from: u64) -> Result<Vec<AuditEntry>, StoreError> {
        let store = self.inner.store.clone();
        let read = tokio::task::spawn_blocking(move || audit::read(&store, from)).await;
        read.unwrap_or_else(|_| Ok(Vec::new()))
    }

    /// Tells the machine to try these peers.
    pub fn bootstrap(&self, contacts: Vec<Contact>) {
        self.inner.swarm.command(Command::Bootstrap(contacts));
    }

    /// Stops: what was promised durable is flushed, links are closed, tasks end.
    pub async fn stop(&self) {
        let inner = &self.inner;
        inner.writer.stop();
        inner.purse.close();
        let _ = inner.swarm.events.send(Event::Stop);
        inner.links.endpoint().close(CloseReason::Stopping.code()).await;
        let tasks = std::mem::take(&mut *lock(&inner.tasks));
        for task in tasks {
            // A task that does not end by itself holds nothing that a crash could not take.
            if tokio::time::timeout(Duration::from_secs(3), task).await.is_err() {
                warn!("a task did not end in time");
            }
        }
        let store = inner.store.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.flush()).await {
            warn!(%error, "the store could not be flushed");
        }
        info!("node stopped");
    }
}

/// Tells the machine what was promised to others, and what the store holds, so that it is announced again, a page at a time and without haste.
async fn tell_stored(store: Arc<Store>, swarm: Swarm) {
    let mut after: Option<ChunkId> = None;
    loop {
        let (this, from) = (store.clone(), after);
        let page = tokio::task::spawn_blocking(move || this.hosted_chunks(from.as_ref(), 4096)).await;
        let Ok(Ok(page)) = page else { return };
        let Some((hosted, last)) = page else { break };
        after = Some(last);
        let now = reactor::unix_now();
        let left = |until: u64| until.saturating_sub(now).min(u64::from(u32::MAX)) as u32;
        let chunks: Vec<(ChunkId, u32, u32)> =
            hosted.into_iter().map(|(id, len, until)| (id, len, left(until))).collect();
        if !chunks.is_empty() {
            swarm.input(Input::Hosted { chunks });
        }
    }
    after = None;
    loop {
        let (this, from) = (store.clone(), after);
        let page = tokio::task::spawn_blocking(move || this.whole_chunks(from.as_ref(), 512)).await;
        let Ok(Ok(page)) = page else { return };
        let Some(last) = page.last() else { return };
        after = Some(*last);
        swarm.input(Input::Stored { chunks: page });
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tells the machine how much room there is for others' chunks, and what was evicted or found damaged, so that it is announced no
/// longer, until the engine stops.
async fn tell_changes(store: Arc<Store>, swarm: Swarm) {
    let mut ticks = tokio::time::interval(TELL_CHANGES);
    let mut told = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = swarm.events.closed() => return,
        }
        let this = store.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let usage = this.usage();
            let dropped = this.take_dropped();
            // Some may have been fetched again.
            let held = this.holds_each(&dropped).unwrap_or_default();
            let gone = dropped.into_iter().zip(held).filter_map(|(id, held)| (!held).then_some(id));
            ((usage.hosted_bytes, usage.room_bytes), gone.collect::<Vec<_>>())
        });
        let Ok((room, chunks)) = looked.await else { return };
        if told.replace(room) != Some(room) {
            let (hosted, free) = room;
            swarm.input(Input::Room { hosted, free });
        }
        if !chunks.is_empty() {
            swarm.input(Input::Dropped { chunks });
        }
    }
}

/// The addresses to tell peers: ours, unless it is a wildcard; then they go by what they see.
fn advertised(addr: SocketAddr) -> Vec<SocketAddr> {
    if addr.ip().is_unspecified() { Vec::new() } else { vec![addr] }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), StartError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| StartError::DataDir { path: path.to_path_buf(), source })
}

/// Makes the names in a directory durable, and its mode.
fn sync_dir(path: &Path) -> Result<(), StartError> {
    let synced = std::fs::File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|source| StartError::DataDir { path: path.to_path_buf(), source })
}

/// Makes the data directory, or checks that nobody else can look into the one that is there.
fn private_dir(path: &Path) -> Result<(), StartError> {
    if !path.exists() {
        make_dir(path, 0o700)?;
    }
    let metadata =
        std::fs::metadata(path).map_err(|source| StartError::DataDir { path: path.to_path_buf(), source })?;
    if !metadata.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotADirectory);
        return Err(StartError::DataDir { path: path.to_path_buf(), source });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StartError::DataDirMode { path: path.to_path_buf(), mode });
    }
    Ok(())
}
