//! The own tree through its mount, beside the file system below it and beside mounts of peers that serve a directory of this machine:
//! what a program feels that works in it.

use super::harness::installed;
use super::harness::node::Plan;
use super::harness::tree::{Dice, noise};
use super::measure::{forget_all, median, seconds};
use super::table::{Better, DISK};
use super::{Bench, MB, in_directory, reader, whole};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How much is done.
struct Size {
    /// Length of the file that is written and read, bytes.
    bytes: u64,
    /// The same where it is written in small pieces.
    pieces_bytes: u64,
    /// Files that are made, and looked at.
    files: usize,
    /// Reads at random places.
    reads: usize,
}

const WHOLE: Size = Size { bytes: 512 << 20, pieces_bytes: 64 << 20, files: 10_000, reads: 20_000 };
const SHORT: Size = Size { bytes: 64 << 20, pieces_bytes: 16 << 20, files: 1_000, reads: 5_000 };

/// A work in a directory that is empty but for what those before it left there.
struct Work {
    name: &'static str,
    unit: &'static str,
    better: Better,
    /// What it should reach here, as the design has it.
    aim: Option<f64>,
    /// Gives its figure.
    run: fn(&Path, &Size) -> f64,
}

const fn rate(name: &'static str, unit: &'static str, aim: Option<f64>, run: fn(&Path, &Size) -> f64) -> Work {
    Work { name, unit, better: Better::More, aim, run }
}

const WORKS: [Work; 9] = [
    rate("write by 1 MiB", "MB/s", Some(800.0), |dir, size| written(dir, size.bytes, 1 << 20)),
    rate("write by 4 KiB", "MB/s", None, |dir, size| written(dir, size.pieces_bytes, 4096)),
    rate("read by 1 MiB, again", "MB/s", None, |dir, size| whole(&read_file(dir, size))),
    rate("random 4 KiB, again", "1/s", None, |dir, size| random(dir, size, 1)),
    rate("random 4 KiB, again, 4 threads", "1/s", None, |dir, size| random(dir, size, 4)),
    rate("create files, 1 thread", "1/s", None, |dir, size| created(dir, size, 1)),
    rate("create files, 4 threads", "1/s", Some(40_000.0), |dir, size| created(dir, size, 4)),
    Work { name: "ls -l of these files, first", unit: "ms", better: Better::Less, aim: Some(100.0), run: listed },
    rate("stat of these files, again", "1/s", None, looked_at),
];

fn written(dir: &Path, bytes: u64, piece: usize) -> f64 {
    let pieces: Vec<Vec<u8>> = (0..16).map(|place| noise(place, piece)).collect();
    let path = dir.join("written");
    let _ = fs::remove_file(&path);
    let took = seconds(|| {
        let mut file = File::create(&path).unwrap();
        for place in 0..bytes / piece as u64 {
            file.write_all(&pieces[place as usize % pieces.len()]).unwrap();
        }
    });
    bytes as f64 / MB / took
}

/// The file that is read, and was once already.
fn read_file(dir: &Path, size: &Size) -> PathBuf {
    let path = dir.join("read");
    if !path.exists() {
        let mut file = File::create(&path).unwrap();
        (0..size.bytes >> 20).for_each(|place| file.write_all(&noise(place, 1 << 20)).unwrap());
        drop(file);
        whole(&path);
    }
    path
}

fn random(dir: &Path, size: &Size, threads: usize) -> f64 {
    let path = read_file(dir, size);
    let read = |seed: usize| {
        let (file, mut bytes) = (File::open(&path).unwrap(), [0; 4096]);
        let mut dice = Dice(seed as u64 + 1);
        for _ in 0..size.reads {
            file.read_exact_at(&mut bytes, dice.below(size.bytes / 4096) * 4096).unwrap();
        }
    };
    (size.reads * threads) as f64 / seconds(|| at_once(threads, read))
}

fn created(dir: &Path, size: &Size, threads: usize) -> f64 {
    let dirs: Vec<_> = (0..threads).map(|thread| dir.join(format!("made-{threads}-{thread}"))).collect();
    for dir in &dirs {
        // rclone takes names away some time after it has said so.
        let made = (0..100).any(|again| {
            thread::sleep(Duration::from_millis(300) * again.min(1));
            let _ = fs::remove_dir_all(dir);
            fs::create_dir(dir).is_ok()
        });
        assert!(made, "{} cannot be made anew", dir.display());
    }
    let each = size.files / threads;
    let make = |thread: usize| (0..each).for_each(|place| drop(File::create(dirs[thread].join(name(place))).unwrap()));
    (each * threads) as f64 / seconds(|| at_once(threads, make))
}

fn name(place: usize) -> String {
    format!("{place:05}")
}

fn listed(dir: &Path, _: &Size) -> f64 {
    forget_all();
    in_directory(&dir.join("made-1-0"), "ls -l . | tail -1") * 1e3
}

fn looked_at(dir: &Path, size: &Size) -> f64 {
    let names: Vec<_> = (0..size.files).map(|place| dir.join("made-1-0").join(name(place))).collect();
    let look = || assert!(names.iter().all(|name| fs::symlink_metadata(name).is_ok()));
    look();
    // Longer than the second for which many mounts remember.
    thread::sleep(Duration::from_millis(1100));
    size.files as f64 / seconds(look)
}

fn at_once(threads: usize, work: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
}

impl Bench {
    /// Each work `rounds` times in one directory; the medians.
    fn worked(&self, dir: &Path) -> Vec<f64> {
        fs::create_dir_all(dir).unwrap();
        let size = if self.short { &SHORT } else { &WHOLE };
        let figures = WORKS.iter().map(|work| self.rounds(|_| (work.run)(dir, size))).collect();
        let _ = fs::remove_dir_all(dir);
        figures
    }

    pub(super) fn local(&mut self) {
        let disk = self.worked(&self.lab.path("disk"));
        // As it is mounted unless told otherwise, and where the kernel may not read and write by itself or gathers writes.
        for option in ["", "nopassthrough", "writeback"] {
            let node =
                self.fresh(if option.is_empty() { reader().mounted() } else { reader().mounted().option(option) });
            let figures = self.worked(&node.path("work"));
            self.forget(node);
            for ((work, figure), disk) in WORKS.iter().zip(figures).zip(&disk) {
                let name =
                    if option.is_empty() { work.name.to_string() } else { format!("{} (-o {option})", work.name) };
                self.table.row(name.clone(), work.unit, work.better, figure, work.aim);
                self.table.peer(&name, work.unit, DISK, Some(*disk));
            }
        }
        for (over, there) in self.over() {
            let figures = there.then(|| {
                let served = self.lab.make_dir("served");
                let mount = self.ssh.as_ref().unwrap().mount(over, &served);
                let figures = self.worked(&mount.point.join("work"));
                drop(mount);
                let _ = fs::remove_dir_all(served);
                figures
            });
            for (place, work) in WORKS.iter().enumerate() {
                self.table.peer(work.name, work.unit, over.name(), figures.as_ref().map(|figures| figures[place]));
            }
        }
    }

    /// A walk through a published tree and the same again, cold and warm, and what git makes of it.
    pub(super) fn tree(&mut self) {
        let repository = self.lab.make_dir("repository");
        let line = "cp -r \"$0/.\" \"$1\" && cd \"$1\" && git init -q . && git add . && git -c user.name=a -c user.email=a@b commit -qm all";
        if installed("git") {
            super::run(std::process::Command::new("sh").args(["-euc", line]).arg(&self.tree).arg(&repository));
        }
        // By times and sizes alone, as numbers of inodes are other ones in another place.
        let git = "GIT_OPTIONAL_LOCKS=0 git -c safe.directory='*' -c core.checkStat=minimal -c core.trustctime=false status --porcelain";
        let mut works = vec![
            ("find in the tree", "find . | wc -l", None),
            ("ls -lR of the tree", "ls -lR . | tail -1", None),
            ("tar of the tree", "tar c . | cat > /dev/null", Some(2.0)),
            ("git status of the tree", git, None),
        ];
        works.retain(|(_, line, _)| *line != git || installed("git"));
        let source = self.fresh(Plan::new("origin"));
        let (plain, versioned) = (source.publish(&self.tree), source.publish(&repository));
        let of = |line: &str| line == git;
        let names = |name: &str| [format!("{name}, cold"), format!("{name}, warm")];
        for &(name, line, aim) in &works {
            let reference = if of(line) { &versioned } else { &plain };
            let mut warm = Vec::new();
            let cold = self.rounds(|bench| {
                let reader = bench.fresh(reader().mounted().knows(&source));
                super::drop_caches();
                let took = in_directory(&reader.reference(reference), line);
                warm.push(in_directory(&reader.reference(reference), line));
                bench.forget(reader);
                took
            });
            let local = if of(line) { &repository } else { &self.tree };
            let disk = self.rounds(|_| in_directory(local, line));
            for (name, (figure, aim)) in names(name).into_iter().zip([(cold, aim), (median(&mut warm), None)]) {
                self.table.row(name.clone(), "s", Better::Less, figure, aim);
                self.table.peer(&name, "s", DISK, Some(disk));
            }
        }
        self.forget(source);
        for (over, there) in self.over() {
            for &(name, line, _) in &works {
                let local = if of(line) { &repository } else { &self.tree };
                let mut warm = Vec::new();
                let cold = there.then(|| {
                    self.rounds(|bench| {
                        super::drop_caches();
                        let mount = bench.ssh.as_ref().unwrap().mount(over, local);
                        let took = in_directory(&mount.point, line);
                        warm.push(in_directory(&mount.point, line));
                        took
                    })
                });
                for (name, figure) in names(name).iter().zip([cold, there.then(|| median(&mut warm))]) {
                    self.table.peer(name, "s", over.name(), figure);
                }
            }
        }
        let _ = fs::remove_dir_all(repository);
    }
}
