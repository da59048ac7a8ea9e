//! A quarantined entry as SQL, for a person who wants to run it on main by hand, or parts of it. Pure.

use std::fmt::Write;

use super::steps::{DEFER, bare_type, relation};
use crate::buffer::Quarantined;
use crate::catalog::Catalog;
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
    for setting in [
        "standard_conforming_strings = on",
        "datestyle = 'ISO, MDY'",
        "intervalstyle = 'postgres'",
        "timezone = 'UTC'",
        "lc_monetary = 'C'",
    ] {
        let _ = writeln!(sql, "SET LOCAL {setting};");
    }
    let _ = writeln!(sql, "{DEFER};\nSET LOCAL ROLE {};", identifier(&entry.role));
    let mut truncated = Vec::new();
    for (place, effect) in entry.effects.iter().enumerate() {
        let Some(table) = entry.tables.get(effect.table()) else { continue };
        // Tables that were truncated one after the other may refer to each other: they go at once.
        if let Effect::Truncate { .. } = effect {
            truncated.push(format!("ONLY {}", relation(table)));
            if !matches!(entry.effects.get(place + 1), Some(Effect::Truncate { .. })) {
                // Checks that are still to come would be in its way.
                let tables = std::mem::take(&mut truncated).join(", ");
                let _ = writeln!(sql, "SET CONSTRAINTS ALL IMMEDIATE;\nTRUNCATE {tables};\n{DEFER};");
            }
            continue;
        }
        if entry.actions.contains(&place) {
            comment(&mut sql, &format!("by a foreign key of main: {}", statement(table, effect, catalog)));
        } else {
            let _ = writeln!(sql, "{};", statement(table, effect, catalog));
        }
    }
    sql.push_str("COMMIT;\n");
    sql
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
            let set = set.iter().filter(|(place, _)| !generated(*place));
            let set: Vec<String> =
                set.map(|(place, value)| format!("{} = {}", name(*place), text(*place, value))).collect();
            if set.is_empty() {
                // Only generated columns changed, which main computes.
                return format!("SELECT FROM {} WHERE {}", relation(table), by_key(key));
            }
            format!("UPDATE {} SET {} WHERE {}", relation(table), set.join(", "), by_key(key))
        }
        Effect::Delete { key, .. } => format!("DELETE FROM {} WHERE {}", relation(table), by_key(key)),
        Effect::Truncate { .. } => format!("TRUNCATE ONLY {}", relation(table)),
    }
}

fn literal(value: &Value, type_name: &str) -> String {
    match value {
        Some(text) => format!("'{}'::{}", text.replace('\'', "''"), bare_type(type_name)),
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
            columns: vec![EntryColumn { name: "id".into(), type_name: "integer".into() }],
            via: None,
            key: vec![0],
            fingerprint: 0,
        };
        let told = |effect: Effect| statement(&table, &effect, &Catalog::default());
        assert_eq!(told(Effect::Insert { table: 0, row: Vec::new() }), r#"INSERT INTO "s"."t" DEFAULT VALUES"#);
        let key = vec![Some("1".into())];
        let update = Effect::Update { table: 0, key, set: Vec::new(), old: Vec::new(), row: None };
        assert_eq!(told(update), r#"SELECT FROM "s"."t" WHERE "id" = '1'::integer"#);
    }
}
