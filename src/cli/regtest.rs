//! A bitcoin full node on regtest beside a swarm: started from the program that the user has, bound to loopback, ended
//! with the swarm, however that ends.

use super::process;
use crate::chain::{self, Chain, Network, Passphrase, Seed, Start};
use crate::control::client::Client;
use crate::control::message::{Answer, Request};
use crate::control::wallet::{WalletAnswer, WalletRequest};
use anyhow::{Context, anyhow, bail};
use bdk_bitcoind_rpc::bitcoincore_rpc::{self, Auth, RpcApi};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long the node, and a wallet that follows it, may take.
const READY_MAX: Duration = Duration::from_secs(60);
/// What each wallet is given to begin with.
const GIFT_SAT: u64 = 1_000_000;
/// Its own wallet, to which the blocks belong.
const MINER: &str = "miner";

/// Variables of the environment.
pub(super) type Variables = Vec<(&'static str, OsString)>;

/// A running full node; ended when dropped.
pub(super) struct Regtest {
    child: Child,
    dir: PathBuf,
    peer: SocketAddr,
    rpc: SocketAddr,
}

impl Drop for Regtest {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + READY_MAX;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The program to start: a mere name is looked for as the shell would.
fn program(named: &Path) -> anyhow::Result<PathBuf> {
    if named.components().count() > 1 {
        return Ok(std::path::absolute(named)?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(named)).find(|file| file.is_file());
    found.ok_or_else(|| {
        anyhow!(
            "there is no {} here: install Bitcoin Core or Bitcoin Knots, or name the program with --bitcoin=PATH",
            named.display()
        )
    })
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Regtest {
    /// Starts it in `dir`, with a hundred and one blocks if its chain is new: the first of them can then be spent.
    pub(super) fn start(named: &Path, dir: &Path) -> anyhow::Result<Regtest> {
        let program = program(named)?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let (peer, rpc) = (free_port()?, free_port()?);
        let log = OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
        let mut command = process::along(&program)?;
        command.arg(format!("-datadir={}", dir.display())).arg("-regtest").arg("-server").arg("-listen=1");
        command
            .arg(format!("-bind={peer}"))
            .arg(format!("-rpcbind={}", rpc.ip()))
            .arg(format!("-rpcport={}", rpc.port()));
        command.args([
            "-rpcallowip=127.0.0.1",
            "-connect=0",
            "-dnsseed=0",
            "-fixedseeds=0",
            "-discover=0",
            "-listenonion=0",
        ]);
        command.args([
            "-blockfilterindex=1",
            "-peerblockfilters=1",
            "-dbcache=16",
            "-fallbackfee=0.00002",
            "-printtoconsole=0",
        ]);
        // A Ctrl-C in the terminal is for this process, which then ends it in order.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut node = Regtest { child, dir: dir.to_path_buf(), peer, rpc };
        let until = Instant::now() + READY_MAX;
        while let Err(error) = node.call("getblockcount", &[]) {
            if let Some(status) = node.child.try_wait()? {
                bail!("{} ended ({status}); its log is {}", program.display(), dir.join("log").display());
            }
            if Instant::now() > until {
                return Err(error.context("the bitcoin node does not answer"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let known = node.call("listwalletdir", &[])?.to_string().contains(MINER);
        node.call(if known { "loadwallet" } else { "createwallet" }, &[json!(MINER)])?;
        let height = node.call("getblockcount", &[])?.as_u64().unwrap_or(0);
        node.mine(101u64.saturating_sub(height))?;
        Ok(node)
    }

    fn call(&self, method: &str, args: &[Value]) -> anyhow::Result<Value> {
        let auth = Auth::CookieFile(self.dir.join("regtest/.cookie"));
        let client = bitcoincore_rpc::Client::new(&format!("http://{}", self.rpc), auth)?;
        client.call(method, args).with_context(|| format!("the bitcoin node refused `{method}`"))
    }

    fn mine(&self, blocks: u64) -> anyhow::Result<()> {
        if blocks > 0 {
            let address = self.call("getnewaddress", &[])?;
            self.call("generatetoaddress", &[json!(blocks), address])?;
        }
        Ok(())
    }

    /// Gives the node of `data` a wallet, unless it has one; returns the variables of its environment that say how to use it.
    pub(super) fn equip(&self, data: &Path) -> anyhow::Result<Variables> {
        let (file, seed_file) = (data.join("passphrase"), chain::seed_file(data));
        if !seed_file.exists() {
            let mut random = [0u8; 16];
            getrandom::fill(&mut random).map_err(|error| anyhow!("the system gives no random bytes: {error}"))?;
            let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file)?;
            out.write_all(text.as_bytes())?;
            let seed = Seed::generate()?;
            Chain::create(&chain::folder(data), &seed, Network::Regtest, Start::New)?;
            seed.save(&seed_file, &Passphrase::new(&text)?)?;
        }
        // Not in the settings file: the port is another one each time.
        Ok(vec![
            ("TORNET_PAYMENTS_NETWORK", Network::Regtest.to_string().into()),
            ("TORNET_PAYMENTS_PEERS", self.peer.to_string().into()),
            ("TORNET_PAYMENTS_PASSPHRASE_FILE", file.into()),
        ])
    }

    /// Pays something to the wallet of every node that has nothing, in a block.
    pub(super) fn fund(&self, nodes: &[PathBuf]) -> anyhow::Result<()> {
        let until = Instant::now() + READY_MAX;
        let mut paid = false;
        for data in nodes {
            let balance = ask(data, WalletRequest::Balance, until)?;
            if matches!(balance, WalletAnswer::Balance(balance) if balance.confirmed_sat > 0) {
                continue;
            }
            if let WalletAnswer::Address(found) = ask(data, WalletRequest::Address, until)? {
                let coins = format!("0.{GIFT_SAT:08}");
                self.call("sendtoaddress", &[json!(found.address), json!(coins)])?;
                paid = true;
            }
        }
        self.mine(u64::from(paid))
    }

    /// What a user types to add a block.
    pub(super) fn hint(&self) -> String {
        format!("bitcoin-cli -datadir={} -regtest -rpcport={} -generate 1", self.dir.display(), self.rpc.port())
    }
}

/// Asks a node's wallet, which may still be opening or reading the chain.
fn ask(data: &Path, request: WalletRequest, until: Instant) -> anyhow::Result<WalletAnswer> {
    loop {
        let answer = Client::connect(data).and_then(|mut client| client.ask(&Request::Wallet(request.clone())));
        match answer {
            Ok(Answer::Wallet(answer)) => return Ok(answer),
            Ok(other) => return Err(super::output::strange(&other)),
            Err(error) if Instant::now() > until => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
