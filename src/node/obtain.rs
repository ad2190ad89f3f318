//! The fetch core and the publisher in the machine: what they want becomes calls and searches, what happens is told to them.

use super::Node;
use super::calls::Purpose;
use super::effect::Effect;
use super::hosting::OWN_WANT;
use crate::base::digest::ChunkId;
use crate::base::limit::CONTACTS_MAX;
use crate::base::network::network;
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use crate::fetch::FetchAction;
use crate::publish::job::Publish;
use crate::publish::{OfferId, OfferOutcome, PublishAction};
use crate::wire::call::{Answer, CallId};
use crate::wire::message::{CallFailure, Host, Refusal, Request, Response, capability};
use std::time::Duration;

const OFFER_TIMEOUT: Duration = Duration::from_secs(10);
/// While something is published, so many hosts are kept in reach.
const HOSTS_WANTED: usize = 48;

impl Node {
    /// Carries out what the fetch core wants. Returns whether there was something.
    pub(super) fn poll_fetch(&mut self, now: Instant) -> bool {
        if self.fetch.poll_timeout().is_some_and(|at| at <= now) {
            self.fetch.tick(now);
        }
        let mut moved = false;
        while let Some(action) = self.fetch.poll() {
            moved = true;
            match action {
                FetchAction::Ask { call, to, fetch, deadline } => {
                    let to = self.peers.merged(to);
                    self.fetch_calls.insert(call, (to.peer, fetch.chunk));
                    if self.peers.is_linked(&to.peer) {
                        self.open_account(to.peer);
                    }
                    if self.peers.may_call(now, &to) {
                        self.effects.push_back(Effect::Call { call, to, request: Request::Fetch(fetch), deadline });
                    } else {
                        self.stillborn.push_back((call, CallFailure::Unreachable(to.peer)));
                    }
                }
                FetchAction::Cancel { call } => self.effects.push_back(Effect::Cancel { call }),
                FetchAction::Locate { mut chunks, urgent, near } => {
                    if !urgent {
                        // Who has what the market buys is known here, and a search would make others believe that somebody wants it.
                        for bought in chunks.extract_if(.., |chunk| self.purchases.buys(chunk)).collect::<Vec<_>>() {
                            self.searched_providers(now, bought);
                        }
                    }
                    if !chunks.is_empty() {
                        self.searches.want_providers(chunks, urgent, near);
                    }
                }
                FetchAction::Done { want, result } => {
                    if want.0 & OWN_WANT == 0 {
                        self.effects.push_back(Effect::WantDone { want, result });
                    } else if !self.purchased(now, want, &result) && !self.gathered(now, want, result.is_ok()) {
                        self.pulled(now, want, result);
                    }
                }
                FetchAction::Blame { peer, why } => self.blame(now, peer, why),
            }
        }
        moved
    }

    /// A call of the fetch core ended.
    pub(super) fn fetch_answered(&mut self, now: Instant, call: CallId, mut result: Result<Answer, CallFailure>) {
        let Some((peer, chunk)) = self.fetch_calls.remove(&call) else { return };
        self.account_rests(peer);
        match &mut result {
            Ok(Answer::Message(Response::Referral { holders, closer, .. })) => {
                // It may have announced the chunk once; now it does not hold it.
                self.providers.denied(&peer, chunk);
                *holders = self.peers.heard(now, &peer, std::mem::take(holders));
                closer.clear();
                self.judge(now, peer, None);
            }
            Ok(_) => self.judge(now, peer, None),
            // The fetch core blames by itself, after it has drawn its own conclusions.
            Err(CallFailure::False(_)) => {}
            Err(failure) => {
                let failure = failure.clone();
                if let CallFailure::Refused(Refusal::CreditLimit { .. }) = failure {
                    self.wallet.sought(now, peer);
                }
                self.judge(now, peer, Some(&failure));
            }
        }
        self.fetch.answered(now, call, &result);
    }

    /// Carries out what the publisher wants. Returns whether there was something.
    pub(super) fn poll_publisher(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(action) = self.publisher.poll(now) {
            moved = true;
            match action {
                PublishAction::Offer { offer, to, chunks, lease } => {
                    let contact = self.peers.contact(&to);
                    let request = Request::Host(Host { chunks, lease, price: self.config.credit.host_price_max });
                    self.call(now, contact, request, OFFER_TIMEOUT, Purpose::Offer(offer));
                }
                PublishAction::Placed { job, group, chunk, peer } => self.placed(now, job, group, chunk, peer),
                PublishAction::Progress { job, progress } => {
                    if !self.mend_progress(now, job, &progress) {
                        self.effects.push_back(Effect::Published { job, progress });
                    }
                }
            }
        }
        moved
    }

    /// The engine wants a tree hosted.
    pub(super) fn publish(&mut self, now: Instant, publish: &Publish) {
        self.publisher.publish(now, publish);
        self.wake_housekeeping(now);
        for group in &publish.groups {
            for (chunk, _) in &group.chunks {
                self.market.forget(&[*chunk]);
                self.announcer.hold(now, &[*chunk]);
                if self.announcer.is_announced(chunk) {
                    self.publisher.announced(now, chunk);
                }
            }
        }
    }

    /// Whether a peer keeps chunks for what is offered.
    pub(super) fn offer_priced(&mut self, peer: PeerId, result: &Result<Response, CallFailure>) {
        match result {
            Ok(Response::Hosting { .. }) => drop(self.dear_hosts.remove(&peer)),
            Err(CallFailure::Refused(Refusal::Price)) if self.dear_hosts.len() < CONTACTS_MAX => {
                self.dear_hosts.insert(peer);
            }
            _ => {}
        }
    }

    /// An offer of ours ended.
    pub(super) fn offer_answered(
        &mut self,
        now: Instant,
        offer: OfferId,
        peer: PeerId,
        result: Result<Response, CallFailure>,
    ) {
        self.offer_priced(peer, &result);
        let outcome = match result {
            Ok(Response::Hosting { accepted }) => OfferOutcome::Accepted(accepted),
            Ok(_) => {
                self.blame(now, peer, "answered an offer with something else");
                OfferOutcome::Failed
            }
            Err(CallFailure::Refused(refusal)) => OfferOutcome::Refused(refusal),
            Err(_) => OfferOutcome::Failed,
        };
        self.publisher.offered(now, offer, &outcome);
    }

    /// While something waits for hosts, more contacts are called upon than a quiet node has links to.
    pub(super) fn seek_hosts(&mut self, now: Instant) {
        let stats = self.publisher.stats();
        if stats.jobs == 0 || stats.hosts >= HOSTS_WANTED {
            return;
        }
        let unlinked: Vec<Contact> =
            self.table.by_age().into_iter().filter(|contact| !self.peers.is_linked(&contact.peer)).collect();
        if unlinked.is_empty() {
            return;
        }
        for _ in 0..8 {
            let place = self.random.below(unlinked.len() as u64) as usize;
            if let Some(contact) = unlinked.get(place) {
                self.probe(now, contact.peer);
            }
        }
    }

    pub(super) fn peer_linked(&mut self, now: Instant, peer: PeerId, rtt: Option<Duration>) {
        self.fetch.peer_up(now, peer, rtt);
        self.hosting.owner_up(now, &peer);
    }

    pub(super) fn peer_unlinked(&mut self, now: Instant, peer: PeerId) {
        self.fetch.peer_down(now, peer);
        self.credit_link_down(peer);
        self.upload_link_down(now, &peer);
        self.publisher.host_down(now, peer);
    }

    /// A linked peer said what it does.
    pub(super) fn peer_greeted(&mut self, now: Instant, peer: PeerId) {
        let Some(known) = self.peers.get(&peer) else { return };
        if let Some(link) = known.link
            && known.capabilities.is_some_and(|bits| bits & capability::HOSTS != 0)
        {
            self.publisher.host_up(now, peer, network(&link.at));
        }
    }

    pub(super) fn found_providers(&mut self, now: Instant, chunk: ChunkId, contacts: &[Contact]) {
        self.fetch.providers(now, chunk, contacts);
    }

    pub(super) fn searched_providers(&mut self, now: Instant, chunk: ChunkId) {
        self.fetch.no_more_providers(now, chunk);
    }
}
