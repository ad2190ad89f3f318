//! Calls to peers: dial, ask, and for slices verify each one before it is stored.

use super::link::Links;
use super::reactor::{Event, Shell};
use super::swarm::Waiting;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::{CHUNK_BYTES_MAX, IDS_MAX, SLICE_BYTES};
use crate::base::peer::Contact;
use crate::base::range::{SliceRange, slice_count};
use crate::content::chunk::Outline;
use crate::net::link::{BodyReader, LinkError};
use crate::node::effect::CallId;
use crate::node::input::{Answer, Input};
use crate::store::{Class, Store, StoreError};
use crate::wire::head::SignedHead;
use crate::wire::message::{CallFailure, Fetch, Request, Response, Slices, Statement};
use crate::wire::payment::Payment;
use bytes::{Bytes, BytesMut};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Slices are handed to the store in runs of this many (256 KiB): few enough to be served on early, enough to be cheap.
const RUN: u8 = 16;
/// A peer that does not say in this time what it holds, does not count as a holder.
const HELD_TIMEOUT: Duration = Duration::from_secs(6);

/// A call as a task; its end is reported as `Event::CallEnded`.
pub(super) fn call(
    shell: &Shell,
    call: CallId,
    to: Contact,
    mut request: Request,
    deadline: tokio::time::Instant,
) -> impl Future<Output = ()> + Send + 'static {
    let (links, events, identity) = (shell.links.clone(), shell.events.clone(), shell.identity.clone());
    let sink = Sink { store: shell.store.clone(), events: events.clone(), call, waiting: shell.waiting.clone() };
    async move {
        let work = async {
            let link = links.link(&to).await?;
            match &mut request {
                Request::Receipt(Statement { receipt, .. }) => {
                    receipt.signature = identity.sign(&receipt.signed(&identity.peer(), &to.peer));
                }
                Request::Payment(Payment::Invoice(invoice)) => {
                    invoice.signature = identity.sign(&invoice.signed(&identity.peer(), &to.peer));
                }
                _ => {}
            }
            let mut answer = link.ask(&request.to_bytes()).await.map_err(failure)?;
            let response = Response::from_bytes(&answer.header).map_err(|_| CallFailure::False("does not decode"))?;
            match (request, response) {
                (Request::Fetch(fetch), Response::Slices(header)) => {
                    sink.receive(fetch, header, &mut answer.body).await
                }
                (Request::Receipt(stated), Response::Receipted { held: Some(held) })
                    if held.amount > stated.receipt.amount && !held.is_from(&identity.peer(), &to.peer) =>
                {
                    Err(CallFailure::False("a receipt that we did not sign"))
                }
                (
                    Request::Head { id } | Request::SetHead(SignedHead { id, .. }),
                    Response::Head { held: Some(held) },
                ) if held.id != id || !held.is_signed() => {
                    Err(CallFailure::False("a head that its owner did not sign"))
                }
                (_, Response::Refused(refusal)) => Err(CallFailure::Refused(refusal)),
                (request, response) if fits(&request, &response) => Ok(Answer::Message(response)),
                _ => Err(CallFailure::False("an answer to something else")),
            }
        };
        let result = tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(CallFailure::Timeout));
        let _ = events.send(Event::CallEnded { call, result });
    }
}

/// Has a peer prove that it holds a chunk: its slices are verified and forgotten.
pub(super) fn check(
    shell: &Shell,
    call: CallId,
    to: Contact,
    fetch: Fetch,
    chunk_len: u32,
    deadline: tokio::time::Instant,
) -> impl Future<Output = ()> + Send + 'static {
    let (links, events, store) = (shell.links.clone(), shell.events.clone(), shell.store.clone());
    async move {
        let work = async {
            let link = links.link(&to).await?;
            let mut answer = link.ask(&Request::Fetch(fetch.clone()).to_bytes()).await.map_err(failure)?;
            let response = Response::from_bytes(&answer.header).map_err(|_| CallFailure::False("does not decode"))?;
            match response {
                Response::Slices(header) => {
                    checks(&fetch, &header)?;
                    if header.chunk_len != chunk_len {
                        return Err(CallFailure::False("a chunk of another length than its manifest says"));
                    }
                    let outline = outline(&store, &fetch.chunk, &header, &mut answer.body).await?;
                    let mut buffer = vec![0; SLICE_BYTES];
                    for slice in header.slices.first..header.slices.end() {
                        let span = SliceRange { first: slice, count: 1 }.bytes(chunk_len);
                        let bytes = buffer.get_mut(..(span.end - span.start) as usize).unwrap_or_default();
                        answer.body.exact(bytes).await.map_err(failure)?;
                        if !outline.check_slice(&fetch.chunk, slice, bytes) {
                            return Err(CallFailure::False("a false slice"));
                        }
                    }
                    Ok(Answer::Fetched { bytes: u64::from(header.slices.count) * SLICE_BYTES as u64, header })
                }
                Response::Refused(refusal) => Err(CallFailure::Refused(refusal)),
                referral @ Response::Referral { .. } => Ok(Answer::Message(referral)),
                _ => Err(CallFailure::False("an answer to something else")),
            }
        };
        let result = tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(CallFailure::Timeout));
        let _ = events.send(Event::CallEnded { call, result });
    }
}

/// Whether these are the slices that were asked for, at a price that was agreed to.
fn checks(fetch: &Fetch, header: &Slices) -> Result<(), CallFailure> {
    let all = slice_count(header.chunk_len);
    let end = fetch.slices.end().min(all);
    let asked = SliceRange { first: fetch.slices.first.min(end), count: end - fetch.slices.first.min(end) };
    let len = header.chunk_len as usize;
    if len > CHUNK_BYTES_MAX || header.slices != asked || header.outline != fetch.outline || len == 0 {
        return Err(CallFailure::False("slices that were not asked for"));
    }
    if header.charge > fetch.ceiling {
        return Err(CallFailure::False("charged more than it may cost"));
    }
    Ok(())
}

/// The outline of a chunk, off the stream where the answer has it, else from the store.
async fn outline(
    store: &Store,
    chunk: &ChunkId,
    header: &Slices,
    body: &mut BodyReader,
) -> Result<Outline, CallFailure> {
    let chunk_len = header.chunk_len;
    let outline = if header.outline {
        let hashes = if chunk_len as usize > SLICE_BYTES { usize::from(slice_count(chunk_len)) } else { 0 };
        let raw = body.take(hashes * 32).await.map_err(failure)?;
        Outline::from_bytes(chunk_len, &raw).ok_or(CallFailure::False("a malformed outline"))?
    } else {
        let kept = store.outline(chunk).map_err(|_| CallFailure::Store)?.ok_or(CallFailure::Store)?;
        if kept.len != chunk_len {
            return Err(CallFailure::False("a false chunk length"));
        }
        kept
    };
    if outline.verify(chunk) { Ok(outline) } else { Err(CallFailure::False("a false outline")) }
}

/// Which of these chunks a peer says, now, that it holds whole. None where it does not answer.
pub(super) async fn held(links: Arc<Links>, holder: Contact, chunks: Vec<ChunkId>) -> Vec<ChunkId> {
    let mut found = Vec::new();
    for batch in chunks.chunks(IDS_MAX) {
        let ask = async {
            let link = links.link(&holder).await.ok()?;
            let answer = link.ask(&Request::Locate { chunks: batch.to_vec() }.to_bytes()).await.ok()?;
            match Response::from_bytes(&answer.header).ok()? {
                Response::Located(located) => Some(located.held),
                _ => None,
            }
        };
        let Ok(Some(bits)) = tokio::time::timeout(HELD_TIMEOUT, ask).await else { break };
        let bit = |place: usize| bits.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1);
        found.extend(batch.iter().enumerate().filter(|(place, _)| bit(*place)).map(|(_, id)| *id));
    }
    found
}

/// Whether this kind of answer may follow this kind of request.
fn fits(request: &Request, response: &Response) -> bool {
    matches!(
        (request, response),
        (Request::Hello(_), Response::Hello(_))
            | (Request::Find { .. }, Response::Found { .. })
            | (Request::Locate { .. }, Response::Located(_))
            | (Request::Fetch(_), Response::Referral { .. })
            | (Request::Announce { .. }, Response::Announced { .. })
            | (Request::Host(_), Response::Hosting { .. })
            | (Request::Receipt(_), Response::Receipted { .. })
            | (Request::Payment(_) | Request::Testimony { .. }, Response::Noted)
            | (Request::Head { .. } | Request::SetHead(_), Response::Head { .. })
    )
}

fn failure(error: LinkError) -> CallFailure {
    match error {
        LinkError::Malformed(what) => CallFailure::False(what),
        _ => CallFailure::LinkLost,
    }
}

/// Where a fetch call's slices go.
struct Sink {
    store: Arc<Store>,
    events: mpsc::UnboundedSender<Event>,
    call: CallId,
    waiting: Arc<Waiting>,
}

impl Sink {
    /// Takes outline and slices off the stream; nothing unverified is kept, and the first false slice ends it.
    async fn receive(&self, fetch: Fetch, header: Slices, body: &mut BodyReader) -> Result<Answer, CallFailure> {
        checks(&fetch, &header)?;
        let Slices { chunk_len, slices, charge, .. } = header;
        if !self.waiting.lengths.allow(&fetch.chunk, chunk_len) {
            return Err(CallFailure::False("a chunk of another length than its manifest says"));
        }
        let outline = outline(&self.store, &fetch.chunk, &header, body).await?;
        let mut bytes = outline.to_bytes().len() as u64;
        let mut first = slices.first;
        let mut paid = Msat::ZERO;
        while first < slices.end() {
            let run = SliceRange { first, count: RUN.min(slices.end() - first) };
            let span = run.bytes(chunk_len);
            let mut buffer = BytesMut::zeroed((span.end - span.start) as usize);
            for (place, slice) in buffer.chunks_mut(SLICE_BYTES).enumerate() {
                body.exact(slice).await.map_err(failure)?;
                if !outline.check_slice(&fetch.chunk, run.first + place as u8, slice) {
                    return Err(CallFailure::False("a false slice"));
                }
            }
            bytes += buffer.len() as u64;
            let whole = self.keep(&fetch.chunk, &outline, run, buffer).await?;
            let parts = u128::from(charge.0) * u128::from(run.end() - slices.first) / u128::from(slices.count.max(1));
            let due = Msat(parts.min(u128::from(u64::MAX)) as u64);
            let part = due.over(paid);
            paid = due;
            // First what came, then that the chunk is whole: that ends calls which still owe something.
            let _ = self.events.send(Event::Input(Input::Delivered { call: self.call, slices: run, charge: part }));
            if whole {
                let _ = self.events.send(Event::Input(Input::Stored { chunks: vec![fetch.chunk] }));
            }
            first = run.end();
        }
        if !matches!(body.chunk(1).await, Ok(None)) {
            return Err(CallFailure::False("more bytes than announced"));
        }
        Ok(Answer::Fetched { header, bytes })
    }

    /// Stores verified slices; whether the chunk is whole now.
    async fn keep(
        &self,
        chunk: &ChunkId,
        outline: &Outline,
        run: SliceRange,
        bytes: BytesMut,
    ) -> Result<bool, CallFailure> {
        let bytes = bytes.freeze();
        let whole = if self.store.is_crowded(bytes.len()) {
            // The disk is behind: wait for it where waiting hinders nobody else.
            let (store, chunk, outline) = (self.store.clone(), *chunk, outline.clone());
            tokio::task::spawn_blocking(move || put(&store, &chunk, &outline, run, bytes))
                .await
                .map_err(|_| CallFailure::Store)?
        } else {
            put(&self.store, chunk, outline, run, bytes)
        };
        whole.map_err(|error| {
            tracing::error!(%error, "a fetched slice could not be stored");
            CallFailure::Store
        })
    }
}

/// Stores verified slices; whether the chunk is whole now. What was promised to be hosted stays so: the store keeps the
/// stronger of two classes.
fn put(store: &Store, chunk: &ChunkId, outline: &Outline, run: SliceRange, bytes: Bytes) -> Result<bool, StoreError> {
    store.put_slices(chunk, outline, run.first, bytes, Class::Cached)?;
    store.holds(chunk)
}
