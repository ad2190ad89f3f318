//! Floor 2: which slices to ask of whom and when: wants, scores, hedges, any k of n. No I/O.

pub mod want;
