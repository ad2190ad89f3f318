//! How payments stand: read off the chain as the wallet knows it now, never stored.

use super::error::ChainError;
use super::intent::{Intent, IntentId, IntentState, Kind, Record, Version};
use super::wallet::{Wallet, height};
use bdk_wallet::bitcoin::{OutPoint, ScriptBuf, Transaction, Txid};
use std::collections::HashMap;

/// Where every transaction that counts is.
pub(super) type Positions = HashMap<Txid, Option<u32>>;

impl Wallet {
    pub(super) fn record(&self, id: IntentId) -> Result<&Record, ChainError> {
        self.intents.get(&id).ok_or(ChainError::Unknown(id))
    }

    pub(super) fn positions(&self) -> Positions {
        self.library.transactions().map(|tx| (tx.tx_node.txid, height(&tx.chain_position))).collect()
    }

    pub(super) fn state_now(&self, record: &Record) -> IntentState {
        self.state(record, &self.positions())
    }

    pub(super) fn state(&self, record: &Record, positions: &Positions) -> IntentState {
        let in_block = |txid: &Txid| positions.get(txid).copied().flatten();
        for version in &record.versions {
            match (in_block(&version.tx.compute_txid()), version.kind) {
                (Some(height), Kind::Pay) => return IntentState::Confirmed { height },
                (Some(height), Kind::Cancel) => return IntentState::Cancelled { height: Some(height) },
                (None, _) => {}
            }
        }
        if record.void {
            return IntentState::Cancelled { height: None };
        }
        // What others put into a block in its place: final only where none of its transactions can follow any more.
        let graph = self.library.tx_graph();
        let conflict = |version: &Version| {
            let inputs = version.tx.input.iter().flat_map(|input| graph.outspends(input.previous_output));
            inputs.filter_map(|txid| Some((*txid, in_block(txid)?))).next()
        };
        let conflicts: Option<Vec<(Txid, u32)>> = record.versions.iter().map(conflict).collect();
        if let Some(&(by, height)) = conflicts.as_ref().and_then(|found| found.last()) {
            return IntentState::Replaced { by, height };
        }
        match (record.newest().kind, record.was_handed_out()) {
            (Kind::Cancel, _) => IntentState::Cancelling,
            (Kind::Pay, true) => IntentState::Broadcast,
            (Kind::Pay, false) => IntentState::Signed,
        }
    }

    /// A payment as it stands.
    pub(super) fn intent(&self, id: IntentId) -> Result<Intent, ChainError> {
        Ok(self.shown(id, self.record(id)?, &self.positions()))
    }

    /// Every payment as it stands.
    pub(super) fn intents(&self) -> Vec<Intent> {
        let positions = self.positions();
        self.intents.iter().map(|(id, record)| self.shown(*id, record, &positions)).collect()
    }

    fn shown(&self, id: IntentId, record: &Record, positions: &Positions) -> Intent {
        let txids: Vec<Txid> = record.versions.iter().map(|version| version.tx.compute_txid()).collect();
        let settled = txids.iter().position(|txid| positions.get(txid).copied().flatten().is_some());
        let counts = settled.and_then(|place| record.versions.get(place)).unwrap_or_else(|| record.newest());
        Intent {
            id,
            outputs: record.outputs.clone(),
            txid: counts.tx.compute_txid(),
            fee_sat: counts.fee_sat,
            state: self.state(record, positions),
            outpoints: self.outpoints(record, &counts.tx),
            txids,
        }
    }

    /// Where a transaction pays the outputs of its payment, in their order; nothing for one that takes it back.
    pub(super) fn outpoints(&self, record: &Record, tx: &Transaction) -> Vec<OutPoint> {
        let (txid, mut free) = (tx.compute_txid(), (0..tx.output.len()).collect::<Vec<_>>());
        let mut found = Vec::new();
        for (address, sat) in &record.outputs {
            let script: ScriptBuf = self.script(address).unwrap_or_default();
            let pays = |place: &usize| {
                tx.output
                    .get(*place)
                    .is_some_and(|output| output.script_pubkey == script && output.value.to_sat() == *sat)
            };
            let Some(at) = free.iter().position(pays) else { return Vec::new() };
            found.push(OutPoint { txid, vout: free.swap_remove(at) as u32 });
        }
        found
    }

    pub(super) fn intent_of(&self, txid: &Txid) -> Option<IntentId> {
        let of = |record: &&Record| record.versions.iter().any(|version| version.tx.compute_txid() == *txid);
        self.intents.iter().find(|(_, record)| of(record)).map(|(id, _)| *id)
    }

    /// The names of payments that may be in no block and must be known to the network.
    pub(super) fn open_intents(&self) -> Vec<IntentId> {
        let positions = self.positions();
        let open = self.intents.iter().filter(|(_, record)| self.state(record, &positions).is_open());
        open.map(|(id, _)| *id).collect()
    }
}
