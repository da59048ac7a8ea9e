//! Blocks of sequence values, from main.

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

use crate::ids::LeaseSource;
use crate::upstream::own;

/// Asks main over a connection of its own, which is kept while it works.
pub(super) struct FromMain {
    main: own::Config,
    connection: Mutex<Option<own::Client>>,
}

impl FromMain {
    pub(super) fn new(main: own::Config) -> FromMain {
        FromMain { main, connection: Mutex::new(None) }
    }

    async fn ask(&self, sequence: &str, count: u32) -> Result<Vec<i64>, own::Error> {
        let mut connection = self.connection.lock().await;
        let client = match connection.take() {
            Some(client) if !client.is_closed() => client,
            Some(_) | None => own::connect(&self.main).await?,
        };
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let rows = client.query("SELECT pgoutpost.lease($1::text::regclass, $2)", &[&sequence, &count]).await?;
        let values = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        *connection = Some(client);
        Ok(values)
    }
}

impl LeaseSource for FromMain {
    fn lease<'a>(&'a self, sequence: &'a str, count: u32) -> BoxFuture<'a, Result<Vec<i64>, String>> {
        Box::pin(async move { self.ask(sequence, count).await.map_err(|error| error.to_string()) })
    }
}
