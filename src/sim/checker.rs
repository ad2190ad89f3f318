//! What must be true after every step of a simulated run.

use crate::base::digest::ChunkId;
use crate::base::limit::{CHUNK_SLICES_MAX, LINKS_MAX, PROVIDERS_MAX, STREAMS_PER_PEER_MAX};
use crate::base::time::Instant;
use crate::fetch::want::{Want, WantFailure, WantId, WantOk};
use crate::fetch::{FetchConfig, WINDOW_BYTES_MAX};
use crate::node::stats::NodeStats;
use std::collections::{BTreeMap, BTreeSet};

/// A broken promise.
#[derive(Debug, Clone, thiserror::Error)]
#[error("after {} ms, node {node}: {what}", at.0 / 1000)]
pub struct Violation {
    /// When.
    pub at: Instant,
    /// Whose.
    pub node: usize,
    /// What should not be.
    pub what: String,
}

/// One want as the checker follows it.
#[derive(Debug)]
struct Watched {
    want: Want,
    since: Instant,
}

/// What a node has open.
#[derive(Debug, Clone, Default)]
struct Open {
    /// Calls to each other node.
    streams: BTreeMap<usize, u32>,
    /// Bytes of slices asked for and not delivered: in all, and at each other node.
    in_flight: u64,
    in_flight_at: BTreeMap<usize, u64>,
    links: usize,
}

/// Counts of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Wants that ended well, and of those how many needed parity.
    pub wants_ok: u64,
    /// Of them, those that were rebuilt from other shards.
    pub wants_rebuilt: u64,
    /// Wants that failed.
    pub wants_failed: u64,
    /// Messages delivered.
    pub messages: u64,
    /// Bytes of slices delivered.
    pub slice_bytes: u64,
    /// Bytes of slices that proved something.
    pub proof_bytes: u64,
    /// Shards made of others.
    pub rebuilt: u64,
    /// Answers with false bytes, found out.
    pub false_answers: u64,
    /// Of them, those that the checks of slices let pass.
    pub false_accepted: u64,
    /// Peers dropped for what they did.
    pub drops: u64,
}

/// Follows a run and holds it against its promises.
#[derive(Debug, Default)]
pub struct Checker {
    wants: BTreeMap<(usize, WantId), Watched>,
    deadlines: BTreeSet<(Instant, usize, WantId)>,
    nodes: Vec<Open>,
    /// The first broken promise.
    violation: Option<Violation>,
    /// Counts.
    pub tally: Tally,
}

impl Checker {
    pub(super) fn new(nodes: usize) -> Checker {
        Checker { nodes: vec![Open::default(); nodes], ..Checker::default() }
    }

    /// One more node is followed.
    pub(super) fn grow(&mut self) {
        self.nodes.push(Open::default());
    }

    /// The first broken promise of the run.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Notes a broken promise; the first one counts.
    pub fn fail(&mut self, at: Instant, node: usize, what: String) {
        self.violation.get_or_insert(Violation { at, node, what });
    }

    pub(super) fn wanted(&mut self, now: Instant, node: usize, want: &Want) {
        self.deadlines.insert((want.deadline, node, want.id));
        self.wants.insert((node, want.id), Watched { want: want.clone(), since: now });
    }

    /// A node was switched off: nothing is expected of it.
    pub(super) fn gone(&mut self, node: usize) {
        self.wants.retain(|(place, _), _| *place != node);
        self.deadlines.retain(|(_, place, _)| *place != node);
        if let Some(open) = self.nodes.get_mut(node) {
            *open = Open::default();
        }
    }

    /// A want ended. `stored` tells which slices of a chunk its node has; `alive` how many nodes could give which chunk all
    /// the time since a moment.
    pub(super) fn want_done(
        &mut self,
        now: Instant,
        node: usize,
        id: WantId,
        result: &Result<WantOk, WantFailure>,
        stored: impl Fn(&ChunkId) -> u64,
        alive: impl Fn(&ChunkId, Instant) -> bool,
    ) -> Option<Want> {
        let Some(watched) = self.wants.remove(&(node, id)) else {
            self.fail(now, node, format!("{id:?} ended twice, or was never asked for"));
            return None;
        };
        let want = watched.want;
        self.deadlines.remove(&(want.deadline, node, id));
        if now > want.deadline {
            self.fail(now, node, format!("{id:?} ended after its deadline"));
        }
        match result {
            Ok(ok) => {
                let direct = |index: u8, slices: u64| {
                    want.chunks.get(usize::from(index)).is_some_and(|chunk| stored(chunk) & slices == slices)
                };
                for (index, range) in &ok.have {
                    if !direct(*index, range.mask()) {
                        self.fail(now, node, format!("{id:?} tells of slices that the store lacks"));
                    }
                }
                let missing = want.needs.iter().any(|(index, range)| !direct(*index, range.mask()));
                let columns = want.needs.iter().fold(0, |columns, (_, range)| columns | range.mask());
                let shards: Vec<u64> = want.chunks.iter().map(&stored).collect();
                let short = (0..CHUNK_SLICES_MAX).filter(|slice| columns >> slice & 1 == 1).any(|slice| {
                    let lacks = want
                        .needs
                        .iter()
                        .any(|(index, range)| range.mask() >> slice & 1 == 1 && !direct(*index, 1 << slice));
                    lacks && shards.iter().filter(|shard| *shard >> slice & 1 == 1).count() < usize::from(want.data)
                });
                if short {
                    self.fail(now, node, format!("{id:?} ended well without what it needs"));
                }
                self.tally.wants_ok += 1;
                self.tally.wants_rebuilt += u64::from(missing);
            }
            Err(failure) => {
                self.tally.wants_failed += 1;
                // Half a minute is enough to find what k nodes have had for a minute.
                let patient = want.deadline.since(watched.since).as_secs() >= 25;
                let before = Instant(watched.since.0.saturating_sub(60_000_000));
                let shards = want.chunks.iter().filter(|chunk| alive(chunk, before)).count();
                if patient && shards >= usize::from(want.data) {
                    self.fail(
                        now,
                        node,
                        format!("{id:?} failed though {shards} shards are there and {} do: {failure:?}", want.data),
                    );
                }
            }
        }
        Some(want)
    }

    pub(super) fn called(&mut self, now: Instant, from: usize, to: usize) {
        let Some(open) = self.nodes.get_mut(from) else { return };
        let streams = open.streams.entry(to).or_default();
        *streams += 1;
        if *streams > STREAMS_PER_PEER_MAX {
            let what = format!("{streams} calls are open to node {to}");
            self.fail(now, from, what);
        }
    }

    pub(super) fn call_ended(&mut self, from: usize, to: usize) {
        let Some(open) = self.nodes.get_mut(from) else { return };
        if let Some(streams) = open.streams.get_mut(&to) {
            *streams -= 1;
            if *streams == 0 {
                open.streams.remove(&to);
            }
        }
    }

    /// Bytes asked for, or (negative) delivered or given up.
    pub(super) fn in_flight(&mut self, now: Instant, from: usize, to: usize, bytes: i64) {
        let Some(open) = self.nodes.get_mut(from) else { return };
        open.in_flight = open.in_flight.saturating_add_signed(bytes);
        let all = open.in_flight;
        let one = open.in_flight_at.entry(to).or_default();
        *one = one.saturating_add_signed(bytes);
        let one = *one;
        if one == 0 {
            open.in_flight_at.remove(&to);
        }
        if all > FetchConfig::default().in_flight_bytes_max || one > WINDOW_BYTES_MAX {
            self.fail(now, from, format!("{all} bytes are in flight, {one} of them at node {to}"));
        }
    }

    pub(super) fn linked(&mut self, now: Instant, node: usize, more: bool) {
        let Some(open) = self.nodes.get_mut(node) else { return };
        open.links = if more { open.links + 1 } else { open.links.saturating_sub(1) };
        let links = open.links;
        if links > LINKS_MAX {
            self.fail(now, node, format!("{links} links are open"));
        }
    }

    pub(super) fn stats(&mut self, now: Instant, node: usize, stats: &NodeStats) {
        if stats.provider_records > PROVIDERS_MAX || stats.links > LINKS_MAX {
            self.fail(now, node, format!("over its bounds: {stats:?}"));
        }
    }

    /// Time moves on.
    pub(super) fn passed(&mut self, now: Instant) {
        if let Some((deadline, node, id)) = self.deadlines.first().copied()
            && deadline < now
        {
            self.deadlines.pop_first();
            self.fail(now, node, format!("{id:?} did not end by its deadline"));
        }
    }
}
