//! What is known of one chunk: who holds it, what is asked for, what came, who wants it.

use super::want::WantId;
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::call::CallId;
use crate::wire::message::CallFailure;
use std::collections::BTreeMap;
use std::time::Duration;

/// Holders remembered for one chunk.
pub(super) const HOLDERS_MAX: usize = 2 * crate::base::limit::PROVIDERS_PER_CHUNK_MAX;
/// Pause before a look-up that found nothing is repeated; doubles each time.
const LOCATE_PAUSE: Duration = Duration::from_millis(250);
/// Longest such pause.
const LOCATE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A peer that referred us elsewhere may have the chunk by now when it is announced again after this time.
const LACK_FORGOTTEN: Duration = Duration::from_secs(2);

/// One peer in relation to one chunk.
#[derive(Debug, Default)]
pub(super) struct Holder {
    /// Somebody says that it holds the chunk; else we merely guessed.
    pub(super) announced: bool,
    /// Slices that it said it does not have.
    pub(super) lacks: u64,
    lacked_at: Instant,
    /// How the last call for this chunk failed.
    pub(super) failed: Option<CallFailure>,
    /// Failed calls since the last good one.
    pub(super) tries: u8,
    /// It will not give it to us (price, credit, false data).
    pub(super) denied: bool,
}

/// State of the look-up of a chunk's providers.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// Asked for at this time and not yet ended.
    pub(super) running: Option<Instant>,
    /// How many ended.
    pub(super) rounds: u8,
    /// Not repeated before this.
    pub(super) next_at: Instant,
}

/// One chunk.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// Length in bytes; 0 when not known.
    pub(super) len: u32,
    /// The length was proved by an answer, not only claimed by a want.
    pub(super) len_proved: bool,
    /// Slices in the store, as far as wants and deliveries tell.
    pub(super) have: u64,
    /// When the last of them came.
    pub(super) fresh: Instant,
    /// The store has the outline.
    pub(super) outline: bool,
    pub(super) holders: BTreeMap<PeerId, Holder>,
    /// Calls for slices of it that were not given up.
    pub(super) calls: Vec<CallId>,
    /// Wants and the place of this chunk in each.
    pub(super) wants: Vec<(WantId, u8)>,
    pub(super) lookup: Lookup,
    /// Our own store failed: no call before this.
    pub(super) pause_until: Instant,
    /// Since when nobody wants it.
    pub(super) idle_since: Instant,
}

impl Chunk {
    /// A peer is said to hold it.
    pub(super) fn announced(&mut self, now: Instant, peer: PeerId) {
        if !self.holders.contains_key(&peer) && self.holders.len() >= HOLDERS_MAX {
            let worst = self.holders.iter().find(|(_, holder)| holder.lacks != 0 || holder.denied || holder.tries > 2);
            match worst.map(|(peer, _)| *peer) {
                Some(worst) => self.holders.remove(&worst),
                None => return,
            };
        }
        let holder = self.holders.entry(peer).or_default();
        holder.announced = true;
        if now.since(holder.lacked_at) >= LACK_FORGOTTEN {
            holder.lacks = 0;
        }
    }

    /// A peer said that it does not have these slices.
    pub(super) fn lacked(&mut self, now: Instant, peer: PeerId, slices: u64) {
        if self.holders.contains_key(&peer) || self.holders.len() < HOLDERS_MAX {
            let holder = self.holders.entry(peer).or_default();
            holder.lacks |= slices;
            holder.lacked_at = now;
        }
    }

    /// A look-up has ended; the next one waits longer.
    pub(super) fn located(&mut self, now: Instant) {
        let pause = LOCATE_PAUSE.saturating_mul(1 << self.lookup.rounds.min(8)).min(LOCATE_PAUSE_MAX);
        self.lookup.running = None;
        self.lookup.rounds = self.lookup.rounds.saturating_add(1);
        self.lookup.next_at = now.after(pause);
    }
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) peer: PeerId,
    pub(super) chunk: ChunkId,
    /// What was asked for.
    pub(super) asked: u64,
    /// What of it has not come.
    pub(super) remaining: u64,
    /// Counts as on its way; false once it is late or stalled, so that others are asked as well.
    pub(super) covers: bool,
    /// Given up; only its end is awaited.
    pub(super) cancelled: bool,
    /// Nobody said that the peer holds the chunk.
    pub(super) guess: bool,
    /// Its peer failed lately, or is still dialled while others are there: it never counts as on its way, and runs to its end to show what
    /// the peer does.
    pub(super) trial: bool,
    /// It may cost.
    pub(super) pays: bool,
    /// Bytes of `remaining` as they are counted in flight.
    pub(super) owed: u64,
    /// The peer was linked and owed nothing else: the time to the first byte is a round trip.
    pub(super) alone: bool,
    pub(super) asked_at: Instant,
    /// When bytes of it last came; or when it was asked.
    pub(super) progress: Instant,
    /// When a waiting reader goes elsewhere.
    pub(super) late_at: Instant,
    /// The latest to which deliveries can push `late_at`.
    pub(super) late_max: Instant,
    /// When it is late whatever its peer is used to take: others are faster.
    pub(super) usual_at: Instant,
    /// When the shell gives it up.
    pub(super) ends_at: Instant,
    /// An idle peer was asked for the same near the end.
    pub(super) doubled: bool,
}
