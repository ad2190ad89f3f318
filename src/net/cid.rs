//! Connection ids that their maker recognises.

use noq_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Length of every connection id that we make.
pub(super) const CID_BYTES: usize = 8;

/// Makes connection ids of which half is a keyed hash of the other half, so that garbage is known without a table.
/// (SipHash with a key of this process. What passes by luck or by malice fails at the packet's own tag.)
#[derive(Clone, Default)]
pub(super) struct CidKey {
    key: RandomState,
    made: u64,
}

impl CidKey {
    fn check(&self, head: [u8; 4]) -> [u8; 4] {
        (self.key.hash_one(head) as u32).to_le_bytes()
    }

    /// Whether we may have made it.
    pub(super) fn knows(&self, cid: &[u8]) -> bool {
        match cid.split_first_chunk::<4>() {
            Some((head, tail)) => self.check(*head) == *tail,
            None => false,
        }
    }
}

impl ConnectionIdGenerator for CidKey {
    fn generate_cid(&mut self) -> ConnectionId {
        self.made = self.made.wrapping_add(1);
        let head = (self.key.hash_one(self.made) as u32).to_le_bytes();
        let mut bytes = [0; CID_BYTES];
        bytes[..4].copy_from_slice(&head);
        bytes[4..].copy_from_slice(&self.check(head));
        ConnectionId::new(&bytes)
    }

    /// Refuses all: asked only when a packet belongs to no connection, and to accept means to answer with a stateless reset.
    fn validate(&self, _cid: ConnectionId) -> Result<(), InvalidCid> {
        Err(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_ids_are_known_and_others_are_not() {
        let mut key = CidKey::default();
        let cid = key.generate_cid();
        assert!(key.knows(&cid));
        for place in 0..CID_BYTES {
            let mut bad = cid.to_vec();
            bad[place] ^= 1;
            assert!(!key.knows(&bad));
        }
        assert!(!key.knows(&[]));
        assert!(!key.knows(&cid[..7]));
    }
}
