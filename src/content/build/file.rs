//! From stripes to a file's manifest.

use super::BuildError;
use super::stripe::{SealedStripe, seal_stripe};
use crate::base::limit::INLINE_BYTES_MAX;
use crate::content::chunk::SealedChunk;
use crate::content::cipher::ConvergenceSecret;
use crate::content::erasure::Scheme;
use crate::content::extent;
use crate::content::manifest::{FileBody, FileChild, FileNode};
use crate::content::reference::NodeRef;
use crate::content::section::Stripe;

/// Nodes of stripes are kept to about this length.
const NODE_BYTES: usize = 64 * 1024;
/// Children of an inner node.
const CHILDREN_MAX: usize = 512;

/// How many stripes stand in one node of a file's manifest.
fn stripes_max(scheme: Scheme) -> usize {
    let stripe = 32 * (2 * usize::from(scheme.k) + usize::from(scheme.m)) + 16;
    (NODE_BYTES / stripe).max(16)
}

/// Builds a file's manifest from its stripes.
#[derive(Debug)]
pub struct FileBuilder {
    secret: ConvergenceSecret,
    scheme: Scheme,
    size: u64,
    executable: bool,
    pushed: u64,
    stripes: Vec<Stripe>,
    /// Finished nodes of each level that have no parent yet, the lowest level first.
    levels: Vec<Vec<FileChild>>,
    nodes: Vec<SealedChunk>,
}

impl FileBuilder {
    /// For a file of `size` bytes, more than `limit::INLINE_BYTES_MAX`.
    pub fn new(secret: &ConvergenceSecret, scheme: Scheme, size: u64, executable: bool) -> FileBuilder {
        FileBuilder {
            secret: secret.clone(),
            scheme,
            size,
            executable,
            pushed: 0,
            stripes: Vec::new(),
            levels: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// The next stripe, in the order of [`extent::plan`].
    pub fn push(&mut self, stripe: Stripe) {
        if self.stripes.len() == stripes_max(self.scheme) {
            let body = FileBody::Stripes(std::mem::take(&mut self.stripes));
            self.close(0, body);
        }
        self.pushed = self.pushed.saturating_add(stripe.bytes);
        self.stripes.push(stripe);
    }

    /// Nodes sealed since the last call: a long file's nodes need not all be held until its end.
    pub fn take_nodes(&mut self) -> Vec<SealedChunk> {
        std::mem::take(&mut self.nodes)
    }

    /// The file's top node, and all nodes not yet taken; the top node is the last of them.
    pub fn finish(mut self) -> Result<(NodeRef, Vec<SealedChunk>), BuildError> {
        if self.pushed != self.size || self.size <= INLINE_BYTES_MAX as u64 {
            return Err(BuildError::Stripes { pushed: self.pushed, size: self.size });
        }
        let mut body = FileBody::Stripes(std::mem::take(&mut self.stripes));
        let mut level = 0;
        while self.levels.len() > level {
            self.close(level, body);
            level += 1;
            let children = std::mem::take(&mut self.levels[level - 1]);
            body = FileBody::Inner { level: level as u8, children };
        }
        let (root, _) = self.seal(body, self.executable);
        Ok((root, self.nodes))
    }

    /// Seals a node that is not the root, and hands it to the level above.
    fn close(&mut self, level: usize, body: FileBody) {
        let (node, bytes) = self.seal(body, false);
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == CHILDREN_MAX {
            let children = std::mem::take(&mut self.levels[level]);
            self.close(level + 1, FileBody::Inner { level: level as u8 + 1, children });
        }
        self.levels[level].push(FileChild { bytes, node });
    }

    fn seal(&mut self, body: FileBody, executable: bool) -> (NodeRef, u64) {
        let size = match &body {
            FileBody::Inline(bytes) => bytes.len() as u64,
            FileBody::Stripes(stripes) => stripes.iter().map(|stripe| stripe.bytes).sum(),
            FileBody::Inner { children, .. } => children.iter().map(|child| child.bytes).sum(),
        };
        let (node, chunk) = FileNode { scheme: self.scheme, size, executable, body }.seal(&self.secret);
        self.nodes.push(chunk);
        (node, size)
    }
}

/// The node of a file of at most `limit::INLINE_BYTES_MAX` bytes, which holds them itself.
///
/// # Panics
/// When there are more: that is a mistake of the caller.
pub fn seal_inline(
    secret: &ConvergenceSecret,
    scheme: Scheme,
    bytes: &[u8],
    executable: bool,
) -> (NodeRef, SealedChunk) {
    assert!(bytes.len() <= INLINE_BYTES_MAX, "{} bytes do not stand inline", bytes.len());
    let body = FileBody::Inline(bytes.to_vec());
    FileNode { scheme, size: bytes.len() as u64, executable, body }.seal(secret)
}

/// A file built in one go.
#[derive(Debug, Clone)]
pub struct BuiltFile {
    /// Its reference, but for the kind.
    pub root: NodeRef,
    /// Its nodes, the top one last.
    pub nodes: Vec<SealedChunk>,
    /// Its stripes.
    pub stripes: Vec<SealedStripe>,
}

/// Builds a file whose bytes are at hand: short ones, and the packed one whose own reference is asked for.
pub fn build_file(secret: &ConvergenceSecret, scheme: Scheme, bytes: &[u8], executable: bool) -> BuiltFile {
    if bytes.len() <= INLINE_BYTES_MAX {
        let (root, node) = seal_inline(secret, scheme, bytes, executable);
        return BuiltFile { root, nodes: vec![node], stripes: Vec::new() };
    }
    let extents = bytes.chunks(extent::extent_len(scheme) as usize);
    let stripes: Vec<SealedStripe> = extents.map(|plain| seal_stripe(secret, scheme, plain)).collect();
    let mut builder = FileBuilder::new(secret, scheme, bytes.len() as u64, executable);
    stripes.iter().for_each(|sealed| builder.push(sealed.stripe.clone()));
    let (root, nodes) = builder.finish().expect("its stripes are those of its bytes");
    BuiltFile { root, nodes, stripes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::ChunkId;
    use crate::content::cipher::{ChunkRef, ReadKey};
    use std::collections::BTreeMap;

    const SECRET: ConvergenceSecret = ConvergenceSecret([8; 32]);

    fn lone(seed: u64, bytes: u64) -> Stripe {
        let data = vec![ChunkRef { id: ChunkId::of(&seed.to_le_bytes()), key: ReadKey([seed as u8; 32]) }];
        Stripe { chunk_len: bytes as u32, bytes, data, parity: Vec::new() }
    }

    /// Opens all nodes from `node` down; the ids of its lone chunks in order.
    fn ids(node: &FileNode, chunks: &BTreeMap<ChunkId, SealedChunk>, found: &mut Vec<ChunkId>) {
        match &node.body {
            FileBody::Inline(_) => {}
            FileBody::Stripes(stripes) => found.extend(stripes.iter().map(|stripe| stripe.data[0].id)),
            FileBody::Inner { children, .. } => {
                for (index, child) in children.iter().enumerate() {
                    ids(&node.open_child(index, &chunks[&child.node.id].bytes).unwrap(), chunks, found);
                }
            }
        }
    }

    #[test]
    fn manifests_of_any_length_hold_every_stripe_in_order() {
        // Replicas have the narrowest stripes: most of them in a node.
        let scheme = Scheme { k: 1, m: 1 };
        let per_node = stripes_max(scheme) as u64;
        let full = 1 << 20;
        for count in [1, per_node, per_node + 1, 3 * per_node, per_node * 512 + 1] {
            let size = (count - 1) * full + 5000;
            let mut builder = FileBuilder::new(&SECRET, scheme, size, true);
            let mut chunks = BTreeMap::new();
            for place in 0..count {
                builder.push(lone(place, if place + 1 == count { 5000 } else { full }));
                chunks.extend(builder.take_nodes().into_iter().map(|chunk| (chunk.id, chunk)));
            }
            let (root, nodes) = builder.finish().unwrap();
            assert_eq!(nodes.last().map(|chunk| chunk.id), Some(root.id));
            chunks.extend(nodes.into_iter().map(|chunk| (chunk.id, chunk)));
            let node = FileNode::open_root(&root.key, &chunks[&root.id].bytes, Some((size, true))).unwrap();
            let level = [per_node, per_node * 512].iter().filter(|limit| count > **limit).count();
            assert_eq!(usize::from(node.level()), level, "{count} stripes");
            let mut found = Vec::new();
            ids(&node, &chunks, &mut found);
            let expected: Vec<ChunkId> = (0..count).map(|place| ChunkId::of(&place.to_le_bytes())).collect();
            assert!(found == expected, "{count} stripes");
            assert!(chunks.values().all(|chunk| chunk.bytes.len() < 100_000));
            for offset in [0, size / 2, size - 1] {
                let (index, start) = node.place_of(offset).unwrap();
                assert!(start <= offset, "{index}");
            }
            assert_eq!(node.place_of(size), None);
        }
    }

    #[test]
    fn only_the_top_node_depends_on_the_executable_bit() {
        let bytes = vec![7; 3_000_000];
        let plain = build_file(&SECRET, Scheme::DEFAULT, &bytes, false);
        let executable = build_file(&SECRET, Scheme::DEFAULT, &bytes, true);
        assert_ne!(plain.root, executable.root);
        assert_eq!(plain.stripes, executable.stripes);
        let false_claim = FileNode::open_root(&plain.root.key, &plain.nodes[0].bytes, Some((3_000_000, true)));
        assert!(false_claim.is_err());
    }

    #[test]
    fn stripes_that_are_not_the_file_are_refused() {
        let mut builder = FileBuilder::new(&SECRET, Scheme::DEFAULT, 6000, false);
        builder.push(lone(1, 5000));
        assert_eq!(builder.finish(), Err(BuildError::Stripes { pushed: 5000, size: 6000 }));
        let builder = FileBuilder::new(&SECRET, Scheme::DEFAULT, 0, false);
        assert!(builder.finish().is_err());
    }
}
