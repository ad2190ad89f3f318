//! Turns open slices into requests: the provider that will have them here first, within the windows.

use super::core::{Fetch, FetchAction};
use super::holder::{Chunk, HOLDERS_MAX, Holder};
use super::inflight::{Manner, bytes_of};
use super::job::Job;
use super::score::WINDOW_BYTES_MAX;
use super::stripe::run_from;
use super::want::{Urgency, WantId};
use crate::base::digest::ChunkId;
use crate::base::limit::IDS_MAX;
use crate::base::peer::{Contact, PeerId};
use crate::base::range::SliceRange;
use crate::base::time::Instant;
use crate::wire::message::{CallFailure, Refusal};
use std::collections::BTreeMap;

/// Pending wants looked at in one turn.
const SCAN_MAX: usize = 128;
/// Peers that are merely likely are asked when at least so likely, in percent.
const GUESS_PERCENT_MIN: u64 = 50;
/// Guesses under way at a peer that has not proved itself, once the look-up has ended.
const GUESSES_LOOKED_MAX: u32 = 4;
/// Calls to a peer whose link is not up: whether there is anybody is not known yet.
const DIALLING_CALLS_MAX: usize = 2;
/// A reader is not sent to a peer that takes this many times as long as the best, and this much more.
const SLOW_FACTOR: u64 = 4;
const SLOW_EXTRA_US: u64 = 100_000;
/// Round trip of a peer that is not slow.
const RTT_USUAL_US: u64 = 100_000;
/// Slices that a peer which failed lately is tried with.
const TRIAL_SLICES: u8 = 8;

/// Chunks to be looked up, for whom, and peers that may know.
type Locates = BTreeMap<ChunkId, (Urgency, Vec<PeerId>)>;

/// Whom to ask for a slice.
enum Choice {
    /// This peer; whether it is only a guess; whether it will take much longer than peers usually do.
    Ask(PeerId, bool, Slow),
    /// All that have it have enough to do.
    Full,
    /// Nobody can be asked now; perhaps at this time.
    Nobody(Option<Instant>),
}

type Slow = bool;

/// Where a shard stands for rebuilding.
#[derive(Clone, Copy)]
enum Standing {
    /// All of it is here.
    Here,
    /// On its way, or somebody can be asked.
    Live,
    /// Only from peers that are much slower than usual.
    Slow,
    /// Not looked up yet.
    Unknown,
    /// Nobody to ask.
    Dead,
}

impl Fetch {
    /// Looks at the pending wants, if anything changed that may let them go on.
    pub(super) fn schedule(&mut self, now: Instant) {
        if !self.dirty {
            return;
        }
        self.dirty = false;
        let order: Vec<WantId> = self.pending.iter().take(SCAN_MAX).map(|(_, _, id)| *id).collect();
        let mut locate = BTreeMap::new();
        for id in order {
            if self.in_flight >= self.config.in_flight_bytes_max {
                break;
            }
            if let Some(job) = self.wants.remove(&id) {
                self.place(now, job, &mut locate);
            }
        }
        self.flush_locates(locate);
        if self.pending.is_empty() {
            self.endgame(now);
        }
    }

    /// Asks for all of a want that can be asked for.
    fn place(&mut self, now: Instant, mut job: Job, locate: &mut Locates) {
        let mut blocked = false;
        // Each round may enlist more shards; there are fewer than this.
        for _ in 0..job.shards().max(1) {
            blocked = false;
            let mut dead = 0;
            for index in 0..job.shards() {
                let Some(id) = job.chunk(index) else { continue };
                let open = job.wanted(index);
                if open == 0 {
                    continue;
                }
                let open = open & !self.covered(id);
                let (left, lost) = self.fill(now, &job, (index, id), open, locate);
                blocked |= left != 0;
                dead |= lost;
            }
            if job.rebuild & job.open == 0 && dead == 0 || usize::from(job.want.data) >= job.want.chunks.len() {
                break;
            }
            job.rebuild |= dead;
            if !self.enlist(now, &mut job, locate) {
                break;
            }
        }
        let (id, key) = (job.id, (job.want.urgency, job.seq, job.id));
        let hopeless = blocked && self.hopeless(&job);
        self.wants.insert(id, job);
        if hopeless {
            self.finish(now, id, Some(None));
        } else if !blocked {
            self.pending.remove(&key);
        }
    }

    /// Asks for the slices `open` of one shard. Returns those that are left, and those of them that nobody can be asked for.
    fn fill(
        &mut self,
        now: Instant,
        job: &Job,
        (index, id): (u8, ChunkId),
        mut open: u64,
        locate: &mut Locates,
    ) -> (u64, u64) {
        let spare = job.want.chunks.len() > usize::from(job.want.data);
        while open != 0 {
            let first = open & open.wrapping_neg();
            match self.choose(now, job, id, open) {
                // Another shard will be here earlier; this one is asked for when there are not enough of those.
                Choice::Ask(peer, _, true) if spare && job.enlisted >> index & 1 == 0 && !self.is_on_trial(&peer) => {
                    return (open, open);
                }
                Choice::Ask(peer, guess, _) => {
                    let Some(chunk) = self.chunks.get(&id) else { break };
                    let Some(state) = self.peers.get(&peer) else { break };
                    let lacks = chunk.holders.get(&peer).map_or(0, |holder| holder.lacks);
                    let all = (open | self.wanted_of(id) & !self.covered(id)) & !lacks & !self.asked_of(peer, id);
                    let pays = job.want.urgency != Urgency::Host;
                    let dials = !state.linked;
                    let trial = state.on_trial() || dials && self.is_there(now, job, chunk, (guess, first));
                    let most = if trial { TRIAL_SLICES } else { state.piece_slices(self.prior_rate) };
                    let piece = self.piece(now, job, chunk, most, open);
                    let range = run_from(all | first, first, piece);
                    let hedge = !chunk.calls.is_empty()
                        && chunk.calls.iter().any(|c| self.calls.get(c).is_some_and(|c| c.remaining & first != 0));
                    self.stats.hedges += u64::from(hedge);
                    if guess && !state.trusted() && job.want.urgency < Urgency::Bulk {
                        self.want_located(now, job, id, locate);
                    }
                    self.ask(now, peer, id, range, Manner { guess, pays, trial });
                    if !trial {
                        if dials && job.want.urgency == Urgency::Reader {
                            self.dial_another(now, job, id, range, pays);
                        }
                        open &= !range.mask();
                    }
                }
                Choice::Full => return (open, 0),
                Choice::Nobody(retry) => {
                    self.want_located(now, job, id, locate);
                    if let Some(retry) = retry {
                        self.wake_at(retry);
                    }
                    let chunk = self.chunks.get(&id);
                    let looked = chunk.is_some_and(|chunk| chunk.lookup.rounds > 0 || !chunk.calls.is_empty());
                    let patience = job.created.after(self.config.hedge_after);
                    if looked || now >= patience {
                        return (open, open);
                    }
                    self.wake_at(patience);
                    return (open, 0);
                }
            }
        }
        (open, 0)
    }

    /// Whether somebody with a link is said to hold these slices, so that a dial need not be waited for; or can be guessed to, if that is
    /// all that is known of who is dialled.
    fn is_there(&self, now: Instant, job: &Job, chunk: &Chunk, (guess, slices): (bool, u64)) -> bool {
        let there = |peer: &PeerId| {
            self.peers
                .get(peer)
                .is_some_and(|peer| peer.linked && peer.usable(now) && !peer.on_trial() && peer.price_percent <= 100)
        };
        let has = |holder: &Holder| !holder.denied && holder.lacks & slices == 0;
        let mut holders = chunk.holders.iter().filter(|(_, holder)| holder.announced && has(holder));
        let mut likely = job.likely.iter().filter(|peer| guess && chunk.holders.get(peer).is_none_or(has));
        holders.any(|(peer, _)| there(peer)) || likely.any(there)
    }

    /// A reader waits for a dial, and who was dialled may be gone: another is dialled at the same time.
    fn dial_another(&mut self, now: Instant, job: &Job, id: ChunkId, range: SliceRange, pays: bool) {
        if let Choice::Ask(peer, guess, _) = self.choose(now, job, id, range.mask()) {
            let Some(chunk) = self.chunks.get(&id) else { return };
            let lacks = chunk.holders.get(&peer).map_or(0, |holder| holder.lacks);
            let most = if chunk.len == 0 { range.count } else { TRIAL_SLICES };
            let first = range.mask() & range.mask().wrapping_neg();
            let range = run_from(range.mask() & !lacks & !self.asked_of(peer, id) | first, first, most);
            self.ask(now, peer, id, range, Manner { guess, pays, trial: true });
            self.stats.hedges += 1;
        }
    }

    /// How many slices to ask of one peer at once: a reader's are spread over those that have them.
    fn piece(&self, now: Instant, job: &Job, chunk: &Chunk, most: u8, open: u64) -> u8 {
        if chunk.len == 0 {
            // The answer tells the length; what is asked for beyond it would be refused.
            return 64;
        }
        if job.want.urgency != Urgency::Reader {
            return most;
        }
        let sources = chunk.holders.iter().filter(|(id, holder)| {
            holder.announced && !holder.denied && self.peers.get(id).is_some_and(|peer| peer.usable(now))
        });
        let share = open.count_ones().div_ceil((sources.count() as u32).max(1)) as u8;
        share.clamp(8, most.max(8))
    }

    /// Slices of a chunk that a peer was asked for and has not ended, given up ones among them.
    pub(super) fn asked_of(&self, peer: PeerId, id: ChunkId) -> u64 {
        let calls = self.peers.get(&peer).map(|peer| &peer.calls);
        let calls = calls.into_iter().flatten().filter_map(|call| self.calls.get(call));
        calls.filter(|call| call.chunk == id).fold(0, |all, call| all | call.asked)
    }

    /// Bytes that may be in flight at a peer for something of this urgency.
    fn room(&self, peer_window: u64, in_flight: u64, bytes: u64, urgency: Urgency) -> bool {
        let window = if urgency >= Urgency::Bulk { peer_window * 3 / 4 } else { peer_window };
        let total = match urgency {
            Urgency::Reader => self.config.in_flight_bytes_max,
            Urgency::Ahead => self.config.in_flight_bytes_max * 7 / 8,
            Urgency::Bulk | Urgency::Host => self.config.in_flight_bytes_max * 3 / 4,
        };
        // The last piece may pass the window: else a peer with room for half of one has nothing to send until another half is there.
        in_flight < window && in_flight + bytes <= WINDOW_BYTES_MAX && self.in_flight + bytes <= total
    }

    fn choose(&mut self, now: Instant, job: &Job, id: ChunkId, open: u64) -> Choice {
        let first = open & open.wrapping_neg();
        let Some(chunk) = self.chunks.get(&id) else { return Choice::Nobody(None) };
        if chunk.pause_until > now {
            return Choice::Nobody(Some(chunk.pause_until));
        }
        let mut retry: Option<Instant> = None;
        let mut full = false;
        let mut best: Option<(u64, PeerId)> = None;
        let mut quickest = u64::MAX;
        let guesses = job.likely.iter().filter(|peer| !chunk.holders.get(peer).is_some_and(|holder| holder.announced));
        let announced = chunk.holders.iter().filter(|(_, holder)| holder.announced).map(|(peer, _)| (*peer, false));
        let mut candidates: Vec<(PeerId, bool)> = announced.collect();
        let known = candidates.len();
        candidates.extend(guesses.map(|peer| (*peer, true)));
        let spare = job.want.chunks.len() > usize::from(job.want.data);
        let looked = chunk.lookup.rounds > 0 && chunk.lookup.running.is_none();
        for (place, (peer_id, guess)) in candidates.into_iter().enumerate() {
            if place == known && (best.is_some() || full) {
                // Somebody is known to have it: no need to guess.
                break;
            }
            let holder = chunk.holders.get(&peer_id);
            if holder.is_some_and(|holder| holder.lacks & first != 0 || holder.denied) {
                continue;
            }
            let Some(peer) = self.peers.get(&peer_id) else { continue };
            let affordable = match job.want.urgency {
                // Who offered it gives it for nothing, others what is free anyway.
                Urgency::Host => peer.price_percent == 0 || job.likely.contains(&peer_id),
                _ => peer.price_percent <= 100,
            };
            if !affordable {
                continue;
            }
            // After a look-up other shards are the better way; without them every straw counts.
            let doubtful = if looked { spare && !peer.proven() } else { peer.guess_percent() < GUESS_PERCENT_MIN };
            if guess && doubtful {
                continue;
            }
            if !peer.usable(now) {
                if peer.retry_at > now && peer.retry_at < Instant(u64::MAX) {
                    retry = Some(retry.map_or(peer.retry_at, |at| at.min(peer.retry_at)));
                }
                continue;
            }
            if self.asked_of(peer_id, id) & first != 0 || peer.on_trial() && !peer.calls.is_empty() {
                continue;
            }
            if guess && !peer.proven() && peer.guesses >= if looked { GUESSES_LOOKED_MAX } else { 1 } {
                // One guess tells of the others; for what nobody waits for it is awaited.
                full |= job.want.urgency >= Urgency::Bulk;
                continue;
            }
            if !peer.linked && peer.calls.len() >= DIALLING_CALLS_MAX {
                full = true;
                continue;
            }
            let slices = u64::from(peer.piece_slices(self.prior_rate)).min(u64::from(first.leading_zeros()) + 1);
            let bytes = bytes_of(u64::MAX >> (64 - slices.clamp(1, 64)), 0);
            let bytes = if chunk.len == 0 { bytes } else { bytes.min(u64::from(chunk.len)) };
            let mut takes = peer.finish_us(bytes, self.prior_rate);
            if guess {
                takes = takes.saturating_mul(100) / peer.guess_percent().max(1);
            }
            takes = takes.saturating_add(peer.price_us(takes, bytes));
            // Equal peers share: a little chance decides.
            takes += self.random.below(takes / 16 + 1);
            quickest = quickest.min(takes);
            if !self.room(peer.window(), peer.in_flight, bytes, job.want.urgency)
                || peer.calls.len() >= self.config.calls_per_peer_max
            {
                full = true;
            } else if best.is_none_or(|(other, _)| takes < other) {
                best = Some((takes, peer_id));
            }
        }
        match best {
            Some((takes, _))
                if full
                    && job.want.urgency == Urgency::Reader
                    && takes > quickest.saturating_mul(SLOW_FACTOR).saturating_add(SLOW_EXTRA_US) =>
            {
                Choice::Full
            }
            Some((takes, peer)) => {
                let guess = !chunk.holders.get(&peer).is_some_and(|holder| holder.announced);
                let bytes = bytes_of(open, chunk.len);
                let usual = self.usual_us(bytes);
                let all = self.peers.get(&peer).map_or(takes, |peer| peer.finish_us(bytes, self.prior_rate));
                let slow = all > usual;
                Choice::Ask(peer, guess, slow)
            }
            None if full => Choice::Full,
            None => Choice::Nobody(retry),
        }
    }

    /// Microseconds after which a transfer of so many bytes is slow, by what peers do here on average.
    pub(super) fn usual_us(&self, bytes: u64) -> u64 {
        SLOW_FACTOR * (RTT_USUAL_US + bytes * 1_000_000 / self.prior_rate.max(1024)) + SLOW_EXTRA_US
    }

    /// Chooses which shards shall stand in for those that cannot be had. Returns whether there are new ones.
    fn enlist(&mut self, now: Instant, job: &mut Job, locate: &mut Locates) -> bool {
        let columns = job.rebuild & job.open;
        if columns == 0 {
            return false;
        }
        let mut order: Vec<(Standing, bool, u8)> = Vec::new();
        for index in 0..job.shards() {
            let Some(id) = job.chunk(index) else { continue };
            let standing = self.standing(now, job, index, id, columns);
            // Those already asked come first, then those wanted anyway, then the others.
            let place = usize::from(index);
            let fresh = job.enlisted >> index & 1 == 0 && job.need.get(place).is_none_or(|need| need & columns == 0);
            order.push((standing, fresh, index));
            if matches!(standing, Standing::Unknown | Standing::Dead) {
                self.want_located(now, job, id, locate);
            }
        }
        let reader = job.want.urgency == Urgency::Reader;
        order.sort_by_key(|(standing, fresh, index)| {
            let rank = match standing {
                Standing::Here => 0,
                Standing::Live => 1,
                // While nobody waits: rather the end of a look-up than a peer that is slow.
                Standing::Slow => 3,
                Standing::Unknown if reader => 4,
                Standing::Unknown => 2,
                Standing::Dead => 5,
            };
            (rank, *fresh, *index)
        });
        let mut enlisted = job.enlisted;
        for (standing, _, index) in order.iter().take(usize::from(job.want.data)) {
            if matches!(standing, Standing::Here | Standing::Live | Standing::Slow) {
                enlisted |= 1 << index;
            }
        }
        let new = enlisted != job.enlisted;
        job.enlisted = enlisted;
        new
    }

    fn standing(&mut self, now: Instant, job: &Job, index: u8, id: ChunkId, columns: u64) -> Standing {
        let have = job.have.get(usize::from(index)).copied().unwrap_or(0);
        let missing = columns & !have;
        if missing == 0 {
            return Standing::Here;
        }
        let uncovered = missing & !self.covered(id);
        if uncovered == 0 {
            return Standing::Live;
        }
        match self.choose(now, job, id, uncovered) {
            Choice::Ask(_, _, true) => Standing::Slow,
            Choice::Ask(peer, ..) if self.is_on_trial(&peer) => Standing::Slow,
            Choice::Ask(..) | Choice::Full => Standing::Live,
            Choice::Nobody(_) if self.chunks.get(&id).is_none_or(|chunk| chunk.lookup.rounds == 0) => Standing::Unknown,
            Choice::Nobody(_) => Standing::Dead,
        }
    }

    fn is_on_trial(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.on_trial())
    }

    /// Whether too few shards can still be had: everyone in reach was asked, and look-ups found no more.
    fn hopeless(&self, job: &Job) -> bool {
        let (mut alive, mut lost, mut lied) = (0, false, false);
        for index in 0..job.shards() {
            let Some(chunk) = job.chunk(index).and_then(|id| self.chunks.get(&id)) else { continue };
            let have = job.have.get(usize::from(index)).copied().unwrap_or(0);
            let gone = job.open & !have != 0
                && chunk.calls.is_empty()
                && chunk.lookup.running.is_none()
                && chunk.lookup.rounds >= self.config.locate_rounds
                && chunk.holders.iter().all(|(peer, holder)| {
                    let refuses = self.peers.get(peer).is_some_and(|peer| peer.refuses().is_some());
                    let failing = refuses
                        || match holder.failed {
                            // It is there; its turn may come.
                            Some(CallFailure::Refused(Refusal::Busy | Refusal::Full)) => false,
                            _ => holder.tries >= 2,
                        };
                    holder.lacks != 0 || holder.denied || failing || self.banned.contains(peer)
                });
            alive += u32::from(!gone);
            lied |= gone && chunk.holders.keys().any(|peer| self.banned.contains(peer));
            let need = job.need.get(usize::from(index)).copied().unwrap_or(0);
            lost |= gone && need & job.open & !have != 0;
        }
        // Without any link it is we who are cut off, and that may pass; unless we cut them off ourselves.
        lost && alive < u32::from(job.want.data) && (lied || self.peers.values().any(|peer| peer.linked))
    }

    pub(super) fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Has the providers of a chunk looked up, unless that runs or ran just now; and with it, in one go, those of all shards
    /// of its stripe of which nothing is known: others will be wanted soon, or instead.
    fn want_located(&mut self, now: Instant, job: &Job, id: ChunkId, locate: &mut Locates) {
        if !self.locate_one(now, job, id, locate) {
            return;
        }
        for index in 0..job.shards() {
            let Some(id) = job.chunk(index) else { continue };
            let have = job.have.get(usize::from(index)).copied().unwrap_or(0);
            let unknown = self.chunks.get(&id).is_some_and(|chunk| {
                chunk.lookup.rounds == 0 && chunk.calls.is_empty() && !chunk.holders.values().any(|h| h.announced)
            });
            if unknown && job.open & !have != 0 {
                self.locate_one(now, job, id, locate);
            }
        }
    }

    fn locate_one(&mut self, now: Instant, job: &Job, id: ChunkId, locate: &mut Locates) -> bool {
        let timeout = self.config.locate_timeout;
        let Some(chunk) = self.chunks.get_mut(&id) else { return false };
        if let Some(since) = chunk.lookup.running {
            if now < since.after(timeout) {
                self.wake_at(since.after(timeout));
                return false;
            }
            chunk.located(now);
        }
        let next_at = chunk.lookup.next_at;
        if now < next_at {
            self.wake_at(next_at);
            return false;
        }
        chunk.lookup.running = Some(now);
        self.stats.locates += 1;
        locate.insert(id, (job.want.urgency, job.likely.clone()));
        self.wake_at(now.after(timeout));
        true
    }

    fn flush_locates(&mut self, locate: Locates) {
        for urgent in [true, false] {
            let mut chunks = Vec::new();
            let mut near: Vec<PeerId> = Vec::new();
            for (id, (urgency, likely)) in &locate {
                if (*urgency == Urgency::Reader) == urgent {
                    chunks.push(*id);
                    for peer in likely {
                        if near.len() < HOLDERS_MAX && !near.contains(peer) {
                            near.push(*peer);
                        }
                    }
                }
            }
            let near: Vec<Contact> =
                near.iter().filter_map(|peer| self.peers.get(peer)).map(|peer| peer.contact.clone()).collect();
            for chunks in chunks.chunks(IDS_MAX) {
                let (chunks, near) = (chunks.to_vec(), near.clone());
                self.actions.push_back(FetchAction::Locate { chunks, urgent, near });
            }
        }
    }
}
