//! Service on credit between real processes: what two nodes owe each other is the same on both sides, whatever happens to either; who
//! reaches its limit is refused, reads from others, or is told why not.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{Node, Plan, READER};
use harness::tree::noise;
use harness::{Lab, PATIENCE, code, errno, require_fuse, until, until_within};
use rustix::io::Errno;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// 16 msat for a MiB.
const SELLER: &str = "[credit]\nprice = \"16384 msat/GiB\"\n";
const MIB_MSAT: i64 = 16;

fn selling(terms: &str) -> String {
    format!("{READER}\n{SELLER}{terms}")
}

/// Balances of a node, each with its peer.
fn balances(node: &Node) -> Vec<Value> {
    node.json(&["--json", "balances"]).as_array().unwrap().clone()
}

fn sum(node: &Node, field: &str) -> i64 {
    balances(node).iter().map(|balance| balance[field].as_i64().unwrap()).sum()
}

/// Waits until two nodes that know nobody else agree and nothing is under way; gives what `buyer` owes.
fn agreed(seller: &Node, buyer: &Node) -> i64 {
    let sides = || (balances(seller), balances(buyer));
    until_within(PATIENCE * 2, "two balances that agree", || {
        let (ours, theirs) = sides();
        let (ours, theirs) = (ours.first()?, theirs.first()?);
        let owed = ours["owed-msat"].as_i64()?;
        let same = owed == -theirs["owed-msat"].as_i64()? && ours["provided-msat"] == theirs["received-msat"];
        (same && ours["unacknowledged-msat"] == 0).then_some(owed)
    })
}

fn get(buyer: &Node, reference: &str, to: &Path) {
    buyer.tornet(&["get", reference, to.to_str().unwrap()]);
}

#[test]
fn balances_agree_after_a_transfer_and_after_kills_of_either_side() {
    require_fuse();
    let lab = Lab::new();
    let mut seller = Plan::new("seller").config(&selling("")).start(&lab);
    let address = seller.json(&["--json", "status"])["listen"].as_str().unwrap().to_string();
    let sell = || Plan::new("seller").config(&selling("")).listen(&address);
    let buy = |seller: &Node| Plan::new("buyer").config(READER).mounted().knows(seller);
    let mut buyer = buy(&seller).start(&lab);
    let references: Vec<String> = (0..4)
        .map(|number| {
            let path = lab.path(format!("file{number}"));
            fs::write(&path, noise(number, 24 << 20)).unwrap();
            seller.publish(&path)
        })
        .collect();

    get(&buyer, &references[0], &lab.path("out0"));
    let first = agreed(&seller, &buyer);
    println!("24 MiB cost {first} msat");
    assert!((24 * MIB_MSAT * 15 / 16..=30 * MIB_MSAT).contains(&first), "24 MiB cost {first} msat");
    let text = seller.tornet(&["balances"]);
    assert!(text.contains("owes us") && text.contains("sat"), "{text}");
    let text = buyer.tornet(&["balances"]);
    assert!(text.contains("we owe"), "{text}");
    let file = fs::read_to_string(buyer.path(".tornet/balances")).unwrap();
    assert!(serde_json::from_str::<Value>(&file).unwrap()[0]["owed-msat"] == -first, "{file}");

    // The buyer dies in the middle of the second file, the seller in the middle of the third.
    for (number, kill_buyer) in [(1, true), (2, false)] {
        let before = agreed(&seller, &buyer);
        let out = lab.path(format!("out{number}"));
        let mut getting = buyer.command(&["get", &references[number], out.to_str().unwrap()]).spawn().unwrap();
        until("some of it to come", || (sum(&buyer, "received-msat") > before + 2 * MIB_MSAT).then_some(()));
        if kill_buyer {
            buyer.kill();
            let _ = getting.wait();
            drop(buyer);
            buyer = buy(&seller).start(&lab);
            let after = agreed(&seller, &buyer);
            println!("{before} msat before the buyer died, {after} after");
            assert!(after >= before, "{after} owed after a kill, {before} before");
        } else {
            seller.kill();
            drop(seller);
            seller = sell().start(&lab);
            let _ = getting.wait();
        }
        until_within(PATIENCE * 2, "the rest to come", || {
            let got = buyer.run(&["get", &references[number], out.to_str().unwrap()]);
            got.status.success().then_some(())
        });
        assert!(fs::read(&out).unwrap() == noise(number as u64, 24 << 20));
        let whole = agreed(&seller, &buyer);
        println!("{before} msat before, {whole} once all of it came");
        // What was lost with a kill is less than the window of 64 MiB, and nothing is lost that was agreed on.
        assert!(whole >= before, "{whole} owed, {before} before");
    }
    // Both at once, at rest: nothing is lost at all.
    let before = agreed(&seller, &buyer);
    seller.kill();
    buyer.kill();
    drop((seller, buyer));
    seller = sell().start(&lab);
    buyer = buy(&seller).start(&lab);
    assert_eq!(agreed(&seller, &buyer), before);
    get(&buyer, &references[3], &lab.path("out3"));
    let cost = agreed(&seller, &buyer) - before;
    // Of a call that is given up half-way, and asked for again, parts of a millisatoshi are not charged; a seller lets a sixteenth go.
    assert!(cost >= 24 * MIB_MSAT * 15 / 16, "24 MiB cost {cost} msat");
}

#[test]
fn who_reaches_its_limit_is_told_and_reads_from_others() {
    require_fuse();
    let lab = Lab::new();
    let seller = Plan::new("seller").config(&selling("newcomers = \"4 MiB\"\n")).start(&lab);
    let plain = noise(7, 20 << 20);
    let path = lab.path("film");
    fs::write(&path, &plain).unwrap();
    let reference = seller.publish(&path);
    let buyer = Plan::new("buyer").config(READER).mounted().knows(&seller).start(&lab);
    let shown = buyer.reference(&reference);
    let shown_again = shown.clone();
    let result = fs::read(&shown);
    assert_eq!(errno(result), code(Errno::DQUOT));
    let why = buyer.tornet(&["why", shown_again.to_str().unwrap()]);
    println!("{why}");
    for part in ["credit limit", "sat", "rank_cpu"] {
        assert!(why.contains(part), "{part} is not in: {why}");
    }
    let owed = agreed(&seller, &buyer);
    assert!((0..=4 * MIB_MSAT + 1).contains(&owed), "{owed} msat owed of {} that are lent", 4 * MIB_MSAT);

    // A host gets its copy for nothing, and gives it for nothing.
    let hosting = READER.replace("hosting = \"0 B\"\n", "");
    let host = Plan::new("host").config(&hosting).knows(&seller).start(&lab);
    until_within(PATIENCE * 2, "a host with all of it", || {
        (host.json(&["--json", "status"])["store"]["hosted-bytes"].as_u64()? > 20 << 20).then_some(())
    });
    assert!(balances(&host).is_empty(), "hosting cost {:?}", balances(&host));
    let bytes = until_within(Duration::from_secs(180), "a read from the other", || fs::read(&shown).ok());
    assert!(bytes == plain);
    assert_eq!(agreed(&seller, &buyer), owed, "the seller gave nothing more");
}

#[test]
fn a_price_over_the_limit_is_not_paid() {
    require_fuse();
    let lab = Lab::new();
    let seller = Plan::new("seller").config(&selling("")).start(&lab);
    let path = lab.path("film");
    fs::write(&path, noise(8, 3 << 20)).unwrap();
    let reference = seller.publish(&path);
    let config = format!("{READER}\n[credit]\nmax_price = \"16383 msat/GiB\"\n");
    let buyer = Plan::new("buyer").config(&config).mounted().knows(&seller).start(&lab);
    let shown = buyer.reference(&reference);
    assert_eq!(errno(fs::read(&shown)), code(Errno::DQUOT));
    let why = buyer.tornet(&["why", shown.to_str().unwrap()]);
    for part in ["charges 16.384 sat/GiB", "credit.max_price is 16.383 sat/GiB", "takes effect at once"] {
        assert!(why.contains(part), "{part} is not in: {why}");
    }
    assert!(balances(&seller).is_empty() && balances(&buyer).is_empty());
    fs::write(buyer.home.join("config.toml"), config.replace("16383", "16384")).unwrap();
    until("a read at that price", || fs::read(&shown).ok());
    assert!(agreed(&seller, &buyer) >= 3 * MIB_MSAT);
}

#[test]
fn work_that_was_done_gives_a_line_and_is_kept() {
    let lab = Lab::new();
    // Nothing is lent to those without a rank.
    let terms = "newcomers = \"0 B\"\ncredit_line = \"8 MiB\"\n";
    let seller = Plan::new("seller").config(&selling(terms)).start(&lab);
    let path = lab.path("film");
    fs::write(&path, noise(9, 1 << 20)).unwrap();
    let reference = seller.publish(&path);
    let rank = |node: &Node| node.json(&["--json", "status"])["rank"].as_u64().unwrap();
    let mut buyer = Plan::new("buyer").config(READER).knows(&seller).start(&lab);
    assert_eq!(rank(&buyer), 0, "none is looked for with rank_cpu = 0 %");
    let refused = buyer.tornet_fails(&["get", &reference, lab.path("out").to_str().unwrap()]);
    assert!(refused.contains("credit limit"), "{refused}");
    buyer.kill();
    drop(buyer);
    let config = format!("{READER}\n[credit]\nrank_cpu = \"100 %\"\n");
    let mut buyer = Plan::new("buyer").config(&config).knows(&seller).start(&lab);
    let found = until("a rank", || Some(rank(&buyer)).filter(|rank| *rank > 0));
    until("a read on credit", || {
        let got = buyer.run(&["get", &reference, lab.path("out").to_str().unwrap()]);
        got.status.success().then_some(())
    });
    agreed(&seller, &buyer);
    let shown = balances(&seller)[0]["rank"].as_u64().unwrap();
    assert!(shown >= found, "rank {shown} at the seller, {found} here");
    buyer.kill();
    drop(buyer);
    let buyer = Plan::new("buyer").config(READER).knows(&seller).start(&lab);
    assert!(rank(&buyer) >= found);
}

#[test]
fn upload_stays_within_its_limit_until_the_file_says_otherwise() {
    let lab = Lab::new();
    let limited = READER.replace("mdns = false", "mdns = false\nupload = \"8 Mbit/s\"");
    let seller = Plan::new("seller").config(&limited).start(&lab);
    let references: Vec<String> = (0..2)
        .map(|number| {
            let path = lab.path(format!("film{number}"));
            fs::write(&path, noise(number, 16 << 20)).unwrap();
            seller.publish(&path)
        })
        .collect();
    let buyer = Plan::new("buyer").config(READER).knows(&seller).start(&lab);
    let start = Instant::now();
    get(&buyer, &references[0], &lab.path("out0"));
    let took = start.elapsed();
    println!("16 MiB at 8 Mbit/s took {took:?}; {}", seller.tornet(&["--json", "peers"]));
    // A megabyte each second, but for what may go at once: a quarter of a second's, and the answer that follows.
    assert!(took > Duration::from_secs(14), "{took:?}");
    assert!(fs::read(lab.path("out0")).unwrap() == noise(0, 16 << 20));
    fs::write(seller.home.join("config.toml"), READER).unwrap();
    let shown = || seller.json(&["--json", "config"])["network.upload"]["value"].clone();
    until("no limit", || (shown() == "unlimited").then_some(()));
    get(&buyer, &references[1], &lab.path("out1"));
    assert!(fs::read(lab.path("out1")).unwrap() == noise(1, 16 << 20));
}

/// A time zone in which it is 12:00 now, give or take a minute; or, where that is as in UTC, 00:00; and a schedule around that time.
fn zone_and_hours() -> (String, &'static str) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let utc = now / 60 % 1440;
    let (local, hours) = if (9 * 60..15 * 60).contains(&utc) { (0, "22:30-01:30") } else { (720, "10:30-13:30") };
    // What TZ names is how far UTC is ahead.
    let ahead = utc as i64 - local;
    let ahead = if ahead > 720 { ahead - 1440 } else { ahead };
    (format!("XXX{}{}:{:02}", if ahead < 0 { "-" } else { "" }, ahead.abs() / 60, ahead.abs() % 60), hours)
}

#[test]
fn upload_follows_the_schedule_by_local_time_and_a_changed_file_at_once() {
    let lab = Lab::new();
    let (zone, hours) = zone_and_hours();
    let config = |schedule: &str| READER.replace("mdns = false", &format!("mdns = false\n{schedule}"));
    let limited = config(&format!("upload = \"16 Mbit/s\"\nschedule = [\"{hours} 8 Mbit/s\"]"));
    let seller = Plan::new("seller").zone(&zone).config(&limited).start(&lab);
    let upload = || seller.json(&["--json", "status"])["upload"].clone();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let told = upload();
    assert_eq!((&told["limit-bits"], &told["then-bits"]), (&8_000_000.into(), &16_000_000.into()), "{told} in {zone}");
    let left = told["until"].as_u64().unwrap() - now;
    assert!((88 * 60..=92 * 60).contains(&left), "{left} s left of {hours} in {zone}");
    let shown = seller.tornet(&["status"]);
    let words = format!("at most 8 Mbit/s until {}", told["until-local"].as_str().unwrap());
    assert!(shown.contains(&words) && shown.contains(&format!("{} XXX, then 16 Mbit/s", &hours[6..])), "{shown}");

    let path = lab.path("film");
    fs::write(&path, noise(1, 8 << 20)).unwrap();
    let reference = seller.publish(&path);
    let buyer = Plan::new("buyer").config(READER).knows(&seller).start(&lab);
    let start = Instant::now();
    get(&buyer, &reference, &lab.path("out"));
    let took = start.elapsed();
    // A megabyte each second, but for what may go at once.
    assert!(took > Duration::from_secs(6), "{took:?}");

    fs::write(seller.home.join("config.toml"), config("schedule = [\"mo 8 Mbit/s\"]")).unwrap();
    until_within(PATIENCE, "a word about the file", || seller.log().contains("no day of the week").then_some(()));
    assert_eq!(upload()["limit-bits"], 8_000_000);
    let other = format!("upload = \"16 Mbit/s\"\nschedule = \"{hours} unlimited, mon-fri 04:00 1 Mbit/s\"");
    fs::write(seller.home.join("config.toml"), config(&other)).unwrap();
    until("another schedule", || (upload()["limit-bits"].is_null() && upload()["until"].is_u64()).then_some(()));
    assert_eq!(
        seller.json(&["--json", "config"])["network.schedule"]["value"],
        format!("{hours} unlimited, mon-fri 04:00 1 Mbit/s")
    );
    fs::write(seller.home.join("config.toml"), READER).unwrap();
    until("no schedule", || upload()["until"].is_null().then_some(()));
    assert!(upload()["limit-bits"].is_null() && !seller.tornet(&["status"]).contains("upload"));
}
