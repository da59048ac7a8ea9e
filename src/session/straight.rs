//! What cannot be buffered: straight to main, as the client's role and with its settings.
//!
//! Main must be reachable and have everything of the buffer, or it is an error that says so. A transaction is straight
//! from its first straight statement on, provided it has written nothing here: BEGIN and its savepoints are repeated on
//! main, and all later statements, reads too, go there. When it has committed, the session waits (bounded) until the
//! replica has it, and reads the catalog again, before the client hears of the end.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::time::{Instant, timeout};

use super::control::plain;
use super::converse::Show;
use super::failure::{End, Failure};
use super::settings::Settings;
use super::statements::Prepared;
use super::transaction::{Phase, Route};
use super::{Session, Waited, Wants};
use crate::replay::ReplayState;
use crate::report::Report;
use crate::sql::{Class, Plan, Statement, TransactionCommand};
use crate::sqlstate;
use crate::status::StatementKind;
use crate::upstream::raw::{self, ConnectError, Raw};
use crate::wire::build::Argument;
use crate::wire::read::Bind;
use crate::wire::{HEADER, build, error, header};

/// The session's connection to main.
pub(super) struct Main {
    pub(super) raw: Raw,
    /// The settings it has been given.
    settings: Option<Arc<Settings>>,
    /// It may know prepared statements of the client.
    pub(super) has_names: bool,
}

/// What the replica has to have when a straight statement is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    Nothing,
    Rows,
    /// Perhaps another catalog, too.
    Definitions,
}

impl Session {
    /// A query string with straight statements, or within a straight transaction.
    pub(super) async fn straight_script(&mut self, text: &str, statements: &[Statement]) -> Result<(), Failure> {
        // A transaction that ends here may have had DDL in it.
        let ddl = |statement: &Statement| {
            matches!(statement.class, Class::Straight { ddl: true, .. } | Class::Transaction(_))
        };
        let settings = self.settings().await?;
        let reads = |statement: &Statement| self.only_reads(statement, &settings);
        let leaves = match statements {
            _ if statements.iter().any(ddl) => Leaves::Definitions,
            _ if statements.iter().all(reads) => Leaves::Nothing,
            _ => Leaves::Rows,
        };
        self.straight_text(text, leaves).await
    }

    /// Whether a statement is a query that cannot write, not even by a function.
    pub(super) fn only_reads(&self, statement: &Statement, settings: &Settings) -> bool {
        let shared = &self.shared;
        let plan = || shared.statements.plan(statement, &shared.catalog.current(), &settings.schemas, &shared.site);
        statement.class == Class::Query && matches!(&*plan(), Ok(Plan::Read(plan)) if plan.only_reads())
    }

    /// Runs a whole query string on main.
    pub(super) async fn straight_text(&mut self, text: &str, leaves: Leaves) -> Result<(), Failure> {
        let before = self.transaction.phase;
        self.enter_main().await?;
        let Some(main) = &mut self.main else { return Err(lost().into()) };
        main.has_names |= prepares(text);
        build::query(&mut main.raw.link.output, text.as_bytes());
        let outcome = self.converse(Show::Answers, false).await;
        let phase = match &outcome {
            Ok((status, _)) => Phase::of_status(*status),
            Err(_) => before,
        };
        self.follow(before, phase).await?;
        let (_, failed) = outcome?;
        if !failed {
            self.sequences_were_set(text).await?;
        }
        if phase == Phase::Idle && !failed {
            self.settle_on_replica(leaves).await?;
        }
        if failed { Err(Failure::Told) } else { Ok(()) }
    }

    /// Takes over where main's transaction stands, and lets the replica's follow.
    pub(super) async fn follow(&mut self, before: Phase, now: Phase) -> Result<(), Failure> {
        match (before, now) {
            (Phase::Idle, Phase::Open | Phase::Failed) => {
                self.hidden("BEGIN").await?;
                self.transaction.begin(None, None);
                self.transaction.route = Route::Straight;
                self.transaction.phase = now;
            }
            (Phase::Open | Phase::Failed, Phase::Idle) => {
                self.transaction.route = Route::Here;
                self.hidden("ROLLBACK").await?;
                self.transaction.phase = Phase::Idle;
                self.end_transaction(false);
            }
            (_, now) => self.transaction.phase = now,
        }
        Ok(())
    }

    /// Transaction control within a straight transaction.
    pub(super) async fn control_straight(&mut self, command: &TransactionCommand) -> Result<(), Failure> {
        if self.main.is_none() {
            return self.main_is_gone(command).await;
        }
        let leaves = match command {
            TransactionCommand::Rollback { .. } => Leaves::Nothing,
            _ => Leaves::Definitions,
        };
        self.straight_text(&plain(command), leaves).await
    }

    /// The connection that had the straight transaction is lost, and the transaction with it: it can only be ended.
    async fn main_is_gone(&mut self, command: &TransactionCommand) -> Result<(), Failure> {
        match command {
            TransactionCommand::Commit { .. } | TransactionCommand::Rollback { .. } => {
                self.follow(self.transaction.phase, Phase::Idle).await?;
                build::command_complete(&mut self.client.output, "ROLLBACK");
                Ok(())
            }
            TransactionCommand::Begin { .. }
            | TransactionCommand::Savepoint(_)
            | TransactionCommand::Release(_)
            | TransactionCommand::RollbackTo(_)
            | TransactionCommand::Characteristics { .. } => Err(lost().into()),
        }
    }

    /// Execute of a straight statement's portal.
    pub(super) async fn straight_portal(
        &mut self,
        prepared: &Prepared,
        bind: &BytesMut,
        limit: i32,
        (leaves, outside_transaction): (Leaves, bool),
    ) -> Result<(), Failure> {
        if outside_transaction && self.transaction.phase == Phase::Open {
            let message = "this statement cannot run inside a transaction block";
            return Err(Report::new(sqlstate::ACTIVE_SQL_TRANSACTION, message).into());
        }
        if self.transaction.phase == Phase::Idle && (self.binds > 1 || !self.ends_pipeline().await?) {
            let message = "a statement that goes straight to main must be alone in its pipeline";
            let mut report = Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message);
            if self.binds > 1 {
                report =
                    report.detail("Statements before it whose answers the client had asked for are committed on main.");
            }
            return Err(report.hint("Use BEGIN and COMMIT, or a Sync after each.").into());
        }
        self.execute_on_main(prepared, bind, limit).await?;
        if self.transaction.phase == Phase::Idle {
            self.settle_on_replica(leaves).await?;
        }
        Ok(())
    }

    /// Whether the client has nothing more to run before Sync, or wants this first. It has to say so before anything runs
    /// on main, where it would be committed.
    async fn ends_pipeline(&mut self) -> Result<bool, Failure> {
        loop {
            let mut rest = &self.client.input[..];
            if self.client.ended {
                return Err(End::Client.into());
            }
            while let Some(header) = header(rest).map_err(End::Protocol)? {
                match header.kind {
                    b'C' if rest.len() >= header.length => rest = &rest[header.length..],
                    b'C' => break,
                    kind => return Ok(matches!(kind, b'S' | b'H' | b'X')),
                }
            }
            // That many Close messages are not worth waiting for.
            if self.client.input.len() >= self.input_bound() {
                return Ok(false);
            }
            self.pump(Wants::Both).await?;
        }
    }

    /// Runs a client's statement with its values on main, by the unnamed statement and portal there.
    pub(super) async fn execute_on_main(
        &mut self,
        prepared: &Prepared,
        bind: &BytesMut,
        limit: i32,
    ) -> Result<(), Failure> {
        self.enter_main().await?;
        let bind = Bind::read(&bind[HEADER..])?;
        let Some(main) = &mut self.main else { return Err(lost().into()) };
        main.has_names |= prepares(&String::from_utf8_lossy(&prepared.sql));
        let out = &mut main.raw.link.output;
        let arguments = bind.values.iter().zip(bind.binary());
        let arguments: Vec<_> = arguments.map(|(&value, binary)| Argument { binary, value }).collect();
        build::parse(out, b"", &prepared.sql, &prepared.types);
        build::bind(out, b"", b"", &arguments, &bind.results);
        build::execute(out, b"", limit.max(0));
        build::sync(out);
        let (status, failed) = self.converse(Show::Answers, true).await?;
        if self.transaction.phase != Phase::Idle {
            self.transaction.phase = Phase::of_status(status);
        }
        if failed {
            self.skipping = true;
            return Err(Failure::Told);
        }
        let text = String::from_utf8_lossy(&prepared.sql).into_owned();
        self.sequences_were_set(&text).await
    }

    /// A portal that the replica refused to run because it writes.
    pub(super) async fn straight_refused(
        &mut self,
        prepared: &Prepared,
        bind: &BytesMut,
        refusal: &[u8],
    ) -> Result<(), Failure> {
        match self.execute_on_main(prepared, bind, 0).await {
            Ok(()) => self.settle_on_replica(Leaves::Definitions).await,
            Err(Failure::Own(mut report)) => {
                report.detail.get_or_insert_with(|| format!("The replica: {}.", error::text(&refusal[HEADER..])));
                Err(Failure::Own(report))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Makes main ready for a statement: connected, with the session's settings, in the session's transaction.
    pub(super) async fn enter_main(&mut self) -> Result<(), Failure> {
        self.guard.statement(StatementKind::Straight);
        if self.transaction.route == Route::Straight {
            return if self.main.is_some() { Ok(()) } else { Err(lost().into()) };
        }
        if !self.transaction.work.is_empty() {
            self.may_hand_over().await?;
        }
        let settings = self.settings().await?;
        self.connect_main().await?;
        self.drained().await?;
        let same = |main: &Main| main.settings.as_ref().is_some_and(|applied| Arc::ptr_eq(applied, &settings));
        if !self.main.as_ref().is_some_and(same) {
            self.ask_main(&carry_over(&settings, &self.who.user)).await?;
            if let Some(main) = &mut self.main {
                main.settings = Some(settings);
            }
        }
        if self.transaction.phase == Phase::Open {
            // What the client has prepared since, or no longer has, only the replica knows.
            if let Some(main) = &mut self.main
                && std::mem::take(&mut main.has_names)
            {
                self.ask_main("DEALLOCATE ALL").await?;
            }
            let begin = TransactionCommand::Begin {
                isolation: self.transaction.isolation,
                read_only: self.transaction.read_only,
                start: false,
            };
            self.ask_main(&plain(&begin)).await?;
            self.hand_over().await?;
        }
        Ok(())
    }

    async fn connect_main(&mut self) -> Result<(), Failure> {
        if let Some(main) = &mut self.main {
            // What came while nobody looked: the end, perhaps.
            main.raw.link.look().await;
            if !main.raw.link.ended {
                return Ok(());
            }
        }
        let shared = Arc::clone(&self.shared);
        let parameters = self.who.parameters.clone();
        let limit = shared.limits.connect_main;
        match self.wait(raw::connect(&shared.main, &parameters, limit)).await? {
            Waited::Done(Ok(raw)) => {
                self.main = Some(Main { raw, settings: None, has_names: false });
                Ok(())
            }
            Waited::Done(Err(error)) => Err(unreachable(&error).into()),
            Waited::Cancelled => Err(canceled().into()),
        }
    }

    /// Waits until main has everything of the buffer.
    async fn drained(&mut self) -> Result<(), Failure> {
        let mut progress = self.shared.buffer.progress();
        let last = progress.borrow_and_update().last;
        let shared = Arc::clone(&self.shared);
        let drained = async move {
            let began = Instant::now();
            loop {
                let applied = progress.wait_for(|progress| progress.applied >= last);
                match timeout(shared.limits.straight, applied).await {
                    Ok(all) => return all.is_ok(),
                    Err(_) => {
                        let at_work = shared.status.snapshot().replay.state == ReplayState::Replaying;
                        if !at_work || began.elapsed() > shared.limits.drain {
                            return false;
                        }
                    }
                }
            }
        };
        match self.wait(drained).await? {
            Waited::Done(true) => Ok(()),
            Waited::Done(false) => {
                let message = "this statement cannot be buffered, and main does not have all buffered transactions yet";
                Err(Report::new(sqlstate::CANNOT_CONNECT_NOW, message)
                    .hint("Try again when the buffer has drained (SHOW LAG in the console).")
                    .into())
            }
            Waited::Cancelled => Err(canceled().into()),
        }
    }
}

pub(super) fn carry_over(settings: &Settings, user: &str) -> String {
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut sql = String::from("SELECT ");
    for (place, (name, value)) in settings.to_carry_over().iter().enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        sql.push_str(&format!("{comma}pg_catalog.set_config('{name}', {}, false)", literal(value)));
    }
    if settings.role == user {
        sql.push_str("; RESET ROLE");
    } else {
        sql.push_str(&format!("; SET ROLE \"{}\"", settings.role.replace('"', "\"\"")));
    }
    sql
}

/// Whether a text may prepare statements.
fn prepares(text: &str) -> bool {
    text.as_bytes().windows(7).any(|word| word.eq_ignore_ascii_case(b"prepare"))
}

fn canceled() -> Report {
    Report::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

pub(super) fn lost() -> Report {
    Report::new(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, "the connection to main was lost during the statement")
        .hint("Look on main whether it was done before doing it again.")
}

fn unreachable(error: &ConnectError) -> Report {
    let message = "this statement cannot be buffered, and main cannot be reached";
    let report = Report::new(sqlstate::CANNOT_CONNECT_NOW, message).detail(error.to_string());
    match error {
        ConnectError::Unreachable(_) | ConnectError::Timeout(_) | ConnectError::Protocol(_) => {
            report.hint("Try again when the link is up. INSERT, UPDATE and DELETE are buffered meanwhile.")
        }
        ConnectError::Refused(_) | ConnectError::NoPassword { .. } | ConnectError::Method(_) => {
            report.hint("Let main's pg_hba.conf accept this role from the daemon's address.")
        }
    }
}
