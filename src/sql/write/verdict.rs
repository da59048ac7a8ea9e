//! One hidden output per constraint: NULL when the row keeps it, else what the error message needs.
//!
//! Postgres itself evaluates every rule, over merged relations, so that pending rows count as rows.

use std::sync::Arc;

use super::super::Report;
use super::super::merge::{key_columns, list, qualified};
use super::super::slice::Slice;
use super::super::syntax::quoted;
use super::super::template::Template;
use super::build::{Builder, Row, value_of};
use super::{Output, TableRef};
use crate::catalog::{AttNum, Column, ForeignKey, IndexItem, ReferentialAction, Table, UniqueIndex};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// The other side of a probe: a name that no client uses.
const OTHER: &str = "\"pgoutpost.x\"";

/// An UPDATE's row before (or after), and the columns that it sets.
pub(super) type Change<'r> = (&'r Row, &'r [AttNum]);

/// Which pending rows a probe can see.
pub(super) type SliceOf<'s> = Option<&'s dyn Fn(&Table, &dyn Fn(&Column) -> Option<AttNum>) -> Option<Slice>>;

/// NOT NULL of the columns that are set (all, on INSERT), then CHECK by name.
pub(super) fn row_rules(builder: &mut Builder<'_>, row: &Row, set: Option<&[AttNum]>) {
    let table = builder.table;
    let mut cases = Vec::new();
    for column in table.columns.iter().filter(|column| column.not_null) {
        if let Some(value) = value_of(row, column.attnum)
            && set.is_none_or(|set| set.contains(&column.attnum))
        {
            // A composite value of NULLs only is not NULL itself.
            let test = if column.is_composite { "IS NOT DISTINCT FROM NULL" } else { "IS NULL" };
            cases.push(format!("WHEN {value} {test} THEN 'n{}'", column.attnum.0));
        }
    }
    let mut checks: Vec<_> = table.checks.iter().enumerate().collect();
    checks.sort_by(|(_, one), (_, other)| one.name.cmp(&other.name));
    for (place, check) in checks {
        cases.push(format!("WHEN {} THEN 'c{place}'", builder.over(row, &format!("NOT ({})", check.expression))));
    }
    if cases.is_empty() {
        return;
    }
    let rule = format!("SELECT CASE {} END AS \"pgoutpost.v\"", cases.join(" "));
    builder.lateral(&Template::text(rule), "pgoutpost.v");
    let broken = "\"pgoutpost.v\".\"pgoutpost.v\"";
    builder.output(Output::RowRule, &Template::text(broken));
    let values = table.columns.iter().filter_map(|column| value_of(row, column.attnum)).map(|value| {
        format!(
            "CASE WHEN {value} IS NOT DISTINCT FROM NULL THEN 'null' WHEN pg_catalog.octet_length(pg_catalog.concat({value})) > 64 \
             THEN pg_catalog.left(pg_catalog.concat({value}), 64) || '...' ELSE pg_catalog.concat({value}) END"
        )
    });
    let failing = format!("CASE WHEN {broken} IS NOT NULL THEN {} END", joined(values.collect()));
    builder.output(Output::FailingRow, &Template::text(failing));
}

/// `(1, x)` as messages print it.
fn joined(texts: Vec<String>) -> String {
    format!("pg_catalog.concat('(', pg_catalog.concat_ws(', ', {}), ')')", list(texts))
}

fn printed(values: &[String]) -> String {
    joined(
        values.iter().map(|v| format!("CASE WHEN {v} IS NULL THEN 'null' ELSE pg_catalog.concat({v}) END")).collect(),
    )
}

/// Whether an UPDATE of these columns can change what the index holds.
pub(super) fn index_touched(index: &UniqueIndex, set: &[AttNum]) -> bool {
    let item = |item: &IndexItem| match item {
        IndexItem::Column(attnum) => set.contains(attnum),
        IndexItem::Expression(_) => true,
    };
    index.predicate.is_some() || index.items.iter().any(item)
}

/// Unique indexes, against the table as it is and against earlier rows of the same statement.
pub(super) fn unique(builder: &mut Builder<'_>, new: &Row, update: Option<Change<'_>>, slices: SliceOf<'_>) {
    let table = Arc::clone(builder.table);
    for (place, index) in table.unique.iter().enumerate() {
        if update.is_some_and(|(_, set)| !index_touched(index, set)) {
            continue;
        }
        if update.is_none() && is_key(&table, index) && index.predicate.is_none() && Slice::key_is_text(&table) {
            key_taken(builder, &table, place, new);
            continue;
        }
        let verdict = taken(builder, &table, index, new, update, slices);
        builder.output(Output::Unique(place), &verdict);
    }
}

/// The key of a new row, where equal keys have equal texts: Postgres looks at the replica's rows, and the pending row,
/// if there is one, is found by its text. So an INSERT ships no pending rows at all.
fn key_taken(builder: &mut Builder<'_>, table: &Arc<Table>, place: usize, new: &Row) {
    let values = values_of(new, &table.key);
    let found = format!(
        "CASE WHEN EXISTS (SELECT 1 FROM {} AS {OTHER} WHERE {}) THEN 'r' END",
        qualified(table),
        matches(table, &table.key, &values)
    );
    builder.output(Output::UniqueKey(place), &Template::text(found));
    builder.output(Output::Ledger, &Template::text(builder.request.gate));
    if let Some(order) = &builder.row_order {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let again = format!(
            "CASE WHEN pg_catalog.row_number() OVER (PARTITION BY {} ORDER BY {order}) > 1 THEN {} END",
            list(values.iter().cloned()),
            printed(&values)
        );
        builder.output(Output::Unique(place), &Template::text(again));
    }
}

fn taken(
    builder: &Builder<'_>,
    table: &Arc<Table>,
    index: &UniqueIndex,
    new: &Row,
    update: Option<Change<'_>>,
    slices: SliceOf<'_>,
) -> Template {
    let items = builder.items(index, new);
    let operator = if index.nulls_not_distinct { "IS NOT DISTINCT FROM" } else { "=" };
    let mut conditions: Vec<String> = Vec::new();
    for (item, value) in index.items.iter().zip(&items) {
        let other = match item {
            IndexItem::Column(attnum) => of_other(table, *attnum),
            IndexItem::Expression(expression) => format!("({expression})"),
        };
        conditions.push(format!("{other} {operator} {value}"));
    }
    conditions.extend(index.predicate.as_ref().map(|predicate| format!("({predicate})")));
    if let Some((old, _)) = update {
        let same = table
            .key
            .iter()
            .map(|key| format!("{} = {}", of_other(table, *key), value_of(old, *key).unwrap_or("NULL")));
        conditions.push(format!("NOT ({})", same.collect::<Vec<_>>().join(" AND ")));
    }
    let mut applies: Vec<String> = Vec::new();
    if !index.nulls_not_distinct {
        applies.extend(items.iter().map(|item| format!("{item} IS NOT NULL")));
    }
    let predicate = index.predicate.as_ref().map(|predicate| builder.over(new, &format!("({predicate})")));
    applies.extend(predicate.clone());
    applies.push("true".into());
    let slice = slices.filter(|_| update.is_none()).and_then(|slices| slices(table, &|column| Some(column.attnum)));
    let slice = slice.filter(|_| is_key(table, index));
    let mut partition = items.clone();
    partition.extend(predicate);
    let applies = applies.join(" AND ");
    let found = conditions.join(" AND ");
    let printed = printed(&items);
    let mut verdict = Template::text(format!("CASE WHEN {applies} THEN "));
    match update {
        None => {
            verdict.push("CASE WHEN EXISTS (SELECT 1 FROM ").table(table, slice);
            verdict.push(&format!(" AS {OTHER} WHERE {found})"));
            if let Some(order) = &builder.row_order {
                let again =
                    format!("pg_catalog.row_number() OVER (PARTITION BY {} ORDER BY {order}) > 1", list(partition));
                verdict.push(&format!(" OR {again}"));
            }
            verdict.push(&format!(" THEN {printed} END"));
        }
        Some((old, _)) => {
            let own = list(values_of(old, &table.key).into_iter().map(str::to_owned));
            let other = format!("pg_catalog.first_value(ROW({own})) OVER (PARTITION BY {})", list(partition));
            let keys = list(key_columns(table).iter().map(|c| builder.text_of(c, &of_other(table, c.attnum))));
            verdict.push(&format!("CASE WHEN {other} IS DISTINCT FROM ROW({own}) THEN {printed} ELSE "));
            verdict.push(&format!("(SELECT pg_catalog.json_build_array({printed}, {keys})::text FROM "));
            verdict.table(table, slice).push(&format!(" AS {OTHER} WHERE {found} LIMIT 1) END"));
        }
    }
    verdict.push(" END");
    verdict
}

fn is_key(table: &Table, index: &UniqueIndex) -> bool {
    index.items.len() == table.key.len()
        && index.items.iter().all(|item| matches!(item, IndexItem::Column(attnum) if table.key.contains(attnum)))
}

fn of_other(table: &Table, attnum: AttNum) -> String {
    let name = table.attribute(attnum).map_or("", |column| &column.name);
    format!("{OTHER}.{}", quoted(name))
}

fn matches(other: &Table, columns: &[AttNum], values: &[&str]) -> String {
    let equal = columns.iter().zip(values).map(|(column, value)| format!("{} = {value}", of_other(other, *column)));
    equal.collect::<Vec<_>>().join(" AND ")
}

fn values_of<'r>(row: &'r Row, columns: &[AttNum]) -> Vec<&'r str> {
    columns.iter().map(|column| value_of(row, *column).unwrap_or("NULL")).collect()
}

/// `(a, b) IS DISTINCT FROM (c, d)`: what an UPDATE leaves alone is not checked again.
fn changed(values: &[&str], others: &[&str]) -> String {
    let differ = values.iter().zip(others).map(|(one, other)| format!("{one} IS DISTINCT FROM {other}"));
    format!("({})", differ.collect::<Vec<_>>().join(" OR "))
}

/// The table on the other side of a foreign key.
pub(super) fn partner(builder: &Builder<'_>, id: crate::catalog::TableId) -> Result<Arc<Table>, Report> {
    builder.request.names.catalog.relations.get(&id).cloned().ok_or_else(|| {
        Report::new(FEATURE_NOT_SUPPORTED, format!("a foreign key of \"{}\" leads to an unknown table", builder.alias))
    })
}

/// Foreign keys of the row: the parent must be there.
pub(super) fn parents(
    builder: &mut Builder<'_>,
    new: &Row,
    update: Option<Change<'_>>,
    slices: SliceOf<'_>,
) -> Result<(), Report> {
    let table = Arc::clone(builder.table);
    for (place, key) in table.references.iter().enumerate() {
        if update.is_some_and(|(_, set)| !key.columns.iter().any(|column| set.contains(column))) {
            continue;
        }
        let parent = partner(builder, key.referenced)?;
        let values = values_of(new, &key.columns);
        let verdict = orphan(&parent, key, &values, update, slices);
        builder.output(Output::Parent(place, parent.name.name.to_string()), &verdict);
    }
    Ok(())
}

fn orphan(
    parent: &Arc<Table>,
    key: &ForeignKey,
    values: &[&str],
    update: Option<Change<'_>>,
    slices: SliceOf<'_>,
) -> Template {
    let given: Vec<String> = values.iter().map(|value| format!("{value} IS NOT NULL")).collect();
    let mut verdict = Template::text("CASE ");
    if key.match_full && values.len() > 1 {
        verdict.push(&format!("WHEN ({}) AND NOT ({}) THEN 'mixed' ", given.join(" OR "), given.join(" AND ")));
    }
    let mut applies = given;
    if let Some((old, _)) = update {
        applies.push(changed(values, &values_of(old, &key.columns)));
    }
    let child_of = |column: &Column| {
        let place = key.referenced_columns.iter().position(|referenced| *referenced == column.attnum)?;
        key.columns.get(place).copied()
    };
    let slice = slices.and_then(|slices| slices(parent, &child_of));
    verdict.push(&format!("WHEN {} AND NOT EXISTS (SELECT 1 FROM ", applies.join(" AND ")));
    verdict.table(parent, slice);
    let texts: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
    let condition = matches(parent, &key.referenced_columns, values);
    verdict.push(&format!(" AS {OTHER} WHERE {condition}) THEN {} END", printed(&texts)));
    verdict
}

/// Foreign keys upon the row: nobody may refer to what goes away.
pub(super) fn children(builder: &mut Builder<'_>, old: &Row, update: Option<Change<'_>>) -> Result<(), Report> {
    let table = Arc::clone(builder.table);
    for (place, key) in table.referenced_by.iter().enumerate() {
        if update.is_some_and(|(_, set)| !key.referenced_columns.iter().any(|column| set.contains(column))) {
            continue;
        }
        let child = partner(builder, key.table)?;
        let values = values_of(old, &key.referenced_columns);
        let condition = matches(&child, &key.columns, &values);
        let applies = match update {
            Some((new, _)) => changed(&values, &values_of(new, &key.referenced_columns)),
            None => "true".into(),
        };
        let texts: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let name = TableRef { schema: child.name.schema.to_string(), name: child.name.name.to_string() };
        let own = child.id == table.id && update.is_none() && !table.key.is_empty();
        let mut verdict = Template::text(format!("CASE WHEN {applies} AND EXISTS (SELECT 1 FROM "));
        verdict.table(&child, None).push(&format!(" AS {OTHER} WHERE {condition}) THEN "));
        if own {
            let keys = list(key_columns(&table).iter().map(|c| builder.text_of(c, &of_other(&table, c.attnum))));
            verdict.push(&format!(
                "(SELECT pg_catalog.json_agg(pg_catalog.json_build_array({}, {keys})) FROM ",
                printed(&texts)
            ));
            verdict.table(&child, None).push(&format!(" AS {OTHER} WHERE {condition})::text END"));
        } else {
            verdict.push(&format!("{} END", printed(&texts)));
        }
        builder.output(Output::Child(place, name), &verdict);
    }
    Ok(())
}

/// What a foreign key does to its rows when the parent goes away or changes.
pub(super) fn action(key: &ForeignKey, deleted: bool) -> ReferentialAction {
    if deleted { key.on_delete } else { key.on_update }
}
