//! The swarm: carries out what its nodes want, event by event, and lets nodes come, go, lie and stall.

mod attack;
mod effects;
mod events;
mod faults;
mod keep;
mod links;
mod searches;

use super::checker::{Checker, Tally, Violation};
use super::network::{Line, Network, NetworkConfig, address};
use super::queue::Queue;
use super::reader::{READ_DEADLINE, Reading};
use super::tree::Tree;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::{LINKS_MAX, MESSAGE_BYTES_MAX, SLICE_BYTES};
use crate::base::peer::{Contact, PeerId};
use crate::base::random::Random;
use crate::base::range::SliceRange;
use crate::base::time::Instant;
use crate::fetch::want::{Want, WantFailure, WantId, WantOk};
use crate::ledger::CreditConfig;
use crate::node::effect::{Effect, Record, Token};
use crate::node::input::{Command, ErrandId, Input, Kept};
use crate::node::{Node, NodeConfig};
use crate::publish::KeeperConfig;
use crate::publish::job::{JobId, Progress, Publish};
use crate::wire::call::{Answer, CallId};
use crate::wire::message::{CallFailure, Demand, Fetch, Request, Response, Slices};
use attack::Gang;
pub use attack::Malice;
use links::{Link, Links};
pub use searches::Search;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Slices sent in one go.
const QUANTUM_SLICES: u32 = 4;
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
    /// Bytes that nodes keep of what they fetched or host; `None`: all. Like the product's, the cache gives up what was not used for longest.
    pub cache_bytes: Option<u64>,
    /// One message of so many goes through its encoding, and its bytes into the trace. Large runs cannot afford all of them.
    pub encode_every: u64,
}

impl Default for SwarmConfig {
    fn default() -> SwarmConfig {
        let keeper = KeeperConfig { lease: 86_400, ..KeeperConfig::default() };
        let node = NodeConfig { host_bytes_max: 256 << 20, keeper, ..NodeConfig::default() };
        SwarmConfig { nodes: 13, network: NetworkConfig::default(), node, cache_bytes: None, encode_every: 1 }
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
    /// Published here.
    own: bool,
    /// When it last came or was sent.
    used: Instant,
}

struct Member {
    peer: PeerId,
    /// `None` while it is away.
    node: Option<Node>,
    up_since: Instant,
    /// Counts lives: what was sent to an earlier one is lost.
    life: u32,
    manner: Manner,
    malice: Option<Malice>,
    line: Line,
    store: BTreeMap<ChunkId, Stored>,
    hosted: BTreeMap<ChunkId, u32>,
    /// Records of what it looks after, as its disk has them.
    kept: BTreeMap<Vec<u8>, Kept>,
    remembered: Vec<Contact>,
    accounts: BTreeMap<PeerId, Record>,
    banned: BTreeSet<PeerId>,
    armed: Option<Instant>,
    uploads: VecDeque<(usize, CallId)>,
    pumping: bool,
    /// By how much its clock is ahead, microseconds.
    ahead: u64,
    /// Bytes of slices that it has sent.
    sent: u64,
    /// Requests and answers that came to it.
    received: u64,
    /// Bytes of what it fetched or hosts.
    cached: u64,
    /// Its calls under way.
    calls: BTreeMap<CallId, Call>,
}

impl Member {
    fn new(peer: PeerId, line: Line) -> Member {
        Member {
            peer,
            node: None,
            up_since: Instant(0),
            life: 0,
            manner: Manner::Honest,
            malice: None,
            line,
            store: BTreeMap::new(),
            hosted: BTreeMap::new(),
            kept: BTreeMap::new(),
            remembered: Vec::new(),
            accounts: BTreeMap::new(),
            banned: BTreeSet::new(),
            armed: None,
            uploads: VecDeque::new(),
            pumping: false,
            ahead: 0,
            sent: 0,
            received: 0,
            cached: 0,
            calls: BTreeMap::new(),
        }
    }
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
    /// What all of it costs, and what of that was delivered.
    charge: Msat,
    paid: Msat,
    /// What comes proves something and is not stored.
    proof: bool,
}

enum Event {
    Tick(usize, u32),
    Give(usize, u32, Box<Input>),
    LinkUp(usize, usize, u64),
    LinkGone(usize, usize, u64),
    LinkIdle(usize, usize, u64),
    Request(usize, CallId),
    Reply(usize, CallId, Box<Result<Answer, CallFailure>>),
    Timeout(usize, CallId),
    Slices(usize, CallId, SliceRange),
    Pump(usize, u32),
    Reader(usize),
}

/// Many nodes, one clock, one seed.
pub struct Swarm {
    now: Instant,
    random: Random,
    config: SwarmConfig,
    network: Network,
    members: Vec<Member>,
    links: Links,
    tokens: BTreeMap<Token, (usize, CallId, usize)>,
    events: Queue<Event>,
    serial: u64,
    next_want: u64,
    checker: Checker,
    trace: u64,
    /// Messages so far.
    encoded: u64,
    /// Which part of a split network each node is in; empty while it is whole.
    parts: Vec<u8>,
    /// Until when nobody could be held to promises: the network was split, or a clock jumped.
    disturbed: Instant,
    steps_in_ms: (u64, u64),
    /// Readings, in the order in which they were begun.
    pub readings: Vec<Reading>,
    /// Searches, in the order in which they were begun.
    pub searches: Vec<Search>,
    /// Those that have not ended.
    searches_open: Vec<usize>,
    progress: BTreeMap<(usize, JobId), Progress>,
    /// Errands that ended, by node.
    tended: BTreeMap<(usize, ErrandId), Vec<Kept>>,
    /// True lengths of all chunks.
    lens: BTreeMap<ChunkId, u32>,
    gang: Gang,
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
            members.push(Member::new(peer, line));
        }
        let (links, checker) = (Links::new(members.len()), Checker::new(members.len()));
        Swarm {
            now: Instant(1),
            random,
            config,
            network,
            members,
            links,
            tokens: BTreeMap::new(),
            events: Queue::new(),
            serial: 0,
            next_want: 1,
            checker,
            trace: 0xcbf2_9ce4_8422_2325,
            encoded: 0,
            parts: Vec::new(),
            disturbed: Instant(0),
            steps_in_ms: (0, 0),
            readings: Vec::new(),
            searches: Vec::new(),
            searches_open: Vec::new(),
            progress: BTreeMap::new(),
            tended: BTreeMap::new(),
            lens: BTreeMap::new(),
            gang: Gang::default(),
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

    /// Bytes of slices that a node has sent.
    pub fn sent(&self, place: usize) -> u64 {
        self.members.get(place).map_or(0, |member| member.sent)
    }

    /// What a node's line carries up and down, bytes a second.
    pub fn rates(&self, place: usize) -> (u64, u64) {
        self.members.get(place).map_or((0, 0), |member| (member.line.up, member.line.down))
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
        let accounts = member.accounts.iter().map(|(peer, record)| (*peer, *record)).collect();
        let config =
            NodeConfig { addrs: vec![address(place)], host_bytes_used: used, accounts, ..self.config.node.clone() };
        member.node = Some(Node::new(config, member.peer, seed));
        member.up_since = self.now;
        member.banned.clear();
        let whole: Vec<ChunkId> =
            member.store.iter().filter(|(_, stored)| stored.whole_since.is_some()).map(|(id, _)| *id).collect();
        // What is left of an earlier life's links ends when the new one speaks up.
        for (other, serial) in self.links.of(place) {
            self.link_gone(place, other, serial);
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
        member.calls.clear();
        self.abandon_searches(place);
        self.checker.gone(place);
        let wait = if farewell { Duration::from_millis(50) } else { self.network.config.silence };
        for (other, serial) in self.links.of(place) {
            self.at(wait, Event::LinkGone(place, other, serial));
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
            let slices = SliceRange::whole(*len).mask();
            let stored = Stored { len: *len, slices, whole_since: Some(now), own: true, used: now };
            member.store.insert(*id, stored);
            self.lens.insert(*id, *len);
        }
        self.handle(place, Input::Stored { chunks: chunks.iter().map(|(id, _)| *id).collect() });
        let groups = tree.groups();
        if let Some(member) = self.members.get_mut(place) {
            member.kept.extend(groups.iter().map(|group| (keep::key(job, group), Kept::new(group))));
        }
        let lease = self.config.node.keeper.lease;
        let publish = Publish { job, groups, lease };
        self.handle(place, Input::Command(Command::Publish(publish)));
    }

    /// A node reads a tree. Returns the place of the reading in `readings`.
    pub fn read(&mut self, place: usize, tree: &Tree) -> usize {
        self.copy(place, tree, READ_DEADLINE)
    }

    /// The same with as much patience for each stripe, as a copy of a whole tree has.
    pub fn copy(&mut self, place: usize, tree: &Tree, patience: Duration) -> usize {
        self.readings.push(Reading::new(self.now, place, tree.clone(), patience));
        let reading = self.readings.len() - 1;
        self.advance(reading);
        reading
    }

    /// A node forgets what it cached and hosts: its disk was lost.
    pub fn wipe(&mut self, place: usize) {
        let Some(member) = self.members.get_mut(place) else { return };
        let chunks: Vec<ChunkId> = std::mem::take(&mut member.store).into_keys().collect();
        member.hosted.clear();
        member.cached = 0;
        self.handle(place, Input::Dropped { chunks });
    }

    /// Of what a node sells: bytes a second from now on.
    pub fn limit_upload(&mut self, place: usize, rate: Option<u64>) {
        self.handle(place, Input::Command(Command::Upload(rate)));
    }

    /// On which terms a node serves and hosts from now on.
    pub fn charge(&mut self, place: usize, credit: CreditConfig) {
        let payments = self.config.node.payments;
        self.handle(place, Input::Command(Command::Terms { credit, payments }));
    }

    /// A node gives cached chunks up: named ones, or those not used for longest until it is within its cache.
    pub(super) fn evict(&mut self, place: usize, named: Option<Vec<ChunkId>>) {
        let recent = Instant(self.now.0.saturating_sub(60_000_000));
        let most = self.config.cache_bytes.unwrap_or(u64::MAX);
        if named.is_none() && self.members.get(place).is_none_or(|member| member.cached <= most) {
            return;
        }
        // What a reader counts on.
        let open = self.readings.iter().filter(|reading| reading.node == place && !reading.ended());
        let read: BTreeSet<ChunkId> = open.flat_map(Reading::chunks).collect();
        let Some(member) = self.members.get_mut(place) else { return };
        let hosted = &member.hosted;
        let cached = |id: &ChunkId, stored: &Stored| !stored.own && !hosted.contains_key(id);
        let gone: Vec<ChunkId> = match named {
            Some(named) => {
                let own = |id: &&ChunkId| member.store.get(id).is_some_and(|stored| stored.own);
                if let Some(own) = named.iter().find(own) {
                    self.checker.fail(self.now, place, format!("gives up {own:.8}, which is its own"));
                }
                let gives =
                    |id: &ChunkId| member.store.get(id).is_some_and(|stored| cached(id, stored) && !read.contains(id));
                named.into_iter().filter(gives).collect()
            }
            None => {
                // A tenth more, so that this is not done for each chunk.
                let mut over = member.cached.saturating_sub(most / 10 * 9);
                let old = |(id, stored): &(&ChunkId, &Stored)| {
                    let idle = stored.used < recent && stored.whole_since.is_some();
                    idle && cached(id, stored) && !read.contains(*id)
                };
                let mut old: Vec<(Instant, ChunkId, u64)> = member
                    .store
                    .iter()
                    .filter(old)
                    .map(|(id, stored)| (stored.used, *id, u64::from(stored.len)))
                    .collect();
                old.sort();
                let needed = |(_, _, len): &(Instant, ChunkId, u64)| {
                    let goes = over > 0;
                    over = over.saturating_sub(*len);
                    goes
                };
                old.into_iter().take_while(needed).map(|(_, id, _)| id).collect()
            }
        };
        for id in &gone {
            if let Some(stored) = member.store.remove(id) {
                member.cached = member.cached.saturating_sub(u64::from(stored.len));
            }
        }
        if !gone.is_empty() {
            self.give(place, Input::Dropped { chunks: gone });
        }
    }

    /// A node looks the providers of a chunk up. The search is followed in `searches`.
    pub fn locate(&mut self, place: usize, chunk: ChunkId) {
        self.searches_open.push(self.searches.len());
        self.searches.push(Search::new(self.now, place, chunk));
        let want = WantId(self.next_want);
        self.next_want += 1;
        let deadline = self.clock(place).after(Duration::from_secs(10));
        self.handle(place, Input::Command(Command::Locate { want, chunks: vec![chunk], deadline }));
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Duration) -> Result<(), Violation> {
        let end = self.now.after(span);
        self.run_while(end, |_| true)
    }

    /// Lets time pass until `end`, or until `goes_on` says no.
    pub fn run_while(&mut self, end: Instant, goes_on: impl Fn(&Swarm) -> bool) -> Result<(), Violation> {
        while let Some((at, event)) = self.events.pop(end) {
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
        self.events.push(at, event);
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

    /// Whether this message is one of those that go through their encoding.
    fn encodes(&mut self) -> bool {
        self.encoded += 1;
        self.encoded.is_multiple_of(self.config.encode_every.max(1))
    }

    fn call_of(&mut self, from: usize, call: CallId) -> Option<&mut Call> {
        self.members.get_mut(from)?.calls.get_mut(&call)
    }

    /// Whether a call of one node to another is under way.
    fn calls(&self, from: usize, to: usize) -> impl Iterator<Item = CallId> {
        let calls = self.members.get(from).into_iter().flat_map(|member| &member.calls);
        calls.filter(move |(_, call)| call.to == to).map(|(call, _)| *call)
    }

    fn delay(&mut self, from: usize, to: usize) -> Duration {
        match (self.members.get(from), self.members.get(to)) {
            (Some(from), Some(to)) => self.network.delay(&mut self.random, &from.line, &to.line),
            _ => Duration::ZERO,
        }
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
}
