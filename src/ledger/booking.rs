//! What of the accounts is written down when: a mark before more is provided, what was received before it is acknowledged, and
//! everything else within seconds. One batch at a time, so that many changes share a transaction.

use super::account::Record;
use super::core::{Ledger, LedgerAction};
use crate::base::amount::Msat;
use crate::base::limit::ACCOUNT_BATCH_MAX;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::receipt::Receipt;
use std::time::Duration;

/// What nothing waits for is written down after so long.
const FLUSH_AFTER: Duration = Duration::from_secs(10);

/// An account that is being written down.
#[derive(Debug)]
pub(super) struct Booking {
    peer: PeerId,
    record: Option<Record>,
    received_bytes: u64,
}

impl Ledger {
    /// What is to be done next.
    pub fn poll(&mut self, now: Instant) -> Option<LedgerAction> {
        while let Some(&(at, peer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.quiet(now, peer);
        }
        while let Some(peer) = self.due.pop_front() {
            let Some(account) = self.accounts.get_mut(&peer) else { continue };
            if account.telling.is_some() || !account.linked {
                continue;
            }
            account.telling = Some((account.written, std::mem::take(&mut account.opening)));
            account.told_bytes = account.written_bytes;
            let receipt = Receipt::unsigned(account.written_sequence, account.written);
            let settled = account.written == account.received && !account.waiting;
            account.unsettled = !settled;
            self.receipts = self.receipts.saturating_add(1);
            return Some(LedgerAction::Tell { peer, receipt, settled });
        }
        self.poll_book(now)
    }

    fn poll_book(&mut self, now: Instant) -> Option<LedgerAction> {
        if self.booking.is_some() || self.dirty.is_empty() {
            return None;
        }
        let flush_at = *self.flush_at.get_or_insert(now.after(FLUSH_AFTER));
        if !self.urgent && flush_at > now {
            return None;
        }
        (self.urgent, self.flush_at) = (false, None);
        self.batches = self.batches.saturating_add(1);
        let batch = self.batch();
        // What did not fit goes next.
        self.flush_at = (!self.dirty.is_empty()).then_some(now);
        Some(LedgerAction::Book(batch))
    }

    /// When `poll` is due without an event.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let flush = self.flush_at.filter(|_| self.booking.is_none());
        [self.timers.first().map(|(at, _)| *at), flush].into_iter().flatten().min()
    }

    /// The changed accounts as they are to be written down; those that something waits for first.
    fn batch(&mut self) -> Vec<(PeerId, Option<Record>)> {
        let waited = |peer: &&PeerId| self.waits(peer);
        let mut peers: Vec<PeerId> = self.dirty.iter().filter(waited).take(ACCOUNT_BATCH_MAX).copied().collect();
        let others = self.dirty.iter().filter(|peer| !waited(peer));
        peers.extend(others.take(ACCOUNT_BATCH_MAX.saturating_sub(peers.len())));
        let (step, window) = (self.config.mark_step(), self.config.window());
        let mut bookings = Vec::with_capacity(peers.len());
        for peer in peers {
            self.dirty.remove(&peer);
            let account = self.accounts.get_mut(&peer).filter(|account| account.wants_mark || !account.is_blank());
            let received_bytes = account.as_ref().map_or(0, |account| account.received_bytes);
            let record = account.map(|account| {
                let reach = account.reach();
                let wants = std::mem::take(&mut account.wants_mark);
                let mark = match (wants, account.linked) {
                    // Not beyond what the window allows: after a crash all up to the mark counts as provided.
                    (true, _) => reach.saturating_add(step).min(account.settled().saturating_add(window)).max(reach),
                    (false, true) => account.mark.max(reach),
                    (false, false) => reach,
                };
                // Until it is known to be on disk the lower of both holds.
                (account.mark_next, account.mark) = (mark, account.mark.min(mark));
                account.record(mark)
            });
            bookings.push(Booking { peer, record, received_bytes });
        }
        let records = bookings.iter().map(|booking| (booking.peer, booking.record)).collect();
        self.booking = Some(bookings);
        records
    }

    fn waits(&self, peer: &PeerId) -> bool {
        self.accounts.get(peer).is_some_and(|account| account.wants_mark || account.wants_receipt)
    }

    /// What was last given out as `Book` is on disk.
    pub fn booked(&mut self) {
        for Booking { peer, record, received_bytes } in self.booking.take().into_iter().flatten() {
            let (Some(account), Some(record)) = (self.accounts.get_mut(&peer), record) else { continue };
            (account.mark, account.mark_next) = (record.mark, Msat::ZERO);
            if record.received > account.written && record.sequence > account.sequence {
                (account.written, account.written_bytes) = (record.received, received_bytes);
                (account.written_sequence, account.sequence) = (record.sequence, record.sequence);
            }
            if std::mem::take(&mut account.wants_receipt) {
                self.due.push_back(peer);
            }
        }
        self.urgent |= self.dirty.iter().any(|peer| self.waits(peer));
    }

    /// Everything as it stands, for the last time: nothing is served any more.
    pub fn close(&mut self) -> Vec<(PeerId, Option<Record>)> {
        let gone = self.dirty.iter().filter(|peer| !self.accounts.contains_key(peer));
        let mut records: Vec<(PeerId, Option<Record>)> = gone.map(|peer| (*peer, None)).collect();
        let kept = self.accounts.iter().filter(|(_, account)| !account.is_blank());
        records.extend(kept.map(|(peer, account)| (*peer, Some(account.record(account.reach())))));
        records
    }
}
