//! Published trees below `ref` and `names`: read-only, unchanging, fetched when asked for. When a mutable name moves, another tree
//! stands in its place: who is in the old one, or has something of it open, stays there, and nobody sees a mixture of both.

use crate::base::sync::lock;
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::FileType;
use rustix::io::Errno;
use tokio::sync::OnceCell;

use super::attr::{Attr, Entry, Item, KEPT, Listing, Lookup, Opened};
use super::control::{NAMES, Owner, REF, unknown};
use super::error::{Error, Result};
use super::foreign_list::OpenForeignDirectory;
use super::handle::Handles;
use super::outcome::{Outcome, Waiting};
use super::refusal::Refusals;
use super::swarm::{Leads, Remote, RemoteContent, RemoteDirectory, RemoteEntry, RemoteFile, RemoteKind, Swarm};
use crate::base::text;
use crate::base::time::Timestamp;

/// Set in the number of every node of this kind.
pub(crate) const FOREIGN: u64 = 1 << 63;

/// How long the kernel may take a mutable name for what it was.
const NAME_KEPT: Duration = Duration::from_secs(1);

/// Preferred size of requests.
const BLOCK_BYTES: u32 = 128 << 10;

/// A file or directory of a published tree that the kernel knows by number. The number is its inode number too, and comes
/// from its path by a hash, so it is the same in every mount.
#[derive(Debug)]
pub(super) struct ForeignNode {
    pub(super) id: u64,
    above: Above,
    pub(super) name: Vec<u8>,
    pub(super) attr: Attr,
    kind: RemoteKind,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Option<Arc<dyn RemoteContent>>,
    opened: OnceCell<Remote>,
}

/// What a node stands in.
#[derive(Debug, Clone)]
enum Above {
    /// Another directory.
    Directory(Arc<ForeignNode>),
    /// `ref`, as its own reference.
    Ref,
    /// `names`: it leads to this reference.
    Names(String),
}

/// The top of a tree that a mutable name leads to, not fetched yet.
struct Top {
    swarm: Arc<dyn Swarm>,
    reference: String,
}

impl std::fmt::Debug for Top {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Top").finish_non_exhaustive()
    }
}

impl RemoteContent for Top {
    fn open(&self) -> Waiting<Remote> {
        match self.swarm.resolve(&self.reference) {
            Ok(waiting) => waiting,
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn reference(&self) -> Option<String> {
        Some(self.reference.clone())
    }
}

impl Above {
    fn id(&self) -> u64 {
        match self {
            Above::Directory(parent) => parent.id,
            Above::Ref => REF,
            Above::Names(_) => NAMES,
        }
    }

    /// What tells a node in it from others: its name, and of a mutable name also what that leads to.
    fn label<'a>(&self, name: &'a [u8]) -> Cow<'a, [u8]> {
        match self {
            Above::Directory(_) | Above::Ref => Cow::Borrowed(name),
            Above::Names(reference) => Cow::Owned([name, b"\0", reference.as_bytes()].concat()),
        }
    }

    /// For how long the kernel may take a name in it for what it was.
    fn kept(&self) -> Duration {
        match self {
            Above::Directory(_) | Above::Ref => KEPT,
            Above::Names(_) => NAME_KEPT,
        }
    }
}

impl ForeignNode {
    /// Where it is below the mount point.
    pub(super) fn path(&self) -> PathBuf {
        let mut names = vec![self.name.as_slice()];
        let mut above = &self.above;
        let top = loop {
            match above {
                Above::Directory(node) => {
                    names.push(&node.name);
                    above = &node.above;
                }
                Above::Ref => break "ref",
                Above::Names(_) => break "names",
            }
        };
        let below: PathBuf = names.iter().rev().map(|name| OsStr::from_bytes(name)).collect();
        Path::new(top).join(below)
    }

    /// The node made ready to be read; fetches its manifest the first time.
    async fn remote(&self) -> Result<&Remote> {
        let Some(content) = &self.content else { return self.opened.get().ok_or(Errno::STALE.into()) };
        self.opened.get_or_try_init(|| content.open()).await
    }

    pub(super) async fn directory(&self) -> Result<Arc<dyn RemoteDirectory>> {
        match self.remote().await? {
            Remote::Directory(directory) => Ok(directory.clone()),
            Remote::File(_) => Err(Errno::NOTDIR.into()),
        }
    }

    async fn file(&self) -> Result<Arc<dyn RemoteFile>> {
        match self.remote().await? {
            Remote::File(file) => Ok(file.clone()),
            Remote::Directory(_) => Err(Errno::ISDIR.into()),
        }
    }
}

/// For how long a read that timed out is not tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Reads remembered that timed out.
const TIMED_OUT_MAX: usize = 16;

/// An open published file.
#[derive(Debug)]
struct OpenForeignFile {
    node: Arc<ForeignNode>,
    file: Arc<dyn RemoteFile>,
    /// Reads that timed out lately. The kernel reads ahead, and reads what it then lacks once more, page by page: each of
    /// those would wait for a deadline of its own.
    timed_out: Mutex<VecDeque<(Instant, Range<u64>, Error)>>,
}

impl OpenForeignFile {
    fn timed_out(&self, range: &Range<u64>) -> Option<Error> {
        let mut reads = lock(&self.timed_out);
        reads.retain(|(when, _, _)| when.elapsed() < RETRY_PAUSE);
        let overlaps = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        reads.iter().find(|(_, other, _)| overlaps(other)).map(|(_, _, error)| error.clone())
    }

    fn note(&self, range: Range<u64>, error: &Error) {
        if error.errno == Errno::TIMEDOUT {
            let mut reads = lock(&self.timed_out);
            reads.truncate(TIMED_OUT_MAX - 1);
            reads.push_front((Instant::now(), range, error.clone()));
        }
    }
}

/// All published trees in use.
pub(crate) struct Foreign {
    swarm: Arc<dyn Swarm>,
    owner: Owner,
    refusals: Arc<Refusals>,
    nodes: Mutex<HashMap<u64, (Arc<ForeignNode>, u64)>>,
    files: Handles<OpenForeignFile>,
    pub(super) directories: Handles<OpenForeignDirectory>,
}

impl Foreign {
    pub(crate) fn new(swarm: Arc<dyn Swarm>, owner: Owner, refusals: Arc<Refusals>) -> Foreign {
        Foreign {
            swarm,
            owner,
            refusals,
            nodes: Mutex::default(),
            files: Handles::default(),
            directories: Handles::default(),
        }
    }

    pub(super) fn find(&self, id: u64) -> Result<Arc<ForeignNode>> {
        lock(&self.nodes).get(&id).map(|(node, _)| node.clone()).ok_or(Errno::STALE.into())
    }

    /// The number of `name` in `parent`, the `salt`-th try.
    pub(super) fn number(parent: u64, name: &[u8], salt: u8) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&parent.to_le_bytes()).update(&[salt]).update(name);
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        // Without the bit of the control files, which tells the families apart.
        (u64::from_le_bytes(number) | FOREIGN) & !super::control::CONTROL
    }

    /// The node already known by `label` in `parent`, counting one look-up.
    fn known(&self, parent: u64, label: &[u8]) -> Option<Entry> {
        let mut nodes = lock(&self.nodes);
        for salt in 0..=u8::MAX {
            let (node, lookups) = nodes.get_mut(&Self::number(parent, label, salt))?;
            if node.above.id() == parent && *node.above.label(&node.name) == *label {
                *lookups = lookups.saturating_add(1);
                return Some(Entry { node: node.id, attr: node.attr, kept: node.above.kept() });
            }
        }
        None
    }

    /// Takes a node in, counting one look-up.
    fn intern(&self, above: Above, found: Found) -> Result<Entry> {
        let (parent, label) = (above.id(), above.label(&found.name));
        if let Some(entry) = self.known(parent, &label) {
            return Ok(entry);
        }
        let mut nodes = lock(&self.nodes);
        let free = (0..=u8::MAX).map(|salt| Self::number(parent, &label, salt)).find(|id| !nodes.contains_key(id));
        let id = free.ok_or(Errno::NFILE)?;
        let kept = above.kept();
        let node = found.into_node(id, above, self.owner);
        let entry = Entry { node: id, attr: node.attr, kept };
        nodes.insert(id, (Arc::new(node), 1));
        Ok(entry)
    }

    pub(super) fn intern_entry(&self, parent: &Arc<ForeignNode>, entry: RemoteEntry) -> Result<Entry> {
        self.intern(Above::Directory(parent.clone()), Found::from(entry))
    }

    pub(crate) fn forget(&self, id: u64, lookups: u64) {
        let mut nodes = lock(&self.nodes);
        if let Some((_, count)) = nodes.get_mut(&id) {
            *count = count.saturating_sub(lookups);
            if *count == 0 {
                let node = nodes.remove(&id);
                drop(nodes); // its last owner may be here
                drop(node);
            }
        }
    }

    pub(crate) fn attr(&self, id: u64) -> Result<Attr> {
        Ok(self.find(id)?.attr)
    }

    /// Passes `result`, of the path as a whole or of these bytes, on, remembering why if it is a refusal.
    pub(super) fn noted<T>(
        &self,
        path: impl FnOnce() -> PathBuf,
        bytes: Option<Range<u64>>,
        result: Result<T>,
    ) -> Result<T> {
        match &result {
            Ok(_) => self.refusals.served(path, bytes.as_ref()),
            Err(Error { reason: Some(reason), .. }) => self.refusals.note(&path(), bytes, reason),
            Err(_) => {}
        }
        result
    }

    pub(crate) fn lookup(self: &Arc<Self>, parent: u64, name: &OsStr) -> Outcome<Lookup> {
        match parent {
            REF => return self.lookup_reference(&text::canonical(&name.to_string_lossy())),
            NAMES => return self.lookup_mutable(name),
            _ => {}
        }
        match self.known(parent, name.as_bytes()) {
            Some(entry) => Outcome::Now(Ok(Lookup::Found(entry))),
            None => self.lookup_name(parent, name),
        }
    }

    /// Other names than those that begin as references do are simply not there, so that programs may look for their files in `ref`.
    fn lookup_reference(self: &Arc<Self>, name: &str) -> Outcome<Lookup> {
        if let Some(entry) = self.known(REF, name.as_bytes()) {
            return Outcome::Now(Ok(Lookup::Found(entry)));
        }
        if !name.starts_with(text::PREFIX) {
            return Outcome::Now(Ok(Lookup::Missing(KEPT)));
        }
        let path = Path::new("ref").join(name);
        let text = name.to_string();
        let waiting = match self.noted(|| path.clone(), None, self.swarm.resolve(&text)) {
            Ok(waiting) => waiting,
            Err(error) => return Outcome::refused(error),
        };
        let this = self.clone();
        Outcome::later(async move {
            let remote = this.noted(|| path, None, waiting.await)?;
            Ok(Lookup::Found(this.intern(Above::Ref, Found::root(text.into_bytes(), remote))?))
        })
    }

    /// Where a mutable name leads: what is known already is found without waiting for anybody.
    fn lookup_mutable(self: &Arc<Self>, name: &OsStr) -> Outcome<Lookup> {
        // Names come and go without a word to the kernel.
        let Some(leads) = name.to_str().and_then(|name| self.swarm.named(name)) else {
            return Outcome::Now(Ok(Lookup::Missing(Duration::ZERO)));
        };
        if let Outcome::Now(Ok(leads)) = &leads
            && let Some(entry) = self.named(name.as_bytes(), leads)
        {
            return Outcome::Now(entry.map(Lookup::Found));
        }
        let (this, name) = (self.clone(), name.as_bytes().to_vec());
        Outcome::later(async move {
            let path = || Path::new("names").join(OsStr::from_bytes(&name));
            let found = async {
                let leads = leads.wait().await?;
                if let Some(entry) = this.named(&name, &leads) {
                    return entry;
                }
                let remote = this.swarm.resolve(&leads.reference)?.await?;
                this.intern(Above::Names(leads.reference), Found::root(name.clone(), remote))
            };
            Ok(Lookup::Found(this.noted(path, None, found.await)?))
        })
    }

    /// The top of the tree that a mutable name leads to, counting one look-up, if no peer need be asked for its attributes: those of a
    /// directory are always the same, those of a file are known once it was opened.
    fn named(&self, name: &[u8], leads: &Leads) -> Option<Result<Entry>> {
        let above = Above::Names(leads.reference.clone());
        if let Some(entry) = self.known(NAMES, &above.label(name)) {
            return Some(Ok(entry));
        }
        let top = Top { swarm: self.swarm.clone(), reference: leads.reference.clone() };
        leads.directory.then(|| self.intern(above, Found::directory(name.to_vec(), Arc::new(top))))
    }

    /// Lists the mutable names. Those that lead to something unknown are shown as directories, which most become.
    pub(super) fn list_names(&self, offset: u64, listing: &mut dyn Listing) {
        let dots = [".", ".."].into_iter().map(|name| (name.to_string(), None));
        let names = self.swarm.names().into_iter().map(|(name, leads)| (name, Some(leads)));
        for (index, (name, leads)) in dots.chain(names).enumerate().skip(offset.min(1 << 32) as usize) {
            let entry = match &leads {
                Some(Some(leads)) if listing.wants_attributes() => {
                    self.named(name.as_bytes(), leads).and_then(Result::ok)
                }
                _ => None,
            };
            let (ino, kind) = match (&leads, &entry) {
                (None, _) => (NAMES, FileType::Directory),
                (_, Some(entry)) => (entry.node, entry.attr.kind()),
                (Some(Some(leads)), None) if !leads.directory => (unknown(name.as_bytes()), FileType::RegularFile),
                _ => (unknown(name.as_bytes()), FileType::Directory),
            };
            if !listing.add(&Item { ino, offset: index as u64 + 1, kind, name: name.as_bytes(), entry }) {
                if let Some(entry) = entry {
                    self.forget(entry.node, 1);
                }
                break;
            }
        }
    }

    fn lookup_name(self: &Arc<Self>, parent: u64, name: &OsStr) -> Outcome<Lookup> {
        let node = match self.find(parent) {
            Ok(node) if node.kind == RemoteKind::Directory => node,
            Ok(_) => return Outcome::refused(Errno::NOTDIR),
            Err(error) => return Outcome::refused(error),
        };
        let (this, name) = (self.clone(), name.as_bytes().to_vec());
        Outcome::later(async move {
            let found = async { node.directory().await?.find(&name).await }.await;
            let found = this.noted(|| node.path().join(OsStr::from_bytes(&name)), None, found)?;
            Ok(match found {
                Some(entry) => Lookup::Found(this.intern_entry(&node, entry)?),
                None => Lookup::Missing(KEPT),
            })
        })
    }

    pub(crate) fn readlink(&self, id: u64) -> Result<Vec<u8>> {
        match &self.find(id)?.kind {
            RemoteKind::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    pub(crate) fn open_file(self: &Arc<Self>, id: u64) -> Outcome<Opened> {
        let node = match self.find(id) {
            Ok(node) => node,
            Err(error) => return Outcome::refused(error),
        };
        let this = self.clone();
        let insert = move |node: Arc<ForeignNode>, file| {
            let handle = this.files.insert(OpenForeignFile { node, file, timed_out: Mutex::default() });
            Opened { handle, keep_cache: true, direct: false, no_flush: true, ..Opened::default() }
        };
        if let Some(Remote::File(file)) = node.opened.get() {
            let file = file.clone();
            return Outcome::Now(Ok(insert(node, file)));
        }
        let this = self.clone();
        Outcome::later(async move {
            let file = node.file().await;
            let file = this.noted(|| node.path(), None, file)?;
            Ok(insert(node, file))
        })
    }

    pub(crate) fn read(self: &Arc<Self>, handle: u64, offset: u64, len: u32) -> Outcome<Bytes> {
        let open = match self.files.find(handle) {
            Ok(open) => open,
            Err(error) => return Outcome::refused(error),
        };
        if offset >= open.file.size() {
            return Outcome::Now(Ok(Bytes::new()));
        }
        let range = offset..offset.saturating_add(u64::from(len));
        if let Some(error) = open.timed_out(&range) {
            return Outcome::refused(error);
        }
        let reading: Waiting<Bytes> = open.file.read(offset, len);
        let this = self.clone();
        Outcome::later(async move {
            let read = reading.await.inspect_err(|error| open.note(range.clone(), error));
            this.noted(|| open.node.path(), Some(range), read)
        })
    }

    pub(crate) fn close_file(&self, handle: u64) {
        self.files.remove(handle);
    }

    pub(crate) fn reference(&self, id: u64) -> Result<Option<String>> {
        let node = self.find(id)?;
        Ok(match &node.content {
            Some(content) => content.reference(),
            None => Some(match &node.above {
                Above::Names(reference) => reference.clone(),
                Above::Directory(_) | Above::Ref => String::from_utf8_lossy(&node.name).into_owned(),
            }),
        })
    }
}

/// What a look-up or a listing found, before it has a number.
struct Found {
    name: Vec<u8>,
    kind: RemoteKind,
    mode: u16,
    mtime: Timestamp,
    size: u64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Option<Arc<dyn RemoteContent>>,
    opened: OnceCell<Remote>,
}

impl From<RemoteEntry> for Found {
    fn from(entry: RemoteEntry) -> Found {
        Found {
            name: entry.name,
            kind: entry.kind,
            mode: entry.mode,
            mtime: entry.mtime,
            size: entry.size,
            xattrs: entry.xattrs,
            content: Some(entry.content),
            opened: OnceCell::new(),
        }
    }
}

impl Found {
    /// The top of a published tree that is a directory, and not opened yet.
    fn directory(name: Vec<u8>, content: Arc<dyn RemoteContent>) -> Found {
        Found {
            name,
            kind: RemoteKind::Directory,
            mode: 0o755,
            mtime: Timestamp::default(),
            size: 0,
            xattrs: Vec::new(),
            content: Some(content),
            opened: OnceCell::new(),
        }
    }

    /// The top of a published tree, which carries no attributes.
    fn root(name: Vec<u8>, remote: Remote) -> Found {
        let (kind, mode, size) = match &remote {
            Remote::File(file) => (RemoteKind::File, if file.executable() { 0o755 } else { 0o644 }, file.size()),
            Remote::Directory(_) => (RemoteKind::Directory, 0o755, 0),
        };
        let opened = OnceCell::new_with(Some(remote));
        Found { name, kind, mode, mtime: Timestamp::default(), size, xattrs: Vec::new(), content: None, opened }
    }

    fn into_node(self, id: u64, above: Above, owner: Owner) -> ForeignNode {
        let kind = match self.kind {
            RemoteKind::File => FileType::RegularFile,
            RemoteKind::Directory => FileType::Directory,
            RemoteKind::Symlink(_) => FileType::Symlink,
        };
        // The bits as they were published: a copy then has them too, and can be removed again. Whatever they allow, a change is
        // refused. Set-user-id and its like never come from the network.
        let bits = if kind == FileType::Symlink { 0o777 } else { u32::from(self.mode) & 0o777 };
        // What stands in a directory is counted there, not here.
        let size = if kind == FileType::Directory { 0 } else { self.size.min(i64::MAX as u64) };
        let attr = Attr {
            ino: id,
            size,
            blocks: size.div_ceil(512),
            atime: self.mtime,
            mtime: self.mtime,
            ctime: self.mtime,
            mode: kind.as_raw_mode() | bits,
            nlink: 1,
            uid: owner.uid,
            gid: owner.gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
        };
        let Found { name, kind, xattrs, content, opened, .. } = self;
        ForeignNode { id, above, name, attr, kind, xattrs, content, opened }
    }
}
