//! Locks on rows that a statement only reads: `FOR UPDATE` and its kin, in queries and in the sub-selects of writes.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::timeout;

use super::failure::Failure;
use super::locks::{Taken, Unavailable};
use super::settings::Settings;
use super::{Session, Waited};
use crate::entry::Seq;
use crate::report::Report;
use crate::sql::{Busy, LOCKED, Lock, LockedRelation, Patience, is_table_lock};
use crate::sqlstate;

/// How locks came to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowsTaken {
    Fresh,
    /// Somebody changed a row, or locked one that is to be skipped: the statement must be evaluated again.
    Again,
}

/// What [`LOCKED`] held after an execution.
pub(super) fn noted(registers: &HashMap<String, String>) -> Option<&str> {
    registers.get(LOCKED).map(String::as_str)
}

impl Session {
    /// What a statement that skips locked rows must leave out.
    pub(super) fn busy(&self, locking: &[LockedRelation]) -> Busy {
        match locking.iter().any(|relation| relation.patience == Patience::Skip) {
            true => self.locks.busy(),
            false => Busy::default(),
        }
    }

    /// Whether the role may lock rows of these tables, and the transaction any.
    pub(super) async fn may_lock(&mut self, locking: &[LockedRelation], settings: &Settings) -> Result<(), Failure> {
        for relation in locking {
            if self.is_read_only(settings) {
                let words = relation.strength.words();
                let message = format!("cannot execute SELECT {words} in a read-only transaction");
                return Err(Report::new(sqlstate::READ_ONLY_SQL_TRANSACTION, message).into());
            }
            let oid = relation.table.id.0;
            let question = format!("SELECT pg_catalog.has_any_column_privilege({oid}::pg_catalog.oid, 'UPDATE')");
            let refusal = || {
                let message = format!("permission denied for table {}", relation.table.name.name);
                Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
            };
            self.permitted(&question, settings, refusal).await?;
        }
        Ok(())
    }

    /// Takes the locks on rows that were read. `seen`: the newest entry in what was evaluated.
    pub(super) async fn lock_rows(
        &mut self,
        locking: &[LockedRelation],
        locks: &[(usize, Lock)],
        seen: Seq,
        settings: &Settings,
    ) -> Result<RowsTaken, Failure> {
        let mut outcome = RowsTaken::Fresh;
        let mut waited_for = Vec::new();
        for (place, lock) in locks {
            let Some(relation) = locking.get(*place) else { continue };
            // NOWAIT and SKIP LOCKED are about rows.
            if relation.patience == Patience::Wait || is_table_lock(*lock) {
                waited_for.push(*lock);
                continue;
            }
            match (self.locks.try_read(*lock, seen), relation.patience) {
                (Ok(Taken::Fresh), _) => {}
                (Ok(Taken::Stale), _) => {
                    self.stale(settings)?;
                    outcome = RowsTaken::Again;
                }
                (Err(Unavailable), Patience::NoWait) => {
                    let name = &relation.table.name.name;
                    let message = format!("could not obtain lock on row in relation \"{name}\"");
                    return Err(Report::new(sqlstate::LOCK_NOT_AVAILABLE, message).into());
                }
                // It was free when the query began.
                (Err(Unavailable), Patience::Skip | Patience::Wait) => outcome = RowsTaken::Again,
            }
        }
        if self.lock(&waited_for, seen, settings, false).await? == Taken::Stale {
            self.stale(settings)?;
            outcome = RowsTaken::Again;
        }
        Ok(outcome)
    }

    /// Takes locks, waiting for whoever has them; the client may leave or cancel meanwhile. `written`: for a write.
    pub(super) async fn lock(
        &mut self,
        wanted: &[Lock],
        seen: Seq,
        settings: &Settings,
        written: bool,
    ) -> Result<Taken, Failure> {
        if wanted.is_empty() {
            return Ok(Taken::Fresh);
        }
        let fresh = self.shared.locks.holder();
        let mut holder = std::mem::replace(&mut self.locks, fresh);
        let limit = settings.statement_timeout().unwrap_or(Duration::MAX);
        let each = settings.lock_timeout();
        let taking = async {
            match written {
                true => holder.take(wanted, seen, each).await,
                false => holder.take_read(wanted, seen, each).await,
            }
        };
        let waited = self.wait(timeout(limit, taking)).await;
        self.locks = holder;
        match waited? {
            Waited::Done(Ok(taken)) => taken.map_err(|error| error.report().into()),
            Waited::Done(Err(_)) => {
                let message = "canceling statement due to statement timeout";
                Err(Report::new(sqlstate::QUERY_CANCELED, message).into())
            }
            Waited::Cancelled => {
                let message = "canceling statement due to user request";
                Err(Report::new(sqlstate::QUERY_CANCELED, message).into())
            }
        }
    }
}
