//! Chain data from an Electrum server.

use super::indexed::{Scan, Server};
use bdk_electrum::BdkElectrumClient;
use bdk_electrum::electrum_client::raw_client::{ElectrumPlaintextStream, RawClient};
use bdk_electrum::electrum_client::{ElectrumApi, Error};
use bdk_wallet::KeychainKind;
use bdk_wallet::bitcoin::block::Header;
use bdk_wallet::bitcoin::{FeeRate, Transaction};
use bdk_wallet::chain::BlockId;
use bdk_wallet::chain::spk_client::FullScanRequest;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Addresses that are asked for at a time.
const BATCH: usize = 50;
/// Blocks within which an estimated fee should do.
const FEE_TARGET: usize = 6;

/// A connection with a server.
pub(super) struct Electrum {
    name: String,
    /// Asked by one thread at a time: in electrum-client 0.25 one of two that ask at once may wait for ever for word from the other.
    client: Mutex<Client>,
}

type Client = BdkElectrumClient<RawClient<ElectrumPlaintextStream>>;

impl Electrum {
    fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
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
        Error::IOError(_) | Error::SharedIOError(_) | Error::Mpsc => format!("{name} does not answer: {error}"),
        other => format!("{name} gives an answer that is not understood: {other}"),
    }
}

impl Server for Electrum {
    fn name(url: &str) -> String {
        format!("the Electrum server at {url}")
    }

    fn connect(url: &str) -> Result<Electrum, String> {
        let name = Electrum::name(url);
        let place = url.strip_prefix("tcp://").unwrap_or(url);
        let client = RawClient::new(place, Some(ANSWER_MAX), None).map_err(|error| said(&name, error))?;
        Ok(Electrum { name, client: Mutex::new(BdkElectrumClient::new(client)) })
    }

    fn know(&self, txs: Vec<Arc<Transaction>>) {
        self.client().populate_tx_cache(txs);
    }

    fn tip(&self) -> Result<BlockId, String> {
        let tip = self.client().inner.block_headers_subscribe().map_err(|error| self.said(error))?;
        let height = u32::try_from(tip.height).map_err(|_| format!("{} has too long a chain", self.name))?;
        Ok(BlockId { height, hash: tip.header.block_hash() })
    }

    fn headers(&self, from: u32, count: u32) -> Result<Vec<Header>, String> {
        let found = self.client().inner.block_headers(from as usize, count as usize);
        Ok(found.map_err(|error| self.said(error))?.headers)
    }

    fn scan(&self, request: FullScanRequest<KeychainKind>, gap: usize) -> Result<Scan, String> {
        // The library holds the proof of each transaction against its block's header.
        self.client().full_scan(request, gap, BATCH, false).map_err(|error| self.said(error))
    }

    fn send(&self, tx: &Transaction) -> Result<(), String> {
        let client = self.client();
        let Err(refused) = client.transaction_broadcast(tx) else { return Ok(()) };
        // It may be in a block already.
        let txid = tx.compute_txid();
        let there = client.inner.transaction_get(&txid);
        if there.is_ok_and(|there| there.compute_txid() == txid) { Ok(()) } else { Err(self.said(refused)) }
    }

    fn fee_rate(&self) -> Option<FeeRate> {
        let coins = self.client().inner.estimate_fee(FEE_TARGET, None).ok()?;
        let sat_per_kwu = (coins * 1e8 / 4.0).ceil();
        // Below zero it does not know; whatever it says is held against the caller's limit.
        (sat_per_kwu > 0.0).then(|| FeeRate::from_sat_per_kwu(sat_per_kwu as u64))
    }
}
