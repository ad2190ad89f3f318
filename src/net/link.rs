//! A link: one authenticated connection with one peer; requests and answers, one pair to a stream, from both sides.

use super::socket::DialGuard;
use crate::base::limit::MESSAGE_BYTES_MAX;
use crate::base::peer::PeerId;
use crate::wire::close::CloseReason;
use bytes::{Bytes, BytesMut};
use noq::{Connection, ConnectionError, PathId, ReadError, ReadToEndError, RecvStream, SendStream, VarInt, WriteError};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

/// Links that one peer may have opened to us: a few, since one lost without a word is noticed late. The next one takes the place of the
/// oldest: who opens it is there, and of a peer that was killed and started again and again the old ones are dead.
const ACCEPTED_PER_PEER_MAX: usize = 8;
/// Requests that have arrived whole and wait to be taken.
const WAITING_MAX: usize = 64;
/// A request is short: a peer that takes longer to send one is not waited for.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);
/// Streams are sent one after another, in the order in which they were written to: pieces asked for side by side come one by one, each
/// early, and the next can be asked for. Requests and short answers go first,
const PRIORITY_SHORT: i32 = 1;
/// and before them what was lost of an answer that is otherwise there.
const PRIORITY_AGAIN: i32 = 2;
/// Answers up to this length are short.
const SHORT_BYTES: usize = 64 * 1024;
/// Code of a stream that is given up by the side that reads it.
const STOP_CANCELLED: u32 = 1;
/// Code of a stream whose other side broke the framing.
const STOP_MALFORMED: u32 = 2;
/// Code of a stream that its writer gives up.
const RESET_FAILED: u32 = 3;

/// Why a link gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer was not heard of for too long.
    #[error("peer stopped answering")]
    Silent,
    /// The peer closed the link.
    #[error("peer closed the link (code {0})")]
    ClosedByPeer(u32),
    /// We closed it.
    #[error("link is closed")]
    Closed,
    /// The transport gave up, or the peer broke its rules.
    #[error("link broke: {0}")]
    Broken(String),
    /// The peer gave this request or answer up (code), the link lives on.
    #[error("peer gave up (code {0})")]
    GivenUp(u64),
    /// The peer sent something that is no answer.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
    /// A request or header longer than `limit::MESSAGE_BYTES_MAX`.
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> LinkError {
        match error {
            ConnectionError::TimedOut | ConnectionError::Reset => LinkError::Silent,
            ConnectionError::ApplicationClosed(close) => {
                LinkError::ClosedByPeer(u32::try_from(u64::from(close.error_code)).unwrap_or(u32::MAX))
            }
            ConnectionError::LocallyClosed => LinkError::Closed,
            other => LinkError::Broken(other.to_string()),
        }
    }
}

impl From<ReadError> for LinkError {
    fn from(error: ReadError) -> LinkError {
        match error {
            ReadError::Reset(code) => LinkError::GivenUp(code.into()),
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::ClosedStream | ReadError::ZeroRttRejected => LinkError::Closed,
        }
    }
}

impl From<WriteError> for LinkError {
    fn from(error: WriteError) -> LinkError {
        match error {
            WriteError::Stopped(code) => LinkError::GivenUp(code.into()),
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => LinkError::Closed,
        }
    }
}

/// What a link has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Bytes of UDP payload sent.
    pub sent_bytes: u64,
    /// Bytes of UDP payload received.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that were lost on the way to the peer.
    pub lost_packets: u64,
    /// The longest datagram that the path carries, bytes.
    pub mtu: u16,
    /// Congestion window, bytes.
    pub window: u64,
}

/// One authenticated connection. Clones are the same link; the last one dropped closes it.
#[derive(Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    peer: PeerId,
    dialled: bool,
    since: Instant,
    requests: Mutex<mpsc::Receiver<(Vec<u8>, Responder)>>,
    _keys: Option<DialGuard>,
    _place: Option<PeerPlace>,
}

/// The links that each peer has opened to us, the oldest first.
#[derive(Default)]
pub(super) struct PeerPlaces(std::sync::Mutex<BTreeMap<PeerId, VecDeque<Connection>>>);

/// One of them.
pub(super) struct PeerPlace {
    places: Arc<PeerPlaces>,
    peer: PeerId,
    link: usize,
}

impl PeerPlaces {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<PeerId, VecDeque<Connection>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes room for a new link of a peer by closing its oldest one.
    fn enter(self: &Arc<Self>, peer: PeerId, connection: &Connection) -> PeerPlace {
        let mut all = self.all();
        let links = all.entry(peer).or_default();
        while links.len() >= ACCEPTED_PER_PEER_MAX
            && let Some(oldest) = links.pop_front()
        {
            oldest.close(VarInt::from_u32(CloseReason::Crowded.code()), b"");
        }
        links.push_back(connection.clone());
        PeerPlace { places: self.clone(), peer, link: connection.stable_id() }
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut all = self.places.all();
        if let Some(links) = all.get_mut(&self.peer) {
            links.retain(|link| link.stable_id() != self.link);
            if links.is_empty() {
                all.remove(&self.peer);
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(CloseReason::Idle.code()), b"");
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({:?} at {})", self.inner.peer, self.remote_addr())
    }
}

impl Link {
    /// A link that we dialled.
    pub(super) fn dialled_with(connection: Connection, keys: DialGuard) -> Result<Link, LinkError> {
        let peer = proved(&connection)?;
        Ok(Link::new(connection, peer, Some(keys), None))
    }

    /// A link that a peer opened.
    pub(super) fn accepted(connection: Connection, places: &Arc<PeerPlaces>) -> Result<Link, LinkError> {
        let peer = proved(&connection)?;
        let place = places.enter(peer, &connection);
        Ok(Link::new(connection, peer, None, Some(place)))
    }

    fn new(connection: Connection, peer: PeerId, keys: Option<DialGuard>, place: Option<PeerPlace>) -> Link {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        tokio::spawn(take_requests(connection.clone(), sender));
        let inner = Inner {
            peer,
            dialled: keys.is_some(),
            since: Instant::now(),
            requests: Mutex::new(receiver),
            _keys: keys,
            _place: place,
            connection,
        };
        Link { inner: Arc::new(inner) }
    }

    /// Who is at the other end, proved.
    pub fn peer(&self) -> PeerId {
        self.inner.peer
    }

    /// Where the peer's datagrams come from at present.
    pub fn remote_addr(&self) -> SocketAddr {
        let addr = self.inner.connection.path(PathId::ZERO).and_then(|path| path.remote_address().ok());
        super::socket::canonical(addr.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))))
    }

    /// Whether we dialled (else the peer did).
    pub fn dialled(&self) -> bool {
        self.inner.dialled
    }

    /// For how long it has been open.
    pub fn age(&self) -> Duration {
        self.inner.since.elapsed()
    }

    /// A number of this link among those of its endpoint.
    pub fn id(&self) -> u64 {
        self.inner.connection.stable_id() as u64
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.inner.connection.rtt(PathId::ZERO).unwrap_or_default()
    }

    /// What it has done so far.
    pub fn stats(&self) -> LinkStats {
        let Some(path) = self.inner.connection.path_stats(PathId::ZERO) else { return LinkStats::default() };
        LinkStats {
            rtt: path.rtt,
            sent_bytes: path.udp_tx.bytes,
            received_bytes: path.udp_rx.bytes,
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            mtu: path.current_mtu,
            window: path.cwnd,
        }
    }

    /// Asks the peer. Dropping the future, or the body before its end, tells the peer to stop.
    pub async fn ask(&self, request: &[u8]) -> Result<Answer, LinkError> {
        if request.len() > MESSAGE_BYTES_MAX {
            return Err(LinkError::TooLong(request.len()));
        }
        let (mut send, recv) = self.inner.connection.open_bi().await?;
        let _ = send.set_priority(PRIORITY_SHORT);
        let mut body = BodyReader { recv };
        match send.write_all(request).await {
            Ok(()) => {
                // Stopped meanwhile: the answer says why.
                let _ = send.finish();
            }
            // An answer may come without the request having been read to its end.
            Err(WriteError::Stopped(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let header = body.header().await?;
        Ok(Answer { header, body })
    }

    /// The peer's next request and the means to answer it; `None` once the link is closed.
    pub async fn next_request(&self) -> Option<(Vec<u8>, Responder)> {
        self.inner.requests.lock().await.recv().await
    }

    /// Waits until the link is closed, and says why.
    pub async fn closed(&self) -> LinkError {
        self.inner.connection.closed().await.into()
    }

    /// Why it was closed, if it was.
    pub fn close_reason(&self) -> Option<LinkError> {
        self.inner.connection.close_reason().map(LinkError::from)
    }

    /// Closes it at once; the peer is told the code.
    pub fn close(&self, code: u32) {
        self.inner.connection.close(VarInt::from_u32(code), b"");
    }
}

/// Whom the handshake proved.
fn proved(connection: &Connection) -> Result<PeerId, LinkError> {
    let identity = connection.peer_identity().and_then(|identity| identity.downcast::<PeerId>().ok());
    Ok(*identity.ok_or(LinkError::Malformed("handshake proved no identity"))?)
}

/// Reads requests off new streams until the connection ends.
async fn take_requests(connection: Connection, sender: mpsc::Sender<(Vec<u8>, Responder)>) {
    let mut reading = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept_bi() => accepted,
            Some(_) = reading.join_next() => continue,
        };
        let Ok((send, recv)) = accepted else { return };
        let Ok(permit) = sender.clone().reserve_owned().await else { return };
        // Streams in progress are bounded by the transport's stream limit.
        reading.spawn(async move {
            if let Some(request) = read_request(recv).await {
                permit.send((request, Responder { send, done: false }));
            }
        });
    }
}

async fn read_request(mut recv: RecvStream) -> Option<Vec<u8>> {
    match tokio::time::timeout(REQUEST_TIME_MAX, recv.read_to_end(MESSAGE_BYTES_MAX)).await {
        Ok(Ok(request)) => Some(request),
        Ok(Err(ReadToEndError::TooLong)) => {
            let _ = recv.stop(VarInt::from_u32(STOP_MALFORMED));
            None
        }
        Ok(Err(ReadToEndError::Read(_))) => None,
        Err(_) => {
            let _ = recv.stop(VarInt::from_u32(STOP_CANCELLED));
            None
        }
    }
}

/// An answer: its header, and the body that follows.
#[derive(Debug)]
pub struct Answer {
    /// What the peer answered.
    pub header: Vec<u8>,
    /// The rest of the stream.
    pub body: BodyReader,
}

/// The body of an answer. Dropped before its end it tells the peer to stop.
#[derive(Debug)]
pub struct BodyReader {
    recv: RecvStream,
}

impl BodyReader {
    /// u32 little-endian, then that many bytes.
    async fn header(&mut self) -> Result<Vec<u8>, LinkError> {
        let mut length = [0; 4];
        self.exact(&mut length).await?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(LinkError::Malformed("header is too long"));
        }
        let mut header = vec![0; length];
        self.exact(&mut header).await?;
        Ok(header)
    }

    /// The next bytes as they arrived, at most `max`; `None` at the end.
    pub async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, LinkError> {
        Ok(self.recv.read_chunk(max).await?)
    }

    /// Fills `out`.
    pub async fn exact(&mut self, out: &mut [u8]) -> Result<(), LinkError> {
        use noq::ReadExactError::{FinishedEarly, ReadError};
        match self.recv.read_exact(out).await {
            Ok(()) => Ok(()),
            Err(FinishedEarly(_)) => Err(LinkError::Malformed("answer ends too early")),
            Err(ReadError(error)) => Err(error.into()),
        }
    }

    /// Exactly `length` bytes.
    pub async fn take(&mut self, length: usize) -> Result<BytesMut, LinkError> {
        // Grows with what arrives: a claimed length costs nothing.
        let mut out = BytesMut::new();
        while out.len() < length {
            match self.chunk(length - out.len()).await? {
                Some(chunk) if out.is_empty() => {
                    out.reserve(length.min(1 << 20));
                    out.extend_from_slice(&chunk);
                }
                Some(chunk) => out.extend_from_slice(&chunk),
                None => return Err(LinkError::Malformed("answer ends too early")),
            }
        }
        Ok(out)
    }

    /// Tells the peer to stop sending.
    pub fn cancel(mut self) {
        let _ = self.recv.stop(VarInt::from_u32(STOP_CANCELLED));
    }
}

/// Answers one request. Dropped without an answer it tells the peer that there will be none.
#[derive(Debug)]
pub struct Responder {
    send: SendStream,
    done: bool,
}

impl Responder {
    /// Sends header and body and ends the answer. Returns when everything is handed to the transport, or as soon as the
    /// peer has given up.
    pub async fn answer(self, header: &[u8], body: Vec<Bytes>) -> Result<(), LinkError> {
        if header.len() + body.iter().map(Bytes::len).sum::<usize>() <= SHORT_BYTES {
            let _ = self.send.set_priority(PRIORITY_SHORT);
        }
        let mut writer = self.begin(header).await?;
        for chunk in body {
            writer.write(chunk).await?;
        }
        writer.finish()
    }

    /// Sends the header; the body follows piece by piece.
    pub async fn begin(mut self, header: &[u8]) -> Result<BodyWriter, LinkError> {
        if header.len() > MESSAGE_BYTES_MAX {
            return Err(LinkError::TooLong(header.len()));
        }
        let mut framed = Vec::with_capacity(4 + header.len());
        framed.extend_from_slice(&(header.len() as u32).to_le_bytes());
        framed.extend_from_slice(header);
        self.send.write_chunk(Bytes::from(framed)).await?;
        Ok(BodyWriter { responder: self })
    }

    /// Waits until the peer does not want the answer any more, or the link is gone. (Also returns once it has it all.)
    pub async fn cancelled(&self) {
        let _ = self.send.stopped().await;
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.done {
            // Else the transport would end the stream as if the answer were whole.
            let _ = self.send.reset(VarInt::from_u32(RESET_FAILED));
        }
    }
}

/// Sends the body of an answer. Dropped before `finish` it tells the peer that the answer is not whole.
#[derive(Debug)]
pub struct BodyWriter {
    responder: Responder,
}

impl BodyWriter {
    /// Sends the next bytes, without copying them. Waits while the peer or the path is slower.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), LinkError> {
        Ok(self.responder.send.write_chunk(chunk).await?)
    }

    /// Ends the answer.
    pub fn finish(mut self) -> Result<(), LinkError> {
        self.responder.done = true;
        self.responder.send.finish().map_err(|_| LinkError::Closed)?;
        // All of it waits for its turn already; what is lost of it has no turn to wait for.
        let _ = self.responder.send.set_priority(PRIORITY_AGAIN);
        Ok(())
    }
}
