//! Floor 7: the door to the kernel: its FUSE protocol, mounting and unmounting.
//!
//! The protocol is the library's (`fuser`), behind `adapter`; mounting is our own, so that it works as root without a helper, keeps the
//! file system's type in the mount table, and passes no option of a name's making.

mod adapter;
mod convert;
mod interrupt;
mod mount;
mod mounts;
mod options;
mod reply;
mod session;
mod table;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

pub use mount::MountError;
pub use mounts::Mounts;
pub use options::{MountOptions, OptionError};
pub use table::{Mounted, find, table};

use crate::vfs::{Filesystem, Settings, Swarm};

/// How long an unmounted file system may take to end.
const END_MAX: Duration = Duration::from_secs(2);

/// A mounted file system. Dropping it takes it off wherever it is to be seen.
#[derive(Debug)]
pub struct Mount {
    filesystem: Arc<Filesystem>,
    options: MountOptions,
    /// Its device numbers in the mount table.
    number: Option<String>,
    first: PathBuf,
    device: Arc<OwnedFd>,
    ended: watch::Receiver<()>,
}

/// Mounts `swarm` with the own tree `tree` on `mountpoint`, and serves it from the moment of return. `data` is the directory that holds
/// everything of the node. Must be called within a tokio runtime.
pub fn mount_swarm(
    swarm: Arc<dyn Swarm>,
    tree: &Path,
    data: &Path,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<Mount, MountError> {
    let mountpoint = mount::prepare(mountpoint, options, data)?;
    let filesystem = Filesystem::open(tree, swarm, Settings { writeback: options.writeback })
        .map_err(|error| MountError::Tree(error.to_string()))?;
    let device = Arc::new(mount::attach(&mountpoint, options)?);
    let (sender, ended) = watch::channel(());
    let number = mount::device_of(&mountpoint);
    let (first, options) = (mountpoint, options.clone());
    let mount = Mount { filesystem: filesystem.clone(), options, number, first, device: device.clone(), ended };
    // From here on a failure takes the mount off again.
    let served = device.try_clone().map_err(MountError::Threads)?;
    // Two threads keep a busy kernel served; more help programs on more processors, as far as the disk below does.
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = mount.options.threads.unwrap_or(processors.clamp(2, 8));
    let runtime = Handle::current();
    runtime.spawn(Filesystem::watch(Arc::downgrade(&filesystem)));
    session::start(filesystem, served, threads, &mount.options, runtime, sender).map_err(MountError::Protocol)?;
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
    /// What was refused lately, for `tornet why`.
    pub fn filesystem(&self) -> &Arc<Filesystem> {
        &self.filesystem
    }

    /// Where it is to be seen, whole or in part, in the order of mounting: the mount table alone knows, as anybody may bind and unmount.
    fn places(&self) -> Vec<Mounted> {
        let table = table::table().unwrap_or_default();
        table.into_iter().filter(|mount| Some(&mount.device) == self.number.as_ref()).collect()
    }

    /// Where the whole of it is to be seen, in the order of mounting.
    pub fn points(&self) -> Vec<PathBuf> {
        let whole = self.places().into_iter().filter(|mount| mount.root == Path::new("/"));
        whole.map(|mount| mount.point).collect()
    }

    /// Lets it be seen at `mountpoint`, too; gives that path in full. Programs find the same files there, in the kernel's memory as well.
    pub fn add(&self, mountpoint: &Path, options: &MountOptions, data: &Path) -> Result<PathBuf, MountError> {
        let points = self.points();
        let first = points.first().unwrap_or(&self.first).clone();
        if let Some((has, option)) = options::difference(&self.options, options) {
            return Err(MountError::Differs { first, has: if has { "with" } else { "without" }, option });
        }
        let target = mount::full_path(mountpoint)?;
        if let Some(point) = points.iter().find(|point| target != **point && target.starts_with(point)) {
            return Err(MountError::Inside(target, point.clone()));
        }
        let target = mount::prepare(&target, options, data)?;
        mount::bind(&first, &target, options)?;
        Ok(target)
    }

    /// Ends when the file system is not mounted anywhere any more, whoever unmounted it.
    pub async fn wait_unmounted(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Unmounts it everywhere. What is in use vanishes from sight at once; programs that still have files in it get an error from them when this
    /// process ends.
    pub async fn unmount(&self) -> Result<(), MountError> {
        if !self.is_mounted() {
            return Ok(());
        }
        let mut points: Vec<PathBuf> = self.places().into_iter().rev().map(|mount| mount.point).collect();
        if points.is_empty() {
            points.push(self.first.clone());
        }
        // Away from the tasks that may have to answer for it.
        let work = move || {
            points.iter().try_for_each(|point| match mount::unmount(point) {
                Err(MountError::Busy(_)) => mount::detach(point),
                done => done,
            })
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done?,
            Err(error) => return Err(MountError::Unmount(self.first.clone(), std::io::Error::other(error))),
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
        if !self.is_mounted() {
            return;
        }
        for place in self.places().into_iter().rev() {
            if let Err(error) = mount::detach(&place.point) {
                tracing::warn!(%error, "the mount is left behind");
            }
        }
    }
}
