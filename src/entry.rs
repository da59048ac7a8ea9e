//! What the buffer holds: one entry for each acknowledged transaction.
//!
//! Plain values. An entry speaks of tables and columns by name and of values in Postgres' canonical text, so that it
//! can be read by people, replayed by another version of this program, and moved to another machine.

mod expression;
mod shape;
mod widen;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use expression::{Expression, Own};
pub use shape::{Attribute, Lost, Shape, Terms, Typed, keep_used_labels};
pub use widen::{computes_alike, keeps_text, widens};

/// The format this program writes. A newer format in the buffer is refused, never guessed at. 2: TRUNCATE, and
/// [`Entry::actions`]. 3: [`Own`].
pub const FORMAT: u32 = 3;

/// The place of an entry in its site's history: 1, 2, 3 … without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first entry: the ledger value of a site that has never written.
    pub const ZERO: Seq = Seq(0);
    /// Later than every entry: the mark of effects that are not committed yet. Fits Postgres' `bigint`.
    pub const UNCOMMITTED: Seq = Seq(i64::MAX as u64);
    /// Later than every entry that the replica can have: the mark of quarantined effects that are still shown.
    pub const HELD: Seq = Seq(i64::MAX as u64 - 1);

    /// The seq that follows this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }

    /// As Postgres' `bigint`.
    pub fn as_i64(self) -> i64 {
        self.0.min(i64::MAX as u64) as i64
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A schema-qualified table name, as in the catalog (not quoted).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub schema: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A value in Postgres' canonical text (ISO dates, hex bytea, shortest floats); `None` is NULL.
pub type Value = Option<Arc<str>>;

/// One table as an entry's effects see it. Effects refer to it by its place in [`Entry::tables`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryTable {
    #[serde(flatten)]
    pub name: TableName,
    /// The columns that effects of this entry mention: all of them, in the table's order.
    pub columns: Vec<EntryColumn>,
    /// The partitioned table above it through which the client wrote: replay does so too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<TableName>,
    /// Places in `columns` of the row's identity (primary key, or another unique key without NULLs); empty: no key.
    pub key: Vec<usize>,
    /// Changes when the table's definition does (`catalog::Table::fingerprint`).
    pub fingerprint: u64,
    /// Its numbers in the catalog, by which it is known again under another name; `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A table in the catalog of the cluster where the entry was evaluated. Every physical copy of that cluster has the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// `pg_control_system().system_identifier`
    pub cluster: u64,
    /// `pg_class.oid`
    pub table: u32,
    /// `pg_attribute.attnum` of the columns; empty: 1, 2, 3 …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attnums: Vec<i16>,
}

impl Origin {
    /// The number of the column at this place.
    pub fn attnum(&self, place: usize) -> Option<i16> {
        if self.attnums.is_empty() { i16::try_from(place + 1).ok() } else { self.attnums.get(place).copied() }
    }
}

/// A column's name and its type as `format_type` prints it, with modifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryColumn {
    pub name: Arc<str>,
    #[serde(rename = "type")]
    pub type_name: Arc<str>,
    /// Of enumerations and composite types, and what is made of them; entries of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Arc<Shape>>,
}

impl EntryColumn {
    pub fn typed(&self) -> Typed<'_> {
        Typed { name: &self.type_name, shape: self.shape.as_ref() }
    }
}

/// One row-level change. `table` and column numbers are places in [`Entry::tables`] and [`EntryTable::columns`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Effect {
    /// A whole new row, generated columns included (`row` has a value for each of the table's columns).
    Insert { table: usize, row: Vec<Value> },
    /// New values of some columns of the row with this key. When a key column is among them the row gets a new key,
    /// and `row` holds the whole new row, as for an insert; otherwise `row` is absent.
    Update {
        table: usize,
        key: Vec<Value>,
        set: Vec<(usize, Value)>,
        /// What those columns held before, as the client's statement saw it.
        old: Vec<(usize, Value)>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        row: Option<Vec<Value>>,
        /// Those of the columns in `set` that are computed from the row's own columns.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        own: Vec<Own>,
    },
    /// The row with this key moves to another partition.
    Move {
        table: usize,
        key: Vec<Value>,
        set: Vec<(usize, Value)>,
        old: Vec<(usize, Value)>,
        /// The table that it moves to, as a place in [`Entry::tables`].
        to: usize,
        /// The whole new row, in the columns of that table.
        row: Vec<Value>,
    },
    /// The row with this key goes away.
    Delete {
        table: usize,
        key: Vec<Value>,
        /// The whole row as the client's statement saw it.
        old: Vec<Value>,
    },
    /// All rows go away, of tables that follow each other at once.
    Truncate { table: usize },
}

impl Effect {
    /// The place of the effect's table in [`Entry::tables`].
    pub fn table(&self) -> usize {
        match self {
            Effect::Insert { table, .. }
            | Effect::Update { table, .. }
            | Effect::Move { table, .. }
            | Effect::Delete { table, .. }
            | Effect::Truncate { table } => *table,
        }
    }
}

/// One acknowledged transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub format: u32,
    pub seq: Seq,
    pub uuid: Uuid,
    pub database: String,
    pub role: String,
    pub application_name: String,
    /// RFC 3339, UTC, microseconds.
    pub created_at: String,
    /// What the client sent, for people. Replay never runs it.
    pub statements: Vec<String>,
    pub tables: Vec<EntryTable>,
    pub effects: Vec<Effect>,
    /// Places of the effects that foreign keys have brought about (CASCADE, SET NULL, SET DEFAULT). They are pending like
    /// all others; on main its own referential actions do them, as part of the effect before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<usize>,
    /// Set when an operator sent a quarantined entry again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<RetryOf>,
}

/// Whose effects an entry brings once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryOf {
    /// The entry in quarantine.
    pub seq: Seq,
    /// Where the client's transaction stood first, however often it was sent again.
    pub place: Seq,
}

impl Entry {
    /// Where the client's transaction stands in the history that clients saw.
    pub fn place(&self) -> Seq {
        self.retry_of.map_or(self.seq, |retry| retry.place)
    }
}
