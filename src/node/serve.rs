//! Answers to what peers ask. Between a fetch and its answer stands the asker's account (`credit`).

use super::Node;
use super::credit::{self, Parked};
use super::effect::{Effect, Token};
use crate::base::digest::ChunkId;
use crate::base::keyspace::Key;
use crate::base::limit::CONTACTS_MAX;
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use crate::routing::provider::Kept;
use crate::wire::message::{Demand, Fetch, Located, Refusal, Request, Response};
use std::collections::BTreeMap;
use std::time::Duration;

/// Providers told of one chunk.
const PROVIDERS_TOLD: usize = 8;
/// Distinct contacts in one answer to a locate.
const LOCATED_CONTACTS: usize = 128;
/// Addresses told of a provider.
const ADDRS_TOLD: usize = 4;
/// Contacts told with a referral: fewer than to a find, because every fetch carries the work of them.
const REFERRAL_CONTACTS: usize = 8;

impl Node {
    /// Answers one request.
    pub(super) fn serve(&mut self, now: Instant, from: PeerId, token: Token, request: Request) {
        if self.peers.is_banned(now, &from) {
            return self.refuse(token, Refusal::Denied);
        }
        if !self.peers.spend(now, &from, cost(&request)) {
            return self.refuse(token, Refusal::Busy);
        }
        self.table.seen(now, &from);
        let response = match request {
            Request::Hello(hello) => {
                self.hello_heard(now, from, &hello);
                Response::Hello(self.hello_for(&from))
            }
            Request::Find { key } => {
                let contacts = self.table.closest_healthy(&key, CONTACTS_MAX + 1);
                let mut contacts = self.peers.tell(&from, contacts);
                contacts.truncate(CONTACTS_MAX);
                Response::Found { contacts }
            }
            Request::Locate { chunks } => {
                let located = self.located(now, &from, &chunks);
                self.effects.push_back(Effect::AnswerLocated { token, chunks, located });
                return;
            }
            Request::Fetch(fetch) => return self.serve_fetch(now, from, token, fetch),
            Request::Announce { chunks, ttl } => self.announced(now, from, &chunks, ttl),
            Request::Host(host) => self.host_offered(now, from, host),
            Request::Receipt(statement) => self.receipt_heard(now, from, &statement),
            Request::Testimony { receipts } => self.testimony_heard(now, from, &receipts),
            Request::Payment(payment) => self.payment_heard(now, from, payment),
            Request::Head { id } => self.head_asked(now, &id),
            Request::SetHead(head) => self.head_told(now, from, head),
            Request::Reach(_) => Response::Refused(Refusal::Unknown),
        };
        self.effects.push_back(Effect::Answer { token, response });
    }

    fn refuse(&mut self, token: Token, refusal: Refusal) {
        self.effects.push_back(Effect::Answer { token, response: Response::Refused(refusal) });
    }

    fn serve_fetch(&mut self, now: Instant, from: PeerId, token: Token, fetch: Fetch) {
        let held = self.announcer.holds(&fetch.chunk);
        let demand = if held {
            self.market.asked(now, &fetch.chunk, &from)
        } else {
            self.market.missed(now, &fetch.chunk, &from)
        };
        let key = Key::from(fetch.chunk);
        if held && let Some(otherwise) = self.elsewhere(now, &from, &fetch.chunk, demand) {
            self.effects.push_back(Effect::Answer { token, response: otherwise });
            return;
        }
        // What is held is served: a referral is then hardly ever needed, and not worth the search.
        let (holders, closer) = if held {
            (Vec::new(), Vec::new())
        } else {
            let closer = self.table.closer(&key, REFERRAL_CONTACTS);
            (self.holders(now, &from, &fetch.chunk), self.peers.tell(&from, closer))
        };
        let otherwise = Response::Referral { holders, closer, demand };
        let until = credit::until(now);
        self.serve_on_credit(now, from, Parked { token, fetch, demand, otherwise, held, until });
    }

    /// Whom to ask instead while more is asked than is on offer: linked holders that are closer to the chunk than we are, so that two that
    /// both have too much to do do not name one another. None: it is served.
    fn elsewhere(&self, now: Instant, to: &PeerId, chunk: &ChunkId, demand: Demand) -> Option<Response> {
        if !self.market.sheds(chunk) {
            return None;
        }
        let key = Key::from(*chunk);
        let own = self.table.me().distance(&key);
        let mut holders = self.holders(now, to, chunk);
        holders.retain(|holder| self.peers.is_linked(&holder.peer) && Key::from(holder.peer).distance(&key) < own);
        let closer = Vec::new();
        (!holders.is_empty()).then_some(Response::Referral { holders, closer, demand })
    }

    /// Who announced a chunk here, as told to `to`: linked ones first, those that could not be reached lately only when there are no others. Of
    /// many each asker hears of other ones, and half of them may be without a link: who only came first or keeps a link does not hide the rest.
    fn holders(&self, now: Instant, to: &PeerId, chunk: &ChunkId) -> Vec<Contact> {
        let known = self.providers.of(now, chunk);
        let good = known.into_iter().filter(|contact| !self.peers.is_banned(now, &contact.peer));
        let mut told = self.peers.tell(to, good.collect());
        if told.iter().any(|contact| !self.peers.is_doubtful(&contact.peer)) {
            told.retain(|contact| !self.peers.is_doubtful(&contact.peer));
        }
        told.sort_by_cached_key(|contact| self.providers.lot(&to.0, &contact.peer));
        let linked = |contact: &Contact| self.peers.is_linked(&contact.peer);
        let unlinked = told.iter().filter(|contact| !linked(contact)).count();
        let mut room = PROVIDERS_TOLD - unlinked.min(PROVIDERS_TOLD / 2);
        told.retain(|contact| {
            let stays = !linked(contact) || room > 0;
            room = room.saturating_sub(usize::from(linked(contact)));
            stays
        });
        told.sort_by_key(|contact| !linked(contact));
        told.truncate(PROVIDERS_TOLD);
        for contact in &mut told {
            contact.addrs.truncate(ADDRS_TOLD);
        }
        told
    }

    fn located(&mut self, now: Instant, from: &PeerId, chunks: &[ChunkId]) -> Located {
        let mut located = Located { held: vec![0; chunks.len().div_ceil(8)], ..Located::default() };
        let mut places: BTreeMap<PeerId, u8> = BTreeMap::new();
        for (index, chunk) in chunks.iter().enumerate() {
            if !self.announcer.holds(chunk) {
                self.market.missed(now, chunk, from);
            }
            for contact in self.holders(now, from, chunk) {
                let place = match places.get(&contact.peer) {
                    Some(place) => *place,
                    None if located.contacts.len() < LOCATED_CONTACTS => {
                        let place = located.contacts.len() as u8;
                        places.insert(contact.peer, place);
                        located.contacts.push(contact);
                        place
                    }
                    None => continue,
                };
                located.providers.push((index as u16, place));
            }
        }
        located.providers.sort_unstable();
        if let Some(first) = chunks.first() {
            let closer = self.table.closer(&Key::from(*first), CONTACTS_MAX);
            located.closer = self.peers.tell(from, closer);
        }
        located
    }

    fn announced(&mut self, now: Instant, from: PeerId, chunks: &[ChunkId], ttl: u32) -> Response {
        let contact = self.peers.contact(&from);
        let ttl = Duration::from_secs(u64::from(ttl));
        let mut kept = 0;
        for chunk in chunks {
            let table = &self.table;
            // When space is short: only chunks to which fewer than a bucketful of contacts are closer than we.
            let near = || table.closer_count(&Key::from(*chunk), CONTACTS_MAX) < CONTACTS_MAX;
            if self.providers.announced(now, &contact, *chunk, ttl, near) == Kept::Full {
                break;
            }
            kept += 1;
        }
        self.publisher.confirmed(now, from, chunks);
        Response::Announced { kept }
    }
}

/// What a request costs of the asker's bucket: about the work that it makes.
fn cost(request: &Request) -> f64 {
    match request {
        Request::Fetch(_) => 0.05,
        Request::Locate { chunks } | Request::Announce { chunks, .. } => 1.0 + chunks.len() as f64 / 32.0,
        Request::Host(host) => 2.0 + host.chunks.len() as f64 / 32.0,
        Request::Hello(_) => 4.0,
        Request::Find { .. } | Request::Head { .. } => 1.0,
        Request::Receipt(_) | Request::Payment(_) | Request::Reach(_) => 1.0,
        // Its signature was checked.
        Request::SetHead(_) => 2.0,
        Request::Testimony { receipts } => 1.0 + receipts.len() as f64,
    }
}
