//! What comes after the effects of a statement: constraints that are judged over the state with them, and the actions of
//! foreign keys, which are statements of their own (<https://www.postgresql.org/docs/15/ddl-constraints.html#DDL-CONSTRAINTS-FK>).
//!
//! An evaluation yields [`Event`]s, in the order in which Postgres would fire the triggers behind them. An event says
//! values, not rows: whatever row breaks the constraint by these values in the end does so for everybody.

use std::sync::Arc;

use super::arrays::{self, Element};
use super::merge::{list, qualified};
use super::syntax::{IS_NULL, quoted};
use super::template::{Rendering, Template};
use super::{Parameters, Rendered, Report, View, gate};
use crate::catalog::{
    AttNum, Catalog, Column, Exclusion, ForeignKey, IndexItem, ReferentialAction, Table, TableId, UniqueIndex,
};
use crate::entry::Value;
use crate::report::About;
use crate::sqlstate::{
    EXCLUSION_VIOLATION, FEATURE_NOT_SUPPORTED, FOREIGN_KEY_VIOLATION, INTERNAL_ERROR, UNIQUE_VIOLATION,
};

/// A constraint, from the side of the row that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// A row refers to values: they must be there.
    Parent(Arc<ForeignKey>),
    /// A row that others may refer to is gone, or has other values now.
    Children { key: Arc<ForeignKey>, updated: bool },
    /// A row has taken values of a deferrable index that another had before the statement, or has as well.
    Unique { table: TableId, index: Arc<UniqueIndex> },
    /// A row, told by its key, may not stand beside another one.
    Exclusion { table: TableId, exclusion: Arc<Exclusion> },
}

/// One row's part in a constraint, to be judged or acted upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub rule: Rule,
    /// The row's values in the constraint's columns; before the statement, of [`Rule::Children`].
    pub values: Vec<Value>,
    /// What an UPDATE has put in their place.
    pub new: Vec<Value>,
    /// Nothing is wrong as far as the statement goes: it matters only if it is judged later.
    pub acquitted: bool,
    pub versions: Versions,
}

/// Keys of the row of a [`Rule::Parent`] that may be judged later: what was queued for a version of it is not judged any
/// more when another version is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// Before an UPDATE.
    pub was: Vec<Value>,
    pub is: Vec<Value>,
}

impl Rule {
    /// What a foreign key does to the rows that refer to what is gone; `None`: it is only judged.
    pub fn action(&self) -> Option<ReferentialAction> {
        match self.on_change() {
            ReferentialAction::NoAction | ReferentialAction::Restrict => None,
            action => Some(action),
        }
    }

    fn on_change(&self) -> ReferentialAction {
        match self {
            Rule::Children { key, updated: true } => key.on_update,
            Rule::Children { key, updated: false } => key.on_delete,
            Rule::Parent(_) | Rule::Unique { .. } | Rule::Exclusion { .. } => ReferentialAction::NoAction,
        }
    }

    /// The table whose row the event is about.
    pub fn table(&self) -> TableId {
        match self {
            Rule::Parent(key) => key.table,
            Rule::Children { key, .. } => key.referenced,
            Rule::Unique { table, .. } | Rule::Exclusion { table, .. } => *table,
        }
    }

    /// The tables in which it looks for rows.
    pub fn tables(&self) -> Vec<TableId> {
        match self {
            Rule::Parent(key) | Rule::Children { key, .. } => vec![key.table, key.referenced],
            Rule::Unique { table, .. } | Rule::Exclusion { table, .. } => vec![*table],
        }
    }

    /// The table of the row, and the columns whose values an event says.
    fn subject<'c>(&self, catalog: &'c Catalog) -> Result<(&'c Arc<Table>, Vec<AttNum>), Report> {
        Ok(match self {
            Rule::Parent(key) => (table(catalog, key.table)?, key.columns.clone()),
            Rule::Children { key, .. } => (table(catalog, key.referenced)?, key.referenced_columns.clone()),
            Rule::Unique { table: id, index } => (table(catalog, *id)?, plain_columns(index)),
            Rule::Exclusion { table: id, .. } => {
                let own = table(catalog, *id)?;
                (own, own.key.clone())
            }
        })
    }

    /// The constraint's table, its name and whether it is initially deferred, of what can be deferred at all.
    pub fn deferrable(&self) -> Option<(TableId, &str, bool)> {
        match self {
            Rule::Parent(key) if key.deferrable => Some((key.table, &key.name, key.initially_deferred)),
            // Of the actions, only the one that does nothing waits.
            Rule::Children { key, .. } if key.deferrable && self.on_change() == ReferentialAction::NoAction => {
                Some((key.table, &key.name, key.initially_deferred))
            }
            Rule::Unique { table, index } => Some((*table, &index.name, index.initially_deferred)),
            Rule::Exclusion { table, exclusion } if exclusion.index.deferrable => {
                Some((*table, &exclusion.index.name, exclusion.index.initially_deferred))
            }
            Rule::Parent(_) | Rule::Children { .. } | Rule::Exclusion { .. } => None,
        }
    }

    /// The statement that carries out the action for any number of rows. Its parameters are those of [`arguments`].
    ///
    /// # Errors
    /// 0A000 when a table of the foreign key is not known.
    pub fn statement(&self, catalog: &Catalog) -> Result<String, Report> {
        let (Rule::Children { key, .. } | Rule::Parent(key)) = self else {
            return Err(Report::new(INTERNAL_ERROR, "this constraint does not act"));
        };
        let (child, parent) = (table(catalog, key.table)?, table(catalog, key.referenced)?);
        let names = |kind: &'static str| (0..key.columns.len()).map(move |place| format!("{kind}{place}"));
        let typed = |kind: &'static str| {
            let types = key.referenced_columns.iter().map(|attnum| type_of(parent, *attnum));
            names(kind).zip(types).map(|(name, type_name)| format!("k.{name}::{type_name}"))
        };
        let columns: Vec<String> = key.columns.iter().map(|attnum| name_of(child, *attnum)).collect();
        let matches = columns.iter().zip(typed("c")).map(|(column, value)| format!("{value} = {CHILD}.{column}"));
        let matches = matches.collect::<Vec<_>>().join(" AND ");
        let count = if self.action() == Some(ReferentialAction::Cascade) && self.is_update() { 2 } else { 1 };
        let arrays = (1..=columns.len() * count).map(|n| format!("pg_catalog.unnest(${n}::pg_catalog.text[])"));
        let listed = if count == 2 { list(names("c").chain(names("n"))) } else { list(names("c")) };
        let keys = format!("ROWS FROM ({}) AS k({listed})", list(arrays));
        let target = format!("{} AS {CHILD}", qualified(child));
        let only = |place: usize| key.set_columns.is_empty() || key.set_columns.contains(&key.columns[place]);
        let set_all = |value: &str| {
            let kept = columns.iter().enumerate().filter(|(place, _)| self.is_update() || only(*place));
            list(kept.map(|(_, column)| format!("{column} = {value}")))
        };
        let set = match self.action() {
            Some(ReferentialAction::Cascade) if self.is_update() => {
                list(columns.iter().zip(typed("n")).map(|(column, value)| format!("{column} = {value}")))
            }
            Some(ReferentialAction::SetNull) => set_all("NULL"),
            Some(ReferentialAction::SetDefault) => set_all("DEFAULT"),
            _ => return Ok(format!("DELETE FROM {target} USING {keys} WHERE {matches}")),
        };
        Ok(format!("UPDATE {target} SET {set} FROM {keys} WHERE {matches}"))
    }

    fn is_update(&self) -> bool {
        matches!(self, Rule::Children { updated: true, .. })
    }
}

/// The alias of the rows that an action changes: a name that no column has.
const CHILD: &str = "\"pgoutpost.child\"";

/// The parameters of [`Rule::statement`], as text: arrays of the values of these events.
pub fn arguments(events: &[Event]) -> Vec<String> {
    let Some(first) = events.first() else { return Vec::new() };
    let array = |values: &dyn Fn(&Event) -> Value| {
        let values: Vec<Value> = events.iter().map(values).collect();
        arrays::text(values.iter().map(Option::as_deref))
    };
    let old = (0..first.values.len()).map(|place| array(&|event| event.values.get(place).cloned().flatten()));
    let mut all: Vec<String> = old.collect();
    if first.rule.is_update() && first.rule.action() == Some(ReferentialAction::Cascade) {
        all.extend((0..first.new.len()).map(|place| array(&|event| event.new.get(place).cloned().flatten())));
    }
    all
}

/// A query that finds the first of these events, all of one rule, that breaks its constraint: its place and its values as
/// messages print them. No row: all is well.
///
/// # Errors
/// 0A000 when pending rows of a table involved cannot be merged.
pub fn judge(events: &[Event], catalog: &Catalog, view: View<'_>, site: &str) -> Result<Rendered, Report> {
    let Some(Event { rule, .. }) = events.first() else {
        return Ok(Rendered { sql: "SELECT 0, NULL WHERE false".into(), extra: Vec::new(), registers: Vec::new() });
    };
    let (own, columns) = rule.subject(catalog)?;
    let gate = gate(site, catalog);
    let template = match rule {
        Rule::Parent(key) | Rule::Children { key, .. } => {
            let restrict = rule.on_change() == ReferentialAction::Restrict;
            dangling(key, restrict, (table(catalog, key.table)?, table(catalog, key.referenced)?))
        }
        Rule::Unique { index, .. } => twice(own, index),
        Rule::Exclusion { exclusion, .. } => beside(own, exclusion),
    };
    let ids = super::Ids::default();
    let mut rendering = Rendering::new(view, Parameters::default(), &gate, &ids);
    let printed = columns
        .iter()
        .enumerate()
        .map(|(place, _)| format!("CASE WHEN k.c{place} {IS_NULL} THEN 'null' ELSE pg_catalog.concat(k.c{place}) END"));
    let typed = columns.iter().enumerate().map(|(n, attnum)| format!("u.c{n}::{} AS c{n}", type_of(own, *attnum)));
    let mut given = Vec::new();
    for place in 0..columns.len() {
        let values: Vec<Value> = events.iter().map(|event| event.values.get(place).cloned().flatten()).collect();
        let array = rendering.array(Element::Text, values.iter().map(Option::as_deref))?;
        given.push(format!("pg_catalog.unnest({array})"));
    }
    let names = list((0..columns.len()).map(|place| format!("c{place}")));
    if let Rule::Exclusion { .. } = rule {
        rendering.sql = format!(
            "WITH k AS MATERIALIZED (SELECT u.n, {} FROM ROWS FROM ({}) WITH ORDINALITY AS u({names}, n)) \
             SELECT k.n, e.said FROM k, LATERAL (",
            list(typed),
            list(given)
        );
        let filled = rendering.fill(&template);
        filled?;
        rendering.sql.push_str(&format!(") AS e WHERE {gate} >= 0 ORDER BY 1 LIMIT 1"));
        return Ok(rendering.finish());
    }
    rendering.sql = format!(
        "SELECT k.n, pg_catalog.concat('(', pg_catalog.concat_ws(', ', {}), ')') FROM \
         (SELECT u.n, {} FROM ROWS FROM ({}) WITH ORDINALITY AS u({names}, n)) AS k WHERE {gate} >= 0 AND ",
        list(printed),
        list(typed),
        list(given),
    );
    let filled = rendering.fill(&template);
    filled?;
    rendering.sql.push_str(" ORDER BY 1 LIMIT 1");
    Ok(rendering.finish())
}

/// `x`, a row of this table, has the values of `k`, as SQL.
fn equal(other: &Table, columns: &[AttNum], operator: &str) -> String {
    let pairs = columns.iter().enumerate();
    let equal = pairs.map(|(n, attnum)| format!("x.{} {operator} k.c{n}", name_of(other, *attnum)));
    equal.collect::<Vec<_>>().join(" AND ")
}

/// More than one row has the values of `k`.
fn twice(table: &Arc<Table>, index: &UniqueIndex) -> Template {
    let operator = if index.nulls_not_distinct { "IS NOT DISTINCT FROM" } else { "=" };
    let mut template = Template::text("(SELECT pg_catalog.count(*) FROM (SELECT 1 FROM ");
    template.table(table, None);
    template.push(&format!(" AS x WHERE {} LIMIT 2) AS x) > 1", equal(table, &plain_columns(index), operator)));
    template
}

/// What messages print of the row with the key `k` and of another that it cannot stand beside: of two that are judged, the
/// later one is refused.
fn beside(table: &Arc<Table>, Exclusion { index, operators }: &Exclusion) -> Template {
    let keys = |row: &str| list((0..table.key.len()).map(|n| format!("{row}.k{n}")));
    let items = index.items.iter().enumerate().map(|(n, item)| match item {
        IndexItem::Column(attnum) => format!("x.{} AS i{n}", name_of(table, *attnum)),
        IndexItem::Expression { text, .. } => format!("({text}) AS i{n}"),
    });
    let key = table.key.iter().enumerate().map(|(n, attnum)| format!("x.{} AS k{n}", name_of(table, *attnum)));
    let columns = list(key.chain(items));
    let predicate = index.predicate.as_ref().map_or_else(String::new, |predicate| format!(" WHERE {predicate}"));
    let said = |row: &str| {
        let items = (0..index.items.len()).map(|n| format!("pg_catalog.concat({row}.i{n})"));
        format!("'(', pg_catalog.concat_ws(', ', {}), ')'", list(items))
    };
    let mut template =
        Template::text(format!("SELECT pg_catalog.concat({}, pg_catalog.chr(1), {}) AS said", said("x"), said("y")));
    for (word, row) in [("FROM", "x"), (",", "y")] {
        template.push(&format!(" {word} (SELECT {columns} FROM ")).table(table, None);
        template.push(&format!(" AS x{predicate}) AS {row}"));
    }
    let same = |row: &str, of: &str| {
        let pairs = (0..table.key.len()).map(|n| format!("{row}.k{n} = {of}.c{n}"));
        pairs.collect::<Vec<_>>().join(" AND ")
    };
    let conflicts = operators.iter().enumerate().map(|(n, operator)| format!(" AND y.i{n} {operator} x.i{n}"));
    let conflicts: String = conflicts.collect();
    template.push(&format!(
        " WHERE {} AND ROW({}) IS DISTINCT FROM ROW({}){conflicts}",
        same("x", "k"),
        keys("x"),
        keys("y")
    ));
    let later = same("y", "later");
    template.push(&format!(" AND NOT EXISTS (SELECT FROM k AS later WHERE later.n > k.n AND {later}) LIMIT 1"));
    template
}

/// The columns of an index that backs a constraint: it has no expressions.
pub(super) fn plain_columns(index: &UniqueIndex) -> Vec<AttNum> {
    let column = |item: &IndexItem| match item {
        IndexItem::Column(attnum) => Some(*attnum),
        IndexItem::Expression { .. } => None,
    };
    index.items.iter().filter_map(column).collect()
}

/// A row of the child refers to the values of `k`, and no parent has them.
fn dangling(key: &ForeignKey, restrict: bool, (child, parent): (&Arc<Table>, &Arc<Table>)) -> Template {
    let all = |test: &str, word: &str| {
        (0..key.columns.len()).map(|n| format!("k.c{n} {test}")).collect::<Vec<_>>().join(word)
    };
    let mut template = Template::text("EXISTS (SELECT 1 FROM ");
    // Of the row's own side: what has gone again since breaks nothing.
    let operator = if key.match_full { "IS NOT DISTINCT FROM" } else { "=" };
    template.table(child, None).push(&format!(" AS x WHERE {})", equal(child, &key.columns, operator)));
    if !restrict {
        template.push(" AND NOT EXISTS (SELECT 1 FROM ").table(parent, None);
        template.push(&format!(" AS x WHERE {})", equal(parent, &key.referenced_columns, "=")));
    }
    if key.match_full {
        // What is NULL altogether refers to nothing.
        template.push(&format!(" AND NOT ({})", all(IS_NULL, " AND ")));
    }
    template
}

/// The error for an event that breaks its constraint. `values`: as messages print them.
pub fn violation(event: &Event, values: &str, catalog: &Catalog) -> Report {
    let key = match &event.rule {
        Rule::Parent(key) | Rule::Children { key, .. } => key,
        Rule::Unique { table: id, index } => {
            return table(catalog, *id).map_or_else(|report| report, |table| duplicate(table, index, values));
        }
        Rule::Exclusion { table: id, exclusion } => {
            let (new, old) = values.split_once('\u{1}').unwrap_or((values, ""));
            return table(catalog, *id).map_or_else(|report| report, |table| excludes(table, exclusion, new, old));
        }
    };
    let (child, parent) = match (table(catalog, key.table), table(catalog, key.referenced)) {
        (Ok(child), Ok(parent)) => (child, parent),
        (Err(report), _) | (_, Err(report)) => return report,
    };
    let (child_name, parent_name) = (&child.name.name, &parent.name.name);
    let (message, detail) = match &event.rule {
        Rule::Parent(_) => (
            format!("insert or update on table \"{child_name}\" violates foreign key constraint \"{}\"", key.name),
            if event.values.iter().any(Option::is_none) {
                "MATCH FULL does not allow mixing of null and nonnull key values.".to_owned()
            } else {
                format!("Key ({})={values} is not present in table \"{parent_name}\".", bare(child, &key.columns))
            },
        ),
        Rule::Children { .. } | Rule::Unique { .. } | Rule::Exclusion { .. } => (
            format!(
                "update or delete on table \"{parent_name}\" violates foreign key constraint \"{}\" on table \"{child_name}\"",
                key.name
            ),
            format!(
                "Key ({})={values} is still referenced from table \"{child_name}\".",
                bare(parent, &key.referenced_columns)
            ),
        ),
    };
    Report::new(FOREIGN_KEY_VIOLATION, message).detail(detail).about(about(child, &key.name))
}

fn duplicate(table: &Table, index: &UniqueIndex, values: &str) -> Report {
    let message = format!("duplicate key value violates unique constraint \"{}\"", index.name);
    Report::new(UNIQUE_VIOLATION, message)
        .detail(format!("Key ({})={values} already exists.", index.shown))
        .about(about(table, &index.name))
}

/// The error for a row that cannot stand beside another one. Values as messages print them.
pub(super) fn excludes(table: &Table, Exclusion { index, .. }: &Exclusion, new: &str, old: &str) -> Report {
    let message = format!("conflicting key value violates exclusion constraint \"{}\"", index.name);
    let shown = &index.shown;
    Report::new(EXCLUSION_VIOLATION, message)
        .detail(format!("Key ({shown})={new} conflicts with existing key ({shown})={old}."))
        .about(about(table, &index.name))
}

fn about(table: &Table, constraint: &str) -> About {
    About {
        schema: Some(table.name.schema.to_string()),
        table: Some(table.name.name.to_string()),
        constraint: Some(constraint.to_owned()),
        ..About::default()
    }
}

fn bare(table: &Table, columns: &[AttNum]) -> String {
    list(columns.iter().map(|attnum| table.attribute(*attnum).map_or_else(String::new, |c| c.name.to_string())))
}

fn table(catalog: &Catalog, id: TableId) -> Result<&Arc<Table>, Report> {
    catalog.relations.get(&id).ok_or_else(|| {
        Report::new(FEATURE_NOT_SUPPORTED, "a foreign key leads to an unknown table").hint("Connect to main for it.")
    })
}

fn name_of(table: &Table, attnum: AttNum) -> String {
    quoted(table.attribute(attnum).map_or("", |column| &column.name))
}

fn type_of(table: &Table, attnum: AttNum) -> String {
    table.attribute(attnum).map_or_else(String::new, |column: &Column| column.base_type_name.to_string())
}
