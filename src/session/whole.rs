//! Reads that are run to their end before the client sees a row of them: what they have taken or locked is only known
//! then, and they may have to be run again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Session;
use super::failure::Failure;
use super::read::Given;
use super::relay::Expect;
use super::rows::{RowsTaken, noted};
use super::serve::TRIES;
use super::settings::Settings;
use super::statements::{Description, Parsed, Portal, PortalState, Prepared};
use super::write::{By, Written, returning, unsteady};
use crate::overlay::View;
use crate::report::Report;
use crate::sql::{Plan, Statement, row_locks};
use crate::sqlstate;
use crate::status::StatementKind;
use crate::wire::read::Bind;
use crate::wire::{HEADER, build};

impl Session {
    /// Whether a query has to be run whole, by its plan.
    pub(super) async fn is_whole(&mut self, statement: &Statement) -> Result<bool, Failure> {
        let settings = self.settings().await?;
        let shared = Arc::clone(&self.shared);
        let plan = shared.statements.plan(statement, &shared.catalog.current(), &settings.schemas, &shared.site);
        Ok(match &*plan {
            Ok(Plan::Read(plan)) => plan.whole(),
            Ok(Plan::Write(_) | Plan::Copy(_) | Plan::With(_)) => false,
            // Main locks what cannot be locked here.
            Err(_) => Parsed::locks_rows(&statement.text),
        })
    }

    /// What Postgres asks before it begins to run such a read: whether its rows may be locked.
    async fn admit(&mut self, statement: &Statement) -> Result<(), Failure> {
        let settings = self.settings().await?;
        let shared = Arc::clone(&self.shared);
        let plan = shared.statements.plan(statement, &shared.catalog.current(), &settings.schemas, &shared.site);
        match &*plan {
            Ok(Plan::Read(plan)) => self.may_lock(plan.locking(), &settings).await,
            Ok(Plan::Write(_) | Plan::Copy(_) | Plan::With(_)) | Err(_) => Ok(()),
        }
    }

    /// Bind of such a read: nothing is run yet, and the replica is not asked.
    pub(super) async fn bind_whole(&mut self, prepared: &Arc<Prepared>, message: &BytesMut) -> Result<(), Failure> {
        let bind = Bind::read(&message[HEADER..])?;
        let description = self.describe(prepared, bind.statement).await?;
        if bind.values.len() != description.types.len() {
            // Postgres complains of it.
            self.forward(message);
            self.expected.push_back(Expect::Bare);
            return Ok(());
        }
        self.settle().await?;
        if let Some(statement) = prepared.parsed.single() {
            self.admit(statement).await?;
        }
        build::bare(&mut self.client.output, b'2');
        let state = PortalState::Whole { description };
        let portal = Portal { statement: Arc::clone(prepared), bind: message.clone(), state };
        self.names.portals.insert(bind.portal.to_vec(), portal);
        Ok(())
    }

    /// Execute of such a read's portal.
    pub(super) async fn execute_whole(
        &mut self,
        statement: &Statement,
        bind: &BytesMut,
        description: &Description,
    ) -> Result<Written, Failure> {
        let bind = Bind::read(&bind[HEADER..])?;
        let given = Given::of(&bind, &description.types);
        self.whole(statement, &given, returning(description, &bind.results)?, By::Name).await
    }

    /// Such a read in the simple protocol.
    pub(super) async fn simple_whole(
        &mut self,
        statement: &Statement,
        description: &Description,
        last: bool,
    ) -> Result<(), Failure> {
        let given = Given { types: &description.types, ..Given::default() };
        self.admit(statement).await?;
        let ran = self.whole(statement, &given, returning(description, &[])?, By::Once).await;
        // A simple query has told its columns when it begins to run.
        if let Some(columns) = &description.columns
            && matches!(ran, Err(Failure::Inner(_) | Failure::Own(_) | Failure::Told))
        {
            self.client.output.extend_from_slice(columns);
        }
        self.show(description, ran?, last).await
    }

    /// Runs the read until its rows are those that it may show.
    pub(super) async fn whole(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
        formats: Vec<i16>,
        by: By,
    ) -> Result<Written, Failure> {
        let settings = self.settings().await?;
        settings.readable()?;
        self.guard.statement(StatementKind::Merged);
        let mut tries = 0;
        loop {
            let evaluated_at = self.evaluated(&settings);
            let base = self.base(&settings);
            let plan = self.plan(statement, &settings).await;
            let plan = match &*plan {
                Ok(Plan::Read(plan)) => plan,
                Ok(Plan::Write(_) | Plan::Copy(_) | Plan::With(_)) => {
                    return Err(Report::new(sqlstate::INTERNAL_ERROR, "not a read").into());
                }
                Err(report) => return Err(report.clone().into()),
            };
            self.may_draw(plan.sequences().iter().any(|sequence| sequence.takes), &settings)?;
            let mut ids = self.stock(plan.sequences(), &settings).await?;
            ids.busy = self.busy(plan.locking());
            ids.secured = self.secured(plan.secured()).await?;
            let text = (plan.query(), given.types);
            ids.unread = self.may_see(Some(text), plan.readers(), &base, &settings).await?;
            let hidden = plan.locking().iter().filter(|relation| relation.own).map(|relation| relation.shared.len());
            let visible = formats.len();
            let wanted: Vec<i16> = formats.iter().copied().chain(std::iter::repeat_n(0, hidden.sum())).collect();
            let mut runs = 0;
            let (rows, registers) = loop {
                runs += 1;
                if runs > TRIES {
                    return Err(unsteady().into());
                }
                let view = View { base: &base, own: &self.transaction.work.own };
                let Some(rendered) = plan.render_with_ids(view, given.parameters(), &ids)? else {
                    return Err(Report::new(sqlstate::INTERNAL_ERROR, "nothing to be rewritten").into());
                };
                self.set_registers(&rendered.registers).await?;
                let rows = self.run_evaluation(&rendered, given, &wanted, by).await;
                let Some(rows) = self.or_again(rows, &mut tries).await? else { break (None, HashMap::new()) };
                let registers = self.registers(&rendered.registers).await?;
                if self.had_enough(plan.sequences(), &mut ids, &registers).await? {
                    break (Some(rows), registers);
                }
            };
            let Some(rows) = rows else {
                self.spare(plan.sequences(), ids);
                continue;
            };
            let locks = row_locks(plan.locking(), &rows, visible, noted(&registers));
            let locked = self.lock_rows(plan.locking(), &locks, base.last(), &settings).await?;
            let locking = if locks.is_empty() { &[] } else { plan.locking() };
            let crossed = self.enter_to_lock(locking, evaluated_at, &settings).await?;
            if crossed || locked == RowsTaken::Again {
                self.spare(plan.sequences(), ids);
                continue;
            }
            self.remember(plan.sequences(), plan.counted(), ids, &registers);
            return Ok(shown(&rows, visible));
        }
    }

    /// A read-only transaction takes no values of sequences.
    pub(super) fn may_draw(&self, takes: bool, settings: &Settings) -> Result<(), Report> {
        if takes && self.is_read_only(settings) {
            let message = "cannot execute nextval() in a read-only transaction";
            return Err(Report::new(sqlstate::READ_ONLY_SQL_TRANSACTION, message));
        }
        Ok(())
    }
}

/// The rows' first columns as messages, and the tag.
pub(super) fn shown(rows: &[Vec<Option<Bytes>>], visible: usize) -> Written {
    let message = |row: &Vec<Option<Bytes>>| {
        let mut message = BytesMut::new();
        build::data_row(&mut message, row.iter().take(visible).map(Option::as_deref));
        message
    };
    (rows.iter().map(message).collect(), format!("SELECT {}", rows.len()))
}
