//! The publisher: takes jobs, hears of hosts, offers, counts confirmations, and moves what is refused or lost.

mod offer;

use super::job::{JobId, Progress, Publish};
use super::state::{Host, Item, Job, Slot, State};
use crate::base::digest::ChunkId;
use crate::base::network::Network;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::message::Refusal;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Bounds and patience of the publisher.
#[derive(Debug, Clone)]
pub struct PublishConfig {
    /// Placements under way, over all hosts and at one.
    pub outstanding_max: usize,
    /// Placements under way at one host.
    pub per_host_max: usize,
    /// While hosts keep arriving and are too few for a group, placement waits so long after the last arrival.
    pub settle: Duration,
    /// How long a host whose link ended may take to come back.
    pub grace: Duration,
    /// A host that confirmed nothing for so long is taken for stuck.
    pub patience: Duration,
    /// The same for a single chunk while others make progress.
    pub chunk_patience: Duration,
    /// First pause of a host that refused or failed, and the longest.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// How often progress is told at most.
    pub progress_period: Duration,
}

impl Default for PublishConfig {
    fn default() -> PublishConfig {
        PublishConfig {
            outstanding_max: 8192,
            per_host_max: 1024,
            settle: Duration::from_millis(1500),
            grace: Duration::from_secs(3),
            patience: Duration::from_secs(120),
            chunk_patience: Duration::from_secs(1200),
            pause_min: Duration::from_secs(2),
            pause_max: Duration::from_secs(600),
            progress_period: Duration::from_millis(100),
        }
    }
}

/// Names an offer until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OfferId(pub u64);

/// What the publisher wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishAction {
    /// Offer chunks to a host; its end comes back through `offered`.
    Offer {
        /// Its name.
        offer: OfferId,
        /// To whom.
        to: PeerId,
        /// Chunk and length; at most `limit::IDS_MAX`.
        chunks: Vec<(ChunkId, u32)>,
        /// Seconds from now.
        lease: u32,
    },
    /// A peer confirmed that it holds a chunk for us.
    Placed {
        /// Of which job.
        job: JobId,
        /// The first chunk of its group.
        group: ChunkId,
        /// Which chunk.
        chunk: ChunkId,
        /// Who.
        peer: PeerId,
    },
    /// A job moved on.
    Progress {
        /// Which.
        job: JobId,
        /// How far it is.
        progress: Progress,
    },
}

/// How an offer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferOutcome {
    /// Answered: bit i set when the i-th chunk is accepted.
    Accepted(Vec<u8>),
    /// Refused as a whole.
    Refused(Refusal),
    /// No answer.
    Failed,
}

/// Counts for status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishStats {
    /// Jobs that are not done: not all hosted on as many peers as wanted, or not all announced.
    pub jobs: usize,
    /// Hosts in reach.
    pub hosts: usize,
    /// Placements under way.
    pub outstanding: usize,
    /// Chunks that no host in reach takes.
    pub stuck: usize,
}

/// All publish jobs of a node.
#[derive(Debug)]
pub struct Publisher {
    config: PublishConfig,
    jobs: BTreeMap<JobId, Job>,
    hosts: BTreeMap<PeerId, Host>,
    index: BTreeMap<ChunkId, Vec<Slot>>,
    /// Jobs with chunks that lack placements, and with chunks that nobody takes.
    open: BTreeSet<JobId>,
    stuck: BTreeSet<JobId>,
    /// When which job tells its progress.
    tells: BTreeSet<(Instant, JobId)>,
    /// Jobs that wait for a chunk to be announced.
    unannounced: BTreeMap<ChunkId, Vec<JobId>>,
    offers: BTreeMap<OfferId, (PeerId, Vec<Slot>)>,
    offer_next: u64,
    outstanding: usize,
    /// When the last host came.
    arrival: Instant,
    /// New hosts came since groups were last spread over them.
    spread_due: bool,
    /// There may be something to place or to offer.
    dirty: bool,
    settle_at: Option<Instant>,
    check_at: Instant,
    stuck_at: Instant,
    stuck_pause: Duration,
    actions: VecDeque<PublishAction>,
}

const CHECK_PERIOD: Duration = Duration::from_secs(1);
const STUCK_MIN: Duration = Duration::from_secs(10);
const STUCK_MAX: Duration = Duration::from_secs(300);

impl Publisher {
    /// No jobs yet.
    pub fn new(config: PublishConfig) -> Publisher {
        Publisher {
            config,
            jobs: BTreeMap::new(),
            hosts: BTreeMap::new(),
            index: BTreeMap::new(),
            open: BTreeSet::new(),
            stuck: BTreeSet::new(),
            tells: BTreeSet::new(),
            unannounced: BTreeMap::new(),
            offers: BTreeMap::new(),
            offer_next: 0,
            outstanding: 0,
            arrival: Instant::default(),
            spread_due: false,
            dirty: false,
            settle_at: None,
            check_at: Instant::default(),
            stuck_at: Instant::default(),
            stuck_pause: STUCK_MIN,
            actions: VecDeque::new(),
        }
    }

    /// Takes a job; one of the same name is replaced.
    pub fn publish(&mut self, now: Instant, publish: &Publish) {
        let mut job = Job::new(publish, &[]);
        self.unpublish(publish.job);
        for chunk in job.chunks() {
            self.unannounced.entry(chunk).or_default().push(publish.job);
            job.unannounced += 1;
        }
        job.to_announce = job.unannounced;
        self.begin(now, publish, job);
    }

    /// Takes a job that gives hosts only to what lacks them: `hosts` tells for each group and chunk who holds it already. What is hosted
    /// so is announced by its hosts.
    pub fn publish_anew(&mut self, now: Instant, publish: &Publish, hosts: &[Vec<Vec<PeerId>>]) {
        let mut job = Job::new(publish, hosts);
        job.anew = true;
        self.unpublish(publish.job);
        self.begin(now, publish, job);
    }

    fn begin(&mut self, now: Instant, publish: &Publish, mut job: Job) {
        self.tells.insert((now, publish.job));
        job.tell_at = Some(now);
        self.open.insert(publish.job);
        for (group, state) in job.groups.iter().enumerate() {
            for (item, chunk) in state.items.iter().enumerate() {
                let slot = Slot { job: publish.job, group: group as u32, item: item as u32 };
                self.index.entry(chunk.id).or_default().push(slot);
            }
        }
        self.jobs.insert(publish.job, job);
        self.dirty = true;
        self.check_at = now.after(CHECK_PERIOD);
        self.stuck_at = self.stuck_at.max(now.after(self.stuck_pause));
    }

    /// Whether a job that publishes, not one that makes good, still places this chunk.
    pub fn is_placing(&self, chunk: &ChunkId) -> bool {
        let slots = self.index.get(chunk).into_iter().flatten();
        slots.filter_map(|slot| self.jobs.get(&slot.job)).any(|job| !job.anew)
    }

    /// A peer does not hold a chunk any more that it confirmed: another gets it, where the chunk is still being placed.
    pub fn lost(&mut self, now: Instant, chunk: &ChunkId, peer: &PeerId) {
        for slot in self.index.get(chunk).cloned().unwrap_or_default() {
            let Some(job) = self.jobs.get_mut(&slot.job) else { continue };
            let Some(group) = job.groups.get_mut(slot.group as usize) else { continue };
            let copies = usize::from(group.copies);
            let Some(item) = group.items.get_mut(slot.item as usize) else { continue };
            let before = item.confirmed().min(copies);
            item.placed.retain(|(other, state)| other != peer || *state != State::Confirmed);
            let fewer = (before - item.confirmed().min(copies)) as u64;
            let hosts = group.distinct();
            if fewer == 0 {
                continue;
            }
            job.hosted -= fewer;
            job.set_hosts(slot.group, hosts);
            job.open.push_back((slot.group, slot.item));
            self.open.insert(slot.job);
            self.dirty = true;
            self.moved(now, slot.job);
        }
    }

    /// Forgets a job.
    pub fn unpublish(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        self.open.remove(&id);
        self.stuck.remove(&id);
        if let Some(at) = job.tell_at {
            self.tells.remove(&(at, id));
        }
        if job.unannounced > 0 {
            self.unannounced.retain(|_, jobs| {
                jobs.retain(|other| *other != id);
                !jobs.is_empty()
            });
        }
        for item in job.groups.iter().flat_map(|group| &group.items) {
            if let Some(slots) = self.index.get_mut(&item.id) {
                slots.retain(|slot| slot.job != id);
                if slots.is_empty() {
                    self.index.remove(&item.id);
                }
            }
        }
        for host in self.hosts.values_mut() {
            host.outbox.retain(|slot| slot.job != id);
            let gone: Vec<Slot> = host.outstanding.keys().filter(|slot| slot.job == id).copied().collect();
            for slot in gone {
                host.outstanding.remove(&slot);
                let group = job.groups.get(slot.group as usize);
                let len = group.and_then(|group| group.items.get(slot.item as usize)).map_or(0, |item| item.len);
                host.outstanding_bytes -= u64::from(len);
                self.outstanding -= 1;
            }
        }
        self.dirty = true;
    }

    /// A peer that hosts is in reach.
    pub fn host_up(&mut self, now: Instant, peer: PeerId, network: Option<Network>) {
        let host = self.hosts.entry(peer).or_insert_with(|| Host {
            network,
            up: false,
            down_at: now,
            paused_until: Instant::default(),
            pause: self.config.pause_min,
            outbox: VecDeque::new(),
            offering: false,
            outstanding: BTreeMap::new(),
            outstanding_bytes: 0,
            progress_at: now,
        });
        host.network = network;
        if host.up {
            return;
        }
        host.up = true;
        host.paused_until = Instant::default();
        host.pause = self.config.pause_min;
        // It may have forgotten what it accepted: all of it is placed anew.
        self.reopen_all(now, peer);
        self.arrival = now;
        self.spread_due = true;
        self.settle_at = Some(now.after(self.config.settle));
        self.unstick();
        self.stuck_pause = STUCK_MIN;
        self.stuck_at = now.after(STUCK_MIN);
    }

    /// A host's last link ended.
    pub fn host_down(&mut self, now: Instant, peer: PeerId) {
        if let Some(host) = self.hosts.get_mut(&peer)
            && host.up
        {
            host.up = false;
            host.down_at = now;
            // A node that publishes nothing meets many, and must not remember them all.
            if !host.is_needed() {
                self.hosts.remove(&peer);
                return;
            }
            self.check_at = self.check_at.min(now.after(self.config.grace));
        }
    }

    /// How an offer ended.
    pub fn offered(&mut self, now: Instant, offer: OfferId, outcome: &OfferOutcome) {
        let Some((peer, slots)) = self.offers.remove(&offer) else { return };
        self.dirty = true;
        let bits: &[u8] = match outcome {
            OfferOutcome::Accepted(bits) => bits,
            _ => &[],
        };
        let mut accepted = 0;
        for (place, slot) in slots.iter().enumerate() {
            let yes = bits.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1);
            let Some(item) = self.item(slot) else { continue };
            let here = item.placed.iter_mut().find(|(other, state)| *other == peer && *state == State::Offered(offer));
            let Some((_, state)) = here else {
                // Confirmed already, or moved.
                accepted += usize::from(yes);
                continue;
            };
            if yes {
                *state = State::Pulling;
                accepted += 1;
                if let Some(host) = self.hosts.get_mut(&peer) {
                    host.outstanding.insert(*slot, now);
                    host.progress_at = host.progress_at.max(now);
                }
            } else {
                if matches!(outcome, OfferOutcome::Accepted(_)) {
                    item.refused.push(peer);
                }
                self.reopen(*slot, peer, false);
            }
        }
        let Some(host) = self.hosts.get_mut(&peer) else { return };
        host.offering = false;
        if accepted > 0 {
            host.pause = self.config.pause_min;
            return;
        }
        // Nothing of it: others are asked first for a while, longer each time.
        let least = match outcome {
            OfferOutcome::Refused(Refusal::Busy) => Duration::ZERO,
            OfferOutcome::Accepted(_) | OfferOutcome::Refused(Refusal::Full) => self.config.pause_min * 10,
            OfferOutcome::Refused(_) => self.config.pause_max,
            OfferOutcome::Failed => self.config.pause_min,
        };
        host.paused_until = now.after(host.pause.max(least));
        host.pause = (host.pause * 2).min(self.config.pause_max);
        let lined_up: Vec<Slot> = host.outbox.drain(..).collect();
        for slot in lined_up {
            if self.item(&slot).is_some_and(|item| item.placed.contains(&(peer, State::LinedUp))) {
                self.reopen(slot, peer, false);
            }
        }
    }

    /// A peer says that it holds these chunks.
    pub fn confirmed(&mut self, now: Instant, peer: PeerId, chunks: &[ChunkId]) {
        for chunk in chunks {
            let Some(slots) = self.index.get(chunk) else { continue };
            for slot in slots.clone() {
                self.confirm(now, slot, peer);
            }
        }
    }

    /// A chunk is announced in its neighbourhood.
    pub fn announced(&mut self, now: Instant, chunk: &ChunkId) {
        for id in self.unannounced.remove(chunk).unwrap_or_default() {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.unannounced -= 1;
                self.moved(now, id);
            }
        }
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Instant) -> Option<PublishAction> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle_at = None;
            self.dirty = true;
            if std::mem::take(&mut self.spread_due) {
                self.spread(now);
            }
        }
        if self.is_working() && self.check_at <= now {
            self.check_at = now.after(CHECK_PERIOD);
            self.check(now);
            self.dirty = true;
        }
        if std::mem::take(&mut self.dirty) {
            self.place(now);
            self.offer(now);
        }
        self.tell(now);
        self.actions.pop_front()
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let check = self.is_working().then_some(self.check_at);
        let tell = self.tells.first().map(|(at, _)| *at);
        [check, tell, self.settle_at].into_iter().flatten().min()
    }

    /// Counts of the moment.
    pub fn stats(&self) -> PublishStats {
        PublishStats {
            jobs: self.jobs.len(),
            hosts: self.hosts.values().filter(|host| host.up).count(),
            outstanding: self.outstanding,
            stuck: self.stuck.iter().filter_map(|id| self.jobs.get(id)).map(|job| job.stuck.len()).sum(),
        }
    }

    fn is_working(&self) -> bool {
        self.outstanding > 0 || !self.open.is_empty() || !self.stuck.is_empty()
    }

    fn item(&mut self, slot: &Slot) -> Option<&mut Item> {
        self.jobs.get_mut(&slot.job)?.groups.get_mut(slot.group as usize)?.items.get_mut(slot.item as usize)
    }

    fn confirm(&mut self, now: Instant, slot: Slot, peer: PeerId) {
        let Some(copies) =
            self.jobs.get(&slot.job).and_then(|job| job.groups.get(slot.group as usize)).map(|g| g.copies)
        else {
            return;
        };
        let Some(item) = self.item(&slot) else { return };
        let before = item.confirmed().min(usize::from(copies));
        let needed = usize::from(copies) + usize::from(item.extra);
        let room = item.confirmed() < needed;
        match item.placed.iter_mut().find(|(other, _)| *other == peer) {
            Some((_, State::Confirmed)) => return,
            Some((_, state)) => *state = State::Confirmed,
            // Who was not asked may have it only for a while: it does not count.
            None if item.former.contains(&peer) && room => {
                item.placed.push((peer, State::Confirmed));
            }
            None => return,
        }
        let after = item.confirmed().min(usize::from(copies));
        let surplus = if item.placed.len() > needed {
            item.placed.iter().find(|(_, state)| *state != State::Confirmed).map(|(other, _)| *other)
        } else {
            None
        };
        let full = item.confirmed() >= needed;
        let chunk = item.id;
        if let Some(other) = surplus {
            self.release(&slot, &other);
            if let Some(item) = self.item(&slot) {
                item.placed.retain(|(peer, state)| *peer != other || *state == State::Confirmed);
            }
        }
        self.release(&slot, &peer);
        if let Some(host) = self.hosts.get_mut(&peer) {
            host.progress_at = now;
        }
        self.dirty = true;
        let Some(job) = self.jobs.get_mut(&slot.job) else { return };
        job.hosted += (after - before) as u64;
        let group = job.groups.get(slot.group as usize);
        let hosts = group.map_or(0, |group| group.distinct());
        if let Some(first) = group.and_then(|group| group.items.first()) {
            self.actions.push_back(PublishAction::Placed { job: slot.job, group: first.id, chunk, peer });
        }
        job.set_hosts(slot.group, hosts);
        self.moved(now, slot.job);
        if full {
            self.close_group(slot);
        }
    }

    /// Forgets the chunks of a group that is wholly done.
    fn close_group(&mut self, slot: Slot) {
        let Some(job) = self.jobs.get_mut(&slot.job) else { return };
        let Some(group) = job.groups.get_mut(slot.group as usize) else { return };
        let copies = usize::from(group.copies);
        let open = |item: &Item| {
            let needed = copies + usize::from(item.extra);
            item.placed.len() != needed || item.confirmed() < needed
        };
        if group.hosts < group.wanted || group.items.iter().any(open) {
            return;
        }
        for item in std::mem::take(&mut group.items) {
            if let Some(slots) = self.index.get_mut(&item.id) {
                slots.retain(|other| (other.job, other.group) != (slot.job, slot.group));
                if slots.is_empty() {
                    self.index.remove(&item.id);
                }
            }
        }
    }

    /// Looks for hosts that are gone or stuck.
    fn check(&mut self, now: Instant) {
        let mut lost = Vec::new();
        let mut late = Vec::new();
        for (peer, host) in &mut self.hosts {
            if host.outstanding.is_empty() {
                continue;
            }
            if !host.up {
                if now.since(host.down_at) >= self.config.grace {
                    lost.push(*peer);
                }
            } else if now.since(host.progress_at) >= self.config.patience {
                lost.push(*peer);
                host.paused_until = now.after(host.pause.max(self.config.pause_min * 10));
                host.pause = (host.pause * 2).min(self.config.pause_max);
            } else {
                let old = host.outstanding.iter().filter(|(_, at)| now.since(**at) >= self.config.chunk_patience);
                late.extend(old.map(|(slot, _)| (*slot, *peer)));
            }
        }
        for peer in lost {
            self.reopen_all(now, peer);
        }
        for (slot, peer) in late {
            self.reopen(slot, peer, true);
        }
        self.hosts.retain(|_, host| host.up || host.is_needed());
        if self.stuck_at <= now {
            self.unstick();
            self.stuck_pause = (self.stuck_pause * 2).min(STUCK_MAX);
            self.stuck_at = now.after(self.stuck_pause);
        }
    }

    /// Tries again what nobody took.
    fn unstick(&mut self) {
        for id in std::mem::take(&mut self.stuck) {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            self.open.insert(id);
            for (group, item) in std::mem::take(&mut job.stuck) {
                let state = job.groups.get_mut(group as usize).and_then(|group| group.items.get_mut(item as usize));
                if let Some(state) = state {
                    state.refused.clear();
                    job.open.push_back((group, item));
                }
            }
        }
        self.dirty = true;
    }

    /// Hosts came: groups that had to double up on too few are spread over them.
    fn spread(&mut self, now: Instant) {
        let open: Vec<PeerId> =
            self.hosts.iter().filter(|(_, host)| host.is_open(now)).map(|(peer, _)| *peer).collect();
        for (id, job) in &mut self.jobs {
            for (place, group) in job.groups.iter_mut().enumerate() {
                let mut spread = group.spread();
                let mut free = open.iter().filter(|peer| !spread.contains_key(peer)).count();
                for (item, state) in group.items.iter_mut().enumerate() {
                    let doubled =
                        state.placed.iter().find(|(peer, _)| spread.get(peer).is_some_and(|count| *count > 1));
                    if free > 0
                        && state.extra < 2
                        && let Some((peer, _)) = doubled
                    {
                        if let Some(count) = spread.get_mut(peer) {
                            *count -= 1;
                        }
                        free -= 1;
                        state.extra += 1;
                        job.open.push_back((place as u32, item as u32));
                        self.open.insert(*id);
                    }
                }
            }
        }
    }

    fn tell(&mut self, now: Instant) {
        while let Some((at, id)) = self.tells.first().copied()
            && at <= now
        {
            self.tells.pop_first();
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.tell_at = None;
            job.told_at = Some(now);
            let progress = job.progress();
            if job.is_done() {
                self.unpublish(id);
            }
            self.actions.push_back(PublishAction::Progress { job: id, progress });
        }
    }

    /// Notes that a job has progress to tell: the end at once, else not too often.
    fn moved(&mut self, now: Instant, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let soon = job.told_at.map_or(now, |at| at.after(self.config.progress_period).max(now));
        let at = if job.is_done() { now } else { soon };
        if job.tell_at.is_some_and(|old| old <= at) {
            return;
        }
        if let Some(old) = job.tell_at.replace(at) {
            self.tells.remove(&(old, id));
        }
        self.tells.insert((at, id));
    }

    /// Whether a peer was offered this chunk and has not confirmed it: it comes for it on our behalf.
    pub fn placing(&self, peer: &PeerId, chunk: &ChunkId) -> bool {
        let slots = self.index.get(chunk).into_iter().flatten();
        let mut items = slots.filter_map(|slot| {
            let group = self.jobs.get(&slot.job)?.groups.get(slot.group as usize)?;
            group.items.get(slot.item as usize)
        });
        let open = |state: &State| matches!(state, State::Offered(_) | State::Pulling);
        items.any(|item| item.placed.iter().any(|(other, state)| other == peer && open(state)))
    }

    /// Whether a host is asked for any of these chunks or pulls it, or not all hosts in reach were tried for it.
    pub fn under_way(&self, chunks: &[ChunkId]) -> bool {
        let jobs = self.stuck.iter().filter_map(|id| Some((*id, self.jobs.get(id)?)));
        let slots = jobs.flat_map(|(job, state)| {
            state.stuck.iter().map(move |(group, item)| Slot { job, group: *group, item: *item })
        });
        let stuck: BTreeSet<Slot> = slots.collect();
        let open = |slot: &Slot| {
            let Some(job) = self.jobs.get(&slot.job) else { return false };
            let Some(group) = job.groups.get(slot.group as usize) else { return false };
            let Some(item) = group.items.get(slot.item as usize) else { return false };
            let lacks = item.placed.len() < usize::from(group.copies) + usize::from(item.extra);
            item.confirmed() < item.placed.len() || lacks && !stuck.contains(slot)
        };
        chunks.iter().any(|chunk| self.index.get(chunk).into_iter().flatten().any(open))
    }

    /// Whether a peer still owes a confirmation.
    pub fn waits_for(&self, peer: &PeerId) -> bool {
        self.hosts.get(peer).is_some_and(|host| !host.outstanding.is_empty())
    }
}

#[cfg(test)]
mod tests;
