//! Manifest nodes that no honest builder makes, written from the format's description: right in their hashes, false in what they say.

use bytes::Bytes;
use tornet::base::codec::Writer;
use tornet::base::digest::ChunkId;
use tornet::content::cipher::{ReadKey, open};
use tornet::content::reference::{Kind, NodeRef, RootRef};

/// A node under construction: the verify section's lists and the read section.
pub struct Forged {
    children: Vec<NodeRef>,
    stripes: Vec<(u32, u8, Vec<ChunkId>)>,
    format: u8,
    /// The read section, byte by byte.
    pub read: Writer,
}

/// Tag of a file's node.
pub const FILE: u8 = 1;
/// Tag of a directory's leaf.
pub const LEAF: u8 = 2;
/// Tag of a directory's inner node.
pub const INNER: u8 = 3;

impl Forged {
    /// With this first byte of the read section.
    pub fn new(tag: u8) -> Forged {
        let mut read = Writer::new();
        read.byte(tag);
        Forged { children: Vec::new(), stripes: Vec::new(), format: 1, read }
    }

    /// A leaf with this number of entries, which follow.
    pub fn leaf(entries: u64) -> Forged {
        let mut node = Forged::new(LEAF);
        node.read.uint(entries);
        node
    }

    /// Of another format.
    pub fn format(mut self, format: u8) -> Forged {
        self.format = format;
        self
    }

    /// An entry: a file with its bytes.
    pub fn inline(mut self, name: &[u8], bytes: &[u8]) -> Forged {
        self.read.bytes(name);
        self.read.byte(0);
        self.attributes(0o644);
        self.read.bytes(bytes);
        self
    }

    /// An entry: a file with these permissions.
    pub fn mode(mut self, name: &[u8], mode: u64) -> Forged {
        self.read.bytes(name);
        self.read.byte(0);
        self.attributes(mode);
        self.read.bytes(b"x");
        self
    }

    /// An entry: a file with one extended attribute.
    pub fn xattr(mut self, name: &[u8], attribute: &[u8]) -> Forged {
        self.read.bytes(name);
        self.read.byte(0x80);
        self.attributes(0o644);
        self.read.bytes(b"x");
        self.read.uint(1);
        self.read.bytes(attribute);
        self.read.bytes(b"value");
        self
    }

    /// An entry: a symbolic link.
    pub fn symlink(mut self, name: &[u8], target: &[u8]) -> Forged {
        self.read.bytes(name);
        self.read.byte(4);
        self.read.int(0);
        self.read.uint(0);
        self.read.bytes(target);
        self
    }

    /// An entry: a directory (3) or file (2) of this size with its node.
    pub fn child_entry(mut self, name: &[u8], kind: u8, size: u64, node: NodeRef) -> Forged {
        self.read.bytes(name);
        self.read.byte(kind);
        self.attributes(0o755);
        self.read.uint(size);
        self.child(node)
    }

    /// A child's key in the read section, its name in the verify section.
    pub fn child(mut self, node: NodeRef) -> Forged {
        self.read.raw(&node.key.0);
        self.children.push(node);
        self
    }

    /// A stripe: its claim in the read section and keys, its chunks in the verify section.
    pub fn stripe(mut self, bytes: u64, chunk_len: u32, data: u8, ids: Vec<ChunkId>) -> Forged {
        self.read.uint(bytes);
        (0..data).for_each(|_| self.read.raw(&[7; 32]));
        self.stripes.push((chunk_len, data, ids));
        self
    }

    fn attributes(&mut self, mode: u64) {
        self.read.uint(mode);
        self.read.int(0);
        self.read.uint(0);
    }

    /// The sealed chunk and what opens it.
    pub fn seal(self) -> (NodeRef, Bytes) {
        let mut verify = Writer::new();
        // Format, code, redundancy 8+4.
        verify.raw(&[self.format, tornet::content::erasure::CODEC, 8, 4]);
        verify.uint(self.children.len() as u64);
        for child in &self.children {
            verify.raw(&child.id.0);
            verify.uint(u64::from(child.len));
            verify.raw(&child.key.verify_key().0);
        }
        verify.uint(self.stripes.len() as u64);
        for (chunk_len, data, ids) in &self.stripes {
            verify.uint(u64::from(*chunk_len));
            verify.raw(&[*data, ids.len() as u8 - data]);
            ids.iter().for_each(|id| verify.raw(&id.0));
        }
        let (verify, read) = (verify.into_bytes(), self.read.into_bytes());
        let mut front = (verify.len() as u32).to_le_bytes().to_vec();
        front.extend(&verify);
        let mut back = read;
        // Any key will do: only honest builders derive it from the content.
        let key = ReadKey(*blake3::hash(&[&front[..], &back[..]].concat()).as_bytes());
        open(&ReadKey(key.verify_key().0), 0, &mut front);
        open(&key, 0, &mut back);
        let chunk = Bytes::from([front, back].concat());
        (NodeRef { id: ChunkId::of(&chunk), len: chunk.len() as u32, key }, chunk)
    }
}

/// The text that a person would be given.
pub fn reference(kind: Kind, node: NodeRef) -> String {
    RootRef { kind, node }.to_string()
}
