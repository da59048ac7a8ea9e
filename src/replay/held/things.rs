//! What an entry leaves behind, and what another builds upon: by value as text, as far as entries know it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Tables;
use crate::entry::{Effect, Entry, EntryTable, Seq, TableName, Value};
use crate::replay::steps::MainTable;

/// Names of columns, or their values.
type Texts = Vec<Arc<str>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Thing {
    /// A row by its key, existing or not.
    Row(TableName, Vec<Value>),
    /// Values under a unique index, taken or freed.
    Unique(TableName, Texts, Texts),
    /// Values of a parent that something stopped referring to.
    Unreferred(TableName, Texts, Texts),
    /// Any row of a table: what a TRUNCATE would take with it.
    Written(TableName),
    /// All rows that a table had, by TRUNCATE.
    Emptied(TableName),
    /// Any row of a table: all that referred to it may have been truncated.
    Released(TableName),
    /// So many rows of a table that they are not kept one by one, nor their unique values.
    Many(TableName),
    /// So many rows of a parent that something stopped referring to.
    ManyUnreferred(TableName),
}

impl Thing {
    pub(super) fn table(&self) -> &TableName {
        match self {
            Thing::Row(table, _) | Thing::Unique(table, ..) | Thing::Unreferred(table, ..) => table,
            Thing::Written(table) | Thing::Emptied(table) | Thing::Released(table) => table,
            Thing::Many(table) | Thing::ManyUnreferred(table) => table,
        }
    }

    pub(super) fn named(&self, holder: Seq) -> String {
        let listed = |values: &[Arc<str>]| values.join(", ");
        match self {
            Thing::Row(table, key) => {
                let key: Vec<&str> = key.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
                format!("the row ({}) of {table}, which entry {holder}", key.join(", "))
            }
            Thing::Unique(table, columns, values) | Thing::Unreferred(table, columns, values) => {
                format!("({})=({}) of {table}, which entry {holder}", listed(columns), listed(values))
            }
            Thing::Written(table) | Thing::Emptied(table) | Thing::Released(table) => {
                format!("{table}, which entry {holder}")
            }
            Thing::Many(table) | Thing::ManyUnreferred(table) => {
                format!("rows of {table}, of which entry {holder}")
            }
        }
    }

    pub(super) fn done(&self) -> &'static str {
        match self {
            Thing::Row(..) => "wrote",
            Thing::Unique(..) => "took or freed",
            Thing::Unreferred(..) | Thing::Released(..) => "stopped referring to",
            Thing::Written(..) => "wrote",
            Thing::Emptied(..) => "truncated",
            Thing::Many(..) => "wrote more than are kept one by one",
            Thing::ManyUnreferred(..) => "stopped referring to more than are kept one by one",
        }
    }
}

/// What an entry leaves behind that others may build upon. `coarse`: not row by row.
pub(super) fn done(entry: &Entry, tables: &Tables, coarse: bool, mut leave: impl FnMut(Thing)) {
    written(entry).into_iter().for_each(|table| leave(Thing::Written(table)));
    for name in truncated(entry) {
        let references = tables.get(name).map_or(&[][..], |main| &main.references);
        references.iter().for_each(|reference| leave(Thing::Released(reference.table.clone())));
        leave(Thing::Emptied(name.clone()));
    }
    if coarse {
        written(entry).into_iter().for_each(|table| leave(Thing::Many(table)));
        for table in changed(entry, |effect| !matches!(effect, Effect::Insert { .. })) {
            let references = tables.get(&table).map_or(&[][..], |main| &main.references);
            references.iter().for_each(|reference| leave(Thing::ManyUnreferred(reference.table.clone())));
        }
        return;
    }
    rows(entry).for_each(|(table, key)| leave(Thing::Row(table, key)));
    for (name, change, main) in changes(entry, tables) {
        for columns in &main.unique {
            let (old, new) = change.of(columns);
            let both = [old, new].into_iter().flatten();
            both.for_each(|values| leave(Thing::Unique(name.clone(), columns.clone(), values)));
        }
        for reference in &main.references {
            if let (Some(old), _) = change.of(&reference.columns) {
                leave(sorted(&reference.table, &reference.referenced, old, Thing::Unreferred));
            }
        }
    }
}

/// What an entry builds upon, and how.
pub(super) fn needs<'a>(entry: &'a Entry, tables: &'a Tables) -> impl Iterator<Item = (Thing, &'static str)> + 'a {
    let upon_tables = truncated(entry).map(|table| (Thing::Written(table.clone()), "truncates"));
    let upon_tables = upon_tables.chain(written(entry).into_iter().map(|table| (Thing::Emptied(table), "writes")));
    let written = rows(entry).map(|(table, key)| (Thing::Row(table, key), "writes"));
    let others = changes(entry, tables).flat_map(|(name, change, main)| {
        let mut things = Vec::new();
        for columns in &main.unique {
            let (old, new) = change.of(columns);
            if old.is_some() {
                things.push((Thing::Released(name.clone()), "removes rows of"));
            }
            things.extend(new.map(|values| (Thing::Unique(name.clone(), columns.clone(), values), "uses")));
            things.extend(old.map(|values| (Thing::Unreferred(name.clone(), columns.clone(), values), "removes")));
        }
        for reference in &main.references {
            if let (_, Some(new)) = change.of(&reference.columns) {
                things.push((sorted(&reference.table, &reference.referenced, new, Thing::Unique), "refers to"));
            }
        }
        things
    });
    upon_tables.chain(upon_many(entry, tables)).chain(written).chain(others)
}

/// What an entry builds upon where another's rows are not known one by one.
fn upon_many<'a>(entry: &'a Entry, tables: &'a Tables) -> impl Iterator<Item = (Thing, &'static str)> + 'a {
    let own = written(entry).into_iter().map(|table| (Thing::Many(table), "writes"));
    let removing = changed(entry, |effect| !matches!(effect, Effect::Insert { .. }));
    let removed = removing.into_iter().map(|table| (Thing::ManyUnreferred(table), "removes"));
    let bringing = changed(entry, |effect| !matches!(effect, Effect::Delete { .. } | Effect::Truncate { .. }));
    let referred = bringing.into_iter().flat_map(move |table| {
        let references = tables.get(&table).map_or(&[][..], |main| &main.references);
        references.iter().map(|reference| (Thing::Many(reference.table.clone()), "refers to")).collect::<Vec<_>>()
    });
    own.chain(removed).chain(referred)
}

/// The tables that an entry truncates.
fn truncated(entry: &Entry) -> impl Iterator<Item = &TableName> {
    entry.effects.iter().filter_map(|effect| match effect {
        Effect::Truncate { table } => entry.tables.get(*table).map(|table| &table.name),
        _ => None,
    })
}

/// The tables whose rows an entry writes or truncates, each once.
fn written(entry: &Entry) -> BTreeSet<TableName> {
    changed(entry, |_| true)
}

/// The tables of those effects of which this is true, each once.
fn changed(entry: &Entry, chosen: impl Fn(&Effect) -> bool) -> BTreeSet<TableName> {
    let places = entry.effects.iter().filter(|effect| chosen(effect)).flat_map(|effect| match effect {
        Effect::Move { table, to, .. } => [Some(*table), Some(*to)],
        effect => [Some(effect.table()), None],
    });
    let places: BTreeSet<usize> = places.flatten().collect();
    places.into_iter().filter_map(|place| entry.tables.get(place)).map(|table| table.name.clone()).collect()
}

/// Column names in the order in which unique indexes are kept.
fn sorted(
    table: &TableName,
    columns: &[Arc<str>],
    values: Texts,
    thing: impl Fn(TableName, Texts, Texts) -> Thing,
) -> Thing {
    let mut pairs: Vec<(Arc<str>, Arc<str>)> = columns.iter().cloned().zip(values).collect();
    pairs.sort();
    let (columns, values) = pairs.into_iter().unzip();
    thing(table.clone(), columns, values)
}

/// The rows that an entry writes, by table and key: before and after, when the key changes.
fn rows(entry: &Entry) -> impl Iterator<Item = (TableName, Vec<Value>)> + '_ {
    entry.effects.iter().flat_map(|effect| {
        let Some(table) = entry.tables.get(effect.table()) else { return Vec::new() };
        let key_of = |row: &[Value]| table.key.iter().filter_map(|&place| row.get(place).cloned()).collect();
        if let Effect::Move { key, to, row, .. } = effect
            && let Some(to) = entry.tables.get(*to)
        {
            let new = to.key.iter().filter_map(|&place| row.get(place).cloned()).collect();
            return vec![(table.name.clone(), key.clone()), (to.name.clone(), new)];
        }
        let keys: Vec<Vec<Value>> = match effect {
            Effect::Insert { row, .. } => vec![key_of(row)],
            Effect::Update { key, row, .. } => {
                row.iter().map(|row| key_of(row)).chain(std::iter::once(key.clone())).collect()
            }
            Effect::Move { key, .. } | Effect::Delete { key, .. } => vec![key.clone()],
            Effect::Truncate { .. } => Vec::new(),
        };
        let keyed = keys.into_iter().filter(|key| !key.is_empty());
        keyed.map(|key| (table.name.clone(), key)).collect::<Vec<_>>()
    })
}

/// What is known of a row before and after an effect.
struct Change<'a> {
    table: &'a EntryTable,
    old: HashMap<usize, &'a Value>,
    new: HashMap<usize, &'a Value>,
}

fn changes<'a>(
    entry: &'a Entry,
    tables: &'a Tables,
) -> impl Iterator<Item = (&'a TableName, Change<'a>, &'a MainTable)> + 'a {
    let known = |place: usize, change: &dyn Fn(&'a EntryTable) -> Change<'a>| {
        let table = entry.tables.get(place)?;
        Some((&table.name, change(table), &**tables.get(&table.name)?))
    };
    let of_effect = move |effect: &'a Effect| {
        let first = known(effect.table(), &|table| Change::of_effect(table, effect));
        let arrival = match effect {
            Effect::Move { to, row, .. } => known(*to, &|table| Change::arrival(table, row)),
            _ => None,
        };
        [first, arrival]
    };
    entry.effects.iter().flat_map(of_effect).flatten()
}

impl<'a> Change<'a> {
    fn of_effect(table: &'a EntryTable, effect: &'a Effect) -> Change<'a> {
        let whole = |row: &'a [Value]| row.iter().enumerate().collect::<HashMap<_, _>>();
        let by_key = |key: &'a [Value]| table.key.iter().copied().zip(key).collect::<HashMap<_, _>>();
        let listed = |values: &'a [(usize, Value)]| values.iter().map(|(place, value)| (*place, value));
        let (old, new) = match effect {
            Effect::Truncate { .. } => (HashMap::new(), HashMap::new()),
            Effect::Insert { row, .. } => (HashMap::new(), whole(row)),
            Effect::Delete { key, old, .. } => {
                let mut known = whole(old);
                known.extend(by_key(key));
                (known, HashMap::new())
            }
            Effect::Update { key, set, old: before, row, .. } => {
                let mut old = by_key(key);
                old.extend(listed(before));
                let mut new = row.as_deref().map_or_else(|| by_key(key), whole);
                new.extend(listed(set));
                (old, new)
            }
            // It goes away here, and comes to another table.
            Effect::Move { key, old: before, .. } => {
                let mut old = by_key(key);
                old.extend(listed(before));
                (old, HashMap::new())
            }
        };
        Change { table, old, new }
    }

    /// The row that a move brings to this table.
    fn arrival(table: &'a EntryTable, row: &'a [Value]) -> Change<'a> {
        Change { table, old: HashMap::new(), new: row.iter().enumerate().collect() }
    }

    /// Old and new values of these columns, where the effect changes them; not what is unknown or has a NULL.
    fn of(&self, columns: &[Arc<str>]) -> (Option<Texts>, Option<Texts>) {
        let place = |name: &Arc<str>| self.table.columns.iter().position(|column| column.name == *name);
        let places: Option<Vec<usize>> = columns.iter().map(place).collect();
        let Some(places) = places.filter(|places| !places.is_empty()) else { return (None, None) };
        let values = |known: &HashMap<usize, &'a Value>| -> Option<Texts> {
            places.iter().map(|place| (*known.get(place)?).clone()).collect()
        };
        let (old, new) = (values(&self.old), values(&self.new));
        if old == new { (None, None) } else { (old, new) }
    }
}
