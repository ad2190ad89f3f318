//! The fetch core against virtual providers that deliver, stall, lie, vanish and refuse, in virtual time.

mod world;

use super::core::{Fetch, FetchAction, FetchConfig};
use super::want::{Urgency, Want, WantFailureKind, WantId};
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::random::Random;
use crate::base::range::{SliceRange, slice_count};
use crate::base::time::Instant;
use crate::wire::call::CallId;
use crate::wire::message::{Price, Refusal};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use world::*;

const MIB: u64 = 1 << 20;

#[test]
fn a_lone_chunk_of_unknown_length_comes_from_a_located_provider() {
    let mut world = World::new(1);
    let ids = world.chunks(0..1, 40_000);
    world.provider(1, Manner::Honest, 10 * MIB, 20, &ids);
    world.want(Want { needs: vec![], ..stripe(1, &ids, 1, 0, Urgency::Reader, ms(5000)) });
    world.run(ms(6000));
    let (at, result) = world.result(1);
    let ok = result.as_ref().unwrap();
    assert_eq!(ok.have, [(0, SliceRange { first: 0, count: 3 })]);
    assert_eq!(ok.providers[0].peer, peer(1));
    assert!(*at < ms(120), "{at:?}");
}

#[test]
fn a_likely_peer_is_asked_without_a_lookup() {
    let mut world = World::new(1);
    let ids = world.chunks(0..1, 1 << 20);
    world.provider(1, Manner::Honest, 10 * MIB, 20, &ids);
    world.link(1);
    let needs = vec![(0, SliceRange { first: 3, count: 1 })];
    world.want(Want { needs, likely: vec![contact(1)], ..stripe(1, &ids, 1, 1 << 20, Urgency::Reader, ms(5000)) });
    world.run(ms(6000));
    assert!(world.result(1).0 < ms(23));
    assert_eq!(world.locates, 0);
}

#[test]
fn the_first_link_ends_the_pause_after_a_lookup_that_had_nobody_to_ask() {
    let mut world = World::new(1);
    let ids = world.chunks(0..1, 40_000);
    world.provider(1, Manner::Honest, 10 * MIB, 20, &ids);
    world.announce = false;
    world.want(Want { needs: vec![], ..stripe(1, &ids, 1, 0, Urgency::Reader, ms(5000)) });
    world.run(ms(30));
    assert_eq!(world.locates, 1);
    world.announce = true;
    world.link(1);
    world.run(ms(6000));
    assert!(world.result(1).0 < ms(150), "{:?}", world.result(1));
}

#[test]
fn four_providers_add_up() {
    for rates in [[12, 12, 12, 12], [20, 10, 5, 5]] {
        let mut world = World::new(3);
        let mut all = Vec::new();
        for number in 0..16 {
            let ids = world.chunks(number * 100..number * 100 + 12, 1 << 20);
            all.push(ids);
        }
        let every: Vec<ChunkId> = all.iter().flatten().copied().collect();
        for (n, rate) in (1..).zip(rates) {
            world.provider(n, Manner::Honest, rate * MIB, 50, &every);
            world.link(n);
        }
        let mut last = world.now;
        // Four stripes ahead at a time, as a reader's window asks for them.
        for (number, ids) in all.iter().enumerate() {
            let id = number as u64;
            let likely = (1..5).map(contact).collect();
            world.want(Want { likely, ..stripe(id, ids, 8, 1 << 20, Urgency::Ahead, ms(60_000)) });
            if number >= 3 {
                while !world.done.contains_key(&WantId(id - 3)) {
                    last = world.now;
                    world.run(Instant(last.0 + 1000));
                }
            }
        }
        world.run(ms(30_000));
        let end = world.done.values().map(|(at, _)| *at).max().unwrap();
        assert!(world.done.values().all(|(_, result)| result.is_ok()) && world.done.len() == 16);
        let sum: u64 = rates.iter().sum();
        let percent = 128 * 100 * 1_000_000 / sum / end.0;
        let stats = world.fetch.stats();
        assert!(percent >= 88, "{percent} % of {sum} MiB/s, {stats:?}");
        assert!(stats.double_bytes * 100 <= stats.delivered_bytes * 6, "{stats:?}");
        let _ = last;
    }
}

#[test]
fn a_slow_host_among_twelve_is_not_waited_for() {
    let mut world = World::new(11);
    let stripes: Vec<Vec<ChunkId>> = (0..16).map(|n| world.chunks(n * 100..n * 100 + 12, 1 << 20)).collect();
    for n in 0..12u8 {
        let held: Vec<ChunkId> = stripes.iter().map(|ids| ids[usize::from(n)]).collect();
        let rate = if n == 3 { MIB / 4 } else { 12 * MIB };
        world.provider(n + 1, Manner::Honest, rate, 50, &held);
        world.link(n + 1);
    }
    for (number, ids) in stripes.iter().enumerate() {
        let id = number as u64;
        let likely = (1..13).map(contact).collect();
        world.want(Want { likely, ..stripe(id, ids, 8, 1 << 20, Urgency::Ahead, ms(200_000)) });
        if number >= 3 {
            while !world.done.contains_key(&WantId(id - 3)) {
                world.run(Instant(world.now.0 + 1000));
            }
        }
    }
    world.run(ms(200_000));
    assert!(world.done.values().all(|(_, result)| result.is_ok()) && world.done.len() == 16);
    let end = world.done.values().map(|(at, _)| *at).max().unwrap();
    assert!(end < ms(4000), "{end:?} {:?}", world.fetch.stats());
}

#[test]
fn two_of_four_that_fall_silent_cost_little() {
    let mut world = World::new(5);
    let ids: Vec<ChunkId> = world.chunks(0..64, 1 << 20);
    for n in 1..5 {
        let manner = if n > 2 { Manner::Tires(300) } else { Manner::Honest };
        world.provider(n, manner, 12 * MIB, 50, &ids);
        world.link(n);
    }
    for (number, part) in ids.chunks(8).enumerate() {
        let likely = (1..5).map(contact).collect();
        world.want(Want { likely, ..stripe(number as u64, part, 8, 1 << 20, Urgency::Ahead, ms(60_000)) });
    }
    world.run(ms(60_000));
    assert!(world.done.values().all(|(_, result)| result.is_ok()) && world.done.len() == 8);
    let end = world.done.values().map(|(at, _)| *at).max().unwrap();
    // 600 slices come from the two that tire, the rest at 24 MiB/s.
    let ideal = 50_000
        + 300 * SLICE_BYTES as u64 * 1_000_000 / (12 * MIB)
        + (64 * MIB - 1200 * SLICE_BYTES as u64) * 1_000_000 / (24 * MIB);
    assert!(end.0 < ideal + 500_000, "{} ms, ideal {} ms", end.0 / 1000, ideal / 1000);
}

#[test]
fn a_stalling_peer_costs_a_reader_one_hedge_delay() {
    let mut world = World::new(2);
    let ids = world.chunks(0..1, 1 << 20);
    for (n, manner) in [(1, Manner::Stalls), (2, Manner::Honest)] {
        world.provider(n, manner, 12 * MIB, 20, &ids);
        world.link(n);
    }
    // The one that stalls looks better.
    world.fetch.peer_up(world.now, peer(1), None);
    for (id, first) in (0..8u8).enumerate() {
        let needs = vec![(0, SliceRange { first, count: 1 })];
        let likely = vec![contact(1), contact(2)];
        world.want(Want { needs, likely, ..stripe(id as u64, &ids, 1, 1 << 20, Urgency::Reader, ms(9000)) });
    }
    world.run(ms(10_000));
    for id in 0..8 {
        assert!(world.result(id).0 < ms(400), "{:?}", world.result(id).0);
    }
}

#[test]
fn who_runs_dry_takes_over_the_last_of_what_another_still_has_to_send() {
    let mut world = World::new(8);
    let ids: Vec<ChunkId> = world.chunks(0..24, 1 << 20);
    for n in 1..4 {
        world.provider(n, Manner::Honest, 12 * MIB, 50, &ids);
        world.link(n);
    }
    let want = |world: &mut World, part: std::ops::Range<usize>, id: u64| {
        let part = &ids[part];
        let likely = (1..4).map(contact).collect();
        world.want(Want { likely, ..stripe(id, part, part.len() as u8, 1 << 20, Urgency::Reader, ms(60_000)) });
    };
    want(&mut world, 0..12, 1);
    world.run(ms(200));
    // From now on one is four times as slow as it was found to be.
    world.providers.get_mut(&peer(1)).unwrap().rate = 3 * MIB;
    want(&mut world, 12..24, 2);
    world.run(ms(60_000));
    let end = world.done.values().map(|(at, _)| *at).max().unwrap();
    assert!(world.done.values().all(|(_, result)| result.is_ok()) && world.done.len() == 2);
    // Two and a quarter lines for all, and a little.
    let ideal = 24 * 1000 / 27 + 150;
    assert!(end.0 / 1000 < ideal + 200, "{} ms, ideal {ideal} ms, {:?}", end.0 / 1000, world.fetch.stats());
}

/// Milliseconds that a reader needs for so many slices of a chunk which those who cannot be reached are said to hold, too.
fn read_beside_gone(gone: u8, linked: bool, count: u8) -> u64 {
    let mut world = World::new(6);
    let ids = world.chunks(0..1, 1 << 20);
    world.provider(9, Manner::Honest, 2 * MIB, 20, &ids);
    for n in 1..=gone {
        world.provider(n, Manner::Gone, 12 * MIB, 20, &ids);
    }
    if linked {
        world.link(9);
    }
    let needs = vec![(0, SliceRange { first: 0, count })];
    world.want(Want { needs, ..stripe(1, &ids, 1, 1 << 20, Urgency::Reader, ms(9000)) });
    world.run(ms(10_000));
    assert!(world.result(1).1.is_ok());
    assert!(world.fetch.stats().double_bytes <= 16 * SLICE_BYTES as u64, "{:?}", world.fetch.stats());
    world.result(1).0.0 / 1000
}

#[test]
fn a_dial_that_nobody_answers_costs_a_reader_nothing_while_a_source_is_linked() {
    // The search, a round trip, and half a second of the line.
    let alone = read_beside_gone(0, true, 64);
    for gone in 1..4 {
        let took = read_beside_gone(gone, true, 64);
        assert!(took <= alone + 20, "{took} ms beside {gone}, {alone} ms alone");
    }
}

#[test]
fn two_are_dialled_at_once_for_a_short_read_when_nobody_is_linked() {
    let alone = read_beside_gone(0, false, 8);
    let took = read_beside_gone(1, false, 8);
    assert!(took <= alone + 20, "{took} ms, {alone} ms alone");
}

#[test]
fn four_of_twelve_hosts_gone_are_replaced_by_parity() {
    let mut world = World::new(4);
    let ids = world.chunks(0..12, 256 << 10);
    for (n, id) in ids.iter().enumerate() {
        let manner = if n < 4 { Manner::Gone } else { Manner::Honest };
        world.provider(n as u8 + 1, manner, 10 * MIB, 30, &[*id]);
    }
    world.want(stripe(1, &ids, 8, 256 << 10, Urgency::Reader, ms(10_000)));
    world.run(ms(11_000));
    let (at, result) = world.result(1);
    let ok = result.as_ref().unwrap();
    assert_eq!(ok.have.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (4..12).collect::<Vec<_>>());
    assert!(*at < ms(900), "{at:?}");
    // One more gone: it cannot be had, and that is said in bounded time.
    let mut world = World::new(4);
    let ids = world.chunks(0..12, 256 << 10);
    for (n, id) in ids.iter().enumerate() {
        let manner = if n < 5 { Manner::Gone } else { Manner::Honest };
        world.provider(n as u8 + 1, manner, 10 * MIB, 30, &[*id]);
    }
    world.provider(99, Manner::Honest, 10 * MIB, 30, &[]);
    world.link(99);
    world.want(stripe(1, &ids, 8, 256 << 10, Urgency::Reader, ms(60_000)));
    world.run(ms(61_000));
    let (at, result) = world.result(1);
    let failure = result.as_ref().unwrap_err();
    assert_eq!(failure.kind, WantFailureKind::NotFound);
    assert_eq!((failure.found, failure.needed, failure.missing.len()), (7, 8, 5));
    assert!(*at < ms(30_000), "{at:?}");
}

#[test]
fn false_bytes_are_blamed_once_and_the_read_goes_on() {
    let mut world = World::new(6);
    let ids = world.chunks(0..8, 1 << 20);
    world.provider(1, Manner::Lies, 90 * MIB, 1, &ids);
    world.provider(2, Manner::Honest, 10 * MIB, 30, &ids);
    world.link(1);
    let likely = vec![contact(1), contact(2)];
    world.want(Want { likely, ..stripe(1, &ids, 8, 1 << 20, Urgency::Reader, ms(9000)) });
    world.run(ms(10_000));
    assert!(world.result(1).1.is_ok());
    assert_eq!(world.blamed.len(), 1);
    // With nobody honest it is damage, not absence.
    let mut world = World::new(6);
    let ids = world.chunks(0..1, 1 << 20);
    world.provider(1, Manner::Lies, 90 * MIB, 1, &ids);
    world.provider(2, Manner::Honest, 90 * MIB, 1, &[]);
    world.link(2);
    world.want(stripe(1, &ids, 1, 1 << 20, Urgency::Reader, ms(9000)));
    world.run(ms(10_000));
    assert_eq!(world.result(1).1.as_ref().unwrap_err().kind, WantFailureKind::Damaged);
}

#[test]
fn nobody_at_all_is_a_timeout_and_a_price_is_named() {
    let mut world = World::new(7);
    let ids = world.chunks(0..1, 1 << 20);
    world.want(stripe(1, &ids, 1, 1 << 20, Urgency::Reader, ms(3000)));
    world.run(ms(10_000));
    let (at, result) = world.result(1);
    assert_eq!((*at, result.as_ref().unwrap_err().kind), (ms(3000), WantFailureKind::Timeout));
    let mut world = World::new(7);
    let ids = world.chunks(0..1, 1 << 20);
    world.provider(1, Manner::Prices, MIB, 10, &ids);
    world.link(1);
    world.want(stripe(1, &ids, 1, 1 << 20, Urgency::Reader, ms(30_000)));
    world.run(ms(40_000));
    let (_, result) = world.result(1);
    assert_eq!(result.as_ref().unwrap_err().kind, WantFailureKind::Price(Refusal::Price));
}

#[test]
fn who_owes_us_enough_is_asked_as_if_it_cost_nothing() {
    let asked = |balance: i64| {
        let mut world = World::new(7);
        let ids = world.chunks(0..1, 1 << 20);
        world.fetch.set_price_max(world.now, Price { per_gib: Msat(32_768), ..Price::default() });
        for (n, rtt, price) in [(1, 20, 32_768), (2, 60, 0)] {
            world.provider(n, Manner::Honest, 10 * MIB, rtt, &ids);
            world.link(n);
            world.fetch.priced(world.now, peer(n), Price { per_gib: Msat(price), ..Price::default() });
        }
        world.fetch.owed(&peer(1), balance);
        let needs = vec![(0, SliceRange { first: 0, count: 8 })];
        world.want(Want { needs, ..stripe(1, &ids, 1, 1 << 20, Urgency::Bulk, ms(9000)) });
        world.run(ms(10_000));
        assert!(world.result(1).1.is_ok());
        world.asked.iter().map(|(who, count)| (*who, *count)).collect::<Vec<_>>()
    };
    assert_eq!(asked(0), [(peer(2), 1)]);
    assert_eq!(asked(1), [(peer(2), 1)], "a slice may cost less than that, a piece does not");
    assert_eq!(asked(1_000), [(peer(1), 1)]);
}

#[test]
fn to_whom_we_owe_much_is_asked_less() {
    let asked = |balance: i64| {
        let mut world = World::new(7);
        let ids = world.chunks(0..1, 1 << 20);
        let price = Price { per_gib: Msat(32_768), ..Price::default() };
        world.fetch.set_price_max(world.now, price);
        for (n, rtt) in [(1, 20), (2, 40)] {
            world.provider(n, Manner::Honest, 10 * MIB, rtt, &ids);
            world.link(n);
            world.fetch.priced(world.now, peer(n), price);
        }
        world.fetch.owed(&peer(1), balance);
        let needs = vec![(0, SliceRange { first: 0, count: 8 })];
        world.want(Want { needs, ..stripe(1, &ids, 1, 1 << 20, Urgency::Bulk, ms(9000)) });
        world.run(ms(10_000));
        assert!(world.result(1).1.is_ok());
        world.asked.iter().map(|(who, count)| (*who, *count)).collect::<Vec<_>>()
    };
    // A GiB costs 32,768: 256 MiB a quarter of that.
    assert_eq!(asked(0), [(peer(1), 1)]);
    assert_eq!(asked(-1_000), [(peer(1), 1)]);
    assert_eq!(asked(-3 * 8_192), [(peer(2), 1)]);
}

#[test]
fn wants_for_the_same_slices_share_one_request() {
    let mut world = World::new(8);
    let ids = world.chunks(0..1, 1 << 20);
    world.provider(1, Manner::Honest, 10 * MIB, 30, &ids);
    world.link(1);
    for id in 0..5 {
        let needs = vec![(0, SliceRange { first: 0, count: 4 })];
        let likely = vec![contact(1)];
        world.want(Want { needs, likely, ..stripe(id, &ids, 1, 1 << 20, Urgency::Reader, ms(9000)) });
    }
    world.fetch.unwant(world.now, WantId(0));
    world.run(ms(10_000));
    assert_eq!(world.asked[&peer(1)], 1);
    assert_eq!(world.done.len(), 4);
}

#[test]
fn a_chunk_of_unknown_length_is_asked_of_one_peer_as_a_whole() {
    let mut world = World::new(12);
    let ids = world.chunks(0..1, 6_000);
    for n in 1..6 {
        world.provider(n, Manner::Honest, 10 * MIB, 30, &ids);
        world.link(n);
    }
    world.fetch.providers(world.now, ids[0], &(1..6).map(contact).collect::<Vec<_>>());
    world.want(Want { needs: vec![], ..stripe(1, &ids, 1, 0, Urgency::Reader, ms(9000)) });
    world.run(ms(10_000));
    assert!(world.result(1).1.is_ok());
    assert_eq!(world.asked.values().sum::<u64>(), 1, "what lies beyond its end is asked of nobody");
}

#[test]
fn a_peer_that_stalled_is_not_asked_again_because_its_calls_were_given_up() {
    let mut world = World::new(13);
    let ids = world.chunks(0..4, 256 << 10);
    world.provider(1, Manner::Stalls, 50 * MIB, 5, &ids);
    world.provider(2, Manner::Honest, 5 * MIB, 60, &ids);
    world.link(1);
    world.link(2);
    for (number, id) in ids.iter().enumerate() {
        let likely = vec![contact(1), contact(2)];
        let end = world.in_us(9_000_000);
        world.want(Want { likely, ..stripe(number as u64, &[*id], 1, 256 << 10, Urgency::Reader, end) });
        while !world.done.contains_key(&WantId(number as u64)) {
            world.run(world.in_us(1000));
        }
    }
    assert!(world.done.values().all(|(_, result)| result.is_ok()));
    assert!(world.now < ms(1500), "{:?}", world.now);
    assert!(world.asked[&peer(1)] <= 4, "{:?}", world.asked);
}

#[test]
fn the_last_reader_gone_cancels_the_request() {
    let mut world = World::new(8);
    let ids = world.chunks(0..1, 1 << 20);
    world.provider(1, Manner::Honest, MIB, 30, &ids);
    world.link(1);
    world.want(Want { likely: vec![contact(1)], ..stripe(1, &ids, 1, 1 << 20, Urgency::Reader, ms(9000)) });
    world.run(ms(100));
    world.fetch.unwant(world.now, WantId(1));
    world.drain();
    world.run(ms(10_000));
    assert!(world.done.is_empty() && world.calls.is_empty());
    assert_eq!(world.fetch.stats().in_flight_bytes, 0);
    assert!(world.fetch.poll_timeout().is_none());
}

#[test]
fn a_length_that_the_chunk_disproves_is_damage() {
    let mut world = World::new(9);
    let ids = world.chunks(0..1, 100_000);
    world.provider(1, Manner::Honest, 10 * MIB, 30, &ids);
    world.link(1);
    world.want(Want { likely: vec![contact(1)], ..stripe(1, &ids, 1, 1 << 20, Urgency::Reader, ms(9000)) });
    world.run(ms(10_000));
    assert_eq!(world.result(1).1.as_ref().unwrap_err().kind, WantFailureKind::Damaged);
    assert!(world.result(1).0 < ms(200));
}

/// Random providers, chunks and wants: the checks stand in `World`.
fn schedule(seed: u64) {
    let mut random = Random::new(seed);
    let mut world = World::new(seed);
    let (k, m) = (random.between(1, 8) as u8, random.between(0, 4) as u8);
    let stripes = random.between(1, 4) as u32;
    let len = random.between(1, 1 << 20) as u32;
    let all: Vec<Vec<ChunkId>> = (0..stripes).map(|n| world.chunks(n * 100..n * 100 + u32::from(k + m), len)).collect();
    let count = random.between(1, 14) as u8;
    let mut honest: BTreeMap<ChunkId, u32> = BTreeMap::new();
    for n in 1..=count {
        let manner = match random.below(11) {
            6 => Manner::Halves,
            0 => Manner::Stalls,
            1 => Manner::Lies,
            2 => Manner::Gone,
            3 => Manner::Refuses(random.below(4) as u32),
            4 => Manner::Prices,
            5 => Manner::Tires(random.below(200) as u32),
            _ => Manner::Honest,
        };
        let full = random.chance(1, 4);
        let held: Vec<ChunkId> = all.iter().flatten().copied().filter(|_| full || random.chance(1, 3)).collect();
        let good = matches!(manner, Manner::Honest | Manner::Refuses(_));
        for id in held.iter().filter(|_| good) {
            *honest.entry(*id).or_default() += 1;
        }
        world.provider(n, manner, random.between(MIB / 4, 50 * MIB), random.between(1, 150), &held);
        if random.chance(1, 2) {
            world.link(n);
        }
    }
    let mut sure = BTreeSet::new();
    for id in 0..random.between(1, 30) {
        let ids = random.pick(&all).unwrap().clone();
        let urgency = *random.pick(&[Urgency::Reader, Urgency::Ahead, Urgency::Bulk]).unwrap();
        let deadline = world.in_us(random.between(100_000, 60_000_000));
        let mut want = stripe(id, &ids, k, len, urgency, deadline);
        want.needs = (0..random.between(1, 3))
            .map(|_| {
                let first = random.below(u64::from(slice_count(len))) as u8;
                let count = random.between(1, u64::from(slice_count(len) - first)) as u8;
                (random.below(u64::from(k)) as u8, SliceRange { first, count })
            })
            .collect();
        want.likely = (1..=count).filter(|_| random.chance(1, 3)).map(contact).collect();
        // Enough good shards and half a minute: it must be had, whatever the others do.
        let good = ids.iter().filter(|id| honest.contains_key(id)).count();
        let direct = want.needs.iter().all(|(index, _)| honest.contains_key(&ids[usize::from(*index)]));
        let unwanted = random.chance(1, 8);
        if (good >= usize::from(k) || direct) && deadline > world.in_us(40_000_000) && !unwanted {
            sure.insert(WantId(id));
        }
        let until = world.in_us(random.below(300_000));
        world.want(want);
        world.run(until);
        if unwanted {
            world.fetch.unwant(world.now, WantId(id));
            world.drain();
            world.wants.remove(&WantId(id));
        }
    }
    world.run(ms(120_000));
    for id in world.wants.keys() {
        assert!(world.done.contains_key(id), "seed {seed}: {id:?} never ended");
    }
    for id in sure {
        if let Err(failure) = &world.done[&id].1 {
            panic!(
                "seed {seed}: {id:?} failed though {k} good shards are there: {failure:?} at {:?}",
                world.done[&id].0
            );
        }
    }
    let stats = world.fetch.stats();
    assert_eq!((stats.in_flight_bytes, stats.wants), (0, 0), "seed {seed}");
}

#[test]
fn random_schedules_keep_every_promise() {
    for seed in 0..300 {
        schedule(seed);
    }
}

/// Eight stripes of 8+4 read one after another, four of whose hosts do not deliver: how many milliseconds each took, and how often
/// each of the four was asked.
fn reads_beside(manner: Manner, linked: bool) -> (Vec<u64>, Vec<u64>) {
    let mut world = World::new(21);
    let stripes: Vec<Vec<ChunkId>> = (0..8).map(|n| world.chunks(n * 100..n * 100 + 12, 1 << 20)).collect();
    for n in 0..12u8 {
        let held: Vec<ChunkId> = stripes.iter().map(|ids| ids[usize::from(n)]).collect();
        world.provider(n + 1, if n % 3 == 0 { manner } else { Manner::Honest }, 12 * MIB, 20, &held);
        if linked {
            world.link(n + 1);
        }
    }
    let mut took = Vec::new();
    for (number, ids) in stripes.iter().enumerate() {
        let (id, start) = (number as u64, world.now);
        let likely = (1..13).map(contact).collect();
        world.want(Want { likely, ..stripe(id, ids, 8, 1 << 20, Urgency::Reader, Instant(start.0 + 30_000_000)) });
        while !world.done.contains_key(&WantId(id)) {
            world.run(world.in_us(1000));
        }
        took.push((world.now.0 - start.0) / 1000);
    }
    assert!(world.done.values().all(|(_, result)| result.is_ok()));
    let asked = [1, 4, 7, 10].map(|n| world.asked.get(&peer(n)).copied().unwrap_or(0)).to_vec();
    (took, asked)
}

#[test]
fn peers_that_stall_cost_one_delay_and_not_one_for_each_read() {
    for manner in [Manner::Stalls, Manner::Halves] {
        for linked in [true, false] {
            let (took, asked) = reads_beside(manner, linked);
            let (honest, _) = reads_beside(Manner::Honest, linked);
            let told = format!("{manner:?}: {took:?} ms, honest {honest:?} ms, asked {asked:?}");
            assert!(took.iter().sum::<u64>() < honest.iter().sum::<u64>() + 800, "{told}");
            // For the pieces of the first stripes, then now and then to see whether it is better.
            assert!(asked.iter().all(|asked| *asked <= 8), "{told}");
        }
    }
}

#[test]
fn a_peer_that_halves_each_answer_is_not_kept_alive_by_the_halves() {
    let mut world = World::new(22);
    let ids = world.chunks(0..40, 256 << 10);
    world.provider(1, Manner::Halves, 50 * MIB, 5, &ids);
    world.provider(2, Manner::Honest, 5 * MIB, 60, &ids);
    world.link(1);
    world.link(2);
    // Asked for new chunks all the time, it always has a half to give.
    for (number, id) in ids.iter().enumerate() {
        let likely = vec![contact(1), contact(2)];
        let end = world.in_us(9_000_000);
        world.want(Want { likely, ..stripe(number as u64, &[*id], 1, 256 << 10, Urgency::Reader, end) });
        world.run(world.in_us(100_000));
    }
    world.run(ms(20_000));
    assert!(world.done.values().all(|(_, result)| result.is_ok()) && world.done.len() == 40);
    assert!(world.asked[&peer(1)] <= 12, "{:?}", world.asked);
    let last = world.done.values().map(|(at, _)| *at).max().unwrap();
    assert!(last < ms(4000 + 700), "{last:?}");
}

#[test]
fn a_peer_that_stalled_once_is_trusted_again_after_one_whole_answer() {
    let mut world = World::new(23);
    let ids = world.chunks(0..3, 1 << 20);
    world.provider(1, Manner::Stalls, 12 * MIB, 20, &ids);
    world.link(1);
    let likely = vec![contact(1)];
    let want = |id: u64, end| Want {
        likely: likely.clone(),
        ..stripe(id, &ids[id as usize..][..1], 1, 1 << 20, Urgency::Reader, end)
    };
    world.want(want(0, ms(3000)));
    world.run(ms(4000));
    assert!(world.result(0).1.is_err());
    world.providers.get_mut(&peer(1)).unwrap().manner = Manner::Honest;
    for id in 1..3 {
        let end = world.in_us(20_000_000);
        world.want(want(id, end));
        while !world.done.contains_key(&WantId(id)) {
            world.run(world.in_us(1000));
        }
        assert!(world.result(id).1.is_ok(), "{:?}", world.result(id));
    }
    let (second, third) = (world.result(1).0, world.result(2).0);
    assert!(third.0 - second.0 < 400_000, "{second:?} {third:?}");
}

#[test]
fn liars_alone_are_damage_long_before_the_deadline() {
    let mut world = World::new(24);
    let ids = world.chunks(0..12, 256 << 10);
    for (n, id) in (1..13).zip(&ids) {
        world.provider(n, Manner::Lies, 10 * MIB, 20, &[*id]);
        world.link(n);
    }
    world.want(stripe(1, &ids, 8, 256 << 10, Urgency::Reader, ms(60_000)));
    // Who is blamed is dropped, and then there is no link left.
    while world.blamed.len() < 12 && world.now < ms(59_000) {
        world.run(world.in_us(10_000));
        for n in 1..13 {
            if world.blamed.contains(&peer(n)) {
                world.fetch.peer_down(world.now, peer(n));
            }
        }
    }
    world.run(ms(61_000));
    let (at, result) = world.result(1);
    assert_eq!(result.as_ref().unwrap_err().kind, WantFailureKind::Damaged);
    assert!(*at < ms(15_000), "{at:?}");
}

/// A peer gives one chunk slice by slice, and of another, which a reader waits for, one slice after `slice_after` milliseconds or none.
/// When a second peer, in reach after `second_after`, was asked for that chunk, in milliseconds.
fn second_is_asked(slice_after: Option<u64>, second_after: u64, hedge_tokens: u64) -> Option<u64> {
    let mut fetch = Fetch::new(FetchConfig { hedge_percent: 0, ..FetchConfig::default() }, 1);
    fetch.hedge_tokens = hedge_tokens;
    let (stuck, flowing) = (chunk(1), chunk(2));
    fetch.peer_up(ms(0), peer(1), Some(Duration::from_millis(20)));
    for (number, id) in [(1, stuck), (2, flowing)] {
        let needs = vec![(0, SliceRange { first: 0, count: if id == stuck { 16 } else { 64 } })];
        fetch.want(ms(0), Want { needs, ..stripe(number, &[id], 1, 1 << 20, Urgency::Reader, ms(20_000)) });
        fetch.providers(ms(0), id, &[contact(1)]);
    }
    let mut calls: BTreeMap<ChunkId, Vec<(CallId, SliceRange)>> = BTreeMap::new();
    for at in 1..10_000 {
        while fetch.poll_timeout().is_some_and(|due| due <= ms(at)) {
            fetch.tick(ms(at));
        }
        if at == second_after {
            fetch.peer_up(ms(at), peer(2), Some(Duration::from_millis(400)));
            fetch.providers(ms(at), stuck, &[contact(2)]);
        }
        if at % 40 == 0 {
            let slice = SliceRange { first: (at / 40 % 64) as u8, count: 1 };
            let call = calls[&flowing].iter().find(|(_, asked)| asked.mask() & slice.mask() != 0).unwrap().0;
            fetch.delivered(ms(at), call, slice);
        }
        if slice_after == Some(at) {
            fetch.delivered(ms(at), calls[&stuck][0].0, SliceRange { first: 0, count: 1 });
        }
        while let Some(action) = fetch.poll() {
            match action {
                FetchAction::Ask { to, fetch, .. } if to.peer == peer(2) && fetch.chunk == stuck => return Some(at),
                FetchAction::Ask { call, fetch, .. } => {
                    calls.entry(fetch.chunk).or_default().push((call, fetch.slices))
                }
                _ => {}
            }
        }
    }
    None
}

#[test]
fn a_late_call_that_brings_a_slice_can_be_late_again() {
    let asked = second_is_asked(Some(300), 320, 2 << 20);
    assert!(asked.is_some_and(|at| at < 2000), "{asked:?}");
}

#[test]
fn without_means_for_hedges_a_late_call_is_not_waited_for_to_its_end() {
    let asked = second_is_asked(None, 1, 0);
    assert!(asked.is_some_and(|at| at < 2000), "{asked:?}");
}

#[test]
fn a_chunk_of_unknown_length_leaves_nothing_in_flight() {
    let mut world = World::new(25);
    let ids = world.chunks(0..1, 6_000);
    world.provider(1, Manner::Honest, 10 * MIB, 30, &ids);
    world.link(1);
    world.want(Want { needs: vec![], likely: vec![contact(1)], ..stripe(1, &ids, 1, 0, Urgency::Reader, ms(9000)) });
    world.run(ms(10_000));
    assert!(world.result(1).1.is_ok());
    assert_eq!((world.fetch.stats().in_flight_bytes, world.fetch.peer_load(&peer(1)).unwrap().0), (0, 0));
}
