//! A disk whose power can be cut and that fails on command: a file system in memory, mounted for real, for a data directory to lie on.
//!
//! It keeps as little as a file system with a journal may. A file's bytes are durable once the file was synced, and a name once its directory
//! was; names become durable in the order in which they were made. A cut loses, of the rest, what the dice say: all of it, what came after some moment, or single
//! pages and names. A sync that fails loses what it should have written for good, though it can still be read, as on Linux.

mod served;

use super::tree::Dice;
use fuser::{Config, Errno, FileAttr, FileType, INodeNo, Session, SessionACL};
use served::Served;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

const PAGE: u64 = 4096;
const TOP: u64 = 1;
/// Space of the disk, as it tells. Nothing fills it.
const ROOM: u64 = 64 << 30;

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reading of bytes.
    Read,
    /// Writing of bytes.
    Write,
    /// Syncing of a file or directory.
    Sync,
}

/// A fault that lasts until it is healed.
#[derive(Debug, Clone)]
struct Fault {
    kind: Kind,
    below: PathBuf,
    errno: i32,
}

#[derive(Debug, Clone)]
struct Inode {
    kind: FileType,
    mode: u16,
    owner: (u32, u32),
    rdev: u32,
    size: u64,
    modified: SystemTime,
    accessed: SystemTime,
    changed: SystemTime,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
    /// Pages that cannot be read until they are written again.
    spoiled: BTreeSet<u64>,
    target: OsString,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    names: BTreeMap<OsString, u64>,
    /// Where it was made.
    born: PathBuf,
    /// Not durable yet, in order.
    pending: Vec<Change>,
}

/// A change of a file's bytes.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Cut { size: u64 },
    Zero { offset: u64, len: u64 },
}

/// Names that change in one step.
#[derive(Debug, Clone)]
struct Naming {
    names: Vec<(u64, OsString, Option<u64>)>,
    made: Option<(u64, Inode)>,
}

impl Inode {
    fn new(kind: FileType, mode: u32, owner: (u32, u32), born: PathBuf) -> Inode {
        let now = SystemTime::now();
        Inode {
            kind,
            mode: (mode & 0o7777) as u16,
            owner,
            rdev: 0,
            size: 0,
            modified: now,
            accessed: now,
            changed: now,
            pages: BTreeMap::new(),
            spoiled: BTreeSet::new(),
            target: OsString::new(),
            xattrs: BTreeMap::new(),
            names: BTreeMap::new(),
            born,
            pending: Vec::new(),
        }
    }

    fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = self.size.min(offset + len);
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        for (page, from, to) in pieces(offset, bytes.len() as u64) {
            if let Some(known) = self.pages.get(&page) {
                let place = (page * PAGE + from - offset) as usize;
                bytes[place..place + (to - from) as usize].copy_from_slice(&known[from as usize..to as usize]);
            }
        }
        bytes
    }

    /// Makes a change, of a write only in the pages that `wanted` names.
    fn apply(&mut self, change: &Change, mut wanted: impl FnMut(u64) -> bool) {
        match change {
            Change::Write { offset, bytes } => {
                for (page, from, to) in pieces(*offset, bytes.len() as u64) {
                    if wanted(page) {
                        let place = (page * PAGE + from - offset) as usize;
                        self.spoiled.remove(&page);
                        let known = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE as usize]));
                        known[from as usize..to as usize].copy_from_slice(&bytes[place..place + (to - from) as usize]);
                        self.size = self.size.max(page * PAGE + to);
                    }
                }
            }
            Change::Cut { size } => {
                if *size < self.size {
                    self.zero(*size, self.size - size);
                }
                self.size = *size;
            }
            Change::Zero { offset, len } => self.zero(*offset, *len),
        }
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let (first, last) = (offset / PAGE, offset.saturating_add(len) / PAGE);
        let touched: Vec<u64> = self.pages.range(first..=last).map(|(page, _)| *page).collect();
        for page in touched {
            let start = page * PAGE;
            let (from, to) = (offset.max(start) - start, offset.saturating_add(len).min(start + PAGE) - start);
            if (from, to) == (0, PAGE) {
                self.pages.remove(&page);
            } else if let Some(known) = self.pages.get_mut(&page) {
                known[from as usize..to as usize].fill(0);
            }
        }
    }

    /// What is not bytes or names.
    fn describe_as(&mut self, other: &Inode) {
        self.mode = other.mode;
        self.owner = other.owner;
        (self.modified, self.accessed, self.changed) = (other.modified, other.accessed, other.changed);
        self.xattrs = other.xattrs.clone();
    }

    /// As it was made, without any bytes.
    fn blank(&self) -> Inode {
        let empty = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut blank = Inode { size: 0, pages: empty.0, names: empty.1, pending: empty.2, ..self.shallow() };
        blank.target = self.target.clone();
        blank
    }

    fn shallow(&self) -> Inode {
        let mut made = Inode::new(self.kind, u32::from(self.mode), self.owner, self.born.clone());
        made.rdev = self.rdev;
        made.describe_as(self);
        made
    }
}

/// The pages that a range touches, with the part of each.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset + len;
    let pages = if len == 0 { 0..0 } else { offset / PAGE..(end - 1) / PAGE + 1 };
    pages.map(move |page| {
        let start = page * PAGE;
        (page, offset.max(start) - start, end.min(start + PAGE) - start)
    })
}

struct State {
    now: BTreeMap<u64, Inode>,
    durable: BTreeMap<u64, Inode>,
    namings: Vec<Naming>,
    next: u64,
    faults: Vec<Fault>,
    struck: u64,
    /// Changes and syncs so far.
    steps: u64,
    /// The power goes at this step.
    ends: Option<u64>,
    listings: BTreeMap<u64, Vec<(OsString, u64, FileType)>>,
    /// Of its size, by its own word.
    free_percent: u64,
}

impl State {
    fn new() -> State {
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let top = BTreeMap::from([(TOP, Inode::new(FileType::Directory, 0o755, owner, PathBuf::new()))]);
        State {
            now: top.clone(),
            durable: top,
            namings: Vec::new(),
            next: TOP + 1,
            faults: Vec::new(),
            struck: 0,
            steps: 0,
            ends: None,
            listings: BTreeMap::new(),
            free_percent: 100,
        }
    }

    fn is_off(&self) -> bool {
        self.ends.is_some_and(|end| self.steps >= end)
    }

    fn find(&self, ino: INodeNo) -> Result<&Inode, Errno> {
        if self.is_off() { Err(Errno::EIO) } else { self.now.get(&ino.0).ok_or(Errno::ENOENT) }
    }

    /// Something is about to change, or to be synced.
    fn step(&mut self) -> Result<(), Errno> {
        if self.is_off() {
            return Err(Errno::EIO);
        }
        self.steps += 1;
        Ok(())
    }

    fn check(&mut self, kind: Kind, ino: INodeNo) -> Result<(), Errno> {
        let born = self.find(ino)?.born.clone();
        let fault = self.faults.iter().find(|fault| fault.kind == kind && born.starts_with(&fault.below));
        let Some(errno) = fault.map(|fault| fault.errno) else { return Ok(()) };
        self.struck += 1;
        Err(Errno::from_i32(errno))
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<u64, Errno> {
        self.find(parent)?.names.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn attr(&self, ino: u64) -> Result<FileAttr, Errno> {
        let inode = self.find(INodeNo(ino))?;
        let links = if inode.kind == FileType::Directory { 2 } else { 1 };
        Ok(FileAttr {
            ino: INodeNo(ino),
            size: inode.size,
            blocks: inode.pages.len() as u64 * (PAGE / 512),
            atime: inode.accessed,
            mtime: inode.modified,
            ctime: inode.changed,
            crtime: inode.modified,
            kind: inode.kind,
            perm: inode.mode,
            nlink: links,
            uid: inode.owner.0,
            gid: inode.owner.1,
            rdev: inode.rdev,
            blksize: PAGE as u32,
            flags: 0,
        })
    }

    /// Changes names in one step.
    fn name(&mut self, naming: Naming) -> Result<(), Errno> {
        self.step()?;
        let now = SystemTime::now();
        if let Some((ino, inode)) = &naming.made {
            self.now.insert(*ino, inode.clone());
        }
        set_names(&mut self.now, &naming, now);
        self.namings.push(naming);
        Ok(())
    }

    fn make(&mut self, parent: INodeNo, name: &OsStr, inode: Inode) -> Result<u64, Errno> {
        if self.child(parent, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let inode = Inode { born: self.find(parent)?.born.join(name), ..inode };
        let ino = self.next;
        self.next += 1;
        self.name(Naming { names: vec![(parent.0, name.into(), Some(ino))], made: Some((ino, inode)) })?;
        Ok(ino)
    }

    fn change(&mut self, ino: INodeNo, change: Change) -> Result<(), Errno> {
        self.step()?;
        let inode = self.now.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
        inode.apply(&change, |_| true);
        (inode.modified, inode.changed) = (SystemTime::now(), SystemTime::now());
        inode.pending.push(change);
        Ok(())
    }

    fn sync(&mut self, ino: INodeNo) -> Result<(), Errno> {
        self.step()?;
        let checked = self.check(Kind::Sync, ino);
        let inode = self.now.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
        let pending = std::mem::take(&mut inode.pending);
        // What a failed sync loses, no second one brings back.
        checked?;
        let inode = inode.clone();
        if inode.kind == FileType::Directory {
            let last = self.namings.iter().rposition(|naming| naming.names.iter().any(|(parent, ..)| *parent == ino.0));
            self.settle_names(last.map_or(0, |last| last + 1));
        }
        let durable = self.durable.entry(ino.0).or_insert_with(|| inode.blank());
        pending.iter().for_each(|change| durable.apply(change, |_| true));
        durable.describe_as(&inode);
        Ok(())
    }

    fn settle_names(&mut self, count: usize) {
        for naming in self.namings.drain(..count) {
            if let Some((ino, inode)) = &naming.made {
                self.durable.entry(*ino).or_insert_with(|| inode.clone());
            }
            set_names(&mut self.durable, &naming, SystemTime::now());
        }
    }

    /// The power is off and comes back.
    fn cut(&mut self, dice: &mut Dice) {
        let kept = dice.below(self.namings.len() as u64 + 1) as usize;
        self.settle_names(kept);
        for (ino, inode) in &self.now {
            let Some(durable) = self.durable.get_mut(ino).filter(|_| !inode.pending.is_empty()) else { continue };
            let moment = dice.below(inode.pending.len() as u64 + 1) as usize;
            let how = dice.below(3);
            for change in inode.pending.iter().take(if how == 0 { 0 } else { moment }) {
                durable.apply(change, |_| how == 1 || dice.below(2) == 0);
            }
            if how > 0 {
                durable.modified = inode.modified;
            }
        }
        let (mut named, mut open) = (BTreeSet::from([TOP]), vec![TOP]);
        while let Some(ino) = open.pop() {
            let below = self.durable[&ino].names.values().copied();
            open.extend(below.filter(|below| named.insert(*below)));
        }
        self.durable.retain(|ino, _| named.contains(ino));
        self.now = self.durable.clone();
        self.namings.clear();
        self.listings.clear();
        self.faults.clear();
        self.ends = None;
    }
}

fn set_names(inodes: &mut BTreeMap<u64, Inode>, naming: &Naming, now: SystemTime) {
    for (parent, name, ino) in &naming.names {
        let Some(parent) = inodes.get_mut(parent) else { continue };
        (parent.modified, parent.changed) = (now, now);
        match ino {
            Some(ino) => parent.names.insert(name.clone(), *ino),
            None => parent.names.remove(name),
        };
    }
}

/// The disk, mounted.
pub struct Disk {
    point: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Disk {
    /// A new disk, mounted on the directory `point`. Takes root.
    pub fn mount(point: &Path) -> Disk {
        std::fs::create_dir_all(point).unwrap();
        let disk = Disk { point: point.to_path_buf(), state: Arc::new(Mutex::new(State::new())) };
        disk.attach();
        disk
    }

    fn attach(&self) {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/fuse", flags, rustix::fs::Mode::empty()).unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions", device.as_raw_fd());
        let data = CString::new(data).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("disk", &self.point, "fuse", flags, Some(data.as_c_str())).unwrap();
        let mut config = Config::default();
        config.n_threads = Some(2);
        let session = Session::from_fd(Served(self.state.clone()), device, SessionACL::All, config).unwrap();
        std::thread::spawn(move || session.run());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Cuts the power now. Whoever uses the disk must be killed at once, and is told of nothing that went well after this.
    pub fn end(&self) {
        let mut state = self.state();
        let now = state.steps;
        state.ends.get_or_insert(now);
    }

    /// Cuts the power after so many more changes and syncs.
    pub fn end_after(&self, steps: u64) {
        let mut state = self.state();
        state.ends = Some(state.steps + steps);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.state().is_off()
    }

    /// Power again, on what is left. Nobody may use the disk any more.
    pub fn start_again(&mut self, dice: &mut Dice) {
        super::detach(&self.point);
        // The old session ends by itself; what it is still asked fails.
        let off = State { ends: Some(0), ..State::new() };
        let mut left = std::mem::replace(&mut *self.state(), off);
        left.cut(dice);
        self.state = Arc::new(Mutex::new(left));
        self.attach();
    }

    /// What is of this kind, of files and directories made below a path (relative to the top), fails from now on.
    pub fn fail(&self, kind: Kind, below: impl AsRef<Path>, errno: rustix::io::Errno) {
        let below = below.as_ref().to_path_buf();
        self.state().faults.push(Fault { kind, below, errno: errno.raw_os_error() });
    }

    /// What lies in files made below a path cannot be read any more; what is written from now on can.
    pub fn spoil(&self, below: impl AsRef<Path>) {
        for inode in self.state().now.values_mut().filter(|inode| inode.born.starts_with(&below)) {
            inode.spoiled = inode.pages.keys().copied().collect();
        }
    }

    /// The disk says from now on that so much of it is free.
    pub fn say_free(&self, percent: u64) {
        self.state().free_percent = percent;
    }

    /// Nothing fails any more, but what was spoiled.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// How often something failed so far.
    pub fn struck(&self) -> u64 {
        self.state().struck
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        super::detach(&self.point);
    }
}
