//! Placing: which peer is to hold which shard, the offers that say so, and what becomes of a place whose peer does not take it.

use super::super::job::JobId;
use super::super::placement::{Choice, choose};
use super::super::state::{Slot, State};
use super::{OfferId, PublishAction, Publisher};
use crate::base::limit::IDS_MAX;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::collections::VecDeque;

/// Chunks in a row that must wait before a job's others are left for later.
const WAITS_MAX: usize = 48;

impl Publisher {
    /// Chooses hosts for what lacks them.
    pub(super) fn place(&mut self, now: Instant) {
        if self.open.is_empty() {
            return;
        }
        let up = self.hosts.values().filter(|host| host.up).count();
        let settling = now < self.arrival.after(self.config.settle);
        let ids: Vec<JobId> = self.open.iter().copied().collect();
        for id in ids {
            if self.outstanding >= self.config.outstanding_max {
                break;
            }
            let mut waits = 0;
            let mut later = Vec::new();
            while self.outstanding < self.config.outstanding_max && waits < WAITS_MAX {
                let Some(job) = self.jobs.get_mut(&id) else { break };
                let Some((group, item)) = job.open.pop_front() else { break };
                let slot = Slot { job: id, group, item };
                let few = job.groups.get(group as usize).is_some_and(|state| up < usize::from(state.wanted));
                let choice = if settling && few { Choice::Wait } else { self.place_item(now, slot) };
                match choice {
                    Choice::Host(_) | Choice::Settled => waits = 0,
                    Choice::Wait => {
                        waits += 1;
                        later.push((group, item));
                    }
                    Choice::Nobody => {
                        if let Some(job) = self.jobs.get_mut(&id) {
                            job.stuck.push((group, item));
                            self.stuck.insert(id);
                        }
                    }
                }
            }
            if let Some(job) = self.jobs.get_mut(&id) {
                for place in later.into_iter().rev() {
                    job.open.push_front(place);
                }
                if job.open.is_empty() {
                    self.open.remove(&id);
                }
            }
        }
    }

    /// Gives a chunk the placements that it lacks; tells how the last one went.
    pub(super) fn place_item(&mut self, now: Instant, slot: Slot) -> Choice {
        loop {
            let Some(job) = self.jobs.get_mut(&slot.job) else { return Choice::Settled };
            let Some(group) = job.groups.get(slot.group as usize) else { return Choice::Settled };
            let Some(item) = group.items.get(slot.item as usize) else { return Choice::Settled };
            if item.placed.len() >= usize::from(group.copies) + usize::from(item.extra) {
                return Choice::Settled;
            }
            let choice = choose(now, &self.hosts, group, item, self.config.per_host_max);
            let Choice::Host(peer) = choice else { return choice };
            let len = item.len;
            if let Some(item) = self.item(&slot) {
                item.placed.push((peer, State::LinedUp));
            }
            if let Some(host) = self.hosts.get_mut(&peer) {
                if host.outstanding.is_empty() {
                    host.progress_at = now;
                }
                host.outbox.push_back(slot);
                host.outstanding.insert(slot, now);
                host.outstanding_bytes += u64::from(len);
                self.outstanding += 1;
            }
        }
    }

    /// Offers what is lined up: one offer at a time to each host, as large as may be.
    pub(super) fn offer(&mut self, now: Instant) {
        if self.outstanding == 0 {
            return;
        }
        let peers: Vec<PeerId> = self.hosts.keys().copied().collect();
        for peer in peers {
            let Some(host) = self.hosts.get_mut(&peer) else { continue };
            if host.offering || !host.is_open(now) || host.outbox.is_empty() {
                continue;
            }
            let offer = OfferId(self.offer_next);
            let lined_up = std::mem::take(&mut host.outbox);
            let mut rest = VecDeque::new();
            let (mut lease, mut slots, mut chunks) = (None, Vec::new(), Vec::new());
            for slot in lined_up {
                let of_job = self.jobs.get(&slot.job).map(|job| job.lease);
                if slots.len() >= IDS_MAX || lease.is_some_and(|lease| of_job != Some(lease)) {
                    rest.push_back(slot);
                    continue;
                }
                let Some(item) = self.item(&slot) else { continue };
                let here = item.placed.iter_mut().find(|(other, state)| *other == peer && *state == State::LinedUp);
                if let Some((_, state)) = here {
                    *state = State::Offered(offer);
                    lease = of_job;
                    chunks.push((item.id, item.len));
                    slots.push(slot);
                }
            }
            let Some(host) = self.hosts.get_mut(&peer) else { continue };
            host.outbox = rest;
            if let Some(lease) = lease {
                host.offering = true;
                self.offer_next += 1;
                self.offers.insert(offer, (peer, slots));
                self.actions.push_back(PublishAction::Offer { offer, to: peer, chunks, lease });
            }
        }
    }

    /// Ends the placement of a slot on a host that was under way there.
    pub(super) fn release(&mut self, slot: &Slot, peer: &PeerId) {
        let len = self.item(slot).map_or(0, |item| item.len);
        if let Some(host) = self.hosts.get_mut(peer)
            && host.outstanding.remove(slot).is_some()
        {
            host.outstanding_bytes -= u64::from(len);
            self.outstanding -= 1;
        }
    }

    /// Takes a placement back: another host is sought.
    pub(super) fn reopen(&mut self, slot: Slot, peer: PeerId, slow: bool) {
        self.release(&slot, &peer);
        let Some(item) = self.item(&slot) else { return };
        item.placed.retain(|(other, state)| *other != peer || *state == State::Confirmed);
        if slow && !item.former.contains(&peer) {
            item.former.push(peer);
        }
        if let Some(job) = self.jobs.get_mut(&slot.job) {
            job.open.push_back((slot.group, slot.item));
            self.open.insert(slot.job);
        }
        self.dirty = true;
    }

    pub(super) fn reopen_all(&mut self, now: Instant, peer: PeerId) {
        let Some(host) = self.hosts.get_mut(&peer) else { return };
        host.outbox.clear();
        host.progress_at = now;
        let slots: Vec<Slot> = host.outstanding.keys().copied().collect();
        for slot in slots {
            self.reopen(slot, peer, true);
        }
    }
}
