//! One payment between real processes over a real chain, step by step: whoever dies between two of them, and whatever becomes of the
//! blocks, it is made once and counts once.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::bitcoin::Bitcoin;
use harness::disk::{Disk, Kind};
use harness::node::{Node, Plan, READER};
use harness::purse::{has, mine_waiting, payments, rows, rpc, sat, synced, works};
use harness::{Lab, printed, until, until_within};
use rustix::io::Errno;
use rustix::process::Signal;
use std::thread;
use std::time::{Duration, Instant};

/// How long a payment may take that waits for a disk, a chain and two restarted nodes.
const LONG: Duration = Duration::from_secs(240);

/// How often something stands in a node's audit log.
fn noted(node: &Node, what: &str) -> usize {
    let log = node.tornet(&["audit", "--csv"]);
    let mut lines = log.lines();
    let place = lines.next().unwrap().split(',').position(|heading| heading == "what").unwrap();
    lines.filter(|line| line.split(',').nth(place) == Some(what)).count()
}

/// What each payment of the kill test pays.
const PAID: u64 = 5_000;
const COIN: u64 = 50_000;

/// What was done last when somebody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Intent,
    Signed,
    Broadcast,
    Confirmed,
    Posted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Debtor,
    Creditor,
}

/// In the order in which they are to end.
struct World {
    debtor: Node,
    creditor: Node,
    /// Below the debtor; not without root.
    disk: Option<Disk>,
    bitcoin: Bitcoin,
    /// Settings of debtor and creditor.
    config: [String; 2],
    /// Of the creditor, who starts there again.
    address: String,
    lab: Lab,
}

const TERMS: &str = "enabled = true\nfee_share_max = \"50 %\"\nper_payment = \"1000000 sat\"\nper_day = \"1000000 sat\"\nper_peer_day = \"1000000 sat\"\n";

fn debtor_plan(lab: &Lab, disk: Option<&Disk>, config: &str, creditor: &str) -> Plan {
    let plan = Plan::new("debtor").config(config).knows_address(creditor);
    if disk.is_some() { plan.data(lab.path("disk/data")) } else { plan }
}

impl World {
    fn new() -> World {
        let lab = Lab::new();
        let bitcoin = Bitcoin::start(&lab, "bitcoin");
        let disk = rustix::process::geteuid().is_root().then(|| Disk::mount(&lab.path("disk")));
        let config = ["debtor", "creditor"].map(|name| {
            let (payments, _) = payments(&lab, name, &rpc(&bitcoin));
            format!("{READER}\n{payments}{TERMS}")
        });
        let creditor = Plan::new("creditor").config(&config[1]).start(&lab);
        let debtor = debtor_plan(&lab, disk.as_ref(), &config[0], &creditor.address).start(&lab);
        works(&creditor, &["setup", "--unconfirmed"], "");
        works(&debtor, &["setup", "--unconfirmed"], "");
        synced(&debtor);
        synced(&creditor);
        let purse = works(&debtor, &["address"], "");
        for _ in 0..COINS {
            bitcoin.pay(&purse, COIN);
        }
        bitcoin.mine(1);
        has(&debtor, COINS * COIN);
        let address = creditor.json(&["--json", "status"])["listen"].as_str().unwrap().to_string();
        World { debtor, creditor, disk, bitcoin, config, address, lab }
    }

    fn victim(&mut self, victim: Victim) -> &mut Node {
        match victim {
            Victim::Debtor => &mut self.debtor,
            Victim::Creditor => &mut self.creditor,
        }
    }

    /// Starts it again where it was.
    fn start(&mut self, victim: Victim) {
        match victim {
            Victim::Debtor => {
                let (config, creditor) = (&self.config[0], &self.creditor.address);
                self.debtor = debtor_plan(&self.lab, self.disk.as_ref(), config, creditor).start(&self.lab);
            }
            Victim::Creditor => {
                let plan = Plan::new("creditor").config(&self.config[1]).listen(&self.address);
                self.creditor = plan.knows(&self.debtor).start(&self.lab);
            }
        }
    }

    /// Has the debtor pay. After a restart it takes a while until the two find each other again.
    fn order(&self) {
        let creditor = self.creditor.json(&["--json", "status"])["peer"].as_str().unwrap().to_string();
        let amount = format!("{PAID} sat");
        let mut last = String::new();
        let start = Instant::now();
        loop {
            let output = self.debtor.run(&["pay", &creditor[..16], &amount]);
            if output.status.success() {
                return;
            }
            last.clone_from(&printed(&output));
            assert!(start.elapsed() < LONG, "not paid: {last}; log: {}", self.debtor.log());
            thread::sleep(Duration::from_millis(500));
        }
    }

    fn newest(&self) -> String {
        rows(&self.debtor, "payments")[0]["state"].as_str().unwrap().to_string()
    }

    /// What a side of it says was paid, in sat.
    fn posted(&self, victim: Victim) -> u64 {
        let (node, field) = match victim {
            Victim::Debtor => (&self.debtor, "paid-msat"),
            Victim::Creditor => (&self.creditor, "credited-msat"),
        };
        rows(node, "balances").iter().map(|row| sat(row, field)).sum::<u64>() / 1000
    }

    fn dies_after(&mut self, step: Step, victim: Victim, paid_before: u64) {
        match (step, &self.disk) {
            (Step::Intent, Some(disk)) => disk.fail(Kind::Sync, "data/wallet", Errno::IO),
            (Step::Signed, _) => self.bitcoin.freeze(),
            _ => {}
        }
        let struck = self.disk.as_ref().map_or(0, Disk::struck);
        self.order();
        let wanted = match step {
            Step::Intent => "reserved",
            Step::Signed => "signed",
            _ => "sent",
        };
        until(&format!("a payment that is {wanted}"), || (self.newest() == wanted).then_some(()));
        match step {
            Step::Intent => {
                let disk = self.disk.as_ref().unwrap();
                until("the wallet's disk to fail", || (disk.struck() > struck).then_some(()));
                assert_eq!(self.newest(), "reserved");
            }
            Step::Signed => {}
            Step::Broadcast | Step::Confirmed | Step::Posted => {
                until("the payment at the full node", || (!self.bitcoin.waiting().is_empty()).then_some(()));
            }
        }
        if step == Step::Confirmed {
            // It dies before it sees the block.
            self.victim(victim).signal(Signal::STOP);
        }
        if matches!(step, Step::Confirmed | Step::Posted) {
            self.bitcoin.mine(1);
        }
        if step == Step::Posted {
            until("the payment in the books", || (self.posted(victim) == paid_before + PAID).then_some(()));
        }
        self.victim(victim).kill();
        match (step, &self.disk) {
            (Step::Intent, Some(disk)) => disk.heal(),
            (Step::Signed, _) => self.bitcoin.go_on(),
            _ => {}
        }
        if step == Step::Intent && victim == Victim::Creditor {
            // Its wallet writes nothing any more.
            self.debtor.kill();
            self.start(victim);
            self.start(Victim::Debtor);
        } else {
            self.start(victim);
        }
    }

    /// Waits until all is settled that was ordered, and looks at every account of it.
    fn settled(&self, orders: u64, what: &str) {
        let done = || {
            mine_waiting(&self.bitcoin);
            let made = rows(&self.debtor, "payments");
            assert_eq!(made.len() as u64, orders, "{what}: {made:?}");
            let settled = made.iter().all(|payment| payment["state"] == "confirmed");
            let posted = [Victim::Debtor, Victim::Creditor].map(|side| self.posted(side));
            (settled && posted == [orders * PAID; 2]).then_some(made)
        };
        let made = until_within(LONG, &format!("{what}: {orders} payments in both books"), done);
        let fees: u64 = made.iter().map(|payment| sat(payment, "fee-sat")).sum();
        has(&self.creditor, orders * PAID);
        has(&self.debtor, COINS * COIN - orders * PAID - fees);
        assert!(self.bitcoin.waiting().is_empty(), "{what}: something more was sent");
        let flying: u64 = rows(&self.debtor, "balances").iter().map(|row| sat(row, "in-flight-msat")).sum();
        assert_eq!(flying, 0, "{what}");
        for (node, words) in [(&self.debtor, ["reserved", "confirmed"].as_slice()), (&self.creditor, &["credited"])] {
            for word in words {
                assert_eq!(noted(node, word) as u64, orders, "{what}: {word}\n{}", node.tornet(&["audit"]));
            }
        }
    }
}

const STEPS: [Step; 5] = [Step::Intent, Step::Signed, Step::Broadcast, Step::Confirmed, Step::Posted];
/// One for each payment, and more, with which a careless debtor could pay twice.
const COINS: u64 = 14;

#[test]
fn whoever_dies_between_any_two_steps_of_a_payment_it_is_made_once_and_counts_once() {
    let mut world = World::new();
    let mut orders = 0;
    for victim in [Victim::Debtor, Victim::Creditor] {
        for step in STEPS {
            if step == Step::Intent && world.disk.is_none() {
                println!("skipped: {step:?} takes a disk of our own, and that root");
                continue;
            }
            let start = Instant::now();
            world.dies_after(step, victim, orders * PAID);
            orders += 1;
            world.settled(orders, &format!("{victim:?} died after {step:?}"));
            println!("{victim:?} died after {step:?}: settled after {:.1} s", start.elapsed().as_secs_f64());
        }
    }
}

#[test]
fn longer_branch_takes_a_payment_back_on_both_sides_and_its_next_block_gives_it_again() {
    let world = World::new();
    world.order();
    world.settled(1, "paid");
    world.bitcoin.reorganise(1);
    until("nothing that counts on either side", || {
        let posted = [Victim::Debtor, Victim::Creditor].map(|side| world.posted(side));
        (posted == [0; 2] && world.newest() == "sent").then_some(())
    });
    until("the payment waits again", || (world.bitcoin.waiting().len() == 1).then_some(()));
    until_within(LONG, "it counts again", || {
        mine_waiting(&world.bitcoin);
        let posted = [Victim::Debtor, Victim::Creditor].map(|side| world.posted(side));
        (posted == [PAID; 2]).then_some(())
    });
    assert_eq!(rows(&world.debtor, "payments").len(), 1);
    let noted = |node: &Node, words: [&str; 2]| words.map(|word| noted(node, word));
    assert_eq!(noted(&world.debtor, ["reorganised", "confirmed"]), [1, 2]);
    assert_eq!(noted(&world.creditor, ["uncredited", "credited"]), [1, 2]);
    has(&world.creditor, PAID);
}
