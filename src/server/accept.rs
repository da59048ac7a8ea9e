//! New clients: each gets a task of its own, or a reason why not.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::SESSIONS_STOP_MAX;
use super::straight::Straight;

/// What clients get, once it is there.
#[derive(Clone)]
pub(super) enum Serving {
    /// `site.type = "main"`
    Straight(Arc<Straight>),
}

/// How many clients may be told at a time that the daemon is not ready.
const TURNED_AWAY_MAX: usize = 100;
const TURN_AWAY_TIME_MAX: Duration = Duration::from_secs(5);

/// Accepts until told to stop; then closes the door and waits, within bounds, for those inside.
pub(super) async fn run(listener: TcpListener, serving: watch::Receiver<Option<Serving>>, stop: CancellationToken) {
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
        match serving {
            Some(Serving::Straight(straight)) => {
                let stop = stop.clone();
                inside.spawn(async move { straight.pass(socket, stop).await });
            }
            None => {
                if let Ok(place) = Arc::clone(&turned_away).try_acquire_owned() {
                    inside.spawn(async move {
                        let _ = tokio::time::timeout(TURN_AWAY_TIME_MAX, turn_away(socket)).await;
                        drop(place);
                    });
                }
            }
        }
    }
    drop(listener);
    inside.close();
    if tokio::time::timeout(SESSIONS_STOP_MAX, inside.wait()).await.is_err() {
        tracing::warn!(clients = inside.len(), "clients that did not finish are cut off");
    }
}

/// 57P03, as a server says that is starting up.
async fn turn_away(socket: TcpStream) {
    drop(socket);
}
