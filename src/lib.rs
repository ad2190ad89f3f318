//! tornet: a peer-to-peer filesystem. `ARCHITECTURE.md` beside this file tells how the modules stand on each other;
//! each may use only those on lower floors (checked by `fs-tests/floors.rs`).

pub mod base;
// floor 1: pure functions
pub mod content;
pub mod wire;
// floor 2: state machines without I/O
pub mod fetch;
pub mod ledger;
pub mod market;
pub mod publish;
pub mod routing;
pub mod wallet;
// floor 3
pub mod node;
// floor 4: thin I/O shells
pub mod chain;
pub mod net;
pub mod store;
// floor 5
pub mod engine;
pub mod sim;
// floor 6
pub mod vfs;
// floor 7
pub mod control;
pub mod fuse;
// floor 8
pub mod config;
pub mod telemetry;
// floor 9
pub mod cli;
