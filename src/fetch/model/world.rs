//! The world that the fetch core is tried in: virtual providers, a line and a clock.

use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::peer::{Contact, PeerId};
use crate::base::range::{SliceRange, slice_count};
use crate::base::time::Instant;
use crate::fetch::core::{Fetch, FetchAction, FetchConfig};
use crate::fetch::score::WINDOW_BYTES_MAX;
use crate::fetch::want::{Urgency, Want, WantFailure, WantId, WantOk};
use crate::wire::call::{Answer, CallId};
use crate::wire::message::{CallFailure, Demand, Fetch as FetchRequest, Refusal, Response, Slices};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// What a provider does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// Takes requests and never answers.
    Stalls,
    /// Sends false bytes.
    Lies,
    /// Cannot be reached.
    Gone,
    /// Refuses so many times, then serves.
    Refuses(u32),
    /// Refuses for ever.
    Prices,
    /// Delivers this many slices in all, then falls silent.
    Tires(u32),
    /// Delivers the first half of each answer and never the rest.
    Halves,
}

pub(super) struct Provider {
    pub(super) manner: Manner,
    /// Bytes a second.
    pub(super) rate: u64,
    /// One way and back, microseconds.
    pub(super) rtt: u64,
    pub(super) holds: BTreeMap<ChunkId, u64>,
    /// Running answers.
    pub(super) queue: VecDeque<CallId>,
    pub(super) pumping: bool,
    pub(super) served: u64,
}

pub(super) enum Event {
    Request(CallId),
    Pump(PeerId),
    Delivered(CallId, SliceRange),
    Answered(CallId, Result<Answer, CallFailure>),
    Located(ChunkId),
}

pub(super) struct Running {
    peer: PeerId,
    fetch: FetchRequest,
    /// Not sent yet.
    left: u64,
    /// Not reported yet.
    owed: u64,
    cancelled: bool,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) fetch: Fetch,
    pub(super) providers: BTreeMap<PeerId, Provider>,
    pub(super) lens: BTreeMap<ChunkId, u32>,
    pub(super) store: BTreeMap<ChunkId, u64>,
    pub(super) events: BTreeMap<(Instant, u64), Event>,
    pub(super) seq: u64,
    pub(super) calls: BTreeMap<CallId, Running>,
    pub(super) blamed: BTreeSet<PeerId>,
    pub(super) done: BTreeMap<WantId, (Instant, Result<WantOk, WantFailure>)>,
    pub(super) wants: BTreeMap<WantId, Want>,
    pub(super) asked: BTreeMap<PeerId, u64>,
    pub(super) locates: u64,
    pub(super) announce: bool,
}

pub(super) fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

pub(super) fn contact(n: u8) -> Contact {
    Contact { peer: peer(n), addrs: vec![([127, 0, 0, 1], 1000 + u16::from(n)).into()] }
}

pub(super) fn chunk(n: u32) -> ChunkId {
    ChunkId::of(&n.to_le_bytes())
}

pub(super) fn ms(n: u64) -> Instant {
    Instant(n * 1000)
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            now: Instant(1),
            fetch: Fetch::new(FetchConfig::default(), seed),
            providers: BTreeMap::new(),
            lens: BTreeMap::new(),
            store: BTreeMap::new(),
            events: BTreeMap::new(),
            seq: 0,
            calls: BTreeMap::new(),
            blamed: BTreeSet::new(),
            done: BTreeMap::new(),
            wants: BTreeMap::new(),
            asked: BTreeMap::new(),
            locates: 0,
            announce: true,
        }
    }

    pub(super) fn provider(&mut self, n: u8, manner: Manner, rate: u64, rtt_ms: u64, chunks: &[ChunkId]) {
        let holds = chunks.iter().map(|id| (*id, u64::MAX)).collect();
        let provider =
            Provider { manner, rate, rtt: rtt_ms * 1000, holds, queue: VecDeque::new(), pumping: false, served: 0 };
        self.providers.insert(peer(n), provider);
    }

    pub(super) fn link(&mut self, n: u8) {
        let rtt = self.providers[&peer(n)].rtt;
        self.fetch.peer_up(self.now, peer(n), Some(Duration::from_micros(rtt)));
    }

    pub(super) fn chunks(&mut self, numbers: std::ops::Range<u32>, len: u32) -> Vec<ChunkId> {
        let ids: Vec<ChunkId> = numbers.map(chunk).collect();
        for id in &ids {
            self.lens.insert(*id, len);
        }
        ids
    }

    pub(super) fn at(&mut self, at: Instant, event: Event) {
        self.seq += 1;
        self.events.insert((at, self.seq), event);
    }

    pub(super) fn in_us(&self, us: u64) -> Instant {
        Instant(self.now.0 + us)
    }

    pub(super) fn want(&mut self, want: Want) {
        self.wants.insert(want.id, want.clone());
        self.fetch.want(self.now, want);
        self.drain();
    }

    pub(super) fn drain(&mut self) {
        while let Some(action) = self.fetch.poll() {
            match action {
                FetchAction::Ask { call, to, fetch, deadline } => {
                    assert!(deadline > self.now && fetch.slices.count > 0 && fetch.slices.end() <= 64);
                    assert_eq!(call.0 % 2, 1);
                    assert!(!self.blamed.contains(&to.peer), "{to:?} is asked after it was blamed");
                    for other in self.calls.values().filter(|other| other.peer == to.peer) {
                        let same = other.fetch.chunk == fetch.chunk
                            && other.fetch.slices.mask() & fetch.slices.mask() & other.owed != 0;
                        assert!(!same, "{:?} is asked twice at once for {:?}", to.peer, fetch);
                    }
                    *self.asked.entry(to.peer).or_default() += 1;
                    let mask = fetch.slices.mask();
                    let running = Running { peer: to.peer, fetch, left: mask, owed: mask, cancelled: false };
                    self.calls.insert(call, running);
                    let at = self.in_us(self.providers[&to.peer].rtt / 2);
                    self.at(at, Event::Request(call));
                    self.at(deadline, Event::Answered(call, Err(CallFailure::Timeout)));
                }
                FetchAction::Cancel { call } => {
                    if let Some(running) = self.calls.get_mut(&call) {
                        assert!(!running.cancelled, "cancelled twice");
                        running.cancelled = true;
                        self.at(self.in_us(10), Event::Answered(call, Err(CallFailure::Cancelled)));
                    }
                }
                FetchAction::Locate { chunks, .. } => {
                    assert!(!chunks.is_empty());
                    self.locates += chunks.len() as u64;
                    for id in chunks {
                        self.at(self.in_us(60_000), Event::Located(id));
                    }
                }
                FetchAction::Done { want, result } => {
                    let asked = self.wants.get(&want).expect("only what was wanted ends").clone();
                    assert!(self.now <= asked.deadline, "{want:?} ends after its deadline");
                    if let Ok(ok) = &result {
                        self.check_ok(&asked, ok);
                    }
                    assert!(self.done.insert(want, (self.now, result)).is_none(), "{want:?} ends twice");
                }
                FetchAction::Blame { peer, .. } => {
                    assert!(self.blamed.insert(peer), "blamed twice");
                }
            }
        }
        self.check_windows();
    }

    pub(super) fn check_windows(&self) {
        for id in self.providers.keys() {
            let of_peer = self.calls.values().filter(|call| call.peer == *id && !call.cancelled);
            let owed: u64 = of_peer.map(|call| u64::from(call.owed.count_ones()) * SLICE_BYTES as u64).sum();
            let (in_flight, _) = self.fetch.peer_load(id).unwrap_or_default();
            assert!(in_flight <= WINDOW_BYTES_MAX && in_flight <= owed, "{in_flight} in flight, {owed} owed");
        }
        assert!(self.fetch.stats().in_flight_bytes <= FetchConfig::default().in_flight_bytes_max);
    }

    pub(super) fn check_ok(&self, want: &Want, ok: &WantOk) {
        let stored = |index: usize| {
            let have = want.have.iter().filter(|(i, _)| usize::from(*i) == index).fold(0, |m, (_, r)| m | r.mask());
            have | self.store.get(&want.chunks[index]).copied().unwrap_or(0)
        };
        let mut told: BTreeMap<usize, u64> = BTreeMap::new();
        for (index, range) in &ok.have {
            assert_eq!(range.mask() & !stored(usize::from(*index)), 0, "told of slices that are not here");
            *told.entry(usize::from(*index)).or_default() |= range.mask();
        }
        let needs: Vec<(u8, SliceRange)> = match want.chunk_len {
            0 => vec![(0, SliceRange::whole(self.lens[&want.chunks[0]]))],
            _ => want.needs.clone(),
        };
        for (index, range) in needs {
            for slice in range.first..range.end() {
                let bit = 1u64 << slice;
                let direct = told.get(&usize::from(index)).is_some_and(|mask| mask & bit != 0);
                let shards = told.values().filter(|mask| *mask & bit != 0).count();
                assert!(direct || shards >= usize::from(want.data), "slice {slice} of {index} cannot be had");
            }
        }
    }

    pub(super) fn pump(&mut self, id: PeerId) {
        let provider = self.providers.get_mut(&id).unwrap();
        provider.pumping = false;
        while let Some(call) = provider.queue.pop_front() {
            let Some(running) = self.calls.get_mut(&call) else { continue };
            if running.cancelled || running.left == 0 {
                continue;
            }
            if let Manner::Tires(slices) = provider.manner
                && provider.served >= u64::from(slices)
            {
                continue;
            }
            let asked = running.fetch.slices;
            if provider.manner == Manner::Halves
                && running.left.trailing_zeros() >= u32::from(asked.first + asked.count / 2)
            {
                continue;
            }
            let first = running.left.trailing_zeros();
            let count = (running.left >> first).trailing_ones().min(4);
            let range = SliceRange { first: first as u8, count: count as u8 };
            running.left &= !range.mask();
            provider.served += u64::from(count);
            let len = self.lens[&running.fetch.chunk];
            let bytes = range.bytes(len);
            let took = u64::from(bytes.end - bytes.start) * 1_000_000 / provider.rate;
            let arrives = Instant(self.now.0 + took + provider.rtt / 2);
            let last = running.left == 0;
            if !last {
                // As links do: one answer after another.
                provider.queue.push_front(call);
            }
            provider.pumping = true;
            let (lies, fetch) = (provider.manner == Manner::Lies, running.fetch.clone());
            if lies {
                self.at(arrives, Event::Answered(call, Err(CallFailure::False("bytes that do not match"))));
                self.calls.get_mut(&call).unwrap().left = 0;
            } else {
                self.at(arrives, Event::Delivered(call, range));
                if last {
                    let header = Slices {
                        chunk_len: len,
                        slices: SliceRange {
                            first: fetch.slices.first,
                            count: fetch.slices.end().min(slice_count(len)) - fetch.slices.first,
                        },
                        outline: fetch.outline,
                        charge: Msat::ZERO,
                        demand: Demand::default(),
                    };
                    self.at(arrives, Event::Answered(call, Ok(Answer::Fetched { header, bytes: 0 })));
                }
            }
            self.at(Instant(self.now.0 + took), Event::Pump(id));
            return;
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Request(call) => {
                let Some(running) = self.calls.get_mut(&call) else { return };
                let (id, chunk) = (running.peer, running.fetch.chunk);
                running.left &= SliceRange::whole(self.lens[&chunk]).mask();
                let asked = running.left;
                let provider = self.providers.get_mut(&id).unwrap();
                let back = Instant(now.0 + provider.rtt / 2);
                let held = provider.holds.get(&chunk).copied().unwrap_or(0);
                match provider.manner {
                    Manner::Gone => {
                        let at = Instant(now.0 + 500_000);
                        self.at(at, Event::Answered(call, Err(CallFailure::Unreachable(id))));
                    }
                    Manner::Stalls => {}
                    Manner::Prices => {
                        self.at(back, Event::Answered(call, Err(CallFailure::Refused(Refusal::Price))));
                    }
                    Manner::Refuses(times) if times > 0 => {
                        provider.manner = Manner::Refuses(times - 1);
                        self.at(back, Event::Answered(call, Err(CallFailure::Refused(Refusal::Busy))));
                    }
                    _ if held & asked != asked || asked == 0 => {
                        let holders: Vec<Contact> = Vec::new();
                        let answer = Response::Referral { holders, closer: vec![], demand: Demand::default() };
                        self.at(back, Event::Answered(call, Ok(Answer::Message(answer))));
                    }
                    _ => {
                        provider.queue.push_back(call);
                        if !provider.pumping {
                            provider.pumping = true;
                            self.at(now, Event::Pump(id));
                        }
                    }
                }
            }
            Event::Pump(id) => self.pump(id),
            Event::Delivered(call, range) => {
                let Some(running) = self.calls.get_mut(&call) else { return };
                running.owed &= !range.mask();
                *self.store.entry(running.fetch.chunk).or_default() |= range.mask();
                self.fetch.delivered(now, call, range);
            }
            Event::Answered(call, result) => {
                if self.calls.remove(&call).is_some() {
                    self.fetch.answered(now, call, &result);
                }
            }
            Event::Located(chunk) => {
                let holders: Vec<Contact> = self
                    .providers
                    .iter()
                    .filter(|(_, provider)| self.announce && provider.holds.contains_key(&chunk))
                    .map(|(id, _)| contact(id.0[0]))
                    .collect();
                self.fetch.providers(now, chunk, &holders);
                self.fetch.no_more_providers(now, chunk);
            }
        }
    }

    /// Runs until nothing is left to happen or `until`.
    pub(super) fn run(&mut self, until: Instant) {
        let mut steps = 0u64;
        loop {
            steps += 1;
            assert!(steps < 2_000_000, "it spins");
            let event = self.events.keys().next().map(|(at, _)| *at);
            let timer = self.fetch.poll_timeout();
            let Some(next) = [event, timer].into_iter().flatten().min() else { break };
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            if event.is_some_and(|at| at <= self.now) {
                let (_, event) = self.events.pop_first().unwrap();
                self.happen(event);
            } else {
                self.fetch.tick(self.now);
                assert!(self.fetch.poll_timeout().is_none_or(|at| at > self.now), "a timer stays due");
            }
            self.drain();
        }
        self.now = self.now.max(until);
    }

    pub(super) fn result(&self, id: u64) -> &(Instant, Result<WantOk, WantFailure>) {
        self.done.get(&WantId(id)).expect("the want has ended")
    }
}

/// All slices of the data chunks of a stripe of 1 MiB chunks.
pub(super) fn stripe(id: u64, chunks: &[ChunkId], data: u8, len: u32, urgency: Urgency, deadline: Instant) -> Want {
    Want {
        id: WantId(id),
        chunks: chunks.to_vec(),
        data,
        chunk_len: len,
        needs: (0..data).map(|index| (index, SliceRange::whole(len))).collect(),
        have: vec![],
        urgency,
        deadline,
        likely: vec![],
    }
}
