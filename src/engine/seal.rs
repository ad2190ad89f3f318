//! From local files to sealed trees: reads, seals, codes and stores in parallel; reuses what did not change.

use super::record::{self, DirectoryRecord, FileRecord, LeafRecord, Stamp};
use super::status::Work;
use super::swarm::lock;
use crate::base::codec::Writer;
use crate::base::digest::ChunkId;
use crate::base::limit::{PACKED_BYTES_MAX, TREE_DEPTH_MAX, XATTRS_BYTES_MAX};
use crate::base::time::Timestamp;
use crate::content::build::{
    DirectoryBuilder, Draft, DraftBody, FileBuilder, Measure, SealedStripe, build_file, leaf_ranges, seal_leaf,
    seal_stripe, travelling_xattrs,
};
use crate::content::chunk::SealedChunk;
use crate::content::cipher::{ConvergenceSecret, ReadKey};
use crate::content::directory::{DirectoryChild, EntryKind, Xattrs, check_name, executable, xattr_travels};
use crate::content::erasure::Scheme;
use crate::content::extent::{self, ExtentPlan};
use crate::content::reference::NodeRef;
use crate::content::section::Stripe;
use crate::node::input::Group;
use crate::store::{Class, Store, StoreError, Table};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::Read;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing::warn;

/// Stripes of a large file that are sealed before their manifest nodes are built: 1 GiB with 8 data chunks.
const BATCH: usize = 128;
/// Records are written down at least after so many, so that a pass over a huge tree needs little memory and a crash in
/// it costs little work.
const RECORDS: usize = 20_000;

/// Passes whose end is remembered.
const PASSES_MAX: usize = 256;
/// Longer than the clock that stamps files takes from tick to tick (10 ms at most on Linux).
const TICK: Duration = Duration::from_millis(20);

/// How old the times of a file must be that programs may have mapped, before what was read of it is taken for all that belongs to them:
/// the kernel moves the times first and stores then, and in between may wait for the disk.
pub(super) const SETTLE: Duration = Duration::from_secs(3);

/// Why something could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A local file could not be read.
    #[error("cannot read {path}: {source}")]
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
    #[error("{path} cannot be published: {why}")]
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
}

/// What grows while a pass runs.
#[derive(Default)]
struct Sink {
    groups: Vec<Group>,
    unstable: Vec<PathBuf>,
    young: Vec<PathBuf>,
    /// Table, key, value; not yet written.
    records: Vec<(Table, Vec<u8>, Vec<u8>)>,
    /// Groups from here on are not yet written.
    written: usize,
}

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
    mapped: OnceLock<Box<dyn Fn(u64, u64) -> bool + Send + Sync>>,
    stopping: AtomicBool,
}

/// The state of one pass.
struct Run<'a> {
    sealer: &'a Sealer,
    root: &'a Path,
    extent: &'a Extent,
    job: u64,
    sink: Mutex<Sink>,
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
    pub(super) fn may_be_mapped(&self, known: Box<dyn Fn(u64, u64) -> bool + Send + Sync>) {
        let _ = self.mapped.set(known);
    }

    /// Sees to it that whatever is stored in the file from now on moves its times. A store through a map does so only where the
    /// page was written to the disk since the last one.
    fn make_clean(&self, file: &File, metadata: &Metadata) -> std::io::Result<()> {
        if self.is_mapped(metadata) { file.sync_data() } else { Ok(()) }
    }

    fn is_mapped(&self, metadata: &Metadata) -> bool {
        self.mapped.get().is_some_and(|mapped| mapped(metadata.dev(), metadata.ino()))
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

    /// Whether the short files among these were read as they are now.
    fn knows_short(&self, items: &[Item]) -> Result<bool, SealError> {
        for item in items.iter().filter(|item| matches!(item.body, ItemBody::Small)) {
            let found = self.file_record(&record::inode_key(&item.metadata))?;
            if found.is_none_or(|record| record.stamp != Stamp::of(&item.metadata)) {
                return Ok(false);
            }
        }
        Ok(true)
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
        Run { sealer: self, root, extent, job, sink: Mutex::default() }
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
        Ok(Pass { root, job, groups: sink.groups, chunks, unstable: sink.unstable, young: sink.young })
    }

    /// Makes chunks durable, then what refers to them, in that order: a crash in between only repeats work.
    fn write_down(&self) -> Result<(), SealError> {
        let store = &self.sealer.store;
        let mut sink = lock(&self.sink);
        let records = std::mem::take(&mut sink.records);
        let fresh: Vec<(Vec<u8>, Vec<u8>)> = sink
            .groups
            .iter()
            .skip(sink.written)
            .map(|group| (record::pending_key(self.job, group), record::group_to_bytes(group)))
            .collect();
        sink.written = sink.groups.len();
        drop(sink);
        store.flush()?;
        store.state().write(true, |tx| {
            for (key, value) in &fresh {
                tx.put(record::PENDING, key, value)?;
                tx.put(record::PLACED, key.get(8..).unwrap_or_default(), &[])?;
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
    fn group(&self, chunks: Vec<(ChunkId, u32)>) -> Result<(), SealError> {
        let Some((first, _)) = chunks.first() else { return Ok(()) };
        if self.sealer.store.state().value(record::PLACED, &first.0)?.is_some() {
            return Ok(());
        }
        let copies = if chunks.len() == 1 { self.sealer.scheme.m.saturating_add(1) } else { 1 };
        lock(&self.sink).groups.push(Group { chunks, copies });
        Ok(())
    }

    /// Stores nodes: each is kept whole by several peers.
    fn nodes(&self, nodes: &[SealedChunk]) -> Result<(), SealError> {
        for node in nodes {
            self.sealer.keep(node)?;
            self.group(vec![(node.id, node.outline.len)])?;
        }
        Ok(())
    }

    /// Stores the chunks of a stripe, to be hosted on distinct peers.
    fn stripe(&self, sealed: &SealedStripe) -> Result<(), SealError> {
        for chunk in &sealed.chunks {
            self.sealer.keep(chunk)?;
        }
        self.group(sealed.chunks.iter().map(|chunk| (chunk.id, chunk.outline.len)).collect())
    }

    fn unstable(&self, path: &Path) {
        lock(&self.sink).unstable.push(path.to_path_buf());
    }

    /// Whether the file is to be read once more, as a store through a map may be under way that its times tell of already.
    fn young(&self, path: &Path, metadata: &Metadata) -> bool {
        let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
        let young = age.is_some_and(|age| age < SETTLE) && self.sealer.is_mapped(metadata);
        if young {
            lock(&self.sink).young.push(path.to_path_buf());
        }
        young
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
        self.sealer.make_clean(&file, metadata).map_err(|source| SealError::read(&full, source))?;
        let before = file.metadata().map_err(|source| SealError::read(&full, source))?;
        // Its directory's entry is made from `metadata`: what grew since would not fit it.
        if !before.is_file() || record::inode_key(&before) != key || Stamp::of(&before) != stamp {
            self.unstable(path);
            return Ok(None);
        }
        let young = self.young(path, metadata);
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
        if !young {
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
                let mut plain = vec![0; extent.len as usize];
                match file.read_exact_at(&mut plain, extent.offset) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                    Err(source) => return Err(SealError::read(path, source)),
                }
                let sealed = seal_stripe(secret, *scheme, &plain);
                drop(plain);
                self.stripe(&sealed)?;
                self.sealer.done.fetch_add(extent.len, Ordering::Relaxed);
                if let Some(work) = lock(&self.sealer.files).get_mut(key) {
                    work.done += extent.len;
                }
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

    fn read_short(&self, path: &Path, metadata: &Metadata) -> std::io::Result<Option<Vec<u8>>> {
        read_short(path, metadata, |file| self.sealer.make_clean(file, metadata))
    }

    /// A short file as a tree of its own, whatever its directory holds of it.
    fn short(&self, path: &Path, metadata: &Metadata) -> Result<Option<NodeRef>, SealError> {
        let full = self.full(path);
        let Some(bytes) = self.read_short(&full, metadata).map_err(|source| SealError::read(&full, source))? else {
            self.unstable(path);
            return Ok(None);
        };
        let Sealer { secret, scheme, .. } = self.sealer;
        let built = build_file(secret, *scheme, &bytes, executable(metadata.mode() as u16));
        built.stripes.iter().try_for_each(|stripe| self.stripe(stripe))?;
        self.nodes(&built.nodes)?;
        Ok(Some(built.root))
    }

    /// Seals a directory and everything in it that is not on record. `None`: it is gone.
    fn directory(&self, path: &Path, depth: usize) -> Result<Option<DirectoryRecord>, SealError> {
        self.sealer.go_on()?;
        let full = self.full(path);
        if depth > TREE_DEPTH_MAX {
            return Err(limit(&full, format!("directories are nested deeper than {TREE_DEPTH_MAX}")));
        }
        let metadata = match std::fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            Err(error) => return gone(&full, error),
        };
        let key = record::inode_key(&metadata);
        if !self.extent.covers(path)
            && let Some(bytes) = self.sealer.store.state().value(record::DIRECTORIES, &key)?
            && let Ok(record) = DirectoryRecord::from_bytes(&bytes)
        {
            return Ok(Some(record));
        }
        let names = match list(&full) {
            Ok(names) => names,
            Err(error) => return gone(&full, error),
        };
        let items = names.into_par_iter().map(|name| self.item(path, name, depth)).collect::<Result<Vec<_>, _>>()?;
        let items: Vec<Item> = items.into_iter().flatten().collect();
        let measures: Vec<Measure> = items.iter().map(Item::measure).collect();
        let ranges = leaf_ranges(&measures);
        let leaf = |range: Range<usize>| self.leaf(path, items.get(range).unwrap_or_default());
        let children = ranges.into_par_iter().map(leaf).collect::<Result<Vec<_>, _>>()?;
        let Sealer { secret, scheme, .. } = self.sealer;
        let mut builder = DirectoryBuilder::new(secret, *scheme);
        // Files that changed while they were read may have left a leaf without entries.
        let any = children.iter().any(|child| child.entries > 0);
        let mut children = children.into_iter().filter(|child| child.entries > 0 || !any);
        if let Some(first) = children.next() {
            builder.push(first);
            children.filter(|_| any).for_each(|child| builder.push(child));
        }
        let built = builder.finish().map_err(|error| limit(&full, error))?;
        self.nodes(&built.nodes)?;
        let record = DirectoryRecord { node: built.root, bytes: built.bytes, job: self.job };
        self.note(record::DIRECTORIES, key.to_vec(), record.to_bytes())?;
        Ok(Some(record))
    }

    /// One name of a directory, with what is below it sealed. `None`: of a kind that does not travel, or it changed.
    fn item(&self, parent: &Path, name: OsString, depth: usize) -> Result<Option<Item>, SealError> {
        let path = parent.join(&name);
        let full = self.full(&path);
        let metadata = match std::fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            Err(error) => return gone(&full, error),
        };
        if check_name(name.as_bytes()).is_err() {
            warn!(path = %full.display(), "this name cannot be published");
            return Ok(None);
        }
        let kind = metadata.file_type();
        let body = if kind.is_dir() {
            match self.directory(&path, depth + 1)? {
                Some(record) => ItemBody::Directory { bytes: record.bytes, node: record.node },
                None => return Ok(None),
            }
        } else if kind.is_symlink() {
            match std::fs::read_link(&full) {
                Ok(target) => ItemBody::Symlink(target.into_os_string().into_vec()),
                Err(error) => return gone(&full, error),
            }
        } else if kind.is_file() && metadata.size() < PACKED_BYTES_MAX as u64 {
            ItemBody::Small
        } else if kind.is_file() {
            match self.file(&path, &metadata)? {
                Some(node) => ItemBody::File { size: metadata.size(), node },
                None => return Ok(None),
            }
        } else {
            return Ok(None);
        };
        Ok(Some(Item { name: name.into_vec(), xattrs: xattrs(&full), metadata, body }))
    }

    /// Seals a leaf, or takes it from the record of the same leaf.
    fn leaf(&self, parent: &Path, items: &[Item]) -> Result<DirectoryChild, SealError> {
        self.sealer.go_on()?;
        let Sealer { secret, scheme, store, .. } = self.sealer;
        let signature = leaf_signature(*scheme, items);
        if let Some(bytes) = store.state().value(record::LEAVES, &signature)?
            && let Ok(known) = LeafRecord::from_bytes(&bytes)
            && self.sealer.knows_short(items)?
        {
            let first = items.first().map(|item| item.name.clone()).unwrap_or_default();
            return Ok(DirectoryChild { first, entries: known.entries, bytes: known.bytes, node: known.node });
        }
        let mut drafts = Vec::with_capacity(items.len());
        let mut records = Vec::new();
        let mut whole = true;
        for item in items {
            let path = parent.join(OsStr::from_bytes(&item.name));
            let body = match &item.body {
                ItemBody::Small => {
                    let full = self.full(&path);
                    let young = self.young(&path, &item.metadata);
                    let Some(bytes) = self.read_short(&full, &item.metadata).unwrap_or(None) else {
                        self.unstable(&path);
                        whole = false;
                        continue;
                    };
                    self.sealer.total.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    self.sealer.done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    let executable = executable(item.metadata.mode() as u16);
                    let record = FileRecord { stamp: Stamp::of(&item.metadata), executable, node: None, job: self.job };
                    if young {
                        whole = false;
                    } else {
                        records.push((record::inode_key(&item.metadata), record));
                    }
                    DraftBody::Small(bytes)
                }
                ItemBody::File { size, node } => DraftBody::File { size: *size, node: *node },
                ItemBody::Directory { bytes, node } => DraftBody::Directory { bytes: *bytes, node: *node },
                ItemBody::Symlink(target) => DraftBody::Symlink(target.clone()),
            };
            drafts.push(Draft {
                name: item.name.clone(),
                mode: (item.metadata.mode() & 0o777) as u16,
                mtime: Timestamp { seconds: item.metadata.mtime(), nanos: item.metadata.mtime_nsec() as u32 },
                xattrs: item.xattrs.clone(),
                body,
            });
        }
        let sealed = seal_leaf(secret, *scheme, drafts).map_err(|error| limit(&self.full(parent), error))?;
        if let Some(pack) = &sealed.pack {
            self.stripe(pack)?;
        }
        self.nodes(std::slice::from_ref(&sealed.node))?;
        for (key, record) in records {
            self.note(record::FILES, key.to_vec(), record.to_bytes())?;
        }
        let child = sealed.child;
        if whole {
            let known = LeafRecord { node: child.node, entries: child.entries, bytes: child.bytes };
            self.note(record::LEAVES, signature.to_vec(), known.to_bytes())?;
        }
        Ok(child)
    }
}

/// One name of a directory, before it is sealed.
struct Item {
    name: Vec<u8>,
    metadata: Metadata,
    xattrs: Xattrs,
    body: ItemBody,
}

enum ItemBody {
    /// Read when its leaf is sealed.
    Small,
    File {
        size: u64,
        node: NodeRef,
    },
    Directory {
        bytes: u64,
        node: NodeRef,
    },
    Symlink(Vec<u8>),
}

impl Item {
    fn measure(&self) -> Measure {
        let (kind, size) = match &self.body {
            ItemBody::Small => (EntryKind::File, self.metadata.size()),
            ItemBody::File { size, .. } => (EntryKind::File, *size),
            ItemBody::Directory { bytes, .. } => (EntryKind::Directory, *bytes),
            ItemBody::Symlink(target) => (EntryKind::Symlink, target.len() as u64),
        };
        Measure::new(&self.name, kind, size, &self.xattrs)
    }
}

/// A hash of all that decides what a leaf's chunks will be, without reading its files.
fn leaf_signature(scheme: Scheme, items: &[Item]) -> [u8; 32] {
    let mut out = Writer::new();
    out.raw(&[scheme.k, scheme.m]);
    for item in items {
        out.bytes(&item.name);
        out.uint(u64::from(item.metadata.mode() & 0o777));
        out.int(item.metadata.mtime());
        out.uint(item.metadata.mtime_nsec() as u64);
        out.uint(item.xattrs.len() as u64);
        for (name, value) in &item.xattrs {
            out.bytes(name);
            out.bytes(value);
        }
        match &item.body {
            ItemBody::Small => {
                out.byte(0);
                out.raw(&record::inode_key(&item.metadata));
                Stamp::of(&item.metadata).write(&mut out);
            }
            ItemBody::File { size, node } => {
                out.byte(1);
                out.uint(*size);
                out.raw(&node.id.0);
            }
            ItemBody::Directory { bytes, node } => {
                out.byte(2);
                out.uint(*bytes);
                out.raw(&node.id.0);
            }
            ItemBody::Symlink(target) => {
                out.byte(3);
                out.bytes(target);
            }
        }
    }
    *blake3::hash(&out.into_bytes()).as_bytes()
}

fn limit(path: &Path, why: impl std::fmt::Display) -> SealError {
    SealError::Limit { path: path.to_path_buf(), why: why.to_string() }
}

/// Something that was removed while the tree was read is no failure.
fn gone<T>(path: &Path, error: std::io::Error) -> Result<Option<T>, SealError> {
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(None),
        _ => Err(SealError::read(path, error)),
    }
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

/// What was a file a moment ago is gone, or something else stands there.
fn replaced(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Waits until a change of the file would show in its stamp. File systems take times from a clock that ticks every few
/// milliseconds: of two changes within one tick the second leaves the stamp as it is, and would be missed for ever by
/// somebody who read the file between them.
fn wait_for_tick(stamp: &Stamp) {
    let left = tick_left(stamp, SystemTime::now());
    if !left.is_zero() {
        std::thread::sleep(left);
    }
}

fn tick_left(stamp: &Stamp, now: SystemTime) -> Duration {
    let (seconds, nanos) = stamp.changed;
    let Ok(now) = now.duration_since(UNIX_EPOCH) else { return Duration::ZERO };
    let changed = Duration::new(u64::try_from(seconds).unwrap_or(0), nanos);
    match now.checked_sub(changed) {
        Some(age) => TICK.saturating_sub(age),
        // A clock that was set back; how long it takes to catch up is not known.
        None => TICK,
    }
}

/// The names in a directory, in the order that the format wants.
fn list(path: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

/// A short file's bytes; `None` when it is not any more what `metadata` says.
fn read_short(
    path: &Path,
    metadata: &Metadata,
    make_clean: impl FnOnce(&File) -> std::io::Result<()>,
) -> std::io::Result<Option<Vec<u8>>> {
    let stamp = Stamp::of(metadata);
    wait_for_tick(&stamp);
    let file = match open(path) {
        Err(error) if replaced(&error) => return Ok(None),
        other => other?,
    };
    make_clean(&file)?;
    let mut bytes = Vec::with_capacity(stamp.size as usize + 1);
    (&file).take(PACKED_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    let same = record::inode_key(&after) == record::inode_key(metadata) && Stamp::of(&after) == stamp;
    Ok((same && bytes.len() as u64 == stamp.size).then_some(bytes))
}

/// The extended attributes that travel; a file system that has none is as good as a file without.
fn xattrs(path: &Path) -> Xattrs {
    let mut names = [0u8; 4096];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else { return Xattrs::new() };
    let names = names.get(..len).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let wanted = names.filter(|name| xattr_travels(name));
    let all = wanted.filter_map(|name| {
        let mut value = [0u8; XATTRS_BYTES_MAX];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
        Some((name.to_vec(), value.get(..len)?.to_vec()))
    });
    travelling_xattrs(all)
}

/// Opens for reading without following a link in the last place, and without waiting for a writer of a pipe.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    std::fs::OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

#[cfg(test)]
mod tests;
