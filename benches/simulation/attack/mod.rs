//! What attackers can do: look-ups and reads of honest nodes, and what they have to remember, without attackers and with ever more of them.

mod field;

use crate::{Bench, centile, cpu};
use field::{Attack, Field, Scale};
use std::collections::BTreeMap;
use std::time::Duration;
use tornet::base::keyspace::Key;
use tornet::base::limit::{HEADS_MAX, PROVIDERS_MAX};
use tornet::sim::checker::Violation;

/// Disjoint paths of a look-up of a key (`node/find`).
const PATHS: i32 = 3;
/// Buckets of a table and contacts in each.
const CONTACTS_MOST: usize = 256 * 20;
/// Chunks with counters of their own (`market/popularity`).
const COUNTED_MOST: usize = 32_768;
/// Honest nodes next to a chunk whose records of it are looked at.
const LOOKED_AT: usize = 16;

/// What was measured of one attack by one number of attackers.
struct Cell {
    attack: Attack,
    attackers: usize,
    all: usize,
    hosted: f64,
    searches: usize,
    found: usize,
    hops: Vec<f64>,
    search_ms: Vec<f64>,
    readings: usize,
    read: usize,
    read_s: Vec<f64>,
    /// How the others ended.
    failures: BTreeMap<String, usize>,
    false_answers: u64,
    accepted: u64,
    /// Of honest holders of published chunks, those on record next to the chunk, %; and at how many of the nodes there.
    on_record: f64,
    copies: f64,
    contacts: usize,
    records: usize,
    records_max: usize,
    heads: usize,
    counted: usize,
    known: usize,
    messages: f64,
    cpu: f64,
}

/// Prints the tables.
pub fn run(bench: &Bench) {
    let sizes = bench.sizes(&[1_000], &[32]);
    println!(
        "| attack | honest nodes | attackers | hosted, % | look-ups that found a holder | hops: median | 90 % | ms: median | 90 % | files read | others ended by | s: median | 90 % | false answers | accepted | honest holders on record, % | at nodes | contacts, most | provider records, most | heads, most | chunks counted, most | peers known, most | messages a honest node and s | CPU s |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for honest in sizes {
        match all(bench, honest) {
            Ok(cells) => check(bench, honest, &cells),
            Err(violation) => panic!("{violation}; again: {}", bench.again("attack", honest)),
        }
    }
}

fn all(bench: &Bench, honest: usize) -> Result<Vec<Cell>, Violation> {
    let scale = Scale {
        honest,
        trees: if bench.short { 1 } else { 4 },
        records_max: if bench.short { 1_000 } else { 4_000 },
        flood: if bench.short { (1, 64) } else { (2, 256) },
        tries: if bench.short { 1 << 12 } else { 1 << 20 },
        encode_every: if bench.short { 4 } else { 100 },
    };
    let part = |percent: usize| honest * percent / (100 - percent);
    let trees = scale.trees;
    let long = vec![
        (Attack::Liars, vec![0, part(10), part(30)]),
        (Attack::PoisonBefore, vec![part(10), part(30)]),
        (Attack::PoisonAfter, vec![part(30)]),
        (Attack::Eclipse, vec![4 * trees, 8 * trees, 24 * trees]),
        (Attack::Flood, vec![part(10), part(30)]),
    ];
    let short = vec![
        (Attack::Liars, vec![0, part(30)]),
        (Attack::PoisonBefore, vec![32]),
        (Attack::Eclipse, vec![8 * trees]),
        (Attack::Flood, vec![part(30)]),
    ];
    let plan = if bench.short { short } else { long };
    let only = std::env::var("TORNET_ATTACKS").ok();
    let mut cells: Vec<Cell> = Vec::new();
    for (attack, counts) in plan {
        for attackers in counts {
            if only.as_ref().is_some_and(|only| !only.split(',').any(|name| attack.to_string().starts_with(name))) {
                continue;
            }
            let cell = measure(bench, attack, attackers, scale)?;
            cell.print();
            cells.push(cell);
        }
    }
    if let Some(calm) = cells.iter().find(|cell| cell.attackers == 0) {
        println!(
            "\n| hostile, % | by the formula of one to {PATHS} disjoint paths: look-ups that meet no liar, % |\n|--:|--:|"
        );
        for percent in [10, 20, 30] {
            let said: Vec<String> =
                (1..=PATHS).map(|paths| format!("{:.1}", 100.0 * unharmed(&calm.hops, percent, paths))).collect();
            println!("| {percent} | {} |", said.join(", "));
        }
    }
    Ok(cells)
}

/// Baumgart and Mies ("S/Kademlia", 2007): a look-up over `paths` disjoint paths succeeds unless each of them meets a hostile node; paths are
/// as long as these were.
fn unharmed(hops: &[f64], percent: usize, paths: i32) -> f64 {
    let good = 1.0 - percent as f64 / 100.0;
    hops.iter().map(|hops| 1.0 - (1.0 - good.powf(*hops)).powi(paths)).sum::<f64>() / hops.len().max(1) as f64
}

fn measure(bench: &Bench, attack: Attack, attackers: usize, scale: Scale) -> Result<Cell, Violation> {
    let start = cpu();
    let mut field = Field::grown(attack, attackers, scale, bench.seed)?;
    let hosted = field.publish()?;
    let (searches, readings, pause) =
        if bench.short { (12, 8, Duration::from_millis(500)) } else { (200, 100, Duration::from_secs(1)) };
    let honest = field.honest.clone();
    let received = |field: &Field| honest.iter().map(|place| field.swarm.received(*place)).sum::<u64>();
    let (since, before) = (field.swarm.now(), received(&field));
    let (on_record, copies) = records(&field);
    for _ in 0..searches {
        let number = field.swarm.random().below(field.trees.len() as u64) as usize;
        let tree = field.trees[number].1.clone();
        let chunks: Vec<_> = if attack == Attack::Eclipse { vec![tree.root] } else { tree.chunks() };
        let chunk = field.swarm.random().pick(&chunks).unwrap().0;
        let place = field.any();
        if !field.swarm.holds(place, &chunk) {
            field.swarm.locate(place, chunk);
        }
        field.run(pause)?;
    }
    field.run(Duration::from_secs(12))?;
    // Each reads once, so that most know nothing of the tree.
    let mut readers = honest.clone();
    field.swarm.random().shuffle(&mut readers);
    let mut begun = Vec::new();
    for place in readers
        .into_iter()
        .filter(|place| field.trees.iter().all(|(publisher, _)| publisher != place))
        .take(readings)
        .collect::<Vec<_>>()
    {
        let (_, tree) = &field.trees[begun.len() % field.trees.len()];
        let tree = tree.clone();
        begun.push(field.swarm.read(place, &tree));
        field.run(pause)?;
    }
    let end = field.swarm.now().after(Duration::from_secs(70));
    while field.swarm.now() < end && !begun.iter().all(|reading| field.swarm.readings[*reading].ended()) {
        field.run(Duration::from_secs(1))?;
    }
    let span = field.swarm.now().since(since).as_secs_f64() * honest.len() as f64;
    let swarm = &field.swarm;
    let mut failures = BTreeMap::new();
    for (_, failure) in begun.iter().filter_map(|reading| swarm.readings[*reading].failed.first()) {
        *failures.entry(format!("{:?}", failure.kind)).or_default() += 1;
    }
    let ended: Vec<_> = swarm.searches.iter().filter(|search| search.ended.is_some()).collect();
    let mut hops: Vec<f64> = ended.iter().filter_map(|search| search.real.map(|(_, hops)| f64::from(hops))).collect();
    let ms = |search: &&tornet::sim::swarm::Search| Some(search.real?.0.since(search.since).as_secs_f64() * 1e3);
    let mut search_ms: Vec<f64> = ended.iter().filter_map(ms).collect();
    let whole = begun.iter().map(|reading| &swarm.readings[*reading]).filter(|reading| reading.failed.is_empty());
    let mut read_s: Vec<f64> =
        whole.filter_map(|reading| Some(reading.finished?.since(reading.since).as_secs_f64())).collect();
    for values in [&mut hops, &mut search_ms, &mut read_s] {
        values.sort_by(f64::total_cmp);
    }
    let stats: Vec<_> = honest.iter().filter_map(|place| swarm.node(*place).map(|node| node.stats())).collect();
    let most = |value: fn(&tornet::node::stats::NodeStats) -> usize| stats.iter().map(value).max().unwrap_or(0);
    Ok(Cell {
        attack,
        attackers,
        all: honest.len() + attackers,
        hosted,
        searches: ended.len(),
        found: ended.iter().filter(|search| search.ended.is_some_and(|(_, good, _)| good > 0)).count(),
        hops,
        search_ms,
        readings: begun.len(),
        read: read_s.len(),
        read_s,
        failures,
        false_answers: swarm.tally().false_answers,
        accepted: swarm.tally().false_accepted,
        on_record,
        copies,
        contacts: most(|stats| stats.contacts),
        records: most(|stats| stats.provider_records),
        records_max: scale.records_max,
        heads: most(|stats| stats.heads),
        counted: most(|stats| stats.market.counted),
        known: most(|stats| stats.known),
        messages: (received(&field) - before) as f64 / span,
        cpu: cpu() - start,
    })
}

/// Which part of the honest holders of published chunks is on record at an honest node next to the chunk, %, and at how many of these.
fn records(field: &Field) -> (f64, f64) {
    let (mut holders, mut known, mut copies) = (0, 0, 0);
    for (_, tree) in &field.trees {
        for (chunk, _) in tree.chunks() {
            let near = field.closest(&Key::from(chunk), &field.honest, LOOKED_AT);
            let mut told: BTreeMap<_, usize> = BTreeMap::new();
            for node in near.iter().filter_map(|place| field.swarm.node(*place)) {
                node.providers(&chunk).into_iter().for_each(|contact| *told.entry(contact.peer).or_default() += 1);
            }
            for holder in field.swarm.holders(&chunk) {
                let at = field.swarm.contact(holder).and_then(|contact| told.get(&contact.peer)).copied().unwrap_or(0);
                holders += 1;
                known += usize::from(at > 0);
                copies += at;
            }
        }
    }
    (100.0 * known as f64 / holders.max(1) as f64, copies as f64 / holders.max(1) as f64)
}

impl Cell {
    fn print(&self) {
        println!(
            "| {} | {} | {} ({:.0} %) | {:.0} | {} of {} | {} | {} | {:.0} | {:.0} | {} of {} | {} | {:.1} | {:.1} | {} | {} | {:.0} | {:.1} | {} of {CONTACTS_MOST} | {} of {} | {} of {HEADS_MAX} | {} of {COUNTED_MOST} | {} | {:.2} | {:.0} |",
            self.attack,
            self.all - self.attackers,
            self.attackers,
            100.0 * self.attackers as f64 / self.all as f64,
            self.hosted,
            self.found,
            self.searches,
            centile(&self.hops, 50),
            centile(&self.hops, 90),
            centile(&self.search_ms, 50),
            centile(&self.search_ms, 90),
            self.read,
            self.readings,
            self.failures.iter().map(|(kind, count)| format!("{kind}: {count}")).collect::<Vec<_>>().join(", "),
            centile(&self.read_s, 50),
            centile(&self.read_s, 90),
            self.false_answers,
            self.accepted,
            self.on_record,
            self.copies,
            self.contacts,
            self.records,
            self.records_max,
            self.heads,
            self.counted,
            self.known,
            self.messages,
            self.cpu
        );
    }
}

/// What must hold whatever attackers do.
fn check(bench: &Bench, honest: usize, cells: &[Cell]) {
    for cell in cells {
        let what = format!("{} by {}; again: {}", cell.attack, cell.attackers, bench.again("attack", honest));
        assert_eq!(cell.accepted, 0, "false slices were taken for true ones: {what}");
        assert!(cell.records <= cell.records_max && cell.records_max <= PROVIDERS_MAX, "provider records: {what}");
        assert!(cell.heads <= HEADS_MAX, "heads: {what}");
        assert!(cell.counted <= COUNTED_MOST, "counted chunks: {what}");
        assert!(cell.contacts <= CONTACTS_MOST, "contacts: {what}");
        // In the small swarm of every test run nothing but an eclipse keeps anybody from what was published.
        if bench.short && cell.attack != Attack::Eclipse {
            assert!(cell.searches > 0 && cell.found == cell.searches, "look-ups that found nobody: {what}");
            assert!(cell.readings > 0 && cell.read == cell.readings, "{:?} of reads: {what}", cell.failures);
            assert!(cell.on_record >= 90.0, "honest holders are off the record: {what}");
        }
    }
}
