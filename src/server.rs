//! The composition root: builds the parts, owns their tasks, and stops them in order.
//!
//! The only place that knows all parts. It holds no logic of theirs; when one of them ends before it was told to, the
//! daemon ends too, since half a daemon would make promises that nobody keeps. Nothing acknowledged is lost by that.

mod accept;
mod parts;
mod source;
mod start;
mod straight;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::buffer::BufferError;
use crate::config::{Config, SiteKind};
use crate::http;
use crate::ids::IdsError;
use crate::metrics::Metrics;
use crate::status::{About, Clients, Status};
use crate::upstream::own;

use parts::Parts;
use source::Running;
use workers::Workers;

/// How long clients may take to finish what they are at.
const SESSIONS_STOP_MAX: Duration = Duration::from_secs(10);
/// How long any other part may take to stop.
const PART_STOP_MAX: Duration = Duration::from_secs(5);

/// Why the daemon ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on http.address = {address:?}: {error}")]
    HttpListen { address: String, error: std::io::Error },
    #[error("cannot start the threads of clients and buffer: {0}")]
    Threads(std::io::Error),
    #[error("{key}: {error}")]
    Url { key: &'static str, error: own::Error },
    #[error("cannot open the buffer: {0}")]
    Buffer(#[from] BufferError),
    #[error("cannot read the leases of sequences: {0}")]
    Leases(#[from] IdsError),
    /// Logged with its reason by the part itself, or a panic.
    #[error("the {part} ended by itself; the daemon ends with it")]
    PartEnded { part: &'static str },
}

/// Serves clients on `listener` until `shutdown`. Then: no new clients; the present ones finish what they are at; the
/// buffer writes what is queued; replay and tracker stop.
///
/// Returns at once only when something must be mended first; a main, replica or Redis that does not answer is waited for.
///
/// # Errors
/// See [`ServerError`].
pub async fn run(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServerError> {
    let (metrics, exposition) = Metrics::new();
    let clients = Clients::new(metrics);
    let running = Arc::new(Running::default());
    let about = About::new(&config);
    let status = Status::new(about, clients, Box::new(source::Shown(Arc::clone(&running))), Instant::now());
    let mut parts = Parts::default();
    if !config.http.address.is_empty() {
        let address = config.http.address.clone();
        let listener = TcpListener::bind(&address).await.map_err(|error| ServerError::HttpListen { address, error })?;
        let status = status.clone();
        parts.add("HTTP server", |stop| http::run(listener, status, exposition, stop));
    }
    tracing::info!(
        site = config.site.name, kind = config.site.kind.as_str(), version = env!("CARGO_PKG_VERSION"),
        config = config.digest(), address = %config.listen.address, "starting"
    );
    let (ready, serving) = watch::channel(None);
    let sessions = parts.token();
    let workers = Workers::start().map_err(ServerError::Threads)?;
    parts.add_with("accept loop", sessions.clone(), |stop| accept::run(listener, workers, serving, stop));
    let ended = tokio::select! {
        ended = serve(&config, &status, &running, &mut parts, ready, sessions) => ended,
        () = shutdown.cancelled() => Ok(()),
    };
    if let Err(error) = &ended {
        tracing::error!(%error, "stopping");
    }
    parts.stop().await;
    tracing::info!("stopped");
    ended
}

/// Builds what serves clients, then waits for the end of any part.
async fn serve(
    config: &Config,
    status: &Status,
    running: &Arc<Running>,
    parts: &mut Parts,
    ready: watch::Sender<Option<accept::Serving>>,
    sessions: CancellationToken,
) -> Result<(), ServerError> {
    let serving = match config.site.kind {
        SiteKind::Main => straight::start(config, running, parts)?,
        SiteKind::Secondary => start::start(config, status, running, parts, sessions).await?,
    };
    ready.send_replace(Some(serving));
    tracing::info!(address = %config.listen.address, "serving clients");
    let part = parts.first_to_end().await;
    Err(ServerError::PartEnded { part })
}
