//! A real Electrum server beside a full node on regtest, bound to loopback.
//!
//! It is ElectrumX, fetched by pip from wherever that is set to fetch from, into a folder of its own below the target directory. Fetched
//! once, then kept.

use super::bitcoin::{Bitcoin, INDEXER, free_port};
use super::{printed, until};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

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

    /// Starts it again where it was stopped.
    #[track_caller]
    pub fn go_on(&mut self) {
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

    /// Ends it.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        super::signal(child.id(), rustix::process::Signal::TERM);
        until("the Electrum server ended", || child.try_wait().unwrap());
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
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

/// What is done to an answer, by the method that was asked for.
type Lie = Box<dyn FnMut(&str, &mut Value) + Send>;

/// Between a wallet and a server: hands everything on, and lies as it is told.
pub struct Liar {
    port: u16,
    lie: Arc<Mutex<Option<Lie>>>,
}

impl Liar {
    /// Before a server, honest at first.
    pub fn before(server: &Electrum) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, target, lie) = (listener.local_addr().unwrap().port(), server.port, Arc::default());
        let liar = Liar { port, lie: Arc::clone(&lie) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let lie = Arc::clone(&lie);
                thread::spawn(move || hand_on(client, target, &lie));
            }
        });
        liar
    }

    /// Lies from now on.
    pub fn lie(&self, lie: impl FnMut(&str, &mut Value) + Send + 'static) {
        *self.lie.lock().unwrap() = Some(Box::new(lie));
    }

    /// Tells the truth again.
    pub fn repent(&self) {
        *self.lie.lock().unwrap() = None;
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }
}

/// Both directions of one connection, line by line.
fn hand_on(client: TcpStream, target: u16, lie: &Mutex<Option<Lie>>) {
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
        if let (Some(method), Some(lie)) = (method, lie.lock().unwrap().as_mut()) {
            lie(&method, &mut answer["result"]);
        }
        if to_client.write_all(format!("{answer}\n").as_bytes()).is_err() {
            break;
        }
        line.clear();
    }
    let _ = to_client.shutdown(std::net::Shutdown::Both);
}
