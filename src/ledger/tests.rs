//! Histories of two ledgers (`world`) against what truly happened, and single properties.

mod world;

use super::*;
use crate::base::amount::Msat;
use crate::base::limit::ACCOUNTS_MAX;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::message::Price;
use crate::wire::receipt::{RECEIPT_AMOUNT_MAX, Receipt};
use proptest::prelude::*;
use world::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn two_ledgers_agree_after_any_history(steps in steps()) {
        let mut world = World::new(false);
        for step in &steps {
            world.act(step);
            world.check();
        }
        world.heal();
        world.check();
        for side in 0..2 {
            let (ours, theirs) = (world.balance(side), world.balance(1 - side));
            // Nothing comes from nothing and nothing is lost: what one owes the other has to get.
            prop_assert_eq!(ours.acknowledged, theirs.received);
            prop_assert_eq!(ours.owed(), -theirs.owed());
            prop_assert_eq!(ours.unacknowledged, Msat::ZERO);
        }
        // And nobody waits for ever: after a rest each is served, or told that its line is reached.
        for side in 0..2 {
            world.ask(side, 1);
            world.rest();
            let waits = world.waits;
            world.ask(side, 1);
            prop_assert_eq!(world.waits, waits);
        }
    }

    #[test]
    fn who_never_acknowledges_gets_its_line_and_no_more(steps in steps()) {
        let mut world = World::new(true);
        for step in &steps {
            world.act(step);
            world.check();
        }
    }
}

#[test]
fn one_sided_service_ends_at_the_line_and_goes_on_once_served() {
    let mut world = World::new(false);
    world.link(true);
    let round = |world: &mut World, to: usize| {
        for _ in 0..60 {
            world.ask(to, 20);
            world.answer(0, true, 4);
            world.answer(0, true, 4);
            for side in 0..2 {
                world.pump(side);
                world.disk(side);
                world.pump(side);
            }
            while !world.notes.is_empty() {
                world.note(0, false);
            }
            world.check();
        }
    };
    round(&mut world, 1);
    assert_eq!(world.arrived, [LINE, 0]);
    assert!(world.refusals > 0);
    round(&mut world, 0);
    round(&mut world, 1);
    // What it served back, an eighth of that more for its record.
    assert_eq!(world.arrived[0], world.arrived[1] + LINE + world.arrived[1] / 8 / 20 * 20);
}

/// Takes whatever it can get and acknowledges nothing, over and over; in between the link ends, or its server dies.
fn plundered(rounds: u64, crash: bool) -> u64 {
    let mut world = World::new(true);
    for _ in 0..rounds {
        world.link(true);
        for _ in 0..20 {
            world.ask(1, 20);
            world.answer(0, true, 4);
            world.answer(0, true, 4);
            for side in 0..2 {
                world.pump(side);
                world.disk(side);
            }
            while !world.notes.is_empty() {
                world.note(0, false);
            }
            world.check();
        }
        // A link on which nothing is asked settles what came over the last one.
        world.link(false);
        world.link(true);
        world.sides[1].ledger.open(name(0));
        world.pump(1);
        while !world.notes.is_empty() {
            world.note(0, false);
        }
        if crash {
            world.crash(0, true, true);
        } else {
            world.link(false);
        }
    }
    world.arrived[0]
}

#[test]
fn neither_new_links_nor_crashes_of_the_server_make_it_forget_what_was_never_acknowledged() {
    assert_eq!(plundered(20, false), LINE);
    assert!(plundered(20, true) <= LINE + 20 * (WINDOW / 4));
    assert!(plundered(20, true) >= LINE / 2, "it is served at all");
}

#[test]
fn an_older_copy_of_a_ledger_learns_from_what_it_signed() {
    let mut world = World::new(false);
    world.link(true);
    let settle = |world: &mut World| {
        for _ in 0..4 {
            for side in 0..2 {
                world.pump(side);
                world.disk(side);
            }
            while !world.notes.is_empty() {
                world.note(0, false);
            }
        }
    };
    let serve = |world: &mut World, count: usize| {
        for _ in 0..count {
            world.ask(1, 40);
            settle(world);
            world.answer(0, true, 4);
            world.answer(0, true, 4);
            settle(world);
        }
    };
    serve(&mut world, 3);
    let old = world.sides[1].disk.clone();
    serve(&mut world, 4);
    let received = world.balance(1).received;
    world.sides[1].disk = old;
    world.crash(1, true, true);
    assert!(world.balance(1).received < received);
    world.link(true);
    let before = world.arrived[0];
    while world.arrived[0] == before {
        serve(&mut world, 1);
    }
    assert_eq!(world.balance(1).received, received.saturating_add(Msat(40)));
    assert_eq!(world.balance(0).acknowledged, world.balance(1).received);
}

#[test]
fn an_answer_dearer_than_its_ceiling_is_not_held() {
    let mut ledger = Ledger::new(config(), &[]);
    ledger.link_up(name(1));
    ledger.greeted(name(1), 0);
    assert_eq!(ledger.hold(Instant(1), HoldId(1), name(1), 50, Msat::ZERO, Msat(40)), Verdict::Price(Msat(50)));
    assert_eq!(
        ledger.hold(Instant(1), HoldId(1), name(1), 50, Msat::ZERO, Msat(50)),
        Verdict::Wait,
        "not synchronised yet"
    );
}

#[test]
fn what_was_lent_for_nothing_is_there_for_the_next() {
    let config = CreditConfig { line_bytes: 0, newcomer_bytes: 50, ..config() };
    let mut ledger = Ledger::new(config, &[]);
    for side in 0..2 {
        ledger.link_up(name(side));
        ledger.greeted(name(side), 0);
        ledger.acknowledged(name(side), &Receipt::unsigned(0, Msat::ZERO), true);
    }
    let ask = |ledger: &mut Ledger, number, side, bytes| {
        let verdict = ledger.hold(Instant(1), HoldId(number), name(side), bytes, Msat::ZERO, Msat(bytes));
        while ledger.poll(Instant(1)).is_some() {
            ledger.booked();
        }
        if verdict == Verdict::Wait {
            ledger.hold(Instant(1), HoldId(number), name(side), bytes, Msat::ZERO, Msat(bytes))
        } else {
            verdict
        }
    };
    assert_eq!(ask(&mut ledger, 1, 0, 50), Verdict::Held(Msat(50)));
    assert_eq!(ask(&mut ledger, 2, 1, 1), Verdict::Line { owed: Msat(0), line: Msat(0) });
    ledger.post(HoldId(1), Msat(20), false);
    assert_eq!(ask(&mut ledger, 3, 1, 31), Verdict::Line { owed: Msat(0), line: Msat(0) });
    assert_eq!(ask(&mut ledger, 4, 1, 30), Verdict::Held(Msat(30)));
    assert_eq!(ask(&mut ledger, 5, 0, 1), Verdict::Line { owed: Msat(20), line: Msat(20) });
}

/// Linked peers of this rank, of whom nothing is known.
fn strangers(ledger: &mut Ledger, sides: std::ops::Range<usize>, rank: u8) {
    for side in sides {
        ledger.link_up(name(side));
        ledger.greeted(name(side), rank);
        ledger.acknowledged(name(side), &Receipt::unsigned(0, Msat::ZERO), true);
    }
}

/// How much a peer is served that takes what it can get, and acknowledges it.
fn taken(ledger: &mut Ledger, now: Instant, side: usize, number: &mut u64) -> u64 {
    let before = ledger.proof(&name(side)).map_or(0, |proof| proof.amount.0);
    let mut sum = before;
    for _ in 0..1_000 {
        *number += 1;
        if let Verdict::Held(Msat(10)) = ledger.hold(now, HoldId(*number), name(side), 10, Msat::ZERO, Msat(10)) {
            ledger.post(HoldId(*number), Msat(10), false);
            sum += 10;
            let receipt = Receipt { sequence: *number, amount: Msat(sum), signature: [0; 64] };
            ledger.acknowledged(name(side), &receipt, true);
        }
        while ledger.poll(now).is_some() {
            ledger.booked();
        }
    }
    sum - before
}

#[test]
fn a_rank_alone_is_worth_a_part_of_one_daily_sum_however_many_there_are() {
    let mut ledger = Ledger::new(config(), &[]);
    strangers(&mut ledger, 0..60, 1);
    let (mut number, now) = (0, Instant(1));
    let mut all =
        |ledger: &mut Ledger, now| (0..60).map(|side| taken(ledger, now, side, &mut number)).collect::<Vec<u64>>();
    let first = all(&mut ledger, now);
    assert!(first.iter().all(|taken| *taken <= LINE), "{first:?}");
    assert_eq!(first.iter().sum::<u64>(), 40 * LINE, "sixty names got {first:?}");
    assert_eq!(all(&mut ledger, now).iter().sum::<u64>(), 0);
    // What a peer gives opens its line, as far as its rank goes, whatever strangers had of the day.
    ledger.received(now, name(59), 100, Msat(100));
    let mut number = 1 << 20;
    assert_eq!(
        taken(&mut ledger, now, 59, &mut number),
        100 + 200 + 10,
        "the same, twice as much, and an eighth in tens"
    );
    // The next day there is as much for others, and nothing more for those who had it.
    let tomorrow = now.after(std::time::Duration::from_secs(86_400));
    assert_eq!(taken(&mut ledger, tomorrow, 0, &mut number), 0);
    assert_eq!(taken(&mut ledger, tomorrow, 58, &mut number), LINE);
}

#[test]
fn who_is_known_to_others_is_lent_to_as_far_as_its_rank_goes() {
    let mut ledger = Ledger::new(config(), &[]);
    strangers(&mut ledger, 0..43, 1);
    let (mut number, now) = (0, Instant(1));
    (0..40).for_each(|side| assert_eq!(taken(&mut ledger, now, side, &mut number), LINE));
    assert_eq!(taken(&mut ledger, now, 40, &mut number), 0);
    ledger.trust(name(40), 0);
    assert_eq!(taken(&mut ledger, now, 40, &mut number), 0);
    ledger.trust(name(40), 20);
    let known = taken(&mut ledger, now, 40, &mut number);
    assert!((20..LINE).contains(&known), "{known}");
    ledger.trust(name(41), u64::MAX);
    assert_eq!(taken(&mut ledger, now, 41, &mut number), LINE);
    // Without a rank nobody's word helps, nor for a peer that is not there.
    ledger.greeted(name(42), 0);
    ledger.trust(name(42), 1 << 20);
    ledger.trust(name(90), 1 << 20);
    assert_eq!(taken(&mut ledger, now, 42, &mut number), 0);
    assert!(ledger.balances().iter().all(|balance| balance.peer != name(90)));
}

#[test]
fn receipts_of_those_who_gave_us_something_are_shown_first() {
    let mut ledger = Ledger::new(config(), &[]);
    strangers(&mut ledger, 0..4, 1);
    let receipt = |amount| Receipt { sequence: 1, amount: Msat(amount), signature: [0; 64] };
    for (side, amount) in [(0, 50), (1, 70), (2, 20)] {
        ledger.acknowledged(name(side), &receipt(amount), true);
    }
    ledger.received(Instant(1), name(2), 10, Msat(10));
    let order: Vec<PeerId> = ledger.testimony(9).into_iter().map(|(peer, _)| peer).collect();
    assert_eq!(order, [2, 1, 0].map(name));
    assert_eq!(ledger.testimony(1), [(name(2), receipt(20))]);
}

#[test]
fn small_answers_cost_in_sum_what_their_bytes_cost() {
    let price = Price { per_gib: Msat(10_000), per_request: Msat::ZERO };
    let mut ledger = Ledger::new(CreditConfig { price, ..CreditConfig::default() }, &[]);
    ledger.link_up(name(1));
    ledger.greeted(name(1), 0);
    ledger.acknowledged(name(1), &Receipt::unsigned(0, Msat::ZERO), true);
    let mut sum = 0;
    for number in 0..6400 {
        let ceiling = price.of(16 << 10);
        if let Verdict::Held(charge) = ledger.hold(Instant(1), HoldId(number), name(1), 16 << 10, Msat::ZERO, ceiling) {
            sum += charge.0;
            ledger.post(HoldId(number), charge, false);
            ledger.acknowledged(name(1), &Receipt::unsigned(number, Msat(sum)), true);
            while ledger.poll(Instant(1)).is_some() {
                ledger.booked();
            }
        }
    }
    assert!((970..=976).contains(&sum), "100 MiB at 10 sat/GiB cost {sum} msat");
}

#[test]
fn who_invents_debts_has_nobody_forgotten() {
    let mut ledger = Ledger::new(config(), &[]);
    let peer = |number: usize| {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        PeerId(bytes)
    };
    let receipt = |amount| Receipt { sequence: 1, amount: Msat(amount), signature: [0; 64] };
    ledger.link_up(name(0));
    ledger.greeted(name(0), 1);
    ledger.acknowledged(name(0), &Receipt::unsigned(0, Msat::ZERO), true);
    assert_eq!(ledger.hold(Instant(1), HoldId(1), name(0), 20, Msat::ZERO, Msat(20)), Verdict::Held(Msat(20)));
    ledger.post(HoldId(1), Msat(20), false);
    ledger.acknowledged(name(0), &receipt(20), true);
    ledger.link_down(&name(0));
    for number in 0..ACCOUNTS_MAX + 10 {
        ledger.link_up(peer(number));
        ledger.acknowledged(peer(number), &receipt(1 << 60), true);
        ledger.link_down(&peer(number));
        while ledger.poll(Instant(1)).is_some() {
            ledger.booked();
        }
    }
    let balances = ledger.balances();
    assert_eq!(balances.len(), ACCOUNTS_MAX, "accounts are bounded");
    assert!(balances.iter().any(|balance| balance.peer == name(0) && balance.owed() == 20));
    assert_eq!(ledger.stats().owed_to_us, Msat(20), "and nothing is owed by a stranger's word");
}

/// A linked peer that owes 400 of its line of 400, all of it acknowledged.
fn at_its_line() -> Ledger {
    let mut ledger = Ledger::new(config(), &[]);
    ledger.link_up(name(1));
    ledger.greeted(name(1), 1);
    ledger.acknowledged(name(1), &Receipt::unsigned(0, Msat::ZERO), true);
    for number in 0..LINE / 50 {
        assert_eq!(try_hold(&mut ledger, number, 50), Verdict::Held(Msat(50)));
        ledger.post(HoldId(number), Msat(50), false);
        ledger.acknowledged(
            name(1),
            &Receipt { sequence: 1, amount: Msat(50 * (number + 1)), signature: [0; 64] },
            true,
        );
    }
    ledger
}

/// Asks, and once more after what it waits for is written down.
fn try_hold(ledger: &mut Ledger, number: u64, bytes: u64) -> Verdict {
    let verdict = ledger.hold(Instant(1), HoldId(number), name(1), bytes, Msat::ZERO, Msat(bytes));
    while ledger.poll(Instant(1)).is_some() {
        ledger.booked();
    }
    if verdict == Verdict::Wait {
        ledger.hold(Instant(1), HoldId(number), name(1), bytes, Msat::ZERO, Msat(bytes))
    } else {
        verdict
    }
}

#[test]
fn who_pays_is_served_again_until_the_chain_takes_it_back() {
    let mut ledger = at_its_line();
    assert_eq!(try_hold(&mut ledger, 100, 1), Verdict::Line { owed: Msat(LINE), line: Msat(LINE) });
    let paid = Payments { credited: Msat(80), ..Payments::default() };
    for _ in 0..2 {
        // Told again it changes nothing.
        ledger.pay(name(1), paid);
    }
    assert_eq!(ledger.balances()[0].owed(), LINE as i64 - 80);
    // Its line grows by an eighth of what it paid, as if it had served.
    for number in [1, 2] {
        assert_eq!(try_hold(&mut ledger, 100 + number, 45), Verdict::Held(Msat(45)));
        ledger.post(HoldId(100 + number), Msat(45), false);
        let receipt = Receipt { sequence: 2, amount: Msat(LINE + 45 * number), signature: [0; 64] };
        ledger.acknowledged(name(1), &receipt, true);
    }
    assert_eq!(try_hold(&mut ledger, 102, 1), Verdict::Line { owed: Msat(LINE + 10), line: Msat(LINE + 10) });
    ledger.pay(name(1), Payments::default());
    assert_eq!(try_hold(&mut ledger, 103, 1), Verdict::Line { owed: Msat(LINE + 90), line: Msat(LINE) });
}

#[test]
fn what_we_are_about_to_pay_counts_against_its_line_and_not_yet_in_the_balance() {
    let mut ledger = Ledger::new(CreditConfig { line_bytes: 40, ..config() }, &[]);
    ledger.link_up(name(1));
    ledger.greeted(name(1), 1);
    ledger.acknowledged(name(1), &Receipt::unsigned(0, Msat::ZERO), true);
    ledger.received(Instant(1), name(1), 100, Msat(100));
    let payments = Payments { pending: Msat(100), ..Payments::default() };
    ledger.pay(name(1), payments);
    assert_eq!(ledger.balances()[0].owed(), -100);
    let reached = Verdict::Line { owed: Msat(0), line: Msat(40 + 100 / 8) };
    assert_eq!(try_hold(&mut ledger, 1, 40 + 100 / 8 + 1), reached);
    ledger.pay(name(1), Payments { paid: Msat(100), ..Payments::default() });
    assert_eq!(ledger.balances()[0].owed(), 0);
    assert_eq!(try_hold(&mut ledger, 2, 40 + 100 / 8 + 1), reached);
    assert!(matches!(try_hold(&mut ledger, 3, 40 + 100 / 8), Verdict::Held(_)));
}

#[test]
fn what_we_paid_in_advance_uses_up_none_of_its_line() {
    let mut ledger = Ledger::new(CreditConfig { line_bytes: 40, ..config() }, &[]);
    ledger.link_up(name(1));
    ledger.greeted(name(1), 1);
    ledger.acknowledged(name(1), &Receipt::unsigned(0, Msat::ZERO), true);
    ledger.received(Instant(1), name(1), 16, Msat(16));
    ledger.pay(name(1), Payments { paid: Msat(1_000), ..Payments::default() });
    assert_eq!(ledger.balances()[0].owed(), 984, "it owes us service");
    let reached = Verdict::Line { owed: Msat(0), line: Msat(40 + 16 / 8) };
    assert_eq!(try_hold(&mut ledger, 1, 40 + 16 / 8 + 1), reached, "what it gave us is paid");
    assert!(matches!(try_hold(&mut ledger, 2, 40 + 16 / 8), Verdict::Held(_)));
}

#[test]
fn what_was_paid_is_there_without_an_account() {
    let mut ledger = Ledger::new(config(), &[]);
    ledger.pay(name(1), Payments { credited: Msat(70), ..Payments::default() });
    assert_eq!(ledger.balances().iter().map(|balance| balance.owed()).collect::<Vec<_>>(), [-70]);
}

#[test]
fn what_nothing_waits_for_is_written_down_soon() {
    let mut ledger = Ledger::new(config(), &[]);
    ledger.link_up(name(0));
    ledger.acknowledged(name(0), &Receipt { sequence: 1, amount: Msat(20), signature: [0; 64] }, true);
    assert_eq!(ledger.poll(Instant(1)), None);
    let at = ledger.poll_timeout().unwrap();
    let Some(LedgerAction::Book(rows)) = ledger.poll(at) else { panic!("nothing written down") };
    assert_eq!((rows.len(), rows[0].0), (1, name(0)));
    ledger.booked();
    assert_eq!((ledger.poll(at), ledger.poll_timeout()), (None, None));
}

#[test]
fn no_amount_overflows() {
    let price = Price { per_gib: Msat(u64::MAX), per_request: Msat(u64::MAX) };
    let mut ledger = Ledger::new(CreditConfig { price, ..CreditConfig::default() }, &[]);
    ledger.link_up(name(0));
    ledger.greeted(name(0), 64);
    ledger.acknowledged(name(0), &Receipt { sequence: 1, amount: RECEIPT_AMOUNT_MAX, signature: [0; 64] }, true);
    let verdict = ledger.hold(Instant(1), HoldId(1), name(0), u64::MAX, Msat::ZERO, Msat(u64::MAX));
    assert!(matches!(verdict, Verdict::Line { .. }), "{verdict:?}");
    ledger.received(Instant(1), name(0), u64::MAX, RECEIPT_AMOUNT_MAX);
    ledger.received(Instant(1), name(0), u64::MAX, Msat(u64::MAX));
    assert_eq!(ledger.balances()[0].received, RECEIPT_AMOUNT_MAX);
    let rows = ledger.close();
    assert!(rows.iter().all(|(_, row)| row.is_some_and(|row| Record::from_bytes(&row.to_bytes()) == Ok(row))));
}
