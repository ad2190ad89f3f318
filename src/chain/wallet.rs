//! The wallet library, our payments and their file as one: nothing is told that is not on the disk.

use super::error::ChainError;
use super::intent::{IntentId, Record};
use super::network::Network;
use super::seed::Seed;
use super::store::{Batch, Remembered, Store};
use bdk_wallet::bitcoin::bip32::Xpriv;
use bdk_wallet::bitcoin::{self, Address, Amount, OutPoint, ScriptBuf, Txid};
use bdk_wallet::chain::{ChainPosition, Merge};
use bdk_wallet::template::{Bip86, DescriptorTemplate};
use bdk_wallet::{KeychainKind, Wallet as Library};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// How many addresses behind the last revealed one are looked for in blocks.
pub(super) const LOOKAHEAD: u32 = 500;
/// How many addresses may be waited for at a time: fewer than are looked for, so that none is ever out of sight.
pub const ADDRESSES_OPEN_MAX: usize = 250;

const _: () =
    assert!(ADDRESSES_OPEN_MAX * 2 <= LOOKAHEAD as usize, "a light client is begun anew at half of what it looks for");
/// Blocks at the end of the chain that are remembered one by one; of older ones only those that matter.
const RECENT_BLOCKS: u32 = 24;

/// What a wallet that has no file yet is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Its seed was never used: no block before now can hold anything of it.
    New,
    /// Its seed may have been used: blocks are searched for its first addresses.
    Restored {
        /// From this height, where the source can begin there. The light client begins with the first block that can hold anything.
        height: u32,
        /// How many addresses are looked for at first.
        addresses: u32,
    },
}

/// What the wallet tells whoever listens. Who missed some finds the same in `intents`, `received` and `balance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The chain has a new end.
    Tip {
        /// Its height.
        height: u32,
    },
    /// A transaction of ours, or to us, is in a block.
    Confirmed {
        /// Which.
        txid: Txid,
        /// Height of the block.
        height: u32,
        /// The payment that it belongs to.
        intent: Option<IntentId>,
    },
    /// A transaction is no longer in a block: the chain was reorganised.
    Unconfirmed {
        /// Which.
        txid: Txid,
        /// The payment that it belongs to.
        intent: Option<IntentId>,
    },
    /// An address that was handed out was paid.
    Received {
        /// The address.
        address: String,
        /// The coin.
        outpoint: OutPoint,
        /// Its value.
        sat: u64,
        /// Height of its block, if it is in one.
        height: Option<u32>,
    },
}

/// A coin that was paid to one of our addresses, whether spent since or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub outpoint: OutPoint,
    /// Its value.
    pub sat: u64,
    /// Blocks that confirm it; 0 when it is in none.
    pub confirmations: u32,
}

/// What there is, in sat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// In blocks, and not taken by a payment.
    pub confirmed_sat: u64,
    /// Change of our own payments that are in no block yet.
    pub change_sat: u64,
    /// Paid to us, in no block yet.
    pub incoming_sat: u64,
    /// Mined by ourselves, not spendable yet.
    pub immature_sat: u64,
}

/// A transaction that concerned us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// Which.
    pub txid: Txid,
    /// Height of its block, if it is in one.
    pub height: Option<u32>,
    /// Time of its block, else when it was first seen (Unix seconds).
    pub time: u64,
    /// What it brought us, change included.
    pub received_sat: u64,
    /// What of ours it spent.
    pub sent_sat: u64,
    /// What it paid to miners, where that is known.
    pub fee_sat: Option<u64>,
    /// The payment that it belongs to.
    pub intent: Option<IntentId>,
}

/// The open wallet.
pub(super) struct Wallet {
    pub(super) library: Library,
    pub(super) store: Store,
    pub(super) intents: BTreeMap<IntentId, Record>,
    /// Addresses that were handed out and are waited for, by number.
    invoices: BTreeSet<u32>,
    pub(super) network: Network,
    start: Start,
    pub(super) seed: Zeroizing<[u8; 64]>,
    /// The latest time that a transaction of ours was given: a later one wins over an earlier.
    seen: u64,
    /// Why nothing more is written.
    failed: Option<String>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The key of all keys; to be erased after use.
pub(super) fn master(seed: &[u8; 64], network: Network) -> Result<Xpriv, ChainError> {
    Xpriv::new_master(bitcoin::Network::from(network), seed).map_err(|error| ChainError::Build(error.to_string()))
}

impl Wallet {
    /// Opens the wallet of `seed`, or makes it.
    pub(super) fn open(file: &Path, seed: &Seed, network: Network, start: Start) -> Result<Wallet, ChainError> {
        let seed = seed.bytes();
        let (mut store, remembered) = Store::open(file)?;
        let start = remembered.start.unwrap_or(start);
        let Remembered { wallet, intents, invoices, .. } = remembered;
        let library = load(wallet, &seed, network, start, &mut store)?;
        let invoices = invoices.into_iter().collect();
        let mut wallet = Wallet { library, store, intents, invoices, network, start, seed, seen: now(), failed: None };
        wallet.hold_open_intents();
        wallet.commit(Batch::default())?;
        Ok(wallet)
    }

    /// Whatever else the file says: coins of a payment that may still be made are taken.
    fn hold_open_intents(&mut self) {
        let positions = self.positions();
        let open = self.intents.values().filter(|record| self.state(record, &positions).is_open());
        let (mut inputs, mut txs) = (Vec::new(), Vec::new());
        for record in open {
            inputs.extend(
                record.versions.iter().flat_map(|version| &version.tx.input).map(|input| input.previous_output),
            );
            txs.push(record.newest().tx.clone());
        }
        inputs.into_iter().for_each(|input| self.library.lock_outpoint(input));
        for tx in txs {
            let seen = self.later();
            self.library.apply_unconfirmed_txs([(tx, seen)]);
        }
    }

    /// A time for a transaction of ours that is later than any before: with it, it wins over an earlier one.
    pub(super) fn later(&mut self) -> u64 {
        self.seen = (self.seen + 1).max(now() + 1);
        self.seen
    }

    /// What the wallet was taken for when its file was made.
    pub(super) fn start(&self) -> Start {
        self.start
    }

    /// Whether no end of the chain was ever reached.
    pub(super) fn is_blank(&self) -> bool {
        self.height() == 0
    }

    /// Up to which number addresses were handed out.
    pub(super) fn revealed(&self) -> Option<u32> {
        self.library.derivation_index(KeychainKind::External)
    }

    /// The library's view, for a source that needs it whole.
    pub(super) fn library(&self) -> &Library {
        &self.library
    }

    /// Writes what the library changed together with `batch`. After a failure nothing is written any more, as memory and disk differ.
    pub(super) fn commit(&mut self, batch: Batch<'_>) -> Result<(), ChainError> {
        if let Some(why) = &self.failed {
            return Err(ChainError::Failed(why.clone()));
        }
        let staged = self.library.take_staged();
        if staged.is_none()
            && batch.intent.is_none()
            && batch.invoices_opened.is_empty()
            && batch.invoices_closed.is_empty()
        {
            return Ok(());
        }
        self.store.commit(Batch { wallet: staged, ..batch }).map_err(|error| {
            self.failed = Some(error.to_string());
            error.into()
        })
    }

    /// Fails when nothing can be written any more.
    pub(super) fn usable(&self) -> Result<(), ChainError> {
        self.failed.clone().map_or(Ok(()), |why| Err(ChainError::Failed(why)))
    }

    // Receiving.

    /// An address that was never handed out before, on the disk before it is returned.
    pub(super) fn fresh_address(&mut self) -> Result<(u32, String), ChainError> {
        self.usable()?;
        if self.invoices.len() >= ADDRESSES_OPEN_MAX {
            return Err(ChainError::TooManyAddresses { max: ADDRESSES_OPEN_MAX });
        }
        let info = self.library.reveal_next_address(KeychainKind::External);
        self.commit(Batch { invoices_opened: &[info.index], ..Batch::default() })?;
        self.invoices.insert(info.index);
        Ok((info.index, info.address.to_string()))
    }

    /// The address is no longer waited for. What is paid to it later is still found.
    pub(super) fn release(&mut self, address: &str) -> Result<(), ChainError> {
        if let Some(number) = self.number_of(address)?.filter(|number| self.invoices.contains(number)) {
            self.commit(Batch { invoices_closed: &[number], ..Batch::default() })?;
            self.invoices.remove(&number);
        }
        Ok(())
    }

    /// The number of an address of ours that is for others to pay to.
    fn number_of(&self, address: &str) -> Result<Option<u32>, ChainError> {
        let script = self.script(address)?;
        Ok(self
            .library
            .derivation_of_spk(script)
            .filter(|(kind, _)| *kind == KeychainKind::External)
            .map(|found| found.1))
    }

    /// What was paid to an address of ours.
    pub(super) fn received(&self, address: &str) -> Result<Vec<Received>, ChainError> {
        let script = self.script(address)?;
        let tip = self.height();
        let outputs = self.library.list_output().filter(|output| output.txout.script_pubkey == script);
        let coin = |output: bdk_wallet::LocalOutput| Received {
            outpoint: output.outpoint,
            sat: output.txout.value.to_sat(),
            confirmations: height(&output.chain_position).map_or(0, |height| (tip + 1).saturating_sub(height)),
        };
        Ok(outputs.map(coin).collect())
    }

    /// Height of the newest block that is known.
    pub(super) fn height(&self) -> u32 {
        self.library.latest_checkpoint().height()
    }

    /// What there is.
    pub(super) fn balance(&self) -> Balance {
        let balance = self.library.balance();
        Balance {
            confirmed_sat: balance.confirmed.to_sat(),
            change_sat: balance.trusted_pending.to_sat(),
            incoming_sat: balance.untrusted_pending.to_sat(),
            immature_sat: balance.immature.to_sat(),
        }
    }

    /// Every transaction that concerned us, the newest first.
    pub(super) fn history(&self) -> Vec<Movement> {
        let mut history: Vec<Movement> = (self.library.transactions())
            .map(|tx| {
                let (sent, received) = self.library.sent_and_received(&tx.tx_node.tx);
                let (height, time) = match &tx.chain_position {
                    ChainPosition::Confirmed { anchor, .. } => (Some(anchor.block_id.height), anchor.confirmation_time),
                    ChainPosition::Unconfirmed { first_seen, last_seen } => {
                        (None, first_seen.or(*last_seen).unwrap_or(0))
                    }
                };
                Movement {
                    txid: tx.tx_node.txid,
                    height,
                    time,
                    received_sat: received.to_sat(),
                    sent_sat: sent.to_sat(),
                    fee_sat: self.library.calculate_fee(&tx.tx_node.tx).ok().map(Amount::to_sat),
                    intent: self.intent_of(&tx.tx_node.txid),
                }
            })
            .collect();
        history.sort_by_key(|movement| std::cmp::Reverse((movement.height.unwrap_or(u32::MAX), movement.time)));
        history
    }

    pub(super) fn script(&self, address: &str) -> Result<ScriptBuf, ChainError> {
        let network = self.network;
        let wrong = |why: String| ChainError::Address { address: address.into(), network, why };
        let parsed = Address::from_str(address).map_err(|error| wrong(error.to_string()))?;
        let valid = parsed.require_network(network.into()).map_err(|error| wrong(error.to_string()))?;
        Ok(valid.script_pubkey())
    }

    // Following the chain.

    /// Applies what a source found, and writes it down; gives what became otherwise.
    pub(super) fn apply<T>(
        &mut self,
        change: impl FnOnce(&mut Library) -> Result<T, String>,
    ) -> Result<Vec<Event>, String> {
        self.usable().map_err(|error| error.to_string())?;
        let (tip, before) = (self.library.latest_checkpoint().block_id(), self.positions());
        change(&mut self.library)?;
        let after = self.positions();
        let mut events = Vec::new();
        if self.library.latest_checkpoint().block_id() != tip {
            events.push(Event::Tip { height: self.height() });
        }
        for (txid, height) in &after {
            let old = before.get(txid);
            if old == Some(height) {
                continue;
            }
            match (old, height) {
                (Some(Some(_)), None) => events.push(Event::Unconfirmed { txid: *txid, intent: self.intent_of(txid) }),
                (_, Some(height)) => {
                    events.push(Event::Confirmed { txid: *txid, height: *height, intent: self.intent_of(txid) });
                }
                (_, None) => {}
            }
            self.tell_received(txid, *height, &mut events);
        }
        for (txid, height) in &before {
            if height.is_some() && !after.contains_key(txid) {
                events.push(Event::Unconfirmed { txid: *txid, intent: self.intent_of(txid) });
            }
        }
        let paid: Vec<u32> = self.invoices.iter().copied().filter(|number| self.is_paid(*number)).collect();
        self.commit(Batch { invoices_closed: &paid, ..Batch::default() }).map_err(|error| error.to_string())?;
        paid.iter().for_each(|number| {
            self.invoices.remove(number);
        });
        Ok(events)
    }

    /// An address that was paid in a block need not be waited for.
    fn is_paid(&self, number: u32) -> bool {
        let index = self.library.spk_index();
        index.last_used_index(KeychainKind::External).is_some_and(|last| number <= last)
            && index.is_used(KeychainKind::External, number)
    }

    fn tell_received(&self, txid: &Txid, height: Option<u32>, events: &mut Vec<Event>) {
        let Some(tx) = self.library.tx_graph().get_tx(*txid) else { return };
        for (place, output) in tx.output.iter().enumerate() {
            let Some((KeychainKind::External, number)) = self.library.derivation_of_spk(output.script_pubkey.clone())
            else {
                continue;
            };
            let address = self.library.peek_address(KeychainKind::External, number).address.to_string();
            let outpoint = OutPoint { txid: *txid, vout: place as u32 };
            events.push(Event::Received { address, outpoint, sat: output.value.to_sat(), height });
        }
    }

    /// The heights of blocks that must stay in the wallet's chain: all that it knows, and the newest of `tip`.
    pub(super) fn heights_kept(&self, tip: u32) -> BTreeSet<u32> {
        let known = self.library.checkpoints().map(|block| block.height());
        known.chain(tip.saturating_sub(RECENT_BLOCKS)..=tip).collect()
    }
}

/// Height of the block of a transaction, if it is in one.
pub(super) fn height<A: bdk_wallet::chain::Anchor>(position: &ChainPosition<A>) -> Option<u32> {
    match position {
        ChainPosition::Confirmed { anchor, .. } => Some(anchor.confirmation_height_upper_bound()),
        ChainPosition::Unconfirmed { .. } => None,
    }
}

/// The library's wallet with public keys alone: it cannot sign, and what it writes holds no secret.
fn load(
    changes: bdk_wallet::ChangeSet,
    seed: &[u8; 64],
    network: Network,
    start: Start,
    store: &mut Store,
) -> Result<Library, ChainError> {
    let mut key = master(seed, network)?;
    let kind = bitcoin::Network::from(network);
    let public = |keychain| {
        let (descriptor, _, _) =
            Bip86(key, keychain).build(kind.into()).map_err(|error| ChainError::Build(error.to_string()))?;
        Ok::<_, ChainError>(descriptor)
    };
    let (external, internal) = (public(KeychainKind::External)?, public(KeychainKind::Internal)?);
    key.private_key.non_secure_erase();
    let foreign = |why: String| ChainError::Foreign { network, why };
    if changes.is_empty() {
        let made = Library::create(external, internal).network(kind).lookahead(LOOKAHEAD).create_wallet_no_persist();
        let mut made = made.map_err(|error| foreign(error.to_string()))?;
        // What may have been handed out before is watched, and never handed out again.
        if let Start::Restored { addresses, .. } = start
            && addresses > 0
        {
            let _ = made.reveal_addresses_to(KeychainKind::External, addresses - 1).count();
        }
        let staged = made.take_staged();
        store.commit(Batch { wallet: staged, start: Some(start), ..Batch::default() })?;
        return Ok(made);
    }
    let loaded = Library::load()
        .descriptor(KeychainKind::External, Some(external))
        .descriptor(KeychainKind::Internal, Some(internal))
        .check_network(kind)
        .lookahead(LOOKAHEAD)
        .load_wallet_no_persist(changes)
        .map_err(|error| foreign(error.to_string()))?;
    loaded.ok_or_else(|| foreign("it holds no wallet".into()))
}
