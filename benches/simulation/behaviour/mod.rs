//! Mixed behaviour over a month: what each obtains for what it gives, and what the honest lose, by tornet's rules, by BitTorrent's and by
//! proportional share alone. A reduced model in rounds of ten minutes; ledger, share and wallet are the real ones.

mod book;
mod choke;
mod kind;
mod purse;
mod report;
mod seller;
mod world;

use crate::Bench;
use kind::Kind;
use report::{Check, Outcome};
use seller::{Terms, Tornet};
use tornet::ledger::share::ShareConfig;
use world::{DAY, World};

/// The rank that a minute of a core makes; a node stops there by itself.
const RANK: u8 = 8;
/// What the honest may lose to a third of attackers, percent.
const LOSS_MAX: f64 = 5.0;
/// One honest node in so many wants more than it gives.
const HEAVY: usize = 7;

/// By whose rules.
#[derive(Debug, Clone, Copy)]
pub enum Policy {
    Tornet(Terms),
    Choking,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Run {
    pub name: String,
    pub policy: Policy,
    pub honest: usize,
    /// Whoever is not.
    pub attackers: Vec<Kind>,
    pub days: u32,
}

impl Run {
    fn kinds(&self) -> Vec<Kind> {
        let honest = (0..self.honest).map(|place| if place % HEAVY == HEAVY - 1 { Kind::Heavy } else { Kind::Equal });
        honest.chain(self.attackers.iter().copied()).collect()
    }
}

/// Runs it.
pub fn live(run: &Run, seed: u64) -> Outcome {
    let kinds = run.kinds();
    let mut world = World::new(&kinds, matches!(run.policy, Policy::Tornet(Terms { free: false, .. })), seed);
    let mut outcome = Outcome::new(run.days);
    let mut choking = choke::Choking::new(&world);
    let mut tornet = if let Policy::Tornet(terms) = run.policy { Some(Tornet::new(&world, terms)) } else { None };
    for _ in 0..run.days {
        for _ in 0..DAY {
            world.begin();
            match &mut tornet {
                Some(tornet) => tornet.round(&mut world),
                None => choking.round(&mut world),
            }
            world.end();
        }
        outcome.day(&world, tornet.as_mut());
        if run.days > 5 {
            // A long run tells how far it is.
            let (who, got) = (if run.attackers.is_empty() { "alone" } else { "with attackers" }, outcome.got_since(0));
            eprintln!(
                "{}, {who}: day {}, honest got {:.0} GiB in all",
                run.name,
                outcome.history.len(),
                report::gibs(got)
            );
        }
    }
    outcome.end(&world, tornet.as_ref());
    outcome
}

/// Terms as they stand, with a price.
fn terms() -> Terms {
    Terms { free: false, rank: RANK, share: ShareConfig::default() }
}

/// All runs, two at a time.
fn all(runs: &[Run], seed: u64) -> Vec<Outcome> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done: std::sync::Mutex<Vec<Option<Outcome>>> = std::sync::Mutex::new(runs.iter().map(|_| None).collect());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(runs.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(run) = runs.get(place) else { break };
                    let outcome = live(run, seed);
                    done.lock().unwrap()[place] = Some(outcome);
                }
            });
        }
    });
    done.into_inner().unwrap().into_iter().map(|outcome| outcome.unwrap()).collect()
}

/// What is promised of tornet's own rules, with the accounts of every day: of the honest alone, and with attackers. In a short run the
/// first day, in which nobody has contributed yet, would count for too much, and balances had no time to drift anywhere.
fn promises(bench: &Bench, alone: &Outcome, mixed: &Outcome) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, outcome) in [("honest alone", alone), ("with attackers", mixed)] {
        let mut check = |what: &str, value: String, holds, known| {
            checks.push(Check { what: format!("{what}, {name}"), value, holds, known })
        };
        check("debts without a claim", format!("{} msat", outcome.lost), outcome.lost == 0, false);
        check("most beyond line and window", format!("{} msat", outcome.over), outcome.over <= 0, false);
        let paid = outcome.sums[&Kind::Equal].paid;
        check("paid by equal users", format!("{paid} sat"), paid == 0, false);
        let (first, last) = (outcome.history[0], outcome.history[outcome.history.len() - 1]);
        if !bench.short {
            let value =
                format!("{:.1} % of what they got after a day, {:.1} % at the end", first.percent(), last.percent());
            let what = "equal users' balances among themselves drift to zero: at most half of what they were";
            check(what, value, last.percent() < first.percent() / 2.0, true);
        }
    }
    let each = |kind: Kind| mixed.sums.get(&kind).map_or(0.0, |sum| sum.tally.got as f64 / sum.nodes as f64);
    for kind in [Kind::Free, Kind::Whitewasher, Kind::Thief, Kind::Sybil] {
        let part = 100.0 * each(kind) / each(Kind::Equal);
        checks.push(Check {
            what: format!("who gives nothing gets less than an equal user: {}", kind.name()),
            value: format!("{part:.0} %"),
            holds: part < 100.0,
            known: false,
        });
    }
    let days = usize::from(bench.short);
    let loss = report::loss(alone.got_since(days), mixed.got_since(days));
    let what = "bytes that the honest lose to a third of attackers".to_string();
    checks.push(Check {
        what,
        value: format!("{loss:.1} % of at most {LOSS_MAX} %"),
        holds: loss < LOSS_MAX,
        known: false,
    });
    checks
}

/// Prints tables and draws plots.
pub fn run(bench: &Bench) {
    let size = bench.sizes(&[150], &[45])[0];
    let days = std::env::var("TORNET_DAYS").ok().map(|days| days.parse().expect("TORNET_DAYS is a number"));
    let days = days.unwrap_or(if bench.short { 3 } else { 30 });
    let honest = size * 2 / 3;
    let mixed: Vec<Kind> = (honest..size).map(|place| Kind::ATTACKS[place % Kind::ATTACKS.len()]).collect();
    let free = Terms { free: true, ..terms() };
    let policies =
        [("tornet", Policy::Tornet(terms())), ("BitTorrent", Policy::Choking), ("share alone", Policy::Tornet(free))];
    // A short run looks only at what is promised of tornet.
    let rules = std::env::var("TORNET_RULES").unwrap_or(if bench.short { "tornet" } else { "" }.to_string());
    let (mut runs, mut outcomes, mut failed) = (Vec::new(), Vec::new(), 0);
    for (name, policy) in policies {
        if !rules.is_empty() && !rules.split(',').any(|rule| rule == name) {
            continue;
        }
        let run =
            |attackers: &[Kind]| Run { name: name.to_string(), policy, honest, attackers: attackers.to_vec(), days };
        let pair = [run(&[]), run(&mixed)];
        let these = all(&pair, bench.seed);
        report::kinds(&pair, &these);
        report::losses(&pair, &these);
        report::daily(&these);
        if name == "tornet" {
            failed = report::checks(&promises(bench, &these[0], &these[1]));
        }
        runs.extend(pair);
        outcomes.extend(these);
    }
    report::plots(bench, &runs, &outcomes);
    assert!(failed == 0, "{failed} checks failed; again: {}", bench.again("behaviour", size));
}
