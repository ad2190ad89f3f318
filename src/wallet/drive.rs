//! What is done when: planning, the steps of each payment, looking at the chain, and the disk before all of it.

use super::core::{Doing, Order, Refused, Row, RowKey, Service, Wallet, WalletAction};
use super::payment::{Payment, PaymentId, Report, State};
use super::policy::{Due, plan};
use crate::base::amount::Msat;
use crate::base::bitcoin::Sat;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often the chain is looked at without being told to.
const LOOK_PERIOD: Duration = Duration::from_secs(30);
/// A step that failed for now is tried again after so long.
const RETRY: Duration = Duration::from_secs(20);
/// Below so many blocks a payment may still be reorganised away.
const BLOCKS_FINAL: u32 = 100;
/// Seconds before the end of an invoice in which no payment is begun.
pub(super) const INVOICE_MARGIN: u64 = 600;
/// A payment that was not sent so many seconds after the end of an invoice is given up.
const INVOICE_LATE: u64 = 86_400;
/// A payment that no block holds gets a higher fee rate, if that would help, after so many seconds, and again.
const BUMP_AFTER: u64 = 1_800;
/// For so long after we wanted its service, and it wanted money, a peer is paid in advance, if the user wants that.
const SOUGHT_MAX: Duration = Duration::from_secs(600);
/// Only who provided at least this part of it before is paid in advance.
const PREPAY_PART: u64 = 1000;
/// After a payment that could not be made none is begun by itself for so long.
const RESTS: Duration = Duration::from_secs(60);
/// Rows written down at once.
const BATCH_MAX: usize = 256;

impl Wallet {
    /// What is to be done next. `service` tells what there is to be settled with a peer.
    pub fn poll(&mut self, now: Instant, service: impl Fn(&PeerId) -> Service) -> Option<WalletAction> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.plan_at.is_some_and(|at| at <= now) {
            self.plan_at = None;
            self.plan(now, service);
        }
        while let Some(&(at, id)) = self.retry.first()
            && at <= now
        {
            self.retry.pop_first();
            self.steps.insert(id);
        }
        if let Some(batch) = self.batch() {
            return Some(batch);
        }
        while let Some(id) = self.next_step() {
            if let Some(action) = self.step(now, id) {
                return Some(action);
            }
        }
        if self.look_at.is_some_and(|at| at <= now) && !self.looking && self.fee_rate.is_some() {
            return self.look(now);
        }
        self.actions.pop_front()
    }

    /// When `poll` is due without an event.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let look = self.look_at.filter(|_| !self.looking && self.fee_rate.is_some());
        let retry = self.retry.first().map(|(at, _)| *at);
        [self.plan_at, look, retry].into_iter().flatten().min()
    }

    /// What is owed to a peer beyond what is on its way, and what it owes us. What either paid the other in advance is owed as service:
    /// it is worked off, not paid back.
    fn net(&self, peer: &PeerId, service: &Service) -> (Msat, Msat) {
        let sums = self.sums(peer);
        let gone = sums.paid.saturating_add(sums.pending);
        let owed = service.received.over(gone).over(service.acknowledged.over(sums.credited));
        let ours = service.acknowledged.saturating_add(gone);
        (owed, ours.over(service.received.saturating_add(sums.credited)))
    }

    fn plan(&mut self, now: Instant, service: impl Fn(&PeerId) -> Service) {
        self.wishes.retain(|_, wish| wish.until > now);
        let Some(civil) = self.civil(now).filter(|_| self.config.enabled) else { return };
        let Some(fee_rate) = self.fee_rate else { return };
        self.asked.retain(|_, invoice| invoice.expires > civil.saturating_add(INVOICE_MARGIN));
        // One at a time: what the one before takes is known before the next is reserved.
        if self.payments.values().any(|payment| payment.state == State::Reserved) {
            self.plan_at = Some(now.after(RETRY));
            return;
        }
        self.sought.retain(|_, at| at.after(SOUGHT_MAX) > now);
        let mut dues = Vec::new();
        for (peer, invoice) in &self.asked {
            let service = service(peer);
            let (owed, owing) = self.net(peer, &service);
            let wish = self.wishes.get(peer).filter(|wish| wish.outcome == Order::Waiting);
            if wish.is_none() && self.rests.is_some_and(|until| until > now) {
                continue;
            }
            // Nothing more is paid in advance before what was has been used up.
            if wish.is_none() && owing > Msat::ZERO {
                continue;
            }
            let ordered = wish.map(|wish| wish.amount.unwrap_or(Sat::covering(owed)));
            let allowed = self.allowed.of(now, peer);
            // In advance only whom we asked for service, and who gave some: whoever likes could ask for money.
            let proved = service.received.times(PREPAY_PART) >= self.config.prepay.msat();
            let prepay = if proved && self.sought.contains_key(peer) { self.config.prepay } else { Sat(0) };
            if ordered.is_some() || owed > Msat::ZERO || prepay > Sat(0) {
                let (peer, price, invoice) = (*peer, service.price, invoice.clone());
                dues.push(Due { peer, owed, prepay, price, invoice, ordered, allowed });
            }
        }
        let (plan, blocked) = plan(&self.config, &self.caps, civil, fee_rate, dues, self.allowed.pools());
        self.blocked.clear();
        for this in blocked {
            self.blocked.insert(this.peer, this);
            if let Some(wish) = self.wishes.get_mut(&this.peer).filter(|wish| wish.outcome == Order::Waiting) {
                wish.outcome = Order::Blocked(this);
            }
        }
        let Some(plan) = plan else { return };
        let id = self.fresh_id(civil);
        for output in &plan.outputs {
            self.asked.remove(&output.peer);
            self.changed.insert(output.peer);
            if let Some(wish) = self.wishes.get_mut(&output.peer) {
                wish.outcome = Order::Paying(id);
            }
        }
        // With the payment's row, or before it.
        let mut drawn = Vec::new();
        for (tree, left) in plan.pools {
            drawn.extend(self.allowed.use_up(&tree, left));
        }
        self.dirty.extend(drawn.iter().map(|drawn| RowKey::Allowance(drawn.tree)));
        let payment = Payment {
            id,
            at: civil,
            outputs: plan.outputs,
            fee_rate: plan.fee_rate,
            fee_cap: plan.fee_cap,
            fee_charged: plan.fee_charged,
            fee: Sat(0),
            state: State::Reserved,
            closed: None,
            drawn,
        };
        self.charge(&payment);
        self.payments.insert(id, payment);
        self.steps.insert(id);
        self.dirty.insert(RowKey::Payment(id));
    }

    fn fresh_id(&mut self, civil: u64) -> PaymentId {
        let mut bytes = [0; 16];
        let (time, rest) = bytes.split_at_mut(8);
        time.copy_from_slice(&civil.to_be_bytes());
        rest.copy_from_slice(&self.random.next_u64().to_be_bytes());
        PaymentId(bytes)
    }

    /// The changed rows as they are to be written down. What follows from them is told afterwards.
    fn batch(&mut self) -> Option<WalletAction> {
        if self.saving.is_some() || (self.dirty.is_empty() && self.gone.is_empty() && self.void.is_empty()) {
            return None;
        }
        let keys: BTreeSet<RowKey> = self.dirty.iter().take(BATCH_MAX).cloned().collect();
        let gone = std::mem::take(&mut self.gone);
        self.actions.extend(gone.iter().cloned().map(WalletAction::Release));
        let void = std::mem::take(&mut self.void).into_iter().map(Row::NoPayment);
        let mut rows: Vec<Row> = gone.into_iter().map(Row::NoBill).chain(void).collect();
        for key in &keys {
            self.dirty.remove(key);
            match key {
                RowKey::Allowance(tree) => {
                    rows.extend(self.allowed.get(tree).map(|allowance| Row::Allowance(*tree, *allowance)));
                }
                RowKey::Payment(id) => rows.extend(self.payments.get(id).cloned().map(Row::Payment)),
                RowKey::Bill(address) => rows.extend(self.bills.get(address).cloned().map(Row::Bill)),
            }
        }
        self.saving = Some(keys);
        if self.dirty.is_empty() {
            let changed = std::mem::take(&mut self.changed);
            self.telling = changed.into_iter().map(|peer| (peer, self.sums(&peer))).collect();
        }
        Some(WalletAction::Save(rows))
    }

    /// What was last given out as `Save` is on disk.
    pub(super) fn saved(&mut self) {
        let Some(keys) = self.saving.take() else { return };
        for (peer, sums) in std::mem::take(&mut self.telling) {
            self.actions.push_back(WalletAction::Sums(peer, sums));
        }
        for key in keys {
            match key {
                RowKey::Allowance(_) => {}
                RowKey::Payment(id) => self.notify(id, None),
                RowKey::Bill(address) => {
                    if let Some(peer) = self.bills.get(&address).map(|bill| bill.peer) {
                        self.bill(peer);
                    }
                }
            }
        }
    }

    /// A step that is due. While the chain cannot be used none can be taken.
    fn next_step(&mut self) -> Option<PaymentId> {
        self.fee_rate?;
        let ready = |id: &&PaymentId| self.is_clean(&RowKey::Payment(**id)) && !self.doing.contains_key(id);
        let id = self.steps.iter().find(ready).copied()?;
        self.steps.remove(&id);
        Some(id)
    }

    /// The next step of a payment whose row is on disk.
    fn step(&mut self, now: Instant, id: PaymentId) -> Option<WalletAction> {
        let civil = self.civil(now);
        let payment = self.payments.get_mut(&id)?;
        let end = payment.outputs.iter().map(|output| output.invoice.expires).min().unwrap_or(0);
        let late = civil.is_some_and(|civil| civil > end.saturating_add(INVOICE_LATE));
        let (doing, action) = match payment.state {
            State::Reserved | State::Signed if !self.config.enabled || late => {
                payment.state = State::Cancelling;
                self.steps.insert(id);
                self.dirty.insert(RowKey::Payment(id));
                return self.batch();
            }
            State::Reserved => (Doing::Prepare, WalletAction::Prepare(payment.clone())),
            State::Signed => (Doing::Send, WalletAction::Send(id)),
            State::Cancelling => {
                let fee_rate = self.fee_rate.unwrap_or(payment.fee_rate).min(self.config.fee_rate_max);
                (Doing::Cancel, WalletAction::Cancel { id, fee_rate, fee_cap: payment.fee_cap })
            }
            State::Sent | State::Confirmed(_) | State::Cancelled(_) => return None,
        };
        self.doing.insert(id, doing);
        Some(action)
    }

    /// A step ended.
    pub(super) fn stepped(&mut self, now: Instant, id: PaymentId, result: Result<Report, Refused>) {
        let (Some(doing), Some(civil)) = (self.doing.remove(&id), self.civil(now)) else { return };
        match result {
            Ok(report) => {
                self.trouble = None;
                self.reported(civil, id, &report);
                let Some(payment) = self.payments.get_mut(&id) else { return };
                match (doing, payment.state) {
                    (Doing::Send, State::Signed) => payment.state = State::Sent,
                    (Doing::Bump(rate), State::Sent) => {
                        payment.fee_rate = rate;
                        self.raise_ended(id, None);
                    }
                    (Doing::Cancel, State::Cancelling) => {
                        // Both transactions are out: the chain decides.
                        self.look_at = Some(now.after(LOOK_PERIOD));
                        return;
                    }
                    _ => return self.raise_ended(id, None),
                }
                self.dirty.insert(RowKey::Payment(id));
                self.look_at = Some(now);
            }
            Err(Refused::Never(why)) if doing == Doing::Prepare => {
                self.trouble = Some(why.clone());
                let Some(payment) = self.payments.get_mut(&id).filter(|payment| payment.state == State::Reserved)
                else {
                    return;
                };
                payment.state = State::Cancelling;
                self.rests = Some(now.after(RESTS));
                for output in &payment.outputs {
                    if let Some(wish) = self.wishes.get_mut(&output.peer) {
                        wish.outcome = Order::Failed(why.clone());
                    }
                }
                self.steps.insert(id);
                self.dirty.insert(RowKey::Payment(id));
            }
            Err(Refused::Never(why) | Refused::Later(why)) => {
                if matches!(doing, Doing::Bump(_)) {
                    self.raise_ended(id, Some(why.clone()));
                } else {
                    self.retry.insert((now.after(RETRY), id));
                }
                self.trouble = Some(why);
            }
        }
    }

    /// Looks at what may still change: at the chain's pace, so however many there are.
    fn look(&mut self, now: Instant) -> Option<WalletAction> {
        self.look_at = Some(now.after(LOOK_PERIOD));
        let civil = self.civil(now)?;
        if let Some(bump) = self.bump(civil) {
            return Some(bump);
        }
        let live = |payment: &&Payment| match payment.state {
            State::Confirmed(blocks) | State::Cancelled(blocks) => blocks < BLOCKS_FINAL,
            _ => true,
        };
        let payments: Vec<PaymentId> = self.payments.values().filter(live).map(|payment| payment.id).collect();
        let bills = self
            .bills
            .values()
            .filter(|bill| bill.came.is_empty() || bill.came.values().any(|(_, blocks)| *blocks < BLOCKS_FINAL));
        let addresses: Vec<String> = bills.map(|bill| bill.invoice.address.clone()).collect();
        for id in &payments {
            self.notify(*id, None);
        }
        if payments.is_empty() && addresses.is_empty() {
            return self.actions.pop_front();
        }
        self.looking = true;
        Some(WalletAction::Look { payments, addresses })
    }

    /// A payment that waits for a block and would be taken sooner at today's rate.
    fn bump(&mut self, civil: u64) -> Option<WalletAction> {
        let rate = self.fee_rate?.min(self.config.fee_rate_max);
        let stuck = |payment: &&Payment| {
            let since = self.bumped.get(&payment.id).copied().unwrap_or(payment.at);
            payment.state == State::Sent && payment.fee_rate < rate && since.saturating_add(BUMP_AFTER) <= civil
        };
        let stuck = self.payments.values().filter(stuck).find(|payment| !self.doing.contains_key(&payment.id));
        let (id, fee_cap) = stuck.map(|payment| (payment.id, payment.fee_cap))?;
        self.bumped.insert(id, civil);
        self.doing.insert(id, Doing::Bump(rate));
        Some(WalletAction::Bump { id, fee_rate: rate, fee_cap })
    }
}
