//! What a node tells of its own state.

use super::Node;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use crate::fetch::FetchStats;
use crate::ledger::LedgerStats;
use crate::market::MarketStats;
use crate::publish::{KeeperStats, PublishStats};
use crate::wire::message::Demand;
use std::net::SocketAddr;

/// Counts for status and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeStats {
    /// Open links.
    pub links: usize,
    /// Contacts in the table.
    pub contacts: usize,
    /// Provider records kept for others.
    pub provider_records: usize,
    /// Heads kept for others.
    pub heads: usize,
    /// Peers of which something is known, linked or not.
    pub known: usize,
    /// Chunks held whole.
    pub held: usize,
    /// Chunks that wait to be announced.
    pub to_announce: usize,
    /// Bytes kept for others.
    pub hosted_bytes: u64,
    /// Chunks accepted that are not here yet.
    pub pulling: usize,
    /// The fetch core's counters.
    pub fetch: FetchStats,
    /// The publisher's counts.
    pub publish: PublishStats,
    /// The keeper's counts.
    pub keeper: KeeperStats,
    /// Searches under way.
    pub searches: usize,
    /// Calls under way, without those of the fetch core.
    pub calls: usize,
    /// Peers that are banned now.
    pub banned: usize,
    /// Sums over all accounts.
    pub credit: LedgerStats,
    /// Requests that wait for the accounts of their askers.
    pub parked: usize,
    /// What is bought and dropped.
    pub market: MarketStats,
    /// Rent charged for what is hosted here, and paid for what others host, since the start.
    pub rent: (Msat, Msat),
    /// Peers that keep nothing for what is offered.
    pub dear_hosts: usize,
}

/// A peer with an open link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Who.
    pub peer: PeerId,
    /// Where its link is.
    pub addr: SocketAddr,
    /// Whether we opened the link.
    pub dialled: bool,
    /// Since when it is open.
    pub since: Instant,
    /// Its program, by its own words; printable ASCII.
    pub agent: String,
    /// Whether it stands in the table.
    pub contact: bool,
    /// Whether it hosts for others, by its own words.
    pub hosts: bool,
    /// Bytes that we asked of it and that did not come yet.
    pub in_flight_bytes: u64,
    /// Its measured rate in bytes a second, if it delivered something.
    pub rate: Option<u64>,
}

impl Node {
    /// Who we are.
    pub fn peer(&self) -> PeerId {
        self.me
    }

    /// All contacts of the table, those known longest first.
    pub fn contacts(&self) -> Vec<Contact> {
        self.table.by_age()
    }

    /// The peers with an open link.
    pub fn peers(&self) -> Vec<PeerState> {
        let linked = self.peers.linked();
        let load = |id| self.fetch.peer_load(id).unwrap_or((0, None));
        let state = linked.map(|(id, peer, link)| PeerState {
            peer: *id,
            addr: link.at,
            dialled: link.dialled,
            since: link.since,
            agent: peer.agent.clone(),
            contact: self.table.contains(id),
            hosts: peer.capabilities.is_some_and(|bits| bits & crate::wire::message::capability::HOSTS != 0),
            in_flight_bytes: load(id).0,
            rate: load(id).1,
        });
        state.collect()
    }

    /// Who announced a chunk here and may still have it.
    pub fn providers(&self, chunk: &ChunkId) -> Vec<Contact> {
        self.providers.of(self.now, chunk)
    }

    /// Whether hosts are being found for any of these chunks.
    pub fn under_way(&self, chunks: &[ChunkId]) -> bool {
        self.publisher.under_way(chunks)
    }

    /// How often a chunk was asked for here.
    pub fn demand(&self, chunk: &ChunkId) -> Demand {
        self.market.demand(self.now, chunk)
    }

    /// Counts of the moment.
    pub fn stats(&self) -> NodeStats {
        NodeStats {
            links: self.peers.linked().count(),
            contacts: self.table.len(),
            provider_records: self.providers.len(),
            heads: self.heading.kept(),
            known: self.peers.known(),
            held: self.announcer.held(),
            to_announce: self.announcer.waiting(),
            hosted_bytes: self.hosting.bytes(),
            pulling: self.hosting.pulling(),
            fetch: self.fetch.stats(),
            publish: self.publisher.stats(),
            keeper: self.keeper.stats(),
            searches: self.searches.len(),
            calls: self.calls.len(),
            banned: self.peers.banned(self.now),
            credit: self.credit.ledger.stats(),
            parked: self.credit.waiting(),
            market: self.market.stats(self.now),
            rent: (self.hosting.claims.charged(), self.mending.dues.paid()),
            dear_hosts: self.dear_hosts.len(),
        }
    }
}
