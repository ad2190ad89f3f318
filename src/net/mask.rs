//! The mask: makes every datagram look like random bytes to whoever does not know the accepting side's public key.
//!
//! A datagram with a short header keeps its length; up to 32 bytes at its front, which hold all that QUIC leaves readable,
//! are XORed with a keystream that its last 16 bytes (the packet's tag) select. A datagram with long headers gets random
//! padding and a tag of its own over everything; that tag selects the keystream for all the rest.

use super::cid::{CID_BYTES, CidKey};
use super::primitive::same_bytes;
use crate::base::peer::PeerId;

/// Bytes at the end of a datagram that select the keystream.
pub(super) const SAMPLE_BYTES: usize = 16;
/// Shortest packet with a short header: first byte, connection id, 4 bytes of number and payload, tag.
const SHORT_BYTES_MIN: usize = 1 + CID_BYTES + 4 + SAMPLE_BYTES;
/// What a datagram with long headers grows by, besides the padding: length of the padding, tag.
pub(super) const LONG_OVERHEAD: usize = 2 + SAMPLE_BYTES;
/// Datagrams with long headers are padded to a random length up to this (IPv4 through WireGuard carries 1,372).
const PADDED_BYTES_MAX: usize = 1360;
/// Least padding: makes each datagram different, also when QUIC sends the same bytes again.
const PADDING_BYTES_MIN: usize = 8;
/// Most padding.
const PADDING_BYTES_MAX: usize = 255;

const TO_ACCEPTING: [&str; 2] = ["tornet 2026-11 link 1 mask to accepting", "tornet 2026-11 link 1 tag to accepting"];
const TO_DIALLING: [&str; 2] = ["tornet 2026-11 link 1 mask to dialling", "tornet 2026-11 link 1 tag to dialling"];

/// Masks one direction of all links that one peer accepts.
#[derive(Clone)]
pub(super) struct MaskKey {
    stream: [u8; 32],
    tag: [u8; 32],
}

/// Both directions of the links that one peer accepts.
pub(super) struct MaskKeys {
    /// What is sent to it by those who dialled.
    pub(super) to_accepting: MaskKey,
    /// What it sends to those who dialled.
    pub(super) to_dialling: MaskKey,
}

impl MaskKeys {
    pub(super) fn new(accepting: &PeerId) -> MaskKeys {
        let key = |[stream, tag]: [&str; 2]| MaskKey {
            stream: blake3::derive_key(stream, &accepting.0),
            tag: blake3::derive_key(tag, &accepting.0),
        };
        MaskKeys { to_accepting: key(TO_ACCEPTING), to_dialling: key(TO_DIALLING) }
    }
}

/// Set in the first byte of a packet with a long header.
const LONG_FORM: u8 = 0x80;
/// Set in the first byte of every packet.
const FIXED_BIT: u8 = 0x40;

/// Whether an unmasked datagram begins with a long header.
pub(super) fn is_long(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & LONG_FORM != 0)
}

/// What a datagram turned out to be under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Revealed {
    /// One packet with a short header, of one of our connections; now unmasked, of the same length.
    Short,
    /// Packets with long headers, unmasked in the first `len` bytes of the datagram.
    Long {
        /// Their length.
        len: usize,
        /// The datagram's tag, different for each datagram ever sent.
        tag: [u8; SAMPLE_BYTES],
    },
}

fn xor(bytes: &mut [u8], stream: &[u8]) {
    for (byte, mask) in bytes.iter_mut().zip(stream) {
        *byte ^= mask;
    }
}

impl MaskKey {
    /// Masks a packet with a short header in place.
    pub(super) fn hide_short(&self, datagram: &mut [u8]) {
        if let Some((body, sample)) = datagram.split_last_chunk_mut::<SAMPLE_BYTES>() {
            xor(body, blake3::keyed_hash(&self.stream, sample).as_bytes());
        }
    }

    /// Appends the masked form of a datagram with long headers to `out`, `padding` included.
    pub(super) fn hide_long_padded(&self, datagram: &[u8], padding: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(datagram);
        out.extend_from_slice(padding);
        out.extend_from_slice(&(padding.len() as u16).to_le_bytes());
        let body = out.get_mut(start..).unwrap_or_default();
        let tag = self.tag_of(body);
        self.apply_stream(&tag, body);
        out.extend_from_slice(&tag);
    }

    /// Appends the masked form of a datagram with long headers to `out`: padded at random, never twice the same bytes.
    pub(super) fn hide_long(&self, datagram: &[u8], out: &mut Vec<u8>) {
        let mut random = [0u8; PADDING_BYTES_MAX + 1];
        // Without randomness the datagram still goes out, masked, only with a padding that can be guessed.
        let _ = getrandom::fill(&mut random);
        let (choice, padding) = random.split_at(1);
        let room = PADDED_BYTES_MAX.saturating_sub(datagram.len() + LONG_OVERHEAD + PADDING_BYTES_MIN);
        let room = room.min(PADDING_BYTES_MAX - PADDING_BYTES_MIN);
        let extra = usize::from(choice.first().copied().unwrap_or(0)) * (room + 1) / 256;
        self.hide_long_padded(datagram, &padding[..PADDING_BYTES_MIN + extra], out);
    }

    /// Takes the mask off a received datagram if it was put on with this key, towards us: its packet has one of our
    /// connection ids, or its tag is right. Otherwise leaves it as it is.
    pub(super) fn reveal(&self, datagram: &mut [u8], own: &CidKey) -> Option<Revealed> {
        if datagram.len() < SHORT_BYTES_MIN {
            return None;
        }
        let (body, sample) = datagram.split_last_chunk_mut::<SAMPLE_BYTES>()?;
        let stream = blake3::keyed_hash(&self.stream, sample);
        let (head, _) = body.split_first_chunk::<{ 1 + CID_BYTES }>()?;
        let mut head = *head;
        xor(&mut head, stream.as_bytes());
        let [first, cid @ ..] = head;
        if first & FIXED_BIT == 0 {
            return None;
        }
        if first & LONG_FORM == 0 {
            if !own.knows(&cid) {
                return None;
            }
            xor(body, stream.as_bytes());
            return Some(Revealed::Short);
        }
        let tag = *sample;
        self.apply_stream(&tag, body);
        match self.checked_length(body, &tag) {
            Some(len) => Some(Revealed::Long { len, tag }),
            None => {
                self.apply_stream(&tag, body);
                None
            }
        }
    }

    /// Length of the packets in an unmasked body (packets, padding, length of the padding), if the tag is right.
    fn checked_length(&self, body: &[u8], tag: &[u8; SAMPLE_BYTES]) -> Option<usize> {
        if !same_bytes(&self.tag_of(body), tag) {
            return None;
        }
        let (rest, padding) = body.split_last_chunk::<2>()?;
        rest.len().checked_sub(usize::from(u16::from_le_bytes(*padding)))
    }

    fn tag_of(&self, body: &[u8]) -> [u8; SAMPLE_BYTES] {
        let mut tag = [0; SAMPLE_BYTES];
        blake3::Hasher::new_keyed(&self.tag).update(body).finalize_xof().fill(&mut tag);
        tag
    }

    fn apply_stream(&self, tag: &[u8; SAMPLE_BYTES], body: &mut [u8]) {
        let mut reader = blake3::Hasher::new_keyed(&self.stream).update(tag).finalize_xof();
        let mut stream = [0; 1024];
        for part in body.chunks_mut(stream.len()) {
            reader.fill(&mut stream);
            xor(part, &stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use noq_proto::ConnectionIdGenerator;
    use proptest::prelude::*;

    fn keys() -> MaskKeys {
        MaskKeys::new(&PeerId([5; 32]))
    }

    fn short(cid: &[u8], payload: &[u8]) -> Vec<u8> {
        [&[0x41][..], cid, payload].concat()
    }

    proptest! {
        #[test]
        fn short_packet_comes_back(payload in proptest::collection::vec(any::<u8>(), 20..1500)) {
            let mut own = CidKey::default();
            let keys = keys();
            let plain = short(&own.generate_cid(), &payload);
            let mut wire = plain.clone();
            keys.to_accepting.hide_short(&mut wire);
            prop_assert_eq!(keys.to_dialling.reveal(&mut wire.clone(), &own), None);
            prop_assert_eq!(MaskKeys::new(&PeerId([6; 32])).to_accepting.reveal(&mut wire.clone(), &own), None);
            prop_assert_eq!(keys.to_accepting.reveal(&mut wire, &own), Some(Revealed::Short));
            prop_assert_eq!(wire, plain);
        }

        #[test]
        fn long_datagram_comes_back(mut plain in proptest::collection::vec(any::<u8>(), 40..9000)) {
            plain[0] |= 0xc0;
            let (keys, own) = (keys(), CidKey::default());
            let mut wire = Vec::new();
            keys.to_dialling.hide_long(&plain, &mut wire);
            let untouched = wire.clone();
            prop_assert_eq!(keys.to_accepting.reveal(&mut wire, &own), None);
            prop_assert_eq!(&wire, &untouched);
            let revealed = keys.to_dialling.reveal(&mut wire, &own);
            let fits = matches!(revealed, Some(Revealed::Long { len, .. }) if len == plain.len());
            prop_assert!(fits);
            prop_assert_eq!(&wire[..plain.len()], &plain);
        }

        #[test]
        fn garbage_fits_nothing_and_stays_as_it_is(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let before = bytes.clone();
            prop_assert_eq!(keys().to_accepting.reveal(&mut bytes, &CidKey::default()), None);
            prop_assert_eq!(bytes, before);
        }

        #[test]
        fn changed_long_datagram_fits_nothing(place in 0usize..1226, bit in 0u8..8) {
            let (keys, own) = (keys(), CidKey::default());
            let mut wire = Vec::new();
            keys.to_accepting.hide_long(&[0xc3; 1200], &mut wire);
            wire[place] ^= 1 << bit;
            prop_assert_eq!(keys.to_accepting.reveal(&mut wire, &own), None);
        }
    }

    #[test]
    fn lengths_of_long_datagrams_vary_within_their_bound() {
        let keys = keys();
        let mut lengths = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let mut wire = Vec::new();
            keys.to_accepting.hide_long(&[0xc3; 1200], &mut wire);
            assert!((1226..=PADDED_BYTES_MAX).contains(&wire.len()));
            lengths.insert(wire.len());
        }
        assert!(lengths.len() > 80, "{} lengths", lengths.len());
        let mut wire = Vec::new();
        keys.to_accepting.hide_long(&[0xc3; 8952], &mut wire);
        assert_eq!(wire.len(), 8952 + LONG_OVERHEAD + PADDING_BYTES_MIN);
    }
}
