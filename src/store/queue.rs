//! Between those who put and the thread that writes: the queue of chunks, the budget of bytes in memory, the rounds of commits.

use super::error::StoreError;
use crate::base::digest::ChunkId;
use crate::base::sync::lock;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Chunks to write, in order.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    work: Bell,
    done: Bell,
}

#[derive(Default)]
struct QueueState {
    chunks: VecDeque<ChunkId>,
    pushed: u64,
    finished: u64,
    closed: bool,
}

/// A condition variable whose notice costs nothing where nobody waits: the standard one makes a system call each time, and chunks are
/// written by the ten thousand a second. All who wait hold the lock of what they wait for when they begin.
#[derive(Default)]
struct Bell {
    condvar: Condvar,
    waiting: AtomicU32,
}

impl Bell {
    fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = self.condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// Waits for at most `time`; tells whether it passed.
    fn wait_for<'a, T>(&self, guard: MutexGuard<'a, T>, time: Duration) -> (MutexGuard<'a, T>, bool) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let (guard, timeout) = self.condvar.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        (guard, timeout.timed_out())
    }

    /// Wakes all who began to wait before the lock was last held: the change that they wait for was made under it.
    fn ring(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_all();
        }
    }

    fn ring_one(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.condvar.notify_one();
        }
    }
}

impl Queue {
    /// Appends a chunk.
    pub(super) fn push(&self, id: ChunkId) {
        let mut state = lock(&self.state);
        state.chunks.push_back(id);
        state.pushed += 1;
        self.work.ring_one();
    }

    /// The next chunk, waiting for one; `None` after `close`. Each must be followed by `finish`.
    pub(super) fn pop(&self) -> Option<ChunkId> {
        let mut state = lock(&self.state);
        loop {
            if let Some(id) = state.chunks.pop_front() {
                return Some(id);
            }
            if state.closed {
                return None;
            }
            state = self.work.wait(state);
        }
    }

    /// The popped chunk is dealt with.
    pub(super) fn finish(&self) {
        let mut state = lock(&self.state);
        state.finished = state.finished.saturating_add(1);
        self.done.ring();
    }

    /// Waits until everything pushed before is dealt with.
    pub(super) fn drain(&self) {
        let mut state = lock(&self.state);
        let target = state.pushed;
        while state.finished < target {
            state = self.done.wait(state);
        }
    }

    /// Sees to it that nobody waits for a writer that is gone.
    pub(super) fn guard(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a Queue);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                lock(&self.0.state).finished = u64::MAX;
                self.0.done.ring();
            }
        }
        Guard(self)
    }

    /// No more chunks come; those in the queue are still handed out.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.ring();
    }
}

/// Bytes that wait in memory.
pub(super) struct Budget {
    max: u64,
    state: Mutex<BudgetState>,
    freed: Bell,
}

#[derive(Default)]
struct BudgetState {
    used: u64,
    /// The writer cannot write: who waits would wait for ever.
    stuck: Option<StoreError>,
}

impl Budget {
    /// None of `max` bytes used.
    pub(super) fn new(max: u64) -> Budget {
        Budget { max, state: Mutex::default(), freed: Bell::default() }
    }

    /// Takes `bytes`, waiting while that is over the budget; an error when the writer is stuck and there is no room.
    pub(super) fn take(&self, bytes: u64) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        while state.used > 0 && state.used + bytes > self.max {
            if let Some(error) = &state.stuck {
                return Err(error.again());
            }
            state = self.freed.wait(state);
        }
        state.used += bytes;
        Ok(())
    }

    /// Gives `bytes` back.
    pub(super) fn give(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.used = state.used.saturating_sub(bytes);
        self.freed.ring();
    }

    /// Why the writer cannot write, or that it can again.
    pub(super) fn set_stuck(&self, error: Option<StoreError>) {
        lock(&self.state).stuck = error;
        self.freed.ring();
    }

    /// Why the writer cannot write.
    pub(super) fn stuck(&self) -> Option<StoreError> {
        lock(&self.state).stuck.as_ref().map(StoreError::again)
    }

    /// The most that may be in use.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        lock(&self.state).used
    }

    /// Whether `bytes` more would have to wait.
    pub(super) fn is_crowded(&self, bytes: u64) -> bool {
        let state = lock(&self.state);
        state.used > 0 && state.used + bytes > self.max
    }
}

/// Commits, numbered, so that any number of callers of `flush` share one.
#[derive(Default)]
pub(super) struct Rounds {
    state: Mutex<RoundState>,
    changed: Bell,
}

#[derive(Default)]
struct RoundState {
    started: u64,
    finished: u64,
    wanted: u64,
    nudged: bool,
    draining: bool,
    /// Written since the last commit.
    bytes: u64,
    error: Option<StoreError>,
    /// Why hosted chunks are not written.
    hosted: Option<StoreError>,
    closed: bool,
}

/// Why a round starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// Somebody waits for it, or the store closes.
    Wanted,
    /// Enough was written, or enough time passed.
    Due,
    /// The store closes, and nobody waits.
    Last,
}

impl Rounds {
    /// Has everything committed that was put before the call; with `hosted`, an error also when that is for want of room for others' chunks.
    pub(super) fn flush(&self, hosted: bool) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(StoreError::Closed);
        }
        let target = state.started + 1;
        state.wanted = state.wanted.max(target);
        self.changed.ring();
        while state.finished < target {
            state = self.changed.wait(state);
        }
        let error = state.error.as_ref().or(state.hosted.as_ref().filter(|_| hosted));
        error.map_or(Ok(()), |error| Err(error.again()))
    }

    /// Something changed: a round falls due soon.
    pub(super) fn nudge(&self) {
        let mut state = lock(&self.state);
        if !state.nudged {
            state.nudged = true;
            self.changed.ring();
        }
    }

    /// `bytes` were written; waits while more than `max` are not committed.
    pub(super) fn wrote(&self, bytes: u64, due: u64, max: u64) {
        let mut state = lock(&self.state);
        state.bytes += bytes;
        if state.bytes >= due {
            self.changed.ring();
        }
        // A commit that waits for the writer has it go on.
        while state.bytes > max && !state.draining && !state.closed {
            state = self.changed.wait(state);
        }
    }

    /// Waits for the next round: `soon` after something changed, else `late`; at once when it is wanted or `due` bytes were written.
    pub(super) fn next(&self, soon: Duration, late: Duration, due: u64) -> Round {
        let mut state = lock(&self.state);
        let mut timed = false;
        while state.wanted <= state.started && state.bytes < due && !state.closed && !timed {
            let time = if state.nudged { soon } else { late };
            (state, timed) = self.changed.wait_for(state, time);
        }
        let round = match (state.wanted > state.started, state.closed) {
            (true, _) => Round::Wanted,
            (false, true) => Round::Last,
            (false, false) => Round::Due,
        };
        state.started += 1;
        state.nudged = false;
        state.bytes = 0;
        round
    }

    /// Runs `work`, which waits for the writer, so that the writer must not wait for the round's end.
    pub(super) fn draining(&self, work: impl FnOnce()) {
        lock(&self.state).draining = true;
        self.changed.ring();
        work();
        lock(&self.state).draining = false;
    }

    /// The round is over.
    pub(super) fn finish(&self, result: Result<(), StoreError>, hosted: Result<(), StoreError>) {
        let mut state = lock(&self.state);
        state.finished = state.started;
        (state.error, state.hosted) = (result.err(), hosted.err());
        self.changed.ring();
    }

    /// Sees to it that nobody waits for a committer that is gone.
    pub(super) fn guard(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a Rounds);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                let mut state = lock(&self.0.state);
                state.closed = true;
                state.finished = u64::MAX;
                state.error = Some(StoreError::Closed);
                self.0.changed.ring();
            }
        }
        Guard(self)
    }

    /// No more rounds but one.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.ring();
    }
}
