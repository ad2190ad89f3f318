//! A peer that lies: it joins the swarm by the library's own transport and messages, takes what it is offered to host,
//! announces it, and answers falsely. It runs inside the test's process, behind a real socket.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tornet::base::digest::ChunkId;
use tornet::base::peer::Contact;
use tornet::base::range::{SliceRange, slice_count};
use tornet::content::chunk::Outline;
use tornet::net::endpoint::{Endpoint, EndpointConfig};
use tornet::net::identity::Identity;
use tornet::net::link::{Link, Responder};
use tornet::wire::head::SignedHead;
use tornet::wire::message::{Demand, Fetch, Hello, Located, Price, Request, Response, Slices, capability};

/// How it answers a fetch of what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Honest,
    /// The right outline, and bytes that are not the chunk's.
    FalseBytes,
    /// An outline that is not the chunk's, and bytes that agree with it.
    FalseOutline,
    /// The right header and half of what it promises, ended as if it were whole.
    Truncated,
    /// The right header and half of what it promises, then nothing, for ever.
    StallingMidway,
    /// Nothing at all, for ever.
    Stalling,
    /// A header that is no message.
    Garbage,
    /// Right bytes, and then more and more of them.
    Endless,
    /// Slices that were not asked for.
    OtherSlices,
    /// A length of the chunk that is not its length.
    OtherLength,
}

impl Manner {
    /// Every way to lie.
    pub const LIES: [Manner; 9] = [
        Manner::FalseBytes,
        Manner::FalseOutline,
        Manner::Truncated,
        Manner::StallingMidway,
        Manner::Stalling,
        Manner::Garbage,
        Manner::Endless,
        Manner::OtherSlices,
        Manner::OtherLength,
    ];
}

struct Held {
    outline: Outline,
    bytes: Bytes,
}

struct Shared {
    manner: Mutex<Manner>,
    held: Mutex<BTreeMap<ChunkId, Held>>,
    fetches: AtomicU64,
    links: Mutex<Vec<Link>>,
    contact: Contact,
}

/// Such a peer. Gone when dropped.
pub struct Liar {
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Liar {
    /// Joins the swarm at an address (as a node prints it), or waits for others to come.
    pub fn start(manner: Manner, bootstrap: Option<&str>) -> Liar {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bootstrap = bootstrap.map(|text| text.parse::<Contact>().unwrap());
        let shared = runtime.block_on(async move {
            let identity = Identity::generate().unwrap();
            let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
            let endpoint = Endpoint::open(identity, EndpointConfig { listen, ..EndpointConfig::default() }).unwrap();
            let contact = Contact { peer: endpoint.peer(), addrs: vec![endpoint.local_addr()] };
            let shared = Arc::new(Shared {
                manner: Mutex::new(manner),
                held: Mutex::default(),
                fetches: AtomicU64::new(0),
                links: Mutex::default(),
                contact,
            });
            if let Some(other) = bootstrap {
                let link = endpoint.dial(&other.peer, other.addrs[0]).await.unwrap();
                shared.clone().take_link(link);
            }
            let accepting = shared.clone();
            tokio::spawn(async move {
                while let Some(link) = endpoint.accept().await {
                    accepting.clone().take_link(link);
                }
            });
            shared
        });
        Liar { shared, runtime: Some(runtime) }
    }

    /// What others bootstrap from.
    pub fn address(&self) -> String {
        self.shared.contact.to_string()
    }

    /// From now on it answers in another manner.
    pub fn set(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// Holds a chunk, whatever is in it; gives its name.
    pub fn hold(&self, bytes: impl Into<Bytes>) -> ChunkId {
        self.shared.hold(bytes.into())
    }

    /// How many chunks it holds.
    pub fn held(&self) -> usize {
        self.shared.held.lock().unwrap().len()
    }

    /// How many fetches it answered in its manner.
    pub fn fetches(&self) -> u64 {
        self.shared.fetches.load(Ordering::SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Shared {
    fn hold(&self, bytes: Bytes) -> ChunkId {
        let (id, outline) = Outline::of(&bytes);
        self.held.lock().unwrap().insert(id, Held { outline, bytes });
        id
    }

    fn hello(&self) -> Hello {
        Hello {
            agent: "a peer of the tests".into(),
            addrs: self.contact.addrs.clone(),
            rank_nonce: 0,
            price: Price::default(),
            capabilities: capability::ROUTES | capability::HOSTS,
            observed: None,
        }
    }

    fn take_link(self: Arc<Self>, link: Link) {
        self.links.lock().unwrap().push(link.clone());
        let (greeting, greeter) = (Request::Hello(self.hello()).to_bytes(), link.clone());
        tokio::spawn(async move {
            let _ = greeter.ask(&greeting).await;
        });
        tokio::spawn(async move {
            while let Some((request, responder)) = link.next_request().await {
                let (shared, link) = (self.clone(), link.clone());
                tokio::spawn(async move {
                    if let Ok(request) = Request::from_bytes(&request) {
                        shared.answer(request, responder, link).await;
                    }
                });
            }
        });
    }

    async fn answer(self: Arc<Self>, request: Request, responder: Responder, link: Link) {
        let response = match request {
            Request::Hello(_) => Response::Hello(self.hello()),
            Request::Find { .. } => Response::Found { contacts: Vec::new() },
            Request::Locate { chunks } => {
                let mut located = Located { held: vec![0; chunks.len().div_ceil(8)], ..Located::default() };
                let held = self.held.lock().unwrap();
                for (place, _) in chunks.iter().enumerate().filter(|(_, id)| held.contains_key(id)) {
                    located.held[place / 8] |= 1 << (place % 8);
                }
                drop(held);
                Response::Located(located)
            }
            Request::Announce { chunks, .. } => Response::Announced { kept: chunks.len() as u32 },
            Request::Host(host) => {
                let mut accepted = vec![0u8; host.chunks.len().div_ceil(8)];
                for place in 0..host.chunks.len() {
                    accepted[place / 8] |= 1 << (place % 8);
                }
                let shared = self.clone();
                tokio::spawn(async move {
                    for (id, length) in host.chunks {
                        shared.pull(&link, id, length).await;
                    }
                });
                Response::Hosting { accepted }
            }
            Request::Fetch(fetch) => return self.answer_fetch(fetch, responder).await,
            // A later state of any name, and nobody signed it.
            Request::Head { id } | Request::SetHead(SignedHead { id, .. })
                if *self.manner.lock().unwrap() != Manner::Honest =>
            {
                let head = SignedHead { id, number: u64::MAX, sealed: vec![1; 108], signature: [1; 64] };
                Response::Head { held: Some(head) }
            }
            Request::Head { .. } | Request::SetHead(_) => Response::Head { held: None },
            Request::Receipt(_) | Request::Testimony { .. } | Request::Payment(_) | Request::Reach(_) => {
                Response::Refused(tornet::wire::message::Refusal::Unknown)
            }
        };
        let _ = responder.answer(&response.to_bytes(), Vec::new()).await;
    }

    /// Takes a chunk that was offered, honestly, and tells everybody that it is here.
    async fn pull(&self, link: &Link, id: ChunkId, length: u32) {
        let fetch = Fetch {
            chunk: id,
            slices: SliceRange { first: 0, count: slice_count(length) },
            outline: false,
            ceiling: Default::default(),
        };
        let Ok(mut answer) = link.ask(&Request::Fetch(fetch).to_bytes()).await else { return };
        let Ok(Response::Slices(header)) = Response::from_bytes(&answer.header) else { return };
        let Ok(bytes) = answer.body.take(header.slices.bytes(header.chunk_len).len()).await else { return };
        if self.hold(bytes.freeze()) != id {
            return;
        }
        let announce = Request::Announce { chunks: vec![id], ttl: 3600 }.to_bytes();
        let links = self.links.lock().unwrap().clone();
        for link in links {
            let _ = link.ask(&announce).await;
        }
    }

    async fn answer_fetch(&self, fetch: Fetch, responder: Responder) {
        let found = self.held.lock().unwrap().get(&fetch.chunk).map(|held| (held.outline.clone(), held.bytes.clone()));
        let Some((outline, bytes)) = found else {
            let referral = Response::Referral { holders: Vec::new(), closer: Vec::new(), demand: Demand::default() };
            let _ = responder.answer(&referral.to_bytes(), Vec::new()).await;
            return;
        };
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let manner = *self.manner.lock().unwrap();
        let length = bytes.len() as u32;
        let last = slice_count(length);
        let first = fetch.slices.first.min(last);
        let mut header = Slices {
            chunk_len: length,
            slices: SliceRange { first, count: fetch.slices.count.min(last - first) },
            outline: fetch.outline,
            charge: Default::default(),
            demand: Demand::default(),
        };
        let range = header.slices.bytes(length);
        let right = bytes.slice(range.start as usize..range.end as usize);
        let wrong = || Bytes::from(right.iter().map(|byte| byte ^ 0x40).collect::<Vec<u8>>());
        let proof = if fetch.outline { outline.to_bytes() } else { Vec::new() };
        match manner {
            Manner::OtherSlices if last > 1 => header.slices.first = (header.slices.first + 1) % last,
            Manner::OtherLength => header.chunk_len = if length > 20_000 { length - 1 } else { length + 16_384 },
            _ => {}
        }
        let head = Response::Slices(header).to_bytes();
        let _ = match manner {
            Manner::Honest => responder.answer(&head, vec![Bytes::from(proof), right]).await,
            Manner::FalseBytes => responder.answer(&head, vec![Bytes::from(proof), wrong()]).await,
            Manner::FalseOutline => {
                let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 0x40).collect();
                let proof = if fetch.outline { Outline::of(&other).1.to_bytes() } else { Vec::new() };
                responder.answer(&head, vec![Bytes::from(proof), wrong()]).await
            }
            Manner::Truncated => {
                responder.answer(&head, vec![Bytes::from(proof), right.slice(..right.len() / 2)]).await
            }
            Manner::StallingMidway => match responder.begin(&head).await {
                Ok(mut writer) => {
                    let _ = writer.write(Bytes::from(proof)).await;
                    let _ = writer.write(right.slice(..right.len() / 2)).await;
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Manner::Stalling => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Ok(())
            }
            Manner::Garbage => responder.answer(b"\xffthis is no message", vec![right]).await,
            Manner::Endless => match responder.begin(&head).await {
                Ok(mut writer) => {
                    let _ = writer.write(Bytes::from(proof)).await;
                    while writer.write(right.clone()).await.is_ok() && !right.is_empty() {}
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Manner::OtherSlices | Manner::OtherLength => responder.answer(&head, vec![Bytes::from(proof), right]).await,
        };
    }
}
