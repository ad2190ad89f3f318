//! A node that is mounted in several places, or in none at first: the same files everywhere at once, each place with options of its own,
//! and the node ends with the last of them.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{CONFIG, Node, Plan};
use harness::{
    Lab, TORNET, TORNET_MOUNT, code, errno, mounts_below, printed, processes_naming, require_fuse, until, within,
};
use rustix::io::Errno;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Whether a node can have several mounts here.
fn root() -> bool {
    require_fuse();
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root may show a mount in a second place");
    }
    root
}

/// The command that mounts the data directory of `node` on `point`.
fn further(lab: &Lab, node: &Node, point: &Path, options: &str) -> Command {
    let mut command = Command::new(TORNET_MOUNT);
    command.arg("--data-dir").arg(&node.data).arg("--config").arg(node.home.join("config.toml"));
    command.args(["-o", options]).arg(point).env("HOME", lab.dir()).stdin(Stdio::null()).current_dir("/");
    command
}

#[track_caller]
fn added(output: &Output, point: &Path) {
    assert!(output.status.success(), "{}", printed(output));
    assert!(printed(output).contains(point.to_str().unwrap()), "{}", printed(output));
}

fn points(node: &Node) -> Vec<PathBuf> {
    let status = node.json(&["--json", "status"]);
    status["mountpoints"].as_array().unwrap().iter().map(|point| PathBuf::from(point.as_str().unwrap())).collect()
}

// Promise 17 of tornet(7).
#[test]
fn mounts_of_one_node_show_the_same_files_and_the_last_one_ends_it() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let mut a = Plan::new("a").mounted().start(&lab);
    let (second, third) = (lab.path("second"), lab.make_dir("third"));
    fs::write(a.path("file"), b"one").unwrap();
    assert!(!a.path("new").exists(), "the kernel remembers that it is not there");
    // The directory is made, as for a first mount.
    added(&further(&lab, &a, &second, "ro,noexec").output().unwrap(), &second);
    added(&further(&lab, &a, &third, "rw").output().unwrap(), &third);
    assert_eq!(points(&a), [a.mount(), &second, &third]);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(second.to_str().unwrap())).unwrap();
    assert!(line.contains(" ro,") && line.contains("noexec") && line.contains("nosuid"), "{line}");

    // Every change is there at once in every place, also what the kernel remembers of it.
    for (from, to) in [(a.mount(), &*third), (&*third, a.mount())] {
        fs::write(from.join("new"), b"two").unwrap();
        for place in [to, &second] {
            assert_eq!(fs::read(place.join("new")).unwrap(), b"two");
            assert_eq!(fs::metadata(place.join("new")).unwrap().ino(), fs::metadata(from.join("new")).unwrap().ino());
        }
        fs::rename(from.join("new"), to.join("moved")).expect_err("two mounts are two devices to rename(2)");
        fs::rename(from.join("new"), from.join("moved")).unwrap();
        assert!(!to.join("new").exists() && second.join("moved").exists());
        fs::remove_file(to.join("moved")).unwrap();
        assert!(!from.join("moved").exists() && !second.join("moved").exists());
    }
    assert_eq!(errno(fs::write(second.join("file"), b"")), code(Errno::ROFS));
    let script = third.join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Command::new(&script).status().unwrap().success());
    assert_eq!(errno(Command::new(second.join("script")).status()), code(Errno::ACCESS));

    // Commands know a path in any of them.
    let reference = a.stored(&a.path("file"));
    let path = |place: &Path| place.join("file").to_str().unwrap().to_string();
    assert_eq!(a.tornet(&["ref", &path(&second)]), reference);
    assert_eq!(fs::read(third.join("ref").join(&reference)).unwrap(), b"one");
    let why = a.tornet(&["why", &path(&third)]);
    assert!(why.contains("sealed"), "{why}");
    assert!(a.tornet_fails(&["ref", "/etc/hostname"]).contains(third.to_str().unwrap()));

    // In whatever order they go, the node stays as long as there is one.
    let first = a.mount().to_path_buf();
    a.tornet(&["umount", first.to_str().unwrap()]);
    assert_eq!(points(&a), [&*second, &third]);
    harness::shell(&format!("umount '{}'", second.display()));
    assert_eq!(points(&a), [&*third]);
    assert_eq!(fs::read(third.join("file")).unwrap(), b"one");
    // From the one that is left comes another.
    added(&further(&lab, &a, &first, "rw").output().unwrap(), &first);
    assert_eq!(fs::read(first.join("file")).unwrap(), b"one");
    // Without a mount point all of them.
    a.tornet(&["umount"]);
    assert!(a.wait_end().success(), "{}", a.log());
    assert!(mounts_below(lab.dir()).is_empty());
    assert!(processes_naming(&a.data).is_empty());
}

// Promise 17 of tornet(7).
#[test]
fn signal_takes_every_mount_off_and_those_of_others_made_of_it() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let mut a = Plan::new("a").mounted().start(&lab);
    let (second, part) = (lab.path("second"), lab.make_dir("part"));
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("dir/file"), b"x").unwrap();
    added(&further(&lab, &a, &second, "rw").output().unwrap(), &second);
    harness::shell(&format!("mount --bind '{}' '{}'", second.join("dir").display(), part.display()));
    assert_eq!(fs::read(part.join("file")).unwrap(), b"x");
    assert_eq!(points(&a), [a.mount(), &second], "a part is no place of the whole");
    a.stop();
    assert!(mounts_below(lab.dir()).is_empty());
}

// Promise 17 of tornet(7).
#[test]
fn mounts_that_are_made_at_the_same_moment_are_of_one_node() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let config = lab.path("config.toml");
    fs::write(&config, CONFIG).unwrap();
    for round in 0..6 {
        let data = lab.path(format!("data{round}"));
        let points = ["ro", "rw", "noexec"].map(|options| (lab.path(format!("net{round}{options}")), options));
        let started = points.each_ref().map(|(point, options)| {
            let mut command = Command::new(TORNET_MOUNT);
            command.arg("--data-dir").arg(&data).arg("--config").arg(&config).args(["--listen", "127.0.0.1:0"]);
            command.args(["-o", options]).arg(point).env("HOME", lab.dir()).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        });
        for child in started {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", printed(&output));
        }
        fs::write(points[1].0.join("file"), b"x").unwrap();
        assert!(points.iter().all(|(point, _)| fs::read(point.join("file")).unwrap() == b"x"));
        assert_eq!(errno(fs::write(points[0].0.join("file"), b"y")), code(Errno::ROFS));
        let output =
            Command::new(TORNET).arg("--data-dir").arg(&data).arg("umount").env("HOME", lab.dir()).output().unwrap();
        assert!(output.status.success(), "{}", printed(&output));
        assert!(processes_naming(&data).is_empty() && mounts_below(lab.dir()).is_empty());
    }
}

// Promise 17 of tornet(7).
#[test]
fn node_without_a_mount_is_given_one_and_goes_on_without_it() {
    require_fuse();
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let point = lab.make_dir("net");
    for round in 0..2 {
        added(&further(&lab, &a, &point, "rw").output().unwrap(), &point);
        assert_eq!(points(&a), [&*point]);
        fs::write(point.join("file"), [round]).unwrap();
        assert_eq!(fs::read(a.data.join("tree/file")).unwrap(), [round]);
        let status = fs::read(point.join(".tornet/status")).unwrap();
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        assert_eq!(status["ends-with-mount"], false);
        a.tornet(&["umount", point.to_str().unwrap()]);
        assert!(points(&a).is_empty());
    }
    assert!(a.tornet_fails(&["umount"]).contains("tornet stop"));
}

// Promise 17 of tornet(7).
#[test]
fn further_mount_in_the_foreground_ends_alone() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let a = Plan::new("a").mounted().start(&lab);
    let second = lab.path("second");
    for by_signal in [true, false] {
        let mut command = further(&lab, &a, &second, "rw");
        let mut child = command.arg("-f").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), format!("ready {}", a.address));
        assert_eq!(points(&a), [a.mount(), &second]);
        if by_signal {
            harness::shell(&format!("kill {}", child.id()));
        } else {
            harness::shell(&format!("umount '{}'", second.display()));
        }
        let (status, _) = within(Duration::from_secs(240), "it ends", move || child.wait().unwrap());
        assert!(status.success(), "{status}");
        assert_eq!(points(&a), [a.mount()]);
    }
    fs::write(a.path("file"), b"x").unwrap();
}

// Promise 17 of tornet(7).
#[test]
fn further_mount_that_cannot_be_is_refused_and_leaves_the_first_as_it_is() {
    require_fuse();
    let lab = Lab::new();
    let a = Plan::new("a").mounted().option("noatime").start(&lab);
    fs::create_dir(a.path("dir")).unwrap();
    let second = lab.make_dir("second");
    let full = lab.make_dir("full");
    fs::write(full.join("file"), b"x").unwrap();
    let refused = |point: &Path, options: &str, word: &str| {
        let output = further(&lab, &a, point, options).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
        assert!(output.stdout.is_empty() && printed(&output).contains(word), "{word}: {}", printed(&output));
        assert_eq!(points(&a), [a.mount()]);
    };
    refused(a.mount(), "rw", "mounted already");
    refused(&a.path("dir"), "rw", "lies in the mount");
    refused(&full, "rw", "nonempty");
    refused(&second, "writeback", "without writeback");
    refused(&second, "allow_other", "without allow_other");
    refused(&a.data.join("tree"), "rw", "may not lie in each other");
    // What is wrong usage anyway.
    let output = further(&lab, &a, &second, "bogus").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
    assert_eq!(fs::read_dir(&second).unwrap().count(), 0);
    // A directory that was made for it is not left.
    refused(&lab.path("made"), "writeback", "without writeback");
    assert!(!lab.path("made").exists());
}

#[test]
fn ordinary_user_is_told_what_to_do_instead_of_a_second_mount() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = lab.make_dir("user");
    let nobody = 65534;
    rustix::fs::chown(&home, Some(rustix::fs::Uid::from_raw(nobody)), Some(rustix::fs::Gid::from_raw(nobody))).unwrap();
    for program in [TORNET_MOUNT, TORNET] {
        fs::copy(program, lab.path(Path::new(program).file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let as_user = |line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", line]).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &home);
        command.env("PROGRAMS", lab.dir()).current_dir(&home).stdin(Stdio::null()).uid(nobody).gid(nobody);
        command.output().unwrap()
    };
    let mount =
        |point: &str| as_user(&format!("\"$PROGRAMS/tornet-mount\" --data-dir data --listen 127.0.0.1:0 {point}"));
    let first = mount("net");
    if !first.status.success() {
        println!("skipped: ordinary users cannot mount here: {}", printed(&first));
        return;
    }
    let second = mount("other");
    assert_eq!(second.status.code(), Some(1), "{}", printed(&second));
    assert!(printed(&second).contains("ln -s"), "{}", printed(&second));
    assert!(!home.join("other").exists());
    let output = as_user("\"$PROGRAMS/tornet\" --data-dir data umount net");
    assert!(output.status.success(), "{}", printed(&output));
    until("its process is gone", || processes_naming(&home).is_empty().then_some(()));
}
