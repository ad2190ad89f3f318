//! The peers that are measured beside tornet, each only where it is installed.

use crate::harness::{installed, signal, until};
use crate::measure::{cpu_of, memory_of, run};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What a fetch of a peer cost.
pub struct Fetched {
    /// Seconds.
    pub seconds: f64,
    /// CPU seconds of both ends.
    pub cpu: f64,
    /// MiB of the fetching end; not a number when it was not seen.
    pub memory: f64,
    /// MiB of the serving end.
    pub memory_server: f64,
}

/// A helper that runs until it is dropped.
pub struct Helper(Child);

impl Helper {
    /// Starts it and waits for a line that contains `word` on one of its outputs.
    pub fn start(command: &mut Command, word: &str) -> Helper {
        Helper::start_saying(command, word).0
    }

    /// The same, with that line.
    pub fn start_saying(command: &mut Command, word: &str) -> (Helper, String) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let from = |stream: Box<dyn std::io::Read + Send>, sender: std::sync::mpsc::Sender<String>| {
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        };
        from(Box::new(out), sender.clone());
        from(Box::new(err), sender);
        let helper = Helper(child);
        let mut said = String::new();
        loop {
            match receiver.recv_timeout(std::time::Duration::from_secs(180)) {
                Ok(line) if line.contains(word) => return (helper, line),
                Ok(line) => said = said + &line + "\n",
                Err(_) => panic!("{command:?} did not say `{word}`: {said}"),
            }
        }
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        signal(self.0.id(), Signal::TERM);
        // Time to end helpers of its own.
        for _ in 0..50 {
            if self.0.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a program runs: on this machine, or on one at the end of a long way.
#[derive(Clone)]
pub struct Place {
    network: Option<PathBuf>,
    /// Its address.
    pub ip: String,
}

impl Place {
    /// On this machine, at one of its own addresses.
    pub fn here(last: u8) -> Place {
        Place { network: None, ip: format!("127.0.0.{last}") }
    }

    /// On a machine with this network and address.
    pub fn there((network, ip): (PathBuf, String)) -> Place {
        Place { network: Some(network), ip }
    }

    fn command(&self, program: &str) -> Command {
        let Some(network) = &self.network else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", network.display())).arg("--").arg(program);
        command
    }
}

/// Free port, for now.
pub fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn script() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/benches/system/torrent.py").into()
}

/// Whether tornet is to be measured alone, without any of its peers.
pub fn alone() -> bool {
    std::env::var_os("TORNET_BENCH_ALONE").is_some()
}

/// The Python that has libtorrent.
fn python() -> Option<&'static str> {
    if alone() {
        return None;
    }
    ["/usr/bin/python3", "python3"].into_iter().find(|python| {
        let probe = Command::new(python).args(["-c", "import libtorrent"]).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    })
}

/// Makes a torrent of a path with libtorrent: seconds.
pub fn torrent_make(path: &Path, out: &Path, tracker: &str) -> Option<f64> {
    let python = python()?;
    let mut command = Command::new(python);
    command.arg(script()).arg("make").arg(path).arg(out);
    if !tracker.is_empty() {
        command.arg(tracker);
    }
    Some(run(&mut command).0)
}

/// Runs a client while watching its memory.
pub fn watched(command: &mut Command, servers: &[&Helper]) -> Fetched {
    let before: f64 = servers.iter().map(|server| cpu_of(server.pid())).sum();
    let ended = crate::measure::cpu_of_ended();
    let start = std::time::Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut memory = f64::NAN;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let now = memory_of(child.id());
        memory = if now.is_finite() { now.max(memory) } else { memory };
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let seconds = start.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?}: {status}");
    let after: f64 = servers.iter().map(|server| cpu_of(server.pid())).sum();
    Fetched {
        seconds,
        cpu: after - before + crate::measure::cpu_of_ended() - ended,
        memory,
        memory_server: servers.iter().map(|server| memory_of(server.pid())).fold(f64::NAN, f64::max),
    }
}

/// A swarm of libtorrent seeds, which libtorrent or aria2 fetches from.
pub struct Torrent {
    torrent: PathBuf,
    seeds: Vec<Helper>,
    peers: Vec<String>,
    reader: Place,
    _tracker: Helper,
    python: &'static str,
}

impl Torrent {
    /// Seeds `file` at each of these places for a reader; `None` without libtorrent.
    pub fn new(file: &Path, dir: &Path, places: &[Place], reader: Place) -> Option<Torrent> {
        let python = python()?;
        let peers: Vec<String> = places.iter().map(|place| format!("{}:{}", place.ip, port())).collect();
        let tracker = port();
        let torrent = dir.join(format!("seeds{}.torrent", places.len()));
        torrent_make(file, &torrent, &format!("http://127.0.0.1:{tracker}/announce"))?;
        let seeds = places
            .iter()
            .zip(&peers)
            .map(|(place, peer)| {
                let (ip, port) = peer.split_once(':').unwrap();
                let mut command = place.command(python);
                command.arg(script()).arg("seed").arg(&torrent).arg(file.parent().unwrap()).args([ip, port]);
                Helper::start(&mut command, "ready")
            })
            .collect();
        let mut track = reader.command(python);
        track.arg(script()).args(["track", &tracker.to_string()]).args(&peers);
        let tracker = Helper::start(&mut track, "ready");
        Some(Torrent { torrent, seeds, peers, reader, _tracker: tracker, python })
    }

    /// Fetches with libtorrent into `dest`.
    pub fn fetch(&self, dest: &Path) -> Fetched {
        let mut command = self.reader.command(self.python);
        command.arg(script()).arg("get").arg(&self.torrent).arg(dest).args([&self.reader.ip, &port().to_string()]);
        command.args(&self.peers);
        watched(&mut command, &self.seeds.iter().collect::<Vec<_>>())
    }

    /// Fetches with aria2 into `dest`; `None` when it is not installed.
    pub fn fetch_aria2(&self, dest: &Path) -> Option<Fetched> {
        installed("aria2c").then(|| {
            let mut command = self.reader.command("aria2c");
            command.args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
            command.args(["--seed-time=0", "--file-allocation=none", "--quiet=true"]);
            command.arg(format!("--listen-port={}", port())).arg("-d").arg(dest).arg(&self.torrent);
            watched(&mut command, &self.seeds.iter().collect::<Vec<_>>())
        })
    }
}

/// A private SSH server, for sshfs and rclone.
pub struct Ssh {
    dir: PathBuf,
    port: u16,
    server: Helper,
    at: Place,
    client: Place,
    sshfs: bool,
    rclone: bool,
}

/// What serves a directory over SSH.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// sshfs.
    Sshfs,
    /// rclone with its full cache.
    Rclone,
}

impl Over {
    /// Both.
    pub const ALL: [Over; 2] = [Over::Sshfs, Over::Rclone];

    /// Its column.
    pub fn name(self) -> &'static str {
        match self {
            Over::Sshfs => "sshfs",
            Over::Rclone => "rclone",
        }
    }
}

/// A mount of a peer, unmounted when dropped.
pub struct PeerMount {
    /// Where.
    pub point: PathBuf,
    /// Seconds from start to served.
    pub seconds: f64,
    child: Child,
}

impl Drop for PeerMount {
    fn drop(&mut self) {
        for _ in 0..50 {
            if rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::empty()).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::DETACH);
        std::thread::sleep(std::time::Duration::from_millis(100));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ssh {
    /// Starts the server in one place for clients in another; `None` where there is none, or neither client.
    pub fn new(dir: &Path, at: Place, client: Place) -> Option<Ssh> {
        let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Path::new(path).exists())?;
        let (sshfs, rclone) = (installed("sshfs"), installed("rclone"));
        if alone() || !(sshfs || rclone) || !installed("ssh-keygen") || !rustix::process::geteuid().is_root() {
            return None;
        }
        let dir = dir.join("ssh");
        fs::create_dir_all(&dir).unwrap();
        let _ = fs::create_dir_all("/run/sshd");
        for key in ["host", "user"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key)));
        }
        fs::copy(dir.join("user.pub"), dir.join("allowed")).unwrap();
        let port = port();
        let config = format!(
            "HostKey {0}/host\nAuthorizedKeysFile {0}/allowed\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n\
             PasswordAuthentication no\nSubsystem sftp internal-sftp\nPidFile none\nListenAddress {1}:{port}\n",
            dir.display(),
            at.ip
        );
        fs::write(dir.join("config"), config).unwrap();
        let server = Helper::start(at.command(sshd).args(["-D", "-e", "-f"]).arg(dir.join("config")), "listening");
        Some(Ssh { dir, port, server, at, client, sshfs, rclone })
    }

    /// Whether a client is installed.
    pub fn has(&self, over: Over) -> bool {
        match over {
            Over::Sshfs => self.sshfs,
            Over::Rclone => self.rclone,
        }
    }

    fn remote(&self) -> String {
        format!(
            ":sftp,host={},port={},user=root,key_file={}/user,shell_type=unix,md5sum_command=none,sha1sum_command=none:",
            self.at.ip,
            self.port,
            self.dir.display()
        )
    }

    /// CPU seconds of the server: its sessions are its children.
    fn server_cpu(&self) -> f64 {
        let mut total = cpu_of(self.server.pid());
        for (pid, line) in crate::harness::processes_naming(Path::new("sshd")) {
            if line.starts_with("sshd: ") {
                total += cpu_of(pid);
            }
        }
        total
    }

    /// Mounts `source` with an empty cache.
    pub fn mount(&self, over: Over, source: &Path) -> PeerMount {
        let point = self.dir.join("mnt");
        fs::create_dir_all(&point).unwrap();
        let cache = self.dir.join("cache");
        let _ = fs::remove_dir_all(&cache);
        let start = std::time::Instant::now();
        let mut command = match over {
            Over::Sshfs => {
                let mut command = self.client.command("sshfs");
                command.args(["-f", "-p", &self.port.to_string(), "-o"]);
                command.arg(format!(
                    "IdentityFile={}/user,StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null",
                    self.dir.display()
                ));
                command.arg(format!("root@{}:{}", self.at.ip, source.display()));
                command
            }
            Over::Rclone => {
                let mut command = self.client.command("rclone");
                command.args(["--config", "/dev/null", "mount", "--vfs-cache-mode", "full", "--cache-dir"]);
                command.arg(&cache).arg(format!("{}{}", self.remote(), source.display()));
                command
            }
        };
        let child =
            command.arg(&point).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // While it is being made it may answer with an error.
        let device =
            |path: &Path| fs::metadata(path).ok().map(|metadata| std::os::unix::fs::MetadataExt::dev(&metadata));
        let above = device(&self.dir);
        let serves = || device(&point).is_some_and(|device| Some(device) != above) && fs::read_dir(&point).is_ok();
        until("the peer's mount serves", || serves().then_some(()));
        PeerMount { point, seconds: start.elapsed().as_secs_f64(), child }
    }

    /// Copies one file from the server.
    pub fn fetch(&self, over: Over, file: &Path, dest: &Path) -> Fetched {
        let name = file.file_name().unwrap();
        let server = self.server_cpu();
        let mut fetched = match over {
            Over::Sshfs => {
                let mount = self.mount(over, file.parent().unwrap());
                let start = std::time::Instant::now();
                let (copy, cpu) = run(Command::new("cp").arg(mount.point.join(name)).arg(dest));
                let mut cpu = cpu + cpu_of(mount.child.id());
                // The ssh below it carries the bytes.
                for (pid, line) in crate::harness::processes_naming(&self.dir) {
                    if line.starts_with("ssh ") {
                        cpu += cpu_of(pid);
                    }
                }
                let _ = (start, copy);
                Fetched { seconds: copy, cpu, memory: memory_of(mount.child.id()), memory_server: f64::NAN }
            }
            Over::Rclone => {
                let mut command = self.client.command("rclone");
                command.args(["--config", "/dev/null", "copyto"]).arg(format!("{}{}", self.remote(), file.display()));
                watched(command.arg(dest.join(name)), &[])
            }
        };
        fetched.cpu += (self.server_cpu() - server).max(0.0);
        fetched
    }

    /// Copies a file or tree to the server: seconds.
    pub fn publish(&self, over: Over, source: &Path) -> f64 {
        let inbox = self.dir.join("inbox");
        let _ = fs::remove_dir_all(&inbox);
        fs::create_dir_all(&inbox).unwrap();
        let seconds = match over {
            Over::Sshfs => {
                let mount = self.mount(over, &inbox);
                run(Command::new("cp").arg("-r").arg(source).arg(&mount.point)).0
            }
            Over::Rclone => {
                let mut command = self.client.command("rclone");
                command.args(["--config", "/dev/null", "copy"]).arg(source);
                run(command.arg(format!("{}{}", self.remote(), inbox.display()))).0
            }
        };
        let _ = fs::remove_dir_all(&inbox);
        seconds
    }
}
