//! Commands about payments between peers.

use super::output;
use crate::base::amount::Msat;
use crate::base::bitcoin::Sat;
use crate::base::units::count;
use crate::control::client::Client;
use crate::control::message::{Allowed, Answer, AuditEntry, Paid, PaymentStatus, Request};
use anyhow::bail;

fn whole(amount: Msat) -> anyhow::Result<u64> {
    if Sat::covering(amount) != Sat::within(amount) {
        bail!("{amount} is no whole number of sat: bitcoin moves no parts of one");
    }
    Ok(Sat::within(amount).0)
}

/// `tornet pay`.
pub(super) fn pay(client: &mut Client, peer: String, amount: Option<Msat>, json: bool) -> anyhow::Result<()> {
    let amount_sat = amount.map(whole).transpose()?;
    let _waiting = super::waiting::Waiting::begin(
        "the peer's invoice; Ctrl-C takes nothing back, `tornet payments` tells what was paid",
    );
    match client.ask(&Request::Pay { peer, amount_sat })? {
        Answer::Paid(paid) if json => output::json(&paid)?,
        Answer::Paid(Paid { payment }) => output::line(payment)?,
        other => return Err(output::strange(&other)),
    }
    Ok(())
}

/// `tornet allow`.
pub(super) fn allow(client: &mut Client, reference: String, amount: Msat, json: bool) -> anyhow::Result<()> {
    match client.ask(&Request::Allow { reference, amount_sat: whole(amount)? })? {
        Answer::Allowed(allowed) if json => output::json(&allowed)?,
        Answer::Allowed(Allowed { peers, amount_sat, .. }) => {
            output::line(format_args!(
                "{} beyond the limits, once, to peers that refuse a read of it: {} now",
                Sat(amount_sat),
                count(peers as u64, "peer")
            ))?;
        }
        other => return Err(output::strange(&other)),
    }
    Ok(())
}

/// `tornet payments`.
pub(super) fn payments(client: &mut Client, json: bool) -> anyhow::Result<()> {
    let payments = match client.ask(&Request::Payments)? {
        Answer::Payments(payments) => payments,
        other => return Err(output::strange(&other)),
    };
    if json {
        return Ok(output::json(&payments)?);
    }
    if payments.is_empty() {
        output::note("no peer was paid yet");
        return Ok(());
    }
    Ok(output::line(payments_table(&payments).trim_end())?)
}

fn payments_table(payments: &[PaymentStatus]) -> String {
    let mut rows = vec![["PAYMENT", "STATE", "AMOUNT", "FEE", "PEERS", "TRANSACTION"].map(String::from).to_vec()];
    rows.extend(payments.iter().map(|payment| {
        let state = match payment.blocks {
            0 => payment.state.clone(),
            blocks => format!("{} ({})", payment.state, count(u64::from(blocks), "block")),
        };
        let fee = if payment.txid.is_some() {
            Sat(payment.fee_sat).to_string()
        } else {
            format!("at most {}", Sat(payment.fee_max_sat))
        };
        let peers: Vec<&str> = payment.peers.iter().map(|peer| peer.get(..16).unwrap_or(peer)).collect();
        vec![
            payment.payment.clone(),
            state,
            Sat(payment.amount_sat).to_string(),
            fee,
            peers.join(" "),
            payment.txid.clone().unwrap_or_else(|| "none yet".to_string()),
        ]
    }));
    output::table(&rows)
}

const HEADINGS: &str = "number,time,what,payment,peer,amount-msat,fee-msat,address,outpoint,tree";

/// `tornet audit`: a page at a time, however long it is.
pub(super) fn audit(client: &mut Client, csv: bool, json: bool) -> anyhow::Result<()> {
    if csv {
        output::line(HEADINGS)?;
    }
    let mut from = 0;
    loop {
        let entries = match client.ask(&Request::Audit { from })? {
            Answer::Audit(entries) => entries,
            other => return Err(output::strange(&other)),
        };
        let Some(last) = entries.last() else { return Ok(()) };
        from = last.number + 1;
        for entry in &entries {
            match (json, csv) {
                (true, _) => output::json(entry)?,
                (_, true) => output::line(comma_separated(entry))?,
                _ => output::line(sentence(entry))?,
            }
        }
    }
}

/// No field can hold a comma or a quote: they are numbers, words of ours, digits and addresses.
fn comma_separated(entry: &AuditEntry) -> String {
    let AuditEntry { number, time, what, payment, peer, amount_msat, fee_msat, address, outpoint, tree } = entry;
    let [payment, outpoint, tree] = [payment, outpoint, tree].map(|text| text.as_deref().unwrap_or_default());
    format!("{number},{time},{what},{payment},{peer},{amount_msat},{fee_msat},{address},{outpoint},{tree}")
}

fn sentence(entry: &AuditEntry) -> String {
    let peer = entry.peer.get(..16).unwrap_or(&entry.peer);
    let fee = if entry.fee_msat > 0 { format!(", fee {}", Msat(entry.fee_msat)) } else { String::new() };
    let time = super::wallet::minute(entry.time);
    if let Some(tree) = &entry.tree {
        let tree = tree.get(..16).unwrap_or(tree);
        return format!(
            "{} {time} {}: {} for the tree with root {tree}",
            entry.number,
            entry.what,
            Msat(entry.amount_msat)
        );
    }
    let at = entry.outpoint.as_ref().unwrap_or(&entry.address);
    format!("{} {time} {} {peer}: {}{fee} at {at}", entry.number, entry.what, Msat(entry.amount_msat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_carry_units_and_the_log_one_field_for_each_heading() {
        let payment = PaymentStatus { payment: "ab".into(), amount_sat: 5_000, fee_max_sat: 250, ..Default::default() };
        let text = payments_table(&[payment]);
        assert!(text.contains("5000 sat") && text.contains("at most 250 sat") && text.contains("none yet"), "{text}");
        let entry = AuditEntry { what: "sent".into(), amount_msat: 5_000_000, fee_msat: 155_000, ..Default::default() };
        assert_eq!(comma_separated(&entry).split(',').count(), HEADINGS.split(',').count());
        assert!(sentence(&entry).contains("5000 sat, fee 155 sat"), "{}", sentence(&entry));
        let entry = AuditEntry { what: "allowed".into(), tree: Some("ab".repeat(32)), ..entry };
        assert_eq!(comma_separated(&entry).split(',').count(), HEADINGS.split(',').count());
        assert!(sentence(&entry).ends_with("allowed: 5000 sat for the tree with root abababababababab"));
        assert!(whole(Msat(1_500)).is_err());
        assert_eq!(whole(Msat(2_000)).unwrap(), 2);
    }
}
