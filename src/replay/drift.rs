//! Whether an entry still fits main's tables, which may have changed since it was written.
//!
//! The rule: the outcome must be what it would have been, had the entry come before the change. Where that can be told
//! the entry is sent, in main's present names; else it goes into quarantine with what is different. Tables and columns are
//! told by their numbers in the catalog, which every copy of a cluster shares: so one that was renamed is the same, and
//! one that was dropped and made again is not. Where the numbers mean nothing (another cluster, an operator's RETRY), by
//! their names.
//!
//! What is known here is of one catalog version; each transaction asks at its end whether main still has that one, when
//! its own locks keep it so.

mod fit;
mod known;

use std::sync::Arc;

use serde_json::json;
use tokio::time::timeout;
use tracing::error;

use super::Ending;
use super::OnReject;
use super::session::{Link, STALL, Session, ended};
use super::verdict::StepKind;
use crate::buffer::Quarantined;
use crate::entry::{Entry, TableName};

pub(super) use known::Definitions;

/// What keeps an entry from being sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    table: TableName,
    what: String,
}

/// The SQLSTATE of such a rejection.
const DRIFTED: &str = "PO004";
const ADVICE: &str =
    "mend the table on main and RETRY, which goes by the names of tables and columns; or EXPORT, correct it and SKIP";

impl Session<'_> {
    /// The entries as main can take them. Those that do not fit go into quarantine once all before them have been
    /// decided; until then the answer ends before the first of them.
    pub(super) async fn fit(&mut self, link: &Link, entries: &[Arc<Entry>]) -> Result<Vec<Arc<Entry>>, Ending> {
        self.learn(link, entries).await?;
        let mut fitting = Vec::with_capacity(entries.len());
        let mut nothing_before = self.flights.is_empty();
        // These entries may speak of what main was told after it was asked last: none is put aside before it is asked again.
        let mut asked_again = false;
        for entry in entries {
            if self.buffer.is_quarantined(entry.seq) {
                fitting.push(Arc::clone(entry));
                continue;
            }
            let mut fitted = self.definitions.fit(entry);
            if fitted.is_err() && !nothing_before {
                break;
            }
            if fitted.is_err() && !asked_again {
                asked_again = true;
                self.definitions.clear();
                self.learn(link, entries).await?;
                fitted = self.definitions.fit(entry);
            }
            match fitted {
                Ok(fitted) => {
                    nothing_before = false;
                    fitting.push(fitted.map_or_else(|| Arc::clone(entry), Arc::new));
                }
                Err(difference) => {
                    self.put_aside(link, entry, &difference).await?;
                    fitting.push(Arc::clone(entry));
                }
            }
        }
        Ok(fitting)
    }

    pub(super) async fn learn(&mut self, link: &Link, entries: &[Arc<Entry>]) -> Result<(), Ending> {
        let learned = timeout(STALL, self.definitions.learn(&link.client, entries)).await;
        let changed = learned.map_err(|_| Ending::Away("main does not answer".to_owned()))?;
        if changed.map_err(|error| ended(StepKind::Begin, error))? {
            self.statements.clear();
        }
        Ok(())
    }

    async fn put_aside(&mut self, link: &Link, entry: &Arc<Entry>, difference: &Difference) -> Result<(), Ending> {
        let Difference { table, what } = difference;
        let message = format!("table {table} on main is not what it was when the entry was written: {what}");
        if self.config.on_reject == OnReject::Halt {
            return Err(Ending::Halted(format!(
                "entry {} does not fit main, and [replay] on_reject is \"halt\": {message}",
                entry.seq
            )));
        }
        error!(seq = %entry.seq, uuid = %entry.uuid, "{message}; the entry is put into quarantine");
        let error = json!({
            "code": DRIFTED, "message": message, "schema": table.schema, "table": table.name, "advice": ADVICE,
        });
        // What refers to its rows, or has its unique values, waits with it.
        let tables = self.known_tables(link, std::slice::from_ref(entry)).await?;
        self.quarantine(Quarantined::new(Arc::clone(entry), error), &tables).await
    }
}
