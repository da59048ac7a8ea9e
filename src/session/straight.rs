//! What cannot be buffered: straight to main, as the client's role and with its settings.
//!
//! Main must be reachable and have everything of the buffer, or it is an error that says so. A transaction is straight
//! from its first straight statement on: BEGIN and its savepoints are repeated on main, with what it has written here
//! (`hand_over`), and all later statements, reads too, go there. When it has committed, the session waits (bounded) until the
//! replica has it, and the catalog if that has changed, before the client hears of the end.

use bytes::BytesMut;

use super::control::plain;
use super::converse::Show;
use super::failure::{End, Failure};
use super::mirror::REFUSED;
use super::settings::Settings;
use super::statements::{Lone, Parsed, Prepared};
use super::transaction::{Phase, Route};
use super::{Session, Wants};
use crate::report::Report;
use crate::sql::{Class, Plan, Statement, TransactionCommand};
use crate::sqlstate;
use crate::wire::build::Argument;
use crate::wire::read::Bind;
use crate::wire::{HEADER, build, error, header};

/// What the replica has to have when a straight statement is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leaves {
    #[default]
    Nothing,
    Rows,
    /// Perhaps another catalog, too.
    Definitions,
}

impl Session {
    /// A query string with straight statements, or within a straight transaction, that main is ready for.
    pub(super) async fn straight_script(&mut self, text: &str, statements: &[Statement]) -> Result<(), Failure> {
        // A transaction that ends here may have had DDL in it.
        let ddl = |statement: &Statement| {
            matches!(statement.class, Class::Straight { ddl: true, .. } | Class::Transaction(_))
        };
        let settings = self.settings().await?;
        let reads = |statement: &Statement| self.only_reads(statement, &settings);
        let parsed = self.shared.statements.parse(text);
        let leaves = match statements {
            _ if self.resident && self.transaction.phase == Phase::Idle => {
                let of = |statement| self.leaves_on_main(Some(statement), &parsed, &settings);
                statements.iter().map(of).max().unwrap_or_default()
            }
            _ if statements.iter().any(ddl) => Leaves::Definitions,
            _ if statements.iter().all(reads) => Leaves::Nothing,
            _ => Leaves::Rows,
        };
        self.send_to_main(text, text.as_bytes(), leaves).await
    }

    /// Whether a statement is a query that cannot write, not even by a function.
    pub(super) fn only_reads(&self, statement: &Statement, settings: &Settings) -> bool {
        let shared = &self.shared;
        let plan = || shared.statements.plan(statement, &shared.catalog.current(), &settings.schemas, &shared.site);
        statement.class == Class::Query && matches!(&*plan(), Ok(Plan::Read(plan)) if plan.only_reads())
    }

    /// Runs a whole query string on main.
    pub(super) async fn straight_text(&mut self, text: &str, leaves: Leaves) -> Result<(), Failure> {
        self.ready_for(text).await?;
        self.send_to_main(text, text.as_bytes(), leaves).await
    }

    /// The same of one in any encoding.
    pub(super) async fn straight_bytes(&mut self, sql: &[u8], leaves: Leaves) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(sql);
        self.ready_for(&text).await?;
        self.send_to_main(&text, sql, leaves).await
    }

    /// Makes main ready for a query string, which it has not heard of when this fails.
    pub(super) async fn ready_for(&mut self, text: &str) -> Result<(), Failure> {
        let parsed = self.shared.statements.parse(text);
        let statements = parsed.script.as_ref().map_or(&[][..], |script| &script.statements);
        if self.transaction.phase != Phase::Failed {
            statements.iter().try_for_each(|statement| self.may_run(statement))?;
        }
        // Those behind a SET of the same string go by what it says.
        self.pipeline.sets |= statements.len() > 1 && self.may_set_path(&parsed);
        self.enter_main(statements).await?;
        let gives_back = |statement: &Statement| match &statement.class {
            Class::Transaction(TransactionCommand::RollbackTo(name)) => self.gives_back(name),
            _ => false,
        };
        if statements.len() > 1 && statements.iter().any(gives_back) {
            let message =
                "ROLLBACK TO must be alone in its query string, since settings were changed since the savepoint";
            return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).into());
        }
        Ok(())
    }

    async fn send_to_main(&mut self, text: &str, sql: &[u8], leaves: Leaves) -> Result<(), Failure> {
        let parsed = self.shared.statements.parse(text);
        self.goes_to_main(text, &parsed);
        // What our parser cannot read may write anything.
        self.pipeline.unseen |= parsed.script.is_err();
        let Some(main) = &mut self.main else { return Err(lost().into()) };
        build::query(&mut main.raw.link.output, sql);
        self.follow_main(text, &parsed, leaves).await
    }

    /// Relays what main answers to what it was sent, and does what comes of it.
    async fn follow_main(&mut self, text: &str, parsed: &Parsed, leaves: Leaves) -> Result<(), Failure> {
        let before = self.transaction.phase;
        let outcome = self.converse(Show::Answers, false).await;
        let phase = match &outcome {
            Ok((status, _)) => Phase::of_status(*status),
            Err(_) => before,
        };
        let deeds = if outcome.is_ok() { self.deeds(parsed) } else { Vec::new() };
        self.mirror(&deeds, phase).await?;
        let (_, failed) = outcome?;
        if !failed {
            self.sequences_were_set(text).await?;
        }
        self.claim_unseen().await?;
        if phase == Phase::Idle {
            // Something may have been committed before the failure.
            let in_part = parsed.single().is_none_or(|single| runs(&single.text));
            self.leave_main(if failed && !in_part { Leaves::Nothing } else { leaves }).await?;
        }
        if failed { Err(Failure::Told) } else { Ok(()) }
    }

    /// The function call message, which names its function by number: what it does is not known.
    pub(super) async fn call_on_main(&mut self, message: &[u8]) -> Result<(), Failure> {
        if self.transaction.phase == Phase::Failed && self.transaction.route == Route::Here {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Report::new(sqlstate::IN_FAILED_SQL_TRANSACTION, message).into());
        }
        self.enter_main(&[]).await?;
        (self.pipeline.unseen, self.pipeline.may_set, self.pipeline.sets) = (true, true, true);
        let Some(main) = &mut self.main else { return Err(lost().into()) };
        main.raw.link.output.extend_from_slice(message);
        let nothing = self.shared.statements.parse("");
        self.follow_main("", &nothing, Leaves::Definitions).await
    }

    /// A statement of a straight transaction has failed without main having heard of it: main's transaction fails as the
    /// client's does.
    pub(super) async fn fail_main(&mut self) -> Result<(), End> {
        if self.transaction.route == Route::Straight
            && self.transaction.phase == Phase::Open
            && let Err(Failure::End(end)) = self.ask_main(REFUSED).await
        {
            return Err(end);
        }
        Ok(())
    }

    /// Remembers what a text that main is to run may do to its session.
    pub(super) fn goes_to_main(&mut self, text: &str, parsed: &Parsed) {
        self.pipeline.may_set |= may_set(text);
        self.remember_for_patience(text, parsed);
        self.pipeline.sets |= self.may_set_path(parsed);
        if let Some(main) = &mut self.main {
            main.has_names |= prepares(text);
        }
    }

    /// Whether a text may change the search path.
    fn may_set_path(&self, parsed: &Parsed) -> bool {
        let sets = |statement: &Statement| match &statement.class {
            Class::Settings { .. } => true,
            Class::Straight { .. } => runs(&statement.text),
            _ => false,
        };
        parsed.sets_config
            || parsed.script.as_ref().map_or(true, |script| script.statements.iter().any(sets))
            || parsed.calls_own(&self.shared.catalog.current())
    }

    /// Transaction control within a straight transaction.
    pub(super) async fn control_straight(&mut self, command: &TransactionCommand) -> Result<(), Failure> {
        let overtaken = self.not_overtaken();
        if !matches!(command, TransactionCommand::Rollback { .. }) && self.transaction.phase == Phase::Open {
            overtaken?;
        }
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
                self.mirror(&[], Phase::Idle).await?;
                build::command_complete(&mut self.client.output, "ROLLBACK");
                self.leave_main(Leaves::Nothing).await
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
        if let Some(statement) = prepared.parsed.single() {
            self.may_run(statement)?;
        }
        if outside_transaction && self.transaction.phase == Phase::Open {
            let message = "this statement cannot run inside a transaction block";
            return Err(Report::new(sqlstate::ACTIVE_SQL_TRANSACTION, message).into());
        }
        let ends = match self.transaction.phase {
            Phase::Idle if self.binds <= 1 => self.ends_pipeline().await?,
            _ => None,
        };
        if self.transaction.phase == Phase::Idle && ends.is_none() {
            let message = "a statement that goes straight to main must be alone in its pipeline";
            let mut report = Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message);
            if self.binds > 1 {
                report =
                    report.detail("Statements before it whose answers the client had asked for are committed on main.");
            }
            return Err(report.hint("Use BEGIN and COMMIT, or a Sync after each.").into());
        }
        if limit > 0 && ends == Some(b'H') {
            // Main's transaction ends with the statement, and the portal with it.
            let message =
                "rows of a statement that goes straight to main cannot be fetched in parts outside of a block";
            return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint("Use BEGIN and COMMIT.").into());
        }
        let ran = self.execute_on_main(prepared, bind, limit).await;
        let in_part = prepared.parsed.single().is_some_and(|single| runs(&single.text));
        self.leave_after(ran, leaves, in_part).await
    }

    /// Leaves main after a statement that was no part of a transaction. `in_part`: it may have committed something before
    /// it failed.
    async fn leave_after(&mut self, ran: Result<(), Failure>, leaves: Leaves, in_part: bool) -> Result<(), Failure> {
        match (ran, self.transaction.phase) {
            (Ok(()), Phase::Idle) => self.leave_main(leaves).await,
            (Err(Failure::Told), Phase::Idle) if in_part => {
                self.leave_main(leaves).await?;
                Err(Failure::Told)
            }
            (Err(failure), Phase::Idle) => {
                // It may have been done, if its answer was lost.
                self.seat.leave_main(!matches!(failure, Failure::Told));
                Err(failure)
            }
            (ran, _) => ran,
        }
    }

    /// The message by which the client says that it has nothing more to run before Sync, or wants this first. It has to say
    /// so before anything runs on main, where it would be committed.
    pub(super) async fn ends_pipeline(&mut self) -> Result<Option<u8>, Failure> {
        loop {
            let mut rest = &self.client.input[..];
            if self.client.ended {
                return Err(End::Client.into());
            }
            while let Some(header) = header(rest).map_err(End::Protocol)? {
                match header.kind {
                    b'C' if rest.len() >= header.length => rest = &rest[header.length..],
                    b'C' => break,
                    kind => return Ok(Some(kind).filter(|kind| matches!(kind, b'S' | b'H' | b'X'))),
                }
            }
            // That many Close messages are not worth waiting for.
            if self.client.input.len() >= self.input_bound() {
                return Ok(None);
            }
            self.pump(Wants::Both).await?;
        }
    }

    /// Runs a client's statement with its values on main, by the unnamed statement there. In a block the portal keeps its
    /// name, since the client may fetch more of it.
    pub(super) async fn execute_on_main(
        &mut self,
        prepared: &Prepared,
        bind: &BytesMut,
        limit: i32,
    ) -> Result<(), Failure> {
        self.enter_main(prepared.parsed.single().map_or(&[], std::slice::from_ref)).await?;
        let bind = Bind::read(&bind[HEADER..])?;
        self.goes_to_main(&String::from_utf8_lossy(&prepared.sql), &prepared.parsed);
        let portal = if self.transaction.phase == Phase::Open { bind.portal } else { b"" };
        let Some(main) = &mut self.main else { return Err(lost().into()) };
        let out = &mut main.raw.link.output;
        let arguments = bind.values.iter().zip(bind.binary());
        let arguments: Vec<_> = arguments.map(|(&value, binary)| Argument { binary, value }).collect();
        build::parse(out, b"", &prepared.sql, &prepared.types);
        build::bind(out, portal, b"", &arguments, &bind.results);
        build::execute(out, portal, limit.max(0));
        // While it copies main ignores a Sync, and when it fails before it has read any data it does not.
        let copies = prepared.parsed.single().is_some_and(|statement| statement.class == Class::CopyIn);
        let end = if copies { build::flush } else { build::sync };
        end(out);
        let (status, failed) = self.converse(Show::Answers, copies).await?;
        if self.transaction.phase != Phase::Idle {
            self.transaction.phase = Phase::of_status(status);
        }
        if failed {
            self.skipping = true;
            return Err(Failure::Told);
        }
        let text = String::from_utf8_lossy(&prepared.sql).into_owned();
        self.sequences_were_set(&text).await?;
        self.claim_unseen().await
    }

    /// A portal that the replica refused to run because it writes.
    pub(super) async fn straight_refused(&mut self, lone: &Lone, limit: i32, refusal: &[u8]) -> Result<(), Failure> {
        let ran = self.execute_on_main(&lone.prepared, &lone.bind, limit).await;
        match self.leave_after(ran, Leaves::Definitions, false).await {
            Err(Failure::Own(mut report)) => {
                report.detail.get_or_insert_with(|| format!("The replica: {}.", error::text(&refusal[HEADER..])));
                Err(Failure::Own(report))
            }
            ran => ran,
        }
    }
}

/// Whether a text may set what is the session's; functions and procedures may.
fn may_set(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    let runs = ["do", "call", "select", "with", "execute"];
    runs.iter().any(|word| first.eq_ignore_ascii_case(word))
        || text.as_bytes().windows(3).any(|word| word.eq_ignore_ascii_case(b"set"))
}

/// Whether a statement is CALL or DO, which may commit.
fn runs(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    ["do", "call"].iter().any(|word| first.eq_ignore_ascii_case(word))
}

/// Whether a text may prepare statements.
fn prepares(text: &str) -> bool {
    text.as_bytes().windows(7).any(|word| word.eq_ignore_ascii_case(b"prepare"))
}

pub(super) fn canceled() -> Report {
    Report::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

pub(super) fn lost() -> Report {
    Report::new(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, "the connection to main was lost during the statement")
        .hint("Look on main whether it was done before doing it again.")
}
