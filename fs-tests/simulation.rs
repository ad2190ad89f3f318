//! A simulated swarm keeps its promises: trees stay readable under loss, delay, churn, liars and stallers, whatever the seed.
//!
//! Every run prints its seed when it fails. `TORNET_SEED=7 cargo test --test simulation` runs all scenarios with that seed alone.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::time::Duration;
use tornet::base::amount::Msat;
use tornet::base::digest::ChunkId;
use tornet::base::random::Random;
use tornet::ledger::CreditConfig;
use tornet::publish::job::JobId;
use tornet::sim::checker::Violation;
use tornet::sim::swarm::{Manner, Swarm, SwarmConfig};
use tornet::sim::tree::Tree;
use tornet::wire::message::Price;

const DATA: u8 = 8;
const PARITY: u8 = 4;

/// The seed given by hand, or the usual ones.
fn seeds(usual: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("TORNET_SEED") {
        Ok(seed) => vec![seed.parse().expect("TORNET_SEED is a number")],
        Err(_) => usual.collect(),
    }
}

/// Runs a scenario with a seed; a failure tells how to see it again.
fn replayable<T>(test: &str, seed: u64, scenario: impl FnOnce(u64) -> Result<T, Violation>) -> T {
    struct Told<'a>(&'a str, u64);
    impl Drop for Told<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {1}; again: TORNET_SEED={1} cargo test --test simulation {0}", self.0, self.1);
            }
        }
    }
    let _told = Told(test, seed);
    match scenario(seed) {
        Ok(value) => value,
        Err(violation) => panic!("{violation}"),
    }
}

/// Publishes a tree and waits until all of it is hosted.
fn publish(swarm: &mut Swarm, place: usize, job: u64, stripes: usize, len: u32) -> Result<Tree, Violation> {
    let tree = Tree::random(swarm.random(), stripes, DATA, PARITY, len);
    swarm.publish(place, JobId(job), &tree);
    let end = swarm.now().after(Duration::from_secs(120));
    let hosted = move |swarm: &Swarm| {
        swarm.progress(place, JobId(job)).is_some_and(|progress| {
            progress.hosted >= progress.wanted && progress.announced >= progress.to_announce && progress.wanted > 0
        })
    };
    swarm.run_while(end, |swarm| !hosted(swarm))?;
    assert!(hosted(swarm), "not hosted after two minutes: {:?}", swarm.progress(place, JobId(job)));
    Ok(tree)
}

/// Waits for readings to end; all must have been well.
fn all_read(swarm: &mut Swarm, readings: &[usize]) -> Result<(), Violation> {
    let end = swarm.now().after(Duration::from_secs(300));
    swarm.run_while(end, |swarm| !readings.iter().all(|reading| swarm.readings[*reading].ended()))?;
    for reading in readings {
        let reading = &swarm.readings[*reading];
        assert!(reading.failed.is_empty(), "node {} could not read: {:?}", reading.node, reading.failed);
        assert!(reading.finished.is_some(), "node {} still reads", reading.node);
    }
    Ok(())
}

/// Whether every stripe of the trees, and every root, would still be whole enough without `place`.
fn can_go(swarm: &Swarm, place: usize, trees: &[Tree]) -> bool {
    let enough = |chunks: &[ChunkId], least: usize| {
        let left = |chunk: &&ChunkId| swarm.holders(chunk).iter().any(|host| *host != place);
        chunks.iter().filter(left).count() >= least
    };
    trees.iter().all(|tree| {
        let stripes = tree.stripes.iter().all(|stripe| enough(&stripe.chunks, usize::from(DATA)));
        stripes && enough(&[tree.root.0], 1)
    })
}

/// Takes the publishers, and hosts of each tree's first stripe, away, silently: four of them, or as many as all stripes can bear.
fn decimate(swarm: &mut Swarm, publishers: &[usize], trees: &[Tree], keep: &[usize]) -> Vec<usize> {
    let mut gone = publishers.to_vec();
    publishers.iter().for_each(|publisher| swarm.leave(*publisher, false));
    for tree in trees {
        let mut hosts = 0;
        for chunk in &tree.stripes[0].chunks {
            let holder = swarm.holders(chunk).into_iter().find(|host| !keep.contains(host));
            if let Some(host) = holder.filter(|host| hosts < PARITY && can_go(swarm, *host, trees)) {
                swarm.leave(host, false);
                gone.push(host);
                hosts += 1;
            }
        }
    }
    gone
}

#[test]
fn trees_stay_readable_in_a_swarm_of_two_hundred_that_come_and_go() {
    for seed in seeds(1..2) {
        replayable("trees_stay_readable_in_a_swarm_of_two_hundred", seed, |seed| {
            let config = SwarmConfig { nodes: 200, ..SwarmConfig::default() };
            let mut swarm = Swarm::acquainted(config, seed)?;
            let contacts = (0..200).map(|place| swarm.node(place).map_or(0, |node| node.contacts().len())).min();
            assert!(contacts >= Some(20), "the loneliest node knows {contacts:?}");
            let mut trees = Vec::new();
            for publisher in 0..4 {
                trees.push(publish(&mut swarm, publisher * 7, publisher as u64, 3, 256 << 10)?);
            }
            // Look-ups from all over the swarm.
            for search in 0..60 {
                let place = 100 + swarm.random().below(100) as usize;
                let chunk = trees[search % 4].stripes[search % 3].chunks[search % 12];
                swarm.locate(place, chunk);
                swarm.run(Duration::from_millis(100))?;
            }
            swarm.run(Duration::from_secs(5))?;
            let mut hops: Vec<u32> = swarm.searches.iter().map(|search| search.hops.expect("found")).collect();
            hops.sort();
            let requests: u32 = swarm.searches.iter().map(|search| search.requests).sum();
            println!("hops: median {}, most {}; {} requests", hops[30], hops[59], requests / 60);
            assert!(hops[30] <= 4, "{hops:?}");
            // Readers elsewhere, while others come and go.
            let mut readings = Vec::new();
            for (number, tree) in trees.iter().enumerate() {
                for reader in 0..3 {
                    readings.push(swarm.read(40 + number * 10 + reader, tree));
                }
                let away = 150 + number * 10;
                swarm.leave(away, number % 2 == 0);
                swarm.run(Duration::from_millis(500))?;
            }
            all_read(&mut swarm, &readings)?;
            // Publishers gone and four hosts of a stripe each: late-comers still read everything.
            let readers: Vec<usize> = (120..124).collect();
            let gone = decimate(&mut swarm, &[0, 7, 14, 21], &trees, &readers);
            assert!(gone.len() >= 8, "{gone:?}");
            swarm.join(150, &[60, 61]);
            let readings: Vec<usize> =
                trees.iter().enumerate().map(|(number, tree)| swarm.read(120 + number, tree)).collect();
            all_read(&mut swarm, &readings)?;
            let longest = swarm.readings.iter().filter_map(|r| Some(r.finished?.since(r.since))).max();
            println!("{} nodes gone, longest read {longest:?}, {:?}", gone.len(), swarm.tally());
            Ok(())
        });
    }
}

/// A small swarm with random faults: everything that is published must stay readable while k shards of each stripe live;
/// the checker says so at every step.
fn small(seed: u64) -> Result<u64, Violation> {
    let mut random = Random::new(seed ^ 0x5eed);
    let mut config = SwarmConfig { nodes: random.between(14, 30) as usize, ..SwarmConfig::default() };
    config.network.loss_permille = random.below(60);
    config.network.regions = random.between(1, 5);
    let count = config.nodes;
    let mut swarm = Swarm::acquainted(config, seed)?;
    let len = random.between(1, 512 << 10) as u32;
    let stripes = random.between(1, 3) as usize;
    let mut trees = vec![publish(&mut swarm, 0, 1, stripes, len)?];
    // Some turn bad after they were trusted with shards; fewer than there are parity shards in all.
    let mut bad = Vec::new();
    for _ in 0..random.below(u64::from(PARITY)) {
        let place = random.between(2, count as u64 - 1) as usize;
        swarm.behave(place, if random.chance(1, 2) { Manner::Liar } else { Manner::Staller });
        bad.push(place);
    }
    if random.chance(1, 2) {
        trees.push(publish(&mut swarm, 1, 2, 1, len)?);
    }
    let mut readings = Vec::new();
    for _ in 0..random.between(1, 4) {
        let reader = random.between(2, count as u64 - 1) as usize;
        let tree = random.pick(&trees).expect("there is one");
        if swarm.node(reader).is_some() {
            readings.push(swarm.read(reader, tree));
        }
        let away = random.between(2, count as u64 - 1) as usize;
        if bad.len() < usize::from(PARITY)
            && random.chance(1, 2)
            && readings.iter().all(|r| swarm.readings[*r].node != away)
        {
            swarm.leave(away, random.chance(1, 2));
            bad.push(away);
        }
        swarm.run(Duration::from_millis(random.below(1500)))?;
    }
    all_read(&mut swarm, &readings)?;
    // Without the publishers, as long as the rest suffices.
    swarm.leave(0, random.chance(1, 2));
    if bad.len() < usize::from(PARITY) {
        swarm.leave(1, false);
    }
    let reader = (2..count).find(|place| swarm.node(*place).is_some() && !bad.contains(place)).expect("some are left");
    let readings = [swarm.read(reader, &trees[0])];
    all_read(&mut swarm, &readings)?;
    swarm.run(Duration::from_secs(30))?;
    Ok(swarm.trace())
}

#[test]
fn small_swarms_with_random_faults_keep_what_was_published() {
    for seed in seeds(1..31) {
        replayable("small_swarms_with_random_faults", seed, small);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in seeds(1001..1003) {
        let runs = [(); 2].map(|()| replayable("one_seed_is_one_run", seed, small));
        assert_eq!(runs[0], runs[1], "seed {seed} gave two different runs");
    }
}

/// What is left of a tree on the nodes that are up, without `but`: shards of the worst stripe, copies of the root.
fn left(swarm: &Swarm, tree: &Tree, but: usize) -> (usize, usize) {
    let there = |chunk: &ChunkId| swarm.holders(chunk).iter().any(|place| *place != but);
    let stripes = tree.stripes.iter().map(|stripe| stripe.chunks.iter().filter(|chunk| there(chunk)).count());
    let roots = swarm.holders(&tree.root.0).iter().filter(|place| **place != but).count();
    (stripes.min().unwrap_or(0), roots)
}

/// Hosts vanish for ever, one every six hours, and strangers come in their place. The publisher is there and looks after its tree, every
/// hour, or (`keeps`: false) does not. Returns what is left of it elsewhere.
fn one_after_another(seed: u64, keeps: bool) -> Result<(usize, usize), Violation> {
    const HOSTS: usize = 10;
    // Each host goes once, in two and a half days. The long form, three weeks: TORNET_TURNS=84.
    let turns = std::env::var("TORNET_TURNS").map_or(HOSTS, |text| text.parse().expect("a number"));
    let hour = Duration::from_secs(3600);
    let mut config = SwarmConfig { nodes: HOSTS + 1, encode_every: 100, ..SwarmConfig::default() };
    config.node.keeper.period = hour;
    config.node.keeper.patience = 2 * hour;
    config.node.keeper.lease = 86_400;
    let mut swarm = Swarm::acquainted(config, seed)?;
    let tree = Tree::random(swarm.random(), 2, 4, 2, 64 << 10);
    swarm.publish(0, JobId(1), &tree);
    swarm.run(Duration::from_secs(60))?;
    assert_eq!(left(&swarm, &tree, 0), (6, 3));
    if !keeps {
        swarm.neglect(0);
    }
    for turn in 0..turns {
        let gone = 1 + turn % HOSTS;
        // As good as another node: without what it had, and unknown to everybody.
        swarm.leave(gone, false);
        swarm.run(hour)?;
        swarm.wipe(gone);
        swarm.join(gone, &[0, 1 + (gone + 7) % HOSTS]);
        swarm.run(5 * hour)?;
        let (shards, roots) = left(&swarm, &tree, 0);
        assert!(!keeps || shards >= 4 && roots >= 1, "turn {turn}: {shards} shards, {roots} roots");
        if !keeps && shards < 4 && roots == 0 {
            break;
        }
    }
    if keeps {
        // What it says of its hosts is true.
        for kept in swarm.kept(0) {
            assert!(kept.is_whole(), "{kept:?}");
            for ((chunk, _), holders) in kept.chunks.iter().zip(&kept.holders) {
                let hosts = swarm.holders(chunk);
                let told = |peer| hosts.iter().any(|place| swarm.contact(*place).is_some_and(|c| c.peer == peer));
                assert!(holders.iter().filter(|holder| holder.silent == 0).all(|holder| told(holder.peer)));
                assert!(holders.iter().any(|holder| holder.until > swarm.now().0 / 1_000_000), "leases are renewed");
            }
        }
    }
    println!("{turns} hosts vanished, one every six hours: {:?}", swarm.tally());
    Ok(left(&swarm, &tree, 0))
}

#[test]
fn hosts_that_vanish_one_after_another_are_replaced_and_nothing_is_lost() {
    for seed in seeds(1..2) {
        replayable("hosts_that_vanish_one_after_another_are_replaced_and_nothing_is_lost", seed, |seed| {
            let (shards, roots) = one_after_another(seed, true)?;
            assert!(shards >= 5 && roots >= 2, "{shards} shards, {roots} roots");
            let (shards, roots) = one_after_another(seed, false)?;
            assert!(shards < 4 && roots == 0, "without care it is lost: {shards} shards, {roots} roots");
            Ok(())
        });
    }
}

#[test]
fn what_is_asked_is_proved_and_what_is_lost_is_made_of_the_rest_by_who_never_had_it() {
    for seed in seeds(1..3) {
        replayable("what_is_asked_is_proved_and_what_is_lost_is_made_of_the_rest", seed, |seed| {
            let mut swarm = Swarm::acquainted(SwarmConfig { nodes: 30, ..SwarmConfig::default() }, seed)?;
            let tree = publish(&mut swarm, 0, 1, 2, 128 << 10)?;
            swarm.run(Duration::from_secs(60))?;
            // The publisher and as many hosts as can be spared are gone for ever.
            let trees = [tree];
            decimate(&mut swarm, &[0], &trees, &[29]);
            let [tree] = trees;
            let look = |swarm: &mut Swarm, repair: bool| {
                let errand = swarm.tend(29, &tree, repair);
                let end = swarm.now().after(Duration::from_secs(1200));
                swarm.run_while(end, |swarm| swarm.tended(29, errand).is_none())?;
                Ok::<_, Violation>(swarm.tended(29, errand).expect("it ends").to_vec())
            };
            let seen = look(&mut swarm, false)?;
            for kept in &seen {
                for ((chunk, _), holders) in kept.chunks.iter().zip(&kept.holders) {
                    let hosts = swarm.holders(chunk);
                    assert_eq!(holders.is_empty(), hosts.is_empty(), "{hosts:?} {holders:?}");
                }
            }
            let worst = |seen: &[tornet::publish::kept::Kept]| seen.iter().skip(1).map(|kept| kept.shards()).min();
            // What is with who asks counts where he hosts it.
            assert!(worst(&seen) < Some(12) && worst(&seen) >= Some(8), "{:?}", worst(&seen));
            assert_eq!(swarm.tally().rebuilt, 0, "who only looks makes nothing");
            look(&mut swarm, true)?;
            let seen = look(&mut swarm, false)?;
            assert_eq!(worst(&seen), Some(12), "{:?}", swarm.tally());
            assert!(seen.iter().all(|kept| kept.is_whole()) && swarm.tally().rebuilt > 0);
            Ok(())
        });
    }
}

// Promise 19 of tornet(7).
#[test]
fn hosts_are_paid_for_what_they_prove_and_for_nothing_else() {
    for seed in seeds(1..3) {
        replayable("hosts_are_paid_for_what_they_prove", seed, |seed| {
            let (len, hour) = (256 << 10, Duration::from_secs(3600));
            let rent = |price, most| CreditConfig {
                price: Price { per_gib: Msat(1_000_000), per_request: Msat::ZERO },
                host_price: Msat(price),
                host_price_max: Msat(most),
                ..CreditConfig::default()
            };
            let mut config = SwarmConfig { nodes: 20, ..SwarmConfig::default() };
            config.node.credit = rent(1_000_000_000, 2_000_000_000);
            config.node.keeper.period = Duration::from_secs(60);
            let mut swarm = Swarm::acquainted(config, seed)?;
            // One charges more than is offered, one nothing.
            swarm.charge(18, rent(2_000_000_001, 0));
            swarm.charge(19, rent(0, 0));
            let tree = publish(&mut swarm, 0, 1, 3, len)?;
            let hosted = |swarm: &Swarm, place| swarm.node(place).map_or(0, |node| node.stats().hosted_bytes);
            let charged = |swarm: &Swarm, place| swarm.node(place).map_or(0, |node| node.stats().rent.0.0);
            assert_eq!(hosted(&swarm, 18), 0);
            let victim =
                (1..18).find(|place| tree.stripes.iter().flat_map(|s| &s.chunks).any(|c| swarm.holds(*place, c)));
            let victim = victim.expect("somebody hosts a shard");
            swarm.run(hour)?;
            for place in (1..19).filter(|place| hosted(&swarm, *place) > 0) {
                let (got, bytes) = (charged(&swarm, place), hosted(&swarm, place));
                let worth = bytes as f64 / f64::from(1 << 30) * 1e9 / 24.0;
                println!("{place}: {got} msat for {bytes} bytes and an hour, {worth:.0} by the price");
                assert!((0.9 * worth..1.02 * worth).contains(&(got as f64)), "{got} msat, {worth}");
            }
            assert_eq!((charged(&swarm, 18), charged(&swarm, 19)), (0, 0));
            let owner = swarm.node(0).map(|node| node.stats()).unwrap_or_default();
            let all: u64 = (1..20).map(|place| charged(&swarm, place)).sum();
            assert!(owner.rent.1.0 <= all && owner.rent.1.0 as f64 > 0.98 * all as f64, "{} of {all}", owner.rent.1);
            assert!(owner.dear_hosts <= 1, "{}", owner.dear_hosts);
            // Who lost what it kept gets no more for it, whatever it says it is owed.
            let before = charged(&swarm, victim);
            for _ in 0..60 {
                swarm.wipe(victim);
                swarm.run(hour / 60)?;
            }
            let after = charged(&swarm, victim);
            assert!(after - before < before / 10, "{before} for the first hour, {} for the second", after - before);
            Ok(())
        });
    }
}
