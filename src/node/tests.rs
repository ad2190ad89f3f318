//! The machine as one of a few in a small made-up world (`world`).

mod seller;
mod world;

use super::effect::{Effect, Token};
use super::input::{Command, Input, Urgency, Want, WantId};
use super::*;
use crate::base::head::HeadId;
use crate::base::range::SliceRange;
use crate::wire::head::SignedHead;
use crate::wire::message::{Demand, Refusal};
use std::collections::BTreeSet;
use world::*;

#[test]
fn a_tree_is_published_pulled_confirmed_announced_and_read_without_its_publisher() {
    let mut world = World::acquainted(14);
    let groups = stripes(40, 12, 1);
    world.publish(0, 1, &groups);
    world.run(Duration::from_secs(20));
    let progress = world.progress(0, 1);
    assert_eq!((progress.hosted, progress.wanted), (480, 480));
    assert_eq!((progress.announced, progress.to_announce), (480, 480));
    assert_eq!((progress.hosts_min, progress.hosts_wanted), (12, 12));
    for group in &groups {
        let hosts: BTreeSet<usize> = group.chunks.iter().flat_map(|(id, _)| world.hosts(id, 0)).collect();
        assert_eq!(hosts.len(), 12, "distinct peers");
    }
    // The publisher and three hosts go; twelve wide with any eight enough, a newcomer reads everything.
    for gone in [0, 3, 4, 5] {
        world.kill(gone);
    }
    let reader = 13;
    world.stores[reader].clear();
    world.run(Duration::from_secs(1));
    world.log.clear();
    for (number, group) in groups.iter().enumerate() {
        let want = Want {
            id: WantId(number as u64),
            chunks: group.chunks.iter().map(|(id, _)| *id).collect(),
            data: 8,
            chunk_len: 1 << 20,
            needs: (0..8).map(|index| (index, SliceRange { first: 0, count: 64 })).collect(),
            have: vec![],
            urgency: Urgency::Reader,
            deadline: world.now.after(Duration::from_secs(60)),
            likely: vec![],
        };
        world.command(reader, Command::Want(want));
    }
    world.run(Duration::from_secs(30));
    let done = world.log.iter().filter(|(at, effect)| {
        let ok = matches!(effect, Effect::WantDone { result: Ok(_), .. });
        *at == reader && ok
    });
    assert_eq!(done.count(), 40);
}

#[test]
fn publishing_begins_alone_and_goes_on_when_peers_come() {
    let mut world = World::new(6);
    let groups = stripes(10, 5, 2);
    world.publish(0, 1, &groups);
    world.run(Duration::from_secs(30));
    assert_eq!(world.progress(0, 1).hosted, 0);
    for place in 1..6 {
        world.command(place, Command::Bootstrap(vec![contact(0)]));
    }
    world.run(Duration::from_secs(10));
    let progress = world.progress(0, 1);
    assert_eq!((progress.hosted, progress.announced, progress.hosts_min), (50, 50, 5));
}

#[test]
fn a_host_that_dies_while_it_pulls_is_replaced() {
    let mut world = World::acquainted(8);
    let groups = stripes(60, 6, 3);
    world.publish(0, 1, &groups);
    world.run(Duration::from_millis(40));
    world.kill(3);
    world.stores[3].clear();
    world.run(Duration::from_secs(30));
    let progress = world.progress(0, 1);
    assert_eq!(progress.hosted, progress.wanted);
    for (id, _) in groups.iter().flat_map(|group| &group.chunks) {
        assert!(!world.hosts(id, 0).is_empty());
    }
}

#[test]
fn a_host_keeps_to_its_quota_and_gives_room_back() {
    let mut world = World::new(2);
    let config = NodeConfig { addrs: vec![addr(1)], host_bytes_max: 20 << 20, ..NodeConfig::default() };
    world.nodes[1] = Node::new(config, id(1), 1);
    world.command(1, Command::Bootstrap(vec![contact(0)]));
    world.run(Duration::from_secs(1));
    world.publish(0, 1, &stripes(30, 1, 4));
    world.run(Duration::from_secs(10));
    assert_eq!(world.progress(0, 1).hosted, 10, "one owner gets half");
    assert_eq!(world.nodes[1].stats().hosted_bytes, 10 << 20);
    world.run(Duration::from_secs(86_400));
    assert!(world.nodes[1].stats().hosted_bytes <= 10 << 20);
}

#[test]
fn a_host_without_room_says_so_and_others_take_all() {
    let mut world = World::acquainted(3);
    let room = |free| Input::Room { hosted: 0, free };
    world.nodes[1].handle(world.now, room(3 << 20));
    world.publish(0, 1, &stripes(4, 3, 5));
    world.run(Duration::from_secs(60));
    assert_eq!(world.progress(0, 1).hosted, 12, "well before a host that is silent is taken for stuck");
    assert_eq!(world.nodes[1].stats().hosted_bytes, 3 << 20);
    // Nothing of others is in its store, and nothing is to come: what was kept in this run is what it says.
    world.nodes[1].handle(world.now, room(0));
    world.publish(0, 2, &stripes(4, 3, 6));
    world.run(Duration::from_secs(60));
    assert_eq!(world.progress(0, 2).hosted, 12);
    assert_eq!(world.nodes[1].stats().hosted_bytes, 3 << 20);
    world.nodes[1].handle(world.now, room(1 << 30));
    world.nodes[2].handle(world.now, room(0));
    world.run(Duration::from_secs(600));
    world.publish(0, 3, &stripes(4, 3, 7));
    world.run(Duration::from_secs(60));
    assert_eq!(world.progress(0, 3).hosted, 12);
    assert_eq!(world.nodes[1].stats().hosted_bytes, 15 << 20);
}

#[test]
fn what_the_store_says_counts_not_what_a_former_life_had() {
    let mut world = World::new(2);
    let used = 18 << 20;
    let config =
        NodeConfig { addrs: vec![addr(1)], host_bytes_max: 20 << 20, host_bytes_used: used, ..NodeConfig::default() };
    world.nodes[1] = Node::new(config, id(1), 1);
    world.command(1, Command::Bootstrap(vec![contact(0)]));
    world.run(Duration::from_secs(1));
    world.publish(0, 1, &stripes(30, 1, 4));
    world.run(Duration::from_secs(10));
    assert_eq!(world.progress(0, 1).hosted, 2);
    assert_eq!(world.nodes[1].stats().hosted_bytes, 20 << 20);
    // Leases of the former life are over.
    world.nodes[1].handle(world.now, Input::Room { hosted: 2 << 20, free: 1 << 30 });
    world.run(Duration::from_secs(1200));
    assert_eq!(world.progress(0, 1).hosted, 10, "one owner gets half");
}

#[test]
fn a_full_host_renews_after_a_restart_what_it_promised_before() {
    let mut world = World::new(2);
    let group = stripes(1, 2, 8).remove(0);
    let used = 2 << 20;
    let config =
        NodeConfig { addrs: vec![addr(1)], host_bytes_max: used, host_bytes_used: used, ..NodeConfig::default() };
    world.nodes[1] = Node::new(config, id(1), 1);
    let ids: Vec<ChunkId> = group.chunks.iter().map(|(id, _)| *id).collect();
    world.store(1, &ids);
    let promised = ids.iter().map(|id| (*id, 1 << 20, 3600)).collect();
    world.nodes[1].handle(world.now, Input::Hosted { chunks: promised });
    assert_eq!(world.nodes[1].stats().hosted_bytes, used);
    world.command(1, Command::Bootstrap(vec![contact(0)]));
    world.run(Duration::from_secs(1));
    world.publish(0, 1, &[group, stripes(1, 1, 9).remove(0)]);
    world.run(Duration::from_secs(60));
    assert_eq!(world.progress(0, 1).hosted, 2, "both again, and nothing besides");
    assert_eq!(world.nodes[1].stats().hosted_bytes, used);
}

#[test]
fn chunks_that_cannot_be_pulled_are_let_go() {
    let mut world = World::acquainted(3);
    // Offered, but nobody has it.
    let request = Request::Host(crate::wire::message::Host {
        chunks: vec![(ChunkId([9; 32]), 1 << 20)],
        lease: 86_400,
        price: Default::default(),
    });
    let now = world.now;
    let call = world.nodes[2].calls.open(id(1), Purpose::Probe);
    world.call(2, call, &contact(1), request, now.after(Duration::from_secs(5)));
    world.run(Duration::from_secs(2));
    assert_eq!(world.nodes[1].stats().hosted_bytes, 1 << 20);
    world.run(Duration::from_secs(900));
    assert_eq!(world.nodes[1].stats().hosted_bytes, 0);
    assert!(world.log.iter().any(|(at, effect)| *at == 1 && matches!(effect, Effect::Keep { lease: 0, .. })));
}

#[test]
fn what_is_kept_for_others_is_spoken_of_only_when_it_is_durable() {
    let mut world = World::acquainted(2);
    let chunk = ChunkId([7; 32]);
    world.store(0, &[chunk]);
    let host = crate::wire::message::Host { chunks: vec![(chunk, 1 << 20)], lease: 86_400, price: Default::default() };
    let now = world.now;
    let call = world.nodes[0].calls.open(id(1), Purpose::Probe);
    world.call(0, call, &contact(1), Request::Host(host), now.after(Duration::from_secs(5)));
    let settled = |world: &World| {
        world
            .log
            .iter()
            .any(|(at, effect)| *at == 1 && matches!(effect, Effect::Settle { chunks } if chunks == &[chunk]))
    };
    while !settled(&world) {
        assert!(world.now < now.after(Duration::from_secs(5)), "it is pulled");
        world.run(Duration::from_millis(1));
    }
    assert!(world.stores[1].contains_key(&chunk) && !world.nodes[1].announcer.holds(&chunk));
    world.run(2 * DELAY);
    assert!(world.nodes[1].announcer.holds(&chunk));
}

#[test]
fn publishing_the_same_again_moves_no_bytes() {
    let mut world = World::acquainted(6);
    let groups = stripes(10, 5, 5);
    world.publish(0, 1, &groups);
    world.run(Duration::from_secs(5));
    world.requests.clear();
    world.publish(0, 2, &groups);
    world.run(Duration::from_secs(5));
    let progress = world.progress(0, 2);
    assert_eq!((progress.hosted, progress.announced), (50, 50));
    let pulled = world.requests.get("fetch").copied().unwrap_or(0);
    assert!(pulled <= 50, "{pulled}");
}

#[test]
fn thirteen_nodes_are_acquainted_within_a_second() {
    let mut world = World::new(13);
    for place in 1..13 {
        world.command(place, Command::Bootstrap(vec![contact(0)]));
    }
    world.run(Duration::from_secs(1));
    for node in &world.nodes {
        assert_eq!(node.contacts().len(), 12);
        assert_eq!(node.stats().links, 12);
        assert!(node.peers().iter().all(|peer| peer.contact && peer.hosts && peer.agent.starts_with("tornet")));
    }
}

#[test]
fn a_bootstrap_contact_that_comes_late_is_found() {
    let mut world = World::new(3);
    world.dead.insert(0);
    world.command(1, Command::Bootstrap(vec![contact(0)]));
    world.command(2, Command::Bootstrap(vec![contact(0)]));
    world.run(Duration::from_secs(20));
    assert!(world.nodes[1].contacts().is_empty());
    world.dead.clear();
    world.run(Duration::from_secs(40));
    assert!(world.nodes.iter().all(|node| node.contacts().len() == 2));
}

#[test]
fn an_idle_swarm_is_quiet() {
    let mut world = World::acquainted(13);
    world.run(Duration::from_secs(300));
    world.requests.clear();
    world.run(Duration::from_secs(600));
    let requests: usize = world.requests.values().sum();
    assert!(requests < 13 * 600 * 2, "{:?}", world.requests);
}

#[test]
fn what_one_announces_all_can_locate() {
    let mut world = World::acquainted(13);
    let chunks = chunks(1500, 1);
    world.store(3, &chunks);
    world.run(Duration::from_secs(3));
    assert_eq!(world.nodes[3].stats().to_announce, 0);
    let records: usize = world.nodes.iter().map(|node| node.stats().provider_records).sum();
    assert_eq!(records, 1500 * 8);
    let found = world.located(9, &chunks[..512]);
    assert_eq!(found.len(), 512);
    for (place, (chunk, holders)) in found.iter().enumerate() {
        assert_eq!(*chunk, chunks[place]);
        assert_eq!(*holders, [contact(3)]);
    }
    let found = world.located(9, &[ChunkId([1; 32])]);
    assert_eq!(found, [(ChunkId([1; 32]), vec![])]);
}

#[test]
fn chunks_stay_locatable_when_a_third_of_the_peers_go() {
    let mut world = World::acquainted(13);
    let chunks = chunks(200, 2);
    world.store(3, &chunks);
    world.run(Duration::from_secs(3));
    for place in [1, 5, 6, 11] {
        world.kill(place);
    }
    world.run(Duration::from_millis(100));
    let found = world.located(9, &chunks);
    assert!(found.iter().all(|(_, holders)| *holders == [contact(3)]));
    world.run(Duration::from_secs(120));
    assert!(world.nodes[9].contacts().len() == 8, "the gone leave the table: {}", world.nodes[9].contacts().len());
}

#[test]
fn a_newcomer_learns_of_old_announcements() {
    let mut world = World::new(6);
    for place in 1..3 {
        world.command(place, Command::Bootstrap(vec![contact(0)]));
    }
    world.run(Duration::from_secs(1));
    let chunks = chunks(300, 3);
    world.store(1, &chunks);
    world.run(Duration::from_secs(2));
    for place in 3..6 {
        world.command(place, Command::Bootstrap(vec![contact(0)]));
    }
    world.run(Duration::from_secs(5));
    assert_eq!(world.nodes[5].stats().provider_records, 300);
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = || {
        let mut world = World::acquainted(8);
        world.store(3, &chunks(100, 4));
        world.run(Duration::from_secs(30));
        (world.sequence, format!("{:?}", world.nodes[5].contacts()))
    };
    assert_eq!(run(), run());
}

#[test]
fn a_false_answer_costs_the_link() {
    let mut world = World::acquainted(3);
    let call = world.nodes[1].calls.open(id(2), Purpose::Probe);
    let result = Err(CallFailure::False("a slice that does not verify"));
    let now = world.now;
    world.nodes[1].handle(now, Input::Answered { call, result });
    world.effects(1);
    world.run(Duration::from_secs(30));
    assert!(
        world.log.iter().any(|(at, effect)| *at == 1 && matches!(effect, Effect::Drop { peer, .. } if *peer == id(2)))
    );
    assert!(!world.nodes[1].contacts().iter().any(|contact| contact.peer == id(2)));
    let refused = |effect: &Effect| matches!(effect, Effect::Drop { .. });
    assert!(world.log.iter().filter(|(at, effect)| *at == 1 && refused(effect)).count() >= 1);
    world.run(Duration::from_secs(900));
    assert!(world.nodes[1].contacts().iter().any(|contact| contact.peer == id(2)), "bans end");
}

#[test]
fn a_peer_that_asks_too_much_is_told_to_wait_and_others_are_served() {
    let mut world = World::acquainted(3);
    let now = world.now;
    let mut busy = 0;
    for number in 0..3000 {
        let request = Request::Find { key: Key([1; 32]) };
        world.nodes[0].handle(now, Input::Request { from: id(1), token: Token(1 << 40 | number), request });
        while let Some(effect) = world.nodes[0].poll_effect() {
            if let Effect::Answer { response: Response::Refused(Refusal::Busy), .. } = effect {
                busy += 1;
            }
        }
    }
    assert!(busy >= 900, "{busy}");
    let request = Request::Find { key: Key([1; 32]) };
    world.nodes[0].handle(now, Input::Request { from: id(2), token: Token(1), request });
    assert!(matches!(world.nodes[0].poll_effect(), Some(Effect::Answer { response: Response::Found { .. }, .. })));
}

#[test]
fn a_fetch_is_served_or_referred_to_holders() {
    let mut world = World::acquainted(5);
    let chunk = chunks(1, 5)[0];
    world.store(2, &[chunk]);
    world.run(Duration::from_secs(2));
    let request = Request::Fetch(crate::wire::message::Fetch {
        chunk,
        slices: SliceRange { first: 0, count: 64 },
        outline: true,
        ceiling: Default::default(),
    });
    let now = world.now;
    world.nodes[1].handle(now, Input::Request { from: id(4), token: Token(1 << 40), request });
    let Some(Effect::Serve { otherwise: Response::Referral { holders, .. }, demand, .. }) =
        world.nodes[1].poll_effect()
    else {
        panic!("not served");
    };
    assert_eq!(holders, [contact(2)]);
    assert_eq!(demand, Demand { asked: 1, missed: 1 });
}

#[test]
fn contacts_are_remembered_and_a_restart_finds_the_swarm_with_them() {
    let mut world = World::acquainted(5);
    world.run(Duration::from_secs(10));
    let remembered = world.log.iter().find_map(|(at, effect)| match effect {
        Effect::Remember(contacts) if *at == 4 => Some(contacts.clone()),
        _ => None,
    });
    let remembered = remembered.unwrap();
    assert_eq!(remembered.len(), 4);
    world.kill(0);
    world.kill(4);
    world.run(Duration::from_secs(1));
    world.dead.remove(&4);
    world.nodes[4] = Node::new(NodeConfig { addrs: vec![addr(4)], ..NodeConfig::default() }, id(4), 99);
    world.command(4, Command::Bootstrap(remembered));
    world.run(Duration::from_secs(5));
    assert_eq!(world.nodes[4].contacts().len(), 3);
}

#[test]
fn in_a_swarm_too_large_for_every_table_things_are_found_all_the_same() {
    let mut world = World::new(64);
    for place in 1..64 {
        world.command(place, Command::Bootstrap(vec![contact((place - 1) / 4)]));
    }
    world.run(Duration::from_secs(10));
    assert!(world.nodes.iter().any(|node| !node.table.everyone_known()));
    let groups = stripes(10, 24, 6);
    world.publish(7, 1, &groups);
    world.run(Duration::from_secs(20));
    let progress = world.progress(7, 1);
    assert_eq!((progress.hosted, progress.announced, progress.hosts_min), (240, 240, 24));
    world.kill(7);
    let ids: Vec<ChunkId> = groups.iter().flat_map(|group| &group.chunks).map(|(id, _)| *id).collect();
    let found = world.located(40, &ids[..200]);
    for (chunk, holders) in found {
        let hosts = world.hosts(&chunk, 7);
        // It asks the others, not itself.
        let hosts: Vec<usize> = hosts.into_iter().filter(|place| *place != 40).collect();
        let known = |contact: &Contact| hosts.iter().any(|place| id(*place) == contact.peer);
        assert!(hosts.is_empty() || holders.iter().any(known), "{chunk:?}");
    }
}

#[test]
fn a_reader_is_not_held_up_by_providers_that_are_gone() {
    let mut world = World::acquainted(13);
    let groups = stripes(4, 6, 7);
    world.publish(0, 1, &groups);
    world.run(Duration::from_secs(5));
    for place in [0, 1, 2] {
        world.kill(place);
    }
    world.log.clear();
    let reader = 12;
    world.stores[reader].clear();
    for (number, group) in groups.iter().enumerate() {
        let want = Want {
            id: WantId(number as u64),
            chunks: group.chunks.iter().map(|(id, _)| *id).collect(),
            data: 4,
            chunk_len: 1 << 20,
            needs: (0..4).map(|index| (index, SliceRange { first: 0, count: 64 })).collect(),
            have: vec![],
            urgency: Urgency::Reader,
            deadline: world.now.after(Duration::from_secs(30)),
            likely: vec![],
        };
        world.command(reader, Command::Want(want));
    }
    world.run(Duration::from_secs(4));
    let ok = |effect: &Effect| matches!(effect, Effect::WantDone { result: Ok(_), .. });
    let done = world.log.iter().filter(|(at, effect)| *at == reader && ok(effect)).count();
    assert_eq!(done, 4);
}

#[test]
fn a_read_in_a_nodes_first_moment_asks_whoever_is_linked_without_waiting_for_a_hello() {
    let mut world = World::new(2);
    let chunk = chunks(1, 8)[0];
    world.store(1, &[chunk]);
    world.command(0, Command::Bootstrap(vec![contact(1)]));
    let want = Want {
        id: WantId(1),
        chunks: vec![chunk],
        data: 1,
        chunk_len: 1 << 20,
        needs: vec![(0, SliceRange { first: 0, count: 1 })],
        have: vec![],
        urgency: Urgency::Reader,
        deadline: world.now.after(Duration::from_secs(30)),
        likely: vec![],
    };
    world.command(0, Command::Want(want));
    // The link, who has it, and the slice.
    world.run(8 * DELAY);
    assert!(world.log.iter().any(|(_, effect)| matches!(effect, Effect::WantDone { result: Ok(_), .. })));
}

#[test]
fn work_for_a_rank_begins_once_with_the_first_peer_that_charges() {
    let mut world = World::acquainted(4);
    let begun = |world: &World| -> Vec<usize> {
        world.log.iter().filter(|(_, effect)| matches!(effect, Effect::Rank(0))).map(|(at, _)| *at).collect()
    };
    assert!(begun(&world).is_empty(), "all is free");
    let price =
        crate::wire::message::Price { per_gib: crate::base::amount::Msat(10_000), per_request: Default::default() };
    let credit = crate::ledger::CreditConfig { price, ..Default::default() };
    for place in [1, 2] {
        world.command(place, Command::Terms { credit, payments: Default::default() });
        world.run(Duration::from_secs(1));
    }
    let mut begun = begun(&world);
    begun.sort_unstable();
    assert_eq!(begun, [0, 1, 2, 3]);
}

/// A head as tests sign it: the machine leaves signatures to who carries its messages.
fn head(number: u64) -> SignedHead {
    SignedHead { id: HeadId([9; 32]), number, sealed: vec![number as u8; 108], signature: [0; 64] }
}

/// What a find at `place`, or the bringing of a state, comes to.
fn headed(world: &mut World, place: usize, brought: Option<SignedHead>) -> (Option<SignedHead>, usize) {
    world.log.clear();
    let want = WantId(5);
    world.command(
        place,
        match brought {
            Some(head) => Command::SetHead { want, head },
            None => Command::FindHead { want, id: head(0).id },
        },
    );
    world.run(Duration::from_secs(10));
    let mut found = world.log.drain(..).filter_map(|(at, effect)| match effect {
        Effect::Head { want: WantId(5), newest, answered } if at == place => Some((newest, answered)),
        _ => None,
    });
    let first = found.next().expect("it ends");
    assert!(found.next().is_none(), "once");
    first
}

#[test]
fn a_head_is_found_when_its_owner_is_gone_and_never_goes_back() {
    for count in [4, 60] {
        let mut world = World::acquainted(count);
        let keepers = (count - 1).min(8);
        assert_eq!(headed(&mut world, 1, None).0, None);
        assert_eq!(headed(&mut world, 0, Some(head(3))), (Some(head(3)), keepers));
        assert_eq!(headed(&mut world, 1, None).0, Some(head(3)));
        // An older state, as from a copy of the owner's data, is not kept, and who brings it is told so.
        assert_eq!(headed(&mut world, 2, Some(head(2))), (Some(head(3)), keepers));
        assert_eq!(headed(&mut world, 0, Some(head(4))), (Some(head(4)), keepers));
        world.kill(0);
        world.run(Duration::from_secs(1));
        let reader = count - 1;
        let (newest, answered) = headed(&mut world, reader, None);
        assert_eq!(newest, Some(head(4)));
        assert!(answered * 2 >= (count - 1).min(16) - 2, "{answered} answered");
    }
}

#[test]
fn a_head_is_looked_for_by_one_who_knows_nobody() {
    let mut world = World::new(2);
    assert_eq!(headed(&mut world, 0, None), (None, 0));
    assert_eq!(headed(&mut world, 0, Some(head(1))), (Some(head(1)), 0), "nobody keeps it but itself");
    for want in 0..200 {
        world.command(0, Command::FindHead { want: WantId(1000 + want), id: HeadId([want as u8; 32]) });
    }
    let ended = world.log.iter().filter(|(_, effect)| matches!(effect, Effect::Head { .. })).count();
    assert_eq!(ended, 200);
}

/// A node with a link to one peer.
fn linked() -> Node {
    let mut node = Node::new(NodeConfig::default(), id(0), 1);
    node.handle(Instant(1), Input::LinkUp { rtt: None, peer: id(1), addr: addr(1), dialled: false });
    node
}

/// Lets all calls that the node made end without an answer; tells how many hellos were among them.
fn unanswered(node: &mut Node, now: Instant) -> usize {
    let mut calls = Vec::new();
    while let Some(effect) = node.poll_effect() {
        if let Effect::Call { call, request, .. } = effect {
            calls.push((call, matches!(request, Request::Hello(_))));
        }
    }
    for (call, _) in &calls {
        node.handle(now, Input::Answered { call: *call, result: Err(CallFailure::Timeout) });
    }
    calls.iter().filter(|(_, hello)| *hello).count()
}

#[test]
fn who_is_linked_and_slow_stays_a_contact_and_is_greeted_until_it_answers() {
    let mut node = linked();
    assert_eq!(unanswered(&mut node, Instant(4_000_000)), 1);
    node.tick(Instant(7_000_000));
    assert_eq!(unanswered(&mut node, Instant(11_000_000)), 1, "again, on the same link");
    let hello = node.hello_for(&id(1));
    let hello = Request::Hello(crate::wire::message::Hello { addrs: vec![addr(1)], ..hello });
    node.handle(Instant(12_000_000), Input::Request { from: id(1), token: Token(1), request: hello });
    assert_eq!(node.stats().contacts, 1);
    unanswered(&mut node, Instant(12_000_000));
    node.tick(Instant(20_000_000));
    assert_eq!(unanswered(&mut node, Instant(24_000_000)), 0, "it said what it is");
    for find in 0..6 {
        node.handle(Instant(30_000_000), Input::Command(Command::FindHead { want: WantId(find), id: HeadId([1; 32]) }));
        unanswered(&mut node, Instant(33_000_000));
    }
    assert_eq!(node.stats().contacts, 1, "it is there: its link is");
    node.handle(Instant(40_000_000), Input::LinkDown { peer: id(1) });
    for find in 10..16 {
        let at = 100_000_000 * (find - 9);
        node.handle(Instant(at), Input::Command(Command::FindHead { want: WantId(find), id: HeadId([1; 32]) }));
        unanswered(&mut node, Instant(at + 3_000_000));
    }
    assert_eq!(node.stats().contacts, 0);
}

#[test]
fn of_many_holders_each_asker_hears_of_others_and_not_of_linked_ones_alone() {
    let mut node = Node::new(NodeConfig::default(), id(0), 1);
    let (now, chunk) = (Instant(1), chunks(1, 3)[0]);
    let link = |node: &mut Node, place: usize| {
        node.handle(now, Input::LinkUp { rtt: None, peer: id(place), addr: addr(place), dialled: false });
    };
    for place in 1..=22 {
        link(&mut node, place);
        let request = Request::Announce { chunks: vec![chunk], ttl: 3600 };
        node.handle(now, Input::Request { from: id(place), token: Token(place as u64), request });
    }
    for place in 21..=22 {
        node.handle(now, Input::LinkDown { peer: id(place) });
    }
    let mut named = BTreeSet::new();
    for asker in 31..=70 {
        link(&mut node, asker);
        while node.poll_effect().is_some() {}
        let request = Request::Locate { chunks: vec![chunk] };
        node.handle(now, Input::Request { from: id(asker), token: Token(asker as u64), request });
        let told = std::iter::from_fn(|| node.poll_effect()).find_map(|effect| match effect {
            Effect::AnswerLocated { located, .. } => Some(located.contacts),
            _ => None,
        });
        let told: Vec<PeerId> = told.expect("an answer").into_iter().map(|contact| contact.peer).collect();
        assert_eq!(told.len(), 8);
        assert_eq!(told[6..].iter().copied().collect::<BTreeSet<_>>(), [id(21), id(22)].into());
        named.extend(told);
    }
    assert_eq!(named.len(), 22, "none stays unnamed");
}
