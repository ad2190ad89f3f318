//! Any node of a tree, opened.

use super::cipher::ReadKey;
use super::directory::{self, Inner, Leaf};
use super::manifest::{self, FileNode};
use super::section::{self, NodeError, SectionReader};
use crate::base::codec::DecodeError;

/// An opened node: decoded, and all that can be checked without its neighbours is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Of a file.
    File(FileNode),
    /// Of a directory: entries.
    Leaf(Leaf),
    /// Of a directory: nodes with entries below.
    Inner(Inner),
}

impl Node {
    /// Opens the node whose chunk is `bytes`, which were checked against its id.
    pub fn open(key: &ReadKey, bytes: &[u8]) -> Result<Node, NodeError> {
        Node::decode(&section::open(key, bytes)?)
    }

    fn decode(plain: &[u8]) -> Result<Node, NodeError> {
        let (verify, read) = section::split(plain)?;
        let mut reader = SectionReader::new(verify, read);
        match reader.read.byte()? {
            manifest::TAG => FileNode::decode(reader).map(Node::File),
            directory::TAG_LEAF => Leaf::decode(reader).map(Node::Leaf),
            directory::TAG_INNER => Inner::decode(reader).map(Node::Inner),
            got => Err(DecodeError::Unknown { what: "kind of node", got: u64::from(got) }.into()),
        }
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::File(_) => "a file",
            Node::Leaf(_) | Node::Inner(_) => "a directory",
        }
    }

    /// The file node, or what is wrong.
    pub fn into_file(self) -> Result<FileNode, NodeError> {
        match self {
            Node::File(file) => Ok(file),
            other => Err(NodeError::Kind { expected: "a file", found: other.kind() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::ChunkId;
    use crate::base::limit::{FILE_BYTES_MAX, INLINE_BYTES_MAX, PACKED_BYTES_MAX};
    use crate::base::time::Timestamp;
    use crate::content::cipher::{ChunkRef, ConvergenceSecret};
    use crate::content::directory::{DirectoryChild, Entry, EntryBody, NameError};
    use crate::content::erasure::Scheme;
    use crate::content::extent;
    use crate::content::manifest::{FileBody, FileChild};
    use crate::content::reference::NodeRef;
    use crate::content::section::{SectionWriter, Stripe, VerifySection};
    use proptest::prelude::*;

    const SCHEME: Scheme = Scheme::DEFAULT;

    fn id(seed: u64) -> ChunkId {
        ChunkId::of(&seed.to_le_bytes())
    }

    fn node_ref(seed: u64) -> NodeRef {
        NodeRef { id: id(seed), len: 1 + (seed % (1 << 20)) as u32, key: ReadKey(id(!seed).0) }
    }

    fn stripe(bytes: u64, seed: u64) -> Stripe {
        let shape = extent::shape(SCHEME, bytes).unwrap();
        let data = (0..u64::from(shape.data)).map(|i| ChunkRef { id: id(seed + i), key: ReadKey(id(seed ^ i).0) });
        let parity = (0..u64::from(shape.parity)).map(|i| id(seed + 100 + i));
        Stripe { chunk_len: shape.chunk_len, bytes, data: data.collect(), parity: parity.collect() }
    }

    fn leaf(entries: Vec<Entry>) -> Leaf {
        let packed = entries.iter().filter(|entry| matches!(entry.body, EntryBody::Packed { .. }));
        let bytes: u64 = packed.map(|entry| entry.size).sum();
        Leaf { scheme: SCHEME, entries, pack: (bytes > 0).then(|| stripe(bytes, 77)) }
    }

    fn entry(name: &[u8], body: EntryBody) -> Entry {
        let size = match &body {
            EntryBody::Inline(bytes) | EntryBody::Symlink(bytes) => bytes.len() as u64,
            EntryBody::Packed { .. } => 2000,
            EntryBody::File(_) => 70_000,
            EntryBody::Directory(_) => 3,
        };
        let mode = if matches!(body, EntryBody::Symlink(_)) { 0o777 } else { 0o640 };
        Entry { name: name.to_vec(), mode, mtime: Timestamp::default(), size, xattrs: Vec::new(), body }
    }

    fn write(node: &Node) -> SectionWriter {
        match node {
            Node::File(file) => file.write(),
            Node::Leaf(leaf) => leaf.write(),
            Node::Inner(inner) => inner.write(),
        }
    }

    fn decoded(node: &Node) -> Result<Node, NodeError> {
        Node::decode(&write(node).plain())
    }

    fn refused(entries: Vec<Entry>) -> String {
        decoded(&Node::Leaf(leaf(entries))).unwrap_err().to_string()
    }

    #[test]
    fn lying_directories_are_refused() {
        let inline = |name: &[u8]| entry(name, EntryBody::Inline(Vec::new()));
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(decoded(&Node::Leaf(leaf(vec![inline(name)]))).is_err(), "{name:?}");
        }
        let dots = decoded(&Node::Leaf(leaf(vec![inline(b"..")])));
        assert_eq!(dots, Err(NodeError::Name(NameError::Dots("..".into()))));
        assert_eq!(
            refused(vec![inline(b"a\x1b/")]),
            "the directory has a forbidden name: `a\\x1b/` contains `/` or a NUL byte"
        );
        assert!(refused(vec![inline(b"a"), inline(b"a")]).contains("out of order"));
        assert!(refused(vec![inline(b"b"), inline(b"a")]).contains("out of order"));
        let with = |change: fn(&mut Entry), body: EntryBody| {
            let mut entry = entry(b"name", body);
            change(&mut entry);
            refused(vec![entry])
        };
        let empty = || EntryBody::Inline(Vec::new());
        assert!(with(|entry| entry.mode = 0o4755, empty()).contains("permissions"));
        assert!(with(|entry| entry.mtime.nanos = 1_000_000_000, empty()).contains("nanoseconds"));
        assert!(with(|_| (), EntryBody::Inline(vec![0; 1025])).contains("inline length"));
        assert!(with(|entry| entry.size = 1024, EntryBody::Packed { offset: 0 }).contains("inline"));
        assert!(with(|entry| entry.size = 65_536, EntryBody::Packed { offset: 0 }).contains("packed length"));
        assert!(with(|entry| entry.size = 65_535, EntryBody::File(node_ref(1))).contains("packed"));
        assert!(with(|entry| entry.size = 1 << 63, EntryBody::File(node_ref(1))).contains("file size"));
        assert!(with(|entry| entry.size = 1 << 63, EntryBody::Directory(node_ref(1))).contains("directory size"));
        assert!(with(|_| (), EntryBody::Symlink(Vec::new())).contains("symbolic link"));
        assert!(with(|_| (), EntryBody::Symlink(b"a\0".to_vec())).contains("symbolic link"));
        assert!(with(|_| (), EntryBody::Symlink(vec![b'a'; 4096])).contains("link length"));
        for name in ["security.capability", "trusted.x", "system.posix_acl_access", "user.", "user.tornet.ref", "x"] {
            let mut entry = entry(b"name", empty());
            entry.xattrs = vec![(name.into(), Vec::new())];
            assert!(refused(vec![entry]).contains("only those of users"), "{name}");
        }
        assert!(
            with(|e| e.xattrs = vec![(b"user.b".to_vec(), vec![]), (b"user.a".to_vec(), vec![])], empty())
                .contains("order")
        );
        assert!(with(|e| e.xattrs = vec![(b"user.b".to_vec(), vec![0; 4091])], empty()).contains("length"));
        let huge = |name: &[u8]| Entry { size: FILE_BYTES_MAX, ..entry(name, EntryBody::File(node_ref(1))) };
        assert!(refused(vec![huge(b"a"), huge(b"b"), huge(b"c")]).contains("directory size"));
        let packed =
            |i: u32| Entry { size: 65_535, ..entry(&i.to_be_bytes().map(|b| b + 1), EntryBody::Packed { offset: 0 }) };
        assert!(refused((0..17).map(packed).collect::<Vec<_>>()[..].to_vec()).contains("pack length"));
        let mut wrong_pack = leaf(vec![entry(b"a", EntryBody::Packed { offset: 0 })]);
        wrong_pack.pack = Some(stripe(2001, 7));
        assert!(matches!(decoded(&Node::Leaf(wrong_pack)), Err(NodeError::Claim { what: "pack in bytes", .. })));
    }

    #[test]
    fn lying_manifests_are_refused() {
        let file = |size, body| Node::File(FileNode { scheme: SCHEME, size, executable: false, body });
        let stripes = |sizes: &[u64]| FileBody::Stripes(sizes.iter().map(|size| stripe(*size, *size)).collect());
        assert!(decoded(&file(10_000, stripes(&[10_000]))).is_ok());
        assert!(matches!(decoded(&file(10_001, stripes(&[10_000]))), Err(NodeError::Claim { .. })));
        assert!(decoded(&file(1024, stripes(&[1024]))).is_err());
        assert!(decoded(&file(1 << 63, stripes(&[10_000]))).is_err());
        assert!(decoded(&file(2000, FileBody::Inline(vec![0; 2000]))).is_err());
        let inner = |level, bytes: &[u64]| {
            let children = bytes.iter().map(|bytes| FileChild { bytes: *bytes, node: node_ref(*bytes) }).collect();
            FileBody::Inner { level, children }
        };
        assert!(decoded(&file(5000, inner(1, &[3000, 2000]))).is_ok());
        assert!(decoded(&file(5000, inner(7, &[3000, 2000]))).is_ok());
        assert!(decoded(&file(5000, inner(8, &[3000, 2000]))).unwrap_err().to_string().contains("depth"));
        assert!(decoded(&file(5000, inner(1, &[3000, 2001]))).is_err());
        assert!(decoded(&file(5000, inner(1, &[3000, 2000, 0]))).is_err());
        assert!(decoded(&file(FILE_BYTES_MAX, inner(1, &[FILE_BYTES_MAX, FILE_BYTES_MAX, 2]))).is_err());
        assert!(decoded(&file(0, inner(1, &[]))).is_err());
        let mut equal = stripe(300_000, 1);
        equal.parity[0] = equal.data[0].id;
        let equal = file(300_000, FileBody::Stripes(vec![equal]));
        assert!(decoded(&equal).unwrap_err().to_string().contains("equal chunks"));
        let mut wide = stripe(300_000, 1);
        wide.parity.pop();
        assert!(decoded(&file(300_000, FileBody::Stripes(vec![wide]))).is_err());
    }

    #[test]
    fn a_child_that_readers_and_verifiers_see_differently_is_refused() {
        let children = vec![FileChild { bytes: 5000, node: node_ref(1) }];
        let node =
            FileNode { scheme: SCHEME, size: 5000, executable: false, body: FileBody::Inner { level: 1, children } };
        let mut plain = node.write().plain();
        let key = plain.windows(32).position(|window| window == node_ref(1).key.0).unwrap();
        plain[key] ^= 1;
        assert!(Node::decode(&plain).unwrap_err().to_string().contains("verify key"));
    }

    #[test]
    fn newer_and_foreign_nodes_are_named() {
        let mut plain = leaf(Vec::new()).write().plain();
        plain[4] = 2;
        assert_eq!(Node::decode(&plain), Err(NodeError::Newer(2)));
        plain[4] = 1;
        plain[5] = 9;
        assert!(Node::decode(&plain).unwrap_err().to_string().contains("unknown erasure code 9"));
        assert!(Node::open(&ReadKey([0; 32]), &[0; 100]).is_err());
        assert!(Node::open(&ReadKey([0; 32]), &vec![0; (1 << 20) + 1]).is_err());
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let name =
            proptest::collection::vec(1u8..=46, 1..40).prop_filter("dots", |name| *name != b"." && *name != b"..");
        let xattrs =
            proptest::collection::btree_map("user\\.[a-s]{1,9}", proptest::collection::vec(any::<u8>(), 0..20), 0..3);
        let body = prop_oneof![
            (proptest::collection::vec(any::<u8>(), 0..200))
                .prop_map(|bytes| (bytes.len() as u64, EntryBody::Inline(bytes))),
            (INLINE_BYTES_MAX as u64 + 1..9000).prop_map(|size| (size, EntryBody::Packed { offset: 0 })),
            (PACKED_BYTES_MAX as u64..1 << 50, any::<u64>())
                .prop_map(|(size, seed)| (size, EntryBody::File(node_ref(seed)))),
            (0u64..1 << 50, any::<u64>()).prop_map(|(size, seed)| (size, EntryBody::Directory(node_ref(seed)))),
            (proptest::collection::vec(1u8.., 1..200))
                .prop_map(|target| (target.len() as u64, EntryBody::Symlink(target))),
        ];
        (name, 0u16..=0o777, any::<i64>(), 0u32..1_000_000_000, xattrs, body).prop_map(
            |(name, mode, seconds, nanos, xattrs, (size, body))| {
                let mode = if matches!(body, EntryBody::Symlink(_)) { 0o777 } else { mode };
                let xattrs = xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
                Entry { name, mode, mtime: Timestamp { seconds, nanos }, size, xattrs, body }
            },
        )
    }

    fn any_node() -> impl Strategy<Value = Node> {
        let leaves = proptest::collection::vec(any_entry(), 0..12).prop_map(|mut entries| {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries.dedup_by(|a, b| a.name == b.name);
            let mut packed = 0;
            for entry in &mut entries {
                if let EntryBody::Packed { offset } = &mut entry.body {
                    *offset = packed;
                    packed += entry.size as u32;
                }
            }
            Node::Leaf(leaf(entries))
        });
        let file = |size, executable, body| Node::File(FileNode { scheme: SCHEME, size, executable, body });
        let sizes = || proptest::collection::vec(1025u64..8 << 20, 1..6);
        prop_oneof![
            leaves,
            (proptest::collection::vec(any::<u8>(), 0..300), any::<bool>()).prop_map(move |(bytes, executable)| file(
                bytes.len() as u64,
                executable,
                FileBody::Inline(bytes)
            )),
            (sizes(), any::<bool>()).prop_map(move |(sizes, executable)| {
                let stripes = sizes.iter().map(|size| stripe(*size, *size)).collect();
                file(sizes.iter().sum(), executable, FileBody::Stripes(stripes))
            }),
            (sizes(), 1u8..=7).prop_map(move |(sizes, level)| {
                let children = sizes.iter().map(|bytes| FileChild { bytes: *bytes, node: node_ref(*bytes) }).collect();
                file(sizes.iter().sum(), false, FileBody::Inner { level, children })
            }),
            (proptest::collection::btree_set("[a-z]{1,20}", 1..9), 1u8..=7).prop_map(|(names, level)| {
                let child = |(entries, first): (usize, String)| {
                    let (entries, node) = (1 + entries as u64, node_ref(entries as u64));
                    DirectoryChild { first: first.into_bytes(), entries, bytes: entries * 3, node }
                };
                Node::Inner(Inner {
                    scheme: SCHEME,
                    level,
                    children: names.into_iter().enumerate().map(child).collect(),
                })
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn nodes_come_back(node in any_node()) {
            let (at, chunk) = write(&node).seal(&ConvergenceSecret::PUBLIC);
            prop_assert_eq!(Node::open(&at.key, &chunk.bytes), Ok(node));
            prop_assert_eq!(at.len as usize, chunk.bytes.len());
            let section = VerifySection::open(&at.key.verify_key(), &chunk.bytes).unwrap();
            prop_assert_eq!(section.scheme, SCHEME);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            node in any_node(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..4),
        ) {
            let mut plain = write(&node).plain();
            for (place, byte, how) in changes {
                let place = place.index(plain.len());
                match how {
                    0 => plain[place] = byte,
                    1 => plain.insert(place, byte),
                    _ => drop(plain.remove(place)),
                }
            }
            if let Ok(node) = Node::decode(&plain) {
                prop_assert_eq!(write(&node).plain(), plain);
            }
        }

        #[test]
        fn arbitrary_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), len in 0u32..400) {
            let _ = Node::decode(&bytes);
            let mut sized = len.to_le_bytes().to_vec();
            sized.extend([1, 1, 8, 4]);
            sized.extend(&bytes);
            let _ = Node::decode(&sized);
            let _ = Node::open(&ReadKey([1; 32]), &bytes);
            let _ = VerifySection::open(&ReadKey([1; 32]).verify_key(), &bytes);
        }
    }
}
