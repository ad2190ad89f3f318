//! One iterative look-up of a key: three questions in flight, several disjoint paths if asked for, so that no single liar on
//! a path can hide the neighbourhood (Baumgart and Mies, "S/Kademlia", 2007).

use crate::base::keyspace::{Distance, Key};
use crate::base::limit::CONTACTS_MAX;
use crate::base::network::{Network, network};
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Bounds of a look-up.
#[derive(Debug, Clone)]
pub struct LookupConfig {
    /// Questions in flight, over all paths.
    pub width: usize,
    /// A question that is open for so long no longer counts against the width.
    pub slow_after: Duration,
    /// How many of the closest are wanted.
    pub wanted: usize,
    /// Disjoint paths.
    pub paths: usize,
    /// Candidates kept on one path.
    pub candidates_max: usize,
    /// Candidates of one network on one path.
    pub network_max: usize,
}

impl Default for LookupConfig {
    fn default() -> LookupConfig {
        LookupConfig {
            width: 3,
            slow_after: Duration::from_millis(500),
            wanted: CONTACTS_MAX,
            paths: 1,
            candidates_max: 64,
            network_max: 3,
        }
    }
}

/// A look-up under way.
#[derive(Debug)]
pub struct Lookup {
    config: LookupConfig,
    target: Key,
    me: PeerId,
    paths: Vec<BTreeMap<Distance, Candidate>>,
    /// Whom any path asked, and which one.
    asked: BTreeMap<PeerId, usize>,
    turn: usize,
}

#[derive(Debug)]
struct Candidate {
    contact: Contact,
    network: Option<Network>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Asked(Instant),
    Answered,
    Failed,
}

impl Lookup {
    /// Looks for the contacts closest to `target`, starting from `known`.
    pub fn new(config: LookupConfig, me: PeerId, target: Key, known: Vec<Contact>) -> Lookup {
        let count = config.paths.max(1);
        let mut lookup = Lookup {
            paths: (0..count).map(|_| BTreeMap::new()).collect(),
            config,
            target,
            me,
            asked: BTreeMap::new(),
            turn: 0,
        };
        for (place, contact) in known.into_iter().enumerate() {
            lookup.add(place % count, contact);
        }
        lookup
    }

    /// What is looked for.
    pub fn target(&self) -> Key {
        self.target
    }

    /// Whom to ask next, if anybody now.
    pub fn poll(&mut self, now: Instant) -> Option<Contact> {
        let slow = self.config.slow_after;
        let busy = |path: &BTreeMap<Distance, Candidate>| {
            let waits = |state: State| matches!(state, State::Asked(at) if now.since(at) < slow);
            path.values().filter(|candidate| waits(candidate.state)).count()
        };
        let total: usize = self.paths.iter().map(busy).sum();
        if total >= self.config.width {
            return None;
        }
        for _ in 0..self.paths.len() {
            let path = self.turn % self.paths.len();
            self.turn = self.turn.wrapping_add(1);
            if let Some(distance) = self.next_of(path)
                && let Some(candidate) = self.paths.get_mut(path).and_then(|path| path.get_mut(&distance))
            {
                candidate.state = State::Asked(now);
                self.asked.insert(candidate.contact.peer, path);
                return Some(candidate.contact.clone());
            }
        }
        None
    }

    /// The closest candidate of a path that nobody asked, if it is among the closest that this path still has to settle.
    fn next_of(&self, path: usize) -> Option<Distance> {
        let wanted = self.wanted_of_path();
        let mut settled = 0;
        for (distance, candidate) in self.paths.get(path)? {
            match candidate.state {
                State::New if self.asked.contains_key(&candidate.contact.peer) => {}
                State::New => return Some(*distance),
                State::Failed => {}
                State::Asked(_) | State::Answered => {
                    settled += 1;
                    if settled >= wanted {
                        return None;
                    }
                }
            }
        }
        None
    }

    fn wanted_of_path(&self) -> usize {
        self.config.wanted.div_ceil(self.paths.len().max(1))
    }

    /// A contact answered with contacts that it believes to be closer.
    pub fn answered(&mut self, peer: &PeerId, contacts: Vec<Contact>) {
        let Some(path) = self.set(peer, State::Answered) else { return };
        for contact in contacts.into_iter().take(CONTACTS_MAX) {
            self.add(path, contact);
        }
    }

    /// A contact did not answer.
    pub fn failed(&mut self, peer: &PeerId) {
        self.set(peer, State::Failed);
    }

    /// Whether the closest that were heard of have all answered or failed.
    pub fn is_done(&self) -> bool {
        let open = |path: &usize| {
            self.next_of(*path).is_some()
                || self
                    .paths
                    .get(*path)
                    .is_some_and(|path| path.values().any(|candidate| matches!(candidate.state, State::Asked(_))))
        };
        !(0..self.paths.len()).any(|path| open(&path))
    }

    /// The closest that answered, the closest first.
    pub fn closest(&self) -> Vec<Contact> {
        let all = self.closest_by_path().into_iter().flatten();
        let sorted: BTreeMap<Distance, Contact> =
            all.map(|contact| (Key::from(contact.peer).distance(&self.target), contact)).collect();
        sorted.into_values().take(self.config.wanted).collect()
    }

    /// The closest that answered on each path, its share of those wanted: made-up peers right at the key can crowd out one path, not those
    /// that never met a liar.
    pub fn closest_by_path(&self) -> Vec<Vec<Contact>> {
        let answered = |path: &BTreeMap<Distance, Candidate>| {
            let answered = path.values().filter(|candidate| candidate.state == State::Answered);
            answered.take(self.wanted_of_path()).map(|candidate| candidate.contact.clone()).collect()
        };
        self.paths.iter().map(answered).collect()
    }

    /// How many were asked.
    pub fn asked(&self) -> usize {
        self.asked.len()
    }

    /// When an open question stops counting against the width.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let times = self.paths.iter().flat_map(|path| path.values()).filter_map(|candidate| match candidate.state {
            State::Asked(at) => Some(at.after(self.config.slow_after)),
            _ => None,
        });
        times.filter(|at| *at > now).min()
    }

    fn set(&mut self, peer: &PeerId, state: State) -> Option<usize> {
        let path = *self.asked.get(peer)?;
        let distance = Key::from(*peer).distance(&self.target);
        let candidate = self.paths.get_mut(path)?.get_mut(&distance)?;
        candidate.state = state;
        Some(path)
    }

    fn add(&mut self, path: usize, contact: Contact) {
        if contact.peer == self.me {
            return;
        }
        let distance = Key::from(contact.peer).distance(&self.target);
        let Some(candidates) = self.paths.get_mut(path) else { return };
        let net = contact.addrs.first().and_then(network);
        if let Some(net) = net
            && !candidates.contains_key(&distance)
        {
            let of_net = candidates.values().filter(|candidate| candidate.network == Some(net));
            if of_net.count() >= self.config.network_max {
                return;
            }
        }
        candidates.entry(distance).or_insert(Candidate { contact, network: net, state: State::New });
        if candidates.len() > self.config.candidates_max {
            let farthest = candidates.iter().rev().find(|(_, candidate)| candidate.state == State::New);
            if let Some(distance) = farthest.map(|(distance, _)| *distance) {
                candidates.remove(&distance);
            }
        }
    }

    /// Everybody it heard of and asked nobody about yet, for tests and statistics.
    pub fn unasked(&self) -> BTreeSet<PeerId> {
        let all = self.paths.iter().flat_map(|path| path.values()).map(|candidate| candidate.contact.peer);
        all.filter(|peer| !self.asked.contains_key(peer)).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::base::random::Random;
    use crate::routing::table::{Table, TableConfig};
    use std::net::SocketAddr;

    /// Tables of a swarm at rest, each filled with a random order of acquaintance.
    pub(crate) fn swarm(size: usize, seed: u64) -> BTreeMap<PeerId, Table> {
        let mut rng = Random::new(seed);
        let at: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let peers: Vec<PeerId> = (0..size).map(|_| PeerId(rng.bytes32())).collect();
        let mut tables = BTreeMap::new();
        for me in &peers {
            let mut table = Table::new(TableConfig::default(), Key::from(*me));
            let start = rng.below(size as u64) as usize;
            for place in 0..size {
                let other = peers[(start + place) % size];
                table.verified(Instant(1), Contact { peer: other, addrs: vec![at] }, &at);
            }
            tables.insert(*me, table);
        }
        tables
    }

    /// A swarm of a thousand, made once for all tests.
    pub(crate) fn thousand() -> &'static BTreeMap<PeerId, Table> {
        static TABLES: std::sync::OnceLock<BTreeMap<PeerId, Table>> = std::sync::OnceLock::new();
        TABLES.get_or_init(|| swarm(1000, 1))
    }

    fn closest(tables: &BTreeMap<PeerId, Table>, me: &PeerId, key: &Key, count: usize) -> Vec<PeerId> {
        let mut all: Vec<PeerId> = tables.keys().filter(|peer| *peer != me).copied().collect();
        all.sort_by_key(|peer| Key::from(*peer).distance(key));
        all.truncate(count);
        all
    }

    /// Runs a look-up to its end; every question takes one round. Returns it and the rounds.
    fn run(mut lookup: Lookup, mut answer: impl FnMut(&PeerId) -> Option<Vec<Contact>>) -> (Lookup, usize) {
        let mut now = Instant(0);
        let mut rounds = 0;
        while !lookup.is_done() {
            let mut questions = Vec::new();
            while let Some(contact) = lookup.poll(now) {
                questions.push(contact);
            }
            assert!(!questions.is_empty() && questions.len() <= lookup.config.width);
            for contact in questions {
                match answer(&contact.peer) {
                    Some(contacts) => lookup.answered(&contact.peer, contacts),
                    None => lookup.failed(&contact.peer),
                }
            }
            now = now.after(Duration::from_millis(50));
            rounds += 1;
        }
        (lookup, rounds)
    }

    #[test]
    fn the_closest_of_a_thousand_are_found_in_few_rounds() {
        let tables = thousand();
        let mut rng = Random::new(2);
        for _ in 0..20 {
            let key = Key(rng.bytes32());
            let me = *tables.keys().nth(rng.below(1000) as usize).unwrap();
            let known = tables[&me].closest(&key, 20);
            let lookup = Lookup::new(LookupConfig::default(), me, key, known);
            let (lookup, rounds) = run(lookup, |peer| Some(tables[peer].closest_healthy(&key, 20)));
            let found: Vec<PeerId> = lookup.closest().iter().map(|contact| contact.peer).collect();
            assert_eq!(found[..8], closest(tables, &me, &key, 8));
            assert!(rounds <= 12 && lookup.asked() <= 36, "{rounds} rounds, {} asked", lookup.asked());
        }
    }

    #[test]
    fn a_fifth_of_the_swarm_may_be_gone() {
        let tables = thousand();
        let mut rng = Random::new(4);
        let gone: BTreeSet<PeerId> = tables.keys().filter(|_| rng.below(5) == 0).copied().collect();
        for _ in 0..10 {
            let key = Key(rng.bytes32());
            let me = *tables.keys().find(|peer| !gone.contains(peer)).unwrap();
            let lookup = Lookup::new(LookupConfig::default(), me, key, tables[&me].closest(&key, 20));
            let (lookup, _) =
                run(lookup, |peer| (!gone.contains(peer)).then(|| tables[peer].closest_healthy(&key, 20)));
            let alive: Vec<PeerId> = closest(tables, &me, &key, 100);
            let alive: Vec<PeerId> = alive.into_iter().filter(|peer| !gone.contains(peer)).take(8).collect();
            let found: Vec<PeerId> = lookup.closest().iter().map(|contact| contact.peer).take(8).collect();
            assert_eq!(found, alive);
        }
    }

    /// Looks a key up among liars, an eighth of the swarm, who tell only of made-up peers right at the key, at `addr`. Returns in how
    /// many of 24 tries some of the four closest honest peers were found.
    fn among_liars(paths: usize, network_max: usize, addr: impl Fn(u64) -> SocketAddr) -> usize {
        let tables = swarm(300, 100);
        let mut random = Random::new(7);
        let mut hits = 0;
        for _ in 0..24 {
            let liars: BTreeSet<PeerId> = tables.keys().filter(|_| random.below(8) == 0).copied().collect();
            let key = Key(random.bytes32());
            let me = *tables.keys().find(|peer| !liars.contains(peer)).unwrap();
            let near = closest(&tables, &me, &key, 40).into_iter().filter(|peer| !liars.contains(peer)).take(4);
            let honest: Vec<PeerId> = near.collect();
            let made_up = (0..12_000).map(|_| PeerId(random.bytes32()));
            let mut fakes: Vec<(Distance, PeerId)> =
                made_up.map(|peer| (Key::from(peer).distance(&key), peer)).collect();
            fakes.sort_unstable();
            fakes.truncate(60);
            let lies: Vec<Contact> =
                (0..).zip(&fakes).map(|(place, (_, peer))| Contact { peer: *peer, addrs: vec![addr(place)] }).collect();
            let config = LookupConfig { paths, network_max, wanted: 8 * paths, ..LookupConfig::default() };
            let lookup = Lookup::new(config, me, key, tables[&me].closest(&key, 20));
            let mut turn = 0;
            let (lookup, _) = run(lookup, |peer| match tables.get(peer) {
                Some(table) if !liars.contains(peer) => Some(table.closest_healthy(&key, 20)),
                _ => {
                    turn = (turn + 20) % 60;
                    Some(lies[turn..turn + 20].to_vec())
                }
            });
            let found: Vec<PeerId> = lookup.closest_by_path().iter().flatten().map(|contact| contact.peer).collect();
            hits += usize::from(honest.iter().any(|peer| found.contains(peer)));
        }
        hits
    }

    #[test]
    fn liars_on_one_path_cannot_hide_the_neighbourhood_from_the_others() {
        let everywhere = |place: u64| SocketAddr::new([20, place as u8, 1, 1].into(), 5000);
        let (one, three) = (among_liars(1, 3, everywhere), among_liars(3, 3, everywhere));
        assert!(three > one + 5, "of 24: {one} on one path, {three} on three");
    }

    #[test]
    fn made_up_peers_of_one_network_cannot_hide_the_neighbourhood() {
        let somewhere = |place: u64| SocketAddr::new([20, 1, 1, place as u8].into(), 5000);
        let (without, with) = (among_liars(1, usize::MAX, somewhere), among_liars(1, 3, somewhere));
        assert!(without < 16 && with == 24, "of 24: {without} without the bound, {with} with it");
    }

    #[test]
    fn a_slow_peer_does_not_hold_the_look_up_back() {
        let contacts: Vec<Contact> = (1..=6).map(|n| Contact { peer: PeerId([n; 32]), addrs: vec![] }).collect();
        let mut lookup = Lookup::new(LookupConfig::default(), PeerId([0; 32]), Key([9; 32]), contacts);
        let start = Instant(0);
        for _ in 0..3 {
            assert!(lookup.poll(start).is_some());
        }
        assert!(lookup.poll(start).is_none(), "three in flight");
        let later = lookup.poll_timeout(start).unwrap();
        assert!(lookup.poll(later).is_some(), "after half a second others are asked");
    }

    #[test]
    fn many_made_up_contacts_take_no_memory() {
        let first = Contact { peer: PeerId([1; 32]), addrs: vec![] };
        let mut lookup = Lookup::new(LookupConfig::default(), PeerId([0; 32]), Key([9; 32]), vec![first]);
        let mut rng = Random::new(1);
        while let Some(contact) = lookup.poll(Instant(0)) {
            let lies = (0..500).map(|_| Contact { peer: PeerId(rng.bytes32()), addrs: vec![] }).collect();
            lookup.answered(&contact.peer, lies);
            if lookup.asked() > 200 {
                break;
            }
        }
        assert!(lookup.asked() <= 201 && lookup.unasked().len() <= 64);
    }
}
