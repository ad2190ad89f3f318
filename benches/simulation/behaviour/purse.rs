//! The real wallets of all nodes over a chain that takes every payment into the next block: one a round.

use super::book::{Books, number};
use super::kind::Kind;
use super::world::ROUND;
use std::collections::{BTreeMap, BTreeSet};
use tornet::base::amount::Msat;
use tornet::base::bitcoin::{BitcoinNetwork, Outpoint, Sat, Txid};
use tornet::base::peer::PeerId;
use tornet::base::time::Instant;
use tornet::base::units::FeeRate;
use tornet::ledger::Payments;
use tornet::wallet::{Came, PayConfig, PaymentId, Report, Service, Sums, Wallet, WalletAction, WalletEvent};

/// Civil time at the start.
const START: u64 = 1_800_000_000;
/// What is paid beyond what is owed: enough that a fee at 1 sat/vB stays under 5 %.
const PREPAY: Sat = Sat(3_100);
const FEE_RATE: FeeRate = FeeRate(1_000);

/// A transaction.
struct Sent {
    outputs: Vec<(String, Sat)>,
    fee: Sat,
    /// The block that holds it.
    height: Option<u32>,
}

/// All wallets, by node, and the chain.
pub struct Purses {
    wallets: Vec<Wallet>,
    sent: BTreeMap<PaymentId, Sent>,
    came: BTreeMap<String, Vec<(Outpoint, Sat, PaymentId)>>,
    addresses: u64,
    height: u32,
    /// Have something to do.
    active: BTreeSet<usize>,
    /// Paid by each node, and to it.
    pub paid: Vec<(u64, u64)>,
    /// What a peer paid a node newly: node, payer, worth in millisatoshi.
    pub fresh: Vec<(usize, PeerId, u64)>,
    credited: BTreeMap<(usize, PeerId), u64>,
    /// Refusals for which no invoice could be made: of those that would not pay, and of those that would.
    pub unbilled: [u64; 2],
}

impl Purses {
    /// One for each node, payments on. Who wants more than it gives prepays: else no debt to one of so many peers would ever be worth
    /// a transaction.
    pub fn new(kinds: &[Kind]) -> Purses {
        let (network, nodes) = (BitcoinNetwork::Regtest, kinds.len());
        let wallets = kinds.iter().enumerate().map(|(node, kind)| {
            let prepay = if *kind == Kind::Heavy { PREPAY } else { Sat(0) };
            let config = PayConfig { enabled: true, network, prepay, ..PayConfig::default() };
            Wallet::new(config, node as u64, Vec::new())
        });
        let wallets = wallets.collect();
        Purses {
            wallets,
            sent: BTreeMap::new(),
            came: BTreeMap::new(),
            addresses: 0,
            height: 0,
            active: BTreeSet::new(),
            paid: vec![(0, 0); nodes],
            fresh: Vec::new(),
            credited: BTreeMap::new(),
            unbilled: [0; 2],
        }
    }

    /// A node refused a peer that owes it so much, or is about to, and asks it to pay. `pays`: whether the peer is one that would.
    /// `known`: whether a peer ever gave the seller anything.
    pub fn refuse(
        &mut self,
        now: Instant,
        seller: (usize, PeerId),
        buyer: (usize, PeerId, bool),
        owed: Msat,
        known: impl Fn(&PeerId) -> bool,
    ) {
        let ((seller, id), (node, peer, pays)) = (seller, buyer);
        self.clock(now, seller);
        if !self.wallets[seller].owing(now, peer, owed, false, known) {
            self.unbilled[usize::from(pays)] += 1;
        }
        self.active.insert(seller);
        if pays {
            self.clock(now, node);
            self.wallets[node].sought(now, id);
            self.active.insert(node);
        }
    }

    fn clock(&mut self, now: Instant, node: usize) {
        let civil = START + now.0 / 1_000_000;
        self.wallets[node].handle(now, WalletEvent::Clock { civil, fee_rate: Some(FEE_RATE) });
    }

    /// Everything that is due in a round, and a block at its end.
    pub fn round(&mut self, now: Instant, books: &mut Books) {
        // Invoices are gathered for two seconds; then there is a look at the chain each half minute.
        let half = now.after(ROUND / 2);
        let active: Vec<usize> = self.active.iter().copied().collect();
        for node in active {
            self.clock(now, node);
            self.pump(now, node, books);
        }
        let active: Vec<usize> = self.active.iter().copied().collect();
        for node in active {
            self.pump(half, node, books);
        }
        self.height += 1;
        for sent in self.sent.values_mut() {
            sent.height.get_or_insert(self.height);
        }
        let late = now.after(ROUND - ROUND / 10);
        let active = std::mem::take(&mut self.active);
        for node in active {
            self.wallets[node].handle(late, WalletEvent::Moved);
            self.pump(late, node, books);
        }
    }

    fn pump(&mut self, now: Instant, node: usize, books: &mut Books) {
        loop {
            let ledger = &books.faces[books.of[node][0]].ledger;
            let service = |peer: &PeerId| {
                let (received, acknowledged) = ledger.service(peer);
                let price = Some(books.faces[number(peer)].price.per_gib);
                Service { received, acknowledged, price }
            };
            let Some(action) = self.wallets[node].poll(now, service) else { return };
            let event = match action {
                WalletAction::Save(_) => Some(WalletEvent::Saved),
                WalletAction::Address(peer) => {
                    self.addresses += 1;
                    Some(WalletEvent::Address { peer, address: Ok(format!("bcrt1p{}", self.addresses)) })
                }
                WalletAction::Prepare(payment) => {
                    let fee = FEE_RATE.of(112 + 43 * payment.outputs.len() as u64);
                    let outputs = payment.outputs.iter().map(|output| (output.invoice.address.clone(), output.value));
                    self.sent.insert(payment.id, Sent { outputs: outputs.collect(), fee, height: None });
                    Some(WalletEvent::Step { id: payment.id, result: Ok(self.report(payment.id)) })
                }
                WalletAction::Send(id) => {
                    self.send(id, node);
                    Some(WalletEvent::Step { id, result: Ok(self.report(id)) })
                }
                WalletAction::Look { payments, addresses } => {
                    let payments = payments.into_iter().map(|id| (id, self.report(id))).collect();
                    let came = addresses.into_iter().map(|address| self.seen(address)).collect();
                    Some(WalletEvent::Seen { payments, came })
                }
                WalletAction::Sums(peer, sums) => {
                    self.sums(node, peer, sums, books);
                    None
                }
                WalletAction::Invoice(peer, invoice) => {
                    let (debtor, id) = (books.faces[number(&peer)].node, books.faces[books.of[node][0]].id);
                    if self.pays(debtor, &peer, books) {
                        self.clock(now, debtor);
                        self.wallets[debtor].invoiced(now, id, invoice);
                        self.active.insert(debtor);
                    }
                    None
                }
                WalletAction::Notice(id, peer, notice) => {
                    let creditor = books.faces[number(&peer)].node;
                    self.clock(now, creditor);
                    self.wallets[creditor].noticed(now, books.faces[books.of[node][0]].id, &notice);
                    self.wallets[node].heard(id, peer);
                    self.active.insert(creditor);
                    None
                }
                WalletAction::Release(_) => None,
                other => panic!("nothing is bumped, cancelled or asked for here: {other:?}"),
            };
            if let Some(event) = event {
                self.wallets[node].handle(now, event);
            }
        }
    }

    /// Only identities in use pay; attackers do not, and are told of nothing.
    fn pays(&self, node: usize, peer: &PeerId, books: &Books) -> bool {
        books.honest[node] && books.of[node].iter().any(|face| books.faces[*face].id == *peer)
    }

    fn txid(id: PaymentId) -> Txid {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&id.0);
        Txid(bytes)
    }

    fn send(&mut self, id: PaymentId, node: usize) {
        let Some(sent) = self.sent.get(&id) else { return };
        self.paid[node].0 += sent.fee.0;
        self.active.insert(node);
        for (vout, (address, value)) in sent.outputs.iter().enumerate() {
            let outpoint = Outpoint { txid: Self::txid(id), vout: vout as u32 };
            self.came.entry(address.clone()).or_default().push((outpoint, *value, id));
            self.paid[node].0 += value.0;
        }
    }

    fn report(&self, id: PaymentId) -> Report {
        let Some(sent) = self.sent.get(&id) else { return Report::Unknown };
        let outpoints = (0..sent.outputs.len() as u32).map(|vout| Outpoint { txid: Self::txid(id), vout }).collect();
        match sent.height {
            Some(height) => Report::Confirmed { outpoints, fee: sent.fee, blocks: self.height - height + 1 },
            None => Report::Pending { outpoints, fee: sent.fee },
        }
    }

    fn seen(&self, address: String) -> (String, Came) {
        let came = self.came.get(&address).into_iter().flatten().map(|(outpoint, value, id)| {
            let height = self.sent.get(id).and_then(|sent| sent.height);
            (*outpoint, *value, height.map_or(0, |height| self.height - height + 1))
        });
        let came = came.collect();
        (address, came)
    }

    fn sums(&mut self, node: usize, peer: PeerId, sums: Sums, books: &mut Books) {
        let Sums { credited, paid, pending } = sums;
        books.faces[books.of[node][0]].ledger.pay(peer, Payments { credited, paid, pending });
        let before = self.credited.insert((node, peer), credited.0).unwrap_or(0);
        if credited.0 > before {
            self.paid[node].1 += (credited.0 - before) / 1000;
            self.fresh.push((node, peer, credited.0 - before));
        }
    }
}
