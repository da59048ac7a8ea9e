//! Reading the records of quarantined entries, some at a time: each may be as large as a transaction may be, and there
//! may be many. What is asked of all of them ([`Aside`]) is in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::{Aside, Quarantined};
use crate::buffer::log::{Log, LogError};
use crate::buffer::{Buffer, BufferError};
use crate::entry::{Entry, Seq};

/// How many records are in memory at a time, at most, and how many bytes of them, unless one alone has more.
pub(super) const PAGE_RECORDS: usize = 256;
pub(super) const PAGE_BYTES: u64 = 1 << 20;

/// Records still to be read, in the order in which they will be, and how many bytes they have.
#[derive(Debug)]
pub struct Pages(VecDeque<(Seq, u64)>);

impl Pages {
    /// All, by number.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn all(log: &dyn Log) -> Result<Pages, LogError> {
        Ok(Pages(log.quarantine_index().await?.into()))
    }

    /// Of these entries, in this order, those that are in quarantine.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn of(log: &dyn Log, seqs: impl IntoIterator<Item = Seq> + Send) -> Result<Pages, LogError> {
        let seqs: Vec<Seq> = seqs.into_iter().collect();
        if seqs.is_empty() {
            return Ok(Pages(VecDeque::new()));
        }
        let bytes: HashMap<Seq, u64> = log.quarantine_index().await?.into_iter().collect();
        Ok(Pages(seqs.into_iter().filter_map(|seq| Some((seq, *bytes.get(&seq)?))).collect()))
    }

    /// The next ones; `None`: that was all.
    ///
    /// # Errors
    /// When the log does not answer, or a record cannot be read.
    pub async fn next(&mut self, log: &dyn Log) -> Result<Option<Vec<Quarantined>>, LogError> {
        let (mut seqs, mut bytes) = (Vec::new(), 0);
        while let Some((seq, more)) = self.0.front() {
            bytes += more;
            if seqs.len() >= PAGE_RECORDS || (!seqs.is_empty() && bytes > PAGE_BYTES) {
                break;
            }
            seqs.push(*seq);
            self.0.pop_front();
        }
        if seqs.is_empty() { Ok(None) } else { Ok(Some(log.quarantined(&seqs).await?)) }
    }
}

/// [`Pages`] of a buffer.
#[derive(Debug)]
pub struct QuarantinePages<'a> {
    buffer: &'a Buffer,
    pages: Pages,
}

impl QuarantinePages<'_> {
    /// The next records; `None`: that was all.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn next(&mut self) -> Result<Option<Vec<Quarantined>>, BufferError> {
        Ok(self.pages.next(&*self.buffer.log.0).await?)
    }
}

impl Buffer {
    /// What is in quarantine and not decided yet.
    pub fn open_asides(&self) -> BTreeMap<Seq, Aside> {
        let (mut aside, _) = self.published.aside();
        aside.retain(|_, aside| aside.fate.is_open());
        aside
    }

    /// The first records behind that of `after` that are not decided, at most `limit`, by place; without what the entries do.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn quarantine_heads(&self, after: Option<Seq>, limit: usize) -> Result<Vec<Quarantined>, BufferError> {
        let (aside, _) = self.published.aside();
        let behind = after.map(|seq| (aside.get(&seq).map_or(seq, |aside| aside.place), seq));
        let chosen = by_place(&aside, |seq, aside| aside.fate.is_open() && Some((aside.place, seq)) > behind);
        let mut pages = self.quarantine_pages(chosen.into_iter().take(limit)).await?;
        let mut heads = Vec::new();
        while let Some(page) = pages.next().await? {
            heads.extend(page.into_iter().map(head));
        }
        Ok(heads)
    }

    /// The records of these entries, in this order.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn quarantine_pages(
        &self,
        seqs: impl IntoIterator<Item = Seq> + Send,
    ) -> Result<QuarantinePages<'_>, BufferError> {
        Ok(QuarantinePages { buffer: self, pages: Pages::of(&*self.log.0, seqs).await? })
    }

    /// All records, also of what is decided, as long as it is remembered.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn all_quarantine_pages(&self) -> Result<QuarantinePages<'_>, BufferError> {
        Ok(QuarantinePages { buffer: self, pages: Pages::all(&*self.log.0).await? })
    }

    /// The records of those of these entries that are in quarantine, all in memory: for few, whose size is known.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn quarantined_of(&self, seqs: &[Seq]) -> Result<Vec<Quarantined>, BufferError> {
        if seqs.is_empty() { Ok(Vec::new()) } else { Ok(self.log.0.quarantined(seqs).await?) }
    }

    /// One entry's record.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn quarantine_record(&self, seq: Seq) -> Result<Option<Quarantined>, BufferError> {
        Ok(self.log.0.quarantined(&[seq]).await?.pop())
    }
}

/// For tests: all of it in memory.
#[cfg(any(test, debug_assertions))]
impl Buffer {
    /// Everything in quarantine that is not decided yet, by place.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn quarantined(&self) -> Result<Vec<Quarantined>, BufferError> {
        let mut records = self.quarantine_records().await?;
        records.retain(|record| record.fate.is_open());
        Ok(records)
    }

    /// The same, and what has been decided as long as it is remembered.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn quarantine_records(&self) -> Result<Vec<Quarantined>, BufferError> {
        let (mut records, mut pages) = (Vec::new(), self.all_quarantine_pages().await?);
        while let Some(page) = pages.next().await? {
            records.extend(page);
        }
        records.sort_by_key(|record| (record.entry.place(), record.seq));
        Ok(records)
    }
}

/// Those of which this is true, by place.
pub(in crate::buffer) fn by_place(aside: &BTreeMap<Seq, Aside>, wanted: impl Fn(Seq, &Aside) -> bool) -> Vec<Seq> {
    let wanted = aside.iter().filter(|(seq, aside)| wanted(**seq, aside));
    let mut places: Vec<(Seq, Seq)> = wanted.map(|(seq, aside)| (aside.place, *seq)).collect();
    places.sort_unstable();
    places.into_iter().map(|(_, seq)| seq).collect()
}

fn head(record: Quarantined) -> Quarantined {
    let told = &*record.entry;
    let entry = Entry {
        tables: Vec::new(),
        effects: Vec::new(),
        actions: Vec::new(),
        statements: told.statements.clone(),
        role: told.role.clone(),
        database: told.database.clone(),
        application_name: told.application_name.clone(),
        created_at: told.created_at.clone(),
        ..*told
    };
    Quarantined { entry: Arc::new(entry), rows_on_main: Vec::new(), ..record }
}
