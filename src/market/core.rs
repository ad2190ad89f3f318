//! What is bought and dropped: expected revenue against what it costs to acquire a chunk and what the worst chunk held earns.

use super::inventory::{self, Inventory};
use super::popularity::Popularity;
use super::reach::{Radius, Reach};
use crate::base::digest::ChunkId;
use crate::base::keyspace::Key;
use crate::base::limit::CHUNK_BYTES_MAX;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use crate::wire::message::{Demand, Price};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Within which limits a node buys. Either at 0: it buys nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarketConfig {
    /// Bytes bought in any 24 hours.
    pub day_bytes_max: u64,
    /// Bytes of disk for what was bought.
    pub disk_bytes_max: u64,
    /// Bytes a second that are taken to be on offer while the upload has no limit.
    pub offer_unlimited: u64,
}

impl Default for MarketConfig {
    fn default() -> MarketConfig {
        MarketConfig { day_bytes_max: 256 << 20, disk_bytes_max: 1 << 30, offer_unlimited: 125_000 }
    }
}

/// What this node offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offer {
    /// Bytes a second, if that is limited.
    pub rate: Option<u64>,
    /// What it charges.
    pub price: Price,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarketAction {
    /// Say who holds this chunk and for how much (`Market::weigh`).
    Weigh(ChunkId),
    /// Give this chunk up, if nothing else keeps it here.
    Drop(ChunkId),
}

/// Counts of the moment and since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MarketStats {
    /// Part of the key space whose chunks are taken up, in parts of a thousand million.
    pub radius_parts: u64,
    /// Whole reads an hour that a chunk must be expected to have before it is bought, in thousandths.
    pub floor_milli: u64,
    /// Bytes a second on offer.
    pub offer: u64,
    /// Bytes a second that are asked for: a mean over ten minutes.
    pub load: u64,
    /// Chunks that were bought and are here.
    pub chunks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks bought since the start.
    pub bought: u64,
    /// Their bytes.
    pub bought_bytes: u64,
    /// Of them, those that were dropped for better ones.
    pub dropped: u64,
    /// Bytes of bought chunks that were sent.
    pub sent_bytes: u64,
    /// Bytes that may be bought now.
    pub left_bytes: u64,
    /// Chunks whose requests are counted.
    pub counted: usize,
}

/// A new chunk must be expected to bring this many times what it costs, and so many times what it displaces brings.
const MARGIN: f64 = 2.0;
const CLEARLY: f64 = 1.5;
/// What it is worth to have carried a GiB, and costs, where nothing is charged: a satoshi.
const WORTH_GIB: f64 = 1000.0;
/// Other holders take a part of the demand: each this much of what we would get. Most are there to read and to leave.
const RIVAL: f64 = 0.25;
/// The nearest node takes a chunk up first: the farthest within its radius waits so long, and looks again.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Chunks that are weighed soon, and those that are being fetched.
const CANDIDATES_MAX: usize = 1024;
const RUNNING_MAX: usize = 4;
/// What was not worth it, or could not be had, is not weighed again for so long.
const REST: Duration = Duration::from_secs(15);
const REST_FAILED: Duration = Duration::from_secs(120);
const RESTING_MAX: usize = 4096;
const DAY_US: u128 = 86_400_000_000;
const CHUNK: u64 = CHUNK_BYTES_MAX as u64;

/// Decides which chunks to hold for others.
#[derive(Debug)]
pub struct Market {
    config: MarketConfig,
    me: Key,
    offer: Offer,
    popularity: Popularity,
    reach: Reach,
    inventory: Inventory,
    candidates: BTreeSet<(Instant, ChunkId)>,
    queued: BTreeSet<ChunkId>,
    resting: BTreeMap<ChunkId, Instant>,
    /// What is being fetched, and how often it is expected to be read.
    running: BTreeMap<ChunkId, f64>,
    dropped: Vec<ChunkId>,
    /// Bytes that may be bought: half of a day's at most, and the other half comes in a day.
    tokens: u64,
    tokens_at: Instant,
    stats: MarketStats,
}

impl Market {
    /// Nothing bought yet. `me` is our place in the key space.
    pub fn new(config: MarketConfig, offer: Offer, me: Key, seed: u64) -> Market {
        Market {
            me,
            offer,
            popularity: Popularity::new(seed),
            reach: Reach::new(),
            inventory: Inventory::default(),
            candidates: BTreeSet::new(),
            queued: BTreeSet::new(),
            resting: BTreeMap::new(),
            running: BTreeMap::new(),
            dropped: Vec::new(),
            // A node that is started again and again does not buy a day's worth each time.
            tokens: config.day_bytes_max / 8,
            tokens_at: Instant::default(),
            stats: MarketStats::default(),
            config,
        }
    }

    /// Other terms from now on.
    pub fn set_offer(&mut self, offer: Offer) {
        self.offer = offer;
    }

    /// What is on offer.
    pub fn offer(&self) -> Offer {
        self.offer
    }

    fn buys(&self) -> bool {
        self.config.day_bytes_max >= CHUNK && self.config.disk_bytes_max >= CHUNK
    }

    fn rate(&self) -> u64 {
        self.offer.rate.unwrap_or(self.config.offer_unlimited)
    }

    /// Whether `look` is due.
    pub fn wants_look(&self, now: Instant) -> bool {
        self.buys() && self.reach.wants_look(now)
    }

    /// How far the closest contacts are.
    pub fn look(&mut self, now: Instant, neighbourhood: Radius) {
        self.reach.look(now, neighbourhood);
    }

    /// A peer asked for something of a chunk that is here.
    pub fn asked(&mut self, now: Instant, chunk: &ChunkId, by: &PeerId) -> Demand {
        self.popularity.count(now, chunk, by, false)
    }

    /// It is sent so many bytes of it.
    pub fn sent(&mut self, now: Instant, chunk: &ChunkId, bytes: u64) {
        self.reach.asked(bytes);
        if self.inventory.served(now, chunk, bytes) {
            self.stats.sent_bytes += bytes;
        }
    }

    /// A peer asked for a chunk, or who has it, and it is not here.
    pub fn missed(&mut self, now: Instant, chunk: &ChunkId, by: &PeerId) -> Demand {
        let demand = self.popularity.count(now, chunk, by, true);
        if f64::from(demand.missed) >= MARGIN && self.buys() {
            self.consider(now, chunk);
        }
        demand
    }

    fn consider(&mut self, now: Instant, chunk: &ChunkId) {
        let (radius, far) = (self.reach.radius(), self.distance(chunk));
        if far > radius
            || self.candidates.len() >= CANDIDATES_MAX
            || self.inventory.contains(chunk)
            || self.running.contains_key(chunk)
            || self.resting.get(chunk).is_some_and(|until| *until > now)
            || !self.queued.insert(*chunk)
        {
            return;
        }
        let wait = WAIT_MAX.as_micros() * u128::from(far.0) / u128::from(radius.0.max(1));
        self.candidates.insert((now.after(Duration::from_micros(wait as u64)), *chunk));
    }

    fn distance(&self, chunk: &ChunkId) -> Radius {
        Radius::between(&self.me, &Key::from(*chunk))
    }

    /// How often a chunk is asked for here.
    pub fn demand(&self, now: Instant, chunk: &ChunkId) -> Demand {
        self.popularity.demand(now, chunk)
    }

    /// Whether others should be asked for this chunk: it was bought when the radius was wider, and stays here in case that it widens again.
    /// Never where the upload has no limit: what is on offer is then only a guess.
    pub fn sheds(&self, chunk: &ChunkId) -> bool {
        self.offer.rate.is_some() && self.inventory.contains(chunk) && self.distance(chunk) > self.reach.radius()
    }

    /// What is to be done next.
    pub fn poll(&mut self, now: Instant) -> Option<MarketAction> {
        if let Some(chunk) = self.dropped.pop() {
            return Some(MarketAction::Drop(chunk));
        }
        let rate = self.rate();
        self.reach.tick(now, rate);
        if self.running.len() >= RUNNING_MAX {
            return None;
        }
        let (at, chunk) = self.candidates.first().copied().filter(|(at, _)| *at <= now)?;
        self.candidates.remove(&(at, chunk));
        self.queued.remove(&chunk);
        Some(MarketAction::Weigh(chunk))
    }

    /// When to poll without an event.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.buys() {
            return None;
        }
        let next = self.candidates.first().map(|(at, _)| *at).filter(|_| self.running.len() < RUNNING_MAX);
        [next, self.reach.poll_timeout()].into_iter().flatten().min()
    }

    /// Whether to buy a chunk that so many others are known to hold, the cheapest of whom charges `price`. If so it counts as being fetched
    /// until `ended`.
    pub fn weigh(&mut self, now: Instant, chunk: ChunkId, holders: usize, price: Price) -> bool {
        self.fill(now);
        let expected = self.popularity.missed(now, &chunk) / (1.0 + RIVAL * holders as f64);
        let fits = holders > 0
            && !self.inventory.contains(&chunk)
            && self.distance(&chunk) <= self.reach.radius()
            && self.reach.has_room(self.rate())
            && self.tokens >= CHUNK * (1 + self.running.len() as u64);
        if !fits || expected < self.need(price) || !self.make_room(now, expected) {
            self.rest(now, chunk, REST);
            return false;
        }
        self.running.insert(chunk, expected);
        true
    }

    /// A purchase ended: the chunk is here, so many bytes, or it could not be had.
    pub fn ended(&mut self, now: Instant, chunk: ChunkId, bytes: Option<u64>) {
        let Some(expected) = self.running.remove(&chunk) else { return };
        let Some(bytes) = bytes.and_then(|bytes| u32::try_from(bytes).ok()) else {
            return self.rest(now, chunk, REST_FAILED);
        };
        self.tokens = self.tokens.saturating_sub(u64::from(bytes));
        self.inventory.insert(now, chunk, bytes, expected);
        self.stats.bought += 1;
        self.stats.bought_bytes += u64::from(bytes);
    }

    /// These chunks are here for another reason from now on, or not here any more.
    pub fn forget(&mut self, chunks: &[ChunkId]) {
        for chunk in chunks {
            self.inventory.remove(chunk);
        }
    }

    /// Whether a chunk was bought and is here for no other reason.
    pub fn bought(&self, chunk: &ChunkId) -> bool {
        self.inventory.contains(chunk)
    }

    /// Reads an hour below which a chunk at this price is not worth what it costs: bytes that have to be fetched and paid for, against bytes
    /// that will be sent.
    fn need(&self, price: Price) -> f64 {
        let gib = |price: Price| WORTH_GIB + price.per_gib.0 as f64;
        MARGIN * (gib(price) / gib(self.offer.price)).max(1.0)
    }

    fn has_room(&self) -> bool {
        let promised = CHUNK * (1 + self.running.len() as u64);
        self.inventory.bytes() + promised <= self.config.disk_bytes_max && self.inventory.len() < inventory::CHUNKS_MAX
    }

    /// Drops what earns clearly less, until there is room. False: there is not enough of that.
    fn make_room(&mut self, now: Instant, expected: f64) -> bool {
        while !self.has_room() {
            let Some((worst, reads)) = self.inventory.worst(now).filter(|(_, reads)| reads * CLEARLY < expected) else {
                return false;
            };
            debug_assert!(reads < expected);
            self.inventory.remove(&worst);
            self.dropped.push(worst);
            self.stats.dropped += 1;
        }
        true
    }

    fn rest(&mut self, now: Instant, chunk: ChunkId, pause: Duration) {
        if self.resting.len() >= RESTING_MAX {
            self.resting.retain(|_, until| *until > now);
        }
        if self.resting.len() < RESTING_MAX {
            self.resting.insert(chunk, now.after(pause));
        }
    }

    fn fill(&mut self, now: Instant) {
        let half = self.config.day_bytes_max / 2;
        let passed = now.since(self.tokens_at).as_micros();
        let grown = u64::try_from(u128::from(half) * passed / DAY_US).unwrap_or(u64::MAX);
        if grown > 0 {
            self.tokens = self.tokens.saturating_add(grown).min(half);
            self.tokens_at = now;
        }
    }

    /// Counts of the moment.
    pub fn stats(&self, now: Instant) -> MarketStats {
        let mut floor = self.need(self.offer.price);
        if !self.has_room() {
            floor = self.inventory.worst(now).map_or(floor, |(_, reads)| floor.max(reads * CLEARLY));
        }
        MarketStats {
            radius_parts: self.reach.radius().parts(),
            floor_milli: (floor * 1000.0) as u64,
            offer: self.rate(),
            load: self.reach.load(),
            chunks: self.inventory.len(),
            bytes: self.inventory.bytes(),
            left_bytes: self.tokens,
            counted: self.popularity.len(),
            ..self.stats
        }
    }
}
