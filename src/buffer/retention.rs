//! Drops entries from the log that the replica has had for longer than the retention time.
//!
//! Never drops an entry that is not confirmed, nor one that main has lost again, nor one by which it can be told whether a
//! quarantined entry was sent again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::log::Log;
use super::published::Published;
use crate::entry::Seq;

/// How often the log is trimmed.
const PERIOD_MAX: Duration = Duration::from_secs(30);

/// Trims now and then, until shutdown.
pub(super) async fn run(
    log: Arc<dyn Log>,
    published: Arc<Published>,
    retention: Duration,
    shutdown: CancellationToken,
) {
    let period = (retention / 4).clamp(Duration::from_millis(200), PERIOD_MAX);
    // What was confirmed at which time, oldest first. After a restart the time starts anew.
    let mut marks: VecDeque<(Instant, Seq)> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        let now = Instant::now();
        let progress = published.progress();
        let confirmed = progress.confirmed.min(progress.applied);
        if marks.back().is_none_or(|(_, known)| *known < confirmed) {
            marks.push_back((now, confirmed));
        }
        let mut old_enough = None;
        while let Some((_, seq)) = marks.pop_front_if(|(since, _)| now.duration_since(*since) >= retention) {
            old_enough = Some(seq);
        }
        // A replica or a main that went back has taken its word back.
        let Some(old_enough) = old_enough.map(|seq: Seq| seq.min(confirmed)) else { continue };
        let seq = published.looked_for_after().unwrap_or(old_enough).min(old_enough);
        let trimmed = log.trim(seq).await;
        if let Err(error) = &trimmed {
            tracing::debug!(%error, "the log was not trimmed this time");
        }
        if trimmed.is_err() || seq < old_enough {
            marks.push_front((now.checked_sub(retention).unwrap_or(now), old_enough));
        }
    }
}
