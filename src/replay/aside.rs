//! Putting entries aside: those which main rejected, and those which depend on them.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value as Json, json};
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};
use tracing::{error, warn};

use super::held::{Tables, Waits};
use super::session::{Link, STALL, Session};
use super::status::Outcome;
use super::verdict::{self, StepKind};
use super::{Ending, OnReject, steps};
use crate::buffer::{BufferError, Quarantined, Which};
use crate::entry::{Effect, Entry, EntryTable, Seq, Value};
use crate::report::Report;
use crate::upstream::own;

/// Rows that are looked up on main for one rejected entry, at most.
const ROWS_MAX: usize = 100;

impl Session<'_> {
    /// What is in quarantine, and what of it an earlier process left half done.
    pub(super) async fn remember_held(&mut self, link: &Link) -> Result<(), Ending> {
        let applied = self.buffer.progress().borrow().applied;
        if let Err(error) = self.buffer.settle_retries(applied).await {
            warn!(%error, "entries that were to be sent again are not in the buffer yet");
        }
        self.held_since = self.buffer.quarantine_decisions();
        let missing = self.held.follow(&self.buffer.open_asides());
        let unread = |error: BufferError| Ending::Refused(error.to_string());
        let buffer = self.buffer;
        let mut pages = buffer.quarantine_pages(missing).await.map_err(unread)?;
        while let Some(page) = pages.next().await.map_err(unread)? {
            let entries: Vec<Arc<Entry>> = page.iter().map(|record| Arc::clone(&record.entry)).collect();
            self.learn(link, &entries).await?;
            let entries: Vec<Arc<Entry>> = entries.iter().map(|entry| self.as_named_now(entry)).collect();
            let tables = self.known_tables(link, &entries).await?;
            for (record, entry) in page.into_iter().zip(entries).filter(|(record, _)| record.fate.is_open()) {
                self.held.add(&Quarantined { entry, ..record }, &tables);
            }
        }
        Ok(())
    }

    /// Puts those of the entries aside that depend on quarantined ones. `fitting`: the same in main's present names.
    pub(super) async fn hold_back(
        &mut self,
        entries: &[Arc<Entry>],
        fitting: &[Arc<Entry>],
        tables: &Tables,
    ) -> Result<(), Ending> {
        for (entry, fitting) in entries.iter().zip(fitting) {
            if self.buffer.is_quarantined(entry.seq) {
                continue;
            }
            if let Some(waits) = self.held.waits(fitting, tables) {
                self.set_aside(entry, waits, tables).await?;
            }
        }
        Ok(())
    }

    /// Puts an entry aside. Only then may the ledger go past it: a crash in between rejects it again.
    pub(super) async fn reject(
        &mut self,
        link: &Link,
        entry: &Arc<Entry>,
        step: StepKind,
        error: &own::Error,
    ) -> Result<(), Ending> {
        if self.config.on_reject == OnReject::Halt {
            let seq = entry.seq;
            return Err(Ending::Halted(format!(
                "main rejected entry {seq}, and [replay] on_reject is \"halt\": mend main, or restart with \"quarantine\" ({error})"
            )));
        }
        error!(seq = %entry.seq, uuid = %entry.uuid, %error, "main rejected an entry; it is put into quarantine");
        let named = self.as_named_now(entry);
        let tables = self.known_tables(link, std::slice::from_ref(&named)).await?;
        let rows = timeout(STALL, rows_on_main(&link.client, &named, &tables)).await;
        let rows_on_main = rows.map_err(|_| Ending::Away("main does not answer".to_owned()))?;
        let record = Quarantined { rows_on_main, ..Quarantined::new(Arc::clone(entry), described(step, error)) };
        let table = steps::rejected::loser(&record).map(|(table, _)| table.name.to_string());
        self.quarantine(record, &tables).await?;
        if let Some(table) = table {
            self.status.send_modify(|status| status.conflict(&table, Outcome::Quarantined, 1));
        }
        Ok(())
    }

    /// Puts an entry aside that depends on a quarantined one.
    async fn set_aside(&mut self, entry: &Arc<Entry>, waits: Waits, tables: &Tables) -> Result<(), Ending> {
        let Waits { holder, retrying, why } = waits;
        warn!(seq = %entry.seq, waits_for = %holder, why, "an entry depends on a quarantined one; it waits with it");
        let error = json!({ "message": why });
        let record = Quarantined { waits_for: Some(holder), ..Quarantined::new(Arc::clone(entry), error) };
        self.quarantine(record, tables).await?;
        if retrying && let Err(error) = self.buffer.retry(Which::One(entry.seq), "replay").await {
            // It stays in quarantine then, for the operator.
            warn!(seq = %entry.seq, %error, "an entry was not sent again behind the one that it waits for");
        }
        Ok(())
    }

    pub(super) async fn quarantine(&mut self, record: Quarantined, tables: &Tables) -> Result<(), Ending> {
        self.held.add(&Quarantined { entry: self.as_named_now(&record.entry), ..record.clone() }, tables);
        let (seq, retry_of) = (record.seq, record.entry.retry_of);
        self.buffer.quarantine(record).await.map_err(|error| Ending::Refused(error.to_string()))?;
        self.status.send_modify(|status| status.rejected_total += 1);
        if let Some(retry) = retry_of {
            self.retries_decided(&[(retry.seq, seq)]).await?;
        }
        Ok(())
    }

    /// The entry in main's present names, as those are in which may depend on it.
    fn as_named_now(&self, entry: &Arc<Entry>) -> Arc<Entry> {
        self.definitions.fit(entry).ok().flatten().map_or_else(|| Arc::clone(entry), Arc::new)
    }

    /// Main has decided about entries that bring others again.
    pub(super) async fn retries_decided(&self, decided: &[(Seq, Seq)]) -> Result<(), Ending> {
        if decided.is_empty() {
            return Ok(());
        }
        self.buffer.retries_decided(decided).await.map_err(|error| Ending::Refused(error.to_string()))
    }
}

/// The rows which an entry's effects are about, by key and by the values of unique indexes, as main has them.
async fn rows_on_main(client: &Client, entry: &Entry, tables: &Tables) -> Vec<Json> {
    let mut asked: Vec<(&EntryTable, Vec<usize>, Vec<Value>)> = Vec::new();
    for effect in &entry.effects {
        if asked.len() >= ROWS_MAX {
            break;
        }
        let Some(table) = entry.tables.get(effect.table()) else { continue };
        for (places, values) in identities(table, effect, tables) {
            let one = (table, places, values);
            if !asked.contains(&one) {
                asked.push(one);
            }
        }
    }
    join_all(asked.into_iter().map(async |(table, places, values)| {
        let conditions: Vec<String> = places.iter().enumerate().map(|(n, &at)| steps::equal(table, at, n)).collect();
        let sql = format!(
            "SELECT pg_catalog.to_jsonb(t)::text FROM {} t WHERE {} LIMIT 10",
            steps::relation(table),
            conditions.join(" AND ")
        );
        let texts: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
        let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            texts.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)).collect();
        let by: serde_json::Map<String, Json> =
            places.iter().zip(&values).map(|(&at, value)| (table.columns[at].name.to_string(), json!(value))).collect();
        let parsed = |row: &tokio_postgres::Row| {
            row.try_get::<_, String>(0).ok().and_then(|text| serde_json::from_str::<Json>(&text).ok())
        };
        match client.query_typed(&sql, &parameters).await {
            Ok(rows) => {
                let rows: Vec<Json> = rows.iter().filter_map(parsed).collect();
                json!({ "table": table.name.to_string(), "by": by, "rows": rows })
            }
            Err(error) => {
                let error = own::Error::from(error).to_string();
                json!({ "table": table.name.to_string(), "by": by, "error": error })
            }
        }
    }))
    .await
}

/// What the row of an effect can be found by: places of columns, and their values.
fn identities(table: &EntryTable, effect: &Effect, tables: &Tables) -> Vec<(Vec<usize>, Vec<Value>)> {
    let (key, row) = match effect {
        Effect::Insert { row, .. } => (None, Some(row)),
        Effect::Update { key, row, .. } => (Some(key), row.as_ref()),
        Effect::Move { key, .. } | Effect::Delete { key, .. } => (Some(key), None),
        Effect::Truncate { .. } => return Vec::new(),
    };
    let mut found: Vec<(Vec<usize>, Vec<Value>)> =
        key.map(|key| (table.key.clone(), key.clone())).into_iter().collect();
    let unique = tables.get(&table.name).map(|main| main.unique.as_slice()).unwrap_or_default();
    for columns in unique {
        let place = |name: &Arc<str>| table.columns.iter().position(|column| column.name == *name);
        let places: Option<Vec<usize>> = columns.iter().map(place).collect();
        if let (Some(places), Some(row)) = (places, row) {
            let values: Vec<Value> = places.iter().filter_map(|&place| row.get(place).cloned()).collect();
            if values.iter().all(Option::is_some) {
                found.push((places, values));
            }
        }
    }
    found.retain(|(places, _)| !places.is_empty());
    found
}

/// A server's error, field by field, for people and for a later retry.
pub(super) fn described(step: StepKind, error: &own::Error) -> Json {
    // The first effect of the statement that failed: inserts in a row are one statement.
    let effect = match step {
        StepKind::Effect { effect, .. } => Some(effect),
        StepKind::Begin
        | StepKind::Advance
        | StepKind::Role
        | StepKind::Definitions
        | StepKind::Commit
        | StepKind::Place => None,
    };
    match error {
        own::Error::Server(report) => {
            let about = report.about.as_deref().cloned().unwrap_or_default();
            json!({
                "code": report.code.as_str(), "message": report.message, "detail": report.detail, "hint": report.hint,
                "schema": about.schema, "table": about.table, "column": about.column,
                "data_type": about.data_type, "constraint": about.constraint, "effect": effect,
                "theirs": theirs(report),
                "advice": verdict::advice(error),
            })
        }
        own::Error::Connection(why) | own::Error::Unexpected(why) => {
            json!({ "code": "XX000", "message": why, "effect": effect })
        }
    }
}

/// What `pgoutpost.settle_conflict` found on main before it refused: of several rows, by their number in the statement.
fn theirs(report: &Report) -> Option<Json> {
    let detail = report.detail.as_deref().filter(|_| report.code.as_str() == verdict::CONFLICT)?;
    let mut rows: serde_json::Map<String, Json> = serde_json::from_str(detail).ok()?;
    let only = rows.keys().next().filter(|_| rows.len() == 1).cloned();
    Some(only.and_then(|number| rows.remove(&number)).unwrap_or(Json::Object(rows)))
}
