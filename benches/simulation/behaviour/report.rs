//! What came of a run, as tables.

use super::Run;
use super::kind::{Kind, PRICE};
use super::seller::Tornet;
use super::world::{ROUND, Tally, World};
use crate::Bench;
use crate::plot::Plot;
use std::collections::BTreeMap;

const GIB: f64 = (1u64 << 30) as f64;

/// Sums of all nodes of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    pub nodes: usize,
    pub tally: Tally,
    /// Sat.
    pub paid: u64,
    pub earned: u64,
    /// GiB at the usual price.
    pub worth: f64,
    /// Mean of their amounts.
    pub worth_abs: f64,
}

/// How things stood after a day.
#[derive(Debug, Clone, Copy, Default)]
pub struct Day {
    /// How far an equal node's balance with all other equal ones is from nothing on average, GiB, and what it had got, GiB.
    pub off: f64,
    pub equal_got: f64,
    /// Bytes that all honest nodes had got.
    pub got: u64,
}

impl Day {
    /// Percent of what it got.
    pub fn percent(&self) -> f64 {
        100.0 * self.off / self.equal_got.max(f64::MIN_POSITIVE)
    }
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub days: u32,
    pub sums: BTreeMap<Kind, Sum>,
    /// How things stood after each day.
    pub history: Vec<Day>,
    pub whitewashed: u64,
    pub unbilled: [u64; 2],
    /// Most by which anybody passed its line and the window, msat; negative: nobody did.
    pub over: i64,
    /// Claims without a debt, msat.
    pub lost: i64,
}

impl Outcome {
    /// Nothing yet.
    pub fn new(days: u32) -> Outcome {
        Outcome { days, over: i64::MIN, ..Outcome::default() }
    }

    fn honest(world: &World) -> impl Iterator<Item = &super::world::Node> {
        world.nodes.iter().filter(|node| node.kind.honest())
    }

    /// A day is over: books are checked.
    pub fn day(&mut self, world: &World, tornet: Option<&mut Tornet>) {
        let got = Self::honest(world).map(|node| node.tally.got).sum();
        let equal = |place: usize| world.nodes[place].kind == Kind::Equal;
        let equals: Vec<usize> = (0..world.nodes.len()).filter(|place| equal(*place)).collect();
        let mean = |sum: f64| sum / equals.len().max(1) as f64;
        let equal_got = mean(equals.iter().map(|place| world.nodes[*place].tally.got as f64 / GIB).sum());
        let mut off = 0.0;
        if let Some(tornet) = tornet {
            let (lost, over) = tornet.books.check(world.now());
            (self.lost, self.over) = (self.lost.max(lost.abs()), self.over.max(over));
            let worths = tornet.books.worths(equal);
            off = mean(equals.iter().map(|place| gib(worths[*place]).abs()).sum());
        }
        self.history.push(Day { off, equal_got, got });
    }

    /// The last day is over.
    pub fn end(&mut self, world: &World, tornet: Option<&Tornet>) {
        let worths = tornet.map(|tornet| tornet.books.worths(|_| true));
        for (place, node) in world.nodes.iter().enumerate() {
            let sum = self.sums.entry(node.kind).or_default();
            sum.nodes += 1;
            let (tally, this) = (&mut sum.tally, &node.tally);
            tally.given += this.given;
            tally.got += this.got;
            tally.wanted += this.wanted;
            tally.busy += this.busy;
            tally.asked += this.asked;
            tally.refused += this.refused;
            if let (Some(tornet), Some(worths)) = (tornet, &worths) {
                let (paid, earned) = tornet.purses.paid[place];
                (sum.paid, sum.earned) = (sum.paid + paid, sum.earned + earned);
                sum.worth += gib(worths[place]);
                sum.worth_abs += gib(worths[place]).abs();
            }
        }
        if let Some(tornet) = tornet {
            (self.whitewashed, self.unbilled) = (tornet.whitewashed, tornet.purses.unbilled);
        }
    }

    /// Bytes a second that these nodes had while they wanted something, and bytes in all.
    pub fn speed(&self, kinds: &[Kind]) -> (f64, u64) {
        let sums = kinds.iter().filter_map(|kind| self.sums.get(kind));
        let (got, busy) =
            sums.fold((0, 0), |(got, busy), sum| (got + sum.tally.got, busy + sum.tally.busy * ROUND.as_secs()));
        (got as f64 / busy.max(1) as f64, got)
    }
}

impl Outcome {
    /// Percent of what they wanted that these nodes got.
    fn part(&self, kinds: &[Kind]) -> f64 {
        let sums = kinds.iter().filter_map(|kind| self.sums.get(kind));
        let (got, wanted) = sums.fold((0, 0), |(got, want), sum| (got + sum.tally.got, want + sum.tally.wanted));
        100.0 * got as f64 / wanted as f64
    }

    /// Bytes that honest nodes got on a day, counted from 1.
    pub fn got_on(&self, day: usize) -> f64 {
        let got = |day: usize| day.checked_sub(1).and_then(|day| self.history.get(day)).map_or(0, |day| day.got);
        (got(day) - got(day - 1)) as f64
    }

    /// Bytes that honest nodes got after so many days.
    pub fn got_since(&self, days: usize) -> f64 {
        let got = |days: usize| days.checked_sub(1).and_then(|day| self.history.get(day)).map_or(0, |day| day.got);
        (got(self.history.len()) - got(days)) as f64
    }
}

/// Bytes in GiB.
pub fn gibs(bytes: f64) -> f64 {
    bytes / GIB
}

fn gib(worth: i64) -> f64 {
    worth as f64 / PRICE.per_gib.0 as f64
}

/// By how many percent less.
pub fn loss(before: f64, after: f64) -> f64 {
    100.0 * (before - after) / before
}

/// Prints what each kind had.
pub fn kinds(runs: &[Run], outcomes: &[Outcome]) {
    println!(
        "| rules | behaviour | nodes | gives, GiB a day | gets, GiB a day | got for one given | of an equal user's | pays, sat | earns, sat | balance of service at the end, GiB | mean distance from 0 | refused, % |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (run, outcome) in runs.iter().zip(outcomes) {
        let equal = outcome.sums.get(&Kind::Equal).map_or(1.0, |sum| sum.tally.got as f64 / sum.nodes as f64);
        for (kind, sum) in &outcome.sums {
            let (nodes, tally) = (sum.nodes as f64, sum.tally);
            let day = |bytes: u64| bytes as f64 / GIB / nodes / f64::from(outcome.days);
            let ratio = match tally.given {
                0 => "gives nothing".to_string(),
                given => format!("{:.2}", tally.got as f64 / given as f64),
            };
            println!(
                "| {}{} | {} | {} | {:.1} | {:.1} | {ratio} | {:.0} % | {:.0} | {:.0} | {:+.1} | {:.1} | {:.1} |",
                run.name,
                if run.attackers.is_empty() { ", honest alone" } else { "" },
                kind.name(),
                sum.nodes,
                day(tally.given),
                day(tally.got),
                100.0 * tally.got as f64 / nodes / equal,
                sum.paid as f64 / nodes,
                sum.earned as f64 / nodes,
                sum.worth / nodes,
                sum.worth_abs / nodes,
                100.0 * tally.refused as f64 / tally.asked.max(1) as f64,
            );
        }
        if !run.attackers.is_empty() && outcome.over > i64::MIN {
            let (count, [others, honest]) = (outcome.whitewashed, outcome.unbilled);
            println!(
                "| {} | identities thrown away: {count}; asked to pay without an invoice, attackers: {others}, honest: {honest} |  |  |  |  |  |  |  |  |  |  |",
                run.name
            );
        }
    }
}

/// Prints what the honest lost: the run before each with attackers is the same swarm without.
pub fn losses(runs: &[Run], outcomes: &[Outcome]) {
    println!(
        "\n| rules | users | got of what they wanted, alone | with attackers | MiB/s while they wanted something, alone | with attackers | bytes lost, % | speed lost, % |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|");
    for (pair, run) in outcomes.chunks(2).zip(runs.iter().step_by(2)) {
        for (name, kinds) in
            [("equal", &[Kind::Equal][..]), ("want more", &[Kind::Heavy]), ("all honest", &[Kind::Equal, Kind::Heavy])]
        {
            let ((fast, all), (slow, bytes)) = (pair[0].speed(kinds), pair[1].speed(kinds));
            println!(
                "| {} | {name} | {:.1} % | {:.1} % | {:.2} | {:.2} | {:.1} | {:.1} |",
                run.name,
                pair[0].part(kinds),
                pair[1].part(kinds),
                fast / f64::from(1 << 20),
                slow / f64::from(1 << 20),
                loss(all as f64, bytes as f64),
                loss(fast, slow)
            );
        }
    }
}

/// Prints how things went on from day to day: the same swarm without and with attackers.
pub fn daily(outcomes: &[Outcome]) {
    println!(
        "\n| day | bytes lost on that day, % | between equal users, GiB from zero, honest alone | % of what they got | GiB, with attackers | % |"
    );
    println!("|--:|--:|--:|--:|--:|--:|");
    let days = outcomes[0].history.len();
    for day in [1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30].into_iter().filter(|day| *day < days).chain([days]) {
        let (alone, mixed) = (outcomes[0].history[day - 1], outcomes[1].history[day - 1]);
        let lost = loss(outcomes[0].got_on(day), outcomes[1].got_on(day));
        print!("| {day} | {lost:.1} |");
        for day in [alone, mixed] {
            // Without a price there are no balances.
            if day.off > 0.0 { print!(" {:.2} | {:.1} |", day.off, day.percent()) } else { print!(" | |") }
        }
        println!();
    }
}

/// Something that is promised.
pub struct Check {
    pub what: String,
    pub value: String,
    pub holds: bool,
    /// It is known to be missed (`benches/README.md`).
    pub known: bool,
}

/// Prints what is promised and whether it holds. Gives how much does not that should.
pub fn checks(checks: &[Check]) -> usize {
    println!("\n| check | value | |");
    println!("|---|---|---|");
    for Check { what, value, holds, known } in checks {
        let word = match (holds, known) {
            (true, _) => "holds",
            (false, true) => "missed",
            (false, false) => "FAILS",
        };
        println!("| {what} | {value} | {word} |");
    }
    checks.iter().filter(|check| !check.holds && !check.known).count()
}

/// Draws how balances drift, and what the honest lose from day to day.
pub fn plots(bench: &Bench, runs: &[Run], outcomes: &[Outcome]) {
    let days = |history: Vec<f64>| history.into_iter().enumerate().map(|(day, y)| (day as f64 + 1.0, y)).collect();
    let mut lines = Vec::new();
    for (name, outcome) in ["honest alone", "with attackers"].into_iter().zip(outcomes) {
        lines.push((name.to_string(), days(outcome.history.iter().map(Day::percent).collect())));
    }
    let y = "mean distance from zero, % of what was got".to_string();
    let title = "Balances between equal users, by tornet's rules".to_string();
    bench.plot("behaviour-balances.svg", &Plot { title, x: "day".into(), y, log_x: false, lines });
    let mut lines = Vec::new();
    for (pair, run) in outcomes.chunks(2).zip(runs.iter().step_by(2)) {
        let daily = |outcome: &Outcome| {
            let mut last = 0;
            let daily = outcome.history.iter().map(|day| (day.got - std::mem::replace(&mut last, day.got)) as f64);
            daily.collect::<Vec<f64>>()
        };
        let lost = daily(&pair[0]).into_iter().zip(daily(&pair[1])).map(|(alone, mixed)| loss(alone, mixed).max(0.0));
        lines.push((run.name.clone(), days(lost.collect())));
    }
    let y = "% of bytes a day lost to a third of attackers".to_string();
    let title = "What honest users lose".to_string();
    bench.plot("behaviour-loss.svg", &Plot { title, x: "day".into(), y, log_x: false, lines });
}
