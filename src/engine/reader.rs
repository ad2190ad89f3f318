//! Reading published trees: references to names, names to files, files to bytes; whatever is not here is fetched.

use super::ahead::Ahead;
use super::descent::Descent;
use super::error::ReadError;
use super::fetcher::Fetcher;
use super::node_cache::{CachedNode, NodeCache};
use super::packs::Packs;
use crate::base::digest::ChunkId;
use crate::base::limit::{MANIFEST_DEPTH_MAX, TREE_DEPTH_MAX};
use crate::base::peer::Contact;
use crate::base::sync::lock;
use crate::content::directory::{DirectoryChild, Entry, EntryBody, Inner, Leaf};
use crate::content::manifest::{FileBody, FileNode};
use crate::content::node::Node;
use crate::content::reference::{Kind, NodeRef, RootRef};
use crate::content::section::Stripe;
use crate::content::walk::DirectoryClaim;
use crate::node::input::Urgency;
use bytes::{Bytes, BytesMut};
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Entries among which directories to fetch ahead are sought.
const SOUGHT: usize = 64;

/// What all parts of one opened tree share: who delivered its chunks lately, and which packs are being read.
#[derive(Debug)]
pub(super) struct Tree {
    /// The chunk that its reference names.
    root: ChunkId,
    likely: Mutex<Vec<Contact>>,
    packs: Mutex<Packs>,
}

impl Tree {
    pub(super) fn new(root: ChunkId) -> Tree {
        Tree { root, likely: Mutex::default(), packs: Mutex::default() }
    }

    pub(super) fn root(&self) -> ChunkId {
        self.root
    }

    pub(super) fn likely(&self) -> Vec<Contact> {
        lock(&self.likely).clone()
    }

    /// Puts those that just delivered first; a handful is enough for any stripe.
    pub(super) fn delivered(&self, providers: Vec<Contact>) {
        if providers.is_empty() {
            return;
        }
        let mut likely = lock(&self.likely);
        let mut merged = providers;
        for old in likely.drain(..) {
            if merged.len() < 24 && !merged.iter().any(|new| new.peer == old.peer) {
                merged.push(old);
            }
        }
        *likely = merged;
    }
}

/// An opened file or directory.
#[derive(Debug, Clone)]
pub enum TreeNode {
    /// A file.
    File(Arc<FileHandle>),
    /// A directory.
    Directory(Arc<DirectoryHandle>),
    /// A symbolic link: its target.
    Symlink(Vec<u8>),
}

/// An opened directory.
#[derive(Debug)]
pub struct DirectoryHandle {
    pub(super) tree: Arc<Tree>,
    pub(super) node: NodeRef,
    /// What was said of it where it was named.
    pub(super) claim: DirectoryClaim,
    depth: usize,
    descent: Mutex<Descent>,
}

/// An opened file.
#[derive(Debug)]
pub struct FileHandle {
    pub(super) tree: Arc<Tree>,
    pub(super) body: Body,
    size: u64,
    executable: bool,
    ahead: Mutex<Ahead>,
}

#[derive(Debug)]
pub(super) enum Body {
    Inline(Bytes),
    /// `size` bytes from here in a directory leaf's pack.
    Packed {
        pack: Arc<Stripe>,
        offset: u64,
    },
    Node(Arc<FileNode>),
}

impl FileHandle {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the publisher's file could be executed.
    pub fn executable(&self) -> bool {
        self.executable
    }
}

/// An entry of a directory together with the pack that may hold its bytes.
#[derive(Debug, Clone)]
pub struct Child {
    entry: Entry,
    pack: Option<Arc<Stripe>>,
}

impl Deref for Child {
    type Target = Entry;
    fn deref(&self) -> &Entry {
        &self.entry
    }
}

/// Reads trees. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pub(super) fetcher: Arc<Fetcher>,
    nodes: Arc<NodeCache>,
}

impl Reader {
    pub(super) fn new(fetcher: Arc<Fetcher>) -> Reader {
        Reader { fetcher, nodes: Arc::default() }
    }

    /// Opens what a reference points to.
    pub async fn resolve(&self, reference: &RootRef, deadline: Duration) -> Result<TreeNode, ReadError> {
        let until = Instant::now() + deadline;
        let tree = Arc::new(Tree::new(reference.node.id));
        match reference.kind {
            Kind::Directory => {
                self.directory_node(&tree, &reference.node, Urgency::Reader, until).await?;
                Ok(TreeNode::Directory(Arc::new(DirectoryHandle {
                    tree,
                    node: reference.node,
                    claim: DirectoryClaim::of_reference(),
                    depth: 0,
                    descent: Mutex::default(),
                })))
            }
            Kind::File => Ok(TreeNode::File(Arc::new(self.file(tree, &reference.node, None, until).await?))),
        }
    }

    /// The entry called `name`.
    pub async fn lookup(
        &self,
        directory: &DirectoryHandle,
        name: &[u8],
        deadline: Duration,
    ) -> Result<Option<Child>, ReadError> {
        let until = Instant::now() + deadline;
        let (mut node, mut claim) = (directory.node, directory.claim.clone());
        for _ in 0..MANIFEST_DEPTH_MAX {
            match self.claimed_node(&directory.tree, &node, &claim, until).await? {
                CachedNode::Leaf { leaf, pack } => {
                    return Ok(find(&leaf, name).map(|entry| Child { entry: entry.clone(), pack: pack.clone() }));
                }
                CachedNode::Inner(inner) => {
                    let place = position(&inner, name);
                    let Some(child) = inner.children.get(place) else { return Ok(None) };
                    (node, claim) = (child.node, claim.of_child(&inner, place));
                }
                CachedNode::File(_) => return Err(ReadError::manifest("a file stands where a directory should")),
            }
        }
        Err(ReadError::manifest("a directory deeper than the limit"))
    }

    /// Up to `max` entries after the name `after`, in name order. Fewer only at the end.
    pub async fn list(
        &self,
        directory: &DirectoryHandle,
        after: Option<&[u8]>,
        max: usize,
        deadline: Duration,
    ) -> Result<Vec<Child>, ReadError> {
        let until = Instant::now() + deadline;
        let mut found = Vec::new();
        // Nodes still to visit, the next one last; each level adds at most one node's children.
        let mut stack = vec![(directory.node, directory.claim.clone(), 0usize)];
        while let Some((node, claim, depth)) = stack.pop() {
            if depth >= MANIFEST_DEPTH_MAX {
                return Err(ReadError::manifest("a directory deeper than the limit"));
            }
            match self.claimed_node(&directory.tree, &node, &claim, until).await? {
                CachedNode::Leaf { leaf, pack } => {
                    for entry in &leaf.entries {
                        if after.is_none_or(|after| entry.name.as_slice() > after) {
                            found.push(Child { entry: entry.clone(), pack: pack.clone() });
                            if found.len() >= max {
                                return Ok(found);
                            }
                        }
                    }
                }
                CachedNode::Inner(inner) => {
                    let from = after.map_or(0, |after| position(&inner, after));
                    let rest = inner.children.get(from..).unwrap_or_default();
                    self.warm_nodes(&directory.tree, rest);
                    let below = rest.iter().enumerate().rev();
                    stack.extend(
                        below.map(|(place, child)| (child.node, claim.of_child(&inner, from + place), depth + 1)),
                    );
                }
                CachedNode::File(_) => return Err(ReadError::manifest("a file stands where a directory should")),
            }
        }
        Ok(found)
    }

    /// Opens an entry of a directory.
    pub async fn open(
        &self,
        directory: &Arc<DirectoryHandle>,
        child: &Child,
        deadline: Duration,
    ) -> Result<TreeNode, ReadError> {
        let until = Instant::now() + deadline;
        let tree = directory.tree.clone();
        let executable = child.mode & 0o111 != 0;
        let body = match &child.body {
            EntryBody::Directory(node) => {
                if directory.depth + 1 >= TREE_DEPTH_MAX {
                    return Err(ReadError::manifest("directories nested deeper than the limit"));
                }
                let depth = directory.depth + 1;
                let claim = DirectoryClaim::of_entry(child);
                let ahead = lock(&directory.descent).enter(&child.name);
                if let Some((after, count)) = ahead {
                    self.warm_directories(directory.clone(), after, count);
                }
                let descent = Mutex::default();
                return Ok(TreeNode::Directory(Arc::new(DirectoryHandle { tree, node: *node, claim, depth, descent })));
            }
            EntryBody::Symlink(target) => return Ok(TreeNode::Symlink(target.clone())),
            EntryBody::File(node) => {
                let file = self.file(tree, node, Some(child.size), until).await?;
                return Ok(TreeNode::File(Arc::new(FileHandle { executable, ..file })));
            }
            EntryBody::Inline(bytes) => Body::Inline(Bytes::copy_from_slice(bytes)),
            EntryBody::Packed { offset } => {
                let pack = child.pack.clone().ok_or_else(|| ReadError::manifest("a packed file without a pack"))?;
                Body::Packed { pack, offset: u64::from(*offset) }
            }
        };
        Ok(TreeNode::File(Arc::new(FileHandle { tree, body, size: child.size, executable, ahead: Mutex::default() })))
    }

    async fn file(
        &self,
        tree: Arc<Tree>,
        node: &NodeRef,
        size: Option<u64>,
        until: Instant,
    ) -> Result<FileHandle, ReadError> {
        let node = self.file_node(&tree, node, until).await?;
        if size.is_some_and(|size| size != node.size) {
            return Err(ReadError::manifest("a file's size differs from what its directory says"));
        }
        let (size, executable) = (node.size, node.executable);
        Ok(FileHandle { tree, body: Body::Node(node), size, executable, ahead: Mutex::default() })
    }

    /// Bytes `offset .. offset + len`, cut at the file's end. Reads ahead when the reader is sequential.
    pub async fn read(
        &self,
        file: &Arc<FileHandle>,
        offset: u64,
        len: usize,
        deadline: Duration,
    ) -> Result<Bytes, ReadError> {
        let until = Instant::now() + deadline;
        let end = offset.saturating_add(len as u64).min(file.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let ahead = lock(&file.ahead).read(offset, end, file.size, self.fetcher.ahead_bytes());
        if let Some(range) = ahead {
            self.read_ahead(file.clone(), range);
        }
        self.read_range(file, offset..end, until, Urgency::Reader).await
    }

    /// Bytes of a range without touching the reading position: for bulk copies, which make their own parallelism.
    pub(super) async fn read_range(
        &self,
        file: &Arc<FileHandle>,
        range: Range<u64>,
        until: Instant,
        urgency: Urgency,
    ) -> Result<Bytes, ReadError> {
        match &file.body {
            Body::Inline(bytes) => {
                let part = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                let part = part.and_then(|(start, end)| (end <= bytes.len()).then(|| bytes.slice(start..end)));
                part.ok_or_else(|| ReadError::manifest("an inline file shorter than its size"))
            }
            Body::Packed { pack, offset } => {
                let start = offset.saturating_add(range.start);
                let end = offset.saturating_add(range.end);
                if let Some(first) = pack.data.first()
                    && lock(&file.tree.packs).read(&first.id, *offset)
                {
                    // The reader waits for its own part; the rest comes at the same time.
                    self.fetcher.warm(&file.tree, pack, 0..pack.bytes, until);
                }
                self.fetcher.read_stripe(&file.tree, pack, start..end, until, urgency).await
            }
            Body::Node(node) if matches!(node.body, FileBody::Inline(_)) => self.inline(node, range),
            Body::Node(node) => {
                let mut out = BytesMut::new();
                let mut at = range.start;
                while at < range.end {
                    let (stripe, within) = self.stripe_at(&file.tree, node, at, until).await?;
                    let left = stripe.bytes.saturating_sub(within).min(range.end - at);
                    let Some((stripe, left)) = (left > 0).then_some((stripe, left)) else {
                        return Err(ReadError::manifest("a file's extents are shorter than its size"));
                    };
                    let part = within..within + left;
                    let bytes = self.fetcher.read_stripe(&file.tree, &stripe, part, until, urgency).await?;
                    at += left;
                    if at == range.end && out.is_empty() {
                        return Ok(bytes);
                    }
                    out.extend_from_slice(&bytes);
                }
                Ok(out.freeze())
            }
        }
    }

    /// The stripe that holds byte `at` of a file, and where in the stripe's plaintext that is.
    pub(super) async fn stripe_at(
        &self,
        tree: &Arc<Tree>,
        root: &Arc<FileNode>,
        at: u64,
        until: Instant,
    ) -> Result<(Arc<Stripe>, u64), ReadError> {
        let mut node = root.clone();
        let mut rest = at;
        for _ in 0..MANIFEST_DEPTH_MAX {
            let next = match &node.body {
                FileBody::Inline(_) => return Err(ReadError::manifest("inline bytes below a manifest's root")),
                FileBody::Stripes(stripes) => {
                    for stripe in stripes {
                        if rest < stripe.bytes {
                            return Ok((Arc::new(stripe.clone()), rest));
                        }
                        rest -= stripe.bytes;
                    }
                    return Err(ReadError::manifest("a file's extents are shorter than its size"));
                }
                FileBody::Inner { children, .. } => {
                    let mut found = None;
                    for child in children {
                        if rest < child.bytes {
                            found = Some(child);
                            break;
                        }
                        rest -= child.bytes;
                    }
                    found.ok_or_else(|| ReadError::manifest("a manifest's children are shorter than it says"))?
                }
            };
            let child = self.file_node(tree, &next.node, until).await?;
            if child.size != next.bytes {
                return Err(ReadError::manifest("a manifest node's size differs from what its parent says"));
            }
            node = child;
        }
        Err(ReadError::manifest("a manifest deeper than the limit"))
    }

    fn read_ahead(&self, file: Arc<FileHandle>, range: Range<u64>) {
        let reader = self.clone();
        tokio::spawn(async move {
            let until = Instant::now() + Duration::from_secs(30);
            let mut at = range.start;
            while at < range.end {
                let (tree, body) = (&file.tree, &file.body);
                let (stripe, within, left) = match body {
                    Body::Inline(_) => return,
                    Body::Packed { pack, offset } => {
                        let within = offset.saturating_add(at);
                        (pack.clone(), within, range.end - at)
                    }
                    Body::Node(node) => match reader.stripe_at(tree, node, at, until).await {
                        Ok((stripe, within)) => {
                            let left = stripe.bytes.saturating_sub(within).min(range.end - at);
                            (stripe, within, left)
                        }
                        Err(_) => return,
                    },
                };
                if left == 0 {
                    return;
                }
                // A failure shows itself to the reader when it comes there.
                reader.fetcher.warm(tree, &stripe, within..within + left, until);
                at += left;
            }
        });
    }

    pub(super) async fn file_node(
        &self,
        tree: &Arc<Tree>,
        node: &NodeRef,
        until: Instant,
    ) -> Result<Arc<FileNode>, ReadError> {
        if let Some(CachedNode::File(node)) = self.nodes.find(&node.id) {
            return Ok(node);
        }
        let bytes = self.fetcher.lone(tree, node, Urgency::Reader, until).await?;
        let cost = bytes.len();
        let decoded = Node::open(&node.key, &bytes).and_then(Node::into_file).map_err(ReadError::manifest)?;
        let decoded = Arc::new(decoded);
        self.nodes.keep(node.id, CachedNode::File(decoded.clone()), cost);
        Ok(decoded)
    }

    /// A node of a directory, checked against what was said of it.
    pub(super) async fn claimed_node(
        &self,
        tree: &Arc<Tree>,
        node: &NodeRef,
        claim: &DirectoryClaim,
        until: Instant,
    ) -> Result<CachedNode, ReadError> {
        let found = self.directory_node(tree, node, Urgency::Reader, until).await?;
        let checked = match &found {
            CachedNode::Leaf { leaf, .. } => claim.check_leaf(leaf),
            CachedNode::Inner(inner) => claim.check_inner(inner),
            CachedNode::File(_) => Ok(()),
        };
        checked.map_err(ReadError::manifest).map(|()| found)
    }

    async fn directory_node(
        &self,
        tree: &Arc<Tree>,
        node: &NodeRef,
        urgency: Urgency,
        until: Instant,
    ) -> Result<CachedNode, ReadError> {
        if let Some(found) = self.nodes.find(&node.id) {
            return Ok(found);
        }
        let bytes = self.fetcher.lone(tree, node, urgency, until).await?;
        let decoded = Node::open(&node.key, &bytes).map_err(ReadError::manifest)?;
        let decoded = CachedNode::from(decoded);
        self.nodes.keep(node.id, decoded.clone(), bytes.len());
        Ok(decoded)
    }

    /// Fetches `count` of the directories in `parent`, those after the name `after`, and while packs are read whole, theirs.
    fn warm_directories(&self, parent: Arc<DirectoryHandle>, after: Option<Vec<u8>>, count: usize) {
        let reader = self.clone();
        tokio::spawn(async move {
            let deadline = Duration::from_secs(30);
            let until = Instant::now() + deadline;
            // What names them is here: the parent was read to enter one.
            let Ok(entries) = reader.list(&parent, after.as_deref(), SOUGHT, deadline).await else { return };
            let nodes = entries.iter().filter_map(|child| match &child.body {
                EntryBody::Directory(node) => Some((child.name.clone(), *node)),
                _ => None,
            });
            let nodes: Vec<_> = nodes.take(count).collect();
            if let Some((name, _)) = nodes.last() {
                lock(&parent.descent).asked(nodes.len(), name.clone());
            }
            for (_, node) in nodes {
                let (reader, tree) = (reader.clone(), parent.tree.clone());
                tokio::spawn(async move {
                    let found = reader.directory_node(&tree, &node, Urgency::Ahead, until).await;
                    if let Ok(CachedNode::Leaf { pack: Some(pack), .. }) = found {
                        reader.warm_pack(&tree, &pack, until);
                    }
                });
            }
        });
    }

    /// Fetches a pack whole whose files will be read next, if its tree's packs are.
    fn warm_pack(&self, tree: &Arc<Tree>, pack: &Arc<Stripe>, until: Instant) {
        if let Some(first) = pack.data.first()
            && lock(&tree.packs).expect(&first.id)
        {
            self.fetcher.warm(tree, pack, 0..pack.bytes, until);
        }
    }

    /// Fetches the next nodes of a directory that is being listed.
    fn warm_nodes(&self, tree: &Arc<Tree>, children: &[DirectoryChild]) {
        for child in children.iter().take(8) {
            if self.nodes.find(&child.node.id).is_none() {
                let (fetcher, tree, node) = (self.fetcher.clone(), tree.clone(), child.node);
                tokio::spawn(async move {
                    let until = Instant::now() + Duration::from_secs(30);
                    let _ = fetcher.lone(&tree, &node, Urgency::Ahead, until).await;
                });
            }
        }
    }
}

fn find<'a>(leaf: &'a Leaf, name: &[u8]) -> Option<&'a Entry> {
    let place = leaf.entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok()?;
    leaf.entries.get(place)
}

/// The child that would hold `name`: the last whose first name is not after it, or the first of all.
fn position(inner: &Inner, name: &[u8]) -> usize {
    inner.children.partition_point(|child| child.first.as_slice() <= name).saturating_sub(1)
}
