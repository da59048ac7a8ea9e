//! The statements that replay and tracker send, told apart by their text. A text that is not known here fails the run: the
//! simulated server has to learn what the real one is asked.

use std::sync::Arc;

use pgoutpost::replay::Policy;

/// A column, and the place of its value among the parameters.
pub type Given = (Arc<str>, usize);

/// What a statement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    WhoAmI,
    Identity,
    Ledger,
    Advance,
    TakeOver,
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
    /// An UPDATE or DELETE of the row with this key, whatever it is, which tells when it is not as the client saw it.
    Guarded {
        policy: Policy,
        /// Nothing is written: the row has to be there.
        looks: bool,
        table: Arc<str>,
        /// Columns and the places of their new values; none, of a DELETE.
        set: Vec<Given>,
        key: Vec<Given>,
        old: Vec<Given>,
    },
    /// An INSERT that leaves main's row where there is one.
    InsertUnless {
        table: Arc<str>,
        set: Vec<Given>,
    },
    Truncate(Vec<Arc<str>>),
    SchemaVersion,
    History,
    /// Whether the definitions are still those of a version.
    Gate,
    /// What a table looks like now.
    Definition,
    /// Which cluster a standby belongs to.
    Standby,
    LogRejected,
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
        } else if starts("SELECT seq, entry FROM pgoutpost.take_over(") {
            Statement::TakeOver
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
        } else if starts("WITH done AS (INSERT ") {
            assert!(sql.contains("'main-wins'"), "the simulated server does not know {sql}");
            let (columns, values) = rest.split_once(" SELECT ").unwrap_or_default();
            let values = values.split(" ON CONFLICT DO NOTHING").next().unwrap_or_default();
            let values = values.split('$').skip(1).map(|value| leading(value) - 1);
            Statement::InsertUnless { table, set: names(columns).into_iter().zip(values).collect() }
        } else if ["UPDATE ", "DELETE ", "SELECT 1 FROM "].iter().any(|verb| starts(&format!("WITH done AS ({verb}"))) {
            let policies = [Policy::LastWriteWins, Policy::MainWins, Policy::Reject];
            let policy = policies.into_iter().find(|policy| sql.contains(&format!("'{}'", policy.as_str())));
            let policy = policy.unwrap_or_else(|| panic!("the simulated server does not know {sql}"));
            let looks = starts("WITH done AS (SELECT 1 ");
            let attempt = rest.split(") SELECT pgoutpost.settle_conflict(").next().unwrap_or_default();
            let (set, condition) = attempt.split_once(" WHERE ").unwrap_or_default();
            let mut conditions = condition.split(" AND CASE ");
            let key = conditions.next().map(|key| given(key, " = $")).unwrap_or_default();
            let old = conditions.flat_map(|old| given(old, " IS NOT DISTINCT FROM $")).collect();
            Statement::Guarded { policy, looks, table, set: given(set, " = $"), key, old }
        } else if starts("TRUNCATE ONLY ") {
            let tables = sql.split(", ").filter_map(|one| one.split('"').nth(3));
            Statement::Truncate(tables.map(Arc::from).collect())
        } else if starts("SELECT pgoutpost.gate(") {
            Statement::Gate
        } else if starts("WITH bare AS MATERIALIZED") {
            Statement::Definition
        } else if starts("SELECT (SELECT system_identifier::text") {
            Statement::Standby
        } else if starts("SELECT pgoutpost.schema_version()") {
            Statement::SchemaVersion
        } else if starts("SELECT pgoutpost.timeline_history()") {
            Statement::History
        } else if starts("SELECT pgoutpost.log_rejected(") {
            Statement::LogRejected
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

/// Each first name in quotes before the mark, and the number after it.
fn given(text: &str, mark: &str) -> Vec<Given> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(mark) {
        let name = before.split('"').nth(1).expect("a name in quotes");
        found.push((name.into(), leading(after) - 1));
        rest = after;
    }
    found
}

/// The number that the text begins with.
fn leading(text: &str) -> usize {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}
