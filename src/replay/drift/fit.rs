//! An entry's table beside main's: the same, one that can take the entry, or what is different. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use super::Difference;
use super::known::{Column, Definition};
use crate::entry::{Effect, Entry, EntryColumn, EntryTable, Lost, Own, Terms, Value, computes_alike, widens};

/// How a table of an entry is to be written to main.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fitted {
    AsItIs,
    /// In other names, without columns that main does not have any more, and with those that it gave to the rows which it had.
    As {
        table: Box<EntryTable>,
        places: Vec<Option<usize>>,
        /// What whole rows have in the table's last columns.
        added: Vec<Value>,
        terms: Terms,
    },
}

/// Judges one table of an entry. `number`: its number in the catalog of this very cluster; what types are made of is known
/// again by these terms.
pub(super) fn table(
    entry: &Entry,
    place: usize,
    main: Option<&Definition>,
    (number, terms): (Option<u32>, Terms),
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
        let same_type =
            |found: &Column| found.type_name == column.type_name && column.typed().stands_in(found.typed(), terms);
        found.is_some_and(|found| found.name == column.name && same_type(found))
    };
    let added =
        || main.columns.iter().filter(|column| !matched.iter().flatten().any(|found| found.attnum == column.attnum));
    let unchanged = table.name == main.name && table.columns.iter().zip(&matched).all(same);
    let used = Used::of(entry, place);
    if used.inserted
        && let Some(column) = added().find(|column| column.required && column.missing.is_none())
    {
        return differs(format!("column \"{}\" is new, NOT NULL and has no default", column.name));
    }
    if used.by_key && !unique(table, &matched, main) {
        let key: Vec<&str> = table.key.iter().map(|&place| &*table.columns[place].name).collect();
        return differs(format!("no unique index makes ({}) its key any more", key.join(", ")));
    }
    let given: Vec<&Column> = added().filter(|column| used.inserted && column.missing.is_some()).collect();
    if unchanged && given.is_empty() {
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
        // What has a shape is judged value by value, when they are written anew.
        let shaped = column.shape.is_some() && found.shape.is_some();
        let fits = shaped || widens(&column.type_name, &found.type_name);
        let computes = used.computes.contains(&place);
        if has_value && !fits || computes && !computes_alike(&column.type_name, &found.type_name) {
            return differs(format!("column \"{}\" was {} and is {}", column.name, column.type_name, found.type_name));
        }
        places.push(Some(columns.len()));
        let type_name = if fits && !shaped { &column.type_name } else { &found.type_name };
        // Main computes its own.
        let shape = if found.generated { column.shape.clone() } else { found.shape.clone() };
        let name = Arc::clone(&found.name);
        columns.push(EntryColumn { name, type_name: Arc::clone(type_name), shape });
    }
    for column in &given {
        let (name, type_name) = (Arc::clone(&column.name), Arc::clone(&column.type_name));
        columns.push(EntryColumn { name, type_name, shape: column.shape.clone() });
    }
    let added = given.into_iter().map(|column| column.missing.clone()).collect();
    // A key of which something is gone finds no row; it has been seen to that nothing looks for one.
    let key: Option<Vec<usize>> = table.key.iter().map(|&place| places[place]).collect();
    let table = EntryTable { name: main.name.clone(), columns, key: key.unwrap_or_default(), ..table.clone() };
    Ok(Fitted::As { table: Box::new(table), places, added, terms })
}

/// The entry with its tables as they were fitted; `None`: as it is.
pub(super) fn entry(entry: &Entry, tables: &[Fitted]) -> Result<Option<Entry>, Difference> {
    if tables.iter().all(|table| *table == Fitted::AsItIs) {
        return Ok(None);
    }
    let anew = Anew { entry, tables };
    let effects = entry.effects.iter().map(|effect| anew.effect(effect)).collect::<Result<_, _>>()?;
    let fitted = |(table, fitted): (&EntryTable, &Fitted)| match fitted {
        Fitted::AsItIs => table.clone(),
        Fitted::As { table, .. } => (**table).clone(),
    };
    let tables = entry.tables.iter().zip(tables).map(fitted).collect();
    Ok(Some(Entry { tables, effects, ..entry.clone() }))
}

/// Effects written anew for the tables as they are.
struct Anew<'a> {
    entry: &'a Entry,
    tables: &'a [Fitted],
}

impl Anew<'_> {
    fn effect(&self, effect: &Effect) -> Result<Effect, Difference> {
        Ok(match effect {
            Effect::Insert { table, row } => {
                Effect::Insert { table: *table, row: self.row(*table, row, Lost::Refused)? }
            }
            Effect::Update { table, key, set, old, row, own } => Effect::Update {
                table: *table,
                key: self.key(*table, key)?,
                set: self.some(*table, set, Lost::Refused)?,
                old: self.some(*table, old, Lost::Dropped)?,
                row: row.as_ref().map(|row| self.row(*table, row, Lost::Refused)).transpose()?,
                own: own.iter().filter_map(|computed| self.own(*table, computed)).collect(),
            },
            Effect::Move { table, key, set, old, to, row } => Effect::Move {
                table: *table,
                key: self.key(*table, key)?,
                set: self.some(*table, set, Lost::Refused)?,
                old: self.some(*table, old, Lost::Dropped)?,
                to: *to,
                row: self.row(*to, row, Lost::Refused)?,
            },
            Effect::Delete { table, key, old } => {
                let old = if old.is_empty() { Vec::new() } else { self.row(*table, old, Lost::Dropped)? };
                Effect::Delete { table: *table, key: self.key(*table, key)?, old }
            }
            Effect::Truncate { table } => Effect::Truncate { table: *table },
        })
    }

    fn place(&self, table: usize, place: usize) -> Option<usize> {
        match &self.tables[table] {
            Fitted::AsItIs => Some(place),
            Fitted::As { places, .. } => places[place],
        }
    }

    fn row(&self, table: usize, row: &[Value], lost: Lost) -> Result<Vec<Value>, Difference> {
        let kept = row.iter().enumerate().filter(|(place, _)| self.place(table, *place).is_some());
        let kept = kept.map(|(place, value)| self.value(table, place, value, lost));
        let added = match &self.tables[table] {
            Fitted::AsItIs => &[][..],
            Fitted::As { added, .. } => added,
        };
        kept.chain(added.iter().cloned().map(Ok)).collect()
    }

    fn some(&self, table: usize, values: &[(usize, Value)], lost: Lost) -> Result<Vec<(usize, Value)>, Difference> {
        let kept = values.iter().filter_map(|(place, value)| Some((self.place(table, *place)?, *place, value)));
        kept.map(|(to, place, value)| Ok((to, self.value(table, place, value, lost)?))).collect()
    }

    fn key(&self, table: usize, key: &[Value]) -> Result<Vec<Value>, Difference> {
        let places = &self.entry.tables[table].key;
        if places.iter().any(|&place| self.place(table, place).is_none()) {
            return Ok(Vec::new());
        }
        places.iter().zip(key).map(|(&place, value)| self.value(table, place, value, Lost::Refused)).collect()
    }

    /// Of a column that is gone: it was generated, or nothing of it was written; see `Used`.
    fn own(&self, table: usize, computed: &Own) -> Option<Own> {
        let to = |place: usize| self.place(table, place);
        Some(Own { column: to(computed.column)?, expression: computed.expression.moved(&to)? })
    }

    /// A value in its column's type as it is.
    fn value(&self, table: usize, place: usize, value: &Value, lost: Lost) -> Result<Value, Difference> {
        let (Fitted::As { table: now, places, terms, .. }, Some(text)) = (&self.tables[table], value) else {
            return Ok(value.clone());
        };
        let Some(to) = places[place] else { return Ok(value.clone()) };
        let (described, terms) = (&self.entry.tables[table], *terms);
        let (was, is) = (&described.columns[place], &now.columns[to]);
        if was.shape.is_none() || is.shape.is_none() {
            return Ok(value.clone());
        }
        let mut found = was.typed().text_in(is.typed(), terms, lost, text);
        if found.is_err() && lost == Lost::Dropped {
            // It only says whether main's row is as the client saw it, and that has been made another one.
            found = was.typed().text_in(is.typed(), Terms { by_name: true, ..terms }, lost, text);
        }
        let differs =
            |what: &str| Difference { table: described.name.clone(), what: format!("column \"{}\" {what}", was.name) };
        match found {
            Ok(found) if found == **text => Ok(value.clone()),
            // Others know the row by the text that it had.
            Ok(_) if described.key.contains(&place) => {
                Err(differs("is part of its key, and of a type that was altered"))
            }
            Ok(found) => Ok(Some(found.into())),
            Err(what) => Err(differs(&what)),
        }
    }
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
