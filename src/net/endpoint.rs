//! The endpoint: one UDP socket for all links, dialled and accepted.

use super::cid::CidKey;
use super::congestion::TolerantBbr;
use super::identity::Identity;
use super::link::{Link, LinkError, PeerPlaces};
use super::session::{Accepting, Dialling, VERSION};
use super::socket::{DATAGRAM_BYTES_MAX, Keyring, MaskedSocket, canonical};
use super::token::{ResetKey, TokenKey, UsedTokens};
use crate::base::limit::{CHUNK_BYTES_MAX, CHUNK_SLICES_MAX, LINKS_MAX, STREAMS_PER_PEER_MAX};
use crate::base::peer::PeerId;
use noq::{ClientConfig, ConnectionId, Incoming, MtuDiscoveryConfig, Runtime, ServerConfig, TokenMemoryCache};
use noq::{TransportConfig, ValidationTokenConfig, VarInt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// Accepted links that wait to be taken.
const ACCEPTED_MAX: usize = 64;
/// Handshakes of validated addresses under way.
const HANDSHAKES_MAX: usize = 128;
/// Of them, from one network (IPv4 /24, IPv6 /48).
const HANDSHAKES_PER_NETWORK_MAX: usize = 16;
/// First datagrams that wait to be looked at.
const INCOMING_MAX: usize = 1024;
/// Bytes that may follow a first datagram before it is looked at, for one and for all.
const INCOMING_BYTES: (u64, u64) = (16 * 1024, 1024 * 1024);
/// What the kernel is asked to buffer for the socket, each way.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Tokens of earlier connections kept: peers, tokens of each.
const TOKENS_KEPT: (u32, usize) = (1024, 2);
/// Holds the longest answer (a whole chunk and its outline), and no more: the transport gives a link up when more than 1,024
/// pieces of one stream wait to be read or to be put in order (noq 1.4; quinn issue 2809), so that many datagrams of the
/// least length must hold a stream's whole window.
const STREAM_WINDOW_MAX: u32 = (1024 + 96) * 1024;
const _: () =
    assert!(STREAM_WINDOW_MAX / 1024 <= 1200 - 64, "frames of a whole window are at most as many as may wait");
const _: () = assert!(STREAM_WINDOW_MAX as usize > CHUNK_BYTES_MAX + 32 * CHUNK_SLICES_MAX + 64);

/// UDP payload of networks with jumbo frames (MTU 9000) and of loopback.
const JUMBO_BYTES: u16 = 8952;
/// UDP payload of Ethernet with room for an IPv6 header: tried where the route's own limit is not known.
const ETHERNET_BYTES: u16 = 1452;

/// How links behave.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// A link is given up when the peer was not heard of for so long.
    pub idle_max: Duration,
    /// A link on which nothing happens is kept alive by a packet this often.
    pub keep_alive: Duration,
    /// A dial that has not succeeded by then has failed.
    pub dial_max: Duration,
    /// With so many links open, dials of others are ignored.
    pub accepted_max: usize,
    /// Bytes that a peer may have under way to us on one link.
    pub receive_window: u32,
    /// Bytes that a peer may have under way to us on one stream; more than the default costs links (see `Default`).
    pub stream_window: u32,
    /// Bytes kept for one peer until it acknowledges them.
    pub send_window: u32,
    /// The longest datagrams tried on paths that may carry them, bytes of UDP payload.
    pub datagram_max: u16,
}

impl Default for EndpointConfig {
    /// 1 Gbit/s over 100 ms is 12.5 MB under way.
    fn default() -> EndpointConfig {
        EndpointConfig {
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            idle_max: Duration::from_secs(20),
            keep_alive: Duration::from_secs(7),
            dial_max: Duration::from_secs(8),
            accepted_max: LINKS_MAX,
            receive_window: 16 << 20,
            stream_window: STREAM_WINDOW_MAX,
            send_window: 16 << 20,
            datagram_max: JUMBO_BYTES,
        }
    }
}

/// Why no endpoint could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address is taken or not ours.
    #[error("cannot listen on UDP {addr}; choose another address or port, or stop the program that uses it")]
    Bind {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket could not be set up.
    #[error("cannot set up the UDP socket")]
    Socket(#[source] io::Error),
}

/// Why a peer was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nobody with that identity answered at that address.
    #[error("no answer from {peer:.8} at {addr}")]
    NoAnswer {
        /// Whom.
        peer: PeerId,
        /// Where.
        addr: SocketAddr,
    },
    /// Our own identity.
    #[error("that is this node itself")]
    Own,
    /// No such address can be dialled from this socket.
    #[error("{0} cannot be dialled from here")]
    Addr(SocketAddr),
    /// Not a public key.
    #[error("{0:.8} is not a peer id")]
    Peer(PeerId),
    /// Too many peers are said to be at one address.
    #[error("too many peers dialled at {0}")]
    Crowded(SocketAddr),
    /// The endpoint was closed.
    #[error("endpoint is closed")]
    Closed,
    /// The peer was reached and there is no link.
    #[error("handshake failed: {0}")]
    Refused(LinkError),
}

/// Counts of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointStats {
    /// Links that are open.
    pub links: usize,
    /// Datagrams dropped without an answer: strangers, replays, garbage.
    pub dropped_datagrams: u64,
    /// First datagrams answered with nothing but a token, to prove the address.
    pub retries: u64,
}

/// One UDP socket and all links over it. Must be opened and used inside a tokio runtime.
pub struct Endpoint {
    quic: noq::Endpoint,
    identity: Arc<Identity>,
    config: EndpointConfig,
    ring: Arc<Keyring>,
    tokens: Arc<TokenMemoryCache>,
    local: SocketAddr,
    accepted: Mutex<mpsc::Receiver<Link>>,
    retries: Arc<AtomicU64>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({:?} at {})", self.identity.peer(), self.local)
    }
}

impl Endpoint {
    /// Binds the socket and begins to accept.
    pub fn open(identity: Identity, config: EndpointConfig) -> Result<Endpoint, OpenError> {
        let bind = |source| OpenError::Bind { addr: config.listen, source };
        let socket = std::net::UdpSocket::bind(config.listen).map_err(bind)?;
        // Best effort: the kernel grants what its limits allow.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        let local = socket.local_addr().map_err(OpenError::Socket)?;
        let socket = noq::TokioRuntime.wrap_udp_socket(socket).map_err(OpenError::Socket)?;
        let identity = Arc::new(identity);
        let cids = CidKey::default();
        let ring = Arc::new(Keyring::new(&identity.peer(), cids.clone()));
        let quic = noq::Endpoint::new_with_abstract_socket(
            quic_config(&identity, cids),
            // Replaced for each link by parameters that fit its path.
            Some(server_config(&identity, Arc::default())),
            Box::new(MaskedSocket::new(socket, ring.clone())),
            Arc::new(noq::TokioRuntime),
        )
        .map_err(OpenError::Socket)?;
        let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
        let retries = Arc::new(AtomicU64::new(0));
        let acceptor = Acceptor {
            quic: quic.clone(),
            config: config.clone(),
            template: server_config(&identity, Arc::default()),
            handshakes: Arc::default(),
            places: Arc::default(),
            retries: retries.clone(),
            sender,
        };
        tokio::spawn(acceptor.run());
        Ok(Endpoint {
            quic,
            identity,
            ring,
            tokens: Arc::new(TokenMemoryCache::new(TOKENS_KEPT.0, TOKENS_KEPT.1)),
            local,
            accepted: Mutex::new(receiver),
            retries,
            config,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Who we are.
    pub fn peer(&self) -> PeerId {
        self.identity.peer()
    }

    /// Opens a link to `peer`, who is said to be at `addr`. Whoever answers has proved to be that peer.
    pub async fn dial(&self, peer: &PeerId, addr: SocketAddr) -> Result<Link, DialError> {
        if *peer == self.identity.peer() {
            return Err(DialError::Own);
        }
        let addr = canonical(addr);
        if addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast() {
            return Err(DialError::Addr(addr));
        }
        let mut first = [0; 20];
        getrandom::fill(&mut first).map_err(|_| DialError::Closed)?;
        let first = ConnectionId::new(&first);
        let keys = self.ring.dial(*peer, addr, first).ok_or(DialError::Crowded(addr))?;
        let crypto = Dialling { identity: self.identity.clone(), peer: *peer };
        let mut client = ClientConfig::new(Arc::new(crypto));
        client
            .version(VERSION)
            .token_store(self.tokens.clone())
            .initial_dst_cid_provider(Arc::new(move || first))
            .transport_config(Arc::new(transport(&self.config, addr)));
        // The name under which tokens are kept.
        let connecting = self.quic.connect_with(client, addr, &peer.to_string()).map_err(|error| match error {
            noq::ConnectError::EndpointStopping => DialError::Closed,
            noq::ConnectError::InvalidServerName(_) => DialError::Peer(*peer),
            _ => DialError::Addr(addr),
        })?;
        let no_answer = DialError::NoAnswer { peer: *peer, addr };
        let connection = match tokio::time::timeout(self.config.dial_max, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(noq::ConnectionError::TimedOut)) | Err(_) => return Err(no_answer),
            Ok(Err(noq::ConnectionError::LocallyClosed)) => return Err(DialError::Closed),
            Ok(Err(error)) => return Err(DialError::Refused(error.into())),
        };
        Link::dialled_with(connection, keys).map_err(DialError::Refused)
    }

    /// The next link that a peer opened to us; `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<Link> {
        self.accepted.lock().await.recv().await
    }

    /// Counts.
    pub fn stats(&self) -> EndpointStats {
        EndpointStats {
            links: self.quic.open_connections(),
            dropped_datagrams: self.ring.dropped(),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }

    /// Closes all links with `code` and waits a moment until the peers were told.
    pub async fn close(&self, code: u32) {
        self.quic.close(VarInt::from_u32(code), b"");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.quic.wait_all_draining()).await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.quic.close(VarInt::from_u32(0), b"");
    }
}

fn quic_config(identity: &Identity, cids: CidKey) -> noq::EndpointConfig {
    let reset = identity.derive("tornet 2026-11 link 1 reset key");
    let mut config = noq::EndpointConfig::new(Arc::new(ResetKey(reset)));
    config
        .supported_versions(vec![VERSION])
        .grease_quic_bit(false)
        .cid_generator(Arc::new(move || Box::new(cids.clone())));
    config.max_udp_payload_size(DATAGRAM_BYTES_MAX).expect("the length is within the bounds that QUIC sets");
    config
}

fn server_config(identity: &Arc<Identity>, transport: Arc<TransportConfig>) -> ServerConfig {
    let tokens = TokenKey(identity.derive("tornet 2026-11 link 1 token key"));
    let mut config = ServerConfig::new(Arc::new(Accepting { identity: identity.clone() }), Arc::new(tokens));
    let mut validation = ValidationTokenConfig::default();
    validation.log(Arc::new(UsedTokens::new())).sent(2);
    config
        .transport_config(transport)
        .validation_token_config(validation)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES.0)
        .incoming_buffer_size_total(INCOMING_BYTES.1);
    config
}

/// Parameters of a link to `remote`.
fn transport(config: &EndpointConfig, remote: SocketAddr) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let carried = route_datagram_max(remote).unwrap_or(ETHERNET_BYTES).clamp(1200, config.datagram_max.max(1200));
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(carried);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_PER_PEER_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(VarInt::try_from(config.idle_max.as_millis()).ok().map(Into::into))
        .keep_alive_interval(Some(config.keep_alive))
        .stream_receive_window(VarInt::from_u32(config.stream_window.min(STREAM_WINDOW_MAX)))
        .receive_window(VarInt::from_u32(config.receive_window))
        .send_window(u64::from(config.send_window))
        .initial_rtt(Duration::from_millis(100))
        .datagram_receive_buffer_size(None)
        .send_fairness(false)
        .allow_spin(false)
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(TolerantBbr::default()));
    if remote.ip().is_loopback() {
        // No need to find out by and by.
        transport.initial_mtu(carried);
    }
    transport
}

/// UDP payload that the first hop towards `remote` carries: no longer datagram can arrive, so none is tried.
fn route_datagram_max(remote: SocketAddr) -> Option<u16> {
    let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    // Sends nothing: the kernel only looks the route up.
    socket.connect(remote).ok()?;
    let (mtu, headers) = match remote {
        SocketAddr::V4(_) => (rustix::net::sockopt::ip_mtu(&socket).ok()?, 20 + 8),
        SocketAddr::V6(_) => (rustix::net::sockopt::ipv6_mtu(&socket).ok()?, 40 + 8),
    };
    Some(u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX))
}

/// The network that an address belongs to, for limits; `None` for this machine itself.
fn network(addr: SocketAddr) -> Option<[u8; 6]> {
    match addr.ip().to_canonical() {
        ip if ip.is_loopback() => None,
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Some([4, a, b, c, 0, 0])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, ..] = ip.octets();
            Some([a, b, c, d, e, f])
        }
    }
}

/// Handshakes under way.
#[derive(Default)]
struct Handshakes {
    all: AtomicUsize,
    by_network: std::sync::Mutex<std::collections::BTreeMap<[u8; 6], usize>>,
}

/// One of them.
struct Place {
    handshakes: Arc<Handshakes>,
    network: Option<[u8; 6]>,
}

impl Handshakes {
    fn enter(self: &Arc<Self>, addr: SocketAddr) -> Option<Place> {
        let network = network(addr);
        if let Some(network) = network {
            let mut by_network = self.by_network.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let count = by_network.entry(network).or_default();
            if *count >= HANDSHAKES_PER_NETWORK_MAX {
                return None;
            }
            *count += 1;
        }
        let place = Place { handshakes: self.clone(), network };
        // A place is given back by its drop, also when there is none left.
        if self.all.fetch_add(1, Ordering::Relaxed) >= HANDSHAKES_MAX { None } else { Some(place) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshakes.all.fetch_sub(1, Ordering::Relaxed);
        if let Some(network) = self.network {
            let by_network = &self.handshakes.by_network;
            let mut by_network = by_network.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(count) = by_network.get_mut(&network) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    by_network.remove(&network);
                }
            }
        }
    }
}

/// Looks at each first datagram: asks for proof of the address, or begins the handshake.
struct Acceptor {
    quic: noq::Endpoint,
    config: EndpointConfig,
    /// What links are accepted with, but for what depends on the path.
    template: ServerConfig,
    handshakes: Arc<Handshakes>,
    places: Arc<PeerPlaces>,
    retries: Arc<AtomicU64>,
    sender: mpsc::Sender<Link>,
}

impl Acceptor {
    async fn run(self) {
        while let Some(incoming) = self.quic.accept().await {
            if incoming.remote_address_validated() {
                self.begin(incoming);
            } else if incoming.retry().is_ok() {
                self.retries.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn begin(&self, incoming: Incoming) {
        let remote = canonical(incoming.remote_address());
        let place = self.handshakes.enter(remote);
        let Some(place) = place.filter(|_| self.quic.open_connections() < self.config.accepted_max) else {
            tracing::debug!(%remote, "too many links or handshakes: dial ignored");
            incoming.ignore();
            return;
        };
        let mut server = self.template.clone();
        server.transport_config(Arc::new(transport(&self.config, remote)));
        let (sender, places, time_max) = (self.sender.clone(), self.places.clone(), self.config.dial_max);
        tokio::spawn(async move {
            let link = tokio::time::timeout(time_max, shake(incoming, Arc::new(server), places)).await.ok().flatten();
            drop(place);
            if let Some(link) = link {
                let _ = sender.send(link).await;
            }
        });
    }
}

async fn shake(incoming: Incoming, server: Arc<ServerConfig>, places: Arc<PeerPlaces>) -> Option<Link> {
    let connection = incoming.accept_with(server).ok()?.await;
    match connection {
        Ok(connection) => Link::accepted(connection, &places).ok(),
        Err(error) => {
            tracing::debug!(%error, "incoming link failed");
            None
        }
    }
}
