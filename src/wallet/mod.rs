//! Floor 2: when peers are paid in bitcoin and within which limits, and what they pay us. How, only `chain` knows.
//!
//! Each payment is written down before it is signed, signed before it is sent, and named by the same number all the way, so that it is
//! made once whatever happens in between. What a payment is worth follows from the chain alone and is told to the ledger as a sum.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::float_arithmetic))]

mod allowance;
mod bill;
mod cap;
mod core;
mod drive;
mod payment;
mod policy;
mod raise;
mod receive;
#[cfg(test)]
mod tests;

pub use allowance::{Allowance, Drawn};
pub use bill::{Bill, Came};
pub use cap::{Caps, Limit, PayConfig};
pub use core::{Order, Refused, Row, Service, Sums, Wallet, WalletAction, WalletEvent};
pub use payment::{Output, Payment, PaymentId, Report, State};
pub use policy::{Blocked, Due, Remedy};
pub use raise::Raise;
