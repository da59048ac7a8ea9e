//! `site.type = "main"`: everything passes to main as it comes, encryption, cancel requests and all.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ServerError;
use super::accept::Serving;
use super::parts::Parts;
use super::source::Running;
use crate::config::{Config, Place};
use crate::status::{ReplayState, ReplayStatus};
use crate::upstream::own;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Where everything goes.
pub(super) struct Straight {
    address: String,
}

/// Starts watching main; there is nothing else to build.
pub(super) fn start(config: &Config, running: &Running, parts: &mut Parts) -> Result<Serving, ServerError> {
    let main = own::parse_url(&config.main.url).map_err(|error| ServerError::Url { key: "main.url", error })?;
    let address = Place::of(&config.main.url).map(|place| place.address).unwrap_or_default();
    let (tell, watched) = watch::channel(ReplayStatus::default());
    running.set_replay(watched);
    parts.add("probe of main", |stop| probe(main, tell, stop));
    Ok(Serving::Straight(Arc::new(Straight { address })))
}

impl Straight {
    /// One client's bytes, both ways, until either side ends.
    pub(super) async fn pass(&self, mut client: TcpStream, stop: CancellationToken) {
        let connected = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(&self.address)).await;
        let mut main = match connected {
            Ok(Ok(main)) => main,
            Ok(Err(error)) => return tracing::warn!(%error, "no connection to main for a client"),
            Err(_) => return tracing::warn!("no connection to main for a client: it does not answer"),
        };
        if let Err(error) = main.set_nodelay(true) {
            return tracing::debug!(%error, "main hung up");
        }
        tokio::select! {
            passed = copy_bidirectional(&mut client, &mut main) => if let Err(error) = passed {
                tracing::debug!(%error, "a passed connection broke");
            },
            () = stop.cancelled() => {}
        }
    }
}

async fn probe(main: own::Config, tell: watch::Sender<ReplayStatus>, stop: CancellationToken) {
    let mut interval = tokio::time::interval(PROBE_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        let answer = own::connect(&main).await;
        tell.send_modify(|status| {
            status.link_up = answer.is_ok();
            status.state = if answer.is_ok() { ReplayState::Idle } else { ReplayState::Waiting };
            status.last_error = answer.err().map(|error| error.to_string());
        });
    }
}
