//! What quarantined entries have written, freed and stopped referring to: main does not have it as later entries expect.
//!
//! An entry that builds upon any of it waits with them: sent on, its update would find nothing or its row would be refused
//! for a reason that is not its own. Judged on what entries know, by value as text; what they do not know (columns of
//! a composite key that an update does not mention, expression indexes) is left to main, which refuses it then.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::steps::MainTable;
use crate::buffer::{Fate, Quarantined};
use crate::entry::{Effect, Entry, EntryTable, Origin, Seq, TableName, Value};

/// What is known of main's tables.
pub(super) type Tables = HashMap<TableName, Arc<MainTable>>;

/// Names of columns, or their values.
type Texts = Vec<Arc<str>>;

/// Who holds what.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<Thing, Vec<Holder>>);

/// A reason to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) holder: Seq,
    /// The holder is being sent again, behind the entry that waits.
    pub(super) retrying: bool,
    pub(super) why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Thing {
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    seq: Seq,
    place: Seq,
    /// The entry's tables: a later one may have the name of one that was dropped.
    origins: Arc<HashMap<TableName, Origin>>,
    /// Entries from here on find it done: it is being sent again as this entry.
    until: Option<Seq>,
    retrying: bool,
}

impl Held {
    /// Holds what a quarantined entry did.
    pub(super) fn add(&mut self, record: &Quarantined, tables: &Tables) {
        let (until, retrying) = match record.fate {
            Fate::Retrying { seq, .. } => (seq, true),
            Fate::Waiting | Fate::Retried { .. } | Fate::Skipped => (None, false),
        };
        let origins = record.entry.tables.iter().filter_map(|table| Some((table.name.clone(), table.origin.clone()?)));
        let origins = Arc::new(origins.collect());
        let holder = Holder { seq: record.seq, place: record.entry.place(), origins, until, retrying };
        for thing in done(&record.entry, tables) {
            let holders = self.0.entry(thing).or_default();
            // Whoever has to wait for this one waits for that one already.
            let covered = |other: &Holder| {
                other.until.is_none() && other.place <= holder.place && other.origins == holder.origins
            };
            if !holders.iter().any(covered) {
                holders.push(holder.clone());
            }
        }
    }

    /// Whether the entry has to wait, and why.
    pub(super) fn waits(&self, entry: &Entry, tables: &Tables) -> Option<Waits> {
        if self.0.is_empty() {
            return None;
        }
        let place = entry.place();
        needs(entry, tables).find_map(|(thing, how)| {
            let before = |holder: &&Holder| {
                holder.place < place
                    && holder.until.is_none_or(|until| entry.seq < until)
                    && !holder.is_about_another(thing.table(), entry)
            };
            let holder = self.0.get(&thing)?.iter().find(before)?;
            let why = format!("it {how} {}, in quarantine, {}", thing.named(holder.seq), thing.done());
            Some(Waits { holder: holder.seq, retrying: holder.retrying, why })
        })
    }
}

impl Holder {
    /// Whether the entry's table of this name was made after the holder's had been dropped.
    fn is_about_another(&self, name: &TableName, entry: &Entry) -> bool {
        let of_entry = entry.tables.iter().find(|table| table.name == *name).and_then(|table| table.origin.as_ref());
        let both = self.origins.get(name).zip(of_entry);
        both.is_some_and(|(ours, theirs)| ours.cluster == theirs.cluster && ours.table != theirs.table)
    }
}

impl Thing {
    fn table(&self) -> &TableName {
        match self {
            Thing::Row(table, _) | Thing::Unique(table, ..) | Thing::Unreferred(table, ..) => table,
            Thing::Written(table) | Thing::Emptied(table) | Thing::Released(table) => table,
        }
    }

    fn named(&self, holder: Seq) -> String {
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
        }
    }

    fn done(&self) -> &'static str {
        match self {
            Thing::Row(..) => "wrote",
            Thing::Unique(..) => "took or freed",
            Thing::Unreferred(..) | Thing::Released(..) => "stopped referring to",
            Thing::Written(..) => "wrote",
            Thing::Emptied(..) => "truncated",
        }
    }
}

/// What an entry leaves behind that others may build upon.
fn done(entry: &Entry, tables: &Tables) -> Vec<Thing> {
    let mut things: Vec<Thing> = rows(entry).map(|(table, key)| Thing::Row(table, key)).collect();
    things.extend(written(entry).into_iter().map(Thing::Written));
    for name in truncated(entry) {
        let references = tables.get(name).map_or(&[][..], |main| &main.references);
        things.extend(references.iter().map(|reference| Thing::Released(reference.table.clone())));
        things.push(Thing::Emptied(name.clone()));
    }
    for (name, change, main) in changes(entry, tables) {
        for columns in &main.unique {
            let (old, new) = change.of(columns);
            let both = [old, new].into_iter().flatten();
            things.extend(both.map(|values| Thing::Unique(name.clone(), columns.clone(), values)));
        }
        for reference in &main.references {
            if let (Some(old), _) = change.of(&reference.columns) {
                things.push(sorted(&reference.table, &reference.referenced, old, Thing::Unreferred));
            }
        }
    }
    things
}

/// What an entry builds upon, and how.
fn needs<'a>(entry: &'a Entry, tables: &'a Tables) -> impl Iterator<Item = (Thing, &'static str)> + 'a {
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
    upon_tables.chain(written).chain(others)
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
    let places = entry.effects.iter().flat_map(|effect| match effect {
        Effect::Move { table, to, .. } => [Some(*table), Some(*to)],
        effect => [Some(effect.table()), None],
    });
    places.flatten().filter_map(|place| entry.tables.get(place)).map(|table| table.name.clone()).collect()
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
    pub(super) fn of_effect(table: &'a EntryTable, effect: &'a Effect) -> Change<'a> {
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
