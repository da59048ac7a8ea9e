//! A main that says nothing while a session waits for it: when the session goes on without.
//!
//! A link that loses everything without telling anybody looks like a statement that takes long. So main is given up only when
//! the client has cancelled its statement, or its `statement_timeout` is over, and main, asked anew whether it is there, does not say so. What
//! cannot have been committed is cancelled then (57014): main rolls it back when it notices that nobody is there. Where it can, nobody
//! knows, and the client is told so (08007).

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::enter::Main;
use super::failure::End;
use super::mirror::Deed;
use super::statements::Parsed;
use super::straight::{canceled, lost};
use super::transaction::{Phase, Route};
use super::{Session, Wants};
use crate::report::Report;
use crate::sql::{Class, Statement, TransactionCommand};
use crate::sqlstate;
use crate::upstream::raw;
use crate::wire::build;
use crate::wire::link::OUTPUT_HIGH;

/// How long main may take to say that it is there.
const LIMIT: Duration = Duration::from_secs(3);
/// Main's own timeout comes first, if main can be heard.
const MARGIN: Duration = Duration::from_secs(1);
/// How often is looked whether that is over.
const LOOK: Duration = Duration::from_millis(250);

/// One wait for main.
pub(super) struct Patience {
    heard: Instant,
    /// Cancel requests before it.
    requests: u64,
    /// What main does may be a commit.
    may_commit: bool,
    /// The question whether main is there, and since when it is asked.
    asks: Option<(Instant, JoinHandle<bool>)>,
    /// When it last said that it is.
    there: Option<Instant>,
}

/// Why a client does not wait any longer.
#[derive(Debug, Clone, Copy)]
enum Over {
    Cancelled,
    TimedOut,
}

impl Main {
    /// The client's idle time is the replica's to count: main's session may be idle while the client is not. Postgres
    /// counts from ReadyForQuery to the next message.
    pub(super) fn counts_no_idle_time(&mut self) {
        self.used = Instant::now();
        build::flush(&mut self.raw.link.output);
    }
}

impl Session {
    /// Remembers whether main is to run what may commit, or gives statements another time.
    pub(super) fn remember_for_patience(&mut self, text: &str, parsed: &Parsed) {
        const TIMEOUT: &[u8] = b"statement_timeout";
        self.pipeline.sets_timeout |=
            text.as_bytes().windows(TIMEOUT.len()).any(|word| word.eq_ignore_ascii_case(TIMEOUT));
        let commits =
            |statement: &Statement| matches!(&statement.class, Class::Transaction(command) if commits(command));
        let statements = parsed.script.as_ref().map(|script| &script.statements);
        self.pipeline.may_commit |= statements.map_or(true, |statements| statements.iter().any(commits));
    }

    /// `runs`: main runs what the client wants; else a question of our own, which commits nothing.
    pub(super) fn patience(&self, runs: bool) -> Patience {
        let may_commit = runs
            && (self.transaction.route != Route::Straight
                || self.transaction.phase == Phase::Idle
                || self.pipeline.may_commit
                || self.pipeline.runs(|deed| matches!(deed, Deed::Control(command) if commits(command))));
        let requests = self.registered.running.requests();
        Patience { heard: Instant::now(), requests, may_commit, asks: None, there: None }
    }

    /// Waits until something comes or goes. `Some`: main is given up.
    pub(super) async fn hear_main(&mut self, patience: &mut Patience) -> Result<Option<Report>, End> {
        let waiting = |session: &Session| session.main.as_ref().map(|main| main.raw.link.input.len());
        loop {
            let before = waiting(self);
            tokio::select! {
                biased;
                moved = self.pump(Wants::Main) => {
                    if waiting(self) != before {
                        patience.heard = Instant::now();
                    }
                    return moved.map(|()| None);
                }
                () = sleep(LOOK) => {}
            }
            if let Some(over) = self.is_over(patience)
                && self.is_silent(patience).await
            {
                return Ok(Some(patience.report(over)));
            }
        }
    }

    fn is_over(&self, patience: &Patience) -> Option<Over> {
        // Who does not take its answers keeps us from hearing main.
        if self.client.output.len() >= OUTPUT_HIGH {
            return None;
        }
        if self.registered.running.requests() > patience.requests {
            return Some(Over::Cancelled);
        }
        // One that was set on main since is not known here.
        let settings = self.settings.as_ref().filter(|_| !self.pipeline.sets_timeout)?;
        let limit = settings.statement_timeout()?;
        (patience.heard.elapsed() >= limit.saturating_add(MARGIN)).then_some(Over::TimedOut)
    }

    /// Asks main by another connection whether it is there, and looks at what has become of that.
    async fn is_silent(&self, patience: &mut Patience) -> bool {
        match patience.asks.take() {
            Some((since, asks)) if asks.is_finished() => {
                if asks.await.unwrap_or(true) {
                    patience.there = Some(Instant::now());
                }
                patience.there < Some(since) && patience.heard < since
            }
            Some(asks) => {
                patience.asks = Some(asks);
                false
            }
            None => {
                let rests = patience.there.is_some_and(|there| there.elapsed() < LIMIT);
                if let Some(main) = self.main.as_ref().filter(|_| !rests) {
                    let address = main.raw.address.clone();
                    let asks = tokio::spawn(async move { raw::answers(&address, LIMIT).await });
                    patience.asks = Some((Instant::now(), asks));
                }
                false
            }
        }
    }
}

impl Patience {
    fn report(&self, over: Over) -> Report {
        let silent = self.heard.elapsed().as_secs();
        let (what, timed_out) = match over {
            Over::Cancelled => ("The statement was cancelled", canceled()),
            Over::TimedOut => (
                "The time of statement_timeout is over",
                Report::new(sqlstate::QUERY_CANCELED, "canceling statement due to statement timeout"),
            ),
        };
        let keeps = "keeps what it has locked until it notices that nobody is there";
        if self.may_commit {
            return lost().detail(format!(
                "{what}, and main has not answered for {silent} s. It may still run it, and {keeps}."
            ));
        }
        timed_out.detail(format!("{what}, and main has not answered for {silent} s. It rolls back, but {keeps}."))
    }
}

fn commits(command: &TransactionCommand) -> bool {
    match command {
        TransactionCommand::Commit { .. } => true,
        TransactionCommand::Begin { .. }
        | TransactionCommand::Rollback { .. }
        | TransactionCommand::Savepoint(_)
        | TransactionCommand::Release(_)
        | TransactionCommand::RollbackTo(_)
        | TransactionCommand::Characteristics { .. } => false,
    }
}
