//! After a straight commit: the replica must have it before the session goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::Session;
use super::carry::{State, session_lost, state, unexpected};
use super::failure::Failure;
use super::mirror::NamedOnMain;
use super::resident::KEEPS;
use super::straight::Leaves;
use super::transaction::Phase;
use crate::report::Report;
use crate::sqlstate;
use crate::wire::error;

/// How often the replica is asked whether it has replayed a straight commit.
const POLL: Duration = Duration::from_millis(5);

/// What main has when a statement, or a transaction, is done.
#[derive(Debug, Deserialize)]
pub(super) struct Left {
    lsn: String,
    pub(super) session: State,
    pub(super) prepared: Vec<NamedOnMain>,
    keeps: bool,
}

/// Asks for [`Left`]. A commit that main has not written to disk yet (`synchronous_commit`) does not go to the replica
/// either: then the question is a transaction that is written, and what was before it with it.
fn question(own: &BTreeSet<String>) -> String {
    const WRITTEN: &str = "CASE WHEN pg_catalog.pg_current_wal_insert_lsn() > pg_catalog.pg_current_wal_flush_lsn() \
         THEN pg_catalog.concat(pg_catalog.set_config('synchronous_commit', 'local', true), pg_catalog.pg_current_xact_id()) END";
    let state = state(own);
    format!(
        "SELECT pg_catalog.json_build_object('lsn', pg_catalog.pg_current_wal_insert_lsn(), 'session', {state}, \
         'written', {WRITTEN}, 'keeps', {KEEPS}, \
         'prepared', (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('name', p.name, 'text', \
         p.statement, 'types', pg_catalog.to_json(p.parameter_types))), '[]') \
         FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql))"
    )
}

impl Session {
    /// Waits until the replica has what main has committed, then reads the catalog again. Past the bound the client is
    /// not kept waiting: its statement is done. Returns what main's session is. `tidy`: it is asked, and what is prepared
    /// there taken away, even if nothing is to be waited for. `may_set`: the session may be another than before.
    pub(super) async fn settle_on_replica(
        &mut self,
        leaves: Leaves,
        tidy: bool,
        may_set: bool,
    ) -> Result<Option<Left>, Failure> {
        if leaves == Leaves::Nothing && !tidy {
            return Ok(None);
        }
        let question = question(&self.own_settings) + if tidy { "; DEALLOCATE ALL" } else { "" };
        let asked = match self.ask_main(&question).await {
            Ok(asked) => asked.unwrap_or_default(),
            Err(Failure::Own(why)) if may_set => return Err(session_lost(&why.message).into()),
            Err(Failure::Own(why)) => {
                let message = "the statement is done on main, but main cannot be asked when the replica will have it";
                let report = Report::new(sqlstate::SqlState(*b"01000"), message).detail(why.message);
                error::report(&mut self.client.output, error::Severity::Warning, &report);
                // Until it is known.
                self.lives_on_main(self.main.is_some());
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        };
        if tidy && let Some(main) = &mut self.main {
            main.has_names = false;
        }
        let left: Left = serde_json::from_str(&asked).map_err(|error| unexpected(&error))?;
        self.lives_on_main(left.keeps);
        if leaves != Leaves::Nothing {
            self.wait_for_replica(&left.lsn, leaves).await?;
        }
        Ok(Some(left))
    }

    async fn wait_for_replica(&mut self, lsn: &str, leaves: Leaves) -> Result<(), Failure> {
        if lsn.parse::<crate::lsn::Lsn>().is_err() {
            return Ok(());
        }
        if !self.replayed(lsn).await? {
            let message = "the statement is done on main, but the replica does not have it yet";
            let report = Report::new(sqlstate::SqlState(*b"01000"), message);
            error::report(&mut self.client.output, error::Severity::Warning, &report);
            self.behind = Some(lsn.to_owned());
            return Ok(());
        }
        // What was pending before is on the replica now: rows from before a column was added must not be merged any more.
        let mut progress = self.shared.buffer.progress();
        let applied = progress.borrow_and_update().applied;
        let _ = timeout(self.shared.limits.straight, progress.wait_for(|now| now.confirmed >= applied)).await;
        self.behind = None;
        if leaves == Leaves::Definitions {
            self.names.forget_descriptions();
            if let Err(error) = self.shared.catalog.refresh().await {
                warn!(%error, "the catalog could not be read after DDL");
            }
        }
        Ok(())
    }

    /// Refuses to evaluate a write on a replica that lacks what this session did on main: it could undo that.
    pub(super) async fn caught_up(&mut self) -> Result<(), Failure> {
        let Some(lsn) = self.behind.take() else { return Ok(()) };
        if self.transaction.phase == Phase::Open {
            // The question takes the snapshot of a repeatable read.
            let now = self.overlay();
            self.transaction.frozen(|| now);
        }
        if self.replayed(&lsn).await? {
            return Ok(());
        }
        self.behind = Some(lsn);
        let message = "the replica does not have this session's last statement on main yet";
        Err(Report::new(sqlstate::CANNOT_CONNECT_NOW, message)
            .hint("Try again when the replica has caught up (SHOW LAG in the console).")
            .into())
    }

    /// Waits (bounded) until the replica has replayed up to there.
    async fn replayed(&mut self, lsn: &str) -> Result<bool, Failure> {
        let sql = format!("SELECT pg_catalog.pg_last_wal_replay_lsn() >= '{lsn}'::pg_catalog.pg_lsn");
        let until = Instant::now() + self.shared.limits.straight;
        loop {
            let rows = self.question(&sql).await?;
            let value = rows.first().and_then(|row| row.first().cloned().flatten());
            if value.as_deref() == Some(b"t") {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
