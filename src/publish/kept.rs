//! A group of chunks as it is looked after: who is known to hold what of it, and since when nothing was heard.

use super::job::Group;
use crate::base::digest::ChunkId;
use crate::base::peer::PeerId;
use std::collections::BTreeSet;
use std::time::Duration;

/// Holders remembered of one chunk beyond those it should have: who was away and came back.
const SPARE_MAX: usize = 2;
/// Who is away for so long is not counted on where few are left: a host that is only restarted is back by then.
pub(super) const HASTE: Duration = Duration::from_secs(30);

/// Who holds a chunk. Times are seconds of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub peer: PeerId,
    /// When it last gave a slice of the chunk, or said that it holds it for us.
    pub proved: u64,
    /// Since when it gives none; 0: it gave one when it was last asked.
    pub silent: u64,
    /// Until when it promised to keep the chunk; 0: it promised nothing.
    pub until: u64,
}

impl Holder {
    /// For how long it kept the chunk as it promised to, since it proved that last. Who was away in between is not paid for that time.
    pub fn kept(&self, now: u64) -> Duration {
        let since = now.min(self.until).saturating_sub(self.proved);
        Duration::from_secs(if self.silent == 0 { since } else { 0 })
    }
}

/// A stripe or a lone chunk that is looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Id and length in bytes of each chunk.
    pub chunks: Vec<(ChunkId, u32)>,
    /// How many of them give all others.
    pub data: u8,
    /// On how many distinct peers each shall lie.
    pub copies: u8,
    /// Who holds each of them, as far as known.
    pub holders: Vec<Vec<Holder>>,
}

impl Kept {
    /// Of which nobody is known to hold anything.
    pub fn new(group: &Group) -> Kept {
        let holders = vec![Vec::new(); group.chunks.len()];
        Kept { chunks: group.chunks.clone(), data: group.data, copies: group.copies.max(1), holders }
    }

    /// The same as it is to be hosted.
    pub fn group(&self) -> Group {
        Group { chunks: self.chunks.clone(), data: self.data, copies: self.copies }
    }

    /// On how many distinct peers it should lie.
    pub fn wanted(&self) -> u16 {
        (self.chunks.len() * usize::from(self.copies)).min(usize::from(u16::MAX)) as u16
    }

    /// Distinct peers that gave a slice of it when they were last asked.
    pub fn hosts(&self) -> u16 {
        let good = self.holders.iter().flatten().filter(|holder| holder.silent == 0);
        good.map(|holder| holder.peer).collect::<BTreeSet<_>>().len().min(usize::from(u16::MAX)) as u16
    }

    /// Chunks of it that anybody gave a slice of when last asked.
    pub fn shards(&self) -> usize {
        self.holders.iter().filter(|holders| holders.iter().any(|holder| holder.silent == 0)).count()
    }

    /// Whether each chunk is held as often as it should be; where peers are few, one may hold several.
    pub fn is_whole(&self) -> bool {
        let full = |holders: &Vec<Holder>| holders.iter().filter(|h| h.silent == 0).count() >= usize::from(self.copies);
        self.holders.iter().all(full)
    }

    /// Whether so little of it is left that what is away must be made good at once.
    fn is_urgent(&self) -> bool {
        if self.chunks.len() == 1 {
            return u16::from(self.copies).div_ceil(2) > self.hosts();
        }
        let (data, spare) = (usize::from(self.data), self.chunks.len().saturating_sub(usize::from(self.data)));
        self.shards() < data + spare.div_ceil(2)
    }

    /// For how many seconds who is away is counted on. Where few are left that is a moment, and once it is over for one of them nobody
    /// is waited for: else some would be replaced and the others, of whom enough are left then, missed for as long as `patience`.
    fn patience(&self, now: u64, patience: u64) -> u64 {
        if !self.is_urgent() {
            return patience;
        }
        let moment = patience.min(HASTE.as_secs());
        let over = |h: &Holder| h.silent > 0 && now.saturating_sub(h.silent) >= moment;
        if self.holders.iter().flatten().any(over) { 0 } else { moment }
    }

    /// Whether so little is left that those who are away will be replaced, who have been for a moment only.
    pub fn is_waiting(&self, now: u64, patience: u64) -> bool {
        let patience = self.patience(now, patience);
        let young = |h: &Holder| h.silent > 0 && now.saturating_sub(h.silent) < patience;
        self.is_urgent() && self.holders.iter().flatten().any(young)
    }

    /// Whom to count on, for each chunk: those who answer, and those who are away for less than `patience` seconds, or for a moment
    /// where few are left. A peer counts once where `spread` asks for distinct ones.
    pub fn standing(&self, now: u64, patience: u64, spread: bool) -> Vec<Vec<PeerId>> {
        let patience = self.patience(now, patience);
        let counts = |h: &&Holder| h.silent == 0 || now.saturating_sub(h.silent) < patience;
        let mut taken = BTreeSet::new();
        let mut places = Vec::with_capacity(self.holders.len());
        for holders in &self.holders {
            let mut good: Vec<&Holder> = holders.iter().filter(counts).collect();
            good.sort_by_key(|holder| holder.silent);
            let each = good.into_iter().map(|holder| holder.peer);
            let place: Vec<PeerId> =
                each.filter(|peer| !spread || taken.insert(*peer)).take(usize::from(self.copies)).collect();
            places.push(place);
        }
        places
    }

    /// A peer gave a slice of a chunk, or said that it holds it; `until` is set when it promised to keep it.
    pub fn proved(&mut self, index: usize, peer: PeerId, now: u64, until: Option<u64>) {
        let room = usize::from(self.copies) + SPARE_MAX;
        let Some(holders) = self.holders.get_mut(index) else { return };
        match holders.iter_mut().find(|holder| holder.peer == peer) {
            Some(holder) => {
                (holder.proved, holder.silent) = (now, 0);
                holder.until = until.unwrap_or(holder.until);
            }
            None => holders.push(Holder { peer, proved: now, silent: 0, until: until.unwrap_or(0) }),
        }
        if holders.len() > room {
            // Whoever is away longest makes room.
            let worst = |(_, holder): &(usize, &Holder)| if holder.silent == 0 { u64::MAX } else { holder.silent };
            if let Some((place, _)) = holders.iter().enumerate().min_by_key(worst) {
                holders.remove(place);
            }
        }
    }

    /// A peer gave nothing: it is away, or (`gone`) it says itself that it does not have the chunk.
    pub fn failed(&mut self, index: usize, peer: &PeerId, now: u64, gone: bool) {
        let Some(holders) = self.holders.get_mut(index) else { return };
        if gone {
            holders.retain(|holder| holder.peer != *peer);
        } else if let Some(holder) = holders.iter_mut().find(|holder| holder.peer == *peer && holder.silent == 0) {
            holder.silent = now.max(1);
        }
    }

    /// The same as long as these peers are away.
    pub fn without(mut self, away: &BTreeSet<PeerId>) -> Kept {
        let gone = self.holders.iter_mut().flatten().filter(|holder| away.contains(&holder.peer));
        gone.for_each(|holder| holder.silent = holder.silent.max(1));
        self
    }

    /// Forgets who has been away for as long as `patience`, where enough others hold the chunk.
    pub fn tidy(&mut self, now: u64, patience: u64) {
        for holders in &mut self.holders {
            let good = holders.iter().filter(|holder| holder.silent == 0).count();
            if good >= usize::from(self.copies) {
                holders.retain(|holder| holder.silent == 0 || now.saturating_sub(holder.silent) < patience);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    fn stripe() -> Kept {
        let chunks = (0..12u8).map(|number| (ChunkId([number; 32]), 1000)).collect();
        let mut kept = Kept::new(&Group { chunks, data: 8, copies: 1 });
        (0..12).for_each(|index| kept.proved(index, peer(index as u8), 100, Some(1000)));
        kept
    }

    #[test]
    fn those_who_are_away_count_until_too_few_are_left() {
        let mut kept = stripe();
        assert!(kept.is_whole() && kept.hosts() == 12);
        kept.failed(0, &peer(0), 200, false);
        kept.failed(1, &peer(1), 200, false);
        assert_eq!((kept.hosts(), kept.shards(), kept.is_whole()), (10, 10, false));
        let standing = |kept: &Kept, now| kept.standing(now, 1000, false).iter().filter(|p| !p.is_empty()).count();
        assert_eq!(standing(&kept, 300), 12, "they may come back");
        assert_eq!(standing(&kept, 1200), 10, "they do not");
        kept.failed(2, &peer(2), 200, false);
        assert_eq!(standing(&kept, 300), 9, "only one more than needed is left beside what two more may take");
        assert_eq!((standing(&kept, 229), standing(&kept, 230)), (12, 9), "but for who is only restarted");
        assert_eq!((kept.is_waiting(229, 1000), kept.is_waiting(230, 1000)), (true, false));
        let mut later = kept.clone();
        later.failed(3, &peer(3), 215, false);
        assert_eq!((standing(&later, 229), standing(&later, 230)), (12, 8), "nor is who went later waited for, then");
        assert_eq!((later.is_waiting(229, 1000), later.is_waiting(230, 1000)), (true, false));
        let gone = (3..8).map(peer).collect();
        assert_eq!((kept.clone().without(&gone).hosts(), kept.hosts()), (4, 9));
        kept.proved(0, peer(0), 400, None);
        assert_eq!(standing(&kept, 500), 12);
        assert_eq!(kept.holders[0][0], Holder { peer: peer(0), proved: 400, silent: 0, until: 1000 });
    }

    #[test]
    fn who_says_that_it_has_nothing_is_forgotten_at_once() {
        let mut kept = stripe();
        kept.failed(5, &peer(5), 200, true);
        assert!(kept.holders[5].is_empty());
        assert_eq!(kept.standing(201, 1000, false).iter().filter(|p| p.is_empty()).count(), 1);
    }

    #[test]
    fn a_peer_counts_once_where_distinct_ones_are_asked_for() {
        let mut kept = stripe();
        kept.failed(3, &peer(3), 200, true);
        kept.proved(3, peer(2), 200, None);
        assert_eq!((kept.shards(), kept.hosts(), kept.is_whole()), (12, 11, true));
        assert_eq!(kept.standing(300, 1000, false)[3], [peer(2)]);
        assert!(kept.standing(300, 1000, true)[3].is_empty());
    }

    #[test]
    fn a_lone_chunk_lies_on_several_and_remembers_few() {
        let group = Group { chunks: vec![(ChunkId([1; 32]), 10)], data: 1, copies: 3 };
        let mut kept = Kept::new(&group);
        (0..9).for_each(|number| kept.proved(0, peer(number), 100 + u64::from(number), None));
        assert_eq!((kept.holders[0].len(), kept.is_whole()), (5, true));
        for number in 0..9 {
            kept.failed(0, &peer(number), 500, false);
        }
        assert_eq!((kept.hosts(), kept.shards()), (0, 0));
        kept.proved(0, peer(20), 600, None);
        assert!(kept.holders[0].iter().any(|holder| holder.peer == peer(20)));
        (21..23).for_each(|number| kept.proved(0, peer(number), 600, None));
        kept.tidy(5000, 1000);
        assert_eq!((kept.holders[0].len(), kept.is_whole()), (3, true));
    }
}
