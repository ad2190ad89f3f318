//! What others acknowledge of a peer. Who gave nothing here yet, but something to those who gave here, is no stranger: one-hop reputation
//! (Piatek, Isdal, Krishnamurthy and Anderson, NSDI 2008). What counts through one witness is, in sum, a part of what that witness gave here
//! itself, so whoever invents witnesses gains nothing, and whoever pays for one gains less than by giving here.

use super::contribution::Contribution;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// This part of what a witness contributed counts for all those for whom it speaks.
const WITNESS_SHARE: u64 = 2;
/// This part of what is left of that counts for one of them at a time: others come later.
const STEP_SHARE: u64 = 8;
/// Peers for whom others spoke, and witnesses remembered for each: those that count least go first.
const HEARD_MAX: usize = 4_096;
const SHOWN_MAX: usize = 32;

/// What counts for a peer, and how much of what each witness ever acknowledged was counted.
#[derive(Debug, Default)]
struct Heard {
    worth: Contribution,
    counted: BTreeMap<PeerId, u64>,
}

/// All that was heard.
#[derive(Debug, Default)]
pub(super) struct Witnesses {
    heard: BTreeMap<PeerId, Heard>,
    /// What counts through each witness.
    used: BTreeMap<PeerId, Contribution>,
}

impl Witnesses {
    /// A peer shows what others ever received of it; `gave` says what a witness contributed here lately. Gives what counts newly.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        half_life: Duration,
        peer: PeerId,
        shown: &[(PeerId, u64)],
        gave: impl Fn(&PeerId) -> u64,
    ) -> u64 {
        let mut sum: u64 = 0;
        for (witness, bytes) in shown.iter().filter(|(witness, _)| *witness != peer) {
            let most = gave(witness).checked_div(WITNESS_SHARE).unwrap_or(0);
            if most == 0 {
                continue;
            }
            self.room(now, half_life, &peer);
            let heard = self.heard.entry(peer).or_default();
            let counted = heard.counted.get(witness).copied().unwrap_or(0);
            let used = self.used.entry(*witness).or_default();
            let left = most.saturating_sub(used.left(now, half_life));
            let fresh = bytes.saturating_sub(counted).min(left.checked_div(STEP_SHARE).unwrap_or(0));
            if fresh == 0 {
                continue;
            }
            used.add(now, half_life, fresh);
            heard.worth.add(now, half_life, fresh);
            heard.counted.insert(*witness, counted.saturating_add(fresh));
            if heard.counted.len() > SHOWN_MAX {
                let least = heard.counted.iter().min_by_key(|(_, counted)| **counted).map(|(witness, _)| *witness);
                least.and_then(|least| heard.counted.remove(&least));
            }
            sum = sum.saturating_add(fresh);
        }
        sum
    }

    /// What counts for a peer.
    pub(super) fn worth(&self, now: Instant, half_life: Duration, peer: &PeerId) -> u64 {
        self.heard.get(peer).map_or(0, |heard| heard.worth.left(now, half_life))
    }

    /// Room for one more.
    fn room(&mut self, now: Instant, half_life: Duration, peer: &PeerId) {
        if self.heard.len() >= HEARD_MAX && !self.heard.contains_key(peer) {
            let least = self.heard.iter().min_by_key(|(_, heard)| heard.worth.left(now, half_life));
            least.map(|(peer, _)| *peer).and_then(|least| self.heard.remove(&least));
        }
        if self.used.len() >= HEARD_MAX.saturating_mul(2) {
            self.used.retain(|_, used| used.left(now, half_life) > 0);
        }
    }
}
