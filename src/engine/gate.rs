//! Between passes, which store chunks before anything durable refers to them, and the collector, which must not take such chunks for
//! forgotten ones.

use crate::base::sync::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Counts passes, and keeps them out for the moments in which the collector changes something.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Under way: their chunks may not be referred to yet.
    passes: usize,
    /// Counts passes that began.
    epoch: u64,
    /// The collector is at work.
    held: bool,
}

/// A pass; it lasts until what it made is referred to durably, or given up.
pub(super) struct Passing(Arc<Gate>);

/// Passes wait.
pub(super) struct Held<'a>(&'a Gate);

impl Gate {
    /// Begins a pass; waits while the collector is at work.
    pub(super) fn enter(self: &Arc<Gate>) -> Passing {
        let mut state = lock(&self.state);
        while state.held {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.passes += 1;
        state.epoch += 1;
        Passing(self.clone())
    }

    /// Names the present time between passes; `None` while one is under way.
    pub(super) fn quiet(&self) -> Option<u64> {
        let state = lock(&self.state);
        (state.passes == 0).then_some(state.epoch)
    }

    /// Keeps passes from beginning; `None` when one began since `epoch`.
    pub(super) fn hold(&self, epoch: u64) -> Option<Held<'_>> {
        let mut state = lock(&self.state);
        if state.passes > 0 || state.epoch != epoch || state.held {
            return None;
        }
        state.held = true;
        Some(Held(self))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        lock(&self.0.state).passes -= 1;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).held = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_found_before_a_pass_began_is_worth_nothing_after() {
        let gate = Arc::new(Gate::default());
        let epoch = gate.quiet().unwrap();
        assert!(gate.hold(epoch).is_some());
        let pass = gate.enter();
        assert!(gate.quiet().is_none() && gate.hold(epoch).is_none());
        drop(pass);
        assert!(gate.hold(epoch).is_none(), "a pass came and went");
        assert!(gate.hold(gate.quiet().unwrap()).is_some());
    }

    #[test]
    fn pass_waits_while_the_collector_works() {
        let gate = Arc::new(Gate::default());
        let held = gate.hold(0).unwrap();
        let (this, entered) = (gate.clone(), Arc::new(Mutex::new(false)));
        let told = entered.clone();
        let thread = std::thread::spawn(move || {
            let _pass = this.enter();
            *lock(&told) = true;
        });
        std::thread::sleep(Duration::from_millis(30));
        assert!(!*lock(&entered));
        drop(held);
        thread.join().unwrap();
        assert!(*lock(&entered));
    }
}
