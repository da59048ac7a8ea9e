//! Statements that insert rows or change those that are there.

use super::Features;
use super::dice::Dice;
use super::expression::{Scope, condition};
use super::schema::Table;
use super::write::{Write, assignments, delete, insert, insert_into, named, returning, update, value};

pub fn on_conflict(dice: &mut Dice, features: &Features, table: &Table, tables: &[Table]) -> Write {
    if table.has_exclusion {
        // Not buffered.
        return insert(dice, features, table, tables);
    }
    let rows = 1 + dice.below(3);
    let mut sql = insert_into(dice, table, tables, rows);
    let target = match () {
        () if features.arbiters && !table.arbiters.is_empty() && dice.chance(30) => dice.one(&table.arbiters).clone(),
        () if table.unique.is_empty() || dice.chance(60) => format!("({})", table.names(&table.key)),
        () => format!("({})", table.names(&dice.one(&table.unique).clone())),
    };
    let target = format!(" ON CONFLICT {target}");
    if dice.chance(40) {
        sql += if dice.chance(40) && !table.has_deferrable { " ON CONFLICT" } else { &target };
        sql += " DO NOTHING";
    } else {
        let scope = Scope::of("t", table, tables).and(&Scope::of("excluded", table, tables));
        let Some(set) = assignments(dice, table, &scope) else { return insert(dice, features, table, tables) };
        sql += &format!("{target} DO UPDATE SET {set}");
        if dice.chance(30) {
            sql += &format!(" WHERE {}", condition(dice, &scope, 1));
        }
    }
    Write::in_order(sql + &returning(dice, table, tables), rows)
}

pub fn merge(dice: &mut Dice, features: &Features, table: &Table, tables: &[Table]) -> Write {
    if table.is_partitioned || table.is_inherited {
        return update(dice, features, table, tables);
    }
    let source = dice.one(tables);
    let own = Scope::of("t", table, tables);
    let theirs = Scope::of("s", source, tables);
    let both = own.clone().and(&theirs);
    let Some(set) = assignments(dice, table, &both) else { return delete(dice, features, table, tables) };
    let places: Vec<_> = named(dice, table);
    let values: Vec<_> = places.iter().map(|place| value(dice, table, *place, tables)).collect();
    let mut whens = Vec::new();
    if features.arbiters && dice.chance(25) {
        whens.push(format!("WHEN MATCHED AND {} THEN DO NOTHING", condition(dice, &both, 0)));
    }
    whens.push(format!("WHEN MATCHED AND {} THEN UPDATE SET {set}", condition(dice, &both, 1)));
    if dice.chance(40) {
        whens.push("WHEN MATCHED THEN DELETE".to_owned());
    }
    if dice.chance(50) {
        let (columns, values) = (table.names(&places), values.join(", "));
        whens.push(format!("WHEN NOT MATCHED AND s.id > 3 THEN INSERT ({columns}) VALUES ({values})"));
    }
    let sql = format!("MERGE INTO {} AS t USING {} s ON t.id = s.id {}", table.name, source.name, whens.join(" "));
    Write::in_any_order(sql)
}
