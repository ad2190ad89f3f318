//! What nodes earn with what they offer: readers all over the swarm want files, some far more often than others; with and without buying.

use crate::crowd::Crowd;
use crate::plot::Plot;
use crate::{Bench, centile, cpu, memory};
use std::time::Duration;
use tornet::market::MarketConfig;
use tornet::node::NodeConfig;
use tornet::node::stats::NodeStats;
use tornet::sim::checker::Violation;
use tornet::sim::network::NetworkConfig;
use tornet::sim::swarm::{Swarm, SwarmConfig};
use tornet::sim::tree::Tree;

/// Files in the swarm for each node, and how unlike their popularity is (Zipf).
const FILES_PER_NODE: f64 = 1.5;
const ZIPF: f64 = 0.8;
/// Each node offers this part of what its line carries up.
const OFFER: u64 = 8;
/// Disk of each node for all that it reads and hosts, in files.
const CACHE_FILES: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(600);
/// How much one node may buy in a day, and have at once, in files.
const BUYS_FILES: u64 = 64;
const HOLDS_FILES: u64 = 8;

struct Plan {
    /// Chunks of 8+4 in a file, and their length.
    chunk: u32,
    /// What is wanted, in percent of all that is offered.
    demand: f64,
    warm: Duration,
    measured: Duration,
    probes: usize,
}

/// What came of it.
struct Outcome {
    used: Vec<f64>,
    gini: f64,
    at_hand: f64,
    probes: usize,
    seconds: Vec<f64>,
    failed: usize,
    read: usize,
    publishers: f64,
    messages: u64,
    stats: Vec<NodeStats>,
    radius: Vec<(f64, f64)>,
}

/// Prints the table and draws the plots.
pub fn run(bench: &Bench) {
    let sizes = bench.sizes(&[16], &[12]);
    let plan = if bench.short {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Plan { chunk: 32 << 10, demand: 10.0, warm: minutes(11), measured: minutes(3), probes: 40 }
    } else {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Plan { chunk: 64 << 10, demand: 30.0, warm: minutes(40), measured: minutes(20), probes: 300 }
    };
    println!(
        "| nodes | bought | used of what is offered, %: mean | 10 % of nodes | 90 % | Gini of bytes sent for what is offered | chunk at hand at a peer known already, % | s for a file: median | 90 % | files read | failed | sent by publishers, % | million messages | chunks bought | dropped | sent of bought, bytes for one | radius: median, % of the key space | MiB in all | CPU s |"
    );
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut lines = Vec::new();
    for nodes in sizes {
        let mut both = Vec::new();
        for buys in [false, true] {
            let start = cpu();
            match measure(bench, nodes, &plan, buys) {
                Ok(outcome) => {
                    outcome.print(nodes, buys, cpu() - start);
                    if buys {
                        lines.push((format!("{nodes} nodes"), outcome.radius.clone()));
                    }
                    both.push(outcome);
                }
                Err(violation) => panic!("{violation}; again: {}", bench.again("market", nodes)),
            }
        }
        let [without, with] = &both[..] else { unreachable!("two runs") };
        let bought: u64 = with.stats.iter().map(|stats| stats.market.bought).sum();
        let none: u64 = without.stats.iter().map(|stats| stats.market.bought).sum();
        assert!(bought > 0 && none == 0, "{bought} bought, and {none} where nothing may be");
        assert!(
            with.failed == 0 && without.failed == 0,
            "{} and {} files could not be read",
            with.failed,
            without.failed
        );
    }
    let (title, x, y) = ("Median radius".to_string(), "minutes".to_string(), "% of the key space".to_string());
    bench.plot("market-radius.svg", &Plot { title, x, y, log_x: false, lines });
}

fn measure(bench: &Bench, nodes: usize, plan: &Plan, buys: bool) -> Result<Outcome, Violation> {
    let file = u64::from(plan.chunk) * 8;
    let market = MarketConfig {
        day_bytes_max: if buys { (BUYS_FILES * file).max(256 << 20) } else { 0 },
        disk_bytes_max: (HOLDS_FILES * file).max(2 << 20),
        ..MarketConfig::default()
    };
    let usual = SwarmConfig::default();
    let node = NodeConfig { market, ..usual.node.clone() };
    let cache_bytes = Some(CACHE_FILES * file + market.disk_bytes_max);
    let config = SwarmConfig { encode_every: 1000, network: NetworkConfig::world(), node, cache_bytes, ..usual };
    let mut crowd = Crowd::grown(config, nodes, bench.seed)?;
    let mut files = Vec::new();
    let count = (nodes as f64 * FILES_PER_NODE) as usize;
    let publishers = (nodes / 6).max(2);
    for number in 0..count {
        let tree = Tree::random(crowd.swarm.random(), 1, 8, 4, plan.chunk);
        crowd.publish_as(number % publishers, number as u64, &tree)?;
        files.push(tree);
    }
    let offers: Vec<u64> = (0..nodes).map(|place| (crowd.swarm.rates(place).0 / OFFER).max(32_000)).collect();
    for (place, offer) in offers.iter().enumerate() {
        crowd.swarm.limit_upload(place, Some(*offer));
    }
    let mut ranks: Vec<f64> = (1..=count).map(|rank| (rank as f64).powf(-ZIPF)).collect();
    let all: f64 = ranks.iter().sum();
    ranks.iter_mut().for_each(|weight| *weight /= all);
    let offered: u64 = offers.iter().sum();
    let pause = Duration::from_secs_f64(file as f64 / (offered as f64 * plan.demand / 100.0));
    let mut radius = Vec::new();
    let start = crowd.swarm.now();
    let wants = |crowd: &mut Crowd, span: Duration, radius: &mut Vec<(f64, f64)>| -> Result<Vec<usize>, Violation> {
        let end = crowd.swarm.now().after(span);
        let mut begun = Vec::new();
        let mut noted = crowd.swarm.now();
        while crowd.swarm.now() < end {
            let (place, wanted) = (crowd.any(), pick(crowd, &ranks));
            begun.push(crowd.swarm.copy(place, &files[wanted], PATIENCE));
            crowd.run(pause)?;
            if crowd.swarm.now() >= noted {
                noted = noted.after(Duration::from_secs(300));
                radius.push((crowd.swarm.now().since(start).as_secs_f64() / 60.0, median_radius(&crowd.swarm, nodes)));
            }
        }
        Ok(begun)
    };
    wants(&mut crowd, plan.warm, &mut radius)?;
    let before: Vec<u64> = (0..nodes).map(|place| crowd.swarm.sent(place)).collect();
    let since = crowd.swarm.now();
    let begun = wants(&mut crowd, plan.measured, &mut radius)?;
    let seconds = crowd.swarm.now().since(since).as_secs_f64();
    let sent: Vec<f64> = (0..nodes).map(|place| (crowd.swarm.sent(place) - before[place]) as f64).collect();
    let mut used: Vec<f64> =
        sent.iter().zip(&offers).map(|(sent, offer)| 100.0 * sent / (*offer as f64 * seconds)).collect();
    used.sort_by(f64::total_cmp);
    // Something that somebody wants and does not have: is it at a peer that he knows already?
    let first = crowd.swarm.searches.len();
    for _ in 0..plan.probes {
        for _ in 0..100 {
            let (place, wanted) = (crowd.any(), pick(&mut crowd, &ranks));
            let chunk = *crowd.swarm.random().pick(&files[wanted].stripes[0].chunks[..8]).unwrap();
            if !crowd.swarm.holds(place, &chunk) && !crowd.swarm.holders(&chunk).is_empty() {
                crowd.swarm.locate(place, chunk);
                break;
            }
        }
        crowd.run(Duration::from_millis(200))?;
    }
    crowd.run(Duration::from_secs(15))?;
    let searches = &crowd.swarm.searches[first..];
    let (at_hand, probes) = (searches.iter().filter(|search| search.at_hand).count(), searches.len());
    let end = crowd.swarm.now().after(PATIENCE);
    crowd.swarm.run_while(end, |swarm| !begun.iter().all(|reading| swarm.readings[*reading].ended()))?;
    let readings = || begun.iter().map(|reading| &crowd.swarm.readings[*reading]);
    let mut seconds: Vec<f64> = readings()
        .filter(|reading| reading.failed.is_empty())
        .filter_map(|reading| Some(reading.finished?.since(reading.since).as_secs_f64()))
        // What was in the cache took no time and asked nobody.
        .filter(|seconds| *seconds > 0.0)
        .collect();
    seconds.sort_by(f64::total_cmp);
    let all: f64 = sent.iter().sum();
    Ok(Outcome {
        gini: gini(&used),
        used,
        at_hand: 100.0 * at_hand as f64 / probes.max(1) as f64,
        probes,
        failed: readings().filter(|reading| !reading.failed.is_empty()).count(),
        read: begun.len(),
        seconds,
        publishers: 100.0 * sent[..publishers].iter().sum::<f64>() / all,
        messages: crowd.swarm.tally().messages,
        stats: (0..nodes).filter_map(|place| Some(crowd.swarm.node(place)?.stats())).collect(),
        radius,
    })
}

/// A file by its popularity.
fn pick(crowd: &mut Crowd, ranks: &[f64]) -> usize {
    let mut rest = crowd.swarm.random().below(1 << 53) as f64 / (1u64 << 53) as f64;
    for (place, weight) in ranks.iter().enumerate() {
        if rest < *weight {
            return place;
        }
        rest -= weight;
    }
    0
}

fn median_radius(swarm: &Swarm, nodes: usize) -> f64 {
    let parts = |place: usize| Some(swarm.node(place)?.stats().market.radius_parts as f64 / 1e7);
    let mut radii: Vec<f64> = (0..nodes).filter_map(parts).collect();
    radii.sort_by(f64::total_cmp);
    centile(&radii, 50)
}

/// 0: all get the same for what they offer; 1: one gets all.
fn gini(sorted: &[f64]) -> f64 {
    let (count, sum) = (sorted.len() as f64, sorted.iter().sum::<f64>());
    let weighted: f64 =
        sorted.iter().enumerate().map(|(place, value)| (2.0 * (place as f64 + 1.0) - count - 1.0) * value).sum();
    weighted / (count * sum.max(1e-9))
}

impl Outcome {
    fn print(&self, nodes: usize, buys: bool, cpu: f64) {
        let sum = |value: fn(&NodeStats) -> u64| self.stats.iter().map(value).sum::<u64>();
        let bytes = sum(|stats| stats.market.bought_bytes);
        let earned = sum(|stats| stats.market.sent_bytes) as f64 / bytes.max(1) as f64;
        println!(
            "| {nodes} | {} | {:.0} | {:.0} | {:.0} | {:.2} | {:.0} | {:.1} | {:.1} | {} | {} | {:.0} | {:.2} | {} | {} | {} | {:.1} | {} | {cpu:.0} |",
            if buys { "yes" } else { "no" },
            self.used.iter().sum::<f64>() / self.used.len() as f64,
            centile(&self.used, 10),
            centile(&self.used, 90),
            self.gini,
            self.at_hand,
            centile(&self.seconds, 50),
            centile(&self.seconds, 90),
            self.read,
            self.failed,
            self.publishers,
            self.messages as f64 / 1e6,
            sum(|stats| stats.market.bought),
            sum(|stats| stats.market.dropped),
            if bytes == 0 { "–".to_string() } else { format!("{earned:.1}") },
            self.radius.last().map_or(0.0, |(_, part)| *part),
            memory()
        );
        assert!(self.probes > 0 && self.read > 0, "nothing was asked for");
    }
}
