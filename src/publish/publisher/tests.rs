//! The publisher among hosts of a made-up swarm: what they accept, how fast they pull, and when they go.

use super::*;
use crate::base::limit::IDS_MAX;
use crate::base::network::network;
use crate::base::random::Random;
use crate::publish::job::Group;
use std::collections::BTreeSet;

struct MadeHost {
    up: bool,
    /// Refuses every so manieth chunk; 1: all.
    refuses: Option<u64>,
    /// Accepts and never confirms.
    lazy: bool,
    accepted: Vec<ChunkId>,
}

struct World {
    now: Instant,
    publisher: Publisher,
    hosts: BTreeMap<PeerId, MadeHost>,
    /// Confirmed to the publisher: chunk -> hosts.
    held: BTreeMap<ChunkId, BTreeSet<PeerId>>,
    progress: BTreeMap<JobId, Progress>,
    placed: Vec<(ChunkId, PeerId)>,
    offers: usize,
    random: Random,
}

fn peer(number: u8) -> PeerId {
    PeerId([number; 32])
}

fn net(number: u8) -> Option<Network> {
    network(&std::net::SocketAddr::new([20, number, 1, 1].into(), 5000))
}

impl World {
    fn new(hosts: u8) -> World {
        let mut world = World {
            now: Instant(0),
            publisher: Publisher::new(PublishConfig::default()),
            hosts: BTreeMap::new(),
            held: BTreeMap::new(),
            progress: BTreeMap::new(),
            placed: Vec::new(),
            offers: 0,
            random: Random::new(7),
        };
        for number in 1..=hosts {
            world.add(number, net(number));
        }
        world.run(10);
        world
    }

    fn add(&mut self, number: u8, network: Option<Network>) {
        let host = MadeHost { up: true, refuses: None, lazy: false, accepted: Vec::new() };
        self.hosts.insert(peer(number), host);
        self.publisher.host_up(self.now, peer(number), network);
    }

    fn kill(&mut self, number: u8) {
        let host = self.hosts.get_mut(&peer(number)).unwrap();
        host.up = false;
        host.accepted.clear();
        self.publisher.host_down(self.now, peer(number));
    }

    fn publish(&mut self, job: u64, groups: &[Group]) {
        let publish = Publish { job: JobId(job), groups: groups.to_vec(), lease: 3600 };
        self.publisher.publish(self.now, &publish);
    }

    fn act(&mut self) {
        while let Some(action) = self.publisher.poll(self.now) {
            match action {
                PublishAction::Offer { offer, to, chunks, lease } => {
                    assert!(!chunks.is_empty() && chunks.len() <= IDS_MAX && lease == 3600);
                    self.offers += 1;
                    let host = self.hosts.get_mut(&to).unwrap();
                    if !host.up {
                        self.publisher.offered(self.now, offer, &OfferOutcome::Failed);
                        continue;
                    }
                    let mut bits = vec![0; chunks.len().div_ceil(8)];
                    for (place, (id, len)) in chunks.iter().enumerate() {
                        assert!(*len > 0);
                        if host.refuses.is_none_or(|part| self.random.below(part) != 0) {
                            bits[place / 8] |= 1 << (place % 8);
                            host.accepted.push(*id);
                        }
                    }
                    self.publisher.offered(self.now, offer, &OfferOutcome::Accepted(bits));
                }
                PublishAction::Progress { job, progress } => {
                    self.progress.insert(job, progress);
                }
                PublishAction::Placed { job, group, chunk, peer } => {
                    assert!(self.held.get(&chunk).is_some_and(|hosts| hosts.contains(&peer)), "{job:?} {group:?}");
                    self.placed.push((chunk, peer));
                }
            }
        }
    }

    /// Goes on for so many tenths of a second; in each a host pulls up to 20 chunks.
    fn run(&mut self, tenths: u64) {
        for _ in 0..tenths {
            self.act();
            for (peer, host) in &mut self.hosts {
                if !host.up || host.lazy {
                    continue;
                }
                let count = host.accepted.len().min(20);
                let pulled: Vec<ChunkId> = host.accepted.drain(..count).collect();
                for id in &pulled {
                    self.held.entry(*id).or_default().insert(*peer);
                }
                self.publisher.confirmed(self.now, *peer, &pulled);
            }
            self.act();
            self.now = self.now.after(Duration::from_millis(100));
        }
    }

    fn hosted(&self, job: u64) -> (u64, u64) {
        let progress = self.progress[&JobId(job)];
        (progress.hosted, progress.wanted)
    }

    /// Distinct hosts up that hold chunks of a group.
    fn distinct(&self, group: &Group) -> usize {
        let holders = group.chunks.iter().filter_map(|(id, _)| self.held.get(id)).flatten();
        holders.filter(|peer| self.hosts[peer].up).collect::<BTreeSet<_>>().len()
    }
}

fn stripes(count: usize, width: usize, seed: u64) -> Vec<Group> {
    let mut random = Random::new(seed);
    let mut stripe =
        || Group { chunks: (0..width).map(|_| (ChunkId(random.bytes32()), 1 << 20)).collect(), data: 0, copies: 1 };
    (0..count).map(|_| stripe()).collect()
}

fn lone(copies: u8, seed: u64) -> Group {
    Group { chunks: vec![(ChunkId(Random::new(seed).bytes32()), 5000)], data: 1, copies }
}

#[test]
fn a_gibibyte_is_placed_on_twelve_peers_with_each_stripe_on_distinct_ones() {
    let mut world = World::new(12);
    let mut groups = stripes(128, 12, 1);
    groups.push(lone(5, 2));
    world.publish(1, &groups);
    world.run(100);
    assert_eq!(world.hosted(1), (128 * 12 + 5, 128 * 12 + 5));
    for group in &groups[..128] {
        assert_eq!(world.distinct(group), 12);
    }
    assert_eq!(world.distinct(&groups[128]), 5);
    assert!(world.offers < 100, "offers are batched: {}", world.offers);
    assert_eq!((world.progress[&JobId(1)].hosts_min, world.progress[&JobId(1)].hosts_wanted), (12, 12));
    assert!(world.publisher.index.is_empty(), "what is done is forgotten");
    assert_eq!(world.publisher.stats().outstanding, 0);
}

#[test]
fn with_fewer_peers_than_chunks_they_share_evenly() {
    let mut world = World::new(3);
    let groups = stripes(10, 12, 1);
    world.publish(1, &groups);
    world.run(50);
    assert_eq!(world.hosted(1), (120, 120));
    for group in &groups {
        let mut counts: BTreeMap<PeerId, usize> = BTreeMap::new();
        for (id, _) in &group.chunks {
            *counts.entry(*world.held[id].first().unwrap()).or_default() += 1;
        }
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [4, 4, 4]);
    }
    assert_eq!(world.progress[&JobId(1)].hosts_min, 3);
}

#[test]
fn stripes_are_spread_over_networks_first() {
    let mut world = World::new(0);
    for number in 1..=10 {
        world.add(number, net(1));
    }
    for number in 11..=15 {
        world.add(number, net(number));
    }
    world.run(20);
    let groups = stripes(20, 6, 1);
    world.publish(1, &groups);
    world.run(50);
    for group in &groups {
        let crowded = group.chunks.iter().filter(|(id, _)| world.held[id].first().unwrap().0[0] <= 10).count();
        assert_eq!(crowded, 1, "five other networks and one of the crowded one");
    }
}

#[test]
fn without_peers_it_waits_and_then_it_goes_on() {
    let mut world = World::new(0);
    let groups = stripes(5, 12, 1);
    world.publish(1, &groups);
    world.run(600);
    assert_eq!(world.hosted(1), (0, 60));
    for number in 1..=12 {
        world.add(number, net(number));
        world.run(3);
    }
    world.run(60);
    assert_eq!(world.hosted(1), (60, 60));
    for group in &groups {
        assert_eq!(world.distinct(group), 12, "it waited until no more came");
    }
}

#[test]
fn refusals_move_chunks_to_others() {
    let mut world = World::new(14);
    for number in 1..=3 {
        world.hosts.get_mut(&peer(number)).unwrap().refuses = Some(3);
    }
    world.hosts.get_mut(&peer(4)).unwrap().refuses = Some(1);
    let groups = stripes(50, 10, 1);
    world.publish(1, &groups);
    world.run(200);
    assert_eq!(world.hosted(1), (500, 500));
    for group in &groups {
        assert_eq!(world.distinct(group), 10);
    }
    assert!(world.offers < 400, "{}", world.offers);
}

#[test]
fn when_nobody_takes_it_it_is_tried_again_later() {
    let mut world = World::new(3);
    for host in world.hosts.values_mut() {
        host.refuses = Some(1);
    }
    world.publish(1, &stripes(2, 3, 1));
    world.run(100);
    assert_eq!(world.hosted(1), (0, 6));
    assert!(world.offers < 20, "{}", world.offers);
    for host in world.hosts.values_mut() {
        host.refuses = None;
    }
    world.run(1500);
    assert_eq!(world.hosted(1), (6, 6));
}

#[test]
fn a_host_lost_before_it_confirmed_is_replaced() {
    let mut world = World::new(14);
    let groups = stripes(200, 12, 1);
    world.publish(1, &groups);
    world.run(3);
    world.kill(3);
    world.kill(9);
    world.held.values_mut().for_each(|hosts| hosts.retain(|peer| peer.0[0] != 3 && peer.0[0] != 9));
    world.run(300);
    assert_eq!(world.hosted(1), (2400, 2400));
    let whole = groups.iter().filter(|group| world.distinct(group) >= 10).count();
    assert_eq!(whole, 200, "only what the two had confirmed may lie with them");
}

#[test]
fn a_host_that_accepts_and_does_nothing_is_replaced() {
    let mut world = World::new(13);
    world.hosts.get_mut(&peer(5)).unwrap().lazy = true;
    let groups = stripes(20, 12, 1);
    world.publish(1, &groups);
    world.run(100);
    let (hosted, wanted) = world.hosted(1);
    assert!(hosted < wanted);
    world.run(1500);
    assert_eq!(world.hosted(1), (wanted, wanted));
    // It wakes up late: what it has counts no more than once.
    world.hosts.get_mut(&peer(5)).unwrap().lazy = false;
    world.run(100);
    assert_eq!(world.hosted(1), (wanted, wanted));
}

#[test]
fn a_stranger_s_announcement_confirms_nothing() {
    let mut world = World::new(1);
    let groups = stripes(1, 1, 1);
    world.hosts.get_mut(&peer(1)).unwrap().lazy = true;
    world.publish(1, &groups);
    world.run(10);
    world.publisher.confirmed(world.now, peer(99), &[groups[0].chunks[0].0]);
    world.run(10);
    assert_eq!(world.hosted(1), (0, 1), "it may be a reader's cache, gone tomorrow");
}

#[test]
fn hosts_that_come_later_relieve_those_that_doubled_up() {
    let mut world = World::new(4);
    let groups = stripes(5, 8, 1);
    world.publish(1, &groups);
    world.run(50);
    assert_eq!(world.hosted(1), (40, 40));
    assert_eq!(world.progress[&JobId(1)].hosts_min, 4);
    for number in 5..=8 {
        world.add(number, net(number));
    }
    world.run(100);
    assert_eq!(world.hosted(1), (40, 40));
    assert_eq!(world.progress[&JobId(1)].hosts_min, 8);
    for group in &groups {
        assert_eq!(world.distinct(group), 8);
    }
}

#[test]
fn chunks_that_are_announced_are_counted_once() {
    let mut world = World::new(2);
    let groups = stripes(2, 2, 1);
    world.publish(1, &groups);
    for _ in 0..2 {
        for (id, _) in groups.iter().flat_map(|group| &group.chunks) {
            world.publisher.announced(world.now, id);
        }
    }
    world.run(20);
    let progress = world.progress[&JobId(1)];
    assert_eq!((progress.announced, progress.to_announce), (4, 4));
    assert_eq!(world.publisher.stats().jobs, 0);
}

#[test]
fn a_forgotten_job_leaves_nothing_behind() {
    let mut world = World::new(5);
    let groups = stripes(100, 5, 1);
    world.publish(1, &groups);
    world.publish(2, &groups[50..]);
    world.run(2);
    world.publisher.unpublish(JobId(1));
    world.run(50);
    assert_eq!(world.hosted(2), (250, 250));
    assert_eq!(world.publisher.stats().outstanding, 0);
    for host in world.publisher.hosts.values() {
        assert_eq!((host.outstanding_bytes, host.outbox.len()), (0, 0));
    }
    world.publisher.unpublish(JobId(2));
    assert!(world.publisher.index.is_empty() && world.publisher.jobs.is_empty());
}

/// Random hosts come, go, refuse and idle; in the end, when all is calm, everything is hosted, and the books are balanced throughout.
#[test]
fn whatever_hosts_do_the_books_are_balanced_and_in_the_end_all_is_hosted() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let mut world = World::new(6);
        let mut groups = stripes(30, 6, seed);
        groups.push(lone(3, seed + 100));
        world.publish(1, &groups);
        for _ in 0..60 {
            let number = 1 + random.below(10) as u8;
            match (random.below(5), world.hosts.contains_key(&peer(number))) {
                (0, true) if world.hosts[&peer(number)].up => world.kill(number),
                (0 | 1, _) => world.add(number, net(number % 4)),
                (2, true) => world.hosts.get_mut(&peer(number)).unwrap().refuses = Some(1 + random.below(4)),
                (3, true) => world.hosts.get_mut(&peer(number)).unwrap().lazy = random.below(2) == 0,
                _ => {}
            }
            world.run(1 + random.below(30));
            let out: usize = world.publisher.hosts.values().map(|host| host.outstanding.len()).sum();
            assert_eq!(out, world.publisher.outstanding);
            for host in world.publisher.hosts.values() {
                let bytes: u64 = host
                    .outstanding
                    .keys()
                    .map(|slot| {
                        let job = &world.publisher.jobs[&slot.job];
                        u64::from(job.groups[slot.group as usize].items[slot.item as usize].len)
                    })
                    .sum();
                assert_eq!(bytes, host.outstanding_bytes);
            }
        }
        for number in 1..=10 {
            world.add(number, net(number));
            let host = world.hosts.get_mut(&peer(number)).unwrap();
            (host.refuses, host.lazy) = (None, false);
        }
        world.run(8000);
        let (hosted, wanted) = world.hosted(1);
        assert_eq!(hosted, wanted, "seed {seed}");
    }
}

#[test]
fn it_is_known_whether_more_hosts_will_come_by_themselves() {
    let mut world = World::new(3);
    let groups = stripes(2, 3, 1);
    let ids = |groups: &[Group]| -> Vec<ChunkId> { groups.iter().flat_map(|g| &g.chunks).map(|(id, _)| *id).collect() };
    world.publish(1, &groups);
    assert!(world.publisher.under_way(&ids(&groups)));
    world.run(60);
    assert_eq!(world.hosted(1), (6, 6));
    assert!(!world.publisher.under_way(&ids(&groups)));
    // Five are wanted and three are there.
    let lone = [lone(5, 2)];
    world.publish(2, &lone);
    world.run(9);
    assert_eq!((world.hosted(2), world.publisher.under_way(&ids(&lone))), ((3, 5), false));
}
