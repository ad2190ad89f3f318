//! Mutable names: what their owner publishes last is what those who follow them read, one tree or the next, also while he is away.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::liar::{Liar, Manner};
use harness::node::{Node, Plan, attribute};
use harness::{Lab, code, errno, require_fuse};
use rustix::io::Errno;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// A node with a mount, one that only serves, and one with a mount that reads.
fn three(lab: &Lab) -> (Node, Node, Node) {
    require_fuse();
    let a = Plan::new("a").mounted().start(lab);
    let b = Plan::new("b").knows(&a).start(lab);
    let c = Plan::new("c").mounted().knows(&a).knows(&b).start(lab);
    (a, b, c)
}

/// Waits until it is so.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    harness::until(what, || so().then_some(()));
}

/// What is known of a name.
fn listed(node: &Node, name: &str) -> serde_json::Value {
    let names = node.json(&["--json", "name", "list"]);
    names.as_array().unwrap().iter().find(|found| found["name"] == name).unwrap_or_else(|| panic!("{names}")).clone()
}

/// Waits until a name leads to what is published of `path` now.
fn until_moved(owner: &Node, name: &str, path: &str) -> String {
    let reference = owner.stored(&owner.path(path));
    until("the name has moved", || listed(owner, name)["tree"] == reference.as_str());
    until("others keep it", || listed(owner, name)["peers"].as_u64() > Some(0));
    reference
}

// Promise 18 of tornet(7).
#[test]
fn who_follows_a_name_reads_what_its_owner_published_last() {
    let lab = Lab::new();
    let (a, b, c) = three(&lab);
    fs::create_dir(a.path("films")).unwrap();
    fs::write(a.path("films/list"), b"one").unwrap();
    let reference = a.tornet(&["name", "create", "films", a.path("films").to_str().unwrap()]);
    assert!(reference.starts_with("tornet1"), "{reference}");
    let first = until_moved(&a, "films", "films");
    c.tornet(&["name", "follow", "theirs", &reference]);
    assert_eq!(fs::read(c.path("names/theirs/list")).unwrap(), b"one");
    assert_eq!(attribute(&c.path("names/theirs"), "user.tornet.ref").unwrap(), first);
    assert_eq!(c.tornet(&["ref", c.path("names/theirs").to_str().unwrap()]), first);
    let names: Vec<_> = fs::read_dir(c.path("names")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["theirs"]);

    // It moves; who has something of the old tree open keeps that, and nobody sees a mixture.
    let mut old = fs::File::open(c.path("names/theirs/list")).unwrap();
    let number = fs::metadata(c.path("names/theirs")).unwrap().ino();
    fs::write(a.path("films/list"), b"two, and longer").unwrap();
    fs::write(a.path("films/new"), b"new").unwrap();
    let second = until_moved(&a, "films", "films");
    assert_ne!(first, second);
    until("the reader's name has moved", || {
        fs::read(c.path("names/theirs/list")).is_ok_and(|text| text == b"two, and longer")
    });
    assert_eq!(fs::read(c.path("names/theirs/new")).unwrap(), b"new");
    assert_ne!(fs::metadata(c.path("names/theirs")).unwrap().ino(), number);
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one");

    // Read-only, and only names that are known are there.
    assert_eq!(errno(fs::write(c.path("names/theirs/x"), b"")), code(Errno::ROFS));
    assert_eq!(errno(fs::remove_file(c.path("names/theirs/list"))), code(Errno::ROFS));
    assert_eq!(errno(fs::create_dir(c.path("names/mine"))), code(Errno::ROFS));
    assert_eq!(errno(fs::read_dir(c.path("names/none"))), code(Errno::NOENT));

    // Its owner goes; a newcomer finds it all the same, and fetches by the name's reference.
    b.tornet(&["pin", &second]);
    drop(a);
    let d = Plan::new("d").mounted().knows(&b).start(&lab);
    d.tornet(&["name", "follow", "films", &reference]);
    assert_eq!(fs::read(d.path("names/films/new")).unwrap(), b"new");
    let copy = lab.path("copy");
    d.tornet(&["get", &reference, copy.to_str().unwrap()]);
    assert_eq!(fs::read(copy.join("list")).unwrap(), b"two, and longer");
    let why = d.tornet(&["why", d.path("names/films/list").to_str().unwrap()]);
    assert!(why.contains("readable"), "{why}");
}

#[test]
fn a_name_is_there_after_a_restart_whatever_the_network_does() {
    let lab = Lab::new();
    let (mut a, b, mut c) = three(&lab);
    fs::write(a.path("file"), b"one").unwrap();
    let path = a.path("file");
    let reference = a.tornet(&["name", "create", "file", path.to_str().unwrap()]);
    until_moved(&a, "file", "file");
    c.tornet(&["name", "follow", "file", &reference]);
    assert_eq!(fs::read(c.path("names/file")).unwrap(), b"one");
    assert!(fs::metadata(c.path("names/file")).unwrap().is_file(), "a name may stand for a file");
    // What is only cached may be lost with a crash of that moment.
    c.tornet(&["pin", &c.tornet(&["ref", c.path("names/file").to_str().unwrap()])]);

    // Killed, and alone when it is back: what was kept is here, and where the name leads is known at once.
    a.kill();
    c.kill();
    drop(b);
    let c = Plan::new("c").mounted().start(&lab);
    let begun = Instant::now();
    assert_eq!(fs::read(c.path("names/file")).unwrap(), b"one");
    let names: Vec<_> = fs::read_dir(c.path("names")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
    // Whoever waits for the network here waits for its deadline of 30 s.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());

    // The owner goes on where it stopped: its number grows.
    let a = Plan::new("a").mounted().knows(&c).start(&lab);
    fs::write(a.path("file"), b"two").unwrap();
    until_moved(&a, "file", "file");
    assert_eq!(listed(&a, "file")["number"], 2);
    until("the reader has it", || fs::read(c.path("names/file")).is_ok_and(|text| text == b"two"));

    // Forgotten and made again it has the same reference, and goes on from what others know of it.
    a.tornet(&["name", "remove", "file"]);
    assert_eq!(a.tornet(&["name", "create", "file", a.path("file").to_str().unwrap()]), reference);
    fs::write(a.path("file"), b"three").unwrap();
    until_moved(&a, "file", "file");
    until("the reader has it", || fs::read(c.path("names/file")).is_ok_and(|text| text == b"three"));
    assert!(listed(&a, "file")["number"].as_u64() > Some(2));
}

#[test]
fn a_name_for_a_link_moves_with_the_link() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    for release in ["release-1", "release-2"] {
        fs::create_dir(a.path(release)).unwrap();
        fs::write(a.path(release).join("number"), release).unwrap();
    }
    std::os::unix::fs::symlink("release-1", a.path("current")).unwrap();
    a.tornet(&["name", "create", "program", a.path("current").to_str().unwrap()]);
    let shows = |release: &str| fs::read_to_string(a.path("names/program/number")).is_ok_and(|text| text == release);
    until("it shows what the link leads to", || shows("release-1"));
    std::os::unix::fs::symlink("release-2", a.path("next")).unwrap();
    fs::rename(a.path("next"), a.path("current")).unwrap();
    until("it has moved with the link", || shows("release-2"));
    // Nothing there any more: what was published last stays, and the list says why.
    fs::remove_file(a.path("current")).unwrap();
    until("it is noticed", || listed(&a, "program")["trouble"].is_string());
    assert!(shows("release-2"));
    let pipe = a.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = a.tornet_fails(&["name", "create", "pipe", pipe.to_str().unwrap()]);
    assert!(error.contains("neither a file nor a directory"), "{error}");
}

#[test]
fn nobody_but_its_owner_moves_a_name() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    let c = Plan::new("c").mounted().knows(&a).start(&lab);
    fs::write(a.path("file"), b"true").unwrap();
    let reference = a.tornet(&["name", "create", "file", a.path("file").to_str().unwrap()]);
    until_moved(&a, "file", "file");
    let liar = Liar::start(Manner::FalseBytes, Some(&c.address));
    until("it is met", || c.tornet(&["peers"]).contains(liar.address().rsplit('@').next().unwrap()));
    c.tornet(&["name", "follow", "file", &reference]);
    assert_eq!(fs::read(c.path("names/file")).unwrap(), b"true");
    until("who lies is dropped", || c.log().contains("a head that its owner did not sign"));
    assert_eq!(listed(&c, "file")["number"], 1);
}

#[test]
fn what_cannot_be_a_name_is_refused_with_a_reason() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    fs::create_dir(a.path("dir")).unwrap();
    let dir = a.path("dir");
    let dir = dir.to_str().unwrap();
    let root = a.tornet(&["name", "create", "all"]);
    for (args, said) in [
        (&["name", "create", "a/b", dir][..], "cannot be a name"),
        (&["name", "create", "..", dir], "cannot be a name"),
        (&["name", "create", "all", dir], "there is a name all already"),
        (&["name", "create", "x", a.path("none").to_str().unwrap()], "a name stands for a file or directory"),
        (&["name", "create", "x", a.path("names").to_str().unwrap()], "not in your own tree"),
        (&["name", "create", "x", "/etc"], "is not below"),
        (&["name", "remove", "none"], "there is no name none"),
    ] {
        let error = a.tornet_fails(args);
        assert!(error.contains(said), "{args:?}: {error}");
    }
    let file = a.stored(a.path("dir").as_path());
    let error = a.tornet_refuses(&["name", "follow", "x", &file]);
    assert!(error.contains("where the reference of a name is needed"), "{error}");
    for args in [&["pin", root.as_str()][..], &["verify", &root]] {
        let error = a.tornet_refuses(args);
        assert!(error.contains("tornet name follow"), "{error}");
    }
    // Below ref/ it is nothing, and `why` says what to do with it.
    assert_eq!(errno(fs::read_dir(a.reference(&root))), code(Errno::NOENT));
    let why = a.tornet(&["why", a.reference(&root).to_str().unwrap()]);
    assert!(why.contains("tornet name follow"), "{why}");
    // One that nobody knows: the reader is told so when the deadline is over, and `why` tells why.
    let b = Plan::new("b").mounted().start(&lab);
    b.tornet(&["name", "follow", "lost", &root]);
    assert_eq!(errno(fs::read_dir(b.path("names/lost"))), code(Errno::TIMEDOUT));
    // The first look waited for its whole deadline; nobody does that again and again.
    let begun = Instant::now();
    assert_eq!(errno(fs::read_dir(b.path("names/lost"))), code(Errno::TIMEDOUT));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let why = b.tornet(&["why", b.path("names/lost").to_str().unwrap()]);
    assert!(why.contains("no peer answered"), "{why}");
    assert!(b.tornet(&["name", "list"]).contains("no peer answered"));
    b.tornet(&["name", "remove", "lost"]);
    assert_eq!(fs::read_dir(b.path("names")).unwrap().count(), 0);
    assert_eq!(errno(fs::read_dir(b.path("names/lost"))), code(Errno::NOENT));
}
