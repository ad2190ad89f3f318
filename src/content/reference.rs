//! References: what a person passes on to let others read, or only verify, a file or a directory.

use super::cipher::{ReadKey, VerifyKey};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::digest::ChunkId;
use crate::base::limit::CHUNK_BYTES_MAX;
use crate::base::text::{self, TextError, TextKind};
use std::fmt;
use std::str::FromStr;

/// A manifest node and what opens it. The length is part of it, so that no peer can lie about the form of the chunk's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRef {
    /// Name of its chunk.
    pub id: ChunkId,
    /// Length of its chunk in bytes.
    pub len: u32,
    /// What opens it.
    pub key: ReadKey,
}

/// A manifest node and what opens its verify section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyNodeRef {
    /// Name of its chunk.
    pub id: ChunkId,
    /// Length of its chunk in bytes.
    pub len: u32,
    /// What opens its verify section.
    pub key: VerifyKey,
}

impl NodeRef {
    /// The power to verify without the power to read.
    pub fn verify(&self) -> VerifyNodeRef {
        VerifyNodeRef { id: self.id, len: self.len, key: self.key.verify_key() }
    }
}

/// What a tree's top is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// Opens a file or directory. Its text form begins with `tornet1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootRef {
    /// What it is.
    pub kind: Kind,
    /// Its top node.
    pub node: NodeRef,
}

/// Checks, counts, hosts and repairs a file or directory without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyRef {
    /// What it is.
    pub kind: Kind,
    /// Its top node.
    pub node: VerifyNodeRef,
}

impl RootRef {
    /// The power to verify without the power to read.
    pub fn verify(&self) -> VerifyRef {
        VerifyRef { kind: self.kind, node: self.node.verify() }
    }
}

impl fmt::Display for RootRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::File => TextKind::File,
            Kind::Directory => TextKind::Directory,
        };
        f.write_str(&text::encode(kind, &fields(self.node.len, &self.node.id, &self.node.key.0)))
    }
}

impl fmt::Display for VerifyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::File => TextKind::VerifyFile,
            Kind::Directory => TextKind::VerifyDirectory,
        };
        f.write_str(&text::encode(kind, &fields(self.node.len, &self.node.id, &self.node.key.0)))
    }
}

impl FromStr for RootRef {
    type Err = TextError;

    fn from_str(text: &str) -> Result<RootRef, TextError> {
        let (found, bytes) = text::decode_reference(text)?;
        let kind = match found {
            TextKind::File => Kind::File,
            TextKind::Directory => Kind::Directory,
            TextKind::Head => return Err(TextError::IsName),
            _ => return Err(TextError::WrongKind { expected: "a reference that opens a file or directory", found }),
        };
        let (len, id, key) = parse_fields(&bytes).map_err(|_| TextError::Fields)?;
        Ok(RootRef { kind, node: NodeRef { id, len, key: ReadKey(key) } })
    }
}

impl FromStr for VerifyRef {
    type Err = TextError;

    /// Also reads a reference that opens, since that gives the power to verify.
    fn from_str(text: &str) -> Result<VerifyRef, TextError> {
        let (found, bytes) = text::decode_reference(text)?;
        let kind = match found {
            TextKind::VerifyFile => Kind::File,
            TextKind::VerifyDirectory => Kind::Directory,
            TextKind::File | TextKind::Directory => return Ok(text.parse::<RootRef>()?.verify()),
            TextKind::Head => return Err(TextError::IsName),
            TextKind::Peer => {
                return Err(TextError::WrongKind { expected: "a reference to a file or directory", found });
            }
        };
        let (len, id, key) = parse_fields(&bytes).map_err(|_| TextError::Fields)?;
        Ok(VerifyRef { kind, node: VerifyNodeRef { id, len, key: VerifyKey(key) } })
    }
}

fn fields(len: u32, id: &ChunkId, key: &[u8; 32]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.raw(&len.to_le_bytes()[..3]);
    writer.raw(&id.0);
    writer.raw(key);
    writer.into_bytes()
}

fn parse_fields(bytes: &[u8]) -> Result<(u32, ChunkId, [u8; 32]), DecodeError> {
    let mut reader = Reader::new(bytes);
    let [low, middle, high] = reader.array()?;
    let len = u32::from_le_bytes([low, middle, high, 0]);
    if len == 0 || len as usize > CHUNK_BYTES_MAX {
        return Err(DecodeError::Invalid("length"));
    }
    let found = (len, ChunkId(reader.array()?), reader.array()?);
    reader.finish()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn root(kind: Kind) -> RootRef {
        let node = NodeRef { id: ChunkId([0x11; 32]), len: 4711, key: ReadKey([0x22; 32]) };
        RootRef { kind, node }
    }

    #[test]
    fn the_documented_references_hold() {
        let format = include_str!("../FORMAT.md");
        for kind in [Kind::File, Kind::Directory] {
            let root = root(kind);
            assert!(format.contains(&root.to_string()), "{root}");
            assert!(format.contains(&root.verify().to_string()), "{}", root.verify());
            assert_eq!(root.to_string().len(), 124);
        }
    }

    #[test]
    fn a_verify_reference_does_not_open() {
        let verify = root(Kind::File).verify();
        let error = verify.to_string().parse::<RootRef>().unwrap_err();
        let expected =
            "this is a verify reference to a file, where a reference that opens a file or directory is needed";
        assert_eq!(error.to_string(), expected);
        assert_eq!(root(Kind::File).to_string().parse(), Ok(verify));
    }

    #[test]
    fn false_fields_are_refused() {
        for bytes in [vec![0; 67], vec![1; 66], vec![1; 68], [&[1, 0, 0x10][..], &[1; 64]].concat()] {
            let text = text::encode(TextKind::File, &bytes);
            assert_eq!(text.parse::<RootRef>(), Err(TextError::Fields));
            assert_eq!(text::encode(TextKind::VerifyFile, &bytes).parse::<VerifyRef>(), Err(TextError::Fields));
        }
    }

    proptest! {
        #[test]
        fn references_come_back(directory: bool, id: [u8; 32], key: [u8; 32], len in 1u32..=1 << 20) {
            let kind = if directory { Kind::Directory } else { Kind::File };
            let root = RootRef { kind, node: NodeRef { id: ChunkId(id), len, key: ReadKey(key) } };
            prop_assert_eq!(root.to_string().parse(), Ok(root));
            prop_assert_eq!(root.verify().to_string().parse(), Ok(root.verify()));
            prop_assert_eq!(root.to_string().to_uppercase().parse(), Ok(root));
        }
    }
}
