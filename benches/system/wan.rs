//! Over a long way: 25 ms in each direction, sources with lines of 100 Mbit/s that lose 1 % of what they send.

use super::harness::machine::possible;
use super::harness::node::{Node, Plan, READER};
use super::harness::wan::{Line, Wan};
use super::peers::{Over, Place, Ssh, Torrent};
use super::table::Better;
use super::{Bench, MB, in_directory, make_file, random_reads, same, tree};
use crate::measure::{drop_caches, median, seconds};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

const LINE: Line = Line { delay: Duration::from_millis(25), rate: 12.5e6, loss: 100 };
const SOURCES: usize = 4;
const FETCH: &str = "WAN: fetch 100 MiB from 4";
const CUT: &str = "WAN: longer with 2 of 4 cut off";
const RANDOM: &str = "WAN: random 4 KiB, cold, median";
const TREE: &str = "WAN: tar of 2,000 files of 5 kB";

impl Bench {
    pub(super) fn wan(&mut self) {
        if !possible() {
            return;
        }
        let bytes = 100 << 20;
        let dir = self.lab.make_dir("far");
        let film = dir.join("film");
        make_file(&film, bytes);
        let many = self.lab.make_dir("far-tree");
        for part in 0..100 {
            tree::make_many(&many.join(part.to_string()), 20, 5_000);
        }
        let wan = Wan::new(LINE, SOURCES);
        let mut sources: Vec<Node> = Vec::new();
        for number in 0..SOURCES {
            let (network, ip) = wan.source(number);
            let plan = Plan::new(&format!("far{number}")).config(READER).network(network).listen(&format!("{ip}:0"));
            sources.push(self.fresh(sources.iter().fold(plan, |plan, source| plan.knows(source))));
        }
        let reference = sources[0].publish(&film);
        let tree = sources[0].publish(&many);
        for source in &sources[1..] {
            source.tornet(&["pin", &reference]);
        }
        wan.shape(true);
        self.wan_fetch(&wan, &sources, &reference, &film);
        self.wan_mounted(&wan, &sources, &reference, &film, (&tree, &many));
        drop(sources);
    }

    /// A reader at its end of the way, which knows some of the sources.
    fn far_reader(&self, wan: &Wan, sources: &[Node], mounted: bool) -> Node {
        let (network, ip) = wan.reader();
        let plan = Plan::new("reader").config(READER).network(network).listen(&format!("{ip}:0"));
        let plan = sources.iter().fold(plan, |plan, source| plan.knows(source));
        self.fresh(if mounted { plan.mounted() } else { plan })
    }

    fn wan_fetch(&mut self, wan: &Wan, sources: &[Node], reference: &str, film: &Path) {
        let bytes = fs::metadata(film).unwrap().len() as f64;
        let dest = self.lab.make_dir("got-far");
        let got = dest.join("film");
        // Seconds of one fetch; after so many seconds of it two sources are cut off, if that is asked for.
        let fetched = |work: &mut dyn FnMut(), cut: Option<f64>| {
            wan.cut(&[]);
            let took = thread::scope(|scope| {
                if let Some(after) = cut {
                    scope.spawn(move || {
                        thread::sleep(Duration::from_secs_f64(after));
                        wan.cut(&[0, 1]);
                    });
                }
                seconds(work)
            });
            same(film, &got);
            fs::remove_dir_all(&dest).unwrap();
            fs::create_dir_all(&dest).unwrap();
            took
        };
        let own = |cut: Option<f64>| {
            self.rounds(|bench| {
                let reader = bench.far_reader(wan, sources, false);
                let mut get = || {
                    let mut command = reader.command(&["get", reference]);
                    assert!(command.arg(&got).output().unwrap().status.success());
                };
                let took = fetched(&mut get, cut);
                bench.forget(reader);
                took
            })
        };
        let whole = own(None);
        let cut = own(Some(whole * 0.4)) - whole;
        let aim = LINE.rate * SOURCES as f64 * 0.9 / MB;
        self.table.row(FETCH, "MB/s", Better::More, bytes / MB / whole, Some(aim));
        self.table.row(CUT, "s", Better::Less, cut, Some(0.5));

        let places: Vec<Place> = (0..SOURCES).map(|number| Place::there(wan.source(number))).collect();
        let reader = Place::there(wan.reader());
        let torrent = Torrent::new(film, self.lab.dir(), &places, reader);
        for name in ["aria2", "libtorrent"] {
            let one = |cut: Option<f64>| {
                let torrent = torrent.as_ref()?;
                let mut all = Vec::new();
                for _ in 0..self.rounds {
                    let mut there = true;
                    let mut get = || match name {
                        "aria2" => there = torrent.fetch_aria2(&dest).is_some(),
                        _ => drop(torrent.fetch(&dest)),
                    };
                    if name == "aria2" && !super::harness::installed("aria2c") {
                        return None;
                    }
                    all.push(fetched(&mut get, cut));
                    assert!(there);
                }
                Some(median(&mut all))
            };
            let whole = one(None);
            let cut = whole.and_then(|whole| Some(one(Some(whole * 0.4))? - whole));
            self.table.peer(FETCH, "MB/s", name, whole.map(|took| bytes / MB / took));
            self.table.peer(CUT, "s", name, cut);
        }
        wan.cut(&[]);
    }

    fn wan_mounted(&mut self, wan: &Wan, sources: &[Node], reference: &str, film: &Path, tree: (&str, &Path)) {
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
            let took = in_directory(&reader.reference(tree.0), line);
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
            let mount = ssh.mount(over, tree.1);
            self.table.peer(TREE, "s", over.name(), Some(in_directory(&mount.point, line)));
        }
    }
}
