//! The keeper in the machine: proofs, searches and renewals become calls, what must be made good is fetched, rebuilt and placed anew.

use super::Node;
use super::calls::Purpose;
use super::effect::Effect;
use super::hosting::OWN_WANT;
use crate::base::amount::Msat;
use crate::base::digest::ChunkId;
use crate::base::limit::SLICE_BYTES;
use crate::base::peer::{Contact, PeerId};
use crate::base::range::SliceRange;
use crate::base::time::Instant;
use crate::fetch::want::{Urgency, Want, WantId};
use crate::ledger::rent::{Dues, Rent, Reserve};
use crate::publish::job::{JobId, Progress, Publish};
use crate::publish::kept::Kept;
use crate::publish::{CheckId, KeeperAction, Proof, RenewalId, TendId};
use crate::wire::call::Answer;
use crate::wire::message::{CallFailure, Fetch, Host, Request, Response};
use std::collections::BTreeMap;
use std::time::Duration;

/// Jobs of the keeper's own have this bit.
const OWN_JOB: u64 = 1 << 63;
/// Searches of the keeper's own have this bit beside `OWN_WANT`.
const OWN_SEARCH: u64 = 1 << 62;
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
const SEARCH_TIMEOUT: Duration = Duration::from_secs(15);
const RENEW_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the shards may take that a lost one is made of.
const GATHER_TIMEOUT: Duration = Duration::from_secs(300);
const ADDRESSES_MAX: usize = 1024;

/// Groups that are made good.
#[derive(Debug, Default)]
pub(crate) struct Mending {
    groups: BTreeMap<TendId, Mend>,
    wants: BTreeMap<WantId, TendId>,
    next: u64,
    /// Where peers were found that searches named.
    addresses: BTreeMap<PeerId, Contact>,
    /// What hosts may charge, and what of that is set aside for proofs that are asked for.
    pub(super) dues: Dues,
    reserves: BTreeMap<CheckId, Reserve>,
}

impl Mending {
    /// Whether anything is fetched to make lost shards of.
    pub(super) fn gathers(&self) -> bool {
        !self.wants.is_empty()
    }
}

#[derive(Debug)]
struct Mend {
    kept: Kept,
    hosts: Vec<Vec<PeerId>>,
    /// Shards that are neither here nor with anybody who may be counted on.
    lost: Vec<u8>,
}

impl Node {
    /// Seconds of Unix time, by the clock that the machine was started with.
    pub(super) fn unix(&self, now: Instant) -> u64 {
        self.config.unix.saturating_add(now.0 / 1_000_000)
    }

    /// Carries out what the keeper wants. Returns whether there was something.
    pub(super) fn poll_keeper(&mut self, now: Instant) -> bool {
        let (mut moved, unix) = (false, self.unix(now));
        for tend in self.keeper.late(now) {
            moved = true;
            self.end_mend(now, tend);
        }
        while let Some(action) = self.keeper.poll(now, unix, &mut self.random) {
            moved = true;
            match action {
                KeeperAction::Page { after, max } => self.effects.push_back(Effect::ReadKept { after, max }),
                KeeperAction::Check { check, peer, chunk, len, slice, kept } => {
                    let rent = Rent::of(u64::from(len), self.config.credit.host_price_max, kept);
                    let reserve = self.mending.dues.reserve(&peer, rent);
                    self.mending.reserves.insert(check, reserve);
                    self.check(now, check, peer, chunk, len, slice);
                }
                KeeperAction::Search { tend, chunks, thorough } => {
                    if thorough {
                        self.peers.try_again(now);
                    }
                    let want = WantId(OWN_WANT | OWN_SEARCH | tend.0);
                    self.searches.want_holders(want, chunks, now.after(SEARCH_TIMEOUT), thorough);
                }
                KeeperAction::Renew { renewal, peer, chunks, lease } => {
                    let contact = self.peers.contact(&peer);
                    let request = Request::Host(Host { chunks, lease, price: self.config.credit.host_price_max });
                    self.call(now, contact, request, RENEW_TIMEOUT, Purpose::Renew(renewal));
                }
                KeeperAction::Mend { tend, kept, hosts } => self.mend(now, tend, kept, hosts),
                KeeperAction::Write { key, kept } => self.effects.push_back(Effect::WriteKept { key, kept }),
                KeeperAction::Call(peer) if !self.peers.is_linked(&peer) => self.probe(now, peer),
                KeeperAction::Call(_) => {}
                KeeperAction::Away { peer, away } => self.effects.push_back(Effect::Away { peer, away }),
                KeeperAction::Done { errand, kept } => self.effects.push_back(Effect::Tended { errand, kept }),
            }
        }
        moved
    }

    fn check(&mut self, now: Instant, check: CheckId, peer: PeerId, chunk: ChunkId, chunk_len: u32, slice: u8) {
        let call = self.calls.open(peer, Purpose::Check(check));
        let found = self.mending.addresses.get(&peer).cloned();
        let to = self.peers.merged(found.unwrap_or(Contact { peer, addrs: Vec::new() }));
        if !self.peers.may_call(now, &to) {
            self.stillborn.push_back((call, CallFailure::Cancelled));
            return;
        }
        if self.peers.is_linked(&peer) {
            self.open_account(peer);
        }
        let slices = SliceRange { first: slice, count: 1 };
        let rent = self.mending.reserves.get(&check).map_or(Msat::ZERO, Reserve::amount);
        let ceiling = self.config.credit.price_max.of(SLICE_BYTES as u64).saturating_add(rent);
        // Of what is here its outline is, too.
        let fetch = Fetch { chunk, slices, outline: !self.announcer.holds(&chunk), ceiling };
        self.effects.push_back(Effect::Check { call, to, fetch, chunk_len, deadline: now.after(CHECK_TIMEOUT) });
    }

    /// A proof was given, or not.
    pub(super) fn check_answered(
        &mut self,
        now: Instant,
        check: CheckId,
        peer: PeerId,
        result: Result<Answer, CallFailure>,
    ) {
        let mut charged = None;
        let proof = match &result {
            Ok(Answer::Fetched { header, bytes }) => {
                self.credit.ledger.received(now, peer, *bytes, header.charge);
                let price = self.peers.get(&peer).and_then(|peer| peer.price).unwrap_or(self.config.credit.price_max);
                charged = Some(header.charge.over(price.of(SLICE_BYTES as u64)));
                Proof::Given
            }
            Ok(Answer::Message(Response::Referral { .. })) => Proof::Gone,
            Ok(Answer::Message(Response::Refused(_))) | Err(CallFailure::Refused(_) | CallFailure::Store) => {
                Proof::Unsure
            }
            Ok(_) | Err(CallFailure::False(_)) => Proof::Gone,
            // Without any link it is we who are cut off.
            Err(_) if self.peers.linked().next().is_none() => Proof::Unsure,
            Err(_) => Proof::Silent,
        };
        if let Some(reserve) = self.mending.reserves.remove(&check) {
            self.mending.dues.settle(peer, reserve, charged);
        }
        self.account_rests(peer);
        let failure = match result {
            Ok(Answer::Message(Response::Refused(refusal))) => Some(CallFailure::Refused(refusal)),
            Ok(Answer::Message(Response::Referral { .. }) | Answer::Fetched { .. }) => None,
            Ok(_) => Some(CallFailure::False("answered a fetch with something else")),
            Err(failure) => Some(failure),
        };
        self.judge(now, peer, failure.as_ref());
        let unix = self.unix(now);
        self.keeper.checked(now, unix, check, proof);
    }

    /// A search of the keeper's ended; `false` when it was somebody else's.
    pub(super) fn kept_located(&mut self, now: Instant, want: WantId, holders: &[(ChunkId, Vec<Contact>)]) -> bool {
        if want.0 & OWN_WANT == 0 {
            return false;
        }
        let tend = TendId(want.0 & !(OWN_WANT | OWN_SEARCH));
        let mut found = Vec::with_capacity(holders.len());
        for (chunk, contacts) in holders {
            // Where they are is remembered, so that they can be asked.
            for contact in contacts {
                if self.mending.addresses.len() >= ADDRESSES_MAX {
                    self.mending.addresses.pop_first();
                }
                self.mending.addresses.insert(contact.peer, contact.clone());
            }
            let mut peers: Vec<PeerId> = contacts.iter().map(|contact| contact.peer).collect();
            peers.sort_by_key(|peer| (!self.peers.is_linked(peer), self.peers.is_doubtful(peer)));
            found.push((*chunk, peers));
        }
        let unix = self.unix(now);
        self.keeper.found(now, unix, tend, &found);
        true
    }

    /// A renewal ended.
    pub(super) fn renewal_answered(
        &mut self,
        now: Instant,
        renewal: RenewalId,
        peer: PeerId,
        result: Result<Response, CallFailure>,
    ) {
        self.offer_priced(peer, &result);
        let unix = self.unix(now);
        match result {
            Ok(Response::Hosting { accepted }) => self.keeper.renewed(now, unix, renewal, Some(&accepted)),
            _ => self.keeper.renewed(now, unix, renewal, None),
        }
    }

    /// Makes good what a group lacks.
    fn mend(&mut self, now: Instant, tend: TendId, kept: Kept, hosts: Vec<Vec<PeerId>>) {
        let unix = self.unix(now);
        if kept.chunks.first().is_some_and(|(first, _)| self.publisher.is_placing(first)) {
            // It is still being published: there the place is given to another.
            for ((chunk, _), (holders, hosts)) in kept.chunks.iter().zip(kept.holders.iter().zip(&hosts)) {
                for holder in holders.iter().filter(|holder| !hosts.contains(&holder.peer)) {
                    self.publisher.lost(now, chunk, &holder.peer);
                }
            }
            return self.keeper.mended(unix, tend);
        }
        let lacks = |index: usize| hosts.get(index).is_none_or(|hosts| hosts.len() < usize::from(kept.copies));
        let here = |index: usize| kept.chunks.get(index).is_some_and(|(chunk, _)| self.announcer.holds(chunk));
        let lost: Vec<u8> =
            (0..kept.chunks.len()).filter(|index| lacks(*index) && !here(*index)).map(|index| index as u8).collect();
        let whole = SliceRange::whole(kept.chunks.first().map_or(0, |(_, len)| *len));
        let each = |held: bool| (0..kept.chunks.len()).filter(move |index| here(*index) == held);
        let needs: Vec<(u8, SliceRange)> =
            each(false).filter(|index| *index < usize::from(kept.data)).map(|index| (index as u8, whole)).collect();
        let left = (0..kept.chunks.len()).filter(|index| here(*index) || !hosts.get(*index).is_none_or(Vec::is_empty));
        if !lost.is_empty() && left.count() < usize::from(kept.data) {
            // Nothing is made of too few.
            return self.keeper.mended(unix, tend);
        }
        if lost.is_empty() || needs.is_empty() {
            let mend = Mend { kept, hosts, lost };
            let rebuild = !mend.lost.is_empty();
            self.mending.groups.insert(tend, mend);
            return if rebuild { self.rebuild(tend) } else { self.place_anew(now, tend) };
        }
        let have = each(true).map(|index| (index as u8, whole)).collect();
        let others = hosts.iter().flatten().filter(|peer| **peer != self.me);
        let likely = others.map(|peer| self.peers.contact(peer)).collect();
        self.mending.next += 1;
        let id = WantId(OWN_WANT | OWN_SEARCH | self.mending.next);
        let want = Want {
            id,
            chunks: kept.chunks.iter().map(|(chunk, _)| *chunk).collect(),
            data: kept.data,
            chunk_len: kept.chunks.first().map_or(0, |(_, len)| *len),
            needs,
            have,
            urgency: Urgency::Bulk,
            deadline: now.after(GATHER_TIMEOUT),
            likely,
        };
        let bytes = kept.chunks.iter().take(usize::from(kept.data)).map(|(_, len)| u64::from(*len)).sum();
        self.keeper.spent(bytes);
        self.mending.groups.insert(tend, Mend { kept, hosts, lost });
        self.mending.wants.insert(id, tend);
        self.fetch.want(now, want);
    }

    /// What a lost shard is made of is here, or is not to be had; `false` when the want was not the keeper's.
    pub(super) fn gathered(&mut self, now: Instant, want: WantId, well: bool) -> bool {
        let Some(tend) = self.mending.wants.remove(&want) else { return false };
        if well {
            self.rebuild(tend)
        } else {
            self.end_mend(now, tend)
        }
        true
    }

    fn rebuild(&mut self, tend: TendId) {
        let Some(mend) = self.mending.groups.get(&tend) else { return };
        let chunks: Vec<ChunkId> = mend.kept.chunks.iter().map(|(chunk, _)| *chunk).collect();
        let chunk_len = mend.kept.chunks.first().map_or(0, |(_, len)| *len);
        let (data, lost) = (mend.kept.data, mend.lost.clone());
        self.effects.push_back(Effect::Rebuild { tend, chunks, data, chunk_len, lost });
    }

    /// The end of an `Effect::Rebuild`.
    pub(super) fn rebuilt(&mut self, now: Instant, tend: TendId, well: bool) {
        if well { self.place_anew(now, tend) } else { self.end_mend(now, tend) }
    }

    fn place_anew(&mut self, now: Instant, tend: TendId) {
        let Some(mend) = self.mending.groups.get(&tend) else { return };
        let lease = self.keeper.config().lease;
        let publish = Publish { job: JobId(OWN_JOB | tend.0), groups: vec![mend.kept.group()], lease };
        let hosts = vec![mend.hosts.clone()];
        self.publisher.publish_anew(now, &publish, &hosts);
        self.wake_housekeeping(now);
    }

    /// A chunk has a new host, by its own word.
    pub(super) fn placed(&mut self, now: Instant, job: JobId, group: ChunkId, chunk: ChunkId, peer: PeerId) {
        self.keeper.holds(peer);
        let unix = self.unix(now);
        if job.0 & OWN_JOB != 0 {
            self.keeper.placed(now, unix, TendId(job.0 & !OWN_JOB), &chunk, peer);
        } else {
            self.effects.push_back(Effect::Placed { job, group, chunk, peer });
        }
    }

    /// A job moved on; `false` when it is not one of the keeper's.
    pub(super) fn mend_progress(&mut self, now: Instant, job: JobId, progress: &Progress) -> bool {
        if job.0 & OWN_JOB == 0 {
            return false;
        }
        if progress.hosted >= progress.wanted {
            self.end_mend(now, TendId(job.0 & !OWN_JOB));
        }
        true
    }

    fn end_mend(&mut self, now: Instant, tend: TendId) {
        self.mending.groups.remove(&tend);
        let wants: Vec<WantId> =
            self.mending.wants.iter().filter(|(_, of)| **of == tend).map(|(want, _)| *want).collect();
        for want in wants {
            self.mending.wants.remove(&want);
            self.fetch.unwant(now, want);
        }
        self.publisher.unpublish(JobId(OWN_JOB | tend.0));
        let unix = self.unix(now);
        self.keeper.mended(unix, tend);
    }
}
