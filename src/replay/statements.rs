//! Prepared statements of one connection, by their text, and what main says about tables.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use super::steps::{MainTable, Parameters, Step};
use crate::entry::{Entry, TableName};
use crate::setup::identifier;
use crate::upstream::own;

/// Main forgets nothing by itself: beyond this many, all are closed and made anew.
const STATEMENTS_MAX: usize = 1_000;

/// Caches of one connection.
#[derive(Default)]
pub(super) struct Statements {
    prepared: HashMap<String, Statement>,
    tables: HashMap<TableName, Arc<MainTable>>,
}

/// A statement could not be prepared.
#[derive(Debug)]
pub(super) struct Unprepared {
    /// The place of the entry that needs it.
    pub(super) entry: usize,
    pub(super) effect: usize,
    pub(super) error: own::Error,
}

impl Statements {
    /// What is known of the entries' tables, asking main about those not seen before.
    pub(super) async fn tables(
        &mut self,
        client: &Client,
        entries: &[Arc<Entry>],
    ) -> Result<&HashMap<TableName, Arc<MainTable>>, own::Error> {
        let named = entries.iter().flat_map(|entry| &entry.tables).map(|table| &table.name);
        let missing: HashSet<&TableName> = named.filter(|name| !self.tables.contains_key(*name)).collect();
        let asked = missing.into_iter().map(async |name| Ok((name.clone(), Arc::new(ask(client, name).await?))));
        let answers: Vec<_> =
            try_join_all(asked).await.map_err(|error: tokio_postgres::Error| own::Error::from(error))?;
        self.tables.extend(answers);
        Ok(&self.tables)
    }

    /// Prepares what is not prepared yet, all at once.
    pub(super) async fn prepare(&mut self, client: &Client, steps: &[Step]) -> Result<(), Unprepared> {
        if self.prepared.len() > STATEMENTS_MAX {
            self.prepared.clear();
        }
        let mut missing: HashMap<&str, &Step> = HashMap::new();
        for step in steps.iter().filter(|step| !self.prepared.contains_key(&step.sql)) {
            missing.entry(&step.sql).or_insert(step);
        }
        let prepare = missing.into_iter().map(async |(sql, step)| {
            let (parameter, count) = match &step.parameters {
                Parameters::Row(values) => (Type::TEXT, values.len()),
                Parameters::Columns(columns) => (Type::TEXT_ARRAY, columns.len()),
            };
            let statement = client.prepare_typed(sql, &vec![parameter; count]).await;
            let failed = |error: tokio_postgres::Error| Unprepared {
                entry: step.entry,
                effect: step.effect,
                error: error.into(),
            };
            statement.map(|statement| (sql.to_owned(), statement)).map_err(failed)
        });
        self.prepared.extend(try_join_all(prepare).await?);
        Ok(())
    }

    /// A statement that was prepared.
    pub(super) fn get(&self, sql: &str) -> Option<&Statement> {
        self.prepared.get(sql)
    }

    /// Forgets everything: main's tables may have changed.
    pub(super) fn clear(&mut self) {
        self.prepared.clear();
        self.tables.clear();
    }
}

/// A table that main does not have: preparing a statement upon it gives the error.
async fn ask(client: &Client, name: &TableName) -> Result<MainTable, tokio_postgres::Error> {
    let relation = format!("{}.{}", identifier(&name.schema), identifier(&name.name));
    let query = "SELECT ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                         WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped),
                        EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
                          OR c.relhasrules,
                        EXISTS (SELECT FROM pg_catalog.pg_constraint k
                                 WHERE k.contype = 'f' AND k.conrelid = c.oid AND k.confrelid = c.oid)
                   FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)";
    let rows = client.query_typed(query, &[(&relation, Type::TEXT)]).await?;
    match rows.first() {
        Some(row) => Ok(MainTable {
            generated: row.try_get(0)?,
            has_triggers: row.try_get(1)?,
            refers_to_itself: row.try_get(2)?,
        }),
        None => Ok(MainTable::default()),
    }
}
