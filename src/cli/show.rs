//! Answers of the node as people read them.

use super::waiting::Waiting;
use super::{get, output};
use crate::base::amount::Msat;
use crate::base::bitcoin::Sat;
use crate::base::text::escape;
use crate::base::units::{Rate, Size, Span, count};
use crate::content::reference::RootRef;
use crate::control::client::Client;
use crate::control::message::{
    Answer, BalanceStatus, MarketStatus, PathText, PeerStatus, Reference, RentStatus, Request, Status, UploadStatus,
    Verified, Why,
};
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `tornet status`.
pub(super) fn status(client: &mut Client, json: bool, watch: bool) -> anyhow::Result<()> {
    loop {
        let status = match client.ask(&Request::Status)? {
            Answer::Status(status) => status,
            other => return Err(output::strange(&other)),
        };
        if json {
            output::json(&status)?;
        } else {
            let clear = if watch && io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            output::line(format_args!("{clear}{}", screen(&status).trim_end()))?;
        }
        if !watch {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn shown(path: &PathText) -> String {
    escape(path.0.as_os_str().as_bytes()).to_string()
}

fn screen(status: &Status) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<18}{value}");
    };
    let uptime = Span(Duration::from_secs(status.uptime.max(1)));
    row("node", format!("{} (tornet {}, process {}, up {uptime})", short(&status.peer), status.version, status.pid));
    row("address", status.address.clone());
    if let Some((_, others)) = status.addresses.split_first().filter(|(_, others)| !others.is_empty()) {
        row("also at", others.join(", "));
    }
    let points: Vec<String> = status.mountpoints.iter().map(shown).collect();
    row("mounted at", if points.is_empty() { "nowhere".to_string() } else { points.join(", ") });
    row("data", shown(&status.data_dir));
    row("peers", format!("{} linked, {} known", status.peers_linked, status.peers_known));
    row("own tree", status.tree.clone().unwrap_or_else(|| "not published yet".to_string()));
    row("publishing", publishing(status));
    let store = &status.store;
    row(
        "store",
        format!(
            "{} own, {} pinned; {} hosted and {} cached of {}",
            Size(store.own_bytes),
            Size(store.pinned_bytes),
            Size(store.hosted_bytes),
            Size(store.cached_bytes),
            Size(store.limit_bytes)
        ),
    );
    if let Some(upload) = upload(&status.upload) {
        row("upload", upload);
    }
    row("market", market(&status.market));
    row("kept by others", kept(status));
    if let Some(rent) = rent(&status.rent) {
        row("rent", rent);
    }
    if let Some(trouble) = &status.trouble {
        row("trouble", trouble.clone());
    }
    if status.damaged > 0 {
        row("damaged", format!("{} slices found on disk and dropped: look after the disk", status.damaged));
    }
    let (theirs, ours) = (Msat(status.owed_to_us_msat), Msat(status.owed_by_us_msat));
    if theirs.max(ours) > Msat::ZERO || status.rank > 0 {
        row("credit", format!("peers owe {theirs}, we owe {ours}; rank {}", status.rank));
    }
    let spending =
        if status.spending { "on, within the limits of [payments]" } else { "off (payments.enabled turns it on)" };
    row("spending", spending.to_string());
    for allowed in &status.allowed {
        let tree = allowed.tree.get(..16).unwrap_or(&allowed.tree);
        row("allowed", format!("{} beyond the limits, once, for the tree with root {tree}", Sat(allowed.left_sat)));
    }
    row("safe to shut down", safe(status));
    text
}

/// All on one other node is held by others, too, but not for long perhaps.
fn safe(status: &Status) -> String {
    match status.kept {
        _ if !status.safe_to_shut_down => "no: others do not hold all of it yet".to_string(),
        Some(kept) if kept.hosts == 0 => "yes: nothing is published or pinned here".to_string(),
        Some(kept) if kept.hosts < kept.wanted => {
            format!("yes, though parts of it lie on no more than {} of {} wanted nodes", kept.hosts, kept.wanted)
        }
        _ => "yes".to_string(),
    }
}

/// The limit in force and when it changes; nothing where there never is one.
fn upload(status: &UploadStatus) -> Option<String> {
    let shown = |bits: Option<u64>| bits.map_or("unlimited".to_string(), |bits| Rate(bits).to_string());
    let now = status.limit_bits.map_or(shown(None), |bits| format!("at most {}", Rate(bits)));
    match &status.until_local {
        Some(until) => Some(format!("{now} until {until}, then {}", shown(status.then_bits))),
        None => status.limit_bits.map(|_| now),
    }
}

/// What is held for others because they ask for it.
fn market(status: &MarketStatus) -> String {
    if status.radius_parts == 0 {
        return "buys nothing".to_string();
    }
    let part = match 1_000_000_000 / status.radius_parts.max(1) {
        0 | 1 => "all of the key space".to_string(),
        part => format!("1/{part} of the key space"),
    };
    let floor = status.floor_milli as f64 / 1000.0;
    let text = format!("takes up {part}, from {floor:.1} reads an hour on");
    if status.bought == 0 {
        return text;
    }
    let held = format!("{} ({})", count(status.chunks, "chunk"), Size(status.bytes));
    let (bought, sent) = (status.bought, Size(status.sent_bytes));
    format!("{text}; holds {held}: bought {bought} and dropped {} since the start, sent {sent}", status.dropped)
}

/// What hosting costs and brings, where it does.
fn rent(status: &RentStatus) -> Option<String> {
    let since = |amount, what| (amount > 0).then(|| format!("{} {what} since the start", Msat(amount)));
    let dear = (status.dear_hosts > 0).then(|| {
        let (peers, keep) = (count(status.dear_hosts, "peer"), if status.dear_hosts == 1 { "keeps" } else { "keep" });
        format!("{peers} {keep} nothing for credit.max_host_price")
    });
    let sums = [since(status.charged_msat, "charged"), since(status.paid_msat, "owed to hosts or paid"), dear];
    let parts: Vec<String> = sums.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// How well hosts keep what is published and pinned here.
fn kept(status: &Status) -> String {
    let Some(kept) = status.kept else { return "being counted".to_string() };
    if kept.groups == 0 {
        return "nothing is published or pinned".to_string();
    }
    let lost = if kept.lost > 0 { format!(", {} not readable from them alone", kept.lost) } else { String::new() };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let proved = match kept.proved {
        Some(at) => format!("; all proved within {}", Span(Duration::from_secs(now.saturating_sub(at).max(1)))),
        None => String::new(),
    };
    format!("{} of {} as they should be{lost}{proved}", kept.whole, count(kept.groups, "part"))
}

fn publishing(status: &Status) -> String {
    let mut parts = Vec::new();
    if let Some(work) = status.publishing {
        parts.push(format!("sealing {} of {}", Size(work.done), Size(work.total)));
    }
    if status.staged > 0 {
        parts.push(format!("waiting: {}", count(status.staged, "changed path")));
    }
    if status.hosting.done < status.hosting.total {
        parts.push(format!("{} of {} copies hosted", status.hosting.done, status.hosting.total));
    }
    if parts.is_empty() { "nothing to do".to_string() } else { parts.join(", ") }
}

fn short(peer: &str) -> &str {
    peer.get(..16).unwrap_or(peer)
}

/// `tornet peers`.
pub(super) fn peers(client: &mut Client, json: bool) -> anyhow::Result<()> {
    let peers = match client.ask(&Request::Peers)? {
        Answer::Peers(peers) => peers,
        other => return Err(output::strange(&other)),
    };
    if json {
        return Ok(output::json(&peers)?);
    }
    if peers.is_empty() {
        output::note("no peers: give the address of one with --bootstrap, or in the configuration file");
        return Ok(());
    }
    Ok(output::line(peers_table(&peers).trim_end())?)
}

fn peers_table(peers: &[PeerStatus]) -> String {
    let mut rows = vec![["PEER", "ROUND TRIP", "SENT", "RECEIVED", "ADDRESS"].map(String::from).to_vec()];
    rows.extend(peers.iter().map(|peer| {
        vec![
            short(&peer.peer).to_string(),
            format!("{:.1} ms", peer.rtt_ms),
            Size(peer.sent_bytes).to_string(),
            Size(peer.received_bytes).to_string(),
            peer.address.clone(),
        ]
    }));
    output::table(&rows)
}

/// `tornet balances`.
pub(super) fn balances(client: &mut Client, json: bool) -> anyhow::Result<()> {
    let balances = match client.ask(&Request::Balances)? {
        Answer::Balances(balances) => balances,
        other => return Err(output::strange(&other)),
    };
    if json {
        return Ok(output::json(&balances)?);
    }
    if balances.is_empty() {
        output::note("no balances: nothing that costs anything was exchanged yet");
        return Ok(());
    }
    Ok(output::line(balances_table(&balances).trim_end())?)
}

fn balances_table(balances: &[BalanceStatus]) -> String {
    let head = ["PEER", "BALANCE", "PROVIDED", "RECEIVED", "PAID US", "WE PAID", "MAY OWE", "RANK"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(balances.iter().map(|balance| {
        let sum = Msat(balance.owed_msat.unsigned_abs());
        let owed = match balance.owed_msat {
            0 => "even".to_string(),
            1.. => format!("owes us {sum}"),
            _ if balance.in_flight_msat > 0 => format!("we owe {sum}, {} on its way", Msat(balance.in_flight_msat)),
            _ => format!("we owe {sum}"),
        };
        vec![
            short(&balance.peer).to_string(),
            owed,
            Msat(balance.provided_msat).to_string(),
            Msat(balance.received_msat).to_string(),
            Msat(balance.credited_msat).to_string(),
            Msat(balance.paid_msat).to_string(),
            Msat(balance.line_msat).to_string(),
            balance.rank.to_string(),
        ]
    }));
    output::table(&rows)
}

/// `tornet ref`.
pub(super) fn reference(client: &mut Client, path: &Path, verify: bool, json: bool) -> anyhow::Result<()> {
    let _waiting = Waiting::begin(
        "the file is sealed once nothing has written to it for a moment, a path under ref/ is looked up first; Ctrl-C gives up, `tornet why PATH` tells how far it is",
    );
    let mut found: Reference = match client.ask(&Request::Ref { path: PathText(real(path)?) })? {
        Answer::Reference(found) => found,
        other => return Err(output::strange(&other)),
    };
    if verify {
        found.reference = found.reference.parse::<RootRef>()?.verify().to_string();
    }
    if json {
        output::json(&found)?
    } else {
        output::line(&found.reference)?
    }
    Ok(())
}

/// `tornet why`.
pub(super) fn why(client: &mut Client, path: &Path, json: bool) -> anyhow::Result<()> {
    let _waiting = Waiting::begin(get::SEEKING);
    let found: Why = match client.ask(&Request::Why { path: PathText(apparent(path)?) })? {
        Answer::Why(found) => found,
        other => return Err(output::strange(&other)),
    };
    if json {
        return Ok(output::json(&found)?);
    }
    Ok(output::line(format_args!("{}: {}", found.state, found.detail))?)
}

/// `tornet verify` and `tornet repair`.
pub(super) fn verify(client: &mut Client, reference: String, repair: bool, json: bool) -> anyhow::Result<()> {
    let request = if repair { Request::Repair { reference } } else { Request::Verify { reference } };
    let found = match get::ask(client, &request, get::SEEKING)? {
        Answer::Verified(found) => found,
        other => return Err(output::strange(&other)),
    };
    if json {
        output::json(&found)?
    } else {
        output::line(condition(&found))?
    }
    if found.lost > 0 {
        anyhow::bail!(
            "{} of {} of the tree cannot be read from the swarm now",
            found.lost,
            count(found.groups, "part")
        );
    }
    Ok(())
}

fn condition(found: &Verified) -> String {
    let Verified { groups, whole, weak, lost, chunks, found, peers, repaired } = found;
    let made = if *repaired > 0 { format!("; {repaired} given to new hosts") } else { String::new() };
    format!(
        "{}: {whole} whole, {weak} weak, {lost} lost; {found} of {} proved by {}{made}",
        count(*groups, "part"),
        count(*chunks, "chunk"),
        count(*peers, "other node")
    )
}

/// The path with every link followed, absolute.
pub(super) fn real(path: &Path) -> anyhow::Result<PathBuf> {
    let shown = |path: &Path| escape(path.as_os_str().as_bytes()).to_string();
    path.canonicalize().map_err(|error| match path.read_link() {
        Ok(target) if error.kind() == io::ErrorKind::NotFound => anyhow::anyhow!(
            "{} is a symbolic link to {}, which is not there: a link has no reference of its own, the one of its directory holds it",
            shown(path),
            shown(&target)
        ),
        _ => anyhow::anyhow!("{}: {error}", shown(path)),
    })
}

/// The path as absolute as it can be made without looking at its last part, which may be what fails.
fn apparent(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
    Ok(parent.canonicalize().map_or_else(|_| path.clone(), |parent| parent.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::Work;
    use crate::engine::KeptStatus;

    #[test]
    fn a_balance_says_who_owes_whom() {
        let row = |owed_msat| BalanceStatus {
            peer: "ab".repeat(32),
            owed_msat,
            provided_msat: 954,
            ..BalanceStatus::default()
        };
        let text = balances_table(&[row(954), row(-1200), row(0)]);
        for part in ["owes us 0.954 sat", "we owe 1.200 sat", "even", "BALANCE"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_screen_tells_whether_it_is_safe_to_switch_off() {
        let mut status = Status { safe_to_shut_down: true, ..Status::default() };
        assert!(screen(&status).contains("safe to shut down yes\n"));
        assert!(screen(&status).contains("publishing        nothing to do\n"));
        status.addresses = ["10.9.9.1:7", "10.0.3.1:7", "127.0.0.1:7"].map(String::from).to_vec();
        assert!(screen(&status).contains("also at           10.0.3.1:7, 127.0.0.1:7\n"));
        assert!(!screen(&status).contains("\nupload"));
        status.upload.limit_bits = Some(2_000_000);
        assert!(screen(&status).contains("\nupload            at most 2 Mbit/s\n"));
        status.upload.until_local = Some("Mon 18:00 CET".to_string());
        assert!(screen(&status).contains("\nupload            at most 2 Mbit/s until Mon 18:00 CET, then unlimited\n"));
        status.kept = Some(KeptStatus { groups: 1, wanted: 5, ..KeptStatus::default() });
        assert!(screen(&status).contains("safe to shut down yes: nothing is published or pinned here\n"));
        status.kept = Some(KeptStatus { groups: 1, whole: 1, hosts: 12, wanted: 12, ..KeptStatus::default() });
        assert!(screen(&status).contains("1 of 1 part as they should be"));
        status.kept = Some(KeptStatus { groups: 2, whole: 2, hosts: 1, wanted: 12, ..KeptStatus::default() });
        assert!(screen(&status).contains("yes, though parts of it lie on no more than 1 of 12 wanted nodes"));
        status.safe_to_shut_down = false;
        status.hosting = Work { done: 3, total: 12 };
        status.mountpoints = vec![PathText("/a\u{1b}b".into())];
        let text = screen(&status);
        assert!(text.contains("3 of 12 copies hosted") && text.contains("safe to shut down no"), "{text}");
        assert!(!text.contains('\u{1b}'), "foreign text is made safe");
    }
}
