//! What becomes of a statement when others have changed something since the state that it was evaluated over.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::after::TEXT_ARRAY;
use super::failure::Failure;
use super::read::Given;
use super::serve::TRIES;
use super::settings::{Settings, may_set_modes};
use super::transaction::{Modes, Phase};
use super::write::{By, Evaluated};
use crate::overlay::{Overlay, View};
use crate::report::Report;
use crate::sql::{self, ByNow, Ids, Isolation, Judged, Plan, WritePlan};

/// How a statement is evaluated again.
pub(super) type Again<'a> = (&'a Given<'a>, &'a [i16], By, &'a mut Ids);

impl Session {
    /// The transaction's level.
    pub(super) fn isolation(&self, settings: &Settings) -> Isolation {
        self.transaction.modes().isolation.unwrap_or_else(|| settings.isolation())
    }

    /// Whether each statement has a snapshot of its own.
    pub(super) fn reads_committed(&self, settings: &Settings) -> bool {
        matches!(self.isolation(settings), Isolation::ReadUncommitted | Isolation::ReadCommitted)
    }

    /// Whether what the client writes now is to be refused (25006).
    pub(super) fn is_read_only(&self, settings: &Settings) -> bool {
        self.transaction.modes().read_only.unwrap_or_else(|| settings.read_only())
    }

    /// What BEGIN has to say where the session's defaults are these, so that the transaction runs as it does.
    pub(super) fn modes_to_say(&self, settings: &Settings) -> Modes {
        let Modes { isolation, read_only } = self.transaction.defaults;
        Modes {
            isolation: self.transaction.isolation.or(isolation.filter(|level| *level != settings.isolation())),
            read_only: self.transaction.read_only.or(read_only.filter(|is| *is != settings.read_only())),
        }
    }

    /// Finds what the session's defaults are, where that is not known of the transaction that begins: nothing that is set
    /// later counts for it. SHOW takes no snapshot, so SET TRANSACTION may still follow.
    pub(super) async fn keep_defaults(&mut self) -> Result<(), Failure> {
        if self.transaction.defaults.read_only.is_some() {
            return Ok(());
        }
        self.transaction.defaults = match &self.settings {
            Some(settings) => Modes { isolation: Some(settings.isolation()), read_only: Some(settings.read_only()) },
            // The level is the replica's, which tells it with the settings.
            None => {
                let rows = self.question("SHOW default_transaction_read_only").await?;
                let on = rows.first().and_then(|row| row.first().cloned().flatten());
                Modes { isolation: None, read_only: Some(on.as_deref() == Some(b"on")) }
            }
        };
        Ok(())
    }

    /// The same for an implicit transaction, in which this is set.
    pub(super) async fn keep_modes(&mut self, text: &str) -> Result<(), Failure> {
        match self.transaction.phase == Phase::Idle && may_set_modes(text) {
            true => self.keep_defaults().await,
            false => Ok(()),
        }
    }

    /// Makes sure that what the transaction has seen at the site is what it will see on main, where it has begun, if it is to see
    /// one state throughout.
    ///
    /// # Errors
    /// 40001 when that may not be so; main has rolled back then.
    pub(super) async fn same_snapshot(&mut self, settings: &Settings) -> Result<(), Failure> {
        if !self.transaction.looked || self.reads_committed(settings) {
            return Ok(());
        }
        // A standby lists no transactions under way: the two are alike only if there were none.
        let snapshot = "SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text";
        let here = self.question(snapshot).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten());
        let there = self.ask_main(snapshot).await?;
        if here.is_some_and(|here| Some(&*here) == there.as_deref().map(str::as_bytes)) {
            return Ok(());
        }
        self.ask_main("ROLLBACK").await?;
        Err(sql::concurrent("update")
            .detail("The transaction has read at the site, and main is not, or may not be, in the state that it saw.")
            .hint("Run it again, at READ COMMITTED, or so that its first statement is one that goes to main.")
            .into())
    }

    /// What was evaluated is not true any more: READ COMMITTED evaluates again, the others fail.
    pub(super) fn stale(&self, settings: &Settings) -> Result<(), Report> {
        if self.reads_committed(settings) { Ok(()) } else { Err(sql::concurrent("update")) }
    }

    /// Whether the transaction has taken values that its snapshot does not show as free, so that they may be its own again.
    pub(super) fn relies(&self, settings: &Settings) -> bool {
        self.transaction.reliance && !self.reads_committed(settings)
    }

    /// What the state of now says of a write at REPEATABLE READ that was evaluated over the snapshot's.
    pub(super) async fn by_now(
        &mut self,
        plan: &Arc<WritePlan>,
        rows: &[Vec<Option<Bytes>>],
        base: &Overlay,
        (given, formats, by, ids): Again<'_>,
    ) -> Result<ByNow, Failure> {
        let canonical = self.settings().await?.canonical();
        let now = self.disturbed(plan, rows, base).await?;
        let stale = self.locks.stale().to_vec();
        let same = match plan.of_rows(rows) {
            Some(same) => self.rows_now(same, (&now, canonical), ids).await?,
            None => None,
        };
        let (of, current) = match same {
            Some(same) => same,
            None => (Arc::clone(plan), self.evaluate(plan, (&now, canonical), given, formats, (by, ids)).await?.0),
        };
        let view = View { base: &now, own: &self.transaction.work.own };
        Ok(plan.undisturbed(rows, &stale, view, (&of, &current))?)
    }

    /// Evaluates an INSERT … ON CONFLICT of rows that are known over the state of now, until nothing comes in between.
    pub(super) async fn found_by_now(
        &mut self,
        plan: &Arc<WritePlan>,
        before: &[Vec<Option<Bytes>>],
        base: &Overlay,
        (given, formats, by, ids): Again<'_>,
    ) -> Result<(Evaluated, Result<Judged, Report>), Failure> {
        let settings = self.settings().await?;
        let mut stale: HashSet<u64> = self.locks.stale().iter().copied().collect();
        self.transaction.reliance = true;
        for _ in 0..TRIES {
            let now = self.overlay();
            self.covered(base, &now).await?;
            let at_now = (&*now, settings.canonical());
            let (rows, registers) = self.evaluate(plan, at_now, given, formats, (by, &mut *ids)).await?;
            self.lock(&plan.locks(&rows), base.last(), &settings, false).await?;
            stale.extend(self.locks.stale());
            if self.overlay().last() == now.last() {
                let own = &self.transaction.work.own;
                let (then, now) = (View { base, own }, View { base: &now, own });
                let judged = plan.decode_found_by_now((then, before), (now, &rows), &stale, base.last());
                return Ok(((rows, registers), judged));
            }
        }
        Err(sql::concurrent("update").into())
    }

    /// Evaluates an INSERT of rows that are known over the state of now. `None`: it cannot be planned.
    async fn rows_now(
        &mut self,
        (text, arguments): (String, Vec<String>),
        at_now: (&Overlay, bool),
        ids: &Ids,
    ) -> Result<Option<(Arc<WritePlan>, Vec<Vec<Option<Bytes>>>)>, Failure> {
        let shared = Arc::clone(&self.shared);
        let settings = self.settings().await?;
        let Ok(script) = sql::parse(&text) else { return Ok(None) };
        let Some(statement) = script.statements.first() else { return Ok(None) };
        let plan = shared.statements.plan(statement, &shared.catalog.current(), &settings.schemas, &shared.site);
        let Ok(Plan::Write(plan)) = &*plan else { return Ok(None) };
        let types = vec![TEXT_ARRAY; arguments.len()];
        let given = Given {
            types: &types,
            binary: vec![false; arguments.len()],
            values: arguments.iter().map(|array| Some(array.as_bytes())).collect(),
        };
        let mut ids = Ids { unread: ids.unread.clone(), ..Ids::default() };
        let rows = self.evaluate(plan, at_now, &given, &[], (By::Name, &mut ids)).await?.0;
        Ok(Some((Arc::clone(plan), rows)))
    }

    /// Whether a write at REPEATABLE READ can go on at all. What has changed may be values only, which are then to be judged over the
    /// overlay that this returns.
    pub(super) async fn disturbed(
        &mut self,
        plan: &WritePlan,
        rows: &[Vec<Option<Bytes>>],
        base: &Overlay,
    ) -> Result<Arc<Overlay>, Failure> {
        let now = self.overlay();
        plan.disturbed(rows, self.locks.stale(), &now, base.last())?;
        self.covered(base, &now).await?;
        self.transaction.reliance = true;
        Ok(now)
    }

    /// Whether everything that this overlay has dropped is in the transaction's snapshot.
    pub(super) async fn covered(&mut self, base: &Overlay, now: &Overlay) -> Result<(), Failure> {
        if now.trimmed() <= base.trimmed() {
            return Ok(());
        }
        let ledger = sql::ledger(&self.shared.site, &self.shared.catalog.current());
        let rows = self.question(&ledger).await?;
        let text = rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default();
        let has = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        if now.trimmed().0 > has { Err(sql::concurrent("update").into()) } else { Ok(()) }
    }
}
