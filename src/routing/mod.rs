//! Floor 2: the Kademlia table, iterative look-ups, provider records, announcements. No I/O.

pub mod announce;
pub mod head;
pub mod locate;
pub mod lookup;
pub mod provider;
pub mod table;
