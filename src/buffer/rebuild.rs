//! The overlay made anew from the log: at start, when entries go into quarantine, when the replica went back.
//!
//! It takes the committer's place (or runs before it starts), so that nothing is published meanwhile. A [`refresher`]
//! reads most of the log before it does, so that commits hardly wait, and however many entries are rejected in a row it
//! spends only a part of the time on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::committer::Job;
use super::log::{Log, LogError, Record};
use super::published::{Published, Tally};
use super::quarantine::records::{Pages, by_place};
use super::quarantine::{Aside, Fate};
use crate::catalog::Catalog;
use crate::entry::{Seq, TableName};
use crate::overlay::{self, Overlay};

/// The pause after refreshing, in times of what it took, and at least.
const PAUSE_FACTOR: u32 = 4;
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The wish for a new overlay.
#[derive(Debug)]
pub(super) struct Rebuild {
    pub(super) catalog: Arc<Catalog>,
    /// Where the replica is now, if it went back.
    pub(super) confirmed: Option<Seq>,
    /// The overlay that is to be replaced: not needed any more when it has been.
    pub(super) of: Option<u64>,
    /// What has been read already.
    pub(super) begun: Option<Box<Reading>>,
    pub(super) done: oneshot::Sender<Result<(), LogError>>,
}

impl Rebuild {
    pub(super) fn fail(self, error: LogError) {
        drop(self.done.send(Err(error)));
    }
}

/// Makes the overlay anew when told, until shutdown.
pub(super) async fn refresher(
    log: Arc<dyn Log>,
    published: Arc<Published>,
    catalog: Arc<ArcSwap<Catalog>>,
    jobs: mpsc::WeakSender<Job>,
    wish: Arc<Notify>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = wish.notified() => {}
        }
        let begun = Instant::now();
        if let Err(error) = refresh(&*log, &published, catalog.load_full(), &jobs).await {
            tracing::warn!(%error, "quarantined entries are still shown; trying again");
            wish.notify_one();
        }
        tokio::time::sleep((begun.elapsed() * PAUSE_FACTOR).max(PAUSE_MIN)).await;
    }
}

async fn refresh(
    log: &dyn Log,
    published: &Published,
    catalog: Arc<Catalog>,
    jobs: &mpsc::WeakSender<Job>,
) -> Result<(), LogError> {
    let mut reading = Reading::begin(log, published, &catalog, None).await?;
    reading.advance(log, &catalog, published.progress().last).await?;
    let (done, answer) = oneshot::channel();
    let job = Rebuild { catalog, confirmed: None, of: None, begun: Some(Box::new(reading)), done };
    let Some(jobs) = jobs.upgrade() else { return Ok(()) };
    if jobs.send(Job::Rebuild(job)).await.is_err() {
        return Ok(());
    }
    answer.await.unwrap_or(Ok(()))
}

/// Rebuilds, keeps the old overlay if the log cannot be read, and says so.
pub(super) async fn run(log: &dyn Log, published: &Published, job: Rebuild) {
    let now = published.generation();
    let result = match job.begun {
        // The tracker tells each time it looks, until the first of these is done.
        _ if job.of.is_some_and(|of| of != now) => Ok(()),
        // Whoever replaced the overlay since knew more than this one.
        Some(begun) if begun.generation == now => finish(*begun, log, published, &job.catalog).await,
        _ => from_log(log, published, &job.catalog, job.confirmed).await,
    };
    if let Err(error) = &result {
        tracing::error!(%error, "the overlay could not be rebuilt");
    }
    drop(job.done.send(result));
}

/// Reads all pending entries into a new overlay. `restart`: where the replica is, when what is pending has to be
/// counted anew as well.
pub(super) async fn from_log(
    log: &dyn Log,
    published: &Published,
    catalog: &Catalog,
    restart: Option<Seq>,
) -> Result<(), LogError> {
    let reading = Reading::begin(log, published, catalog, restart).await?;
    finish(reading, log, published, catalog).await
}

async fn finish(mut reading: Reading, log: &dyn Log, published: &Published, catalog: &Catalog) -> Result<(), LogError> {
    reading.advance(log, catalog, published.progress().last).await?;
    let Reading { overlay, tally, restart, unknown, .. } = reading;
    if !unknown.is_empty() {
        let tables: Vec<String> = unknown.iter().map(ToString::to_string).collect();
        tracing::warn!(tables = tables.join(", "), "pending effects on tables that the replica does not have");
    }
    published.replace_overlay(overlay, restart.map(|confirmed| (confirmed, tally)));
    Ok(())
}

/// An overlay under construction.
#[derive(Debug)]
pub(super) struct Reading {
    overlay: Overlay,
    /// All entries up to here are in it.
    at: Seq,
    tally: Tally,
    restart: Option<Seq>,
    unknown: Vec<TableName>,
    /// What is aside, and whether it is shown, as of the beginning: entries that are set aside meanwhile build upon each other,
    /// and are hidden together, next time.
    aside: BTreeMap<Seq, Aside>,
    show: bool,
    /// The overlay that was there when it was begun.
    generation: u64,
}

impl Reading {
    async fn begin(
        log: &dyn Log,
        published: &Published,
        catalog: &Catalog,
        restart: Option<Seq>,
    ) -> Result<Reading, LogError> {
        let generation = published.generation();
        let (aside, show) = published.aside();
        let at = restart.unwrap_or(published.progress().confirmed);
        let mut overlay = Overlay::starting_at(at);
        if show {
            let shown = by_place(&aside, |seq, aside| aside.fate == Fate::Waiting && seq <= at);
            let mut pages = Pages::of(log, shown).await?;
            while let Some(mut page) = pages.next(log).await? {
                page.retain(|record| record.fate == Fate::Waiting);
                page.iter().for_each(|record| overlay.hold(&overlay::bind_held(&record.entry, catalog)));
            }
        }
        Ok(Reading { overlay, at, tally: Tally::default(), restart, unknown: Vec::new(), aside, show, generation })
    }

    /// Reads on.
    async fn advance(&mut self, log: &dyn Log, catalog: &Catalog, last: Seq) -> Result<(), LogError> {
        while self.at < last {
            let window = log.window(self.at).await?;
            let kept = window.first().map_or(last.next(), Record::seq);
            if kept != self.at.next() {
                return Err(LogError::ReplicaTooOld { has: self.at, kept });
            }
            for record in window.into_iter().take_while(|record| record.seq() <= last) {
                let seq = record.seq();
                self.at = seq;
                let aside = self.aside.get(&seq).map(|aside| aside.fate);
                if aside.is_none() || (aside == Some(Fate::Waiting) && self.show) {
                    let (changes, missing) = overlay::bind(&record.entry, catalog);
                    match aside {
                        None => self.overlay.apply(seq, &changes),
                        Some(_) => self.overlay.hold(&overlay::bind_held(&record.entry, catalog)),
                    }
                    for name in missing {
                        if !self.unknown.contains(&name) {
                            self.unknown.push(name);
                        }
                    }
                }
                // Also past what is not shown: who has this overlay has seen what became of it.
                self.overlay.pass(seq);
                if self.restart.is_some() {
                    self.tally.add(record);
                }
            }
        }
        Ok(())
    }
}
