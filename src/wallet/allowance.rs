//! What the user allowed beyond the limits, once, for the sake of one tree: used for peers that refused a read of it, and no others.

use super::cap::TOPUP_MIN;
use crate::base::bitcoin::Sat;
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::digest::ChunkId;
use crate::base::limit::{ALLOWANCES_MAX, REFUSALS_MAX};
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// For so long it is remembered who refused what.
const REFUSAL_KEPT: Duration = Duration::from_secs(3600);

/// So much may be paid beyond the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Seconds since 1970 when it was given.
    pub at: u64,
    /// How much that was, fees included.
    pub given: Sat,
    /// What of it was not used yet.
    pub left: Sat,
}

impl Allowance {
    /// As it stands in the table.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.uint(self.at);
        out.uint(self.given.0);
        out.uint(self.left.0);
        out.into_bytes()
    }

    /// From the table.
    pub fn from_bytes(bytes: &[u8]) -> Result<Allowance, DecodeError> {
        let mut from = Reader::new(bytes);
        let (at, given, left) = (from.uint()?, Sat(from.uint()?), Sat(from.uint()?));
        from.finish()?;
        Ok(Allowance { at, given, left })
    }
}

/// What a payment took of an allowance: it comes back if nobody ever sees the payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// The tree that it was given for.
    pub tree: ChunkId,
    /// When it was given, and how much: one that was given anew is another.
    pub of: (u64, Sat),
    /// How much was taken.
    pub part: Sat,
}

/// All of them, each under the id of its tree's root.
#[derive(Debug, Default)]
pub(super) struct Allowances {
    all: BTreeMap<ChunkId, Allowance>,
    /// Which peers refused a read of which tree for want of credit, and when they did last.
    refused: BTreeMap<(ChunkId, PeerId), Instant>,
}

impl Allowances {
    pub(super) fn insert(&mut self, tree: ChunkId, allowance: Allowance) -> bool {
        let fits = self.all.len() < ALLOWANCES_MAX || self.all.contains_key(&tree);
        if fits {
            self.all.insert(tree, allowance);
        }
        fits
    }

    pub(super) fn get(&self, tree: &ChunkId) -> Option<&Allowance> {
        self.all.get(tree)
    }

    /// Those of which something is left.
    pub(super) fn list(&self) -> Vec<(ChunkId, Allowance)> {
        let all = self.all.iter().map(|(tree, allowance)| (*tree, *allowance));
        all.filter(|(_, allowance)| allowance.left > Sat(0)).collect()
    }

    /// Peers refused a read of a tree.
    pub(super) fn note(&mut self, now: Instant, tree: ChunkId, peers: &BTreeSet<PeerId>) {
        self.refused.retain(|_, at| at.after(REFUSAL_KEPT) > now);
        for peer in peers {
            if self.refused.len() >= REFUSALS_MAX && !self.refused.contains_key(&(tree, *peer)) {
                let oldest = self.refused.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
                oldest.map(|oldest| self.refused.remove(&oldest));
            }
            self.refused.insert((tree, *peer), now);
        }
    }

    /// Whether this peer refused a read of this tree.
    pub(super) fn has_refused(&self, tree: &ChunkId, peer: &PeerId) -> bool {
        self.refused.contains_key(&(*tree, *peer))
    }

    /// The allowances of which a payment to this peer may be made.
    pub(super) fn of(&self, now: Instant, peer: &PeerId) -> Vec<ChunkId> {
        let recent = |tree: &ChunkId| self.refused.get(&(*tree, *peer)).is_some_and(|at| at.after(REFUSAL_KEPT) > now);
        self.all.keys().filter(|tree| recent(tree)).copied().collect()
    }

    /// What is left of each.
    pub(super) fn pools(&self) -> BTreeMap<ChunkId, Sat> {
        self.all.iter().map(|(tree, allowance)| (*tree, allowance.left)).collect()
    }

    /// So much of one is left now; of one that was used, less than any payment counts as nothing. Gives what was taken of it, if anything was.
    pub(super) fn use_up(&mut self, tree: &ChunkId, left: Sat) -> Option<Drawn> {
        let allowance = self.all.get_mut(tree).filter(|allowance| allowance.left != left)?;
        let left = if left < TOPUP_MIN { Sat(0) } else { left };
        let part = Sat(allowance.left.0.saturating_sub(left.0));
        allowance.left = left;
        Some(Drawn { tree: *tree, of: (allowance.at, allowance.given), part })
    }

    /// What was taken comes back, unless the user allowed something else for the tree since. Gives whether it did.
    pub(super) fn restore(&mut self, drawn: &Drawn) -> bool {
        let (at, given) = drawn.of;
        match self.all.get_mut(&drawn.tree) {
            Some(known) if (known.at, known.given) == drawn.of => {
                known.left = Sat(known.left.0.saturating_add(drawn.part.0)).min(given);
                true
            }
            Some(_) => false,
            None => self.insert(drawn.tree, Allowance { at, given, left: drawn.part.min(given) }),
        }
    }

    /// Forgets those that are used up and of which `written` says that this is on disk.
    pub(super) fn forget_used(&mut self, written: impl Fn(&ChunkId) -> bool) {
        self.all.retain(|tree, allowance| allowance.left > Sat(0) || !written(tree));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refusals_are_bounded_and_forgotten_after_an_hour() {
        let (mut these, tree, peer) = (Allowances::default(), ChunkId([1; 32]), PeerId([7; 32]));
        assert!(these.insert(tree, Allowance { at: 1, given: Sat(5), left: Sat(5) }));
        these.note(Instant(1), tree, &BTreeSet::from([peer]));
        assert_eq!(these.of(Instant(2), &peer), [tree]);
        assert!(these.of(Instant(1).after(REFUSAL_KEPT), &peer).is_empty());
        assert!(these.of(Instant(2), &PeerId([8; 32])).is_empty());
        for number in 0..2 * REFUSALS_MAX as u64 {
            let mut bytes = [9; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            these.note(Instant(2 + number), ChunkId(bytes), &BTreeSet::from([peer]));
        }
        assert_eq!((these.refused.len(), these.has_refused(&tree, &peer)), (REFUSALS_MAX, false));
        for number in 0..2 * ALLOWANCES_MAX {
            let fits = these.insert(ChunkId([number as u8; 32]), Allowance { at: 1, given: Sat(5), left: Sat(5) });
            assert_eq!(fits, number < ALLOWANCES_MAX, "{number}");
        }
    }

    proptest! {
        #[test]
        fn allowances_come_back(at: u64, given: u64, left: u64) {
            let this = Allowance { at, given: Sat(given), left: Sat(left) };
            prop_assert_eq!(Allowance::from_bytes(&this.to_bytes()), Ok(this));
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Allowance::from_bytes(&bytes);
        }
    }
}
