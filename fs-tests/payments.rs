//! Payments between real processes over a real chain: who uses up its credit pays within its limits and is served again, or is told why not.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::bitcoin::Bitcoin;
use harness::node::{CONFIG, Node, Plan, READER};
use harness::purse::{balance, filters, has, mine_waiting, payments, rows, rpc, sat, synced, wallet, works};
use harness::tree::noise;
use harness::{Lab, code, errno, printed, require_fuse, until, until_within};
use rustix::io::Errno;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long a payment may take, with ten nodes on this machine.
const LONG: Duration = Duration::from_secs(240);

// A heavy downloader among nine that sell.

const SELLERS: usize = 9;
const FILES: u64 = 12;
const FILE: usize = 2 << 20;
const PER_DAY: u64 = 25_000;
const PER_PAYMENT: u64 = 15_000;
const PER_PEER: u64 = 12_000;

/// 3,906 sat for a MiB, of which each seller lends one.
const CREDIT: &str = "[credit]\nprice = \"4000000 sat/GiB\"\nmax_price = \"4000000 sat/GiB\"\nnewcomers = \"1 MiB\"\n";

fn heavy_terms() -> String {
    format!(
        "enabled = true\nmax_price = \"4000000 sat/GiB\"\nmin_topup = \"1000 sat\"\nfee_share_max = \"20 %\"\n\
         per_day = \"{PER_DAY} sat\"\nper_payment = \"{PER_PAYMENT} sat\"\nper_peer_day = \"{PER_PEER} sat\"\n"
    )
}

/// What both sides have on their books between a buyer and each seller, once they agree and nothing is under way.
fn books(sellers: &[Node], buyer: &Node) -> Vec<[i64; 4]> {
    let mine = buyer.json(&["--json", "status"])["peer"].clone();
    let number = |row: &Value, field: &str| row[field].as_i64().unwrap();
    until_within(LONG, "books that agree", || {
        let ours = rows(buyer, "balances");
        let mut books = Vec::new();
        for seller in sellers {
            let name = seller.json(&["--json", "status"])["peer"].clone();
            let theirs = rows(seller, "balances").into_iter().find(|row| row["peer"] == mine);
            let ours = ours.iter().find(|row| row["peer"] == name);
            let (Some(ours), Some(theirs)) = (ours, theirs) else {
                // A seller of which nothing was needed.
                books.push([0; 4]);
                continue;
            };
            let agree = number(ours, "owed-msat") == -number(&theirs, "owed-msat")
                && ours["received-msat"] == theirs["provided-msat"]
                && ours["paid-msat"] == theirs["credited-msat"]
                && theirs["unacknowledged-msat"] == 0
                && ours["in-flight-msat"] == 0;
            if !agree {
                return None;
            }
            books.push(["owed-msat", "received-msat", "provided-msat", "paid-msat"].map(|field| number(ours, field)));
        }
        Some(books)
    })
}

/// `tornet allow ...` as `why` names it, as words.
fn allowance(why: &str) -> Vec<String> {
    let (_, command) = why.split_once("tornet allow ").unwrap_or_else(|| panic!("no command in: {why}"));
    let (reference, rest) = command.split_once(" \"").unwrap();
    let (amount, rest) = rest.split_once("\" ").unwrap();
    assert!(rest.starts_with("--once"), "{why}");
    ["allow", reference, amount, "--once"].map(String::from).to_vec()
}

fn all_confirmed(node: &Node) -> bool {
    rows(node, "payments").iter().all(|payment| payment["state"] == "confirmed")
}

#[test]
fn heavy_downloader_pays_as_it_goes_until_its_day_is_used_up() {
    require_fuse();
    let lab = Lab::new();
    let bitcoin = Bitcoin::start(&lab, "bitcoin");
    let names: Vec<String> = (0..SELLERS).map(|number| format!("seller{number}")).collect();
    let config = |name: &str, base: &str, terms: &str| {
        let (payments, _) = payments(&lab, name, &filters(&bitcoin));
        format!("{base}\n{CREDIT}\n{payments}{terms}")
    };
    let selling = CONFIG.replace("8+4", "4+4");
    let mut configs: Vec<String> = names.iter().map(|name| config(name, &selling, "enabled = true\n")).collect();
    configs.push(config("buyer", READER, &heavy_terms()));
    let mut sellers: Vec<Node> = Vec::new();
    for (name, config) in names.iter().zip(&configs) {
        let mut plan = Plan::new(name).config(config);
        if let Some(first) = sellers.first() {
            plan = plan.knows(first);
        }
        sellers.push(plan.start(&lab));
    }
    let buyer = Plan::new("buyer").mounted().config(&configs[SELLERS]).knows(&sellers[0]).start(&lab);
    for node in sellers.iter().chain([&buyer]) {
        works(node, &["setup", "--unconfirmed"], "");
    }
    sellers.iter().chain([&buyer]).for_each(synced);
    let purse = works(&buyer, &["address"], "");
    for _ in 0..8 {
        bitcoin.pay(&purse, 40_000);
    }
    bitcoin.mine(1);
    has(&buyer, 320_000);

    let film = |number: u64| noise(100 + number, FILE);
    let references: Vec<String> = (0..FILES)
        .map(|number| {
            let path = lab.path(format!("film{number}"));
            fs::write(&path, film(number)).unwrap();
            sellers[0].publish(&path)
        })
        .collect();
    until_within(LONG, "all of it with hosts", || {
        let hosted = |node: &Node| node.json(&["--json", "status"])["store"]["hosted-bytes"].as_u64().unwrap();
        (sellers[1..].iter().map(hosted).sum::<u64>() >= 2 * FILES * FILE as u64).then_some(())
    });

    // It reads one after another. Where it is refused a block is mined, until a limit stops it.
    let (mut refused, mut served_after, mut stopped) = (false, 0, None);
    let start = Instant::now();
    'films: for (number, reference) in references.iter().enumerate() {
        let shown = buyer.reference(reference);
        let mut stuck = Instant::now();
        loop {
            let result = fs::read(&shown);
            if let Ok(bytes) = &result {
                assert!(*bytes == film(number as u64));
                served_after += u64::from(!rows(&buyer, "payments").is_empty());
                break;
            }
            assert_eq!(errno(result), code(Errno::DQUOT));
            let why = why(&buyer, &shown);
            assert!(why.contains("credit limit"), "{why}");
            if !refused {
                println!("refused first at film {number}: {why}");
                refused = true;
            }
            let still = why.contains("payments.per_day") && all_confirmed(&buyer) && bitcoin.waiting().is_empty();
            if !still {
                stuck = Instant::now();
            } else if stuck.elapsed() > Duration::from_secs(15) {
                // No invoice and no plan is under way any more.
                println!("stopped at film {number}: {why}");
                stopped = Some((number, why));
                break 'films;
            }
            assert!(start.elapsed() < LONG * 2, "neither served nor stopped: {why}\n{}", buyer.tornet(&["payments"]));
            mine_waiting(&bitcoin);
            thread::sleep(Duration::from_millis(300));
        }
    }
    println!("{}", buyer.tornet(&["payments"]));
    let (number, why) = stopped.expect("the limit of a day stops it");
    assert!(refused && served_after > 0, "refused: {refused}, served after a payment: {served_after}");
    let made = rows(&buyer, "payments");
    let with_fee = |payment: &Value| sat(payment, "amount-sat") + sat(payment, "fee-sat");
    let spent: u64 = made.iter().map(with_fee).sum();
    assert!((1..=PER_DAY).contains(&spent), "{spent} sat were spent, {PER_DAY} are allowed a day");
    assert!(made.iter().all(|payment| with_fee(payment) <= PER_PAYMENT), "{made:?}");
    assert!(
        made.iter().any(|payment| payment["peers"].as_array().unwrap().len() > 1),
        "each debt paid apart: {made:?}"
    );
    let books_then = books(&sellers, &buyer);
    println!("owed, received, provided, paid: {books_then:?}");
    assert!(books_then.iter().all(|book| book[3] <= (PER_PEER * 1000) as i64));

    // What the user allows once goes beyond.
    let shown = buyer.reference(&references[number]);
    let words = allowance(&why);
    assert_eq!(words[1], references[number]);
    println!("{}", buyer.tornet(&words.iter().map(String::as_str).collect::<Vec<_>>()));
    let bytes = until_within(LONG, "a read that was allowed", || {
        mine_waiting(&bitcoin);
        fs::read(&shown).ok()
    });
    assert!(bytes == film(number as u64));
    let spent_then: u64 = rows(&buyer, "payments").iter().map(with_fee).sum();
    assert!(spent_then > PER_DAY.min(spent), "{spent_then}");

    // The next one is refused again; and all of it is so after everybody was killed.
    until_within(LONG, "every payment in a block", || {
        mine_waiting(&bitcoin);
        all_confirmed(&buyer).then_some(())
    });
    let before = books(&sellers, &buyer);
    let purse = balance(&buyer)["confirmed-sat"].as_u64().unwrap();
    let listen = |node: &Node| node.json(&["--json", "status"])["listen"].as_str().unwrap().to_string();
    let addresses: Vec<String> = sellers.iter().chain([&buyer]).map(listen).collect();
    let mut all = sellers;
    all.push(buyer);
    all.iter_mut().for_each(Node::kill);
    drop(all);
    let plan = |number: usize, name: &str| Plan::new(name).config(&configs[number]).listen(&addresses[number]);
    let mut sellers: Vec<Node> = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let plan = plan(number, name);
        sellers.push(if number > 0 { plan.knows(&sellers[0]) } else { plan }.start(&lab));
    }
    let buyer = plan(SELLERS, "buyer").mounted().knows(&sellers[0]).start(&lab);
    assert_eq!(books(&sellers, &buyer), before);
    synced(&buyer);
    has(&buyer, purse);
}

fn why(node: &Node, path: &Path) -> String {
    node.tornet(&["why", path.to_str().unwrap()])
}

// Settings that change while a node runs.

#[test]
fn terms_of_a_running_node_change_with_its_file_and_a_broken_file_changes_nothing() {
    require_fuse();
    let lab = Lab::new();
    let bitcoin = Bitcoin::start(&lab, "bitcoin");
    let settings = |name: &str, base: &str| {
        let (payments, _) = payments(&lab, name, &filters(&bitcoin));
        format!("{base}\n{CREDIT}\n{payments}max_price = \"4000000 sat/GiB\"\n")
    };
    let config = settings("buyer", READER);
    let seller = Plan::new("seller").config(&format!("{}enabled = true\n", settings("seller", CONFIG))).start(&lab);
    let buyer = Plan::new("buyer").mounted().config(&config).knows(&seller).start(&lab);
    works(&seller, &["setup", "--unconfirmed"], "");
    works(&buyer, &["setup", "--unconfirmed"], "");
    synced(&seller);
    synced(&buyer);
    bitcoin.pay(&works(&buyer, &["address"], ""), 40_000);
    bitcoin.mine(1);
    has(&buyer, 40_000);
    let plain = noise(77, 3 << 20);
    fs::write(lab.path("film"), &plain).unwrap();
    let reference = seller.publish(&lab.path("film"));
    let shown = buyer.reference(&reference);
    let told = |part: &str| {
        until(part, || {
            assert_eq!(errno(fs::read(&shown)), code(Errno::DQUOT));
            why(&buyer, &shown).contains(part).then_some(())
        });
    };
    let spending = || buyer.json(&["--json", "status"])["spending"].as_bool().unwrap();
    let file = buyer.home.join("config.toml");

    told("payments are off: payments.enabled turns them on");
    let name = seller.json(&["--json", "status"])["peer"].as_str().unwrap().to_string();
    assert!(buyer.tornet_fails(&["pay", &name, "5000 sat"]).contains("payments are off"));
    fs::write(&file, format!("{config}enabled = true\nper_day = \"1000 sat\"\nfee_share_max = \"20 %\"\n")).unwrap();
    until("payments are on", || spending().then_some(()));
    told("payments.per_day leaves 833 sat");
    fs::write(&file, format!("{config}enabled = true\nper_day = \"50000\"\n")).unwrap();
    until("a word about the file", || buyer.log().contains("the settings stay as they were").then_some(()));
    told("payments.per_day leaves 833 sat");
    assert!(rows(&buyer, "payments").is_empty());
    fs::write(&file, format!("{config}enabled = true\nfee_share_max = \"20 %\"\n")).unwrap();
    let bytes = until_within(LONG, "a read that was paid for", || {
        mine_waiting(&bitcoin);
        fs::read(&shown).ok()
    });
    assert!(bytes == plain);
    fs::write(&file, config).unwrap();
    until("payments are off again", || (!spending()).then_some(()));
}

// What is allowed once.

#[test]
fn what_is_allowed_is_for_its_reference_and_outlives_a_kill() {
    require_fuse();
    let lab = Lab::new();
    let bitcoin = Bitcoin::start(&lab, "bitcoin");
    let settings = |name: &str, base: &str, terms: &str| {
        let (payments, _) = payments(&lab, name, &filters(&bitcoin));
        format!("{base}\n{CREDIT}\n{payments}enabled = true\nmax_price = \"4000000 sat/GiB\"\n{terms}")
    };
    // A MiB is lent; what is owed for it, 3,906 sat, a limit keeps from being paid.
    let limits = "fee_share_max = \"20 %\"\nper_day = \"1000 sat\"\nmin_topup = \"3000 sat\"\n";
    let seller = Plan::new("seller").config(&settings("seller", CONFIG, "")).start(&lab);
    let config = settings("buyer", READER, limits);
    let plan = || Plan::new("buyer").mounted().config(&config).knows(&seller);
    let mut buyer = plan().start(&lab);
    works(&seller, &["setup", "--unconfirmed"], "");
    works(&buyer, &["setup", "--unconfirmed"], "");
    synced(&seller);
    synced(&buyer);
    bitcoin.pay(&works(&buyer, &["address"], ""), 40_000);
    bitcoin.mine(1);
    has(&buyer, 40_000);
    let film = noise(300, 3 << 19);
    fs::write(lab.path("film"), &film).unwrap();
    let reference = seller.publish(&lab.path("film"));
    fs::write(lab.path("film"), b"of the buyer").unwrap();
    let told = |buyer: &Node| {
        let shown = buyer.reference(&reference);
        until("a refusal with its remedy", || {
            assert_eq!(errno(fs::read(&shown)), code(Errno::DQUOT));
            Some(why(buyer, &shown)).filter(|why| why.contains("payments.per_day") && why.contains("tornet allow"))
        })
    };
    let words = allowance(&told(&buyer));
    assert_eq!(words[1], reference);
    // What can be read nobody refuses.
    let own = buyer.publish(&lab.path("film"));
    let other = buyer.tornet_fails(&["allow", &own, "500 sat", "--once"]);
    assert!(other.contains("nothing to allow: no peer that refused a read of it"), "{other}");
    let allowed = |node: &Node| node.json(&["--json", "status"])["allowed"].clone();
    assert_eq!(allowed(&buyer), Value::Array(Vec::new()));

    // Too little to pay anything with, so that it is there when the node dies.
    let answer = buyer.json(&["--json", "allow", &reference, "500 sat", "--once"]);
    assert_eq!((&answer["amount-sat"], &answer["peers"]), (&500.into(), &1.into()), "{answer}");
    let before = allowed(&buyer);
    assert_eq!((&before[0]["left-sat"], &before[0]["tree"]), (&500.into(), &answer["tree"]), "{before}");
    buyer.kill();
    drop(buyer);
    let buyer = plan().start(&lab);
    synced(&buyer);
    assert_eq!(allowed(&buyer), before);
    assert!(buyer.tornet(&["status"]).contains("500 sat beyond the limits, once, for the tree with root"));

    let words = allowance(&told(&buyer));
    assert!(rows(&buyer, "payments").is_empty());
    buyer.tornet(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let bytes = until_within(LONG, "a read that was allowed", || {
        mine_waiting(&bitcoin);
        fs::read(buyer.reference(&reference)).ok()
    });
    assert!(bytes == film);
    let log = buyer.tornet(&["--json", "audit"]);
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let given: Vec<u64> =
        entries.iter().filter(|entry| entry["what"] == "allowed").map(|entry| sat_of(entry, "amount-msat")).collect();
    let used: u64 = entries
        .iter()
        .filter(|entry| entry["what"] == "allowance-used")
        .map(|entry| sat_of(entry, "amount-msat"))
        .sum();
    println!("allowed {given:?}, used {used}: {log}");
    assert_eq!((given.len(), given[0], given[1]), (2, 500, used));
    assert_eq!(allowed(&buyer), Value::Array(Vec::new()));
    assert!(entries.iter().all(|entry| entry["tree"].is_null() || entry["tree"] == answer["tree"]));
}

fn sat_of(entry: &Value, field: &str) -> u64 {
    entry[field].as_u64().unwrap() / 1000
}

// Who may pay is asked to before it is refused.

/// A seller, and a buyer with two coins, both of whom read the chain from this source.
fn seller_and_buyer(source: impl Fn(&Bitcoin) -> String) -> (Lab, Bitcoin, Node, Node) {
    let lab = Lab::new();
    let bitcoin = Bitcoin::start(&lab, "bitcoin");
    let settings = |name: &str, base: &str| {
        let (payments, _) = payments(&lab, name, &source(&bitcoin));
        // Four MiB on credit are 15,624 sat.
        let credit = CREDIT.replace("1 MiB", "4 MiB");
        format!(
            "{base}\n{credit}\n{payments}enabled = true\nmax_price = \"4000000 sat/GiB\"\nfee_share_max = \"20 %\"\n"
        )
    };
    let seller = Plan::new("seller").config(&settings("seller", CONFIG)).start(&lab);
    let buyer = Plan::new("buyer").config(&settings("buyer", READER)).knows(&seller).start(&lab);
    works(&seller, &["setup", "--unconfirmed"], "");
    works(&buyer, &["setup", "--unconfirmed"], "");
    synced(&seller);
    synced(&buyer);
    for _ in 0..2 {
        bitcoin.pay(&works(&buyer, &["address"], ""), 40_000);
    }
    bitcoin.mine(1);
    has(&buyer, 80_000);
    (lab, bitcoin, seller, buyer)
}

/// The buyer gets something new of so many bytes.
#[track_caller]
fn get(lab: &Lab, seller: &Node, buyer: &Node, number: u64, bytes: usize) {
    let (path, out) = (lab.path(format!("film{number}")), lab.path(format!("out{number}")));
    fs::write(&path, noise(400 + number, bytes)).unwrap();
    let reference = seller.publish(&path);
    buyer.tornet(&["get", &reference, out.to_str().unwrap()]);
    assert!(fs::read(out).unwrap() == noise(400 + number, bytes));
}

/// What the buyer paid counts with the seller.
fn counts(bitcoin: &Bitcoin, seller: &Node) {
    until_within(LONG, "a payment that counts", || {
        mine_waiting(bitcoin);
        rows(seller, "balances").iter().any(|row| row["credited-msat"].as_u64() > Some(11_000_000)).then_some(())
    });
}

fn pays_before_it_is_refused(source: impl Fn(&Bitcoin) -> String) {
    let (lab, bitcoin, seller, buyer) = seller_and_buyer(source);
    let get = |number: u64, bytes: usize| get(&lab, &seller, &buyer, number, bytes);
    get(0, 2 << 20);
    // Longer than a payment takes to be planned.
    thread::sleep(Duration::from_secs(6));
    assert!(rows(&buyer, "payments").is_empty(), "half of the line is not worth a payment");
    get(1, 5 << 18);
    until_within(LONG, "a payment that nobody's refusal made necessary", || {
        (!rows(&buyer, "payments").is_empty()).then_some(())
    });
    counts(&bitcoin, &seller);
    // More than was left of the line.
    get(2, 2 << 20);
}

#[test]
fn heavy_reader_pays_before_it_is_refused() {
    pays_before_it_is_refused(filters);
}

#[cfg(feature = "electrum")]
#[test]
fn heavy_reader_pays_before_it_is_refused_over_an_electrum_server() {
    pays_before_it_is_refused(harness::purse::electrum);
}

#[cfg(feature = "esplora")]
#[test]
fn heavy_reader_pays_before_it_is_refused_over_an_esplora_server() {
    pays_before_it_is_refused(harness::purse::esplora);
}

// A higher fee by hand.

#[test]
fn payment_to_a_peer_is_sent_again_with_a_higher_fee_within_the_limits() {
    let (lab, bitcoin, seller, buyer) = seller_and_buyer(rpc);
    get(&lab, &seller, &buyer, 0, 13 << 18);
    let sent = until_within(LONG, "a payment that was sent", || {
        let payment = rows(&buyer, "payments").first()?.clone();
        (payment["state"] == "sent" && bitcoin.waiting().len() == 1).then_some(payment)
    });
    let (name, fee) = (sent["payment"].as_str().unwrap(), sat(&sent, "fee-sat"));
    let fails = |args: &[&str]| printed(&wallet(&buyer, &[&["bump", name], args].concat(), ""));
    let over = fails(&["--rate", "500 sat/vB"]);
    assert!(over.contains("500 sat/vB is over payments.fee_rate_max, which is 20 sat/vB"), "{over}");
    let low = fails(&["--rate", "1 sat/vB"]);
    assert!(low.contains("only a higher rate takes its place"), "{low}");
    let dear = fails(&["--rate", "5 sat/vB", "--fee-max", "300 sat"]);
    assert!(dear.contains("over the limit of 300 sat"), "{dear}");
    let before = bitcoin.waiting();
    let txid = works(&buyer, &["bump", name, "--rate", "3 sat/vB"], "");
    assert!(before != [txid.as_str()] && bitcoin.waiting() == [txid.as_str()], "{before:?}");
    until("the new fee", || {
        let payment = rows(&buyer, "payments")[0].clone();
        (sat(&payment, "fee-sat") >= 2 * fee).then_some(())
    });
    counts(&bitcoin, &seller);
    // The two look at the chain at different moments.
    let done = until_within(LONG, "a block that the buyer saw", || {
        let payment = rows(&buyer, "payments")[0].clone();
        (payment["state"] == "confirmed").then_some(payment)
    });
    assert!(sat(&done, "fee-sat") >= 2 * fee, "{done}");
}
