//! Floor 1: content as pure functions: chunks, proofs, ciphers, codes, manifests, directories, references.

pub mod build;
pub mod chunk;
pub mod cipher;
pub mod directory;
pub mod erasure;
pub mod extent;
pub mod head;
pub mod manifest;
pub mod node;
pub mod random;
pub mod reference;
pub mod section;
pub mod walk;
