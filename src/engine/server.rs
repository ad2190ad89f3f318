//! Answers to peers: requests in, responses and slices out of the store.

use super::reactor::Event;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::range::{SliceRange, slice_count};
use crate::net::link::{Link, Responder};
use crate::store::Store;
use crate::wire::codec::refusal;
use crate::wire::message::{Demand, Fetch, Located, Refusal, Request, Response, Slices};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;
use tracing::debug;

/// Hands a link's requests to the reactor until the link ends. The number of open streams bounds what waits there.
pub(super) async fn listen(link: &Link, events: &mpsc::UnboundedSender<Event>) {
    while let Some((message, responder)) = link.next_request().await {
        match Request::from_bytes(&message) {
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

/// Sends slices from the store, or `otherwise` when it lacks any of them.
pub(super) async fn serve(store: Arc<Store>, responder: Responder, fetch: Fetch, demand: Demand, otherwise: Response) {
    let found = tokio::task::spawn_blocking(move || read(&store, &fetch, demand)).await.ok().flatten();
    match found {
        Some((header, body)) => {
            if let Err(error) = responder.answer(&Response::Slices(header).to_bytes(), body).await {
                debug!(%error, "slices not sent");
            }
        }
        None => answer(responder, otherwise).await,
    }
}

/// The header and the bytes that follow it; `None` when something is missing (or unreadable: as good as missing).
fn read(store: &Store, fetch: &Fetch, demand: Demand) -> Option<(Slices, Vec<Bytes>)> {
    let held = store.slices(&fetch.chunk).ok()??;
    let wanted = fetch.slices;
    let all = slice_count(held.chunk_len);
    let end = wanted.end().min(all);
    let first = wanted.first.min(end);
    let slices = SliceRange { first, count: end - first };
    if held.mask & slices.mask() != slices.mask() {
        return None;
    }
    let mut body = Vec::new();
    if fetch.outline && usize::try_from(held.chunk_len).ok()? > SLICE_BYTES {
        body.push(Bytes::from(store.outline(&fetch.chunk).ok()??.to_bytes()));
    }
    let outline = fetch.outline;
    if slices.count > 0 {
        body.push(store.read(&fetch.chunk, slices).ok()??);
    }
    let charge = crate::base::amount::Msat::ZERO;
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
