//! What locks stand for: hashes of rows, of unique values, and of the keys that others may refer to.

use super::super::merge::{key_columns, list};
use super::super::syntax::IS_GIVEN;
use crate::catalog::{AttNum, Column, IndexItem, Table, UniqueIndex};

/// A hash that stands for the row with this key.
pub(in super::super) fn row(table: &Table, key: Vec<String>) -> String {
    // By the index: a partition and the table above it, if their keys are one, mean the same row. Tables that inherit have indexes
    // of their own.
    let index = table.unique.iter().find(|index| index.predicate.is_none() && by_key(table, &index.items));
    let index = index.map(|index| index.root).filter(|_| table.kin.is_none());
    let salt = i64::from(index.unwrap_or(table.kin.unwrap_or(table.id).0)) << 8;
    hash(key_columns(table).into_iter().map(is_hashed), key, salt)
}

/// Whether these are the columns of the table's key, in its order.
pub(super) fn by_key(table: &Table, items: &[IndexItem]) -> bool {
    items.len() == table.key.len()
        && items.iter().zip(&table.key).all(|(item, key)| matches!(item, IndexItem::Column(of) if of == key))
}

/// The sets of columns by which a row is referred to: its key, and what foreign keys lead to. Each in the table's order.
pub(in super::super) fn key_sets(table: &Table) -> Vec<Vec<AttNum>> {
    let mut sets: Vec<Vec<AttNum>> = Vec::new();
    let referenced = table.referenced_by.iter().map(|key| &key.referenced_columns);
    for set in std::iter::once(&table.key).chain(referenced) {
        let mut columns = set.clone();
        columns.sort();
        if !columns.is_empty() && !sets.contains(&columns) {
            sets.push(columns);
        }
    }
    sets
}

/// A hash that stands for "a row with these values is there to refer to"; NULL when a value is. Both sides of a foreign
/// key come to the same one: columns in the table's order, values as the parent's types.
pub(in super::super) fn existence(parent: &Table, columns: &[AttNum], values: &[&str]) -> String {
    let columns = columns.iter().filter_map(|attnum| parent.attribute(*attnum));
    let mut pairs: Vec<(&Column, &str)> = columns.zip(values.iter().copied()).collect();
    // By name: a partition may number its columns in another way.
    pairs.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    let typed = pairs.iter().map(|(column, value)| format!("({value})::{}", column.base_type_name));
    // Apart from the row's own locks, so that referring to a row and changing its other columns do not wait.
    let names = pairs.iter().flat_map(|(column, _)| column.name.bytes());
    let salt = (i64::from(parent.kin.unwrap_or(parent.root).0) << 8)
        + 0x80
        + names.fold(0, |sum, byte| (sum * 31 + i64::from(byte)) & 0x7f);
    let given = list(pairs.iter().map(|(_, value)| format!("{value} {IS_GIVEN}"))).replace(", ", " AND ");
    let hashed = pairs.iter().map(|(column, _)| is_hashed(column));
    format!("CASE WHEN {given} THEN {} END", hash(hashed, typed.collect(), salt))
}

/// Stands for every value of a type whose equality we cannot hash for certain (citext, odd collations, arrays …): such
/// values exclude each other, which is slow but never wrong.
const ALIKE: &str = "0";

/// Whether a collation may find different texts equal. Those that come with Postgres do not.
pub(super) fn is_odd(collation: Option<&str>) -> bool {
    collation.is_some_and(|name| !name.starts_with("pg_catalog.") && !name.starts_with("\"pg_catalog\"."))
}

/// Types whose equal values have equal hashes.
const HASHED: [u32; 24] = [
    16, 17, 18, 19, 20, 21, 23, 25, 26, 650, 700, 701, 829, 869, 1042, 1043, 1082, 1083, 1114, 1184, 1186, 1266, 1700,
    2950,
];

fn is_hashed(column: &Column) -> bool {
    let by_itself = column.is_enum || HASHED.contains(&column.base_type_oid);
    by_itself && !column.is_array && !is_odd(column.collation.as_deref())
}

/// A hash that stands for the values of an index's items.
pub(super) fn of_items(table: &Table, index: &UniqueIndex, items: Vec<String>, salt: i64) -> String {
    let hashed = index.items.iter().map(|item| match item {
        IndexItem::Column(attnum) => table.attribute(*attnum).is_some_and(is_hashed),
        // Not by its text: that of a number, or of a time under other settings, is not the same for equal values.
        IndexItem::Expression { type_oid, is_odd, .. } => HASHED.contains(type_oid) && !is_odd,
    });
    hash(hashed, items, salt)
}

/// A hash of the values, as `bigint`: equal values have equal hashes. `hashed`: whether that can be had of each.
fn hash(hashed: impl Iterator<Item = bool>, values: Vec<String>, salt: i64) -> String {
    let items = hashed.zip(values).map(|(hashed, value)| if hashed { value } else { ALIKE.to_owned() });
    format!("pg_catalog.hash_record_extended(ROW({}), {salt})", list(items))
}
