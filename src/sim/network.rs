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
    /// Regions, delays between them and rates of lines are those that were measured (`WORLD`), not drawn from the ranges here.
    pub measured: bool,
    /// Messages lost, of 1,000. Links are reliable: a loss costs a round trip and a bit.
    pub loss_permille: u64,
    /// Requests that arrive twice, of 1,000.
    pub duplicate_permille: u64,
    /// Messages that come up to two seconds late, of 1,000: others overtake them.
    pub straggle_permille: u64,
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
            measured: false,
            loss_permille: 10,
            duplicate_permille: 0,
            straggle_permille: 0,
            up: (2_000_000, 12_000_000),
            down: (6_000_000, 30_000_000),
            silence: Duration::from_secs(3),
            dial: Duration::from_secs(2),
            idle: Duration::from_secs(300),
        }
    }
}

/// A region of the measured world: nodes of 10,000 that lie there, kbit/s down and up, and round trips to all regions in milliseconds.
struct Region {
    share: u64,
    down: u64,
    up: u64,
    rtt: [u64; 6],
}

/// North America, Europe, South America, Asia and Pacific, Japan, Australia: where Bitcoin's nodes stood in 2019, mean round trips and mean
/// rates of lines of that year, as collected by Y. Aoki and others for SimBlock (arXiv:1901.09777; the figures of 2019 in its
/// `NetworkConfiguration.java`).
const WORLD: [Region; 6] = [
    Region { share: 3316, down: 52_000, up: 19_200, rtt: [32, 124, 184, 198, 151, 189] },
    Region { share: 4998, down: 40_000, up: 20_700, rtt: [124, 11, 227, 237, 252, 294] },
    Region { share: 90, down: 18_000, up: 5_800, rtt: [184, 227, 88, 325, 301, 322] },
    Region { share: 1177, down: 22_800, up: 15_700, rtt: [198, 237, 325, 85, 58, 198] },
    Region { share: 224, down: 22_800, up: 10_200, rtt: [151, 252, 301, 58, 12, 126] },
    Region { share: 195, down: 29_900, up: 11_300, rtt: [189, 294, 322, 198, 126, 16] },
];

impl NetworkConfig {
    /// The measured world. A vanished peer's links last as long as the product's do (`net::endpoint`: 20 s of silence); the loss is assumed.
    pub fn world() -> NetworkConfig {
        NetworkConfig { measured: true, silence: Duration::from_secs(20), ..NetworkConfig::default() }
    }

    /// Rates of one more line in bytes a second, up and down.
    pub fn rates(&self, random: &mut Random) -> (u64, u64) {
        let (_, up, down) = self.draw(random);
        (up, down)
    }

    /// Region and rates up and down for one more node.
    fn draw(&self, random: &mut Random) -> (usize, u64, u64) {
        if !self.measured {
            let region = random.below(self.regions.max(1)) as usize;
            return (region, random.between(self.up.0, self.up.1), random.between(self.down.0, self.down.1));
        }
        let mut rest = random.below(WORLD.iter().map(|region| region.share).sum());
        for (place, region) in WORLD.iter().enumerate() {
            if rest < region.share {
                // Only means were published: lines have from half of that to one and a half.
                let part = random.between(500, 1500);
                return (place, region.up * 125 * part / 1000, region.down * 125 * part / 1000);
            }
            rest -= region.share;
        }
        (0, 1, 1)
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
        if config.measured {
            between = WORLD.iter().map(|region| region.rtt.iter().map(|ms| ms * 1000 / 2).collect()).collect();
        }
        Network { config, between, places: HashMap::default() }
    }

    /// A line for the next place.
    pub(super) fn line(&mut self, random: &mut Random, place: usize, peer: PeerId) -> Line {
        self.places.insert(peer, place);
        let (region, up, down) = self.config.draw(random);
        // Published round trips are between nodes, with their lines.
        let access_us = if self.config.measured { 0 } else { random.between(200, 8_000) };
        Line { region, access_us, up, down, down_free: Instant(0) }
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
        if self.config.straggle_permille > 0 && random.chance(self.config.straggle_permille, 1000) {
            us += random.below(2_000_000);
        }
        Duration::from_micros(us)
    }
}

/// The address of the node at a place: each in a network of its own, outside the ranges that are not the Internet's.
pub(super) fn address(place: usize) -> SocketAddr {
    let (first, rest) = (place % 64, place / 64);
    SocketAddr::new([30 + first as u8, rest as u8, (rest >> 8) as u8, 1].into(), 4000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_world_is_lopsided_and_its_lines_are_faster_down_than_up() {
        let mut random = Random::new(3);
        let mut network = Network::new(NetworkConfig::world(), &mut random);
        let lines: Vec<Line> =
            (0..4000).map(|place| network.line(&mut random, place, PeerId([place as u8; 32]))).collect();
        let inside = |region: usize| lines.iter().filter(|line| line.region == region).count();
        assert!((1900..2100).contains(&inside(1)) && (20..60).contains(&inside(2)), "{} {}", inside(1), inside(2));
        assert!(lines.iter().all(|line| line.down > line.up));
        let (america, europe) =
            (lines.iter().find(|line| line.region == 0), lines.iter().find(|line| line.region == 1));
        let delay = network.delay(&mut random, america.unwrap(), europe.unwrap());
        assert!(delay >= Duration::from_millis(62), "{delay:?}");
        let home = (0..20).map(|_| network.delay(&mut random, europe.unwrap(), europe.unwrap())).min();
        assert!(home < Some(Duration::from_millis(7)), "{home:?}");
    }

    #[test]
    fn every_place_has_a_network_of_its_own_in_the_internet() {
        let networks: std::collections::BTreeSet<_> =
            (0..100_000).filter_map(|place| crate::base::network::network(&address(place))).collect();
        assert_eq!(networks.len(), 100_000);
    }
}
