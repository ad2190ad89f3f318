//! Trees to publish, and what is compared after they went through the swarm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Bytes that look random and are the same on every run.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Small pseudo-random numbers for choosing offsets and moments.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        // splitmix64 (Steele, Lea and Flood 2014)
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// What is compared of one file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// File, directory or symbolic link.
    pub kind: &'static str,
    /// Permission bits; not of links.
    pub mode: u32,
    /// Seconds and nanoseconds of the last change.
    pub mtime: (i64, i64),
    /// Bytes of a file.
    pub size: u64,
    /// Hash of a file's bytes, or the target of a link.
    pub body: Vec<u8>,
    /// Extended attributes of the `user.` name space, without ours.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Everything below `root` by its path there; the root itself under the empty path, without its times.
pub fn snapshot(root: &Path) -> BTreeMap<PathBuf, Item> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(place) = open.pop() {
        let path = if place.as_os_str().is_empty() { root.to_path_buf() } else { root.join(&place) };
        let meta = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("stat {}: {error}", path.display()));
        let (kind, size, body) = if meta.is_symlink() {
            let target = fs::read_link(&path).unwrap_or_else(|error| panic!("readlink {}: {error}", path.display()));
            ("link", 0, target.as_os_str().as_bytes().to_vec())
        } else if meta.is_dir() {
            for entry in fs::read_dir(&path).unwrap_or_else(|error| panic!("list {}: {error}", path.display())) {
                let entry = entry.unwrap_or_else(|error| panic!("list {}: {error}", path.display()));
                open.push(place.join(entry.file_name()));
            }
            ("directory", 0, Vec::new())
        } else {
            ("file", meta.size(), hash(&path).to_vec())
        };
        let item = Item {
            kind,
            mode: if meta.is_symlink() { 0 } else { meta.mode() & 0o777 },
            mtime: if place.as_os_str().is_empty() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) },
            size,
            body,
            xattrs: if meta.is_symlink() { BTreeMap::new() } else { xattrs(&path) },
        };
        found.insert(place, item);
    }
    found
}

fn hash(path: &Path) -> [u8; 32] {
    let mut file = fs::File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    *hasher.finalize().as_bytes()
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(_) => return BTreeMap::new(),
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if name.starts_with("user.") && !name.starts_with("user.tornet.") {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            found.insert(name.to_string(), value[..length].to_vec());
        }
    }
    found
}

/// Both trees are the same: names, kinds, modes, times, sizes, bytes, targets, attributes.
#[track_caller]
pub fn assert_same(want: &Path, got: &Path) {
    assert_same_as(&snapshot(want), got);
}

/// The tree at `got` is as was seen before.
#[track_caller]
pub fn assert_same_as(want: &BTreeMap<PathBuf, Item>, got: &Path) {
    let got = snapshot(got);
    let mut faults = Vec::new();
    for (path, item) in want {
        match got.get(path) {
            None => faults.push(format!("{} is missing", path.display())),
            Some(other) if other != item => faults.push(format!("{}: {}", path.display(), difference(item, other))),
            Some(_) => {}
        }
    }
    faults.extend(
        got.keys().filter(|path| !want.contains_key(*path)).map(|path| format!("{} is too much", path.display())),
    );
    faults.truncate(5);
    assert!(faults.is_empty(), "the trees differ:\n{}", faults.join("\n"));
}

fn difference(want: &Item, got: &Item) -> String {
    if want.body != got.body && want.kind == "file" && want.size == got.size {
        return "other bytes".into();
    }
    format!("{} instead of {}", short(got), short(want))
}

fn short(item: &Item) -> String {
    let Item { kind, mode, mtime, size, xattrs, .. } = item;
    format!("{kind} {mode:o} of {size} bytes, {mtime:?}, {xattrs:?}")
}

fn set_mtime(path: &Path, seconds: u64, nanos: u32) {
    let file = fs::File::open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::new(seconds, nanos)).unwrap();
}

/// A tree with one of everything that is published: sizes round every border, odd names, modes, times, links, attributes.
pub fn make_varied(root: &Path) {
    fs::create_dir_all(root).unwrap();
    // Inline, packed, lone chunk, one stripe of several shards, more than one stripe's worth of slices.
    let sizes = [0, 1, 1023, 1024, 1025, 16_384, 65_535, 65_536, 131_072, 131_073, 1_048_576, 1_048_577, 3_000_000];
    for (place, size) in sizes.into_iter().enumerate() {
        fs::write(root.join(format!("size-{size}")), noise(place as u64, size)).unwrap();
    }
    let deep = root.join("deep/er/still");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("leaf"), b"at the bottom").unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for name in
        ["name with spaces", "Zürich-東京", "-leading-dash", ".hidden", "back\\slash", "new\nline", "tab\tquote'\""]
    {
        fs::write(root.join(name), name).unwrap();
    }
    let not_utf8 = std::ffi::OsStr::from_bytes(b"latin-\xe9");
    fs::write(root.join(not_utf8), b"bytes").unwrap();
    fs::write(root.join("x".repeat(255)), b"longest name").unwrap();
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for place in 0..300 {
        fs::write(many.join(format!("f{place:03}")), noise(1000 + place, (place as usize * 37) % 5000)).unwrap();
    }
    symlink("size-1024", root.join("link")).unwrap();
    symlink("no/such/thing", root.join("dangling")).unwrap();
    symlink("../".repeat(100), root.join("long-link")).unwrap();
    for (name, mode) in
        [("size-1", 0o600), ("size-1023", 0o755), ("size-1025", 0o444), ("empty", 0o700), ("deep/er", 0o750)]
    {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join(name), "user.note", value, rustix::fs::XattrFlags::empty()).is_ok()
    };
    // Not every temporary file system takes these; where it does not, they are not compared either.
    if set("size-16384", b"a small attribute") {
        assert!(set("deep", b"\x00\xffbinary"));
    }
    set_mtime(&root.join("size-65536"), 1, 1);
    set_mtime(&root.join("size-1048576"), 4_000_000_000, 999_999_999);
    set_mtime(&root.join("empty"), 1_234_567_890, 123_456_789);
}

/// `count` files of `size` bytes, a hundred to a directory.
pub fn make_many(root: &Path, count: usize, size: usize) {
    for place in 0..count {
        let dir = root.join(format!("d{:03}", place / 100));
        if place % 100 == 0 {
            fs::create_dir_all(&dir).unwrap();
        }
        fs::write(dir.join(format!("f{place:05}")), noise(place as u64, size)).unwrap();
    }
}

/// A real source tree: this repository's `.git` and `src` where they are, else a made one of the same kind.
pub fn make_source(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    super::shell(&format!("cp -a '{}/src' '{}/src'", here.display(), root.display()));
    if here.join(".git").is_dir() {
        super::shell(&format!("cp -a '{}/.git' '{}/.git'", here.display(), root.display()));
    } else {
        // A work tree or an unpacked archive: a repository made of what is here, with its objects loose and packed.
        super::shell(&format!(
            "cd '{}' && git init -q && git -c user.name=t -c user.email=t@example.org add -A \
             && git -c user.name=t -c user.email=t@example.org commit -qm all && cp -a .git .git-loose && git gc -q",
            root.display()
        ));
    }
    // Whatever the history's size: files that fill whole stripes.
    fs::write(root.join("movie"), noise(77, 9 * 1024 * 1024 + 12_345)).unwrap();
}
