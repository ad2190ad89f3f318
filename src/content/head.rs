//! Mutable names: a reference that stays the same while what it leads to moves.

use super::cipher::ReadKey;
use super::reference::{Kind, NodeRef, RootRef};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::digest::ChunkId;
use crate::base::head::HeadId;
use crate::base::limit::CHUNK_BYTES_MAX;
use crate::base::text::{self, TextError, TextKind};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use std::fmt;
use std::str::FromStr;

/// Length of the nonce that a sealed head begins with, bytes.
pub const NONCE_BYTES: usize = 24;
const PLAIN_BYTES: usize = 1 + 3 + 32 + 32;

/// Opens the states of a head. Not shown when it is printed for a programmer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeadKey(pub [u8; 32]);

impl fmt::Debug for HeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeadKey")
    }
}

/// What a person passes on of a mutable name: who has it can follow the head and read what it leads to, and cannot move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeadRef {
    /// The head's name.
    pub id: HeadId,
    /// What opens it.
    pub key: HeadKey,
}

/// Why a head that its owner signed could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Another key, or other bytes than were sealed.
    #[error("it was not sealed for this reference")]
    NotSealed,
    /// What was sealed is no reference that this version knows.
    #[error("what it leads to is of a kind that this version of tornet does not know: update tornet")]
    Unknown,
}

/// What can be read: a tree, or whatever a mutable name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// This tree.
    Root(RootRef),
    /// What it leads to now.
    Head(HeadRef),
}

impl FromStr for Readable {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Readable, TextError> {
        match text.parse() {
            Ok(root) => Ok(Readable::Root(root)),
            Err(TextError::IsName) => text.parse().map(Readable::Head),
            Err(error) => Err(error),
        }
    }
}

impl HeadKey {
    /// Seals where the head leads to in its state `number` (XChaCha20-Poly1305, draft-irtf-cfrg-xchacha-03): nonce, which must be random, and
    /// 84 bytes. Name and number are bound to it.
    pub fn seal(&self, id: &HeadId, number: u64, root: &RootRef, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
        let mut plain = Writer::new();
        plain.byte(match root.kind {
            Kind::File => 1,
            Kind::Directory => 2,
        });
        plain.raw(&root.node.len.to_le_bytes()[..3]);
        plain.raw(&root.node.id.0);
        plain.raw(&root.node.key.0);
        let bound = bound(id, number);
        let payload = Payload { msg: &plain.into_bytes(), aad: &bound };
        let cipher = XChaCha20Poly1305::new((&self.0).into());
        let sealed =
            cipher.encrypt(&XNonce::from(nonce), payload).expect("68 bytes are no more than the cipher can take");
        [&nonce[..], &sealed].concat()
    }

    /// Opens what `seal` made.
    pub fn open(&self, id: &HeadId, number: u64, sealed: &[u8]) -> Result<RootRef, HeadError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(HeadError::NotSealed)?;
        let bound = bound(id, number);
        let cipher = XChaCha20Poly1305::new((&self.0).into());
        let plain = cipher
            .decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &bound })
            .map_err(|_| HeadError::NotSealed)?;
        if plain.len() != PLAIN_BYTES {
            return Err(HeadError::Unknown);
        }
        root(&plain).map_err(|_| HeadError::Unknown)
    }
}

fn bound(id: &HeadId, number: u64) -> Vec<u8> {
    [&id.0[..], &number.to_le_bytes()].concat()
}

fn root(plain: &[u8]) -> Result<RootRef, DecodeError> {
    let mut from = Reader::new(plain);
    let kind = match from.byte()? {
        1 => Kind::File,
        2 => Kind::Directory,
        got => return Err(DecodeError::Unknown { what: "kind", got: u64::from(got) }),
    };
    let [low, middle, high] = from.array()?;
    let len = u32::from_le_bytes([low, middle, high, 0]);
    if len == 0 || len as usize > CHUNK_BYTES_MAX {
        return Err(DecodeError::Invalid("length"));
    }
    let node = NodeRef { id: ChunkId(from.array()?), len, key: ReadKey(from.array()?) };
    from.finish()?;
    Ok(RootRef { kind, node })
}

impl fmt::Display for HeadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::encode(TextKind::Head, &[self.id.0, self.key.0].concat()))
    }
}

impl FromStr for HeadRef {
    type Err = TextError;

    fn from_str(text: &str) -> Result<HeadRef, TextError> {
        let (found, fields) = text::decode_reference(text)?;
        if found != TextKind::Head {
            return Err(TextError::WrongKind { expected: "the reference of a name", found });
        }
        let fields: [u8; 64] = fields.try_into().map_err(|_| TextError::Fields)?;
        let (id, key) = fields.split_at(32);
        let half = |bytes: &[u8]| bytes.try_into().map_err(|_| TextError::Fields);
        Ok(HeadRef { id: HeadId(half(id)?), key: HeadKey(half(key)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> HeadRef {
        HeadRef { id: HeadId([0x11; 32]), key: HeadKey([0x22; 32]) }
    }

    fn leads_to(kind: Kind) -> RootRef {
        RootRef { kind, node: NodeRef { id: ChunkId([0x33; 32]), len: 4711, key: ReadKey([0x44; 32]) } }
    }

    #[test]
    fn the_documented_head_holds() {
        let document = include_str!("../FORMAT.md");
        assert!(document.contains(&format!("`{}`", head())), "{}", head());
        let sealed = head().key.seal(&head().id, 7, &leads_to(Kind::Directory), [0x55; NONCE_BYTES]);
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(document.contains(&format!("`{hex}`")), "{hex}");
    }

    #[test]
    fn a_head_opens_by_its_own_key_name_and_number_alone() {
        let HeadRef { id, key } = head();
        let root = leads_to(Kind::File);
        let sealed = key.seal(&id, 7, &root, [9; NONCE_BYTES]);
        assert_eq!(sealed.len(), NONCE_BYTES + PLAIN_BYTES + 16);
        assert_eq!(key.open(&id, 7, &sealed), Ok(root));
        assert_eq!(key.open(&id, 8, &sealed), Err(HeadError::NotSealed));
        assert_eq!(key.open(&HeadId([0x12; 32]), 7, &sealed), Err(HeadError::NotSealed));
        assert_eq!(HeadKey([0x23; 32]).open(&id, 7, &sealed), Err(HeadError::NotSealed));
        for place in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[place] ^= 1;
            assert_eq!(key.open(&id, 7, &bad), Err(HeadError::NotSealed), "byte {place}");
        }
        assert_eq!(key.open(&id, 7, &sealed[..20]), Err(HeadError::NotSealed));
    }

    #[test]
    fn a_reference_of_a_name_is_no_reference_of_a_tree() {
        let text = head().to_string();
        assert_eq!(text.parse::<RootRef>(), Err(TextError::IsName));
        assert_eq!(text.parse(), Ok(Readable::Head(head())));
        let root = leads_to(Kind::Directory);
        assert_eq!(root.to_string().parse(), Ok(Readable::Root(root)));
        assert_eq!("tornet1".parse::<Readable>(), Err(TextError::Checksum));
        let error = leads_to(Kind::File).to_string().parse::<HeadRef>().unwrap_err().to_string();
        assert_eq!(error, "this is a reference to a file, where the reference of a name is needed");
        let short = text::encode(TextKind::Head, &[1; 63]);
        assert_eq!(short.parse::<HeadRef>(), Err(TextError::Fields));
    }

    proptest! {
        #[test]
        fn references_of_names_come_back(id: [u8; 32], key: [u8; 32]) {
            let head = HeadRef { id: HeadId(id), key: HeadKey(key) };
            prop_assert_eq!(head.to_string().parse(), Ok(head));
            prop_assert_eq!(head.to_string().to_uppercase().parse(), Ok(head));
        }
    }
}
