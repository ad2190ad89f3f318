//! The publisher: what changes in the own tree is sealed after a quiet moment, stored, hosted by peers and announced.

mod forget;
mod jobs;
mod mend;

use super::change::Changes;
use super::gate::Gate;
use super::keep::{Keeping, Totals};
use super::reactor::unix_now;
use super::record::{self, DirectoryRecord, FileRecord, JobRecord, SingleRecord, Stamp};
use super::seal::{self, Extent, MayBeMapped, Pass, SealError, Sealer};
use super::status::Work;
use super::swarm::Swarm;
use crate::base::sync::lock;
use crate::content::reference::{Kind, RootRef};
use crate::node::effect::Progress;
use crate::node::input::Input;
use crate::store::{Store, StoreError};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Chunks told to the machine in one input.
const STORED_BATCH: usize = 512;
/// Where the disk is full, a reference is tried again so many times and after such pauses.
const ROOM_TRIES: u32 = 3;
const ROOM_PAUSE: Duration = Duration::from_secs(2);
/// Until what could not be published is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// How far a file or directory of the own tree is on its way to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishState {
    /// Changed here, not sealed yet.
    Staged,
    /// Being sealed.
    Publishing {
        /// Of its bytes.
        percent: u8,
    },
    /// Sealed and kept here; no peer holds it yet.
    Stored,
    /// On other peers too.
    Hosted {
        /// Distinct hosts of its worst-off stripe.
        hosts: u16,
        /// How many it should have.
        wanted: u16,
    },
}

impl fmt::Display for PublishState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishState::Staged => f.write_str("staged"),
            PublishState::Publishing { percent } => write!(f, "publishing {percent} %"),
            PublishState::Stored => f.write_str("stored"),
            PublishState::Hosted { hosts, wanted } => write!(f, "hosted {hosts}/{wanted}"),
        }
    }
}

/// Why something could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Reading, sealing or storing failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It changed again and again while it was read.
    #[error("{0} keeps changing while it is read; publish it when nothing writes to it")]
    Unstable(PathBuf),
    /// The engine is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// A path that was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// What others read it by.
    pub reference: RootRef,
    /// How far its hosting is; all zero when every chunk was hosted before.
    pub progress: watch::Receiver<Progress>,
    /// Chunks that are new with it.
    pub chunks_new: usize,
}

/// Has the files that are open say that they changed, if they did.
type AskOpenFiles = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Dirty {
    /// Not looked at yet.
    waiting: Changes,
    /// What the running pass works on.
    running: Changes,
    /// To be looked at once more, when their times are old enough.
    young: Changes,
    first: Option<Instant>,
    last: Option<Instant>,
}

struct Inner {
    store: Arc<Store>,
    swarm: Swarm,
    sealer: Arc<Sealer>,
    tree: PathBuf,
    quiet: Duration,
    keeping: Arc<Keeping>,
    ask_open_files: OnceLock<AskOpenFiles>,
    dirty: Mutex<Dirty>,
    wake: Notify,
    idle: Notify,
    gate: Arc<Gate>,
    /// The tree moved on: chunks of the one before may be forgotten.
    moved: Notify,
    /// Counts passes over the own tree.
    passes: watch::Sender<u64>,
    /// Why the last pass over the own tree failed.
    trouble: Mutex<Option<String>>,
    jobs: Mutex<BTreeMap<u64, watch::Receiver<Progress>>>,
    /// Finished jobs whose record was read, so that the state of many files costs one look each.
    known: Mutex<HashMap<u64, JobRecord>>,
    stopping: watch::Sender<bool>,
}

/// Publishes the own tree, and other paths on demand. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<Inner>,
}

impl Writer {
    pub(super) fn new(
        store: Arc<Store>,
        swarm: Swarm,
        sealer: Arc<Sealer>,
        tree: PathBuf,
        quiet: Duration,
        keeping: Arc<Keeping>,
    ) -> Writer {
        let dirty = Mutex::new(Dirty { waiting: Changes::all(), ..Dirty::default() });
        let inner = Inner {
            store,
            swarm,
            sealer,
            tree,
            quiet,
            keeping,
            ask_open_files: OnceLock::new(),
            dirty,
            wake: Notify::new(),
            idle: Notify::new(),
            gate: Arc::default(),
            moved: Notify::new(),
            passes: watch::Sender::new(0),
            trouble: Mutex::default(),
            jobs: Mutex::default(),
            known: Mutex::default(),
            stopping: watch::Sender::new(false),
        };
        Writer { inner: Arc::new(inner) }
    }

    /// Something at this path of the own tree changed: its bytes, its attributes, or whether it is there. What changed
    /// below a directory is told by its own path.
    /// The empty path is the tree's root.
    pub fn changed(&self, path: &Path) {
        self.note(|waiting| waiting.add(path));
    }

    /// Gives what tells of an open file whether programs may have it mapped for writing. The first word counts.
    pub fn may_be_mapped(&self, known: MayBeMapped) {
        self.inner.sealer.may_be_mapped(known);
    }

    /// Gives what has open files say that they changed, by [`Writer::changed`]; called before anybody is told how far publishing is.
    /// The first word counts.
    pub fn ask_open_files(&self, ask: AskOpenFiles) {
        let _ = self.inner.ask_open_files.set(ask);
    }

    fn hear_open_files(&self) {
        if let Some(ask) = self.inner.ask_open_files.get() {
            ask();
        }
    }

    /// Anything at or below this path may have changed or be new there, as after a directory was renamed: what is on
    /// record of its subdirectories is not relied on.
    pub fn changed_below(&self, path: &Path) {
        self.note(|waiting| waiting.add_below(path));
    }

    /// The file of this device and inode number may have been written to at any moment since then without a trace in its
    /// times. Its paths are told besides, and after this.
    pub fn rewritten(&self, (dev, ino): (u64, u64), since: SystemTime) {
        let since = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64);
        // Nothing to look at yet, so nothing to wake anybody for.
        lock(&self.inner.dirty).waiting.add_rewritten(record::file_key(dev, ino), since);
    }

    fn note(&self, add: impl FnOnce(&mut Changes)) {
        let now = Instant::now();
        let mut dirty = lock(&self.inner.dirty);
        dirty.first.get_or_insert(now);
        dirty.last = Some(now);
        add(&mut dirty.waiting);
        drop(dirty);
        self.inner.wake.notify_one();
    }

    fn note_young(&self) {
        let young = std::mem::take(&mut lock(&self.inner.dirty).young);
        if !young.is_empty() {
            self.note(|waiting| waiting.merge(young));
        }
    }

    /// Publishes changes until the engine stops. Resumes hosting that an earlier run did not finish.
    pub(super) async fn run(self) {
        let resumed = self.clone();
        let pending = tokio::task::spawn_blocking(move || resumed.pending(&[])).await.unwrap_or_default();
        for (job, groups) in pending {
            info!(job, groups = groups.len(), "hosting goes on");
            self.follow(job, groups);
        }
        // What an earlier run left is looked for, too.
        let mut first = true;
        loop {
            self.wait_for_quiet().await;
            if self.stopping() {
                return;
            }
            let changes = {
                let mut dirty = lock(&self.inner.dirty);
                dirty.first = None;
                dirty.running = std::mem::take(&mut dirty.waiting);
                dirty.running.clone()
            };
            let result = self.seal_own(changes.clone()).await;
            let again = {
                let mut dirty = lock(&self.inner.dirty);
                dirty.running = Changes::default();
                match &result {
                    Ok((pass, _)) => {
                        pass.unstable.iter().for_each(|path| dirty.waiting.add(path));
                        pass.young.iter().for_each(|path| dirty.young.add(path));
                    }
                    Err(_) => dirty.waiting.merge(changes),
                }
                let again = !dirty.waiting.is_empty();
                if again {
                    dirty.last = Some(Instant::now());
                }
                again
            };
            match result {
                Ok((pass, moved)) => {
                    let trouble = unreadable(&pass);
                    lock(&self.inner.trouble).clone_from(&trouble);
                    if !pass.young.is_empty() {
                        let later = self.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(seal::SETTLE).await;
                            later.note_young();
                        });
                    }
                    if moved || first {
                        self.inner.moved.notify_one();
                    }
                    first = false;
                    self.offer(pass);
                    self.inner.passes.send_modify(|count| *count += 1);
                    if let Some(trouble) = trouble {
                        warn!(trouble, "not all of the own tree could be published; trying again");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                Err(SealError::Stopped) => return,
                Err(error) => {
                    warn!(%error, "the own tree could not be published; trying again");
                    *lock(&self.inner.trouble) = Some(error.to_string());
                    // What it sealed before it failed is in the way of the next try where space is short.
                    self.inner.moved.notify_one();
                    tokio::time::sleep(AGAIN).await;
                }
            }
            if !again {
                self.inner.idle.notify_waiters();
            }
        }
    }

    /// Changes after each pass over the own tree: references may be others then.
    pub(super) fn passes(&self) -> watch::Receiver<u64> {
        self.inner.passes.subscribe()
    }

    async fn wait_for_quiet(&self) {
        loop {
            let wake = self.inner.wake.notified();
            let due = {
                let dirty = lock(&self.inner.dirty);
                match (dirty.waiting.is_all(), dirty.waiting.is_empty()) {
                    (true, _) => Some(Instant::now()),
                    (false, true) => None,
                    (false, false) => {
                        let quiet = dirty.last.map(|last| last + self.inner.quiet);
                        // Somebody who writes without a pause must not keep the rest from being published.
                        let patience = dirty.first.map(|first| first + self.inner.quiet * 10);
                        quiet.into_iter().chain(patience).min()
                    }
                }
            };
            match due {
                None => wake.await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::time::sleep_until(due).await,
            }
            if self.stopping() {
                return;
            }
        }
    }

    /// Seals the own tree and writes its reference down. Tells whether that is another than before.
    async fn seal_own(&self, changes: Changes) -> Result<(Pass, bool), SealError> {
        let this = self.clone();
        let started = Instant::now();
        let work = move || {
            let _passing = this.inner.gate.enter();
            this.inner.sealer.distrust(changes.rewritten())?;
            let pass = this.inner.sealer.directory(&this.inner.tree, &changes.extent(), job_id())?;
            let root = RootRef { kind: Kind::Directory, node: pass.root };
            let moved = this.write_root(record::TREE, &root, pass.job)?;
            Ok::<_, SealError>((pass, moved))
        };
        let (pass, moved) = tokio::task::spawn_blocking(work).await.map_err(|_| SealError::Stopped)??;
        debug!(ms = started.elapsed().as_millis(), groups = pass.groups.len(), chunks = pass.chunks.len(), "sealed");
        Ok((pass, moved))
    }

    /// Has a tree kept from now on. Tells whether the key stood for another one.
    fn write_root(&self, key: &[u8], root: &RootRef, job: u64) -> Result<bool, StoreError> {
        let state = self.inner.store.state();
        if state.value(record::ROOTS, key)?.and_then(|bytes| record::root_from_bytes(&bytes)) == Some(*root) {
            return Ok(false);
        }
        state.write(true, |tx| tx.put(record::ROOTS, key, &record::root_to_bytes(root, job)))?;
        Ok(true)
    }

    fn offer(&self, pass: Pass) -> watch::Receiver<Progress> {
        for batch in pass.chunks.chunks(STORED_BATCH) {
            self.inner.swarm.input(Input::Stored { chunks: batch.to_vec() });
        }
        self.inner.keeping.changed();
        if pass.groups.is_empty() {
            return watch::channel(Progress::default()).1;
        }
        self.follow(pass.job, pass.groups)
    }

    /// How far the file or directory at this path of the own tree is.
    pub fn state(&self, path: &Path) -> PublishState {
        self.hear_open_files();
        let (dirty, running) = {
            let dirty = lock(&self.inner.dirty);
            (dirty.waiting.touches(path) || dirty.young.touches(path), dirty.running.touches(path))
        };
        let full = self.inner.tree.join(path);
        let Ok(metadata) = std::fs::symlink_metadata(&full) else { return PublishState::Staged };
        if dirty {
            return PublishState::Staged;
        }
        let key = record::inode_key(&metadata);
        if running {
            let whole = self.inner.sealer.progress();
            let Work { done, total } = self.inner.sealer.file_progress(&key).unwrap_or(whole);
            let percent = (done.saturating_mul(100).checked_div(total).unwrap_or(0)).min(99) as u8;
            return PublishState::Publishing { percent };
        }
        let job = if metadata.is_dir() {
            self.directory_record(&key).map(|record| record.job)
        } else if metadata.is_file() {
            self.file_record(&key).filter(|record| record.stamp == Stamp::of(&metadata)).map(|record| record.job)
        } else {
            let parent = full.parent().and_then(|parent| std::fs::symlink_metadata(parent).ok());
            parent.and_then(|parent| self.directory_record(&record::inode_key(&parent))).map(|record| record.job)
        };
        job.map_or(PublishState::Staged, |job| self.job_state(job))
    }

    fn file_record(&self, key: &[u8]) -> Option<FileRecord> {
        FileRecord::from_bytes(&self.inner.store.state().value(record::FILES, key).ok()??).ok()
    }

    fn directory_record(&self, key: &[u8]) -> Option<DirectoryRecord> {
        DirectoryRecord::from_bytes(&self.inner.store.state().value(record::DIRECTORIES, key).ok()??).ok()
    }

    /// The reference of a file or directory of the own tree; `None` while it is staged, or of a kind that has none.
    pub fn reference(&self, path: &Path) -> Result<Option<RootRef>, PublishError> {
        if matches!(self.state(path), PublishState::Staged | PublishState::Publishing { .. }) {
            return Ok(None);
        }
        let full = self.inner.tree.join(path);
        let Ok(metadata) = std::fs::symlink_metadata(&full) else { return Ok(None) };
        let key = record::inode_key(&metadata);
        if metadata.is_dir() {
            return Ok(self.directory_record(&key).map(|record| RootRef { kind: Kind::Directory, node: record.node }));
        }
        if !metadata.is_file() {
            return Ok(None);
        }
        let Some(found) = self.file_record(&key) else { return Ok(None) };
        if let Some(node) = found.node {
            return Ok(Some(RootRef { kind: Kind::File, node }));
        }
        // What a failed pass left may be what fills the disk: it is forgotten soon.
        for _ in 0..ROOM_TRIES {
            match self.packed_reference(path, &full, &metadata) {
                Err(PublishError::Seal(SealError::Store(StoreError::Full))) if !self.stopping() => {
                    self.inner.moved.notify_one();
                    std::thread::sleep(ROOM_PAUSE);
                }
                other => return other,
            }
        }
        self.packed_reference(path, &full, &metadata)
    }

    /// A packed file gets a node of its own when somebody asks for its reference.
    fn packed_reference(&self, path: &Path, full: &Path, metadata: &Metadata) -> Result<Option<RootRef>, PublishError> {
        let key = record::inode_key(metadata);
        let _passing = self.inner.gate.enter();
        let state = self.inner.store.state();
        let known = state.value(record::SINGLES, &key).map_err(SealError::from)?;
        if let Some(known) = known.and_then(|bytes| SingleRecord::from_bytes(&bytes).ok())
            && known.path == path
            && known.stamp == Stamp::of(metadata)
        {
            return Ok(Some(RootRef { kind: Kind::File, node: known.node }));
        }
        let pass = self.inner.sealer.file(full, job_id())?;
        if !pass.unstable.is_empty() {
            return Ok(None);
        }
        let single = SingleRecord { stamp: Stamp::of(metadata), node: pass.root, path: path.to_path_buf() };
        state
            .write(true, |tx| tx.put(record::SINGLES, &key, &single.to_bytes()))
            .map_err(|error: StoreError| SealError::from(error))?;
        let reference = RootRef { kind: Kind::File, node: pass.root };
        self.offer(pass);
        Ok(Some(reference))
    }

    /// Publishes a file or directory outside the mount, as it is now.
    pub async fn publish(&self, path: &Path) -> Result<Published, PublishError> {
        for _ in 0..5 {
            let (this, path) = (self.clone(), path.to_path_buf());
            let work = move || {
                let _passing = this.inner.gate.enter();
                let sealer = &this.inner.sealer;
                let metadata = std::fs::metadata(&path).map_err(|source| SealError::read(&path, source))?;
                let (pass, kind) = if metadata.is_dir() {
                    (sealer.directory(&path, &Extent::All, job_id())?, Kind::Directory)
                } else if metadata.is_file() {
                    (sealer.file(&path, job_id())?, Kind::File)
                } else {
                    return Err(SealError::Kind(path));
                };
                let reference = RootRef { kind, node: pass.root };
                if pass.unstable.is_empty() {
                    this.write_root(&record::published_key(&reference), &reference, pass.job)?;
                }
                Ok((pass, reference))
            };
            let (mut pass, reference) =
                tokio::task::spawn_blocking(work).await.map_err(|_| PublishError::Stopped)??;
            if let Some(error) = pass.unreadable.pop() {
                return Err(error.into());
            }
            if pass.unstable.is_empty() {
                let chunks_new = pass.chunks.len();
                return Ok(Published { reference, chunks_new, progress: self.offer(pass) });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(PublishError::Unstable(path.to_path_buf()))
    }

    /// Returns once nothing in the own tree is staged or being sealed; `false` when the deadline came first.
    pub async fn settled(&self, deadline: Duration) -> bool {
        let wait = async {
            loop {
                let idle = self.inner.idle.notified();
                if self.staged() == 0 {
                    return;
                }
                // The notification may have come between the two lines above: look again now and then.
                let _ = tokio::time::timeout(Duration::from_millis(50), idle).await;
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }

    /// Why the own tree could not be published when that was tried last; it is tried again and again.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.inner.trouble).clone()
    }

    /// Paths that are staged or being sealed; a full look at the tree counts as one.
    pub fn staged(&self) -> u64 {
        self.hear_open_files();
        let dirty = lock(&self.inner.dirty);
        dirty.waiting.len() + dirty.running.len() + dirty.young.len()
    }

    /// Bytes of the running pass, done and in all.
    pub fn sealing(&self) -> Option<Work> {
        let running = !lock(&self.inner.dirty).running.is_empty();
        running.then(|| self.inner.sealer.progress())
    }

    /// How well all that is published and pinned is kept by others, as the last proofs say; `None` when that is not known at the moment. Blocks.
    pub(super) fn kept(&self) -> Option<Totals> {
        self.inner.keeping.totals()
    }

    /// The own tree's reference as last published.
    pub fn tree_reference(&self) -> Option<String> {
        let bytes = self.inner.store.state().value(record::ROOTS, record::TREE).ok()??;
        record::root_from_bytes(&bytes).map(|root| root.to_string())
    }

    /// Whether the own tree is empty, and nothing was published on demand.
    pub(super) fn has_nothing(&self) -> bool {
        let empty = std::fs::read_dir(&self.inner.tree).is_ok_and(|mut names| names.next().is_none());
        let published = self.inner.store.state().range(record::ROOTS, record::PUBLISHED, None, 1);
        empty && published.is_ok_and(|published| published.is_empty())
    }

    fn stopping(&self) -> bool {
        *self.inner.stopping.borrow()
    }

    pub(super) fn stop(&self) {
        self.inner.stopping.send_replace(true);
        self.inner.sealer.stop();
        self.inner.wake.notify_waiters();
        self.inner.wake.notify_one();
    }
}

/// What a pass could not read, in words.
fn unreadable(pass: &Pass) -> Option<String> {
    let first = pass.unreadable.first()?;
    match pass.unreadable.len() {
        1 => Some(first.to_string()),
        count => Some(format!("{first}, and {} more", count - 1)),
    }
}

/// Jobs are named by the moment they began, in microseconds, so that a later run does not use a name again.
fn job_id() -> u64 {
    use std::sync::atomic::AtomicU64;
    static LAST: AtomicU64 = AtomicU64::new(0);
    let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(unix_now(), |d| d.as_micros() as u64);
    LAST.fetch_max(micros, Ordering::Relaxed);
    LAST.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn jobs_never_share_a_name() {
        let names: BTreeSet<u64> = (0..1000).map(|_| job_id()).collect();
        assert_eq!(names.len(), 1000);
    }
}
