//! Identities and their books: the real ledger of each, and the receipts that go between two of them.

use super::kind::{Kind, SYBILS};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tornet::base::limit::TESTIMONY_MAX;
use tornet::base::network::{Network, network};
use tornet::base::peer::PeerId;
use tornet::base::time::Instant;
use tornet::ledger::{CreditConfig, Ledger, LedgerAction};
use tornet::wire::message::Price;

/// What an identity shows of others' receipts: of whom, and for how much in all.
pub type Shown = Rc<Vec<(PeerId, u64)>>;

/// Receipts are shown again after so many rounds: an hour, as in `node/testimony`.
const SHOWN_AFTER: u32 = 6;

/// One identity.
pub struct Face {
    pub id: PeerId,
    pub node: usize,
    pub kind: Kind,
    pub rank: u8,
    pub price: Price,
    /// Where it is seen.
    pub network: Option<Network>,
    pub ledger: Ledger,
    /// By identity: since which round on it does not show it receipts again; 0: they never met.
    met: Vec<u32>,
    /// What it shows, and since which round.
    shown: (u32, Shown),
}

/// All identities that ever were.
pub struct Books {
    pub faces: Vec<Face>,
    /// Those of each node, as they are in use.
    pub of: Vec<Vec<usize>>,
    /// Which nodes are honest.
    pub honest: Vec<bool>,
}

/// The identity of this number: mixed, so that order says nothing.
fn peer(number: usize) -> PeerId {
    let mut bytes = [7; 32];
    let mixed = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bytes[..8].copy_from_slice(&mixed.to_be_bytes());
    bytes[8..16].copy_from_slice(&(number as u64).to_be_bytes());
    PeerId(bytes)
}

/// A network of its own.
fn place(number: usize) -> Option<Network> {
    let [.., a, b] = (number as u64).to_be_bytes();
    network(&SocketAddr::from(([20 + (number >> 16) as u8, a, b, 1], 4_000)))
}

/// Which number an identity has.
pub fn number(peer: &PeerId) -> usize {
    peer.0[8..16].iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

impl Books {
    /// One identity for each node, several for a Sybil machine.
    pub fn new(kinds: &[Kind], rank: u8, free: bool) -> Books {
        let mut books = Books { faces: Vec::new(), of: vec![Vec::new(); kinds.len()], honest: Vec::new() };
        books.honest = kinds.iter().map(|kind| kind.honest()).collect();
        for (node, kind) in kinds.iter().enumerate() {
            for _ in 0..if *kind == Kind::Sybil { SYBILS } else { 1 } {
                books.appear(node, *kind, rank, free);
            }
        }
        books
    }

    /// A new identity of a node.
    fn appear(&mut self, node: usize, kind: Kind, rank: u8, free: bool) {
        let price = if free { Price::default() } else { kind.price() };
        let config = CreditConfig { price, ..CreditConfig::default() };
        let number = self.faces.len();
        // Whoever throws an identity away dials in anew, too; a machine of many has one address.
        let first = self.of[node].first().copied().unwrap_or(number);
        self.of[node].push(number);
        self.faces.push(Face {
            id: peer(number),
            node,
            kind,
            rank,
            price,
            network: place(first),
            ledger: Ledger::new(config, &[]),
            met: Vec::new(),
            shown: (0, Rc::default()),
        });
    }

    /// A node throws its identity away.
    pub fn whitewash(&mut self, node: usize, rank: u8, free: bool) {
        self.of[node].clear();
        self.appear(node, Kind::Whitewasher, rank, free);
    }

    /// Two of them are linked, have said hello, and the buyer told the seller what it received so far. They stay linked. Gives
    /// what the buyer shows of others' receipts, if it is time for that.
    pub fn meet(&mut self, now: Instant, round: u32, seller: usize, buyer: usize) -> Option<Shown> {
        let count = self.faces.len();
        let met = &mut self.faces[seller].met;
        if met.len() < count {
            met.resize(count, 0);
        }
        let again = met[buyer];
        if again > round {
            return None;
        }
        met[buyer] = round + SHOWN_AFTER;
        if again == 0 {
            self.greet(now, seller, buyer);
        }
        Some(self.shown(round, buyer))
    }

    fn greet(&mut self, now: Instant, seller: usize, buyer: usize) {
        for (one, other) in [(seller, buyer), (buyer, seller)] {
            let (id, rank) = (self.faces[other].id, self.faces[other].rank);
            let ledger = &mut self.faces[one].ledger;
            ledger.link_up(id);
            ledger.greeted(id, rank);
        }
        let id = self.faces[seller].id;
        let ledger = &mut self.faces[buyer].ledger;
        ledger.open(id);
        ledger.waits_for(&id, true);
        self.settle(now, seller, buyer);
    }

    /// The receipts that an identity shows. Those of a group sign each other's, for more than there is.
    fn shown(&mut self, round: u32, buyer: usize) -> Shown {
        let face = &self.faces[buyer];
        if face.shown.0 <= round {
            let shown = match face.kind {
                Kind::Sybil => self.of[face.node].iter().map(|other| (self.faces[*other].id, u64::MAX >> 8)).collect(),
                _ => {
                    let held = face.ledger.testimony(TESTIMONY_MAX);
                    held.into_iter().map(|(peer, receipt)| (peer, receipt.amount.0)).collect()
                }
            };
            self.faces[buyer].shown = (round + SHOWN_AFTER, Rc::new(shown));
        }
        self.faces[buyer].shown.1.clone()
    }

    /// The disk writes what it is to write, receipts go both ways, until nothing is left to do.
    pub fn settle(&mut self, now: Instant, seller: usize, buyer: usize) {
        // What falls due by itself, like marks that move down, is written with the next round.
        loop {
            let moved = self.turn(now, seller) | self.turn(now, buyer);
            if !moved {
                return;
            }
        }
    }

    fn turn(&mut self, now: Instant, face: usize) -> bool {
        let mut moved = false;
        while let Some(action) = self.faces[face].ledger.poll(now) {
            moved = true;
            match action {
                LedgerAction::Book(_) => self.faces[face].ledger.booked(),
                LedgerAction::Tell { peer, receipt, settled } => {
                    let from = self.faces[face].id;
                    let other = &mut self.faces[number(&peer)].ledger;
                    other.acknowledged(from, &receipt, settled);
                    let held = other.proof(&from);
                    self.faces[face].ledger.told(now, peer, Ok(held));
                }
            }
        }
        moved
    }

    /// Everything that was acknowledged is what was received, whoever looks: all debts and claims together are nothing. Gives by
    /// how much they are not, and by how much more than its line and the window any peer owes a node.
    pub fn check(&mut self, now: Instant) -> (i64, i64) {
        let later = now.after(Duration::from_secs(30));
        for face in 0..self.faces.len() {
            self.turn(later, face);
        }
        let (mut sum, mut worst) = (0, i64::MIN);
        for face in &self.faces {
            for balance in face.ledger.balances() {
                sum += balance.owed();
                let most = (balance.line.0 + face.price.of(CreditConfig::default().window_bytes).0) as i64;
                // What it was paid in advance is owed, too, but was not provided on credit.
                let ahead = balance.payments.paid.0 as i64;
                let owed = balance.owed() - ahead + (balance.unacknowledged.0 + balance.disputed.0) as i64;
                worst = worst.max(owed - most);
            }
        }
        (sum, worst)
    }

    /// By how much what each node provided is worth more than what it got, over all its identities that ever were; without payments, and
    /// only between nodes of which `among` says yes.
    pub fn worths(&self, among: impl Fn(usize) -> bool) -> Vec<i64> {
        let mut worths = vec![0; self.of.len()];
        for face in self.faces.iter().filter(|face| among(face.node)) {
            let mut balances = face.ledger.balances();
            balances.retain(|balance| among(self.faces[number(&balance.peer)].node));
            let service = balances.iter().map(|balance| balance.acknowledged.0 as i64 - balance.received.0 as i64);
            worths[face.node] += service.sum::<i64>();
        }
        worths
    }
}
