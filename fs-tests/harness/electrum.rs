//! A real Electrum server beside a full node on regtest, bound to loopback.
//!
//! It is ElectrumX, fetched by pip from wherever that is set to fetch from, into a folder of its own below the target directory. Fetched
//! once, then kept.

use super::bitcoin::{Bitcoin, INDEXER, free_port};
use super::server::{Liar, Lie, Present, Server};
use super::{printed, until};
use bdk_wallet::bitcoin::Transaction;
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use tornet::chain::Backend;

/// What pip calls it: the server for bitcoin, by those who make Electrum. The newest one wants a newer full node.
const PACKAGE: &str = "e-x[leveldb]==1.20.0";

/// The program; fetched when nobody did before. Fails with the reason.
fn program() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("electrumx");
        fs::create_dir_all(&dir).unwrap();
        // Other test programs may be at it.
        let lock = fs::File::create(dir.join("lock")).unwrap();
        lock.lock().unwrap();
        let (home, done) = (dir.join("python"), dir.join("done"));
        if fs::read_to_string(&done).ok().as_deref() != Some(PACKAGE) {
            fetch(&home).unwrap_or_else(|why| {
                panic!(
                    "these tests need an Electrum server, and it cannot be had: {why}\n\
                     (they need python3 of 3.10 or later with its module venv, and pip must reach its index)"
                )
            });
            fs::write(done, PACKAGE).unwrap();
        }
        home.join("bin/electrumx_server")
    })
}

fn fetch(home: &Path) -> Result<(), String> {
    let ran = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
        if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", printed(&output))) }
    };
    let _ = fs::remove_dir_all(home);
    ran(Command::new("python3").args(["-m", "venv"]).arg(home))?;
    ran(Command::new(home.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", PACKAGE]))
}

/// A running server. Killed when dropped.
pub struct Electrum {
    dir: PathBuf,
    daemon: String,
    port: u16,
    child: Option<Child>,
}

impl Electrum {
    /// Beside a node; it answers when it knows all of that one's blocks.
    #[track_caller]
    pub fn start(node: &Bitcoin) -> Electrum {
        let daemon = node.rpc_url().replace("http://", &format!("http://{INDEXER}@"));
        let mut server = Electrum { dir: node.make_dir("electrum"), daemon, port: free_port(), child: None };
        server.go_on();
        server
    }
}

impl Server for Electrum {
    const KIND: &'static str = "Electrum";

    fn beside(node: &Bitcoin) -> &Electrum {
        node.electrum.get_or_init(|| Electrum::start(node))
    }

    fn beside_mut(node: &mut Bitcoin) -> &mut Electrum {
        node.electrum.get_mut().unwrap()
    }

    #[track_caller]
    fn go_on(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("out")).unwrap();
        let mut command = Command::new(program());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("DB_DIRECTORY", &self.dir).env("DB_ENGINE", "leveldb").env("DAEMON_URL", &self.daemon);
        command.env("COIN", "Bitcoin").env("NET", "regtest").env("SERVICES", format!("tcp://127.0.0.1:{}", self.port));
        command.env("PEER_DISCOVERY", "off").env("PEER_ANNOUNCE", "").env("ALLOW_ROOT", "true").env("CACHE_MB", "16");
        // Nobody is to be kept waiting, or sent away, for asking much.
        command.env("COST_SOFT_LIMIT", "0").env("COST_HARD_LIMIT", "0");
        command.env("DAEMON_POLL_INTERVAL_BLOCKS", "200").env("DAEMON_POLL_INTERVAL_MEMPOOL", "200");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        until("the Electrum server answers", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!(
                    "the Electrum server ended with {status}: {}",
                    fs::read_to_string(self.dir.join("out")).unwrap()
                );
            }
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    #[track_caller]
    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        super::signal(child.id(), rustix::process::Signal::TERM);
        until("the Electrum server ended", || child.try_wait().unwrap());
    }

    fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Hands everything on, and lies as it is told.
    fn liar(&self) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (target, present) = (self.port, Present::default());
        let told = present.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let told = told.clone();
                thread::spawn(move || hand_on(client, target, &told));
            }
        });
        Liar { url, present }
    }

    fn backend(url: String) -> Backend {
        Backend::Electrum { url }
    }
}

impl Drop for Electrum {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Does to the answer to a question of this method what the lie is.
fn tell(lie: &mut Lie, method: &str, result: &mut Value) {
    match (lie, method) {
        (Lie::Headers(lie), "blockchain.block.headers") => {
            let told = result["headers"].as_array_mut().unwrap();
            let headers = told.iter().map(|header| deserialize_hex(header.as_str().unwrap()).unwrap());
            let mut headers: Vec<Header> = headers.collect();
            lie(&mut headers);
            *told = headers.iter().map(|header| serialize_hex(header).into()).collect();
        }
        (Lie::Proofs(lie), "blockchain.transaction.get_merkle") => {
            let mut beside: Vec<String> = serde_json::from_value(result["merkle"].clone()).unwrap();
            lie(&mut beside);
            result["merkle"] = beside.into();
        }
        (Lie::Transactions(lie), "blockchain.transaction.get") => {
            let mut tx: Transaction = deserialize_hex(result.as_str().unwrap()).unwrap();
            lie(&mut tx);
            *result = serialize_hex(&tx).into();
        }
        (Lie::Histories(lie), "blockchain.scripthash.get_history") => {
            let waits = |one: &&Value| one["height"].as_i64().unwrap() <= 0;
            let waiting: Vec<Value> = result.as_array().unwrap().iter().filter(waits).cloned().collect();
            let in_blocks = result.as_array().unwrap().iter().filter(|one| !waits(one));
            let mut uses = in_blocks
                .map(|one| (one["tx_hash"].as_str().unwrap().parse().unwrap(), one["height"].as_u64().unwrap() as u32))
                .collect();
            lie(&mut uses);
            let told = uses.iter().map(|(txid, height)| json!({ "tx_hash": txid.to_string(), "height": height }));
            *result = told.chain(waiting).collect();
        }
        _ => {}
    }
}

/// Both directions of one connection, line by line.
fn hand_on(client: TcpStream, target: u16, present: &Present) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
    let asked: Arc<Mutex<HashMap<u64, String>>> = Arc::default();
    let (noted, mut questions, mut to_server) =
        (Arc::clone(&asked), BufReader::new(client.try_clone().unwrap()), server.try_clone().unwrap());
    thread::spawn(move || {
        let mut line = String::new();
        while questions.read_line(&mut line).is_ok_and(|count| count > 0) {
            let question: Value = serde_json::from_str(&line).unwrap();
            noted.lock().unwrap().insert(question["id"].as_u64().unwrap(), question["method"].as_str().unwrap().into());
            if to_server.write_all(line.as_bytes()).is_err() {
                break;
            }
            line.clear();
        }
        let _ = to_server.shutdown(std::net::Shutdown::Both);
    });
    let (mut answers, mut to_client, mut line) = (BufReader::new(server), client, String::new());
    while answers.read_line(&mut line).is_ok_and(|count| count > 0) {
        let mut answer: Value = serde_json::from_str(&line).unwrap();
        let method = answer["id"].as_u64().and_then(|id| asked.lock().unwrap().remove(&id));
        if let (Some(method), Some(lie), true) = (method, present.lock().unwrap().as_mut(), answer["error"].is_null()) {
            tell(lie, &method, &mut answer["result"]);
        }
        if to_client.write_all(format!("{answer}\n").as_bytes()).is_err() {
            break;
        }
        line.clear();
    }
    let _ = to_client.shutdown(std::net::Shutdown::Both);
}
