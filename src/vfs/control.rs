//! The directories that exist in the mount alone: `ref`, `names` and `.tornet`, with the control files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::attr::{Attr, Entry, Item, KEPT, Listing, Lookup, Opened};
use super::handle::Handles;
use super::outcome::Outcome;
use super::swarm::Swarm;
use crate::base::time::Timestamp;

/// Set in the number of every node of this kind.
pub(crate) const CONTROL: u64 = 1 << 62;

/// Whether this number names a node of the mount's own. They are always there, and not counted.
pub fn is_control(node: u64) -> bool {
    node & CONTROL != 0
}

/// The directory in which references resolve.
pub(crate) const REF: u64 = CONTROL | 1;
/// The directory of control files.
pub(crate) const TORNET: u64 = CONTROL | 2;
/// The directory of mutable names.
pub(crate) const NAMES: u64 = CONTROL | 3;
const FILES: u64 = CONTROL | 16;
/// Set in the number of a mutable name of which nothing more is known than that it is there: a listing has to give it some.
const UNKNOWN: u64 = 1 << 32;

/// A number for a mutable name that leads nowhere yet. What it leads to has another, and is looked up anew each time.
pub(super) fn unknown(name: &[u8]) -> u64 {
    let [a, b, c, d, ..] = *blake3::hash(name).as_bytes();
    CONTROL | UNKNOWN | u64::from(u32::from_le_bytes([a, b, c, d]))
}

/// The directories at the top of the tree, in the order of listing.
pub(crate) const TOP: [(&[u8], u64); 3] = [(b".tornet", TORNET), (b"names", NAMES), (b"ref", REF)];

/// Whose files these are, and since when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) since: Timestamp,
}

/// The directories of the mount's own.
pub(crate) struct Control {
    swarm: Arc<dyn Swarm>,
    owner: Owner,
    open: Handles<Vec<u8>>,
}

impl Control {
    pub(crate) fn new(swarm: Arc<dyn Swarm>, owner: Owner) -> Control {
        Control { swarm, owner, open: Handles::default() }
    }

    fn name(&self, node: u64) -> Option<&'static str> {
        let index = usize::try_from(node.checked_sub(FILES)?).ok()?;
        self.swarm.control_names().get(index).copied()
    }

    pub(crate) fn attr(&self, node: u64) -> Result<Attr, Errno> {
        let (mode, nlink) = match node {
            // With the right to write, so that an attempt to do so is answered "read-only" and not "permission denied".
            REF => (0o40755, 2),
            // Of nobody else's business, where others are let into the mount.
            NAMES | TORNET => (0o40700, 2),
            _ if node & UNKNOWN != 0 => (0o40755, 2),
            _ if self.name(node).is_some() => (0o100444, 1),
            _ => return Err(Errno::STALE),
        };
        let Owner { uid, gid, since } = self.owner;
        Ok(Attr {
            ino: node,
            size: 0,
            blocks: 0,
            atime: since,
            mtime: since,
            ctime: since,
            mode,
            nlink,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
        })
    }

    pub(crate) fn entry(&self, node: u64) -> Result<Entry, Errno> {
        Ok(Entry { node, attr: self.attr(node)?, kept: KEPT })
    }

    /// The directory of that name at the top of the tree.
    pub(crate) fn top(&self, name: &OsStr) -> Option<Result<Entry, Errno>> {
        let (_, node) = TOP.iter().find(|(known, _)| *known == name.as_bytes())?;
        Some(self.entry(*node))
    }

    /// Looks a control file up.
    pub(crate) fn lookup(&self, name: &OsStr) -> Result<Lookup, Errno> {
        match self.swarm.control_names().iter().position(|known| known.as_bytes() == name.as_bytes()) {
            Some(index) => Ok(Lookup::Found(self.entry(FILES + index as u64)?)),
            None => Ok(Lookup::Missing(KEPT)),
        }
    }

    /// Opens a control file: its content is that of this moment.
    pub(crate) fn open(self: &Arc<Self>, node: u64, writing: bool) -> Outcome<Opened> {
        let Some(name) = self.name(node) else { return Outcome::refused(Errno::ISDIR) };
        if writing {
            return Outcome::refused(Errno::ROFS);
        }
        let (this, content) = (self.clone(), self.swarm.control(name));
        Outcome::later(async move {
            let handle = this.open.insert(content.await?);
            Ok(Opened { handle, keep_cache: false, direct: true, no_flush: true, ..Opened::default() })
        })
    }

    pub(crate) fn read(&self, handle: u64, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let content = self.open.find(handle)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let end = start.saturating_add(len as usize).min(content.len());
        Ok(content.get(start..end).unwrap_or_default().to_vec())
    }

    pub(crate) fn close(&self, handle: u64) {
        self.open.remove(handle);
    }

    /// Lists `ref` (nothing: its names are all references there are) or the control files.
    pub(crate) fn list(&self, node: u64, offset: u64, listing: &mut dyn Listing) -> Result<(), Errno> {
        let files: &[&str] = if node == TORNET { self.swarm.control_names() } else { &[] };
        let dots = [".", ".."].into_iter().map(|name| (name, node, FileType::Directory, None));
        let files = files.iter().enumerate().map(|(index, name)| {
            let node = FILES + index as u64;
            (*name, node, FileType::RegularFile, self.entry(node).ok())
        });
        for (index, (name, ino, kind, entry)) in dots.chain(files).enumerate() {
            let after = index as u64 + 1;
            if after <= offset {
                continue;
            }
            let entry = entry.filter(|_| listing.wants_attributes());
            if !listing.add(&Item { ino, offset: after, kind, name: name.as_bytes(), entry }) {
                break;
            }
        }
        Ok(())
    }
}
