//! What this node knows of each peer: links, addresses, capabilities, manners. The only place that acts on blame.

use crate::base::limit::CONTACT_ADDRS_MAX;
use crate::base::network::{believable, scope, tellable};
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use crate::wire::message::{Hello, Price};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Peers that are remembered while no link to them is open.
const KNOWN_MAX: usize = 4096;
/// First pause before an unreachable peer is dialled again; doubles up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// What failed so shortly ago would fail again.
const FAILED_LATELY: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// First ban; doubles with every further fault up to `BAN_MAX`.
const BAN_MIN: Duration = Duration::from_secs(600);
const BAN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Token bucket of each peer for requests that cost us work: refill in a second, and size.
const TOKENS_RATE: f64 = 400.0;
const TOKENS_MAX: f64 = 2000.0;

/// All peers that this node knows something of.
#[derive(Debug)]
pub(crate) struct Peers {
    me: PeerId,
    known: BTreeMap<PeerId, Peer>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The open link, if any.
    pub(crate) link: Option<Link>,
    /// Said by itself in a hello, told by others or configured; the likeliest first.
    addrs: Vec<SocketAddr>,
    /// From its hello.
    pub(crate) agent: String,
    /// From its hello; `None` before it.
    pub(crate) capabilities: Option<u64>,
    /// From its hello: what it charges.
    pub(crate) price: Option<Price>,
    /// Its link was down once, and it was not greeted since.
    returned: bool,
    /// A hello of ours to it is under way.
    pub(crate) greeting: bool,
    seen: Instant,
    failures: u32,
    failed_at: Instant,
    retry_at: Instant,
    banned_until: Instant,
    faults: u32,
    tokens: f64,
    tokens_at: Instant,
}

/// An open link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Address of the other side.
    pub(crate) at: SocketAddr,
    /// Whether we opened it.
    pub(crate) dialled: bool,
    /// Since when.
    pub(crate) since: Instant,
}

impl Peer {
    fn new(now: Instant) -> Peer {
        Peer {
            link: None,
            addrs: Vec::new(),
            agent: String::new(),
            capabilities: None,
            price: None,
            returned: false,
            greeting: false,
            seen: now,
            failures: 0,
            failed_at: Instant::default(),
            retry_at: Instant::default(),
            banned_until: Instant::default(),
            faults: 0,
            tokens: TOKENS_MAX,
            tokens_at: now,
        }
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        let mut out: Vec<SocketAddr> = Vec::with_capacity(self.addrs.len() + 1);
        append(&mut out, self.link.map(|link| link.at).into_iter().chain(self.addrs.iter().copied()));
        out
    }
}

/// Adds the addresses that are not there yet, as many as a contact may have.
fn append(addrs: &mut Vec<SocketAddr>, more: impl IntoIterator<Item = SocketAddr>) {
    for addr in more {
        if !addrs.contains(&addr) && addrs.len() < CONTACT_ADDRS_MAX {
            addrs.push(addr);
        }
    }
}

impl Peers {
    pub(crate) fn new(me: PeerId) -> Peers {
        Peers { me, known: BTreeMap::new() }
    }

    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Peer> {
        self.known.get(peer)
    }

    pub(crate) fn get_mut(&mut self, peer: &PeerId) -> Option<&mut Peer> {
        self.known.get_mut(peer)
    }

    pub(crate) fn link_up(&mut self, now: Instant, peer: PeerId, at: SocketAddr, dialled: bool) {
        // A socket for both families shows IPv4 peers in IPv6 form.
        let at = SocketAddr::new(at.ip().to_canonical(), at.port());
        let entry = self.entry(now, peer);
        let since = entry.link.map_or(now, |link| link.since);
        entry.link = Some(Link { at, dialled, since });
        entry.seen = now;
        entry.failures = 0;
    }

    pub(crate) fn link_down(&mut self, now: Instant, peer: &PeerId) {
        if let Some(entry) = self.known.get_mut(peer) {
            // Where it was is still the likeliest place to find it.
            entry.addrs = entry.addrs();
            entry.link = None;
            entry.greeting = false;
            entry.returned = true;
            entry.seen = now;
        }
    }

    /// Whether a peer came back after its link was down; asked once for each time.
    pub(crate) fn returned(&mut self, peer: &PeerId) -> bool {
        self.known.get_mut(peer).is_some_and(|peer| std::mem::take(&mut peer.returned))
    }

    pub(crate) fn is_linked(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|peer| peer.link.is_some())
    }

    /// Whether a peer without a link could not be reached when it was last tried.
    pub(crate) fn is_doubtful(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|peer| peer.link.is_none() && peer.failures > 0)
    }

    pub(crate) fn linked(&self) -> impl Iterator<Item = (&PeerId, &Peer, &Link)> {
        self.known.iter().filter_map(|(id, peer)| peer.link.as_ref().map(|link| (id, peer, link)))
    }

    /// Takes over what a peer says of itself on its link.
    pub(crate) fn hello(&mut self, now: Instant, from: PeerId, hello: &Hello) {
        let entry = self.entry(now, from);
        let Some(link) = entry.link else { return };
        entry.agent.clone_from(&hello.agent);
        entry.capabilities = Some(hello.capabilities);
        entry.price = Some(hello.price);
        entry.seen = now;
        entry.addrs =
            hello.addrs.iter().filter(|addr| believable(addr, &link.at)).take(CONTACT_ADDRS_MAX).copied().collect();
    }

    /// What we know of where a peer is.
    pub(crate) fn contact(&self, peer: &PeerId) -> Contact {
        Contact { peer: *peer, addrs: self.known.get(peer).map_or(Vec::new(), Peer::addrs) }
    }

    /// A contact with the addresses that it brings and those that we know; the open link's first.
    pub(crate) fn merged(&self, contact: Contact) -> Contact {
        let Some(known) = self.known.get(&contact.peer) else { return contact };
        let mut addrs = known.addrs();
        append(&mut addrs, contact.addrs);
        Contact { peer: contact.peer, addrs }
    }

    /// A contact told by a peer, if it may be dialled on its word. Addresses that it cannot know, or that would lead us into our own
    /// network on a stranger's word, are left out.
    pub(crate) fn believed(&self, now: Instant, from: &PeerId, contact: Contact) -> Option<Contact> {
        let teller = self.known.get(from).and_then(|peer| peer.link.map(|link| link.at));
        self.believed_at(now, teller.as_ref(), contact)
    }

    fn believed_at(&self, now: Instant, teller: Option<&SocketAddr>, mut contact: Contact) -> Option<Contact> {
        let known = self.known.get(&contact.peer);
        if contact.peer == self.me || known.is_some_and(|known| now < known.banned_until) {
            return None;
        }
        contact.addrs.retain(|addr| teller.is_some_and(|at| believable(addr, at)));
        if let Some(known) = known {
            let told = std::mem::replace(&mut contact.addrs, known.addrs());
            append(&mut contact.addrs, told);
        }
        contact.addrs.truncate(CONTACT_ADDRS_MAX);
        (!contact.addrs.is_empty()).then_some(contact)
    }

    /// Contacts told by a peer: those that are believed.
    pub(crate) fn heard(&self, now: Instant, from: &PeerId, contacts: Vec<Contact>) -> Vec<Contact> {
        let teller = self.known.get(from).and_then(|peer| peer.link.map(|link| link.at));
        contacts.into_iter().filter_map(|contact| self.believed_at(now, teller.as_ref(), contact)).collect()
    }

    /// Contacts as they are told to a peer: without itself, with addresses that it can reach and may believe.
    pub(crate) fn tell(&self, to: &PeerId, mut contacts: Vec<Contact>) -> Vec<Contact> {
        let Some(hearer) = self.known.get(to).and_then(|peer| peer.link.map(|link| link.at)) else { return Vec::new() };
        contacts.retain_mut(|contact| {
            contact.addrs.retain(|addr| tellable(addr, &hearer));
            contact.peer != *to && !contact.addrs.is_empty()
        });
        contacts
    }

    /// Remembers a contact that the user or the local network named.
    pub(crate) fn named(&mut self, now: Instant, contact: &Contact) {
        let entry = self.entry(now, contact.peer);
        entry.retry_at = Instant::default();
        for addr in contact.addrs.iter().rev().filter(|addr| scope(addr).is_some()) {
            entry.addrs.retain(|known| known != addr);
            entry.addrs.insert(0, *addr);
        }
        entry.addrs.truncate(CONTACT_ADDRS_MAX);
    }

    /// Whether a link to a peer is open or may be tried now.
    pub(crate) fn may_call(&self, now: Instant, contact: &Contact) -> bool {
        match self.known.get(&contact.peer) {
            Some(peer) if now < peer.banned_until => false,
            Some(peer) if peer.link.is_some() => true,
            Some(peer) if now < peer.retry_at => false,
            _ => contact.peer != self.me && !contact.addrs.is_empty(),
        }
    }

    /// A peer could not be reached: it is left alone for a while, longer each time.
    pub(crate) fn unreachable(&mut self, now: Instant, peer: &PeerId) {
        let entry = self.entry(now, *peer);
        let pause = PAUSE_MIN.saturating_mul(1 << entry.failures.min(10)).min(PAUSE_MAX);
        entry.failures += 1;
        entry.failed_at = now;
        entry.retry_at = now.after(pause);
    }

    /// Who could not be reached may be tried again, but for who was tried in vain a moment ago.
    pub(crate) fn try_again(&mut self, now: Instant) {
        let earlier = self.known.values_mut().filter(|peer| now.since(peer.failed_at) >= FAILED_LATELY);
        earlier.for_each(|peer| peer.retry_at = Instant::default());
    }

    /// A peer answered.
    pub(crate) fn answered(&mut self, now: Instant, peer: &PeerId) {
        if let Some(entry) = self.known.get_mut(peer) {
            entry.seen = now;
            entry.failures = 0;
            entry.retry_at = Instant::default();
        }
    }

    pub(crate) fn is_banned(&self, now: Instant, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|peer| now < peer.banned_until)
    }

    /// A peer did what an honest one does not: it is banned for a while. Returns whether it was not already.
    pub(crate) fn blame(&mut self, now: Instant, peer: &PeerId) -> bool {
        let entry = self.entry(now, *peer);
        if now < entry.banned_until {
            return false;
        }
        entry.banned_until = now.after(BAN_MIN.saturating_mul(1 << entry.faults.min(10)).min(BAN_MAX));
        entry.faults += 1;
        true
    }

    /// How many are remembered.
    pub(crate) fn known(&self) -> usize {
        self.known.len()
    }

    /// How many are banned now.
    pub(crate) fn banned(&self, now: Instant) -> usize {
        self.known.values().filter(|peer| now < peer.banned_until).count()
    }

    /// Takes `cost` out of the peer's bucket; `false` when it asks for too much in too short a time.
    pub(crate) fn spend(&mut self, now: Instant, peer: &PeerId, cost: f64) -> bool {
        let entry = self.entry(now, *peer);
        let refill = now.since(entry.tokens_at).as_secs_f64() * TOKENS_RATE;
        entry.tokens = (entry.tokens + refill).min(TOKENS_MAX);
        entry.tokens_at = now;
        let enough = entry.tokens >= cost;
        if enough {
            entry.tokens -= cost;
        }
        enough
    }

    fn entry(&mut self, now: Instant, peer: PeerId) -> &mut Peer {
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&peer) {
            let spare = self.known.iter().filter(|(_, peer)| peer.link.is_none() && now >= peer.banned_until);
            let oldest = spare.min_by_key(|(_, peer)| peer.seen).map(|(id, _)| *id);
            // When all are linked or banned the newest ban goes first: it cost the least to earn.
            let oldest = oldest.or_else(|| {
                let bans = self.known.iter().filter(|(_, peer)| peer.link.is_none());
                bans.min_by_key(|(_, peer)| peer.banned_until).map(|(id, _)| *id)
            });
            if let Some(id) = oldest {
                self.known.remove(&id);
            }
        }
        self.known.entry(peer).or_insert_with(|| Peer::new(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> PeerId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        PeerId(id)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn hello(addrs: &[&str]) -> Hello {
        Hello {
            agent: "x".into(),
            addrs: addrs.iter().map(|text| at(text)).collect(),
            rank_nonce: 0,
            price: Price::default(),
            capabilities: 3,
            observed: None,
        }
    }

    #[test]
    fn who_failed_is_tried_again_when_that_is_wanted_but_not_at_once() {
        let mut peers = Peers::new(peer(0));
        let contact = Contact { peer: peer(1), addrs: vec![at("203.0.114.1:5000")] };
        let seconds = |count| Instant(1).after(Duration::from_secs(count));
        peers.named(seconds(0), &contact);
        (0..4).for_each(|_| peers.unreachable(seconds(0), &peer(1)));
        for (after, may) in [(4, false), (5, true)] {
            assert!(!peers.may_call(seconds(after), &contact), "it is left alone by itself");
            peers.try_again(seconds(after));
            assert_eq!(peers.may_call(seconds(after), &contact), may);
        }
    }

    #[test]
    fn a_stranger_cannot_make_us_dial_into_our_own_network() {
        let mut peers = Peers::new(peer(0));
        peers.link_up(Instant(0), peer(1), at("203.0.114.1:5000"), false);
        peers.hello(Instant(0), peer(1), &hello(&["192.168.1.1:5000", "127.0.0.1:9000", "203.0.114.1:6000"]));
        assert_eq!(peers.contact(&peer(1)).addrs, [at("203.0.114.1:5000"), at("203.0.114.1:6000")]);
        let told = vec![
            Contact { peer: peer(2), addrs: vec![at("10.0.0.1:5000")] },
            Contact { peer: peer(3), addrs: vec![at("10.0.0.1:5000"), at("8.8.8.8:5000")] },
            Contact { peer: peer(0), addrs: vec![at("8.8.8.8:5000")] },
        ];
        let heard = peers.heard(Instant(0), &peer(1), told.clone());
        assert_eq!(heard, [Contact { peer: peer(3), addrs: vec![at("8.8.8.8:5000")] }]);
        peers.link_up(Instant(0), peer(4), at("10.0.0.9:5000"), false);
        assert_eq!(peers.heard(Instant(0), &peer(4), told.clone()).len(), 2, "a neighbour may know");
        assert!(peers.heard(Instant(0), &peer(5), told.clone()).is_empty(), "one without a link may not");
        assert_eq!(peers.tell(&peer(1), told).len(), 2, "nor is a stranger told of our network");
    }

    #[test]
    fn a_fault_bans_and_a_second_one_bans_longer() {
        let mut peers = Peers::new(peer(0));
        assert!(peers.blame(Instant(0), &peer(1)));
        assert!(!peers.blame(Instant(1), &peer(1)));
        assert!(peers.is_banned(Instant(0).after(BAN_MIN / 2), &peer(1)));
        let later = Instant(0).after(BAN_MIN);
        assert!(!peers.is_banned(later, &peer(1)));
        assert!(peers.blame(later, &peer(1)));
        assert!(peers.is_banned(later.after(BAN_MIN), &peer(1)));
    }

    #[test]
    fn an_unreachable_peer_is_left_alone_longer_each_time() {
        let mut peers = Peers::new(peer(0));
        let contact = Contact { peer: peer(1), addrs: vec![at("127.0.0.1:5000")] };
        assert!(peers.may_call(Instant(0), &contact));
        let mut now = Instant(0);
        for pause in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            peers.unreachable(now, &peer(1));
            assert!(!peers.may_call(now.after(Duration::from_secs(pause - 1)), &contact));
            now = now.after(Duration::from_secs(pause));
            assert!(peers.may_call(now, &contact));
        }
        peers.link_up(now, peer(1), at("127.0.0.1:5000"), true);
        assert!(peers.may_call(now, &contact));
    }

    #[test]
    fn a_flood_of_names_takes_bounded_memory_and_spares_links() {
        let mut peers = Peers::new(peer(0));
        peers.link_up(Instant(0), peer(1), at("127.0.0.1:5000"), true);
        for number in 2..10_000 {
            peers.unreachable(Instant(u64::from(number)), &peer(number));
        }
        assert!(peers.known.len() <= KNOWN_MAX);
        assert!(peers.is_linked(&peer(1)));
    }

    #[test]
    fn the_bucket_of_a_peer_runs_dry_and_fills_again() {
        let mut peers = Peers::new(peer(0));
        let spent = (0..10_000).filter(|_| peers.spend(Instant(0), &peer(1), 1.0)).count();
        assert_eq!(spent, TOKENS_MAX as usize);
        assert!(peers.spend(Instant(0), &peer(2), 1.0), "others are not touched");
        assert!(peers.spend(Instant(1_000_000), &peer(1), 300.0));
    }
}
