//! The simple protocol: one statement, or several as one transaction.
//!
//! A single read that can see nothing pending is forwarded as it came. Everything else is run statement by statement with
//! messages of the extended protocol, without a Sync before the end of the string: so the string is one implicit
//! transaction on the replica too, and its effects are one entry.

use bytes::BytesMut;

use super::Session;
use super::extended::deallocates;
use super::failure::{End, Failure};
use super::relay::{Expect, Unanswered};
use super::serve::TRIES;
use super::settings::check_own;
use super::statements::Parsed;
use super::straight::Leaves;
use super::transaction::{Phase, Route};
use crate::report::Report;
use crate::sql::{self, Class, Statement};
use crate::sqlstate;
use crate::status::StatementKind;
use crate::wire::read::query;
use crate::wire::{HEADER, build, error};

/// Queries up to this long are kept until the first byte of their answer, to be tried again. Bytes.
const KEEP_MAX: usize = 64 << 10;

impl Session {
    /// A Query message.
    pub(super) async fn query(&mut self, message: BytesMut) -> Result<(), End> {
        match self.settle().await {
            Ok(()) => {}
            Err(Failure::End(end)) => return Err(end),
            // A pipeline before it has failed, and the client sends no Sync: as in Postgres, it is skipped.
            Err(_) => return Ok(()),
        }
        if self.batch
            && let Err(failure) = self.end_pipeline().await
        {
            return self.finish(Err(failure), 0).await;
        }
        // As Postgres does with what has no name.
        self.names.statements.remove(&b""[..]);
        match self.transaction.phase {
            Phase::Idle => self.names.portals.clear(),
            Phase::Open | Phase::Failed => drop(self.names.portals.remove(&b""[..])),
        }
        let sql = match query(&message[HEADER..]) {
            Ok(sql) => sql,
            Err(malformed) => return self.finish(Err(malformed.into()), 0).await,
        };
        let text = std::str::from_utf8(sql);
        if text.is_ok_and(sql::plainly_reads)
            && self.transaction.route == Route::Here
            && self.transaction.phase != Phase::Failed
            && self.nothing_pending()
            && !text.is_ok_and(|text| sql::calls_own(text, &self.shared.catalog.current()))
        {
            return self.forward_plain(&message);
        }
        let parsed = text.ok().map(|text| self.shared.statements.parse(text));
        self.own_settings.extend(parsed.iter().flat_map(|parsed| parsed.own_settings.iter().cloned()));
        let Some((text, parsed)) = text.ok().zip(parsed) else {
            return self.unreadable(&message).await;
        };
        if parsed.script.is_err() {
            return self.unreadable(&message).await;
        }
        if self.may_forward(&parsed) {
            return self.forward_plain(&message);
        }
        self.tries = 0;
        let text = text.to_owned();
        let (outcome, before) = self.script(&text, &parsed).await;
        self.finish(outcome, before).await
    }

    /// The function call message: a statement of its own, as a query string is.
    pub(super) async fn function_call(&mut self, message: &[u8]) -> Result<(), End> {
        match self.settle().await {
            Ok(()) => {}
            Err(Failure::End(end)) => return Err(end),
            Err(_) => return Ok(()),
        }
        let ended = if self.batch { self.end_pipeline().await } else { Ok(()) };
        let outcome = match ended {
            Ok(()) => self.call_on_main(message).await,
            ended => ended,
        };
        self.finish(outcome, 0).await
    }

    /// A query string comes in the place of a pipeline's Sync.
    async fn end_pipeline(&mut self) -> Result<(), Failure> {
        (self.held, self.batch, self.binds) = (false, false, 0);
        if self.transaction.phase == Phase::Idle && !self.transaction.work.is_empty() {
            self.commit().await?;
            self.unsynced = true;
            self.sync().await?;
        }
        Ok(())
    }

    fn forward_plain(&mut self, message: &BytesMut) -> Result<(), End> {
        let idle = self.transaction.phase == Phase::Idle;
        let again = (idle && message.len() <= KEEP_MAX && self.tries < TRIES)
            .then(|| Unanswered { message: message.clone(), columns: BytesMut::new() });
        self.forward_query(message, again)
    }

    fn forward_query(&mut self, message: &BytesMut, again: Option<Unanswered>) -> Result<(), End> {
        if again.is_some() && self.tries == 0 {
            self.guard.statement(StatementKind::Untouched);
        }
        if again.is_none() {
            self.tries = 0;
        }
        self.forward(message);
        self.expected.push_back(Expect::Query { again });
        Ok(())
    }

    /// Whether the text can go to the replica as it is.
    fn may_forward(&mut self, parsed: &Parsed) -> bool {
        if self.transaction.route == Route::Straight {
            return false;
        }
        if parsed.is_empty() || self.transaction.phase == Phase::Failed {
            return parsed.single().is_none_or(|statement| !matches!(statement.class, Class::Transaction(_)))
                && (parsed.is_empty() || parsed.single().is_some());
        }
        let Some(statement) = parsed.single() else { return false };
        let here = self.transaction.route == Route::Here;
        match &statement.class {
            Class::Query => {
                self.may_set(parsed);
                here && !parsed.takes_ids && !parsed.locks && self.nothing_pending()
            }
            Class::Replica => here && !deallocates(statement),
            Class::Prepare { .. } => here,
            Class::Settings { .. } => {
                self.guard.statement(StatementKind::Settings);
                self.sets(&statement.text);
                self.forget_ids(statement);
                here && !deallocates(statement) && self.for_standby(statement).is_none()
            }
            Class::Transaction(_)
            | Class::Write
            | Class::Part
            | Class::Truncate(_)
            | Class::Constraints(_)
            | Class::CopyIn
            | Class::With
            | Class::OwnSetting { .. }
            | Class::ShowMode(_)
            | Class::Execute { .. }
            | Class::Straight { .. }
            | Class::Refused(_) => false,
        }
    }

    /// A text that our parser cannot read: Postgres judges it.
    async fn unreadable(&mut self, message: &BytesMut) -> Result<(), End> {
        if self.nothing_pending() && self.transaction.route == Route::Here {
            self.settings = None;
            return self.forward_plain(message);
        }
        let sql = query(&message[HEADER..]).unwrap_or_default().to_vec();
        let statements = std::str::from_utf8(&sql).map(sql::statements).unwrap_or_default();
        if self.transaction.route == Route::Straight && statements.len() <= 1 {
            // Main is its judge then, and knows what the transaction has made.
            let outcome = self.straight_bytes(&sql, Leaves::Definitions).await;
            return self.finish(outcome, 0).await;
        }
        let several = statements.len() > 1 && self.transaction.phase != Phase::Failed;
        let (mut outcome, mut before) = (Ok(()), 0);
        for place in statements {
            outcome = self.analyse(&sql[place.clone()]).await;
            before = String::from_utf8_lossy(&sql[..place.start]).chars().count();
            if outcome.is_err() {
                break;
            }
        }
        let outcome = match outcome {
            // What else is wrong with one of several may hang on those before it.
            Err(Failure::Server(error)) if several && error::code(&error[HEADER..]) != sqlstate::SYNTAX_ERROR => {
                before = 0;
                self.sync().await.map_err(Failure::from)
            }
            outcome => outcome,
        };
        let refused = |session: &mut Session| session.refuse_blind("a statement that pgoutpost cannot read");
        let outcome = outcome.and_then(|()| refused(self).map_err(Failure::from));
        self.finish(outcome, before).await
    }

    pub(super) async fn statement(&mut self, statement: &Statement, parsed: &Parsed) -> Result<(), Failure> {
        if self.transaction.phase == Phase::Failed && !matches!(statement.class, Class::Transaction(_)) {
            return self.pass(&statement.text, false).await;
        }
        let statements = parsed.script.as_ref().map_or(&[][..], |script| &script.statements);
        let last = statements.last().is_some_and(|last| std::ptr::eq(last, statement));
        match &statement.class {
            Class::Query => {
                self.may_set(parsed);
                let read = self.simple_read(statement, last).await;
                // What was asked for the query was true until it ran.
                self.may_set(parsed);
                self.or_on_main(read, statement, parsed).await
            }
            Class::Write => {
                let written = self.simple_write(statement, last).await;
                self.may_set(parsed);
                self.or_on_main(written, statement, parsed).await
            }
            Class::With => {
                let written = self.simple_with(statement, last).await;
                self.may_set(parsed);
                self.or_on_main(written, statement, parsed).await
            }
            Class::CopyIn => {
                let tag = self.copy_in(statement).await?;
                self.simple_tag(&tag, last).await
            }
            Class::Transaction(command) => self.control(command, None).await,
            Class::Truncate(truncate) => {
                let tag = self.truncate(statement, truncate).await?;
                self.simple_tag(tag, last).await
            }
            Class::Constraints(command) => {
                let answer = self.run_unnamed(&statement.text).await.map_err(super::read::as_clients)?;
                self.set_constraints(command).await?;
                self.client.output.extend_from_slice(&answer);
                Ok(())
            }
            Class::OwnSetting { name, value, show } => {
                check_own(name, value.as_deref(), *show)?;
                self.changes_settings(!show);
                self.pass(&statement.text, last).await
            }
            Class::ShowMode(mode) => self.show_mode(*mode, &statement.text, last).await,
            Class::Settings { .. } | Class::Replica | Class::Prepare { .. } => {
                if matches!(statement.class, Class::Settings { .. }) {
                    self.keep_modes(&statement.text).await?;
                    self.sets(&statement.text);
                }
                self.forget_ids(statement);
                let replacement = self.for_standby(statement);
                self.pass(replacement.as_deref().unwrap_or(&statement.text), last).await?;
                if deallocates(statement) {
                    self.names.forget_all();
                }
                Ok(())
            }
            Class::Execute { name } => self.simple_execute(name, statement, last).await,
            Class::Refused(report) => {
                self.analyse(statement.text.as_bytes()).await?;
                Err(report.clone().into())
            }
            Class::Part | Class::Straight { .. } => {
                Err(Report::new(sqlstate::INTERNAL_ERROR, "a straight statement came the wrong way").into())
            }
        }
    }

    /// What the replica refused because a function in it writes is main's to do, if it stands alone.
    async fn or_on_main(
        &mut self,
        outcome: Result<(), Failure>,
        statement: &Statement,
        parsed: &Parsed,
    ) -> Result<(), Failure> {
        let alone = parsed.single().is_some() && self.transaction.phase == Phase::Idle;
        match outcome {
            Err(Failure::Server(error) | Failure::Inner(error)) if alone && writes(&error) => {
                self.sync().await?;
                self.straight_text(&statement.text, Leaves::Definitions).await
            }
            outcome => outcome,
        }
    }

    /// Ends a query string: commits its implicit transaction or tells why not, then ReadyForQuery.
    pub(super) async fn finish(&mut self, outcome: Result<(), Failure>, before: usize) -> Result<(), End> {
        let implicit = self.transaction.phase == Phase::Idle && !self.transaction.work.is_empty();
        // The replica's part is over: it ends while the buffer writes. Unless `commit` must still ask it.
        let ended = outcome.is_ok() && implicit && self.unsynced && self.commits_alone();
        if ended {
            build::sync(&mut self.replica.link.output);
            self.replica.link.push().await;
        }
        let in_block = self.transaction.implicit;
        let outcome = match outcome {
            Ok(()) if implicit => self.commit().await,
            Ok(()) if in_block => self.commit_implicitly().await,
            outcome => outcome,
        };
        let tag = std::mem::take(&mut self.last_tag);
        if outcome.is_ok() {
            self.client.output.extend_from_slice(&tag);
        }
        if let Err(failure) = outcome {
            let (told, own) = (matches!(failure, Failure::Told), matches!(failure, Failure::Own(_)));
            self.tell(failure, before)?;
            if !told {
                self.fail_main().await?;
            }
            if own && !ended && self.transaction.route == Route::Here {
                self.fail_replica().await?;
            }
            self.failed();
            if in_block {
                self.roll_back_implicitly().await?;
            }
        }
        if ended {
            self.synced().await?;
        } else {
            self.sync().await?;
        }
        if self.transaction.phase == Phase::Idle {
            self.end_transaction(false);
        }
        self.is_still_there()?;
        build::ready(&mut self.client.output, self.transaction.phase.status());
        Ok(())
    }

    /// The replica said that a query writes: it may be a function that does, so main may run it.
    pub(super) async fn query_refused_by_replica(&mut self, message: BytesMut, refusal: BytesMut) -> Result<(), End> {
        let sql = query(&message[HEADER..]).ok().and_then(|sql| std::str::from_utf8(sql).ok()).map(str::to_owned);
        let outcome = match sql {
            Some(sql) => self.straight_text(&sql, Leaves::Definitions).await,
            None => Err(Failure::Server(refusal.clone())),
        };
        let outcome = outcome.map_err(|failure| match failure {
            Failure::Own(mut report) => {
                let said = error::text(&refusal[HEADER..]);
                report.detail = Some(match report.detail.take() {
                    Some(detail) => format!("The replica: {said}. {detail}"),
                    None => format!("The replica: {said}."),
                });
                Failure::Own(report)
            }
            other => other,
        });
        self.finish(outcome, 0).await
    }
}

/// Whether the replica refused to write.
pub(super) fn writes(message: &[u8]) -> bool {
    error::code(&message[HEADER..]) == sqlstate::READ_ONLY_SQL_TRANSACTION
}
