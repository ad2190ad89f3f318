//! Which peer a chunk goes to: one that has nothing of its group, in another network than the group's others, with little to do, near the chunk.

use super::state::{GroupState, Host, Item};
use crate::base::keyspace::Key;
use crate::base::network::Network;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::collections::BTreeMap;

/// Where a chunk may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// To this peer.
    Host(PeerId),
    /// The right ones have enough to do: later.
    Wait,
    /// No host in reach takes it.
    Nobody,
    /// It needs no more.
    Settled,
}

/// Chooses a host for one more placement of `item`, which is of `group`.
pub(super) fn choose(
    now: Instant,
    hosts: &BTreeMap<PeerId, Host>,
    group: &GroupState,
    item: &Item,
    outstanding_max: usize,
) -> Choice {
    let spread = group.spread();
    let mut networks: BTreeMap<Network, usize> = BTreeMap::new();
    for (peer, count) in &spread {
        if let Some(network) = hosts.get(peer).and_then(|host| host.network) {
            *networks.entry(network).or_default() += count;
        }
    }
    let fits = |(peer, host): &(&PeerId, &Host)| {
        host.is_open(now) && !item.refused.contains(peer) && !item.placed.iter().any(|(other, _)| other == *peer)
    };
    let of_group = |peer: &PeerId| spread.get(peer).copied().unwrap_or(0);
    let Some(fewest) = hosts.iter().filter(fits).map(|(peer, _)| of_group(peer)).min() else { return Choice::Nobody };
    let key = Key::from(item.id);
    // A peer with fewer of the group is waited for, however busy: distinct peers are what keeps the group readable.
    let best = hosts
        .iter()
        .filter(fits)
        .filter(|(peer, host)| of_group(peer) == fewest && host.outstanding.len() < outstanding_max)
        .min_by_key(|(peer, host)| {
            let neighbours = host.network.and_then(|network| networks.get(&network)).copied().unwrap_or(0);
            (neighbours, host.outstanding_bytes >> 20, Key::from(**peer).distance(&key))
        });
    best.map_or(Choice::Wait, |(peer, _)| Choice::Host(*peer))
}
