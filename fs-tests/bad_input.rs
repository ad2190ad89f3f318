//! What must get a clear answer: mistyped and foreign references, lying trees, wrong mount points, full disks, loose keys.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::forge::{self, Forged};
use harness::liar::{Liar, Manner};
use harness::node::{CONFIG, Plan};
use harness::tree::noise;
use harness::{Lab, TORNET_MOUNT, code, errno, mounts_below, printed, require_fuse, shell, until, within};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tornet::base::digest::ChunkId;
use tornet::base::limit::{DIRECTORY_ENTRIES_MAX, TREE_DEPTH_MAX};
use tornet::content::reference::Kind;

fn mount_at(lab: &Lab, data: &str, point: &Path) -> Output {
    let config = lab.path("config.toml");
    fs::write(&config, CONFIG).unwrap();
    Command::new(TORNET_MOUNT)
        .arg("--data-dir")
        .arg(lab.path(data))
        .arg("--config")
        .arg(config)
        .args(["--listen", "127.0.0.1:0"])
        .arg(point)
        .env("HOME", lab.dir())
        .output()
        .unwrap()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    ended(output, 1, words);
}

#[track_caller]
fn ended(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}", printed(output));
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    for word in words {
        assert!(said.contains(&word.to_lowercase()), "the message does not say `{word}`: {said:?}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// A reference with its payload changed and its checksum made right again.
fn forged(reference: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let (prefix, mut payload) = bech32::decode(reference).unwrap();
    change(&mut payload);
    bech32::encode::<bech32::Bech32m>(prefix, &payload).unwrap()
}

#[test]
fn mistyped_newer_and_foreign_references_are_told_apart() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    fs::write(lab.path("file"), noise(1, 10_000)).unwrap();
    let good = a.publish(&lab.path("file"));
    let mut mistyped = good.clone().into_bytes();
    let last = mistyped.len() - 10;
    mistyped[last] = if mistyped[last] == b'q' { b'p' } else { b'q' };
    let mistyped = String::from_utf8(mistyped).unwrap();
    let newer = forged(&good, |payload| payload[0] = 99);
    let cases = [
        (mistyped.as_str(), "checksum"),
        (newer.as_str(), "newer"),
        (a.address.split('@').next().unwrap(), "peer"),
        (a.address.as_str(), "--bootstrap"),
        ("hello", "not a reference"),
    ];
    for (reference, word) in cases {
        let dest = lab.path("dest");
        for command in [&["get", reference, dest.to_str().unwrap()][..], &["pin", reference], &["verify", reference]] {
            let said = a.tornet_refuses(command).to_lowercase();
            assert!(said.contains(word), "{command:?}: {said:?} does not say `{word}`");
        }
        let (result, took) = {
            let path = a.reference(reference);
            within(Duration::from_secs(20), "a look at a name that is no reference", move || fs::metadata(path))
        };
        let number = errno(result);
        let wanted = if word == "newer" { Errno::PROTONOSUPPORT } else { Errno::NOENT };
        assert_eq!(number, code(wanted), "{reference}");
        assert!(took < Duration::from_secs(5), "no look-up for {reference}: {took:?}");
        let why = a.tornet(&["why", a.reference(reference).to_str().unwrap()]).to_lowercase();
        assert!(why.contains(word), "why {reference}: {why:?} does not say `{word}`");
    }
    assert!(!lab.path("dest").exists());
}

#[test]
fn reference_in_capitals_is_the_same_everywhere() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    fs::create_dir(lab.path("dir")).unwrap();
    fs::write(lab.path("dir/file"), noise(1, 10_000)).unwrap();
    let small = a.publish(&lab.path("dir"));
    let capital = small.to_uppercase();
    let both = [a.reference(&small), a.reference(&capital)];
    let number = |path: &Path| fs::metadata(path).unwrap().ino();
    // In either order, and again while the other one is in use.
    let _inside = fs::File::open(both[0].join("file")).unwrap();
    for path in [&both[1], &both[0], &both[1]] {
        assert_eq!(number(path), number(&both[0]));
        assert_eq!(fs::read(path.join("file")).unwrap(), noise(1, 10_000));
        assert!(a.tornet(&["why", path.to_str().unwrap()]).starts_with("readable"), "{}", path.display());
        assert_eq!(a.tornet(&["ref", path.to_str().unwrap()]), small);
    }
    let slash = format!("{capital}/");
    a.tornet(&["get", &slash, lab.path("dest").to_str().unwrap()]);
    assert_eq!(fs::read(lab.path("dest/file")).unwrap(), noise(1, 10_000));
    let mixed = a.reference(&small.replacen('t', "T", 1));
    assert_eq!(errno(fs::metadata(&mixed)), code(Errno::NOENT));
    assert!(a.tornet(&["why", mixed.to_str().unwrap()]).contains("mixed"));
}

#[test]
fn mount_point_must_be_an_empty_directory_that_is_not_mounted_yet() {
    require_fuse();
    let lab = Lab::new();
    let full = lab.make_dir("full");
    fs::write(full.join("file"), b"mine").unwrap();
    refused(&mount_at(&lab, "data", &full), &["not empty", full.to_str().unwrap()]);
    assert_eq!(fs::read(full.join("file")).unwrap(), b"mine");
    let file = lab.path("file");
    fs::write(&file, b"").unwrap();
    refused(&mount_at(&lab, "data", &file), &["not a directory"]);
    let taken = Plan::new("a").mounted().start(&lab);
    refused(&mount_at(&lab, "data", taken.mount()), &["mounted"]);
    fs::write(taken.path("still"), b"serves").unwrap();
    assert!(mounts_below(&full).is_empty());
    let link = lab.path("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    refused(&mount_at(&lab, "data", &link), &["symbolic link to nowhere"]);
    refused(&mount_at(&lab, "data", &lab.path("no/parent")), &["does not exist", "mkdir -p"]);
    assert!(!lab.path("data").exists(), "a first mount that fails makes no identity");
    // A directory made for a mount that fails goes again.
    let fresh = lab.path("fresh");
    refused(&mount_at(&lab, "a/net/data", &fresh), &["lies in the tornet mount", "--data-dir"]);
    assert!(!fresh.exists() && !taken.path("data").exists());
}

#[test]
fn variable_that_means_nothing_is_told() {
    let lab = Lab::new();
    let mut command = Command::new(harness::TORNET);
    command.args(["config"]).env("HOME", lab.dir()).env("TORNET_STORGE_CACHE", "1 GiB");
    let output = command.output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("TORNET_STORGE_CACHE"), "{}", printed(&output));
}

#[test]
fn second_process_on_one_data_directory_is_refused() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let output = a.run(&["node", "--listen", "127.0.0.1:0"]);
    refused(&output, &["in use", a.data.to_str().unwrap()]);
    assert!(a.json(&["--json", "status"])["pid"].is_u64(), "the first goes on");
}

#[test]
fn key_file_that_others_may_read_is_refused() {
    let lab = Lab::new();
    let mut a = Plan::new("a").start(&lab);
    a.stop();
    // Whatever its name: the small private file at the top of the data directory that holds the identity.
    let keys: Vec<_> = fs::read_dir(&a.data)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && ["identity", "key"].iter().any(|word| path.to_str().unwrap().contains(word)))
        .collect();
    assert!(!keys.is_empty(), "no key file in {}", shell(&format!("ls -la '{}'", a.data.display())));
    assert_eq!(fs::metadata(&a.data).unwrap().permissions().mode() & 0o077, 0, "the data directory is private");
    for key in keys {
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let (status, said) = Plan::new("a").try_start(&lab).err().expect("a loose key is refused");
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("chmod 600") && said.contains(key.to_str().unwrap()), "{said:?}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    Plan::new("a").start(&lab);
}

#[test]
fn full_disk_is_reported_to_the_writer_and_survived() {
    require_fuse();
    assert!(rustix::process::geteuid().is_root(), "this test mounts a small tmpfs and needs root");
    let lab = Lab::new();
    let home = lab.make_dir("a");
    shell(&format!("mount -t tmpfs -o size=24m tmpfs '{}'", home.display()));
    let a = Plan::new("a").mounted().start(&lab);
    fs::write(a.path("small"), noise(1, 50_000)).unwrap();
    let result = fs::write(a.path("huge"), noise(2, 40 << 20));
    assert_eq!(errno(result), code(Errno::NOSPC));
    assert_eq!(fs::read(a.path("small")).unwrap(), noise(1, 50_000), "the rest stays readable");
    // What did fit cannot be sealed beside itself, and that is said where people ask.
    let huge = a.path("huge");
    let full = |text: &str| ["full", "space"].iter().any(|word| text.to_lowercase().contains(word));
    until("why names the full disk", || full(&a.tornet(&["why", huge.to_str().unwrap()])).then_some(()));
    let trouble = a.json(&["--json", "status"])["trouble"].clone();
    assert!(trouble.as_str().is_some_and(full), "{trouble}");
    fs::remove_file(a.path("huge")).unwrap();
    // The disk gets its space back once the kernel has forgotten the file.
    until("there is space again", || fs::write(a.path("after"), noise(3, 50_000)).ok());
    assert_eq!(fs::read(a.path("after")).unwrap(), noise(3, 50_000));
    let reference = a.stored(&a.path("after"));
    assert_eq!(fs::read(a.reference(&reference)).unwrap(), noise(3, 50_000));
    // A fetch that does not fit says so, too.
    let b = Plan::new("b").knows(&a).start(&lab);
    fs::write(lab.path("film"), noise(4, 40 << 20)).unwrap();
    let film = b.publish(&lab.path("film"));
    let dest = a.home.join("dest");
    let said = a.tornet_fails(&["get", &film, dest.to_str().unwrap()]).to_lowercase();
    assert!(full(&said), "{said:?}");
    assert_eq!(fs::read(a.path("after")).unwrap(), noise(3, 50_000));
    drop(a);
    shell(&format!("umount -l '{}'", home.display()));
}

#[test]
fn unknown_settings_and_addresses_are_refused_with_their_place() {
    let lab = Lab::new();
    let cases: [(&str, &[&str]); 7] = [
        ("[storage]\ncache = \"1 GiB\"\nhosting = \"2 GiB\"\n", &["config.toml:3:11", "1 GiB", "2 GiB"]),
        ("[storage]\ncahce = \"1 GiB\"\n", &["config.toml:2:1", "cahce"]),
        ("[storage]\ncache = \"8 MiB\"\n", &["config.toml:2:9", "8 MiB is less than 32 MiB"]),
        ("[storage]\ncache = \"much\"\n", &["config.toml:2:9", "much"]),
        ("[storage]\nredundancy = \"8+400\"\n", &["config.toml:2", "8+400"]),
        ("[network]\nbootstrap = [\"127.0.0.1:4000\"]\n", &["config.toml:2", "127.0.0.1:4000"]),
        ("[nonsense]\n", &["config.toml:1", "nonsense"]),
    ];
    for (config, words) in cases {
        let (status, said) = Plan::new("a").config(config).try_start(&lab).err().expect("refused");
        assert!(matches!(status.code(), Some(1 | 2)), "{status}");
        for word in words {
            assert!(said.contains(word), "{config:?}: {said:?} does not say `{word}`");
        }
        fs::remove_file(lab.path("a/log")).unwrap();
    }
    for (listen, word) in [("somewhere", "somewhere"), ("127.0.0.1", "127.0.0.1"), ("127.0.0.1:99999", "99999")] {
        let (status, said) = Plan::new("a").listen(listen).try_start(&lab).err().expect("refused");
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{said:?}");
    }
    let first = Plan::new("first").start(&lab);
    let listen = first.json(&["--json", "status"])["listen"].as_str().unwrap().to_string();
    let (status, said) = Plan::new("second").listen(&listen).try_start(&lab).err().expect("the port is taken");
    assert_eq!(status.code(), Some(1));
    assert!(said.contains(&listen), "{said:?}");
}

#[test]
fn publishing_what_cannot_be_published_says_why() {
    let lab = Lab::new();
    let a = Plan::new("a").start(&lab);
    let none = lab.path("none");
    let said = a.tornet_fails(&["publish", none.to_str().unwrap()]);
    assert!(said.contains(none.to_str().unwrap()), "{said:?}");
    let pipe = lab.path("pipe");
    shell(&format!("mkfifo '{}'", pipe.display()));
    let (output, _) = {
        let mut command = a.command(&["publish", pipe.to_str().unwrap()]);
        within(Duration::from_secs(30), "publishing a pipe", move || command.output().unwrap())
    };
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("pipe"), "{}", printed(&output));
}

#[test]
fn special_files_in_the_own_tree_do_not_stop_publishing() {
    let lab = Lab::new();
    require_fuse();
    let a = Plan::new("a").mounted().start(&lab);
    fs::create_dir(a.path("dir")).unwrap();
    // Made through the mount if it lets them be made, and left out of what is published.
    let _ = Command::new("mkfifo").arg(a.path("dir/pipe")).status();
    let _ = std::os::unix::net::UnixListener::bind(a.path("dir/socket"));
    fs::write(a.path("dir/file"), b"text").unwrap();
    let reference = a.stored(&a.path("dir"));
    let shown: Vec<_> =
        fs::read_dir(a.reference(&reference)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(shown, ["file"]);
}

#[test]
fn ordinary_user_mounts_with_fuse3_or_is_told_which_package_to_install() {
    require_fuse();
    if !rustix::process::geteuid().is_root() {
        // Then every other test is this one.
        return;
    }
    let lab = Lab::new();
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = lab.make_dir("user");
    rustix::fs::chown(&home, Some(rustix::fs::Uid::from_raw(65534)), Some(rustix::fs::Gid::from_raw(65534))).unwrap();
    let program = lab.path("tornet-mount");
    fs::copy(TORNET_MOUNT, &program).unwrap();
    let script = format!(
        "mkdir -p '{0}/net' && exec '{1}' --data-dir '{0}/data' --listen 127.0.0.1:0 '{0}/net'",
        home.display(),
        program.display()
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", &home)
        .current_dir(&home)
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        let point = home.join("net");
        assert_eq!(mounts_below(&point), std::slice::from_ref(&point));
        lab.end_all();
        until("it is gone", || mounts_below(&point).is_empty().then_some(()));
    } else {
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("fuse3") || said.contains("/dev/fuse"), "{said:?}");
    }
}

/// Trees that lie, each with a word that the explanation must hold.
fn lying_trees(host: &Liar) -> Vec<(&'static str, String, &'static str)> {
    let hold = |node: Forged| {
        let (node, chunk) = node.seal();
        assert_eq!(host.hold(chunk), node.id);
        node
    };
    let directory = |node: Forged| forge::reference(Kind::Directory, hold(node));
    let file = |node: Forged| forge::reference(Kind::File, hold(node));
    let good = || Forged::leaf(1).inline(b"good", b"x");
    let mut all = vec![
        ("a name with a slash", directory(Forged::leaf(1).inline(b"a/b", b"x")), "name"),
        ("a name with NUL", directory(Forged::leaf(1).inline(b"a\0b", b"x")), "name"),
        ("the name `.`", directory(Forged::leaf(1).inline(b".", b"x")), "name"),
        ("the name `..`", directory(Forged::leaf(1).inline(b"..", b"x")), "name"),
        ("an empty name", directory(Forged::leaf(1).inline(b"", b"x")), "name"),
        ("a name of 256 bytes", directory(Forged::leaf(1).inline(&[b'x'; 256], b"x")), "name"),
        ("a name twice", directory(Forged::leaf(2).inline(b"a", b"x").inline(b"a", b"y")), "name"),
        ("names out of order", directory(Forged::leaf(2).inline(b"b", b"x").inline(b"a", b"y")), "name"),
        ("a setuid bit", directory(Forged::leaf(1).mode(b"a", 0o4755)), "permission"),
        ("a privileged attribute", directory(Forged::leaf(1).xattr(b"a", b"security.capability")), "attribute"),
        ("an empty link", directory(Forged::leaf(1).symlink(b"a", b"")), "link"),
        ("more entries than there are", directory(Forged::leaf(1000).inline(b"a", b"x")), "node"),
        ("bytes left over", directory(good().inline(b"more", b"x")), "node"),
        ("a newer format", directory(good().format(9)), "newer"),
        ("an unknown tag", directory(Forged::new(77)), "node"),
        ("a file that is a directory", file(good()), "directory"),
    ];
    let mut flat = Forged::new(forge::FILE);
    flat.read.raw(&[0, 0]);
    flat.read.uint(3);
    flat.read.raw(b"abc");
    all.push(("a directory that is a file", forge::reference(Kind::Directory, hold(flat)), "file"));
    // Sizes: the file says 100 MiB, its stripe holds one.
    let sizes = |size: u64| {
        let mut node = Forged::new(forge::FILE);
        node.read.raw(&[0, 0]);
        node.read.uint(size);
        node.stripe(1 << 20, 131_072, 8, (0..12).map(|place| ChunkId([place; 32])).collect())
    };
    all.push(("a false size", file(sizes(100 << 20)), "bytes"));
    all.push(("a size over all limits", file(sizes(u64::MAX)), "size"));
    // A cycle can only be claimed: a node of level 1 whose child says that it is of level 1, too.
    let inner = |level: u8, entries: u64, bytes: u64, node| {
        let mut parent = Forged::new(forge::INNER);
        parent.read.byte(level);
        parent.read.bytes(b"good");
        parent.read.uint(entries);
        parent.read.uint(bytes);
        parent.child(node)
    };
    let leaf = hold(good());
    let child = hold(inner(1, 1, 1, leaf));
    all.push(("a child of its own level", directory(inner(1, 1, 1, child)), "level"));
    all.push(("too many levels", directory(inner(200, 1, 1, leaf)), "depth"));
    all.push(("too many entries", directory(inner(1, DIRECTORY_ENTRIES_MAX + 1, 1, leaf)), "entries"));
    all.push(("another number of entries", directory(inner(1, 5, 1, leaf)), "entries"));
    all.push(("another number of bytes", directory(inner(1, 1, 5, leaf)), "bytes"));
    let mut other = Forged::new(forge::INNER);
    other.read.byte(1);
    other.read.bytes(b"other");
    other.read.uint(1);
    other.read.uint(1);
    all.push(("a name outside of its range", directory(other.child(leaf)), "range"));
    all
}

#[test]
fn trees_that_lie_are_refused_with_eio_and_explained() {
    require_fuse();
    let lab = Lab::new();
    let host = Liar::start(Manner::Honest, None);
    let node = Plan::new("reader").mounted().knows_address(&host.address()).start(&lab);
    let (good, chunk) = Forged::leaf(1).inline(b"good", b"right").seal();
    host.hold(chunk);
    let good = forge::reference(Kind::Directory, good);
    assert_eq!(fs::read(node.reference(&good).join("good")).unwrap(), b"right", "what is well formed is read");
    for (lie, reference, word) in lying_trees(&host) {
        let path = node.reference(&reference);
        let asked = path.clone();
        let (result, took) = within(Duration::from_secs(60), lie, move || {
            // Some lies show at the root, some only when it is listed or read.
            if fs::metadata(&asked)?.is_dir() {
                fs::read_dir(&asked)?.try_for_each(|entry| entry.map(drop))
            } else {
                fs::read(&asked).map(drop)
            }
        });
        assert!(result.is_err(), "{lie}: it was believed");
        assert_eq!(errno(result), code(Errno::IO), "{lie}");
        assert!(took < Duration::from_secs(10), "{lie}: {took:?}");
        let why = node.tornet(&["why", path.to_str().unwrap()]).to_lowercase();
        assert!(why.contains(word), "{lie}: {why:?} does not say `{word}`");
        let dest = lab.path("dest");
        let said = node.tornet_fails(&["get", &reference, dest.to_str().unwrap()]).to_lowercase();
        assert!(said.contains(word) && !said.contains("panicked"), "{lie}: {said:?} does not say `{word}`");
        assert!(!dest.exists(), "{lie}: something was left at the destination");
    }
    assert_eq!(fs::read(node.reference(&good).join("good")).unwrap(), b"right", "and the node serves on");
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

#[test]
fn tree_deeper_than_the_limit_is_readable_down_to_it_and_no_further() {
    require_fuse();
    let lab = Lab::new();
    let host = Liar::start(Manner::Honest, None);
    let (mut below, chunk) = Forged::leaf(1).inline(b"f", b"x").seal();
    host.hold(chunk);
    let depth = TREE_DEPTH_MAX + 40;
    for _ in 0..depth {
        let (node, chunk) = Forged::leaf(1).child_entry(b"d", 3, 1, below).seal();
        host.hold(chunk);
        below = node;
    }
    let node = Plan::new("reader").mounted().knows_address(&host.address()).start(&lab);
    let reference = forge::reference(Kind::Directory, below);
    let root = node.reference(&reference);
    let (reached, _) = within(Duration::from_secs(120), "going down", move || {
        let mut path = root;
        let mut reached = 0;
        while fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some_and(|entry| entry.is_ok())) {
            path.push("d");
            reached += 1;
        }
        reached
    });
    assert!((TREE_DEPTH_MAX / 2..=TREE_DEPTH_MAX + 1).contains(&reached), "reached {reached} of {depth}");
    let said = node.tornet_fails(&["get", &reference, lab.path("dest").to_str().unwrap()]).to_lowercase();
    assert!(said.contains("deep") || said.contains("depth"), "{said:?}");
}

#[test]
fn error_names_its_cause_once_and_says_what_would_have_been_right() {
    let lab = Lab::new();
    let tornet = |args: &[&str]| {
        let mut command = Command::new(harness::TORNET);
        command.arg("--data-dir").arg(lab.path("data")).args(args).env("HOME", lab.dir()).current_dir(lab.dir());
        command.output().unwrap()
    };
    let output = tornet(&["--config", "nofile", "config"]);
    refused(&output, &["nofile", "no such file"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("No such file").count(), 1, "{said:?}");
    let output = tornet(&["node", "--listen", "127.0.0.1:0", "--bootstrap", "bogus"]);
    ended(&output, 2, &["bogus", "not a node's address", "tornet1...@IP:PORT"]);
    // From the environment it is no wrong usage of this command.
    let mut command = Command::new(harness::TORNET);
    command.args(["node", "--listen", "127.0.0.1:0"]).env("HOME", lab.dir()).env("TORNET_NETWORK_BOOTSTRAP", "bogus");
    refused(&command.output().unwrap(), &["TORNET_NETWORK_BOOTSTRAP", "bogus"]);
}
