//! Several users and several ways to mount: whom the kernel lets in, what of others' trees is never honoured, mount(8) and fstab; and what
//! of a mount never waits for the network.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{CONFIG, Plan, READER};
use harness::{
    Lab, TORNET_MOUNT, code, errno, installed, mounts_below, printed, processes_naming, require_fuse, shell, until,
    within,
};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// An ordinary user.
const NOBODY: u32 = 65534;

/// Whether other users may be acted as.
fn root() -> bool {
    require_fuse();
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: it takes root to act as another user");
    }
    root
}

fn as_nobody(dir: &Path, line: &str) -> Output {
    Command::new("sh")
        .arg("-c")
        .arg(line)
        .current_dir(dir)
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn open_up(paths: &[&Path]) {
    paths.iter().for_each(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap());
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

// Promise 16 of tornet(7).
#[test]
fn other_users_enter_only_where_they_are_let_in_and_then_by_the_modes_of_files() {
    if !root() {
        return;
    }
    for options in ["rw", "allow_other", "allow_other,nopassthrough"] {
        println!("-o {options}");
        let lab = Lab::new();
        let a = Plan::new("a").mounted().option(options).start(&lab);
        open_up(&[lab.dir(), &a.home]);
        fs::create_dir(a.path("dir")).unwrap();
        fs::create_dir(a.path("dir/shared")).unwrap();
        set_mode(&a.path("dir/shared"), 0o1777);
        for (name, mode) in [("public", 0o644), ("secret", 0o600)] {
            fs::write(a.path("dir").join(name), name).unwrap();
            set_mode(&a.path("dir").join(name), mode);
        }
        let reference = a.reference(&a.stored(&a.path("dir")));
        let tries = |line: &str| as_nobody(Path::new("/"), line).status.success();
        for dir in [a.path("dir"), reference.clone()] {
            let dir = dir.display();
            assert_eq!(tries(&format!("cat {dir}/public")), options != "rw", "{dir}");
            assert!(!tries(&format!("cat {dir}/secret")), "{dir}");
            assert!(!tries(&format!("echo x > {dir}/public")) && !tries(&format!("touch {dir}/new")), "{dir}");
            assert!(!tries(&format!("rm -f {dir}/public")), "{dir}");
        }
        // A name is no way round the modes of what it stands for, and what the node tells of itself is its user's.
        a.tornet(&["name", "create", "theirs", a.path("dir/secret").to_str().unwrap()]);
        for own in ["names", ".tornet"] {
            assert!(!tries(&format!("ls {}", a.path(own).display())), "{own}");
        }
        assert!(!tries(&format!("cat {}", a.path("names/theirs").display())));
        assert!(!tries(&format!("cat {}", a.path(".tornet/balances").display())));
        let made = a.path("dir/shared/made");
        assert_eq!(tries(&format!("echo x > {}", made.display())), options != "rw");
        if options != "rw" {
            let meta = fs::metadata(&made).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY), "who makes a file owns it");
            // In a sticky directory nobody removes what is another's.
            fs::write(a.path("dir/shared/ours"), b"x").unwrap();
            assert!(!tries(&format!("rm -f {}", a.path("dir/shared/ours").display())));
        }
        assert_eq!(fs::read_to_string(a.path("dir/public")).unwrap(), "public");
    }
}

// Promise 16 of tornet(7).
#[test]
fn privileges_of_files_are_honoured_nowhere_and_devices_do_nothing() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let a = Plan::new("a").mounted().option("allow_other").start(&lab);
    let b = Plan::new("b").mounted().option("allow_other").config(READER).knows(&a).start(&lab);
    open_up(&[lab.dir(), &a.home, &b.home]);
    fs::create_dir(a.path("dir")).unwrap();
    let tool = a.path("dir/id");
    fs::copy(fs::canonicalize("/usr/bin/id").unwrap(), &tool).unwrap();
    set_mode(&tool, 0o6755);
    assert_eq!(fs::metadata(&tool).unwrap().mode() & 0o7777, 0o6755, "the bits are kept");
    // The memory of the machine, and what is always there: made, as any file system allows, and of no use.
    let device = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, a.path("dir/null"), kind, mode, device).unwrap();
    assert!(fs::metadata(a.path("dir/null")).unwrap().file_type().is_char_device());
    assert_eq!(errno(fs::read(a.path("dir/null"))), code(Errno::ACCESS));
    let reference = a.stored(&a.path("dir"));
    for dir in [a.path("dir"), a.reference(&reference), b.reference(&reference)] {
        let output = as_nobody(&dir, "./id -u");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), NOBODY.to_string(), "{}", printed(&output));
    }
    for node in [&a, &b] {
        let shown = node.reference(&reference);
        assert_eq!(fs::metadata(shown.join("id")).unwrap().mode() & 0o7777, 0o755, "no such bits by reference");
        assert_eq!(errno(fs::symlink_metadata(shown.join("null"))), code(Errno::NOENT), "no devices by reference");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(node.mount().to_str().unwrap())).unwrap();
        let options: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
        assert!(options.contains(&"nosuid") && options.contains(&"nodev"), "{line}");
    }
}

// Promise 16 of tornet(7).
#[test]
fn mount_finds_the_type_by_its_own_program() {
    require_fuse();
    let lab = Lab::new();
    let helper = lab.path("mount.tornet");
    symlink(TORNET_MOUNT, &helper).unwrap();
    let (data, config) = (lab.path("data"), lab.path("config.toml"));
    let point = lab.make_dir("net");
    fs::write(&config, CONFIG).unwrap();
    // As mount(8) calls it for a line of fstab, without anything of a user's.
    let call = |options: &str, more: &[&str]| {
        let mut command = Command::new(&helper);
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").stdin(Stdio::null());
        command.arg(&data).arg(&point).arg("-o").arg(options).args(more).output().unwrap()
    };
    let options = format!("rw,noexec,_netdev,config={},listen=127.0.0.1:0", config.display());
    assert!(call(&options, &["-f"]).status.success(), "only tried");
    assert!(mounts_below(&point).is_empty() && !data.exists());
    let output = call(&options, &[]);
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(mounts_below(&point), std::slice::from_ref(&point));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(point.to_str().unwrap())).unwrap();
    assert!(line.contains("noexec") && line.contains("fuse.tornet"), "{line}");
    fs::write(point.join("file"), b"x").unwrap();
    assert_eq!(fs::read(data.join("tree/file")).unwrap(), b"x");
    // A second try is told.
    let again = call(&options, &[]);
    assert!(!again.status.success() && printed(&again).contains("tornet"), "{}", printed(&again));
    let wrong = call(&format!("{options},bogus"), &[]);
    assert!(!wrong.status.success() && printed(&wrong).contains("bogus"), "{}", printed(&wrong));
    let args = ["--data-dir", data.to_str().unwrap(), "umount", point.to_str().unwrap()];
    let output = Command::new(harness::TORNET).args(args).env("HOME", lab.dir()).output().unwrap();
    assert!(output.status.success(), "{}", printed(&output));
    until("its process is gone", || processes_naming(&data).is_empty().then_some(()));
}

// Promise 16 of tornet(7).
#[test]
fn mount_and_fstab_mount_by_the_type_alone() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    let (data, config, point) = (lab.path("data"), lab.path("config.toml"), lab.make_dir("net"));
    let other = lab.make_dir("other");
    fs::write(&config, CONFIG).unwrap();
    let ours = format!("config={},listen=127.0.0.1:0", config.display());
    let (data, point, other) = (data.display(), point.display(), other.display());
    fs::write(
        lab.path("both"),
        format!("{data} {point} tornet {ours} 0 0\n{data} {other} tornet ro,noexec,_netdev,{ours} 0 0\n"),
    )
    .unwrap();
    fs::write(
        lab.path("fstab"),
        format!("{data} {point} tornet ro,user,noauto,nofail,_netdev,x-systemd.automount,{ours} 0 0\n"),
    )
    .unwrap();
    // Where mount(8) looks for programs of file systems, here lies ours; only this process and its children see that.
    let script = format!(
        "mount --make-rprivate /
        mount -t tmpfs none '{sbin}'
        ln -s '{TORNET_MOUNT}' '{sbin}/mount.tornet'
        gone() {{ for i in $(seq 900); do flock -n '{data}/store/lock' true && return 0; sleep 0.1; done; false; }}
        mount -t tornet -o noexec,{ours} '{data}' '{point}'
        grep ' {point} ' /proc/self/mountinfo
        echo x > '{point}/file'
        umount '{point}'
        gone
        mount -T '{fstab}' '{point}'
        grep ' {point} ' /proc/self/mountinfo
        cat '{point}/file'
        mount -T '{fstab}' '{point}' && exit 9
        umount '{point}'
        gone
        # As at a start of the machine, and again, which changes nothing.
        mount -a -T '{both}'
        mount -a -T '{both}'
        grep -c ' fuse.tornet {data} ' /proc/self/mountinfo
        echo both > '{point}/new'
        cat '{other}/new'
        umount '{point}' '{other}'
        gone",
        both = lab.path("both").display(),
        sbin = fs::canonicalize("/sbin").unwrap().display(),
        fstab = lab.path("fstab").display(),
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-euc", &script]).env("HOME", lab.dir()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = printed(&output);
    println!("{said}");
    assert!(output.status.success(), "{said}");
    let shown: Vec<&str> = said.lines().filter(|line| line.contains("fuse.tornet")).collect();
    assert_eq!(shown.len(), 2, "{said}");
    assert!(shown[0].contains(" rw,") && shown[0].contains("noexec") && shown[1].contains(" ro,"), "{said}");
    for line in ["x", "2", "both"] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    until("its process is gone", || processes_naming(lab.dir()).is_empty().then_some(()));
}

// Promise 6 of tornet(7).
#[test]
fn inode_numbers_are_the_same_after_a_new_start() {
    require_fuse();
    let lab = Lab::new();
    let mut numbers = Vec::new();
    for round in 0..2 {
        let mut a = Plan::new("a").mounted().start(&lab);
        if round == 0 {
            fs::create_dir_all(a.path("dir/sub")).unwrap();
            fs::write(a.path("dir/sub/file"), b"x").unwrap();
        }
        let reference = a.reference(&a.stored(&a.path("dir")));
        let of = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
        let found = ["", "sub", "sub/file"].map(|name| (of(&a.path("dir").join(name)), of(&reference.join(name))));
        // Listings tell the same.
        let listed = fs::read_dir(&reference).unwrap().next().unwrap().unwrap();
        assert_eq!(std::os::unix::fs::DirEntryExt::ino(&listed), found[1].1);
        numbers.push(found);
        a.stop();
    }
    assert_eq!(numbers[0], numbers[1]);
}

// Promise 10 of tornet(7).
#[test]
fn looking_round_and_unmounting_do_not_wait_for_the_network() {
    require_fuse();
    let lab = Lab::new();
    let a = Plan::new("a").mounted().start(&lab);
    let mut b = Plan::new("b").mounted().config(READER).knows(&a).start(&lab);
    fs::create_dir(a.path("dir")).unwrap();
    for name in ["one", "two"] {
        fs::write(a.path("dir").join(name), harness::tree::noise(1, 2 << 20)).unwrap();
    }
    let other = a.stored(&a.path("dir/two"));
    let dir = b.reference(&a.stored(&a.path("dir")));
    let known = harness::tree::snapshot(&dir);
    // It is linked and says nothing any more.
    a.signal(rustix::process::Signal::STOP);
    let waiting = b.reference(&other);
    let mut reader = Command::new("cat").arg(&waiting).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Bounds that no answer of the network's would keep: it is given up after 30 s.
    let (mount, shown) = (b.mount().to_path_buf(), dir.clone());
    let (seen, took) = within(Duration::from_secs(20), "what is known", move || {
        rustix::fs::statvfs(&mount).unwrap();
        assert_eq!(fs::read_dir(&mount).unwrap().count(), 3, "names, ref and .tornet");
        fs::read_dir(mount.join("ref")).unwrap().count();
        harness::tree::snapshot(&shown)
    });
    println!("looked round in {took:?}");
    assert_eq!(seen, known, "what was read once is here");
    let _ = reader.kill();
    let _ = reader.wait();
    let mount = b.mount().to_path_buf();
    let mut umount = b.command(&["umount", mount.to_str().unwrap()]);
    let (output, took) = within(Duration::from_secs(20), "unmounting", move || umount.output().unwrap());
    println!("unmounted in {took:?}");
    assert!(output.status.success(), "{}", printed(&output));
    b.wait_end();
    a.signal(rustix::process::Signal::CONT);
}

#[test]
fn device_for_root_alone_is_blamed_and_not_the_helper() {
    require_fuse();
    if !root() || !["unshare", "setpriv", "fusermount3"].into_iter().all(installed) {
        return;
    }
    let lab = Lab::new();
    let home = lab.make_dir("user");
    open_up(&[lab.dir(), &home]);
    rustix::fs::chown(&home, Some(rustix::fs::Uid::from_raw(NOBODY)), None).unwrap();
    let program = lab.path("tornet-mount");
    fs::copy(TORNET_MOUNT, &program).unwrap();
    set_mode(&program, 0o755);
    let device = lab.path("fuse");
    shell(&format!("mknod -m 600 '{}' c 10 229", device.display()));
    let line = format!(
        "mount --bind '{}' /dev/fuse; cd '{home}'; HOME='{home}' exec setpriv --reuid={NOBODY} --clear-groups '{}' \
         --data-dir '{home}/data' --listen 127.0.0.1:0 '{home}/net'",
        device.display(),
        program.display(),
        home = home.display()
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-euc", &line]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(said.contains("tornet-mount: only root may open /dev/fuse here") && said.contains("chmod 666"), "{said}");
}
