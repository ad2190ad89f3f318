//! The engine as the swarm of a mount.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::io::Errno;
use serde::Serialize;

use super::error::{Error, Result};
use super::outcome::{Outcome, Waiting};
use super::swarm::{
    AskOpenFiles, Leads, MayBeMapped, Reach, Remote, RemoteContent, RemoteDirectory, RemoteEntry, RemoteFile,
    RemoteKind, Swarm,
};
use crate::base::text::TextError;
use crate::content::directory::EntryBody;
use crate::content::reference::{Kind, RootRef};
use crate::engine::{
    Child, DirectoryHandle, Engine, FileHandle, MountStatus, NameError, PublishError, ReadError, ReadErrorKind, Reader,
    SealError, TreeNode,
};
use crate::store::StoreError;

/// Entries taken from a directory at once.
const ENTRIES_AT_ONCE: usize = 512;
/// How much longer than its deadline a read may take before it is given up from here.
const GRACE: Duration = Duration::from_secs(5);

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Error {
        let errno = match error.kind {
            ReadErrorKind::NotFound => Errno::NOENT,
            ReadErrorKind::Timeout => Errno::TIMEDOUT,
            ReadErrorKind::Damaged | ReadErrorKind::BadManifest | ReadErrorKind::Store => Errno::IO,
            ReadErrorKind::Price => Errno::DQUOT,
            ReadErrorKind::Stopped => Errno::NOTCONN,
        };
        Error::because(errno, error.detail)
    }
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Error {
        let errno = match &error {
            PublishError::Seal(SealError::Store(StoreError::Full)) => Errno::NOSPC,
            _ => Errno::IO,
        };
        Error::because(errno, error.to_string())
    }
}

impl From<RootRef> for Leads {
    fn from(root: RootRef) -> Leads {
        Leads { reference: root.to_string(), directory: root.kind == Kind::Directory }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Error {
        let errno = match &error {
            NameError::Unknown(_) => Errno::NOENT,
            NameError::NotFound(_) => Errno::TIMEDOUT,
            NameError::Stopped => Errno::NOTCONN,
            _ => Errno::IO,
        };
        Error::because(errno, error.to_string())
    }
}

impl From<TextError> for Error {
    fn from(error: TextError) -> Error {
        let errno = match error {
            TextError::Newer(_) | TextError::UnknownKind(_) => Errno::PROTONOSUPPORT,
            _ => Errno::NOENT,
        };
        Error::because(errno, error.to_string())
    }
}

/// Tells where the node is mounted now.
pub type WhereMounted = Arc<dyn Fn() -> MountStatus + Send + Sync>;

/// A running node behind a mount.
#[derive(Clone)]
pub struct EngineSwarm {
    engine: Engine,
    mounted: WhereMounted,
}

impl EngineSwarm {
    /// The node `engine`, mounted there.
    pub fn new(engine: Engine, mounted: WhereMounted) -> EngineSwarm {
        EngineSwarm { engine, mounted }
    }

    fn access(&self) -> Access {
        Access { reader: self.engine.reader().clone(), deadline: self.engine.settings().read_deadline }
    }

    fn own_reference(&self, path: &Path, text: fn(&RootRef) -> String) -> Waiting<Option<String>> {
        let (writer, path) = (self.engine.writer().clone(), path.to_path_buf());
        Box::pin(async move {
            // A small file's node is sealed when it is first asked for.
            let found = tokio::task::spawn_blocking(move || writer.reference(&path)).await;
            let found = found.map_err(|_| Error::because(Errno::IO, "the node is stopping"))?;
            let found = found.map_err(Error::from)?;
            Ok(found.as_ref().map(text))
        })
    }
}

/// How published trees are read.
#[derive(Clone)]
struct Access {
    reader: Reader,
    deadline: Duration,
}

impl Access {
    /// Waits for `work`, which has a deadline of its own, a little longer than that.
    async fn bounded<T>(&self, work: impl Future<Output = std::result::Result<T, ReadError>>) -> Result<T> {
        match tokio::time::timeout(self.deadline + GRACE, work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Error::because(Errno::TIMEDOUT, "the node did not answer in time")),
        }
    }

    fn remote(&self, node: TreeNode) -> Result<Remote> {
        let access = self.clone();
        Ok(match node {
            TreeNode::File(file) => Remote::File(Arc::new(EngineFile { access, file })),
            TreeNode::Directory(directory) => Remote::Directory(Arc::new(EngineDirectory { access, directory })),
            TreeNode::Symlink(_) => return Err(Errno::LOOP.into()),
        })
    }
}

struct EngineFile {
    access: Access,
    file: Arc<FileHandle>,
}

struct EngineDirectory {
    access: Access,
    directory: Arc<DirectoryHandle>,
}

struct EngineContent {
    access: Access,
    directory: Arc<DirectoryHandle>,
    child: Child,
}

/// What they hold is keys: none of it is shown.
macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque!(EngineSwarm, EngineFile, EngineDirectory, EngineContent);

impl RemoteFile for EngineFile {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn executable(&self) -> bool {
        self.file.executable()
    }

    fn read(&self, offset: u64, len: u32) -> Waiting<Bytes> {
        let (access, file) = (self.access.clone(), self.file.clone());
        Box::pin(async move { access.bounded(access.reader.read(&file, offset, len as usize, access.deadline)).await })
    }
}

impl EngineDirectory {
    fn entry(&self, child: Child) -> RemoteEntry {
        let kind = match &child.body {
            EntryBody::Directory(_) => RemoteKind::Directory,
            EntryBody::Symlink(target) => RemoteKind::Symlink(target.clone()),
            EntryBody::Inline(_) | EntryBody::Packed { .. } | EntryBody::File(_) => RemoteKind::File,
        };
        RemoteEntry {
            name: child.name.clone(),
            kind,
            mode: child.mode,
            mtime: child.mtime,
            size: child.size,
            xattrs: child.xattrs.clone(),
            content: Arc::new(EngineContent { access: self.access.clone(), directory: self.directory.clone(), child }),
        }
    }

    fn again(&self) -> EngineDirectory {
        EngineDirectory { access: self.access.clone(), directory: self.directory.clone() }
    }
}

impl RemoteDirectory for EngineDirectory {
    fn find(&self, name: &[u8]) -> Waiting<Option<RemoteEntry>> {
        let (this, name) = (self.again(), name.to_vec());
        Box::pin(async move {
            let Access { reader, deadline } = &this.access;
            let found = this.access.bounded(reader.lookup(&this.directory, &name, *deadline)).await?;
            Ok(found.map(|child| this.entry(child)))
        })
    }

    fn list(&self, after: Option<&[u8]>) -> Waiting<Vec<RemoteEntry>> {
        let (this, after) = (self.again(), after.map(<[u8]>::to_vec));
        Box::pin(async move {
            let Access { reader, deadline } = &this.access;
            let listing = reader.list(&this.directory, after.as_deref(), ENTRIES_AT_ONCE, *deadline);
            let found = this.access.bounded(listing).await?;
            Ok(found.into_iter().map(|child| this.entry(child)).collect())
        })
    }
}

impl RemoteContent for EngineContent {
    fn open(&self) -> Waiting<Remote> {
        let (access, directory, child) = (self.access.clone(), self.directory.clone(), self.child.clone());
        Box::pin(async move {
            let opened = access.bounded(access.reader.open(&directory, &child, access.deadline)).await?;
            access.remote(opened)
        })
    }

    fn reference(&self) -> Option<String> {
        let (kind, node) = match &self.child.body {
            EntryBody::File(node) => (Kind::File, *node),
            EntryBody::Directory(node) => (Kind::Directory, *node),
            // Its bytes stand in the directory: it has no node to refer to.
            EntryBody::Inline(_) | EntryBody::Packed { .. } | EntryBody::Symlink(_) => return None,
        };
        Some(RootRef { kind, node }.to_string())
    }
}

/// The file `.tornet/publishing`.
#[derive(Serialize)]
struct Publishing {
    staged: u64,
    sealing: Option<crate::engine::Work>,
    hosting: crate::engine::Work,
    tree: Option<String>,
}

fn text(value: &impl Serialize) -> Vec<u8> {
    // Plain structures of numbers and text: nothing in them can fail to be written.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

impl Swarm for EngineSwarm {
    fn resolve(&self, reference: &str) -> Result<Waiting<Remote>> {
        let reference: RootRef = reference.parse()?;
        let access = self.access();
        Ok(Box::pin(async move {
            let node = access.bounded(access.reader.resolve(&reference, access.deadline)).await?;
            access.remote(node)
        }))
    }

    fn names(&self) -> Vec<(String, Option<Leads>)> {
        self.engine.names().all().into_iter().map(|(name, root)| (name, root.map(Leads::from))).collect()
    }

    fn named(&self, name: &str) -> Option<Outcome<Leads>> {
        if let Some(root) = self.engine.names().current(name)? {
            return Some(Outcome::Now(Ok(root.into())));
        }
        let (names, name) = (self.engine.names().clone(), name.to_string());
        let deadline = self.engine.settings().read_deadline;
        Some(Outcome::later(async move { Ok(names.resolve(&name, deadline).await?.into()) }))
    }

    fn changed(&self, path: &Path, reach: Reach) {
        match reach {
            Reach::Here => self.engine.writer().changed(path),
            Reach::Below => self.engine.writer().changed_below(path),
        }
    }

    fn rewritten(&self, file: (u64, u64), since: SystemTime) {
        self.engine.writer().rewritten(file, since);
    }

    fn may_be_mapped(&self, known: MayBeMapped) {
        self.engine.writer().may_be_mapped(known);
    }

    fn ask_open_files(&self, ask: AskOpenFiles) {
        self.engine.writer().ask_open_files(ask);
    }

    fn state(&self, path: &Path) -> String {
        self.engine.writer().state(path).to_string()
    }

    fn reference(&self, path: &Path) -> Waiting<Option<String>> {
        self.own_reference(path, RootRef::to_string)
    }

    fn verify_reference(&self, path: &Path) -> Waiting<Option<String>> {
        self.own_reference(path, |reference| reference.verify().to_string())
    }

    fn control_names(&self) -> &'static [&'static str] {
        &["status", "peers", "balances", "payments", "publishing"]
    }

    fn control(&self, name: &str) -> Waiting<Vec<u8>> {
        let (this, name) = (self.clone(), name.to_string());
        Box::pin(async move {
            let engine = &this.engine;
            if name == "peers" {
                return Ok(text(&engine.peers()));
            }
            if name == "payments" {
                return Ok(text(&engine.payments().await));
            }
            if name == "balances" {
                return Ok(text(&engine.balances().await));
            }
            let status = engine.status((this.mounted)()).await;
            if name == "status" {
                return Ok(text(&status));
            }
            Ok(text(&Publishing {
                staged: status.staged,
                sealing: status.publishing,
                hosting: status.hosting,
                tree: status.tree,
            }))
        })
    }
}
