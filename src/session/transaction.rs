//! A client's transaction: its phase, and the work it has collected.
//!
//! Pure state. The replica runs the same transaction (BEGIN, savepoints, failures, end), so Postgres itself keeps the
//! client's status and finds the words for what is wrong; here is what the replica cannot hold: effects.

/// The numbers of a table's columns, when they are not 1, 2, 3 …
fn attnums(table: &Table) -> Vec<i16> {
    let numbers = || table.columns.iter().map(|column| column.attnum.0);
    if numbers().eq(1..=table.columns.len() as i16) { Vec::new() } else { numbers().collect() }
}

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use super::constraints::Constraints;
use super::deferred::Deferred;
use super::sides::Moment;
use crate::catalog::{AttNum, Table, TableId};
use crate::entry::{Effect, EntryColumn, EntryTable, Origin, Own, Seq, Value};
use crate::overlay::{Change, Definition, Overlay, RowId};
use crate::report::Report;
use crate::sql::{Event, Isolation, Outcome};
use crate::sqlstate;

/// The most one transaction may collect. Bytes of values, roughly.
pub const WORK_MAX: usize = 256 << 20;

/// Where the client's transaction block stands, as ReadyForQuery says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// No block: each query string or pipeline up to Sync is a transaction of its own.
    #[default]
    Idle,
    Open,
    /// Only ROLLBACK (TO) helps.
    Failed,
}

impl Phase {
    /// ReadyForQuery's byte.
    pub fn status(self) -> u8 {
        match self {
            Phase::Idle => b'I',
            Phase::Open => b'T',
            Phase::Failed => b'E',
        }
    }

    /// Reads ReadyForQuery's byte.
    pub fn of_status(status: u8) -> Phase {
        match status {
            b'T' => Phase::Open,
            b'E' => Phase::Failed,
            _ => Phase::Idle,
        }
    }
}

/// Whether the transaction runs on main.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Route {
    #[default]
    Here,
    Straight,
}

/// The open transaction, or the next one.
#[derive(Debug, Default)]
pub struct Transaction {
    pub phase: Phase,
    pub route: Route,
    /// Its block is that of a query string, which ends with it.
    pub implicit: bool,
    /// From before its block began.
    pub begun: Moment,
    /// As the client said with BEGIN or SET TRANSACTION; `None`: the session's default.
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
    /// What the session's defaults were when it began, where they are known: they may be changed before it ends.
    pub defaults: Modes,
    /// The overlay as it was before the transaction's first snapshot.
    pub first: Option<Arc<Overlay>>,
    /// Something of that snapshot may have been shown, or evaluated.
    pub looked: bool,
    /// It holds locks on what was changed after its snapshot, so constraints are judged over the state of now.
    pub reliance: bool,
    pub work: Work,
    pub savepoints: Vec<Savepoint>,
}

/// How a transaction runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
}

/// What ROLLBACK TO comes back to.
#[derive(Debug)]
pub struct Savepoint {
    pub name: String,
    own: Overlay,
    changes: usize,
    effects: usize,
    tables: usize,
    statements: usize,
    bytes: usize,
    deferred: Deferred,
    queued: imbl::Vector<Event>,
    constraints: Constraints,
    /// The place in the session's locks.
    pub locks: usize,
}

impl Transaction {
    /// Begins a block, keeping what an implicit transaction has done already.
    pub fn begin(&mut self, isolation: Option<Isolation>, read_only: Option<bool>) {
        self.phase = Phase::Open;
        self.isolation = isolation;
        self.read_only = read_only;
    }

    /// After COMMIT or ROLLBACK. `chain`: the next one begins at once, of the same kind.
    pub fn end(&mut self, chain: bool) {
        let next = Transaction {
            phase: if chain { Phase::Open } else { Phase::Idle },
            isolation: self.isolation.filter(|_| chain),
            read_only: self.read_only.filter(|_| chain),
            defaults: if chain { self.defaults } else { Modes::default() },
            ..Transaction::default()
        };
        *self = next;
    }

    /// Whether there is anything to end.
    pub fn is_touched(&self) -> bool {
        self.phase != Phase::Idle
            || self.route != Route::Here
            || self.first.is_some()
            || !self.work.is_empty()
            || !self.work.constraints.is_default()
            || self.isolation.is_some()
            || self.read_only.is_some()
            || self.defaults != Modes::default()
    }

    /// How it runs, as far as that is known.
    pub fn modes(&self) -> Modes {
        Modes {
            isolation: self.isolation.or(self.defaults.isolation),
            read_only: self.read_only.or(self.defaults.read_only),
        }
    }

    /// The overlay that a repeatable read sees throughout.
    pub fn frozen(&mut self, now: impl FnOnce() -> Arc<Overlay>) -> Arc<Overlay> {
        Arc::clone(self.first.get_or_insert_with(now))
    }

    /// Whether the innermost open (sub)transaction has truncated the table.
    pub fn has_truncated(&self, table: TableId) -> bool {
        let from = self.savepoints.last().map_or(0, |savepoint| savepoint.effects);
        let is_it =
            |place: &usize| self.work.tables[*place].origin.as_ref().is_some_and(|known| known.table == table.0);
        let truncates = |effect: &Effect| matches!(effect, Effect::Truncate { table } if is_it(table));
        self.work.effects.iter().skip(from).any(truncates)
    }

    pub fn save(&mut self, name: &str, locks: usize) {
        let work = &self.work;
        self.savepoints.push(Savepoint {
            name: name.to_owned(),
            own: work.own.clone(),
            changes: work.changes.len(),
            effects: work.effects.len(),
            tables: work.tables.len(),
            statements: work.statements.len(),
            bytes: work.bytes,
            deferred: work.deferred.clone(),
            queued: work.queued.clone(),
            constraints: work.constraints.clone(),
            locks,
        });
    }

    /// Forgets the savepoint and those after it; their work stays.
    pub fn release(&mut self, name: &str) {
        if let Some(place) = self.savepoints.iter().rposition(|savepoint| savepoint.name == name) {
            self.savepoints.truncate(place);
        }
    }

    /// The parts of the work up to each savepoint and after the last: how many effects there are at its end, and what
    /// SET CONSTRAINTS has said by then.
    pub fn parts(&self) -> impl Iterator<Item = (Option<&str>, usize, &Constraints)> {
        let savepoints = self.savepoints.iter();
        let parts = savepoints.map(|savepoint| (Some(&*savepoint.name), savepoint.effects, &savepoint.constraints));
        parts.chain([(None, self.work.effects.len(), &self.work.constraints)])
    }

    /// From now on it is main's.
    pub fn hand_over(&mut self) {
        self.route = Route::Straight;
        self.work = Work::default();
        self.savepoints.clear();
    }

    /// Undoes what was done since the savepoint, which stays. Returns its place in the session's locks.
    pub fn roll_back_to(&mut self, name: &str) -> Option<usize> {
        let place = self.savepoints.iter().rposition(|savepoint| savepoint.name == name)?;
        self.savepoints.truncate(place + 1);
        let savepoint = &self.savepoints[place];
        let work = &mut self.work;
        work.own = savepoint.own.clone();
        work.changes.truncate(savepoint.changes);
        work.effects.truncate(savepoint.effects);
        work.actions.retain(|place| *place < savepoint.effects);
        work.tables.truncate(savepoint.tables);
        work.places.retain(|_, (table, _)| *table < savepoint.tables);
        work.statements.truncate(savepoint.statements);
        work.bytes = savepoint.bytes;
        work.deferred.clone_from(&savepoint.deferred);
        work.queued.clone_from(&savepoint.queued);
        work.constraints.clone_from(&savepoint.constraints);
        self.phase = Phase::Open;
        Some(savepoint.locks)
    }
}

/// A table, the partitioned one that the statement named, and the fingerprint of its definition.
type Named = (TableId, Option<TableId>, u64);

/// The effects of a transaction that is not committed, in the forms that the overlay and the entry want.
#[derive(Debug, Default)]
pub struct Work {
    /// The transaction's own fork, laid over the published overlay.
    pub own: Overlay,
    pub changes: Vec<(TableId, Change)>,
    pub effects: Vec<Effect>,
    pub tables: Vec<EntryTable>,
    /// By the definition too: it may change within a transaction.
    places: HashMap<Named, (usize, Arc<Definition>)>,
    pub statements: Vec<String>,
    /// Places of the effects that are those of referential actions.
    pub actions: Vec<usize>,
    /// What is judged at the end of the transaction.
    pub deferred: Deferred,
    /// What Postgres would have queued by then, once for each constraint, without values.
    pub queued: imbl::Vector<Event>,
    pub constraints: Constraints,
    /// Who has written, once anything is.
    pub role: String,
    bytes: usize,
}

impl Work {
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }

    /// Bytes of values, roughly.
    pub fn size(&self) -> usize {
        self.bytes
    }

    /// Adds what a referential action does to `table`: main's own will do it again.
    ///
    /// # Errors
    /// As [`Work::add`].
    pub fn add_action(&mut self, table: &Table, via: Option<&Table>, outcome: Outcome) -> Result<(), Report> {
        self.actions.push(self.effects.len());
        self.add(table, via, outcome)
    }

    /// Adds that all rows of `table` are gone.
    ///
    /// # Errors
    /// As [`Work::add`].
    pub fn truncate(&mut self, table: &Table) -> Result<(), Report> {
        let place = self.place(table, None);
        self.change(table, Change::Truncate);
        self.effect(Effect::Truncate { table: place })
    }

    /// Adds what one statement does to a row of `table`. `via`: the partitioned table that it named.
    ///
    /// # Errors
    /// 53400 when the transaction has grown beyond [`WORK_MAX`].
    pub fn add(&mut self, table: &Table, via: Option<&Table>, outcome: Outcome) -> Result<(), Report> {
        let place = self.place(table, via);
        self.queue(table, &outcome);
        let keys = |values: &[Value]| -> Option<Arc<[Arc<str>]>> { values.iter().cloned().collect() };
        // The number that `overlay::bind` gives the row when it reads the entry again.
        let number = u32::try_from(self.effects.len()).unwrap_or(u32::MAX);
        let identity = |key: &[Value]| match keys(key) {
            Some(key) if !key.is_empty() => RowId::Key(key),
            Some(_) | None => RowId::Anonymous(Seq::UNCOMMITTED, number),
        };
        let row_of = |table: &Table, row: &[Value]| {
            let key: Vec<Value> =
                table.key.iter().filter_map(|&part| row.get(table.position(part)?).cloned()).collect();
            identity(&key)
        };
        let of_row = |row: &[Value]| row_of(table, row);
        let whole_of =
            |table: &Table, row: &[Value]| table.columns.iter().zip(row).map(|(c, v)| (c.attnum, v.clone())).collect();
        let whole = |row: &[Value]| whole_of(table, row);
        let numbered = |columns: &[(AttNum, Value)]| -> Vec<(usize, Value)> {
            columns.iter().filter_map(|(attnum, value)| Some((table.position(*attnum)?, value.clone()))).collect()
        };
        match outcome {
            Outcome::Insert { row } => {
                self.change(table, Change::Insert { row: of_row(&row), values: whole(&row) });
                self.effect(Effect::Insert { table: place, row })?;
            }
            Outcome::Delete { key, old } => {
                self.change(table, Change::Delete { row: identity(&key) });
                self.effect(Effect::Delete { table: place, key, old })?;
            }
            Outcome::Move { key, set, old, to, row } => {
                self.change(table, Change::Delete { row: identity(&key) });
                self.change(&to, Change::Insert { row: row_of(&to, &row), values: whole_of(&to, &row) });
                let (set, old) = (numbered(&set), numbered(&old));
                let arrived = self.place(&to, via);
                self.rekeyed(&to, via);
                let to = arrived;
                self.effect(Effect::Move { table: place, key, set, old, to, row })?;
            }
            Outcome::Update { key, set, old, row, own } => {
                match &row {
                    Some(row) => {
                        self.change(table, Change::Delete { row: identity(&key) });
                        self.change(table, Change::Insert { row: of_row(row), values: whole(row) });
                        self.rekeyed(table, via);
                    }
                    None => self.change(table, Change::Update { row: identity(&key), set: set.clone() }),
                }
                let (set, old) = (numbered(&set), numbered(&old));
                let column = |(attnum, expression)| Some(Own { column: table.position(attnum)?, expression });
                let own = own.into_iter().filter_map(column).collect();
                self.effect(Effect::Update { table: place, key, set, old, row, own })?;
            }
        }
        Ok(())
    }

    fn change(&mut self, table: &Table, change: Change) {
        self.own.apply_uncommitted(table.id, &change);
        self.changes.push((table.id, change));
    }

    fn effect(&mut self, effect: Effect) -> Result<(), Report> {
        let length = |values: &[Value]| values.iter().flatten().map(|text| text.len() + 16).sum::<usize>();
        let numbered = |values: &[(usize, Value)]| {
            values.iter().filter_map(|(_, v)| v.as_ref()).map(|v| v.len() + 16).sum::<usize>()
        };
        self.bytes += 64
            + match &effect {
                Effect::Insert { row, .. } => length(row),
                Effect::Delete { key, old, .. } => length(key) + length(old),
                Effect::Move { key, set, old, row, .. } => length(key) + numbered(set) + numbered(old) + length(row),
                Effect::Truncate { .. } => 0,
                Effect::Update { key, set, old, row, own, .. } => {
                    let values = own.iter().flat_map(|own| own.expression.values());
                    let own = own.len() * 64 + values.map(|(kind, text)| kind.len() + text.len() + 16).sum::<usize>();
                    own + length(key) + numbered(set) + numbered(old) + row.as_deref().map_or(0, length)
                }
            };
        self.effects.push(effect);
        if self.bytes > WORK_MAX {
            let message = format!("a transaction may not change more than {} MiB of rows", WORK_MAX >> 20);
            return Err(Report::new(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, message).hint("Commit in smaller parts."));
        }
        Ok(())
    }

    /// Notes that a row of the table has come to its key from another one.
    fn rekeyed(&mut self, table: &Table, via: Option<&Table>) {
        if let Some((_, definition)) = self.places.get(&(table.id, via.map(|via| via.id), table.fingerprint)) {
            let definition = Arc::clone(definition);
            self.change(table, Change::Defined { definition, rekeys: true });
        }
    }

    fn place(&mut self, table: &Table, via: Option<&Table>) -> usize {
        let key = (table.id, via.map(|via| via.id), table.fingerprint);
        // Types may have been altered between two statements, which the fingerprint does not show.
        if let Some((place, definition)) = self.places.get(&key)
            && definition.has_shapes_of(table)
        {
            return *place;
        }
        let place = self.tables.len();
        let columns = table.columns.iter();
        self.tables.push(EntryTable {
            name: table.name.clone(),
            columns: columns
                .map(|column| EntryColumn {
                    name: Arc::clone(&column.name),
                    type_name: Arc::clone(&column.full_type_name),
                    shape: column.shape.clone(),
                })
                .collect(),
            via: via.map(|via| via.name.clone()),
            key: table.key.iter().filter_map(|&attnum| table.position(attnum)).collect(),
            fingerprint: table.fingerprint,
            // Of which cluster is said at commit.
            origin: Some(Origin { cluster: 0, table: table.id.0, attnums: attnums(table) }),
        });
        let definition = Arc::new(Definition::of(table));
        self.change(table, Change::Defined { definition: Arc::clone(&definition), rekeys: false });
        self.places.insert(key, (place, definition));
        place
    }
}
