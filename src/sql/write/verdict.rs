//! One hidden output per constraint: NULL when the row keeps it, else what the error message needs.
//!
//! Postgres itself evaluates every rule, over merged relations, so that pending rows count as rows.

use std::sync::Arc;

use super::super::Report;
use super::super::merge::list;
use super::super::resolve::opaque_call;
use super::super::slice::Slice;
use super::super::syntax::{IS_GIVEN, IS_NULL, quoted};
use super::super::template::Template;
use super::Output;
use super::build::{Builder, Row, value_of};
use crate::catalog::{AttNum, Column, ForeignKey, Table};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// Postgres' functions take 100 arguments.
const ARGUMENTS_MAX: usize = 99;

/// The other side of a probe: a name that no client uses.
pub(super) const OTHER: &str = "\"pgoutpost.x\"";

/// An UPDATE's row before (or after), and the columns that it sets.
pub(super) type Change<'r> = (&'r Row, &'r [AttNum]);

/// Which pending rows a probe can see.
pub(super) type SliceOf<'s> = Option<&'s dyn Fn(&Table, &dyn Fn(&Column) -> Option<AttNum>) -> Option<Slice>>;

/// NOT NULL of the columns that are set (all, on INSERT), then CHECK by name; of rows for which `condition` holds. Gives the
/// rule that is broken, as SQL: NULL when none is.
pub(super) fn row_rules(
    builder: &mut Builder<'_>,
    row: &Row,
    set: Option<&[AttNum]>,
    phase: usize,
    condition: &str,
) -> String {
    let table = builder.table;
    let mut cases = Vec::new();
    for column in table.columns.iter().filter(|column| column.not_null) {
        if let Some(value) = value_of(row, column.attnum)
            && set.is_none_or(|set| set.contains(&column.attnum))
        {
            cases.push(format!("WHEN {value} {IS_NULL} THEN 'n{}'", column.attnum.0));
        }
    }
    let mut checks: Vec<_> = table.checks.iter().enumerate().collect();
    checks.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    for (place, check) in checks {
        builder.findings.opaque.extend(opaque_call(&check.expression, builder.request.names));
        cases.push(format!("WHEN {} THEN 'c{place}'", builder.over(row, &format!("NOT ({})", check.expression))));
    }
    if let Some(bounds) = super::tree::bounds(table) {
        cases.push(format!("WHEN {} THEN 'p0'", builder.over(row, &format!("NOT ({bounds})"))));
    }
    let routed = builder.outputs.contains(&Output::NoPartition);
    if cases.is_empty() && !routed {
        return "NULL".to_owned();
    }
    if cases.is_empty() {
        cases.push("WHEN false THEN ''".into());
    }
    let rule = format!("SELECT CASE {} END AS \"pgoutpost.v\"", cases.join(" "));
    let alias = &format!("pgoutpost.v{phase}");
    match condition {
        "" => builder.lateral(&Template::text(rule), alias),
        _ => builder.left_lateral(&Template::text(format!("{rule} WHERE {condition} OFFSET 0")), alias),
    }
    let broken = format!("{}.\"pgoutpost.v\"", quoted(alias));
    builder.output(Output::RowRule(phase), &Template::text(&*broken));
    let values = table.columns.iter().filter_map(|column| value_of(row, column.attnum)).map(str::to_owned);
    let failing = described(&values.collect::<Vec<_>>());
    let failing = if routed { failing } else { format!("CASE WHEN {broken} IS NOT NULL THEN {failing} END") };
    builder.output(Output::FailingRow(phase), &Template::text(failing));
    broken
}

/// Values as the details of messages show them: cut when they are long.
pub(super) fn described(values: &[String]) -> String {
    let value = |value: &String| {
        format!(
            "CASE WHEN {value} IS NOT DISTINCT FROM NULL THEN 'null' WHEN pg_catalog.octet_length(pg_catalog.concat({value})) > 64 \
             THEN pg_catalog.left(pg_catalog.concat({value}), 64) || '...' ELSE pg_catalog.concat({value}) END"
        )
    };
    joined(&values.iter().map(value).collect::<Vec<_>>())
}

/// `(1, x)` as messages print it.
fn joined(texts: &[String]) -> String {
    let all = |texts: &[String]| format!("pg_catalog.concat_ws(', ', {})", texts.join(", "));
    let parts: Vec<String> = texts.chunks(ARGUMENTS_MAX).map(all).collect();
    let texts = match parts.as_slice() {
        [] => "''".to_owned(),
        [one] => one.clone(),
        parts => all(parts),
    };
    format!("pg_catalog.concat('(', {texts}, ')')")
}

pub(super) fn printed(values: &[String]) -> String {
    joined(
        &values
            .iter()
            .map(|v| format!("CASE WHEN {v} {IS_NULL} THEN 'null' ELSE pg_catalog.concat({v}) END"))
            .collect::<Vec<_>>(),
    )
}

pub(super) fn of_other(table: &Table, attnum: AttNum) -> String {
    let name = table.attribute(attnum).map_or("", |column| &column.name);
    format!("{OTHER}.{}", quoted(name))
}

pub(super) fn matches(other: &Table, columns: &[AttNum], values: &[&str]) -> String {
    let equal = columns.iter().zip(values).map(|(column, value)| format!("{} = {value}", of_other(other, *column)));
    equal.collect::<Vec<_>>().join(" AND ")
}

pub(super) fn values_of<'r>(row: &'r Row, columns: &[AttNum]) -> Vec<&'r str> {
    columns.iter().map(|column| value_of(row, *column).unwrap_or("NULL")).collect()
}

/// `(a, b) IS DISTINCT FROM (c, d)`: what an UPDATE leaves alone is not checked again.
fn changed(values: &[&str], others: &[&str]) -> String {
    let differ = values.iter().zip(others).map(|(one, other)| format!("{one} IS DISTINCT FROM {other}"));
    format!("({})", differ.collect::<Vec<_>>().join(" OR "))
}

/// Before values which the state before the statement acquits.
pub(super) const ACQUITTED: char = '+';

/// Before values that an UPDATE leaves alone: they matter when the transaction has written the row before.
pub(super) const UNCHANGED: char = '~';

/// The table on the other side of a foreign key.
pub(super) fn partner(builder: &Builder<'_>, id: crate::catalog::TableId) -> Result<Arc<Table>, Report> {
    builder.request.names.catalog.relations.get(&id).cloned().ok_or_else(|| {
        Report::new(FEATURE_NOT_SUPPORTED, format!("a foreign key of \"{}\" leads to an unknown table", builder.alias))
    })
}

/// Foreign keys of the row: the parent must be there. What is told here is a suspicion, which is judged at the end of the
/// statement ([`super::super::after`]); the values, when the parent is not there before the statement.
pub(super) fn parents(
    builder: &mut Builder<'_>,
    new: &Row,
    update: Option<Change<'_>>,
    slices: SliceOf<'_>,
) -> Result<(), Report> {
    let table = Arc::clone(builder.table);
    for (place, key) in table.references.iter().enumerate() {
        if update.is_some_and(|(_, set)| !key.columns.iter().any(|column| set.contains(column))) {
            if key.deferrable {
                let unchanged = format!("CASE{} END", unchanged(builder, key, new));
                builder.output(Output::Parent(place), &Template::text(unchanged));
            }
            continue;
        }
        let parent = partner(builder, key.referenced)?;
        let verdict = orphan(builder, &parent, key, new, update, slices);
        builder.output(Output::Parent(place), &verdict);
    }
    Ok(())
}

fn orphan(
    builder: &Builder<'_>,
    parent: &Arc<Table>,
    key: &ForeignKey,
    new: &Row,
    update: Option<Change<'_>>,
    slices: SliceOf<'_>,
) -> Template {
    let values = values_of(new, &key.columns);
    let texts = texts(builder, new, &key.columns);
    let given: Vec<String> = values.iter().map(|value| format!("{value} {IS_GIVEN}")).collect();
    let mut verdict = Template::text("CASE ");
    if key.match_full && values.len() > 1 {
        verdict.push(&format!("WHEN ({}) AND NOT ({}) THEN {texts} ", given.join(" OR "), given.join(" AND ")));
    }
    let mut applies = given;
    if let Some((old, _)) = update {
        applies.push(changed(&values, &values_of(old, &key.columns)));
    }
    let applies = applies.join(" AND ");
    verdict.push(&format!("WHEN {applies}"));
    let by_state = judges_by_state(builder, parent, update.is_some());
    if by_state {
        let child_of = |column: &Column| {
            let place = key.referenced_columns.iter().position(|referenced| *referenced == column.attnum)?;
            key.columns.get(place).copied()
        };
        let slice = slices.and_then(|slices| slices(parent, &child_of));
        verdict.push(" AND NOT EXISTS (SELECT 1 FROM ").table(parent, slice);
        verdict.push(&format!(" AS {OTHER} WHERE {})", matches(parent, &key.referenced_columns, &values)));
    }
    verdict.push(&format!(" THEN {texts}{}", acquitted(key, by_state, &applies, &texts)));
    if update.is_some() && key.deferrable {
        verdict.push(&unchanged(builder, key, new));
    }
    verdict.push(" END");
    verdict
}

/// What Postgres queues for the end of the transaction although the reference stays what it is, if the row's version is
/// the transaction's own: that of the version before is not judged any more.
fn unchanged(builder: &Builder<'_>, key: &ForeignKey, new: &Row) -> String {
    let given = values_of(new, &key.columns).iter().map(|v| format!("{v} {IS_GIVEN}")).collect::<Vec<_>>();
    let texts = texts(builder, new, &key.columns);
    format!(" WHEN {} THEN pg_catalog.concat('{UNCHANGED}', {texts})", given.join(" AND "))
}

/// What may be judged later is told of every row, marked: by then another statement may have made it wrong, and which one
/// of all is told is the first that was queued.
fn acquitted(key: &ForeignKey, by_state: bool, applies: &str, told: &str) -> String {
    match by_state && key.deferrable {
        true => format!(" WHEN {applies} THEN pg_catalog.concat('{ACQUITTED}', {told})"),
        false => String::new(),
    }
}

/// Whether the state before the statement acquits: not when the statement itself may take away the parent that is found
/// there, or make a row that refers to what goes away.
fn judges_by_state(builder: &Builder<'_>, other: &Table, updates: bool) -> bool {
    let several = updates || !builder.updated.is_empty() || !builder.verbs.is_empty();
    !(builder.request.part || (several && other.root == builder.table.root))
}

/// Foreign keys upon the row: somebody may refer to what goes away. A suspicion as well: the old and new values, when
/// somebody does before the statement.
pub(super) fn children(builder: &mut Builder<'_>, old: &Row, update: Option<Change<'_>>) -> Result<(), Report> {
    let table = Arc::clone(builder.table);
    for (place, key) in table.referenced_by.iter().enumerate() {
        if update.is_some_and(|(_, set)| !key.referenced_columns.iter().any(|column| set.contains(column))) {
            continue;
        }
        let child = partner(builder, key.table)?;
        let values = values_of(old, &key.referenced_columns);
        let mut applies: Vec<String> = values.iter().map(|value| format!("{value} {IS_GIVEN}")).collect();
        let mut told = texts(builder, old, &key.referenced_columns);
        if let Some((new, _)) = update {
            applies.push(changed(&values, &values_of(new, &key.referenced_columns)));
            told = format!("pg_catalog.concat({told}, '\n', {})", texts(builder, new, &key.referenced_columns));
        }
        let applies = applies.join(" AND ");
        let mut verdict = Template::text(format!("CASE WHEN {applies}"));
        let by_state = judges_by_state(builder, &child, update.is_some());
        if by_state {
            verdict.push(" AND EXISTS (SELECT 1 FROM ").table(&child, None);
            verdict.push(&format!(" AS {OTHER} WHERE {})", matches(&child, &key.columns, &values)));
        }
        verdict.push(&format!(" THEN {told}{} END", acquitted(key, by_state, &applies, &told)));
        builder.output(Output::Child(place), &verdict);
    }
    Ok(())
}

/// The canonical texts of a row's columns, as a JSON array.
pub(super) fn texts(builder: &Builder<'_>, row: &Row, columns: &[AttNum]) -> String {
    let text = |attnum: &AttNum| {
        let value = value_of(row, *attnum).unwrap_or("NULL");
        let text = builder.table.attribute(*attnum).map(|column| builder.text_of(column, value));
        format!("CASE WHEN {value} {IS_GIVEN} THEN {} END", text.unwrap_or_else(|| "NULL".into()))
    };
    format!("pg_catalog.json_build_array({})::text", list(columns.iter().map(text)))
}
