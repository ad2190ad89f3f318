//! Which of the peers that hold something for us are out of reach: known at once by what is heard anyway, without asking for a proof.

use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Holders remembered, and peers of which nothing is heard.
const HOLDERS_MAX: usize = 65_536;
const MISSING_MAX: usize = 4096;
/// A call that failed says that a peer is away when nothing has been heard of it for so long: who only restarts is often back by then.
const SILENCE_MIN: Duration = Duration::from_secs(4);
/// Who is missing is called after this, and then after twice as long each time.
const CALL_FIRST: Duration = Duration::from_secs(5);
const CALL_MAX: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Missing {
    since: Instant,
    call_at: Instant,
    pause: Duration,
    away: bool,
}

/// What is known of where holders are.
#[derive(Debug, Default)]
pub(super) struct Presence {
    holders: BTreeSet<PeerId>,
    missing: BTreeMap<PeerId, Missing>,
    /// When those of the missing that are holders are called.
    calls: BTreeSet<(Instant, PeerId)>,
    /// Holders that went away (`true`) or are back, to be told.
    changes: VecDeque<(PeerId, bool)>,
}

impl Presence {
    /// A peer is on record as a holder. Returns whether that is new.
    pub(super) fn holds(&mut self, peer: PeerId) -> bool {
        if self.holders.len() >= HOLDERS_MAX || !self.holders.insert(peer) {
            return false;
        }
        if let Some(missing) = self.missing.get(&peer) {
            self.calls.insert((missing.call_at, peer));
            if missing.away {
                self.changes.push_back((peer, true));
            }
        }
        true
    }

    pub(super) fn is_holder(&self, peer: &PeerId) -> bool {
        self.holders.contains(peer)
    }

    /// Since when nothing is heard of a peer that cannot be reached.
    pub(super) fn away(&self, peer: &PeerId) -> Option<Instant> {
        self.missing.get(peer).filter(|missing| missing.away).map(|missing| missing.since)
    }

    /// No link to a peer is open: it will be called.
    pub(super) fn unlinked(&mut self, now: Instant, peer: PeerId) {
        if self.holders.contains(&peer) {
            self.miss(now, peer);
        }
    }

    /// A peer could not be reached. Returns whether it is away from now on.
    pub(super) fn unreachable(&mut self, now: Instant, peer: PeerId) -> bool {
        self.miss(now, peer);
        let Some(missing) = self.missing.get_mut(&peer) else { return false };
        if missing.away || now.since(missing.since) < SILENCE_MIN {
            return false;
        }
        missing.away = true;
        if self.holders.contains(&peer) {
            self.changes.push_back((peer, true));
        }
        true
    }

    fn miss(&mut self, now: Instant, peer: PeerId) {
        if self.missing.len() >= MISSING_MAX && !self.missing.contains_key(&peer) {
            // Strangers first: it is holders that count.
            let spare = self.missing.iter().min_by_key(|(peer, m)| (self.holders.contains(peer), m.since));
            if let Some(spare) = spare.map(|(peer, _)| *peer) {
                self.heard(&spare);
            }
        }
        if let Entry::Vacant(place) = self.missing.entry(peer) {
            let call_at = now.after(CALL_FIRST);
            place.insert(Missing { since: now, call_at, pause: CALL_FIRST, away: false });
            if self.holders.contains(&peer) {
                self.calls.insert((call_at, peer));
            }
        }
    }

    /// A peer gave a sign of life. Returns whether it had been away.
    pub(super) fn heard(&mut self, peer: &PeerId) -> bool {
        let Some(missing) = self.missing.remove(peer) else { return false };
        self.calls.remove(&(missing.call_at, *peer));
        if missing.away && self.holders.contains(peer) {
            self.changes.push_back((*peer, false));
        }
        missing.away
    }

    /// Which holder went away or is back since the last call.
    pub(super) fn change(&mut self) -> Option<(PeerId, bool)> {
        self.changes.pop_front()
    }

    /// Whom to call now.
    pub(super) fn call(&mut self, now: Instant) -> Option<PeerId> {
        let peer = self.calls.first().filter(|(at, _)| *at <= now).map(|(_, peer)| *peer)?;
        let missing = self.missing.get_mut(&peer)?;
        self.calls.remove(&(missing.call_at, peer));
        missing.pause = (missing.pause * 2).min(CALL_MAX);
        missing.call_at = now.after(missing.pause);
        self.calls.insert((missing.call_at, peer));
        Some(peer)
    }

    /// When somebody is to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.calls.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    fn at(seconds: u64) -> Instant {
        Instant(0).after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_holder_whose_link_ended_is_away_once_a_call_fails_and_here_with_its_first_sign() {
        let mut presence = Presence::default();
        presence.unlinked(at(1), peer(1));
        assert_eq!(presence.poll_timeout(), None, "who holds nothing is not missed");
        assert!(presence.holds(peer(1)) && !presence.holds(peer(1)));
        presence.unlinked(at(10), peer(1));
        assert!(!presence.unreachable(at(12), peer(1)), "it may be restarting");
        assert_eq!((presence.away(&peer(1)), presence.call(at(14))), (None, None));
        assert_eq!((presence.call(at(15)), presence.call(at(15))), (Some(peer(1)), None));
        assert!(presence.unreachable(at(18), peer(1)) && !presence.unreachable(at(19), peer(1)));
        assert_eq!(presence.away(&peer(1)), Some(at(10)));
        assert!(presence.heard(&peer(1)) && !presence.heard(&peer(1)));
        assert_eq!(
            [presence.change(), presence.change(), presence.change()],
            [Some((peer(1), true)), Some((peer(1), false)), None]
        );
        assert_eq!((presence.away(&peer(1)), presence.poll_timeout()), (None, None));
    }

    #[test]
    fn of_strangers_nothing_is_told_until_they_turn_out_to_be_holders() {
        let mut presence = Presence::default();
        for name in [1, 2] {
            presence.unreachable(at(0), peer(name));
            assert!(presence.unreachable(at(9), peer(name)));
        }
        assert!(presence.heard(&peer(2)));
        assert_eq!((presence.change(), presence.call(at(99)), presence.poll_timeout()), (None, None, None));
        assert!(presence.holds(peer(1)) && presence.holds(peer(2)));
        assert_eq!((presence.change(), presence.change()), (Some((peer(1), true)), None));
        assert_eq!((presence.call(at(99)), presence.call(at(99))), (Some(peer(1)), None));
        assert_eq!(presence.poll_timeout(), Some(at(109)));
    }

    #[test]
    fn strangers_make_room_before_holders() {
        let mut presence = Presence::default();
        presence.holds(peer(7));
        presence.unlinked(at(0), peer(7));
        assert!(presence.unreachable(at(9), peer(7)));
        for number in 0..MISSING_MAX as u32 * 2 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            presence.unreachable(at(10), PeerId(id));
        }
        assert!(presence.missing.len() <= MISSING_MAX && presence.away(&peer(7)).is_some());
    }
}
