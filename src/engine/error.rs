//! How reading and publishing fail, in full sentences for `tornet why`.

use crate::node::effect::{WantFailure, WantFailureKind};
use crate::wire::message::Refusal;
use std::fmt::Write;

/// How a refusal for want of credit begins; what pays for it is told besides.
pub const CREDIT_LIMIT: &str = "credit limit reached";
/// And one for its price.
pub const TOO_DEAR: &str = "it costs more than you allow";

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
            WantFailureKind::Price(Refusal::CreditLimit { owed, line }) => format!(
                "{CREDIT_LIMIT}: this node owes {owed} to a peer that lends it at most {line}; it is served again once it has \
                 paid or served that peer (what it holds of interest to others earns credit), or by a higher rank (credit.rank_cpu)"
            ),
            WantFailureKind::Price(_) => {
                format!("{TOO_DEAR}: raise credit.max_price in the configuration file")
            }
        };
        let (found, needed) = (failure.found, failure.needed);
        let shards = if found < needed {
            format!("{found} of {needed} needed shards found")
        } else {
            format!("holders of {found} shards are known, {needed} would do, and they did not deliver")
        };
        // Writing to a String cannot fail.
        let _ = write!(detail, ": {shards}");
        for (chunk, tried) in failure.missing.iter().take(16) {
            let _ = write!(detail, "; chunk {chunk:.16} missing");
            match tried.last() {
                Some((peer, why)) => {
                    let _ = write!(detail, " ({} asked, last {peer:.8}: {why})", tried.len());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_found_are_not_said_to_be_too_few_when_they_are_not() {
        let failure = |found| WantFailure { kind: WantFailureKind::Timeout, missing: Vec::new(), found, needed: 8 };
        let told = |found| ReadError::from(failure(found)).detail;
        assert_eq!(told(7), "no peer delivered in time: 7 of 8 needed shards found");
        let enough = "no peer delivered in time: holders of 9 shards are known, 8 would do, and they did not deliver";
        assert_eq!(told(9), enough);
    }
}
