//! Writes to a table with others below it, and to partitions: which table a row is in, which one it belongs into.
//! <https://www.postgresql.org/docs/15/ddl-partitioning.html>, <https://www.postgresql.org/docs/15/ddl-inherit.html>
//!
//! Postgres judges the bounds of partitions, as `pg_get_partition_constraintdef` prints them. Constraints are those of the
//! table that the client named; a table below that has more of them is refused.

use std::sync::Arc;

use super::super::Report;
use super::super::merge::{key_columns, list};
use super::super::syntax::quoted;
use super::super::template::Template;
use super::build::{Builder, Row};
use super::decode::{Hidden, about};
use super::{Output, WriteKind};
use crate::catalog::{AttNum, ForeignKey, RelationKind, Table, UniqueIndex};
use crate::entry::Value;
use crate::sqlstate::{CHECK_VIOLATION, FEATURE_NOT_SUPPORTED};

/// The table that a new row belongs into, as SQL, where the builder has routed it.
const LEAF: &str = "\"pgoutpost.l\".\"pgoutpost.l\"";

/// Whether rows of tables below are written as well.
pub(super) fn is_tree(builder: &Builder<'_>, kind: WriteKind) -> bool {
    let table = builder.table;
    !builder.only && !table.family.is_empty() && (table.kind == RelationKind::Partitioned || kind != WriteKind::Insert)
}

/// Refuses what the tables below have of their own. `set`: the columns that an UPDATE changes.
pub(super) fn check(builder: &Builder<'_>, kind: WriteKind, set: &[AttNum]) -> Result<(), Report> {
    let table = builder.table;
    let partitioned = table.kind == RelationKind::Partitioned;
    for member in &table.family {
        let why = match member.kind {
            RelationKind::Foreign => Some("it is a foreign table"),
            _ if !member.exclusions.is_empty() => Some("it has an exclusion constraint"),
            _ if kind != WriteKind::Insert && !same_key(member, table) => Some("it has another key"),
            _ if partitioned => of_its_own(member, table),
            _ => inheriting(member, table, kind, set),
        };
        if let Some(why) = why {
            let message = format!(
                "writes to \"{}\" cannot be buffered: \"{}\" is below it, and {why}",
                table.name.name, member.name.name
            );
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Write to that table by its own name."));
        }
    }
    Ok(())
}

/// Whether two tables of a tree have the same key.
pub(super) fn same_key(member: &Table, table: &Table) -> bool {
    let names = |table: &Table| key_columns(table).into_iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    names(member) == names(table)
}

fn of_its_own(member: &Table, table: &Table) -> Option<&'static str> {
    let not_null = |column: &crate::catalog::Column| {
        column.not_null && table.column(&column.name).is_some_and(|above| !above.not_null)
    };
    if member.unique.iter().any(|index| !table.unique.iter().any(|above| above.root == index.root)) {
        return Some("it has a unique index of its own");
    }
    if member.checks.iter().any(|check| !table.checks.iter().any(|above| above.name == check.name)) {
        return Some("it has a check of its own");
    }
    if member.columns.iter().any(not_null) {
        return Some("it has a NOT NULL of its own");
    }
    let repeated = |key: &ForeignKey| table.references.iter().any(|above| same_reference(key, member, above, table));
    (!member.references.iter().all(repeated)).then_some("it has a foreign key of its own")
}

fn inheriting(member: &Table, table: &Table, kind: WriteKind, set: &[AttNum]) -> Option<&'static str> {
    if !member.referenced_by.is_empty() || !table.referenced_by.is_empty() {
        return Some("others refer to the one or the other by a foreign key");
    }
    if kind == WriteKind::Delete {
        return None;
    }
    let names: Vec<_> = set.iter().filter_map(|attnum| table.attribute(*attnum)).map(|column| &column.name).collect();
    let own: Vec<AttNum> = names.iter().filter_map(|name| member.column(name)).map(|column| column.attnum).collect();
    let touched = |table: &Table, set: &[AttNum]| {
        table.unique.iter().any(|index| super::unique::index_touched(index, set))
            || table.references.iter().any(|key| key.columns.iter().any(|column| set.contains(column)))
    };
    if touched(member, &own) || touched(table, set) {
        return Some("a column is changed that is unique or refers to another table");
    }
    if member.checks.iter().any(|check| !table.checks.iter().any(|above| above.name == check.name)) {
        return Some("it has a check of its own");
    }
    member.columns.iter().any(|column| column.generated).then_some("it has generated columns")
}

fn same_reference(one: &ForeignKey, of: &Table, other: &ForeignKey, of_other: &Table) -> bool {
    let names = |table: &Table, columns: &[AttNum]| {
        columns.iter().map(|attnum| table.attribute(*attnum).map(|column| column.name.clone())).collect::<Vec<_>>()
    };
    one.referenced == other.referenced && names(of, &one.columns) == names(of_other, &other.columns)
}

/// Adds which table the row is in before the statement.
pub(super) fn old_member(builder: &mut Builder<'_>) {
    let member = format!("{}.tableoid", quoted(&builder.alias));
    builder.output(Output::OldMember, &Template::text(&member));
    builder.member = member;
}

/// Whether an UPDATE of these columns can move a row.
pub(super) fn moves(table: &Table, set: &[AttNum]) -> bool {
    // Of a partition that is partitioned itself, a row may also leave the bounds.
    if table.partition.is_some() && table.kind == RelationKind::Partitioned {
        return true;
    }
    let names: Vec<_> = set.iter().filter_map(|attnum| table.attribute(*attnum)).map(|column| &column.name).collect();
    std::iter::once(table).chain(table.family.iter().map(|below| &**below)).any(|table| {
        table.partition_key.as_ref().is_some_and(|key| {
            key.expressions.is_some()
                || key.columns.iter().any(|column| table.attribute(*column).is_some_and(|c| names.contains(&&c.name)))
        })
    })
}

/// Adds which partition a new row belongs into, and what is said when there is none.
pub(super) fn route(builder: &mut Builder<'_>, new: &Row) {
    let table = Arc::clone(builder.table);
    let mut leaves = String::new();
    let mut nodes = String::new();
    for member in &table.family {
        let bounds = member.partition.as_ref().and_then(|partition| partition.constraint.as_deref()).unwrap_or("true");
        if member.kind == RelationKind::Partitioned {
            // What is further down comes first.
            nodes = format!("WHEN {bounds} THEN {} {nodes}", lost(member));
        } else {
            leaves.push_str(&format!("WHEN {bounds} THEN {} ", member.id.0));
        }
    }
    let leaf = match leaves.is_empty() {
        true => "NULL::pg_catalog.oid".to_owned(),
        false => format!("(CASE {leaves}END)::pg_catalog.oid"),
    };
    let scope = builder.scope(new, "t");
    builder.lateral(&Template::text(format!("SELECT {leaf} AS \"pgoutpost.l\" FROM {scope}")), "pgoutpost.l");
    builder.output(Output::NewMember, &Template::text(LEAF));
    let here = lost(&table);
    let lost = if nodes.is_empty() { here } else { format!("CASE {nodes}ELSE {here} END") };
    // A partitioned partition has bounds, which come first.
    let lost = match table.partition.as_ref().and_then(|partition| partition.constraint.as_deref()) {
        Some(bounds) => {
            format!("CASE WHEN NOT ({bounds}) THEN pg_catalog.json_build_array({}) ELSE {lost} END", table.id.0)
        }
        None => lost,
    };
    let outside = match table.partition.is_some() {
        true => builder.over(new, &format!("NOT ({})", bounds_of(&table))),
        false => "false".into(),
    };
    let told = builder.over(new, &format!("({lost})::text"));
    let told = format!("CASE WHEN {LEAF} IS NULL OR {outside} THEN {told} END");
    builder.output(Output::NoPartition, &Template::text(told));
    builder.member = LEAF.to_owned();
}

fn bounds_of(table: &Table) -> &str {
    table.partition.as_ref().and_then(|partition| partition.constraint.as_deref()).unwrap_or("true")
}

/// A row of this table without a partition: the table, the key's columns and values as messages print them.
fn lost(table: &Table) -> String {
    let Some(key) = &table.partition_key else { return "NULL".into() };
    let mut expressions = key.expressions.clone();
    let items: Vec<String> = key
        .columns
        .iter()
        .filter_map(|attnum| match table.attribute(*attnum) {
            Some(column) => Some(quoted(&column.name)),
            // Postgres prints all of them as one list.
            None => expressions.take(),
        })
        .collect();
    let names: Vec<String> = key
        .columns
        .iter()
        .zip(&items)
        .map(|(attnum, item)| match table.attribute(*attnum) {
            Some(column) => squawk_syntax::quote::quote_ident(&column.name),
            None => item.clone(),
        })
        .collect();
    let names = super::super::syntax::literal(&names.join(", "));
    format!("pg_catalog.json_build_array({}, {names}, {})", table.id.0, super::verdict::described(&items))
}

/// The new row as the rule of a partition sees it: nothing for other tables.
pub(super) fn bounds(table: &Table) -> Option<&str> {
    table.partition.as_ref().filter(|_| table.kind == RelationKind::Table)?.constraint.as_deref()
}

/// The columns of a new row, for the RETURNING clause: with `tableoid` where the statement names it.
pub(super) fn tableoid(builder: &Builder<'_>) -> Option<String> {
    builder.request.source.tableoid.then(|| format!("{} AS tableoid", builder.member))
}

/// `a.x, a.y`: what `a.*` means while `a` has a column `tableoid`.
pub(super) fn all_columns(builder: &Builder<'_>) -> String {
    let alias = quoted(&builder.alias);
    match builder.request.source.tableoid {
        true => list(builder.table.columns.iter().map(|column| format!("{alias}.{}", quoted(&column.name)))),
        false => format!("{alias}.*"),
    }
}

impl Hidden<'_> {
    fn member(&self, output: &Output) -> Option<&Arc<Table>> {
        let oid: u32 = self.of(|of| of == output).into_iter().flatten().next()?.parse().ok()?;
        let target = &self.plan.target;
        std::iter::once(target).chain(&target.family).find(|table| table.id.0 == oid)
    }

    /// What tells the row from all others of the statement: tables that inherit may have the same keys.
    pub(super) fn identity(&self) -> Vec<Value> {
        let mut identity = self.key();
        if self.plan.target.kind != RelationKind::Partitioned {
            identity.extend(self.of(|output| *output == Output::OldMember));
        }
        identity
    }

    /// The table that has the row before the statement; of an upsert, where it would come to be.
    pub(super) fn table_before(&self) -> &Arc<Table> {
        let before = self.member(&Output::OldMember).or_else(|| self.member(&Output::NewMember));
        before.unwrap_or(&self.plan.target)
    }

    /// The table that has it then.
    pub(super) fn table_after(&self) -> &Arc<Table> {
        self.member(&Output::NewMember).unwrap_or_else(|| self.table_before())
    }

    /// The table to replay the row's change through, when it is not the row's own.
    pub(super) fn via(&self) -> Option<Arc<Table>> {
        let target = &self.plan.target;
        let below = |table: &Arc<Table>| table.id != target.id && same_key(table, target);
        (target.kind == RelationKind::Partitioned && below(self.table_before()) | below(self.table_after()))
            .then(|| Arc::clone(target))
    }

    /// # Errors
    /// 23514 when there is no partition for the row.
    pub(super) fn routed(&self) -> Result<(), Report> {
        let told = self.of(|output| *output == Output::NoPartition).into_iter().flatten().next();
        let Some(told) = told else { return Ok(()) };
        let told: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap_or_default();
        let oid = told.first().and_then(serde_json::Value::as_u64);
        let target = &self.plan.target;
        let table = std::iter::once(target).chain(&target.family).find(|table| Some(u64::from(table.id.0)) == oid);
        let table = table.unwrap_or(target);
        let text = |place: usize| told.get(place).and_then(serde_json::Value::as_str).unwrap_or_default();
        if told.len() < 3 {
            let message = format!("new row for relation \"{}\" violates partition constraint", table.name.name);
            let row = self.of(|output| matches!(output, Output::FailingRow(_))).into_iter().flatten().next();
            let detail = format!("Failing row contains {}.", row.unwrap_or_default());
            return Err(about(table, CHECK_VIOLATION, message, None).detail(detail));
        }
        let message = format!("no partition of relation \"{}\" found for row", table.name.name);
        let detail = format!("Partition key of the failing row contains ({}) = {}.", text(1), text(2));
        Err(about(table, CHECK_VIOLATION, message, None).detail(detail))
    }

    /// The index of the row's own table that is a part of this one.
    pub(super) fn own_index<'t>(&'t self, index: &'t UniqueIndex) -> &'t UniqueIndex {
        self.table_after().unique.iter().find(|own| own.root == index.root).unwrap_or(index)
    }

    /// The foreign key of the row's own table that repeats this one.
    pub(super) fn own_reference(&self, key: &ForeignKey) -> ForeignKey {
        let (target, own) = (&self.plan.target, self.table_after());
        own.references.iter().find(|mine| same_reference(mine, own, key, target)).unwrap_or(key).clone()
    }

    /// The shadow of a foreign key upon the row's own table; the key itself when the row moves.
    pub(super) fn own_referrer(&self, key: &ForeignKey) -> ForeignKey {
        let own = self.table_before();
        if own.id != self.table_after().id {
            return key.clone();
        }
        let shadow = own.referenced_by.iter().find(|mine| mine.table == key.table && mine.columns == key.columns);
        shadow.unwrap_or(key).clone()
    }
}
