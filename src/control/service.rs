//! What a running node answers to commands.

use super::message::{
    Allowed, Answer, Fetched, Missing, NameRequest, NameStatus, Paid, PathText, Pinned, Progress, Published, Reference,
    Request, Setting, Status, Unpinned, Verified, Why,
};
use super::server::{Replies, Service};
use crate::base::bitcoin::Sat;
use crate::base::peer::PeerId;
use crate::base::sync::lock;
use crate::base::text::{TextError, canonical, escape};
use crate::base::units::{Span, count};
use crate::content::directory::EntryBody;
use crate::content::head::Readable;
use crate::content::reference::{Kind, RootRef, VerifyRef};
use crate::engine::{
    CREDIT_LIMIT, Claims, Counter, DirectoryHandle, Engine, MountStatus, PublishState, Survey, TOO_DEAR, TreeNode,
};
use crate::vfs::Refusals;
use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Of a tree's missing parts so many are named: an answer has its limit, and so has whoever reads it.
const MISSING_TOLD: usize = 100;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);
/// How long a reference of a file that is being written may be waited for.
const SETTLE_MAX: Duration = Duration::from_secs(600);
/// How long publishing may be in trouble before a file that is not sealed is taken to be part of it: longer than between two tries.
const TROUBLE_MAX: Duration = Duration::from_secs(12);
/// `publish --wait` is content with fewer hosts than wanted when no more came for this long.
const HOSTS_QUIET: Duration = Duration::from_secs(5);
/// The same where there are enough hosts and some of them refused for now, and where hosts have accepted and are slow.
const HOSTS_PAUSED: Duration = Duration::from_secs(30);
const HOSTS_BUSY: Duration = Duration::from_secs(150);

/// The node's mounts, as commands see and make them.
pub trait Mounts: Send + Sync {
    /// Where the node is mounted now.
    fn status(&self) -> MountStatus;
    /// What was refused there lately.
    fn refusals(&self) -> Option<Arc<Refusals>>;
    /// Mounts the node there as well, with these lists of options; the full path, or `None` if the node is ending. Waits for the disk.
    fn add(&self, point: &Path, options: &[String]) -> Result<Option<PathBuf>, String>;
}

/// The commands' view of a node.
pub struct Node {
    engine: Engine,
    mounts: Arc<dyn Mounts>,
    settings: Mutex<Vec<Setting>>,
    stop: Arc<Notify>,
}

/// What a path of the user means to the node.
enum Place {
    /// Below the own tree.
    Own(PathBuf),
    /// `ref/` followed by a name and what is below it.
    Ref(String, PathBuf),
    /// `names/` followed by a name and what is below it.
    Name(String, PathBuf),
    /// Elsewhere in the mount.
    Other,
}

impl Node {
    /// Serves commands for `engine`, which was started with these settings; `stop` is notified when one of them asks the node to end.
    pub fn new(engine: Engine, mounts: Arc<dyn Mounts>, settings: Vec<Setting>, stop: Arc<Notify>) -> Node {
        Node { engine, mounts, settings: Mutex::new(settings), stop }
    }

    /// Some of these settings took effect: those that `live` names.
    pub fn set_settings(&self, settings: Vec<Setting>, live: impl Fn(&str) -> bool) {
        let mut known = lock(&self.settings);
        for setting in settings.into_iter().filter(|setting| live(&setting.key)) {
            if let Some(old) = known.iter_mut().find(|old| old.key == setting.key) {
                *old = setting;
            }
        }
    }

    /// The peer of this name, or whose name begins so, among those with a balance or a link.
    async fn peer(&self, name: &str) -> Result<PeerId, String> {
        let name = name.trim().to_ascii_lowercase();
        let mut known: Vec<String> = self.engine.balances().await.into_iter().map(|balance| balance.peer).collect();
        known.extend(self.engine.peers().into_iter().map(|peer| peer.peer));
        known.sort();
        known.dedup();
        let mut found = known.iter().filter(|peer| peer.starts_with(&name));
        let shown = escape(name.as_bytes());
        match (found.next(), found.next()) {
            (Some(peer), None) => PeerId::from_hex(peer).ok_or_else(|| format!("{shown} is no name of a peer")),
            (Some(_), Some(_)) => Err(format!("more than one peer begins with {shown}: give more of its digits")),
            (None, _) => Err(format!("no peer {shown} is known: `tornet balances` and `tornet peers` list them")),
        }
    }

    async fn pay(&self, peer: &str, amount: Option<u64>) -> Result<Paid, String> {
        let peer = self.peer(peer).await?;
        let id = self.engine.pay(peer, amount.map(Sat)).await.map_err(|why| format!("not paid: {why}"))?;
        Ok(Paid { payment: id.to_string() })
    }

    async fn allow(&self, reference: &RootRef, amount: u64) -> Result<Allowed, String> {
        if amount > 0 {
            // What it takes to read it, as far as that is known, shows whose refusal is in the way.
            let _ = self.engine.reader().resolve(reference, self.deadline()).await;
        }
        let tree = reference.node.id;
        let peers = self.engine.allow(tree, Sat(amount)).await?;
        Ok(Allowed { tree: tree.to_string(), peers, amount_sat: amount })
    }

    /// Of a refusal for want of credit: also why it is not paid for, and what would; of one for its price: the price.
    async fn explained(&self, detail: String, reference: Option<&str>) -> String {
        if detail.contains(TOO_DEAR) {
            let Some(price) = self.engine.too_dear().await else { return detail };
            return format!("{detail}. {price}; a change of them takes effect at once");
        }
        if !detail.contains(CREDIT_LIMIT) {
            return detail;
        }
        let tree = reference.and_then(|reference| reference.parse::<RootRef>().ok()).map(|root| root.node.id);
        let Some(held_up) = self.engine.held_up(tree).await else { return detail };
        let mut commands = held_up.pay;
        if held_up.allow > Sat(0) {
            let reference = reference.unwrap_or("REF");
            commands.insert(0, format!("tornet allow {reference} \"{}\" --once", held_up.allow));
        }
        let hint =
            if commands.is_empty() { String::new() } else { format!("; to pay it once: {}", commands.join("; ")) };
        format!("{detail}. It is not paid for: {}{hint}", held_up.why)
    }

    fn deadline(&self) -> Duration {
        self.engine.settings().read_deadline
    }

    /// The part of `path` below the mount point, if it lies there.
    fn below<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        self.mounts.status().points.iter().find_map(|point| path.strip_prefix(point).ok())
    }

    fn place(&self, path: &Path) -> Option<Place> {
        if let Ok(own) = path.strip_prefix(self.engine.tree_dir()) {
            return Some(Place::Own(own.to_path_buf()));
        }
        let below = self.below(path)?;
        let mut parts = below.components();
        Some(match parts.next() {
            Some(Component::Normal(first)) if first == "ref" => match parts.next() {
                Some(name) => {
                    let name = name.as_os_str().to_string_lossy();
                    Place::Ref(canonical(&name).into_owned(), parts.as_path().to_path_buf())
                }
                None => Place::Other,
            },
            Some(Component::Normal(first)) if first == "names" => match parts.next() {
                Some(name) => {
                    Place::Name(name.as_os_str().to_string_lossy().into_owned(), parts.as_path().to_path_buf())
                }
                None => Place::Other,
            },
            Some(Component::Normal(first)) if first == ".tornet" => Place::Other,
            _ => Place::Own(below.to_path_buf()),
        })
    }

    fn not_ours(&self, path: &Path) -> String {
        let shown = escape(path.as_os_str().as_bytes());
        let points = self.mounts.status().points;
        let points: Vec<_> = points.iter().map(|point| escape(point.as_os_str().as_bytes()).to_string()).collect();
        match points.is_empty() {
            false => format!("{shown} is not below {}", points.join(" or ")),
            true => format!("{shown} is not in a mount: this node has none"),
        }
    }

    async fn status(&self) -> Status {
        self.engine.status(self.mounts.status()).await
    }

    async fn reference(&self, path: &Path) -> Result<RootRef, String> {
        match self.place(path) {
            Some(Place::Own(own)) => self.own_reference(&own).await,
            Some(Place::Ref(name, rest)) => self.foreign_reference(&parse(&name)?, &rest).await,
            Some(Place::Name(name, rest)) => {
                let root = self.engine.names().resolve(&name, self.deadline()).await.map_err(|e| e.to_string())?;
                self.foreign_reference(&root, &rest).await
            }
            Some(Place::Other) => Err(format!("{} has no reference", escape(path.as_os_str().as_bytes()))),
            None => Err(format!("{}; `tornet publish PATH` publishes it", self.not_ours(path))),
        }
    }

    /// The reference of a path of the own tree, once what was written to it is sealed.
    async fn own_reference(&self, own: &Path) -> Result<RootRef, String> {
        let shown = || match own.as_os_str().as_bytes() {
            b"" => "the own tree".to_string(),
            name => escape(name).to_string(),
        };
        let full = self.engine.tree_dir().join(own);
        let found = std::fs::symlink_metadata(&full).map_err(|e| format!("{}: {e}", shown()))?;
        if !found.is_file() && !found.is_dir() {
            return Err(format!("{} is neither a file nor a directory: it has no reference of its own", shown()));
        }
        let (until, mut troubled) = (Instant::now() + SETTLE_MAX, None);
        loop {
            let (writer, path) = (self.engine.writer().clone(), own.to_path_buf());
            let asked = tokio::task::spawn_blocking(move || writer.reference(&path)).await;
            match asked.map_err(|_| "the node is stopping".to_string())? {
                Ok(Some(reference)) => return Ok(reference),
                Ok(None) => {}
                Err(error) => return Err(error.to_string()),
            }
            match self.engine.writer().trouble() {
                None => troubled = None,
                // Not at once: it may be another file's.
                Some(trouble) if troubled.get_or_insert_with(Instant::now).elapsed() >= TROUBLE_MAX => {
                    return Err(format!("{} is not sealed: {trouble}; it is tried again every few seconds", shown()));
                }
                Some(_) => {}
            }
            if Instant::now() >= until {
                return Err(format!("{} is still being changed: try again when nothing writes to it", shown()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The reference of something under a reference, where it has one of its own.
    async fn foreign_reference(&self, root: &RootRef, rest: &Path) -> Result<RootRef, String> {
        if rest.as_os_str().is_empty() {
            return Ok(*root);
        }
        let (directory, name) = self.parent(root, rest).await?;
        let child = self.engine.reader().lookup(&directory, name.as_bytes(), self.deadline()).await;
        let child = child.map_err(|e| e.to_string())?.ok_or_else(|| no_such(rest))?;
        match &child.body {
            EntryBody::File(node) => Ok(RootRef { kind: Kind::File, node: *node }),
            EntryBody::Directory(node) => Ok(RootRef { kind: Kind::Directory, node: *node }),
            _ => Err(format!(
                "{} is small and kept inside its directory, without a reference of its own: pass its directory's on",
                escape(rest.as_os_str().as_bytes())
            )),
        }
    }

    /// The directory that holds the last part of `rest`, and that part.
    async fn parent<'a>(&self, root: &RootRef, rest: &'a Path) -> Result<(Arc<DirectoryHandle>, &'a OsStr), String> {
        let (reader, deadline) = (self.engine.reader(), self.deadline());
        let mut node = reader.resolve(root, deadline).await.map_err(|e| e.to_string())?;
        let mut parts = rest.iter().peekable();
        while let Some(part) = parts.next() {
            let TreeNode::Directory(directory) = node else { return Err(no_such(rest)) };
            if parts.peek().is_none() {
                return Ok((directory, part));
            }
            let child = reader.lookup(&directory, part.as_bytes(), deadline).await.map_err(|e| e.to_string())?;
            let child = child.ok_or_else(|| no_such(rest))?;
            node = reader.open(&directory, &child, deadline).await.map_err(|e| e.to_string())?;
        }
        Err(no_such(rest))
    }

    async fn publish(&self, path: &Path, wait: bool, replies: &Replies) -> Result<Published, String> {
        let reference = match self.place(path) {
            // What is in the mount is published already, and to read it through the mount would be to wait for ourselves.
            Some(Place::Own(_) | Place::Ref(..) | Place::Name(..)) => self.reference(path).await?,
            Some(Place::Other) => return Err(format!("{} is not for publishing", escape(path.as_os_str().as_bytes()))),
            None => {
                let writer = self.engine.writer().clone();
                let sealing = self.told("sealing", "bytes", replies, || self.sealing(), writer.publish(path));
                sealing.await.map_err(|e| e.to_string())?.reference
            }
        };
        let mut published = Published {
            reference: reference.to_string(),
            state: PublishState::Stored.to_string(),
            readable_elsewhere: None,
        };
        if wait {
            let survey = self.hosted(&reference, replies).await?;
            published.state = format!("{} of {} chunks on other nodes", survey.found, survey.chunks);
            published.readable_elsewhere = Some(survey.lost == 0);
        }
        Ok(published)
    }

    fn sealing(&self) -> (u64, u64) {
        self.engine.writer().sealing().map_or((0, 0), |work| (work.done, work.total))
    }

    /// Waits until a tree is on as many other nodes as wanted, and found there, or on no more of them for a while: a small swarm
    /// cannot do better, and the rest is had from this node.
    async fn hosted(&self, reference: &RootRef, replies: &Replies) -> Result<Survey, String> {
        let (mut best, mut since, mut pause) = (0, Instant::now(), TELL);
        loop {
            let claims = self.claimed(&reference.verify()).await?;
            let survey = claims.survey;
            replies.progress(Progress {
                stage: "hosting".into(),
                done: survey.found,
                total: survey.chunks,
                unit: "chunks".into(),
            });
            if claims.copies > best {
                (best, since) = (claims.copies, Instant::now());
            }
            let quiet = match (claims.under_way, claims.enough) {
                (true, _) => HOSTS_BUSY,
                (false, true) => HOSTS_PAUSED,
                (false, false) => HOSTS_QUIET,
            };
            if claims.done || since.elapsed() >= quiet {
                return Ok(survey);
            }
            tokio::time::sleep(pause).await;
            // Each look asks the swarm for every chunk: not oftener than needed.
            pause = (pause * 3 / 2).min(HOSTS_QUIET / 2);
        }
    }

    /// Awaits `work` while telling how far it is.
    async fn told<T>(
        &self,
        stage: &str,
        unit: &str,
        replies: &Replies,
        far: impl Fn() -> (u64, u64),
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = tokio::time::sleep(TELL) => {
                    let (done, total) = far();
                    replies.progress(Progress { stage: stage.into(), done, total, unit: unit.into() });
                }
            }
        }
    }

    async fn get(&self, reference: &RootRef, dest: &Path, replies: &Replies) -> Result<Fetched, String> {
        let counter = Arc::new(Counter::default());
        let (name, to, deadline) = (reference.to_string(), dest.to_path_buf(), self.deadline());
        let (engine, reference) = (self.engine.clone(), *reference);
        let count = counter.clone();
        let work =
            apart(async move || engine.copy_out(&reference, &to, deadline, count).await.map_err(|e| e.to_string()));
        let all = self.told("fetching", "bytes", replies, || far(&counter), work).await?;
        let missing_count = all.len() as u64;
        let mut missing = Vec::new();
        for lost in all {
            let error = self.explained(lost.error.to_string(), Some(&name)).await;
            missing.push(Missing { path: PathText(lost.path), error });
            if missing.len() == MISSING_TOLD {
                break;
            }
        }
        Ok(Fetched { dest: PathText::from(dest), bytes: counter.total.load(Ordering::Relaxed), missing, missing_count })
    }

    async fn pin(&self, reference: &RootRef, replies: &Replies) -> Result<Pinned, String> {
        let counter = Arc::new(Counter::default());
        let (engine, reference, deadline, count) = (self.engine.clone(), *reference, self.deadline(), counter.clone());
        let work = apart(async move || engine.pin(&reference, deadline, &count).await.map_err(|e| e.to_string()));
        let kept = self.told("fetching", "bytes", replies, || far(&counter), work).await?;
        Ok(Pinned { chunks: kept.chunks, bytes: kept.bytes })
    }

    async fn claimed(&self, reference: &VerifyRef) -> Result<Claims, String> {
        let (engine, reference, deadline) = (self.engine.clone(), *reference, self.deadline());
        let work = async move || engine.claimed(&reference, deadline, &Counter::default()).await;
        apart(async move || work().await.map_err(|e| e.to_string())).await
    }

    async fn verify(&self, reference: &VerifyRef, repair: bool, replies: &Replies) -> Result<Verified, String> {
        let counter = Arc::new(Counter::default());
        let (engine, reference, deadline, count) = (self.engine.clone(), *reference, self.deadline(), counter.clone());
        let work =
            apart(async move || engine.verify(&reference, deadline, repair, &count).await.map_err(|e| e.to_string()));
        let found = self.told("checking", "chunks", replies, || far(&counter), work).await?;
        Ok(Verified {
            groups: found.stripes,
            whole: found.whole,
            weak: found.short,
            lost: found.lost,
            chunks: found.chunks,
            found: found.found,
            peers: found.peers,
            repaired: found.repaired,
        })
    }

    async fn why(&self, path: &Path) -> Result<Why, String> {
        let place = self.place(path);
        if let Some((at, reason, age)) = place.as_ref().and_then(|place| self.refused(place, path)) {
            let ago = Span(Duration::from_secs(age.as_secs().max(1)));
            let reference = match &place {
                Some(Place::Ref(name, _)) => Some(name.as_str()),
                _ => None,
            };
            let reason = self.explained(reason, reference).await;
            let detail = format!("{}: {reason} ({ago} ago)", escape(shortened(&at).as_os_str().as_bytes()));
            return Ok(Why { state: "refused".into(), detail });
        }
        let place = match place {
            Some(Place::Name(name, rest)) => match self.engine.names().resolve(&name, self.deadline()).await {
                Ok(root) => Some(Place::Ref(root.to_string(), rest)),
                Err(error) => return Ok(Why { state: "refused".into(), detail: error.to_string() }),
            },
            other => other,
        };
        match place {
            Some(Place::Own(own)) => self.why_own(&own).await,
            Some(Place::Ref(name, rest)) => {
                let root = match name.parse::<RootRef>() {
                    Ok(root) => root,
                    Err(error) => return Ok(Why { state: "refused".into(), detail: error.to_string() }),
                };
                let found = self.reach(&root, &rest).await;
                Ok(match found {
                    Ok(()) => Why { state: "readable".into(), detail: "nothing of it was refused lately".into() },
                    Err(detail) => Why { state: "refused".into(), detail: self.explained(detail, Some(&name)).await },
                })
            }
            Some(Place::Name(..) | Place::Other) => {
                Ok(Why { state: "readable".into(), detail: "nothing of it was refused lately".into() })
            }
            None => Err(self.not_ours(path)),
        }
    }

    /// What was refused there lately, why, and how long ago. Of a published tree also what lies around the path: one missing
    /// chunk is felt at many places. The own tree has an account of its own to give.
    fn refused(&self, place: &Place, path: &Path) -> Option<(PathBuf, String, Duration)> {
        let refusals = self.mounts.refusals()?;
        let around = |top: &str, name: &str, rest: &Path| {
            refusals.around(&[top.as_ref(), name.as_ref(), rest].iter().collect::<PathBuf>())
        };
        match place {
            Place::Ref(name, rest) => around("ref", name, rest),
            Place::Name(name, rest) => around("names", name, rest),
            Place::Own(own) => refusals.at(own),
            Place::Other => refusals.at(self.below(path)?),
        }
    }

    /// The tree that is to be read.
    async fn leads_to(&self, readable: Readable) -> Result<RootRef, String> {
        match readable {
            Readable::Root(root) => Ok(root),
            Readable::Head(head) => self.engine.names().find(&head, self.deadline()).await.map_err(|e| e.to_string()),
        }
    }

    async fn name(&self, request: NameRequest) -> Result<Vec<NameStatus>, String> {
        let names = self.engine.names();
        match request {
            NameRequest::Create { name, path } => {
                let own = match &path {
                    None => PathBuf::new(),
                    Some(path) => match self.place(&path.0) {
                        Some(Place::Own(own)) => own,
                        Some(_) => {
                            return Err(format!(
                                "{} is not in your own tree: a name stands for something that you can change",
                                escape(path.0.as_os_str().as_bytes())
                            ));
                        }
                        None => return Err(self.not_ours(&path.0)),
                    },
                };
                names.create(&name, &own).await.map_err(|e| e.to_string())?;
            }
            NameRequest::Follow { name, reference } => {
                names.follow(&name, parse(&reference)?).await.map_err(|e| e.to_string())?;
            }
            NameRequest::Remove { name } => names.remove(&name).await.map_err(|e| e.to_string())?,
            NameRequest::List => {}
        }
        Ok(names.list())
    }

    /// Opens what a path under a reference leads to.
    async fn reach(&self, root: &RootRef, rest: &Path) -> Result<(), String> {
        let (reader, deadline) = (self.engine.reader(), self.deadline());
        if rest.as_os_str().is_empty() {
            return reader.resolve(root, deadline).await.map(|_| ()).map_err(|e| e.to_string());
        }
        let (directory, name) = self.parent(root, rest).await?;
        let child = reader.lookup(&directory, name.as_bytes(), deadline).await.map_err(|e| e.to_string())?;
        let child = child.ok_or_else(|| no_such(rest))?;
        reader.open(&directory, &child, deadline).await.map(|_| ()).map_err(|e| e.to_string())
    }

    async fn why_own(&self, own: &Path) -> Result<Why, String> {
        let full = self.engine.tree_dir().join(own);
        let found = std::fs::symlink_metadata(&full);
        let kind = found.map_err(|e| format!("{}: {e}", escape(own.as_os_str().as_bytes())))?.file_type();
        if !kind.is_file() && !kind.is_dir() && !kind.is_symlink() {
            let what = if kind.is_fifo() { "a named pipe" } else { "a socket or a device" };
            let detail = format!("it is {what}; only files, directories and symbolic links are published");
            return Ok(Why { state: "not published".into(), detail });
        }
        let (writer, path) = (self.engine.writer().clone(), own.to_path_buf());
        let asked = tokio::task::spawn_blocking(move || writer.state(&path)).await;
        let state = asked.map_err(|_| "the node is stopping".to_string())?;
        let peers = self.engine.peers().len();
        let detail = match state {
            PublishState::Staged => match self.engine.writer().trouble() {
                Some(trouble) => {
                    format!("changed on this machine, and not sealed yet: {trouble}; it is tried again every few seconds")
                }
                None => format!(
                "changed on this machine; it is sealed once nothing has changed for {} ms",
                self.engine.settings().quiet.as_millis()
                ),
            },
            PublishState::Publishing { .. } => "being sealed now".to_string(),
            PublishState::Stored if peers == 0 => {
                "sealed and kept here; no other node holds it, because this one has no peers: give it one with --bootstrap".to_string()
            }
            PublishState::Stored => {
                format!("sealed and kept here; no other node holds enough of it yet; linked: {}", count(peers as u64, "peer"))
            }
            PublishState::Hosted { hosts, wanted } if hosts < wanted => format!(
                "every part of it is on at least {}, {wanted} are wanted: more peers, or peers with more room, would do; linked: {}",
                count(u64::from(hosts), "other node"),
                count(peers as u64, "peer")
            ),
            PublishState::Hosted { .. } => "other nodes hold all of it, as wanted".to_string(),
        };
        Ok(Why { state: state.to_string(), detail })
    }
}

/// Letters of a reference that are told where all of it would hide the rest.
const REFERENCE_SHOWN: usize = 20;

/// The path with references in it cut down to what tells them apart.
fn shortened(path: &Path) -> PathBuf {
    let short = |part: Component<'_>| match part.as_os_str().to_str() {
        Some(text) if text.parse::<RootRef>().is_ok() => {
            format!("{}...", text.chars().take(REFERENCE_SHOWN).collect::<String>()).into()
        }
        _ => part.as_os_str().to_os_string(),
    };
    path.components().map(short).collect()
}

/// Runs work over a whole tree on a thread of its own, so that its future need not move between threads; ends it when the
/// caller is dropped.
async fn apart<T, F>(work: F) -> Result<T, String>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Result<T, String> + Send + 'static,
{
    let (caller, gone) = oneshot::channel::<()>();
    let runtime = Handle::current();
    let run = move || {
        runtime.block_on(async {
            tokio::select! {
                result = work() => result,
                _ = gone => Err("given up".to_string()),
            }
        })
    };
    let result = tokio::task::spawn_blocking(run).await;
    drop(caller);
    result.unwrap_or_else(|_| Err("the node is stopping".to_string()))
}

fn no_such(path: &Path) -> String {
    format!("{}: no such file or directory in that tree", escape(path.as_os_str().as_bytes()))
}

fn far(counter: &Counter) -> (u64, u64) {
    (counter.done.load(Ordering::Relaxed), counter.total.load(Ordering::Relaxed))
}

fn parse<R: FromStr<Err = TextError>>(text: &str) -> Result<R, String> {
    text.trim().parse().map_err(|e| format!("{}: {e}", escape(text.as_bytes())))
}

impl Service for Node {
    async fn serve(&self, request: Request, replies: Replies) -> Result<Answer, String> {
        Ok(match request {
            Request::Status => Answer::Status(Box::new(self.status().await)),
            Request::Peers => Answer::Peers(self.engine.peers()),
            Request::Balances => Answer::Balances(self.engine.balances().await),
            Request::Ref { path } => {
                Answer::Reference(Reference { reference: self.reference(&path.0).await?.to_string() })
            }
            Request::Publish { path, wait } => Answer::Published(self.publish(&path.0, wait, &replies).await?),
            Request::Get { reference, dest } => {
                let root = self.leads_to(parse(&reference)?).await?;
                Answer::Fetched(self.get(&root, &dest.0, &replies).await?)
            }
            Request::Pin { reference } => Answer::Pinned(self.pin(&parse(&reference)?, &replies).await?),
            Request::Unpin { reference } => {
                let was_pinned = self.engine.unpin(&parse(&reference)?).await.map_err(|e| e.to_string())?;
                Answer::Unpinned(Unpinned { was_pinned })
            }
            Request::Verify { reference } => Answer::Verified(self.verify(&parse(&reference)?, false, &replies).await?),
            Request::Repair { reference } => Answer::Verified(self.verify(&parse(&reference)?, true, &replies).await?),
            Request::Why { path } => Answer::Why(self.why(&path.0).await?),
            Request::Name(request) => Answer::Names(self.name(request).await?),
            Request::Wallet(request) => Answer::Wallet(super::wallet::serve(&self.engine, request).await?),
            Request::Mount { path, options } => {
                let mounts = self.mounts.clone();
                let work = move || mounts.add(&path.0, &options);
                let added = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())??;
                Answer::Mounted { path: added.map(PathText) }
            }
            Request::Settings => Answer::Settings(lock(&self.settings).clone()),
            Request::Pay { peer, amount_sat } => Answer::Paid(self.pay(&peer, amount_sat).await?),
            Request::Allow { reference, amount_sat } => {
                Answer::Allowed(self.allow(&parse(&reference)?, amount_sat).await?)
            }
            Request::Payments => Answer::Payments(self.engine.payments().await),
            Request::Audit { from } => Answer::Audit(self.engine.audit(from).await.map_err(|e| e.to_string())?),
            Request::Stop => {
                self.stop.notify_one();
                Answer::Nothing
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_with_its_reference_cut_short() {
        let reference = crate::base::text::encode(crate::base::text::TextKind::File, &[1; 67]);
        let path = PathBuf::from(format!("ref/{reference}/some/file"));
        assert!(reference.parse::<RootRef>().is_ok());
        let short: String = reference.chars().take(REFERENCE_SHOWN).collect();
        assert_eq!(shortened(&path), Path::new(&format!("ref/{short}.../some/file")));
        assert_eq!(shortened(Path::new("tornet1/file")), Path::new("tornet1/file"));
    }
}
