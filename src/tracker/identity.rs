//! Which server the replica is, and whether what it shows is a beginning of main's history.

use tokio_postgres::{Client, Row, Statement};
use tracing::{debug, error, info, warn};

use super::TrackerStatus;
use crate::buffer::Buffer;
use crate::cluster::{self, MainServer, ReplicaServer, Standing};
use crate::entry::Seq;

/// The timeline of what it has received is exact, and there while it streams (and only for those who may see it); what
/// its control file says may be an earlier one.
const IDENTITY: &str = "SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
    (SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)
       FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() r),
    (SELECT w.received_tli FROM pg_catalog.pg_stat_wal_receiver w),
    EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver)";

/// What is known of the replica's process: between two starts it can be promoted, but not become another.
#[derive(Debug, Default)]
pub(super) struct Identity {
    instance: String,
    server: ReplicaServer,
    /// Its ledger of this site at the last poll.
    ledger: Option<Seq>,
    /// Replay found main without what this replica holds.
    diverged: bool,
    /// It was on a later timeline than main when main had answered so often.
    later: Option<u64>,
    /// How often replay had found that.
    older_seen: u64,
    last: Standing,
}

pub(super) async fn prepare(client: &Client) -> Option<Statement> {
    match client.prepare(IDENTITY).await {
        Ok(statement) => Some(statement),
        Err(error) => {
            debug!(%error, "the replica does not say which server it is");
            None
        }
    }
}

/// Asks; without the right to know there is nothing to judge by.
pub(super) async fn ask(client: &Client, statement: Option<&Statement>) -> Option<Row> {
    client.query_one(statement?, &[]).await.ok()
}

impl Identity {
    /// Judges what the last poll saw, and tells of a change.
    pub(super) fn judge(&mut self, buffer: &Buffer, seen: &mut TrackerStatus, row: Option<&Row>) {
        let known = buffer.known_main();
        let main_was_found_older = known.older_than_replica > self.older_seen;
        self.older_seen = known.older_than_replica;
        if self.instance != seen.instance {
            *self = Identity { instance: seen.instance.clone(), older_seen: self.older_seen, ..Identity::default() };
        } else if main_was_found_older && known.found_older.lacks(self.ledger, self.server.replayed) {
            // By what the last poll saw, before it could follow that main further. Another process may have held it.
            self.diverged = true;
        }
        self.ledger = seen.ledger;
        self.server.in_recovery = seen.in_recovery;
        self.server.replayed = seen.replay_lsn;
        self.read(row);
        let cluster = known.record.as_ref().map(|record| record.system_identifier);
        let standing = match cluster::judge(&self.server, cluster, known.server.as_ref()) {
            Standing::Follows | Standing::LeftBehind { .. } if self.diverged => {
                Standing::Diverged("main came back at an older state")
            }
            // Main may have gone away a moment ago, and the replica be where it went: main must answer once more first.
            Standing::Diverged(_) if self.is_later(known.server.as_ref(), known.answers) => Standing::Follows,
            Standing::Diverged(why) => {
                self.diverged = true;
                Standing::Diverged(why)
            }
            standing => standing,
        };
        if standing != self.last {
            match standing.told() {
                Some(told) if standing.is_true() => warn!("{told}"),
                Some(told) => error!("{told}. Clients are refused until then"),
                None => info!("the replica follows main"),
            }
        }
        self.last = standing.clone();
        seen.last_error = standing.told();
        seen.replica_up = standing.is_true();
        seen.timeline = self.server.timeline;
        seen.standing = standing;
        buffer.replica_replayed(seen.replay_lsn.filter(|_| seen.replica_up));
    }

    /// Whether it has just come to be on a later timeline than the main that replay knows.
    fn is_later(&mut self, main: Option<&MainServer>, answers: u64) -> bool {
        if self.server.timeline <= main.map(|main| main.timeline) {
            self.later = None;
            return false;
        }
        // The next answer may have been on its way.
        answers < *self.later.get_or_insert(answers) + 2
    }

    fn read(&mut self, row: Option<&Row>) {
        let Some(row) = row else { return };
        let number =
            |place: usize| row.try_get::<_, Option<i32>>(place).ok().flatten().and_then(|n| u32::try_from(n).ok());
        let identifier = row.try_get::<_, Option<&str>>(0).ok().flatten();
        self.server.system_identifier = identifier.and_then(|text| text.parse().ok()).or(self.server.system_identifier);
        let (filed, received) = (number(1), number(2));
        let streams = row.try_get::<_, bool>(3).unwrap_or(false);
        // It streams and we may not see on which timeline: then what the file says is no evidence.
        let now = if streams && received.is_none() { None } else { filed.max(received) };
        // A server never goes back to an earlier timeline without a restart.
        self.server.timeline = now.map(|now| self.server.timeline.map_or(now, |before| before.max(now)));
    }
}
