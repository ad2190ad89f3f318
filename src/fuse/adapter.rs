//! From the library's calls to those of the file system, and from its outcomes to answers.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BackingId, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use super::convert::{asked, caller, file_attr, nothing};
use super::interrupt;
use super::reply::{Entries, Held, Names, Refuse, settle, take};
use crate::vfs::{self, Entry, Filesystem, Lent, Lookup, Opened, Outcome, SetAttr, SetTime};

/// Requests that the kernel sends ahead (readahead, writeback) before it waits.
const BACKGROUND_MAX: u16 = 64;
/// Longest write, and furthest readahead, bytes.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Set-user-id and set-group-id are to be dropped by this write.
const WRITE_KILL_SUIDGID: WriteFlags = WriteFlags::FUSE_WRITE_KILL_SUIDGID;

/// What the library drives.
pub(super) struct Adapter {
    filesystem: Arc<Filesystem>,
    runtime: Handle,
    writeback: bool,
    /// Files of the own tree are lent to the kernel, which then reads and writes them by itself.
    lends: bool,
    /// For what the kernel must hear without having asked; there once the session is.
    notifier: Arc<OnceLock<Notifier>>,
}

impl Adapter {
    pub(super) fn new(filesystem: Arc<Filesystem>, runtime: Handle, writeback: bool, lends: bool) -> Adapter {
        Adapter { filesystem, runtime, writeback, lends, notifier: Arc::default() }
    }

    pub(super) fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        self.notifier.clone()
    }

    /// Lends a file by `register`. Where it cannot be lent (a stacked file system below, say) it is served as ever.
    fn lend(&self, register: impl FnOnce() -> std::io::Result<BackingId>) -> Option<Lent> {
        let lent: Lent = Arc::new(self.lends.then(register)?.ok()?);
        Some(lent)
    }

    /// Works on a request. A panic drops the reply, which answers EIO, and must not end the thread.
    fn work(&self, what: &'static str, work: impl FnOnce(&Arc<Filesystem>)) {
        enter_thread();
        if catch_unwind(AssertUnwindSafe(|| work(&self.filesystem))).is_err() {
            tracing::error!(what, "a file operation panicked");
        }
    }

    /// Answers with what `outcome` comes to, now or when it is there, unless whoever asked does not wait for it any more.
    fn finish<T: Send + 'static, R: Refuse>(
        &self,
        request: &Request,
        outcome: impl Into<Outcome<T>>,
        reply: R,
        send: impl FnOnce(R, T) + Send + 'static,
    ) {
        match outcome.into() {
            Outcome::Now(result) => settle(result, reply, send),
            Outcome::Later(mut work) => {
                let _runtime = self.runtime.enter();
                // What need not wait after all is answered here: to change threads twice costs more than most answers.
                if let Poll::Ready(result) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    return settle(result, reply, send);
                }
                let pid = request.pid();
                self.runtime.spawn(async move {
                    let result = tokio::select! {
                        result = work => result,
                        () = interrupt::given_up(pid) => Err(rustix::io::Errno::INTR.into()),
                    };
                    settle(result, reply, send);
                });
            }
        }
    }
}

/// Once for each of the library's threads.
fn enter_thread() {
    thread_local!(static ENTERED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    if !ENTERED.replace(true)
        && let Err(error) = vfs::enter_thread()
    {
        tracing::warn!(%error, "this thread keeps the program's file mode mask; new files may get stricter modes");
    }
}

fn send_entry(reply: ReplyEntry, entry: Entry) {
    reply.entry(&entry.kept, &file_attr(entry.node, &entry.attr), Generation(0));
}

fn lent(opened: &Opened) -> Option<&BackingId> {
    opened.lent.as_ref()?.downcast_ref()
}

fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    // There is no cache of this mount's to keep where the kernel serves the file below, and it refuses to be told so.
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache && opened.lent.is_none());
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct);
    flags.set(FopenFlags::FOPEN_NOFLUSH, opened.no_flush);
    flags
}

fn set_time(time: Option<TimeOrNow>) -> Option<SetTime> {
    time.map(|time| match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(asked(time)),
    })
}

fn send_xattr(size: u32) -> impl FnOnce(ReplyXattr, Vec<u8>) {
    move |reply, value| match size {
        0 => reply.size(value.len() as u32),
        _ if value.len() > size as usize => reply.error(Errno::ERANGE),
        _ => reply.data(&value),
    }
}

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Not ATOMIC_O_TRUNC: a file would be cut by opening it before the kernel finds that it is being executed.
        let mut wanted = vec![
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        // The kernel does one or the other, and lends to root alone.
        if self.writeback {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        self.lends = self.lends
            && !self.writeback
            && rustix::process::geteuid().is_root()
            && config.set_max_stack_depth(1).is_ok()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        for flag in wanted {
            // What this kernel lacks we do without.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_readahead(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        let _ = config.set_congestion_threshold(BACKGROUND_MAX / 4 * 3);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.work("lookup", |fs| {
            self.finish(request, fs.lookup(parent.0, name), reply, |reply, found| match found {
                Lookup::Found(entry) => send_entry(reply, entry),
                Lookup::Missing(kept) => reply.entry(&kept, &nothing(), Generation(0)),
            });
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.work("forget", |fs| fs.forget(ino.0, nlookup));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.work("getattr", |fs| {
            let attr = fs.attr(ino.0, fh.map(|fh| fh.0));
            let kept = fs.kept(ino.0);
            self.finish(request, attr, reply, move |reply, attr| reply.attr(&kept, &file_attr(ino.0, &attr)));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        fh: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.work("setattr", |fs| {
            let set = SetAttr {
                mode,
                uid,
                gid,
                size,
                atime: set_time(atime),
                mtime: set_time(mtime),
                handle: fh.map(|fh| fh.0),
                // The library keeps the kernel's own word on this to itself: cutting a file drops the bits, but for root.
                kill_privileges: size.is_some() && request.uid() != 0,
            };
            let attr = fs.set_attr(ino.0, &set);
            let kept = fs.kept(ino.0);
            self.finish(request, attr, reply, move |reply, attr| reply.attr(&kept, &file_attr(ino.0, &attr)));
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        self.work("readlink", |fs| {
            self.finish(request, fs.readlink(ino.0), reply, |reply, target| reply.data(&target))
        });
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        self.work("mknod", |fs| {
            self.finish(request, fs.mknod(parent.0, name, mode, rdev, caller(request)), reply, send_entry)
        });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        self.work("mkdir", |fs| {
            self.finish(request, fs.mkdir(parent.0, name, mode, caller(request)), reply, send_entry)
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.work("unlink", |fs| self.finish(request, fs.unlink(parent.0, name), reply, |reply, ()| reply.ok()));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.work("rmdir", |fs| self.finish(request, fs.rmdir(parent.0, name), reply, |reply, ()| reply.ok()));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.work("symlink", |fs| {
            self.finish(request, fs.symlink(parent.0, name, target.as_os_str(), caller(request)), reply, send_entry);
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.work("rename", |fs| {
            let done = fs.rename((parent.0, name), (newparent.0, newname), flags.bits());
            self.finish(request, done, reply, |reply, ()| reply.ok());
        });
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.work("link", |fs| self.finish(request, fs.link(ino.0, newparent.0, newname), reply, send_entry));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.work("open", |fs| {
            let opened = fs.open_file(ino.0, flags.0 as u32, &|file| self.lend(|| reply.open_backing(file)));
            let notifier = self.notifier.clone();
            self.finish(request, opened, reply, move |reply, opened| {
                let (handle, flags) = (FileHandle(opened.handle), open_flags(&opened));
                if let Some(notifier) = notifier.get().filter(|_| opened.stale) {
                    // The attributes alone. A kernel that has none has nothing to forget.
                    let _ = notifier.inval_inode(ino, -1, 0);
                }
                match lent(&opened) {
                    Some(file) => reply.opened_passthrough(handle, flags, file),
                    None => reply.opened(handle, flags),
                }
            });
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local!(static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });
        self.work("read", |fs| {
            let size = size.min(REQUEST_BYTES_MAX);
            BUFFER.with_borrow_mut(|buffer| {
                if buffer.len() < size as usize {
                    buffer.resize(size as usize, 0);
                }
                let part = buffer.get_mut(..size as usize).unwrap_or_default();
                match fs.read_own(ino.0, fh.0, offset, part) {
                    Some(Ok(len)) => reply.data(part.get(..len).unwrap_or_default()),
                    Some(Err(error)) => reply.error(Errno::from_i32(error.errno.raw_os_error())),
                    None => {
                        let read = fs.read(ino.0, fh.0, offset, size);
                        self.finish(request, read, reply, |reply, bytes| reply.data(&bytes));
                    }
                }
            });
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.work("write", |fs| {
            let written = fs.write(ino.0, fh.0, offset, data, write_flags.contains(WRITE_KILL_SUIDGID));
            self.finish(request, written, reply, |reply, len| reply.written(len as u32));
        });
    }

    fn flush(&self, request: &Request, ino: INodeNo, fh: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.work("flush", |fs| self.finish(request, fs.flush(ino.0, fh.0), reply, |reply, ()| reply.ok()));
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.work("release", |fs| {
            fs.close_file(ino.0, fh.0);
            reply.ok();
        });
    }

    fn fsync(&self, request: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.work("fsync", |fs| {
            self.finish(request, fs.sync_file(ino.0, fh.0, datasync), reply, |reply, ()| reply.ok())
        });
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.work("opendir", |fs| {
            self.finish(request, fs.open_directory(ino.0), reply, |reply, opened| {
                let mut flags = FopenFlags::empty();
                flags.set(FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR, opened.keep_cache);
                reply.opened(FileHandle(opened.handle), flags);
            });
        });
    }

    fn readdir(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.work("readdir", |fs| {
            let held = Held::new(Mutex::new(Some(reply)));
            let listed = fs.list(ino.0, fh.0, offset, Names(held.clone()));
            self.finish(request, listed, held, |held, _| {
                if let Some(reply) = take(&held) {
                    reply.ok();
                }
            });
        });
    }

    fn readdirplus(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.work("readdirplus", |fs| {
            let held = Held::new(Mutex::new(Some(reply)));
            let listed = fs.list(ino.0, fh.0, offset, Entries(held.clone()));
            self.finish(request, listed, held, |held, _| {
                if let Some(reply) = take(&held) {
                    reply.ok();
                }
            });
        });
    }

    fn releasedir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.work("releasedir", |fs| {
            fs.close_directory(ino.0, fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.work("fsyncdir", |fs| self.finish(request, fs.sync_directory(ino.0, fh.0), reply, |reply, ()| reply.ok()));
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.work("statfs", |fs| {
            self.finish(request, fs.space(), reply, |reply, space| {
                let (size, name) = (space.block_bytes, space.name_bytes_max);
                let (blocks, free, available) = (space.blocks, space.free, space.available);
                reply.statfs(blocks, free, available, space.files, space.files_free, size, name, size);
            });
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        self.work("setxattr", |fs| {
            self.finish(request, fs.set_xattr(ino.0, name, value, flags as u32), reply, |reply, ()| reply.ok());
        });
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.work("getxattr", |fs| self.finish(request, fs.xattr(ino.0, name), reply, send_xattr(size)));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.work("listxattr", |fs| self.finish(request, fs.xattrs(ino.0), reply, send_xattr(size)));
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.work("removexattr", |fs| {
            self.finish(request, fs.remove_xattr(ino.0, name), reply, |reply, ()| reply.ok());
        });
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions itself from then on.
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.work("create", |fs| {
            let lend = |file: BorrowedFd<'_>| self.lend(|| reply.open_backing(file));
            let made = fs.create(parent.0, name, flags as u32, mode, caller(request), &lend);
            self.finish(request, made, reply, |reply, (entry, opened)| {
                let attr = file_attr(entry.node, &entry.attr);
                let (handle, flags) = (FileHandle(opened.handle), open_flags(&opened));
                match lent(&opened) {
                    Some(file) => reply.created_passthrough(&entry.kept, &attr, Generation(0), handle, flags, file),
                    None => reply.created(&entry.kept, &attr, Generation(0), handle, flags),
                }
            });
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.work("fallocate", |fs| {
            self.finish(request, fs.allocate(ino.0, fh.0, offset, length, mode as u32), reply, |reply, ()| reply.ok());
        });
    }

    fn lseek(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.work("lseek", |fs| {
            let found = fs.seek(ino.0, fh.0, offset as u64, whence as u32);
            self.finish(request, found, reply, |reply, offset| reply.offset(offset as i64));
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.work("copy_file_range", |fs| {
            let copied = fs.copy_range((ino_in.0, fh_in.0, offset_in), (ino_out.0, fh_out.0, offset_out), len);
            self.finish(request, copied, reply, |reply, len| reply.written(len as u32));
        });
    }
}
