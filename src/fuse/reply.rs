//! Answers: what they can all do, and listings that are filled entry by entry.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{
    Errno, FileAttr, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::convert::{file_attr, kind, nothing};
use crate::vfs::{self, Error, Item, Listing};

pub(super) fn settle<T, R: Refuse>(result: Result<T, Error>, reply: R, send: impl FnOnce(R, T)) {
    match result {
        Ok(value) => send(reply, value),
        Err(error) => reply.refuse(Errno::from_i32(error.errno.raw_os_error())),
    }
}

/// Replies that can be an error.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {$(
        impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

impl<R: Refuse> Refuse for Held<R> {
    fn refuse(self, errno: Errno) {
        if let Some(reply) = take(&self) {
            reply.refuse(errno);
        }
    }
}

/// A listing's reply, which is taken out to be refused when the listing fails.
pub(super) type Held<R> = Arc<Mutex<Option<R>>>;

pub(super) fn take<R>(held: &Held<R>) -> Option<R> {
    held.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A listing of names.
pub(super) struct Names(pub(super) Held<ReplyDirectory>);

impl Listing for Names {
    fn wants_attributes(&self) -> bool {
        false
    }

    fn add(&mut self, item: &Item<'_>) -> bool {
        let ino = item.entry.map_or(item.ino, |entry| entry.node);
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = OsStr::from_bytes(item.name);
        held.as_mut().is_some_and(|reply| !reply.add(INodeNo(ino), item.offset, kind(item.kind), name))
    }
}

/// A listing of names with attributes.
pub(super) struct Entries(pub(super) Held<ReplyDirectoryPlus>);

impl Listing for Entries {
    fn wants_attributes(&self) -> bool {
        true
    }

    fn add(&mut self, item: &Item<'_>) -> bool {
        let (ino, attr, kept) = match &item.entry {
            Some(entry) => (entry.node, file_attr(entry.node, &entry.attr), entry.kept),
            None => {
                // The library tells the same number as node and as d_ino, and C libraries skip entries whose d_ino is 0. For
                // these names the number is good for both; any other without an entry has just vanished.
                let known = item.name == b"." || item.name == b".." || vfs::is_control(item.ino);
                let ino = if known { item.ino } else { 0 };
                (ino, FileAttr { ino: INodeNo(ino), kind: kind(item.kind), ..nothing() }, Duration::ZERO)
            }
        };
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = OsStr::from_bytes(item.name);
        held.as_mut().is_some_and(|reply| !reply.add(INodeNo(ino), item.offset, name, &kept, &attr, Generation(0)))
    }
}
