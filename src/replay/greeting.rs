//! The beginning of a connection to main: settings, who main is, and the place to go on from.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_postgres::{Client, Row};
use tracing::{info, warn};

use super::Ending;
use super::flight::Frame;
use super::ledger::{self, Known, Ledger, NoLedger};
use super::session::{GROUP_ENTRIES, Link, STALL, Session, ended};
use super::verdict::StepKind;
use crate::entry::Seq;

/// The connection's own settings. Locks: rather let go and try again than hold the ledger's row. Time-outs: main shall
/// notice a dead link too, and set our locks free.
const SETTINGS: &str =
    "SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET lc_monetary = 'C';
SET lock_timeout = '10s'; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = '60s';
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '20s'; SET client_min_messages = error";

/// Which server main is, and on which timeline.
const IDENTITY: &str = "SELECT system_identifier::text,
    pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) FROM pg_catalog.pg_control_system()";

impl Session<'_> {
    pub(super) async fn connect(&mut self) -> Result<Link, Ending> {
        let client = self.main.connect().await.map_err(|error| ended(StepKind::Begin, error))?;
        let limit = timeout(STALL, self.greet(&client)).await;
        let (frame, role) = limit.map_err(|_| Ending::Away("main does not answer".to_owned()))??;
        Ok(Link { client: Arc::new(client), frame, role })
    }

    /// Settings, identity, and the place to go on from. Asked all at once, and with them what will be needed next: over a
    /// slow link each question asked alone would cost a round trip.
    async fn greet(&mut self, client: &Client) -> Result<(Frame, String), Ending> {
        let begin = |error| ended(StepKind::Begin, error);
        let applied = self.buffer.progress().borrow().applied;
        let next = self.buffer.read(applied, GROUP_ENTRIES).await.unwrap_or_default();
        let (settings, who, server, found, frame, _) = tokio::join!(
            client.batch_execute(SETTINGS),
            client.query_typed_one("SELECT pg_catalog.pg_is_in_recovery(), session_user::text", &[]),
            client.query_typed_one(IDENTITY, &[]),
            ledger::read(client, self.site),
            Frame::prepare(client),
            // Only to know them already; what goes wrong here goes wrong again when they are needed.
            self.statements.tables(client, &next),
        );
        settings.map_err(|error| begin(error.into()))?;
        let read = |row: Row| Ok((row.try_get::<_, bool>(0)?, row.try_get::<_, String>(1)?));
        let (in_recovery, role) = who.and_then(read).map_err(|error: tokio_postgres::Error| begin(error.into()))?;
        if in_recovery {
            return Err(Ending::Refused("the server of [main] url is a standby".to_owned()));
        }
        // A user without the right to ask is no reason not to replay.
        if let Ok(server) = server {
            self.identify(&server);
        }
        self.settle(found).await?;
        let frame = frame.map_err(|error| ended(StepKind::Advance, error))?;
        self.status.send_modify(|status| status.link_up = true);
        info!(from = %self.sent.next(), "connected to main");
        Ok((frame, role))
    }

    /// Remembers which server main is, and reports a change.
    fn identify(&mut self, server: &Row) {
        let (Ok(identifier), Ok(timeline)) = (server.try_get::<_, String>(0), server.try_get::<_, String>(1)) else {
            return;
        };
        let (identifier, timeline) = (identifier.parse().ok(), u32::from_str_radix(&timeline, 16).ok());
        self.status.send_modify(|status| {
            let before = (status.system_identifier, status.timeline);
            if before.0.is_some() && before != (identifier, timeline) {
                warn!(?before, now = ?(identifier, timeline), "main is another server or was promoted; its ledger decides");
            }
            (status.system_identifier, status.timeline) = (identifier, timeline);
        });
    }

    /// Asks main's ledger where to go on.
    pub(super) async fn find_place(&mut self, client: &Client) -> Result<(), Ending> {
        let found = ledger::read(client, self.site).await;
        self.settle(found).await
    }

    /// Goes on from where main's ledger is.
    async fn settle(&mut self, found: Result<Ledger, NoLedger>) -> Result<(), Ending> {
        let found = found.map_err(|error| match error {
            NoLedger::Missing(advice) => Ending::Halted(advice.to_owned()),
            NoLedger::Failed(error) => ended(StepKind::Advance, error),
        })?;
        let progress = *self.buffer.progress().borrow();
        let known = self.known(found, progress.last).await?;
        if let Some(obstacle) = ledger::obstacle(found, known) {
            return Err(Ending::Halted(obstacle));
        }
        if found.seq < progress.applied {
            warn!(ledger = %found.seq, applied = %progress.applied, "main lost commits (failover or restore); applying them again");
        }
        self.flights.clear();
        self.sent = found.seq;
        self.buffer.set_applied(found.seq);
        self.status.send_modify(|status| status.ledger = Some(found.seq));
        Ok(())
    }

    async fn known(&mut self, found: Ledger, last: Seq) -> Result<Known, Ending> {
        let before = Seq(found.seq.0.saturating_sub(1));
        let around = self.buffer.read(before, 2).await.map_err(|error| Ending::Refused(error.to_string()))?;
        let at = |seq: Seq| around.iter().find(|entry| entry.seq == seq);
        let at_ledger = if found.seq == Seq::ZERO { None } else { at(found.seq).map(|entry| entry.uuid) };
        Ok(Known { last, at_ledger, next_is_there: at(found.seq.next()).is_some() })
    }
}
