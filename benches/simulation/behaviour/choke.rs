//! Sellers by BitTorrent's rules (Cohen 2003): those four are served that gave most lately, and one more by chance.

use super::kind::Kind;
use super::world::{Ask, PIECE, ROUND, World};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Served for what they give.
const UNCHOKED: usize = 4;
/// Changes of the optimistic unchoke in a round: one each half minute.
const OPTIMISTIC: usize = 20;
/// A tyrant gives back this part of what it got lately, in percent.
const TYRANT: u64 = 25;

/// One asker at one seller.
struct Flow {
    node: usize,
    asks: VecDeque<Ask>,
    weight: f64,
    served: f64,
}

/// The rules at work.
pub struct Choking {
    /// What a node got of another, decaying by half each round; by receiver and giver.
    got: BTreeMap<(usize, usize), u64>,
    /// Line time left over from the last round, bytes.
    spare: Vec<u64>,
}

impl Choking {
    /// Nobody gave anything yet.
    pub fn new(world: &World) -> Choking {
        Choking { got: BTreeMap::new(), spare: vec![0; world.nodes.len()] }
    }

    /// A round: everybody is asked, and serves.
    pub fn round(&mut self, world: &mut World) {
        let sybils = super::kind::SYBILS;
        let kinds: Vec<Kind> = world.nodes.iter().map(|node| node.kind).collect();
        let mut asks = world.asks(|node| if kinds[node] == Kind::Sybil { sybils } else { 1 });
        let mut order: Vec<usize> = (0..asks.len()).filter(|seller| !asks[*seller].is_empty()).collect();
        world.random.shuffle(&mut order);
        for amount in self.got.values_mut() {
            *amount /= 2;
        }
        self.got.retain(|_, amount| *amount > 0);
        for seller in order {
            self.serve(world, seller, std::mem::take(&mut asks[seller]));
        }
    }

    fn given(&self, to: usize, by: usize) -> u64 {
        self.got.get(&(to, by)).copied().unwrap_or(0)
    }

    fn serve(&mut self, world: &mut World, seller: usize, asks: Vec<Ask>) {
        let kind = world.nodes[seller].kind;
        let mut flows: BTreeMap<(usize, usize), Flow> = BTreeMap::new();
        for ask in asks {
            let new = || Flow { node: ask.node, asks: VecDeque::new(), weight: 1e-9, served: 0.0 };
            flows.entry((ask.node, ask.face)).or_insert_with(new).asks.push_back(ask);
        }
        let mut flows: Vec<Flow> = flows.into_values().collect();
        for flow in &flows {
            world.answered(seller, flow.node, false);
        }
        match kind {
            // It takes what it is given and serves nobody: nobody pays here.
            Kind::Cheat => return,
            Kind::Tyrant => {
                flows.retain(|flow| self.given(flow.node, seller) < self.given(seller, flow.node) * TYRANT / 100);
            }
            _ => {}
        }
        world.random.shuffle(&mut flows);
        // Stable: those that gave the same stay in the order of chance. Idle slots go to anybody, as at a seeder.
        flows.sort_by_key(|flow| std::cmp::Reverse(self.given(seller, flow.node)));
        let lucky = flows.len().saturating_sub(UNCHOKED).min(OPTIMISTIC);
        for (place, flow) in flows.iter_mut().enumerate() {
            if place < UNCHOKED {
                flow.weight = 1.0;
            }
        }
        if lucky > 0 {
            let (_, rest) = flows.split_at_mut(UNCHOKED);
            world.random.shuffle(rest);
            rest.iter_mut().take(lucky).for_each(|flow| flow.weight = 1.0 / lucky as f64);
        }
        self.spare[seller] += world.nodes[seller].up * ROUND.as_secs();
        let whole = self.spare[seller];
        while self.spare[seller] >= PIECE {
            flows.retain_mut(|flow| {
                flow.asks.retain(|ask| ask.pieces > 0 && world.wanted(ask));
                !flow.asks.is_empty()
            });
            let next = flows.iter_mut().min_by(|a, b| (a.served / a.weight).total_cmp(&(b.served / b.weight)));
            let Some(flow) = next else { break };
            flow.served += 1.0;
            flow.asks[0].pieces -= 1;
            let ask = flow.asks[0];
            self.spare[seller] -= PIECE;
            let after = Duration::from_secs_f64((whole - self.spare[seller]) as f64 / world.nodes[seller].up as f64);
            if world.deliver(seller, &ask, after) {
                *self.got.entry((ask.node, seller)).or_default() += PIECE;
            }
        }
        // An idle line saves nothing up.
        self.spare[seller] %= PIECE;
    }
}
