//! A connection for what the bench itself has to know or make.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// One connection, used synchronously.
#[derive(Debug)]
pub(crate) struct Sql {
    client: Client,
    runtime: Arc<Runtime>,
}

impl Sql {
    pub(crate) fn connect(runtime: &Arc<Runtime>, url: &str) -> Result<Sql> {
        let (client, connection) = runtime
            .block_on(tokio_postgres::connect(url, NoTls))
            .with_context(|| format!("cannot connect to {url}"))?;
        // Its errors come back to whoever waits on the client.
        runtime.spawn(connection);
        Ok(Sql { client, runtime: Arc::clone(runtime) })
    }

    pub(crate) fn run(&self, sql: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(sql)).with_context(|| sql.to_owned())
    }

    /// The first column of the first row; `None` for NULL or no row.
    pub(crate) fn text(&self, sql: &str) -> Result<Option<String>> {
        let messages = self.runtime.block_on(self.client.simple_query(sql)).with_context(|| sql.to_owned())?;
        Ok(messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    pub(crate) fn number(&self, sql: &str) -> Result<u64> {
        let text = self.text(sql)?.with_context(|| format!("no answer to {sql}"))?;
        text.parse().with_context(|| format!("{text} in answer to {sql}"))
    }
}
