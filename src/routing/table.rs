//! The table of contacts: buckets by shared prefix with our own key. Only verified contacts (a completed hello) enter, long-lived ones
//! stay, and no network may fill a bucket.

use crate::base::keyspace::{Distance, Key};
use crate::base::limit::CONTACTS_MAX;
use crate::base::network::{Network, network};
use crate::base::peer::{Contact, PeerId};
use crate::base::random::Random;
use crate::base::time::Instant;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Bounds of a table.
#[derive(Debug, Clone)]
pub struct TableConfig {
    /// Contacts in a bucket (Kademlia's k).
    pub bucket_max: usize,
    /// Contacts of one network in a bucket.
    pub bucket_network_max: usize,
    /// Contacts of one network in the table.
    pub table_network_max: usize,
    /// Failures in a row after which a contact leaves.
    pub failures_max: u8,
    /// A bucket in which nothing was looked up for so long is refreshed.
    pub refresh_after: Duration,
}

impl Default for TableConfig {
    fn default() -> TableConfig {
        TableConfig {
            bucket_max: CONTACTS_MAX,
            bucket_network_max: 2,
            table_network_max: 10,
            failures_max: 3,
            refresh_after: Duration::from_secs(3600),
        }
    }
}

/// The contacts that a node knows well.
#[derive(Debug)]
pub struct Table {
    config: TableConfig,
    me: Key,
    buckets: BTreeMap<u32, Bucket>,
    networks: BTreeMap<Network, usize>,
}

#[derive(Debug, Default)]
struct Bucket {
    entries: Vec<Entry>,
    /// Verified contacts that found no room, the latest last.
    spare: Vec<Entry>,
    looked_up: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Entry {
    contact: Contact,
    key: Key,
    network: Option<Network>,
    since: Instant,
    seen: Instant,
    failures: u8,
}

impl Table {
    /// An empty table around our own key.
    pub fn new(config: TableConfig, me: Key) -> Table {
        Table { config, me, buckets: BTreeMap::new(), networks: BTreeMap::new() }
    }

    /// Our own key.
    pub fn me(&self) -> Key {
        self.me
    }

    /// A contact proved that it is at `at`. Returns whether it newly entered the table.
    pub fn verified(&mut self, now: Instant, contact: Contact, at: &SocketAddr) -> bool {
        let key = Key::from(contact.peer);
        let Some(index) = self.bucket_of(&key) else { return false };
        let net = network(at);
        if let Some(entry) = self.entry_mut(index, &contact.peer) {
            entry.contact = contact;
            entry.seen = now;
            entry.failures = 0;
            return false;
        }
        let fresh = Entry { contact, key, network: net, since: now, seen: now, failures: 0 };
        let crowded = net.is_some_and(|net| {
            self.networks.get(&net).is_some_and(|count| *count >= self.config.table_network_max)
                || self.count_in_bucket(index, net) >= self.config.bucket_network_max
        });
        let bucket = self.buckets.entry(index).or_default();
        bucket.spare.retain(|spare| spare.contact.peer != fresh.contact.peer);
        let full = bucket.entries.len() >= self.config.bucket_max;
        if !crowded && full {
            // Only one that has failed lately makes room: contacts that have long been there will most likely stay (Kademlia 4.1).
            let worst = bucket.entries.iter().enumerate().filter(|(_, entry)| entry.failures > 0);
            let worst = worst.max_by_key(|(_, entry)| entry.failures).map(|(place, _)| place);
            if let Some(place) = worst {
                let old = bucket.entries.remove(place);
                release(&mut self.networks, old.network);
                bucket.entries.push(fresh);
                take(&mut self.networks, net);
                return true;
            }
        }
        if crowded || full {
            bucket.spare.push(fresh);
            if bucket.spare.len() > self.config.bucket_max {
                bucket.spare.remove(0);
            }
            return false;
        }
        bucket.entries.push(fresh);
        take(&mut self.networks, net);
        true
    }

    /// Something was heard of a contact on its open link.
    pub fn seen(&mut self, now: Instant, peer: &PeerId) {
        if let Some(index) = self.bucket_of(&Key::from(*peer))
            && let Some(entry) = self.entry_mut(index, peer)
        {
            entry.seen = now;
            entry.failures = 0;
        }
    }

    /// A contact did not answer. After `failures_max` times in a row it leaves. Returns whether it left.
    pub fn failed(&mut self, peer: &PeerId) -> bool {
        let max = self.config.failures_max;
        let Some(index) = self.bucket_of(&Key::from(*peer)) else { return false };
        let Some(entry) = self.entry_mut(index, peer) else { return false };
        entry.failures = entry.failures.saturating_add(1);
        entry.failures >= max && self.remove(peer)
    }

    /// A contact did not answer in time, though it is there: others are asked and told of before it until it answers, and it stays.
    pub fn slow(&mut self, peer: &PeerId) {
        if let Some(index) = self.bucket_of(&Key::from(*peer))
            && let Some(entry) = self.entry_mut(index, peer)
        {
            entry.failures = entry.failures.max(1);
        }
    }

    /// Takes a contact out; a spare one moves up. Returns whether it was there.
    pub fn remove(&mut self, peer: &PeerId) -> bool {
        let Some(index) = self.bucket_of(&Key::from(*peer)) else { return false };
        let Some(bucket) = self.buckets.get_mut(&index) else { return false };
        bucket.spare.retain(|spare| spare.contact.peer != *peer);
        let Some(place) = bucket.entries.iter().position(|entry| entry.contact.peer == *peer) else { return false };
        let old = bucket.entries.remove(place);
        release(&mut self.networks, old.network);
        let spares = bucket.spare.len();
        for place in (0..spares).rev() {
            let net = self.buckets.get(&index).and_then(|b| b.spare.get(place)).and_then(|spare| spare.network);
            let crowded = net.is_some_and(|net| {
                self.networks.get(&net).is_some_and(|count| *count >= self.config.table_network_max)
                    || self.count_in_bucket(index, net) >= self.config.bucket_network_max
            });
            if !crowded && let Some(bucket) = self.buckets.get_mut(&index) {
                let spare = bucket.spare.remove(place);
                take(&mut self.networks, spare.network);
                bucket.entries.push(spare);
                break;
            }
        }
        true
    }

    /// The `count` contacts closest to `key`; those that failed lately only when there are too few others.
    pub fn closest(&self, key: &Key, count: usize) -> Vec<Contact> {
        self.closest_entries(key, count, true).into_iter().map(|entry| entry.contact.clone()).collect()
    }

    /// The contacts closest to `key` that are closer to it than we are and did not fail lately: what others are told.
    pub fn closer(&self, key: &Key, count: usize) -> Vec<Contact> {
        let mine = self.me.distance(key);
        let found = self.closest_entries(key, count, false).into_iter();
        found.filter(|entry| entry.key.distance(key) < mine).map(|entry| entry.contact.clone()).collect()
    }

    /// The contacts closest to `key` that did not fail lately, whether closer than we or not.
    pub fn closest_healthy(&self, key: &Key, count: usize) -> Vec<Contact> {
        self.closest_entries(key, count, false).into_iter().map(|entry| entry.contact.clone()).collect()
    }

    /// How many contacts, up to `enough`, lie closer to `key` than we do.
    pub fn closer_count(&self, key: &Key, enough: usize) -> usize {
        let mine = self.me.distance(key);
        self.entries().filter(|entry| entry.key.distance(key) < mine).take(enough).count()
    }

    fn closest_entries(&self, key: &Key, count: usize, failed_too: bool) -> Vec<&Entry> {
        let mut found = self.closest_where(key, count, |entry| entry.failures == 0);
        if failed_too && found.len() < count {
            found.extend(self.closest_where(key, count - found.len(), |entry| entry.failures > 0));
            found.sort_unstable_by_key(|(distance, _)| *distance);
        }
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    /// The `count` closest to `key` of those that are `good`, the closest first.
    fn closest_where<'a>(
        &'a self,
        key: &Key,
        count: usize,
        good: impl Fn(&Entry) -> bool,
    ) -> Vec<(Distance, &'a Entry)> {
        // First those that leave our key where `key` does, then all that go with us further, then one bucket after the other on the way
        // back: each group lies wholly nearer than the next.
        let split = self.me.distance(key).leading_zeros();
        let mut found = Vec::new();
        let mut gather = |buckets: &mut dyn Iterator<Item = (&u32, &'a Bucket)>| {
            let start = found.len();
            let entries = buckets.flat_map(|(_, bucket)| &bucket.entries).filter(|entry| good(entry));
            found.extend(entries.map(|entry| (entry.key.distance(key), entry)));
            if let Some(group) = found.get_mut(start..) {
                group.sort_unstable_by_key(|(distance, _)| *distance);
            }
            found.truncate(count);
            found.len() >= count
        };
        let mut done = gather(&mut self.buckets.range(split..=split));
        done = done || gather(&mut self.buckets.range(split.saturating_add(1)..));
        let mut before = self.buckets.range(..split).rev();
        while !done && let Some(bucket) = before.next() {
            done = gather(&mut std::iter::once(bucket));
        }
        found
    }

    /// Whether the table most likely holds the whole swarm: even the farthest bucket has room.
    pub fn everyone_known(&self) -> bool {
        self.buckets.values().all(|bucket| bucket.entries.len() < self.config.bucket_max && bucket.spare.is_empty())
    }

    /// How many contacts it holds.
    pub fn len(&self) -> usize {
        self.buckets.values().map(|bucket| bucket.entries.len()).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this peer stands in it.
    pub fn contains(&self, peer: &PeerId) -> bool {
        let index = self.bucket_of(&Key::from(*peer));
        index
            .and_then(|index| self.buckets.get(&index))
            .is_some_and(|b| b.entries.iter().any(|e| e.contact.peer == *peer))
    }

    /// All contacts, those known longest first: worth remembering across a restart.
    pub fn by_age(&self) -> Vec<Contact> {
        let mut all: Vec<&Entry> = self.entries().collect();
        all.sort_by_key(|entry| (entry.failures, entry.since, entry.key));
        all.into_iter().map(|entry| entry.contact.clone()).collect()
    }

    /// Those of our `count` closest contacts that were not heard of for `age`.
    pub fn silent_neighbours(&self, now: Instant, count: usize, age: Duration) -> Vec<(PeerId, Duration)> {
        let near = self.closest_entries(&self.me, count, true).into_iter();
        near.map(|entry| (entry.contact.peer, now.since(entry.seen))).filter(|(_, silence)| *silence >= age).collect()
    }

    /// The contact not heard of for longest, if that is at least `age`: to be asked whether it is still there.
    pub fn silent(&self, now: Instant, age: Duration) -> Option<Contact> {
        let silent = self.entries().filter(|entry| now.since(entry.seen) >= age);
        silent.min_by_key(|entry| (entry.seen, entry.key)).map(|entry| entry.contact.clone())
    }

    /// A contact was asked whether it is still there: the others come first now.
    pub fn probed(&mut self, now: Instant, peer: &PeerId) {
        if let Some(index) = self.bucket_of(&Key::from(*peer))
            && let Some(entry) = self.entry_mut(index, peer)
        {
            entry.seen = now;
        }
    }

    /// Notes that the neighbourhood of `key` was looked up.
    pub fn looked_up(&mut self, now: Instant, key: &Key) {
        if let Some(index) = self.bucket_of(key) {
            self.buckets.entry(index).or_default().looked_up = Some(now);
        }
    }

    /// A key to look up because its bucket has not been looked at for long. Buckets nearer than the first empty one after
    /// our closest contact are covered by looking ourselves up.
    pub fn stale(&self, now: Instant, rng: &mut Random) -> Option<Key> {
        let deepest =
            self.buckets.iter().rev().find(|(_, bucket)| !bucket.entries.is_empty()).map(|(index, _)| *index)?;
        let stale = |index: &u32| {
            let looked_up = self.buckets.get(index).and_then(|bucket| bucket.looked_up);
            looked_up.is_none_or(|at| now.since(at) >= self.config.refresh_after)
        };
        let index = (0..=deepest.min(255)).find(stale)?;
        // The first `index` bits are ours, the next one is not, the others are random.
        let mut key = Key(rng.bytes32());
        for bit in 0..=index as usize {
            let mask = 0x80u8 >> (bit % 8);
            if let (Some(to), Some(mine)) = (key.0.get_mut(bit / 8), self.me.0.get(bit / 8)) {
                let mine = if bit == index as usize { !mine } else { *mine };
                *to = (*to & !mask) | (mine & mask);
            }
        }
        Some(key)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.values().flat_map(|bucket| bucket.entries.iter())
    }

    fn bucket_of(&self, key: &Key) -> Option<u32> {
        let index = self.me.distance(key).leading_zeros();
        (index < 256).then_some(index)
    }

    fn entry_mut(&mut self, index: u32, peer: &PeerId) -> Option<&mut Entry> {
        self.buckets.get_mut(&index)?.entries.iter_mut().find(|entry| entry.contact.peer == *peer)
    }

    fn count_in_bucket(&self, index: u32, net: Network) -> usize {
        self.buckets.get(&index).map_or(0, |b| b.entries.iter().filter(|entry| entry.network == Some(net)).count())
    }
}

fn take(networks: &mut BTreeMap<Network, usize>, net: Option<Network>) {
    if let Some(net) = net {
        *networks.entry(net).or_default() += 1;
    }
}

fn release(networks: &mut BTreeMap<Network, usize>, net: Option<Network>) {
    if let Some(net) = net
        && let Some(count) = networks.get_mut(&net)
    {
        *count -= 1;
        if *count == 0 {
            networks.remove(&net);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn peer(number: u32) -> PeerId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        PeerId(id)
    }

    fn table() -> Table {
        Table::new(TableConfig::default(), Key::from(peer(0)))
    }

    fn add(table: &mut Table, number: u32, ip: [u8; 4]) -> bool {
        let at = SocketAddr::new(IpAddr::from(ip), 5000);
        table.verified(Instant(u64::from(number)), Contact { peer: peer(number), addrs: vec![at] }, &at)
    }

    #[test]
    fn one_network_cannot_fill_a_table_but_a_local_swarm_can() {
        let mut one = table();
        for number in 1..500 {
            add(&mut one, number, [8, 8, 8, number as u8]);
        }
        assert!(one.len() <= 10);
        for bucket in one.buckets.values() {
            assert!(bucket.entries.len() <= 2);
        }
        let mut local = table();
        for number in 1..=12 {
            assert!(add(&mut local, number, [127, 0, 0, 1]));
        }
        assert_eq!(local.len(), 12);
        assert!(local.everyone_known());
    }

    #[test]
    fn long_lived_contacts_are_not_displaced_unless_they_fail() {
        let mut table = table();
        for number in 1..2000u32 {
            let [a, b, ..] = number.to_be_bytes();
            let _ = (a, b);
            add(&mut table, number, [20, (number >> 8) as u8, number as u8, 1]);
        }
        let full = table.buckets.get(&0).unwrap();
        assert_eq!(full.entries.len(), 20);
        assert!(full.spare.len() <= 20);
        assert!(!table.everyone_known());
        let old: Vec<PeerId> = full.entries.iter().map(|entry| entry.contact.peer).collect();
        let newest = full.spare.last().unwrap().contact.peer;
        for _ in 0..3 {
            assert!(table.contains(&old[0]));
            table.failed(&old[0]);
        }
        assert!(!table.contains(&old[0]), "three failures in a row");
        assert!(table.contains(&newest), "the latest spare moves up");
        for peer in &old[1..] {
            assert!(table.contains(peer));
        }
        table.failed(&old[1]);
        table.seen(Instant(5000), &old[1]);
        table.failed(&old[1]);
        table.failed(&old[1]);
        assert!(table.contains(&old[1]), "an answer between forgives");
    }

    #[test]
    fn the_closest_are_the_closest_and_failing_ones_are_not_told() {
        let mut table = table();
        for number in 1..300 {
            add(&mut table, number, [127, 0, 0, 1]);
        }
        let key = Key([0x5a; 32]);
        let found = table.closest(&key, 20);
        let mut all: Vec<Contact> = table.by_age();
        all.sort_by_key(|contact| Key::from(contact.peer).distance(&key));
        assert_eq!(found, all[..20]);
        table.failed(&found[0].peer);
        assert!(!table.closest_healthy(&key, 20).contains(&found[0]));
        let mine = table.me().distance(&key);
        assert!(table.closer(&key, 20).iter().all(|contact| Key::from(contact.peer).distance(&key) < mine));
    }

    #[test]
    fn the_closest_are_those_that_sorting_all_would_give() {
        let mut table = table();
        for number in 1..400 {
            add(&mut table, number, [127, 0, 0, 1]);
        }
        let all = table.by_age();
        for contact in all.iter().step_by(3) {
            table.failed(&contact.peer);
        }
        let failed = |contact: &Contact| all.iter().step_by(3).any(|other| other == contact);
        let mut random = Random::new(3);
        let keys = (0..200).map(|_| Key(random.bytes32())).chain(all.iter().map(|contact| Key::from(contact.peer)));
        for key in keys.chain([table.me()]) {
            let mut sorted = all.clone();
            sorted.sort_by_key(|contact| Key::from(contact.peer).distance(&key));
            let healthy: Vec<Contact> = sorted.iter().filter(|contact| !failed(contact)).cloned().collect();
            for count in [0, 1, 20, healthy.len(), 1000] {
                assert_eq!(table.closest_healthy(&key, count), healthy[..count.min(healthy.len())]);
            }
            assert_eq!(table.closest(&key, 20), healthy[..20]);
            // Where too few are in order, the closest of the others fill up.
            let short = table.closest(&key, healthy.len() + 2);
            let ill: Vec<&Contact> = sorted.iter().filter(|contact| failed(contact)).take(2).collect();
            let want: Vec<Contact> =
                sorted.iter().filter(|contact| !failed(contact) || ill.contains(contact)).cloned().collect();
            assert_eq!(short, want);
        }
    }

    #[test]
    fn a_stale_bucket_gives_a_key_inside_it() {
        let mut table = table();
        for number in 1..100 {
            add(&mut table, number, [127, 0, 0, 1]);
        }
        let mut rng = Random::new(1);
        let mut now = Instant(0).after(Duration::from_secs(1000));
        let mut seen = Vec::new();
        while let Some(key) = table.stale(now, &mut rng) {
            let index = table.bucket_of(&key).unwrap();
            assert!(!seen.contains(&index));
            seen.push(index);
            table.looked_up(now, &key);
        }
        assert!(seen.len() >= 4, "{seen:?}");
        now = now.after(Duration::from_secs(3601));
        assert!(table.stale(now, &mut rng).is_some());
    }

    #[test]
    fn we_do_not_stand_in_our_own_table() {
        let mut table = table();
        assert!(!add(&mut table, 0, [127, 0, 0, 1]));
        assert!(table.is_empty());
    }
}
