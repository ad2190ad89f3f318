//! The nodes of the own tree that the kernel knows: identity, names, and a bounded stock of open descriptors.
//!
//! A node is named by device and inode number. It remembers where it was seen (directory and name), which stays true because every change of
//! names passes through us; from there a descriptor is opened when needed and dropped when too many are open. A node that loses its last known
//! name keeps its descriptor for as long as the kernel knows the node, so its inode number cannot come back for another file.

use crate::base::sync::lock;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::backing::Openings;

/// The root's number towards the kernel.
pub(crate) const ROOT: u64 = 1;

/// Numbers from here on are for files whose inode number cannot serve.
const STRANGE: u64 = 1 << 61;

/// Names remembered of one node; a file with more hard links than this is reported by the root of the tree.
const PLACES_MAX: usize = 16;

/// A directory tree deeper than this has a cycle in our books.
const DEPTH_MAX: usize = 4096;

/// What tells files apart on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    dev: u64,
    ino: u64,
}

impl Key {
    /// Device and inode number.
    pub(crate) fn numbers(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

impl From<&Stat> for Key {
    fn from(stat: &Stat) -> Key {
        Key { dev: stat.st_dev, ino: stat.st_ino }
    }
}

/// A name of a node.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) parent: Arc<Node>,
    pub(crate) name: Box<[u8]>,
}

impl Place {
    pub(crate) fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }
}

/// Content as it was when we last touched it, to notice changes made behind our back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    size: i64,
    mtime: (i64, u64),
}

impl From<&Stat> for Stamp {
    fn from(stat: &Stat) -> Stamp {
        Stamp { size: stat.st_size, mtime: (stat.st_mtime, stat.st_mtime_nsec) }
    }
}

/// A file or directory that the kernel knows by number.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) key: Key,
    pub(crate) kind: FileType,
    pub(crate) stamp: Mutex<Option<Stamp>>,
    pub(super) openings: Openings,
    /// Held while the file is written to and its times are put back, or set.
    pub(super) times: Mutex<()>,
    places: Mutex<Vec<Place>>,
    fd: Mutex<Option<Arc<OwnedFd>>>,
    used: AtomicBool,
    pinned: AtomicBool,
    dead: AtomicBool,
}

impl Node {
    fn new(id: u64, key: Key, kind: FileType) -> Node {
        Node {
            id,
            key,
            kind,
            stamp: Mutex::default(),
            openings: Openings::default(),
            times: Mutex::default(),
            places: Mutex::default(),
            fd: Mutex::default(),
            used: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        }
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        lock(&self.places).iter().filter(|place| !place.parent.dead.load(Ordering::Relaxed)).cloned().collect()
    }

    /// Remembers a name; `nlink` is how many the file has.
    fn seen(&self, parent: &Arc<Node>, name: &[u8], nlink: u64) {
        let mut places = lock(&self.places);
        if let Some(place) = places.iter_mut().find(|place| place.parent.id == parent.id && *place.name == *name) {
            // The kernel may have forgotten the directory, and learned it anew, before it forgot this.
            place.parent = parent.clone();
            return;
        }
        if nlink <= 1 || self.kind == FileType::Directory {
            places.clear();
        } else if places.len() >= PLACES_MAX {
            places.remove(0);
        }
        places.push(Place { parent: parent.clone(), name: name.into() });
    }

    /// The path below the root of the tree; `None` when it has no name any more.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        if self.id == ROOT {
            return Some(PathBuf::new());
        }
        let mut names = Vec::new();
        let mut place = lock(&self.places).first().cloned()?;
        loop {
            names.push(place.name);
            let parent = place.parent;
            if parent.id == ROOT {
                break;
            }
            if names.len() > DEPTH_MAX {
                return None;
            }
            place = lock(&parent.places).first().cloned()?;
        }
        Some(names.iter().rev().map(|name| OsStr::from_bytes(name)).collect())
    }
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<u64, (Arc<Node>, u64)>,
    by_key: HashMap<Key, u64>,
}

/// All nodes that the kernel knows.
#[derive(Debug)]
pub(crate) struct Nodes {
    root: Arc<Node>,
    next: AtomicU64,
    table: Mutex<Table>,
    /// Nodes with an open descriptor, oldest first.
    open: Mutex<VecDeque<Weak<Node>>>,
    open_max: usize,
}

impl Nodes {
    /// Takes the open directory `root` as the top; keeps at most about `open_max` descriptors.
    pub(crate) fn new(root: OwnedFd, stat: &Stat, open_max: usize) -> Nodes {
        let node = Arc::new(Node::new(ROOT, stat.into(), FileType::Directory));
        *lock(&node.fd) = Some(Arc::new(root));
        let mut table = Table::default();
        table.by_key.insert(node.key, ROOT);
        table.by_id.insert(ROOT, (node.clone(), 1));
        Nodes {
            root: node,
            next: AtomicU64::new(STRANGE),
            table: Mutex::new(table),
            open: Mutex::default(),
            open_max: open_max.max(16),
        }
    }

    pub(crate) fn root(&self) -> &Arc<Node> {
        &self.root
    }

    pub(crate) fn find(&self, id: u64) -> Result<Arc<Node>, Errno> {
        lock(&self.table).by_id.get(&id).map(|(node, _)| node.clone()).ok_or(Errno::STALE)
    }

    pub(crate) fn find_key(&self, key: Key) -> Option<Arc<Node>> {
        let table = lock(&self.table);
        table.by_key.get(&key).and_then(|id| table.by_id.get(id)).map(|(node, _)| node.clone())
    }

    /// A new node's number: the inode number, which programs are shown and may remember; another where that one is taken or of another disk.
    fn number(&self, table: &Table, key: Key) -> u64 {
        let fits = key.dev == self.root.key.dev && key.ino > ROOT && key.ino < STRANGE;
        if fits && !table.by_id.contains_key(&key.ino) {
            return key.ino;
        }
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The node of the file `stat` found as `name` in `parent`, counting one look-up.
    pub(crate) fn intern(&self, parent: &Arc<Node>, name: &[u8], stat: &Stat) -> Arc<Node> {
        let (key, kind) = (Key::from(stat), FileType::from_raw_mode(stat.st_mode));
        let node = {
            let mut table = lock(&self.table);
            let known = table.by_key.get(&key).copied();
            match known.and_then(|id| table.by_id.get_mut(&id)) {
                Some((node, lookups)) if node.kind == kind => {
                    *lookups = lookups.saturating_add(1);
                    node.clone()
                }
                _ => {
                    let id = self.number(&table, key);
                    let node = Arc::new(Node::new(id, key, kind));
                    table.by_key.insert(key, id);
                    table.by_id.insert(id, (node.clone(), 1));
                    node
                }
            }
        };
        node.seen(parent, name, stat.st_nlink);
        node
    }

    /// The node of a file that has no name, counting one look-up.
    pub(crate) fn intern_nameless(&self, fd: OwnedFd, stat: &Stat) -> Arc<Node> {
        let (key, kind) = (Key::from(stat), FileType::from_raw_mode(stat.st_mode));
        let mut table = lock(&self.table);
        let id = self.number(&table, key);
        let node = Arc::new(Node::new(id, key, kind));
        *lock(&node.fd) = Some(Arc::new(fd));
        node.pinned.store(true, Ordering::Relaxed);
        table.by_key.insert(key, id);
        table.by_id.insert(id, (node.clone(), 1));
        node
    }

    /// The kernel takes back `lookups` of its look-ups. Gives the node if those were all.
    pub(crate) fn forget(&self, id: u64, lookups: u64) -> Option<Arc<Node>> {
        if id == ROOT {
            return None;
        }
        let mut table = lock(&self.table);
        let (_, count) = table.by_id.get_mut(&id)?;
        *count = count.saturating_sub(lookups);
        if *count > 0 {
            return None;
        }
        let (node, _) = table.by_id.remove(&id)?;
        node.dead.store(true, Ordering::Relaxed);
        if table.by_key.get(&node.key) == Some(&id) {
            table.by_key.remove(&node.key);
        }
        // Closing the descriptor may take its time: that is for the caller, without the table.
        Some(node)
    }

    /// Nodes known now.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.table).by_id.len()
    }

    /// The name is about to be taken from the node. Returns what undoes it, should the operation fail.
    pub(crate) fn unname(&self, parent: &Arc<Node>, name: &[u8]) -> Option<Unnamed> {
        let dir = self.fd(parent).ok()?;
        let stat = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let node = self.find_key((&stat).into())?;
        let mut places = lock(&node.places);
        let last = places.iter().all(|place| place.parent.id == parent.id && *place.name == *name);
        drop(places);
        // Hold the inode by a descriptor before its last known name goes: programs may still have it open.
        if last && self.fd(&node).is_ok() {
            node.pinned.store(true, Ordering::Relaxed);
        }
        places = lock(&node.places);
        let before = places.len();
        places.retain(|place| !(place.parent.id == parent.id && *place.name == *name));
        let removed = places.len() < before;
        drop(places);
        Some(Unnamed { node, place: removed.then(|| Place { parent: parent.clone(), name: name.into() }) })
    }

    /// A descriptor that stands for the node (`O_PATH`).
    pub(crate) fn fd(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>, Errno> {
        node.used.store(true, Ordering::Relaxed);
        if let Some(fd) = lock(&node.fd).as_ref() {
            return Ok(fd.clone());
        }
        let fd = Arc::new(self.open_at(node, OFlags::PATH)?);
        let mut slot = lock(&node.fd);
        if let Some(fd) = slot.as_ref() {
            return Ok(fd.clone());
        }
        *slot = Some(fd.clone());
        drop(slot);
        self.opened(node);
        Ok(fd)
    }

    /// Opens the node by one of its names, making sure that it is that node.
    pub(crate) fn open_at(&self, node: &Arc<Node>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for place in node.places() {
            let dir = self.fd(&place.parent)?;
            let fd = match rustix::fs::openat(&*dir, place.name(), flags, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error),
            };
            if Key::from(&rustix::fs::fstat(&fd)?) == node.key {
                return Ok(fd);
            }
        }
        Err(Errno::STALE)
    }

    pub(crate) fn stat(&self, node: &Arc<Node>) -> Result<Stat, Errno> {
        if let Some(fd) = lock(&node.fd).as_ref() {
            return rustix::fs::fstat(fd);
        }
        for place in node.places() {
            let dir = self.fd(&place.parent)?;
            match rustix::fs::statat(&*dir, place.name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if Key::from(&stat) == node.key => return Ok(stat),
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::STALE)
    }

    /// Counts the node's new descriptor and closes old ones beyond the limit, sparing those in use.
    fn opened(&self, node: &Arc<Node>) {
        let mut closing = Vec::new();
        let mut open = lock(&self.open);
        open.push_back(Arc::downgrade(node));
        let mut tries = open.len().min(64);
        while open.len() > self.open_max && tries > 0 {
            tries -= 1;
            let Some(weak) = open.pop_front() else { break };
            let Some(old) = weak.upgrade() else { continue };
            if old.used.swap(false, Ordering::Relaxed) || old.pinned.load(Ordering::Relaxed) {
                open.push_back(weak);
                continue;
            }
            let mut slot = lock(&old.fd);
            if slot.as_ref().is_some_and(|fd| Arc::strong_count(fd) > 1) {
                open.push_back(weak);
            } else {
                closing.push(slot.take());
            }
        }
    }
}

/// A name that was taken from a node.
#[derive(Debug)]
pub(crate) struct Unnamed {
    pub(crate) node: Arc<Node>,
    place: Option<Place>,
}

impl Unnamed {
    /// The operation failed: the name stands as before.
    pub(crate) fn undo(self) -> Arc<Node> {
        if let Some(place) = self.place {
            lock(&self.node.places).push(place);
            self.node.pinned.store(false, Ordering::Relaxed);
        }
        self.node
    }

    /// The node goes by a new name; its old one is gone.
    pub(crate) fn moved(self, parent: &Arc<Node>, name: &[u8], nlink: u64) {
        self.node.seen(parent, name, nlink);
        self.node.pinned.store(false, Ordering::Relaxed);
    }
}
