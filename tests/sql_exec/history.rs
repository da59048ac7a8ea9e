//! The folded overlay against the entry-by-entry history, for every ledger value: random entries on tables with one
//! key column, with two, and with none, and changes of another site in between.

use std::sync::Arc;

use pgoutpost::catalog::{AttNum, TableId};
use pgoutpost::entry::{Seq, Value};
use pgoutpost::overlay::{Change, Overlay, RowId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::site::Site;

const SCHEMA: &str = "
    CREATE DOMAIN small AS int CHECK (VALUE < 1000000);
    CREATE TYPE point2 AS (x int, y text);
    CREATE TABLE one(id int PRIMARY KEY, a int, b text COLLATE \"C\", c numeric, d timestamptz, e text[], f small, g float8, h bytea, i point2, j bpchar(4));
    CREATE TABLE two(k int, a int, b text, l text, PRIMARY KEY (l, k));
    CREATE TABLE none(a int, b text);";

const QUERIES: [&str; 7] = [
    "SELECT * FROM one ORDER BY id",
    "SELECT * FROM two ORDER BY l, k",
    "SELECT * FROM none ORDER BY a, b",
    "SELECT * FROM one WHERE id = 1",
    "SELECT * FROM two WHERE k = 2 AND l = 'y'",
    "SELECT id FROM one WHERE a = 5 ORDER BY id",
    "SELECT o.id, t.l FROM one o JOIN two t ON o.a = t.k ORDER BY o.b, o.id, t.l LIMIT 5",
];

struct Table {
    name: &'static str,
    id: TableId,
    /// Column names, numbers, types.
    columns: Vec<(String, AttNum, String)>,
    key: Vec<usize>,
}

/// A change as the overlay and as SQL takes it.
struct Effect {
    changes: Vec<(TableId, Change)>,
    sql: String,
}

fn tables(site: &Site) -> Vec<Table> {
    let names = ["one", "two", "none"];
    names
        .into_iter()
        .map(|name| {
            let id = site.table(name);
            let table = &site.catalog.relations[&id];
            let columns = &table.columns;
            Table {
                name,
                id,
                columns: columns.iter().map(|c| (c.name.to_string(), c.attnum, c.full_type_name.to_string())).collect(),
                key: table.key.iter().map(|key| table.position(*key).unwrap()).collect(),
            }
        })
        .collect()
}

fn literal(value: &Value, type_name: &str) -> String {
    match value {
        Some(text) => format!("'{}'::{type_name}", text.replace('\'', "''")),
        None => "NULL".into(),
    }
}

fn random_value(random: &mut StdRng, type_name: &str, key: bool) -> Value {
    if !key && random.random_bool(0.2) {
        return None;
    }
    // Few keys, so that rows are deleted and inserted again.
    let number = random.random_range(0..if key { 3 } else { 6 });
    Some(Arc::from(match type_name {
        "integer" | "small" | "public.small" => number.to_string(),
        "numeric" => format!("{number}.50"),
        "timestamp with time zone" => format!("2026-01-0{}  00:00:00+00", number + 1).replace("  ", " "),
        "text[]" => format!("{{a,\"b {number}\",NULL}}"),
        "double precision" => format!("{number}.1"),
        "bytea" => format!("\\x0{number}ff"),
        "point2" | "public.point2" => format!("({number},\"a b\")"),
        "character(4)" => format!("j{number}  "),
        _ => ["x", "y", "it's", "ä", "", "Z"][number as usize].to_owned(),
    }))
}

/// Which rows exist in the table as this site sees it: key → nothing more is needed.
type Keys = Vec<Vec<Vec<Value>>>;

fn effect(random: &mut StdRng, tables: &[Table], keys: &mut Keys, seq: Seq, number: u32) -> Effect {
    let place = [0, 0, 0, 1, 1, 2][random.random_range(0..6)];
    let table = &tables[place];
    let existing = keys[place].choose(random).cloned();
    let one = |change| vec![(table.id, change)];
    let row_id = |key: &[Value]| RowId::Key(key.iter().map(|value| value.clone().unwrap()).collect());
    let condition = |key: &[Value]| {
        let equal = table.key.iter().zip(key).map(|(place, value)| {
            format!("{} = {}", table.columns[*place].0, literal(value, &table.columns[*place].2))
        });
        equal.collect::<Vec<_>>().join(" AND ")
    };
    if random.random_bool(0.05) {
        keys[place].clear();
        return Effect { changes: one(Change::Truncate), sql: format!("TRUNCATE {};", table.name) };
    }
    match existing {
        Some(key) if random.random_bool(0.3) => {
            keys[place].retain(|known| *known != key);
            let sql = format!("DELETE FROM {} WHERE {};", table.name, condition(&key));
            Effect { changes: one(Change::Delete { row: row_id(&key) }), sql }
        }
        Some(key) if random.random_bool(0.6) => {
            let free: Vec<usize> = (0..table.columns.len()).filter(|column| !table.key.contains(column)).collect();
            let column = *free.choose(random).unwrap();
            let (name, attnum, type_name) = &table.columns[column];
            let value = random_value(random, type_name, false);
            let sql =
                format!("UPDATE {} SET {name} = {} WHERE {};", table.name, literal(&value, type_name), condition(&key));
            Effect { changes: one(Change::Update { row: row_id(&key), set: vec![(*attnum, value)] }), sql }
        }
        _ => {
            let row: Vec<Value> = table
                .columns
                .iter()
                .enumerate()
                .map(|(column, (_, _, type_name))| random_value(random, type_name, table.key.contains(&column)))
                .collect();
            let key: Vec<Value> = table.key.iter().map(|place| row[*place].clone()).collect();
            if keys[place].contains(&key) && !table.key.is_empty() {
                return Effect { changes: Vec::new(), sql: String::new() };
            }
            let id = if table.key.is_empty() { RowId::Anonymous(seq, number) } else { row_id(&key) };
            if !table.key.is_empty() {
                keys[place].push(key);
            }
            let values = row.iter().zip(&table.columns).map(|(value, (_, _, name))| literal(value, name));
            let sql = format!("INSERT INTO {} VALUES ({});", table.name, values.collect::<Vec<_>>().join(", "));
            let values = table.columns.iter().map(|column| column.1).zip(row).collect();
            Effect { changes: one(Change::Insert { row: id, values }), sql }
        }
    }
}

fn round(site: &mut Site, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let tables = tables(site);
    let mut keys: Keys = vec![Vec::new(); tables.len()];
    site.wire.script("TRUNCATE one, two, none; UPDATE pgoutpost.ledger SET seq = 0");
    site.overlay = Overlay::default();
    // What the replica had before.
    for number in 0..6 {
        let effect = effect(&mut random, &tables, &mut keys, Seq(0), number);
        site.wire.script(&effect.sql);
    }
    let entries: Vec<Vec<Effect>> = (1..=9)
        .map(|seq| {
            let count = random.random_range(1..6);
            (0..count).map(|number| effect(&mut random, &tables, &mut keys, Seq(seq), number)).collect()
        })
        .collect();
    for entry in &entries {
        let changes: Vec<_> = entry.iter().flat_map(|effect| effect.changes.clone()).collect();
        site.entry(&changes);
    }
    let full = site.overlay.clone();
    for ledger in 0..=entries.len() {
        if ledger > 0 {
            let sql: String = entries[ledger - 1].iter().map(|effect| effect.sql.as_str()).collect();
            site.wire.script(&format!("{sql} UPDATE pgoutpost.ledger SET seq = {ledger}"));
        }
        // Another site's write to a column comes with the replica, whatever we know of our own.
        if random.random_bool(0.3) {
            let (column, value) = *[("a", "5"), ("b", "'theirs'")].choose(&mut random).unwrap();
            site.wire.script(&format!("UPDATE one SET {column} = {value} WHERE id = {}", random.random_range(0..3)));
        }
        let rest: String = entries[ledger..].iter().flatten().map(|effect| effect.sql.as_str()).collect();
        site.wire.script(&format!("BEGIN; {rest}"));
        let expected: Vec<_> = QUERIES.iter().map(|query| site.bare(query, &[]).unwrap()).collect();
        site.wire.script("ROLLBACK");
        // What is known to be confirmed has no bearing on the answer.
        for trimmed in [0, ledger / 2, ledger] {
            site.overlay = full.clone();
            site.overlay.trim(Seq(trimmed as u64));
            for (query, expected) in QUERIES.iter().zip(&expected) {
                let merged = site.client(query, &[]).unwrap();
                assert_eq!(
                    &merged, expected,
                    "seed {seed}, ledger {ledger}, trimmed {trimmed}: {query}\n{}",
                    site.sent
                );
            }
        }
    }
}

#[test]
fn folding_is_exact_for_every_ledger_value() {
    let mut site = Site::new("history", SCHEMA);
    let rounds: u64 = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    for seed in 0..rounds {
        round(&mut site, seed);
    }
}
