//! What becomes of a statement when others have changed something since the state that it was evaluated over.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::failure::Failure;
use super::settings::Settings;
use crate::overlay::Overlay;
use crate::report::Report;
use crate::sql::{self, Isolation, WritePlan};

impl Session {
    /// Whether each statement has a snapshot of its own.
    pub(super) fn reads_committed(&self, settings: &Settings) -> bool {
        let isolation = self.transaction.isolation.unwrap_or_else(|| settings.isolation());
        isolation == Isolation::ReadCommitted
    }

    /// What was evaluated is not true any more: READ COMMITTED evaluates again, the others fail.
    pub(super) fn stale(&self, settings: &Settings) -> Result<(), Report> {
        if self.reads_committed(settings) { Ok(()) } else { Err(sql::concurrent("update")) }
    }

    /// The same of a write at REPEATABLE READ. What has changed may be values only, which are then to be judged over the
    /// overlay that this returns.
    pub(super) async fn disturbed(
        &mut self,
        plan: &WritePlan,
        rows: &[Vec<Option<Bytes>>],
        base: &Overlay,
    ) -> Result<Arc<Overlay>, Failure> {
        let now = self.overlay();
        plan.disturbed(rows, self.locks.stale(), &now, base.last())?;
        self.covered(base, &now).await?;
        self.transaction.reliance = true;
        Ok(now)
    }

    /// Whether everything that this overlay has dropped is in the transaction's snapshot.
    pub(super) async fn covered(&mut self, base: &Overlay, now: &Overlay) -> Result<(), Failure> {
        if now.trimmed() <= base.trimmed() {
            return Ok(());
        }
        let ledger = sql::ledger(&self.shared.site, &self.shared.catalog.current());
        let rows = self.question(&ledger).await?;
        let text = rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default();
        let has = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        if now.trimmed().0 > has { Err(sql::concurrent("update").into()) } else { Ok(()) }
    }
}
