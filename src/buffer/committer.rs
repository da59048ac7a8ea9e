//! The one task that writes entries: group commit, and what becomes of a batch whose answer was lost.
//!
//! It gives out seqs, appends a batch in one round trip, shows it in the overlay, and answers the clients, in this
//! order. It never shows what is not durable, never answers before it shows, and never gives up a seq that may be in
//! the log. When an answer is lost it claims the log again, which voids everything still under way, and repeats the
//! same append, until the log says what is.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::log::{Log, LogError, Record};
use super::published::{Changes, Published};
use super::rebuild::{self, Rebuild};
use super::{CommitError, Draft, Progress};
use crate::entry::Seq;

#[cfg(test)]
mod tests;

/// How many drafts may wait for the committer.
pub(super) const QUEUE: usize = 1024;
/// How many transactions share an append, at most.
const BATCH_MAX: usize = 512;
/// And how many bytes, unless one entry alone is larger.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// The largest entry: Redis takes 512 MiB in one value, and everything between here and there must hold copies of it.
const ENTRY_BYTES_MAX: u64 = 256 << 20;
/// How often the committer looks whether the log is still there, still ours, and still durable.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long clients wait whose commit is in doubt, before they are told so.
const DOUBT_WAIT: Duration = Duration::from_secs(5);
/// The pause between attempts to get the log back.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// What the committer is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    Commit {
        draft: Box<Draft>,
        reply: oneshot::Sender<Result<Seq, CommitError>>,
    },
    /// Make the overlay anew from the log.
    Rebuild(Rebuild),
}

/// How much may be pending.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) transactions: u64,
    pub(super) bytes: u64,
}

pub(super) struct Committer {
    pub(super) log: Arc<dyn Log>,
    pub(super) published: Arc<Published>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) limits: Limits,
    pub(super) shutdown: CancellationToken,
}

/// A transaction that has its seq.
struct InFlight {
    record: Record,
    changes: Changes,
    reply: oneshot::Sender<Result<Seq, CommitError>>,
}

impl Committer {
    /// Works until shutdown, or until the log is lost to somebody else; then the reason stays in the status.
    pub(super) async fn run(mut self) {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let flow = tokio::select! {
                biased;
                // First, and once a second: commits that never cease do not keep it from being done.
                _ = heartbeat.tick() => self.look_after().await,
                job = self.jobs.recv() => match job {
                    Some(job) => self.work(job).await,
                    None => ControlFlow::Break(()),
                },
                () = self.shutdown.cancelled(), if !self.jobs.is_closed() => {
                    // What is queued is still done; then recv says None.
                    self.jobs.close();
                    ControlFlow::Continue(())
                }
            };
            if flow.is_break() {
                break;
            }
        }
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            refuse(job, &self.published);
        }
    }

    /// Takes what else is queued, up to a batch, and commits it.
    async fn work(&mut self, job: Job) -> ControlFlow<()> {
        let mut batch: Vec<InFlight> = Vec::new();
        let mut bytes = 0;
        let mut next = Some(job);
        let mut rebuild = None;
        while let Some(job) = next.take() {
            match job {
                Job::Commit { draft, reply } => match self.admit(*draft, &batch, bytes) {
                    Ok((record, changes)) => {
                        bytes += record.bytes();
                        batch.push(InFlight { record, changes, reply });
                    }
                    Err(error) => drop(reply.send(Err(error))),
                },
                Job::Rebuild(job) => {
                    rebuild = Some(job);
                    break;
                }
            }
            if batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
                next = self.jobs.try_recv().ok();
            }
        }
        if !batch.is_empty() {
            self.commit(batch).await?;
        }
        if let Some(job) = rebuild {
            rebuild::run(&*self.log, &self.published, job).await;
        }
        ControlFlow::Continue(())
    }

    /// Gives a draft its seq, unless there is no room for it.
    fn admit(&self, draft: Draft, batch: &[InFlight], batch_bytes: u64) -> Result<(Record, Changes), CommitError> {
        let Draft { mut entry, changes } = draft;
        entry.seq = Seq(self.published.progress().last.0 + batch.len() as u64 + 1);
        let record = Record::new(entry).map_err(|error| CommitError::Refused(error.to_string()))?;
        let max = ENTRY_BYTES_MAX.min(self.limits.bytes);
        if record.bytes() > max {
            return Err(CommitError::TooLarge { bytes: record.bytes(), max });
        }
        let (pending, pending_bytes) = self.published.pending();
        if pending + batch.len() as u64 >= self.limits.transactions {
            return Err(CommitError::Full { what: "max_transactions", limit: self.limits.transactions });
        }
        if pending_bytes + batch_bytes + record.bytes() > self.limits.bytes {
            return Err(CommitError::Full { what: "max_bytes", limit: self.limits.bytes });
        }
        Ok((record, changes))
    }

    async fn commit(&mut self, batch: Vec<InFlight>) -> ControlFlow<()> {
        let records: Vec<Record> = batch.iter().map(|one| one.record.clone()).collect();
        match self.log.append(&records).await {
            Ok(()) => self.publish(batch),
            Err(LogError::Refused(why)) => {
                tracing::warn!(%why, transactions = batch.len(), "the buffer refused to append");
                self.published.set_refusing(why.clone());
                answer_all(batch, || CommitError::Refused(why.clone()));
            }
            Err(LogError::Doubtful(why)) => return self.recover(batch, why).await,
            Err(error) => {
                // The log checks before it writes: nothing of this batch is there.
                answer_all(batch, || CommitError::Unavailable(error.to_string()));
                return self.stop(&error);
            }
        }
        ControlFlow::Continue(())
    }

    fn publish(&self, batch: Vec<InFlight>) {
        let mut replies = Vec::with_capacity(batch.len());
        let mut entries = Vec::with_capacity(batch.len());
        for InFlight { record, changes, reply } in batch {
            replies.push((reply, record.seq()));
            entries.push((record, changes));
        }
        self.published.publish(entries);
        for (reply, seq) in replies {
            // A session that is gone does not care; the transaction stays.
            drop(reply.send(Ok(seq)));
        }
    }

    /// A look at the log, between commits.
    async fn look_after(&mut self) -> ControlFlow<()> {
        let why = match self.log.probe().await {
            Ok(last) if last == self.published.progress().last => return ControlFlow::Continue(()),
            Ok(last) => format!("the log ends at entry {last}, not at {}", self.published.progress().last),
            Err(error) => error.to_string(),
        };
        self.recover(Vec::new(), why).await
    }

    /// Gets the log back, and brings a batch in doubt to a definite end. Meanwhile new commits are refused.
    async fn recover(&mut self, batch: Vec<InFlight>, why: String) -> ControlFlow<()> {
        tracing::warn!(%why, in_doubt = batch.len(), "the buffer is not available");
        self.published.set_away(why);
        let mut doubt = Doubt::new(batch);
        let mut delay = Duration::ZERO;
        loop {
            let attempt = attempt(Arc::clone(&self.log), Arc::clone(&self.published), doubt.records.clone(), delay);
            match self.serve_during(attempt, &mut doubt).await {
                Ok(()) => {
                    self.publish(doubt.take());
                    self.published.set_available();
                    tracing::info!("the buffer is available again");
                    return ControlFlow::Continue(());
                }
                Err(LogError::Refused(why)) => {
                    // Claimed, and it says no: so nothing of the batch is there, nor will it be.
                    answer_all(doubt.take(), || CommitError::Refused(why.clone()));
                    doubt = Doubt::new(Vec::new());
                    self.published.set_away(why);
                }
                Err(LogError::Doubtful(why)) => self.published.set_away(why),
                Err(LogError::NotDurable(why)) => {
                    tracing::error!(%why, "the buffer came back without durability; it is not used");
                    self.published.set_away(why);
                }
                Err(
                    error @ (LogError::Fenced(_)
                    | LogError::Conflict(_)
                    | LogError::Lost { .. }
                    | LogError::ReplicaTooOld { .. }
                    | LogError::Corrupt(_)),
                ) => {
                    answer_all(doubt.take(), || CommitError::Unknown(error.to_string()));
                    return self.stop(&error);
                }
            }
            if self.jobs.is_closed() && doubt.told() {
                return ControlFlow::Break(());
            }
            delay = (delay * 2).clamp(RETRY_DELAY_MIN, RETRY_DELAY_MAX);
        }
    }

    /// Runs an attempt, refusing new commits and telling those in doubt when they have waited long enough.
    async fn serve_during(
        &mut self,
        attempt: impl Future<Output = Result<(), LogError>>,
        doubt: &mut Doubt,
    ) -> Result<(), LogError> {
        let mut attempt = pin!(attempt);
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                outcome = &mut attempt => return outcome,
                job = self.jobs.recv(), if open => match job {
                    Some(job) => refuse(job, &self.published),
                    None => open = false,
                },
                () = sleep_until(doubt.deadline), if !doubt.told() => doubt.tell(),
                () = self.shutdown.cancelled(), if !self.jobs.is_closed() => self.jobs.close(),
            }
        }
    }

    fn stop(&self, error: &LogError) -> ControlFlow<()> {
        tracing::error!(%error, "the buffer has stopped; restart when the cause is mended");
        self.published.set_away(error.to_string());
        ControlFlow::Break(())
    }
}

/// A batch that may or may not be in the log.
struct Doubt {
    records: Arc<[Record]>,
    changes: Vec<Changes>,
    /// Empty once the clients were told that nobody knows.
    replies: Vec<oneshot::Sender<Result<Seq, CommitError>>>,
    deadline: Instant,
}

impl Doubt {
    fn new(batch: Vec<InFlight>) -> Doubt {
        let (mut records, mut changes, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        for one in batch {
            records.push(one.record);
            changes.push(one.changes);
            replies.push(one.reply);
        }
        Doubt { records: records.into(), changes, replies, deadline: Instant::now() + DOUBT_WAIT }
    }

    fn told(&self) -> bool {
        self.replies.is_empty()
    }

    fn tell(&mut self) {
        for reply in self.replies.drain(..) {
            drop(reply.send(Err(CommitError::Unknown("no answer from the buffer".into()))));
        }
    }

    /// The batch, with replies that go nowhere for clients who were told already.
    fn take(&mut self) -> Vec<InFlight> {
        let mut replies = std::mem::take(&mut self.replies).into_iter();
        let changes = std::mem::take(&mut self.changes);
        let both = self.records.iter().cloned().zip(changes);
        both.map(|(record, changes)| InFlight {
            record,
            changes,
            reply: replies.next().unwrap_or_else(|| oneshot::channel().0),
        })
        .collect()
    }
}

/// One attempt to get the log back: claim it, mend its tail, repeat what is in doubt.
async fn attempt(
    log: Arc<dyn Log>,
    published: Arc<Published>,
    records: Arc<[Record]>,
    delay: Duration,
) -> Result<(), LogError> {
    sleep(delay).await;
    let Progress { last, applied, .. } = published.progress();
    // What main has and we no longer hold need not be in the log; what we hold is appended again below.
    let forgotten = Seq(published.oldest_recent().unwrap_or(last.next()).0 - 1);
    let claim = log.claim(false, applied.min(forgotten)).await.map_err(undecided)?;
    if claim.last.0 > last.0 + records.len() as u64 {
        return Err(LogError::Conflict(Seq(last.0 + records.len() as u64 + 1)));
    }
    mend_tail(&*log, &published, claim.last, last).await.map_err(undecided)?;
    let some_are_there = claim.last > last;
    // A log cut off within the batch: what is there of it cannot be taken back, so the rest has to follow.
    log.append(&records).await.map_err(|error| if some_are_there { undecided(error) } else { error })
}

/// A refusal before the batch itself was tried says nothing about the batch.
fn undecided(error: LogError) -> LogError {
    if let LogError::Refused(why) = error { LogError::Doubtful(why) } else { error }
}

/// Appends again what the log lost and we still hold.
async fn mend_tail(log: &dyn Log, published: &Published, mut end: Seq, last: Seq) -> Result<(), LogError> {
    if end < last {
        tracing::error!(found = %end, expected = %last, "the log lost acknowledged entries; appending them again");
    }
    while end < last {
        let oldest = published.oldest_recent().unwrap_or(last.next());
        let missing = published.recent_after(end, BATCH_MAX, BATCH_BYTES_MAX).filter(|missing| !missing.is_empty());
        let Some(missing) = missing else {
            return Err(LogError::Lost { first: end.next(), last: Seq(oldest.0 - 1) });
        };
        log.append(&missing).await?;
        end = missing.last().map_or(last, Record::seq);
    }
    Ok(())
}

fn refuse(job: Job, published: &Published) {
    let why = published.away().unwrap_or_else(|| "the daemon is stopping".into());
    match job {
        Job::Commit { reply, .. } => drop(reply.send(Err(CommitError::Unavailable(why)))),
        Job::Rebuild(rebuild) => rebuild.fail(LogError::Doubtful(why)),
    }
}

fn answer_all(batch: Vec<InFlight>, error: impl Fn() -> CommitError) {
    for one in batch {
        drop(one.reply.send(Err(error())));
    }
}
