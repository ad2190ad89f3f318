//! Floor 1: content as pure functions: chunks, proofs, ciphers, codes, manifests, directories, references.

pub mod chunk;
pub mod cipher;
pub mod erasure;
pub mod random;
pub mod reference;
