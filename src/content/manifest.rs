//! Manifests of files: how many bytes, and which stripes hold them.

use super::chunk::SealedChunk;
use super::cipher::ConvergenceSecret;
use super::erasure::Scheme;
use super::reference::NodeRef;
use super::section::{NodeError, SectionReader, SectionWriter, Stripe};
use crate::base::codec::DecodeError;
use crate::base::limit::{FILE_BYTES_MAX, INLINE_BYTES_MAX, MANIFEST_DEPTH_MAX};

/// First byte of a file node's read section.
pub(crate) const TAG: u8 = 1;

/// The highest level of a manifest: its leaves are level 0.
pub(crate) const LEVEL_MAX: u64 = MANIFEST_DEPTH_MAX as u64 - 1;

/// A node of a file's manifest. The root's name and key are the file's reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNode {
    /// Redundancy of what stands below.
    pub scheme: Scheme,
    /// Bytes of content below this node.
    pub size: u64,
    /// Whether the file may be executed; only ever set in a root.
    pub executable: bool,
    /// The content.
    pub body: FileBody,
}

/// Where a file node's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileBody {
    /// Here: at most `limit::INLINE_BYTES_MAX` bytes.
    Inline(Vec<u8>),
    /// In these stripes, one after another.
    Stripes(Vec<Stripe>),
    /// In these nodes, one after another.
    Inner {
        /// Levels below: those of the children are one less, and nodes of stripes are level 0.
        level: u8,
        /// The nodes below.
        children: Vec<FileChild>,
    },
}

/// A node below an inner node of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileChild {
    /// Bytes of content below it.
    pub bytes: u64,
    /// The node.
    pub node: NodeRef,
}

impl FileNode {
    /// Levels below this node.
    pub fn level(&self) -> u8 {
        match &self.body {
            FileBody::Inline(_) | FileBody::Stripes(_) => 0,
            FileBody::Inner { level, .. } => *level,
        }
    }

    pub(crate) fn seal(&self, secret: &ConvergenceSecret) -> (NodeRef, SealedChunk) {
        self.write().seal(secret)
    }

    pub(crate) fn write(&self) -> SectionWriter {
        let mut writer = SectionWriter::new(self.scheme);
        writer.read.raw(&[TAG, u8::from(self.executable), self.level()]);
        writer.read.uint(self.size);
        match &self.body {
            FileBody::Inline(bytes) => writer.read.raw(bytes),
            FileBody::Stripes(stripes) => stripes.iter().for_each(|stripe| writer.stripe(stripe)),
            FileBody::Inner { children, .. } => {
                for child in children {
                    writer.read.uint(child.bytes);
                    writer.child(&child.node);
                }
            }
        }
        writer
    }

    /// Reads what follows the tag.
    pub(crate) fn decode(mut reader: SectionReader<'_>) -> Result<FileNode, NodeError> {
        let executable = match reader.read.byte()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Invalid("executable flag").into()),
        };
        let level = reader.read.byte()?;
        if u64::from(level) > LEVEL_MAX {
            let (what, got) = ("depth of a manifest", u64::from(level));
            return Err(DecodeError::OverLimit { what, got, max: LEVEL_MAX }.into());
        }
        let size = reader.read.uint_max("file size", FILE_BYTES_MAX)?;
        let (body, found) = if level > 0 {
            let mut children = Vec::with_capacity(reader.children());
            let mut found = 0u64;
            for _ in 0..reader.children() {
                let bytes = reader.read.uint_max("bytes of a child", FILE_BYTES_MAX)?;
                if bytes == 0 {
                    return Err(DecodeError::Invalid("child without content").into());
                }
                found = found.saturating_add(bytes);
                children.push(FileChild { bytes, node: reader.child()? });
            }
            (FileBody::Inner { level, children }, found)
        } else if size <= INLINE_BYTES_MAX as u64 {
            let bytes = reader.read.raw(size as usize)?.to_vec();
            (FileBody::Inline(bytes), size)
        } else {
            let mut stripes = Vec::with_capacity(reader.stripes());
            let mut found = 0u64;
            for _ in 0..reader.stripes() {
                let stripe = reader.stripe()?;
                found = found.saturating_add(stripe.bytes);
                stripes.push(stripe);
            }
            (FileBody::Stripes(stripes), found)
        };
        if found != size || (level > 0 && size <= INLINE_BYTES_MAX as u64) {
            return Err(NodeError::Claim { what: "content in bytes", claimed: size, found });
        }
        let scheme = reader.scheme;
        reader.finish()?;
        Ok(FileNode { scheme, size, executable, body })
    }
}
