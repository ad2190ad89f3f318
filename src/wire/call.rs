//! How calls of ours are named and how they end: what every core above shares.

use super::message::{Response, Slices};

/// Names a call of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// How a call ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An answer without slices.
    Message(Response),
    /// A fetch whose slices were all verified and stored.
    Fetched {
        /// The header that came before them.
        header: Slices,
        /// Bytes received, for the peer's measured rate.
        bytes: u64,
    },
}
