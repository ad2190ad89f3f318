//! The same store in memory, written for clarity: the oracle of the tests, and a store for simulated nodes.

use super::schema::Class;
use super::{Held, StoreError};
use crate::base::digest::ChunkId;
use crate::base::limit::{CHUNK_BYTES_MAX, SLICE_BYTES};
use crate::base::range::{SliceRange, slice_count};
use crate::content::chunk::Outline;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default)]
struct Chunk {
    outline: Outline,
    slices: BTreeMap<u8, Bytes>,
    class: Class,
}

/// Chunks in memory, never evicted unless asked for.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    chunks: BTreeMap<ChunkId, Chunk>,
    pins: BTreeMap<ChunkId, BTreeSet<ChunkId>>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// See `Store::put`.
    pub fn put(
        &mut self,
        id: &ChunkId,
        outline: &Outline,
        bytes: impl Into<Bytes>,
        class: Class,
    ) -> Result<(), StoreError> {
        self.put_slices(id, outline, 0, bytes, class)
    }

    /// See `Store::put_slices`.
    pub fn put_slices(
        &mut self,
        id: &ChunkId,
        outline: &Outline,
        first: u8,
        bytes: impl Into<Bytes>,
        class: Class,
    ) -> Result<(), StoreError> {
        let bytes: Bytes = bytes.into();
        let start = usize::from(first) * SLICE_BYTES;
        let end = start + bytes.len();
        let len = outline.len as usize;
        let ends_well = end == len || end < len && end.is_multiple_of(SLICE_BYTES);
        if bytes.is_empty() || len > CHUNK_BYTES_MAX || !ends_well {
            return Err(StoreError::Slices(*id));
        }
        if !outline.verify(id) {
            return Err(StoreError::Outline(*id));
        }
        let chunk = self.chunks.entry(*id).or_default();
        chunk.outline = outline.clone();
        chunk.class = chunk.class.stronger(class);
        for (place, from) in (0..bytes.len()).step_by(SLICE_BYTES).enumerate() {
            let slice = bytes.slice(from..(from + SLICE_BYTES).min(bytes.len()));
            chunk.slices.insert(first + place as u8, slice);
        }
        Ok(())
    }

    /// See `Store::slices`.
    pub fn slices(&self, id: &ChunkId) -> Option<Held> {
        let chunk = self.chunks.get(id).filter(|chunk| !chunk.slices.is_empty())?;
        let mask = chunk.slices.keys().fold(0, |mask, index| mask | 1 << index);
        Some(Held { chunk_len: chunk.outline.len, mask, outline: true })
    }

    /// See `Store::holds`.
    pub fn holds(&self, id: &ChunkId) -> bool {
        self.slices(id).is_some_and(|held| held.is_whole())
    }

    /// See `Store::read`.
    pub fn read(&self, id: &ChunkId, slices: SliceRange) -> Option<Bytes> {
        let chunk = self.chunks.get(id)?;
        let end = slices.end().min(slice_count(chunk.outline.len));
        if slices.first >= end {
            return None;
        }
        let mut out = Vec::new();
        for index in slices.first..end {
            out.extend_from_slice(chunk.slices.get(&index)?);
        }
        Some(Bytes::from(out))
    }

    /// See `Store::outline`.
    pub fn outline(&self, id: &ChunkId) -> Option<Outline> {
        self.chunks.get(id).filter(|chunk| !chunk.slices.is_empty()).map(|chunk| chunk.outline.clone())
    }

    /// See `Store::class`; a chunk of which only the class `Cached` is known is not known.
    pub fn class(&self, id: &ChunkId) -> Option<Class> {
        self.chunks.get(id).map(|chunk| chunk.class)
    }

    /// See `Store::set_class`.
    pub fn set_class(&mut self, ids: &[ChunkId], class: Class) {
        for id in ids {
            self.chunks.entry(*id).or_default().class = class;
        }
        self.tidy(ids);
    }

    /// See `Store::pin`.
    pub fn pin(&mut self, root: &ChunkId, ids: &[ChunkId]) {
        for id in ids {
            self.pins.entry(*root).or_default().insert(*id);
            self.chunks.entry(*id).or_default();
        }
    }

    /// See `Store::unpin`.
    pub fn unpin(&mut self, root: &ChunkId) {
        let ids: Vec<ChunkId> = self.pins.remove(root).unwrap_or_default().into_iter().collect();
        self.tidy(&ids);
    }

    /// Whether any pin covers the chunk.
    pub fn is_pinned(&self, id: &ChunkId) -> bool {
        self.pins.values().any(|ids| ids.contains(id))
    }

    /// See `Store::remove`.
    pub fn remove(&mut self, ids: &[ChunkId]) {
        for id in ids {
            self.chunks.remove(id);
        }
    }

    /// Drops slices of a chunk, as damage does.
    pub fn drop_slices(&mut self, id: &ChunkId, mask: u64) {
        if let Some(chunk) = self.chunks.get_mut(id) {
            chunk.slices.retain(|index, _| mask >> index & 1 == 0);
        }
        self.tidy(&[*id]);
    }

    /// See `Store::whole_chunks`.
    pub fn whole_chunks(&self, after: Option<&ChunkId>, max: usize) -> Vec<ChunkId> {
        let after = self.chunks.keys().filter(|id| after.is_none_or(|after| *id > after));
        after.filter(|id| self.holds(id)).take(max).copied().collect()
    }

    /// All ids of which anything is known.
    pub fn ids(&self) -> impl Iterator<Item = &ChunkId> {
        self.chunks.keys()
    }

    fn tidy(&mut self, ids: &[ChunkId]) {
        for id in ids {
            let pinned = self.is_pinned(id);
            if self
                .chunks
                .get(id)
                .is_some_and(|chunk| chunk.slices.is_empty() && chunk.class == Class::Cached && !pinned)
            {
                self.chunks.remove(id);
            }
        }
    }
}
