//! Open links between nodes, found from either end.

use crate::base::time::Instant;
use std::collections::BTreeMap;

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    /// Tells it from an earlier link of the same two nodes.
    pub(super) serial: u64,
    pub(super) dialler: usize,
    pub(super) up: bool,
    pub(super) up_at: Instant,
    pub(super) used: Instant,
}

/// All links.
#[derive(Debug)]
pub(super) struct Links {
    /// Node -> other end -> slot.
    of: Vec<BTreeMap<u32, u32>>,
    links: Vec<Option<Link>>,
    free: Vec<u32>,
}

impl Links {
    pub(super) fn new(nodes: usize) -> Links {
        Links { of: vec![BTreeMap::new(); nodes], links: Vec::new(), free: Vec::new() }
    }

    /// Room for one more node.
    pub(super) fn grow(&mut self) {
        self.of.push(BTreeMap::new());
    }

    /// How many a node has.
    pub(super) fn count(&self, place: usize) -> usize {
        self.of.get(place).map_or(0, BTreeMap::len)
    }

    pub(super) fn get(&self, a: usize, b: usize) -> Option<&Link> {
        let slot = *self.of.get(a)?.get(&(b as u32))?;
        self.links.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, a: usize, b: usize) -> Option<&mut Link> {
        let slot = *self.of.get(a)?.get(&(b as u32))?;
        self.links.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn insert(&mut self, a: usize, b: usize, link: Link) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.links.push(None);
            (self.links.len() - 1) as u32
        });
        for (here, there) in [(a, b), (b, a)] {
            if let Some(of) = self.of.get_mut(here) {
                of.insert(there as u32, slot);
            }
        }
        if let Some(place) = self.links.get_mut(slot as usize) {
            *place = Some(link);
        }
    }

    pub(super) fn remove(&mut self, a: usize, b: usize) -> Option<Link> {
        let slot = self.of.get_mut(a)?.remove(&(b as u32))?;
        self.of.get_mut(b)?.remove(&(a as u32));
        self.free.push(slot);
        self.links.get_mut(slot as usize)?.take()
    }

    /// The other ends of a node's links, with their serials.
    pub(super) fn of(&self, place: usize) -> Vec<(usize, u64)> {
        let ends = self.of.get(place).into_iter().flatten();
        ends.filter_map(|(other, slot)| Some((*other as usize, self.links.get(*slot as usize)?.as_ref()?.serial)))
            .collect()
    }
}
