//! A real bitcoin full node on regtest, bound to loopback.
//!
//! It is the one that the system has, where it has one; else the package of the distribution's development release, fetched from the
//! machine's own package sources with the release name replaced, unpacked below the target directory and started by the loader and the
//! libraries that came with it: nothing is installed. Fetched once, then kept.

use super::{Lab, installed, printed, until};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// A full node with a wallet, derived from Bitcoin Core.
const PACKAGE: &str = "bitcoin-knots";
/// How often the sources are asked before it is given up.
const TRIES: u32 = 4;

/// How to start the programs of a full node.
#[derive(Debug, Clone)]
struct Programs {
    /// What stands before the program's path: the loader and its options.
    before: Vec<String>,
    /// Where the programs lie.
    dir: PathBuf,
}

impl Programs {
    fn command(&self, name: &str) -> Command {
        let program = self.dir.join(name);
        let mut words = self.before.iter();
        let mut command = match words.next() {
            Some(loader) => Command::new(loader),
            None => return Command::new(program),
        };
        command.args(words).arg(program);
        command
    }
}

/// The programs of a full node; fetched when nobody did before. Fails with the reason.
fn programs() -> &'static Programs {
    static FOUND: OnceLock<Programs> = OnceLock::new();
    FOUND.get_or_init(|| {
        if installed("bitcoind") && installed("bitcoin-cli") {
            let path = std::env::var_os("PATH").unwrap();
            let dir = std::env::split_paths(&path).find(|dir| dir.join("bitcoind").is_file()).unwrap();
            return Programs { before: Vec::new(), dir };
        }
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(PACKAGE);
        fs::create_dir_all(&dir).unwrap();
        // Other test programs may be at it.
        let lock = fs::File::create(dir.join("lock")).unwrap();
        lock.lock().unwrap();
        let root = dir.join("root");
        if !root.exists() {
            fetch(&dir).unwrap_or_else(|why| {
                panic!(
                    "these tests need a bitcoin full node, and none can be had: {why}\n\
                     (install bitcoind and bitcoin-cli, or let apt-get reach its sources)"
                )
            });
        }
        unpacked(&root).unwrap_or_else(|why| panic!("{}: {why}; remove it to fetch it anew", dir.display()))
    })
}

/// Fetches the package and all that it needs, and unpacks it to `root`, which is there whole or not at all.
fn fetch(dir: &Path) -> Result<(), String> {
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let system = text(Path::new("/etc/os-release"));
    let field = |name: &str| {
        let line = system.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_string()).unwrap_or_default()
    };
    let release = field("VERSION_CODENAME");
    let newest = match field("ID").as_str() {
        "debian" => "sid",
        "ubuntu" => "devel",
        other => return Err(format!("{other:?} is neither Debian nor Ubuntu")),
    };
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()));
    let sources: String = files
        .iter()
        .filter_map(|file| match file.extension()?.to_str()? {
            "list" => Some(lines_of(&text(file), &release, newest)),
            "sources" => Some(stanzas_of(&text(file), &release, newest)),
            _ => None,
        })
        .collect();
    if sources.is_empty() {
        return Err(format!("no source of {release:?} is set in /etc/apt"));
    }
    let apt = dir.join("apt");
    for part in ["state/lists/partial", "cache/archives/partial", "parts"] {
        fs::create_dir_all(apt.join(part)).map_err(|e| e.to_string())?;
    }
    // Of what the system has nothing counts: all libraries come, the C library and its loader, too.
    fs::write(apt.join("status"), "").map_err(|e| e.to_string())?;
    // One line is the old form, a stanza the new one; each kind goes into a file of its own.
    let (old, new): (Vec<&str>, Vec<&str>) = sources.split_inclusive("\n\n").partition(|part| part.starts_with("deb "));
    fs::write(apt.join("sources.list"), old.concat()).map_err(|e| e.to_string())?;
    fs::write(apt.join("parts/new.sources"), new.concat()).map_err(|e| e.to_string())?;
    let at = |name: &str| apt.join(name).display().to_string();
    let options = [
        format!("Dir::Etc::SourceList={}", at("sources.list")),
        format!("Dir::Etc::SourceParts={}", at("parts")),
        format!("Dir::State={}", at("state")),
        format!("Dir::State::Status={}", at("status")),
        format!("Dir::Cache={}", at("cache")),
        "Dir::Etc::Preferences=/dev/null".into(),
        "Dir::Etc::PreferencesParts=/dev/null".into(),
        "APT::Sandbox::User=".into(),
        "APT::Get::List-Cleanup=false".into(),
        "Acquire::Languages=none".into(),
        "Acquire::Retries=3".into(),
        // Signatures count; a mirror may be some weeks old.
        "Acquire::Check-Valid-Until=false".into(),
        "Debug::NoLocking=true".into(),
    ];
    let apt_get = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        for option in &options {
            command.arg("-o").arg(option);
        }
        let output = command.args(args).stdin(Stdio::null()).output().map_err(|e| format!("apt-get: {e}"))?;
        if output.status.success() { Ok(()) } else { Err(format!("apt-get {}: {}", args.join(" "), printed(&output))) }
    };
    let install = ["install", "--yes", "--download-only", "--no-install-recommends", PACKAGE];
    let mut tried = 0;
    while let Err(why) = apt_get(&["--quiet", "--error-on=any", "update"]).and_then(|()| apt_get(&install)) {
        tried += 1;
        if tried == TRIES {
            return Err(why);
        }
        thread::sleep(Duration::from_secs(5 * u64::from(tried)));
    }
    let draft = dir.join("root.new");
    let _ = fs::remove_dir_all(&draft);
    for entry in fs::read_dir(apt.join("cache/archives")).map_err(|e| e.to_string())?.flatten() {
        if entry.path().extension().is_some_and(|end| end == "deb") {
            let output = Command::new("dpkg").arg("-x").arg(entry.path()).arg(&draft).output();
            let output = output.map_err(|e| format!("dpkg: {e}"))?;
            if !output.status.success() {
                return Err(format!("{}: {}", entry.path().display(), printed(&output)));
            }
        }
    }
    unpacked(&draft)?;
    fs::rename(&draft, dir.join("root")).map_err(|e| e.to_string())?;
    fs::remove_dir_all(&apt).map_err(|e| e.to_string())
}

/// `deb [options] URI SUITE COMPONENT...` for `newest` where it is for `release`.
fn lines_of(text: &str, release: &str, newest: &str) -> String {
    let ours = text.lines().filter(|line| line.starts_with("deb "));
    let with = ours.filter(|line| line.split_whitespace().any(|word| word == release));
    with.map(|line| line.replace(&format!(" {release} "), &format!(" {newest} ")) + "\n\n").collect()
}

/// Stanzas with `Suites: RELEASE ...`, for `newest` instead.
fn stanzas_of(text: &str, release: &str, newest: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    let suites = |line: &&str| line.starts_with("Suites:");
    let stanzas = text.split("\n\n").filter(|stanza| {
        let line = stanza.lines().find(suites).unwrap_or_default();
        line.split_whitespace().skip(1).any(|suite| suite == release)
    });
    let one = |line: &str| if suites(&line) { format!("Suites: {newest}\n") } else { format!("{line}\n") };
    stanzas.map(|stanza| stanza.trim().lines().map(one).collect::<String>() + "\n").collect()
}

/// The programs in an unpacked tree, and the loader and libraries to start them with.
fn unpacked(root: &Path) -> Result<Programs, String> {
    let (mut loader, mut libraries) = (None, Vec::new());
    let mut waiting = vec![root.join("usr/lib"), root.join("usr/lib64"), root.join("lib"), root.join("lib64")];
    while let Some(dir) = waiting.pop() {
        let mut holds = false;
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            } else if name.starts_with("ld-linux") && entry.path().exists() {
                loader = Some(entry.path());
            }
            holds |= name.starts_with("lib") && name.contains(".so");
        }
        if holds {
            libraries.push(dir.display().to_string());
        }
    }
    let loader = loader.ok_or("it has no loader")?;
    let dir = root.join("usr/bin");
    if !dir.join("bitcoind").is_file() || !dir.join("bitcoin-cli").is_file() {
        return Err("it has no bitcoind or no bitcoin-cli".into());
    }
    let before = vec![loader.display().to_string(), "--library-path".into(), libraries.join(":")];
    Ok(Programs { before, dir })
}

/// A program that is a full node, for those who start it by themselves.
pub fn program(lab: &Lab) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let command = programs().command("bitcoind");
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let path = lab.path("bitcoind");
    fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Name and password with which a server beside a full node asks it, whatever cookie it wrote.
pub const INDEXER: &str = "index:index";
/// The same as the node is told it.
const INDEXER_AUTH: &str = "index:7f1c2a9be0d34f58$833d4b69d265ab6bfd6481eecb9b542bc9a8f97dbcadb5a1ac48e4edb00337f9";

/// A running full node. Killed when dropped.
pub struct Bitcoin {
    dir: PathBuf,
    /// Port of bitcoin's own protocol.
    pub port: u16,
    rpc_port: u16,
    options: Vec<String>,
    child: Option<Child>,
    /// The Electrum server beside it, once somebody asked for one.
    #[cfg(feature = "electrum")]
    pub electrum: std::cell::OnceCell<super::electrum::Electrum>,
    /// The Esplora server beside it, once somebody asked for one.
    #[cfg(feature = "esplora")]
    pub esplora: std::cell::OnceCell<super::esplora::Esplora>,
}

impl Bitcoin {
    /// A new chain with a hundred and one blocks, the first of which the node's wallet can spend.
    #[track_caller]
    pub fn start(lab: &Lab, name: &str) -> Bitcoin {
        let node = Bitcoin::start_bare(lab, name);
        node.cli(&["createwallet", "miner"]);
        node.mine(101);
        node
    }

    /// A new chain with nothing in it.
    #[track_caller]
    pub fn start_bare(lab: &Lab, name: &str) -> Bitcoin {
        let dir = lab.make_dir(name);
        let (port, rpc_port) = (free_port(), free_port());
        let mut node = Bitcoin {
            dir,
            port,
            rpc_port,
            options: Vec::new(),
            child: None,
            #[cfg(feature = "electrum")]
            electrum: std::cell::OnceCell::new(),
            #[cfg(feature = "esplora")]
            esplora: std::cell::OnceCell::new(),
        };
        node.run();
        node
    }

    /// Ends it, if it runs, and starts it again, with these options more: `-minrelaytxfee=...`.
    #[track_caller]
    pub fn restart(&mut self, options: &[&str]) {
        if self.child.is_some() {
            self.stop();
        }
        self.options = options.iter().map(ToString::to_string).collect();
        self.run();
        let loaded = self.cli(&["listwallets"]);
        if !loaded.contains("miner") {
            self.cli(&["loadwallet", "miner"]);
        }
    }

    #[track_caller]
    fn run(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("out")).unwrap();
        let mut command = programs().command("bitcoind");
        command.arg(format!("-datadir={}", self.dir.display()));
        command.arg(format!("-bind=127.0.0.1:{}", self.port)).arg(format!("-rpcport={}", self.rpc_port));
        command.args(["-regtest", "-server", "-listen=1", "-txindex=1", "-blockfilterindex=1", "-peerblockfilters=1"]);
        command.args(["-dbcache=16", "-dnsseed=0", "-fixedseeds=0", "-listenonion=0", "-discover=0", "-connect=0"]);
        command.args(["-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1", "-fallbackfee=0.00002", "-printtoconsole=0"]);
        command.arg(format!("-rpcauth={INDEXER_AUTH}"));
        command.args(&self.options).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        until("the full node answers", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the full node ended with {status}: {}", fs::read_to_string(self.dir.join("out")).unwrap());
            }
            self.try_cli(&["getblockcount"]).ok()
        });
    }

    /// Ends it in order.
    #[track_caller]
    pub fn stop(&mut self) {
        self.cli(&["stop"]);
        let mut child = self.child.take().unwrap();
        until("the full node ended", || child.try_wait().unwrap());
    }

    /// Stops it where it is: whoever asks it something waits until it goes on.
    #[track_caller]
    pub fn freeze(&self) {
        super::signal(self.child.as_ref().unwrap().id(), rustix::process::Signal::STOP);
    }

    /// It goes on.
    #[track_caller]
    pub fn go_on(&self) {
        super::signal(self.child.as_ref().unwrap().id(), rustix::process::Signal::CONT);
    }

    /// Where its RPC is.
    pub fn rpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.rpc_port)
    }

    /// A folder below its own, for what runs beside it.
    #[cfg(feature = "electrum")]
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Where its peers find it.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The file that lets its user call its RPC.
    pub fn cookie(&self) -> PathBuf {
        self.dir.join("regtest/.cookie")
    }

    /// Calls its RPC.
    pub fn try_cli(&self, args: &[&str]) -> Result<String, String> {
        let mut command = programs().command("bitcoin-cli");
        command.arg(format!("-datadir={}", self.dir.display())).arg("-regtest");
        command.arg(format!("-rpcport={}", self.rpc_port)).args(args).stdin(Stdio::null());
        let output = command.output().unwrap();
        if !output.status.success() {
            return Err(printed(&output));
        }
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_string())
    }

    /// Calls its RPC, which must go well.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> String {
        self.try_cli(args).unwrap_or_else(|why| panic!("{args:?}: {why}"))
    }

    /// Calls its RPC, which answers JSON.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.cli(args)).unwrap()
    }

    /// Height of its newest block.
    #[track_caller]
    pub fn height(&self) -> u32 {
        self.cli(&["getblockcount"]).parse().unwrap()
    }

    /// A fresh address of its wallet.
    #[track_caller]
    pub fn fresh(&self) -> String {
        self.cli(&["getnewaddress", "", "bech32m"])
    }

    /// Mines blocks with what waits in its pool.
    #[track_caller]
    pub fn mine(&self, blocks: u32) {
        self.cli(&["generatetoaddress", &blocks.to_string(), &self.fresh()]);
    }

    /// Mines blocks with nothing in them, whatever waits.
    #[track_caller]
    pub fn mine_empty(&self, blocks: u32) {
        let address = self.fresh();
        for _ in 0..blocks {
            self.cli(&["generateblock", &address, "[]"]);
        }
    }

    /// Takes the newest `depth` blocks back and mines a longer branch of empty ones in their place: what was in them waits again.
    #[track_caller]
    pub fn reorganise(&self, depth: u32) {
        let first = self.cli(&["getblockhash", &(self.height() + 1 - depth).to_string()]);
        self.cli(&["invalidateblock", &first]);
        self.mine_empty(depth + 1);
    }

    /// Pays from its wallet; gives the transaction.
    #[track_caller]
    pub fn pay(&self, address: &str, sat: u64) -> String {
        let amount = format!("{}.{:08}", sat / 100_000_000, sat % 100_000_000);
        self.cli(&["-rpcwallet=miner", "sendtoaddress", address, &amount])
    }

    /// Transactions that wait.
    #[track_caller]
    pub fn waiting(&self) -> Vec<String> {
        serde_json::from_str(&self.cli(&["getrawmempool"])).unwrap()
    }

    /// What an address of its wallet was paid in blocks, in sat.
    #[track_caller]
    pub fn received(&self, address: &str) -> u64 {
        let amount = self.cli(&["-rpcwallet=miner", "getreceivedbyaddress", address, "1"]);
        let (whole, part) = amount.split_once('.').unwrap();
        whole.parse::<u64>().unwrap() * 100_000_000 + part.parse::<u64>().unwrap()
    }
}

impl Drop for Bitcoin {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port of this machine that nobody uses.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
