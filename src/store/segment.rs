//! Segment files: numbered, appended to, read by position, given back by punching holes and at last by removal.

use super::error::StoreError;
use super::folder::{Folder, open_file};
use super::record::{BLOCK, segment_header};
use super::schema::SegmentRow;
use crate::base::sync::lock;
use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{self, AtFlags, FallocateFlags, OFlags};
use rustix::io::{Errno, IoSliceMut, ReadWriteFlags, preadv2};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Handles kept open at once.
const HANDLES_MAX: usize = 128;

/// What tmpfs(5) calls itself in statfs(2).
const TMPFS: fs::FsWord = 0x0102_1994;

/// A stretch of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Number of the segment.
    pub(super) segment: u32,
    /// Where the record starts, in blocks.
    pub(super) block: u32,
}

impl Place {
    /// Where the record starts, in bytes.
    pub(super) fn offset(&self) -> u64 {
        u64::from(self.block) * BLOCK
    }
}

/// What is known of a segment in memory.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// As the index has it.
    pub(super) row: Mutex<SegmentRow>,
    /// Bytes read from it, halved now and then.
    pub(super) heat: AtomicU64,
    /// When it was last written to, by the store's clock; 0: not since the start.
    pub(super) written: AtomicU64,
    /// Nothing is appended to it any more.
    pub(super) sealed: AtomicBool,
    /// Where the next record goes, in bytes; only the writer moves it.
    pub(super) end: AtomicU64,
}

/// All segments of a store.
pub(super) struct Segments {
    folder: Arc<Folder>,
    /// Kept by a file system that has no disk, and therefore knows no `RWF_NOWAIT`.
    in_memory: bool,
    known: RwLock<BTreeMap<u32, Arc<Segment>>>,
    handles: Mutex<Handles>,
    next: AtomicU32,
    /// Written to since the last sync.
    touched: Mutex<BTreeSet<u32>>,
    /// Made since the folder was last synced.
    made: AtomicBool,
    /// Whether the file system can punch holes.
    punches: AtomicBool,
    #[cfg(test)]
    pub(super) faults: super::fault::Faults,
}

#[derive(Default)]
struct Handles {
    open: BTreeMap<u32, Arc<File>>,
    order: VecDeque<u32>,
}

fn name(number: u32) -> String {
    format!("{number:08x}.segment")
}

impl Segments {
    /// Takes over the segments that the index knows: removes files it does not know, cuts off what was appended after its last commit.
    pub(super) fn open(folder: Arc<Folder>, rows: Vec<(u32, SegmentRow)>, next: u32) -> Result<Segments, StoreError> {
        let mut known = BTreeMap::new();
        for (number, row) in rows {
            let mut sealed = row.sealed;
            if !row.sealed {
                match open_file(folder.segments(), &name(number), OFlags::empty()) {
                    Ok(file) => {
                        let len = file.metadata().map_err(|e| StoreError::io("look at", name(number), e))?.len();
                        if len > row.end {
                            fs::ftruncate(&file, row.end).map_err(|e| StoreError::io("cut", name(number), e))?;
                        }
                    }
                    // Gone with its bytes: each read of it will find and report that. Nothing more goes there.
                    Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                        sealed = true
                    }
                    Err(e) => return Err(e),
                }
            }
            let segment = Segment {
                heat: AtomicU64::new(row.heat),
                written: AtomicU64::new(0),
                sealed: AtomicBool::new(sealed),
                end: AtomicU64::new(row.end),
                row: Mutex::new(row),
            };
            known.insert(number, Arc::new(segment));
        }
        let mut next = next.max(known.last_key_value().map_or(0, |(number, _)| number.saturating_add(1)));
        for number in list(&folder)? {
            if !known.contains_key(&number) {
                fs::unlinkat(folder.segments(), name(number), AtFlags::empty())
                    .map_err(|e| StoreError::io("remove", name(number), e))?;
                next = next.max(number.saturating_add(1));
            }
        }
        let in_memory = fs::fstatfs(folder.segments()).is_ok_and(|found| found.f_type == TMPFS);
        Ok(Segments {
            folder,
            in_memory,
            known: RwLock::new(known),
            handles: Mutex::default(),
            next: AtomicU32::new(next),
            touched: Mutex::default(),
            made: AtomicBool::new(false),
            punches: AtomicBool::new(true),
            #[cfg(test)]
            faults: super::fault::Faults::default(),
        })
    }

    /// The number that the next new segment gets.
    pub(super) fn next(&self) -> u32 {
        self.next.load(Ordering::Acquire)
    }

    /// Whether space inside a segment can be given back; if not, only whole segments can.
    pub(super) fn punches(&self) -> bool {
        self.punches.load(Ordering::Acquire)
    }

    /// One segment.
    pub(super) fn get(&self, number: u32) -> Option<Arc<Segment>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> Vec<(u32, Arc<Segment>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(number, segment)| (*number, segment.clone())).collect()
    }

    /// Makes a new segment to append to.
    pub(super) fn create(&self, lane: u8) -> Result<u32, StoreError> {
        let number = self.next.fetch_add(1, Ordering::AcqRel);
        #[cfg(test)]
        self.faults.spend(BLOCK as usize).map_err(|e| StoreError::io("write", name(number), e))?;
        let file = open_file(self.folder.segments(), &name(number), OFlags::CREATE | OFlags::EXCL)?;
        self.made.store(true, Ordering::Release);
        let row = Mutex::new(SegmentRow { lane, ..SegmentRow::default() });
        let segment = Segment { row, end: AtomicU64::new(BLOCK), ..Segment::default() };
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(segment));
        let file = self.keep_handle(number, file);
        if let Err(e) = write_all(&file, &[&segment_header(number)], 0) {
            // Dropped again, so that the next try starts afresh.
            self.forget(number);
            let _ = fs::unlinkat(self.folder.segments(), name(number), AtFlags::empty());
            return Err(StoreError::io("write", name(number), e));
        }
        lock(&self.touched).insert(number);
        Ok(number)
    }

    fn keep_handle(&self, number: u32, file: File) -> Arc<File> {
        let file = Arc::new(file);
        let mut handles = lock(&self.handles);
        if handles.open.insert(number, file.clone()).is_none() {
            handles.order.push_back(number);
        }
        while handles.order.len() > HANDLES_MAX {
            if let Some(oldest) = handles.order.pop_front() {
                handles.open.remove(&oldest);
            }
        }
        file
    }

    fn handle(&self, number: u32) -> Result<Arc<File>, StoreError> {
        if let Some(file) = lock(&self.handles).open.get(&number) {
            return Ok(file.clone());
        }
        let file = open_file(self.folder.segments(), &name(number), OFlags::empty())?;
        Ok(self.keep_handle(number, file))
    }

    fn forget(&self, number: u32) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        let mut handles = lock(&self.handles);
        handles.open.remove(&number);
        handles.order.retain(|n| *n != number);
    }

    /// Writes `parts` one after the other at `offset` of a segment.
    pub(super) fn write(&self, number: u32, parts: &[&[u8]], offset: u64) -> Result<(), StoreError> {
        let file = self.handle(number)?;
        // Before the bytes: whoever sees them marked as written finds the segment among those to sync.
        lock(&self.touched).insert(number);
        #[cfg(test)]
        self.faults
            .spend(parts.iter().map(|part| part.len()).sum())
            .map_err(|e| StoreError::io("write", name(number), e))?;
        write_all(&file, parts, offset).map_err(|e| StoreError::io("write", name(number), e))
    }

    /// Reads `len` bytes; fewer when the file ends before.
    pub(super) fn read(&self, number: u32, offset: u64, len: usize) -> Result<Bytes, StoreError> {
        let file = self.handle(number)?;
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            #[cfg(test)]
            self.faults.read().map_err(|e| StoreError::io("read", name(number), e))?;
            let at = offset + out.len() as u64;
            // A vector may have more room than asked for; `take` what is ours by cutting afterwards.
            match rustix::io::pread(&*file, spare_capacity(&mut out), at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(StoreError::io("read", name(number), e)),
            }
        }
        out.truncate(len);
        Ok(Bytes::from(out))
    }

    /// The same if all of it is in the kernel's memory already and the kernel can tell (`RWF_NOWAIT` of preadv2(2)).
    pub(super) fn read_cached(&self, number: u32, offset: u64, len: usize) -> Option<Bytes> {
        let file = self.handle(number).ok()?;
        let mut out = vec![0; len];
        let flags = if self.in_memory { ReadWriteFlags::empty() } else { ReadWriteFlags::NOWAIT };
        let read = preadv2(&*file, &mut [IoSliceMut::new(&mut out)], offset, flags);
        (read == Ok(len)).then(|| Bytes::from(out))
    }

    /// Where data begins at or after `at`, in whole blocks; holes are skipped where the file system knows of them.
    pub(super) fn next_data(&self, number: u32, at: u64) -> Result<u64, StoreError> {
        let file = self.handle(number)?;
        match fs::seek(&*file, fs::SeekFrom::Data(at)) {
            Ok(found) => Ok(at.max(found / BLOCK * BLOCK)),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => Ok(u64::MAX),
            Err(_) => Ok(at),
        }
    }

    /// Makes everything durable that was written before the call.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let touched = std::mem::take(&mut *lock(&self.touched));
        for number in touched {
            if self.get(number).is_none() {
                continue;
            }
            let file = self.handle(number)?;
            #[cfg(test)]
            self.faults.sync().map_err(|e| StoreError::io("sync", name(number), e))?;
            fs::fdatasync(&*file).map_err(|e| StoreError::io("sync", name(number), e))?;
        }
        if self.made.swap(false, Ordering::AcqRel) {
            fs::fsync(self.folder.segments()).map_err(|e| StoreError::io("sync", "segments", e))?;
        }
        Ok(())
    }

    /// Gives the blocks of a record back to the file system. Reading them gives zeros from now on, which no check passes.
    pub(super) fn punch(&self, number: u32, offset: u64, len: u64) -> Result<(), StoreError> {
        if !self.punches() || self.get(number).is_none() {
            return Ok(());
        }
        let file = self.handle(number)?;
        match fs::fallocate(file.as_fd(), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.punches.store(false, Ordering::Release);
                Ok(())
            }
            Err(e) => Err(StoreError::io("free space in", name(number), e)),
        }
    }

    /// Removes a segment that the index no longer knows. Readers that have it open finish undisturbed.
    pub(super) fn remove(&self, number: u32) -> Result<(), StoreError> {
        self.forget(number);
        match fs::unlinkat(self.folder.segments(), name(number), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(StoreError::io("remove", name(number), e)),
        }
    }
}

/// Length of a segment's file.
pub(super) fn len(folder: &Folder, number: u32) -> Result<u64, StoreError> {
    let file = open_file(folder.segments(), &name(number), OFlags::empty())?;
    Ok(file.metadata().map_err(|e| StoreError::io("look at", name(number), e))?.len())
}

/// Numbers of the segment files that there are.
pub(super) fn list(folder: &Folder) -> Result<Vec<u32>, StoreError> {
    let mut found = Vec::new();
    let dir = fs::Dir::read_from(folder.segments()).map_err(|e| StoreError::io("list", "segments", e))?;
    for entry in dir {
        let entry = entry.map_err(|e| StoreError::io("list", "segments", e))?;
        let text = entry.file_name().to_string_lossy();
        if let Some(digits) = text.strip_suffix(".segment")
            && let Ok(number) = u32::from_str_radix(digits, 16)
            && *text == name(number)
        {
            found.push(number);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn write_all(file: &File, parts: &[&[u8]], mut offset: u64) -> rustix::io::Result<()> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let mut done = 0;
    while done < total {
        let mut skip = done;
        let mut rest = Vec::with_capacity(parts.len());
        for part in parts {
            let cut = skip.min(part.len());
            skip -= cut;
            if cut < part.len() {
                rest.push(std::io::IoSlice::new(&part[cut..]));
            }
        }
        match rustix::io::pwritev(file, &rest, offset) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => {
                done += count;
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
