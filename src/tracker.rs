//! Watches the replica: what it has of this site's entries, how far it has replayed main's log, and which catalog.
//!
//! Confirmed is what the replica's own ledger says, never what an LSN suggests: so failover, timeline switches and
//! logical replicas make no difference. LSNs are for people and for waiting. A replica that does not belong to main is not
//! believed (`identity`).

mod identity;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::buffer::Buffer;
use crate::catalog::{Catalog, CatalogHandle};
use crate::cluster::Standing;
use crate::entry::Seq;
use crate::lsn::Lsn;
use crate::upstream::own::{self, Server};

use identity::Identity;

/// The `[tracker]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrackerConfig {
    #[serde(with = "crate::config::duration")]
    pub poll_interval: Duration,
    /// How long one poll may take before the replica counts as away.
    #[serde(with = "crate::config::duration")]
    pub timeout: Duration,
}

impl Default for TrackerConfig {
    fn default() -> TrackerConfig {
        TrackerConfig { poll_interval: Duration::from_millis(100), timeout: Duration::from_secs(5) }
    }
}

/// What the last poll saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrackerStatus {
    /// The replica answers, and its rows may be shown.
    pub replica_up: bool,
    /// Whether it belongs to main.
    pub standing: Standing,
    /// When its process was started: tells one from the next at the same address.
    pub instance: String,
    pub timeline: Option<u32>,
    /// It is a standby.
    pub in_recovery: bool,
    pub replay_lsn: Option<Lsn>,
    pub receive_lsn: Option<Lsn>,
    /// What it has received and not replayed.
    pub lag_bytes: Option<u64>,
    /// The age of the last commit it has replayed; zero when it has replayed all it received.
    pub lag: Option<Duration>,
    /// Its ledger of this site; `None`: no row.
    pub ledger: Option<Seq>,
    pub catalog_version: Option<i64>,
    pub last_error: Option<String>,
}

/// Between two polls at least, however often replay reports.
const PAUSE_MIN: Duration = Duration::from_millis(5);

const POLL: &str = "SELECT (SELECT l.seq FROM pgoutpost.ledger l WHERE l.site = $1),
    (SELECT c.version FROM pgoutpost.catalog c),
    pg_catalog.pg_is_in_recovery(),
    pg_catalog.pg_last_wal_replay_lsn()::text,
    pg_catalog.pg_last_wal_receive_lsn()::text,
    extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())::float8,
    extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text";

/// Polls until shutdown, through every loss of the replica.
pub async fn run(
    buffer: Buffer,
    replica: impl Into<Server>,
    site: String,
    catalog: CatalogHandle,
    config: TrackerConfig,
    shutdown: CancellationToken,
    status: watch::Sender<TrackerStatus>,
) {
    let bound = catalog.current();
    let mut tracker = Tracker {
        buffer,
        replica: replica.into(),
        site,
        catalog,
        config,
        status,
        connection: None,
        bound,
        identity: Identity::default(),
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = tracker.watch() => {}
    }
    info!("tracker stopped");
}

struct Tracker {
    buffer: Buffer,
    replica: Server,
    site: String,
    catalog: CatalogHandle,
    config: TrackerConfig,
    status: watch::Sender<TrackerStatus>,
    connection: Option<(Client, Statement, Option<Statement>)>,
    identity: Identity,
    /// The catalog that the buffer binds entries with.
    bound: std::sync::Arc<Catalog>,
}

impl Tracker {
    async fn watch(&mut self) {
        let mut progress = self.buffer.progress();
        loop {
            let begun = Instant::now();
            let polled = match timeout(self.config.timeout, self.poll()).await {
                Ok(polled) => polled,
                Err(_) => Err(own::Error::Connection("the replica does not answer".to_owned())),
            };
            match polled {
                Ok((seen, who)) => self.seen(seen, who).await,
                Err(error) => self.away(&error),
            }
            self.bind().await;
            let applied = progress.borrow_and_update().applied;
            let moved = async {
                // The buffer outlives the tracker; a closed channel means that the daemon is ending.
                if progress.wait_for(|progress| progress.applied != applied).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                () = sleep(self.config.poll_interval.saturating_sub(begun.elapsed()).max(PAUSE_MIN)) => {}
                () = async { tokio::join!(moved, sleep(PAUSE_MIN)); } => {}
            }
        }
    }

    async fn poll(&mut self) -> Result<(TrackerStatus, Option<Row>), own::Error> {
        // Taken out: a poll that is given up half-way leaves no connection with an answer under way.
        let (client, statement, identity) = match self.connection.take().filter(|(client, ..)| !client.is_closed()) {
            Some(connection) => connection,
            None => {
                let client = self.replica.connect().await?;
                let statement = client.prepare(POLL).await?;
                let identity = identity::prepare(&client).await;
                info!("connected to the replica");
                (client, statement, identity)
            }
        };
        let (site, who): ([&(dyn ToSql + Sync); 1], _) = ([&self.site], identity::ask(&client, identity.as_ref()));
        let (seen, who) = tokio::join!(client.query_one(&statement, &site), who);
        let seen = read(&seen?)?;
        self.connection = Some((client, statement, identity));
        Ok((seen, who))
    }

    async fn seen(&mut self, mut seen: TrackerStatus, who: Option<Row>) {
        self.identity.judge(&self.buffer, &mut seen, who.as_ref());
        if !seen.standing.is_true() {
            // What it says of the ledger and of definitions is not main's.
            self.status.send_replace(seen);
            return;
        }
        let confirmed = self.buffer.progress().borrow().confirmed;
        if let Some(has) = seen.ledger.filter(|ledger| *ledger < confirmed)
            && let Ok(Some(kept)) = self.buffer.gap_after(has).await
        {
            seen.standing = Standing::TooOld { has, kept };
            if let Some(told) = seen.standing.told().filter(|_| self.status.borrow().standing != seen.standing) {
                error!("{told}. Clients are refused until then");
            }
            self.status.send_replace(seen);
            return;
        }
        if let Some(seq) = seen.ledger
            && seq != confirmed
        {
            debug!(%seq, "confirmed");
            self.buffer.confirm(seq);
        }
        let version = seen.catalog_version;
        self.status.send_replace(seen);
        if let Some(version) = version
            && version != self.catalog.current().version
        {
            // A version below ours is a replica restored from an older state: any load will do then.
            let newer = (version > self.catalog.current().version).then_some(version);
            if let Err(error) = self.catalog.reload(newer).await {
                warn!(%error, "the catalog stays as it was");
            }
        }
    }

    /// Hands a new catalog to the buffer, whoever loaded it. When names mean other tables or columns than before, the
    /// pending rows are bound again.
    async fn bind(&mut self) {
        let catalog = self.catalog.current();
        if std::sync::Arc::ptr_eq(&catalog, &self.bound) {
            return;
        }
        self.buffer.use_catalog(std::sync::Arc::clone(&catalog));
        if rebinds(&self.bound, &catalog)
            && let Err(error) = self.buffer.rebuild().await
        {
            warn!(%error, "the pending rows are still bound to the catalog before");
            return;
        }
        self.bound = catalog;
    }

    fn away(&mut self, error: &own::Error) {
        let text = error.to_string();
        self.buffer.replica_replayed(None);
        if self.status.borrow().last_error.as_deref() != Some(&text) {
            warn!(error = %text, "the replica cannot be polled");
        }
        self.status.send_modify(|status| {
            status.replica_up = false;
            status.last_error = Some(text);
        });
    }
}

fn read(row: &Row) -> Result<TrackerStatus, own::Error> {
    let lsn = |place: usize| -> Result<Option<Lsn>, own::Error> {
        let text: Option<&str> = row.try_get(place)?;
        text.map(|text| text.parse().map_err(|_| own::Error::Unexpected(text.to_owned()))).transpose()
    };
    let (replay_lsn, receive_lsn) = (lsn(3)?, lsn(4)?);
    let age: Option<f64> = row.try_get(5)?;
    let caught_up = receive_lsn.is_none() || replay_lsn >= receive_lsn;
    let age = age.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
    Ok(TrackerStatus {
        replica_up: true,
        in_recovery: row.try_get(2)?,
        replay_lsn,
        receive_lsn,
        lag_bytes: receive_lsn.zip(replay_lsn).map(|(received, replayed)| received.bytes_ahead_of(replayed)),
        lag: if caught_up { Some(Duration::ZERO) } else { age },
        ledger: row.try_get::<_, Option<i64>>(0)?.map(|seq| Seq(seq.max(0) as u64)),
        catalog_version: row.try_get(1)?,
        last_error: None,
        standing: Standing::Follows,
        instance: row.try_get(6)?,
        timeline: None,
    })
}

/// Whether an entry's names could mean something else in the new catalog.
fn rebinds(old: &Catalog, new: &Catalog) -> bool {
    let other = |name| {
        let (before, now) = (old.named(name), new.named(name));
        let columns = |table: &crate::catalog::Table| -> Vec<_> {
            let column = |column: &crate::catalog::Column| {
                (column.attnum, column.name.clone(), column.full_type_name.clone(), column.shape.clone())
            };
            table.columns.iter().map(column).collect()
        };
        match (before, now) {
            (Some(before), Some(now)) => {
                before.id != now.id || columns(before) != columns(now) || before.key != now.key
            }
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        }
    };
    old.by_name.keys().chain(new.by_name.keys()).any(other)
}
