//! A reader as the engine is one: root first, then the stripes in order with a window ahead; who delivered is asked first next time.

use super::tree::Tree;
use crate::base::digest::ChunkId;
use crate::base::peer::Contact;
use crate::base::range::SliceRange;
use crate::base::time::Instant;
use crate::fetch::want::{Urgency, Want, WantFailure, WantId, WantOk};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Stripes asked for ahead of the one that is read.
const AHEAD: usize = 3;
/// What an engine gives a read.
pub const READ_DEADLINE: Duration = Duration::from_secs(30);
/// Likely peers kept.
const LIKELY_MAX: usize = 16;

/// One tree being read by one node.
#[derive(Debug)]
pub struct Reading {
    /// Where.
    pub node: usize,
    tree: Tree,
    /// Next stripe to ask for; 0 is the root.
    next: usize,
    running: BTreeMap<WantId, usize>,
    /// The stripe that the reader itself waits for was asked for with its urgency.
    waited_for: Option<usize>,
    likely: Vec<Contact>,
    /// How long it waits for a stripe.
    patience: Duration,
    /// When it began.
    pub since: Instant,
    /// When all was here.
    pub finished: Option<Instant>,
    /// Stripes (0: the root) that could not be had.
    pub failed: Vec<(usize, WantFailure)>,
}

impl Reading {
    pub(super) fn new(now: Instant, node: usize, tree: Tree, patience: Duration) -> Reading {
        let (running, likely, failed) = (BTreeMap::new(), Vec::new(), Vec::new());
        Reading { node, tree, next: 0, running, waited_for: None, likely, patience, since: now, finished: None, failed }
    }

    /// All chunks of its tree.
    pub(super) fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        self.tree.chunks().into_iter().map(|(id, _)| id)
    }

    /// Whether it has ended, well or not.
    pub fn ended(&self) -> bool {
        self.finished.is_some() || !self.failed.is_empty()
    }

    /// Takes the end of a want. Returns whether it was one of this reading.
    pub(super) fn done(&mut self, id: WantId, result: &Result<WantOk, WantFailure>) -> bool {
        let Some(place) = self.running.remove(&id) else { return false };
        match result {
            Ok(ok) => {
                let mut likely = ok.providers.clone();
                for contact in std::mem::take(&mut self.likely) {
                    if likely.len() < LIKELY_MAX && likely.iter().all(|other| other.peer != contact.peer) {
                        likely.push(contact);
                    }
                }
                self.likely = likely;
            }
            Err(failure) => self.failed.push((place, failure.clone())),
        }
        true
    }

    /// The next want to give, if it is time for one. What is all here is not asked for.
    pub(super) fn next_want(&mut self, now: Instant, id: WantId, stored: impl Fn(&ChunkId) -> u64) -> Option<Want> {
        loop {
            let window = if self.next <= 1 && self.running.values().any(|place| *place == 0) { 1 } else { 1 + AHEAD };
            let head = self.running.values().min().copied();
            if self.ended() {
                return None;
            }
            // What was asked for ahead is waited for now.
            let reached = head.filter(|head| self.waited_for != Some(*head));
            if reached.is_none() && self.running.values().collect::<BTreeSet<_>>().len() >= window {
                return None;
            }
            let place = reached.unwrap_or(self.next);
            let lone;
            let (chunks, data, chunk_len, len) = match place.checked_sub(1) {
                None => {
                    lone = vec![self.tree.root.0];
                    (&lone, 1, 0, self.tree.root.1)
                }
                Some(stripe) => {
                    let Some(stripe) = self.tree.stripes.get(stripe) else {
                        if self.running.is_empty() {
                            self.finished = Some(now);
                        }
                        return None;
                    };
                    (&stripe.chunks, self.tree.data, stripe.len, stripe.len)
                }
            };
            self.next = self.next.max(place + 1);
            let whole = SliceRange::whole(len);
            let held: Vec<u64> = chunks.iter().map(&stored).collect();
            let part = |missing: bool| {
                let places = held.iter().enumerate().filter(move |(index, held)| {
                    let all = *held & whole.mask() == whole.mask();
                    if missing { !all && *index < usize::from(data) } else { all }
                });
                places.map(|(index, _)| (index as u8, whole)).collect::<Vec<_>>()
            };
            let waited_for = head.is_none_or(|head| head == place);
            if waited_for {
                self.waited_for = Some(place);
            }
            let needs = part(true);
            if needs.is_empty() {
                continue;
            }
            let urgency = if waited_for { Urgency::Reader } else { Urgency::Ahead };
            let want = Want {
                id,
                chunks: chunks.clone(),
                data,
                chunk_len,
                needs,
                have: part(false),
                urgency,
                deadline: now.after(self.patience),
                likely: self.likely.clone(),
            };
            self.running.insert(id, place);
            return Some(want);
        }
    }
}
