//! The swarm at scale: the very node machine in virtual time. Tables go to stdout as Markdown, plots (SVG) to `target/tmp/simulation`.
//!
//! `cargo bench --bench simulation` measures up to 10,000 nodes and takes about half an hour on one core; `TORNET_BENCH_SHORT=1`, and `cargo test`,
//! run the same on small swarms. `TORNET_BENCH_ONLY=lookup,flash,market,repair,faults,behaviour,attack` chooses parts, `TORNET_SEED` the (first) seed, `TORNET_NODES=100,1000` the sizes,
//! `TORNET_SEEDS` how many seeds of a small swarm with random faults are run; of `behaviour` `TORNET_DAYS` the days and
//! `TORNET_RULES=tornet,BitTorrent,share alone` the rules; of `attack` `TORNET_ATTACKS=liars,poison,eclipse,flood` the attacks.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, unreachable_pub)]

mod attack;
mod behaviour;
mod crowd;
mod faults;
mod flash;
mod lookup;
mod market;
mod plot;
mod repair;

use std::path::{Path, PathBuf};
use std::time::Instant;

/// What to measure, and where to.
pub struct Bench {
    /// Small swarms, for tests.
    pub short: bool,
    /// One seed is one run.
    pub seed: u64,
    /// Sizes of swarms asked for instead of the usual ones.
    nodes: Option<Vec<usize>>,
    /// Where plots go.
    folder: PathBuf,
}

/// A part of the bench by its name.
type Part = (&'static str, fn(&Bench));

impl Bench {
    /// The sizes to measure at.
    pub fn sizes(&self, usual: &[usize], short: &[usize]) -> Vec<usize> {
        self.nodes.clone().unwrap_or(if self.short { short } else { usual }.to_vec())
    }

    /// The command that does one thing again, the same bit for bit.
    pub fn again(&self, part: &str, nodes: usize) -> String {
        let short = if self.short { "TORNET_BENCH_SHORT=1 " } else { "" };
        format!(
            "{short}TORNET_SEED={} TORNET_NODES={nodes} TORNET_BENCH_ONLY={part} cargo bench --bench simulation",
            self.seed
        )
    }

    /// Writes a plot and tells where.
    pub fn plot(&self, name: &str, plot: &plot::Plot) {
        std::fs::create_dir_all(&self.folder).unwrap();
        let path = self.folder.join(name);
        std::fs::write(&path, plot.svg()).unwrap();
        println!("\n{}", path.display());
    }
}

/// Resident memory of this process, MiB.
pub fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// CPU time of this process, seconds.
pub fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The value below which `part` of 100 of the sorted values lie.
pub fn centile(sorted: &[f64], part: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((sorted.len() * part / 100).min(last)).copied().unwrap_or(f64::NAN)
}

fn main() {
    // `cargo bench` calls us with this, `cargo test` without.
    let bench = std::env::args().any(|arg| arg == "--bench");
    let short = !bench || std::env::var_os("TORNET_BENCH_SHORT").is_some();
    let seed = std::env::var("TORNET_SEED").map_or(1, |seed| seed.parse().expect("TORNET_SEED is a number"));
    let nodes = std::env::var("TORNET_NODES").ok();
    let nodes = nodes.map(|list| list.split(',').map(|n| n.parse().expect("TORNET_NODES are numbers")).collect());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulation");
    let only = std::env::var("TORNET_BENCH_ONLY").ok();
    let bench = Bench { short, seed, nodes, folder };
    let parts: [Part; 7] = [
        ("lookup", lookup::run),
        ("flash", flash::run),
        ("market", market::run),
        ("repair", repair::run),
        ("faults", faults::run),
        ("behaviour", behaviour::run),
        ("attack", attack::run),
    ];
    for (name, part) in parts {
        if only.as_ref().is_none_or(|only| only.split(',').any(|wanted| wanted == name)) {
            let start = Instant::now();
            println!("\n### {name}\n");
            part(&bench);
            println!("\n{name}: {:.0} s, seed {seed}", start.elapsed().as_secs_f64());
        }
    }
}
