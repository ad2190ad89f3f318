//! Floor 2: publish jobs: placement on distinct peers, offers, confirmation; and what is done to keep it so. No I/O.
//!
//! A job's groups are placed chunk by chunk (`placement` chooses the peer), offered in batches, pulled by the hosts, and confirmed by their
//! announcement. What a host refuses, or does not pull in time, goes to another. From then on the `keeper` has hosts prove what they hold.

pub mod job;
mod keeper;
pub mod kept;
mod placement;
mod presence;
mod publisher;
mod state;

pub use keeper::{CheckId, ErrandId, Keeper, KeeperAction, KeeperConfig, KeeperStats, Proof, RenewalId, Row, TendId};
pub use publisher::{OfferId, OfferOutcome, PublishAction, PublishConfig, PublishStats, Publisher};
