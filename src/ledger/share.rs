//! Upload under a limit, shared in proportion to what each peer contributed lately, with a part for those that have not yet: start-time
//! fair queueing (Goyal, Vin, Cheng 1996) in two levels. However many identities share one contribution, or none, they get the same in sum.

use super::contribution::Contribution;
use super::witness::Witnesses;
use crate::base::network::Network;
use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How the upload is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareConfig {
    /// Bytes in a second; `None`: as many as the line carries, and nobody waits.
    pub rate: Option<u64>,
    /// Part of it, in percent, for peers that contributed nothing lately, all of them together, while others want it too.
    pub newcomers_percent: u8,
    /// After so long half of a contribution is forgotten.
    pub half_life: Duration,
}

impl Default for ShareConfig {
    fn default() -> ShareConfig {
        ShareConfig { rate: None, newcomers_percent: 10, half_life: Duration::from_secs(86_400) }
    }
}

/// Names an answer that waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turn(pub u64);

/// One unit of service to a flow of weight 1, in virtual time.
const SCALE: u128 = 1 << 40;
/// What may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(250);
/// Whoever contributed less than this counts as a newcomer: one chunk.
const CONTRIBUTION_MIN: u64 = 1 << 20;
/// Peers whose contributions are kept; those with the least go first.
const PEERS_MAX: usize = 16_384;

/// Who is served as one: a peer, or all newcomers of a network, so that an address that has many names gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Party {
    Peer(PeerId),
    Network(Network),
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    turn: Turn,
    peer: PeerId,
    bytes: u64,
    since: Instant,
}

/// Answers of one party that wait, and how much service it had, in virtual time.
#[derive(Debug, Default)]
struct Flow {
    waiting: VecDeque<Waiting>,
    served: u128,
    newcomer: bool,
}

/// Those with contributions, or those without.
#[derive(Debug, Default)]
struct Class {
    served: u128,
    /// Of the flow that was served last: who comes anew begins here, and cannot save service up.
    now: u128,
    waiting: usize,
    /// Parties for which something waits, by how much service they had.
    ready: BTreeSet<(u128, Party)>,
}

/// Who is sent what next.
#[derive(Debug)]
pub struct Share {
    config: ShareConfig,
    contributions: BTreeMap<PeerId, Contribution>,
    witnesses: Witnesses,
    flows: BTreeMap<Party, Flow>,
    /// For whom something waits: as which party, and how much.
    places: BTreeMap<PeerId, (Party, usize)>,
    /// Contributors, then newcomers.
    classes: [Class; 2],
    now: u128,
    /// Bytes that may be sent now; below zero while what was sent is waited for.
    tokens: i128,
    filled: Instant,
}

fn class_of(newcomer: bool) -> usize {
    usize::from(newcomer)
}

impl Share {
    /// Nobody contributed anything yet.
    pub fn new(config: ShareConfig) -> Share {
        Share {
            config,
            contributions: BTreeMap::new(),
            witnesses: Witnesses::default(),
            flows: BTreeMap::new(),
            places: BTreeMap::new(),
            classes: [Class::default(), Class::default()],
            now: 0,
            tokens: 0,
            filled: Instant::default(),
        }
    }

    /// Another limit from now on.
    pub fn configure(&mut self, config: ShareConfig) {
        self.config = config;
    }

    /// Whether answers have to wait for their turn.
    pub fn binds(&self) -> bool {
        self.config.rate.is_some()
    }

    /// A peer delivered so many bytes to us, or paid for as many.
    pub fn contributed(&mut self, now: Instant, peer: PeerId, bytes: u64) {
        let half_life = self.config.half_life;
        if self.contributions.len() >= PEERS_MAX && !self.contributions.contains_key(&peer) {
            let least =
                self.contributions.iter().min_by_key(|(_, known)| known.left(now, half_life)).map(|(peer, _)| *peer);
            least.and_then(|least| self.contributions.remove(&least));
        }
        self.contributions.entry(peer).or_default().add(now, half_life, bytes);
    }

    /// What a peer contributed lately.
    pub fn contribution(&self, now: Instant, peer: &PeerId) -> u64 {
        self.contributions.get(peer).map_or(0, |known| known.left(now, self.config.half_life))
    }

    /// A peer shows that others acknowledge having received so many bytes of it. Gives how much of that counts newly: in sum no more
    /// than a part of what those others contributed here.
    pub fn witnessed(&mut self, now: Instant, peer: PeerId, shown: &[(PeerId, u64)]) -> u64 {
        let (half_life, contributions) = (self.config.half_life, &self.contributions);
        let gave = |witness: &PeerId| contributions.get(witness).map_or(0, |known| known.left(now, half_life));
        self.witnesses.hear(now, half_life, peer, shown, gave)
    }

    /// What a peer contributed lately, here or to those that did.
    pub fn standing(&self, now: Instant, peer: &PeerId) -> u64 {
        self.contribution(now, peer).saturating_add(self.witnesses.worth(now, self.config.half_life, peer))
    }

    /// An answer of so many bytes wants to be sent to a peer that is seen in this network.
    pub fn ask(&mut self, now: Instant, peer: PeerId, network: Option<Network>, turn: Turn, bytes: u64) {
        let newcomer = self.standing(now, &peer) < CONTRIBUTION_MIN;
        let idle = self.classes.iter().all(|class| class.waiting == 0);
        let party = network.filter(|_| newcomer).map_or(Party::Peer(peer), Party::Network);
        // The answers of a peer stay in their order.
        let (party, count) = self.places.entry(peer).or_insert((party, 0));
        *count = count.saturating_add(1);
        if self.flows.len() >= PEERS_MAX && !self.flows.contains_key(party) {
            self.flows.retain(|_, flow| !flow.waiting.is_empty());
        }
        let flow = self.flows.entry(*party).or_default();
        if flow.waiting.is_empty() {
            let Some(class) = self.classes.get_mut(class_of(newcomer)) else { return };
            // What it had in another class does not count here.
            flow.served = if flow.newcomer == newcomer { flow.served.max(class.now) } else { class.now };
            flow.newcomer = newcomer;
            class.ready.insert((flow.served, *party));
        }
        let Some(class) = self.classes.get_mut(class_of(flow.newcomer)) else { return };
        if class.waiting == 0 {
            class.served = class.served.max(self.now);
        }
        class.waiting = class.waiting.saturating_add(1);
        flow.waiting.push_back(Waiting { turn, peer, bytes, since: now });
        if idle {
            self.fill(now);
        }
    }

    /// One answer less waits for a peer.
    fn left(&mut self, peer: &PeerId) {
        let Some((_, count)) = self.places.get_mut(peer) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.places.remove(peer);
        }
    }

    /// A peer is gone, and so are its answers.
    pub fn forget(&mut self, peer: &PeerId) -> Vec<Turn> {
        let Some((party, _)) = self.places.remove(peer) else {
            self.flows.remove(&Party::Peer(*peer));
            return Vec::new();
        };
        let Some(flow) = self.flows.get_mut(&party) else { return Vec::new() };
        let gone: Vec<Turn> =
            flow.waiting.iter().filter(|waiting| waiting.peer == *peer).map(|waiting| waiting.turn).collect();
        flow.waiting.retain(|waiting| waiting.peer != *peer);
        if let Some(class) = self.classes.get_mut(class_of(flow.newcomer)) {
            class.waiting = class.waiting.saturating_sub(gone.len());
            if flow.waiting.is_empty() {
                class.ready.remove(&(flow.served, party));
            }
        }
        if flow.waiting.is_empty() {
            self.flows.remove(&party);
        }
        gone
    }

    /// Answers that wait for longer than `most` are given up.
    pub fn late(&mut self, now: Instant, most: Duration) -> Vec<Turn> {
        let mut late = Vec::new();
        if self.classes.iter().all(|class| class.waiting == 0) {
            return Vec::new();
        }
        for (party, flow) in &mut self.flows {
            let Some(class) = self.classes.get_mut(class_of(flow.newcomer)) else { continue };
            let before = late.len();
            while let Some(&Waiting { turn, peer, since, .. }) = flow.waiting.front()
                && since.after(most) < now
            {
                flow.waiting.pop_front();
                late.push((turn, peer));
                class.waiting = class.waiting.saturating_sub(1);
            }
            if flow.waiting.is_empty() && late.len() > before {
                class.ready.remove(&(flow.served, *party));
            }
        }
        late.iter().for_each(|(_, peer)| self.left(peer));
        late.into_iter().map(|(turn, _)| turn).collect()
    }

    /// So much was sent out of turn.
    pub fn spent(&mut self, bytes: u64) {
        if self.config.rate.is_some() {
            self.tokens = self.tokens.saturating_sub(i128::from(bytes));
        }
    }

    /// Tokens for the time that passed.
    fn fill(&mut self, now: Instant) {
        let Some(rate) = self.config.rate else { return };
        let passed = now.since(self.filled).as_micros();
        let grown = u128::from(rate).saturating_mul(passed).checked_div(1_000_000).unwrap_or(0);
        let most = u128::from(rate).saturating_mul(BURST.as_micros()).checked_div(1_000_000).unwrap_or(0);
        // Parts of a byte are waited for.
        if grown > 0 {
            let (grown, most) = (i128::try_from(grown).unwrap_or(i128::MAX), i128::try_from(most).unwrap_or(i128::MAX));
            self.tokens = self.tokens.saturating_add(grown).min(most);
            self.filled = now;
        }
    }

    /// Whose turn it is, if anything may be sent now.
    pub fn poll(&mut self, now: Instant) -> Option<Turn> {
        if self.config.rate.is_some() {
            self.fill(now);
            if self.tokens < 0 {
                return None;
            }
        }
        let newcomers = u128::from(self.config.newcomers_percent.clamp(1, 99));
        let weights = [100u128.saturating_sub(newcomers), newcomers];
        let place = (0..2).filter(|place| self.classes.get(*place).is_some_and(|class| class.waiting > 0));
        let place = place.min_by_key(|place| self.classes.get(*place).map_or(0, |class| class.served))?;
        let (_, party) = *self.classes.get(place)?.ready.first()?;
        let weight = match party {
            Party::Peer(peer) if place == 0 => u128::from(self.standing(now, &peer).max(CONTRIBUTION_MIN)),
            _ => 1,
        };
        let (class, flow) = (self.classes.get_mut(place)?, self.flows.get_mut(&party)?);
        class.ready.pop_first();
        let Waiting { turn, peer, bytes, .. } = flow.waiting.pop_front()?;
        let cost = u128::from(bytes.max(1)).saturating_mul(SCALE);
        (self.now, class.now) = (class.served, flow.served);
        class.waiting = class.waiting.saturating_sub(1);
        class.served = class.served.saturating_add(cost.checked_div(*weights.get(place)?).unwrap_or(0));
        flow.served = flow.served.saturating_add(cost.checked_div(weight).unwrap_or(0));
        if !flow.waiting.is_empty() {
            class.ready.insert((flow.served, party));
        }
        self.left(&peer);
        if self.config.rate.is_some() {
            self.tokens = self.tokens.saturating_sub(i128::from(bytes));
        }
        Some(turn)
    }

    /// When `poll` may have something without an event.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rate = self.config.rate?;
        if self.classes.iter().all(|class| class.waiting == 0) {
            return None;
        }
        let short = u128::try_from(self.tokens.saturating_neg()).unwrap_or(0);
        let wait = short.saturating_mul(1_000_000).checked_div(u128::from(rate.max(1))).unwrap_or(0).saturating_add(1);
        Some(self.filled.after(Duration::from_micros(u64::try_from(wait).unwrap_or(u64::MAX))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLICE: u64 = 16 << 10;
    const RATE: u64 = 1 << 20;

    fn peer(name: u64) -> PeerId {
        let mut bytes = [1; 32];
        bytes[..8].copy_from_slice(&name.to_be_bytes());
        PeerId(bytes)
    }

    fn limited() -> ShareConfig {
        ShareConfig { rate: Some(RATE), ..ShareConfig::default() }
    }

    /// Everybody wants more than there is for so long: what each got, in bytes.
    fn busy(share: &mut Share, peers: &[PeerId], seconds: u64) -> Vec<u64> {
        busy_at(share, peers, &BTreeMap::new(), seconds)
    }

    /// The same, seen in these networks.
    fn busy_at(
        share: &mut Share,
        peers: &[PeerId],
        homes: &BTreeMap<PeerId, Option<Network>>,
        seconds: u64,
    ) -> Vec<u64> {
        let (mut got, mut owner, mut next) = (vec![0; peers.len()], BTreeMap::new(), 0);
        let mut ask = |share: &mut Share, owner: &mut BTreeMap<Turn, usize>, now, place: usize| {
            next += 1;
            owner.insert(Turn(next), place);
            let home = homes.get(&peers[place]).copied().flatten();
            share.ask(now, peers[place], home, Turn(next), SLICE);
        };
        let (start, mut now) = (share.filled, share.filled);
        for place in 0..peers.len() {
            ask(share, &mut owner, now, place);
            ask(share, &mut owner, now, place);
        }
        while now.since(start) < Duration::from_secs(seconds) {
            while let Some(turn) = share.poll(now) {
                let place = owner.remove(&turn).unwrap();
                got[place] += SLICE;
                ask(share, &mut owner, now, place);
            }
            now = share.poll_timeout().unwrap();
        }
        peers.iter().for_each(|peer| drop(share.forget(peer)));
        got
    }

    #[test]
    fn who_contributed_more_gets_more_and_newcomers_get_their_part() {
        let mut share = Share::new(limited());
        share.contributed(Instant(1), peer(1), 30 << 20);
        share.contributed(Instant(1), peer(2), 10 << 20);
        let got = busy(&mut share, &[peer(1), peer(2), peer(3), peer(4)], 60);
        let all: u64 = got.iter().sum();
        // Nine tenths of it three to one, and the rest in two.
        for (got, wanted) in got.iter().zip([675, 225, 50, 50]) {
            assert!((got * 1000 / all).abs_diff(wanted) <= 10, "{got} of {all}, not {wanted} of a thousand");
        }
        assert!((58 * RATE..=62 * RATE).contains(&all), "{all} bytes in a minute");
    }

    #[test]
    fn many_identities_get_no_more_than_one() {
        let mut share = Share::new(limited());
        share.contributed(Instant(1), peer(1), 30 << 20);
        let mut peers = vec![peer(1)];
        peers.extend((100..200).map(peer));
        let got = busy(&mut share, &peers, 60);
        let all: u64 = got.iter().sum();
        assert!(got[0] * 100 / all >= 89, "{} of {all}", got[0]);
        // The same contribution in ten pieces.
        let mut share = Share::new(limited());
        share.contributed(Instant(1), peer(1), 30 << 20);
        (2..12).for_each(|name| share.contributed(Instant(1), peer(name), 3 << 20));
        let got = busy(&mut share, &(1..12).map(peer).collect::<Vec<_>>(), 60);
        let all: u64 = got.iter().sum();
        assert!((48..=52).contains(&(got[0] * 100 / all)), "{} of {all}", got[0]);
    }

    #[test]
    fn newcomers_of_one_network_share_one_part_and_contributors_do_not() {
        let at = |place: u8| crate::base::network::network(&([203, 0, place, 7], 4_000).into());
        let mut share = Share::new(limited());
        let homes: BTreeMap<PeerId, Option<Network>> =
            (1..12).map(|name| (peer(name), at(if name == 1 { 1 } else { 2 }))).collect();
        let peers: Vec<PeerId> = homes.keys().copied().collect();
        let got = busy_at(&mut share, &peers, &homes, 60);
        let all: u64 = got.iter().sum();
        assert!((48..=52).contains(&(got[0] * 100 / all)), "{} of {all}", got[0]);
        // Who gave something counts by that, wherever it is.
        share.contributed(share.filled, peer(1), 10 << 20);
        share.contributed(share.filled, peer(2), 30 << 20);
        let got = busy_at(&mut share, &peers, &homes, 60);
        let all: u64 = got.iter().sum();
        assert!((66..=69).contains(&(got[1] * 100 / all)), "{} of {all}", got[1]);
        // Without a network each counts alone.
        let mut share = Share::new(limited());
        let got = busy(&mut share, &peers, 60);
        let all: u64 = got.iter().sum();
        assert!((8..=10).contains(&(got[0] * 100 / all)), "{} of {all}", got[0]);
    }

    #[test]
    fn who_gave_to_those_who_gave_here_is_no_stranger() {
        let mut share = Share::new(limited());
        (1..9).for_each(|name| share.contributed(Instant(1), peer(name), 64 << 20));
        let shown: Vec<(PeerId, u64)> = (1..9).map(|name| (peer(name), 16 << 20)).collect();
        assert_eq!(share.witnessed(Instant(1), peer(20), &shown), 32 << 20);
        let got = busy(&mut share, &[peer(20), peer(21), peer(22)], 60);
        let all: u64 = got.iter().sum();
        assert!((88..=92).contains(&(got[0] * 100 / all)), "{} of {all}", got[0]);
        // Those who gave here themselves are not set back by speaking for others.
        let got = busy(&mut share, &[peer(1), peer(20)], 60);
        assert!(got[0] >= got[1] * 3 / 2, "{got:?}");
    }

    #[test]
    fn all_for_whom_a_witness_speaks_get_no_more_than_a_part_of_what_it_gave() {
        let mut share = Share::new(limited());
        share.contributed(Instant(1), peer(1), 64 << 20);
        let mut sum = 0;
        for round in 0..20 {
            for name in 100..120 {
                sum += share.witnessed(Instant(1), peer(name), &[(peer(1), u64::MAX >> (round % 3))]);
            }
        }
        assert!((31 << 20..=32 << 20).contains(&sum), "{sum}");
        // Those who gave nothing make nobody known, nor does anybody for himself; and the same is not counted twice.
        assert_eq!(share.witnessed(Instant(1), peer(3), &[(peer(2), 1 << 30), (peer(3), 1 << 30)]), 0);
        assert_eq!(share.witnessed(Instant(1), peer(1), &[(peer(1), 1 << 30)]), 0);
        share.contributed(Instant(1), peer(4), 64 << 20);
        assert_eq!([1, 2].map(|_| share.witnessed(Instant(1), peer(5), &[(peer(4), 1 << 20)])), [1 << 20, 0]);
        // It fades like what it stands on.
        let later = Instant(1).after(Duration::from_secs(86_400));
        assert_eq!(share.standing(later, &peer(5)), 512 << 10);
    }

    #[test]
    fn nothing_is_left_unused_while_anybody_wants_it() {
        let mut share = Share::new(limited());
        let got = busy(&mut share, &[peer(1)], 10);
        assert!((9 * RATE..=11 * RATE).contains(&got[0]), "{}", got[0]);
    }

    #[test]
    fn a_contribution_is_forgotten_by_halves_and_silence_saves_nothing_up() {
        let mut share = Share::new(limited());
        share.contributed(Instant(0), peer(1), 64 << 20);
        let at = |seconds| Instant(0).after(Duration::from_secs(seconds));
        const DAY: u64 = 86_400;
        assert_eq!(
            [0, DAY / 2, DAY, 2 * DAY].map(|time| share.contribution(at(time), &peer(1)) >> 20),
            [64, 48, 32, 16]
        );
        assert_eq!(share.contribution(at(DAY * 80), &peer(1)), 0);
        share.contributed(at(0), peer(2), 64 << 20);
        busy(&mut share, &[peer(2)], 60);
        let got = busy(&mut share, &[peer(1), peer(2)], 20);
        let all: u64 = got.iter().sum();
        assert!((48..=52).contains(&(got[0] * 100 / all)), "{got:?}");
    }

    #[test]
    fn who_waited_too_long_is_given_up_and_what_was_sent_out_of_turn_counts() {
        let (mut share, second) = (Share::new(limited()), Duration::from_secs(1));
        share.ask(Instant(1), peer(1), None, Turn(1), 10 * RATE);
        assert_eq!(share.poll(Instant(1)), Some(Turn(1)));
        share.ask(Instant(2), peer(1), None, Turn(2), SLICE);
        share.ask(Instant(2_000_000), peer(2), None, Turn(3), SLICE);
        assert_eq!(share.late(Instant(2_000_001), second * 2), []);
        assert_eq!(share.late(Instant(2_000_003), second * 2), [Turn(2)]);
        assert_eq!(share.poll(Instant(2_000_003)), None);
        let at = share.poll_timeout().unwrap();
        assert!(at.since(Instant(1)) > second * 9, "{at:?}");
        share.spent(10 * RATE);
        assert!(share.poll_timeout().unwrap().since(at) > second * 9);
        share.forget(&peer(2));
        assert_eq!(share.poll_timeout(), None);
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut share = Share::new(ShareConfig::default());
        for name in 0..100 {
            share.ask(Instant(1), peer(name), None, Turn(name), 1 << 20);
        }
        assert_eq!((0..101).filter(|_| share.poll(Instant(1)).is_some()).count(), 100);
        assert_eq!(share.poll_timeout(), None);
    }

    proptest! {
        /// Against the plain statement: each answer is sent once, in the order of its peer, and never more than the limit and a burst.
        #[test]
        fn each_answer_has_one_turn_in_order_within_the_limit(
            steps in proptest::collection::vec((0u64..6, 0u64..4, 1u64..200_000, 0u64..300_000), 1..200),
        ) {
            let mut share = Share::new(limited());
            let (mut now, mut waiting): (Instant, BTreeMap<u64, VecDeque<Turn>>) = (Instant(1), BTreeMap::new());
            let (mut sizes, mut sent, mut last) = (BTreeMap::new(), 0u64, 0);
            for (number, (what, name, bytes, pause)) in steps.into_iter().enumerate() {
                let turn = Turn(number as u64);
                match what {
                    0 => share.contributed(now, peer(name), bytes * 100),
                    1 => {
                        let gone = share.forget(&peer(name));
                        prop_assert_eq!(gone, Vec::from(waiting.remove(&name).unwrap_or_default()));
                    }
                    _ => {
                        share.ask(now, peer(name), None, turn, bytes);
                        waiting.entry(name).or_default().push_back(turn);
                        sizes.insert(turn, bytes);
                    }
                }
                now = now.after(Duration::from_micros(pause));
                while let Some(turn) = share.poll(now) {
                    let of = waiting.values_mut().find(|queue| queue.front() == Some(&turn));
                    prop_assert!(of.is_some(), "{:?} is not the first of its peer", turn);
                    of.unwrap().pop_front();
                    (sent, last) = (sent + sizes[&turn], sizes[&turn]);
                }
                let most = RATE / 4 + (u128::from(RATE) * u128::from(now.0) / 1_000_000) as u64 + last;
                prop_assert!(sent <= most, "{} sent of {}", sent, most);
            }
            while let Some(at) = share.poll_timeout() {
                now = at.max(now);
                while let Some(turn) = share.poll(now) {
                    let of = waiting.values_mut().find(|queue| queue.front() == Some(&turn));
                    prop_assert!(of.is_some());
                    of.unwrap().pop_front();
                }
            }
            prop_assert!(waiting.values().all(VecDeque::is_empty));
        }
    }
}
