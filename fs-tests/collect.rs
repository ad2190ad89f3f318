//! Chunks of trees that moved on are given up, and nothing else is, whenever the node is killed.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{Node, Plan, READER};
use harness::tree::{self, Dice, noise};
use harness::{Lab, require_fuse, until};
use std::fs;
use std::time::Duration;

/// A cache so small that what is no longer own is soon evicted.
const SMALL: &str =
    "[network]\nmdns = false\n\n[storage]\nredundancy = \"8+4\"\nhosting = \"0 B\"\ncache = \"32 MiB\"\n";

fn own_bytes(node: &Node) -> u64 {
    node.json(&["--json", "status"])["store"]["own-bytes"].as_u64().unwrap()
}

fn cached_bytes(node: &Node) -> u64 {
    node.json(&["--json", "status"])["store"]["cached-bytes"].as_u64().unwrap()
}

// Promise 5 of tornet(7).
#[test]
fn chunks_of_deleted_and_overwritten_files_are_given_up_and_the_tree_stays_whole() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().config(SMALL).start(&lab);
    let b = Plan::new("b").mounted().config(READER).knows(&a).start(&lab);
    fs::create_dir(a.path("dir")).unwrap();
    tree::make_many(&a.path("dir/many"), 150, 5000);
    fs::write(a.path("dir/film"), noise(1, 24 << 20)).unwrap();
    fs::write(a.path("dir/other"), noise(2, 10 << 20)).unwrap();
    fs::write(lab.path("outside"), noise(3, 5 << 20)).unwrap();
    let published = a.publish(&lab.path("outside"));
    let old = a.stored(a.mount());
    let small = a.stored(&a.path("dir/many/d000/f00007"));
    let full = until("all of it is own", || {
        let bytes = own_bytes(&a);
        (bytes > 55 << 20).then_some(bytes)
    });
    fs::remove_file(a.path("dir/film")).unwrap();
    fs::write(a.path("dir/other"), noise(4, 9 << 20)).unwrap();
    let new = a.stored(a.mount());
    assert_ne!(old, new);
    until("own chunks are fewer", || (own_bytes(&a) < full - (32 << 20)).then_some(()));
    until("the cache holds its limit", || (cached_bytes(&a) <= 32 << 20).then_some(()));
    tree::assert_same(&a.path("dir"), &b.reference(&new).join("dir"));
    assert!(fs::read(b.reference(&published)).unwrap() == noise(3, 5 << 20), "what was published on demand");
    assert!(fs::read(b.reference(&small)).unwrap() == noise(7, 5000), "a packed file by its own reference");
    // It comes back as if it had never been there.
    fs::write(a.path("dir/film"), noise(1, 24 << 20)).unwrap();
    let film = a.stored(&a.path("dir/film"));
    assert!(fs::read(b.reference(&film)).unwrap() == noise(1, 24 << 20));
}

#[test]
fn node_killed_while_it_gives_chunks_up_keeps_all_of_its_tree() {
    let lab = Lab::new();
    require_fuse();
    let plan = || Plan::new("a").mounted().config(SMALL);
    let mut a = plan().start(&lab);
    let b = Plan::new("b").mounted().config(READER).knows(&a).start(&lab);
    let mut dice = Dice(5);
    fs::write(a.path("stays"), noise(1, 8 << 20)).unwrap();
    for round in 0..6 {
        fs::create_dir_all(a.path("dir")).unwrap();
        for place in 0..40 {
            fs::write(a.path(format!("dir/f{place:02}")), noise(round * 100 + place, 30_000)).unwrap();
        }
        fs::write(a.path("film"), noise(1000 + round, 12 << 20)).unwrap();
        a.stored(a.mount());
        // A run begins two seconds after the tree moved on.
        std::thread::sleep(Duration::from_millis(1900 + dice.below(400)));
        let address = a.address.clone();
        a.kill();
        // Before the next one is mounted at the same place.
        drop(a);
        a = plan().listen(address.split('@').nth(1).unwrap()).start(&lab);
        let root = a.stored(a.mount());
        let shown = b.reference(&root);
        assert!(fs::read(shown.join("film")).unwrap() == noise(1000 + round, 12 << 20), "round {round}");
        tree::assert_same(&a.path("dir"), &shown.join("dir"));
        assert!(fs::read(a.reference(&root).join("stays")).unwrap() == noise(1, 8 << 20), "round {round}");
    }
    until("what was left is given up", || (own_bytes(&a) < 40 << 20).then_some(()));
}
