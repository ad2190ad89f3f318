//! From local files to sealed trees: reads, seals, codes and stores in parallel; reuses what did not change.

mod directory;
mod disk;

use super::record::{self, FileRecord, Stamp};
use super::status::Work;
use crate::base::digest::ChunkId;
use crate::base::limit::PACKED_BYTES_MAX;
use crate::base::sync::lock;
use crate::content::build::{FileBuilder, SealedStripe, build_file, seal_stripe};
use crate::content::chunk::SealedChunk;
use crate::content::cipher::{ConvergenceSecret, ReadKey};
use crate::content::directory::executable;
use crate::content::erasure::Scheme;
use crate::content::extent::{self, ExtentPlan};
use crate::content::reference::NodeRef;
use crate::content::section::Stripe;
use crate::node::input::{Group, Kept};
use crate::store::{Class, Store, StoreError, Table};
use disk::{is_hole, open, read_exact, read_short, replaced, wait_for_tick};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Stripes of a large file that are sealed before their manifest nodes are built: 1 GiB with 8 data chunks.
const BATCH: usize = 128;
/// Records are written down at least after so many, so that a pass over a huge tree needs little memory and a crash in
/// it costs little work.
const RECORDS: usize = 20_000;

/// Characters of a path that a message holds at most.
const SHOWN_MAX: usize = 160;

/// Passes whose end is remembered.
const PASSES_MAX: usize = 256;
/// How old the times of a file must be that programs may have mapped, before what was read of it is taken for all that belongs to them:
/// the kernel moves the times first and stores then, and in between may wait for the disk.
pub(super) const SETTLE: Duration = Duration::from_secs(3);

/// Why something could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A local file could not be read.
    #[error("cannot read {}: {source}", shown(path))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither file nor directory.
    #[error("{0} is neither a file nor a directory, so it cannot be published")]
    Kind(PathBuf),
    /// Over a limit of the format.
    #[error("{} cannot be published: {why}", shown(path))]
    Limit {
        /// What.
        path: PathBuf,
        /// Which limit.
        why: String,
    },
    /// The store took it not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// A path as it is told; of a very long one its beginning and its end.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let count = text.chars().count();
    if count <= SHOWN_MAX {
        return text;
    }
    let half = SHOWN_MAX / 2;
    let (from, to): (String, String) = (text.chars().take(half).collect(), text.chars().skip(count - half).collect());
    format!("{from}...{to}")
}

impl SealError {
    pub(super) fn read(path: &Path, source: std::io::Error) -> SealError {
        SealError::Read { path: path.to_path_buf(), source }
    }
}

/// Which directories of a tree to look into again.
pub(super) enum Extent {
    All,
    /// These, relative to the root; others are taken from their record.
    Paths {
        /// With all directories above them.
        paths: BTreeSet<PathBuf>,
        /// With everything below them.
        below: BTreeSet<PathBuf>,
    },
}

impl Extent {
    pub(super) fn covers(&self, path: &Path) -> bool {
        match self {
            Extent::All => true,
            Extent::Paths { paths, below } => {
                paths.contains(path) || (!below.is_empty() && path.ancestors().any(|step| below.contains(step)))
            }
        }
    }
}

/// What a pass made.
pub(super) struct Pass {
    pub(super) root: NodeRef,
    pub(super) job: u64,
    /// To be hosted; those of earlier passes are not among them.
    pub(super) groups: Vec<Group>,
    /// The chunks of `groups`.
    pub(super) chunks: Vec<ChunkId>,
    /// Paths that changed while they were read: not in this tree, or in it as they were; to be looked at again.
    pub(super) unstable: Vec<PathBuf>,
    /// Paths that are in it as they were read, and are to be read once more after `SETTLE`.
    pub(super) young: Vec<PathBuf>,
    /// Why some of the `unstable` paths could not be read at all.
    pub(super) unreadable: Vec<SealError>,
}

/// What grows while a pass runs.
#[derive(Default)]
struct Sink {
    groups: Vec<Group>,
    /// Jobs of earlier passes that other groups of what is sealed here were handed to.
    earlier: BTreeSet<u64>,
    unstable: Vec<PathBuf>,
    young: Vec<PathBuf>,
    unreadable: Vec<SealError>,
    /// Table, key, value; not yet written.
    records: Vec<(Table, Vec<u8>, Vec<u8>)>,
    /// Groups from here on are not yet written.
    written: usize,
}

/// Whether a file, open for reading, may be mapped for writing.
pub(super) type MayBeMapped = Box<dyn Fn(&File) -> bool + Send + Sync>;

/// Seals trees. One for the whole engine: its threads bound how much is in memory at once.
pub(super) struct Sealer {
    store: Arc<Store>,
    secret: ConvergenceSecret,
    scheme: Scheme,
    pool: rayon::ThreadPool,
    done: AtomicU64,
    total: AtomicU64,
    /// Large files that are being sealed: bytes done and in all.
    files: Mutex<HashMap<[u8; 16], Work>>,
    /// The last passes by their job, and when they ended, in microseconds of Unix time.
    ended: Mutex<VecDeque<(u64, u64)>>,
    mapped: OnceLock<MayBeMapped>,
    stopping: AtomicBool,
}

/// The state of one pass.
struct Run<'a> {
    sealer: &'a Sealer,
    root: &'a Path,
    extent: &'a Extent,
    job: u64,
    sink: Mutex<Sink>,
    /// Stripes of zeros by their length: the holes of sparse files.
    zeros: Mutex<HashMap<u64, Stripe>>,
}

impl Sealer {
    pub(super) fn new(store: Arc<Store>, secret: ConvergenceSecret, scheme: Scheme) -> Result<Arc<Sealer>, String> {
        // Directories nest up to the tree's limit, and each level takes some stack.
        let pool = rayon::ThreadPoolBuilder::new()
            .thread_name(|index| format!("seal-{index}"))
            .stack_size(16 << 20)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(Sealer {
            store,
            secret,
            scheme,
            pool,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            files: Mutex::default(),
            ended: Mutex::default(),
            mapped: OnceLock::new(),
            stopping: AtomicBool::new(false),
        }))
    }

    /// Bytes of the running pass.
    pub(super) fn progress(&self) -> Work {
        Work { done: self.done.load(Ordering::Relaxed), total: self.total.load(Ordering::Relaxed) }
    }

    /// Bytes of a large file that is being sealed.
    pub(super) fn file_progress(&self, key: &[u8; 16]) -> Option<Work> {
        lock(&self.files).get(key).copied()
    }

    /// Takes what tells whether a file may be mapped for writing.
    pub(super) fn may_be_mapped(&self, known: MayBeMapped) {
        let _ = self.mapped.set(known);
    }

    /// Sees to it that whatever is stored in the file from now on moves its times. A store through a map does so only where the
    /// page was written to the disk since the last one. Tells whether the file is to be read once more even so, as a store may be
    /// under way that its times tell of already.
    fn make_clean(&self, file: &File, metadata: &Metadata) -> std::io::Result<bool> {
        if !self.mapped.get().is_some_and(|mapped| mapped(file)) {
            return Ok(false);
        }
        file.sync_data()?;
        let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
        Ok(age.is_some_and(|age| age < SETTLE))
    }

    /// Makes running passes end with `SealError::Stopped`.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Seals a directory with everything in it.
    pub(super) fn directory(&self, root: &Path, extent: &Extent, job: u64) -> Result<Pass, SealError> {
        let run = self.run(root, extent, job);
        let record = self.pool.install(|| run.directory(Path::new(""), 0))?;
        let missing = || SealError::read(root, std::io::ErrorKind::NotFound.into());
        let root = record.ok_or_else(missing)?.node;
        let mut ended = lock(&self.ended);
        ended.push_back((job, micros(SystemTime::now())));
        if ended.len() > PASSES_MAX {
            ended.pop_front();
        }
        drop(ended);
        run.finish(root)
    }

    /// Forgets what is on record of files that may have been written to since the moments given, if they were read since then:
    /// their times do not tell.
    pub(super) fn distrust(&self, files: &BTreeMap<[u8; 16], u64>) -> Result<(), SealError> {
        let read = |job| lock(&self.ended).iter().find(|(other, _)| *other == job).map_or(job, |(_, end)| *end);
        let mut doubtful: Vec<(Table, &[u8])> = Vec::new();
        for (key, since) in files {
            if self.file_record(key)?.is_some_and(|record| read(record.job) >= *since) {
                doubtful.push((record::FILES, key));
            }
            if self.store.state().value(record::SINGLES, key)?.is_some() {
                doubtful.push((record::SINGLES, key));
            }
        }
        if !doubtful.is_empty() {
            self.store
                .state()
                .write(true, |tx| doubtful.iter().try_for_each(|(table, key)| tx.delete(*table, key).map(|_| ())))?;
        }
        Ok(())
    }

    /// Seals one file into a tree of its own.
    pub(super) fn file(&self, path: &Path, job: u64) -> Result<Pass, SealError> {
        let run = self.run(path, &Extent::All, job);
        let metadata = std::fs::metadata(path).map_err(|source| SealError::read(path, source))?;
        let here = Path::new("");
        let small = metadata.size() < PACKED_BYTES_MAX as u64;
        let node = self.pool.install(|| if small { run.short(here, &metadata) } else { run.file(here, &metadata) })?;
        // When it changed while it was read there is no root to speak of: `unstable` says so, and the caller tries again.
        run.finish(node.unwrap_or(NodeRef { id: ChunkId([0; 32]), len: 0, key: ReadKey([0; 32]) }))
    }

    fn run<'a>(&'a self, root: &'a Path, extent: &'a Extent, job: u64) -> Run<'a> {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
        Run { sealer: self, root, extent, job, sink: Mutex::default(), zeros: Mutex::default() }
    }

    fn file_record(&self, key: &[u8]) -> Result<Option<FileRecord>, SealError> {
        Ok(self.store.state().value(record::FILES, key)?.and_then(|bytes| FileRecord::from_bytes(&bytes).ok()))
    }

    fn go_on(&self) -> Result<(), SealError> {
        if self.stopping.load(Ordering::Relaxed) { Err(SealError::Stopped) } else { Ok(()) }
    }

    fn keep(&self, chunk: &SealedChunk) -> Result<(), SealError> {
        Ok(self.store.put(&chunk.id, &chunk.outline, chunk.bytes.clone(), Class::Own)?)
    }
}

impl Run<'_> {
    fn finish(self, root: NodeRef) -> Result<Pass, SealError> {
        self.write_down()?;
        let Run { job, sink, .. } = self;
        let sink = sink.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let chunks = sink.groups.iter().flat_map(|group| group.chunks.iter().map(|(id, _)| *id)).collect();
        let Sink { groups, unstable, young, unreadable, .. } = sink;
        Ok(Pass { root, job, groups, chunks, unstable, young, unreadable })
    }

    /// Makes chunks durable, then what refers to them, in that order: a crash in between only repeats work.
    fn write_down(&self) -> Result<(), SealError> {
        let store = &self.sealer.store;
        let mut sink = lock(&self.sink);
        let records = std::mem::take(&mut sink.records);
        let fresh: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> = sink
            .groups
            .iter()
            .skip(sink.written)
            .map(|group| {
                let kept = record::kept_to_bytes(&Kept::new(group));
                (record::pending_key(self.job, group), record::group_to_bytes(group), kept)
            })
            .collect();
        sink.written = sink.groups.len();
        let earlier: Vec<u8> = sink.earlier.iter().flat_map(|job| record::job_to_bytes(*job)).collect();
        drop(sink);
        store.flush()?;
        store.state().write(true, |tx| {
            for (key, value, kept) in &fresh {
                tx.put(record::PENDING, key, value)?;
                tx.put(record::HOSTS, key, kept)?;
                tx.put(record::PLACED, key.get(8..).unwrap_or_default(), &record::job_to_bytes(self.job))?;
            }
            if !earlier.is_empty() {
                tx.put(record::EARLIER, &record::job_to_bytes(self.job), &earlier)?;
            }
            for (table, key, value) in &records {
                tx.put(*table, key, value)?;
            }
            Ok::<(), StoreError>(())
        })?;
        Ok(())
    }

    fn note(&self, table: Table, key: Vec<u8>, value: Vec<u8>) -> Result<(), SealError> {
        let mut sink = lock(&self.sink);
        sink.records.push((table, key, value));
        let many = sink.records.len() >= RECORDS;
        drop(sink);
        if many { self.write_down() } else { Ok(()) }
    }

    /// Chunks that must lie on distinct peers, unless an earlier pass saw to them.
    fn group(&self, chunks: Vec<(ChunkId, u32)>, data: u8) -> Result<(), SealError> {
        let Some((first, _)) = chunks.first() else { return Ok(()) };
        if self.placed(first)? {
            return Ok(());
        }
        let copies = if chunks.len() == 1 { self.sealer.scheme.m.saturating_add(1) } else { 1 };
        lock(&self.sink).groups.push(Group { chunks, data, copies });
        Ok(())
    }

    /// Whether an earlier pass saw to the group that begins so; how that got on counts for this one, too.
    fn placed(&self, first: &ChunkId) -> Result<bool, SealError> {
        let Some(jobs) = self.sealer.store.state().value(record::PLACED, &first.0)? else { return Ok(false) };
        lock(&self.sink).earlier.extend(record::jobs_from_bytes(&jobs).filter(|job| *job != self.job));
        Ok(true)
    }

    /// Stores nodes: each is kept whole by several peers.
    fn nodes(&self, nodes: &[SealedChunk]) -> Result<(), SealError> {
        for node in nodes {
            self.sealer.keep(node)?;
            self.group(vec![(node.id, node.outline.len)], 1)?;
        }
        Ok(())
    }

    /// Stores the chunks of a stripe, to be hosted on distinct peers.
    fn stripe(&self, sealed: &SealedStripe) -> Result<(), SealError> {
        for chunk in &sealed.chunks {
            self.sealer.keep(chunk)?;
        }
        let chunks = sealed.chunks.iter().map(|chunk| (chunk.id, chunk.outline.len)).collect();
        self.group(chunks, sealed.stripe.data.len() as u8)
    }

    fn unstable(&self, path: &Path) {
        lock(&self.sink).unstable.push(path.to_path_buf());
    }

    /// What cannot be read is left out until it can: one bad spot of a disk, or one file that is closed to us, must not keep the rest from
    /// being published.
    fn unreadable(&self, path: &Path, error: SealError) {
        self.unstable(path);
        lock(&self.sink).unreadable.push(error);
    }

    fn full(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.to_path_buf() } else { self.root.join(path) }
    }

    /// Seals a large file, or takes it from its record. `None`: it changed while it was read.
    fn file(&self, path: &Path, metadata: &Metadata) -> Result<Option<NodeRef>, SealError> {
        self.sealer.go_on()?;
        let key = record::inode_key(metadata);
        let executable = executable(metadata.mode() as u16);
        if let Some(found) = self.sealer.file_record(&key)?
            && let Some(node) = found.node
            && found.stamp == Stamp::of(metadata)
            && found.executable == executable
        {
            return Ok(Some(node));
        }
        let full = self.full(path);
        let stamp = Stamp::of(metadata);
        wait_for_tick(&stamp);
        let file = match open(&full) {
            Ok(file) => file,
            Err(error) if replaced(&error) => {
                self.unstable(path);
                return Ok(None);
            }
            Err(source) => return Err(SealError::read(&full, source)),
        };
        let young = self.sealer.make_clean(&file, metadata).map_err(|source| SealError::read(&full, source))?;
        let before = file.metadata().map_err(|source| SealError::read(&full, source))?;
        // Its directory's entry is made from `metadata`: what grew since would not fit it.
        if !before.is_file() || record::inode_key(&before) != key || Stamp::of(&before) != stamp {
            self.unstable(path);
            return Ok(None);
        }
        self.sealer.total.fetch_add(stamp.size, Ordering::Relaxed);
        lock(&self.sealer.files).insert(key, Work { done: 0, total: stamp.size });
        let sealed = self.body(&full, &file, stamp.size, executable, &key);
        lock(&self.sealer.files).remove(&key);
        let node = match sealed? {
            Some(node) if file.metadata().is_ok_and(|after| Stamp::of(&after) == stamp) => node,
            _ => {
                self.unstable(path);
                return Ok(None);
            }
        };
        if young {
            lock(&self.sink).young.push(path.to_path_buf());
        } else {
            let record = FileRecord { stamp, executable, node: Some(node), job: self.job };
            self.note(record::FILES, key.to_vec(), record.to_bytes())?;
        }
        Ok(Some(node))
    }

    /// The body of a large file, a batch of stripes at a time. `None`: it was deleted or changed its length.
    fn body(
        &self,
        path: &Path,
        file: &File,
        size: u64,
        executable: bool,
        key: &[u8; 16],
    ) -> Result<Option<NodeRef>, SealError> {
        let Sealer { secret, scheme, .. } = self.sealer;
        let mut builder = FileBuilder::new(secret, *scheme, size, executable);
        let mut plan = extent::plan(size, *scheme);
        loop {
            let batch: Vec<ExtentPlan> = plan.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let seal = |extent: &ExtentPlan| -> Result<Option<Stripe>, SealError> {
                self.sealer.go_on()?;
                // A file that was deleted, or is being written again, is not worth the rest of the work.
                let now = file.metadata().map_err(|source| SealError::read(path, source))?;
                if now.nlink() == 0 || now.size() != size {
                    return Ok(None);
                }
                let done = || {
                    self.sealer.done.fetch_add(extent.len, Ordering::Relaxed);
                    if let Some(work) = lock(&self.sealer.files).get_mut(key) {
                        work.done += extent.len;
                    }
                };
                let hole = is_hole(file, extent.offset, extent.len);
                if hole && let Some(known) = lock(&self.zeros).get(&extent.len).cloned() {
                    done();
                    return Ok(Some(known));
                }
                let plain = match read_exact(file, extent.offset, extent.len as usize) {
                    Ok(plain) => plain,
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                    Err(source) => return Err(SealError::read(path, source)),
                };
                let sealed = seal_stripe(secret, *scheme, &plain);
                drop(plain);
                self.stripe(&sealed)?;
                if hole {
                    lock(&self.zeros).insert(extent.len, sealed.stripe.clone());
                }
                done();
                Ok(Some(sealed.stripe))
            };
            let stripes: Result<Option<Vec<Stripe>>, SealError> = batch.par_iter().map(seal).collect();
            let Some(stripes) = stripes? else { return Ok(None) };
            stripes.into_iter().for_each(|stripe| builder.push(stripe));
            self.nodes(&builder.take_nodes())?;
        }
        let (root, nodes) = builder.finish().map_err(|error| limit(path, error))?;
        self.nodes(&nodes)?;
        Ok(Some(root))
    }

    /// A short file's bytes, and whether they are to be read once more.
    fn read_short(&self, path: &Path, metadata: &Metadata) -> std::io::Result<Option<(Vec<u8>, bool)>> {
        let mut young = false;
        let bytes = read_short(path, metadata, |file| {
            young = self.sealer.make_clean(file, metadata)?;
            Ok(())
        })?;
        Ok(bytes.map(|bytes| (bytes, young)))
    }

    /// A short file as a tree of its own, whatever its directory holds of it.
    fn short(&self, path: &Path, metadata: &Metadata) -> Result<Option<NodeRef>, SealError> {
        let full = self.full(path);
        let read = self.read_short(&full, metadata).map_err(|source| SealError::read(&full, source))?;
        let Some((bytes, false)) = read else {
            self.unstable(path);
            return Ok(None);
        };
        let Sealer { secret, scheme, .. } = self.sealer;
        let built = build_file(secret, *scheme, &bytes, executable(metadata.mode() as u16));
        built.stripes.iter().try_for_each(|stripe| self.stripe(stripe))?;
        self.nodes(&built.nodes)?;
        Ok(Some(built.root))
    }
}

fn limit(path: &Path, why: impl std::fmt::Display) -> SealError {
    SealError::Limit { path: path.to_path_buf(), why: why.to_string() }
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

#[cfg(test)]
mod tests;
