//! What the buffer needs of a durable log. Implementations: [`super::redis`], and an embedded one later.
//!
//! A log is dumb: it stores records in seq order and keeps out every writer but the last one that claimed it. It never
//! decides what is acknowledged or shown, and it never repeats a command by itself: a lost answer is reported as
//! [`LogError::Doubtful`], and the committer resolves it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use super::quarantine::Quarantined;
use crate::catalog::SequenceId;
use crate::cluster::MainRecord;
use crate::entry::{Entry, FORMAT, Seq};

/// How much is read at a time: so many records, and none after those that have so many bytes. As an entry, a record takes
/// several times its bytes in memory.
pub const READ_RECORDS: usize = 256;
pub const READ_BYTES: u64 = 4 << 20;

/// What every operation of a log returns.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, LogError>>;

/// A durable log with one writer.
pub trait Log: Send + Sync + 'static {
    /// Makes this process the only writer, and checks that the log is fit to keep promises. With `takeover` it puts out
    /// whoever was the writer; without, it renews an earlier claim and fails if another process took over since. All
    /// commands of earlier claims that are still under way fail from now on. The log goes on after `floor` if it ends
    /// before.
    fn claim(&self, takeover: bool, floor: Seq) -> Answer<'_, Claim>;

    /// Appends consecutive records, all or none, durable when it returns. Records that are there already (same seq and
    /// uuid) are skipped, so repeating is harmless.
    fn append<'a>(&'a self, records: &'a [Record]) -> Answer<'a, ()>;

    /// Up to `limit` records after `after`, in order, and none after those that have `bytes` together. So one at least, if there
    /// is one, however large: only an empty answer means that nothing follows. See [`within`].
    fn read(&self, after: Seq, limit: usize, bytes: u64) -> Answer<'_, Vec<Record>>;

    /// What comes after `after`, as much as is read at a time: of a long log nobody has all in memory.
    fn window(&self, after: Seq) -> Answer<'_, Vec<Record>> {
        self.read(after, READ_RECORDS, READ_BYTES)
    }

    /// Whether this process is still the writer, and the last seq of the log.
    fn probe(&self) -> Answer<'_, Seq>;

    /// Drops records up to and including `upto`.
    fn trim(&self, upto: Seq) -> Answer<'_, ()>;

    /// Puts an entry into quarantine, replacing what was known of it there.
    fn quarantine<'a>(&'a self, quarantined: &'a Quarantined) -> Answer<'a, ()>;

    /// What is in quarantine, in order, and about how many bytes each record takes.
    fn quarantine_index(&self) -> Answer<'_, Vec<(Seq, u64)>>;

    /// Those of these that are in quarantine, in the order in which they are asked for. All of them are in memory then: see
    /// [`Pages`](super::Pages).
    fn quarantined<'a>(&'a self, seqs: &'a [Seq]) -> Answer<'a, Vec<Quarantined>>;

    /// Takes an entry out of quarantine.
    fn release(&self, seq: Seq) -> Answer<'_, ()>;

    /// All lease blocks, by sequence.
    fn leases(&self) -> Answer<'_, BTreeMap<String, LeaseBlock>>;

    /// Replaces the block of a sequence, unless a later version of it is stored.
    fn store_lease<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> Answer<'a, ()>;

    /// Which main the entries belong to, once that is known.
    fn main_record(&self) -> Answer<'_, Option<MainRecord>>;

    /// Replaces it; durable when it returns.
    fn store_main_record<'a>(&'a self, record: &'a MainRecord) -> Answer<'a, ()>;
}

/// The result of [`Log::claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The last seq the log had given out.
    pub found: Seq,
    /// The last seq now: `found`, or the floor when that is later.
    pub last: Seq,
}

/// An entry and its JSON, which is what is stored.
#[derive(Debug, Clone)]
pub struct Record {
    pub entry: Arc<Entry>,
    pub json: Arc<str>,
}

impl Record {
    /// Encodes an entry.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when it cannot be written as JSON, or could not be read again.
    pub fn new(entry: Entry) -> Result<Record, LogError> {
        if !well_formed(&entry) {
            return Err(LogError::Corrupt(ILL_FORMED.into()));
        }
        let json = serde_json::to_string(&entry).map_err(|error| LogError::Corrupt(error.to_string()))?;
        Ok(Record { entry: Arc::new(entry), json: json.into() })
    }

    /// Reads what [`Record::new`] wrote, at this place of the log.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when it is not an entry of a format we know, or not the one that belongs here.
    pub fn decode(seq: Seq, json: &str) -> Result<Record, LogError> {
        let corrupt = |what: String| LogError::Corrupt(format!("entry {seq}: {what}"));
        let entry: Entry = serde_json::from_str(json).map_err(|error| corrupt(error.to_string()))?;
        if entry.format > FORMAT {
            return Err(corrupt(format!("format {} is newer than this program's {FORMAT}", entry.format)));
        }
        if entry.seq != seq {
            return Err(corrupt(format!("it says it is entry {}", entry.seq)));
        }
        if !well_formed(&entry) {
            return Err(corrupt(ILL_FORMED.into()));
        }
        Ok(Record { entry: Arc::new(entry), json: json.into() })
    }

    /// The entry's place.
    pub fn seq(&self) -> Seq {
        self.entry.seq
    }

    /// What the record counts for against the limits of the buffer.
    pub fn bytes(&self) -> u64 {
        self.json.len() as u64
    }
}

/// Those of these records that [`Log::read`] answers with.
pub fn within(records: impl IntoIterator<Item = Record>, limit: usize, bytes: u64) -> Vec<Record> {
    let mut left = bytes;
    let fits = |record: &Record| {
        let fits = left > 0;
        left = left.saturating_sub(record.bytes());
        fits
    };
    records.into_iter().take(limit).take_while(fits).collect()
}

const ILL_FORMED: &str = "an effect speaks of a table or column that the entry does not describe";

/// Whether all numbers in the effects point at something.
fn well_formed(entry: &Entry) -> bool {
    use crate::entry::Effect;
    entry.effects.iter().all(|effect| {
        let Some(table) = entry.tables.get(effect.table()) else { return false };
        let columns = table.columns.len();
        let whole = |row: &[_]| row.len() == columns;
        table.key.iter().all(|&place| place < columns)
            && match effect {
                Effect::Insert { row, .. } => whole(row),
                Effect::Update { key, set, old, row, own, .. } => {
                    key.len() == table.key.len()
                        && own.iter().all(|own| own.column < columns && own.expression.is_well_formed(columns))
                        && set.iter().chain(old).all(|&(place, _)| place < columns)
                        && row.as_deref().is_none_or(whole)
                }
                Effect::Move { key, set, old, to, row, .. } => {
                    key.len() == table.key.len()
                        && set.iter().chain(old).all(|&(place, _)| place < columns)
                        && entry.tables.get(*to).is_some_and(|to| row.len() == to.columns.len())
                }
                Effect::Delete { key, .. } => key.len() == table.key.len(),
                Effect::Truncate { .. } => true,
            }
    })
}

/// Values of a sequence that were leased from main and are not used up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseBlock {
    /// Grows by one with every change: a late write never replaces a newer one.
    pub version: u64,
    pub ranges: Vec<LeaseRange>,
    /// The last value that main ever gave: what it gives later must lie beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leased_to: Option<i64>,
    /// The sequence of main that gave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<SequenceId>,
    /// Those that had its name before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<SequenceId>,
}

/// `start, start + increment, …`: `count` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRange {
    pub start: i64,
    pub increment: i64,
    pub count: u64,
}

/// Why a log did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Certainly not done; the log is there and will say the same again for now (out of memory, cannot write).
    #[error("the buffer's log refused: {0}")]
    Refused(String),
    /// Perhaps done: no answer, or a log that has to be claimed again first.
    #[error("the buffer's log does not answer: {0}")]
    Doubtful(String),
    /// Another process is the writer now. Certainly not done.
    #[error("another pgoutpost has taken over the buffer ({0})")]
    Fenced(String),
    /// The log holds something else in this place.
    #[error("the buffer's log holds another entry in the place of {0}")]
    Conflict(Seq),
    /// The log lost acknowledged entries which nobody has any more.
    #[error("the buffer's log lost entries {first} to {last}, which main does not have")]
    Lost { first: Seq, last: Seq },
    /// The replica is so old that what it lacks is not kept any more. It is on main.
    #[error("the replica has the entries up to {has} of this site, and the buffer keeps those from {kept} on only")]
    ReplicaTooOld { has: Seq, kept: Seq },
    /// The log would lose what it acknowledged.
    #[error("the buffer's log is not durable: {0}")]
    NotDurable(String),
    /// Something in the log cannot be read.
    #[error("the buffer's log cannot be read: {0}")]
    Corrupt(String),
}

#[cfg(test)]
mod tests;
