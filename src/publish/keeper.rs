//! The keeper: goes through all groups that are looked after, has their holders prove what they hold, renews leases, and says what must be
//! made good. The records lie on disk, so however many there are, a page of them at a time is in memory.

mod action;

pub use action::{CheckId, ErrandId, KeeperAction, KeeperConfig, KeeperStats, Proof, RenewalId, Row, TendId};

use super::kept::{HASTE, Kept};
use super::presence::Presence;
use crate::base::digest::ChunkId;
use crate::base::limit::IDS_MAX;
use crate::base::peer::PeerId;
use crate::base::random::Random;
use crate::base::range::slice_count;
use crate::base::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Records in one page.
const PAGE: usize = 64;
/// Groups that are being made good at once.
const MENDING_MAX: usize = 64;
/// How long one may take.
const MEND_TIMEOUT: Duration = Duration::from_secs(900);
/// The same where the user waits: when nothing moves for so long, it is as good as it gets.
const MEND_QUIET: Duration = Duration::from_secs(60);
/// Proofs asked for at once, and of one peer.
const CHECKS_MAX: usize = 32;
const PER_PEER_MAX: usize = 4;
/// Searches at once.
const SEARCHES_MAX: usize = 16;
/// Groups remembered for which hosts were sought.
const RESTING_MAX: usize = 65_536;
/// What a proof costs on the line, about: a slice, an outline, headers.
const CHECK_BYTES: u64 = 20 << 10;
/// Passes follow each other after this part of the period, but neither more often nor more seldom than these.
const PAUSES: u32 = 16;
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// The first pass after a start comes no later than this: then it is known whom to miss.
const FIRST_MAX: Duration = Duration::from_secs(30);
/// A pass that is brought forward follows the one before after so many times as long as that took.
const REST: u32 = 4;

#[derive(Debug)]
enum Origin {
    Row(Vec<u8>),
    Errand(ErrandId, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Holders on record are asked.
    Known,
    /// Others are looked for.
    Searching,
    /// These are asked.
    Found,
    /// What is missing is made good.
    Mending,
}

#[derive(Debug)]
struct Tend {
    origin: Origin,
    kept: Kept,
    stage: Stage,
    repair: bool,
    /// Proofs and renewals that are waited for.
    open: usize,
    /// For each chunk, who else may hold it.
    candidates: Vec<VecDeque<PeerId>>,
    changed: bool,
    /// Where some hold several chunks of the group and others are in reach, these get some.
    spread: bool,
    /// It is still being published: whoever fails is replaced there.
    placing: bool,
    /// A holder on record gave nothing.
    failed: bool,
    /// Who was silent is asked once more, for it seems lost.
    again: bool,
    until: Instant,
}

#[derive(Debug)]
struct Errand {
    left: usize,
    kept: Vec<Kept>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paging {
    /// Until the next pass.
    Rest,
    /// More is to be asked for.
    More,
    /// Asked for.
    Asked,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    tend: TendId,
    index: usize,
    peer: PeerId,
}

/// Looks after everything that is on record.
#[derive(Debug)]
pub struct Keeper {
    config: KeeperConfig,
    me: PeerId,
    tends: BTreeMap<TendId, Tend>,
    errands: BTreeMap<ErrandId, Errand>,
    next: u64,
    /// Proofs to ask for: of errands, and of the schedule, which keeps within the rate.
    urgent: VecDeque<Place>,
    queue: VecDeque<Place>,
    checks: BTreeMap<CheckId, Place>,
    per_peer: BTreeMap<PeerId, usize>,
    to_search: VecDeque<(TendId, Vec<ChunkId>, bool)>,
    searching: usize,
    to_renew: BTreeMap<PeerId, Vec<Place>>,
    renewals: BTreeMap<RenewalId, Vec<Place>>,
    after: Option<Vec<u8>>,
    paging: Paging,
    /// Groups for which hosts were sought lately.
    resting: BTreeMap<Vec<u8>, Instant>,
    pass_at: Instant,
    /// A pass is wanted before that; not before `rest_until`.
    haste_at: Option<Instant>,
    rest_until: Instant,
    began_at: Instant,
    /// When something last came or was placed for a group that is made good.
    moved_at: Instant,
    presence: Presence,
    /// Hosts in reach.
    reach: usize,
    /// Bytes that may be spent, and as of when.
    budget: u64,
    budget_at: Instant,
    actions: VecDeque<KeeperAction>,
    stats: KeeperStats,
}

impl Keeper {
    /// Of the node `me`; the first pass comes after a while, when links are up.
    pub fn new(config: KeeperConfig, me: PeerId) -> Keeper {
        let pass_at = Instant::default().after(pause(&config).min(FIRST_MAX));
        Keeper {
            budget: burst(&config),
            config,
            me,
            tends: BTreeMap::new(),
            errands: BTreeMap::new(),
            next: 0,
            urgent: VecDeque::new(),
            queue: VecDeque::new(),
            checks: BTreeMap::new(),
            per_peer: BTreeMap::new(),
            to_search: VecDeque::new(),
            searching: 0,
            to_renew: BTreeMap::new(),
            renewals: BTreeMap::new(),
            after: None,
            paging: Paging::Rest,
            resting: BTreeMap::new(),
            pass_at,
            haste_at: None,
            rest_until: Instant::default(),
            began_at: Instant::default(),
            moved_at: Instant::default(),
            presence: Presence::default(),
            reach: 0,
            budget_at: Instant::default(),
            actions: VecDeque::new(),
            stats: KeeperStats::default(),
        }
    }

    /// The period, patience and lease in force.
    pub fn config(&self) -> &KeeperConfig {
        &self.config
    }

    /// Counts of the moment.
    pub fn stats(&self) -> KeeperStats {
        let mending = self.tends.values().filter(|tend| tend.stage == Stage::Mending).count();
        KeeperStats { tends: self.tends.len(), mending, ..self.stats }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A page of records; `end` tells that there are no others after it, `reach` how many hosts are in reach.
    pub fn page(&mut self, now: Instant, unix: u64, rows: Vec<Row>, end: bool, reach: usize) {
        self.reach = reach;
        if self.paging != Paging::Asked {
            return;
        }
        self.paging = Paging::More;
        if let Some(row) = rows.last() {
            self.after = Some(row.key.clone());
        }
        if end {
            self.paging = Paging::Rest;
            self.after = None;
            self.stats.passes += 1;
            self.pass_at = now.after(pause(&self.config));
            let took = now.since(self.began_at);
            self.rest_until = now.after((took * REST).min(pause(&self.config)));
        }
        self.resting.retain(|_, until| *until > now);
        for Row { key, kept, placing } in rows {
            // Still being made good since the pass before.
            let busy = self.tends.values().any(|tend| matches!(&tend.origin, Origin::Row(other) if *other == key));
            if !busy {
                self.begin(now, unix, Origin::Row(key), kept, true, placing);
            }
        }
    }

    /// A peer is on record as a holder. Returns whether that was not known.
    pub fn holds(&mut self, peer: PeerId) -> bool {
        self.presence.holds(peer)
    }

    /// Whether a peer is on record as a holder of anything.
    pub fn counts_on(&self, peer: &PeerId) -> bool {
        self.presence.is_holder(peer)
    }

    /// No link to a peer is open.
    pub fn unlinked(&mut self, now: Instant, peer: PeerId) {
        self.presence.unlinked(now, peer);
    }

    /// A peer could not be reached.
    pub fn unreachable(&mut self, now: Instant, peer: PeerId) {
        if self.presence.unreachable(now, peer) && self.presence.is_holder(&peer) {
            hasten(&mut self.haste_at, now.after(HASTE));
        }
    }

    /// A peer answered, or a link to it is open.
    pub fn heard(&mut self, now: Instant, peer: &PeerId) {
        if self.presence.heard(peer) && self.presence.is_holder(peer) {
            // What is on record as silent proves anew.
            hasten(&mut self.haste_at, now.after(HASTE));
        }
    }

    fn begin_at(&self) -> Instant {
        self.haste_at.map_or(self.pass_at, |at| at.max(self.rest_until).min(self.pass_at))
    }

    /// The user wants these groups looked at now, and made good where `repair` says so.
    pub fn errand(&mut self, now: Instant, unix: u64, errand: ErrandId, groups: Vec<Kept>, repair: bool) {
        if groups.is_empty() {
            self.actions.push_back(KeeperAction::Done { errand, kept: groups });
            return;
        }
        self.errands.insert(errand, Errand { left: groups.len(), kept: groups.clone() });
        for (place, kept) in groups.into_iter().enumerate() {
            self.begin(now, unix, Origin::Errand(errand, place), kept, repair, false);
        }
    }

    fn begin(&mut self, now: Instant, unix: u64, origin: Origin, mut kept: Kept, repair: bool, placing: bool) {
        let tend = TendId(self.id());
        let (period, all) = (self.config.period.as_secs(), matches!(origin, Origin::Errand(..)));
        let before = kept.clone();
        let failed = !all && self.strike(now, unix, &mut kept);
        let mut due = Vec::new();
        for (index, holders) in kept.holders.iter().enumerate() {
            let old = holders.iter().filter(|h| all || h.silent > 0 || unix.saturating_sub(h.proved) >= period);
            // To ask who is away tells nothing: it is called now and then.
            let old = old.filter(|h| all || h.silent == 0 || self.presence.away(&h.peer).is_none());
            let old = old.filter(|holder| holder.peer != self.me);
            due.extend(old.map(|holder| Place { tend, index, peer: holder.peer }));
        }
        let candidates = vec![VecDeque::new(); kept.chunks.len()];
        let until = now.after(MEND_TIMEOUT);
        let spread = !all && !due.is_empty();
        let changed = kept != before;
        let state = Tend {
            origin,
            kept,
            stage: Stage::Known,
            repair,
            open: due.len(),
            candidates,
            changed,
            spread,
            placing,
            failed,
            again: false,
            until,
        };
        self.tends.insert(tend, state);
        let queue = if all { &mut self.urgent } else { &mut self.queue };
        queue.extend(due);
        self.go_on(now, unix, tend);
    }

    /// Takes down who of the holders is away; whether any is. Without any host in reach it is we who are cut off.
    fn strike(&self, now: Instant, unix: u64, kept: &mut Kept) -> bool {
        let mut struck = false;
        for index in 0..kept.holders.len() {
            let holders = kept.holders.get(index).into_iter().flatten();
            let away = holders.filter_map(|holder| Some((holder.peer, self.presence.away(&holder.peer)?)));
            for (peer, since) in away.collect::<Vec<_>>() {
                if self.reach > 0 {
                    let since = unix.saturating_sub(now.since(since).as_secs());
                    kept.failed(index, &peer, since, false);
                    struck = true;
                }
            }
        }
        struck
    }

    /// What comes after a stage, once nothing of it is waited for.
    fn go_on(&mut self, now: Instant, unix: u64, id: TendId) {
        let patience = self.config.patience.as_secs();
        let Some(tend) = self.tends.get_mut(&id) else { return };
        if tend.open > 0 {
            return;
        }
        let errand = matches!(tend.origin, Origin::Errand(..));
        let hosts = tend.kept.hosts();
        let spread = tend.spread && hosts < tend.kept.wanted() && usize::from(hosts) < self.reach;
        let standing = tend.kept.standing(unix, patience, spread);
        let copies = usize::from(tend.kept.copies);
        let gap = |index: usize| standing.get(index).is_none_or(|hosts| hosts.len() < copies);
        let lacking: Vec<usize> = (0..tend.kept.chunks.len()).filter(|index| gap(*index)).collect();
        match tend.stage {
            Stage::Known => {
                // What the user asks is to be known now, not what may be hoped for.
                let silent = |index: &usize| {
                    let holders = tend.kept.holders.get(*index).into_iter().flatten();
                    holders.filter(|holder| holder.silent == 0).count() < copies
                };
                let sought: Vec<usize> =
                    if errand { (0..tend.kept.chunks.len()).filter(silent).collect() } else { lacking };
                if !errand && tend.kept.is_waiting(unix, patience) {
                    let soon = now.after(HASTE.min(self.config.patience));
                    hasten(&mut self.haste_at, soon);
                }
                let resting = matches!(&tend.origin, Origin::Row(key) if self.resting.contains_key(key));
                if sought.is_empty() || tend.placing && !tend.failed || resting && !tend.failed {
                    return self.end(id);
                }
                if tend.placing {
                    tend.stage = Stage::Mending;
                    tend.until = now.after(MEND_TIMEOUT);
                    let kept = tend.kept.clone();
                    self.actions.push_back(KeeperAction::Mend { tend: id, kept, hosts: standing });
                    return;
                }
                if let Origin::Row(key) = &tend.origin
                    && self.resting.len() < RESTING_MAX
                {
                    // Who found too few hosts for it does not look for more all the time.
                    self.resting.insert(key.clone(), now.after(self.config.period / 2));
                }
                tend.stage = Stage::Searching;
                let chunks = sought.iter().filter_map(|index| tend.kept.chunks.get(*index)).map(|(id, _)| *id);
                self.to_search.push_back((id, chunks.collect(), false));
            }
            Stage::Searching => {}
            // Nobody's silence says that it is lost.
            Stage::Found if errand && !tend.again && tend.kept.shards() < usize::from(tend.kept.data.max(1)) => {
                tend.again = true;
                tend.stage = Stage::Searching;
                let chunks = lacking.iter().filter_map(|index| tend.kept.chunks.get(*index)).map(|(id, _)| *id);
                self.to_search.push_back((id, chunks.collect(), true));
            }
            Stage::Found if tend.repair && !lacking.is_empty() => {
                tend.stage = Stage::Mending;
                tend.until = now.after(MEND_TIMEOUT);
                self.moved_at = now;
                let kept = tend.kept.clone();
                self.actions.push_back(KeeperAction::Mend { tend: id, kept, hosts: standing });
            }
            Stage::Found => self.end(id),
            Stage::Mending => {}
        }
    }

    fn end(&mut self, id: TendId) {
        let Some(tend) = self.tends.remove(&id) else { return };
        match tend.origin {
            Origin::Row(key) if tend.changed => self.actions.push_back(KeeperAction::Write { key, kept: tend.kept }),
            Origin::Row(_) => {}
            Origin::Errand(errand, place) => {
                let Some(state) = self.errands.get_mut(&errand) else { return };
                if let Some(kept) = state.kept.get_mut(place) {
                    *kept = tend.kept;
                }
                state.left = state.left.saturating_sub(1);
                if state.left == 0
                    && let Some(state) = self.errands.remove(&errand)
                {
                    self.actions.push_back(KeeperAction::Done { errand, kept: state.kept });
                }
            }
        }
    }

    /// A proof was given or not.
    pub fn checked(&mut self, now: Instant, unix: u64, check: CheckId, proof: Proof) {
        let Some(place) = self.checks.remove(&check) else { return };
        if let Some(count) = self.per_peer.get_mut(&place.peer) {
            *count -= 1;
            if *count == 0 {
                self.per_peer.remove(&place.peer);
            }
        }
        let half = u64::from(self.config.lease / 2);
        let Some(tend) = self.tends.get_mut(&place.tend) else { return };
        tend.open -= 1;
        let Place { index, peer, .. } = place;
        let mut next = None;
        match proof {
            Proof::Given => {
                self.stats.proofs += 1;
                tend.changed = true;
                tend.kept.proved(index, peer, unix, None);
                let holder = tend.kept.holders.get(index).into_iter().flatten().find(|holder| holder.peer == peer);
                let ends = holder.is_some_and(|holder| holder.until < unix.saturating_add(half));
                if ends && tend.repair {
                    tend.open += 1;
                    self.to_renew.entry(peer).or_default().push(place);
                }
            }
            Proof::Gone | Proof::Silent => {
                self.stats.failures += 1;
                tend.changed = true;
                tend.failed = true;
                tend.kept.failed(index, &peer, unix, proof == Proof::Gone);
                next = tend.candidates.get_mut(index).and_then(VecDeque::pop_front);
            }
            Proof::Unsure => next = tend.candidates.get_mut(index).and_then(VecDeque::pop_front),
        }
        if let Some(peer) = next {
            tend.open += 1;
            self.ask(Place { peer, ..place });
        }
        self.go_on(now, unix, place.tend);
    }

    fn ask(&mut self, place: Place) {
        let errand = |tend: &Tend| matches!(tend.origin, Origin::Errand(..));
        let urgent = self.tends.get(&place.tend).is_some_and(errand);
        let queue = if urgent { &mut self.urgent } else { &mut self.queue };
        queue.push_back(place);
    }

    /// A search ended: who says that it holds which chunk, those first who are likely to answer.
    pub fn found(&mut self, now: Instant, unix: u64, id: TendId, holders: &[(ChunkId, Vec<PeerId>)]) {
        let Some(tend) = self.tends.get_mut(&id).filter(|tend| tend.stage == Stage::Searching) else { return };
        self.searching -= 1;
        tend.stage = Stage::Found;
        let copies = usize::from(tend.kept.copies);
        let mut places = Vec::new();
        for (index, (chunk, _)) in tend.kept.chunks.iter().enumerate() {
            let known = tend.kept.holders.get(index);
            let good = |peer: &PeerId| known.into_iter().flatten().any(|h| h.peer == *peer && h.silent == 0);
            let count = known.into_iter().flatten().filter(|holder| holder.silent == 0).count();
            let of_chunk = holders.iter().filter(|(id, _)| id == chunk).flat_map(|(_, peers)| peers);
            // Who is away keeps the others waiting: asked only where it seems lost without him.
            let here = |peer: &PeerId| tend.again || self.presence.away(peer).is_none();
            let mut others: VecDeque<PeerId> = VecDeque::new();
            for peer in of_chunk.filter(|peer| **peer != self.me && !good(peer) && here(peer)) {
                if !others.contains(peer) {
                    others.push_back(*peer);
                }
            }
            for _ in count..copies {
                if let Some(peer) = others.pop_front() {
                    places.push(Place { tend: id, index, peer });
                }
            }
            if let Some(candidates) = tend.candidates.get_mut(index) {
                *candidates = others;
            }
        }
        tend.open += places.len();
        places.into_iter().for_each(|place| self.ask(place));
        self.go_on(now, unix, id);
    }

    /// An answer to a renewal: bit i set when the peer goes on keeping the i-th chunk.
    pub fn renewed(&mut self, now: Instant, unix: u64, renewal: RenewalId, accepted: Option<&[u8]>) {
        let until = unix.saturating_add(u64::from(self.config.lease));
        for (at, place) in self.renewals.remove(&renewal).unwrap_or_default().into_iter().enumerate() {
            let yes = accepted.and_then(|bits| bits.get(at / 8)).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
            let Some(tend) = self.tends.get_mut(&place.tend) else { continue };
            tend.open -= 1;
            if yes {
                // Of what the user asked for the new holders alone are told by their promise.
                let until = matches!(tend.origin, Origin::Row(_)).then_some(until);
                tend.kept.proved(place.index, place.peer, unix, until);
            }
            self.go_on(now, unix, place.tend);
        }
    }

    /// A chunk of a group that is made good has a new holder.
    pub fn placed(&mut self, now: Instant, unix: u64, id: TendId, chunk: &ChunkId, peer: PeerId) {
        let Some(tend) = self.tends.get_mut(&id) else { return };
        self.moved_at = now;
        let until = unix.saturating_add(u64::from(self.config.lease));
        let index = tend.kept.chunks.iter().position(|(id, _)| id == chunk);
        if let Some(index) = index {
            tend.changed = true;
            tend.kept.proved(index, peer, unix, Some(until));
        }
    }

    /// Nothing more is done for a group, for now.
    pub fn mended(&mut self, unix: u64, id: TendId) {
        if let Some(tend) = self.tends.get_mut(&id) {
            tend.kept.tidy(unix, self.config.patience.as_secs());
            self.end(id);
        }
    }

    /// Groups whose making good takes too long: what is under way for them is to be given up.
    pub fn late(&self, now: Instant) -> Vec<TendId> {
        let late = self.tends.iter().filter(|(_, tend)| self.mend_until(tend).is_some_and(|until| until <= now));
        late.map(|(id, _)| *id).collect()
    }

    fn mend_until(&self, tend: &Tend) -> Option<Instant> {
        let quiet = self.moved_at.after(MEND_QUIET);
        let until = if matches!(tend.origin, Origin::Errand(..)) { tend.until.min(quiet) } else { tend.until };
        (tend.stage == Stage::Mending).then_some(until)
    }

    /// Something came of what lost chunks are made of.
    pub fn moved(&mut self, now: Instant) {
        self.moved_at = now;
    }

    /// Repair moved so many bytes: the next proofs wait for them.
    pub fn spent(&mut self, bytes: u64) {
        self.budget = self.budget.saturating_sub(bytes);
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Instant, unix: u64, random: &mut Random) -> Option<KeeperAction> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if let Some((peer, away)) = self.presence.change() {
            return Some(KeeperAction::Away { peer, away });
        }
        if let Some(peer) = self.presence.call(now) {
            return Some(KeeperAction::Call(peer));
        }
        if self.searching < SEARCHES_MAX
            && let Some((tend, chunks, thorough)) = self.to_search.pop_front()
        {
            self.searching += 1;
            return Some(KeeperAction::Search { tend, chunks, thorough });
        }
        self.refill(now);
        if let Some(action) = self.next_check(unix, random) {
            return Some(action);
        }
        if self.checks.is_empty() && self.queue.is_empty() && self.urgent.is_empty() {
            if let Some((peer, mut places)) = self.to_renew.pop_first() {
                let later = places.split_off(places.len().min(IDS_MAX));
                if !later.is_empty() {
                    self.to_renew.insert(peer, later);
                }
                return Some(self.renew(peer, places));
            }
            return self.next_page(now);
        }
        None
    }

    fn refill(&mut self, now: Instant) {
        let earned = now.since(self.budget_at).as_micros() * u128::from(self.config.rate) / 1_000_000;
        if earned > 0 {
            self.budget = self.budget.saturating_add(earned as u64).min(burst(&self.config));
            self.budget_at = now;
        }
    }

    fn next_check(&mut self, unix: u64, random: &mut Random) -> Option<KeeperAction> {
        if self.checks.len() >= CHECKS_MAX {
            return None;
        }
        let free = |place: &Place| self.per_peer.get(&place.peer).is_none_or(|count| *count < PER_PEER_MAX);
        let place = if let Some(at) = self.urgent.iter().position(free) {
            self.urgent.remove(at)?
        } else {
            let at = self.queue.iter().position(free).filter(|_| self.budget >= CHECK_BYTES)?;
            self.budget -= CHECK_BYTES;
            self.queue.remove(at)?
        };
        let tend = self.tends.get(&place.tend)?;
        let (chunk, len) = tend.kept.chunks.get(place.index).copied()?;
        // What the user asks is not written down, so the next proof in its turn is for the same time.
        let row = matches!(tend.origin, Origin::Row(_));
        let mut holders = tend.kept.holders.get(place.index)?.iter();
        let holder = holders.find(|holder| row && holder.peer == place.peer);
        let kept = holder.map_or(Duration::ZERO, |holder| holder.kept(unix));
        let check = CheckId(self.id());
        *self.per_peer.entry(place.peer).or_default() += 1;
        self.checks.insert(check, place);
        // Not to be foreseen by the holder, or it could keep what it is asked for alone.
        let slice = random.below(u64::from(slice_count(len).max(1))) as u8;
        Some(KeeperAction::Check { check, peer: place.peer, chunk, len, slice, kept })
    }

    fn renew(&mut self, peer: PeerId, places: Vec<Place>) -> KeeperAction {
        let renewal = RenewalId(self.id());
        let chunk = |place: &Place| self.tends.get(&place.tend)?.kept.chunks.get(place.index).copied();
        let (places, chunks): (Vec<Place>, Vec<(ChunkId, u32)>) =
            places.into_iter().filter_map(|place| Some((place, chunk(&place)?))).unzip();
        self.renewals.insert(renewal, places);
        KeeperAction::Renew { renewal, peer, chunks, lease: self.config.lease }
    }

    fn next_page(&mut self, now: Instant) -> Option<KeeperAction> {
        if self.paging == Paging::Rest && self.begin_at() <= now && !self.busy() {
            self.paging = Paging::More;
            self.began_at = now;
            self.haste_at = self.haste_at.filter(|at| *at > now);
        }
        if self.paging != Paging::More || self.busy() {
            return None;
        }
        self.paging = Paging::Asked;
        Some(KeeperAction::Page { after: self.after.clone(), max: PAGE })
    }

    /// Whether groups on record are looked at that are not just waited for, or too many of those.
    fn busy(&self) -> bool {
        let rows = || self.tends.values().filter(|tend| matches!(tend.origin, Origin::Row(_)));
        let mending = rows().filter(|tend| tend.stage == Stage::Mending).count();
        mending >= MENDING_MAX || rows().any(|tend| tend.stage != Stage::Mending)
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let quiet =
            self.checks.is_empty() && self.queue.is_empty() && self.urgent.is_empty() && self.to_renew.is_empty();
        let pass = (self.paging == Paging::Rest && quiet && !self.busy()).then(|| self.begin_at());
        let mend = self.tends.values().filter_map(|tend| self.mend_until(tend)).min();
        let lack = CHECK_BYTES.saturating_sub(self.budget);
        let wait =
            Duration::from_micros((u128::from(lack) * 1_000_000).div_ceil(u128::from(self.config.rate.max(1))) as u64);
        let budget = (!self.queue.is_empty() && lack > 0).then(|| self.budget_at.after(wait));
        [pass, mend, budget, self.presence.poll_timeout()].into_iter().flatten().min()
    }
}

fn hasten(wanted: &mut Option<Instant>, at: Instant) {
    *wanted = Some(wanted.map_or(at, |other| other.min(at)));
}

fn pause(config: &KeeperConfig) -> Duration {
    (config.period / PAUSES).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// Bytes that may be spent at once after a rest.
fn burst(config: &KeeperConfig) -> u64 {
    config.rate.saturating_mul(2).max(4 * CHECK_BYTES)
}

#[cfg(test)]
mod tests;
