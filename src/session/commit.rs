//! The end of a transaction with effects: one entry, durable before the client hears of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::failure::Failure;
use super::settings::{CommitLevel, Settings};
use super::transaction::Work;
use super::{Session, Waited};
use crate::buffer::{CommitError, Draft, Progress};
use crate::entry::{Entry, FORMAT, Origin, Seq, keep_used_labels};
use crate::moment::rfc3339;
use crate::overlay::Change;
use crate::report::Report;
use crate::sqlstate::SqlState;
use crate::wire::error::{self, Severity};

/// A commit that takes longer is no idle time of the client's.
const SOON: Duration = Duration::from_millis(500);

/// How often it is looked whether a commit in doubt is settled.
const DOUBT_POLL: Duration = Duration::from_millis(50);

/// How long a TRUNCATE's own session waits for the replica, unless that was in vain the last time.
const TRUNCATE_PATIENCE: Duration = Duration::from_millis(500);

/// Postgres' class for transactions that did not take place.
const TRANSACTION_ROLLBACK: SqlState = SqlState(*b"40000");

/// Postgres' class for warnings.
const WARNING: SqlState = SqlState(*b"01000");

impl Session {
    /// Whether a commit has nothing to ask the replica, whose part of the transaction may then be over: nothing that would
    /// have to be undone there, either.
    pub(super) fn commits_alone(&self) -> bool {
        self.settings.is_some() && !self.settings_changed && self.transaction.work.deferred.is_empty()
    }

    /// Commits the transaction's effects to the buffer and waits for what `pgoutpost.commit` says. Locks are freed when
    /// everybody can see the effects.
    ///
    /// # Errors
    /// Those of deferred constraints, and the buffer's; the effects are gone then, but for an unknown outcome.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        let settings = self.settings().await?;
        if self.trusted.is_cancelled() {
            // What was evaluated there may not fit main.
            return Err(self.stopped().into());
        }
        if let Err(failure) = self.judge_deferred().await {
            self.transaction.work = Work::default();
            self.locks.release(None);
            return Err(failure);
        }
        let mut work = std::mem::take(&mut self.transaction.work);
        let cluster = self.shared.catalog.current().cluster;
        for table in &mut work.tables {
            table.origin = table.origin.take().zip(cluster).map(|(origin, cluster)| Origin { cluster, ..origin });
        }
        keep_used_labels(&mut work.tables, &work.effects);
        let entry = Entry {
            format: FORMAT,
            seq: Seq::ZERO,
            uuid: Uuid::now_v7(),
            database: self.who.database.clone(),
            role: work.role,
            application_name: settings.application_name.clone(),
            created_at: rfc3339(SystemTime::now()),
            statements: work.statements,
            tables: work.tables,
            effects: work.effects,
            actions: work.actions,
            retry_of: None,
        };
        let truncates = work.changes.iter().any(|(_, change)| matches!(change, Change::Truncate));
        let began = std::time::Instant::now();
        let shared = Arc::clone(&self.shared);
        let mut committing = std::pin::pin!(shared.buffer.commit(Draft { entry, changes: work.changes }));
        let committed = match tokio::time::timeout(SOON, &mut committing).await {
            Ok(committed) => committed,
            Err(_) => {
                self.at_work();
                self.replica.link.push().await;
                committing.await
            }
        };
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
            CommitLevel::Buffered if truncates => self.let_truncate_pass(seq).await?,
            CommitLevel::Buffered => {}
            CommitLevel::Applied => self.wait_for(seq, "main has", |progress| progress.applied, &settings).await?,
            CommitLevel::Visible => {
                self.wait_for(seq, "the replica has", |progress| progress.confirmed, &settings).await?;
            }
        }
        Ok(())
    }

    /// An entry in doubt may still be published: until the buffer has settled it nobody may write what it wrote, nor have its
    /// tables on main, which may get it later.
    fn keep_locks_while_in_doubt(&mut self) {
        let mut holder = std::mem::replace(&mut self.locks, self.shared.locks.holder());
        let seat = std::mem::replace(&mut self.seat, self.shared.sides.seat(self.locks.id()));
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            while !shared.buffer.status().available {
                tokio::time::sleep(DOUBT_POLL).await;
            }
            holder.release(Some(shared.buffer.overlay().last()));
            drop(seat);
        });
    }

    /// Gives the replica a moment to replay a TRUNCATE: it locks the tables whole, and a transaction that reads several of
    /// them meanwhile, as this session's next one may, would be in a deadlock with it.
    async fn let_truncate_pass(&mut self, seq: Seq) -> Result<(), Failure> {
        let mut progress = self.shared.buffer.progress();
        let confirmed = progress.borrow_and_update().confirmed;
        if !self.main_answers() || confirmed < self.unseen_truncate {
            return Ok(());
        }
        let passed = async move { progress.wait_for(|progress| progress.confirmed >= seq).await.is_ok() };
        if let Waited::Done(Err(_)) = self.wait(tokio::time::timeout(TRUNCATE_PATIENCE, passed)).await? {
            self.unseen_truncate = seq;
        }
        Ok(())
    }

    /// Who waits for main hears main's word.
    ///
    /// # Errors
    /// Main's own, when it has rejected the entry; 40000 when the entry waits for one that was.
    async fn not_rejected(&mut self, seq: Seq) -> Result<(), Failure> {
        if !self.shared.buffer.is_quarantined(seq) {
            return Ok(());
        }
        let record = self.shared.buffer.quarantine_record(seq).await.ok().flatten();
        let said = |field: &str| record.as_ref().and_then(|record| record.error[field].as_str()).map(str::to_owned);
        let code = said("code").map_or(TRANSACTION_ROLLBACK, |code| SqlState::parse(&code));
        let message = said("message").unwrap_or_else(|| "main has not committed the transaction".into());
        Err(Report::new(code, message)
            .detail(format!("Main has rejected the transaction; it is kept in quarantine as entry {seq}."))
            .hint(format!("SKIP {seq} in the console gives it up; RETRY {seq} sends it again."))
            .into())
    }

    /// Waits until entries have come as far as the client wants; it is warned when they have not, for they are safe.
    async fn wait_for(
        &mut self,
        seq: Seq,
        who: &str,
        far: fn(&Progress) -> Seq,
        settings: &Settings,
    ) -> Result<(), Failure> {
        let mut progress = self.shared.buffer.progress();
        // As with synchronous replication: a timeout ends the wait, not the transaction.
        let own = self.shared.limits.commit;
        let limit = settings.statement_timeout().map_or(own, |timeout| timeout.min(own));
        let reached = async move { progress.wait_for(|progress| far(progress) >= seq).await.is_ok() };
        let why = match self.wait(tokio::time::timeout(limit, reached)).await? {
            Waited::Done(Ok(true)) => return self.not_rejected(seq).await,
            Waited::Done(Ok(false)) => "the daemon is stopping".to_owned(),
            Waited::Done(Err(_)) if limit < own => "waiting was canceled due to statement timeout".to_owned(),
            Waited::Done(Err(_)) => format!("it took more than {} s", limit.as_secs()),
            Waited::Cancelled => "waiting was canceled due to user request".to_owned(),
        };
        let message = format!("the transaction is committed in the buffer, but it is not known that {who} it");
        let report = Report::new(WARNING, message).detail(why).hint("It is on its way; nothing has to be done again.");
        error::report(&mut self.client.output, Severity::Warning, &report);
        Ok(())
    }
}
