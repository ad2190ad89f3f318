//! The audit log: what happened to money, one entry after the other, written with what it tells of and never changed.

use crate::base::amount::Msat;
use crate::base::bitcoin::Sat;
use crate::base::digest::ChunkId;
use crate::store::{Store, StoreError, Table, Transaction};
use crate::wallet::{Bill, Drawn, Payment, Row, State};
use serde::{Deserialize, Serialize};

/// Number, big-endian, to an entry as JSON.
const TABLE: Table = Table("audit.1");
/// Under this key of its own table: the number of the next entry.
const NEXT: Table = Table("audit-next.1");
/// Entries read at once.
const PAGE: usize = 1024;

/// One entry.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, Default)]
#[serde(rename_all = "kebab-case")]
pub struct AuditEntry {
    /// Its number, from 0.
    pub number: u64,
    /// Seconds since 1970.
    pub time: u64,
    /// What happened: `reserved`, `signed`, `sent`, `confirmed`, `reorganised`, `cancelling`, `cancelled`, `invoiced`, `credited`, `uncredited`, `allowed`,
    /// `allowance-used`, `allowance-restored`.
    pub what: String,
    /// The payment, if it is one of ours.
    pub payment: Option<String>,
    /// The other side, as hexadecimal digits; empty where there is none.
    pub peer: String,
    /// What was, is or was to be moved.
    pub amount_msat: u64,
    /// Of a payment of ours: the fee of the whole transaction, or before it is signed what it may be at most.
    pub fee_msat: u64,
    /// Address that is paid to; empty where there is none.
    pub address: String,
    /// The output, once there is one.
    pub outpoint: Option<String>,
    /// For which tree something was allowed beyond the limits: the id of its root.
    #[serde(default)]
    pub tree: Option<String>,
}

pub(super) fn word(state: State) -> &'static str {
    match state {
        State::Reserved => "reserved",
        State::Signed => "signed",
        State::Sent => "sent",
        State::Confirmed(_) => "confirmed",
        State::Cancelling => "cancelling",
        State::Cancelled(_) => "cancelled",
    }
}

/// What became of a row, as entries. `back`: what payments took of allowances that end in the same transaction, unseen by anybody.
fn entries(old: Option<&Row>, new: &Row, back: &[Drawn]) -> Vec<AuditEntry> {
    match (old, new) {
        (Some(Row::Payment(old)), Row::Payment(new)) if word(old.state) == word(new.state) => Vec::new(),
        (Some(Row::Payment(Payment { state: State::Confirmed(_), .. })), Row::Payment(new))
            if new.state == State::Sent =>
        {
            of_payment(new, "reorganised")
        }
        (_, Row::Payment(new)) => of_payment(new, word(new.state)),
        (Some(Row::Payment(old)), Row::NoPayment(_)) => of_payment(old, "cancelled"),
        (None, Row::Bill(new)) => {
            let mut found = vec![of_bill(new, "invoiced", new.invoice.amount)];
            found.extend(credited(Msat::ZERO, new));
            found
        }
        (old, Row::Allowance(tree, new)) => {
            let known = match old {
                Some(Row::Allowance(_, old)) if (old.at, old.given) == (new.at, new.given) => Some(old.left),
                // One that was used up has no row.
                _ if back.iter().any(|drawn| (drawn.tree, drawn.of) == (*tree, (new.at, new.given))) => Some(Sat(0)),
                _ => None,
            };
            if let Some(known) = known.filter(|known| new.left > *known) {
                return vec![of_allowance(tree, "allowance-restored", Sat(new.left.0.saturating_sub(known.0)))];
            }
            let used = known.unwrap_or(new.given).0.saturating_sub(new.left.0);
            let given = known.is_none().then(|| of_allowance(tree, "allowed", new.given));
            given.into_iter().chain((used > 0).then(|| of_allowance(tree, "allowance-used", Sat(used)))).collect()
        }
        (Some(Row::Bill(old)), Row::Bill(new)) => credited(old.credits(), new).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn credited(before: Msat, bill: &Bill) -> Option<AuditEntry> {
    let after = bill.credits();
    match before.cmp(&after) {
        std::cmp::Ordering::Less => Some(of_bill(bill, "credited", after.over(before))),
        std::cmp::Ordering::Greater => Some(of_bill(bill, "uncredited", before.over(after))),
        std::cmp::Ordering::Equal => None,
    }
}

fn of_payment(payment: &Payment, what: &str) -> Vec<AuditEntry> {
    let fee = if payment.state == State::Reserved { payment.fee_cap } else { payment.fee };
    let entry = |output: &crate::wallet::Output| AuditEntry {
        what: what.to_string(),
        payment: Some(payment.id.to_string()),
        peer: output.peer.to_string(),
        amount_msat: output.value.msat().0,
        fee_msat: fee.msat().0,
        address: output.invoice.address.clone(),
        outpoint: output.outpoint.map(|outpoint| outpoint.to_string()),
        ..AuditEntry::default()
    };
    payment.outputs.iter().map(entry).collect()
}

fn of_allowance(tree: &ChunkId, what: &str, amount: Sat) -> AuditEntry {
    AuditEntry {
        what: what.to_string(),
        amount_msat: amount.msat().0,
        tree: Some(tree.to_string()),
        ..AuditEntry::default()
    }
}

fn of_bill(bill: &Bill, what: &str, amount: Msat) -> AuditEntry {
    AuditEntry {
        what: what.to_string(),
        peer: bill.peer.to_string(),
        amount_msat: amount.0,
        address: bill.invoice.address.clone(),
        outpoint: bill.came.keys().next().map(|outpoint| outpoint.to_string()),
        ..AuditEntry::default()
    }
}

/// Adds what became of a row to the log, in the transaction that changes the row.
pub(super) fn note(
    tx: &mut Transaction<'_>,
    civil: u64,
    old: Option<&Row>,
    new: &Row,
    back: &[Drawn],
) -> Result<(), StoreError> {
    for entry in entries(old, new, back) {
        let next = tx.value(NEXT, b"next")?.and_then(|value| value.try_into().ok()).map_or(0, u64::from_be_bytes);
        let entry = AuditEntry { number: next, time: civil, ..entry };
        let text = serde_json::to_vec(&entry).unwrap_or_default();
        tx.put(TABLE, &next.to_be_bytes(), &text)?;
        tx.put(NEXT, b"next", &next.saturating_add(1).to_be_bytes())?;
    }
    Ok(())
}

/// Entries from this number on, as many as fit one answer; none at the end.
pub(super) fn read(store: &Store, from: u64) -> Result<Vec<AuditEntry>, StoreError> {
    let after = from.checked_sub(1).map(u64::to_be_bytes);
    let page = store.state().range(TABLE, &[], after.as_ref().map(<[u8; 8]>::as_slice), PAGE)?;
    Ok(page.into_iter().filter_map(|(_, value)| serde_json::from_slice(&value).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wallet::Allowance;

    #[test]
    fn what_comes_back_of_an_allowance_is_told_apart_from_what_is_given() {
        let tree = ChunkId([1; 32]);
        let row = |left| Row::Allowance(tree, Allowance { at: 7, given: Sat(6_300), left: Sat(left) });
        let told = |old: Option<Row>, new: Row, back: &[Drawn]| {
            let entries = entries(old.as_ref(), &new, back);
            entries.into_iter().map(|entry| (entry.what, entry.amount_msat / 1000)).collect::<Vec<_>>()
        };
        let drawn = Drawn { tree, of: (7, Sat(6_300)), part: Sat(6_000) };
        assert_eq!(told(None, row(6_300), &[]), [("allowed".to_string(), 6_300)]);
        assert_eq!(told(Some(row(6_300)), row(0), &[]), [("allowance-used".to_string(), 6_300)]);
        assert_eq!(told(Some(row(300)), row(6_300), &[drawn]), [("allowance-restored".to_string(), 6_000)]);
        assert_eq!(told(None, row(6_000), &[drawn]), [("allowance-restored".to_string(), 6_000)]);
        let older = Drawn { of: (6, Sat(6_300)), ..drawn };
        assert_eq!(told(None, row(6_300), &[older]), [("allowed".to_string(), 6_300)]);
    }
}
