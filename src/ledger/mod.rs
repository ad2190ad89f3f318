//! Floor 2: what this node and its peers owe each other, in integer millisatoshi, and what proof of work an identity stands on.
//!
//! Of each peer two sums count: what it acknowledged, by its newest signed receipt, of what we provided; and what we received of
//! it. Both only grow and are merged by maximum, so lost, repeated and reordered messages and crashes of either side change
//! nothing that was agreed on. What was provided beyond the newest receipt is bounded by the window. What was paid each way stands
//! beside them; it is what the chain says, so it may also shrink.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::float_arithmetic))]

mod account;
mod booking;
mod contribution;
mod core;
mod credit;
pub mod rank;
mod receiving;
pub mod rent;
pub mod share;
#[cfg(test)]
mod tests;
mod witness;

pub use account::Record;
pub use core::{Balance, HoldId, Ledger, LedgerAction, LedgerStats, Payments, Verdict};
pub use credit::{CreditConfig, HOST_PRICE_MAX_DEFAULT, PRICE_MAX_DEFAULT};
