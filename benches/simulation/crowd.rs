//! A swarm whose nodes come and go.

use std::time::Duration;
use tornet::base::time::Instant;
use tornet::publish::job::JobId;
use tornet::sim::checker::Violation;
use tornet::sim::swarm::{Swarm, SwarmConfig};
use tornet::sim::tree::Tree;

/// Nodes come so long after each other while the swarm grows.
const SPACING: Duration = Duration::from_millis(20);
/// So many of those that are up does a newcomer know.
const KNOWN: usize = 3;

/// A swarm, and who is up and away.
pub struct Crowd {
    pub swarm: Swarm,
    pub up: Vec<usize>,
    away: Vec<usize>,
    /// Time between two departures.
    pause: Option<Duration>,
    next: Instant,
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
        let next = swarm.now();
        Ok(Crowd { swarm, up: here, away: (up..all).collect(), pause: None, next })
    }

    /// From now on so many percent of the nodes leave in an hour, and as many come: evenly spread, anybody.
    pub fn churn(&mut self, percent: u64) {
        let leave = self.up.len() as u64 * percent / 100;
        self.pause = (leave > 0).then(|| Duration::from_micros(3_600_000_000 / leave));
        self.next = self.swarm.now();
    }

    /// Lets time pass, with its comings and goings.
    pub fn run(&mut self, span: Duration) -> Result<(), Violation> {
        let end = self.swarm.now().after(span);
        while let Some(pause) = self.pause
            && self.next.after(pause) <= end
        {
            self.next = self.next.after(pause);
            self.swarm.run(self.next.since(self.swarm.now()))?;
            self.exchange();
        }
        self.swarm.run(end.since(self.swarm.now()))
    }

    /// One leaves, half of them without a word, and one of those that are away comes.
    fn exchange(&mut self) {
        let random = self.swarm.random();
        let (leaves, comes) = (random.below(self.up.len() as u64), random.below(self.away.len() as u64));
        let farewell = random.chance(1, 2);
        let gone = self.up.swap_remove(leaves as usize);
        self.swarm.leave(gone, farewell);
        let back = std::mem::replace(&mut self.away[comes as usize], gone);
        let known: Vec<usize> = (0..KNOWN).map(|_| self.any()).collect();
        self.swarm.join(back, &known);
        self.up.push(back);
    }

    /// Anybody who is up.
    pub fn any(&mut self) -> usize {
        *self.swarm.random().pick(&self.up).unwrap()
    }

    /// A node publishes a tree; waits until all of it is hosted and announced.
    pub fn publish(&mut self, place: usize, tree: &Tree) -> Result<(), Violation> {
        let job = JobId(1);
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
