//! Lost data chunks of a stripe, made anew from slices of any k of its shards.

use super::error::{ReadError, ReadErrorKind};
use crate::base::range::{SliceRange, slice_count};
use crate::content::chunk::Outline;
use crate::content::erasure::{self, Scheme};
use crate::content::section::VerifyStripe;
use crate::store::{Class, Store};
use bytes::Bytes;
use tracing::{debug, warn};

/// Neighbouring columns (slice numbers) of which the same shards are here.
#[derive(Debug, PartialEq, Eq)]
struct Band {
    slices: SliceRange,
    /// One bit for each shard.
    shards: u64,
}

/// Cuts a stripe into bands by what is here of each shard, a set of slices.
fn bands(held: &[u64], slices: u8) -> Vec<Band> {
    let mut found: Vec<Band> = Vec::new();
    for column in 0..slices {
        let shards = held.iter().enumerate().fold(0, |all, (index, mask)| all | (mask >> column & 1) << index);
        match found.last_mut() {
            Some(band) if band.shards == shards => band.slices.count += 1,
            _ => found.push(Band { slices: SliceRange { first: column, count: 1 }, shards }),
        }
    }
    found
}

/// Rebuilds whole data chunks: each band of them from the shards that are here, then checked against their ids, so parity that does not
/// match its stripe is found here and never served. Blocks. Leaves things as they are when too little is here after all.
pub(super) fn rebuild(store: &Store, stripe: &VerifyStripe, lost: &[u8]) -> Result<(), ReadError> {
    let chunks = &stripe.ids;
    // Another reader may have made it meanwhile.
    let still = |index: &u8| chunks.get(usize::from(*index)).is_some_and(|id| !store.holds(id).unwrap_or(false));
    let lost: Vec<u8> = lost.iter().copied().filter(still).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let mut held = Vec::with_capacity(chunks.len());
    for id in chunks {
        held.push(store.slices(id).map_err(ReadError::store)?.map_or(0, |held| held.mask));
    }
    let mut made: Vec<Vec<u8>> = lost.iter().map(|_| Vec::with_capacity(stripe.chunk_len as usize)).collect();
    for band in bands(&held, slice_count(stripe.chunk_len)) {
        let Some(parts) = band_of(store, stripe, &band, &lost)? else {
            // Found damaged, and dropped, by this very reading, or evicted. What is asked for now is known to be missing.
            debug!(?band, needed = stripe.data, "shards vanished before they were used");
            return Ok(());
        };
        made.iter_mut().zip(parts).for_each(|(chunk, part)| chunk.extend_from_slice(&part));
    }
    for (index, bytes) in lost.iter().zip(made) {
        let (id, outline) = Outline::of(&bytes);
        if chunks.get(usize::from(*index)) != Some(&id) {
            warn!(chunk = ?chunks.first(), "parity does not match its stripe");
            return Err(ReadError::new(
                ReadErrorKind::Damaged,
                "the parity of this stripe does not match its data: its publisher coded it wrongly",
            ));
        }
        store.put(&id, &outline, Bytes::from(bytes), Class::Cached).map_err(ReadError::store)?;
    }
    debug!(chunks = lost.len(), slices = slice_count(stripe.chunk_len), "rebuilt");
    Ok(())
}

/// One band of the lost chunks; `None` when fewer than k shards of it are here.
fn band_of(store: &Store, stripe: &VerifyStripe, band: &Band, lost: &[u8]) -> Result<Option<Vec<Vec<u8>>>, ReadError> {
    // What is here of the lost chunks themselves first: a shard gives itself.
    let here = |index: &u8| band.shards >> index & 1 == 1;
    let chunks = &stripe.ids;
    let others = (0..chunks.len() as u8).filter(|index| here(index) && !lost.contains(index));
    let all_here = lost.iter().all(here);
    let needed = if all_here { lost.len() } else { usize::from(stripe.data) };
    let sources = lost.iter().copied().filter(here).chain(others).take(needed);
    let mut shards = Vec::with_capacity(needed);
    for index in sources {
        let Some(id) = chunks.get(usize::from(index)) else { continue };
        let Some(bytes) = store.read(id, band.slices).map_err(ReadError::store)? else { return Ok(None) };
        shards.push((index, bytes));
    }
    if shards.len() < needed {
        return Ok(None);
    }
    if all_here {
        return Ok(Some(shards.into_iter().map(|(_, bytes)| bytes.to_vec()).collect()));
    }
    let scheme = Scheme { k: stripe.data, m: (chunks.len() as u8).saturating_sub(stripe.data) };
    let views: Vec<(u8, &[u8])> = shards.iter().map(|(index, bytes)| (*index, bytes.as_ref())).collect();
    let made = erasure::rebuild(scheme, &views, lost).map_err(|error| {
        ReadError::new(ReadErrorKind::Timeout, format!("too few shards of the stripe are here: {error}"))
    })?;
    Ok(Some(made))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limit::SLICE_BYTES;
    use crate::store::StoreConfig;

    const SLICES: u8 = 10;

    /// A store that holds of each shard of a 3+2 stripe the given slices.
    fn stripe_of(dir: &std::path::Path, held: &[u64], spoil: bool) -> (Store, VerifyStripe) {
        let len = usize::from(SLICES) * SLICE_BYTES;
        let mut shards: Vec<Vec<u8>> =
            (0..3u8).map(|n| (0..len).map(|at| (at / 7) as u8 ^ n.wrapping_mul(91)).collect()).collect();
        let views: Vec<&[u8]> = shards.iter().map(Vec::as_slice).collect();
        let parity = erasure::encode(Scheme { k: 3, m: 2 }, &views);
        shards.extend(parity);
        if spoil {
            shards[4][5 * SLICE_BYTES] ^= 1;
        }
        let store = Store::open(dir, StoreConfig::roomy()).unwrap();
        for (shard, mask) in shards.iter().zip(held) {
            let (id, outline) = Outline::of(shard);
            for slice in (0..SLICES).filter(|slice| mask >> slice & 1 == 1) {
                let at = usize::from(slice) * SLICE_BYTES;
                let bytes = Bytes::copy_from_slice(&shard[at..at + SLICE_BYTES]);
                store.put_slices(&id, &outline, slice, bytes, Class::Cached).unwrap();
            }
        }
        let id = |shard: &Vec<u8>| Outline::of(shard).0;
        (store, VerifyStripe { chunk_len: len as u32, data: 3, ids: shards.iter().map(id).collect() })
    }

    #[test]
    fn bands_are_cut_where_other_shards_are_here() {
        let band = |first, count, shards| Band { slices: SliceRange { first, count }, shards };
        assert_eq!(bands(&[0b0011, 0b1111], 4), [band(0, 2, 3), band(2, 2, 2)]);
        assert_eq!(bands(&[0, 0], 3), [band(0, 3, 0)]);
    }

    #[test]
    fn parts_of_different_shards_make_up_whole_chunks() {
        let dir = tempfile::tempdir().unwrap();
        // Each column has three shards, no three shards are whole.
        let (store, stripe) =
            stripe_of(dir.path(), &[0b11111, 0b11111, 0b11_1110_0000, 0b11_1111_1111, 0b11_1111_1111], false);
        rebuild(&store, &stripe, &[0, 1, 2]).unwrap();
        assert!(stripe.ids[..3].iter().all(|id| store.holds(id).unwrap()));
    }

    #[test]
    fn too_little_of_one_column_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, stripe) = stripe_of(dir.path(), &[0, 0b11_1111_1111, 0b11_1111_1111, 0b11_1111_1011, 0], false);
        rebuild(&store, &stripe, &[0]).unwrap();
        assert!(!store.holds(&stripe.ids[0]).unwrap());
    }

    #[test]
    fn parity_that_does_not_match_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let all = 0b11_1111_1111;
        let (store, stripe) = stripe_of(dir.path(), &[0, all, all, 0, all], true);
        assert_eq!(rebuild(&store, &stripe, &[0]).unwrap_err().kind, ReadErrorKind::Damaged);
        assert!(!store.holds(&stripe.ids[0]).unwrap());
    }
}
