//! The branches that are laid over the replica's rows: inserted rows, patches, and what both of them hide.

use std::fmt::Write as _;

use super::super::Report;
use super::super::arrays::Element;
use super::super::syntax::quoted;
use super::super::template::Rendering;
use super::altered::Altered;
use super::{Group, Row, Target, list, not_read};
use crate::catalog::{AttNum, Column};
use crate::entry::Seq;
use crate::overlay::{Existence, PendingRow, RowId};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// Rows of ours, shipped whole while their insert is not in the snapshot.
pub(super) fn inserted_branch(
    rendering: &mut Rendering<'_>,
    target: Target<'_>,
    rows: &[Row<'_>],
    altered: &Altered<'_>,
    with_oid: bool,
) -> Result<Option<String>, Report> {
    let table = target.table;
    let inserted: Vec<(Seq, &Row<'_>)> = rows.iter().filter_map(|row| Some((inserted(&row.state)?, row))).collect();
    if inserted.is_empty() {
        return Ok(None);
    }
    let (mut arrays, mut names, mut values) = (Vec::new(), Vec::new(), vec!["1".to_owned()]);
    if with_oid && target.members().nth(1).is_none() {
        values.push(format!("{}::pg_catalog.oid", table.id.0));
    } else if with_oid {
        let members: Vec<String> = inserted.iter().map(|(_, row)| row.member.id.0.to_string()).collect();
        arrays.push(rendering.array(Element::Oid, members.iter().map(|oid| Some(oid.as_str())))?);
        names.push("o".to_owned());
        values.push("o.o".into());
    }
    for (place, column) in table.columns.iter().enumerate() {
        if altered.computes(column) {
            values.push(not_read(column));
            continue;
        }
        let mut lacking =
            inserted.iter().map(|(_, row)| *row).filter(|row| row.value(place, column).is_none()).peekable();
        let default = match lacking.peek() {
            Some(_) => altered.added(target, column, lacking)?,
            None => None,
        };
        altered.check(inserted.iter().map(|(_, row)| *row), place, column)?;
        let number = column.attnum.0;
        let texts: Vec<_> = inserted.iter().map(|(_, row)| row.value(place, column).flatten()).collect();
        arrays.push(rendering.array(Element::of(column), texts.iter().copied())?);
        names.push(format!("c{number}"));
        let mut value = cast(column, &format!("o.c{number}"));
        if let Some(default) = default {
            let has = |row: &Row<'_>| if row.value(place, column).is_some() { "t" } else { "f" };
            let has: Vec<_> = inserted.iter().map(|(_, row)| has(row)).collect();
            arrays.push(rendering.array(Element::Bool, has.iter().map(|has| Some(*has)))?);
            names.push(format!("h{number}"));
            value = format!("CASE WHEN o.h{number} THEN {value} ELSE {default} END");
        }
        values.push(collated(column, value));
    }
    arrays.push(seqs(rendering, inserted.iter().map(|(seq, _)| *seq))?);
    let branch = format!(
        "SELECT {} FROM unnest({}) o({}s) WHERE o.s > {}",
        list(values),
        list(arrays),
        names.iter().fold(String::new(), |all, name| all + name + ", "),
        rendering.gate
    );
    Ok(Some(altered.compute(target, branch, with_oid)))
}

/// Columns of ours laid over the replica's current row, while the row itself is the replica's.
pub(super) fn patched_branch(
    rendering: &mut Rendering<'_>,
    target: Target<'_>,
    groups: &[Group<'_, '_>],
    altered: &Altered<'_>,
    (with_oid, unread): (bool, &[AttNum]),
) -> Result<Option<String>, Report> {
    let mut branches = Vec::new();
    for group in groups {
        let patches: Vec<&Row<'_>> = group.rows.iter().copied().filter(|row| patches(&row.state)).collect();
        if patches.is_empty() {
            continue;
        }
        // The replica shows the rows that its own values let us see; others may be seen with the pending ones.
        if let Some((_, watched)) = target.filter {
            let columns = target.table.columns.iter().enumerate();
            let mut watched = columns.filter(|(_, column)| watched.contains(&column.attnum));
            if watched.any(|(place, column)| {
                unread.contains(&column.attnum)
                    || altered.computes(column)
                    || patches.iter().any(|row| row.patch(place, column).is_some())
            }) {
                let message = format!(
                    "table \"{}\" has pending changes of columns that its row security depends on",
                    target.table.name.name
                );
                let report = Report::new(FEATURE_NOT_SUPPORTED, message);
                return Err(report.hint("Wait until the pending rows have been replicated."));
            }
        }
        let branch = patched_rows(rendering, target, group, &patches, altered, (with_oid, unread))?;
        branches.push(altered.compute(target, branch, with_oid));
    }
    Ok((!branches.is_empty()).then(|| branches.join(" UNION ALL ")))
}

pub(super) fn patched_rows(
    rendering: &mut Rendering<'_>,
    target: Target<'_>,
    group: &Group<'_, '_>,
    patches: &[&Row<'_>],
    altered: &Altered<'_>,
    (with_oid, unread): (bool, &[AttNum]),
) -> Result<String, Report> {
    let keys = key_arrays(rendering, &group.key, patches.iter().map(|row| &*row.id))?;
    let (mut arrays, mut names) = (keys.arrays, keys.names);
    let mut values = vec!["1".to_owned()];
    values.extend(with_oid.then(|| "t.tableoid".to_owned()));
    for (place, column) in target.table.columns.iter().enumerate() {
        if unread.contains(&column.attnum) || altered.computes(column) {
            values.push(not_read(column));
            continue;
        }
        altered.check(patches.iter().copied(), place, column)?;
        let name = quoted(&column.name);
        let pending: Vec<_> = patches.iter().map(|row| row.patch(place, column)).collect();
        if !pending.iter().any(Option::is_some) {
            values.push(format!("t.{name}"));
            continue;
        }
        let texts: Vec<_> = pending.iter().map(|pending| pending.and_then(|(_, value)| value)).collect();
        let number = column.attnum.0;
        arrays.push(rendering.array(Element::of(column), texts.iter().copied())?);
        arrays
            .push(seqs(rendering, pending.iter().map(|pending| pending.as_ref().map_or(Seq::ZERO, |(seq, _)| *seq)))?);
        names.push(format!("c{number}"));
        names.push(format!("s{number}"));
        let laid_over = pending_value(column, &format!("o.c{number}"));
        values.push(format!("CASE WHEN o.s{number} > {} THEN {laid_over} ELSE t.{name} END", rendering.gate));
    }
    arrays.push(seqs(rendering, patches.iter().map(|row| row.state.newest()))?);
    arrays.push(seqs(rendering, patches.iter().map(|row| row.state.existence.map_or(Seq::ZERO, |(_, seq)| seq)))?);
    let tests = group.test("t.tableoid").into_iter().chain(target.kept(rendering));
    let member = tests.map(|test| format!(" AND {test}")).collect::<String>();
    Ok(format!(
        "SELECT {} FROM unnest({}) o({}, s, e) JOIN {} t ON {}{member} WHERE o.s > {gate} AND o.e <= {gate}",
        list(values),
        list(arrays),
        list(names),
        target.from(),
        keys.condition,
        gate = rendering.gate
    ))
}

/// The replica's rows that pending ones replace or remove: a condition for each group.
pub(super) fn exclusion(rendering: &mut Rendering<'_>, groups: &[Group<'_, '_>]) -> Result<Vec<String>, Report> {
    let mut conditions = Vec::new();
    for group in groups {
        let keys = key_arrays(rendering, &group.key, group.rows.iter().map(|row| &*row.id))?;
        let newest = seqs(rendering, group.rows.iter().map(|row| row.state.newest()))?;
        let own = list(group.key.iter().map(|column| format!("m.{}", quoted(&column.name))));
        let hidden = list(group.key.iter().map(|column| cast(column, &format!("o.k{}", column.attnum.0))));
        let kept = format!(
            "({own}) NOT IN (SELECT {hidden} FROM unnest({}, {newest}) o({}, s) WHERE o.s > {})",
            list(keys.arrays),
            list(keys.names),
            rendering.gate
        );
        conditions.push(match group.test("m.\"pgoutpost.o\"") {
            Some(test) => format!("(NOT ({test}) OR {kept})"),
            None => kept,
        });
    }
    Ok(conditions)
}

struct KeyArrays {
    arrays: Vec<String>,
    names: Vec<String>,
    /// `t.key = o.key`
    condition: String,
}

fn key_arrays<'r>(
    rendering: &mut Rendering<'_>,
    key: &[&Column],
    ids: impl Iterator<Item = &'r RowId>,
) -> Result<KeyArrays, Report> {
    let keys: Vec<_> = ids
        .filter_map(|id| match id {
            RowId::Key(values) => Some(values),
            RowId::Anonymous(..) => None,
        })
        .collect();
    let mut found = KeyArrays { arrays: Vec::new(), names: Vec::new(), condition: String::new() };
    for (place, column) in key.iter().enumerate() {
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

fn seqs(rendering: &mut Rendering<'_>, seqs: impl Iterator<Item = Seq>) -> Result<String, Report> {
    let texts: Vec<String> = seqs.map(|seq| seq.as_i64().to_string()).collect();
    rendering.array(Element::Int8, texts.iter().map(|text| Some(text.as_str())))
}

pub(super) fn inserted(row: &PendingRow) -> Option<Seq> {
    match row.existence {
        Some((Existence::Inserted, seq)) => Some(seq),
        Some((Existence::Deleted, _)) | None => None,
    }
}

/// Whether the row can, for some ledger value, be a patch: a column was set after the row came into being.
pub(super) fn patches(row: &PendingRow) -> bool {
    row.columns.iter().any(|column| patch_of(row, column.attnum).is_some())
}

/// A column's value and seq, when it was set after the row came into being.
pub(super) fn patch_of(row: &PendingRow, attnum: AttNum) -> Option<(Seq, Option<&str>)> {
    let column = row.column(attnum)?;
    let since = row.existence.map_or(Seq::ZERO, |(_, seq)| seq);
    (column.seq > since).then_some((column.seq, column.value))
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
    collated(column, cast(column, value))
}

pub(super) fn collated(column: &Column, value: String) -> String {
    match &column.collation {
        Some(collation) => format!("({value} COLLATE {collation})"),
        None => value,
    }
}
