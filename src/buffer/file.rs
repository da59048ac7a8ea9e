//! The log as files in a folder of the local disk, for sites without a Redis.
//!
//! `FOLDER/SITE/` holds segments (`<first entry>.log`, see `segment`), `meta` (the writer and its epoch), `leases`,
//! `quarantine/<entry>`, and `lock`, which keeps a second process out. What can be waited for is done on a thread of its
//! own: nothing here blocks the runtime. It never shows what is not durable, never drops what may have been
//! acknowledged, and never gives out an entry whose checksum is wrong.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::log::{Answer, Claim, LeaseBlock, Log, LogError, Quarantined, Record};
use crate::cluster::MainRecord;
use crate::entry::{self, Seq};

mod aside;
mod disk;
#[cfg(any(test, debug_assertions))]
pub mod faults;
#[cfg(any(test, debug_assertions))]
pub mod power;
mod reader;
mod segment;
mod store;
#[cfg(test)]
mod tests;

use store::Store;

/// How long an answer may take: a disk that hangs for longer leaves commits in doubt, as a lost Redis does.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How large things are.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// A segment, unless one batch is larger.
    segment: u64,
    /// What is filled with zeros ahead of the records.
    ahead: u64,
}

const SIZES: Sizes = Sizes { segment: 16 << 20, ahead: 1 << 20 };

/// Who may write, and where the log begins and ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    /// Of the folder, and of the entries.
    format: u32,
    entries: u32,
    owner: String,
    epoch: u64,
    /// The log went on after this entry, without those before it.
    floor: Seq,
    /// Entries up to here were dropped.
    trimmed: Seq,
    /// The first entry of the segment that is written to.
    newest: Option<Seq>,
}

impl Meta {
    fn load(folder: &Path) -> Result<Option<Meta>, LogError> {
        let path = folder.join("meta");
        let Some(json) = disk::recall(&path)? else {
            if disk::names(folder)?.iter().any(|name| name.ends_with(".log")) {
                let why = format!("{} has segments but no file `meta`", folder.display());
                return Err(LogError::Corrupt(why));
            }
            return Ok(None);
        };
        #[derive(Deserialize)]
        struct Formats {
            format: u32,
            entries: u32,
        }
        let corrupt = |why: String| LogError::Corrupt(format!("{}: {why}", path.display()));
        let formats: Formats = serde_json::from_str(&json).map_err(|error| corrupt(error.to_string()))?;
        if formats.format > segment::FORMAT || formats.entries > entry::FORMAT {
            return Err(corrupt(format!(
                "written in format {}.{}, this program knows {}.{}: bring it up to date",
                formats.format,
                formats.entries,
                segment::FORMAT,
                entry::FORMAT
            )));
        }
        serde_json::from_str(&json).map(Some).map_err(|error| corrupt(error.to_string()))
    }

    /// Durable when it returns.
    fn store(&self, folder: &Path) -> disk::Outcome<()> {
        let current = Meta { format: segment::FORMAT, entries: entry::FORMAT, ..self.clone() };
        let json = serde_json::to_string(&current).map_err(|error| disk::DiskError::No(error.to_string()))?;
        disk::replace_urgently(&folder.join("meta"), &json, &folder.join(disk::RESERVE))
    }
}

/// One site's log in a folder.
#[derive(Debug)]
pub struct FileLog {
    store: Arc<Store>,
}

impl FileLog {
    /// A log below this URL (`file:///folder`). Nothing is opened before it is claimed or read.
    ///
    /// # Errors
    /// [`LogError::Refused`] when the URL cannot be read.
    pub fn new(url: &str, site: &str, require_durable: bool) -> Result<FileLog, LogError> {
        let owner = Uuid::now_v7().to_string();
        let store = Store::new(store::folder_of(url, site)?, owner, require_durable, SIZES);
        Ok(FileLog { store: Arc::new(store) })
    }

    /// A log with small segments on the simulated disk of this thread ([`power`]). `owner` is the process.
    #[cfg(any(test, debug_assertions))]
    pub fn simulated(folder: &Path, owner: String) -> FileLog {
        let sizes = Sizes { segment: 16 << 10, ahead: 4 << 10 };
        FileLog { store: Arc::new(Store::new(folder.to_owned(), owner, false, sizes)) }
    }

    /// Looks whether the folder is there (or can be made) and keeps what it acknowledges, and whether what it holds can
    /// be read. Claims nothing and makes nothing.
    ///
    /// # Errors
    /// [`LogError::NotDurable`]; [`LogError::Corrupt`]; [`LogError::Refused`] when it cannot be written.
    pub async fn look(&self) -> Result<(), LogError> {
        self.run(Store::look).await
    }

    /// Whether nobody has it open.
    ///
    /// # Errors
    /// [`LogError::Refused`] when somebody has.
    pub async fn vacant(&self) -> Result<(), LogError> {
        self.run(Store::vacant).await
    }

    /// Removes all that is kept.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn clear(&self) -> Result<(), LogError> {
        self.run(Store::clear).await
    }

    /// Takes the place of the other, in one step but for a moment in which neither is there.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub async fn replace(&self, other: &FileLog) -> Result<(), LogError> {
        let place = other.store.folder.clone();
        other.clear().await?;
        self.run(move |store| store.rename(&place)).await
    }

    /// A change: void when the log is claimed again before it is done.
    fn changing(&self, work: impl FnOnce(&Store, u64) -> Result<(), LogError> + Send + 'static) -> Answer<'_, ()> {
        let epoch = self.store.epoch();
        Box::pin(self.run(move |store| work(store, epoch)))
    }

    /// What was asked is done even when nobody waits for it any more; under a later claim it is void.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        // There everything happens on one thread, in an order that a seed decides.
        #[cfg(any(test, debug_assertions))]
        if power::is_simulated() {
            return work(&self.store);
        }
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&store));
        match tokio::time::timeout(RESPONSE_TIMEOUT, done).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(stopped)) => Err(LogError::Doubtful(stopped.to_string())),
            Err(_) => Err(LogError::Doubtful("the disk does not answer".into())),
        }
    }
}

impl Log for FileLog {
    fn claim(&self, takeover: bool, floor: Seq) -> Answer<'_, Claim> {
        Box::pin(self.run(move |store| store.claim(takeover, floor)))
    }

    fn append<'a>(&'a self, records: &'a [Record]) -> Answer<'a, ()> {
        let records = records.to_vec();
        self.changing(move |store, epoch| store.append(epoch, &records))
    }

    fn read(&self, after: Seq, limit: usize, bytes: u64) -> Answer<'_, Vec<Record>> {
        Box::pin(self.run(move |store| store.read(after, limit, bytes)))
    }

    fn probe(&self) -> Answer<'_, Seq> {
        Box::pin(self.run(Store::probe))
    }

    fn trim(&self, upto: Seq) -> Answer<'_, ()> {
        self.changing(move |store, epoch| store.trim(epoch, upto))
    }

    fn quarantine<'a>(&'a self, quarantined: &'a Quarantined) -> Answer<'a, ()> {
        let quarantined = quarantined.clone();
        self.changing(move |store, epoch| store.owned(epoch, || aside::put(&store.folder, &quarantined)))
    }

    fn quarantine_index(&self) -> Answer<'_, Vec<(Seq, u64)>> {
        Box::pin(self.run(|store| aside::index(&store.folder)))
    }

    fn quarantined<'a>(&'a self, seqs: &'a [Seq]) -> Answer<'a, Vec<Quarantined>> {
        let seqs = seqs.to_vec();
        Box::pin(self.run(move |store| aside::of(&store.folder, &seqs)))
    }

    fn release(&self, seq: Seq) -> Answer<'_, ()> {
        self.changing(move |store, epoch| store.owned(epoch, || aside::release(&store.folder, seq)))
    }

    fn leases(&self) -> Answer<'_, BTreeMap<String, LeaseBlock>> {
        Box::pin(self.run(|store| aside::leases(&store.folder)))
    }

    fn store_lease<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> Answer<'a, ()> {
        let (sequence, block) = (sequence.to_owned(), block.clone());
        self.changing(move |store, epoch| store.owned(epoch, || aside::store_lease(&store.folder, sequence, block)))
    }

    fn main_record(&self) -> Answer<'_, Option<MainRecord>> {
        Box::pin(self.run(|store| aside::main_record(&store.folder)))
    }

    fn store_main_record<'a>(&'a self, record: &'a MainRecord) -> Answer<'a, ()> {
        let record = record.clone();
        self.changing(move |store, epoch| store.owned(epoch, || aside::store_main_record(&store.folder, &record)))
    }
}

/// A panic cannot leave these values half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
