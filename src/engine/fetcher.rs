//! From a stripe to plaintext: what is missing is wanted, what cannot be had is rebuilt, what is here is opened.

use super::error::{ReadError, ReadErrorKind};
use super::reader::Tree;
use super::swarm::{Swarm, WantSlices};
use crate::base::digest::ChunkId;
use crate::base::limit::{CHUNK_BYTES_MAX, SLICE_BYTES};
use crate::base::range::{SliceRange, runs};
use crate::base::units::Size;
use crate::content::cipher;
use crate::content::reference::NodeRef;
use crate::content::section::{Stripe, VerifyStripe};
use crate::node::effect::WantOk;
use crate::node::input::{Command, Urgency};
use crate::store::Store;
use bytes::{Bytes, BytesMut};
use std::ops::Range;
use std::sync::Arc;
use tokio::time::Instant;
use tracing::debug;

/// Stored slices may be evicted between fetching and reading: then they are fetched again.
const TRIES: usize = 5;
/// Reads up to this long that need no disk are answered where they are asked: to hash and open as much takes some
/// 100 us (by the codecs' bench), about what it costs to have another thread do it.
const READY_BYTES: usize = 256 * 1024;
/// Parts of the cache, each enough for what one reader has under way.
const READERS: u64 = 8;

pub(super) struct Fetcher {
    pub(super) store: Arc<Store>,
    pub(super) swarm: Swarm,
    /// Held while lost chunks are made.
    rebuilding: tokio::sync::Mutex<()>,
}

/// Counts tries, but not those that found damage: each of these leaves less to be found, in the chunk that is read or in one that it was to
/// be rebuilt from.
struct Tries {
    left: usize,
    damaged: u64,
}

impl Tries {
    fn new(store: &Store) -> Tries {
        Tries { left: TRIES, damaged: store.damaged_slices() }
    }

    fn next(&mut self, store: &Store) -> bool {
        let damaged = store.damaged_slices();
        if std::mem::replace(&mut self.damaged, damaged) != damaged {
            return true;
        }
        let more = self.left > 0;
        self.left = self.left.saturating_sub(1);
        more
    }
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
    pub(super) fn new(store: Arc<Store>, swarm: Swarm) -> Fetcher {
        Fetcher { store, swarm, rebuilding: tokio::sync::Mutex::default() }
    }

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
        let mut tries = Tries::new(&self.store);
        while tries.next(&self.store) {
            let needs = self.missing(stripe, &parts);
            if !needs.is_empty() {
                self.fetch(tree, &stripe.verify(), needs, until, urgency).await?;
            }
            let total = (range.end - range.start) as usize;
            if total <= READY_BYTES
                && let Some(bytes) =
                    read_parts(stripe, &parts, total, |id, slices| Ok(self.store.read_ready(id, slices)))?
            {
                return Ok(bytes);
            }
            let (store, of, from) = (self.store.clone(), stripe.clone(), parts.clone());
            let read = tokio::task::spawn_blocking(move || {
                read_parts(&of, &from, total, |id, slices| store.read(id, slices).map_err(ReadError::store))
            });
            let read = read.await;
            if let Some(bytes) = read.map_err(|_| ReadError::stopped())?? {
                return Ok(bytes);
            }
            debug!("slices vanished between fetching and reading");
        }
        Err(self.vanishing())
    }

    /// Fetches ahead in the background, chunk by chunk; failures are left to the reader.
    pub(super) fn warm(self: &Arc<Self>, tree: &Arc<Tree>, stripe: &Arc<Stripe>, range: Range<u64>, until: Instant) {
        for part in parts(stripe, &(range.start..range.end.min(stripe.bytes))) {
            let needs = self.missing(stripe, &[part]);
            if !needs.is_empty() {
                let (fetcher, tree, stripe) = (self.clone(), tree.clone(), stripe.clone());
                tokio::spawn(async move {
                    let _ = fetcher.fetch(&tree, &stripe.verify(), needs, until, Urgency::Ahead).await;
                });
            }
        }
    }

    /// Brings a data chunk of a stripe here, or a lone chunk, all of it.
    pub(super) async fn whole(
        &self,
        tree: &Arc<Tree>,
        stripe: &VerifyStripe,
        index: u8,
        until: Instant,
    ) -> Result<(), ReadError> {
        let Some(id) = stripe.ids.get(usize::from(index)) else { return Ok(()) };
        let all = SliceRange::whole(stripe.chunk_len);
        let mut tries = Tries::new(&self.store);
        while tries.next(&self.store) {
            if self.held(id) == all.mask() {
                return Ok(());
            }
            self.fetch(tree, stripe, vec![(index, all)], until, Urgency::Bulk).await?;
        }
        Err(self.vanishing())
    }

    /// Bytes that one reader has fetched for it before it reads them: a part of the cache, so that several readers, and what it takes to
    /// rebuild what they want, have room beside each other.
    pub(super) fn ahead_bytes(&self) -> u64 {
        self.store.cache_bytes() / READERS
    }

    /// How many fetches of a chunk each go on at once, of at most `most`.
    pub(super) fn at_once(&self, most: usize) -> usize {
        usize::try_from(self.ahead_bytes() / CHUNK_BYTES_MAX as u64).unwrap_or(most).clamp(1, most)
    }

    /// All bytes of a chunk that belongs to no stripe.
    pub(super) async fn lone(
        &self,
        tree: &Arc<Tree>,
        node: &NodeRef,
        urgency: Urgency,
        until: Instant,
    ) -> Result<Bytes, ReadError> {
        let mut tries = Tries::new(&self.store);
        while tries.next(&self.store) {
            if let Some(bytes) = self.stored(&node.id).await? {
                return Ok(bytes);
            }
            self.want_lone(tree, node.id, node.len, urgency, until).await?;
        }
        Err(self.vanishing())
    }

    /// A whole chunk, if it is here.
    async fn stored(&self, id: &ChunkId) -> Result<Option<Bytes>, ReadError> {
        let Some(held) = self.store.slices(id).map_err(ReadError::store)? else { return Ok(None) };
        let all = SliceRange::whole(held.chunk_len);
        if held.mask & all.mask() != all.mask() {
            return Ok(None);
        }
        if let Some(bytes) = self.store.read_ready(id, all) {
            return Ok(Some(bytes));
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
            Some(Err(failure)) => {
                let peers = failure.short_of_credit();
                if !peers.is_empty() {
                    self.swarm.command(Command::Lacked { tree: tree.root(), peers });
                }
                Err(failure.into())
            }
            None => Err(ReadError::stopped()),
        }
    }

    fn vanishing(&self) -> ReadError {
        let usage = self.store.usage();
        let (most, free) = (Size(usage.cache_bytes_max), Size(usage.disk_free));
        ReadError::store(format!(
            "what is fetched vanishes before it is read: too little space for it (the cache may take {most}, {free} of its disk are free)"
        ))
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
        stripe: &VerifyStripe,
        needs: Vec<(u8, SliceRange)>,
        until: Instant,
        urgency: Urgency,
    ) -> Result<(), ReadError> {
        self.want(tree, self.want_of(tree, stripe, needs.clone(), urgency), until).await?;
        let lost: Vec<u8> = needs
            .iter()
            .filter(|(index, slices)| {
                let held = stripe.ids.get(usize::from(*index)).map_or(0, |id| self.held(id));
                held & slices.mask() != slices.mask()
            })
            .map(|(index, _)| *index)
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        self.rebuild(tree, stripe, lost, until, urgency).await
    }

    fn want_of(
        &self,
        tree: &Tree,
        stripe: &VerifyStripe,
        needs: Vec<(u8, SliceRange)>,
        urgency: Urgency,
    ) -> WantSlices {
        let chunks = stripe.ids.clone();
        let have =
            (0u8..).zip(&chunks).flat_map(|(index, id)| runs(self.held(id)).map(move |run| (index, run))).collect();
        let (data, chunk_len) = (stripe.data, stripe.chunk_len);
        WantSlices { chunks, data, chunk_len, needs, have, urgency, likely: tree.likely() }
    }

    /// Makes whole data chunks anew. Only a whole chunk can be checked against its id, so all of its columns are wanted: of any k shards
    /// each, which need not be the same throughout, so no peer is waited for by name.
    async fn rebuild(
        &self,
        tree: &Arc<Tree>,
        stripe: &VerifyStripe,
        lost: Vec<u8>,
        until: Instant,
        urgency: Urgency,
    ) -> Result<(), ReadError> {
        let whole = SliceRange::whole(stripe.chunk_len);
        let needs = lost.iter().map(|index| (*index, whole)).collect();
        self.want(tree, self.want_of(tree, stripe, needs, urgency), until).await?;
        // Readers of neighbouring bytes miss the same chunk at the same time: it is made once.
        let _turn = self.rebuilding.lock().await;
        let (store, of) = (self.store.clone(), stripe.clone());
        let work = move || super::rebuild::rebuild(&store, &of, &lost);
        tokio::task::spawn_blocking(work).await.map_err(|_| ReadError::stopped())?
    }
}

/// Opens the parts into one buffer; `None` when a slice is not here after all.
fn read_parts(
    stripe: &Stripe,
    parts: &[Part],
    total: usize,
    read: impl Fn(&ChunkId, SliceRange) -> Result<Option<Bytes>, ReadError>,
) -> Result<Option<Bytes>, ReadError> {
    let mut out = BytesMut::with_capacity(total);
    for part in parts {
        let chunk = stripe
            .data
            .get(usize::from(part.index))
            .ok_or_else(|| ReadError::manifest("an extent with fewer chunks than its length needs"))?;
        let Some(sealed) = read(&chunk.id, part.slices)? else { return Ok(None) };
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
