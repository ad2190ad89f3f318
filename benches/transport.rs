//! One connection over loopback: MB/s and CPU seconds for each GiB (both ends together) of a link, beside plain TCP, and
//! with `--features bench-tls` beside QUIC with its standard TLS.
//!
//! `cargo bench --bench transport [-- MEBIBYTES [ROUNDS]]`; over a real path `-- serve ADDR` and `-- fetch MEBIBYTES ADDR...`

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tornet::net::endpoint::{Endpoint, EndpointConfig};
use tornet::net::identity::Identity;
use tornet::net::link::Link;

const MIB: usize = 1 << 20;
/// Chunks of 1 MiB asked for at once over a link.
const IN_FLIGHT: usize = 8;

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

struct Row {
    name: &'static str,
    rate: f64,
    cpu: f64,
}

async fn measure<F: Future<Output = usize>>(name: &'static str, rounds: usize, mut run: impl FnMut() -> F) -> Row {
    let mut best = Row { name, rate: 0.0, cpu: f64::MAX };
    for _ in 0..rounds {
        let (start, used) = (Instant::now(), cpu());
        let bytes = run().await as f64;
        let rate = bytes / start.elapsed().as_secs_f64() / 1e6;
        best.rate = best.rate.max(rate);
        best.cpu = best.cpu.min((cpu() - used).as_secs_f64() / bytes * (1u64 << 30) as f64);
    }
    best
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn body(mebibytes: usize) -> impl Iterator<Item = Bytes> {
    let chunk = Bytes::from(vec![0x5a; MIB]);
    std::iter::repeat_n(chunk, mebibytes)
}

async fn tcp(mebibytes: usize, rounds: usize) -> Row {
    let listener = tokio::net::TcpListener::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                for chunk in body(mebibytes) {
                    stream.write_all(&chunk).await.unwrap();
                }
            });
        }
    });
    measure("plain TCP", rounds, || async move {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let (mut buffer, mut total) = (vec![0; 256 * 1024], 0);
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => return total,
                count => total += count,
            }
        }
    })
    .await
}

fn open(seed: u8, listen: SocketAddr, datagram_max: u16) -> Endpoint {
    let config = EndpointConfig { listen, datagram_max, ..EndpointConfig::default() };
    Endpoint::open(Identity::from_seed(&[seed; 32]), config).unwrap()
}

/// Answers every request with 1 MiB.
async fn serve(server: Endpoint, report: bool) {
    while let Some(link) = server.accept().await {
        tokio::spawn(async move {
            while let Some((_, responder)) = link.next_request().await {
                tokio::spawn(async move { responder.answer(b"here", body(1).collect()).await });
            }
            if report {
                println!("{link:?}: {:?}", link.stats());
            }
        });
    }
}

/// Asks for so many answers, some at a time from each link, and counts their bytes.
async fn fetch(links: Vec<Link>, mebibytes: usize) -> usize {
    let left = Arc::new(AtomicUsize::new(mebibytes));
    let mut asking = tokio::task::JoinSet::new();
    for link in links.iter().flat_map(|link| std::iter::repeat_n(link, IN_FLIGHT)) {
        let (link, left) = (link.clone(), left.clone());
        asking.spawn(async move {
            let mut total = 0;
            while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                let mut body = link.ask(b"chunk").await.unwrap().body;
                while let Some(bytes) = body.chunk(MIB).await.unwrap() {
                    total += bytes.len();
                }
            }
            total
        });
    }
    asking.join_all().await.into_iter().sum()
}

async fn link(name: &'static str, datagram_max: u16, mebibytes: usize, rounds: usize) -> Row {
    let (server, client) = (open(1, loopback(), datagram_max), open(2, loopback(), datagram_max));
    let (addr, peer) = (server.local_addr(), server.peer());
    tokio::spawn(serve(server, false));
    let link = client.dial(&peer, addr).await.unwrap();
    measure(name, rounds, || fetch(vec![link.clone()], mebibytes)).await
}

/// `serve ADDR` and, elsewhere, `fetch MEBIBYTES ADDR...`: the same over a real path.
async fn apart(words: &[String]) {
    let peer = Identity::from_seed(&[1; 32]).peer();
    match words {
        [mode, addr] if mode == "serve" => serve(open(1, addr.parse().unwrap(), 8952), true).await,
        [mode, mebibytes, addrs @ ..] if mode == "fetch" => {
            let client = open(2, SocketAddr::from(([0, 0, 0, 0], 0)), 8952);
            let mut links = Vec::new();
            let start = Instant::now();
            for addr in addrs {
                links.push(client.dial(&peer, addr.parse().unwrap()).await.unwrap());
            }
            println!("dialled in {:.0?}", start.elapsed());
            let start = Instant::now();
            let bytes = fetch(links.clone(), mebibytes.parse().unwrap()).await as f64;
            println!("{:.1} MB/s", bytes / start.elapsed().as_secs_f64() / 1e6);
            for link in links {
                println!("{link:?}: {:?}", link.stats());
            }
            client.close(0).await;
        }
        _ => println!("serve ADDR, or fetch MEBIBYTES ADDR..."),
    }
}

#[cfg(feature = "bench-tls")]
mod tls {
    //! QUIC with TLS 1.3, AES-128-GCM, raw public keys; everything else as the crate has it by default.
    use super::*;
    use noq::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use noq::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
    use noq::rustls::sign::CertifiedKey;
    use noq::rustls::{self, DigitallySignedStruct, SignatureScheme};
    use noq_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
    use ring::signature::KeyPair;

    #[derive(Debug)]
    struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    }

    fn server() -> noq::ServerConfig {
        let pkcs8 = ring::signature::Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        let pair = ring::signature::Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        // SubjectPublicKeyInfo of an ed25519 key (RFC 8410).
        let mut spki = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        spki.extend_from_slice(pair.public_key().as_ref());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec()));
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let certified = CertifiedKey::new(vec![CertificateDer::from(spki)], key);
        let resolver = rustls::server::AlwaysResolvesServerRawPublicKeys::new(Arc::new(certified));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        noq::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()))
    }

    fn client() -> noq::ClientConfig {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        noq::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
    }

    pub(super) async fn quic(mebibytes: usize, rounds: usize) -> Row {
        let server = noq::Endpoint::server(server(), loopback()).unwrap();
        let addr = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                let connection = incoming.await.unwrap();
                tokio::spawn(async move {
                    while let Ok((mut send, _recv)) = connection.accept_bi().await {
                        for chunk in body(mebibytes) {
                            send.write_chunk(chunk).await.unwrap();
                        }
                    }
                });
            }
        });
        let endpoint = noq::Endpoint::client(loopback()).unwrap();
        let connection = endpoint.connect_with(client(), addr, "peer").unwrap().await.unwrap();
        measure("QUIC, TLS, AES-128-GCM, as by default", rounds, || {
            let connection = connection.clone();
            async move {
                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                send.write_all(b"all").await.unwrap();
                send.finish().unwrap();
                let mut total = 0;
                while let Some(chunk) = recv.read_chunk(MIB).await.unwrap() {
                    total += chunk.len();
                }
                total
            }
        })
        .await
    }
}

fn main() {
    // Cargo passes `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if words.first().is_some_and(|word| word.parse::<usize>().is_err()) {
        return runtime.block_on(apart(&words));
    }
    let mut numbers = words.iter().filter_map(|word| word.parse::<usize>().ok());
    let mebibytes = numbers.next().unwrap_or(1024);
    let rounds = numbers.next().unwrap_or(3);
    let rows = runtime.block_on(async {
        vec![
            tcp(mebibytes, rounds).await,
            #[cfg(feature = "bench-tls")]
            tls::quic(mebibytes, rounds).await,
            link("link, datagrams of 1,452 bytes", 1452, mebibytes, rounds).await,
            link("link, datagrams of 8,952 bytes", 8952, mebibytes, rounds).await,
        ]
    });
    println!("{mebibytes} MiB over loopback, best of {rounds}\n");
    println!("{:<40} {:>8} {:>12} {:>8} {:>8}", "", "MB/s", "CPU s/GiB", "x rate", "x CPU");
    let base = &rows[0];
    for row in &rows {
        let (rate, cpu) = (row.rate / base.rate, row.cpu / base.cpu);
        println!("{:<40} {:>8.0} {:>12.2} {:>8.2} {:>8.2}", row.name, row.rate, row.cpu, rate, cpu);
    }
}
