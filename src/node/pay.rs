//! Payments in the machine: who reached its line is asked to pay, what we owe is paid, and what was paid is told to the ledger.

use super::Node;
use super::calls::Purpose;
use super::effect::Effect;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::ledger::{CreditConfig, Payments};
use crate::wallet::{
    Allowance, Blocked, Order, PayConfig, Payment as Paying, PaymentId, Raise, Service, Sums, WalletAction, WalletEvent,
};
use crate::wire::message::{CallFailure, Price, Refusal, Request, Response};
use crate::wire::payment::Payment;
use std::time::Duration;

const PAYMENT_TIMEOUT: Duration = Duration::from_secs(10);

impl Node {
    /// A peer's word about payments, its signature checked by the shell.
    pub(super) fn payment_heard(&mut self, now: Instant, from: PeerId, payment: Payment) -> Response {
        let taken = match payment {
            Payment::Ask => {
                let owed = self.credit.ledger.owed_by(&from);
                self.ask_to_pay(now, from, owed, true)
            }
            Payment::Invoice(invoice) => {
                if self.fetch_calls.values().any(|(asked, _)| *asked == from) {
                    self.wallet.sought(now, from);
                }
                self.wallet.invoiced(now, from, invoice)
            }
            Payment::Notice(notice) => {
                self.wallet.noticed(now, from, &notice);
                true
            }
        };
        if taken { Response::Noted } else { Response::Refused(Refusal::Unpaid) }
    }

    /// Has an invoice sent to a peer that owes so much. Gives whether one can be.
    pub(super) fn ask_to_pay(&mut self, now: Instant, peer: PeerId, owed: Msat, asked: bool) -> bool {
        let ledger = &self.credit.ledger;
        self.wallet.owing(now, peer, owed, asked, |peer| ledger.has_record(peer))
    }

    /// The signer or the chain said something. Once invoices can be sent, those go out that could not before.
    pub(super) fn wallet_moved(&mut self, now: Instant, event: WalletEvent) {
        let billed = self.wallet.bills();
        self.wallet.handle(now, event);
        if billed || !self.wallet.bills() {
            return;
        }
        for peer in self.credit.ledger.linked() {
            if let Some(owed) = self.credit.ledger.runs_short(now, &peer) {
                self.ask_to_pay(now, peer, owed, false);
            }
        }
    }

    /// Carries out what the payments want. Returns whether there was something.
    pub(super) fn poll_wallet(&mut self, now: Instant) -> bool {
        let mut moved = false;
        loop {
            let (ledger, peers) = (&self.credit.ledger, &self.peers);
            let service = |peer: &PeerId| {
                let (received, acknowledged) = ledger.service(peer);
                let price = peers.get(peer).and_then(|peer| peer.price).map(|price| price.per_gib);
                Service { received, acknowledged, price }
            };
            let Some(action) = self.wallet.poll(now, service) else { return moved };
            moved = true;
            match action {
                WalletAction::Sums(peer, Sums { credited, paid, pending }) => {
                    self.credit.ledger.pay(peer, Payments { credited, paid, pending });
                    self.upload_paid(now, peer, credited);
                    self.claim_changed(&peer);
                    self.unpark(now, peer);
                }
                WalletAction::Ask(peer) => self.speak(now, peer, Payment::Ask, Purpose::Ask),
                WalletAction::Invoice(peer, invoice) => {
                    self.speak(now, peer, Payment::Invoice(invoice), Purpose::Invoice);
                }
                WalletAction::Notice(id, peer, notice) => {
                    self.speak(now, peer, Payment::Notice(notice), Purpose::Notice(id));
                }
                other => self.effects.push_back(Effect::Wallet(Box::new(other))),
            }
        }
    }

    fn speak(&mut self, now: Instant, peer: PeerId, payment: Payment, purpose: Purpose) {
        let contact = self.peers.contact(&peer);
        self.call(now, contact, Request::Payment(payment), PAYMENT_TIMEOUT, purpose);
    }

    /// A word of ours about payments was answered.
    pub(super) fn payment_answered(
        &mut self,
        now: Instant,
        peer: PeerId,
        purpose: &Purpose,
        result: Result<Response, CallFailure>,
    ) {
        let refused = match result {
            Ok(Response::Noted) => None,
            Ok(_) => return self.blame(now, peer, "answered a payment with something else"),
            Err(failure) => Some(failure.to_string()),
        };
        match purpose {
            Purpose::Ask => self.wallet.asked(&peer, refused),
            Purpose::Notice(id) if refused.is_none() => self.wallet.heard(*id, peer),
            _ => {}
        }
    }

    /// Other terms from now on; peers are told.
    pub(super) fn terms(&mut self, now: Instant, credit: CreditConfig, payments: PayConfig) {
        self.config.credit = credit;
        self.credit.ledger.configure(credit);
        self.fetch.set_price_max(now, credit.price_max);
        self.wallet.configure(now, payments);
        self.greet_all(now);
    }

    /// What became of the wish to pay a peer; `None` when there is none, or no more.
    pub fn ordered(&self, peer: &PeerId) -> Option<&Order> {
        self.wallet.ordered(peer)
    }

    /// What became of the wish to raise a payment's fee.
    pub fn raised(&self, id: &PaymentId) -> Option<&Raise> {
        self.wallet.raised(id)
    }

    /// Whether peers are paid, and pay.
    pub fn pays(&self) -> bool {
        self.wallet.pays()
    }

    /// The least that a linked peer charges beyond what we pay, and what we pay at most.
    pub fn too_dear(&self) -> Option<(Price, Price)> {
        let most = self.config.credit.price_max;
        let dear = |price: &Price| price.per_gib > most.per_gib || price.per_request > most.per_request;
        let dear = self.peers.linked().filter_map(|(_, peer, _)| peer.price).filter(dear);
        Some((dear.min_by_key(|price| (price.per_gib, price.per_request))?, most))
    }

    /// What keeps debts from being paid.
    pub fn blocked(&self) -> Vec<Blocked> {
        self.wallet.blocked()
    }

    /// The same for peers that refused a read of this tree.
    pub fn blocked_for(&self, tree: &ChunkId) -> Vec<Blocked> {
        self.wallet.blocked_for(tree)
    }

    /// What is left of what the user allowed beyond the limits for a tree, and whether that is on disk.
    pub fn allowance(&self, tree: &ChunkId) -> Option<(Allowance, bool)> {
        self.wallet.allowance(tree)
    }

    /// All that is allowed beyond the limits and not used up.
    pub fn allowances(&self) -> Vec<(ChunkId, Allowance)> {
        self.wallet.allowances()
    }

    /// Why payments do not go on.
    pub fn wallet_trouble(&self) -> Option<String> {
        self.wallet.trouble()
    }

    /// All payments of ours, the oldest first.
    pub fn payments(&self) -> Vec<Paying> {
        self.wallet.payments()
    }
}
