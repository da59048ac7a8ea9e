//! Reads a [`Catalog`] from the replica: a handful of set-based queries in one snapshot.
//!
//! Everything is printed under an empty `search_path`, so that each name in an expression is qualified. Relations of
//! `pg_catalog`, `information_schema`, TOAST, temporary schemas and our own schema are left out: they are never merged.

mod assemble;
mod family;
mod queries;
mod rows;

pub use assemble::fingerprint;

use std::time::Duration;

use tokio_postgres::Client;

use super::{Catalog, shapes};
use crate::sqlstate::{INTERNAL_ERROR, SqlState};
use crate::upstream::own;

/// Why there is no new snapshot.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read the catalog: {0}")]
    Server(#[from] own::Error),
    /// `pgoutpost.catalog` is not on the replica (yet).
    #[error("the replica has no pgoutpost schema: run `pgoutpost setup`, and wait for replication")]
    NotSetUp,
    /// The replica did not reach the wanted version in time.
    #[error("the replica has catalog version {found}, {wanted} has not been replicated yet")]
    Behind { wanted: i64, found: i64 },
}

impl From<tokio_postgres::Error> for LoadError {
    fn from(error: tokio_postgres::Error) -> Self {
        LoadError::Server(error.into())
    }
}

/// `undefined_table`, `invalid_schema_name`
const MISSING: [SqlState; 2] = [SqlState(*b"42P01"), SqlState(*b"3F000")];

/// The version in the replica now; far cheaper than a snapshot.
///
/// Names of types are compared with main's, and those of entries with later ones: they must not be quoted otherwise.
///
/// # Errors
/// [`LoadError::NotSetUp`] when our schema is missing.
pub async fn version(client: &Client) -> Result<i64, LoadError> {
    match client.query_one("SELECT version FROM pgoutpost.catalog", &[]).await {
        Ok(row) => Ok(row.try_get(0)?),
        Err(error) => {
            let error = own::Error::from(error);
            let missing = error.code().is_some_and(|code| MISSING.contains(&code));
            Err(if missing { LoadError::NotSetUp } else { error.into() })
        }
    }
}

/// How often a snapshot is tried that other DDL gets into, and the pause between.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// Reads one snapshot of the database the client is connected to.
///
/// Functions such as `pg_get_indexdef` look at the catalog of the moment, not of the snapshot: of what was dropped meanwhile
/// they say NULL, or an error. Then all is read again.
///
/// # Errors
/// [`LoadError::NotSetUp`] when our schema is missing, else the server's or the connection's error.
pub async fn load(client: &Client) -> Result<Catalog, LoadError> {
    for _ in 1..TRIES {
        match load_once(client).await {
            Err(LoadError::Server(error)) if changing(&error) => tokio::time::sleep(PAUSE).await,
            loaded => return loaded,
        }
    }
    load_once(client).await
}

/// Whether the answer is what a catalog gives that changes while it is read.
fn changing(error: &own::Error) -> bool {
    match error {
        own::Error::Unexpected(_) => true,
        own::Error::Server(report) => report.code == INTERNAL_ERROR || report.code.class() == "42",
        own::Error::Connection(_) => false,
    }
}

/// Constants in defaults and rules are printed so that they mean the same under any settings. Of thousands of tables the questions
/// look dear enough to be compiled, which takes longer than to answer them.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = '';
SET LOCAL jit = off; SET LOCAL quote_all_identifiers = off; SET LOCAL datestyle = 'ISO, MDY'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL timezone = 'UTC';
SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'";

async fn load_once(client: &Client) -> Result<Catalog, LoadError> {
    let cluster = cluster(client).await;
    client.batch_execute(BEGIN).await?;
    let loaded = read(client).await;
    client.batch_execute("ROLLBACK").await?;
    loaded.map(|catalog| Catalog { cluster, ..catalog })
}

/// Which cluster this is a copy of; unknown to users without the right to ask.
async fn cluster(client: &Client) -> Option<u64> {
    let row = client.query_one("SELECT system_identifier::text FROM pg_catalog.pg_control_system()", &[]).await.ok()?;
    row.try_get::<_, &str>(0).ok()?.parse().ok()
}

async fn read(client: &Client) -> Result<Catalog, LoadError> {
    let version = version(client).await?;
    let rows = rows::Rows {
        relations: rows::all(client, queries::RELATIONS).await?,
        columns: rows::all(client, queries::COLUMNS).await?,
        indexes: rows::all(client, queries::INDEXES).await?,
        constraints: rows::all(client, queries::CONSTRAINTS).await?,
        parents: rows::all(client, queries::PARENTS).await?,
        policies: rows::all(client, queries::POLICIES).await?,
        functions: rows::all(client, &queries::functions()).await?,
        overloaded: rows::all(client, queries::OVERLOADED).await?,
        indirect: rows::all(client, &queries::indirect()).await?,
    };
    let types: String = client.query_one(&queries::types(), &[]).await?.try_get(0)?;
    let types = serde_json::from_str(&types).map_err(|error| own::Error::Unexpected(error.to_string()))?;
    Ok(assemble::assemble(version, rows, &shapes::shapes(types)))
}
