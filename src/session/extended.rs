//! The extended protocol: Parse, Bind, Describe, Execute, Close, Flush, Sync, in any pipelining.
//!
//! Every message is forwarded as it came unless it must not be: the replica analyses all statements, writes too, so
//! types, descriptions and their errors are Postgres' own. What differs is *Execute* of a write, of transaction control
//! and of what goes straight, and *Bind* of a read that must see pending rows. Messages are taken in order, and what
//! needs answers of its own (`exchange`) waits until everything before has been answered.
//!
//! Effects of an implicit transaction (a pipeline outside BEGIN) are committed at its Sync, and the client's answers are
//! kept back until then: nobody sees a command tag of what is not durable.

use std::sync::Arc;

use bytes::BytesMut;

use super::Session;
use super::exchange::planning_tells;
use super::failure::{End, Failure};
use super::relay::Expect;
use super::settings::check_own;
use super::statements::{Lone, Parsed, Portal, PortalState, Prepared};
use super::transaction::{Phase, Route};
use crate::report::Report;
use crate::sql::{Class, Statement, Unparsed};
use crate::sqlstate;
use crate::status::StatementKind;
use crate::wire::build::Argument;
use crate::wire::read::{Bind, Named, Parse};
use crate::wire::{HEADER, build};

/// A longer Bind is not kept for main. Bytes.
const ONLY_BIND_MAX: usize = 4 << 10;

impl Session {
    /// One message of the extended protocol.
    pub(super) async fn extended(&mut self, kind: u8, message: BytesMut) -> Result<(), Failure> {
        match kind {
            b'P' => self.parse(&message),
            b'B' => self.bind(message).await,
            b'D' => self.describe_message(&message).await,
            b'E' => self.execute(message).await,
            b'C' => self.close(&message),
            _ => {
                self.held = false;
                self.forward(&message);
                Ok(())
            }
        }
    }

    pub(super) fn forward(&mut self, message: &[u8]) {
        self.freeze();
        self.replica.link.output.extend_from_slice(message);
    }

    /// Ends a pipeline whose message has failed: the client is told, and the rest up to Sync is skipped.
    pub(super) async fn trip(&mut self, failure: Failure) -> Result<(), End> {
        match failure {
            Failure::Told => return Ok(()),
            Failure::Own(report) => {
                match self.settle().await {
                    Ok(()) => {}
                    // Something before it has failed: then this one was skipped.
                    Err(Failure::End(end)) => return Err(end),
                    Err(_) => return Ok(()),
                }
                self.say(&report);
                self.fail_replica().await?;
            }
            other => self.tell(other, 0)?,
        }
        self.fail_main().await?;
        self.skipping = true;
        self.failed();
        Ok(())
    }

    /// Sync: the end of a pipeline, and of an implicit transaction.
    pub(super) async fn client_sync(&mut self, message: &[u8]) -> Result<(), End> {
        let mut forwarded = false;
        if !self.skipping && self.transaction.phase == Phase::Idle && !self.transaction.work.is_empty() {
            let committed = match self.settle().await {
                Ok(()) => {
                    // The replica's part is over: it ends while the buffer writes. Unless `commit` must still ask it.
                    if self.commits_alone() {
                        self.forward(message);
                        self.replica.link.push().await;
                        forwarded = true;
                    }
                    self.commit().await
                }
                Err(failure) => Err(failure),
            };
            if let Err(failure) = committed {
                let own = matches!(failure, Failure::Own(_));
                self.tell(failure, 0)?;
                if own && !forwarded {
                    self.fail_replica().await?;
                }
                self.failed();
            }
        }
        self.skipping = false;
        self.held = false;
        self.batch = false;
        self.binds_setter = false;
        self.binds = 0;
        if self.transaction.phase == Phase::Idle {
            self.names.portals.clear();
        }
        if !forwarded {
            // No snapshot is taken by it: BEGIN's own must not keep the overlay of its moment.
            self.replica.link.output.extend_from_slice(message);
        }
        self.expected.push_back(Expect::Sync);
        Ok(())
    }

    fn parse(&mut self, message: &[u8]) -> Result<(), Failure> {
        let parse = Parse::read(&message[HEADER..])?;
        let parsed = match std::str::from_utf8(parse.sql) {
            Ok(text) => self.shared.statements.parse(text),
            Err(_) => Arc::new(Parsed::unreadable(Unparsed { reason: "not UTF-8".into() })),
        };
        self.own_settings.extend(parsed.own_settings.iter().cloned());
        let replacement = parsed.single().and_then(|statement| self.for_standby(statement));
        let prepared = Prepared { sql: parse.sql.to_vec().into(), types: parse.types.clone(), parsed };
        match replacement {
            Some(sql) => build::parse(self.ask(), parse.name, sql.as_bytes(), &parse.types),
            None => self.forward(message),
        }
        let name = parse.name.to_vec();
        self.names.late.remove(&name);
        self.expected.push_back(Expect::Parse { name, prepared: Some(Arc::new(prepared)) });
        Ok(())
    }

    /// The statement that the client has prepared under a name, the answer perhaps being on its way.
    fn prepared(&self, name: &[u8]) -> Option<Arc<Prepared>> {
        let underway = self.expected.iter().rev().find_map(|expect| match expect {
            Expect::Parse { name: given, prepared } if given == name => prepared.clone(),
            _ => None,
        });
        underway.or_else(|| self.names.statements.get(name).cloned())
    }

    async fn bind(&mut self, message: BytesMut) -> Result<(), Failure> {
        let bind = Bind::read(&message[HEADER..])?;
        let portal = bind.portal.to_vec();
        self.use_late(bind.statement).await?;
        self.only_bind = None;
        let open = self.names.portals.remove(&portal).is_some_and(|known| known.is_ours_alone());
        if open && !portal.is_empty() && self.transaction.phase != Phase::Failed {
            let message = format!("cursor \"{}\" already exists", String::from_utf8_lossy(&portal));
            return Err(Report::new(sqlstate::SqlState(*b"42P03"), message).into());
        }
        let Some(prepared) = self.prepared(bind.statement) else {
            self.unnamed_is_ours(bind.statement)?;
            if self.may_be_blind() && self.is_made_by_sql(bind.statement).await? {
                self.refuse_blind("a statement made by SQL PREPARE")?;
            }
            self.forward(&message);
            self.expected.push_back(Expect::Bare);
            return Ok(());
        };
        let ours = match prepared.class() {
            _ if self.transaction.phase == Phase::Failed => matches!(prepared.class(), Some(Class::Transaction(_))),
            Some(Class::Refused(report)) => return Err(report.clone().into()),
            Some(Class::OwnSetting { name, value, show }) => {
                check_own(name, value.as_deref(), *show)?;
                true
            }
            Some(Class::Query) if self.transaction.route == Route::Here => {
                self.binds_setter |= self.may_set(&prepared.parsed);
                if (prepared.parsed.takes_ids || prepared.parsed.locks)
                    && let Some(statement) = prepared.parsed.single()
                    && self.is_whole(statement).await?
                {
                    return self.bind_whole(&prepared, &message).await;
                }
                if prepared.parsed.takes_ids || prepared.parsed.locks || !self.nothing_pending() {
                    if let Some(statement) = prepared.parsed.single().filter(|_| !prepared.parsed.locks)
                        && let Some(why) = self.not_bufferable(statement).await?
                    {
                        return self.bind_straight(portal, prepared, message, why);
                    }
                    let bound = self.bind_read(&prepared, &message, true).await;
                    // What was asked for it is true until it runs.
                    self.may_set(&prepared.parsed);
                    return bound;
                }
                self.guard.statement(StatementKind::Untouched);
                // It may turn out to write; alone in its pipeline it can then be run on main.
                let alone = self.binds == 0 && message.len() <= ONLY_BIND_MAX && prepared.parsed.calls;
                let lone = || Lone { prepared: Arc::clone(&prepared), bind: BytesMut::from(&message[..]), limit: None };
                self.only_bind = alone.then(lone);
                false
            }
            Some(
                Class::Write
                | Class::Part
                | Class::CopyIn
                | Class::With
                | Class::Truncate(_)
                | Class::Straight { .. }
                | Class::Transaction(_)
                | Class::Settings { .. }
                | Class::ShowMode(_)
                | Class::Constraints(_),
            ) => true,
            Some(Class::Query | Class::Replica | Class::Prepare { .. }) => {
                self.transaction.route == Route::Straight || prepared.parsed.single().is_some_and(deallocates)
            }
            Some(Class::Execute { .. }) => true,
            None if prepared.parsed.is_empty() => false,
            None => {
                self.refuse_blind("a statement that pgoutpost cannot read")?;
                false
            }
        };
        self.binds += 1;
        if self.binds > 1 {
            self.only_bind = None;
        }
        self.forward(&message);
        self.expected.push_back(Expect::Bare);
        if ours {
            self.names.portals.insert(portal, Portal { statement: prepared, bind: message, state: PortalState::Ours });
        }
        Ok(())
    }

    /// Bind of a read that only main can answer.
    fn bind_straight(
        &mut self,
        portal: Vec<u8>,
        statement: Arc<Prepared>,
        bind: BytesMut,
        why: Report,
    ) -> Result<(), Failure> {
        self.binds += 1;
        self.forward(&bind);
        self.expected.push_back(Expect::Bare);
        self.names.portals.insert(portal, Portal { statement, bind, state: PortalState::Straight { why } });
        Ok(())
    }

    /// The replica's unnamed statement may be one of ours, when the client has none.
    fn unnamed_is_ours(&self, name: &[u8]) -> Result<(), Report> {
        if !name.is_empty() || self.transaction.phase == Phase::Failed {
            return Ok(());
        }
        Err(Report::new(sqlstate::INVALID_SQL_STATEMENT_NAME, "unnamed prepared statement does not exist"))
    }

    /// Whether the replica has a statement by this name, which the client has not made by Parse.
    async fn is_made_by_sql(&mut self, name: &[u8]) -> Result<bool, Failure> {
        self.settle().await?;
        Ok(self.find_named(&String::from_utf8_lossy(name)).await?.is_some())
    }

    /// Whether something could be looked at behind our back.
    fn may_be_blind(&mut self) -> bool {
        self.transaction.phase != Phase::Failed
            && (!self.nothing_pending() || self.transaction.route == Route::Straight)
    }

    /// Refuses what could look at pending rows behind our back.
    ///
    /// # Errors
    /// 0A000 while anything is pending.
    pub(super) fn refuse_blind(&mut self, what: &str) -> Result<(), Report> {
        if self.nothing_pending() && self.transaction.route == Route::Here {
            return Ok(());
        }
        let message = format!("{what} cannot be used while rows are pending");
        Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
            .hint("Write the statement itself, or wait until the pending rows have been replicated."))
    }

    async fn describe_message(&mut self, message: &[u8]) -> Result<(), Failure> {
        let named = Named::read(&message[HEADER..])?;
        if named.statement {
            self.use_late(named.name).await?;
            if self.prepared(named.name).is_none() {
                self.unnamed_is_ours(named.name)?;
            }
        }
        if !named.statement
            && let Some(Portal {
                state: state @ (PortalState::Merged { description, .. } | PortalState::Whole { description }),
                bind,
                statement,
            }) = self.names.portals.get(named.name)
        {
            let whole = matches!(state, PortalState::Whole { .. });
            let (statement, bind) = (Arc::clone(statement), bind.clone());
            let bind = Bind::read(&bind[HEADER..])?;
            let mut described = super::read::described(description, &bind.results)?;
            let text = std::str::from_utf8(&statement.sql).unwrap_or_default();
            let tells = !whole && planning_tells(text, description)?;
            self.settle().await?;
            let same = self.names.statements.get(bind.statement).is_some_and(|now| Arc::ptr_eq(now, &statement));
            if tells && same {
                let binary = bind.binary();
                let values = bind.values.iter().zip(binary).map(|(&value, binary)| Argument { binary, value });
                let values: Vec<_> = values.collect();
                if let Some(planned) = self.planned(bind.statement, &values, &bind.results).await? {
                    described = BytesMut::from(&planned[..]);
                }
            }
            self.client.output.extend_from_slice(&described);
            return Ok(());
        }
        self.forward(message);
        self.expected.push_back(if named.statement { Expect::Statement } else { Expect::Portal });
        Ok(())
    }

    fn close(&mut self, message: &[u8]) -> Result<(), Failure> {
        let named = Named::read(&message[HEADER..])?;
        match named.statement {
            true => {
                self.names.late.remove(named.name);
                self.names.statements.remove(named.name);
            }
            false => drop(self.names.portals.remove(named.name)),
        }
        self.forward(message);
        self.expected.push_back(Expect::Bare);
        Ok(())
    }

    /// What a standby is told instead: it refuses READ WRITE and SERIALIZABLE.
    pub(super) fn for_standby(&self, statement: &Statement) -> Option<String> {
        match &statement.class {
            Class::Transaction(command) => super::control::for_standby(command),
            Class::Settings { .. } => super::settings::for_standby(&statement.text),
            _ => None,
        }
    }
}

/// Whether the statement takes prepared statements away from the session (DISCARD ALL, DEALLOCATE ALL).
pub(super) fn deallocates(statement: &Statement) -> bool {
    match statement.class {
        Class::Settings { discard_all } => discard_all,
        Class::Replica => {
            let mut words = statement.text.split_whitespace();
            words.next().is_some_and(|word| word.eq_ignore_ascii_case("deallocate"))
                && words.next_back().is_some_and(|word| word.eq_ignore_ascii_case("all"))
        }
        _ => false,
    }
}
