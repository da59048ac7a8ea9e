//! What the session's role may see: asked of Postgres each time, since GRANT of a role and ALTER ROLE change no catalog
//! that we follow.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Session;
use super::failure::Failure;
use super::read::as_clients;
use super::settings::Settings;
use super::write::PART;
use crate::catalog::{AttNum, TableId};
use crate::overlay::{Overlay, View};
use crate::report::Report;
use crate::sql::{Plan, Readers, Statement, WritePlan};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;
use crate::wire::build::{self, Argument};

/// How long an answer about rights counts.
const PERMITTED_FOR: Duration = Duration::from_secs(5);

/// Longer texts are asked about each time. Bytes.
const TEXT_MAX: usize = 4 << 10;

/// Columns that the session's role may not read; 0: a table whose schema it may not use.
pub(super) type Unread = Arc<[(TableId, AttNum)]>;

impl Session {
    /// Those of the tables whose row security applies to the role.
    pub(super) async fn secured(&mut self, tables: &[TableId]) -> Result<Vec<TableId>, Failure> {
        if tables.is_empty() {
            return Ok(Vec::new());
        }
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
    pub(super) async fn not_seen(
        &mut self,
        statement: &Statement,
        plan: &Plan,
        settings: &Settings,
    ) -> Result<Option<Report>, Failure> {
        let (secured, readers): (&[TableId], _) = match plan {
            Plan::Write(plan) => (plan.secured(), plan.readers()),
            Plan::Copy(plan) => (plan.insert.secured(), plan.insert.readers()),
            Plan::With(plan) => (plan.secured(), plan.readers()),
            Plan::Read(plan) => (&[], plan.readers()),
        };
        match self.refuse_secured(secured).await {
            Err(Failure::Own(report)) => return Ok(Some(*report)),
            other => other?,
        }
        let base = self.base(settings);
        if matches!(plan, Plan::Read(_)) && !readers.expands(View { base: &base, own: &self.transaction.work.own }) {
            return Ok(None);
        }
        let unread = self.unread(readers, settings).await?;
        let pending = View { base: &base, own: &self.transaction.work.own };
        let why = match readers.lacking(pending, &unread) {
            Some(table) => self.cannot_read(table),
            None => match self.cannot_replay(plan, settings).await? {
                Some(why) => why,
                None => return Ok(None),
            },
        };
        // What Postgres has against it is said here, whether or not main can be reached.
        match plan {
            Plan::Copy(plan) => self.may_write(&plan.insert, settings).await?,
            Plan::Read(plan) => self.explain(plan.query(), &[], settings).await?,
            Plan::Write(_) | Plan::With(_) => self.explain(&statement.text, &[], settings).await?,
        }
        Ok(Some(why))
    }

    /// Why main would refuse a write later, when it is replayed.
    async fn cannot_replay(&mut self, plan: &Plan, settings: &Settings) -> Result<Option<Report>, Failure> {
        let writes: Vec<&WritePlan> = match plan {
            Plan::Write(plan) => vec![plan],
            Plan::Copy(plan) => vec![&plan.insert],
            Plan::With(plan) => plan.writes_planned().iter().collect(),
            Plan::Read(_) => Vec::new(),
        };
        for write in writes {
            if let Some(question) = write.permission_of_replay()
                && !self.has(&question, settings).await?
            {
                let name = &write.target.name.name;
                let message = format!("new rows of \"{name}\" have columns which this role may not INSERT");
                let hint = format!("GRANT INSERT ON {name} to the role.");
                return Ok(Some(Report::new(FEATURE_NOT_SUPPORTED, message).hint(hint)));
            }
        }
        Ok(None)
    }

    /// Before the statement is rewritten: asks for the rights that the client's own text needs, where the rewritten one needs
    /// others. Returns the columns that must not be named. `text`: without one, the statement is the daemon's own.
    pub(super) async fn may_see(
        &mut self,
        text: Option<(&str, &[u32])>,
        readers: &Readers,
        base: &Overlay,
        settings: &Settings,
    ) -> Result<Unread, Failure> {
        let unread = self.unread(readers, settings).await?;
        let pending = View { base, own: &self.transaction.work.own };
        let (expands, lacking) = (readers.expands(pending), readers.lacking(pending, &unread));
        if let Some((text, types)) = text
            && (expands || !unread.is_empty())
        {
            self.explain(text, types, settings).await?;
        }
        match lacking {
            Some(table) => Err(self.cannot_read(table).into()),
            None => Ok(unread),
        }
    }

    /// Whether the role may do what the plan of this text does. What else Postgres has against the text when it is planned, or
    /// against other tables in it, is said first.
    pub(super) async fn may_do(
        &mut self,
        plan: &WritePlan,
        (text, types): (&str, &[u32]),
        settings: &Settings,
    ) -> Result<(), Failure> {
        match self.may_write(plan, settings).await {
            Err(Failure::Own(refusal)) => {
                self.explain(text, types, settings).await?;
                Err(Failure::Own(refusal))
            }
            answer => answer,
        }
    }

    /// Asks, not more often than every few seconds, whether the role has a right: a question with one answer. GRANT, REVOKE
    /// and membership in roles do not change the catalog's version.
    pub(super) async fn permitted(
        &mut self,
        question: &str,
        settings: &Settings,
        refusal: impl FnOnce() -> Report,
    ) -> Result<(), Failure> {
        if self.has(question, settings).await? { Ok(()) } else { Err(refusal().into()) }
    }

    async fn has(&mut self, question: &str, settings: &Settings) -> Result<bool, Failure> {
        let known = (settings.role.clone(), self.shared.catalog.current().version, question.to_owned());
        if self.permitted.get(&known).is_some_and(|since| since.elapsed() < PERMITTED_FOR) {
            return Ok(true);
        }
        let rows = self.question(question).await?;
        let has = rows.first().and_then(|row| row.first().cloned().flatten()).as_deref() == Some(b"t");
        if has {
            self.permitted.put(known, Instant::now());
        }
        Ok(has)
    }

    /// The columns of these tables that the role may not read.
    async fn unread(&mut self, readers: &Readers, settings: &Settings) -> Result<Unread, Failure> {
        let tables = readers.all();
        if tables.is_empty() {
            return Ok(Arc::default());
        }
        let known = (settings.role.clone(), self.shared.catalog.current().version, tables);
        if let Some((since, unread)) = self.unread.get(&known)
            && since.elapsed() < PERMITTED_FOR
        {
            return Ok(Arc::clone(unread));
        }
        let oids = known.2.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(",");
        let question = format!(
            "SELECT a.attrelid, a.attnum FROM pg_catalog.pg_attribute a WHERE a.attrelid = ANY ('{{{oids}}}') AND \
             a.attnum > 0 AND NOT a.attisdropped AND NOT pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT') \
             UNION ALL SELECT c.oid, 0 FROM pg_catalog.pg_class c WHERE c.oid = ANY ('{{{oids}}}') AND NOT \
             pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE')"
        );
        let number = |value: &Option<Bytes>| std::str::from_utf8(value.as_deref()?).ok()?.parse::<i64>().ok();
        let column = |row: Vec<Option<Bytes>>| -> Option<(TableId, AttNum)> {
            let (table, attnum) = (number(row.first()?)?, number(row.get(1)?)?);
            Some((TableId(u32::try_from(table).ok()?), AttNum(i16::try_from(attnum).ok()?)))
        };
        let unread: Unread = self.question(&question).await?.into_iter().filter_map(column).collect();
        self.unread.put(known, (Instant::now(), Arc::clone(&unread)));
        Ok(unread)
    }

    /// Asks Postgres for every right that a statement of the client's needs: EXPLAIN does nothing else with it
    /// (<https://www.postgresql.org/docs/15/sql-explain.html>).
    async fn explain(&mut self, text: &str, types: &[u32], settings: &Settings) -> Result<(), Failure> {
        let question = format!("EXPLAIN {text}");
        let known = (settings.role.clone(), self.shared.catalog.current().version, question);
        if self.permitted.get(&known).is_some_and(|since| since.elapsed() < PERMITTED_FOR) {
            return Ok(());
        }
        let out = self.ask();
        build::close_statement(out, PART);
        build::parse(out, PART, known.2.as_bytes(), types);
        build::describe_statement(out, PART);
        build::flush(out);
        let count = self.description().await.map_err(as_clients)?.types.len();
        // The rights do not depend on the values.
        let nothing = vec![Argument { binary: false, value: None }; count];
        let out = self.ask();
        build::bind(out, b"pgoutpost", PART, &nothing, &[]);
        build::execute(out, b"pgoutpost", 0);
        build::close_portal(out, b"pgoutpost");
        build::flush(out);
        self.reply_of(b'3').await.map_err(as_clients)?;
        if known.2.len() <= TEXT_MAX {
            self.permitted.put(known, Instant::now());
        }
        Ok(())
    }

    fn cannot_read(&self, table: TableId) -> Report {
        let catalog = self.shared.catalog.current();
        let name = catalog.relations.get(&table).map_or_else(String::new, |table| table.name.name.to_string());
        let message = format!("the statement has to read table \"{name}\" at the site, which this role may not do");
        Report::new(FEATURE_NOT_SUPPORTED, message).hint(format!(
            "GRANT SELECT ON {name} to the role (and USAGE on its schema), or wait until the pending rows have been replicated."
        ))
    }
}
