//! Floor 7: the door to the kernel: its FUSE protocol, mounting and unmounting.
//!
//! The protocol is the library's (`fuser`), behind `adapter`; mounting is our own, so that it works as root without a helper, keeps the
//! file system's type in the mount table, and passes no option of a name's making.

mod adapter;
mod convert;
mod interrupt;
mod mount;
mod options;
mod reply;
mod session;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

pub use mount::MountError;
pub use options::{MountOptions, OptionError};

use crate::engine::Engine;
use crate::vfs::{EngineSwarm, Filesystem, Settings, Swarm};

/// How long an unmounted file system may take to end.
const END_MAX: Duration = Duration::from_secs(2);

/// A mounted file system. Dropping it takes the mount away.
#[derive(Debug)]
pub struct Mount {
    filesystem: Arc<Filesystem>,
    mountpoint: PathBuf,
    device: Arc<OwnedFd>,
    ended: watch::Receiver<()>,
}

/// Mounts a running node on `mountpoint`, and serves it from the moment of return. Must be called within a tokio runtime.
pub fn mount(engine: &Engine, mountpoint: &Path, options: &MountOptions) -> Result<Mount, MountError> {
    let mountpoint = mount::full_path(mountpoint)?;
    let swarm = Arc::new(EngineSwarm::new(engine.clone(), mountpoint.clone()));
    mount_swarm(swarm, engine.tree_dir(), engine.data_dir(), "tornet", &mountpoint, options)
}

/// Mounts `swarm` with the own tree `tree` on `mountpoint`, and serves it from the moment of return. `data` is the directory that holds
/// everything of the node; `source` names the mount in the system's table. Must be called within a tokio runtime.
pub fn mount_swarm(
    swarm: Arc<dyn Swarm>,
    tree: &Path,
    data: &Path,
    source: &str,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<Mount, MountError> {
    let mountpoint = mount::prepare(mountpoint, options, data)?;
    let filesystem = Filesystem::open(tree, swarm, Settings { writeback: options.writeback })
        .map_err(|error| MountError::Tree(error.to_string()))?;
    let device = Arc::new(mount::attach(&mountpoint, source, options)?);
    let (sender, ended) = watch::channel(());
    let mount = Mount { filesystem: filesystem.clone(), mountpoint, device: device.clone(), ended };
    // From here on a failure takes the mount off again.
    let served = device.try_clone().map_err(MountError::Threads)?;
    // Two threads keep a busy kernel served; more help programs on more processors, as far as the disk below does.
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = options.threads.unwrap_or(processors.clamp(2, 8));
    let runtime = Handle::current();
    runtime.spawn(Filesystem::watch(Arc::downgrade(&filesystem)));
    session::start(filesystem, served, threads, options, runtime, sender).map_err(MountError::Protocol)?;
    Ok(mount)
}

/// Whether a node with this data directory could mount there, as far as can be told before it starts; the full path.
pub fn check(mountpoint: &Path, options: &MountOptions, data: &Path) -> Result<PathBuf, MountError> {
    mount::prepare(&mount::full_path(mountpoint)?, options, data)
}

/// Unmounts `mountpoint`, whoever serves it, unless it is in use.
pub fn unmount(mountpoint: &Path) -> Result<(), MountError> {
    mount::unmount(mountpoint)
}

/// Takes off what a killed process left mounted at `mountpoint`, and nothing else; whether no mount of ours is there now.
pub fn clear(mountpoint: &Path) -> Result<bool, MountError> {
    mount::clear(&mount::full_path(mountpoint)?)
}

impl Mount {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// What was refused lately, for `tornet why`.
    pub fn filesystem(&self) -> &Arc<Filesystem> {
        &self.filesystem
    }

    /// Ends when the file system is not mounted any more, whoever unmounted it.
    pub async fn wait_unmounted(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Unmounts unless it is in use.
    pub async fn unmount_idle(&self) -> Result<(), MountError> {
        self.take_off(false).await
    }

    /// Unmounts. A mount in use vanishes from sight at once; programs that still have files in it get an error from them when this process ends.
    pub async fn unmount(&self) -> Result<(), MountError> {
        match self.take_off(false).await {
            Err(MountError::Busy(_)) => self.take_off(true).await,
            other => other,
        }
    }

    async fn take_off(&self, lazily: bool) -> Result<(), MountError> {
        if !self.is_mounted() {
            return Ok(());
        }
        let target = self.mountpoint.clone();
        // Away from the tasks that may have to answer for it.
        let work = move || if lazily { mount::detach(&target) } else { mount::unmount(&target) };
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done?,
            Err(error) => return Err(MountError::Unmount(self.mountpoint.clone(), std::io::Error::other(error))),
        }
        let _ = tokio::time::timeout(END_MAX, self.wait_unmounted()).await;
        Ok(())
    }

    /// Whether the mount that was made here still stands: another may have taken its place.
    fn is_mounted(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut devices = [PollFd::new(&self.device, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut devices, Some(&now)) {
            Ok(_) => !devices.iter().any(|device| device.revents().contains(PollFlags::ERR)),
            Err(_) => true,
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.is_mounted()
            && let Err(error) = mount::detach(&self.mountpoint)
        {
            tracing::warn!(%error, "the mount is left behind");
        }
    }
}
