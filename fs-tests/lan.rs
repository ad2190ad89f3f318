//! A local network of two machines (network namespaces joined by a cable): nodes that were told of nobody find each other.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::machine::{Machine, possible};
use harness::node::{Node, Plan, READER};
use harness::tree::noise;
use harness::wan::{Line, Wan};
use harness::{Lab, require_fuse, signal, until};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// Two machines with one cable between them, which have these addresses.
fn two_machines(addresses: [&[&str]; 2]) -> [Machine; 2] {
    let machines = [Machine::new(), Machine::new()];
    machines[0].ip(&format!("link add cable type veth peer name cable netns {}", machines[1].id()));
    for (machine, addresses) in machines.iter().zip(addresses) {
        for address in addresses {
            // Of no interest: whether another has the address already.
            let at_once = if address.contains(':') { " nodad" } else { "" };
            machine.ip(&format!("addr add {address} dev cable{at_once}"));
        }
        machine.ip("link set lo up");
        machine.ip("link set cable up");
    }
    machines
}

/// The network addresses of the peers with a link.
fn linked(node: &Node) -> Vec<String> {
    let peers = node.json(&["--json", "peers"]);
    peers.as_array().unwrap().iter().map(|peer| peer["address"].as_str().unwrap().to_string()).collect()
}

fn ip_of(node: &Node) -> &str {
    node.address.rsplit_once('@').unwrap().1.rsplit_once(':').unwrap().0
}

#[test]
fn nodes_on_one_local_network_find_each_other_and_read_each_others_files() {
    if !possible() {
        return;
    }
    require_fuse();
    let machines = two_machines([&["10.99.0.1/24"], &["10.99.0.2/24"]]);
    let lab = Lab::new();
    let node = |name: &str, machine: &Machine| {
        // As a user starts it: every address, and looking around, which is on unless it is turned off.
        let plan = Plan::new(name).mounted().config("").listen("0.0.0.0:0").network(machine.network());
        plan.start(&lab)
    };
    let (a, b) = (node("a", &machines[0]), node("b", &machines[1]));
    fs::write(a.path("film"), noise(7, 3 << 20)).unwrap();
    let reference = a.stored(&a.path("film"));
    until("they have found each other", || {
        linked(&b).iter().any(|address| address.starts_with("10.99.0.1:")).then_some(())
    });
    assert!(fs::read(b.reference(&reference)).unwrap() == noise(7, 3 << 20));
}

#[test]
fn nodes_find_each_other_at_the_addresses_that_they_listen_at_whatever_those_are() {
    if !possible() {
        return;
    }
    // No router passes the first on, and the second is preferred, but nobody listens there.
    let machines = two_machines([&["192.0.2.1/24", "fd00:9::1/64"], &["192.0.2.2/24", "fd00:9::2/64"]]);
    let lab = Lab::new();
    let node = |name: &str, machine: &Machine| {
        Plan::new(name).config("").listen("0.0.0.0:0").network(machine.network()).start(&lab)
    };
    let (_a, b) = (node("a", &machines[0]), node("b", &machines[1]));
    until("they have found each other", || {
        linked(&b).iter().any(|address| address.starts_with("192.0.2.1:")).then_some(())
    });
}

#[test]
fn printed_address_is_one_at_which_other_machines_reach_the_node() {
    if !possible() {
        return;
    }
    let machines = two_machines([&["10.99.0.1/24"], &["10.99.0.2/24", "10.99.1.2/24"]]);
    let lab = Lab::new();
    let node = |name: &str, machine: &Machine| Plan::new(name).listen_anywhere().network(machine.network());
    let a = node("a", &machines[0]).start(&lab);
    // Of several the one from which it would send far away.
    machines[1].ip("route add default via 10.99.1.1 dev cable src 10.99.1.2");
    let b = node("b", &machines[1]).knows(&a).start(&lab);
    until("the other machine reaches it", || (linked(&b).len() == 1).then_some(()));
    assert_eq!((ip_of(&a), ip_of(&b)), ("10.99.0.1", "10.99.1.2"));
    let status = b.json(&["--json", "status"]);
    let all: Vec<&str> = status["addresses"].as_array().unwrap().iter().map(|at| at.as_str().unwrap()).collect();
    assert_eq!(all, ["10.99.1.2:41641", "10.99.0.2:41641", "127.0.0.1:41641"]);
    assert!(b.tornet(&["status"]).contains("10.99.0.2:41641, 127.0.0.1:41641"));
    // The same machine reaches it there, too; and where there is no network, only at home.
    let c = node("c", &machines[0]).knows(&a).start(&lab);
    let reached = || linked(&c).iter().any(|address| address.starts_with("10.99.0.1:"));
    until("its own machine reaches it", || reached().then_some(()));
    machines[0].ip("link del cable");
    assert!(a.json(&["--json", "status"])["address"].as_str().unwrap().ends_with("@127.0.0.1:41641"));
}

#[test]
fn nodes_without_a_chosen_port_start_at_the_same_moment_and_keep_theirs() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    machine.ip("link set lo up");
    let lab = Lab::new();
    let plan = |name: &str| Plan::new(name).listen_anywhere().network(machine.network());
    let mut children = ["a", "b", "c"].map(|name| {
        plan(name).command(&lab).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    });
    let ports = children.each_mut().map(|child| {
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        ready.trim().rsplit_once(':').map(|(_, port)| port.to_string()).unwrap_or_default()
    });
    assert_eq!(ports.iter().filter(|port| *port == "41641").count(), 1, "{ports:?}");
    for child in &mut children {
        signal(child.id(), Signal::TERM);
        assert!(child.wait().unwrap().success());
    }
    // Each by itself, so that it could have the usual one.
    for (name, before) in ["a", "b", "c"].into_iter().zip(&ports) {
        let mut node = plan(name).start(&lab);
        assert!(node.address.ends_with(&format!(":{before}")), "{name}: {} and {before}", node.address);
        node.stop();
    }
}

#[test]
fn file_comes_over_a_long_way_with_losses_though_half_of_its_sources_fall_silent() {
    if !possible() {
        return;
    }
    require_fuse();
    let line = Line { delay: Duration::from_millis(25), rate: 12.5e6, loss: 100 };
    let wan = Wan::new(line, 4);
    let lab = Lab::new();
    let plan = |name: &str, (network, ip): (PathBuf, String)| {
        Plan::new(name).config(READER).network(network).listen(&format!("{ip}:0"))
    };
    let mut sources: Vec<Node> = Vec::new();
    for number in 0..4 {
        let plan = plan(&format!("source{number}"), wan.source(number));
        sources.push(sources.iter().fold(plan, |plan, source| plan.knows(source)).start(&lab));
    }
    let film = lab.path("film");
    fs::write(&film, noise(7, 24 << 20)).unwrap();
    let reference = sources[0].publish(&film);
    for source in &sources[1..] {
        source.tornet(&["pin", &reference]);
    }
    wan.shape(true);
    let reader = plan("reader", wan.reader()).mounted();
    let reader = sources.iter().fold(reader, |reader, source| reader.knows(source)).start(&lab);
    until("all four are linked", || (linked(&reader).len() == 4).then_some(()));
    let mut file = fs::File::open(reader.reference(&reference)).unwrap();
    let mut got = vec![0; 4 << 20];
    file.read_exact(&mut got).unwrap();
    // Those that published and pinned last go on.
    wan.cut(&[0, 1]);
    file.read_to_end(&mut got).unwrap();
    assert!(got == noise(7, 24 << 20));
}
