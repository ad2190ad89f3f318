//! Contacts remembered across restarts.

use crate::base::peer::{Contact, PeerId};
use crate::store::{Store, StoreError, Table};
use std::net::SocketAddr;
use tracing::warn;

/// One record: the contacts, the best first.
const TABLE: Table = Table("contacts.1");
const KEY: &[u8] = b"best";
/// Contacts kept.
const CONTACTS_MAX: usize = 200;

/// Writes the list down, durably: after a crash it is needed, too. Blocks.
pub(super) fn remember(store: &Store, contacts: Vec<Contact>) {
    let kept: Vec<(String, Vec<SocketAddr>)> =
        contacts.iter().take(CONTACTS_MAX).map(|c| (format!("{}", c.peer), c.addrs.clone())).collect();
    let written = serde_json::to_vec(&kept).map_err(|e| e.to_string()).and_then(|bytes| {
        let written: Result<(), StoreError> = store.state().write(true, |tx| tx.put(TABLE, KEY, &bytes));
        written.map_err(|e| e.to_string())
    });
    if let Err(error) = written {
        warn!(%error, "contacts not remembered");
    }
}

/// The list as it was last written; empty when there is none.
pub(super) fn recall(store: &Store) -> Vec<Contact> {
    let bytes = store.state().value(TABLE, KEY).ok().flatten().unwrap_or_default();
    let kept: Vec<(String, Vec<SocketAddr>)> = serde_json::from_slice(&bytes).unwrap_or_default();
    kept.into_iter().filter_map(|(peer, addrs)| Some(Contact { peer: PeerId::from_hex(&peer)?, addrs })).collect()
}
