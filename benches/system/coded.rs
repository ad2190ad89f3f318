//! The peers nearest in kind: sendme (encrypted, verified) and Tahoe-LAFS (encrypted, erasure coded).

use crate::harness::installed;
use crate::measure::{cpu_of, memory_of, run};
use crate::peers::{Fetched, Helper, alone, port, watched};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A node of sendme that offers one path.
pub struct Sendme {
    node: Helper,
    ticket: String,
    /// Seconds from its start to the ticket: it hashes, and copies into its store.
    pub seconds: f64,
}

impl Sendme {
    /// Offers `path`, keeping its store in `dir`; `None` when it is not installed.
    pub fn new(path: &Path, dir: &Path) -> Option<Sendme> {
        if alone() || !installed("sendme") {
            return None;
        }
        fs::create_dir_all(dir).unwrap();
        let mut command = Command::new("sendme");
        command.args(["send", "--no-progress", "--relay", "disabled", "--ticket-type", "addresses"]);
        command.arg("--magic-ipv4-addr").arg(format!("127.0.0.1:{}", port())).arg(path).current_dir(dir);
        let start = std::time::Instant::now();
        let (node, line) = Helper::start_saying(&mut command, "sendme receive");
        let seconds = start.elapsed().as_secs_f64();
        let ticket = line.split("sendme receive").nth(1).unwrap().split_whitespace().next().unwrap().to_string();
        Some(Sendme { node, ticket, seconds })
    }

    /// Fetches into `dest`.
    pub fn fetch(&self, dest: &Path) -> Fetched {
        let mut command = Command::new("sendme");
        command.args(["receive", "--no-progress", "--relay", "disabled"]);
        command.arg("--magic-ipv4-addr").arg(format!("127.0.0.1:{}", port())).arg(&self.ticket).current_dir(dest);
        watched(&mut command, &[&self.node])
    }
}

/// A grid of Tahoe-LAFS: ten servers, three of ten.
pub struct Tahoe {
    _grid: Helper,
    dir: PathBuf,
    url: String,
}

impl Tahoe {
    /// Starts one in `dir`; `None` when it is not installed.
    pub fn new(dir: &Path) -> Option<Tahoe> {
        if alone() || !installed("tahoe") || !installed("python3") {
            return None;
        }
        let (grid, line) = Helper::start_saying(script().arg("grid").arg(dir), "ready");
        let url = line.split_whitespace().nth(1).unwrap().to_string();
        Some(Tahoe { _grid: grid, dir: dir.to_path_buf(), url })
    }

    fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.dir.join("pids")).unwrap();
        text.split(' ').map(|pid| pid.parse().unwrap()).collect()
    }

    fn cpu(&self) -> f64 {
        self.pids().into_iter().map(cpu_of).sum()
    }

    /// Publishes a file: seconds, CPU seconds, and what to fetch it by.
    pub fn publish(&self, file: &Path) -> (f64, f64, String) {
        let before = self.cpu();
        let mut command = script();
        let start = std::time::Instant::now();
        let output = command.arg("put").arg(&self.url).arg(file).output().unwrap();
        let seconds = start.elapsed().as_secs_f64();
        assert!(output.status.success(), "{}", crate::harness::printed(&output));
        (seconds, self.cpu() - before, String::from_utf8_lossy(&output.stdout).trim().to_string())
    }

    /// Publishes `count` of the files below `dir`, eight at a time: seconds.
    pub fn publish_many(&self, dir: &Path, count: usize) -> f64 {
        run(script().arg("puts").arg(&self.url).arg(dir).arg(count.to_string())).0
    }

    /// Fetches to a file. Memory is that of the gateway, which decodes, and of the largest server.
    pub fn fetch(&self, cap: &str, dest: &Path) -> Fetched {
        let before = self.cpu();
        let (seconds, own) = run(script().arg("get").arg(&self.url).arg(cap).arg(dest));
        let mut pids = self.pids();
        let gateway = pids.pop().unwrap();
        Fetched {
            seconds,
            cpu: self.cpu() - before + own,
            memory: memory_of(gateway),
            memory_server: pids.into_iter().map(memory_of).fold(f64::NAN, f64::max),
        }
    }
}

fn script() -> Command {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/system/tahoe.py"));
    command
}
