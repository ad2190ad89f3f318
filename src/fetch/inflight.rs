//! Requests in flight: what comes, what ends, what is late, what has stalled.

use super::core::{Fetch, FetchAction, Timer};
use super::holder::Call;
use super::stripe::slices_of;
use super::want::{Urgency, WantFailureKind};
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::peer::PeerId;
use crate::base::range::{SliceRange, slice_count};
use crate::base::time::Instant;
use crate::wire::call::{Answer, CallId};
use crate::wire::message::{CallFailure, Fetch as FetchRequest, Refusal, Response};
use std::time::Duration;

/// Bytes delivered before pending wants are looked at again.
const FREED_BYTES: u64 = 128 << 10;
/// Most that may be saved up for hedges.
const HEDGE_TOKENS_MAX: u64 = 8 << 20;
/// How long after it became late a request waits for the means to ask others.
const THRIFT_MAX: Duration = Duration::from_millis(500);
/// What nobody waits for is late this much later.
const LATE_EXTRA: Duration = Duration::from_millis(300);
/// Longer answers tell of more than one round trip: a link sends no more than some tens of kilobytes at first.
const RTT_BYTES_MAX: u64 = 64 << 10;
/// After a failure of our own store.
const STORE_PAUSE: Duration = Duration::from_millis(200);
/// How long after its deadline a call's end is waited for.
const CALL_GRACE: Duration = Duration::from_secs(2);

const UNREACHABLE_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const TIMEOUT_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const LINK_LOST_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const CREDIT_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const BUSY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Bytes of these slices of a chunk of `len` bytes (0: not known).
pub(super) fn bytes_of(slices: u64, len: u32) -> u64 {
    let whole = u64::from(slices.count_ones()) * SLICE_BYTES as u64;
    let last = slice_count(len);
    let short = u64::from(last) * SLICE_BYTES as u64 - u64::from(len).min(u64::from(last) * SLICE_BYTES as u64);
    let has_last = (1..=64).contains(&last) && slices >> (last - 1) & 1 == 1;
    if has_last { whole.saturating_sub(short) } else { whole }
}

/// How a peer is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Nobody said that it holds the chunk.
    pub(super) guess: bool,
    /// It may cost.
    pub(super) pays: bool,
    /// It is not counted on.
    pub(super) trial: bool,
}

impl Fetch {
    /// Sends one request.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        peer_id: PeerId,
        id: ChunkId,
        slices: SliceRange,
        Manner { guess, pays, trial }: Manner,
    ) {
        let call = self.new_call();
        let len = self.chunks.get(&id).map_or(0, |chunk| chunk.len);
        let usual = Duration::from_micros(self.usual_us(bytes_of(slices.mask(), len)));
        let (Some(peer), Some(chunk)) = (self.peers.get_mut(&peer_id), self.chunks.get_mut(&id)) else { return };
        let mask = slices.mask();
        let bytes = bytes_of(mask, chunk.len);
        let alone = peer.calls.is_empty();
        if alone {
            peer.wake(now);
            self.timers.insert((now.after(peer.stall_after()), Timer::Peer(peer_id)));
        }
        let late = peer.late_after(bytes, self.prior_rate);
        let trial = trial || peer.on_trial();
        let deadline = now.after(self.config.call_timeout);
        peer.in_flight += bytes;
        peer.used = now;
        peer.calls.insert(call);
        peer.guesses += u32::from(guess);
        chunk.calls.push(call);
        self.in_flight += bytes;
        self.hedge_tokens = (self.hedge_tokens + bytes * self.config.hedge_percent / 100).min(HEDGE_TOKENS_MAX);
        let state = Call {
            peer: peer_id,
            chunk: id,
            asked: mask,
            remaining: mask,
            covers: !trial,
            cancelled: false,
            guess,
            trial,
            pays,
            owed: bytes,
            alone: alone && peer.linked,
            asked_at: now,
            progress: now,
            late_at: now.after(late),
            usual_at: now.after(usual),
            late_max: now.after(4 * late),
            ends_at: deadline.after(CALL_GRACE),
            doubled: false,
        };
        self.timers.insert((state.late_at, Timer::Call(call)));
        let whole = bytes_of(mask, 0);
        let posted = peer.price.map_or(self.config.price_max.of(whole), |price| price.of(whole));
        let ceiling = if pays { posted.min(self.config.price_max.of(whole)) } else { Msat::ZERO };
        let fetch = FetchRequest { chunk: id, slices, outline: !chunk.outline, ceiling };
        self.actions.push_back(FetchAction::Ask { call, to: peer.contact.clone(), fetch, deadline });
        self.calls.insert(call, state);
        self.stats.asks += 1;
    }

    /// More slices of a running call are in the store.
    pub fn delivered(&mut self, now: Instant, call: CallId, slices: SliceRange) {
        self.received(now, call, slices.mask());
        if self.freed >= FREED_BYTES {
            self.freed = 0;
            self.dirty = true;
        }
        self.schedule(now);
    }

    fn received(&mut self, now: Instant, call_id: CallId, slices: u64) {
        let Some(call) = self.calls.get_mut(&call_id) else { return };
        let new = call.remaining & slices;
        if new == 0 {
            return;
        }
        let (id, peer_id, first) = (call.chunk, call.peer, call.remaining == call.asked);
        call.remaining &= !new;
        call.progress = now;
        let mut guessed = false;
        let chunk = self.chunks.get(&id);
        let bytes = bytes_of(new, chunk.map_or(0, |chunk| chunk.len));
        let double = chunk.map_or(new, |chunk| if chunk.wants.is_empty() { new } else { chunk.have & new });
        self.stats.delivered_bytes += bytes;
        self.stats.double_bytes += bytes_of(double, 0);
        self.freed += bytes;
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            if call.alone && first && (bytes <= RTT_BYTES_MAX || !peer.is_timed()) {
                let carried = bytes.saturating_mul(1_000_000) / peer.rate().unwrap_or(self.prior_rate).max(1024);
                let took = now.since(call.asked_at).saturating_sub(Duration::from_micros(carried));
                peer.measured_rtt(took.max(Duration::from_micros(100)));
            }
            peer.brought(now, bytes);
            if std::mem::take(&mut call.guess) {
                peer.guesses = peer.guesses.saturating_sub(1);
                peer.guessed(true);
                guessed = true;
            }
            if !call.cancelled {
                // The last bytes take with them what a length that was not known yet made too much.
                let came = if call.remaining == 0 { call.owed } else { bytes.min(call.owed) };
                call.owed -= came;
                peer.in_flight = peer.in_flight.saturating_sub(came);
                self.in_flight = self.in_flight.saturating_sub(came);
                let left = peer.late_after(0, self.prior_rate);
                call.late_at = call.late_at.max(now.after(left)).min(call.late_max);
                if !call.covers && !call.trial && now < call.late_at {
                    // Counted on again, and late again when no more comes.
                    call.covers = true;
                    self.timers.insert((call.late_at, Timer::Call(call_id)));
                }
            }
            if let Some(rate) = peer.rate() {
                self.prior_rate = (self.prior_rate * 31 + rate) / 32;
            }
        }
        if let Some(chunk) = self.chunks.get_mut(&id) {
            chunk.outline = true;
            chunk.fresh = now;
            if guessed {
                chunk.announced(now, peer_id);
                self.dirty = true;
            }
            if let Some(holder) = chunk.holders.get_mut(&peer_id) {
                (holder.failed, holder.tries) = (None, 0);
            }
        }
        self.arrived(now, id, new, Some(peer_id));
    }

    /// Slices of a chunk are in the store: closes the wants that waited for them.
    pub(super) fn arrived(&mut self, now: Instant, id: ChunkId, slices: u64, from: Option<PeerId>) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        if chunk.wants.is_empty() {
            return;
        }
        chunk.have |= slices & slices_of(chunk.len);
        chunk.fresh = now;
        let have = chunk.have;
        let bytes = bytes_of(slices & slices_of(chunk.len), chunk.len);
        let wants = chunk.wants.clone();
        for (want, index) in wants {
            let Some(job) = self.wants.get_mut(&want) else { continue };
            job.got(index, have);
            if let Some(peer) = from {
                *job.brought.entry(peer).or_default() += bytes;
            }
            job.settle();
            if job.open == 0 {
                self.finish(now, want, None);
            }
        }
        self.cancel_unwanted(id);
    }

    /// A call has ended.
    pub fn answered(&mut self, now: Instant, call: CallId, result: &Result<Answer, CallFailure>) {
        self.ended(now, call, result);
        self.dirty = true;
        self.schedule(now);
    }

    fn ended(&mut self, now: Instant, call_id: CallId, result: &Result<Answer, CallFailure>) {
        if let Ok(Answer::Fetched { header, .. }) = result {
            let chunk = self.calls.get(&call_id).map(|call| call.chunk);
            if let Some(chunk) = chunk {
                self.prove_len(now, chunk, header.chunk_len);
            }
            self.received(now, call_id, header.slices.mask());
        }
        let Some(call) = self.drop_call(now, call_id) else { return };
        let (id, peer) = (call.chunk, call.peer);
        match result {
            Ok(Answer::Fetched { header, .. }) => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.answered(now);
                    if call.guess {
                        peer.guessed(true);
                    }
                }
                if let Some(chunk) = self.chunks.get_mut(&id) {
                    let short = call.remaining & slices_of(header.chunk_len);
                    if short != 0 {
                        chunk.lacked(now, peer, short);
                    }
                }
            }
            Ok(Answer::Message(Response::Referral { holders, .. })) => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.answered(now);
                    if call.guess {
                        peer.guessed(false);
                    }
                }
                for contact in holders {
                    self.meet(now, contact);
                }
                if let Some(chunk) = self.chunks.get_mut(&id) {
                    chunk.lacked(now, peer, call.remaining);
                    for contact in holders {
                        if contact.peer != peer && !self.banned.contains(&contact.peer) {
                            chunk.announced(now, contact.peer);
                        }
                    }
                }
            }
            Ok(Answer::Message(Response::Refused(reason))) => self.refused(now, &call, *reason),
            Ok(Answer::Message(_)) => self.blamed(&call, "an answer that does not fit the request"),
            Err(CallFailure::Refused(reason)) => self.refused(now, &call, *reason),
            Err(CallFailure::False(why)) => self.blamed(&call, why),
            Err(CallFailure::Cancelled) if call.cancelled => {}
            Err(failure @ (CallFailure::Store | CallFailure::Cancelled)) => {
                if let Some(chunk) = self.chunks.get_mut(&id) {
                    chunk.pause_until = now.after(STORE_PAUSE);
                    chunk.outline = false;
                }
                self.note_failure(&call, failure);
            }
            Err(failure) => {
                let (first, max) = match failure {
                    CallFailure::Unreachable(_) => UNREACHABLE_PAUSE,
                    CallFailure::LinkLost => LINK_LOST_PAUSE,
                    _ => TIMEOUT_PAUSE,
                };
                if let Some(peer) = self.peers.get_mut(&peer) {
                    // One event ends many calls at once: it counts once.
                    if peer.retry_at <= now {
                        peer.failed(now, first, max);
                    }
                    if !matches!(failure, CallFailure::Timeout) {
                        peer.linked = false;
                    }
                }
                self.note_failure(&call, failure);
            }
        }
    }

    fn note_failure(&mut self, call: &Call, failure: &CallFailure) {
        let Some(chunk) = self.chunks.get_mut(&call.chunk) else { return };
        if chunk.holders.len() < super::holder::HOLDERS_MAX || chunk.holders.contains_key(&call.peer) {
            let holder = chunk.holders.entry(call.peer).or_default();
            holder.failed = Some(failure.clone());
            holder.tries = holder.tries.saturating_add(1);
        }
    }

    fn refused(&mut self, now: Instant, call: &Call, reason: Refusal) {
        self.note_failure(call, &CallFailure::Refused(reason));
        let Some(peer) = self.peers.get_mut(&call.peer) else { return };
        peer.progress = now;
        match reason {
            Refusal::Busy | Refusal::Full => {
                if peer.retry_at <= now {
                    peer.failed(now, BUSY_PAUSE.0, BUSY_PAUSE.1);
                }
            }
            Refusal::CreditLimit { .. } => {
                // It serves nothing until it was served, or paid: then it does again.
                peer.broke = Some(reason);
                if peer.retry_at <= now {
                    peer.failed(now, CREDIT_PAUSE.0, CREDIT_PAUSE.1);
                }
            }
            // For nothing it is not to be had; those who pay may still ask.
            Refusal::Price if !call.pays => {}
            Refusal::Unknown | Refusal::Malformed | Refusal::Price | Refusal::Denied | Refusal::Unpaid => {
                let chunk = self.chunks.get_mut(&call.chunk);
                if let Some(holder) = chunk.and_then(|chunk| chunk.holders.get_mut(&call.peer)) {
                    holder.denied = true;
                }
            }
        }
    }

    fn blamed(&mut self, call: &Call, why: &'static str) {
        self.note_failure(call, &CallFailure::False(why));
        self.ban(call.peer, why);
    }

    /// The length of a chunk was proved. A want that claimed another one came from a lying manifest.
    fn prove_len(&mut self, now: Instant, id: ChunkId, len: u32) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        if chunk.len_proved {
            return;
        }
        (chunk.len, chunk.len_proved) = (len, true);
        for (want, index) in chunk.wants.clone() {
            let Some(job) = self.wants.get_mut(&want) else { continue };
            if job.want.chunk_len == 0 {
                job.cut(index, len);
                job.settle();
                if job.open == 0 {
                    self.finish(now, want, None);
                }
            } else if job.want.chunk_len != len {
                self.finish(now, want, Some(Some(WantFailureKind::Damaged)));
            }
        }
    }

    /// Takes a call off all books.
    fn drop_call(&mut self, now: Instant, id: CallId) -> Option<Call> {
        self.take_back(id);
        let call = self.calls.remove(&id)?;
        if let Some(peer) = self.peers.get_mut(&call.peer) {
            peer.calls.remove(&id);
            peer.guesses = peer.guesses.saturating_sub(u32::from(call.guess));
            if peer.calls.is_empty() {
                peer.idle(now);
            }
        }
        if let Some(chunk) = self.chunks.get_mut(&call.chunk) {
            chunk.calls.retain(|other| *other != id);
            if !call.cancelled {
                self.reopen(call.chunk);
            }
        }
        Some(call)
    }

    /// What a call still owes is no longer counted as in flight.
    fn take_back(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.cancelled {
            return;
        }
        let bytes = std::mem::take(&mut call.owed);
        self.in_flight = self.in_flight.saturating_sub(bytes);
        if let Some(peer) = self.peers.get_mut(&call.peer) {
            peer.in_flight = peer.in_flight.saturating_sub(bytes);
        }
    }

    /// The wants of a chunk may have slices again that nothing covers.
    fn reopen(&mut self, id: ChunkId) {
        let Some(chunk) = self.chunks.get(&id) else { return };
        for (want, _) in &chunk.wants {
            if let Some(job) = self.wants.get(want) {
                self.pending.insert((job.want.urgency, job.seq, job.id));
            }
        }
        self.dirty = true;
    }

    pub(super) fn cancel(&mut self, id: CallId) {
        self.take_back(id);
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.cancelled {
            return;
        }
        (call.cancelled, call.covers) = (true, false);
        let chunk = call.chunk;
        if let Some(chunk) = self.chunks.get_mut(&chunk) {
            chunk.calls.retain(|other| *other != id);
        }
        self.actions.push_back(FetchAction::Cancel { call: id });
        self.reopen(chunk);
    }

    /// Cancels the calls of a chunk that bring nothing which is wanted.
    pub(super) fn cancel_unwanted(&mut self, id: ChunkId) {
        let Some(chunk) = self.chunks.get(&id) else { return };
        if chunk.calls.is_empty() {
            return;
        }
        let wanted = self.wanted_of(id);
        let calls: Vec<CallId> = chunk.calls.clone();
        for call in calls {
            let idle = |call: &Call| !call.trial && call.remaining != 0 && call.remaining & wanted == 0;
            if self.calls.get(&call).is_some_and(idle) {
                self.cancel(call);
                self.freed = self.freed.saturating_add(FREED_BYTES);
                self.dirty = true;
            }
        }
    }

    /// Slices of a chunk that any want waits for.
    pub(super) fn wanted_of(&self, id: ChunkId) -> u64 {
        let wants = self.chunks.get(&id).map_or(&[][..], |chunk| &chunk.wants);
        wants.iter().filter_map(|(want, index)| Some(self.wants.get(want)?.wanted(*index))).fold(0, |a, b| a | b)
    }

    /// Slices of a chunk that are on their way.
    pub(super) fn covered(&self, id: ChunkId) -> u64 {
        let calls = self.chunks.get(&id).map_or(&[][..], |chunk| &chunk.calls);
        let live = calls.iter().filter_map(|call| self.calls.get(call)).filter(|call| call.covers);
        live.fold(0, |all, call| all | call.remaining)
    }

    /// A call no longer counts as on its way.
    pub(super) fn uncover(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.covers {
            call.covers = false;
            let chunk = call.chunk;
            self.reopen(chunk);
        }
    }

    /// The most urgent want that waits for this call.
    fn urgency_of(&self, call: &Call) -> Option<Urgency> {
        let wants = self.chunks.get(&call.chunk).map_or(&[][..], |chunk| &chunk.wants);
        let jobs = wants.iter().filter_map(|(want, index)| Some((self.wants.get(want)?, *index)));
        jobs.filter(|(job, index)| job.wanted(*index) & call.remaining != 0).map(|(job, _)| job.want.urgency).min()
    }

    /// A call's timer has come.
    pub(super) fn check_call(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get(&id) else { return };
        if now >= call.ends_at {
            self.ended(now, id, &Err(CallFailure::Timeout));
            self.dirty = true;
            return;
        }
        let end = (call.ends_at, Timer::Call(id));
        if call.cancelled || !call.covers {
            self.timers.insert(end);
            return;
        }
        let late_at = match self.urgency_of(call) {
            Some(Urgency::Reader) => call.late_at,
            Some(Urgency::Ahead | Urgency::Bulk | Urgency::Host) => {
                call.late_at.after(call.late_at.since(call.asked_at)).after(LATE_EXTRA).min(call.usual_at)
            }
            None => call.ends_at,
        };
        if now < late_at {
            self.timers.insert((late_at.min(call.ends_at), Timer::Call(id)));
            return;
        }
        let len = self.chunks.get(&call.chunk).map_or(0, |chunk| chunk.len);
        let cost = bytes_of(call.remaining, len);
        // Thrift has an end, too: what is far too late is asked of others whatever it costs.
        if self.hedge_tokens < cost && now < late_at.after(THRIFT_MAX) {
            self.timers.insert((now.after(Duration::from_millis(100)).min(call.ends_at), Timer::Call(id)));
            return;
        }
        self.hedge_tokens = self.hedge_tokens.saturating_sub(cost);
        self.timers.insert(end);
        let (peer, progress) = (call.peer, call.progress);
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.was_late(peer.progress <= progress);
        }
        self.uncover(id);
    }

    /// A peer's timer has come: does it owe bytes and send none?
    pub(super) fn check_peer(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.calls.is_empty() {
            return;
        }
        let stall_at = peer.progress.after(peer.stall_after());
        if now < stall_at {
            self.timers.insert((stall_at, Timer::Peer(id)));
            return;
        }
        let owes = peer.calls.iter().any(|call| self.calls.get(call).is_some_and(|call| !call.cancelled));
        if owes {
            peer.stall(now);
        }
        self.timers.insert((now.after(peer.stall_after()), Timer::Peer(id)));
        if owes {
            let calls: Vec<CallId> = peer.calls.iter().copied().collect();
            for call in calls {
                self.uncover(call);
            }
        }
    }
}
