//! The statements that replay and tracker send, told apart by their text. A text that is not known here fails the run: the
//! simulated server has to learn what the real one is asked.

use std::sync::Arc;

/// What a statement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    WhoAmI,
    Identity,
    Ledger,
    Advance,
    Place,
    Table,
    Poll,
    /// Rows by the values of some columns, as JSON.
    Rows {
        table: Arc<str>,
        by: Vec<Arc<str>>,
    },
    /// `several`: an array for each column.
    Insert {
        table: Arc<str>,
        columns: Vec<Arc<str>>,
        several: bool,
    },
    Update {
        table: Arc<str>,
        set: Vec<Arc<str>>,
        key: Vec<Arc<str>>,
    },
    Delete {
        table: Arc<str>,
        key: Vec<Arc<str>>,
    },
}

impl Statement {
    pub fn read(sql: &str) -> Statement {
        let starts = |with: &str| sql.starts_with(with);
        let (table, rest) = relation(sql);
        if starts("SELECT pg_catalog.pg_is_in_recovery()") {
            Statement::WhoAmI
        } else if starts("SELECT system_identifier") {
            Statement::Identity
        } else if starts("SELECT seq, entry FROM pgoutpost.ledger") || starts("SELECT seq FROM pgoutpost.ledger") {
            Statement::Ledger
        } else if starts("SELECT pgoutpost.advance(") {
            Statement::Advance
        } else if starts("SELECT pg_catalog.pg_current_wal_insert_lsn()") {
            Statement::Place
        } else if starts("SELECT pg_catalog.jsonb_build_object(") {
            Statement::Table
        } else if starts("SELECT (SELECT l.seq FROM pgoutpost.ledger") {
            Statement::Poll
        } else if starts("SELECT pg_catalog.to_jsonb(t)") {
            Statement::Rows { table, by: names(after(rest, " WHERE ")) }
        } else if starts("INSERT INTO ") {
            let several = sql.contains(" SELECT ");
            assert!(several || sql.contains(" VALUES "), "the simulated server does not know {sql}");
            Statement::Insert { table, columns: names(rest.split(')').next().unwrap_or_default()), several }
        } else if starts("UPDATE ") {
            let (set, key) = rest.split_once(" WHERE ").unwrap_or((rest, ""));
            Statement::Update { table, set: names(set), key: names(key) }
        } else if starts("DELETE FROM ") {
            Statement::Delete { table, key: names(rest) }
        } else {
            panic!("the simulated server does not know {sql}")
        }
    }
}

/// The name of the first table in quotes, and what follows it.
fn relation(sql: &str) -> (Arc<str>, &str) {
    let mut parts = sql.splitn(5, '"');
    match (parts.nth(3), parts.next()) {
        (Some(name), Some(rest)) => (name.into(), rest),
        _ => ("".into(), ""),
    }
}

fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).map_or("", |(_, rest)| rest)
}

/// Names in quotes, in their order.
fn names(text: &str) -> Vec<Arc<str>> {
    text.split('"').skip(1).step_by(2).map(Arc::from).collect()
}
