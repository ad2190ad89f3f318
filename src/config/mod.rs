//! Floor 8: the configuration file and where things are.
