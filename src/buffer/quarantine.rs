//! Entries that main rejected, and what an operator may do with them.
//!
//! A record is never taken away while the log may still hold its entry: replay passes over every entry that has one, also
//! when main comes back older and entries are sent again. Sending one again appends its effects as a *new* entry at the end
//! of the log, so everything else is the ordinary path. The new entry's uuid follows from the old one's: whoever
//! doubts whether it was appended looks it up in the log, so a crash between any two steps neither loses nor repeats it.

pub(super) mod records;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use records::Pages;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::log::{Log, READ_BYTES, READ_RECORDS};
use super::{Buffer, BufferError, CommitError, Draft, LogError};
use crate::entry::{Entry, RetryOf, Seq};
use crate::moment::rfc3339;
use crate::overlay;
use crate::report::Report;
use crate::sqlstate::{OBJECT_NOT_IN_PREREQUISITE_STATE, SqlState};

/// How long what an operator did is kept after the entry has left the log.
const RECORD_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Between two attempts to put an entry aside.
const DOUBT_PAUSE: Duration = Duration::from_millis(50);
const DOUBT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// An entry that main rejected, or that waits for one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quarantined {
    pub seq: Seq,
    pub entry: Arc<Entry>,
    /// The error main gave, field by field; or why it waits.
    pub error: serde_json::Value,
    /// The quarantined entry that this one depends on, if it was not rejected itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<Seq>,
    /// The rows that its effects are about, as main had them when it rejected the entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows_on_main: Vec<serde_json::Value>,
    #[serde(default)]
    pub fate: Fate,
    /// What operators did with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Act>,
}

/// What is kept in memory of each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aside {
    pub fate: Fate,
    /// Where the client's transaction stands among the others ([`Entry::place`]).
    pub place: Seq,
    pub waits_for: Option<Seq>,
}

/// What became of a quarantined entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Fate {
    /// For an operator.
    #[default]
    Waiting,
    /// It is being sent again, as a new entry after `after`; which one, when that is known to be in the log.
    Retrying { after: Seq, seq: Option<Seq> },
    /// It was sent again, and main has decided about the new entry.
    Retried { seq: Seq },
    /// An operator gave it up.
    Skipped,
}

impl Fate {
    /// As the console says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fate::Waiting => "waiting",
            Fate::Retrying { .. } => "retrying",
            Fate::Retried { .. } => "retried",
            Fate::Skipped => "skipped",
        }
    }

    /// The entry that brings it again.
    pub fn sent_again_as(self) -> Option<Seq> {
        match self {
            Fate::Retrying { seq, .. } => seq,
            Fate::Retried { seq } => Some(seq),
            Fate::Waiting | Fate::Skipped => None,
        }
    }

    /// Whether it is still to be decided.
    pub fn is_open(self) -> bool {
        matches!(self, Fate::Waiting | Fate::Retrying { .. })
    }
}

/// Who did what, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// RFC 3339, UTC.
    pub at: String,
    pub by: String,
    pub what: String,
}

/// Which entries to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    /// This one, and those that wait for it.
    One(Seq),
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("entry {0} is not in quarantine")]
    NotThere(Seq),
    #[error("entry {seq} is {} already", .fate.as_str())]
    Decided { seq: Seq, fate: Fate },
    #[error("entry {seq} waits for entry {holder}, which is in quarantine")]
    Waits { seq: Seq, holder: Seq },
    #[error("entry {0} was being sent again, and the log has lost what came after: whether main has it is not known")]
    Lost(Seq),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

impl ActError {
    /// What the operator is told.
    pub fn report(&self) -> Report {
        let report = |code: SqlState| Report::new(code, self.to_string());
        match self {
            ActError::NotThere(_) => report(SqlState(*b"42704")).hint("SHOW QUARANTINE lists what is."),
            ActError::Decided { .. } => {
                report(OBJECT_NOT_IN_PREREQUISITE_STATE).hint("SHOW AUDIT tells who did what.")
            }
            ActError::Waits { holder, .. } => report(OBJECT_NOT_IN_PREREQUISITE_STATE)
                .hint(format!("RETRY {holder} takes it along; or SKIP {holder} first.")),
            ActError::Lost(seq) => report(OBJECT_NOT_IN_PREREQUISITE_STATE).hint(format!(
                "Look at its rows on main. SHOW QUARANTINE {seq} tells what it does; do by hand what is missing, then SKIP {seq}."
            )),
            ActError::Commit(CommitError::Unknown(_)) | ActError::Buffer(_) => report(OBJECT_NOT_IN_PREREQUISITE_STATE)
                .hint("Look at SHOW QUARANTINE, and give the command again when the buffer is back: it does nothing twice."),
            ActError::Commit(error) => error.report(),
        }
    }
}

impl Quarantined {
    /// A record of an entry that was just put aside.
    pub fn new(entry: Arc<Entry>, error: serde_json::Value) -> Quarantined {
        Quarantined {
            seq: entry.seq,
            entry,
            error,
            waits_for: None,
            rows_on_main: Vec::new(),
            fate: Fate::Waiting,
            acts: Vec::new(),
        }
    }

    pub(crate) fn aside(&self) -> Aside {
        Aside { fate: self.fate, place: self.entry.place(), waits_for: self.waits_for }
    }

    fn act(&mut self, by: &str, what: impl Into<String>) {
        self.acts.push(Act { at: rfc3339(SystemTime::now()), by: by.to_owned(), what: what.into() });
    }
}

impl Buffer {
    /// Puts an entry aside. Its effects leave the overlay shortly after, unless they are to be shown.
    ///
    /// Repeats itself while there is doubt: an entry that the log has put aside and we would send could be applied, and then
    /// sent again from quarantine.
    ///
    /// # Errors
    /// When the log says no: then it is not in quarantine.
    pub async fn quarantine(&self, quarantined: Quarantined) -> Result<(), BufferError> {
        let mut pause = DOUBT_PAUSE;
        while let Err(error) = self.record(&quarantined).await {
            let BufferError::Log(LogError::Doubtful(why)) = error else { return Err(error) };
            tracing::warn!(seq = %quarantined.seq, why, "it is not known whether an entry was put aside; once more");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(DOUBT_PAUSE_MAX);
        }
        if self.published.shows_quarantined() {
            // Before the replica can have its ledger beyond the entry: its rows must not be missing for a moment.
            return self.rebuild().await;
        }
        self.refresh.notify_one();
        Ok(())
    }

    /// Whether replay passes over the entry: it is or was in quarantine.
    pub fn is_quarantined(&self, seq: Seq) -> bool {
        self.published.is_quarantined(seq)
    }

    /// Grows when somebody decided about quarantined entries.
    pub fn quarantine_decisions(&self) -> u64 {
        self.published.decisions()
    }

    /// Whether reads show what quarantined entries did.
    pub fn show_quarantined(&self, show: bool) {
        if self.published.show_quarantined(show) {
            self.refresh.notify_one();
        }
    }

    /// Gives an entry up: it will never be applied.
    ///
    /// # Errors
    /// See [`ActError`].
    pub async fn skip(&self, seq: Seq, by: &str) -> Result<(), ActError> {
        let (buffer, by) = (self.clone(), by.to_owned());
        finish(async move {
            let _alone = buffer.acting.lock().await;
            let mut record = buffer.learn(seq).await?.ok_or(ActError::NotThere(seq))?;
            let lost = match record.fate {
                Fate::Retrying { after, seq: None } => {
                    matches!(buffer.find(&record, after).await, Err(ActError::Lost(_)))
                }
                Fate::Waiting | Fate::Retrying { .. } | Fate::Retried { .. } | Fate::Skipped => false,
            };
            if record.fate != Fate::Waiting && !lost {
                return Err(ActError::Decided { seq, fate: record.fate });
            }
            record.fate = Fate::Skipped;
            record.act(&by, "skip");
            buffer.record(&record).await?;
            buffer.decided();
            tracing::warn!(%seq, uuid = %record.entry.uuid, by, "a quarantined entry was skipped");
            Ok(())
        })
        .await
    }

    /// Sends quarantined entries again, in the order in which clients committed them, each as a new entry at the end of
    /// the log. Gives old and new seqs. Doing it again is harmless.
    ///
    /// # Errors
    /// See [`ActError`]; those before the failing one have been sent again.
    pub async fn retry(&self, which: Which, by: &str) -> Result<Vec<(Seq, Seq)>, ActError> {
        let (buffer, by) = (self.clone(), by.to_owned());
        finish(async move {
            let _alone = buffer.acting.lock().await;
            if let Which::One(seq) = which {
                buffer.may_go(seq).await?;
            }
            let mut done = Vec::new();
            for old in chosen(&buffer.published.aside().0, which) {
                // What the log says counts: an answer may have been lost.
                let Some(record) = buffer.learn(old).await?.filter(|record| record.fate.is_open()) else { continue };
                let new = buffer.retry_one(record, &by).await?;
                tracing::info!(%old, %new, by, "a quarantined entry is sent again");
                done.push((old, new));
            }
            Ok(done)
        })
        .await
    }

    /// Brings retries to their end that a crash or a lost answer left half-way. `applied`: main's ledger.
    ///
    /// # Errors
    /// See [`ActError`].
    pub async fn settle_retries(&self, applied: Seq) -> Result<(), ActError> {
        let buffer = self.clone();
        finish(async move {
            let _alone = buffer.acting.lock().await;
            for seq in buffer.published.half_done() {
                let Some(mut record) = buffer.learn(seq).await? else { continue };
                let Fate::Retrying { seq, .. } = record.fate else { continue };
                let new = match seq {
                    Some(seq) => seq,
                    None => match buffer.retry_one(record.clone(), "").await {
                        // For an operator; the others go on.
                        Err(error @ ActError::Lost(_)) => {
                            tracing::error!(%error, "a quarantined entry is neither sent again nor given up");
                            continue;
                        }
                        done => done?,
                    },
                };
                if new <= applied || buffer.is_quarantined(new) {
                    record.fate = Fate::Retried { seq: new };
                    buffer.record(&record).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Main has decided about these entries (the second of each pair), which bring others again (the first).
    ///
    /// # Errors
    /// When the log does not answer: [`Buffer::settle_retries`] does it then.
    pub async fn retries_decided(&self, decided: &[(Seq, Seq)]) -> Result<(), BufferError> {
        let _alone = self.acting.lock().await;
        for &(old, new) in decided {
            let Some(mut record) = self.quarantine_record(old).await? else { continue };
            // Without a number, too: that one's answer was lost, and only now is it known which entry it is.
            if matches!(record.fate, Fate::Retrying { .. }) {
                record.fate = Fate::Retried { seq: new };
                self.record(&record).await?;
            }
        }
        Ok(())
    }

    async fn retry_one(&self, mut record: Quarantined, by: &str) -> Result<Seq, ActError> {
        // While the log is away something of ours may still be under way to it.
        if let Some(why) = self.published.away() {
            return Err(CommitError::Unavailable(why).into());
        }
        let (after, found) = match record.fate {
            Fate::Retrying { seq: Some(seq), .. } => return Ok(seq),
            Fate::Retrying { after, seq: None } => (after, self.find(&record, after).await?),
            Fate::Waiting | Fate::Retried { .. } | Fate::Skipped => {
                let after = self.published.progress().last;
                record.fate = Fate::Retrying { after, seq: None };
                record.act(by, "retry");
                self.record(&record).await?;
                (after, None)
            }
        };
        let seq = match found {
            Some(seq) => seq,
            None => self.commit(self.draft_again(&record)).await?,
        };
        record.fate = Fate::Retrying { after, seq: Some(seq) };
        self.record(&record).await?;
        self.decided();
        Ok(seq)
    }

    fn draft_again(&self, record: &Quarantined) -> Draft {
        let entry = Entry {
            uuid: again(record.entry.uuid),
            retry_of: Some(RetryOf { seq: record.seq, place: record.entry.place() }),
            ..(*record.entry).clone()
        };
        let (changes, _) = overlay::bind(&entry, &self.catalog.load());
        Draft { entry, changes }
    }

    /// The entry behind `after` that brings this one again. What the log has dropped may have been it.
    async fn find(&self, record: &Quarantined, mut after: Seq) -> Result<Option<Seq>, ActError> {
        let uuid = again(record.entry.uuid);
        loop {
            let end = self.published.progress().last;
            let window = self.read(after, READ_RECORDS).await?;
            let next = window.first().map_or(end.max(after).next(), |entry| entry.seq);
            if next != after.next() {
                return Err(ActError::Lost(record.seq));
            }
            let Some(last) = window.last() else { return Ok(None) };
            if let Some(found) = window.iter().find(|entry| entry.uuid == uuid) {
                return Ok(Some(found.seq));
            }
            after = last.seq;
        }
    }

    /// Stores a record, and lets it count.
    async fn record(&self, record: &Quarantined) -> Result<(), BufferError> {
        let stored = self.log.0.quarantine(record).await;
        if matches!(stored, Err(LogError::Doubtful(_))) {
            self.published.doubt_aside(record.seq, record.fate);
        }
        self.published.answered_aside(&stored);
        stored?;
        self.published.set_aside(record.seq, record.aside());
        Ok(())
    }

    /// The record as the log has it, which counts from now on.
    async fn learn(&self, seq: Seq) -> Result<Option<Quarantined>, BufferError> {
        let record = self.quarantine_record(seq).await?;
        match &record {
            // Another fate: what was written, and not answered, has been decided.
            Some(record) => {
                if self.published.set_aside(seq, record.aside()).is_some_and(|known| known.fate != record.fate) {
                    self.decided();
                }
            }
            None => self.published.not_doubtful(seq),
        }
        Ok(record)
    }

    /// Whether this one may be sent again.
    async fn may_go(&self, seq: Seq) -> Result<(), ActError> {
        let record = self.learn(seq).await?.ok_or(ActError::NotThere(seq))?;
        if !record.fate.is_open() {
            return Err(ActError::Decided { seq, fate: record.fate });
        }
        let Some(holder) = record.waits_for else { return Ok(()) };
        let waits = self.learn(holder).await?.is_some_and(|holder| holder.fate == Fate::Waiting);
        if waits { Err(ActError::Waits { seq, holder }) } else { Ok(()) }
    }

    fn decided(&self) {
        self.published.count_decision();
        self.refresh.notify_one();
    }
}

/// What is aside, at start. Records whose story is over long ago, and whose entries have left the log, go.
pub(super) async fn recall(log: &dyn Log) -> Result<BTreeMap<Seq, Aside>, LogError> {
    let oldest = log.read(Seq::ZERO, 1, READ_BYTES).await?.first().map(super::log::Record::seq);
    let limit = rfc3339(SystemTime::now().checked_sub(RECORD_KEPT).unwrap_or(SystemTime::UNIX_EPOCH));
    let is_old = |record: &Quarantined| {
        !record.fate.is_open()
            && oldest.is_some_and(|oldest| record.seq < oldest)
            && record.acts.last().is_none_or(|act| act.at < limit)
    };
    let mut aside = BTreeMap::new();
    let mut pages = Pages::all(log).await?;
    while let Some(page) = pages.next(log).await? {
        for record in page {
            if is_old(&record) {
                log.release(record.seq).await?;
            } else {
                aside.insert(record.seq, record.aside());
            }
        }
    }
    Ok(aside)
}

/// Runs to its end whatever becomes of who waits for it: a command that is half done is for crashes only.
async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, ActError>> + Send + 'static,
) -> Result<T, ActError> {
    tokio::spawn(work).await.unwrap_or(Err(ActError::Buffer(BufferError::Stopped)))
}

/// The uuid of an entry that brings another's effects again: the same moment, another number.
fn again(uuid: Uuid) -> Uuid {
    const NUMBER: u128 = (1 << 62) - 1;
    let bits = uuid.as_u128();
    Uuid::from_u128((bits & !NUMBER) | (bits.wrapping_add(1) & NUMBER))
}

/// What is to be sent again, by place.
fn chosen(aside: &BTreeMap<Seq, Aside>, which: Which) -> Vec<Seq> {
    let open = records::by_place(aside, |_, aside| aside.fate.is_open());
    let Which::One(seq) = which else { return open };
    let mut taken = BTreeSet::from([seq]);
    // Who waits stands behind whom it waits for.
    let waits = |seq: &Seq, taken: &BTreeSet<Seq>| aside[seq].waits_for.is_some_and(|holder| taken.contains(&holder));
    for seq in &open {
        if waits(seq, &taken) {
            taken.insert(*seq);
        }
    }
    open.into_iter().filter(|seq| taken.contains(seq)).collect()
}
