//! How reading and publishing fail, in full sentences for `tornet why`.

use crate::node::effect::{WantFailure, WantFailureKind};
use std::fmt::Write;

/// Class of a failed read; one errno each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadErrorKind {
    /// No such name in the tree.
    NotFound,
    /// No peer answered in time, or too few shards are in reach.
    Timeout,
    /// Only false or damaged data was to be had.
    Damaged,
    /// Over the user's price limit.
    Price,
    /// A manifest that breaks the rules: the publisher's fault, no peer can mend it.
    BadManifest,
    /// The local store failed.
    Store,
    /// The engine is stopping.
    Stopped,
}

/// A read that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct ReadError {
    /// Class.
    pub kind: ReadErrorKind,
    /// What failed, why, and what to do.
    pub detail: String,
}

impl ReadError {
    /// An error of this class with its explanation.
    pub fn new(kind: ReadErrorKind, detail: impl Into<String>) -> ReadError {
        ReadError { kind, detail: detail.into() }
    }

    pub(super) fn stopped() -> ReadError {
        ReadError::new(ReadErrorKind::Stopped, "the node is stopping")
    }

    pub(super) fn manifest(error: impl std::fmt::Display) -> ReadError {
        ReadError::new(
            ReadErrorKind::BadManifest,
            format!("the manifest breaks the format: {error}; its publisher must publish it anew"),
        )
    }

    pub(super) fn store(error: impl std::fmt::Display) -> ReadError {
        ReadError::new(ReadErrorKind::Store, format!("the local store failed: {error}"))
    }
}

impl From<WantFailure> for ReadError {
    fn from(failure: WantFailure) -> ReadError {
        let kind = match failure.kind {
            WantFailureKind::Timeout | WantFailureKind::NotFound => ReadErrorKind::Timeout,
            WantFailureKind::Damaged => ReadErrorKind::Damaged,
            WantFailureKind::Price(_) => ReadErrorKind::Price,
        };
        let mut detail = match failure.kind {
            WantFailureKind::Timeout => "no peer delivered in time".to_string(),
            WantFailureKind::NotFound => "nobody in reach holds enough of it".to_string(),
            WantFailureKind::Damaged => "only false data was delivered".to_string(),
            WantFailureKind::Price(_) => "it costs more than your limits allow".to_string(),
        };
        // Writing to a String cannot fail.
        let _ = write!(detail, ": {} of {} needed shards found", failure.found, failure.needed);
        for (chunk, tried) in failure.missing.iter().take(16) {
            let _ = write!(detail, "; chunk {chunk:.16} missing");
            match tried.last() {
                Some((peer, why)) => {
                    let _ = write!(detail, " ({} peers asked, last {peer:.8}: {why})", tried.len());
                }
                None => detail.push_str(" (no peer known that holds it)"),
            }
        }
        if failure.missing.len() > 16 {
            let _ = write!(detail, "; and {} more", failure.missing.len() - 16);
        }
        ReadError { kind, detail }
    }
}
