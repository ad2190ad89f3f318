//! A swarm with attackers in it: how it grows, how they prepare, what they send while time passes.

use std::time::Duration;
use tornet::base::digest::ChunkId;
use tornet::base::head::HeadId;
use tornet::base::keyspace::Key;
use tornet::base::limit::PROVIDERS_PER_CHUNK_MAX;
use tornet::base::peer::PeerId;
use tornet::base::random::Random;
use tornet::content::chunk::Outline;
use tornet::publish::job::JobId;
use tornet::sim::checker::Violation;
use tornet::sim::network::NetworkConfig;
use tornet::sim::swarm::{Malice, Swarm, SwarmConfig};
use tornet::sim::tree::{Stripe, Tree};
use tornet::wire::head::SignedHead;
use tornet::wire::message::Request;

const SPACING: Duration = Duration::from_millis(20);
/// How long a publisher may take.
const PUBLISHING: Duration = Duration::from_secs(120);
/// A node, honest or not, knows so many when it comes, one of them honest for sure: what an invitation or a list of the user's gives.
const KNOWN: usize = 3;
const LEN: usize = 64 << 10;
/// Names that liars make up, for each node of the swarm: the 20 closest to any key lie so many times closer to it than honest ones do.
const MADE_UP: usize = 64;
/// At so many of the closest a chunk is announced, by attackers too.
const COPIES: usize = 8;

/// What kind of attack is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Ids ground to be next to the roots of all trees.
    Eclipse,
    /// False holders announce before the true ones do.
    PoisonBefore,
    /// False holders announce after the true ones did.
    PoisonAfter,
    /// Everything that can be said falsely.
    Liars,
    /// Garbage for the memories of those that keep the records of the trees.
    Flood,
}

impl std::fmt::Display for Attack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Attack::Eclipse => "eclipse",
            Attack::PoisonBefore => "poison, first",
            Attack::PoisonAfter => "poison, later",
            Attack::Liars => "liars",
            Attack::Flood => "flood",
        })
    }
}

/// How large everything is.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub honest: usize,
    pub trees: usize,
    /// Provider records that a node keeps: less than the product's, so that a flood reaches it.
    pub records_max: usize,
    /// Messages of announcements that a flooding attacker sends in a second, and chunks in each.
    pub flood: (usize, usize),
    /// Names that the attackers of an eclipse try in all.
    pub tries: usize,
    pub encode_every: u64,
}

/// The swarm and who is who in it.
pub struct Field {
    pub swarm: Swarm,
    pub honest: Vec<usize>,
    pub attackers: Vec<usize>,
    /// Trees and who publishes each.
    pub trees: Vec<(usize, Tree)>,
    attack: Attack,
    scale: Scale,
    /// Whom a flood aims at.
    victims: Vec<usize>,
    floods: bool,
}

impl Field {
    /// A swarm of honest nodes, and so many attackers among them. Those of an eclipse come last: they aim at what is known by then.
    pub fn grown(attack: Attack, attackers: usize, scale: Scale, seed: u64) -> Result<Field, Violation> {
        let among = if attack == Attack::Eclipse { 0 } else { attackers };
        let mut config = SwarmConfig {
            nodes: scale.honest + among,
            encode_every: scale.encode_every,
            network: NetworkConfig::world(),
            ..SwarmConfig::default()
        };
        config.node.providers.records_max = scale.records_max;
        config.node.providers.per_peer_max = scale.records_max / 5;
        let mut swarm = Swarm::new(config, seed);
        let malice = match attack {
            Attack::Eclipse => Malice::Eclipse,
            Attack::PoisonBefore | Attack::PoisonAfter => Malice::Poison,
            Attack::Liars => Malice::Liar,
            Attack::Flood => Malice::Flood,
        };
        let mut order: Vec<usize> = (0..scale.honest + among).collect();
        // The first is honest, else there would be nobody honest to know.
        swarm.random().shuffle(&mut order[1..]);
        let bad: Vec<usize> = order[1..=among].to_vec();
        bad.iter().for_each(|place| swarm.attack(*place, malice));
        order[1..].sort_unstable();
        if attack == Attack::Liars && among > 0 {
            swarm.make_up((scale.honest + among) * MADE_UP);
        }
        let mut field = Field {
            swarm,
            honest: Vec::new(),
            attackers: Vec::new(),
            trees: Vec::new(),
            attack,
            scale,
            victims: Vec::new(),
            floods: false,
        };
        for place in order {
            field.join(place, bad.contains(&place))?;
        }
        field.swarm.run(Duration::from_secs(60))?;
        for _ in 0..scale.trees {
            let (tree, outlines) = real(field.swarm.random());
            field.swarm.outline(outlines);
            let publisher = field.any();
            field.trees.push((publisher, tree));
        }
        if attack == Attack::Eclipse && attackers > 0 {
            for peer in field.ground(attackers) {
                let place = field.swarm.add(peer);
                field.swarm.attack(place, malice);
                field.join(place, true)?;
            }
            field.swarm.run(Duration::from_secs(60))?;
        }
        Ok(field)
    }

    fn join(&mut self, place: usize, bad: bool) -> Result<(), Violation> {
        let mut known: Vec<usize> = self.swarm.random().pick(&self.honest).copied().into_iter().collect();
        let all: Vec<usize> = self.honest.iter().chain(&self.attackers).copied().collect();
        while known.len() < KNOWN.min(all.len()) {
            known.extend(self.swarm.random().pick(&all).copied());
        }
        self.swarm.join(place, &known);
        if bad {
            self.attackers.push(place)
        } else {
            self.honest.push(place)
        }
        self.swarm.run(SPACING)
    }

    /// Of all names tried, those closest to the root of any tree: as many for each.
    fn ground(&mut self, count: usize) -> Vec<PeerId> {
        let roots: Vec<Key> = self.trees.iter().map(|(_, tree)| Key::from(tree.root.0)).collect();
        let tries: Vec<(Key, PeerId)> = (0..self.scale.tries)
            .map(|_| {
                let peer = PeerId(self.swarm.random().bytes32());
                (Key::from(peer), peer)
            })
            .collect();
        let mut chosen = Vec::new();
        for (number, root) in roots.iter().enumerate() {
            let mut near: Vec<_> = tries.iter().map(|(key, peer)| (key.distance(root), *peer)).collect();
            near.sort_unstable();
            let share = count * (number + 1) / roots.len() - count * number / roots.len();
            chosen.extend(
                near.into_iter()
                    .map(|(_, peer)| peer)
                    .filter(|peer| !chosen.contains(peer))
                    .take(share)
                    .collect::<Vec<_>>(),
            );
        }
        chosen
    }

    /// Any honest node.
    pub fn any(&mut self) -> usize {
        *self.swarm.random().pick(&self.honest).unwrap()
    }

    /// The members closest to a key, of these.
    pub fn closest(&self, key: &Key, of: &[usize], count: usize) -> Vec<usize> {
        let place = |place: &usize| (Key::from(self.swarm.contact(*place).unwrap().peer).distance(key), *place);
        let mut near: Vec<_> = of.iter().map(place).collect();
        near.sort_unstable();
        near.into_iter().take(count).map(|(_, place)| place).collect()
    }

    /// All trees are published, and attackers do what they came for. Returns which part of all that was to be hosted is.
    pub fn publish(&mut self) -> Result<f64, Violation> {
        if self.attack == Attack::Flood {
            for (_, tree) in self.trees.clone() {
                let near = self.closest(&Key::from(tree.root.0), &self.honest, COPIES);
                self.victims.extend(near);
            }
            self.floods = true;
            self.run(Duration::from_secs(60))?;
        }
        if self.attack == Attack::PoisonBefore {
            self.poison()?;
        }
        let (mut hosted, mut wanted) = (0, 0);
        for (number, (place, tree)) in self.trees.clone().iter().enumerate() {
            let job = JobId(number as u64 + 1);
            self.swarm.publish(*place, job, tree);
            let done = |swarm: &Swarm| {
                swarm.progress(*place, job).is_some_and(|progress| {
                    progress.hosted >= progress.wanted && progress.announced >= progress.to_announce
                })
            };
            let end = self.swarm.now().after(PUBLISHING);
            while self.swarm.now() < end && !done(&self.swarm) {
                self.run(Duration::from_secs(1))?;
            }
            let progress = self.swarm.progress(*place, job).unwrap_or_default();
            hosted += progress.hosted;
            wanted += progress.wanted;
        }
        self.run(Duration::from_secs(10))?;
        if self.attack == Attack::PoisonAfter {
            self.poison()?;
        }
        Ok(100.0 * hosted as f64 / wanted.max(1) as f64)
    }

    /// Each attacker announces the chunks of one tree where an honest holder would.
    fn poison(&mut self) -> Result<(), Violation> {
        let all: Vec<usize> = self.honest.iter().chain(&self.attackers).copied().collect();
        for (number, attacker) in self.attackers.clone().into_iter().enumerate() {
            // Enough for each to take all the room that there is for records of one chunk.
            let aims = (self.attackers.len() / PROVIDERS_PER_CHUNK_MAX).clamp(1, self.trees.len());
            let tree = self.trees[number % aims].1.clone();
            let mut messages = std::collections::BTreeMap::<usize, Vec<ChunkId>>::new();
            for (chunk, _) in tree.chunks() {
                for place in self.closest(&Key::from(chunk), &all, COPIES) {
                    messages.entry(place).or_default().push(chunk);
                }
            }
            messages.remove(&attacker);
            for (place, chunks) in messages {
                self.swarm.send(attacker, place, Request::Announce { chunks, ttl: 86_400 });
            }
            self.swarm.run(SPACING)?;
        }
        self.swarm.run(Duration::from_secs(10))
    }

    /// Lets time pass, and attackers send what they send.
    pub fn run(&mut self, span: Duration) -> Result<(), Violation> {
        let end = self.swarm.now().after(span);
        while self.floods && end.since(self.swarm.now()) >= Duration::from_secs(1) {
            for attacker in self.attackers.clone() {
                self.flood(attacker);
            }
            self.swarm.run(Duration::from_secs(1))?;
        }
        self.swarm.run(end.since(self.swarm.now()))
    }

    /// A second's garbage of one attacker: right beside its victims, where room is kept for what belongs there.
    fn flood(&mut self, attacker: usize) {
        let (messages, chunks) = self.scale.flood;
        for _ in 0..messages {
            let victim = *self.swarm.random().pick(&self.victims).unwrap();
            let beside = Key::from(self.swarm.contact(victim).unwrap().peer);
            let random = self.swarm.random();
            let announced = (0..chunks).map(|_| ChunkId(near(random, &beside))).collect();
            let sought = (0..32).map(|_| ChunkId(near(random, &beside))).collect();
            let head =
                SignedHead { id: HeadId(near(random, &beside)), number: 1, sealed: vec![7; 64], signature: [7; 64] };
            self.swarm.send(attacker, victim, Request::Announce { chunks: announced, ttl: 86_400 });
            self.swarm.send(attacker, victim, Request::Locate { chunks: sought });
            self.swarm.send(attacker, victim, Request::SetHead(head));
        }
    }
}

/// A random name next to a key.
fn near(random: &mut Random, key: &Key) -> [u8; 32] {
    let mut name = random.bytes32();
    name[..2].copy_from_slice(&key.0[..2]);
    name
}

/// A tree of chunks that have content, of which the outlines are known: what false slices are held against.
fn real(random: &mut Random) -> (Tree, Vec<(ChunkId, Outline)>) {
    let (data, parity) = (8, 4);
    let mut outlines = Vec::new();
    let mut chunk = |random: &mut Random, len: usize| {
        let mut content = vec![0; len];
        for slice in content.chunks_mut(tornet::base::limit::SLICE_BYTES) {
            slice[..32].copy_from_slice(&random.bytes32());
        }
        let (id, outline) = Outline::of(&content);
        outlines.push((id, outline));
        id
    };
    let root = (chunk(random, LEN / 2), LEN as u32 / 2);
    let chunks = (0..data + parity).map(|_| chunk(random, LEN)).collect();
    let stripes = vec![Stripe { chunks, len: LEN as u32 }];
    (Tree { root, stripes, data, parity }, outlines)
}
