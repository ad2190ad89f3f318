//! Own chunks that no tree refers to any more become cached ones, which go when their space is needed.
//!
//! A run marks what the durable roots refer to and then goes through records and chunks. It is worth something only as long as no pass
//! begins: `Gate` sees to that. What might lead a later pass to a forgotten chunk (records of what was sealed) is durably gone before the
//! chunk's class changes, so a crash at any point leaves nothing that is needed among the cached chunks.

use super::gate::{Gate, Held};
use super::keep;
use super::mark::{MarkError, Marks};
use super::record::{self, DirectoryRecord, FileRecord, LeafRecord, SingleRecord};
use crate::base::digest::ChunkId;
use crate::content::reference::{Kind, NodeRef, RootRef};
use crate::store::state::Pair;
use crate::store::{Class, Store, StoreError, Table};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Rows or chunks dealt with at once: passes wait for no longer than these take.
const PAGE: usize = 1024;

/// The node that a record leads to, if any; `None` when the record cannot be read.
type NodeOf<'a> = dyn Fn(&[u8]) -> Option<Option<NodeRef>> + 'a;

/// What a run did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Collected {
    /// Chunks that are cached ones from now on.
    pub(super) chunks: u64,
    /// Jobs that no longer have all their groups to host.
    pub(super) jobs: BTreeSet<u64>,
}

/// Where to collect.
pub(super) struct Collector {
    pub(super) store: Arc<Store>,
    pub(super) gate: Arc<Gate>,
    /// The own tree's directory.
    pub(super) tree: PathBuf,
}

impl Collector {
    /// Forgets what nothing refers to. `None`: a pass came between; try again later. `patient`: passes begin whenever they want to; else
    /// they wait until this returns.
    pub(super) fn run(&self, patient: bool, go_on: &dyn Fn() -> bool) -> Result<Option<Collected>, MarkError> {
        let Some(epoch) = self.gate.quiet() else { return Ok(None) };
        let whole = if patient {
            None
        } else {
            let held = self.gate.hold(epoch);
            if held.is_none() {
                return Ok(None);
            }
            held
        };
        let hold = || if whole.is_some() { Some(None) } else { self.gate.hold(epoch).map(Some) };
        let Some(marks) = self.mark(go_on)? else { return Ok(None) };
        self.sweep(&marks, &hold, go_on)
    }

    /// Marks everything under the roots; `None` while there is no own tree yet.
    pub(super) fn mark(&self, go_on: &dyn Fn() -> bool) -> Result<Option<Marks>, MarkError> {
        let state = self.store.state();
        if state.value(record::ROOTS, record::TREE)?.is_none() {
            return Ok(None);
        }
        let mut seed = [0; 32];
        // Without chance the same few chunks would be missed each time: no harm.
        let _ = getrandom::fill(&mut seed);
        let mut marks = Marks::new(self.store.usage().chunks, seed);
        self.each(record::ROOTS, go_on, |key, value| {
            let root = record::root_from_bytes(value).ok_or_else(|| {
                StoreError::Index(format!("the root {} cannot be read", String::from_utf8_lossy(key)))
            })?;
            marks.tree(&self.store, &root.verify(), go_on)
        })?;
        self.each(record::SINGLES, go_on, |key, value| match SingleRecord::from_bytes(value) {
            Ok(single) if single.stands(&self.tree, key) => {
                let root = RootRef { kind: Kind::File, node: single.node };
                marks.tree(&self.store, &root.verify(), go_on)
            }
            _ => Ok(()),
        })?;
        Ok(Some(marks))
    }

    pub(super) fn sweep<'a>(
        &self,
        marks: &Marks,
        hold: &dyn Fn() -> Option<Option<Held<'a>>>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Collected>, MarkError> {
        let mut collected = Collected::default();
        let file = |value: &[u8]| FileRecord::from_bytes(value).map(|record| record.node).ok();
        let directory = |value: &[u8]| DirectoryRecord::from_bytes(value).map(|record| Some(record.node)).ok();
        let leaf = |value: &[u8]| LeafRecord::from_bytes(value).map(|record| Some(record.node)).ok();
        let single = |value: &[u8]| SingleRecord::from_bytes(value).map(|record| Some(record.node)).ok();
        let tables: [(Table, &NodeOf<'_>); 4] = [
            (record::FILES, &file),
            (record::DIRECTORIES, &directory),
            (record::LEAVES, &leaf),
            (record::SINGLES, &single),
        ];
        for (table, node) in tables {
            let stale = |_: &[u8], value: &[u8]| match node(value) {
                Some(Some(node)) => !marks.holds_node(&node.id),
                // A packed file: it has no chunks of its own.
                Some(None) => false,
                None => true,
            };
            if self.purge(table, hold, go_on, stale)?.is_none() {
                return Ok(None);
            }
        }
        let jobs = &mut collected.jobs;
        let purged = self.purge(record::PENDING, hold, go_on, |key, value| {
            let group = record::group_from_bytes(value).ok();
            let first = group.and_then(|group| group.chunks.first().map(|(id, _)| *id));
            let stale = first.is_none_or(|id| !marks.may_hold(&id));
            if stale && let Some(job) = record::pending_job(key) {
                jobs.insert(job);
            }
            stale
        })?;
        let stale = |key: &[u8], _: &[u8]| {
            let first = key.get(8..).and_then(|id| id.first_chunk::<32>().copied());
            !keep::is_pin(key) && first.is_none_or(|id| !marks.may_hold(&ChunkId(id)))
        };
        if purged.is_none() || self.purge(record::HOSTS, hold, go_on, stale)?.is_none() {
            return Ok(None);
        }
        let mut after: Option<ChunkId> = None;
        while let Some((own, last)) = self.store.own_chunks(after.as_ref(), PAGE)? {
            after = Some(last);
            let garbage: Vec<ChunkId> = own.into_iter().filter(|id| !marks.may_hold(id)).collect();
            if garbage.is_empty() {
                continue;
            }
            if !go_on() {
                return Err(MarkError::Stopped);
            }
            let Some(_held) = hold() else { return Ok(None) };
            // Sealed again, they are to be offered to hosts again.
            let placed: Vec<Vec<u8>> = garbage.iter().map(|id| id.as_bytes().to_vec()).collect();
            self.delete(record::PLACED, &placed)?;
            self.store.set_class(&garbage, Class::Cached)?;
            collected.chunks += garbage.len() as u64;
        }
        Ok(Some(collected))
    }

    /// Deletes what is `stale` from a table. `None`: a pass came between.
    fn purge<'a>(
        &self,
        table: Table,
        hold: &dyn Fn() -> Option<Option<Held<'a>>>,
        go_on: &dyn Fn() -> bool,
        mut stale: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<Option<()>, MarkError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.page(table, after.as_deref(), go_on)?;
            let Some((last, _)) = page.last() else { return Ok(Some(())) };
            after = Some(last.clone());
            let keys: Vec<Vec<u8>> =
                page.iter().filter(|(key, value)| stale(key, value)).map(|(key, _)| key.clone()).collect();
            if !keys.is_empty() {
                let Some(_held) = hold() else { return Ok(None) };
                self.delete(table, &keys)?;
            }
        }
    }

    fn each(
        &self,
        table: Table,
        go_on: &dyn Fn() -> bool,
        mut work: impl FnMut(&[u8], &[u8]) -> Result<(), MarkError>,
    ) -> Result<(), MarkError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.page(table, after.as_deref(), go_on)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            page.iter().try_for_each(|(key, value)| work(key, value))?;
        }
    }

    fn page(&self, table: Table, after: Option<&[u8]>, go_on: &dyn Fn() -> bool) -> Result<Vec<Pair>, MarkError> {
        if go_on() { Ok(self.store.state().range(table, &[], after, PAGE)?) } else { Err(MarkError::Stopped) }
    }

    /// Deletes durably: what is done next relies on it.
    fn delete(&self, table: Table, keys: &[Vec<u8>]) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.store.state().write(true, |tx| {
            for key in keys {
                tx.delete(table, key)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
