//! The fetch core: what it is told from outside and what it wants done.

use super::holder::{Call, Chunk};
use super::job::Job;
use super::score::Peer;
use super::want::{Urgency, Want, WantFailure, WantFailureKind, WantId, WantOk};
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::{CONTACT_ADDRS_MAX, STRIPE_CHUNKS_MAX};
use crate::base::peer::{Contact, PeerId};
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::wire::call::CallId;
use crate::wire::message::{CallFailure, Fetch as FetchRequest, Price};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Bounds and patience of the fetch core.
#[derive(Debug, Clone)]
pub struct FetchConfig {
    /// Bytes asked for and not delivered, over all peers.
    pub in_flight_bytes_max: u64,
    /// Wants worked on at once; one more fails at once.
    pub wants_max: usize,
    /// Peers whose measurements are kept.
    pub peers_max: usize,
    /// Chunks that nobody wants now and whose holders are remembered.
    pub chunks_idle_max: usize,
    /// Requests in flight at one peer.
    pub calls_per_peer_max: usize,
    /// Share of all bytes that may be asked for twice, in percent.
    pub hedge_percent: u64,
    /// Longest time that one request may take.
    pub call_timeout: Duration,
    /// A look-up that did not end after this time is taken for ended.
    pub locate_timeout: Duration,
    /// How long a reader waits for providers of a shard before others are looked for.
    pub hedge_after: Duration,
    /// Look-ups that must have found nothing before a want fails as not found ahead of its deadline.
    pub locate_rounds: u8,
    /// The most that is paid.
    pub price_max: Price,
}

impl Default for FetchConfig {
    fn default() -> FetchConfig {
        FetchConfig {
            in_flight_bytes_max: 48 << 20,
            wants_max: 4096,
            peers_max: 4096,
            chunks_idle_max: 2048,
            calls_per_peer_max: 128,
            hedge_percent: 5,
            call_timeout: Duration::from_secs(30),
            locate_timeout: Duration::from_secs(10),
            hedge_after: Duration::from_millis(300),
            locate_rounds: 4,
            price_max: Price { per_gib: Msat(u64::MAX), per_request: Msat(u64::MAX) },
        }
    }
}

/// Counters for status and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchStats {
    /// Requests sent.
    pub asks: u64,
    /// Of them, for slices that were asked of another peer already.
    pub hedges: u64,
    /// Bytes delivered.
    pub delivered_bytes: u64,
    /// Of them, those that were here already.
    pub double_bytes: u64,
    /// Asked for and not delivered now.
    pub in_flight_bytes: u64,
    /// Wants now.
    pub wants: u64,
    /// Look-ups asked for, in chunks.
    pub locates: u64,
    /// Wants that ended well.
    pub ended_well: u64,
    /// Wants that failed.
    pub failed: u64,
}

/// One thing to do.
#[derive(Debug)]
pub enum FetchAction {
    /// Ask a peer for slices.
    Ask {
        /// Names the call; odd numbers.
        call: CallId,
        /// Whom.
        to: Contact,
        /// What.
        fetch: FetchRequest,
        /// When to give up.
        deadline: Instant,
    },
    /// Give a call up; its end is still to be reported.
    Cancel {
        /// Which.
        call: CallId,
    },
    /// Look up who holds these chunks; each ends with `no_more_providers`.
    Locate {
        /// At most `limit::IDS_MAX`.
        chunks: Vec<ChunkId>,
        /// A reader waits.
        urgent: bool,
        /// Peers that hold others of the same tree: worth asking first.
        near: Vec<Contact>,
    },
    /// A want ended.
    Done {
        /// Which.
        want: WantId,
        /// How.
        result: Result<WantOk, WantFailure>,
    },
    /// A peer sent false bytes. It is not asked again.
    Blame {
        /// Who.
        peer: PeerId,
        /// What it did.
        why: &'static str,
    },
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Its deadline.
    Want(WantId),
    /// It is late, or the shell has forgotten it.
    Call(CallId),
    /// It may have stalled.
    Peer(PeerId),
}

/// Turns wants into requests. Time and what happened are arguments; what is to be done comes out of `poll`.
#[derive(Debug)]
pub struct Fetch {
    pub(super) config: FetchConfig,
    pub(super) random: Random,
    pub(super) wants: BTreeMap<WantId, Job>,
    /// Wants with slices that no request covers, the most urgent first.
    pub(super) pending: BTreeSet<(Urgency, u64, WantId)>,
    pub(super) chunks: BTreeMap<ChunkId, Chunk>,
    pub(super) idle_chunks: BTreeSet<(Instant, ChunkId)>,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) banned: BTreeSet<PeerId>,
    pub(super) calls: BTreeMap<CallId, Call>,
    next_call: u64,
    next_seq: u64,
    pub(super) in_flight: u64,
    /// Bytes that may be asked for twice.
    pub(super) hedge_tokens: u64,
    /// Rate assumed of peers not measured yet, bytes a second: the mean of those that were.
    pub(super) prior_rate: u64,
    pub(super) timers: BTreeSet<(Instant, Timer)>,
    /// When something that waits may go on.
    pub(super) wake: Option<Instant>,
    /// Something changed that may let a pending want go on.
    pub(super) dirty: bool,
    /// Bytes delivered since pending wants were last looked at.
    pub(super) freed: u64,
    pub(super) actions: VecDeque<FetchAction>,
    pub(super) stats: FetchStats,
}

/// What may be asked for twice at the start.
const HEDGE_TOKENS_START: u64 = 2 << 20;
/// Until something was measured.
const RATE_UNKNOWN: u64 = 4_000_000;
/// A want that asks again for a slice delivered longer ago than this is believed: it has been lost since.
const DELIVERY_TRUSTED: Duration = Duration::from_secs(1);
/// Peers blamed in this session that are remembered.
const BANNED_MAX: usize = 65_536;
/// Providers passed on with a finished want.
const PROVIDERS_PASSED_MAX: usize = 16;

impl Fetch {
    /// A core that has nothing to do. `seed` only spreads load among equal peers.
    pub fn new(config: FetchConfig, seed: u64) -> Fetch {
        Fetch {
            config,
            random: Random::new(seed),
            wants: BTreeMap::new(),
            pending: BTreeSet::new(),
            chunks: BTreeMap::new(),
            idle_chunks: BTreeSet::new(),
            peers: BTreeMap::new(),
            banned: BTreeSet::new(),
            calls: BTreeMap::new(),
            next_call: 1,
            next_seq: 0,
            in_flight: 0,
            hedge_tokens: HEDGE_TOKENS_START,
            prior_rate: RATE_UNKNOWN,
            timers: BTreeSet::new(),
            wake: None,
            dirty: false,
            freed: 0,
            actions: VecDeque::new(),
            stats: FetchStats::default(),
        }
    }

    /// Slices are wanted. Ends with one `FetchAction::Done`, at the latest at its deadline.
    pub fn want(&mut self, now: Instant, want: Want) {
        let id = want.id;
        let shards = want.chunks.len();
        let sound = (1..=STRIPE_CHUNKS_MAX).contains(&shards)
            && (1..=shards).contains(&usize::from(want.data))
            && !self.wants.contains_key(&id);
        let mut job = Job::new(now, self.next_seq, want);
        self.next_seq += 1;
        if !sound || self.wants.len() >= self.config.wants_max || job.want.deadline <= now {
            let (found, needed) = (job.complete() as u8, job.want.data);
            let failure = WantFailure { kind: WantFailureKind::Timeout, missing: Vec::new(), found, needed };
            self.actions.push_back(FetchAction::Done { want: id, result: Err(failure) });
            self.stats.failed += 1;
            return;
        }
        for contact in std::mem::take(&mut job.want.likely) {
            self.meet(now, &contact);
        }
        job.likely.retain(|peer| !self.banned.contains(peer));
        job.likely.truncate(2 * PROVIDERS_PASSED_MAX);
        let mut lying = false;
        for index in 0..job.shards() {
            let Some(id) = job.chunk(index) else { continue };
            let place = usize::from(index);
            let chunk = self.chunks.entry(id).or_default();
            if chunk.wants.is_empty() {
                self.idle_chunks.remove(&(chunk.idle_since, id));
                chunk.have = 0;
            }
            chunk.wants.push((job.id, index));
            if chunk.len_proved {
                lying |= job.want.chunk_len != 0 && job.want.chunk_len != chunk.len;
                if job.want.chunk_len == 0 {
                    job.cut(index, chunk.len);
                }
            } else if job.want.chunk_len != 0 {
                chunk.len = job.want.chunk_len;
            }
            if now.since(chunk.fresh) > DELIVERY_TRUSTED {
                chunk.have &= !job.need[place];
            }
            chunk.have |= job.have[place];
            chunk.outline |= job.have[place] != 0;
            job.have[place] = chunk.have;
        }
        job.settle();
        self.timers.insert((job.want.deadline, Timer::Want(id)));
        if job.want.urgency == Urgency::Reader {
            // What is on its way for later is waited for from now on: its lateness counts.
            for index in 0..job.shards() {
                let calls = job.chunk(index).and_then(|id| self.chunks.get(&id)).map_or(&[][..], |chunk| &chunk.calls);
                for call in calls {
                    if let Some(state) = self.calls.get(call) {
                        self.timers.insert((state.late_at.max(now), Timer::Call(*call)));
                    }
                }
            }
        }
        let open = job.open;
        self.pending.insert((job.want.urgency, job.seq, id));
        self.wants.insert(id, job);
        if lying {
            // The manifest claims a length that the chunk itself disproves.
            self.finish(now, id, Some(Some(WantFailureKind::Damaged)));
        } else if open == 0 {
            self.finish(now, id, None);
        }
        self.dirty = true;
        self.schedule(now);
    }

    /// No longer wanted; no `Done` follows.
    pub fn unwant(&mut self, now: Instant, want: WantId) {
        if let Some(job) = self.wants.remove(&want) {
            self.release(now, &job);
            self.schedule(now);
        }
    }

    /// A look-up found peers that announced `chunk`.
    pub fn providers(&mut self, now: Instant, chunk: ChunkId, contacts: &[Contact]) {
        for contact in contacts {
            if !self.banned.contains(&contact.peer) {
                self.meet(now, contact);
                if let Some(chunk) = self.chunks.get_mut(&chunk) {
                    chunk.announced(now, contact.peer);
                }
            }
        }
        self.dirty = true;
        self.schedule(now);
    }

    /// The look-up of `chunk` has ended.
    pub fn no_more_providers(&mut self, now: Instant, chunk: ChunkId) {
        if let Some(chunk) = self.chunks.get_mut(&chunk) {
            chunk.located(now);
        }
        self.dirty = true;
        self.schedule(now);
    }

    /// A link to `peer` is up, with a first measure of its round trip if the transport has one.
    pub fn peer_up(&mut self, now: Instant, peer: PeerId, rtt: Option<Duration>) {
        self.meet(now, &Contact { peer, addrs: Vec::new() });
        if !self.peers.values().any(|peer| peer.linked) {
            // Until now there was nobody to ask: a look-up that found nothing says nothing.
            for chunk in self.chunks.values_mut().filter(|chunk| !chunk.wants.is_empty()) {
                chunk.lookup.rounds = 0;
                chunk.lookup.next_at = now;
            }
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.linked = true;
            peer.retry_at = Instant(0);
            if let Some(rtt) = rtt {
                peer.hint_rtt(rtt);
            }
        }
        self.dirty = true;
        self.schedule(now);
    }

    /// A peer says what it charges.
    pub fn priced(&mut self, now: Instant, peer: PeerId, price: Price) {
        let most = self.config.price_max;
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.price = Some(price);
            peer.price_percent = price_percent(price, most);
            self.dirty = true;
            self.schedule(now);
        }
    }

    /// What a peer owes us now, millisatoshi; negative: what we owe it.
    pub fn owed(&mut self, peer: &PeerId, balance: i64) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.balance = balance;
        }
    }

    /// Another limit from now on.
    pub fn set_price_max(&mut self, now: Instant, most: Price) {
        self.config.price_max = most;
        for peer in self.peers.values_mut() {
            peer.price_percent = peer.price.map_or(peer.price_percent, |price| price_percent(price, most));
        }
        self.dirty = true;
        self.schedule(now);
    }

    /// The last link to `peer` ended. Its calls end by themselves.
    pub fn peer_down(&mut self, now: Instant, peer: PeerId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.linked = false;
        let calls: Vec<CallId> = state.calls.iter().copied().collect();
        for call in calls {
            self.uncover(call);
        }
        self.schedule(now);
    }

    /// The store holds these chunks whole.
    pub fn stored(&mut self, now: Instant, chunks: &[ChunkId]) {
        for id in chunks {
            self.arrived(now, *id, u64::MAX, None);
        }
        self.schedule(now);
    }

    /// To be called when `poll_timeout` has come.
    pub fn tick(&mut self, now: Instant) {
        while let Some(&(at, timer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Want(id) => {
                    if self.wants.contains_key(&id) {
                        self.finish(now, id, Some(None));
                    }
                }
                Timer::Call(id) => self.check_call(now, id),
                Timer::Peer(id) => self.check_peer(now, id),
            }
        }
        if self.wake.is_some_and(|at| at <= now) {
            self.wake = None;
            self.dirty = true;
        }
        self.schedule(now);
    }

    /// When `tick` is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        match (timer, self.wake.filter(|_| !self.wants.is_empty())) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<FetchAction> {
        self.actions.pop_front()
    }

    /// Counters.
    pub fn stats(&self) -> FetchStats {
        FetchStats { in_flight_bytes: self.in_flight, wants: self.wants.len() as u64, ..self.stats }
    }

    /// Bytes in flight at a peer, and its measured rate in bytes a second.
    pub fn peer_load(&self, peer: &PeerId) -> Option<(u64, Option<u64>)> {
        self.peers.get(peer).map(|peer| (peer.in_flight, peer.rate()))
    }

    pub(super) fn new_call(&mut self) -> CallId {
        let call = CallId(self.next_call);
        self.next_call += 2;
        call
    }

    /// Remembers a peer and its addresses; forgets the longest unused one when there are too many.
    pub(super) fn meet(&mut self, now: Instant, contact: &Contact) {
        if self.banned.contains(&contact.peer) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&contact.peer) {
            let addrs = &mut peer.contact.addrs;
            for addr in &contact.addrs {
                if !addrs.contains(addr) {
                    addrs.truncate(CONTACT_ADDRS_MAX - 1);
                    addrs.insert(0, *addr);
                }
            }
            return;
        }
        if self.peers.len() >= self.config.peers_max {
            let oldest = self.peers.iter().filter(|(_, peer)| peer.calls.is_empty() && !peer.linked);
            match oldest.min_by_key(|(_, peer)| peer.used).map(|(id, _)| *id) {
                Some(oldest) => self.peers.remove(&oldest),
                None => return,
            };
        }
        let mut contact = contact.clone();
        contact.addrs.truncate(CONTACT_ADDRS_MAX);
        self.peers.insert(contact.peer, Peer::new(now, contact));
    }

    /// Never to be asked again in this session.
    pub(super) fn ban(&mut self, peer: PeerId, why: &'static str) {
        if self.banned.len() >= BANNED_MAX {
            self.banned.pop_first();
        }
        if !self.banned.insert(peer) {
            return;
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.retry_at = Instant(u64::MAX);
            let calls: Vec<CallId> = state.calls.iter().copied().collect();
            for call in calls {
                self.cancel(call);
            }
        }
        self.actions.push_back(FetchAction::Blame { peer, why });
        self.dirty = true;
    }

    /// Ends a want: well when its columns are closed (`failed` is `None`), else with a failure, of a given kind or the one that
    /// its state shows.
    pub(super) fn finish(&mut self, now: Instant, id: WantId, failed: Option<Option<WantFailureKind>>) {
        let Some(job) = self.wants.remove(&id) else { return };
        let result = match failed {
            None => {
                self.stats.ended_well += 1;
                Ok(WantOk { have: job.ranges(), providers: self.providers_of(now, &job) })
            }
            Some(kind) => {
                self.stats.failed += 1;
                Err(self.failure(&job, kind))
            }
        };
        self.release(now, &job);
        self.actions.push_back(FetchAction::Done { want: id, result });
    }

    /// Lets go of what only this want held.
    fn release(&mut self, now: Instant, job: &Job) {
        self.pending.remove(&(job.want.urgency, job.seq, job.id));
        self.timers.remove(&(job.want.deadline, Timer::Want(job.id)));
        for index in 0..job.shards() {
            let Some(id) = job.chunk(index) else { continue };
            let Some(chunk) = self.chunks.get_mut(&id) else { continue };
            let before = chunk.wants.len();
            chunk.wants.retain(|(want, _)| *want != job.id);
            if before > 0 && chunk.wants.is_empty() {
                chunk.idle_since = now;
                chunk.lookup.rounds = chunk.lookup.rounds.min(1);
                self.idle_chunks.insert((now, id));
            }
            self.cancel_unwanted(id);
        }
        while self.idle_chunks.len() > self.config.chunks_idle_max {
            if let Some((_, id)) = self.idle_chunks.pop_first() {
                self.chunks.remove(&id);
            }
        }
    }

    /// Who delivered, the best first, then who is said to hold some of it.
    fn providers_of(&self, now: Instant, job: &Job) -> Vec<Contact> {
        let mut found: Vec<(u64, PeerId)> = Vec::new();
        for (id, bytes) in &job.brought {
            if let Some(peer) = self.peers.get(id)
                && *bytes > 0
            {
                found.push((peer.finish_us(1 << 18, self.prior_rate), *id));
            }
        }
        found.sort();
        let mut ids: Vec<PeerId> = found.into_iter().map(|(_, id)| id).collect();
        // Those that hold the most of its chunks, by what was announced.
        let mut counts: BTreeMap<PeerId, u32> = BTreeMap::new();
        for index in 0..job.shards() {
            let holders = job.chunk(index).and_then(|id| self.chunks.get(&id)).map(|chunk| &chunk.holders);
            for (peer, holder) in holders.into_iter().flatten() {
                if holder.announced && holder.lacks == 0 && !holder.denied && holder.tries == 0 {
                    *counts.entry(*peer).or_default() += 1;
                }
            }
        }
        let mut others: Vec<(u32, PeerId)> = counts.into_iter().map(|(peer, count)| (count, peer)).collect();
        others.sort_by_key(|(count, peer)| (std::cmp::Reverse(*count), *peer));
        for peer in others.into_iter().map(|(_, peer)| peer).chain(job.likely.iter().copied()) {
            if !ids.contains(&peer) {
                ids.push(peer);
            }
        }
        ids.iter()
            .filter(|id| !self.banned.contains(id))
            .filter_map(|id| self.peers.get(id))
            .filter(|peer| peer.linked || peer.usable(now))
            .map(|peer| peer.contact.clone())
            .take(PROVIDERS_PASSED_MAX)
            .collect()
    }

    fn failure(&self, job: &Job, kind: Option<WantFailureKind>) -> WantFailure {
        let mut missing = Vec::new();
        let mut found = 0;
        let (mut damaged, mut price, mut uncertain) = (false, None, false);
        for index in 0..job.shards() {
            let Some(id) = job.chunk(index) else { continue };
            let have = job.have.get(usize::from(index)).copied().unwrap_or(0);
            let chunk = self.chunks.get(&id);
            let holders = || chunk.into_iter().flat_map(|chunk| &chunk.holders);
            let refuses = |peer: &PeerId| self.peers.get(peer).and_then(|peer| peer.refuses());
            if job.open & !have == 0
                || holders().any(|(peer, holder)| {
                    holder.announced
                        && holder.lacks == 0
                        && holder.failed.is_none()
                        && refuses(peer).is_none()
                        && !self.banned.contains(peer)
                })
            {
                found += 1;
                uncertain |= job.open & !have != 0;
                continue;
            }
            uncertain |= chunk.is_none_or(|chunk| chunk.lookup.rounds == 0 || !chunk.calls.is_empty());
            let tried: Vec<(PeerId, CallFailure)> = holders()
                .filter_map(|(peer, holder)| Some((*peer, refuses(peer).or(holder.failed.clone())?)))
                .collect();
            for (_, failure) in &tried {
                match failure {
                    CallFailure::False(_) => damaged = true,
                    CallFailure::Refused(reason) if is_price(*reason) => price = Some(*reason),
                    CallFailure::Timeout | CallFailure::LinkLost | CallFailure::Store | CallFailure::Cancelled => {
                        uncertain = true;
                    }
                    CallFailure::Unreachable(_) | CallFailure::Refused(_) => {}
                }
            }
            missing.push((id, tried));
        }
        let linked = self.peers.values().any(|peer| peer.linked);
        let kind = kind.unwrap_or(match price {
            _ if damaged && !uncertain => WantFailureKind::Damaged,
            Some(reason) => WantFailureKind::Price(reason),
            None if linked && !uncertain => WantFailureKind::NotFound,
            None => WantFailureKind::Timeout,
        });
        WantFailure { kind, missing, found, needed: job.want.data }
    }
}

pub(super) fn is_price(reason: crate::wire::message::Refusal) -> bool {
    use crate::wire::message::Refusal;
    matches!(reason, Refusal::Price | Refusal::CreditLimit { .. })
}

/// What part of the limit a price is, in percent: the larger of both.
fn price_percent(price: Price, most: Price) -> u64 {
    let percent = |of: Msat, most: Msat| {
        let parts = u128::from(of.0).saturating_mul(100).div_ceil(u128::from(most.0.max(1)));
        parts.min(u128::from(u64::MAX)) as u64
    };
    percent(price.per_gib, most.per_gib).max(percent(price.per_request, most.per_request))
}
