//! Which held chunks to announce where and when: at the closest peers to each chunk, many chunks to one message, again before the records
//! expire, and to peers who come later while a chunk is known at too few.

use super::table::Table;
use crate::base::digest::ChunkId;
use crate::base::keyspace::{Distance, Key};
use crate::base::limit::{CONTACTS_MAX, IDS_MAX};
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::time::Duration;

/// Pace and spread of announcements.
#[derive(Debug, Clone)]
pub struct AnnounceConfig {
    /// At how many of the closest peers a chunk is announced.
    pub copies: usize,
    /// How long a record shall live.
    pub ttl: Duration,
    /// When it is announced again; up to a quarter later, differently for each chunk.
    pub renew_after: Duration,
    /// When a chunk that nobody kept is tried again.
    pub retry_after: Duration,
    /// How long a short message waits for more chunks.
    pub gather: Duration,
    /// Messages in flight.
    pub in_flight_max: usize,
    /// Messages in a second.
    pub rate: u32,
    /// Chunks lined up for messages, each counted once for each peer.
    pub lined_up_max: usize,
}

impl Default for AnnounceConfig {
    fn default() -> AnnounceConfig {
        AnnounceConfig {
            copies: 8,
            ttl: Duration::from_secs(24 * 3600),
            renew_after: Duration::from_secs(9 * 3600),
            retry_after: Duration::from_secs(20),
            gather: Duration::from_millis(50),
            in_flight_max: 16,
            rate: 64,
            lined_up_max: 32 * IDS_MAX,
        }
    }
}

/// Names a message until its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SendId(pub u64);

/// What the announcer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnnounceAction {
    /// Send an announcement; its end comes back through `answered`.
    Send {
        /// Its name.
        send: SendId,
        /// To whom.
        to: Contact,
        /// Which chunks.
        chunks: Vec<ChunkId>,
        /// Seconds that the record shall live.
        ttl: u32,
    },
    /// Look the neighbourhood of a key up; the result comes back through `found`.
    Search {
        /// Which key.
        key: Key,
    },
    /// A chunk was announced; known at so many peers.
    Announced {
        /// Which chunk.
        chunk: ChunkId,
        /// At how many.
        copies: usize,
    },
}

/// Keeps the swarm told of what this node holds.
#[derive(Debug)]
pub struct Announcer {
    config: AnnounceConfig,
    /// Chunk -> minute in which it is due; other entries in `due` are outdated.
    held: BTreeMap<ChunkId, u32>,
    /// Minute of the node's clock -> chunks to be announced then.
    due: BTreeMap<u32, Vec<ChunkId>>,
    /// To be announced now, in the order of the key space.
    waiting: BTreeSet<ChunkId>,
    placing: BTreeMap<ChunkId, Placing>,
    /// Known at too few peers, and at how many.
    short: BTreeMap<ChunkId, usize>,
    /// Peers that know nothing of our chunks, being new or back after a while, and how far we came in telling them.
    newcomers: VecDeque<Newcomer>,
    /// When a peer was last told as a newcomer.
    told: BTreeMap<PeerId, Instant>,
    outbox: BTreeMap<PeerId, Outbox>,
    lined_up: usize,
    sent: BTreeMap<SendId, (PeerId, Vec<ChunkId>)>,
    send_next: u64,
    searching: Option<ChunkId>,
    tokens: f64,
    tokens_at: Instant,
    ready: VecDeque<AnnounceAction>,
    /// Nothing to do before this unless something happens.
    wake: Option<Instant>,
}

#[derive(Debug, Default)]
struct Placing {
    open: usize,
    kept: usize,
    /// Only a newcomer is told: when the chunk is due is not changed by it.
    extra: bool,
}

#[derive(Debug)]
struct Newcomer {
    contact: Contact,
    from: Option<ChunkId>,
    at: Instant,
}

#[derive(Debug)]
struct Outbox {
    contact: Contact,
    chunks: VecDeque<ChunkId>,
    since: Instant,
    busy: bool,
}

const MINUTE: u64 = 60_000_000;
/// A newcomer is told of so many chunks in a step, and steps are so far apart: a million held chunks must not hold the node up.
const GREET_STEP: usize = 1024;
const GREET_PERIOD: Duration = Duration::from_millis(10);
/// A peer that comes and goes is told no more often than this.
const GREET_AGAIN: Duration = Duration::from_secs(60);
const NEWCOMERS_MAX: usize = 256;
/// Not due.
const NEVER: u32 = u32::MAX;
/// Chunks placed in one step, so that no step takes long.
const STEP: usize = 256;

impl Announcer {
    /// Nothing held yet.
    pub fn new(config: AnnounceConfig) -> Announcer {
        let tokens = f64::from(config.rate);
        Announcer {
            config,
            held: BTreeMap::new(),
            due: BTreeMap::new(),
            waiting: BTreeSet::new(),
            placing: BTreeMap::new(),
            short: BTreeMap::new(),
            newcomers: VecDeque::new(),
            told: BTreeMap::new(),
            outbox: BTreeMap::new(),
            lined_up: 0,
            sent: BTreeMap::new(),
            send_next: 0,
            searching: None,
            tokens,
            tokens_at: Instant::default(),
            ready: VecDeque::new(),
            wake: None,
        }
    }

    /// These chunks are held; those that are new are announced.
    pub fn hold(&mut self, now: Instant, chunks: &[ChunkId]) {
        for chunk in chunks {
            if !self.held.contains_key(chunk) {
                self.held.insert(*chunk, NEVER);
                self.waiting.insert(*chunk);
                self.wake = Some(now);
            }
        }
    }

    /// These chunks are held and shall be announced now, whether they were before or not.
    pub fn renew(&mut self, now: Instant, chunks: &[ChunkId]) {
        for chunk in chunks {
            self.held.insert(*chunk, NEVER);
            if !self.placing.contains_key(chunk) {
                self.waiting.insert(*chunk);
            }
        }
        self.wake = Some(now);
    }

    /// These chunks are not held any more.
    pub fn dropped(&mut self, chunks: &[ChunkId]) {
        for chunk in chunks {
            self.held.remove(chunk);
            self.waiting.remove(chunk);
            self.short.remove(chunk);
        }
    }

    /// Whether this node holds the chunk whole, as far as it was told.
    pub fn holds(&self, chunk: &ChunkId) -> bool {
        self.held.contains_key(chunk)
    }

    /// Whether it is announced, at one peer at least.
    pub fn is_announced(&self, chunk: &ChunkId) -> bool {
        self.held.contains_key(chunk)
            && !self.waiting.contains(chunk)
            && !self.placing.contains_key(chunk)
            && self.short.get(chunk) != Some(&0)
    }

    /// How many chunks are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many chunks wait to be announced.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.placing.len()
    }

    /// A contact entered the table, or is back after its link was down (it may have lost what it was told): it is told of the chunks
    /// that it is close to.
    pub fn acquainted(&mut self, now: Instant, contact: &Contact) {
        if self.told.get(&contact.peer).is_some_and(|at| now.since(*at) < GREET_AGAIN)
            || self.newcomers.len() >= NEWCOMERS_MAX
        {
            return;
        }
        self.told.retain(|_, at| now.since(*at) < GREET_AGAIN);
        self.told.insert(contact.peer, now);
        self.newcomers.push_back(Newcomer { contact: contact.clone(), from: None, at: now });
        self.wake = Some(now);
    }

    /// The neighbourhood of `key` was looked up: `paths` are the closest to it as each path of the look-up found them. Every path has its share
    /// in where a chunk is announced, so that made-up peers on one cannot take all.
    pub fn found(&mut self, now: Instant, key: &Key, paths: &[Vec<Contact>]) {
        self.wake = Some(now);
        let Some(searched) = self.searching.take() else { return };
        let contacts: BTreeMap<Distance, &Contact> =
            paths.iter().flatten().map(|contact| (Key::from(contact.peer).distance(key), contact)).collect();
        if contacts.is_empty() {
            if self.waiting.remove(&searched) {
                self.later(now, searched, 0);
            }
            return;
        }
        // Everybody is known whose key begins as the searched one does, for one bit more than the farthest found shares with it. Chunks with
        // the same beginning stand beside it in order, and their closest peers are among those found.
        let shared = match contacts.last_key_value() {
            Some((farthest, _)) if contacts.len() >= CONTACTS_MAX => farthest.leading_zeros() + 1,
            _ => 0,
        };
        let near = |chunk: &ChunkId| Key::from(*chunk).distance(key).leading_zeros() >= shared;
        let mut region = vec![searched];
        region.extend(self.waiting.range((Excluded(searched), Unbounded)).take_while(|c| near(c)).take(4 * STEP));
        region.extend(self.waiting.range(..searched).rev().take_while(|c| near(c)).take(4 * STEP));
        for chunk in region {
            if self.waiting.remove(&chunk) {
                let targets = targets(&Key::from(chunk), paths, self.config.copies);
                self.place(now, chunk, targets);
            }
        }
    }

    /// How a message ended: how many of its chunks, from the front, were kept; `None` when there was no such answer.
    pub fn answered(&mut self, now: Instant, send: SendId, kept: Option<usize>) {
        let Some((peer, chunks)) = self.sent.remove(&send) else { return };
        self.wake = Some(now);
        let mut lost = Vec::new();
        if let Some(outbox) = self.outbox.get_mut(&peer) {
            outbox.busy = false;
            if kept.is_none() {
                lost.extend(outbox.chunks.drain(..));
            }
            if outbox.chunks.is_empty() {
                self.outbox.remove(&peer);
            }
        }
        self.lined_up -= lost.len();
        let kept = kept.unwrap_or(0);
        for (place, chunk) in chunks.into_iter().enumerate() {
            self.settle(now, chunk, place < kept);
        }
        for chunk in lost {
            self.settle(now, chunk, false);
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Instant, table: &Table) -> Option<AnnounceAction> {
        loop {
            if let Some(action) = self.ready.pop_front() {
                return Some(action);
            }
            if self.wake.is_none_or(|at| at > now) {
                return None;
            }
            self.step(now, table);
        }
    }

    /// Moves everything on by a bounded amount of work.
    fn step(&mut self, now: Instant, table: &Table) {
        self.wake = None;
        self.take_due(now);
        self.greet(now, table);
        if !table.is_empty() && self.lined_up < self.config.lined_up_max {
            if table.everyone_known() {
                let some: Vec<ChunkId> = self.waiting.iter().take(STEP).copied().collect();
                for chunk in some {
                    self.waiting.remove(&chunk);
                    let targets = table.closest_healthy(&Key::from(chunk), self.config.copies);
                    self.place(now, chunk, targets);
                }
                if !self.waiting.is_empty() {
                    self.wake = Some(now);
                }
            } else if self.searching.is_none()
                && let Some(first) = self.waiting.first()
            {
                self.searching = Some(*first);
                self.ready.push_back(AnnounceAction::Search { key: Key::from(*first) });
            }
        }
        self.send(now);
        let due = self.due.keys().next().map(|minute| Instant((u64::from(*minute) + 1) * MINUTE));
        self.wake = [self.wake, due].into_iter().flatten().min();
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    fn take_due(&mut self, now: Instant) {
        while let Some(entry) = self.due.first_entry() {
            let minute = *entry.key();
            if (u64::from(minute) + 1) * MINUTE > now.0 {
                break;
            }
            let chunks = entry.remove();
            let held = chunks.into_iter().filter(|chunk| self.held.get(chunk) == Some(&minute));
            self.waiting.extend(held);
        }
    }

    /// Tells newcomers of the chunks that they are close to.
    fn greet(&mut self, now: Instant, table: &Table) {
        let Some(mut newcomer) = self.newcomers.pop_front() else { return };
        if newcomer.at <= now && self.lined_up < self.config.lined_up_max {
            let key = Key::from(newcomer.contact.peer);
            // It is among the closest only to chunks that share about as much of its key as its own closest contacts do.
            let near = table.closest_healthy(&key, self.config.copies + 1);
            let shared = match near.last() {
                Some(last) if near.len() > self.config.copies => {
                    key.distance(&Key::from(last.peer)).leading_zeros().saturating_sub(2)
                }
                _ => 0,
            };
            let (first, last) = region(&key, shared);
            // The region moves with the contacts that are known: the last page may have ended outside of it.
            let lower = newcomer.from.filter(|from| *from >= first).map_or(Included(first), Excluded);
            let page: Vec<ChunkId> = if newcomer.from.is_some_and(|from| from > last) {
                Vec::new()
            } else {
                self.held.range((lower, Included(last))).take(GREET_STEP).map(|(chunk, _)| *chunk).collect()
            };
            for chunk in &page {
                let close = table.closest_healthy(&Key::from(*chunk), self.config.copies);
                let is_close = close.iter().any(|contact| contact.peer == newcomer.contact.peer);
                if is_close && !self.waiting.contains(chunk) {
                    let kept = self.short.get(chunk).copied().unwrap_or(self.config.copies);
                    self.placing.entry(*chunk).or_insert(Placing { open: 0, kept, extra: true });
                    self.line_up(now, *chunk, newcomer.contact.clone());
                }
            }
            newcomer.from = page.last().copied();
            newcomer.at = now.after(GREET_PERIOD);
        } else {
            newcomer.at = newcomer.at.max(now.after(GREET_PERIOD));
        }
        if newcomer.from.is_some() {
            self.newcomers.push_front(newcomer);
        }
        if let Some(next) = self.newcomers.front() {
            let at = next.at;
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    fn place(&mut self, now: Instant, chunk: ChunkId, targets: Vec<Contact>) {
        if targets.is_empty() {
            self.later(now, chunk, 0);
            return;
        }
        self.placing.insert(chunk, Placing::default());
        for contact in targets {
            self.line_up(now, chunk, contact);
        }
    }

    fn line_up(&mut self, now: Instant, chunk: ChunkId, contact: Contact) {
        let fresh = |contact| Outbox { contact, chunks: VecDeque::new(), since: now, busy: false };
        let outbox = self.outbox.entry(contact.peer).or_insert_with(|| fresh(contact));
        if outbox.chunks.is_empty() {
            outbox.since = now;
        }
        outbox.chunks.push_back(chunk);
        self.lined_up += 1;
        if let Some(placing) = self.placing.get_mut(&chunk) {
            placing.open += 1;
        }
    }

    fn settle(&mut self, now: Instant, chunk: ChunkId, kept: bool) {
        let Some(placing) = self.placing.get_mut(&chunk) else { return };
        placing.open = placing.open.saturating_sub(1);
        placing.kept += usize::from(kept);
        if placing.open > 0 {
            return;
        }
        let (copies, extra) = (placing.kept, placing.extra);
        self.placing.remove(&chunk);
        if copies > 0 {
            self.ready.push_back(AnnounceAction::Announced { chunk, copies });
        }
        // A chunk that nobody knew of until this newcomer is in order now.
        if !extra || self.short.get(&chunk) == Some(&0) {
            self.later(now, chunk, copies);
        } else if copies >= self.config.copies {
            self.short.remove(&chunk);
        } else {
            self.short.insert(chunk, copies);
        }
    }

    /// Decides when a chunk, now known at `copies` peers, is announced again.
    fn later(&mut self, now: Instant, chunk: ChunkId, copies: usize) {
        if !self.held.contains_key(&chunk) {
            return;
        }
        if copies < self.config.copies {
            self.short.insert(chunk, copies);
        } else {
            self.short.remove(&chunk);
        }
        let wait = if copies == 0 {
            self.config.retry_after
        } else {
            // Spread by the chunk's own bits: the same everywhere, without a draw.
            let part = u32::from(chunk.0[31]);
            self.config.renew_after + self.config.renew_after / 4 * part / 256
        };
        let minute = (now.after(wait).0 / MINUTE).min(u64::from(NEVER - 1)) as u32;
        self.held.insert(chunk, minute);
        self.due.entry(minute).or_default().push(chunk);
        let at = Instant((u64::from(minute) + 1) * MINUTE);
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn send(&mut self, now: Instant) {
        let rate = f64::from(self.config.rate);
        self.tokens = (self.tokens + now.since(self.tokens_at).as_secs_f64() * rate).min(rate);
        self.tokens_at = now;
        let mut wake = None;
        for (peer, outbox) in &mut self.outbox {
            if outbox.busy || outbox.chunks.is_empty() || self.sent.len() >= self.config.in_flight_max {
                continue;
            }
            let at = outbox.since.after(self.config.gather);
            if outbox.chunks.len() < IDS_MAX && at > now {
                wake = Some(wake.map_or(at, |wake: Instant| wake.min(at)));
                continue;
            }
            if self.tokens < 1.0 {
                let at = now.after(Duration::from_millis(20));
                wake = Some(wake.map_or(at, |wake: Instant| wake.min(at)));
                break;
            }
            self.tokens -= 1.0;
            let count = outbox.chunks.len().min(IDS_MAX);
            let chunks: Vec<ChunkId> = outbox.chunks.drain(..count).collect();
            self.lined_up -= chunks.len();
            outbox.busy = true;
            outbox.since = now;
            let send = SendId(self.send_next);
            self.send_next += 1;
            self.sent.insert(send, (*peer, chunks.clone()));
            let ttl = self.config.ttl.as_secs() as u32;
            self.ready.push_back(AnnounceAction::Send { send, to: outbox.contact.clone(), chunks, ttl });
        }
        self.wake = [self.wake, wake].into_iter().flatten().min();
    }
}

/// The closest to `key` of each path in turn, `count` in all.
fn targets(key: &Key, paths: &[Vec<Contact>], count: usize) -> Vec<Contact> {
    let by_distance = |path: &Vec<Contact>| {
        let all = path.iter().map(|contact| (Key::from(contact.peer).distance(key), contact.clone()));
        all.collect::<BTreeMap<Distance, Contact>>()
    };
    let mut rest: Vec<BTreeMap<Distance, Contact>> = paths.iter().map(by_distance).collect();
    let mut out = BTreeMap::new();
    while out.len() < count && rest.iter().any(|path| !path.is_empty()) {
        for path in &mut rest {
            if out.len() < count
                && let Some((_, contact)) = path.pop_first()
            {
                out.insert(contact.peer, contact);
            }
        }
    }
    out.into_values().collect()
}

/// The first and the last chunk that share `bits` bits with a key.
fn region(key: &Key, bits: u32) -> (ChunkId, ChunkId) {
    let (mut first, mut last) = (key.0, key.0);
    for (place, (low, high)) in first.iter_mut().zip(&mut last).enumerate() {
        let shared = bits.saturating_sub(place as u32 * 8).min(8);
        let free = 0xffu8.checked_shr(shared).unwrap_or(0);
        *low &= !free;
        *high |= free;
    }
    (ChunkId(first), ChunkId(last))
}

#[cfg(test)]
mod tests;
