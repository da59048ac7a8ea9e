//! The end of a transaction with effects: one entry, durable before the client hears of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::failure::Failure;
use super::settings::CommitLevel;
use super::transaction::Work;
use super::{Session, Waited};
use crate::buffer::{CommitError, Draft, Progress};
use crate::entry::{Entry, FORMAT, Seq};
use crate::report::Report;
use crate::sqlstate::SqlState;
use crate::wire::error::{self, Severity};

/// How often it is looked whether a commit in doubt is settled.
const DOUBT_POLL: Duration = Duration::from_millis(50);

/// Postgres' class for warnings.
const WARNING: SqlState = SqlState(*b"01000");

impl Session {
    /// Whether a commit has nothing to ask the replica, whose part of the transaction may then be over.
    pub(super) fn commits_alone(&self) -> bool {
        self.settings.is_some() && self.transaction.work.deferred.is_empty()
    }

    /// Commits the transaction's effects to the buffer and waits for what `pgoutpost.commit` says. Locks are freed when
    /// everybody can see the effects.
    ///
    /// # Errors
    /// Those of deferred constraints, and the buffer's; the effects are gone then, but for an unknown outcome.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        let settings = self.settings().await?;
        if let Err(failure) = self.judge_deferred().await {
            self.transaction.work = Work::default();
            self.locks.release(None);
            return Err(failure);
        }
        let work = std::mem::take(&mut self.transaction.work);
        let entry = Entry {
            format: FORMAT,
            seq: Seq::ZERO,
            uuid: Uuid::now_v7(),
            database: self.who.database.clone(),
            role: settings.role.clone(),
            application_name: settings.application_name.clone(),
            created_at: rfc3339(SystemTime::now()),
            statements: work.statements,
            tables: work.tables,
            effects: work.effects,
            actions: work.actions,
        };
        let began = std::time::Instant::now();
        let committed = self.shared.buffer.commit(Draft { entry, changes: work.changes }).await;
        let seq = match committed {
            Ok(seq) => seq,
            Err(error) => {
                if matches!(error, CommitError::Unknown(_)) {
                    self.keep_locks_while_in_doubt();
                }
                self.locks.release(None);
                return Err(error.report().into());
            }
        };
        self.locks.release(Some(seq));
        self.guard.commit(began.elapsed());
        match settings.commit() {
            CommitLevel::Buffered => {}
            CommitLevel::Applied => self.wait_for(seq, "main has", |progress| progress.applied).await?,
            CommitLevel::Visible => self.wait_for(seq, "the replica has", |progress| progress.confirmed).await?,
        }
        Ok(())
    }

    /// An entry in doubt may still be published: until the buffer has settled it nobody may write what it wrote.
    fn keep_locks_while_in_doubt(&mut self) {
        let mut holder = std::mem::replace(&mut self.locks, self.shared.locks.holder());
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            while !shared.buffer.status().available {
                tokio::time::sleep(DOUBT_POLL).await;
            }
            holder.release(Some(shared.buffer.overlay().last()));
        });
    }

    /// Waits until entries have come as far as the client wants; it is warned when they have not, for they are safe.
    async fn wait_for(&mut self, seq: Seq, who: &str, far: fn(&Progress) -> Seq) -> Result<(), Failure> {
        let mut progress = self.shared.buffer.progress();
        let limit = self.shared.limits.commit;
        let reached = async move { progress.wait_for(|progress| far(progress) >= seq).await.is_ok() };
        let why = match self.wait(tokio::time::timeout(limit, reached)).await? {
            Waited::Done(Ok(true)) => return Ok(()),
            Waited::Done(Ok(false)) => "the daemon is stopping".to_owned(),
            Waited::Done(Err(_)) => format!("it took more than {} s", limit.as_secs()),
            Waited::Cancelled => "waiting was canceled due to user request".to_owned(),
        };
        let message = format!("the transaction is committed in the buffer, but it is not known that {who} it");
        let report = Report::new(WARNING, message).detail(why).hint("It is on its way; nothing has to be done again.");
        error::report(&mut self.client.output, Severity::Warning, &report);
        Ok(())
    }
}

/// `2026-01-31T12:34:56.123456Z`
fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 0000-03-01, by eras of 400 years (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_dates() {
        let at = |seconds, micros| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_400, 5), "2000-02-29T00:00:00.000005Z");
        assert_eq!(at(1_798_761_599, 999_999), "2026-12-31T23:59:59.999999Z");
    }
}
