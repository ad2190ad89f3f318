//! The own tree.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use rustix::fs::FileType;

use super::*;
use crate::base::time::Timestamp;
use crate::vfs::attr::{SetAttr, SetTime};

fn paths(texts: &[&str]) -> Vec<PathBuf> {
    texts.iter().map(PathBuf::from).collect()
}

#[test]
fn what_is_written_stands_in_the_directory_and_is_told() {
    let world = world();
    let docs = world.directory(ROOT, "docs");
    let node = world.file(docs, "letter", "dear");
    assert_eq!(std::fs::read_to_string(world.dir.path().join("docs/letter")).unwrap(), "dear");
    assert_eq!(world.content(node), "dear");
    assert_eq!(world.told(), paths(&["docs", "docs/letter"]));
}

#[test]
fn a_renamed_directory_carries_its_files_along() {
    let world = world();
    let (a, b) = (world.directory(ROOT, "a"), world.directory(ROOT, "b"));
    let file = world.file(a, "file", "1");
    world.told();
    world.fs.rename((ROOT, OsStr::new("a")), (b, OsStr::new("c")), 0).unwrap();
    assert_eq!(world.told(), paths(&["a", "b/c"]));
    assert_eq!(world.told_below(), paths(&["b/c"]), "what changed as a/file and was not looked at yet");
    now(world.fs.set_attr(file, &SetAttr { mode: Some(0o600), ..SetAttr::default() })).unwrap();
    assert_eq!(world.told(), paths(&["b/c/file"]));
    assert_eq!(world.content(file), "1");
    assert_eq!(world.find("b/c/file"), Some(file));
    assert_eq!(world.find("a"), None);
}

#[test]
fn an_unlinked_file_lives_on_while_it_is_open() {
    let world = world();
    let node = world.file(ROOT, "doomed", "still here");
    let opened = now(world.fs.open_file(node, 2, &|_| None)).unwrap();
    world.fs.unlink(ROOT, OsStr::new("doomed")).unwrap();
    let other = world.file(ROOT, "doomed", "another");
    assert_ne!(other, node);
    world.told();
    world.fs.write(node, opened.handle, 0, b"S", false).unwrap();
    world.fs.flush(node, opened.handle).unwrap();
    assert_eq!(&now(world.fs.read(node, opened.handle, 0, 100)).unwrap()[..], b"Still here");
    assert_eq!(now(world.fs.attr(node, None)).unwrap().nlink, 0);
    // It may be opened anew through its node, as /proc/PID/fd does.
    assert_eq!(world.content(node), "Still here");
    world.fs.close_file(node, opened.handle);
    world.fs.forget(node, 1);
    assert_eq!(world.content(other), "another");
    assert!(world.fs.own.path(node).is_none());
}

#[test]
fn renaming_over_an_open_file_leaves_it_to_its_reader() {
    let world = world();
    let old = world.file(ROOT, "config", "old");
    let opened = now(world.fs.open_file(old, 0, &|_| None)).unwrap();
    let new = world.file(ROOT, "config.tmp", "new");
    world.fs.rename((ROOT, OsStr::new("config.tmp")), (ROOT, OsStr::new("config")), 0).unwrap();
    assert_eq!(world.find("config"), Some(new));
    assert_eq!(&now(world.fs.read(old, opened.handle, 0, 10)).unwrap()[..], b"old");
    assert_eq!(world.content(old), "old");
}

#[test]
fn exchanged_names_stand_for_each_others_files() {
    let world = world();
    let (a, b) = (world.file(ROOT, "a", "A"), world.file(ROOT, "b", "B"));
    world.told();
    world.fs.rename((ROOT, OsStr::new("a")), (ROOT, OsStr::new("b")), 2).unwrap();
    assert_eq!((world.find("a"), world.find("b")), (Some(b), Some(a)));
    assert_eq!((world.content(a), world.content(b)), ("A".into(), "B".into()));
    assert_eq!(world.told(), paths(&["a", "b"]));
    assert_eq!(world.told_below(), paths(&["a", "b"]));
    assert_eq!(errno(world.fs.rename((ROOT, OsStr::new("a")), (ROOT, OsStr::new("b")), 1)), Errno::EXIST);
    assert_eq!(world.content(a), "A");
}

#[test]
fn a_change_of_a_linked_file_is_told_of_all_its_names() {
    let world = world();
    let dir = world.directory(ROOT, "dir");
    let node = world.file(ROOT, "one", "1");
    assert_eq!(world.fs.link(node, dir, OsStr::new("two")).unwrap().node, node);
    world.told();
    now(world.fs.set_attr(node, &SetAttr { size: Some(0), ..SetAttr::default() })).unwrap();
    assert_eq!(world.told(), paths(&["dir/two", "one"]));
    world.fs.unlink(ROOT, OsStr::new("one")).unwrap();
    world.told();
    now(world.fs.set_attr(node, &SetAttr { mode: Some(0o600), ..SetAttr::default() })).unwrap();
    assert_eq!(world.told(), paths(&["dir/two"]));
    // A name that we never saw: anything may have changed.
    std::fs::hard_link(world.dir.path().join("dir/two"), world.dir.path().join("hidden")).unwrap();
    now(world.fs.set_attr(node, &SetAttr { mode: Some(0o640), ..SetAttr::default() })).unwrap();
    assert!(world.told_below().contains(&PathBuf::new()));
}

#[test]
fn what_changes_while_a_directory_is_not_removed_after_all_is_told() {
    let world = world();
    let dir = world.directory(ROOT, "dir");
    world.file(dir, "file", "1");
    world.told();
    assert_eq!(errno(world.fs.rmdir(ROOT, OsStr::new("dir"))), Errno::NOTEMPTY);
    assert_eq!(world.told_below(), paths(&["dir"]), "without its name no path led to what changed in it");
    assert_eq!(errno(world.fs.rename((ROOT, OsStr::new("dir")), (dir, OsStr::new("in")), 0)), Errno::INVAL);
    assert_eq!(world.told_below(), paths(&["dir"]));
}

#[test]
fn file_that_the_kernel_may_have_written_is_told_as_rewritten_when_it_is_closed() {
    let world = world();
    let node = world.file(ROOT, "file", "1");
    for (flags, lent, count) in [(2, true, 1), (0, true, 0), (2, false, 0)] {
        let lend = |_: std::os::fd::BorrowedFd<'_>| lent.then(|| Arc::new(()) as crate::vfs::Lent);
        let opened = now(world.fs.open_file(node, flags, &lend)).unwrap();
        world.fs.close_file(node, opened.handle);
        assert_eq!(std::mem::take(&mut *world.swarm.rewritten.lock().unwrap()).len(), count, "{flags} {lent}");
    }
}

#[test]
fn file_is_found_in_a_directory_that_was_forgotten_and_learned_anew() {
    let world = world();
    let dir = world.directory(ROOT, "dir");
    let file = world.file(dir, "file", "1");
    // Look-ups and forgettings of different nodes may overtake each other.
    world.fs.forget(dir, 1);
    assert_eq!(world.find("dir"), Some(dir));
    assert_eq!(world.find_in(dir, "file"), Some(file));
    world.fs.forget(file, 1);
    assert_eq!(world.content(file), "1");
}

#[test]
fn reserved_names_are_refused_at_the_top_only() {
    let world = world();
    for name in ["ref", ".tornet", "names"] {
        let name = OsStr::new(name);
        assert_eq!(errno(world.fs.mkdir(ROOT, name, 0o755, caller())), Errno::PERM);
        assert_eq!(errno(world.fs.rmdir(ROOT, name)), Errno::PERM);
        assert_eq!(errno(world.fs.unlink(ROOT, name)), Errno::PERM);
        assert_eq!(errno(world.fs.symlink(ROOT, name, OsStr::new("x"), caller())), Errno::PERM);
        assert_eq!(errno(world.fs.create(ROOT, name, 1, 0o644, caller(), &|_| None)), Errno::PERM);
        world.file(ROOT, "x", "");
        assert_eq!(errno(world.fs.rename((ROOT, OsStr::new("x")), (ROOT, name), 0)), Errno::PERM);
        assert_eq!(errno(world.fs.rename((ROOT, name), (ROOT, OsStr::new("y")), 0)), Errno::PERM);
        world.fs.unlink(ROOT, OsStr::new("x")).unwrap();
    }
    let dir = world.directory(ROOT, "dir");
    world.directory(dir, "ref");
    // What was put there behind our back stays hidden.
    std::fs::write(world.dir.path().join("names"), "x").unwrap();
    assert_eq!(world.find("names"), Some(crate::vfs::control::NAMES));
    let mut names: Vec<String> = world.names(ROOT, 100, false).into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, [".", "..", ".tornet", "dir", "names", "ref"]);
}

#[test]
fn names_that_are_none_are_refused() {
    let world = world();
    for name in ["", ".", "..", "a/b"] {
        assert_eq!(errno(world.fs.mkdir(ROOT, OsStr::new(name), 0o755, caller())), Errno::INVAL);
    }
    assert_eq!(errno(world.fs.mkdir(ROOT, OsStr::new(&"n".repeat(256)), 0o755, caller())), Errno::NAMETOOLONG);
    world.directory(ROOT, &"n".repeat(255));
}

#[test]
fn a_listing_is_whole_whatever_its_pages_and_whatever_vanishes_meanwhile() {
    let world = world();
    let dir = world.directory(ROOT, "dir");
    for n in 0..500 {
        std::fs::write(world.dir.path().join(format!("dir/{n}")), "").unwrap();
    }
    for (at_once, attributes) in [(1000, false), (7, false), (7, true), (1, true)] {
        let names = world.names(dir, at_once, attributes);
        let mut sorted: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        sorted.sort();
        sorted.dedup();
        assert_eq!((names.len(), sorted.len()), (502, 502));
        let with = names.iter().filter(|(_, node)| node.is_some()).count();
        assert_eq!(with, if attributes { 500 } else { 0 });
        names.iter().filter_map(|(_, node)| *node).for_each(|node| world.fs.forget(node, 1));
    }
    // The root and the directory are known still, nothing else.
    assert_eq!(world.fs.own.nodes.len(), 2);
    let opened = now(world.fs.open_directory(dir)).unwrap();
    let page = |offset| Page { room: 100, attributes: true, offset, found: Vec::new() };
    let first = now(world.fs.list(dir, opened.handle, 0, page(0))).unwrap();
    for n in 0..500 {
        std::fs::remove_file(world.dir.path().join(format!("dir/{n}"))).unwrap();
    }
    let second = now(world.fs.list(dir, opened.handle, first.offset, page(0))).unwrap();
    assert!(first.found.iter().all(|known| !second.found.contains(known)));
}

#[test]
fn a_listing_goes_on_in_another_opening_where_one_ended_before_names_were_removed() {
    for parent in ["", "dir"] {
        let world = world();
        let dir = if parent.is_empty() { ROOT } else { world.directory(ROOT, parent) };
        for n in 0..3000 {
            std::fs::write(world.dir.path().join(parent).join(n.to_string()), "").unwrap();
        }
        let page = |room| Page { room, attributes: false, offset: 0, found: Vec::new() };
        let names = |page: &Page| page.found.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let opened = now(world.fs.open_directory(dir)).unwrap();
        let whole = names(&now(world.fs.list(dir, opened.handle, 0, page(5000))).unwrap());
        for passed in [1, 2, 3, 1000, 2999] {
            let other = now(world.fs.open_directory(dir)).unwrap();
            let first = now(world.fs.list(dir, opened.handle, 0, page(passed))).unwrap();
            let rest = now(world.fs.list(dir, other.handle, first.offset, page(5000))).unwrap();
            assert_eq!([names(&first), names(&rest)].concat(), whole, "{passed} in `{parent}`");
        }
        let first = now(world.fs.list(dir, opened.handle, 0, page(1000))).unwrap();
        for name in names(&first) {
            let _ = std::fs::remove_file(world.dir.path().join(parent).join(name));
        }
        let other = now(world.fs.open_directory(dir)).unwrap();
        let rest = now(world.fs.list(dir, other.handle, first.offset, page(5000))).unwrap();
        assert_eq!(names(&rest), whole[1000..], "in `{parent}`");
    }
}

#[test]
fn attributes_change_as_asked() {
    let world = world();
    let node = world.file(ROOT, "file", "12345");
    let ancient = Timestamp { seconds: -1_000_000, nanos: 123_456_789 };
    let set = SetAttr { mode: Some(0o751), size: Some(3), mtime: Some(SetTime::At(ancient)), ..SetAttr::default() };
    let attr = now(world.fs.set_attr(node, &set)).unwrap();
    assert_eq!((attr.size, attr.mode & 0o7777, attr.mtime), (3, 0o751, ancient));
    assert_eq!(attr.kind(), FileType::RegularFile);
    let meta = std::fs::metadata(world.dir.path().join("file")).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-1_000_000, 123_456_789));
    let link = world.fs.symlink(ROOT, OsStr::new("link"), OsStr::new("nowhere"), caller()).unwrap().node;
    let set = SetAttr { mtime: Some(SetTime::At(ancient)), ..SetAttr::default() };
    assert_eq!(now(world.fs.set_attr(link, &set)).unwrap().mtime, ancient);
    assert_eq!(now(world.fs.readlink(link)).unwrap(), b"nowhere");
    assert_eq!(errno(now(world.fs.set_attr(link, &SetAttr { mode: Some(0), ..SetAttr::default() }))), Errno::OPNOTSUPP);
    world.told();
    now(world.fs.set_attr(node, &SetAttr { atime: Some(SetTime::Now), ..SetAttr::default() })).unwrap();
    assert_eq!(world.told(), paths(&[]));
}

#[test]
fn who_asks_while_a_file_is_being_closed_hears_that_it_changed() {
    let world = world();
    let node = world.file(ROOT, "file", "1");
    let lend = |_: std::os::fd::BorrowedFd<'_>| Some(Arc::new(()) as crate::vfs::Lent);
    for length in 2..5 {
        let opened = now(world.fs.open_file(node, 1, &lend)).unwrap();
        assert!(opened.no_flush);
        // As the kernel does.
        std::fs::write(world.dir.path().join("file"), "1".repeat(length)).unwrap();
        world.told();
        world.swarm.slow.store(true, std::sync::atomic::Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| world.fs.close_file(node, opened.handle));
            std::thread::sleep(Duration::from_millis(20));
            world.fs.own.tell_open();
            assert!(world.swarm.changed.lock().unwrap().contains(&"file".into()));
        });
        world.swarm.slow.store(false, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_file_that_may_be_mapped_is_looked_at_after_it_was_closed() {
    let world = world();
    let node = world.file(ROOT, "file", "1");
    let path = world.dir.path().join("file");
    let lend = |_: std::os::fd::BorrowedFd<'_>| Some(Arc::new(()) as crate::vfs::Lent);
    // Opened for writing alone it cannot be mapped.
    let opened = now(world.fs.open_file(node, 1, &lend)).unwrap();
    assert!(!opened.stale && world.fs.kept(node) > Duration::ZERO);
    world.fs.close_file(node, opened.handle);
    let open = |node| now(world.fs.open_file(node, 2, &lend)).unwrap();
    let (first, second) = (open(node), open(node));
    assert!(first.stale && !second.stale, "the kernel is told once");
    assert_eq!(world.fs.kept(node), Duration::ZERO);
    // A map keeps a file as if it were open.
    let maps = |path: &std::path::Path| std::fs::File::options().read(true).write(true).open(path).unwrap();
    let map = maps(&path);
    world.fs.close_file(node, first.handle);
    world.fs.close_file(node, second.handle);
    world.told();
    // As a store through a map does.
    std::fs::write(&path, "12").unwrap();
    world.fs.own.tell_all();
    assert_eq!(world.told(), paths(&["file"]));
    world.fs.own.tell_all();
    assert_eq!(world.told(), paths(&[]));
    assert_eq!(world.fs.kept(node), Duration::ZERO);
    std::fs::write(&path, "123").unwrap();
    drop(map);
    world.fs.own.tell_all();
    assert_eq!(world.told(), paths(&["file"]), "the last word");
    assert!(world.fs.own.mapped.all().is_empty() && world.fs.kept(node) > Duration::ZERO);
    world.fs.close_file(node, open(node).handle);
    assert!(world.fs.own.mapped.all().is_empty(), "closed and not mapped");
    world.told();
    // What the kernel does not know it has not mapped, and of so many the first is hardly mapped any more.
    let map = maps(&path);
    world.fs.close_file(node, open(node).handle);
    std::fs::write(&path, "1234").unwrap();
    world.told();
    world.fs.forget(node, 1);
    assert_eq!(world.told(), paths(&["file"]), "the last word");
    assert!(world.fs.own.mapped.all().is_empty());
    let mut held = vec![map];
    for n in 0..600 {
        let node = world.file(ROOT, &n.to_string(), "");
        let opened = open(node);
        held.push(maps(&world.dir.path().join(n.to_string())));
        world.fs.close_file(node, opened.handle);
    }
    assert_eq!(world.fs.own.mapped.all().len(), 512);
    let (first, last) = (world.find("0").unwrap(), world.find("599").unwrap());
    assert!(world.fs.kept(first) > Duration::ZERO && world.fs.kept(last) == Duration::ZERO);
}

#[test]
fn times_are_the_kernels_where_it_gathers_writes() {
    let world = world_set([], Settings { writeback: true });
    let node = world.file(ROOT, "file", "12345");
    let told = Timestamp { seconds: 1_000_000, nanos: 123_456_789 };
    now(world.fs.set_attr(node, &SetAttr { mtime: Some(SetTime::At(told)), ..SetAttr::default() })).unwrap();
    world.told();
    let opened = now(world.fs.open_file(node, 1, &|_| None)).unwrap();
    world.fs.write(node, opened.handle, 0, b"late", false).unwrap();
    now(world.fs.allocate(node, opened.handle, 0, 1 << 20, 0)).unwrap();
    world.fs.close_file(node, opened.handle);
    assert_eq!(now(world.fs.attr(node, None)).unwrap().mtime, told);
    assert_eq!(world.told(), paths(&["file"]), "it changed nonetheless");
}

#[test]
fn a_write_by_an_ordinary_user_drops_set_user_id() {
    let world = world();
    let node = world.file(ROOT, "tool", "x");
    let path = world.dir.path().join("tool");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6755)).unwrap();
    let opened = now(world.fs.open_file(node, 1, &|_| None)).unwrap();
    world.fs.write(node, opened.handle, 0, b"y", true).unwrap();
    assert_eq!(now(world.fs.attr(node, None)).unwrap().mode & 0o7777, 0o755);
}

#[test]
fn pipes_sockets_and_devices_are_made() {
    let world = world();
    let made = world.fs.mknod(ROOT, OsStr::new("pipe"), 0o010_640, 0, caller()).unwrap();
    assert_eq!((made.attr.kind(), made.attr.mode & 0o777), (FileType::Fifo, 0o640));
    assert!(world.fs.mknod(ROOT, OsStr::new("socket"), 0o140_640, 0, caller()).is_ok());
    for (name, mode) in [("char", 0o020_640), ("block", 0o060_640)] {
        let number = 0x1234_5678;
        match world.fs.mknod(ROOT, OsStr::new(name), mode, number, caller()) {
            Ok(made) => assert_eq!(made.attr.rdev, number, "{name}"),
            Err(error) => {
                assert!(error.errno == Errno::PERM && !rustix::process::geteuid().is_root(), "{name}: {error:?}")
            }
        }
    }
}

#[test]
fn new_files_have_exactly_the_mode_asked_for_and_their_callers_as_owners() {
    let world = world();
    let other = Caller { uid: 4321, gid: 8765, pid: 0 };
    let (entry, _) = world.fs.create(ROOT, OsStr::new("file"), 2, 0o666, other, &|_| None).unwrap();
    assert_eq!(entry.attr.mode & 0o7777, 0o666);
    if rustix::process::geteuid().is_root() {
        let attr = now(world.fs.attr(entry.node, None)).unwrap();
        assert_eq!((attr.uid, attr.gid), (4321, 8765));
        let dir = world.fs.mkdir(ROOT, OsStr::new("dir"), 0o2777, other).unwrap();
        assert_eq!((dir.attr.uid, dir.attr.gid), (4321, 8765));
        let third = Caller { uid: 1, gid: 1, pid: 0 };
        let set = SetAttr { mode: Some(0o2777), ..SetAttr::default() };
        now(world.fs.set_attr(dir.node, &set)).unwrap();
        let (entry, _) = world.fs.create(dir.node, OsStr::new("file"), 2, 0o644, third, &|_| None).unwrap();
        let attr = now(world.fs.attr(entry.node, None)).unwrap();
        assert_eq!((attr.uid, attr.gid), (1, 8765), "the directory hands its group down");
    }
}

#[test]
fn a_file_without_a_name_gets_one_by_a_link() {
    let world = world();
    let flags = rustix::fs::OFlags::RDWR.bits();
    let (entry, opened) = world.fs.create_nameless(ROOT, flags, 0o600, caller(), &|_| None).unwrap();
    world.fs.write(entry.node, opened.handle, 0, b"secret", false).unwrap();
    assert_eq!(world.told(), paths(&[]));
    assert_eq!(world.fs.link(entry.node, ROOT, OsStr::new("named")).unwrap().node, entry.node);
    world.fs.close_file(entry.node, opened.handle);
    assert_eq!(std::fs::read_to_string(world.dir.path().join("named")).unwrap(), "secret");
    assert!(world.told().contains(&PathBuf::from("named")));
}

#[test]
fn attributes_of_ours_are_seen_and_never_stored() {
    let world = world();
    let node = world.file(ROOT, "published", "x");
    let own = OsStr::new("user.tornet.ref");
    for name in [own, OsStr::new("user.tornet.x")] {
        assert_eq!(errno(world.fs.set_xattr(node, name, b"forged", 0)), Errno::PERM);
        assert_eq!(errno(world.fs.remove_xattr(node, name)), Errno::PERM);
    }
    assert_eq!(now(world.fs.xattr(node, own)).unwrap(), b"tornet1own");
    assert_eq!(now(world.fs.xattr(node, OsStr::new("user.tornet.state"))).unwrap(), b"staged");
    // Whoever copies all attributes, or compares them, asks for what is listed.
    assert_eq!(now(world.fs.xattrs(node)).unwrap(), b"");
    let staged = world.file(ROOT, "staged", "x");
    assert_eq!(errno(now(world.fs.xattr(staged, own))), Errno::NODATA);
    for name in ["security.selinux", "system.posix_acl_access"] {
        assert_eq!(errno(now(world.fs.xattr(node, OsStr::new(name)))), Errno::OPNOTSUPP);
        assert_eq!(errno(world.fs.set_xattr(node, OsStr::new(name), b"", 0)), Errno::OPNOTSUPP);
    }
}

#[test]
fn sizes_holes_and_copies_work_as_on_disk() {
    let world = world();
    let node = world.file(ROOT, "file", &"x".repeat(10_000));
    let to = world.file(ROOT, "copy", "");
    let (from, into) =
        (now(world.fs.open_file(node, 2, &|_| None)).unwrap(), now(world.fs.open_file(to, 2, &|_| None)).unwrap());
    let copied = now(world.fs.copy_range((node, from.handle, 0), (to, into.handle, 0), 10_000)).unwrap();
    assert_eq!(copied, 10_000);
    now(world.fs.allocate(to, into.handle, 0, 1 << 20, 0)).unwrap();
    assert_eq!(now(world.fs.attr(to, Some(into.handle))).unwrap().size, 1 << 20);
    assert_eq!(world.fs.seek(node, from.handle, 0, 4).unwrap(), 10_000);
    assert_eq!(errno(world.fs.seek(node, from.handle, 20_000, 3)), Errno::NXIO);
    now(world.fs.sync_file(to, into.handle, false)).unwrap();
}

#[test]
fn a_write_beyond_the_largest_file_is_refused_at_once_and_not_again_on_closing() {
    let world = world();
    let node = world.file(ROOT, "file", "x");
    let opened = now(world.fs.open_file(node, 1, &|_| None)).unwrap();
    // 2^63 is beyond every file system's largest file: EFBIG or EINVAL, which no closing repeats.
    assert!(world.fs.write(node, opened.handle, 1 << 62, b"x", false).is_err());
    world.fs.flush(node, opened.handle).unwrap();
}

#[test]
fn changes_behind_our_back_end_the_kernels_cache() {
    let world = world();
    let node = world.file(ROOT, "file", "one");
    assert!(now(world.fs.open_file(node, 0, &|_| None)).unwrap().keep_cache);
    std::fs::write(world.dir.path().join("file"), "three").unwrap();
    assert!(!now(world.fs.open_file(node, 0, &|_| None)).unwrap().keep_cache);
    assert!(now(world.fs.open_file(node, 0, &|_| None)).unwrap().keep_cache);
}

#[test]
fn thousands_of_nodes_need_few_descriptors() {
    let world = world();
    let nodes = {
        let fd = rustix::fs::open(world.dir.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let stat = rustix::fs::fstat(&fd).unwrap();
        super::super::node::Nodes::new(fd, &stat, 16)
    };
    let mut all = Vec::new();
    for n in 0..200 {
        let name = format!("f{n}");
        std::fs::write(world.dir.path().join(&name), "").unwrap();
        let stat = rustix::fs::stat(world.dir.path().join(&name)).unwrap();
        all.push(nodes.intern(nodes.root(), name.as_bytes(), &stat));
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..3 {
        for node in &all {
            let fd = nodes.fd(node).unwrap();
            assert_eq!(rustix::fs::fstat(&*fd).unwrap().st_ino, nodes.stat(node).unwrap().st_ino);
        }
    }
    assert!(open() < before + 100, "{} of {}", open() - before, all.len());
}
