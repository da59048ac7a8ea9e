//! What the session's role may see: asked of Postgres each time, since GRANT of a role and ALTER ROLE change no catalog
//! that we follow.

use super::Session;
use super::failure::Failure;
use crate::catalog::TableId;
use crate::report::Report;
use crate::sql::Plan;
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

impl Session {
    /// Those of the tables whose row security applies to the role.
    pub(super) async fn secured(&mut self, tables: &[TableId]) -> Result<Vec<TableId>, Failure> {
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        self.freeze();
        let asked: Vec<String> =
            tables.iter().map(|id| format!("pg_catalog.row_security_active({}::pg_catalog.oid)", id.0)).collect();
        let row = self.question(&format!("SELECT {}", asked.join(", "))).await?.into_iter().next().unwrap_or_default();
        let applies = |place: usize| row.get(place).and_then(Option::as_deref) != Some(b"f");
        Ok(tables.iter().enumerate().filter(|(place, _)| applies(*place)).map(|(_, id)| *id).collect())
    }

    /// A write is evaluated only for roles that see all rows of the tables with row security that it is about.
    pub(super) async fn refuse_secured(&mut self, tables: &[TableId]) -> Result<(), Failure> {
        let Some(id) = self.secured(tables).await?.into_iter().next() else { return Ok(()) };
        let catalog = self.shared.catalog.current();
        let name = catalog.relations.get(&id).map_or_else(String::new, |table| table.name.name.to_string());
        let message = format!("the write cannot be buffered: row security of \"{name}\" applies to the role");
        Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Connect to main for it.").into())
    }

    /// Why the statement has to go to main, if its rights are the reason.
    pub(super) async fn not_seen(&mut self, plan: &Plan) -> Result<Option<Report>, Failure> {
        let tables = match plan {
            Plan::Write(plan) => plan.secured(),
            Plan::Copy(plan) => plan.insert.secured(),
            Plan::With(plan) => plan.secured(),
            Plan::Read(_) => &[],
        };
        match self.refuse_secured(tables).await {
            Err(Failure::Own(report)) => Ok(Some(*report)),
            other => other.map(|()| None),
        }
    }
}
