//! Effects as SQL: a quarantined entry for a person who wants to run it on main by hand, or parts of it; the work of a
//! transaction that has to go on there. Pure.

use std::fmt::Write;
use std::ops::Range;

use super::steps::{DEFER, bare_type, own_rows, relation};
use crate::buffer::Quarantined;
use crate::catalog::{Catalog, RelationKind};
use crate::entry::{Effect, EntryTable, Value};
use crate::setup::identifier;

/// One transaction, with the story of the entry as comments. `catalog` tells which columns are generated.
pub fn export(record: &Quarantined, catalog: &Catalog) -> String {
    let entry = &record.entry;
    let mut sql = String::new();
    let message = record.error.get("message").and_then(|text| text.as_str()).unwrap_or_default();
    let code = record.error.get("code").and_then(|text| text.as_str()).unwrap_or_default();
    comment(&mut sql, &format!("Entry {} ({}), committed at the site {}", record.seq, entry.uuid, entry.created_at));
    comment(&mut sql, &format!("In quarantine: {code} {message}"));
    for statement in &entry.statements {
        comment(&mut sql, &format!("The client sent: {statement}"));
    }
    comment(&mut sql, &format!("After running this on main give the entry up at the site: SKIP {}", record.seq));
    sql.push_str("BEGIN;\n");
    let _ = writeln!(sql, "{CANONICAL}");
    let _ = writeln!(sql, "{DEFER};\nSET LOCAL ROLE {};", identifier(&entry.role));
    // Checks that are still to come would be in the way of TRUNCATE.
    let around = ("SET CONSTRAINTS ALL IMMEDIATE;\n", format!("\n{DEFER};"));
    for (place, effect) in entry.effects.iter().enumerate() {
        let Some(table) = entry.tables.get(effect.table()) else { continue };
        if entry.actions.contains(&place) {
            comment(&mut sql, &format!("by a foreign key of main: {}", statement(table, effect, catalog)));
        } else if let Effect::Truncate { .. } = effect {
            if let Some(truncate) = truncate(&entry.tables, &entry.effects, place) {
                let _ = writeln!(sql, "{}{truncate};{}", around.0, around.1);
            }
        } else {
            let _ = writeln!(sql, "{};", statement(table, effect, catalog));
        }
    }
    sql.push_str("COMMIT;\n");
    sql
}

/// How main must read the texts of values.
pub const CANONICAL: &str = "SET LOCAL datestyle = 'ISO, MDY'; SET LOCAL intervalstyle = 'postgres'; \
    SET LOCAL timezone = 'UTC'; SET LOCAL lc_monetary = 'C';";

/// What these places of a transaction's effects do, one statement each; those of main's own foreign keys left out.
pub fn effects(
    places: Range<usize>,
    tables: &[EntryTable],
    effects: &[Effect],
    actions: &[usize],
    catalog: &Catalog,
) -> String {
    let mut sql = String::new();
    for place in places.filter(|place| !actions.contains(place)) {
        let effect = &effects[place];
        let text = match effect {
            Effect::Truncate { .. } => truncate(tables, effects, place),
            _ => tables.get(effect.table()).map(|table| statement(table, effect, catalog)),
        };
        let _ = text.map(|text| write!(sql, "{text}; "));
    }
    sql
}

/// Tables that were truncated one after the other may refer to each other: they go at once, with the last of them.
fn truncate(tables: &[EntryTable], effects: &[Effect], last: usize) -> Option<String> {
    let is_truncate = |effect: &&Effect| matches!(effect, Effect::Truncate { .. });
    if effects.get(last + 1).as_ref().is_some_and(is_truncate) {
        return None;
    }
    let run = effects[..=last].iter().rev().take_while(is_truncate);
    let mut named: Vec<String> =
        run.filter_map(|effect| tables.get(effect.table())).map(|table| format!("ONLY {}", relation(table))).collect();
    named.reverse();
    Some(format!("TRUNCATE {}", named.join(", ")))
}

fn comment(sql: &mut String, text: &str) {
    for line in text.split(['\n', '\r']) {
        let _ = writeln!(sql, "-- {line}");
    }
}

fn statement(table: &EntryTable, effect: &Effect, catalog: &Catalog) -> String {
    let known = catalog.named(&table.name);
    let generated =
        |place: usize| known.and_then(|known| known.column(&table.columns[place].name)).is_some_and(|c| c.generated);
    let name = |place: usize| identifier(&table.columns[place].name);
    let text = |place: usize, value: &Value| literal(value, &table.columns[place].type_name);
    let by_key = |key: &[Value]| {
        let equal = |(&place, value): (&usize, &Value)| format!("{} = {}", name(place), text(place, value));
        table.key.iter().zip(key).map(equal).collect::<Vec<_>>().join(" AND ")
    };
    // Other rows of the same keys may be in the tables that inherit from it.
    let inherited = known.is_some_and(|known| known.kind == RelationKind::Table && !known.children.is_empty());
    let own_rows = own_rows(table, inherited);
    match effect {
        Effect::Insert { row, .. } => {
            let kept: Vec<usize> = (0..row.len()).filter(|&place| !generated(place)).collect();
            let names: Vec<String> = kept.iter().map(|&place| name(place)).collect();
            let values: Vec<String> = kept.iter().map(|&place| text(place, &row[place])).collect();
            if names.is_empty() {
                return format!("INSERT INTO {} DEFAULT VALUES", relation(table));
            }
            let (names, values) = (names.join(", "), values.join(", "));
            format!("INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE VALUES ({values})", relation(table))
        }
        Effect::Update { key, set, .. } | Effect::Move { key, set, .. } => {
            let own = match effect {
                Effect::Update { own, .. } => own.as_slice(),
                _ => &[],
            };
            let set = set.iter().filter(|(place, _)| !generated(*place));
            let set = set.map(|(place, value)| {
                let value = match own.iter().find(|own| own.column == *place) {
                    Some(own) => own.expression.sql(&name, &mut |kind, text| literal(&Some(text.into()), kind)),
                    None => text(*place, value),
                };
                format!("{} = {value}", name(*place))
            });
            let set: Vec<String> = set.collect();
            if set.is_empty() {
                // Only generated columns changed, which main computes.
                return format!("SELECT FROM {own_rows} WHERE {}", by_key(key));
            }
            format!("UPDATE {own_rows} SET {} WHERE {}", set.join(", "), by_key(key))
        }
        Effect::Delete { key, .. } => format!("DELETE FROM {own_rows} WHERE {}", by_key(key)),
        Effect::Truncate { .. } => format!("TRUNCATE ONLY {}", relation(table)),
    }
}

fn literal(value: &Value, type_name: &str) -> String {
    match value {
        Some(text) => {
            // However main reads backslashes.
            let escape = if text.contains('\\') { "E" } else { "" };
            let text = text.replace('\'', "''").replace('\\', "\\\\");
            format!("{escape}'{text}'::{}", bare_type(type_name))
        }
        None => "NULL".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{EntryColumn, TableName};

    #[test]
    fn what_main_computes_alone_is_left_to_it() {
        let table = EntryTable {
            name: TableName { schema: "s".into(), name: "t".into() },
            columns: vec![EntryColumn { name: "id".into(), type_name: "integer".into(), shape: None }],
            via: None,
            key: vec![0],
            fingerprint: 0,
            origin: None,
        };
        let told = |effect: Effect| statement(&table, &effect, &Catalog::default());
        assert_eq!(told(Effect::Insert { table: 0, row: Vec::new() }), r#"INSERT INTO "s"."t" DEFAULT VALUES"#);
        let key = vec![Some("1".into())];
        let update = Effect::Update { table: 0, key, set: Vec::new(), old: Vec::new(), row: None, own: Vec::new() };
        assert_eq!(told(update), r#"SELECT FROM "s"."t" WHERE "id" = '1'::integer"#);
    }
}
