//! Searches for providers, followed from outside: how many hops until a holder is named.

use super::Swarm;
use crate::base::digest::ChunkId;
use crate::wire::message::Located;

impl Swarm {
    pub(super) fn searched(&mut self, from: usize, to: usize, chunks: &[ChunkId]) {
        for search in self.searches.iter_mut().filter(|search| search.node == from && search.hops.is_none()) {
            if chunks.contains(&search.chunk) {
                search.depth.entry(to).or_insert(1);
                search.requests += 1;
            }
        }
    }

    pub(super) fn learned(&mut self, from: usize, to: usize, located: &Located) {
        let network = &self.network;
        for search in self.searches.iter_mut().filter(|search| search.node == from && search.hops.is_none()) {
            let Some(depth) = search.depth.get(&to).copied() else { continue };
            // Searches are for one chunk: any provider named is one of it.
            if !located.providers.is_empty() || located.held.first().is_some_and(|byte| byte & 1 == 1) {
                search.hops = Some(depth);
            }
            for contact in &located.closer {
                if let Some(place) = network.place_of(&contact.peer) {
                    search.depth.entry(place).or_insert(depth + 1);
                }
            }
        }
    }
}
