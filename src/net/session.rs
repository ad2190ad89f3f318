//! The Noise handshake in the place where QUIC has TLS.

use super::identity::Identity;
use super::noise::{Handshake, HandshakeError, MESSAGE_BYTES_MAX, Secrets};
use super::packet::{self, Packets, Suite, expand};
use super::primitive::same_bytes;
use super::token::retry_tag;
use crate::base::peer::PeerId;
use noq_proto::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session, UnsupportedVersion,
};
use noq_proto::transport_parameters::TransportParameters;
use noq_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};
use std::any::Any;
use std::io::Cursor;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The only version of the link; any change of handshake, mask or framing gets another number.
pub(super) const VERSION: u32 = 0x746e_0001;
/// Each side's last handshake byte, under the handshake keys: proof that it holds them.
const CONFIRM: u8 = 1;
/// TLS alert `handshake_failure`, whose number QUIC has a place for.
const ALERT_FAILED: u8 = 40;
/// TLS alert `unexpected_message`.
const ALERT_UNEXPECTED: u8 = 10;

/// Dials one peer.
pub(super) struct Dialling {
    /// Who we are.
    pub(super) identity: Arc<Identity>,
    /// Whom we call.
    pub(super) peer: PeerId,
}

impl crypto::ClientConfig for Dialling {
    fn start_session(
        &self,
        version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        if version != VERSION {
            return Err(ConnectError::UnsupportedVersion);
        }
        let handshake = Handshake::initiate(&self.identity, version, &self.peer)
            .map_err(|error| ConnectError::InvalidServerName(error.to_string()))?;
        Ok(Box::new(NoiseSession::new(&self.identity, Some(self.peer), Some(handshake), params)))
    }
}

/// Accepts anybody who knows our public key.
pub(super) struct Accepting {
    /// Who we are.
    pub(super) identity: Arc<Identity>,
}

impl crypto::ServerConfig for Accepting {
    fn initial_keys(&self, version: u32, dst_cid: ConnectionId) -> Result<Keys, UnsupportedVersion> {
        if version != VERSION {
            return Err(UnsupportedVersion);
        }
        Ok(packet::initial_keys(&self.identity.peer(), &dst_cid, false))
    }

    fn retry_tag(&self, _version: u32, orig_dst_cid: ConnectionId, packet: &[u8]) -> [u8; 16] {
        retry_tag(&self.identity.peer(), &orig_dst_cid, &[packet])
    }

    fn start_session(&self, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let handshake = Handshake::respond(&self.identity, version).ok();
        Box::new(NoiseSession::new(&self.identity, None, handshake, params))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Dialling side: the first message is to be written.
    WriteFirst,
    /// Accepting side waits for the first message.
    ReadFirst,
    /// Dialling side waits for the second.
    ReadSecond,
    /// Accepting side: the second message is to be written, and the handshake keys taken.
    WriteSecond,
    /// Dialling side: the handshake keys are to be taken.
    HandshakeKeys,
    /// The confirmation is to be written, and the data keys taken.
    DataKeys,
    /// Waits for the other side's confirmation.
    Confirm,
    /// Both sides have shown that they hold the keys.
    Done,
    /// Nothing is accepted any more.
    Failed,
}

struct NoiseSession {
    step: Step,
    /// Who we are.
    own: PeerId,
    /// Whom we dial; on the accepting side who dialled, once that is proved.
    peer: Option<PeerId>,
    dialling: bool,
    handshake: Option<Handshake>,
    own_params: Vec<u8>,
    peer_params: Option<Vec<u8>>,
    suite: Option<Suite>,
    /// Bytes of a message that has not arrived whole.
    partial: Vec<u8>,
    secrets: Option<Secrets>,
    /// Local and remote secret of the newest data keys.
    data: Option<SecretPair>,
    exporter: Option<Zeroizing<[u8; 32]>>,
}

/// Secret of our packets and of the peer's.
type SecretPair = (Zeroizing<[u8; 32]>, Zeroizing<[u8; 32]>);

fn alert(number: u8, reason: &str) -> TransportError {
    TransportError::new(TransportErrorCode::crypto(number), reason.to_owned())
}

impl From<HandshakeError> for TransportError {
    fn from(error: HandshakeError) -> TransportError {
        // The peer learns nothing of which check it failed.
        tracing::debug!(%error, "handshake refused");
        alert(ALERT_FAILED, "handshake failed")
    }
}

impl NoiseSession {
    fn new(own: &Identity, peer: Option<PeerId>, handshake: Option<Handshake>, params: &TransportParameters) -> Self {
        let mut own_params = Vec::new();
        params.write(&mut own_params);
        let step = match (&handshake, peer) {
            (None, _) => Step::Failed,
            (Some(_), Some(_)) => Step::WriteFirst,
            (Some(_), None) => Step::ReadFirst,
        };
        NoiseSession {
            step,
            own: own.peer(),
            peer,
            dialling: peer.is_some(),
            handshake,
            own_params,
            peer_params: None,
            suite: None,
            partial: Vec::new(),
            secrets: None,
            data: None,
            exporter: None,
        }
    }

    /// The next whole message (length as u16 little-endian before it) among the bytes received, if there is one.
    fn take_message(&mut self) -> Result<Option<Vec<u8>>, HandshakeError> {
        let Some((length, rest)) = self.partial.split_first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_le_bytes(*length));
        if length > MESSAGE_BYTES_MAX {
            return Err(HandshakeError::Long);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let after = self.partial.split_off(2 + length);
        let mut message = std::mem::replace(&mut self.partial, after);
        message.drain(..2);
        Ok(Some(message))
    }

    fn read_first(&mut self, message: &[u8]) -> Result<(), HandshakeError> {
        let handshake = self.handshake.as_mut().ok_or(HandshakeError::Message)?;
        let (peer, suites, params) = handshake.read_first(message)?;
        self.suite = Some(Suite::choose(Suite::offered(), suites).ok_or(HandshakeError::Suite)?);
        self.peer = Some(peer);
        self.peer_params = Some(params);
        self.step = Step::WriteSecond;
        Ok(())
    }

    fn read_second(&mut self, message: &[u8]) -> Result<(), HandshakeError> {
        let mut handshake = self.handshake.take().ok_or(HandshakeError::Message)?;
        let (suite, params) = handshake.read_second(message)?;
        if Suite::offered() & 1 << suite.number() == 0 {
            return Err(HandshakeError::Suite);
        }
        self.suite = Some(suite);
        self.peer_params = Some(params);
        self.secrets = Some(handshake.finish());
        self.step = Step::HandshakeKeys;
        Ok(())
    }

    fn read(&mut self) -> Result<(), TransportError> {
        loop {
            match self.step {
                Step::ReadFirst => match self.take_message()? {
                    Some(message) => self.read_first(&message)?,
                    None => return Ok(()),
                },
                Step::ReadSecond => match self.take_message()? {
                    Some(message) => self.read_second(&message)?,
                    None => return Ok(()),
                },
                Step::Confirm => match self.partial.first() {
                    Some(&CONFIRM) => {
                        self.partial.remove(0);
                        self.step = Step::Done;
                    }
                    Some(_) => return Err(alert(ALERT_UNEXPECTED, "confirmation expected")),
                    None => return Ok(()),
                },
                Step::Failed => return Err(alert(ALERT_FAILED, "handshake failed")),
                _ if self.partial.is_empty() => return Ok(()),
                _ => return Err(alert(ALERT_UNEXPECTED, "no handshake bytes expected")),
            }
        }
    }

    /// Secrets of our and of the peer's packets at a level.
    fn level(&self, label: &str) -> Option<SecretPair> {
        let secrets = self.secrets.as_ref()?;
        let (initiator, responder) = (expand(&secrets.initiator, label), expand(&secrets.responder, label));
        Some(if self.dialling { (initiator, responder) } else { (responder, initiator) })
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Result<Option<Keys>, HandshakeError> {
        let mut send = |message: Vec<u8>| {
            out.extend_from_slice(&(message.len() as u16).to_le_bytes());
            out.extend_from_slice(&message);
        };
        match self.step {
            Step::WriteFirst => {
                let handshake = self.handshake.as_mut().ok_or(HandshakeError::Message)?;
                send(handshake.write_first(&self.own, Suite::offered(), &self.own_params)?);
                self.step = Step::ReadSecond;
                Ok(None)
            }
            Step::WriteSecond => {
                let mut handshake = self.handshake.take().ok_or(HandshakeError::Message)?;
                send(handshake.write_second(self.suite.ok_or(HandshakeError::Suite)?, &self.own_params)?);
                self.secrets = Some(handshake.finish());
                self.step = Step::HandshakeKeys;
                self.write(&mut Vec::new())
            }
            Step::HandshakeKeys => {
                let (local, remote) = self.level("handshake").ok_or(HandshakeError::Message)?;
                self.step = Step::DataKeys;
                Ok(Some(packet::keys(self.suite.ok_or(HandshakeError::Suite)?, &local, &remote)))
            }
            Step::DataKeys => {
                out.push(CONFIRM);
                let (local, remote) = self.level("data").ok_or(HandshakeError::Message)?;
                let keys = packet::keys(self.suite.ok_or(HandshakeError::Suite)?, &local, &remote);
                self.data = Some((local, remote));
                self.exporter = self.secrets.take().map(|secrets| expand(&secrets.responder, "export"));
                self.step = Step::Confirm;
                Ok(Some(keys))
            }
            _ => Ok(None),
        }
    }
}

impl Session for NoiseSession {
    fn initial_keys(&self, dst_cid: ConnectionId, side: Side) -> Keys {
        let responder = if self.dialling { self.peer.unwrap_or(self.own) } else { self.own };
        packet::initial_keys(&responder, &dst_cid, side == Side::Client)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    /// A `PeerId`.
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let peer = self.peer.filter(|_| !self.is_handshaking())?;
        Some(Box::new(peer))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.step != Step::Done
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.partial.extend_from_slice(buf);
        let result = self.read();
        if result.is_err() {
            self.step = Step::Failed;
            self.partial.clear();
        }
        result.map(|()| false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(bytes) = &self.peer_params else { return Ok(None) };
        let side = if self.dialling { Side::Client } else { Side::Server };
        Ok(Some(TransportParameters::read(side, &mut Cursor::new(bytes))?))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.write(buf).unwrap_or_else(|error| {
            tracing::debug!(%error, "handshake abandoned");
            self.step = Step::Failed;
            None
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let (suite, (local, remote)) = (self.suite?, self.data.as_ref()?);
        let (local, remote) = (expand(local, "next"), expand(remote, "next"));
        let pair = KeyPair {
            local: Box::new(Packets::new(suite, &local)) as Box<dyn PacketKey>,
            remote: Box::new(Packets::new(suite, &remote)) as Box<dyn PacketKey>,
        };
        self.data = Some((local, remote));
        Some(pair)
    }

    fn is_valid_retry(&self, orig_dst_cid: ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let (Some(peer), Some((token, tag))) = (self.peer, payload.split_last_chunk::<16>()) else { return false };
        same_bytes(&retry_tag(&peer, &orig_dst_cid, &[header, token]), tag)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let secret = self.exporter.as_ref().ok_or(ExportKeyingMaterialError)?;
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(&(label.len() as u64).to_le_bytes()).update(label).update(context);
        hasher.finalize_xof().fill(output);
        Ok(())
    }
}
