//! Statements that only main can do, in scripts whose replica follows.
//!
//! Each table has a view through which it is written: that, DO, and changes of rows without a key go to main.

use super::dice::Dice;
use super::schema::Table;
use super::write::Write;

/// Tables of all scripts of a batch are in one database. What DO names is claimed in every schema, so that scripts that are
/// performed at the same time must not have the same names.
pub fn tagged(name: &str, tag: &str) -> String {
    match name.strip_suffix('"') {
        Some(name) => format!("{name}{tag}\""),
        None => format!("{name}{tag}"),
    }
}

/// The views, and a table without a key.
pub fn schema(tag: &str, tables: &mut [Table], out: &mut Vec<String>) {
    for (number, table) in tables.iter_mut().enumerate().filter(|(_, table)| !table.is_view) {
        table.through = format!("w{number}{tag}");
        out.push(format!("CREATE VIEW {} AS SELECT * FROM {}", table.through, table.name));
    }
    out.push(format!("CREATE TABLE {} (said text)", log(tag)));
    out.push(format!(
        "CREATE FUNCTION put{tag}(name text, value text) RETURNS text LANGUAGE plpgsql AS \
         'BEGIN PERFORM set_config(name, value, false); RETURN current_setting(name); END'"
    ));
    out.push(format!(
        "CREATE FUNCTION within{tag}() RETURNS text LANGUAGE sql SET work_mem = '3MB' AS \
         'SELECT set_config(''timezone'', ''Asia/Tokyo'', false) || current_setting(''work_mem'')'"
    ));
}

/// The table without a key.
pub fn log(tag: &str) -> String {
    format!("log{tag}")
}

/// What is done to the table without a key: additions are buffered, the rest is not.
pub fn about_log(dice: &mut Dice, tag: &str) -> String {
    let log = log(tag);
    match dice.below(5) {
        0 | 1 => format!("INSERT INTO {log} VALUES ('one'), ('two') RETURNING said"),
        2 => format!("UPDATE {log} SET said = said || '!'"),
        3 => format!("DELETE FROM {log} WHERE said LIKE 'one%' RETURNING said"),
        _ => format!("SELECT said FROM {log}"),
    }
}

/// A call of a function that sets something for the session.
pub fn sets(dice: &mut Dice, tag: &str) -> String {
    let (name, value) = *dice.one(&[
        ("work_mem", "7MB"),
        ("timezone", "Asia/Kolkata"),
        ("datestyle", "SQL, DMY"),
        ("default_transaction_isolation", "repeatable read"),
        ("default_transaction_isolation", "read committed"),
    ]);
    match dice.below(3) {
        0 => format!("SELECT within{tag}()"),
        1 => format!("SELECT (SELECT put{tag}('{name}', '{value}')) IS NULL"),
        _ => format!("SELECT put{tag}('{name}', '{value}')"),
    }
}

/// The same write by a procedure's hand.
pub fn in_do(write: Write) -> Write {
    if write.copy.is_some() || write.sql.starts_with("WITH") {
        return write;
    }
    let sql = write.sql.split_once(" RETURNING ").map_or(write.sql.as_str(), |(sql, _)| sql);
    Write { sql: format!("DO $do$BEGIN {sql}; END$do$"), ..write }
}
