//! A flash crowd: everybody asks for one file within a minute.

use crate::crowd::Crowd;
use crate::plot::Plot;
use crate::{Bench, centile, memory};
use std::time::Duration;
use tornet::sim::checker::Violation;
use tornet::sim::network::NetworkConfig;
use tornet::sim::swarm::SwarmConfig;
use tornet::sim::tree::Tree;

const ORIGIN: usize = 0;
/// The crowd comes within this time.
const RUSH: Duration = Duration::from_secs(60);
/// Each waits so long for a stripe: there may be less bandwidth than all want.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Prints the table and draws the plot.
pub fn run(bench: &Bench) {
    let sizes = bench.sizes(&[50, 200, 500], &[15, 30]);
    let stripes = if bench.short { 1 } else { 13 };
    println!(
        "| readers | file, MiB | read by all | s for a reader: median | 90 % | last | s until the last has it | bound by all upload, s | bound by lines down, s | the origin's share of bytes, % | MiB in all |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut lines = Vec::new();
    for readers in sizes {
        match measure(bench, readers, stripes) {
            Ok(line) => lines.push(line),
            Err(violation) => panic!("{violation}; again: {}", bench.again("flash", readers)),
        }
    }
    let (title, x, y) = (
        "Readers of a flash crowd that have the whole file".to_string(),
        "s since the first".to_string(),
        "%".to_string(),
    );
    bench.plot("flash.svg", &Plot { title, x, y, log_x: false, lines });
}

fn measure(bench: &Bench, readers: usize, stripes: usize) -> Result<(String, Vec<(f64, f64)>), Violation> {
    let config = SwarmConfig { encode_every: 100, network: NetworkConfig::world(), ..SwarmConfig::default() };
    let mut crowd = Crowd::grown(config, readers + 1, bench.seed)?;
    let len = if bench.short { 256 << 10 } else { 1 << 20 };
    let tree = Tree::random(crowd.swarm.random(), stripes, 8, 4, len);
    crowd.publish(ORIGIN, &tree)?;
    let bytes = stripes as f64 * 8.0 * f64::from(len);
    let (start, sent, all) = (crowd.swarm.now(), crowd.swarm.sent(ORIGIN), crowd.swarm.tally().slice_bytes);
    let mut readings = Vec::new();
    for reader in 1..=readers {
        readings.push(crowd.swarm.copy(reader, &tree, PATIENCE));
        crowd.run(RUSH / readers as u32)?;
    }
    let end = crowd.swarm.now().after(Duration::from_secs(3600));
    crowd.swarm.run_while(end, |swarm| !readings.iter().all(|reading| swarm.readings[*reading].ended()))?;
    let done =
        readings.iter().map(|reading| &crowd.swarm.readings[*reading]).filter(|reading| reading.failed.is_empty());
    let mut took: Vec<f64> = Vec::new();
    let mut at: Vec<f64> = Vec::new();
    for reading in done {
        let Some(finished) = reading.finished else { continue };
        took.push(finished.since(reading.since).as_secs_f64());
        at.push(finished.since(start).as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    at.sort_by(f64::total_cmp);
    let upload: f64 = (0..=readers).map(|place| crowd.swarm.rates(place).0 as f64).sum();
    let slowest = (1..=readers).map(|place| crowd.swarm.rates(place).1).min().unwrap_or(1) as f64;
    let all = (crowd.swarm.tally().slice_bytes - all) as f64;
    println!(
        "| {readers} | {:.0} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {} |",
        bytes / f64::from(1 << 20),
        took.len(),
        centile(&took, 50),
        centile(&took, 90),
        took.last().copied().unwrap_or(f64::NAN),
        at.last().copied().unwrap_or(f64::NAN),
        bytes * readers as f64 / upload,
        bytes / slowest,
        100.0 * (crowd.swarm.sent(ORIGIN) - sent) as f64 / all,
        memory()
    );
    let share = |index: usize| 100.0 * (index + 1) as f64 / readers as f64;
    Ok((format!("{readers} readers"), at.iter().enumerate().map(|(index, at)| (*at, share(index))).collect()))
}
