//! How a mutable name is named: by a public key.

use super::digest::hex;
use super::keyspace::Key;
use std::fmt;

/// The ed25519 public key of a head, 32 bytes: who has its secret half moves the head.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeadId(pub [u8; 32]);

/// Keeps heads away from the peers whose keys they might be.
const CONTEXT: &str = "tornet v1 place of a head";

impl From<HeadId> for Key {
    fn from(head: HeadId) -> Key {
        Key(blake3::derive_key(CONTEXT, &head.0))
    }
}

impl fmt::Display for HeadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for HeadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:.8}")
    }
}
