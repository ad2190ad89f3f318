//! Decoded manifest nodes, the least recently used forgotten first.

use crate::base::digest::ChunkId;
use crate::base::sync::lock;
use crate::content::directory::{Inner, Leaf};
use crate::content::manifest::FileNode;
use crate::content::node::Node;
use crate::content::section::Stripe;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Bytes of encoded nodes kept; decoded they take a small multiple.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// A decoded node.
#[derive(Debug, Clone)]
pub(super) enum CachedNode {
    File(Arc<FileNode>),
    Leaf { leaf: Arc<Leaf>, pack: Option<Arc<Stripe>> },
    Inner(Arc<Inner>),
}

impl From<Node> for CachedNode {
    fn from(node: Node) -> CachedNode {
        match node {
            Node::File(file) => CachedNode::File(Arc::new(file)),
            Node::Leaf(leaf) => {
                let pack = leaf.pack.clone().map(Arc::new);
                CachedNode::Leaf { leaf: Arc::new(leaf), pack }
            }
            Node::Inner(inner) => CachedNode::Inner(Arc::new(inner)),
        }
    }
}

#[derive(Default)]
pub(super) struct NodeCache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<ChunkId, (CachedNode, usize, u64)>,
    bytes: usize,
    turn: u64,
}

impl NodeCache {
    pub(super) fn find(&self, id: &ChunkId) -> Option<CachedNode> {
        let mut state = lock(&self.state);
        state.turn += 1;
        let turn = state.turn;
        let (node, _, used) = state.nodes.get_mut(id)?;
        *used = turn;
        Some(node.clone())
    }

    pub(super) fn keep(&self, id: ChunkId, node: CachedNode, cost: usize) {
        let mut state = lock(&self.state);
        state.turn += 1;
        let turn = state.turn;
        if let Some((_, old, _)) = state.nodes.insert(id, (node, cost, turn)) {
            state.bytes -= old;
        }
        state.bytes += cost;
        if state.bytes > BYTES_MAX {
            // Forget the older half at once, so that the sorting is paid once for many nodes.
            let mut turns: Vec<u64> = state.nodes.values().map(|(_, _, used)| *used).collect();
            let middle = turns.len() / 2;
            let (_, limit, _) = turns.select_nth_unstable(middle);
            let limit = *limit;
            state.nodes.retain(|_, (_, _, used)| *used >= limit);
            state.bytes = state.nodes.values().map(|(_, cost, _)| cost).sum();
        }
    }
}
