//! `tornet wallet`: makes, keeps and uses the node's bitcoin wallet. Words and passphrases come from the terminal or from files, never from
//! arguments or the environment.

use super::command::{Meet, Place, WalletCommand};
use super::node;
use super::output::{self, Remedied, Usage};
use super::prompt::Terminal;
use crate::base::amount::Msat;
use crate::chain::{self, Chain, Passphrase, Seed, SeedError, Start};
use crate::config::Settings;
use crate::control::client::{Client, ClientError};
use crate::control::message::{Answer, Request};
use crate::control::wallet::{Secret, WalletAnswer, WalletBalance, WalletMovement, WalletRequest, WalletSent};
use anyhow::{Context, bail};
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// How many of the words are asked for again.
const WORDS_ASKED: usize = 3;

/// Runs one of its commands.
pub(super) fn run(place: &Place, command: WalletCommand, json: bool) -> anyhow::Result<()> {
    match command {
        WalletCommand::Setup { unconfirmed } => setup(place, unconfirmed, json),
        WalletCommand::Restore { backup, addresses, since } => {
            restore(place, backup.as_deref(), addresses, since, json)
        }
        WalletCommand::Backup { file: Some(file), .. } => copy(place, &file, json),
        WalletCommand::Backup { check: true, .. } => check(place, json),
        WalletCommand::Backup { .. } => words(place, json),
        WalletCommand::Unlock => {
            let settings = node::settings(place, &Meet::default())?;
            let mut client = Client::connect(&settings.data_dir.value)?;
            let passphrase = known_passphrase(&settings)?;
            let answer = unlock(&mut client, &passphrase)?;
            show_balance(&answer, json)
        }
        WalletCommand::Balance => match ask(place, WalletRequest::Balance)? {
            WalletAnswer::Balance(balance) => show_balance(&balance, json),
            other => Err(strange(other)),
        },
        WalletCommand::Address => match ask(place, WalletRequest::Address)? {
            WalletAnswer::Address(found) if json => Ok(output::json(&found)?),
            WalletAnswer::Address(found) => {
                output::note(format_args!("for one payment on the network {}:", found.network));
                Ok(output::line(found.address)?)
            }
            other => Err(strange(other)),
        },
        WalletCommand::History => match ask(place, WalletRequest::History)? {
            WalletAnswer::History(rows) if json => Ok(output::json(&rows)?),
            WalletAnswer::History(rows) if rows.is_empty() => {
                output::note("nothing came or went yet");
                Ok(())
            }
            WalletAnswer::History(rows) => Ok(output::line(history_table(&rows).trim_end())?),
            other => Err(strange(other)),
        },
        WalletCommand::Send { address, amount, fee_max, yes } => send(place, address, amount, fee_max, yes, json),
        WalletCommand::Bump { payment, rate, fee_max } => {
            let fee_max_sat = fee_max.map(|fee| whole("a fee", fee)).transpose()?;
            let request = WalletRequest::Bump { payment, sat_per_kvb: rate.map(|rate| rate.0), fee_max_sat };
            show_sent(ask(place, request)?, json)
        }
    }
}

fn strange(answer: WalletAnswer) -> anyhow::Error {
    output::strange(&Answer::Wallet(answer))
}

fn ask(place: &Place, request: WalletRequest) -> anyhow::Result<WalletAnswer> {
    let mut client = Client::connect(&super::data_dir(place)?)?;
    match client.ask(&Request::Wallet(request))? {
        Answer::Wallet(answer) => Ok(answer),
        other => Err(output::strange(&other)),
    }
}

fn unlock(client: &mut Client, passphrase: &Zeroizing<String>) -> anyhow::Result<WalletBalance> {
    let request = WalletRequest::Unlock { passphrase: Secret(passphrase.to_string()) };
    match client.ask(&Request::Wallet(request))? {
        Answer::Wallet(WalletAnswer::Balance(balance)) => Ok(balance),
        other => Err(output::strange(&other)),
    }
}

// The passphrase.

/// What stands in the file that is set for it, or that systemd gives.
fn passphrase_at_hand(settings: &Settings) -> anyhow::Result<Option<Zeroizing<String>>> {
    let Some(file) = node::passphrase_file(settings) else { return Ok(None) };
    Ok(Some(Passphrase::read(&file)?.into_text()))
}

const NO_TERMINAL: &str = "put the passphrase into a file of mode 600 and name it as passphrase_file in [payments]";

fn known_passphrase(settings: &Settings) -> anyhow::Result<Zeroizing<String>> {
    match passphrase_at_hand(settings)? {
        Some(text) => Ok(text),
        None => Terminal::open(NO_TERMINAL)?.ask_hidden("passphrase of the wallet:"),
    }
}

fn new_passphrase(settings: &Settings) -> anyhow::Result<Zeroizing<String>> {
    if let Some(text) = passphrase_at_hand(settings)? {
        return Ok(text);
    }
    let mut terminal = Terminal::open(NO_TERMINAL)?;
    terminal.say("The wallet's file is encrypted under a passphrase. Whenever a node was started, `tornet wallet unlock` asks for it, unless it is in a file (passphrase_file in [payments]).")?;
    let first = terminal.ask_hidden("new passphrase:")?;
    if *terminal.ask_hidden("the same again:")? != *first {
        bail!("these were two different passphrases: nothing was made");
    }
    Passphrase::new(&first)?;
    Ok(first)
}

// Making and keeping.

/// The settings, and the data directory, which holds no wallet yet.
fn without_wallet(place: &Place) -> anyhow::Result<(Settings, PathBuf)> {
    let settings = node::settings(place, &Meet::default())?;
    let dir = node::data_dir(&settings)?;
    let path = chain::seed_file(&dir);
    if path.exists() {
        return Err(SeedError::Exists { path }.into());
    }
    Ok((settings, dir))
}

fn setup(place: &Place, unconfirmed: bool, json: bool) -> anyhow::Result<()> {
    let (settings, dir) = without_wallet(place)?;
    if !unconfirmed && (json || !io::stdin().is_terminal()) {
        return Err(Usage::because(
            "the words are shown at a terminal, and some asked for again: for a script there is --unconfirmed, which prints them",
        ));
    }
    let passphrase = new_passphrase(&settings)?;
    let seed = Seed::generate()?;
    let words = seed.words();
    if unconfirmed {
        print_words(&words, json)?;
    } else {
        confirm(&words)?;
    }
    keep(&settings, &dir, &seed, &passphrase, Start::New)
}

fn print_words(words: &[String], json: bool) -> anyhow::Result<()> {
    if json {
        #[derive(serde::Serialize)]
        struct Words<'a> {
            words: &'a [String],
        }
        return Ok(output::json(&Words { words })?);
    }
    output::note("These words are the wallet: whoever has them has the money. Write them on paper, in this order.");
    Ok(output::line(words.join(" "))?)
}

/// Shows the words once, and goes on when the user has them.
fn confirm(words: &[String]) -> anyhow::Result<()> {
    let mut terminal = Terminal::open("the words must be seen")?;
    terminal.say("\nThese words are the wallet: whoever has them has the money, and without them a lost disk takes it along.\nWrite them on paper, in this order:\n")?;
    for (place, word) in words.iter().enumerate() {
        terminal.say(&format!("{:>6}. {word}", place + 1))?;
    }
    terminal.ask("\nPress Enter when they are written down; the screen is then cleared.")?;
    terminal.say("\x1b[H\x1b[2J\x1b[3J")?;
    for place in asked_places(words.len())? {
        let answer = terminal.ask(&format!("word number {}:", place + 1))?;
        if words.get(place).is_none_or(|word| *word != answer.trim().to_lowercase()) {
            bail!("that is another word: nothing was made; begin again");
        }
    }
    Ok(())
}

/// Some of the places, by chance, in order.
fn asked_places(count: usize) -> anyhow::Result<Vec<usize>> {
    let mut left: Vec<usize> = (0..count).collect();
    let mut chosen = Vec::new();
    while chosen.len() < WORDS_ASKED && !left.is_empty() {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
        chosen.push(left.swap_remove((u64::from_le_bytes(random) % left.len() as u64) as usize));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// Writes the wallet down, its file of coins first: a seed alone would be taken for a new one.
fn keep(
    settings: &Settings,
    dir: &Path,
    seed: &Seed,
    passphrase: &Zeroizing<String>,
    start: Start,
) -> anyhow::Result<()> {
    let network = settings.wallet.network.value;
    Chain::create(&chain::folder(dir), seed, network, start)?;
    let path = chain::seed_file(dir);
    seed.save(&path, &Passphrase::new(passphrase)?)?;
    output::note(format_args!("the wallet is {}, its network is {network}", path.display()));
    match Client::connect(dir) {
        Ok(mut client) => {
            let running = unlock(&mut client, passphrase)?;
            if running.network != network.to_string() {
                output::note(format_args!(
                    "the running node was started for the network {}: start it again for {network}",
                    running.network
                ));
            }
        }
        Err(ClientError::NotRunning { .. }) if node::passphrase_file(settings).is_some() => {
            output::note("it is opened when the node starts");
        }
        Err(ClientError::NotRunning { .. }) => output::note(
            "when the node has started, `tornet wallet unlock` opens it; or name a file with the passphrase as passphrase_file in [payments]",
        ),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn restore(place: &Place, backup: Option<&Path>, addresses: u32, since: u32, json: bool) -> anyhow::Result<()> {
    let (settings, dir) = without_wallet(place)?;
    let start = Start::Restored { height: since, addresses };
    let (seed, passphrase) = match backup {
        Some(file) => {
            let passphrase = known_passphrase(&settings)?;
            (Seed::load(file, &Passphrase::new(&passphrase)?)?, passphrase)
        }
        None => {
            let seed = Seed::from_words(&read_words("the words of the wallet, on one line:")?)?;
            (seed, new_passphrase(&settings)?)
        }
    };
    keep(&settings, &dir, &seed, &passphrase, start)?;
    if json {
        #[derive(serde::Serialize)]
        struct Restored {
            addresses: u32,
            since: u32,
        }
        return Ok(output::json(&Restored { addresses, since })?);
    }
    output::note(format_args!(
        "blocks are searched for its first {addresses} addresses: `tornet wallet balance` tells how far that is"
    ));
    Ok(())
}

/// One line of words, typed or piped in.
fn read_words(question: &str) -> anyhow::Result<Zeroizing<String>> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Terminal::open("")?.ask(question);
    }
    let mut line = Zeroizing::new(String::with_capacity(1024));
    stdin.lock().read_line(&mut line).context("cannot read the words from the standard input")?;
    Ok(line)
}

fn open_seed(place: &Place) -> anyhow::Result<Seed> {
    let settings = node::settings(place, &Meet::default())?;
    let path = chain::seed_file(&settings.data_dir.value);
    if !path.exists() {
        return Err(SeedError::Missing { path }.into());
    }
    let passphrase = known_passphrase(&settings)?;
    Ok(Seed::load(&path, &Passphrase::new(&passphrase)?)?)
}

fn copy(place: &Place, file: &Path, json: bool) -> anyhow::Result<()> {
    let seed_file = chain::seed_file(&super::data_dir(place)?);
    chain::copy_seed(&seed_file, file)?;
    if json {
        #[derive(serde::Serialize)]
        struct Copied {
            file: crate::control::message::PathText,
        }
        return Ok(output::json(&Copied { file: file.into() })?);
    }
    output::note(format_args!(
        "{} opens with the wallet's passphrase; `tornet wallet restore {}` brings the wallet back",
        file.display(),
        file.display()
    ));
    Ok(())
}

fn words(place: &Place, json: bool) -> anyhow::Result<()> {
    print_words(&open_seed(place)?.words(), json)
}

fn check(place: &Place, json: bool) -> anyhow::Result<()> {
    let seed = open_seed(place)?;
    let written = Seed::from_words(&read_words("the words as they are written down, on one line:")?)?;
    if *written.words() != *seed.words() {
        return Err(Remedied {
            error: "these are the words of another wallet".into(),
            remedy: "`tornet wallet backup` shows the right ones".into(),
        }
        .into());
    }
    if json {
        return Ok(output::json(&serde_json::json!({"right": true}))?);
    }
    Ok(output::line("these are its words")?)
}

// Using.

fn send(place: &Place, address: String, amount: Msat, fee_max: Msat, yes: bool, json: bool) -> anyhow::Result<()> {
    let (sat, fee_max_sat) = (whole("an amount", amount)?, whole("a fee", fee_max)?);
    if !yes {
        let mut terminal = Terminal::open("with --yes nothing is asked")?;
        if !terminal.agrees(&format!("send {amount} to {address}, and up to {fee_max} to miners?"))? {
            bail!("nothing was sent");
        }
    }
    show_sent(ask(place, WalletRequest::Send { address, sat, fee_max_sat })?, json)
}

fn whole(what: &str, amount: Msat) -> anyhow::Result<u64> {
    match amount.0 % 1000 {
        0 => Ok(amount.0 / 1000),
        _ => Err(Usage::because(format_args!("{what} of {amount} is no whole number of sat"))),
    }
}

fn show_sent(answer: WalletAnswer, json: bool) -> anyhow::Result<()> {
    match answer {
        WalletAnswer::Sent(sent) if json => Ok(output::json(&sent)?),
        WalletAnswer::Sent(WalletSent { txid, fee_sat, trouble, .. }) => {
            match trouble {
                None => output::note(format_args!("sent; the fee is {fee_sat} sat")),
                Some(why) => output::note(format_args!(
                    "signed, with a fee of {fee_sat} sat, and sent again by itself until it is taken: {why}"
                )),
            }
            Ok(output::line(txid)?)
        }
        other => Err(strange(other)),
    }
}

fn show_balance(balance: &WalletBalance, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(output::json(balance)?);
    }
    let mut rows = vec![vec!["confirmed".to_string(), format!("{} sat", balance.confirmed_sat)]];
    let pending = [("change on its way", balance.change_sat), ("not spendable yet", balance.immature_sat)];
    for (name, sat) in pending.into_iter().filter(|(_, sat)| *sat > 0) {
        rows.push(vec![name.into(), format!("{sat} sat")]);
    }
    rows.push(vec!["network".into(), balance.network.clone()]);
    let far = if balance.synced { "the newest".to_string() } else { format!("{} % looked through", balance.percent) };
    rows.push(vec!["block".into(), format!("{} ({far})", balance.height)]);
    if let Some(trouble) = &balance.trouble {
        rows.push(vec!["trouble".into(), trouble.clone()]);
    }
    Ok(output::line(output::table(&rows).trim_end())?)
}

fn history_table(rows: &[WalletMovement]) -> String {
    let head = ["TIME (UTC)", "BLOCK", "CHANGE", "OF THAT FEE", "TRANSACTION"];
    let mut table = vec![head.map(String::from).to_vec()];
    table.extend(rows.iter().map(|row| {
        vec![
            minute(row.time),
            row.height.map_or("none yet".into(), |height| height.to_string()),
            format!("{:+} sat", row.change_sat),
            format!("{} sat", row.fee_sat),
            row.txid.clone(),
        ]
    }));
    output::table(&table)
}

/// A moment as `2026-11-27 12:00` (the civil calendar, by counting days from a March).
pub(super) fn minute(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let (day, month) =
        (day - (153 * from_march + 2) / 5 + 1, if from_march < 10 { from_march + 3 } else { from_march - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", seconds / 3600, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        assert_eq!(minute(0), "1970-01-01 00:00");
        assert_eq!(minute(951_782_399), "2000-02-28 23:59");
        assert_eq!(minute(951_782_400), "2000-02-29 00:00");
        assert_eq!(minute(1_795_780_800), "2026-11-27 12:00");
    }

    #[test]
    fn other_words_are_asked_for_each_time() {
        let asked = asked_places(12).unwrap();
        assert!(asked.len() == WORDS_ASKED && asked.is_sorted() && asked.iter().all(|place| *place < 12));
        assert!((0..50).any(|_| asked_places(12).unwrap() != asked));
    }
}
