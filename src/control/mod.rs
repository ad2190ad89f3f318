//! Floor 7: the door to commands: a Unix socket that only its user can open.
