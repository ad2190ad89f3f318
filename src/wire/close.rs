//! The one table of reasons that a peer is told when a link is closed or a request refused.
