//! A swarm whose nodes come and go.

use std::collections::BTreeSet;
use std::time::Duration;
use tornet::base::time::Instant;
use tornet::publish::job::JobId;
use tornet::sim::checker::Violation;
use tornet::sim::session::Sessions;
use tornet::sim::swarm::{Swarm, SwarmConfig};
use tornet::sim::tree::Tree;

/// Nodes come so long after each other while the swarm grows.
const SPACING: Duration = Duration::from_millis(20);
/// So many of those that are up does a newcomer know.
const KNOWN: usize = 3;

/// How nodes come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Churn {
    /// So many percent of the nodes leave in an hour, evenly spread, anybody.
    Rate(u64),
    /// Everybody stays as long as was measured (`sim::session`).
    Measured,
}

impl std::fmt::Display for Churn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Churn::Rate(percent) => write!(f, "{percent}"),
            Churn::Measured => f.write_str("as measured"),
        }
    }
}

/// A swarm, and who is up and away.
pub struct Crowd {
    pub swarm: Swarm,
    pub up: Vec<usize>,
    away: Vec<usize>,
    churn: Churn,
    sessions: Sessions,
    /// Who leaves when.
    leaves: BTreeSet<(Instant, usize)>,
    next: Instant,
    /// How many left so far.
    pub left: u64,
}

impl Crowd {
    /// A swarm of `up` nodes that know each other; a quarter more are away.
    pub fn grown(mut config: SwarmConfig, up: usize, seed: u64) -> Result<Crowd, Violation> {
        config.nodes = up + up / 4;
        let all = config.nodes;
        let mut swarm = Swarm::new(config, seed);
        let mut here = Vec::new();
        for place in 0..up {
            let known: Vec<usize> = (0..KNOWN.min(place)).map(|_| *swarm.random().pick(&here).unwrap()).collect();
            swarm.join(place, &known);
            here.push(place);
            swarm.run(SPACING)?;
        }
        swarm.run(Duration::from_secs(60))?;
        let (next, away, sessions) = (swarm.now(), (up..all).collect(), Sessions::measured());
        Ok(Crowd { swarm, up: here, away, churn: Churn::Rate(0), sessions, leaves: BTreeSet::new(), next, left: 0 })
    }

    /// From now on nodes come and go so. For each that leaves another one comes.
    pub fn churn(&mut self, churn: Churn) {
        self.churn = churn;
        self.next = self.swarm.now();
        self.leaves.clear();
        if churn == Churn::Measured {
            for place in &self.up {
                let end = self.swarm.now().after(self.sessions.rest(self.swarm.random()));
                self.leaves.insert((end, *place));
            }
        }
    }

    /// Who leaves next, and when.
    fn departure(&mut self) -> Option<(Instant, usize)> {
        match self.churn {
            Churn::Measured => self.leaves.first().copied(),
            Churn::Rate(percent) => {
                let leave = self.up.len() as u64 * percent / 100;
                (leave > 0).then(|| (self.next.after(Duration::from_micros(3_600_000_000 / leave)), usize::MAX))
            }
        }
    }

    /// Lets time pass, with its comings and goings.
    pub fn run(&mut self, span: Duration) -> Result<(), Violation> {
        let end = self.swarm.now().after(span);
        while let Some((at, who)) = self.departure().filter(|(at, _)| *at <= end) {
            self.next = at;
            self.leaves.remove(&(at, who));
            self.swarm.run(at.since(self.swarm.now()))?;
            let who = if who == usize::MAX { self.any() } else { who };
            self.exchange(who);
        }
        self.swarm.run(end.since(self.swarm.now()))
    }

    /// One leaves, half of them without a word, and one of those that are away comes.
    fn exchange(&mut self, gone: usize) {
        let random = self.swarm.random();
        let (comes, farewell) = (random.below(self.away.len() as u64), random.chance(1, 2));
        self.up.retain(|place| *place != gone);
        self.swarm.leave(gone, farewell);
        self.left += 1;
        let back = std::mem::replace(&mut self.away[comes as usize], gone);
        let known: Vec<usize> = (0..KNOWN).map(|_| self.any()).collect();
        self.swarm.join(back, &known);
        self.up.push(back);
        if self.churn == Churn::Measured {
            let end = self.swarm.now().after(self.sessions.fresh(self.swarm.random()));
            self.leaves.insert((end, back));
        }
    }

    /// Anybody who is up.
    pub fn any(&mut self) -> usize {
        *self.swarm.random().pick(&self.up).unwrap()
    }

    /// A node publishes a tree; waits until all of it is hosted and announced.
    pub fn publish(&mut self, place: usize, tree: &Tree) -> Result<(), Violation> {
        self.publish_as(place, 1, tree)
    }

    /// The same for one of several trees of a node, by a number of its own.
    pub fn publish_as(&mut self, place: usize, number: u64, tree: &Tree) -> Result<(), Violation> {
        let job = JobId(number);
        self.swarm.publish(place, job, tree);
        let hosted = |swarm: &Swarm| {
            swarm.progress(place, job).is_some_and(|progress| {
                progress.hosted >= progress.wanted && progress.announced >= progress.to_announce && progress.wanted > 0
            })
        };
        let end = self.swarm.now().after(Duration::from_secs(300));
        self.swarm.run_while(end, |swarm| !hosted(swarm))?;
        assert!(hosted(&self.swarm), "not hosted: {:?}", self.swarm.progress(place, job));
        Ok(())
    }
}
