//! The limit of upload by the clock on the wall: what holds now, and the machine is told when that changes.

use super::status::UploadStatus;
use super::swarm::Swarm;
use crate::base::sync::lock;
use crate::base::units::Rate;
use crate::base::week::{DAY_MINUTES, Week};
use crate::node::input::Command;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tracing::{info, warn};

/// The clock is looked at so often at least: it may be set, and a machine that sleeps does not count the time.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// A clock that was turned back longer ago has made up for it.
const TURNED_BACK: SignedDuration = SignedDuration::from_hours(24);

/// A limit and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    limit: Option<Rate>,
    /// When it ends, and what holds then.
    next: Option<(Timestamp, Option<Rate>)>,
}

/// The week that is in force.
#[derive(Debug)]
pub(super) struct Timetable {
    week: watch::Sender<Week>,
    /// What the machine was told, and in which zone that is.
    told: Mutex<(Held, TimeZone)>,
}

impl Timetable {
    /// Begins with this week.
    pub(super) fn new(week: Week) -> Timetable {
        // `run` says where it is not known.
        let zone = zone(&week, &mut true);
        let told = Mutex::new((held(&week, &zone, Timestamp::now()), zone));
        Timetable { week: watch::Sender::new(week), told }
    }

    /// Another week from now on.
    pub(super) fn set(&self, week: Week) {
        self.week.send_replace(week);
    }

    /// Bytes a second that may be sent.
    pub(super) fn rate(&self) -> Option<u64> {
        lock(&self.told).0.limit.map(Rate::bytes)
    }

    /// What is in force, for people and programs.
    pub(super) fn status(&self) -> UploadStatus {
        let (held, zone) = lock(&self.told).clone();
        let local = |at: Timestamp| at.to_zoned_datetime(zone.clone()).strftime("%a %H:%M %Z").to_string();
        UploadStatus {
            limit_bits: held.limit.map(|rate| rate.0),
            until: held.next.and_then(|(at, _)| u64::try_from(at.as_second()).ok()),
            until_local: held.next.map(|(at, _)| local(at)),
            then_bits: held.next.and_then(|(_, limit)| limit).map(|rate| rate.0),
        }
    }

    /// Tells the machine of each change until the engine stops.
    pub(super) async fn run(self: Arc<Timetable>, swarm: Swarm) {
        let (mut changes, mut warned) = (self.week.subscribe(), false);
        loop {
            let (week, now) = (changes.borrow_and_update().clone(), Timestamp::now());
            let zone = zone(&week, &mut warned);
            let held = held(&week, &zone, now);
            let before = std::mem::replace(&mut *lock(&self.told), (held, zone)).0;
            if held.limit != before.limit {
                let shown = held.limit.map_or("unlimited".to_string(), |rate| rate.to_string());
                info!(limit = shown, "another limit of upload");
                swarm.command(Command::Upload(held.limit.map(Rate::bytes)));
            }
            let left = held.next.map(|(at, _)| Duration::try_from(at.duration_since(now)).unwrap_or_default());
            tokio::select! {
                () = tokio::time::sleep(left.unwrap_or(LOOK_MAX).min(LOOK_MAX)) => {}
                changed = changes.changed() => if changed.is_err() { return },
                () = swarm.events.closed() => return,
            }
        }
    }
}

/// The zone of `TZ`, else the machine's. Where it is not known, and something depends on it, that is said once.
fn zone(week: &Week, warned: &mut bool) -> TimeZone {
    TimeZone::try_system().unwrap_or_else(|error| {
        if week.changes_after(0).next().is_some() && !std::mem::replace(warned, true) {
            warn!(%error, "the local time zone is not known: the schedule of the upload goes by UTC");
        }
        TimeZone::UTC
    })
}

/// What the clock shows; after it was turned back, what it had shown before, until it has caught up: what has begun does not begin twice.
fn shown(zone: &TimeZone, now: Timestamp) -> DateTime {
    let clock = zone.to_datetime(now);
    let moment = SignedDuration::from_nanos(1);
    let last = now.checked_add(moment).ok().and_then(|after| zone.preceding(after).next());
    match last.map(|turned| turned.timestamp()).filter(|turned| now.duration_since(*turned) < TURNED_BACK) {
        Some(turned) => turned.checked_sub(moment).map_or(clock, |before| clock.max(zone.to_datetime(before))),
        None => clock,
    }
}

/// When the clock first shows this, or jumps over it.
fn moment(zone: &TimeZone, clock: DateTime) -> Option<Timestamp> {
    let found = zone.to_ambiguous_timestamp(clock);
    let jumps = matches!(found.offset(), AmbiguousOffset::Gap { .. });
    let first = found.earlier().ok()?;
    if jumps { zone.following(first).next().map(|turned| turned.timestamp()) } else { Some(first) }
}

/// Which minute of the week that is, from Monday on.
fn minute(clock: DateTime) -> u16 {
    let day = u16::from(clock.date().weekday().to_monday_zero_offset().unsigned_abs());
    day * DAY_MINUTES + u16::from(clock.hour().unsigned_abs()) * 60 + u16::from(clock.minute().unsigned_abs())
}

/// What holds now.
fn held(week: &Week, zone: &TimeZone, now: Timestamp) -> Held {
    let clock = shown(zone, now);
    let limit = week.at(minute(clock));
    let begun = clock.date().at(clock.hour(), clock.minute(), 0, 0);
    let mut changes = week.changes_after(minute(clock)).filter_map(|minutes| {
        let at = moment(zone, begun.checked_add(i32::from(minutes).minutes()).ok()?)?;
        // Where the clock jumps over several, the last of them holds.
        Some((at, week.at(minute(shown(zone, at)))))
    });
    Held { limit, next: changes.find(|(at, next)| *at > now && *next != limit) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::week::WEEK_MINUTES;
    use proptest::prelude::*;

    /// Berlin's: forward on 2026-03-29 at 02:00, back on 2026-10-25 at 03:00.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn utc(text: &str) -> Timestamp {
        format!("{text}Z").parse().unwrap()
    }

    fn mbit(rate: u64) -> Option<Rate> {
        Some(Rate(rate * 1_000_000))
    }

    /// 1 Mbit/s, each day between these minutes 2 Mbit/s.
    fn daily(from: u16, to: u16) -> Week {
        Week::new(|minute| if (from..to).contains(&(minute % DAY_MINUTES)) { mbit(2) } else { mbit(1) })
    }

    fn assert_held(week: &Week, now: &str, limit: Option<Rate>, until: &str) {
        let found = held(week, &berlin(), utc(now));
        assert_eq!((found.limit, found.next.map(|(at, _)| at)), (limit, Some(utc(until))), "at {now}");
    }

    #[test]
    fn it_changes_at_the_border_and_not_before_and_over_the_end_of_the_week() {
        let week = daily(8 * 60, 18 * 60);
        // In winter Berlin is an hour ahead.
        assert_held(&week, "2026-01-05T06:59:59.999", mbit(1), "2026-01-05T07:00");
        assert_held(&week, "2026-01-05T07:00", mbit(2), "2026-01-05T17:00");
        assert_held(&week, "2026-07-06T15:59:59", mbit(2), "2026-07-06T16:00");
        let night = Week::new(|minute| if (60..WEEK_MINUTES - 60).contains(&minute) { mbit(1) } else { None });
        // On Sunday at 23:00, until Monday at 01:00.
        assert_held(&night, "2026-01-04T21:59", mbit(1), "2026-01-04T22:00");
        assert_held(&night, "2026-01-04T22:00", None, "2026-01-05T00:00");
        assert_held(&night, "2026-01-04T23:30", None, "2026-01-05T00:00");
        assert_held(&night, "2026-01-05T00:00", mbit(1), "2026-01-11T22:00");
        assert_eq!(
            held(&Week::always(mbit(3)), &berlin(), utc("2026-01-05T00:00")),
            Held { limit: mbit(3), next: None }
        );
    }

    #[test]
    fn what_lies_in_an_hour_that_is_skipped_begins_with_the_jump_or_not_at_all() {
        let begins = daily(2 * 60 + 30, 5 * 60);
        assert_held(&begins, "2026-03-29T00:59", mbit(1), "2026-03-29T01:00");
        assert_held(&begins, "2026-03-29T01:00", mbit(2), "2026-03-29T03:00");
        let ends = daily(60, 2 * 60 + 30);
        assert_held(&ends, "2026-03-29T00:30", mbit(2), "2026-03-29T01:00");
        assert_held(&ends, "2026-03-29T01:00", mbit(1), "2026-03-29T23:00");
        let within = daily(2 * 60 + 10, 2 * 60 + 50);
        assert_held(&within, "2026-03-28T01:50", mbit(1), "2026-03-30T00:10");
    }

    #[test]
    fn what_begins_in_an_hour_that_comes_twice_begins_once() {
        let begins = daily(2 * 60 + 30, 5 * 60);
        assert_held(&begins, "2026-10-25T00:29", mbit(1), "2026-10-25T00:30");
        // The clock shows 02:30, at 01:00 UTC 02:00 again, then 02:30 again.
        for now in ["2026-10-25T00:30", "2026-10-25T00:59:59", "2026-10-25T01:00", "2026-10-25T01:30"] {
            assert_held(&begins, now, mbit(2), "2026-10-25T04:00");
        }
        let within = daily(2 * 60 + 10, 2 * 60 + 50);
        assert_held(&within, "2026-10-25T00:10", mbit(2), "2026-10-25T00:50");
        assert_held(&within, "2026-10-25T01:15", mbit(1), "2026-10-26T01:10");
    }

    /// The latest that the clock ever showed, looked at minute by minute.
    fn naive(week: &Week, zone: &TimeZone, from: Timestamp) -> Vec<Option<Rate>> {
        let minute_by_minute = (-1500..6000).map(|step: i64| from + SignedDuration::from_mins(step));
        let latest = minute_by_minute.scan(DateTime::MIN, |latest, now| {
            *latest = zone.to_datetime(now).max(*latest);
            Some(week.at(minute(*latest)))
        });
        latest.skip(1500).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn it_is_what_a_clock_that_never_goes_back_says(
            changes in proptest::collection::vec((0..WEEK_MINUTES, 0..3_u64), 1..12),
            near in 0..4_usize,
            start in -3000..3000_i64,
            zone in 0..3_usize,
        ) {
            let mut changes = changes;
            changes.sort();
            let week = Week::new(|minute| {
                let found = changes.iter().rev().find(|(from, _)| *from <= minute).or(changes.last());
                found.and_then(|(_, rate)| mbit(*rate).filter(|_| *rate > 0))
            });
            let zones = ["CET-1CEST,M3.5.0,M10.5.0/3", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", "EST5EDT,M3.2.0,M11.1.0"];
            let zone = TimeZone::posix(zones[zone]).unwrap();
            let near = ["2026-03-29T01:00", "2026-10-25T01:00", "2026-04-04T15:00", "2026-11-01T06:00"][near];
            let from = utc(near) + SignedDuration::from_mins(start);
            let naive = naive(&week, &zone, from);
            let mut now = 0;
            while let Some(limit) = naive.get(now) {
                let at = from + SignedDuration::from_mins(now as i64);
                let found = held(&week, &zone, at);
                prop_assert_eq!(&found.limit, limit, "at {}", at);
                let same = naive[now..].iter().take_while(|other| *other == limit).count();
                if let Some((until, next)) = found.next.filter(|(until, _)| *until <= from + SignedDuration::from_mins(5999)) {
                    prop_assert_eq!(until, at + SignedDuration::from_mins(same as i64));
                    prop_assert_eq!(next, naive[now + same]);
                } else {
                    prop_assert_eq!(now + same, naive.len());
                }
                // Each change, and a minute now and then between.
                now += same.min(391);
            }
        }
    }
}
