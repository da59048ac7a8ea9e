//! tokio-postgres connections for this program's own queries, and the one reading of their errors.
//!
//! A client's statements never travel here: results come binary and the connection sends its own Sync.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::DuplexStream;
pub use tokio_postgres::{Client, Config};
use tokio_postgres::{NoTls, SimpleQueryMessage};
use tracing::debug;

use crate::report::{About, Report};
use crate::sqlstate::SqlState;

/// How long a connection attempt may take, handshake and login included, when the URL does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged before the kernel calls the connection dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// What can go wrong with a query of ours.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The connection could not be made or broke. Whether a statement under way took effect is unknown.
    #[error("connection lost: {0}")]
    Connection(String),
    /// The server answered with an error.
    #[error("{} ({})", .0.message, .0.code)]
    Server(Box<Report>),
    /// The answer was not what this program expects; its own fault, not the link's.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

impl Error {
    /// The SQLSTATE, when the server gave one.
    pub fn code(&self) -> Option<SqlState> {
        match self {
            Error::Server(report) => Some(report.code),
            Error::Connection(_) | Error::Unexpected(_) => None,
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Error::Server(Box::new(report(db)));
        }
        let text = described(&error);
        // tokio-postgres keeps its kinds private: what is neither closed nor I/O nor a time-out is about values.
        let values =
            ["error serializing", "error deserializing", "invalid column", "error retrieving column", "query returned"];
        if !error.is_closed() && values.iter().any(|kind| text.starts_with(kind)) {
            Error::Unexpected(text)
        } else {
            Error::Connection(text)
        }
    }
}

/// An error and its causes in one line.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

fn report(db: &tokio_postgres::error::DbError) -> Report {
    let position = match db.position() {
        Some(tokio_postgres::error::ErrorPosition::Original(at)) => Some(*at as usize),
        Some(tokio_postgres::error::ErrorPosition::Internal { .. }) | None => None,
    };
    let text = |field: Option<&str>| field.map(str::to_owned);
    Report {
        context: None,
        code: SqlState::parse(db.code().code()),
        message: db.message().to_owned(),
        detail: text(db.detail()),
        hint: text(db.hint()),
        position,
        about: Some(Box::new(About {
            schema: text(db.schema()),
            table: text(db.table()),
            column: text(db.column()),
            data_type: text(db.datatype()),
            constraint: text(db.constraint()),
        })),
    }
}

/// Reads a `postgres://` URL (or `key=value` text).
///
/// # Errors
/// [`Error::Unexpected`] with what is wrong with it, never with the password.
pub fn parse_url(url: &str) -> Result<Config, Error> {
    url.parse().map_err(|error: tokio_postgres::Error| Error::Unexpected(described(&error)))
}

/// A server, and the way there: over the network, unless a simulation gives another.
#[derive(Clone)]
pub struct Server {
    config: Config,
    dial: Option<Arc<dyn Dial>>,
}

/// Another way to a server than the network.
pub trait Dial: Send + Sync {
    /// The client's end of a new connection.
    fn dial(&self) -> BoxFuture<'static, io::Result<DuplexStream>>;
}

impl From<Config> for Server {
    fn from(config: Config) -> Server {
        Server { config, dial: None }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Server {
    /// A server that is reached as `dial` says.
    pub fn simulated(config: Config, dial: Arc<dyn Dial>) -> Server {
        Server { config, dial: Some(dial) }
    }

    /// As [`connect`].
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn connect(&self) -> Result<Client, Error> {
        let Some(dial) = &self.dial else { return connect(&self.config).await };
        let attempt = async {
            let stream = dial.dial().await.map_err(|error| Error::Connection(error.to_string()))?;
            Ok::<_, Error>(self.config.connect_raw(stream, NoTls).await?)
        };
        let (client, connection) = bounded(&self.config, attempt).await?;
        tokio::spawn(watched(connection));
        Ok(client)
    }
}

/// Connects, with a bounded wait and with keepalives, so that a silently dead link is noticed. The connection closes
/// when the client is dropped.
///
/// # Errors
/// [`Error::Connection`], or [`Error::Server`] when the server refuses the login.
pub async fn connect(config: &Config) -> Result<Client, Error> {
    let config = with_keepalives(config);
    let (client, connection) = bounded(&config, config.connect(NoTls)).await?;
    tokio::spawn(watched(connection));
    Ok(client)
}

async fn bounded<T, E: Into<Error>>(config: &Config, attempt: impl Future<Output = Result<T, E>>) -> Result<T, Error> {
    let limit = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    let attempt = tokio::time::timeout(limit, attempt).await;
    let late = |_| Error::Connection(format!("no connection within {} s", limit.as_secs_f32()));
    attempt.map_err(late)?.map_err(Into::into)
}

async fn watched(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        debug!(error = %described(&error), "own connection ended");
    }
}

/// Header and rows of a command's answer, as text, for people; NULL is empty.
///
/// # Errors
/// The server's or the connection's.
pub async fn table(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, Error> {
    let mut table: Vec<Vec<String>> = Vec::new();
    for message in client.simple_query(sql).await? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                table.push(columns.iter().map(|column| column.name().to_owned()).collect());
            }
            SimpleQueryMessage::Row(row) => {
                table.push((0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect());
            }
            _ => {}
        }
    }
    Ok(table)
}

fn with_keepalives(config: &Config) -> Config {
    let mut config = config.clone();
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED);
    }
    if config.get_application_name().is_none() {
        config.application_name("pgoutpost");
    }
    config
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_a_connection_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let config = parse_url(&format!("postgres://me@127.0.0.1:{port}/x")).unwrap();
        assert!(matches!(connect(&config).await, Err(Error::Connection(_))));
    }

    #[test]
    fn a_bad_url_is_not_echoed() {
        let error = parse_url("postgres://me:secret@host:notaport/x").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
