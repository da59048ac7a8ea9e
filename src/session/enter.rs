//! The way to main: a connection with the session's settings, main having what was buffered, and nobody else at the site
//! writing the same tables.

use std::sync::Arc;

use tokio::time::{Instant, timeout};

use super::carry::State;
use super::control::plain;
use super::failure::Failure;
use super::processes::Serves;
use super::settings::Settings;
use super::straight::{canceled, lost};
use super::transaction::{Phase, Route};
use super::{Session, Waited};
use crate::replay::ReplayState;
use crate::report::Report;
use crate::sql::{Statement, TransactionCommand};
use crate::sqlstate;
use crate::status::StatementKind;
use crate::upstream::raw::{self, ConnectError, Raw};

/// The session's connection to main.
pub(super) struct Main {
    pub(super) raw: Raw,
    /// The settings it has been given.
    settings: Option<Arc<Settings>>,
    /// What its session was, when it was last asked.
    pub(super) state: Option<State>,
    /// It may know prepared statements of the client.
    pub(super) has_names: bool,
    /// When it was last asked for anything.
    pub(super) used: Instant,
    _serves: Option<Serves>,
}

impl Session {
    /// Makes main ready for statements: connected, with the session's settings, in the session's transaction, and nobody
    /// else at the site writing what they are known to write.
    pub(super) async fn enter_main(&mut self, statements: &[Statement]) -> Result<(), Failure> {
        self.guard.statement(StatementKind::Straight);
        self.not_overtaken()?;
        match self.transaction.route {
            Route::Straight if self.main.is_none() => return Err(lost().into()),
            Route::Straight if self.transaction.phase == Phase::Idle && Session::looks_at_rows(statements) => {
                self.drained().await?;
            }
            Route::Straight => {}
            Route::Here => {
                if let Err(failure) = self.begin_on_main().await {
                    self.seat.leave_main(false);
                    return Err(failure);
                }
            }
        }
        let alone = self.have_alone(statements).await;
        if alone.is_err() && self.transaction.route == Route::Here {
            self.seat.leave_main(false);
        }
        alone
    }

    /// Makes sure that nobody at the site writes what straight statements are known to write, and that main has what was
    /// written.
    pub(super) async fn have_alone(&mut self, statements: &[Statement]) -> Result<(), Failure> {
        if self.transaction.phase == Phase::Failed {
            return Ok(());
        }
        if self.claim(statements).await? { self.drained().await } else { Ok(()) }
    }

    async fn begin_on_main(&mut self) -> Result<(), Failure> {
        if !self.transaction.work.is_empty() {
            self.may_hand_over().await?;
        }
        let settings = self.settings().await?;
        let modes = self.modes_to_say(&settings);
        self.no_open_cursor().await?;
        self.connect_main().await?;
        self.claim_tables(&self.seat.kept(), true, &settings).await?;
        self.drained().await?;
        let same = |main: &Main| main.settings.as_ref().is_some_and(|applied| Arc::ptr_eq(applied, &settings));
        if !self.main.as_ref().is_some_and(same) {
            self.give_session_to_main().await?;
            if let Some(main) = &mut self.main {
                main.settings = Some(Arc::clone(&settings));
            }
        }
        if self.transaction.phase == Phase::Open {
            // What the client has prepared since, or no longer has, only the replica knows.
            if let Some(main) = &mut self.main
                && std::mem::take(&mut main.has_names)
            {
                self.ask_main("DEALLOCATE ALL").await?;
            }
            let begin =
                TransactionCommand::Begin { isolation: modes.isolation, read_only: modes.read_only, start: false };
            self.ask_main(&plain(&begin)).await?;
            self.same_snapshot(&settings).await?;
            let early = self.transaction.savepoints.iter().map(|savepoint| savepoint.name.clone()).collect();
            self.hand_over().await?;
            self.pipeline.early = early;
        }
        Ok(())
    }

    /// Cursors of the transaction are the replica's, and main would not know them.
    async fn no_open_cursor(&mut self) -> Result<(), Failure> {
        if self.transaction.phase != Phase::Open || self.open_cursors(false).await?.is_empty() {
            return Ok(());
        }
        let message = "this statement cannot be buffered, and its transaction has an open cursor here";
        Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
            .hint("CLOSE the cursor first, or declare it after this statement.")
            .into())
    }

    pub(super) async fn connect_main(&mut self) -> Result<(), Failure> {
        self.reach_main().await?.map_err(|error| unreachable(&error).into())
    }

    /// The same; why main does not take this client is for the caller to tell.
    pub(super) async fn reach_main(&mut self) -> Result<Result<(), ConnectError>, Failure> {
        if let Some(main) = &mut self.main {
            // What came while nobody looked: the end, perhaps.
            main.raw.link.look().await;
            if !main.raw.link.ended {
                return Ok(Ok(()));
            }
        }
        let shared = Arc::clone(&self.shared);
        let parameters = self.who.parameters.clone();
        let limit = shared.limits.connect_main;
        match self.wait(raw::connect(&shared.main, &parameters, limit)).await? {
            Waited::Done(Ok(raw)) => {
                let serves = raw.key.map(|key| shared.processes.serves(key.process, self.registered.key.process));
                let used = Instant::now();
                self.main = Some(Main { raw, settings: None, state: None, has_names: false, used, _serves: serves });
                Ok(Ok(()))
            }
            Waited::Done(Err(error)) => Ok(Err(error)),
            Waited::Cancelled => Err(canceled().into()),
        }
    }

    /// Waits until main has everything of the buffer.
    pub(super) async fn drained(&mut self) -> Result<(), Failure> {
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
