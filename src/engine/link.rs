//! Open links: one table from peers to their links, dialling once however many ask, and closing the least used when there are many.

use super::reactor::Event;
use super::server;
use super::swarm::Swarm;
use crate::base::limit::LINKS_MAX;
use crate::base::peer::{Contact, PeerId};
use crate::base::sync::lock;
use crate::net::endpoint::Endpoint;
use crate::net::link::Link;
use crate::node::input::Input;
use crate::wire::close::CloseReason;
use crate::wire::message::CallFailure;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

/// One address gets this long to answer a handshake.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// And this long before the next one is tried beside it (RFC 8305, section 5).
const DIAL_HEAD_START: Duration = Duration::from_millis(250);

/// With more peers linked than this, those make room that were not used for so long, the longest unused first: dials of others would be
/// ignored at `LINKS_MAX`.
pub(super) const LINKS_KEPT: usize = LINKS_MAX * 3 / 4;
const UNUSED: Duration = Duration::from_secs(300);
const TIDY: Duration = Duration::from_secs(15);
/// So many bytes since the last look are more than what keeps a link alive, and less than anything that somebody waits for.
const BUSY_BYTES: u64 = 32 << 10;

/// The links to a peer.
struct Open {
    links: Vec<Link>,
    used: Instant,
    /// Bytes of all of them at the last look.
    bytes: u64,
}

impl Open {
    /// Counts as used what carried something since the last look.
    fn look(&mut self, now: Instant) {
        let stats = self.links.iter().map(Link::stats);
        let bytes: u64 = stats.map(|stats| stats.sent_bytes + stats.received_bytes).sum();
        if bytes.abs_diff(self.bytes) >= BUSY_BYTES {
            self.used = now;
        }
        self.bytes = bytes;
    }
}

/// All links of this node.
pub(super) struct Links {
    endpoint: Endpoint,
    open: Mutex<HashMap<PeerId, Open>>,
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
        let mut open = lock(&self.open);
        let open = open.get_mut(peer)?;
        open.used = Instant::now();
        open.links.last().cloned()
    }

    /// A peer asked something.
    fn asked_by(&self, peer: &PeerId) {
        if let Some(open) = lock(&self.open).get_mut(peer) {
            open.used = Instant::now();
        }
    }

    /// Peers whose links may make room for others, the longest unused first, and how many of them should.
    fn unused(&self, now: Instant, kept: usize, unused: Duration) -> (Vec<PeerId>, usize) {
        let mut open = lock(&self.open);
        let surplus = open.len().saturating_sub(kept);
        open.values_mut().for_each(|open| open.look(now));
        if surplus == 0 {
            return (Vec::new(), 0);
        }
        let idle = open.iter().filter(|(_, open)| now.saturating_duration_since(open.used) >= unused);
        let mut idle: Vec<(Instant, PeerId)> = idle.map(|(peer, open)| (open.used, *peer)).collect();
        idle.sort_unstable();
        (idle.into_iter().map(|(_, peer)| peer).collect(), surplus)
    }

    /// Keeps room for those who dial, until the engine stops.
    pub(super) async fn tidy(self: Arc<Self>, swarm: Swarm) {
        let mut ticks = tokio::time::interval(TIDY);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = swarm.events.closed() => return,
            }
            let (unused, surplus) = self.unused(Instant::now(), LINKS_KEPT, UNUSED);
            if surplus == 0 {
                continue;
            }
            // Whom the machine needs it would have dialled again at once.
            let spared = swarm.inspect(move |node| unused.into_iter().filter(|peer| !node.needs(peer)).collect());
            let unused: Vec<PeerId> = spared.await.unwrap_or_default();
            debug!(surplus, unused = unused.len(), "unused links make room");
            unused.iter().take(surplus).for_each(|peer| self.close(peer, CloseReason::Idle));
        }
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
        let fresh = || Open { links: Vec::new(), used: Instant::now(), bytes: 0 };
        lock(&self.open).entry(peer).or_insert_with(fresh).links.push(link.clone());
        let (rtt, addr) = (Some(link.rtt()), link.remote_addr());
        let _ = self.events.send(Event::Input(Input::LinkUp { rtt, peer, addr, dialled }));
        let links = self.clone();
        tokio::spawn(async move {
            server::listen(&link, &links.me, &links.events, || links.asked_by(&peer)).await;
            link.closed().await;
            links.forget(&link);
        });
    }

    fn forget(&self, link: &Link) {
        let peer = link.peer();
        let mut open = lock(&self.open);
        if let Some(of_peer) = open.get_mut(&peer) {
            of_peer.links.retain(|other| other.id() != link.id());
            if of_peer.links.is_empty() {
                open.remove(&peer);
                let _ = self.events.send(Event::Input(Input::LinkDown { peer }));
            }
        }
    }

    /// Closes every link to a peer that did what an honest one does not.
    pub(super) fn drop_peer(&self, peer: &PeerId) {
        self.close(peer, CloseReason::Fault);
    }

    fn close(&self, peer: &PeerId, reason: CloseReason) {
        for link in lock(&self.open).get(peer).into_iter().flat_map(|open| &open.links) {
            link.close(reason.code());
        }
    }

    /// All open links, for status.
    pub(super) fn all(&self) -> Vec<Link> {
        lock(&self.open).values().filter_map(|open| open.links.last().cloned()).collect()
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::endpoint::EndpointConfig;
    use crate::net::identity::Identity;

    fn endpoint(seed: u8) -> Endpoint {
        let config = EndpointConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..EndpointConfig::default() };
        Endpoint::open(Identity::from_seed(&[seed; 32]), config).unwrap()
    }

    #[tokio::test]
    async fn the_longest_unused_links_make_room_and_no_others() {
        let (events, mut queue) = mpsc::unbounded_channel();
        let here = endpoint(1);
        let (address, me) = (here.local_addr(), here.peer());
        let links = Links::new(here, me, events);
        tokio::spawn(links.clone().accept());
        let mut others = Vec::new();
        for seed in 2..7 {
            let other = endpoint(seed);
            let link = other.dial(&me, address).await.unwrap();
            while links.open_to(&other.peer()).is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            others.push((other, link));
        }
        let peer = |place: usize| others[place].0.peer();
        // The first is used by us, the second asks us something; the third, fourth and fifth do nothing.
        links.open_to(&peer(0)).unwrap();
        let asking = others[1].1.clone();
        tokio::spawn(async move { asking.ask(&crate::wire::message::Request::Reach(Vec::new()).to_bytes()).await });
        while !matches!(queue.recv().await, Some(Event::Asked { .. })) {}
        let now = Instant::now();
        let (unused, surplus) = links.unused(now + UNUSED, 3, UNUSED);
        assert_eq!((&unused[..3], surplus), (&[peer(2), peer(3), peer(4)][..], 2));
        assert_eq!(links.unused(now, 3, UNUSED), (Vec::new(), 2), "all were used a moment ago");
        assert_eq!(links.unused(now + UNUSED, 5, UNUSED), (Vec::new(), 0), "there is room");
        links.close(&peer(2), CloseReason::Idle);
        while links.all().len() > 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(links.open_to(&peer(2)).is_none());
    }
}
