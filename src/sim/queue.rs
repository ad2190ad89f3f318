//! What is to happen, in order of time; events of one moment in the order in which they were put in.

use crate::base::time::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue of events. The heap orders small keys only; the events lie still beside it.
#[derive(Debug)]
pub(super) struct Queue<E> {
    order: BinaryHeap<Reverse<(Instant, u64, u32)>>,
    events: Vec<Option<E>>,
    free: Vec<u32>,
    serial: u64,
}

impl<E> Queue<E> {
    /// An empty queue.
    pub(super) fn new() -> Queue<E> {
        Queue { order: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), serial: 0 }
    }

    /// Lets `event` happen at `at`.
    pub(super) fn push(&mut self, at: Instant, event: E) {
        self.serial += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            (self.events.len() - 1) as u32
        });
        if let Some(place) = self.events.get_mut(slot as usize) {
            *place = Some(event);
        }
        self.order.push(Reverse((at, self.serial, slot)));
    }

    /// The next event, if it is due by `end`.
    pub(super) fn pop(&mut self, end: Instant) -> Option<(Instant, E)> {
        self.order.peek().filter(|Reverse((at, _, _))| *at <= end)?;
        let Reverse((at, _, slot)) = self.order.pop()?;
        self.free.push(slot);
        Some((at, self.events.get_mut(slot as usize)?.take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_arrival() {
        let mut queue = Queue::new();
        for (at, name) in [(5, 'c'), (1, 'a'), (5, 'd'), (3, 'b')] {
            queue.push(Instant(at), name);
        }
        assert_eq!(queue.pop(Instant(0)), None);
        let mut order = Vec::new();
        while let Some((at, name)) = queue.pop(Instant(5)) {
            order.push((at.0, name));
            if name == 'a' {
                queue.push(Instant(5), 'e');
            }
        }
        assert_eq!(order, [(1, 'a'), (3, 'b'), (5, 'c'), (5, 'd'), (5, 'e')]);
        assert!(queue.order.is_empty() && queue.events.len() <= 4, "slots are used again");
    }
}
