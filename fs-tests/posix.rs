//! Suites that others wrote for file systems, run against real mounts: pjdfstest (what POSIX says of each call) and fsx
//! (random reads, writes, maps and truncations against a copy in memory). Built once, below the target directory.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::Plan;
use harness::{Lab, printed, require_fuse};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What the suite calls features, and that it shall wait little: times here have nanoseconds.
const SUITE: &str = "
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"], [\"bin\", \"bin\"]]
";

/// Groups that are passed over. Those that end in `erofs_named` and `erofs_new_file` remount the file system read-only, which FUSE
/// does not do; a read-only mount is tested in `mount.rs`. The other one makes as many links as the file system below allows.
const SKIPPED: [&str; 3] = ["erofs_named", "erofs_new_file", "link_count_max"];

/// A program from the registry, installed below the target directory; `None` where it cannot be had.
fn program(name: &str, version: &str) -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("suites");
    let path = root.join("bin").join(name);
    let mut install = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    install.args(["install", "--quiet", "--locked", name, "--version", version]).arg("--root").arg(&root);
    // Its own target directory: ours is in use by the very command that runs the tests.
    install.env("CARGO_TARGET_DIR", root.join("target")).env_remove("RUSTFLAGS").current_dir("/").stdin(Stdio::null());
    if !path.exists() {
        let output = install.output().unwrap();
        if !output.status.success() {
            assert!(std::env::var_os("CI").is_none(), "{name} cannot be built: {}", printed(&output));
            println!("skipped: {name} cannot be built here: {}", printed(&output));
            return None;
        }
    }
    Some(path)
}

// Promise 13 of tornet(7).
#[test]
fn own_tree_passes_the_posix_suite() {
    require_fuse();
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the suite acts as several users, which takes root");
        return;
    }
    let Some(suite) = program("pjdfstest", "0.2.2") else { return };
    for options in ["allow_other", "allow_other,nopassthrough"] {
        let lab = Lab::new();
        let node = Plan::new("a").mounted().option(options).start(&lab);
        for dir in [lab.dir(), &node.home] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let config = lab.path("suite.toml");
        fs::write(&config, SUITE).unwrap();
        let secondary = lab.make_dir("secondary");
        let mut command = Command::new(&suite);
        command.arg("-c").arg(&config).arg("-p").arg(node.mount()).arg("-s").arg(secondary);
        let output = command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).output().unwrap();
        let text = printed(&output);
        let summary = text.lines().find(|line| line.starts_with("Summary:")).unwrap_or("no summary");
        println!("-o {options}: {summary}");
        assert!(output.status.success() && summary.contains(": 0 failed"), "{text}");
        let skipped = text.lines().filter_map(|line| line.trim_end().strip_suffix("skipped")).map(str::trim);
        let wrongly: Vec<&str> = skipped.filter(|name| !SKIPPED.iter().any(|known| name.contains(known))).collect();
        assert!(wrongly.is_empty(), "passed over without a reason: {wrongly:?}");
        // And what all these files and pipes left behind is published.
        node.stored(node.mount());
    }
}

/// Operations of one run of fsx.
const FSX_OPERATIONS_MAX: u64 = 100_000;

#[test]
fn random_operations_on_a_file_agree_with_a_copy_in_memory() {
    require_fuse();
    let Some(fsx) = program("fsx", "0.3.2") else { return };
    // The long form: TORNET_FSX_OPERATIONS=1000000.
    let operations: u64 = std::env::var("TORNET_FSX_OPERATIONS").map_or(5000, |text| text.parse().unwrap());
    for options in ["rw", "nopassthrough", "writeback"] {
        let lab = Lab::new();
        let node = Plan::new("a").mounted().option(options).start(&lab);
        for seed in [u64::from(std::process::id()), 1] {
            let path = node.path(format!("file{seed}"));
            // fsx takes back no map that it made, and the kernel gives it some 65,000.
            for part in 0..operations.div_ceil(FSX_OPERATIONS_MAX) {
                let (seed, count) = (seed + part, FSX_OPERATIONS_MAX.min(operations - part * FSX_OPERATIONS_MAX));
                println!("-o {options}: seed {seed}, {count} operations");
                let mut command = Command::new(&fsx);
                command.arg("-S").arg(seed.to_string()).arg("-N").arg(count.to_string()).arg(&path);
                let output = command.current_dir(lab.dir()).stdin(Stdio::null()).output().unwrap();
                assert!(output.status.success(), "{}", printed(&output));
            }
            // What is published is what the file came to.
            let reference = node.stored(&path);
            assert!(fs::read(node.reference(&reference)).unwrap() == fs::read(&path).unwrap(), "published as it is");
        }
    }
}
