//! Directories: entries in leaves, leaves under inner nodes, sorted by name; and all rules of what may stand in them.

use super::chunk::SealedChunk;
use super::cipher::ConvergenceSecret;
use super::erasure::Scheme;
use super::manifest::LEVEL_MAX;
use super::reference::NodeRef;
use super::section::{NodeError, SectionReader, SectionWriter, Stripe};
use crate::base::codec::{DecodeError, Reader, Writer};
use crate::base::limit::{
    CHUNK_BYTES_MAX, DIRECTORY_ENTRIES_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX, LINK_BYTES_MAX, NAME_BYTES_MAX,
    PACKED_BYTES_MAX, XATTRS_BYTES_MAX,
};
use crate::base::text::escape;
use crate::base::time::Timestamp;

/// First byte of a leaf's read section.
pub(crate) const TAG_LEAF: u8 = 2;
/// First byte of an inner node's read section.
pub(crate) const TAG_INNER: u8 = 3;
/// Bytes of small files that one leaf packs together.
pub const PACK_BYTES_MAX: usize = CHUNK_BYTES_MAX;
/// Set in an entry's tag when extended attributes follow.
const WITH_XATTRS: u8 = 0x80;
/// Permissions of a symbolic link, always.
const LINK_MODE: u16 = 0o777;

/// Why a name cannot stand in a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No name.
    #[error("a name is empty")]
    Empty,
    /// Over 255 bytes.
    #[error("a name has {0} bytes, over the limit of {NAME_BYTES_MAX}")]
    Long(usize),
    /// `.` or `..`
    #[error("`{0}` is not a name")]
    Dots(String),
    /// A `/` or a NUL byte.
    #[error("`{0}` contains `/` or a NUL byte")]
    Separator(String),
}

/// Checks that `name` can be the name of an entry.
pub fn check_name(name: &[u8]) -> Result<(), NameError> {
    match name {
        b"" => Err(NameError::Empty),
        _ if name.len() > NAME_BYTES_MAX => Err(NameError::Long(name.len())),
        b"." | b".." => Err(NameError::Dots(escape(name).to_string())),
        _ if name.contains(&b'/') || name.contains(&0) => Err(NameError::Separator(escape(name).to_string())),
        _ => Ok(()),
    }
}

/// Whether an extended attribute travels with its entry: those of users do, but for the ones that tornet makes up itself;
/// those that give power on the reader's machine (`security.`, `trusted.`, `system.`) do not.
pub fn xattr_travels(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        && name.len() > b"user.".len()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with(b"user.tornet.")
        && !name.contains(&0)
}

/// Extended attributes in order of their names.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, any bytes that [`check_name`] allows.
    pub name: Vec<u8>,
    /// Permission bits, at most 0o777.
    pub mode: u16,
    /// When its content last changed.
    pub mtime: Timestamp,
    /// Bytes of a file, of all files below a directory, of a symbolic link's target.
    pub size: u64,
    /// Extended attributes, sorted.
    pub xattrs: Xattrs,
    /// What stands behind the name.
    pub body: EntryBody,
}

/// What stands behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryBody {
    /// A file of at most `limit::INLINE_BYTES_MAX` bytes: these.
    Inline(Vec<u8>),
    /// A longer file under `limit::PACKED_BYTES_MAX` bytes: `size` bytes of the leaf's pack.
    Packed {
        /// Where they begin.
        offset: u32,
    },
    /// A longer file still: its manifest.
    File(NodeRef),
    /// A directory: its top node.
    Directory(NodeRef),
    /// A symbolic link: its target.
    Symlink(Vec<u8>),
}

impl Entry {
    /// What it is.
    pub fn kind(&self) -> EntryKind {
        match self.body {
            EntryBody::Inline(_) | EntryBody::Packed { .. } | EntryBody::File(_) => EntryKind::File,
            EntryBody::Directory(_) => EntryKind::Directory,
            EntryBody::Symlink(_) => EntryKind::Symlink,
        }
    }

    /// Whether its file node, if it has or is given one, is marked executable.
    pub fn executable(&self) -> bool {
        executable(self.mode)
    }

    /// What it adds to the bytes of its directory.
    pub(crate) fn bytes(&self) -> u64 {
        if self.kind() == EntryKind::Symlink { 0 } else { self.size }
    }

    fn write(&self, writer: &mut SectionWriter) {
        let tag = match self.body {
            EntryBody::Inline(_) => 0,
            EntryBody::Packed { .. } => 1,
            EntryBody::File(_) => 2,
            EntryBody::Directory(_) => 3,
            EntryBody::Symlink(_) => 4,
        };
        let out = &mut writer.read;
        out.bytes(&self.name);
        out.byte(if self.xattrs.is_empty() { tag } else { tag | WITH_XATTRS });
        if self.kind() != EntryKind::Symlink {
            out.uint(u64::from(self.mode));
        }
        out.int(self.mtime.seconds);
        out.uint(u64::from(self.mtime.nanos));
        match &self.body {
            EntryBody::Inline(bytes) | EntryBody::Symlink(bytes) => out.bytes(bytes),
            EntryBody::Packed { .. } => out.uint(self.size),
            EntryBody::File(node) | EntryBody::Directory(node) => {
                out.uint(self.size);
                writer.child(node);
            }
        }
        if !self.xattrs.is_empty() {
            write_xattrs(&mut writer.read, &self.xattrs);
        }
    }

    /// Reads one entry; `packed` is where the next packed file begins, and is moved on.
    fn decode(reader: &mut SectionReader<'_>, packed: &mut u64) -> Result<Entry, NodeError> {
        let read = &mut reader.read;
        let name = read.bytes("name length", NAME_BYTES_MAX)?.to_vec();
        check_name(&name)?;
        let tag = read.byte()?;
        let kind = tag & !WITH_XATTRS;
        let mode = if kind == 4 { LINK_MODE } else { read.uint_max("permissions", 0o777)? as u16 };
        let seconds = read.int()?;
        let mtime = Timestamp { seconds, nanos: read.uint_max("nanoseconds", 999_999_999)? as u32 };
        let (size, body) = match kind {
            0 => {
                let bytes = read.bytes("inline length", INLINE_BYTES_MAX)?.to_vec();
                (bytes.len() as u64, EntryBody::Inline(bytes))
            }
            1 => {
                let size = read.uint_max("packed length", PACKED_BYTES_MAX as u64 - 1)?;
                if size <= INLINE_BYTES_MAX as u64 {
                    return Err(DecodeError::NotCanonical("a packed file short enough to be inline").into());
                }
                let offset = *packed as u32;
                *packed += size;
                if *packed > PACK_BYTES_MAX as u64 {
                    let (what, max) = ("pack length", PACK_BYTES_MAX as u64);
                    return Err(DecodeError::OverLimit { what, got: *packed, max }.into());
                }
                (size, EntryBody::Packed { offset })
            }
            2 => {
                let size = read.uint_max("file size", FILE_BYTES_MAX)?;
                if size < PACKED_BYTES_MAX as u64 {
                    return Err(DecodeError::NotCanonical("a file short enough to be packed").into());
                }
                (size, EntryBody::File(reader.child()?))
            }
            3 => (read.uint_max("directory size", FILE_BYTES_MAX)?, EntryBody::Directory(reader.child()?)),
            4 => {
                let target = read.bytes("link length", LINK_BYTES_MAX)?.to_vec();
                if target.is_empty() || target.contains(&0) {
                    return Err(DecodeError::Invalid("target of a symbolic link").into());
                }
                (target.len() as u64, EntryBody::Symlink(target))
            }
            got => return Err(DecodeError::Unknown { what: "kind of entry", got: u64::from(got) }.into()),
        };
        let xattrs = if tag & WITH_XATTRS == 0 { Vec::new() } else { decode_xattrs(&mut reader.read)? };
        Ok(Entry { name, mode, mtime, size, xattrs, body })
    }
}

/// Whether a file with these permissions is marked executable in its manifest.
pub fn executable(mode: u16) -> bool {
    mode & 0o100 != 0
}

fn write_xattrs(out: &mut Writer, xattrs: &[(Vec<u8>, Vec<u8>)]) {
    out.uint(xattrs.len() as u64);
    for (name, value) in xattrs {
        out.bytes(name);
        out.bytes(value);
    }
}

fn decode_xattrs(read: &mut Reader<'_>) -> Result<Xattrs, NodeError> {
    let count = read.count("extended attributes", XATTRS_BYTES_MAX, 2)?;
    let mut xattrs: Xattrs = Vec::new();
    for _ in 0..count {
        let name = read.bytes("extended attribute's name", NAME_BYTES_MAX)?.to_vec();
        let value = read.bytes("extended attribute", XATTRS_BYTES_MAX)?.to_vec();
        xattrs.push((name, value));
    }
    check_xattrs(&xattrs)?;
    if xattrs.is_empty() {
        return Err(DecodeError::NotCanonical("empty list of extended attributes").into());
    }
    Ok(xattrs)
}

/// Checks names, order and size of an entry's extended attributes.
pub fn check_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), DecodeError> {
    if !xattrs.iter().all(|(name, _)| xattr_travels(name)) {
        return Err(DecodeError::Invalid("extended attribute: only those of users travel"));
    }
    if !xattrs.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(DecodeError::NotCanonical("extended attributes out of order"));
    }
    let got = xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum();
    let (what, max) = ("extended attributes' length", XATTRS_BYTES_MAX as u64);
    if got > max { Err(DecodeError::OverLimit { what, got, max }) } else { Ok(()) }
}

/// A node with entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Redundancy of what stands below.
    pub scheme: Scheme,
    /// In ascending order of their names; none only in an empty directory.
    pub entries: Vec<Entry>,
    /// The bytes of the packed files one after another; there when there are any.
    pub pack: Option<Stripe>,
}

/// A node with nodes below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Redundancy of what stands below.
    pub scheme: Scheme,
    /// Levels below: those of the children are one less, and leaves are level 0.
    pub level: u8,
    /// In ascending order of their first names; at least one.
    pub children: Vec<DirectoryChild>,
}

/// A node below an inner node of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryChild {
    /// The first name below it.
    pub first: Vec<u8>,
    /// Entries below it, at least 1.
    pub entries: u64,
    /// Bytes of all files below it, and below the directories in it.
    pub bytes: u64,
    /// The node.
    pub node: NodeRef,
}

impl Leaf {
    /// Bytes of all files in it and below the directories in it.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.bytes()))
    }

    pub(crate) fn seal(&self, secret: &ConvergenceSecret) -> (NodeRef, SealedChunk) {
        self.write().seal(secret)
    }

    pub(crate) fn write(&self) -> SectionWriter {
        let mut writer = SectionWriter::new(self.scheme);
        writer.read.byte(TAG_LEAF);
        writer.read.uint(self.entries.len() as u64);
        self.entries.iter().for_each(|entry| entry.write(&mut writer));
        if let Some(pack) = &self.pack {
            writer.stripe(pack);
        }
        writer
    }

    /// Reads what follows the tag.
    pub(crate) fn decode(mut reader: SectionReader<'_>) -> Result<Leaf, NodeError> {
        let count = reader.read.count("entries", CHUNK_BYTES_MAX, 6)?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut packed = 0;
        for _ in 0..count {
            let entry = Entry::decode(&mut reader, &mut packed)?;
            if entries.last().is_some_and(|last| last.name >= entry.name) {
                return Err(DecodeError::NotCanonical("names out of order").into());
            }
            entries.push(entry);
        }
        let pack = if packed > 0 { Some(reader.stripe()?) } else { None };
        if let Some(pack) = &pack
            && pack.bytes != packed
        {
            return Err(NodeError::Claim { what: "pack in bytes", claimed: pack.bytes, found: packed });
        }
        let scheme = reader.scheme;
        reader.finish()?;
        let leaf = Leaf { scheme, entries, pack };
        check_bytes(leaf.bytes())?;
        Ok(leaf)
    }
}

impl Inner {
    /// Bytes of all files below it.
    pub fn bytes(&self) -> u64 {
        self.children.iter().fold(0, |sum, child| sum.saturating_add(child.bytes))
    }

    /// Entries below it.
    pub fn entries(&self) -> u64 {
        self.children.iter().fold(0, |sum, child| sum.saturating_add(child.entries))
    }

    pub(crate) fn seal(&self, secret: &ConvergenceSecret) -> (NodeRef, SealedChunk) {
        self.write().seal(secret)
    }

    pub(crate) fn write(&self) -> SectionWriter {
        let mut writer = SectionWriter::new(self.scheme);
        writer.read.raw(&[TAG_INNER, self.level]);
        for child in &self.children {
            writer.read.bytes(&child.first);
            writer.read.uint(child.entries);
            writer.read.uint(child.bytes);
            writer.child(&child.node);
        }
        writer
    }

    /// Reads what follows the tag.
    pub(crate) fn decode(mut reader: SectionReader<'_>) -> Result<Inner, NodeError> {
        let level = reader.read.byte()?;
        if level == 0 || u64::from(level) > LEVEL_MAX {
            let (what, got) = ("depth of a directory", u64::from(level));
            return Err(DecodeError::OverLimit { what, got, max: LEVEL_MAX }.into());
        }
        let mut children: Vec<DirectoryChild> = Vec::with_capacity(reader.children());
        for _ in 0..reader.children() {
            let first = reader.read.bytes("name length", NAME_BYTES_MAX)?.to_vec();
            check_name(&first)?;
            if children.last().is_some_and(|last| last.first >= first) {
                return Err(DecodeError::NotCanonical("names out of order").into());
            }
            let entries = reader.read.uint_max("entries of a directory", DIRECTORY_ENTRIES_MAX)?;
            let bytes = reader.read.uint_max("directory size", FILE_BYTES_MAX)?;
            if entries == 0 {
                return Err(DecodeError::Invalid("child without entries").into());
            }
            children.push(DirectoryChild { first, entries, bytes, node: reader.child()? });
        }
        let scheme = reader.scheme;
        reader.finish()?;
        if children.is_empty() {
            return Err(DecodeError::Invalid("inner node without children").into());
        }
        let inner = Inner { scheme, level, children };
        check_bytes(inner.bytes())?;
        let (what, got, max) = ("entries of a directory", inner.entries(), DIRECTORY_ENTRIES_MAX);
        if got > max { Err(DecodeError::OverLimit { what, got, max }.into()) } else { Ok(inner) }
    }
}

fn check_bytes(got: u64) -> Result<(), NodeError> {
    let (what, max) = ("directory size", FILE_BYTES_MAX);
    if got > max { Err(DecodeError::OverLimit { what, got, max }.into()) } else { Ok(()) }
}
