//! The two sections of a node: ids and verify keys of what stands below it, and everything else.

use super::chunk::SealedChunk;
use super::cipher::{ChunkRef, ConvergenceSecret, ReadKey, VerifyKey, keystream, measure, seal_until};
use super::erasure::{CODEC, Scheme};
use super::extent;
use super::reference::{NodeRef, VerifyNodeRef};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::digest::ChunkId;
use crate::base::limit::{CHUNK_BYTES_MAX, FILE_BYTES_MAX};
use std::collections::BTreeSet;

/// Format of nodes: the first byte of their verify sections.
const FORMAT: u8 = 1;
/// Bytes before the verify section: its length.
const HEAD_BYTES: usize = 4;

/// Why a node was refused. What it lacks or claims falsely is its maker's fault, since its bytes match its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Its bytes are not a node.
    #[error("not a valid manifest node: {0}")]
    Decode(#[from] DecodeError),
    /// Made by a newer version.
    #[error("made by a newer version of tornet (node format {0}, this one reads {FORMAT}): update tornet")]
    Newer(u8),
    /// A name that must not stand in a directory.
    #[error("the directory has a forbidden name: {0}")]
    Name(#[from] super::directory::NameError),
    /// Another kind than its parent or its reference said.
    #[error("it is {found}, where {expected} was claimed")]
    Kind {
        /// What was claimed.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// Sizes do not add up.
    #[error("its {what} is {found}, where {claimed} was claimed")]
    Claim {
        /// Of what.
        what: &'static str,
        /// What its parent, or the node itself, claims.
        claimed: u64,
        /// What was found.
        found: u64,
    },
    /// Its names lie outside the range that its parent gave it.
    #[error("its names lie outside the range that its parent claimed")]
    Range,
}

/// What a node tells to those who may only verify: which chunks stand below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifySection {
    /// Redundancy that the publisher chose: lone chunks and nodes are kept by m + 1 hosts.
    pub scheme: Scheme,
    /// Nodes below this one, in order.
    pub children: Vec<VerifyNodeRef>,
    /// Stripes of this node, in order.
    pub stripes: Vec<VerifyStripe>,
}

/// A stripe without its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyStripe {
    /// Length of each of its chunks.
    pub chunk_len: u32,
    /// How many of them are data.
    pub data: u8,
    /// Data chunks, then parity chunks; all different.
    pub ids: Vec<ChunkId>,
}

/// Chunks that are coded together and hold one extent; or one lone chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stripe {
    /// Length of each of its chunks.
    pub chunk_len: u32,
    /// Bytes of plaintext that it holds: all of its data chunks but for zeros at the end of the last.
    pub bytes: u64,
    /// Data chunks in order, at least 1.
    pub data: Vec<ChunkRef>,
    /// Parity chunks; none when there is one data chunk, which is then kept whole by m + 1 hosts.
    pub parity: Vec<ChunkId>,
}

impl Stripe {
    /// All ids: data, then parity.
    pub fn ids(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.data.iter().map(|chunk| chunk.id).chain(self.parity.iter().copied())
    }

    /// Its own code: data and parity chunks that it has.
    pub fn scheme(&self) -> Scheme {
        Scheme { k: self.data.len() as u8, m: self.parity.len() as u8 }
    }

    /// What a verifier sees of it.
    pub fn verify(&self) -> VerifyStripe {
        VerifyStripe { chunk_len: self.chunk_len, data: self.data.len() as u8, ids: self.ids().collect() }
    }
}

impl VerifySection {
    /// Opens the verify section of the node `bytes`.
    pub fn open(key: &VerifyKey, bytes: &[u8]) -> Result<VerifySection, NodeError> {
        check_len(bytes)?;
        let mut plain = bytes.to_vec();
        let end = decrypt_verify(key, &mut plain)?;
        VerifySection::decode(&plain[HEAD_BYTES..end])
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.raw(&[FORMAT, CODEC, self.scheme.k, self.scheme.m]);
        writer.uint(self.children.len() as u64);
        for child in &self.children {
            writer.raw(&child.id.0);
            writer.uint(u64::from(child.len));
            writer.raw(&child.key.0);
        }
        writer.uint(self.stripes.len() as u64);
        for stripe in &self.stripes {
            writer.uint(u64::from(stripe.chunk_len));
            writer.raw(&[stripe.data, stripe.ids.len() as u8 - stripe.data]);
            stripe.ids.iter().for_each(|id| writer.raw(&id.0));
        }
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Result<VerifySection, NodeError> {
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            FORMAT => {}
            newer if newer > FORMAT => return Err(NodeError::Newer(newer)),
            _ => return Err(DecodeError::Invalid("node format").into()),
        }
        let codec = reader.byte()?;
        if codec != CODEC {
            return Err(DecodeError::Unknown { what: "erasure code", got: u64::from(codec) }.into());
        }
        let [k, m] = reader.array()?;
        let scheme = Scheme::new(k, m).map_err(|_| DecodeError::Invalid("redundancy"))?;
        let count = reader.count("children", CHUNK_BYTES_MAX, 65)?;
        let mut children = Vec::with_capacity(count);
        for _ in 0..count {
            let id = ChunkId(reader.array()?);
            let len = chunk_len(&mut reader)?;
            children.push(VerifyNodeRef { id, len, key: VerifyKey(reader.array()?) });
        }
        let count = reader.count("stripes", CHUNK_BYTES_MAX, 35)?;
        let mut stripes = Vec::with_capacity(count);
        for _ in 0..count {
            stripes.push(VerifyStripe::decode(&mut reader, scheme)?);
        }
        reader.finish()?;
        Ok(VerifySection { scheme, children, stripes })
    }
}

impl VerifyStripe {
    fn decode(reader: &mut Reader<'_>, scheme: Scheme) -> Result<VerifyStripe, NodeError> {
        let chunk_len = chunk_len(reader)?;
        let [data, parity] = reader.array()?;
        if data == 0 || data > scheme.k || parity != extent::parity(scheme, data) {
            return Err(DecodeError::Invalid("shape of a stripe").into());
        }
        let ids =
            (0..data.saturating_add(parity)).map(|_| reader.array().map(ChunkId)).collect::<Result<Vec<_>, _>>()?;
        if ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
            return Err(DecodeError::Invalid("stripe with equal chunks").into());
        }
        Ok(VerifyStripe { chunk_len, data, ids })
    }
}

fn chunk_len(reader: &mut Reader<'_>) -> Result<u32, DecodeError> {
    match reader.uint_max("chunk length", CHUNK_BYTES_MAX as u64)? {
        0 => Err(DecodeError::Invalid("chunk length")),
        len => Ok(len as u32),
    }
}

/// Writes both sections of a node side by side.
#[derive(Debug)]
pub(crate) struct SectionWriter {
    verify: VerifySection,
    pub(crate) read: Writer,
}

impl SectionWriter {
    pub(crate) fn new(scheme: Scheme) -> SectionWriter {
        SectionWriter {
            verify: VerifySection { scheme, children: Vec::new(), stripes: Vec::new() },
            read: Writer::new(),
        }
    }

    pub(crate) fn child(&mut self, child: &NodeRef) {
        self.verify.children.push(child.verify());
        self.read.raw(&child.key.0);
    }

    pub(crate) fn stripe(&mut self, stripe: &Stripe) {
        self.verify.stripes.push(stripe.verify());
        self.read.uint(stripe.bytes);
        stripe.data.iter().for_each(|chunk| self.read.raw(&chunk.key.0));
    }

    /// Seals both. Panics when they are longer than a chunk: builders keep nodes far below.
    pub(crate) fn seal(self, secret: &ConvergenceSecret) -> (NodeRef, SealedChunk) {
        let plain = self.plain();
        assert!(plain.len() <= CHUNK_BYTES_MAX, "a node of {} bytes is longer than a chunk", plain.len());
        let base = secret.node_key(&plain);
        let start = HEAD_BYTES + verify_len(&plain).unwrap_or(0);
        let encrypt = |key: ReadKey| {
            let mut bytes = plain.clone();
            let (verify, read) = bytes.split_at_mut(start);
            keystream(&key.verify_key().0, 0, verify);
            keystream(&key.0, 0, read);
            measure(bytes)
        };
        let (_, key, chunk) = seal_until(base, 0, encrypt, |_| true);
        (NodeRef { id: chunk.id, len: chunk.outline.len, key }, chunk)
    }

    pub(crate) fn plain(self) -> Vec<u8> {
        let verify = self.verify.encode();
        let mut plain = (verify.len() as u32).to_le_bytes().to_vec();
        plain.extend_from_slice(&verify);
        plain.extend_from_slice(&self.read.into_bytes());
        plain
    }
}

fn verify_len(plain: &[u8]) -> Option<usize> {
    plain.first_chunk::<HEAD_BYTES>().map(|head| u32::from_le_bytes(*head) as usize)
}

/// Decrypts the head and the verify section at the front of `bytes`, in place; where they end.
fn decrypt_verify(key: &VerifyKey, bytes: &mut [u8]) -> Result<usize, NodeError> {
    let head = bytes.get_mut(..HEAD_BYTES).ok_or(DecodeError::Short)?;
    keystream(&key.0, 0, head);
    let end = verify_len(bytes).and_then(|len| len.checked_add(HEAD_BYTES)).ok_or(DecodeError::Short)?;
    let body = bytes.get_mut(HEAD_BYTES..end).ok_or(DecodeError::Short)?;
    keystream(&key.0, HEAD_BYTES as u32, body);
    Ok(end)
}

/// The plaintext of the node `bytes`: both sections.
pub(crate) fn open(key: &ReadKey, bytes: &[u8]) -> Result<Vec<u8>, NodeError> {
    check_len(bytes)?;
    let mut plain = bytes.to_vec();
    let end = decrypt_verify(&key.verify_key(), &mut plain)?;
    keystream(&key.0, 0, &mut plain[end..]);
    Ok(plain)
}

/// The verify section of a node's plaintext, and its read section as bytes.
pub(crate) fn split(plain: &[u8]) -> Result<(VerifySection, &[u8]), NodeError> {
    let end = verify_len(plain).and_then(|len| len.checked_add(HEAD_BYTES)).ok_or(DecodeError::Short)?;
    let (front, read) = plain.split_at_checked(end).ok_or(DecodeError::Short)?;
    let verify = front.get(HEAD_BYTES..).ok_or(DecodeError::Short)?;
    Ok((VerifySection::decode(verify)?, read))
}

fn check_len(bytes: &[u8]) -> Result<(), NodeError> {
    let (what, got, max) = ("node length", bytes.len() as u64, CHUNK_BYTES_MAX as u64);
    if got > max { Err(DecodeError::OverLimit { what, got, max }.into()) } else { Ok(()) }
}

/// Reads both sections of a node side by side.
#[derive(Debug)]
pub(crate) struct SectionReader<'a> {
    pub(crate) scheme: Scheme,
    children: std::vec::IntoIter<VerifyNodeRef>,
    stripes: std::vec::IntoIter<VerifyStripe>,
    pub(crate) read: Reader<'a>,
}

impl<'a> SectionReader<'a> {
    pub(crate) fn new(verify: VerifySection, read: &'a [u8]) -> SectionReader<'a> {
        SectionReader {
            scheme: verify.scheme,
            children: verify.children.into_iter(),
            stripes: verify.stripes.into_iter(),
            read: Reader::new(read),
        }
    }

    pub(crate) fn children(&self) -> usize {
        self.children.len()
    }

    pub(crate) fn stripes(&self) -> usize {
        self.stripes.len()
    }

    /// The next node below. Both sections must mean the same one, or readers and verifiers would see different trees.
    pub(crate) fn child(&mut self) -> Result<NodeRef, NodeError> {
        let key = ReadKey(self.read.array()?);
        let child = self.children.next().ok_or(DecodeError::Invalid("number of children"))?;
        if child.key != key.verify_key() {
            return Err(DecodeError::Invalid("verify key of a child").into());
        }
        Ok(NodeRef { id: child.id, len: child.len, key })
    }

    pub(crate) fn stripe(&mut self) -> Result<Stripe, NodeError> {
        let bytes = self.read.uint_max("bytes of a stripe", FILE_BYTES_MAX)?;
        let stripe = self.stripes.next().ok_or(DecodeError::Invalid("number of stripes"))?;
        let plan = extent::shape(self.scheme, bytes).ok_or(DecodeError::Invalid("bytes of a stripe"))?;
        if (plan.chunk_len, plan.data) != (stripe.chunk_len, stripe.data) {
            return Err(DecodeError::Invalid("shape of a stripe").into());
        }
        let (ids, parity) = stripe.ids.split_at_checked(usize::from(stripe.data)).ok_or(DecodeError::Short)?;
        let data = ids
            .iter()
            .map(|id| Ok(ChunkRef { id: *id, key: ReadKey(self.read.array()?) }))
            .collect::<Result<Vec<_>, DecodeError>>()?;
        Ok(Stripe { chunk_len: stripe.chunk_len, bytes, data, parity: parity.to_vec() })
    }

    pub(crate) fn finish(mut self) -> Result<(), NodeError> {
        if self.children.next().is_some() || self.stripes.next().is_some() {
            return Err(DecodeError::Invalid("number of children or stripes").into());
        }
        Ok(self.read.finish()?)
    }
}
