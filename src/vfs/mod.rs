//! Floor 6: the meaning of file operations: own tree, references, control files.
