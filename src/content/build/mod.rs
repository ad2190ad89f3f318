//! From content to chunks: stripes, manifests of files, directories. All pure: the same input gives the same chunks everywhere.

mod directory;
mod file;
mod stripe;

pub use directory::{
    BuiltDirectory, DirectoryBuilder, Draft, DraftBody, Measure, SealedLeaf, build_directory, leaf_ranges, seal_leaf,
    travelling_xattrs,
};
pub use file::{BuiltFile, FileBuilder, build_file, seal_inline};
pub use stripe::{SealedStripe, seal_stripe};

use super::directory::NameError;
use crate::base::codec::DecodeError;
use crate::base::limit::{DIRECTORY_ENTRIES_MAX, INLINE_BYTES_MAX};

/// Why something cannot be published as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A name that cannot stand in a directory.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Names must come in ascending order, each once.
    #[error("names are not in ascending order")]
    Order,
    /// Extended attributes that cannot travel.
    #[error("extended attributes: {0}")]
    Xattrs(DecodeError),
    /// A symbolic link's target.
    #[error("the target of a symbolic link is empty, too long, or has a NUL byte")]
    Target,
    /// More small files in one leaf than were planned: they grew since they were measured.
    #[error("files changed while they were being published; try again")]
    Changed,
    /// More entries than a directory may have.
    #[error("more than {DIRECTORY_ENTRIES_MAX} entries in one directory")]
    Entries,
    /// The sizes of all files together do not fit.
    #[error("the files of one directory are longer than can be counted")]
    Bytes,
    /// The stripes pushed are not those of a file of the size that was said.
    #[error("stripes for {pushed} bytes were made, for a file of {size} bytes over {INLINE_BYTES_MAX}")]
    Stripes {
        /// Bytes in the stripes.
        pushed: u64,
        /// Size of the file.
        size: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::ChunkId;
    use crate::base::time::Timestamp;
    use crate::content::chunk::Outline;
    use crate::content::cipher::{ConvergenceSecret, seal};
    use crate::content::directory::{Entry, EntryBody, Leaf};
    use crate::content::erasure::{self, Scheme};
    use crate::content::manifest::{FileBody, FileNode};
    use crate::content::reference::{Kind, NodeRef, RootRef};

    /// The input of the examples in FORMAT.md.
    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|place| (place * 7 + place / 251) as u8).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn reference(kind: Kind, node: NodeRef) -> String {
        RootRef { kind, node }.to_string()
    }

    fn draft(name: &str, mode: u16, body: DraftBody) -> Draft {
        let mtime = Timestamp { seconds: 1_700_000_000, nanos: 250 };
        Draft { name: name.into(), mode, mtime, xattrs: Vec::new(), body }
    }

    /// What stands in FORMAT.md as examples, in order.
    fn examples() -> Vec<String> {
        let secret = ConvergenceSecret::PUBLIC;
        let scheme = Scheme::DEFAULT;
        let mut out = Vec::new();

        let (id, outline) = Outline::of(&sample(40_000));
        out.push(id.to_string());
        out.extend(outline.hashes.iter().map(|hash| hex(hash)));

        let sealed = seal(&secret, &sample(40_000));
        out.extend([hex(&sealed.key.0), sealed.chunk.id.to_string(), hex(&sealed.chunk.bytes[..16])]);
        out.push(hex(&sealed.key.verify_key().0));
        let again = seal(&secret, b"\x13\x00");
        assert_ne!(again.key, secret.data_key(b"\x13\x00", 2), "an example that is sealed again");
        out.extend([hex(&secret.data_key(b"\x13\x00", 2).0), hex(&again.key.0), hex(&again.chunk.bytes)]);

        let parity = erasure::encode(Scheme { k: 3, m: 2 }, &[&[0x11, 0x01], &[0x22, 0x00], &[0x44, 0xff]]);
        out.extend(parity.iter().map(|shard| hex(shard)));

        let node = FileNode { scheme, size: 5, executable: true, body: FileBody::Inline(b"hello".to_vec()) };
        out.push(hex(&node.write().plain()));
        let node = NodeRef { id: ChunkId([0x11; 32]), len: 4711, key: crate::content::cipher::ReadKey([0x22; 32]) };
        let mtime = Timestamp { seconds: -1, nanos: 5 };
        let entry = |name: &[u8], mode, size, body| {
            let xattrs = vec![(b"user.x".to_vec(), b"y".to_vec())];
            Entry { name: name.to_vec(), mode, mtime, size, xattrs, body }
        };
        let entries = vec![
            entry(b"a", 0o644, 2, EntryBody::Inline(b"hi".to_vec())),
            entry(b"b", 0o755, 70, EntryBody::Directory(node)),
            entry(b"c", 0o777, 1, EntryBody::Symlink(b"a".to_vec())),
        ];
        out.push(hex(&Leaf { scheme, entries, pack: None }.write().plain()));

        for (len, executable) in
            [(0, false), (1000, false), (50_000, false), (50_000, true), (3_000_000, false), (20_000_000, false)]
        {
            out.push(reference(Kind::File, build_file(&secret, scheme, &sample(len), executable).root));
        }
        let narrow = Scheme { k: 1, m: 1 };
        out.push(reference(Kind::File, build_file(&secret, narrow, &sample(3_000_000), false).root));

        let (built, _) = build_directory(&secret, scheme, Vec::new()).unwrap();
        out.push(reference(Kind::Directory, built.root));
        let file = build_file(&secret, scheme, &sample(100_000), false);
        let drafts = vec![
            draft("big", 0o644, DraftBody::File { size: 100_000, node: file.root }),
            draft("empty", 0o755, DraftBody::Directory { bytes: built.bytes, node: built.root }),
            draft("link", 0o777, DraftBody::Symlink(b"big".to_vec())),
            draft("small", 0o600, DraftBody::Small(sample(10))),
            draft("some", 0o600, DraftBody::Small(sample(5000))),
        ];
        out.push(reference(Kind::Directory, build_directory(&secret, scheme, drafts).unwrap().0.root));
        let drafts = (0..2000).map(|i| draft(&format!("{i:04}"), 0o644, DraftBody::Small(sample(i)))).collect();
        out.push(reference(Kind::Directory, build_directory(&secret, scheme, drafts).unwrap().0.root));
        out
    }

    #[test]
    fn the_documented_examples_hold() {
        let format = include_str!("../../FORMAT.md");
        let examples = examples();
        let missing: Vec<&String> = examples.iter().filter(|example| !format.contains(*example)).collect();
        assert!(missing.is_empty(), "not in FORMAT.md: {missing:#?}");
    }
}
