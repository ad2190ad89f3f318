//! Packet protection: AES-256-GCM or ChaCha20-Poly1305 from `ring`, keys by a KDF from one secret for each direction.

use crate::base::peer::PeerId;
use bytes::BytesMut;
use noq_proto::PathId;
use noq_proto::crypto::{CryptoError, HeaderKey, KeyPair, Keys, PacketKey};
use ring::aead::quic::{self, HeaderProtectionKey};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

pub(super) const TAG_BYTES: usize = 16;
/// Derives the secrets of the first packets; its input is the accepting side's `PeerId` and the destination connection id.
const INITIAL_CONTEXT: &str = "tornet 2026-11 link 1 initial packets";

/// How packets are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    /// Everywhere.
    ChaCha20Poly1305,
    /// Where both processors have AES and carry-less multiplication.
    Aes256Gcm,
}

impl Suite {
    /// As sent in the second handshake message.
    pub(super) fn number(self) -> u8 {
        match self {
            Suite::ChaCha20Poly1305 => 0,
            Suite::Aes256Gcm => 1,
        }
    }

    /// As sent in the second handshake message.
    pub(super) fn from_number(number: u8) -> Option<Suite> {
        [Suite::ChaCha20Poly1305, Suite::Aes256Gcm].into_iter().find(|suite| suite.number() == number)
    }

    /// The suites that this processor runs well, one bit each: what the first handshake message offers.
    pub(super) fn offered() -> u8 {
        let plain = 1 << Suite::ChaCha20Poly1305.number();
        if aes_in_hardware() { plain | 1 << Suite::Aes256Gcm.number() } else { plain }
    }

    /// The best suite of both sides' offers. Unknown bits are left to later versions.
    pub(super) fn choose(ours: u8, theirs: u8) -> Option<Suite> {
        [Suite::Aes256Gcm, Suite::ChaCha20Poly1305].into_iter().find(|suite| ours & theirs & 1 << suite.number() != 0)
    }

    fn aead(self) -> &'static aead::Algorithm {
        match self {
            Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
            Suite::Aes256Gcm => &aead::AES_256_GCM,
        }
    }

    fn header(self) -> &'static quic::Algorithm {
        match self {
            Suite::ChaCha20Poly1305 => &quic::CHACHA20,
            Suite::Aes256Gcm => &quic::AES_256,
        }
    }
}

fn aes_in_hardware() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// Bytes of `N` from a secret: BLAKE3 keyed with it over the label.
pub(super) fn expand<const N: usize>(secret: &[u8; 32], label: &str) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    blake3::Hasher::new_keyed(secret).update(label.as_bytes()).finalize_xof().fill(&mut *out);
    out
}

/// Packet protection of one direction.
pub(super) struct Packets {
    key: LessSafeKey,
    iv: [u8; 12],
    suite: Suite,
}

impl Packets {
    pub(super) fn new(suite: Suite, secret: &[u8; 32]) -> Packets {
        let key =
            UnboundKey::new(suite.aead(), &*expand::<32>(secret, "key")).expect("both suites have keys of 32 bytes");
        Packets { key: LessSafeKey::new(key), iv: *expand::<12>(secret, "iv"), suite }
    }

    /// The packet number is used once under one key; multipath, where the path would have to go in too, is never negotiated.
    fn nonce(&self, packet: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(packet.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl PacketKey for Packets {
    fn encrypt(&self, path_id: PathId, packet: u64, buf: &mut [u8], header_len: usize) {
        debug_assert_eq!(path_id, PathId::ZERO);
        let (header, body) = buf.split_at_mut(header_len);
        let (payload, tag_place) = body.split_at_mut(body.len() - TAG_BYTES);
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(packet), Aad::from(&*header), payload)
            .expect("a datagram is far below the length limit of the cipher");
        tag_place.copy_from_slice(tag.as_ref());
    }

    fn decrypt(&self, _path_id: PathId, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let plain =
            self.key.open_in_place(self.nonce(packet), Aad::from(header), payload).map_err(|_| CryptoError)?.len();
        payload.truncate(plain);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    /// RFC 9001, section 6.6.
    fn confidentiality_limit(&self) -> u64 {
        match self.suite {
            Suite::Aes256Gcm => 1 << 23,
            Suite::ChaCha20Poly1305 => u64::MAX,
        }
    }

    /// RFC 9001, section 6.6.
    fn integrity_limit(&self) -> u64 {
        match self.suite {
            Suite::Aes256Gcm => 1 << 52,
            Suite::ChaCha20Poly1305 => 1 << 36,
        }
    }
}

/// Header protection of one direction, as in QUIC: hides the packet number from those who could take the mask off.
struct Headers(HeaderProtectionKey);

impl Headers {
    fn new(suite: Suite, secret: &[u8; 32]) -> Headers {
        let key = HeaderProtectionKey::new(suite.header(), &*expand::<32>(secret, "header"));
        Headers(key.expect("both suites have keys of 32 bytes"))
    }

    /// `decrypting` decides whether the length of the packet number stands readable before or after.
    fn apply(&self, pn_offset: usize, packet: &mut [u8], decrypting: bool) {
        let (header, sample) = packet.split_at_mut(pn_offset + 4);
        let mask = self.0.new_mask(&sample[..16]).expect("the sample has 16 bytes");
        let first_bits = if header[0] & 0x80 != 0 { 0x0f } else { 0x1f };
        let before = header[0];
        header[0] ^= mask[0] & first_bits;
        let plain_first = if decrypting { header[0] } else { before };
        let pn_len = usize::from(plain_first & 3) + 1;
        for (byte, mask) in header[pn_offset..].iter_mut().take(pn_len).zip(&mask[1..]) {
            *byte ^= mask;
        }
    }
}

impl HeaderKey for Headers {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.apply(pn_offset, packet, true);
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.apply(pn_offset, packet, false);
    }

    fn sample_size(&self) -> usize {
        16
    }
}

/// Keys for one encryption level, seen from the side that sends under `local`.
pub(super) fn keys(suite: Suite, local: &[u8; 32], remote: &[u8; 32]) -> Keys {
    Keys {
        header: KeyPair { local: Box::new(Headers::new(suite, local)), remote: Box::new(Headers::new(suite, remote)) },
        packet: KeyPair { local: Box::new(Packets::new(suite, local)), remote: Box::new(Packets::new(suite, remote)) },
    }
}

type Secret = Zeroizing<[u8; 32]>;

/// Secrets of the dialling and of the accepting side's first packets.
pub(super) fn initial_secrets(responder: &PeerId, dcid: &[u8]) -> (Secret, Secret) {
    let mut hasher = blake3::Hasher::new_derive_key(INITIAL_CONTEXT);
    let secret = *hasher.update(&responder.0).update(dcid).finalize().as_bytes();
    (expand(&secret, "initiator"), expand(&secret, "responder"))
}

/// Keys of the first packets of either side: nobody reads them who does not know whom the dialler calls.
pub(super) fn initial_keys(responder: &PeerId, dcid: &[u8], initiating: bool) -> Keys {
    let (initiator, responder) = initial_secrets(responder, dcid);
    let (local, remote) = if initiating { (&initiator, &responder) } else { (&responder, &initiator) };
    keys(Suite::ChaCha20Poly1305, local, remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_round_trip_and_refuse_any_change() {
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let ours = keys(suite, &[1; 32], &[2; 32]);
            let theirs = keys(suite, &[2; 32], &[1; 32]);
            let mut packet: Vec<u8> = (0..100).collect();
            packet[0] = 0x43;
            let plain = packet.clone();
            ours.packet.local.encrypt(PathId::ZERO, 77, &mut packet, 13);
            ours.header.local.encrypt(9, &mut packet);
            assert_ne!(packet[..13], plain[..13]);
            theirs.header.remote.decrypt(9, &mut packet);
            assert_eq!(packet[..13], plain[..13]);
            let open = |packet: &[u8], number| {
                let mut payload = BytesMut::from(&packet[13..]);
                theirs.packet.remote.decrypt(PathId::ZERO, number, &packet[..13], &mut payload).ok().map(|()| payload)
            };
            assert_eq!(open(&packet, 77).unwrap(), &plain[13..84]);
            assert!(open(&packet, 78).is_none());
            for place in 0..packet.len() {
                let mut bad = packet.clone();
                bad[place] ^= 4;
                assert!(open(&bad, 77).is_none(), "byte {place}");
            }
        }
    }

    #[test]
    fn suite_is_the_best_of_both() {
        assert_eq!(Suite::choose(3, 3), Some(Suite::Aes256Gcm));
        assert_eq!(Suite::choose(1, 3), Some(Suite::ChaCha20Poly1305));
        assert_eq!(Suite::choose(3, 0xfd), Some(Suite::ChaCha20Poly1305));
        assert_eq!(Suite::choose(3, 0xfc), None);
        assert_ne!(Suite::offered() & 1, 0);
        assert_eq!(Suite::from_number(9), None);
    }
}
