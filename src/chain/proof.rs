//! Proof that a block holds a transaction, as servers give it that know transactions by address: the hashes beside the way from the
//! transaction up to the root that stands in the block's header.

use bdk_wallet::bitcoin::hashes::{Hash, HashEngine, sha256d};
use bdk_wallet::bitcoin::{TxMerkleNode, Txid};

/// Longer ways no block has: it would hold a thousand times as many transactions as fit into one.
const WAY_MAX: usize = 24;

/// What a server shows.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    /// Which transaction of its block it is.
    pub(super) position: u64,
    /// From the transaction up.
    pub(super) beside: Vec<TxMerkleNode>,
}

impl Proof {
    /// Whether it shows that a block with this root holds the transaction.
    pub(super) fn shows(&self, txid: Txid, root: TxMerkleNode) -> bool {
        if self.beside.len() > WAY_MAX || self.position >> self.beside.len() != 0 {
            return false;
        }
        let mut found = txid.to_raw_hash();
        for (level, beside) in self.beside.iter().enumerate() {
            let beside = beside.to_raw_hash();
            let right = (self.position >> level) & 1 == 1;
            let (left, right) = if right { (beside, found) } else { (found, beside) };
            let mut engine = sha256d::Hash::engine();
            engine.input(left.as_byte_array());
            engine.input(right.as_byte_array());
            found = sha256d::Hash::from_engine(engine);
        }
        found == root.to_raw_hash()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txid(text: &str) -> Txid {
        text.parse().unwrap()
    }

    /// Block 170 of the real network, with two transactions.
    #[test]
    fn proof_is_held_against_transaction_root_and_position() {
        let first = txid("b1fea52486ce0c62bb442b530a3f0132b826c74e473d1f2c220bfa78111c5082");
        let second = txid("f4184fc596403b9d638783cf57adfe4c75c605f6356fbc91338530e9831e9e16");
        let root: TxMerkleNode = "7dac2c5666815c17a3b36427de37bb9d2e2c5ccec3f8633eb91a4205cb4c10ff".parse().unwrap();
        let node = |txid: Txid| TxMerkleNode::from_raw_hash(txid.to_raw_hash());
        let proof = |position, beside: &[TxMerkleNode]| Proof { position, beside: beside.to_vec() };
        assert!(proof(0, &[node(second)]).shows(first, root));
        assert!(proof(1, &[node(first)]).shows(second, root));
        assert!(!proof(0, &[node(first)]).shows(second, root), "on the other side");
        assert!(!proof(1, &[node(second)]).shows(second, root), "beside itself");
        assert!(!proof(1, &[node(first)]).shows(first, root), "another transaction");
        assert!(!proof(1, &[node(first)]).shows(second, node(first)), "another root");
        assert!(!proof(3, &[node(first)]).shows(second, root), "a place that the tree does not have");
        assert!(!proof(0, &[]).shows(second, root));
        // The only one of its block is the root.
        assert!(proof(0, &[]).shows(first, node(first)));
        assert!(!proof(1, &[]).shows(first, node(first)));
        assert!(!proof(0, &[root; 80]).shows(first, root), "longer than any");
    }
}
