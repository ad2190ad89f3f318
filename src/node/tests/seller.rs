//! One machine that sells, and a buyer made of messages: who is served, asked to pay, refused, in which order.

use super::super::effect::{Effect, Token};
use super::super::input::Input;
use super::super::*;
use super::world::{addr, chunks, id};
use crate::base::amount::Msat;
use crate::base::bitcoin::BitcoinNetwork;
use crate::base::range::SliceRange;
use crate::base::units::FeeRate;
use crate::wallet::{PayConfig, WalletAction, WalletEvent};
use crate::wire::message::{Fetch, Hello, Price, Refusal, Statement};
use crate::wire::payment::{Invoice, Payment};
use crate::wire::receipt::Receipt;

/// What a MiB costs, and how many of them are lent.
const MIB: u64 = 1_000;
const LENT: u64 = 16;

/// What the buyer saw.
#[derive(Debug, PartialEq)]
enum Seen {
    Served,
    Asked(Msat),
    Refused { owed: Msat },
}

struct Seller {
    node: Node,
    now: Instant,
    next: u64,
    seen: Vec<Seen>,
    /// Worth of what it sent.
    sent: Msat,
}

impl Seller {
    fn new(payments: bool) -> Seller {
        let mut this = Seller::without_fees(payments);
        this.learn_fees();
        this
    }

    /// What a payment costs is known from now on.
    fn learn_fees(&mut self) {
        self.tell(Input::Wallet(WalletEvent::Clock { civil: 1_800_000_000, fee_rate: Some(FeeRate(1_000)) }));
    }

    fn without_fees(payments: bool) -> Seller {
        let credit = CreditConfig {
            price: Price { per_gib: Msat(MIB * 1024), per_request: Msat::ZERO },
            newcomer_bytes: LENT << 20,
            ..CreditConfig::default()
        };
        let payments = PayConfig { enabled: payments, network: BitcoinNetwork::Regtest, ..PayConfig::default() };
        let config = NodeConfig { addrs: vec![addr(0)], credit, payments, ..NodeConfig::default() };
        let node = Node::new(config, id(0), 1);
        let mut this = Seller { node, now: Instant(1), next: 1 << 40, seen: Vec::new(), sent: Msat::ZERO };
        let peer = id(1);
        this.tell(Input::Wallet(WalletEvent::Clock { civil: 1_800_000_000, fee_rate: None }));
        this.tell(Input::Stored { chunks: chunks(1, 9) });
        this.tell(Input::LinkUp { rtt: None, peer, addr: addr(1), dialled: false });
        let hello = Hello {
            agent: "buyer".into(),
            addrs: Vec::new(),
            rank_nonce: 0,
            price: Price::default(),
            capabilities: 0,
            observed: None,
        };
        this.ask(Request::Hello(hello));
        this.acknowledge();
        this
    }

    fn ask(&mut self, request: Request) {
        self.next += 1;
        self.tell(Input::Request { from: id(1), token: Token(self.next), request });
    }

    /// All that came so far is acknowledged.
    fn acknowledge(&mut self) {
        self.next += 1;
        let receipt = Receipt::unsigned(self.next, self.sent);
        self.ask(Request::Receipt(Statement { receipt, settled: false }));
    }

    fn fetch(&mut self) {
        let slices = SliceRange { first: 0, count: 64 };
        let chunk = chunks(1, 9)[0];
        self.ask(Request::Fetch(Fetch { chunk, slices, outline: true, ceiling: Msat(u64::MAX >> 1) }));
        self.acknowledge();
    }

    /// An input, and the end of all that it brings about.
    fn tell(&mut self, input: Input) {
        self.node.handle(self.now, input);
        while let Some(effect) = self.node.poll_effect() {
            let end = match effect {
                Effect::Serve { token, charge, .. } => {
                    self.seen.push(Seen::Served);
                    self.sent = self.sent.saturating_add(charge);
                    Input::Served { token, bytes: 1 << 20, charge, whole: true }
                }
                Effect::Book { .. } => Input::Booked,
                Effect::Wallet(action) => match *action {
                    WalletAction::Save(_) => Input::Wallet(WalletEvent::Saved),
                    WalletAction::Address(peer) => {
                        Input::Wallet(WalletEvent::Address { peer, address: Ok("bcrt1p1".into()) })
                    }
                    _ => continue,
                },
                Effect::Call { request: Request::Payment(Payment::Invoice(Invoice { amount, .. })), .. } => {
                    self.seen.push(Seen::Asked(amount));
                    continue;
                }
                Effect::Answer { response: Response::Refused(Refusal::CreditLimit { owed, .. }), .. } => {
                    self.seen.push(Seen::Refused { owed });
                    continue;
                }
                _ => continue,
            };
            self.node.handle(self.now, end);
        }
    }

    fn asked(&self) -> Vec<Msat> {
        self.seen.iter().filter_map(|seen| if let Seen::Asked(owed) = seen { Some(*owed) } else { None }).collect()
    }
}

#[test]
fn who_has_used_three_quarters_of_what_it_may_owe_is_asked_to_pay_while_it_is_served() {
    let mut seller = Seller::new(true);
    for _ in 0..LENT * 3 / 4 {
        seller.fetch();
    }
    assert_eq!((seller.seen.len() as u64, seller.asked()), (LENT * 3 / 4, vec![]), "{:?}", seller.seen);
    for _ in LENT * 3 / 4..LENT {
        seller.fetch();
    }
    let invoices = seller.asked();
    assert!(
        invoices.len() == 1 && invoices[0] >= Msat(LENT * 3 / 4 * MIB) && invoices[0] < Msat(LENT * MIB),
        "{invoices:?}"
    );
    let served = seller.seen.iter().filter(|seen| **seen == Seen::Served).count() as u64;
    assert_eq!(served, LENT, "nothing of its line is kept from it: {:?}", seller.seen);
    seller.now = seller.now.after(Duration::from_secs(3600));
    seller.fetch();
    assert!(matches!(seller.seen.last(), Some(Seen::Asked(owed)) if *owed == Msat(LENT * MIB)), "{:?}", seller.seen);
    assert!(seller.seen.contains(&Seen::Refused { owed: Msat(LENT * MIB) }), "{:?}", seller.seen);
}

#[test]
fn who_ran_short_before_fees_were_known_is_asked_once_they_are() {
    let mut seller = Seller::without_fees(true);
    for _ in 0..LENT {
        seller.fetch();
    }
    assert_eq!(seller.asked(), []);
    seller.learn_fees();
    assert_eq!(seller.asked(), [Msat(LENT * MIB)]);
    seller.learn_fees();
    assert_eq!(seller.asked().len(), 1);
}

#[test]
fn who_takes_no_payments_asks_for_none() {
    let mut seller = Seller::new(false);
    for _ in 0..LENT + 1 {
        seller.fetch();
    }
    assert_eq!(seller.asked(), []);
    assert_eq!(seller.seen.last(), Some(&Seen::Refused { owed: Msat(LENT * MIB) }));
}
