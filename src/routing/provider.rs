//! Provider records kept for others: which peers announced which chunks. Who announces is authenticated by its link; how much anyone can make
//! us remember is bounded, and who comes first or most often has no more of it than others: of one chunk a sample of all announcers is kept that
//! nobody can choose, no network has more than its share of it, and where all room is taken who has most of it gives way.

use crate::base::digest::ChunkId;
use crate::base::limit::{PROVIDERS_MAX, PROVIDERS_PER_CHUNK_MAX};
use crate::base::network::{Network, network};
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

/// Bounds of the records.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// Records in all.
    pub records_max: usize,
    /// Records of one chunk.
    pub per_chunk_max: usize,
    /// Records of one announcing peer.
    pub per_peer_max: usize,
    /// Longest life of a record.
    pub ttl_max: Duration,
    /// How often each record is looked at for having expired.
    pub sweep_period: Duration,
}

impl Default for ProviderConfig {
    fn default() -> ProviderConfig {
        ProviderConfig {
            records_max: PROVIDERS_MAX,
            per_chunk_max: PROVIDERS_PER_CHUNK_MAX,
            per_peer_max: PROVIDERS_MAX / 5,
            ttl_max: Duration::from_secs(u64::from(crate::wire::message::TTL_SECONDS_MAX)),
            sweep_period: Duration::from_secs(600),
        }
    }
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is kept until it expires.
    Yes,
    /// Enough providers of this chunk are known already: no need to try again soon.
    Enough,
    /// No space for more of this peer, or of anybody that has as much.
    Full,
}

/// Who announced what. A record costs 40 bytes and its share of a tree: peers are counted once and numbered.
#[derive(Debug)]
pub struct Providers {
    config: ProviderConfig,
    /// (chunk, peer's number) -> second of expiry.
    records: BTreeMap<(ChunkId, u32), u32>,
    peers: BTreeMap<PeerId, Announcer>,
    by_number: BTreeMap<u32, PeerId>,
    number_next: u32,
    /// The record looked at last; `None` at the start of a round.
    swept: Option<(ChunkId, u32)>,
    sweep_at: Instant,
    /// Decides which announcers of a chunk are kept; nobody else knows it.
    secret: [u8; blake3::KEY_LEN],
    /// Where room was looked for last.
    yielded: Option<(ChunkId, u32)>,
}

#[derive(Debug)]
struct Announcer {
    number: u32,
    contact: Contact,
    records: usize,
}

const SWEEP_STEPS: u64 = 60;
/// Records of which the one gives way whose announcer has most.
const YIELD_AMONG: usize = 64;

impl Providers {
    /// No records yet.
    pub fn new(config: ProviderConfig, secret: u64) -> Providers {
        Providers {
            config,
            records: BTreeMap::new(),
            peers: BTreeMap::new(),
            by_number: BTreeMap::new(),
            number_next: 0,
            swept: None,
            sweep_at: Instant::default(),
            secret: blake3::derive_key("tornet v1 which announcers are kept", &secret.to_le_bytes()),
            yielded: None,
        }
    }

    /// `from` says that it holds `chunk`. `near` is called when space is short: then only chunks of our own neighbourhood are kept.
    pub fn announced(
        &mut self,
        now: Instant,
        from: &Contact,
        chunk: ChunkId,
        ttl: Duration,
        near: impl FnOnce() -> bool,
    ) -> Kept {
        let expires = seconds(now.after(ttl.min(self.config.ttl_max)));
        if let Some(peer) = self.peers.get_mut(&from.peer) {
            peer.contact = from.clone();
            if let Some(record) = self.records.get_mut(&(chunk, peer.number)) {
                *record = expires;
                return Kept::Yes;
            }
            if peer.records >= self.config.per_peer_max {
                return Kept::Full;
            }
        }
        if self.records.len() >= self.config.records_max / 2 && !near() {
            return Kept::Full;
        }
        let of_chunk: Vec<(u32, u32)> = self.of_chunk(&chunk).collect();
        if of_chunk.len() >= self.config.per_chunk_max {
            let expired = of_chunk.iter().find(|(_, at)| *at <= seconds(now)).map(|(number, _)| *number);
            let Some(number) = expired.or_else(|| self.least(&chunk, from, &of_chunk)) else { return Kept::Enough };
            self.remove(chunk, number);
        } else if self.records.len() >= self.config.records_max && !self.make_room(&from.peer) {
            return Kept::Full;
        }
        let number = match self.peers.get_mut(&from.peer) {
            Some(peer) => {
                peer.records += 1;
                peer.number
            }
            None => {
                let number = self.number_next;
                self.number_next = self.number_next.wrapping_add(1);
                if self.by_number.contains_key(&number) {
                    return Kept::Full;
                }
                self.by_number.insert(number, from.peer);
                self.peers.insert(from.peer, Announcer { number, contact: from.clone(), records: 1 });
                number
            }
        };
        self.records.insert((chunk, number), expires);
        Kept::Yes
    }

    /// The peers that announced a chunk and may still have it.
    pub fn of(&self, now: Instant, chunk: &ChunkId) -> Vec<Contact> {
        let alive = self.of_chunk(chunk).filter(|(_, expires)| *expires > seconds(now));
        let peers = alive.filter_map(|(number, _)| self.by_number.get(&number));
        peers.filter_map(|peer| self.peers.get(peer)).map(|peer| peer.contact.clone()).collect()
    }

    /// A peer has other addresses now.
    pub fn moved(&mut self, contact: &Contact) {
        if let Some(peer) = self.peers.get_mut(&contact.peer) {
            peer.contact = contact.clone();
        }
    }

    /// A peer does not hold the chunk (it said so when asked).
    pub fn denied(&mut self, peer: &PeerId, chunk: ChunkId) {
        if let Some(number) = self.peers.get(peer).map(|peer| peer.number) {
            self.remove(chunk, number);
        }
    }

    /// Forgets everything that a peer announced.
    pub fn forget(&mut self, peer: &PeerId) {
        if let Some(number) = self.peers.get(peer).map(|peer| peer.number) {
            let gone: Vec<ChunkId> = self.records.keys().filter(|key| key.1 == number).map(|key| key.0).collect();
            for chunk in gone {
                self.remove(chunk, number);
            }
        }
    }

    /// A number that nobody else can foresee: whose turn it is where not all can have one.
    pub fn lot(&self, of: &[u8; 32], peer: &PeerId) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(of).update(&peer.0);
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        u64::from_le_bytes(number)
    }

    /// How many records are kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes out expired records: a sixtieth of all at a time.
    pub fn tick(&mut self, now: Instant) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now.after(self.config.sweep_period / SWEEP_STEPS as u32);
        let step = self.records.len() / SWEEP_STEPS as usize + 64;
        let mut last = None;
        let mut gone = Vec::new();
        for (key, expires) in self.records.range((self.swept.map_or(Unbounded, Excluded), Unbounded)).take(step) {
            last = Some(*key);
            if *expires <= seconds(now) {
                gone.push(*key);
            }
        }
        self.swept = last;
        for (chunk, number) in gone {
            self.remove(chunk, number);
        }
    }

    /// When `tick` has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.records.is_empty()).then_some(self.sweep_at)
    }

    /// Which announcer of a chunk gives way to one more: the one that a secret order puts last, where networks take turns. None: the newcomer
    /// itself. So who comes first has no advantage, and who comes with many names in few networks has but the share of these networks.
    fn least(&self, chunk: &ChunkId, from: &Contact, of_chunk: &[(u32, u32)]) -> Option<u32> {
        let rank = |peer: &PeerId| self.lot(&chunk.0, peer);
        let net = |contact: &Contact| contact.addrs.first().and_then(network);
        let known = of_chunk.iter().filter_map(|(number, _)| Some((*number, self.by_number.get(number)?)));
        let mut all: Vec<(u64, Option<u32>, Option<Network>)> = known
            .map(|(number, peer)| (rank(peer), Some(number), self.peers.get(peer).and_then(|peer| net(&peer.contact))))
            .collect();
        all.push((rank(&from.peer), None, net(from)));
        all.sort_unstable();
        let mut turns: BTreeMap<Network, usize> = BTreeMap::new();
        let turn = all.into_iter().map(|(rank, number, net)| {
            // Peers of the own network are not counted against each other.
            let turn = net.map_or(0, |net| {
                let turn = turns.entry(net).or_default();
                *turn += 1;
                *turn - 1
            });
            (turn, rank, number)
        });
        turn.max().and_then(|(_, _, number)| number)
    }

    /// Where all room is taken: of the next records in turn one gives way whose announcer has most, if that is more than `peer` will have.
    fn make_room(&mut self, peer: &PeerId) -> bool {
        let mine = self.peers.get(peer).map_or(0, |peer| peer.records);
        let from = self.yielded.map_or(Unbounded, Excluded);
        let mut last = None;
        let mut most: Option<(usize, (ChunkId, u32))> = None;
        let round = self.records.range((from, Unbounded)).chain(&self.records);
        for key in round.take(YIELD_AMONG).map(|(key, _)| *key) {
            last = Some(key);
            let records =
                self.by_number.get(&key.1).and_then(|peer| self.peers.get(peer)).map_or(0, |peer| peer.records);
            if most.is_none_or(|(other, _)| records > other) {
                most = Some((records, key));
            }
        }
        self.yielded = last;
        let Some((_, (chunk, number))) = most.filter(|(records, _)| *records > mine + 1) else { return false };
        self.remove(chunk, number);
        true
    }

    fn of_chunk(&self, chunk: &ChunkId) -> impl Iterator<Item = (u32, u32)> {
        self.records.range((*chunk, 0)..=(*chunk, u32::MAX)).map(|((_, number), expires)| (*number, *expires))
    }

    fn remove(&mut self, chunk: ChunkId, number: u32) {
        if self.records.remove(&(chunk, number)).is_none() {
            return;
        }
        let Some(id) = self.by_number.get(&number).copied() else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.records -= 1;
            if peer.records == 0 {
                self.peers.remove(&id);
                self.by_number.remove(&number);
            }
        }
    }
}

/// Whole seconds since the node started; 136 years fit.
fn seconds(at: Instant) -> u32 {
    (at.0 / 1_000_000).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(number: u32) -> Contact {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        Contact { peer: PeerId(id), addrs: vec![] }
    }

    fn chunk(number: u32) -> ChunkId {
        ChunkId(contact(number).peer.0)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn records_expire_and_are_swept() {
        let mut providers = Providers::new(ProviderConfig::default(), 7);
        let start = Instant(5_000_000);
        for number in 0..500 {
            assert_eq!(providers.announced(start, &contact(number % 5), chunk(number), HOUR, || true), Kept::Yes);
        }
        assert_eq!(providers.of(start, &chunk(7)), [contact(2)]);
        let later = start.after(HOUR);
        assert_eq!(providers.of(later, &chunk(7)), []);
        let mut now = later;
        for _ in 0..60 {
            providers.tick(now);
            now = now.after(Duration::from_secs(10));
        }
        assert!(providers.is_empty() && providers.peers.is_empty() && providers.by_number.is_empty());
    }

    #[test]
    fn an_announcement_lives_no_longer_than_allowed_and_a_new_one_prolongs_it() {
        let mut providers = Providers::new(ProviderConfig::default(), 7);
        providers.announced(Instant(0), &contact(1), chunk(1), HOUR * 1000, || true);
        assert!(providers.of(Instant(0).after(HOUR * 37), &chunk(1)).is_empty());
        providers.announced(Instant(0).after(HOUR * 30), &contact(1), chunk(1), HOUR * 24, || true);
        assert_eq!(providers.of(Instant(0).after(HOUR * 37), &chunk(1)).len(), 1);
        assert_eq!(providers.len(), 1);
    }

    #[test]
    fn nobody_can_fill_the_records() {
        let config = ProviderConfig { records_max: 1000, per_peer_max: 100, ..ProviderConfig::default() };
        let mut providers = Providers::new(config, 7);
        let kept = (0..500)
            .filter(|n| providers.announced(Instant(0), &contact(1), chunk(*n), HOUR, || true) == Kept::Yes)
            .count();
        assert_eq!(kept, 100, "one peer");
        for number in 0..100 {
            providers.announced(Instant(0), &contact(2 + number), chunk(9), HOUR, || true);
        }
        assert_eq!(providers.of(Instant(0), &chunk(9)).len(), PROVIDERS_PER_CHUNK_MAX, "one chunk");
        let mut far = 0;
        for peer in 200..300 {
            far += (1000..1100)
                .filter(|n| {
                    providers.announced(Instant(0), &contact(peer), chunk(peer * n), HOUR, || false) == Kept::Yes
                })
                .count();
        }
        assert!(providers.len() <= 500, "half is for everybody: {} {far}", providers.len());
        for peer in 300..400 {
            for n in 1000..1100 {
                providers.announced(Instant(0), &contact(peer), chunk(peer * n), HOUR, || true);
            }
        }
        assert_eq!(providers.len(), 1000, "all of it for our neighbourhood");
    }

    #[test]
    fn of_many_announcers_a_sample_is_kept_whoever_came_first() {
        let mut found = 0;
        for secret in 0..200 {
            let mut providers = Providers::new(ProviderConfig::default(), secret);
            for number in 0..72 {
                assert_eq!(
                    providers.announced(Instant(0), &contact(number), chunk(1), HOUR, || true) == Kept::Yes,
                    providers.of(Instant(0), &chunk(1)).contains(&contact(number))
                );
            }
            assert_eq!(providers.len(), PROVIDERS_PER_CHUNK_MAX);
            found += usize::from(providers.of(Instant(0), &chunk(1)).contains(&contact(71)));
        }
        // A third of all is kept, and of the last as well.
        assert!((45..=90).contains(&found), "{found} of 200");
    }

    #[test]
    fn many_names_in_one_network_leave_room_for_others() {
        let at = |number: u32, ip: [u8; 4]| Contact { addrs: vec![(ip, 4000).into()], ..contact(number) };
        for secret in 0..20 {
            let mut providers = Providers::new(ProviderConfig::default(), secret);
            for number in 0..500 {
                providers.announced(Instant(0), &at(number, [60, 1, 1, number as u8]), chunk(1), HOUR, || true);
            }
            for number in 500..510 {
                let other = at(number, [61, number as u8, 1, 1]);
                assert_eq!(providers.announced(Instant(0), &other, chunk(1), HOUR, || true), Kept::Yes);
            }
            let kept = providers.of(Instant(0), &chunk(1));
            assert_eq!(kept.iter().filter(|contact| contact.addrs[0].ip().to_string().starts_with("61.")).count(), 10);
        }
    }

    #[test]
    fn expired_records_give_way_first() {
        let mut providers = Providers::new(ProviderConfig::default(), 7);
        for number in 0..PROVIDERS_PER_CHUNK_MAX as u32 {
            assert_eq!(providers.announced(Instant(0), &contact(number), chunk(1), HOUR, || true), Kept::Yes);
        }
        let later = Instant(0).after(HOUR);
        for number in 50..50 + PROVIDERS_PER_CHUNK_MAX as u32 {
            assert_eq!(providers.announced(later, &contact(number), chunk(1), HOUR, || true), Kept::Yes);
        }
        assert_eq!(providers.of(later, &chunk(1)).len(), PROVIDERS_PER_CHUNK_MAX);
    }

    #[test]
    fn who_has_most_gives_way_where_all_room_is_taken() {
        let config = ProviderConfig { records_max: 1000, per_peer_max: 200, ..ProviderConfig::default() };
        let mut providers = Providers::new(config, 7);
        for number in 0..1000 {
            let from = contact(number % 5);
            assert_eq!(providers.announced(Instant(0), &from, chunk(number), HOUR, || true), Kept::Yes);
        }
        for number in 0..100 {
            let kept = providers.announced(Instant(0), &contact(99), chunk(5000 + number), HOUR, || true);
            assert_eq!(kept, Kept::Yes);
            assert_eq!(providers.of(Instant(0), &chunk(5000 + number)), [contact(99)]);
        }
        assert_eq!(providers.len(), 1000);
        // They have 180 each now: nobody gets beyond that by their cost.
        let more = (0..200).filter(|number| {
            providers.announced(Instant(0), &contact(99), chunk(6000 + number), HOUR, || true) == Kept::Yes
        });
        let more = more.count();
        assert!((50..=80).contains(&more), "{more}");
        assert_eq!(providers.announced(Instant(0), &contact(1), chunk(9999), HOUR, || true), Kept::Full);
    }

    #[test]
    fn a_peer_can_be_forgotten() {
        let mut providers = Providers::new(ProviderConfig::default(), 7);
        for number in 0..10 {
            providers.announced(Instant(0), &contact(number % 2), chunk(number), HOUR, || true);
        }
        providers.denied(&contact(1).peer, chunk(1));
        assert!(providers.of(Instant(0), &chunk(1)).is_empty());
        providers.forget(&contact(0).peer);
        assert_eq!(providers.len(), 4);
        assert_eq!(providers.peers.len(), 1);
    }
}
