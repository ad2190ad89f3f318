//! The whole system through real processes and mounts, beside its peers where they are installed.
//!
//! `cargo bench --bench system` measures 1 GiB and 10,000 files and takes some minutes; `TORNET_BENCH_SHORT=1` measures little,
//! for CI, and fails where a work is far slower, in proportion to this machine's own file system, than it used to be. `TORNET_BENCH_ONLY=fetch,tree` chooses parts (publish, fetch, account, tahoe, read, tree, local, start, wan, of which wan-fetch and wan-read are parts). `TORNET_BENCH_ALONE=1` leaves the peers out, `TORNET_BENCH_ROUNDS=1` says of how many rounds the median is taken (3). `TORNET_BENCH_TRACE=1` shows what each source of a fetch over the WAN sent, every 100 ms. `TMPDIR` says where everything lies; by default `/dev/shm` where it has room, so that nobody's disk is measured.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, unreachable_pub)]

mod account;
mod coded;
#[path = "../../fs-tests/harness/mod.rs"]
mod harness;
mod local;
mod measure;
mod peers;
mod table;
mod wan;

use coded::{Sendme, Tahoe};
use harness::Lab;
use harness::node::{Node, Plan, READER};
use harness::tree::{self, Dice};
use measure::{cpu_of, drop_caches, median, memory_of, run, seconds};
use peers::{Over, Place, Ssh, Torrent};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use table::{Better, DISK, Table};

const GIB: f64 = (1u64 << 30) as f64;
const MB: f64 = 1e6;

/// Most resident memory that a node may need, MiB.
const MEMORY_MAX: f64 = 200.0;

/// The short form refuses what is slower than this many times the local file system in the same run: a quarter of the lesser of two
/// runs of it on 2 quiet cores (2026-11-27 and 28), so that only gross losses show.
const FLOORS: [(&str, f64); 13] = [
    ("publish file", 0.07),
    ("publish file by cp to the mount", 0.012),
    ("publish tree of 10 KiB files", 0.15),
    ("publish tree by cp to the mount", 0.005),
    ("fetch file from 1", 0.04),
    ("sequential read, cold", 0.005),
    ("sequential read, warm", 0.2),
    ("ls -lR of the tree, cold", 0.085),
    ("tar of the tree, cold", 0.009),
    ("write by 1 MiB", 0.19),
    ("read by 1 MiB, again", 0.18),
    ("create files, 4 threads", 0.018),
    ("stat of these files, again", 0.14),
];

/// A part of the bench by its name.
type Part = (&'static str, fn(&mut Bench));

struct Bench {
    /// Ends before the lab, which looks for what was left behind.
    ssh: Option<Ssh>,
    lab: Lab,
    file: PathBuf,
    file_bytes: u64,
    tree: PathBuf,
    tree_files: usize,
    rounds: usize,
    short: bool,
    table: Table,
}

fn main() {
    // `cargo test --benches` calls us with this: nothing to do then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let short = std::env::var_os("TORNET_BENCH_SHORT").is_some();
    if std::env::var_os("TMPDIR").is_none() && room("/dev/shm") > 10 << 30 {
        harness::set_base(Path::new("/dev/shm"));
    }
    harness::require_fuse();
    let lab = Lab::new();
    let file_bytes: u64 = if short { 64 << 20 } else { 1 << 30 };
    let tree_files = if short { 500 } else { 10_000 };
    let file = lab.make_dir("source").join("film");
    make_file(&file, file_bytes);
    let tree = lab.make_dir("tree");
    tree::make_many(&tree, tree_files, 10_240);
    let ssh = Ssh::new(lab.dir(), Place::here(1), Place::here(1));
    let rounds = std::env::var("TORNET_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3).max(1);
    let mut bench = Bench { lab, file, file_bytes, tree, tree_files, rounds, short, ssh, table: Table::default() };
    let only = std::env::var("TORNET_BENCH_ONLY").unwrap_or_default();
    let parts: [Part; 10] = [
        ("publish", Bench::publish),
        ("fetch", Bench::fetch),
        ("account", Bench::account),
        ("tahoe", Bench::tahoe),
        ("read", Bench::read),
        ("tree", Bench::tree),
        ("local", Bench::local),
        ("start", Bench::start),
        ("wan-fetch", Bench::wan_fetch),
        ("wan-read", Bench::wan_read),
    ];
    let mut failed = Vec::new();
    for (name, part) in parts {
        // What one part or peer cannot do takes no other's figures away.
        let group = name.split('-').next().unwrap_or(name);
        let chosen = if only.is_empty() {
            !short || !["wan", "account"].contains(&group)
        } else {
            only.split(',').any(|word| word == name || word == group)
        };
        if chosen && catch_unwind(AssertUnwindSafe(|| part(&mut bench))).is_err() {
            failed.push(name);
        }
    }
    println!();
    println!(
        "tornet, encrypted, verified and coded 8+4, through real processes on loopback; file of {} MiB, tree of {tree_files} files",
        file_bytes >> 20
    );
    println!();
    bench.table.print();
    let mut slow = if short { bench.table.below(&FLOORS) } else { Vec::new() };
    slow.retain(|_| only.is_empty());
    for one in &slow {
        eprintln!("too slow: {one}");
    }
    if !failed.is_empty() {
        eprintln!("not measured to the end: {}", failed.join(", "));
    }
    if !failed.is_empty() || !slow.is_empty() {
        drop(bench);
        std::process::exit(1);
    }
}

/// A node that hosts nothing, so that only what is measured goes over the line.
fn reader() -> Plan {
    Plan::new("reader").config(READER)
}

fn room(dir: &str) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |info| info.f_bavail * info.f_frsize)
}

fn make_file(path: &Path, bytes: u64) {
    let mut file = fs::File::create(path).unwrap();
    for part in 0..bytes >> 20 {
        file.write_all(&tree::noise(part, 1 << 20)).unwrap();
    }
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    assert!(Command::new("cmp").arg("-s").arg(a).arg(b).status().unwrap().success(), "{} differs", b.display());
}

impl Bench {
    /// A node with an empty data directory.
    fn fresh(&self, plan: Plan) -> Node {
        plan.start(&self.lab)
    }

    fn forget(&self, node: Node) {
        let home = node.home.clone();
        drop(node);
        let _ = fs::remove_dir_all(home);
    }

    fn rounds(&self, mut one: impl FnMut(&Bench) -> f64) -> f64 {
        let mut all: Vec<f64> = (0..self.rounds).map(|_| one(self)).collect();
        median(&mut all)
    }

    /// The same for a peer with a directory of its own each time; `None` where it is not installed.
    fn rounds_of(&self, mut one: impl FnMut(&Bench, &Path) -> Option<f64>) -> Option<f64> {
        let mut all = Vec::new();
        for _ in 0..self.rounds {
            let dir = self.lab.path("peer");
            all.push(one(self, &dir)?);
            let _ = fs::remove_dir_all(dir);
        }
        Some(median(&mut all))
    }

    fn over(&self) -> Vec<(Over, bool)> {
        Over::ALL.into_iter().map(|over| (over, self.ssh.as_ref().is_some_and(|ssh| ssh.has(over)))).collect()
    }

    fn publish(&mut self) {
        let bytes = self.file_bytes as f64;
        let (mut cpu, mut memory) = (Vec::new(), Vec::new());
        let rate = self.rounds(|bench| {
            let node = bench.fresh(Plan::new("publisher"));
            let took = run(node.command(&["publish"]).arg(&bench.file)).0;
            cpu.push(cpu_of(node.pid()) / bytes * GIB);
            memory.push(memory_of(node.pid()));
            bench.forget(node);
            bytes / MB / took
        });
        self.table.row("publish file", "MB/s", Better::More, rate, None);
        let (file, copy) = (self.file.clone(), self.lab.path("copy"));
        let disk = self.rounds(|_| bytes / MB / copied(&file, &copy));
        self.table.peer("publish file", "MB/s", DISK, Some(disk));
        let torrent = self.lab.path("made.torrent");
        let libtorrent = peers::torrent_make(&self.file, &torrent, "").map(|took| bytes / MB / took);
        self.table.peer("publish file", "MB/s", "libtorrent", libtorrent);
        for (over, there) in self.over() {
            let figure = there.then(|| bytes / MB / self.ssh.as_ref().unwrap().publish(over, &self.file));
            self.table.peer("publish file", "MB/s", over.name(), figure);
        }
        let sendme = self.rounds_of(|bench, dir| Some(bytes / MB / Sendme::new(&bench.file, dir)?.seconds));
        self.table.peer("publish file", "MB/s", "sendme", sendme);
        self.table.row("publish file: CPU", "s/GiB", Better::Less, median(&mut cpu), None);
        self.table.row("publish file: memory", "MiB", Better::Less, median(&mut memory), Some(MEMORY_MAX));

        let rate = self.rounds(|bench| {
            let node = bench.fresh(Plan::new("publisher").mounted());
            let copy = node.path("film");
            let took = seconds(|| {
                run(Command::new("cp").arg(&bench.file).arg(&copy));
                node.stored(&copy);
            });
            bench.forget(node);
            bytes / MB / took
        });
        self.table.row("publish file by cp to the mount", "MB/s", Better::More, rate, None);
        self.table.peer("publish file by cp to the mount", "MB/s", DISK, Some(disk));

        let files = self.tree_files as f64;
        let rate = self.rounds(|bench| {
            let node = bench.fresh(Plan::new("publisher"));
            let took = run(node.command(&["publish"]).arg(&bench.tree)).0;
            bench.forget(node);
            files / took
        });
        self.table.row("publish tree of 10 KiB files", "files/s", Better::More, rate, Some(5000.0));
        let tree = self.tree.clone();
        let disk = self.rounds(|_| files / copied(&tree, &copy));
        self.table.peer("publish tree of 10 KiB files", "files/s", DISK, Some(disk));
        let libtorrent = peers::torrent_make(&self.tree, &torrent, "").map(|took| files / took);
        self.table.peer("publish tree of 10 KiB files", "files/s", "libtorrent", libtorrent);
        for (over, there) in self.over() {
            let figure = there.then(|| files / self.ssh.as_ref().unwrap().publish(over, &self.tree));
            self.table.peer("publish tree of 10 KiB files", "files/s", over.name(), figure);
        }
        let sendme = self.rounds_of(|bench, dir| Some(files / Sendme::new(&bench.tree, dir)?.seconds));
        self.table.peer("publish tree of 10 KiB files", "files/s", "sendme", sendme);
        let took = self.rounds(|bench| {
            let node = bench.fresh(Plan::new("publisher").mounted());
            let took = seconds(|| {
                run(Command::new("cp").arg("-r").arg(&bench.tree).arg(node.path("tree")));
                node.stored(&node.path("tree"));
            });
            bench.forget(node);
            files / took
        });
        self.table.row("publish tree by cp to the mount", "files/s", Better::More, took, None);
        self.table.peer("publish tree by cp to the mount", "files/s", DISK, Some(disk));
    }

    fn fetch(&mut self) {
        let bytes = self.file_bytes as f64;
        let first = self.fresh(Plan::new("s0"));
        let reference = first.publish(&self.file);
        let mut sources = vec![first];
        for count in [1usize, 4] {
            while sources.len() < count {
                let more = self.fresh(Plan::new(&format!("s{}", sources.len())).config(READER).knows(&sources[0]));
                more.tornet(&["pin", &reference]);
                sources.push(more);
            }
            let work = format!("fetch file from {count}");
            let (mut cpu, mut memory, mut server) = (Vec::new(), Vec::new(), Vec::new());
            let rate = self.rounds(|bench| {
                let plan = sources.iter().fold(reader(), |plan, source| plan.knows(source));
                let reader = bench.fresh(plan);
                let dest = bench.lab.path("got");
                let all = || sources.iter().map(|node| cpu_of(node.pid())).sum::<f64>() + cpu_of(reader.pid());
                let before = all();
                let (took, own) = run(reader.command(&["get", &reference]).arg(&dest));
                cpu.push((all() - before + own) / bytes * GIB);
                memory.push(memory_of(reader.pid()));
                server.push(sources.iter().map(|node| memory_of(node.pid())).fold(0.0, f64::max));
                same(&bench.file, &dest);
                fs::remove_file(dest).unwrap();
                bench.forget(reader);
                bytes / MB / took
            });
            let figures = [
                (work.clone(), "MB/s", Better::More, rate, None),
                (format!("{work}: CPU"), "s/GiB", Better::Less, median(&mut cpu), None),
                (format!("{work}: memory, reader"), "MiB", Better::Less, median(&mut memory), Some(MEMORY_MAX)),
                (format!("{work}: memory, server"), "MiB", Better::Less, median(&mut server), Some(MEMORY_MAX)),
            ];
            for (work, unit, better, figure, aim) in figures {
                self.table.row(work, unit, better, figure, aim);
            }
            let (file, copy) = (self.file.clone(), self.lab.path("copy"));
            let disk = self.rounds(|_| bytes / MB / copied(&file, &copy));
            self.table.peer(&work, "MB/s", DISK, Some(disk));
            let dest = self.lab.make_dir("got-peer");
            let places: Vec<Place> = (0..count).map(|place| Place::here(11 + place as u8)).collect();
            let torrent = Torrent::new(&self.file, self.lab.dir(), &places, Place::here(1));
            for name in ["aria2", "libtorrent"] {
                let mut fetched = Vec::new();
                for _ in 0..self.rounds {
                    let one = torrent.as_ref().and_then(|torrent| match name {
                        "aria2" => torrent.fetch_aria2(&dest),
                        _ => Some(torrent.fetch(&dest)),
                    });
                    if let Some(one) = one {
                        same(&self.file, &dest.join("film"));
                        fetched.push(one);
                    }
                    let _ = fs::remove_dir_all(&dest);
                    fs::create_dir_all(&dest).unwrap();
                }
                self.fetched(&work, name, &fetched);
            }
            drop(torrent);
            if count == 1 {
                let mut fetched = Vec::new();
                if let Some(sendme) = Sendme::new(&self.file, &self.lab.path("sendme")) {
                    for _ in 0..self.rounds {
                        fetched.push(sendme.fetch(&dest));
                        same(&self.file, &dest.join("film"));
                        let _ = fs::remove_dir_all(&dest);
                        fs::create_dir_all(&dest).unwrap();
                    }
                }
                let _ = fs::remove_dir_all(self.lab.path("sendme"));
                self.fetched(&work, "sendme", &fetched);
                for (over, there) in self.over() {
                    let mut fetched = Vec::new();
                    for _ in 0..if there { self.rounds } else { 0 } {
                        fetched.push(self.ssh.as_ref().unwrap().fetch(over, &self.file, &dest));
                        same(&self.file, &dest.join("film"));
                        fs::remove_file(dest.join("film")).unwrap();
                    }
                    self.fetched(&work, over.name(), &fetched);
                }
            }
        }
        for source in sources {
            self.forget(source);
        }
    }

    fn fetched(&mut self, work: &str, name: &'static str, all: &[peers::Fetched]) {
        let bytes = self.file_bytes as f64;
        let middle = |value: fn(&peers::Fetched) -> f64| {
            let mut values: Vec<f64> = all.iter().map(value).collect();
            (!values.is_empty()).then(|| median(&mut values))
        };
        self.table.peer(work, "MB/s", name, middle(|one| one.seconds).map(|took| bytes / MB / took));
        self.table.peer(&format!("{work}: CPU"), "s/GiB", name, middle(|one| one.cpu).map(|cpu| cpu / bytes * GIB));
        self.table.peer(&format!("{work}: memory, reader"), "MiB", name, middle(|one| one.memory));
        self.table.peer(&format!("{work}: memory, server"), "MiB", name, middle(|one| one.memory_server));
    }

    /// The peer that is coded, too, beside the rows that are there already.
    fn tahoe(&mut self) {
        let dir = self.lab.path("tahoe");
        let Some(grid) = Tahoe::new(&dir) else { return };
        let part = self.lab.path("part");
        let bytes = self.file_bytes.min(128 << 20);
        make_file(&part, bytes);
        let (rate, gib) = (bytes as f64 / MB, GIB / bytes as f64);
        let (seconds, cpu, cap) = grid.publish(&part);
        self.table.peer("publish file", "MB/s", "tahoe", Some(rate / seconds));
        self.table.peer("publish file: CPU", "s/GiB", "tahoe", Some(cpu * gib));
        let count = self.tree_files.min(100);
        let seconds = grid.publish_many(&self.tree, count);
        self.table.peer("publish tree of 10 KiB files", "files/s", "tahoe", Some(count as f64 / seconds));
        let dest = self.lab.path("got-tahoe");
        let fetched = grid.fetch(&cap, &dest);
        same(&part, &dest);
        for count in [1, 4] {
            let work = format!("fetch file from {count}");
            self.table.peer(&work, "MB/s", "tahoe", Some(rate / fetched.seconds));
            self.table.peer(&format!("{work}: CPU"), "s/GiB", "tahoe", Some(fetched.cpu * gib));
            self.table.peer(&format!("{work}: memory, reader"), "MiB", "tahoe", Some(fetched.memory));
            self.table.peer(&format!("{work}: memory, server"), "MiB", "tahoe", Some(fetched.memory_server));
        }
        drop(grid);
        for path in [part, dest] {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_dir_all(dir);
    }

    fn read(&mut self) {
        let source = self.fresh(Plan::new("origin"));
        let reference = source.publish(&self.file);
        let cold = |bench: &Bench| {
            let reader = bench.fresh(reader().mounted().knows(&source));
            drop_caches();
            let path = reader.reference(&reference);
            (reader, path)
        };
        let mut seek = Vec::new();
        // Short, so that another process's moment shows: many rounds.
        let mut firsts: Vec<f64> = (0..5 * self.rounds)
            .map(|_| {
                let (reader, path) = cold(self);
                let took = first_bytes(&path, 0);
                seek.push(first_bytes(&path, self.file_bytes * 7 / 10) * 1e3);
                self.forget(reader);
                took * 1e3
            })
            .collect();
        let first = median(&mut firsts);
        self.table.row("first 64 KiB of a cold file", "ms", Better::Less, first, None);
        self.table.row("64 KiB at another place then", "ms", Better::Less, median(&mut seek), None);
        for (name, size) in [("random 4 KiB, cold, median", 4096), ("random 64 KiB, cold, median", 65_536)] {
            let figure = self.rounds(|bench| {
                let (reader, path) = cold(bench);
                let figure = random_reads(&path, bench.file_bytes, size) * 1e3;
                bench.forget(reader);
                figure
            });
            self.table.row(name, "ms", Better::Less, figure, None);
        }
        let mut warm = Vec::new();
        let sequential = self.rounds(|bench| {
            let (reader, path) = cold(bench);
            let figure = whole(&path);
            warm.push(whole(&path));
            bench.forget(reader);
            figure
        });
        self.table.row("sequential read, cold", "MB/s", Better::More, sequential, None);
        self.table.row("sequential read, warm", "MB/s", Better::More, median(&mut warm), None);
        let disk = self.rounds(|bench| whole(&bench.file));
        self.table.peer("sequential read, cold", "MB/s", DISK, Some(disk));
        self.table.peer("sequential read, warm", "MB/s", DISK, Some(disk));
        self.forget(source);

        for (over, there) in self.over() {
            let name = over.name();
            if !there {
                for (work, unit) in [
                    ("first 64 KiB of a cold file", "ms"),
                    ("64 KiB at another place then", "ms"),
                    ("random 4 KiB, cold, median", "ms"),
                    ("random 64 KiB, cold, median", "ms"),
                    ("sequential read, cold", "MB/s"),
                    ("sequential read, warm", "MB/s"),
                ] {
                    self.table.peer(work, unit, name, None);
                }
                continue;
            }
            let mount = |bench: &Bench| {
                drop_caches();
                let mount = bench.ssh.as_ref().unwrap().mount(over, bench.file.parent().unwrap());
                let path = mount.point.join("film");
                (mount, path)
            };
            let mut seek = Vec::new();
            let first = self.rounds(|bench| {
                let (_mount, path) = mount(bench);
                let took = first_bytes(&path, 0);
                seek.push(first_bytes(&path, bench.file_bytes * 7 / 10) * 1e3);
                took * 1e3
            });
            self.table.peer("first 64 KiB of a cold file", "ms", name, Some(first));
            self.table.peer("64 KiB at another place then", "ms", name, Some(median(&mut seek)));
            for (work, size) in [("random 4 KiB, cold, median", 4096), ("random 64 KiB, cold, median", 65_536)] {
                let figure = self.rounds(|bench| {
                    let (_mount, path) = mount(bench);
                    random_reads(&path, bench.file_bytes, size) * 1e3
                });
                self.table.peer(work, "ms", name, Some(figure));
            }
            let mut warm = Vec::new();
            let sequential = self.rounds(|bench| {
                let (_mount, path) = mount(bench);
                let figure = whole(&path);
                warm.push(whole(&path));
                figure
            });
            self.table.peer("sequential read, cold", "MB/s", name, Some(sequential));
            self.table.peer("sequential read, warm", "MB/s", name, Some(median(&mut warm)));
        }
    }

    fn start(&mut self) {
        let once = |bench: &Bench| {
            let point = bench.lab.make_dir("reader/net");
            let took = run(&mut reader().mounted().background(&bench.lab)).0;
            assert_eq!(harness::mounts_below(&point).len(), 1);
            let mut umount = Command::new(harness::TORNET);
            umount.arg("--data-dir").arg(bench.lab.path("reader/data")).arg("umount").arg(&point);
            run(umount.env("HOME", bench.lab.path("reader")));
            harness::until("the node has ended", || {
                harness::processes_naming(&bench.lab.path("reader")).is_empty().then_some(())
            });
            took * 1e3
        };
        let empty = self.rounds(|bench| {
            let _ = fs::remove_dir_all(bench.lab.path("reader"));
            once(bench)
        });
        let work = "start to a served mount, empty";
        self.table.row(work, "ms", Better::Less, empty, Some(300.0));
        for (over, there) in self.over() {
            let figure = there.then(|| {
                self.rounds(|bench| bench.ssh.as_ref().unwrap().mount(over, bench.file.parent().unwrap()).seconds * 1e3)
            });
            self.table.peer(work, "ms", over.name(), figure);
        }
        let _ = fs::remove_dir_all(self.lab.path("reader"));
        let mut reader = self.fresh(reader());
        reader.publish(&self.file);
        reader.publish(&self.tree);
        reader.stop();
        let full = self.rounds(once);
        self.table.row("start to a served mount, full store", "ms", Better::Less, full, Some(300.0));
        self.forget(reader);
    }
}

/// Seconds from the open to the first 64 KiB at an offset.
fn first_bytes(path: &Path, offset: u64) -> f64 {
    seconds(|| {
        let mut bytes = vec![0; 65_536];
        fs::File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    })
}

/// Median seconds of 200 reads of `size` bytes at random places.
fn random_reads(path: &Path, length: u64, size: usize) -> f64 {
    let file = fs::File::open(path).unwrap();
    // Programs that read at random say so, or the kernel reads ahead for them; the same for every peer.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
    let mut bytes = vec![0; size];
    let mut dice = Dice(7);
    let mut all: Vec<f64> = (0..200)
        .map(|_| {
            let offset = dice.below((length - size as u64) / 4096) * 4096;
            seconds(|| file.read_exact_at(&mut bytes, offset).unwrap())
        })
        .collect();
    median(&mut all)
}

/// MB/s of reading a file from front to end in pieces of 1 MiB.
fn whole(path: &Path) -> f64 {
    let mut file = fs::File::open(path).unwrap();
    let mut bytes = vec![0; 1 << 20];
    let mut total = 0;
    let took = seconds(|| {
        loop {
            match file.read(&mut bytes).unwrap() {
                0 => break,
                count => total += count,
            }
        }
    });
    total as f64 / MB / took
}

/// Seconds of a copy on the local disk, which is gone afterwards.
fn copied(from: &Path, to: &Path) -> f64 {
    let took = run(Command::new("cp").arg("-r").arg(from).arg(to)).0;
    let removed = if from.is_dir() { fs::remove_dir_all(to) } else { fs::remove_file(to) };
    removed.unwrap();
    took
}

fn in_directory(dir: &Path, line: &str) -> f64 {
    run(Command::new("sh").args(["-euc", line]).current_dir(dir)).0
}
