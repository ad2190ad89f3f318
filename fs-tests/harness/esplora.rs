//! An Esplora server beside a full node on regtest, bound to loopback. It is ours: none can be had from a package registry.
//!
//! It answers those calls of the document "Esplora HTTP API" (`API.md` of Blockstream's explorer) that the wallet makes, and no others, from
//! what the node says by its RPC: blocks and their headers, the uses of a script in blocks by pages of 25, transactions, proofs in Electrum's
//! form, fee estimates, sending. Of a transaction in a list of uses it tells name, size and status, not inputs and outputs. It has no
//! mempool. How it behaves beyond that document (what is 404, which byte of a script's hash comes first) is as those who wrote clients for
//! public servers took it; that public servers do the same was not tried.

use super::bitcoin::{Bitcoin, free_port};
use super::server::{Liar, Lie, Present, Server};
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::consensus::encode::{deserialize_hex, serialize};
use bdk_wallet::bitcoin::hashes::{Hash, HashEngine, sha256, sha256d};
use bdk_wallet::bitcoin::{ScriptBuf, Transaction, Txid};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use tornet::chain::Backend;

/// `index:index`, as HTTP wants it.
const AUTH: &str = "aW5kZXg6aW5kZXg=";
const BLOCKS: usize = 10;
const PAGE: usize = 25;

/// A status and a body.
type Answer = (u16, Vec<u8>);

/// A block of the node's chain, and which scripts its transactions use.
struct Block {
    hash: String,
    header: Header,
    about: Value,
    txids: Vec<Txid>,
    uses: Vec<(sha256::Hash, Txid)>,
}

/// The node's chain as it was seen last.
struct Index {
    rpc: String,
    blocks: Vec<Block>,
}

impl Index {
    fn rpc(&self, method: &str, params: Value) -> Result<Value, String> {
        let body = json!({ "method": method, "params": params }).to_string();
        let mut stream = TcpStream::connect(&self.rpc).map_err(|e| e.to_string())?;
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {AUTH}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut answer = String::new();
        stream.write_all((head + &body).as_bytes()).map_err(|e| e.to_string())?;
        stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let answer: Value = serde_json::from_str(body).map_err(|e| format!("{e}: {body}"))?;
        if answer["error"].is_null() { Ok(answer["result"].clone()) } else { Err(answer["error"].to_string()) }
    }

    /// Goes to where the node is.
    fn follow(&mut self) -> Result<(), String> {
        let count = self.rpc("getblockcount", json!([]))?.as_u64().unwrap() as usize + 1;
        self.blocks.truncate(count);
        while let Some(last) = self.blocks.last() {
            if self.rpc("getblockhash", json!([self.blocks.len() - 1]))? == last.hash {
                break;
            }
            self.blocks.pop();
        }
        while self.blocks.len() < count {
            let hash = self.rpc("getblockhash", json!([self.blocks.len()]))?.as_str().unwrap().to_string();
            let header = self.rpc("getblockheader", json!([hash, false]))?;
            let about = self.rpc("getblock", json!([hash, 3]))?;
            let header = deserialize_hex(header.as_str().unwrap()).unwrap();
            self.blocks.push(Block::new(hash, header, &about));
        }
        Ok(())
    }

    fn answer(&mut self, question: &str, body: &str, lie: &mut Option<Lie>) -> Result<Answer, String> {
        self.follow()?;
        let parts: Vec<&str> = question.split('/').collect();
        Ok(match parts[..] {
            // What the end of the chain is called is told truly.
            ["GET ", "blocks"] => self.tell_blocks(self.blocks.len() - 1, &mut None),
            ["GET ", "blocks", height] => match height.parse() {
                Ok(height) if height < self.blocks.len() => self.tell_blocks(height, lie),
                _ => (404, "Block not found".into()),
            },
            ["GET ", "scripthash", hash, "txs", "chain"] => self.uses(hash, None, lie),
            ["GET ", "scripthash", hash, "txs", "chain", last] => self.uses(hash, Some(last.parse().unwrap()), lie),
            ["GET ", "tx", txid, "raw"] => self.transaction(txid, lie),
            ["GET ", "tx", txid, "merkle-proof"] => self.proof(txid.parse().unwrap(), lie),
            ["GET ", "fee-estimates"] => {
                let rate = |target: u16| self.rpc("estimatesmartfee", json!([target])).ok()?["feerate"].as_f64();
                let targets = [2, 3, 4, 5, 6, 10, 20, 25, 144, 504, 1008];
                let known = targets.into_iter().filter_map(|target| {
                    // In coins for a thousand bytes there.
                    Some((target.to_string(), json!(rate(target)? * 1e5)))
                });
                (200, Value::Object(known.collect()).to_string().into())
            }
            ["POST ", "tx"] => match self.rpc("sendrawtransaction", json!([body])) {
                Ok(txid) => (200, txid.as_str().unwrap().into()),
                Err(why) => (400, format!("sendrawtransaction RPC error: {why}").into()),
            },
            _ => (404, "endpoint does not exist".into()),
        })
    }

    /// The newest first.
    fn tell_blocks(&self, last: usize, lie: &mut Option<Lie>) -> Answer {
        let heights = (last + 1).saturating_sub(BLOCKS)..last + 1;
        let mut headers: Vec<Header> = self.blocks[heights.clone()].iter().map(|block| block.header).collect();
        if let Some(Lie::Headers(lie)) = lie {
            lie(&mut headers);
        }
        let told = heights.zip(headers).rev().map(|(height, header)| {
            let about = &self.blocks[height].about;
            let before = (height > 0).then(|| header.prev_blockhash.to_string());
            json!({
                "id": header.block_hash().to_string(), "height": height, "version": header.version.to_consensus(),
                "timestamp": header.time, "bits": header.bits.to_consensus(), "nonce": header.nonce,
                "merkle_root": header.merkle_root.to_string(), "previousblockhash": before,
                "tx_count": about["nTx"], "size": about["size"], "weight": about["weight"],
            })
        });
        (200, Value::Array(told.collect()).to_string().into())
    }

    fn uses(&self, hash: &str, last: Option<Txid>, lie: &mut Option<Lie>) -> Answer {
        let Ok(script) = hash.parse::<sha256::Hash>() else { return (400, "Invalid script hash".into()) };
        let blocks = (0..).zip(&self.blocks);
        let mut uses: Vec<(Txid, u32)> = blocks
            .flat_map(|(height, block)| {
                let ours = block.uses.iter().filter(|(used, _)| *used == script);
                ours.map(move |(_, txid)| (*txid, height))
            })
            .collect();
        uses.reverse();
        uses.dedup();
        if let Some(Lie::Histories(lie)) = lie {
            lie(&mut uses);
        }
        let begin =
            last.map_or(0, |last| uses.iter().position(|(txid, _)| *txid == last).map_or(uses.len(), |at| at + 1));
        let told = uses[begin..].iter().take(PAGE).map(|(txid, height)| {
            let block = self.blocks.get(*height as usize);
            json!({ "txid": txid.to_string(), "status": {
                "confirmed": true, "block_height": height, "block_hash": block.map(|block| &block.hash),
                "block_time": block.map(|block| block.header.time),
            } })
        });
        (200, Value::Array(told.collect()).to_string().into())
    }

    fn transaction(&self, txid: &str, lie: &mut Option<Lie>) -> Answer {
        let Ok(text) = self.rpc("getrawtransaction", json!([txid])) else {
            return (404, "Transaction not found".into());
        };
        let mut tx: Transaction = deserialize_hex(text.as_str().unwrap()).unwrap();
        if let Some(Lie::Transactions(lie)) = lie {
            lie(&mut tx);
        }
        (200, serialize(&tx))
    }

    fn proof(&self, txid: Txid, lie: &mut Option<Lie>) -> Answer {
        let place = |block: &Block| block.txids.iter().position(|one| *one == txid);
        let found =
            self.blocks.iter().enumerate().rev().find_map(|(height, block)| Some((height, block, place(block)?)));
        let Some((height, block, pos)) = found else {
            return (404, "Transaction not found or is unconfirmed".into());
        };
        let mut beside = beside(&block.txids, pos);
        if let Some(Lie::Proofs(lie)) = lie {
            lie(&mut beside);
        }
        (200, json!({ "block_height": height, "merkle": beside, "pos": pos }).to_string().into())
    }
}

impl Block {
    /// `about` is what the node tells of it, with the outputs that its inputs spend.
    fn new(hash: String, header: Header, about: &Value) -> Block {
        let (mut txids, mut uses) = (Vec::new(), Vec::new());
        for tx in about["tx"].as_array().unwrap() {
            let txid: Txid = tx["txid"].as_str().unwrap().parse().unwrap();
            let spent = tx["vin"].as_array().unwrap().iter().map(|input| &input["prevout"]);
            for output in tx["vout"].as_array().unwrap().iter().chain(spent) {
                if let Some(script) = output["scriptPubKey"]["hex"].as_str() {
                    uses.push((sha256::Hash::hash(ScriptBuf::from_hex(script).unwrap().as_bytes()), txid));
                }
            }
            txids.push(txid);
        }
        let about = json!({ "nTx": about["nTx"], "size": about["size"], "weight": about["weight"] });
        Block { hash, header, about, txids, uses }
    }
}

/// The hashes beside the way from a transaction to the root.
fn beside(txids: &[Txid], mut place: usize) -> Vec<String> {
    let mut level: Vec<sha256d::Hash> = txids.iter().map(|txid| txid.to_raw_hash()).collect();
    let mut found = Vec::new();
    while level.len() > 1 {
        if level.len() % 2 == 1 {
            level.push(level[level.len() - 1]);
        }
        found.push(level[place ^ 1].to_string());
        let pairs = level.chunks(2).map(|pair| {
            let mut engine = sha256d::Hash::engine();
            pair.iter().for_each(|hash| engine.input(hash.as_byte_array()));
            sha256d::Hash::from_engine(engine)
        });
        level = pairs.collect();
        place /= 2;
    }
    found
}

/// A running server. Ends when dropped.
pub struct Esplora {
    index: Arc<Mutex<Index>>,
    port: u16,
    door: Option<Door>,
}

impl Esplora {
    /// Beside a node.
    pub fn start(node: &Bitcoin) -> Esplora {
        let rpc = node.rpc_url().replace("http://", "");
        let index = Arc::new(Mutex::new(Index { rpc, blocks: Vec::new() }));
        let mut server = Esplora { index, port: free_port(), door: None };
        server.go_on();
        server
    }
}

impl Server for Esplora {
    const KIND: &'static str = "Esplora";

    fn beside(node: &Bitcoin) -> &Esplora {
        node.esplora.get_or_init(|| Esplora::start(node))
    }

    fn beside_mut(node: &mut Bitcoin) -> &mut Esplora {
        node.esplora.get_mut().unwrap()
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn stop(&mut self) {
        self.door = None;
    }

    fn go_on(&mut self) {
        self.door = Some(Door::open(self.port, self.index.clone(), Present::default()));
    }

    fn liar(&self) -> Liar {
        let (port, present) = (free_port(), Present::default());
        // Open as long as the test runs.
        std::mem::forget(Door::open(port, self.index.clone(), present.clone()));
        Liar { url: format!("http://127.0.0.1:{port}"), present }
    }

    fn backend(url: String) -> Backend {
        Backend::Esplora { url }
    }
}

/// Where clients come in.
struct Door {
    port: u16,
    closed: Arc<AtomicBool>,
    clients: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    fn open(port: u16, index: Arc<Mutex<Index>>, present: Present) -> Door {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (closed, clients) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (shut, known) = (closed.clone(), clients.clone());
        let thread = thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shut.load(Ordering::SeqCst) {
                    return;
                }
                known.lock().unwrap().push(client.try_clone().unwrap());
                let (index, present) = (index.clone(), present.clone());
                thread::spawn(move || serve(client, &index, &present));
            }
        });
        Door { port, closed, clients, thread: Some(thread) }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().unwrap().join();
        for client in self.clients.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

/// One connection, question by question.
fn serve(client: TcpStream, index: &Mutex<Index>, present: &Present) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut client = client;
    loop {
        let (mut question, mut length) = (String::new(), 0);
        if !reader.read_line(&mut question).is_ok_and(|count| count > 0) {
            return;
        }
        loop {
            let mut line = String::new();
            if !reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                return;
            }
            match line.trim_end().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", count)) => length = count.parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let question = question.rsplit_once(" HTTP/").unwrap().0;
        let body = String::from_utf8(body).unwrap();
        let answer = index.lock().unwrap().answer(question, &body, &mut present.lock().unwrap());
        let (status, body) = answer.unwrap_or_else(|why| (500, why.into()));
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len());
        if client.write_all(head.as_bytes()).and_then(|()| client.write_all(&body)).is_err() {
            return;
        }
    }
}
