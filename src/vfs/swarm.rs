//! What the file system asks of the swarm. The engine answers it for real, an in-memory one in tests.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::error::Result;
use super::outcome::{Outcome, Waiting};
use crate::base::time::Timestamp;

/// Whether a file, open for reading, may be mapped for writing.
pub type MayBeMapped = Box<dyn Fn(&File) -> bool + Send + Sync>;

/// Has the files that are open say that they changed, if they did.
pub type AskOpenFiles = Box<dyn Fn() + Send + Sync>;

/// Published trees to read, and the publisher of the own tree to tell of changes.
///
/// Work that waits ends by its own deadline.
pub trait Swarm: Send + Sync + 'static {
    /// What a reference leads to. A text that is no reference is refused at once.
    fn resolve(&self, reference: &str) -> Result<Waiting<Remote>>;
    /// The mutable names that this node has or follows, and where each leads: none where that is not known yet.
    fn names(&self) -> Vec<(String, Option<Leads>)>;
    /// Where a mutable name leads now: at hand if it was known before, whatever the network does. `None`: there is no such name.
    fn named(&self, name: &str) -> Option<Outcome<Leads>>;
    /// Something at `path` of the own tree changed, or below it, as `reach` says.
    fn changed(&self, path: &Path, reach: Reach);
    /// The kernel may have written to the file of this device and inode number at any moment since then, whatever its times say.
    fn rewritten(&self, file: (u64, u64), since: SystemTime);
    /// Gives what tells of a file of the own tree whether programs may have it mapped for writing: what is stored through a map
    /// shows in the file's times only after its pages were written to the disk.
    fn may_be_mapped(&self, known: MayBeMapped);
    /// Gives what is to be called before anybody is told how far publishing is: the kernel writes to open files without a word.
    fn ask_open_files(&self, ask: AskOpenFiles);
    /// How far publishing is with `path` of the own tree, in words.
    fn state(&self, path: &Path) -> String;
    /// The reference of `path` of the own tree as it was published last; `None` before the first time.
    fn reference(&self, path: &Path) -> Waiting<Option<String>>;
    /// The same, as a reference that lets its holder verify but not read.
    fn verify_reference(&self, path: &Path) -> Waiting<Option<String>>;
    /// The control files that exist.
    fn control_names(&self) -> &'static [&'static str];
    /// The present content of a control file.
    fn control(&self, name: &str) -> Waiting<Vec<u8>>;
}

/// Where a mutable name leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leads {
    /// The reference of the tree.
    pub reference: String,
    /// Its top is a directory.
    pub directory: bool,
}

/// How far a change reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The bytes, attributes or presence of the path itself.
    Here,
    /// Anything at or below the path: it came from elsewhere, or what changed is not known.
    Below,
}

/// A published file or directory, ready to be read.
#[derive(Clone, Debug)]
pub enum Remote {
    /// A file.
    File(Arc<dyn RemoteFile>),
    /// A directory.
    Directory(Arc<dyn RemoteDirectory>),
}

/// A published file.
pub trait RemoteFile: Send + Sync + fmt::Debug {
    /// Its length in bytes.
    fn size(&self) -> u64;
    /// It is a program.
    fn executable(&self) -> bool;
    /// `len` bytes from `offset`; fewer only at the end.
    fn read(&self, offset: u64, len: u32) -> Waiting<Bytes>;
}

/// A published directory.
pub trait RemoteDirectory: Send + Sync + fmt::Debug {
    /// The entry called `name`.
    fn find(&self, name: &[u8]) -> Waiting<Option<RemoteEntry>>;
    /// Entries in the order of their names, from the one that follows `after`; as many as come cheaply, none at the end.
    fn list(&self, after: Option<&[u8]>) -> Waiting<Vec<RemoteEntry>>;
}

/// An entry of a published directory.
#[derive(Clone, Debug)]
pub struct RemoteEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: RemoteKind,
    /// Permissions, of nine bits.
    pub mode: u16,
    /// Last change.
    pub mtime: Timestamp,
    /// Length in bytes of a file or of a link's target.
    pub size: u64,
    /// Extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its content.
    pub content: Arc<dyn RemoteContent>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
}

/// The content of an entry.
pub trait RemoteContent: Send + Sync + fmt::Debug {
    /// Makes the file or directory ready to be read.
    fn open(&self) -> Waiting<Remote>;
    /// Its own reference, where it has one.
    fn reference(&self) -> Option<String>;
}
