//! The receiving side: what came is added up, written down, and then acknowledged.

use super::core::Ledger;
use super::credit::CreditConfig;
use crate::base::amount::Msat;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::receipt::{RECEIPT_AMOUNT_MAX, Receipt};

impl Ledger {
    /// A linked peer is about to be asked for something that may cost: once on each link it is told first what came so far.
    pub fn open(&mut self, peer: PeerId) {
        let account = self.account(peer);
        if !account.opened {
            (account.opened, account.opening, account.telling) = (true, true, None);
            self.due.push_back(peer);
        }
    }

    /// Whether something that a peer was asked for is waited for. Once nothing is, it may have to be told so: what it believes to be
    /// under way fills its window.
    pub fn waits_for(&mut self, peer: &PeerId, waiting: bool) {
        let Some(account) = self.accounts.get_mut(peer) else { return };
        account.waiting = waiting;
        self.settle_later(*peer);
    }

    fn settle_later(&mut self, peer: PeerId) {
        let Some(account) = self.accounts.get_mut(&peer) else { return };
        let quiet = !account.waiting && account.telling.is_none() && account.written == account.received;
        if quiet && account.linked && std::mem::take(&mut account.unsettled) {
            self.due.push_back(peer);
        }
    }

    /// Verified bytes came from a peer, for this amount.
    pub fn received(&mut self, now: Instant, peer: PeerId, bytes: u64, amount: Msat) {
        if amount == Msat::ZERO {
            return;
        }
        let (step, after) = (self.config.receipt_bytes, self.config.receipt_after);
        let account = self.account(peer);
        // No receipt could name it.
        let Some(sum) = account.received.checked_add(amount).filter(|sum| *sum <= RECEIPT_AMOUNT_MAX) else { return };
        account.received = sum;
        account.received_bytes = account.received_bytes.saturating_add(bytes);
        account.received_at = now;
        let timed = std::mem::replace(&mut account.timed, true);
        let due = account.untold() >= step;
        self.dirty.insert(peer);
        if !timed {
            self.timers.insert((now.after(after), peer));
        }
        if due {
            self.want_receipt(peer);
        }
    }

    fn want_receipt(&mut self, peer: PeerId) {
        let Some(account) = self.accounts.get_mut(&peer) else { return };
        if !account.linked || account.wants_receipt || account.telling.is_some() {
            return;
        }
        account.wants_receipt = true;
        self.dirty.insert(peer);
        self.urgent = true;
    }

    /// A receipt of ours ended: with what the peer holds of us, if it was answered. A higher one than the first on its link, which
    /// we must have signed, means that this ledger is an older copy: what came since counts on top.
    pub fn told(&mut self, now: Instant, peer: PeerId, answer: Result<Option<Receipt>, ()>) {
        let CreditConfig { receipt_bytes, receipt_after, .. } = self.config;
        let Some(account) = self.accounts.get_mut(&peer) else { return };
        let Some((amount, first)) = account.telling.take() else { return };
        match answer {
            Ok(held) => {
                let missed = held.map_or(Msat::ZERO, |held| held.amount.over(amount));
                let sum = account.received.checked_add(missed).filter(|sum| *sum <= RECEIPT_AMOUNT_MAX);
                if let (true, Some(held), Some(sum)) = (first && missed > Msat::ZERO, held, sum) {
                    account.received = sum;
                    account.sequence = account.sequence.max(held.sequence);
                    return self.want_receipt(peer);
                }
                if account.untold() >= receipt_bytes {
                    return self.want_receipt(peer);
                }
            }
            // Told again with the next occasion.
            Err(()) => (account.told_bytes, account.opened) = (0, false),
        }
        if account.untold() > 0 && !std::mem::replace(&mut account.timed, true) {
            self.timers.insert((now.after(receipt_after), peer));
        }
        self.settle_later(peer);
    }

    /// Nothing came from a peer for a while: what is not acknowledged yet is now.
    pub(super) fn quiet(&mut self, now: Instant, peer: PeerId) {
        let after = self.config.receipt_after;
        let Some(account) = self.accounts.get_mut(&peer) else { return };
        account.timed = false;
        let at = account.received_at.after(after);
        if !account.linked || account.untold() == 0 {
            return;
        }
        if at > now || account.telling.is_some() {
            account.timed = true;
            self.timers.insert((at.max(now.after(after)), peer));
        } else {
            self.want_receipt(peer);
        }
    }
}
