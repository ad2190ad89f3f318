//! The radius: how much of the key space around us we take chunks up from, by how much of what we offer is asked for.
//!
//! A controller that only integrates, in logarithms: each minute the radius moves by a thirtieth of how many times (in powers of two) the
//! load differs from what it should be. What is asked for follows the radius late (the load is a mean over ten minutes, and a chunk that
//! is taken up is found by others minutes later), so it must be slow: with 20 minutes of delay in all this gain leaves a phase margin of
//! 50 degrees. Between low and high nothing is moved at all, so noise does not move it either.

use crate::base::keyspace::Key;
use crate::base::time::Instant;
use std::time::Duration;

/// How often the radius is looked at.
const PERIOD: Duration = Duration::from_secs(60);
/// The load is a mean over so many periods, fading.
const MEAN: f64 = 10.0;
/// Parts of the offer between which the load is as it should be, and what is aimed at.
const LOW: f64 = 0.7;
const HIGH: f64 = 0.95;
const TARGET: f64 = 0.85;
/// Doublings of the radius in a period, for each doubling that the load is off.
const GAIN: f64 = 1.0 / 30.0;
/// No more than these at once: no crowd and no silence moves it by leaps.
const WIDEN_MAX: f64 = 1.0;
const NARROW_MAX: f64 = 2.0;
/// The smallest: one part in 2^40.
const BITS_MIN: f64 = -40.0;
/// Periods that are made up for after a sleep.
const PERIODS_MAX: u32 = 60;
/// For so long after its start a node gets to know its neighbours, and takes up what is among them.
const SETTLING: Duration = Duration::from_secs(600);
/// How often it looks at them meanwhile.
const LOOK: Duration = Duration::from_secs(10);

/// A part of the key space: all keys whose distance is not greater. 2^64 - 1 is all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Radius(pub u64);

impl Radius {
    /// All keys.
    pub const WHOLE: Radius = Radius(u64::MAX);

    /// The distance of two keys.
    pub fn between(a: &Key, b: &Key) -> Radius {
        let first = a.distance(b).0.first_chunk::<8>().copied().unwrap_or_default();
        Radius(u64::from_be_bytes(first))
    }

    /// Two to the power of `bits`, 0 or less, of the key space.
    fn of(bits: f64) -> Radius {
        if bits >= 0.0 { Radius::WHOLE } else { Radius((bits.exp2() * u64::MAX as f64) as u64) }
    }

    /// Part of the key space, in parts of a thousand million.
    pub fn parts(self) -> u64 {
        (u128::from(self.0) * 1_000_000_000 / u128::from(u64::MAX)) as u64
    }
}

/// The controller.
#[derive(Debug)]
pub(super) struct Reach {
    /// Logarithm of the part of the key space; nothing before the first look at the neighbours.
    bits: Option<f64>,
    /// Until when our neighbourhood is the radius, whatever the load.
    settled_at: Option<Instant>,
    look_at: Instant,
    /// Asked for since the period began.
    bytes: u64,
    /// Bytes a second, a fading mean.
    load: f64,
    since: Instant,
}

impl Reach {
    pub(super) fn new() -> Reach {
        let (bits, settled_at, look_at) = (None, None, Instant::default());
        Reach { bits, settled_at, look_at, bytes: 0, load: 0.0, since: Instant::default() }
    }

    /// So much was asked for of what we would send.
    pub(super) fn asked(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether a look at the neighbours is due.
    pub(super) fn wants_look(&self, now: Instant) -> bool {
        self.look_at <= now
    }

    /// How far our closest contacts are: there it begins.
    pub(super) fn look(&mut self, now: Instant, neighbourhood: Radius) {
        if self.settled_at.is_some_and(|at| at <= now) {
            self.look_at = Instant(u64::MAX);
            return;
        }
        let settled_at = *self.settled_at.get_or_insert(now.after(SETTLING));
        self.look_at = now.after(LOOK);
        self.since = settled_at;
        self.bits = Some((neighbourhood.0 as f64 / u64::MAX as f64).log2().clamp(BITS_MIN, 0.0));
    }

    pub(super) fn radius(&self) -> Radius {
        self.bits.map_or(Radius(0), Radius::of)
    }

    /// Bytes a second that are asked for.
    pub(super) fn load(&self) -> u64 {
        self.load as u64
    }

    /// Whether there is something left of the offer.
    pub(super) fn has_room(&self, offer: u64) -> bool {
        self.load < HIGH * offer as f64
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.bits.map(|_| self.since.after(PERIOD).min(self.look_at))
    }

    /// Moves the radius if a period is over. `offer` is in bytes a second.
    pub(super) fn tick(&mut self, now: Instant, offer: u64) {
        let Some(bits) = &mut self.bits else { return };
        if now < self.since {
            // Not settled: what was asked for meanwhile says little.
            self.bytes = 0;
            return;
        }
        for _ in 0..PERIODS_MAX {
            if now.since(self.since) < PERIOD {
                return;
            }
            self.since = self.since.after(PERIOD);
            let rate = std::mem::take(&mut self.bytes) as f64 / PERIOD.as_secs_f64();
            self.load += (rate - self.load) / MEAN;
            let used = self.load / offer.max(1) as f64;
            let off = (used / TARGET).max(1e-9).log2();
            if used < LOW {
                *bits += GAIN * (-off).min(WIDEN_MAX);
            } else if used > HIGH {
                *bits -= GAIN * off.min(NARROW_MAX);
            }
            *bits = bits.clamp(BITS_MIN, 0.0);
        }
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const OFFER: u64 = 1_000_000;
    const MINUTE: u64 = 60_000_000;

    /// Settled at time 0.
    fn begun(bits: f64) -> Reach {
        let mut reach = Reach::new();
        reach.look(Instant(0), Radius::of(bits));
        (reach.since, reach.settled_at) = (Instant(0), Some(Instant(0)));
        reach.look(Instant(0), Radius::WHOLE);
        reach
    }

    /// A node in a world that asks for `demand(minute)` bytes a second of all keys together. It gets its part of that some minutes after it
    /// took chunks up, and what it shed it loses as late. Radius in bits and part of the offer in use, minute by minute.
    fn run(begin: f64, minutes: u64, delay: usize, demand: impl Fn(u64) -> f64) -> Vec<(f64, f64)> {
        let mut reach = begun(begin);
        let mut late: VecDeque<f64> = VecDeque::from(vec![begin.exp2(); delay + 1]);
        let mut seen = Vec::new();
        for minute in 0..minutes {
            late.push_back(reach.radius().0 as f64 / u64::MAX as f64);
            let part = late.pop_front().unwrap();
            let rate = demand(minute) * part;
            reach.asked((rate * 60.0) as u64);
            reach.tick(Instant((minute + 1) * MINUTE), OFFER);
            seen.push((reach.bits.unwrap(), rate / OFFER as f64));
        }
        seen
    }

    /// Turns of the radius of more than a tenth of a bit.
    fn turns(seen: &[(f64, f64)]) -> usize {
        let (mut turns, mut up, mut edge) = (0, None, seen[0].0);
        for (bits, _) in seen {
            let moved = bits - edge;
            if moved.abs() > 0.1 {
                if up.is_some_and(|up| up != (moved > 0.0)) {
                    turns += 1;
                }
                up = Some(moved > 0.0);
                edge = *bits;
            } else if up == Some(moved > 0.0) {
                edge = *bits;
            }
        }
        turns
    }

    #[test]
    fn a_step_of_demand_is_followed_without_oscillation() {
        // What all ask for grows to the eightfold, then falls back; the node starts with a part of it.
        let seen = run(-8.0, 3000, 10, |minute| if (1000..2000).contains(&minute) { 512e6 } else { 64e6 });
        let settled = |range: std::ops::Range<usize>| {
            seen[range].iter().all(|(_, used)| (LOW - 0.02..=HIGH + 0.02).contains(used))
        };
        assert!(settled(500..1000), "{:?}", &seen[480..500]);
        assert!(settled(1400..2000), "{:?}", &seen[1380..1400]);
        assert!(settled(2500..3000), "{:?}", &seen[2480..2500]);
        assert!(turns(&seen[..1000]) <= 1 && turns(&seen) <= 4, "{} turns", turns(&seen));
        // It overshoots a little, if at all.
        let least = seen[1000..2000].iter().map(|(_, used)| *used).fold(f64::INFINITY, f64::min);
        assert!(least > 0.5, "{least}");
    }

    #[test]
    fn steady_demand_leaves_the_radius_alone_however_noisy() {
        let noise = |minute: u64| 1.0 + 0.3 * f64::from((minute * 7919 % 13) as u32) / 13.0 - 0.15;
        let seen = run(-6.0, 4000, 15, |minute| 54e6 * noise(minute));
        let (low, high) =
            seen[1000..].iter().fold((0.0f64, -64.0f64), |(low, high), (bits, _)| (low.min(*bits), high.max(*bits)));
        assert!(high - low < 0.1, "it moves between {low} and {high}");
    }

    #[test]
    fn a_day_swings_the_radius_once_each_way() {
        let day = |minute: u64| 1.0 + 0.6 * (minute as f64 / 1440.0 * std::f64::consts::TAU).sin();
        let seen = run(-6.0, 6 * 1440, 10, |minute| 60e6 * day(minute));
        let days = &seen[2 * 1440..];
        let over = days.iter().filter(|(_, used)| *used > 1.3).count();
        let used: f64 = days.iter().map(|(_, used)| used.min(1.0)).sum::<f64>() / days.len() as f64;
        assert!(turns(days) <= 9, "{} turns in four days", turns(days));
        assert!(over < days.len() / 50 && used > 0.7, "{over} minutes too much, {used} used");
    }

    #[test]
    fn a_flash_crowd_narrows_it_a_little_and_it_comes_back() {
        let seen = run(-6.0, 2000, 10, |minute| if (1000..1015).contains(&minute) { 6e9 } else { 54e6 });
        let before = seen[999].0;
        let least = seen[1000..1200].iter().map(|(bits, _)| *bits).fold(0.0, f64::min);
        assert!((before - 4.0..before - 0.5).contains(&least), "from {before} to {least}");
        assert!((seen[1999].0 - before).abs() < 0.3 && turns(&seen[900..]) <= 2, "{}", seen[1999].0);
    }

    #[test]
    fn vanishing_demand_widens_it_to_the_whole_and_what_comes_back_narrows_it() {
        let seen = run(-6.0, 4000, 10, |minute| if (500..2500).contains(&minute) { 0.0 } else { 54e6 });
        assert!((800..2499).all(|minute| seen[minute].0 == 0.0), "{}", seen[800].0);
        let (_, used) = seen[3999];
        assert!((LOW..=HIGH).contains(&used), "{used}");
        assert!(turns(&seen[2500..]) <= 2, "{}", turns(&seen[2500..]));
    }

    #[test]
    fn the_neighbourhood_is_the_radius_until_it_is_known() {
        let mut reach = Reach::new();
        assert_eq!(reach.radius(), Radius(0));
        for (second, bits) in [(0, 0.0), (10, -3.0), (300, -5.0)] {
            let now = Instant(second * 1_000_000);
            assert!(reach.wants_look(now));
            reach.look(now, Radius::of(bits));
            assert_eq!(reach.radius(), Radius::of(bits));
            reach.asked(u64::from(u32::MAX));
            reach.tick(now, OFFER);
            assert_eq!((reach.radius(), reach.load()), (Radius::of(bits), 0));
        }
        reach.look(Instant(600_000_000), Radius::WHOLE);
        assert!(reach.radius() == Radius::of(-5.0) && !reach.wants_look(Instant(700_000_000)));
        reach.tick(Instant(661_000_000), OFFER);
        assert!(reach.radius() > Radius::of(-5.0));
    }

    #[test]
    fn a_sleep_of_days_is_made_up_for_in_bounded_time() {
        let mut reach = begun(-20.0);
        reach.tick(Instant(10_000 * MINUTE), OFFER);
        assert!(reach.bits.unwrap() <= -20.0 + GAIN * f64::from(PERIODS_MAX) + 0.01);
        assert_eq!(reach.poll_timeout(), Some(Instant(10_001 * MINUTE)));
    }

    #[test]
    fn the_distance_of_keys_is_a_part_of_the_key_space() {
        let key = |first: u8| {
            let mut key = [0; 32];
            key[0] = first;
            Key(key)
        };
        assert_eq!(Radius::between(&key(0), &key(0x80)).0, 1 << 63);
        assert!(Radius::between(&key(1), &key(3)) <= Radius::of(-7.0) && Radius::WHOLE >= Radius(u64::MAX));
        assert_eq!((Radius::WHOLE.parts(), Radius(1 << 63).parts() / 10), (1_000_000_000, 50_000_000));
    }
}
