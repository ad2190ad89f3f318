//! Upload under the user's limit: whose slices are sent next (`ledger::share`), and who waited too long.

use super::Node;
use super::credit::Parked;
use super::effect::{Effect, Token};
use crate::base::amount::Msat;
use crate::base::limit::SLICE_BYTES;
use crate::base::network::network;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::ledger::share::{Share, ShareConfig, Turn};
use crate::wallet::Row;
use crate::wire::message::{Refusal, Response};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Whoever waited so long is told to ask elsewhere: later he would have given up.
const TURN_MAX: Duration = Duration::from_secs(10);
const GIB: u128 = 1 << 30;

#[derive(Debug)]
struct Waiting {
    request: Parked,
    charge: Msat,
    since: Instant,
}

/// Answers that wait for their turn.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(super) share: Share,
    /// In the order in which they came: tokens ascend.
    waiting: BTreeMap<Turn, Waiting>,
    /// Sent out of turn; how much that was is known at its end.
    apart: BTreeSet<Token>,
    /// What each peer had paid us when that was last counted as its contribution.
    paid: BTreeMap<PeerId, Msat>,
}

impl Upload {
    /// What was paid before this run is no contribution of late.
    pub(crate) fn new(config: ShareConfig, rows: &[Row]) -> Upload {
        let mut paid: BTreeMap<PeerId, Msat> = BTreeMap::new();
        for row in rows {
            if let Row::Bill(bill) = row {
                let sum = paid.entry(bill.peer).or_default();
                *sum = sum.saturating_add(bill.credits());
            }
        }
        Upload { share: Share::new(config), waiting: BTreeMap::new(), apart: BTreeSet::new(), paid }
    }

    /// Whether this request waits.
    pub(crate) fn waits(&self, token: Token) -> bool {
        self.waiting.contains_key(&Turn(token.0))
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let late = self.waiting.values().next().map(|first| first.since.after(TURN_MAX + Duration::from_micros(1)));
        [late, self.share.poll_timeout()].into_iter().flatten().min()
    }
}

impl Node {
    /// Sends slices now, or when it is their asker's turn.
    pub(super) fn give(&mut self, now: Instant, from: PeerId, request: Parked, charge: Msat) {
        if !self.upload.share.binds() {
            return self.send(request, charge);
        }
        if !request.held {
            // Most likely a referral, which must not wait.
            self.upload.apart.insert(request.token);
            return self.send(request, charge);
        }
        let turn = Turn(request.token.0);
        let bytes = u64::from(request.fetch.slices.count).saturating_mul(SLICE_BYTES as u64);
        let network = self.peers.get(&from).and_then(|peer| peer.link).and_then(|link| network(&link.at));
        self.upload.share.ask(now, from, network, turn, bytes);
        self.upload.waiting.insert(turn, Waiting { request, charge, since: now });
    }

    fn send(&mut self, request: Parked, charge: Msat) {
        let Parked { token, fetch, demand, otherwise, .. } = request;
        let told = charge > Msat::ZERO || self.upload.apart.contains(&token);
        self.effects.push_back(Effect::Serve { token, fetch, demand, otherwise, charge, told });
    }

    /// Sends what may be sent now. Returns whether there was something.
    pub(super) fn poll_upload(&mut self, now: Instant) -> bool {
        let late = self.upload.share.late(now, TURN_MAX);
        let mut moved = !late.is_empty();
        self.turn_away(now, late);
        while let Some(turn) = self.upload.share.poll(now) {
            moved = true;
            if let Some(Waiting { request, charge, .. }) = self.upload.waiting.remove(&turn) {
                self.send(request, charge);
            }
        }
        moved
    }

    /// The last link to a peer ended: nobody waits for its turns.
    pub(super) fn upload_link_down(&mut self, now: Instant, peer: &PeerId) {
        let left = self.upload.share.forget(peer);
        self.turn_away(now, left);
    }

    fn turn_away(&mut self, now: Instant, turns: Vec<Turn>) {
        for turn in turns {
            let Some(Waiting { request, charge, .. }) = self.upload.waiting.remove(&turn) else { continue };
            let response = Response::Refused(Refusal::Busy);
            self.effects.push_back(Effect::Answer { token: request.token, response });
            if charge > Msat::ZERO {
                self.served(now, request.token, Msat::ZERO, true);
            }
        }
    }

    /// So much was sent.
    pub(super) fn uploaded(&mut self, token: Token, bytes: u64) {
        if self.upload.apart.remove(&token) {
            self.upload.share.spent(bytes);
        }
    }

    /// A peer paid us so much in all: at our price that is worth as many bytes as it might have delivered.
    pub(super) fn upload_paid(&mut self, now: Instant, peer: PeerId, credited: Msat) {
        let before = self.upload.paid.insert(peer, credited).unwrap_or_default();
        let price = u128::from(self.config.credit.price.per_gib.0);
        let worth = u128::from(credited.over(before).0).saturating_mul(GIB).checked_div(price).unwrap_or(0);
        if worth > 0 {
            self.upload.share.contributed(now, peer, u64::try_from(worth).unwrap_or(u64::MAX));
        }
    }

    /// Another limit from now on, in bytes a second.
    pub(super) fn limit_upload(&mut self, rate: Option<u64>) {
        self.config.upload.rate = rate;
        self.upload.share.configure(self.config.upload);
    }
}

#[cfg(test)]
mod tests {
    use super::super::NodeConfig;
    use super::super::input::{Command, Input};
    use super::*;
    use crate::base::digest::ChunkId;
    use crate::base::range::SliceRange;
    use crate::ledger::CreditConfig;
    use crate::wire::message::{Fetch, Price, Request};

    const RATE: u64 = 1 << 20;
    const SLICES: u32 = 4;

    fn peer(name: u8) -> PeerId {
        PeerId([name; 32])
    }

    /// A node that holds a chunk, with links to two others.
    fn node(config: NodeConfig) -> Node {
        let mut node = Node::new(config, peer(9), 1);
        node.handle(Instant(1), Input::Stored { chunks: vec![ChunkId([7; 32])] });
        for name in [1, 2] {
            let addr = ([10, 0, name, 1], 1).into();
            node.handle(Instant(1), Input::LinkUp { rtt: None, peer: peer(name), addr, dialled: false });
        }
        node
    }

    fn limited() -> NodeConfig {
        NodeConfig { upload: ShareConfig { rate: Some(RATE), ..ShareConfig::default() }, ..NodeConfig::default() }
    }

    fn ask(node: &mut Node, now: Instant, name: u8, token: u64) {
        let slices = SliceRange { first: 0, count: SLICES as _ };
        let fetch = Fetch { chunk: ChunkId([7; 32]), slices, outline: false, ceiling: Msat(1 << 40) };
        node.handle(now, Input::Request { from: peer(name), token: Token(token), request: Request::Fetch(fetch) });
    }

    /// What became of requests: served, or refused.
    fn ends(node: &mut Node) -> (Vec<u64>, Vec<u64>) {
        let (mut served, mut refused) = (Vec::new(), Vec::new());
        while let Some(effect) = node.poll_effect() {
            match effect {
                Effect::Serve { token, .. } => served.push(token.0),
                Effect::Answer { token, response: Response::Refused(Refusal::Busy) } => refused.push(token.0),
                _ => {}
            }
        }
        (served, refused)
    }

    /// Both want more than there is for so many seconds; how often each was served.
    fn busy(node: &mut Node, seconds: u64) -> [u64; 3] {
        let (mut now, mut next, mut got) = (Instant(1_000_000), 0, [0; 3]);
        for name in [1, 1, 2, 2] {
            next += 10;
            ask(node, now, name, next + u64::from(name));
        }
        while now.since(Instant(1_000_000)) < Duration::from_secs(seconds) {
            let (served, refused) = ends(node);
            got[0] += refused.len() as u64;
            for token in served {
                let name = (token % 10) as u8;
                got[usize::from(name)] += 1;
                next += 10;
                ask(node, now, name, next + u64::from(name));
            }
            now = now.after(Duration::from_millis(20));
            node.tick(now);
        }
        got
    }

    #[test]
    fn who_delivered_or_paid_gets_the_most_of_a_limited_line_and_newcomers_their_part() {
        let mut node = node(limited());
        node.upload.share.contributed(Instant(1), peer(1), 64 << 20);
        let [refused, first, second] = busy(&mut node, 60);
        let sent = (first + second) * u64::from(SLICES) * SLICE_BYTES as u64;
        assert!((58 * RATE..=61 * RATE).contains(&sent), "{sent} bytes in a minute");
        assert_eq!(refused, 0);
        let part = first * 100 / (first + second);
        assert!((88..=92).contains(&part), "{part} of a hundred");

        let price = Price { per_gib: Msat(10_240_000), ..Price::default() };
        let credit = CreditConfig { price, ..CreditConfig::default() };
        let mut node = self::node(NodeConfig { credit, ..limited() });
        node.upload_paid(Instant(1), peer(2), Msat(640_000));
        assert_eq!(node.upload.share.contribution(Instant(1), &peer(2)), 64 << 20);
        node.upload_paid(Instant(1), peer(2), Msat(640_000));
        assert_eq!(node.upload.share.contribution(Instant(1), &peer(2)), 64 << 20, "told again");
    }

    #[test]
    fn who_waits_too_long_or_is_gone_is_turned_away_and_no_limit_lets_all_go() {
        let mut node = node(limited());
        let second = Duration::from_secs(1);
        let start = Instant(1_000_000);
        ask(&mut node, start, 1, 1);
        node.upload.share.spent(20 * RATE);
        ask(&mut node, start.after(second), 1, 2);
        ask(&mut node, start.after(second * 5), 2, 3);
        ask(&mut node, start.after(second * 6), 1, 4);
        assert_eq!(ends(&mut node), (vec![1], vec![]));
        assert!(node.waits(Token(2)) && node.poll_timeout().is_some_and(|at| at <= start.after(second * 12)));
        node.tick(start.after(second * 12));
        assert_eq!(ends(&mut node), (vec![], vec![2]));
        node.handle(start.after(second * 13), Input::LinkDown { peer: peer(2) });
        assert_eq!(ends(&mut node), (vec![], vec![3]));
        node.handle(start.after(second * 14), Input::Command(Command::Upload(None)));
        assert_eq!(ends(&mut node), (vec![4], vec![]));
        ask(&mut node, start.after(second * 14), 1, 5);
        assert_eq!(ends(&mut node), (vec![5], vec![]));
    }
}
