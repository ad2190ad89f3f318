//! Sellers by tornet's rules: the real ledger says who is served on credit, the real share whose turn it is, the real wallet who pays.
//! Without a price nothing is booked, and the share alone decides.

use super::book::{Books, Face};
use super::kind::Kind;
use super::purse::Purses;
use super::world::{Ask, PIECE, ROUND, World};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tornet::base::amount::Msat;
use tornet::base::peer::PeerId;
use tornet::base::time::Instant;
use tornet::ledger::share::{Share, ShareConfig, Turn};
use tornet::ledger::{HoldId, PRICE_MAX_DEFAULT, Verdict};

/// Answers of a peer that wait for their turn side by side.
const SIDE_BY_SIDE: usize = 2;
/// A tyrant gives back this part of what it got, in percent, unless it was refused.
const TYRANT: u64 = 25;
/// A cheat gives so much first: a thousandth of what is paid in advance, as that is the least that the payer must have had of it.
const LURE: u64 = 320 << 20;
/// Hashes of one core a day, from which identities are made: 5 million a second (`engine/rank.rs`).
const HASHES: u64 = 432_000_000_000;

/// How the swarm is set up.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Nothing is charged.
    pub free: bool,
    /// The rank of everybody.
    pub rank: u8,
    pub share: ShareConfig,
}

/// One asker at one seller.
struct Flow {
    face: usize,
    asks: VecDeque<Ask>,
    waiting: VecDeque<(Turn, Ask, Msat)>,
    refused: bool,
    /// It was asked to pay in this round.
    asked: bool,
    /// Something came.
    served: bool,
}

/// The rules at work.
pub struct Tornet {
    terms: Terms,
    pub books: Books,
    pub purses: Purses,
    shares: Vec<Share>,
    next: u64,
    hashes: Vec<u64>,
    /// What each node gave a peer that it depends on, and got of it; whether it was refused by it. For tyrants.
    between: BTreeMap<(usize, usize), (u64, u64, bool)>,
    /// Worth of everything delivered.
    pub delivered: u64,
    pub whitewashed: u64,
}

impl Tornet {
    /// Nothing happened yet.
    pub fn new(world: &World, terms: Terms) -> Tornet {
        let kinds: Vec<Kind> = world.nodes.iter().map(|node| node.kind).collect();
        let share = |up: u64| Share::new(ShareConfig { rate: Some(up), ..terms.share });
        Tornet {
            terms,
            books: Books::new(&kinds, terms.rank, terms.free),
            purses: Purses::new(&kinds),
            shares: world.nodes.iter().map(|node| share(node.up)).collect(),
            next: 0,
            hashes: vec![0; kinds.len()],
            between: BTreeMap::new(),
            delivered: 0,
            whitewashed: 0,
        }
    }

    /// A round: everybody is asked, and serves.
    pub fn round(&mut self, world: &mut World) {
        let mut asks = world.asks(|node| self.books.of[node].len());
        let mut order: Vec<usize> = (0..asks.len()).filter(|seller| !asks[*seller].is_empty()).collect();
        world.random.shuffle(&mut order);
        for seller in order {
            self.serve(world, seller, std::mem::take(&mut asks[seller]));
        }
        let now = world.now();
        self.purses.round(now, &mut self.books);
        for (node, payer, worth) in std::mem::take(&mut self.purses.fresh) {
            // As `node/upload` does: at the own price it is worth as much as if it had been delivered.
            let price = world.nodes[node].kind.price().per_gib.0;
            let bytes = (u128::from(worth) << 30) / u128::from(price);
            self.shares[node].contributed(now, payer, bytes as u64);
            let payer = self.books.faces[super::book::number(&payer)].node;
            world.credit(payer, node, worth);
            world.forgive(payer, node);
        }
        for node in 0..world.nodes.len() {
            if world.nodes[node].kind == Kind::Whitewasher {
                self.wash(world, node);
            }
        }
    }

    fn wash(&mut self, world: &mut World, node: usize) {
        self.hashes[node] += HASHES / u64::from(super::world::DAY);
        let cost = 1 << (20 + u32::from(self.terms.rank));
        if self.hashes[node] >= cost && !self.terms.free && world.unwelcome(node) {
            self.hashes[node] -= cost;
            self.books.whitewash(node, self.terms.rank, self.terms.free);
            self.whitewashed += 1;
        }
    }

    fn serve(&mut self, world: &mut World, seller: usize, asks: Vec<Ask>) {
        let now = world.now();
        let face = self.books.of[seller][0];
        let mut flows: BTreeMap<usize, Flow> = BTreeMap::new();
        for ask in asks {
            let asker = self.books.of[ask.node][ask.face];
            let flow = flows.entry(asker).or_insert_with(|| Flow {
                face: asker,
                asks: VecDeque::new(),
                waiting: VecDeque::new(),
                refused: false,
                asked: false,
                served: false,
            });
            flow.asks.push_back(ask);
        }
        let kind = world.nodes[seller].kind;
        if kind == Kind::Tyrant {
            flows.retain(|_, flow| self.tyrant(seller, flow.asks[0].node));
        }
        let mut flows: Vec<Flow> = flows.into_values().collect();
        let mut owner: BTreeMap<Turn, usize> = BTreeMap::new();
        for (place, flow) in flows.iter_mut().enumerate() {
            if !self.terms.free {
                self.meet(world, seller, flow.face);
            }
            self.fill(world, seller, flow, place, &mut owner, now);
        }
        let (mut at, end) = (now, now.after(ROUND));
        while at < end {
            while let Some(turn) = self.shares[seller].poll(at) {
                if let Some(place) = owner.remove(&turn) {
                    self.finish(world, seller, &mut flows[place], turn, at);
                    self.fill(world, seller, &mut flows[place], place, &mut owner, at);
                }
            }
            let Some(next) = self.shares[seller].poll_timeout() else { break };
            at = next.max(Instant(at.0 + 1));
        }
        for flow in &mut flows {
            let id = self.books.faces[flow.face].id;
            self.shares[seller].forget(&id);
            for (turn, ..) in flow.waiting.drain(..) {
                self.books.faces[face].ledger.post(HoldId(turn.0), Msat::ZERO, false);
            }
            if flow.served && !self.terms.free {
                self.books.settle(now, face, flow.face);
            }
            let node = self.books.faces[flow.face].node;
            world.answered(seller, node, flow.refused);
        }
    }

    /// Both are linked; the buyer shows what others acknowledge, and it counts as `node/testimony` does it.
    fn meet(&mut self, world: &World, seller: usize, buyer: usize) {
        let (now, face) = (world.now(), self.books.of[seller][0]);
        let Some(shown) = self.books.meet(now, world.round, face, buyer) else { return };
        let (id, price) = (self.books.faces[buyer].id, self.books.faces[face].price.per_gib.0);
        let worth = |amount: u64| ((u128::from(amount) << 30) / u128::from(price)) as u64;
        let shown: Vec<(PeerId, u64)> = shown.iter().map(|(peer, amount)| (*peer, worth(*amount))).collect();
        let counts = self.shares[seller].witnessed(now, id, &shown);
        self.books.faces[face].ledger.trust(id, counts);
    }

    /// As many answers as may wait side by side are held and queued.
    fn fill(
        &mut self,
        world: &mut World,
        seller: usize,
        flow: &mut Flow,
        place: usize,
        owner: &mut BTreeMap<Turn, usize>,
        at: Instant,
    ) {
        let (now, face) = (world.now(), self.books.of[seller][0]);
        let Face { id, network, .. } = self.books.faces[flow.face];
        let ceiling = PRICE_MAX_DEFAULT.of(PIECE);
        while flow.waiting.len() < SIDE_BY_SIDE && !flow.refused {
            let Some(ask) = flow.asks.front_mut() else { return };
            if ask.pieces == 0 || !world.wanted(ask) {
                flow.asks.pop_front();
                continue;
            }
            if world.nodes[seller].kind == Kind::Cheat && self.has_lured(seller, ask.node) {
                flow.refused = true;
                return self.refuse(world, seller, flow, Msat::ZERO);
            }
            self.next += 1;
            let turn = Turn(self.next);
            let mut verdict = self.books.faces[face].ledger.hold(now, HoldId(turn.0), id, PIECE, Msat::ZERO, ceiling);
            if verdict == Verdict::Wait {
                self.books.settle(now, face, flow.face);
                verdict = self.books.faces[face].ledger.hold(now, HoldId(turn.0), id, PIECE, Msat::ZERO, ceiling);
            }
            let charge = match verdict {
                Verdict::Held(charge) => {
                    // As `node/credit` does: who may pay is asked to before it is refused.
                    let short = self.books.faces[face].ledger.runs_short(now, &id);
                    if let Some(owed) = short.filter(|_| !std::mem::replace(&mut flow.asked, true)) {
                        self.ask_to_pay(world, seller, flow.face, owed);
                    }
                    charge
                }
                Verdict::Free => Msat::ZERO,
                Verdict::Wait => return,
                Verdict::Price(price) => panic!("{price} for {PIECE} bytes is over the ceiling"),
                Verdict::Line { owed, .. } => {
                    flow.refused = true;
                    return self.refuse(world, seller, flow, owed);
                }
            };
            ask.pieces -= 1;
            flow.waiting.push_back((turn, *ask, charge));
            owner.insert(turn, place);
            self.shares[seller].ask(at, id, network, turn, PIECE);
        }
    }

    /// It is a piece's turn: it goes over the line, both book it, and the buyer remembers who gave it.
    fn finish(&mut self, world: &mut World, seller: usize, flow: &mut Flow, turn: Turn, at: Instant) {
        let Some(place) = flow.waiting.iter().position(|(this, ..)| *this == turn) else { return };
        let Some((_, ask, charge)) = flow.waiting.remove(place) else { return };
        let (now, face) = (world.now(), self.books.of[seller][0]);
        let arrives = world.deliver(seller, &ask, at.since(now) + took(world.nodes[seller].up));
        let amount = if arrives { charge } else { Msat::ZERO };
        self.books.faces[face].ledger.post(HoldId(turn.0), amount, false);
        if !arrives {
            return;
        }
        self.delivered += amount.0;
        let id = self.books.faces[face].id;
        // Receipts go out when the window wants them, and at the end of the round.
        self.books.faces[flow.face].ledger.received(now, id, PIECE, amount);
        flow.served = true;
        self.shares[ask.node].contributed(at, id, PIECE);
        world.credit(seller, ask.node, amount.0);
        for (one, other, given) in [(seller, ask.node, true), (ask.node, seller, false)] {
            if matches!(world.nodes[one].kind, Kind::Tyrant | Kind::Cheat) {
                let (gave, got, refused) = self.between.entry((one, other)).or_default();
                *(if given { &mut *gave } else { &mut *got }) += PIECE;
                *refused &= *gave < *got;
            }
        }
    }

    fn refuse(&mut self, world: &World, seller: usize, flow: &Flow, owed: Msat) {
        if self.terms.free {
            // Nobody pays where nothing is charged.
            return;
        }
        self.ask_to_pay(world, seller, flow.face, owed);
        let node = self.books.faces[flow.face].node;
        if world.nodes[node].kind == Kind::Tyrant {
            self.between.entry((node, seller)).or_default().2 = true;
        }
    }

    /// The seller sends an invoice, if it can; the buyer knows that money is wanted.
    fn ask_to_pay(&mut self, world: &World, seller: usize, buyer: usize, owed: Msat) {
        let face = &self.books.faces[buyer];
        let (node, peer, pays) = (face.node, face.id, world.nodes[face.node].kind.honest());
        let Face { id, ledger, .. } = &self.books.faces[self.books.of[seller][0]];
        let known = |peer: &PeerId| ledger.has_record(peer);
        self.purses.refuse(world.now(), (seller, *id), (node, peer, pays), owed, known);
    }

    /// Whether a cheat gave this one what makes it pay.
    fn has_lured(&self, cheat: usize, asker: usize) -> bool {
        self.terms.free || self.between.get(&(cheat, asker)).is_some_and(|(gave, ..)| *gave >= LURE)
    }

    /// Whether a tyrant serves this one: it got something of it, and gave less back than it must.
    fn tyrant(&self, tyrant: usize, asker: usize) -> bool {
        let (gave, got, refused) = self.between.get(&(tyrant, asker)).copied().unwrap_or_default();
        gave < got * if refused { 100 } else { TYRANT } / 100
    }
}

/// How long a piece is on its way.
fn took(up: u64) -> Duration {
    Duration::from_secs_f64(PIECE as f64 / up as f64)
}
