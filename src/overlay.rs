//! The pending effects of acknowledged (and of a session's own open) transactions, by table and row.
//!
//! Pure: no async, no clock, no I/O. An [`Overlay`] is a persistent map: cloning it is cheap, and a clone never changes
//! when the original does. The daemon publishes one for all acknowledged entries; a session's open transaction keeps a
//! second, of its own effects, and reads through a [`View`] of both.
//!
//! **One model makes folding exact.** A pending row says, besides values, *when*: `existence` is (inserted | deleted,
//! seq) if an entry of ours created or removed the row, and each column that was set has the seq that set it. With `L`
//! the ledger value in a read's own replica snapshot:
//! - the replica's row is hidden when any of these seqs is `> L` ([`PendingRow::newest`]);
//! - `inserted, seq > L`: the row is shown whole, from here;
//! - `deleted, seq > L`: nothing is shown;
//! - otherwise the replica's row is shown, each column of ours with seq `> L` laid over it.
//!
//! A table that was truncated by entry `S` has forgotten all rows pending before it, and shows none of the replica's
//! while `S > L`: what the replica has by then came after.

mod bind;
mod definition;
mod row;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use imbl::HashMap;

use crate::catalog::{AttNum, TableId};
use crate::entry::{Seq, Value};

pub use bind::{bind, bind_held};
pub use definition::{Definition, Made};
pub use row::{Columns, Existence, PendingColumn, PendingRow, RowId};

use definition::Definitions;
use row::Filed;

/// One row-level change, bound to the catalog's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A whole new row.
    Insert {
        row: RowId,
        values: Vec<(AttNum, Value)>,
    },
    /// New values of some columns (never of key columns: that is a delete and an insert).
    Update {
        row: RowId,
        set: Vec<(AttNum, Value)>,
    },
    Delete {
        row: RowId,
    },
    /// All rows go away.
    Truncate,
    /// No change: the others of this entry upon the table, or some of them, were made for this definition of it.
    Defined {
        definition: Arc<Definition>,
        /// Rows come to their key from another one.
        rekeys: bool,
    },
}

impl Change {
    /// The row that changes; `None`: all of the table, or none.
    pub fn row(&self) -> Option<&RowId> {
        match self {
            Change::Insert { row, .. } | Change::Update { row, .. } | Change::Delete { row } => Some(row),
            Change::Truncate | Change::Defined { .. } => None,
        }
    }
}

/// A table's pending rows.
type Rows = HashMap<Filed, ()>;

/// Pending rows of all tables.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    tables: HashMap<TableId, Rows>,
    /// The last entry that truncated each table.
    truncated: HashMap<TableId, Seq>,
    definitions: Definitions,
    /// Which rows the entries touched, oldest first, so that trimming visits only those; `None`: all of the table.
    touched: VecDeque<(Seq, TableId, Option<RowId>)>,
    last: Seq,
    trimmed: Seq,
    /// How many uncommitted changes were folded in.
    uncommitted: u32,
}

impl Overlay {
    /// An overlay of a site whose replica has all entries up to `confirmed`.
    pub fn starting_at(confirmed: Seq) -> Overlay {
        Overlay { last: confirmed, trimmed: confirmed, ..Overlay::default() }
    }

    /// This overlay for those who read it: it costs nothing, and cannot be trimmed.
    #[must_use]
    pub fn for_readers(&self) -> Overlay {
        Overlay {
            tables: self.tables.clone(),
            truncated: self.truncated.clone(),
            definitions: self.definitions.clone(),
            touched: VecDeque::new(),
            last: self.last,
            trimmed: self.trimmed,
            uncommitted: self.uncommitted,
        }
    }

    /// The newest entry applied.
    pub fn last(&self) -> Seq {
        self.last
    }

    /// All entries up to this one have been dropped: the replica has them.
    pub fn trimmed(&self) -> Seq {
        self.trimmed
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.truncated.is_empty()
    }

    /// How many rows are pending.
    pub fn row_count(&self) -> usize {
        self.tables.values().map(Rows::len).sum()
    }

    /// The pending state of one row.
    pub fn row(&self, table: TableId, row: &RowId) -> Option<&PendingRow> {
        filed(self.tables.get(&table)?, row)
    }

    /// Folds one entry's changes in. Entries must come in order.
    pub fn apply(&mut self, seq: Seq, changes: &[(TableId, Change)]) {
        debug_assert!(seq > self.last, "entries are applied in order");
        for (number, (table, change)) in changes.iter().enumerate() {
            self.fold((seq, u32::try_from(number).unwrap_or(u32::MAX)), *table, change);
            if !matches!(change, Change::Defined { .. }) {
                self.touched.push_back((seq, *table, change.row().cloned()));
            }
        }
        self.last = seq;
    }

    /// Goes past an entry whose effects are not shown.
    pub fn pass(&mut self, seq: Seq) {
        self.last = self.last.max(seq);
    }

    /// Folds in what a quarantined entry did. It stays until the overlay is made anew, whatever the replica has.
    pub fn hold(&mut self, changes: &[(TableId, Change)]) {
        for (table, change) in changes {
            self.uncommitted = self.uncommitted.saturating_add(1);
            self.fold((Seq::HELD, self.uncommitted), *table, change);
        }
    }

    /// Folds a change of a session's own open transaction in.
    pub fn apply_uncommitted(&mut self, table: TableId, change: &Change) {
        self.uncommitted = self.uncommitted.saturating_add(1);
        self.fold((Seq::UNCOMMITTED, self.uncommitted), table, change);
    }

    fn fold(&mut self, (seq, number): (Seq, u32), table: TableId, change: &Change) {
        let pending = |values: &[(AttNum, Value)]| -> Columns {
            let mut values: Vec<&(AttNum, Value)> = values.iter().collect();
            values.sort_by_key(|(attnum, _)| *attnum);
            values
                .into_iter()
                .map(|(attnum, value)| PendingColumn { attnum: *attnum, seq, value: value.as_deref() })
                .collect()
        };
        match change {
            Change::Truncate => {
                self.tables.remove(&table);
                self.truncated.insert(table, seq);
                return;
            }
            Change::Defined { definition, rekeys } => return self.definitions.note(seq, table, definition, *rekeys),
            Change::Insert { .. } | Change::Update { .. } | Change::Delete { .. } => {}
        }
        let rows = self.tables.entry(table).or_default();
        let (row, state) = match change {
            Change::Truncate | Change::Defined { .. } => return,
            Change::Insert { row, values } => {
                let existence = Some((Existence::Inserted, seq));
                (row, PendingRow { existence, columns: pending(values), change: number })
            }
            Change::Delete { row } => {
                let existence = Some((Existence::Deleted, seq));
                (row, PendingRow { existence, columns: std::iter::empty().collect(), change: number })
            }
            Change::Update { row, set } => {
                let patch = PendingRow { existence: None, columns: pending(set), change: number };
                let state = match filed(rows, row) {
                    Some(earlier) => patch.over(earlier),
                    None => patch,
                };
                (row, state)
            }
        };
        rows.insert(Filed::new(row.clone(), state), ());
    }

    /// Drops what the replica has: all entries up to `confirmed`.
    pub fn trim(&mut self, confirmed: Seq) {
        while let Some((_, table, row)) = self.touched.pop_front_if(|(seq, ..)| *seq <= confirmed) {
            match row {
                Some(row) => self.trim_row(table, &row, confirmed),
                None if self.truncated.get(&table).is_some_and(|seq| *seq <= confirmed) => {
                    self.truncated.remove(&table);
                }
                None => {}
            }
        }
        // Not at once: a backlog that is drained by steps would be copied at each of them.
        if self.touched.capacity() > 4 * self.touched.len() + 4096 {
            self.touched.shrink_to(2 * self.touched.len());
        }
        self.definitions.trim(confirmed);
        self.trimmed = self.trimmed.max(confirmed);
        self.last = self.last.max(confirmed);
    }

    fn trim_row(&mut self, table: TableId, row: &RowId, confirmed: Seq) {
        let Some(rows) = self.tables.get_mut(&table) else {
            return;
        };
        match filed(rows, row).map(|pending| (pending.is_past(confirmed), pending.trimmed(confirmed))) {
            Some((true, _)) => drop(rows.remove(row)),
            Some((false, Some(rest))) => drop(rows.insert(Filed::new(row.clone(), rest), ())),
            Some((false, None)) | None => {}
        }
        if rows.is_empty() {
            self.tables.remove(&table);
        }
    }
}

/// A row of a table, by its identity.
fn filed<'a>(rows: &'a Rows, row: &RowId) -> Option<&'a PendingRow> {
    rows.get_key_value(row).map(|(filed, ())| filed.row())
}

/// What a session reads through: acknowledged entries, and over them the effects of its own open transaction.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub base: &'a Overlay,
    pub own: &'a Overlay,
}

impl<'a> View<'a> {
    /// Whether no table has pending rows.
    pub fn is_empty(self) -> bool {
        self.base.is_empty() && self.own.is_empty()
    }

    /// Whether the table has pending rows.
    pub fn has_pending(self, table: TableId) -> bool {
        [self.base, self.own]
            .iter()
            .any(|overlay| overlay.tables.contains_key(&table) || overlay.truncated.contains_key(&table))
    }

    /// The last entry that truncated the table: none of the replica's rows is to be seen before the replica has it.
    pub fn truncated(self, table: TableId) -> Option<Seq> {
        self.own.truncated.get(&table).or_else(|| self.base.truncated.get(&table)).copied()
    }

    /// What the table's pending effects were made for.
    pub fn made(self, table: TableId) -> impl Iterator<Item = &'a Made> {
        self.base.definitions.of(table).iter().chain(self.own.definitions.of(table))
    }

    /// What was pending when the open transaction began, unless it has truncated the table.
    fn below(self, table: TableId) -> Option<&'a Rows> {
        if self.own.truncated.contains_key(&table) { None } else { self.base.tables.get(&table) }
    }

    /// The pending state of one row.
    pub fn row(self, table: TableId, row: &RowId) -> Option<Cow<'a, PendingRow>> {
        match (self.own.row(table, row), self.below(table).and_then(|rows| filed(rows, row))) {
            (Some(own), Some(base)) => Some(Cow::Owned(own.over(base))),
            (Some(only), None) | (None, Some(only)) => Some(Cow::Borrowed(only)),
            (None, None) => None,
        }
    }

    /// All pending rows of a table, in no particular order.
    pub fn rows(self, table: TableId) -> impl Iterator<Item = (&'a RowId, Cow<'a, PendingRow>)> {
        let own = self.own.tables.get(&table);
        let base = self.below(table);
        let untouched = base.into_iter().flat_map(HashMap::keys);
        let untouched = untouched.filter(move |filed| !own.is_some_and(|own| own.contains_key(filed.id())));
        let untouched = untouched.map(|filed| (filed.id(), Cow::Borrowed(filed.row())));
        let touched = own.into_iter().flat_map(HashMap::keys).map(move |own| {
            let (row, pending) = (own.id(), own.row());
            let earlier = base.and_then(|base| filed(base, row));
            (row, earlier.map_or(Cow::Borrowed(pending), |earlier| Cow::Owned(pending.over(earlier))))
        });
        untouched.chain(touched)
    }
}
