//! From the kernel's requests to calls of the file system, and from its outcomes to answers.

use std::sync::Arc;

use rustix::io::Errno;

use super::abi::{self, Answer, Body, Header, fopen, op, set};
use super::reply::Reply;
use super::session::{Seat, Session};
use crate::base::time::Timestamp;
use crate::vfs::{
    Attr, Caller, Entry, Filesystem, Item, KEPT, Listing, Lookup, Opened, Outcome, Result, SetAttr, SetTime,
};

/// One request on its way.
pub(super) struct Request<'a> {
    pub(super) session: &'a Arc<Session>,
    pub(super) seat: &'a Seat,
    pub(super) header: Header,
    pub(super) body: Body<'a>,
    pub(super) reply: Reply,
    /// Space for data read, kept by the thread.
    pub(super) scratch: &'a mut Vec<u8>,
}

/// A directory's listing in the kernel's layout.
struct DirectoryAnswer {
    answer: Answer,
    plus: bool,
    bytes_max: usize,
}

impl Listing for DirectoryAnswer {
    fn wants_attributes(&self) -> bool {
        self.plus
    }

    fn add(&mut self, item: &Item<'_>) -> bool {
        self.answer.item(item, self.plus, self.bytes_max)
    }
}

impl<'a> Request<'a> {
    fn fs(&self) -> &'a Arc<Filesystem> {
        &self.session.filesystem
    }

    fn caller(&self) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid, pid: self.header.pid }
    }

    /// Answers with what `outcome` comes to, now or when it is there.
    fn finish<T: Send + 'static>(self, outcome: impl Into<Outcome<T>>, send: impl FnOnce(Reply, T) + Send + 'static) {
        match outcome.into() {
            Outcome::Now(result) => settle(self.reply, result, send),
            Outcome::Later(work) => {
                self.session.wait(self.seat, self.header.pid, self.reply, work, move |reply, result| {
                    settle(reply, result, send);
                });
            }
        }
    }

    fn finish_empty(self, outcome: impl Into<Outcome<()>>) {
        self.finish(outcome, |reply, ()| reply.done());
    }

    fn finish_entry(self, outcome: impl Into<Outcome<Entry>>) {
        self.finish(outcome, |reply, entry| reply.answer(Answer::default().entry(&entry)));
    }

    fn finish_attr(self, outcome: Outcome<Attr>) {
        self.finish(outcome, |reply, attr| reply.answer(Answer::default().attributes(&attr, KEPT)));
    }

    /// Serves the request. `None` means that it was cut short: dropping the reply then answers EIO.
    pub(super) fn serve(mut self) -> Option<()> {
        let node = self.header.node;
        match self.header.opcode {
            op::LOOKUP => {
                let found = self.fs().lookup(node, self.body.text()?);
                self.finish(found, |reply, found| {
                    reply.answer(match found {
                        Lookup::Found(entry) => Answer::default().entry(&entry),
                        Lookup::Missing(kept) => Answer::default().missing(kept),
                    });
                });
            }
            op::FORGET => {
                self.reply.none();
                self.session.filesystem.forget(node, self.body.u64()?);
            }
            op::BATCH_FORGET => {
                self.reply.none();
                let (count, _) = (self.body.u32()?, self.body.u32()?);
                for _ in 0..count {
                    self.session.filesystem.forget(self.body.u64()?, self.body.u64()?);
                }
            }
            op::GETATTR => {
                let (flags, _, handle) = (self.body.u32()?, self.body.u32()?, self.body.u64()?);
                let attr = self.fs().attr(node, (flags & abi::GETATTR_FH != 0).then_some(handle));
                self.finish_attr(attr);
            }
            op::SETATTR => {
                let set = set_attr(&mut self.body)?;
                let attr = self.fs().set_attr(node, &set);
                self.finish_attr(attr);
            }
            op::READLINK => {
                let target = self.fs().readlink(node);
                self.finish(target, |reply, target| reply.bytes(&target));
            }
            op::STATFS => {
                let space = self.fs().space();
                self.finish(space, |reply, space| {
                    reply.answer(
                        Answer::default()
                            .u64(space.blocks)
                            .u64(space.free)
                            .u64(space.available)
                            .u64(space.files)
                            .u64(space.files_free)
                            .u32(space.block_bytes)
                            .u32(space.name_bytes_max)
                            .u32(space.block_bytes)
                            .zeros(28),
                    );
                });
            }
            op::MKNOD | op::MKDIR | op::SYMLINK | op::LINK | op::UNLINK | op::RMDIR | op::RENAME | op::RENAME2 => {
                return self.change_names();
            }
            op::SETXATTR | op::GETXATTR | op::LISTXATTR | op::REMOVEXATTR => return self.xattr(),
            op::OPENDIR | op::READDIR | op::READDIRPLUS | op::RELEASEDIR | op::FSYNCDIR => return self.directory(),
            op::OPEN
            | op::CREATE
            | op::TMPFILE
            | op::READ
            | op::WRITE
            | op::FLUSH
            | op::RELEASE
            | op::FSYNC
            | op::FALLOCATE
            | op::LSEEK
            | op::COPY_FILE_RANGE => return self.file(),
            op::INTERRUPT => {
                let unique = self.body.u64()?;
                if self.session.interrupt(unique) {
                    self.reply.none();
                } else {
                    // Not seen yet, or answered already: the kernel knows which, and asks again if need be.
                    self.reply.error(Errno::AGAIN);
                }
            }
            op::DESTROY => self.reply.done(),
            op::IOCTL => self.reply.error(Errno::NOTTY),
            _ => self.reply.error(Errno::NOSYS),
        }
        Some(())
    }

    fn change_names(mut self) -> Option<()> {
        let (node, caller) = (self.header.node, self.caller());
        let body = &mut self.body;
        let fs = &self.session.filesystem;
        match self.header.opcode {
            op::MKNOD => {
                let (mode, _, _, _) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
                let made = fs.mknod(node, body.text()?, mode, caller);
                self.finish_entry(made);
            }
            op::MKDIR => {
                let (mode, _) = (body.u32()?, body.u32()?);
                let made = fs.mkdir(node, body.text()?, mode, caller);
                self.finish_entry(made);
            }
            op::SYMLINK => {
                let made = fs.symlink(node, body.text()?, body.text()?, caller);
                self.finish_entry(made);
            }
            op::LINK => {
                let made = fs.link(body.u64()?, node, body.text()?);
                self.finish_entry(made);
            }
            op::UNLINK => {
                let done = fs.unlink(node, body.text()?);
                self.finish_empty(done);
            }
            op::RMDIR => {
                let done = fs.rmdir(node, body.text()?);
                self.finish_empty(done);
            }
            _ => {
                let parent = body.u64()?;
                let flags = if self.header.opcode == op::RENAME2 {
                    let (flags, _) = (body.u32()?, body.u32()?);
                    flags
                } else {
                    0
                };
                let done = fs.rename((node, body.text()?), (parent, body.text()?), flags);
                self.finish_empty(done);
            }
        }
        Some(())
    }

    fn xattr(mut self) -> Option<()> {
        let node = self.header.node;
        match self.header.opcode {
            op::SETXATTR => {
                let (len, flags) = (self.body.u32()?, self.body.u32()?);
                let name = self.body.text()?;
                let done = self.fs().set_xattr(node, name, self.body.bytes(len as usize)?, flags);
                self.finish_empty(done);
            }
            op::REMOVEXATTR => {
                let done = self.fs().remove_xattr(node, self.body.text()?);
                self.finish_empty(done);
            }
            _ => {
                let (len_max, _) = (self.body.u32()? as usize, self.body.u32()?);
                let value = match self.header.opcode {
                    op::GETXATTR => self.fs().xattr(node, self.body.text()?),
                    _ => self.fs().xattrs(node),
                };
                self.finish(value, move |reply, value| match len_max {
                    0 => reply.answer(Answer::default().u32(value.len() as u32).u32(0)),
                    _ if value.len() > len_max => reply.error(Errno::RANGE),
                    _ => reply.bytes(&value),
                });
            }
        }
        Some(())
    }

    fn directory(mut self) -> Option<()> {
        let node = self.header.node;
        match self.header.opcode {
            op::OPENDIR => {
                let opened = self.fs().open_directory(node);
                self.finish(opened, |reply, opened| {
                    reply.answer(Answer::default().opened(opened.handle, fopen::KEEP_CACHE | fopen::CACHE_DIR));
                });
            }
            op::RELEASEDIR => {
                self.fs().close_directory(node, self.body.u64()?);
                self.reply.done();
            }
            op::FSYNCDIR => {
                let done = self.fs().sync_directory(node, self.body.u64()?);
                self.finish_empty(done);
            }
            opcode => {
                let (handle, offset, len) = (self.body.u64()?, self.body.u64()?, self.body.u32()?);
                let bytes_max = (len as usize).min(self.session.request_bytes_max);
                let answer = Answer::with_capacity(bytes_max);
                let listing = DirectoryAnswer { answer, plus: opcode == op::READDIRPLUS, bytes_max };
                let listed = self.fs().list(node, handle, offset, listing);
                self.finish(listed, |reply, listing| reply.answer(listing.answer));
            }
        }
        Some(())
    }

    fn file(mut self) -> Option<()> {
        let (node, caller) = (self.header.node, self.caller());
        let body = &mut self.body;
        let fs = &self.session.filesystem;
        match self.header.opcode {
            op::OPEN => {
                let opened = fs.open_file(node, body.u32()?);
                self.finish(opened, |reply, opened| {
                    reply.answer(Answer::default().opened(opened.handle, open_answer(&opened)));
                });
            }
            op::CREATE | op::TMPFILE => {
                let (flags, mode, _, _) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
                let made = match self.header.opcode {
                    op::CREATE => fs.create(node, body.text()?, flags, mode, caller),
                    _ => fs.create_nameless(node, flags, mode, caller),
                };
                self.finish(made, |reply, (entry, opened)| {
                    reply.answer(Answer::default().entry(&entry).opened(opened.handle, open_answer(&opened)));
                });
            }
            op::READ => {
                let (handle, offset, len) = (body.u64()?, body.u64()?, body.u32()?);
                let len = len.min(self.session.request_bytes_max as u32);
                if self.scratch.len() < len as usize {
                    self.scratch.resize(len as usize, 0);
                }
                let buffer = self.scratch.get_mut(..len as usize)?;
                match fs.read_own(node, handle, offset, buffer) {
                    Some(Ok(len)) => self.reply.bytes(buffer.get(..len)?),
                    Some(Err(error)) => self.reply.error(error.errno),
                    None => {
                        let read = fs.read(node, handle, offset, len);
                        self.finish(read, |reply, bytes| reply.bytes(&bytes));
                    }
                }
            }
            op::WRITE => {
                let (handle, offset, len, flags) = (body.u64()?, body.u64()?, body.u32()?, body.u32()?);
                let (_, _, _) = (body.u64()?, body.u32()?, body.u32()?);
                let data = body.bytes(len as usize)?;
                let written = fs.write(node, handle, offset, data, flags & abi::WRITE_KILL_SUIDGID != 0);
                self.finish(written, |reply, len| reply.answer(Answer::default().u32(len as u32).u32(0)));
            }
            op::FLUSH => {
                let done = fs.flush(node, body.u64()?);
                self.finish_empty(done);
            }
            op::RELEASE => {
                fs.close_file(node, body.u64()?);
                self.reply.done();
            }
            op::FSYNC => {
                let (handle, flags) = (body.u64()?, body.u32()?);
                let done = fs.sync_file(node, handle, flags & abi::FSYNC_FDATASYNC != 0);
                self.finish_empty(done);
            }
            op::FALLOCATE => {
                let (handle, offset, len, mode) = (body.u64()?, body.u64()?, body.u64()?, body.u32()?);
                let done = fs.allocate(node, handle, offset, len, mode);
                self.finish_empty(done);
            }
            op::LSEEK => {
                let (handle, offset, whence) = (body.u64()?, body.u64()?, body.u32()?);
                let found = fs.seek(node, handle, offset, whence);
                self.finish(found, |reply, offset| reply.answer(Answer::default().u64(offset)));
            }
            _ => {
                let from = (node, body.u64()?, body.u64()?);
                let node_to = body.u64()?;
                let to = (node_to, body.u64()?, body.u64()?);
                let copied = fs.copy_range(from, to, body.u64()?);
                self.finish(copied, |reply, len| reply.answer(Answer::default().u32(len as u32).u32(0)));
            }
        }
        Some(())
    }
}

fn settle<T>(reply: Reply, result: Result<T>, send: impl FnOnce(Reply, T)) {
    match result {
        Ok(value) => send(reply, value),
        Err(error) => reply.error(error.errno),
    }
}

fn open_answer(opened: &Opened) -> u32 {
    let mut flags = 0;
    if opened.keep_cache {
        flags |= fopen::KEEP_CACHE;
    }
    if opened.direct {
        flags |= fopen::DIRECT_IO;
    }
    if opened.no_flush {
        flags |= fopen::NOFLUSH;
    }
    flags
}

fn set_attr(body: &mut Body<'_>) -> Option<SetAttr> {
    let (valid, _, handle, size, _) = (body.u32()?, body.u32()?, body.u64()?, body.u64()?, body.u64()?);
    let (atime, mtime, _) = (body.u64()? as i64, body.u64()? as i64, body.u64()?);
    let (atime_nanos, mtime_nanos, _) = (body.u32()?, body.u32()?, body.u32()?);
    let (mode, _, uid, gid) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    let time = |given: u32, now: u32, seconds: i64, nanos: u32| match valid {
        _ if valid & given == 0 => None,
        _ if valid & now != 0 => Some(SetTime::Now),
        _ => Some(SetTime::At(Timestamp { seconds, nanos })),
    };
    Some(SetAttr {
        mode: (valid & set::MODE != 0).then_some(mode),
        uid: (valid & set::UID != 0).then_some(uid),
        gid: (valid & set::GID != 0).then_some(gid),
        size: (valid & set::SIZE != 0).then_some(size),
        atime: time(set::ATIME, set::ATIME_NOW, atime, atime_nanos),
        mtime: time(set::MTIME, set::MTIME_NOW, mtime, mtime_nanos),
        handle: (valid & set::FH != 0).then_some(handle),
        kill_privileges: valid & set::KILL_SUIDGID != 0,
    })
}
