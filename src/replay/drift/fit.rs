//! An entry's table beside main's: the same, one that can take the entry, or what is different. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use super::Difference;
use super::known::{Column, Definition};
use crate::entry::{Effect, Entry, EntryColumn, EntryTable, Own, Value, computes_alike, widens};

/// How a table of an entry is to be written to main.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fitted {
    AsItIs,
    /// In other names, or without columns that main does not have any more.
    As {
        table: EntryTable,
        places: Vec<Option<usize>>,
    },
}

/// Judges one table of an entry. `number`: its number in the catalog of this very cluster.
pub(super) fn table(
    entry: &Entry,
    place: usize,
    main: Option<&Definition>,
    number: Option<u32>,
) -> Result<Fitted, Difference> {
    let table = &entry.tables[place];
    let differs = |what: String| Err(Difference { table: table.name.clone(), what });
    let Some(main) = main else {
        let what = if number.is_some() { "it was dropped" } else { "main has no such table" };
        return differs(what.to_owned());
    };
    if number.is_some_and(|number| number != main.oid) {
        return differs("it was dropped, and another one has its name".to_owned());
    }
    if !matches!(main.kind.as_str(), "r" | "p") {
        return differs("it is no ordinary table".to_owned());
    }
    if let Some(via) = &table.via
        && !main.partition_of.contains(via)
    {
        return differs(format!("it is no partition of {via} any more"));
    }
    let matched: Vec<Option<&Column>> =
        (0..table.columns.len()).map(|place| counterpart(table, place, main, number.is_some())).collect();
    let same = |(column, found): (&EntryColumn, &Option<&Column>)| {
        found.is_some_and(|found| found.name == column.name && found.type_name == column.type_name)
    };
    let added =
        || main.columns.iter().filter(|column| !matched.iter().flatten().any(|found| found.attnum == column.attnum));
    let unchanged = table.name == main.name && table.columns.iter().zip(&matched).all(same);
    let used = Used::of(entry, place);
    if used.inserted
        && let Some(column) = added().find(|column| column.required)
    {
        return differs(format!("column \"{}\" is new, NOT NULL and has no default", column.name));
    }
    if used.by_key && !unique(table, &matched, main) {
        let key: Vec<&str> = table.key.iter().map(|&place| &*table.columns[place].name).collect();
        return differs(format!("no unique index makes ({}) its key any more", key.join(", ")));
    }
    if unchanged {
        return Ok(Fitted::AsItIs);
    }
    let mut columns = Vec::with_capacity(table.columns.len());
    let mut places = Vec::with_capacity(table.columns.len());
    for (place, (column, found)) in table.columns.iter().zip(&matched).enumerate() {
        let has_value = used.values.contains(&place) || (used.by_key && table.key.contains(&place));
        let Some(found) = found else {
            if has_value && !computed(main, column) {
                return differs(gone(main, column, number.is_some()));
            }
            places.push(None);
            continue;
        };
        let fits = widens(&column.type_name, &found.type_name);
        let computes = used.computes.contains(&place);
        if has_value && !fits || computes && !computes_alike(&column.type_name, &found.type_name) {
            return differs(format!("column \"{}\" was {} and is {}", column.name, column.type_name, found.type_name));
        }
        places.push(Some(columns.len()));
        let type_name = if fits { &column.type_name } else { &found.type_name };
        columns.push(EntryColumn { name: Arc::clone(&found.name), type_name: Arc::clone(type_name) });
    }
    // A key of which something is gone finds no row; it has been seen to that nothing looks for one.
    let key: Option<Vec<usize>> = table.key.iter().map(|&place| places[place]).collect();
    let table = EntryTable { name: main.name.clone(), columns, key: key.unwrap_or_default(), ..table.clone() };
    Ok(Fitted::As { table, places })
}

/// The entry with its tables as they were fitted; `None`: as it is.
pub(super) fn entry(entry: &Entry, tables: &[Fitted]) -> Option<Entry> {
    if tables.iter().all(|table| *table == Fitted::AsItIs) {
        return None;
    }
    let new_place = |table: usize, place: usize| match &tables[table] {
        Fitted::AsItIs => Some(place),
        Fitted::As { places, .. } => places[place],
    };
    let row = |table: usize, row: &[Value]| -> Vec<Value> {
        let kept = row.iter().enumerate().filter(|(place, _)| new_place(table, *place).is_some());
        kept.map(|(_, value)| value.clone()).collect()
    };
    let some = |table: usize, values: &[(usize, Value)]| -> Vec<(usize, Value)> {
        values.iter().filter_map(|(place, value)| Some((new_place(table, *place)?, value.clone()))).collect()
    };
    let key = |table: usize, key: &[Value]| -> Vec<Value> {
        let places = &entry.tables[table].key;
        let whole = places.iter().all(|&place| new_place(table, place).is_some());
        if whole { key.to_vec() } else { Vec::new() }
    };
    // Of a column that is gone: it was generated, or nothing of it was written; see `Used`.
    let own = |table: usize, computed: &Own| {
        let to = |place: usize| new_place(table, place);
        Some(Own { column: to(computed.column)?, expression: computed.expression.moved(&to)? })
    };
    let effect = |effect: &Effect| match effect {
        Effect::Insert { table, row: new } => Effect::Insert { table: *table, row: row(*table, new) },
        Effect::Update { table, key: which, set, old, row: new, own: computed } => Effect::Update {
            table: *table,
            key: key(*table, which),
            set: some(*table, set),
            old: some(*table, old),
            row: new.as_ref().map(|new| row(*table, new)),
            own: computed.iter().filter_map(|computed| own(*table, computed)).collect(),
        },
        Effect::Move { table, key: which, set, old, to, row: new } => Effect::Move {
            table: *table,
            key: key(*table, which),
            set: some(*table, set),
            old: some(*table, old),
            to: *to,
            row: row(*to, new),
        },
        Effect::Delete { table, key: which, old } => {
            let old = if old.is_empty() { Vec::new() } else { row(*table, old) };
            Effect::Delete { table: *table, key: key(*table, which), old }
        }
        Effect::Truncate { table } => Effect::Truncate { table: *table },
    };
    let fitted = |(table, fitted): (&EntryTable, &Fitted)| match fitted {
        Fitted::AsItIs => table.clone(),
        Fitted::As { table, .. } => table.clone(),
    };
    Some(Entry {
        tables: entry.tables.iter().zip(tables).map(fitted).collect(),
        effects: entry.effects.iter().map(effect).collect(),
        ..entry.clone()
    })
}

/// What an entry does with one of its tables.
#[derive(Default)]
struct Used {
    inserted: bool,
    /// Rows are found by their key.
    by_key: bool,
    /// Columns that are written, with anything but NULL, or from which main is to compute.
    values: HashSet<usize>,
    /// Of those, the ones from which main is to compute.
    computes: HashSet<usize>,
}

impl Used {
    fn of(entry: &Entry, table: usize) -> Used {
        let mut used = Used::default();
        let mut read = Vec::new();
        let mut written = |values: &mut dyn Iterator<Item = (usize, &Value)>| {
            used.values.extend(values.filter(|(_, value)| value.is_some()).map(|(place, _)| place));
        };
        for effect in &entry.effects {
            match effect {
                Effect::Insert { table: its, row } if *its == table => written(&mut row.iter().enumerate()),
                Effect::Update { table: its, set, own, .. } if *its == table => {
                    written(&mut set.iter().map(|(place, value)| (*place, value)));
                    read.extend(own.iter().flat_map(|own| own.expression.columns()));
                }
                // Main moves the row by itself, through the table above both.
                Effect::Move { table: its, set, .. } if *its == table => {
                    written(&mut set.iter().map(|(place, value)| (*place, value)));
                }
                _ => {}
            }
        }
        used.values.extend(&read);
        used.computes.extend(read);
        let any = |is: fn(&Effect) -> bool| entry.effects.iter().any(|effect| effect.table() == table && is(effect));
        used.inserted = any(|effect| matches!(effect, Effect::Insert { .. }));
        used.by_key =
            any(|effect| matches!(effect, Effect::Update { .. } | Effect::Move { .. } | Effect::Delete { .. }));
        used
    }
}

/// Main's column that an entry's is.
fn counterpart<'a>(table: &EntryTable, place: usize, main: &'a Definition, numbered: bool) -> Option<&'a Column> {
    let name = &table.columns[place].name;
    match table.origin.as_ref().filter(|_| numbered) {
        Some(origin) => {
            let attnum = origin.attnum(place);
            main.columns.iter().find(|column| Some(column.attnum) == attnum)
        }
        None => main.columns.iter().find(|column| column.name == *name),
    }
}

/// Whether main computes a column of that name by itself: an expression that was changed is a new column.
fn computed(main: &Definition, column: &EntryColumn) -> bool {
    main.columns.iter().any(|found| found.name == column.name && found.generated)
}

fn gone(main: &Definition, column: &EntryColumn, numbered: bool) -> String {
    let name = &column.name;
    if !numbered {
        return format!("it has no column \"{name}\"");
    }
    if main.columns.iter().any(|found| found.name == *name) {
        return format!("column \"{name}\" was dropped, and another one has its name");
    }
    format!("column \"{name}\" was dropped")
}

/// Whether the entry's key still tells rows apart.
fn unique(table: &EntryTable, matched: &[Option<&Column>], main: &Definition) -> bool {
    let key: Vec<&str> = table.key.iter().filter_map(|&place| Some(&*matched[place]?.name)).collect();
    key.len() == table.key.len() && main.unique.iter().any(|index| index.iter().all(|column| key.contains(&&**column)))
}
