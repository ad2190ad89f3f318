//! Being paid: who reached its limit gets an invoice at an address of its own, and what comes there counts for it.

use super::bill::Bill;
use super::core::{RowKey, Wallet, WalletAction};
use super::drive::INVOICE_MARGIN;
use crate::base::amount::Msat;
use crate::base::limit::{BILLS_OPEN_MAX, BILLS_PER_PEER_MAX, BILLS_STRANGERS_MAX};
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::payment::{Invoice, Notice};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an invoice of ours stands, seconds.
const INVOICE_LIFE: u64 = 86_400;
/// An invoice that nobody paid is forgotten so many seconds after its end, if there are too many; one of a stranger at its end.
const INVOICE_GRACE: u64 = 7 * 86_400;
/// A peer is sent its invoice no more often.
const INVOICE_PAUSE: Duration = Duration::from_secs(5);

impl Wallet {
    /// A peer owes so much and is asked to pay: it reached its limit, or wants to (`asked`). `known`: whether a peer ever provided
    /// or paid something; strangers have only a part of the invoices, and in turn, so that identities that cost nothing do not take
    /// them all. Gives whether it can, here.
    pub fn owing(
        &mut self,
        now: Instant,
        peer: PeerId,
        owed: Msat,
        asked: bool,
        known: impl Fn(&PeerId) -> bool,
    ) -> bool {
        let Some(civil) = self.civil(now).filter(|_| self.bills()) else { return false };
        let recent = self.invoiced.get(&peer).is_some_and(|at| at.after(INVOICE_PAUSE) > now);
        if (recent && !asked) || self.fetching.contains_key(&peer) {
            return true;
        }
        self.invoiced.retain(|_, at| at.after(INVOICE_PAUSE) > now);
        self.invoiced.insert(peer, now);
        let (network, confirmations) = (self.config.network, self.config.confirmations);
        let stranger = !known(&peer);
        let address = self.current.get(&peer).cloned();
        let fit = |bill: &&mut Bill| {
            !bill.used && bill.invoice.network == network && bill.invoice.confirmations == confirmations
        };
        if let Some(bill) = address.and_then(|address| self.bills.get_mut(&address)).filter(fit) {
            let over = bill.invoice.expires <= civil.saturating_add(INVOICE_MARGIN);
            if over && stranger && std::mem::take(&mut self.turned_away) {
                let address = bill.invoice.address.clone();
                self.drop_bill(peer, address);
                return false;
            }
            bill.invoice.amount = owed;
            if over || !stranger {
                bill.invoice.expires = civil.saturating_add(INVOICE_LIFE);
            }
            self.bill(peer);
            return true;
        }
        let unpaid = self.bills.values().filter(|bill| bill.came.is_empty()).map(|bill| &bill.peer);
        let (mut all, mut its, mut strangers) = (0usize, 0usize, 0usize);
        for debtor in unpaid.chain(self.fetching.keys()) {
            all = all.saturating_add(1);
            its = its.saturating_add(usize::from(*debtor == peer));
            strangers = strangers.saturating_add(usize::from(!known(debtor)));
        }
        let crowded = stranger && strangers >= BILLS_STRANGERS_MAX;
        let room = !crowded && all < BILLS_OPEN_MAX;
        if its >= BILLS_PER_PEER_MAX || !(room || self.forget_bill(civil, crowded, known)) {
            self.turned_away |= crowded;
            return false;
        }
        self.fetching.insert(peer, owed);
        self.actions.push_back(WalletAction::Address(peer));
        true
    }

    /// Forgets the unpaid invoice, or that of a stranger, that is to go first. If it is paid after all, its debtor shows it.
    fn forget_bill(&mut self, civil: u64, strangers: bool, known: impl Fn(&PeerId) -> bool) -> bool {
        let unpaid = self.bills.values().filter(|bill| bill.came.is_empty());
        let ends = unpaid.filter_map(|bill| {
            let known = known(&bill.peer);
            let grace = if known || bill.used { INVOICE_GRACE } else { 0 };
            let end = bill.invoice.expires.saturating_add(grace);
            (end <= civil && !(known && strangers)).then_some((end, bill.peer, &bill.invoice.address))
        });
        let Some((_, peer, address)) = ends.min() else { return false };
        let address = address.clone();
        self.drop_bill(peer, address);
        true
    }

    fn drop_bill(&mut self, peer: PeerId, address: String) {
        if self.current.get(&peer) == Some(&address) {
            self.current.remove(&peer);
        }
        self.bills.remove(&address);
        self.dirty.remove(&RowKey::Bill(address.clone()));
        self.gone.insert(address);
    }

    pub(super) fn addressed(&mut self, now: Instant, peer: PeerId, address: Result<String, String>) {
        let (Some(owed), Some(civil)) = (self.fetching.remove(&peer), self.civil(now)) else { return };
        let address = match address {
            Ok(address) => address,
            Err(why) => {
                self.trouble = Some(why);
                return;
            }
        };
        if self.bills.contains_key(&address) {
            return;
        }
        let invoice = Invoice {
            number: self.random.next_u64(),
            network: self.config.network,
            confirmations: self.config.confirmations,
            amount: owed,
            expires: civil.saturating_add(INVOICE_LIFE),
            address: address.clone(),
            signature: [0; 64],
        };
        let bill = Bill { peer, invoice, used: false, came: BTreeMap::new() };
        self.bills.insert(address.clone(), bill);
        self.current.insert(peer, address.clone());
        // Sent once it is on disk.
        self.dirty.insert(RowKey::Bill(address));
    }

    /// Sends a peer its invoice, if that is on disk.
    pub(super) fn bill(&mut self, peer: PeerId) {
        let Some(bill) = self.current.get(&peer).and_then(|address| self.bills.get(address)) else { return };
        let key = RowKey::Bill(bill.invoice.address.clone());
        if !bill.used && self.is_clean(&key) {
            let invoice = bill.invoice.clone();
            self.actions.push_back(WalletAction::Invoice(peer, invoice));
        }
    }

    /// A debtor says that it paid an invoice of ours; our signature was checked.
    pub fn noticed(&mut self, now: Instant, peer: PeerId, notice: &Notice) {
        let address = &notice.invoice.address;
        let bill = self.bills.entry(address.clone()).or_insert_with(|| {
            let invoice = Invoice { signature: [0; 64], ..notice.invoice.clone() };
            Bill { peer, invoice, used: false, came: BTreeMap::new() }
        });
        if bill.peer != peer {
            return;
        }
        self.gone.remove(address);
        if !std::mem::replace(&mut bill.used, true) {
            self.dirty.insert(RowKey::Bill(address.clone()));
        }
        if self.current.get(&peer) == Some(address) {
            self.current.remove(&peer);
        }
        self.look_at = Some(now);
    }
}
