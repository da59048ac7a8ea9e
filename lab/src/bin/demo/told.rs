//! What clients were told, and its comparison with what a database holds.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::schema::WRITTEN;

/// A row in Postgres' own text, column by column.
type Row = Vec<Option<String>>;

/// The rows that acknowledged transactions told their clients with RETURNING, by table and key.
#[derive(Debug, Default)]
pub(crate) struct Told {
    tables: BTreeMap<&'static str, BTreeMap<String, Row>>,
}

impl Told {
    /// Notes a row of a table; a later one of the same key takes its place.
    pub(crate) fn note(&mut self, table: &'static str, row: Row) -> Result<()> {
        let key = row.first().cloned().flatten().context("the first column is the key")?;
        self.tables.entry(table).or_default().insert(key, row);
        Ok(())
    }

    /// Takes over what a transaction was told, once it is acknowledged.
    pub(crate) fn extend(&mut self, transaction: Told) {
        for (table, rows) in transaction.tables {
            self.tables.entry(table).or_default().extend(rows);
        }
    }

    pub(crate) fn rows(&self, table: &str) -> usize {
        self.tables.get(table).map_or(0, BTreeMap::len)
    }

    /// Values of one column of a table, by its place.
    pub(crate) fn column(&self, table: &str, place: usize) -> impl Iterator<Item = &str> {
        let rows = self.tables.get(table).into_iter().flat_map(BTreeMap::values);
        rows.filter_map(move |row| row.get(place)?.as_deref())
    }

    /// Compares every written table of a database, row by row and column by column; returns the number of rows.
    /// An error names the first differences.
    pub(crate) async fn compare(&self, client: &Client) -> Result<usize> {
        let (mut compared, mut differences) = (0, Vec::new());
        for (table, columns) in WRITTEN {
            let nothing = BTreeMap::new();
            let told = self.tables.get(table).unwrap_or(&nothing);
            let mut held = BTreeMap::new();
            for row in rows(client, &format!("SELECT {columns} FROM {table}")).await? {
                let key = row.first().cloned().flatten().context("a key is not null")?;
                if held.insert(key.clone(), row).is_some() {
                    differences.push(format!("{table} {key}: shown twice"));
                }
            }
            for (key, row) in told {
                compared += 1;
                match held.remove(key) {
                    None => differences.push(format!("{table} {key}: missing")),
                    Some(other) if other != *row => {
                        differences.push(format!("{table} {key}: told {row:?}, held {other:?}"));
                    }
                    Some(_) => {}
                }
            }
            differences.extend(held.keys().map(|key| format!("{table} {key}: nobody was told of it")));
        }
        if differences.is_empty() {
            return Ok(compared);
        }
        let first: Vec<_> = differences.iter().take(10).map(String::as_str).collect();
        bail!("{} differences:\n  {}", differences.len(), first.join("\n  "))
    }
}

/// The rows of a query, as text.
pub(crate) async fn rows(client: &Client, sql: &str) -> Result<Vec<Row>> {
    let messages = client.simple_query(sql).await.with_context(|| sql.to_owned())?;
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(values(&row)),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

fn values(row: &SimpleQueryRow) -> Row {
    (0..row.len()).map(|place| row.get(place).map(str::to_owned)).collect()
}
