//! The only loop around the node machine: wait for one event, hand it over, carry the effects out.

use super::client;
use super::clock::Clock;
use super::keep::Keeping;
use super::link::Links;
use super::pay::Payer;
use super::rank::Search;
use super::server::{self, Sent, Serving};
use super::swarm::{HeadFound, Swarm, Waiting};
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use crate::content::section::VerifyStripe;
use crate::net::identity::Identity;
use crate::net::link::Responder;
use crate::node::Node;
use crate::node::effect::{CallId, Effect, Token};
use crate::node::input::{Answer, Input};
use crate::store::{Class, Store};
use crate::wire::message::{CallFailure, Request};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

/// How often, and after what pause, chunks are tried to be made durable.
const SETTLE_TRIES: usize = 20;
const SETTLE_PAUSE: Duration = Duration::from_secs(5);

/// What the loop waits for.
pub(super) enum Event {
    /// Straight to the machine.
    Input(Input),
    /// A peer's request with the stream that its answer goes to.
    Asked { from: PeerId, request: Request, responder: Responder },
    /// One of our calls ended.
    CallEnded { call: CallId, result: Result<Answer, CallFailure> },
    /// Ask the machine something between two events.
    Inspect(Box<dyn FnOnce(&Node) + Send>),
    /// End the loop.
    Stop,
}

/// Everything that effects are carried out with.
pub(super) struct Shell {
    pub(super) clock: Clock,
    pub(super) identity: Identity,
    pub(super) links: Arc<Links>,
    pub(super) store: Arc<Store>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) payer: Payer,
    pub(super) keeping: Arc<Keeping>,
    pub(super) search: Arc<Search>,
}

/// Runs the machine until it is told to stop.
pub(super) async fn run(mut node: Node, shell: Shell, mut events: mpsc::UnboundedReceiver<Event>) {
    let mut calls: BTreeMap<CallId, AbortHandle> = BTreeMap::new();
    let mut tokens: BTreeMap<Token, Responder> = BTreeMap::new();
    let mut token_next = 0u64;
    loop {
        let timeout = node.poll_timeout().map(|at| shell.clock.at(at));
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            () = sleep_until(timeout) => None,
        };
        let now = shell.clock.now();
        let mut event = match event {
            Some(event) => Some(event),
            None => {
                node.tick(now);
                None
            }
        };
        // Take what else is waiting before looking at effects: one turn for many events.
        let mut budget = 64;
        while let Some(this) = event {
            match this {
                Event::Input(input) => node.handle(now, input),
                Event::Asked { from, request, responder } => {
                    token_next += 1;
                    let token = Token(token_next);
                    tokens.insert(token, responder);
                    node.handle(now, Input::Request { from, token, request });
                }
                Event::CallEnded { call, result } => {
                    // A call that was cancelled has been reported already.
                    if calls.remove(&call).is_some() {
                        node.handle(now, Input::Answered { call, result });
                    }
                }
                Event::Inspect(look) => look(&node),
                Event::Stop => {
                    super::book::close(&shell.store, &node.close_books());
                    // Whom a short life met, too; the machine itself asks for this only now and then.
                    let contacts = node.contacts();
                    if !contacts.is_empty() {
                        super::memory::remember(&shell.store, contacts);
                    }
                    return;
                }
            }
            budget -= 1;
            event = if budget > 0 { events.try_recv().ok() } else { None };
        }
        while let Some(effect) = node.poll_effect() {
            match effect {
                Effect::Call { call, to, request, deadline } => {
                    let task = client::call(&shell, call, to, request, shell.clock.at(deadline));
                    calls.insert(call, tokio::spawn(task).abort_handle());
                }
                Effect::Check { call, to, fetch, chunk_len, deadline } => {
                    let task = client::check(&shell, call, to, fetch, chunk_len, shell.clock.at(deadline));
                    calls.insert(call, tokio::spawn(task).abort_handle());
                }
                Effect::Cancel { call } => {
                    if let Some(task) = calls.remove(&call) {
                        task.abort();
                        node.handle(now, Input::Answered { call, result: Err(CallFailure::Cancelled) });
                    }
                }
                Effect::Answer { token, response } => {
                    if let Some(responder) = tokens.remove(&token) {
                        tokio::spawn(server::answer(responder, response));
                    }
                }
                Effect::Serve { token, fetch, demand, otherwise, charge, told } => {
                    if let Some(responder) = tokens.remove(&token) {
                        let serving = Serving { fetch, demand, otherwise, charge };
                        let work = server::serve(shell.store.clone(), responder, serving);
                        let events = shell.events.clone();
                        tokio::spawn(async move {
                            let Sent { bytes, charge, whole } = work.await;
                            if told {
                                let _ = events.send(Event::Input(Input::Served { token, bytes, charge, whole }));
                            }
                        });
                    } else if told {
                        node.handle(now, Input::Served { token, bytes: 0, charge: Msat::ZERO, whole: true });
                    }
                }
                Effect::AnswerLocated { token, chunks, located } => {
                    if let Some(responder) = tokens.remove(&token) {
                        tokio::spawn(server::located(shell.store.clone(), responder, chunks, located));
                    }
                }
                other => carry_out(&shell, other),
            }
        }
    }
}

/// The effects that need none of the loop's own state.
fn carry_out(shell: &Shell, effect: Effect) {
    match effect {
        Effect::Keep { chunks, owner, lease } => {
            let until = unix_now().saturating_add(u64::from(lease));
            debug!(peer = %format_args!("{owner:.8}"), chunks = chunks.len(), lease, "hosting");
            // Also of chunks that are still to come: they are hosted from the moment they arrive. No lease: let them go.
            let class = if lease == 0 { Class::Cached } else { Class::Hosted { until } };
            let (store, events) = (shell.store.clone(), shell.events.clone());
            tokio::task::spawn_blocking(move || {
                let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
                let held = store.set_class(&ids, class).and_then(|()| store.holds_each(&ids));
                match held {
                    Ok(held) => {
                        let here: Vec<ChunkId> =
                            ids.into_iter().zip(held).filter_map(|(id, held)| held.then_some(id)).collect();
                        if lease > 0 && !here.is_empty() {
                            let _ = events.send(Event::Input(Input::Stored { chunks: here }));
                        }
                    }
                    Err(error) => warn!(%error, "hosted chunks could not be marked"),
                }
            });
        }
        Effect::Discard { chunks } => {
            let store = shell.store.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = store.discard(&chunks) {
                    warn!(%error, "chunks could not be given up");
                }
            });
        }
        Effect::Settle { chunks } => {
            tokio::spawn(settle(shell.store.clone(), shell.events.clone(), chunks));
        }
        Effect::Book { records } => {
            tokio::spawn(super::book::book(shell.store.clone(), shell.events.clone(), records));
        }
        Effect::Wallet(action) => shell.payer.act(*action),
        Effect::Rank(rank) => shell.search.begin(rank),
        Effect::WantDone { want, result } => shell.waiting.want_done(want, result),
        Effect::Placed { job, group, chunk, peer } => shell.keeping.placed(job, group, chunk, peer),
        Effect::ReadKept { after, max } => shell.keeping.read(&shell.events, after, max),
        Effect::WriteKept { key, kept } => shell.keeping.write(key, kept),
        Effect::Away { peer, away } => shell.keeping.away(peer, away),
        Effect::Rebuild { tend, chunks, data, chunk_len, lost } => {
            let stripe = VerifyStripe { chunk_len, data, ids: chunks };
            super::keep::rebuild(shell.store.clone(), shell.events.clone(), tend, stripe, lost);
        }
        Effect::Tended { errand, kept } => shell.waiting.tended(errand, kept),
        Effect::Published { job, progress } => shell.waiting.job_progress(job, progress),
        Effect::Head { want, newest, answered } => shell.waiting.head(want, HeadFound { newest, answered }),
        Effect::Located { want, holders } => shell.waiting.located(want, holders),
        Effect::Remember(contacts) => {
            let store = shell.store.clone();
            tokio::task::spawn_blocking(move || super::memory::remember(&store, contacts));
        }
        Effect::Drop { peer, why } => {
            warn!(peer = %format_args!("{peer:.8}"), why, "peer dropped");
            shell.links.drop_peer(&peer);
        }
        Effect::Call { .. }
        | Effect::Check { .. }
        | Effect::Cancel { .. }
        | Effect::Answer { .. }
        | Effect::Serve { .. }
        | Effect::AnswerLocated { .. } => {
            info!("an effect reached the wrong arm");
        }
    }
}

/// Makes chunks durable and says so; while the disk refuses, nothing is said.
async fn settle(store: Arc<Store>, events: mpsc::UnboundedSender<Event>, chunks: Vec<ChunkId>) {
    for _ in 0..SETTLE_TRIES {
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.flush_hosted()).await {
            Ok(Ok(())) => {
                let _ = events.send(Event::Input(Input::Kept { chunks }));
                return;
            }
            Ok(Err(error)) => warn!(%error, "hosted chunks are not durable yet"),
            Err(_) => return,
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => tokio::time::sleep(Duration::from_secs(60)).await,
    }
}

/// Civil time in whole seconds.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Swarm {
    /// Looks at the machine between two of its events.
    pub(super) async fn inspect<T: Send + 'static>(&self, look: impl FnOnce(&Node) -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let _ = self.events.send(Event::Inspect(Box::new(move |node| {
            let _ = sender.send(look(node));
        })));
        receiver.await.ok()
    }
}
