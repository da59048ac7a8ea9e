//! The subquery that stands for a table with pending rows.
//!
//! Three branches (see DESIGN §5): the replica's rows, inserted rows, and patches over the replica's current rows;
//! all judged against the ledger value of the query's own snapshot. No predicate of the client is pushed in here: a
//! condition on a patched column must see the patched value.
//!
//! Of a partitioned table or one with children, the replica's rows are still read through the table that the client
//! named, so that Postgres prunes partitions and asks for the rights that it would ask for; the pending rows of all
//! tables below are shipped in its columns.

mod altered;
mod branches;
mod looked_up;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::rc::Rc;

pub(super) use self::looked_up::looked_up;

use self::altered::Altered;
use self::branches::{exclusion, inserted_branch, patched_branch};
use super::syntax::quoted;
use super::template::Rendering;
use super::{Report, View};
use crate::catalog::{AttNum, Column, RelationKind, Table, TableId};
use crate::entry::Seq;
use crate::overlay::{PendingRow, RowId};
use crate::sabotage::{self, Sabotage};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// What is to be merged.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) table: &'a Table,
    /// Without the tables below.
    pub(super) only: bool,
    /// With a last column `tableoid`.
    pub(super) tableoid: bool,
    /// The condition under which the session's role sees a row, and the columns it looks at.
    pub(super) filter: Option<(&'a str, &'a [AttNum])>,
}

/// A pending row on its way into a query.
pub(super) struct Row<'a> {
    /// The table that has it: the one that is merged, or one below.
    member: &'a Table,
    id: Cow<'a, RowId>,
    state: Cow<'a, PendingRow>,
    /// The member's numbers of the merged table's columns, where they may be others.
    numbers: Option<Rc<[AttNum]>>,
}

impl Row<'_> {
    /// The number under which the row keeps the merged table's column.
    fn number(&self, place: usize, column: &Column) -> AttNum {
        self.numbers.as_ref().and_then(|numbers| numbers.get(place).copied()).unwrap_or(column.attnum)
    }

    fn value(&self, place: usize, column: &Column) -> Option<Option<&str>> {
        self.state.column(self.number(place, column)).map(|pending| pending.value)
    }

    fn patch(&self, place: usize, column: &Column) -> Option<(Seq, Option<&str>)> {
        branches::patch_of(&self.state, self.number(place, column))
    }
}

impl<'a> Target<'a> {
    /// The table and what is below it.
    pub(super) fn members(self) -> impl Iterator<Item = &'a Table> {
        let below: &[_] = if self.only { &[] } else { &self.table.family };
        std::iter::once(self.table).chain(below.iter().map(|table| &**table))
    }

    /// Refuses what is told apart by another key than the table has now.
    pub(super) fn same_keys(self, view: View<'_>) -> Result<(), Report> {
        Altered::of(self, view).keys()
    }

    /// The pending rows with these keys, or all.
    pub(super) fn rows(self, view: View<'a>, keys: Option<&[RowId]>) -> Vec<Row<'a>> {
        let mut found = Vec::new();
        for member in self.members().filter(|member| view.has_pending(member.id)) {
            let numbers: Option<Rc<[AttNum]>> = (member.id != self.table.id).then(|| {
                let of = |column: &Column| member.column(&column.name).map_or(AttNum(0), |own| own.attnum);
                self.table.columns.iter().map(of).collect()
            });
            let row = |id, state| Row { member, id, state, numbers: numbers.clone() };
            let start = found.len();
            match keys.filter(|_| same_key(member, self.table)) {
                None => found.extend(view.rows(member.id).map(|(id, state)| row(Cow::Borrowed(id), state))),
                Some(keys) => {
                    let known = keys.iter().filter_map(|id| Some((id, view.row(member.id, id)?)));
                    found.extend(known.map(|(id, state)| row(Cow::Owned(id.clone()), state)));
                }
            }
            // As a table comes to hold them: what depends on that order is then the same each time, and mostly as on main.
            found[start..].sort_by_cached_key(|row| (row.state.newest(), row.state.change));
        }
        found
    }

    /// The condition under which a row `t` of the replica's is still there, for all that was truncated.
    fn kept(self, rendering: &Rendering<'_>) -> Option<String> {
        let alone = self.members().nth(1).is_none();
        let conditions: Vec<String> = self
            .members()
            .filter_map(|member| {
                let seq = rendering.view.truncated(member.id)?.as_i64();
                // A condition upon nothing but the gate: without it nothing of the table is read.
                let gone = format!("{} >= {seq}", rendering.gate);
                Some(if alone { gone } else { format!("(t.tableoid <> {}::pg_catalog.oid OR {gone})", member.id.0) })
            })
            .collect();
        (!conditions.is_empty()).then(|| conditions.join(" AND "))
    }

    /// Whether pending changes can be seen among these pending rows.
    pub(super) fn shows(self, view: View<'_>, rows: &[Row<'_>]) -> bool {
        !rows.is_empty() || self.members().any(|member| view.truncated(member.id).is_some())
    }

    /// The table as FROM names it.
    fn from(self) -> String {
        let only = if self.only && !self.table.family.is_empty() { "ONLY " } else { "" };
        format!("{only}{}", qualified(self.table))
    }
}

/// Whether both tables' keys are the same columns, by name.
fn same_key(member: &Table, table: &Table) -> bool {
    let names = |table: &Table| key_columns(table).into_iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    member.id == table.id || names(member) == names(table)
}

/// Rows that are told apart by one key.
struct Group<'g, 'a> {
    /// Set when other tables below the merged one may have rows with the same key.
    member: Option<TableId>,
    key: Vec<&'a Column>,
    rows: Vec<&'g Row<'a>>,
}

impl Group<'_, '_> {
    /// The test for the member, if one is needed, about a row under this name.
    fn test(&self, oid: &str) -> Option<String> {
        self.member.map(|member| format!("{oid} = {}::pg_catalog.oid", member.0))
    }
}

fn groups<'g, 'a>(target: Target<'a>, rows: &'g [Row<'a>]) -> Result<Vec<Group<'g, 'a>>, Report> {
    let table = target.table;
    let mut groups: Vec<Group<'g, 'a>> = Vec::new();
    for row in rows.iter().filter(|row| matches!(*row.id, RowId::Key(_))) {
        // A partitioned table's key is unique over all partitions, a parent's is not unique over its children.
        let alone = table.family.is_empty() || target.only;
        let shared = alone || (table.kind == RelationKind::Partitioned && same_key(row.member, table));
        let member = (!shared).then_some(row.member.id);
        if let Some(group) = groups.iter_mut().find(|group| group.member == member) {
            group.rows.push(row);
            continue;
        }
        let names = key_columns(row.member).into_iter().map(|column| table.column(&column.name));
        let key = names.collect::<Option<Vec<_>>>().ok_or_else(|| foreign_key_columns(table, row.member))?;
        groups.push(Group { member, key, rows: vec![row] });
    }
    Ok(groups)
}

fn foreign_key_columns(table: &Table, member: &Table) -> Report {
    let message = format!(
        "table \"{}\" cannot be read together with \"{}\" while that has pending rows: its key has columns of its own",
        table.name.name, member.name.name
    );
    Report::new(FEATURE_NOT_SUPPORTED, message).hint("Read the tables one by one, with ONLY.")
}

/// `"schema"."name"`
pub(super) fn qualified(table: &Table) -> String {
    format!("{}.{}", quoted(&table.name.schema), quoted(&table.name.name))
}

/// The subquery in parentheses, without alias.
pub(super) fn subquery(rendering: &mut Rendering<'_>, target: Target<'_>, rows: &[Row<'_>]) -> Result<String, Report> {
    let table = target.table;
    let groups = groups(target, rows)?;
    let with_oid = target.tableoid || groups.iter().any(|group| group.member.is_some());
    let mut names: Vec<String> = table.columns.iter().map(|column| quoted(&column.name)).collect();
    let altered = Altered::of(target, rendering.view);
    let unread = unread(rendering, target, &groups, with_oid)?;
    altered.refuse_unread(target, &unread)?;
    let mut plain: Vec<String> = vec!["0 AS \"pgoutpost.p\"".into()];
    if with_oid {
        plain.push("t.tableoid AS \"pgoutpost.o\"".into());
    }
    plain.extend(table.columns.iter().zip(&names).map(|(column, name)| match unread.contains(&column.attnum) {
        true => format!("{} AS {name}", not_read(column)),
        false => format!("t.{name}"),
    }));
    let mut branches = String::new();
    for branch in [
        inserted_branch(rendering, target, rows, &altered, with_oid)?,
        patched_branch(rendering, target, &groups, &altered, (with_oid, &unread))?,
    ] {
        let Some(branch) = branch else { continue };
        let _ = write!(branches, " UNION ALL {}", visible(target, branch, with_oid));
    }
    if target.tableoid {
        names.push("m.\"pgoutpost.o\" AS tableoid".into());
    }
    let from = target.from();
    let kept = target.kept(rendering).map_or_else(String::new, |kept| format!(" WHERE {kept}"));
    let mut sql = format!("(SELECT {} FROM (SELECT {} FROM {from} t{kept}{branches}) m", list(names), list(plain));
    let excluded = exclusion(rendering, &groups)?;
    if !excluded.is_empty() && !sabotage::on(Sabotage::Rewrite) {
        let _ = write!(sql, " WHERE m.\"pgoutpost.p\" = 1 OR ({})", excluded.join(" AND "));
    }
    sql.push(')');
    Ok(sql)
}

/// The columns that the role may not read, so that the statement cannot need them.
fn unread(
    rendering: &Rendering<'_>,
    target: Target<'_>,
    groups: &[Group<'_, '_>],
    with_oid: bool,
) -> Result<Vec<AttNum>, Report> {
    let of_table = rendering.ids.unread.iter().filter(|(table, _)| *table == target.table.id);
    let unread: Vec<AttNum> = of_table.map(|(_, column)| *column).collect();
    let key = groups.iter().flat_map(|group| &group.key).any(|column| unread.contains(&column.attnum));
    // Who has rights on columns only has none on this one.
    let tableoid = with_oid || (target.members().nth(1).is_some() && target.kept(rendering).is_some());
    if !unread.is_empty() && (key || tableoid) {
        let name = &target.table.name.name;
        let message = format!("table \"{name}\" cannot be read by this role while it has pending rows");
        let hint = format!("GRANT SELECT ON {name} to the role, or wait until the pending rows have been replicated.");
        return Err(Report::new(FEATURE_NOT_SUPPORTED, message)
            .detail("Pending rows are told apart by columns that the role may not read.")
            .hint(hint));
    }
    Ok(unread)
}

/// What stands for such a column.
fn not_read(column: &Column) -> String {
    format!("NULL::{}", column.base_type_name)
}

/// The rows of a branch that the session's role may see. OFFSET keeps the client's conditions, which might tell of
/// other rows, above this one.
fn visible(target: Target<'_>, branch: String, with_oid: bool) -> String {
    let Some((filter, _)) = target.filter else { return branch };
    let mut names = vec!["\"pgoutpost.p\"".to_owned()];
    names.extend(with_oid.then(|| "\"pgoutpost.o\"".to_owned()));
    names.extend(target.table.columns.iter().map(|column| quoted(&column.name)));
    let alias = quoted(&target.table.name.name);
    format!("(SELECT {0} FROM ({branch}) AS {alias}({0}) WHERE {filter} OFFSET 0)", list(names))
}

/// The columns of the table's key, in key order.
pub(super) fn key_columns(table: &Table) -> Vec<&Column> {
    table.key.iter().filter_map(|attnum| table.attribute(*attnum)).collect()
}

pub(super) fn list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}
