//! Heads in the machine: those kept for others are told to who asks; our own and those that we follow are brought to, and asked of, the peers
//! closest to their place. A find costs the look-up of a key (nothing where everybody is known) and one round trip.

use super::Node;
use super::calls::Purpose;
use super::effect::Effect;
use super::find::Why;
use crate::base::head::HeadId;
use crate::base::keyspace::Key;
use crate::base::limit::CONTACTS_MAX;
use crate::base::peer::{Contact, PeerId};
use crate::base::time::Instant;
use crate::fetch::want::WantId;
use crate::routing::head::Heads;
use crate::wire::head::SignedHead;
use crate::wire::message::{CallFailure, Request, Response};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// At how many of the closest peers a head is kept, and how many are asked for it: more, as peers come and go.
const COPIES: usize = 8;
const ASKED: usize = 16;
const HEAD_TIMEOUT: Duration = Duration::from_secs(3);
/// Peers with a link that are asked while nobody has said hello yet.
const FIRST_MAX: usize = 8;
/// Finds and moves at once; others wait for one to end.
const ERRANDS_MAX: usize = 64;

/// Finding a head, or having a state of it kept.
#[derive(Debug)]
struct Errand {
    id: HeadId,
    /// What is brought; nothing is when it is looked for.
    head: Option<SignedHead>,
    /// Whom to ask is known.
    begun: bool,
    asked: usize,
    open: usize,
    /// Peers that said what they keep; of a state that is brought, those that keep it or a newer one.
    answered: usize,
    newest: Option<SignedHead>,
}

/// All heads, and what is being done about some.
#[derive(Debug, Default)]
pub(super) struct Heading {
    heads: Heads,
    errands: BTreeMap<WantId, Errand>,
    waiting: VecDeque<(WantId, HeadId, Option<SignedHead>)>,
}

impl Heading {
    /// How many are kept for others.
    pub(super) fn kept(&self) -> usize {
        self.heads.len()
    }
}

impl Node {
    /// The engine looks for a head, or brings a state of it.
    pub(super) fn head_wanted(&mut self, now: Instant, want: WantId, id: HeadId, head: Option<SignedHead>) {
        if let Some(head) = &head {
            self.heading.heads.told(now, self.me, head.clone(), || true);
        }
        self.heading.waiting.push_back((want, id, head));
    }

    /// Begins what waits. Returns whether there was something.
    pub(super) fn poll_heads(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while self.heading.errands.len() < ERRANDS_MAX
            && let Some((want, id, head)) = self.heading.waiting.pop_front()
        {
            moved = true;
            self.begin_head(now, want, id, head);
        }
        moved
    }

    fn begin_head(&mut self, now: Instant, want: WantId, id: HeadId, head: Option<SignedHead>) {
        let newest = self.heading.heads.of(now, &id).cloned();
        let errand = Errand { id, head, begun: false, asked: 0, open: 0, answered: 0, newest };
        self.heading.errands.insert(want, errand);
        let key = Key::from(id);
        if self.table.is_empty() {
            // In a node's first moment nobody has said hello yet.
            let linked = self.peers.linked().take(FIRST_MAX).map(|(peer, _, _)| self.peers.contact(peer)).collect();
            self.ask_heads(now, want, linked);
        } else if self.table.everyone_known() {
            let close = self.table.closest_healthy(&key, ASKED);
            self.ask_heads(now, want, close);
        } else {
            self.look_up(now, key, Why::Head(want));
        }
    }

    /// The neighbourhood of a head was looked up.
    pub(super) fn head_neighbours(&mut self, now: Instant, want: WantId, key: &Key, paths: Vec<Vec<Contact>>) {
        // Every path has its share, so that made-up peers on one cannot take all.
        let mut close = BTreeMap::new();
        let longest = paths.iter().map(Vec::len).max().unwrap_or(0);
        for place in 0..longest {
            for contact in paths.iter().filter_map(|path| path.get(place)) {
                if close.len() < ASKED {
                    close.insert(Key::from(contact.peer).distance(key), contact.clone());
                }
            }
        }
        self.ask_heads(now, want, close.into_values().collect());
    }

    fn ask_heads(&mut self, now: Instant, want: WantId, mut close: Vec<Contact>) {
        let Some(errand) = self.heading.errands.get_mut(&want) else { return };
        close.truncate(if errand.head.is_some() { COPIES } else { ASKED });
        errand.begun = true;
        errand.asked = close.len();
        errand.open = close.len();
        let request = match &errand.head {
            Some(head) => Request::SetHead(head.clone()),
            None => Request::Head { id: errand.id },
        };
        for contact in close {
            self.call(now, contact, request.clone(), HEAD_TIMEOUT, Purpose::Head(want));
        }
        self.end_head(want);
    }

    /// A peer said what it keeps of a head. Whether its owner signed that was checked before.
    pub(super) fn head_answered(
        &mut self,
        now: Instant,
        want: WantId,
        peer: PeerId,
        result: Result<Response, CallFailure>,
    ) {
        let held = match result {
            Ok(Response::Head { held }) => Some(held),
            Ok(_) => {
                self.blame(now, peer, "answered a question for a head with something else");
                None
            }
            Err(_) => None,
        };
        // It may have ended by what others said.
        let Some(errand) = self.heading.errands.get_mut(&want) else { return };
        errand.open -= 1;
        if let Some(held) = held {
            errand.answered += usize::from(errand.head.is_none() || held.is_some());
            if let Some(held) = held.filter(|held| held.id == errand.id)
                && errand.newest.as_ref().is_none_or(|newest| held.replaces(newest))
            {
                errand.newest = Some(held);
            }
        }
        self.end_head(want);
    }

    /// Ends an errand that has nothing more to wait for: all have answered, or a head that is looked for was found and half of them have.
    fn end_head(&mut self, want: WantId) {
        let Some(errand) = self.heading.errands.get(&want) else { return };
        let enough = errand.head.is_none() && errand.newest.is_some() && errand.answered * 2 >= errand.asked;
        if !errand.begun || errand.open > 0 && !enough {
            return;
        }
        let Some(errand) = self.heading.errands.remove(&want) else { return };
        self.effects.push_back(Effect::Head { want, newest: errand.newest, answered: errand.answered });
    }

    /// A peer asks for a head.
    pub(super) fn head_asked(&self, now: Instant, id: &HeadId) -> Response {
        Response::Head { held: self.heading.heads.of(now, id).cloned() }
    }

    /// A peer brings a state of a head.
    pub(super) fn head_told(&mut self, now: Instant, from: PeerId, head: SignedHead) -> Response {
        let table = &self.table;
        let key = Key::from(head.id);
        // When space is short: only heads to which fewer than a bucketful of contacts are closer than we.
        let near = || table.closer_count(&key, CONTACTS_MAX) < CONTACTS_MAX;
        Response::Head { held: self.heading.heads.told(now, from, head, near).cloned() }
    }
}
