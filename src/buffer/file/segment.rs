//! The format of a segment: a file of consecutive records, filled with zeros ahead of them. Plain bytes, no I/O.
//!
//! A head of 32 bytes, then records: a header of 32 bytes, the entry's JSON, zeros up to the next multiple of 32. So a
//! header never lies across two sectors, and a sector that was never written is told from one that was damaged: JSON and
//! headers are never all zeros. What is torn is the last batch, and only it may be dropped: a later batch is written only
//! after the one before it was durable.

use std::ops::Range;

use crate::buffer::log::LogError;
use crate::entry::Seq;

/// What this program writes. A newer one is refused.
pub(super) const FORMAT: u32 = 1;
/// The length of the segment's head and of each record's header, and what both are aligned to.
pub(super) const HEADER: usize = 32;
const MAGIC: &[u8; 8] = b"pgoutlog";
/// The unit in which a disk writes all or nothing.
const SECTOR: usize = 512;

/// The first bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The first entry it holds or will hold.
    pub(super) first: Seq,
    /// The last entry of the segment before it. Entries between the two never existed: the log went on after a floor.
    pub(super) after: Seq,
}

impl Head {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.after.0.to_le_bytes());
        let sum = crc32fast::hash(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None`: never written.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Head>, LogError> {
        if bytes.len() < HEADER || bytes[..HEADER].iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if bytes[..8] != *MAGIC {
            return Err(LogError::Corrupt("it does not begin as a segment of pgoutpost does".into()));
        }
        let format = u32_at(bytes, 8);
        if format > FORMAT {
            let why = format!("written in the file format {format}, this program knows {FORMAT}: bring it up to date");
            return Err(LogError::Corrupt(why));
        }
        let mut summed = [0; HEADER];
        summed.copy_from_slice(&bytes[..HEADER]);
        summed[12..16].fill(0);
        if crc32fast::hash(&summed) != u32_at(bytes, 12) {
            return Err(LogError::Corrupt("the checksum of its head is wrong".into()));
        }
        Ok(Some(Head { first: Seq(u64_at(bytes, 16)), after: Seq(u64_at(bytes, 24)) }))
    }
}

/// What stands before a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sum: u32,
    pub(super) len: u32,
    pub(super) seq: Seq,
    /// The records that became durable together: the first, and how many.
    pub(super) batch: Seq,
    pub(super) count: u32,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[4..8].copy_from_slice(&self.sum.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seq.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.batch.0.to_le_bytes());
        let sum = crc32fast::hash(&bytes);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None`: its checksum is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
        let mut summed = [0; HEADER];
        summed.copy_from_slice(bytes.get(..HEADER)?);
        summed[..4].fill(0);
        let header = Header {
            sum: u32_at(bytes, 4),
            len: u32_at(bytes, 8),
            count: u32_at(bytes, 12),
            seq: Seq(u64_at(bytes, 16)),
            batch: Seq(u64_at(bytes, 24)),
        };
        let whole = crc32fast::hash(&summed) == u32_at(bytes, 0);
        let sound = header.batch <= header.seq && header.seq.0 - header.batch.0 < u64::from(header.count);
        (whole && sound && header.len > 0).then_some(header)
    }

    /// How many bytes header, JSON and padding take.
    pub(super) fn space(&self) -> usize {
        HEADER + (self.len as usize).next_multiple_of(HEADER)
    }

    /// Whether it is the last of its batch.
    pub(super) fn closes(&self) -> bool {
        self.seq.0 + 1 == self.batch.0 + u64::from(self.count)
    }
}

/// Appends the records of one batch, the first being `first`.
pub(super) fn encode(first: Seq, records: &[&str], into: &mut Vec<u8>) {
    let mut seq = first;
    for json in records {
        // Entries are smaller than 256 MiB, and batches than 1000 records.
        let (len, count) = (json.len() as u32, records.len() as u32);
        let header = Header { sum: crc32fast::hash(json.as_bytes()), len, seq, batch: first, count };
        into.extend_from_slice(&header.encode());
        into.extend_from_slice(json.as_bytes());
        into.resize(into.len().next_multiple_of(HEADER), 0);
        seq = seq.next();
    }
}

/// What stands at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Record(Header),
    /// Nothing was ever written here.
    Nothing,
    /// Only a part of the record was written.
    Torn,
    /// What was written is not there any more.
    Damaged(&'static str),
}

/// Looks at the place where the record `seq` should begin. `bytes`: the whole segment from its beginning.
pub(super) fn look(bytes: &[u8], at: usize, seq: Seq) -> Found {
    let Some(head) = bytes.get(at..at + HEADER) else {
        return if zeros(bytes.get(at..).unwrap_or_default()) { Found::Nothing } else { Found::Torn };
    };
    if zeros(head) {
        return Found::Nothing;
    }
    let Some(header) = Header::decode(head) else {
        // A damaged one still has its JSON behind it; one that broke off has nothing.
        let broke_off = zeros(bytes.get(at + HEADER..).unwrap_or_default());
        return if broke_off { Found::Torn } else { Found::Damaged("its header's checksum is wrong") };
    };
    if header.seq != seq {
        return Found::Damaged("another entry stands in its place");
    }
    let body = at + HEADER..at + HEADER + header.len as usize;
    let Some(json) = bytes.get(body.clone()) else { return Found::Torn };
    if crc32fast::hash(json) == header.sum {
        return Found::Record(header);
    }
    // JSON does not end with a zero: a write that broke off does.
    if json.ends_with(&[0]) || has_unwritten_sector(bytes, body) {
        Found::Torn
    } else {
        Found::Damaged("its checksum is wrong")
    }
}

/// What a look through a whole segment found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scan {
    /// The last whole record; the entry before the segment's first when there is none.
    pub(super) last: Seq,
    /// Where the next record goes.
    pub(super) end: usize,
    /// Where the last whole batch stands.
    pub(super) last_batch: Range<usize>,
    /// Whether something was written behind `end`: a batch that never became durable.
    pub(super) torn: bool,
    /// Where some of the records stand, in order.
    pub(super) places: Vec<(Seq, u64)>,
}

/// One in so many records is remembered by its place, and one in so many bytes: who reads large ones a few at a time does
/// not begin with those before them each time.
const STRIDE: u64 = 64;
const STRIDE_BYTES: u64 = 64 << 10;

/// Whether a record is so far behind those that are remembered that it is to be, too.
pub(super) fn is_far(places: &[(Seq, u64)], seq: Seq, at: u64) -> bool {
    let far = |&(last, place): &(Seq, u64)| seq > last && (seq.0 - last.0 >= STRIDE || at >= place + STRIDE_BYTES);
    places.last().is_none_or(far)
}

/// Looks through a whole segment. A tail that was never durable is left out; anything else that is wrong is an error.
pub(super) fn scan(bytes: &[u8], first: Seq) -> Result<Scan, LogError> {
    let mut scan =
        Scan { last: Seq(first.0 - 1), end: HEADER, last_batch: HEADER..HEADER, torn: false, places: Vec::new() };
    let (mut at, mut seq, mut batch) = (HEADER, first, first);
    loop {
        match look(bytes, at, seq) {
            Found::Record(header) => {
                if header.batch != batch {
                    return Err(damaged(seq, "it belongs to another batch than its neighbours"));
                }
                if is_far(&scan.places, seq, at as u64) {
                    scan.places.push((seq, at as u64));
                }
                at += header.space();
                if header.closes() {
                    scan.last = seq;
                    scan.last_batch = scan.end..at;
                    scan.end = at;
                    batch = seq.next();
                }
                seq = seq.next();
            }
            Found::Damaged(why) => return Err(damaged(seq, why)),
            Found::Nothing | Found::Torn => break,
        }
    }
    // A later batch proves that this one was durable once.
    let tail = bytes.get(at..).unwrap_or_default();
    let headers = tail.chunks_exact(HEADER).filter_map(Header::decode);
    if let Some(later) = headers.filter(|header| header.batch > seq).map(|header| header.batch).min() {
        return Err(LogError::Corrupt(format!(
            "entries {seq} to {} cannot be read, though a later batch begins with {later}",
            Seq(later.0 - 1)
        )));
    }
    scan.torn = !zeros(bytes.get(scan.end..).unwrap_or_default());
    scan.places.retain(|&(place, _)| place <= scan.last);
    Ok(scan)
}

pub(super) fn damaged(seq: Seq, why: &str) -> LogError {
    LogError::Corrupt(format!("entry {seq}: {why}"))
}

fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Whether the part of the range that lies in some sector is nothing but zeros.
fn has_unwritten_sector(bytes: &[u8], range: Range<usize>) -> bool {
    let mut at = range.start;
    while at < range.end {
        let next = (at + 1).next_multiple_of(SECTOR).min(range.end);
        if zeros(&bytes[at..next]) {
            return true;
        }
        at = next;
    }
    false
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
