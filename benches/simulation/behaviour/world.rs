//! The swarm without its rules: lines, hours on line, what there is, who has it, who wants what and whom he asks for it.

use super::kind::{Kind, SYBILS};
use std::collections::VecDeque;
use std::time::Duration;
use tornet::base::random::Random;
use tornet::base::time::Instant;
use tornet::ledger::PRICE_MAX_DEFAULT;
use tornet::sim::network::NetworkConfig;
use tornet::sim::session::Sessions;
use tornet::wire::message::Price;

/// What is moved at once.
pub const PIECE: u64 = 16 << 20;
/// All that happens within so long happens at one moment.
pub const ROUND: Duration = Duration::from_secs(600);
/// Rounds in a day.
pub const DAY: u32 = 144;
/// Pieces of a thing that is wanted: 256 MiB.
const ITEM: u32 = 16;
/// Things on offer for each honest node.
const ITEMS_PER_NODE: usize = 20;
/// Honest nodes that keep each of them for good.
const KEEPERS: usize = 6;
/// Things that a node keeps beside those.
const CACHE: usize = 100;
/// Popularity falls with this power of the rank in the catalogue (Breslau et al. 1999 found 0.64 to 0.83 for the web).
const ZIPF: f64 = 0.8;
/// Nodes offer this part of their line up.
const OFFER: u64 = 4;
/// Part of what it can give that a node wants, if it is equal, and if it is heavy; percent.
const WANTS: [u64; 2] = [60, 150];
/// Demand swings by so many percent within a day.
const RHYTHM: f64 = 60.0;
/// Things asked for at a time, by the honest and by those who never have enough.
const ACTIVE: [usize; 2] = [4, 12];
/// What was not had after so many rounds is not wanted any more.
const PATIENCE: u32 = DAY;
/// Holders that a look-up names; of these so many are asked.
const NAMED: usize = 24;
const ASKED: usize = 8;
/// To whom so much is owed its price counts twice, and so on up to so many times (`fetch/score`).
const DEBT: u64 = 256 << 20;
const DEBT_TIMES_MAX: f64 = 4.0;
/// Whoever refused is asked again after so many rounds, unless it was paid.
const PAUSE: u32 = 6;

/// Sums of one node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub given: u64,
    pub got: u64,
    pub wanted: u64,
    /// Rounds on line in which something was wanted.
    pub busy: u64,
    pub asked: u64,
    pub refused: u64,
}

/// Something that is wanted.
#[derive(Debug, Clone)]
struct Want {
    item: u32,
    left: u32,
    since: u32,
}

/// What a node knows of another.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Bytes a second; 0: not known.
    rate: f32,
    /// Pieces asked for and got in this round, and after how many seconds the last of them came.
    asked: u32,
    got: u32,
    took: f32,
    /// Not asked before this round.
    until: u32,
    /// What it owes for service and payments, millisatoshi; negative: what it is owed.
    owes: i64,
}

/// A node.
pub struct Node {
    pub kind: Kind,
    /// Offered, bytes a second.
    pub up: u64,
    down: u64,
    pub online: bool,
    turns: Instant,
    wants: Vec<Want>,
    waiting: VecDeque<Want>,
    keeps: Vec<bool>,
    cache: VecDeque<u32>,
    known: Vec<Known>,
    /// Mean rate of those that it knows, bytes a second.
    prior: f64,
    /// Bytes that its line can still take in this round.
    room: u64,
    /// Decides when it comes, goes and wants something: the same whoever else is there.
    life: Random,
    /// Decides what, and whom it asks.
    taste: Random,
    pub tally: Tally,
    /// Requests of this round, and how many of them were refused.
    round: (u32, u32),
}

/// A request: which of a node's identities asks, for which thing, how many pieces at most.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub node: usize,
    pub face: usize,
    pub item: u32,
    pub pieces: u32,
}

/// One who could be asked for a thing.
struct Offer {
    seller: usize,
    rate: f64,
    price: Price,
    percent: u64,
    owes: i64,
    /// Pieces asked of it in this round, and how many of them of this thing.
    asked: u32,
    pieces: u32,
    /// Seconds until one piece more is here, with what its price counts as.
    takes: f64,
}

impl Offer {
    /// As `fetch/score` weighs it: the price, in percent of the most that is paid, counts as half as much more time, and more to whom
    /// much is owed; nothing at who owes as much.
    fn weigh(&mut self) {
        let (costs, unit) = (self.price.of(u64::from(self.asked + 1) * PIECE).0, self.price.of(DEBT).0 as f64);
        let times = match self.owes {
            owes if owes >= costs as i64 => 0.0,
            owes => 1.0 + (owes.min(0).unsigned_abs() as f64 / unit).min(DEBT_TIMES_MAX - 1.0),
        };
        self.takes = f64::from(self.asked + 1) * PIECE as f64 / self.rate * (1.0 + self.percent as f64 / 200.0 * times);
    }
}

/// The swarm.
pub struct World {
    pub nodes: Vec<Node>,
    pub round: u32,
    holders: Vec<Vec<u32>>,
    popularity: Vec<f64>,
    sessions: Sessions,
    /// Whether anybody charges anything.
    priced: bool,
    pub random: Random,
}

/// A number between 0 and 1.
fn unit(random: &mut Random) -> f64 {
    random.below(1 << 53) as f64 / (1u64 << 53) as f64
}

impl World {
    /// Nodes of these kinds, the honest first: they are the same, and want the same, whoever else is there.
    pub fn new(kinds: &[Kind], priced: bool, seed: u64) -> World {
        let honest = kinds.iter().filter(|kind| kind.honest()).count();
        let (items, network, sessions) = (honest * ITEMS_PER_NODE, NetworkConfig::world(), Sessions::measured());
        let mut nodes = Vec::new();
        for (place, kind) in kinds.iter().enumerate() {
            let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(place as u64));
            let (up, down) = network.rates(&mut random);
            let online = random.chance(1, 2);
            let turns = Instant(0).after(sessions.rest(&mut random));
            let keeps = if kind.announces() { vec![false; items] } else { Vec::new() };
            nodes.push(Node {
                kind: *kind,
                up: up / OFFER,
                down,
                online,
                turns,
                wants: Vec::new(),
                waiting: VecDeque::new(),
                keeps,
                cache: VecDeque::new(),
                known: vec![Known::default(); kinds.len()],
                prior: 250_000.0,
                room: 0,
                taste: random.fork(),
                life: random,
                tally: Tally::default(),
                round: (0, 0),
            });
        }
        let (mut sum, mut random) = (0.0, Random::new(seed));
        let popularity = (1..=items).map(|rank| {
            sum += (rank as f64).powf(-ZIPF);
            sum
        });
        let popularity = popularity.collect();
        let holders = vec![Vec::new(); items];
        let mut world = World { nodes, round: 0, holders, popularity, sessions, priced, random: random.fork() };
        for item in 0..items as u32 {
            for _ in 0..KEEPERS {
                world.keep(random.below(honest as u64) as usize, item);
            }
        }
        // Who is not honest says that it has as much.
        for place in honest..kinds.len() {
            for _ in 0..ITEMS_PER_NODE * KEEPERS {
                let item = world.popular(place);
                world.keep(place, item);
            }
        }
        world
    }

    fn keep(&mut self, place: usize, item: u32) {
        let node = &mut self.nodes[place];
        if let Some(keeps) = node.keeps.get_mut(item as usize)
            && !std::mem::replace(keeps, true)
        {
            self.holders[item as usize].push(place as u32);
        }
    }

    /// Something, by popularity, as this node would draw it.
    fn popular(&mut self, place: usize) -> u32 {
        let all = self.popularity.last().copied().unwrap_or(1.0);
        let at = unit(&mut self.nodes[place].taste) * all;
        self.popularity.partition_point(|sum| *sum <= at) as u32
    }

    /// The moment at which this round begins.
    pub fn now(&self) -> Instant {
        Instant(1).after(ROUND * self.round)
    }

    /// Nodes come, go and want.
    pub fn begin(&mut self) {
        let now = self.now();
        let phase = f64::from(self.round % DAY) / f64::from(DAY) * std::f64::consts::TAU;
        let swing = 1.0 + RHYTHM / 100.0 * phase.sin();
        for place in 0..self.nodes.len() {
            let node = &mut self.nodes[place];
            while node.turns <= now {
                node.online = !node.online;
                node.turns = node.turns.after(self.sessions.fresh(&mut node.life).max(ROUND));
            }
            node.room = node.down * ROUND.as_secs();
            node.round = (0, 0);
            let hungry = !node.kind.honest() && node.kind != Kind::Gouger;
            if !hungry {
                self.demand(place, swing);
            }
            let node = &mut self.nodes[place];
            let active = ACTIVE[usize::from(hungry)];
            let due = self.round.saturating_sub(PATIENCE);
            node.wants.retain(|want| want.since >= due);
            node.waiting.retain(|want| want.since >= due);
            while self.nodes[place].wants.len() < active {
                let next = match self.nodes[place].waiting.pop_front() {
                    Some(want) => want,
                    None if hungry => self.fresh(place),
                    None => break,
                };
                self.nodes[place].wants.push(next);
            }
            let node = &mut self.nodes[place];
            node.tally.busy += u64::from(node.online && !node.wants.is_empty());
        }
    }

    fn fresh(&mut self, place: usize) -> Want {
        let mut item = self.popular(place);
        for _ in 0..8 {
            let node = &self.nodes[place];
            if node.keeps.get(item as usize) != Some(&true) && node.wants.iter().all(|want| want.item != item) {
                break;
            }
            item = self.popular(place);
        }
        Want { item, left: ITEM, since: self.round }
    }

    /// What comes to its mind while it is on line: about half the time.
    fn demand(&mut self, place: usize, swing: f64) {
        let node = &mut self.nodes[place];
        let part = WANTS[usize::from(node.kind == Kind::Heavy)];
        let bytes = (node.up * ROUND.as_secs() * part / 100) as f64 * swing;
        let items = bytes / (f64::from(ITEM) * PIECE as f64);
        let mut count = items as u64 + u64::from(unit(&mut node.life) < items.fract());
        while count > 0 {
            if self.nodes[place].online {
                let want = self.fresh(place);
                let node = &mut self.nodes[place];
                node.tally.wanted += u64::from(ITEM) * PIECE;
                node.waiting.push_back(want);
            }
            count -= 1;
        }
    }

    /// Requests of this round, by seller.
    pub fn asks(&mut self, faces: impl Fn(usize) -> usize) -> Vec<Vec<Ask>> {
        let mut asks: Vec<Vec<Ask>> = vec![Vec::new(); self.nodes.len()];
        for place in 0..self.nodes.len() {
            if self.nodes[place].online {
                for want in 0..self.nodes[place].wants.len() {
                    self.choose(place, want, faces(place), &mut asks);
                }
            }
        }
        asks
    }

    /// Asks those for something that will have it here first. The real chooser (`fetch::schedule`) works by the millisecond; this
    /// is its weighing: time by measured rate and by what was asked of the peer already, price and balance, a pause after a refusal, a
    /// little chance.
    fn choose(&mut self, place: usize, want: usize, faces: usize, asks: &mut [Vec<Ask>]) {
        let node = &mut self.nodes[place];
        let (kind, prior, Want { item, left, .. }) = (node.kind, node.prior, node.wants[want].clone());
        let mut random = node.taste.fork();
        let (named, most) = if kind == Kind::Thief { (usize::MAX, usize::MAX) } else { (NAMED, ASKED) };
        let holders = self.holders[item as usize].iter();
        let mut list: Vec<usize> = holders.map(|holder| *holder as usize).collect();
        list.retain(|holder| *holder != place && self.nodes[*holder].online);
        if list.len() > named {
            random.shuffle(&mut list);
            list.truncate(named);
        }
        let mut offers: Vec<Offer> = Vec::new();
        for seller in list {
            let state = self.nodes[place].known[seller];
            if state.until > self.round {
                continue;
            }
            let rate = if state.rate > 0.0 { f64::from(state.rate) } else { prior };
            let price = self.nodes[seller].kind.price();
            let percent = if self.priced { price.per_gib.0 * 100 / PRICE_MAX_DEFAULT.per_gib.0 } else { 0 };
            let (asked, chance) = (state.asked, 1.0 + unit(&mut random) / 16.0);
            let mut offer =
                Offer { seller, rate: rate / chance, price, percent, owes: state.owes, asked, pieces: 0, takes: 0.0 };
            offer.weigh();
            offers.push(offer);
        }
        offers.sort_by(|a, b| a.takes.total_cmp(&b.takes));
        offers.truncate(most);
        if kind == Kind::Thief {
            // It asks everybody.
            offers.iter_mut().for_each(|offer| offer.pieces = 1);
        }
        // Twice what is wanted, piece by piece from whoever will have it first; of nobody more than there is.
        for _ in 0..2 * left {
            let open = offers.iter_mut().filter(|offer| offer.pieces < left);
            let Some(first) = open.min_by(|a, b| a.takes.total_cmp(&b.takes)) else { break };
            (first.asked, first.pieces) = (first.asked + 1, first.pieces + 1);
            first.weigh();
        }
        let node = &mut self.nodes[place];
        for Offer { seller, pieces, .. } in offers.into_iter().filter(|offer| offer.pieces > 0) {
            node.known[seller].asked += pieces;
            for face in 0..if kind == Kind::Sybil { faces.min(SYBILS) } else { 1 } {
                asks[seller].push(Ask { node: place, face, item, pieces });
            }
        }
    }

    /// Whether a piece is still of use to who asked for it, and can come.
    pub fn wanted(&self, ask: &Ask) -> bool {
        let node = &self.nodes[ask.node];
        node.room >= PIECE && node.wants.iter().any(|want| want.item == ask.item && want.left > 0)
    }

    /// A piece comes so long after the round began. Gives whether it was of use.
    pub fn deliver(&mut self, seller: usize, ask: &Ask, after: Duration) -> bool {
        if !self.wanted(ask) {
            return false;
        }
        let node = &mut self.nodes[ask.node];
        node.room -= PIECE;
        node.tally.got += PIECE;
        node.known[seller].got += 1;
        node.known[seller].took = after.as_secs_f32();
        if let Some(want) = node.wants.iter_mut().find(|want| want.item == ask.item && want.left > 0) {
            want.left -= 1;
        }
        self.nodes[seller].tally.given += PIECE;
        true
    }

    /// A node gave another something worth so much, or paid it.
    pub fn credit(&mut self, giver: usize, taker: usize, worth: u64) {
        self.nodes[giver].known[taker].owes += worth as i64;
        self.nodes[taker].known[giver].owes -= worth as i64;
    }

    /// A request was answered at all, or refused for what is owed.
    pub fn answered(&mut self, seller: usize, buyer: usize, refused: bool) {
        let round = self.round;
        let node = &mut self.nodes[buyer];
        node.tally.asked += 1;
        node.round.0 += 1;
        if refused {
            node.tally.refused += 1;
            node.round.1 += 1;
            node.known[seller].until = round + PAUSE;
        }
    }

    /// A seller was paid: it is asked again.
    pub fn forgive(&mut self, buyer: usize, seller: usize) {
        self.nodes[buyer].known[seller].until = 0;
    }

    /// Whether it was refused by most in this round; if so it forgets who refused it.
    pub fn unwelcome(&mut self, place: usize) -> bool {
        let node = &mut self.nodes[place];
        let unwelcome = node.round.0 > 0 && node.round.1 * 2 >= node.round.0;
        if unwelcome {
            node.known.iter_mut().for_each(|known| known.until = 0);
        }
        unwelcome
    }

    /// The round is over: rates are learnt, what is whole is kept.
    pub fn end(&mut self) {
        for place in 0..self.nodes.len() {
            let node = &mut self.nodes[place];
            let (mut rated, mut sum) = (0u32, 0.0);
            for known in &mut node.known {
                if known.got > 0 {
                    let rate = known.got as f32 * PIECE as f32 / known.took.max(1.0);
                    known.rate = if known.rate > 0.0 { (known.rate + rate) / 2.0 } else { rate };
                } else if known.asked > 0 {
                    known.rate = (if known.rate > 0.0 { known.rate } else { node.prior as f32 }) / 2.0;
                }
                (known.asked, known.got) = (0, 0);
                if known.rate > 0.0 {
                    // Never quite nothing: it is tried again.
                    known.rate = known.rate.max(1_000.0);
                    (rated, sum) = (rated + 1, sum + f64::from(known.rate));
                }
            }
            if rated > 0 {
                node.prior = sum / f64::from(rated);
            }
            let whole: Vec<u32> = node.wants.iter().filter(|want| want.left == 0).map(|want| want.item).collect();
            node.wants.retain(|want| want.left > 0);
            for item in whole {
                self.obtained(place, item);
            }
        }
        self.round += 1;
    }

    fn obtained(&mut self, place: usize, item: u32) {
        if self.nodes[place].keeps.get(item as usize) != Some(&false) {
            return;
        }
        self.keep(place, item);
        let node = &mut self.nodes[place];
        node.cache.push_back(item);
        if node.cache.len() > CACHE
            && let Some(old) = node.cache.pop_front()
        {
            node.keeps[old as usize] = false;
            self.holders[old as usize].retain(|holder| *holder != place as u32);
        }
    }
}
