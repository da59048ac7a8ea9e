//! What statements of a straight transaction do to the session itself, done on the replica, too: the transaction's
//! begin, savepoints and end, so that what was set or declared there before is kept or undone as on main; and prepared
//! statements.

use std::collections::HashSet;

use serde::Deserialize;

use super::Session;
use super::carry::session_lost;
use super::control::plain;
use super::failure::Failure;
use super::owed::Pipeline;
use super::read::as_clients;
use super::settings::check_own;
use super::statements::{Late, Parsed};
use super::straight::Leaves;
use super::transaction::{Phase, Route};
use crate::report::Report;
use crate::setup::identifier;
use crate::sql::{self, Class, Statement, TransactionCommand};
use crate::sqlstate;
use crate::wire::{HEADER, build, error};

/// What a statement does that the replica's session must do likewise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    Control(TransactionCommand),
    /// `None`: of all.
    Deallocate(Option<String>),
    /// DISCARD ALL.
    Discard,
    /// Something that is done to both.
    Both(&'static str),
}

/// A statement that SQL's PREPARE has named on main.
#[derive(Debug, Deserialize)]
pub(super) struct NamedOnMain {
    name: String,
    /// The query string that it was in.
    text: String,
    types: Vec<String>,
}

/// See [`Deed`].
pub(super) fn deed(statement: &Statement) -> Option<Deed> {
    match &statement.class {
        Class::Transaction(command) => Some(Deed::Control(command.clone())),
        Class::Replica if is(&statement.text, &["close", "all"]) => Some(Deed::Both("CLOSE ALL")),
        Class::Replica => deallocated(&statement.text).map(Deed::Deallocate),
        Class::Settings { discard_all: true } => Some(Deed::Discard),
        Class::Settings { .. } if is(&statement.text, &["reset", "all"]) => Some(Deed::Both("RESET ALL")),
        Class::Query if statement.text.to_ascii_lowercase().contains(UNLOCK_ALL) => {
            Some(Deed::Both("SELECT pg_catalog.pg_advisory_unlock_all()"))
        }
        _ => None,
    }
}

/// Gives back locks that are the site's: on main there are none.
const UNLOCK_ALL: &str = "pg_advisory_unlock_all";

fn is(text: &str, words: &[&str]) -> bool {
    let mut rest = text.split_whitespace();
    words.iter().all(|word| rest.next().is_some_and(|next| next.eq_ignore_ascii_case(word))) && rest.next().is_none()
}

/// The prepared statement that it is about.
pub(super) fn names(statement: &Statement) -> Option<String> {
    match &statement.class {
        Class::Execute { name } | Class::Prepare { name } => Some(name.clone()),
        Class::Replica => deallocated(&statement.text).flatten(),
        _ => None,
    }
}

/// The name in `DEALLOCATE [PREPARE] name`.
fn deallocated(text: &str) -> Option<Option<String>> {
    let word = |text: &str| -> String { text.chars().take_while(|c| !c.is_whitespace()).collect() };
    let after = |text: &'_ str, first: &str| text[first.len()..].trim_start().to_owned();
    let first = word(text);
    if !first.eq_ignore_ascii_case("deallocate") {
        return None;
    }
    let mut rest = after(text, &first);
    let second = word(&rest);
    if second.eq_ignore_ascii_case("prepare") && second.len() < rest.len() {
        rest = after(&rest, &second);
    }
    let name = rest.trim_end();
    Some(match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => Some(quoted.replace("\"\"", "\"")),
        None if name.eq_ignore_ascii_case("all") => None,
        None => Some(name.to_ascii_lowercase()),
    })
}

/// What main is told so that its transaction fails: no SQL.
pub(super) const REFUSED: &str = "pgoutpost: refused";

/// What main cannot do for a session that lives on the replica.
fn refused_on_main(statement: &Statement) -> Option<Report> {
    let text = statement.text.to_ascii_lowercase().replace(UNLOCK_ALL, "");
    if !["pg_advisory_lock", "pg_try_advisory_lock", "pg_advisory_unlock"].iter().any(|name| text.contains(name)) {
        return None;
    }
    let message = "session advisory locks are the site's, and this statement would run on main";
    let hint = "Use them outside of the transaction, or before its first statement that goes to main.";
    Some(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint(hint))
}

impl Session {
    /// Whether main may run the statement for this session.
    pub(super) fn may_run(&self, statement: &Statement) -> Result<(), Report> {
        match &statement.class {
            Class::OwnSetting { name, value, show } => check_own(name, value.as_deref(), *show)?,
            // Main has been given for the session what may have been said for the transaction only: a role, too.
            Class::Transaction(
                TransactionCommand::Commit { chain: true } | TransactionCommand::Rollback { chain: true },
            ) if self.local_settings => {
                let message = "AND CHAIN of a transaction that goes on on main, and in which settings were made for it alone before";
                let hint = "Say COMMIT or ROLLBACK, then BEGIN.";
                return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint(hint));
            }
            _ => {}
        }
        refused_on_main(statement).map_or(Ok(()), Err)
    }

    /// Does on the replica what statements have done on main, whose transaction now is at `now`.
    ///
    /// # Errors
    /// The session ends when the replica's transaction cannot follow: what was set in it would be another.
    pub(super) async fn mirror(&mut self, done: &[(Deed, String)], now: Phase) -> Result<(), Failure> {
        for (deed, tag) in done {
            match deed {
                Deed::Control(command) => self.mirror_control(command, tag, now).await?,
                Deed::Deallocate(name) => self.deallocate_here(name.as_deref()).await?,
                Deed::Discard => {
                    self.deallocate_here(None).await?;
                    self.names.portals.clear();
                    self.remembered = super::ids::Remembered::default();
                    self.pipeline.discarded = true;
                    self.changes_settings(true);
                    self.follow("DISCARD ALL").await?;
                }
                Deed::Both(sql) => {
                    self.changes_settings(true);
                    self.follow(sql).await?;
                }
            }
        }
        match (self.transaction.phase, now) {
            (Phase::Idle, Phase::Open | Phase::Failed) => self.begin_here(None, now).await,
            (Phase::Open | Phase::Failed, Phase::Idle) => self.end_here("ROLLBACK").await,
            (_, now) => {
                self.transaction.phase = now;
                Ok(())
            }
        }
    }

    async fn mirror_control(&mut self, command: &TransactionCommand, tag: &str, now: Phase) -> Result<(), Failure> {
        let idle = self.transaction.phase == Phase::Idle;
        match command {
            TransactionCommand::Begin { .. } if idle => self.begin_here(Some(command), Phase::Open).await,
            TransactionCommand::Commit { chain } | TransactionCommand::Rollback { chain } if !idle => {
                let committed = tag == "COMMIT";
                self.end_here(if committed { "COMMIT" } else { "ROLLBACK" }).await?;
                self.pipeline.committed |= committed;
                if !committed {
                    self.pipeline.restarted.clear();
                }
                if *chain { self.begin_here(None, Phase::Open).await } else { Ok(()) }
            }
            TransactionCommand::Savepoint(name) if !idle => {
                self.pipeline.early.retain(|early| early != name);
                self.follow(&plain(command)).await
            }
            TransactionCommand::Release(_) if !idle => self.follow(&plain(command)).await,
            TransactionCommand::RollbackTo(name) if !idle => {
                self.follow(&plain(command)).await?;
                if now == Phase::Failed || !self.gives_back(name) {
                    return Ok(());
                }
                // All that main has set since is undone, but not what it was given as set before.
                self.give_session_to_main().await.map_err(|failure| match failure {
                    Failure::Own(why) => session_lost(&why.message).into(),
                    other => other,
                })
            }
            TransactionCommand::Begin { .. }
            | TransactionCommand::Commit { .. }
            | TransactionCommand::Rollback { .. }
            | TransactionCommand::Savepoint(_)
            | TransactionCommand::Release(_)
            | TransactionCommand::RollbackTo(_)
            | TransactionCommand::Characteristics { .. } => Ok(()),
        }
    }

    /// Whether ROLLBACK TO the savepoint may undo what was set here before the transaction went to main.
    pub(super) fn gives_back(&self, savepoint: &str) -> bool {
        self.settings_changed && self.pipeline.early.iter().any(|early| early == savepoint)
    }

    async fn begin_here(&mut self, command: Option<&TransactionCommand>, phase: Phase) -> Result<(), Failure> {
        self.follow("BEGIN").await?;
        match command {
            Some(TransactionCommand::Begin { isolation, read_only, .. }) => {
                self.transaction.begin(*isolation, *read_only);
            }
            _ => self.transaction.begin(None, None),
        }
        self.transaction.route = Route::Straight;
        self.transaction.phase = phase;
        Ok(())
    }

    async fn end_here(&mut self, how: &str) -> Result<(), Failure> {
        self.transaction.route = Route::Here;
        self.follow(how).await?;
        self.transaction.phase = Phase::Idle;
        self.end_transaction(false);
        Ok(())
    }

    /// Transaction control on the replica that must succeed.
    async fn follow(&mut self, sql: &str) -> Result<(), Failure> {
        match self.hidden(sql).await {
            Ok(b'E') => Err(session_lost("the replica's transaction has failed").into()),
            Ok(_) => Ok(()),
            Err(Failure::Inner(why) | Failure::Server(why)) => Err(session_lost(&error::text(&why[HEADER..])).into()),
            Err(other) => Err(other),
        }
    }

    async fn deallocate_here(&mut self, name: Option<&str>) -> Result<(), Failure> {
        match name {
            Some(name) => {
                let known = name.as_bytes();
                self.names.statements.remove(known);
                self.names.late.remove(known);
                self.pipeline.forget(known);
                // Not DEALLOCATE: Close takes what is not there.
                build::close_statement(self.ask(), known);
                build::flush(self.ask());
                self.reply_of(b'3').await.map(drop)
            }
            None => {
                self.names.forget_all();
                self.pipeline.forget_all();
                self.hidden("DEALLOCATE ALL").await.map(drop)
            }
        }
    }

    /// After a statement on main that was no part of a transaction, or the end of one: the replica, and the session there,
    /// get what main has.
    pub(super) async fn leave_main(&mut self, leaves: Leaves) -> Result<(), Failure> {
        let pipeline = self.pipeline.end();
        let redefined = pipeline.committed || !pipeline.restarted.is_empty();
        let leaves = if redefined { Leaves::Definitions } else { leaves };
        for sequence in &pipeline.restarted {
            self.shared.leases.renew(sequence).await.map_err(|error| error.report())?;
        }
        let left = self.take_back(pipeline, leaves).await;
        // Others may evaluate writes of what it had claimed: the replica has it now.
        self.seat.leave_main(leaves != Leaves::Nothing);
        self.locks.release(None);
        left
    }

    async fn take_back(&mut self, pipeline: Pipeline, leaves: Leaves) -> Result<(), Failure> {
        // Next time the client may mean others by those names.
        let has_names = |session: &Session| session.main.as_ref().is_some_and(|main| main.has_names);
        let (stayed, tidy) = (self.resident, has_names(self) && !self.resident);
        let mut named = Vec::new();
        if let Some(left) = self.settle_on_replica(leaves, tidy, pipeline.may_set).await? {
            self.take_session_back(left.session).await?;
            named = left.prepared;
        }
        if stayed && self.resident {
            return Ok(());
        }
        if stayed && pipeline.discarded {
            self.give_main_back().await;
        } else if stayed && has_names(self) {
            self.ask_main("DEALLOCATE ALL").await?;
            if let Some(main) = &mut self.main {
                main.has_names = false;
            }
        }
        for (name, prepared) in self.pipeline.forget_all() {
            let current = self.names.statements.get(&name);
            if current.is_some_and(|now| std::sync::Arc::ptr_eq(now, &prepared)) {
                self.names.late.insert(name.clone(), Late::Parse(prepared));
                self.try_late(&name).await?;
            }
        }
        if named.is_empty() {
            return Ok(());
        }
        let rows = self.question("SELECT p.name FROM pg_catalog.pg_prepared_statements p").await?;
        let known: HashSet<Vec<u8>> = rows.into_iter().flatten().flatten().map(|name| name.to_vec()).collect();
        for named in named {
            let name = named.name.clone().into_bytes();
            if !known.contains(&name)
                && !self.names.late.contains_key(&name)
                && let Some(inner) = sql::prepared_text(&named.text, &named.name)
            {
                let types = named.types.join(", ");
                let types = if types.is_empty() { types } else { format!(" ({types})") };
                let prepare = format!("PREPARE {}{types} AS {inner}", identifier(&named.name));
                self.names.late.insert(name.clone(), Late::Prepare(prepare));
                self.try_late(&name).await?;
            }
        }
        Ok(())
    }

    /// Prepares a statement on the replica that was prepared on main, between transactions. If the replica cannot yet, it
    /// is tried again when it is used.
    async fn try_late(&mut self, name: &[u8]) -> Result<(), Failure> {
        self.sync().await?;
        if self.behind.is_none() {
            match self.prepare_late(name).await {
                Ok(()) | Err(Failure::Inner(_) | Failure::Server(_) | Failure::Own(_) | Failure::Told) => {}
                Err(Failure::End(end)) => return Err(end.into()),
            }
        }
        // Each by itself: one that is wrong by now does not keep the others away.
        self.unsynced = true;
        self.sync().await.map_err(Failure::from)
    }

    /// What was prepared on main and is still to be prepared on the replica, now that it is used.
    ///
    /// # Errors
    /// Postgres' own, as when a table is gone; 57P03 while the replica lacks what was done on main.
    pub(super) async fn use_late(&mut self, name: &[u8]) -> Result<(), Failure> {
        if !self.names.late.contains_key(name) {
            return Ok(());
        }
        self.settle().await?;
        self.caught_up().await?;
        self.prepare_late(name).await
    }

    async fn prepare_late(&mut self, name: &[u8]) -> Result<(), Failure> {
        const OWN: &[u8] = b"pgoutpost_late";
        let Some(late) = self.names.late.remove(name) else { return Ok(()) };
        let out = self.ask();
        let answer = match &late {
            Late::Parse(prepared) => {
                build::close_statement(out, name);
                build::parse(out, name, &prepared.sql, &prepared.types);
                build::flush(out);
                self.reply_of(b'1').await
            }
            Late::Prepare(sql) => {
                build::close_statement(out, OWN);
                build::parse(out, OWN, sql.as_bytes(), &[]);
                build::bind(out, OWN, OWN, &[], &[]);
                build::execute(out, OWN, 0);
                build::close_portal(out, OWN);
                build::flush(out);
                match self.reply_of(b'C').await {
                    Ok(_) => self.reply_of(b'3').await,
                    failed => failed,
                }
            }
        };
        if answer.is_err() {
            self.names.late.insert(name.to_vec(), late);
        }
        answer.map(drop).map_err(as_clients)
    }

    /// What the statements of a string have done that the replica must follow, by their tags.
    pub(super) fn deeds(&mut self, parsed: &Parsed) -> Vec<(Deed, String)> {
        let statements = parsed.script.as_ref().map_or(&[][..], |script| &script.statements);
        let tags = std::mem::take(&mut self.tags);
        let done = statements.iter().zip(tags);
        done.filter_map(|(statement, tag)| Some((deed(statement)?, tag))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deallocate_names_what_it_takes_away() {
        let name = |name: &str| Some(Some(name.to_owned()));
        assert_eq!(deallocated("DEALLOCATE Foo"), name("foo"));
        assert_eq!(deallocated("deallocate prepare \"Fo\"\"o bar\""), name("Fo\"o bar"));
        assert_eq!(deallocated("DEALLOCATE prepare"), name("prepare"));
        assert_eq!(deallocated("DEALLOCATE ALL"), Some(None));
        assert_eq!(deallocated("CLOSE x"), None);
    }
}
