//! `tornet wallet` with real nodes and a real chain: made, unlocked, paid, spent, lost and brought back, without a secret ever showing.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::bitcoin::{self, Bitcoin};
use harness::node::{CONFIG, Node, Plan};
use harness::purse::{PASSPHRASE, filters, has, payments, private, rpc, synced, wallet, works};
use harness::{Lab, TORNET, printed, processes_naming, until};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Settings of a node with a wallet, and the file of its passphrase.
fn settings(lab: &Lab, name: &str, source: &str) -> (String, PathBuf) {
    let (payments, file) = payments(lab, name, source);
    (format!("{CONFIG}\n{payments}"), file)
}

#[track_caller]
fn fails(node: &Node, args: &[&str], input: &str) -> String {
    let output = wallet(node, args, input);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", printed(&output));
    String::from_utf8(output.stderr).unwrap()
}

/// Threads of a process by this name, and the processor time of the whole process in ticks.
fn threads(pid: u32, name: &str) -> (usize, u64) {
    let names = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let names = names.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (
        names.filter(|comm| comm.trim() == name).count(),
        fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum(),
    )
}

/// A node whose wallet has 200,000 sat, and reads the chain from this source.
fn with_a_coin(source: impl Fn(&Bitcoin) -> String) -> (Lab, Bitcoin, Node) {
    let lab = Lab::new();
    let bitcoin = Bitcoin::start(&lab, "bitcoin");
    let (config, _) = settings(&lab, "a", &source(&bitcoin));
    let a = Plan::new("a").config(&config).start(&lab);
    works(&a, &["setup", "--unconfirmed"], "");
    synced(&a);
    bitcoin.pay(&works(&a, &["address"], ""), 200_000);
    bitcoin.mine(1);
    has(&a, 200_000);
    (lab, bitcoin, a)
}

#[test]
fn light_client_that_was_begun_anew_leaves_nothing_that_turns_round() {
    // Trap: in the library a connection outlives its client, and takes a whole core.
    // A new wallet's client is begun anew after its first look: the second one sees the coin.
    let (_lab, _bitcoin, a) = with_a_coin(filters);
    until("one client", || (threads(a.pid(), "light-client").0 == 1).then_some(()));
    let before = threads(a.pid(), "light-client").1;
    std::thread::sleep(Duration::from_secs(2));
    let ticks = threads(a.pid(), "light-client").1 - before;
    assert!(ticks < 100, "{ticks} hundredths of a second of work in two seconds of rest");
}

#[test]
fn wallet_is_made_paid_spent_and_brought_back() {
    let lab = Lab::new();
    let bitcoin = Bitcoin::start(&lab, "bitcoin");
    let (config, _) = settings(&lab, "a", &filters(&bitcoin));
    let mut a = Plan::new("a").config(&config).start(&lab);
    let none = fails(&a, &["balance"], "");
    assert!(none.contains("there is no wallet") && none.contains("wallet setup"), "{none}");

    let words = works(&a, &["setup", "--unconfirmed"], "");
    assert_eq!(words.split(' ').count(), 12, "{words}");
    let seed = a.data.join("wallet/seed");
    assert_eq!(fs::metadata(&seed).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fails(&a, &["setup", "--unconfirmed"], "").contains("never overwritten"));
    // The running node opened it at once.
    synced(&a);
    let address = works(&a, &["address"], "");
    assert!(address.starts_with("bcrt1p"), "{address}");
    assert_ne!(works(&a, &["address"], ""), address);
    bitcoin.pay(&address, 200_000);
    bitcoin.mine(1);
    has(&a, 200_000);
    let text = works(&a, &["balance"], "");
    assert!(text.contains("200000 sat") && text.contains("regtest"), "{text}");

    let to = bitcoin.fresh();
    let much = fails(&a, &["send", &to, "300000 sat", "--yes"], "");
    assert!(much.contains("not enough coins") && much.contains("sat"), "{much}");
    let unit = wallet(&a, &["send", &to, "50000", "--yes"], "");
    assert_eq!(unit.status.code(), Some(2), "{}", printed(&unit));
    let dear = fails(&a, &["send", &to, "50000 sat", "--fee-max", "1 sat", "--yes"], "");
    assert!(dear.contains("the fee would be"), "{dear}");
    let foreign = fails(&a, &["send", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "50000 sat", "--yes"], "");
    assert!(foreign.contains("no address of the network regtest"), "{foreign}");
    let sent: Value = serde_json::from_str(&works(&a, &["--json", "send", &to, "50000 sat", "--yes"], "")).unwrap();
    let fee = sent["fee-sat"].as_u64().unwrap();
    until("the payment at the node", || bitcoin.waiting().contains(&sent["txid"].as_str()?.to_string()).then_some(()));
    bitcoin.mine(1);
    has(&a, 150_000 - fee);
    assert_eq!(bitcoin.received(&to), 50_000);
    let history: Value = serde_json::from_str(&works(&a, &["--json", "history"], "")).unwrap();
    assert_eq!(history[0]["change-sat"], -50_000 - fee as i64, "{history}");
    assert_eq!((&history[0]["fee-sat"], &history[1]["change-sat"]), (&fee.into(), &200_000.into()), "{history}");
    assert!(works(&a, &["history"], "").contains("+200000 sat"));

    // It is there again after a kill, opened by the file of its passphrase.
    a.kill();
    drop(a);
    let a = Plan::new("a").config(&config).start(&lab);
    until("the wallet is open", || wallet(&a, &["balance"], "").status.success().then_some(()));
    has(&a, 150_000 - fee);

    // By its words over the full node's RPC, and by a copy of its file over filters.
    assert_eq!(works(&a, &["backup"], ""), words);
    assert_eq!(works(&a, &["backup", "--check"], &format!("{words}\n")), "these are its words");
    let copy = lab.path("copy");
    works(&a, &["backup", copy.to_str().unwrap()], "");
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&seed).unwrap());
    for (name, source, args, input) in [
        ("b", rpc(&bitcoin), vec!["restore"], words.as_str()),
        ("c", filters(&bitcoin), vec!["restore", copy.to_str().unwrap()], ""),
    ] {
        let (config, _) = settings(&lab, name, &source);
        let other = Plan::new(name).config(&config).start(&lab);
        let wrong = fails(&other, &["restore"], "one two three\n");
        assert!(wrong.contains("not the words of a wallet"), "{wrong}");
        works(&other, &args, input);
        has(&other, 150_000 - fee);
        assert_ne!(works(&other, &["address"], ""), address, "{name}");
    }
    // Nothing of it in logs or other files.
    let first: Vec<&str> = words.split(' ').take(3).collect();
    for node in ["a", "b", "c"] {
        let log = fs::read_to_string(lab.path(node).join("log")).unwrap();
        assert!(!log.contains(PASSPHRASE) && !log.contains(&first.join(" ")), "{log}");
    }
}

#[test]
fn payment_by_hand_that_waits_for_a_block_is_sent_again_with_a_higher_fee() {
    let (_lab, bitcoin, a) = with_a_coin(rpc);
    let to = bitcoin.fresh();
    let sent: Value = serde_json::from_str(&works(&a, &["--json", "send", &to, "50000 sat", "--yes"], "")).unwrap();
    let (first, fee) = (sent["txid"].as_str().unwrap(), sent["fee-sat"].as_u64().unwrap());
    assert_eq!(bitcoin.waiting(), [first]);
    let short = &first[..16];
    let same = fails(&a, &["bump", short, "--rate", "1 sat/vB"], "");
    assert!(same.contains("the fee stays as it was") && same.contains("fee rate must be at least"), "{same}");
    let dear = fails(&a, &["bump", short, "--rate", "5 sat/vB", "--fee-max", "300 sat"], "");
    assert!(dear.contains("the fee would be") && dear.contains("over the limit of 300 sat"), "{dear}");
    let absurd = fails(&a, &["bump", short, "--rate", "1001 sat/vB", "--fee-max", "1000000 sat"], "");
    assert!(absurd.contains("over 1000 sat/vB nothing is sent"), "{absurd}");
    let unit = wallet(&a, &["bump", short, "--rate", "5"], "");
    assert_eq!(unit.status.code(), Some(2), "{}", printed(&unit));
    let none = fails(&a, &["bump", "0123456789"], "");
    assert!(none.contains("no payment of this wallet is called 0123456789"), "{none}");
    assert_eq!(bitcoin.waiting(), [first], "nothing of all that changed it");

    let again: Value = serde_json::from_str(&works(&a, &["--json", "bump", short, "--rate", "5 sat/vB"], "")).unwrap();
    let second = again["txid"].as_str().unwrap();
    assert!(second != first && again["fee-sat"].as_u64().unwrap() >= 4 * fee, "{again} after {sent}");
    assert_eq!(bitcoin.waiting(), [second]);
    // By the name of the one that it replaced, and by its own.
    let third: Value = serde_json::from_str(&works(&a, &["--json", "bump", first, "--rate", "7 sat/vB"], "")).unwrap();
    let (txid, fee) = (third["txid"].as_str().unwrap(), third["fee-sat"].as_u64().unwrap());
    assert_eq!(bitcoin.waiting(), [txid]);
    bitcoin.mine(1);
    has(&a, 150_000 - fee);
    let late = fails(&a, &["bump", txid, "--rate", "9 sat/vB"], "");
    assert!(late.contains("in a block"), "{late}");
    assert_eq!(bitcoin.received(&to), 50_000);
}

#[test]
fn locked_wallet_is_unlocked_by_hand_and_a_wrong_or_open_passphrase_file_is_refused() {
    let lab = Lab::new();
    let bitcoin = Bitcoin::start(&lab, "bitcoin");
    let (config, file) = settings(&lab, "a", &rpc(&bitcoin));
    let a = Plan::new("a").config(&config).start(&lab);
    works(&a, &["setup", "--unconfirmed"], "");
    drop(a);
    private(&file, "something else");
    let a = Plan::new("a").config(&config).start(&lab);
    let locked = until("a reason", || Some(fails(&a, &["balance"], "")).filter(|text| text.contains("does not open")));
    assert!(locked.contains("the wallet is locked") && locked.contains("wallet unlock"), "{locked}");
    assert!(fails(&a, &["unlock"], "").contains("does not open"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = fails(&a, &["unlock"], "");
    assert!(open.contains("is open to other users") && open.contains("chmod 600"), "{open}");
    private(&file, PASSPHRASE);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    works(&a, &["unlock"], "");
    synced(&a);
    drop(a);

    // Without a file, as systemd gives it.
    let config = config.lines().filter(|line| !line.starts_with("passphrase_file")).collect::<Vec<_>>().join("\n");
    let a = Plan::new("a").config(&config).start(&lab);
    assert!(fails(&a, &["balance"], "").contains("the wallet is locked"));
    let credentials = lab.make_dir("credentials");
    private(&credentials.join("tornet-wallet"), PASSPHRASE);
    let path = a.home.join("config.toml");
    let mut command = a.command(&["--config", path.to_str().unwrap(), "wallet", "unlock"]);
    let output = command.env("CREDENTIALS_DIRECTORY", &credentials).output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    synced(&a);
}

#[test]
fn without_a_node_the_wallet_is_made_and_everything_else_says_what_to_do() {
    let lab = Lab::new();
    let (config, _) = settings(&lab, "a", "peers = [\"127.0.0.1:9\"]");
    let mut a = Plan::new("a").config(&config).start(&lab);
    a.stop();
    for args in [&["balance"][..], &["address"], &["history"], &["send", "x", "1 sat", "--yes"], &["unlock"]] {
        let away = fails(&a, args, "");
        assert!(away.contains("no node is running") && away.contains("start one"), "{args:?}: {away}");
    }
    let asked = wallet(&a, &["setup"], "");
    assert_eq!(asked.status.code(), Some(2), "{}", printed(&asked));
    let words: Value = serde_json::from_str(&works(&a, &["--json", "setup", "--unconfirmed"], "")).unwrap();
    assert_eq!(words["words"].as_array().unwrap().len(), 12, "{words}");
    drop(a);
    // Opened at the start; where the chain cannot be had it says so, and hands no address out.
    let a = Plan::new("a").config(&config).start(&lab);
    let trouble = until("a word of trouble", || {
        let output = wallet(&a, &["--json", "balance"], "");
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        answer["trouble"].as_str().map(str::to_string)
    });
    assert!(trouble.contains("bitcoin network"), "{trouble}");
    let early = fails(&a, &["address"], "");
    assert!(early.contains("has not reached the end of the chain"), "{early}");
}

#[test]
fn swarm_has_a_chain_of_its_own_and_a_coin_for_every_wallet() {
    let lab = Lab::new();
    let none = lab.path("none");
    let missing =
        Command::new(TORNET).args(["swarm", "2", "--bitcoin"]).env("PATH", &none).env("TMPDIR", lab.dir()).output();
    let missing = missing.unwrap();
    let said = printed(&missing);
    assert!(
        missing.status.code() == Some(1) && said.contains("no bitcoind here") && said.contains("--bitcoin="),
        "{said}"
    );

    let program = bitcoin::program(&lab);
    let start = || {
        let mut command = Command::new(TORNET);
        command.args(["--json", "swarm", "2", "--dir"]).arg(lab.path("swarm"));
        command.arg(format!("--bitcoin={}", program.display())).env("HOME", lab.dir()).env("TMPDIR", lab.dir());
        let mut swarm = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(swarm.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (swarm, serde_json::from_str::<Value>(&line).unwrap())
    };
    let (mut swarm, listed) = start();
    assert!(listed["mine-block"].as_str().unwrap().contains("-generate 1"), "{listed}");
    for node in listed["nodes"].as_array().unwrap() {
        let data = node["data-dir"].as_str().unwrap();
        until("a coin", || {
            let output =
                Command::new(TORNET).args(["--data-dir", data, "--json", "wallet", "balance"]).output().unwrap();
            let balance: Value = serde_json::from_slice(&output.stdout).ok()?;
            (balance["confirmed-sat"].as_u64()? > 0).then_some(())
        });
        let status = Command::new(TORNET).args(["--data-dir", data, "--json", "status"]).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        assert_eq!(status["spending"], true, "{status}");
    }
    harness::signal(swarm.id(), rustix::process::Signal::INT);
    let status = swarm.wait().unwrap();
    assert!(status.code().is_none_or(|code| code == 0 || code == 130), "{status}");
    assert!(processes_naming(lab.dir()).is_empty());

    // Nobody can end them any more, and yet they end: the full node, too.
    let (mut swarm, _) = start();
    let full = |(_, line): &(u32, String)| line.contains("-blockfilterindex=1");
    assert_eq!(processes_naming(lab.dir()).iter().filter(|process| full(process)).count(), 1);
    swarm.kill().unwrap();
    swarm.wait().unwrap();
    until("all of them ended", || processes_naming(lab.dir()).is_empty().then_some(()));
}
