//! Who holds these chunks: one search for many chunks at once. Every peer asked is asked about all of them, so in a small swarm a handful
//! of questions settles hundreds of chunks; in a large one each chunk draws the search towards its own neighbourhood.

use crate::base::digest::ChunkId;
use crate::base::keyspace::Key;
use crate::base::limit::{CONTACTS_MAX, IDS_MAX, PROVIDERS_PER_CHUNK_MAX};
use crate::base::network::{Network, network};
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use crate::wire::message::Located;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Bounds of a search for providers.
#[derive(Debug, Clone)]
pub struct LocateConfig {
    /// Questions in flight.
    pub width: usize,
    /// A question that is open for so long no longer counts against the width.
    pub slow_after: Duration,
    /// A chunk with so many providers is settled.
    pub enough: usize,
    /// A chunk is settled when so many of the closest contacts to it were asked.
    pub depth: usize,
    /// Contacts heard of that are kept.
    pub contacts_max: usize,
    /// Contacts of one network that are kept: made-up peers of one owner cannot crowd out the neighbourhood.
    pub network_max: usize,
}

impl Default for LocateConfig {
    fn default() -> LocateConfig {
        LocateConfig {
            width: 4,
            slow_after: Duration::from_millis(400),
            enough: 3,
            depth: 16,
            contacts_max: 512,
            network_max: 6,
        }
    }
}

/// A search under way.
#[derive(Debug)]
pub struct Locate {
    config: LocateConfig,
    me: PeerId,
    chunks: BTreeMap<ChunkId, Chunk>,
    contacts: BTreeMap<PeerId, Known>,
    /// Raised with every change that may open a chunk again.
    version: u64,
    turn: Option<ChunkId>,
    /// Asked before all others, near or far.
    first: Vec<PeerId>,
}

#[derive(Debug, Default)]
struct Chunk {
    providers: BTreeSet<PeerId>,
    /// Enough were found, or told to the asker as settled.
    settled: bool,
    /// All close contacts known at this version were asked.
    exhausted_at: Option<u64>,
}

#[derive(Debug)]
struct Known {
    contact: Contact,
    network: Option<Network>,
    key: Key,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Asked(Instant),
    Answered,
    Failed,
}

/// One question: whom, and about what; the first chunk is the one whose neighbourhood is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Whom to ask.
    pub to: Contact,
    /// What to ask about.
    pub chunks: Vec<ChunkId>,
}

impl Locate {
    /// Searches for the providers of `chunks` (at most `limit::IDS_MAX` are taken) from the contacts `known`.
    pub fn new(config: LocateConfig, me: PeerId, chunks: &[ChunkId], known: Vec<Contact>) -> Locate {
        let chunks = chunks.iter().take(IDS_MAX).map(|id| (*id, Chunk::default())).collect();
        let mut locate =
            Locate { config, me, chunks, contacts: BTreeMap::new(), version: 1, turn: None, first: Vec::new() };
        for contact in known {
            locate.add(contact);
        }
        locate
    }

    /// A peer that holds chunks of the same tree: it is asked first, wherever it stands.
    pub fn ask_first(&mut self, contact: Contact) {
        let peer = contact.peer;
        self.add(contact);
        self.first.push(peer);
    }

    /// What to ask next, if anything now.
    pub fn poll(&mut self, now: Instant) -> Option<Question> {
        let slow = self.config.slow_after;
        let waits = |state: State| matches!(state, State::Asked(at) if now.since(at) < slow);
        if self.contacts.values().filter(|known| waits(known.state)).count() >= self.config.width {
            return None;
        }
        // Chunks take turns, so that the first one does not draw all questions to its neighbourhood.
        let from = self.turn;
        let order: Vec<ChunkId> = match from {
            Some(turn) => {
                let after = self.chunks.range((std::ops::Bound::Excluded(turn), std::ops::Bound::Unbounded));
                after.chain(self.chunks.range(..=turn)).map(|(id, _)| *id).collect()
            }
            None => self.chunks.keys().copied().collect(),
        };
        for id in order {
            if self.chunks.get(&id).is_none_or(|chunk| chunk.settled || chunk.exhausted_at == Some(self.version)) {
                continue;
            }
            let Some(peer) = self.next_for(&id) else {
                if let Some(chunk) = self.chunks.get_mut(&id) {
                    chunk.exhausted_at = Some(self.version);
                }
                continue;
            };
            self.turn = Some(id);
            let open = self.chunks.iter().filter(|(_, chunk)| !chunk.settled).map(|(id, _)| *id);
            let mut chunks = vec![id];
            chunks.extend(open.filter(|other| *other != id));
            let known = self.contacts.get_mut(&peer)?;
            known.state = State::Asked(now);
            return Some(Question { to: known.contact.clone(), chunks });
        }
        None
    }

    /// The closest unasked contact among the `depth` closest to this chunk.
    fn next_for(&self, id: &ChunkId) -> Option<PeerId> {
        let is_new = |peer: &&PeerId| self.contacts.get(*peer).is_some_and(|known| known.state == State::New);
        if let Some(first) = self.first.iter().find(is_new) {
            return Some(*first);
        }
        let key = Key::from(*id);
        let alive = self.contacts.values().filter(|known| known.state != State::Failed);
        let mut closest: Vec<_> = alive.map(|known| (known.key.distance(&key), known)).collect();
        if closest.len() > self.config.depth {
            closest.select_nth_unstable_by_key(self.config.depth, |(distance, _)| *distance);
            closest.truncate(self.config.depth);
        }
        let unasked = closest.into_iter().filter(|(_, known)| known.state == State::New);
        unasked.min_by_key(|(distance, _)| *distance).map(|(_, known)| known.contact.peer)
    }

    /// A contact answered a question. Returns providers that are new, chunk by chunk; the answering peer is one for what it holds.
    /// Chunks of the answer that we did not ask about are ignored.
    pub fn answered(&mut self, peer: &PeerId, asked: &[ChunkId], located: &Located) -> Vec<(ChunkId, Contact)> {
        let Some(known) = self.contacts.get_mut(peer) else { return Vec::new() };
        known.state = State::Answered;
        let answering = known.contact.clone();
        self.version += 1;
        let mut fresh = Vec::new();
        for (place, id) in asked.iter().enumerate() {
            let held = located.held.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1);
            if held && self.provides(id, &answering) {
                fresh.push((*id, answering.clone()));
            }
        }
        for (place, contact) in &located.providers {
            let (Some(id), Some(contact)) =
                (asked.get(usize::from(*place)), located.contacts.get(usize::from(*contact)))
            else {
                continue;
            };
            if self.provides(id, contact) {
                fresh.push((*id, contact.clone()));
            }
        }
        for contact in located.closer.iter().take(CONTACTS_MAX) {
            self.add(contact.clone());
        }
        fresh
    }

    /// A contact did not answer.
    pub fn failed(&mut self, peer: &PeerId) {
        if let Some(known) = self.contacts.get_mut(peer) {
            known.state = State::Failed;
            self.version += 1;
        }
    }

    /// Chunks that are settled since the last call, with the number of providers found: enough of them, or nobody is left to ask.
    pub fn settled(&mut self) -> Vec<(ChunkId, usize)> {
        let waiting = self.contacts.values().any(|known| matches!(known.state, State::Asked(_)));
        let version = self.version;
        let mut out = Vec::new();
        for (id, chunk) in &mut self.chunks {
            let done = chunk.providers.len() >= self.config.enough || (!waiting && chunk.exhausted_at == Some(version));
            if !chunk.settled && done {
                chunk.settled = true;
                out.push((*id, chunk.providers.len()));
            }
        }
        out
    }

    /// Whether all chunks are settled. Answers that still come may bring more providers.
    pub fn is_done(&self) -> bool {
        self.chunks.values().all(|chunk| chunk.settled)
    }

    /// Whether all that is left is to wait for peers that have not answered for long.
    pub fn is_slow(&self, now: Instant) -> bool {
        let mut asked = self.contacts.values().filter_map(|known| match known.state {
            State::Asked(at) => Some(at),
            _ => None,
        });
        asked.clone().next().is_some() && asked.all(|at| now.since(at) >= self.config.slow_after)
    }

    /// When an open question stops counting against the width.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let times = self.contacts.values().filter_map(|known| match known.state {
            State::Asked(at) => Some(at.after(self.config.slow_after)),
            _ => None,
        });
        times.filter(|at| *at > now).min()
    }

    fn provides(&mut self, id: &ChunkId, contact: &Contact) -> bool {
        let me = self.me;
        self.chunks.get_mut(id).is_some_and(|chunk| {
            contact.peer != me
                && chunk.providers.len() < PROVIDERS_PER_CHUNK_MAX
                && chunk.providers.insert(contact.peer)
        })
    }

    fn add(&mut self, contact: Contact) {
        let full = self.contacts.len() >= self.config.contacts_max;
        if contact.peer == self.me || full || self.contacts.contains_key(&contact.peer) {
            return;
        }
        let net = contact.addrs.first().and_then(network);
        if net.is_some() {
            let of_net = self.contacts.values().filter(|known| known.network == net);
            if of_net.count() >= self.config.network_max {
                return;
            }
        }
        let key = Key::from(contact.peer);
        self.contacts.insert(contact.peer, Known { contact, network: net, key, state: State::New });
        self.version += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;
    use crate::routing::lookup::tests::thousand;

    fn run(
        locate: &mut Locate,
        mut answer: impl FnMut(&Question) -> Option<Located>,
    ) -> (usize, Vec<(ChunkId, Contact)>) {
        let mut questions = 0;
        let mut found = Vec::new();
        while !locate.is_done() {
            let mut round = Vec::new();
            while let Some(question) = locate.poll(Instant(0)) {
                round.push(question);
            }
            assert!(round.len() <= 4);
            questions += round.len();
            for question in &round {
                match answer(question) {
                    Some(located) => found.extend(locate.answered(&question.to.peer, &question.chunks, &located)),
                    None => locate.failed(&question.to.peer),
                }
            }
            let settled = locate.settled();
            assert!(!round.is_empty() || !settled.is_empty());
        }
        (questions, found)
    }

    fn contact(number: u8) -> Contact {
        Contact { peer: PeerId([number; 32]), addrs: vec![] }
    }

    #[test]
    fn hundreds_of_chunks_are_located_in_a_small_swarm_with_a_question_to_each() {
        let mut rng = Random::new(1);
        let chunks: Vec<ChunkId> = (0..512).map(|_| ChunkId(rng.bytes32())).collect();
        let peers: Vec<Contact> = (1..=12).map(contact).collect();
        let mut locate = Locate::new(LocateConfig::default(), PeerId([0; 32]), &chunks, peers.clone());
        // Each chunk is held by the peer of its first byte; the others know nothing.
        let holder = |id: &ChunkId| peers[usize::from(id.0[0]) % 12].clone();
        let (questions, found) = run(&mut locate, |question| {
            let mut held = vec![0; 64];
            for (place, id) in question.chunks.iter().enumerate() {
                if holder(id) == question.to {
                    held[place / 8] |= 1 << (place % 8);
                }
            }
            Some(Located { held, ..Located::default() })
        });
        assert_eq!(questions, 12);
        assert_eq!(found.len(), 512);
        assert!(found.iter().all(|(id, contact)| holder(id) == *contact));
    }

    #[test]
    fn a_reader_stops_asking_when_enough_providers_are_known() {
        let peers: Vec<Contact> = (1..=12).map(contact).collect();
        let chunk = ChunkId([7; 32]);
        let mut locate = Locate::new(LocateConfig::default(), PeerId([0; 32]), &[chunk], peers);
        let (questions, found) = run(&mut locate, |_| {
            let contacts = vec![contact(50), contact(51), contact(52)];
            Some(Located { providers: vec![(0, 0), (0, 1), (0, 2)], contacts, ..Located::default() })
        });
        assert!(questions <= 4, "{questions}");
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_search_that_waits_for_one_that_says_nothing_is_slow() {
        let peers: Vec<Contact> = (1..=3).map(contact).collect();
        let chunk = ChunkId([7; 32]);
        let mut locate = Locate::new(LocateConfig::default(), PeerId([0; 32]), &[chunk], peers);
        assert!(!locate.is_slow(Instant(0)), "nobody was asked");
        let asked: Vec<Question> = std::iter::from_fn(|| locate.poll(Instant(0))).collect();
        let later = Instant(0).after(LocateConfig::default().slow_after);
        for question in asked.iter().skip(1) {
            assert!(!locate.is_slow(Instant(0)));
            locate.answered(&question.to.peer, &question.chunks, &Located::default());
        }
        assert!(locate.poll(later).is_none() && locate.is_slow(later) && !locate.is_done());
        locate.failed(&asked[0].to.peer);
        assert!(!locate.is_slow(later));
    }

    #[test]
    fn a_chunk_that_nobody_has_settles_with_none() {
        let chunk = ChunkId([7; 32]);
        let mut alone = Locate::new(LocateConfig::default(), PeerId([0; 32]), &[chunk], vec![]);
        assert_eq!(alone.poll(Instant(0)), None);
        assert_eq!(alone.settled(), [(chunk, 0)]);
        let peers: Vec<Contact> = (1..=5).map(contact).collect();
        let mut locate = Locate::new(LocateConfig::default(), PeerId([0; 32]), &[chunk], peers);
        let (questions, found) = run(&mut locate, |question| (question.to.peer.0[0] > 2).then(Located::default));
        assert_eq!((questions, found.len()), (5, 0));
    }

    #[test]
    fn each_chunk_of_a_stripe_draws_the_search_to_its_own_neighbourhood_in_a_thousand() {
        let tables = thousand();
        let mut rng = Random::new(9);
        let chunks: Vec<ChunkId> = (0..24).map(|_| ChunkId(rng.bytes32())).collect();
        let mut records: BTreeMap<PeerId, BTreeSet<ChunkId>> = BTreeMap::new();
        for id in &chunks {
            let mut peers: Vec<PeerId> = tables.keys().copied().collect();
            peers.sort_by_key(|peer| Key::from(*peer).distance(&Key::from(*id)));
            for peer in &peers[..8] {
                records.entry(*peer).or_default().insert(*id);
            }
        }
        let me = *tables.keys().next().unwrap();
        let mut known = Vec::new();
        for id in &chunks {
            known.extend(tables[&me].closest(&Key::from(*id), 20));
        }
        let config = LocateConfig { enough: 1, ..LocateConfig::default() };
        let mut locate = Locate::new(config, me, &chunks, known);
        let (questions, found) = run(&mut locate, |question| {
            if rng.below(10) == 0 {
                return None; // lost
            }
            let mut located = Located { contacts: vec![contact(9)], ..Located::default() };
            for (place, id) in question.chunks.iter().enumerate() {
                if records.get(&question.to.peer).is_some_and(|known| known.contains(id)) {
                    located.providers.push((place as u16, 0));
                }
            }
            located.closer = tables[&question.to.peer].closer(&Key::from(question.chunks[0]), 20);
            Some(located)
        });
        let found: BTreeSet<ChunkId> = found.into_iter().map(|(id, _)| id).collect();
        assert_eq!(found.len(), 24);
        assert!(questions <= 200, "{questions}");
    }

    #[test]
    fn made_up_peers_of_one_network_cannot_hide_the_holders() {
        let mut random = Random::new(3);
        let chunk = ChunkId(random.bytes32());
        let at = |text: &str| text.parse().unwrap();
        let honest: Vec<Contact> =
            (1..=10).map(|n| Contact { peer: PeerId([n; 32]), addrs: vec![at(&format!("20.{n}.0.1:5000"))] }).collect();
        let mut lies: Vec<Contact> = (0..2000u32)
            .map(|n| Contact { peer: PeerId(random.bytes32()), addrs: vec![at(&format!("9.9.9.{}:5000", n % 250))] })
            .collect();
        lies.sort_by_key(|contact| Key::from(contact.peer).distance(&Key::from(chunk)));
        lies.truncate(20);
        let mut locate = Locate::new(LocateConfig::default(), PeerId([0; 32]), &[chunk], honest.clone());
        let (_, found) = run(&mut locate, |question| {
            if question.to == honest[9] {
                return Some(Located { held: vec![1], ..Located::default() });
            }
            Some(Located { closer: lies.clone(), ..Located::default() })
        });
        assert_eq!(found, [(chunk, honest[9].clone())]);
    }

    #[test]
    fn what_was_not_asked_is_not_believed() {
        let chunk = ChunkId([7; 32]);
        let mut locate = Locate::new(LocateConfig::default(), PeerId([0; 32]), &[chunk], vec![contact(1)]);
        let question = locate.poll(Instant(0)).unwrap();
        let located = Located {
            held: vec![0xff; 64],
            contacts: vec![contact(0), contact(2)],
            providers: vec![(0, 0), (0, 1), (5, 1)],
            closer: vec![],
        };
        assert!(locate.answered(&PeerId([99; 32]), &question.chunks, &located).is_empty(), "a stranger's answer");
        let found = locate.answered(&PeerId([1; 32]), &question.chunks, &located);
        assert_eq!(found, [(chunk, contact(1)), (chunk, contact(2))], "not ourselves, not the sixth of one");
    }
}
