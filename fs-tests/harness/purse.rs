//! A node with a wallet, as its user has it: settings, passphrase file, commands.

use super::bitcoin::Bitcoin;
use super::node::Node;
use super::{Lab, printed, until};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

/// Of every wallet here.
pub const PASSPHRASE: &str = "correct horse battery";

/// A file that only its owner can read.
pub fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// `[payments]` of a node with a wallet and this source of chain data, and the file of its passphrase.
pub fn payments(lab: &Lab, name: &str, source: &str) -> (String, PathBuf) {
    let file = lab.make_dir(name).join("passphrase");
    private(&file, PASSPHRASE);
    let text = format!("[payments]\nnetwork = \"regtest\"\n{source}\npassphrase_file = \"{}\"\n", file.display());
    (text, file)
}

/// Chain data by compact block filters.
pub fn filters(node: &Bitcoin) -> String {
    format!("peers = [\"{}\"]", node.address())
}

/// Chain data by the RPC of a full node.
pub fn rpc(node: &Bitcoin) -> String {
    format!("backend = \"bitcoind\"\nbitcoind = \"{}\"\ncookie = \"{}\"", node.rpc_url(), node.cookie().display())
}

/// Chain data by an Electrum server beside a full node.
#[cfg(feature = "electrum")]
pub fn electrum(node: &Bitcoin) -> String {
    use super::server::Server;
    format!("backend = \"electrum\"\nelectrum = \"{}\"", super::electrum::Electrum::beside(node).url())
}

/// Chain data by an Esplora server beside a full node.
#[cfg(feature = "esplora")]
pub fn esplora(node: &Bitcoin) -> String {
    use super::server::Server;
    format!("backend = \"esplora\"\nesplora = \"{}\"", super::esplora::Esplora::beside(node).url())
}

/// `tornet wallet` of a node with its settings, and with this on its standard input.
pub fn wallet(node: &Node, args: &[&str], input: &str) -> Output {
    let config = node.home.join("config.toml");
    let mut all = vec!["--config", config.to_str().unwrap(), "wallet"];
    all.extend(args);
    let mut child =
        node.command(&all).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may not want to read it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// The same, which must go well.
#[track_caller]
pub fn works(node: &Node, args: &[&str], input: &str) -> String {
    let output = wallet(node, args, input);
    assert!(output.status.success(), "{args:?}: {}\n{}", printed(&output), node.log());
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// What `tornet wallet balance` tells.
#[track_caller]
pub fn balance(node: &Node) -> Value {
    serde_json::from_str(&works(node, &["--json", "balance"], "")).unwrap()
}

/// Waits until a wallet is open and this holds.
#[track_caller]
fn holds(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) {
    until(what, || {
        let output = wallet(node, &["--json", "balance"], "");
        let found = serde_json::from_slice(&output.stdout).ok()?;
        (output.status.success() && wanted(&found)).then_some(())
    });
}

/// Waits until a wallet has so much in blocks.
#[track_caller]
pub fn has(node: &Node, sat: u64) {
    holds(node, &format!("{sat} sat"), |found| found["confirmed-sat"] == sat);
}

/// Waits until a wallet has read the chain.
#[track_caller]
pub fn synced(node: &Node) {
    holds(node, "the end of the chain", |found| found["synced"] == true);
}

/// What a command lists.
#[track_caller]
pub fn rows(node: &Node, what: &str) -> Vec<Value> {
    node.json(&["--json", what]).as_array().unwrap().clone()
}

/// A sum in it.
#[track_caller]
pub fn sat(payment: &Value, field: &str) -> u64 {
    payment[field].as_u64().unwrap()
}

/// Mines what waits.
pub fn mine_waiting(bitcoin: &Bitcoin) {
    if !bitcoin.waiting().is_empty() {
        bitcoin.mine(1);
    }
}
