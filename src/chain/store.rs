//! What the wallet remembers, in one file: the library's own changes, payments, invoices. Whatever belongs together is one commit.

use super::intent::{IntentId, Record};
use super::wallet::Start;
use bdk_wallet::ChangeSet;
use bdk_wallet::chain::Merge;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Number to a change set of the wallet library, as JSON: the form whose reading by its next version it promises. Together, in this
/// order, they are the wallet.
const CHANGES: TableDefinition<u64, &[u8]> = TableDefinition::new("changes.1");
/// Name of a payment to its `Record`, as JSON.
const INTENTS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("intents.1");
/// Number of an address that was handed out and is still waited for.
const INVOICES: TableDefinition<u32, ()> = TableDefinition::new("invoices.1");

/// Under `START` what the wallet was taken for when its file was made, as JSON.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta.1");
const START: &str = "start";

/// Change sets are merged into one when there are more.
const CHANGES_MAX: u64 = 512;
const CACHE_BYTES: usize = 1 << 20;

/// A failure of the wallet's file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses it.
    #[error("the wallet {0} is in use by another process: stop that one first")]
    InUse(PathBuf),
    /// The file cannot be opened, or is damaged.
    #[error(
        "cannot use the wallet file {path}: {why}; if it is damaged, move it away: `tornet wallet restore` brings the coins back, but \
         not what was being paid"
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// What is said of it.
        why: String,
    },
    /// It cannot be written.
    #[error("cannot write the wallet file: {0}")]
    Write(String),
}

/// All that was remembered.
#[derive(Default)]
pub(super) struct Remembered {
    pub(super) wallet: ChangeSet,
    pub(super) intents: BTreeMap<IntentId, Record>,
    pub(super) invoices: Vec<u32>,
    pub(super) start: Option<Start>,
}

/// What one commit changes.
#[derive(Default)]
pub(super) struct Batch<'a> {
    pub(super) wallet: Option<ChangeSet>,
    pub(super) intent: Option<(IntentId, &'a Record)>,
    pub(super) invoices_opened: &'a [u32],
    pub(super) invoices_closed: &'a [u32],
    pub(super) start: Option<Start>,
}

/// The open file; locked as long as it is.
pub(super) struct Store {
    database: Database,
    next: u64,
}

fn written(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Write(error.into().to_string())
}

impl Store {
    /// Opens or makes the file, readable by its user alone.
    pub(super) fn open(path: &Path) -> Result<(Store, Remembered), StoreError> {
        let failed = |why: String| StoreError::Open { path: path.into(), why };
        let fresh = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|e| failed(e.to_string()))?;
        let opened = redb::Builder::new().set_cache_size(CACHE_BYTES).create_file(file);
        let database = opened.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.into()),
            other => failed(other.to_string()),
        })?;
        let mut store = Store { database, next: 0 };
        if fresh {
            store.commit(Batch::default())?;
            let folder = path.parent().unwrap_or(Path::new("."));
            std::fs::File::open(folder).and_then(|dir| dir.sync_all()).map_err(|e| failed(e.to_string()))?;
        }
        let (remembered, rows) = store.read().map_err(failed)?;
        if rows > CHANGES_MAX {
            store.merge(&remembered.wallet).map_err(written)?;
        }
        Ok((store, remembered))
    }

    fn read(&mut self) -> Result<(Remembered, u64), String> {
        self.read_all().map_err(|error| match error {
            Fault::Database(error) => error.to_string(),
            Fault::Row(row) => format!("{row} is not understood"),
        })
    }

    fn read_all(&mut self) -> Result<(Remembered, u64), Fault> {
        let tx = self.database.begin_read()?;
        let mut found = Remembered::default();
        let mut rows = 0;
        for row in tx.open_table(CHANGES)?.iter()? {
            let (number, bytes) = row?;
            let change: ChangeSet = serde_json::from_slice(bytes.value())
                .map_err(|error| Fault::Row(format!("change {} ({error})", number.value())))?;
            found.wallet.merge(change);
            self.next = number.value() + 1;
            rows += 1;
        }
        for row in tx.open_table(INTENTS)?.iter()? {
            let (id, bytes) = row?;
            let id = IntentId(*id.value());
            let record =
                serde_json::from_slice(bytes.value()).map_err(|error| Fault::Row(format!("payment {id} ({error})")))?;
            found.intents.insert(id, record);
        }
        for row in tx.open_table(INVOICES)?.iter()? {
            found.invoices.push(row?.0.value());
        }
        if let Some(bytes) = tx.open_table(META)?.get(START)? {
            found.start = serde_json::from_slice(bytes.value()).ok();
        }
        Ok((found, rows))
    }

    /// Writes one batch: when this returns it is on the disk, whole; after a failure or a crash nothing of it is.
    pub(super) fn commit(&mut self, batch: Batch<'_>) -> Result<(), StoreError> {
        self.write(batch).map_err(written)
    }

    fn begin(&self) -> Result<redb::WriteTransaction, redb::Error> {
        let mut tx = self.database.begin_write()?;
        tx.set_two_phase_commit(true);
        // After a crash the file opens at once, however large.
        tx.set_quick_repair(true);
        tx.set_durability(Durability::Immediate).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        Ok(tx)
    }

    fn write(&mut self, batch: Batch<'_>) -> Result<(), redb::Error> {
        let json = |error: serde_json::Error| redb::Error::Io(error.into());
        let tx = self.begin()?;
        {
            let mut changes = tx.open_table(CHANGES)?;
            if let Some(change) = &batch.wallet {
                changes.insert(self.next, serde_json::to_vec(change).map_err(json)?.as_slice())?;
            }
            let mut intents = tx.open_table(INTENTS)?;
            if let Some((id, record)) = batch.intent {
                intents.insert(&id.0, serde_json::to_vec(record).map_err(json)?.as_slice())?;
            }
            let mut invoices = tx.open_table(INVOICES)?;
            for number in batch.invoices_opened {
                invoices.insert(number, ())?;
            }
            for number in batch.invoices_closed {
                invoices.remove(number)?;
            }
            let mut meta = tx.open_table(META)?;
            if let Some(start) = &batch.start {
                meta.insert(START, serde_json::to_vec(start).map_err(json)?.as_slice())?;
            }
        }
        tx.commit()?;
        self.next += u64::from(batch.wallet.is_some());
        Ok(())
    }

    /// Puts one change set in the place of all.
    fn merge(&mut self, whole: &ChangeSet) -> Result<(), redb::Error> {
        let tx = self.begin()?;
        {
            let mut changes = tx.open_table(CHANGES)?;
            changes.retain(|_, _| false)?;
            let bytes = serde_json::to_vec(whole).map_err(|error| redb::Error::Io(error.into()))?;
            changes.insert(self.next, bytes.as_slice())?;
        }
        tx.commit()?;
        self.next += 1;
        Ok(())
    }
}

enum Fault {
    Database(redb::Error),
    Row(String),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Fault {
        Fault::Database(error.into())
    }
}
