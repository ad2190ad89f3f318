//! What befalls nodes: crashes, torn disks, a split network, clocks that jump.

use super::*;

/// Where the number of its node's life stands in a call's number: answers to an earlier life go nowhere.
const LIFE_SHIFT: u32 = 40;

impl Swarm {
    /// A call as the swarm names it.
    pub(super) fn named(&self, place: usize, call: CallId) -> CallId {
        let life = self.members.get(place).map_or(0, |member| member.life);
        CallId(call.0 | u64::from(life) << LIFE_SHIFT)
    }

    /// A call as its node names it.
    pub(super) fn own_name(call: CallId) -> CallId {
        CallId(call.0 & ((1 << LIFE_SHIFT) - 1))
    }

    /// The time that a node's own clock shows.
    pub(super) fn clock(&self, place: usize) -> Instant {
        Instant(self.now.0 + self.members.get(place).map_or(0, |member| member.ahead))
    }

    /// The time at which a node's own clock shows `at`.
    pub(super) fn true_time(&self, place: usize, at: Instant) -> Instant {
        Instant(at.0.saturating_sub(self.members.get(place).map_or(0, |member| member.ahead)))
    }

    /// A node's clock jumps ahead, as after a suspension.
    pub fn jump(&mut self, place: usize, by: Duration) {
        let Some(member) = self.members.get_mut(place) else { return };
        member.ahead += by.as_micros() as u64;
        member.armed = None;
        self.disturbed = self.disturbed.max(self.now);
        self.drain(place);
    }

    /// A node's disk loses what was written in the last second, and one chunk of so many of the rest. Only while the node is down.
    pub fn tear(&mut self, place: usize, one_of: u64) {
        let recent = Instant(self.now.0.saturating_sub(1_000_000));
        let (random, Some(member)) = (&mut self.random, self.members.get_mut(place)) else { return };
        if member.node.is_some() {
            return;
        }
        member.store.retain(|_, stored| {
            stored.whole_since.is_some_and(|since| since < recent) && !random.chance(1, one_of.max(1))
        });
        let store = &member.store;
        member.hosted.retain(|chunk, _| store.contains_key(chunk));
    }

    /// The network falls into parts between which nothing passes; `parts` tells each node's. Links across end as those to the dead do.
    pub fn split(&mut self, parts: Vec<u8>) {
        self.parts = parts;
        self.disturbed = Instant(u64::MAX);
        let silence = self.network.config.silence;
        for place in 0..self.members.len() {
            for (other, serial) in self.links.of(place) {
                if place < other && self.severed(place, other) {
                    self.at(silence, Event::LinkGone(place, other, serial));
                }
            }
        }
    }

    /// The parts are joined again.
    pub fn heal(&mut self) {
        self.parts.clear();
        self.disturbed = self.now;
    }

    /// Whether nothing passes between two nodes.
    pub(super) fn severed(&self, a: usize, b: usize) -> bool {
        self.parts.get(a) != self.parts.get(b)
    }

    /// What a node still awaits of a call that it gives up.
    pub(super) fn give_up(&mut self, place: usize, call: CallId) {
        let Some(state) = self.call_of(place, call) else { return };
        let to = state.to;
        let Some(running) = state.fetch.as_mut() else { return };
        let (chunk, owed) = (running.fetch.chunk, std::mem::take(&mut running.owed));
        let bytes = self.bytes_of(&chunk, owed);
        self.checker.in_flight(self.now, place, to, -bytes);
    }
}
