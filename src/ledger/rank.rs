//! Rank: proof of work that makes an identity dear. `FORMAT.md` says how it is computed.

use crate::base::peer::PeerId;

/// Leading zero bits that count for nothing: a rank of 1 takes two million hashes on average, and each further one twice as many.
const RANK_FLOOR_BITS: u32 = 20;
const CONTEXT: &str = "tornet v1 rank of a peer";

/// Computes the ranks that nonces give one identity, and no other.
#[derive(Debug, Clone)]
pub struct Puzzle {
    key: [u8; 32],
}

impl Puzzle {
    /// The puzzle of this identity.
    pub fn of(peer: &PeerId) -> Puzzle {
        Puzzle { key: blake3::derive_key(CONTEXT, &peer.0) }
    }

    /// The rank that a nonce gives; 0 for most, and for the nonce 0.
    pub fn rank(&self, nonce: u64) -> u8 {
        if nonce == 0 {
            return 0;
        }
        let hash = blake3::keyed_hash(&self.key, &nonce.to_le_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let bits = u64::from_be_bytes([a, b, c, d, e, f, g, h]).leading_zeros();
        u8::try_from(bits.saturating_sub(RANK_FLOOR_BITS)).unwrap_or(u8::MAX)
    }

    /// The best of `count` nonces from `first` on that gives more than `rank`, with its rank.
    pub fn better(&self, first: u64, count: u64, rank: u8) -> Option<(u64, u8)> {
        let nonces = (0..count).map(|step| first.wrapping_add(step));
        let found = nonces.map(|nonce| (nonce, self.rank(nonce))).filter(|(_, found)| *found > rank);
        found.max_by_key(|(_, rank)| *rank)
    }
}

/// The rank of a peer that shows this nonce: two hashes. 0 means none.
pub fn rank(peer: &PeerId, nonce: u64) -> u8 {
    if nonce == 0 { 0 } else { Puzzle::of(peer).rank(nonce) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the format document: the first nonces of peer 22… with these ranks.
    const EXAMPLES: [(u64, u8); 2] = [(5_149_887, 1), (8_434_315, 8)];

    #[test]
    fn the_examples_of_the_format_document_hold() {
        let peer = PeerId([0x22; 32]);
        let document = include_str!("../FORMAT.md");
        for (nonce, expected) in EXAMPLES {
            assert_eq!(rank(&peer, nonce), expected);
            let text = format!("nonce {nonce} gives rank {expected}");
            assert!(document.contains(&text), "missing: {text}");
        }
    }

    #[test]
    fn a_nonce_of_one_identity_is_worth_nothing_to_others() {
        let (nonce, _) = EXAMPLES[1];
        assert!((0..100u8).all(|byte| rank(&PeerId([byte | 0x80; 32]), nonce) == 0));
        assert!(rank(&PeerId([0x22; 32]), 0) == 0);
    }

    #[test]
    fn a_search_finds_the_best_and_nothing_that_is_no_better() {
        let puzzle = Puzzle::of(&PeerId([0x22; 32]));
        let (nonce, found) = EXAMPLES[0];
        assert_eq!(puzzle.better(nonce - 1000, 2000, 0), Some((nonce, found)));
        assert_eq!(puzzle.better(nonce - 1000, 2000, found), None);
        assert_eq!(puzzle.better(u64::MAX, 2, 0), None, "it goes on at 0, which is no nonce");
    }
}
