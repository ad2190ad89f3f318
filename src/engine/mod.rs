//! Floor 5: the runtime around the node machine: reactor, readers, the publisher of the own tree.
