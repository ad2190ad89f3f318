//! The keeper among made-up holders: some go, some lie, some come back.

use super::*;
use crate::publish::job::Group;
use std::collections::BTreeSet;

const DAY: u64 = 86_400;

struct World {
    now: Instant,
    keeper: Keeper,
    random: Random,
    rows: BTreeMap<Vec<u8>, Kept>,
    /// What each peer has; who is away has no entry.
    peers: BTreeMap<PeerId, BTreeSet<ChunkId>>,
    /// Proofs asked for: when, whom, which slice.
    asked: Vec<(u64, PeerId, u8)>,
    renewed: usize,
    mended: usize,
    done: Vec<Vec<Kept>>,
    away: Vec<(PeerId, bool)>,
    /// Those who answer only when they are asked again.
    deaf: BTreeSet<PeerId>,
    /// Mending neither moves on nor ends by itself.
    stuck: bool,
    written: usize,
    /// Seconds for which each peer proved that it kept a chunk as promised.
    paid: BTreeMap<PeerId, u64>,
}

fn peer(number: u8) -> PeerId {
    PeerId([number; 32])
}

fn chunk(number: u8) -> ChunkId {
    ChunkId([number; 32])
}

impl World {
    /// A stripe of 4+2 on six peers, kept since a day and a half, with a lease of ten days.
    fn new() -> World {
        let config = KeeperConfig { lease: 10 * DAY as u32, ..KeeperConfig::default() };
        let mut world = World {
            now: Instant(0),
            keeper: Keeper::new(config, peer(0)),
            random: Random::new(3),
            rows: BTreeMap::new(),
            peers: BTreeMap::new(),
            asked: Vec::new(),
            renewed: 0,
            mended: 0,
            done: Vec::new(),
            away: Vec::new(),
            deaf: BTreeSet::new(),
            stuck: false,
            written: 0,
            paid: BTreeMap::new(),
        };
        let chunks = (1..=6).map(|number| (chunk(number), 1 << 20)).collect();
        let mut kept = Kept::new(&Group { chunks, data: 4, copies: 1 });
        for number in 1..=6 {
            kept.proved(usize::from(number) - 1, peer(number), 1, Some(10 * DAY));
            world.peers.insert(peer(number), [chunk(number)].into());
        }
        world.rows.insert(vec![1], kept);
        world.peers.insert(peer(9), BTreeSet::new());
        world
    }

    fn unix(&self) -> u64 {
        1000 + self.now.0 / 1_000_000
    }

    fn kept(&self) -> &Kept {
        &self.rows[&vec![1]]
    }

    fn act(&mut self) {
        while let Some(action) = self.keeper.poll(self.now, self.unix(), &mut self.random) {
            let (now, unix) = (self.now, self.unix());
            match action {
                KeeperAction::Page { after, max } => {
                    let later = self.rows.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
                    let row =
                        |(key, kept): (&Vec<u8>, &Kept)| Row { key: key.clone(), kept: kept.clone(), placing: false };
                    let rows: Vec<Row> = later.take(max).map(row).collect();
                    let end = rows.len() < max;
                    for holder in rows.iter().flat_map(|row| &row.kept.holders).flatten() {
                        self.keeper.holds(holder.peer);
                    }
                    self.keeper.page(now, unix, rows, end, self.peers.len());
                }
                KeeperAction::Check { check, peer, chunk, len, slice, kept } => {
                    assert!(slice < slice_count(len));
                    self.asked.push((unix, peer, slice));
                    let proof = match self.peers.get(&peer) {
                        _ if self.deaf.remove(&peer) => Proof::Silent,
                        None => Proof::Silent,
                        Some(held) if held.contains(&chunk) => Proof::Given,
                        Some(_) => Proof::Gone,
                    };
                    if proof == Proof::Given {
                        *self.paid.entry(peer).or_default() += kept.as_secs();
                    }
                    self.keeper.checked(now, unix, check, proof);
                }
                KeeperAction::Search { tend, chunks, .. } => {
                    let holders = |chunk: &ChunkId| -> Vec<PeerId> {
                        let have = self.peers.iter().filter(|(_, held)| held.contains(chunk));
                        have.map(|(peer, _)| *peer).collect()
                    };
                    let found: Vec<_> = chunks.iter().map(|chunk| (*chunk, holders(chunk))).collect();
                    self.keeper.found(now, unix, tend, &found);
                }
                KeeperAction::Renew { renewal, chunks, .. } => {
                    self.renewed += chunks.len();
                    self.keeper.renewed(now, unix, renewal, Some(&vec![0xff; chunks.len().div_ceil(8)]));
                }
                KeeperAction::Mend { .. } if self.stuck => self.mended += 1,
                KeeperAction::Mend { tend, kept, hosts } => {
                    self.mended += 1;
                    for ((chunk, _), _) in kept.chunks.iter().zip(&hosts).filter(|(_, hosts)| hosts.is_empty()) {
                        self.peers.get_mut(&peer(9)).unwrap().insert(*chunk);
                        self.keeper.placed(now, unix, tend, chunk, peer(9));
                    }
                    self.keeper.mended(unix, tend);
                }
                KeeperAction::Write { key, kept } => {
                    self.rows.insert(key, kept);
                    self.written += 1;
                }
                KeeperAction::Call(peer) if self.peers.contains_key(&peer) => self.keeper.heard(now, &peer),
                KeeperAction::Call(peer) => self.keeper.unreachable(now, peer),
                KeeperAction::Away { peer, away } => self.away.push((peer, away)),
                KeeperAction::Done { kept, .. } => self.done.push(kept),
            }
        }
    }

    fn run(&mut self, hours: u64) {
        self.run_for(Duration::from_secs(3600 * hours));
    }

    /// Links to these end, and nobody is there any more.
    fn cut(&mut self, numbers: std::ops::RangeInclusive<u8>) -> Vec<(PeerId, BTreeSet<ChunkId>)> {
        let cut = numbers.map(|number| (peer(number), self.peers.remove(&peer(number)).unwrap()));
        let cut: Vec<_> = cut.collect();
        cut.iter().for_each(|(peer, _)| self.keeper.unlinked(self.now, *peer));
        cut
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now.after(time);
        loop {
            self.act();
            let Some(at) = self.keeper.poll_timeout().filter(|at| *at <= end) else { break };
            assert!(at > self.now, "a timer that is due again at once");
            self.now = at;
        }
        self.now = end;
    }
}

#[test]
fn each_holder_proves_once_a_period_with_a_slice_that_it_cannot_foresee() {
    let mut world = World::new();
    world.run(24 * 30);
    for number in 1..=6 {
        let of_peer: Vec<&(u64, PeerId, u8)> = world.asked.iter().filter(|(_, who, _)| *who == peer(number)).collect();
        assert!((28..=31).contains(&of_peer.len()), "{} proofs in 30 days", of_peer.len());
        let slices: BTreeSet<u8> = of_peer.iter().map(|(_, _, slice)| *slice).collect();
        assert!(slices.len() > 15, "{slices:?}");
    }
    assert!(world.kept().is_whole() && world.mended == 0);
    // Ten days each, renewed after five: six chunks five or six times.
    assert!((24..=36).contains(&world.renewed), "{} renewals", world.renewed);
    assert!(world.kept().holders.iter().flatten().all(|holder| holder.until > world.unix() + 4 * DAY));
}

#[test]
fn every_moment_is_paid_for_once_that_a_promised_chunk_was_kept_and_none_that_its_holder_was_away() {
    let mut world = World::new();
    // It holds a chunk without having promised to yet.
    world.rows.get_mut(&vec![1]).unwrap().proved(0, peer(8), 1, None);
    world.peers.insert(peer(8), [chunk(1)].into());
    world.run(24 * 4);
    let away = world.peers.remove(&peer(2)).unwrap();
    world.run(26);
    world.peers.insert(peer(2), away);
    world.run(24 * 6 - 26);
    // What the user asks between two proofs changes nothing.
    let (now, unix, kept) = (world.now, world.unix(), world.kept().clone());
    world.keeper.errand(now, unix, ErrandId(1), vec![kept], false);
    world.run(24 * 20);
    let proved = |number: usize| world.kept().holders[number - 1].iter().find(|h| h.peer == peer(number as u8));
    for number in [1, 3, 4, 5, 6] {
        assert_eq!(world.paid[&peer(number as u8)], proved(number).unwrap().proved - 1, "{number}");
    }
    let lost = proved(2).unwrap().proved - 1 - world.paid[&peer(2)];
    assert!((DAY / 2..3 * DAY).contains(&lost), "{lost} s were not paid for");
    // It promised with its first proof, and is paid from then on.
    let (late, others) = (world.paid[&peer(8)], world.paid[&peer(1)]);
    assert!((others - 2 * DAY..others - DAY / 2).contains(&late), "{late} s beside {others} s");
}

#[test]
fn a_holder_that_is_away_is_replaced_after_a_while_and_one_that_has_nothing_at_once() {
    let mut world = World::new();
    world.run(30);
    let away = world.peers.remove(&peer(1)).unwrap();
    world.run(26);
    assert_eq!((world.mended, world.kept().hosts()), (0, 5), "it may come back, and the record says that it is away");
    world.peers.insert(peer(1), away);
    world.run(26);
    assert_eq!((world.mended, world.kept().hosts()), (0, 6));
    world.peers.remove(&peer(1));
    world.run(52);
    assert_eq!((world.mended, world.kept().hosts()), (1, 6));
    assert_eq!(world.kept().holders[0].iter().map(|holder| holder.peer).collect::<Vec<_>>(), [peer(9)]);
    world.peers.get_mut(&peer(2)).unwrap().clear();
    world.run(26);
    assert!(world.mended >= 2);
    assert_eq!(world.kept().shards(), 6, "from now on others hold it");
}

#[test]
fn when_few_are_left_those_that_are_away_are_replaced_at_once() {
    let mut world = World::new();
    for number in 1..=2 {
        world.peers.remove(&peer(number));
    }
    world.run(26);
    assert_eq!((world.mended, world.kept().shards()), (1, 6), "4 of 6 are just enough: no waiting");
}

#[test]
fn what_the_user_asks_is_answered_from_proofs_and_searches() {
    let mut world = World::new();
    let nobody = Kept::new(&world.kept().group());
    world.peers.remove(&peer(3));
    let (now, unix) = (world.now, world.unix());
    world.keeper.errand(now, unix, ErrandId(1), vec![nobody.clone()], false);
    world.act();
    let seen = &world.done[0][0];
    assert_eq!((seen.shards(), seen.hosts(), world.mended), (5, 5, 0));
    assert!(seen.holders[2].is_empty() && world.asked.len() == 5);
    world.keeper.errand(now, unix, ErrandId(2), vec![nobody], true);
    world.act();
    assert_eq!((world.done[1][0].shards(), world.mended), (6, 1));
    let new = |kept: &Kept| kept.holders.iter().flatten().filter(|holder| holder.until > 0).count();
    assert_eq!((new(&world.done[1][0]), world.renewed > 0), (1, true), "who held it before is not new");
}

#[test]
fn proofs_keep_within_their_rate() {
    let mut world = World::new();
    world.keeper = Keeper::new(KeeperConfig { rate: 1000, ..KeeperConfig::default() }, peer(0));
    for number in 2..=40 {
        let kept = world.kept().clone();
        world.rows.insert(vec![number], kept);
    }
    world.run(26);
    let since = world.asked.first().unwrap().0;
    let first_hour = world.asked.iter().filter(|(at, ..)| at - since < 3600).count() as u64;
    // What may be spent at once after a rest, and then a kilobyte a second.
    assert!(first_hour * CHECK_BYTES <= 3600 * 1000 + 5 * CHECK_BYTES, "{first_hour} proofs in an hour");
    assert_eq!(world.asked.len(), 240, "all in the end");
}

#[test]
fn who_cannot_be_reached_counts_no_more_and_is_replaced_out_of_turn_where_few_are_left() {
    let mut world = World::new();
    world.run(30);
    world.asked.clear();
    world.cut(1..=2);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.away, [(peer(1), true), (peer(2), true)]);
    assert_eq!(world.mended, 0, "they may be back in a moment");
    world.run_for(Duration::from_secs(60));
    assert_eq!((world.mended, world.kept().shards()), (1, 6), "4 of 6 are just enough");
    assert!(world.asked.is_empty(), "nobody had to be asked for a proof");
}

#[test]
fn hosts_that_only_restart_are_not_replaced_and_prove_anew() {
    let mut world = World::new();
    world.run(30);
    let (asked, written) = (world.asked.len(), world.written);
    let cut = world.cut(1..=4);
    world.run_for(Duration::from_secs(20));
    world.peers.extend(cut);
    (1..=4).for_each(|number| world.keeper.heard(world.now, &peer(number)));
    world.run_for(Duration::from_secs(600));
    let back = (1..=4).map(|number| (peer(number), false));
    assert_eq!(world.away[4..], back.collect::<Vec<_>>());
    assert_eq!((world.mended, world.asked.len(), world.written), (0, asked, written), "nothing was done for it");
    // One that is away for longer is on record as silent, and proves what it has when it is back.
    let cut = world.cut(1..=1);
    world.run_for(Duration::from_secs(300));
    assert_eq!((world.kept().hosts(), world.mended), (5, 0), "enough others are left");
    world.peers.extend(cut);
    world.keeper.heard(world.now, &peer(1));
    world.run_for(Duration::from_secs(60));
    assert_eq!((world.kept().hosts(), world.asked.len()), (6, asked + 1));
}

#[test]
fn who_is_cut_off_itself_replaces_nobody() {
    let mut world = World::new();
    world.run(30);
    world.cut(1..=6);
    world.peers.clear();
    world.run_for(Duration::from_secs(3600));
    assert_eq!((world.mended, world.kept().hosts()), (0, 6));
}

#[test]
fn who_is_silent_is_asked_again_before_anything_is_called_lost() {
    let mut world = World::new();
    let nobody = Kept::new(&world.kept().group());
    world.deaf.extend((1..=5).map(peer));
    let (now, unix) = (world.now, world.unix());
    world.keeper.errand(now, unix, ErrandId(1), vec![nobody.clone()], false);
    world.act();
    assert_eq!((world.done[0][0].shards(), world.asked.len()), (6, 11));
    // Who does not answer then either is not asked for ever.
    world.cut(1..=3);
    world.asked.clear();
    world.keeper.errand(now, unix, ErrandId(2), vec![nobody], false);
    world.act();
    assert_eq!(world.done[1][0].shards(), 3);
}

#[test]
fn user_waits_for_no_repair_that_does_not_move() {
    let mut world = World::new();
    let nobody = Kept::new(&world.kept().group());
    world.cut(1..=1);
    world.stuck = true;
    let (now, unix) = (world.now, world.unix());
    world.keeper.errand(now, unix, ErrandId(1), vec![nobody], true);
    world.act();
    assert_eq!((world.mended, world.done.len()), (1, 0));
    world.now = now.after(MEND_QUIET / 2);
    world.keeper.moved(world.now);
    let wait = |world: &World| world.keeper.late(world.now).len();
    world.now = now.after(MEND_QUIET);
    assert_eq!(wait(&world), 0, "something came meanwhile");
    world.now = now.after(MEND_QUIET * 2);
    assert_eq!(wait(&world), 1);
}
