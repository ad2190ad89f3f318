//! `tornet umount`: waits for writers, names who holds the mount, and returns when the node has ended, if it ends with it.

use super::holder;
use super::output::{self, Remedied};
use super::waiting::Waiting;
use crate::control::client::{Client, ClientError};
use crate::control::message::{Answer, Request};
use crate::engine::Status;
use crate::fuse::{self, MountError, Mounted};
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

/// Unmounts `point`, or everything that the node of `data_dir` has mounted.
pub(super) fn umount(data_dir: &Path, point: Option<PathBuf>, wait: Duration) -> anyhow::Result<()> {
    let mut node = Node::find(data_dir)?;
    // It is in use by whoever called this from inside, who is named, but not by this process.
    let point = point.map(|point| absolute(&point)).transpose()?;
    std::env::set_current_dir("/")?;
    let points = match (point, &node) {
        // Without a look at the path itself: a mount that does not answer must not hold this command.
        (Some(point), _) => {
            if !node.as_ref().is_some_and(|node| node.mountpoints.contains(&point)) {
                // With another data directory.
                node = Node::serving(&point);
            }
            vec![point]
        }
        (None, Some(node)) if !node.mountpoints.is_empty() => node.mountpoints.clone(),
        // Never a guess: another mount on this machine may be another node's.
        (None, Some(_)) => {
            let error = format!("the node of {} has no mount", data_dir.display());
            return Err(Remedied { error, remedy: "`tornet stop` ends it".into() }.into());
        }
        (None, None) => {
            let error = format!("no node is running with the data directory {}", data_dir.display());
            return Err(Remedied { error, remedy: "name the mount point".into() }.into());
        }
    };
    for point in points.iter().rev() {
        let mounts = holder::mounts()?;
        let Some(mount) = fuse::find(&mounts, point) else {
            bail!("{} is not a tornet mount", point.display());
        };
        unmount(mount, wait)?;
    }
    // Another place where it is mounted keeps it.
    let ends = |node: &Node| node.ends_with_mount && node.mountpoints.iter().all(|point| points.contains(point));
    node.filter(ends).map_or(Ok(()), |node| node.await_end())
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
    mountpoints: Vec<PathBuf>,
    ends_with_mount: bool,
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
        node.mountpoints.iter().any(|known| known == point).then_some(node)
    }

    fn of(status: Status) -> anyhow::Result<Option<Node>> {
        let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("no such process"))?;
        let mountpoints = status.mountpoints.into_iter().map(|point| point.0).collect();
        let (ends_with_mount, data_dir) = (status.ends_with_mount, status.data_dir.0);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => Ok(Some(Node { pid: status.pid, process, mountpoints, ends_with_mount, data_dir })),
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

fn unmount(mount: &Mounted, wait: Duration) -> anyhow::Result<()> {
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
