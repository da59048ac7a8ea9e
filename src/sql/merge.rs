//! The subquery that stands for a table with pending rows.
//!
//! Three branches (see DESIGN §5): the replica's rows, inserted rows, and patches over the replica's current rows;
//! all judged against the ledger value of the query's own snapshot. No predicate of the client is pushed in here: a
//! condition on a patched column must see the patched value.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::arrays::Element;
use super::syntax::quoted;
use super::template::Rendering;
use super::{Report, View};
use crate::catalog::{AttNum, Column, Table};
use crate::entry::Seq;
use crate::overlay::{Existence, PendingRow, RowId};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// A pending row on its way into a query.
pub(super) type Row<'a> = (Cow<'a, RowId>, Cow<'a, PendingRow>);

/// The pending rows with these keys, or all.
pub(super) fn rows<'a>(view: View<'a>, table: &Table, keys: Option<&[RowId]>) -> Vec<Row<'a>> {
    match keys {
        None => {
            let mut rows: Vec<_> = view.rows(table.id).map(|(id, row)| (Cow::Borrowed(id), row)).collect();
            // As a table comes to hold them: what depends on that order is then the same each time, and mostly as on main.
            rows.sort_by_cached_key(|(_, row)| (row.newest(), row.change));
            rows
        }
        Some(keys) => {
            let found = keys.iter().filter_map(|id| Some((Cow::Owned(id.clone()), view.row(table.id, id)?)));
            found.collect()
        }
    }
}

/// `"schema"."name"`
pub(super) fn qualified(table: &Table) -> String {
    format!("{}.{}", quoted(&table.name.schema), quoted(&table.name.name))
}

/// The subquery in parentheses, without alias.
pub(super) fn subquery(rendering: &mut Rendering<'_>, table: &Table, rows: &[Row<'_>]) -> Result<String, Report> {
    let names = list(table.columns.iter().map(|column| quoted(&column.name)));
    let plain = list(table.columns.iter().map(|column| format!("t.{}", quoted(&column.name))));
    let comma = if table.columns.is_empty() { "" } else { ", " };
    let from = qualified(table);
    let mut sql = format!("(SELECT {names} FROM (SELECT 0 AS \"pgoutpost.p\"{comma}{plain} FROM {from} t");
    if let Some(inserted) = inserted_branch(rendering, table, rows)? {
        let _ = write!(sql, " UNION ALL {inserted}");
    }
    if let Some(patched) = patched_branch(rendering, table, rows)? {
        let _ = write!(sql, " UNION ALL {patched}");
    }
    sql.push_str(") m");
    if let Some(excluded) = exclusion(rendering, table, rows)? {
        let _ = write!(sql, " WHERE m.\"pgoutpost.p\" = 1 OR {excluded}");
    }
    sql.push(')');
    Ok(sql)
}

/// Rows of ours, shipped whole while their insert is not in the snapshot.
fn inserted_branch(rendering: &mut Rendering<'_>, table: &Table, rows: &[Row<'_>]) -> Result<Option<String>, Report> {
    let inserted: Vec<(Seq, &PendingRow)> = rows.iter().filter_map(|(_, row)| Some((inserted(row)?, &**row))).collect();
    if inserted.is_empty() {
        return Ok(None);
    }
    let (mut arrays, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for column in &table.columns {
        let lacking = inserted.iter().any(|(_, row)| row.column(column.attnum).is_none());
        if lacking && (column.default.is_some() || column.not_null) {
            return Err(added_since(table, column));
        }
        let of = |row: &PendingRow| row.column(column.attnum).and_then(|pending| pending.value.clone());
        let texts: Vec<_> = inserted.iter().map(|(_, row)| of(row)).collect();
        arrays.push(rendering.array(Element::of(column), texts.iter().map(Option::as_deref))?);
        names.push(format!("c{}", column.attnum.0));
        values.push(pending_value(column, &format!("o.c{}", column.attnum.0)));
    }
    arrays.push(seqs(rendering, inserted.iter().map(|(seq, _)| *seq))?);
    let comma = if values.is_empty() { "" } else { ", " };
    Ok(Some(format!(
        "SELECT 1{comma}{} FROM unnest({}) o({}s) WHERE o.s > {}",
        list(values),
        list(arrays),
        names.iter().fold(String::new(), |all, name| all + name + ", "),
        rendering.gate
    )))
}

/// Only main knows what a row will hold in a column that was added after the row was written.
fn added_since(table: &Table, column: &Column) -> Report {
    let message =
        format!("table \"{}\" has pending rows from before column \"{}\" was added", table.name.name, column.name);
    Report::new(FEATURE_NOT_SUPPORTED, message).hint("Wait until the pending rows have been replicated.")
}

/// Columns of ours laid over the replica's current row, while the row itself is the replica's.
fn patched_branch(rendering: &mut Rendering<'_>, table: &Table, rows: &[Row<'_>]) -> Result<Option<String>, Report> {
    let patches: Vec<&Row<'_>> =
        rows.iter().filter(|(id, row)| matches!(**id, RowId::Key(_)) && patches(row)).collect();
    if patches.is_empty() {
        return Ok(None);
    }
    let keys = key_arrays(rendering, table, patches.iter().map(|row| &*row.0))?;
    let (mut arrays, mut names) = (keys.arrays, keys.names);
    let mut values = Vec::new();
    for column in &table.columns {
        let name = quoted(&column.name);
        let of = |row: &PendingRow| patch_of(row, column.attnum);
        if !patches.iter().any(|(_, row)| of(row).is_some()) {
            values.push(format!("t.{name}"));
            continue;
        }
        let pending: Vec<_> = patches.iter().map(|(_, row)| of(row)).collect();
        let texts: Vec<_> =
            pending.iter().map(|pending| pending.as_ref().and_then(|(_, value)| value.clone())).collect();
        let number = column.attnum.0;
        arrays.push(rendering.array(Element::of(column), texts.iter().map(Option::as_deref))?);
        arrays
            .push(seqs(rendering, pending.iter().map(|pending| pending.as_ref().map_or(Seq::ZERO, |(seq, _)| *seq)))?);
        names.push(format!("c{number}"));
        names.push(format!("s{number}"));
        let laid_over = pending_value(column, &format!("o.c{number}"));
        values.push(format!("CASE WHEN o.s{number} > {} THEN {laid_over} ELSE t.{name} END", rendering.gate));
    }
    arrays.push(seqs(rendering, patches.iter().map(|(_, row)| row.newest()))?);
    arrays.push(seqs(rendering, patches.iter().map(|(_, row)| row.existence.map_or(Seq::ZERO, |(_, seq)| seq)))?);
    Ok(Some(format!(
        "SELECT 1, {} FROM unnest({}) o({}, s, e) JOIN {} t ON {} WHERE o.s > {gate} AND o.e <= {gate}",
        list(values),
        list(arrays),
        list(names),
        qualified(table),
        keys.condition,
        gate = rendering.gate
    )))
}

/// The replica's rows that pending ones replace or remove.
fn exclusion(rendering: &mut Rendering<'_>, table: &Table, rows: &[Row<'_>]) -> Result<Option<String>, Report> {
    let keyed: Vec<_> = rows.iter().filter(|(id, _)| matches!(**id, RowId::Key(_))).collect();
    if table.key.is_empty() || keyed.is_empty() {
        return Ok(None);
    }
    let keys = key_arrays(rendering, table, keyed.iter().map(|row| &*row.0))?;
    let newest = seqs(rendering, keyed.iter().map(|(_, row)| row.newest()))?;
    let columns = key_columns(table);
    let own = list(columns.iter().map(|column| format!("m.{}", quoted(&column.name))));
    let hidden = list(columns.iter().map(|column| cast(column, &format!("o.k{}", column.attnum.0))));
    Ok(Some(format!(
        "({own}) NOT IN (SELECT {hidden} FROM unnest({}, {newest}) o({}, s) WHERE o.s > {})",
        list(keys.arrays),
        list(keys.names),
        rendering.gate
    )))
}

struct KeyArrays {
    arrays: Vec<String>,
    names: Vec<String>,
    /// `t.key = o.key`
    condition: String,
}

fn key_arrays<'r>(
    rendering: &mut Rendering<'_>,
    table: &Table,
    ids: impl Iterator<Item = &'r RowId>,
) -> Result<KeyArrays, Report> {
    let keys: Vec<_> = ids
        .filter_map(|id| match id {
            RowId::Key(values) => Some(values),
            RowId::Anonymous(..) => None,
        })
        .collect();
    let mut found = KeyArrays { arrays: Vec::new(), names: Vec::new(), condition: String::new() };
    for (place, column) in key_columns(table).into_iter().enumerate() {
        let texts = keys.iter().map(|key| key.get(place).map(|value| &**value));
        found.arrays.push(rendering.array(Element::of(column), texts)?);
        let name = format!("k{}", column.attnum.0);
        if place > 0 {
            found.condition.push_str(" AND ");
        }
        let _ = write!(found.condition, "t.{} = {}", quoted(&column.name), cast(column, &format!("o.{name}")));
        found.names.push(name);
    }
    Ok(found)
}

/// The columns of the table's key, in key order.
pub(super) fn key_columns(table: &Table) -> Vec<&Column> {
    table.key.iter().filter_map(|attnum| table.attribute(*attnum)).collect()
}

fn seqs(rendering: &mut Rendering<'_>, seqs: impl Iterator<Item = Seq>) -> Result<String, Report> {
    let texts: Vec<String> = seqs.map(|seq| seq.as_i64().to_string()).collect();
    rendering.array(Element::Int8, texts.iter().map(|text| Some(text.as_str())))
}

fn inserted(row: &PendingRow) -> Option<Seq> {
    match row.existence {
        Some((Existence::Inserted, seq)) => Some(seq),
        Some((Existence::Deleted, _)) | None => None,
    }
}

/// Whether the row can, for some ledger value, be a patch: a column was set after the row came into being.
fn patches(row: &PendingRow) -> bool {
    row.columns.iter().any(|column| patch_of(row, column.attnum).is_some())
}

/// A column's value and seq, when it was set after the row came into being.
fn patch_of(row: &PendingRow, attnum: AttNum) -> Option<(Seq, crate::entry::Value)> {
    let column = row.column(attnum)?;
    let since = row.existence.map_or(Seq::ZERO, |(_, seq)| seq);
    (column.seq > since).then(|| (column.seq, column.value.clone()))
}

/// An array element as a value of the column's own type.
fn cast(column: &Column, value: &str) -> String {
    let native = Element::of(column).oids().0 == column.type_oid;
    match (native, column.is_domain) {
        (true, _) => value.to_owned(),
        (false, false) => format!("{value}::{}", column.full_type_name),
        (false, true) => format!("{value}::{}::{}", column.base_type_name, column.full_type_name),
    }
}

/// The same with the column's collation, which UNION ALL loses otherwise.
fn pending_value(column: &Column, value: &str) -> String {
    match &column.collation {
        Some(collation) => format!("({} COLLATE {collation})", cast(column, value)),
        None => cast(column, value),
    }
}

pub(super) fn list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}
