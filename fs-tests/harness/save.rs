//! A program that saves by renaming and keeps a log, knows what was acknowledged to it, and finds it again.

use super::tree::noise;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SAVES: u64 = 4;

/// A file's content that proves itself: number, length, noise made of both.
fn saved(number: u64) -> Vec<u8> {
    let length = 1 + (number * 7919) % 200_000;
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(noise(number, length as usize));
    bytes
}

/// The number that a saved file proves to hold.
#[track_caller]
fn proved(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_else(|_| panic!("{} is torn", path.display())));
    assert!(bytes == saved(number), "{} is torn: {} bytes, says number {number}", path.display(), bytes.len());
    number
}

/// What was acknowledged by fsync, and so must be found again.
#[derive(Default)]
pub struct Promised {
    /// The newest of each.
    saves: [AtomicU64; SAVES as usize],
    /// The last in the log.
    log: AtomicU64,
}

/// Saves by rename and appends to a log, each with fsync, until an operation fails because the node is gone.
pub fn write_until_killed(mount: &Path, promised: &Promised, next: &mut u64, stop: &AtomicBool) -> std::io::Result<()> {
    let directory = fs::File::open(mount)?;
    let mut log = fs::OpenOptions::new().create(true).append(true).open(mount.join("log"))?;
    while !stop.load(Ordering::Relaxed) {
        let number = *next;
        *next += 1;
        let place = number % SAVES;
        let (new, name) = (mount.join(format!("save{place}.new")), mount.join(format!("save{place}")));
        let mut file = fs::File::create(&new)?;
        file.write_all(&saved(number))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, &name)?;
        directory.sync_all()?;
        promised.saves[place as usize].store(number, Ordering::SeqCst);
        log.write_all(&number.to_le_bytes())?;
        log.sync_data()?;
        promised.log.store(number, Ordering::SeqCst);
        // Traffic that is not fsynced, so that publishing has work, too.
        fs::write(mount.join(format!("loose{}", number % 7)), noise(number, 30_000))?;
    }
    Ok(())
}

/// Everything that was acknowledged is found below a mount, and nothing is torn.
#[track_caller]
pub fn check(mount: &Path, promised: &Promised) {
    for (place, number) in promised.saves.iter().enumerate() {
        let want = number.load(Ordering::SeqCst);
        let path = mount.join(format!("save{place}"));
        if want > 0 || path.exists() {
            let got = proved(&path);
            assert!(got >= want, "save{place} is back at number {got}, but {want} was fsynced");
        }
    }
    let want = promised.log.load(Ordering::SeqCst);
    let log = fs::read(mount.join("log")).unwrap_or_default();
    let numbers: Vec<u64> = log.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert!(numbers.is_sorted(), "the log is out of order");
    assert!(want == 0 || numbers.contains(&want), "the log ends at {:?}, but {want} was fsynced", numbers.last());
}
