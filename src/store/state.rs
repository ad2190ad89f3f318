//! Small tables for other modules: byte strings under byte strings, changed in transactions.

use super::error::StoreError;
use super::folder::Folder;
use super::index::Base;
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const FILE: &str = "state.redb";
const CACHE_BYTES: usize = 4 << 20;

/// A table's name, with the version of its format: `Table("peers.1")`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table(pub &'static str);

impl Table {
    fn definition(&self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.0)
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The tables of a store.
pub struct State {
    base: Base,
    /// Something was committed without being made durable.
    loose: AtomicBool,
}

impl State {
    pub(super) fn open(folder: Arc<Folder>) -> Result<State, StoreError> {
        let file = folder.path().join(FILE);
        let base = Base::open(folder, FILE, CACHE_BYTES).map_err(|error| match error {
            StoreError::Index(why) => StoreError::Damaged { file, why },
            other => other,
        })?;
        Ok(State { base, loose: AtomicBool::new(false) })
    }

    /// The value under a key.
    pub fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.base.with(|database| match database.begin_read()?.open_table(table.definition()) {
            Ok(table) => Ok(table.get(key)?.map(|value| value.value().to_vec())),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    /// At most `max` pairs whose keys begin with `prefix` and come after `after`, in order of keys.
    pub fn range(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        self.base.with(|database| match database.begin_read()?.open_table(table.definition()) {
            Ok(table) => pairs(&table, prefix, after, max),
            Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        })
    }

    /// Changes in one transaction: all of them or none, and none when `work` fails. After a failure of the disk `work` may run a second time. `durable`: they are on disk when this
    /// returns; otherwise within seconds.
    pub fn write<R, E: From<StoreError>>(
        &self,
        durable: bool,
        mut work: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let durability = if durable { Durability::Immediate } else { Durability::None };
        let mut refused = None;
        let result = self.base.write(durability, |tx| match work(&mut Transaction { tx }) {
            Ok(result) => Ok(result),
            Err(error) => {
                refused = Some(error);
                // Any error ends the transaction without a commit; the caller gets its own.
                Err(redb::Error::TransactionInProgress)
            }
        });
        if result.is_ok() && !durable {
            self.loose.store(true, Ordering::Release);
        }
        match (result, refused) {
            (Ok(result), _) => Ok(result),
            (Err(_), Some(error)) => Err(error),
            (Err(error), None) => Err(error.into()),
        }
    }

    /// Makes durable what was not yet.
    pub fn persist(&self) -> Result<(), StoreError> {
        if !self.loose.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let result = self.base.write(Durability::Immediate, |_| Ok(()));
        if result.is_err() {
            self.loose.store(true, Ordering::Release);
        }
        result
    }
}

/// Changes of the tables that take effect together.
pub struct Transaction<'a> {
    tx: &'a WriteTransaction,
}

impl Transaction<'_> {
    /// The value under a key, as changed so far.
    pub fn value(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.tx.open_table(table.definition()).map_err(StoreError::index)?;
        let value = table.get(key).map_err(StoreError::index)?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// At most `max` pairs whose keys begin with `prefix` and come after `after`, as changed so far.
    pub fn range(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        let table = self.tx.open_table(table.definition()).map_err(StoreError::index)?;
        pairs(&table, prefix, after, max).map_err(StoreError::index)
    }

    /// Sets the value under a key.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut table = self.tx.open_table(table.definition()).map_err(StoreError::index)?;
        table.insert(key, value).map_err(StoreError::index)?;
        Ok(())
    }

    /// Removes a key; whether it was there.
    pub fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        let mut table = self.tx.open_table(table.definition()).map_err(StoreError::index)?;
        let was = table.remove(key).map_err(StoreError::index)?;
        Ok(was.is_some())
    }
}

fn pairs(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    prefix: &[u8],
    after: Option<&[u8]>,
    max: usize,
) -> Result<Vec<Pair>, redb::Error> {
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let mut found = Vec::new();
    for item in table.range::<&[u8]>((from, Bound::Unbounded))?.take(max) {
        let (key, value) = item?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(found)
}
