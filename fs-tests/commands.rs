//! The commands as scripts use them: output, JSON, exit codes, progress, resumption.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{Plan, READER, attribute};
use harness::tree::{self, noise};
use harness::{Lab, TORNET, TORNET_MOUNT, mounts_below, printed, processes_naming, require_fuse, shell, until};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

const COMMANDS: [&str; 14] = [
    "ref", "get", "publish", "pin", "unpin", "verify", "status", "peers", "why", "node", "umount", "swarm", "wallet",
    "help",
];

#[test]
fn every_command_has_help_and_a_wrong_use_ends_with_2() {
    let help = Command::new(TORNET).arg("--help").output().unwrap();
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    for command in COMMANDS {
        assert!(text.contains(command), "`tornet --help` does not name {command}");
        if command != "help" {
            let output = Command::new(TORNET).args([command, "--help"]).output().unwrap();
            assert!(output.status.success() && output.stdout.len() > 100, "{command}: {}", printed(&output));
        }
    }
    for wrong in [&["frobnicate"][..], &["get"], &["status", "--no-such-flag"], &["swarm", "many"]] {
        let output = Command::new(TORNET).args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", printed(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{wrong:?}: {}", printed(&output));
    }
    for program in [TORNET, TORNET_MOUNT] {
        let output = Command::new(program).arg("--version").output().unwrap();
        assert!(String::from_utf8(output.stdout).unwrap().contains(env!("CARGO_PKG_VERSION")));
    }
    let lab = Lab::new();
    let point = lab.path("point");
    for wrong in [&[][..], &["-o", "bogus"], &["-f", "-o", "bogus"], &["--bootstrap", "bogus"], &["--listen", "here"]] {
        let mut command = Command::new(TORNET_MOUNT);
        command.args(wrong).env("HOME", lab.dir());
        if !wrong.is_empty() {
            command.arg(&point);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", printed(&output));
        assert!(output.stdout.is_empty() && !point.exists(), "{wrong:?}: {}", printed(&output));
    }
}

#[test]
fn failure_is_json_too_where_json_is_asked_for() {
    let lab = Lab::new();
    let tornet = |args: &[&str], code: i32| {
        let mut command = Command::new(TORNET);
        command.args(["--json", "--data-dir"]).arg(lab.path("none")).args(args).env("HOME", lab.dir());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", printed(&output));
        assert!(output.stdout.is_empty(), "{args:?}: {}", printed(&output));
        let text = String::from_utf8(output.stderr).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|e| panic!("{args:?}: {text:?}: {e}"))
    };
    let said = tornet(&["status"], 1);
    assert!(said["error"].as_str().unwrap().contains("no node is running"), "{said}");
    assert!(said["remedy"].as_str().unwrap().contains("tornet-mount"), "{said}");
    assert!(tornet(&["publish", "/etc/hostname"], 1)["remedy"].as_str().unwrap().contains("--wait"));
    for wrong in [&["pin", "hello"][..], &["swarm", "many"], &["frobnicate"]] {
        let said = tornet(wrong, 2);
        assert!(said["error"].as_str().unwrap().contains(wrong[wrong.len() - 1]), "{said}");
    }
}

#[test]
fn who_waits_is_told_what_for_and_how_to_go_on_when_interrupted() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    fs::write(lab.path("file"), noise(30, 100_000)).unwrap();
    let reference = a.publish(&lab.path("file"));
    let b = Plan::new("b").start(&lab);
    for command in [&["get", &reference, "dest"][..], &["pin", &reference], &["verify", &reference]] {
        let mut child = b.command(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.starts_with("waiting: ") && first.contains("Ctrl-C"), "{command:?}: {first:?}");
        harness::signal(child.id(), rustix::process::Signal::INT);
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        let output = child.wait_with_output().unwrap();
        assert!(output.stdout.is_empty(), "{command:?}: {}", printed(&output));
        if command[0] == "get" {
            assert_eq!(output.status.code(), Some(130), "{rest:?}");
            assert!(rest.iter().any(|line| line.contains("goes on where it stopped")), "{rest:?}");
        }
    }
}

#[test]
fn command_without_a_node_says_how_to_start_one() {
    let lab = Lab::new();
    let data = lab.path("none");
    for command in [&["status"][..], &["peers"], &["publish", "/etc/hostname"]] {
        let output =
            Command::new(TORNET).arg("--data-dir").arg(&data).args(command).env("HOME", lab.dir()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {}", printed(&output));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("tornet-mount") || said.contains("tornet node"), "{said:?}");
        assert!(said.contains(data.to_str().unwrap()), "it names the data directory: {said:?}");
    }
}

#[test]
fn published_tree_is_got_back_whole_with_modes_times_and_links() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let b = Plan::new("b").knows(&a).start(&lab);
    let source = lab.path("source");
    tree::make_varied(&source);
    let reference = a.publish(&source);
    let dest = lab.path("dest");
    b.tornet(&["get", &reference, dest.to_str().unwrap()]);
    tree::assert_same(&source, &dest);
    // Once more over what is there: nothing to do, nothing harmed.
    b.tornet(&["get", &reference, dest.to_str().unwrap()]);
    tree::assert_same(&source, &dest);
    // Publishing again makes nothing new.
    assert_eq!(a.publish(&source), reference);
    // A single file.
    let file = a.publish(&source.join("size-3000000"));
    b.tornet(&["get", &file, lab.path("file").to_str().unwrap()]);
    assert_eq!(fs::read(lab.path("file")).unwrap(), fs::read(source.join("size-3000000")).unwrap());
}

#[test]
fn interrupted_get_is_resumed_and_never_leaves_half_a_file_under_its_name() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let b = Plan::new("b").knows(&a).start(&lab);
    let bytes = noise(21, 64 << 20);
    fs::write(lab.path("film"), &bytes).unwrap();
    let reference = a.publish(&lab.path("film"));
    let dest = lab.path("dest");
    for delay in [30, 80, 200] {
        let mut get = b.command(&["get", &reference, dest.to_str().unwrap()]);
        let mut get = get.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let _ = get.kill();
        let _ = get.wait();
        if let Ok(got) = fs::read(&dest) {
            assert!(got == bytes, "half a file stands under its name");
        }
    }
    b.tornet(&["get", &reference, dest.to_str().unwrap()]);
    assert!(fs::read(&dest).unwrap() == bytes);
}

#[test]
fn copy_takes_unfinished_files_of_other_trees_away_and_leaves_nothing_when_it_fails() {
    let lab = Lab::new();
    let mut a = Plan::new("a").start(&lab);
    let b = Plan::new("b").config(READER).knows(&a).start(&lab);
    let source = lab.make_dir("source");
    fs::write(source.join("film"), noise(31, 300_000)).unwrap();
    fs::write(source.join(".own.tornet-part"), b"published").unwrap();
    let reference = a.publish(&source);
    let dest = lab.make_dir("dest");
    let stale = [lab.path(".dest.tornet-part"), dest.join(".other.tornet-part"), dest.join(".film.tornet-part")];
    for path in stale.iter().chain([&dest.join(".own.tornet-part")]) {
        fs::write(path, b"old").unwrap();
    }
    b.tornet(&["get", &reference, dest.to_str().unwrap()]);
    tree::assert_same(&source, &dest);
    assert!(stale.iter().all(|path| !path.exists()), "{}", shell(&format!("ls -la '{}'", lab.dir().display())));
    // The manifests are here, what they name is not to be had.
    fs::remove_file(source.join(".own.tornet-part")).unwrap();
    fs::write(source.join("film"), noise(32, 300_000)).unwrap();
    let reference = a.publish(&source);
    b.tornet(&["verify", &reference]);
    a.stop();
    let refused = b.command(&["get", &reference, "-"]).output().unwrap();
    let said = printed(&refused);
    assert!(refused.status.code() == Some(2) && said.contains("ref/") && said.contains("./-"), "{said}");
    let dest = lab.path("dest2");
    b.tornet_fails(&["get", &reference, dest.to_str().unwrap()]);
    assert!(!dest.exists(), "{}", shell(&format!("ls -la '{}'", dest.display())));
}

#[test]
fn settings_shown_are_those_of_the_running_node() {
    let lab = Lab::new();
    let a = Plan::new("a").config("[network]\nmdns = false\n[storage]\ncache = \"3 GiB\"\n").start(&lab);
    let config = a.home.join("config.toml");
    fs::write(&config, "[storage]\ncache = \"5 GiB\"\n").unwrap();
    let output = a.run(&["--config", config.to_str().unwrap(), "config"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("3 GiB") && shown.contains("config.toml:4:9") && !shown.contains("5 GiB"), "{shown}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("of the running node") && said.contains("storage.cache = 5 GiB"), "{said}");
    assert_eq!(a.json(&["--json", "config"])["network.mdns"]["value"], "false");
}

#[test]
fn several_paths_are_published_with_a_json_line_for_each() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let paths = [lab.path("one"), lab.path("two")];
    for path in &paths {
        fs::write(path, path.as_os_str().as_encoded_bytes()).unwrap();
    }
    let text = a.tornet(&["--json", "publish", paths[0].to_str().unwrap(), paths[1].to_str().unwrap()]);
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines.iter().zip(&paths).all(|(line, path)| line["reference"] == a.publish(path)), "{text}");
    // Nobody was asked, so nothing is said of others.
    assert!(lines.iter().all(|line| line["readable-elsewhere"].is_null()), "{text}");
}

#[test]
fn link_that_leads_nowhere_has_no_reference_and_that_is_said() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    std::os::unix::fs::symlink("nowhere", a.path("link")).unwrap();
    let said = a.tornet_fails(&["ref", a.path("link").to_str().unwrap()]);
    assert!(said.contains("symbolic link to nowhere") && said.contains("directory"), "{said}");
}

#[test]
fn json_is_one_value_with_the_fields_that_scripts_read() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    let b = Plan::new("b").knows(&a).start(&lab);
    fs::write(lab.path("file"), noise(22, 400_000)).unwrap();
    let published = b.json(&["--json", "publish", lab.path("file").to_str().unwrap()]);
    let reference = published["reference"].as_str().unwrap().to_string();
    assert!(reference.starts_with("tornet1"), "{published}");

    let status = a.json(&["--json", "status"]);
    assert_eq!(status["pid"].as_u64().unwrap(), u64::from(a.pid()));
    assert_eq!(status["address"].as_str().unwrap(), a.address);
    assert_eq!(status["mountpoints"][0].as_str().unwrap(), a.mount().to_str().unwrap());
    assert_eq!(status["version"].as_str().unwrap(), env!("CARGO_PKG_VERSION"));
    assert!(b.json(&["--json", "status"])["mountpoints"].as_array().unwrap().is_empty());
    let peers = until("the nodes are linked", || {
        let peers = a.json(&["--json", "peers"]);
        (peers.as_array().unwrap().len() == 1).then_some(peers)
    });
    assert_eq!(peers[0]["peer"], b.json(&["--json", "status"])["peer"], "{peers}");

    fs::write(a.path("own"), noise(23, 100_000)).unwrap();
    let own = a.stored(&a.path("own"));
    assert_eq!(a.json(&["--json", "ref", a.path("own").to_str().unwrap()])["reference"].as_str().unwrap(), own);
    let why = a.json(&["--json", "why", a.path("own").to_str().unwrap()]);
    assert!(why["state"].is_string() && why["detail"].is_string(), "{why}");

    let pinned = a.json(&["--json", "pin", &reference]);
    assert!(pinned["chunks"].as_u64().unwrap() > 0 && pinned["bytes"].as_u64().unwrap() >= 400_000, "{pinned}");
    let verified = a.json(&["--json", "verify", &reference]);
    assert_eq!(verified["lost"].as_u64().unwrap(), 0, "{verified}");
    a.json(&["--json", "unpin", &reference]);
    let dest = lab.path("dest");
    a.json(&["--json", "get", &reference, dest.to_str().unwrap()]);
    assert_eq!(fs::read(dest).unwrap(), noise(22, 400_000));
}

#[test]
fn pinned_tree_stays_readable_when_everybody_else_is_gone() {
    let lab = Lab::new();
    require_fuse();
    let mut a = Plan::new("a").start(&lab);
    let b = Plan::new("b").mounted().knows(&a).start(&lab);
    let source = lab.path("source");
    tree::make_many(&source, 50, 4000);
    fs::write(source.join("film"), noise(24, 3 << 20)).unwrap();
    let reference = a.publish(&source);
    b.tornet(&["pin", &reference]);
    a.stop();
    tree::assert_same(&source, &b.reference(&reference));
    b.tornet(&["unpin", &reference]);
    // Once more changes nothing.
    b.tornet(&["unpin", &reference]);
}

#[test]
fn pin_is_seen_in_the_status_at_once_and_unpin_says_whether_there_was_one() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let b = Plan::new("b").config(READER).knows(&a).start(&lab);
    fs::write(lab.path("film"), noise(28, 3 << 20)).unwrap();
    let reference = a.publish(&lab.path("film"));
    let said = |output: std::process::Output| {
        assert!(output.status.success(), "{}", printed(&output));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(b.run(&["unpin", &reference])).contains("not pinned"));
    assert!(b.tornet(&["pin", &reference]).contains("kept: 3 MiB"));
    let pinned = b.json(&["--json", "status"])["store"]["pinned-bytes"].as_u64().unwrap();
    assert!(pinned >= 3 << 20, "{pinned} bytes are pinned");
    assert_eq!(said(b.run(&["unpin", &reference])), "");
    assert_eq!(b.json(&["--json", "unpin", &reference])["was-pinned"], false);
}

#[test]
fn lone_node_without_anything_published_may_be_shut_down() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let safe = || a.json(&["--json", "status"])["safe-to-shut-down"].as_bool().unwrap();
    until("there is nothing to lose", || safe().then_some(()));
    assert!(a.tornet(&["status"]).contains("safe to shut down yes"));
    fs::write(lab.path("file"), noise(29, 100_000)).unwrap();
    a.publish(&lab.path("file"));
    assert!(!safe(), "it alone has the file");
}

#[test]
fn why_says_of_a_pipe_that_it_is_not_published() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    shell(&format!("mkfifo '{}'", a.path("pipe").display()));
    a.stored(a.mount());
    let why = a.tornet(&["why", a.path("pipe").to_str().unwrap()]);
    assert!(why.contains("a named pipe; only files, directories and symbolic links are published"), "{why}");
}

#[test]
fn verify_reference_lets_others_count_the_chunks_and_not_read_them() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    let host = Plan::new("h").knows(&a).start(&lab);
    let b = Plan::new("b").config(READER).knows(&a).start(&lab);
    tree::make_varied(&a.path("dir"));
    let reference = a.stored(&a.path("dir"));
    let path = a.path("dir");
    let verify = a.tornet(&["ref", "--verify", path.to_str().unwrap()]);
    assert_eq!(verify, attribute(&path, "user.tornet.verify").unwrap());
    assert_ne!(verify, reference);
    let by_name = a.tornet(&["ref", "--verify", a.reference(&reference).to_str().unwrap()]);
    assert_eq!(by_name, verify, "of a tree of others, too");
    let count = |reference: &str| {
        let found = b.json(&["--json", "verify", reference]);
        (found["groups"].as_u64().unwrap(), found["chunks"].as_u64().unwrap())
    };
    let (groups, chunks) = count(&verify);
    assert!(groups > 10 && chunks > groups, "{groups} groups of {chunks} chunks");
    assert_eq!(count(&reference), (groups, chunks));
    for wrong in [&["get", &verify, "dest"][..], &["pin", &verify]] {
        let said = b.tornet_refuses(wrong);
        assert!(said.contains("verify reference"), "{wrong:?}: {said:?}");
    }
    drop(host);
}

#[test]
fn publish_with_wait_returns_when_another_node_finds_it() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let b = Plan::new("b").knows(&a).start(&lab);
    let c = Plan::new("c").knows(&b).start(&lab);
    fs::write(lab.path("file"), noise(25, 2 << 20)).unwrap();
    let published = a.json(&["--json", "publish", "--wait", lab.path("file").to_str().unwrap()]);
    assert_eq!(published["readable-elsewhere"], true, "{published}");
    let reference = published["reference"].as_str().unwrap().to_string();
    c.tornet(&["get", &reference, lab.path("dest").to_str().unwrap()]);
    assert_eq!(fs::read(lab.path("dest")).unwrap(), noise(25, 2 << 20));
}

#[test]
fn peers_are_remembered_across_restarts() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let mut b = Plan::new("b").knows(&a).start(&lab);
    until("they are linked", || (!b.json(&["--json", "peers"]).as_array().unwrap().is_empty()).then_some(()));
    let name = b.json(&["--json", "status"])["peer"].clone();
    b.stop();
    // Without being told of anybody.
    let b = Plan::new("b").start(&lab);
    until("it found its peer again", || (!b.json(&["--json", "peers"]).as_array().unwrap().is_empty()).then_some(()));
    assert_eq!(b.json(&["--json", "status"])["peer"], name, "it is the same node");
}

#[test]
fn killed_node_finds_its_peers_again() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let linked = |node: &harness::node::Node| !node.json(&["--json", "peers"]).as_array().unwrap().is_empty();
    until("a node that was killed finds its peer again", || {
        let mut b = Plan::new("b").knows(&a).start(&lab);
        until("they are linked", || linked(&b).then_some(()));
        // Whom it met is written down some seconds later; a machine that takes longer has another try.
        std::thread::sleep(std::time::Duration::from_secs(5));
        b.kill();
        let b = Plan::new("b").start(&lab);
        (0..100)
            .any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(100));
                linked(&b)
            })
            .then_some(())
    });
}

#[test]
fn peer_that_moved_is_found_at_the_address_that_the_user_names() {
    let lab = Lab::new();
    let linked = |node: &harness::node::Node| !node.json(&["--json", "peers"]).as_array().unwrap().is_empty();
    let mut a = Plan::new("a").start(&lab);
    let mut b = Plan::new("b").knows(&a).start(&lab);
    until("they are linked", || linked(&b).then_some(()));
    a.stop();
    b.stop();
    // The old address swallows what is sent to it, as addresses of the network do that nobody is at.
    let old = a.address.rsplit_once('@').unwrap().1.to_string();
    let silent = std::net::UdpSocket::bind(&old).unwrap();
    let a = Plan::new("a").start(&lab);
    assert_ne!(a.address.rsplit_once('@').unwrap().1, old);
    let b = Plan::new("b").knows(&a).start(&lab);
    until("they are linked again", || linked(&b).then_some(()));
    drop(silent);
}

/// `tornet --json swarm` with these arguments more, once all nodes are ready; and what it listed.
fn swarm(lab: &Lab, args: &[&str]) -> (Child, Vec<serde_json::Value>) {
    let mut swarm = Command::new(TORNET);
    swarm.args(["--json", "swarm"]).args(args);
    swarm.env("HOME", lab.dir()).env("TMPDIR", lab.dir()).current_dir(lab.dir());
    swarm.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = swarm.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // One JSON value, on one line or over several, then nothing until the end.
    let mut text = String::new();
    let listed: serde_json::Value = loop {
        match lines.next() {
            Some(line) => text.push_str(&line.unwrap()),
            None => panic!("the swarm ended: {text} {}", printed(&child.wait_with_output().unwrap())),
        }
        text.push('\n');
        if let Ok(value) = serde_json::from_str(&text) {
            break value;
        }
    };
    (child, listed["nodes"].as_array().unwrap_or_else(|| panic!("{listed}")).clone())
}

fn interrupt(mut swarm: Child) {
    harness::signal(swarm.id(), rustix::process::Signal::INT);
    let status = swarm.wait().unwrap();
    assert!(status.code().is_none_or(|code| code == 0 || code == 130), "{status}");
}

#[test]
fn swarm_of_nodes_starts_with_one_command_and_ends_with_ctrl_c() {
    let lab = Lab::new();
    let (child, nodes) = swarm(&lab, &["5"]);
    assert_eq!(nodes.len(), 5, "{nodes:?}");
    fs::write(lab.path("file"), noise(26, 500_000)).unwrap();
    let on = |place: usize, args: &[&str]| {
        let data = nodes[place]["data-dir"].as_str().unwrap();
        let output =
            Command::new(TORNET).args(["--data-dir", data]).args(args).env("HOME", lab.dir()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", printed(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let reference = on(0, &["publish", lab.path("file").to_str().unwrap()]);
    on(4, &["get", &reference, lab.path("dest").to_str().unwrap()]);
    assert_eq!(fs::read(lab.path("dest")).unwrap(), noise(26, 500_000));
    let pids: Vec<u64> = nodes.iter().map(|node| node["pid"].as_u64().unwrap()).collect();
    for pid in &pids {
        assert!(fs::exists(format!("/proc/{pid}")).unwrap(), "node {pid} runs");
    }
    interrupt(child);
    for pid in pids {
        until("every node ended", || (!fs::exists(format!("/proc/{pid}")).unwrap()).then_some(()));
    }
    assert!(processes_naming(lab.dir()).is_empty());
    let output = Command::new(TORNET).args(["swarm", "2", "--data-dir", "d"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
}

#[test]
fn swarm_takes_off_what_a_killed_node_left_mounted_and_starts_again_in_its_directory() {
    let lab = Lab::new();
    require_fuse();
    let (point, dir) = (lab.path("point"), lab.path("dir"));
    let args = ["3", "--mount", point.to_str().unwrap(), "--dir", dir.to_str().unwrap()];
    let kill = |nodes: &[serde_json::Value]| {
        harness::signal(nodes[2]["pid"].as_u64().unwrap() as u32, rustix::process::Signal::KILL);
    };
    let (child, nodes) = swarm(&lab, &args);
    fs::write(point.join("file"), b"text").unwrap();
    fs::File::open(point.join("file")).unwrap().sync_all().unwrap();
    kill(&nodes);
    until("the dead mount is taken off", || mounts_below(&point).is_empty().then_some(()));
    interrupt(child);
    let (child, nodes) = swarm(&lab, &args);
    assert_eq!(fs::read(point.join("file")).unwrap(), b"text");
    kill(&nodes);
    interrupt(child);
    assert!(mounts_below(&point).is_empty());
    assert!(!point.exists(), "what was made for the mount goes with it");
}

#[test]
fn verify_counts_what_the_swarm_holds() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    let hosts: Vec<_> = (0..5).map(|place| Plan::new(&format!("h{place}")).knows(&a).start(&lab)).collect();
    fs::write(a.path("file"), noise(27, 50_000)).unwrap();
    let reference = a.stored(&a.path("file"));
    let verified = until("all of it is found on other nodes", || {
        let verified = a.json(&["--json", "verify", &reference]);
        (verified["found"] == verified["chunks"] && verified["lost"] == 0).then_some(verified)
    });
    assert!(verified["groups"].as_u64().unwrap() > 0, "{verified}");
    // What they announced is not taken for what they hold: they are asked.
    drop(hosts);
    let output = a.run(&["--json", "verify", &reference]);
    assert_eq!(output.status.code(), Some(1), "a lost tree is a failure: {}", printed(&output));
    let verified: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&verified["found"], &verified["peers"]), (&0.into(), &0.into()), "{verified}");
    assert_eq!(verified["lost"], verified["groups"]);
}

#[test]
fn man_pages_and_completions_come_from_the_same_definitions_as_help() {
    let man = shell(&format!("ls '{}/man'", env!("CARGO_MANIFEST_DIR")));
    assert!(man.contains("tornet.1") && man.contains("tornet-mount.1") && man.contains("tornet.7"), "{man}");
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/tornet.1")).unwrap();
    for command in COMMANDS {
        assert!(page.contains(command), "man/tornet.1 does not name {command}");
    }
}

#[test]
fn every_promise_of_the_manual_names_a_test() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/tornet.7")).unwrap();
    let promises = manual.split(".SH PROMISES").nth(1).and_then(|rest| rest.split(".SH ").next()).unwrap();
    let numbers: Vec<u32> =
        promises.lines().filter_map(|line| line.strip_prefix(".IP ")?.split('.').next()?.parse().ok()).collect();
    assert!(numbers.len() > 10, "{numbers:?}");
    let mut tests = String::new();
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fs-tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "rs") {
            tests.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    for number in numbers {
        assert!(tests.contains(&format!("// Promise {number} of tornet(7).\n#[test]")), "no test for promise {number}");
    }
}
