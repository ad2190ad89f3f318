use super::*;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::keyspace::Key;
use crate::base::peer::PeerId;
use crate::base::random::Random;
use crate::base::time::Instant;
use crate::wire::message::Price;
use proptest::prelude::*;
use std::collections::BTreeSet;

const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;

fn peer(number: u64) -> PeerId {
    PeerId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn chunk(number: u64) -> ChunkId {
    ChunkId(*blake3::hash(&(number ^ 0xabcd).to_le_bytes()).as_bytes())
}

fn offered(rate: u64, per_gib: u64) -> Offer {
    Offer { rate: Some(rate), price: Price { per_gib: Msat(per_gib), ..Price::default() } }
}

/// A node that takes up everything, with so many chunks of disk and a budget that is never used up.
fn market(chunks: u64, offer: Offer) -> Market {
    let config = MarketConfig { disk_bytes_max: chunks * MIB, day_bytes_max: 1 << 40, ..MarketConfig::default() };
    let mut market = Market::new(config, offer, Key([0; 32]), 1);
    market.look(Instant(0), Radius::WHOLE);
    market
}

/// Does what the market wants: chunks with so many holders at such a price come at once. Returns what was bought and dropped.
fn trade(market: &mut Market, now: Instant, holders: usize, price: u64) -> (Vec<ChunkId>, Vec<ChunkId>) {
    let (mut bought, mut dropped) = (Vec::new(), Vec::new());
    let price = Price { per_gib: Msat(price), ..Price::default() };
    while let Some(action) = market.poll(now) {
        match action {
            MarketAction::Weigh(chunk) => {
                if market.weigh(now, chunk, holders, price) {
                    market.ended(now, chunk, Some(MIB));
                    bought.push(chunk);
                }
            }
            MarketAction::Drop(chunk) => dropped.push(chunk),
        }
    }
    (bought, dropped)
}

/// So many peers ask for a chunk that is not here.
fn ask(market: &mut Market, now: Instant, chunk: ChunkId, peers: std::ops::Range<u64>) {
    for number in peers {
        market.missed(now, &chunk, &peer(number));
    }
}

#[test]
fn what_several_ask_for_in_vain_is_bought_and_what_one_asks_for_often_is_not() {
    let mut market = market(10, offered(MIB, 0));
    let later = Instant(20 * SECOND);
    for _ in 0..20 {
        ask(&mut market, Instant(0), chunk(1), 1..2);
    }
    assert_eq!(trade(&mut market, later, 1, 0), (vec![], vec![]));
    ask(&mut market, later, chunk(2), 1..4);
    assert_eq!(trade(&mut market, Instant(40 * SECOND), 1, 0), (vec![chunk(2)], vec![]));
    assert!(market.bought(&chunk(2)));
    // It is bought once.
    ask(&mut market, Instant(40 * SECOND), chunk(2), 4..9);
    assert_eq!(trade(&mut market, Instant(60 * SECOND), 1, 0), (vec![], vec![]));
}

#[test]
fn where_nobody_is_known_to_have_it_or_many_are_nothing_is_bought() {
    for holders in [0, 24] {
        let mut market = market(10, offered(MIB, 0));
        ask(&mut market, Instant(0), chunk(1), 1..6);
        assert_eq!(trade(&mut market, Instant(20 * SECOND), holders, 0).0, vec![], "{holders} holders");
    }
    // Enough demand for one more.
    let mut market = market(10, offered(MIB, 0));
    ask(&mut market, Instant(0), chunk(1), 1..30);
    assert_eq!(trade(&mut market, Instant(20 * SECOND), 24, 0).0, vec![chunk(1)]);
}

#[test]
fn what_it_costs_counts_against_what_it_brings() {
    let bought = |own: u64, theirs: u64, asked: u64| {
        let mut market = market(10, offered(MIB, own));
        ask(&mut market, Instant(0), chunk(1), 0..asked);
        !trade(&mut market, Instant(20 * SECOND), 1, theirs).0.is_empty()
    };
    assert!(bought(10_000, 10_000, 3) && !bought(10_000, 10_000, 2));
    assert!(
        !bought(10_000, 50_000, 6) && bought(10_000, 50_000, 14),
        "at five times the price it takes five times the demand"
    );
    assert!(!bought(0, 10_000, 20) && bought(0, 10_000, 40), "who gives away does not pay much for it");
}

#[test]
fn a_full_disk_raises_the_floor_and_the_worst_goes_first() {
    let mut market = market(4, offered(100 * MIB, 0));
    let mut now = Instant(0);
    for number in 1..=4 {
        ask(&mut market, now, chunk(number), 0..4 * number);
        now = Instant(now.0 + 15 * SECOND);
        assert_eq!(trade(&mut market, now, 1, 0), (vec![chunk(number)], vec![]));
        let floor = market.stats(now).floor_milli;
        assert!(number == 4 || floor == 2000, "{floor} with {number} of 4");
    }
    // The worst is expected to be read 3.2 times an hour.
    let floor = market.stats(now).floor_milli;
    assert!((4000..5000).contains(&floor), "{floor}");
    ask(&mut market, now, chunk(5), 0..5);
    now = Instant(now.0 + 15 * SECOND);
    assert_eq!(trade(&mut market, now, 1, 0), (vec![], vec![]));
    ask(&mut market, Instant(now.0 + 200 * SECOND), chunk(5), 5..9);
    now = Instant(now.0 + 215 * SECOND);
    assert_eq!(trade(&mut market, now, 1, 0), (vec![chunk(5)], vec![chunk(1)]));
    // What is read stays.
    for _ in 0..20 {
        market.sent(now, &chunk(2), MIB);
    }
    ask(&mut market, now, chunk(6), 0..30);
    now = Instant(now.0 + 15 * SECOND);
    let (bought, dropped) = trade(&mut market, now, 1, 0);
    assert_eq!(bought, vec![chunk(6)]);
    assert!(dropped != vec![chunk(2)] && dropped.len() == 1);
    // When nobody wants anything any more the floor sinks to what a chunk costs.
    assert_eq!(market.stats(Instant(now.0 + 30 * HOUR)).floor_milli, 2000);
}

#[test]
fn no_more_is_bought_in_a_day_than_was_allowed() {
    let config = MarketConfig { day_bytes_max: 32 * MIB, disk_bytes_max: 1 << 40, ..MarketConfig::default() };
    let mut market = Market::new(config, offered(1 << 40, 0), Key([0; 32]), 1);
    market.look(Instant(0), Radius::WHOLE);
    let mut bought = Vec::new();
    for minute in 0..3 * 1440u64 {
        let now = Instant(minute * 60 * SECOND);
        ask(&mut market, now, chunk(minute), 0..8);
        bought.push(trade(&mut market, Instant(now.0 + 15 * SECOND), 1, 0).0.len());
    }
    let days = bought.windows(1440).map(|day| day.iter().sum::<usize>());
    let most = days.max().unwrap();
    assert!((16..=32).contains(&most), "{most} MiB in a day");
    assert!(bought.iter().sum::<usize>() >= 48, "{} in three", bought.iter().sum::<usize>());
    assert!(bought[..60].iter().sum::<usize>() <= 5, "a start is no reason to buy much");
}

#[test]
fn who_is_asked_for_more_than_he_offers_buys_nothing() {
    // At our own place in the key space, so within any radius.
    let own = ChunkId([0; 32]);
    for (sent, bought) in [(80 * MIB, vec![]), (40 * MIB, vec![own])] {
        let mut market = market(100, offered(MIB, 0));
        let mut now = Instant(0);
        for minute in 0..40u64 {
            now = Instant(minute * 60 * SECOND);
            market.sent(now, &chunk(1000), sent);
            trade(&mut market, now, 1, 0);
        }
        ask(&mut market, now, own, 0..10);
        assert_eq!(trade(&mut market, Instant(now.0 + 20 * SECOND), 1, 0).0, bought);
        let stats = market.stats(now);
        assert_eq!(
            (stats.load > MIB, stats.radius_parts < 1_000_000_000),
            (sent > 60 * MIB, sent > 60 * MIB),
            "{stats:?}"
        );
    }
}

#[test]
fn what_lies_beyond_the_radius_is_neither_bought_nor_served_while_others_have_it() {
    let mut market = market(100, offered(MIB, 0));
    let (near, far) = (ChunkId([1; 32]), ChunkId([0xf0; 32]));
    let mut now = Instant(0);
    ask(&mut market, now, far, 0..5);
    now = Instant(20 * SECOND);
    assert_eq!(trade(&mut market, now, 1, 0).0, vec![far]);
    assert!(!market.sheds(&far));
    for minute in 0..60u64 {
        now = Instant(minute * 60 * SECOND + 60 * SECOND);
        market.sent(now, &chunk(1000), 200 * MIB);
        trade(&mut market, now, 1, 0);
    }
    assert!(market.sheds(&far) && market.bought(&far), "it is kept");
    assert!(!market.sheds(&near) && !market.sheds(&ChunkId([0xf1; 32])), "what was not bought is always served");
    market.set_offer(Offer { rate: None, ..market.offer() });
    assert!(!market.sheds(&far), "with no limit there is no saying that it is too much");
    market.set_offer(offered(MIB, 0));
    // As it gets quiet the radius widens, and it is served again from disk.
    for minute in 0..600u64 {
        trade(&mut market, Instant(now.0 + minute * 60 * SECOND), 1, 0);
    }
    assert!(!market.sheds(&far));
}

#[test]
fn a_flash_crowd_is_bought_once_and_goes_when_something_else_is_wanted() {
    let mut market = market(8, offered(MIB, 0));
    let mut now = Instant(0);
    let mut bought = Vec::new();
    // Fifty peers want the same four chunks within a minute.
    for number in 0..50u64 {
        now = Instant(number * SECOND);
        for name in 0..4 {
            if market.bought(&chunk(name)) {
                market.asked(now, &chunk(name), &peer(number));
                market.sent(now, &chunk(name), MIB);
            } else {
                ask(&mut market, now, chunk(name), number..number + 1);
            }
        }
        bought.extend(trade(&mut market, now, 2, 0).0);
    }
    assert_eq!(bought.iter().collect::<BTreeSet<_>>().len(), 4);
    assert_eq!(bought.len(), 4);
    // Hours later others are wanted, a little.
    let mut gone = Vec::new();
    for number in 10..20u64 {
        now = Instant(now.0 + HOUR);
        ask(&mut market, now, chunk(number), 0..6);
        gone.extend(trade(&mut market, Instant(now.0 + 15 * SECOND), 1, 0).1);
    }
    assert!((0..4).all(|name| gone.contains(&chunk(name))), "{gone:?}");
}

#[test]
fn with_nothing_allowed_nothing_is_bought_and_nothing_ticks() {
    for (day, disk) in [(0, 1 << 30), (1 << 30, 0)] {
        let config = MarketConfig { day_bytes_max: day, disk_bytes_max: disk, ..MarketConfig::default() };
        let mut market = Market::new(config, offered(MIB, 0), Key([0; 32]), 1);
        assert!(!market.wants_look(Instant(0)));
        ask(&mut market, Instant(0), chunk(1), 0..20);
        assert_eq!((market.poll(Instant(HOUR)), market.poll_timeout()), (None, None));
    }
}

proptest! {
    /// Whatever happens: within disk and day, and only what was bought is ever dropped.
    #[test]
    fn limits_hold_and_only_bought_chunks_are_dropped(seed: u64, disk in 1u64..12, steps in 50usize..400) {
        let mut random = Random::new(seed);
        let config = MarketConfig {
            disk_bytes_max: disk * MIB,
            day_bytes_max: 64 * MIB,
            ..MarketConfig::default()
        };
        let mut market = Market::new(config, offered(MIB, 0), Key(random.bytes32()), seed);
        market.look(Instant(0), Radius::WHOLE);
        let mut now = Instant(0);
        let (mut here, mut running) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..steps {
            now = Instant(now.0 + random.below(120 * SECOND));
            let name = chunk(random.below(30));
            match random.below(6) {
                0 => market.sent(now, &name, random.below(MIB)),
                1 => {
                    market.forget(&[name]);
                    here.remove(&name);
                }
                _ => {
                    let first = random.below(100);
                    ask(&mut market, now, name, first..first + 5);
                }
            }
            while let Some(action) = market.poll(now) {
                match action {
                    MarketAction::Weigh(chunk) => {
                        let free = Price::default();
                        if market.weigh(now, chunk, random.below(5) as usize, free) {
                            running.insert(chunk);
                        }
                    }
                    MarketAction::Drop(chunk) => prop_assert!(here.remove(&chunk), "drops what it did not buy"),
                }
            }
            if let Some(chunk) = running.first().copied().filter(|_| random.chance(2, 3)) {
                running.remove(&chunk);
                let came = random.chance(4, 5).then(|| random.between(1, MIB));
                market.ended(now, chunk, came);
                if came.is_some() {
                    here.insert(chunk);
                }
            }
            let stats = market.stats(now);
            prop_assert!(stats.bytes + running.len() as u64 * MIB <= disk * MIB, "{:?}", stats);
            prop_assert_eq!(stats.chunks, here.len());
            prop_assert!(stats.bought_bytes <= 64 * MIB * (1 + now.0 / (24 * HOUR)));
        }
    }
}
