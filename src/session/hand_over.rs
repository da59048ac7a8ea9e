//! A transaction that has buffered writes and comes to a statement that only main can do: its work goes there first, and
//! it goes on as a straight one.
//!
//! What is sent is what replay would send: effects by key, not what the client wrote; so main does what the client has
//! been told, and RETURNING and generated values stay true. Only a READ COMMITTED transaction can be handed over: the
//! others have seen a state that main's snapshot would not be of.

use std::collections::HashMap;

use super::Session;
use super::carry::State;
use super::control::plain;
use super::failure::Failure;
use super::transaction::Phase;
use crate::catalog::Catalog;
use crate::entry::TableName;
use crate::replay::{CANONICAL, effects};
use crate::report::Report;
use crate::sql::{self, TransactionCommand};
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
        let catalog = self.shared.catalog.current();
        let mut written = self.transaction.work.tables.iter();
        let compared = written.any(|table| is_compared(&self.shared.compared, &catalog, &table.name));
        let why = if self.transaction.work.role != settings.role {
            "Another role has made them."
        } else if self.transaction.phase != Phase::Open {
            "It is not in a transaction block."
        } else if !self.reads_committed(&settings) {
            "Its snapshot is the site's (REPEATABLE READ)."
        } else if self.transaction.parts().any(|(_, _, constraints)| constraints.has_named()) {
            "It has used SET CONSTRAINTS of single constraints."
        } else if self.transaction.work.size() > SIZE_MAX {
            "They are too many to be handed over to main."
        } else if compared {
            "The site is set up to compare rows of its tables before it writes them on main (replay.conflicts)."
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
            Ok(_) => {
                self.transaction.hand_over();
                self.seat.hand_over(|written| sql::concerned(&catalog, written));
            }
            Err(_) if self.main.is_some() => drop(self.ask_main("ROLLBACK").await?),
            Err(_) => {}
        }
        outcome.map(drop)
    }
}

/// Whether rows of the table are compared before they are written: as its own line says, else as that of the next table above.
fn is_compared(compared: &HashMap<String, bool>, catalog: &Catalog, name: &TableName) -> bool {
    let mut table = catalog.named(name);
    while let Some(found) = table.filter(|_| !compared.is_empty()) {
        if let Some(is) = compared.get(&found.name.to_string()) {
            return *is;
        }
        let above = found.parents.first().filter(|_| found.partition.is_some());
        table = above.and_then(|above| catalog.relations.get(above));
    }
    false
}
