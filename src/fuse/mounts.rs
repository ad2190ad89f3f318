//! Where a running node is mounted: its one file system, to be seen in as many places as the user likes.
//!
//! A further place is a bind mount of the first: the kernel has one file system, so no place shows what another no longer does. A second
//! file system over the same tree would need caches that mistrust each other.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::mount::MountError;
use super::options::MountOptions;
use super::{Mount, mount_swarm};
use crate::base::sync::lock;
use crate::engine::{Engine, MountStatus};
use crate::vfs::{EngineSwarm, Refusals};

/// The mounts of a node.
#[derive(Clone)]
pub struct Mounts {
    engine: Engine,
    shared: Arc<Shared>,
}

struct Shared {
    /// The node ends with its last mount.
    ends_with_mount: bool,
    now: Mutex<Option<Arc<Mount>>>,
    /// Held while something is mounted; whether nothing is any more.
    closed: Mutex<bool>,
}

impl Shared {
    fn mount(&self) -> Option<Arc<Mount>> {
        lock(&self.now).clone()
    }

    fn status(&self) -> MountStatus {
        let points = self.mount().filter(|mount| mount.is_mounted()).map_or(Vec::new(), |mount| mount.points());
        MountStatus { points, ends_with_mount: self.ends_with_mount }
    }
}

impl Mounts {
    /// None yet. If `ends_with_mount`, there is no further one once the first is unmounted.
    pub fn new(engine: Engine, ends_with_mount: bool) -> Mounts {
        let shared = Shared { ends_with_mount, now: Mutex::default(), closed: Mutex::default() };
        Mounts { engine, shared: Arc::new(shared) }
    }

    /// Mounts the node on `mountpoint`, and serves it from the moment of return; gives the full path. Waits for the disk, and must be called
    /// within a tokio runtime.
    pub fn add(&self, mountpoint: &Path, options: &MountOptions) -> Result<PathBuf, MountError> {
        let closed = lock(&self.shared.closed);
        if *closed {
            return Err(MountError::Ending);
        }
        let (tree, data) = (self.engine.tree_dir(), self.engine.data_dir());
        match self.shared.mount() {
            Some(mount) if mount.is_mounted() => return mount.add(mountpoint, options, data),
            Some(_) if self.shared.ends_with_mount => return Err(MountError::Ending),
            _ => {}
        }
        // What the mount tells of itself must not keep it.
        let shared = Arc::downgrade(&self.shared);
        let status = move || shared.upgrade().map(|shared| shared.status()).unwrap_or_default();
        let swarm = Arc::new(EngineSwarm::new(self.engine.clone(), Arc::new(status)));
        let mount = mount_swarm(swarm, tree, data, mountpoint, options)?;
        let point = mount.first.clone();
        *lock(&self.shared.now) = Some(Arc::new(mount));
        Ok(point)
    }

    /// Where the node is mounted now.
    pub fn status(&self) -> MountStatus {
        self.shared.status()
    }

    /// What was refused there lately.
    pub fn refusals(&self) -> Option<Arc<Refusals>> {
        Some(self.shared.mount()?.filesystem().refusals().clone())
    }

    /// Ends when the node's mount is gone from everywhere, if it ends with that.
    pub async fn wait_unmounted(&self) {
        match self.shared.mount().filter(|_| self.shared.ends_with_mount) {
            Some(mount) => mount.wait_unmounted().await,
            None => std::future::pending().await,
        }
    }

    /// Unmounts everything; nothing is mounted any more.
    pub async fn close(&self) -> Result<(), MountError> {
        *lock(&self.shared.closed) = true;
        match self.shared.mount() {
            Some(mount) => mount.unmount().await,
            None => Ok(()),
        }
    }
}
