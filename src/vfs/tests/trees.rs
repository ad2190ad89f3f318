//! Published trees and control files.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::vfs::attr::SetAttr;
use crate::vfs::control::{NAMES, REF, TORNET};

const REFERENCE: &str = "tornet1example";

fn published() -> World {
    let deep = Tree::directory([("leaf", Tree::File(b"green".to_vec()))]);
    let many = (0..50u8).map(|n| (vec![b'a', n + 128], Tree::File(vec![n; usize::from(n)]))).collect();
    let top = Tree::directory([
        ("deep", deep),
        ("file", Tree::File(b"hello".to_vec())),
        ("link", Tree::Link("file")),
        ("many", Tree::Directory(many)),
    ]);
    world_with([(REFERENCE, top), ("tornet1file", Tree::File(vec![7; 100]))])
}

#[test]
fn a_reference_opens_as_files() {
    let world = published();
    let file = world.find("ref/tornet1example/file").unwrap();
    assert_eq!(world.content(file), "hello");
    let attr = now(world.fs.attr(file, None)).unwrap();
    assert_eq!((attr.size, attr.mtime.seconds, attr.mode & 0o7777), (5, -5, 0o755));
    let leaf = world.find("ref/tornet1example/deep/leaf").unwrap();
    assert_eq!(world.content(leaf), "green");
    let link = world.find("ref/tornet1example/link").unwrap();
    assert_eq!(now(world.fs.readlink(link)).unwrap(), b"file");
    assert_eq!(now(world.fs.attr(world.find("ref/tornet1file").unwrap(), None)).unwrap().size, 100);
    assert_eq!(world.find("ref/tornet1example/none"), None);
    assert_eq!(now(world.fs.xattr(file, OsStr::new("user.colour"))).unwrap(), b"red");
}

#[test]
fn inode_numbers_are_the_same_in_every_mount() {
    let number = |path| published().find(path).unwrap();
    for path in ["ref/tornet1example", "ref/tornet1example/deep/leaf"] {
        assert_eq!(number(path), number(path));
    }
    assert_ne!(number("ref/tornet1example/file"), number("ref/tornet1example/link"));
}

#[test]
fn a_published_directory_is_listed_whole_from_any_place() {
    let world = published();
    let many = world.find("ref/tornet1example/many").unwrap();
    for (at_once, attributes) in [(1000, true), (7, true), (1, false)] {
        let names = world.names(many, at_once, attributes);
        assert_eq!(names.len(), 52);
        assert_eq!(names.iter().filter(|(_, node)| node.is_some()).count(), if attributes { 50 } else { 0 });
    }
    let opened = now(world.fs.open_directory(many)).unwrap();
    let page = |room| Page { room, attributes: false, offset: 0, found: Vec::new() };
    let all = now(world.fs.list(many, opened.handle, 0, page(100))).unwrap().found;
    for from in [0, 1, 2, 3, 20, 51] {
        // The kernel asks one that was just opened for a later place, too: what is before may still be in its cache.
        let other = now(world.fs.open_directory(many)).unwrap();
        for handle in [opened.handle, other.handle] {
            let found = now(world.fs.list(many, handle, from, page(5))).unwrap().found;
            assert_eq!(found, all[from as usize..].iter().take(5).cloned().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_mutable_name_shows_one_tree_or_the_next_and_never_a_mixture() {
    let tree = |text: &str| {
        Tree::directory([
            ("file", Tree::File(text.into())),
            ("deep", Tree::directory([("leaf", Tree::File(text.into()))])),
        ])
    };
    let world = world_with([
        ("tornet1old", tree("old")),
        ("tornet1new", tree("new")),
        ("tornet1file", Tree::File(vec![7; 100])),
    ]);
    let lead = |reference: &str| world.swarm.names.lock().unwrap().insert("photos".into(), reference.into());
    assert_eq!(world.find("names/photos"), None);
    lead("tornet1old");
    let old = world.find("names/photos").unwrap();
    assert_ne!(Some(old), world.find("ref/tornet1old"), "the kernel knows a directory by one name only");
    let (file, deep) = (world.find("names/photos/file").unwrap(), world.find("names/photos/deep").unwrap());
    let kept = |outcome| match now(outcome).unwrap() {
        Lookup::Found(entry) => entry.kept,
        Lookup::Missing(kept) => kept,
    };
    // It may move at any time; what is below one of its trees does not.
    assert!(kept(world.fs.lookup(NAMES, OsStr::new("photos"))) <= Duration::from_secs(1));
    assert!(kept(world.fs.lookup(old, OsStr::new("file"))) > Duration::from_secs(1_000_000));
    assert_eq!(kept(world.fs.lookup(NAMES, OsStr::new("none"))), Duration::ZERO);
    lead("tornet1new");
    let new = world.find("names/photos").unwrap();
    assert_ne!(new, old);
    assert_eq!(world.content(world.find("names/photos/deep/leaf").unwrap()), "new");
    // Who stands in the old tree stays there.
    assert_eq!(world.content(world.find_in(deep, "leaf").unwrap()), "old");
    assert_eq!(world.content(file), "old");
    assert_eq!(now(world.fs.xattr(new, OsStr::new("user.tornet.ref"))).unwrap(), b"tornet1new");
    assert_eq!(now(world.fs.xattr(old, OsStr::new("user.tornet.ref"))).unwrap(), b"tornet1old");
    lead("tornet1old");
    assert_eq!(world.find("names/photos"), Some(old), "the same tree has the same numbers");
    assert_eq!(world.fs.foreign.path(file), Path::new("names/photos/file"));
    // Nothing can be made there, and the list is of the names alone, whatever the kernel remembers.
    assert_eq!(errno(world.fs.mkdir(NAMES, OsStr::new("x"), 0o755, caller())), Errno::ROFS);
    assert_eq!(errno(world.fs.unlink(new, OsStr::new("file"))), Errno::ROFS);
    world.swarm.names.lock().unwrap().insert("film".into(), "tornet1file".into());
    for attributes in [false, true] {
        let listed = world.names(NAMES, 1, attributes);
        let names: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [".", "..", "film", "photos"]);
        // Of a file that was never opened nothing is known, and nobody is asked for a list's sake.
        let node = attributes.then_some(old);
        assert_eq!((listed[2].1, listed[3].1), (None, node));
    }
    let film = world.find("names/film").unwrap();
    assert_eq!(world.names(NAMES, 9, true)[2].1, Some(film));
    // A directory is found, and shown, while no peer answers; what it holds is not.
    let silent = world_with([("tornet1old", tree("old"))]);
    silent.swarm.silent.store(true, Ordering::Relaxed);
    silent.swarm.names.lock().unwrap().insert("photos".into(), "tornet1old".into());
    let top = silent.find("names/photos").unwrap();
    assert_eq!(now(silent.fs.attr(top, None)).unwrap().mode & 0o7777, 0o755);
    assert_eq!(errno(now(silent.fs.lookup(top, OsStr::new("file")))), Errno::TIMEDOUT);
    assert!(!now(world.fs.open_directory(NAMES)).unwrap().keep_cache);
}

#[test]
fn nodes_that_the_kernel_forgets_are_gone() {
    let world = published();
    let top = world.find("ref/tornet1example").unwrap();
    world.fs.forget(top, 1);
    assert_eq!(errno(now(world.fs.attr(top, None))), Errno::STALE);
    assert_eq!(world.find("ref/tornet1example"), Some(top));
}

#[test]
fn no_change_of_a_published_tree_is_possible() {
    let world = published();
    let (top, file) = (world.find("ref/tornet1example").unwrap(), world.find("ref/tornet1example/file").unwrap());
    let own = world.file(ROOT, "own", "x");
    let name = OsStr::new("file");
    let fs = &world.fs;
    assert_eq!(errno(fs.mkdir(top, name, 0o755, caller())), Errno::ROFS);
    assert_eq!(errno(fs.create(top, name, 1, 0o644, caller(), &|_| None)), Errno::ROFS);
    assert_eq!(errno(fs.unlink(top, name)), Errno::ROFS);
    assert_eq!(errno(fs.rename((top, name), (ROOT, name), 0)), Errno::ROFS);
    assert_eq!(errno(fs.rename((ROOT, OsStr::new("own")), (top, name), 0)), Errno::ROFS);
    assert_eq!(errno(fs.link(file, ROOT, OsStr::new("x"))), Errno::XDEV);
    assert_eq!(errno(fs.link(own, top, OsStr::new("x"))), Errno::ROFS);
    assert_eq!(errno(fs.set_xattr(file, OsStr::new("user.x"), b"", 0)), Errno::ROFS);
    assert_eq!(errno(now(fs.set_attr(file, &SetAttr { mode: Some(0o600), ..SetAttr::default() }))), Errno::ROFS);
    assert_eq!(errno(now(fs.open_file(file, 1, &|_| None))), Errno::ROFS);
    assert_eq!(errno(fs.mkdir(REF, name, 0o755, caller())), Errno::ROFS);
    assert_eq!(errno(fs.mkdir(TORNET, name, 0o755, caller())), Errno::ROFS);
    let (path, why, _) = fs.refusals().around("ref/tornet1example/file".as_ref()).unwrap();
    assert_eq!(path, PathBuf::from("ref/tornet1example/file"));
    assert!(why.contains("never change"));
}

#[test]
fn a_mistyped_reference_is_refused_with_its_reason_and_other_names_are_just_missing() {
    let world = published();
    assert_eq!(errno(now(world.fs.lookup(REF, OsStr::new("tornet1mistyped")))), Errno::INVAL);
    assert_eq!(world.fs.refusals().around("ref/tornet1mistyped".as_ref()).unwrap().1, "mistyped");
    assert_eq!(world.find("ref/.hidden"), None);
}

#[test]
fn silence_of_the_swarm_is_a_timeout_and_not_remembered_for_long() {
    let world = published();
    let top = world.find("ref/tornet1example").unwrap();
    let file = world.find_in(top, "file").unwrap();
    let opened = now(world.fs.open_file(file, 0, &|_| None)).unwrap();
    world.swarm.silent.store(true, Ordering::Relaxed);
    assert_eq!(errno(now(world.fs.lookup(top, OsStr::new("many")))), Errno::TIMEDOUT);
    assert_eq!(errno(now(world.fs.read(file, opened.handle, 0, 5))), Errno::TIMEDOUT);
    assert_eq!(world.fs.refusals().around("ref/tornet1example/file".as_ref()).unwrap().1, "no peer answered");
    world.swarm.silent.store(false, Ordering::Relaxed);
    // The kernel's second try at the same bytes does not wait again; others are free.
    assert_eq!(errno(now(world.fs.read(file, opened.handle, 2, 1))), Errno::TIMEDOUT);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(&now(world.fs.read(file, opened.handle, 0, 5)).unwrap()[..], b"hello");
    assert!(world.find_in(top, "many").is_some());
}

#[test]
fn control_files_are_read_whole_though_they_have_no_size() {
    let world = world();
    let status = world.find(".tornet/status").unwrap();
    assert_eq!(now(world.fs.attr(status, None)).unwrap().size, 0);
    let opened = now(world.fs.open_file(status, 0, &|_| None)).unwrap();
    assert!(opened.direct);
    assert_eq!(&now(world.fs.read(status, opened.handle, 4, 100)).unwrap()[..], b"status\n");
    assert_eq!(errno(now(world.fs.open_file(status, 1, &|_| None))), Errno::ROFS);
    let names: Vec<String> = world.names(TORNET, 2, true).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [".", "..", "status", "peers"]);
    assert_eq!(world.names(REF, 10, true).len(), 2);
    assert_eq!(world.find(".tornet/nothing"), None);
}
