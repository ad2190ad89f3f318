//! What single calls promise beyond the ordinary: holes, sizes, names, times, ranges copied, names exchanged, space, mount options.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{Node, Plan};
use harness::program::{DATA_PATHS, assert_published, have, program, run};
use harness::tree::{self, Dice, noise};
use harness::{Lab, code, errno, require_fuse, shell};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, SeekFrom, copy_file_range, fallocate, renameat_with};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

fn mounted(lab: &Lab, options: &str) -> Node {
    require_fuse();
    println!("-o {options}");
    Plan::new("a").mounted().option(options).start(lab)
}

fn edit(path: &Path) -> fs::File {
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Where data begins and ends, as a program that copies holes sees it.
fn extents(file: &fs::File) -> Vec<(u64, u64)> {
    let (mut found, mut place) = (Vec::new(), 0);
    loop {
        match rustix::fs::seek(file, SeekFrom::Data(place)) {
            Ok(start) => {
                place = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap();
                found.push((start, place));
            }
            Err(Errno::NXIO) => return found,
            Err(error) => panic!("seek: {error}"),
        }
    }
}

// Promise 14 of tornet(7).
#[test]
fn image_of_a_disk_has_its_bytes_and_holes_as_on_the_disk_below() {
    let size: u64 = 24 << 20;
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        // A kernel that is told once that holes are unknown never asks again, for whatever file.
        fs::write(a.path("other"), noise(1, 100_000)).unwrap();
        let reference = a.reference(&a.stored(&a.path("other")));
        assert_eq!(extents(&fs::File::open(reference).unwrap()), [(0, 100_000)]);
        assert_eq!(extents(&fs::File::open(a.path(".tornet/status")).unwrap()), []);
        let (image, twin) = (edit(&a.path("image")), edit(&lab.path("twin")));
        let mut dice = Dice(5);
        for file in [&image, &twin] {
            file.set_len(size).unwrap();
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for step in 0..150 {
            let (offset, len) = (dice.below(size - (1 << 20)), 1 + dice.below(200_000));
            let bytes = noise(step, len as usize);
            for file in [&image, &twin] {
                match step % 6 {
                    0 | 1 => fallocate(file, punch, offset, len * 4).unwrap(),
                    2 => file.write_all_at(&bytes, offset / 4096 * 4096).unwrap(),
                    _ => file.write_all_at(&bytes, offset).unwrap(),
                }
            }
        }
        fallocate(&image, FallocateFlags::KEEP_SIZE, size, 1 << 20).unwrap();
        assert_eq!(image.metadata().unwrap().len(), size, "space reserved beyond the end");
        for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            assert_eq!(fallocate(&image, mode, 0, 4096), Err(Errno::OPNOTSUPP), "{mode:?}");
        }
        for file in [&image, &twin] {
            file.sync_all().unwrap();
        }
        if options != "writeback" {
            assert_eq!(extents(&image), extents(&twin), "holes");
        }
        assert_eq!(rustix::fs::seek(&image, SeekFrom::Data(size)), Err(Errno::NXIO));
        // Whether zeros that were asked for are a hole is the file system's own affair; that they are zeros is not.
        for _ in 0..20 {
            let (offset, len) = (dice.below(size - (1 << 20)), 1 + dice.below(200_000));
            for file in [&image, &twin] {
                fallocate(file, FallocateFlags::ZERO_RANGE, offset, len).unwrap();
            }
        }
        drop(image);
        assert!(fs::read(a.path("image")).unwrap() == fs::read(lab.path("twin")).unwrap(), "bytes");
        assert_published(&a, "");
    }
}

#[test]
fn reference_asked_for_right_after_writing_or_closing_is_of_what_was_written() {
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        // What the kernel has not written yet nobody knows but it.
        let written = options != "writeback";
        for round in 0..4 {
            for open in [false, written] {
                let bytes = noise(round * 2 + u64::from(open), 3000);
                let file = edit(&a.path("file"));
                file.write_all_at(&bytes, 0).unwrap();
                let file = Some(file).filter(|_| open);
                // A file's own times would tell; its directory has only what it was told.
                let tree = a.reference(&a.stored(&a.path("")));
                assert!(fs::read(tree.join("file")).unwrap() == bytes, "round {round}, still open: {open}");
                drop(file);
            }
        }
    }
}

// Promise 14 of tornet(7).
#[test]
fn file_of_more_than_4_gib_is_written_and_read_on_both_sides_of_every_border() {
    for options in ["rw", "nopassthrough"] {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        let file = edit(&a.path("large"));
        let borders = [(1u64 << 31) - 3, (1 << 32) - 3, (5 << 30) - 3];
        for border in borders {
            file.write_all_at(b"border", border).unwrap();
        }
        assert_eq!(file.metadata().unwrap().len(), (5 << 30) + 3);
        drop(file);
        let file = edit(&a.path("large"));
        for border in borders {
            let mut bytes = [9; 8];
            let len = file.read_at(&mut bytes, border - 1).unwrap();
            assert_eq!(&bytes[..7], b"\0border", "at {border}");
            assert_eq!(len, if border == borders[2] { 7 } else { 8 });
        }
        file.set_len((1 << 32) + 1).unwrap();
        assert_eq!(fs::metadata(a.path("large")).unwrap().len(), (1 << 32) + 1);
        assert!(file.metadata().unwrap().blocks() < 1000);
        // Publishing begins meanwhile, and is not worth its time any more.
        drop(file);
        fs::remove_file(a.path("large")).unwrap();
        assert_published(&a, "");
    }
}

// Promise 14 of tornet(7).
#[test]
fn names_are_bytes_up_to_255_of_them() {
    let lab = Lab::new();
    let a = mounted(&lab, "rw");
    let dir = a.path("dir");
    fs::create_dir(&dir).unwrap();
    let mut names: Vec<Vec<u8>> =
        vec![vec![b'n'; 255], b"\xff\xfe\x80".to_vec(), b"a\nb".to_vec(), "é".repeat(127).into()];
    names.extend((1..=255u8).filter(|byte| ![b'/', b'.'].contains(byte)).map(|byte| vec![byte]));
    names.push(vec![0xe9; 255]);
    for name in &names {
        fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
    names.sort();
    let mut listed: Vec<Vec<u8>> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    listed.sort();
    assert_eq!(listed, names);
    for name in &names {
        let (from, to) = (dir.join(OsStr::from_bytes(name)), dir.join("moving"));
        fs::rename(&from, &to).unwrap();
        fs::rename(&to, &from).unwrap();
        assert_eq!(&fs::read(&from).unwrap(), name);
    }
    assert_eq!(errno(fs::write(dir.join("n".repeat(256)), b"")), code(Errno::NAMETOOLONG));
    assert_published(&a, "");
}

// Promise 14 of tornet(7).
#[test]
fn times_are_kept_to_the_nanosecond() {
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        for (place, (seconds, nanos)) in
            [(1, 1), (1_700_000_000, 999_999_999), (4_000_000_000, 123_456_789)].into_iter().enumerate()
        {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            let other = UNIX_EPOCH + Duration::new(seconds + 5, 7);
            let file = edit(&a.path(format!("file{place}")));
            file.write_all_at(b"x", 0).unwrap();
            file.set_times(fs::FileTimes::new().set_modified(time).set_accessed(other)).unwrap();
            let meta = fs::metadata(a.path(format!("file{place}"))).unwrap();
            assert_eq!((meta.modified().unwrap(), meta.accessed().unwrap()), (time, other));
        }
        let before = fs::metadata(a.path("file0")).unwrap().modified().unwrap();
        fs::write(a.path("file0"), b"y").unwrap();
        assert!(fs::metadata(a.path("file0")).unwrap().modified().unwrap() > before + Duration::from_secs(1_000_000));
        assert_published(&a, "");
    }
}

// Promise 14 of tornet(7).
#[test]
fn ranges_are_copied_between_files_and_out_of_references() {
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        let bytes = noise(1, 3_000_000);
        fs::write(a.path("source"), &bytes).unwrap();
        let reference = a.reference(&a.stored(&a.path("source")));
        for (place, from) in [a.path("source"), reference].iter().enumerate() {
            let (source, target) = (fs::File::open(from).unwrap(), edit(&a.path(format!("target{place}"))));
            let (mut offset_from, mut offset_to) = (1000, 500);
            while offset_from < bytes.len() as u64 {
                let copied =
                    copy_file_range(&source, Some(&mut offset_from), &target, Some(&mut offset_to), 1 << 20).unwrap();
                assert!(copied > 0);
            }
            drop(target);
            let got = fs::read(a.path(format!("target{place}"))).unwrap();
            assert!(got[..500] == [0; 500] && got[500..] == bytes[1000..], "from {}", from.display());
            run(a.mount(), &format!("cp --reflink=auto --sparse=always {} copy{place}", from.display()));
            assert!(fs::read(a.path(format!("copy{place}"))).unwrap() == bytes);
        }
        assert_published(&a, "");
    }
}

// Promise 14 of tornet(7).
#[test]
fn names_are_exchanged_or_left_alone_in_one_step() {
    let lab = Lab::new();
    let a = mounted(&lab, "rw");
    fs::create_dir_all(a.path("dir/below")).unwrap();
    fs::write(a.path("dir/below/deep"), b"deep").unwrap();
    fs::write(a.path("file"), b"file").unwrap();
    a.stored(a.mount());
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, a.path(from), CWD, a.path(to), flags);
    assert_eq!(rename("file", "dir", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(rename("file", "none", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    rename("file", "dir", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(a.path("dir")).unwrap(), b"file");
    assert_eq!(fs::read(a.path("file/below/deep")).unwrap(), b"deep");
    rename("dir", "other", RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(a.path("other")).unwrap(), b"file");
    assert_eq!(rename("other", "ref", RenameFlags::EXCHANGE), Err(Errno::PERM));
    assert_published(&a, "");
}

// Promise 14 of tornet(7).
#[test]
fn du_and_ls_count_the_same_blocks_as_the_disk_below() {
    if !have(&["du", "ls", "sync"]) {
        return;
    }
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        let dir = a.path("dir");
        fs::create_dir(&dir).unwrap();
        for (name, size) in [("empty", 0), ("byte", 1), ("page", 4096), ("more", 4097), ("large", 3_000_001)] {
            fs::write(dir.join(name), noise(1, size)).unwrap();
        }
        edit(&dir.join("hole")).write_all_at(b"x", 50 << 20).unwrap();
        let sizes = |dir: &Path| {
            // Space is given to files when they reach the disk.
            shell(&format!("sync -f '{}'", dir.display()));
            let listed = run(dir, "ls -s --block-size=512");
            let mut counted: Vec<(String, u64)> = Vec::new();
            for line in listed.lines().skip(1) {
                let (blocks, name) = line.trim().split_once(' ').unwrap();
                let du = run(dir, &format!("du --block-size=512 {name}"));
                assert_eq!(du.split_whitespace().next(), Some(blocks), "{name}");
                assert_eq!(fs::metadata(dir.join(name)).unwrap().blocks().to_string(), blocks, "{name}");
                counted.push((name.into(), blocks.parse().unwrap()));
            }
            counted
        };
        let below = sizes(&a.data.join("tree/dir"));
        assert_eq!(below.len(), 6);
        assert!(below.iter().all(|(_, blocks)| *blocks < 10_000), "{below:?}");
        assert_eq!(sizes(&dir), below);
    }
}

// Promise 14 of tornet(7).
#[test]
fn space_that_is_left_is_that_of_the_disk_below() {
    let lab = Lab::new();
    let a = mounted(&lab, "rw");
    let sizes = |path: &Path| {
        let info = rustix::fs::statvfs(path).unwrap();
        (info.f_frsize, info.f_blocks, info.f_files, info.f_namemax)
    };
    let left = |path: &Path| {
        let info = rustix::fs::statvfs(path).unwrap();
        info.f_bavail * info.f_frsize
    };
    assert_eq!(sizes(a.mount()), sizes(&a.data));
    // Others write to that disk, too, so what is left is only near.
    let (here, below) = (left(a.mount()), left(&a.data));
    assert!(here.abs_diff(below) < 1 << 30, "{here} {below}");
    assert_eq!(sizes(&a.path("ref")), sizes(&a.data));
}

// Promise 14 of tornet(7).
#[test]
fn programs_run_from_the_own_tree_and_from_references_unless_the_mount_forbids_it() {
    let lab = Lab::new();
    let a = mounted(&lab, "rw");
    let source = Path::new("/bin/true").canonicalize().unwrap();
    fs::create_dir(a.path("bin")).unwrap();
    fs::copy(source, a.path("bin/tool")).unwrap();
    fs::write(a.path("bin/script"), "#!/bin/sh\necho \"$1\"\n").unwrap();
    fs::copy(a.path("bin/script"), a.path("bin/plain")).unwrap();
    fs::set_permissions(a.path("bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = a.reference(&a.stored(&a.path("bin")));
    let alone = a.reference(&a.stored(&a.path("bin/tool")));
    let try_run = |path: &Path| program(path, lab.dir()).arg("word").output();
    for path in [a.path("bin/tool"), dir.join("tool"), alone.clone()] {
        assert!(try_run(&path).unwrap().status.success(), "{}", path.display());
    }
    for path in [a.path("bin/script"), dir.join("script")] {
        assert_eq!(try_run(&path).unwrap().stdout, b"word\n", "{}", path.display());
    }
    assert_eq!(errno(try_run(&dir.join("plain"))), code(Errno::ACCESS));
    // A program that runs is not written to.
    let mut running = Command::new(a.path("bin/script")).arg("x").stdout(Stdio::null()).spawn().unwrap();
    running.wait().unwrap();
    drop(a);
    let a = mounted(&lab, "noexec");
    for path in [a.path("bin/tool"), a.reference(dir.file_name().unwrap().to_str().unwrap()).join("tool")] {
        assert_eq!(errno(try_run(&path)), code(Errno::ACCESS), "{}", path.display());
        assert_eq!(fs::read(&path).unwrap(), fs::read("/bin/true").unwrap());
    }
}

// Promise 14 of tornet(7).
#[test]
fn nothing_changes_in_a_mount_that_is_read_only() {
    let lab = Lab::new();
    let a = mounted(&lab, "rw");
    tree::make_varied(&a.path("dir"));
    let before = tree::snapshot(&a.path("dir"));
    let reference = a.stored(&a.path("dir"));
    drop(a);
    let a = mounted(&lab, "ro");
    tree::assert_same_as(&before, &a.path("dir"));
    assert_eq!(a.stored(&a.path("dir")), reference);
    tree::assert_same_as(&before, &a.reference(&reference));
    let file = a.path("dir/size-1024");
    assert_eq!(errno(fs::write(&file, b"")), code(Errno::ROFS));
    assert_eq!(errno(fs::remove_file(&file)), code(Errno::ROFS));
    assert_eq!(errno(fs::create_dir(a.path("new"))), code(Errno::ROFS));
    assert_eq!(errno(fs::rename(&file, a.path("new"))), code(Errno::ROFS));
    assert_eq!(errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))), code(Errno::ROFS));
}
