//! Who a peer is and where it can be reached.

use super::digest::hex;
use std::cmp::Ordering;
use std::fmt;
use std::net::SocketAddr;

/// A peer's ed25519 public key, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerId(pub [u8; 32]);

impl Ord for PeerId {
    /// Byte by byte. The first eight nearly always decide, and are compared in place.
    fn cmp(&self, other: &PeerId) -> Ordering {
        let head = |peer: &PeerId| peer.0.first_chunk().map_or(0, |head| u64::from_be_bytes(*head));
        head(self).cmp(&head(other)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for PeerId {
    fn partial_cmp(&self, other: &PeerId) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl PeerId {
    /// What `Display` writes in full: 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<PeerId> {
        let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
        let bytes: Vec<u8> =
            digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
        if digits.len() != 64 { None } else { bytes.try_into().ok().map(PeerId) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_read_back_and_nothing_else_is() {
        let peer = PeerId(std::array::from_fn(|place| (place * 37) as u8));
        let text = peer.to_string();
        assert_eq!(PeerId::from_hex(&text), Some(peer));
        assert_eq!(PeerId::from_hex(&text.to_uppercase()), Some(peer));
        for bad in
            ["", &text[1..], &text[2..], &format!("{text}0"), &"+1".repeat(32), &"\u{e9}".repeat(32), &"g".repeat(64)]
        {
            assert_eq!(PeerId::from_hex(bad), None, "{bad}");
        }
    }
}
