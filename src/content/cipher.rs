//! Sealing and opening of chunks: convergent keys, ChaCha20, and the two-step key of nodes.

use super::chunk::{Outline, SealedChunk, slice_hash};
use super::random::ByteCounts;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use bytes::Bytes;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

// BLAKE3 key-derivation contexts. Changing one changes every key: they are part of the format.
const CONTEXT_DATA: &str = "tornet v1 convergence of data chunks";
const CONTEXT_NODE: &str = "tornet v1 convergence of manifest nodes";
const CONTEXT_AGAIN: &str = "tornet v1 key of a chunk sealed again";
const CONTEXT_VERIFY: &str = "tornet v1 verify key of a node";

/// Nonce of every keystream: a key is used for one plaintext only, so it never needs another.
const NONCE: [u8; 12] = [0; 12];

static ZEROS: [u8; SLICE_BYTES] = [0; SLICE_BYTES];

/// What a publisher's keys are derived from beside the plaintext. Random for each user, so that nobody can confirm that
/// they hold a known file; or `PUBLIC`, so that all publishers of the same bytes make the same chunks.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ConvergenceSecret(pub [u8; 32]);

/// Opens a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadKey(pub [u8; 32]);

/// Opens the verify section of a node: ids of what stands below it, without names and content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyKey(pub [u8; 32]);

/// A data chunk and what opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRef {
    /// Its name.
    pub id: ChunkId,
    /// What opens it.
    pub key: ReadKey,
}

/// A chunk just sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What opens it.
    pub key: ReadKey,
    /// What is stored and sent.
    pub chunk: SealedChunk,
}

impl Sealed {
    /// Name and key.
    pub fn chunk_ref(&self) -> ChunkRef {
        ChunkRef { id: self.chunk.id, key: self.key }
    }
}

impl ConvergenceSecret {
    /// The secret of all who want equal bytes to make equal chunks.
    pub const PUBLIC: ConvergenceSecret = ConvergenceSecret(*b"tornet public convergence secret");

    /// The key of a data chunk whose plaintext is `plain`, lengthened with zeros to `len`.
    pub(crate) fn data_key(&self, plain: &[u8], len: usize) -> ReadKey {
        let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(CONTEXT_DATA, &self.0));
        hasher.update(plain);
        let mut missing = len.saturating_sub(plain.len());
        while missing > 0 {
            let count = missing.min(ZEROS.len());
            hasher.update(&ZEROS[..count]);
            missing -= count;
        }
        ReadKey(*hasher.finalize().as_bytes())
    }

    /// The key of a node with this plaintext.
    pub(crate) fn node_key(&self, plain: &[u8]) -> ReadKey {
        ReadKey(*blake3::keyed_hash(&blake3::derive_key(CONTEXT_NODE, &self.0), plain).as_bytes())
    }
}

impl ReadKey {
    /// The key at the `counter`-th attempt to seal: this key itself at first, others when a chunk does not look random or
    /// would be equal to another of its stripe. A reader is given the final key and needs no counter.
    pub(crate) fn attempt(self, counter: u32) -> ReadKey {
        if counter == 0 {
            return self;
        }
        let mut material = [0; 36];
        material[..32].copy_from_slice(&self.0);
        material[32..].copy_from_slice(&counter.to_le_bytes());
        ReadKey(blake3::derive_key(CONTEXT_AGAIN, &material))
    }

    /// What opens the verify section of the node that this key opens. There is no way back.
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(blake3::derive_key(CONTEXT_VERIFY, &self.0))
    }
}

/// Seals one data chunk by itself. Of equal plaintext and secret come equal chunks.
pub fn seal(secret: &ConvergenceSecret, plain: &[u8]) -> Sealed {
    let base = secret.data_key(plain, plain.len());
    let (_, key, chunk) = seal_until(base, 0, |key| encrypt(key, plain, plain.len()), |_| true);
    Sealed { key, chunk }
}

/// Seals with the first acceptable key at or after the attempt `counter` whose chunk looks random; tells which attempt it was.
pub(crate) fn seal_until(
    base: ReadKey,
    counter: u32,
    mut encrypt: impl FnMut(ReadKey) -> (SealedChunk, bool),
    acceptable: impl Fn(&ReadKey) -> bool,
) -> (u32, ReadKey, SealedChunk) {
    let mut counter = counter;
    loop {
        let key = base.attempt(counter);
        if acceptable(&key) {
            let (chunk, random) = encrypt(key);
            if random {
                return (counter, key, chunk);
            }
        }
        counter = counter.checked_add(1).expect("four thousand million attempts do not fail one after another");
    }
}

/// Encrypts, hashes and counts slice by slice, so that the bytes pass through the processor's cache once.
/// `plain` is lengthened with zeros to `len`.
pub(crate) fn encrypt(key: ReadKey, plain: &[u8], len: usize) -> (SealedChunk, bool) {
    debug_assert!(plain.len() <= len);
    let mut out = vec![0; len];
    let mut cipher = ChaCha20::new((&key.0).into(), (&NONCE).into());
    let mut rest = plain;
    let finished = finish(&mut out, |slice| {
        let (here, after) = rest.split_at(rest.len().min(slice.len()));
        rest = after;
        if here.len() == slice.len() {
            cipher.apply_keystream_b2b(here, slice);
        } else {
            slice[..here.len()].copy_from_slice(here);
            cipher.apply_keystream(slice);
        }
    });
    finished.into_chunk(out)
}

/// Names a chunk whose bytes are final, and tells whether it looks random.
pub(crate) fn measure(mut bytes: Vec<u8>) -> (SealedChunk, bool) {
    finish(&mut bytes, |_| {}).into_chunk(bytes)
}

struct Finished {
    id: ChunkId,
    outline: Outline,
    random: bool,
}

impl Finished {
    fn into_chunk(self, bytes: Vec<u8>) -> (SealedChunk, bool) {
        (SealedChunk { id: self.id, outline: self.outline, bytes: Bytes::from(bytes) }, self.random)
    }
}

/// Fills each slice, then hashes and counts it while it is in the cache.
fn finish(bytes: &mut [u8], mut fill: impl FnMut(&mut [u8])) -> Finished {
    let len = bytes.len();
    let mut counts = ByteCounts::new(len);
    if len <= SLICE_BYTES {
        fill(bytes);
        counts.add(bytes);
        let (id, outline) = Outline::of(bytes);
        return Finished { id, outline, random: counts.look_random() };
    }
    let mut hashes = Vec::with_capacity(len.div_ceil(SLICE_BYTES));
    for (index, slice) in bytes.chunks_mut(SLICE_BYTES).enumerate() {
        fill(slice);
        counts.add(slice);
        hashes.push(slice_hash(index as u64, slice));
    }
    let (id, outline) = Outline::from_hashes(len as u32, hashes);
    Finished { id, outline, random: counts.look_random() }
}

/// Opens, in place, the bytes of a data chunk that start `offset` bytes after its beginning.
pub fn open(key: &ReadKey, offset: u32, bytes: &mut [u8]) {
    keystream(&key.0, offset, bytes);
}

/// XORs the keystream of `key` from `offset` on.
pub(crate) fn keystream(key: &[u8; 32], offset: u32, bytes: &mut [u8]) {
    let mut cipher = ChaCha20::new(key.into(), (&NONCE).into());
    cipher.seek(offset);
    cipher.apply_keystream(bytes);
}

impl fmt::Debug for ConvergenceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConvergenceSecret(…)")
    }
}

impl fmt::Debug for ReadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadKey(…)")
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|place| (place / 3) as u8).collect()
    }

    #[test]
    fn sealing_is_a_function_of_plaintext_and_secret() {
        let plain = sample(100_000);
        let private = ConvergenceSecret([9; 32]);
        assert_eq!(seal(&private, &plain), seal(&private, &plain));
        assert_ne!(seal(&private, &plain).chunk.id, seal(&ConvergenceSecret::PUBLIC, &plain).chunk.id);
        assert_eq!(seal(&private, &plain).chunk.id, ChunkId::of(&seal(&private, &plain).chunk.bytes));
    }

    #[test]
    fn a_chunk_that_does_not_look_random_is_sealed_with_the_next_key() {
        // Two equal bytes fail the test; short plaintexts reach that case soon.
        let secret = ConvergenceSecret::PUBLIC;
        let plain = (0..=u16::MAX)
            .map(u16::to_le_bytes)
            .find(|plain| !encrypt(secret.data_key(plain, 2), plain, 2).1)
            .expect("one in 256 fails");
        let sealed = seal(&secret, &plain);
        assert_ne!(sealed.key, secret.data_key(&plain, 2));
        assert!(super::super::random::looks_random(&sealed.chunk.bytes));
        let mut opened = sealed.chunk.bytes.to_vec();
        open(&sealed.key, 0, &mut opened);
        assert_eq!(opened, plain);
    }

    #[test]
    fn keys_do_not_show_in_logs() {
        let shown = format!("{:?} {:?} {:?}", ConvergenceSecret::PUBLIC, ReadKey([7; 32]), VerifyKey([7; 32]));
        assert_eq!(shown, "ConvergenceSecret(…) ReadKey(…) VerifyKey(…)");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_range_of_a_sealed_chunk_opens(len in 1usize..200_000, from: prop::sample::Index, to: prop::sample::Index) {
            let plain = sample(len);
            let sealed = seal(&ConvergenceSecret([1; 32]), &plain);
            prop_assert!(sealed.chunk.outline.verify(&sealed.chunk.id));
            let (from, to) = (from.index(len), to.index(len) + 1);
            if from < to {
                let mut part = sealed.chunk.bytes[from..to].to_vec();
                open(&sealed.key, from as u32, &mut part);
                prop_assert_eq!(&part[..], &plain[from..to]);
            }
        }

        #[test]
        fn padding_is_zeros(len in 1usize..60_000, pad in 0usize..60_000) {
            let plain = sample(len);
            let mut padded = plain.clone();
            padded.resize(len + pad, 0);
            let secret = ConvergenceSecret([2; 32]);
            let key = secret.data_key(&plain, padded.len());
            prop_assert_eq!(key, secret.data_key(&padded, padded.len()));
            prop_assert_eq!(encrypt(key, &plain, padded.len()), encrypt(key, &padded, padded.len()));
        }
    }
}
