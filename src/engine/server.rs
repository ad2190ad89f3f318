//! Answers to peers: requests in, responses and slices out of the store.

use super::reactor::Event;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::peer::PeerId;
use crate::base::range::{SliceRange, slice_count};
use crate::net::link::{Link, Responder};
use crate::store::Store;
use crate::wire::codec::refusal;
use crate::wire::message::{Demand, Fetch, Located, Refusal, Request, Response, Slices, Statement};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::debug;

/// Receipts of others are looked at so often on one link.
const TESTIMONY_PAUSE: Duration = Duration::from_secs(60);

/// Hands a link's requests to the reactor until the link ends; `asked` is called with each. The number of open streams bounds what waits there.
pub(super) async fn listen(link: &Link, me: &PeerId, events: &mpsc::UnboundedSender<Event>, asked: impl Fn()) {
    let mut testimony_at = None;
    while let Some((message, responder)) = link.next_request().await {
        asked();
        match Request::from_bytes(&message) {
            Ok(Request::Testimony { receipts }) => {
                // Checking them is work: not as often as a peer likes.
                let now = tokio::time::Instant::now();
                let early = testimony_at.is_some_and(|at| now < at + TESTIMONY_PAUSE);
                testimony_at = testimony_at.filter(|_| early).or(Some(now));
                if early || !receipts.iter().all(|shown| shown.receipt.is_from(&shown.issuer, &link.peer())) {
                    debug!(peer = %format_args!("{:.8}", link.peer()), early, "receipts of others refused");
                    let refusal = if early { Refusal::Busy } else { Refusal::Malformed };
                    tokio::spawn(answer(responder, Response::Refused(refusal)));
                    continue;
                }
                let request = Request::Testimony { receipts };
                let _ = events.send(Event::Asked { from: link.peer(), request, responder });
            }
            Ok(Request::Receipt(Statement { receipt, .. })) if !receipt.is_from(&link.peer(), me) => {
                debug!(peer = %format_args!("{:.8}", link.peer()), "receipt with a false signature");
                tokio::spawn(answer(responder, Response::Refused(Refusal::Malformed)));
            }
            Ok(Request::Payment(payment)) if !payment.is_signed(&link.peer(), me) => {
                debug!(peer = %format_args!("{:.8}", link.peer()), "invoice with a false signature");
                tokio::spawn(answer(responder, Response::Refused(Refusal::Malformed)));
            }
            Ok(Request::SetHead(head)) if !head.is_signed() => {
                debug!(peer = %format_args!("{:.8}", link.peer()), "head with a false signature");
                tokio::spawn(answer(responder, Response::Refused(Refusal::Malformed)));
            }
            Ok(request) => {
                let _ = events.send(Event::Asked { from: link.peer(), request, responder });
            }
            Err(error) => {
                debug!(peer = %format_args!("{:.8}", link.peer()), %error, "request refused");
                tokio::spawn(answer(responder, Response::Refused(refusal(&error))));
            }
        }
    }
}

/// Sends an answer without slices.
pub(super) async fn answer(responder: Responder, response: Response) {
    if let Err(error) = responder.answer(&response.to_bytes(), Vec::new()).await {
        debug!(%error, "answer not sent");
    }
}

/// What is sent to whom, and for how much.
pub(super) struct Serving {
    pub(super) fetch: Fetch,
    pub(super) demand: Demand,
    pub(super) otherwise: Response,
    pub(super) charge: Msat,
}

/// What was sent.
pub(super) struct Sent {
    pub(super) bytes: u64,
    pub(super) charge: Msat,
    /// All of it; else perhaps less.
    pub(super) whole: bool,
}

/// Sends slices from the store, or `otherwise` when it lacks any of them.
pub(super) async fn serve(store: Arc<Store>, responder: Responder, serving: Serving) -> Sent {
    let Serving { fetch, demand, otherwise, charge } = serving;
    let found = tokio::task::spawn_blocking(move || read(&store, &fetch, demand, charge)).await.ok().flatten();
    match found {
        Some((header, body)) => {
            let bytes = body.iter().map(|part| part.len() as u64).sum();
            let sent = responder.answer(&Response::Slices(header.clone()).to_bytes(), body).await;
            if let Err(error) = &sent {
                debug!(%error, "slices not sent");
            }
            Sent { bytes, charge: header.charge, whole: sent.is_ok() }
        }
        None => {
            answer(responder, otherwise).await;
            Sent { bytes: 0, charge: Msat::ZERO, whole: true }
        }
    }
}

/// The header and the bytes that follow it; `None` when something is missing (or unreadable: as good as missing).
fn read(store: &Store, fetch: &Fetch, demand: Demand, charge: Msat) -> Option<(Slices, Vec<Bytes>)> {
    let held = store.slices(&fetch.chunk).ok()??;
    let wanted = fetch.slices;
    let all = slice_count(held.chunk_len);
    let end = wanted.end().min(all);
    let first = wanted.first.min(end);
    let slices = SliceRange { first, count: end - first };
    if held.mask & slices.mask() != slices.mask() {
        return None;
    }
    // Asked for so often, each time for a part of it like this one.
    let part = f64::from(slices.count) / f64::from(slice_count(held.chunk_len).max(1));
    store.note_asked(&fetch.chunk, f64::from(demand.asked) * part);
    let mut body = Vec::new();
    if fetch.outline && usize::try_from(held.chunk_len).ok()? > SLICE_BYTES {
        body.push(Bytes::from(store.outline(&fetch.chunk).ok()??.to_bytes()));
    }
    let outline = fetch.outline;
    if slices.count > 0 {
        body.push(store.read(&fetch.chunk, slices).ok()??);
    }
    // For a chunk that is shorter than the asker knew.
    let charge = Msat((u128::from(charge.0) * u128::from(slices.count) / u128::from(wanted.count.max(1))) as u64);
    Some((Slices { chunk_len: held.chunk_len, slices, outline, charge, demand }, body))
}

/// Answers which of `chunks` are here and who else announced them.
pub(super) async fn located(store: Arc<Store>, responder: Responder, chunks: Vec<ChunkId>, mut located: Located) {
    let held = tokio::task::spawn_blocking(move || {
        let mut bits = vec![0u8; chunks.len().div_ceil(8)];
        for (place, held) in store.holds_each(&chunks).unwrap_or_default().into_iter().enumerate() {
            if let Some(byte) = bits.get_mut(place / 8) {
                *byte |= u8::from(held) << (place % 8);
            }
        }
        bits
    })
    .await;
    match held {
        Ok(held) => {
            located.held = held;
            answer(responder, Response::Located(located)).await;
        }
        Err(_) => answer(responder, Response::Refused(Refusal::Busy)).await,
    }
}
