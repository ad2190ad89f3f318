//! The accounts on disk: one row for each peer, each batch in one durable transaction.

use super::reactor::Event;
use crate::base::peer::PeerId;
use crate::node::effect::Record;
use crate::node::input::Input;
use crate::store::{Store, StoreError, Table};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{error, warn};

/// `PeerId` to `Record`.
const TABLE: Table = Table("accounts.1");
/// Rows read at once.
const PAGE: usize = 1024;
/// While the disk refuses, nothing is served or acknowledged beyond what is written down.
const RETRY: Duration = Duration::from_secs(2);

/// All accounts as they were last written. A row that cannot be read is told of and left out: what its peer has signed for us is lost,
/// what it provided it can prove.
pub(super) fn recall(store: &Store) -> Result<Vec<(PeerId, Record)>, StoreError> {
    let mut found = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.state().range(TABLE, &[], after.as_deref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        after = Some(last.clone());
        for (key, value) in page {
            match (<[u8; 32]>::try_from(key), Record::from_bytes(&value)) {
                (Ok(peer), Ok(record)) => found.push((PeerId(peer), record)),
                _ => error!("an account on disk is damaged and left out"),
            }
        }
    }
}

fn write(store: &Store, rows: &[(PeerId, Option<Record>)]) -> Result<(), StoreError> {
    store.state().write(true, |tx| {
        for (peer, record) in rows {
            match record {
                Some(record) => tx.put(TABLE, &peer.0, &record.to_bytes())?,
                None => _ = tx.delete(TABLE, &peer.0)?,
            }
        }
        Ok(())
    })
}

/// Writes one batch down, however often it takes, and says so.
pub(super) async fn book(
    store: Arc<Store>,
    events: mpsc::UnboundedSender<Event>,
    records: Vec<(PeerId, Option<Record>)>,
) {
    let records = Arc::new(records);
    loop {
        let (store, rows) = (store.clone(), records.clone());
        let written = tokio::task::spawn_blocking(move || write(&store, &rows));
        match written.await {
            Ok(Ok(())) => {
                let _ = events.send(Event::Input(Input::Booked));
                return;
            }
            Ok(Err(error)) => warn!(%error, "accounts are not written down yet"),
            Err(_) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = events.closed() => return,
        }
    }
}

/// Writes everything down before the node ends.
pub(super) fn close(store: &Store, records: &[(PeerId, Option<Record>)]) {
    if records.is_empty() {
        return;
    }
    if let Err(error) = write(store, records) {
        warn!(%error, "accounts are as they were last written down");
    }
}
