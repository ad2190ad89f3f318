//! Searches under way: look-ups of keys for our own table and for announcements, and searches for providers.

use super::Node;
use super::calls::Purpose;
use super::effect::Effect;
use crate::base::digest::ChunkId;
use crate::base::keyspace::Key;
use crate::base::limit::{CONTACTS_MAX, IDS_MAX};
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use crate::fetch::want::WantId;
use crate::routing::locate::{Locate, LocateConfig};
use crate::routing::lookup::{Lookup, LookupConfig};
use crate::wire::message::{CallFailure, Located, Request, Response};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Names a search until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SearchId(u64);

/// What a look-up of a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Our own neighbourhood, or a bucket: what is met on the way enters the table by its hello.
    Table,
    /// Where to announce.
    Announce,
    /// Who keeps a head.
    Head(WantId),
}

/// Whom a search for providers is for.
#[derive(Debug)]
enum For {
    Fetch,
    Command { want: WantId, deadline: Instant, order: Vec<ChunkId>, holders: BTreeMap<ChunkId, Vec<Contact>> },
}

/// All searches.
#[derive(Debug, Default)]
pub(crate) struct Searches {
    next: u64,
    lookups: BTreeMap<SearchId, (Lookup, Why)>,
    locates: BTreeMap<SearchId, (Locate, For, bool)>,
    urgent: BTreeSet<ChunkId>,
    bulk: BTreeSet<ChunkId>,
    /// Peers that hold other chunks of what is looked for: asked before strangers.
    near: BTreeMap<PeerId, Contact>,
    /// Chunks in running searches for the fetch core.
    running: BTreeSet<ChunkId>,
    commands: VecDeque<(WantId, Vec<ChunkId>, Instant, bool)>,
    /// Chunks looked for lately and when: who asks again was not helped, so everybody close is asked then.
    lately: BTreeMap<ChunkId, Instant>,
    /// Something happened since the searches were last moved on.
    dirty: bool,
    /// When one has something to do although nothing happened.
    wake: Option<Instant>,
}

const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Searches for providers at once: those that readers wait for, and others.
const URGENT_MAX: usize = 24;
const BULK_MAX: usize = 4;
/// Searches for providers in all, those that wait for peers that say nothing among them.
const SEARCHES_MAX: usize = 128;
/// Chunks of one search when the swarm is too large for each peer to know of each chunk.
const CHUNKS_MAX: usize = 32;
const NEAR_MAX: usize = 8;
const LATELY: Duration = Duration::from_secs(60);
const LATELY_MAX: usize = 8192;

impl Searches {
    fn id(&mut self) -> SearchId {
        self.next += 1;
        SearchId(self.next)
    }

    /// Whether a look-up for this reason is under way.
    pub(crate) fn looks_up(&self, why: Why) -> bool {
        self.lookups.values().any(|(_, other)| *other == why)
    }

    /// How many searches are under way.
    pub(crate) fn len(&self) -> usize {
        self.lookups.len() + self.locates.len()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let lookups = self.lookups.values().filter_map(|(lookup, _)| lookup.poll_timeout(now));
        let locates = self.locates.values().flat_map(|(locate, reason, _)| {
            let deadline = match reason {
                For::Command { deadline, .. } => Some(*deadline),
                For::Fetch => None,
            };
            [locate.poll_timeout(now), deadline]
        });
        lookups.chain(locates.flatten()).min()
    }

    /// The fetch core wants providers of these chunks.
    pub(crate) fn want_providers(&mut self, chunks: Vec<ChunkId>, urgent: bool, near: Vec<Contact>) {
        self.dirty = true;
        for contact in near {
            if self.near.len() < NEAR_MAX {
                self.near.insert(contact.peer, contact);
            }
        }
        for chunk in chunks {
            if urgent {
                self.bulk.remove(&chunk);
                self.urgent.insert(chunk);
            } else if !self.urgent.contains(&chunk) {
                self.bulk.insert(chunk);
            }
        }
    }

    /// The user wants to know who holds these chunks; `thorough` has those asked as well who were silent lately.
    pub(crate) fn want_holders(&mut self, want: WantId, chunks: Vec<ChunkId>, deadline: Instant, thorough: bool) {
        self.dirty = true;
        self.commands.push_back((want, chunks, deadline, thorough));
    }
}

impl Node {
    /// Starts a look-up of `key`.
    pub(super) fn look_up(&mut self, now: Instant, key: Key, why: Why) {
        let known = self.table.closest(&key, CONTACTS_MAX);
        let paths = if why == Why::Table { 1 } else { 3 };
        let config = LookupConfig { paths, ..LookupConfig::default() };
        let id = self.searches.id();
        self.searches.dirty = true;
        self.table.looked_up(now, &key);
        self.searches.lookups.insert(id, (Lookup::new(config, self.me, key, known), why));
    }

    /// Moves all searches on. Returns whether something was done.
    pub(super) fn poll_searches(&mut self, now: Instant) -> bool {
        if !self.searches.dirty && self.searches.wake.is_none_or(|at| at > now) {
            return false;
        }
        self.searches.dirty = false;
        let mut moved = self.start_locates(now);
        let ids: Vec<SearchId> = self.searches.lookups.keys().copied().collect();
        for id in ids {
            moved |= self.poll_lookup(now, id);
        }
        let ids: Vec<SearchId> = self.searches.locates.keys().copied().collect();
        for id in ids {
            moved |= self.poll_locate(now, id);
        }
        // What was freed may let others start.
        self.searches.dirty |= moved;
        self.searches.wake = self.searches.next_wake(now);
        moved
    }

    fn poll_lookup(&mut self, now: Instant, id: SearchId) -> bool {
        let mut moved = false;
        loop {
            let Some((lookup, _)) = self.searches.lookups.get_mut(&id) else { return moved };
            let Some(contact) = lookup.poll(now) else { break };
            let key = lookup.target();
            moved = true;
            self.call(now, contact, Request::Find { key }, QUESTION_TIMEOUT, Purpose::Lookup(id));
        }
        if self.searches.lookups.get(&id).is_some_and(|(lookup, _)| lookup.is_done())
            && let Some((lookup, why)) = self.searches.lookups.remove(&id)
        {
            moved = true;
            match why {
                Why::Table => {}
                Why::Announce => self.announcer.found(now, &lookup.target(), &lookup.closest_by_path()),
                Why::Head(want) => self.head_neighbours(now, want, &lookup.target(), lookup.closest_by_path()),
            }
        }
        moved
    }

    /// A question of a look-up ended.
    pub(super) fn lookup_answered(
        &mut self,
        now: Instant,
        id: SearchId,
        peer: PeerId,
        result: Result<Response, CallFailure>,
    ) {
        self.searches.dirty = true;
        let contacts = match result {
            Ok(Response::Found { contacts }) => Some(self.peers.heard(now, &peer, contacts)),
            Ok(_) => {
                self.blame(now, peer, "answered a find with something else");
                None
            }
            Err(_) => None,
        };
        let Some((lookup, _)) = self.searches.lookups.get_mut(&id) else { return };
        match contacts {
            Some(contacts) => lookup.answered(&peer, contacts),
            None => lookup.failed(&peer),
        }
    }

    fn start_locates(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some((want, order, deadline, thorough)) = self.searches.commands.pop_front() {
            moved = true;
            let id = self.searches.id();
            let config = LocateConfig { enough: usize::MAX, ..LocateConfig::default() };
            let locate = self.locate(config, &order, thorough);
            let holders = BTreeMap::new();
            self.searches.locates.insert(id, (locate, For::Command { want, deadline, order, holders }, true));
        }
        for urgent in [true, false] {
            loop {
                // A peer that says nothing keeps its searches open until it is given up; others need not wait for those.
                let of_kind = self.searches.locates.values().filter(|(_, _, other)| *other == urgent);
                let running = of_kind.filter(|(locate, _, _)| !locate.is_slow(now)).count();
                if running >= if urgent { URGENT_MAX } else { BULK_MAX } || self.searches.locates.len() >= SEARCHES_MAX
                {
                    break;
                }
                let batch_max = if self.table.everyone_known() { IDS_MAX } else { CHUNKS_MAX };
                let queue = if urgent { &mut self.searches.urgent } else { &mut self.searches.bulk };
                let mut again = false;
                let mut batch = Vec::new();
                while batch.len() < batch_max
                    && let Some(chunk) = queue.pop_first()
                {
                    if !self.searches.running.insert(chunk) {
                        continue;
                    }
                    let last = self.searches.lately.insert(chunk, now);
                    again |= last.is_some_and(|at| now.since(at) < LATELY);
                    batch.push(chunk);
                }
                if self.searches.lately.len() > LATELY_MAX {
                    self.searches.lately.retain(|_, at| now.since(*at) < LATELY);
                    while self.searches.lately.len() > LATELY_MAX {
                        self.searches.lately.pop_first();
                    }
                }
                if batch.is_empty() {
                    break;
                }
                moved = true;
                for chunk in &batch {
                    let known = self.providers.of(now, chunk);
                    let known: Vec<Contact> =
                        known.into_iter().filter(|contact| !self.peers.is_banned(now, &contact.peer)).collect();
                    if !known.is_empty() {
                        self.found_providers(now, *chunk, &known);
                    }
                }
                let enough = if again { usize::MAX } else { LocateConfig::default().enough };
                let mut locate = self.locate(LocateConfig { enough, ..LocateConfig::default() }, &batch, false);
                for contact in std::mem::take(&mut self.searches.near).into_values() {
                    locate.ask_first(contact);
                }
                let id = self.searches.id();
                self.searches.locates.insert(id, (locate, For::Fetch, urgent));
            }
        }
        moved
    }

    fn locate(&self, config: LocateConfig, chunks: &[ChunkId], thorough: bool) -> Locate {
        let known = if thorough && self.table.everyone_known() {
            self.table.closest(&self.table.me(), usize::MAX)
        } else if self.table.everyone_known() {
            self.table.closest_healthy(&self.table.me(), usize::MAX)
        } else {
            let mut known: BTreeMap<PeerId, Contact> = BTreeMap::new();
            for chunk in chunks {
                for contact in self.table.closest(&Key::from(*chunk), CONTACTS_MAX) {
                    known.insert(contact.peer, contact);
                }
            }
            known.into_values().collect()
        };
        // In a node's first moment nobody has said hello yet.
        let known = if known.is_empty() {
            self.peers.linked().take(NEAR_MAX).map(|(peer, _, _)| self.peers.contact(peer)).collect()
        } else {
            known
        };
        Locate::new(config, self.me, chunks, known)
    }

    fn poll_locate(&mut self, now: Instant, id: SearchId) -> bool {
        let mut moved = false;
        loop {
            let Some((locate, reason, _)) = self.searches.locates.get_mut(&id) else { return moved };
            if matches!(reason, For::Command { deadline, .. } if *deadline <= now) {
                self.finish_locate(now, id);
                return true;
            }
            let Some(question) = locate.poll(now) else { break };
            moved = true;
            let request = Request::Locate { chunks: question.chunks.clone() };
            self.call(now, question.to, request, QUESTION_TIMEOUT, Purpose::Locate(id, question.chunks));
        }
        let Some((locate, reason, _)) = self.searches.locates.get_mut(&id) else { return moved };
        let settled = locate.settled();
        let done = locate.is_done();
        moved |= !settled.is_empty();
        if matches!(reason, For::Fetch) {
            for (chunk, _) in settled {
                self.searches.running.remove(&chunk);
                self.searched_providers(now, chunk);
            }
        }
        if done {
            self.finish_locate(now, id);
            moved = true;
        }
        moved
    }

    fn finish_locate(&mut self, now: Instant, id: SearchId) {
        let Some((_, reason, _)) = self.searches.locates.remove(&id) else { return };
        if let For::Command { want, order, mut holders, .. } = reason {
            let holders: Vec<(ChunkId, Vec<Contact>)> =
                order.into_iter().map(|chunk| (chunk, holders.remove(&chunk).unwrap_or_default())).collect();
            if !self.kept_located(now, want, &holders) {
                self.effects.push_back(Effect::Located { want, holders });
            }
        }
    }

    /// A question of a search for providers ended.
    pub(super) fn locate_answered(
        &mut self,
        now: Instant,
        id: SearchId,
        peer: PeerId,
        asked: &[ChunkId],
        result: Result<Response, CallFailure>,
    ) {
        self.searches.dirty = true;
        let located = match result {
            Ok(Response::Located(located)) => Some(self.believed(now, &peer, located)),
            Ok(_) => {
                self.blame(now, peer, "answered a locate with something else");
                None
            }
            Err(_) => None,
        };
        let Some((locate, reason, _)) = self.searches.locates.get_mut(&id) else {
            // The search ended by what others said; more providers are still welcome.
            return;
        };
        let Some(located) = located else { return locate.failed(&peer) };
        let found = locate.answered(&peer, asked, &located);
        match reason {
            For::Command { holders, .. } => {
                for (chunk, contact) in found {
                    holders.entry(chunk).or_default().push(contact);
                }
            }
            For::Fetch => {
                let mut by_chunk: BTreeMap<ChunkId, Vec<Contact>> = BTreeMap::new();
                for (chunk, contact) in found {
                    by_chunk.entry(chunk).or_default().push(contact);
                }
                for (chunk, contacts) in by_chunk {
                    self.found_providers(now, chunk, &contacts);
                }
            }
        }
    }

    /// An answer without the contacts that the answering peer is not believed on.
    fn believed(&self, now: Instant, from: &PeerId, located: Located) -> Located {
        let mut places = Vec::with_capacity(located.contacts.len());
        let mut contacts = Vec::new();
        for contact in located.contacts {
            places.push(self.peers.believed(now, from, contact).map(|contact| {
                contacts.push(contact);
                (contacts.len() - 1) as u8
            }));
        }
        let providers = located.providers.into_iter();
        let providers = providers
            .filter_map(|(chunk, at)| places.get(usize::from(at)).copied().flatten().map(|at| (chunk, at)))
            .collect();
        Located { held: located.held, contacts, providers, closer: self.peers.heard(now, from, located.closer) }
    }
}
