//! Reading for whole trees: files in units of one chunk, and the groups of chunks that a tree consists of.

use super::error::ReadError;
use super::node_cache::CachedNode;
use super::reader::{Body, DirectoryHandle, FileHandle, Reader};
use super::survey::Counter;
use crate::base::digest::ChunkId;
use crate::base::limit::MANIFEST_DEPTH_MAX;
use crate::content::cipher::{self, ChunkRef};
use crate::content::directory::EntryBody;
use crate::content::manifest::{FileBody, FileNode};
use crate::content::section::Stripe;
use crate::node::input::Urgency;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Units fetched at once when a tree is kept.
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

type AddGroup<'a> = dyn Fn(Vec<ChunkId>, usize) + Sync + 'a;

fn stripe_group(stripe: &Stripe) -> (Vec<ChunkId>, usize) {
    (stripe.ids().collect(), stripe.data.len())
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

    /// Fetches all of a file without reading it.
    pub(super) async fn hold(
        &self,
        file: &Arc<FileHandle>,
        deadline: Duration,
        progress: &Counter,
    ) -> Result<(), ReadError> {
        let mut set: JoinSet<Result<u64, ReadError>> = JoinSet::new();
        let mut at = 0;
        while at < file.size() || !set.is_empty() {
            if at < file.size() && set.len() < UNITS {
                let unit = self.unit_at(file, at, Instant::now() + deadline).await?;
                at += unit.len;
                let (reader, file) = (self.clone(), file.clone());
                set.spawn(async move {
                    let until = Instant::now() + deadline;
                    let range = unit.offset..unit.offset + unit.len;
                    reader.read_range(&file, range, until, Urgency::Bulk).await.map(|bytes| bytes.len() as u64)
                });
            } else if let Some(done) = set.join_next().await {
                progress.done.fetch_add(done.map_err(|_| ReadError::stopped())??, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// All groups of a directory itself: its nodes, the packs of its leaves, the root nodes of its files.
    pub(super) async fn directory_groups(
        &self,
        directory: &DirectoryHandle,
        deadline: Duration,
        add: &AddGroup<'_>,
    ) -> Result<(), ReadError> {
        let mut stack = vec![(directory.node, directory.claim.clone(), 0)];
        while let Some((node, claim, depth)) = stack.pop() {
            if depth >= MANIFEST_DEPTH_MAX {
                return Err(ReadError::manifest("a directory deeper than the limit"));
            }
            add(vec![node.id], 1);
            match self.claimed_node(&directory.tree, &node, &claim, Instant::now() + deadline).await? {
                CachedNode::Leaf { leaf, pack } => {
                    for entry in &leaf.entries {
                        if let EntryBody::File(node) = &entry.body {
                            add(vec![node.id], 1);
                        }
                    }
                    if let Some(pack) = pack {
                        let (ids, needed) = stripe_group(&pack);
                        add(ids, needed);
                    }
                }
                CachedNode::Inner(inner) => stack.extend(
                    (inner.children.iter().enumerate())
                        .map(|(place, child)| (child.node, claim.of_child(&inner, place), depth + 1)),
                ),
                CachedNode::File(_) => return Err(ReadError::manifest("a file stands where a directory should")),
            }
        }
        Ok(())
    }

    /// All groups of a file's body.
    pub(super) async fn file_groups(
        &self,
        file: &FileHandle,
        deadline: Duration,
        add: &AddGroup<'_>,
    ) -> Result<(), ReadError> {
        let Body::Node(root) = &file.body else { return Ok(()) };
        let mut stack = vec![(root.clone(), 0)];
        while let Some((node, depth)) = stack.pop() {
            if depth >= MANIFEST_DEPTH_MAX {
                return Err(ReadError::manifest("a manifest deeper than the limit"));
            }
            match &node.body {
                FileBody::Inline(_) => {}
                FileBody::Stripes(stripes) => {
                    for stripe in stripes {
                        let (ids, needed) = stripe_group(stripe);
                        add(ids, needed);
                    }
                }
                FileBody::Inner { children, .. } => {
                    for child in children {
                        add(vec![child.node.id], 1);
                        let node = self.file_node(&file.tree, &child.node, Instant::now() + deadline).await?;
                        stack.push((node, depth + 1));
                    }
                }
            }
        }
        Ok(())
    }
}
