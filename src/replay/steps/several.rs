//! Updates and deletes of several rows as one statement, for tables with a foreign key upon themselves.
//!
//! A row may be joined to the step before it when both are of one entry and one text, and the step does not know the
//! row yet: what one statement of the client did, and at times what several did, which comes to the same.

use super::{MainTable, Parameters, Step, bare_type, own_rows};
use crate::entry::{EntryTable, Value};
use crate::setup::identifier;

pub(super) fn delete(
    steps: &mut Vec<Step>,
    at: (usize, usize),
    (table, main): (&EntryTable, Option<&MainTable>),
    key: &[Value],
) {
    let sql =
        format!("DELETE FROM {} AS t USING {} WHERE {}", own_rows(table, main), rows(key.len()), matches_key(table, 0));
    join(steps, at, sql, key.to_vec(), 0..key.len());
}

pub(super) fn update(
    steps: &mut Vec<Step>,
    at: (usize, usize),
    (table, main): (&EntryTable, Option<&MainTable>),
    key: &[Value],
    set: &[&(usize, Value)],
) {
    let assign = |(n, (place, _)): (usize, &&(usize, Value))| {
        format!("{} = {}", identifier(&table.columns[*place].name), value(table, *place, n))
    };
    let assignments: Vec<String> = set.iter().enumerate().map(assign).collect();
    let sql = format!(
        "UPDATE {} AS t SET {} FROM {} WHERE {}",
        own_rows(table, main),
        assignments.join(", "),
        rows(set.len() + key.len()),
        matches_key(table, set.len()),
    );
    let values: Vec<Value> = set.iter().map(|(_, value)| value.clone()).chain(key.iter().cloned()).collect();
    join(steps, at, sql, values, set.len()..set.len() + key.len());
}

/// Adds the row to the last step, or a step of its own. `key`: where the row's key stands among the values.
fn join(steps: &mut Vec<Step>, at: (usize, usize), sql: String, values: Vec<Value>, key: std::ops::Range<usize>) {
    if let Some(last) = steps.last_mut()
        && last.entry == at.0
        && last.sql == sql
        && let Parameters::Columns(columns) = &mut last.parameters
    {
        let is_row = |row: usize| key.clone().all(|place| columns[place].get(row) == values.get(place));
        if !(0..columns.first().map_or(0, Vec::len)).any(is_row) {
            columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
            last.rows += 1;
            return;
        }
    }
    let parameters = Parameters::Columns(values.into_iter().map(|value| vec![value]).collect());
    steps.push(Step { entry: at.0, effect: at.1, rows: 1, sql, parameters });
}

fn rows(count: usize) -> String {
    let arrays: Vec<String> = (1..=count).map(|n| format!("${n}::text[]")).collect();
    let names: Vec<String> = (0..count).map(|n| format!("c{n}")).collect();
    format!("unnest({}) AS r({})", arrays.join(", "), names.join(", "))
}

fn value(table: &EntryTable, place: usize, n: usize) -> String {
    format!("r.c{n}::{}", bare_type(&table.columns[place].type_name))
}

fn matches_key(table: &EntryTable, offset: usize) -> String {
    let equal = |(n, &place): (usize, &usize)| {
        format!("t.{} = {}", identifier(&table.columns[place].name), value(table, place, offset + n))
    };
    table.key.iter().enumerate().map(equal).collect::<Vec<_>>().join(" AND ")
}
