//! Floor 0: values that every floor shares. Touches nothing.

pub mod amount;
pub mod bitcoin;
pub mod codec;
pub mod digest;
pub mod head;
pub mod keyspace;
pub mod limit;
pub mod network;
pub mod path;
pub mod peer;
pub mod random;
pub mod range;
pub mod sync;
pub mod text;
pub mod time;
pub mod units;
pub mod week;
