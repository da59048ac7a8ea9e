//! TRUNCATE as an effect: every row of the tables is gone, whichever the replica has.

use std::sync::Arc;

use super::Session;
use super::failure::Failure;
use super::settings::Settings;
use super::transaction::Phase;
use crate::catalog::TableId;
use crate::report::Report;
use crate::sql::{Plan, Statement, Truncate, Writes};
use crate::sqlstate::{self, SqlState};
use crate::status::StatementKind;
use crate::wire::error::{self, Severity};

/// The tag, and the command in messages.
const TRUNCATED: &str = "TRUNCATE TABLE";

impl Session {
    /// Returns the tag.
    pub(super) async fn truncate(
        &mut self,
        statement: &Statement,
        truncate: &Truncate,
    ) -> Result<&'static str, Failure> {
        self.guard.statement(StatementKind::Write);
        let settings = self.settings().await?;
        self.writes_as_one(&settings)?;
        self.caught_up().await?;
        if self.is_read_only(&settings) {
            let message = format!("cannot execute {TRUNCATED} in a read-only transaction");
            return Err(Report::new(sqlstate::READ_ONLY_SQL_TRANSACTION, message).into());
        }
        let mut tries = 0;
        let plan = loop {
            let catalog = self.shared.catalog.current();
            let plan = truncate.plan(&catalog, &settings.schemas)?;
            let question = plan.permission(&catalog, &self.shared.site);
            let rows = self.question(&question).await;
            let Some(rows) = self.or_again(rows, &mut tries).await? else { continue };
            let may = rows.into_iter().next().unwrap_or_default();
            let refused = plan.tables.iter().zip(&may).find(|(_, may)| may.as_deref() != Some(b"t"));
            if let Some((table, _)) = refused {
                let message = format!("permission denied for table {}", table.name.name);
                return Err(Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, message).into());
            }
            break plan;
        };
        if let Some(report) = plan.obstacle {
            return Err(report.into());
        }
        // Whatever was committed to the tables meanwhile goes as well.
        let seen = self.overlay().last();
        self.lock(&plan.locks(), seen, &settings, true).await?;
        for table in &plan.tables {
            // It is not evaluated over any state.
            self.enter((table.id, Writes::Rows), self.shared.sides.moment(), &settings).await?;
        }
        let read = self.read_by_cursors(&settings).await?;
        for table in &plan.tables {
            if read.contains(&table.id) {
                let message = format!(
                    "cannot TRUNCATE \"{}\" because it is being used by active queries in this session",
                    table.name.name
                );
                return Err(Report::new(SqlState(*b"55006"), message).into());
            }
            if self.transaction.work.has_pending_events(table.id) {
                let message = format!("cannot TRUNCATE \"{}\" because it has pending trigger events", table.name.name);
                return Err(Report::new(SqlState(*b"55006"), message).into());
            }
        }
        if let Some(report) = plan.refused {
            return Err(report.into());
        }
        for notice in &plan.notices {
            let report = Report::new(SqlState(*b"00000"), notice.as_str());
            error::report(&mut self.client.output, Severity::Notice, &report);
        }
        self.transaction.work.statements.push(statement.text.to_string());
        for table in &plan.tables {
            self.transaction.work.truncate(table)?;
        }
        Ok(TRUNCATED)
    }

    /// The tables that cursors of this transaction read.
    async fn read_by_cursors(&mut self, settings: &Settings) -> Result<Vec<TableId>, Failure> {
        if self.transaction.phase != Phase::Open {
            return Ok(Vec::new());
        }
        let mut tables = Vec::new();
        for text in self.open_cursors(true).await? {
            let parsed = self.shared.statements.parse(&text);
            let Some(statement) = parsed.single() else { continue };
            let (catalog, shared) = (self.shared.catalog.current(), &self.shared);
            let plan = shared.statements.plan(statement, &catalog, &settings.schemas, &shared.site);
            if let Ok(Plan::Read(plan)) = &*plan {
                tables.extend_from_slice(plan.tables());
            }
        }
        Ok(tables)
    }

    /// The statements by which the transaction has declared cursors that are open. `held`: those WITH HOLD, too.
    pub(super) async fn open_cursors(&mut self, held: bool) -> Result<Vec<String>, Failure> {
        // Not the portals of reads that are over, which the replica keeps for a while, nor the one by which a driver is
        // about to declare the cursor.
        let question = format!(
            "SELECT statement FROM pg_catalog.pg_cursors WHERE creation_time >= pg_catalog.now() \
             AND statement ~* '^[[:space:]]*declare[[:space:]]' AND name <> '' AND ({held} OR NOT is_holdable)"
        );
        let rows = self.question(&question).await?;
        let texts = rows.into_iter().filter_map(|row| row.into_iter().next().flatten());
        Ok(texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect())
    }

    /// Why a TRUNCATE cannot be buffered, by the catalog of this version.
    pub(super) fn untruncatable(&self, truncate: &Truncate, schemas: &[Arc<str>]) -> (i64, Option<Report>) {
        let catalog = self.shared.catalog.current();
        (catalog.version, truncate.plan(&catalog, schemas).ok().and_then(|plan| plan.obstacle))
    }
}
