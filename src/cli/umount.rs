//! `tornet umount`: waits for writers, names who holds the mount, and returns when the node has ended.

use super::holder::{self, Mount};
use super::output::{self, Remedied};
use super::waiting::Waiting;
use crate::control::client::{Client, ClientError};
use crate::control::message::{Answer, Request};
use crate::engine::Status;
use crate::fuse::{self, MountError};
use anyhow::{anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a node may take to write everything down.
const END_MAX: Duration = Duration::from_secs(60);
/// How long a node may take to say who it is.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Between two attempts: looking for holders reads all of /proc.
const PAUSE: Duration = Duration::from_millis(100);

/// Unmounts `point`, or what the node of `data_dir` has mounted.
pub(super) fn umount(data_dir: &Path, point: Option<PathBuf>, wait: Duration) -> anyhow::Result<()> {
    let node = Node::find(data_dir)?;
    let served = node.as_ref().and_then(|node| node.mountpoint.clone());
    let point = match (point, &served) {
        // Without a look at the path itself: a mount that does not answer must not hold this command.
        (Some(point), _) => absolute(&point)?,
        (None, Some(point)) => point.clone(),
        // Never a guess: another mount on this machine may be another node's.
        (None, None) if node.is_some() => {
            let error = format!("the node of {} has no mount", data_dir.display());
            return Err(Remedied { error, remedy: "`tornet stop` ends it".into() }.into());
        }
        (None, None) => {
            let error = format!("no node is running with the data directory {}", data_dir.display());
            return Err(Remedied { error, remedy: "name the mount point".into() }.into());
        }
    };
    let mounts = holder::mounts()?;
    let Some(mount) = holder::find(&mounts, &point) else {
        bail!("{} is not a tornet mount", point.display());
    };
    // It is in use by whoever called this from inside, who is named, but not by this process.
    std::env::set_current_dir("/")?;
    let node = match node {
        Some(node) if served.as_deref() == Some(point.as_path()) => Some(node),
        // With another data directory.
        _ => Node::serving(&point),
    };
    unmount(mount, wait)?;
    node.map_or(Ok(()), |node| node.await_end())
}

/// `tornet stop`.
pub(super) fn stop(data_dir: &Path) -> anyhow::Result<()> {
    let node = Node::find(data_dir)?;
    let asked = Client::connect(data_dir)?.ask(&Request::Stop);
    match (asked, node) {
        (Ok(_) | Err(ClientError::Ended), Some(node)) => node.await_end(),
        (Ok(_), None) => Ok(()),
        (Err(error), _) => Err(error.into()),
    }
}

/// A running node, held by a descriptor so that its end can be waited for.
struct Node {
    pid: u32,
    process: OwnedFd,
    mountpoint: Option<PathBuf>,
    data_dir: PathBuf,
}

impl Node {
    /// The node that runs with this data directory, if one does.
    fn find(data_dir: &Path) -> anyhow::Result<Option<Node>> {
        let mut client = match Client::connect(data_dir) {
            Ok(client) => client,
            Err(ClientError::NotRunning { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let _waiting = Waiting::begin(format!(
            "the node of {} does not answer yet; Ctrl-C gives up, its log is {}",
            data_dir.display(),
            data_dir.join("log").display()
        ));
        let status = match client.ask(&Request::Status) {
            Ok(Answer::Status(status)) => status,
            Ok(other) => return Err(output::strange(&other)),
            // It was ending just then.
            Err(ClientError::Ended) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Node::of(*status)
    }

    /// The node behind a mount, if it says so in time.
    fn serving(point: &Path) -> Option<Node> {
        let (path, (sender, answer)) = (point.join(".tornet/status"), mpsc::channel());
        // A mount that does not answer holds the thread, and not this command.
        std::thread::spawn(move || sender.send(std::fs::read(path)));
        let status: Status = serde_json::from_slice(&answer.recv_timeout(ANSWER_MAX).ok()?.ok()?).ok()?;
        let node = Node::of(status).ok()??;
        (node.mountpoint.as_deref() == Some(point)).then_some(node)
    }

    fn of(status: Status) -> anyhow::Result<Option<Node>> {
        let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("no such process"))?;
        let (mountpoint, data_dir) = (status.mountpoint.map(|point| point.0), status.data_dir.0);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Ok(Some(Node { pid: status.pid, process, mountpoint, data_dir })),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when the process has ended: everything is written down by then.
    fn await_end(&self) -> anyhow::Result<()> {
        let _waiting = Waiting::begin(format!(
            "the node (process {}) writes everything down; Ctrl-C leaves it to that, its log is {}",
            self.pid,
            self.data_dir.join("log").display()
        ));
        let timeout = Timespec { tv_sec: END_MAX.as_secs() as i64, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                let log = self.data_dir.join("log");
                bail!("the node has not ended after {} s; its log is {}", END_MAX.as_secs(), log.display())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn absolute(point: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(point)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
    Ok(parent.canonicalize().map_or_else(|_| path.clone(), |parent| parent.join(name)))
}

fn unmount(mount: &Mount, wait: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + wait;
    let waiting = Waiting::begin(format!(
        "the kernel says that {} is in use, and nobody is seen to use it; Ctrl-C gives up, `fuser -vm {0}` as root may tell more",
        mount.point.display()
    ));
    loop {
        match fuse::unmount(&mount.point) {
            Err(MountError::Busy(_)) => {}
            done => return Ok(done?),
        }
        let holders = holder::holders(mount);
        let list = || holders.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let writers = holders.iter().any(|holder| holder.writes);
        let waited = Instant::now() >= deadline;
        // Between the attempt and the look the last one may have let go, so nobody seen is worth another attempt.
        if holders.is_empty() && waited {
            bail!("{} is in use by a process of another user, or by a mount inside it", mount.point.display());
        }
        if !holders.is_empty() && (!writers || waited) {
            bail!("{} is in use: {}", mount.point.display(), list());
        }
        if writers {
            waiting.change(format!("{}; Ctrl-C gives up", list()));
        }
        std::thread::sleep(PAUSE);
    }
}
