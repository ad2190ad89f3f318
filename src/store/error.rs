//! What can go wrong in the store, and what to do about it.

use crate::base::digest::ChunkId;
use std::path::PathBuf;

/// A failed operation of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the folder open.
    #[error("the store {folder} is in use by process {pid}: stop that one first", folder = folder.display())]
    InUse {
        /// Which folder.
        folder: PathBuf,
        /// The other process, as it wrote itself down; "?" when it did not.
        pid: String,
    },
    /// The folder belongs to somebody else, or is no folder.
    #[error("the store {folder} cannot be used: {why}", folder = folder.display())]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system refused an operation on a file.
    #[error("cannot {what} {file}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        file: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No space for more. What is stored stays readable; free some space or lower the cache's size.
    #[error("no space on the store's disk: free some, or give the cache less")]
    Full,
    /// The index refused; the payloads are untouched.
    #[error("the store's index failed: {0}")]
    Index(String),
    /// A file that nothing else can replace is damaged.
    #[error("{file} is damaged ({why}): move it away to go on without what it held", file = file.display())]
    Damaged {
        /// Which.
        file: PathBuf,
        /// What redb says of it.
        why: String,
    },
    /// The disk failed earlier, so nothing more is written; reading goes on.
    #[error("the store takes no more data since its disk failed: {0}; check the disk, then start again")]
    ReadOnly(String),
    /// A chunk's outline does not belong to its id, or does not fit its length.
    #[error("outline does not belong to chunk {0:.8}")]
    Outline(ChunkId),
    /// Bytes that are not where or as long as they should be.
    #[error("slices of chunk {0:.8} have a wrong place or length")]
    Slices(ChunkId),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Wraps a system error; "no space" and "over quota" become `Full`.
    pub(super) fn io(what: &'static str, file: impl Into<String>, source: impl Into<std::io::Error>) -> StoreError {
        let source = source.into();
        if StoreError::is_full(&source) {
            return StoreError::Full;
        }
        StoreError::Io { what, file: file.into(), source }
    }

    /// Whether the system's answer means that there is no room.
    pub(super) fn is_full(source: &std::io::Error) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge)
    }

    /// Wraps an error of redb.
    pub(super) fn index(source: impl Into<redb::Error>) -> StoreError {
        match source.into() {
            redb::Error::Io(source) => StoreError::io("use", "the index", source),
            other => StoreError::Index(other.to_string()),
        }
    }

    /// The same error once more, for each of several callers that wait for one operation.
    pub(super) fn again(&self) -> StoreError {
        match self {
            StoreError::Full => StoreError::Full,
            StoreError::Closed => StoreError::Closed,
            StoreError::ReadOnly(why) => StoreError::ReadOnly(why.clone()),
            StoreError::Index(why) => StoreError::Index(why.clone()),
            StoreError::Io { what, file, source } => StoreError::Io {
                what,
                file: file.clone(),
                source: std::io::Error::new(source.kind(), source.to_string()),
            },
            other => StoreError::Index(other.to_string()),
        }
    }
}
