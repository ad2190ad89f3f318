//! Programs that others wrote, run in a mount; and the look at what is published after them.

use super::node::Node;
use super::tree;
use super::{installed, printed};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// The ways in which the bytes of the own tree travel, as mount options: lent to the kernel, through the node, gathered by the kernel.
pub const DATA_PATHS: [&str; 3] = ["rw", "nopassthrough", "writeback"];

/// Whether all of these programs are there; says which one is missing.
pub fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !installed(program));
    if let Some(program) = missing {
        println!("skipped: {program} is not installed");
    }
    missing.is_none()
}

/// A program in a directory, with no settings of the user who runs the tests; not yet run.
pub fn program(name: impl AsRef<OsStr>, dir: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(dir).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    for (role, value) in [("AUTHOR", "a"), ("COMMITTER", "c")] {
        command.env(format!("GIT_{role}_NAME"), value).env(format!("GIT_{role}_EMAIL"), "nobody@example.org");
    }
    command
}

/// Runs it, which must go well; gives its standard output.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", printed(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program with these words, separated by spaces, as arguments.
#[track_caller]
pub fn run(dir: &Path, line: &str) -> String {
    let mut words = line.split_whitespace();
    succeed(program(words.next().unwrap(), dir).args(words))
}

/// A Python script in a directory, not yet run.
pub fn script(dir: &Path, text: &str, args: &[&str]) -> Command {
    let mut command = program("python3", dir);
    command.arg("-c").arg(text).args(args);
    command
}

/// Runs a Python script in a directory.
#[track_caller]
pub fn python(dir: &Path, text: &str, args: &[&str]) -> String {
    succeed(&mut script(dir, text, args))
}

/// What is published of a directory is what it holds now.
#[track_caller]
pub fn assert_published(node: &Node, below: &str) {
    let reference = node.stored(&node.path(below));
    let mut here = tree::snapshot(&node.path(below));
    // At the top stand names that are not the user's.
    here.retain(|path, _| !(below.is_empty() && (["names", "ref", ".tornet"].iter().any(|top| path.starts_with(top)))));
    tree::assert_same_as(&here, &node.reference(&reference));
}
