//! The network between simulated nodes: regions and their delays, loss, rates of each node's line.

use crate::base::peer::{Contact, PeerId};
use crate::base::random::Random;
use crate::base::time::Instant;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

/// Shape of the network.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Nodes lie in so many regions.
    pub regions: u64,
    /// One way inside a region, microseconds: from, to.
    pub near_us: (u64, u64),
    /// One way between regions, microseconds: from, to.
    pub far_us: (u64, u64),
    /// Messages lost, of 1,000. Links are reliable: a loss costs a round trip and a bit.
    pub loss_permille: u64,
    /// Upstream of a node, bytes a second: from, to.
    pub up: (u64, u64),
    /// Downstream of a node, bytes a second: from, to.
    pub down: (u64, u64),
    /// How long a link to a node that vanished lasts.
    pub silence: Duration,
    /// How long a dial to nobody lasts.
    pub dial: Duration,
    /// A link without calls ends after this time.
    pub idle: Duration,
}

impl Default for NetworkConfig {
    fn default() -> NetworkConfig {
        NetworkConfig {
            regions: 4,
            near_us: (2_000, 15_000),
            far_us: (20_000, 90_000),
            loss_permille: 10,
            up: (2_000_000, 12_000_000),
            down: (6_000_000, 30_000_000),
            silence: Duration::from_secs(3),
            dial: Duration::from_secs(2),
            idle: Duration::from_secs(60),
        }
    }
}

/// Hashes peers by their first bytes, which are random.
#[derive(Debug, Default)]
struct Prefix(u64);

impl Hasher for Prefix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

/// A node's line.
#[derive(Debug, Clone)]
pub(super) struct Line {
    region: usize,
    access_us: u64,
    pub(super) up: u64,
    pub(super) down: u64,
    /// When the line down has carried all that was sent to it.
    pub(super) down_free: Instant,
}

/// Delays between all nodes.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) config: NetworkConfig,
    /// One way; there and back may differ.
    between: Vec<Vec<u64>>,
    places: HashMap<PeerId, usize, BuildHasherDefault<Prefix>>,
}

impl Network {
    pub(super) fn new(config: NetworkConfig, random: &mut Random) -> Network {
        let regions = config.regions.max(1) as usize;
        let mut between = vec![vec![0; regions]; regions];
        for (a, row) in between.iter_mut().enumerate() {
            for (b, delay) in row.iter_mut().enumerate() {
                let (low, high) = if a == b { config.near_us } else { config.far_us };
                *delay = random.between(low, high);
            }
        }
        Network { config, between, places: HashMap::default() }
    }

    /// A line for the next place.
    pub(super) fn line(&mut self, random: &mut Random, place: usize, peer: PeerId) -> Line {
        self.places.insert(peer, place);
        Line {
            region: random.below(self.config.regions.max(1)) as usize,
            access_us: random.between(200, 8_000),
            up: random.between(self.config.up.0, self.config.up.1),
            down: random.between(self.config.down.0, self.config.down.1),
            down_free: Instant(0),
        }
    }

    /// Which node a contact means, if its address is right.
    pub(super) fn place(&self, contact: &Contact) -> Option<usize> {
        let place = *self.places.get(&contact.peer)?;
        contact.addrs.contains(&address(place)).then_some(place)
    }

    pub(super) fn place_of(&self, peer: &PeerId) -> Option<usize> {
        self.places.get(peer).copied()
    }

    /// How long one message takes from one line to another, now.
    pub(super) fn delay(&self, random: &mut Random, from: &Line, to: &Line) -> Duration {
        let between = self.between.get(from.region).and_then(|row| row.get(to.region)).copied().unwrap_or(0);
        let base = between + from.access_us + to.access_us;
        let mut us = base + random.below(base / 10 + 1);
        while random.chance(self.config.loss_permille, 1000) {
            // Found missing after a round trip, then sent again.
            us += 3 * base + 5_000;
        }
        Duration::from_micros(us)
    }
}

/// The address of the node at a place: each in a network of its own, outside the ranges that are not the Internet's.
pub(super) fn address(place: usize) -> SocketAddr {
    let (first, rest) = (place % 64, place / 64);
    SocketAddr::new([30 + first as u8, rest as u8, (rest >> 8) as u8, 1].into(), 4000)
}
