//! The ledger in the machine: who is served now, who waits, what is charged, which receipts go out.

use super::Node;
use super::calls::Purpose;
use super::effect::{Effect, Token};
use crate::base::amount::Msat;
use crate::base::limit::SLICE_BYTES;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::ledger::rank::rank;
use crate::ledger::{Balance, HoldId, Ledger, LedgerAction, Record, Verdict};
use crate::wire::message::{CallFailure, Demand, Fetch, Hello, Refusal, Request, Response, Statement};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How long a request waits for a receipt of its asker or for our disk.
const PARKED_MAX: Duration = Duration::from_secs(3);
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Service on credit.
#[derive(Debug)]
pub(crate) struct Credit {
    pub(crate) ledger: Ledger,
    /// Requests that wait, by asker, in the order in which they came.
    parked: BTreeMap<PeerId, VecDeque<Parked>>,
    /// The nonce of our own rank; 0: none.
    pub(crate) nonce: u64,
    /// A peer was met that charges something.
    charged: bool,
}

/// A request that is answered once its asker's account allows.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) token: Token,
    pub(crate) fetch: Fetch,
    pub(crate) demand: Demand,
    /// What is answered when it is not here.
    pub(crate) otherwise: Response,
    /// Whether all of it is here, as far as the machine knows.
    pub(crate) held: bool,
    pub(crate) until: Instant,
}

impl Credit {
    pub(crate) fn new(ledger: Ledger, nonce: u64) -> Credit {
        Credit { ledger, parked: BTreeMap::new(), nonce, charged: false }
    }

    /// Requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.parked.values().map(VecDeque::len).sum()
    }

    /// Whether this request waits.
    pub(crate) fn waits(&self, token: Token) -> bool {
        self.parked.values().flatten().any(|parked| parked.token == token)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let parked = self.parked.values().filter_map(|queue| queue.front()).map(|parked| parked.until).min();
        [parked, self.ledger.poll_timeout()].into_iter().flatten().min()
    }
}

/// When a request that came now is given up.
pub(crate) fn until(now: Instant) -> Instant {
    now.after(PARKED_MAX)
}

impl Node {
    /// Serves a fetch, or has it wait behind others of the same asker.
    pub(super) fn serve_on_credit(&mut self, now: Instant, from: PeerId, request: Parked) {
        if request.held && self.credit.parked.contains_key(&from) {
            self.credit.parked.entry(from).or_default().push_back(request);
        } else if let Some(request) = self.try_serve(now, from, request) {
            self.credit.parked.entry(from).or_default().push_back(request);
        }
    }

    /// Answers, unless the request has to wait: then it comes back.
    fn try_serve(&mut self, now: Instant, from: PeerId, request: Parked) -> Option<Parked> {
        let bytes = u64::from(request.fetch.slices.count).saturating_mul(SLICE_BYTES as u64);
        if self.publisher.placing(&from, &request.fetch.chunk) {
            // Whoever keeps what is ours contributes.
            self.upload.share.contributed(now, from, bytes);
            self.provide(now, from, request, Msat::ZERO);
            return None;
        }
        let (hold, ceiling) = (HoldId(request.token.0), request.fetch.ceiling);
        let rent = if request.held { self.rent_due(now, &from, &request.fetch, bytes) } else { Msat::ZERO };
        let refusal = match self.credit.ledger.hold(now, hold, from, bytes, rent, ceiling) {
            Verdict::Wait if request.held && request.until > now => return Some(request),
            Verdict::Free => {
                self.provide(now, from, request, Msat::ZERO);
                return None;
            }
            Verdict::Held(charge) => {
                self.hosting.claims.charge(now, &from, rent);
                // Whoever pays is asked to before he is refused.
                let pays = self.wallet.pays();
                if let Some(owed) = pays.then(|| self.credit.ledger.runs_short(now, &from)).flatten() {
                    self.ask_to_pay(now, from, owed, false);
                }
                self.provide(now, from, request, charge);
                return None;
            }
            Verdict::Wait => Refusal::Busy,
            Verdict::Price(_) => Refusal::Price,
            Verdict::Line { owed, line } => {
                // An invoice follows.
                self.ask_to_pay(now, from, owed, false);
                Refusal::CreditLimit { owed, line }
            }
        };
        // To point to others costs nothing.
        let response = if request.held { Response::Refused(refusal) } else { request.otherwise };
        self.effects.push_back(Effect::Answer { token: request.token, response });
        None
    }

    /// An account changed: those that wait for it are looked at again.
    pub(super) fn unpark(&mut self, now: Instant, peer: PeerId) {
        let Some(mut queue) = self.credit.parked.remove(&peer) else { return };
        while let Some(request) = queue.pop_front() {
            if let Some(request) = self.try_serve(now, peer, request) {
                queue.push_front(request);
                break;
            }
        }
        if !queue.is_empty() {
            self.credit.parked.insert(peer, queue);
        }
    }

    /// The end of an `Effect::Serve` that was charged.
    pub(super) fn served(&mut self, now: Instant, token: Token, charge: Msat, whole: bool) {
        if let Some(peer) = self.credit.ledger.post(HoldId(token.0), charge, !whole) {
            self.unpark(now, peer);
        }
    }

    /// What is on disk now lets those go on that waited for it.
    pub(super) fn booked(&mut self, now: Instant) {
        self.credit.ledger.booked();
        let waiting: Vec<PeerId> = self.credit.parked.keys().copied().collect();
        for peer in waiting {
            self.unpark(now, peer);
        }
    }

    /// A link to a peer is up.
    pub(super) fn credit_link_up(&mut self, peer: PeerId) {
        self.credit.ledger.link_up(peer);
        self.wallet.linked(peer);
        if self.fetch_calls.values().any(|(asked, _)| *asked == peer) {
            self.open_account(peer);
        }
    }

    /// The last link to a peer ended: nobody waits for what it asked.
    pub(super) fn credit_link_down(&mut self, peer: PeerId) {
        self.testified.remove(&peer);
        self.credit.ledger.link_down(&peer);
        for Parked { token, .. } in self.credit.parked.remove(&peer).into_iter().flatten() {
            self.effects.push_back(Effect::Answer { token, response: Response::Refused(Refusal::Busy) });
        }
    }

    /// Slices are about to be asked of a linked peer: what came before is acknowledged first, or it may not serve.
    pub(super) fn open_account(&mut self, peer: PeerId) {
        let free = self.peers.get(&peer).and_then(|peer| peer.price).is_some_and(|price| price.is_zero());
        if !free {
            self.credit.ledger.open(peer);
            self.credit.ledger.waits_for(&peer, true);
            self.testify(self.now, peer);
        }
    }

    /// A fetch of ours ended.
    pub(super) fn account_rests(&mut self, peer: PeerId) {
        if !self.fetch_calls.values().any(|(asked, _)| *asked == peer) {
            self.credit.ledger.waits_for(&peer, false);
        }
    }

    /// A peer said what it charges and what work it has done.
    pub(super) fn credit_hello(&mut self, now: Instant, peer: PeerId, hello: &Hello) {
        self.credit.ledger.greeted(peer, rank(&peer, hello.rank_nonce));
        // Where nothing costs anything a rank is of no use, and none is worked for.
        if !hello.price.is_zero() && !std::mem::replace(&mut self.credit.charged, true) {
            self.effects.push_back(Effect::Rank(self.rank()));
        }
        self.claim_changed(&peer);
        if self.fetch_calls.values().any(|(asked, _)| *asked == peer) {
            self.testify(now, peer);
        }
        self.fetch.priced(now, peer, hello.price);
        self.unpark(now, peer);
    }

    /// What a peer owes us changed, or we owe it: its service is sought before or after that of others.
    pub(super) fn claim_changed(&mut self, peer: &PeerId) {
        self.fetch.owed(peer, self.credit.ledger.owing(peer));
    }

    /// A peer's receipt, its signature checked by the shell.
    pub(super) fn receipt_heard(&mut self, now: Instant, from: PeerId, statement: &Statement) -> Response {
        self.credit.ledger.acknowledged(from, &statement.receipt, statement.settled);
        self.claim_changed(&from);
        self.unpark(now, from);
        Response::Receipted { held: self.credit.ledger.proof(&from) }
    }

    /// A receipt of ours ended.
    pub(super) fn receipt_answered(&mut self, now: Instant, peer: PeerId, result: Result<Response, CallFailure>) {
        let answer = match result {
            Ok(Response::Receipted { held }) => Ok(held),
            Ok(_) => {
                self.blame(now, peer, "answered a receipt with something else");
                Err(())
            }
            Err(_) => Err(()),
        };
        self.credit.ledger.told(now, peer, answer);
    }

    /// Carries out what the ledger wants. Returns whether there was something.
    pub(super) fn poll_credit(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(action) = self.credit.ledger.poll(now) {
            moved = true;
            match action {
                LedgerAction::Book(records) => self.effects.push_back(Effect::Book { records }),
                LedgerAction::Tell { peer, receipt, settled } => self.tell(now, peer, Statement { receipt, settled }),
            }
        }
        let late = |queue: &VecDeque<Parked>| queue.front().is_some_and(|parked| parked.until <= now);
        let late: Vec<PeerId> =
            self.credit.parked.iter().filter(|(_, queue)| late(queue)).map(|(peer, _)| *peer).collect();
        for peer in late {
            moved = true;
            self.unpark(now, peer);
        }
        moved
    }

    fn tell(&mut self, now: Instant, peer: PeerId, statement: Statement) {
        let contact = self.peers.contact(&peer);
        self.call(now, contact, Request::Receipt(statement), RECEIPT_TIMEOUT, Purpose::Receipt);
    }

    /// A better nonce for our rank was found: peers are told.
    pub(super) fn rank_found(&mut self, now: Instant, nonce: u64) {
        self.credit.nonce = nonce;
        self.greet_all(now);
    }

    pub(super) fn greet_all(&mut self, now: Instant) {
        let linked: Vec<PeerId> = self.peers.linked().map(|(peer, _, _)| *peer).collect();
        for peer in linked {
            self.greet(now, peer);
        }
    }

    /// How things stand with each peer.
    pub fn balances(&self) -> Vec<Balance> {
        self.credit.ledger.balances()
    }

    /// Our rank.
    pub fn rank(&self) -> u8 {
        rank(&self.me, self.credit.nonce)
    }

    /// Whether this request waits for the account of its asker, or for its turn.
    pub fn waits(&self, token: Token) -> bool {
        self.credit.waits(token) || self.upload.waits(token)
    }

    /// All accounts, to be written down for the last time.
    pub fn close_books(&mut self) -> Vec<(PeerId, Option<Record>)> {
        self.credit.ledger.close()
    }
}
