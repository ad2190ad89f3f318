//! Engines in one process, over real sockets and stores: publish, read, survive.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tornet::base::peer::Contact;
use tornet::base::random::Random;
use tornet::config::CACHE_MIN;
use tornet::content::reference::{Kind, RootRef};
use tornet::engine::{Counter, Engine, MountStatus, Settings, TreeNode};

const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    Place { _dir: dir, path }
}

fn settings(place: &Place, bootstrap: &[&Engine]) -> Settings {
    let contacts = bootstrap.iter().map(|e| Contact { peer: e.peer_id(), addrs: vec![e.listen_addr()] }).collect();
    Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        bootstrap: contacts,
        mdns: false,
        quiet: Duration::from_millis(50),
        ..Settings::new(place.path.clone())
    }
}

async fn node(place: &Place, bootstrap: &[&Engine]) -> Engine {
    Engine::start(settings(place, bootstrap)).await.unwrap()
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len.div_ceil(8)).flat_map(|_| random.next_u64().to_le_bytes()).take(len).collect()
}

async fn read_all(engine: &Engine, reference: &RootRef) -> Vec<u8> {
    let TreeNode::File(file) = engine.reader().resolve(reference, PATIENCE).await.unwrap() else { panic!("no file") };
    let mut out = Vec::new();
    while (out.len() as u64) < file.size() {
        out.extend_from_slice(&engine.reader().read(&file, out.len() as u64, 128 * 1024, PATIENCE).await.unwrap());
    }
    out
}

async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Relative path to content (`None` for a directory).
fn tree(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_path_buf();
            if path.is_dir() {
                found.insert(name, None);
                stack.push(path);
            } else {
                found.insert(name, Some(std::fs::read(path).unwrap()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_published_here_reads_there() {
    let (a, b) = (place(), place());
    let publisher = node(&a, &[]).await;
    let reader = node(&b, &[&publisher]).await;
    for len in [0, 1, 1000, 5000, 100_000, 1 << 20, (20 << 20) + 12_345] {
        let path = a.path.join("file");
        let plain = bytes(len as u64, len);
        std::fs::write(&path, &plain).unwrap();
        let published = publisher.writer().publish(&path).await.unwrap();
        assert_eq!(published.reference.kind, Kind::File);
        assert!(read_all(&reader, &published.reference).await == plain, "{len} bytes differ");
    }
    publisher.stop().await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_tree_is_published_and_copied_out_whole() {
    let (a, b) = (place(), place());
    let publisher = node(&a, &[]).await;
    let reader = node(&b, &[&publisher]).await;
    let root = publisher.tree_dir().to_path_buf();
    for dir in 0..3 {
        let dir = root.join(format!("d{dir}")).join("deep");
        std::fs::create_dir_all(&dir).unwrap();
        for file in 0..200 {
            std::fs::write(dir.join(format!("f{file:03}")), bytes(file, 37 * file as usize)).unwrap();
        }
        std::fs::write(dir.join("large"), bytes(99, 3 << 20)).unwrap();
    }
    // As the mount does: each path that changed. The look at the whole tree at start may be under way already.
    for path in tree(&root).keys() {
        publisher.writer().changed(path);
    }
    assert!(publisher.writer().settled(PATIENCE).await);
    let reference = publisher.writer().reference(Path::new("")).unwrap().unwrap();
    let out = b.path.join("out");
    let progress = Arc::new(Counter::default());
    reader.copy_out(&reference, &out, PATIENCE, progress).await.unwrap();
    assert!(tree(&root) == tree(&out), "the trees differ");

    // A change of one file moves the root, and nothing else is made anew.
    std::fs::write(root.join("d1/deep/f007"), b"changed").unwrap();
    publisher.writer().changed(Path::new("d1/deep/f007"));
    assert!(publisher.writer().settled(PATIENCE).await);
    let moved = publisher.writer().reference(Path::new("")).unwrap().unwrap();
    assert_ne!(moved.to_string(), reference.to_string());
    let out = b.path.join("out2");
    reader.copy_out(&moved, &out, PATIENCE, Arc::default()).await.unwrap();
    assert!(tree(&root) == tree(&out), "the changed trees differ");
    publisher.stop().await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_come_together_once_a_second_is_read() {
    let (a, b) = (place(), place());
    let publisher = node(&a, &[]).await;
    // Nothing is here but what was read.
    let settings = Settings { host_bytes_max: 0, ..settings(&b, &[&publisher]) };
    let reader = Engine::start(settings).await.unwrap();
    let dir = a.path.join("small");
    std::fs::create_dir(&dir).unwrap();
    let name = |i: u64| format!("f{i:02}");
    for i in 0..60 {
        std::fs::write(dir.join(name(i)), bytes(i, 9000)).unwrap();
    }
    let published = publisher.writer().publish(&dir).await.unwrap();
    let TreeNode::Directory(top) = reader.reader().resolve(&published.reference, PATIENCE).await.unwrap() else {
        panic!("no directory")
    };
    let read = async |i: u64, patience: Duration| {
        let child = reader.reader().lookup(&top, name(i).as_bytes(), patience).await.unwrap().unwrap();
        let TreeNode::File(file) = reader.reader().open(&top, &child, patience).await.unwrap() else {
            panic!("no file")
        };
        let read = reader.reader().read(&file, 0, 9000, patience).await;
        read.inspect(|read| assert!(*read == bytes(i, 9000)))
    };
    let cached = async || reader.status(MountStatus::default()).await.store.cached_bytes;
    let before = cached().await;
    read(30, PATIENCE).await.unwrap();
    assert!(cached().await - before < 60 * 9000 / 2, "one file came with the rest");
    read(4, PATIENCE).await.unwrap();
    wait_for("the pack", async || cached().await - before >= 60 * 9000).await;
    publisher.stop().await;
    for i in 0..60 {
        read(i, Duration::from_secs(5)).await.unwrap();
    }
    reader.stop().await;
}

/// A file on eight of the twelve nodes that hosted it: its publisher and the others are gone.
async fn orphaned(seed: u64, len: usize) -> (Vec<Place>, Vec<Engine>, RootRef, Vec<u8>) {
    let places: Vec<Place> = (0..13).map(|_| place()).collect();
    let mut nodes = vec![node(&places[0], &[]).await];
    for place in &places[1..] {
        let next = node(place, &[&nodes[0]]).await;
        nodes.push(next);
    }
    let plain = bytes(seed, len);
    let path = places[0].path.join("file");
    std::fs::write(&path, &plain).unwrap();
    let published = nodes[0].writer().publish(&path).await.unwrap();
    wait_for("hosting", async || {
        let progress = *published.progress.borrow();
        progress.wanted > 0 && progress.hosted >= progress.wanted && progress.hosts_min >= progress.hosts_wanted
    })
    .await;
    for gone in nodes.drain(..5) {
        gone.stop().await;
    }
    (places, nodes, published.reference, plain)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_reads_back_without_publisher_and_four_hosts() {
    let (_places, nodes, reference, plain) = orphaned(5, (18 << 20) + 77).await;
    let late = place();
    let reader = node(&late, &[&nodes[0]]).await;
    assert!(read_all(&reader, &reference).await == plain);
    reader.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

/// Three times a file several times as large as the cache.
async fn read_thrice(engine: &Engine, reference: &RootRef, plain: &[u8]) {
    for round in 0..3 {
        assert!(read_all(engine, reference).await == plain, "round {round}");
    }
    let store = engine.status(MountStatus::default()).await.store;
    assert!(store.cached_bytes <= store.limit_bytes, "{store:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn smallest_cache_reads_and_pins_what_is_larger_than_it() {
    let (a, b) = (place(), place());
    let publisher = node(&a, &[]).await;
    let small = Settings { cache_bytes: CACHE_MIN.0, host_bytes_max: 0, ..settings(&b, &[&publisher]) };
    let reader = Engine::start(small).await.unwrap();
    let plain = bytes(6, (96 << 20) + 12_345);
    let path = a.path.join("file");
    std::fs::write(&path, &plain).unwrap();
    let reference = publisher.writer().publish(&path).await.unwrap().reference;
    read_thrice(&reader, &reference, &plain).await;
    let kept = reader.pin(&reference, PATIENCE, &Counter::default()).await.unwrap();
    assert_eq!(kept.bytes, plain.len() as u64);
    let pinned = reader.status(MountStatus::default()).await.store.pinned_bytes;
    assert!(pinned >= kept.bytes, "{pinned} bytes are pinned");
    publisher.stop().await;
    assert!(read_all(&reader, &reference).await == plain, "with everybody else gone");
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn smallest_cache_reads_what_must_be_rebuilt() {
    let (_places, nodes, reference, plain) = orphaned(7, (48 << 20) + 77).await;
    let late = place();
    let small = Settings { cache_bytes: CACHE_MIN.0, host_bytes_max: 0, ..settings(&late, &[&nodes[0]]) };
    let reader = Engine::start(small).await.unwrap();
    read_thrice(&reader, &reference, &plain).await;
    reader.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pin_that_fails_leaves_nothing_pinned() {
    let (a, b) = (place(), place());
    let publisher = node(&a, &[]).await;
    let reader = node(&b, &[&publisher]).await;
    let path = a.path.join("file");
    std::fs::write(&path, bytes(8, 3 << 20)).unwrap();
    let reference = publisher.writer().publish(&path).await.unwrap().reference;
    // The manifest is here, the content is not.
    reader.reader().resolve(&reference, PATIENCE).await.unwrap();
    publisher.stop().await;
    reader.pin(&reference, Duration::from_secs(2), &Counter::default()).await.unwrap_err();
    wait_for("the end of the pin", async || reader.status(MountStatus::default()).await.store.pinned_bytes == 0).await;
    assert!(!reader.unpin(&reference).await.unwrap());
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_fails_by_its_deadline() {
    let (a, b) = (place(), place());
    let alone = node(&a, &[]).await;
    let path = b.path.with_file_name("file");
    std::fs::write(&path, bytes(1, 100_000)).unwrap();
    let other = node(&b, &[]).await;
    let reference = other.writer().publish(&path).await.unwrap().reference;
    let start = Instant::now();
    let error = alone.reader().resolve(&reference, Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.kind, tornet::engine::ReadErrorKind::Timeout, "{error}");
    assert!(start.elapsed() < PATIENCE);
    alone.stop().await;
    other.stop().await;
}
