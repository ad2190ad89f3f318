//! Sealing of one extent: encrypt the data chunks, code the parity chunks.

use crate::content::chunk::SealedChunk;
use crate::content::cipher::{ChunkRef, ConvergenceSecret, ReadKey, encrypt, measure, seal_until};
use crate::content::erasure::{self, Scheme};
use crate::content::extent;
use crate::content::section::Stripe;

/// A stripe and its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedStripe {
    /// What the manifest says of it.
    pub stripe: Stripe,
    /// Its chunks: data, then parity.
    pub chunks: Vec<SealedChunk>,
}

/// Seals one extent of a body as [`extent::plan`] cut it. Stripes do not depend on each other: workers seal them side by side.
///
/// # Panics
/// When `plain` is empty or longer than an extent: that is a mistake of the caller.
pub fn seal_stripe(secret: &ConvergenceSecret, scheme: Scheme, plain: &[u8]) -> SealedStripe {
    seal_stripe_with(secret, scheme, plain, |_| true)
}

/// `parity_passes` may refuse parity chunks, for tests: by itself one in some ten million stripes has one that does not look random.
fn seal_stripe_with(
    secret: &ConvergenceSecret,
    scheme: Scheme,
    plain: &[u8],
    mut parity_passes: impl FnMut(&[SealedChunk]) -> bool,
) -> SealedStripe {
    let shape = extent::shape(scheme, plain.len() as u64).expect("an extent is neither empty nor longer than planned");
    let chunk_len = shape.chunk_len as usize;
    let parts: Vec<&[u8]> = plain.chunks(chunk_len).collect();
    let bases: Vec<ReadKey> = parts.iter().map(|part| secret.data_key(part, chunk_len)).collect();
    let mut keys: Vec<ReadKey> = Vec::with_capacity(parts.len());
    let mut chunks: Vec<SealedChunk> = Vec::with_capacity(parts.len() + usize::from(shape.parity));
    let mut next = 0;
    for (part, base) in parts.iter().zip(&bases) {
        // Equal plaintexts in one stripe get different keys: chunks of a stripe lie on different peers, by their names.
        let (attempt, key, chunk) =
            seal_until(*base, 0, |key| encrypt(key, part, chunk_len), |key| !keys.contains(key));
        if keys.is_empty() {
            next = attempt + 1;
        }
        keys.push(key);
        chunks.push(chunk);
    }
    let code = Scheme { k: shape.data, m: shape.parity };
    let parity = loop {
        let data: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk.bytes[..]).collect();
        let measured = erasure::encode(code, &data).into_iter().map(measure);
        let (parity, random): (Vec<SealedChunk>, Vec<bool>) = measured.unzip();
        if random.iter().all(|random| *random) && parity_passes(&parity) {
            break parity;
        }
        // Parity cannot be sealed by itself: another key for the first data chunk changes all of it.
        let encrypt = |key| encrypt(key, parts[0], chunk_len);
        let (attempt, key, chunk) = seal_until(bases[0], next, encrypt, |key| !keys.contains(key));
        (keys[0], chunks[0], next) = (key, chunk, attempt + 1);
    };
    let data = chunks.iter().zip(&keys).map(|(chunk, key)| ChunkRef { id: chunk.id, key: *key }).collect();
    let stripe = Stripe {
        chunk_len: shape.chunk_len,
        bytes: plain.len() as u64,
        data,
        parity: parity.iter().map(|chunk| chunk.id).collect(),
    };
    chunks.extend(parity);
    SealedStripe { stripe, chunks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::cipher;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn opened(sealed: &SealedStripe) -> Vec<u8> {
        let mut plain = Vec::new();
        for (chunk, at) in sealed.chunks.iter().zip(&sealed.stripe.data) {
            assert_eq!(chunk.id, at.id);
            let mut bytes = chunk.bytes.to_vec();
            cipher::open(&at.key, 0, &mut bytes);
            plain.extend(bytes);
        }
        assert!(plain[sealed.stripe.bytes as usize..].iter().all(|byte| *byte == 0));
        plain.truncate(sealed.stripe.bytes as usize);
        plain
    }

    #[test]
    fn equal_chunks_of_a_stripe_get_different_names() {
        let sealed = seal_stripe(&ConvergenceSecret::PUBLIC, Scheme::DEFAULT, &vec![0; 1 << 20]);
        let ids: BTreeSet<_> = sealed.stripe.ids().collect();
        assert_eq!(ids.len(), 12);
        assert_eq!(opened(&sealed), vec![0; 1 << 20]);
        assert_eq!(sealed, seal_stripe(&ConvergenceSecret::PUBLIC, Scheme::DEFAULT, &vec![0; 1 << 20]));
    }

    #[test]
    fn a_stripe_whose_parity_is_refused_is_sealed_again_from_its_first_chunk() {
        let plain: Vec<u8> = (0..300_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let secret = ConvergenceSecret([5; 32]);
        let once = seal_stripe(&secret, Scheme::DEFAULT, &plain);
        let mut refusals = 2;
        let again = seal_stripe_with(&secret, Scheme::DEFAULT, &plain, |_| {
            refusals -= 1;
            refusals < 0
        });
        assert_eq!(once.stripe.data[1..], again.stripe.data[1..]);
        assert_ne!(once.stripe.data[0], again.stripe.data[0]);
        assert_eq!(again.stripe.data[0].key, once.stripe.data[0].key.attempt(2));
        assert_ne!(once.stripe.parity, again.stripe.parity);
        assert_eq!(opened(&again), plain);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_stripe_opens_with_any_losses_it_allows(k in 1u8..=10, m in 0u8..=6, len in 1usize..900_000, seed: u64) {
            let scheme = Scheme::new(k, m).unwrap();
            let len = len.min(extent::extent_len(scheme) as usize);
            let plain: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
            let sealed = seal_stripe(&ConvergenceSecret([1; 32]), scheme, &plain);
            prop_assert_eq!(opened(&sealed), plain);
            for chunk in &sealed.chunks {
                prop_assert!(chunk.outline.verify(&chunk.id));
                prop_assert_eq!(crate::base::digest::ChunkId::of(&chunk.bytes), chunk.id);
                prop_assert_eq!(chunk.bytes.len(), sealed.stripe.chunk_len as usize);
            }
            let code = sealed.stripe.scheme();
            let mut order: Vec<u8> = (0..code.total() as u8).collect();
            order.sort_by_key(|index| *blake3::hash(&(seed ^ u64::from(*index)).to_le_bytes()).as_bytes());
            let (have, lost) = order.split_at(usize::from(code.k));
            let have: Vec<(u8, &[u8])> = have.iter().map(|i| (*i, &sealed.chunks[usize::from(*i)].bytes[..])).collect();
            for (index, bytes) in lost.iter().zip(erasure::rebuild(code, &have, lost).unwrap()) {
                prop_assert_eq!(&bytes[..], &sealed.chunks[usize::from(*index)].bytes[..]);
            }
        }
    }
}
