//! Random operations on the own tree, one after the other, against a twin in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use proptest::prelude::*;

use super::twin::{Answer, Body, EXCHANGE, KEEP_SIZE, Model, NOREPLACE, PUNCH, Twin, ZERO};
use super::*;
use crate::base::time::Timestamp;
use crate::vfs::attr::{SetAttr, SetTime};

const READ_WRITE: u32 = 2;
const SLOTS: usize = 3;

/// Where names are made: few, so that operations meet.
const PLACES: [&str; 3] = ["", "d", "d/e"];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

type Name = (usize, usize);

#[derive(Clone, Debug)]
enum Step {
    Make(Name),
    Mkdir(Name),
    Symlink(Name, String),
    Link(Name, Name),
    Unlink(Name),
    Rmdir(Name),
    Rename(Name, Name, u32),
    Open(Name, usize),
    Close(usize),
    Write(usize, u64, Vec<u8>),
    Read(usize, u64, u32),
    Cut(Name, u64),
    CutOpen(usize, u64),
    Allocate(usize, u32, u64, u64),
    Copy(usize, u64, usize, u64, u64),
    Mode(Name, u32),
    Modified(Name, i64, u32),
    SetXattr(Name, u8, Vec<u8>, u32),
    RemoveXattr(Name, u8),
    /// The kernel forgets all that nobody has open or has anything open in.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || (0..PLACES.len(), 0..NAMES.len());
    let (slot, offset) = (0..SLOTS, 0..20_000u64);
    let bytes = prop_oneof![
        (any::<u8>(), 1..9000usize).prop_map(|(byte, len)| vec![byte; len]),
        proptest::collection::vec(any::<u8>(), 0..30)
    ];
    prop_oneof![
        4 => name().prop_map(Step::Make),
        3 => name().prop_map(Step::Mkdir),
        1 => (name(), "[a-z/.]{1,9}").prop_map(|(name, target)| Step::Symlink(name, target)),
        2 => (name(), name()).prop_map(|(from, to)| Step::Link(from, to)),
        3 => name().prop_map(Step::Unlink),
        2 => name().prop_map(Step::Rmdir),
        6 => (name(), name(), prop_oneof![Just(0), Just(0), Just(NOREPLACE), Just(EXCHANGE)])
            .prop_map(|(from, to, flags)| Step::Rename(from, to, flags)),
        4 => (name(), slot.clone()).prop_map(|(name, slot)| Step::Open(name, slot)),
        1 => slot.clone().prop_map(Step::Close),
        6 => (slot.clone(), offset.clone(), bytes.clone()).prop_map(|(slot, at, bytes)| Step::Write(slot, at, bytes)),
        4 => (slot.clone(), offset.clone(), 0..30_000u32).prop_map(|(slot, at, len)| Step::Read(slot, at, len)),
        2 => (name(), offset.clone()).prop_map(|(name, size)| Step::Cut(name, size)),
        2 => (slot.clone(), offset.clone()).prop_map(|(slot, size)| Step::CutOpen(slot, size)),
        3 => (slot.clone(), prop_oneof![Just(0), Just(KEEP_SIZE), Just(PUNCH), Just(ZERO)], offset.clone(), 0..9000u64)
            .prop_map(|(slot, mode, at, len)| Step::Allocate(slot, mode, at, len)),
        2 => (slot.clone(), offset.clone(), slot, offset, 0..9000u64)
            .prop_map(|(from, at, to, there, len)| Step::Copy(from, at, to, there, len)),
        1 => (name(), 0..0o1000u32).prop_map(|(name, mode)| Step::Mode(name, mode | 0o600)),
        1 => (name(), -1_000_000..4_000_000_000i64, 0..1_000_000_000u32)
            .prop_map(|(name, seconds, nanos)| Step::Modified(name, seconds, nanos)),
        2 => (name(), 0..3u8, bytes, 0..3u32).prop_map(|(name, which, mut value, flags)| {
            value.truncate(200);
            Step::SetXattr(name, which, value, flags)
        }),
        1 => (name(), 0..3u8).prop_map(|(name, which)| Step::RemoveXattr(name, which)),
        1 => Just(Step::Forget),
    ]
}
/// An open file: its node and handle, and its twin.
#[derive(Clone, Copy)]
struct Open {
    node: u64,
    handle: u64,
    twin: usize,
}

struct Pair {
    world: World,
    model: Model,
    open: [Option<Open>; SLOTS],
    /// Look-ups that the file system was told to count and not to forget yet.
    known: Mutex<BTreeMap<u64, u64>>,
    /// The twins of nodes that were found.
    twins: Mutex<BTreeMap<u64, usize>>,
    /// Twins that had several names: after they were forgotten they may be found by one, and lose it.
    linked: BTreeSet<usize>,
}

fn plain<T>(result: Result<T>) -> Answer<T> {
    result.map_err(|error| error.errno)
}

fn xattr_name(which: u8) -> String {
    format!("user.{which}")
}

impl Pair {
    fn new() -> Pair {
        Pair {
            world: world(),
            model: Model::new(),
            open: [None; SLOTS],
            known: Mutex::default(),
            twins: Mutex::default(),
            linked: BTreeSet::new(),
        }
    }

    /// A new name: in both trees, or in neither for the same reason.
    fn made(&self, made: Answer<u64>, expected: Answer<usize>) {
        if let (Ok(node), Ok(twin)) = (made, expected) {
            self.twins.lock().unwrap().insert(self.count(node), twin);
        }
        assert_eq!(made.map(|_| ()), expected.map(|_| ()));
    }

    fn count(&self, node: u64) -> u64 {
        *self.known.lock().unwrap().entry(node).or_default() += 1;
        node
    }

    fn look(&self, parent: u64, name: &str) -> Option<u64> {
        self.world.find_in(parent, name).map(|node| self.count(node))
    }

    /// The node of a place, and its twin; nothing where there is no such directory.
    fn place(&self, place: usize) -> Option<(u64, usize)> {
        let mut at = (ROOT, 0);
        for name in PLACES[place].split('/').filter(|name| !name.is_empty()) {
            at = self.step_down(at, name)?;
        }
        self.model.is_directory(at.1).then_some(at)
    }

    /// The kernel looks for names in directories alone.
    fn step_down(&self, (node, twin): (u64, usize), name: &str) -> Option<(u64, usize)> {
        let names = self.model.names(twin).ok()?;
        let (node, twin) = (self.look(node, name), names.get(name).copied());
        assert_eq!(node.is_some(), twin.is_some(), "{name}");
        let found = (node?, twin?);
        self.twins.lock().unwrap().insert(found.0, found.1);
        Some(found)
    }

    fn find(&self, name: Name) -> Option<(u64, usize)> {
        self.step_down(self.place(name.0)?, NAMES[name.1])
    }

    fn close(&mut self, slot: usize) {
        if let Some(open) = self.open[slot].take() {
            self.world.fs.flush(open.node, open.handle).unwrap();
            self.world.fs.close_file(open.node, open.handle);
        }
    }

    fn act(&mut self, step: &Step) {
        let fs = self.world.fs.clone();
        match step {
            Step::Make(name) => {
                let Some((parent, twin)) = self.place(name.0) else { return };
                let flags = READ_WRITE | rustix::fs::OFlags::EXCL.bits();
                let made = plain(fs.create(parent, OsStr::new(NAMES[name.1]), flags, 0o640, caller(), &|_| None));
                let expected = self.model.make(twin, NAMES[name.1], Twin::new(Body::File(Vec::new()), 0o640));
                let made = made.map(|(entry, opened)| {
                    fs.close_file(entry.node, opened.handle);
                    entry.node
                });
                self.made(made, expected);
            }
            Step::Mkdir(name) => {
                let Some((parent, twin)) = self.place(name.0) else { return };
                let made = plain(fs.mkdir(parent, OsStr::new(NAMES[name.1]), 0o750, caller()));
                let expected = self.model.make(twin, NAMES[name.1], Twin::new(Body::Directory(BTreeMap::new()), 0o750));
                self.made(made.map(|entry| entry.node), expected);
            }
            Step::Symlink(name, target) => {
                let Some((parent, twin)) = self.place(name.0) else { return };
                let made = plain(fs.symlink(parent, OsStr::new(NAMES[name.1]), OsStr::new(target), caller()));
                let expected = self.model.make(twin, NAMES[name.1], Twin::new(Body::Link(target.clone()), 0o777));
                self.made(made.map(|entry| entry.node), expected);
            }
            Step::Link(from, to) => {
                let (Some((node, moved)), Some((parent, twin))) = (self.find(*from), self.place(to.0)) else { return };
                // The kernel does not ask for links to directories.
                if self.model.is_directory(moved) {
                    return;
                }
                let made = plain(fs.link(node, parent, OsStr::new(NAMES[to.1])));
                let made = made.map(|entry| assert_eq!(self.count(entry.node), node));
                let expected = if self.model.names(twin).unwrap().contains_key(NAMES[to.1]) {
                    Err(Errno::EXIST)
                } else {
                    self.model.names_mut(twin).insert(NAMES[to.1].into(), moved);
                    self.model.0[moved].links += 1;
                    self.linked.insert(moved);
                    Ok(())
                };
                assert_eq!(made, expected);
            }
            Step::Unlink(name) | Step::Rmdir(name) => {
                let Some((parent, twin)) = self.place(name.0) else { return };
                let directory = matches!(step, Step::Rmdir(_));
                let text = OsStr::new(NAMES[name.1]);
                let done = plain(if directory { fs.rmdir(parent, text) } else { fs.unlink(parent, text) });
                assert_eq!(done, self.model.remove(twin, NAMES[name.1], directory));
            }
            Step::Rename(from, to, flags) => {
                let (Some(source), Some(target)) = (self.place(from.0), self.place(to.0)) else { return };
                let (name, name_new) = (NAMES[from.1], NAMES[to.1]);
                let done = fs.rename((source.0, OsStr::new(name)), (target.0, OsStr::new(name_new)), *flags);
                assert_eq!(plain(done), self.model.rename((source.1, name), (target.1, name_new), *flags));
            }
            Step::Open(name, slot) => {
                let Some((node, twin)) = self.find(*name) else { return };
                let opened = plain(now(fs.open_file(node, READ_WRITE, &|_| None)));
                assert_eq!(opened.is_ok(), self.model.file(twin).is_ok());
                if let Ok(opened) = opened {
                    self.close(*slot);
                    self.open[*slot] = Some(Open { node, handle: opened.handle, twin });
                }
            }
            Step::Close(slot) => self.close(*slot),
            Step::Write(slot, offset, bytes) => {
                let Some(open) = self.open[*slot] else { return };
                assert_eq!(plain(fs.write(open.node, open.handle, *offset, bytes, false)), Ok(bytes.len()));
                self.model.write(open.twin, *offset, bytes).unwrap();
            }
            Step::Read(slot, offset, len) => {
                let Some(open) = self.open[*slot] else { return };
                let got = now(fs.read(open.node, open.handle, *offset, *len)).unwrap();
                let bytes = self.model.file(open.twin).unwrap();
                let (start, end) = (*offset as usize, *offset as usize + *len as usize);
                assert!(got[..] == bytes[start.min(bytes.len())..end.min(bytes.len())], "{len} bytes at {offset}");
            }
            Step::Cut(name, size) => {
                let Some((node, twin)) = self.find(*name) else { return };
                let Ok(bytes) = self.model.file(twin) else { return };
                bytes.resize(*size as usize, 0);
                self.model.0[twin].modified = None;
                let attr = now(fs.set_attr(node, &SetAttr { size: Some(*size), ..SetAttr::default() })).unwrap();
                assert_eq!(attr.size, *size);
            }
            Step::CutOpen(slot, size) => {
                let Some(open) = self.open[*slot] else { return };
                self.model.file(open.twin).unwrap().resize(*size as usize, 0);
                self.model.0[open.twin].modified = None;
                let set = SetAttr { size: Some(*size), handle: Some(open.handle), ..SetAttr::default() };
                assert_eq!(now(fs.set_attr(open.node, &set)).unwrap().size, *size);
            }
            Step::Allocate(slot, mode, offset, len) => {
                let Some(open) = self.open[*slot] else { return };
                let done = plain(now(fs.allocate(open.node, open.handle, *offset, *len, *mode)));
                // Not every file system does all of it.
                if done != Err(Errno::OPNOTSUPP) {
                    assert_eq!(done, self.model.allocate(open.twin, *mode, *offset, *len));
                }
            }
            Step::Copy(from, offset, to, there, len) => {
                let (Some(source), Some(target)) = (self.open[*from], self.open[*to]) else { return };
                let bytes = self.model.file(source.twin).unwrap().clone();
                let (start, end) = (*offset as usize, (*offset + *len) as usize);
                let part = &bytes[start.min(bytes.len())..end.min(bytes.len())];
                let (input, output) = ((source.node, source.handle, *offset), (target.node, target.handle, *there));
                let copied = plain(now(fs.copy_range(input, output, *len)));
                // Of one file, ranges that overlap are refused; and a few bytes may be all that is copied at once.
                let overlap = source.twin == target.twin && offset.abs_diff(*there) < *len;
                match copied {
                    Err(error) => assert!(error == Errno::INVAL && overlap, "{error}"),
                    Ok(copied) => {
                        assert!(copied <= part.len() && (copied > 0 || part.is_empty()));
                        self.model.write(target.twin, *there, &part[..copied]).unwrap();
                    }
                }
            }
            Step::Mode(name, mode) => {
                let Some((node, twin)) = self.find(*name) else { return };
                let done = plain(now(fs.set_attr(node, &SetAttr { mode: Some(*mode), ..SetAttr::default() })));
                match &self.model.0[twin].body {
                    Body::Link(_) => assert_eq!(done.map(|_| ()), Err(Errno::OPNOTSUPP)),
                    _ => {
                        assert_eq!(done.unwrap().mode & 0o7777, *mode);
                        self.model.0[twin].mode = *mode;
                    }
                }
            }
            Step::Modified(name, seconds, nanos) => {
                let Some((node, twin)) = self.find(*name) else { return };
                let time = Timestamp { seconds: *seconds, nanos: *nanos };
                let set = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
                assert_eq!(now(fs.set_attr(node, &set)).unwrap().mtime, time);
                self.model.0[twin].modified = Some(time);
            }
            Step::SetXattr(name, which, value, flags) => {
                let Some((node, twin)) = self.find(*name) else { return };
                let done = plain(fs.set_xattr(node, OsStr::new(&xattr_name(*which)), value, *flags));
                let twin = &mut self.model.0[twin];
                let there = twin.xattrs.contains_key(&xattr_name(*which));
                let expected = match (&twin.body, flags) {
                    (Body::Link(_), _) => Err(Errno::PERM),
                    (_, 1) if there => Err(Errno::EXIST),
                    (_, 2) if !there => Err(Errno::NODATA),
                    _ => {
                        twin.xattrs.insert(xattr_name(*which), value.clone());
                        Ok(())
                    }
                };
                assert_eq!(done, expected);
            }
            Step::RemoveXattr(name, which) => {
                let Some((node, twin)) = self.find(*name) else { return };
                let done = plain(fs.remove_xattr(node, OsStr::new(&xattr_name(*which))));
                let twin = &mut self.model.0[twin];
                let expected = match (&twin.body, twin.xattrs.remove(&xattr_name(*which))) {
                    (Body::Link(_), _) => Err(Errno::PERM),
                    (_, None) => Err(Errno::NODATA),
                    (_, Some(_)) => Ok(()),
                };
                assert_eq!(done, expected);
            }
            Step::Forget => {
                let open: Vec<Open> = self.open.iter().flatten().copied().collect();
                let mut twins = self.twins.lock().unwrap();
                self.known.lock().unwrap().retain(|node, lookups| {
                    // Directories stay known as long as what is in them.
                    let holds = |open: &Open| twins.get(node).is_some_and(|twin| self.model.holds(*twin, open.twin));
                    if open.iter().any(|open| open.node == *node || holds(open)) {
                        return true;
                    }
                    fs.forget(*node, *lookups);
                    twins.remove(node);
                    false
                });
            }
        }
    }

    /// What the kernel knows keeps a name as long as it has one, without being looked up again.
    fn check_names(&self) {
        for (node, twin) in self.twins.lock().unwrap().iter().filter(|(_, twin)| self.model.0[**twin].links > 0) {
            match self.world.fs.own.path(*node) {
                Some(path) => assert_eq!(self.model.at(&path), Some(*twin), "{}", path.display()),
                None => assert!(self.linked.contains(twin), "{twin} has lost its name"),
            }
        }
    }

    /// Both trees are the same, seen from the mount and on the disk.
    fn compare(&self) {
        let mut nodes = BTreeMap::new();
        self.compare_below(ROOT, 0, self.world.dir.path(), &mut nodes);
        for open in self.open.iter().flatten() {
            let attr = now(self.world.fs.attr(open.node, Some(open.handle))).unwrap();
            assert_eq!((attr.nlink, attr.size), (self.model.0[open.twin].links, self.size(open.twin)));
            assert_eq!(now(self.world.fs.attr(open.node, None)).unwrap(), attr, "by its node, whatever its names");
        }
    }

    fn size(&self, twin: usize) -> u64 {
        match &self.model.0[twin].body {
            Body::File(bytes) => bytes.len() as u64,
            Body::Link(target) => target.len() as u64,
            Body::Directory(_) => 0,
        }
    }

    fn compare_below(&self, node: u64, twin: usize, path: &Path, nodes: &mut BTreeMap<usize, u64>) {
        let fs = &self.world.fs;
        let wanted = self.model.names(twin).unwrap();
        for attributes in [false, true] {
            let listed = self.world.names(node, 2, attributes);
            listed.iter().filter_map(|(_, entry)| *entry).for_each(|entry| {
                if entry & (super::super::foreign::FOREIGN | super::super::control::CONTROL) == 0 {
                    self.count(entry);
                }
            });
            let own: BTreeSet<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
            let ours = [".", "..", "names", "ref", ".tornet"];
            let own: BTreeSet<&str> =
                own.into_iter().filter(|name| wanted.contains_key(*name) || !ours.contains(name)).collect();
            assert_eq!(own, wanted.keys().map(String::as_str).collect::<BTreeSet<_>>(), "{}", path.display());
        }
        for (name, child) in wanted {
            let below = path.join(name);
            let found = self.look(node, name).unwrap_or_else(|| panic!("{} is not found", below.display()));
            assert_eq!(*nodes.entry(*child).or_insert(found), found, "{}: one file, one number", below.display());
            let (twin, attr) = (&self.model.0[*child], now(fs.attr(found, None)).unwrap());
            if let Some(modified) = twin.modified {
                assert_eq!(attr.mtime, modified, "{}", below.display());
            }
            for which in 0..3 {
                let value = plain(now(fs.xattr(found, OsStr::new(&xattr_name(which)))));
                assert_eq!(value.ok().as_ref(), twin.xattrs.get(&xattr_name(which)), "{}", below.display());
            }
            match &twin.body {
                Body::File(bytes) => {
                    assert_eq!((attr.size, attr.nlink), (bytes.len() as u64, twin.links), "{}", below.display());
                    assert!(&std::fs::read(&below).unwrap() == bytes, "{}", below.display());
                    let known = fs.own.path(found).unwrap();
                    assert!(std::fs::read(self.world.dir.path().join(&known)).unwrap() == *bytes, "{known:?}");
                }
                Body::Link(target) => assert_eq!(now(fs.readlink(found)).unwrap(), target.as_bytes()),
                Body::Directory(_) => {
                    assert_eq!(self.world.dir.path().join(fs.own.path(found).unwrap()), below);
                    self.compare_below(found, *child, &below, nodes);
                }
            }
            if !matches!(twin.body, Body::Link(_)) {
                assert_eq!(attr.mode & 0o7777, twin.mode, "{}", below.display());
            }
        }
    }
}

proptest! {
    #[test]
    fn operations_come_to_what_they_come_to_in_a_twin_in_memory(steps in proptest::collection::vec(step(), 1..80)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.act(step);
            pair.check_names();
        }
        pair.compare();
        (0..SLOTS).for_each(|slot| pair.close(slot));
        pair.act(&Step::Forget);
        prop_assert_eq!(pair.world.fs.own.nodes.len(), 1, "all is forgotten but the top");
        pair.compare();
    }
}
