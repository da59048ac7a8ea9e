//! Two statements about one thing, of two sessions: mostly the second has to wait.

use super::dice::Dice;
use super::expression::{Scope, condition};
use super::schema::Table;
use super::write::{id, target};

/// A name by which the table's rows may be written.
fn name(dice: &mut Dice, table: &Table) -> String {
    let mut names = vec![&table.name, &table.name];
    if !table.through.is_empty() {
        names.extend([&table.through; 2]);
    }
    names.extend(&table.family);
    (*dice.one(&names)).clone()
}

/// The condition that tells one row of the table.
fn row(dice: &mut Dice, table: &Table, id: &str) -> String {
    let others = table.key.iter().filter(|place| **place != 0).map(|place| {
        let column = &table.columns[*place];
        format!(" AND {} = {}", column.name, column.kind.literal(dice))
    });
    format!("id = {id}{}", others.collect::<String>())
}

/// A write of one row, and what another session does about it meanwhile.
pub fn about_one_row(dice: &mut Dice, tables: &[Table]) -> Option<(String, String)> {
    let table = target(dice, tables);
    let id = id(dice, table, 4);
    // Not all tables by whose names it is written have the last one.
    let shared = table.columns.len() - usize::from(!table.family.is_empty() && !table.is_partitioned);
    let places = table.writable().into_iter().filter(|place| *place != 0 && !table.is_unique(*place));
    let places: Vec<_> = places.filter(|place| *place < shared).collect();
    if places.is_empty() {
        return None;
    }
    let row = row(dice, table, &id);
    let mut own = Scope::of("t", table, tables);
    // Its own columns only: what else a statement looks at is not looked at again after it has waited.
    (own.tables, own.columns) = (&[], own.columns[..shared].to_vec());
    let one = |dice: &mut Dice| {
        let name = name(dice, table);
        let column = &table.columns[*dice.one(&places)];
        match dice.below(6) {
            0 => format!("DELETE FROM {name} WHERE {row}"),
            // Rows of tables with others below them are not locked at the site.
            1 if !table.is_inherited && !table.is_partitioned => {
                format!("SELECT * FROM {name} WHERE {row} FOR {}", dice.one(&["UPDATE", "SHARE", "KEY SHARE"]))
            }
            2 => format!(
                "UPDATE {name} t SET {} = {} WHERE {row} AND {}",
                column.name,
                column.kind.literal(dice),
                condition(dice, &own, 0)
            ),
            _ => format!("UPDATE {name} SET {} = {} WHERE {row} RETURNING *", column.name, column.kind.literal(dice)),
        }
    };
    Some((one(dice), one(dice)))
}

/// A write of a row that refers to another one, and one of that: in either order.
pub fn about_linked_rows(dice: &mut Dice, tables: &[Table]) -> Option<(String, String)> {
    let simple = |table: &&Table| table.references.iter().any(|reference| reference.columns.len() == 1);
    let fit: Vec<&Table> = tables.iter().filter(|table| !table.is_view && !table.is_inherited).filter(simple).collect();
    if fit.is_empty() {
        return None;
    }
    let child = *dice.one(&fit);
    let reference = child.references.iter().find(|reference| reference.columns.len() == 1)?;
    let parent = &tables[reference.table];
    let column = &child.columns[reference.columns[0]].name;
    let id = dice.between(0, 4);
    let (of_child, of_parent) = (name(dice, child), name(dice, parent));
    let own = dice.between(0, 9);
    let first = match dice.below(4) {
        0 => format!("UPDATE {of_child} SET {column} = NULL WHERE id = {own}"),
        1 => format!("DELETE FROM {of_child} WHERE id = {own}"),
        _ => format!("UPDATE {of_child} SET {column} = {id} WHERE id = {own}"),
    };
    let second = match dice.below(4) {
        0 => format!("DELETE FROM {of_parent}"),
        1 => format!("UPDATE {of_parent} SET id = {} WHERE id = {id}", dice.between(0, 12)),
        _ => format!("DELETE FROM {of_parent} WHERE id = {id}"),
    };
    Some(if dice.chance(50) { (first, second) } else { (second, first) })
}
