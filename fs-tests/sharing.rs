//! Several programs at work on the same files: databases, maps of memory, appends, watchers, directories that change while they are read.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

mod harness;

use harness::node::{Node, Plan};
use harness::program::{DATA_PATHS, assert_published, have, python, script, succeed};
use harness::tree::noise;
use harness::{Lab, require_fuse, until};
use rustix::fs::inotify;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

fn mounted(lab: &Lab, options: &str) -> Node {
    require_fuse();
    println!("-o {options}");
    Plan::new("a").mounted().option(options).start(lab)
}

/// Accounts whose sum never changes, moved between by several writers, and looked at meanwhile.
const ACCOUNTS: &str = "
import os, random, sqlite3, sys, time
what, mode, who = sys.argv[1:]
def open_database():
    database = sqlite3.connect(f'{mode}.db', timeout=60, isolation_level=None)
    assert database.execute(f'pragma journal_mode={mode}').fetchone()[0] == mode
    return database
def check(database):
    assert database.execute('select sum(money) from account').fetchone()[0] == 1000
database = open_database()
if what == 'make':
    database.execute('create table account (name integer primary key, money integer)')
    database.execute('create table entry (who text, number integer, note blob)')
    database.executemany('insert into account values (?, 10)', [(name,) for name in range(100)])
elif what == 'move':
    dice = random.Random(who)
    for number in range(20):
        a, b = dice.sample(range(100), 2)
        database.execute('begin immediate')
        database.execute('update account set money = money - 1 where name = ?', (a,))
        database.execute('update account set money = money + 1 where name = ?', (b,))
        database.execute('insert into entry values (?, ?, ?)', (who, number, dice.randbytes(2000)))
        database.execute('commit')
        check(open_database())
elif what == 'be killed':
    database.execute('pragma cache_size=5')
    database.execute('begin immediate')
    database.execute('update account set money = money + 7')
    for number in range(200):
        database.execute('insert into entry values (?, ?, randomblob(4000))', (who, number))
    print('in the middle', flush=True)
    time.sleep(600)
elif what == 'check':
    check(database)
    assert database.execute('pragma integrity_check').fetchone()[0] == 'ok'
    print(database.execute('select count(*) from entry').fetchone()[0])
";

// Promise 14 of tornet(7).
#[test]
fn database_keeps_its_word_with_several_writers_and_after_one_is_killed() {
    if !have(&["python3"]) {
        return;
    }
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        for mode in ["wal", "delete", "truncate"] {
            let act = |what: &str, who: &str| script(a.mount(), ACCOUNTS, &[what, mode, who]);
            succeed(&mut act("make", ""));
            let writers: Vec<_> = ["x", "y", "z"].iter().map(|who| act("move", who).spawn().unwrap()).collect();
            for mut writer in writers {
                assert!(writer.wait().unwrap().success(), "{mode}");
            }
            assert_eq!(succeed(&mut act("check", "")).trim(), "60", "{mode}");
            let mut killed = act("be killed", "k").stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(killed.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "in the middle\n", "{mode}");
            killed.kill().unwrap();
            killed.wait().unwrap();
            assert_eq!(succeed(&mut act("check", "")).trim(), "60", "{mode}: what was not committed is undone");
            succeed(&mut act("move", "after"));
            assert_eq!(succeed(&mut act("check", "")).trim(), "80", "{mode}");
        }
        assert_published(&a, "");
        // A published database opens where it lies.
        let reference = a.stored(&a.path("delete.db"));
        let read = "
import sqlite3, sys
database = sqlite3.connect('file:' + sys.argv[1] + '?immutable=1', uri=True)
assert database.execute('pragma integrity_check').fetchone()[0] == 'ok'
print(database.execute('select count(*) from entry').fetchone()[0])
";
        assert_eq!(python(lab.dir(), read, &[a.reference(&reference).to_str().unwrap()]).trim(), "80");
    }
}

// Promise 14 of tornet(7).
#[test]
fn two_programs_share_a_map_of_a_file_and_what_they_left_is_published() {
    if !have(&["python3"]) {
        return;
    }
    // Each counts in its own place and watches the other's; one of them also writes to the file by the usual way.
    let count = "
import mmap, os, sys, time
who = int(sys.argv[1])
fd = os.open('map', os.O_RDWR)
map = mmap.mmap(fd, 1 << 20)
end = time.monotonic() + 120
for number in range(1, 101):
    map[who * 8192] = number
    while map[(1 - who) * 8192] < number:
        assert time.monotonic() < end
        time.sleep(0)
    if who == 0: os.pwrite(fd, bytes([number]), 20000 + number)
    else:
        while map[20000 + number] != number:
            assert time.monotonic() < end
            time.sleep(0)
map[500000 + who:500001 + who] = b'x'
map.flush()
";
    for options in ["rw", "nopassthrough"] {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        fs::write(a.path("map"), vec![0; 1 << 20]).unwrap();
        let both: Vec<_> = ["0", "1"].iter().map(|who| script(a.mount(), count, &[who]).spawn().unwrap()).collect();
        for mut process in both {
            assert!(process.wait().unwrap().success());
        }
        let bytes = fs::read(a.path("map")).unwrap();
        assert_eq!((bytes[0], bytes[8192], &bytes[500000..500003]), (100, 100, &b"xx\0"[..]));
        assert_published(&a, "");
    }
}

/// Memory that stands for a file.
struct Map {
    start: *mut u8,
    len: usize,
}

#[allow(unsafe_code)]
impl Map {
    fn new(file: &fs::File, len: usize, protection: ProtFlags) -> Map {
        let start = std::ptr::null_mut();
        // SAFETY: a fresh map, unmapped by its owner alone.
        let start = unsafe { rustix::mm::mmap(start, len, protection, MapFlags::SHARED, file, 0) };
        Map { start: start.unwrap().cast(), len }
    }

    /// Reads the file into memory and keeps the kernel from giving that memory to others.
    fn lock(&self) {
        // SAFETY: the map is there.
        unsafe { rustix::mm::mlock(self.start.cast(), self.len).unwrap() };
    }

    fn store(&self, offset: usize, byte: u8) {
        assert!(offset < self.len);
        // SAFETY: within the map; other processes see the byte before or after.
        unsafe { self.start.add(offset).write_volatile(byte) };
    }

    fn sync(&self) {
        // SAFETY: the map is there.
        unsafe { rustix::mm::msync(self.start.cast(), self.len, MsyncFlags::SYNC).unwrap() };
    }
}

#[allow(unsafe_code)]
impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        unsafe { rustix::mm::munmap(self.start.cast(), self.len).unwrap() };
    }
}

// Promise 14 of tornet(7).
#[test]
fn what_is_stored_through_a_map_is_published_while_it_stands_and_after_the_file_was_closed() {
    const PLACE: usize = 5000;
    for options in ["rw", "nopassthrough"] {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        // Packed with its neighbours or not; closed once it is mapped or not.
        let mut files = Vec::new();
        for (name, size, closed) in
            [("a", 10_000, false), ("b", 10_000, true), ("c", 300_000, false), ("d", 300_000, true)]
        {
            let path = a.path(name);
            fs::write(&path, vec![0; size]).unwrap();
            let before = fs::metadata(&path).unwrap();
            let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let map = Map::new(&file, size, ProtFlags::READ | ProtFlags::WRITE);
            files.push((path, before, map, (!closed).then_some(file)));
        }
        a.stored(a.mount());
        let published = |path: &Path, byte: u8| {
            until(&format!("{byte} is published in {}", path.display()), || {
                let bytes = fs::read(a.reference(&a.stored(path))).unwrap();
                (bytes[PLACE] == byte).then_some(())
            });
        };
        // The second time the page is in memory and writable: nothing notices the store but a bit of the processor's.
        for byte in [1, 2] {
            for (_, _, map, _) in &files {
                map.store(PLACE, byte);
                if options == "nopassthrough" {
                    map.sync();
                }
            }
            files.iter().for_each(|(path, ..)| published(path, byte));
        }
        for (path, before, map, file) in files {
            map.store(PLACE, 9);
            drop((map, file));
            published(&path, 9);
            let now = fs::metadata(&path).unwrap();
            assert!((now.mtime(), now.mtime_nsec()) > (before.mtime(), before.mtime_nsec()), "its time moved");
        }
        assert_published(&a, "");
    }
}

// Promise 14 of tornet(7).
#[test]
fn lines_appended_by_several_programs_at_once_stay_whole() {
    if !have(&["python3"]) {
        return;
    }
    let append = "
import os, sys
fd = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
for number in range(300):
    line = f'{sys.argv[1]} {number} '.encode() + b'x' * (number % 200) + b'\\n'
    assert os.write(fd, line) == len(line)
";
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        let all: Vec<_> =
            ["1", "2", "3", "4"].iter().map(|who| script(a.mount(), append, &[who]).spawn().unwrap()).collect();
        for mut process in all {
            assert!(process.wait().unwrap().success());
        }
        let text = fs::read_to_string(a.path("log")).unwrap();
        let mut next = [0; 5];
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let who: usize = words[0].parse().unwrap();
            assert_eq!(words[1], next[who].to_string(), "{line}");
            assert_eq!(words[2].len(), next[who] % 200, "{line}");
            next[who] += 1;
        }
        assert_eq!(next, [0, 300, 300, 300, 300]);
        assert_published(&a, "");
    }
}

// Promise 14 of tornet(7).
#[test]
fn watcher_of_a_directory_is_told_what_other_programs_do_in_it() {
    if !have(&["python3"]) {
        return;
    }
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        fs::create_dir_all(a.path("dir/sub")).unwrap();
        fs::write(a.path("dir/old"), b"old").unwrap();
        let watcher = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watcher, a.path("dir"), inotify::WatchFlags::ALL_EVENTS).unwrap();
        let act = "
import os
with open('dir/new', 'w') as file: file.write('x')
with open('dir/old', 'a') as file: file.write('x')
os.chmod('dir/old', 0o600)
os.rename('dir/old', 'dir/older')
os.rename('dir/older', 'dir/sub/moved')
os.rename('dir/sub/moved', 'dir/back')
os.mkdir('dir/made')
os.unlink('dir/new')
";
        python(a.mount(), act, &[]);
        let mut seen = Vec::new();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watcher, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            seen.push((event.events(), name));
        }
        use inotify::ReadFlags as Flags;
        let expected = [
            (Flags::CREATE, "new"),
            (Flags::MODIFY, "new"),
            (Flags::CLOSE_WRITE, "new"),
            (Flags::MODIFY, "old"),
            (Flags::CLOSE_WRITE, "old"),
            (Flags::ATTRIB, "old"),
            (Flags::MOVED_FROM, "old"),
            (Flags::MOVED_TO, "older"),
            (Flags::MOVED_FROM, "older"),
            (Flags::MOVED_TO, "back"),
            (Flags::CREATE, "made"),
            (Flags::DELETE, "new"),
        ];
        let mut rest = seen.iter();
        for (what, name) in expected {
            let found = rest.any(|(events, other)| events.contains(what) && other == name);
            assert!(found, "{what:?} of {name} is not in {seen:?}");
        }
    }
}

/// Files in the large directory. The long form: TORNET_NAMES=100000.
fn many() -> usize {
    std::env::var("TORNET_NAMES").map_or(20_000, |text| text.parse().unwrap())
}

// Promise 14 of tornet(7).
#[test]
fn large_directory_is_listed_whole_and_emptied_while_it_is_read() {
    if !have(&["python3", "rm"]) {
        return;
    }
    let lab = Lab::new();
    let a = mounted(&lab, "rw");
    let count = many();
    let (here, text) = (a.mount().to_path_buf(), count.to_string());
    let make = "
import os, sys
os.mkdir(sys.argv[1])
for number in range(int(sys.argv[2])): os.close(os.open(f'{sys.argv[1]}/{number}', os.O_WRONLY | os.O_CREAT, 0o644))
";
    python(&here, make, &["many", &text]);
    let names = || fs::read_dir(a.path("many")).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let listed: BTreeSet<_> = names().into_iter().collect();
    assert_eq!((names().len(), listed.len()), (count, count));
    // The kernel now keeps the listing, which goes stale with the first removal.
    let empty = "
import os, sys
seen = set()
with os.scandir('many') as entries:
    for entry in entries:
        assert entry.name not in seen
        seen.add(entry.name)
        os.unlink(entry.path)
assert len(seen) == int(sys.argv[1]), len(seen)
os.rmdir('many')
";
    python(&here, empty, &[&text]);
    // A place in a listing stays what it is while names before and after it go.
    python(&here, make, &["many", "3000"]);
    let places = "
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
class Entry(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('len', ctypes.c_ushort), ('kind', ctypes.c_ubyte), ('name', ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype, libc.readdir.argtypes = ctypes.POINTER(Entry), [ctypes.c_void_p]
libc.telldir.restype, libc.telldir.argtypes = ctypes.c_long, [ctypes.c_void_p]
libc.seekdir.restype, libc.seekdir.argtypes = None, [ctypes.c_void_p, ctypes.c_long]
libc.rewinddir.restype, libc.rewinddir.argtypes = None, [ctypes.c_void_p]
os.listdir('many')
stream = libc.opendir(b'many')
def rest():
    names = []
    while entry := libc.readdir(stream): names.append(entry.contents.name)
    return names
order = rest()
assert len(order) == 3002, len(order)
libc.rewinddir(stream)
for _ in range(1000): libc.readdir(stream)
place = libc.telldir(stream)
assert rest() == order[1000:]
gone = [name for name in order[:900] + order[2900:] if name not in (b'.', b'..')]
for name in gone: os.unlink(b'many/' + name)
libc.seekdir(stream, place)
# What is gone may still be named until the next rewinding, says POSIX; what is there is named once.
assert [name for name in rest() if name not in gone] == [name for name in order[1000:] if name not in gone]
libc.rewinddir(stream)
assert sorted(rest()) == sorted(set(order) - set(gone))
";
    python(&here, places, &[]);
    // And as everybody does it, after a look.
    python(&here, make, &["again", &text]);
    assert_eq!(fs::read_dir(a.path("again")).unwrap().count(), count);
    harness::program::run(&here, "rm -r again many");
    assert_eq!(fs::read_dir(&here).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() == "again").count(), 0);
    fs::write(a.path("last"), noise(1, 100)).unwrap();
    assert_published(&a, "");
}

// Promise 14 of tornet(7).
#[test]
fn bytes_once_read_are_read_again_from_memory_while_the_node_stands_still() {
    for options in DATA_PATHS {
        let lab = Lab::new();
        let a = mounted(&lab, options);
        fs::write(a.path("file"), noise(3, 3 << 20)).unwrap();
        let reference = a.reference(&a.stored(&a.path("file")));
        for path in [a.path("file"), reference] {
            assert!(fs::read(&path).unwrap() == noise(3, 3 << 20));
            // A kernel may give up pages whenever it likes; what is asked is that opening anew does not.
            let map = Map::new(&fs::File::open(&path).unwrap(), 3 << 20, ProtFlags::READ);
            map.lock();
            let again = fs::File::open(&path).unwrap();
            a.signal(rustix::process::Signal::STOP);
            let what = format!("a read of what is in memory of {}", path.display());
            let (bytes, _) = harness::within(Duration::from_secs(30), &what, move || {
                let mut bytes = vec![0; 3 << 20];
                std::os::unix::fs::FileExt::read_exact_at(&again, &mut bytes, 0).unwrap();
                // Closing would ask the node.
                std::mem::forget(again);
                bytes
            });
            a.signal(rustix::process::Signal::CONT);
            assert!(bytes == noise(3, 3 << 20));
        }
    }
}
