//! A local network of two machines (network namespaces joined by a cable): nodes that were told of nobody find each other.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::Plan;
use harness::tree::noise;
use harness::{Lab, installed, require_fuse, shell, until};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A network namespace, there as long as a process sleeps in it.
struct Machine(Child);

impl Machine {
    fn new() -> Machine {
        let here = fs::read_link("/proc/self/ns/net").unwrap();
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let machine = Machine(child);
        until("the machine has a network of its own", || {
            fs::read_link(machine.network()).is_ok_and(|network| network != here).then_some(())
        });
        machine
    }

    fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    fn ip(&self, words: &str) {
        shell(&format!("nsenter --net={} ip {words}", self.network().display()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two machines with one cable between them, at 10.99.0.1 and 10.99.0.2; `None` where this user cannot have that.
fn two_machines() -> Option<[Machine; 2]> {
    let tools = ["ip", "unshare", "nsenter"].into_iter().all(installed);
    if !tools || !rustix::process::geteuid().is_root() {
        println!("skipped: needs root and the packages iproute2 and util-linux");
        return None;
    }
    let machines = [Machine::new(), Machine::new()];
    machines[0].ip(&format!("link add cable type veth peer name cable netns {}", machines[1].0.id()));
    for (machine, address) in machines.iter().zip(["10.99.0.1/24", "10.99.0.2/24"]) {
        machine.ip(&format!("addr add {address} dev cable"));
        machine.ip("link set lo up");
        machine.ip("link set cable up");
    }
    Some(machines)
}

#[test]
fn nodes_on_one_local_network_find_each_other_and_read_each_others_files() {
    let Some(machines) = two_machines() else { return };
    require_fuse();
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
        let peers = b.json(&["--json", "peers"]);
        let addresses = peers.as_array().unwrap().iter().filter_map(|peer| peer["address"].as_str());
        addresses.into_iter().any(|address| address.starts_with("10.99.0.1:")).then_some(())
    });
    assert!(fs::read(b.reference(&reference)).unwrap() == noise(7, 3 << 20));
}
