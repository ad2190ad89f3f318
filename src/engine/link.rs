//! Open links: one table from peers to their links, dialling once however many ask.

use super::reactor::Event;
use super::server;
use crate::base::peer::{Contact, PeerId};
use crate::base::sync::lock;
use crate::net::endpoint::Endpoint;
use crate::net::link::Link;
use crate::node::input::Input;
use crate::wire::message::CallFailure;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

/// One address gets this long to answer a handshake.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// And this long before the next one is tried beside it (RFC 8305, section 5).
const DIAL_HEAD_START: Duration = Duration::from_millis(250);

/// All links of this node.
pub(super) struct Links {
    endpoint: Endpoint,
    open: Mutex<HashMap<PeerId, Vec<Link>>>,
    dialling: Mutex<HashMap<PeerId, Arc<tokio::sync::Mutex<()>>>>,
    events: mpsc::UnboundedSender<Event>,
    me: PeerId,
}

impl Links {
    pub(super) fn new(endpoint: Endpoint, me: PeerId, events: mpsc::UnboundedSender<Event>) -> Arc<Links> {
        Arc::new(Links { endpoint, open: Mutex::default(), dialling: Mutex::default(), events, me })
    }

    /// Accepts links until the endpoint closes.
    pub(super) async fn accept(self: Arc<Self>) {
        while let Some(link) = self.endpoint.accept().await {
            self.register(link, false);
        }
    }

    /// The newest open link to a peer.
    pub(super) fn open_to(&self, peer: &PeerId) -> Option<Link> {
        lock(&self.open).get(peer).and_then(|links| links.last().cloned())
    }

    /// The open link to `to`, or a new one to whichever of its addresses answers first; earlier ones have a head start.
    pub(super) async fn link(self: &Arc<Self>, to: &Contact) -> Result<Link, CallFailure> {
        if let Some(link) = self.open_to(&to.peer) {
            return Ok(link);
        }
        let turn = lock(&self.dialling).entry(to.peer).or_default().clone();
        let guard = turn.lock().await;
        let found = match self.open_to(&to.peer) {
            Some(link) => Ok(link),
            None => self.dial(to).await,
        };
        drop(guard);
        let mut dialling = lock(&self.dialling);
        // The table's own and ours: nobody else waits for a turn.
        if dialling.get(&to.peer).is_some_and(|turn| Arc::strong_count(turn) <= 2) {
            dialling.remove(&to.peer);
        }
        found
    }

    async fn dial(self: &Arc<Self>, to: &Contact) -> Result<Link, CallFailure> {
        // An address that does not answer must not cost the next one its time: peers move, and old addresses are remembered.
        let mut dials = JoinSet::new();
        let mut addrs = to.addrs.iter();
        let mut more = true;
        loop {
            if more {
                match addrs.next() {
                    Some(addr) => _ = dials.spawn(self.clone().dial_one(to.peer, *addr)),
                    None => more = false,
                }
            }
            let head_start =
                async { if more { tokio::time::sleep(DIAL_HEAD_START).await } else { std::future::pending().await } };
            tokio::select! {
                done = dials.join_next() => match done {
                    Some(Ok(Some(link))) => {
                        self.register(link.clone(), true);
                        return Ok(link);
                    }
                    Some(_) => {}
                    None if more => {}
                    None => return Err(CallFailure::Unreachable(to.peer)),
                },
                () = head_start => {}
            }
        }
    }

    async fn dial_one(self: Arc<Self>, peer: PeerId, addr: SocketAddr) -> Option<Link> {
        match tokio::time::timeout(DIAL_TIMEOUT, self.endpoint.dial(&peer, addr)).await {
            Ok(Ok(link)) => return Some(link),
            Ok(Err(error)) => debug!(peer = %format_args!("{peer:.8}"), %addr, %error, "dial failed"),
            Err(_) => debug!(peer = %format_args!("{peer:.8}"), %addr, "dial timed out"),
        }
        None
    }

    fn register(self: &Arc<Self>, link: Link, dialled: bool) {
        let peer = link.peer();
        lock(&self.open).entry(peer).or_default().push(link.clone());
        let (rtt, addr) = (Some(link.rtt()), link.remote_addr());
        let _ = self.events.send(Event::Input(Input::LinkUp { rtt, peer, addr, dialled }));
        let links = self.clone();
        tokio::spawn(async move {
            server::listen(&link, &links.me, &links.events).await;
            link.closed().await;
            links.forget(&link);
        });
    }

    fn forget(&self, link: &Link) {
        let peer = link.peer();
        let mut open = lock(&self.open);
        if let Some(links) = open.get_mut(&peer) {
            links.retain(|other| other.id() != link.id());
            if links.is_empty() {
                open.remove(&peer);
                let _ = self.events.send(Event::Input(Input::LinkDown { peer }));
            }
        }
    }

    /// Closes every link to a peer.
    pub(super) fn drop_peer(&self, peer: &PeerId) {
        for link in lock(&self.open).get(peer).into_iter().flatten() {
            link.close(crate::wire::close::CloseReason::Fault.code());
        }
    }

    /// All open links, for status.
    pub(super) fn all(&self) -> Vec<Link> {
        lock(&self.open).values().filter_map(|links| links.last().cloned()).collect()
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}
