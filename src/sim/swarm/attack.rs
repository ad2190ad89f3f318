//! Attackers: members whose own machine joins, greets and keeps links as all do, while what others ask of them is answered by another logic,
//! and while they send what no honest node would.

use super::*;
use crate::base::keyspace::Key;
use crate::base::limit::{CONTACTS_MAX, IDS_MAX};
use crate::content::chunk::Outline;
use crate::wire::message::{Host, Located, Refusal};

/// What an attacker is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malice {
    /// To hide a key that it stands near to: it names accomplices alone, says that it holds what it is asked for, forgets what it is told and
    /// never delivers.
    Eclipse,
    /// To waste readers' time: it routes as it should, says that it holds whatever it is asked for, and sends garbage, others' names or nothing.
    Poison,
    /// To do harm at every turn: contacts made up right at the key, accomplices, false holders, garbage, refusals, silence; what it is told
    /// it forgets, what it is asked to host it says it does.
    Liar,
    /// To fill memories: it answers as it should, and sends what the scenario tells it to.
    Flood,
}

/// What attackers know together.
#[derive(Debug, Default)]
pub(super) struct Gang {
    /// Members of it by their place in the key space.
    accomplices: BTreeMap<Key, usize>,
    /// Names of nobody, by their place in the key space, at addresses of nobody.
    made_up: Vec<(Key, Contact)>,
    /// True outlines of chunks, so that false slices can come with a true one, and be held against it.
    outlines: BTreeMap<ChunkId, Outline>,
    sent: u64,
}

/// Calls of attackers lie beyond those of their machines, which ignore the answers.
const SENT: u64 = 1 << 39;
/// Contacts on either side of a key among which the closest are looked for.
const AROUND: usize = 32;
/// Addresses of nobody begin so: no member's does.
const NOWHERE: u8 = 120;

impl Gang {
    /// The closest accomplices to a key.
    fn closest(&self, key: &Key) -> Vec<usize> {
        let (after, before) = (self.accomplices.range(*key..), self.accomplices.range(..*key).rev());
        let mut near: Vec<_> = after.take(AROUND).chain(before.take(AROUND)).collect();
        near.sort_unstable_by_key(|(other, _)| other.distance(key));
        near.into_iter().take(CONTACTS_MAX).map(|(_, place)| *place).collect()
    }

    /// The closest of those that were made up.
    fn invented(&self, key: &Key) -> Vec<Contact> {
        let middle = self.made_up.partition_point(|(other, _)| other < key);
        let near = self.made_up.get(middle.saturating_sub(AROUND)..(middle + AROUND).min(self.made_up.len()));
        let mut near: Vec<_> = near.unwrap_or_default().iter().collect();
        near.sort_unstable_by_key(|(other, _)| other.distance(key));
        near.into_iter().take(CONTACTS_MAX).map(|(_, contact)| contact.clone()).collect()
    }
}

impl Swarm {
    /// One more member, of a chosen name: attackers try many until they like one. Returns its place.
    pub fn add(&mut self, peer: PeerId) -> usize {
        let place = self.members.len();
        let line = self.network.line(&mut self.random, place, peer);
        self.members.push(Member::new(peer, line));
        self.links.grow();
        self.checker.grow();
        place
    }

    /// From now on this member attacks. Nobody is held to the promise that whatever enough nodes have can be read: what comes of it is measured.
    pub fn attack(&mut self, place: usize, malice: Malice) {
        let Some(member) = self.members.get_mut(place) else { return };
        member.malice = Some(malice);
        self.gang.accomplices.insert(Key::from(member.peer), place);
        self.disturbed = Instant(u64::MAX);
    }

    /// Attackers make so many names up, to which nobody answers.
    pub fn make_up(&mut self, count: usize) {
        let random = &mut self.random;
        let contact = |number: usize| {
            let peer = PeerId(random.bytes32());
            let ip = [NOWHERE + (number >> 16) as u8, (number >> 8) as u8, number as u8, 1];
            (Key::from(peer), Contact { peer, addrs: vec![std::net::SocketAddr::new(ip.into(), 4000)] })
        };
        self.gang.made_up = (0..count).map(contact).collect();
        self.gang.made_up.sort_unstable_by_key(|(key, _)| *key);
    }

    /// What the slices of these chunks are held against.
    pub fn outline(&mut self, outlines: impl IntoIterator<Item = (ChunkId, Outline)>) {
        self.gang.outlines.extend(outlines);
    }

    /// Requests and answers that came to a node so far.
    pub fn received(&self, place: usize) -> u64 {
        self.members.get(place).map_or(0, |member| member.received)
    }

    /// An attacker sends a request of its own making to another member.
    pub fn send(&mut self, from: usize, to: usize, request: Request) {
        let Some(contact) = self.contact(to) else { return };
        self.gang.sent += 2;
        let call = self.named(from, CallId(SENT | self.gang.sent));
        let deadline = self.now.after(Duration::from_secs(10));
        self.call(from, call, &contact, request, deadline);
    }

    /// An attacker answers in its own way; gives the request back where it answers as it should.
    pub(super) fn misbehave(&mut self, place: usize, from: usize, call: CallId, request: Request) -> Option<Request> {
        let Some(malice) = self.members.get(place).and_then(|member| member.malice) else { return Some(request) };
        let pick = self.random.below(4);
        let answer = match (malice, &request) {
            (Malice::Flood, _) => return Some(request),
            (Malice::Eclipse | Malice::Liar, Request::Announce { chunks, .. }) => {
                Response::Announced { kept: chunks.len() as u32 }
            }
            (Malice::Eclipse | Malice::Liar, Request::Head { .. }) => Response::Head { held: None },
            (Malice::Eclipse | Malice::Liar, Request::SetHead(head)) => Response::Head { held: Some(head.clone()) },
            (Malice::Eclipse, Request::Find { key }) => Response::Found { contacts: self.accomplices(place, key) },
            (Malice::Eclipse | Malice::Poison, Request::Locate { chunks }) => {
                Response::Located(self.false_holders(place, chunks, false))
            }
            (Malice::Eclipse, Request::Fetch(_)) => return None,
            (Malice::Liar, Request::Host(host)) => {
                let chunks = host.chunks.iter().map(|(id, _)| *id).collect();
                self.send(place, from, Request::Announce { chunks, ttl: 86_400 });
                Response::Hosting { accepted: all(host) }
            }
            (Malice::Liar, Request::Find { .. } | Request::Locate { .. }) if pick == 0 => return None,
            (Malice::Liar, Request::Find { .. } | Request::Locate { .. }) if pick == 1 => {
                Response::Refused(Refusal::Busy)
            }
            (Malice::Liar, Request::Find { key }) => Response::Found {
                contacts: if pick == 2 { self.gang.invented(key) } else { self.accomplices(place, key) },
            },
            (Malice::Liar, Request::Locate { chunks }) => {
                Response::Located(self.false_holders(place, chunks, pick == 2))
            }
            (Malice::Poison | Malice::Liar, Request::Fetch(fetch)) => match pick {
                0 => return None,
                1 => Response::Refused(Refusal::Busy),
                2 => {
                    self.garbage(place, from, call, fetch.clone());
                    return None;
                }
                _ => {
                    let holders = self.accomplices(place, &Key::from(fetch.chunk));
                    let holders = holders.into_iter().take(8).collect();
                    Response::Referral { holders, closer: Vec::new(), demand: Demand::default() }
                }
            },
            _ => return Some(request),
        };
        if self.encodes() {
            let bytes = answer.to_bytes();
            if bytes.len() > MESSAGE_BYTES_MAX || Response::from_bytes(&bytes).as_ref() != Ok(&answer) {
                self.checker.fail(self.now, place, format!("attacks with what cannot be read: {answer:?}"));
            }
        }
        let wait = self.delay(place, from);
        self.at(wait, Event::Reply(from, call, Box::new(Ok(Answer::Message(answer)))));
        None
    }

    /// The accomplices closest to a key, but for the one that tells of them.
    fn accomplices(&self, place: usize, key: &Key) -> Vec<Contact> {
        let others = self.gang.closest(key).into_iter().filter(|other| *other != place);
        others.filter_map(|other| self.contact(other)).collect()
    }

    /// "I have it all, and so have these": accomplices, or nobody at all.
    fn false_holders(&self, place: usize, chunks: &[ChunkId], made_up: bool) -> Located {
        let mut located = Located { held: vec![0xff; chunks.len().div_ceil(8)], ..Located::default() };
        if let Some(byte) = located.held.last_mut().filter(|_| !chunks.len().is_multiple_of(8)) {
            *byte = (1 << (chunks.len() % 8)) - 1;
        }
        let Some(key) = chunks.first().map(|chunk| Key::from(*chunk)) else { return located };
        located.closer = if made_up { self.gang.invented(&key) } else { self.accomplices(place, &key) };
        located.contacts = located.closer.iter().take(8).cloned().collect();
        let contacts = located.contacts.len() as u8;
        let asked = chunks.iter().take(IDS_MAX).enumerate();
        located.providers = asked.flat_map(|(index, _)| (0..contacts).map(move |at| (index as u16, at))).collect();
        located
    }

    /// Sends false slices: with the true outline, with one that fits them, or of another length. What the asker does with them the real checks say.
    fn garbage(&mut self, place: usize, from: usize, call: CallId, fetch: Fetch) {
        let known = self.gang.outlines.get(&fetch.chunk).cloned();
        let len = self.lens.get(&fetch.chunk).copied().unwrap_or(SLICE_BYTES as u32);
        let kind = self.random.below(3);
        let claimed = if kind == 2 { len / 2 + 1 } else { len };
        let mut body = vec![0; claimed as usize];
        for part in body.chunks_mut(32) {
            part.copy_from_slice(&self.random.bytes32()[..part.len()]);
        }
        let (_, made) = Outline::of(&body);
        // Who did not ask for an outline holds the slices against the one that it has.
        let shown = if fetch.outline && kind != 0 { Some(made) } else { known };
        let asked = fetch.slices.mask() & SliceRange::whole(claimed).mask();
        let accepted =
            shown.filter(|outline| outline.len == claimed && outline.verify(&fetch.chunk)).is_some_and(|outline| {
                let slice = |index: u8| {
                    let span = SliceRange { first: index, count: 1 }.bytes(claimed);
                    body.get(span.start as usize..span.end as usize).unwrap_or_default()
                };
                let mut indices = (0..64u8).filter(|index| asked >> index & 1 == 1);
                asked != 0 && indices.all(|index| outline.check_slice(&fetch.chunk, index, slice(index)))
            });
        self.checker.tally.false_answers += 1;
        self.checker.tally.false_accepted += u64::from(accepted);
        // The first slice gives it away.
        let (Some(sender), Some(taker)) = (self.members.get(place), self.members.get(from)) else { return };
        let took = Duration::from_micros(SLICE_BYTES as u64 * 1_000_000 / sender.line.up.min(taker.line.down).max(1));
        let wait = took + self.delay(place, from);
        self.fails(wait, from, call, CallFailure::False("a slice that does not match its outline"));
    }
}

/// All of an offer accepted.
fn all(host: &Host) -> Vec<u8> {
    let count = host.chunks.len();
    let mut accepted = vec![0; count.div_ceil(8)];
    for index in 0..count {
        if let Some(byte) = accepted.get_mut(index / 8) {
            *byte |= 1 << (index % 8);
        }
    }
    accepted
}
