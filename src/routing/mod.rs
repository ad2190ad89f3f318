//! Floor 2: the Kademlia table, iterative look-ups, provider records, announcements. No I/O.
