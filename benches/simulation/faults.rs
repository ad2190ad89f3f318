//! Many seeds of a small swarm in which everything goes wrong: crashes, torn disks, a split network, clocks that jump, messages twice, late and
//! out of order. Whether promises are kept is checked after every step (`sim::checker`).

use crate::Bench;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tornet::base::random::Random;
use tornet::publish::job::JobId;
use tornet::sim::checker::Violation;
use tornet::sim::network::NetworkConfig;
use tornet::sim::swarm::{Swarm, SwarmConfig};
use tornet::sim::tree::Tree;

const DATA: u8 = 8;
const PARITY: u8 = 4;

/// What befell the nodes of one seed, or of all.
#[derive(Clone, Copy, Default)]
struct Counts {
    crashes: u64,
    torn: u64,
    splits: u64,
    jumps: u64,
    wants: u64,
    failed: u64,
    messages: u64,
}

/// Prints how many seeds ran and what they met; fails with the seeds that broke a promise.
pub fn run(bench: &Bench) {
    let count = std::env::var("TORNET_SEEDS").map(|count| count.parse().expect("TORNET_SEEDS is a number"));
    let count: u64 = count.unwrap_or(if bench.short { 4 } else { 1_000 });
    let next = AtomicU64::new(bench.seed);
    let end = bench.seed + count;
    let (all, broken) = (Mutex::new(Counts::default()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match wild(seed) {
                        Ok(counts) => all.lock().unwrap().add(&counts),
                        Err(violation) => {
                            eprintln!("seed {seed}: {violation}; again: {}", again(seed));
                            broken.lock().unwrap().push(seed);
                        }
                    }
                }
            });
        }
    });
    let (all, broken) = (all.into_inner().unwrap(), broken.into_inner().unwrap());
    println!(
        "| seeds | broken promises | crashes | torn disks | splits | clock jumps | wants fulfilled | wants failed with too few shards in reach | messages |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    println!(
        "| {count} | {} | {} | {} | {} | {} | {} | {} | {} |",
        broken.len(),
        all.crashes,
        all.torn,
        all.splits,
        all.jumps,
        all.wants,
        all.failed,
        all.messages
    );
    assert!(broken.is_empty(), "seeds {broken:?} broke a promise");
}

/// The command that runs one seed again.
fn again(seed: u64) -> String {
    format!("TORNET_SEED={seed} TORNET_SEEDS=1 TORNET_BENCH_ONLY=faults cargo bench --bench simulation")
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.crashes += other.crashes;
        self.torn += other.torn;
        self.splits += other.splits;
        self.jumps += other.jumps;
        self.wants += other.wants;
        self.failed += other.failed;
        self.messages += other.messages;
    }
}

fn wild(seed: u64) -> Result<Counts, Violation> {
    let mut random = Random::new(seed ^ 0xfa_u64.rotate_left(40));
    let nodes = random.between(14, 28) as usize;
    let network = NetworkConfig {
        regions: random.between(1, 5),
        loss_permille: random.below(60),
        duplicate_permille: random.below(50),
        straggle_permille: random.below(50),
        ..NetworkConfig::default()
    };
    let mut swarm = Swarm::acquainted(SwarmConfig { nodes, network, ..SwarmConfig::default() }, seed)?;
    let mut counts = Counts::default();
    let mut trees = Vec::new();
    for publisher in 0..random.between(1, 2) as usize {
        let (stripes, len) = (random.between(1, 2) as usize, random.between(1, 256 << 10) as u32);
        let tree = Tree::random(swarm.random(), stripes, DATA, PARITY, len);
        swarm.publish(publisher, JobId(1), &tree);
        trees.push(tree);
    }
    swarm.run(Duration::from_millis(random.below(20_000)))?;
    // Who is down, and when it comes back.
    let mut down: Vec<usize> = Vec::new();
    for _ in 0..random.between(6, 16) {
        let place = random.below(nodes as u64) as usize;
        match random.below(7) {
            0 | 1 if swarm.node(place).is_some() && down.len() < usize::from(PARITY) => {
                swarm.leave(place, false);
                counts.crashes += 1;
                if random.chance(1, 3) {
                    swarm.tear(place, 8);
                    counts.torn += 1;
                }
                down.push(place);
            }
            2 if !down.is_empty() => {
                let back = down.swap_remove(random.below(down.len() as u64) as usize);
                swarm.join(back, &[random.below(nodes as u64) as usize]);
            }
            3 => {
                let parts = (0..nodes).map(|_| random.below(2) as u8).collect();
                swarm.split(parts);
                counts.splits += 1;
                swarm.run(Duration::from_millis(random.between(500, 12_000)))?;
                swarm.heal();
            }
            4 => {
                swarm.jump(place, Duration::from_millis(random.between(1, 600_000)));
                counts.jumps += 1;
            }
            _ if swarm.node(place).is_some() => {
                swarm.read(place, random.pick(&trees).unwrap());
            }
            _ => {}
        }
        swarm.run(Duration::from_millis(random.below(3_000)))?;
    }
    // Peace: who was down comes back, and after a while what enough nodes have can be read by anybody again.
    for back in down {
        swarm.join(back, &[random.below(nodes as u64) as usize, 0]);
    }
    swarm.run(Duration::from_secs(120))?;
    let readers: Vec<usize> = (0..2).map(|_| random.below(nodes as u64) as usize).collect();
    for (tree, reader) in trees.iter().flat_map(|tree| readers.iter().map(move |reader| (tree, *reader))) {
        swarm.read(reader, tree);
    }
    swarm.run(Duration::from_secs(60))?;
    let tally = swarm.tally();
    (counts.wants, counts.failed, counts.messages) = (tally.wants_ok, tally.wants_failed, tally.messages);
    Ok(counts)
}
