//! Keeping chunks for others: offers are accepted by quota, accepted chunks are pulled (nothing is ever pushed), and the owner is told by an
//! announcement once they are here and durable.

use super::Node;
use super::calls::Purpose;
use super::effect::Effect;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::IDS_MAX;
use crate::base::peer::PeerId;
use crate::base::range::SliceRange;
use crate::base::time::Instant;
use crate::fetch::want::{Urgency, Want, WantFailure, WantId, WantOk};
use crate::ledger::rent::Claims;
use crate::wire::message::{CallFailure, Fetch, Host, Refusal, Request, Response, TTL_SECONDS_MAX};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Wants of the machine itself have this bit, so that they are told from the engine's.
pub(super) const OWN_WANT: u64 = 1 << 63;
/// Chunks pulled at once, and accepted but not pulled yet.
const PULLS_MAX: usize = 64;
const QUEUE_MAX: usize = 16_384;
const PULL_TIMEOUT: Duration = Duration::from_secs(180);
const PULL_TRIES: u8 = 4;
const PULL_PAUSE: Duration = Duration::from_secs(5);
/// Confirmations gather for so long.
const CONFIRM_GATHER: Duration = Duration::from_millis(30);
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
const CONFIRM_PAUSE: Duration = Duration::from_secs(3);
const CONFIRM_TRIES: u8 = 6;
/// No owner may take more than this share of the quota: halves.
const OWNER_SHARE: u64 = 2;

/// Stands for the owners of what an earlier run promised to keep: nobody's key.
const FORMER: PeerId = PeerId([0; 32]);

/// What is kept and what is under way.
#[derive(Debug)]
pub(crate) struct Hosting {
    bytes_max: u64,
    /// On the books: what was accepted in this run and is not over.
    bytes: u64,
    /// In the store, by its last word and what came since; also of earlier runs.
    stored: u64,
    /// Accepted and not in the store yet.
    promised: u64,
    /// What the store could take besides.
    free: u64,
    kept: BTreeMap<ChunkId, Kept>,
    leases: BTreeSet<(Instant, ChunkId)>,
    /// How much of it is whose, and what they owe for it.
    pub(super) claims: Claims,
    /// Accepted and not here yet, with those who wait for it.
    pulls: BTreeMap<ChunkId, Pull>,
    queue: VecDeque<ChunkId>,
    retries: BTreeSet<(Instant, ChunkId)>,
    running: BTreeMap<WantId, ChunkId>,
    want_next: u64,
    confirms: BTreeMap<PeerId, Confirm>,
}

#[derive(Debug)]
struct Kept {
    len: u32,
    until: Instant,
    owner: PeerId,
}

#[derive(Debug)]
struct Pull {
    len: u32,
    owners: BTreeSet<PeerId>,
    tries: u8,
    /// It is here, and being made durable.
    settling: bool,
}

#[derive(Debug)]
struct Confirm {
    chunks: BTreeSet<ChunkId>,
    at: Instant,
    busy: bool,
    tries: u8,
}

impl Hosting {
    pub(crate) fn new(bytes_max: u64, bytes_used: u64) -> Hosting {
        Hosting {
            bytes_max,
            bytes: 0,
            stored: bytes_used,
            promised: 0,
            free: u64::MAX,
            kept: BTreeMap::new(),
            leases: BTreeSet::new(),
            claims: Claims::default(),
            pulls: BTreeMap::new(),
            queue: VecDeque::new(),
            retries: BTreeSet::new(),
            running: BTreeMap::new(),
            want_next: 0,
            confirms: BTreeMap::new(),
        }
    }

    /// Bytes kept, or to be kept, for others.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.max(self.stored.saturating_add(self.promised))
    }

    /// The store's word of its space.
    pub(crate) fn room(&mut self, hosted: u64, free: u64) {
        (self.stored, self.free) = (hosted, free);
    }

    /// Whether the disk has room for a chunk that is in the store or not.
    fn has_room(&self, id: &ChunkId, len: u32, here: bool) -> bool {
        let pulled = self.pulls.contains_key(id);
        let fits = self.promised.saturating_add(u64::from(len)) <= self.free;
        here || pulled || fits && self.pulls.len() < QUEUE_MAX
    }

    /// A chunk will not come any more, or is here to stay.
    fn end_pull(&mut self, id: &ChunkId) -> Option<Pull> {
        let pull = self.pulls.remove(id)?;
        self.promised = self.promised.saturating_sub(u64::from(pull.len));
        Some(pull)
    }

    /// Whether a chunk that was promised to be kept is here.
    pub(crate) fn keeps(&self, id: &ChunkId) -> bool {
        self.kept.contains_key(id) && !self.pulls.contains_key(id)
    }

    /// Chunks accepted and not here yet.
    pub(crate) fn pulling(&self) -> usize {
        self.pulls.len()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let lease = self.leases.first().map(|(at, _)| *at);
        let retry = self.retries.first().map(|(at, _)| *at);
        let confirm = self.confirms.values().filter(|confirm| !confirm.busy).map(|confirm| confirm.at).min();
        [lease, retry, confirm].into_iter().flatten().min()
    }

    /// Books bytes of an owner, or takes them off.
    fn book(&mut self, now: Instant, owner: PeerId, change: impl FnOnce(u64) -> u64) {
        let bytes = change(self.claims.bytes(&owner));
        self.claims.keeps(now, owner, bytes);
    }

    /// Takes a chunk into the books, or lengthens its lease. Returns whether there is room for it.
    fn keep(&mut self, now: Instant, id: ChunkId, len: u32, owner: PeerId, until: Instant) -> bool {
        let bytes = u64::from(len);
        if let Some(kept) = self.kept.get_mut(&id).filter(|kept| kept.owner == FORMER) {
            kept.owner = owner;
            self.book(now, FORMER, |all| all.saturating_sub(bytes));
            self.book(now, owner, |all| all.saturating_add(bytes));
        }
        if let Some(kept) = self.kept.get_mut(&id) {
            if until > kept.until {
                self.leases.remove(&(kept.until, id));
                kept.until = until;
                self.leases.insert((until, id));
            }
            return true;
        }
        let of_owner = self.claims.bytes(&owner);
        if self.bytes().saturating_add(bytes) > self.bytes_max || of_owner + bytes > self.bytes_max / OWNER_SHARE {
            return false;
        }
        self.bytes += bytes;
        self.book(now, owner, |all| all.saturating_add(bytes));
        self.kept.insert(id, Kept { len, until, owner });
        self.leases.insert((until, id));
        true
    }

    /// Takes into the books what an earlier run promised: their owners are not known any more, and whoever has a lease renewed may; he is
    /// the owner then.
    pub(crate) fn recall(&mut self, now: Instant, chunks: &[(ChunkId, u32, u32)]) {
        for (id, len, lease) in chunks {
            let until = now.after(Duration::from_secs(u64::from(*lease)));
            if self.kept.contains_key(id) || *lease == 0 {
                continue;
            }
            self.bytes += u64::from(*len);
            self.book(now, FORMER, |all| all.saturating_add(u64::from(*len)));
            self.kept.insert(*id, Kept { len: *len, until, owner: FORMER });
            self.leases.insert((until, *id));
        }
    }

    /// Takes a chunk out of the books.
    fn release(&mut self, now: Instant, id: &ChunkId) {
        let Some(kept) = self.kept.remove(id) else { return };
        self.leases.remove(&(kept.until, *id));
        self.bytes = self.bytes.saturating_sub(u64::from(kept.len));
        if !self.pulls.contains_key(id) {
            self.stored = self.stored.saturating_sub(u64::from(kept.len));
        }
        self.book(now, kept.owner, |all| all.saturating_sub(u64::from(kept.len)));
    }

    fn confirm(&mut self, now: Instant, owner: PeerId, id: ChunkId) {
        let fresh = || Confirm { chunks: BTreeSet::new(), at: now.after(CONFIRM_GATHER), busy: false, tries: 0 };
        let confirm = self.confirms.entry(owner).or_insert_with(fresh);
        confirm.chunks.insert(id);
        if confirm.chunks.len() >= IDS_MAX && confirm.tries == 0 {
            confirm.at = now;
        }
    }

    /// A peer is in reach again: what it waits for is told at once.
    pub(crate) fn owner_up(&mut self, now: Instant, owner: &PeerId) {
        if let Some(confirm) = self.confirms.get_mut(owner) {
            confirm.tries = 0;
            confirm.at = confirm.at.min(now.after(CONFIRM_GATHER));
        }
    }
}

impl Node {
    /// A peer would have chunks kept: says which, and begins to pull them.
    pub(super) fn host_offered(&mut self, now: Instant, from: PeerId, host: Host) -> Response {
        if self.config.host_bytes_max == 0 {
            return Response::Refused(Refusal::Full);
        }
        let price = self.rent_price();
        if host.price < price {
            return Response::Refused(Refusal::Price);
        }
        let lease = Duration::from_secs(u64::from(host.lease));
        if self.hosting.claims.is_late(now, &from, lease) {
            // The price would be right: it is not paid.
            let owed = self.hosting.claims.due(now, &from);
            return Response::Refused(Refusal::CreditLimit { owed, line: Msat::ZERO });
        }
        let until = now.after(lease);
        let mut accepted = vec![0u8; host.chunks.len().div_ceil(8)];
        let (mut keep, mut full) = (Vec::new(), false);
        for (place, (id, len)) in host.chunks.iter().enumerate() {
            let here = self.announcer.holds(id);
            let new = !self.hosting.kept.contains_key(id);
            if host.lease == 0 {
                continue;
            }
            if !self.hosting.has_room(id, *len, here) || !self.hosting.keep(now, *id, *len, from, until) {
                full = true;
                continue;
            }
            self.market.forget(&[*id]);
            if here && new {
                self.hosting.stored += u64::from(*len);
            }
            if let Some(byte) = accepted.get_mut(place / 8) {
                *byte |= 1 << (place % 8);
            }
            keep.push((*id, *len));
            if here {
                self.hosting.confirm(now, from, *id);
            } else if let Some(pull) = self.hosting.pulls.get_mut(id) {
                pull.owners.insert(from);
            } else {
                self.hosting.promised += u64::from(*len);
                let pull = Pull { len: *len, owners: [from].into(), tries: 0, settling: false };
                self.hosting.pulls.insert(*id, pull);
                self.hosting.queue.push_back(*id);
            }
        }
        if keep.is_empty() && full {
            return Response::Refused(Refusal::Full);
        }
        if !keep.is_empty() {
            self.hosting.claims.agree(now, &from, price);
            self.effects.push_back(Effect::Keep { chunks: keep, owner: from, lease: host.lease });
        }
        Response::Hosting { accepted }
    }

    /// What is charged for a GiB and day. Where what is read is free there are no accounts to charge it to.
    fn rent_price(&self) -> Msat {
        let credit = &self.config.credit;
        if credit.price.is_zero() { Msat::ZERO } else { credit.host_price }
    }

    /// The rent that is charged with the answer to a peer's request: where it asks for a proof of what is kept for it, and as far as its
    /// ceiling goes.
    pub(super) fn rent_due(&self, now: Instant, from: &PeerId, fetch: &Fetch, bytes: u64) -> Msat {
        let own = self.hosting.kept.get(&fetch.chunk).is_some_and(|kept| kept.owner == *from);
        if !own || fetch.slices.count != 1 {
            return Msat::ZERO;
        }
        let left = fetch.ceiling.over(self.credit.ledger.quote(from, bytes));
        self.hosting.claims.due(now, from).min(left)
    }

    /// Pulls, confirms and lets leases end. Returns whether something was done.
    pub(super) fn poll_hosting(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some((at, id)) = self.hosting.retries.first().copied()
            && at <= now
        {
            self.hosting.retries.pop_first();
            self.hosting.queue.push_back(id);
        }
        while self.hosting.running.len() < PULLS_MAX
            && let Some(id) = self.hosting.queue.pop_front()
        {
            moved = true;
            self.pull(now, id);
        }
        while let Some((at, id)) = self.hosting.leases.first().copied()
            && at <= now
        {
            // The store lets go of it by itself; until it does, the chunk may be served.
            moved = true;
            self.hosting.release(now, &id);
        }
        if self.hosting.confirms.values().any(|confirm| !confirm.busy && confirm.at <= now) {
            moved = true;
            self.send_confirms(now);
        }
        moved
    }

    fn pull(&mut self, now: Instant, id: ChunkId) {
        let Some(kept) = self.hosting.kept.get(&id) else {
            self.hosting.end_pull(&id);
            return;
        };
        let Some(pull) = self.hosting.pulls.get(&id) else { return };
        let want = WantId(OWN_WANT | self.hosting.want_next);
        self.hosting.want_next += 1;
        let likely = pull.owners.iter().map(|owner| self.peers.contact(owner)).collect();
        let chunk_len = kept.len;
        self.hosting.running.insert(want, id);
        self.fetch.want(
            now,
            Want {
                id: want,
                chunks: vec![id],
                data: 1,
                chunk_len,
                needs: vec![(0, SliceRange::whole(chunk_len))],
                have: Vec::new(),
                urgency: Urgency::Host,
                deadline: now.after(PULL_TIMEOUT),
                likely,
            },
        );
    }

    /// A want of the machine's own ended.
    pub(super) fn pulled(&mut self, now: Instant, want: WantId, result: Result<WantOk, WantFailure>) {
        let Some(id) = self.hosting.running.remove(&want) else { return };
        if result.is_ok() {
            self.stored(now, &[id]);
            return;
        }
        let Some(pull) = self.hosting.pulls.get_mut(&id) else { return };
        pull.tries += 1;
        if pull.tries < PULL_TRIES {
            self.hosting.retries.insert((now.after(PULL_PAUSE.saturating_mul(1 << pull.tries)), id));
            return;
        }
        if let Some(kept) = self.hosting.kept.get(&id) {
            let (len, owner) = (kept.len, kept.owner);
            self.hosting.release(now, &id);
            self.effects.push_back(Effect::Keep { chunks: vec![(id, len)], owner, lease: 0 });
        }
        self.hosting.end_pull(&id);
    }

    /// Has those of the chunks that are here made durable that are kept for others; returns the rest.
    pub(super) fn settle(&mut self, chunks: &[ChunkId]) -> Vec<ChunkId> {
        let (mut free, mut promised) = (Vec::new(), Vec::new());
        for id in chunks {
            match self.hosting.pulls.get_mut(id) {
                None => free.push(*id),
                Some(pull) if pull.settling => {}
                Some(pull) => {
                    pull.settling = true;
                    promised.push(*id);
                }
            }
        }
        if !promised.is_empty() {
            self.effects.push_back(Effect::Settle { chunks: promised });
        }
        free
    }

    /// A chunk is here to stay: whoever had it hosted is told.
    pub(super) fn host_kept(&mut self, now: Instant, id: &ChunkId) {
        if let Some(pull) = self.hosting.end_pull(id) {
            self.hosting.stored = self.hosting.stored.saturating_add(u64::from(pull.len));
            for owner in pull.owners {
                self.hosting.confirm(now, owner, *id);
            }
        }
    }

    fn send_confirms(&mut self, now: Instant) {
        let due = self.hosting.confirms.iter().filter(|(_, confirm)| !confirm.busy && confirm.at <= now);
        let due: Vec<PeerId> = due.map(|(owner, _)| *owner).collect();
        for owner in due {
            let Some(confirm) = self.hosting.confirms.get_mut(&owner) else { continue };
            confirm.busy = true;
            let chunks: Vec<ChunkId> = confirm.chunks.iter().take(IDS_MAX).copied().collect();
            let contact = self.peers.contact(&owner);
            let request = Request::Announce { chunks: chunks.clone(), ttl: TTL_SECONDS_MAX };
            self.call(now, contact, request, CONFIRM_TIMEOUT, Purpose::Confirm(chunks));
        }
    }

    /// A confirmation ended.
    pub(super) fn confirm_answered(
        &mut self,
        now: Instant,
        owner: PeerId,
        chunks: &[ChunkId],
        result: Result<Response, CallFailure>,
    ) {
        let Some(confirm) = self.hosting.confirms.get_mut(&owner) else { return };
        confirm.busy = false;
        match result {
            Ok(_) => {
                confirm.tries = 0;
                confirm.at = now;
                for id in chunks {
                    confirm.chunks.remove(id);
                }
            }
            Err(_) => {
                confirm.tries += 1;
                confirm.at = now.after(CONFIRM_PAUSE.saturating_mul(1 << confirm.tries.min(6)));
            }
        }
        // An owner who stays away learns of its hosts by looking them up.
        if confirm.chunks.is_empty() || confirm.tries >= CONFIRM_TRIES {
            self.hosting.confirms.remove(&owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NodeConfig;
    use super::super::effect::Token;
    use super::super::input::Input;
    use super::*;
    use crate::ledger::CreditConfig;
    use crate::wire::message::{Hello, Price, Statement};
    use crate::wire::receipt::Receipt;

    const OWNER: PeerId = PeerId([1; 32]);
    const CHUNK: ChunkId = ChunkId([7; 32]);
    const LEN: u32 = 1 << 20;
    const LEASE: u32 = 1000;
    const SECOND: u64 = 1_000_000;
    /// A millisatoshi a second for the chunk.
    const RENT: Msat = Msat(1024 * 86_400);

    /// What a request came to.
    #[derive(Debug, PartialEq)]
    enum End {
        Charged(Msat),
        Answered(Response),
    }

    use End::{Answered, Charged};

    fn ask(node: &mut Node, now: Instant, request: Request) -> End {
        node.handle(now, Input::Request { from: OWNER, token: Token(now.0), request });
        let mut end = Charged(Msat::ZERO);
        while let Some(effect) = node.poll_effect() {
            match effect {
                Effect::Book { .. } => node.handle(now, Input::Booked),
                Effect::Serve { token, charge, .. } => {
                    end = Charged(charge);
                    node.handle(now, Input::Served { token, bytes: 1 << 14, charge, whole: true });
                }
                Effect::Answer { response, .. } => end = Answered(response),
                _ => {}
            }
        }
        end
    }

    fn offer(node: &mut Node, now: Instant, price: Msat) -> End {
        ask(node, now, Request::Host(Host { chunks: vec![(CHUNK, LEN)], lease: LEASE, price }))
    }

    /// The owner asks for so many slices.
    fn fetch(node: &mut Node, now: Instant, count: u8) -> End {
        let slices = SliceRange { first: 0, count };
        ask(node, now, Request::Fetch(Fetch { chunk: CHUNK, slices, outline: true, ceiling: Msat(1 << 40) }))
    }

    /// A host that has the chunk, and whose terms its owner knows.
    fn host(price: u64) -> Node {
        let credit = CreditConfig {
            price: Price { per_gib: Msat(price), per_request: Msat::ZERO },
            host_price: RENT,
            ..CreditConfig::default()
        };
        let config = NodeConfig { credit, host_bytes_max: 1 << 30, ..NodeConfig::default() };
        let mut node = Node::new(config, PeerId([0; 32]), 1);
        let now = Instant(1);
        node.handle(now, Input::Stored { chunks: vec![CHUNK] });
        node.handle(now, Input::LinkUp { rtt: None, peer: OWNER, addr: ([30, 1, 0, 1], 4000).into(), dialled: false });
        let hello = node.hello_for(&OWNER);
        let _ = ask(&mut node, now, Request::Hello(Hello { price: Price::default(), ..hello }));
        let receipt = Receipt::unsigned(1, Msat::ZERO);
        let _ = ask(&mut node, now, Request::Receipt(Statement { receipt, settled: false }));
        node
    }

    #[test]
    fn what_came_due_is_charged_with_a_proof_and_nothing_else() {
        let mut node = host(1 << 20);
        assert!(matches!(offer(&mut node, Instant(SECOND), RENT), Answered(Response::Hosting { .. })));
        // A slice of 16 KiB is worth 16 msat.
        assert_eq!(fetch(&mut node, Instant(101 * SECOND), 2), Charged(Msat(32)));
        assert_eq!(fetch(&mut node, Instant(201 * SECOND), 1), Charged(Msat(216)));
        assert_eq!(fetch(&mut node, Instant(201 * SECOND + 1), 1), Charged(Msat(16)));
        assert_eq!(node.stats().rent.0, Msat(200));
        // Where reading is free there is no account for it.
        let mut free = host(0);
        assert!(matches!(offer(&mut free, Instant(SECOND), Msat::ZERO), Answered(Response::Hosting { .. })));
        assert_eq!(fetch(&mut free, Instant(201 * SECOND), 1), Charged(Msat::ZERO));
        assert_eq!(free.stats().rent.0, Msat::ZERO);
    }

    #[test]
    fn who_offers_less_or_lets_nothing_be_charged_has_nothing_kept() {
        let mut node = host(1 << 20);
        let dear = offer(&mut node, Instant(SECOND), Msat(RENT.0 - 1));
        assert_eq!(dear, Answered(Response::Refused(Refusal::Price)));
        let kept = |answer: End| matches!(answer, Answered(Response::Hosting { .. }));
        assert!(kept(offer(&mut node, Instant(SECOND), RENT)) && kept(offer(&mut node, Instant(900 * SECOND), RENT)));
        let late = offer(&mut node, Instant(1002 * SECOND), RENT);
        assert_eq!(late, Answered(Response::Refused(Refusal::CreditLimit { owed: Msat(1001), line: Msat::ZERO })));
        assert_eq!(fetch(&mut node, Instant(1003 * SECOND), 1), Charged(Msat(1002 + 16)));
        assert!(kept(offer(&mut node, Instant(1004 * SECOND), RENT)));
    }
}
