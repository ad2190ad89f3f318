//! Hops and delay of searches for providers against the number of nodes, at rest and while nodes come and go.

use crate::crowd::{Churn, Crowd};
use crate::plot::Plot;
use crate::{Bench, centile, cpu, memory};
use std::time::Duration;
use tornet::sim::checker::Violation;
use tornet::sim::network::NetworkConfig;
use tornet::sim::swarm::SwarmConfig;
use tornet::sim::tree::Tree;

const CHURN: [Churn; 4] = [Churn::Rate(0), Churn::Rate(20), Churn::Rate(50), Churn::Measured];
const PUBLISHERS: usize = 8;

/// How long nodes come and go before, and while, searches are measured; and how many.
struct Plan {
    before: Duration,
    pause: Duration,
    searches: usize,
}

/// What was measured at one size and churn.
struct Cell {
    nodes: usize,
    churn: Churn,
    left: f64,
    searches: usize,
    found: usize,
    hops: Vec<f64>,
    delay_ms: Vec<f64>,
    requests: f64,
    dead: f64,
    messages: f64,
    memory: u64,
    speed: f64,
}

/// Prints the table and draws the plots.
pub fn run(bench: &Bench) {
    let sizes = bench.sizes(&[100, 1_000, 10_000], &[30, 60]);
    let plan = if bench.short {
        Plan { before: Duration::from_secs(10), pause: Duration::from_millis(250), searches: 20 }
    } else {
        Plan { before: Duration::from_secs(600), pause: Duration::from_secs(1), searches: 300 }
    };
    println!(
        "| nodes | churn, %/h | left, %/h | searches | found | hops: median | 90 % | most | ms to the first holder: median | 90 % | requests | holders named in vain, % | messages a node and s | MiB in all | node-seconds for a CPU second |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut cells = Vec::new();
    for nodes in sizes {
        match measure(bench, nodes, &plan) {
            Ok(more) => cells.extend(more),
            Err(violation) => panic!("{violation}; again: {}", bench.again("lookup", nodes)),
        }
    }
    let line = |churn: Churn, value: fn(&Cell) -> f64| {
        let cells = cells.iter().filter(|cell| cell.churn == churn);
        (format!("churn: {churn}"), cells.map(|cell| (cell.nodes as f64, value(cell))).collect())
    };
    let hops = |cell: &Cell| cell.hops.iter().sum::<f64>() / cell.hops.len().max(1) as f64;
    let plot = |title: &str, y: &str, value: fn(&Cell) -> f64| Plot {
        title: title.to_string(),
        x: "nodes".to_string(),
        y: y.to_string(),
        log_x: true,
        lines: CHURN.iter().map(|churn| line(*churn, value)).collect(),
    };
    bench.plot("lookup-hops.svg", &plot("Hops until a holder is named", "hops, mean", hops));
    let delay = |cell: &Cell| centile(&cell.delay_ms, 50);
    bench.plot("lookup-delay.svg", &plot("Time until a holder is named", "ms, median", delay));
}

fn measure(bench: &Bench, nodes: usize, plan: &Plan) -> Result<Vec<Cell>, Violation> {
    // Messages are checked against their encoding where that can be afforded.
    let encode_every = if nodes > 1_000 { 100 } else { 1 };
    let config = SwarmConfig { encode_every, network: NetworkConfig::world(), ..SwarmConfig::default() };
    let mut crowd = Crowd::grown(config, nodes, bench.seed)?;
    let mut chunks = Vec::new();
    for publisher in 0..PUBLISHERS {
        let tree = Tree::random(crowd.swarm.random(), 1, 8, 4, 64 << 10);
        crowd.publish(publisher * nodes / PUBLISHERS, &tree)?;
        chunks.extend(tree.chunks().into_iter().map(|(id, _)| id));
    }
    let mut cells = Vec::new();
    for churn in CHURN {
        crowd.churn(churn);
        crowd.run(if churn != Churn::Rate(0) { plan.before } else { Duration::from_secs(10) })?;
        let (first, messages, start) = (crowd.swarm.searches.len(), crowd.swarm.tally().messages, cpu());
        let (since, left) = (crowd.swarm.now(), crowd.left);
        for _ in 0..plan.searches {
            // Something that is there, asked for by somebody who does not have it.
            for _ in 0..100 {
                let (place, chunk) = (crowd.any(), *crowd.swarm.random().pick(&chunks).unwrap());
                if !crowd.swarm.holds(place, &chunk) && !crowd.swarm.holders(&chunk).is_empty() {
                    crowd.swarm.locate(place, chunk);
                    break;
                }
            }
            crowd.run(plan.pause)?;
        }
        crowd.run(Duration::from_secs(15))?;
        let span = crowd.swarm.now().since(since).as_secs_f64() * nodes as f64;
        let searches = &crowd.swarm.searches[first..];
        // A searcher that left did not give up.
        let ended: Vec<_> = searches.iter().filter(|search| search.ended.is_some()).collect();
        let mut hops: Vec<f64> = ended.iter().filter_map(|search| search.hops.map(f64::from)).collect();
        let ms = |search: &&&tornet::sim::swarm::Search| Some(search.found?.since(search.since).as_secs_f64() * 1e3);
        let mut delay_ms: Vec<f64> = ended.iter().filter_map(|search| ms(&search)).collect();
        hops.sort_by(f64::total_cmp);
        delay_ms.sort_by(f64::total_cmp);
        let (good, bad) =
            ended.iter().filter_map(|search| search.ended).fold((0, 0), |(good, bad), (_, g, b)| (good + g, bad + b));
        let cell = Cell {
            nodes,
            churn,
            left: (crowd.left - left) as f64 * 3600.0 * 100.0 / span,
            searches: ended.len(),
            found: ended.iter().filter(|search| search.ended.is_some_and(|(_, good, _)| good > 0)).count(),
            requests: ended.iter().map(|search| f64::from(search.requests)).sum::<f64>() / ended.len().max(1) as f64,
            hops,
            delay_ms,
            dead: 100.0 * bad as f64 / (good + bad).max(1) as f64,
            messages: (crowd.swarm.tally().messages - messages) as f64 / span,
            memory: memory(),
            speed: span / (cpu() - start),
        };
        cell.print();
        cells.push(cell);
    }
    Ok(cells)
}

impl Cell {
    fn print(&self) {
        let most = |values: &[f64]| values.last().copied().unwrap_or(f64::NAN);
        println!(
            "| {} | {} | {:.0} | {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.1} | {:.1} | {:.2} | {} | {:.0} |",
            self.nodes,
            self.churn,
            self.left,
            self.searches,
            self.found,
            centile(&self.hops, 50),
            centile(&self.hops, 90),
            most(&self.hops),
            centile(&self.delay_ms, 50),
            centile(&self.delay_ms, 90),
            self.requests,
            self.dead,
            self.messages,
            self.memory,
            self.speed
        );
    }
}
