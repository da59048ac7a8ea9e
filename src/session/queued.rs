//! What Postgres would keep for the end of the transaction, whether or not there is anything to find then.
//!
//! An evaluation yields events only for rows that may break a constraint. Postgres queues one for each row that has a new
//! reference, or that others may have referred to, and does not truncate a table while it has any
//! (<https://www.postgresql.org/docs/15/sql-set-constraints.html>).

use std::sync::Arc;

use super::transaction::Work;
use crate::catalog::{AttNum, ForeignKey, Table, TableId};
use crate::entry::Value;
use crate::sql::{Event, Outcome, Rule, Versions};

impl Work {
    /// Whether Postgres would call the table one that "has pending trigger events".
    pub fn has_pending_events(&self, table: TableId) -> bool {
        self.deferred.iter().chain(&self.queued).any(|event| event.rule.table() == table)
    }

    /// Notes what waits for the end of the transaction when this happens to a row of `table`.
    pub(super) fn queue(&mut self, table: &Table, outcome: &Outcome) {
        for key in table.referenced_by.iter().filter(|key| key.deferrable) {
            if let Some(updated) = leaves(table, key, outcome) {
                self.queue_event(|| Rule::Children { key: Arc::new(key.clone()), updated }, |rule| {
                    matches!(rule, Rule::Children { key: known, updated: of } if **known == *key && *of == updated)
                });
            }
        }
        for key in table.references.iter().filter(|key| key.deferrable && refers(key, outcome)) {
            self.queue_event(
                || Rule::Parent(Arc::new(key.clone())),
                |rule| matches!(rule, Rule::Parent(known) if **known == *key),
            );
        }
    }

    /// Once for each constraint.
    fn queue_event(&mut self, rule: impl Fn() -> Rule, is_it: impl Fn(&Rule) -> bool) {
        if self.queued.iter().any(|event| is_it(&event.rule)) {
            return;
        }
        let event =
            Event { rule: rule(), values: Vec::new(), new: Vec::new(), acquitted: true, versions: Versions::default() };
        if self.constraints.defers(&event) {
            self.queued.push_back(event);
        }
    }
}

/// Whether the row now refers to something else. One that refers to nothing is queued when it is inserted, not when it is
/// updated.
fn refers(key: &ForeignKey, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Insert { .. } => true,
        Outcome::Update { set, old, .. } => {
            let nothing = key.columns.iter().any(|column| matches!(of(set, *column), Some(None)));
            (!nothing || key.match_full) && changes(&key.columns, set, old)
        }
        // The rows of partitions are not truncated here.
        Outcome::Delete { .. } | Outcome::Move { .. } => false,
    }
}

/// Whether others may have referred to what the row was before, and it is not that any more: by an UPDATE?
fn leaves(table: &Table, key: &ForeignKey, outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Delete { old, .. } => {
            let value = |column: &AttNum| old.get(table.position(*column)?)?.as_ref();
            key.referenced_columns.iter().all(|column| value(column).is_some()).then_some(false)
        }
        Outcome::Update { set, old, .. } => {
            let nothing = key.referenced_columns.iter().any(|column| matches!(of(old, *column), Some(None)));
            (!nothing && changes(&key.referenced_columns, set, old)).then_some(true)
        }
        Outcome::Insert { .. } | Outcome::Move { .. } => None,
    }
}

fn changes(columns: &[AttNum], set: &[(AttNum, Value)], old: &[(AttNum, Value)]) -> bool {
    columns.iter().any(|column| of(set, *column) != of(old, *column))
}

fn of(values: &[(AttNum, Value)], column: AttNum) -> Option<&Value> {
    values.iter().find(|(known, _)| *known == column).map(|(_, value)| value)
}
