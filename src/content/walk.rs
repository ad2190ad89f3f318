//! What readers and verifiers need on their way through a tree: which child next, and whether a child is what its parent said.

use super::cipher::ReadKey;
use super::directory::{DirectoryChild, Entry, Inner, Leaf};
use super::manifest::{FileBody, FileNode};
use super::node::Node;
use super::reference::{VerifyNodeRef, VerifyRef};
use super::section::{NodeError, Stripe, VerifySection};
use crate::base::digest::ChunkId;
use crate::base::limit::{MANIFEST_DEPTH_MAX, TREE_DEPTH_MAX};
use std::collections::BTreeSet;
use std::ops::Range;

/// A part of one data chunk of a stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which data chunk.
    pub chunk: u8,
    /// Which of its bytes.
    pub bytes: Range<u32>,
}

impl Stripe {
    /// Where bytes `range` of the stripe's content stand, in order; cut at its end.
    pub fn spans(&self, range: Range<u64>) -> impl Iterator<Item = Span> + use<> {
        let len = u64::from(self.chunk_len).max(1);
        let end = range.end.min(self.bytes);
        let chunks = if range.start < end { range.start / len..end.div_ceil(len) } else { 0..0 };
        chunks.map(move |chunk| {
            let base = chunk * len;
            let (from, to) = (range.start.max(base) - base, end.min(base + len) - base);
            Span { chunk: chunk as u8, bytes: from as u32..to as u32 }
        })
    }
}

impl FileNode {
    /// Opens a file's top node; `size` and `executable` as its entry says, when it has one.
    pub fn open_root(key: &ReadKey, bytes: &[u8], claimed: Option<(u64, bool)>) -> Result<FileNode, NodeError> {
        let node = Node::open(key, bytes)?.into_file()?;
        if let Some((size, executable)) = claimed {
            claim("content in bytes", size, node.size)?;
            claim("executable flag", u64::from(executable), u64::from(node.executable))?;
        }
        Ok(node)
    }

    /// Opens the chunk of the `index`-th child of this inner node.
    pub fn open_child(&self, index: usize, bytes: &[u8]) -> Result<FileNode, NodeError> {
        let child = match &self.body {
            FileBody::Inner { children, .. } => children.get(index),
            FileBody::Inline(_) | FileBody::Stripes(_) => None,
        };
        let child = child.ok_or(NodeError::Range)?;
        let node = Node::open(&child.node.key, bytes)?.into_file()?;
        claim("content in bytes", child.bytes, node.size)?;
        claim("level", u64::from(self.level().saturating_sub(1)), u64::from(node.level()))?;
        claim("executable flag", 0, u64::from(node.executable))?;
        Ok(node)
    }

    /// The child or stripe that holds the byte at `offset` of this node's content: its index, and where its content begins.
    pub fn place_of(&self, offset: u64) -> Option<(usize, u64)> {
        let mut start = 0u64;
        let mut find = |(index, bytes): (usize, u64)| {
            let here = start;
            start = start.saturating_add(bytes);
            (offset < start).then_some((index, here))
        };
        match &self.body {
            FileBody::Inline(_) => None,
            FileBody::Stripes(stripes) => stripes.iter().map(|stripe| stripe.bytes).enumerate().find_map(&mut find),
            FileBody::Inner { children, .. } => {
                children.iter().map(|child| child.bytes).enumerate().find_map(&mut find)
            }
        }
    }
}

/// An opened node of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryNode {
    /// With entries.
    Leaf(Leaf),
    /// With nodes below.
    Inner(Inner),
}

/// What was said of a directory's node before it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirectoryClaim {
    level: Option<u8>,
    entries: Option<u64>,
    bytes: Option<u64>,
    first: Option<Vec<u8>>,
    /// All names are below this one.
    below: Option<Vec<u8>>,
}

impl DirectoryClaim {
    /// Of a reference: it says nothing.
    pub fn of_reference() -> DirectoryClaim {
        DirectoryClaim::default()
    }

    /// Of a directory's entry: it says the size.
    pub fn of_entry(entry: &Entry) -> DirectoryClaim {
        DirectoryClaim { bytes: Some(entry.size), ..DirectoryClaim::default() }
    }

    /// Opens the node whose chunk is `bytes`, and checks that it is what was said.
    pub fn open(&self, key: &ReadKey, bytes: &[u8]) -> Result<DirectoryNode, NodeError> {
        match Node::open(key, bytes)? {
            Node::File(_) => Err(NodeError::Kind { expected: "a directory", found: "a file" }),
            Node::Leaf(leaf) => self.check_leaf(&leaf).map(|()| DirectoryNode::Leaf(leaf)),
            Node::Inner(inner) => self.check_inner(&inner).map(|()| DirectoryNode::Inner(inner)),
        }
    }

    /// Checks that an opened leaf is what was said.
    pub fn check_leaf(&self, leaf: &Leaf) -> Result<(), NodeError> {
        let name = |entry: Option<&'_ Entry>| entry.map(|entry| entry.name.clone());
        let ends = (name(leaf.entries.first()), name(leaf.entries.last()));
        self.check(0, leaf.entries.len() as u64, leaf.bytes(), ends)
    }

    /// Checks that an opened inner node is what was said.
    pub fn check_inner(&self, inner: &Inner) -> Result<(), NodeError> {
        let name = |child: Option<&'_ DirectoryChild>| child.map(|child| child.first.clone());
        let ends = (name(inner.children.first()), name(inner.children.last()));
        self.check(inner.level, inner.entries(), inner.bytes(), ends)
    }

    fn check(
        &self,
        level: u8,
        entries: u64,
        size: u64,
        (first, last): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> Result<(), NodeError> {
        claim("level", u64::from(self.level.unwrap_or(level)), u64::from(level))?;
        claim("number of entries", self.entries.unwrap_or(entries), entries)?;
        claim("content in bytes", self.bytes.unwrap_or(size), size)?;
        let first_fits = self.first.is_none() || self.first == first;
        let last_fits = self.below.as_ref().is_none_or(|below| last.is_none_or(|last| last < *below));
        if first_fits && last_fits { Ok(()) } else { Err(NodeError::Range) }
    }

    /// What this node's inner node `inner` says of its `index`-th child.
    pub fn of_child(&self, inner: &Inner, index: usize) -> DirectoryClaim {
        let child = inner.children.get(index);
        let next = inner.children.get(index + 1).map(|next| next.first.clone());
        DirectoryClaim {
            level: Some(inner.level.saturating_sub(1)),
            entries: child.map(|child| child.entries),
            bytes: child.map(|child| child.bytes),
            first: child.map(|child| child.first.clone()),
            below: next.or_else(|| self.below.clone()),
        }
    }
}

impl Leaf {
    /// The entry of this name.
    pub fn find(&self, name: &[u8]) -> Option<&Entry> {
        let place = self.entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)).ok()?;
        self.entries.get(place)
    }

    /// Entries with names after `name`; all of them for `None`.
    pub fn after(&self, name: Option<&[u8]>) -> &[Entry] {
        let start = name.map_or(0, |name| self.entries.partition_point(|entry| entry.name.as_slice() <= name));
        self.entries.get(start..).unwrap_or_default()
    }
}

impl Inner {
    /// The child below which an entry of this name must be, if there is one.
    pub fn place_of(&self, name: &[u8]) -> Option<usize> {
        self.children.partition_point(|child| child.first.as_slice() <= name).checked_sub(1)
    }

    /// The first child below which names after `name` may be; listing goes on from there through all that follow.
    pub fn place_after(&self, name: Option<&[u8]>) -> usize {
        name.and_then(|name| self.place_of(name)).unwrap_or(0)
    }

    /// The `index`-th child.
    pub fn child(&self, index: usize) -> Option<&DirectoryChild> {
        self.children.get(index)
    }
}

fn claim(what: &'static str, claimed: u64, found: u64) -> Result<(), NodeError> {
    if claimed == found { Ok(()) } else { Err(NodeError::Claim { what, claimed, found }) }
}

/// Chunks that must lie on different peers: a stripe, or a lone chunk that several keep whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkGroup {
    /// Length of each chunk.
    pub chunk_len: u32,
    /// How many of them give all others.
    pub data: u8,
    /// On how many peers each shall lie.
    pub copies: u8,
    /// Data chunks, then parity chunks.
    pub ids: Vec<ChunkId>,
}

/// The walk of those who may only verify: names all chunks of a tree, each node once, without learning names or content.
///
/// Take a node from `next`, fetch its chunk, check it, open its `VerifySection`, hand that to `opened`; until `next` is empty.
#[derive(Debug, Clone)]
pub struct VerifyWalk {
    pending: Vec<(VerifyNodeRef, usize)>,
    taken: Option<usize>,
    nodes: BTreeSet<ChunkId>,
    /// Hashes of the ids of stripes: two may share some chunks and not others.
    stripes: BTreeSet<ChunkId>,
}

impl VerifyWalk {
    /// From the top of a tree.
    pub fn new(root: &VerifyRef) -> VerifyWalk {
        let nodes = BTreeSet::from([root.node.id]);
        VerifyWalk { pending: vec![(root.node, 0)], taken: None, nodes, stripes: BTreeSet::new() }
    }

    /// The next node to open; depth first, so that few wait.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<VerifyNodeRef> {
        let (node, depth) = self.pending.pop()?;
        self.taken = Some(depth);
        Some(node)
    }

    /// The groups that the node just taken from `next` adds: itself and its stripes, without those named before.
    pub fn opened(&mut self, node: &VerifyNodeRef, section: &VerifySection) -> Result<Vec<ChunkGroup>, NodeError> {
        let depth = self.taken.take().unwrap_or(0) + 1;
        if depth > TREE_DEPTH_MAX * MANIFEST_DEPTH_MAX {
            let (claimed, found) = ((TREE_DEPTH_MAX * MANIFEST_DEPTH_MAX) as u64, depth as u64);
            return Err(NodeError::Claim { what: "depth", claimed, found });
        }
        let copies = section.scheme.copies();
        let mut groups = vec![ChunkGroup { chunk_len: node.len, data: 1, copies, ids: vec![node.id] }];
        for stripe in &section.stripes {
            let ids: Vec<[u8; 32]> = stripe.ids.iter().map(|id| id.0).collect();
            if self.stripes.insert(ChunkId::of(ids.as_flattened())) {
                let (data, ids) = (stripe.data, stripe.ids.clone());
                let copies = if data == 1 { copies } else { 1 };
                groups.push(ChunkGroup { chunk_len: stripe.chunk_len, data, copies, ids });
            }
        }
        for child in section.children.iter().rev() {
            if self.nodes.insert(child.id) {
                self.pending.push((*child, depth));
            }
        }
        Ok(groups)
    }

    /// Nodes that are known and not yet taken.
    pub fn waiting(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Timestamp;
    use crate::content::build::{Draft, DraftBody, build_directory, build_file};
    use crate::content::chunk::SealedChunk;
    use crate::content::cipher::{self, ConvergenceSecret};
    use crate::content::directory::EntryBody;
    use crate::content::erasure::Scheme;
    use crate::content::reference::{Kind, NodeRef, RootRef};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SECRET: ConvergenceSecret = ConvergenceSecret([4; 32]);

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|place| (place * 7 + place / 251) as u8).collect()
    }

    fn draft(name: &str, body: DraftBody) -> Draft {
        let mtime = Timestamp { seconds: -5, nanos: 7 };
        Draft { name: name.into(), mode: 0o644, mtime, xattrs: Vec::new(), body }
    }

    /// A directory of many small files, one of 9 MiB, twice the same directory, and all chunks by id.
    fn tree() -> (RootRef, BTreeMap<ChunkId, SealedChunk>, usize) {
        let mut chunks: Vec<SealedChunk> = Vec::new();
        let big = build_file(&SECRET, Scheme::DEFAULT, &sample(9 << 20), false);
        chunks.extend(big.nodes);
        chunks.extend(big.stripes.into_iter().flat_map(|stripe| stripe.chunks));
        let (inside, leaves) =
            build_directory(&SECRET, Scheme::DEFAULT, vec![draft("a", DraftBody::Small(sample(30_000)))]).unwrap();
        for leaf in leaves {
            chunks.push(leaf.node);
            chunks.extend(leaf.pack.into_iter().flat_map(|pack| pack.chunks));
        }
        let below = |node, bytes| DraftBody::Directory { bytes, node };
        let mut drafts: Vec<Draft> =
            (0..3000).map(|i| draft(&format!("f{i:05}"), DraftBody::Small(sample(i % 5000)))).collect();
        drafts.push(draft("g", DraftBody::File { size: 9 << 20, node: big.root }));
        drafts.push(draft("h1", below(inside.root, inside.bytes)));
        drafts.push(draft("h2", below(inside.root, inside.bytes)));
        let (built, leaves) = build_directory(&SECRET, Scheme::DEFAULT, drafts).unwrap();
        let count = leaves.len();
        assert!(count > 5 && built.nodes.len() == 1);
        chunks.extend(built.nodes);
        for leaf in leaves {
            chunks.push(leaf.node);
            chunks.extend(leaf.pack.into_iter().flat_map(|pack| pack.chunks));
        }
        let root = RootRef { kind: Kind::Directory, node: built.root };
        (root, chunks.into_iter().map(|chunk| (chunk.id, chunk)).collect(), count)
    }

    fn open_directory(
        claim: &DirectoryClaim,
        node: &NodeRef,
        chunks: &BTreeMap<ChunkId, SealedChunk>,
    ) -> Result<DirectoryNode, NodeError> {
        claim.open(&node.key, &chunks[&node.id].bytes)
    }

    fn find(root: &RootRef, chunks: &BTreeMap<ChunkId, SealedChunk>, name: &[u8]) -> Option<(Entry, Option<Stripe>)> {
        let mut claim = DirectoryClaim::of_reference();
        let mut node = root.node;
        loop {
            match open_directory(&claim, &node, chunks).unwrap() {
                DirectoryNode::Leaf(leaf) => return leaf.find(name).map(|entry| (entry.clone(), leaf.pack.clone())),
                DirectoryNode::Inner(inner) => {
                    let index = inner.place_of(name)?;
                    claim = claim.of_child(&inner, index);
                    node = inner.children[index].node;
                }
            }
        }
    }

    fn read(stripe: &Stripe, range: Range<u64>, chunks: &BTreeMap<ChunkId, SealedChunk>) -> Vec<u8> {
        let mut out = Vec::new();
        for span in stripe.spans(range) {
            let at = stripe.data[usize::from(span.chunk)];
            let mut bytes = chunks[&at.id].bytes[span.bytes.start as usize..span.bytes.end as usize].to_vec();
            cipher::open(&at.key, span.bytes.start, &mut bytes);
            out.extend(bytes);
        }
        out
    }

    #[test]
    fn every_name_is_found_and_every_packed_file_reads_back() {
        let (root, chunks, _) = tree();
        for i in [0, 1, 999, 1024, 1025, 1500, 2999] {
            let (entry, pack) = find(&root, &chunks, format!("f{i:05}").as_bytes()).unwrap();
            assert_eq!(entry.size, i as u64 % 5000);
            let content = match entry.body {
                EntryBody::Inline(bytes) => bytes,
                EntryBody::Packed { offset } => {
                    read(&pack.unwrap(), u64::from(offset)..u64::from(offset) + entry.size, &chunks)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(content, sample(i % 5000));
        }
        for missing in ["", "a", "f", "f00000x", "g1", "z"] {
            assert_eq!(find(&root, &chunks, missing.as_bytes()), None, "{missing}");
        }
    }

    #[test]
    fn a_directory_is_listed_in_order_from_any_name() {
        let (root, chunks, leaves) = tree();
        let DirectoryNode::Inner(top) = open_directory(&DirectoryClaim::of_reference(), &root.node, &chunks).unwrap()
        else {
            panic!("one inner node above {leaves} leaves")
        };
        for after in [None, Some(&b"f00012"[..]), Some(b"f"), Some(b"f02999"), Some(b"h1"), Some(b"h2")] {
            let mut names: Vec<Vec<u8>> = Vec::new();
            for index in top.place_after(after)..top.children.len() {
                let claim = DirectoryClaim::of_reference().of_child(&top, index);
                match open_directory(&claim, &top.children[index].node, &chunks).unwrap() {
                    DirectoryNode::Leaf(leaf) => names.extend(leaf.after(after).iter().map(|entry| entry.name.clone())),
                    DirectoryNode::Inner(_) => panic!("a leaf"),
                }
            }
            let all = (0..3000).map(|i| format!("f{i:05}")).chain(["g", "h1", "h2"].map(String::from));
            let expected: Vec<Vec<u8>> =
                all.map(String::into_bytes).filter(|name| after.is_none_or(|after| name.as_slice() > after)).collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn false_claims_about_a_child_are_found() {
        let (root, chunks, _) = tree();
        let claim = DirectoryClaim::of_reference();
        let DirectoryNode::Inner(top) = open_directory(&claim, &root.node, &chunks).unwrap() else { panic!() };
        let open = |claim: DirectoryClaim, child: usize| open_directory(&claim, &top.children[child].node, &chunks);
        assert!(open(claim.of_child(&top, 1), 1).is_ok());
        assert!(open(claim.of_child(&top, 1), 2).is_err());
        let lie = |change: fn(&mut Inner)| {
            let mut top = top.clone();
            change(&mut top);
            open(claim.of_child(&top, 1), 1).unwrap_err()
        };
        assert!(matches!(lie(|top| top.children[1].entries += 1), NodeError::Claim { what: "number of entries", .. }));
        assert!(matches!(lie(|top| top.children[1].bytes += 1), NodeError::Claim { what: "content in bytes", .. }));
        assert!(matches!(lie(|top| top.level = 2), NodeError::Claim { what: "level", .. }));
        assert_eq!(lie(|top| top.children[1].first.push(0)), NodeError::Range);
        assert_eq!(lie(|top| top.children[2].first = top.children[1].first.clone()), NodeError::Range);
        assert!(matches!(
            FileNode::open_root(&root.node.key, &chunks[&root.node.id].bytes, None),
            Err(NodeError::Kind { expected: "a file", found: "a directory" })
        ));
    }

    #[test]
    fn a_verifier_names_exactly_the_chunks_of_the_tree_and_each_once() {
        let (root, chunks, _) = tree();
        let mut walk = VerifyWalk::new(&root.verify());
        let mut named: Vec<ChunkId> = Vec::new();
        while let Some(node) = walk.next() {
            let chunk = &chunks[&node.id];
            assert_eq!(chunk.outline.len, node.len);
            let section = VerifySection::open(&node.key, &chunk.bytes).unwrap();
            for group in walk.opened(&node, &section).unwrap() {
                assert_eq!(group.copies, if group.ids.len() == 1 { 5 } else { 1 });
                assert!(group.ids.iter().all(|id| chunks[id].outline.len == group.chunk_len));
                named.extend(group.ids);
            }
        }
        named.sort();
        assert_eq!(named, chunks.keys().copied().collect::<Vec<_>>());
    }

    #[test]
    fn a_verify_key_opens_no_read_section() {
        let (root, chunks, _) = tree();
        let key = ReadKey(root.node.key.verify_key().0);
        assert!(Node::open(&key, &chunks[&root.node.id].bytes).is_err());
    }

    proptest! {
        #[test]
        fn spans_cover_the_range_and_nothing_else(chunk_len in 1u32..100, bytes in 1u64..=4800, from in 0u64..5000, len in 0u64..5000) {
            let bytes = bytes.min(u64::from(chunk_len) * 48);
            let stripe = Stripe { chunk_len, bytes, data: Vec::new(), parity: Vec::new() };
            let mut at = from;
            for span in stripe.spans(from..from + len) {
                prop_assert_eq!(u64::from(span.chunk) * u64::from(chunk_len) + u64::from(span.bytes.start), at);
                prop_assert!(span.bytes.start < span.bytes.end && span.bytes.end <= chunk_len);
                at += u64::from(span.bytes.end - span.bytes.start);
            }
            prop_assert_eq!(at, (from + len).min(bytes).max(from));
        }
    }
}
