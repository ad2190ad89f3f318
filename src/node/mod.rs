//! Floor 3: all cores as one deterministic machine. Events go in, effects come out; it knows no clock, socket or file.

pub mod effect;
pub mod input;
