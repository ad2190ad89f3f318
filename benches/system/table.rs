//! The table that is printed: a row for each figure, a column for each peer, and the ratio to it.

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Rates.
    More,
    /// Times and sizes.
    Less,
}

/// One figure.
pub struct Row {
    work: String,
    unit: &'static str,
    better: Better,
    tornet: f64,
    aim: Option<f64>,
    peers: Vec<(&'static str, Option<f64>)>,
}

impl Row {
    fn times_better(&self, figure: f64) -> f64 {
        if self.better == Better::More { self.tornet / figure } else { figure / self.tornet }
    }
}

/// All figures, printed as they come and as a table at the end.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

/// The name under which the machine's own file system stands beside the peers: the same bytes copied, read or walked there.
pub const DISK: &str = "disk";

const PEERS: [&str; 7] = [DISK, "aria2", "libtorrent", "sshfs", "rclone", "sendme", "tahoe"];

impl Table {
    /// A new row; `aim` is the bound that the figure should keep, if it is an absolute one.
    pub fn row(&mut self, work: impl Into<String>, unit: &'static str, better: Better, tornet: f64, aim: Option<f64>) {
        self.rows.push(Row { work: work.into(), unit, better, tornet, aim, peers: Vec::new() });
        self.show_last();
    }

    /// The figure of a peer for the last row of this name; `None` when it is not installed.
    pub fn peer(&mut self, work: &str, unit: &str, peer: &'static str, figure: Option<f64>) {
        if let Some(row) = self.rows.iter_mut().rev().find(|row| row.work == work && row.unit == unit) {
            row.peers.push((peer, figure));
            match figure {
                Some(figure) => eprintln!("  {work}, {unit}: {peer} {}", number(figure)),
                None => eprintln!("  {work}, {unit}: {peer} not installed"),
            }
        }
    }

    /// Which of these works are slower than `floor` times the machine's own file system, each in a sentence.
    pub fn below(&self, floors: &[(&str, f64)]) -> Vec<String> {
        let mut slow = Vec::new();
        for (work, floor) in floors {
            let Some(row) = self.rows.iter().find(|row| row.work == *work) else { continue };
            let disk = row.peers.iter().find(|(name, _)| *name == DISK).and_then(|(_, figure)| *figure);
            let ratio = disk.map_or(0.0, |disk| row.times_better(disk));
            // Not a number is no pass.
            if ratio.partial_cmp(floor).is_none_or(std::cmp::Ordering::is_lt) {
                slow.push(format!("{work}: {}x of the local disk, {}x is the least", number(ratio), number(*floor)));
            }
        }
        slow
    }

    fn show_last(&self) {
        if let Some(row) = self.rows.last() {
            eprintln!("{}, {}: tornet {}", row.work, row.unit, number(row.tornet));
        }
    }

    /// Prints it: in parentheses how many times better than that peer tornet is.
    pub fn print(&self) {
        print!("| {:<34} | {:<7} | {:>9} | {:>7} |", "work", "unit", "tornet", "aim");
        for peer in PEERS {
            print!(" {peer:>18} |");
        }
        println!();
        print!("|{:-<36}|{:-<9}|{:->10}:|{:->8}:|", "", "", "", "");
        for _ in PEERS {
            print!("{:->19}:|", "");
        }
        println!();
        for row in &self.rows {
            let aim = row.aim.map_or(String::new(), |aim| {
                format!("{}{}", if row.better == Better::More { ">= " } else { "<= " }, number(aim))
            });
            print!("| {:<34} | {:<7} | {:>9} | {aim:>7} |", row.work, row.unit, number(row.tornet));
            for peer in PEERS {
                let text = match row.peers.iter().find(|(name, _)| *name == peer) {
                    None => String::new(),
                    Some((_, None)) => "not installed".into(),
                    Some((_, Some(figure))) => {
                        format!("{} ({}x)", number(*figure), number(row.times_better(*figure)))
                    }
                };
                print!(" {text:>18} |");
            }
            println!();
        }
        println!();
        println!(
            "In parentheses: how many times better than that peer tornet is; disk is this machine's file system without any network: cp, cat, find, ls and tar there. MB are millions of bytes; CPU s/GiB counts both ends. \
             tahoe is 3-of-10 on ten servers and works on a part: its rates are those of at most 128 MiB and of 100 files. \
             Over the WAN sshfs and rclone read 200 of the 2,000 files; ten times as long is shown."
        );
    }
}

/// Three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "-".into(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
