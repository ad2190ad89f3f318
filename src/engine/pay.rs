//! Payments on disk: one row each, with what became of them in the audit log, each batch in one durable transaction.

use super::audit;
use super::reactor::{Event, unix_now};
use crate::node::input::Input;
use crate::store::{Store, StoreError, Table};
use crate::wallet::{Bill, Payment, PaymentId, Row, WalletAction, WalletEvent};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{error, warn};

/// `PaymentId` to `Payment`.
const PAYMENTS: Table = Table("payments.1");
/// Address to `Bill`.
const BILLS: Table = Table("bills.1");
/// Rows read at once.
const PAGE: usize = 1024;
/// While the disk refuses, nothing is paid.
const RETRY: Duration = Duration::from_secs(2);
/// All payments as they were last written down.
pub(super) fn recall(store: &Store) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    for table in [PAYMENTS, BILLS] {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.state().range(table, &[], after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                match row(table, &key, &value) {
                    Some(row) => found.push(row),
                    None => error!(table = table.0, "a payment on disk is damaged and left out"),
                }
            }
        }
    }
    Ok(found)
}

fn row(table: Table, key: &[u8], value: &[u8]) -> Option<Row> {
    if table == PAYMENTS {
        let id = PaymentId(key.try_into().ok()?);
        Payment::from_bytes(id, value).ok().map(Row::Payment)
    } else {
        Bill::from_bytes(value).ok().map(Row::Bill)
    }
}

fn write(store: &Store, rows: &[Row], civil: u64) -> Result<(), StoreError> {
    store.state().write(true, |tx| {
        for new in rows {
            let (table, key) = match new {
                Row::Payment(payment) => (PAYMENTS, payment.id.0.to_vec()),
                Row::NoPayment(id) => (PAYMENTS, id.0.to_vec()),
                Row::Bill(bill) => (BILLS, bill.invoice.address.clone().into_bytes()),
                Row::NoBill(address) => (BILLS, address.clone().into_bytes()),
            };
            let old = tx.value(table, &key)?.and_then(|value| row(table, &key, &value));
            audit::note(tx, civil, old.as_ref(), new)?;
            match new {
                Row::Payment(payment) => tx.put(table, &key, &payment.to_bytes())?,
                Row::Bill(bill) => tx.put(table, &key, &bill.to_bytes())?,
                Row::NoPayment(_) | Row::NoBill(_) => _ = tx.delete(table, &key)?,
            }
        }
        Ok(())
    })
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Payer {
    store: Arc<Store>,
    events: mpsc::UnboundedSender<Event>,
}

impl Payer {
    pub(super) fn new(store: Arc<Store>, events: mpsc::UnboundedSender<Event>) -> Payer {
        Payer { store, events }
    }

    fn tell(&self, event: WalletEvent) {
        let _ = self.events.send(Event::Input(Input::Wallet(event)));
    }

    /// Begins what the machine wants done; its end is told. Without a chain nothing but rows is ever wanted.
    pub(super) fn act(&self, action: WalletAction) {
        if let WalletAction::Save(rows) = action {
            tokio::spawn(self.clone().save(rows));
        }
    }

    async fn save(self, rows: Vec<Row>) {
        let rows = Arc::new(rows);
        loop {
            let (store, batch) = (self.store.clone(), rows.clone());
            match tokio::task::spawn_blocking(move || write(&store, &batch, unix_now())).await {
                Ok(Ok(())) => return self.tell(WalletEvent::Saved),
                Ok(Err(error)) => warn!(%error, "payments are not written down yet"),
                Err(_) => return,
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.events.closed() => return,
            }
        }
    }
}
