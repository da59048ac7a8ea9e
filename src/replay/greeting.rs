//! The beginning of a connection to main: settings, who main is, and the place to go on from.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_postgres::{Client, Row};
use tracing::{debug, error, info, warn};

use super::Ending;
use super::flight::Frame;
use super::ledger::{self, Known, Ledger, NoLedger};
use super::session::{Link, STALL, Session, ended};
use super::verdict::StepKind;
use crate::buffer::{MainHas, Meeting, Progress};
use crate::cluster::{History, MainServer};
use crate::entry::Seq;
use crate::lsn::Lsn;
use crate::setup::{REPLAY_VERSION, SCHEMA_VERSION};
use crate::upstream::own;

/// The connection's own settings. The first: how values and names are written, whatever main's are. Locks: rather let go and try again than hold the ledger's row. Time-outs: main shall
/// notice a dead link too, and set our locks free. Read only: when a BEGIN (READ WRITE) fails, what was sent after it must
/// not be done statement by statement.
const SETTINGS: &str =
    "SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET lc_monetary = 'C';
SET extra_float_digits = 1; SET bytea_output = 'hex'; SET array_nulls = on; SET xmloption = 'content'; SET quote_all_identifiers = off;
SET lock_timeout = '10s'; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = '60s';
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '20s'; SET default_transaction_read_only = on; SET client_min_messages = error";

/// Which server main is, on which timeline, and how far.
const IDENTITY: &str = "SELECT system_identifier::text,
    pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8),
    pg_catalog.pg_current_wal_flush_lsn()::text FROM pg_catalog.pg_control_system()";

/// What was known before main was asked: less than that main cannot have, unless it went back.
#[derive(Clone, Copy)]
pub(super) struct Before {
    progress: Progress,
    /// What this process, or one before it, has noted of main.
    noted: Seq,
    /// How far the replica was.
    replayed: Option<Lsn>,
}

impl Before {
    /// A process that has just started knows by the replica's ledger only, which may be as old as main's.
    fn applied(&self) -> Seq {
        self.progress.applied.max(self.noted)
    }
}

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
        let before = self.before();
        let (applied, group) = (before.progress.applied, self.config.group as usize);
        let next = self.ahead.group(self.buffer, applied, group).await.unwrap_or_default().0;
        let (settings, version, who, server, history, found, frame, _) = tokio::join!(
            client.batch_execute(SETTINGS),
            client.query_typed_one("SELECT pgoutpost.schema_version()", &[]),
            client.query_typed_one("SELECT pg_catalog.pg_is_in_recovery(), session_user::text", &[]),
            client.query_typed_one(IDENTITY, &[]),
            client.query_typed_one("SELECT pgoutpost.timeline_history()", &[]),
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
        let history = history.ok().and_then(|row| row.try_get::<_, Option<String>>(0).ok()?);
        let server = match server.map_err(own::Error::from) {
            Ok(row) => described(&row, history.as_deref()),
            Err(error) if error.code().is_some_and(|code| code.class() == "42") => None,
            // Without it the numbers of tables and columns would mean nothing, and names not what they meant.
            Err(error) => return Err(begin(error)),
        };
        let place = match server {
            Some((server, place)) => {
                self.identify(server, &found).await?;
                Some(place)
            }
            // A user without the right to ask is no reason not to replay.
            None => {
                debug!("main does not say which server it is");
                self.buffer.no_main();
                None
            }
        };
        self.settle(found, before, place).await?;
        // An older schema lacks what our statements call: nothing may be rejected for that.
        let version = version.and_then(|row| row.try_get::<_, i32>(0));
        let version = version.map_err(|error: tokio_postgres::Error| begin(error.into()))?;
        self.note_schema(version);
        if version < REPLAY_VERSION {
            return Err(Ending::Halted(format!(
                "the schema on main is of version {version}, replay needs {REPLAY_VERSION}: run `pgoutpost setup` of this program"
            )));
        }
        let frame = frame.map_err(|error| ended(StepKind::Advance, error))?;
        self.take_over(client).await?;
        self.status.send_modify(|status| {
            status.link_up = true;
            status.connections_total += 1;
        });
        info!(from = %self.sent.next(), "connected to main");
        Ok((frame, role))
    }

    /// Says once when main's schema is not the one that this program makes.
    fn note_schema(&self, version: i32) {
        let before = self.status.borrow().schema_version;
        if before != Some(version) && version != SCHEMA_VERSION {
            let hint = if version < SCHEMA_VERSION {
                "run `pgoutpost setup` of this program"
            } else {
                "bring this site's pgoutpost up to date"
            };
            warn!(
                on_main = version,
                ours = SCHEMA_VERSION,
                hint,
                "the schema on main is of another version than this program's"
            );
        }
        self.status.send_modify(|status| status.schema_version = Some(version));
    }

    /// Has main listen to this connection only, as a replayer of this site. Until then a transaction of an earlier connection,
    /// or of the daemon that had the buffer before, may still commit: what we put aside meanwhile would be applied all the same.
    /// The buffer is asked afterwards: whoever has it now takes main over after us.
    async fn take_over(&mut self, client: &Client) -> Result<(), Ending> {
        let before = self.before();
        let taken = ledger::take_over(client, self.site).await;
        self.settle(taken, before, None).await?;
        self.buffer.still_ours().await.map_err(|error| Ending::Refused(error.to_string()))
    }

    /// Remembers which server main is, and reports a change. Nothing goes to another cluster before an operator has said so.
    async fn identify(&mut self, server: MainServer, found: &Result<Ledger, NoLedger>) -> Result<(), Ending> {
        let (identifier, timeline) = (server.system_identifier, server.timeline);
        self.definitions.cluster = Some(identifier);
        let meeting = self.buffer.meet_main(&server).await.map_err(|error| Ending::Refused(error.to_string()))?;
        self.status.send_modify(|status| {
            (status.system_identifier, status.timeline) = (Some(identifier), Some(timeline));
        });
        match meeting {
            Meeting::First | Meeting::Same => Ok(()),
            Meeting::OtherTimeline { before } => {
                warn!(before, now = timeline, "main is on another timeline (promoted or restored); its ledger decides");
                Ok(())
            }
            Meeting::Other { known } => {
                if let Ok(found) = found {
                    // What this main does not have must not leave the buffer while the operator thinks.
                    let applied = self.buffer.progress().borrow().applied;
                    self.buffer.set_applied(applied.min(found.seq));
                }
                Err(Ending::Halted(format!(
                    "main is another cluster: its system identifier is {identifier}, this site belongs to {known}. If that \
                     is meant, `pgoutpost accept-main` goes on with it; else correct [main] url"
                )))
            }
        }
    }

    pub(super) fn before(&self) -> Before {
        let known = self.buffer.known_main();
        let noted = known.record.map(|record| record.applied).unwrap_or_default();
        Before { progress: *self.buffer.progress().borrow(), noted, replayed: known.replayed }
    }

    /// Asks main's ledger where to go on.
    pub(super) async fn find_place(&mut self, client: &Client) -> Result<(), Ending> {
        let before = self.before();
        let found = ledger::read(client, self.site).await;
        self.settle(found, before, None).await
    }

    /// Goes on from where main's ledger is. `place`: how far main's own log is.
    async fn settle(
        &mut self,
        found: Result<Ledger, NoLedger>,
        before: Before,
        place: Option<Lsn>,
    ) -> Result<(), Ending> {
        let found = found.map_err(|error| match error {
            NoLedger::Missing(advice) => Ending::Halted(advice.to_owned()),
            NoLedger::Failed(error) => ended(StepKind::Advance, error),
        })?;
        let last = self.buffer.progress().borrow().last;
        let known = self.known(found, last).await?;
        if found.seq < before.applied() || place < before.replayed.filter(|_| place.is_some()) {
            self.went_back(found.seq, before, place).await;
        }
        // Also before a halt: what main does not have must not leave the buffer.
        self.buffer.set_applied(found.seq.min(last));
        if let Some(obstacle) = ledger::obstacle(found, known) {
            return Err(Ending::Halted(obstacle));
        }
        self.flights.clear();
        self.ahead.forget_before(found.seq);
        self.sent = found.seq;
        self.status.send_modify(|status| status.ledger = Some(found.seq));
        Ok(())
    }

    /// Main is at an older state than it was: restored, or failed over to a standby that lagged.
    async fn went_back(&self, ledger: Seq, before: Before, place: Option<Lsn>) {
        let applied = before.applied();
        let what = if ledger < applied {
            format!("main lost commits: it was at entry {applied} and is at {ledger}")
        } else {
            "main lost commits of others: its log ends before what the replica has replayed".to_owned()
        };
        let found = MainHas { ledger, place };
        let older = found.lacks(Some(before.progress.confirmed), before.replayed);
        error!(%ledger, %applied, replica_is_ahead = older, "{what}; what it lacks of this site's is applied again");
        self.status.send_modify(|status| {
            status.setbacks_total += 1;
            status.last_setback = Some(what.clone());
        });
        if let Err(error) = self.buffer.main_went_back(ledger, what, older.then_some(found)).await {
            warn!(%error, "the event is not in the audit trail");
        }
    }

    async fn known(&self, found: Ledger, last: Seq) -> Result<Known, Ending> {
        let at = async |seq| {
            let entry = self.ahead.entry(self.buffer, seq).await;
            entry.map_err(|error| Ending::Refused(error.to_string()))
        };
        let at_ledger = at(found.seq).await?.map(|entry| entry.uuid);
        Ok(Known { last, at_ledger, next_is_there: at(found.seq.next()).await?.is_some() })
    }
}

/// Which server answers, and how far its log is.
fn described(row: &Row, history: Option<&str>) -> Option<(MainServer, Lsn)> {
    let system_identifier = row.try_get::<_, &str>(0).ok()?.parse().ok()?;
    let timeline = u32::from_str_radix(row.try_get(1).ok()?, 16).ok()?;
    let place = row.try_get::<_, &str>(2).ok()?.parse().ok()?;
    Some((MainServer { system_identifier, timeline, history: history.map(History::parse) }, place))
}
