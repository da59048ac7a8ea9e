//! A buffer as one file, to be carried to another machine or from Redis to files: entries, quarantine, leases, and which
//! main they belong to.
//!
//! Lines of JSON between a first line that says what it is and a last one with a checksum. It is imported into an empty
//! buffer only, and all or nothing: what is not complete never has the site's name. Whether a daemon is at work is for
//! the caller to find out first.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::log::{LeaseBlock, Log, LogError, Quarantined, READ_BYTES, READ_RECORDS, Record};
use super::place::Place;
use super::{BufferConfig, Pages};
use crate::cluster::MainRecord;
use crate::entry::{self, Seq};

#[cfg(test)]
mod tests;

/// The format this program writes. A newer one is refused. 2: which main the entries belong to.
const FORMAT: u32 = 2;
/// No site has such a name.
const UNFINISHED: &str = ".importing";

/// Why a buffer was not exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("line {line} of the file: {why}")]
    Unreadable { line: u64, why: String },
    #[error("the file is of site {found:?}, this is {expected:?}")]
    OtherSite { found: String, expected: String },
    #[error("the buffer is not empty: {0}. Importing would lose that")]
    NotEmpty(String),
}

/// What was carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub entries: u64,
    pub last: Seq,
    pub quarantined: u64,
    pub leases: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Export {
        format: u32,
        entries: u32,
        site: String,
        /// The last seq that was given out.
        last: Seq,
    },
    Entry {
        seq: Seq,
        /// As it stands in the log, to the byte.
        json: String,
    },
    Quarantined(Quarantined),
    Lease {
        sequence: String,
        block: LeaseBlock,
    },
    Main(MainRecord),
    End {
        lines: u64,
        crc32: u32,
    },
}

/// Writes everything that the log holds. Takes the log over, so that nobody else writes meanwhile.
///
/// # Errors
/// When the log cannot be read, or the file cannot be written.
pub async fn export(log: &dyn Log, site: &str, out: &mut impl Write) -> Result<Summary, TransferError> {
    let last = log.claim(true, Seq::ZERO).await?.last;
    let mut out = Lines { out, count: 0, sum: crc32fast::Hasher::new() };
    let mut summary = Summary { last, ..Summary::default() };
    out.write(&Line::Export { format: FORMAT, entries: entry::FORMAT, site: site.to_owned(), last })?;
    let mut at = Seq::ZERO;
    loop {
        let window = log.window(at).await?;
        let Some(newest) = window.last().map(Record::seq) else { break };
        for record in &window {
            out.write(&Line::Entry { seq: record.seq(), json: record.json.to_string() })?;
        }
        summary.entries += window.len() as u64;
        at = newest;
    }
    let mut pages = Pages::all(log).await?;
    while let Some(page) = pages.next(log).await? {
        for quarantined in page {
            out.write(&Line::Quarantined(quarantined))?;
            summary.quarantined += 1;
        }
    }
    for (sequence, block) in log.leases().await? {
        out.write(&Line::Lease { sequence, block })?;
        summary.leases += 1;
    }
    if let Some(record) = log.main_record().await? {
        out.write(&Line::Main(record))?;
    }
    let (lines, crc32) = (out.count, out.sum.clone().finalize());
    out.write(&Line::End { lines, crc32 })?;
    out.out.flush()?;
    Ok(summary)
}

/// Reads an export to its end and changes nothing.
///
/// # Errors
/// When it is not whole, of another site, or of a newer format.
pub fn verify(file: impl BufRead, site: &str) -> Result<Summary, TransferError> {
    let mut reader = Reader::begin(file, site)?;
    let mut summary = Summary { last: reader.last, ..Summary::default() };
    let mut at = Seq::ZERO;
    while let Some(line) = reader.next()? {
        match line {
            Line::Entry { seq, json } => {
                Record::decode(seq, &json)?;
                if seq <= at || seq > summary.last {
                    return Err(reader.unreadable("an entry out of order"));
                }
                at = seq;
                summary.entries += 1;
            }
            Line::Quarantined(_) => summary.quarantined += 1,
            Line::Lease { .. } => summary.leases += 1,
            Line::Main(_) => {}
            Line::Export { .. } | Line::End { .. } => return Err(reader.unreadable("it does not belong here")),
        }
    }
    Ok(summary)
}

/// Fills an empty buffer from an export that was verified.
///
/// # Errors
/// When the buffer is not empty, cannot be written, or the file is not whole. Then the buffer is as it was.
pub async fn import(config: &BufferConfig, site: &str, file: impl BufRead) -> Result<Summary, TransferError> {
    let target = Place::of(config, site)?;
    empty(target.log()).await?;
    let unfinished = Place::of(config, &format!("{site}{UNFINISHED}"))?;
    unfinished.clear().await?;
    let filled = fill(unfinished.log(), Reader::begin(file, site)?).await;
    let summary = match filled {
        Ok(summary) => summary,
        Err(error) => {
            // What is left of it is cleared by the next attempt.
            drop(unfinished.clear().await);
            return Err(error);
        }
    };
    unfinished.replace(&target).await?;
    Ok(summary)
}

async fn empty(log: &dyn Log) -> Result<(), TransferError> {
    let not = |what: String| Err(TransferError::NotEmpty(what));
    let (quarantined, leases) = (log.quarantine_index().await?.len(), log.leases().await?.len());
    if quarantined + leases > 0 {
        return not(format!("it has {quarantined} entries in quarantine and leases of {leases} sequences"));
    }
    if let Some(first) = log.read(Seq::ZERO, 1, READ_BYTES).await?.first() {
        return not(format!("it has entries from {} on", first.seq()));
    }
    match log.claim(true, Seq::ZERO).await?.found {
        Seq::ZERO => Ok(()),
        last => not(format!("it has given out the numbers up to {last}")),
    }
}

async fn fill<R: BufRead>(log: &dyn Log, mut reader: Reader<R>) -> Result<Summary, TransferError> {
    let mut summary = Summary { last: reader.last, ..Summary::default() };
    let (mut batch, mut bytes): (Vec<Record>, u64) = (Vec::new(), 0);
    let mut at = log.claim(true, Seq::ZERO).await?.last;
    while let Some(line) = reader.next()? {
        match line {
            Line::Entry { seq, json } => {
                let record = Record::decode(seq, &json)?;
                if seq != at.next() || batch.len() >= READ_RECORDS || bytes >= READ_BYTES {
                    log.append(&std::mem::take(&mut batch)).await?;
                    bytes = 0;
                }
                if seq != at.next() {
                    log.claim(false, Seq(seq.0.saturating_sub(1))).await?;
                }
                at = seq;
                bytes += record.bytes();
                batch.push(record);
                summary.entries += 1;
            }
            Line::Quarantined(quarantined) => {
                log.quarantine(&quarantined).await?;
                summary.quarantined += 1;
            }
            Line::Lease { sequence, block } => {
                log.store_lease(&sequence, &block).await?;
                summary.leases += 1;
            }
            Line::Main(record) => log.store_main_record(&record).await?,
            Line::Export { .. } | Line::End { .. } => return Err(reader.unreadable("it does not belong here")),
        }
    }
    log.append(&batch).await?;
    let last = log.claim(false, summary.last).await?.last;
    if last == summary.last { Ok(summary) } else { Err(reader.unreadable("entries after the last one")) }
}

struct Lines<'a, W> {
    out: &'a mut W,
    count: u64,
    sum: crc32fast::Hasher,
}

impl<W: Write> Lines<'_, W> {
    fn write(&mut self, line: &Line) -> Result<(), TransferError> {
        let mut text = serde_json::to_string(line).map_err(io::Error::from)?;
        text.push('\n');
        self.count += 1;
        self.sum.update(text.as_bytes());
        Ok(self.out.write_all(text.as_bytes())?)
    }
}

/// The lines between the first and the last. Says that there are no more only when the checksum is right.
struct Reader<R> {
    file: R,
    line: u64,
    sum: crc32fast::Hasher,
    last: Seq,
}

impl<R: BufRead> Reader<R> {
    fn begin(file: R, expected: &str) -> Result<Reader<R>, TransferError> {
        let mut reader = Reader { file, line: 0, sum: crc32fast::Hasher::new(), last: Seq::ZERO };
        let Some(Line::Export { format, entries, site, last }) = reader.next()? else {
            return Err(reader.unreadable("it is no export of pgoutpost"));
        };
        if format > FORMAT || entries > entry::FORMAT {
            let why = format!("format {format}.{entries} is newer than this program's {FORMAT}.{}", entry::FORMAT);
            return Err(reader.unreadable(&why));
        }
        if site != expected {
            return Err(TransferError::OtherSite { found: site, expected: expected.to_owned() });
        }
        reader.last = last;
        Ok(reader)
    }

    fn next(&mut self) -> Result<Option<Line>, TransferError> {
        let mut text = String::new();
        self.file.read_line(&mut text)?;
        self.line += 1;
        if !text.ends_with('\n') {
            return Err(self.unreadable("the file ends too early"));
        }
        let line = serde_json::from_str(&text).map_err(|error| self.unreadable(&error.to_string()))?;
        if let Line::End { lines, crc32 } = line {
            let whole = lines + 1 == self.line && crc32 == self.sum.clone().finalize();
            return if whole { Ok(None) } else { Err(self.unreadable("the checksum is wrong")) };
        }
        self.sum.update(text.as_bytes());
        Ok(Some(line))
    }

    fn unreadable(&self, why: &str) -> TransferError {
        TransferError::Unreadable { line: self.line, why: why.to_owned() }
    }
}
