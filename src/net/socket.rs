//! The UDP socket under QUIC: masks what is sent, unmasks what arrives, drops what fits no key. Keeps batches whole (GSO, GRO).

use super::cid::CidKey;
use super::mask::{MaskKey, MaskKeys, Revealed, SAMPLE_BYTES, is_long};
use crate::base::peer::PeerId;
use crate::base::sync::lock;
use noq::udp::{RecvMeta, Transmit};
use noq::{AsyncUdpSocket, ConnectionId, UdpSender};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};

/// The longest datagram that we take: large enough for loopback and for any network with jumbo frames.
pub(super) const DATAGRAM_BYTES_MAX: u16 = 8952 + 520;
/// The kernel merges at most this many bytes of datagrams into one.
const BATCH_BYTES_MAX: usize = 65_535;
/// Datagrams with long headers that arrived in the middle of a batch and wait to be handed on by themselves.
const SPILLED_MAX: usize = 64;
/// Tags of first datagrams are remembered in two generations of this many.
const SEEN_GENERATION: usize = 32 * 1024;
/// Keys that are tried for one address.
const KEYS_PER_ADDR_MAX: usize = 8;

/// Tags that were accepted: a datagram with long headers passes once, so that a replay gets no answer.
#[derive(Default)]
struct SeenTags {
    newer: HashSet<[u8; 8]>,
    older: HashSet<[u8; 8]>,
}

impl SeenTags {
    /// Whether the tag is new.
    fn insert(&mut self, tag: &[u8; SAMPLE_BYTES]) -> bool {
        let [a, b, c, d, e, f, g, h, ..] = *tag;
        let short = [a, b, c, d, e, f, g, h];
        if self.older.contains(&short) || !self.newer.insert(short) {
            return false;
        }
        if self.newer.len() >= SEEN_GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        true
    }
}

struct Dialled {
    peer: PeerId,
    keys: Arc<MaskKeys>,
    links: usize,
}

/// The keys that a socket masks with.
pub(super) struct Keyring {
    own: MaskKeys,
    cids: CidKey,
    /// For each address that was dialled: whom we take to be there.
    dialled: RwLock<HashMap<SocketAddr, Vec<Dialled>>>,
    /// Dials whose first datagram has not been sent, by its destination connection id.
    starting: Mutex<HashMap<ConnectionId, Arc<MaskKeys>>>,
    seen: Mutex<SeenTags>,
    dropped: AtomicU64,
}

impl Keyring {
    pub(super) fn new(own: &PeerId, cids: CidKey) -> Keyring {
        Keyring {
            own: MaskKeys::new(own),
            cids,
            dialled: RwLock::default(),
            starting: Mutex::default(),
            seen: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Datagrams that fitted no key, were replayed, or came in too large a number at once.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Makes the keys for a link to `peer` at `addr`, for as long as the guard lives. `None` when too many different peers
    /// are being dialled at that address.
    pub(super) fn dial(
        self: &Arc<Self>,
        peer: PeerId,
        addr: SocketAddr,
        first_dcid: ConnectionId,
    ) -> Option<DialGuard> {
        let addr = canonical(addr);
        let mut dialled = self.dialled.write().unwrap_or_else(PoisonError::into_inner);
        let entries = dialled.entry(addr).or_default();
        let crowded = entries.len() >= KEYS_PER_ADDR_MAX;
        let keys = match entries.iter_mut().find(|entry| entry.peer == peer) {
            Some(entry) => {
                entry.links += 1;
                entry.keys.clone()
            }
            None if crowded => return None,
            None => {
                let keys = Arc::new(MaskKeys::new(&peer));
                entries.push(Dialled { peer, keys: keys.clone(), links: 1 });
                keys
            }
        };
        drop(dialled);
        lock(&self.starting).insert(first_dcid, keys);
        Some(DialGuard { ring: self.clone(), peer, addr, first_dcid })
    }

    fn forget(&self, guard: &DialGuard) {
        lock(&self.starting).remove(&guard.first_dcid);
        let mut dialled = self.dialled.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entries) = dialled.get_mut(&guard.addr) {
            for entry in entries.iter_mut().filter(|entry| entry.peer == guard.peer) {
                entry.links = entry.links.saturating_sub(1);
            }
            entries.retain(|entry| entry.links > 0);
            if entries.is_empty() {
                dialled.remove(&guard.addr);
            }
        }
    }

    /// Keys of the peers dialled at `addr`.
    fn dialled_at(&self, addr: SocketAddr) -> Vec<Arc<MaskKeys>> {
        let dialled = self.dialled.read().unwrap_or_else(PoisonError::into_inner);
        match dialled.get(&canonical(addr)) {
            Some(entries) => entries.iter().map(|entry| entry.keys.clone()).collect(),
            None => Vec::new(),
        }
    }

    /// Unmasks one datagram with the first key that fits; `likely` is the place of the key that fitted last.
    fn reveal(&self, datagram: &mut [u8], dialled: &[Arc<MaskKeys>], likely: &mut usize) -> Option<Revealed> {
        let count = dialled.len() + 1;
        for step in 0..count {
            let place = (*likely + step) % count;
            let revealed = match dialled.get(place) {
                Some(keys) => keys.to_dialling.reveal(datagram, &self.cids),
                None => self.own.to_accepting.reveal(datagram, &self.cids),
            };
            match revealed {
                None => continue,
                Some(Revealed::Long { tag, .. }) if place == dialled.len() && !lock(&self.seen).insert(&tag) => {
                    return None;
                }
                Some(_) => {
                    *likely = place;
                    return revealed;
                }
            }
        }
        None
    }
}

/// Keeps the keys of a dialled peer.
pub(super) struct DialGuard {
    ring: Arc<Keyring>,
    peer: PeerId,
    addr: SocketAddr,
    first_dcid: ConnectionId,
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        self.ring.forget(self);
    }
}

/// One form for each address: a dual-stack socket reports IPv4 peers as mapped IPv6 addresses.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The socket that QUIC sees.
pub(super) struct MaskedSocket {
    inner: Box<dyn AsyncUdpSocket>,
    ring: Arc<Keyring>,
    spilled: VecDeque<(RecvMeta, Vec<u8>)>,
}

impl std::fmt::Debug for MaskedSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MaskedSocket")
    }
}

impl MaskedSocket {
    pub(super) fn new(inner: Box<dyn AsyncUdpSocket>, ring: Arc<Keyring>) -> MaskedSocket {
        MaskedSocket { inner, ring, spilled: VecDeque::new() }
    }

    /// Unmasks a batch of datagrams of `meta.stride` bytes each (the last may be shorter) in place.
    fn unmask(&mut self, meta: &mut RecvMeta, buffer: &mut [u8]) {
        let Some(batch) = buffer.get_mut(..meta.len) else {
            meta.len = 0;
            return;
        };
        let dialled = self.ring.dialled_at(meta.addr);
        let mut likely = 0;
        let stride = meta.stride.max(1);
        let single = meta.len <= stride;
        let mut lost = 0;
        for datagram in batch.chunks_mut(stride) {
            match self.ring.reveal(datagram, &dialled, &mut likely) {
                Some(Revealed::Short) => {}
                Some(Revealed::Long { len, .. }) if single => {
                    // Without its padding; there is nothing else in this buffer.
                    meta.len = len;
                    meta.stride = len;
                }
                Some(Revealed::Long { len, .. }) if self.spilled.len() < SPILLED_MAX => {
                    // Its neighbours have to stay at their places: it is handed on by itself.
                    let plain = datagram.get(..len).unwrap_or_default().to_vec();
                    let mut own = *meta;
                    (own.len, own.stride) = (len, len);
                    self.spilled.push_back((own, plain));
                    datagram.fill(0);
                }
                // QUIC ignores a packet of zeros without an answer.
                Some(Revealed::Long { .. }) | None => {
                    lost += 1;
                    datagram.fill(0);
                    if single {
                        meta.len = 0;
                    }
                }
            }
        }
        if lost > 0 {
            self.ring.dropped.fetch_add(lost, Ordering::Relaxed);
        }
    }

    fn hand_on_spilled(&mut self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut count = 0;
        for (buf, place) in bufs.iter_mut().zip(metas) {
            let Some((meta, plain)) = self.spilled.pop_front() else { break };
            if let Some(target) = buf.get_mut(..plain.len()) {
                target.copy_from_slice(&plain);
                *place = meta;
                count += 1;
            }
        }
        count
    }
}

impl AsyncUdpSocket for MaskedSocket {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        Box::pin(MaskedSender { inner: self.inner.create_sender(), ring: self.ring.clone(), key: None, sent: 0 })
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let spilled = self.hand_on_spilled(bufs, meta);
        if spilled > 0 {
            return Poll::Ready(Ok(spilled));
        }
        let count = match self.inner.poll_recv(cx, bufs, meta) {
            Poll::Ready(Ok(count)) => count,
            // What an earlier datagram met on its way is no reason to stop listening.
            Poll::Ready(Err(error)) if passing(&error) => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            other => return other,
        };
        for (meta, buf) in meta.iter_mut().zip(bufs).take(count) {
            self.unmask(meta, buf);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        // QUIC makes buffers for this many datagrams of the greatest length; the kernel never merges as many of those.
        let segments = BATCH_BYTES_MAX.div_ceil(usize::from(DATAGRAM_BYTES_MAX));
        NonZeroUsize::new(segments).unwrap_or(NonZeroUsize::MIN).min(self.inner.max_receive_segments())
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

fn passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkDown | NetworkUnreachable)
}

/// Sends for one connection, or for the endpoint itself.
struct MaskedSender {
    inner: Pin<Box<dyn UdpSender>>,
    ring: Arc<Keyring>,
    /// Known from the first datagram on: of a peer that we dial, or our own.
    key: Option<MaskKey>,
    /// Bytes of the present transmit that went out one by one before the socket was full.
    sent: usize,
}

impl std::fmt::Debug for MaskedSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MaskedSender")
    }
}

thread_local! {
    /// Masked copy of what is being sent.
    static MASKED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The destination connection id of a packet with a long header.
fn long_dcid(datagram: &[u8]) -> Option<ConnectionId> {
    let (length, rest) = datagram.get(5..)?.split_first()?;
    let length = usize::from(*length);
    if length > 20 { None } else { rest.get(..length).map(ConnectionId::new) }
}

impl MaskedSender {
    /// A dialled connection is known by its first datagram; all others are accepted ones.
    fn key(&mut self, datagram: &[u8]) -> MaskKey {
        if let Some(key) = &self.key {
            return key.clone();
        }
        let starting = if is_long(datagram) {
            long_dcid(datagram).and_then(|dcid| lock(&self.ring.starting).remove(&dcid))
        } else {
            None
        };
        let key = match starting {
            Some(keys) => keys.to_accepting.clone(),
            None => self.ring.own.to_dialling.clone(),
        };
        self.key.insert(key).clone()
    }
}

impl UdpSender for MaskedSender {
    fn poll_send(mut self: Pin<&mut Self>, transmit: &Transmit<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let key = this.key(transmit.contents);
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let any_long = transmit.contents.chunks(segment).any(is_long);
        MASKED.with_borrow_mut(|masked| {
            if !any_long {
                masked.clear();
                masked.extend_from_slice(transmit.contents);
                for datagram in masked.chunks_mut(segment) {
                    key.hide_short(datagram);
                }
                let transmit = Transmit { contents: masked, ..*transmit };
                return this.inner.as_mut().poll_send(&transmit, cx);
            }
            // Padding makes each of another length: one by one.
            while let Some(rest) = transmit.contents.get(this.sent..).filter(|rest| !rest.is_empty()) {
                let datagram = rest.get(..segment).unwrap_or(rest);
                masked.clear();
                if is_long(datagram) {
                    key.hide_long(datagram, masked);
                } else {
                    masked.extend_from_slice(datagram);
                    key.hide_short(masked);
                }
                let single = Transmit { contents: masked, segment_size: None, ..*transmit };
                match this.inner.as_mut().poll_send(&single, cx) {
                    Poll::Ready(Ok(())) => this.sent += datagram.len(),
                    Poll::Ready(Err(error)) => {
                        this.sent = 0;
                        return Poll::Ready(Err(error));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            this.sent = 0;
            Poll::Ready(Ok(()))
        })
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        self.inner.max_transmit_segments()
    }
}
