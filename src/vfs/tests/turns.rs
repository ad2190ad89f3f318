//! Many operations at once: their answers must be those of some order of them.

use std::collections::BTreeSet;
use std::sync::{Barrier, Mutex, RwLock};
use std::time::Instant;

use super::*;

const READ_WRITE: u32 = 2;

/// What was asked of one value and answered, and when.
#[derive(Clone, Copy, Debug)]
struct Event {
    start: Instant,
    end: Instant,
    asked: Asked,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Write(u64),
    Read(u64),
}

/// Whether some order of the events, in which none stands before one that had ended when it began, explains what was read.
fn is_explained(value: u64, events: &[Event], left: u64, tried: &mut BTreeSet<(u64, u64)>) -> bool {
    if left == 0 {
        return true;
    }
    // The same set left with the same value was looked at before.
    if !tried.insert((left, value)) {
        return false;
    }
    let waiting = || (0..events.len()).filter(|place| left >> place & 1 == 1);
    let first_end = waiting().map(|place| events[place].end).min();
    waiting().filter(|place| Some(events[*place].start) <= first_end).any(|place| {
        let left = left & !(1 << place);
        match events[place].asked {
            Asked::Write(written) => is_explained(written, events, left, tried),
            Asked::Read(read) => read == value && is_explained(value, events, left, tried),
        }
    })
}

#[test]
fn an_order_is_found_where_there_is_one_and_only_there() {
    let start = Instant::now();
    let at = |micros| start + std::time::Duration::from_micros(micros);
    let event = |from, to, asked| Event { start: at(from), end: at(to), asked };
    let explained = |events: &[Event]| is_explained(0, events, (1 << events.len()) - 1, &mut BTreeSet::new());
    let (write, read) = (Asked::Write, Asked::Read);
    assert!(explained(&[event(0, 9, write(1)), event(1, 2, read(0)), event(3, 4, read(1))]));
    assert!(!explained(&[event(0, 9, write(1)), event(1, 2, read(1)), event(3, 4, read(0))]));
    assert!(!explained(&[event(0, 1, write(1)), event(2, 3, read(0))]));
    assert!(explained(&[event(0, 5, write(1)), event(0, 5, write(2)), event(6, 7, read(1)), event(6, 7, read(1))]));
    assert!(!explained(&[event(0, 5, write(1)), event(0, 5, write(2)), event(6, 7, read(1)), event(8, 9, read(2))]));
}

/// Operations of each thread on each file.
const TURNS: u64 = 7;
const THREADS: u64 = 4;

#[test]
fn each_file_that_many_use_at_once_behaves_as_if_they_took_turns() {
    for round in 0..30 {
        let world = world();
        let files: Vec<u64> = ["a", "b"].iter().map(|name| world.file(ROOT, name, "\0\0\0\0\0\0\0\0")).collect();
        // As the kernel does: who changes names in a directory is alone in it.
        let (names, barrier) = (RwLock::new(()), Barrier::new(THREADS as usize));
        let histories: Vec<Mutex<Vec<Event>>> = files.iter().map(|_| Mutex::default()).collect();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (world, files, names, barrier, histories) = (&world, &files, &names, &barrier, &histories);
                scope.spawn(move || {
                    enter_thread().unwrap();
                    let fs = &world.fs;
                    barrier.wait();
                    for turn in 0..TURNS {
                        for (place, node) in files.iter().enumerate() {
                            let opened = now(fs.open_file(*node, READ_WRITE, &|_| None)).unwrap();
                            let number = 1 + thread * TURNS + turn;
                            // In every byte, so that half of one shows.
                            let token = number * 0x0101_0101_0101_0101;
                            let writes = (number + round + place as u64).is_multiple_of(3);
                            let start = Instant::now();
                            let asked = if writes {
                                let bytes = token.to_le_bytes();
                                assert_eq!(fs.write(*node, opened.handle, 0, &bytes, false).unwrap(), 8);
                                Asked::Write(token)
                            } else {
                                let read = now(fs.read(*node, opened.handle, 0, 8)).unwrap();
                                Asked::Read(u64::from_le_bytes(read[..].try_into().unwrap()))
                            };
                            histories[place].lock().unwrap().push(Event { start, end: Instant::now(), asked });
                            fs.flush(*node, opened.handle).unwrap();
                            fs.close_file(*node, opened.handle);
                        }
                        // Meanwhile their names move, and are looked up and forgotten.
                        let (from, to) = (OsStr::new(["a", "b"][turn as usize % 2]), OsStr::new("c"));
                        let alone = names.write().unwrap();
                        let moved = fs.rename((ROOT, from), (ROOT, to), 0);
                        if moved.is_ok() {
                            fs.rename((ROOT, to), (ROOT, from), 0).unwrap();
                        }
                        drop(alone);
                        let together = names.read().unwrap();
                        let found = world.find(["a", "b"][turn as usize % 2]);
                        drop(together);
                        found.into_iter().for_each(|node| fs.forget(node, 1));
                    }
                });
            }
        });
        for (place, history) in histories.iter().enumerate() {
            let events = history.lock().unwrap();
            let all = (1 << events.len()) - 1;
            assert!(is_explained(0, &events, all, &mut BTreeSet::new()), "round {round}, file {place}: {events:#?}");
            let name = ["a", "b"][place];
            assert_eq!(world.find(name), Some(files[place]));
            assert_eq!(world.fs.own.path(files[place]), Some(name.into()));
        }
    }
}
