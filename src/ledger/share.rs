//! Upload under a limit, shared in proportion to what each peer contributed lately, with a part for those that have not yet: start-time
//! fair queueing (Goyal, Vin, Cheng 1996) in two levels. However many identities share one contribution, or none, they get the same in sum.

use crate::base::peer::PeerId;
use crate::base::time::Instant;
use std::collections::{BTreeMap, VecDeque};
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

/// What a peer contributed, decaying.
#[derive(Debug, Clone, Copy, Default)]
struct Contribution {
    bytes: u64,
    at: Instant,
}

impl Contribution {
    /// What is left of it: halved for each half-life, in a straight line in between.
    fn left(&self, now: Instant, half_life: Duration) -> u64 {
        let (passed, half) = (now.since(self.at).as_micros(), half_life.as_micros().max(1));
        let halvings = u32::try_from(passed.checked_div(half).unwrap_or(0)).unwrap_or(u32::MAX);
        let Some(whole) = self.bytes.checked_shr(halvings) else { return 0 };
        let part = u128::from(whole).saturating_mul(passed.checked_rem(half).unwrap_or(0));
        let lost = part.checked_div(half.saturating_mul(2)).unwrap_or(0);
        whole.saturating_sub(u64::try_from(lost).unwrap_or(u64::MAX))
    }
}

/// Answers of one peer that wait, and how much service it had, in virtual time.
#[derive(Debug, Default)]
struct Flow {
    waiting: VecDeque<(Turn, u64, Instant)>,
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
}

/// Who is sent what next.
#[derive(Debug)]
pub struct Share {
    config: ShareConfig,
    contributions: BTreeMap<PeerId, Contribution>,
    flows: BTreeMap<PeerId, Flow>,
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
            flows: BTreeMap::new(),
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
        let known = self.contributions.entry(peer).or_default();
        *known = Contribution { bytes: known.left(now, half_life).saturating_add(bytes), at: now };
    }

    /// What a peer contributed lately.
    pub fn contribution(&self, now: Instant, peer: &PeerId) -> u64 {
        self.contributions.get(peer).map_or(0, |known| known.left(now, self.config.half_life))
    }

    /// An answer of so many bytes wants to be sent.
    pub fn ask(&mut self, now: Instant, peer: PeerId, turn: Turn, bytes: u64) {
        let newcomer = self.contribution(now, &peer) < CONTRIBUTION_MIN;
        let idle: usize = self.classes.iter().map(|class| class.waiting).sum();
        let flow = self.flows.entry(peer).or_default();
        let Some(class) = self.classes.get_mut(class_of(newcomer)) else { return };
        if flow.waiting.is_empty() {
            // What it had in another class does not count here.
            flow.served = if flow.newcomer == newcomer { flow.served.max(class.now) } else { class.now };
            flow.newcomer = newcomer;
        }
        let class = if flow.newcomer == newcomer { class } else { &mut self.classes[class_of(flow.newcomer)] };
        if class.waiting == 0 {
            class.served = class.served.max(self.now);
        }
        class.waiting = class.waiting.saturating_add(1);
        flow.waiting.push_back((turn, bytes, now));
        if idle == 0 {
            self.fill(now);
        }
    }

    /// A peer is gone, and so are its answers.
    pub fn forget(&mut self, peer: &PeerId) -> Vec<Turn> {
        let Some(flow) = self.flows.remove(peer) else { return Vec::new() };
        if let Some(class) = self.classes.get_mut(class_of(flow.newcomer)) {
            class.waiting = class.waiting.saturating_sub(flow.waiting.len());
        }
        flow.waiting.into_iter().map(|(turn, ..)| turn).collect()
    }

    /// Answers that wait for longer than `most` are given up.
    pub fn late(&mut self, now: Instant, most: Duration) -> Vec<Turn> {
        let mut late = Vec::new();
        if self.classes.iter().all(|class| class.waiting == 0) {
            return late;
        }
        for flow in self.flows.values_mut() {
            while let Some(&(turn, _, since)) = flow.waiting.front()
                && since.after(most) < now
            {
                flow.waiting.pop_front();
                late.push(turn);
                if let Some(class) = self.classes.get_mut(class_of(flow.newcomer)) {
                    class.waiting = class.waiting.saturating_sub(1);
                }
            }
        }
        late
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
        let flows = self.flows.iter().filter(|(_, flow)| class_of(flow.newcomer) == place && !flow.waiting.is_empty());
        let peer = flows.min_by_key(|(_, flow)| flow.served).map(|(peer, _)| *peer)?;
        let weight = if place == 0 { u128::from(self.contribution(now, &peer).max(CONTRIBUTION_MIN)) } else { 1 };
        let (class, flow) = (self.classes.get_mut(place)?, self.flows.get_mut(&peer)?);
        let (turn, bytes, _) = flow.waiting.pop_front()?;
        let cost = u128::from(bytes.max(1)).saturating_mul(SCALE);
        (self.now, class.now) = (class.served, flow.served);
        class.waiting = class.waiting.saturating_sub(1);
        class.served = class.served.saturating_add(cost.checked_div(*weights.get(place)?).unwrap_or(0));
        flow.served = flow.served.saturating_add(cost.checked_div(weight).unwrap_or(0));
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
        let (mut got, mut owner, mut next) = (vec![0; peers.len()], BTreeMap::new(), 0);
        let mut ask = |share: &mut Share, owner: &mut BTreeMap<Turn, usize>, now, place: usize| {
            next += 1;
            owner.insert(Turn(next), place);
            share.ask(now, peers[place], Turn(next), SLICE);
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
        share.ask(Instant(1), peer(1), Turn(1), 10 * RATE);
        assert_eq!(share.poll(Instant(1)), Some(Turn(1)));
        share.ask(Instant(2), peer(1), Turn(2), SLICE);
        share.ask(Instant(2_000_000), peer(2), Turn(3), SLICE);
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
            share.ask(Instant(1), peer(name), Turn(name), 1 << 20);
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
                        share.ask(now, peer(name), turn, bytes);
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
