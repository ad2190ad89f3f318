//! What nodes look after: records on their disks, shards made of others, errands of their users.

use super::*;
use crate::publish::job::Group;

/// Key of a record, as the engine makes it.
pub(super) fn key(job: JobId, group: &Group) -> Vec<u8> {
    row(job, group.chunks.first().map_or(ChunkId([0; 32]), |(id, _)| *id))
}

fn row(job: JobId, first: ChunkId) -> Vec<u8> {
    [&job.0.to_be_bytes()[..], first.as_bytes()].concat()
}

impl Swarm {
    /// The records of what a node looks after.
    pub fn kept(&self, place: usize) -> Vec<Kept> {
        self.members.get(place).map_or(Vec::new(), |member| member.kept.values().cloned().collect())
    }

    /// A node forgets what it knows of the hosts of its trees.
    pub fn forget_hosts(&mut self, place: usize) {
        let Some(member) = self.members.get_mut(place) else { return };
        for kept in member.kept.values_mut() {
            kept.holders.iter_mut().for_each(Vec::clear);
        }
    }

    /// A node looks after nothing any more.
    pub fn neglect(&mut self, place: usize) {
        if let Some(member) = self.members.get_mut(place) {
            member.kept.clear();
        }
    }

    /// A user of a node wants a tree looked at, and made good where `repair` says so; see `tended`.
    pub fn tend(&mut self, place: usize, tree: &Tree, repair: bool) -> ErrandId {
        let errand = ErrandId(self.next_want);
        self.next_want += 1;
        let groups = tree.groups().iter().map(Kept::new).collect();
        self.handle(place, Input::Command(Command::Tend { errand, groups, repair }));
        errand
    }

    /// What an errand found, once it has ended.
    pub fn tended(&self, place: usize, errand: ErrandId) -> Option<&[Kept]> {
        self.tended.get(&(place, errand)).map(Vec::as_slice)
    }

    pub(super) fn keep_effect(&mut self, place: usize, effect: Effect) {
        let unix = self.clock(place).0 / 1_000_000;
        let lease = u64::from(self.config.node.keeper.lease);
        let Some(member) = self.members.get_mut(place) else { return };
        match effect {
            Effect::Placed { job, group, chunk, peer } => {
                let Some(kept) = member.kept.get_mut(&row(job, group)) else { return };
                if let Some(index) = kept.chunks.iter().position(|(id, _)| *id == chunk) {
                    kept.proved(index, peer, unix, Some(unix + lease));
                }
            }
            Effect::ReadKept { after, max } => {
                let later = member.kept.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
                let rows: Vec<(Vec<u8>, Kept)> =
                    later.take(max).map(|(key, kept)| (key.clone(), kept.clone())).collect();
                let end = rows.len() < max;
                self.give(place, Input::KeptPage { rows, end });
            }
            Effect::WriteKept { key, kept } => {
                if let Some(row) = member.kept.get_mut(&key) {
                    *row = kept;
                }
            }
            Effect::Rebuild { tend, chunks, data, chunk_len, lost } => {
                let now = self.now;
                let all = SliceRange::whole(chunk_len).mask();
                let here = |chunk: &ChunkId| member.store.get(chunk).map_or(0, |stored| stored.slices);
                let masks: Vec<u64> = chunks.iter().map(here).collect();
                let column = |slice: u32| masks.iter().filter(|mask| *mask >> slice & 1 == 1).count();
                let well =
                    (0..64).filter(|slice| all >> slice & 1 == 1).all(|slice| column(slice) >= usize::from(data));
                let mut made = Vec::new();
                for chunk in lost.iter().filter_map(|index| chunks.get(usize::from(*index))).filter(|_| well) {
                    let stored = Stored { len: chunk_len, slices: all, whole_since: Some(now), own: false, used: now };
                    member.store.insert(*chunk, stored);
                    made.push(*chunk);
                }
                self.checker.tally.rebuilt += made.len() as u64;
                self.give(place, Input::Stored { chunks: made });
                self.give(place, Input::Rebuilt { tend, well });
            }
            Effect::Tended { errand, kept } => {
                self.tended.insert((place, errand), kept);
            }
            _ => self.checker.fail(self.now, place, "an effect reached the wrong arm".to_string()),
        }
    }
}
