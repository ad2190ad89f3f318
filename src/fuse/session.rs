//! The library's session over a device that we mounted: its threads, and their end.

use super::adapter::Adapter;
use super::options::MountOptions;
use crate::vfs::Filesystem;
use fuser::{Config, Session, SessionACL};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Serves the mount behind `device` with `threads` threads. The sender's drop tells that all have ended.
pub(super) fn start(
    filesystem: Arc<Filesystem>,
    device: OwnedFd,
    threads: usize,
    options: &MountOptions,
    runtime: Handle,
    ended: watch::Sender<()>,
) -> std::io::Result<()> {
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = true;
    let adapter = Adapter::new(filesystem, runtime, options.writeback, !options.no_passthrough);
    // Who may use the mount was told to the kernel when it was mounted: the library needs no rule of its own.
    let notifier = adapter.notifier();
    let session = Session::from_fd(adapter, device, SessionACL::All, config)?;
    let _ = notifier.set(session.notifier());
    std::thread::Builder::new().name("fuse".to_string()).spawn(move || {
        if let Err(error) = session.run() {
            tracing::warn!(%error, "the kernel's requests cannot be read any more");
        }
        drop(ended);
    })?;
    Ok(())
}
