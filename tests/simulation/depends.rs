//! Foreign keys of the simulated tables, and which entry builds upon which, told from effects alone.

use std::collections::BTreeSet;

use pgoutpost::entry::{Effect, Entry, Value};

use crate::main_db::{Key, PARENT, REFERENCE, REFERRING, Rows, TABLES, Text};
use crate::oracle::key_of;

/// The parent that a row of this table refers to.
pub fn parent(table: usize, reference: &Value) -> Option<Key> {
    let id = reference.as_ref().filter(|_| table == REFERRING)?;
    Some(Key(TABLES[PARENT].into(), id.clone()))
}

/// Whether a row refers to this one.
pub fn is_referred_to(rows: &Rows, key: &Key) -> bool {
    let of_child = |(child, _): &(&Key, _)| &*child.0 == TABLES[REFERRING];
    &*key.0 == TABLES[PARENT] && rows.iter().filter(of_child).any(|(_, row)| row[REFERENCE].as_ref() == Some(&key.1))
}

/// What an entry does, as far as others may build upon it.
#[derive(Default)]
struct Deeds {
    rows: BTreeSet<Key>,
    tables: BTreeSet<usize>,
    truncated: BTreeSet<usize>,
    /// Parents that came or went.
    parents: BTreeSet<Key>,
    referred: BTreeSet<Key>,
    /// Parents that it stopped referring to.
    left: BTreeSet<Key>,
    removed: BTreeSet<Key>,
}

fn deeds(entry: &Entry) -> Deeds {
    let mut deeds = Deeds::default();
    for effect in &entry.effects {
        deeds.tables.insert(effect.table());
        let (table, old, new) = match effect {
            Effect::Truncate { table } => {
                deeds.truncated.insert(*table);
                continue;
            }
            Effect::Insert { table, row } => (*table, None, Some(key_of(*table, row))),
            Effect::Update { table, key, row, .. } => {
                let old = key_of(*table, key);
                (*table, Some(old.clone()), Some(row.as_ref().map_or(old, |row| key_of(*table, row))))
            }
            Effect::Delete { table, key, .. } => (*table, Some(key_of(*table, key)), None),
            Effect::Move { .. } => unreachable!("not simulated"),
        };
        if old != new && table == PARENT {
            deeds.parents.extend(old.iter().chain(&new).cloned());
            deeds.removed.extend(old.clone());
        }
        deeds.rows.extend(old.into_iter().chain(new));
        let (left, referred) = references(effect);
        if left != referred {
            deeds.left.extend(left.and_then(|value| parent(table, &value)));
            deeds.referred.extend(referred.and_then(|value| parent(table, &value)));
        }
    }
    deeds
}

/// What an effect's row referred to before, and refers to afterwards, where that is known.
pub fn references(effect: &Effect) -> (Option<Value>, Option<Value>) {
    let listed = |values: &[(usize, Value)]| {
        values.iter().find(|(place, _)| *place == REFERENCE).map(|(_, value)| value.clone())
    };
    match effect {
        Effect::Insert { row, .. } => (None, Some(row[REFERENCE].clone())),
        Effect::Update { set, old, .. } => (listed(old), listed(set)),
        Effect::Delete { old, .. } => (Some(old[REFERENCE].clone()), None),
        Effect::Move { .. } | Effect::Truncate { .. } => (None, None),
    }
}

/// The parents to which an entry's rows refer now.
pub fn referred(entry: &Entry) -> BTreeSet<Key> {
    deeds(entry).referred
}

/// Why the later one cannot be applied as its client meant it while the earlier one is not.
pub fn builds_upon(later: &Entry, earlier: &Entry) -> Option<String> {
    let (later, earlier) = (deeds(later), deeds(earlier));
    let both = |what: &str, one: &BTreeSet<Key>, other: &BTreeSet<Key>| {
        one.intersection(other).next().map(|key| format!("{what} {key:?}"))
    };
    let table = |what: &str, one: &BTreeSet<usize>, other: &BTreeSet<usize>| {
        one.intersection(other).next().map(|table| format!("{what} {}", TABLES[*table]))
    };
    both("writes", &later.rows, &earlier.rows)
        .or_else(|| both("refers to", &later.referred, &earlier.parents))
        .or_else(|| both("removes", &later.removed, &earlier.left))
        .or_else(|| table("truncates", &later.truncated, &earlier.tables))
        .or_else(|| table("writes", &later.tables, &earlier.truncated))
}

/// Whether a column refers to another table.
pub fn is_reference(table: &Text, column: usize) -> bool {
    &**table == TABLES[REFERRING] && column == REFERENCE
}
