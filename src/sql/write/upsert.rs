//! INSERT … ON CONFLICT (<https://www.postgresql.org/docs/15/sql-insert.html#SQL-ON-CONFLICT>).
//!
//! After the proposed rows, FROM goes on:
//! ```sql
//! LEFT JOIN LATERAL (SELECT <columns> FROM <merged target> WHERE <same values in an arbiter> LIMIT 1) AS "pgoutpost.f" ON true
//! LEFT JOIN LATERAL (SELECT <assigned expressions> FROM (SELECT <found row>) AS a, (SELECT <proposed row>) AS excluded
//!                    WHERE <found> AND <the proposed row breaks no rule> AND (<the client's condition>) OFFSET 0) AS "pgoutpost.m" ON true
//! ```
//! OFFSET 0 keeps an assigned expression from being evaluated for a row that it is not for. The row that comes of it is the
//! proposed one where none was found, else the found one with what was assigned. What rows of one statement do to
//! each other is told by windows and found out when the answer is read.

use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::Report;
use super::super::merge::list;
use super::super::slice::Slice;
use super::super::syntax::{child, range, token};
use super::super::template::Template;
use super::arbiter::{arbiters, is_key_alone};
use super::build::{Builder, Row, hidden, value_of};
use super::unique::{applies, collides, group, index_touched, is_key, recheck, taken};
use super::update::{around, settings};
use super::verdict::{OTHER, SliceOf, of_other};
use super::{Conflict, Output, WriteKind, own, tree, verdict};
use crate::catalog::{AttNum, Column, Table};
use crate::sqlstate::{FEATURE_NOT_SUPPORTED, OBJECT_NOT_IN_PREREQUISITE_STATE};

const FOUND: &str = "\"pgoutpost.f\".\"pgoutpost.found\"";
const UPDATED: &str = "\"pgoutpost.m\".\"pgoutpost.w\"";

/// An upsert under construction.
struct Upsert<'r> {
    table: Arc<Table>,
    arbiters: Vec<usize>,
    proposed: &'r Row,
    slices: SliceOf<'r>,
    /// What is wrong with the proposed row: it is said before anything is assigned to a row that is found.
    broken: String,
    /// The columns that DO UPDATE changes; none: DO NOTHING.
    set: Option<Vec<AttNum>>,
}

pub(super) fn build(
    builder: &mut Builder<'_>,
    clause: &SyntaxNode,
    proposed: &Row,
    slices: SliceOf<'_>,
) -> Result<(), Report> {
    let table = Arc::clone(builder.table);
    if !table.exclusions.is_empty() {
        let message = format!("ON CONFLICT cannot be buffered: \"{}\" has an exclusion constraint", table.name.name);
        return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Look whether the row is there before."));
    }
    let arbiters = arbiters(builder, clause)?;
    let update = child(clause, K::CONFLICT_DO_UPDATE_SET);
    builder.conflict = Some(if update.is_some() { Conflict::Update } else { Conflict::Nothing });
    if update.is_some() && table.key.is_empty() {
        let message = format!("rows of \"{}\" cannot be updated: it has no key", table.name.name);
        return Err(Report::new(OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .hint("Give it a primary key, or a unique index over NOT NULL columns."));
    }
    let broken = verdict::row_rules(builder, proposed, None, 0, "");
    let mut upsert = Upsert { table, arbiters, proposed, slices, broken, set: None };
    upsert.find(builder, update.is_some());
    let row = match &update {
        Some(update) => upsert.update(builder, update)?,
        None => Rows { old: Row::new(), new: only(proposed, &inserted()) },
    };
    upsert.outputs(builder, &row)
}

/// The row before, NULLs unless it is updated; and after, NULLs when nothing happens.
struct Rows {
    old: Row,
    new: Row,
}

fn inserted() -> String {
    format!("{FOUND} IS NULL")
}

/// The row where a condition holds, else NULLs.
fn only(row: &Row, condition: &str) -> Row {
    row.iter().map(|(attnum, value)| (*attnum, format!("CASE WHEN {condition} THEN {value} END"))).collect()
}

impl Upsert<'_> {
    /// Looks for the row that has the proposed values.
    fn find(&self, builder: &mut Builder<'_>, whole: bool) {
        let mut found = Template::text("SELECT true AS \"pgoutpost.found\"");
        let slice_of = |place: usize| {
            let slice = self.slices.and_then(|slices| slices(&self.table, &|column| Some(column.attnum)));
            slice.filter(|_| is_key(&self.table, &self.table.unique[place]))
        };
        let condition = |builder: &Builder<'_>, place: usize| {
            let index = &self.table.unique[place];
            format!("({} AND {})", applies(builder, index, self.proposed), collides(builder, index, self.proposed))
        };
        if whole {
            for column in &self.table.columns {
                found.push(&format!(", {} AS {}", of_other(&self.table, column.attnum), hidden("o", column.attnum)));
            }
            let first = self.arbiters.first().and_then(|&first| slice_of(first));
            let slice = first.filter(|_| is_key_alone(&self.table, &self.arbiters));
            let any: Vec<String> = self.arbiters.iter().map(|&place| condition(builder, place)).collect();
            found.push(" FROM ").table(&self.table, slice);
            found.push(&format!(" AS {OTHER} WHERE {} LIMIT 1", any.join(" OR ")));
        } else {
            found.push(" WHERE false");
            for &place in &self.arbiters {
                found.push(" OR EXISTS (SELECT 1 FROM ").table(&self.table, slice_of(place));
                found.push(&format!(" AS {OTHER} WHERE {})", condition(builder, place)));
            }
        }
        builder.left_lateral(&found, "pgoutpost.f");
    }

    /// DO UPDATE: what is assigned to the found row, if its condition holds.
    fn update(&mut self, builder: &mut Builder<'_>, clause: &SyntaxNode) -> Result<Rows, Report> {
        let settings = settings(builder, clause, None)?;
        let mut set: Vec<AttNum> = settings.iter().map(|(column, _)| column.attnum).collect();
        builder.updated.clone_from(&set);
        if tree::is_tree(builder, WriteKind::Insert) {
            tree::check(builder, WriteKind::Update, &set)?;
            if tree::moves(&self.table, &set) {
                let message = "an ON CONFLICT DO UPDATE that may move a row to another partition cannot be buffered";
                return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Use an UPDATE for it."));
            }
        }
        let mut subselect = Template::text("SELECT true AS \"pgoutpost.w\"");
        let of_found = |column: &Column| format!("\"pgoutpost.f\".{}", hidden("o", column.attnum));
        for column in &self.table.columns {
            subselect.push(&format!(", {} AS {}", of_found(column), hidden("o", column.attnum)));
        }
        for (column, expression) in &settings {
            let (before, after) = around(column);
            subselect.push(&format!(", {before}")).append(expression);
            subselect.push(&format!("{after} AS {}", hidden("n", column.attnum)));
        }
        for constant in own::read(builder, clause) {
            subselect.push(", ").append(&constant);
        }
        let found: Row = self.table.columns.iter().map(|column| (column.attnum, of_found(column))).collect();
        let scopes = [builder.scope(&found, &builder.alias), builder.scope(self.proposed, "excluded")];
        subselect.push(&format!(" FROM {} WHERE {FOUND} AND {} IS NULL", list(scopes), self.broken));
        if let Some(clause) = child(clause, K::WHERE_CLAUSE)
            && let Some(word) = token(&clause, K::WHERE_KW)
        {
            let condition = builder.cut(word.text_range().end().into()..range(&clause).end);
            subselect.push(" AND (").append(&condition).push(")");
        }
        subselect.push(" OFFSET 0");
        builder.left_lateral(&subselect, "pgoutpost.m");

        let of_old = |attnum| format!("\"pgoutpost.m\".{}", hidden("o", attnum));
        let old: Row = self.table.columns.iter().map(|column| (column.attnum, of_old(column.attnum))).collect();
        let mut updated: Row = old.clone();
        for (attnum, value) in &mut updated {
            if set.contains(attnum) {
                *value = format!("\"pgoutpost.m\".{}", hidden("n", *attnum));
            }
        }
        builder.generate(&mut updated, "pgoutpost.h", UPDATED);
        set.extend(self.table.columns.iter().filter(|column| column.generated).map(|column| column.attnum));
        let new = updated.iter().map(|(attnum, value)| {
            let proposed = value_of(self.proposed, *attnum).unwrap_or("NULL");
            (*attnum, format!("CASE WHEN {} THEN {proposed} ELSE {value} END", inserted()))
        });
        let rows = Rows { old, new: new.collect() };
        builder.sets.push(set.clone());
        self.set = Some(set);
        Ok(rows)
    }

    fn outputs(&self, builder: &mut Builder<'_>, Rows { old, new }: &Rows) -> Result<(), Report> {
        let inserted = inserted();
        let updated = if self.set.is_some() { UPDATED } else { "false" };
        let action = format!("CASE WHEN {inserted} THEN 'i' WHEN {updated} THEN 'u0' ELSE 'n' END");
        builder.output(Output::Action, &Template::text(action));
        for column in &self.table.columns {
            let value = value_of(new, column.attnum).unwrap_or("NULL").to_owned();
            builder.value(Output::New(column.attnum), column, &value);
        }
        for &place in &self.arbiters {
            group(builder, Output::Arbiter(place), &self.table.unique[place], self.proposed);
        }
        let all: Vec<AttNum> = self.table.columns.iter().map(|column| column.attnum).collect();
        if let Some(set) = &self.set {
            // Of what is found, whether or not its condition holds.
            for column in super::super::merge::key_columns(&self.table) {
                builder.value(Output::Key, column, &format!("\"pgoutpost.f\".{}", hidden("o", column.attnum)));
            }
            for column in self.table.columns.iter().filter(|column| set.contains(&column.attnum)) {
                builder.value(Output::Old(column.attnum), column, value_of(old, column.attnum).unwrap_or("NULL"));
            }
            verdict::row_rules(builder, new, Some(set), 1, UPDATED);
            own::outputs(builder, "pgoutpost.m");
        }
        self.unique(builder, old, new);
        let update = self.set.as_ref().map(|_| (old, all.as_slice()));
        verdict::parents(builder, new, update, None)?;
        self.locks(builder, old, new)?;
        if let Some(set) = &self.set {
            verdict::children(builder, old, Some((new, set)))?;
        }
        builder.returning(new);
        Ok(())
    }

    /// The arbiters have been looked at, unless an update changes what they hold.
    fn unique(&self, builder: &mut Builder<'_>, old: &Row, new: &Row) {
        let written = match self.set {
            Some(_) => format!("({} OR {UPDATED})", inserted()),
            None => inserted(),
        };
        for (place, index) in self.table.unique.iter().enumerate() {
            let touched = self.set.as_ref().is_some_and(|set| index_touched(index, set));
            let is_arbiter = self.arbiters.contains(&place);
            if is_arbiter && !touched {
                continue;
            }
            let before = self.set.as_ref().map(|_| old);
            taken(builder, &self.table, place, new, before, None::<Slice>, &written);
            group(builder, Output::Group(place), index, new);
            recheck(builder, &self.table, place, &only(new, &written));
            if is_arbiter && builder.row_order.is_some() {
                let (was, is) = (builder.items(index, old), builder.items(index, new));
                let moved = format!(
                    "CASE WHEN {UPDATED} AND ROW({}) IS DISTINCT FROM ROW({}) THEN 'm' END",
                    list(was),
                    list(is)
                );
                builder.output(Output::Moved, &Template::text(moved));
            }
        }
    }

    fn locks(&self, builder: &mut Builder<'_>, old: &Row, new: &Row) -> Result<(), Report> {
        let inserted = inserted();
        builder.locks_where(&inserted, &Output::Lock, new, true, |_| true);
        match &self.set {
            Some(set) => {
                builder.locks_where(UPDATED, &Output::Lock, old, true, |index| index_touched(index, set));
                builder.locks_where(UPDATED, &Output::Lock, new, false, |index| index_touched(index, set));
                builder.existence_locks(old, Some(set));
                builder.parent_locks(&only(new, UPDATED), Some(set))?;
                // The row is locked before its condition is judged.
                let of_found =
                    |column: &Column| (column.attnum, format!("\"pgoutpost.f\".{}", hidden("o", column.attnum)));
                let found: Row = self.table.columns.iter().map(of_found).collect();
                let unchanged = format!("({FOUND} AND {UPDATED} IS NULL)");
                builder.locks_where(&unchanged, &Output::Lock, &found, true, |_| false);
            }
            None => {
                // What stood in the way may be about to go; if not, it is nothing to this transaction.
                let is_arbiter = |index: &crate::catalog::UniqueIndex| {
                    self.arbiters.iter().any(|&place| self.table.unique[place].name == index.name)
                };
                builder.locks_where(FOUND, &Output::PassingLock, self.proposed, false, is_arbiter);
            }
        }
        builder.parent_locks(&only(new, &inserted), None)
    }
}
