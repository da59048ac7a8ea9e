//! A pending row: what identifies it, when it came and went, and the columns that we know.
//!
//! A long backlog holds millions of them, and each change copies what is beside it in the persistent map: so a row is one
//! reference there, and its columns are one piece of text, whatever their number.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::catalog::AttNum;
use crate::entry::Seq;

/// What identifies a row within its table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowId {
    /// The values of the table's key columns, in key order.
    Key(Arc<[Arc<str>]>),
    /// A row of a table without a key: the entry that inserted it, and its number among that entry's effects.
    Anonymous(Seq, u32),
}

/// Whether an entry of ours made or removed a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existence {
    Inserted,
    Deleted,
}

/// The pending state of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRow {
    pub existence: Option<(Existence, Seq)>,
    /// Every column of an inserted row; the columns we set, of a patch; none, of a deleted row.
    pub columns: Columns,
    /// The number of the newest change among its entry's: with [`PendingRow::newest`], the order in which a table comes
    /// to hold its rows.
    pub change: u32,
}

/// A column's pending value, and the entry that set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingColumn<'a> {
    pub attnum: AttNum,
    pub seq: Seq,
    /// As [`crate::entry::Value`].
    pub value: Option<&'a str>,
}

impl PendingRow {
    /// The newest entry that touched the row.
    pub fn newest(&self) -> Seq {
        let existence = self.existence.map(|(_, seq)| seq);
        self.columns.iter().map(|column| column.seq).chain(existence).max().unwrap_or(Seq::ZERO)
    }

    /// The pending value of a column, if it has one.
    pub fn column(&self, attnum: AttNum) -> Option<PendingColumn<'_>> {
        self.columns.iter().find(|column| column.attnum == attnum)
    }

    /// This row, whose effects are all later, laid over an earlier state of the same row.
    pub(super) fn over(&self, earlier: &PendingRow) -> PendingRow {
        if self.existence.is_some() {
            return self.clone();
        }
        PendingRow {
            existence: earlier.existence,
            columns: earlier.columns.overlaid_by(&self.columns),
            change: self.change,
        }
    }

    /// Whether nothing of the row is left when the replica has all entries up to `confirmed`.
    pub(super) fn is_past(&self, confirmed: Seq) -> bool {
        self.newest() <= confirmed
    }

    /// What is left of the row when the replica has all entries up to `confirmed`; `None`: all of it.
    pub(super) fn trimmed(&self, confirmed: Seq) -> Option<PendingRow> {
        let existence = self.existence.filter(|&(_, seq)| seq > confirmed);
        if existence == self.existence && (existence.is_some() || self.columns.iter().all(|one| one.seq > confirmed)) {
            return None;
        }
        let columns = self.columns.iter().filter(|column| column.seq > confirmed).collect();
        Some(PendingRow { existence: None, columns, change: self.change })
    }
}

/// A row's pending columns, in `attnum` order.
///
/// Each is three numbers, written in characters of seven bits (attnum, seq, the value's length and one more, where 0 is
/// NULL), and the value: so all of it is text, and a value is a slice that need not be looked at again.
#[derive(Clone, PartialEq, Eq)]
pub struct Columns(Arc<str>);

const ATTNUM: usize = 3;
const SEQ: usize = 9;
const LENGTH: usize = 5;
const HEAD: usize = ATTNUM + SEQ + LENGTH;

impl Columns {
    pub fn iter(&self) -> impl Iterator<Item = PendingColumn<'_>> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (head, values) = rest.split_at_checked(HEAD)?;
            let (attnum, head) = head.split_at(ATTNUM);
            let (seq, length) = head.split_at(SEQ);
            let (value, rest_of_row) = values.split_at((number(length) as usize).saturating_sub(1));
            rest = rest_of_row;
            Some(PendingColumn {
                attnum: AttNum(number(attnum) as u16 as i16),
                seq: Seq(number(seq)),
                value: (number(length) > 0).then_some(value),
            })
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `later`'s columns replace these; both are, and the result is, in `attnum` order.
    fn overlaid_by(&self, later: &Columns) -> Columns {
        let mut rest = later.iter().peekable();
        let mut merged: Vec<PendingColumn<'_>> = Vec::new();
        for column in self.iter() {
            while let Some(new) = rest.next_if(|new| new.attnum < column.attnum) {
                merged.push(new);
            }
            merged.push(rest.next_if(|new| new.attnum == column.attnum).unwrap_or(column));
        }
        merged.extend(rest);
        merged.into_iter().collect()
    }
}

impl<'a> FromIterator<PendingColumn<'a>> for Columns {
    fn from_iter<I: IntoIterator<Item = PendingColumn<'a>>>(columns: I) -> Columns {
        let mut text = String::new();
        for PendingColumn { attnum, seq, value } in columns {
            write_number(&mut text, u64::from(attnum.0 as u16), ATTNUM);
            write_number(&mut text, seq.0, SEQ);
            write_number(&mut text, value.map_or(0, |value| value.len() as u64 + 1), LENGTH);
            text.push_str(value.unwrap_or_default());
        }
        Columns(text.into())
    }
}

impl fmt::Debug for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn write_number(text: &mut String, number: u64, width: usize) {
    text.extend((0..width).rev().map(|place| char::from((number >> (7 * place)) as u8 & 0x7f)));
}

fn number(digits: &str) -> u64 {
    digits.bytes().fold(0, |number, digit| number << 7 | u64::from(digit))
}

/// A row in its table's map, found by its identity.
#[derive(Debug, Clone)]
pub(super) struct Filed(Arc<(RowId, PendingRow)>);

impl Filed {
    pub(super) fn new(id: RowId, row: PendingRow) -> Filed {
        Filed(Arc::new((id, row)))
    }

    pub(super) fn id(&self) -> &RowId {
        &self.0.0
    }

    pub(super) fn row(&self) -> &PendingRow {
        &self.0.1
    }
}

impl Borrow<RowId> for Filed {
    fn borrow(&self) -> &RowId {
        self.id()
    }
}

impl PartialEq for Filed {
    fn eq(&self, other: &Filed) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Filed {}

impl Hash for Filed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}
