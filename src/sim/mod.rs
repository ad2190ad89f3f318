//! Floor 5: a simulated swarm: many real node machines in one process, in virtual time, driven by one seed. One seed is one run, bit for bit.
//!
//! `swarm` stands in the reactor's place for every node: it carries effects out over `network` (delay, loss, bandwidth)
//! and keeps what each node stores; `reader` acts as the engine does when files are read; `checker` holds the run
//! against what must be true after every step.

pub mod checker;
pub mod network;
mod queue;
pub mod reader;
pub mod session;
pub mod swarm;
pub mod tree;
