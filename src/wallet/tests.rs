//! Histories of a debtor and its creditors (`world`) against what truly happened on the chain, and single properties.

mod world;

use super::*;
use crate::base::amount::Msat;
use crate::base::bitcoin::{BitcoinNetwork, Outpoint, Sat, Txid};
use crate::base::limit::{BILLS_OPEN_MAX, BILLS_PER_PEER_MAX, BILLS_STRANGERS_MAX};
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::base::units::FeeRate;
use crate::wire::payment::{Invoice, Notice};
use proptest::prelude::*;
use world::*;

/// An invoice at an address of its own.
pub(super) fn invoice(name: u8) -> Invoice {
    Invoice {
        number: u64::from(name),
        network: BitcoinNetwork::Regtest,
        confirmations: 1,
        amount: Msat(1_000_000),
        expires: CIVIL + DAY,
        address: format!("bcrt1p{name}"),
        signature: [0; 64],
    }
}

/// Both sides come to the same, and to what the chain says.
fn settled(world: &World) {
    for creditor in 1..3 {
        let ours = world.parties[0].sums.get(&name(creditor)).copied().unwrap_or_default();
        let theirs = world.parties[creditor].sums.get(&name(0)).copied().unwrap_or_default();
        assert_eq!(ours.paid, theirs.credited, "paid and credited");
        assert_eq!(ours.paid, Sat(world.mined_to(creditor)).msat());
        assert_eq!(ours.pending, Msat::ZERO, "on its way to {creditor}");
        assert_eq!(ours, world.parties[0].wallet.sums(&name(creditor)));
        assert_eq!(theirs, world.parties[creditor].wallet.sums(&name(0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_limit_is_exceeded_and_each_payment_counts_once_after_any_history(steps in steps(false)) {
        let mut world = World::new();
        for step in &steps {
            world.act(step);
            world.check(false);
        }
        world.act(&Step::On);
        world.rest();
        world.check(false);
        settled(&world);
        // Debts that are large enough are settled as the days allow.
        for _ in 0..80 {
            world.act(&Step::Pass { seconds: DAY });
            for creditor in 1..3 {
                if world.served[creditor].div_ceil(1000) - world.sent_to(creditor) >= config().topup_min.0 {
                    world.serve(creditor, 0);
                }
            }
            world.rest();
            world.check(false);
        }
        settled(&world);
        for creditor in 1..3 {
            let left = world.served[creditor].div_ceil(1000) - world.mined_to(creditor);
            prop_assert!(left < config().topup_min.0, "{} are left to {}", left, creditor);
        }
    }

    #[test]
    fn orders_of_the_user_stay_within_the_limits(steps in steps(true)) {
        let mut world = World::new();
        for step in &steps {
            world.act(step);
            world.check(true);
        }
        world.act(&Step::On);
        world.rest();
        world.check(true);
        settled(&world);
    }
}

#[test]
fn two_debts_are_settled_by_one_transaction() {
    let mut world = World::new();
    world.serve(1, 4_000);
    world.serve(2, 5_000);
    world.rest();
    settled(&world);
    assert_eq!((world.intents.len(), world.mined_to(1), world.mined_to(2)), (1, 4_001, 5_001));
}

#[test]
fn who_is_asked_before_it_is_refused_pays_what_is_worth_a_payment() {
    let mut world = World::new();
    world.near(1, 4_000);
    world.near(2, config().topup_min.0 - 2);
    world.rest();
    world.check(false);
    settled(&world);
    assert_eq!((world.mined_to(1), world.mined_to(2)), (4_001, 0));
    world.near(2, 1);
    world.rest();
    assert_eq!(world.mined_to(2), config().topup_min.0);
}

#[test]
fn what_is_allowed_for_a_tree_pays_those_that_refused_it_once_and_also_after_a_restart() {
    let mut world = World::new();
    // More than a day allows.
    for creditor in 1..3 {
        world.serve(creditor, 25_000);
    }
    world.rest();
    let (first, second) = (world.sent_to(1), world.sent_to(2));
    assert_eq!(first + second, 28_571, "30,000 with five percent");
    world.act(&Step::Allow { creditor: 1, sat: 6_300 });
    world.rest();
    world.act(&Step::Lack { creditor: 2 });
    world.serve(1, 0);
    world.serve(2, 0);
    world.rest();
    assert_eq!((world.sent_to(1), world.sent_to(2)), (first, second), "nobody refused that tree");
    let before = world.parties[0].wallet.allowances();
    assert_eq!(before.len(), 1);
    world.act(&Step::Crash { party: 0, written: false });
    assert_eq!(world.parties[0].wallet.allowances(), before);
    world.act(&Step::Lack { creditor: 1 });
    world.serve(1, 0);
    world.serve(2, 0);
    world.rest();
    world.check(false);
    assert_eq!((world.sent_to(1), world.sent_to(2)), (first + 6_000, second));
    assert_eq!(world.parties[0].wallet.allowances(), []);
    world.act(&Step::Crash { party: 0, written: false });
    world.act(&Step::Lack { creditor: 1 });
    world.serve(1, 0);
    world.rest();
    assert_eq!((world.sent_to(1), world.parties[0].wallet.allowances()), (first + 6_000, vec![]), "used up");
}

#[test]
fn what_was_allowed_comes_back_when_nobody_ever_saw_its_payment() {
    let mut world = World::new();
    for creditor in 1..3 {
        world.serve(creditor, 25_000);
    }
    world.rest();
    world.act(&Step::Allow { creditor: 1, sat: 6_300 });
    world.rest();
    let given = world.parties[0].wallet.allowances();
    assert_eq!((given.len(), given[0].1.left), (1, Sat(6_300)));
    let reserve = |world: &mut World| {
        world.act(&Step::Lack { creditor: 1 });
        world.serve(1, 0);
        world.reserve();
        let reserved = |payment: &&Payment| payment.state == State::Reserved;
        assert_eq!(world.parties[0].wallet.payments().iter().filter(reserved).count(), 1);
        assert_eq!(world.parties[0].wallet.allowances(), [], "used up");
    };
    let sent = world.sent_to(1);
    // Turned off before anything was signed; the second time the process dies in between.
    for dies in [false, true] {
        reserve(&mut world);
        if dies {
            world.act(&Step::Crash { party: 0, written: true });
        }
        world.act(&Step::Off);
        world.rest();
        world.check(false);
        assert_eq!((world.parties[0].wallet.allowances(), world.sent_to(1)), (given.clone(), sent), "dies: {dies}");
        world.act(&Step::Crash { party: 0, written: false });
        assert_eq!(world.parties[0].wallet.allowances(), given, "on the disk, too");
        world.act(&Step::On);
    }
    // What the user allowed anew in between is not added to.
    reserve(&mut world);
    world.act(&Step::Pass { seconds: 1 });
    world.act(&Step::Allow { creditor: 1, sat: 2_000 });
    world.act(&Step::Off);
    world.rest();
    assert_eq!(world.parties[0].wallet.allowance(&tree(1)).map(|(found, _)| found.left), Some(Sat(2_000)));
    // And it is still good for a payment.
    world.act(&Step::On);
    world.act(&Step::Allow { creditor: 1, sat: 6_300 });
    world.act(&Step::Lack { creditor: 1 });
    world.serve(1, 0);
    world.rest();
    world.check(false);
    assert_eq!((world.sent_to(1), world.parties[0].wallet.allowances()), (sent + 6_000, vec![]));
}

#[test]
fn fee_is_raised_by_hand_within_the_limits_while_no_block_holds_the_payment() {
    let mut world = World::new();
    world.serve(1, 4_000);
    world.reserve();
    let id = world.parties[0].wallet.payments()[0].id;
    let raise = |world: &mut World, rate: Option<u64>, fee_max: Option<Sat>| {
        let now = world.now;
        world.parties[0].wallet.raise(now, id, rate.map(FeeRate), fee_max);
        world.advance();
        world.parties[0].wallet.raised(&id).cloned().unwrap()
    };
    let refused = |outcome: Raise, part: &str| match outcome {
        Raise::Failed(why) if why.contains(part) => {}
        other => panic!("{part}: {other:?}"),
    };
    let now = world.now;
    world.parties[0].wallet.raise(now, id, None, None);
    refused(world.parties[0].wallet.raised(&id).cloned().unwrap(), "not sent yet");
    world.advance();
    let fee = world.parties[0].wallet.payments()[0].fee;
    assert_eq!(world.parties[0].wallet.payments()[0].state, State::Sent);
    refused(raise(&mut world, None, None), "only a higher rate");
    refused(raise(&mut world, Some(1_000), None), "only a higher rate");
    refused(raise(&mut world, Some(config().fee_rate_max.0 + 1), None), "payments.fee_rate_max");
    refused(raise(&mut world, Some(2_000), Some(fee)), "over the limit of its fee");
    assert_eq!(raise(&mut world, Some(2_000), None), Raise::Done(Sat(fee.0 + 10)));
    let raised = &world.parties[0].wallet.payments()[0];
    assert_eq!((raised.fee_rate, raised.fee, raised.state), (FeeRate(2_000), Sat(fee.0 + 10), State::Sent));
    // It is known after a restart, and goes by its new rate.
    world.act(&Step::Crash { party: 0, written: false });
    world.advance();
    refused(raise(&mut world, Some(2_000), None), "only a higher rate");
    world.rest();
    settled(&world);
    assert_eq!(world.mined_to(1), 4_001);
    refused(raise(&mut world, Some(3_000), None), "a block holds it");
    let unknown = PaymentId([9; 16]);
    let now = world.now;
    world.parties[0].wallet.raise(now, unknown, None, None);
    refused(world.parties[0].wallet.raised(&unknown).cloned().unwrap(), "no such payment");
}

#[test]
fn who_asks_without_being_owed_gets_nothing_and_who_refused_us_is_paid_in_advance_once() {
    // What it provided was paid; a thousandth of what is paid in advance.
    let service = Service { received: Msat(4_000), acknowledged: Msat(4_000), ..Service::default() };
    let mut wallet = Wallet::new(PayConfig { prepay: Sat(4_000), ..config() }, 1, Vec::new());
    let (later, peer) = (Instant(60_000_000), PeerId([7; 32]));
    wallet.handle(Instant(1), WalletEvent::Clock { civil: CIVIL, fee_rate: Some(FeeRate(1_000)) });
    wallet.invoiced(Instant(1), peer, invoice(1));
    let polled = |wallet: &mut Wallet, at: u64, service: Service| {
        wallet.handle(Instant(at), WalletEvent::Clock { civil: CIVIL, fee_rate: Some(FeeRate(1_000)) });
        while let Some(action) = wallet.poll(Instant(at), |_| service) {
            if matches!(action, WalletAction::Save(_)) {
                return true;
            }
        }
        false
    };
    assert!(!polled(&mut wallet, later.0, service));
    wallet.sought(later, peer);
    let little = Service { received: Msat(3_999), acknowledged: Msat(3_999), ..service };
    assert!(!polled(&mut wallet, later.0 + 1, Service::default()), "it never provided anything");
    assert!(!polled(&mut wallet, later.0 + 2, little));
    assert!(polled(&mut wallet, later.0 + 3, service));
    assert_eq!(wallet.sums(&peer).pending, Msat(4_000_000));
    wallet.invoiced(later, peer, invoice(2));
    wallet.handle(later, WalletEvent::Saved);
    polled(&mut wallet, later.0 + 70_000_000, service);
    assert_eq!(wallet.sums(&peer).pending, Msat(4_000_000), "what was paid in advance is used up first");
}

#[test]
fn what_a_peer_paid_in_advance_is_worked_off_and_not_paid_back() {
    let mut wallet = Wallet::new(config(), 1, Vec::new());
    let (peer, outpoint) = (PeerId([7; 32]), Outpoint { txid: Txid([1; 32]), vout: 0 });
    wallet.handle(Instant(1), WalletEvent::Clock { civil: CIVIL, fee_rate: Some(FeeRate(1_000)) });
    wallet.noticed(Instant(1), peer, &Notice { invoice: invoice(1), outpoint });
    let came = vec![("bcrt1p1".to_string(), vec![(outpoint, Sat(5_000), 1)])];
    wallet.handle(Instant(2), WalletEvent::Seen { payments: Vec::new(), came });
    assert_eq!(wallet.sums(&peer).credited, Msat(5_000_000));
    let mut asked = |at: u64, received: u64| {
        wallet.handle(Instant(at), WalletEvent::Clock { civil: CIVIL, fee_rate: Some(FeeRate(1_000)) });
        wallet.invoiced(Instant(at), peer, invoice(2));
        let service = Service { received: Msat(received), ..Service::default() };
        while let Some(action) = wallet.poll(Instant(at + 3_000_000), |_| service) {
            if matches!(action, WalletAction::Save(_)) {
                wallet.handle(Instant(at + 3_000_000), WalletEvent::Saved);
            }
        }
        wallet.sums(&peer).pending
    };
    assert_eq!(asked(10_000_000, 0), Msat::ZERO);
    assert_eq!(asked(20_000_000, 6_000_000), Msat(6_000_000), "what it provided is");
}

#[test]
fn what_was_reserved_before_a_restart_waits_for_the_chain_and_is_then_signed() {
    let output =
        Output { peer: PeerId([7; 32]), value: Sat(5_000), allowed: Sat(0), invoice: invoice(1), outpoint: None };
    let payment = Payment {
        id: PaymentId([1; 16]),
        at: CIVIL,
        outputs: vec![output],
        fee_rate: FeeRate(1_000),
        fee_cap: Sat(250),
        fee_charged: Sat(250),
        fee: Sat(0),
        state: State::Reserved,
        closed: None,
        drawn: Vec::new(),
    };
    let mut wallet = Wallet::new(config(), 1, vec![Row::Payment(payment.clone())]);
    let mut polled = |at: u64, fee_rate: Option<FeeRate>| {
        wallet.handle(Instant(at), WalletEvent::Clock { civil: CIVIL, fee_rate });
        let actions = std::iter::from_fn(|| wallet.poll(Instant(at), |_| Service::default()));
        actions.filter(|action| matches!(action, WalletAction::Prepare(_))).collect::<Vec<_>>()
    };
    assert_eq!(polled(1, None), []);
    assert_eq!(polled(2, Some(FeeRate(1_000))), [WalletAction::Prepare(payment)]);
}

fn numbered(number: u32) -> PeerId {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PeerId(bytes)
}

/// A wallet that is asked for invoices, and the addresses that it made.
struct Till {
    wallet: Wallet,
    civil: u64,
    now: u64,
    made: usize,
}

impl Till {
    fn new() -> Till {
        Till { wallet: Wallet::new(config(), 1, Vec::new()), civil: CIVIL, now: 1, made: 0 }
    }

    /// What a peer is sent that reached its limit. Those of the first thousand never gave anything.
    fn ask(&mut self, number: u32) -> Option<Invoice> {
        (self.now, self.civil) = (self.now + 10_000_000, self.civil + 10);
        let (wallet, now) = (&mut self.wallet, Instant(self.now));
        wallet.handle(now, WalletEvent::Clock { civil: self.civil, fee_rate: Some(FeeRate(1_000)) });
        wallet.owing(now, numbered(number), Msat(1), false, |peer| *peer >= numbered(1_000));
        let mut sent = None;
        while let Some(action) = wallet.poll(now, |_| Service::default()) {
            match action {
                WalletAction::Address(peer) => {
                    self.made += 1;
                    let address = Ok(format!("bcrt1p{}", self.made));
                    wallet.handle(now, WalletEvent::Address { peer, address });
                }
                WalletAction::Save(_) => wallet.handle(now, WalletEvent::Saved),
                WalletAction::Invoice(_, invoice) => sent = Some(invoice),
                WalletAction::Look { .. } => {
                    wallet.handle(now, WalletEvent::Seen { payments: Vec::new(), came: Vec::new() });
                }
                _ => {}
            }
        }
        sent
    }
}

#[test]
fn addresses_are_bounded_whoever_asks_and_false_notices_make_no_more() {
    let mut till = Till::new();
    let first = till.ask(1_000).unwrap();
    assert_eq!(till.ask(1_000).unwrap().address, first.address, "the same until it is paid");
    let mut last = first;
    for _ in 0..10 {
        let outpoint = Outpoint { txid: Txid([1; 32]), vout: 0 };
        till.wallet.noticed(Instant(1), numbered(1_000), &Notice { invoice: last.clone(), outpoint });
        last = till.ask(1_000).unwrap_or(last);
    }
    assert_eq!((till.ask(1_000), till.made), (None, BILLS_PER_PEER_MAX));
    for number in 1_001..1_400 {
        till.ask(number);
    }
    assert_eq!(till.made, BILLS_OPEN_MAX);
}

#[test]
fn strangers_leave_invoices_for_those_that_gave_something_and_have_them_in_turn() {
    let mut till = Till::new();
    let held = (0..400).filter(|number| till.ask(*number).is_some()).count();
    assert_eq!(held, BILLS_STRANGERS_MAX);
    assert!(till.ask(1_000).is_some(), "it provided something");
    assert_eq!(till.ask(500), None, "others have them");
    // They ask again and again, and no invoice ends later for that; a day later somebody else is sent one.
    let first = till.ask(0).unwrap();
    till.civil += 43_200;
    assert_eq!(till.ask(0).unwrap().expires, first.expires);
    assert_eq!(till.ask(500), None);
    till.civil += 43_200;
    assert_eq!(till.ask(0), None, "it had its time");
    assert!(till.ask(500).is_some());
    assert!(till.ask(1).is_some(), "nobody was turned away since");
}

#[test]
fn an_invoice_that_was_forgotten_counts_when_its_debtor_shows_it() {
    let mut wallet = Wallet::new(config(), 1, Vec::new());
    wallet.handle(Instant(1), WalletEvent::Clock { civil: CIVIL, fee_rate: Some(FeeRate(1_000)) });
    let (peer, outpoint) = (PeerId([7; 32]), Outpoint { txid: Txid([1; 32]), vout: 0 });
    let notice = Notice { invoice: invoice(1), outpoint };
    wallet.noticed(Instant(1), peer, &notice);
    let came = vec![("bcrt1p1".to_string(), vec![(outpoint, Sat(5_000), 1)])];
    wallet.handle(Instant(2), WalletEvent::Seen { payments: Vec::new(), came });
    assert_eq!(wallet.sums(&peer).credited, Msat(5_000_000));
    wallet.noticed(Instant(3), PeerId([8; 32]), &notice);
    assert_eq!(wallet.sums(&PeerId([8; 32])).credited, Msat::ZERO, "one address, one debtor");
}
