//! A limit that changes at set times of the week.

use super::units::Rate;

/// Minutes of a day.
pub const DAY_MINUTES: u16 = 24 * 60;
/// Minutes of a week, which begins with Monday.
pub const WEEK_MINUTES: u16 = 7 * DAY_MINUTES;

/// The limit in each minute of a week, by the clock on the wall; `None`: none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Week {
    /// Where it changes, in order. It may change at none: then this is one entry.
    changes: Vec<(u16, Option<Rate>)>,
}

impl Default for Week {
    /// No limit at any time.
    fn default() -> Week {
        Week::always(None)
    }
}

impl Week {
    /// The same all the time.
    pub fn always(limit: Option<Rate>) -> Week {
        Week { changes: vec![(0, limit)] }
    }

    /// One limit for each minute.
    pub fn new(limit: impl Fn(u16) -> Option<Rate>) -> Week {
        let before = |minute: u16| minute.checked_sub(1).unwrap_or(WEEK_MINUTES - 1);
        let changes = (0..WEEK_MINUTES).filter(|minute| limit(*minute) != limit(before(*minute)));
        let changes: Vec<(u16, Option<Rate>)> = changes.map(|minute| (minute, limit(minute))).collect();
        if changes.is_empty() { Week::always(limit(0)) } else { Week { changes } }
    }

    /// What holds in this minute of the week.
    pub fn at(&self, minute: u16) -> Option<Rate> {
        let begun = self.changes.iter().rev().find(|(from, _)| *from <= minute);
        // What the week ends with goes on when the next begins.
        begun.or(self.changes.last()).and_then(|(_, limit)| *limit)
    }

    /// How many minutes after this one of the week it changes, the next times it does: within a week, at the latest in a week.
    pub fn changes_after(&self, minute: u16) -> impl Iterator<Item = u16> + '_ {
        let changes = if self.changes.len() > 1 { self.changes.as_slice() } else { &[] };
        let split = changes.partition_point(|(from, _)| *from <= minute);
        let (past, ahead) = changes.split_at(split);
        let this = ahead.iter().map(move |(from, _)| from - minute);
        this.chain(past.iter().map(move |(from, _)| from + (WEEK_MINUTES - minute)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_week_ends_as_the_next_begins() {
        let (day, night) = (Some(Rate(1)), None);
        let evening = WEEK_MINUTES - 60;
        let week = Week::new(|minute| if (60..evening).contains(&minute) { day } else { night });
        assert_eq!(
            [0, 59, 60, evening - 1, evening, WEEK_MINUTES - 1].map(|minute| week.at(minute)),
            [night, night, day, day, night, night]
        );
        assert_eq!(week.changes_after(0).collect::<Vec<_>>(), [60, evening]);
        assert_eq!(week.changes_after(60).collect::<Vec<_>>(), [evening - 60, WEEK_MINUTES]);
        assert_eq!(week.changes_after(WEEK_MINUTES - 1).collect::<Vec<_>>(), [61, evening + 1]);
        let always = Week::new(|_| day);
        assert_eq!((always.at(5), always.changes_after(5).next()), (day, None));
        assert_eq!(always, Week::always(day));
    }

    proptest! {
        #[test]
        fn each_minute_has_what_it_was_given(mut borders in proptest::collection::vec((0..WEEK_MINUTES, 0..3_u64), 1..9)) {
            borders.sort();
            let limit = |minute: u16| {
                let found = borders.iter().rev().find(|(from, _)| *from <= minute).or(borders.last());
                found.and_then(|(_, rate)| (*rate > 0).then_some(Rate(*rate)))
            };
            let week = Week::new(limit);
            for minute in 0..WEEK_MINUTES {
                prop_assert_eq!(week.at(minute), limit(minute));
            }
        }
    }
}
