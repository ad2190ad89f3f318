//! Floor 7: the door to the kernel: fuser, mounting and unmounting.
