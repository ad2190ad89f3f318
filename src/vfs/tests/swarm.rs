//! A swarm in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::io::Errno;

use crate::base::time::Timestamp;
use crate::vfs::error::{Error, Result};
use crate::vfs::outcome::{Outcome, Waiting};
use crate::vfs::swarm::{
    AskOpenFiles, Leads, MayBeMapped, Reach, Remote, RemoteContent, RemoteDirectory, RemoteEntry, RemoteFile,
    RemoteKind, Swarm,
};

/// A published tree.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    File(Vec<u8>),
    Link(&'static str),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

impl Tree {
    pub(crate) fn directory(entries: impl IntoIterator<Item = (&'static str, Tree)>) -> Tree {
        Tree::Directory(entries.into_iter().map(|(name, tree)| (name.as_bytes().to_vec(), tree)).collect())
    }

    fn remote(&self, silent: &Arc<AtomicBool>) -> Remote {
        let node = Node { tree: self.clone(), silent: silent.clone() };
        match self {
            Tree::Directory(_) => Remote::Directory(Arc::new(node)),
            Tree::File(_) | Tree::Link(_) => Remote::File(Arc::new(node)),
        }
    }
}

#[derive(Debug)]
struct Node {
    tree: Tree,
    silent: Arc<AtomicBool>,
}

impl Node {
    fn answer<T: Send + 'static>(&self, value: T) -> Waiting<T> {
        let silent = self.silent.load(Ordering::Relaxed);
        Box::pin(
            async move { if silent { Err(Error::because(Errno::TIMEDOUT, "no peer answered")) } else { Ok(value) } },
        )
    }

    fn entry(&self, name: &[u8], tree: &Tree) -> RemoteEntry {
        let (kind, size) = match tree {
            Tree::File(bytes) => (RemoteKind::File, bytes.len()),
            Tree::Link(target) => (RemoteKind::Symlink(target.as_bytes().to_vec()), target.len()),
            Tree::Directory(_) => (RemoteKind::Directory, 0),
        };
        RemoteEntry {
            name: name.to_vec(),
            kind,
            mode: 0o6755 & 0o777,
            mtime: Timestamp { seconds: -5, nanos: 7 },
            size: size as u64,
            xattrs: vec![(b"user.colour".to_vec(), b"red".to_vec())],
            content: Arc::new(Node { tree: tree.clone(), silent: self.silent.clone() }),
        }
    }

    fn entries(&self) -> Vec<RemoteEntry> {
        let Tree::Directory(entries) = &self.tree else { return Vec::new() };
        entries.iter().map(|(name, tree)| self.entry(name, tree)).collect()
    }
}

impl RemoteFile for Node {
    fn size(&self) -> u64 {
        if let Tree::File(bytes) = &self.tree { bytes.len() as u64 } else { 0 }
    }

    fn executable(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, len: u32) -> Waiting<Bytes> {
        let Tree::File(bytes) = &self.tree else { panic!("not a file") };
        let start = (offset as usize).min(bytes.len());
        let end = (start + len as usize).min(bytes.len());
        self.answer(Bytes::copy_from_slice(&bytes[start..end]))
    }
}

impl RemoteDirectory for Node {
    fn find(&self, name: &[u8]) -> Waiting<Option<RemoteEntry>> {
        self.answer(self.entries().into_iter().find(|entry| entry.name == name))
    }

    fn list(&self, after: Option<&[u8]>) -> Waiting<Vec<RemoteEntry>> {
        let follows = |entry: &RemoteEntry| after.is_none_or(|after| *entry.name > *after);
        self.answer(self.entries().into_iter().filter(follows).take(3).collect())
    }
}

impl RemoteContent for Node {
    fn open(&self) -> Waiting<Remote> {
        self.answer(self.tree.remote(&self.silent))
    }

    fn reference(&self) -> Option<String> {
        None
    }
}

/// Published trees by reference, and what was told of the own tree.
#[derive(Default)]
pub(crate) struct MemorySwarm {
    pub(crate) trees: BTreeMap<String, Tree>,
    pub(crate) changed: Mutex<Vec<PathBuf>>,
    /// Those of them that reach below the path.
    pub(crate) below: Mutex<Vec<PathBuf>>,
    pub(crate) rewritten: Mutex<Vec<(u64, u64)>>,
    pub(crate) silent: Arc<AtomicBool>,
    /// Where mutable names lead.
    pub(crate) names: Mutex<BTreeMap<String, String>>,
    /// Takes its time to hear of a change.
    pub(crate) slow: AtomicBool,
}

impl MemorySwarm {
    fn leads(&self, reference: &str) -> Leads {
        let directory = matches!(self.trees.get(reference), Some(Tree::Directory(_)));
        Leads { reference: reference.to_string(), directory }
    }
}

impl Swarm for MemorySwarm {
    fn resolve(&self, reference: &str) -> Result<Waiting<Remote>> {
        let tree = self.trees.get(reference).ok_or(Error::because(Errno::INVAL, "mistyped"))?;
        let remote = tree.remote(&self.silent);
        Ok(Box::pin(async { Ok(remote) }))
    }

    fn names(&self) -> Vec<(String, Option<Leads>)> {
        let names = self.names.lock().unwrap();
        names.iter().map(|(name, leads)| (name.clone(), Some(self.leads(leads)))).collect()
    }

    fn named(&self, name: &str) -> Option<Outcome<Leads>> {
        self.names.lock().unwrap().get(name).map(|leads| Outcome::Now(Ok(self.leads(leads))))
    }

    fn changed(&self, path: &Path, reach: Reach) {
        if self.slow.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(200));
        }
        self.changed.lock().unwrap().push(path.to_path_buf());
        if reach == Reach::Below {
            self.below.lock().unwrap().push(path.to_path_buf());
        }
    }

    fn rewritten(&self, file: (u64, u64), _since: SystemTime) {
        self.rewritten.lock().unwrap().push(file);
    }

    fn state(&self, _path: &Path) -> String {
        "staged".into()
    }

    fn may_be_mapped(&self, _: MayBeMapped) {}

    fn ask_open_files(&self, _: AskOpenFiles) {}

    fn reference(&self, path: &Path) -> Waiting<Option<String>> {
        let reference = path.starts_with("published").then(|| "tornet1own".to_string());
        Box::pin(async { Ok(reference) })
    }

    fn verify_reference(&self, path: &Path) -> Waiting<Option<String>> {
        self.reference(path)
    }

    fn control_names(&self) -> &'static [&'static str] {
        &["status", "peers"]
    }

    fn control(&self, name: &str) -> Waiting<Vec<u8>> {
        let text = format!("the {name}\n").into_bytes();
        Box::pin(async { Ok(text) })
    }
}
