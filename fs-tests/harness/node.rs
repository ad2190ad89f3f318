//! Real processes: a node with or without a mount, and commands that talk to it.

use super::{Lab, PATIENCE, TORNET, TORNET_MOUNT, code, mounts_below, printed, processes_naming, signal, until};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Settings of every node in tests: nothing found by chance on the local network.
pub const CONFIG: &str = "[network]\nmdns = false\n\n[storage]\nredundancy = \"8+4\"\n";

/// Settings of a node that only reads: what it receives is what its readers asked for.
pub const READER: &str = "[network]\nmdns = false\n\n[storage]\nredundancy = \"8+4\"\nhosting = \"0 B\"\n";

/// How to start a node.
pub struct Plan {
    name: String,
    config: String,
    bootstrap: Vec<String>,
    listen: String,
    mount: bool,
    options: Vec<String>,
    network: Option<PathBuf>,
    data: Option<PathBuf>,
    zone: Option<String>,
}

impl Plan {
    /// A node without a mount, called `name` (its directories below the lab).
    pub fn new(name: &str) -> Plan {
        Plan {
            name: name.into(),
            config: CONFIG.into(),
            bootstrap: Vec::new(),
            listen: "127.0.0.1:0".into(),
            mount: false,
            options: Vec::new(),
            network: None,
            data: None,
            zone: None,
        }
    }

    /// With a mount.
    pub fn mounted(mut self) -> Plan {
        self.mount = true;
        self
    }

    /// Knows another node at first.
    pub fn knows(mut self, other: &Node) -> Plan {
        self.bootstrap.push(other.address.clone());
        self
    }

    /// Knows an address at first.
    pub fn knows_address(mut self, address: &str) -> Plan {
        self.bootstrap.push(address.into());
        self
    }

    /// With these settings instead of the usual ones.
    pub fn config(mut self, text: &str) -> Plan {
        self.config = text.into();
        self
    }

    /// Listens at a fixed address.
    pub fn listen(mut self, address: &str) -> Plan {
        self.listen = address.into();
        self
    }

    /// Listens where nobody told it to, as most users start it.
    pub fn listen_anywhere(self) -> Plan {
        self.listen("")
    }

    /// In this network namespace (a file, as in `/proc/PID/ns/net`), which takes root and nsenter.
    pub fn network(mut self, namespace: PathBuf) -> Plan {
        self.network = Some(namespace);
        self
    }

    /// With its data directory here, and not in its home.
    pub fn data(mut self, dir: PathBuf) -> Plan {
        self.data = Some(dir);
        self
    }

    /// Where the clock on the wall shows something else than UTC (`TZ`).
    pub fn zone(mut self, zone: &str) -> Plan {
        self.zone = Some(zone.into());
        self
    }

    fn data_dir(&self, home: &Path) -> PathBuf {
        self.data.clone().unwrap_or_else(|| home.join("data"))
    }

    /// `-o` for `tornet-mount`.
    pub fn option(mut self, option: &str) -> Plan {
        self.options.push(option.into());
        self
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(self, lab: &Lab) -> Node {
        let name = self.name.clone();
        self.try_start(lab).unwrap_or_else(|(status, log)| panic!("node {name} ended with {status}: {log}"))
    }

    /// The command that would start it; directories and settings are made.
    pub fn command(&self, lab: &Lab) -> Command {
        let home = lab.make_dir(&self.name);
        let config = home.join("config.toml");
        fs::write(&config, &self.config).unwrap();
        let program = if self.mount { TORNET_MOUNT } else { TORNET };
        let mut command = match &self.network {
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg("--").arg(program);
                command
            }
            None => Command::new(program),
        };
        clean(&mut command, &home);
        if let Some(zone) = &self.zone {
            command.env("TZ", zone);
        }
        if !self.config.contains("rank_cpu") {
            // Refusals are the same however fast the machine finds a rank.
            command.env("TORNET_CREDIT_RANK_CPU", "0 %");
        }
        if !self.mount {
            command.arg("node");
        }
        command.arg("--data-dir").arg(self.data_dir(&home));
        command.arg("--config").arg(&config);
        if !self.listen.is_empty() {
            command.arg("--listen").arg(&self.listen);
        }
        for address in &self.bootstrap {
            command.arg("--bootstrap").arg(address);
        }
        // Also when the tests themselves are killed.
        command.arg("--die-with-parent").arg(std::process::id().to_string());
        if self.mount {
            for option in &self.options {
                command.arg("-o").arg(option);
            }
            let point = home.join("net");
            // A dead mount there is neither made anew nor looked at.
            let _ = fs::create_dir(&point);
            command.arg("-f").arg(point);
        }
        command.current_dir(home);
        command
    }

    /// The command that mounts and returns, leaving the node in the background.
    pub fn background(&self, lab: &Lab) -> Command {
        let home = lab.path(&self.name);
        let mut command = Command::new(TORNET_MOUNT);
        clean(&mut command, &home);
        let foreground = self.command(lab);
        // The one that returns is the parent, so nothing may end with it.
        let mut args = foreground.get_args();
        while let Some(arg) = args.next() {
            if arg == "--die-with-parent" {
                args.next();
            } else if arg != "-f" {
                command.arg(arg);
            }
        }
        command.stdin(Stdio::null()).current_dir(home);
        command
    }

    /// Starts it and waits until it is ready, or has ended: then its status and what it printed.
    #[track_caller]
    pub fn try_start(self, lab: &Lab) -> Result<Node, (ExitStatus, String)> {
        let home = lab.path(&self.name);
        let mut command = self.command(lab);
        let log = home.join("log");
        let log_file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file).spawn().unwrap();
        let (sender, receiver) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut node = Node {
            data: self.data_dir(&home),
            mount: self.mount.then(|| home.join("net")),
            home,
            address: String::new(),
            left: false,
            child: Some(child),
            name: self.name,
        };
        loop {
            match receiver.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(address) = line.strip_prefix("ready ") {
                        node.address = address.trim().into();
                        return Ok(node);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!("node {} did not become ready: {}", node.name, node.log());
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = node.child.as_mut().unwrap().wait().unwrap();
                    node.child = None;
                    return Err((status, node.log()));
                }
            }
        }
    }
}

/// A command sees nothing of the user who runs the tests.
fn clean(command: &mut Command, home: &Path) {
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    for kept in ["TORNET_LOG", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
}

/// A running node. Killed and unmounted when dropped.
pub struct Node {
    /// Its name in the lab.
    pub name: String,
    /// Its home, below the lab.
    pub home: PathBuf,
    /// Its data directory.
    pub data: PathBuf,
    /// What others bootstrap from.
    pub address: String,
    mount: Option<PathBuf>,
    /// Its dead mount is left for the next start to find.
    left: bool,
    child: Option<Child>,
}

impl Node {
    /// Its mount point.
    #[track_caller]
    pub fn mount(&self) -> &Path {
        self.mount.as_deref().expect("this node was started without a mount")
    }

    /// A path below its mount.
    #[track_caller]
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.mount().join(below)
    }

    /// The path under which it shows a reference.
    #[track_caller]
    pub fn reference(&self, reference: &str) -> PathBuf {
        self.mount().join("ref").join(reference)
    }

    /// Its process.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("this node was ended").id()
    }

    /// What it wrote to its standard error.
    pub fn log(&self) -> String {
        fs::read(self.home.join("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// A `tornet` command for this node, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(TORNET);
        clean(&mut command, &self.home);
        command.arg("--data-dir").arg(&self.data).args(args).stdin(Stdio::null()).current_dir(&self.home);
        command
    }

    /// Runs `tornet` with these arguments for this node.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs `tornet` with these arguments, which must succeed; gives its standard output without the last newline.
    #[track_caller]
    pub fn tornet(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "tornet {args:?}: {}\nlog of {}: {}", printed(&output), self.name, self.log());
        String::from_utf8(output.stdout).unwrap().trim_end().to_string()
    }

    /// Runs `tornet` with these arguments, which must fail with exit code 1; gives its standard error.
    #[track_caller]
    pub fn tornet_fails(&self, args: &[&str]) -> String {
        self.tornet_ends(args, 1)
    }

    /// Runs `tornet` with these arguments, which must be refused as wrong usage; gives its standard error.
    #[track_caller]
    pub fn tornet_refuses(&self, args: &[&str]) -> String {
        self.tornet_ends(args, 2)
    }

    #[track_caller]
    fn tornet_ends(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(code), "tornet {args:?}: {}", printed(&output));
        assert!(output.stdout.is_empty(), "a failure prints nothing on stdout: {}", printed(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs `tornet` with these arguments, which must succeed and print one JSON value.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let text = self.tornet(args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("tornet {args:?} printed {text:?}: {error}"))
    }

    /// Publishes a path that is not in the mount; gives the reference.
    #[track_caller]
    pub fn publish(&self, path: &Path) -> String {
        let reference = self.tornet(&["publish", path.to_str().unwrap()]);
        assert!(reference.starts_with("tornet1") && !reference.contains(char::is_whitespace), "{reference:?}");
        reference
    }

    /// `user.tornet.state` of a path.
    #[track_caller]
    pub fn state(&self, path: &Path) -> String {
        attribute(path, "user.tornet.state").unwrap_or_else(|error| panic!("state of {}: {error}", path.display()))
    }

    /// Waits until a path of the own tree is published at least on this node; gives its reference.
    #[track_caller]
    pub fn stored(&self, path: &Path) -> String {
        until(&format!("{} is stored\n{}", path.display(), self.name), || {
            let state = self.state(path);
            (state.starts_with("stored") || state.starts_with("hosted") || state.starts_with("pinned")).then_some(())
        });
        attribute(path, "user.tornet.ref").unwrap_or_else(|error| panic!("reference of {}: {error}", path.display()))
    }

    /// Waits until a path of the own tree is hosted as wanted; gives its reference.
    #[track_caller]
    pub fn hosted(&self, path: &Path) -> String {
        let mut last = String::new();
        let start = std::time::Instant::now();
        loop {
            let state = self.state(path);
            if is_hosted(&state) {
                return attribute(path, "user.tornet.ref").unwrap();
            }
            last.clone_from(&state);
            assert!(start.elapsed() < PATIENCE, "{} is only {last:?}; log: {}", path.display(), self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends its process a signal.
    #[track_caller]
    pub fn signal(&self, which: Signal) {
        signal(self.pid(), which);
    }

    /// Kills it, as a power cut would; its mount point is detached, its data stay.
    pub fn kill(&mut self) {
        self.end();
        self.detach();
    }

    /// Kills it and leaves its dead mount where it is.
    pub fn kill_leaving_mount(&mut self) {
        self.left = true;
        self.end();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until its process ends; gives its status.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("this node was ended");
        let pid = child.id();
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > PATIENCE {
                self.child = Some(child);
                panic!("node {} (process {pid}) does not end: {}", self.name, self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end by a signal and waits; it must end well and leave neither process nor mount.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_end();
        assert!(
            status.success() || status.signal() == Some(15),
            "node {} ended with {status}: {}",
            self.name,
            self.log()
        );
        self.assert_gone();
    }

    /// Neither process nor mount of this node is left.
    #[track_caller]
    pub fn assert_gone(&self) {
        until(&format!("every process of {} is gone", self.name), || {
            processes_naming(&self.data).is_empty().then_some(())
        });
        if let Some(mount) = &self.mount {
            assert_eq!(mounts_below(mount), Vec::<PathBuf>::new(), "the mount is left");
        }
    }

    fn detach(&self) {
        if let Some(mount) = self.mount.as_ref().filter(|_| !self.left) {
            for point in mounts_below(mount) {
                super::detach(&point);
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() && self.child.is_some() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- last lines of the log of {}:", self.name);
            for line in tail.iter().rev() {
                eprintln!("    {line}");
            }
        }
        self.kill();
    }
}

/// Whether a state says that all hosts that are wanted are found.
pub fn is_hosted(state: &str) -> bool {
    let Some((have, want)) = state.strip_prefix("hosted ").and_then(|rest| rest.split_once('/')) else { return false };
    matches!((have.trim().parse::<u32>(), want.trim().parse::<u32>()), (Ok(have), Ok(want)) if have >= want)
}

/// An extended attribute as text.
pub fn attribute(path: &Path, name: &str) -> std::io::Result<String> {
    let mut value = vec![0; 65536];
    let length = rustix::fs::lgetxattr(path, name, &mut value)?;
    value.truncate(length);
    Ok(String::from_utf8_lossy(&value).trim_end_matches(['\0', '\n']).to_string())
}

/// The one errno that says that nobody answered in time.
pub fn timed_out() -> i32 {
    code(rustix::io::Errno::TIMEDOUT)
}
