//! `tornet get`: where copies go, and what becomes of those that cannot be whole.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::Plan;
use harness::tree::noise;
use harness::{Lab, printed};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

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
