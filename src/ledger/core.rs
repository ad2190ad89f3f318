//! The ledger: who may be served, and what is held, posted and acknowledged.

use super::account::{Account, Record};
use super::booking::Booking;
use super::credit::{CreditConfig, Pool};
use crate::base::amount::Msat;
use crate::base::limit::ACCOUNTS_MAX;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::receipt::{RECEIPT_AMOUNT_MAX, Receipt};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// By so many times what newly counts of what others acknowledge a peer's line opens.
const TRUST_TIMES: u64 = 8;

/// Names a hold until it is posted or voided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(pub u64);

/// Whether an answer may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, and it costs nothing: there is nothing to post.
    Free,
    /// Yes, for at most this amount: the hold is to be posted or voided.
    Held(Msat),
    /// Not yet: the ledgers are to be synchronised, a receipt is to come, or the mark to be written down.
    Wait,
    /// No: it costs this, more than the asker would pay.
    Price(Msat),
    /// No: the peer would owe more than its line.
    Line {
        /// What it owes already.
        owed: Msat,
        /// What it may owe.
        line: Msat,
    },
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerAction {
    /// Write these accounts down in one transaction (`None`: remove it), then say `booked`. No second batch follows before that.
    Book(Vec<(PeerId, Option<Record>)>),
    /// Sign this receipt and send it; its end is told with `told`.
    Tell {
        /// To whom.
        peer: PeerId,
        /// What is on disk.
        receipt: Receipt,
        /// It covers everything that came, and nothing is waited for.
        settled: bool,
    },
}

/// How things stand with one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Which.
    pub peer: PeerId,
    /// What we provided and it acknowledged.
    pub acknowledged: Msat,
    /// What we provided beyond that, or are about to.
    pub unacknowledged: Msat,
    /// What it does not acknowledge.
    pub disputed: Msat,
    /// What it provided to us.
    pub received: Msat,
    /// What was paid each way.
    pub payments: Payments,
    /// What it may owe.
    pub line: Msat,
    /// Its proof of work.
    pub rank: u8,
}

impl Balance {
    /// What the peer owes; negative: what we owe it. Payments count once they are confirmed.
    pub fn owed(&self) -> i64 {
        let signed = |amount: Msat| i64::try_from(amount.0).unwrap_or(i64::MAX);
        let Payments { credited, paid, .. } = self.payments;
        let (ours, theirs) = (self.acknowledged.saturating_add(paid), self.received.saturating_add(credited));
        signed(ours).saturating_sub(signed(theirs))
    }
}

/// Sums for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LedgerStats {
    /// What peers owe us, over those that do and as far as this ledger knows what for.
    pub owed_to_us: Msat,
    /// What we owe, over those whom we owe.
    pub owed_by_us: Msat,
    /// Receipts sent.
    pub receipts: u64,
    /// Batches written down.
    pub batches: u64,
}

/// What was paid between this node and a peer, as the chain says now. Whoever tells the ledger has it on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Payments {
    /// What the peer paid us.
    pub credited: Msat,
    /// What we paid it.
    pub paid: Msat,
    /// What we are about to pay it: reserved, or on its way.
    pub pending: Msat,
}

#[derive(Debug)]
struct Hold {
    peer: PeerId,
    charge: Msat,
    /// What of that was lent on the peer's rank alone, and beyond its line.
    lent: (Msat, Msat),
}

/// What a peer may be held to owe, what stands against that, its line, and what of its rank's is not open yet.
struct Standing {
    debt: Msat,
    ours: Msat,
    line: Msat,
    closed: Msat,
}

fn standing(config: &CreditConfig, account: &Account, payments: Payments) -> Standing {
    let ours = account.received.saturating_add(payments.credited);
    let (line, closed) = config.line(account.rank, ours, account.lent);
    let against = config.held_against(account.disputed, account.acknowledged());
    let debt = account.acknowledged().saturating_add(against).saturating_add(account.unacknowledged());
    // What we are about to pay counts as if it were paid: it may be any moment. What we paid beyond all that the peer gave us was in
    // advance, for its service, and no use of its line: else whoever is paid in advance would be refused, and pay it back.
    let debt = debt.saturating_add(payments.paid.saturating_add(payments.pending).min(ours));
    Standing { debt, ours, line, closed }
}

/// All accounts.
#[derive(Debug)]
pub struct Ledger {
    pub(super) config: CreditConfig,
    pub(super) accounts: BTreeMap<PeerId, Account>,
    /// Not part of the accounts: they outlive those that are forgotten.
    payments: BTreeMap<PeerId, Payments>,
    holds: BTreeMap<HoldId, Hold>,
    newcomers: Pool,
    strangers: Pool,
    /// Differ from what is on disk.
    pub(super) dirty: BTreeSet<PeerId>,
    /// Something waits for the disk.
    pub(super) urgent: bool,
    /// When what nothing waits for is written down, too.
    pub(super) flush_at: Option<Instant>,
    /// Being written down.
    pub(super) booking: Option<Vec<Booking>>,
    /// Are to be sent a receipt now.
    pub(super) due: VecDeque<PeerId>,
    pub(super) timers: BTreeSet<(Instant, PeerId)>,
    pub(super) receipts: u64,
    pub(super) batches: u64,
}

impl Ledger {
    /// The accounts as they were left.
    pub fn new(config: CreditConfig, records: &[(PeerId, Record)]) -> Ledger {
        let accounts = records.iter().map(|(peer, record)| (*peer, Account::restored(record))).collect();
        Ledger {
            newcomers: Pool::newcomers(&config),
            strangers: Pool::strangers(&config),
            config,
            accounts,
            payments: BTreeMap::new(),
            holds: BTreeMap::new(),
            dirty: BTreeSet::new(),
            urgent: false,
            flush_at: None,
            booking: None,
            due: VecDeque::new(),
            timers: BTreeSet::new(),
            receipts: 0,
            batches: 0,
        }
    }

    /// Other terms from now on. What was agreed on stays.
    pub fn configure(&mut self, config: CreditConfig) {
        self.newcomers.configure(Pool::newcomers(&config));
        self.strangers.configure(Pool::strangers(&config));
        self.config = config;
    }

    /// A link to a peer is up, or a new one beside others: perhaps it was restarted. Whoever served us before is told what came:
    /// the last receipt may have been lost with the last link.
    pub fn link_up(&mut self, peer: PeerId) {
        let account = self.account(peer);
        (account.linked, account.opened) = (true, false);
        if account.received > Msat::ZERO {
            self.open(peer);
        }
    }

    /// The last link to a peer ended.
    pub fn link_down(&mut self, peer: &PeerId) {
        let Some(account) = self.accounts.get_mut(peer) else { return };
        (account.linked, account.greeted, account.synced, account.opened) = (false, false, false, false);
        (account.telling, account.wants_receipt) = (None, false);
        (account.waiting, account.unsettled) = (false, false);
        if account.is_blank() {
            self.accounts.remove(peer);
        } else if account.mark > account.reach() {
            // With the next batch the mark comes down to what was provided.
            self.dirty.insert(*peer);
        }
    }

    /// A linked peer said hello: what proof of work it showed.
    pub fn greeted(&mut self, peer: PeerId, rank: u8) {
        if let Some(account) = self.accounts.get_mut(&peer) {
            (account.greeted, account.rank) = (true, rank);
        }
    }

    /// What so many bytes cost a peer now.
    pub fn quote(&self, peer: &PeerId, bytes: u64) -> Msat {
        self.config.charge(bytes, self.accounts.get(peer).map_or(0, |account| account.carry)).0
    }

    /// An answer of at most so many bytes is asked for by a linked peer who pays at most `ceiling`; rent of so much is charged with it. No
    /// id is given twice.
    pub fn hold(&mut self, now: Instant, id: HoldId, peer: PeerId, bytes: u64, rent: Msat, ceiling: Msat) -> Verdict {
        if self.config.price.is_zero() {
            return Verdict::Free;
        }
        let (config, payments) = (self.config, self.paid(&peer));
        let (spare, strangers) = (self.newcomers.left(now), self.strangers.left(now));
        let account = self.account(peer);
        let (charge, carry) = config.charge(bytes, account.carry);
        let charge = charge.saturating_add(rent);
        if charge > ceiling {
            return Verdict::Price(charge);
        }
        if charge == Msat::ZERO {
            account.carry = carry;
            return Verdict::Free;
        }
        if !account.synced || !account.greeted {
            return Verdict::Wait;
        }
        let Standing { debt, ours, line, closed } = standing(&config, account, payments);
        let short = debt.saturating_add(charge).over(ours).over(line);
        let on_rank = short.min(closed).min(strangers);
        // More than a receipt can name is never provided: so no sum of an account overflows.
        let reach = account.reach().checked_add(charge).filter(|reach| *reach <= RECEIPT_AMOUNT_MAX);
        let Some(reach) = reach.filter(|_| short.over(on_rank) <= spare) else {
            return Verdict::Line { owed: debt.over(ours), line: line.saturating_add(closed.min(strangers)) };
        };
        let open = account.unacknowledged();
        if open > Msat::ZERO && open.saturating_add(charge) > config.window() {
            return Verdict::Wait;
        }
        account.wants_mark |= reach > account.mark.max(account.mark_next);
        let (marked, urgent) = (reach <= account.mark.saturating_add(config.mark_slack()), account.wants_mark);
        if marked {
            account.carry = carry;
            account.held = account.held.saturating_add(charge);
            account.lent = account.lent.saturating_add(short).min(RECEIPT_AMOUNT_MAX);
            self.strangers.lend(on_rank);
            self.newcomers.lend(short.over(on_rank));
            self.holds.insert(id, Hold { peer, charge, lent: (on_rank, short.over(on_rank)) });
        }
        self.dirty.insert(peer);
        self.urgent |= urgent;
        if marked { Verdict::Held(charge) } else { Verdict::Wait }
    }

    /// What a peer owes, if that is so near to all that it may owe that it should pay before it is refused.
    pub fn runs_short(&mut self, now: Instant, peer: &PeerId) -> Option<Msat> {
        let (spare, strangers, payments) = (self.newcomers.left(now), self.strangers.left(now), self.paid(peer));
        let Standing { debt, ours, line, closed } = standing(&self.config, self.accounts.get(peer)?, payments);
        let owed = debt.over(ours);
        let most = line.saturating_add(closed.min(strangers)).saturating_add(spare);
        self.config.runs_short(owed, most).then_some(owed)
    }

    /// An answer was sent for so much of its hold (for nothing of it: the hold is void); `doubtful`: perhaps not all of that
    /// arrived. Gives whose it was. A second time, or without a hold, it does nothing.
    pub fn post(&mut self, id: HoldId, amount: Msat, doubtful: bool) -> Option<PeerId> {
        let Hold { peer, charge, lent } = self.holds.remove(&id)?;
        let account = self.accounts.get_mut(&peer)?;
        let amount = amount.min(charge);
        let (on_rank, beyond) = lent;
        let unused = charge.over(amount);
        let back = (on_rank.min(unused.over(beyond)), beyond.min(unused));
        account.lent = account.lent.over(back.0).over(back.1);
        self.strangers.give_back(back.0);
        self.newcomers.give_back(back.1);
        account.held = account.held.over(charge);
        account.provided = account.provided.saturating_add(amount);
        if doubtful {
            account.disputed = account.disputed.saturating_add(amount);
        }
        account.settle();
        self.dirty.insert(peer);
        Some(peer)
    }

    /// A peer's receipt came; its signature was checked. The highest one counts. `settled`: the peer waits for nothing of ours any
    /// more, so what it does not acknowledge now it never will.
    pub fn acknowledged(&mut self, peer: PeerId, receipt: &Receipt, settled: bool) {
        let account = self.account(peer);
        account.synced = true;
        let last = account.acknowledged();
        if receipt.amount < last {
            // An old one, late; or the peer lost its newest records, and is told of them with the answer.
            return;
        }
        if receipt.amount > last {
            account.proof = Some(*receipt);
        }
        if settled {
            account.disputed = account.provided;
        }
        account.settle();
        if !account.is_blank() {
            self.dirty.insert(peer);
        }
    }

    /// The newest receipt that we hold of a peer.
    pub fn proof(&self, peer: &PeerId) -> Option<Receipt> {
        self.accounts.get(peer)?.proof
    }

    /// The newest receipts that we hold of those peers that exchanged the most with us both ways: they serve others, too, most likely,
    /// whom these receipts then tell that we are no strangers. The best first.
    pub fn testimony(&self, most: usize) -> Vec<(PeerId, Receipt)> {
        let held = self.accounts.iter().filter_map(|(peer, account)| {
            let proof = account.proof.filter(|proof| proof.amount > Msat::ZERO)?;
            Some((account.received.min(proof.amount), proof, *peer))
        });
        let mut held: Vec<(Msat, Receipt, PeerId)> = held.collect();
        held.sort_by_key(|(mutual, proof, _)| std::cmp::Reverse((*mutual, proof.amount)));
        held.into_iter().take(most).map(|(_, proof, peer)| (peer, proof)).collect()
    }

    /// A linked peer is known to others by what it gave them, newly so many bytes: its line opens by eight times as much, as
    /// far as its rank goes.
    pub fn trust(&mut self, peer: PeerId, bytes: u64) {
        let more = self.config.price.of(bytes).over(self.config.price.per_request).times(TRUST_TIMES);
        let Some(account) = self.accounts.get_mut(&peer).filter(|account| account.greeted && bytes > 0) else { return };
        let most = self.config.base(account.rank).min(RECEIPT_AMOUNT_MAX);
        account.lent = account.lent.max(account.lent.saturating_add(more).min(most));
        self.dirty.insert(peer);
    }

    /// What was paid between this node and a peer, all of it: told again, it replaces what was told before.
    pub fn pay(&mut self, peer: PeerId, payments: Payments) {
        if payments == Payments::default() {
            self.payments.remove(&peer);
        } else {
            self.payments.insert(peer, payments);
        }
    }

    fn paid(&self, peer: &PeerId) -> Payments {
        self.payments.get(peer).copied().unwrap_or_default()
    }

    /// What service is worth that a peer provided to us, and what it acknowledged of ours.
    pub fn service(&self, peer: &PeerId) -> (Msat, Msat) {
        self.accounts.get(peer).map_or_else(Default::default, |account| (account.received, account.acknowledged()))
    }

    /// Peers that are linked.
    pub fn linked(&self) -> Vec<PeerId> {
        self.accounts.iter().filter(|(_, account)| account.linked).map(|(peer, _)| *peer).collect()
    }

    /// Whether a peer paid something, or provided more than what is risked with anybody: else it is a stranger.
    pub fn has_record(&self, peer: &PeerId) -> bool {
        self.paid(peer).credited > Msat::ZERO || self.service(peer).0 > self.config.window()
    }

    /// What a peer owes, as an invoice names it.
    pub fn owed_by(&self, peer: &PeerId) -> Msat {
        let Payments { credited, paid, pending } = self.paid(peer);
        let (received, acknowledged) = self.service(peer);
        let ours = acknowledged.saturating_add(paid).saturating_add(pending);
        ours.over(received.saturating_add(credited))
    }

    /// What a peer owes us, payments that are on their way among it; negative: what we owe it.
    pub fn owing(&self, peer: &PeerId) -> i64 {
        let Payments { credited, paid, pending } = self.paid(peer);
        let (received, acknowledged) = self.service(peer);
        let signed = |amount: Msat| i64::try_from(amount.0).unwrap_or(i64::MAX);
        let ours = acknowledged.saturating_add(paid).saturating_add(pending);
        signed(ours).saturating_sub(signed(received.saturating_add(credited)))
    }

    /// How things stand with each peer that anything was exchanged with.
    pub fn balances(&self) -> Vec<Balance> {
        let none = Account::default();
        let alone = self.payments.keys().filter(|peer| !self.accounts.contains_key(peer)).map(|peer| (peer, &none));
        let open = |peer: &PeerId, account: &Account| !account.is_blank() || self.payments.contains_key(peer);
        let accounts = self.accounts.iter().filter(|(peer, account)| open(peer, account)).chain(alone);
        accounts.map(|(peer, account)| self.balance(*peer, account)).collect()
    }

    fn balance(&self, peer: PeerId, account: &Account) -> Balance {
        let payments = self.paid(&peer);
        let ours = account.received.saturating_add(payments.credited);
        Balance {
            peer,
            acknowledged: account.acknowledged(),
            unacknowledged: account.unacknowledged(),
            disputed: account.disputed,
            received: account.received,
            payments,
            line: self.config.line(account.rank, ours, account.lent).0,
            rank: account.rank,
        }
    }

    /// Sums over all peers.
    pub fn stats(&self) -> LedgerStats {
        let mut stats = LedgerStats { receipts: self.receipts, batches: self.batches, ..LedgerStats::default() };
        for (peer, account) in &self.accounts {
            let Payments { credited, paid, .. } = self.paid(peer);
            let theirs = account.received.saturating_add(credited);
            let ours = account.acknowledged().saturating_add(paid);
            stats.owed_to_us = stats.owed_to_us.saturating_add(ours.over(account.vouched).over(theirs));
            stats.owed_by_us = stats.owed_by_us.saturating_add(theirs.over(ours));
        }
        stats
    }

    /// The account of a peer, made if need be. When there are too many, the one that the least depends on is forgotten: what we owe
    /// its peer comes back with the receipts that it holds of us; what it owes is given up.
    pub(super) fn account(&mut self, peer: PeerId) -> &mut Account {
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&peer) {
            let idle = self.accounts.iter().filter(|(_, account)| !account.linked && account.held == Msat::ZERO);
            // Whoever paid is not forgotten before those who did not: what it used would be there to be used again.
            let weight = |peer: &PeerId, account: &Account| account.weight().max(self.paid(peer).credited);
            let least = idle.min_by_key(|(peer, account)| weight(peer, account)).map(|(peer, _)| *peer);
            if let Some(least) = least {
                self.accounts.remove(&least);
                self.dirty.insert(least);
            }
        }
        self.accounts.entry(peer).or_default()
    }
}
