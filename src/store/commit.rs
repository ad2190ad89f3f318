//! The thread that makes things durable: syncs the data, commits the index, frees what the index no longer knows.

use super::Inner;
use super::error::StoreError;
use super::index::Batch;
use super::queue::Round;
use super::segment::Place;
use crate::base::digest::ChunkId;
use crate::base::sync::lock;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What was put is committed after this time at the latest.
const SOON: Duration = Duration::from_secs(1);
/// How often leases and the disk are looked after when nothing happens.
const LATE: Duration = Duration::from_secs(30);
/// Uncommitted bytes at which a commit falls due, when the cache is large enough.
const COMMIT_BYTES: u64 = 64 << 20;
const COMMIT_BYTES_MIN: u64 = 1 << 20;

/// What must be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Own and pinned chunks.
    Own,
    /// These and others' that we host.
    Hosted,
}

/// What passes from one commit to the next.
#[derive(Debug, Default)]
pub(super) struct Carry {
    /// To punch.
    pub(super) freed: Vec<(Place, u64)>,
    /// Punched, not yet taken off the index's list.
    pub(super) punched: Vec<Place>,
    /// Bytes written when heat was last halved.
    pub(super) cooled: u64,
}

/// Runs until the store is closed.
pub(super) fn run(inner: &Inner, freed: Vec<(Place, u64)>) {
    let mut carry = Carry { freed, ..Carry::default() };
    let _guard = inner.rounds.guard();
    inner.punch(&mut carry);
    loop {
        let round = inner.rounds.next(SOON, LATE, inner.commit_bytes());
        let mut result = inner.settle(&mut carry, round);
        if matches!(result, Err(StoreError::Full)) && round != Round::Due && inner.maintain(&mut carry).is_ok() {
            // What is cached has made room, if there was any.
            result = inner.settle(&mut carry, round);
        }
        if let (Err(error), Round::Due) = (&result, round) {
            tracing::warn!(%error, "the store could not commit; it tries again");
        }
        inner.rounds.finish(result, inner.unwritten(Keep::Hosted));
        if round == Round::Last {
            inner.queue.close();
            return;
        }
        if let Err(error) = inner.maintain(&mut carry) {
            tracing::warn!(%error, "the store could not make room");
        }
    }
}

impl Inner {
    /// One round: what could not be written is tried again, and everything written is committed. Where somebody waits, an error also when
    /// anything is still not written that must be.
    fn settle(&self, carry: &mut Carry, round: Round) -> Result<(), StoreError> {
        self.retry_stuck();
        if round != Round::Due {
            self.rounds.draining(|| self.queue.drain());
        }
        self.commit(carry, round == Round::Last)?;
        if self.budget.stuck().is_none() {
            self.told.store(false, Ordering::Relaxed);
        }
        if round == Round::Due { Ok(()) } else { self.unwritten(Keep::Own) }
    }

    /// Uncommitted bytes at which a commit falls due: so few that a small cache does not overrun its quota between commits.
    pub(super) fn commit_bytes(&self) -> u64 {
        (self.config.cache_bytes / 32).clamp(COMMIT_BYTES_MIN, COMMIT_BYTES)
    }

    /// Has the writer try again what it could not write.
    fn retry_stuck(&self) {
        if self.budget.stuck().is_none() || lock(&self.failed).is_some() {
            return;
        }
        self.budget.set_stuck(None);
        let mut ids = std::mem::take(&mut *lock(&self.stuck));
        // What must be kept comes first: there may not be room for all.
        ids.sort_by_key(|id| (!self.must_keep(id, Keep::Own), !self.must_keep(id, Keep::Hosted)));
        for id in ids {
            let queue = self.entries.look(&self.index, &id, |entry| {
                if !entry.queued && !entry.pieces.is_empty() {
                    entry.queued = true;
                    self.queue.push(id);
                }
            });
            if queue.is_err() {
                lock(&self.stuck).push(id);
            }
        }
    }

    /// An error if anything could not be written that must be. Cached chunks may wait in memory as long as the disk is full.
    fn unwritten(&self, keep: Keep) -> Result<(), StoreError> {
        let Some(error) = self.budget.stuck() else { return Ok(()) };
        let stuck = lock(&self.stuck).clone();
        if stuck.iter().any(|id| self.must_keep(id, keep)) { Err(error) } else { Ok(()) }
    }

    /// Whether the chunk waits in memory to be written and is to be kept.
    fn must_keep(&self, id: &ChunkId, keep: Keep) -> bool {
        let must = |entry: &super::Entry| {
            let kept = match entry.row.class {
                super::Class::Own => true,
                super::Class::Hosted { .. } => entry.row.pinned || keep == Keep::Hosted,
                super::Class::Cached => entry.row.pinned,
            };
            kept && !entry.pieces.is_empty()
        };
        self.entries.peek(id, must) == Some(true)
    }

    /// One commit of all that changed. On error all of it stays and is tried again with the next.
    pub(super) fn commit(&self, carry: &mut Carry, last: bool) -> Result<(), StoreError> {
        if let Some(why) = &*lock(&self.failed) {
            return Err(StoreError::ReadOnly(why.clone()));
        }
        // Before the entries: a segment sealed by now gets no record that they do not show.
        let mut sealed = Vec::new();
        for (number, segment) in self.segments.all() {
            let known = lock(&segment.row).sealed;
            if segment.sealed.load(Ordering::Acquire) && !known {
                sealed.push(number);
            }
        }
        let collected = self.entries.collect();
        let batch = Batch {
            changes: collected.iter().map(|collected| collected.change).collect(),
            lost: std::mem::take(&mut *lock(&self.lost)),
            punched: carry.punched.clone(),
            pins: std::mem::take(&mut *lock(&self.pins)),
            sealed,
            heat: last,
        };
        if batch.is_empty() {
            return Ok(());
        }
        let synced = self.segments.sync();
        let result = match synced {
            Ok(()) => self.index.commit(&batch, &self.segments),
            Err(error) => {
                // What the disk lost in a failed sync, no second sync brings back: trust nothing that is not committed.
                self.fail(&error);
                Err(error)
            }
        };
        self.entries.committed(&collected, result.is_ok());
        match result {
            Ok(committed) => {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
                *lock(&self.totals) = committed.totals;
                carry.punched.clear();
                for number in &committed.dead {
                    self.segments.remove(*number)?;
                }
                carry.freed.retain(|(place, _)| !committed.dead.contains(&place.segment));
                carry.freed.extend(committed.freed);
                self.punch(carry);
                Ok(())
            }
            Err(error) => {
                lock(&self.lost).extend(batch.lost);
                lock(&self.pins).splice(0..0, batch.pins);
                if matches!(error, StoreError::Io { .. }) {
                    self.fail(&error);
                } else {
                    self.rounds.nudge();
                }
                Err(error)
            }
        }
    }

    fn fail(&self, error: &StoreError) {
        tracing::error!(%error, "the disk failed: the store takes no more data");
        let mut failed = lock(&self.failed);
        failed.get_or_insert_with(|| error.to_string());
        drop(failed);
        self.budget.set_stuck(Some(error.again()));
    }

    fn punch(&self, carry: &mut Carry) {
        for (place, len) in std::mem::take(&mut carry.freed) {
            match self.segments.punch(place.segment, place.offset(), len) {
                Ok(()) => carry.punched.push(place),
                // Stays on the index's list, for the next start.
                Err(error) => tracing::warn!(%error, "space could not be given back"),
            }
        }
    }
}
