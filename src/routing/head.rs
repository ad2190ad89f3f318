//! Heads kept for others. Each was signed by its owner, which is checked before it comes here; how many anyone can make us keep is bounded, and
//! where all room is taken who has most of it makes room.

use crate::base::head::HeadId;
use crate::base::limit::{HEADS_MAX, HEADS_PER_PEER_MAX};
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::head::SignedHead;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

/// How long a head is kept that nobody tells again.
pub const HEAD_TTL: Duration = Duration::from_secs(36 * 3600);

/// How often what has expired is looked for where space is short.
const SWEEP_PERIOD: Duration = Duration::from_secs(600);
/// Heads of which the one gives way whose teller has most.
const YIELD_AMONG: usize = 64;

#[derive(Debug)]
struct Kept {
    head: SignedHead,
    /// Who told it first: it counts as his.
    by: PeerId,
    expires: Instant,
}

/// The newest state of each head that was told here.
#[derive(Debug, Default)]
pub struct Heads {
    kept: BTreeMap<HeadId, Kept>,
    peers: BTreeMap<PeerId, usize>,
    /// When to look again for what has expired.
    sweep_at: Instant,
    /// Where room was looked for last.
    yielded: Option<HeadId>,
}

impl Heads {
    /// `from` tells a state of a head. `near` is called when space is short: then only heads of our own neighbourhood are kept.
    /// Returns the newest state that is kept now; `None` when there was no room.
    pub fn told(
        &mut self,
        now: Instant,
        from: PeerId,
        head: SignedHead,
        near: impl FnOnce() -> bool,
    ) -> Option<&SignedHead> {
        let id = head.id;
        let expires = now.after(HEAD_TTL);
        if let Some(kept) = self.kept.get_mut(&id) {
            if head.replaces(&kept.head) {
                kept.head = head;
                kept.expires = expires;
            } else if head == kept.head {
                kept.expires = expires;
            }
        } else {
            if self.kept.len() >= HEADS_MAX / 2 && self.sweep_at <= now {
                self.sweep_at = now.after(SWEEP_PERIOD);
                self.expire(now);
            }
            let crowded =
                self.kept.len() >= HEADS_MAX / 2 && !near() || self.kept.len() >= HEADS_MAX && !self.make_room(&from);
            let of_peer = self.peers.entry(from).or_default();
            if crowded || *of_peer >= HEADS_PER_PEER_MAX {
                if *of_peer == 0 {
                    self.peers.remove(&from);
                }
                return None;
            }
            *of_peer += 1;
            self.kept.insert(id, Kept { head, by: from, expires });
        }
        self.kept.get(&id).map(|kept| &kept.head)
    }

    /// The newest state of a head that is known here.
    pub fn of(&self, now: Instant, id: &HeadId) -> Option<&SignedHead> {
        self.kept.get(id).filter(|kept| kept.expires > now).map(|kept| &kept.head)
    }

    /// How many heads are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Of the next heads in turn one gives way whose teller has most, if that is more than `peer` will have.
    fn make_room(&mut self, peer: &PeerId) -> bool {
        let count = |peer: &PeerId| self.peers.get(peer).copied().unwrap_or(0);
        let mine = count(peer);
        let round = self.kept.range((self.yielded.map_or(Unbounded, Excluded), Unbounded)).chain(&self.kept);
        let some: Vec<(usize, HeadId, PeerId)> =
            round.take(YIELD_AMONG).map(|(id, kept)| (count(&kept.by), *id, kept.by)).collect();
        self.yielded = some.last().map(|(_, id, _)| *id);
        let most = some.into_iter().max_by_key(|(heads, _, _)| *heads).filter(|(heads, _, _)| *heads > mine + 1);
        let Some((_, id, by)) = most else { return false };
        self.kept.remove(&id);
        if let Some(count) = self.peers.get_mut(&by) {
            *count -= 1;
        }
        true
    }

    fn expire(&mut self, now: Instant) {
        let peers = &mut self.peers;
        self.kept.retain(|_, kept| {
            let stays = kept.expires > now;
            if !stays && let Some(count) = peers.get_mut(&kept.by) {
                *count -= 1;
                if *count == 0 {
                    peers.remove(&kept.by);
                }
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(id: u32, number: u64) -> SignedHead {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&id.to_be_bytes());
        SignedHead { id: HeadId(bytes), number, sealed: vec![number as u8; 8], signature: [0; 64] }
    }

    fn peer(number: u32) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        PeerId(bytes)
    }

    #[test]
    fn the_newest_state_is_kept_whoever_tells_it_and_in_whatever_order() {
        let mut heads = Heads::default();
        let now = Instant(1);
        assert_eq!(heads.told(now, peer(1), head(1, 5), || true), Some(&head(1, 5)));
        assert_eq!(heads.told(now, peer(2), head(1, 4), || true), Some(&head(1, 5)), "an older one");
        assert_eq!(heads.told(now, peer(2), head(1, 6), || true), Some(&head(1, 6)));
        assert_eq!(heads.of(now, &head(1, 0).id), Some(&head(1, 6)));
        assert_eq!(heads.of(now, &head(2, 0).id), None);
    }

    #[test]
    fn a_head_that_nobody_tells_again_is_forgotten() {
        let mut heads = Heads::default();
        heads.told(Instant(0), peer(1), head(1, 5), || true);
        let later = Instant(0).after(HEAD_TTL / 2);
        heads.told(later, peer(2), head(1, 5), || true);
        // An older state does not keep it alive.
        let end = later.after(HEAD_TTL);
        heads.told(Instant(0).after(HEAD_TTL), peer(2), head(1, 4), || true);
        assert!(heads.of(Instant(end.0 - 1), &head(1, 0).id).is_some());
        assert!(heads.of(end, &head(1, 0).id).is_none());
    }

    #[test]
    fn nobody_takes_all_the_room_and_the_room_has_an_end() {
        let mut heads = Heads::default();
        let now = Instant(1);
        let mut kept = 0;
        for id in 0..HEADS_PER_PEER_MAX as u32 + 10 {
            kept += usize::from(heads.told(now, peer(0), head(id, 1), || true).is_some());
        }
        assert_eq!(kept, HEADS_PER_PEER_MAX);
        assert!(heads.told(now, peer(0), head(0, 2), || true).is_some(), "what is kept moves on");
        for id in 0..HEADS_MAX as u32 {
            heads.told(now, peer(1 + id / 100), head(1_000_000 + id, 1), || false);
        }
        assert_eq!(heads.len(), HEADS_MAX / 2, "half of the room is for the neighbourhood");
        for id in 0..HEADS_MAX as u32 {
            heads.told(now, peer(1_000 + id / 100), head(2_000_000 + id, 1), || true);
        }
        assert_eq!(heads.len(), HEADS_MAX);
        // Who has little is not kept out by who has more: all others have about 75 each by now.
        let more =
            (0..200).filter(|id| heads.told(now, peer(999_999), head(8_000_000 + id, 1), || true).is_some()).count();
        assert!((60..=90).contains(&more), "{more}");
        assert_eq!(heads.len(), HEADS_MAX);
        // What has expired makes room, and no longer counts as its peer's.
        let later = now.after(HEAD_TTL);
        assert!(heads.told(later, peer(0), head(7_000_000, 1), || true).is_some());
        assert_eq!((heads.len(), heads.peers.len()), (1, 1));
    }
}
