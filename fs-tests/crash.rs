//! kill -9 at random moments, power cuts' leftovers, flipped bits: nothing fsynced is lost and no wrong byte is served.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{Node, Plan};
use harness::save::{Promised, check, write_until_killed};
use harness::tree::{self, Dice, noise};
use harness::{Lab, mounts_below, printed, processes_naming, require_fuse, shell, signal, until};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const ROUNDS: u64 = 50;

#[test]
fn mount_that_is_interrupted_while_it_starts_leaves_nothing() {
    require_fuse();
    let lab = Lab::new();
    for delay in [0, 0, 2, 5, 10, 20, 40, 80, 160, 320] {
        let mut command = Plan::new("a").mounted().background(&lab);
        let mount = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay));
        signal(mount.id(), Signal::INT);
        let output = mount.wait_with_output().unwrap();
        let point = lab.path("a/net");
        let mounts = mounts_below(&point);
        match output.status.code() {
            Some(130) => {
                let left = processes_naming(lab.dir());
                assert!(left.is_empty() && mounts.is_empty(), "after {delay} ms: {left:?} {mounts:?}");
                assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is mounted"));
            }
            // Before it caught signals, when it had done nothing.
            None => assert!(mounts.is_empty() && processes_naming(lab.dir()).is_empty(), "after {delay} ms"),
            Some(0) => {
                assert_eq!(mounts, [point]);
                shell(&format!("umount '{}' || fusermount3 -u '{0}'", mounts[0].display()));
                until("the node has ended", || processes_naming(lab.dir()).is_empty().then_some(()));
            }
            _ => panic!("after {delay} ms: {}", printed(&output)),
        }
    }
}

// Promise 11 of tornet(7).
#[test]
fn what_was_fsynced_survives_fifty_kills_at_random_moments() {
    require_fuse();
    let lab = Lab::new();
    let promised = Arc::new(Promised::default());
    let mut next = 1;
    let seed = u64::from(std::process::id()) ^ 0x5eed;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    for _ in 0..ROUNDS {
        let mut node = Plan::new("writer").mounted().start(&lab);
        check(node.mount(), &promised);
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (mount, promised, stop) = (node.mount().to_path_buf(), promised.clone(), stop.clone());
            let mut from = next;
            thread::spawn(move || {
                let _ = write_until_killed(&mount, &promised, &mut from, &stop);
                from
            })
        };
        thread::sleep(Duration::from_micros(dice.below(400_000)));
        // The dead mount stays: the next start has to replace it.
        node.kill_leaving_mount();
        stop.store(true, Ordering::Relaxed);
        next = writer.join().unwrap();
    }
    let writer = Plan::new("writer").mounted().start(&lab);
    check(writer.mount(), &promised);
    assert!(next > ROUNDS, "the writer got to do something: {next}");
    // And what survived is published as it is.
    let reader = Plan::new("reader").mounted().knows(&writer).start(&lab);
    let reference = writer.stored(writer.mount());
    let want = own_files(writer.mount());
    let got = own_files(&reader.reference(&reference));
    assert_eq!(want, got);
}

fn own_files(dir: &Path) -> BTreeMap<PathBuf, blake3::Hash> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| (PathBuf::from(entry.file_name()), blake3::hash(&fs::read(entry.path()).unwrap())))
        .collect()
}

// Promise 12 of tornet(7).
#[test]
fn of_nodes_that_start_at_the_same_moment_on_one_new_data_directory_one_serves() {
    let lab = Lab::new();
    for round in 0..8 {
        let data = lab.path(format!("data{round}"));
        let mut children = ["a", "b", "c"].map(|name| {
            let mut command = Plan::new(name).data(data.clone()).command(&lab);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        });
        let ready = children.each_mut().map(|child| {
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            line.starts_with("ready ")
        });
        assert_eq!(ready.iter().filter(|ready| **ready).count(), 1);
        for (child, ready) in children.into_iter().zip(ready) {
            signal(child.id(), Signal::TERM);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(if ready { 0 } else { 1 }), "{}", printed(&output));
            let said = String::from_utf8_lossy(&output.stderr);
            let told = said.contains("in use by process") && said.contains(&format!("data{round}"));
            assert!(ready || told, "{said}");
        }
    }
}

#[test]
fn mount_left_by_a_kill_is_replaced_at_the_next_start() {
    require_fuse();
    let lab = Lab::new();
    let mut node = Plan::new("a").mounted().start(&lab);
    fs::write(node.path("file"), b"text").unwrap();
    fs::File::open(node.path("file")).unwrap().sync_all().unwrap();
    let mount = node.mount().to_path_buf();
    node.kill_leaving_mount();
    assert!(fs::read_dir(&mount).is_err(), "the mount is dead");
    assert_eq!(mounts_below(&mount).len(), 1, "and still in the table");
    let mut again = Plan::new("a").mounted().start(&lab);
    assert_eq!(fs::read(again.path("file")).unwrap(), b"text");
    assert_eq!(mounts_below(&mount).len(), 1, "replaced, not covered");
    again.stop();
    drop(node);
}

#[test]
fn reader_that_is_killed_while_fetching_goes_on_where_it_was() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let bytes = noise(11, 40 << 20);
    fs::write(lab.path("film"), &bytes).unwrap();
    let reference = a.publish(&lab.path("film"));
    let dest = lab.path("got");
    let mut dice = Dice(u64::from(std::process::id()));
    for _ in 0..8 {
        let mut b = Plan::new("b").knows(&a).start(&lab);
        let mut get = b.command(&["get", &reference, dest.to_str().unwrap()]);
        let mut get = get.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_micros(dice.below(300_000)));
        b.kill();
        let _ = get.wait();
    }
    let b = Plan::new("b").knows(&a).start(&lab);
    b.tornet(&["get", &reference, dest.to_str().unwrap()]);
    assert!(fs::read(&dest).unwrap() == bytes);
}

#[test]
fn publisher_that_is_killed_while_publishing_publishes_the_same_after_all() {
    let lab = Lab::new();
    require_fuse();
    let source = lab.path("source");
    tree::make_varied(&source);
    fs::write(source.join("film"), noise(12, 20 << 20)).unwrap();
    let mut dice = Dice(3);
    for round in 0..6 {
        let mut a = Plan::new("a").mounted().start(&lab);
        if round == 0 {
            shell(&format!(
                "cp -a '{}' '{}' && sync -f '{}'",
                source.display(),
                a.path("copy").display(),
                a.mount().display()
            ));
        }
        thread::sleep(Duration::from_millis(dice.below(250)));
        a.kill();
    }
    let a = Plan::new("a").mounted().start(&lab);
    let b = Plan::new("b").mounted().knows(&a).start(&lab);
    let reference = a.stored(&a.path("copy"));
    tree::assert_same(&source, &b.reference(&reference));
}

/// Files of a node's store that hold payloads: the large ones, whatever their names.
fn payload_files(node: &Node) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![node.data.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                if path.file_name().unwrap() != "tree" {
                    open.push(path);
                }
            } else if entry.metadata().unwrap().len() > 1 << 20 && path.extension().is_none_or(|end| end != "redb") {
                found.push(path);
            }
        }
    }
    found
}

/// Flips a bit in every `step` bytes of all payloads.
fn flip(node: &Node, first: u64, step: usize) {
    let payloads = payload_files(node);
    assert!(!payloads.is_empty(), "the store has payloads on disk");
    for path in &payloads {
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        for offset in (first..file.metadata().unwrap().len()).step_by(step) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
        }
    }
}

// Promise 11 of tornet(7).
#[test]
fn tree_that_is_damaged_all_over_reads_back_from_what_is_left_here_and_elsewhere() {
    require_fuse();
    let lab = Lab::new();
    let mut a = Plan::new("a").start(&lab);
    let bytes = noise(14, 24 << 20);
    fs::write(lab.path("film"), &bytes).unwrap();
    let reference = a.publish(&lab.path("film"));
    let b = Plan::new("b").knows(&a).start(&lab);
    b.tornet(&["pin", &reference]);
    a.stop();
    // The publisher has all twelve shards of each stripe, so a damaged one is first made of others, which are damaged too.
    flip(&a, 5000, 100_000);
    let a = Plan::new("a").mounted().knows(&b).start(&lab);
    assert!(fs::read(a.reference(&reference)).unwrap() == bytes);
}

// Promise 11 of tornet(7).
#[test]
fn damaged_chunks_of_the_own_tree_are_sealed_again_from_its_files() {
    require_fuse();
    let lab = Lab::new();
    let mut a = Plan::new("a").mounted().start(&lab);
    let (film, note) = (noise(15, 3 << 20), noise(16, 20_000));
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("dir/film"), &film).unwrap();
    fs::write(a.path("dir/note"), &note).unwrap();
    a.stored(&a.path("dir"));
    let reference = a.tornet(&["ref", a.path("dir").to_str().unwrap()]);
    a.stop();
    // Whole manifests and more than any stripe has to spare.
    flip(&a, 4096, 15_000);
    let a = Plan::new("a").mounted().start(&lab);
    let b = Plan::new("b").mounted().knows(&a).start(&lab);
    until("the tree on another node", || {
        let read = fs::read(b.reference(&reference).join("film")).ok()? == film;
        (read && fs::read(b.reference(&reference).join("note")).ok()? == note).then_some(())
    });
    assert_eq!(a.tornet(&["ref", a.path("dir").to_str().unwrap()]), reference);
}

// Promise 11 of tornet(7).
#[test]
fn flipped_bit_in_the_store_is_found_and_fetched_anew_or_reported_and_never_served() {
    require_fuse();
    let lab = Lab::new();
    let mut a = Plan::new("a").start(&lab);
    let bytes = noise(13, 6 << 20);
    fs::write(lab.path("film"), &bytes).unwrap();
    let reference = a.publish(&lab.path("film"));
    let mut b = Plan::new("b").mounted().knows(&a).start(&lab);
    assert!(fs::read(b.reference(&reference)).unwrap() == bytes);
    b.stop();
    // Past the first page.
    flip(&b, 5000, 200_000);
    let mut b = Plan::new("b").mounted().knows(&a).start(&lab);
    assert!(fs::read(b.reference(&reference)).unwrap() == bytes, "fetched anew from the publisher");
    b.stop();
    for path in &payload_files(&b) {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        for offset in (5000..file.metadata().unwrap().len()).step_by(200_000) {
            file.write_all_at(&[0x55; 64], offset).unwrap();
        }
    }
    a.stop();
    let b = Plan::new("b").mounted().start(&lab);
    match fs::read(b.reference(&reference)) {
        Ok(got) => assert!(got == bytes, "wrong bytes were served"),
        Err(error) => {
            let errno = error.raw_os_error().unwrap();
            assert!(errno == 5 || errno == harness::node::timed_out(), "{error}");
        }
    }
}

// Promise 12 of tornet(7).
#[test]
fn unmounting_ends_every_process_in_every_way() {
    require_fuse();
    let lab = Lab::new();
    type Way = (&'static str, fn(&Node));
    let ways: [Way; 6] = [
        ("tornet umount", |node| {
            node.tornet(&["umount", node.mount().to_str().unwrap()]);
        }),
        ("umount", |node| {
            if rustix::process::geteuid().is_root() {
                shell(&format!("umount '{}'", node.mount().display()));
            } else {
                node.tornet(&["umount", node.mount().to_str().unwrap()]);
            }
        }),
        ("fusermount3 -u", |node| {
            if harness::installed("fusermount3") {
                shell(&format!("fusermount3 -u '{}'", node.mount().display()));
            } else {
                // What fusermount3 does as root, where fuse3 is not installed.
                rustix::mount::unmount(node.mount(), rustix::mount::UnmountFlags::empty()).unwrap();
            }
        }),
        ("SIGTERM", |node| node.signal(rustix::process::Signal::TERM)),
        ("SIGINT", |node| node.signal(rustix::process::Signal::INT)),
        ("SIGQUIT", |node| node.signal(rustix::process::Signal::QUIT)),
    ];
    for (place, (way, unmount)) in ways.into_iter().enumerate() {
        let mut node = Plan::new(&format!("n{place}")).mounted().start(&lab);
        fs::write(node.path("file"), way).unwrap();
        unmount(&node);
        let status = node.wait_end();
        node.assert_gone();
        assert!(status.code().is_none_or(|code| code == 0), "after {way} it ended with {status}: {}", node.log());
        // The next start finds everything.
        let again = Plan::new(&format!("n{place}")).mounted().start(&lab);
        assert_eq!(fs::read_to_string(again.path("file")).unwrap(), way);
    }
}

#[test]
fn mount_in_the_background_returns_once_it_serves_and_ends_with_its_mount() {
    require_fuse();
    let lab = Lab::new();
    let mut command = Plan::new("a").mounted().background(&lab);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    let net = lab.path("a/net");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains(net.to_str().unwrap()), "it says where it is mounted: {shown:?}");
    assert_eq!(mounts_below(&net), std::slice::from_ref(&net));
    fs::write(net.join("file"), b"serves at once").unwrap();
    assert!(!processes_naming(&lab.path("a")).is_empty());
    // Who does not say which data directory it has waits for the node's end, too.
    for named in [&["--data-dir", lab.path("a/data").to_str().unwrap()][..], &[]] {
        let umount = std::process::Command::new(harness::TORNET)
            .args(named)
            .args(["umount", net.to_str().unwrap()])
            .env("HOME", lab.path("a"))
            .output()
            .unwrap();
        assert!(umount.status.success(), "{}", printed(&umount));
        assert!(processes_naming(&lab.path("a")).is_empty(), "its process is gone");
        assert!(mounts_below(&net).is_empty());
        let again = Plan::new("a").mounted().background(&lab).output().unwrap();
        assert!(again.status.success(), "{}", printed(&again));
    }
    // Who does not wait may mount again all the same.
    rustix::mount::unmount(&net, rustix::mount::UnmountFlags::DETACH).unwrap_or_else(|_| {
        shell(&format!("fusermount3 -uz '{}'", net.display()));
    });
    let again = Plan::new("a").mounted().background(&lab).output().unwrap();
    assert!(again.status.success(), "{}", printed(&again));
    assert_eq!(fs::read(net.join("file")).unwrap(), b"serves at once");
    let stopped = std::process::Command::new(harness::TORNET)
        .args(["--data-dir", lab.path("a/data").to_str().unwrap(), "stop"])
        .output()
        .unwrap();
    assert!(stopped.status.success(), "{}", printed(&stopped));
    until("its process is gone", || processes_naming(&lab.path("a")).is_empty().then_some(()));
}

#[test]
fn start_names_who_holds_a_mount_that_was_taken_out_of_sight() {
    require_fuse();
    let lab = Lab::new();
    let node = Plan::new("a").mounted().start(&lab);
    fs::write(node.path("open"), b"held").unwrap();
    fs::create_dir(node.path("dir")).unwrap();
    let file = fs::File::open(node.path("open")).unwrap();
    let mut reader = std::process::Command::new("sleep").arg("600").stdin(file).spawn().unwrap();
    let mut inside = std::process::Command::new("sleep").arg("601").current_dir(node.path("dir")).spawn().unwrap();
    shell(&format!("umount -l '{}' || fusermount3 -uz '{0}'", node.mount().display()));
    // The next node waits for that one to end; who gives that up leaves none.
    let started = || processes_naming(lab.dir()).into_iter().any(|(_, line)| line.contains("--report"));
    let mut command = Plan::new("a").mounted().background(&lab);
    let waiting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the next node waits", || started().then_some(()));
    signal(waiting.id(), Signal::INT);
    let given_up = waiting.wait_with_output().unwrap();
    let left = started();
    let output = Plan::new("a").mounted().background(&lab).output().unwrap();
    for child in [&mut reader, &mut inside] {
        let _ = child.kill();
        let _ = child.wait();
    }
    assert_eq!(given_up.status.code(), Some(130), "{}", printed(&given_up));
    assert!(!left);
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    for child in [&reader, &inside] {
        assert!(said.contains(&format!("sleep (process {})", child.id())), "{said}");
    }
    assert!(said.contains(&format!("end process {}", node.pid())), "{said}");
}

#[test]
fn unmounting_a_busy_mount_names_who_holds_it() {
    require_fuse();
    let lab = Lab::new();
    let node = Plan::new("a").mounted().start(&lab);
    fs::create_dir(node.path("dir")).unwrap();
    let mut holder = std::process::Command::new("sleep").arg("600").current_dir(node.path("dir")).spawn().unwrap();
    let said = node.tornet_fails(&["umount", node.mount().to_str().unwrap()]);
    let _ = holder.kill();
    let _ = holder.wait();
    assert!(said.contains("sleep") && said.contains(&holder.id().to_string()), "{said:?}");
    assert_eq!(mounts_below(node.mount()).len(), 1, "it stays");
    fs::write(node.path("dir/x"), b"and serves").unwrap();
}
