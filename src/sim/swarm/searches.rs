//! Searches for providers, followed from outside: how many hops until a holder is named, and how long it took.

use super::Swarm;
use crate::base::digest::ChunkId;
use crate::base::peer::Contact;
use crate::base::time::Instant;
use crate::wire::message::Located;
use std::collections::BTreeMap;

/// How a search for providers went.
#[derive(Debug, Clone)]
pub struct Search {
    /// Who searches.
    pub node: usize,
    /// What.
    pub chunk: ChunkId,
    depth: BTreeMap<usize, u32>,
    /// When it began.
    pub since: Instant,
    /// When a peer first named a holder.
    pub found: Option<Instant>,
    /// Hops to that peer.
    pub hops: Option<u32>,
    /// When, and after how many hops, a peer first named one that really has it: with liars about, the first to be named is none.
    pub real: Option<(Instant, u32)>,
    /// Whether one of those that the searcher knew by itself, and asked, has the chunk.
    pub at_hand: bool,
    /// Requests sent until then.
    pub requests: u32,
    /// When it ended, and the holders that it gave: nodes of this swarm that are up and have the chunk, and others.
    pub ended: Option<(Instant, usize, usize)>,
}

impl Search {
    pub(super) fn new(now: Instant, node: usize, chunk: ChunkId) -> Search {
        let depth = BTreeMap::new();
        Search {
            node,
            chunk,
            depth,
            since: now,
            found: None,
            hops: None,
            real: None,
            at_hand: false,
            requests: 0,
            ended: None,
        }
    }
}

impl Swarm {
    /// The searches of a node that have not ended.
    fn open_searches(&mut self, node: usize) -> impl Iterator<Item = &mut Search> {
        let first = self.searches_open.iter().copied().min().unwrap_or(self.searches.len());
        let rest = self.searches.get_mut(first..).unwrap_or_default();
        rest.iter_mut().filter(move |search| search.node == node && search.ended.is_none())
    }

    pub(super) fn searched(&mut self, from: usize, to: usize, chunks: &[ChunkId]) {
        if self.searches_open.is_empty() {
            return;
        }
        for search in self.open_searches(from).filter(|search| search.real.is_none()) {
            if chunks.contains(&search.chunk) {
                search.depth.entry(to).or_insert(1);
                search.requests += u32::from(search.hops.is_none());
            }
        }
    }

    pub(super) fn learned(&mut self, from: usize, to: usize, located: &Located) {
        if self.searches_open.is_empty() {
            return;
        }
        let now = self.now;
        let closer: Vec<usize> =
            located.closer.iter().filter_map(|contact| self.network.place_of(&contact.peer)).collect();
        let held = located.held.first().is_some_and(|byte| byte & 1 == 1);
        let mut named: Vec<usize> =
            located.contacts.iter().filter_map(|contact| self.network.place_of(&contact.peer)).collect();
        named.extend(held.then_some(to));
        let sought: Vec<ChunkId> = self.open_searches(from).map(|search| search.chunk).collect();
        let real: Vec<ChunkId> =
            sought.into_iter().filter(|chunk| named.iter().any(|place| self.holds(*place, chunk))).collect();
        for search in self.open_searches(from).filter(|search| search.real.is_none()) {
            let Some(depth) = search.depth.get(&to).copied() else { continue };
            search.at_hand |= held && depth == 1 && search.hops.is_none();
            // Searches are for one chunk: any provider named is one of it.
            if search.hops.is_none() && (!located.providers.is_empty() || held) {
                (search.hops, search.found) = (Some(depth), Some(now));
            }
            if real.contains(&search.chunk) {
                search.real = Some((now, depth));
            }
            for place in &closer {
                search.depth.entry(*place).or_insert(depth + 1);
            }
        }
    }

    /// A node went: its searches go on no more.
    pub(super) fn abandon_searches(&mut self, node: usize) {
        let searches = &self.searches;
        self.searches_open.retain(|open| searches.get(*open).is_some_and(|search| search.node != node));
    }

    /// A search ended.
    pub(super) fn located(&mut self, node: usize, holders: &[(ChunkId, Vec<Contact>)]) {
        let now = self.now;
        for (chunk, contacts) in holders {
            let holds = |contact: &&Contact| {
                self.network.place_of(&contact.peer).is_some_and(|at| self.node(at).is_some() && self.holds(at, chunk))
            };
            let good = contacts.iter().filter(holds).count();
            let bad = contacts.len() - good;
            let Some(search) = self.open_searches(node).find(|search| search.chunk == *chunk) else { continue };
            search.ended = Some((now, good, bad));
            search.depth.clear();
            let searches = &self.searches;
            self.searches_open.retain(|open| searches.get(*open).is_some_and(|search| search.ended.is_none()));
        }
    }
}
