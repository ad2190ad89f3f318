//! The configuration file while a node runs: what can change in it takes effect when the file does.

use super::node;
use crate::base::bitcoin::BitcoinNetwork;
use crate::base::week::Week;
use crate::chain::Network;
use crate::config::{self, Settings};
use crate::control::service::Node;
use crate::engine::Engine;
use crate::ledger::CreditConfig;
use crate::wallet::PayConfig;
use crate::wire::message::Price;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// On which terms a node serves and is served.
pub(super) fn credit(settings: &Settings) -> CreditConfig {
    CreditConfig {
        price: Price { per_gib: settings.price.value.0, per_request: settings.request_price.value },
        line_bytes: settings.credit_line.value.0,
        newcomer_bytes: settings.newcomers.value.0,
        price_max: Price { per_gib: settings.max_price.value.0, per_request: settings.max_request_price.value },
        host_price: settings.host_price.value.0,
        host_price_max: settings.max_host_price.value.0,
        ..CreditConfig::default()
    }
}

/// On which terms it pays and is paid, with the wallet of this network.
pub(super) fn payments(settings: &Settings, network: Network) -> PayConfig {
    settings.terms.terms(match network {
        Network::Bitcoin => BitcoinNetwork::Bitcoin,
        Network::Testnet4 => BitcoinNetwork::Testnet4,
        Network::Signet => BitcoinNetwork::Signet,
        Network::Regtest => BitcoinNetwork::Regtest,
    })
}

/// How much it sends of chunks, by the time of the week.
pub(super) fn upload(settings: &Settings) -> Week {
    settings.schedule.value.week(settings.upload.value)
}

/// What tells one content of a file from another without reading it.
fn mark(path: &Path) -> Option<(u64, i64, i64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}

/// Follows the file until dropped. One that cannot be understood changes nothing, nor does one that is being written.
pub(super) async fn follow(started: &Settings, flags: &config::Flags, engine: &Engine, service: &Arc<Node>) {
    let (path, network) = (&started.file.value, started.wallet.network.value);
    let mut in_force = (credit(started), payments(started, network), upload(started));
    let (mut read, mut last) = (None, mark(path));
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        let found = mark(path);
        let rests = std::mem::replace(&mut last, found) == found;
        if !rests || read == Some(found) {
            continue;
        }
        read = Some(found);
        match Settings::load(flags, &node::environment) {
            Ok(settings) => {
                let terms = (credit(&settings), payments(&settings, network), upload(&settings));
                if terms != in_force {
                    tracing::info!(file = %path.display(), "settings read again");
                    engine.set_terms(terms.0, terms.1);
                    engine.limit_upload(terms.2.clone());
                    in_force = terms;
                    service.set_settings(node::in_force(&settings), config::is_live);
                }
            }
            Err(error) => tracing::warn!(%error, "the settings stay as they were"),
        }
    }
}
