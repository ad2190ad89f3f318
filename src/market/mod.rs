//! Floor 2: which chunks a node that has bandwidth and disk to offer should hold for others. No I/O.
//!
//! `popularity` counts what is asked for, here or in vain. `reach` compares what is asked of us with what we have to offer and widens or
//! narrows the *radius*, the part of the key space around us whose chunks we take up. `inventory` knows what was bought and what each
//! chunk of it earns; where there is no room, the least that it earns is the *floor* that a new chunk has to pass. `core` decides what is
//! bought and dropped. Own, pinned and hosted chunks are not in the inventory, so nothing here can drop them.
//!
//! What it costs: 56 bytes and its share of a tree for each chunk asked for lately, 32,768 at most, and 256 KiB for all others once there
//! are more; about 120 bytes for each chunk bought. A request costs a few look-ups in trees. No message was added.

mod core;
mod decay;
mod inventory;
pub mod popularity;
mod reach;
#[cfg(test)]
mod tests;

pub use self::core::{Market, MarketAction, MarketConfig, MarketStats, Offer};
pub use reach::Radius;
