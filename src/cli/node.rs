//! A node in this process: started, served, and ended by a signal, a command or an unmount.

use super::output::{self, Interrupted, Remedied, Usage};
use super::{holder, process, reload};
use crate::cli::command::Meet;
use crate::config::{ConfigError, Convergence, Settings, Source};
use crate::control::client::Client;
use crate::control::message::{Answer, PathText, Request, Setting};
use crate::control::server::Server;
use crate::control::service::{self, Node};
use crate::engine::{self, Engine, MountStatus, StartError};
use crate::publish::KeeperConfig;
use crate::store::StoreError;
use crate::vfs::Refusals;
use crate::{config, fuse, telemetry};
use anyhow::bail;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// How long a node that was given peers may look for them before it says how many answered.
const PEERS_WAIT: Duration = Duration::from_millis(300);

/// Name of the systemd credential that holds the wallet's passphrase.
const CREDENTIAL: &str = "tornet-wallet";

/// How long the node before this one may take to end.
const ENDING_MAX: Duration = Duration::from_secs(10);

/// What a node tells when it serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Report {
    pub(super) peer: String,
    pub(super) identity_made: bool,
    pub(super) address: String,
    pub(super) listen: String,
    pub(super) data_dir: PathText,
    pub(super) config: PathText,
    pub(super) config_found: bool,
    pub(super) mountpoint: Option<PathText>,
    pub(super) peers: usize,
    pub(super) mdns: bool,
    pub(super) spending: bool,
}

/// What to mount, if anything.
#[derive(Clone)]
pub(super) struct MountPlan {
    pub(super) point: PathBuf,
    pub(super) options: fuse::MountOptions,
}

/// A node that serves.
pub(super) struct Running {
    runtime: Runtime,
    engine: Engine,
    mounts: fuse::Mounts,
    server: Server,
    service: Arc<Node>,
    settings: Settings,
    meet: Meet,
    stop: Arc<Notify>,
    ending: process::Ending,
    pub(super) report: Report,
}

fn flags(place: &super::command::Place, meet: &Meet) -> config::Flags {
    config::Flags {
        data_dir: place.data_dir.clone(),
        config: place.config.clone(),
        listen: meet.listen,
        bootstrap: meet.bootstrap.clone(),
    }
}

/// Reads the settings with this command's flags. A flag that makes no sense is wrong usage; anything else fails.
pub(super) fn settings(place: &super::command::Place, meet: &Meet) -> anyhow::Result<Settings> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in config::unknown_variables(names) {
        output::note(format_args!(
            "the environment variable {name} means nothing to tornet; known are {}",
            config::VARIABLES.join(", ")
        ));
    }
    let flags = flags(place, meet);
    Settings::load(&flags, &environment).map_err(|error| match error {
        ConfigError::Value { place: Source::Flag(_), .. } => Usage::because(error),
        other => other.into(),
    })
}

/// The settings as commands show them.
pub(super) fn in_force(settings: &Settings) -> Vec<Setting> {
    let rows = settings.list().into_iter();
    rows.map(|(key, value, source)| Setting { key: key.to_string(), value, source }).collect()
}

/// Makes the data directory where it is not there; refuses one that others can open, or that lies in a tornet mount: a node would wait
/// there for another one, or for itself.
pub(super) fn data_dir(settings: &Settings) -> anyhow::Result<PathBuf> {
    let wanted = std::path::absolute(&settings.data_dir.value)?;
    if let Some(point) = holder::around(&wanted)? {
        bail!(
            "the data directory {} lies in the tornet mount {}: choose one outside of it with --data-dir",
            wanted.display(),
            point.display()
        );
    }
    Ok(config::place::make_data_dir(&wanted)?)
}

/// A variable of the environment; one that is not text counts as unset.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The file with the wallet's passphrase: the one that is set, else the one that systemd gave this process (`LoadCredential=`).
pub(super) fn passphrase_file(settings: &Settings) -> Option<PathBuf> {
    let given = || {
        let file = PathBuf::from(environment("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
        file.exists().then_some(file)
    };
    settings.wallet.passphrase_file.value.clone().or_else(given)
}

/// Starts logging as this command wants it.
pub(super) fn log(target: telemetry::Target<'_>, verbose: bool) -> anyhow::Result<()> {
    Ok(telemetry::start(target, environment("TORNET_LOG").as_deref(), verbose)?)
}

impl Running {
    /// Starts a node and everything around it; what was started ends again when a later step fails.
    pub(super) fn start(settings: &Settings, meet: &Meet, mount: Option<MountPlan>) -> anyhow::Result<Running> {
        if let Some(parent) = meet.die_with_parent {
            process::die_with_parent(parent)?;
        }
        let data_dir = data_dir(settings)?;
        let identity_made = !data_dir.join("identity").exists();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("tornet").build()?;
        // Before anything that would have to be cleaned up.
        let mut ending = runtime.block_on(async { process::Ending::new() })?;
        let engine_settings = engine::Settings {
            listen: settings.listen.value.addr,
            other_port: settings.listen.value.flexible,
            bootstrap: settings.bootstrap.value.clone(),
            cache_bytes: settings.cache.value.0,
            host_bytes_max: settings.hosting.value.0,
            market: settings.market.market(),
            scheme: settings.redundancy.value.scheme(),
            convergence: match settings.convergence.value {
                Convergence::Private => engine::Convergence::Private,
                Convergence::Public => engine::Convergence::Public,
            },
            mdns: settings.mdns.value,
            credit: reload::credit(settings),
            payments: reload::payments(settings, settings.wallet.network.value),
            upload: reload::upload(settings),
            keeper: KeeperConfig {
                // Never so often that nothing else is done.
                period: settings.check.value.0.max(Duration::from_secs(1)),
                patience: settings.patience.value.0,
                rate: settings.rate.value.bytes(),
                ..KeeperConfig::default()
            },
            rank_percent: settings.rank_cpu.value.0,
            purse: engine::PurseSettings {
                network: settings.wallet.network.value,
                backend: settings.wallet.source(),
                passphrase: passphrase_file(settings),
            },
            ..engine::Settings::new(data_dir.clone())
        };
        let engine = runtime.block_on(start(engine_settings, &mut ending))?;
        let stop = Arc::new(Notify::new());
        let begun = runtime.block_on(async {
            let mounts = fuse::Mounts::new(engine.clone(), mount.is_some());
            let point = mount.map(|plan| mounts.add(&plan.point, &plan.options)).transpose()?;
            let doors = Arc::new(Doors(mounts.clone()));
            let service = Arc::new(Node::new(engine.clone(), doors, in_force(settings), stop.clone()));
            let server = Server::open(&data_dir, service.clone())?;
            anyhow::Ok((mounts, point, server, service))
        });
        let (mounts, point, server, service) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                runtime.block_on(engine.stop());
                return Err(error);
            }
        };
        let report = Report {
            peer: engine.peer_id().to_string(),
            identity_made,
            address: engine.bootstrap_text(),
            listen: engine.listen_addr().to_string(),
            data_dir: PathText(data_dir),
            config: PathText(settings.file.value.clone()),
            config_found: settings.file_found,
            mountpoint: point.map(PathText),
            peers: 0,
            mdns: settings.mdns.value,
            spending: settings.terms.enabled.value,
        };
        let (settings, meet) = (settings.clone(), meet.clone());
        Ok(Running { runtime, engine, mounts, server, service, settings, meet, stop, ending, report })
    }

    /// Counts the peers that answer, for as long as a user would not notice.
    pub(super) fn count_peers(&mut self, expected: bool) {
        self.report.peers = self.runtime.block_on(async {
            let until = tokio::time::Instant::now() + PEERS_WAIT;
            loop {
                let count = self.engine.peers().len();
                if count > 0 || !expected || tokio::time::Instant::now() > until {
                    return count;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// Serves until a signal, a command or an unmount, then ends everything in order.
    pub(super) fn serve(mut self) -> anyhow::Result<()> {
        let mounts = &self.mounts;
        let ending = &mut self.ending;
        let place = super::command::Place {
            data_dir: Some(self.settings.data_dir.value.clone()),
            config: Some(self.settings.file.value.clone()).filter(|file| file.exists()),
        };
        let flags = flags(&place, &self.meet);
        self.runtime.block_on(async {
            tokio::select! {
                why = ending.wait() => tracing::info!("{why}"),
                () = self.stop.notified() => tracing::info!("asked to end by a command"),
                () = mounts.wait_unmounted() => tracing::info!("unmounted"),
                () = reload::follow(&self.settings, &flags, &self.engine, &self.service) => {}
            }
        });
        self.end()
    }

    /// Ends everything in order: no new file operations, then no new commands, then the node.
    pub(super) fn end(self) -> anyhow::Result<()> {
        let Running { runtime, engine, mounts, server, service, .. } = self;
        let unmounted = runtime.block_on(async {
            let unmounted = mounts.close().await;
            engine.stop().await;
            unmounted
        });
        // What holds the store's lock goes before the socket by which others see that this node runs.
        drop((service, mounts));
        drop(engine);
        drop(server);
        runtime.shutdown_timeout(Duration::from_secs(2));
        Ok(unmounted?)
    }
}

/// The node's mounts, for those who ask over the control socket.
struct Doors(fuse::Mounts);

impl service::Mounts for Doors {
    fn status(&self) -> MountStatus {
        self.0.status()
    }

    fn refusals(&self) -> Option<Arc<Refusals>> {
        self.0.refusals()
    }

    fn add(&self, point: &Path, options: &[String]) -> Result<Option<PathBuf>, String> {
        let options = fuse::MountOptions::of(options).map_err(|error| error.to_string())?;
        match self.0.add(point, &options) {
            Ok(point) => Ok(Some(point)),
            Err(fuse::MountError::Ending) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Starts the engine. A node that is ending, and takes no more commands, is waited for: who unmounted the folder may mount it again at once.
async fn start(settings: engine::Settings, ending: &mut process::Ending) -> anyhow::Result<Engine> {
    let until = Instant::now() + ENDING_MAX;
    loop {
        match Engine::start(settings.clone()).await {
            Err(StartError::Store(StoreError::InUse { .. }))
                if Instant::now() < until && is_ending(&settings.data_dir) =>
            {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                    _ = ending.wait() => return Err(Interrupted("nothing was started").into()),
                }
            }
            done => return done.map_err(|error| why_in_use(error, &settings.data_dir)),
        }
    }
}

/// A node whose mount was taken out of sight goes on until the last file in it is closed: whose that is is not to be seen in any mount table.
fn why_in_use(error: StartError, data_dir: &Path) -> anyhow::Error {
    let StartError::Store(StoreError::InUse { pid, .. }) = &error else { return error.into() };
    if !is_ending(data_dir) {
        return error.into();
    }
    let holders: Vec<String> = holder::holders_unseen().iter().map(ToString::to_string).collect();
    if holders.is_empty() {
        return error.into();
    }
    let error = format!(
        "the data directory {} is in use: the mount of process {pid} was taken out of sight (umount -l), but {}",
        data_dir.display(),
        holders.join("; ")
    );
    Remedied { error, remedy: format!("close that, or end process {pid}") }.into()
}

/// Whether the node of this data directory has lost its mount, or takes no more commands.
fn is_ending(data_dir: &Path) -> bool {
    let status = Client::connect(data_dir).and_then(|mut client| client.ask(&Request::Status));
    let Ok(Answer::Status(status)) = status else { return true };
    status.ends_with_mount && status.mountpoints.is_empty()
}

/// `tornet node`.
pub(super) fn node(place: &super::command::Place, meet: &Meet) -> anyhow::Result<()> {
    let settings = settings(place, meet)?;
    log(telemetry::Target::Stderr, meet.verbose)?;
    let running = Running::start(&settings, meet, None)?;
    output::line(format_args!("ready {}", running.report.address))?;
    running.serve()
}
