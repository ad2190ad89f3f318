//! From entries to a directory's leaves and inner nodes: where they are cut, and their sealing.

use super::BuildError;
use super::stripe::{SealedStripe, seal_stripe};
use crate::base::limit::{
    DIRECTORY_ENTRIES_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX, LINK_BYTES_MAX, PACKED_BYTES_MAX, XATTRS_BYTES_MAX,
};
use crate::base::time::Timestamp;
use crate::content::chunk::SealedChunk;
use crate::content::cipher::ConvergenceSecret;
use crate::content::directory::{
    DirectoryChild, Entry, EntryBody, EntryKind, Inner, Leaf, PACK_BYTES_MAX, Xattrs, check_name, check_xattrs,
    xattr_travels,
};
use crate::content::erasure::Scheme;
use crate::content::reference::NodeRef;
use std::ops::Range;

/// The weight of a node's entries or children at most: an upper bound of their encoded length.
const WEIGHT_MAX: u64 = 64 * 1024;
/// Weight of an entry without references, beside its name, target, content and attributes.
const WEIGHT_ENTRY: u64 = 40;
/// Weight of an entry, or a child of an inner node, that refers to a node, beside its name and attributes.
const WEIGHT_NODE: u64 = 160;
/// Weight of an extended attribute beside its name and value.
const WEIGHT_XATTR: u64 = 4;

/// What decides where a directory is cut, known before any file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Cuts fall before low ones.
    rank: u64,
    /// Upper bound of the encoded length.
    weight: u32,
    /// Bytes in the pack.
    packed: u32,
}

impl Measure {
    /// Of an entry with these travelling attributes; `size` as in `Entry::size`.
    pub fn new(name: &[u8], kind: EntryKind, size: u64, xattrs: &Xattrs) -> Measure {
        let small = size.min(PACKED_BYTES_MAX as u64);
        let (body, packed) = match kind {
            EntryKind::Symlink => (WEIGHT_ENTRY + small, 0),
            EntryKind::File if size <= INLINE_BYTES_MAX as u64 => (WEIGHT_ENTRY + size, 0),
            EntryKind::File if size < PACKED_BYTES_MAX as u64 => (WEIGHT_ENTRY, size as u32),
            EntryKind::File | EntryKind::Directory => (WEIGHT_NODE, 0),
        };
        let xattrs: u64 =
            xattrs.iter().map(|(name, value)| WEIGHT_XATTR + name.len() as u64 + value.len() as u64).sum();
        Measure { rank: rank(name), weight: (body + name.len() as u64 + xattrs) as u32, packed }
    }

    fn child(first: &[u8]) -> Measure {
        Measure { rank: rank(first), weight: (WEIGHT_NODE + first.len() as u64) as u32, packed: 0 }
    }
}

/// The first 8 bytes of a name's BLAKE3 hash, little-endian.
fn rank(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    hash.as_bytes().first_chunk().map_or(0, |head| u64::from_le_bytes(*head))
}

/// Cuts a directory's entries, measured in the order of their names, into leaves. Depends on nothing else: equal directories
/// are cut alike whatever their history, and a change moves the cuts near it only.
pub fn leaf_ranges(entries: &[Measure]) -> Vec<Range<usize>> {
    if entries.is_empty() { std::iter::once(0..0).collect() } else { cut(entries) }
}

/// Each part is as long as it may be, then shortened by up to a quarter to end before the lowest rank there: a place that
/// the neighbours' growth does not move.
fn cut(items: &[Measure]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    while start < items.len() {
        let (mut weight, mut packed) = (0u64, 0u64);
        let mut best: Option<(u64, usize)> = None;
        let mut end = items.len();
        for (place, item) in items.iter().enumerate().skip(start) {
            let full = weight * 4 >= WEIGHT_MAX * 3 || packed * 4 >= PACK_BYTES_MAX as u64 * 3;
            if full && best.is_none_or(|(rank, _)| item.rank < rank) {
                best = Some((item.rank, place));
            }
            weight += u64::from(item.weight);
            packed += u64::from(item.packed);
            if place > start && (weight > WEIGHT_MAX || packed > PACK_BYTES_MAX as u64) {
                end = best.map_or(place, |(_, place)| place);
                break;
            }
        }
        parts.push(start..end);
        start = end;
    }
    parts
}

/// Those of a file's extended attributes that travel, in order; what passes `limit::XATTRS_BYTES_MAX` is left out.
pub fn travelling_xattrs(all: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Xattrs {
    let mut xattrs: Xattrs = all.into_iter().filter(|(name, _)| xattr_travels(name)).collect();
    xattrs.sort();
    xattrs.dedup_by(|a, b| a.0 == b.0);
    let mut left = XATTRS_BYTES_MAX;
    xattrs.retain(|(name, value)| {
        let fits = name.len() + value.len() <= left;
        left -= if fits { name.len() + value.len() } else { 0 };
        fits
    });
    xattrs
}

/// An entry to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its name.
    pub name: Vec<u8>,
    /// Permission bits; what is over 0o777 does not travel.
    pub mode: u16,
    /// When its content last changed.
    pub mtime: Timestamp,
    /// As [`travelling_xattrs`] gives them.
    pub xattrs: Xattrs,
    /// What stands behind it.
    pub body: DraftBody,
}

/// What stands behind the name of a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftBody {
    /// A file under `limit::PACKED_BYTES_MAX` bytes: its content.
    Small(Vec<u8>),
    /// A longer file: its size and its manifest.
    File {
        /// In bytes.
        size: u64,
        /// Its top node.
        node: NodeRef,
    },
    /// A directory, built before.
    Directory {
        /// `BuiltDirectory::bytes`.
        bytes: u64,
        /// Its top node.
        node: NodeRef,
    },
    /// A symbolic link's target.
    Symlink(Vec<u8>),
}

impl Draft {
    /// What decides where its directory is cut.
    pub fn measure(&self) -> Measure {
        let (kind, size) = match &self.body {
            DraftBody::Small(bytes) => (EntryKind::File, bytes.len() as u64),
            DraftBody::File { size, .. } => (EntryKind::File, *size),
            DraftBody::Directory { bytes, .. } => (EntryKind::Directory, *bytes),
            DraftBody::Symlink(target) => (EntryKind::Symlink, target.len() as u64),
        };
        Measure::new(&self.name, kind, size, &self.xattrs)
    }

    /// The entry, its packed bytes put at the end of `pack`.
    fn into_entry(self, pack: &mut Vec<u8>) -> Result<Entry, BuildError> {
        let Draft { name, mode, mut mtime, xattrs, body } = self;
        check_name(&name)?;
        check_xattrs(&xattrs).map_err(BuildError::Xattrs)?;
        mtime.nanos = mtime.nanos.min(999_999_999);
        let mut mode = mode & 0o777;
        let (size, body) = match body {
            DraftBody::Small(bytes) if bytes.len() <= INLINE_BYTES_MAX => {
                (bytes.len() as u64, EntryBody::Inline(bytes))
            }
            DraftBody::Small(bytes) => {
                let offset = pack.len() as u32;
                if bytes.len() >= PACKED_BYTES_MAX || pack.len() + bytes.len() > PACK_BYTES_MAX {
                    return Err(BuildError::Changed);
                }
                pack.extend_from_slice(&bytes);
                (bytes.len() as u64, EntryBody::Packed { offset })
            }
            DraftBody::File { size, .. } if size < PACKED_BYTES_MAX as u64 => return Err(BuildError::Changed),
            DraftBody::File { size, node } => (size, EntryBody::File(node)),
            DraftBody::Directory { bytes, node } => (bytes, EntryBody::Directory(node)),
            DraftBody::Symlink(target) => {
                if target.is_empty() || target.len() > LINK_BYTES_MAX || target.contains(&0) {
                    return Err(BuildError::Target);
                }
                mode = 0o777;
                (target.len() as u64, EntryBody::Symlink(target))
            }
        };
        if size > FILE_BYTES_MAX {
            return Err(BuildError::Bytes);
        }
        Ok(Entry { name, mode, mtime, size, xattrs, body })
    }
}

/// A sealed leaf.
#[derive(Debug, Clone)]
pub struct SealedLeaf {
    /// What its parent says of it, for [`DirectoryBuilder::push`]: kept with the pack's ids, it spares an unchanged leaf's
    /// files from being read and sealed again.
    pub child: DirectoryChild,
    /// Its own chunk.
    pub node: SealedChunk,
    /// Its entries as readers will see them.
    pub leaf: Leaf,
    /// The pack of its small files.
    pub pack: Option<SealedStripe>,
}

/// Seals the entries of one of the [`leaf_ranges`], in the order of their names. Leaves do not depend on each other.
pub fn seal_leaf(secret: &ConvergenceSecret, scheme: Scheme, drafts: Vec<Draft>) -> Result<SealedLeaf, BuildError> {
    let weight: u64 = drafts.iter().map(|draft| u64::from(draft.measure().weight)).sum();
    if drafts.len() > 1 && weight > WEIGHT_MAX {
        return Err(BuildError::Changed);
    }
    if !drafts.is_sorted_by(|a, b| a.name < b.name) {
        return Err(BuildError::Order);
    }
    let mut bytes = Vec::new();
    let entries =
        drafts.into_iter().map(|draft| draft.into_entry(&mut bytes)).collect::<Result<Vec<Entry>, BuildError>>()?;
    let pack = (!bytes.is_empty()).then(|| seal_stripe(secret, scheme, &bytes));
    let leaf = Leaf { scheme, entries, pack: pack.as_ref().map(|pack| pack.stripe.clone()) };
    if leaf.bytes() > FILE_BYTES_MAX {
        return Err(BuildError::Bytes);
    }
    let (node_ref, node) = leaf.seal(secret);
    let first = leaf.entries.first().map(|entry| entry.name.clone()).unwrap_or_default();
    let child = DirectoryChild { first, entries: leaf.entries.len() as u64, bytes: leaf.bytes(), node: node_ref };
    Ok(SealedLeaf { child, node, leaf, pack })
}

/// Builds the nodes above a directory's leaves.
#[derive(Debug)]
pub struct DirectoryBuilder {
    secret: ConvergenceSecret,
    scheme: Scheme,
    children: Vec<DirectoryChild>,
}

/// A directory built.
#[derive(Debug, Clone)]
pub struct BuiltDirectory {
    /// Its reference, but for the kind.
    pub root: NodeRef,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of all files in it and below the directories in it.
    pub bytes: u64,
    /// Its inner nodes, the top one last; none when its only leaf is the top node. Leaves came from [`seal_leaf`].
    pub nodes: Vec<SealedChunk>,
}

impl DirectoryBuilder {
    /// With no leaf yet. An empty directory has one, without entries.
    pub fn new(secret: &ConvergenceSecret, scheme: Scheme) -> DirectoryBuilder {
        DirectoryBuilder { secret: secret.clone(), scheme, children: Vec::new() }
    }

    /// The next leaf, in the order of [`leaf_ranges`].
    pub fn push(&mut self, leaf: DirectoryChild) {
        self.children.push(leaf);
    }

    /// The directory's top node and the inner nodes.
    pub fn finish(self) -> Result<BuiltDirectory, BuildError> {
        let DirectoryBuilder { secret, scheme, mut children } = self;
        let empty = children.len() > 1 && children.iter().any(|child| child.entries == 0);
        if children.is_empty() || empty || !children.is_sorted_by(|a, b| a.first < b.first) {
            return Err(BuildError::Order);
        }
        let mut nodes = Vec::new();
        for level in 1.. {
            if children.len() == 1 {
                break;
            }
            let measures: Vec<Measure> = children.iter().map(|child| Measure::child(&child.first)).collect();
            let mut rest = children.into_iter();
            let mut parents = Vec::new();
            for part in cut(&measures) {
                let inner = Inner { scheme, level, children: rest.by_ref().take(part.len()).collect() };
                let (entries, bytes) = (inner.entries(), inner.bytes());
                let first = inner.children.first().map(|child| child.first.clone()).unwrap_or_default();
                let (node, chunk) = inner.seal(&secret);
                nodes.push(chunk);
                parents.push(DirectoryChild { first, entries, bytes, node });
            }
            children = parents;
        }
        let top = children.pop().ok_or(BuildError::Order)?;
        if top.entries > DIRECTORY_ENTRIES_MAX {
            return Err(BuildError::Entries);
        }
        if top.bytes > FILE_BYTES_MAX {
            return Err(BuildError::Bytes);
        }
        Ok(BuiltDirectory { root: top.node, entries: top.entries, bytes: top.bytes, nodes })
    }
}

/// Builds a whole directory whose small files are at hand; drafts in the order of their names.
pub fn build_directory(
    secret: &ConvergenceSecret,
    scheme: Scheme,
    drafts: Vec<Draft>,
) -> Result<(BuiltDirectory, Vec<SealedLeaf>), BuildError> {
    let measures: Vec<Measure> = drafts.iter().map(Draft::measure).collect();
    let ranges = leaf_ranges(&measures);
    let mut rest = drafts.into_iter();
    let mut builder = DirectoryBuilder::new(secret, scheme);
    let mut leaves = Vec::with_capacity(ranges.len());
    for range in ranges {
        let leaf = seal_leaf(secret, scheme, rest.by_ref().take(range.len()).collect())?;
        builder.push(leaf.child.clone());
        leaves.push(leaf);
    }
    Ok((builder.finish()?, leaves))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::node::Node;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SECRET: ConvergenceSecret = ConvergenceSecret([6; 32]);

    fn draft(name: &str, content: Vec<u8>) -> Draft {
        let mtime = Timestamp { seconds: 1, nanos: 0 };
        Draft { name: name.into(), mode: 0o644, mtime, xattrs: Vec::new(), body: DraftBody::Small(content) }
    }

    /// 10,000 files of 10 KiB, measured only.
    fn measures() -> Vec<(String, Measure)> {
        let name = |i: u32| format!("file-{i:06}.dat");
        (0..10_000).map(|i| (name(i), Measure::new(name(i).as_bytes(), EntryKind::File, 10_240, &Vec::new()))).collect()
    }

    /// The names of each leaf and what they weigh in the pack: equal for leaves that are equal.
    fn leaves(entries: &[(String, Measure)]) -> BTreeSet<Vec<(String, u32)>> {
        let measures: Vec<Measure> = entries.iter().map(|(_, measure)| *measure).collect();
        let names = |range: Range<usize>| entries[range].iter().map(|(name, m)| (name.clone(), m.packed)).collect();
        leaf_ranges(&measures).into_iter().map(names).collect()
    }

    #[test]
    fn ten_thousand_files_of_10_kib_take_about_a_hundred_packs() {
        let packs = leaves(&measures()).len();
        assert!((98..=125).contains(&packs), "{packs}");
    }

    #[test]
    fn a_change_rewrites_few_leaves() {
        let before = measures();
        let old = leaves(&before);
        let (mut grown, mut removed, mut added) = (0, 0, 0);
        for i in (50..10_000).step_by(997) {
            let changed = |entries: &[(String, Measure)]| leaves(entries).difference(&old).count();
            let mut after = before.clone();
            after[i].1 = Measure::new(after[i].0.as_bytes(), EntryKind::File, 12_000, &Vec::new());
            grown += changed(&after);
            after.remove(i);
            removed += changed(&after);
            let name = format!("file-{i:06}.dat.new");
            let measure = Measure::new(name.as_bytes(), EntryKind::File, 60_000, &Vec::new());
            after.insert(i, (name, measure));
            added += changed(&after);
        }
        // Ten changes of each kind.
        assert!(grown <= 15 && removed <= 45 && added <= 60, "{grown} {removed} {added}");
    }

    #[test]
    fn an_empty_directory_has_one_empty_leaf() {
        let (built, leaves) = build_directory(&SECRET, Scheme::DEFAULT, Vec::new()).unwrap();
        assert_eq!((built.entries, built.bytes, built.nodes.len(), leaves.len()), (0, 0, 0, 1));
        let opened = Node::open(&built.root.key, &leaves[0].node.bytes).unwrap();
        assert_eq!(opened, Node::Leaf(Leaf { scheme: Scheme::DEFAULT, entries: Vec::new(), pack: None }));
    }

    #[test]
    fn the_heaviest_entries_still_fit() {
        let xattrs = travelling_xattrs((0..600).map(|i| (format!("user.{i:03}").into_bytes(), Vec::new())));
        let drafts: Vec<Draft> = (0..60)
            .map(|i| {
                let mut draft = draft(&format!("{i:0255}"), Vec::new());
                draft.xattrs = xattrs.clone();
                draft.body = DraftBody::Symlink(vec![b'x'; LINK_BYTES_MAX]);
                draft
            })
            .collect();
        let (built, leaves) = build_directory(&SECRET, Scheme::DEFAULT, drafts).unwrap();
        assert_eq!(built.entries, 60);
        for leaf in leaves {
            assert!(leaf.node.bytes.len() <= 2 * WEIGHT_MAX as usize);
            assert_eq!(Node::open(&leaf.child.node.key, &leaf.node.bytes), Ok(Node::Leaf(leaf.leaf)));
        }
    }

    #[test]
    fn a_weight_is_never_below_the_encoded_length() {
        let node = NodeRef {
            id: crate::base::digest::ChunkId([1; 32]),
            len: 1 << 20,
            key: crate::content::cipher::ReadKey([2; 32]),
        };
        let xattrs = vec![(b"user.a".to_vec(), vec![1; 3000])];
        for body in [
            DraftBody::Small(vec![1; INLINE_BYTES_MAX]),
            DraftBody::Small(vec![1; 2000]),
            DraftBody::File { size: FILE_BYTES_MAX / 2, node },
            DraftBody::Directory { bytes: FILE_BYTES_MAX / 2, node },
            DraftBody::Symlink(vec![b'x'; LINK_BYTES_MAX]),
        ] {
            let mtime = Timestamp { seconds: i64::MIN, nanos: 999_999_999 };
            let draft = Draft { name: vec![b'n'; 255], mode: 0o777, mtime, xattrs: xattrs.clone(), body };
            let weight = draft.measure().weight as usize;
            let len = |drafts| {
                let leaf = seal_leaf(&SECRET, Scheme { k: 1, m: 0 }, drafts).unwrap();
                leaf.node.bytes.len() - leaf.pack.map_or(0, |_| 80)
            };
            let (with, without) = (len(vec![draft]), len(Vec::new()));
            assert!(with - without <= weight, "{} over {weight}", with - without);
        }
        let child = DirectoryChild {
            first: vec![b'n'; 255],
            entries: DIRECTORY_ENTRIES_MAX / 2,
            bytes: FILE_BYTES_MAX / 2,
            node,
        };
        let inner = |children| Inner { scheme: Scheme::DEFAULT, level: 1, children }.write().plain().len();
        assert!(inner(vec![child.clone()]) - inner(Vec::new()) <= Measure::child(&child.first).weight as usize);
    }

    #[test]
    fn what_cannot_be_published_is_refused() {
        let build = |drafts| build_directory(&SECRET, Scheme::DEFAULT, drafts).map(|_| ()).unwrap_err();
        assert_eq!(build(vec![draft("b", vec![]), draft("a", vec![])]), BuildError::Order);
        assert_eq!(build(vec![draft("a", vec![]), draft("a", vec![])]), BuildError::Order);
        assert!(matches!(build(vec![draft("a/b", vec![])]), BuildError::Name(_)));
        let mut link = draft("a", vec![]);
        link.body = DraftBody::Symlink(vec![0]);
        assert_eq!(build(vec![link]), BuildError::Target);
        let mut evil = draft("a", vec![]);
        evil.xattrs = vec![(b"security.capability".to_vec(), vec![1])];
        assert!(matches!(build(vec![evil]), BuildError::Xattrs(_)));
        let grown: Vec<Draft> = (0..20).map(|i| draft(&format!("{i:02}"), vec![1; 60_000])).collect();
        assert_eq!(seal_leaf(&SECRET, Scheme::DEFAULT, grown).map(|_| ()).unwrap_err(), BuildError::Changed);
        assert_eq!(build(vec![draft("a", vec![1; PACKED_BYTES_MAX])]), BuildError::Changed);
    }

    #[test]
    fn attributes_that_do_not_travel_are_left_out() {
        let all = [("user.b", 1), ("security.x", 1), ("user.a", 2), ("user.tornet.ref", 1), ("user.big", 4090)];
        let all = all.map(|(name, len)| (name.as_bytes().to_vec(), vec![0; len]));
        let names: Vec<Vec<u8>> = travelling_xattrs(all).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [b"user.a", b"user.b"]);
    }

    #[test]
    fn a_million_names_build_a_tree_of_few_levels() {
        let name = |i: u32| format!("{:08x}-{i}", i.wrapping_mul(2_654_435_761)).into_bytes();
        let mut names: Vec<Vec<u8>> = (0..200_000).map(name).collect();
        names.sort();
        let measures: Vec<Measure> =
            names.iter().map(|name| Measure::new(name, EntryKind::File, 1 << 30, &Vec::new())).collect();
        let ranges = leaf_ranges(&measures);
        assert!((200_000 / 400..200_000 / 200).contains(&ranges.len()), "{}", ranges.len());
        let mut builder = DirectoryBuilder::new(&SECRET, Scheme::DEFAULT);
        for range in ranges {
            let node = NodeRef {
                id: crate::base::digest::ChunkId::of(&names[range.start]),
                len: 1,
                key: crate::content::cipher::ReadKey([0; 32]),
            };
            builder.push(DirectoryChild {
                first: names[range.start].clone(),
                entries: range.len() as u64,
                bytes: 1,
                node,
            });
        }
        let built = builder.finish().unwrap();
        assert_eq!(built.entries, 200_000);
        assert!((3..8).contains(&built.nodes.len()), "{}", built.nodes.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// A directory reached by any history of changes, its unchanged leaves reused, is the one built at once.
        #[test]
        fn a_directory_does_not_remember_its_history(
            steps in proptest::collection::vec((0u32..400, 0usize..9000, any::<bool>()), 1..250),
        ) {
            let mut now: std::collections::BTreeMap<String, Vec<u8>> = Default::default();
            let mut cache: std::collections::BTreeMap<String, DirectoryChild> = Default::default();
            let mut last = None;
            for (step, (name, len, remove)) in steps.iter().enumerate() {
                let name = format!("{name:03}");
                if *remove { now.remove(&name); } else { now.insert(name, vec![step as u8; *len]); }
                if step % 25 == 24 || step + 1 == steps.len() {
                    let drafts: Vec<Draft> = now.iter().map(|(name, content)| draft(name, content.clone())).collect();
                    let measures: Vec<Measure> = drafts.iter().map(Draft::measure).collect();
                    let mut builder = DirectoryBuilder::new(&SECRET, Scheme::DEFAULT);
                    for range in leaf_ranges(&measures) {
                        let part = drafts[range].to_vec();
                        let child = cache.entry(format!("{part:?}")).or_insert_with(|| {
                            seal_leaf(&SECRET, Scheme::DEFAULT, part).unwrap().child
                        });
                        builder.push(child.clone());
                    }
                    last = Some((builder.finish().unwrap().root, drafts));
                }
            }
            let (root, drafts) = last.unwrap();
            prop_assert_eq!(build_directory(&SECRET, Scheme::DEFAULT, drafts).unwrap().0.root, root);
        }
    }
}
