//! From a stripe to plaintext: what is missing is wanted, what cannot be had is rebuilt, what is here is opened.

use super::error::{ReadError, ReadErrorKind};
use super::reader::Tree;
use super::swarm::{Swarm, WantSlices};
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::range::{SliceRange, slice_count};
use crate::content::chunk::Outline;
use crate::content::cipher;
use crate::content::erasure;
use crate::content::reference::NodeRef;
use crate::content::section::Stripe;
use crate::node::effect::WantOk;
use crate::node::input::Urgency;
use crate::store::{Class, Store};
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Stored slices may be evicted, or found damaged, between fetching and reading: then they are fetched again.
const TRIES: usize = 5;

/// A shard for rebuilding that takes longer than this has another one asked for beside it.
const SHARD_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Fetcher {
    pub(super) store: Arc<Store>,
    pub(super) swarm: Swarm,
}

/// The slices of one data chunk that a byte range of a stripe touches.
#[derive(Debug, Clone, Copy)]
struct Part {
    index: u8,
    slices: SliceRange,
    /// Bytes of the chunk.
    start: u32,
    end: u32,
}

/// Cuts a byte range of a stripe's plaintext into parts of its data chunks.
fn parts(stripe: &Stripe, range: &Range<u64>) -> Vec<Part> {
    let len = u64::from(stripe.chunk_len.max(1));
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let index = at / len;
        let end = ((index + 1) * len).min(range.end);
        let (start, stop) = ((at - index * len) as u32, (end - index * len) as u32);
        found.push(Part { index: index as u8, slices: SliceRange::covering(start, stop), start, end: stop });
        at = end;
    }
    found
}

impl Fetcher {
    /// Plaintext bytes of a stripe.
    pub(super) async fn read_stripe(
        &self,
        tree: &Arc<Tree>,
        stripe: &Arc<Stripe>,
        range: Range<u64>,
        until: Instant,
        urgency: Urgency,
    ) -> Result<Bytes, ReadError> {
        if range.end > stripe.bytes || stripe.data.len() > usize::from(u8::MAX) {
            return Err(ReadError::manifest("an extent shorter than what lies in it"));
        }
        let parts = parts(stripe, &range);
        for _ in 0..TRIES {
            let needs = self.missing(stripe, &parts);
            if !needs.is_empty() {
                self.fetch(tree, stripe, needs, until, urgency).await?;
            }
            let (store, of, from) = (self.store.clone(), stripe.clone(), parts.clone());
            let total = (range.end - range.start) as usize;
            let read = tokio::task::spawn_blocking(move || read_parts(&store, &of, &from, total)).await;
            if let Some(bytes) = read.map_err(|_| ReadError::stopped())?? {
                return Ok(bytes);
            }
            debug!("slices vanished between fetching and reading");
        }
        Err(ReadError::store("slices vanish as fast as they are fetched: the cache is too small for this read"))
    }

    /// Fetches ahead in the background, chunk by chunk; failures are left to the reader.
    pub(super) fn warm(self: &Arc<Self>, tree: &Arc<Tree>, stripe: &Arc<Stripe>, range: Range<u64>, until: Instant) {
        for part in parts(stripe, &(range.start..range.end.min(stripe.bytes))) {
            let needs = self.missing(stripe, &[part]);
            if !needs.is_empty() {
                let (fetcher, tree, stripe) = (self.clone(), tree.clone(), stripe.clone());
                tokio::spawn(async move {
                    let _ = fetcher.fetch(&tree, &stripe, needs, until, Urgency::Ahead).await;
                });
            }
        }
    }

    /// All bytes of a chunk that belongs to no stripe.
    pub(super) async fn lone(
        &self,
        tree: &Arc<Tree>,
        node: &NodeRef,
        urgency: Urgency,
        until: Instant,
    ) -> Result<Bytes, ReadError> {
        for _ in 0..TRIES {
            if let Some(bytes) = self.stored(&node.id).await? {
                return Ok(bytes);
            }
            self.want_lone(tree, node.id, node.len, urgency, until).await?;
        }
        Err(ReadError::store("a chunk vanishes as fast as it is fetched: the cache is too small"))
    }

    /// A whole chunk, if it is here.
    async fn stored(&self, id: &ChunkId) -> Result<Option<Bytes>, ReadError> {
        let Some(held) = self.store.slices(id).map_err(ReadError::store)? else { return Ok(None) };
        let all = SliceRange::whole(held.chunk_len);
        if held.mask & all.mask() != all.mask() {
            return Ok(None);
        }
        let (store, id) = (self.store.clone(), *id);
        let read = tokio::task::spawn_blocking(move || store.read(&id, all)).await;
        read.map_err(|_| ReadError::stopped())?.map_err(ReadError::store)
    }

    async fn want_lone(
        &self,
        tree: &Arc<Tree>,
        id: ChunkId,
        chunk_len: u32,
        urgency: Urgency,
        until: Instant,
    ) -> Result<WantOk, ReadError> {
        let all = SliceRange::whole(chunk_len);
        let want = WantSlices {
            chunks: vec![id],
            data: 1,
            chunk_len,
            needs: vec![(0, all)],
            have: Vec::new(),
            urgency,
            likely: tree.likely(),
        };
        self.want(tree, want, until).await
    }

    async fn want(&self, tree: &Arc<Tree>, want: WantSlices, until: Instant) -> Result<WantOk, ReadError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReadError::new(ReadErrorKind::Timeout, "the deadline passed before the swarm could be asked"));
        }
        match self.swarm.want(want, left).await {
            Some(Ok(ok)) => {
                tree.delivered(ok.providers.clone());
                Ok(ok)
            }
            Some(Err(failure)) => Err(failure.into()),
            None => Err(ReadError::stopped()),
        }
    }

    /// The slices of a chunk that are here. What the index cannot say counts as missing.
    fn held(&self, id: &ChunkId) -> u64 {
        self.store.slices(id).ok().flatten().map_or(0, |held| held.mask)
    }

    /// What of `parts` is not in the store: for each chunk the span from the first to the last missing slice.
    fn missing(&self, stripe: &Stripe, parts: &[Part]) -> Vec<(u8, SliceRange)> {
        let mut needs = Vec::new();
        for part in parts {
            let Some(chunk) = stripe.data.get(usize::from(part.index)) else { continue };
            let held = self.held(&chunk.id);
            let lacking = part.slices.mask() & !held;
            if lacking != 0 {
                let first = lacking.trailing_zeros() as u8;
                let last = 63 - lacking.leading_zeros() as u8;
                needs.push((part.index, SliceRange { first, count: last + 1 - first }));
            }
        }
        needs
    }

    /// Brings slices into the store: fetched, or rebuilt from other shards of the stripe.
    async fn fetch(
        &self,
        tree: &Arc<Tree>,
        stripe: &Arc<Stripe>,
        needs: Vec<(u8, SliceRange)>,
        until: Instant,
        urgency: Urgency,
    ) -> Result<(), ReadError> {
        let chunks: Vec<ChunkId> = stripe.ids().collect();
        let have = self.have(&chunks);
        let want = WantSlices {
            data: stripe.data.len() as u8,
            chunk_len: stripe.chunk_len,
            needs: needs.clone(),
            have,
            urgency,
            likely: tree.likely(),
            chunks: chunks.clone(),
        };
        let ok = self.want(tree, want, until).await?;
        let lost: Vec<u8> = needs
            .iter()
            .filter(|(index, slices)| {
                let held = stripe.data.get(usize::from(*index)).map_or(0, |chunk| self.held(&chunk.id));
                held & slices.mask() != slices.mask()
            })
            .map(|(index, _)| *index)
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        self.rebuild(tree, stripe, &chunks, &ok, lost, until, urgency).await
    }

    /// What of these chunks is here, as one range each from the front (enough to say "whole" or "these first slices").
    fn have(&self, chunks: &[ChunkId]) -> Vec<(u8, SliceRange)> {
        let mut have = Vec::new();
        for (index, id) in chunks.iter().enumerate() {
            let held = self.held(id);
            if held != 0 {
                let first = held.trailing_zeros() as u8;
                let count = (held >> first).trailing_ones() as u8;
                have.push((index as u8, SliceRange { first, count }));
            }
        }
        have
    }

    fn spawn_lone(
        &self,
        wants: &mut tokio::task::JoinSet<Result<WantOk, ReadError>>,
        tree: &Arc<Tree>,
        id: ChunkId,
        len: u32,
        urgency: Urgency,
        until: Instant,
    ) {
        let fetcher = Fetcher { store: self.store.clone(), swarm: self.swarm.clone() };
        let tree = tree.clone();
        wants.spawn(async move { fetcher.want_lone(&tree, id, len, urgency, until).await });
    }

    /// Rebuilds whole data chunks from whole shards. Only a whole chunk can be checked against its id, so parity that
    /// does not match its stripe is found here and never served.
    #[allow(clippy::too_many_arguments)]
    async fn rebuild(
        &self,
        tree: &Arc<Tree>,
        stripe: &Arc<Stripe>,
        chunks: &[ChunkId],
        ok: &WantOk,
        lost: Vec<u8>,
        until: Instant,
        urgency: Urgency,
    ) -> Result<(), ReadError> {
        let needed = stripe.data.len();
        let whole = |fetcher: &Fetcher| -> Vec<u8> {
            let here = |id: &ChunkId| fetcher.store.holds(id).unwrap_or(false);
            (0u8..).zip(chunks).filter(|(_, id)| here(id)).map(|(index, _)| index).take(needed).collect()
        };
        let mut sources = whole(self);
        // Those of which most came already; but a peer that gave a part may never give the rest, so there are others behind them.
        let mut others: Vec<u8> = (0..chunks.len() as u8).filter(|index| !sources.contains(index)).collect();
        let came = |index: &u8| ok.have.iter().filter(|(have, _)| have == index).map(|(_, slices)| slices.count).max();
        others.sort_by_key(|index| std::cmp::Reverse(came(index)));
        let mut others = others.into_iter();
        let mut wants = tokio::task::JoinSet::new();
        let mut failure = None;
        while sources.len() < needed {
            let running = wants.len();
            let more = if running < needed - sources.len() { needed - sources.len() - running } else { 0 };
            for id in others.by_ref().take(more).filter_map(|index| chunks.get(usize::from(index)).copied()) {
                self.spawn_lone(&mut wants, tree, id, stripe.chunk_len, urgency, until);
            }
            match tokio::time::timeout(SHARD_PATIENCE, wants.join_next()).await {
                Ok(None) => return Err(failure.unwrap_or_else(ReadError::stopped)),
                Ok(Some(done)) => failure = done.map_err(|_| ReadError::stopped())?.err().or(failure),
                Err(_) => {
                    // As many again as are still missing: any of them will do.
                    let late = needed.saturating_sub(whole(self).len());
                    for id in others.by_ref().take(late).filter_map(|index| chunks.get(usize::from(index)).copied()) {
                        self.spawn_lone(&mut wants, tree, id, stripe.chunk_len, urgency, until);
                    }
                }
            }
            sources = whole(self);
        }
        drop(wants);
        let (store, of, ids) = (self.store.clone(), stripe.clone(), chunks.to_vec());
        let work = move || rebuild_blocking(&store, &of, &ids, &sources, &lost);
        tokio::task::spawn_blocking(work).await.map_err(|_| ReadError::stopped())?
    }
}

fn rebuild_blocking(
    store: &Store,
    stripe: &Stripe,
    chunks: &[ChunkId],
    sources: &[u8],
    lost: &[u8],
) -> Result<(), ReadError> {
    let all = SliceRange::whole(stripe.chunk_len);
    let mut shards = Vec::new();
    for index in sources {
        let id = chunks.get(usize::from(*index)).ok_or_else(|| ReadError::manifest("a shard that does not exist"))?;
        if let Some(bytes) = store.read(id, all).map_err(ReadError::store)? {
            shards.push((*index, bytes));
        }
    }
    if shards.len() < stripe.data.len() {
        // Found damaged, and dropped, by this very reading. What is asked for now is known to be missing.
        debug!(here = shards.len(), needed = stripe.data.len(), "shards vanished before they were used");
        return Ok(());
    }
    let views: Vec<(u8, &[u8])> = shards.iter().map(|(index, bytes)| (*index, bytes.as_ref())).collect();
    let rebuilt = erasure::rebuild(stripe.scheme(), &views, lost).map_err(|error| {
        ReadError::new(ReadErrorKind::Timeout, format!("too few shards of the stripe are here: {error}"))
    })?;
    for (index, bytes) in lost.iter().zip(rebuilt) {
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

/// Opens the parts into one buffer; `None` when a slice is not here after all.
fn read_parts(store: &Store, stripe: &Stripe, parts: &[Part], total: usize) -> Result<Option<Bytes>, ReadError> {
    let mut out = BytesMut::with_capacity(total);
    for part in parts {
        let chunk = stripe
            .data
            .get(usize::from(part.index))
            .ok_or_else(|| ReadError::manifest("an extent with fewer chunks than its length needs"))?;
        let Some(sealed) = store.read(&chunk.id, part.slices).map_err(ReadError::store)? else { return Ok(None) };
        let base = part.slices.bytes(stripe.chunk_len).start;
        let Some(wanted) = sealed.get((part.start - base) as usize..(part.end - base) as usize) else {
            return Ok(None);
        };
        // Slice by slice, so that what was copied is opened while it is in the processor's nearest cache.
        for (place, slice) in wanted.chunks(SLICE_BYTES).enumerate() {
            let at = out.len();
            out.extend_from_slice(slice);
            if let Some(fresh) = out.get_mut(at..) {
                cipher::open(&chunk.key, part.start + (place * SLICE_BYTES) as u32, fresh);
            }
        }
    }
    Ok(Some(out.freeze()))
}
