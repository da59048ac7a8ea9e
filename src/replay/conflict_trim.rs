//! Keeps the log of conflicts on main within its retention: old lines go in small batches, on a connection of their own, so
//! that replay never waits for it.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use crate::setup::TRIM_VERSION;
use crate::upstream::own::{self, Config};

/// How often it is looked for lines that are too old.
const PERIOD: Duration = Duration::from_secs(60 * 60);
/// The pause after main did not answer.
const RETRY: Duration = Duration::from_secs(60);
/// How many lines one transaction deletes, at most, and the pause before the next.
const BATCH: i32 = 500;
const PAUSE: Duration = Duration::from_millis(200);

/// Deletes the site's lines when they are older than `retention`, until shutdown; zero keeps them for ever.
pub async fn keep_conflicts(main: Config, site: String, retention: Duration, shutdown: CancellationToken) {
    let mut told = String::new();
    let work = async {
        if retention.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            let trimmed = async { trim_conflicts(&own::connect(&main).await?, &site, retention).await };
            match trimmed.await {
                Ok(0) => {}
                Ok(lines) => tracing::info!(lines, "the log of conflicts on main was trimmed"),
                // Main is away more often than not, and replay says so.
                Err(own::Error::Connection(_)) => {
                    sleep(RETRY).await;
                    continue;
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        tracing::warn!(%error, "the log of conflicts on main is not trimmed");
                        told = error;
                    }
                }
            }
            sleep(PERIOD).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Deletes the site's lines that are older than `retention`; says how many there were.
///
/// # Errors
/// The server's or the connection's; what was deleted by then stays so. Or main's schema is too old for it: then it is not tried.
pub async fn trim_conflicts(main: &Client, site: &str, retention: Duration) -> Result<u64, own::Error> {
    let version: i32 = main.query_typed_one("SELECT pgoutpost.schema_version()", &[]).await?.try_get(0)?;
    if version < TRIM_VERSION {
        let why =
            format!("the schema on main is of version {version}, this needs {TRIM_VERSION}: run `pgoutpost setup`");
        return Err(own::Error::Unexpected(why));
    }
    let seconds = retention.as_secs_f64();
    let mut lines = 0;
    loop {
        let row = main
            .query_typed_one(
                "SELECT pgoutpost.trim_conflicts($1, pg_catalog.make_interval(secs => $2), $3)",
                &[(&site, Type::TEXT), (&seconds, Type::FLOAT8), (&BATCH, Type::INT4)],
            )
            .await?;
        let count: i64 = row.try_get(0)?;
        lines += u64::try_from(count).unwrap_or(0);
        if count < i64::from(BATCH) {
            return Ok(lines);
        }
        sleep(PAUSE).await;
    }
}
