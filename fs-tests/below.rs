//! The disk below the data directory fails: its power is cut at any moment, it reads, writes and syncs badly, it is full.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::disk::{Disk, Kind};
use harness::node::{Node, Plan, READER};
use harness::program::{DATA_PATHS, assert_published};
use harness::save::{Promised, check, write_until_killed};
use harness::tree::{Dice, noise};
use harness::{Lab, code, errno, require_fuse, until, within};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A lab with a disk; `None` where there cannot be one.
fn lab() -> Option<(Lab, Disk)> {
    require_fuse();
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a disk of our own takes root");
        return None;
    }
    let lab = Lab::new();
    let disk = Disk::mount(&lab.path("disk"));
    Some((lab, disk))
}

fn plan(lab: &Lab) -> Plan {
    Plan::new("a").mounted().data(lab.path("disk/data"))
}

/// Times that the power is cut. The long form: TORNET_CUTS=500.
fn cuts() -> u64 {
    std::env::var("TORNET_CUTS").map_or(12, |text| text.parse().unwrap())
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    fs::File::open(path)?.sync_all()
}

// Promise 15 of tornet(7).
#[test]
fn what_was_acknowledged_is_there_after_the_power_was_cut_at_any_moment() {
    let Some((lab, mut disk)) = lab() else { return };
    let seed = u64::from(std::process::id()) ^ 0xd15c;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let promised = Arc::new(Promised::default());
    let mut next = 1;
    // References that were given out, with what must be found under them.
    let mut given: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut peer = None;
    let mut worked = 0;
    for round in 0..cuts() {
        // The first cuts hit the start.
        let steps = if round < 3 { 40 * (round + 1) } else { 100 + dice.below(4000) };
        disk.end_after(steps);
        let options = ["rw", "nopassthrough"][round as usize % 2];
        if let Ok(mut node) = plan(&lab).option(options).try_start(&lab) {
            worked += 1;
            let stop = Arc::new(AtomicBool::new(false));
            let writer = {
                let (mount, promised, stop) = (node.mount().to_path_buf(), promised.clone(), stop.clone());
                let mut from = next;
                thread::spawn(move || {
                    let _ = write_until_killed(&mount, &promised, &mut from, &stop);
                    from
                })
            };
            let bytes = noise(round, 150_000);
            fs::write(lab.path("outside"), &bytes).unwrap();
            let published = node.run(&["publish", lab.path("outside").to_str().unwrap()]);
            if published.status.success() {
                given.insert(String::from_utf8(published.stdout).unwrap().trim().into(), bytes);
            }
            let kept = node.path(format!("kept{round}"));
            let durable = fs::write(&kept, noise(1000 + round, 70_000))
                .and_then(|()| fs::File::open(&kept)?.sync_all())
                .and_then(|()| sync_directory(node.mount()));
            let start = Instant::now();
            while !disk.is_off() && start.elapsed() < Duration::from_secs(8) {
                let state = harness::node::attribute(&kept, "user.tornet.state").unwrap_or_default();
                if durable.is_ok()
                    && (state.starts_with("stored") || state.starts_with("hosted"))
                    && let Ok(reference) = harness::node::attribute(&kept, "user.tornet.ref")
                {
                    given.insert(reference, noise(1000 + round, 70_000));
                }
                thread::sleep(Duration::from_millis(10));
            }
            disk.end();
            node.kill();
            stop.store(true, Ordering::Relaxed);
            next = writer.join().unwrap();
        }
        disk.start_again(&mut dice);
        let mut node = plan(&lab).start(&lab);
        check(node.mount(), &promised);
        let here = node.json(&["--json", "status"])["peer"].as_str().unwrap().to_string();
        assert_eq!(peer.get_or_insert(here.clone()), &here, "it is the same node");
        for (reference, bytes) in &given {
            assert!(&fs::read(node.reference(reference)).unwrap() == bytes, "{reference} was given out");
        }
        assert_published(&node, "");
        node.kill();
        disk.end();
        disk.start_again(&mut dice);
    }
    println!("{worked} rounds worked, {} references, {next} saves", given.len());
    assert!(worked > 3 && next > worked && !given.is_empty(), "it was put to the test");
}

// A disk that is nearly full takes nothing of others, and the node says so to who asks, so that others are asked instead.
#[test]
fn node_without_room_hosts_nothing_and_others_host_all_of_it() {
    let Some((lab, disk)) = lab() else { return };
    let a = Plan::new("a").config("[storage]\nhosting = \"0 B\"\n").start(&lab);
    let b = Plan::new("b").knows(&a).start(&lab);
    disk.say_free(5);
    let c = Plan::new("c").data(lab.path("disk/data")).knows(&a).start(&lab);
    until("all know each other", || {
        let linked = |node: &Node| node.json(&["--json", "status"])["peers-linked"].as_u64();
        (linked(&a) >= Some(2)).then_some(())
    });
    fs::write(lab.path("file"), noise(6, 12 << 20)).unwrap();
    a.publish(&lab.path("file"));
    let hosted = |node: &Node| node.json(&["--json", "status"])["store"]["hosted-bytes"].as_u64().unwrap();
    // In half the time after which a silent host is given up.
    until("one host has all of it", || (hosted(&b) > 18 << 20).then_some(()));
    assert_eq!(hosted(&c), 0);
    assert!(trouble(&c).contains("is free"), "{}", trouble(&c));
    disk.say_free(50);
    until("there is room", || trouble(&c).is_empty().then_some(()));
    fs::write(lab.path("file"), noise(7, 12 << 20)).unwrap();
    a.publish(&lab.path("file"));
    until("it hosts again", || (hosted(&c) > 0).then_some(()));
}

fn trouble(node: &Node) -> String {
    node.json(&["--json", "status"])["trouble"].as_str().unwrap_or_default().to_string()
}

fn why(node: &Node, path: &Path) -> String {
    node.tornet(&["why", path.to_str().unwrap()])
}

/// What is written, synced and closed in one go, as programs see it fail.
fn write_and_sync(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

// Promise 15 of tornet(7).
#[test]
fn program_is_told_that_the_disk_did_not_take_its_bytes() {
    for options in DATA_PATHS {
        let Some((lab, disk)) = lab() else { return };
        println!("-o {options}");
        let a = plan(&lab).option(options).start(&lab);
        write_and_sync(&a.path("before"), b"good").unwrap();
        for (kind, error) in [(Kind::Write, Errno::IO), (Kind::Sync, Errno::IO), (Kind::Write, Errno::NOSPC)] {
            disk.fail(kind, "data/tree", error);
            assert_eq!(errno(write_and_sync(&a.path("file"), &noise(1, 100_000))), code(error), "{kind:?}");
            disk.heal();
            assert_eq!(fs::read(a.path("before")).unwrap(), b"good");
        }
        write_and_sync(&a.path("file"), &noise(2, 100_000)).unwrap();
        assert!(fs::read(a.path("file")).unwrap() == noise(2, 100_000));
        assert_published(&a, "");
    }
}

// Promise 15 of tornet(7).
#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_published() {
    let Some((lab, disk)) = lab() else { return };
    let a = plan(&lab).start(&lab);
    for (name, size) in [("short", 10_000), ("large", 300_000)] {
        fs::create_dir(a.path(name)).unwrap();
        disk.fail(Kind::Read, format!("data/tree/{name}/bad"), Errno::IO);
        for file in ["bad", "good"] {
            fs::write(a.path(name).join(file), noise(size, size as usize)).unwrap();
        }
        let bad = a.path(name).join("bad");
        let reference = a.stored(&a.path(name).join("good"));
        assert!(fs::read(a.reference(&reference)).unwrap() == noise(size, size as usize));
        until("the bad file is named", || trouble(&a).contains(&format!("{name}/bad")).then_some(()));
        assert!(a.state(&bad).starts_with("staged"), "{}", a.state(&bad));
        assert!(why(&a, &bad).contains("cannot read"), "{}", why(&a, &bad));
        assert_eq!(errno(fs::read(&bad)), code(Errno::IO));
        disk.heal();
        assert_published(&a, "");
        assert_eq!(trouble(&a), "");
    }
}

// Promise 15 of tornet(7).
#[test]
fn nothing_counts_as_stored_that_the_disk_did_not_take() {
    for (kind, error) in [(Kind::Sync, Errno::IO), (Kind::Write, Errno::IO), (Kind::Write, Errno::NOSPC)] {
        let Some((lab, mut disk)) = lab() else { return };
        println!("{kind:?}: {error}");
        let mut a = plan(&lab).start(&lab);
        fs::write(a.path("first"), noise(1, 100_000)).unwrap();
        let first = a.stored(&a.path("first"));
        disk.fail(kind, "data/store/segments", error);
        write_and_sync(&a.path("second"), &noise(2, 100_000)).unwrap();
        fs::write(lab.path("third"), noise(3, 100_000)).unwrap();
        sync_directory(a.mount()).unwrap();
        until("the trouble is told", || (!trouble(&a).is_empty()).then_some(()));
        println!("{}", trouble(&a));
        assert!(disk.struck() > 0);
        let said = a.tornet_fails(&["publish", lab.path("third").to_str().unwrap()]);
        assert!(said.contains("disk") || said.contains("cannot write"), "{said}");
        let state = a.state(&a.path("second"));
        assert!(state.starts_with("staged") || state.starts_with("publishing"), "{state}");
        until("it is told why", || why(&a, &a.path("second")).contains(&trouble(&a)).then_some(()));
        assert!(fs::read(a.reference(&first)).unwrap() == noise(1, 100_000), "what was stored is read");
        // A disk that says that all is well again has not got back what it lost.
        disk.heal();
        match (kind, error) {
            (_, Errno::NOSPC) => assert_published(&a, ""),
            (Kind::Sync, _) => until("it takes no more", || trouble(&a).contains("takes no more").then_some(())),
            _ => {}
        }
        disk.end();
        a.kill();
        disk.start_again(&mut Dice(7));
        let a = plan(&lab).start(&lab);
        assert!(fs::read(a.reference(&first)).unwrap() == noise(1, 100_000));
        assert!(fs::read(a.path("second")).unwrap() == noise(2, 100_000));
        assert_published(&a, "");
    }
}

// Promise 15 of tornet(7).
#[test]
fn store_that_cannot_be_read_is_made_good_by_peers_and_never_serves_a_wrong_byte() {
    let Some((lab, disk)) = lab() else { return };
    let mut b = Plan::new("b").start(&lab);
    let bytes = noise(5, 3 << 20);
    fs::write(lab.path("film"), &bytes).unwrap();
    let reference = b.publish(&lab.path("film"));
    let mut a = plan(&lab).config(READER).knows(&b).start(&lab);
    assert!(fs::read(a.reference(&reference)).unwrap() == bytes);
    // Nothing is in memory any more.
    a.stop();
    let mut a = plan(&lab).config(READER).knows(&b).start(&lab);
    disk.spoil("data/store/segments");
    assert!(fs::read(a.reference(&reference)).unwrap() == bytes, "fetched anew");
    assert!(disk.struck() > 0);
    a.stop();
    b.stop();
    let a = plan(&lab).config(READER).start(&lab);
    disk.spoil("data/store/segments");
    let path = a.reference(&reference);
    let read = path.clone();
    let (alone, _) = within(Duration::from_secs(90), "a read of what nobody has", move || fs::read(read));
    let found = errno(alone);
    assert!([code(Errno::IO), code(Errno::TIMEDOUT)].contains(&found), "{found}");
    println!("{}", why(&a, &path));
}
