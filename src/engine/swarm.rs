//! The way into the reactor: wants, publish jobs and searches as futures.

use super::clock::Clock;
use super::reactor::Event;
use crate::base::digest::ChunkId;
use crate::base::head::HeadId;
use crate::base::peer::Contact;
use crate::base::range::SliceRange;
use crate::base::sync::lock;
use crate::node::effect::{Kept, Progress, WantFailure, WantOk};
use crate::node::input::{Command, ErrandId, Group, Input, JobId, Publish, Urgency, Want, WantId};
use crate::wire::head::SignedHead;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

type Located = Vec<(ChunkId, Vec<Contact>)>;

/// Lengths of chunks as their manifests say, while they are wanted. An outline proves the slices of a chunk but not its
/// length: what a peer says of that is believed only when it agrees.
#[derive(Default)]
pub(super) struct Lengths(Mutex<HashMap<ChunkId, (u32, usize)>>);

impl Lengths {
    fn add(&self, chunks: &[ChunkId], len: u32) {
        let mut known = lock(&self.0);
        for id in chunks {
            known.entry(*id).or_insert((len, 0)).1 += 1;
        }
    }

    fn remove(&self, chunks: &[ChunkId]) {
        let mut known = lock(&self.0);
        for id in chunks {
            if let Some((_, wants)) = known.get_mut(id) {
                *wants -= 1;
                if *wants == 0 {
                    known.remove(id);
                }
            }
        }
    }

    /// Whether a chunk may have this length.
    pub(super) fn allow(&self, chunk: &ChunkId, len: u32) -> bool {
        lock(&self.0).get(chunk).is_none_or(|(known, _)| *known == len)
    }
}

/// What is known of a head.
pub(super) struct HeadFound {
    /// Its newest state.
    pub(super) newest: Option<SignedHead>,
    /// Peers that answered; of a state that was brought, those that keep it or a newer one.
    pub(super) answered: usize,
}

/// Who waits for which answer of the machine.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) lengths: Lengths,
    wants: Mutex<HashMap<WantId, oneshot::Sender<Result<WantOk, WantFailure>>>>,
    locates: Mutex<HashMap<WantId, oneshot::Sender<Located>>>,
    heads: Mutex<HashMap<WantId, oneshot::Sender<HeadFound>>>,
    jobs: Mutex<HashMap<JobId, watch::Sender<Progress>>>,
    errands: Mutex<HashMap<ErrandId, oneshot::Sender<Vec<Kept>>>>,
}

impl Waiting {
    pub(super) fn want_done(&self, want: WantId, result: Result<WantOk, WantFailure>) {
        if let Some(sender) = lock(&self.wants).remove(&want) {
            let _ = sender.send(result);
        }
    }

    pub(super) fn located(&self, want: WantId, holders: Located) {
        if let Some(sender) = lock(&self.locates).remove(&want) {
            let _ = sender.send(holders);
        }
    }

    pub(super) fn head(&self, want: WantId, found: HeadFound) {
        if let Some(sender) = lock(&self.heads).remove(&want) {
            let _ = sender.send(found);
        }
    }

    pub(super) fn tended(&self, errand: ErrandId, kept: Vec<Kept>) {
        if let Some(sender) = lock(&self.errands).remove(&errand) {
            let _ = sender.send(kept);
        }
    }

    pub(super) fn job_progress(&self, job: JobId, progress: Progress) {
        if let Some(sender) = lock(&self.jobs).get(&job) {
            sender.send_replace(progress);
        }
    }
}

/// Slices that a reader misses.
pub(super) struct WantSlices {
    pub(super) chunks: Vec<ChunkId>,
    pub(super) data: u8,
    pub(super) chunk_len: u32,
    pub(super) needs: Vec<(u8, SliceRange)>,
    pub(super) have: Vec<(u8, SliceRange)>,
    pub(super) urgency: Urgency,
    pub(super) likely: Vec<Contact>,
}

/// Cheap to clone; all clones lead to the same reactor.
#[derive(Clone)]
pub(super) struct Swarm {
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) clock: Clock,
    pub(super) next: Arc<AtomicU64>,
}

/// Takes a want back when its reader goes away.
struct Unwant<'a> {
    swarm: &'a Swarm,
    id: WantId,
    done: bool,
    /// Wanted with their lengths.
    chunks: Vec<ChunkId>,
}

impl Drop for Unwant<'_> {
    fn drop(&mut self) {
        self.swarm.waiting.lengths.remove(&self.chunks);
        if !self.done {
            lock(&self.swarm.waiting.wants).remove(&self.id);
            lock(&self.swarm.waiting.locates).remove(&self.id);
            self.swarm.command(Command::Unwant(self.id));
        }
    }
}

impl Swarm {
    pub(super) fn new(events: mpsc::UnboundedSender<Event>, clock: Clock) -> Swarm {
        Swarm { events, waiting: Arc::default(), clock, next: Arc::new(AtomicU64::new(1)) }
    }

    pub(super) fn input(&self, input: Input) {
        // Fails only when the reactor has ended, and then nobody waits.
        let _ = self.events.send(Event::Input(input));
    }

    pub(super) fn command(&self, command: Command) {
        self.input(Input::Command(command));
    }

    fn id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Brings slices into the store. `None`: the engine is stopping.
    pub(super) async fn want(&self, want: WantSlices, deadline: Duration) -> Option<Result<WantOk, WantFailure>> {
        let id = WantId(self.id());
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting.wants).insert(id, sender);
        let WantSlices { chunks, data, chunk_len, needs, have, urgency, likely } = want;
        self.waiting.lengths.add(&chunks, chunk_len);
        let mut guard = Unwant { swarm: self, id, done: false, chunks: chunks.clone() };
        let deadline = self.clock.now().after(deadline);
        self.command(Command::Want(Want { id, chunks, data, chunk_len, needs, have, urgency, deadline, likely }));
        let result = receiver.await.ok();
        guard.done = result.is_some();
        result
    }

    /// Asks the swarm who holds these chunks.
    pub(super) async fn locate(&self, chunks: Vec<ChunkId>, deadline: Duration) -> Located {
        let id = WantId(self.id());
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting.locates).insert(id, sender);
        let mut guard = Unwant { swarm: self, id, done: false, chunks: Vec::new() };
        let until = self.clock.now().after(deadline);
        self.command(Command::Locate { want: id, chunks, deadline: until });
        let slack = Duration::from_secs(1);
        let found = tokio::time::timeout(deadline + slack, receiver).await;
        guard.done = matches!(found, Ok(Ok(_)));
        found.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Looks for a head. `None`: the engine is stopping.
    pub(super) async fn find_head(&self, id: HeadId) -> Option<HeadFound> {
        self.head(|want| Command::FindHead { want, id }).await
    }

    /// Has a state of a head kept by others. `None`: the engine is stopping.
    pub(super) async fn set_head(&self, head: SignedHead) -> Option<HeadFound> {
        self.head(|want| Command::SetHead { want, head }).await
    }

    async fn head(&self, command: impl FnOnce(WantId) -> Command) -> Option<HeadFound> {
        let want = WantId(self.id());
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting.heads).insert(want, sender);
        self.command(command(want));
        receiver.await.ok()
    }

    /// Has holders of these groups prove what they hold, and makes good what is missing where `repair` says so. `None`: the engine is stopping.
    pub(super) async fn tend(&self, groups: Vec<Kept>, repair: bool) -> Option<Vec<Kept>> {
        let errand = ErrandId(self.id());
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting.errands).insert(errand, sender);
        self.command(Command::Tend { errand, groups, repair });
        receiver.await.ok()
    }

    /// Has groups of chunks hosted; the receiver shows how far it is.
    pub(super) fn publish(&self, job: JobId, groups: Vec<Group>, lease: u32) -> watch::Receiver<Progress> {
        let (sender, receiver) = watch::channel(Progress::default());
        lock(&self.waiting.jobs).insert(job, sender);
        self.command(Command::Publish(Publish { job, groups, lease }));
        receiver
    }

    /// Forgets a job.
    pub(super) fn unpublish(&self, job: JobId) {
        lock(&self.waiting.jobs).remove(&job);
        self.command(Command::Unpublish(job));
    }
}
