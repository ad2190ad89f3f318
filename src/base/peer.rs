//! Who a peer is and where it can be reached.

use super::digest::hex;
use std::fmt;
use std::net::SocketAddr;

/// A peer's ed25519 public key, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 32]);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:.8}")
    }
}

/// A peer that we know of, with the UDP addresses at which it was last said to listen, the likeliest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Contact {
    /// Whose addresses these are.
    pub peer: PeerId,
    /// At most `limit::CONTACT_ADDRS_MAX`; may be empty for a peer known only through a link it opened.
    pub addrs: Vec<SocketAddr>,
}
