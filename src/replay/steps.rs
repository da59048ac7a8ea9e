//! Turns entries into the steps of one transaction on main. Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use self::guarded::{Guarded, Joined, Verb};
use super::Policy;
use crate::entry::{Effect, Entry, EntryTable, Own, TableName, Value};
use crate::setup::identifier;

mod guarded;
pub(super) mod rejected;

/// What must be known of a table on main, beyond what entries say.
#[derive(Debug, Clone, Default)]
pub(super) struct MainTable {
    /// Generated columns: main computes them.
    pub(super) generated: Vec<String>,
    /// Others inherit from it: its own rows only are meant.
    pub(super) has_children: bool,
    /// Row by row then: a trigger may look at the rows before its own.
    pub(super) has_triggers: bool,
    /// Rewrite rules, which take part in no statement that yields rows.
    pub(super) has_rules: bool,
    /// Somebody's own triggers that can wait for the end of the transaction: they run as whoever is the role then.
    pub(super) has_late_triggers: bool,
    /// Has a foreign key upon itself: its rows go together, as in the client's statement, since main judges at the end of
    /// each of ours.
    pub(super) refers_to_itself: bool,
    /// The columns of each unique index, by name; not of those over expressions.
    pub(super) unique: Vec<Vec<Arc<str>>>,
    pub(super) references: Vec<Reference>,
    /// Its constraints that can be deferred.
    pub(super) deferrable: Vec<TableName>,
    /// What the configuration says about conflicts.
    pub(super) policy: Policy,
}

/// A foreign key of a table on main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) columns: Vec<Arc<str>>,
    pub(super) table: TableName,
    pub(super) referenced: Vec<Arc<str>>,
}

/// One statement of a transaction: prepared by its text, with text parameters.
#[derive(Debug)]
pub(super) struct Step {
    /// The entry and the effect (its first, of several) it comes from, by place.
    pub(super) entry: usize,
    pub(super) effect: usize,
    pub(super) rows: u64,
    pub(super) sql: String,
    pub(super) parameters: Parameters,
    pub(super) way: Way,
}

/// How a step is run and what its answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As the client's role; it tells how many rows it touched.
    Counted,
    /// As the client's role; it tells what became of rows that were not as the client saw them.
    Settles,
    /// As the daemon itself.
    Own,
}

#[derive(Debug)]
pub(super) enum Parameters {
    /// One row: a text each.
    Row(Vec<Value>),
    /// Several rows: an array of texts for each column.
    Columns(Vec<Vec<Value>>),
}

/// What can be deferred is: main then judges, as the site has, the end of the transaction, not of each statement of ours.
pub(super) const DEFER: &str = "SET CONSTRAINTS ALL DEFERRED";

/// Rows of one INSERT, at most; of one entry into a table that refers to itself there may be any number.
const ROWS_MAX: usize = 1_000;

/// Where the steps are to be taken.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) site: &'a str,
    pub(super) main: &'a HashMap<TableName, Arc<MainTable>>,
}

/// The steps of one entry's effects, in their order. Inserts that follow each other in one table become one statement.
/// `join`: the entry may add its rows to the last step of the one before.
pub(super) fn add(steps: &mut Vec<Step>, place: usize, entry: &Entry, ground: Ground<'_>, join: bool) {
    // Main's own referential actions do theirs.
    let mut joined = Joined::default();
    let own = entry.effects.iter().enumerate().filter(|(place, _)| entry.actions.binary_search(place).is_err());
    for (effect_place, effect) in own {
        let Some(table) = entry.tables.get(effect.table()) else { continue };
        let main_table = ground.main.get(&table.name).map(Arc::as_ref);
        let first_of_entry = effect_place == 0;
        let policy = main_table.map_or(Policy::default(), |table| table.policy);
        // Main judges a foreign key upon the own table at the end of each statement.
        let together = main_table.is_some_and(|table| table.refers_to_itself);
        let at = (place, effect_place);
        let kept = kept(table, main_table);
        let is_kept = |place: usize| kept.binary_search(&place).is_ok();
        let mut guarded = |verb, key, set, own, old| {
            let guarded = Guarded { site: ground.site, table, main: main_table, policy, verb, key, set, own, old };
            guarded.add(steps, at, entry.seq.0, together.then_some(&mut joined));
        };
        match effect {
            Effect::Insert { row, .. } if policy == Policy::MainWins => {
                let set: Vec<(usize, Value)> =
                    row.iter().cloned().enumerate().filter(|(place, _)| is_kept(*place)).collect();
                guarded(Verb::Insert, &[], set.iter().collect(), Vec::new(), Vec::new());
            }
            Effect::Insert { row, .. } => {
                let joins = main_table.is_some_and(|table| !table.has_triggers || table.refers_to_itself);
                let joins = joins && (join || !first_of_entry);
                let max = if together && !first_of_entry { usize::MAX } else { ROWS_MAX };
                insert(steps, at, (table, &kept), row, if joins { max } else { 0 });
            }
            Effect::Update { key, set, old, .. } | Effect::Move { key, set, old, .. } => {
                let own = own_columns(effect, policy).iter().filter(|own| is_kept(own.column)).collect::<Vec<_>>();
                let by_value = |place: usize| is_kept(place) && !own.iter().any(|own| own.column == place);
                let set = set.iter().filter(|(place, _)| by_value(*place)).collect();
                let old = old.iter().filter(|(place, _)| by_value(*place)).cloned().collect();
                guarded(Verb::Update, key, set, own, old);
            }
            Effect::Delete { key, old, .. } => {
                let old = old.iter().cloned().enumerate().filter(|(place, _)| is_kept(*place)).collect();
                guarded(Verb::Delete, key, Vec::new(), Vec::new(), old);
            }
            Effect::Truncate { .. } => truncate(steps, at, entry, ground.main),
        }
    }
}

/// What main computes anew: where values are to be as the client saw them or not at all, nothing.
fn own_columns(effect: &Effect, policy: Policy) -> &[Own] {
    match effect {
        Effect::Update { row: None, own, .. } if policy == Policy::LastWriteWins => own,
        _ => &[],
    }
}

/// Has main judge, and its late triggers run, what the last entry has left for the end: under that entry's role, and
/// before the next one is there. The last entry of a transaction is judged by its COMMIT. `false`: nothing is left.
pub(super) fn judge(steps: &mut Vec<Step>, place: usize, entry: &Entry, ground: Ground<'_>) -> bool {
    let is_late = |table: &EntryTable| ground.main.get(&table.name).is_some_and(|main| main.has_late_triggers);
    if !entry.tables.iter().any(is_late) {
        return false;
    }
    let effect = entry.effects.len().saturating_sub(1);
    for sql in ["SET CONSTRAINTS ALL IMMEDIATE", DEFER] {
        let parameters = Parameters::Row(Vec::new());
        steps.push(Step { entry: place, effect, rows: 0, sql: sql.to_owned(), parameters, way: Way::Counted });
    }
    true
}

/// Tables that were truncated one after the other go at once: they may refer to each other. Main does not truncate a table
/// whose checks are still to come: those are made before it, as the client's site has made its own.
fn truncate(
    steps: &mut Vec<Step>,
    (place, effect): (usize, usize),
    entry: &Entry,
    main: &HashMap<TableName, Arc<MainTable>>,
) {
    let is_truncate = |effect: &&Effect| matches!(effect, Effect::Truncate { .. });
    if effect > 0 && entry.effects.get(effect - 1).as_ref().is_some_and(is_truncate) {
        return;
    }
    let run = entry.effects[effect..].iter().take_while(is_truncate);
    let tables: Vec<&EntryTable> = run.filter_map(|effect| entry.tables.get(effect.table())).collect();
    let mut push = |sql| {
        steps.push(Step {
            entry: place,
            effect,
            rows: 0,
            sql,
            parameters: Parameters::Row(Vec::new()),
            way: Way::Counted,
        });
    };
    let known = tables.iter().filter_map(|table| main.get(&table.name));
    let checks: BTreeSet<String> = known.flat_map(|table| &table.deferrable).map(qualified).collect();
    if !checks.is_empty() {
        let checks = checks.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        push(format!("SET CONSTRAINTS {checks} IMMEDIATE"));
    }
    let relations: Vec<String> = tables.iter().map(|table| format!("ONLY {}", relation(table))).collect();
    push(format!("TRUNCATE {}", relations.join(", ")));
    if !checks.is_empty() {
        push(DEFER.to_owned());
    }
}

/// Places of the columns that main does not compute.
fn kept(table: &EntryTable, main: Option<&MainTable>) -> Vec<usize> {
    let generated = |name: &str| main.is_some_and(|main| main.generated.iter().any(|generated| generated == name));
    (0..table.columns.len()).filter(|&place| !generated(&table.columns[place].name)).collect()
}

/// `max`: how many rows the step before may have at most with this one.
fn insert(
    steps: &mut Vec<Step>,
    at: (usize, usize),
    (table, kept): (&EntryTable, &[usize]),
    row: &[Value],
    max: usize,
) {
    let value = |&place: &usize| row.get(place).cloned().flatten();
    let several = insert_several(table, kept);
    if !kept.is_empty()
        && let Some(last) = steps.last_mut()
        && last.rows < max as u64
    {
        // The statement before inserts into the same columns: as one row, or as several already.
        let one = insert_one(table, kept);
        if let Parameters::Row(values) = &mut last.parameters
            && last.sql == one
        {
            last.parameters = Parameters::Columns(values.drain(..).map(|value| vec![value]).collect());
            last.sql.clone_from(&several);
        }
        if let Parameters::Columns(columns) = &mut last.parameters
            && last.sql == several
        {
            columns.iter_mut().zip(kept).for_each(|(column, place)| column.push(value(place)));
            last.rows += 1;
            return;
        }
    }
    let parameters = Parameters::Row(kept.iter().map(value).collect());
    steps.push(Step {
        entry: at.0,
        effect: at.1,
        rows: 1,
        sql: insert_one(table, kept),
        parameters,
        way: Way::Counted,
    });
}

fn insert_one(table: &EntryTable, kept: &[usize]) -> String {
    if kept.is_empty() {
        return format!("INSERT INTO {} DEFAULT VALUES", relation(table));
    }
    let values: Vec<String> = kept.iter().enumerate().map(|(n, &place)| parameter(table, place, n)).collect();
    format!("{} VALUES ({})", insert_into(table, kept), values.join(", "))
}

fn insert_several(table: &EntryTable, kept: &[usize]) -> String {
    let values =
        kept.iter().enumerate().map(|(n, &place)| format!("r.c{n}::{}", bare_type(&table.columns[place].type_name)));
    let arrays = (1..=kept.len()).map(|n| format!("${n}::text[]"));
    let names = (0..kept.len()).map(|n| format!("c{n}"));
    let listed = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    format!(
        "{} SELECT {} FROM unnest({}) AS r({})",
        insert_into(table, kept),
        listed(&mut { values }),
        listed(&mut { arrays }),
        listed(&mut { names }),
    )
}

fn insert_into(table: &EntryTable, kept: &[usize]) -> String {
    let names: Vec<String> = kept.iter().map(|&place| identifier(&table.columns[place].name)).collect();
    format!("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE", relation(table), names.join(", "))
}

/// A column is what the parameter says.
pub(super) fn equal(table: &EntryTable, place: usize, n: usize) -> String {
    format!("{} = {}", identifier(&table.columns[place].name), parameter(table, place, n))
}

/// The table to change rows of.
pub(super) fn own_rows(table: &EntryTable, has_children: bool) -> String {
    let only = if table.via.is_none() && has_children { "ONLY " } else { "" };
    format!("{only}{}", relation(table))
}

/// The table to write: a partition's rows go through the table that the client named, whose rights its role has, and which
/// finds the row's partition by itself, were it another one by then.
pub(super) fn relation(table: &EntryTable) -> String {
    qualified(table.via.as_ref().unwrap_or(&table.name))
}

fn qualified(name: &TableName) -> String {
    format!("{}.{}", identifier(&name.schema), identifier(&name.name))
}

/// A text parameter in the column's type, without the type's modifier: an explicit cast to `varchar(5)` would cut a
/// longer value, the assignment to such a column refuses it.
fn parameter(table: &EntryTable, place: usize, n: usize) -> String {
    format!("${}::text::{}", n + 1, bare_type(&table.columns[place].type_name))
}

/// A type as `format_type` prints it, without its modifier.
pub(super) fn bare_type(name: &str) -> String {
    let mut bare = String::with_capacity(name.len());
    let (mut quoted, mut depth) = (false, 0);
    for character in name.chars() {
        match character {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            _ => {}
        }
        if depth == 0 {
            bare.push(character);
        }
        if character == ')' && !quoted {
            depth -= 1;
        }
    }
    let (base, array) = bare.find("[]").map_or((&*bare, ""), |at| bare.split_at(at));
    let base = base.trim_end();
    // Without a modifier these words mean (1).
    let base = match base {
        "character" => "bpchar",
        "bit" => "\"bit\"",
        base if base.starts_with("interval ") => "interval",
        base => base,
    };
    format!("{base}{array}")
}

#[cfg(test)]
mod tests;
