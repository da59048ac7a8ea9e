//! Entries in the numbers of a catalog, as they are folded into an overlay.
//!
//! Tables and columns are found as replay finds them on main: by their numbers where those mean something (the entry was
//! made in a copy of this cluster), so that one which was renamed is the same and one which was dropped and made again is
//! not; else by their names.

use std::sync::Arc;

use super::Change;
use super::definition::{DefinedColumn, Definition};
use super::row::RowId;
use crate::catalog::{AttNum, Catalog, RelationKind, Table, TableId};
use crate::entry::{Effect, Entry, EntryTable, Origin, Seq, TableName, Terms, Value};

/// An entry's effects in the numbers of this catalog, and the tables it does not know (dropped since, or not
/// replicated yet): their effects cannot be shown.
pub fn bind(entry: &Entry, catalog: &Catalog) -> (Vec<(TableId, Change)>, Vec<TableName>) {
    let tables: Vec<Option<Bound<'_>>> =
        (0..entry.tables.len()).map(|place| Bound::new(entry, place, catalog)).collect();
    let mut changes = Vec::with_capacity(entry.effects.len() + tables.len());
    for bound in tables.iter().flatten() {
        changes.push((
            bound.table.id,
            Change::Defined { definition: Arc::clone(&bound.definition), rekeys: bound.rekeys },
        ));
    }
    for (number, effect) in entry.effects.iter().enumerate() {
        let at = (entry.seq, u32::try_from(number).unwrap_or(u32::MAX));
        let mut push = |place: usize, change: &dyn Fn(&Bound<'_>) -> Change| {
            if let Some(bound) = &tables[place] {
                changes.push((bound.table.id, change(bound)));
            }
        };
        match effect {
            Effect::Insert { table, row } => push(*table, &|bound| bound.insert(row, at)),
            Effect::Delete { table, key, .. } => push(*table, &|bound| bound.delete(key, at)),
            Effect::Truncate { table } => push(*table, &|_| Change::Truncate),
            Effect::Update { table, key, row: Some(row), .. } => {
                push(*table, &|bound| bound.delete(key, at));
                push(*table, &|bound| bound.insert(row, at));
            }
            Effect::Move { table, key, to, row, .. } => {
                push(*table, &|bound| bound.delete(key, at));
                push(*to, &|bound| bound.insert(row, at));
            }
            Effect::Update { table, key, set, row: None, .. } => push(*table, &|bound| {
                let set = set.iter().filter_map(|(place, value)| Some((bound.attnums[*place]?, value.clone())));
                Change::Update { row: bound.by_key(key, at), set: set.collect() }
            }),
        }
    }
    let unknown = entry.tables.iter().zip(&tables).filter(|(_, bound)| bound.is_none());
    let unknown = unknown.map(|(described, _)| described.name.clone()).collect();
    (changes, unknown)
}

/// What can be shown of a quarantined entry for as long as it waits: nothing when its tables are others by now, for that
/// would keep everybody from reading them; and no TRUNCATE, which tells nothing of rows that came after it.
pub fn bind_held(entry: &Entry, catalog: &Catalog) -> Vec<(TableId, Change)> {
    let (mut changes, _) = bind(entry, catalog);
    let suits = |(table, change): &(TableId, Change)| match change {
        Change::Defined { definition, .. } => catalog.relations.get(table).is_some_and(|table| definition.suits(table)),
        Change::Insert { .. } | Change::Update { .. } | Change::Delete { .. } | Change::Truncate => true,
    };
    if !changes.iter().all(suits) {
        return Vec::new();
    }
    changes.retain(|(_, change)| *change != Change::Truncate);
    changes
}

/// A table of an entry in a catalog.
struct Bound<'a> {
    table: &'a Table,
    attnums: Vec<Option<AttNum>>,
    identity: Identity,
    definition: Arc<Definition>,
    rekeys: bool,
}

/// How rows are told apart, by what effects have of them.
enum Identity {
    /// Places in the entry's key, and in its rows.
    Key(Vec<usize>, Vec<usize>),
    /// Places in its rows: nothing is looked for by a key.
    Row(Vec<usize>),
}

impl<'a> Bound<'a> {
    fn new(entry: &Entry, place: usize, catalog: &'a Catalog) -> Option<Bound<'a>> {
        let described = &entry.tables[place];
        let same_cluster = |origin: &&Origin| entry.retry_of.is_none() && Some(origin.cluster) == catalog.cluster;
        let (table, attnums): (_, Vec<Option<AttNum>>) = match described.origin.as_ref().filter(same_cluster) {
            Some(origin) => {
                let table = catalog.relations.get(&TableId(origin.table))?;
                let attnum =
                    |place| Some(AttNum(origin.attnum(place)?)).filter(|&known| table.attribute(known).is_some());
                (table, (0..described.columns.len()).map(attnum).collect())
            }
            None => {
                let table = catalog.named(&described.name)?;
                let attnum = |name: &str| table.column(name).map(|column| column.attnum);
                (table, described.columns.iter().map(|column| attnum(&column.name)).collect())
            }
        };
        if !matches!(table.kind, RelationKind::Table | RelationKind::Partitioned) {
            return None;
        }
        let is_its = |effect: &&Effect| match effect {
            Effect::Move { table, to, .. } => *table == place || *to == place,
            other => other.table() == place,
        };
        let mut effects = entry.effects.iter().filter(is_its);
        let rekeys =
            effects.clone().any(|effect| matches!(effect, Effect::Move { .. } | Effect::Update { row: Some(_), .. }));
        let only_whole_rows = effects.all(|effect| matches!(effect, Effect::Insert { .. } | Effect::Truncate { .. }));
        let rows = || {
            entry.effects.iter().filter(is_its).filter_map(|effect| match effect {
                Effect::Insert { row, .. } => Some(&**row),
                _ => None,
            })
        };
        let own = || described.key.iter().map(|&part| attnums[part].unwrap_or(AttNum(0))).collect::<Vec<_>>();
        let (identity, key) = match present_identity(described, &attnums, table) {
            Some(identity) => (identity, table.key.clone()),
            None if only_whole_rows => match key_of_rows(&attnums, table, rows()) {
                Some(places) => (Identity::Row(places), table.key.clone()),
                None => (Identity::Key((0..described.key.len()).collect(), described.key.clone()), own()),
            },
            None => (Identity::Key((0..described.key.len()).collect(), described.key.clone()), own()),
        };
        let terms = Terms {
            same_cluster: described.origin.as_ref().is_some_and(|origin| Some(origin.cluster) == catalog.cluster),
            by_name: entry.retry_of.is_some(),
        };
        let columns = attnums.iter().zip(&described.columns);
        let columns = columns.filter_map(|(attnum, column)| {
            let attnum = (*attnum)?;
            // While its values mean the same in the present shape, that one: entries know only the labels that they have.
            let now = table.attribute(attnum).filter(|now| {
                column.shape.is_some() && now.shape.is_some() && column.typed().stands_in(now.typed(), terms)
            });
            let shape = now.map_or_else(|| column.shape.clone(), |now| now.shape.clone());
            Some(DefinedColumn { attnum, type_name: Arc::clone(&column.type_name), shape })
        });
        let definition = Definition { columns: columns.collect(), key, fingerprint: described.fingerprint };
        Some(Bound { table, attnums, identity, definition: Arc::new(definition), rekeys })
    }

    fn by_key(&self, key: &[Value], at: (Seq, u32)) -> RowId {
        match &self.identity {
            Identity::Key(places, _) => identity(places, key, at),
            Identity::Row(_) => RowId::Anonymous(at.0, at.1),
        }
    }

    fn delete(&self, key: &[Value], at: (Seq, u32)) -> Change {
        Change::Delete { row: self.by_key(key, at) }
    }

    fn insert(&self, row: &[Value], at: (Seq, u32)) -> Change {
        let (Identity::Key(_, places) | Identity::Row(places)) = &self.identity;
        let values = self.attnums.iter().zip(row).filter_map(|(attnum, value)| Some(((*attnum)?, value.clone())));
        Change::Insert { row: identity(places, row, at), values: values.collect() }
    }
}

fn identity(places: &[usize], values: &[Value], (seq, number): (Seq, u32)) -> RowId {
    let key: Option<Arc<[Arc<str>]>> = places.iter().map(|&place| values.get(place)?.clone()).collect();
    match key {
        Some(key) if !key.is_empty() => RowId::Key(key),
        Some(_) | None => RowId::Anonymous(seq, number),
    }
}

/// The table's present key within the entry's: the same columns, or some of them.
fn present_identity(described: &EntryTable, attnums: &[Option<AttNum>], table: &Table) -> Option<Identity> {
    if described.key.is_empty() && table.key.is_empty() {
        return Some(Identity::Key(Vec::new(), Vec::new()));
    }
    let place = |part: &AttNum| described.key.iter().position(|&column| attnums[column] == Some(*part));
    let places: Vec<usize> = table.key.iter().map(place).collect::<Option<_>>()?;
    let columns = places.iter().map(|&place| described.key[place]).collect();
    (!places.is_empty()).then_some(Identity::Key(places, columns))
}

/// The places of the present key in whole rows, when each of them has one; none, when the table has no key any more.
fn key_of_rows<'r>(
    attnums: &[Option<AttNum>],
    table: &Table,
    mut rows: impl Iterator<Item = &'r [Value]>,
) -> Option<Vec<usize>> {
    let place = |part: &AttNum| attnums.iter().position(|known| known == &Some(*part));
    let places: Vec<usize> = table.key.iter().map(place).collect::<Option<_>>()?;
    rows.all(|row| places.iter().all(|&place| row.get(place).is_some_and(Option::is_some))).then_some(places)
}
