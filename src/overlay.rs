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

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use imbl::{HashMap, OrdMap};

use crate::catalog::{AttNum, Catalog, Table, TableId};
use crate::entry::{Effect, Entry, Seq, TableName, Value};

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
    /// In `attnum` order. Every column of an inserted row; the columns we set, of a patch; none, of a deleted row.
    pub columns: Arc<[PendingColumn]>,
    /// The number of the newest change among its entry's: with [`PendingRow::newest`], the order in which a table comes
    /// to hold its rows.
    pub change: u32,
}

/// A column's pending value, and the entry that set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingColumn {
    pub attnum: AttNum,
    pub seq: Seq,
    pub value: Value,
}

impl PendingRow {
    /// The newest entry that touched the row.
    pub fn newest(&self) -> Seq {
        let existence = self.existence.map(|(_, seq)| seq);
        self.columns.iter().map(|column| column.seq).chain(existence).max().unwrap_or(Seq::ZERO)
    }

    /// The pending value of a column, if it has one.
    pub fn column(&self, attnum: AttNum) -> Option<&PendingColumn> {
        let place = self.columns.binary_search_by_key(&attnum, |column| column.attnum).ok()?;
        Some(&self.columns[place])
    }

    /// This row, whose effects are all later, laid over an earlier state of the same row.
    fn over(&self, earlier: &PendingRow) -> PendingRow {
        if self.existence.is_some() {
            return self.clone();
        }
        PendingRow {
            existence: earlier.existence,
            columns: lay_over(&earlier.columns, &self.columns),
            change: self.change,
        }
    }

    /// What is left of the row when the replica has all entries up to `confirmed`.
    fn trimmed(&self, confirmed: Seq) -> Option<PendingRow> {
        let existence = self.existence.filter(|&(_, seq)| seq > confirmed);
        if existence.is_some() {
            return Some(self.clone());
        }
        let columns: Arc<[_]> = self.columns.iter().filter(|column| column.seq > confirmed).cloned().collect();
        (!columns.is_empty()).then_some(PendingRow { existence: None, columns, change: self.change })
    }
}

/// `later`'s columns replace `earlier`'s; both are, and the result is, in `attnum` order.
fn lay_over(earlier: &[PendingColumn], later: &[PendingColumn]) -> Arc<[PendingColumn]> {
    let mut merged: Vec<PendingColumn> = Vec::with_capacity(earlier.len().max(later.len()));
    let mut rest = later.iter().peekable();
    for column in earlier {
        while let Some(new) = rest.next_if(|new| new.attnum < column.attnum) {
            merged.push(new.clone());
        }
        let replacement = rest.next_if(|new| new.attnum == column.attnum);
        merged.push(replacement.unwrap_or(column).clone());
    }
    merged.extend(rest.cloned());
    merged.into()
}

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
}

impl Change {
    /// The row that changes; `None`: all of the table.
    pub fn row(&self) -> Option<&RowId> {
        match self {
            Change::Insert { row, .. } | Change::Update { row, .. } | Change::Delete { row } => Some(row),
            Change::Truncate => None,
        }
    }
}

/// A row, or all of a table.
type Touched = (TableId, Option<RowId>);

/// Pending rows of all tables.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    tables: HashMap<TableId, HashMap<RowId, PendingRow>>,
    /// The last entry that truncated each table.
    truncated: HashMap<TableId, Seq>,
    /// Which rows each entry touched, so that trimming visits only those; `None`: all of the table.
    touched: OrdMap<Seq, Arc<[Touched]>>,
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
        self.tables.values().map(HashMap::len).sum()
    }

    /// The pending state of one row.
    pub fn row(&self, table: TableId, row: &RowId) -> Option<&PendingRow> {
        self.tables.get(&table)?.get(row)
    }

    /// Folds one entry's changes in. Entries must come in order.
    pub fn apply(&mut self, seq: Seq, changes: &[(TableId, Change)]) {
        debug_assert!(seq > self.last, "entries are applied in order");
        for (number, (table, change)) in changes.iter().enumerate() {
            self.fold((seq, u32::try_from(number).unwrap_or(u32::MAX)), *table, change);
        }
        let touched = changes.iter().map(|(table, change)| (*table, change.row().cloned())).collect();
        self.touched.insert(seq, touched);
        self.last = seq;
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
        let pending = |values: &[(AttNum, Value)]| -> Arc<[PendingColumn]> {
            let column =
                |(attnum, value): &(AttNum, Value)| PendingColumn { attnum: *attnum, seq, value: value.clone() };
            let mut columns: Vec<_> = values.iter().map(column).collect();
            columns.sort_by_key(|column| column.attnum);
            columns.into()
        };
        if *change == Change::Truncate {
            self.tables.remove(&table);
            self.truncated.insert(table, seq);
            return;
        }
        let rows = self.tables.entry(table).or_default();
        let (row, state) = match change {
            Change::Truncate => return,
            Change::Insert { row, values } => {
                let existence = Some((Existence::Inserted, seq));
                (row, PendingRow { existence, columns: pending(values), change: number })
            }
            Change::Delete { row } => {
                let existence = Some((Existence::Deleted, seq));
                (row, PendingRow { existence, columns: Arc::new([]), change: number })
            }
            Change::Update { row, set } => {
                let patch = PendingRow { existence: None, columns: pending(set), change: number };
                let state = match rows.get(row) {
                    Some(earlier) => patch.over(earlier),
                    None => patch,
                };
                (row, state)
            }
        };
        rows.insert(row.clone(), state);
    }

    /// Drops what the replica has: all entries up to `confirmed`.
    pub fn trim(&mut self, confirmed: Seq) {
        while let Some(&(seq, _)) = self.touched.get_min() {
            if seq > confirmed {
                break;
            }
            let Some(touched) = self.touched.remove(&seq) else { break };
            for (table, row) in touched.iter() {
                match row {
                    Some(row) => self.trim_row(*table, row, confirmed),
                    None if self.truncated.get(table).is_some_and(|seq| *seq <= confirmed) => {
                        self.truncated.remove(table);
                    }
                    None => {}
                }
            }
        }
        self.trimmed = self.trimmed.max(confirmed);
        self.last = self.last.max(confirmed);
    }

    fn trim_row(&mut self, table: TableId, row: &RowId, confirmed: Seq) {
        let Some(rows) = self.tables.get_mut(&table) else {
            return;
        };
        match rows.get(row).map(|pending| pending.trimmed(confirmed)) {
            Some(Some(rest)) => drop(rows.insert(row.clone(), rest)),
            Some(None) => drop(rows.remove(row)),
            None => {}
        }
        if rows.is_empty() {
            self.tables.remove(&table);
        }
    }
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

    /// What was pending when the open transaction began, unless it has truncated the table.
    fn below(self, table: TableId) -> Option<&'a HashMap<RowId, PendingRow>> {
        if self.own.truncated.contains_key(&table) { None } else { self.base.tables.get(&table) }
    }

    /// The pending state of one row.
    pub fn row(self, table: TableId, row: &RowId) -> Option<Cow<'a, PendingRow>> {
        match (self.own.row(table, row), self.below(table).and_then(|rows| rows.get(row))) {
            (Some(own), Some(base)) => Some(Cow::Owned(own.over(base))),
            (Some(only), None) | (None, Some(only)) => Some(Cow::Borrowed(only)),
            (None, None) => None,
        }
    }

    /// All pending rows of a table, in no particular order.
    pub fn rows(self, table: TableId) -> impl Iterator<Item = (&'a RowId, Cow<'a, PendingRow>)> {
        let own = self.own.tables.get(&table);
        let base = self.below(table);
        let untouched =
            base.into_iter().flatten().filter(move |(row, _)| !own.is_some_and(|own| own.contains_key(*row)));
        let untouched = untouched.map(|(row, pending)| (row, Cow::Borrowed(pending)));
        let touched = own.into_iter().flatten().map(move |(row, pending)| {
            let earlier = base.and_then(|base| base.get(row));
            (row, earlier.map_or(Cow::Borrowed(pending), |earlier| Cow::Owned(pending.over(earlier))))
        });
        untouched.chain(touched)
    }
}

/// An entry's effects in the numbers of this catalog, and the tables it does not know (dropped since, or not
/// replicated yet): their effects cannot be shown.
pub fn bind(entry: &Entry, catalog: &Catalog) -> (Vec<(TableId, Change)>, Vec<TableName>) {
    type Bound<'a> = (&'a Table, Vec<Option<AttNum>>);
    let tables: Vec<Option<Bound<'_>>> = entry
        .tables
        .iter()
        .map(|described| {
            let table = catalog.named(&described.name)?;
            let attnum = |name: &Arc<str>| table.column(name).map(|column| column.attnum);
            Some((&**table, described.columns.iter().map(|column| attnum(&column.name)).collect()))
        })
        .collect();
    let mut changes = Vec::with_capacity(entry.effects.len());
    for (number, effect) in entry.effects.iter().enumerate() {
        if let Effect::Move { table, key, to, row, .. } = effect {
            let part = |place: usize, change: &dyn Fn(usize) -> Effect, changes: &mut Vec<_>| {
                if let Some((table, attnums)) = &tables[place] {
                    bind_effect(entry.seq, number, &change(place), table, &entry.tables[place].key, attnums, changes);
                }
            };
            part(*table, &|table| Effect::Delete { table, key: key.clone(), old: Vec::new() }, &mut changes);
            part(*to, &|table| Effect::Insert { table, row: row.clone() }, &mut changes);
        } else if let Some((table, attnums)) = &tables[effect.table()] {
            let key = &entry.tables[effect.table()].key;
            bind_effect(entry.seq, number, effect, table, key, attnums, &mut changes);
        }
    }
    let known = tables.iter().map(Option::is_some);
    let unknown = entry.tables.iter().zip(known).filter(|(_, known)| !known);
    let unknown = unknown.map(|(described, _)| described.name.clone()).collect();
    (changes, unknown)
}

fn bind_effect(
    seq: Seq,
    number: usize,
    effect: &Effect,
    table: &Table,
    key: &[usize],
    attnums: &[Option<AttNum>],
    changes: &mut Vec<(TableId, Change)>,
) {
    let identity = |values: &[Value]| {
        let key: Option<Arc<[Arc<str>]>> = values.iter().cloned().collect();
        match key {
            Some(key) if !key.is_empty() => RowId::Key(key),
            Some(_) | None => RowId::Anonymous(seq, number as u32),
        }
    };
    let identity_of_row = |row: &[Value]| identity(&key.iter().map(|&place| row[place].clone()).collect::<Vec<_>>());
    let whole = |row: &[Value]| -> Vec<(AttNum, Value)> {
        attnums.iter().zip(row).filter_map(|(attnum, value)| Some(((*attnum)?, value.clone()))).collect()
    };
    let mut push = |change| changes.push((table.id, change));
    match effect {
        Effect::Insert { row, .. } => push(Change::Insert { row: identity_of_row(row), values: whole(row) }),
        Effect::Delete { key, .. } => push(Change::Delete { row: identity(key) }),
        Effect::Truncate { .. } => push(Change::Truncate),
        Effect::Update { key, row: Some(row), .. } => {
            push(Change::Delete { row: identity(key) });
            push(Change::Insert { row: identity_of_row(row), values: whole(row) });
        }
        // Two tables are part of it: see above.
        Effect::Move { .. } => {}
        Effect::Update { key, set, row: None, .. } => {
            let set = set.iter().filter_map(|(place, value)| Some((attnums[*place]?, value.clone()))).collect();
            push(Change::Update { row: identity(key), set });
        }
    }
}
