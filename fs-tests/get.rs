//! `tornet get`: where copies go, and what becomes of those that cannot be whole.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::forge::{self, Forged};
use harness::liar::{Liar, Manner};
use harness::node::Plan;
use harness::tree::noise;
use harness::{Lab, printed};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use tornet::content::reference::Kind;

#[test]
fn a_link_at_the_destination_stays_and_what_it_names_is_written() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let source = lab.make_dir("source");
    fs::write(source.join("file"), noise(1, 200_000)).unwrap();
    let (file, tree) = (a.publish(&source.join("file")), a.publish(&source));
    fs::write(lab.path("old"), "old").unwrap();
    lab.make_dir("dir");
    for (link, target) in [("to-file", "old"), ("to-nothing", "new"), ("to-dir", "dir")] {
        symlink(target, lab.path(link)).unwrap();
        let reference = if link == "to-dir" { &tree } else { &file };
        a.tornet(&["get", reference, lab.path(link).to_str().unwrap()]);
        assert_eq!(fs::read_link(lab.path(link)).unwrap().to_str(), Some(target));
    }
    for written in ["old", "new", "dir/file"] {
        assert!(fs::read(lab.path(written)).unwrap() == noise(1, 200_000), "{written}");
    }
    // A link into a pipe, as /dev/stdout is one.
    symlink("/proc/self/fd/1", lab.path("stdout")).unwrap();
    let mut get = a.command(&["get", &file, lab.path("stdout").to_str().unwrap()]);
    let output = get.stdout(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`cat` it below ref/"), "{}", printed(&output));
    assert_eq!(fs::read_link(lab.path("stdout")).unwrap().to_str(), Some("/proc/self/fd/1"));
}

#[test]
fn what_cannot_be_read_of_a_tree_keeps_nothing_else_from_being_fetched() {
    let lab = Lab::new();
    let host = Liar::start(Manner::Honest, None);
    let hold = |forged: Forged| {
        let (node, chunk) = forged.seal();
        host.hold(chunk);
        node
    };
    let bad = hold(Forged::new(99));
    let inside = hold(Forged::leaf(1).inline(b"file", b"x"));
    let top = Forged::leaf(4).child_entry(b"bad-file", 2, 1 << 20, bad).child_entry(b"dir", 3, 1, inside);
    let top = hold(top.child_entry(b"ill-dir", 3, 1, bad).inline(b"last", b"right"));
    let reference = forge::reference(Kind::Directory, top);
    let node = Plan::new("reader").knows_address(&host.address()).start(&lab);
    let dest = lab.path("dest");
    let said = node.tornet_fails(&["get", &reference, dest.to_str().unwrap()]);
    assert!(said.contains("2 parts of the tree could not be fetched: bad-file: "), "{said}");
    assert!(said.contains("; ill-dir: ") && said.contains("the same command"), "{said}");
    assert_eq!(fs::read(dest.join("dir/file")).unwrap(), b"x");
    assert_eq!(fs::read(dest.join("last")).unwrap(), b"right");
    assert!(!dest.join("bad-file").exists() && !dest.join("ill-dir").exists());
    let said = node.tornet_fails(&["--json", "get", &reference, dest.to_str().unwrap()]);
    let told: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let missing = told["missing"].as_array().unwrap();
    let paths: Vec<&str> = missing.iter().map(|missing| missing["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["bad-file", "ill-dir"], "{told}");
    assert!(told["remedy"].is_string() && missing[0]["error"].is_string(), "{told}");
}
