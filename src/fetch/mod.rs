//! Floor 2: which slices to ask of whom and when: wants, scores, hedges, any k of n. No I/O.
//!
//! A *want* names slices of one stripe. `schedule` turns its open slices into requests: it takes the provider that will
//! have them here first, by what `score` measured of it. `inflight` follows the requests: what comes late or stalls is
//! asked of others too (a hedge), and where no other peer has that shard, `stripe` says which others rebuild it. Near the
//! end `endgame` has those help who run dry.

mod core;
mod endgame;
mod holder;
mod inflight;
mod job;
#[cfg(test)]
mod model;
mod schedule;
mod score;
mod stripe;
pub mod want;

pub use self::core::{Fetch, FetchAction, FetchConfig, FetchStats};
pub use score::{WINDOW_BYTES_MAX, WINDOW_BYTES_MIN};
