//! New clients: each gets a task of its own, or a reason why not.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::SESSIONS_STOP_MAX;
use super::straight::Straight;
use super::workers::Workers;
use crate::report::Report;
use crate::session;
use crate::sqlstate::CANNOT_CONNECT_NOW;
use crate::wire::error::{self, Severity};
use crate::wire::link::{Link, Stream};
use crate::wire::startup::{self, Opening};

/// What clients get, once it is there.
#[derive(Clone)]
pub(super) enum Serving {
    /// `site.type = "secondary"`
    Buffered(Arc<session::Shared>),
    /// `site.type = "main"`
    Straight(Arc<Straight>),
}

/// How many clients may be told at a time that the daemon is not ready.
const TURNED_AWAY_MAX: usize = 100;
const TURN_AWAY_TIME_MAX: Duration = Duration::from_secs(5);

/// Accepts until told to stop; then closes the door and waits, within bounds, for those inside.
pub(super) async fn run(
    listener: TcpListener,
    workers: Workers,
    serving: watch::Receiver<Option<Serving>>,
    stop: CancellationToken,
) {
    let inside = TaskTracker::new();
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Out of file descriptors, most likely: a pause gives others the time to close theirs.
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a client was gone before it was greeted");
            continue;
        }
        let serving = serving.borrow().clone();
        let served = match serving {
            Some(Serving::Buffered(shared)) => workers.serve(&inside, socket, |socket| session::run(socket, shared)),
            Some(Serving::Straight(straight)) => {
                let stop = stop.clone();
                workers.serve(&inside, socket, |socket| async move { straight.pass(socket, stop).await })
            }
            None => {
                if let Ok(place) = Arc::clone(&turned_away).try_acquire_owned() {
                    inside.spawn(async move {
                        let _ = tokio::time::timeout(TURN_AWAY_TIME_MAX, turn_away(socket)).await;
                        drop(place);
                    });
                }
                Ok(())
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a client was gone before it was served");
        }
    }
    drop(listener);
    inside.close();
    if tokio::time::timeout(SESSIONS_STOP_MAX, inside.wait()).await.is_err() {
        tracing::warn!(clients = inside.len(), "clients that did not finish are cut off");
    }
}

/// 57P03, as a server says that is starting up.
async fn turn_away(socket: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut link = Link::new(Stream::Tcp(socket));
    loop {
        let length = startup::length(&link.input)?.unwrap_or(usize::MAX);
        if link.input.len() < length {
            if link.fill().await? == 0 {
                return Ok(());
            }
            continue;
        }
        match startup::read(&link.input.split_to(length))? {
            Opening::Tls | Opening::Gss => link.output.extend_from_slice(b"N"),
            Opening::Cancel(_) => return Ok(()),
            Opening::Start { .. } | Opening::Unsupported { .. } => break,
        }
        link.drain().await?;
    }
    let report = Report::new(CANNOT_CONNECT_NOW, "pgoutpost is starting up")
        .detail("It waits for the replica and the buffer; its log says what for.");
    error::report(&mut link.output, Severity::Fatal, &report);
    Ok(link.drain().await?)
}
