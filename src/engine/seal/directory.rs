//! Directories: what of them did not change is found, the rest is sealed leaf by leaf.

use super::disk::{gone, list, xattrs};
use super::{Run, SealError, Sealer, limit};
use crate::base::codec::Writer;
use crate::base::limit::{PACKED_BYTES_MAX, TREE_DEPTH_MAX};
use crate::base::sync::lock;
use crate::base::time::Timestamp;
use crate::content::build::{DirectoryBuilder, Draft, DraftBody, Measure, leaf_ranges, seal_leaf};
use crate::content::directory::{DirectoryChild, EntryKind, Xattrs, check_name, executable};
use crate::content::erasure::Scheme;
use crate::content::reference::NodeRef;
use crate::engine::record::{self, DirectoryRecord, FileRecord, LeafRecord, Stamp};
use rayon::prelude::*;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use tracing::warn;

impl Sealer {
    /// Whether the short files among these were read as they are now.
    fn knows_short(&self, items: &[Item]) -> Result<bool, SealError> {
        for item in items.iter().filter(|item| matches!(item.body, ItemBody::Small)) {
            let found = self.file_record(&record::inode_key(&item.metadata))?;
            if found.is_none_or(|record| record.stamp != Stamp::of(&item.metadata)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Run<'_> {
    /// Seals a directory and everything in it that is not on record. `None`: it is gone.
    pub(super) fn directory(&self, path: &Path, depth: usize) -> Result<Option<DirectoryRecord>, SealError> {
        self.sealer.go_on()?;
        let full = self.full(path);
        if depth > TREE_DEPTH_MAX {
            return Err(limit(&full, format!("directories are nested deeper than {TREE_DEPTH_MAX}")));
        }
        let metadata = match std::fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            Err(error) => return gone(&full, error),
        };
        let key = record::inode_key(&metadata);
        if !self.extent.covers(path)
            && let Some(bytes) = self.sealer.store.state().value(record::DIRECTORIES, &key)?
            && let Ok(record) = DirectoryRecord::from_bytes(&bytes)
        {
            return Ok(Some(record));
        }
        let names = match list(&full) {
            Ok(names) => names,
            Err(error) => return gone(&full, error),
        };
        let items = names.into_par_iter().map(|name| self.item(path, name, depth)).collect::<Result<Vec<_>, _>>()?;
        let items: Vec<Item> = items.into_iter().flatten().collect();
        let measures: Vec<Measure> = items.iter().map(Item::measure).collect();
        let ranges = leaf_ranges(&measures);
        let leaf = |range: Range<usize>| self.leaf(path, items.get(range).unwrap_or_default());
        let children = ranges.into_par_iter().map(leaf).collect::<Result<Vec<_>, _>>()?;
        let Sealer { secret, scheme, .. } = self.sealer;
        let mut builder = DirectoryBuilder::new(secret, *scheme);
        // Files that changed while they were read may have left a leaf without entries.
        let any = children.iter().any(|child| child.entries > 0);
        let mut children = children.into_iter().filter(|child| child.entries > 0 || !any);
        if let Some(first) = children.next() {
            builder.push(first);
            children.filter(|_| any).for_each(|child| builder.push(child));
        }
        let built = builder.finish().map_err(|error| limit(&full, error))?;
        self.nodes(&built.nodes)?;
        let record = DirectoryRecord { node: built.root, bytes: built.bytes, job: self.job };
        self.note(record::DIRECTORIES, key.to_vec(), record.to_bytes())?;
        Ok(Some(record))
    }

    /// One name of a directory, with what is below it sealed. `None`: of a kind that does not travel, or it changed.
    fn item(&self, parent: &Path, name: OsString, depth: usize) -> Result<Option<Item>, SealError> {
        let path = parent.join(&name);
        match self.try_item(&path, name, depth) {
            Err(error @ (SealError::Read { .. } | SealError::Limit { .. })) => {
                self.unreadable(&path, error);
                Ok(None)
            }
            other => other,
        }
    }

    fn try_item(&self, path: &Path, name: OsString, depth: usize) -> Result<Option<Item>, SealError> {
        let full = self.full(path);
        let metadata = match std::fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            Err(error) => return gone(&full, error),
        };
        if check_name(name.as_bytes()).is_err() {
            warn!(path = %full.display(), "this name cannot be published");
            return Ok(None);
        }
        let kind = metadata.file_type();
        let body = if kind.is_dir() {
            match self.directory(path, depth + 1)? {
                Some(record) => ItemBody::Directory { bytes: record.bytes, node: record.node },
                None => return Ok(None),
            }
        } else if kind.is_symlink() {
            match std::fs::read_link(&full) {
                Ok(target) => ItemBody::Symlink(target.into_os_string().into_vec()),
                Err(error) => return gone(&full, error),
            }
        } else if kind.is_file() && metadata.size() < PACKED_BYTES_MAX as u64 {
            ItemBody::Small
        } else if kind.is_file() {
            match self.file(path, &metadata)? {
                Some(node) => ItemBody::File { size: metadata.size(), node },
                None => return Ok(None),
            }
        } else {
            return Ok(None);
        };
        Ok(Some(Item { name: name.into_vec(), xattrs: xattrs(&full), metadata, body }))
    }

    /// Seals a leaf, or takes it from the record of the same leaf.
    fn leaf(&self, parent: &Path, items: &[Item]) -> Result<DirectoryChild, SealError> {
        self.sealer.go_on()?;
        let Sealer { secret, scheme, store, .. } = self.sealer;
        let signature = leaf_signature(*scheme, items);
        if let Some(bytes) = store.state().value(record::LEAVES, &signature)?
            && let Ok(known) = LeafRecord::from_bytes(&bytes)
            && self.sealer.knows_short(items)?
        {
            self.placed(&known.node.id)?;
            let first = items.first().map(|item| item.name.clone()).unwrap_or_default();
            return Ok(DirectoryChild { first, entries: known.entries, bytes: known.bytes, node: known.node });
        }
        let mut drafts = Vec::with_capacity(items.len());
        let mut records = Vec::new();
        let mut whole = true;
        for item in items {
            let path = parent.join(OsStr::from_bytes(&item.name));
            let body = match &item.body {
                ItemBody::Small => {
                    let full = self.full(&path);
                    let (bytes, young) = match self.read_short(&full, &item.metadata) {
                        Ok(Some(read)) => read,
                        other => {
                            match other {
                                Err(source) => self.unreadable(&path, SealError::read(&full, source)),
                                Ok(_) => self.unstable(&path),
                            }
                            whole = false;
                            continue;
                        }
                    };
                    self.sealer.total.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    self.sealer.done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    let executable = executable(item.metadata.mode() as u16);
                    let record = FileRecord { stamp: Stamp::of(&item.metadata), executable, node: None, job: self.job };
                    if young {
                        lock(&self.sink).young.push(path);
                        whole = false;
                    } else {
                        records.push((record::inode_key(&item.metadata), record));
                    }
                    DraftBody::Small(bytes)
                }
                ItemBody::File { size, node } => DraftBody::File { size: *size, node: *node },
                ItemBody::Directory { bytes, node } => DraftBody::Directory { bytes: *bytes, node: *node },
                ItemBody::Symlink(target) => DraftBody::Symlink(target.clone()),
            };
            drafts.push(Draft {
                name: item.name.clone(),
                mode: (item.metadata.mode() & 0o777) as u16,
                mtime: Timestamp { seconds: item.metadata.mtime(), nanos: item.metadata.mtime_nsec() as u32 },
                xattrs: item.xattrs.clone(),
                body,
            });
        }
        let sealed = seal_leaf(secret, *scheme, drafts).map_err(|error| limit(&self.full(parent), error))?;
        if let Some(pack) = &sealed.pack {
            self.stripe(pack)?;
        }
        self.nodes(std::slice::from_ref(&sealed.node))?;
        for (key, record) in records {
            self.note(record::FILES, key.to_vec(), record.to_bytes())?;
        }
        let child = sealed.child;
        if whole {
            let known = LeafRecord { node: child.node, entries: child.entries, bytes: child.bytes };
            self.note(record::LEAVES, signature.to_vec(), known.to_bytes())?;
        }
        Ok(child)
    }
}

/// One name of a directory, before it is sealed.
struct Item {
    name: Vec<u8>,
    metadata: Metadata,
    xattrs: Xattrs,
    body: ItemBody,
}

enum ItemBody {
    /// Read when its leaf is sealed.
    Small,
    File {
        size: u64,
        node: NodeRef,
    },
    Directory {
        bytes: u64,
        node: NodeRef,
    },
    Symlink(Vec<u8>),
}

impl Item {
    fn measure(&self) -> Measure {
        let (kind, size) = match &self.body {
            ItemBody::Small => (EntryKind::File, self.metadata.size()),
            ItemBody::File { size, .. } => (EntryKind::File, *size),
            ItemBody::Directory { bytes, .. } => (EntryKind::Directory, *bytes),
            ItemBody::Symlink(target) => (EntryKind::Symlink, target.len() as u64),
        };
        Measure::new(&self.name, kind, size, &self.xattrs)
    }
}

/// A hash of all that decides what a leaf's chunks will be, without reading its files.
fn leaf_signature(scheme: Scheme, items: &[Item]) -> [u8; 32] {
    let mut out = Writer::new();
    out.raw(&[scheme.k, scheme.m]);
    for item in items {
        out.bytes(&item.name);
        out.uint(u64::from(item.metadata.mode() & 0o777));
        out.int(item.metadata.mtime());
        out.uint(item.metadata.mtime_nsec() as u64);
        out.uint(item.xattrs.len() as u64);
        for (name, value) in &item.xattrs {
            out.bytes(name);
            out.bytes(value);
        }
        match &item.body {
            ItemBody::Small => {
                out.byte(0);
                out.raw(&record::inode_key(&item.metadata));
                Stamp::of(&item.metadata).write(&mut out);
            }
            ItemBody::File { size, node } => {
                out.byte(1);
                out.uint(*size);
                out.raw(&node.id.0);
            }
            ItemBody::Directory { bytes, node } => {
                out.byte(2);
                out.uint(*bytes);
                out.raw(&node.id.0);
            }
            ItemBody::Symlink(target) => {
                out.byte(3);
                out.bytes(target);
            }
        }
    }
    *blake3::hash(&out.into_bytes()).as_bytes()
}
