//! Floor 1: content as pure functions: chunks, proofs, ciphers, codes, manifests, directories, references.
