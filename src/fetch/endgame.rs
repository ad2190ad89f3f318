//! The end of a transfer: nobody shall be idle while another still has much to send.

use super::core::Fetch;
use super::holder::Chunk;
use super::inflight::{Manner, bytes_of};
use super::score::Peer;
use super::stripe::run_from;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::call::CallId;
use std::collections::BTreeMap;

/// A peer takes over what another would still need this much longer for (microseconds).
const GAIN_US: u64 = 30_000;
/// Calls that it takes over at once, and calls looked at for that.
const CALLS_MAX: usize = 4;
const SCAN_MAX: usize = 256;

impl Fetch {
    /// Everything wanted is on its way: peers that will soon have nothing to do take over what others would take much longer for. Answers
    /// come one after another, so that is what those were asked for last.
    pub(super) fn endgame(&mut self, now: Instant) {
        let helpers: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.linked && peer.runs_dry() && !peer.on_trial() && peer.usable(now))
            .map(|(id, _)| *id)
            .take(8)
            .collect();
        for helper in helpers {
            for _ in 0..CALLS_MAX {
                let Some((call, bytes)) = self.slowest(now, helper) else { break };
                let Some(state) = self.calls.get_mut(&call) else { break };
                state.doubled = true;
                let (chunk, remaining, pays) = (state.chunk, state.remaining, state.pays);
                if self.asked_of(helper, chunk) & remaining != 0 {
                    continue;
                }
                self.hedge_tokens -= bytes;
                self.stats.hedges += 1;
                let range = run_from(remaining, remaining, 64);
                let holders = self.chunks.get(&chunk).map(|chunk| &chunk.holders);
                let guess = !holders.and_then(|holders| holders.get(&helper)).is_some_and(|holder| holder.announced);
                self.ask(now, helper, chunk, range, Manner { guess, pays, trial: false });
            }
        }
    }

    /// The call of another peer that `helper` would bring forward most, and its bytes.
    fn slowest(&self, now: Instant, helper: PeerId) -> Option<(CallId, u64)> {
        let peer = self.peers.get(&helper)?;
        let mut ahead: BTreeMap<PeerId, u64> = BTreeMap::new();
        let mut best: Option<(u64, CallId, u64)> = None;
        for (id, call) in self.calls.iter().take(SCAN_MAX) {
            if call.cancelled || call.remaining == 0 {
                continue;
            }
            let Some(chunk) = self.chunks.get(&call.chunk) else { continue };
            let bytes = bytes_of(call.remaining, chunk.len);
            let before = ahead.entry(call.peer).or_default();
            *before += bytes;
            let holds = self.gives(helper, peer, chunk, call.remaining);
            let Some(slow) = self.peers.get(&call.peer).filter(|_| holds && !call.doubled && call.peer != helper)
            else {
                continue;
            };
            let silent = now.since(slow.progress).as_micros() as u64;
            let theirs = slow.after_us(*before, self.prior_rate).saturating_add(silent);
            let ours = peer.finish_us(bytes, self.prior_rate);
            if theirs > ours.saturating_mul(3) / 2 + GAIN_US
                && bytes <= self.hedge_tokens
                && best.is_none_or(|(gain, ..)| theirs - ours > gain)
            {
                best = Some((theirs - ours, *id, bytes));
            }
        }
        best.map(|(_, id, bytes)| (id, bytes))
    }

    /// Whether a peer holds these slices, as far as is known: by what was said, or because it held what was guessed of it.
    fn gives(&self, id: PeerId, peer: &Peer, chunk: &Chunk, slices: u64) -> bool {
        let holder = chunk.holders.get(&id);
        if holder.is_some_and(|holder| holder.lacks & slices != 0 || holder.denied) {
            return false;
        }
        let mut jobs = chunk.wants.iter().filter_map(|(want, _)| self.wants.get(want));
        holder.is_some_and(|holder| holder.announced) || peer.proven() && jobs.any(|job| job.likely.contains(&id))
    }
}
