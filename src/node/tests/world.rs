//! A small made-up world of machines: no loss, equal delays, peers that can be switched off.

use super::super::effect::Progress;
use super::super::effect::{Effect, Token};
use super::super::input::{Command, Group, Input, JobId, Publish, WantId};
use super::super::*;
use crate::base::amount::Msat;
use crate::base::range::SliceRange;
use crate::wire::message::Slices;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const DELAY: Duration = Duration::from_millis(5);

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) stores: Vec<BTreeMap<ChunkId, u32>>,
    /// Slices of chunks that are not whole yet.
    pub(super) parts: BTreeMap<(usize, ChunkId), u64>,
    pub(super) dead: BTreeSet<usize>,
    pub(super) links: BTreeSet<(usize, usize)>,
    pub(super) queue: BTreeMap<(Instant, u64), (usize, Input)>,
    pub(super) sequence: u64,
    pub(super) tokens: BTreeMap<Token, (usize, CallId, usize)>,
    pub(super) log: Vec<(usize, Effect)>,
    /// Requests carried, by kind, for bounds on traffic.
    pub(super) requests: BTreeMap<&'static str, usize>,
}

pub(super) fn id(place: usize) -> PeerId {
    let mut random = Random::new(1000 + place as u64);
    PeerId(random.bytes32())
}

pub(super) fn addr(place: usize) -> SocketAddr {
    SocketAddr::new([127, 0, 0, 1].into(), 10_000 + place as u16)
}

pub(super) fn contact(place: usize) -> Contact {
    Contact { peer: id(place), addrs: vec![addr(place)] }
}

pub(super) fn chunks(count: usize, seed: u64) -> Vec<ChunkId> {
    let mut random = Random::new(seed);
    (0..count).map(|_| ChunkId(random.bytes32())).collect()
}

impl World {
    pub(super) fn new(count: usize) -> World {
        let nodes: Vec<Node> = (0..count)
            .map(|place| {
                let config = NodeConfig { addrs: vec![addr(place)], ..NodeConfig::default() };
                Node::new(config, id(place), place as u64)
            })
            .collect();
        World {
            now: Instant(0),
            stores: vec![BTreeMap::new(); count],
            nodes,
            parts: BTreeMap::new(),
            dead: BTreeSet::new(),
            links: BTreeSet::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            tokens: BTreeMap::new(),
            log: Vec::new(),
            requests: BTreeMap::new(),
        }
    }

    /// A swarm in which everybody knows everybody.
    pub(super) fn acquainted(count: usize) -> World {
        let mut world = World::new(count);
        for place in 1..count {
            world.command(place, Command::Bootstrap(vec![contact(0)]));
        }
        world.run(Duration::from_secs(2));
        world
    }

    pub(super) fn send(&mut self, to: usize, after: Duration, input: Input) {
        self.sequence += 1;
        self.queue.insert((self.now.after(after), self.sequence), (to, input));
    }

    pub(super) fn command(&mut self, place: usize, command: Command) {
        let now = self.now;
        self.nodes[place].handle(now, Input::Command(command));
        self.effects(place);
    }

    pub(super) fn store(&mut self, place: usize, chunks: &[ChunkId]) {
        self.stores[place].extend(chunks.iter().map(|chunk| (*chunk, 1 << 20)));
        let now = self.now;
        self.nodes[place].handle(now, Input::Stored { chunks: chunks.to_vec() });
        self.effects(place);
    }

    pub(super) fn kill(&mut self, place: usize) {
        self.dead.insert(place);
        let mine: Vec<(usize, usize)> =
            self.links.iter().filter(|(a, b)| *a == place || *b == place).copied().collect();
        for (a, b) in mine {
            self.links.remove(&(a, b));
            let other = if a == place { b } else { a };
            self.send(other, DELAY, Input::LinkDown { peer: id(place) });
        }
    }

    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        loop {
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let alive = (0..self.nodes.len()).filter(|place| !self.dead.contains(place));
            let timer = alive.filter_map(|place| Some((self.nodes[place].poll_timeout()?, place))).min();
            let at = [next, timer.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(at) = at.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if next == Some(at) {
                let (_, (place, input)) = self.queue.pop_first().unwrap();
                if !self.dead.contains(&place) {
                    self.nodes[place].handle(self.now, input);
                    self.effects(place);
                }
            } else if let Some((_, place)) = timer {
                self.nodes[place].tick(self.now);
                assert!(
                    self.nodes[place].poll_timeout().is_none_or(|next| next > self.now),
                    "a timer that is due again at once: {:?} at {:?}",
                    self.nodes[place].poll_timeout(),
                    self.now
                );
                self.effects(place);
            }
        }
        self.now = end;
    }

    pub(super) fn effects(&mut self, place: usize) {
        while let Some(effect) = self.nodes[place].poll_effect() {
            match effect {
                Effect::Call { call, to, request, deadline } => self.call(place, call, &to, request, deadline),
                Effect::Answer { token, response } => self.answer(token, Ok(Answer::Message(response)), DELAY),
                Effect::AnswerLocated { token, chunks, mut located } => {
                    for (index, chunk) in chunks.iter().enumerate() {
                        if self.stores[place].contains_key(chunk) {
                            located.held[index / 8] |= 1 << (index % 8);
                        }
                    }
                    self.answer(token, Ok(Answer::Message(Response::Located(located))), DELAY);
                }
                Effect::Serve { token, fetch, demand, otherwise, .. } => {
                    let Some(len) = self.stores[place].get(&fetch.chunk).copied() else {
                        self.answer(token, Ok(Answer::Message(otherwise)), DELAY);
                        continue;
                    };
                    let (asker, call, _) = self.tokens[&token];
                    let slices = fetch.slices;
                    let header =
                        Slices { chunk_len: len, slices, outline: fetch.outline, charge: Default::default(), demand };
                    self.send(asker, DELAY, Input::Delivered { call, slices, charge: Msat::ZERO });
                    let bytes = u64::from(slices.count) * 16384;
                    self.answer(token, Ok(Answer::Fetched { header, bytes }), DELAY);
                    let part = self.parts.entry((asker, fetch.chunk)).or_default();
                    *part |= slices.mask();
                    if *part == SliceRange::whole(len).mask() {
                        self.stores[asker].insert(fetch.chunk, len);
                        self.send(asker, DELAY, Input::Stored { chunks: vec![fetch.chunk] });
                    }
                }
                Effect::Drop { peer, .. } => {
                    let other = (0..self.nodes.len()).find(|other| id(*other) == peer);
                    if let Some(other) = other {
                        self.links.remove(&(place.min(other), place.max(other)));
                        self.send(other, DELAY, Input::LinkDown { peer: id(place) });
                        self.send(place, DELAY, Input::LinkDown { peer });
                    }
                    self.log.push((place, effect));
                }
                Effect::Settle { chunks } => {
                    assert!(chunks.iter().all(|chunk| self.stores[place].contains_key(chunk)));
                    self.send(place, DELAY, Input::Kept { chunks: chunks.clone() });
                    self.log.push((place, Effect::Settle { chunks }));
                }
                effect => self.log.push((place, effect)),
            }
        }
    }

    pub(super) fn call(&mut self, from: usize, call: CallId, to: &Contact, request: Request, deadline: Instant) {
        let bytes = request.to_bytes();
        assert_eq!(Request::from_bytes(&bytes).as_ref(), Ok(&request), "what is sent can be read");
        *self.requests.entry(kind(&request)).or_default() += 1;
        let there = (0..self.nodes.len()).find(|place| id(*place) == to.peer && to.addrs.contains(&addr(*place)));
        let Some(there) = there.filter(|place| !self.dead.contains(place)) else {
            let wait = deadline.since(self.now).min(Duration::from_secs(1));
            self.send(from, wait, Input::Answered { call, result: Err(CallFailure::Unreachable(to.peer)) });
            return;
        };
        let mut wait = DELAY;
        if self.links.insert((from.min(there), from.max(there))) {
            self.send(there, DELAY, Input::LinkUp { rtt: None, peer: id(from), addr: addr(from), dialled: false });
            self.send(from, DELAY, Input::LinkUp { rtt: None, peer: id(there), addr: addr(there), dialled: true });
            wait = DELAY * 2;
        }
        self.sequence += 1;
        let token = Token(self.sequence);
        self.tokens.insert(token, (from, call, there));
        self.send(there, wait, Input::Request { from: id(from), token, request });
    }

    pub(super) fn answer(&mut self, token: Token, result: Result<Answer, CallFailure>, wait: Duration) {
        if let Ok(Answer::Message(response)) = &result {
            assert_eq!(Response::from_bytes(&response.to_bytes()).as_ref(), Ok(response), "what is sent can be read");
        }
        let (from, call, _) = self.tokens.remove(&token).expect("each request is answered once");
        self.send(from, wait, Input::Answered { call, result });
    }

    pub(super) fn located(&mut self, place: usize, chunks: &[ChunkId]) -> Vec<(ChunkId, Vec<Contact>)> {
        self.log.clear();
        let deadline = self.now.after(Duration::from_secs(5));
        self.command(place, Command::Locate { want: WantId(7), chunks: chunks.to_vec(), deadline });
        self.run(Duration::from_secs(6));
        let found = self.log.iter().find_map(|(at, effect)| match effect {
            Effect::Located { holders, .. } if *at == place => Some(holders.clone()),
            _ => None,
        });
        found.expect("located")
    }
}

impl World {
    pub(super) fn publish(&mut self, place: usize, job: u64, groups: &[Group]) {
        for group in groups {
            self.stores[place].extend(group.chunks.iter().copied());
        }
        let publish = Publish { job: JobId(job), groups: groups.to_vec(), lease: 86_400 };
        self.command(place, Command::Publish(publish));
    }

    pub(super) fn progress(&self, place: usize, job: u64) -> Progress {
        let of_job = self.log.iter().rev().find_map(|(at, effect)| match effect {
            Effect::Published { job: other, progress } if *at == place && other.0 == job => Some(*progress),
            _ => None,
        });
        of_job.unwrap_or_default()
    }

    /// Who holds a chunk, but for the publisher.
    pub(super) fn hosts(&self, chunk: &ChunkId, but: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|place| *place != but && self.stores[*place].contains_key(chunk)).collect()
    }
}

pub(super) fn stripes(count: usize, width: usize, seed: u64) -> Vec<Group> {
    let mut ids = chunks(count * width, seed).into_iter().map(|id| (id, 1 << 20));
    (0..count).map(|_| Group { chunks: ids.by_ref().take(width).collect(), data: 0, copies: 1 }).collect()
}

pub(super) fn kind(request: &Request) -> &'static str {
    match request {
        Request::Hello(_) => "hello",
        Request::Find { .. } => "find",
        Request::Locate { .. } => "locate",
        Request::Fetch(_) => "fetch",
        Request::Announce { .. } => "announce",
        Request::Host(_) => "host",
        _ => "other",
    }
}
