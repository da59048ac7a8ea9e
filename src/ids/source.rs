//! Leases from main: the site's own connection, made when it is needed.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config};

use super::{Drawn, LeaseSource, Position};
use crate::catalog::SequenceId;
use crate::upstream::own;

/// How long main may take over one lease.
const LIMIT: Duration = Duration::from_secs(10);

/// Draws blocks with `pgoutpost.lease`.
#[derive(Debug)]
pub struct MainSequences {
    main: Config,
    connection: Mutex<Option<Client>>,
}

impl MainSequences {
    /// Connects at the first lease.
    pub fn new(main: Config) -> MainSequences {
        MainSequences { main, connection: Mutex::new(None) }
    }

    async fn draw(&self, sequence: &str, count: u32) -> Result<Drawn, own::Error> {
        let mut connection = self.connection.lock().await;
        // Taken out, so that a lease that was given up half-way leaves no connection with an answer under way.
        let client = match connection.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => own::connect(&self.main).await?,
        };
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        // Once values are drawn the sequence is locked: its file is asked for behind that.
        let query = "SELECT drawn, s.oid, pg_catalog.pg_relation_filenode(s.oid)
            FROM (SELECT pg_catalog.array_agg(value) AS drawn FROM pgoutpost.lease($1::text::regclass, $2) value) l,
                 (SELECT $1::text::regclass::oid) s(oid)";
        let row = client.query_typed_one(query, &[(&sequence, Type::TEXT), (&count, Type::INT4)]).await?;
        *connection = Some(client);
        Ok(Drawn { values: row.try_get(0)?, of: SequenceId { oid: row.try_get(1)?, file: row.try_get(2)? } })
    }

    async fn look(&self, sequence: &str) -> Result<Position, own::Error> {
        let mut connection = self.connection.lock().await;
        let client = match connection.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => own::connect(&self.main).await?,
        };
        let query = "SELECT pg_catalog.pg_sequence_last_value(s.seqrelid), s.seqincrement, s.seqcycle, s.seqstart,
                   s.seqrelid, pg_catalog.pg_relation_filenode(s.seqrelid)
            FROM pg_catalog.pg_sequence s WHERE s.seqrelid = $1::text::regclass";
        let row = client.query_typed_one(query, &[(&sequence, Type::TEXT)]).await?;
        *connection = Some(client);
        let increment: i64 = row.try_get(1)?;
        let (last, start): (Option<i64>, i64) = (row.try_get(0)?, row.try_get(3)?);
        let of = SequenceId { oid: row.try_get(4)?, file: row.try_get(5)? };
        Ok(Position { of, last: last.unwrap_or(start.saturating_sub(increment)), increment, cycles: row.try_get(2)? })
    }
}

impl LeaseSource for MainSequences {
    fn lease<'a>(&'a self, sequence: &'a str, count: u32) -> BoxFuture<'a, Result<Drawn, String>> {
        Box::pin(async move {
            let drawn = timeout(LIMIT, self.draw(sequence, count)).await;
            drawn.map_err(|_| "main does not answer".to_owned())?.map_err(|error| error.to_string())
        })
    }

    fn position<'a>(&'a self, sequence: &'a str) -> BoxFuture<'a, Result<Position, String>> {
        Box::pin(async move {
            let asked = timeout(LIMIT, self.look(sequence)).await;
            asked.map_err(|_| "main does not answer".to_owned())?.map_err(|error| error.to_string())
        })
    }
}
