//! `tornet-mount` where a node with this data directory runs already: that node is asked to mount itself there as well.

use super::command::MountProgram;
use super::node::MountPlan;
use super::output;
use super::{holder, process};
use crate::config::Settings;
use crate::control::client::{Client, ClientError};
use crate::control::message::{Answer, PathText, Request};
use crate::fuse;
use anyhow::bail;
use std::path::PathBuf;
use std::time::Duration;

/// How often a process that stays looks whether its mount is still there.
const LOOK: Duration = Duration::from_millis(200);

/// A further mount of a running node.
pub(super) struct Further {
    pid: u32,
    /// The node's address, for others.
    pub(super) address: String,
    point: PathBuf,
}

/// Has the node that runs with this data directory mount itself; `None` if none runs, or only one that is ending.
pub(super) fn add(settings: &Settings, program: &MountProgram, plan: &MountPlan) -> anyhow::Result<Option<Further>> {
    let data_dir = std::path::absolute(&settings.data_dir.value)?;
    let Ok(mut client) = Client::connect(&data_dir) else { return Ok(None) };
    let Ok(Answer::Status(status)) = client.ask(&Request::Status) else { return Ok(None) };
    // It lost its mount and writes everything down: the new node waits for that.
    if status.ends_with_mount && status.mountpoints.is_empty() {
        return Ok(None);
    }
    let request = Request::Mount { path: PathText::from(&*plan.point), options: program.options.clone() };
    let point = match client.ask(&request) {
        Ok(Answer::Mounted { path: Some(point) }) => point.0,
        Ok(Answer::Mounted { path: None }) | Err(ClientError::Ended) => return Ok(None),
        Ok(other) => return Err(output::strange(&other)),
        Err(error) => return Err(error.into()),
    };
    if fuse::find(&holder::mounts()?, &point).is_none() {
        bail!(
            "the node (process {}) sees other mounts than this process, and mounted {} where it is not to be seen from here: \
             unmount it there (tornet umount), and start the node here",
            status.pid,
            point.display()
        );
    }
    let meet = &program.meet;
    if meet.listen.is_some() || !meet.bootstrap.is_empty() {
        output::note("the node runs already: --listen and --bootstrap change nothing until it is started anew");
    }
    Ok(Some(Further { pid: status.pid, address: status.address, point }))
}

impl Further {
    /// What users want to know at once.
    pub(super) fn tell(&self) -> std::io::Result<()> {
        output::line(format_args!("node       running already (process {}); this is a further mount of it", self.pid))?;
        output::line(format_args!("address    {}", self.address))?;
        output::line(format_args!("mounted    {}", self.point.display()))
    }

    /// Returns when it is unmounted; a signal unmounts it.
    pub(super) fn stay(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let interrupted = runtime.block_on(async {
            let mut ending = process::Ending::new()?;
            let gone = async {
                while holder::mounts().map_or(true, |mounts| fuse::find(&mounts, &self.point).is_some()) {
                    tokio::time::sleep(LOOK).await;
                }
            };
            anyhow::Ok(tokio::select! {
                _ = ending.wait() => true,
                () = gone => false,
            })
        })?;
        if interrupted {
            fuse::unmount(&self.point)?;
        }
        Ok(())
    }
}
