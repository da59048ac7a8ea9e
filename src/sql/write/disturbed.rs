//! Changes after the snapshot of a REPEATABLE READ transaction, as a write of it meets them.
//!
//! A row that it wants to change must be as the snapshot has it. Values that it wants to take need only be free now: a
//! unique index tells of what is committed, whatever the snapshot
//! (<https://www.postgresql.org/docs/15/transaction-iso.html#XACT-REPEATABLE-READ>).

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::super::after::{Event, Rule};
use super::super::arrays;
use super::super::merge::{list, qualified};
use super::super::syntax::quoted;
use super::super::truncate::table_lock;
use super::decode::{Hidden, Values, read, rows};
use super::locked::lock_of;
use super::unique::Before;
use super::{Action, Judged, Report, WriteKind, WritePlan};
use crate::catalog::Column;
use crate::entry::{Seq, Value};
use crate::overlay::{Existence, Overlay, RowId, View};
use crate::sqlstate::{EXCLUSION_VIOLATION, SERIALIZATION_FAILURE, UNIQUE_VIOLATION};

/// 40001. `what`: update or delete.
pub fn concurrent(what: &str) -> Report {
    Report::new(SERIALIZATION_FAILURE, format!("could not serialize access due to concurrent {what}"))
}

/// Whether it is said of values that are to be unique, or apart.
pub fn of_values(report: &Report) -> bool {
    [UNIQUE_VIOLATION, EXCLUSION_VIOLATION].contains(&report.code)
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
            return Err(concurrent(if is_gone(&hidden, &hidden.key(), now, seen) { "delete" } else { "update" }));
        }
        if locks.any(|lock| lock.shared && stale.contains(&lock.hash)) {
            return Err(concurrent("update"));
        }
    }
    Ok(())
}

/// An INSERT of just these rows, all of one table, and its parameters: text arrays, one for each column.
pub(super) fn of_rows(plan: &WritePlan, rows: &[Vec<Option<Bytes>>]) -> Option<(String, Vec<String>)> {
    let table = &plan.target;
    if plan.kind != WriteKind::Insert || plan.conflict.is_some() {
        return None;
    }
    let columns: Vec<(usize, &Column)> = table.columns.iter().enumerate().filter(|(_, c)| !c.generated).collect();
    let whole = rows.iter().map(|row| {
        let hidden = read(plan, row).ok()?;
        (hidden.table_after().id == table.id).then(|| hidden.whole(table))
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

/// What the state of now says of a statement that was evaluated over an older one.
#[derive(Debug)]
pub struct ByNow {
    /// To be judged in the place of the statement's own, but for those of parents.
    events: Vec<Event>,
    /// Every value that the statement takes was looked at.
    complete: bool,
}

/// Whether what was evaluated is true now as well. `rows`: the evaluation; `current`: the same, or these rows, over `now`.
pub(super) fn undisturbed(
    plan: &WritePlan,
    stale: &[u64],
    rows: &[Vec<Option<Bytes>>],
    now: View<'_>,
    (by_now, current): (&WritePlan, &[Vec<Option<Bytes>>]),
) -> Result<ByNow, Report> {
    let locked: HashSet<u64> = by_now.locks(current).iter().map(|lock| lock.hash).collect();
    // Another statement by now: it says nothing of what was locked.
    if !stale.iter().all(|hash| locked.contains(hash)) {
        return Err(concurrent("update"));
    }
    if plan.conflict.is_some() {
        let action = |row: &Vec<Option<Bytes>>| Ok(read(plan, row)?.action());
        let before = rows.iter().map(action).collect::<Result<Vec<_>, Report>>()?;
        let after = current.iter().map(action).collect::<Result<Vec<_>, Report>>()?;
        // What was held by the transaction already is not among what is stale.
        if before != after {
            return Err(concurrent("update"));
        }
        // It has found a row that the snapshot does not have.
        for row in current {
            let mut locks = by_now.outputs.iter().zip(row).filter_map(lock_of);
            if locks.any(|lock| stale.contains(&lock.hash)) && read(by_now, row)?.action() != Action::Insert {
                return Err(concurrent("update"));
            }
        }
    }
    let mut events = by_now.decode(now, current)?.events;
    events.retain(|event| !matches!(event.rule, Rule::Parent(_)));
    // Rows that the snapshot does not have cannot be acted upon.
    if events.iter().any(|event| event.rule.action().is_some()) {
        return Err(concurrent("update"));
    }
    Ok(ByNow { events, complete: plan.locks(rows).iter().all(|lock| locked.contains(&lock.hash)) })
}

/// Whether ON CONFLICT may do what it does over the state of now, when it was evaluated over the `snapshot`.
pub(super) fn found(
    plan: &WritePlan,
    (then, before): (View<'_>, &[Vec<Option<Bytes>>]),
    rows: &[Vec<Option<Bytes>>],
    (stale, now, seen): (&HashSet<u64>, &Overlay, Seq),
) -> Result<(), Report> {
    if stale.contains(&table_lock(plan.target.id, true).hash) || before.len() != rows.len() {
        return Err(concurrent("update"));
    }
    for (before, row) in before.iter().zip(rows) {
        let (before, hidden) = (read(plan, before)?, read(plan, row)?);
        let inserts = hidden.action() == Action::Insert;
        let mut locks = plan.outputs.iter().zip(row).filter_map(lock_of);
        if locks.any(|lock| (lock.shared || !inserts) && stale.contains(&lock.hash)) {
            return Err(concurrent("update"));
        }
        match (inserts, before.action()) {
            (true, Action::Insert) => before.has_new_key(then, &Before::default())?,
            (true, _) if is_gone(&hidden, &hidden.new_key(), now, seen) => return Err(hidden.key_is_shown()),
            _ => {}
        }
    }
    Ok(())
}

/// What [`rows`] says when the state of now has been looked at: what a row of the snapshot has, another may have given up.
pub(super) fn judged(
    plan: &WritePlan,
    view: View<'_>,
    evaluated: &[Vec<Option<Bytes>>],
    by_now: ByNow,
) -> Result<Judged, Report> {
    let mut judged = match rows(plan, view, evaluated, Values::Here) {
        Err(report) if of_values(&report) => match by_now.complete {
            true => rows(plan, view, evaluated, Values::Elsewhere)?,
            false => return Err(concurrent("update")),
        },
        judged => judged?,
    };
    judged.events.retain(|event| matches!(event.rule, Rule::Parent(_)));
    judged.events.splice(0..0, by_now.events);
    Ok(judged)
}

fn is_gone(row: &Hidden<'_>, key: &[Value], now: &Overlay, seen: Seq) -> bool {
    let key: Option<Arc<[Arc<str>]>> = key.iter().cloned().collect();
    let pending = key.and_then(|key| now.row(row.table_before().id, &RowId::Key(key)));
    pending.and_then(|row| row.existence).is_some_and(|(existence, seq)| existence == Existence::Deleted && seq > seen)
}
