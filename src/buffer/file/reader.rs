//! Reading: segments, and what of them is acknowledged. Needs no claim and changes nothing.
//!
//! Every record's checksum is looked at whenever it is read: what is damaged is an error, never an entry.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::disk::{self, DiskFile};
use super::segment::{self, Found, HEADER, Head, Header, Scan};
use super::{Meta, lock};
use crate::buffer::log::{LogError, Record};
use crate::entry::Seq;

/// How much is read at a time.
const WINDOW: usize = 1 << 20;

/// One file of consecutive records.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: DiskFile,
    pub(super) head: Head,
    /// Where some of the records stand, in order.
    pub(super) places: Mutex<Vec<(Seq, u64)>>,
}

/// What is acknowledged, as of some moment.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// In order.
    pub(super) segments: Arc<[Arc<Segment>]>,
    /// The last entry that stands in a segment.
    pub(super) written: Seq,
    /// Entries up to here were dropped.
    pub(super) trimmed: Seq,
}

/// Everything in the folder.
#[derive(Debug)]
pub(super) struct Inventory {
    pub(super) segments: Vec<Arc<Segment>>,
    /// What the last of them holds.
    pub(super) newest: Option<Scan>,
    /// Segments that were made and never used.
    pub(super) unused: Vec<DiskFile>,
}

pub(super) fn file_name(first: Seq) -> String {
    format!("{:020}.log", first.0)
}

/// Opens all segments and looks through the last one.
pub(super) fn inventory(folder: &Path, meta: &Meta, write: bool) -> Result<Inventory, LogError> {
    let mut found = Inventory { segments: Vec::new(), newest: None, unused: Vec::new() };
    for name in disk::names(folder)? {
        let Some(first) = name.strip_suffix(".log").and_then(|first| first.parse().ok()).map(Seq) else { continue };
        let file = DiskFile::open(&folder.join(&name), write)?;
        if meta.newest.is_none_or(|newest| first > newest) {
            // Made, but never entered in `meta`, which comes before the first record.
            found.unused.push(file);
            continue;
        }
        let head = Head::decode(&file.read(0, HEADER)?).map_err(|error| in_file(error, &file))?;
        match head {
            Some(head) if head.first == first => {
                found.segments.push(Arc::new(Segment { file, head, places: Mutex::default() }));
            }
            Some(_) | None => {
                return Err(in_file(LogError::Corrupt("its head is not that of this segment".into()), &file));
            }
        }
    }
    let last = found.segments.last();
    if let Some(newest) = meta.newest.filter(|&newest| last.is_none_or(|last| last.head.first != newest)) {
        return Err(LogError::Corrupt(format!(
            "{} is missing in {}: the entries from {newest} on are lost",
            file_name(newest),
            folder.display()
        )));
    }
    if let Some(last) = last {
        let len = last.file.len()?;
        let bytes = last.file.read(0, usize::try_from(len).unwrap_or(usize::MAX))?;
        let mut scan = segment::scan(&bytes, last.head.first).map_err(|error| in_file(error, &last.file))?;
        *lock(&last.places) = std::mem::take(&mut scan.places);
        found.newest = Some(scan);
    }
    Ok(found)
}

impl Inventory {
    /// The last entry that stands in a segment, or went before them.
    pub(super) fn last(&self) -> Seq {
        let (Some(segment), Some(scan)) = (self.segments.last(), &self.newest) else { return Seq::ZERO };
        if scan.last < segment.head.first { segment.head.after } else { scan.last }
    }

    pub(super) fn view(&self, meta: &Meta) -> View {
        View { segments: self.segments.clone().into(), written: self.last(), trimmed: meta.trimmed }
    }
}

impl View {
    /// Up to `limit` records after `after`, and none after those that have `bytes` together.
    pub(super) fn read(&self, after: Seq, limit: usize, bytes: u64) -> Result<Vec<Record>, LogError> {
        let (mut records, mut left) = (Vec::new(), bytes);
        let mut next = after.max(self.trimmed).next();
        let start = self.segments.partition_point(|segment| segment.head.first <= next).saturating_sub(1);
        for (at, segment) in self.segments.iter().enumerate().skip(start) {
            let end = self.segments.get(at + 1).map_or(self.written, |following| following.head.after);
            if at == start && next < segment.head.first && segment.head.after >= next {
                return Err(LogError::Lost { first: next, last: segment.head.after });
            }
            next = next.max(segment.head.first);
            if records.len() >= limit || left == 0 {
                break;
            }
            if next <= end {
                segment.read(next, end, limit - records.len(), &mut left, &mut records)?;
                next = records.last().map_or(next, |record| record.seq().next());
            }
        }
        Ok(records)
    }
}

impl Segment {
    /// Reads records of this segment, `end` being its last. `left`: how many bytes may still be read.
    fn read(&self, from: Seq, end: Seq, limit: usize, left: &mut u64, into: &mut Vec<Record>) -> Result<(), LogError> {
        let enough = into.len() + limit;
        let known = lock(&self.places).iter().rev().find(|(seq, _)| *seq <= from).copied();
        let (mut seq, mut at) = known.unwrap_or((self.head.first, HEADER as u64));
        let mut window = Window { file: &self.file, start: 0, bytes: Vec::new() };
        while seq <= end && into.len() < enough && *left > 0 {
            let header = window.get(at, HEADER)?;
            let Some(header) = Header::decode(header).filter(|header| header.seq == seq) else {
                return Err(self.unreadable(seq, end, header));
            };
            if seq >= from {
                let body = window.get(at, HEADER + header.len as usize)?;
                if !matches!(segment::look(body, 0, seq), Found::Record(_)) {
                    return Err(self.damaged(seq, "its checksum is wrong"));
                }
                let json = std::str::from_utf8(&body[HEADER..]).map_err(|_| self.damaged(seq, "it is not text"))?;
                *left = left.saturating_sub(json.len() as u64);
                into.push(Record::decode(seq, json)?);
            }
            self.remember(seq, at);
            at += header.space() as u64;
            seq = seq.next();
        }
        Ok(())
    }

    /// Notes where a record stands, if it is one of those to be noted.
    pub(super) fn remember(&self, seq: Seq, at: u64) {
        let mut places = lock(&self.places);
        if segment::is_far(&places, seq, at) {
            places.push((seq, at));
        }
    }

    /// A segment that is too short has lost its tail; anything else was damaged.
    fn unreadable(&self, seq: Seq, end: Seq, header: &[u8]) -> LogError {
        if header.iter().all(|&byte| byte == 0) {
            tracing::error!(file = %self.file.path.display(), first = %seq, last = %end, "acknowledged entries are not there");
            return LogError::Lost { first: seq, last: end };
        }
        self.damaged(seq, "its header cannot be read")
    }

    fn damaged(&self, seq: Seq, why: &str) -> LogError {
        in_file(segment::damaged(seq, why), &self.file)
    }
}

/// Says where.
pub(super) fn in_file(error: LogError, file: &DiskFile) -> LogError {
    match error {
        LogError::Corrupt(why) => LogError::Corrupt(format!("{}: {why}", file.path.display())),
        other => other,
    }
}

/// A part of a file in memory.
struct Window<'a> {
    file: &'a DiskFile,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// These bytes, or fewer at the end of the file.
    fn get(&mut self, at: u64, len: usize) -> Result<&[u8], LogError> {
        if at < self.start || at + len as u64 > self.start + self.bytes.len() as u64 {
            // What is there already is not read again: a large record's beginning came with its header.
            let known = at.checked_sub(self.start).and_then(|skip| self.bytes.get(skip as usize..));
            let mut bytes = known.unwrap_or_default().to_vec();
            bytes.append(&mut self.file.read(at + bytes.len() as u64, len.max(WINDOW) - bytes.len())?);
            (self.start, self.bytes) = (at, bytes);
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..(from + len).min(self.bytes.len())])
    }
}
