//! The store beside plain files: the same bytes put and flushed, read back, and received in slices, in one run.
//! `cargo bench --bench store [-- MiB]`. Figures are rates and their ratio to the plain file's of the same run.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;
use tornet::base::digest::ChunkId;
use tornet::base::range::SliceRange;
use tornet::content::chunk::Outline;
use tornet::store::{Class, Store, StoreConfig};

type Chunk = (ChunkId, Outline, Bytes);

fn chunks(bytes: usize, len: usize, seed: u64) -> Vec<Chunk> {
    let mut all = vec![0; bytes / len * len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut all);
    let all = Bytes::from(all);
    (0..bytes / len)
        .map(|n| {
            let bytes = all.slice(n * len..(n + 1) * len);
            let (id, outline) = Outline::of(&bytes);
            (id, outline, bytes)
        })
        .collect()
}

fn rate(bytes: usize, work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    bytes as f64 / begin.elapsed().as_secs_f64() / 1e6
}

fn best(tries: usize, mut work: impl FnMut() -> f64) -> f64 {
    (0..tries).map(|_| work()).fold(0.0, f64::max)
}

fn show(what: &str, ours: f64, plain: f64) {
    println!("{what:<58} {ours:8.0} MB/s {plain:8.0} MB/s  ratio {:.2}", ours / plain);
}

/// Plain appends to one file, synced after every `batch` chunks.
fn plain_write(dir: &Path, chunks: &[Chunk], batch: usize) -> f64 {
    let file = File::options().create(true).truncate(true).read(true).write(true).open(dir.join("plain")).unwrap();
    let len = chunks[0].2.len();
    rate(chunks.len() * len, || {
        for (n, (_, _, bytes)) in chunks.iter().enumerate() {
            file.write_all_at(bytes, (n * len) as u64).unwrap();
            if (n + 1) % batch == 0 {
                file.sync_data().unwrap();
            }
        }
        file.sync_data().unwrap();
    })
}

fn plain_read(dir: &Path, chunks: &[Chunk], len: usize) -> f64 {
    let file = File::open(dir.join("plain")).unwrap();
    let total = chunks.len() * chunks[0].2.len();
    rate(total, || {
        for at in (0..total).step_by(len) {
            // A fresh buffer each time, as the store's callers get.
            let mut buffer = vec![0; len];
            file.read_exact_at(&mut buffer, at as u64).unwrap();
            black_box(&buffer);
        }
    })
}

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreConfig { disk_free_min: 0.0, cache_bytes: 4 << 30, ..StoreConfig::default() }).unwrap()
}

/// Has the machine touch the memory that page cache and buffers will take: a virtual machine pays dearly for its first use.
fn warm_up(dir: &Path, bytes: usize) {
    let file = File::create(dir.join("warm")).unwrap();
    let block = vec![1; 1 << 20];
    (0..bytes >> 20).for_each(|n| file.write_all_at(&block, (n as u64) << 20).unwrap());
    std::fs::remove_file(dir.join("warm")).unwrap();
}

fn main() {
    let mib = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(256usize);
    let total = mib << 20;
    println!("{:<58} {:>13} {:>13}", "", "store", "plain file");
    let mut seed = 0;
    for len in [256 << 10, 1 << 20] {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("store");
        warm_up(place.path(), total * 6);
        let store = open(&dir);
        let mut fresh = || {
            seed += 1;
            chunks(total, len, seed)
        };
        let kib = len >> 10;
        for batch in [1, 64] {
            let set = fresh();
            let set = &set[..(total / len / if batch == 1 { 4 } else { 1 })];
            let put = || {
                rate(set.len() * len, || {
                    for group in set.chunks(batch) {
                        for (id, outline, bytes) in group {
                            store.put(id, outline, bytes.clone(), Class::Own).unwrap();
                        }
                        store.flush().unwrap();
                    }
                })
            };
            let plain = plain_write(place.path(), set, batch);
            let ours = put();
            show(&format!("put {kib} KiB chunks, a flush for every {batch}"), ours, plain);
        }
        let set = fresh();
        let plain = plain_write(place.path(), &set, usize::MAX);
        let ours = rate(total, || {
            set.iter().for_each(|(id, outline, bytes)| store.put(id, outline, bytes.clone(), Class::Cached).unwrap());
            store.flush().unwrap();
        });
        show(&format!("put {kib} KiB chunks, one flush at the end"), ours, plain);

        let slices = fresh();
        let ours = rate(total, || {
            for (id, outline, bytes) in &slices {
                for first in (0..(len >> 14) as u8).step_by(8) {
                    let piece = bytes.slice(usize::from(first) << 14..(usize::from(first) + 8) << 14);
                    store.put_slices(id, outline, first, piece, Class::Cached).unwrap();
                }
            }
        });
        show(&format!("receive {kib} KiB chunks in slices of 8, visible"), ours, plain);
        store.flush().unwrap();

        let ours = best(3, || {
            rate(total, || {
                for (id, _, bytes) in &set {
                    black_box(store.read(id, SliceRange::whole(bytes.len() as u32)).unwrap().unwrap());
                }
            })
        });
        show(&format!("read whole {kib} KiB chunks, verified"), ours, best(3, || plain_read(place.path(), &set, len)));
        let ours = best(3, || {
            rate(total, || {
                for first in 0..(len >> 14) as u8 {
                    for (id, _, _) in &set {
                        black_box(store.read(id, SliceRange { first, count: 1 }).unwrap().unwrap());
                    }
                }
            })
        });
        let plain = best(3, || plain_read(place.path(), &set, 16 << 10));
        show(&format!("read single slices of {kib} KiB chunks, verified"), ours, plain);

        let begin = Instant::now();
        let misses = 100_000u64;
        for n in 0..misses {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            black_box(store.holds(&ChunkId(id)).unwrap());
        }
        println!(
            "{:<58} {:8.2} us",
            "look up a chunk that is not here",
            begin.elapsed().as_secs_f64() * 1e6 / misses as f64
        );
        drop(store);
        let begin = Instant::now();
        let store = open(&dir);
        println!(
            "{:<58} {:8.1} ms",
            format!("open with {} chunks", store.usage().chunks),
            begin.elapsed().as_secs_f64() * 1e3
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("peak memory with the data to put: {peak}");
}
