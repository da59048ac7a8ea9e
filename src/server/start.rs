//! Brings a secondary site up: what does not answer is waited for, what is wrong is reported.
//!
//! Main is not needed to start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::ServerError;
use super::accept::Serving;
use super::parts::Parts;
use super::source::Running;
use crate::buffer::{Buffer, BufferError, LogError};
use crate::catalog::{Catalog, CatalogHandle};
use crate::config::Config;
use crate::entry::Seq;
use crate::ids::Leases;
use crate::ids::source::MainSequences;
use crate::replay::QuarantinedReads;
use crate::session::cancel::Cancels;
use crate::session::locks::Locks;
use crate::session::processes::Processes;
use crate::session::sides::Sides;
use crate::session::statements::Statements;
use crate::session::trust::Trust;
use crate::session::{Limits, Shared};
use crate::status::{ReplayStatus, Status, TrackerStatus};
use crate::upstream::own;
use crate::{replay, tracker};

/// The pause between attempts at a server that does not answer.
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn start(
    config: &Config,
    status: &Status,
    running: &Arc<Running>,
    parts: &mut Parts,
    sessions: CancellationToken,
) -> Result<Serving, ServerError> {
    let main = own::parse_url(&config.main.url).map_err(|error| ServerError::Url { key: "main.url", error })?;
    let replica =
        own::parse_url(&config.replica.url).map_err(|error| ServerError::Url { key: "replica.url", error })?;
    let catalog = insist("the replica's catalog", || CatalogHandle::open(replica.clone())).await;
    for table in crate::check::unknown(&catalog.current(), config.replay.conflicts.keys().map(String::as_str)) {
        tracing::warn!(
            table,
            "[replay.conflicts] names a table that is not there: last-write-wins, until there is one of that name"
        );
    }
    let confirmed = insist("the replica's ledger", || ledger(&replica, &config.site.name)).await;
    let buffer = open_buffer(config, catalog.current(), (&replica, confirmed), parts).await?;
    buffer.show_quarantined(config.replay.quarantined_reads == QuarantinedReads::Show);
    running.set_buffer(buffer.clone());
    running.set_replica(replica.clone(), config.site.name.clone());
    let leases = Leases::open(config.ids, buffer.clone(), MainSequences::new(main.clone())).await?;
    running.set_leases(leases.clone());
    parts.add("catalog follower", |stop| follow(catalog.clone(), leases.clone(), stop));
    let (tell, watched) = watch::channel(TrackerStatus::default());
    running.set_tracker(watched);
    let (site, tracking) = (config.site.name.clone(), config.tracker.clone());
    parts.add("tracker", |stop| {
        tracker::run(buffer.clone(), replica.clone(), site, catalog.clone(), tracking, stop, tell)
    });
    let (tell, watched) = watch::channel(ReplayStatus::default());
    let watched_main = watched.clone();
    running.set_replay(watched);
    let (site, replaying) = (config.site.name.clone(), config.replay.clone());
    let (mains, verified) = (watched_main.clone(), leases.clone());
    parts.add("verifier of leases", |stop| verify(mains, verified, stop));
    let (site_name, retention) = (config.site.name.clone(), config.replay.conflict_retention);
    parts.add("retention of conflicts", |stop| replay::keep_conflicts(main.clone(), site_name, retention, stop));
    parts.add("replay", |stop| replay::run(buffer.clone(), main.clone(), site, replaying, stop, tell));
    let trust = Trust::default();
    let (watched, told) = (running.tracker(), trust.clone());
    parts.add("trust in the replica", |stop| told.follow(watched, stop));
    let message = usize::try_from(config.listen.message_max).unwrap_or(usize::MAX);
    let limits = Limits { message, keep_main: config.main.keep, ..Limits::default() };
    Ok(Serving::Buffered(Arc::new(Shared {
        site: config.site.name.clone(),
        database: status.about().database.clone(),
        catalog,
        buffer,
        leases,
        replica,
        main,
        locks: Locks::default(),
        sides: Sides::default(),
        cancels: Cancels::default(),
        processes: Processes::default(),
        statements: Statements::default(),
        status: status.clone(),
        limits,
        compared: config.replay.conflicts.iter().map(|(name, policy)| (name.clone(), policy.compares())).collect(),
        slots: Arc::new(Semaphore::new(limits.clients)),
        shutdown: sessions,
        trust,
    })))
}

/// Asks until there is an answer, and says what it waits for: once for each new reason.
async fn insist<T, E, F>(what: &'static str, ask: impl Fn() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut told = String::new();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                let reason = error.to_string();
                if reason != told {
                    tracing::warn!(waiting_for = what, error = %reason, "not serving clients yet");
                    told = reason;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum LedgerError {
    #[error(transparent)]
    Server(#[from] own::Error),
    #[error("site {0:?} is not in the replica's ledger: run `pgoutpost setup`, and wait for replication")]
    NotSetUp(String),
}

/// The last entry of the site which the replica has.
async fn ledger(replica: &own::Config, site: &str) -> Result<Seq, LedgerError> {
    let client = own::connect(replica).await?;
    let row = client
        .query_opt("SELECT seq FROM pgoutpost.ledger WHERE site = $1", &[&site])
        .await
        .map_err(own::Error::from)?
        .ok_or_else(|| LedgerError::NotSetUp(site.to_owned()))?;
    let seq: i64 = row.try_get(0).map_err(own::Error::from)?;
    Ok(Seq(seq.max(0) as u64))
}

async fn open_buffer(
    config: &Config,
    catalog: Arc<Catalog>,
    (replica, mut confirmed): (&own::Config, Seq),
    parts: &mut Parts,
) -> Result<Buffer, ServerError> {
    let mut told = String::new();
    let thread = parts.thread("buffer").map_err(ServerError::Threads)?;
    loop {
        let stop = parts.token();
        let (buffer, site) = (config.buffer.clone(), config.site.name.clone());
        let (catalog, token) = (Arc::clone(&catalog), stop.clone());
        let opened = thread.spawn(async move { Buffer::open(&buffer, &site, catalog, confirmed, token).await });
        let error = match opened.await.unwrap_or(Err(BufferError::Stopped)) {
            Ok((buffer, task)) => {
                parts.adopt("buffer", stop, task);
                return Ok(buffer);
            }
            Err(error) => error,
        };
        match &error {
            BufferError::Log(LogError::Refused(_) | LogError::Doubtful(_)) => {}
            // It may still be replaying what main has sent it.
            BufferError::Log(LogError::ReplicaTooOld { .. }) => {
                confirmed = insist("the replica's ledger", || ledger(replica, &config.site.name)).await;
            }
            BufferError::Log(
                LogError::Fenced(_)
                | LogError::Conflict(_)
                | LogError::Lost { .. }
                | LogError::NotDurable(_)
                | LogError::Corrupt(_),
            )
            | BufferError::Stopped => return Err(error.into()),
        }
        let reason = error.to_string();
        if reason != told {
            tracing::warn!(waiting_for = "the buffer", error = %reason, "not serving clients yet");
            told = reason;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Holds the leases against main's sequences whenever replay has connected: main may be at an older state.
async fn verify(mut replay: watch::Receiver<ReplayStatus>, leases: Leases, stop: CancellationToken) {
    let mut seen = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            connected = replay.wait_for(|status| status.connections_total > seen) => match connected {
                Ok(status) => seen = status.connections_total,
                Err(_) => return,
            }
        }
        leases.verify().await;
    }
}

/// Leases ahead for the sequences of each new catalog, so that they are there when main is not.
async fn follow(catalog: CatalogHandle, leases: Leases, stop: CancellationToken) {
    let mut versions = catalog.subscribe();
    loop {
        let sequences = catalog.current().sequences.iter().map(|(name, made)| (Arc::clone(name), *made)).collect();
        let prepared = async {
            leases.prepare(sequences).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = versions.changed() => if changed.is_err() { return },
            () = prepared => {}
        }
    }
}
