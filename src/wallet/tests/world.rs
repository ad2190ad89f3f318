//! One debtor, two creditors, and a chain that takes blocks back; messages are lost, repeated and late, and everybody dies at any step.

use super::super::*;
use crate::base::amount::Msat;
use crate::base::bitcoin::{BitcoinNetwork, Outpoint, Sat, Txid};
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::base::units::FeeRate;
use crate::wire::payment::{Invoice, Notice};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) const CIVIL: u64 = 1_800_000_000;
pub(super) const DAY: u64 = 86_400;
const RATE: FeeRate = FeeRate(1_000);

pub(super) fn config() -> PayConfig {
    PayConfig {
        enabled: true,
        network: BitcoinNetwork::Regtest,
        payment_max: Sat(20_000),
        day_max: Sat(30_000),
        peer_day_max: Sat(18_000),
        ..PayConfig::default()
    }
}

/// What is read of one creditor alone.
pub(super) fn tree(creditor: usize) -> ChunkId {
    ChunkId([creditor as u8; 32])
}

pub(super) fn name(party: usize) -> PeerId {
    PeerId([party as u8 + 1; 32])
}

#[derive(Debug, Clone)]
enum Note {
    Ask,
    Invoice(Invoice),
    Notice(PaymentId, Notice),
    Heard(PaymentId),
}

/// A payment at the signer of the debtor, as durable as the real one.
#[derive(Debug, Clone)]
pub(super) struct Intent {
    outputs: Vec<(PeerId, String, Sat)>,
    /// Of each of them, what the user allowed beyond the limits.
    allowed: Vec<u64>,
    fee_cap: Sat,
    /// Each transaction signed for it: its name, its fee, whether it takes the payment back. All spend the same coin.
    versions: Vec<(Txid, Sat, bool)>,
    /// When it was first sent.
    pub(super) sent: Option<u64>,
    void: bool,
}

impl Intent {
    /// The most that leaves for it beyond the limits.
    fn beyond(&self) -> u64 {
        let allowed: u64 = self.allowed.iter().sum();
        allowed + (allowed * u64::from(config().fee_share_max)).div_ceil(100)
    }
}

pub(super) struct Party {
    pub(super) wallet: Wallet,
    disk: BTreeMap<String, Row>,
    work: Vec<WalletAction>,
    events: Vec<WalletEvent>,
    pub(super) sums: BTreeMap<PeerId, Sums>,
    addresses: u32,
}

pub(super) struct World {
    pub(super) parties: Vec<Party>,
    /// Worth of what each creditor provided to the debtor, in msat.
    pub(super) served: [u64; 3],
    /// What the user allowed beyond the limits, ever, for what is read of each creditor.
    given: [u64; 3],
    notes: Vec<(usize, usize, Note)>,
    pub(super) intents: BTreeMap<PaymentId, Intent>,
    mempool: BTreeSet<Txid>,
    blocks: Vec<Vec<Txid>>,
    pub(super) now: Instant,
    next: u64,
}

fn key(row: &Row) -> String {
    match row {
        Row::Payment(payment) => format!("p{}", payment.id),
        Row::Bill(bill) => format!("b{}", bill.invoice.address),
        Row::Allowance(tree, _) => format!("a{tree}"),
        Row::NoPayment(id) => format!("p{id}"),
        Row::NoBill(address) => format!("b{address}"),
    }
}

impl World {
    pub(super) fn new() -> World {
        let party = |number| Party {
            wallet: Wallet::new(config(), number, Vec::new()),
            disk: BTreeMap::new(),
            work: Vec::new(),
            events: Vec::new(),
            sums: BTreeMap::new(),
            addresses: 0,
        };
        let mut world = World {
            parties: (0..3).map(party).collect(),
            served: [0; 3],
            given: [0; 3],
            notes: Vec::new(),
            intents: BTreeMap::new(),
            mempool: BTreeSet::new(),
            blocks: Vec::new(),
            now: Instant(1),
            next: 0,
        };
        (0..3).for_each(|party| world.clock(party));
        world
    }

    pub(super) fn civil(&self) -> u64 {
        CIVIL + self.now.0 / 1_000_000
    }

    pub(super) fn clock(&mut self, party: usize) {
        let event = WalletEvent::Clock { civil: self.civil(), fee_rate: Some(RATE) };
        self.parties[party].wallet.handle(self.now, event);
    }

    /// The debtor used a creditor's service, and was refused more.
    pub(super) fn serve(&mut self, creditor: usize, sat: u64) {
        self.near(creditor, sat);
        self.parties[0].wallet.sought(self.now, name(creditor));
    }

    /// The debtor used a creditor's service, and is asked to pay before it is refused more.
    pub(super) fn near(&mut self, creditor: usize, sat: u64) {
        self.served[creditor] += sat * 1000 + 1;
        let owed = Msat(self.served[creditor]);
        self.parties[creditor].wallet.owing(self.now, name(0), owed, false, |_| true);
    }

    fn pump(&mut self, party: usize) {
        let served = self.served;
        let this = &mut self.parties[party];
        while let Some(action) = this.wallet.poll(self.now, |peer| {
            let worth = |party: usize| Msat(served[party]);
            let other = (0..3).find(|other| name(*other) == *peer).unwrap();
            match (party, other) {
                (0, other) => Service { received: worth(other), ..Service::default() },
                (party, _) => Service { acknowledged: worth(party), ..Service::default() },
            }
        }) {
            match action {
                WalletAction::Sums(peer, sums) => _ = this.sums.insert(peer, sums),
                WalletAction::Ask(peer) => {
                    let to = (0..3).find(|other| name(*other) == peer).unwrap();
                    self.notes.push((party, to, Note::Ask));
                }
                WalletAction::Invoice(peer, invoice) => {
                    let on_disk = this.disk.contains_key(&format!("b{}", invoice.address));
                    assert!(on_disk, "an invoice is sent before it is on disk");
                    let to = (0..3).find(|other| name(*other) == peer).unwrap();
                    self.notes.push((party, to, Note::Invoice(invoice)));
                }
                WalletAction::Notice(id, peer, notice) => {
                    let to = (0..3).find(|other| name(*other) == peer).unwrap();
                    self.notes.push((party, to, Note::Notice(id, notice)));
                }
                other => this.work.push(other),
            }
        }
    }

    fn txid(&mut self) -> Txid {
        self.next += 1;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.next.to_be_bytes());
        Txid(bytes)
    }

    fn depth(&self, txid: &Txid) -> u32 {
        let at = self.blocks.iter().position(|block| block.contains(txid));
        at.map_or(0, |at| (self.blocks.len() - at) as u32)
    }

    fn report(&self, id: &PaymentId) -> Report {
        let Some(intent) = self.intents.get(id) else { return Report::Unknown };
        let at = |txid: Txid| (0..intent.outputs.len() as u32).map(|vout| Outpoint { txid, vout }).collect();
        let mined = intent.versions.iter().find(|version| self.depth(&version.0) > 0);
        match mined {
            Some((txid, _, true)) => Report::Void { blocks: self.depth(txid) },
            Some((txid, fee, _)) => Report::Confirmed { outpoints: at(*txid), fee: *fee, blocks: self.depth(txid) },
            None if intent.void => Report::Void { blocks: u32::MAX },
            None => {
                let newest = intent.versions.iter().rev().find(|version| !version.2).unwrap();
                Report::Pending { outpoints: at(newest.0), fee: newest.1 }
            }
        }
    }

    /// Does one thing that a party wants done.
    fn work(&mut self, party: usize, place: usize) {
        if self.parties[party].work.is_empty() {
            return;
        }
        let place = place % self.parties[party].work.len();
        let action = self.parties[party].work.remove(place);
        let event = match action {
            WalletAction::Save(rows) => {
                Self::write(&mut self.parties[party].disk, rows);
                WalletEvent::Saved
            }
            WalletAction::Address(peer) => {
                self.parties[party].addresses += 1;
                let address = format!("bcrt1p{party}x{}", self.parties[party].addresses);
                WalletEvent::Address { peer, address: Ok(address) }
            }
            WalletAction::Prepare(payment) => {
                let on_disk = self.parties[party].disk.get(&format!("p{}", payment.id));
                let reserved = matches!(on_disk, Some(Row::Payment(Payment { state: State::Reserved, .. })));
                assert!(reserved, "signed before it is on disk");
                let (id, txid) = (payment.id, self.txid());
                let fee = RATE.of(112 + 43 * payment.outputs.len() as u64);
                assert!(fee <= payment.fee_cap);
                self.intents.entry(id).or_insert_with(|| Intent {
                    outputs: payment.outputs.iter().map(|o| (o.peer, o.invoice.address.clone(), o.value)).collect(),
                    allowed: payment.outputs.iter().map(|o| o.allowed.0).collect(),
                    fee_cap: payment.fee_cap,
                    versions: vec![(txid, fee, false)],
                    sent: None,
                    void: false,
                });
                WalletEvent::Step { id, result: Ok(self.report(&id)) }
            }
            WalletAction::Send(id) => {
                let civil = self.civil();
                let on_disk = self.parties[party].disk.get(&format!("p{id}"));
                let signed = matches!(on_disk, Some(Row::Payment(Payment { state: State::Signed, .. })));
                assert!(signed, "sent before it is on disk that it was signed");
                let intent = self.intents.get_mut(&id).unwrap();
                if !intent.void {
                    intent.sent.get_or_insert(civil);
                    let txid = intent.versions.last().unwrap().0;
                    self.offer(txid);
                }
                WalletEvent::Step { id, result: Ok(self.report(&id)) }
            }
            WalletAction::Bump { id, fee_cap, .. } => {
                let txid = self.txid();
                let intent = self.intents.get_mut(&id).unwrap();
                let fee = Sat(intent.versions.last().unwrap().1.0 + 10);
                let result = if fee <= intent.fee_cap.min(fee_cap) && !intent.void {
                    intent.versions.push((txid, fee, false));
                    self.offer(txid);
                    Ok(self.report(&id))
                } else {
                    Err(Refused::Never("over the limit of its fee".into()))
                };
                WalletEvent::Step { id, result }
            }
            WalletAction::Cancel { id, .. } => {
                let txid = self.txid();
                if let Some(intent) = self.intents.get_mut(&id) {
                    if intent.sent.is_none() {
                        intent.void = true;
                    } else if !intent.versions.last().unwrap().2 {
                        intent.versions.push((txid, intent.fee_cap, true));
                        self.offer(txid);
                    }
                }
                WalletEvent::Step { id, result: Ok(self.report(&id)) }
            }
            WalletAction::Look { payments, addresses } => WalletEvent::Seen {
                payments: payments.into_iter().map(|id| (id, self.report(&id))).collect(),
                came: addresses.into_iter().map(|address| (address.clone(), self.came(&address))).collect(),
            },
            WalletAction::Release(_) => return,
            other => panic!("{other:?}"),
        };
        self.parties[party].events.push(event);
    }

    /// All outputs to an address in transactions that the network knows.
    fn came(&self, address: &str) -> Came {
        let mut found = Vec::new();
        for intent in self.intents.values() {
            for (txid, _, back) in &intent.versions {
                let depth = self.depth(txid);
                if *back || (depth == 0 && !self.mempool.contains(txid)) {
                    continue;
                }
                for (vout, (_, to, value)) in
                    intent.outputs.iter().enumerate().filter(|(_, output)| output.1 == address)
                {
                    let _ = to;
                    found.push((Outpoint { txid: *txid, vout: vout as u32 }, *value, depth));
                }
            }
        }
        found
    }

    /// A transaction is offered to the network: it replaces others of the same payment, unless a block has one.
    fn offer(&mut self, txid: Txid) {
        let versions = self.versions(&txid);
        if versions.iter().all(|version| self.depth(version) == 0) {
            self.mempool.retain(|known| !versions.contains(known));
            self.mempool.insert(txid);
        }
    }

    fn versions(&self, txid: &Txid) -> Vec<Txid> {
        let of = self.intents.values().find(|intent| intent.versions.iter().any(|version| version.0 == *txid));
        of.map_or_else(Vec::new, |intent| intent.versions.iter().map(|version| version.0).collect())
    }

    fn mine(&mut self, all: bool) {
        let take = if all { usize::MAX } else { 1 };
        let block: Vec<Txid> = self.mempool.iter().copied().take(take).collect();
        for txid in &block {
            self.mempool.remove(txid);
        }
        self.blocks.push(block);
    }

    /// The newest blocks are undone; another version of a payment in them may be mined instead.
    fn reorganise(&mut self, count: usize) {
        for _ in 0..count.min(self.blocks.len()) {
            for txid in self.blocks.pop().unwrap() {
                let versions = self.versions(&txid);
                self.mempool.insert(*versions.first().unwrap());
            }
        }
        (0..3).for_each(|party| self.parties[party].events.push(WalletEvent::Moved));
    }

    fn write(disk: &mut BTreeMap<String, Row>, rows: Vec<Row>) {
        for row in rows {
            let key = key(&row);
            match row {
                Row::Payment(payment) => {
                    let back = Payment::from_bytes(payment.id, &payment.to_bytes()).unwrap();
                    disk.insert(key, Row::Payment(back));
                }
                Row::Bill(bill) => _ = disk.insert(key, Row::Bill(Bill::from_bytes(&bill.to_bytes()).unwrap())),
                Row::Allowance(_, Allowance { left: Sat(0), .. }) => _ = disk.remove(&key),
                Row::Allowance(tree, allowance) => {
                    let back = Allowance::from_bytes(&allowance.to_bytes()).unwrap();
                    disk.insert(key, Row::Allowance(tree, back));
                }
                Row::NoPayment(_) | Row::NoBill(_) => _ = disk.remove(&key),
            }
        }
    }

    fn event(&mut self, party: usize) {
        let this = &mut self.parties[party];
        if !this.events.is_empty() {
            let event = this.events.remove(0);
            this.wallet.handle(self.now, event);
        }
    }

    fn note(&mut self, place: usize, again: bool) {
        if self.notes.is_empty() {
            return;
        }
        let place = place % self.notes.len();
        let (from, to, note) = self.notes[place].clone();
        if !again {
            self.notes.remove(place);
        }
        let (now, peer) = (self.now, name(from));
        let wallet = &mut self.parties[to].wallet;
        match note {
            Note::Ask => _ = wallet.owing(now, peer, Msat(self.served[to]), true, |_| true),
            Note::Invoice(invoice) => _ = wallet.invoiced(now, peer, invoice),
            Note::Notice(id, notice) => {
                wallet.noticed(now, peer, &notice);
                self.notes.push((to, from, Note::Heard(id)));
            }
            Note::Heard(id) => wallet.heard(id, peer),
        }
    }

    /// A party dies: what it was writing is on its disk, or is not; what the signer did is done, its answer lost.
    fn crash(&mut self, party: usize, written: bool) {
        let this = &mut self.parties[party];
        for action in std::mem::take(&mut this.work) {
            if let (WalletAction::Save(rows), true) = (action, written) {
                Self::write(&mut this.disk, rows);
            }
        }
        this.events.clear();
        self.next += 1;
        let promised: Vec<_> = (1..3).map(|creditor| this.wallet.allowance(&tree(creditor))).collect();
        this.wallet = Wallet::new(config(), self.next, this.disk.values().cloned().collect());
        for (promised, creditor) in promised.into_iter().zip(1..3) {
            if let Some((promised, true)) = promised {
                let kept = this.wallet.allowance(&tree(creditor)).map(|(kept, _)| kept);
                assert_eq!(kept, Some(promised).filter(|promised| promised.left > Sat(0)), "what was allowed durably");
            }
        }
        this.sums.clear();
        self.clock(party);
        for other in (0..3).filter(|other| *other != party) {
            self.parties[party].wallet.linked(name(other));
            self.parties[other].wallet.linked(name(party));
        }
    }

    pub(super) fn act(&mut self, step: &Step) {
        match *step {
            Step::Serve { creditor, sat } => self.serve(creditor, sat),
            Step::Near { creditor, sat } => self.near(creditor, sat),
            Step::Pay { creditor, sat } => self.parties[0].wallet.order(self.now, name(creditor), sat.map(Sat)),
            Step::Allow { creditor, sat } => {
                self.given[creditor] += sat;
                self.parties[0].wallet.allow(self.now, tree(creditor), Sat(sat));
            }
            Step::Lack { creditor } => {
                self.parties[0].wallet.lacked(self.now, tree(creditor), &BTreeSet::from([name(creditor)]));
            }
            Step::Pump { party } => self.pump(party),
            Step::Work { party, place } => self.work(party, place),
            Step::Event { party } => self.event(party),
            Step::Note { place, again } => self.note(place, again),
            Step::Lose { place } => {
                if !self.notes.is_empty() {
                    self.notes.remove(place % self.notes.len());
                }
            }
            Step::Crash { party, written } => self.crash(party, written),
            Step::Mine { all } => self.mine(all),
            Step::Reorganise { count } => self.reorganise(count),
            Step::Off => {
                self.parties[0].wallet.configure(self.now, PayConfig { enabled: false, ..config() });
            }
            Step::On => self.parties[0].wallet.configure(self.now, config()),
            Step::Pass { seconds } => {
                self.now = self.now.after(Duration::from_secs(seconds));
                (0..3).for_each(|party| self.clock(party));
            }
        }
    }

    /// Invoices are sent and come, the debtor plans and writes down what it will pay, and no more.
    pub(super) fn reserve(&mut self) {
        for party in 1..3 {
            self.pump(party);
            while !self.parties[party].work.is_empty() {
                self.work(party, 0);
                self.event(party);
                self.pump(party);
            }
        }
        while !self.notes.is_empty() {
            self.note(0, false);
        }
        self.act(&Step::Pass { seconds: 3 });
        self.pump(0);
        let save = |action: &WalletAction| matches!(action, WalletAction::Save(_));
        while let Some(place) = self.parties[0].work.iter().position(save) {
            self.work(0, place);
            self.event(0);
        }
    }

    /// What the debtor wants done is done, as far as it comes without a block.
    pub(super) fn advance(&mut self) {
        for _ in 0..8 {
            self.pump(0);
            while !self.parties[0].work.is_empty() {
                self.work(0, 0);
                self.event(0);
            }
        }
    }

    /// Everything in order, without losses, until nothing changes.
    pub(super) fn rest(&mut self) {
        for _ in 0..12 {
            for _ in 0..6 {
                for party in 0..3 {
                    self.pump(party);
                    while !self.parties[party].work.is_empty() {
                        self.work(party, 0);
                    }
                    while !self.parties[party].events.is_empty() {
                        self.event(party);
                    }
                    self.pump(party);
                }
                while !self.notes.is_empty() {
                    self.note(0, false);
                }
            }
            self.mine(true);
            self.act(&Step::Pass { seconds: 31 });
        }
    }

    /// What truly left, or may still leave, to a creditor.
    pub(super) fn sent_to(&self, creditor: usize) -> u64 {
        let live = self
            .intents
            .iter()
            .filter(|(id, intent)| intent.sent.is_some() && !matches!(self.report(id), Report::Void { .. }));
        let outputs = live.flat_map(|(_, intent)| &intent.outputs);
        outputs.filter(|(peer, _, _)| *peer == name(creditor)).map(|(_, _, value)| value.0).sum()
    }

    /// What of it is, fees included, beyond the limits.
    pub(super) fn beyond(&self, creditor: usize) -> u64 {
        let live = self.intents.iter().filter(|(id, _)| !matches!(self.report(id), Report::Void { .. }));
        let outputs = live.flat_map(|(_, intent)| intent.outputs.iter().zip(&intent.allowed));
        let its = outputs.filter(|(output, _)| output.0 == name(creditor));
        its.map(|(_, allowed)| allowed + allowed * u64::from(config().fee_share_max) / 100).sum()
    }

    /// What blocks hold of it.
    pub(super) fn mined_to(&self, creditor: usize) -> u64 {
        let live = self.intents.iter().filter(|(id, _)| matches!(self.report(id), Report::Confirmed { .. }));
        let outputs = live.flat_map(|(_, intent)| &intent.outputs);
        outputs.filter(|(peer, _, _)| *peer == name(creditor)).map(|(_, _, value)| value.0).sum()
    }

    pub(super) fn check(&self, orders: bool) {
        let config = config();
        let live: Vec<&Intent> = self
            .intents
            .iter()
            .filter(|(id, _)| !matches!(self.report(id), Report::Void { .. }))
            .map(|(_, intent)| intent)
            .collect();
        for intent in &live {
            let Some(at) = intent.sent else { continue };
            // Beside what was allowed, and the fee for that.
            let sum = |intent: &Intent| {
                let fee = intent.versions.iter().filter(|version| !version.2).map(|version| version.1.0).max().unwrap();
                let all = intent.outputs.iter().map(|output| output.2.0).sum::<u64>() + fee;
                all.saturating_sub(intent.beyond())
            };
            assert!(sum(intent) <= config.payment_max.0, "one payment of {}", sum(intent));
            // Every day that begins with a payment.
            let day = live.iter().filter(|other| other.sent.is_some_and(|sent| (at..at + DAY).contains(&sent)));
            let total: u64 = day.clone().map(|intent| sum(intent)).sum();
            assert!(total <= config.day_max.0, "{total} in a day");
            for creditor in 1..3 {
                let outputs = day.clone().flat_map(|intent| intent.outputs.iter().zip(&intent.allowed));
                let outputs = outputs.filter(|(output, _)| output.0 == name(creditor));
                let its: u64 = outputs.map(|(output, allowed)| output.2.0 - allowed).sum();
                assert!(its <= config.peer_day_max.0, "{its} to {creditor} in a day");
            }
        }
        for creditor in 1..3 {
            let beyond = self.beyond(creditor);
            assert!(beyond <= self.given[creditor], "{beyond} beyond the limits to {creditor}");
            if !orders {
                let (sent, owed) = (self.sent_to(creditor), self.served[creditor].div_ceil(1000));
                assert!(sent <= owed, "{sent} sent for {owed} owed to {creditor}");
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Serve { creditor: usize, sat: u64 },
    Near { creditor: usize, sat: u64 },
    Pay { creditor: usize, sat: Option<u64> },
    Allow { creditor: usize, sat: u64 },
    Lack { creditor: usize },
    Pump { party: usize },
    Work { party: usize, place: usize },
    Event { party: usize },
    Note { place: usize, again: bool },
    Lose { place: usize },
    Crash { party: usize, written: bool },
    Mine { all: bool },
    Reorganise { count: usize },
    Off,
    On,
    Pass { seconds: u64 },
}

pub(super) fn steps(orders: bool) -> impl Strategy<Value = Vec<Step>> {
    let order = if orders { 2 } else { 1 };
    let step = prop_oneof![
        4 => (1usize..3, 500u64..9_000).prop_map(|(creditor, sat)| Step::Serve { creditor, sat }),
        2 => (1usize..3, 500u64..9_000).prop_map(|(creditor, sat)| Step::Near { creditor, sat }),
        order => (1usize..3, proptest::option::of(1_000u64..30_000))
            .prop_map(move |(creditor, sat)| Step::Pay { creditor, sat: sat.filter(|_| orders) }),
        1 => (1usize..3, 0u64..12_000).prop_map(|(creditor, sat)| Step::Allow { creditor, sat }),
        2 => (1usize..3).prop_map(|creditor| Step::Lack { creditor }),
        12 => (0usize..3).prop_map(|party| Step::Pump { party }),
        12 => (0usize..3, 0usize..3).prop_map(|(party, place)| Step::Work { party, place }),
        12 => (0usize..3).prop_map(|party| Step::Event { party }),
        8 => (0usize..4, prop::bool::weighted(0.2)).prop_map(|(place, again)| Step::Note { place, again }),
        1 => (0usize..4).prop_map(|place| Step::Lose { place }),
        1 => (0usize..3, any::<bool>()).prop_map(|(party, written)| Step::Crash { party, written }),
        3 => any::<bool>().prop_map(|all| Step::Mine { all }),
        1 => (1usize..4).prop_map(|count| Step::Reorganise { count }),
        1 => Just(Step::Off),
        2 => Just(Step::On),
        5 => prop_oneof![4 => 1u64..40, 1 => 1_000u64..100_000].prop_map(|seconds| Step::Pass { seconds }),
    ];
    proptest::collection::vec(step, 1..400)
}
