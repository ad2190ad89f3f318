//! Floor 8: logs.
