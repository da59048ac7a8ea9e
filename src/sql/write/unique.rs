//! Unique indexes: what a row would collide with, as hidden outputs, and what that means row by row.
//!
//! Postgres checks an index that is not deferrable as each row is written: a value that an earlier row of the statement has
//! given up is free by then, one that a later row is going to give up is not
//! (<https://www.postgresql.org/docs/15/sql-createtable.html>, "Non-deferred Uniqueness Constraints"). So an output tells
//! which row of the table holds the values, another which rows of the statement take the same ones, and
//! [`Before`] goes through the rows in their order.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::Report;
use super::super::after::{Event, Rule, Versions, plain_columns};
use super::super::merge::{key_columns, list, qualified};
use super::super::slice::Slice;
use super::super::syntax::IS_GIVEN;
use super::super::template::Template;
use super::build::{Builder, Row, value_of};
use super::decode::{Hidden, about};
use super::disturbed::concurrent;
use super::exclusion::excluded;
use super::verdict::{Change, OTHER, SliceOf, matches, of_other, printed, texts, values_of};
use super::windows::Window;
use super::{Action, Output};
use crate::catalog::{AttNum, IndexItem, RelationKind, Table, UniqueIndex};
use crate::entry::{Seq, Value};
use crate::overlay::{Existence, RowId, View};
use crate::sabotage::{self, Sabotage};
use crate::sqlstate::UNIQUE_VIOLATION;

/// Whether an UPDATE of these columns can change what the index holds.
pub(super) fn index_touched(index: &UniqueIndex, set: &[AttNum]) -> bool {
    let item = |item: &IndexItem| match item {
        IndexItem::Column(attnum) => set.contains(attnum),
        IndexItem::Expression { .. } => true,
    };
    index.predicate.is_some() || index.items.iter().any(item)
}

/// Whether the index is the one by which rows are identified.
pub(super) fn is_key(table: &Table, index: &UniqueIndex) -> bool {
    index.items.len() == table.key.len()
        && index.items.iter().all(|item| matches!(item, IndexItem::Column(attnum) if table.key.contains(attnum)))
}

/// Whether a row has values which the index keeps apart, as SQL.
pub(super) fn applies(builder: &Builder<'_>, index: &UniqueIndex, row: &Row) -> String {
    let mut conditions: Vec<String> = Vec::new();
    if !index.nulls_not_distinct {
        conditions.extend(builder.items(index, row).iter().map(|item| format!("{item} {IS_GIVEN}")));
    }
    conditions.extend(index.predicate.as_ref().map(|predicate| builder.over(row, &format!("({predicate})"))));
    conditions.push("true".into());
    conditions.join(" AND ")
}

/// Whether the row called [`OTHER`] has the same values in the index, as SQL.
pub(super) fn collides(builder: &Builder<'_>, index: &UniqueIndex, row: &Row) -> String {
    let operator = if index.nulls_not_distinct { "IS NOT DISTINCT FROM" } else { "=" };
    let items = builder.items(index, row);
    let same = index.items.iter().zip(&items).map(|(item, value)| {
        let other = match item {
            IndexItem::Column(attnum) => of_other(builder.table, *attnum),
            IndexItem::Expression { text, .. } => format!("({text})"),
        };
        format!("{other} {operator} {value}")
    });
    let predicate = index.predicate.as_ref().map(|predicate| format!("({predicate})"));
    same.chain(predicate).collect::<Vec<_>>().join(" AND ")
}

/// Adds what the new row collides with: rows of the table as it was, and other rows of the statement.
/// `update`: the row before and the columns that may have changed; `slices`: which pending rows an INSERT can collide with.
pub(super) fn unique(builder: &mut Builder<'_>, new: &Row, update: Option<Change<'_>>, slices: SliceOf<'_>) {
    let table = Arc::clone(builder.table);
    for (place, index) in table.unique.iter().enumerate() {
        if update.is_some_and(|(_, set)| !index_touched(index, set)) {
            continue;
        }
        let slice = slices.and_then(|slices| slices(&table, &|column| Some(column.attnum)));
        let slice = slice.filter(|_| is_key(&table, index));
        if update.is_none() && is_key(&table, index) && index.predicate.is_none() && Slice::key_is_text(&table) {
            key_taken(builder, &table, place, new);
        } else {
            taken(builder, &table, place, new, update.map(|(old, _)| old), slice, "true");
        }
        group(builder, Output::Group(place), index, new);
        recheck(builder, &table, place, new);
    }
    excluded(builder, new, update.map(|(old, _)| old), update.map(|(_, set)| set), "true");
}

/// What a deferrable index is judged by later.
pub(super) fn recheck(builder: &mut Builder<'_>, table: &Table, place: usize, new: &Row) {
    let index = &table.unique[place];
    if index.deferrable && !is_key(table, index) {
        let values = format!(
            "CASE WHEN {} THEN {} END",
            applies(builder, index, new),
            texts(builder, new, &plain_columns(index))
        );
        builder.output(Output::Recheck(place), &Template::text(values));
    }
}

/// The key of a new row, where equal keys have equal texts: Postgres looks at the replica's rows, and the pending row,
/// if there is one, is found by its text. So an INSERT ships no pending rows at all.
fn key_taken(builder: &mut Builder<'_>, table: &Arc<Table>, place: usize, new: &Row) {
    let found = format!(
        "CASE WHEN EXISTS (SELECT 1 FROM {}{} AS {OTHER} WHERE {}) THEN 'r' END",
        if table.kind == RelationKind::Partitioned { "" } else { "ONLY " },
        qualified(table),
        matches(table, &table.key, &values_of(new, &table.key))
    );
    builder.output(Output::UniqueKey(place), &Template::text(found));
    builder.output(Output::Ledger, &Template::text(builder.request.gate));
}

/// The values and the key of the row, other than the one before, that has the new values; asked for where `condition` holds.
pub(super) fn taken(
    builder: &mut Builder<'_>,
    table: &Arc<Table>,
    place: usize,
    new: &Row,
    old: Option<&Row>,
    slice: Option<Slice>,
    condition: &str,
) {
    let index = &table.unique[place];
    let mut conditions = collides(builder, index, new);
    if let Some(old) = old {
        let theirs = list(table.key.iter().map(|key| of_other(table, *key)));
        let own = list(table.key.iter().map(|key| value_of(old, *key).unwrap_or("NULL").to_owned()));
        conditions.push_str(&format!(" AND ROW({theirs}) IS DISTINCT FROM ROW({own})"));
    }
    let texts = key_columns(table).into_iter().map(|c| builder.text_of(c, &of_other(table, c.attnum)));
    let texts = list(std::iter::once(printed(&builder.items(index, new))).chain(texts));
    let applies = applies(builder, index, new);
    let mut verdict = Template::text(format!(
        "CASE WHEN {condition} AND {applies} THEN (SELECT pg_catalog.json_build_array({texts})::text FROM "
    ));
    verdict.table(table, slice).push(&format!(" AS {OTHER} WHERE {conditions} LIMIT 1) END"));
    builder.output(Output::Taken(place), &verdict);
}

/// Which rows of the statement have the same values in the index.
pub(super) fn group(builder: &mut Builder<'_>, output: Output, index: &UniqueIndex, row: &Row) {
    let window = Window { output, applies: applies(builder, index, row), items: builder.items(index, row) };
    builder.window(window);
}

/// What the statement's earlier rows have done.
#[derive(Default)]
pub(super) struct Before {
    /// The keys of rows that were changed or deleted.
    pub(super) changed: HashSet<Vec<Value>>,
    /// Values that were taken: an index, and which of the groups of equal values.
    groups: HashSet<(usize, String)>,
    /// Values that were proposed and inserted, likewise.
    arbiters: HashSet<(usize, String)>,
}

impl Before {
    /// What a deferrable index is judged by: all rows have given up what they give up.
    pub(super) fn at_the_end(self) -> Before {
        Before { changed: self.changed, ..Before::default() }
    }

    /// Adds a row that is written.
    pub(super) fn add(&mut self, row: &Hidden<'_>) {
        let key = row.identity();
        if !key.is_empty() {
            self.changed.insert(key);
        }
        self.groups.extend(row.groups().map(|(place, group)| (place, group.name)));
        if row.action() == Action::Insert {
            self.arbiters.extend(row.arbiters());
        }
    }

    /// Whether ON CONFLICT finds a row that an earlier row of the statement has inserted.
    pub(super) fn proposed(&self, row: &Hidden<'_>) -> bool {
        row.action() == Action::Insert && row.arbiters().any(|arbiter| self.arbiters.contains(&arbiter))
    }
}

/// Rows with the same values in an index.
pub(super) struct Group {
    pub(super) name: String,
    values: String,
}

impl Group {
    pub(super) fn read(text: &str) -> Option<Group> {
        let (name, values) = serde_json::from_str::<(i64, String)>(text).ok()?;
        Some(Group { name: name.to_string(), values })
    }
}

impl Hidden<'_> {
    fn arbiters(&self) -> impl Iterator<Item = (usize, String)> {
        self.outputs().filter_map(|(output, value)| match (output, value) {
            (Output::Arbiter(place), Some(text)) => Some((*place, Group::read(text)?.name)),
            _ => None,
        })
    }

    fn groups(&self) -> impl Iterator<Item = (usize, Group)> {
        // A row that goes away takes no values, not even NULLs that are not distinct.
        let stays = self.action() != Action::Delete;
        self.outputs().filter_map(move |(output, value)| match (output, value) {
            (Output::Group(place), Some(text)) if stays => Some((*place, Group::read(text)?)),
            _ => None,
        })
    }

    /// Deferrable indexes that the row may break when the statement ends, as far as `first`: the primary key is judged before
    /// foreign keys are, by the names of their triggers, all others after.
    pub(super) fn recheck(&self, view: View<'_>, before: &Before, first: bool, events: &mut Vec<Event>) {
        let table = &*self.plan.target;
        for (output, value) in self.outputs() {
            if let (Output::Recheck(place), Some(values)) = (output, value)
                && let Some(index) = table.unique.get(*place)
                && index.primary == first
                && self.unique(view, before, |of| of.name == index.name).is_err()
            {
                let index = Arc::new(self.own_index(index).clone());
                let rule = Rule::Unique { table: self.table_after().id, index };
                let values = serde_json::from_str(values).unwrap_or_default();
                events.push(Event { rule, values, new: Vec::new(), acquitted: false, versions: Versions::default() });
            }
        }
    }

    /// Whether the row can be written after those before it, as far as `of` these indexes.
    ///
    /// # Errors
    /// 23505
    pub(super) fn unique(
        &self,
        view: View<'_>,
        before: &Before,
        of: impl Fn(&UniqueIndex) -> bool,
    ) -> Result<(), Report> {
        let table = &*self.plan.target;
        for (place, index) in table.unique.iter().enumerate().filter(|(_, index)| of(index)) {
            let found = self.holder(place, view, before).or_else(|| {
                let mut groups = self.groups();
                let group =
                    groups.find(|(of, group)| *of == place && before.groups.contains(&(place, group.name.clone())));
                group.map(|(_, group)| group.values)
            });
            let Some(values) = found.filter(|_| !sabotage::on(Sabotage::Constraint)) else { continue };
            let (table, index) = (self.table_after(), self.own_index(index));
            let message = format!("duplicate key value violates unique constraint \"{}\"", index.name);
            return Err(about(table, UNIQUE_VIOLATION, message, Some(&index.name))
                .detail(format!("Key ({})={values} already exists.", index.shown)));
        }
        Ok(())
    }

    /// A row of the snapshot that is gone by now may have had the key: both would be told apart by nothing.
    ///
    /// # Errors
    /// 40001
    pub(super) fn has_new_key(&self, view: View<'_>, before: &Before) -> Result<(), Report> {
        let table = &*self.plan.target;
        self.unique(view, before, |index| is_key(table, index)).map_err(|_| self.key_is_shown())
    }

    pub(super) fn key_is_shown(&self) -> Report {
        let table = &*self.plan.target;
        let names = list(table.key.iter().filter_map(|key| Some(table.attribute(*key)?.name.to_string())));
        let values = list(self.new_key().into_iter().map(|value| value.as_deref().unwrap_or("null").to_owned()));
        let detail = format!("Key ({names})=({values}) is that of a row that the transaction's snapshot still has.");
        concurrent("delete").detail(detail)
    }

    pub(super) fn new_key(&self) -> Vec<Value> {
        self.plan.target.key.iter().map(|key| self.new_value(*key).cloned().flatten()).collect()
    }

    /// The key that the row has in the end: the new one, where it is assigned.
    pub(super) fn key_after(&self) -> Vec<Value> {
        let before = self.key().into_iter().chain(std::iter::repeat(None));
        let new = |(attnum, old)| self.new_value(attnum).cloned().unwrap_or(old);
        self.plan.target.key.iter().copied().zip(before).map(new).collect()
    }

    /// The values, when a row of the table has them and no earlier row of the statement has changed that one.
    fn holder(&self, place: usize, view: View<'_>, before: &Before) -> Option<String> {
        let table = &*self.plan.target;
        self.outputs().find_map(|(output, value)| match (output, value) {
            (Output::Taken(of), Some(found)) if *of == place => {
                let mut texts = serde_json::from_str::<Vec<String>>(found).ok()?.into_iter();
                let values = texts.next()?;
                let key: Vec<Value> = texts.map(|text| Some(Arc::from(text))).collect();
                (!before.changed.contains(&key)).then_some(values)
            }
            (Output::UniqueKey(of), found) if *of == place && self.key_exists(view, found.is_some()) => {
                let values = table.key.iter().map(|key| self.new_value(*key).cloned().flatten());
                Some(format!("({})", values.flatten().collect::<Vec<_>>().join(", ")))
            }
            _ => None,
        })
    }

    /// Whether a row with the new row's key is there: the replica's, or a pending one which the replica's snapshot
    /// does not contain yet.
    fn key_exists(&self, view: View<'_>, on_replica: bool) -> bool {
        let table = &*self.plan.target;
        let key: Option<Arc<[Arc<str>]>> = self.new_key().into_iter().collect();
        let ledger = self.of(|output| *output == Output::Ledger).into_iter().flatten().next();
        let ledger = Seq(ledger.and_then(|text| text.parse().ok()).unwrap_or(0));
        let key = key.map(RowId::Key);
        let pending = key.and_then(|key| view.row(self.table_after().id, &key));
        match pending.and_then(|row| row.existence) {
            Some((existence, seq)) if seq > ledger => existence == Existence::Inserted,
            Some(_) | None => on_replica && view.truncated(table.id).is_none_or(|seq| seq <= ledger),
        }
    }
}
