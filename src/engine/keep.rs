//! The records of what is looked after: which peer holds which shard of what is published and pinned here, and how well it is kept.

use super::mark::MarkError;
use super::reactor::{Event, unix_now};
use super::record;
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::base::range::SliceRange;
use crate::base::sync::lock;
use crate::content::section::{VerifySection, VerifyStripe};
use crate::content::walk::{ChunkGroup, VerifyWalk};
use crate::node::effect::{JobId, TendId};
use crate::node::input::{Group, Holder, Input, Kept};
use crate::store::{Store, StoreError};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

/// Confirmations gather for so long before they are written down.
const GATHER: Duration = Duration::from_millis(100);
/// Rows read at once.
const PAGE: usize = 1024;
/// How well things are kept is counted anew at most in this part of the time, unless it is quick.
const COUNT_SHARE: u32 = 10;
const COUNT_QUICK: Duration = Duration::from_millis(50);

/// How well everything on record is kept, by the last proofs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    /// Stripes and lone chunks.
    pub(super) groups: u64,
    /// Of them, those that lie on as many peers as they should.
    pub(super) whole: u64,
    /// Those that could not be read from the peers alone.
    pub(super) lost: u64,
    /// Distinct hosts of the worst-off of all, and how many it should have.
    pub(super) worst: (u16, u16),
    /// Unix time of the oldest last proof of all; 0: something was never proved.
    pub(super) oldest: u64,
}

/// New rows, with the holders to add to each: chunk, peer.
type Confirmed = BTreeMap<Vec<u8>, Vec<(ChunkId, PeerId)>>;

/// The records. All methods may be called from any thread; those that say so block for the disk.
pub(super) struct Keeping {
    store: Arc<Store>,
    lease: u32,
    confirmed: Mutex<Confirmed>,
    wake: Notify,
    /// Changes are made one at a time: each reads what it changes.
    writing: Mutex<()>,
    counted: Mutex<Counted>,
    /// Peers out of reach.
    away: Mutex<BTreeSet<PeerId>>,
}

#[derive(Default)]
struct Counted {
    totals: Totals,
    /// Nothing changed since.
    current: bool,
    at: Option<Instant>,
    took: Duration,
    /// Distinct hosts and how many there should be, of the worst group of each job.
    jobs: BTreeMap<u64, (u16, u16)>,
}

impl Keeping {
    pub(super) fn new(store: Arc<Store>, lease: u32) -> Arc<Keeping> {
        let (confirmed, counted) = (Mutex::default(), Mutex::default());
        let (wake, writing, away) = (Notify::new(), Mutex::default(), Mutex::default());
        Arc::new(Keeping { store, lease, confirmed, wake, writing, counted, away })
    }

    /// For how long hosts are asked to keep chunks, seconds.
    pub(super) fn lease(&self) -> u32 {
        self.lease
    }

    /// A peer confirmed a chunk; written down soon.
    pub(super) fn placed(&self, job: JobId, group: ChunkId, chunk: ChunkId, peer: PeerId) {
        let key = [&job.0.to_be_bytes()[..], group.as_bytes()].concat();
        lock(&self.confirmed).entry(key).or_default().push((chunk, peer));
        self.wake.notify_one();
    }

    /// A peer went out of reach, or is back.
    pub(super) fn away(&self, peer: PeerId, away: bool) {
        let mut all = lock(&self.away);
        if if away { all.insert(peer) } else { all.remove(&peer) } {
            self.changed();
        }
    }

    /// Writes confirmations down as they come, until the node ends.
    pub(super) async fn run(self: Arc<Self>, events: mpsc::UnboundedSender<Event>) {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = events.closed() => return,
            }
            tokio::time::sleep(GATHER).await;
            let this = self.clone();
            if tokio::task::spawn_blocking(move || this.write_confirmed()).await.is_err() {
                return;
            }
        }
    }

    /// Writes down what was confirmed. Blocks.
    pub(super) fn write_confirmed(&self) {
        let confirmed = std::mem::take(&mut *lock(&self.confirmed));
        if confirmed.is_empty() {
            return;
        }
        let now = unix_now();
        let until = Some(now.saturating_add(u64::from(self.lease)));
        let result = self.change(confirmed.iter(), |kept, placed: &Vec<(ChunkId, PeerId)>| {
            for (chunk, peer) in placed {
                if let Some(index) = kept.chunks.iter().position(|(id, _)| id == chunk) {
                    kept.proved(index, *peer, now, until);
                }
            }
        });
        if let Err(error) = result {
            // The next proof finds out that they hold it.
            warn!(%error, "who hosts what is not written down");
        }
    }

    /// Changes the rows that are there. Blocks.
    fn change<'a, T: 'a>(
        &self,
        rows: impl Iterator<Item = (&'a Vec<u8>, &'a T)> + Clone,
        change: impl Fn(&mut Kept, &T),
    ) -> Result<(), StoreError> {
        let _one = lock(&self.writing);
        let result = self.store.state().write(false, |tx| {
            for (key, with) in rows.clone() {
                let Some(found) = tx.value(record::HOSTS, key)? else { continue };
                let Ok(mut kept) = record::kept_from_bytes(&found) else { continue };
                change(&mut kept, with);
                tx.put(record::HOSTS, key, &record::kept_to_bytes(&kept))?;
            }
            Ok::<(), StoreError>(())
        });
        lock(&self.counted).current = false;
        result
    }

    /// Answers `Effect::ReadKept`.
    pub(super) fn read(self: &Arc<Self>, events: &mpsc::UnboundedSender<Event>, after: Option<Vec<u8>>, max: usize) {
        let (this, events) = (self.clone(), events.clone());
        tokio::task::spawn_blocking(move || {
            // What was confirmed a moment ago belongs to what is read.
            this.write_confirmed();
            let found = this.store.state().range(record::HOSTS, &[], after.as_deref(), max);
            let found = found.unwrap_or_else(|error| {
                warn!(%error, "who hosts what cannot be read");
                Vec::new()
            });
            let end = found.len() < max;
            let rows = found.into_iter().filter_map(|(key, value)| {
                let kept = record::kept_from_bytes(&value).ok()?;
                Some((key, kept))
            });
            let _ = events.send(Event::Input(Input::KeptPage { rows: rows.collect(), end }));
        });
    }

    /// Carries out `Effect::WriteKept`.
    pub(super) fn write(self: &Arc<Self>, key: Vec<u8>, kept: Kept) {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            debug!(hosts = kept.hosts(), wanted = kept.wanted(), shards = kept.shards(), "looked after");
            let rows = [(&key, &kept)];
            if let Err(error) = this.change(rows.into_iter(), |row, new: &Kept| *row = new.clone()) {
                warn!(%error, "what holders proved is not written down");
            }
        });
    }

    /// Has what versions without these records published looked after, too. Done once; blocks.
    pub(super) fn adopt(&self) {
        match self.try_adopt() {
            Ok(0) => {}
            Ok(count) => debug!(count, "published by an older version, looked after from now on"),
            Err(error) => warn!(%error, "what an older version published is not looked after yet"),
        }
    }

    fn try_adopt(&self) -> Result<u64, MarkError> {
        let state = self.store.state();
        if state.value(record::KEPT, record::ADOPTED)?.is_some() {
            return Ok(0);
        }
        let mut known: HashSet<Vec<u8>> = HashSet::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = state.range(record::HOSTS, &[], after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            known.extend(page.iter().filter_map(|(key, _)| key.get(8..).map(<[u8]>::to_vec)));
        }
        let mut count = 0;
        for (_, value) in state.range(record::ROOTS, &[], None, usize::MAX)? {
            let Some((root, job)) = record::root_and_job(&value) else { continue };
            let mut walk = VerifyWalk::new(&root.verify());
            while let Some(node) = walk.next() {
                let bytes =
                    self.store.read(&node.id, SliceRange::whole(node.len))?.ok_or(MarkError::Missing(node.id))?;
                let section = VerifySection::open(&node.key, &bytes)?;
                let groups = walk.opened(&node, &section)?.into_iter().map(group);
                let groups: Vec<Group> = groups.filter(|group| known.insert(first(group))).collect();
                count += groups.len() as u64;
                self.insert(job, &groups)?;
            }
        }
        state.write(true, |tx| tx.put(record::KEPT, record::ADOPTED, &[]))?;
        self.changed();
        Ok(count)
    }

    /// Adds records of which nothing is known, where there are none yet.
    fn insert(&self, job: u64, groups: &[Group]) -> Result<(), StoreError> {
        let _one = lock(&self.writing);
        self.store.state().write(true, |tx| {
            for group in groups {
                let key = record::pending_key(job, group);
                if tx.value(record::HOSTS, &key)?.is_none() {
                    tx.put(record::HOSTS, &key, &record::kept_to_bytes(&fresh(group)))?;
                }
            }
            Ok::<(), StoreError>(())
        })
    }

    /// A pinned tree is looked after from now on.
    pub(super) fn enrol(&self, label: &ChunkId, groups: &[Group]) -> Result<(), StoreError> {
        groups.chunks(PAGE).try_for_each(|page| self.insert(pin_job(label), page))?;
        self.changed();
        Ok(())
    }

    /// A tree is not pinned any more.
    pub(super) fn dismiss(&self, label: &ChunkId) -> Result<(), StoreError> {
        let prefix = pin_job(label).to_be_bytes();
        let _one = lock(&self.writing);
        loop {
            let page = self.store.state().range(record::HOSTS, &prefix, None, PAGE)?;
            if page.is_empty() {
                self.changed();
                return Ok(());
            }
            let delete = |tx: &mut crate::store::Transaction<'_>| {
                page.iter().try_for_each(|(key, _)| tx.delete(record::HOSTS, key).map(|_| ()))
            };
            self.store.state().write::<(), StoreError>(true, delete)?;
        }
    }

    /// Rows were added or removed.
    pub(super) fn changed(&self) {
        lock(&self.counted).current = false;
    }

    /// How well everything is kept; `None` when that is not known at the moment. Blocks.
    pub(super) fn totals(&self) -> Option<Totals> {
        self.count();
        let counted = lock(&self.counted);
        counted.current.then_some(counted.totals)
    }

    /// Distinct hosts of the worst group of a job, and how many it should have; `None` when it has no records. Blocks.
    pub(super) fn job(&self, job: u64) -> Option<(u16, u16)> {
        self.count();
        lock(&self.counted).jobs.get(&job).copied()
    }

    /// Counts all rows, unless nothing changed or they were counted a short while ago.
    fn count(&self) {
        let (current, recent) = {
            let counted = lock(&self.counted);
            let pause = if counted.took < COUNT_QUICK { Duration::ZERO } else { counted.took * COUNT_SHARE };
            (counted.current, counted.at.is_some_and(|at| at.elapsed() < pause))
        };
        if current || recent {
            return;
        }
        let started = Instant::now();
        lock(&self.counted).current = true;
        let away = lock(&self.away).clone();
        let mut totals = Totals { oldest: u64::MAX, ..Totals::default() };
        let mut jobs: BTreeMap<u64, (u16, u16)> = BTreeMap::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = match self.store.state().range(record::HOSTS, &[], after.as_deref(), PAGE) {
                Ok(page) => page,
                Err(error) => {
                    warn!(%error, "who hosts what cannot be read");
                    lock(&self.counted).current = false;
                    return;
                }
            };
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in &page {
                let (Some(job), Ok(kept)) = (record::pending_job(key), record::kept_from_bytes(value)) else {
                    continue;
                };
                let kept = kept.without(&away);
                totals.groups += 1;
                totals.whole += u64::from(kept.is_whole());
                totals.lost += u64::from(kept.shards() < usize::from(kept.data.max(1)));
                let good = |kept: &[Holder]| kept.iter().map(|holder| holder.proved).max();
                let oldest = kept.holders.iter().map(|holders| good(holders).unwrap_or(0)).min().unwrap_or(0);
                totals.oldest = totals.oldest.min(oldest);
                let here = (kept.hosts(), kept.wanted());
                let worst = jobs.entry(job).or_insert(here);
                if share(here) < share(*worst) {
                    *worst = here;
                }
            }
        }
        if totals.groups == 0 {
            totals.oldest = 0;
        }
        totals.worst = jobs.values().copied().min_by_key(|hosts| share(*hosts)).unwrap_or_default();
        let mut counted = lock(&self.counted);
        (counted.totals, counted.jobs) = (totals, jobs);
        (counted.at, counted.took) = (Some(started), started.elapsed());
    }
}

/// Rows of pinned trees stand under numbers that no job has.
const PIN: u64 = 1 << 62;

fn pin_job(label: &ChunkId) -> u64 {
    let first = label.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    first & (PIN - 1) | PIN
}

/// Whether a row is of a pinned tree.
pub(super) fn is_pin(key: &[u8]) -> bool {
    record::pending_job(key).is_some_and(|job| job & PIN != 0)
}

/// A group as it is hosted.
pub(super) fn group(named: ChunkGroup) -> Group {
    let chunks = named.ids.iter().map(|id| (*id, named.chunk_len)).collect();
    Group { chunks, data: named.data, copies: named.copies }
}

fn first(group: &Group) -> Vec<u8> {
    group.chunks.first().map_or(Vec::new(), |(id, _)| id.as_bytes().to_vec())
}

/// A group of which nobody is known to hold anything.
pub(super) fn fresh(group: &Group) -> Kept {
    Kept::new(group)
}

/// Worse ones first; of equally good ones that which wants most hosts.
pub(super) fn share((hosts, wanted): (u16, u16)) -> (u32, std::cmp::Reverse<u16>) {
    (u32::from(hosts) * 1000 / u32::from(wanted.max(1)), std::cmp::Reverse(wanted))
}

/// Carries out `Effect::Rebuild`.
pub(super) fn rebuild(
    store: Arc<Store>,
    events: mpsc::UnboundedSender<Event>,
    tend: TendId,
    stripe: VerifyStripe,
    lost: Vec<u8>,
) {
    tokio::task::spawn_blocking(move || {
        let made = super::rebuild::rebuild(&store, &stripe, &lost);
        if let Err(error) = &made {
            warn!(%error, "a lost shard cannot be made");
        }
        let ids = lost.iter().filter_map(|index| stripe.ids.get(usize::from(*index)).copied());
        let held: Vec<ChunkId> = ids.filter(|id| store.holds(id).unwrap_or(false)).collect();
        let well = held.len() == lost.len();
        debug!(chunks = held.len(), well, "rebuilt for others");
        let _ = events.send(Event::Input(Input::Stored { chunks: held }));
        let _ = events.send(Event::Input(Input::Rebuilt { tend, well }));
    });
}

#[cfg(test)]
mod tests {
    use super::super::seal::{Extent, Sealer};
    use super::*;
    use crate::content::cipher::ConvergenceSecret;
    use crate::content::erasure::Scheme;
    use crate::content::reference::{Kind, RootRef};
    use crate::node::input::Holder;
    use crate::store::StoreConfig;

    /// A store with a published tree of a large and some small files.
    fn published(dir: &std::path::Path) -> (Arc<Store>, u64) {
        let store = Arc::new(Store::open(&dir.join("store"), StoreConfig::roomy()).unwrap());
        let sealer = Sealer::new(store.clone(), ConvergenceSecret::PUBLIC, Scheme { k: 2, m: 1 }).unwrap();
        let tree = dir.join("tree");
        std::fs::create_dir(&tree).unwrap();
        for (name, len) in [("large", 3_000_000), ("a", 1000), ("b", 40_000)] {
            let mut bytes = vec![0; len];
            blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
            std::fs::write(tree.join(name), bytes).unwrap();
        }
        let root = RootRef { kind: Kind::Directory, node: sealer.directory(&tree, &Extent::All, 77).unwrap().root };
        let value = record::root_to_bytes(&root, 77);
        store.state().write(true, |tx| tx.put(record::ROOTS, record::TREE, &value)).unwrap();
        (store, 77)
    }

    fn rows(store: &Store) -> Vec<(Vec<u8>, Vec<u8>)> {
        store.state().range(record::HOSTS, &[], None, usize::MAX).unwrap()
    }

    #[test]
    fn what_an_older_version_published_is_looked_after_as_if_this_one_had() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = published(dir.path());
        let sealed = rows(&store);
        assert!(sealed.len() >= 4, "a stripe or two, a pack, nodes");
        let forget = |tx: &mut crate::store::Transaction<'_>| {
            sealed.iter().try_for_each(|(key, _)| tx.delete(record::HOSTS, key).map(|_| ()))
        };
        store.state().write::<(), StoreError>(true, forget).unwrap();
        let keeping = Keeping::new(store.clone(), 3600);
        keeping.adopt();
        assert_eq!(rows(&store), sealed);
        store.state().write::<(), StoreError>(true, forget).unwrap();
        keeping.adopt();
        assert!(rows(&store).is_empty(), "once is enough");
    }

    #[test]
    fn what_hosts_confirm_is_the_state_of_a_job_and_pins_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (store, job) = published(dir.path());
        let keeping = Keeping::new(store.clone(), 3600);
        let before = rows(&store).len() as u64;
        let kept = |totals: Totals| (totals.groups, totals.whole, totals.lost);
        assert_eq!(keeping.totals().map(kept), Some((before, 0, before)));
        assert_eq!(keeping.job(job).map(|(hosts, _)| hosts), Some(0));
        for (key, value) in rows(&store) {
            let row = record::kept_from_bytes(&value).unwrap();
            let group = ChunkId(*key[8..].first_chunk().unwrap());
            for (number, (chunk, _)) in row.chunks.iter().enumerate() {
                for copy in 0..row.copies {
                    let peer = PeerId([number as u8 * 8 + copy + 1; 32]);
                    keeping.placed(JobId(job), group, *chunk, peer);
                }
            }
        }
        keeping.write_confirmed();
        let totals = keeping.totals().unwrap();
        assert_eq!((kept(totals), totals.oldest > 0), ((before, before, 0), true));
        let (hosts, wanted) = keeping.job(job).unwrap();
        assert!(hosts == wanted && wanted > 0);
        let holder = |kept: &Kept| -> Option<Holder> { kept.holders.first()?.first().copied() };
        let row = record::kept_from_bytes(&rows(&store)[0].1).unwrap();
        assert!(holder(&row).is_some_and(|holder| holder.until >= unix_now() + 3500));
        let pinned = Group { chunks: vec![(ChunkId([9; 32]), 10)], data: 1, copies: 2 };
        keeping.enrol(&ChunkId([8; 32]), std::slice::from_ref(&pinned)).unwrap();
        assert_eq!(keeping.totals().map(kept), Some((before + 1, before, 1)));
        assert_eq!(rows(&store).iter().filter(|(key, _)| is_pin(key)).count(), 1);
        keeping.dismiss(&ChunkId([8; 32])).unwrap();
        assert_eq!(keeping.totals().map(kept), Some((before, before, 0)));
    }
}
