//! How long what is published lives while hosts lose what they have, against how often they are asked for proofs; next to what a formula says.

use crate::Bench;
use crate::plot::Plot;
use std::time::Duration;
use tornet::publish::job::JobId;
use tornet::sim::checker::Violation;
use tornet::sim::swarm::{Swarm, SwarmConfig};
use tornet::sim::tree::Tree;

/// Mean time after which a host loses all that it has, hours.
const LIFE: f64 = 72.0;
/// Passes over the records follow each other in so many hours at most.
const PASS: f64 = 1.0 / 6.0;
const LEN: u32 = 16 << 10;

/// What a run came to.
struct Outcome {
    /// Stripes that, at some moment, could not be read from the hosts alone.
    lost: usize,
    deaths: usize,
    moved_mib: f64,
    proofs_mib: f64,
}

/// Prints a table and plots it.
pub fn run(bench: &Bench) {
    let (hosts, stripes, days) = if bench.short { (16, 8, 1) } else { (24, 100, 10) };
    let periods: &[f64] = if bench.short { &[8.0] } else { &[4.0, 8.0, 16.0] };
    println!(
        "{hosts} hosts; each loses all that it has after {LIFE} h on average and goes on empty; {days} days, {stripes} stripes of {} KiB chunks.\n",
        LEN >> 10
    );
    println!(
        "| scheme | proofs every | hosts emptied | stripes lost | formula | moved, MiB a day | proofs, MiB a day |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let mut lines = Vec::new();
    for (data, parity) in [(8, 4), (4, 2)] {
        let (mut seen, mut said) = (Vec::new(), Vec::new());
        // Runs are independent of each other: each has a thread of its own.
        let outcomes: Vec<Result<Outcome, Violation>> = std::thread::scope(|scope| {
            let run = |period: &f64| {
                let period = *period;
                scope.spawn(move || live(bench.seed, hosts, stripes, days, period, (data, parity)))
            };
            let running: Vec<_> = periods.iter().map(run).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (period, outcome) in periods.iter().zip(outcomes) {
            let outcome =
                outcome.unwrap_or_else(|violation| panic!("{violation}; again: {}", bench.again("repair", hosts)));
            let part = outcome.lost as f64 / stripes as f64;
            let formula = loss(data, parity, *period, f64::from(days) * 24.0);
            println!(
                "| {data}+{parity} | {period} h | {} | {:.1} % | {:.1} % | {:.1} | {:.1} |",
                outcome.deaths,
                100.0 * part,
                100.0 * formula,
                outcome.moved_mib / f64::from(days),
                outcome.proofs_mib / f64::from(days)
            );
            seen.push((*period, 100.0 * part));
            said.push((*period, 100.0 * formula));
        }
        lines.push((format!("{data}+{parity}"), seen));
        lines.push((format!("{data}+{parity}, formula"), said));
    }
    let plot = Plot {
        title: format!("Stripes lost in {days} days, hosts emptied after {LIFE} h on average"),
        x: "proofs every so many hours".into(),
        y: "% lost".into(),
        log_x: false,
        lines,
    };
    bench.plot("repair.svg", &plot);
}

/// Probability that a stripe falls below k shards: each is there for `LIFE` and then missing until it is asked for next, on average half a
/// period and half a pass; the stripe is lost when, with all of its parity missing, one more goes.
fn loss(data: u8, parity: u8, period: f64, hours: f64) -> f64 {
    let gone = period / 2.0 + PASS / 2.0;
    let missing = gone / (LIFE + gone);
    let (n, m) = (i32::from(data + parity), i32::from(parity));
    let ways = (0..m).fold(1.0, |ways, i| ways * f64::from(n - i) / f64::from(i + 1));
    let brink = ways * missing.powi(m) * (1.0 - missing).powi(n - m);
    1.0 - (-hours * brink * f64::from(data) / LIFE).exp()
}

fn live(
    seed: u64,
    hosts: usize,
    stripes: usize,
    days: u32,
    period: f64,
    (data, parity): (u8, u8),
) -> Result<Outcome, Violation> {
    let mut config = SwarmConfig { nodes: hosts + 1, encode_every: 1000, ..SwarmConfig::default() };
    config.node.keeper.period = Duration::from_secs_f64(period * 3600.0);
    config.node.keeper.lease = 60 * 86_400;
    let mut swarm = Swarm::acquainted(config, seed)?;
    let tree = Tree::random(swarm.random(), stripes, data, parity, LEN);
    swarm.publish(0, JobId(1), &tree);
    // Proofs that begin at one time would all fall due at one time.
    swarm.run(Duration::from_secs_f64(2.0 * period * 3600.0))?;
    let before = swarm.tally().clone();
    let (end, mut lost, mut deaths) =
        (swarm.now().after(Duration::from_secs(u64::from(days) * 86_400)), vec![false; stripes], 0);
    while swarm.now() < end {
        // One of all hosts; the time to the next is exponential.
        let chance = (swarm.random().below(1 << 53) as f64 + 1.0) / (1u64 << 53) as f64;
        swarm.run(Duration::from_secs_f64(-chance.ln() * LIFE * 3600.0 / hosts as f64))?;
        let host = 1 + swarm.random().below(hosts as u64) as usize;
        swarm.wipe(host);
        deaths += 1;
        for (place, stripe) in tree.stripes.iter().enumerate() {
            let left = stripe.chunks.iter().filter(|chunk| (1..=hosts).any(|host| swarm.holds(host, chunk)));
            if left.count() < usize::from(data) {
                lost[place] = true;
            }
        }
    }
    let tally = swarm.tally();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(Outcome {
        lost: lost.iter().filter(|lost| **lost).count(),
        deaths,
        moved_mib: mib(tally.slice_bytes - before.slice_bytes),
        proofs_mib: mib(tally.proof_bytes - before.proof_bytes),
    })
}
