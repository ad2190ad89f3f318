use super::*;
use crate::base::random::Random;
use crate::routing::lookup::tests::swarm;
use crate::routing::table::TableConfig;
use std::net::SocketAddr;

type Records = BTreeMap<ChunkId, BTreeSet<PeerId>>;

fn at() -> SocketAddr {
    "127.0.0.1:5000".parse().unwrap()
}

fn contact(number: u8) -> Contact {
    Contact { peer: PeerId([number; 32]), addrs: vec![at()] }
}

fn table(peers: impl IntoIterator<Item = u8>) -> Table {
    let mut table = Table::new(TableConfig::default(), Key::from(PeerId([0; 32])));
    for number in peers {
        table.verified(Instant(0), contact(number), &at());
    }
    table
}

fn chunks(count: usize) -> Vec<ChunkId> {
    let mut random = Random::new(5);
    (0..count).map(|_| ChunkId(random.bytes32())).collect()
}

/// Runs until `end`; `kept` answers messages, `search` look-ups. Returns records, messages and searches.
fn run(
    announcer: &mut Announcer,
    table: &Table,
    (mut now, end): (Instant, Instant),
    mut kept: impl FnMut(&PeerId, usize) -> Option<usize>,
    mut search: impl FnMut(&Key) -> Vec<Contact>,
) -> (Records, usize, usize) {
    let (mut records, mut messages, mut searches) = (Records::new(), 0, 0);
    loop {
        while let Some(action) = announcer.poll(now, table) {
            match action {
                AnnounceAction::Send { send, to, chunks, ttl } => {
                    assert!(chunks.len() <= IDS_MAX && ttl == 86_400);
                    messages += 1;
                    let kept = kept(&to.peer, chunks.len());
                    for chunk in chunks.iter().take(kept.unwrap_or(0)) {
                        assert!(records.entry(*chunk).or_default().insert(to.peer), "told twice");
                    }
                    announcer.answered(now, send, kept);
                }
                AnnounceAction::Search { key } => {
                    searches += 1;
                    let contacts = search(&key);
                    announcer.found(now, &key, &[contacts]);
                }
                AnnounceAction::Announced { .. } => {}
            }
        }
        match announcer.poll_timeout() {
            Some(at) if at <= end => now = at.max(now),
            _ => return (records, messages, searches),
        }
    }
}

fn span(from: u64, to: u64) -> (Instant, Instant) {
    (Instant(from * 1_000_000), Instant(to * 1_000_000))
}

#[test]
fn many_chunks_go_to_their_eight_closest_peers_in_few_messages() {
    let table = table(1..=12);
    let chunks = chunks(1500);
    let mut announcer = Announcer::new(AnnounceConfig::default());
    announcer.hold(Instant(0), &chunks);
    let (records, messages, _) = run(&mut announcer, &table, span(0, 30), |_, n| Some(n), |_| vec![]);
    assert!(messages <= 12 * 6, "{messages}");
    for chunk in &chunks {
        let wanted: BTreeSet<PeerId> = table.closest(&Key::from(*chunk), 8).iter().map(|c| c.peer).collect();
        assert_eq!(records[chunk], wanted);
    }
    announcer.hold(Instant(40_000_000), &chunks);
    assert_eq!(run(&mut announcer, &table, span(40, 3600), |_, n| Some(n), |_| vec![]).1, 0, "once is enough");
    let (records, ..) = run(&mut announcer, &table, span(3600, 12 * 3600), |_, n| Some(n), |_| vec![]);
    assert_eq!(records.len(), chunks.len(), "announced again before they expire");
}

#[test]
fn peers_who_come_later_are_told_once() {
    let few = table(1..=3);
    let chunks = chunks(300);
    let mut announcer = Announcer::new(AnnounceConfig::default());
    announcer.hold(Instant(0), &chunks);
    let (records, ..) = run(&mut announcer, &few, span(0, 30), |_, n| Some(n), |_| vec![]);
    assert!(records.values().all(|peers| peers.len() == 3));
    let more = table(1..=5);
    announcer.acquainted(Instant(60_000_000), &contact(4));
    announcer.acquainted(Instant(60_000_000), &contact(5));
    let (records, messages, _) = run(&mut announcer, &more, span(60, 120), |_, n| Some(n), |_| vec![]);
    assert_eq!(records.len(), 300);
    assert!(records.values().all(|peers| *peers == [PeerId([4; 32]), PeerId([5; 32])].into()), "only the new ones");
    assert!(messages <= 6, "{messages}");
}

#[test]
fn a_newcomers_region_may_shrink_while_it_is_told() {
    let mut announcer = Announcer::new(AnnounceConfig::default());
    announcer.hold(Instant(0), &chunks(3000));
    run(&mut announcer, &table(1..=4), span(0, 30), |_, n| Some(n), |_| vec![]);
    let low = (5..=255).find(|number| Key::from(PeerId([*number; 32])).0[0] < 0x10).unwrap();
    announcer.acquainted(Instant(60_000_000), &contact(low));
    // All chunks may be for it while few peers are known; the first page ends far from its key.
    while announcer.poll(Instant(60_000_000), &table(1..=4)).is_some() {}
    assert_eq!(announcer.newcomers.len(), 1);
    let crowded = table(1..=255);
    run(&mut announcer, &crowded, span(60, 90), |_, n| Some(n), |_| vec![]);
    assert!(announcer.newcomers.is_empty());
}

#[test]
fn a_peer_that_was_gone_is_told_again_but_not_at_every_blink() {
    let table = table(1..=12);
    let chunks = chunks(1000);
    let mut announcer = Announcer::new(AnnounceConfig::default());
    announcer.hold(Instant(0), &chunks);
    run(&mut announcer, &table, span(0, 30), |_, n| Some(n), |_| vec![]);
    announcer.acquainted(Instant(60_000_000), &contact(3));
    announcer.acquainted(Instant(60_000_000), &contact(3));
    let (records, messages, _) = run(&mut announcer, &table, span(60, 100), |_, n| Some(n), |_| vec![]);
    let close = |chunk: &ChunkId| table.closest(&Key::from(*chunk), 8).contains(&contact(3));
    assert_eq!(records.len(), chunks.iter().filter(|chunk| close(chunk)).count());
    assert!(records.values().all(|peers| *peers == [PeerId([3; 32])].into()));
    assert!(messages <= 4, "{messages}");
    // Nor are chunks due more often for it.
    let (records, messages, _) = run(&mut announcer, &table, span(100, 12 * 3600), |_, n| Some(n), |_| vec![]);
    assert!(records.len() == 1000 && messages < 12 * 140, "{messages}");
}

#[test]
fn a_region_holds_what_shares_the_bits() {
    let key = Key([0b1010_1010; 32]);
    let (first, last) = region(&key, 11);
    assert_eq!((first.0[0], first.0[1], first.0[2]), (0b1010_1010, 0b1010_0000, 0));
    assert_eq!((last.0[0], last.0[1], last.0[2]), (0b1010_1010, 0b1011_1111, 255));
    assert_eq!(region(&key, 0), (ChunkId([0; 32]), ChunkId([255; 32])));
    assert_eq!(region(&key, 256), (ChunkId(key.0), ChunkId(key.0)));
}

#[test]
fn without_peers_it_waits_and_without_success_it_tries_again() {
    let chunks = chunks(10);
    let mut announcer = Announcer::new(AnnounceConfig::default());
    announcer.hold(Instant(0), &chunks);
    assert_eq!(run(&mut announcer, &table(std::iter::empty()), span(0, 600), |_, n| Some(n), |_| vec![]).1, 0);
    announcer.acquainted(Instant(600_000_000), &contact(1));
    let (records, messages, _) = run(&mut announcer, &table(1..=1), span(600, 601), |_, _| None, |_| vec![]);
    assert_eq!((records.len(), messages), (0, 1));
    let (records, ..) = run(&mut announcer, &table(1..=1), span(601, 900), |_, n| Some(n), |_| vec![]);
    assert_eq!(records.len(), 10);
    announcer.dropped(&chunks);
    assert_eq!(run(&mut announcer, &table(1..=1), span(900, 90_000), |_, n| Some(n), |_| vec![]).1, 0);
}

#[test]
fn in_a_large_swarm_one_search_serves_a_region_of_the_key_space() {
    let tables = swarm(500, 6);
    let me = *tables.keys().next().unwrap();
    let table = &tables[&me];
    assert!(!table.everyone_known());
    let chunks = chunks(2000);
    let mut announcer = Announcer::new(AnnounceConfig::default());
    announcer.hold(Instant(0), &chunks);
    let closest = |key: &Key, count: usize| {
        let mut all: Vec<PeerId> = tables.keys().filter(|peer| **peer != me).copied().collect();
        all.sort_by_key(|peer| Key::from(*peer).distance(key));
        all.into_iter().take(count).map(|peer| Contact { peer, addrs: vec![at()] }).collect::<Vec<_>>()
    };
    let (records, _, searches) = run(&mut announcer, table, span(0, 600), |_, n| Some(n), |key| closest(key, 20));
    assert!(searches < 200, "{searches}");
    assert_eq!(records.len(), 2000);
    let mut right = 0;
    for chunk in &chunks {
        let wanted = closest(&Key::from(*chunk), 8);
        right += wanted.iter().filter(|contact| records[chunk].contains(&contact.peer)).count();
    }
    assert!(right >= 2000 * 8 * 95 / 100, "{right} of 16000");
}

#[test]
fn the_rate_is_bounded() {
    let table = table(1..=20);
    let config = AnnounceConfig { rate: 4, gather: Duration::ZERO, ..AnnounceConfig::default() };
    let mut announcer = Announcer::new(config);
    announcer.hold(Instant(0), &chunks(4000));
    let (_, messages, _) = run(&mut announcer, &table, span(0, 5), |_, n| Some(n), |_| vec![]);
    assert!(messages <= 4 + 5 * 4, "{messages}");
}
