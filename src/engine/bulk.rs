//! Reading for whole trees: files in units of one chunk, and the groups of chunks that a tree consists of without opening them.

use super::error::ReadError;
use super::reader::{Body, FileHandle, Reader, Tree};
use super::survey::Counter;
use crate::base::digest::ChunkId;
use crate::content::cipher::{self, ChunkRef};
use crate::content::manifest::{FileBody, FileNode};
use crate::content::section::VerifyStripe;
use crate::node::input::{Group, Urgency};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// Chunks fetched at once when a tree is kept.
const UNITS: usize = 16;
/// Bytes of a unit that lies in no chunk of its own.
const LOOSE: u64 = 1 << 20;

/// A part of a file that one data chunk holds.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// Of the file.
    pub(super) offset: u64,
    pub(super) len: u64,
    /// The chunk that holds exactly these bytes (zero-padded to its length), where there is one.
    chunk: Option<(ChunkRef, u32)>,
}

impl Unit {
    /// Whether these plaintext bytes are the unit's: they seal to the chunk's id.
    pub(super) fn matches(&self, mut plain: Vec<u8>) -> bool {
        let Some((chunk, len)) = self.chunk else { return false };
        plain.resize(len as usize, 0);
        cipher::open(&chunk.key, 0, &mut plain);
        ChunkId::of(&plain) == chunk.id
    }
}

impl Reader {
    /// The unit that begins at `at`; the caller goes from unit to unit.
    pub(super) async fn unit_at(&self, file: &Arc<FileHandle>, at: u64, until: Instant) -> Result<Unit, ReadError> {
        let left = file.size() - at;
        let Body::Node(node) = &file.body else {
            return Ok(Unit { offset: at, len: left.min(LOOSE), chunk: None });
        };
        if matches!(node.body, FileBody::Inline(_)) {
            return Ok(Unit { offset: at, len: left, chunk: None });
        }
        let (stripe, within) = self.stripe_at(&file.tree, node, at, until).await?;
        let chunk_len = u64::from(stripe.chunk_len.max(1));
        let index = within / chunk_len;
        let end = ((index + 1) * chunk_len).min(stripe.bytes);
        let len = end.saturating_sub(within).min(left);
        if len == 0 {
            return Err(ReadError::manifest("an empty extent"));
        }
        let whole = within == index * chunk_len;
        let chunk = stripe.data.get(index as usize).filter(|_| whole).map(|chunk| (*chunk, stripe.chunk_len));
        Ok(Unit { offset: at, len, chunk })
    }

    /// Bytes of a range, as one of many that are asked for at once.
    pub(super) async fn read_bulk(
        &self,
        file: &Arc<FileHandle>,
        range: Range<u64>,
        until: Instant,
    ) -> Result<Bytes, ReadError> {
        self.read_range(file, range, until, Urgency::Reader).await
    }

    /// Bytes that lie in the node itself.
    pub(super) fn inline(&self, node: &FileNode, range: Range<u64>) -> Result<Bytes, ReadError> {
        let FileBody::Inline(bytes) = &node.body else { return Err(ReadError::manifest("no inline bytes")) };
        let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let part = part.and_then(|(start, end)| bytes.get(start..end));
        part.map(Bytes::copy_from_slice).ok_or_else(|| ReadError::manifest("an inline file shorter than its size"))
    }

    /// Fetches the data chunks of these groups, whole. They are of the tree with this root.
    pub(super) async fn hold(
        &self,
        root: ChunkId,
        groups: &[Group],
        deadline: Duration,
        progress: &Counter,
    ) -> Result<(), ReadError> {
        let tree = Arc::new(Tree::new(root));
        let units = self.fetcher.at_once(UNITS);
        let mut set: JoinSet<Result<u32, ReadError>> = JoinSet::new();
        let one = |done: Option<Result<Result<u32, ReadError>, JoinError>>| {
            let len = done.map_or(Ok(Ok(0)), |done| done).map_err(|_| ReadError::stopped())??;
            progress.done.fetch_add(u64::from(len), Ordering::Relaxed);
            Ok::<(), ReadError>(())
        };
        for group in groups {
            let chunk_len = group.chunks.first().map_or(0, |(_, len)| *len);
            let ids = group.chunks.iter().map(|(id, _)| *id).collect();
            let stripe = Arc::new(VerifyStripe { chunk_len, data: group.data, ids });
            for index in 0..group.data {
                let (fetcher, tree, stripe) = (self.fetcher.clone(), tree.clone(), stripe.clone());
                set.spawn(async move {
                    fetcher.whole(&tree, &stripe, index, Instant::now() + deadline).await.map(|()| chunk_len)
                });
                while set.len() >= units {
                    one(set.join_next().await)?;
                }
            }
        }
        while !set.is_empty() {
            one(set.join_next().await)?;
        }
        Ok(())
    }
}
