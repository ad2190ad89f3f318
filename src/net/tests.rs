//! Links over real sockets on loopback, most of them through a proxy that sees, changes, drops and repeats datagrams.

use super::endpoint::{DialError, Endpoint, EndpointConfig};
use super::identity::Identity;
use super::link::{Link, LinkError};
use crate::base::limit::MESSAGE_BYTES_MAX;
use bytes::Bytes;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn open_with(seed: u8, change: impl FnOnce(&mut EndpointConfig)) -> Endpoint {
    let mut config = EndpointConfig { listen: loopback(), ..EndpointConfig::default() };
    change(&mut config);
    Endpoint::open(Identity::from_seed(&[seed; 32]), config).unwrap()
}

fn open(seed: u8) -> Endpoint {
    open_with(seed, |_| {})
}

/// A link from `alice` to `bob`, both ends; `at` is where bob is said to be.
async fn connect(alice: &Endpoint, bob: &Endpoint, at: SocketAddr) -> (Link, Link) {
    let peer = bob.peer();
    let (dialled, accepted) = tokio::join!(alice.dial(&peer, at), bob.accept());
    (dialled.unwrap(), accepted.unwrap())
}

/// Answers every request with itself as header and `body`.
fn serve(link: Link, body: Vec<Bytes>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some((request, responder)) = link.next_request().await {
            let body = body.clone();
            tokio::spawn(async move {
                let _ = responder.answer(&request, body).await;
            });
        }
    })
}

/// Bytes of which each place knows what it should be.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()
}

/// True: towards the accepting side.
type Filter = dyn FnMut(bool, &mut Vec<u8>) -> bool + Send;

/// Datagrams with their direction.
type Seen = Arc<Mutex<Vec<(bool, Vec<u8>)>>>;

/// Stands between one dialling and one accepting endpoint.
struct Proxy {
    addr: SocketAddr,
    /// Everything seen, with its direction, before it was changed or dropped.
    seen: Seen,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// `filter` may change a datagram; what it returns says whether to pass it on.
    fn new(target: SocketAddr, filter: impl FnMut(bool, &mut Vec<u8>) -> bool + Send + 'static) -> Proxy {
        let outer = UdpSocket::bind(loopback()).unwrap();
        let inner = UdpSocket::bind(loopback()).unwrap();
        for socket in [&outer, &inner] {
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(socket, 4 << 20);
        }
        let addr = outer.local_addr().unwrap();
        let filter: Arc<Mutex<Box<Filter>>> = Arc::new(Mutex::new(Box::new(filter)));
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let client: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let mut threads = Vec::new();
        for towards in [true, false] {
            let (from, to) = if towards { (&outer, &inner) } else { (&inner, &outer) };
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let (filter, seen, stop, client) = (filter.clone(), seen.clone(), stop.clone(), client.clone());
            threads.push(std::thread::spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Relaxed) {
                    let Ok((length, source)) = from.recv_from(&mut buffer) else { continue };
                    let mut datagram = buffer[..length].to_vec();
                    seen.lock().unwrap().push((towards, datagram.clone()));
                    if !filter.lock().unwrap()(towards, &mut datagram) {
                        continue;
                    }
                    let target = if towards {
                        *client.lock().unwrap() = Some(source);
                        target
                    } else {
                        client.lock().unwrap().unwrap()
                    };
                    let _ = to.send_to(&datagram, target);
                }
            }));
        }
        Proxy { addr, seen, stop, threads }
    }

    fn seen(&self, towards: bool) -> Vec<Vec<u8>> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(direction, _)| *direction == towards).map(|(_, datagram)| datagram.clone()).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_proved_and_a_thousand_requests_answered() {
    let (alice, bob) = (open(1), open(2));
    let (dialled, accepted) = connect(&alice, &bob, bob.local_addr()).await;
    assert_eq!(dialled.peer(), bob.peer());
    assert_eq!(accepted.peer(), alice.peer());
    assert_eq!(accepted.remote_addr(), alice.local_addr());
    assert_eq!(dialled.remote_addr(), bob.local_addr());
    assert!(dialled.dialled() && !accepted.dialled());
    let serving = serve(accepted, vec![Bytes::from_static(b"bo"), Bytes::from_static(b"dy")]);
    for number in 0..1000u32 {
        let mut answer = dialled.ask(&number.to_le_bytes()).await.unwrap();
        assert_eq!(answer.header, number.to_le_bytes());
        assert_eq!(&answer.body.take(4).await.unwrap()[..], b"body");
        assert_eq!(answer.body.chunk(10).await.unwrap(), None);
    }
    alice.close(7).await;
    serving.await.unwrap();
    assert_eq!(dialled.closed().await, LinkError::Closed);
    assert!(matches!(alice.dial(&bob.peer(), bob.local_addr()).await, Err(DialError::Closed)));
    assert!(alice.accept().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn accepting_side_asks_too_and_close_tells_the_code() {
    let (alice, bob) = (open(1), open(2));
    let (dialled, accepted) = connect(&alice, &bob, bob.local_addr()).await;
    serve(dialled.clone(), vec![]);
    assert_eq!(accepted.ask(b"you there?").await.unwrap().header, b"you there?");
    accepted.close(42);
    assert_eq!(dialled.closed().await, LinkError::ClosedByPeer(42));
    assert_eq!(dialled.ask(b"x").await.unwrap_err(), LinkError::ClosedByPeer(42));
    assert_eq!(dialled.close_reason(), Some(LinkError::ClosedByPeer(42)));
}

#[tokio::test(flavor = "multi_thread")]
async fn dial_of_a_peer_that_is_not_there_meets_silence() {
    let bob = open(2);
    let proxy = Proxy::new(bob.local_addr(), |_, _| true);
    let alice = open_with(1, |config| config.dial_max = Duration::from_millis(700));
    let carol = Identity::from_seed(&[3; 32]).peer();
    let error = alice.dial(&carol, proxy.addr).await.unwrap_err();
    assert_eq!(error, DialError::NoAnswer { peer: carol, addr: proxy.addr });
    assert!(!proxy.seen(true).is_empty());
    assert!(proxy.seen(false).is_empty(), "a stranger got an answer");
    assert_eq!(bob.stats().retries, 0);
    assert!(bob.stats().dropped_datagrams > 0);
    assert_eq!(alice.dial(&alice.peer(), proxy.addr).await.unwrap_err(), DialError::Own);
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    assert_eq!(alice.dial(&carol, nowhere).await.unwrap_err(), DialError::Addr(nowhere));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_replays_get_no_answer() {
    let bob = open(2);
    let proxy = Proxy::new(bob.local_addr(), |_, _| true);
    let alice = open(1);
    let (dialled, accepted) = connect(&alice, &bob, proxy.addr).await;
    serve(accepted, vec![Bytes::from(pattern(5000))]);
    for _ in 0..5 {
        dialled.ask(b"some traffic").await.unwrap().body.take(5000).await.unwrap();
    }
    let prober = UdpSocket::bind(loopback()).unwrap();
    prober.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
    let target = bob.local_addr();
    let mut garbage = vec![0u8; 3000];
    for length in (0..3000).step_by(7) {
        getrandom::fill(&mut garbage[..length]).unwrap();
        prober.send_to(&garbage[..length], target).unwrap();
    }
    // QUIC as others speak it: a version 1 Initial, a version to negotiate, a short header.
    for first in [0xc3, 0xe0, 0x40] {
        let mut hello = vec![0u8; 1200];
        hello[..6].copy_from_slice(&[first, 0, 0, 0, 1, 8]);
        prober.send_to(&hello, target).unwrap();
    }
    let captured = proxy.seen(true);
    assert!(captured.len() > 5);
    let retries = bob.stats().retries;
    for datagram in captured.iter().chain(proxy.seen(false).iter()) {
        prober.send_to(datagram, target).unwrap();
        for place in [0, datagram.len() / 2, datagram.len() - 1] {
            let mut changed = datagram.clone();
            changed[place] ^= 1;
            prober.send_to(&changed, target).unwrap();
        }
    }
    assert!(prober.recv_from(&mut [0; 2000]).is_err(), "a probe got an answer");
    // The same when the connection that they belonged to is gone.
    drop(dialled);
    alice.close(0).await;
    for datagram in &captured {
        prober.send_to(datagram, target).unwrap();
    }
    assert!(prober.recv_from(&mut [0; 2000]).is_err(), "a replay got an answer");
    assert_eq!(bob.stats().retries, retries);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_and_lost_datagrams_never_change_what_is_read() {
    let bob = open(2);
    let mut count = 0usize;
    let proxy = Proxy::new(bob.local_addr(), move |_, datagram| {
        count += 1;
        if count.is_multiple_of(17) {
            let place = count * 31 % datagram.len();
            datagram[place] ^= 1 << (count % 8);
        }
        !count.is_multiple_of(23)
    });
    let alice = open(1);
    let (dialled, accepted) = connect(&alice, &bob, proxy.addr).await;
    let body = pattern(300_000);
    serve(accepted, vec![Bytes::from(body.clone())]);
    for _ in 0..3 {
        let mut answer = dialled.ask(b"all of it").await.unwrap();
        assert!(answer.body.take(body.len()).await.unwrap() == body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_leaves_than_came_before_the_address_is_proved() {
    let bob = open(2);
    let towards = Arc::new(AtomicUsize::new(0));
    let count = towards.clone();
    // Passes the first datagram on and nothing after it.
    let proxy = Proxy::new(bob.local_addr(), move |direction, _| direction && count.fetch_add(1, Relaxed) == 0);
    let alice = open_with(1, |config| config.dial_max = Duration::from_millis(1500));
    assert!(alice.dial(&bob.peer(), proxy.addr).await.is_err());
    assert!(towards.load(Relaxed) > 1, "the dialling side tried again");
    let (came, left) = (&proxy.seen(true)[0], proxy.seen(false));
    assert_eq!(left.len(), 1, "one token and nothing else");
    assert!(left[0].len() < came.len(), "{} bytes for {}", left[0].len(), came.len());
    assert_eq!(bob.stats().retries, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_of_an_earlier_link_saves_the_retry() {
    let (alice, bob) = (open(1), open(2));
    for _ in 0..2 {
        let (dialled, accepted) = connect(&alice, &bob, bob.local_addr()).await;
        serve(accepted, vec![]);
        dialled.ask(b"so that the tokens arrive").await.unwrap();
        assert_eq!(bob.stats().retries, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_peers_may_dial_each_other_at_once() {
    let (alice, bob) = (open(1), open(2));
    let (alice_peer, bob_peer) = (alice.peer(), bob.peer());
    let (alice_addr, bob_addr) = (alice.local_addr(), bob.local_addr());
    for round in 0..20u8 {
        let (a, b, c, d) = tokio::join!(
            alice.dial(&bob_peer, bob_addr),
            bob.dial(&alice_peer, alice_addr),
            alice.accept(),
            bob.accept()
        );
        let (a, b, c, d) = (a.unwrap(), b.unwrap(), c.unwrap(), d.unwrap());
        for (asking, answering) in [(&a, &d), (&b, &c), (&c, &b), (&d, &a)] {
            let serving = serve(answering.clone(), vec![]);
            assert_eq!(asking.ask(&[round]).await.unwrap().header, [round]);
            serving.abort();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_body_arrives_whole_and_many_at_once() {
    let (alice, bob) = (open(1), open(2));
    let (dialled, accepted) = connect(&alice, &bob, bob.local_addr()).await;
    let piece = Bytes::from(pattern(1 << 20));
    serve(accepted, vec![piece.clone(); 64]);
    let mut answer = dialled.ask(b"64 MiB").await.unwrap();
    for _ in 0..64 {
        assert!(answer.body.take(1 << 20).await.unwrap() == piece);
    }
    assert_eq!(answer.body.chunk(1).await.unwrap(), None);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let link = dialled.clone();
        asking.spawn(async move {
            let mut answer = link.ask(b"first bytes").await.unwrap();
            answer.body.take(10_000).await.unwrap().freeze()
        });
    }
    for bytes in asking.join_all().await {
        assert!(bytes == piece[..10_000]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_of_a_long_body_does_not_cost_the_link() {
    // Small datagrams, so that as many pieces as possible wait to be read.
    let open = |seed| open_with(seed, |config| config.datagram_max = 1200);
    let (alice, bob) = (open(1), open(2));
    let (dialled, accepted) = connect(&alice, &bob, bob.local_addr()).await;
    let piece = Bytes::from(pattern(1 << 20));
    serve(accepted, vec![piece.clone(); 4]);
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(dialled.ask(b"4 MiB").await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for mut answer in answers {
        for _ in 0..4 {
            assert!(answer.body.take(1 << 20).await.unwrap() == piece);
        }
    }
}

#[tokio::test]
async fn answers_come_one_after_another() {
    let (alice, bob) = (open(1), open(2));
    let (dialled, accepted) = connect(&alice, &bob, bob.local_addr()).await;
    // All are asked for before the first is answered.
    let serving = tokio::spawn(async move {
        let mut asked = Vec::new();
        while asked.len() < 8 {
            asked.push(accepted.next_request().await.unwrap());
        }
        for (request, responder) in asked {
            responder.answer(&request, vec![Bytes::from(pattern(1 << 20))]).await.unwrap();
        }
        accepted
    });
    let came: Arc<[AtomicUsize; 8]> = Arc::default();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (link, came) = (dialled.clone(), came.clone());
        asking.spawn(async move {
            let mut answer = link.ask(b"1 MiB").await.unwrap();
            while let Some(bytes) = answer.body.chunk(1 << 20).await.unwrap() {
                came[number].fetch_add(bytes.len(), Relaxed);
            }
        });
    }
    asking.join_next().await.unwrap().unwrap();
    // Sent in turns they would all be nearly there.
    let came: usize = came.iter().map(|came| came.load(Relaxed)).sum();
    assert!(came < 5 << 20, "{came} bytes of eight answers when the first was there");
    asking.join_all().await;
    drop(serving.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_request_stops_its_answer_and_nothing_else() {
    let (alice, bob) = (open(1), open(2));
    let (dialled, accepted) = connect(&alice, &bob, bob.local_addr()).await;
    let (told, mut stopped) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        while let Some((request, responder)) = accepted.next_request().await {
            let told = told.clone();
            tokio::spawn(async move {
                if request == b"wait" {
                    responder.cancelled().await;
                    told.send(Ok(())).await.unwrap();
                    return;
                }
                let mut body = responder.begin(b"endless").await.unwrap();
                loop {
                    if let Err(error) = body.write(Bytes::from(vec![0; 100_000])).await {
                        told.send(Err(error)).await.unwrap();
                        return;
                    }
                }
            });
        }
    });
    let mut answer = dialled.ask(b"go").await.unwrap();
    answer.body.take(1_000_000).await.unwrap();
    answer.body.cancel();
    assert_eq!(stopped.recv().await.unwrap(), Err(LinkError::GivenUp(1)));
    drop(dialled.ask(b"go").await.unwrap());
    assert!(matches!(stopped.recv().await.unwrap(), Err(LinkError::GivenUp(_))));
    let waiting = tokio::time::timeout(Duration::from_millis(100), dialled.ask(b"wait")).await;
    assert!(waiting.is_err());
    assert_eq!(stopped.recv().await.unwrap(), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_or_half_answered_request_fails_and_the_link_lives() {
    let (alice, bob) = (open(1), open(2));
    let (dialled, accepted) = connect(&alice, &bob, bob.local_addr()).await;
    tokio::spawn(async move {
        while let Some((request, responder)) = accepted.next_request().await {
            match &request[..] {
                b"half" => {
                    let mut body = responder.begin(b"header").await.unwrap();
                    body.write(Bytes::from_static(b"half")).await.unwrap();
                }
                b"whole" => responder.answer(b"header", Vec::new()).await.unwrap(),
                _ => drop(responder),
            }
        }
    });
    assert!(matches!(dialled.ask(b"nothing").await, Err(LinkError::GivenUp(_))));
    if let Ok(mut answer) = dialled.ask(b"half").await {
        assert!(matches!(answer.body.take(100).await, Err(LinkError::GivenUp(_))));
    }
    let long = vec![0; MESSAGE_BYTES_MAX + 1];
    assert_eq!(dialled.ask(&long).await.unwrap_err(), LinkError::TooLong(long.len()));
    assert_eq!(dialled.ask(b"whole").await.unwrap().header, b"header");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_peer_is_noticed() {
    let quick = |config: &mut EndpointConfig| {
        config.idle_max = Duration::from_millis(800);
        config.keep_alive = Duration::from_millis(200);
    };
    let (alice, bob) = (open_with(1, quick), open_with(2, quick));
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = cut.clone();
    let proxy = Proxy::new(bob.local_addr(), move |_, _| !is_cut.load(Relaxed));
    let (dialled, accepted) = connect(&alice, &bob, proxy.addr).await;
    // Quiet, but alive.
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(dialled.close_reason(), None);
    cut.store(true, Relaxed);
    assert_eq!(dialled.ask(b"anybody?").await.unwrap_err(), LinkError::Silent);
    assert_eq!(accepted.closed().await, LinkError::Silent);
    assert!(accepted.next_request().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_peer_gets_only_so_many_links_and_the_newest_are_kept() {
    let (alice, bob) = (open(1), open(2));
    let mut links = Vec::new();
    for _ in 0..8 {
        links.push(connect(&alice, &bob, bob.local_addr()).await);
    }
    // Who comes anew is there; the oldest may have been left by an earlier life.
    let (_extra, accepted) = connect(&alice, &bob, bob.local_addr()).await;
    assert_eq!(links[0].0.closed().await, LinkError::ClosedByPeer(3));
    assert!(links[1..].iter().all(|(_, accepted)| accepted.close_reason().is_none()));
    assert_eq!(accepted.close_reason(), None);
    // Others are not touched, and places come back.
    let carol = open(3);
    let (_kept, of_carol) = connect(&carol, &bob, bob.local_addr()).await;
    links.clear();
    for _ in 0..7 {
        links.push(connect(&alice, &bob, bob.local_addr()).await);
    }
    assert_eq!((accepted.close_reason(), of_carol.close_reason()), (None, None));
}

/// Pearson's chi-square of byte counts against the uniform distribution, in standard deviations from its mean (255 degrees).
fn deviation(counts: &[u32; 256]) -> f64 {
    let expected = counts.iter().sum::<u32>() as f64 / 256.0;
    let sum: f64 = counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    (sum - 255.0) / (2.0f64 * 255.0).sqrt()
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_look_like_random_bytes_of_varied_length() {
    const HANDSHAKES: usize = 150;
    let bob = open(2);
    let proxy = Proxy::new(bob.local_addr(), |_, _| true);
    for _ in 0..HANDSHAKES {
        // A new endpoint each time: no token, so every dial has a Retry too.
        let alice = open(1);
        let (dialled, accepted) = connect(&alice, &bob, proxy.addr).await;
        let serving = serve(accepted, vec![Bytes::from(vec![0; 2000])]);
        dialled.ask(&[0; 300]).await.unwrap().body.take(2000).await.unwrap();
        dialled.close(0);
        serving.await.unwrap();
    }
    for towards in [true, false] {
        let seen = proxy.seen(towards);
        assert!(seen.len() > HANDSHAKES * 4, "{} datagrams", seen.len());
        // Each place from the front and from the end, the places that hold headers in handshakes and in data.
        for place in 0..80 {
            for from_end in [false, true] {
                let mut counts = [0u32; 256];
                for datagram in &seen {
                    let byte = if from_end { datagram.iter().nth_back(place) } else { datagram.get(place) };
                    if let Some(byte) = byte {
                        counts[usize::from(*byte)] += 1;
                    }
                }
                let deviation = deviation(&counts);
                assert!(deviation.abs() < 7.0, "place {place}, from end {from_end}: {deviation}");
            }
        }
        let mut counts = [0u32; 256];
        seen.iter().flatten().for_each(|byte| counts[usize::from(*byte)] += 1);
        assert!(deviation(&counts).abs() < 7.0);
        // Equal first bytes, or whole datagrams, would betray a connection.
        let heads: std::collections::BTreeSet<&[u8]> = seen.iter().map(|datagram| &datagram[..8]).collect();
        assert_eq!(heads.len(), seen.len());
        let lengths: std::collections::BTreeSet<usize> =
            seen.iter().map(Vec::len).filter(|length| (1200..1400).contains(length)).collect();
        assert!(lengths.len() > 50, "{} lengths of handshake datagrams", lengths.len());
    }
}
