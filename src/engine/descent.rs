//! Directories fetched ahead of who walks a tree: once a second directory of one parent is entered, its siblings come before they are
//! asked for, so that each costs the walker no round trip. Who enters one alone fetches that one alone.

/// Directories that may be here before they are entered.
const AHEAD: usize = 16;
/// Fetched for each that is entered: the walker is soon overtaken.
const STEP: usize = 4;

/// How far the directories of one parent were entered and asked for.
#[derive(Debug, Default)]
pub(super) struct Descent {
    entered: usize,
    asked: usize,
    /// The name of the directory last asked for, or first entered. Walkers go by name or in no order at all.
    cursor: Option<Vec<u8>>,
}

impl Descent {
    /// Notes that the directory `name` is entered; tells how many to ask for, after which name.
    pub(super) fn enter(&mut self, name: &[u8]) -> Option<(Option<Vec<u8>>, usize)> {
        self.entered += 1;
        match self.entered {
            1 => self.cursor = Some(name.to_vec()),
            2 if self.cursor.as_deref() > Some(name) => self.cursor = None,
            _ => {}
        }
        let room = (self.entered + AHEAD).saturating_sub(self.asked).min(STEP);
        (self.entered > 1 && room > 0).then(|| (self.cursor.clone(), room))
    }

    /// Notes that `count` were asked for, the last of them `name`.
    pub(super) fn asked(&mut self, count: usize, name: Vec<u8>) {
        self.asked += count;
        self.cursor = Some(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enters `names` of a parent with directories 0 .. 100; how many of those were asked for before they were entered, and in all.
    fn walk(names: impl Iterator<Item = u8>) -> (usize, usize) {
        let mut descent = Descent::default();
        let (mut asked, mut ahead) = (Vec::new(), 0);
        for name in names {
            ahead += usize::from(asked.contains(&name));
            if let Some((after, count)) = descent.enter(&[name]) {
                let from = after.map_or(0, |after| after[0] + 1);
                let next: Vec<u8> = (from..100).take(count).collect();
                if let Some(last) = next.last() {
                    descent.asked(next.len(), vec![*last]);
                }
                assert!(next.iter().all(|name| !asked.contains(name)), "twice");
                asked.extend(next);
            }
        }
        (ahead, asked.len())
    }

    #[test]
    fn walker_by_name_waits_for_the_first_alone() {
        assert!(walk(0..100).0 >= 97);
        assert!(walk(40..100).0 >= 57);
    }

    #[test]
    fn walker_in_no_order_waits_seldom() {
        // 37 is a generator modulo 101, so this meets each once.
        let mut at = 1u32;
        let order = std::iter::repeat_with(|| {
            at = at * 37 % 101;
            at as u8 - 1
        });
        let (ahead, _) = walk(order.take(100).filter(|name| *name < 100));
        assert!(ahead > 40, "{ahead}");
    }

    #[test]
    fn little_comes_that_nobody_enters() {
        assert_eq!(walk(5..6), (0, 0));
        assert!(walk(5..10).1 <= 5 + AHEAD);
    }
}
