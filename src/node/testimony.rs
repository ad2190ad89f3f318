//! Receipts of others: shown to sellers, to whom we may be strangers, and counted when buyers show theirs (`ledger::share`).

use super::Node;
use super::calls::Purpose;
use crate::base::limit::TESTIMONY_MAX;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::message::{Request, Response, Witnessed};
use std::time::Duration;

/// A seller on the same link is shown them again after so long, when it is asked for something.
const TESTIMONY_AFTER: Duration = Duration::from_secs(3600);
const TESTIMONY_TIMEOUT: Duration = Duration::from_secs(10);

impl Node {
    /// Something is about to be asked of a linked peer: if it charges, it is shown what others acknowledge having received of us.
    pub(super) fn testify(&mut self, now: Instant, peer: PeerId) {
        let charges = self.peers.get(&peer).and_then(|peer| peer.price).is_some_and(|price| !price.is_zero());
        if !charges || self.testified.get(&peer).is_some_and(|at| now < at.after(TESTIMONY_AFTER)) {
            return;
        }
        let held = self.credit.ledger.testimony(TESTIMONY_MAX + 1).into_iter();
        // Its own word it knows.
        let held = held.filter(|(issuer, _)| *issuer != peer).take(TESTIMONY_MAX);
        let receipts: Vec<Witnessed> = held.map(|(issuer, receipt)| Witnessed { issuer, receipt }).collect();
        if receipts.is_empty() {
            return;
        }
        self.testified.insert(peer, now);
        let contact = self.peers.contact(&peer);
        self.call(now, contact, Request::Testimony { receipts }, TESTIMONY_TIMEOUT, Purpose::Testimony);
    }

    /// A peer shows what others received of it, their signatures checked by the shell. At our price it is worth so many bytes.
    pub(super) fn testimony_heard(&mut self, now: Instant, from: PeerId, receipts: &[Witnessed]) -> Response {
        let price = u128::from(self.config.credit.price.per_gib.0);
        let worth = |amount: u64| {
            let bytes = (u128::from(amount) << 30).checked_div(price).unwrap_or(0);
            u64::try_from(bytes).unwrap_or(u64::MAX)
        };
        let others = receipts.iter().filter(|shown| shown.issuer != self.me);
        let shown: Vec<(PeerId, u64)> = others.map(|shown| (shown.issuer, worth(shown.receipt.amount.0))).collect();
        let counts = self.upload.share.witnessed(now, from, &shown);
        self.credit.ledger.trust(from, counts);
        Response::Noted
    }
}

#[cfg(test)]
mod tests {
    use super::super::NodeConfig;
    use super::super::effect::{Effect, Token};
    use super::super::input::Input;
    use super::*;
    use crate::base::amount::Msat;
    use crate::ledger::CreditConfig;
    use crate::wire::message::{Hello, Price, Statement};
    use crate::wire::receipt::Receipt;

    /// A MiB for a satoshi.
    const PRICE: Price = Price { per_gib: Msat(1_024_000), per_request: Msat::ZERO };

    fn peer(name: u8) -> PeerId {
        PeerId([name; 32])
    }

    /// A node with links to four others, all of which charge but the last.
    fn node() -> Node {
        let credit = CreditConfig { price: PRICE, ..CreditConfig::default() };
        let mut node = Node::new(NodeConfig { credit, ..NodeConfig::default() }, peer(9), 1);
        for name in 1..=4 {
            let addr = ([10, 0, name, 1], 1).into();
            node.handle(Instant(1), Input::LinkUp { rtt: None, peer: peer(name), addr, dialled: false });
            let price = if name == 4 { Price::default() } else { PRICE };
            let hello =
                Hello { agent: String::new(), addrs: vec![], rank_nonce: 0, price, capabilities: 0, observed: None };
            ask(&mut node, name, Request::Hello(hello));
        }
        node
    }

    fn ask(node: &mut Node, name: u8, request: Request) {
        node.handle(Instant(1), Input::Request { from: peer(name), token: Token(u64::from(name)), request });
    }

    fn receipt(mib: u64) -> Receipt {
        Receipt::unsigned(1, Msat(mib * 1_000))
    }

    /// What is shown to whom.
    fn shown(node: &mut Node) -> Vec<(PeerId, Vec<(PeerId, u64)>)> {
        let mut shown = Vec::new();
        while let Some(effect) = node.poll_effect() {
            if let Effect::Call { to, request: Request::Testimony { receipts }, .. } = effect {
                let receipts = receipts.iter().map(|shown| (shown.issuer, shown.receipt.amount.0 / 1_000));
                shown.push((to.peer, receipts.collect()));
            }
        }
        shown
    }

    #[test]
    fn a_seller_is_shown_the_receipts_of_others_now_and_then() {
        let mut node = node();
        node.open_account(peer(3));
        assert_eq!(shown(&mut node), [], "there are none");
        for (name, mib) in [(1, 5), (2, 50), (3, 70)] {
            let receipt = receipt(mib);
            ask(&mut node, name, Request::Receipt(Statement { receipt, settled: true }));
        }
        node.open_account(peer(4));
        assert_eq!(shown(&mut node), [], "it charges nothing");
        node.open_account(peer(3));
        let others = vec![(peer(2), 50), (peer(1), 5)];
        assert_eq!(shown(&mut node), [(peer(3), others.clone())]);
        node.open_account(peer(3));
        assert_eq!(shown(&mut node), [], "it was a moment ago");
        node.now = Instant(1).after(TESTIMONY_AFTER);
        node.open_account(peer(3));
        assert_eq!(shown(&mut node), [(peer(3), others)]);
        // Of whom we had something ourselves is more likely to serve others, too.
        node.credit.ledger.received(Instant(1), peer(1), 4 << 20, Msat(4_000));
        node.open_account(peer(2));
        assert_eq!(shown(&mut node), [(peer(2), vec![(peer(1), 5), (peer(3), 70)])]);
    }

    #[test]
    fn who_shows_receipts_of_those_who_gave_us_something_is_no_stranger() {
        let mut node = node();
        let at = Instant(1);
        node.upload.share.contributed(at, peer(1), 64 << 20);
        let receipts = |issuer| vec![Witnessed { issuer: peer(issuer), receipt: receipt(2) }];
        ask(&mut node, 3, Request::Testimony { receipts: receipts(1) });
        assert_eq!(node.upload.share.standing(at, &peer(3)), 2 << 20);
        ask(&mut node, 3, Request::Testimony { receipts: receipts(2) });
        ask(&mut node, 3, Request::Testimony { receipts: receipts(9) });
        assert_eq!(
            node.upload.share.standing(at, &peer(3)),
            2 << 20,
            "a stranger's word, and our own, count for nothing"
        );
    }
}
