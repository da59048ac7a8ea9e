//! Drops entries from the log that the replica has had for longer than the retention time.
//!
//! Never drops an entry that is not confirmed.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::log::{Log, LogError};
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
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        let confirmed = published.progress().confirmed;
        let limit = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(retention);
        match trim(&*log, confirmed, limit).await {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "the log was not trimmed this time"),
        }
    }
}

/// Drops what is confirmed and was made before `limit` (since the epoch). Entries lie in the order of their making, so
/// the place is found by bisection.
async fn trim(log: &dyn Log, confirmed: Seq, limit: Duration) -> Result<(), LogError> {
    let Some(oldest) = log.read(Seq::ZERO, 1).await?.pop() else { return Ok(()) };
    let (mut keep_from, mut end) = (oldest.seq().0, confirmed.0 + 1);
    while keep_from < end {
        let middle = keep_from + (end - keep_from) / 2;
        let record = log.read(Seq(middle - 1), 1).await?.pop();
        let made = record.and_then(|record| record.entry.uuid.get_timestamp()).map(|time| time.to_unix());
        if made.is_some_and(|(seconds, nanos)| Duration::new(seconds, nanos) < limit) {
            keep_from = middle + 1;
        } else {
            end = middle;
        }
    }
    if keep_from > oldest.seq().0 { log.trim(Seq(keep_from - 1)).await } else { Ok(()) }
}
