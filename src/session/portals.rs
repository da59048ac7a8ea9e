//! Execute: what becomes of a portal, by who has it and what its statement is.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::Session;
use super::extended::deallocates;
use super::failure::Failure;
use super::relay::Expect;
use super::simple::writes;
use super::statements::{Portal, PortalState, Prepared};
use super::straight::Leaves;
use super::transaction::{Phase, Route};
use crate::report::Report;
use crate::sql::Class;
use crate::sqlstate;
use crate::status::StatementKind;
use crate::wire::link::OUTPUT_HIGH;
use crate::wire::read::{Bind, Execute};
use crate::wire::{HEADER, build, error};

impl Session {
    pub(super) async fn execute(&mut self, message: BytesMut) -> Result<(), Failure> {
        let portal = self.names.portals.get(Execute::read(&message[HEADER..])?.portal);
        let statement = portal.map(|portal| Arc::clone(&portal.statement));
        let outcome = self.execute_portal(message).await;
        // What was asked for the query was true until it ran.
        match statement {
            Some(statement) => drop(self.may_set(&statement.parsed)),
            None if self.binds_setter => self.settings_may_differ(),
            None => {}
        }
        outcome
    }

    async fn execute_portal(&mut self, message: BytesMut) -> Result<(), Failure> {
        let execute = Execute::read(&message[HEADER..])?;
        let limit = execute.row_limit;
        let Some(portal) = self.names.portals.remove(execute.portal) else {
            match &mut self.only_bind {
                Some(lone) if lone.limit.is_none() => lone.limit = Some(limit),
                // It has handed out rows.
                lone => *lone = None,
            }
            self.forward(&message);
            self.expected.push_back(Expect::Execute);
            return Ok(());
        };
        let name = execute.portal.to_vec();
        let Portal { statement, bind, state } = portal;
        let state = match state {
            PortalState::Rows { rows, tag } => {
                self.settle().await?;
                Some(self.hand_out(rows, tag, limit, true))
            }
            PortalState::Done => {
                let message = format!("portal \"{}\" cannot be run", String::from_utf8_lossy(&name));
                return Err(Report::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into());
            }
            PortalState::Merged { description, begun } => {
                self.execute_read(&statement, &bind, &message, begun).await?;
                Some(PortalState::Merged { description, begun: true })
            }
            PortalState::Whole { description } => {
                let Some(inner) = statement.parsed.single() else { return Ok(()) };
                if let Some(why) = self.not_bufferable(inner).await? {
                    return self.run_on_main(&statement, &bind, limit, Leaves::Rows, why).await;
                }
                let (rows, tag) = self.execute_whole(inner, &bind, &description).await?;
                Some(self.hand_out(rows, tag, limit, false))
            }
            PortalState::Straight { why } => {
                let settings = self.settings().await?;
                let reads = statement.parsed.single().is_some_and(|inner| self.only_reads(inner, &settings));
                let leaves = if reads { Leaves::Nothing } else { Leaves::Rows };
                return self.run_on_main(&statement, &bind, limit, leaves, why).await;
            }
            PortalState::Ours => self.execute_ours(&statement, &bind, &message, limit).await?,
        };
        if let Some(state) = state {
            self.names.portals.insert(name, Portal { statement, bind, state });
        }
        Ok(())
    }

    async fn execute_ours(
        &mut self,
        prepared: &Prepared,
        bind: &BytesMut,
        message: &BytesMut,
        limit: i32,
    ) -> Result<Option<PortalState>, Failure> {
        let Some(statement) = prepared.parsed.single() else { return Ok(None) };
        if self.transaction.route == Route::Straight && !matches!(statement.class, Class::Transaction(_)) {
            self.settle().await?;
            self.execute_on_main(prepared, bind, limit).await?;
            return Ok(None);
        }
        match &statement.class {
            Class::Write | Class::With => {
                if let Some(why) = self.not_bufferable(statement).await? {
                    return self.run_on_main(prepared, bind, limit, Leaves::Rows, why).await.map(|()| None);
                }
                let written = match &statement.class {
                    Class::With => self.execute_with(prepared, statement, bind).await,
                    _ => self.execute_write(prepared, statement, bind).await,
                };
                let (rows, tag) = match written {
                    // A function in it writes.
                    Err(Failure::Server(error) | Failure::Inner(error))
                        if writes(&error) && self.transaction.phase == Phase::Idle && self.binds <= 1 =>
                    {
                        self.end_on_replica().await?;
                        let why = Report::new(error::code(&error[HEADER..]), error::text(&error[HEADER..]));
                        let leaves = Leaves::Definitions;
                        return self.run_on_main(prepared, bind, limit, leaves, why).await.map(|()| None);
                    }
                    written => written?,
                };
                // Nothing may reach the client before it is durable, unless it insists.
                self.held = self.transaction.phase == Phase::Idle;
                let left = self.hand_out(rows, tag, limit, false);
                let returns = self.names.description(prepared).is_some_and(|known| known.columns.is_some());
                Ok(Some(if returns { left } else { PortalState::Done }))
            }
            Class::CopyIn | Class::Truncate(_) => {
                self.settle().await?;
                if let Some(why) = self.not_bufferable(statement).await? {
                    return self.run_on_main(prepared, bind, limit, Leaves::Rows, why).await.map(|()| None);
                }
                let tag = match &statement.class {
                    Class::Truncate(truncate) => self.truncate(statement, truncate).await?.to_owned(),
                    _ => self.copy_in(statement).await?,
                };
                build::command_complete(&mut self.client.output, &tag);
                self.held = self.transaction.phase == Phase::Idle;
                Ok(Some(PortalState::Done))
            }
            Class::Transaction(command) => {
                self.settle().await?;
                self.control(command, Some(message)).await?;
                Ok(None)
            }
            Class::Constraints(command) => {
                self.settle().await?;
                self.ask().extend_from_slice(message);
                build::flush(self.ask());
                let answer = self.reply_of(b'C').await.map_err(super::read::as_clients)?;
                self.set_constraints(command).await?;
                self.client.output.extend_from_slice(&answer);
                Ok(None)
            }
            Class::Straight { ddl, outside_transaction } => {
                self.settle().await?;
                let leaves = if *ddl { Leaves::Definitions } else { Leaves::Rows };
                self.straight_portal(prepared, bind, limit, (leaves, *outside_transaction)).await?;
                Ok(None)
            }
            Class::Settings { .. } | Class::Replica if deallocates(statement) => {
                self.settle().await?;
                self.changes_settings(true);
                self.ask().extend_from_slice(message);
                build::flush(self.ask());
                let answer = self.reply_of(b'C').await.map_err(super::read::as_clients)?;
                self.names.forget_all();
                self.forget_ids(statement);
                self.client.output.extend_from_slice(&answer);
                Ok(None)
            }
            Class::Settings { .. } | Class::OwnSetting { .. } => {
                self.guard.statement(StatementKind::Settings);
                self.keep_modes(&statement.text).await?;
                self.sets(&statement.text);
                self.forward(message);
                self.expected.push_back(Expect::Execute);
                self.forget_ids(statement);
                Ok(None)
            }
            Class::ShowMode(mode) => {
                self.settle().await?;
                let Some(value) = self.mode(*mode).await? else {
                    self.forward(message);
                    self.expected.push_back(Expect::Execute);
                    return Ok(None);
                };
                let mut row = BytesMut::new();
                build::data_row(&mut row, std::iter::once(Some(value.as_bytes())));
                Ok(Some(self.hand_out([row].into(), "SHOW".to_owned(), limit, false)))
            }
            Class::Execute { name } if !self.execute_is_plain(name, statement).await? => {
                if let Some(why) = self.execute_not_bufferable(name).await? {
                    self.settle().await?;
                    self.introduce_named(name).await?;
                    return self.run_on_main(prepared, bind, limit, Leaves::Rows, why).await.map(|()| None);
                }
                let results = Bind::read(&bind[HEADER..])?.results;
                let (_, (rows, tag)) = self.execute_named(name, statement, &results).await?;
                self.held = self.transaction.phase == Phase::Idle;
                Ok(Some(self.hand_out(rows, tag, limit, false)))
            }
            Class::Query
            | Class::Part
            | Class::Replica
            | Class::Prepare { .. }
            | Class::Execute { .. }
            | Class::Refused(_) => {
                self.forward(message);
                self.expected.push_back(Expect::Execute);
                Ok(None)
            }
        }
    }

    /// Runs a portal on main, for a reason that an error will tell.
    async fn run_on_main(
        &mut self,
        prepared: &Prepared,
        bind: &BytesMut,
        limit: i32,
        leaves: Leaves,
        why: Report,
    ) -> Result<(), Failure> {
        self.settle().await?;
        let outcome = self.straight_portal(prepared, bind, limit, (leaves, false)).await;
        outcome.map_err(|failure| failure.because(Some(why)))
    }

    /// Gives the client rows that are ready, up to a limit, and the tag when there are no more. `later`: not the portal's
    /// first; its tag then counts the last rows only, as Postgres' does.
    fn hand_out(&mut self, mut rows: VecDeque<BytesMut>, tag: String, limit: i32, later: bool) -> PortalState {
        let most = usize::try_from(limit).ok().filter(|&limit| limit > 0).unwrap_or(usize::MAX);
        let mut given = 0;
        while given < most
            && let Some(row) = rows.pop_front()
        {
            self.client.output.extend_from_slice(&row);
            given += 1;
        }
        if self.client.output.len() >= OUTPUT_HIGH {
            self.held = false;
        }
        if rows.is_empty() && given < most {
            match tag.rsplit_once(' ').filter(|_| later) {
                Some((verb, _)) => build::command_complete(&mut self.client.output, &format!("{verb} {given}")),
                None => build::command_complete(&mut self.client.output, &tag),
            }
        } else {
            build::bare(&mut self.client.output, b's');
        }
        PortalState::Rows { rows, tag }
    }
}
