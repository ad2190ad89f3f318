//! What the whole-system tests share: a temporary world of real node processes and mounts that leaves nothing behind.
//!
//! A `Lab` owns one temporary directory. Everything that a test starts lives below it and names it on its command line, so
//! that the lab finds and ends all of it, also after a panic, and can tell at the end of a good test whether anything was left.

// Each test binary uses another part of this module; and these are tests.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

pub mod asker;
pub mod bitcoin;
pub mod disk;
#[cfg(feature = "electrum")]
pub mod electrum;
#[cfg(feature = "esplora")]
pub mod esplora;
pub mod forge;
pub mod liar;
pub mod machine;
pub mod node;
pub mod program;
pub mod purse;
pub mod save;
#[cfg(any(feature = "electrum", feature = "esplora"))]
pub mod server;
pub mod tree;
pub mod wallet;
pub mod wan;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take before a test gives up. Generous: the machine may be slow and busy.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Program under test: `tornet`.
pub const TORNET: &str = env!("CARGO_BIN_EXE_tornet");
/// Program under test: `tornet-mount`.
pub const TORNET_MOUNT: &str = env!("CARGO_BIN_EXE_tornet-mount");

/// Polls until `probe` gives something; panics with `what` when that takes longer than `PATIENCE`.
#[track_caller]
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, probe)
}

/// Polls until `probe` gives something; panics with `what` when that takes longer than `bound`.
#[track_caller]
pub fn until_within<T>(bound: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < bound, "waited {:?} in vain until {what}", start.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `work` on a thread of its own; panics when it takes longer than `bound`, so that an operation that hangs fails its
/// test instead of hanging it. Gives the result and how long it took.
#[track_caller]
pub fn within<T: Send + 'static>(
    bound: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> (T, Duration) {
    let (sender, receiver) = mpsc::channel();
    let start = Instant::now();
    let worker = thread::spawn(move || sender.send(work()));
    match receiver.recv_timeout(bound) {
        Ok(value) => (value, start.elapsed()),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: still not done after {bound:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("a worker that ends well has sent"),
        },
    }
}

/// The errno of a failed operation.
#[track_caller]
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(value) => panic!("this should have failed, and gave {value:?}"),
        Err(error) => error.raw_os_error().unwrap_or_else(|| panic!("no errno in {error:?}")),
    }
}

/// Name of an errno that the tests expect.
pub fn code(errno: rustix::io::Errno) -> i32 {
    errno.raw_os_error()
}

/// What a program printed, both streams, for messages.
pub fn printed(output: &Output) -> String {
    format!(
        "{}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a shell line, which must succeed; gives its standard output.
#[track_caller]
pub fn shell(line: &str) -> String {
    let output = Command::new("sh").arg("-euc").arg(line).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "`{line}`: {}", printed(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a program is installed.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Fails with a clear message where mounts cannot be made at all.
#[track_caller]
pub fn require_fuse() {
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        panic!("these tests mount for real and need /dev/fuse, readable and writable: {error}");
    }
    assert!(
        rustix::process::geteuid().is_root() || installed("fusermount3"),
        "these tests mount for real: run them as root, or install fuse3 for fusermount3"
    );
}

/// Mount points at or below `dir`, deepest first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// Processes, other than this one, that name `dir` on their command line.
pub fn processes_naming(dir: &Path) -> Vec<(u32, String)> {
    let needle = dir.to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that is gone, or a zombie, has no command line.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid != std::process::id() && line.contains(needle) {
            found.push((pid, line));
        }
    }
    found
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn detach(point: &Path) {
    let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
    if mounts_below(point).iter().any(|left| left == point) {
        let _ = Command::new("fusermount3").args(["-u", "-z"]).arg(point).stderr(Stdio::null()).status();
    }
}

static BASE: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();

/// Where labs lie, instead of the usual place for temporary files.
pub fn set_base(dir: &Path) {
    let _ = BASE.set(dir.to_path_buf());
}

/// One temporary directory and everything that was started below it.
pub struct Lab {
    dir: PathBuf,
    strict: bool,
}

const LAB_PREFIX: &str = "tornet-lab.";

impl Lab {
    /// A new one. Its name holds our process number, so that what a killed run left is recognised and removed.
    pub fn new() -> Lab {
        let base = fs::canonicalize(BASE.get_or_init(std::env::temp_dir)).unwrap();
        sweep(&base);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{LAB_PREFIX}{}.", std::process::id()))
            .rand_bytes(4)
            .tempdir_in(base)
            .unwrap()
            .keep();
        Lab { dir, strict: true }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path below it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// A new directory below it.
    pub fn make_dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Ends and unmounts everything that is left.
    pub fn end_all(&self) {
        for round in 0..500 {
            let left = processes_naming(&self.dir);
            for (pid, _) in &left {
                signal(*pid, rustix::process::Signal::KILL);
            }
            for point in mounts_below(&self.dir) {
                detach(&point);
            }
            if left.is_empty() && mounts_below(&self.dir).is_empty() {
                return;
            }
            assert!(round < 499, "{} cannot be cleaned up: {left:?}", self.dir.display());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Removes what labs of processes that are gone have left.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) =
            name.to_str().and_then(|name| name.strip_prefix(LAB_PREFIX)).and_then(|rest| rest.split('.').next())
        else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            let lab = Lab { dir: entry.path(), strict: false };
            drop(lab);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut left = Vec::new();
        if self.strict && !thread::panicking() {
            // Nodes were dropped before: nothing may be left. A process that was killed may need a moment to be gone.
            let start = Instant::now();
            loop {
                left = processes_naming(&self.dir)
                    .into_iter()
                    .map(|(pid, line)| format!("process {pid}: {line}"))
                    .collect();
                left.extend(mounts_below(&self.dir).iter().map(|point| format!("mount {}", point.display())));
                if left.is_empty() || start.elapsed() > Duration::from_secs(10) {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        self.end_all();
        if std::env::var_os("TORNET_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.dir.display());
        } else if let Err(error) = remove_tree(&self.dir) {
            eprintln!("{} cannot be removed: {error}", self.dir.display());
        }
        assert!(left.is_empty() || thread::panicking(), "left behind: {left:?}");
    }
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
