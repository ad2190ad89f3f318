//! Speed of the codecs on one core, next to the raw speed of what they are made of, all in one run: `cargo bench --bench codec`.

#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use reed_solomon_erasure::galois_8::ReedSolomon;
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use tornet::base::limit::SLICE_BYTES;
use tornet::content::build::seal_stripe;
use tornet::content::chunk::{Outline, SealedChunk};
use tornet::content::cipher::{self, ConvergenceSecret};
use tornet::content::erasure::{self, Scheme};
use tornet::content::random::looks_random;
use tornet::content::section::Stripe;

const MIB: usize = 1 << 20;
/// The best of so many rounds, each measuring everything once for about `ROUND` seconds: other work disturbs all alike.
const ROUNDS: usize = 10;
const ROUND: f64 = 0.02;

/// One thing measured: seconds for each byte of content, at best.
struct Row<'a> {
    name: &'static str,
    bytes: usize,
    run: Box<dyn FnMut() + 'a>,
    best: f64,
}

fn row<'a, T>(name: &'static str, bytes: usize, mut run: impl FnMut() -> T + 'a) -> Row<'a> {
    Row { name, bytes, run: Box::new(move || drop(black_box(run()))), best: f64::INFINITY }
}

/// Seconds of processor time that this thread has used: unlike the clock it does not run on while others have the core.
fn now() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn sample(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn check_slices(chunk: &SealedChunk) -> bool {
    chunk.outline.verify(&chunk.id)
        && chunk
            .bytes
            .chunks(SLICE_BYTES)
            .enumerate()
            .all(|(index, slice)| chunk.outline.check_slice(&chunk.id, index as u8, slice))
}

/// What a reader does with a stripe of which the first `lost` data chunks are missing: check what came, rebuild, open.
fn fetch(stripe: &Stripe, chunks: &[SealedChunk], lost: usize) -> usize {
    let k = stripe.data.len();
    let have: Vec<(u8, &[u8])> = (lost..lost + k)
        .map(|index| {
            assert!(check_slices(&chunks[index]), "true slices");
            (index as u8, &chunks[index].bytes[..])
        })
        .collect();
    let wanted: Vec<u8> = (0..lost as u8).collect();
    let rebuilt = erasure::rebuild(stripe.scheme(), &have, &wanted).expect("k chunks are there");
    let whole = chunks[lost..k].iter().map(|chunk| chunk.bytes.to_vec());
    let mut opened = 0;
    for (mut bytes, at) in rebuilt.into_iter().chain(whole).zip(&stripe.data) {
        cipher::open(&at.key, 0, &mut bytes);
        opened += black_box(bytes).len();
    }
    opened
}

fn main() {
    let scheme = Scheme::DEFAULT;
    let secret = ConvergenceSecret([7; 32]);
    let plain = sample(8 * MIB);
    let sealed = seal_stripe(&secret, scheme, &plain);
    let chunk = &sealed.chunks[0];
    let data: Vec<&[u8]> = sealed.chunks[..8].iter().map(|chunk| &chunk.bytes[..]).collect();
    let survivors: Vec<(u8, &[u8])> = (4..12).map(|index| (index as u8, &sealed.chunks[index].bytes[..])).collect();
    let raw = ReedSolomon::new(8, 4).expect("a valid scheme");
    let mut parity = vec![vec![0; MIB]; 4];
    let mut stream = sample(MIB);
    let slices: Vec<&[u8]> = plain[..MIB].chunks(SLICE_BYTES).collect();

    let mut rows = [
        row("BLAKE3, 1 MiB", MIB, || blake3::hash(&plain[..MIB])),
        row("BLAKE3, 16 KiB at a time", MIB, || slices.iter().map(|slice| blake3::hash(slice).as_bytes()[0]).max()),
        row("ChaCha20, in place", MIB, || {
            ChaCha20::new(&[1; 32].into(), &[0; 12].into()).apply_keystream(&mut stream);
        }),
        row("Reed-Solomon crate, encode 8+4", 8 * MIB, || raw.encode_sep(&data, &mut parity)),
        row("encode 8+4", 8 * MIB, || erasure::encode(scheme, &data)),
        row("rebuild 4 of 8+4", 8 * MIB, || erasure::rebuild(scheme, &survivors, &[0, 1, 2, 3])),
        row("randomness test", MIB, || looks_random(&chunk.bytes)),
        row("outline of a chunk", MIB, || Outline::of(&chunk.bytes)),
        row("outline and all slices checked", MIB, || check_slices(chunk)),
        row("publish: seal, hash, code 8+4", 8 * MIB, || seal_stripe(&secret, scheme, &plain)),
        row("fetch: check, open", 8 * MIB, || fetch(&sealed.stripe, &sealed.chunks, 0)),
        row("fetch with 4 of 8+4 missing", 8 * MIB, || fetch(&sealed.stripe, &sealed.chunks, 4)),
    ];
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let start = now();
            let mut runs = 0u32;
            while now() - start < ROUND || runs == 0 {
                (row.run)();
                runs += 1;
            }
            row.best = row.best.min((now() - start) / f64::from(runs) / row.bytes as f64);
        }
    }

    let time = |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, |row| row.best);
    let (hash, slice_hash) = (time("BLAKE3, 1 MiB"), time("BLAKE3, 16 KiB at a time"));
    let (chacha, code) = (time("ChaCha20, in place"), time("Reed-Solomon crate, encode 8+4"));
    // The time that the raw primitives alone would take for each byte of content.
    let limit = |name: &str| match name {
        "encode 8+4" | "rebuild 4 of 8+4" => Some(code),
        "outline of a chunk" | "outline and all slices checked" => Some(slice_hash),
        "publish: seal, hash, code 8+4" => Some(hash + chacha + slice_hash * 1.5 + code),
        "fetch: check, open" => Some(slice_hash + chacha),
        "fetch with 4 of 8+4 missing" => Some(slice_hash + code + chacha),
        _ => None,
    };
    println!("{:<34}{:>10}  {:>24}", "one core, MB of content per second", "MB/s", "of its primitives' limit");
    for row in &rows {
        let share = limit(row.name).map_or(String::new(), |limit| format!("{:.0} %", limit / row.best * 100.0));
        println!("{:<34}{:>10.0}  {:>24}", row.name, 1e-6 / row.best, share);
    }
}
