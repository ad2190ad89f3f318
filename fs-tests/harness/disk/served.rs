//! The disk as the kernel sees it.

use super::{Change, Inode, Kind, Naming, PAGE, ROOM, State, pieces};
use fuser::{
    Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

pub(super) struct Served(pub(super) Arc<Mutex<State>>);

impl Served {
    fn work<T>(&self, work: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
        work(&mut self.0.lock().unwrap())
    }
}

macro_rules! answer {
    ($reply:ident, $work:expr, $value:pat => $send:expr) => {
        match $work {
            Ok($value) => $send,
            Err(error) => $reply.error(error),
        }
    };
}

const ASK_AGAIN: Duration = Duration::ZERO;

fn xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, Errno>) {
    answer!(reply, value, value => match size {
        0 => reply.size(value.len() as u32),
        size if (size as usize) < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(&value),
    });
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for flag in [InitFlags::FUSE_BIG_WRITES, InitFlags::FUSE_MAX_PAGES] {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.work(|state| state.child(parent, name).and_then(|ino| state.attr(ino)));
        answer!(reply, found, attr => reply.entry(&ASK_AGAIN, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.work(|state| state.attr(ino.0)), attr => reply.attr(&ASK_AGAIN, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let moment = |time: TimeOrNow| match time {
            TimeOrNow::Now => SystemTime::now(),
            TimeOrNow::SpecificTime(time) => time,
        };
        let done = self.work(|state| {
            state.find(ino)?;
            if let Some(size) = size {
                state.check(Kind::Write, ino)?;
                state.change(ino, Change::Cut { size })?;
            }
            state.step()?;
            let inode = state.now.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
            inode.mode = mode.map_or(inode.mode, |mode| (mode & 0o7777) as u16);
            inode.owner = (uid.unwrap_or(inode.owner.0), gid.unwrap_or(inode.owner.1));
            inode.accessed = atime.map_or(inode.accessed, moment);
            inode.modified = mtime.map_or(inode.modified, moment);
            inode.changed = SystemTime::now();
            state.attr(ino.0)
        });
        answer!(reply, done, attr => reply.attr(&ASK_AGAIN, &attr));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.work(|state| Ok(state.find(ino)?.target.clone()));
        answer!(reply, target, target => reply.data(target.as_encoded_bytes()));
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        let kind = match mode & 0o170_000 {
            0o140_000 => FileType::Socket,
            0o010_000 => FileType::NamedPipe,
            _ => FileType::RegularFile,
        };
        let made = self.work(|state| {
            let inode = Inode { rdev, ..Inode::new(kind, mode, (req.uid(), req.gid()), PathBuf::new()) };
            state.make(parent, name, inode).and_then(|ino| state.attr(ino))
        });
        answer!(reply, made, attr => reply.entry(&ASK_AGAIN, &attr, Generation(0)));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let made = self.work(|state| {
            let inode = Inode::new(FileType::Directory, mode, (req.uid(), req.gid()), PathBuf::new());
            state.make(parent, name, inode).and_then(|ino| state.attr(ino))
        });
        answer!(reply, made, attr => reply.entry(&ASK_AGAIN, &attr, Generation(0)));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = self.work(|state| {
            let inode = Inode::new(FileType::Symlink, 0o777, (req.uid(), req.gid()), PathBuf::new());
            let size = target.as_os_str().len() as u64;
            state.make(parent, name, Inode { target: target.into(), size, ..inode }).and_then(|ino| state.attr(ino))
        });
        answer!(reply, made, attr => reply.entry(&ASK_AGAIN, &attr, Generation(0)));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let made = self.work(|state| {
            if state.child(parent, name).is_ok() {
                return Err(Errno::EEXIST);
            }
            state.name(Naming { names: vec![(parent.0, name.into(), Some(ino.0))], made: None })?;
            state.attr(ino.0)
        });
        answer!(reply, made, attr => reply.entry(&ASK_AGAIN, &attr, Generation(0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.work(|state| {
            state.child(parent, name)?;
            state.name(Naming { names: vec![(parent.0, name.into(), None)], made: None })
        });
        answer!(reply, done, () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.work(|state| {
            let ino = state.child(parent, name)?;
            if !state.find(INodeNo(ino))?.names.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            state.name(Naming { names: vec![(parent.0, name.into(), None)], made: None })
        });
        answer!(reply, done, () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        parent_new: INodeNo,
        name_new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = self.work(|state| {
            let (ino, other) = (state.child(parent, name)?, state.child(parent_new, name_new).ok());
            let exchanged = flags.contains(RenameFlags::RENAME_EXCHANGE);
            if other.is_some() && flags.contains(RenameFlags::RENAME_NOREPLACE) {
                return Err(Errno::EEXIST);
            }
            let old = if exchanged { other } else { None };
            let names = vec![(parent.0, name.into(), old), (parent_new.0, name_new.into(), Some(ino))];
            state.name(Naming { names, made: None })
        });
        answer!(reply, done, () => reply.ok());
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Past the kernel's memory: what is read is read here.
        let found = self.work(|state| state.find(ino).map(|_| ()));
        answer!(reply, found, () => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO));
    }

    fn create(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let made = self.work(|state| {
            let inode = Inode::new(FileType::RegularFile, mode, (req.uid(), req.gid()), PathBuf::new());
            state.make(parent, name, inode).and_then(|ino| state.attr(ino))
        });
        let direct = FopenFlags::FOPEN_DIRECT_IO;
        answer!(reply, made, attr => reply.created(&ASK_AGAIN, &attr, Generation(0), FileHandle(0), direct));
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.work(|state| {
            state.check(Kind::Read, ino)?;
            let inode = state.find(ino)?;
            if pieces(offset, u64::from(size)).any(|(page, ..)| inode.spoiled.contains(&page)) {
                state.struck += 1;
                return Err(Errno::EIO);
            }
            Ok(inode.read(offset, u64::from(size)))
        });
        answer!(reply, bytes, bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let done = self.work(|state| {
            state.check(Kind::Write, ino)?;
            state.change(ino, Change::Write { offset, bytes: data.to_vec() })
        });
        answer!(reply, done, () => reply.written(data.len() as u32));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.work(|state| state.sync(ino)), () => reply.ok());
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.work(|state| {
            let names = state.find(ino)?.names.clone();
            let kinds = names.into_iter().filter_map(|(name, ino)| Some((name, ino, state.now.get(&ino)?.kind)));
            let listed = kinds.collect();
            state.next += 1;
            state.listings.insert(state.next, listed);
            Ok(state.next)
        });
        answer!(reply, opened, handle => reply.opened(FileHandle(handle), FopenFlags::empty()));
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.work(|state| state.listings.get(&fh.0).cloned().ok_or(Errno::EIO));
        answer!(reply, listed, listed => {
            for (place, (name, ino, kind)) in listed.into_iter().enumerate().skip(offset as usize) {
                if reply.add(INodeNo(ino), place as u64 + 1, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        let _ = self.work(|state| Ok(state.listings.remove(&fh.0)));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.work(|state| state.sync(ino)), () => reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = ROOM / PAGE;
        let free = blocks * self.0.lock().unwrap().free_percent / 100;
        reply.statfs(blocks, free, free, 1 << 20, 1 << 20, PAGE as u32, 255, PAGE as u32);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (keep_size, zeroes) = (mode & 1 != 0, mode & (2 | 16) != 0);
        let done = self.work(|state| {
            state.check(Kind::Write, ino)?;
            let size = state.find(ino)?.size;
            if zeroes {
                state.change(ino, Change::Zero { offset, len: length })?;
            }
            if !keep_size && offset + length > size {
                state.change(ino, Change::Cut { size: offset + length })?;
            }
            Ok(())
        });
        answer!(reply, done, () => reply.ok());
    }

    fn setxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, value: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        let done = self.work(|state| {
            state.step()?;
            let inode = state.now.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
            inode.xattrs.insert(name.into(), value.to_vec());
            Ok(())
        });
        answer!(reply, done, () => reply.ok());
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.work(|state| state.find(ino)?.xattrs.get(name).cloned().ok_or(Errno::ENODATA));
        xattr(reply, size, value);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.work(|state| {
            let names = state.find(ino)?.xattrs.keys();
            Ok(names.flat_map(|name| [name.as_encoded_bytes(), b"\0"].concat()).collect())
        });
        xattr(reply, size, names);
    }
}
