//! The handshake `Noise_IK_25519_ChaChaPoly_BLAKE3`: two messages, after which both sides know each other and share secrets.

use super::identity::{Identity, agreement_public};
use super::packet::Suite;
use super::primitive::Primitives;
use crate::base::peer::PeerId;
use snow::params::HandshakeModifierList;
use snow::params::{BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HandshakePattern, HashChoice, NoiseParams};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

const NAME: &str = "Noise_IK_25519_ChaChaPoly_BLAKE3";
/// First part of the prologue; the QUIC version number and the responder's `PeerId` follow.
const PROLOGUE: &[u8] = b"tornet link 1";
/// A handshake message without its length.
pub(super) const MESSAGE_BYTES_MAX: usize = 2048;
/// Of the first message: ephemeral key, static key and its tag, tag of the payload.
const FIRST_OVERHEAD: usize = 32 + 32 + 16 + 16;
/// Of the second message: ephemeral key, tag of the payload.
const SECOND_OVERHEAD: usize = 32 + 16;

/// Why a handshake ended. The peer is told no more than that it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The peer's public key is not one.
    #[error("not a public key")]
    Key,
    /// A message was not made for this handshake, or was changed on the way.
    #[error("message does not authenticate")]
    Message,
    /// The claimed `PeerId` does not belong to the key that was proved.
    #[error("claimed identity does not match the key")]
    Identity,
    /// The payload is malformed.
    #[error("malformed payload")]
    Payload,
    /// No cipher in common.
    #[error("no cipher in common")]
    Suite,
    /// More than a handshake holds.
    #[error("message too long")]
    Long,
}

/// What both sides hold when the handshake is over: one secret for each direction.
pub(super) struct Secrets {
    /// Protects what the initiator sends.
    pub(super) initiator: Zeroizing<[u8; 32]>,
    /// Protects what the responder sends.
    pub(super) responder: Zeroizing<[u8; 32]>,
}

/// A handshake under way.
pub(super) struct Handshake {
    state: Box<HandshakeState>,
}

fn start(
    identity: &Identity,
    version: u32,
    responder: &PeerId,
    remote: Option<&[u8; 32]>,
) -> Result<Handshake, snow::Error> {
    let params = NoiseParams::new(
        NAME.to_owned(),
        BaseChoice::Noise,
        HandshakeChoice { pattern: HandshakePattern::IK, modifiers: HandshakeModifierList { list: Vec::new() } },
        DHChoice::Curve25519,
        CipherChoice::ChaChaPoly,
        HashChoice::Blake2s,
    );
    let prologue = [PROLOGUE, &version.to_be_bytes(), &responder.0].concat();
    let secret = identity.agreement_secret();
    let builder =
        Builder::with_resolver(params, Box::new(Primitives)).prologue(&prologue)?.local_private_key(&*secret)?;
    let state = match remote {
        Some(remote) => builder.remote_public_key(remote)?.build_initiator()?,
        None => builder.build_responder()?,
    };
    Ok(Handshake { state: Box::new(state) })
}

impl Handshake {
    /// The dialling side.
    pub(super) fn initiate(identity: &Identity, version: u32, responder: &PeerId) -> Result<Handshake, HandshakeError> {
        let remote = agreement_public(responder).ok_or(HandshakeError::Key)?;
        start(identity, version, responder, Some(&remote)).map_err(|_| HandshakeError::Key)
    }

    /// The accepting side.
    pub(super) fn respond(identity: &Identity, version: u32) -> Result<Handshake, HandshakeError> {
        start(identity, version, &identity.peer(), None).map_err(|_| HandshakeError::Key)
    }

    fn write(&mut self, payload: &[u8], overhead: usize) -> Result<Vec<u8>, HandshakeError> {
        let mut message = vec![0; payload.len() + overhead];
        let used = self.state.write_message(payload, &mut message).map_err(|_| HandshakeError::Message)?;
        message.truncate(used);
        Ok(message)
    }

    fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut payload = vec![0; message.len()];
        let used = self.state.read_message(message, &mut payload).map_err(|_| HandshakeError::Message)?;
        payload.truncate(used);
        Ok(payload)
    }

    /// First message: who dials, the suites it can use, its transport parameters.
    pub(super) fn write_first(&mut self, peer: &PeerId, suites: u8, params: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        self.write(&[&peer.0[..], &[suites], params].concat(), FIRST_OVERHEAD)
    }

    /// Who dialled, the suites it can use, its transport parameters.
    pub(super) fn read_first(&mut self, message: &[u8]) -> Result<(PeerId, u8, Vec<u8>), HandshakeError> {
        let payload = self.read(message)?;
        let (peer, rest) = payload.split_first_chunk::<32>().ok_or(HandshakeError::Payload)?;
        let (suites, params) = rest.split_first().ok_or(HandshakeError::Payload)?;
        let peer = PeerId(*peer);
        // Noise proved the x25519 key; the ed25519 key is believed only if it maps to that.
        let proved = self.state.get_remote_static().ok_or(HandshakeError::Identity)?;
        if agreement_public(&peer).is_none_or(|claimed| claimed != proved) {
            return Err(HandshakeError::Identity);
        }
        Ok((peer, *suites, params.to_vec()))
    }

    /// Second message: the chosen suite, the accepting side's transport parameters.
    pub(super) fn write_second(&mut self, suite: Suite, params: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        self.write(&[&[suite.number()], params].concat(), SECOND_OVERHEAD)
    }

    /// The chosen suite and the accepting side's transport parameters.
    pub(super) fn read_second(&mut self, message: &[u8]) -> Result<(Suite, Vec<u8>), HandshakeError> {
        let payload = self.read(message)?;
        let (suite, params) = payload.split_first().ok_or(HandshakeError::Payload)?;
        Ok((Suite::from_number(*suite).ok_or(HandshakeError::Suite)?, params.to_vec()))
    }

    /// The secrets, after both messages. They depend on every byte that was exchanged.
    pub(super) fn finish(&mut self) -> Secrets {
        let (initiator, responder) = self.state.dangerously_get_raw_split();
        let (initiator, responder) = (Zeroizing::new(initiator), Zeroizing::new(responder));
        let transcript = self.state.get_handshake_hash();
        let bind = |key: &[u8; 32]| Zeroizing::new(*blake3::keyed_hash(key, transcript).as_bytes());
        Secrets { initiator: bind(&initiator), responder: bind(&responder) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Identity, Identity) {
        (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]))
    }

    #[test]
    fn both_sides_know_each_other_and_share_secrets() {
        let (alice, bob) = pair();
        let mut dialling = Handshake::initiate(&alice, 1, &bob.peer()).unwrap();
        let mut accepting = Handshake::respond(&bob, 1).unwrap();
        let first = dialling.write_first(&alice.peer(), 3, b"parameters").unwrap();
        assert_eq!(accepting.read_first(&first), Ok((alice.peer(), 3, b"parameters".to_vec())));
        let second = accepting.write_second(Suite::Aes256Gcm, b"others").unwrap();
        assert_eq!(dialling.read_second(&second), Ok((Suite::Aes256Gcm, b"others".to_vec())));
        let (ours, theirs) = (dialling.finish(), accepting.finish());
        assert_eq!(ours.initiator, theirs.initiator);
        assert_eq!(ours.responder, theirs.responder);
        assert_ne!(ours.initiator, ours.responder);
    }

    #[test]
    fn first_message_for_another_peer_or_version_is_refused() {
        let (alice, bob) = pair();
        let other = Identity::from_seed(&[3; 32]);
        for (responder, version) in [(other.peer(), 1), (bob.peer(), 2)] {
            let mut dialling = Handshake::initiate(&alice, version, &responder).unwrap();
            let first = dialling.write_first(&alice.peer(), 3, b"").unwrap();
            let mut accepting = Handshake::respond(&bob, 1).unwrap();
            assert_eq!(accepting.read_first(&first), Err(HandshakeError::Message));
        }
    }

    #[test]
    fn borrowed_identity_is_refused() {
        let (alice, bob) = pair();
        let mut dialling = Handshake::initiate(&alice, 1, &bob.peer()).unwrap();
        let victim = Identity::from_seed(&[9; 32]).peer();
        let first = dialling.write_first(&victim, 3, b"").unwrap();
        let mut accepting = Handshake::respond(&bob, 1).unwrap();
        assert_eq!(accepting.read_first(&first), Err(HandshakeError::Identity));
    }

    #[test]
    fn any_changed_byte_of_a_message_is_refused() {
        let (alice, bob) = pair();
        let mut dialling = Handshake::initiate(&alice, 1, &bob.peer()).unwrap();
        let first = dialling.write_first(&alice.peer(), 3, b"parameters").unwrap();
        for place in 0..first.len() {
            let mut bad = first.clone();
            bad[place] ^= 0x10;
            assert!(Handshake::respond(&bob, 1).unwrap().read_first(&bad).is_err(), "byte {place}");
        }
        for length in 0..first.len() {
            assert!(Handshake::respond(&bob, 1).unwrap().read_first(&first[..length]).is_err());
        }
    }

    #[test]
    fn small_order_point_is_refused() {
        let (_, bob) = pair();
        let mut zero = vec![0u8; 32 + 48 + 16 + 64];
        assert!(Handshake::respond(&bob, 1).unwrap().read_first(&zero).is_err());
        zero[0] = 1;
        assert!(Handshake::respond(&bob, 1).unwrap().read_first(&zero).is_err());
        assert!(matches!(Handshake::initiate(&bob, 1, &PeerId([0; 32])), Err(HandshakeError::Key)));
    }
}
