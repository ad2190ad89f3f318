//! What accounting costs: the same transfer at a price, with receipts, and free, in turn from the same node.

use super::harness::node::{CONFIG, Plan};
use super::harness::until;
use super::measure::{cpu_of, median, run};
use super::table::Better;
use super::{Bench, GIB, reader, same};
use std::fs;

/// Transfers of each kind.
const PAIRS: usize = 12;
/// 16 msat for a MiB, lent to whoever comes.
const PRICED: &str = "[credit]\nprice = \"16384 msat/GiB\"\nnewcomers = \"1000 GiB\"\n";

impl Bench {
    pub(super) fn account(&mut self) {
        let bytes = self.file_bytes as f64;
        let source = self.fresh(Plan::new("seller").config(CONFIG));
        let reference = source.publish(&self.file);
        let (file, dest) = (source.home.join("config.toml"), self.lab.path("got"));
        let setting = || source.json(&["--json", "config"])["credit.newcomers"]["source"].as_str().unwrap().to_string();
        let balances = || source.json(&["--json", "balances"]).as_array().unwrap().len();
        let fetched = |priced: bool| {
            fs::write(&file, if priced { format!("{CONFIG}\n{PRICED}") } else { CONFIG.to_string() }).unwrap();
            until("the terms", || ((setting() != "default") == priced).then_some(()));
            let before = balances();
            let node = self.fresh(reader().knows(&source));
            let all = || cpu_of(source.pid()) + cpu_of(node.pid());
            let start = all();
            let own = run(node.command(&["get", &reference]).arg(&dest)).1;
            let cpu = (all() - start + own) / bytes * GIB;
            assert_eq!(balances() - before, usize::from(priced), "booked where it costs something");
            same(&self.file, &dest);
            fs::remove_file(&dest).unwrap();
            self.forget(node);
            cpu
        };
        fetched(false);
        let (mut free, mut priced, mut more) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            // In turn, each as often first.
            let mut both = [pair % 2 == 0, pair % 2 != 0].map(|price| (price, fetched(price)));
            both.sort_by_key(|(price, _)| *price);
            let [(_, without), (_, with)] = both;
            free.push(without);
            priced.push(with);
            more.push((with / without - 1.0) * 100.0);
        }
        let mean = more.iter().sum::<f64>() / PAIRS as f64;
        let spread = more.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (PAIRS - 1) as f64;
        eprintln!("  each: {more:.1?}; mean {mean:.2} %, give or take {:.2}", (spread / PAIRS as f64).sqrt());
        self.table.row("fetch free of charge: CPU", "s/GiB", Better::Less, median(&mut free), None);
        self.table.row("fetch at a price: CPU", "s/GiB", Better::Less, median(&mut priced), None);
        self.table.row("more CPU at a price than free", "%", Better::Less, mean, Some(2.0));
        self.forget(source);
    }
}
