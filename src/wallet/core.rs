//! All payments in both directions as one machine: what is owed becomes a payment, step by step, each on disk before the next.

use super::allowance::{Allowance, Allowances};
use super::bill::{Bill, Came};
use super::cap::{Caps, PayConfig};
use super::payment::{Payment, PaymentId, Report, State};
use super::policy::Blocked;
use super::raise::Raise;
use crate::base::amount::Msat;
use crate::base::bitcoin::Sat;
use crate::base::digest::ChunkId;
use crate::base::limit::INVOICES_MAX;
use crate::base::peer::PeerId;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::base::units::FeeRate;
use crate::wire::payment::{Invoice, Notice};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Other creditors get so long to ask before a payment is made, so that one transaction settles several debts.
const GATHER: Duration = Duration::from_secs(2);
/// How long the user's wish to pay waits for an invoice.
const ORDER_MAX: Duration = Duration::from_secs(30);
/// What the ledger knows of the service between us and a peer, and what it charges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Service {
    /// Worth of what it provided.
    pub received: Msat,
    /// What it acknowledged of ours.
    pub acknowledged: Msat,
    /// For a GiB, if that is known.
    pub price: Option<Msat>,
}

/// What was paid between us and a peer, as far as blocks hold it, and what is on its way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// By the peer to us.
    pub credited: Msat,
    /// By us to the peer.
    pub paid: Msat,
    /// Reserved for it, signed or sent.
    pub pending: Msat,
}

/// A row of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A payment of ours, under its id.
    Payment(Payment),
    /// What a peer was asked to pay, under its address.
    Bill(Bill),
    /// What is allowed beyond the limits for a tree, under its root's id; nothing left of it: it is forgotten.
    Allowance(ChunkId, Allowance),
    /// This payment was given up before anybody saw it, and is forgotten.
    NoPayment(PaymentId),
    /// The invoice at this address was never paid, and is forgotten.
    NoBill(String),
}

/// How a step of a payment failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It will not work: the payment is given up.
    Never(String),
    /// It may work later.
    Later(String),
}

/// What the signer and the chain tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalletEvent {
    /// Civil time in seconds since 1970, and the fee rate at which a payment is soon confirmed; `None` while the chain cannot be used.
    Clock {
        /// Civil time.
        civil: u64,
        /// What to pay for a virtual byte.
        fee_rate: Option<FeeRate>,
    },
    /// The end of a `Save`.
    Saved,
    /// The end of an `Address`: one that nobody else was given.
    Address {
        /// For whom.
        peer: PeerId,
        /// The address.
        address: Result<String, String>,
    },
    /// The end of a `Prepare`, `Send`, `Bump` or `Cancel`: how the payment stands now.
    Step {
        /// Which.
        id: PaymentId,
        /// As the signer has it.
        result: Result<Report, Refused>,
    },
    /// The end of a `Look`; what could not be seen is left out.
    Seen {
        /// Our payments.
        payments: Vec<(PaymentId, Report)>,
        /// What came to addresses: where it stands, how much it is, how many blocks hold it. All of it, for each address.
        came: Vec<(String, Came)>,
    },
    /// A block came, or went.
    Moved,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalletAction {
    /// Write these rows down in one transaction, then say `Saved`. No second batch follows before that.
    Save(Vec<Row>),
    /// Make a fresh address.
    Address(PeerId),
    /// Sign a transaction for this payment, or find the one that was signed: durably, coins locked, nothing sent.
    Prepare(Payment),
    /// Send what was signed.
    Send(PaymentId),
    /// Sign it anew at a higher fee rate, and send that.
    Bump {
        /// Which.
        id: PaymentId,
        /// At which rate.
        fee_rate: FeeRate,
        /// What the fee may be.
        fee_cap: Sat,
    },
    /// Take it back: give it up if it was never sent, else pay its coins to ourselves.
    Cancel {
        /// Which.
        id: PaymentId,
        /// At which rate, if that takes a transaction.
        fee_rate: FeeRate,
        /// What its fee may be.
        fee_cap: Sat,
    },
    /// Say how these payments stand, and what came to these addresses.
    Look {
        /// Payments of ours.
        payments: Vec<PaymentId>,
        /// Addresses of ours.
        addresses: Vec<String>,
    },
    /// Nobody is expected to pay to this address any more.
    Release(String),
    /// Ask a peer for an invoice. Ends with `asked`.
    Ask(PeerId),
    /// Sign this invoice and send it.
    Invoice(PeerId, Invoice),
    /// Tell a creditor what was paid. Ends with `heard`, if it answers.
    Notice(PaymentId, PeerId, Notice),
    /// What was paid between us and a peer, in all.
    Sums(PeerId, Sums),
}

/// What became of the user's wish to pay a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// It waits for an invoice.
    Waiting,
    /// A limit keeps it from being paid.
    Blocked(Blocked),
    /// It cannot be paid.
    Failed(String),
    /// This payment pays it.
    Paying(PaymentId),
}

#[derive(Debug)]
pub(super) struct Wish {
    /// `None`: what is owed.
    pub(super) amount: Option<Sat>,
    pub(super) until: Instant,
    pub(super) outcome: Order,
}

/// What is asked of the signer for a payment now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Prepare,
    Send,
    Bump(FeeRate),
    Cancel,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowKey {
    // Before the payments, in one batch as well: what was used of it is never used again.
    Allowance(ChunkId),
    Payment(PaymentId),
    Bill(String),
}

/// All payments.
#[derive(Debug)]
pub struct Wallet {
    pub(super) config: PayConfig,
    pub(super) random: Random,
    /// Civil time, and when it was told.
    clock: Option<(u64, Instant)>,
    pub(super) fee_rate: Option<FeeRate>,
    pub(super) caps: Caps,
    pub(super) payments: BTreeMap<PaymentId, Payment>,
    /// Payments that a next step is due for.
    pub(super) steps: BTreeSet<PaymentId>,
    pub(super) doing: BTreeMap<PaymentId, Doing>,
    pub(super) retry: BTreeSet<(Instant, PaymentId)>,
    pub(super) bumped: BTreeMap<PaymentId, u64>,
    /// Fees that the user wants to be higher.
    pub(super) raises: BTreeMap<PaymentId, Raise>,
    /// The newest invoice of each creditor.
    pub(super) asked: BTreeMap<PeerId, Invoice>,
    pub(super) wishes: BTreeMap<PeerId, Wish>,
    /// Creditors of which we want service, and when they last made a condition of being paid.
    pub(super) sought: BTreeMap<PeerId, Instant>,
    /// What the user allowed beyond the limits.
    pub(super) allowed: Allowances,
    pub(super) blocked: BTreeMap<PeerId, Blocked>,
    pub(super) trouble: Option<String>,
    pub(super) bills: BTreeMap<String, Bill>,
    /// The bill on which each debtor may pay next.
    pub(super) current: BTreeMap<PeerId, String>,
    /// Fresh addresses are being made for these; what they owe.
    pub(super) fetching: BTreeMap<PeerId, Msat>,
    pub(super) invoiced: BTreeMap<PeerId, Instant>,
    /// A stranger was sent none, for others have them all: whose invoice ends makes room.
    pub(super) turned_away: bool,
    /// Notices that were answered.
    heard: BTreeSet<(PaymentId, PeerId)>,
    pub(super) dirty: BTreeSet<RowKey>,
    pub(super) gone: BTreeSet<String>,
    /// Payments given up before anybody saw them.
    pub(super) void: BTreeSet<PaymentId>,
    /// After a payment could not be made, none is begun by itself for a while.
    pub(super) rests: Option<Instant>,
    pub(super) saving: Option<BTreeSet<RowKey>>,
    /// Peers whose sums changed; those that are told once the batch is on disk.
    pub(super) changed: BTreeSet<PeerId>,
    pub(super) telling: Vec<(PeerId, Sums)>,
    pub(super) plan_at: Option<Instant>,
    pub(super) look_at: Option<Instant>,
    pub(super) looking: bool,
    pub(super) actions: VecDeque<WalletAction>,
}

impl Wallet {
    /// All payments as they were last written down. The first actions tell what they are worth.
    pub fn new(config: PayConfig, seed: u64, rows: Vec<Row>) -> Wallet {
        let mut this = Wallet {
            config,
            random: Random::new(seed),
            clock: None,
            fee_rate: None,
            caps: Caps::default(),
            payments: BTreeMap::new(),
            steps: BTreeSet::new(),
            doing: BTreeMap::new(),
            retry: BTreeSet::new(),
            bumped: BTreeMap::new(),
            raises: BTreeMap::new(),
            asked: BTreeMap::new(),
            wishes: BTreeMap::new(),
            sought: BTreeMap::new(),
            allowed: Allowances::default(),
            blocked: BTreeMap::new(),
            trouble: None,
            bills: BTreeMap::new(),
            current: BTreeMap::new(),
            fetching: BTreeMap::new(),
            invoiced: BTreeMap::new(),
            turned_away: false,
            heard: BTreeSet::new(),
            dirty: BTreeSet::new(),
            gone: BTreeSet::new(),
            void: BTreeSet::new(),
            rests: None,
            saving: None,
            changed: BTreeSet::new(),
            telling: Vec::new(),
            plan_at: None,
            look_at: Some(Instant(0)),
            looking: false,
            actions: VecDeque::new(),
        };
        let mut peers = BTreeSet::new();
        for row in rows {
            match row {
                Row::Payment(payment) => {
                    peers.extend(payment.outputs.iter().map(|output| output.peer));
                    this.steps.insert(payment.id);
                    this.charge(&payment);
                    this.payments.insert(payment.id, payment);
                }
                Row::Bill(bill) => {
                    peers.insert(bill.peer);
                    if !bill.used {
                        this.current.insert(bill.peer, bill.invoice.address.clone());
                    }
                    this.bills.insert(bill.invoice.address.clone(), bill);
                }
                Row::Allowance(tree, allowance) => _ = this.allowed.insert(tree, allowance),
                Row::NoPayment(_) | Row::NoBill(_) => {}
            }
        }
        for peer in peers {
            let sums = this.sums(&peer);
            this.actions.push_back(WalletAction::Sums(peer, sums));
        }
        this
    }

    /// Other terms from now on. What is reserved and not sent yet is taken back when payments are turned off.
    pub fn configure(&mut self, now: Instant, config: PayConfig) {
        self.config = config;
        self.steps.extend(self.payments.keys().copied());
        self.plan_at = Some(now);
    }

    pub(super) fn charge(&mut self, payment: &Payment) {
        match payment.charge() {
            Some(charge) => self.caps.charge(payment.id, charge),
            None => self.caps.release(payment.id),
        }
    }

    /// Seconds since 1970, once they were told.
    pub(super) fn civil(&self, now: Instant) -> Option<u64> {
        self.clock.map(|(civil, at)| civil.saturating_add(now.since(at).as_secs()))
    }

    /// What was paid between us and a peer.
    pub fn sums(&self, peer: &PeerId) -> Sums {
        let mut sums = Sums::default();
        for bill in self.bills.values().filter(|bill| bill.peer == *peer) {
            sums.credited = sums.credited.saturating_add(bill.credits());
        }
        for payment in self.payments.values().filter(|payment| !matches!(payment.state, State::Cancelled(_))) {
            let blocks = if let State::Confirmed(blocks) = payment.state { blocks } else { 0 };
            for output in payment.outputs.iter().filter(|output| output.peer == *peer) {
                let worth = output.invoice.credits(output.value, blocks);
                sums.paid = sums.paid.saturating_add(worth);
                sums.pending = sums.pending.saturating_add(output.value.msat().over(worth));
            }
        }
        sums
    }

    /// Something of the signer or the chain.
    pub fn handle(&mut self, now: Instant, event: WalletEvent) {
        match event {
            WalletEvent::Clock { civil, fee_rate } => {
                (self.clock, self.fee_rate) = (Some((civil, now)), fee_rate);
                self.caps.prune(civil);
                if fee_rate.is_some() && !(self.asked.is_empty() && self.wishes.is_empty()) {
                    self.plan_at = Some(self.plan_at.unwrap_or(now));
                }
            }
            WalletEvent::Saved => self.saved(),
            WalletEvent::Address { peer, address } => self.addressed(now, peer, address),
            WalletEvent::Step { id, result } => self.stepped(now, id, result),
            WalletEvent::Seen { payments, came } => self.seen(now, payments, &came),
            WalletEvent::Moved => self.look_at = Some(now),
        }
    }

    /// A creditor asks to be paid; its signature was checked. Gives whether it may be, here.
    pub fn invoiced(&mut self, now: Instant, peer: PeerId, invoice: Invoice) -> bool {
        // On one address only one payment is made: who sees the chain must not see that it is the same debtor again.
        let spent = |payment: &Payment| payment.outputs.iter().any(|output| output.invoice.address == invoice.address);
        let full = self.asked.len() >= INVOICES_MAX && !self.asked.contains_key(&peer);
        if full || !self.config.enabled || invoice.network != self.config.network {
            return false;
        }
        if self.payments.values().any(spent) {
            return true;
        }
        self.asked.insert(peer, invoice);
        let wait = if self.wishes.contains_key(&peer) { Duration::ZERO } else { GATHER };
        let at = now.after(wait);
        self.plan_at = Some(self.plan_at.map_or(at, |planned| planned.min(at)));
        true
    }

    /// The user wants a peer to be paid: what is owed, or `amount`, as far as the limits allow.
    pub fn order(&mut self, now: Instant, peer: PeerId, amount: Option<Sat>) {
        let until = now.after(ORDER_MAX);
        self.wishes.insert(peer, Wish { amount, until, outcome: Order::Waiting });
        if self.asked.contains_key(&peer) {
            self.plan_at = Some(now);
        } else {
            self.actions.push_back(WalletAction::Ask(peer));
        }
    }

    /// A peer of which we want service refused it on credit, or asks to be paid while it serves: what is paid to it may go beyond what is
    /// owed.
    pub fn sought(&mut self, now: Instant, peer: PeerId) {
        if self.config.enabled {
            self.sought.insert(peer, now);
        }
    }

    /// What became of that.
    pub fn ordered(&self, peer: &PeerId) -> Option<&Order> {
        self.wishes.get(peer).map(|wish| &wish.outcome)
    }

    /// Whether peers are paid, and pay.
    pub fn pays(&self) -> bool {
        self.config.enabled
    }

    /// Whether invoices can be sent now: not before it is known what a payment costs.
    pub fn bills(&self) -> bool {
        self.config.enabled && self.clock.is_some() && self.fee_rate.is_some()
    }

    /// What keeps debts from being paid.
    pub fn blocked(&self) -> Vec<Blocked> {
        self.blocked.values().copied().collect()
    }

    /// Why payments do not go on.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    /// All payments of ours, the oldest first.
    pub fn payments(&self) -> Vec<Payment> {
        self.payments.values().cloned().collect()
    }

    /// A peer was asked for an invoice; why it will send none.
    pub fn asked(&mut self, peer: &PeerId, refused: Option<String>) {
        if let (Some(wish), Some(why)) = (self.wishes.get_mut(peer), refused) {
            wish.outcome = Order::Failed(why);
        }
    }

    /// The user allows so much to be paid beyond the limits, fees included, once, to peers that refuse a read of this tree: all of them
    /// together. It replaces what was allowed for it before. `allowance` tells when it is on disk.
    pub fn allow(&mut self, now: Instant, tree: ChunkId, amount: Sat) {
        let allowance = Allowance { at: self.civil(now).unwrap_or(0), given: amount, left: amount };
        let (dirty, saving) = (&self.dirty, self.saving.as_ref());
        let written = |key: &RowKey| !dirty.contains(key) && !saving.is_some_and(|saving| saving.contains(key));
        self.allowed.forget_used(|tree| written(&RowKey::Allowance(*tree)));
        if self.allowed.insert(tree, allowance) {
            self.dirty.insert(RowKey::Allowance(tree));
            self.plan_at = Some(now);
        }
    }

    /// What is left of what was allowed for a tree, and whether that is on disk.
    pub fn allowance(&self, tree: &ChunkId) -> Option<(Allowance, bool)> {
        self.allowed.get(tree).map(|allowance| (*allowance, self.is_clean(&RowKey::Allowance(*tree))))
    }

    /// All that is allowed and not used up.
    pub fn allowances(&self) -> Vec<(ChunkId, Allowance)> {
        self.allowed.list()
    }

    /// A read of this tree failed because these peers refused it on credit.
    pub fn lacked(&mut self, now: Instant, tree: ChunkId, peers: &BTreeSet<PeerId>) {
        if !self.config.enabled {
            return;
        }
        self.allowed.note(now, tree, peers);
        if self.allowed.get(&tree).is_some() && peers.iter().any(|peer| self.asked.contains_key(peer)) {
            self.plan_at = Some(self.plan_at.map_or(now, |planned| planned.min(now)));
        }
    }

    /// What keeps peers from being paid that refused a read of this tree.
    pub fn blocked_for(&self, tree: &ChunkId) -> Vec<Blocked> {
        self.blocked.values().filter(|blocked| self.allowed.has_refused(tree, &blocked.peer)).copied().collect()
    }

    pub(super) fn is_clean(&self, key: &RowKey) -> bool {
        !self.dirty.contains(key) && !self.saving.as_ref().is_some_and(|saving| saving.contains(key))
    }

    /// A peer can be reached, perhaps anew: it is told again what is not settled.
    pub fn linked(&mut self, peer: PeerId) {
        self.heard.retain(|(_, told)| *told != peer);
        let open: Vec<PaymentId> = self.payments.values().filter(|p| p.is_open()).map(|p| p.id).collect();
        for id in open {
            self.notify(id, Some(peer));
        }
    }

    /// A notice was answered.
    pub fn heard(&mut self, id: PaymentId, peer: PeerId) {
        self.heard.insert((id, peer));
    }

    /// Tells the creditors of a payment, or one of them, where it is paid.
    pub(super) fn notify(&mut self, id: PaymentId, only: Option<PeerId>) {
        let Some(payment) = self.payments.get(&id) else { return };
        if !matches!(payment.state, State::Sent | State::Confirmed(_)) {
            return;
        }
        for output in &payment.outputs {
            let wanted = only.is_none_or(|peer| peer == output.peer) && !self.heard.contains(&(id, output.peer));
            if let (true, Some(outpoint)) = (wanted, output.outpoint) {
                let notice = Notice { invoice: output.invoice.clone(), outpoint };
                self.actions.push_back(WalletAction::Notice(id, output.peer, notice));
            }
        }
    }

    fn seen(&mut self, now: Instant, payments: Vec<(PaymentId, Report)>, came: &[(String, Came)]) {
        self.looking = false;
        let Some(civil) = self.civil(now) else { return };
        for (id, report) in payments {
            // What was looked up before a step ended may be out of date.
            let state = self.payments.get(&id).map(|payment| payment.state);
            let stale = state == Some(State::Cancelling) && report == Report::Unknown;
            if !stale && !self.doing.contains_key(&id) {
                self.reported(civil, id, &report);
            }
        }
        for (address, found) in came {
            let Some(bill) = self.bills.get_mut(address) else { continue };
            if bill.seen(found) {
                let peer = bill.peer;
                if bill.used && self.current.get(&peer) == Some(address) {
                    self.current.remove(&peer);
                }
                self.changed.insert(peer);
                self.dirty.insert(RowKey::Bill(address.clone()));
            }
        }
    }

    /// How a payment stands.
    pub(super) fn reported(&mut self, civil: u64, id: PaymentId, report: &Report) {
        let Some(payment) = self.payments.get_mut(&id) else { return };
        let peers: Vec<PeerId> = payment.outputs.iter().map(|output| output.peer).collect();
        let outpoint = payment.outputs.first().and_then(|output| output.outpoint);
        let before = payment.clone();
        let mut dirty = payment.report(civil, report);
        let moved = payment.outputs.first().and_then(|output| output.outpoint) != outpoint;
        let after = payment.clone();
        // Deep enough for a creditor now, or no longer.
        let worth = |payment: &Payment| match payment.state {
            State::Confirmed(blocks) => {
                payment.outputs.iter().map(|output| output.invoice.credits(output.value, blocks)).collect()
            }
            _ => Vec::new(),
        };
        dirty |= worth(&before) != worth(&after);
        if after.state == State::Cancelled(u32::MAX) {
            self.forget(id);
        } else if dirty {
            self.charge(&after);
            self.steps.insert(id);
            self.dirty.insert(RowKey::Payment(id));
            self.changed.extend(peers);
        }
        if moved {
            self.heard.retain(|(told, _)| *told != id);
        }
    }

    /// A payment that nobody saw needs no row.
    fn forget(&mut self, id: PaymentId) {
        let Some(payment) = self.payments.remove(&id) else { return };
        self.caps.release(id);
        self.steps.remove(&id);
        self.dirty.remove(&RowKey::Payment(id));
        self.void.insert(id);
        // In one batch with the end of its row.
        let back: Vec<RowKey> = payment
            .drawn
            .iter()
            .filter(|drawn| self.allowed.restore(drawn))
            .map(|drawn| RowKey::Allowance(drawn.tree))
            .collect();
        self.dirty.extend(back);
        self.changed.extend(payment.outputs.iter().map(|output| output.peer));
    }
}
