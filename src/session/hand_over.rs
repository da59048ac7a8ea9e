//! A transaction that has buffered writes and comes to a statement that only main can do: its work goes there first, and
//! it goes on as a straight one.
//!
//! What is sent is what replay would send: effects by key, not what the client wrote; so main does what the client has
//! been told, and RETURNING and generated values stay true. Only a READ COMMITTED transaction can be handed over: the
//! others have seen a state that main's snapshot would not be of.

use super::Session;
use super::carry::State;
use super::control::plain;
use super::failure::Failure;
use super::transaction::Phase;
use crate::replay::{CANONICAL, effects};
use crate::report::Report;
use crate::sql::TransactionCommand;
use crate::sqlstate;

/// The most that is handed over: it goes as one message. Bytes of values.
const SIZE_MAX: usize = 32 << 20;

impl Session {
    /// Whether the open transaction's work may go to main before it ends.
    ///
    /// # Errors
    /// 0A000, and why not.
    pub(super) async fn may_hand_over(&mut self) -> Result<(), Failure> {
        let settings = self.settings().await?;
        let why = if self.transaction.phase != Phase::Open {
            "It is not in a transaction block."
        } else if !self.reads_committed(&settings) {
            "Its snapshot is the site's (REPEATABLE READ)."
        } else if self.transaction.parts().any(|(_, _, constraints)| constraints.has_named()) {
            "It has used SET CONSTRAINTS of single constraints."
        } else if self.transaction.work.size() > SIZE_MAX {
            "They are too many to be handed over to main."
        } else if self.shared.has_conflict_policies {
            "The site is set up to compare rows before it writes them on main (replay.conflicts)."
        } else {
            return Ok(());
        };
        let message = "this statement cannot be buffered, and its transaction has buffered writes already";
        Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
            .detail(why)
            .hint("Commit first, and run it in a transaction of its own.")
            .into())
    }

    /// Does on main, where the transaction's BEGIN has been repeated, what it has done here so far.
    ///
    /// # Errors
    /// 55000 when main refuses: it has rolled back then, and the transaction is as it was here.
    pub(super) async fn hand_over(&mut self) -> Result<(), Failure> {
        let catalog = self.shared.catalog.current();
        // Within the client's savepoints its own settings are in force, as ROLLBACK TO brings them back.
        let given = self.main.as_ref().and_then(|main| main.state.as_ref()).map(State::settings);
        let restore = format!("RESET lc_monetary; {}", given.unwrap_or_default());
        let work = &self.transaction.work;
        let (mut sql, mut done) = (String::new(), 0);
        for (savepoint, end, constraints) in self.transaction.parts() {
            let said = constraints.of_all();
            let part = effects(done..end, &work.tables, &work.effects, &work.actions, &catalog);
            if said.is_some() {
                sql.push_str("SET CONSTRAINTS ALL DEFERRED; ");
            }
            if !part.is_empty() {
                sql.push_str(&format!("{CANONICAL} {part}{restore}"));
            }
            if said == Some(false) {
                sql.push_str("SET CONSTRAINTS ALL IMMEDIATE; ");
            }
            if let Some(name) = savepoint {
                sql.push_str(&format!("{}; ", plain(&TransactionCommand::Savepoint(name.to_owned()))));
            }
            done = end;
        }
        let outcome = if sql.is_empty() { Ok(None) } else { self.ask_main(&sql).await };
        match outcome {
            Ok(_) => self.transaction.hand_over(),
            Err(_) if self.main.is_some() => drop(self.ask_main("ROLLBACK").await?),
            Err(_) => {}
        }
        outcome.map(drop)
    }
}
