//! The file system without a kernel: operations as a kernel would ask for them, on a real directory and trees in memory.

mod model;
mod own;
mod swarm;
mod trees;
mod turns;
mod twin;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use self::swarm::{MemorySwarm, Tree};
use super::attr::{Caller, Item, Listing, Lookup};
use super::error::Result;
use super::filesystem::{Filesystem, Settings};
use super::node::ROOT;
use super::outcome::Outcome;
use super::own::enter_thread;

/// A file system, the directory below it, and what it was told.
struct World {
    fs: Arc<Filesystem>,
    swarm: Arc<MemorySwarm>,
    dir: tempfile::TempDir,
}

fn world() -> World {
    world_with([])
}

fn world_with(trees: impl IntoIterator<Item = (&'static str, Tree)>) -> World {
    world_set(trees, Settings::default())
}

fn world_set(trees: impl IntoIterator<Item = (&'static str, Tree)>, settings: Settings) -> World {
    enter_thread().unwrap();
    let trees = trees.into_iter().map(|(name, tree)| (name.to_string(), tree)).collect();
    let swarm = Arc::new(MemorySwarm { trees, ..MemorySwarm::default() });
    let dir = tempfile::tempdir().unwrap();
    let fs = Filesystem::open(dir.path(), swarm.clone(), settings).unwrap();
    World { fs, swarm, dir }
}

/// Runs what is to be waited for.
fn now<T>(outcome: Outcome<T>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(outcome.wait())
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> Errno {
    result.unwrap_err().errno
}

impl World {
    /// The node at `path`, each step looked up as the kernel does.
    fn find(&self, path: &str) -> Option<u64> {
        path.split('/').try_fold(ROOT, |node, name| self.find_in(node, name))
    }

    fn find_in(&self, parent: u64, name: &str) -> Option<u64> {
        match now(self.fs.lookup(parent, OsStr::new(name))).unwrap() {
            Lookup::Found(entry) => Some(entry.node),
            Lookup::Missing(_) => None,
        }
    }

    /// A new file with this content; its node.
    fn file(&self, parent: u64, name: &str, content: &str) -> u64 {
        let flags = rustix::fs::OFlags::WRONLY.bits();
        let (entry, opened) = self.fs.create(parent, OsStr::new(name), flags, 0o644, caller(), &|_| None).unwrap();
        self.fs.write(entry.node, opened.handle, 0, content.as_bytes(), false).unwrap();
        self.fs.flush(entry.node, opened.handle).unwrap();
        self.fs.close_file(entry.node, opened.handle);
        entry.node
    }

    fn directory(&self, parent: u64, name: &str) -> u64 {
        self.fs.mkdir(parent, OsStr::new(name), 0o755, caller()).unwrap().node
    }

    fn content(&self, node: u64) -> String {
        let opened = now(self.fs.open_file(node, 0, &|_| None)).unwrap();
        let bytes = now(self.fs.read(node, opened.handle, 0, 1 << 20)).unwrap();
        self.fs.close_file(node, opened.handle);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// Everything told since the last call.
    fn told(&self) -> Vec<PathBuf> {
        let mut told = std::mem::take(&mut *self.swarm.changed.lock().unwrap());
        told.sort();
        told.dedup();
        told
    }

    /// Those told since the last call with everything below them.
    fn told_below(&self) -> Vec<PathBuf> {
        let mut told = std::mem::take(&mut *self.swarm.below.lock().unwrap());
        told.sort();
        told.dedup();
        told
    }

    /// The names in a directory, read `at_once` at a time, with those attributes that came along.
    fn names(&self, node: u64, at_once: usize, attributes: bool) -> Vec<(String, Option<u64>)> {
        let opened = now(self.fs.open_directory(node)).unwrap();
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            let page = Page { room: at_once, attributes, offset, found: Vec::new() };
            let page = now(self.fs.list(node, opened.handle, offset, page)).unwrap();
            if page.found.is_empty() {
                self.fs.close_directory(node, opened.handle);
                return found;
            }
            offset = page.offset;
            found.extend(page.found);
        }
    }
}

fn caller() -> Caller {
    Caller { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw(), pid: 0 }
}

struct Page {
    room: usize,
    attributes: bool,
    offset: u64,
    found: Vec<(String, Option<u64>)>,
}

impl Listing for Page {
    fn wants_attributes(&self) -> bool {
        self.attributes
    }

    fn add(&mut self, item: &Item<'_>) -> bool {
        if self.found.len() == self.room {
            return false;
        }
        self.offset = item.offset;
        self.found.push((String::from_utf8_lossy(item.name).into_owned(), item.entry.map(|entry| entry.node)));
        true
    }
}
