//! Over a long way: 25 ms in each direction, sources with lines of 100 Mbit/s that lose 1 % of what they send.

use super::harness::machine::possible;
use super::harness::node::{Node, Plan, READER};
use super::harness::wan::{Line, Wan};
use super::peers::{Over, Place, Ssh, Torrent};
use super::table::Better;
use super::{Bench, MB, in_directory, make_file, random_reads, same, tree};
use crate::measure::{drop_caches, median, seconds};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const LINE: Line = Line { delay: Duration::from_millis(25), rate: 12.5e6, loss: 100 };
const SOURCES: usize = 4;
/// How often it is shown what came.
const TRACED: Duration = Duration::from_millis(100);
const FETCH: &str = "WAN: fetch 100 MiB from 4";
const LONGER: &str = "WAN: longer with 2 of 4 cut off";
const LOST: &str = "WAN: of that lost";
/// Part of a line that its packets fill; the rest are frames around them.
const PACKETS: f64 = 1480.0 / 1518.0;
const MOUNT: &str = "WAN: read 100 MiB from 4, mounted";
const RANDOM: &str = "WAN: random 4 KiB, cold, median";
const TREE: &str = "WAN: tar of 2,000 files of 5 kB";
/// Directories of that tree, files in each, and how many directories a peer walks, for which each file is some round trips.
const DIRECTORIES: usize = 100;
const FILES: usize = 20;
const DIRECTORIES_PEER: usize = 10;
/// Seconds that a peer gets for them.
const PEER_MAX: &str = "150";

/// A fetch: how long it took, and bytes that came until its end, and until sources were cut off.
struct Fetched {
    seconds: f64,
    carried: f64,
    at_cut: f64,
}

/// Sources at the end of a long way, and what they hold.
struct Far {
    wan: Wan,
    sources: Vec<Node>,
    film: PathBuf,
    reference: String,
}

impl Bench {
    /// A file of 100 MiB on four sources.
    fn far(&mut self) -> Far {
        let bytes = 100 << 20;
        let dir = self.lab.make_dir("far");
        let film = dir.join("film");
        make_file(&film, bytes);
        let wan = Wan::new(LINE, SOURCES);
        let mut sources: Vec<Node> = Vec::new();
        for number in 0..SOURCES {
            let (network, ip) = wan.source(number);
            let plan = Plan::new(&format!("far{number}")).config(READER).network(network).listen(&format!("{ip}:0"));
            sources.push(self.fresh(sources.iter().fold(plan, |plan, source| plan.knows(source))));
        }
        let reference = sources[0].publish(&film);
        for source in &sources[1..] {
            source.tornet(&["pin", &reference]);
        }
        Far { wan, sources, film, reference }
    }

    fn gone(&self, far: Far) {
        for source in far.sources {
            self.forget(source);
        }
    }

    /// A reader at its end of the way, which knows some of the sources.
    fn far_reader(&self, wan: &Wan, sources: &[Node], mounted: bool) -> Node {
        let (network, ip) = wan.reader();
        let plan = Plan::new("reader").config(READER).network(network).listen(&format!("{ip}:0"));
        let plan = sources.iter().fold(plan, |plan, source| plan.knows(source));
        self.fresh(if mounted { plan.mounted() } else { plan })
    }

    pub(super) fn wan_fetch(&mut self) {
        if !possible() {
            return;
        }
        let far = self.far();
        far.wan.shape(true);
        let Far { wan, sources, film, reference } = &far;
        let bytes = fs::metadata(film).unwrap().len() as f64;
        let dest = self.lab.make_dir("got-far");
        let got = dest.join("film");
        // One fetch; after so many seconds of it two sources are cut off, if that is asked for.
        let fetched = |work: &mut dyn FnMut(), cut: Option<f64>| {
            wan.cut(&[]);
            let sum = || wan.carried().0.iter().sum::<u64>() as f64;
            let before = sum();
            let at_cut = Mutex::new(0.0);
            let seconds = thread::scope(|scope| {
                if let Some(after) = cut {
                    let (at_cut, sum) = (&at_cut, &sum);
                    scope.spawn(move || {
                        thread::sleep(Duration::from_secs_f64(after));
                        wan.cut(&[0, 1]);
                        *at_cut.lock().unwrap() = sum() - before;
                    });
                }
                traced(wan, || seconds(work))
            });
            same(film, &got);
            fs::remove_dir_all(&dest).unwrap();
            fs::create_dir_all(&dest).unwrap();
            Fetched { seconds, carried: sum() - before, at_cut: at_cut.into_inner().unwrap() }
        };
        // Seconds and bytes of a fetch of all; how much longer it takes with two cut off at 40 % of it; and how much of that is lost:
        // beyond what the other two lines need for the rest.
        let figures = |fetch: &mut dyn FnMut(Option<f64>) -> Option<Fetched>| {
            let mut whole = Vec::new();
            for _ in 0..self.rounds {
                whole.push(fetch(None)?);
            }
            let seconds = median(&mut whole.iter().map(|one| one.seconds).collect::<Vec<_>>());
            let carried = median(&mut whole.iter().map(|one| one.carried).collect::<Vec<_>>());
            let after = seconds * 0.4;
            let (mut longer, mut lost) = (Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                let one = fetch(Some(after))?;
                let rest = (carried - one.at_cut) / (LINE.rate * PACKETS * (SOURCES - 2) as f64);
                longer.push(one.seconds - seconds);
                lost.push(one.seconds - after - rest);
            }
            Some((bytes / MB / seconds, median(&mut longer), median(&mut lost)))
        };
        let own = figures(&mut |cut| {
            let reader = self.far_reader(wan, sources, false);
            let mut get = || {
                let mut command = reader.command(&["get", reference]);
                assert!(command.arg(&got).output().unwrap().status.success());
            };
            let one = fetched(&mut get, cut);
            self.forget(reader);
            Some(one)
        });
        let (whole, longer, lost) = own.unwrap();
        let places: Vec<Place> = (0..SOURCES).map(|number| Place::there(wan.source(number))).collect();
        let torrent = Torrent::new(film, self.lab.dir(), &places, Place::there(wan.reader()));
        let aria2 = figures(&mut |cut| {
            let torrent = torrent.as_ref().filter(|_| super::harness::installed("aria2c"))?;
            Some(fetched(&mut || assert!(torrent.fetch_aria2(&dest).is_some()), cut))
        });
        let libtorrent = figures(&mut |cut| {
            let torrent = torrent.as_ref()?;
            Some(fetched(&mut || assert!(torrent.fetch(&dest).seconds > 0.0), cut))
        });
        drop(torrent);
        wan.cut(&[]);
        let aim = LINE.rate * SOURCES as f64 * 0.9 / MB;
        self.table.row(FETCH, "MB/s", Better::More, whole, Some(aim));
        self.table.row(LONGER, "s", Better::Less, longer, None);
        self.table.row(LOST, "s", Better::Less, lost, Some(0.5));
        for (name, figures) in [("aria2", aria2), ("libtorrent", libtorrent)] {
            self.table.peer(FETCH, "MB/s", name, figures.map(|(whole, ..)| whole));
            self.table.peer(LONGER, "s", name, figures.map(|(_, longer, _)| longer));
            self.table.peer(LOST, "s", name, figures.map(|(_, _, lost)| lost));
        }
        let mounted = self.rounds(|bench| {
            let reader = bench.far_reader(wan, sources, true);
            let rate = traced(wan, || super::whole(&reader.reference(reference)));
            bench.forget(reader);
            rate
        });
        self.table.row(MOUNT, "MB/s", Better::More, mounted, Some(whole));
        self.gone(far);
    }

    pub(super) fn wan_read(&mut self) {
        if !possible() {
            return;
        }
        let far = self.far();
        let many = self.lab.make_dir("far-tree");
        let part = self.lab.make_dir("far-part");
        for number in 0..DIRECTORIES {
            let peer = (number < DIRECTORIES_PEER).then_some(&part);
            for dir in [Some(&many), peer].into_iter().flatten() {
                let dir = dir.join(format!("{number:02}"));
                fs::create_dir_all(&dir).unwrap();
                // No two alike: equal files would come once.
                for place in (0..FILES).map(|file| number * FILES + file) {
                    fs::write(dir.join(format!("f{place:05}")), tree::noise(place as u64, 5_000)).unwrap();
                }
            }
        }
        let tree = far.sources[0].publish(&many);
        far.wan.shape(true);
        let Far { wan, sources, film, reference } = &far;
        let length = fs::metadata(film).unwrap().len();
        let random = self.rounds(|bench| {
            let reader = bench.far_reader(wan, &sources[..1], true);
            let figure = random_reads(&reader.reference(reference), length, 4096) * 1e3;
            bench.forget(reader);
            figure
        });
        self.table.row(RANDOM, "ms", Better::Less, random, None);
        let line = "tar c . | cat > /dev/null";
        let archive = self.rounds(|bench| {
            let reader = bench.far_reader(wan, &sources[..1], true);
            let took = traced(wan, || in_directory(&reader.reference(&tree), line));
            bench.forget(reader);
            took
        });
        self.table.row(TREE, "s", Better::Less, archive, None);
        let at = Place::there(wan.source(0));
        let ssh = Ssh::new(&self.lab.make_dir("far-ssh"), at, Place::there(wan.reader()));
        for over in Over::ALL {
            let Some(ssh) = ssh.as_ref().filter(|ssh| ssh.has(over)) else {
                for (work, unit) in [(RANDOM, "ms"), (TREE, "s")] {
                    self.table.peer(work, unit, over.name(), None);
                }
                continue;
            };
            let random = {
                drop_caches();
                let mount = ssh.mount(over, film.parent().unwrap());
                random_reads(&mount.point.join("film"), length, 4096) * 1e3
            };
            self.table.peer(RANDOM, "ms", over.name(), Some(random));
            let mount = ssh.mount(over, &part);
            let took = seconds(|| {
                let mut walk = Command::new("timeout");
                let walked = walk.args([PEER_MAX, "sh", "-euc", line]).current_dir(&mount.point).status().unwrap();
                assert!(walked.success(), "{} took longer than {PEER_MAX} s", over.name());
            });
            self.table.peer(TREE, "s", over.name(), Some(took * (DIRECTORIES / DIRECTORIES_PEER) as f64));
        }
        drop(ssh);
        self.gone(far);
    }
}

/// Does some work; shows meanwhile what came from each source, if that is wanted.
fn traced<T>(wan: &Wan, work: impl FnOnce() -> T) -> T {
    if std::env::var_os("TORNET_BENCH_TRACE").is_none() {
        return work();
    }
    let (end, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut before, mut crowded_before) = wan.carried();
            let start = Instant::now();
            for step in 1.. {
                let left = (start + TRACED * step).saturating_duration_since(Instant::now());
                let over = ended.recv_timeout(left) != Err(mpsc::RecvTimeoutError::Timeout);
                let (now, crowded) = wan.carried();
                let rates = now
                    .iter()
                    .zip(&before)
                    .map(|(now, before)| format!("{:6.1}", (now - before) as f64 / MB / TRACED.as_secs_f64()));
                let rates: Vec<String> = rates.collect();
                let at = start.elapsed().as_millis();
                eprintln!("{at:6} ms: {} MB/s, {} dropped", rates.join(" "), crowded - crowded_before);
                (before, crowded_before) = (now, crowded);
                if over {
                    break;
                }
            }
        });
        let done = work();
        drop(end);
        done
    })
}
