//! Floor 4: what is on disk: chunk payloads in segments, their index and small state in redb, quota and eviction.
