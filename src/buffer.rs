//! The buffer: acknowledged transactions, durable in a log, and shown in the overlay until the replica has them.
//!
//! A [`Buffer`] is a handle, cheap to clone. Commits go through one task (`committer`); everybody reads the overlay
//! without a lock. Only this module knows Redis and the file log. It never acknowledges what is not durable and never shows what is not
//! acknowledged to be durable by the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, TableId};
use crate::entry::{Entry, Seq};
use crate::overlay::{Change, Overlay};
use crate::report::Report;
use crate::sqlstate;

mod committer;
#[cfg(test)]
mod contract;
pub mod file;
pub mod log;
mod mains;
#[cfg(any(test, debug_assertions))]
pub mod memory;
pub mod place;
mod published;
mod quarantine;
mod rebuild;
pub mod redis;
mod retention;
#[cfg(test)]
mod testing;
pub mod transfer;

pub use log::{LeaseBlock, LeaseRange, LogError};
pub use mains::{AcceptError, KnownMain, MainHas, Meeting};
pub use quarantine::records::{Pages, QuarantinePages};
pub use quarantine::{Act, ActError, Aside, Fate, Quarantined, Which};

use committer::{Committer, Job, Limits, QUEUE};
use log::{Log, READ_BYTES};
use mains::Mains;
use published::Published;
use rebuild::Rebuild;

/// The `[buffer]` section.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BufferConfig {
    pub url: String,
    /// How many entries may be pending.
    pub max_transactions: u64,
    /// How many bytes of entries may be pending.
    #[serde(with = "crate::config::size")]
    pub max_bytes: u64,
    /// How long entries stay in the log after the replica has them.
    #[serde(with = "crate::config::duration")]
    pub retention: Duration,
    /// Whether a log that can lose acknowledged entries is refused.
    pub require_durable: bool,
}

impl std::fmt::Debug for BufferConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BufferConfig")
            .field("url", &crate::config::mask(&self.url))
            .field("max_transactions", &self.max_transactions)
            .field("max_bytes", &self.max_bytes)
            .field("retention", &self.retention)
            .field("require_durable", &self.require_durable)
            .finish()
    }
}

impl Default for BufferConfig {
    fn default() -> BufferConfig {
        BufferConfig {
            url: "redis://127.0.0.1:6379".into(),
            max_transactions: 1_000_000,
            max_bytes: 1 << 30,
            retention: Duration::from_secs(24 * 3600),
            require_durable: true,
        }
    }
}

/// A transaction about to be committed.
#[derive(Debug)]
pub struct Draft {
    /// Its seq is set at commit.
    pub entry: Entry,
    /// The entry's effects in the catalog's numbers. Rows without a key are numbered by the place of their effect.
    pub changes: Vec<(TableId, Change)>,
}

/// How far the entries are on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The newest acknowledged entry.
    pub last: Seq,
    pub sent: Seq,
    pub applied: Seq,
    pub confirmed: Seq,
}

/// What the console and the metrics say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BufferStatus {
    pub pending: u64,
    pub pending_bytes: u64,
    /// The age of the oldest pending entry.
    pub oldest_pending: Option<Duration>,
    pub pending_rows: u64,
    pub quarantined: u64,
    pub available: bool,
    pub last_error: Option<String>,
    /// Why the log, which answers, refused the last commit, or what stands beside the entries: its disk is full, say. Until
    /// one succeeds.
    pub refusing: Option<String>,
    /// Entries appended since start.
    pub appended: u64,
}

impl BufferStatus {
    /// Whether commits are accepted, as far as is known.
    pub fn accepts(&self) -> bool {
        self.available && self.refusing.is_none()
    }

    /// Why they are not.
    pub fn error(&self) -> Option<&String> {
        self.last_error.as_ref().or(self.refusing.as_ref())
    }
}

/// The handle.
#[derive(Debug, Clone)]
pub struct Buffer {
    jobs: mpsc::Sender<Job>,
    published: Arc<Published>,
    log: LogHandle,
    catalog: Arc<ArcSwap<Catalog>>,
    /// Wakes the refresher of the overlay.
    refresh: Arc<Notify>,
    /// One command about quarantined entries at a time.
    acting: Arc<Mutex<()>>,
    mains: Mains,
}

#[derive(Clone)]
struct LogHandle(Arc<dyn Log>);

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

impl Buffer {
    /// Opens the log, taking it over from whoever had it, makes the overlay from the entries after
    /// `confirmed` (the replica's ledger), and starts the committer. The task ends at shutdown, or before when the
    /// log is lost to another process: then nothing can be written any more.
    ///
    /// # Errors
    /// When the log cannot be reached, is not durable, or cannot be read.
    pub async fn open(
        config: &BufferConfig,
        site: &str,
        catalog: Arc<Catalog>,
        confirmed: Seq,
        shutdown: CancellationToken,
    ) -> Result<(Buffer, JoinHandle<()>), BufferError> {
        let log = place::Place::of(config, site)?.into_log();
        Buffer::open_log(log, config, catalog, confirmed, shutdown).await
    }

    /// The same with any log.
    ///
    /// # Errors
    /// As [`Buffer::open`].
    pub async fn open_log(
        log: Arc<dyn Log>,
        config: &BufferConfig,
        catalog: Arc<Catalog>,
        confirmed: Seq,
        shutdown: CancellationToken,
    ) -> Result<(Buffer, JoinHandle<()>), BufferError> {
        let claim = log.claim(true, confirmed).await?;
        if claim.found < confirmed {
            tracing::error!(
                log = %claim.found, ledger = %confirmed,
                "the buffer ends before the replica's ledger: it was emptied or replaced. Going on after the ledger"
            );
        }
        let aside = quarantine::recall(&*log).await?;
        let mains = Mains::new(log.main_record().await?);
        let published = Arc::new(Published::new(claim.last, confirmed, aside));
        rebuild::from_log(&*log, &published, &catalog, Some(confirmed)).await?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let limits = Limits { transactions: config.max_transactions, bytes: config.max_bytes };
        let committer = Committer {
            log: Arc::clone(&log),
            published: Arc::clone(&published),
            jobs: queue,
            limits,
            shutdown: shutdown.clone(),
        };
        let (catalog, refresh) = (Arc::new(ArcSwap::new(catalog)), Arc::new(Notify::new()));
        let retention = retention::run(Arc::clone(&log), Arc::clone(&published), config.retention, shutdown.clone());
        let refresher = rebuild::refresher(
            Arc::clone(&log),
            Arc::clone(&published),
            Arc::clone(&catalog),
            jobs.downgrade(),
            Arc::clone(&refresh),
            shutdown,
        );
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = committer.run() => {}
                () = async { tokio::join!(retention, refresher); std::future::pending().await } => {}
            }
        });
        let acting = Arc::new(Mutex::new(()));
        Ok((Buffer { jobs, published, log: LogHandle(log), catalog, refresh, acting, mains }, task))
    }

    /// Makes a transaction durable and shows it to everybody. When this future is dropped the transaction may still
    /// be committed.
    ///
    /// # Errors
    /// See [`CommitError`]; all but `Unknown` are certain.
    pub async fn commit(&self, draft: Draft) -> Result<Seq, CommitError> {
        if let Some(why) = self.published.away() {
            return Err(CommitError::Unavailable(why));
        }
        let (reply, answer) = oneshot::channel();
        let stopped = || CommitError::Unavailable("the daemon is stopping".into());
        self.jobs.send(Job::Commit { draft: Box::new(draft), reply }).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(CommitError::Unknown("the daemon stopped meanwhile".into())))
    }

    /// Everything acknowledged that the replica may not have yet.
    pub fn overlay(&self) -> Arc<Overlay> {
        self.published.overlay()
    }

    /// Where the entries are; wakes with every change.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.published.subscribe()
    }

    /// Replay may have sent entries up to this one.
    pub fn set_sent(&self, seq: Seq) {
        self.published.set_sent(seq);
    }

    /// Main has entries up to this one. Goes back when main does.
    pub fn set_applied(&self, seq: Seq) {
        self.published.set_applied(seq);
    }

    /// The replica's ledger says it has entries up to this one. A ledger behind an earlier one (the replica was
    /// restored) brings entries back into the overlay, shortly after.
    pub fn confirm(&self, seq: Seq) {
        if seq >= self.published.progress().confirmed {
            self.published.confirm(seq);
            return;
        }
        tracing::error!(ledger = %seq, "the replica went back to an older state; rebuilding the overlay");
        let job = Rebuild {
            catalog: self.catalog.load_full(),
            confirmed: Some(seq),
            of: Some(self.published.generation()),
            begun: None,
            done: oneshot::channel().0,
        };
        if self.jobs.try_send(Job::Rebuild(job)).is_err() {
            // Nothing changed: the tracker's next report comes here again.
            tracing::warn!("the committer is busy; the overlay is rebuilt at the next report");
        }
    }

    /// The catalog that overlays are made with.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// Names the catalog that overlays are rebuilt with from now on.
    pub fn use_catalog(&self, catalog: Arc<Catalog>) {
        self.catalog.store(catalog);
    }

    /// Up to `limit` published entries after `after`, in order, quarantined ones among them
    /// ([`Buffer::is_quarantined`]). No more at a time than are to be in memory, and one at least: only an empty answer means
    /// that nothing follows.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn read(&self, after: Seq, limit: usize) -> Result<Vec<Arc<Entry>>, BufferError> {
        let last = self.published.progress().last;
        if after >= last {
            return Ok(Vec::new());
        }
        let records = match self.published.recent_after(after, limit, READ_BYTES) {
            Some(records) => records,
            None => self.log.0.read(after, limit, READ_BYTES).await?,
        };
        Ok(records.into_iter().map(|record| record.entry).filter(|entry| entry.seq <= last).collect())
    }

    /// The oldest entry after this one that is kept, when it is not the next: an overlay for a replica that is at `seq` cannot
    /// be made.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn gap_after(&self, seq: Seq) -> Result<Option<Seq>, BufferError> {
        let last = self.published.progress().last;
        if seq >= last {
            return Ok(None);
        }
        let kept = self.log.0.read(seq, 1, READ_BYTES).await?.first().map_or(last.next(), log::Record::seq);
        Ok((kept != seq.next()).then_some(kept))
    }

    /// Whether no other process has taken the log over, as of now.
    ///
    /// # Errors
    /// When one has, or the log does not answer.
    pub async fn still_ours(&self) -> Result<(), BufferError> {
        Ok(self.log.0.probe().await.map(drop)?)
    }

    /// What is left of the leases, by sequence.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn leases(&self) -> Result<BTreeMap<String, LeaseBlock>, BufferError> {
        Ok(self.log.0.leases().await?)
    }

    /// Makes what is left of a lease durable.
    ///
    /// # Errors
    /// When the log does not answer; then it may or may not be stored.
    pub async fn store_lease(&self, sequence: &str, block: &LeaseBlock) -> Result<(), BufferError> {
        let stored = self.log.0.store_lease(sequence, block).await;
        self.published.answered_aside(&stored);
        Ok(stored?)
    }

    /// The counts.
    pub fn status(&self) -> BufferStatus {
        self.published.status()
    }

    /// Makes the overlay anew from the log, with the newest catalog.
    ///
    /// # Errors
    /// When the log does not answer: the overlay stays as it is.
    pub async fn rebuild(&self) -> Result<(), BufferError> {
        let (done, answer) = oneshot::channel();
        let job = Rebuild { catalog: self.catalog.load_full(), confirmed: None, of: None, begun: None, done };
        self.jobs.send(Job::Rebuild(job)).await.map_err(|_| BufferError::Stopped)?;
        Ok(answer.await.map_err(|_| BufferError::Stopped)??)
    }
}

/// Why the buffer could not be opened or asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BufferError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the buffer has stopped")]
    Stopped,
}

/// Why a transaction was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The log is not there. Not committed.
    #[error("the buffer is not available: {0}")]
    Unavailable(String),
    /// The log is there and says no. Not committed.
    #[error("the buffer refused the transaction: {0}")]
    Refused(String),
    /// As much is pending as may be. Not committed.
    #[error("the buffer is full: {what} is {limit}")]
    Full { what: &'static str, limit: u64 },
    /// Not committed.
    #[error("the transaction takes {bytes} bytes in the buffer, more than {max}")]
    TooLarge { bytes: u64, max: u64 },
    /// Perhaps committed.
    #[error("it is unknown whether the transaction was committed: {0}")]
    Unknown(String),
}

impl CommitError {
    /// What the client is told.
    pub fn report(&self) -> Report {
        let report = |code| Report::new(code, self.to_string());
        match self {
            CommitError::Unavailable(_) => report(sqlstate::CANNOT_CONNECT_NOW)
                .hint("Nothing was written. Reads go on; try again when the buffer is back."),
            CommitError::Refused(_) => report(sqlstate::CONFIGURATION_LIMIT_EXCEEDED)
                .hint("Nothing was written. Look at the memory, disk and configuration of the buffer's Redis, or at the room on the buffer's disk."),
            CommitError::Full { .. } => report(sqlstate::CONFIGURATION_LIMIT_EXCEEDED).hint(
                "Nothing was written. The buffer drains when the main database can be reached; or raise the limit in [buffer].",
            ),
            CommitError::TooLarge { .. } => {
                report(sqlstate::PROGRAM_LIMIT_EXCEEDED).hint("Split the transaction into smaller ones.")
            }
            CommitError::Unknown(_) => report(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN)
                .hint("Look whether its rows are there before doing it again."),
        }
    }
}
