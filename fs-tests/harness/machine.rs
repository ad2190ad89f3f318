//! Machines of a test: network namespaces that it makes itself.

use super::{installed, shell, until};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A network namespace, there as long as a process sleeps in it.
pub struct Machine(Child);

impl Machine {
    /// With nothing but a loopback interface that is down. Takes root.
    pub fn new() -> Machine {
        let here = fs::read_link("/proc/self/ns/net").unwrap();
        let child = Command::new("unshare").args(["--net", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let machine = Machine(child);
        until("the machine has a network of its own", || {
            fs::read_link(machine.network()).is_ok_and(|network| network != here).then_some(())
        });
        machine
    }

    /// The file that names it.
    pub fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// The process that keeps it.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Runs ip(8) in it.
    pub fn ip(&self, words: &str) {
        shell(&format!("nsenter --net={} ip {words}", self.network().display()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether this user can have such machines.
pub fn possible() -> bool {
    let tools = ["ip", "unshare", "nsenter"].into_iter().all(installed);
    if !tools || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root and the packages iproute2 and util-linux");
        return false;
    }
    true
}
