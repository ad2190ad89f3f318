//! What the publisher remembers on disk: which local file is which sealed body, and which chunks are still to be hosted.

use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::digest::ChunkId;
use crate::base::limit::PROVIDERS_PER_CHUNK_MAX;
use crate::base::limit::{CHUNK_BYTES_MAX, STRIPE_CHUNKS_MAX};
use crate::base::peer::PeerId;
use crate::content::cipher::ReadKey;
use crate::content::reference::{NodeRef, RootRef};
use crate::node::input::{Group, Holder, Kept};
use crate::store::Table;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// File by device and inode: `FileRecord`.
pub(super) const FILES: Table = Table("files.1");
/// Directory by device and inode: `DirectoryRecord`.
pub(super) const DIRECTORIES: Table = Table("directories.1");
/// Directory leaf by a hash of what went into it: its encoded result.
pub(super) const LEAVES: Table = Table("leaves.1");
/// Groups that are not hosted yet, by job and first chunk: `Group`.
pub(super) const PENDING: Table = Table("pending.1");
/// Groups that are looked after, by job and first chunk: `Kept`.
pub(super) const HOSTS: Table = Table("hosts.1");
/// `ADOPTED` stands in it once all that older versions published has its records in `HOSTS`.
pub(super) const KEPT: Table = Table("kept.1");
/// See `KEPT`.
pub(super) const ADOPTED: &[u8] = b"adopted";
/// First chunks of all groups that were ever handed to a job: which one (`job_to_bytes`; nothing where an older version did it).
pub(super) const PLACED: Table = Table("placed.1");
/// Job: the jobs of earlier passes that have groups of what it sealed, one `job_to_bytes` after another.
pub(super) const EARLIER: Table = Table("earlier.1");
/// Job: `JobRecord`.
pub(super) const JOBS: Table = Table("jobs.1");
/// What is kept: the own tree (`TREE`) and what was published on demand (`published_key`). The reference as text and its job.
/// Chunks that none of these refers to, nor any of `SINGLES`, are forgotten by `collect`.
pub(super) const ROOTS: Table = Table("roots.1");
/// Key of the own tree.
pub(super) const TREE: &[u8] = b"tree";
/// Mutable names, by name: see `names`.
pub(super) const NAMES: Table = Table("names.1");
/// Packed file that was asked for its own reference, by device and inode: `SingleRecord`.
pub(super) const SINGLES: Table = Table("singles.1");

/// Key of something published on demand.
pub(super) fn published_key(reference: &RootRef) -> Vec<u8> {
    [PUBLISHED, reference.node.id.as_bytes()].concat()
}

/// How the keys of what was published on demand begin.
pub(super) const PUBLISHED: &[u8] = b"published ";

/// Value of `ROOTS`.
pub(super) fn root_to_bytes(reference: &RootRef, job: u64) -> Vec<u8> {
    serde_json::json!([reference.to_string(), job]).to_string().into_bytes()
}

/// Reads what `root_to_bytes` wrote.
pub(super) fn root_from_bytes(bytes: &[u8]) -> Option<RootRef> {
    root_and_job(bytes).map(|(root, _)| root)
}

/// The same, with the job.
pub(super) fn root_and_job(bytes: &[u8]) -> Option<(RootRef, u64)> {
    let (text, job) = serde_json::from_slice::<(String, u64)>(bytes).ok()?;
    Some((text.parse().ok()?, job))
}

/// Names a file or directory whatever its path: device and inode.
pub(super) fn inode_key(metadata: &std::fs::Metadata) -> [u8; 16] {
    file_key(metadata.dev(), metadata.ino())
}

/// The same of these numbers.
pub(super) fn file_key(dev: u64, ino: u64) -> [u8; 16] {
    let mut key = [0; 16];
    let (device, inode) = key.split_at_mut(8);
    device.copy_from_slice(&dev.to_be_bytes());
    inode.copy_from_slice(&ino.to_be_bytes());
    key
}

/// Tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
}

impl Stamp {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Stamp {
        Stamp {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec() as u32),
            changed: (metadata.ctime(), metadata.ctime_nsec() as u32),
        }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.uint(self.size);
        for (seconds, nanos) in [self.modified, self.changed] {
            out.int(seconds);
            out.uint(u64::from(nanos));
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Stamp, DecodeError> {
        let size = from.uint()?;
        let mut time = || Ok((from.int()?, from.uint_max("nanoseconds", 999_999_999)? as u32));
        Ok(Stamp { size, modified: time()?, changed: time()? })
    }
}

/// A file as it was last sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileRecord {
    pub(super) stamp: Stamp,
    pub(super) executable: bool,
    /// Its node; `None` when its bytes lie in its directory.
    pub(super) node: Option<NodeRef>,
    /// The job that has it hosted.
    pub(super) job: u64,
}

impl FileRecord {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        self.stamp.write(&mut out);
        out.byte(u8::from(self.executable));
        write_node(&mut out, self.node.as_ref());
        out.uint(self.job);
        out.into_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<FileRecord, DecodeError> {
        let mut from = Reader::new(bytes);
        let stamp = Stamp::read(&mut from)?;
        let executable = from.byte()? != 0;
        let node = read_node(&mut from)?;
        let job = from.uint()?;
        from.finish()?;
        Ok(FileRecord { stamp, executable, node, job })
    }
}

/// A directory as it was last sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirectoryRecord {
    pub(super) node: NodeRef,
    /// Of all files below it.
    pub(super) bytes: u64,
    pub(super) job: u64,
}

impl DirectoryRecord {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        write_node(&mut out, Some(&self.node));
        out.uint(self.bytes);
        out.uint(self.job);
        out.into_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<DirectoryRecord, DecodeError> {
        let mut from = Reader::new(bytes);
        let node = read_node(&mut from)?.ok_or(DecodeError::Invalid("directory without a node"))?;
        let (bytes, job) = (from.uint()?, from.uint()?);
        from.finish()?;
        Ok(DirectoryRecord { node, bytes, job })
    }
}

/// A packed file with a node of its own besides: kept while the file stays as and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SingleRecord {
    pub(super) stamp: Stamp,
    pub(super) node: NodeRef,
    /// Below the root of the own tree.
    pub(super) path: PathBuf,
}

impl SingleRecord {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        self.stamp.write(&mut out);
        write_node(&mut out, Some(&self.node));
        out.raw(self.path.as_os_str().as_bytes());
        out.into_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<SingleRecord, DecodeError> {
        let mut from = Reader::new(bytes);
        let stamp = Stamp::read(&mut from)?;
        let node = read_node(&mut from)?.ok_or(DecodeError::Invalid("single file without a node"))?;
        let path = PathBuf::from(OsStr::from_bytes(from.raw(from.remaining())?));
        Ok(SingleRecord { stamp, node, path })
    }

    /// Whether the file in the own tree at `tree` is still this one.
    pub(super) fn stands(&self, tree: &Path, key: &[u8]) -> bool {
        let found = std::fs::symlink_metadata(tree.join(&self.path));
        found.is_ok_and(|now| inode_key(&now) == key && Stamp::of(&now) == self.stamp)
    }
}

/// A leaf of a directory as it was last sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeafRecord {
    pub(super) node: NodeRef,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

impl LeafRecord {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        write_node(&mut out, Some(&self.node));
        out.uint(self.entries);
        out.uint(self.bytes);
        out.into_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<LeafRecord, DecodeError> {
        let mut from = Reader::new(bytes);
        let node = read_node(&mut from)?.ok_or(DecodeError::Invalid("leaf without a node"))?;
        let (entries, bytes) = (from.uint()?, from.uint()?);
        from.finish()?;
        Ok(LeafRecord { node, entries, bytes })
    }
}

fn write_node(out: &mut Writer, node: Option<&NodeRef>) {
    out.byte(u8::from(node.is_some()));
    if let Some(node) = node {
        out.raw(&node.id.0);
        out.raw(&node.key.0);
        out.uint(u64::from(node.len));
    }
}

fn read_node(from: &mut Reader<'_>) -> Result<Option<NodeRef>, DecodeError> {
    match from.byte()? {
        0 => Ok(None),
        1 => {
            let (id, key) = (ChunkId(from.array()?), ReadKey(from.array()?));
            let len = from.uint_max("chunk length", CHUNK_BYTES_MAX as u64)? as u32;
            Ok(Some(NodeRef { id, len, key }))
        }
        _ => Err(DecodeError::Invalid("node flag")),
    }
}

pub(super) fn group_to_bytes(group: &Group) -> Vec<u8> {
    let mut out = Writer::new();
    out.byte(group.copies);
    out.uint(group.chunks.len() as u64);
    for (id, len) in &group.chunks {
        out.raw(&id.0);
        out.uint(u64::from(*len));
    }
    out.into_bytes()
}

pub(super) fn group_from_bytes(bytes: &[u8]) -> Result<Group, DecodeError> {
    let mut from = Reader::new(bytes);
    let copies = from.byte()?;
    let count = from.count("chunks of a group", STRIPE_CHUNKS_MAX, 33)?;
    let mut chunks = Vec::with_capacity(count);
    for _ in 0..count {
        chunks.push((ChunkId(from.array()?), from.uint_max("chunk length", u64::from(u32::MAX))? as u32));
    }
    from.finish()?;
    Ok(Group { chunks, data: 0, copies })
}

/// Value of `HOSTS`.
pub(super) fn kept_to_bytes(kept: &Kept) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(&[kept.data, kept.copies]);
    out.uint(kept.chunks.len() as u64);
    for ((id, len), holders) in kept.chunks.iter().zip(&kept.holders) {
        out.raw(&id.0);
        out.uint(u64::from(*len));
        out.uint(holders.len() as u64);
        for holder in holders {
            out.raw(&holder.peer.0);
            [holder.proved, holder.silent, holder.until].into_iter().for_each(|time| out.uint(time));
        }
    }
    out.into_bytes()
}

/// Reads what `kept_to_bytes` wrote.
pub(super) fn kept_from_bytes(bytes: &[u8]) -> Result<Kept, DecodeError> {
    let mut from = Reader::new(bytes);
    let (data, copies) = (from.byte()?, from.byte()?);
    let count = from.count("chunks of a group", STRIPE_CHUNKS_MAX, 34)?;
    let (mut chunks, mut all) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        chunks.push((ChunkId(from.array()?), from.uint_max("chunk length", CHUNK_BYTES_MAX as u64)? as u32));
        let known = from.count("holders of a chunk", usize::from(u8::MAX) + PROVIDERS_PER_CHUNK_MAX, 35)?;
        let mut holders = Vec::with_capacity(known);
        for _ in 0..known {
            let peer = PeerId(from.array()?);
            holders.push(Holder { peer, proved: from.uint()?, silent: from.uint()?, until: from.uint()? });
        }
        all.push(holders);
    }
    from.finish()?;
    Ok(Kept { chunks, data, copies, holders: all })
}

/// Key of a pending group, and of one that is looked after.
pub(super) fn pending_key(job: u64, group: &Group) -> Vec<u8> {
    let mut key = job.to_be_bytes().to_vec();
    if let Some((id, _)) = group.chunks.first() {
        key.extend_from_slice(&id.0);
    }
    key
}

/// A job as it stands in values, and before the groups of `PENDING` and `HOSTS`.
pub(super) fn job_to_bytes(job: u64) -> [u8; 8] {
    job.to_be_bytes()
}

/// Reads jobs one after another.
pub(super) fn jobs_from_bytes(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).filter_map(pending_job)
}

/// The job in the key of a pending group.
pub(super) fn pending_job(key: &[u8]) -> Option<u64> {
    key.first_chunk().copied().map(u64::from_be_bytes)
}

/// How far a job came, for the state of its files after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct JobRecord {
    pub(super) hosts: u16,
    pub(super) wanted: u16,
    pub(super) done: bool,
}

impl JobRecord {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Writer::new();
        out.uint(u64::from(self.hosts));
        out.uint(u64::from(self.wanted));
        out.byte(u8::from(self.done));
        out.into_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<JobRecord, DecodeError> {
        let mut from = Reader::new(bytes);
        let mut number = || from.uint_max("hosts", u64::from(u16::MAX)).map(|n| n as u16);
        let (hosts, wanted) = (number()?, number()?);
        let done = from.byte()? != 0;
        from.finish()?;
        Ok(JobRecord { hosts, wanted, done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_back(size: u64, seconds: i64, nanos in 0u32..1_000_000_000, executable: bool, id: [u8; 32], key: [u8; 32], job: u64, lone: bool) {
            let stamp = Stamp { size, modified: (seconds, nanos), changed: (-1, 0) };
            let node = NodeRef { id: ChunkId(id), len: nanos % (1 << 20), key: ReadKey(key) };
            let file = FileRecord { stamp, executable, node: (!lone).then_some(node), job };
            prop_assert_eq!(FileRecord::from_bytes(&file.to_bytes()), Ok(file));
            let directory = DirectoryRecord { node, bytes: size, job };
            prop_assert_eq!(DirectoryRecord::from_bytes(&directory.to_bytes()), Ok(directory));
            let single = SingleRecord { stamp, node, path: PathBuf::from(OsStr::from_bytes(&id)) };
            prop_assert_eq!(SingleRecord::from_bytes(&single.to_bytes()), Ok(single));
            let root = RootRef { kind: crate::content::reference::Kind::File, node: NodeRef { len: 1, ..node } };
            prop_assert_eq!(root_from_bytes(&root_to_bytes(&root, job)), Some(root));
            let group = Group { chunks: vec![(ChunkId(id), nanos), (ChunkId(key), 1)], data: 1, copies: 5 };
            let back = group_from_bytes(&group_to_bytes(&group)).unwrap();
            prop_assert_eq!((&back.chunks, back.copies), (&group.chunks, group.copies));
            let mut kept = Kept::new(&group);
            kept.chunks.iter_mut().for_each(|(_, len)| *len %= 1 << 20);
            kept.proved(0, PeerId(key), job, Some(size));
            kept.proved(1, PeerId(id), 0, None);
            kept.failed(1, &PeerId(id), job, false);
            prop_assert_eq!(kept_from_bytes(&kept_to_bytes(&kept)), Ok(kept));
        }

        #[test]
        fn arbitrary_records_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = FileRecord::from_bytes(&bytes);
            let _ = DirectoryRecord::from_bytes(&bytes);
            let _ = SingleRecord::from_bytes(&bytes);
            let _ = root_from_bytes(&bytes);
            let _ = group_from_bytes(&bytes);
            let _ = kept_from_bytes(&bytes);
            let _ = JobRecord::from_bytes(&bytes);
        }
    }
}
