//! Metrics, health and the status page over HTTP.
//!
//! Reads only, holds no secrets, and cannot harm the daemon: connections, header size, header time and answer time are
//! bounded, and request bodies are not read.

mod answers;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use answers::{BufferStats, SiteInfo};

use crate::metrics::Exposition;
use crate::status::{Health, Status};

const CONNECTIONS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long answers under way may take when the daemon stops.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Pages {
    status: Status,
    exposition: Arc<Exposition>,
}

/// Serves until `shutdown`, then lets answers under way finish within a second.
pub async fn run(listener: TcpListener, status: Status, exposition: Exposition, shutdown: CancellationToken) {
    let pages = Pages { status, exposition: Arc::new(exposition) };
    let router = router(pages.clone());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            _ = upkeep.tick() => {
                pages.exposition.upkeep();
                continue;
            }
            accepted = accept(&listener, &places) => accepted,
        };
        let (socket, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: a pause gives others the time to close theirs.
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router.clone()));
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "an HTTP connection ended badly");
            }
            drop(place);
        });
    }
    connections.close();
    if tokio::time::timeout(FAREWELL_MAX, connections.wait()).await.is_err() {
        tracing::debug!("HTTP answers under way were cut off");
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// Takes a place first: clients beyond the limit wait in the kernel's queue.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> std::io::Result<(tokio::net::TcpStream, Place)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((listener.accept().await?.0, place))
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/buffer-stats", get(buffer_stats))
        .route("/api/buffer-stats", get(buffer_stats))
        .route("/api/health", get(health))
        .route("/api/site/info", get(site_info))
        .layer(middleware::from_fn(bounded))
        .with_state(pages)
}

async fn bounded(request: Request, next: Next) -> Response {
    let mut response = match tokio::time::timeout(ANSWER_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}

async fn page() -> impl IntoResponse {
    // Everything it needs is in the file; nothing else may run in it.
    const POLICY: &str =
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(include_str!("http/page.html")))
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let text = pages.exposition.render(&pages.status.snapshot(), pages.status.about());
    ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], text)
}

async fn health(State(pages): State<Pages>) -> impl IntoResponse {
    let now = pages.status.snapshot();
    let code = match now.health() {
        Health::Ok | Health::Degraded => StatusCode::OK,
        Health::Down => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(answers::health(&now)))
}

async fn buffer_stats(State(pages): State<Pages>) -> impl IntoResponse {
    Json(answers::buffer_stats(&pages.status.snapshot()))
}

async fn site_info(State(pages): State<Pages>) -> impl IntoResponse {
    Json(answers::site_info(&pages.status))
}

#[cfg(test)]
mod tests;
