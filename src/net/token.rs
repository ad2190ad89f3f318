//! Tokens that prove an address without state, and the tag that proves a Retry.

use super::primitive::same_bytes;
use crate::base::peer::PeerId;
use noq_proto::crypto::{CryptoError, HandshakeTokenKey, HmacKey};
use noq_proto::{TokenLog, TokenReuseError};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

const RETRY_CONTEXT: &str = "tornet 2026-11 link 1 retry tag";

/// Tag of a Retry packet: keyed with the accepting side's public key, over the first destination connection id and the packet.
pub(super) fn retry_tag(responder: &PeerId, orig_dcid: &[u8], packet: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(RETRY_CONTEXT);
    hasher.update(&responder.0).update(&[orig_dcid.len() as u8]).update(orig_dcid);
    for part in packet {
        hasher.update(part);
    }
    let mut tag = [0; 16];
    hasher.finalize_xof().fill(&mut tag);
    tag
}

/// Seals tokens: one key for each nonce. Derived from the identity, so that tokens outlive a restart.
pub(super) struct TokenKey(pub(super) [u8; 32]);

impl TokenKey {
    fn key(&self, token_nonce: u128) -> LessSafeKey {
        let key = blake3::keyed_hash(&self.0, &token_nonce.to_le_bytes());
        LessSafeKey::new(
            UnboundKey::new(&CHACHA20_POLY1305, key.as_bytes()).expect("the cipher takes keys of 32 bytes"),
        )
    }
}

impl HandshakeTokenKey for TokenKey {
    fn seal(&self, token_nonce: u128, data: &mut Vec<u8>) -> Result<(), CryptoError> {
        // Each key seals one token.
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        self.key(token_nonce).seal_in_place_append_tag(nonce, Aad::empty(), data).map_err(|_| CryptoError)
    }

    fn open<'a>(&self, token_nonce: u128, data: &'a mut [u8]) -> Result<&'a [u8], CryptoError> {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let plain = self.key(token_nonce).open_in_place(nonce, Aad::empty(), data).map_err(|_| CryptoError)?;
        Ok(plain)
    }
}

/// Makes stateless reset tokens. They are never sent (see `cid`), but QUIC wants the key.
pub(super) struct ResetKey(pub(super) [u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = blake3::keyed_hash(&self.0, data);
        if same_bytes(expected.as_bytes(), signature) { Ok(()) } else { Err(CryptoError) }
    }
}

/// Tokens that were used are remembered in two generations of this many.
const GENERATION: usize = 16 * 1024;

/// Lets each token from an earlier connection pass once.
pub(super) struct UsedTokens(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    newer: HashSet<u128>,
    older: HashSet<u128>,
    /// A token issued before this may have been used and forgotten.
    since: Option<SystemTime>,
    /// When `newer` was begun.
    turned: Option<SystemTime>,
}

impl UsedTokens {
    /// None used yet.
    pub(super) fn new() -> UsedTokens {
        UsedTokens(Mutex::new(Generations::default()))
    }
}

impl TokenLog for UsedTokens {
    fn check_and_insert(&self, nonce: u128, issued: SystemTime, _: Duration) -> Result<(), TokenReuseError> {
        let mut log = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let log = &mut *log;
        if log.since.is_some_and(|since| issued < since) || log.older.contains(&nonce) || !log.newer.insert(nonce) {
            return Err(TokenReuseError);
        }
        if log.newer.len() >= GENERATION {
            log.older = std::mem::take(&mut log.newer);
            log.since = log.turned;
            log.turned = Some(SystemTime::now());
        }
        Ok(())
    }
}
