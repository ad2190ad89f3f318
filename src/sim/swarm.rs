//! The swarm: carries out what its nodes want, event by event, and lets nodes come, go, lie and stall.

use super::checker::{Checker, Tally, Violation};
use super::network::{Line, Network, NetworkConfig, address};
use super::reader::Reading;
use super::tree::Tree;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::{MESSAGE_BYTES_MAX, SLICE_BYTES};
use crate::base::peer::{Contact, PeerId};
use crate::base::random::Random;
use crate::base::range::SliceRange;
use crate::base::time::Instant;
use crate::fetch::want::{Want, WantFailure, WantId, WantOk};
use crate::node::effect::{Effect, Token};
use crate::node::input::{Command, Input};
use crate::node::{Node, NodeConfig};
use crate::publish::job::{JobId, Progress, Publish};
use crate::wire::call::{Answer, CallId};
use crate::wire::message::{CallFailure, Demand, Fetch, Request, Response, Slices};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Slices sent in one go.
const QUANTUM_SLICES: u32 = 4;
/// Leases in simulated runs.
const LEASE_SECONDS: u32 = 86_400;
/// Events in one virtual millisecond beyond which a run is taken for spinning.
const EVENTS_PER_MS_MAX: u64 = 200_000;

/// A swarm to be.
#[derive(Debug, Clone)]
pub struct SwarmConfig {
    /// How many nodes.
    pub nodes: usize,
    /// How they are joined.
    pub network: NetworkConfig,
    /// What each node is told of itself; its address is filled in.
    pub node: NodeConfig,
}

impl Default for SwarmConfig {
    fn default() -> SwarmConfig {
        let node = NodeConfig { host_bytes_max: 256 << 20, ..NodeConfig::default() };
        SwarmConfig { nodes: 13, network: NetworkConfig::default(), node }
    }
}

/// How a node treats those that fetch from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Sends what was asked for.
    Honest,
    /// Sends false bytes now and then.
    Liar,
    /// Takes requests for slices and never sends any.
    Staller,
}

#[derive(Debug, Clone, Copy)]
struct Stored {
    len: u32,
    slices: u64,
    whole_since: Option<Instant>,
}

struct Member {
    peer: PeerId,
    /// `None` while it is away.
    node: Option<Node>,
    up_since: Instant,
    /// Counts lives: what was sent to an earlier one is lost.
    life: u32,
    manner: Manner,
    line: Line,
    store: BTreeMap<ChunkId, Stored>,
    hosted: BTreeMap<ChunkId, u32>,
    remembered: Vec<Contact>,
    banned: BTreeSet<PeerId>,
    armed: Option<Instant>,
    uploads: VecDeque<(usize, CallId)>,
    pumping: bool,
}

#[derive(Debug)]
struct Link {
    serial: u64,
    dialler: usize,
    up: bool,
    up_at: Instant,
    used: Instant,
}

struct Call {
    to: usize,
    request: Option<Request>,
    fetch: Option<Running>,
}

/// A fetch call under way.
struct Running {
    fetch: Fetch,
    len: u32,
    unsent: u64,
    owed: u64,
    started: bool,
}

enum Event {
    Tick(usize, u32),
    Give(usize, u32, Input),
    LinkUp(usize, usize, u64),
    LinkGone(usize, usize, u64),
    LinkIdle(usize, usize, u64),
    Request(usize, CallId),
    Reply(usize, CallId, Result<Answer, CallFailure>),
    Slices(usize, CallId, SliceRange),
    Pump(usize, u32),
    Reader(usize),
}

/// How a search for providers went.
#[derive(Debug, Clone)]
pub struct Search {
    node: usize,
    chunk: ChunkId,
    depth: BTreeMap<usize, u32>,
    /// Hops to the first peer that named a holder.
    pub hops: Option<u32>,
    /// Requests sent until then.
    pub requests: u32,
}

/// Many nodes, one clock, one seed.
pub struct Swarm {
    now: Instant,
    random: Random,
    config: SwarmConfig,
    network: Network,
    members: Vec<Member>,
    links: BTreeMap<(usize, usize), Link>,
    calls: BTreeMap<(usize, CallId), Call>,
    tokens: BTreeMap<Token, (usize, CallId, usize)>,
    events: BTreeMap<(Instant, u64), Event>,
    serial: u64,
    next_want: u64,
    checker: Checker,
    trace: u64,
    steps_in_ms: (u64, u64),
    /// Readings, in the order in which they were begun.
    pub readings: Vec<Reading>,
    /// Searches, in the order in which they were begun.
    pub searches: Vec<Search>,
    progress: BTreeMap<(usize, JobId), Progress>,
    /// True lengths of all chunks.
    lens: BTreeMap<ChunkId, u32>,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Swarm {
    /// A swarm of nodes that do not know of each other yet.
    pub fn new(config: SwarmConfig, seed: u64) -> Swarm {
        let mut random = Random::new(seed);
        let mut network = Network::new(config.network.clone(), &mut random);
        let mut members = Vec::new();
        for place in 0..config.nodes {
            let peer = PeerId(random.bytes32());
            let line = network.line(&mut random, place, peer);
            members.push(Member {
                peer,
                node: None,
                up_since: Instant(0),
                life: 0,
                manner: Manner::Honest,
                line,
                store: BTreeMap::new(),
                hosted: BTreeMap::new(),
                remembered: Vec::new(),
                banned: BTreeSet::new(),
                armed: None,
                uploads: VecDeque::new(),
                pumping: false,
            });
        }
        Swarm {
            now: Instant(1),
            random,
            config,
            network,
            members,
            links: BTreeMap::new(),
            calls: BTreeMap::new(),
            tokens: BTreeMap::new(),
            events: BTreeMap::new(),
            serial: 0,
            next_want: 1,
            checker: Checker::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            steps_in_ms: (0, 0),
            readings: Vec::new(),
            searches: Vec::new(),
            progress: BTreeMap::new(),
            lens: BTreeMap::new(),
        }
    }

    /// A swarm whose nodes come one by one, each knowing a few of those before it, and settle.
    pub fn acquainted(config: SwarmConfig, seed: u64) -> Result<Swarm, Violation> {
        let count = config.nodes;
        let mut swarm = Swarm::new(config, seed);
        for place in 0..count {
            let known = (0..3.min(place)).map(|_| swarm.random.below(place as u64) as usize).collect::<Vec<_>>();
            swarm.join(place, &known);
            swarm.run(Duration::from_millis(20))?;
        }
        swarm.run(Duration::from_secs(10))?;
        Ok(swarm)
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Choices of a scenario come from the run's own seed.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Counts of the run.
    pub fn tally(&self) -> &Tally {
        &self.checker.tally
    }

    /// A hash over all that has happened: equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// How a node at this place can be reached.
    pub fn contact(&self, place: usize) -> Option<Contact> {
        self.members.get(place).map(|member| Contact { peer: member.peer, addrs: vec![address(place)] })
    }

    /// The machine of a node, while it is up.
    pub fn node(&self, place: usize) -> Option<&Node> {
        self.members.get(place)?.node.as_ref()
    }

    /// Whether a node has all of a chunk.
    pub fn holds(&self, place: usize, chunk: &ChunkId) -> bool {
        self.members
            .get(place)
            .and_then(|member| member.store.get(chunk))
            .is_some_and(|stored| stored.whole_since.is_some())
    }

    /// Nodes that are up and have all of a chunk.
    pub fn holders(&self, chunk: &ChunkId) -> Vec<usize> {
        (0..self.members.len()).filter(|place| self.node(*place).is_some() && self.holds(*place, chunk)).collect()
    }

    /// Progress of a publish job.
    pub fn progress(&self, place: usize, job: JobId) -> Option<Progress> {
        self.progress.get(&(place, job)).copied()
    }

    /// From now on this node behaves so.
    pub fn behave(&mut self, place: usize, manner: Manner) {
        if let Some(member) = self.members.get_mut(place) {
            member.manner = manner;
        }
    }

    /// A node comes (or comes back, with what it stored), knowing some others.
    pub fn join(&mut self, place: usize, known: &[usize]) {
        let seed = self.random.next_u64();
        let mut contacts: Vec<Contact> = known.iter().filter_map(|place| self.contact(*place)).collect();
        let Some(member) = self.members.get_mut(place) else { return };
        if member.node.is_some() {
            return;
        }
        contacts.extend(member.remembered.iter().cloned());
        let used = member.hosted.values().map(|len| u64::from(*len)).sum();
        let config = NodeConfig { addrs: vec![address(place)], host_bytes_used: used, ..self.config.node.clone() };
        member.node = Some(Node::new(config, member.peer, seed));
        member.up_since = self.now;
        member.banned.clear();
        let whole: Vec<ChunkId> =
            member.store.iter().filter(|(_, stored)| stored.whole_since.is_some()).map(|(id, _)| *id).collect();
        // What is left of an earlier life's links ends when the new one speaks up.
        let stale: Vec<((usize, usize), u64)> = self.links_of(place);
        for ((a, b), serial) in stale {
            self.link_gone(a, b, serial);
        }
        if !whole.is_empty() {
            self.handle(place, Input::Stored { chunks: whole });
        }
        self.handle(place, Input::Command(Command::Bootstrap(contacts)));
    }

    /// A node goes: with a farewell (its links end at once), or silently.
    pub fn leave(&mut self, place: usize, farewell: bool) {
        let Some(member) = self.members.get_mut(place) else { return };
        if member.node.take().is_none() {
            return;
        }
        member.life += 1;
        (member.armed, member.pumping) = (None, false);
        member.uploads.clear();
        self.checker.gone(place);
        self.calls.retain(|(from, _), _| *from != place);
        let wait = if farewell { Duration::from_millis(50) } else { self.network.config.silence };
        for ((a, b), serial) in self.links_of(place) {
            self.at(wait, Event::LinkGone(a, b, serial));
        }
        for reading in self.readings.iter_mut().filter(|reading| reading.node == place && !reading.ended()) {
            reading.finished = Some(self.now);
        }
    }

    /// A node stores a tree and publishes it.
    pub fn publish(&mut self, place: usize, job: JobId, tree: &Tree) {
        let now = self.now;
        let Some(member) = self.members.get_mut(place) else { return };
        let chunks = tree.chunks();
        for (id, len) in &chunks {
            let stored = Stored { len: *len, slices: SliceRange::whole(*len).mask(), whole_since: Some(now) };
            member.store.insert(*id, stored);
            self.lens.insert(*id, *len);
        }
        self.handle(place, Input::Stored { chunks: chunks.iter().map(|(id, _)| *id).collect() });
        let publish = Publish { job, groups: tree.groups(), lease: LEASE_SECONDS };
        self.handle(place, Input::Command(Command::Publish(publish)));
    }

    /// A node reads a tree. Returns the place of the reading in `readings`.
    pub fn read(&mut self, place: usize, tree: &Tree) -> usize {
        self.readings.push(Reading::new(self.now, place, tree.clone()));
        let reading = self.readings.len() - 1;
        self.advance(reading);
        reading
    }

    /// A node forgets what it cached and hosts: its disk was lost.
    pub fn wipe(&mut self, place: usize) {
        let Some(member) = self.members.get_mut(place) else { return };
        let chunks: Vec<ChunkId> = std::mem::take(&mut member.store).into_keys().collect();
        member.hosted.clear();
        self.handle(place, Input::Dropped { chunks });
    }

    /// A node looks the providers of a chunk up. The search is followed in `searches`.
    pub fn locate(&mut self, place: usize, chunk: ChunkId) {
        let search = Search { node: place, chunk, depth: BTreeMap::new(), hops: None, requests: 0 };
        self.searches.push(search);
        let want = WantId(self.next_want);
        self.next_want += 1;
        let deadline = self.now.after(Duration::from_secs(10));
        self.handle(place, Input::Command(Command::Locate { want, chunks: vec![chunk], deadline }));
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) -> Result<(), Violation> {
        let end = self.now.after(span);
        self.run_while(end, |_| true)
    }

    /// Lets time pass until `end`, or until `goes_on` says no.
    pub fn run_while(&mut self, end: Instant, goes_on: impl Fn(&Swarm) -> bool) -> Result<(), Violation> {
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.checker.passed(self.now);
            self.guard_against_spinning();
            self.happen(event);
            if let Some(violation) = self.checker.violation() {
                return Err(violation.clone());
            }
            if !goes_on(self) {
                return Ok(());
            }
        }
        self.now = self.now.max(end);
        self.checker.passed(self.now);
        self.checker.violation().map_or(Ok(()), |violation| Err(violation.clone()))
    }

    fn guard_against_spinning(&mut self) {
        let ms = self.now.0 / 1000;
        self.steps_in_ms = if self.steps_in_ms.0 == ms { (ms, self.steps_in_ms.1 + 1) } else { (ms, 1) };
        if self.steps_in_ms.1 > EVENTS_PER_MS_MAX {
            self.checker.fail(self.now, 0, "events without end at one moment".to_string());
        }
    }

    fn at(&mut self, wait: Duration, event: Event) {
        self.at_time(self.now.after(wait), event);
    }

    fn at_time(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.events.insert((at, self.serial), event);
    }

    fn mix(&mut self, value: u64) {
        self.trace = (self.trace ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded.iter_mut().zip(word).for_each(|(to, from)| *to = *from);
            self.mix(u64::from_le_bytes(padded));
        }
    }

    fn delay(&mut self, from: usize, to: usize) -> Duration {
        match (self.members.get(from), self.members.get(to)) {
            (Some(from), Some(to)) => self.network.delay(&mut self.random, &from.line, &to.line),
            _ => Duration::ZERO,
        }
    }

    fn links_of(&self, place: usize) -> Vec<((usize, usize), u64)> {
        let links = self.links.iter().filter(|((a, b), _)| *a == place || *b == place);
        links.map(|(pair, link)| (*pair, link.serial)).collect()
    }

    /// Bytes of these slices of a chunk, by its true length.
    fn bytes_of(&self, chunk: &ChunkId, slices: u64) -> i64 {
        let len = self.lens.get(chunk).copied().unwrap_or(0);
        let slices = slices & SliceRange::whole(len).mask();
        (i64::from(slices.count_ones()) * SLICE_BYTES as i64).min(i64::from(len))
    }

    fn stored(&self, place: usize, chunk: &ChunkId) -> u64 {
        self.members.get(place).and_then(|member| member.store.get(chunk)).map_or(0, |stored| stored.slices)
    }

    /// Hands one event to a node and does what it wants.
    fn handle(&mut self, place: usize, input: Input) {
        let now = self.now;
        let Some(node) = self.members.get_mut(place).and_then(|member| member.node.as_mut()) else { return };
        node.handle(now, input);
        self.drain(place);
    }

    fn drain(&mut self, place: usize) {
        while let Some(effect) =
            self.members.get_mut(place).and_then(|member| member.node.as_mut()).and_then(Node::poll_effect)
        {
            self.perform(place, effect);
        }
        let unanswered = self.tokens.iter().find(|(_, (_, _, to))| *to == place).map(|(token, _)| *token);
        if let Some(token) = unanswered {
            self.tokens.remove(&token);
            self.checker.fail(self.now, place, "a request was not answered".to_string());
        }
        let now = self.now;
        let Some(member) = self.members.get_mut(place) else { return };
        let Some(node) = &member.node else { return };
        if let Some(at) = node.poll_timeout() {
            let at = at.max(Instant(now.0 + 1));
            if member.armed.is_none_or(|armed| at < armed) {
                member.armed = Some(at);
                let life = member.life;
                self.at_time(at, Event::Tick(place, life));
            }
        }
    }

    fn perform(&mut self, place: usize, effect: Effect) {
        match effect {
            Effect::Call { call, to, request, deadline } => self.call(place, call, &to, request, deadline),
            Effect::Cancel { call } => {
                if self.calls.contains_key(&(place, call)) {
                    self.at(Duration::ZERO, Event::Reply(place, call, Err(CallFailure::Cancelled)));
                }
            }
            Effect::Answer { token, response } => self.answer(place, token, response),
            Effect::Serve { token, fetch, demand, otherwise } => self.serve(place, token, &fetch, demand, otherwise),
            Effect::AnswerLocated { token, chunks, mut located } => {
                for (index, chunk) in chunks.iter().enumerate() {
                    if self.holds(place, chunk)
                        && let Some(byte) = located.held.get_mut(index / 8)
                    {
                        *byte |= 1 << (index % 8);
                    }
                }
                self.answer(place, token, Response::Located(located));
            }
            Effect::Keep { chunks, lease, .. } => self.keep(place, &chunks, lease),
            Effect::WantDone { want, result } => self.want_done(place, want, &result),
            Effect::Published { job, progress } => {
                self.progress.insert((place, job), progress);
            }
            Effect::Located { want, .. } => self.mix(want.0),
            Effect::Remember(contacts) => {
                if let Some(member) = self.members.get_mut(place) {
                    member.remembered = contacts;
                }
            }
            Effect::Drop { peer, .. } => {
                self.checker.tally.drops += 1;
                let Some(member) = self.members.get_mut(place) else { return };
                member.banned.insert(peer);
                if let Some(other) = self.network.place_of(&peer)
                    && let Some(link) = self.links.get(&pair(place, other))
                {
                    let (a, b) = pair(place, other);
                    let serial = link.serial;
                    self.at(Duration::ZERO, Event::LinkGone(a, b, serial));
                }
            }
        }
    }

    fn call(&mut self, from: usize, call: CallId, to: &Contact, request: Request, deadline: Instant) {
        let bytes = request.to_bytes();
        self.mix_bytes(&bytes);
        if bytes.len() > MESSAGE_BYTES_MAX || Request::from_bytes(&bytes).as_ref() != Ok(&request) {
            self.checker.fail(self.now, from, format!("sends what cannot be read: {request:?}"));
        }
        let known = self.network.place_of(&to.peer);
        let linked = known.filter(|there| self.links.get(&pair(from, *there)).is_some_and(|link| link.up));
        let there = linked.or_else(|| self.network.place(to));
        if there == Some(from) {
            self.checker.fail(self.now, from, "calls itself".to_string());
            return;
        }
        let target = there.unwrap_or(usize::MAX);
        self.checker.called(self.now, from, target, call);
        if let Request::Locate { chunks } = &request {
            self.searched(from, target, chunks);
        }
        let fetch = match &request {
            Request::Fetch(fetch) => {
                let owed = fetch.slices.mask();
                let bytes = self.bytes_of(&fetch.chunk, owed);
                self.checker.in_flight(self.now, from, target, bytes);
                Some(Running { fetch: fetch.clone(), len: 0, unsent: 0, owed, started: false })
            }
            _ => None,
        };
        self.calls.insert((from, call), Call { to: target, request: Some(request), fetch });
        self.at_time(deadline.max(self.now), Event::Reply(from, call, Err(CallFailure::Timeout)));
        let peer = self.members.get(from).map(|member| member.peer);
        let open = there
            .and_then(|there| self.members.get(there))
            .is_some_and(|member| member.node.is_some() && !peer.is_some_and(|peer| member.banned.contains(&peer)));
        let up_at = match (there, there.and_then(|there| self.links.get_mut(&pair(from, there)))) {
            (_, Some(link)) => {
                link.used = self.now;
                link.up_at.max(self.now)
            }
            (Some(there), None) if open => self.dial(from, there),
            _ => {
                let wait = self.network.config.dial;
                self.at(wait, Event::Reply(from, call, Err(CallFailure::Unreachable(to.peer))));
                return;
            }
        };
        let delay = self.delay(from, target);
        self.at_time(up_at.after(delay), Event::Request(from, call));
    }

    /// Opens a link; returns when it will be up.
    fn dial(&mut self, from: usize, to: usize) -> Instant {
        // Token, handshake, and the first flight of the answer.
        let up_at = self.now.after(3 * self.delay(from, to));
        self.serial += 1;
        let link = Link { serial: self.serial, dialler: from, up: false, up_at, used: self.now };
        let (a, b) = pair(from, to);
        let serial = link.serial;
        self.links.insert((a, b), link);
        self.at_time(up_at, Event::LinkUp(a, b, serial));
        up_at
    }

    fn answer(&mut self, place: usize, token: Token, response: Response) {
        let Some((from, call, _)) = self.tokens.remove(&token) else {
            self.checker.fail(self.now, place, format!("answers {token:?} again"));
            return;
        };
        let bytes = response.to_bytes();
        self.mix_bytes(&bytes);
        if bytes.len() > MESSAGE_BYTES_MAX || Response::from_bytes(&bytes).as_ref() != Ok(&response) {
            self.checker.fail(self.now, place, format!("answers what cannot be read: {response:?}"));
        }
        let wait = self.delay(place, from);
        self.at(wait, Event::Reply(from, call, Ok(Answer::Message(response))));
    }

    fn serve(&mut self, place: usize, token: Token, fetch: &Fetch, demand: Demand, otherwise: Response) {
        let Some((from, call, _)) = self.tokens.get(&token).copied() else {
            self.checker.fail(self.now, place, format!("serves {token:?} again"));
            return;
        };
        let _ = demand;
        let Some(member) = self.members.get_mut(place) else { return };
        let stored = member.store.get(&fetch.chunk).copied();
        let (len, slices) = stored.map_or((0, 0), |stored| (stored.len, stored.slices));
        let asked = fetch.slices.mask() & SliceRange::whole(len).mask();
        if asked == 0 || asked & !slices != 0 {
            return self.answer(place, token, otherwise);
        }
        self.tokens.remove(&token);
        if member.manner == Manner::Staller {
            return;
        }
        let Some(running) = self.calls.get_mut(&(from, call)).and_then(|call| call.fetch.as_mut()) else { return };
        (running.unsent, running.len, running.started) = (asked, len, true);
        member.uploads.push_back((from, call));
        if !member.pumping {
            member.pumping = true;
            let life = member.life;
            self.at(Duration::ZERO, Event::Pump(place, life));
        }
    }

    /// Sends the next few slices of the transfers that a node owes, in turn.
    fn pump(&mut self, place: usize) {
        let Some(member) = self.members.get_mut(place) else { return };
        member.pumping = false;
        let (from, call) = loop {
            let Some(next) = member.uploads.pop_front() else { return };
            let running = self.calls.get(&next).and_then(|call| call.fetch.as_ref());
            if running.is_some_and(|running| running.unsent != 0) {
                break next;
            }
        };
        let Some(running) = self.calls.get_mut(&(from, call)).and_then(|call| call.fetch.as_mut()) else { return };
        let first = running.unsent.trailing_zeros();
        let count = (running.unsent >> first).trailing_ones().min(QUANTUM_SLICES);
        let range = SliceRange { first: first as u8, count: count as u8 };
        running.unsent &= !range.mask();
        let bytes = range.bytes(running.len);
        let bytes = u64::from(bytes.end.saturating_sub(bytes.start));
        let took = Duration::from_micros(bytes * 1_000_000 / member.line.up.max(1));
        let lies = member.manner == Manner::Liar && self.random.chance(1, 3);
        if lies {
            running.unsent = 0;
        } else if running.unsent != 0 {
            member.uploads.push_back((from, call));
        }
        member.pumping = true;
        let life = member.life;
        self.at(took, Event::Pump(place, life));
        let delay = self.delay(place, from);
        let sent = self.now.after(took).after(delay);
        let Some(line) = self.members.get_mut(from).map(|member| &mut member.line) else { return };
        let carried = Duration::from_micros(bytes * 1_000_000 / line.down.max(1));
        line.down_free = line.down_free.max(sent).after(carried);
        let at = line.down_free;
        if lies {
            self.checker.tally.false_answers += 1;
            let failure = CallFailure::False("a slice that does not match its outline");
            self.at_time(at, Event::Reply(from, call, Err(failure)));
        } else {
            self.at_time(at, Event::Slices(from, call, range));
        }
    }

    fn keep(&mut self, place: usize, chunks: &[(ChunkId, u32)], lease: u32) {
        let most = self.config.node.host_bytes_max;
        let Some(member) = self.members.get_mut(place) else { return };
        for (id, len) in chunks {
            if lease == 0 {
                member.hosted.remove(id);
            } else {
                member.hosted.insert(*id, *len);
            }
        }
        let bytes: u64 = member.hosted.values().map(|len| u64::from(*len)).sum();
        if bytes > most {
            self.checker.fail(self.now, place, format!("hosts {bytes} bytes of at most {most}"));
        }
    }

    fn want_done(&mut self, place: usize, id: WantId, result: &Result<WantOk, WantFailure>) {
        self.mix(id.0 << 1 | u64::from(result.is_ok()));
        let mut checker = std::mem::take(&mut self.checker);
        let alive = |chunk: &ChunkId, since: Instant| {
            self.members.iter().enumerate().any(|(other, member)| {
                other != place
                    && member.node.is_some()
                    && member.up_since <= since
                    && member.manner == Manner::Honest
                    && member.store.get(chunk).and_then(|stored| stored.whole_since).is_some_and(|at| at <= since)
            }) || self.holds(place, chunk)
        };
        checker.want_done(self.now, place, id, result, |chunk| self.stored(place, chunk), alive);
        self.checker = checker;
        let reading = self.readings.iter_mut().position(|reading| reading.node == place && reading.done(id, result));
        if let Some(reading) = reading {
            self.at(Duration::ZERO, Event::Reader(reading));
        }
    }

    fn advance(&mut self, reading: usize) {
        loop {
            let id = WantId(self.next_want);
            let now = self.now;
            let Some(state) = self.readings.get_mut(reading) else { return };
            let place = state.node;
            let store = self.members.get(place).map(|member| &member.store);
            let stored = |chunk: &ChunkId| store.and_then(|store| store.get(chunk)).map_or(0, |stored| stored.slices);
            let Some(want) = state.next_want(now, id, stored) else { return };
            self.next_want += 1;
            self.give_want(place, want);
        }
    }

    fn give_want(&mut self, place: usize, want: Want) {
        self.checker.wanted(self.now, place, &want);
        self.handle(place, Input::Command(Command::Want(want)));
    }

    fn happen(&mut self, event: Event) {
        self.mix(self.now.0);
        match event {
            Event::Tick(place, life) => {
                let now = self.now;
                let Some(member) = self.members.get_mut(place).filter(|member| member.life == life) else { return };
                member.armed = None;
                let Some(node) = &mut member.node else { return };
                if node.poll_timeout().is_some_and(|at| at <= now) {
                    node.tick(now);
                }
                self.drain(place);
            }
            Event::Give(place, life, input) => {
                if self.members.get(place).is_some_and(|member| member.life == life) {
                    self.handle(place, input);
                }
            }
            Event::LinkUp(a, b, serial) => self.link_up(a, b, serial),
            Event::LinkGone(a, b, serial) => self.link_gone(a, b, serial),
            Event::LinkIdle(a, b, serial) => self.link_idle(a, b, serial),
            Event::Request(from, call) => self.request(from, call),
            Event::Reply(from, call, result) => self.reply(from, call, result),
            Event::Slices(from, call, range) => self.slices(from, call, range),
            Event::Pump(place, life) => {
                if self.members.get(place).is_some_and(|member| member.life == life) {
                    self.pump(place);
                }
            }
            Event::Reader(reading) => self.advance(reading),
        }
    }

    fn give(&mut self, place: usize, input: Input) {
        if let Some(member) = self.members.get(place) {
            let life = member.life;
            self.at(Duration::ZERO, Event::Give(place, life, input));
        }
    }

    fn link_up(&mut self, a: usize, b: usize, serial: u64) {
        let alive = |place: usize| self.node(place).is_some();
        if !alive(a) || !alive(b) {
            return self.link_gone(a, b, serial);
        }
        let now = self.now;
        let Some(link) = self.links.get_mut(&(a, b)).filter(|link| link.serial == serial) else { return };
        (link.up, link.used) = (true, now);
        let dialler = link.dialler;
        for (place, other) in [(a, b), (b, a)] {
            self.checker.linked(now, place, true);
            let Some(peer) = self.members.get(other).map(|member| member.peer) else { continue };
            self.give(place, Input::LinkUp { peer, addr: address(other), dialled: dialler == place });
        }
        let idle = self.network.config.idle;
        self.at(idle, Event::LinkIdle(a, b, serial));
    }

    fn link_gone(&mut self, a: usize, b: usize, serial: u64) {
        if self.links.get(&(a, b)).is_none_or(|link| link.serial != serial) {
            return;
        }
        let Some(link) = self.links.remove(&(a, b)) else { return };
        for (place, other) in [(a, b), (b, a)] {
            let calls: Vec<CallId> = self
                .calls
                .range((place, CallId(0))..=(place, CallId(u64::MAX)))
                .filter(|(_, call)| call.to == other)
                .map(|((_, call), _)| *call)
                .collect();
            let peer = self.members.get(other).map(|member| member.peer);
            for call in calls {
                let failure = match peer {
                    Some(peer) if !link.up => CallFailure::Unreachable(peer),
                    _ => CallFailure::LinkLost,
                };
                self.at(Duration::ZERO, Event::Reply(place, call, Err(failure)));
            }
            if link.up && self.node(place).is_some() {
                self.checker.linked(self.now, place, false);
                if let Some(peer) = peer {
                    self.give(place, Input::LinkDown { peer });
                }
            }
        }
    }

    fn link_idle(&mut self, a: usize, b: usize, serial: u64) {
        let idle = self.network.config.idle;
        let Some(link) = self.links.get(&(a, b)).filter(|link| link.serial == serial) else { return };
        let until = link.used.after(idle);
        let busy = [(a, b), (b, a)].into_iter().any(|(from, to)| {
            self.calls.range((from, CallId(0))..=(from, CallId(u64::MAX))).any(|(_, call)| call.to == to)
        });
        if until > self.now || busy {
            let at = until.max(self.now.after(Duration::from_secs(1)));
            self.at_time(at, Event::LinkIdle(a, b, serial));
        } else {
            self.link_gone(a, b, serial);
        }
    }

    fn request(&mut self, from: usize, call: CallId) {
        let now = self.now;
        let Some(state) = self.calls.get_mut(&(from, call)) else { return };
        let to = state.to;
        let Some(link) = self.links.get_mut(&pair(from, to)).filter(|link| link.up) else { return };
        link.used = now;
        let Some(request) = state.request.take() else { return };
        let Some(peer) = self.members.get(from).map(|member| member.peer) else { return };
        if self.node(to).is_none() {
            return;
        }
        self.serial += 1;
        let token = Token(self.serial);
        self.tokens.insert(token, (from, call, to));
        self.checker.tally.messages += 1;
        self.handle(to, Input::Request { from: peer, token, request });
        if let Some(node) = self.members.get(to).and_then(|member| member.node.as_ref())
            && self.serial % 64 == 0
        {
            let stats = node.stats();
            self.checker.stats(now, to, &stats);
        }
    }

    /// The end of a call reaches the asker.
    fn reply(&mut self, from: usize, call: CallId, result: Result<Answer, CallFailure>) {
        let Some(state) = self.calls.remove(&(from, call)) else { return };
        let now = self.now;
        self.checker.call_ended(now, from, state.to, call);
        if let Some(running) = &state.fetch {
            let bytes = self.bytes_of(&running.fetch.chunk, running.owed);
            self.checker.in_flight(now, from, state.to, -bytes);
        }
        if let Some(link) = self.links.get_mut(&pair(from, state.to)) {
            link.used = now;
        }
        if let Ok(Answer::Message(Response::Located(located))) = &result {
            self.learned(from, state.to, located);
        }
        self.checker.tally.messages += 1;
        self.handle(from, Input::Answered { call, result });
    }

    fn slices(&mut self, from: usize, call: CallId, range: SliceRange) {
        let now = self.now;
        let Some(state) = self.calls.get_mut(&(from, call)) else { return };
        let to = state.to;
        let Some(running) = state.fetch.as_mut() else { return };
        let (chunk, len) = (running.fetch.chunk, running.len);
        running.owed &= !range.mask();
        let last =
            running.unsent == 0 && running.owed & running.fetch.slices.mask() & SliceRange::whole(len).mask() == 0;
        let asked = SliceRange {
            first: running.fetch.slices.first,
            count: running.fetch.slices.end().min(SliceRange::whole(len).count) - running.fetch.slices.first,
        };
        let outline = running.fetch.outline;
        let bytes = self.bytes_of(&chunk, range.mask());
        self.checker.in_flight(now, from, to, -bytes);
        let Some(member) = self.members.get_mut(from) else { return };
        let stored = member.store.entry(chunk).or_insert(Stored { len, slices: 0, whole_since: None });
        stored.slices |= range.mask();
        let whole = stored.whole_since.is_none() && stored.slices == SliceRange::whole(len).mask();
        if whole {
            stored.whole_since = Some(now);
        }
        let bytes = range.bytes(len);
        self.checker.tally.slice_bytes += u64::from(bytes.end - bytes.start);
        self.handle(from, Input::Delivered { call, slices: range });
        if last {
            let header =
                Slices { chunk_len: len, slices: asked, outline, charge: Msat::ZERO, demand: Demand::default() };
            let bytes = asked.bytes(len);
            let bytes = u64::from(bytes.end - bytes.start);
            self.reply(from, call, Ok(Answer::Fetched { header, bytes }));
        }
        if whole {
            self.handle(from, Input::Stored { chunks: vec![chunk] });
        }
    }

    fn searched(&mut self, from: usize, to: usize, chunks: &[ChunkId]) {
        for search in self.searches.iter_mut().filter(|search| search.node == from && search.hops.is_none()) {
            if chunks.contains(&search.chunk) {
                search.depth.entry(to).or_insert(1);
                search.requests += 1;
            }
        }
    }

    fn learned(&mut self, from: usize, to: usize, located: &crate::wire::message::Located) {
        let network = &self.network;
        for search in self.searches.iter_mut().filter(|search| search.node == from && search.hops.is_none()) {
            let Some(depth) = search.depth.get(&to).copied() else { continue };
            // Searches are for one chunk: any provider named is one of it.
            if !located.providers.is_empty() || located.held.first().is_some_and(|byte| byte & 1 == 1) {
                search.hops = Some(depth);
            }
            for contact in &located.closer {
                if let Some(place) = network.place_of(&contact.peer) {
                    search.depth.entry(place).or_insert(depth + 1);
                }
            }
        }
    }
}
