//! The overlay made anew from the log: at start, when an entry goes into quarantine, when the replica went back.
//!
//! Runs within the committer's task (or before it starts), so that nothing is published meanwhile.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Progress;
use super::log::{Log, LogError};
use super::published::{Published, Tally};
use crate::catalog::Catalog;
use crate::entry::{Seq, TableName};
use crate::overlay::{self, Overlay};

/// How many entries are read at a time.
const WINDOW: usize = 256;

/// The wish for a new overlay.
#[derive(Debug)]
pub(super) struct Rebuild {
    pub(super) catalog: Arc<Catalog>,
    /// Where the replica is now, if it went back.
    pub(super) confirmed: Option<Seq>,
    pub(super) done: oneshot::Sender<Result<(), LogError>>,
}

impl Rebuild {
    pub(super) fn fail(self, error: LogError) {
        drop(self.done.send(Err(error)));
    }
}

/// Rebuilds, keeps the old overlay if the log cannot be read, and says so.
pub(super) async fn run(log: &dyn Log, published: &Published, job: Rebuild) {
    let result = from_log(log, published, &job.catalog, job.confirmed).await;
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
    let Progress { last, confirmed, .. } = published.progress();
    let mut at = restart.unwrap_or(confirmed);
    let mut overlay = Overlay::starting_at(at);
    let mut tally = Tally::default();
    let mut unknown: Vec<TableName> = Vec::new();
    while at < last {
        let window = log.read(at, WINDOW).await?;
        if window.is_empty() {
            tracing::error!(first = %at.next(), %last, "pending entries are missing in the log");
            break;
        }
        for record in window.into_iter().take_while(|record| record.seq() <= last) {
            let seq = record.seq();
            if seq != at.next() {
                tracing::error!(first = %at.next(), next = %seq, "pending entries are missing in the log");
            }
            at = seq;
            if !published.is_quarantined(seq) {
                let (changes, missing) = overlay::bind(&record.entry, catalog);
                overlay.apply(seq, &changes);
                for name in missing {
                    if !unknown.contains(&name) {
                        unknown.push(name);
                    }
                }
            }
            if restart.is_some() {
                tally.add(record);
            }
        }
    }
    if !unknown.is_empty() {
        let tables: Vec<String> = unknown.iter().map(ToString::to_string).collect();
        tracing::warn!(tables = tables.join(", "), "pending effects on tables that the replica does not have");
    }
    published.replace_overlay(overlay, restart.map(|confirmed| (confirmed, tally)));
    Ok(())
}
