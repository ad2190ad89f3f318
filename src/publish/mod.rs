//! Floor 2: publish jobs: placement on distinct peers, offers, confirmation. No I/O.
