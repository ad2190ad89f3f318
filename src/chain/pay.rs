//! Payments: prepared, handed out, replaced, taken back. Each step is on the disk before it is told.

use super::error::ChainError;
use super::intent::{Intent, IntentId, IntentState, Kind, Record, Version};
use super::store::Batch;
use super::wallet::{Wallet, master};
use bdk_wallet::bitcoin::psbt::Psbt;
use bdk_wallet::bitcoin::{Amount, FeeRate, Transaction, Txid};
use bdk_wallet::error::{BuildFeeBumpError, CreateTxError};
use bdk_wallet::{KeychainKind, TxBuilder};

impl Wallet {
    /// The payment of this name: signed, its coins taken, all of it on the disk. Nothing is sent. The same name again gives the same.
    pub(super) fn prepare(
        &mut self,
        id: IntentId,
        outputs: &[(String, u64)],
        rate: FeeRate,
        fee_max_sat: u64,
    ) -> Result<Intent, ChainError> {
        self.usable()?;
        if let Some(record) = self.intents.get(&id) {
            return if record.outputs == outputs { self.intent(id) } else { Err(ChainError::Different(id)) };
        }
        let mut recipients = Vec::new();
        for (address, sat) in outputs {
            recipients.push((self.script(address)?, Amount::from_sat(*sat)));
        }
        let mut builder = self.library.build_tx();
        builder.set_recipients(recipients).fee_rate(rate).exclude_unconfirmed();
        let psbt = builder.finish().map_err(|error| self.build_error(error, outputs))?;
        let (tx, fee_sat) = self.sign(psbt, fee_max_sat)?;
        let version = Version { kind: Kind::Pay, fee_sat, handed_out: false, tx };
        let record = Record { outputs: outputs.to_vec(), fee_max_sat, versions: vec![version], void: false };
        self.keep(id, record)
    }

    /// Puts the newest transaction of a payment into the library's view and everything on the disk, in one commit.
    fn keep(&mut self, id: IntentId, record: Record) -> Result<Intent, ChainError> {
        let tx = record.newest().tx.clone();
        for input in &tx.input {
            self.library.lock_outpoint(input.previous_output);
        }
        let seen = self.later();
        self.library.apply_unconfirmed_txs([(tx, seen)]);
        self.commit(Batch { intent: Some((id, &record)), ..Batch::default() })?;
        self.intents.insert(id, record);
        self.intent(id)
    }

    fn sign(&self, mut psbt: Psbt, fee_max_sat: u64) -> Result<(Transaction, u64), ChainError> {
        let build = |what: String| ChainError::Build(what);
        let fee = psbt.fee().map_err(|error| build(error.to_string()))?.to_sat();
        if fee > fee_max_sat {
            return Err(ChainError::Fee { fee, max: fee_max_sat });
        }
        let mut key = master(&self.seed, self.network)?;
        let signed = psbt.sign(&key, self.library.secp_ctx());
        key.private_key.non_secure_erase();
        signed.map_err(|(_, errors)| build(format!("{errors:?}")))?;
        let outcome = self.library.try_finalize_psbt(&mut psbt).map_err(|error| build(error.to_string()))?;
        if !outcome.is_finalized() {
            return Err(build("it could not be signed".into()));
        }
        // The fee was held against its own limit above.
        Ok((psbt.extract_tx_unchecked_fee_rate(), fee))
    }

    fn build_error(&self, error: CreateTxError, outputs: &[(String, u64)]) -> ChainError {
        match error {
            CreateTxError::CoinSelection(short) => {
                let balance = self.balance();
                ChainError::Short {
                    needed: short.needed.to_sat(),
                    available: short.available.to_sat(),
                    pending: balance.change_sat + balance.incoming_sat,
                }
            }
            CreateTxError::OutputBelowDustLimit(place) => {
                ChainError::Dust { sat: outputs.get(place).map_or(0, |output| output.1) }
            }
            CreateTxError::FeeRateTooLow { required } => ChainError::FeeRate { required: per_kvb(required) },
            other => ChainError::Build(other.to_string()),
        }
    }

    /// The transaction to hand out. That it may have been seen is on the disk before this returns.
    pub(super) fn hand_out(&mut self, id: IntentId) -> Result<Transaction, ChainError> {
        self.usable()?;
        let mut record = self.record(id)?.clone();
        match self.state_now(&record) {
            IntentState::Signed | IntentState::Broadcast | IntentState::Cancelling | IntentState::Confirmed { .. } => {}
            state => return Err(wrong_state(id, state, "sent")),
        }
        let Some(newest) = record.versions.last_mut() else { return Err(ChainError::Unknown(id)) };
        let tx = newest.tx.clone();
        if !newest.handed_out {
            newest.handed_out = true;
            self.commit(Batch { intent: Some((id, &record)), ..Batch::default() })?;
            self.intents.insert(id, record);
        }
        Ok(tx)
    }

    /// A transaction that pays the same with a higher fee.
    pub(super) fn bump(&mut self, id: IntentId, rate: FeeRate, fee_max_sat: u64) -> Result<Intent, ChainError> {
        let record = self.record(id)?.clone();
        let kind = record.newest().kind;
        self.replace(id, record, kind, rate, fee_max_sat, "paid a higher fee for")
    }

    /// Takes a payment back: at once where nobody saw it, else by a payment to ourselves that spends the same coins.
    pub(super) fn cancel(&mut self, id: IntentId, rate: FeeRate, fee_max_sat: u64) -> Result<Intent, ChainError> {
        self.usable()?;
        let mut record = self.record(id)?.clone();
        if record.was_handed_out() || record.void {
            return self.replace(id, record, Kind::Cancel, rate, fee_max_sat, "cancelled");
        }
        // The newest first: the library takes out only what counts, and the one before counts when that is gone.
        for version in record.versions.iter().rev() {
            for input in &version.tx.input {
                self.library.unlock_outpoint(input.previous_output);
            }
            let seen = self.later();
            self.library.apply_evicted_txs([(version.tx.compute_txid(), seen)]);
        }
        record.void = true;
        self.commit(Batch { intent: Some((id, &record)), ..Batch::default() })?;
        self.intents.insert(id, record);
        self.intent(id)
    }

    fn replace(
        &mut self,
        id: IntentId,
        mut record: Record,
        kind: Kind,
        rate: FeeRate,
        fee_max_sat: u64,
        wish: &'static str,
    ) -> Result<Intent, ChainError> {
        self.usable()?;
        let state = self.state_now(&record);
        if !state.is_open() {
            return Err(wrong_state(id, state, wish));
        }
        if self.is_built_upon(id, &record) {
            return Err(ChainError::State { id, state: "needed by another payment, which spends its change", wish });
        }
        let old = record.newest().tx.clone();
        let seen = self.later();
        // The library may have let go of it: a node that restarted has it no longer.
        self.library.apply_unconfirmed_txs([(old.clone(), seen)]);
        let change = match kind {
            Kind::Pay => None,
            Kind::Cancel => Some(self.library.next_unused_address(KeychainKind::Internal).script_pubkey()),
        };
        let bump_error = |error: BuildFeeBumpError| ChainError::Build(error.to_string());
        let mut builder: TxBuilder<'_, _> = self.library.build_fee_bump(old.compute_txid()).map_err(bump_error)?;
        builder.fee_rate(rate).exclude_unconfirmed();
        if let Some(change) = change {
            builder.set_recipients(Vec::new()).drain_to(change).manually_selected_only();
        }
        let psbt = builder.finish().map_err(|error| self.build_error(error, &record.outputs))?;
        let (tx, fee_sat) = self.sign(psbt, fee_max_sat)?;
        // Whatever the library does: two transactions of one payment never both fit into the chain, and both pay the same.
        let common =
            tx.input.iter().any(|input| old.input.iter().any(|other| other.previous_output == input.previous_output));
        if !common || (kind == Kind::Pay && self.outpoints(&record, &tx).len() != record.outputs.len()) {
            return Err(ChainError::Build("the replacement does not take the place of the payment".into()));
        }
        record.fee_max_sat = record.fee_max_sat.max(fee_max_sat);
        record.versions.push(Version { kind, fee_sat, handed_out: false, tx });
        self.keep(id, record)
    }

    /// Whether another open payment spends what this one gives back to us.
    fn is_built_upon(&self, id: IntentId, record: &Record) -> bool {
        let ours: Vec<Txid> = record.versions.iter().map(|version| version.tx.compute_txid()).collect();
        let positions = self.positions();
        let open = |other: &Record| self.state(other, &positions).is_open();
        let spends =
            |other: &Record| other.newest().tx.input.iter().any(|input| ours.contains(&input.previous_output.txid));
        self.intents.iter().any(|(other, record)| *other != id && open(record) && spends(record))
    }
}

fn wrong_state(id: IntentId, state: IntentState, wish: &'static str) -> ChainError {
    let state = match state {
        IntentState::Signed => "signed",
        IntentState::Broadcast => "broadcast",
        IntentState::Confirmed { .. } => "in a block",
        IntentState::Cancelling => "being cancelled",
        IntentState::Cancelled { .. } => "cancelled",
        IntentState::Replaced { .. } => "replaced by another transaction",
    };
    ChainError::State { id, state, wish }
}

fn per_kvb(rate: FeeRate) -> u64 {
    rate.to_sat_per_kwu() * 4
}
