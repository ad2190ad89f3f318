//! What is measured of each peer: round trip, rate, failures; and from these how long it will take and how much to ask of it.

use crate::base::amount::Msat;
use crate::base::peer::Contact;
use crate::base::time::Instant;
use crate::wire::call::CallId;
use crate::wire::message::{CallFailure, Price, Refusal};
use std::collections::BTreeSet;
use std::time::Duration;

/// Bytes that may be in flight at one peer at least, whatever was measured.
pub const WINDOW_BYTES_MIN: u64 = 2 << 20;
/// Bytes that may be in flight at one peer at most.
pub const WINDOW_BYTES_MAX: u64 = 16 << 20;

/// Round trip assumed of a peer that has no link yet: the dial comes on top.
const RTT_UNKNOWN: u64 = 80_000;
/// A busy period is judged when it is at least this long (microseconds)...
const SAMPLE_US: u64 = 20_000;
/// ...or brought this many bytes in at least a round trip; in either case, when all that was owed at its beginning has come...
const SAMPLE_BYTES: u64 = 1 << 20;
/// ...or it lasted this long. Answers come side by side, so many end at once: over less than all of them one measures bursts.
const SAMPLE_US_MAX: u64 = 300_000;
/// Fewer bytes than these tell of delay, not of rate.
const SAMPLE_BYTES_MIN: u64 = 64 << 10;
/// A turn of the shells that carry requests and answers: no peer is faster than this (microseconds).
const SLACK_US: u64 = 5_000;

/// A peer that stalled is not asked for so long, the first time and at most.
const STALL_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// To whom we owe what so many bytes cost, its price counts twice; after twice as much three times, and so on up to this.
const DEBT_BYTES: u64 = 256 << 20;
const DEBT_TIMES_MAX: u128 = 4;

/// So many pauses between deliveries tell how long a peer is used to be silent.
const PAUSES_MIN: u32 = 8;

/// Calls that may come late, one after another, while others of the same peer go on.
const LATES_MAX: u32 = 4;

/// A peer as the scheduler sees it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) contact: Contact,
    pub(super) linked: bool,
    /// Smoothed round trip and its deviation, microseconds (RFC 6298), of calls that found the peer idle.
    rtt: Option<(u64, u64)>,
    /// Bytes a second.
    rate: Option<u64>,
    /// Bytes asked for and neither delivered nor given up.
    pub(super) in_flight: u64,
    /// Calls whose end was not reported yet, given up ones among them.
    pub(super) calls: BTreeSet<CallId>,
    /// Since when bytes flow without a break, how many came after the first, and how many were owed then; asked for when, and how many
    /// in all.
    sample_since: Option<Instant>,
    sample_bytes: u64,
    sample_owed: u64,
    busy_since: Instant,
    busy_bytes: u64,
    /// Calls on a guess that nothing came of yet.
    pub(super) guesses: u32,
    /// When bytes or an answer last came; or the first call after idleness went out.
    pub(super) progress: Instant,
    /// The longest pause between two deliveries while it owed something, microseconds, forgotten by and by; and how many pauses there
    /// were since it was idle.
    pause_max: u64,
    pauses: u32,
    /// Owes answers and sends nothing.
    pub(super) stalled: bool,
    /// Not asked before this.
    pub(super) retry_at: Instant,
    failures: u32,
    /// Calls that came late since it last answered to the end.
    lates: u32,
    hits: u32,
    misses: u32,
    /// It refused because of what we owe it, and has answered nothing since.
    pub(super) broke: Option<Refusal>,
    /// What it charges, once it said so; and in percent of the most that we pay: over 100 it is not asked.
    pub(super) price: Option<Price>,
    pub(super) price_percent: u64,
    /// What it owes us, millisatoshi: so much service of it is paid already. Negative: what we owe it.
    pub(super) balance: i64,
    /// When it was last of use.
    pub(super) used: Instant,
    /// Bytes it delivered in all.
    pub(super) delivered: u64,
}

impl Peer {
    pub(super) fn new(now: Instant, contact: Contact) -> Peer {
        Peer {
            contact,
            linked: false,
            rtt: None,
            rate: None,
            in_flight: 0,
            calls: BTreeSet::new(),
            sample_since: None,
            sample_bytes: 0,
            sample_owed: 0,
            busy_since: now,
            busy_bytes: 0,
            guesses: 0,
            progress: now,
            pause_max: 0,
            pauses: 0,
            stalled: false,
            retry_at: Instant(0),
            failures: 0,
            lates: 0,
            hits: 0,
            misses: 0,
            broke: None,
            price: None,
            price_percent: 0,
            balance: 0,
            used: now,
            delivered: 0,
        }
    }

    /// Whether it may be asked at all now.
    pub(super) fn usable(&self, now: Instant) -> bool {
        !self.stalled && self.retry_at <= now && (self.linked || !self.contact.addrs.is_empty())
    }

    /// Why it gives us nothing at present, whatever it is asked for.
    pub(super) fn refuses(&self) -> Option<CallFailure> {
        let dear = (self.price_percent > 100).then_some(Refusal::Price);
        self.broke.or(dear).map(CallFailure::Refused)
    }

    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Whether anything is known of its round trip.
    pub(super) fn is_timed(&self) -> bool {
        self.rtt.is_some()
    }

    pub(super) fn hint_rtt(&mut self, rtt: Duration) {
        let rtt = rtt.as_micros() as u64;
        self.rtt.get_or_insert((rtt, rtt / 4));
    }

    /// Folds in the time that an answer took which had no other bytes before it.
    pub(super) fn measured_rtt(&mut self, took: Duration) {
        let took = took.as_micros() as u64;
        self.rtt = Some(match self.rtt {
            None => (took, took / 2),
            Some((mean, deviation)) => ((mean * 7 + took) / 8, (deviation * 3 + mean.abs_diff(took)) / 4),
        });
    }

    /// Microseconds until the first byte of an answer that nothing delays: a bound that 95 % keep.
    fn first_byte_us(&self) -> u64 {
        match self.rtt {
            Some((mean, deviation)) if self.linked => mean + 3 * deviation + SLACK_US,
            Some((mean, deviation)) => 3 * mean + 3 * deviation + SLACK_US,
            None if self.linked => 2 * RTT_UNKNOWN,
            None => 3 * RTT_UNKNOWN,
        }
    }

    /// Microseconds until `bytes` more are here, after all that was asked before; `prior` is the rate assumed when none was
    /// measured. What failed lately looks slower.
    pub(super) fn finish_us(&self, bytes: u64, prior: u64) -> u64 {
        self.after_us(self.in_flight + bytes, prior)
    }

    /// Microseconds until so many bytes are here, all that come before them among them.
    pub(super) fn after_us(&self, bytes: u64, prior: u64) -> u64 {
        let mean = self.rtt.map_or(RTT_UNKNOWN, |(mean, _)| mean);
        let first = if self.linked { mean } else { 3 * mean };
        let rate = self.rate.unwrap_or(prior).max(1024);
        let queue = bytes.saturating_mul(1_000_000) / rate;
        (first + queue).saturating_mul(1 + u64::from(self.failures.min(8)))
    }

    /// What its price counts as, in microseconds, where `bytes` more take so long: who takes the most that we pay is as good as one for
    /// nothing that takes half as long again. Who owes us at least what is asked of it takes nothing; to whom we owe much already takes
    /// more: so nobody is owed ever more for being quick, and debts that nobody pays cancel out.
    pub(super) fn price_us(&self, takes: u64, bytes: u64) -> u64 {
        let price_of = |bytes| self.price.map_or(Msat::ZERO, |price| price.of(bytes)).0;
        if i64::try_from(price_of(self.in_flight + bytes)).is_ok_and(|costs| costs <= self.balance) {
            return 0;
        }
        let unit = u128::from(price_of(DEBT_BYTES).max(1));
        let debt = u128::from(self.balance.min(0).unsigned_abs()).min(unit * (DEBT_TIMES_MAX - 1));
        let plain = u128::from(takes / 200 * self.price_percent);
        u64::try_from(plain * (unit + debt) / unit).unwrap_or(u64::MAX)
    }

    /// After how long an answer of `bytes`, asked for now, is late.
    pub(super) fn late_after(&self, bytes: u64, prior: u64) -> Duration {
        let rate = self.rate.unwrap_or(prior).max(1024);
        let queue = (self.in_flight + bytes).saturating_mul(1_500_000) / rate;
        let first = self.first_byte_us().min(300_000);
        Duration::from_micros((first + queue).clamp(50_000, 2_000_000))
    }

    /// After how long without a byte it counts as stalled while it owes some.
    pub(super) fn stall_after(&self) -> Duration {
        let us = match self.rtt {
            // A dial and its answer take some round trips; whoever is there has answered by then.
            _ if !self.linked => 500_000,
            // In the midst of a transfer its own pauses tell best.
            Some((mean, _)) if self.pauses >= PAUSES_MIN => 2 * self.pause_max + mean + 50_000,
            Some((mean, deviation)) => 3 * mean + 6 * deviation + 50_000,
            None => 600_000,
        };
        Duration::from_micros(us.clamp(250_000, 2_000_000))
    }

    /// Bytes that may be in flight: four times rate x delay. One is on the line, one is the way of the request, one waits for what was
    /// lost and is sent again, and the last keeps the peer from ever having nothing to send: its congestion control takes a line for full
    /// only while it always has.
    pub(super) fn window(&self) -> u64 {
        let (Some(rate), Some((rtt, _))) = (self.rate, self.rtt) else { return WINDOW_BYTES_MIN };
        let delay = 4 * rtt + 2 * SLACK_US;
        (u128::from(rate) * u128::from(delay) / 1_000_000)
            .clamp(u128::from(WINDOW_BYTES_MIN), u128::from(WINDOW_BYTES_MAX)) as u64
    }

    /// Whether it was measured, and what it was asked for is less than goes through its line while a request is on its way.
    pub(super) fn runs_dry(&self) -> bool {
        let Some(rate) = self.rate else { return false };
        let delay = self.rtt.map_or(RTT_UNKNOWN, |(mean, _)| mean);
        self.calls.is_empty() || u128::from(self.in_flight) * 1_000_000 < u128::from(rate) * u128::from(delay)
    }

    /// Slices to ask for in one piece, so that a slow peer is not given what a fast one would be waited for.
    pub(super) fn piece_slices(&self, prior: u64) -> u8 {
        let slices = self.rate.unwrap_or(prior) / 4 / crate::base::limit::SLICE_BYTES as u64;
        slices.clamp(8, 64) as u8
    }

    /// Called before the first call after idleness.
    pub(super) fn wake(&mut self, now: Instant) {
        self.progress = now;
        (self.busy_since, self.busy_bytes) = (now, 0);
        (self.pause_max, self.pauses) = (0, 0);
        (self.sample_since, self.sample_bytes) = (None, 0);
    }

    /// It spoke: it may be asked again.
    pub(super) fn alive(&mut self, now: Instant) {
        self.progress = now;
        if std::mem::take(&mut self.stalled) {
            self.retry_at = Instant(0);
        }
    }

    /// It answered to the end: what it failed to do before is forgotten. Bytes alone prove nothing: a peer that stops in the middle
    /// of every answer sends some, too.
    pub(super) fn answered(&mut self, now: Instant) {
        self.alive(now);
        (self.failures, self.lates) = (0, 0);
        self.broke = None;
    }

    /// It failed lately and has not answered to the end since: it is tried with one call at a time, which nobody waits for.
    pub(super) fn on_trial(&self) -> bool {
        self.failures > 0
    }

    /// It owes bytes and sends none.
    pub(super) fn stall(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.stalled, true) {
            // Should what it owes be given up: not asked again at once.
            self.failed(now, STALL_PAUSE.0, STALL_PAUSE.1);
        }
    }

    /// Bytes came.
    pub(super) fn brought(&mut self, now: Instant, bytes: u64) {
        if self.busy_bytes > 0 {
            let pause = now.since(self.progress).as_micros() as u64;
            self.pause_max = pause.max(self.pause_max - self.pause_max / 32);
            self.pauses = self.pauses.saturating_add(1);
        }
        self.alive(now);
        self.used = now;
        self.delivered = self.delivered.saturating_add(bytes);
        self.busy_bytes += bytes;
        // The first bytes tell of delay; those after them of rate.
        let Some(since) = self.sample_since else {
            (self.sample_since, self.sample_owed) = (Some(now), self.in_flight.saturating_sub(bytes));
            return;
        };
        self.sample_bytes += bytes;
        let took = now.since(since).as_micros() as u64;
        let round = self.rtt.map_or(0, |(mean, _)| mean);
        let long = took >= round.max(SAMPLE_US) || took >= round && self.sample_bytes >= SAMPLE_BYTES;
        // A first guess is wanted at once.
        let whole = long && (self.sample_bytes >= self.sample_owed || self.rate.is_none()) || took >= SAMPLE_US_MAX;
        if whole && self.sample_bytes >= SAMPLE_BYTES_MIN {
            let rate = self.sample_bytes.saturating_mul(1_000_000) / took.max(500);
            self.rate = Some(self.rate.map_or(rate, |old| old.midpoint(rate)));
            (self.sample_since, self.sample_bytes) = (Some(now), 0);
            self.sample_owed = self.in_flight.saturating_sub(bytes);
        }
    }

    /// Nothing is owed any more.
    pub(super) fn idle(&mut self, now: Instant) {
        self.stalled = false;
        // It did at least this, the round trip included.
        let took = now.since(self.busy_since).as_micros() as u64;
        let rate = self.busy_bytes.saturating_mul(1_000_000) / took.max(500);
        if self.busy_bytes >= SAMPLE_BYTES_MIN && self.rate.is_none_or(|known| rate > known) {
            self.rate = Some(rate);
        }
    }

    /// It failed: not asked for a while, longer each time.
    pub(super) fn failed(&mut self, now: Instant, first: Duration, max: Duration) {
        let pause = first.saturating_mul(1 << self.failures.min(10)).min(max);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = self.retry_at.max(now.after(pause));
    }

    /// It answered late; a mild failure. Was it `silent` meanwhile, or is it late again and again, nobody waits for it any more
    /// until it has answered something to the end: else each read would wait for it once more.
    pub(super) fn was_late(&mut self, silent: bool) {
        self.lates = self.lates.saturating_add(1);
        if silent || self.lates >= LATES_MAX {
            self.failures = self.failures.max(1);
        }
        if let Some((_, deviation)) = &mut self.rtt {
            *deviation = (*deviation * 5 / 4).min(500_000);
        }
    }

    /// Whether a chunk that nobody announced was there.
    pub(super) fn guessed(&mut self, hit: bool) {
        if self.hits + self.misses >= 16 {
            self.hits /= 2;
            self.misses /= 2;
        }
        if hit { self.hits += 1 } else { self.misses += 1 }
    }

    /// Whether it is known to hold most of what is guessed of it.
    pub(super) fn proven(&self) -> bool {
        self.hits > 0 && self.guess_percent() >= 75
    }

    /// Whether a guess at it is worth no look-up beside it.
    pub(super) fn trusted(&self) -> bool {
        self.misses == 0 || self.proven()
    }

    /// How likely it holds a chunk of a tree of which it held others, in percent.
    pub(super) fn guess_percent(&self) -> u64 {
        u64::from(self.hits + 1) * 100 / u64::from(self.hits + self.misses + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::peer::PeerId;

    fn peer() -> Peer {
        Peer::new(Instant(0), Contact { peer: PeerId([1; 32]), addrs: vec![] })
    }

    #[test]
    fn rate_is_measured_from_what_comes() {
        let mut peer = peer();
        peer.linked = true;
        peer.hint_rtt(Duration::from_millis(50));
        peer.wake(Instant(0));
        for step in 1..=100u64 {
            peer.brought(Instant(50_000 + step * 10_000), 125_000);
        }
        let rate = peer.rate().unwrap();
        assert!((11_000_000..14_000_000).contains(&rate), "{rate}");
        assert_eq!(peer.window(), WINDOW_BYTES_MIN.max(rate * 210_000 / 1_000_000));
    }

    #[test]
    fn who_falls_silent_in_the_midst_of_a_transfer_is_found_out_by_his_own_pauses() {
        let mut peer = peer();
        peer.linked = true;
        peer.hint_rtt(Duration::from_millis(50));
        // Before there is anything to go by: round trips.
        assert_eq!(peer.stall_after(), Duration::from_micros(3 * 50_000 + 6 * 12_500 + 50_000));
        peer.wake(Instant(0));
        let mut now = 60_000;
        for step in 0..40 {
            peer.brought(Instant(now), 256 << 10);
            now += if step == 5 { 300_000 } else { 20_000 };
        }
        // The longest pause is forgotten by and by.
        let after = peer.stall_after();
        assert!((300_000..450_000).contains(&(after.as_micros() as u64)), "{after:?}");
        for _ in 0..60 {
            peer.brought(Instant(now), 256 << 10);
            now += 20_000;
        }
        assert_eq!(peer.stall_after(), Duration::from_millis(250), "the least");
        // However often it was late meanwhile.
        for _ in 0..20 {
            peer.was_late(false);
        }
        assert_eq!(peer.stall_after(), Duration::from_millis(250));
        peer.wake(Instant(now));
        assert!(peer.stall_after() > Duration::from_millis(250), "another transfer begins with a round trip");
    }

    #[test]
    fn bursts_do_not_pass_for_a_rate() {
        let mut peer = peer();
        peer.linked = true;
        peer.hint_rtt(Duration::from_millis(50));
        peer.wake(Instant(0));
        peer.in_flight = 2 << 20;
        let mut rates = Vec::new();
        // 12.5 MB/s, of which every 2 MiB end together, as answers do that come side by side.
        for burst in 1..=30u64 {
            for part in 0..32u64 {
                peer.brought(Instant(burst * 167_772 + part * 100), 64 << 10);
                rates.extend(peer.rate());
            }
        }
        let (least, most) = (rates.iter().min().unwrap(), rates.iter().max().unwrap());
        assert!((10_000_000..15_000_000).contains(least) && (10_000_000..15_000_000).contains(most), "{least} {most}");
    }

    #[test]
    fn failures_lengthen_the_pause_and_success_forgets_them() {
        let mut peer = peer();
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(10));
        peer.failed(Instant(0), first, max);
        assert_eq!(peer.retry_at, Instant(100_000));
        peer.failed(Instant(100_000), first, max);
        assert_eq!(peer.retry_at, Instant(300_000));
        peer.brought(Instant(400_000), 1);
        assert!(peer.on_trial(), "bytes alone prove nothing");
        peer.answered(Instant(400_000));
        assert!(!peer.on_trial());
        peer.failed(Instant(400_000), first, max);
        assert_eq!(peer.retry_at, Instant(500_000));
    }

    #[test]
    fn who_is_late_is_tried_before_it_is_waited_for_again() {
        let mut peer = peer();
        for _ in 1..LATES_MAX {
            peer.was_late(false);
            assert!(!peer.on_trial(), "others of its answers go on");
        }
        peer.was_late(false);
        assert!(peer.on_trial());
        peer.answered(Instant(0));
        peer.was_late(false);
        assert!(!peer.on_trial());
        peer.was_late(true);
        assert!(peer.on_trial());
    }

    #[test]
    fn guesses_are_trusted_by_their_record() {
        let mut peer = peer();
        assert_eq!(peer.guess_percent(), 100);
        peer.guessed(false);
        peer.guessed(false);
        assert!(peer.guess_percent() < 40);
        for _ in 0..20 {
            peer.guessed(true);
        }
        assert!(peer.guess_percent() > 80);
    }
}
