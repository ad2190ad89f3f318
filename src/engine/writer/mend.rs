//! What of the own tree is to be sealed again because its chunks were found damaged in the store: the files are there, so nothing is lost.

use super::Writer;
use crate::base::digest::ChunkId;
use crate::base::range::SliceRange;
use crate::content::reference::NodeRef;
use crate::content::section::VerifySection;
use crate::engine::change::Changes;
use crate::engine::mark::MarkError;
use crate::engine::record::{self, FileRecord, LeafRecord, SingleRecord};
use crate::store::{Store, StoreError, Table};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;

/// Records looked at at once.
const PAGE: usize = 1024;
/// Damaged chunks are gathered for so long, or as many times as long as it took to find out what the last ones belong to: of a failing disk
/// new ones are found all the time.
const GATHER: Duration = Duration::from_secs(2);
const GATHER_SHARE: u32 = 20;

impl Writer {
    /// Has own chunks that are found damaged in the store sealed again from the files of the tree, until the engine stops.
    pub(in crate::engine) async fn mend(self) {
        let mut stopping = self.inner.stopping.subscribe();
        let mut took = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(GATHER.max(took * GATHER_SHARE)) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let damaged = self.inner.store.take_damaged_own();
            if damaged.is_empty() {
                continue;
            }
            warn!(chunks = damaged.len(), "own chunks are damaged: what they belong to is sealed again");
            let (started, this) = (Instant::now(), self.clone());
            let work = move || forget(&this.inner.store, &damaged, &|| !this.stopping());
            match tokio::task::spawn_blocking(work).await {
                Err(_) | Ok(Err(MarkError::Stopped)) => return,
                Ok(Err(error)) => warn!(%error, "it is not known what damaged chunks belong to"),
                Ok(Ok(())) => {}
            }
            took = started.elapsed();
            self.note(|waiting| waiting.merge(Changes::all()));
        }
    }
}

/// Forgets what is on record of the files and leaves to which the damaged chunks belong, so that the next pass over all of the tree seals
/// them again. Directories are sealed in each such pass. *Cost*: the manifests of all large files are read.
fn forget(store: &Store, damaged: &BTreeSet<ChunkId>, go_on: &dyn Fn() -> bool) -> Result<(), MarkError> {
    let file = |value: &[u8]| FileRecord::from_bytes(value).ok().and_then(|record| record.node);
    let leaf = |value: &[u8]| LeafRecord::from_bytes(value).ok().map(|record| record.node);
    let single = |value: &[u8]| SingleRecord::from_bytes(value).ok().map(|record| record.node);
    forget_in(store, record::FILES, &file, true, damaged, go_on)?;
    forget_in(store, record::SINGLES, &single, true, damaged, go_on)?;
    // What else is below a leaf has records of its own.
    forget_in(store, record::LEAVES, &leaf, false, damaged, go_on)
}

fn forget_in(
    store: &Store,
    table: Table,
    node_of: &dyn Fn(&[u8]) -> Option<NodeRef>,
    deep: bool,
    damaged: &BTreeSet<ChunkId>,
    go_on: &dyn Fn() -> bool,
) -> Result<(), MarkError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.state().range(table, &[], after.as_deref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        let mut doubtful = Vec::new();
        for (key, value) in &page {
            if !go_on() {
                return Err(MarkError::Stopped);
            }
            if let Some(node) = node_of(value)
                && touches(store, &node, deep, damaged, go_on)?
            {
                doubtful.push(key);
            }
        }
        if !doubtful.is_empty() {
            store.state().write(true, |tx| {
                for key in &doubtful {
                    tx.delete(table, key)?;
                }
                Ok::<(), StoreError>(())
            })?;
        }
    }
}

/// Whether a damaged chunk is among those of this node, or of one below it. A node that cannot be read counts as damaged.
fn touches(
    store: &Store,
    node: &NodeRef,
    deep: bool,
    damaged: &BTreeSet<ChunkId>,
    go_on: &dyn Fn() -> bool,
) -> Result<bool, MarkError> {
    let mut pending = vec![node.verify()];
    while let Some(node) = pending.pop() {
        if !go_on() {
            return Err(MarkError::Stopped);
        }
        let bytes =
            if damaged.contains(&node.id) { None } else { store.read(&node.id, SliceRange::whole(node.len))? };
        let Some(Ok(section)) = bytes.map(|bytes| VerifySection::open(&node.key, &bytes)) else { return Ok(true) };
        if section.stripes.iter().flat_map(|stripe| &stripe.ids).any(|id| damaged.contains(id)) {
            return Ok(true);
        }
        if deep {
            pending.extend(section.children);
        }
    }
    Ok(false)
}
