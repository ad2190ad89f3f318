//! Chain data from an Electrum server.

use super::indexed::{ANSWER_BYTES, ANSWER_TIME, FEE_TARGET, Server};
use super::proof::Proof;
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::hashes::Hash;
use bdk_wallet::bitcoin::{FeeRate, ScriptBuf, Transaction, TxMerkleNode, Txid};
use bdk_wallet::chain::BlockId;
use electrum_client::raw_client::RawClient;
use electrum_client::{ElectrumApi, Error, GetMerkleRes};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A connection with a server.
pub(super) struct Electrum {
    name: String,
    /// Asked by one thread at a time: in electrum-client 0.25 one of two that ask at once may wait for ever for word from the other.
    client: Mutex<Client>,
    bounds: Arc<Mutex<Bounds>>,
}

type Client = RawClient<Bounded>;

/// What is left for the present answer.
struct Bounds {
    bytes: u64,
    until: Instant,
}

impl Bounds {
    fn new() -> Bounds {
        Bounds { bytes: ANSWER_BYTES, until: Instant::now() + ANSWER_TIME }
    }
}

/// A stream that ends where its bounds do: the library reads a line however long it is.
struct Bounded {
    stream: TcpStream,
    bounds: Arc<Mutex<Bounds>>,
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut bounds = self.bounds.lock().unwrap_or_else(PoisonError::into_inner);
        let left = bounds.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        if bounds.bytes == 0 {
            return Err(io::Error::other(format!("its answer is longer than {} MiB", ANSWER_BYTES >> 20)));
        }
        self.stream.set_read_timeout(Some(left))?;
        let count = self.stream.read(into).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => late(),
            _ => error,
        })?;
        bounds.bytes = bounds.bytes.saturating_sub(count as u64);
        Ok(count)
    }
}

fn late() -> io::Error {
    io::Error::other(format!("its answer took more than {} seconds", ANSWER_TIME.as_secs()))
}

impl Write for Bounded {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Electrum {
    /// For one question.
    fn client(&self) -> MutexGuard<'_, Client> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        *self.bounds.lock().unwrap_or_else(PoisonError::into_inner) = Bounds::new();
        client
    }

    fn said(&self, error: Error) -> String {
        said(&self.name, error)
    }
}

fn said(name: &str, error: Error) -> String {
    match error {
        Error::Protocol(said) => {
            let words = said.get("message").and_then(|words| words.as_str()).map(str::to_string);
            format!("{name} says: {}", words.unwrap_or_else(|| said.to_string()))
        }
        Error::IOError(_) | Error::SharedIOError(_) | Error::Mpsc => away(name, &error),
        other => format!("{name} gives an answer that is not understood: {other}"),
    }
}

fn away(name: &str, why: &dyn std::fmt::Display) -> String {
    format!("{name} does not answer: {why}; start it, or set {} to one that runs", Electrum::KEY)
}

/// The first of its addresses that takes a connection.
fn dial(place: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("the name has no address");
    for address in place.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ANSWER_TIME) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn proof(shown: GetMerkleRes) -> Proof {
    let beside = shown.merkle.into_iter().map(|mut hash| {
        hash.reverse();
        TxMerkleNode::from_byte_array(hash)
    });
    Proof { position: shown.pos as u64, beside: beside.collect() }
}

impl Server for Electrum {
    const KEY: &'static str = "payments.electrum";
    const BATCH: usize = 50;

    fn name(url: &str) -> String {
        format!("the Electrum server at {url}")
    }

    fn connect(url: &str) -> Result<Electrum, String> {
        let name = Electrum::name(url);
        let stream = dial(url.strip_prefix("tcp://").unwrap_or(url)).map_err(|error| away(&name, &error))?;
        stream.set_write_timeout(Some(ANSWER_TIME)).map_err(|error| away(&name, &error))?;
        let bounds = Arc::new(Mutex::new(Bounds::new()));
        let client = RawClient::from(Bounded { stream, bounds: bounds.clone() });
        // Servers want to be told before anything else which version is spoken.
        client.protocol_version().map_err(|error| said(&name, error))?;
        Ok(Electrum { name, client: Mutex::new(client), bounds })
    }

    fn tip(&self) -> Result<BlockId, String> {
        let tip = self.client().block_headers_subscribe().map_err(|error| self.said(error))?;
        let height = u32::try_from(tip.height).map_err(|_| format!("{} has too long a chain", self.name))?;
        Ok(BlockId { height, hash: tip.header.block_hash() })
    }

    fn headers(&self, from: u32, count: u32) -> Result<Vec<Header>, String> {
        let found = self.client().block_headers(from as usize, count as usize);
        Ok(found.map_err(|error| self.said(error))?.headers)
    }

    fn histories(&self, scripts: &[ScriptBuf]) -> Result<Vec<Vec<(Txid, u32)>>, String> {
        let found = self.client().batch_script_get_history(scripts.iter().map(ScriptBuf::as_script));
        let in_blocks = |uses: Vec<electrum_client::GetHistoryRes>| {
            // Those that wait have a height of nought or less.
            let uses = uses.into_iter().filter(|one| one.height > 0);
            uses.map(|one| (one.tx_hash, one.height.unsigned_abs())).collect()
        };
        Ok(found.map_err(|error| self.said(error))?.into_iter().map(in_blocks).collect())
    }

    fn transactions(&self, txids: &[Txid]) -> Result<Vec<Transaction>, String> {
        self.client().batch_transaction_get(txids).map_err(|error| self.said(error))
    }

    fn proofs(&self, places: &[(Txid, u32)]) -> Result<Vec<Option<Proof>>, String> {
        let places: Vec<(Txid, usize)> = places.iter().map(|(txid, height)| (*txid, *height as usize)).collect();
        let found = self.client().batch_transaction_get_merkle(places);
        Ok(found.map_err(|error| self.said(error))?.into_iter().map(|shown| Some(proof(shown))).collect())
    }

    fn send(&self, tx: &Transaction) -> Result<(), String> {
        let Err(refused) = self.client().transaction_broadcast(tx) else { return Ok(()) };
        // It may be in a block already.
        let txid = tx.compute_txid();
        let there = self.client().transaction_get(&txid);
        if there.is_ok_and(|there| there.compute_txid() == txid) { Ok(()) } else { Err(self.said(refused)) }
    }

    fn fee_rate(&self) -> Option<FeeRate> {
        let coins = self.client().estimate_fee(usize::from(FEE_TARGET), None).ok()?;
        let sat_per_kwu = (coins * 1e8 / 4.0).ceil();
        // Below zero it does not know; whatever it says is held against the caller's limit.
        (sat_per_kwu > 0.0).then(|| FeeRate::from_sat_per_kwu(sat_per_kwu as u64))
    }
}
