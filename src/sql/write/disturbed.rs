//! Changes after the snapshot of a REPEATABLE READ transaction, as a write of it meets them.
//!
//! A row that it wants to change must be as the snapshot has it. Values that it wants to take need only be free now: a
//! unique index tells of what is committed, whatever the snapshot
//! (<https://www.postgresql.org/docs/15/transaction-iso.html#XACT-REPEATABLE-READ>).

use std::sync::Arc;

use bytes::Bytes;

use super::super::after::{Event, Rule};
use super::super::arrays;
use super::super::merge::{list, qualified};
use super::super::syntax::quoted;
use super::super::truncate::table_lock;
use super::decode::{Hidden, lock_of, read};
use super::{Action, Judged, Outcome, Report, WriteKind, WritePlan};
use crate::catalog::Column;
use crate::entry::Seq;
use crate::overlay::{Existence, Overlay, RowId};
use crate::sqlstate::SERIALIZATION_FAILURE;

/// 40001. `what`: update or delete.
pub fn concurrent(what: &str) -> Report {
    Report::new(SERIALIZATION_FAILURE, format!("could not serialize access due to concurrent {what}"))
}

/// Whether the statement can go on if the values are free now. `stale`: what has been locked and was changed since
/// `seen`; `now`: what is pending now.
pub(super) fn disturbed(
    plan: &WritePlan,
    rows: &[Vec<Option<Bytes>>],
    stale: &[u64],
    (now, seen): (&Overlay, Seq),
) -> Result<(), Report> {
    // By TRUNCATE: none of its rows can be told from those that are gone.
    if stale.contains(&table_lock(plan.target.id, true).hash) {
        return Err(concurrent("update"));
    }
    for row in rows {
        let hidden = read(plan, row)?;
        let mut locks = plan.outputs.iter().zip(row).filter_map(lock_of).peekable();
        // The first is always the row's own.
        let own = locks.peek().map(|lock| lock.hash);
        let is_there = hidden.action() != Action::Insert;
        if is_there && own.is_some_and(|own| stale.contains(&own)) {
            return Err(concurrent(if is_gone(&hidden, now, seen) { "delete" } else { "update" }));
        }
        if locks.any(|lock| lock.shared && stale.contains(&lock.hash)) {
            return Err(concurrent("update"));
        }
    }
    Ok(())
}

/// An INSERT of just these rows, all of one table, and its parameters: text arrays, one for each column.
pub(super) fn of_rows(plan: &WritePlan, judged: &Judged) -> Option<(String, Vec<String>)> {
    let table = &plan.target;
    if plan.kind != WriteKind::Insert || plan.conflict.is_some() {
        return None;
    }
    let columns: Vec<(usize, &Column)> = table.columns.iter().enumerate().filter(|(_, c)| !c.generated).collect();
    let whole = judged.rows.iter().map(|row| match &row.outcome {
        Outcome::Insert { row: values } if row.table.id == table.id => Some(values),
        _ => None,
    });
    let whole: Vec<_> = whole.collect::<Option<_>>()?;
    let array = |place: usize| arrays::text(whole.iter().map(|row| row.get(place).and_then(Option::as_deref)));
    let arguments = columns.iter().map(|(place, _)| array(*place)).collect();
    let text = format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM ROWS FROM ({}) AS k({})",
        qualified(table),
        list(columns.iter().map(|(_, column)| quoted(&column.name))),
        list(columns.iter().enumerate().map(|(n, (_, column))| format!("k.c{n}::{}", column.base_type_name))),
        list((1..=columns.len()).map(|n| format!("pg_catalog.unnest(${n}::pg_catalog.text[])"))),
        list((0..columns.len()).map(|n| format!("c{n}"))),
    );
    Some((text, arguments))
}

/// Whether what was evaluated is true now as well: then, what is to be judged of it by the state of now. `current`: the
/// same over that state, judged.
pub(super) fn undisturbed(
    plan: &WritePlan,
    stale: &[u64],
    rows: &[Vec<Option<Bytes>>],
    current: Result<Judged, Report>,
) -> Result<Vec<Event>, Report> {
    let locked = plan.locks(rows);
    // Another statement by now: it says nothing of what was locked.
    if !stale.iter().all(|hash| locked.iter().any(|lock| lock.hash == *hash)) {
        return Err(concurrent("update"));
    }
    // It has found a row that the snapshot does not have.
    if plan.conflict.is_some() {
        for row in rows {
            let mut locks = plan.outputs.iter().zip(row).filter_map(lock_of);
            if locks.any(|lock| stale.contains(&lock.hash)) && read(plan, row)?.action() != Action::Insert {
                return Err(concurrent("update"));
            }
        }
    }
    let mut events = current?.events;
    events.retain(|event| !matches!(event.rule, Rule::Parent(_)));
    // Rows that the snapshot does not have cannot be acted upon.
    match events.iter().any(|event| event.rule.action().is_some()) {
        true => Err(concurrent("update")),
        false => Ok(events),
    }
}

fn is_gone(row: &Hidden<'_>, now: &Overlay, seen: Seq) -> bool {
    let key: Option<Arc<[Arc<str>]>> = row.key().into_iter().collect();
    let pending = key.and_then(|key| now.row(row.table_before().id, &RowId::Key(key)));
    pending.and_then(|row| row.existence).is_some_and(|(existence, seq)| existence == Existence::Deleted && seq > seen)
}
