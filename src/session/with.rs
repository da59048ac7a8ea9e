//! Statements with writes in WITH: part by part, all over the state before the statement.
//!
//! Nothing is collected before the last part, and the main statement, have been evaluated; then all effects are, and the
//! statement has its one end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::{Duration, Instant};

use super::Session;
use super::crossing::Pinned;
use super::failure::Failure;
use super::read::Given;
use super::settings::Settings;
use super::statements::Prepared;
use super::transaction::Phase;
use super::whole::shown;
use super::write::{By, PART, Rights, Written, returning};
use crate::overlay::View;
use crate::report::Report;
use crate::sql::{self, Ids, Judged, Plan, Rendered, Returned, Statement, WithPlan, WritePlan};
use crate::sqlstate;
use crate::status::StatementKind;
use crate::wire::read::{Bind, columns};
use crate::wire::{HEADER, build};

/// `text[]`
const TEXT_ARRAY: u32 = 1009;

/// How often, and for how long, the parts are evaluated until nothing comes between them.
const TRIES_OF_PARTS: usize = 20;
const PARTS_FOR: Duration = Duration::from_secs(3);

/// Whether the replica shows one snapshot from statement to statement, though the session reads what is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum OneSnapshot {
    #[default]
    No,
    Kept,
    /// What was evaluated is stale: a newer one is needed.
    TooOld,
}

/// The parts that write, and what the main statement gives when it is a query.
type Evaluation = (Vec<(Arc<WritePlan>, Judged)>, Option<Written>);

/// The client's parameters, and after them what parts have returned.
struct Values {
    types: Vec<u32>,
    binary: Vec<bool>,
    values: Vec<Option<Bytes>>,
}

impl Values {
    fn given(&self) -> Given<'_> {
        let values = self.values.iter().map(Option::as_deref).collect();
        Given { types: &self.types, binary: self.binary.clone(), values }
    }

    /// One column of what a part has returned.
    fn add(&mut self, texts: impl ExactSizeIterator<Item = Option<Bytes>>) {
        self.types.push(TEXT_ARRAY);
        self.binary.push(true);
        self.values.push(Some(sql::text_array(texts)));
    }
}

impl Session {
    /// Execute of such a statement's portal.
    pub(super) async fn execute_with(
        &mut self,
        prepared: &Prepared,
        statement: &Statement,
        bind: &BytesMut,
    ) -> Result<Written, Failure> {
        let bind = Bind::read(&bind[HEADER..])?;
        let description = self.describe(prepared, bind.statement).await?;
        let given = Given::of(&bind, &description.types);
        self.with(statement, &given, returning(&description, &bind.results)?).await
    }

    /// Such a statement in the simple protocol.
    pub(super) async fn simple_with(&mut self, statement: &Statement, last: bool) -> Result<(), Failure> {
        let description = self.describe_text(&statement.text).await?;
        if !description.types.is_empty() {
            return Err(super::write::no_parameter(&statement.text).into());
        }
        let written = self.with(statement, &Given::default(), returning(&description, &[])?).await?;
        self.show(&description, written, last).await
    }

    pub(super) async fn with(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
        formats: Vec<i16>,
    ) -> Result<Written, Failure> {
        self.guard.statement(StatementKind::Write);
        let settings = self.settings().await?;
        settings.readable()?;
        self.writes_as_one(&settings)?;
        self.caught_up().await?;
        let plan = self.with_plan(statement, &settings).await?;
        if self.is_read_only(&settings) {
            let message = format!("cannot execute {} in a read-only transaction", plan.verb());
            return Err(Report::new(sqlstate::READ_ONLY_SQL_TRANSACTION, message).into());
        }
        if !settings.reads_back() && plan.hands_on() {
            let message = "writes in WITH whose parts read each other's rows cannot be buffered under these settings";
            return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
                .hint("SET DateStyle TO ISO; SET extra_float_digits TO 1.")
                .into());
        }
        for write in plan.writes_planned() {
            self.may_do(write, (&statement.text, given.types), &settings).await?;
        }
        let (judged_parts, written) = self.parts(&plan, given, &formats, &settings).await?;
        let told = self.transaction.work.statements.len();
        let mut last = None;
        let main = judged_parts.len().saturating_sub(1);
        let (mut rows, mut queued) = (Vec::new(), Vec::new());
        for (write, judged) in judged_parts {
            queued.push(judged.events);
            rows.push((write, judged.rows));
        }
        let as_run = plan.as_run().into_iter();
        let events = as_run.filter_map(|place| queued.get_mut(place).map(std::mem::take)).flatten().collect();
        for &place in plan.order() {
            let Some((write, rows)) = rows.get_mut(place) else { continue };
            let collected = self.collect(write, statement, std::mem::take(rows))?;
            if place == main {
                last = Some(collected);
            }
        }
        // Each part has noted it.
        self.transaction.work.statements.truncate(told + 1);
        self.after_statement(events).await?;
        let nothing = || (VecDeque::new(), String::new());
        Ok(written.or(last).unwrap_or_else(nothing))
    }

    /// Evaluates all parts over one state. In a transaction block that reads what is committed, what arrives between two of
    /// them, from main or from another session, makes them begin again.
    async fn parts(
        &mut self,
        plan: &WithPlan,
        given: &Given<'_>,
        formats: &[i16],
        settings: &Settings,
    ) -> Result<Evaluation, Failure> {
        if !self.reads_committed(settings) && self.transaction.phase == Phase::Open {
            return self.parts_once(plan, given, formats, settings).await;
        }
        let until = Instant::now() + PARTS_FOR;
        let mut tries = 0;
        while tries < TRIES_OF_PARTS || Instant::now() < until {
            tries += 1;
            self.pin();
            let judged = match self.is_alone() {
                true => self.parts_of_one_snapshot(plan, given, formats, settings).await,
                false => self.parts_of_one_state(plan, given, formats, settings).await,
            };
            self.pinned = None;
            if let Some(judged) = judged? {
                self.give_back_spare();
                return Ok(judged);
            }
            self.spare_parts();
        }
        let message = "the parts of the statement could not be evaluated over one state of the replica";
        let report = Report::new(sqlstate::SERIALIZATION_FAILURE, message);
        Err(report.hint("Too much was replicated meanwhile; run the transaction again.").into())
    }

    /// `None`: something came between two of them.
    async fn parts_of_one_state(
        &mut self,
        plan: &WithPlan,
        given: &Given<'_>,
        formats: &[i16],
        settings: &Settings,
    ) -> Result<Option<Evaluation>, Failure> {
        let before = self.moment().await?;
        let judged = self.parts_once(plan, given, formats, settings).await?;
        Ok((self.moment().await? == before).then_some(judged))
    }

    /// What the replica shows: how far it has replayed. And how often something was evaluated again: by then the locks of
    /// earlier parts may have gone, or the overlay is a newer one.
    async fn moment(&mut self) -> Result<(Vec<Vec<Option<Bytes>>>, u64), Failure> {
        let replayed = self.question("SELECT pg_catalog.pg_last_wal_replay_lsn()").await?;
        Ok((replayed, self.begun_again))
    }

    /// Whether nothing before the statement is part of its transaction, so that the replica's may be another one.
    fn is_alone(&self) -> bool {
        let first = self.transaction.work.is_empty() && self.binds <= 1;
        // What SET LOCAL has said, it would have forgotten: rights among it.
        self.transaction.phase == Phase::Idle && first && !self.settings_changed
    }

    /// All parts in one snapshot of the replica's, by a transaction of our own. `None`: they have to begin again, with the
    /// locks that they have taken.
    async fn parts_of_one_snapshot(
        &mut self,
        plan: &WithPlan,
        given: &Given<'_>,
        formats: &[i16],
        settings: &Settings,
    ) -> Result<Option<Evaluation>, Failure> {
        self.end_on_replica().await?;
        self.question("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        self.one_snapshot = OneSnapshot::Kept;
        let judged = self.parts_once(plan, given, formats, settings).await;
        let kept = std::mem::take(&mut self.one_snapshot);
        if let Err(Failure::End(end)) = judged {
            return Err(end.into());
        }
        if self.end_on_replica().await? != b'I' {
            self.question("ROLLBACK").await?;
        }
        match judged {
            Ok(judged) => Ok(Some(judged)),
            Err(_) if kept == OneSnapshot::TooOld => Ok(None),
            Err(Failure::Inner(error)) => self.prepare_again(&error).await.map(|()| None),
            Err(failure) => Err(failure),
        }
    }

    fn pin(&mut self) {
        let moment = self.shared.sides.moment();
        self.pinned = Some(Pinned { overlay: self.overlay(), moment });
    }

    /// Another session has changed what a part writes: the parts see the overlay as it is now, from the first on.
    ///
    /// # Errors
    /// The replica's snapshot is older than that overlay would be.
    pub(super) fn pin_anew(&mut self) -> Result<(), Failure> {
        if self.one_snapshot == OneSnapshot::Kept {
            self.one_snapshot = OneSnapshot::TooOld;
            return Err(Failure::Told);
        }
        if self.pinned.is_some() {
            self.pin();
            self.begun_again += 1;
        }
        Ok(())
    }

    async fn parts_once(
        &mut self,
        plan: &WithPlan,
        given: &Given<'_>,
        formats: &[i16],
        settings: &Settings,
    ) -> Result<Evaluation, Failure> {
        let mut values = Values {
            types: given.types.to_vec(),
            binary: given.binary.clone(),
            values: given.values.iter().map(|value| value.map(Bytes::copy_from_slice)).collect(),
        };
        let mut returned: HashMap<usize, Returned> = HashMap::new();
        let mut judged_parts = Vec::new();
        for place in 0..plan.main() {
            let part = plan.statement(place, &returned);
            if plan.is_once(place) {
                let (names, types) = self.returned_columns(&part, &values).await?;
                if names.is_empty() {
                    let message = "a query without columns in WITH that several parts read cannot be buffered";
                    return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint("Give it a column.").into());
                }
                let rows = self.query_rows(&part, &values, &vec![0; names.len()], settings).await?;
                let first = values.types.len() + 1;
                (0..names.len())
                    .for_each(|column| values.add(rows.iter().map(|row| row.get(column).cloned().flatten())));
                returned.insert(place, Returned { names, types, first });
            }
            if !plan.is_part(place) {
                continue;
            }
            let columns = match plan.returning(place) {
                true => self.returned_columns(&part, &values).await?,
                false => (Vec::new(), Vec::new()),
            };
            let formats = vec![0; columns.0.len()];
            let (write, judged) = self.judge(&part, &values.given(), &formats, By::Once, Rights::Asked).await?;
            if plan.returning(place) {
                let first = values.types.len() + 1;
                for column in 0..columns.0.len() {
                    values.add(judged.rows.iter().map(|row| row.returning.get(column).cloned().flatten()));
                }
                returned.insert(place, Returned { names: columns.0, types: columns.1, first });
            }
            judged_parts.push((write, judged));
        }
        let main = plan.statement(plan.main(), &returned);
        let written = match plan.writes() {
            true => {
                let judged = self.judge(&main, &values.given(), formats, By::Once, Rights::Asked).await?;
                judged_parts.push(judged);
                None
            }
            false => {
                let rows = self.query_rows(&main, &values, formats, settings).await?;
                Some(shown(&rows, formats.len()))
            }
        };
        Ok((judged_parts, written))
    }

    async fn with_plan(&mut self, statement: &Statement, settings: &Settings) -> Result<Arc<WithPlan>, Failure> {
        let plan = self.plan(statement, settings).await;
        match &*plan {
            Ok(Plan::With(plan)) => Ok(Arc::clone(plan)),
            Ok(_) => Err(Report::new(sqlstate::INTERNAL_ERROR, "not a statement with writes in WITH").into()),
            Err(report) => Err(report.clone().into()),
        }
    }

    /// Names and types of the columns that a part returns.
    async fn returned_columns(
        &mut self,
        part: &Statement,
        values: &Values,
    ) -> Result<(Vec<String>, Vec<String>), Failure> {
        let out = self.ask();
        build::close_statement(out, PART);
        build::parse(out, PART, part.text.as_bytes(), &values.types);
        build::describe_statement(out, PART);
        build::flush(out);
        let description = self.description().await.map_err(|failure| match failure {
            Failure::Server(message) => Failure::Inner(message),
            other => other,
        })?;
        let Some(message) = &description.columns else { return Ok((Vec::new(), Vec::new())) };
        let columns = columns(&message[HEADER..])?;
        let types = columns.iter().map(|c| format!("pg_catalog.format_type({}, {})", c.type_oid, c.modifier));
        let question = format!("SELECT {}", types.collect::<Vec<_>>().join(", "));
        let row = self.question(&question).await?.into_iter().next().unwrap_or_default();
        let text = |bytes: Option<Bytes>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        Ok((columns.into_iter().map(|column| column.name).collect(), row.into_iter().map(text).collect()))
    }

    /// The rows of a member, or of the main statement, that is a query: it sees nothing of what the parts do.
    async fn query_rows(
        &mut self,
        query: &Statement,
        values: &Values,
        formats: &[i16],
        settings: &Settings,
    ) -> Result<Vec<Vec<Option<Bytes>>>, Failure> {
        let given = values.given();
        let mut tries = 0;
        loop {
            let base = self.base(settings);
            let plan = self.plan(query, settings).await;
            let plan = match &*plan {
                Ok(Plan::Read(plan)) => plan,
                Ok(_) => return Err(Report::new(sqlstate::INTERNAL_ERROR, "not a read").into()),
                Err(report) => return Err(report.clone().into()),
            };
            if !plan.sequences().is_empty() {
                let message = "nextval() in a query with writes in WITH cannot be buffered";
                return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
                    .hint("Take the value before.")
                    .into());
            }
            let secured = self.secured(plan.secured()).await?;
            let text = (plan.query(), given.types);
            let unread = self.may_see(Some(text), plan.readers(), &base, settings).await?;
            let ids = Ids { secured, unread, ..Ids::default() };
            let view = View { base: &base, own: &self.transaction.work.own };
            let rendered = plan.render_with_ids(view, given.parameters(), &ids)?;
            let rendered = rendered.unwrap_or_else(|| Rendered::plain(&query.text));
            let rows = self.run_evaluation(&rendered, &given, formats, By::Once).await;
            if let Some(rows) = self.or_again(rows, &mut tries).await? {
                return Ok(rows);
            }
        }
    }
}
