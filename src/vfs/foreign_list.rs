//! Listing published directories, with attributes straight from their leaves.

use std::collections::VecDeque;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::attr::{Item, Listing};
use super::control::REF;
use super::error::Result;
use super::foreign::{Foreign, ForeignNode};
use super::outcome::Outcome;
use super::swarm::{RemoteDirectory, RemoteEntry, RemoteKind};

/// An open published directory. A position is the number of names passed, `.` and `..` included.
#[derive(Debug)]
pub(crate) struct OpenForeignDirectory {
    node: Arc<ForeignNode>,
    read: tokio::sync::Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    /// Names in order, as far as they were read.
    names: Vec<Box<[u8]>>,
    /// Entries from `position` on that were read and not yet passed on.
    waiting: VecDeque<RemoteEntry>,
    position: usize,
}

impl Read {
    /// Goes to `position`, dropping what was read ahead elsewhere. The kernel passes on what another listing brought as long as it has that
    /// in its cache, and asks for the rest alone: the names before are read here first then.
    async fn go(&mut self, directory: &dyn RemoteDirectory, position: usize) -> Result<()> {
        if self.position == position {
            return Ok(());
        }
        self.waiting.clear();
        while self.names.len() < position {
            let more = directory.list(self.names.last().map(|name| &**name)).await?;
            if more.is_empty() {
                break;
            }
            self.names.extend(more.iter().map(|entry| entry.name.as_slice().into()));
        }
        self.position = position.min(self.names.len());
        Ok(())
    }

    async fn fill(&mut self, directory: &dyn RemoteDirectory) -> Result<bool> {
        if self.waiting.is_empty() {
            let after = self.position.checked_sub(1).and_then(|last| self.names.get(last));
            let more = directory.list(after.map(|name| &**name)).await?;
            for (index, entry) in more.iter().enumerate() {
                if self.position + index == self.names.len() {
                    self.names.push(entry.name.as_slice().into());
                }
            }
            self.waiting.extend(more);
        }
        Ok(!self.waiting.is_empty())
    }
}

impl Foreign {
    pub(crate) fn open_directory(&self, id: u64) -> Result<u64> {
        let node = self.find(id)?;
        Ok(self.directories.insert(OpenForeignDirectory { node, read: tokio::sync::Mutex::default() }))
    }

    pub(crate) fn close_directory(&self, handle: u64) {
        self.directories.remove(handle);
    }

    pub(crate) fn list<L: Listing>(self: &Arc<Self>, handle: u64, offset: u64, mut listing: L) -> Outcome<L> {
        let directory = match self.directories.find(handle) {
            Ok(directory) => directory,
            Err(error) => return Outcome::refused(error),
        };
        let this = self.clone();
        Outcome::later(async move {
            let path = || this.path(directory.node.id);
            let listed = this.fill(&directory, offset, &mut listing).await;
            this.noted(path, None, listed)?;
            Ok(listing)
        })
    }

    async fn fill(&self, open: &OpenForeignDirectory, offset: u64, listing: &mut dyn Listing) -> Result<()> {
        let node = &open.node;
        let offset = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
        for (index, name) in [".", ".."].into_iter().enumerate().skip(offset) {
            let after = index as u64 + 1;
            let item =
                Item { ino: node.id, offset: after, kind: FileType::Directory, name: name.as_bytes(), entry: None };
            if !listing.add(&item) {
                return Ok(());
            }
        }
        let directory = node.directory().await?;
        let mut read = open.read.lock().await;
        read.go(&*directory, offset.saturating_sub(2)).await?;
        while read.fill(&*directory).await? {
            while let Some(found) = read.waiting.front() {
                let kind = match found.kind {
                    RemoteKind::File => FileType::RegularFile,
                    RemoteKind::Directory => FileType::Directory,
                    RemoteKind::Symlink(_) => FileType::Symlink,
                };
                let name = found.name.clone();
                // One that cannot be had by name must not spoil the list.
                let entry = if listing.wants_attributes() { self.intern_entry(node, found.clone()).ok() } else { None };
                let ino = entry.map_or_else(|| Foreign::number(node.id, &name, 0), |entry| entry.node);
                let after = read.position as u64 + 3;
                if !listing.add(&Item { ino, offset: after, kind, name: &name, entry }) {
                    if let Some(entry) = entry {
                        self.forget(entry.node, 1);
                    }
                    return Ok(());
                }
                read.waiting.pop_front();
                read.position += 1;
            }
        }
        Ok(())
    }

    /// Where the node is below the mount point.
    pub(crate) fn path(&self, id: u64) -> std::path::PathBuf {
        if id == REF { "ref".into() } else { self.find(id).map(|node| node.path()).unwrap_or_default() }
    }
}
