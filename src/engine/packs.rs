//! When to fetch a pack of small files whole: as soon as a second of its files is read. One round trip then serves them all, where
//! each would have cost one of its own; who wants a single file of a pack still gets that file alone.

use crate::base::digest::ChunkId;
use std::collections::VecDeque;

/// Packs remembered: several readers of one tree, each in a few directories.
const RECENT: usize = 32;

/// The packs of one tree that were read from lately.
#[derive(Debug, Default)]
pub(super) struct Packs(VecDeque<Seen>);

#[derive(Debug)]
struct Seen {
    /// Its first chunk.
    pack: ChunkId,
    /// Where the first file that was read begins.
    file: u64,
    /// Another file was read, too.
    several: bool,
    /// Asked for whole.
    whole: bool,
}

impl Packs {
    /// Notes a read of the file that begins at byte `file` of the pack whose first chunk is `pack`; tells whether to fetch the whole pack
    /// now. Where the pack before was read whole, the next is fetched at its first file.
    pub(super) fn read(&mut self, pack: &ChunkId, file: u64) -> bool {
        if let Some(seen) = self.0.iter_mut().rev().find(|seen| seen.pack == *pack) {
            seen.several |= seen.file != file;
            let now = seen.several && !seen.whole;
            seen.whole |= now;
            return now;
        }
        let whole = self.0.back().is_some_and(|last| last.several);
        if self.0.len() >= RECENT {
            self.0.pop_front();
        }
        self.0.push_back(Seen { pack: *pack, file, several: false, whole });
        whole
    }

    /// Whether to fetch a pack now that nobody read from yet, but who reads the packs around it will soon.
    pub(super) fn expect(&mut self, pack: &ChunkId) -> bool {
        let whole = self.0.back().is_some_and(|last| last.several || last.whole);
        whole && !self.0.iter().any(|seen| seen.pack == *pack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(i: u8) -> ChunkId {
        ChunkId([i; 32])
    }

    #[test]
    fn whole_at_the_second_file_and_then_at_the_first() {
        let mut packs = Packs::default();
        assert!(!packs.read(&pack(1), 0));
        assert!(!packs.read(&pack(1), 0), "the same file, further on");
        assert!(packs.read(&pack(1), 10_000));
        assert!(!packs.read(&pack(1), 20_000), "once is enough");
        assert!(packs.expect(&pack(2)));
        assert!(packs.read(&pack(2), 0));
        assert!(packs.expect(&pack(3)), "while the first of its files is still waited for");
        assert!(!packs.read(&pack(2), 5));
        assert!(!packs.expect(&pack(1)), "it is here");
    }

    #[test]
    fn single_files_here_and_there_fetch_nothing_else() {
        let mut packs = Packs::default();
        assert!((0..200).all(|i| !packs.read(&pack(i), 7) && !packs.expect(&pack(i + 1))));
        // Nor do they after a whole one: the streak ends with the first pack of which only one was read.
        packs.read(&pack(1), 8);
        packs.read(&pack(1), 9);
        assert!(packs.read(&pack(210), 7));
        assert!((211..250).all(|i| !packs.read(&pack(i), 7)));
        assert!(packs.0.len() <= RECENT);
    }
}
