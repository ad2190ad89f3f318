//! Whole trees at once: visit every file, keep a tree here, count in the swarm who holds it.

use super::client;
use super::error::{ReadError, ReadErrorKind};
use super::keep;
use super::reader::{Child, FileHandle, Tree, TreeNode};
use super::start::Engine;
use crate::base::digest::ChunkId;
use crate::base::limit::IDS_MAX;
use crate::base::peer::{Contact, PeerId};
use crate::base::sync::lock;
use crate::content::cipher::ReadKey;
use crate::content::reference::{NodeRef, RootRef, VerifyRef};
use crate::content::section::VerifySection;
use crate::content::walk::VerifyWalk;
use crate::node::input::{Group, Urgency};
use crate::store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Entries read from a directory at once.
const PAGE: usize = 1024;
/// Holders asked at once what they hold.
const HOLDERS_ASKED: usize = 16;
/// Groups whose holders are asked for proofs together, and how many times so many at once.
const TENDED: usize = 16;
const BATCHES: usize = 16;
/// What is pinned does not vanish but by damage: then it is fetched again.
const PIN_TRIES: usize = 3;

/// What a walk comes to.
pub(super) enum Visit<'a> {
    /// A directory, before what is in it.
    Directory(Option<&'a Child>),
    /// A file.
    File(Arc<FileHandle>, Option<&'a Child>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>, &'a Child),
    /// What cannot be opened, or a directory, visited before, whose rest cannot be listed.
    Unreadable(ReadError),
}

impl Engine {
    /// Visits a tree in depth-first name order, directories before what is in them. Paths are relative to the root.
    pub(super) async fn walk<F>(&self, reference: &RootRef, deadline: Duration, mut visit: F) -> Result<(), ReadError>
    where
        F: AsyncFnMut(&std::path::Path, Visit<'_>) -> Result<(), ReadError>,
    {
        let reader = self.reader();
        let root = match reader.resolve(reference, deadline).await? {
            TreeNode::File(file) => return visit(std::path::Path::new(""), Visit::File(file, None)).await,
            TreeNode::Symlink(_) => return Err(ReadError::manifest("a reference to a symbolic link")),
            TreeNode::Directory(root) => root,
        };
        // Before anything is made of it: that it can be opened, and is a directory.
        reader.list(&root, None, PAGE, deadline).await?;
        visit(std::path::Path::new(""), Visit::Directory(None)).await?;
        let mut stack = vec![(PathBuf::new(), root, None::<Vec<u8>>)];
        while let Some((path, directory, after)) = stack.pop() {
            let page = match reader.list(&directory, after.as_deref(), PAGE, deadline).await {
                Ok(page) => page,
                Err(error) => {
                    visit(&path, Visit::Unreadable(error)).await?;
                    continue;
                }
            };
            let more = page.len() == PAGE;
            let mut inside = Vec::new();
            for child in &page {
                let below = path.join(os_name(&child.name));
                match reader.open(&directory, child, deadline).await {
                    Err(error) => visit(&below, Visit::Unreadable(error)).await?,
                    Ok(TreeNode::Directory(handle)) => {
                        visit(&below, Visit::Directory(Some(child))).await?;
                        inside.push((below, handle, None));
                    }
                    Ok(TreeNode::File(file)) => visit(&below, Visit::File(file, Some(child))).await?,
                    Ok(TreeNode::Symlink(target)) => visit(&below, Visit::Symlink(target, child)).await?,
                }
            }
            if let Some(last) = page.last().filter(|_| more) {
                stack.push((path, directory, Some(last.name.clone())));
            }
            stack.extend(inside.into_iter().rev());
        }
        Ok(())
    }

    /// Counts, for every stripe of a tree, the shards of which another peer gives a slice, chosen by chance and checked against the shard's name;
    /// `repair` has what is missing made of the rest and hosted anew. Fetches manifests, not content, and opens no more of them than a
    /// verify key does.
    pub async fn verify(
        &self,
        reference: &VerifyRef,
        deadline: Duration,
        repair: bool,
        progress: &Counter,
    ) -> Result<Survey, SurveyError> {
        let groups = self.groups_named(reference, deadline).await?;
        let mut survey = Survey { stripes: groups.len() as u64, ..Survey::default() };
        progress.total.store(groups.iter().map(|group| group.chunks.len() as u64).sum(), Ordering::Relaxed);
        let own = self.peer_id();
        let (mut peers, mut chunks, mut found) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut waiting = groups.chunks(TENDED);
        let mut asked = JoinSet::new();
        loop {
            while asked.len() < BATCHES
                && let Some(batch) = waiting.next()
            {
                let (swarm, batch) = (self.swarm().clone(), batch.iter().map(keep::fresh).collect());
                asked.spawn(async move { swarm.tend(batch, repair).await });
            }
            // What takes long, or is lost, holds up no others.
            let Some(seen) = asked.join_next().await else { break };
            let seen = seen.ok().flatten().ok_or_else(ReadError::stopped)?;
            for kept in &seen {
                let others = kept.holders.iter().flatten().map(|holder| holder.peer).filter(|peer| *peer != own);
                peers.extend(others);
                // What was promised a moment ago lies where it was put by this repair.
                survey.repaired += kept.holders.iter().flatten().filter(|holder| holder.until > 0).count() as u64;
                for ((id, _), holders) in kept.chunks.iter().zip(&kept.holders) {
                    chunks.insert(*id);
                    if !holders.is_empty() {
                        found.insert(*id);
                    }
                }
                let missing = kept.chunks.iter().zip(&kept.holders).filter(|(_, holders)| holders.is_empty());
                survey.count(kept.is_whole(), kept.shards(), usize::from(kept.data), missing.map(|((id, _), _)| *id));
            }
            progress.done.fetch_add(seen.iter().map(|kept| kept.chunks.len() as u64).sum(), Ordering::Relaxed);
        }
        (survey.peers, survey.chunks, survey.found) = (peers.len() as u64, chunks.len() as u64, found.len() as u64);
        Ok(survey)
    }

    /// The same by what other peers say, asked now: cheap enough to be asked again and again while a tree finds its hosts.
    pub async fn claimed(
        &self,
        reference: &VerifyRef,
        deadline: Duration,
        progress: &Counter,
    ) -> Result<Claims, SurveyError> {
        let groups = self.groups_named(reference, deadline).await?;
        let mut survey = Survey { stripes: groups.len() as u64, ..Survey::default() };
        let ids: BTreeSet<ChunkId> = groups.iter().flat_map(|group| group.chunks.iter().map(|(id, _)| *id)).collect();
        let ids: Vec<ChunkId> = ids.into_iter().collect();
        survey.chunks = ids.len() as u64;
        progress.total.store(ids.len() as u64, Ordering::Relaxed);
        // Who announced a chunk may be gone since, or have dropped it: each is asked.
        let mut announced: BTreeMap<PeerId, (Contact, Vec<ChunkId>)> = BTreeMap::new();
        let own = self.peer_id();
        for batch in ids.chunks(IDS_MAX) {
            for (id, found) in self.swarm().locate(batch.to_vec(), deadline).await {
                for contact in found.into_iter().filter(|contact| contact.peer != own) {
                    announced.entry(contact.peer).or_insert_with(|| (contact, Vec::new())).1.push(id);
                }
            }
            progress.done.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
        let mut holders: BTreeMap<ChunkId, BTreeSet<PeerId>> = BTreeMap::new();
        let mut asked = JoinSet::new();
        let mut waiting = announced.into_values();
        loop {
            while asked.len() < HOLDERS_ASKED
                && let Some((contact, ids)) = waiting.next()
            {
                let (peer, held) = (contact.peer, client::held(self.links().clone(), contact, ids));
                asked.spawn(async move { (peer, held.await) });
            }
            let Some(held) = asked.join_next().await else { break };
            let Ok((peer, held)) = held else { continue };
            survey.peers += u64::from(!held.is_empty());
            for id in held {
                holders.entry(id).or_default().insert(peer);
            }
        }
        survey.found = holders.len() as u64;
        let (mut copies, mut wanted, mut hosts, mut spread) = (0, 0, 0, true);
        for group in groups {
            let each = group.chunks.iter().map(|(id, _)| holders.get(id).map_or(0, BTreeSet::len));
            copies += each.map(|count| count.min(usize::from(group.copies)) as u64).sum::<u64>();
            let peers: BTreeSet<PeerId> =
                group.chunks.iter().filter_map(|(id, _)| holders.get(id)).flatten().copied().collect();
            let of_group = group.chunks.len() * usize::from(group.copies);
            (wanted, hosts) = (wanted + of_group as u64, hosts.max(of_group));
            spread &= peers.len() >= of_group;
            let missing = |(id, _): &(ChunkId, u32)| !holders.contains_key(id);
            let missing: Vec<ChunkId> = group.chunks.iter().filter(|chunk| missing(chunk)).map(|(id, _)| *id).collect();
            let found = group.chunks.len() - missing.len();
            let often = |(id, _): &(ChunkId, u32)| {
                holders.get(id).is_some_and(|peers| peers.len() >= usize::from(group.copies))
            };
            let whole = group.chunks.iter().all(often);
            survey.count(whole, found, usize::from(group.data), missing.into_iter());
        }
        // What may still come of it by itself.
        let (under_way, reach) = self
            .swarm()
            .inspect(move |node| (node.under_way(&ids), node.stats().publish.hosts))
            .await
            .unwrap_or_default();
        let done = spread && copies == wanted;
        Ok(Claims { survey, copies, done, under_way, enough: reach >= hosts })
    }

    /// All groups of a tree as a verifier sees them: the stripes, and lone chunks.
    async fn groups_named(&self, reference: &VerifyRef, deadline: Duration) -> Result<Vec<Group>, ReadError> {
        let (mut walk, tree) = (VerifyWalk::new(reference), Arc::new(Tree::new(reference.node.id)));
        let mut groups = BTreeMap::new();
        while let Some(node) = walk.next() {
            // To fetch it takes its id and length; the key is not looked at.
            let chunk = NodeRef { id: node.id, len: node.len, key: ReadKey([0; 32]) };
            let until = Instant::now() + deadline;
            let bytes = self.reader().fetcher.lone(&tree, &chunk, Urgency::Reader, until).await?;
            let section = VerifySection::open(&node.key, &bytes).map_err(ReadError::manifest)?;
            for group in walk.opened(&node, &section).map_err(ReadError::manifest)? {
                // Two stripes may share some chunks and not others.
                groups.insert(group.ids.clone(), keep::group(group));
            }
        }
        Ok(groups.into_values().collect())
    }

    /// Fetches a whole tree and keeps it: eviction spares it until it is unpinned. Where that fails or is given up, all is as before.
    pub async fn pin(&self, reference: &RootRef, deadline: Duration, progress: &Counter) -> Result<Kept, SurveyError> {
        let groups = Arc::new(self.groups_named(&reference.verify(), deadline).await?);
        let data = groups.iter().map(|group| group.chunks.iter().take(usize::from(group.data)));
        let data: Vec<(ChunkId, u32)> = data.flatten().copied().collect();
        progress.total.store(data.iter().map(|(_, len)| u64::from(*len)).sum(), Ordering::Relaxed);
        let label = reference.node.id;
        let before = self.with_store(move |store| store.is_pinned(&label)).await?;
        let mut undo = Unpin { store: self.store().clone(), label, armed: !before };
        // Before they come: a tree may be larger than the cache, in which what is pinned does not count.
        self.mark_pinned(label, &groups).await?;
        let total = Mutex::new(0);
        self.walk(reference, deadline, async |_, visit| {
            match visit {
                Visit::File(file, _) => *lock(&total) += file.size(),
                Visit::Unreadable(error) => return Err(error),
                Visit::Directory(_) | Visit::Symlink(..) => {}
            }
            Ok(())
        })
        .await?;
        let ids: Arc<Vec<ChunkId>> = Arc::new(data.iter().map(|(id, _)| *id).collect());
        let mut tries = PIN_TRIES;
        loop {
            progress.done.store(0, Ordering::Relaxed);
            self.reader().hold(label, &groups, deadline, progress).await?;
            // Kept, and shown as kept, once this returns. Somebody may have unpinned it meanwhile.
            self.mark_pinned(label, &groups).await?;
            let all = ids.clone();
            let held = self.with_store(move |store| store.holds_each(&all)).await?;
            let missing = held.iter().filter(|held| !**held).count();
            if missing == 0 {
                break;
            }
            tries -= 1;
            if tries == 0 {
                let detail = format!("{missing} chunks of the tree vanished after they were fetched");
                return Err(ReadError::store(detail).into());
            }
        }
        // From now on it is looked after here, too.
        let keeping = self.keeping().clone();
        self.with_store(move |_| keeping.enrol(&label, &groups)).await?;
        undo.armed = false;
        Ok(Kept { chunks: ids.len() as u64, bytes: *lock(&total) })
    }

    /// Keeps all chunks of these groups, here or to come.
    async fn mark_pinned(&self, label: ChunkId, groups: &Arc<Vec<Group>>) -> Result<(), ReadError> {
        let groups = groups.clone();
        self.with_store(move |store| {
            let ids: Vec<ChunkId> = groups.iter().flat_map(|group| group.chunks.iter().map(|(id, _)| *id)).collect();
            store.pin(&label, &ids).and_then(|()| store.flush())
        })
        .await
    }

    /// Work that waits for the disk.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let store = self.store().clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|_| ReadError::stopped())?.map_err(ReadError::store)
    }

    /// Lets a pinned tree be evicted again; whether it was pinned.
    pub async fn unpin(&self, reference: &RootRef) -> Result<bool, SurveyError> {
        let (store, label) = (self.store().clone(), reference.node.id);
        let keeping = self.keeping().clone();
        let work = move || keeping.dismiss(&label).and_then(|()| store.unpin(&label));
        let done = tokio::task::spawn_blocking(work).await.map_err(|_| ReadError::stopped())?;
        Ok(done.map_err(ReadError::store)?)
    }

    /// Whether a look-up finds the root of a tree on a peer other than this node.
    pub async fn found_elsewhere(&self, reference: &RootRef, deadline: Duration) -> bool {
        let found = self.swarm().locate(vec![reference.node.id], deadline).await;
        let own = self.peer_id();
        found.iter().any(|(_, holders)| holders.iter().any(|contact| contact.peer != own))
    }
}

pub(super) fn os_name(name: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name)
}

/// Work done and in all, readable while it runs.
#[derive(Debug, Default)]
pub struct Counter {
    /// So far.
    pub done: AtomicU64,
    /// In all, as far as known.
    pub total: AtomicU64,
}

/// Takes the marks of a pin back that did not come to its end.
struct Unpin {
    store: Arc<Store>,
    label: ChunkId,
    armed: bool,
}

impl Drop for Unpin {
    fn drop(&mut self) {
        let (store, label) = (self.store.clone(), self.label);
        if self.armed
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(move || {
                if let Err(error) = store.unpin(&label) {
                    tracing::warn!(%error, "a tree that could not be fetched stays pinned");
                }
            });
        }
    }
}

/// A tree that was pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its chunks: what it takes to read it.
    pub chunks: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// How far the hosting of a tree is, by what other peers say.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// Of what.
    pub survey: Survey,
    /// Copies that others have, of no chunk more than wanted.
    pub copies: u64,
    /// All is on as many distinct peers as wanted.
    pub done: bool,
    /// Hosts have accepted some of it, or will be asked.
    pub under_way: bool,
    /// There are enough hosts in reach for the part that takes most.
    pub enough: bool,
}

/// How well a tree is kept by others.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Survey {
    /// Stripes and lone chunks.
    pub stripes: u64,
    /// All their shards were found, each on as many peers as it should be.
    pub whole: u64,
    /// Something of that is missing, enough is there.
    pub short: u64,
    /// Too few shards were found to read it.
    pub lost: u64,
    /// Distinct chunks looked for.
    pub chunks: u64,
    /// Those of them that other peers hold.
    pub found: u64,
    /// Distinct peers that hold any.
    pub peers: u64,
    /// Chunks that were given to new hosts just now.
    pub repaired: u64,
    /// Some of the chunks that nobody holds, of lost stripes.
    pub lost_chunks: Vec<String>,
}

impl Survey {
    /// Adds a group that is as it should be (`whole`), or of which so many shards were found, and that takes so many to be read.
    fn count(&mut self, whole: bool, found: usize, needed: usize, missing: impl Iterator<Item = ChunkId>) {
        if found < needed {
            self.lost += 1;
            if self.lost_chunks.len() < 16 {
                self.lost_chunks.extend(missing.take(4).map(|id| id.to_string()));
            }
        } else if whole {
            self.whole += 1;
        } else {
            self.short += 1;
        }
    }
}

/// Why a tree could not be surveyed or kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SurveyError {
    /// Its manifests could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl SurveyError {
    /// Class of the failure.
    pub fn kind(&self) -> ReadErrorKind {
        match self {
            SurveyError::Read(error) => error.kind,
        }
    }
}
