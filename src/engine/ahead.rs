//! How far to read ahead of a sequential reader: nothing for random reads, more with every window that is used up.

use std::ops::Range;

const START: u64 = 512 * 1024;
/// So many bytes in a row somewhere within a file are a run: programs that read at random do so through buffers of 128 KiB (Python's, by
/// the block size that we show), which the kernel asks for in several pieces.
const RUN: u64 = 256 * 1024;
const MAX: u64 = 24 * 1024 * 1024;
/// The kernel's own readahead asks from several threads at once, a little out of order.
const DISORDER: u64 = 1024 * 1024;

/// One open file's reading position and window, in bytes.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Where this run began, and the end of the furthest read so far in it.
    start: u64,
    end: u64,
    /// Sequential reads in this run.
    run: u32,
    window: u64,
    /// Everything before this was asked for already.
    asked: u64,
}

impl Ahead {
    /// Notes a read of `offset .. end` in a file of `size` bytes; answers what to fetch ahead now, if anything, at most `most` bytes.
    pub(super) fn read(&mut self, offset: u64, end: u64, size: u64, most: u64) -> Option<Range<u64>> {
        let near = offset <= self.end.saturating_add(DISORDER) && offset.saturating_add(DISORDER) >= self.end;
        if near && self.run > 0 {
            self.run = self.run.saturating_add(1);
            (self.start, self.end) = (self.start.min(offset), self.end.max(end));
        } else {
            *self = Ahead { start: offset, end, run: 1, window: 0, asked: end };
        }
        if self.run < 2 || self.start > 0 && self.end - self.start < RUN {
            return None;
        }
        self.window = self.window.max(START).min(most);
        self.asked = self.asked.max(self.end);
        let ahead = self.asked - self.end;
        if ahead > self.window / 2 {
            return None;
        }
        let from = self.asked;
        let to = self.end.saturating_add(self.window).min(size);
        self.window = (self.window * 2).min(MAX).min(most);
        if to <= from {
            return None;
        }
        self.asked = to;
        Some(from..to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_gets_a_growing_window_and_nothing_twice() {
        let mut ahead = Ahead::default();
        let (size, step) = (100 << 20, 128 << 10);
        let mut covered = 0;
        let mut offset = 0;
        let mut largest = 0;
        while offset < size {
            if let Some(range) = ahead.read(offset, offset + step, size, u64::MAX) {
                assert!(range.start >= covered, "{range:?} asked for twice");
                covered = range.end;
                largest = largest.max(range.end - range.start);
            }
            offset += step;
        }
        assert_eq!(covered, size);
        assert!(largest > 8 << 20);
    }

    #[test]
    fn window_stays_within_what_it_may_take() {
        let mut ahead = Ahead::default();
        let (size, step, most) = (64 << 20, 128 << 10, 4 << 20);
        let mut furthest = 0;
        for offset in (0..size).step_by(step as usize) {
            if let Some(range) = ahead.read(offset, offset + step, size, most) {
                assert!(range.end <= offset + step + most, "{range:?} at {offset}");
                furthest = range.end;
            }
        }
        assert_eq!(furthest, size);
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        let mut ahead = Ahead::default();
        for place in [9u64, 400, 3, 77, 250, 30] {
            let offset = place << 22;
            assert_eq!(ahead.read(offset, offset + 4096, 1 << 40, u64::MAX), None);
            // The same through a buffer of 128 KiB, in the kernel's pieces.
            let offset = offset + (1 << 21);
            for piece in [0, 65536, 131_072] {
                assert_eq!(ahead.read(offset + piece, offset + (piece + 65536).min(135_168), 1 << 40, u64::MAX), None);
            }
        }
    }

    #[test]
    fn reading_on_from_within_a_file_is_a_run() {
        let mut ahead = Ahead::default();
        let from = 77 << 20;
        let fetched: Vec<_> =
            (0..8).filter_map(|n| ahead.read(from + (n << 17), from + ((n + 1) << 17), 1 << 40, u64::MAX)).collect();
        assert!(fetched.first().is_some_and(|range| range.start <= from + RUN + (1 << 17)), "{fetched:?}");
    }
}
