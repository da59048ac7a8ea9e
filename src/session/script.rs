//! Query strings of several statements: what is known of all of them before the first is run, and where they are run.
//!
//! Postgres runs them one after the other, and when one fails, those before it have been done. So what is wrong with a
//! later one, or keeps it from main, is told at its turn, and not before a BEGIN that stands in front of it.

use super::Session;
use super::failure::Failure;
use super::statements::Parsed;
use super::transaction::{Phase, Route};
use crate::report::Report;
use crate::sql::{Class, Statement, TransactionCommand};
use crate::wire::{HEADER, error};

/// What the statements of a string need, as far as it is known before the first has run.
enum Needs {
    /// Nothing of main; those from this one on, if any, are to be asked about again at their turn.
    Site { again: usize },
    /// Main, since this one cannot be done here. Why, if it is not plain.
    Main { first: usize, why: Option<Report> },
    /// This one fails so.
    Failure(usize, Failure),
}

impl Session {
    /// Postgres reads all of a string before it does any of it, so what it cannot read it does nothing of. It is asked by a
    /// Parse, which always fails: by a syntax error, or because there are several statements.
    async fn is_readable(&mut self, text: &str, parsed: &Parsed) -> Result<(), Failure> {
        let idle = self.transaction.phase == Phase::Idle;
        // What goes straight reaches main as one string. What was asked for before it is not to be undone.
        if parsed.is_readable() || self.transaction.route != Route::Here || (idle && self.unsynced) {
            return Ok(());
        }
        let open = self.transaction.phase == Phase::Open;
        if open {
            self.question("SAVEPOINT pgoutpost").await?;
        }
        match self.analyse(text.as_bytes()).await {
            Err(Failure::Server(error)) if error::field(&error[HEADER..], b'R') != Some(b"exec_parse_message") => {
                return Err(Failure::Server(error));
            }
            Ok(()) | Err(Failure::Server(_)) => {}
            Err(failure) => return Err(failure),
        }
        match open {
            true => {
                self.end_on_replica().await?;
                self.question("ROLLBACK TO SAVEPOINT pgoutpost").await?;
                self.question("RELEASE SAVEPOINT pgoutpost").await?;
            }
            false => self.sync().await?,
        }
        parsed.was_read();
        Ok(())
    }

    /// Runs the statements of a string. The failed one's place in it is given in characters.
    pub(super) async fn script(&mut self, text: &str, parsed: &Parsed) -> (Result<(), Failure>, usize) {
        let statements = parsed.script.as_ref().map_or(&[][..], |script| &script.statements);
        let guessed = parsed.script.as_ref().is_ok_and(|script| script.guessed);
        if (statements.len() > 1 || guessed)
            && let Err(failure) = self.is_readable(text, parsed).await
        {
            return (Err(failure), 0);
        }
        match self.needs(statements).await {
            Ok(Needs::Site { again }) => self.run_here(text, parsed, statements, again).await,
            Ok(Needs::Main { first, why }) => {
                let failure = match self.admit_to_main(text, statements).await {
                    Ok(()) => {
                        let outcome = self.straight_script(text, statements).await;
                        return (outcome.map_err(|failure| failure.because(why)), 0);
                    }
                    Err(failure) => failure.because(why),
                };
                self.run_before(first, failure, text, parsed).await
            }
            Ok(Needs::Failure(first, failure)) => self.run_before(first, failure, text, parsed).await,
            Err(failure) => (Err(failure), 0),
        }
    }

    /// Asks about all statements of a string before the first is run: it goes to main as a whole, or not at all.
    async fn needs(&mut self, statements: &[Statement]) -> Result<Needs, Failure> {
        let phase = self.transaction.phase;
        if self.transaction.route == Route::Straight
            && !matches!(statements, [Statement { class: Class::Transaction(_), .. }])
        {
            return Ok(Needs::Main { first: 0, why: None });
        }
        if phase == Phase::Failed {
            return Ok(Needs::Site { again: statements.len() });
        }
        let straight = |statement: &Statement| matches!(statement.class, Class::Straight { .. });
        if let Some(first) = statements.iter().position(straight) {
            return Ok(Needs::Main { first, why: None });
        }
        for (place, statement) in statements.iter().enumerate() {
            // A question that fails must leave the replica's transaction as it was for those before.
            let saved = place > 0 && phase == Phase::Open && self.is_to_be_analysed(statement).await?;
            if saved {
                self.question("SAVEPOINT pgoutpost").await?;
            }
            let asked = self.needs_main(statement, statements.len() == 1).await;
            if saved {
                self.end_on_replica().await?;
                self.question("ROLLBACK TO SAVEPOINT pgoutpost").await?;
                self.question("RELEASE SAVEPOINT pgoutpost").await?;
            }
            match asked {
                Ok(None) => {}
                Ok(why) => return Ok(Needs::Main { first: place, why }),
                Err(failure @ (Failure::End(_) | Failure::Told)) => return Err(failure),
                Err(failure @ (Failure::Server(_) | Failure::Inner(_))) => {
                    if place == 0 || (self.replica_skips && phase == Phase::Open) {
                        return Err(failure);
                    }
                    if phase == Phase::Idle {
                        self.sync().await?;
                    }
                    // It may be right once those before it have run.
                    return Ok(Needs::Site { again: place });
                }
                Err(failure) => return Ok(Needs::Failure(place, failure)),
            }
        }
        Ok(Needs::Site { again: statements.len() })
    }

    /// Why a statement cannot be done here. What is wrong with it is said, whether or not main can be reached.
    async fn needs_main(&mut self, statement: &Statement, single: bool) -> Result<Option<Report>, Failure> {
        let why = match &statement.class {
            // What is to be prepared within this string is not known yet.
            Class::Execute { name } if single => self.execute_not_bufferable(name).await?,
            _ => self.not_bufferable(statement).await?,
        };
        if why.is_some() {
            self.analyse(statement.text.as_bytes()).await?;
        }
        Ok(why)
    }

    /// Makes main ready for a string.
    async fn admit_to_main(&mut self, text: &str, statements: &[Statement]) -> Result<(), Failure> {
        if self.transaction.route == Route::Here {
            let refused = statements.iter().find_map(|statement| match &statement.class {
                Class::Refused(report) => Some(report.clone()),
                _ => None,
            });
            if let Some(report) = refused {
                return Err(report.into());
            }
        }
        for statement in statements {
            if let Some(name) = super::mirror::names(statement) {
                self.introduce_named(&name).await?;
            }
        }
        self.ready_for(text).await
    }

    /// A statement of the string fails, and main has heard of none: those before it are done here, if a block begins or
    /// ends among them. (Of others nothing would be left.)
    async fn run_before(
        &mut self,
        first: usize,
        failure: Failure,
        text: &str,
        parsed: &Parsed,
    ) -> (Result<(), Failure>, usize) {
        let statements = parsed.script.as_ref().map_or(&[][..], |script| &script.statements);
        let (before, failed) = statements.split_at(first.min(statements.len()));
        let controls = before.iter().any(|statement| matches!(statement.class, Class::Transaction(_)));
        let here = self.transaction.route == Route::Here && !self.replica_skips;
        if !controls || !here || matches!(failure, Failure::End(_) | Failure::Told) {
            return (Err(failure), 0);
        }
        match self.run_here(text, parsed, before, before.len()).await {
            (Ok(()), _) => (Err(failure), failed.first().map_or(0, |failed| place_of(failed, text, before))),
            other => other,
        }
    }

    /// Whether the string has to be a transaction block on the replica, as Postgres makes one of several statements: to our
    /// messages it is only an implicit transaction, which does for most. One that has transaction control of its own is not.
    fn is_block(&self, parsed: &Parsed) -> bool {
        let statements = parsed.script.as_ref().map_or(&[][..], |script| &script.statements);
        let controls = |statement: &Statement| {
            use TransactionCommand::Characteristics;
            matches!(&statement.class, Class::Transaction(command) if !matches!(command, Characteristics { .. }))
        };
        self.transaction.phase == Phase::Idle
            && statements.len() > 1
            && statements.iter().any(Statement::is_for_blocks)
            && !statements.iter().any(controls)
    }

    /// Runs statements of a string one by one. Those from number `again` on are asked about first.
    async fn run_here(
        &mut self,
        text: &str,
        parsed: &Parsed,
        statements: &[Statement],
        again: usize,
    ) -> (Result<(), Failure>, usize) {
        // What was asked for the later ones is not to be a part of the block that begins here: its modes come first.
        if self.unsynced
            && self.transaction.phase == Phase::Idle
            && let [Statement { class: Class::Transaction(_), .. }, ..] = statements
            && let Err(end) = self.sync().await
        {
            return (Err(end.into()), 0);
        }
        if self.is_block(parsed)
            && let Err(failure) = self.begin_implicitly().await
        {
            return (Err(failure), 0);
        }
        for (number, statement) in statements.iter().enumerate() {
            let outcome = match number >= again && self.transaction.phase != Phase::Failed {
                true => match self.needs_main(statement, false).await {
                    Ok(None) => self.statement(statement, parsed).await,
                    Ok(Some(why)) => Err(why.into()),
                    Err(failure) => Err(failure),
                },
                false => self.statement(statement, parsed).await,
            };
            if let Err(failure) = outcome {
                return (Err(failure), place_of(statement, text, &statements[..number]));
            }
        }
        (Ok(()), 0)
    }
}

/// Where a statement begins in its string, behind these. In characters.
fn place_of(statement: &Statement, text: &str, before: &[Statement]) -> usize {
    let find =
        |from: usize, statement: &Statement| text[from..].find(&*statement.text).map_or(from, |place| from + place);
    let from = before.iter().fold(0, |from, statement| find(from, statement) + statement.text.len());
    text[..find(from, statement)].chars().count()
}
