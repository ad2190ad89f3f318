//! Through real mounts: what is copied in on one node is read on another, and the mount behaves as files do.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{Node, Plan, READER, attribute};
use harness::tree::{self, Dice, noise};
use harness::{Lab, code, errno, installed, require_fuse, shell, until, within};
use rustix::io::Errno;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

/// Two nodes that know each other, both mounted. The second hosts nothing: what it shows it has fetched for its reader.
fn pair(lab: &Lab) -> (Node, Node) {
    require_fuse();
    let first = Plan::new("a").mounted().start(lab);
    let second = Plan::new("b").mounted().config(READER).knows(&first).start(lab);
    (first, second)
}

// Promise 1 of tornet(7).
#[test]
fn tree_copied_in_is_read_on_another_node_byte_for_byte() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let source = lab.path("source");
    tree::make_varied(&source);
    shell(&format!("cp -a '{}' '{}'", source.display(), a.path("copy").display()));
    tree::assert_same(&source, &a.path("copy"));
    let reference = a.stored(&a.path("copy"));
    tree::assert_same(&source, &b.reference(&reference));
    // The publisher itself reads it under its reference, too; and so does a copy out of the mount.
    tree::assert_same(&source, &a.reference(&reference));
    shell(&format!("cp -a '{}' '{}'", b.reference(&reference).display(), lab.path("out").display()));
    tree::assert_same(&source, &lab.path("out"));
}

// Promise 2 of tornet(7).
#[test]
fn single_file_has_a_reference_of_its_own_and_so_has_every_directory_above() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    fs::create_dir_all(a.path("x/y")).unwrap();
    for (name, size) in [("tiny", 10), ("packed", 30_000), ("large", 2_500_000)] {
        fs::write(a.path("x/y").join(name), noise(size as u64, size)).unwrap();
    }
    for (name, size) in [("tiny", 10), ("packed", 30_000), ("large", 2_500_000)] {
        let reference = a.stored(&a.path("x/y").join(name));
        assert!(fs::read(b.reference(&reference)).unwrap() == noise(size as u64, size), "{name} differs");
        assert_eq!(a.tornet(&["ref", a.path("x/y").join(name).to_str().unwrap()]), reference);
    }
    for (dir, below) in [("x/y", "large"), ("x", "y/large"), ("", "x/y/large")] {
        let reference = a.stored(&a.path(dir));
        assert!(fs::read(b.reference(&reference).join(below)).unwrap() == noise(2_500_000, 2_500_000), "by `{dir}`");
    }
}

// Promise 1 of tornet(7).
#[test]
fn file_is_published_by_move_archive_editor_save_and_rsync() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let source = lab.path("source");
    tree::make_many(&source, 40, 3000);
    fs::write(source.join("big"), noise(5, 700_000)).unwrap();
    // Of long ago: rsync compares whole seconds, on any file system, and leaves a directory alone that it has just written
    // to when the original is of the same second.
    shell(&format!("find '{}' -exec touch -d '2001-02-03 04:05:06.789012345' {{}} +", source.display()));
    let archive = lab.path("all.tar");
    shell(&format!("tar --format=posix -cf '{}' -C '{}' .", archive.display(), source.display()));
    fs::create_dir(a.path("tar")).unwrap();
    shell(&format!("tar xpf '{}' -C '{}'", archive.display(), a.path("tar").display()));
    let moved = lab.path("moved");
    shell(&format!("cp -a '{}' '{}'", source.display(), moved.display()));
    shell(&format!("mv '{}' '{}'", moved.display(), a.path("moved").display()));
    assert!(!moved.exists());
    let mut names = vec!["tar", "moved"];
    if installed("rsync") {
        shell(&format!("rsync -a '{}/' '{}'", source.display(), a.path("rsync").display()));
        names.push("rsync");
    }
    for name in names {
        let reference = a.stored(&a.path(name));
        tree::assert_same(&source, &b.reference(&reference));
        tree::assert_same(&a.path(name), &b.reference(&reference));
    }
    // As editors save: a new file beside the old one, fsynced, renamed over it.
    fs::write(a.path("text"), b"first").unwrap();
    a.stored(&a.path("text"));
    for round in 0..5 {
        let text = format!("version {round}\n").repeat(500);
        let mut new = fs::File::create(a.path("text.new~")).unwrap();
        new.write_all(text.as_bytes()).unwrap();
        new.sync_all().unwrap();
        drop(new);
        fs::rename(a.path("text.new~"), a.path("text")).unwrap();
        assert_eq!(fs::read_to_string(a.path("text")).unwrap(), text);
        let reference = a.stored(&a.path("text"));
        assert_eq!(fs::read_to_string(b.reference(&reference)).unwrap(), text);
    }
    let root = a.stored(a.mount());
    let names: Vec<_> = fs::read_dir(b.reference(&root)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !names.iter().any(|name| ["text.new~", "names", "ref", ".tornet"].iter().any(|other| name == other)),
        "{names:?}"
    );
}

// Promise 3 of tornet(7).
#[test]
fn file_may_be_read_at_random_mapped_and_sought_in() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let bytes = noise(9, 20_000_003);
    fs::write(a.path("film"), &bytes).unwrap();
    let path = b.reference(&a.stored(&a.path("film")));
    // The end first, as players do.
    let mut file = fs::File::open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    file.seek(SeekFrom::End(-1000)).unwrap();
    let mut end = Vec::new();
    file.read_to_end(&mut end).unwrap();
    assert!(end == bytes[bytes.len() - 1000..]);
    let mut dice = Dice(1);
    for _ in 0..300 {
        let offset = dice.below(bytes.len() as u64) as usize;
        let mut got = vec![0; dice.below(70_000) as usize];
        let length = file.read_at(&mut got, offset as u64).unwrap();
        assert!(length > 0 || got.is_empty());
        assert!(got[..length] == bytes[offset..offset + length], "{length} bytes at {offset}");
    }
    assert_eq!(file.read_at(&mut [0; 10], bytes.len() as u64).unwrap(), 0, "past the end");
    assert!(mapped(&file, bytes.len()) == bytes, "mapped");
    assert!(fs::read(&path).unwrap() == bytes, "in order");
}

/// A copy of what a memory map of a file shows.
#[allow(unsafe_code)]
fn mapped(file: &fs::File, length: usize) -> Vec<u8> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    // SAFETY: a fresh private read-only map of a file that nobody changes, copied from within its length, then unmapped.
    unsafe {
        let map = mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0).unwrap();
        let copy = std::slice::from_raw_parts(map.cast::<u8>(), length).to_vec();
        munmap(map, length).unwrap();
        copy
    }
}

#[test]
fn what_is_written_through_a_map_is_published_once_the_file_is_closed() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    for (name, length) in [("packed", 20_000), ("large", 200_000)] {
        let path = a.path(name);
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(length as u64).unwrap();
        let published = |first: u8, when: &str| {
            until(&format!("{name} is published {when}"), || {
                let reference = a.stored(&path);
                (fs::read(a.reference(&reference)).unwrap()[0] == first).then_some(())
            });
        };
        write_mapped(&file, length, |bytes| {
            bytes[0] = 1;
            published(1, "while it is open");
            // Of the same page: the kernel does not touch the file's times once more.
            bytes[0] = 2;
        });
        drop(file);
        published(2, "after it was closed");
    }
}

/// Has a file's bytes changed through a shared map of it.
#[allow(unsafe_code)]
fn write_mapped(file: &fs::File, length: usize, change: impl FnOnce(&mut [u8])) {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    // SAFETY: a fresh map of a file of this length that nobody else changes, unmapped when its only borrower is done.
    unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let map = mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0).unwrap();
        change(std::slice::from_raw_parts_mut(map.cast::<u8>(), length));
        munmap(map, length).unwrap();
    }
}

// Promise 3 of tornet(7).
#[test]
fn random_read_fetches_slices_not_the_file() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let bytes = noise(10, 48 << 20);
    fs::write(a.path("film"), &bytes).unwrap();
    let path = b.reference(&a.stored(&a.path("film")));
    let file = fs::File::open(&path).unwrap();
    let mut dice = Dice(2);
    for _ in 0..20 {
        let offset = dice.below(bytes.len() as u64 - 4096);
        let mut got = [0; 4096];
        file.read_exact_at(&mut got, offset).unwrap();
        assert!(got[..] == bytes[offset as usize..][..4096]);
    }
    let peers = b.json(&["--json", "peers"]);
    let received: u64 = peers.as_array().unwrap().iter().map(|peer| peer["received-bytes"].as_u64().unwrap()).sum();
    assert!(received > 20 * 4096, "{peers}");
    assert!(received < 16 << 20, "20 reads of 4 KiB fetched {received} bytes of {}", bytes.len());
}

// Promise 4 of tornet(7).
#[test]
fn second_reader_is_served_by_the_first_one_when_the_publisher_is_gone() {
    let lab = Lab::new();
    let (mut a, b) = pair(&lab);
    let source = lab.path("source");
    tree::make_varied(&source);
    shell(&format!("cp -a '{}' '{}'", source.display(), a.path("copy").display()));
    let reference = a.stored(&a.path("copy"));
    tree::assert_same(&source, &b.reference(&reference));
    a.stop();
    let c = Plan::new("c").mounted().knows(&b).start(&lab);
    tree::assert_same(&source, &c.reference(&reference));
}

// Promise 5 of tornet(7).
#[test]
fn changes_of_the_own_tree_move_its_reference_and_leave_old_ones_readable() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let root = a.mount().to_path_buf();
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("dir/one"), noise(1, 300_000)).unwrap();
    fs::write(a.path("dir/two"), b"two").unwrap();
    let mut seen = vec![(a.stored(&root), tree::snapshot(&a.path("dir")))];
    let mut step = |what: &str, change: &dyn Fn(&Path)| {
        change(&a.path("dir"));
        let before = &seen.last().unwrap().0;
        let now = until(&format!("the root's reference moved after {what}"), || {
            let now = a.stored(&root);
            (now != *before).then_some(now)
        });
        seen.push((now, tree::snapshot(&a.path("dir"))));
    };
    step("a rename", &|dir| fs::rename(dir.join("two"), dir.join("zwei")).unwrap());
    step("a truncation", &|dir| {
        fs::OpenOptions::new().write(true).open(dir.join("one")).unwrap().set_len(100_001).unwrap();
    });
    step("an append", &|dir| {
        fs::OpenOptions::new().append(true).open(dir.join("one")).unwrap().write_all(&noise(2, 50_000)).unwrap();
    });
    step("an overwrite in the middle", &|dir| {
        fs::OpenOptions::new().write(true).open(dir.join("one")).unwrap().write_all_at(b"changed", 70_000).unwrap();
    });
    step("a change of mode", &|dir| fs::set_permissions(dir.join("one"), fs::Permissions::from_mode(0o640)).unwrap());
    step("a link", &|dir| symlink("zwei", dir.join("deux")).unwrap());
    step("a directory moved", &|dir| {
        fs::create_dir_all(dir.join("p/q")).unwrap();
        fs::write(dir.join("p/q/r"), b"r").unwrap();
        fs::rename(dir.join("p/q"), dir.join("q")).unwrap();
        fs::remove_dir(dir.join("p")).unwrap();
    });
    step("a deletion", &|dir| fs::remove_file(dir.join("one")).unwrap());
    step("a deletion of a directory", &|dir| fs::remove_dir_all(dir.join("q")).unwrap());
    for (reference, items) in &seen {
        tree::assert_same_as(items, &b.reference(reference).join("dir"));
    }
    // The same content has the same reference, however it came about.
    shell(&format!("cp -a '{}' '{}'", a.path("dir").display(), a.path("twin").display()));
    assert_eq!(a.stored(&a.path("twin")), a.stored(&a.path("dir")));
}

#[test]
fn file_written_just_before_its_directory_was_renamed_is_published_as_written() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    fs::create_dir_all(a.path("old/sub")).unwrap();
    fs::write(a.path("old/sub/file"), b"first").unwrap();
    a.stored(&a.path("old"));
    fs::write(a.path("old/sub/file"), b"second").unwrap();
    fs::rename(a.path("old"), a.path("new")).unwrap();
    let reference = a.stored(&a.path("new"));
    assert_eq!(fs::read_to_string(b.reference(&reference).join("sub/file")).unwrap(), "second");
}

#[test]
fn change_through_one_name_of_a_file_is_published_under_those_that_the_mount_never_saw() {
    let lab = Lab::new();
    require_fuse();
    let mut a = Plan::new("a").mounted().start(&lab);
    fs::create_dir_all(a.path("one/deep")).unwrap();
    fs::create_dir_all(a.path("two/deep")).unwrap();
    fs::write(a.path("one/deep/x"), b"first").unwrap();
    fs::hard_link(a.path("one/deep/x"), a.path("two/deep/y")).unwrap();
    a.stored(a.mount());
    a.stop();
    let a = Plan::new("a").mounted().start(&lab);
    a.stored(a.mount());
    fs::write(a.path("one/deep/x"), b"second").unwrap();
    let reference = a.stored(&a.path("two"));
    assert_eq!(fs::read_to_string(a.reference(&reference).join("deep/y")).unwrap(), "second");
}

#[test]
fn file_behaves_as_programs_expect_while_it_is_renamed_unlinked_and_linked() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    // Unlink while open.
    let mut file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(a.path("open")).unwrap();
    file.write_all(b"still here").unwrap();
    fs::remove_file(a.path("open")).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    assert!(!a.path("open").exists());
    // Rename over an open file.
    fs::write(a.path("old"), b"old").unwrap();
    let old = fs::File::open(a.path("old")).unwrap();
    fs::write(a.path("new"), b"new").unwrap();
    fs::rename(a.path("new"), a.path("old")).unwrap();
    let mut bytes = [0; 3];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old");
    assert_eq!(fs::read(a.path("old")).unwrap(), b"new");
    // Hard links, holes, times, sizes.
    fs::hard_link(a.path("old"), a.path("second")).unwrap();
    assert_eq!(fs::metadata(a.path("old")).unwrap().ino(), fs::metadata(a.path("second")).unwrap().ino());
    assert_eq!(fs::metadata(a.path("old")).unwrap().nlink(), 2);
    let sparse = fs::File::create(a.path("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(b"end", (1 << 30) - 3).unwrap();
    assert!(sparse.metadata().unwrap().blocks() < 100_000, "holes stay holes");
    drop(sparse);
    fs::remove_file(a.path("sparse")).unwrap();
    let before = std::time::UNIX_EPOCH - Duration::from_secs(1000);
    let file = fs::File::create(a.path("before-1970")).unwrap();
    file.set_modified(before).unwrap();
    assert_eq!(file.metadata().unwrap().mtime(), -1000);
    // Errors as everywhere.
    assert_eq!(errno(fs::read(a.path("none"))), code(Errno::NOENT));
    assert_eq!(errno(fs::create_dir(a.path("old"))), code(Errno::EXIST));
    assert_eq!(errno(fs::read_dir(a.path("old"))), code(Errno::NOTDIR));
    fs::create_dir_all(a.path("full/of")).unwrap();
    assert_eq!(errno(fs::remove_dir(a.path("full"))), code(Errno::NOTEMPTY));
    assert_eq!(errno(fs::write(a.path("y".repeat(256)), b"")), code(Errno::NAMETOOLONG));
    // Modes and own attributes are kept.
    fs::set_permissions(a.path("old"), fs::Permissions::from_mode(0o751)).unwrap();
    assert_eq!(fs::metadata(a.path("old")).unwrap().mode() & 0o7777, 0o751);
    rustix::fs::setxattr(a.path("old"), "user.colour", b"blue", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(attribute(&a.path("old"), "user.colour").unwrap(), "blue");
    rustix::fs::removexattr(a.path("old"), "user.colour").unwrap();
    assert!(attribute(&a.path("old"), "user.colour").is_err());
    let forge = |name| rustix::fs::setxattr(a.path("old"), name, b"x", rustix::fs::XattrFlags::empty());
    assert_eq!(forge("user.tornet.ref"), Err(Errno::PERM));
    assert_eq!(forge("user.tornet.x"), Err(Errno::PERM));
}

// Promise 6 of tornet(7).
#[test]
fn published_tree_is_read_only_and_its_root_lists_nothing() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("dir/file"), b"text").unwrap();
    let reference = a.stored(&a.path("dir"));
    let dir = b.reference(&reference);
    let read_only = code(Errno::ROFS);
    assert_eq!(errno(fs::write(dir.join("new"), b"")), read_only);
    assert_eq!(errno(fs::OpenOptions::new().write(true).open(dir.join("file"))), read_only);
    assert_eq!(errno(fs::remove_file(dir.join("file"))), read_only);
    assert_eq!(errno(fs::rename(dir.join("file"), dir.join("other"))), read_only);
    assert_eq!(errno(fs::create_dir(dir.join("sub"))), read_only);
    assert_eq!(errno(fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o600))), read_only);
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"text");
    assert_eq!(errno(fs::read(dir.join("none"))), code(Errno::NOENT));
    assert_eq!(fs::read_dir(b.path("ref")).unwrap().count(), 0, "ref/ lists nothing");
    assert_eq!(attribute(&dir, "user.tornet.ref").unwrap(), reference);
}

#[test]
fn reserved_names_cannot_be_made_removed_or_replaced() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    fs::create_dir(a.path("mine")).unwrap();
    for name in ["names", "ref", ".tornet"] {
        assert!(fs::create_dir(a.path(name)).is_err(), "make {name}");
        assert!(fs::remove_dir(a.path(name)).is_err(), "remove {name}");
        assert!(fs::rename(a.path(name), a.path("other")).is_err(), "rename {name}");
        assert!(fs::rename(a.path("mine"), a.path(name)).is_err(), "replace {name}");
        assert!(fs::metadata(a.path(name)).unwrap().is_dir());
    }
    // Below other directories they are names like any other.
    fs::create_dir(a.path("mine/ref")).unwrap();
    fs::write(a.path("mine/ref/x"), b"x").unwrap();
    let listed: Vec<_> = fs::read_dir(a.mount()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(listed.iter().any(|name| name == "mine"), "{listed:?}");
}

#[test]
fn control_files_tell_health_and_peers() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let status = until("the second node counts a peer", || {
        let text = fs::read_to_string(b.path(".tornet/status")).unwrap();
        text.contains(&b.address).then_some(text)
    });
    assert!(!status.is_empty());
    until("the second node shows its peer", || {
        let first = a.json(&["--json", "status"])["peer"].as_str().unwrap().to_string();
        let peers = fs::read_to_string(b.path(".tornet/peers")).unwrap();
        (peers.contains(&first) || peers.contains(&first[..8])).then_some(())
    });
    // As the commands print it, field for field.
    let same = |file: &str, command: &str| {
        let shown: serde_json::Value = serde_json::from_slice(&fs::read(b.path(file)).unwrap()).unwrap();
        let told = b.json(&["--json", command]);
        let fields = |value: &serde_json::Value| -> Vec<String> {
            let first = value.as_array().and_then(|all| all.first()).unwrap_or(value);
            first.as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(fields(&shown), fields(&told), "{file}");
        (shown, told)
    };
    let (shown, told) = same(".tornet/status", "status");
    for field in ["pid", "peer", "address", "data-dir", "mountpoints"] {
        assert_eq!(shown[field], told[field], "{field}");
    }
    let (shown, told) = same(".tornet/peers", "peers");
    assert_eq!(shown[0]["address"], told[0]["address"]);
    assert!(fs::write(b.path(".tornet/status"), b"x").is_err());
    assert!(fs::remove_file(b.path(".tornet/peers")).is_err());
}

#[test]
fn state_tells_how_far_publishing_is() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    let file = fs::File::create(a.path("file")).unwrap();
    file.write_all_at(&noise(3, 1_000_000), 0).unwrap();
    let state = a.state(&a.path("file"));
    assert!(state.starts_with("staged") || state.starts_with("publishing"), "open and unpublished, but {state:?}");
    drop(file);
    a.stored(&a.path("file"));
    let state = a.state(&a.path("file"));
    assert!(state.starts_with("stored"), "nobody is there to host it, but {state:?}");
    // With peers it goes on by itself.
    let hosts: Vec<Node> = (0..3).map(|place| Plan::new(&format!("h{place}")).knows(&a).start(&lab)).collect();
    until("it is hosted", || a.state(&a.path("file")).starts_with("hosted ").then_some(()));
    drop(hosts);
}

// Promise 10 of tornet(7).
#[test]
fn without_any_peer_the_own_tree_works_and_a_reference_times_out() {
    let lab = Lab::new();
    require_fuse();
    let reference = {
        let other = Plan::new("other").start(&lab);
        fs::write(lab.path("file"), noise(4, 100_000)).unwrap();
        other.publish(&lab.path("file"))
    };
    let a = Plan::new("a").mounted().start(&lab);
    fs::write(a.path("own"), b"works").unwrap();
    let own = a.stored(&a.path("own"));
    assert_eq!(fs::read(a.reference(&own)).unwrap(), b"works");
    let path = a.reference(&reference);
    let asked = path.clone();
    let (result, took) = within(Duration::from_secs(60), "a read without peers", move || fs::read(asked));
    assert_eq!(errno(result), harness::node::timed_out(), "after {took:?}");
    let why = a.tornet(&["why", path.to_str().unwrap()]);
    assert!(why.contains("peer"), "why says what is missing: {why:?}");
    // Nothing else waits for the network meanwhile.
    let mount = a.mount().to_path_buf();
    let ((), took) = within(Duration::from_secs(20), "df and ls beside a read that waits", move || {
        let waiting = std::thread::spawn(move || fs::metadata(path));
        shell(&format!("df '{0}' && ls -la '{0}' && ls '{0}/ref' && cat '{0}/.tornet/status'", mount.display()));
        drop(waiting);
    });
    assert!(took < Duration::from_secs(10), "df and ls took {took:?}");
}

// Promise 7 of tornet(7).
#[test]
fn the_same_bytes_have_the_same_reference_on_every_machine_with_public_convergence() {
    let lab = Lab::new();
    require_fuse();
    let source = lab.path("source");
    tree::make_varied(&source);
    let public = "[network]\nmdns = false\n\n[storage]\nredundancy = \"8+4\"\nconvergence = \"public\"\n";
    let a = Plan::new("a").config(public).start(&lab);
    let b = Plan::new("b").mounted().config(public).start(&lab);
    let private = Plan::new("c").start(&lab);
    let reference = a.publish(&source);
    shell(&format!("cp -a '{}' '{}'", source.display(), b.path("copy").display()));
    assert_eq!(b.stored(&b.path("copy")), reference);
    assert_ne!(private.publish(&source), reference, "a private node's reference tells nothing to others");
}

#[test]
fn directory_of_thousands_lists_and_reads_on_another_node() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    let source = lab.make_dir("source");
    for place in 0..3000u64 {
        fs::write(source.join(format!("file-{place:05}")), noise(place, (place % 200) as usize * 10)).unwrap();
    }
    let reference = a.publish(&source);
    let shown = b.reference(&reference);
    assert_eq!(fs::read_dir(&shown).unwrap().count(), 3000);
    tree::assert_same(&source, &shown);
    assert_eq!(shell(&format!("find '{}' -type f | wc -l", shown.display())).trim(), "3000");
    assert_eq!(
        shell(&format!("du -sb --apparent-size '{}' | cut -f1", shown.display())).trim().parse::<u64>().unwrap()
            / 100_000,
        (0..3000u64).map(|place| (place % 200) * 10).sum::<u64>() / 100_000,
    );
}

// Promise 10 of tornet(7).
#[test]
fn reader_that_is_killed_or_interrupted_while_nothing_comes_is_gone_at_once() {
    let lab = Lab::new();
    let (a, b) = pair(&lab);
    fs::write(a.path("film"), noise(3, 3 << 20)).unwrap();
    let path = b.reference(&a.stored(&a.path("film")));
    // It is linked and says nothing any more: the look-up of the name waits, which the kernel cannot end by itself.
    a.signal(rustix::process::Signal::STOP);
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        // Tests that run in the background of a shell have their interruptions ignored, and so would the reader.
        let mut reader = std::process::Command::new("env");
        reader.args(["--default-signal=INT,TERM", "stat"]).arg(&path).stdout(std::process::Stdio::null());
        let mut reader = reader.spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&reader);
        let status = format!("/proc/{}/status", reader.id());
        // Nothing else takes it so long: asleep for half a second it waits for the reference.
        let asleep = || {
            fs::read_to_string(&status)
                .unwrap()
                .lines()
                .any(|line| line == "State:\tD (disk sleep)" || line == "State:\tS (sleeping)")
        };
        let mut in_a_row = 0;
        until("the reader waits", || {
            in_a_row = if asleep() { in_a_row + 1 } else { 0 };
            (in_a_row >= 25).then_some(())
        });
        rustix::process::kill_process(pid, signal).unwrap();
        // Left to itself it would learn after some four seconds that the peer is silent; it is looked after every 50 ms.
        let (ended, took) = within(Duration::from_millis(2500), "a killed reader", move || reader.wait().unwrap());
        println!("{signal:?}: gone after {took:?}");
        assert!(!ended.success());
    }
    a.signal(rustix::process::Signal::CONT);
    assert!(fs::read(&path).unwrap() == noise(3, 3 << 20), "and the next reader is served");
}
