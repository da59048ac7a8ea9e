//! A session that lives on main: something that is its alone is there (a temporary table, a channel that it listens to, a cursor
//! WITH HOLD), so every statement of it goes there, until nothing of the kind is left.
//!
//! What a statement makes of that kind no text tells for sure, so main is asked when a transaction there is over
//! ([`KEEPS`]). The transactions are those of `straight` then: main has what was buffered before each begins, tables that it
//! writes are claimed, and the replica has what it did before the claims are given back. **With its connection the session
//! ends**: it must not go on as if what it had there were still to be had.

use bytes::BytesMut;

use super::Session;
use super::failure::End;
use super::settings::Settings;
use super::statements::Parsed;
use super::straight::Leaves;
use super::transaction::{Phase, Route};
use crate::report::Report;
use crate::sql::{Class, Statement, TransactionCommand};
use crate::sqlstate;
use crate::wire::{HEADER, build, error};

/// Whether main's session has what would be gone with it. Everything in a temporary schema hangs on it by `pg_depend`, by
/// which Postgres itself finds what it has to drop.
pub(super) const KEEPS: &str = "(EXISTS (SELECT FROM pg_catalog.pg_depend d \
 WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.refobjid = pg_catalog.pg_my_temp_schema()) \
 OR EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
 OR EXISTS (SELECT FROM pg_catalog.pg_cursors c WHERE c.is_holdable))";

impl Session {
    /// What main has said of itself, after a statement or a transaction.
    pub(super) fn lives_on_main(&mut self, lives: bool) {
        self.resident = lives;
        if self.transaction.phase == Phase::Idle {
            self.transaction.route = if lives { Route::Straight } else { Route::Here };
        }
    }

    /// What the replica has to have after a statement of a session that lives on main. That it only reads is not known as
    /// exactly as elsewhere, where more hangs on it: of temporary tables there is no plan.
    pub(super) fn leaves_on_main(&self, statement: Option<&Statement>, parsed: &Parsed, settings: &Settings) -> Leaves {
        let Some(statement) = statement else { return Leaves::Definitions };
        let first = statement.text.split_whitespace().next().unwrap_or_default();
        let is = |words: &[&str]| words.iter().any(|word| first.eq_ignore_ascii_case(word));
        let opaque = parsed.calls_own(&self.shared.catalog.current());
        match &statement.class {
            Class::Query if self.only_reads(statement, settings) => Leaves::Nothing,
            Class::Query if !opaque && !parsed.sets_config => Leaves::Nothing,
            Class::Query if opaque => Leaves::Definitions,
            Class::Replica if is(&["fetch", "move", "show", "explain"]) => Leaves::Nothing,
            Class::ShowMode(_) | Class::Prepare { .. } => Leaves::Nothing,
            Class::Straight { ddl: true, .. } | Class::Transaction(_) => Leaves::Definitions,
            _ => Leaves::Rows,
        }
    }

    /// Whether main must have what was buffered before these statements.
    pub(super) fn looks_at_rows(statements: &[Statement]) -> bool {
        let blind = |statement: &Statement| {
            let ends = matches!(
                statement.class,
                Class::Transaction(TransactionCommand::Commit { .. } | TransactionCommand::Rollback { .. })
            );
            ends || matches!(statement.class, Class::Settings { .. })
        };
        statements.is_empty() || !statements.iter().all(blind)
    }

    /// What main says while nothing is asked of it: notifications, and its end.
    pub(super) fn hear_resident(&mut self) -> Result<(), End> {
        if !self.resident || self.batch || self.skipping || !self.pipeline.is_answered() {
            return Ok(());
        }
        loop {
            let Some(main) = &mut self.main else { return Err(gone(None)) };
            let Some((kind, message)) = main.raw.link.take().map_err(|malformed| gone(Some(malformed.to_string())))?
            else {
                return if main.raw.link.ended { Err(gone(None)) } else { Ok(()) };
            };
            match kind {
                b'A' => self.notified(message),
                b'N' => self.client.output.extend_from_slice(&message),
                b'S' => self.parameter(&message),
                b'E' => return Err(gone(Some(error::text(&message[HEADER..])))),
                _ => return Err(gone(Some(format!("it sent a message of kind {kind} that nobody has asked for")))),
            }
        }
    }

    /// Passes a notification on. The process in it is that of main, of which clients of the site know nothing.
    pub(super) fn notified(&mut self, mut message: BytesMut) {
        if let Some(process) = message.get_mut(HEADER..HEADER + 4)
            && let Ok(number) = <[u8; 4]>::try_from(&*process)
            && let Some(client) = self.shared.processes.client_of(i32::from_be_bytes(number))
        {
            process.copy_from_slice(&client.to_be_bytes());
        }
        self.client.output.extend_from_slice(&message);
    }

    /// Ends a session that has lost what it had on main.
    pub(super) fn is_still_there(&self) -> Result<(), End> {
        if self.resident && self.main.is_none() { Err(gone(None)) } else { Ok(()) }
    }

    /// The session is back, and has thrown away all that it had: main's connection is not kept for it.
    pub(super) async fn give_main_back(&mut self) {
        if let Some(mut main) = self.main.take() {
            build::message(&mut main.raw.link.output, b'X', |_| {});
            main.raw.link.push().await;
        }
    }
}

/// See [`Session::is_still_there`].
fn gone(why: Option<String>) -> End {
    let message = "terminating connection: the connection to main was lost, and with it what the session had there";
    let report = Report::new(sqlstate::CONNECTION_FAILURE, message)
        .hint("Temporary tables, LISTEN and cursors WITH HOLD live on main. Connect again when the link is up.");
    End::Fatal(Box::new(match why {
        Some(why) => report.detail(why),
        None => report,
    }))
}
