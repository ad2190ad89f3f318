//! What the publisher remembers of jobs, groups, chunks and hosts.

use super::job::{JobId, Progress, Publish};
use super::publisher::OfferId;
use crate::base::digest::ChunkId;
use crate::base::network::Network;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// One chunk of one group of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) job: JobId,
    pub(super) group: u32,
    pub(super) item: u32,
}

/// Where the placement of a chunk on a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Chosen, to be offered.
    LinedUp,
    /// Offered, not answered yet.
    Offered(OfferId),
    /// Accepted: the host pulls it.
    Pulling,
    /// The host holds it.
    Confirmed,
}

/// A chunk to be hosted.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: ChunkId,
    pub(super) len: u32,
    pub(super) placed: Vec<(PeerId, State)>,
    /// Hosts that it was taken from for being slow or gone: should they hold it after all, it counts.
    pub(super) former: Vec<PeerId>,
    pub(super) refused: Vec<PeerId>,
    /// Placements beyond the group's copies: its host has others of the group, and one without has come.
    pub(super) extra: u8,
}

impl Item {
    pub(super) fn confirmed(&self) -> usize {
        self.placed.iter().filter(|(_, state)| *state == State::Confirmed).count()
    }
}

/// Chunks that belong on distinct peers. Empty when all is done.
#[derive(Debug)]
pub(super) struct GroupState {
    pub(super) items: Vec<Item>,
    pub(super) copies: u8,
    /// Distinct hosts that it should have, and that hold something of it.
    pub(super) wanted: u16,
    pub(super) hosts: u16,
}

impl GroupState {
    /// How many of its placements lie on each peer.
    pub(super) fn spread(&self) -> BTreeMap<PeerId, usize> {
        let mut out = BTreeMap::new();
        for (peer, _) in self.items.iter().flat_map(|item| &item.placed) {
            *out.entry(*peer).or_default() += 1;
        }
        out
    }

    pub(super) fn distinct(&self) -> u16 {
        let confirmed = self.items.iter().flat_map(|item| &item.placed).filter(|(_, s)| *s == State::Confirmed);
        confirmed.map(|(peer, _)| peer).collect::<BTreeSet<_>>().len() as u16
    }

    /// Worst first, and of equally good ones that which wants most hosts, so that a file in stripes ends at 12/12 and not at its
    /// manifest's 5/5.
    pub(super) fn rank(&self) -> Rank {
        (u32::from(self.hosts) * 1000 / u32::from(self.wanted.max(1)), Reverse(self.wanted), self.hosts)
    }
}

/// Share of the wanted hosts in thousandths, hosts wanted, hosts there.
pub(super) type Rank = (u32, Reverse<u16>, u16);

/// A job under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) lease: u32,
    /// Makes good what was lost, on the keeper's behalf.
    pub(super) anew: bool,
    pub(super) groups: Vec<GroupState>,
    /// Chunks that lack placements.
    pub(super) open: VecDeque<(u32, u32)>,
    /// Chunks that no host in reach takes.
    pub(super) stuck: Vec<(u32, u32)>,
    pub(super) hosted: u64,
    pub(super) wanted: u64,
    /// Chunks that are not announced, of so many.
    pub(super) unannounced: u64,
    pub(super) to_announce: u64,
    ranks: BTreeMap<Rank, u32>,
    /// When progress may be told next; `None` when there is none to tell.
    pub(super) tell_at: Option<Instant>,
    pub(super) told_at: Option<Instant>,
}

impl Job {
    /// A job; `hosts` tells for each group and chunk who holds it already.
    pub(super) fn new(publish: &Publish, hosts: &[Vec<Vec<PeerId>>]) -> Job {
        let mut job = Job {
            lease: publish.lease,
            anew: false,
            groups: Vec::with_capacity(publish.groups.len()),
            open: VecDeque::new(),
            stuck: Vec::new(),
            hosted: 0,
            wanted: 0,
            unannounced: 0,
            to_announce: 0,
            ranks: BTreeMap::new(),
            tell_at: None,
            told_at: None,
        };
        for (number, group) in publish.groups.iter().enumerate().filter(|(_, group)| !group.chunks.is_empty()) {
            let copies = group.copies.max(1);
            let held = |item: usize| hosts.get(number).and_then(|group| group.get(item));
            let count = group.chunks.len() as u64 * u64::from(copies);
            let place = job.groups.len() as u32;
            let items = group.chunks.iter().enumerate().map(|(item, (id, len))| {
                let (former, refused) = (Vec::new(), Vec::new());
                let placed = held(item).into_iter().flatten().map(|peer| (*peer, State::Confirmed)).collect();
                Item { id: *id, len: *len, placed, former, refused, extra: 0 }
            });
            let wanted = count.min(u64::from(u16::MAX)) as u16;
            let mut state = GroupState { items: items.collect(), copies, wanted, hosts: 0 };
            state.hosts = state.distinct();
            for (item, chunk) in state.items.iter().enumerate() {
                job.hosted += chunk.confirmed().min(usize::from(copies)) as u64;
                if chunk.placed.len() < usize::from(copies) {
                    job.open.push_back((place, item as u32));
                }
            }
            job.wanted += count;
            *job.ranks.entry(state.rank()).or_default() += 1;
            job.groups.push(state);
        }
        job
    }

    /// Notes that a group has so many distinct hosts now.
    pub(super) fn set_hosts(&mut self, group: u32, hosts: u16) {
        let Some(state) = self.groups.get_mut(group as usize) else { return };
        let old = state.rank();
        state.hosts = hosts;
        let new = state.rank();
        if old == new {
            return;
        }
        if let Some(count) = self.ranks.get_mut(&old) {
            *count -= 1;
            if *count == 0 {
                self.ranks.remove(&old);
            }
        }
        *self.ranks.entry(new).or_default() += 1;
    }

    pub(super) fn progress(&self) -> Progress {
        let (hosts_min, hosts_wanted) =
            self.ranks.first_key_value().map_or((0, 0), |((_, Reverse(wanted), hosts), _)| (*hosts, *wanted));
        let announced = self.to_announce - self.unannounced;
        let (hosted, wanted, to_announce) = (self.hosted, self.wanted, self.to_announce);
        Progress { hosted, wanted, hosts_min, hosts_wanted, announced, to_announce }
    }

    /// Whether all is hosted, on as many distinct peers as wanted, and announced.
    pub(super) fn is_done(&self) -> bool {
        let spread = self.ranks.first_key_value().is_none_or(|((share, ..), _)| *share >= 1000);
        self.hosted == self.wanted && self.unannounced == 0 && spread && self.open.is_empty()
    }

    /// All chunks of it, each once.
    pub(super) fn chunks(&self) -> BTreeSet<ChunkId> {
        self.groups.iter().flat_map(|group| &group.items).map(|item| item.id).collect()
    }
}

/// A peer that hosts.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) network: Option<Network>,
    pub(super) up: bool,
    pub(super) down_at: Instant,
    /// Refuses or is slow: not chosen before this.
    pub(super) paused_until: Instant,
    pub(super) pause: Duration,
    pub(super) outbox: VecDeque<Slot>,
    pub(super) offering: bool,
    /// Chosen, offered or accepted, and not confirmed; with the time of the last step.
    pub(super) outstanding: BTreeMap<Slot, Instant>,
    pub(super) outstanding_bytes: u64,
    pub(super) progress_at: Instant,
}

impl Host {
    /// Whether anything of ours is under way there.
    pub(super) fn is_needed(&self) -> bool {
        !self.outstanding.is_empty() || self.offering
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.up && now >= self.paused_until
    }
}
