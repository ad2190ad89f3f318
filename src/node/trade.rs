//! The market in the machine: requests are counted, chunks worth having are fetched like any other, the least worth are given up.

use super::Node;
use super::credit::Parked;
use super::effect::Effect;
use super::hosting::OWN_WANT;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::keyspace::Key;
use crate::base::limit::{CONTACTS_MAX, SLICE_BYTES};
use crate::base::peer::{Contact, PeerId};
use crate::base::range::SliceRange;
use crate::base::time::Instant;
use crate::fetch::want::{Urgency, Want, WantFailure, WantId, WantOk};
use crate::market::{MarketAction, Offer, Radius};
use std::collections::BTreeMap;
use std::time::Duration;

/// Wants of the market have this bit beside `OWN_WANT`.
pub(super) const BOUGHT_WANT: u64 = 1 << 61;
const BUY_TIMEOUT: Duration = Duration::from_secs(120);

/// What is being bought.
#[derive(Debug, Default)]
pub(crate) struct Purchases {
    /// With the slices that came.
    running: BTreeMap<WantId, (ChunkId, u64)>,
    next: u64,
}

impl Purchases {
    /// Slices of a chunk came.
    pub(super) fn delivered(&mut self, chunk: &ChunkId, slices: SliceRange) {
        for (_, mask) in self.running.values_mut().filter(|(bought, _)| bought == chunk) {
            *mask |= slices.mask();
        }
    }

    /// Whether a chunk is being bought.
    pub(super) fn buys(&self, chunk: &ChunkId) -> bool {
        self.running.values().any(|(bought, _)| bought == chunk)
    }
}

impl Node {
    /// Does what the market wants. Returns whether there was something.
    pub(super) fn poll_market(&mut self, now: Instant) -> bool {
        if self.market.wants_look(now) {
            let me = self.table.me();
            let closest = self.table.closest(&me, CONTACTS_MAX);
            let farthest = closest.last().filter(|_| closest.len() >= CONTACTS_MAX);
            let near = farthest.map_or(Radius::WHOLE, |contact| Radius::between(&me, &Key::from(contact.peer)));
            self.market.look(now, near);
        }
        let mut moved = false;
        while let Some(action) = self.market.poll(now) {
            moved = true;
            match action {
                MarketAction::Weigh(chunk) => self.weigh(now, chunk),
                MarketAction::Drop(chunk) => self.effects.push_back(Effect::Discard { chunks: vec![chunk] }),
            }
        }
        moved
    }

    fn weigh(&mut self, now: Instant, chunk: ChunkId) {
        // Whose price is not known yet is taken to charge as much as we do. Who charges nothing pays nothing.
        let own = self.config.credit.price;
        let price = |contact: &Contact| self.peers.get(&contact.peer).and_then(|peer| peer.price).unwrap_or(own);
        let good = |contact: &Contact| {
            let free = !own.is_zero() || price(contact).is_zero();
            contact.peer != self.me && free && !self.peers.is_banned(now, &contact.peer)
        };
        let holders: Vec<Contact> = self.providers.of(now, &chunk).into_iter().filter(good).collect();
        let cheapest = holders.iter().map(price).min_by_key(|price| price.per_gib).unwrap_or(own);
        if self.announcer.holds(&chunk) || !self.market.weigh(now, chunk, holders.len(), cheapest) {
            return;
        }
        let id = WantId(OWN_WANT | BOUGHT_WANT | self.purchases.next);
        self.purchases.next += 1;
        self.purchases.running.insert(id, (chunk, 0));
        let want = Want {
            id,
            chunks: vec![chunk],
            data: 1,
            chunk_len: 0,
            needs: Vec::new(),
            have: Vec::new(),
            urgency: if own.is_zero() { Urgency::Host } else { Urgency::Bulk },
            deadline: now.after(BUY_TIMEOUT),
            likely: holders.clone(),
        };
        self.fetch.want(now, want);
        self.found_providers(now, chunk, &holders);
    }

    /// A want of the market ended. False: it was none.
    pub(super) fn purchased(&mut self, now: Instant, want: WantId, result: &Result<WantOk, WantFailure>) -> bool {
        let Some((chunk, came)) = self.purchases.running.remove(&want) else { return false };
        // How long it is only those slices tell; where they were here already, nothing was bought.
        let bytes = u64::from(came.count_ones()) * SLICE_BYTES as u64;
        self.market.ended(now, chunk, result.as_ref().ok().map(|_| bytes).filter(|bytes| *bytes > 0));
        true
    }

    /// Sends what was asked for, now or in its turn.
    pub(super) fn provide(&mut self, now: Instant, from: PeerId, request: Parked, charge: Msat) {
        if request.held {
            self.market.sent(now, &request.fetch.chunk, bytes(request.fetch.slices));
        }
        self.give(now, from, request, charge);
    }

    /// What we sell, and for how much, may have changed.
    pub(super) fn offer_changed(&mut self) {
        self.market.set_offer(Offer { rate: self.config.upload.rate, price: self.config.credit.price });
    }
}

fn bytes(slices: SliceRange) -> u64 {
    u64::from(slices.count) * SLICE_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::super::NodeConfig;
    use super::super::effect::Token;
    use super::super::input::{Answer, Command, Group, Input, JobId, Publish};
    use super::*;
    use crate::market::MarketConfig;
    use crate::wire::call::CallId;
    use crate::wire::message::{Demand, Fetch, Request, Slices};

    const CHUNK: ChunkId = ChunkId([7; 32]);
    const LEN: u32 = 40_000;
    const SECOND: u64 = 1_000_000;

    fn peer(name: u8) -> PeerId {
        PeerId([name; 32])
    }

    /// A node with links to nine others, the first of which told it that it has the chunk.
    fn node(config: NodeConfig) -> Node {
        let mut node = Node::new(config, peer(99), 1);
        for name in 1..10 {
            let addr = ([30, name, 0, 1], 1).into();
            node.handle(Instant(1), Input::LinkUp { rtt: None, peer: peer(name), addr, dialled: false });
        }
        let announce = Request::Announce { chunks: vec![CHUNK], ttl: 3600 };
        node.handle(Instant(1), Input::Request { from: peer(1), token: Token(1), request: announce });
        while node.poll_effect().is_some() {}
        node
    }

    /// A peer asks for the chunk: whether it is here, as far as the node knows.
    fn ask(node: &mut Node, now: Instant, name: u8) -> bool {
        let fetch = Fetch { chunk: CHUNK, slices: SliceRange::whole(LEN), outline: true, ceiling: Msat::ZERO };
        let token = Token(100 + u64::from(name));
        node.handle(now, Input::Request { from: peer(name), token, request: Request::Fetch(fetch) });
        while node.poll_effect().is_some() {}
        node.announcer.holds(&CHUNK)
    }

    /// Calls for the chunk. Nobody is asked who has it.
    fn fetches(node: &mut Node) -> Vec<(CallId, PeerId)> {
        let mut calls = Vec::new();
        while let Some(effect) = node.poll_effect() {
            assert!(!matches!(effect, Effect::Call { request: Request::Locate { .. }, .. }), "{effect:?}");
            if let Effect::Call { call, to, request: Request::Fetch(fetch), .. } = effect {
                assert!(fetch.chunk == CHUNK && fetch.ceiling == Msat::ZERO, "{fetch:?}");
                calls.push((call, to.peer));
            }
        }
        calls
    }

    /// The chunk comes.
    fn deliver(node: &mut Node, now: Instant, call: CallId) {
        let slices = SliceRange::whole(LEN);
        node.handle(now, Input::Delivered { call, slices, charge: Msat::ZERO });
        node.handle(now, Input::Stored { chunks: vec![CHUNK] });
        let (charge, demand) = (Msat::ZERO, Demand::default());
        let header = Slices { chunk_len: LEN, slices, outline: true, charge, demand };
        let result = Ok(Answer::Fetched { header, bytes: u64::from(LEN) });
        node.handle(now, Input::Answered { call, result });
    }

    #[test]
    fn what_is_asked_for_in_vain_is_fetched_from_who_has_it_and_served_from_then_on() {
        let mut node = node(NodeConfig::default());
        assert!(!ask(&mut node, Instant(SECOND), 2) && !ask(&mut node, Instant(SECOND), 3));
        node.tick(Instant(12 * SECOND));
        assert_eq!(fetches(&mut node), vec![], "two in an hour are too few beside one that has it");
        // To ask who has it is to ask for it.
        let locate = Request::Locate { chunks: vec![CHUNK] };
        node.handle(Instant(40 * SECOND), Input::Request { from: peer(4), token: Token(5), request: locate });
        node.tick(Instant(52 * SECOND));
        let calls = fetches(&mut node);
        assert!(matches!(calls[..], [(_, from)] if from == peer(1)), "{calls:?}");
        deliver(&mut node, Instant(53 * SECOND), calls[0].0);
        let market = node.stats().market;
        assert_eq!((market.bought, market.chunks, market.bytes), (1, 1, 3 << 14));
        assert!(ask(&mut node, Instant(54 * SECOND), 5));
        assert_eq!(node.stats().market.sent_bytes, 3 << 14);
        node.tick(Instant(200 * SECOND));
        assert_eq!(fetches(&mut node), vec![]);
    }

    #[test]
    fn a_purchase_that_fails_makes_nobody_believe_that_the_chunk_is_wanted() {
        let mut node = node(NodeConfig::default());
        for name in 2..8 {
            ask(&mut node, Instant(SECOND), name);
        }
        node.tick(Instant(12 * SECOND));
        let calls = fetches(&mut node);
        let demand = Demand::default();
        let referral = crate::wire::message::Response::Referral { holders: Vec::new(), closer: Vec::new(), demand };
        node.handle(Instant(13 * SECOND), Input::Answered { call: calls[0].0, result: Ok(Answer::Message(referral)) });
        for second in 14..150 {
            node.tick(Instant(second * SECOND));
            assert_eq!(fetches(&mut node), vec![]);
        }
        assert_eq!((node.stats().market.bought, node.stats().fetch.wants), (0, 0));
    }

    #[test]
    fn who_has_too_much_to_do_names_a_linked_holder_that_is_closer_and_else_serves() {
        let (me, key) = (Key::from(peer(99)), Key::from(CHUNK));
        let is_closer = |peer: PeerId| Key::from(peer).distance(&key) < me.distance(&key);
        let closer = (10..99).find(|name| is_closer(peer(*name))).unwrap();
        let farther = (10..99).find(|name| !is_closer(peer(*name))).unwrap();
        for (limit, holder, linked, served) in [
            (Some(1 << 20), closer, true, false),
            (Some(1 << 20), farther, true, true),
            (Some(1 << 20), closer, false, true),
            (None, closer, true, true),
        ] {
            let upload = crate::ledger::share::ShareConfig { rate: limit, ..Default::default() };
            let mut node = node(NodeConfig { upload, ..NodeConfig::default() });
            for name in 2..8 {
                ask(&mut node, Instant(SECOND), name);
            }
            node.tick(Instant(12 * SECOND));
            let calls = fetches(&mut node);
            deliver(&mut node, Instant(13 * SECOND), calls[0].0);
            for minute in 11..200 {
                node.market.sent(Instant(minute * 60 * SECOND), &ChunkId([9; 32]), 1 << 30);
                node.tick(Instant(minute * 60 * SECOND));
            }
            let now = Instant(200 * 60 * SECOND);
            let addr = ([30, holder, 0, 1], 4000).into();
            node.handle(now, Input::LinkUp { rtt: None, peer: peer(holder), addr, dialled: false });
            let announce = Request::Announce { chunks: vec![CHUNK], ttl: 3600 };
            node.handle(now, Input::Request { from: peer(holder), token: Token(1), request: announce });
            if !linked {
                node.handle(now, Input::LinkDown { peer: peer(holder) });
            }
            while node.poll_effect().is_some() {}
            let fetch = Fetch { chunk: CHUNK, slices: SliceRange::whole(LEN), outline: true, ceiling: Msat::ZERO };
            node.handle(now, Input::Request { from: peer(2), token: Token(9), request: Request::Fetch(fetch) });
            let named = std::iter::from_fn(|| node.poll_effect()).find_map(|effect| match effect {
                Effect::Answer { response: crate::wire::message::Response::Referral { holders, .. }, .. } => {
                    Some(holders)
                }
                _ => None,
            });
            let expected = (!served).then(|| vec![peer(holder)]);
            assert_eq!(named.map(|all| all.iter().map(|one| one.peer).collect::<Vec<_>>()), expected);
        }
    }

    #[test]
    fn what_is_published_or_hosted_is_no_longer_the_markets_to_drop() {
        let bought = || {
            let mut node = node(NodeConfig::default());
            for name in 2..8 {
                ask(&mut node, Instant(SECOND), name);
            }
            node.tick(Instant(12 * SECOND));
            let calls = fetches(&mut node);
            deliver(&mut node, Instant(13 * SECOND), calls[0].0);
            assert_eq!(node.stats().market.chunks, 1);
            node
        };
        let mut published = bought();
        let groups = vec![Group { chunks: vec![(CHUNK, LEN)], data: 1, copies: 1 }];
        let publish = Publish { job: JobId(1), groups, lease: 1000 };
        published.handle(Instant(14 * SECOND), Input::Command(Command::Publish(publish)));
        assert_eq!(published.stats().market.chunks, 0);
        let mut hosted = bought();
        let host = crate::wire::message::Host { chunks: vec![(CHUNK, LEN)], lease: 1000, price: Msat::ZERO };
        hosted.handle(
            Instant(14 * SECOND),
            Input::Request { from: peer(3), token: Token(7), request: Request::Host(host) },
        );
        assert_eq!(hosted.stats().market.chunks, 0);
        let mut lost = bought();
        lost.handle(Instant(14 * SECOND), Input::Dropped { chunks: vec![CHUNK] });
        assert_eq!(lost.stats().market.chunks, 0);
    }

    #[test]
    fn nothing_is_fetched_where_nothing_is_allowed_or_the_holder_would_have_to_be_paid() {
        let market = MarketConfig { day_bytes_max: 0, ..MarketConfig::default() };
        let mut node = node(NodeConfig { market, ..NodeConfig::default() });
        for name in 2..9 {
            ask(&mut node, Instant(SECOND), name);
        }
        node.tick(Instant(20 * SECOND));
        assert_eq!(fetches(&mut node), vec![]);

        let mut node = self::node(NodeConfig::default());
        let hello = node.hello_for(&peer(1));
        let price = crate::wire::message::Price { per_gib: Msat(1), ..Default::default() };
        let hello = Request::Hello(crate::wire::message::Hello { price, ..hello });
        node.handle(Instant(1), Input::Request { from: peer(1), token: Token(3), request: hello });
        for name in 2..9 {
            ask(&mut node, Instant(SECOND), name);
        }
        node.tick(Instant(20 * SECOND));
        assert_eq!(fetches(&mut node), vec![]);
    }
}
