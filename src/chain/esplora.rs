//! Chain data from an Esplora server, over HTTP.

use super::indexed::{ANSWER_BYTES, ANSWER_TIME, FEE_TARGET, Server};
use super::proof::Proof;
use bdk_wallet::bitcoin::block::{Header, Version};
use bdk_wallet::bitcoin::consensus::encode::{deserialize, serialize_hex};
use bdk_wallet::bitcoin::hashes::{Hash, sha256};
use bdk_wallet::bitcoin::{BlockHash, CompactTarget, FeeRate, ScriptBuf, Transaction, TxMerkleNode, Txid};
use bdk_wallet::chain::BlockId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body, Error};

/// Blocks that it tells of at a time.
const BLOCKS: u32 = 10;
/// Uses of an address that it tells of at a time: fewer are the last ones.
const PAGE: usize = 25;
/// Uses of one address that it may name.
const USES_MAX: usize = 100_000;
/// How often one of another machine is asked for new blocks.
const PAUSE_FAR: Duration = Duration::from_secs(10);
/// How much of what it says in words is handed on.
const WORDS_MAX: usize = 200;

/// A server. Its connections are kept between questions.
pub(super) struct Esplora {
    name: String,
    url: String,
    agent: Agent,
}

/// A block as it is told of.
#[derive(Deserialize)]
struct Block {
    height: u32,
    version: i64,
    timestamp: u32,
    bits: u32,
    nonce: u32,
    merkle_root: TxMerkleNode,
    previousblockhash: Option<BlockHash>,
}

impl Block {
    /// Its header by its parts; whether that is the one that it claims to be its hash shows.
    fn header(&self) -> Header {
        Header {
            // Written without its sign by some.
            version: Version::from_consensus(self.version as i32),
            prev_blockhash: self.previousblockhash.unwrap_or_else(BlockHash::all_zeros),
            merkle_root: self.merkle_root,
            time: self.timestamp,
            bits: CompactTarget::from_consensus(self.bits),
            nonce: self.nonce,
        }
    }
}

/// A use of an address.
#[derive(Deserialize)]
struct Use {
    txid: Txid,
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    block_height: Option<u32>,
}

#[derive(Deserialize)]
struct Shown {
    block_height: u32,
    pos: u64,
    merkle: Vec<TxMerkleNode>,
}

impl Esplora {
    /// Where the request is about something that the server does not know, `None`.
    fn ask(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        self.read(self.agent.get(format!("{}{path}", self.url)).call())
    }

    fn ask_json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, String> {
        let Some(answer) = self.ask(path)? else { return Ok(None) };
        serde_json::from_slice(&answer).map(Some).map_err(|error| self.odd(&error))
    }

    fn read(&self, answer: Result<Response<Body>, Error>) -> Result<Option<Vec<u8>>, String> {
        let answer = answer.map_err(|error| self.away(error))?;
        let status = answer.status();
        let body = answer.into_body().into_with_config().limit(ANSWER_BYTES).read_to_vec();
        let body = body.map_err(|error| self.away(error))?;
        match status.as_u16() {
            200 => Ok(Some(body)),
            404 => Ok(None),
            300..400 => Err(format!("{} leads elsewhere ({status}): set {} to where it leads", self.name, Self::KEY)),
            429 => Err(format!("{} is asked too much ({status}): it is asked again later", self.name)),
            _ => Err(format!("{} says: {} ({status})", self.name, words(&body))),
        }
    }

    fn away(&self, error: Error) -> String {
        let why = match error {
            Error::Timeout(_) => format!("its answer took more than {} seconds", ANSWER_TIME.as_secs()),
            Error::BodyExceedsLimit(_) => format!("its answer is longer than {} MiB", ANSWER_BYTES >> 20),
            Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        format!("{} does not answer: {why}; start it, or set {} to one that runs", self.name, Self::KEY)
    }

    fn odd(&self, what: &dyn Display) -> String {
        format!(
            "{} gives an answer that is not understood: {what}; {} must name where its REST interface begins, as in \
             \"https://esplora.example/api\"",
            self.name,
            Self::KEY
        )
    }

    /// Blocks from the one at this height down, or from the newest one, as many as it likes.
    fn blocks(&self, from: Option<u32>) -> Result<Option<Vec<Block>>, String> {
        self.ask_json(&from.map_or("/blocks".to_string(), |from| format!("/blocks/{from}")))
    }

    fn history(&self, script: &ScriptBuf) -> Result<Vec<(Txid, u32)>, String> {
        let first = format!("/scripthash/{:x}/txs/chain", sha256::Hash::hash(script.as_bytes()));
        let (mut path, mut known, mut history) = (first.clone(), HashSet::new(), Vec::new());
        loop {
            let page: Vec<Use> = self.ask_json(&path)?.ok_or_else(|| self.odd(&"it has no addresses"))?;
            let count = page.len();
            for one in page {
                let Some(height) = one.status.block_height.filter(|_| known.insert(one.txid)) else {
                    return Err(self.odd(&"a page of uses that is not the next one"));
                };
                path = format!("{first}/{}", one.txid);
                history.push((one.txid, height));
            }
            if history.len() > USES_MAX {
                return Err(format!("{} is not believed: it names more than {USES_MAX} uses of an address", self.name));
            }
            if count < PAGE {
                return Ok(history);
            }
        }
    }

    fn transaction(&self, txid: Txid) -> Result<Option<Transaction>, String> {
        let Some(answer) = self.ask(&format!("/tx/{txid}/raw"))? else { return Ok(None) };
        deserialize(&answer).map(Some).map_err(|error| self.odd(&error))
    }

    fn proof(&self, txid: Txid, height: u32) -> Result<Option<Proof>, String> {
        let shown: Option<Shown> = self.ask_json(&format!("/tx/{txid}/merkle-proof"))?;
        let shown = shown.filter(|shown| shown.block_height == height);
        Ok(shown.map(|shown| Proof { position: shown.pos, beside: shown.merkle }))
    }
}

/// What a server says in words, as far as it fits into a line.
fn words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect::<String>().trim().to_string()
}

/// Whether it runs on this machine.
fn is_near(url: &str) -> bool {
    url.starts_with("http://")
}

impl Server for Esplora {
    const KEY: &'static str = "payments.esplora";
    /// Each address is a question of its own.
    const BATCH: usize = 10;

    fn name(url: &str) -> String {
        format!("the Esplora server at {url}")
    }

    fn connect(url: &str) -> Result<Esplora, String> {
        let config = Agent::config_builder()
            .timeout_global(Some(ANSWER_TIME))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Who is asked is what the settings say, whatever variables say.
            .proxy(None)
            .user_agent("tornet");
        let url = url.trim_end_matches('/').to_string();
        Ok(Esplora { name: Esplora::name(&url), url, agent: config.build().new_agent() })
    }

    fn pause(&self) -> Duration {
        if is_near(&self.url) { Duration::from_secs(1) } else { PAUSE_FAR }
    }

    fn tip(&self) -> Result<BlockId, String> {
        let blocks = self.blocks(None)?.unwrap_or_default();
        let newest = blocks.iter().max_by_key(|block| block.height).ok_or_else(|| self.odd(&"it has no blocks"))?;
        Ok(BlockId { height: newest.height, hash: newest.header().block_hash() })
    }

    fn headers(&self, from: u32, count: u32) -> Result<Vec<Header>, String> {
        let last = from.saturating_add(count.clamp(1, BLOCKS) - 1);
        let blocks = match self.blocks(Some(last))? {
            Some(blocks) => blocks,
            None if from == 0 => return Err(self.odd(&"it has no blocks")),
            None => return Ok(Vec::new()),
        };
        let blocks: BTreeMap<u32, Header> = blocks.iter().map(|block| (block.height, block.header())).collect();
        Ok((from..=last).map_while(|height| blocks.get(&height).copied()).collect())
    }

    fn histories(&self, scripts: &[ScriptBuf]) -> Result<Vec<Vec<(Txid, u32)>>, String> {
        scripts.iter().map(|script| self.history(script)).collect()
    }

    fn transactions(&self, txids: &[Txid]) -> Result<Vec<Transaction>, String> {
        let one = |txid: &Txid| self.transaction(*txid)?.ok_or_else(|| self.odd(&format!("it does not know {txid}")));
        txids.iter().map(one).collect()
    }

    fn proofs(&self, places: &[(Txid, u32)]) -> Result<Vec<Option<Proof>>, String> {
        places.iter().map(|(txid, height)| self.proof(*txid, *height)).collect()
    }

    fn send(&self, tx: &Transaction) -> Result<(), String> {
        let sent = self.read(self.agent.post(format!("{}/tx", self.url)).send(serialize_hex(tx)));
        match sent.and_then(|answer| answer.ok_or_else(|| self.odd(&"it takes no transactions"))) {
            Ok(_) => Ok(()),
            Err(refused) => {
                // It may be in a block already.
                let txid = tx.compute_txid();
                let there = self.transaction(txid).ok().flatten();
                if there.is_some_and(|there| there.compute_txid() == txid) { Ok(()) } else { Err(refused) }
            }
        }
    }

    fn fee_rate(&self) -> Option<FeeRate> {
        let known: BTreeMap<u16, f64> = self.ask_json("/fee-estimates").ok()??;
        let (_, sat_per_vb) = known.range(..=FEE_TARGET).next_back()?;
        // Whatever it says is held against the caller's limit.
        (*sat_per_vb > 0.0).then(|| FeeRate::from_sat_per_kwu((sat_per_vb * 250.0).ceil() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    /// A server that answers every question so.
    fn answering(status: &'static str, body: &'static str) -> Esplora {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let lines = BufReader::new(client.try_clone().unwrap()).lines();
                let _ = lines.map_while(Result::ok).find(String::is_empty);
                let answer = format!(
                    "HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:{port}/elsewhere\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = client.write_all(answer.as_bytes());
            }
        });
        Esplora::connect(&format!("http://127.0.0.1:{port}/api/")).unwrap()
    }

    #[test]
    fn header_is_read_from_the_parts_of_a_block() {
        // Blocks 0 and 1 of the real network; and one whose version has its highest bit set, written without sign.
        let text = r#"[{"id":"00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048","height":1,"version":1,
            "timestamp":1231469665,"tx_count":1,"size":215,"weight":860,"nonce":2573394689,"bits":486604799,"difficulty":1,
            "merkle_root":"0e3e2357e806b6cdb1f70b54c3a3a17b6714ee1f0e68bebb44a74b1efd512098",
            "previousblockhash":"000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f","mediantime":1231469665},
            {"id":"000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f","height":0,"version":1,
            "timestamp":1231006505,"tx_count":1,"size":285,"weight":1140,"nonce":2083236893,"bits":486604799,"difficulty":1,
            "merkle_root":"4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b","previousblockhash":null}]"#;
        let server = answering("200 OK", text);
        let headers = server.headers(0, 2).unwrap();
        let hashes: Vec<String> = headers.iter().map(|header| header.block_hash().to_string()).collect();
        assert_eq!(hashes[0], "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f");
        assert_eq!(hashes[1], "00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048");
        assert_eq!(server.tip().unwrap().height, 1);
        assert_eq!(server.headers(1, 1).unwrap(), headers[1..]);
        assert_eq!(server.headers(2, 5).unwrap(), [], "not what was asked for");
        let block = r#"{"height":7,"version":3758096384,"timestamp":1,"nonce":1,"bits":1,
            "merkle_root":"4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"}"#;
        let block: Block = serde_json::from_str(block).unwrap();
        assert_eq!(block.header().version.to_consensus(), 0xe000_0000_u32 as i32);
    }

    #[test]
    fn fee_is_that_of_the_target_or_of_a_nearer_one() {
        let rate = |text| answering("200 OK", text).fee_rate().map(FeeRate::to_sat_per_kwu);
        let usual =
            r#"{ "2": 87.882, "3": 87.882, "4": 87.882, "5": 81.129, "6": 68.285, "10": 1.027, "1008": 1.027 }"#;
        assert_eq!(rate(usual), Some(17_072));
        assert_eq!(rate(r#"{ "1": 3.0, "4": 2, "10": 1 }"#), Some(500));
        for none in ["{}", r#"{ "10": 1 }"#, r#"{ "6": -1 }"#, r#"{ "6": "x" }"#, "", "<html>"] {
            assert_eq!(rate(none), None, "{none}");
        }
        assert_eq!(rate(r#"{ "6": 1e300 }"#), Some(u64::MAX), "the caller's limit holds");
    }

    #[test]
    fn what_is_no_answer_is_told_with_its_remedy() {
        let said = |status, body| answering(status, body).headers(0, 1).unwrap_err();
        let page = said("200 OK", "<html>a page for people</html>");
        assert!(
            page.contains("is not understood") && page.contains("payments.esplora must name where its REST"),
            "{page}"
        );
        let none = said("404 Not Found", "endpoint does not exist");
        assert!(none.contains("payments.esplora must name where its REST interface begins"), "{none}");
        let moved = said("301 Moved", "");
        assert!(
            moved.contains("leads elsewhere") && moved.contains("set payments.esplora to where it leads"),
            "{moved}"
        );
        assert!(said("429 Too Many Requests", "").contains("is asked too much"));
        let broken = said("500 Internal Server Error", "no\r\n\x1b[31mluck");
        assert!(broken.ends_with("says: no   [31mluck (500 Internal Server Error)"), "{broken}");
    }

    #[test]
    fn page_of_uses_that_repeats_is_refused() {
        let one = r#"{"txid":"f4184fc596403b9d638783cf57adfe4c75c605f6356fbc91338530e9831e9e16","status":{"block_height":170}}"#;
        let page: &'static str = format!("[{}]", [one; PAGE].join(",")).leak();
        let same = answering("200 OK", page).histories(&[ScriptBuf::new()]).unwrap_err();
        assert!(same.contains("not the next one"), "{same}");
        let single: &'static str = format!("[{one}]").leak();
        let found = answering("200 OK", single).histories(&[ScriptBuf::new()]).unwrap();
        assert_eq!(found[0].iter().map(|(_, height)| *height).collect::<Vec<_>>(), [170]);
    }
}
