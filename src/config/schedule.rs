//! `[network] schedule`: another limit of upload at set times of the week. Read again while the node runs.

use super::file::Placed;
use super::upload::Upload;
use super::{ConfigError, Layers, Setting, Source};
use crate::base::week::{DAY_MINUTES, WEEK_MINUTES, Week};
use std::fmt;
use std::str::FromStr;

const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const EXAMPLE: &str = "\"mon-fri 08:00-18:00 2 Mbit/s\", \"sat sun unlimited\" or \"23:00 unlimited\"";

/// One line of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    text: String,
    /// By day, Monday first.
    days: [bool; 7],
    /// When it begins, in minutes of the day.
    start: u16,
    /// For how many minutes it holds; without: until the next such entry begins.
    minutes: Option<u16>,
    upload: Upload,
}

/// All of them, no two of which disagree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule(Vec<Entry>);

/// The schedule of the highest layer that has one. In one text entries are parted by commas.
pub(super) fn load(layers: &Layers<'_>, file: &[Placed]) -> Result<Setting<Schedule>, ConfigError> {
    let (variable, key) = ("TORNET_NETWORK_SCHEDULE", "network.schedule");
    let texts = match (layers.env)(variable) {
        Some(text) => vec![(text, Source::Environment(variable))],
        None => {
            let texts = file.iter();
            texts.map(|(text, at)| (text.clone(), Source::File(layers.path.to_path_buf(), *at))).collect()
        }
    };
    let source = texts.first().map_or(Source::Default, |(_, source)| source.clone());
    let mut value = Schedule::default();
    for (text, place) in texts {
        for entry in text.split(',').filter(|entry| !entry.trim().is_empty()) {
            value.add(entry).map_err(|message| ConfigError::Value { place: place.clone(), key, message })?;
        }
    }
    Ok(Setting { value, source })
}

impl FromStr for Entry {
    type Err = String;
    fn from_str(text: &str) -> Result<Entry, String> {
        let joined = text.split('-').map(str::trim).collect::<Vec<_>>().join("-");
        let wrong = |why: String| format!("{:?}: {why}, as in {EXAMPLE}", text.trim());
        let mut words = joined.split_whitespace().peekable();
        let (mut days, mut named) = ([false; 7], false);
        while let Some(word) = words.next_if(|word| word.starts_with(char::is_alphabetic) && *word != "unlimited") {
            mark_days(word, &mut days).map_err(wrong)?;
            named = true;
        }
        if !named {
            days = [true; 7];
        }
        let time = match words.next_if(|word| word.contains(':')) {
            Some(word) => span(word).map_err(wrong)?,
            None if named => (0, Some(DAY_MINUTES)),
            None => return Err(wrong("an entry begins with days of the week, a time, or both".into())),
        };
        let rate = words.collect::<Vec<_>>().join(" ");
        if rate.is_empty() {
            return Err(wrong("a rate is missing".into()));
        }
        let upload = rate.parse().map_err(|why| format!("{:?}: {why}", text.trim()))?;
        let text = joined.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Entry { text, days, start: time.0, minutes: time.1, upload })
    }
}

/// `mon`, `monday`, `mon-fri`, `sat-mon`.
fn mark_days(word: &str, days: &mut [bool; 7]) -> Result<(), String> {
    let day = |name: &str| {
        let lower = name.to_ascii_lowercase();
        let known = DAYS.iter().position(|day| lower.len() >= 3 && day.starts_with(&lower));
        known.ok_or_else(|| format!("{name:?} is no day of the week (mon, tue, wed, thu, fri, sat, sun)"))
    };
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (day(first)?, day(last)?);
    for step in 0..=(last + 7 - first) % 7 {
        if let Some(marked) = days.get_mut((first + step) % 7) {
            *marked = true;
        }
    }
    Ok(())
}

/// `08:00`, or `22:00-06:00`, which ends on the next day.
fn span(word: &str) -> Result<(u16, Option<u16>), String> {
    let time = |text: &str, last: u16| {
        let parts = text.split_once(':');
        let digits = |text: &str| (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let known = parts.filter(|(hour, minute)| digits(hour) && digits(minute) && minute.len() == 2);
        let parsed = known.and_then(|(hour, minute)| Some((hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?)));
        let at = parsed.filter(|(_, minute)| *minute < 60).map(|(hour, minute)| hour * 60 + minute);
        at.filter(|at| *at <= last).ok_or_else(|| format!("{text:?} is no time of day from 00:00 to 23:59"))
    };
    let Some((from, to)) = word.split_once('-') else { return Ok((time(word, DAY_MINUTES - 1)?, None)) };
    let (from, to) = (time(from, DAY_MINUTES - 1)?, time(to, DAY_MINUTES)?);
    let minutes = if to > from { to - from } else { to + DAY_MINUTES - from };
    if from == to {
        return Err(format!("{word:?} ends when it begins: whole days are named without a time"));
    }
    Ok((from, Some(minutes)))
}

impl Entry {
    /// The minutes of the week at which it begins.
    fn starts(&self) -> impl Iterator<Item = u16> + '_ {
        let days = (0..7).zip(self.days).filter(|(_, marked)| *marked);
        days.map(|(day, _)| day * DAY_MINUTES + self.start)
    }
}

/// Two entries for the same minute.
struct Clash<'a> {
    minute: u16,
    entries: [&'a Entry; 2],
}

impl fmt::Display for Clash<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = DAYS.get(usize::from(self.minute / DAY_MINUTES)).copied().unwrap_or_default();
        let (hour, minute) = (self.minute % DAY_MINUTES / 60, self.minute % 60);
        let [first, second] = self.entries.map(|entry| &entry.text);
        write!(
            f,
            "{first:?} and {second:?} both hold on {day} at {hour:02}:{minute:02}: end one where the other begins"
        )
    }
}

impl Schedule {
    /// Another entry; refused when it contradicts one that is here.
    pub(super) fn add(&mut self, text: &str) -> Result<(), String> {
        self.0.push(text.parse()?);
        for ends in [true, false] {
            self.painted(ends).map_err(|clash| clash.to_string())?;
        }
        Ok(())
    }

    /// The entries, with an end or without, each at the minutes of the week at which it holds or begins.
    fn painted(&self, ends: bool) -> Result<Vec<Option<&Entry>>, Clash<'_>> {
        let mut week = vec![None; usize::from(WEEK_MINUTES)];
        for entry in self.0.iter().filter(|entry| entry.minutes.is_some() == ends) {
            for start in entry.starts() {
                for minute in (start..).take(usize::from(entry.minutes.unwrap_or(1))).map(|at| at % WEEK_MINUTES) {
                    let Some(place) = week.get_mut(usize::from(minute)) else { continue };
                    if let Some(other) = place.replace(entry) {
                        return Err(Clash { minute, entries: [other, entry] });
                    }
                }
            }
        }
        Ok(week)
    }

    /// The limit at each time of the week: an entry with an end, else the last one without that began, else what holds in general.
    pub fn week(&self, usual: Upload) -> Week {
        let [closed, mut open] = [true, false].map(|ends| self.painted(ends).unwrap_or_default());
        let mut last = open.iter().rev().find_map(|entry| *entry);
        for place in &mut open {
            last = place.or(last);
            *place = last;
        }
        let limits = |week: &[Option<&Entry>]| {
            let limits = week.iter().map(|entry| entry.map(|entry| entry.upload));
            limits.collect::<Vec<Option<Upload>>>()
        };
        let (closed, open) = (limits(&closed), limits(&open));
        let held = |week: &[Option<Upload>], minute: u16| week.get(usize::from(minute)).copied().flatten();
        Week::new(|minute| held(&closed, minute).or(held(&open, minute)).unwrap_or(usual).0)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (place, entry) in self.0.iter().enumerate() {
            write!(f, "{}{}", if place > 0 { ", " } else { "" }, entry.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::Rate;
    use proptest::prelude::*;

    fn schedule(entries: &[&str]) -> Result<Schedule, String> {
        let mut schedule = Schedule::default();
        entries.iter().try_for_each(|entry| schedule.add(entry))?;
        Ok(schedule)
    }

    fn mbit(rate: u64) -> Option<Rate> {
        Some(Rate(rate * 1_000_000))
    }

    /// What holds on that day (0: Monday) at that time, beside a usual limit of 99 Mbit/s.
    fn at(entries: &[&str], day: u16, hour: u16, minute: u16) -> Option<Rate> {
        schedule(entries).unwrap().week(Upload(mbit(99))).at(day * DAY_MINUTES + hour * 60 + minute)
    }

    #[test]
    fn an_entry_holds_from_its_start_to_its_end_or_to_the_next() {
        let open = ["mon-fri 08:00 2Mbit/s", "mon-fri 18:00 unlimited", "sat-sun 00:00 10Mbit/s"];
        let mut held = Vec::new();
        for (day, hour, minute) in [(0, 7, 59), (0, 8, 0), (0, 17, 59), (4, 18, 0), (4, 23, 59), (5, 0, 0), (6, 23, 59)]
        {
            held.push(at(&open, day, hour, minute));
        }
        // On Monday morning Sunday's goes on.
        assert_eq!(held, [mbit(10), mbit(2), mbit(2), None, None, mbit(10), mbit(10)]);
        let closed = ["Monday 8:00 - 18:00 2 Mbit/s", "sun 22:00-06:00 unlimited", "wed thu 1 Mbit/s"];
        for (day, hour, held) in [(0, 5, None), (0, 6, mbit(99)), (0, 8, mbit(2)), (0, 18, mbit(99)), (6, 22, None)] {
            assert_eq!(at(&closed, day, hour, 0), held, "day {day}, {hour}:00");
        }
        assert_eq!([1, 2, 3, 4].map(|day| at(&closed, day, 12, 0)), [mbit(99), mbit(1), mbit(1), mbit(99)]);
        // What ends lies over what does not.
        let both = ["00:00 unlimited", "sat-mon 09:00-24:00 3 Mbit/s"];
        assert_eq!(
            [(5, 8), (5, 9), (6, 23), (0, 23), (1, 0), (1, 9)].map(|(day, hour)| at(&both, day, hour, 0)),
            [None, mbit(3), mbit(3), mbit(3), None, None]
        );
        assert_eq!(schedule(&both).unwrap().to_string(), "00:00 unlimited, sat-mon 09:00-24:00 3 Mbit/s");
        assert_eq!(schedule(&[]).unwrap().week(Upload(mbit(7))), Week::always(mbit(7)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (text, told) in [
            ("", "an entry begins with days of the week, a time, or both, as in \"mon-fri 08:00-18:00 2 Mbit/s\""),
            ("2 Mbit/s", "begins with days of the week"),
            ("mon", "\"mon\": a rate is missing"),
            ("mo 08:00 2 Mbit/s", "\"mo\" is no day of the week (mon, tue"),
            ("mon-day 08:00 2 Mbit/s", "\"day\" is no day of the week"),
            ("mon 24:00 2 Mbit/s", "\"24:00\" is no time of day"),
            ("mon 08:60 2 Mbit/s", "\"08:60\" is no time of day"),
            ("mon 8:0 2 Mbit/s", "\"8:0\" is no time of day"),
            ("08:00-24:01 2 Mbit/s", "\"24:01\" is no time of day"),
            ("08:00-08:00 2 Mbit/s", "ends when it begins"),
            ("08:00 2", "\"08:00 2\": \"2\" has no unit"),
            ("08:00 1 kbit/s", "less than anybody would wait for"),
        ] {
            let error = schedule(&[text]).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        assert_eq!(
            schedule(&["mon-wed 08:00-18:00 2 Mbit/s", "tue 17:00-19:00 unlimited"]).unwrap_err(),
            "\"mon-wed 08:00-18:00 2 Mbit/s\" and \"tue 17:00-19:00 unlimited\" both hold on tuesday at 17:00: end one where the other begins"
        );
        assert!(schedule(&["sun 23:00-01:00 2 Mbit/s", "mon 1 Mbit/s"]).unwrap_err().contains("on monday at 00:00"));
        assert!(schedule(&["08:00 2 Mbit/s", "fri 08:00 1 Mbit/s"]).unwrap_err().contains("on friday at 08:00"));
    }

    proptest! {
        #[test]
        fn any_entry_is_read_or_refused_and_what_is_shown_is_read_again(text in "(mon|tue-|sun|x| |-|0?8:00|24:00|2 Mbit/s|unlimited){0,7}") {
            if let Ok(schedule) = schedule(&[&text]) {
                let again = self::schedule(&[&schedule.to_string()]).unwrap();
                prop_assert_eq!(again.week(Upload(None)), schedule.week(Upload(None)));
            }
        }
    }
}
