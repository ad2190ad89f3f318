//! Mutable names: heads of ours, which move with a path of the own tree, and heads of others that we follow under names of our own choice.
//!
//! What was seen last of a head is on disk and is at hand at once; whether it moved is asked in the background: whenever somebody looks, but not
//! within `FRESH` of the last answer, and from time to time. A move costs a durable row, the look-up of a key and eight messages.

mod name;

use super::record;
use super::swarm::{HeadFound, Swarm};
use super::writer::{PublishError, Writer};
use crate::base::head::HeadId;
use crate::base::limit::{NAME_BYTES_MAX, NAMES_MAX};
use crate::base::path::PathText;
use crate::base::sync::lock;
use crate::base::text::escape;
use crate::content::head::{HeadKey, HeadRef, NONCE_BYTES};
use crate::content::reference::RootRef;
use crate::net::identity::Identity;
use crate::store::{Store, StoreError};
use crate::wire::head::SignedHead;
use name::{Name, latest, open};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

/// Who looks at a name is content with an answer that is no older.
const FRESH: Duration = Duration::from_secs(5);
/// How often a followed head is asked for that was looked at within `LATELY`, and how often any other.
const OFTEN: Duration = Duration::from_secs(30);
const LATELY: Duration = Duration::from_secs(600);
const SELDOM: Duration = Duration::from_secs(600);
/// Who waited in vain for a name that never led anywhere is followed by nobody for so long.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// How long one waits for the first state of a name of one's own, which no peer has to be asked for.
const OWN_WAIT: Duration = Duration::from_secs(5);
/// How long the top of a tree may take before a name that moved to it shows it.
const TOP_WAIT: Duration = Duration::from_secs(30);
/// A head of ours moves no more often.
const MOVE_PAUSE: Duration = Duration::from_secs(2);
/// When a head is brought to its keepers again: where all keep it, where fewer do than should, and where nobody does.
const BRING_WELL: Duration = Duration::from_secs(6 * 3600);
const BRING_FEW: Duration = Duration::from_secs(600);
const BRING_NONE: Duration = Duration::from_secs(20);
/// So many keepers are enough.
const KEEPERS: usize = 8;
/// How often what is due is looked for, and how long a search waits before it asks once more.
const TICK: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(500);

/// Why something could not be done with a name.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// Not a name.
    #[error(
        "`{0}` cannot be a name: it needs 1 to {NAME_BYTES_MAX} bytes without a slash or control characters, other than . and .."
    )]
    Invalid(String),
    /// There is one of that name.
    #[error("there is a name {0} already: choose another, or remove it with `tornet name remove {0}`")]
    Taken(String),
    /// There is none of that name.
    #[error("there is no name {0}: `tornet name list` shows them")]
    Unknown(String),
    /// Too many.
    #[error("a node has at most {NAMES_MAX} names: remove one with `tornet name remove`")]
    TooMany,
    /// Nothing there that could be published.
    #[error("{0}: a name stands for a file or directory of the own tree, or for a symbolic link to one")]
    NoPath(String),
    /// Nobody told in time where the head leads.
    #[error("it is not known where this name leads: {0}")]
    NotFound(String),
    /// The table of names.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
    /// The engine ends.
    #[error("the node is stopping")]
    Stopped,
}

/// A name, as commands show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// What others follow it by.
    pub reference: String,
    /// The path of the own tree that it stands for; none when it is somebody else's.
    pub path: Option<PathText>,
    /// The reference of the tree that it leads to; none when that is not known yet.
    pub tree: Option<String>,
    /// How often it moved.
    pub number: u64,
    /// Seconds since the swarm was asked; none when that was not done since the node started.
    pub asked: Option<u64>,
    /// Peers that answered then: of one's own those that keep it.
    pub peers: u64,
    /// What is not well with it.
    pub trouble: Option<String>,
}

/// The secrets of our own names come from the node's identity, each by its name: who keeps a copy of that file keeps all of them.
pub(super) struct NameKeys {
    sign: [u8; 32],
    open: [u8; 32],
}

impl NameKeys {
    pub(super) fn of(identity: &Identity) -> NameKeys {
        NameKeys {
            sign: identity.derive("tornet v1 keys that sign names"),
            open: identity.derive("tornet v1 keys that open names"),
        }
    }

    fn signer(&self, name: &str) -> Identity {
        Identity::from_seed(blake3::keyed_hash(&self.sign, name.as_bytes()).as_bytes())
    }

    fn reference(&self, name: &str) -> HeadRef {
        let key = HeadKey(*blake3::keyed_hash(&self.open, name.as_bytes()).as_bytes());
        HeadRef { id: HeadId(self.signer(name).peer().0), key }
    }
}

struct Inner {
    store: Arc<Store>,
    swarm: Swarm,
    writer: Writer,
    reader: super::reader::Reader,
    tree: PathBuf,
    keys: NameKeys,
    names: Mutex<BTreeMap<String, Name>>,
    /// Held while a row is written or deleted, so that the rows are what `names` says.
    rows: tokio::sync::Mutex<()>,
    wake: Notify,
    /// Counts changes of any name.
    changes: watch::Sender<u64>,
}

/// The names of a node. Cheap to clone.
#[derive(Clone)]
pub struct Names {
    inner: Arc<Inner>,
}

impl Names {
    pub(super) fn new(
        store: Arc<Store>,
        swarm: Swarm,
        writer: Writer,
        reader: super::reader::Reader,
        tree: PathBuf,
        keys: NameKeys,
    ) -> Result<Names, StoreError> {
        let mut names = BTreeMap::new();
        for (key, value) in store.state().range(record::NAMES, &[], None, usize::MAX)? {
            match (String::from_utf8(key), Name::from_bytes(&value)) {
                (Ok(text), Ok(name)) => drop(names.insert(text, name)),
                _ => warn!("a name on record cannot be read"),
            }
        }
        let (wake, changes) = (Notify::new(), watch::Sender::new(0));
        let (names, rows) = (Mutex::new(names), tokio::sync::Mutex::default());
        let inner = Inner { store, swarm, writer, reader, tree, keys, names, rows, wake, changes };
        Ok(Names { inner: Arc::new(inner) })
    }

    /// Makes a name that stands for a path of the own tree from now on.
    pub async fn create(&self, text: &str, path: &Path) -> Result<HeadRef, NameError> {
        if let Err(why) = leads_to(&self.inner.tree, path) {
            return Err(NameError::NoPath(why));
        }
        let head = self.inner.keys.reference(text);
        self.add(text, Name::new(head, Some(path.to_path_buf()))).await?;
        Ok(head)
    }

    /// Follows somebody's head under a name of one's own.
    pub async fn follow(&self, text: &str, head: HeadRef) -> Result<(), NameError> {
        self.add(text, Name::new(head, None)).await
    }

    async fn add(&self, text: &str, name: Name) -> Result<(), NameError> {
        if !is_name(text) {
            return Err(NameError::Invalid(escape(text.as_bytes()).to_string()));
        }
        let _rows = self.inner.rows.lock().await;
        {
            let names = lock(&self.inner.names);
            if names.contains_key(text) {
                return Err(NameError::Taken(escape(text.as_bytes()).to_string()));
            }
            if names.len() >= NAMES_MAX {
                return Err(NameError::TooMany);
            }
        }
        self.write(text, &name).await?;
        lock(&self.inner.names).insert(text.to_string(), name);
        self.changed();
        Ok(())
    }

    /// Forgets a name. What is known of a head of ours elsewhere stays there until it expires; made again, the name has the same reference.
    pub async fn remove(&self, text: &str) -> Result<(), NameError> {
        let _rows = self.inner.rows.lock().await;
        if lock(&self.inner.names).remove(text).is_none() {
            return Err(NameError::Unknown(escape(text.as_bytes()).to_string()));
        }
        self.changed();
        let (store, key) = (self.inner.store.clone(), text.as_bytes().to_vec());
        let work = move || store.state().write(true, |tx| tx.delete(record::NAMES, &key));
        tokio::task::spawn_blocking(work).await.map_err(|_| NameError::Stopped)?.map(drop).map_err(NameError::Store)
    }

    /// All names, in order.
    pub fn list(&self) -> Vec<NameStatus> {
        let names = lock(&self.inner.names);
        let status = names.iter().map(|(text, name)| NameStatus {
            name: text.clone(),
            reference: name.head.to_string(),
            path: name.path.clone().map(PathText),
            tree: name.shown.map(|root| root.to_string()),
            number: name.newest.as_ref().map_or(0, |newest| newest.number),
            asked: name.asked.map(|asked| asked.elapsed().as_secs()),
            peers: name.peers as u64,
            trouble: name.trouble.clone(),
        });
        status.collect()
    }

    /// All names, in order, and where they lead as far as is known.
    pub fn all(&self) -> Vec<(String, Option<RootRef>)> {
        lock(&self.inner.names).iter().map(|(text, name)| (text.clone(), name.shown)).collect()
    }

    /// Where a name leads, as far as is known (`Some(None)`: nothing is yet). That somebody looked has the swarm asked.
    pub fn current(&self, text: &str) -> Option<Option<RootRef>> {
        let mut names = lock(&self.inner.names);
        let name = names.get_mut(text)?;
        let now = Instant::now();
        name.looked = Some(now);
        if name.path.is_none() && name.asked.is_none_or(|asked| now >= asked + FRESH) && !name.due {
            name.due = true;
            self.inner.wake.notify_one();
        }
        Some(name.shown)
    }

    /// The same, waiting for it where nothing is known yet.
    pub async fn resolve(&self, text: &str, deadline: Duration) -> Result<RootRef, NameError> {
        let mut changes = self.inner.changes.subscribe();
        let unknown = || NameError::Unknown(escape(text.as_bytes()).to_string());
        let begun = Instant::now();
        loop {
            changes.borrow_and_update();
            if let Some(root) = self.current(text).ok_or_else(unknown)? {
                return Ok(root);
            }
            let until = {
                let mut names = lock(&self.inner.names);
                let name = names.get_mut(text).ok_or_else(unknown)?;
                let until = begun + if name.path.is_some() { deadline.min(OWN_WAIT) } else { deadline };
                // One who waits is enough: a listing would wait for each of them.
                if name.given_up.is_some_and(|at| at.elapsed() < GIVEN_UP) || Instant::now() >= until {
                    name.given_up = name.given_up.filter(|at| at.elapsed() < GIVEN_UP).or(Some(Instant::now()));
                    let trouble = name.trouble.clone().unwrap_or_else(|| "none answered in time".to_string());
                    return Err(NameError::NotFound(trouble));
                }
                until
            };
            if let Ok(Err(_)) = tokio::time::timeout_at(until, changes.changed()).await {
                return Err(NameError::Stopped);
            }
        }
    }

    /// Where somebody's head leads now, whether it is followed or not.
    pub async fn find(&self, head: &HeadRef, deadline: Duration) -> Result<RootRef, NameError> {
        let until = Instant::now() + deadline;
        // What was seen before is never gone back behind.
        let known =
            lock(&self.inner.names).values().find(|name| name.head.id == head.id).and_then(|n| n.newest.clone());
        loop {
            let found = self.inner.swarm.find_head(head.id).await.ok_or(NameError::Stopped)?;
            if let Some(newest) = latest(known.clone(), found.newest) {
                return open(head, &newest).map_err(NameError::NotFound);
            }
            if Instant::now() + AGAIN > until {
                return Err(NameError::NotFound(nobody(found.answered)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Looks after the names until the engine stops.
    pub(super) async fn run(self) {
        let mut passes = self.inner.writer.passes();
        loop {
            let now = Instant::now();
            let due: Vec<String> = {
                let mut names = lock(&self.inner.names);
                let due = names.iter_mut().filter(|(_, name)| name.is_due(now));
                due.map(|(text, name)| {
                    name.busy = true;
                    name.due = false;
                    text.clone()
                })
                .collect()
            };
            for text in due {
                let this = self.clone();
                tokio::spawn(async move { this.tend(&text).await });
            }
            let idle = lock(&self.inner.names).is_empty();
            tokio::select! {
                () = tokio::time::sleep(TICK), if !idle => {}
                () = self.inner.wake.notified() => {}
                moved = passes.changed() => {
                    if moved.is_err() {
                        return;
                    }
                    lock(&self.inner.names).values_mut().filter(|name| name.path.is_some()).for_each(|name| name.due = true);
                }
                () = self.inner.swarm.events.closed() => return,
            }
        }
    }

    async fn tend(&self, text: &str) {
        let Some(name) = lock(&self.inner.names).get(text).cloned() else { return };
        let done = match &name.path {
            Some(path) => self.tend_own(text, &name, path).await,
            None => self.tend_followed(text, &name).await,
        };
        let trouble = match &done {
            Ok(trouble) => trouble.clone(),
            Err(error) => Some(error.to_string()),
        };
        self.update(text, &name.head, |name| {
            name.busy = false;
            name.trouble = trouble;
        });
        if let Err(error) = done {
            warn!(name = %escape(text.as_bytes()), %error, "a name could not be looked after");
        }
        self.changed();
    }

    /// Moves a head of ours if what it stands for was published anew, and brings it to its keepers. Returns what is not well.
    async fn tend_own(&self, text: &str, name: &Name, path: &Path) -> Result<Option<String>, NameError> {
        let root = match self.published(path).await? {
            Ok(root) => root,
            Err(staged) => {
                // The pass that publishes it tells us.
                match name.shown {
                    Some(root) => Ok(root),
                    None => return Ok(Some(staged)),
                }
            }
        };
        let (root, trouble) = match root {
            Ok(root) => (Some(root), None),
            Err(gone) => (None, Some(gone)),
        };
        let mut newest = match (&name.newest, root) {
            (Some(newest), root) if root.is_none() || root == name.shown => newest.clone(),
            (newest, Some(root)) => {
                self.move_on(text, name, newest.as_ref().map_or(0, |newest| newest.number), root).await?
            }
            (_, None) => return Ok(trouble),
        };
        for _ in 0..3 {
            let Some(HeadFound { newest: seen, answered }) = self.inner.swarm.set_head(newest.clone()).await else {
                return Err(NameError::Stopped);
            };
            self.update(text, &name.head, |name| {
                name.asked = Some(Instant::now());
                name.peers = answered;
            });
            match seen.filter(|seen| seen.replaces(&newest)) {
                // An older copy of this node's data was put in its place: what it says now is the newest all the same.
                Some(seen) => {
                    let Ok(root) = open(&name.head, &newest) else { return Ok(trouble) };
                    newest = self.move_on(text, name, seen.number, root).await?;
                }
                None => return Ok(trouble),
            }
        }
        Ok(Some("other nodes know of newer states: is a copy of this node's identity in use elsewhere?".to_string()))
    }

    /// The reference of a path of the own tree, or why it can have none any more; or why it is not known yet.
    async fn published(&self, path: &Path) -> Result<Result<Result<RootRef, String>, String>, NameError> {
        let (writer, tree, path) = (self.inner.writer.clone(), self.inner.tree.clone(), path.to_path_buf());
        let work = move || match leads_to(&tree, &path) {
            Err(gone) => Ok(Ok(Err(gone))),
            Ok(path) => {
                writer.reference(&path).map(|found| found.map(Ok).ok_or_else(|| "not published yet".to_string()))
            }
        };
        let found = tokio::task::spawn_blocking(work).await.map_err(|_| NameError::Stopped)?;
        Ok(found.unwrap_or_else(|error: PublishError| Err(error.to_string())))
    }

    /// Signs a state after `number`; on disk before anybody is told.
    async fn move_on(&self, text: &str, name: &Name, number: u64, root: RootRef) -> Result<SignedHead, NameError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| NameError::Random(error.to_string()))?;
        let HeadRef { id, key } = name.head;
        let number = number + 1;
        let mut head = SignedHead { id, number, sealed: key.seal(&id, number, &root, nonce), signature: [0; 64] };
        head.signature = self.inner.keys.signer(text).sign(&head.signed());
        let moved = Name { newest: Some(head.clone()), shown: Some(root), ..name.clone() };
        self.put(text, &moved).await?;
        info!(name = %escape(text.as_bytes()), number, "name moved");
        self.update(text, &name.head, |name| {
            name.newest = Some(head.clone());
            name.shown = Some(root);
            name.moved = Some(Instant::now());
        });
        Ok(head)
    }

    /// Asks where a head of somebody else leads now. Returns what is not well.
    async fn tend_followed(&self, text: &str, name: &Name) -> Result<Option<String>, NameError> {
        let Some(HeadFound { newest, answered }) = self.inner.swarm.find_head(name.head.id).await else {
            return Err(NameError::Stopped);
        };
        self.update(text, &name.head, |name| {
            name.asked = Some(Instant::now());
            name.peers = answered;
        });
        let Some(newest) = latest(name.newest.clone(), newest) else { return Ok(Some(nobody(answered))) };
        let known = Name { newest: Some(newest.clone()), ..name.clone() };
        if known.newest != name.newest {
            self.put(text, &known).await?;
            self.update(text, &name.head, |name| name.newest = Some(newest.clone()));
        }
        let trouble = self.show(text, known, &newest).await?;
        // Who follows a head keeps it alive while its owner is away.
        if name.brought.is_none_or(|brought| brought.elapsed() >= BRING_WELL) {
            self.update(text, &name.head, |name| name.brought = Some(Instant::now()));
            self.inner.swarm.set_head(newest).await;
        }
        Ok(trouble)
    }

    /// Has a followed name lead where its newest state does, as soon as the top of that tree is here: until then what was shown before is
    /// of more use. Returns what is not well.
    async fn show(&self, text: &str, mut name: Name, newest: &SignedHead) -> Result<Option<String>, NameError> {
        let root = match open(&name.head, newest) {
            Ok(root) if Some(root) == name.shown => return Ok(None),
            Ok(root) => root,
            Err(why) => return Ok(Some(why)),
        };
        if let Err(error) = self.inner.reader.resolve(&root, TOP_WAIT).await {
            return Ok(Some(format!("it has moved to a tree that cannot be read: {error}")));
        }
        name.shown = Some(root);
        self.put(text, &name).await?;
        self.update(text, &name.head, |name| name.shown = Some(root));
        Ok(None)
    }

    /// Changes what is known of a name, unless another has taken its place meanwhile.
    fn update(&self, text: &str, head: &HeadRef, change: impl FnOnce(&mut Name)) {
        if let Some(name) = lock(&self.inner.names).get_mut(text).filter(|name| name.head == *head) {
            change(name);
        }
        self.inner.changes.send_modify(|count| *count += 1);
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|count| *count += 1);
        self.inner.wake.notify_one();
    }

    /// Writes a new state down durably, unless the name was removed meanwhile.
    async fn put(&self, text: &str, name: &Name) -> Result<(), NameError> {
        let _rows = self.inner.rows.lock().await;
        let here = lock(&self.inner.names).get(text).is_some_and(|known| known.head == name.head);
        if here { self.write(text, name).await } else { Ok(()) }
    }

    async fn write(&self, text: &str, name: &Name) -> Result<(), NameError> {
        let (store, key, value) = (self.inner.store.clone(), text.as_bytes().to_vec(), name.to_bytes());
        let work = move || store.state().write(true, |tx| tx.put(record::NAMES, &key, &value));
        tokio::task::spawn_blocking(work).await.map_err(|_| NameError::Stopped)?.map_err(NameError::Store)
    }
}

/// What a path of the own tree stands for, symbolic links followed: another path of it, of a file or directory. Or why there is none.
fn leads_to(tree: &Path, path: &Path) -> Result<PathBuf, String> {
    let shown = escape(path.as_os_str().as_bytes());
    let top = tree.canonicalize().map_err(|error| error.to_string())?;
    let full = tree.join(path).canonicalize().map_err(|error| format!("{shown}: {error}"))?;
    let own = full.strip_prefix(&top).map_err(|_| format!("{shown} leads out of the own tree"))?;
    match std::fs::symlink_metadata(&full) {
        Ok(found) if found.is_file() || found.is_dir() => Ok(own.to_path_buf()),
        Ok(_) => Err(format!("{shown} is neither a file nor a directory")),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

fn nobody(answered: usize) -> String {
    match answered {
        0 => "no peer answered; it is asked for again".to_string(),
        1 => "the one peer that answered does not know it; it is asked for again".to_string(),
        count => format!("none of the {count} peers that answered knows it; it is asked for again"),
    }
}

/// Whether it can be the name of a file, and is fit to be shown.
fn is_name(text: &str) -> bool {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && text != "." && text != "..";
    fits && !text.contains(|c: char| c == '/' || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_within_the_own_tree_is_followed_and_nothing_else_is_taken_for_a_file() {
        let lab = tempfile::tempdir().unwrap();
        let tree = lab.path().join("tree");
        std::fs::create_dir_all(tree.join("release-7/sub")).unwrap();
        for (name, target) in [("current", "release-7"), ("out", ".."), ("lost", "none"), ("round", "round")] {
            std::os::unix::fs::symlink(target, tree.join(name)).unwrap();
        }
        let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        let found = |path: &str| leads_to(&tree, Path::new(path));
        assert_eq!(found(""), Ok(PathBuf::new()));
        assert_eq!(found("current/sub"), Ok(PathBuf::from("release-7/sub")));
        assert_eq!(found("out"), Err("out leads out of the own tree".to_string()));
        assert_eq!(found("socket"), Err("socket is neither a file nor a directory".to_string()));
        assert!(found("lost").is_err() && found("round").is_err() && found("none").is_err());
    }

    fn keys() -> NameKeys {
        NameKeys::of(&Identity::from_seed(&[3; 32]))
    }

    #[test]
    fn a_name_has_the_same_reference_whenever_it_is_made() {
        assert_eq!(keys().reference("films"), keys().reference("films"));
        assert_ne!(keys().reference("films"), keys().reference("film"));
        let other = NameKeys::of(&Identity::from_seed(&[4; 32]));
        assert_ne!(keys().reference("films"), other.reference("films"));
    }

    #[test]
    fn names_are_names_of_files() {
        for good in ["a", "Filme 2026", ".hidden", "日本", &"x".repeat(255)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\nb", "\u{1b}[31m", &"x".repeat(256)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
