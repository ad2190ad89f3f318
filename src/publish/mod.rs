//! Floor 2: publish jobs: placement on distinct peers, offers, confirmation. No I/O.
//!
//! A job's groups are placed chunk by chunk (`placement` chooses the peer), offered in batches, pulled by the hosts, and confirmed by their
//! announcement. What a host refuses, or does not pull in time, goes to another.

pub mod job;
mod placement;
mod publisher;
mod state;

pub use publisher::{OfferId, OfferOutcome, PublishAction, PublishConfig, PublishStats, Publisher};
