//! Floor 5: a simulated world for the same node machine: many nodes, one seed.
