//! Writes: evaluated by the replica, locked, and collected as effects.
//!
//! Evaluation sees an overlay taken before it. When its rows are locked, somebody may have changed them since that overlay
//! (a [`Taken::Stale`] lock): READ COMMITTED evaluates again, keeping the locks, so that it comes to an end;
//! REPEATABLE READ fails with 40001, unless only values have changed that are to be unique (`isolation`).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Session;
use super::failure::Failure;
use super::locks::Taken;
use super::read::{Given, as_clients, values};
use super::rows::{RowsTaken, noted};
use super::serve::TRIES;
use super::settings::{ReadLevel, Settings};
use super::statements::{Description, Parsed, Prepared};
use crate::overlay::View;
use crate::report::Report;
use crate::sql::{self, Class, Decoded, Ids, Judged, Plan, Rendered, Statement, WriteKind, WritePlan, row_locks};
use crate::sqlstate;
use crate::status::StatementKind;
use crate::wire::read::{Bind, expand, format_places};
use crate::wire::{HEADER, build};

/// What a write gives the client: RETURNING rows as messages, and the tag.
pub(super) type Written = (VecDeque<BytesMut>, String);

/// Whether a write needs the right to write: what a referential action does needs none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    Asked,
    Implied,
}

/// The rows of an evaluation, and what its registers held after it.
pub(super) type Evaluated = (Vec<Vec<Option<Bytes>>>, HashMap<String, String>);

/// A statement of ours for a single use: the unnamed one is the client's. Closed before it is made, since an error may have
/// kept it.
pub(super) const PART: &[u8] = b"pgoutpost_part";

/// How the evaluation is put to the replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A statement prepared once and used again.
    Name,
    /// One for a single use, for texts that never come again.
    Once,
}

impl Session {
    /// Execute of a write's portal.
    pub(super) async fn execute_write(
        &mut self,
        prepared: &Prepared,
        statement: &Statement,
        bind: &BytesMut,
    ) -> Result<Written, Failure> {
        let bind = Bind::read(&bind[HEADER..])?;
        let description = self.describe(prepared, bind.statement).await?;
        let given = Given::of(&bind, &description.types);
        self.write(statement, &given, returning(&description, &bind.results)?, By::Name).await
    }

    /// A write in the simple protocol. The client's own text is parsed first, so its errors are Postgres' own.
    /// `last`: of its query string, whose implicit transaction then ends before the tag.
    pub(super) async fn simple_write(&mut self, statement: &Statement, last: bool) -> Result<(), Failure> {
        let description = self.describe_text(&statement.text).await?;
        let given = Given { types: &description.types, ..Given::default() };
        if !given.types.is_empty() {
            return Err(no_parameter(&statement.text).into());
        }
        let written = self.write(statement, &given, returning(&description, &[])?, By::Once).await?;
        self.show(&description, written, last).await
    }

    /// Why a write has to go straight to main: `None` for what is evaluated here.
    pub(super) async fn not_bufferable(&mut self, statement: &Statement) -> Result<Option<Report>, Failure> {
        match self.not_evaluable(statement).await? {
            None => self.crossing(statement).await,
            why => Ok(why),
        }
    }

    /// Why a write cannot be evaluated here.
    async fn not_evaluable(&mut self, statement: &Statement) -> Result<Option<Report>, Failure> {
        let (locks, write) = (locks(statement), writes(statement));
        if !write && !locks && (statement.class != Class::Query || self.nothing_pending()) {
            return Ok(None);
        }
        let settings = self.settings().await?;
        if !write && !locks {
            let catalog = self.shared.catalog.current();
            let plan = self.shared.statements.plan(statement, &catalog, &settings.schemas, &self.shared.site);
            return match &*plan {
                Ok(plan) if settings.read() != ReadLevel::Replica => self.not_seen(statement, plan, &settings).await,
                Ok(_) | Err(_) => Ok(None),
            };
        }
        let (version, why) = self.unsupported(statement, &settings.schemas);
        if why.is_none() {
            let catalog = self.shared.catalog.current();
            let plan = self.shared.statements.plan(statement, &catalog, &settings.schemas, &self.shared.site);
            return match &*plan {
                Ok(plan) => self.not_seen(statement, plan, &settings).await,
                Err(_) => Ok(None),
            };
        }
        // The replica may know more of the tables than the catalog that was read from it.
        let rows = self.question("SELECT version FROM pgoutpost.catalog").await?;
        let now = rows.first().and_then(|row| row.first().cloned().flatten());
        if now.as_deref() == Some(version.to_string().as_bytes()) {
            if statement.class == Class::CopyIn {
                self.analyse_copy(statement).await?;
            }
            return Ok(why);
        }
        self.reload().await?;
        Ok(self.unsupported(statement, &settings.schemas).1)
    }

    /// Whether `not_bufferable` will ask the replica about the statement's text.
    pub(super) async fn is_to_be_analysed(&mut self, statement: &Statement) -> Result<bool, Failure> {
        let settings = self.settings().await?;
        let judged = locks(statement) || writes(statement);
        Ok(judged && self.unsupported(statement, &settings.schemas).1.is_some())
    }

    /// Why a write cannot be planned, by the catalog of this version.
    fn unsupported(&self, statement: &Statement, schemas: &Arc<[Arc<str>]>) -> (i64, Option<Report>) {
        if let Class::Truncate(truncate) = &statement.class {
            return self.untruncatable(truncate, schemas);
        }
        let catalog = self.shared.catalog.current();
        let plan = self.shared.statements.plan(statement, &catalog, schemas, &self.shared.site);
        let codes = [sqlstate::FEATURE_NOT_SUPPORTED, sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE];
        let why = plan.as_ref().as_ref().err().filter(|report| codes.contains(&report.code)).cloned();
        (catalog.version, why)
    }

    pub(super) async fn write(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
        formats: Vec<i16>,
        by: By,
    ) -> Result<Written, Failure> {
        self.guard.statement(StatementKind::Write);
        let settings = self.settings().await?;
        settings.readable()?;
        self.writes_as_one(&settings)?;
        self.caught_up().await?;
        let (plan, judged) = self.judge(statement, given, &formats, by, Rights::Asked).await?;
        let written = self.collect(&plan, statement, judged.rows)?;
        self.after_statement(judged.events).await?;
        Ok(written)
    }

    /// Evaluates the statement on the replica and takes its locks, until what was evaluated is still true once they are held.
    pub(super) async fn judge(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
        formats: &[i16],
        by: By,
        rights: Rights,
    ) -> Result<(Arc<WritePlan>, Judged), Failure> {
        let settings = self.settings().await?;
        let mark = self.locks.mark();
        let (mut tries, mut held): (usize, Option<(Arc<WritePlan>, Ids)>) = (0, None);
        loop {
            let evaluated_at = self.evaluated(&settings);
            let base = self.base(&settings);
            let plan = self.plan(statement, &settings).await;
            let plan = match &*plan {
                Ok(Plan::Write(plan)) => Arc::clone(plan),
                Ok(Plan::Read(_) | Plan::Copy(_) | Plan::With(_)) => {
                    return Err(Report::new(sqlstate::INTERNAL_ERROR, "not a write").into());
                }
                Err(report) => return Err(report.clone().into()),
            };
            if self.is_read_only(&settings) {
                let message = format!("cannot execute {} in a read-only transaction", plan.kind.verb());
                return Err(Report::new(sqlstate::READ_ONLY_SQL_TRANSACTION, message).into());
            }
            if rights == Rights::Asked {
                self.may_do(&plan, (&statement.text, given.types), &settings).await?;
            }
            self.refuse_secured(plan.secured()).await?;
            let text = (rights == Rights::Asked).then_some((&*statement.text, given.types));
            let unread = self.may_see(text, plan.readers(), &base, &settings).await?;
            let canonical = settings.canonical();
            let mut ids = match held.take() {
                Some((of, ids)) if Arc::ptr_eq(&of, &plan) => ids,
                other => {
                    if let Some((of, ids)) = other {
                        self.spare(of.sequences(), ids);
                    }
                    self.stock(plan.sequences(), &settings).await?
                }
            };
            self.may_lock(plan.locking(), &settings).await?;
            ids.busy = self.busy(plan.locking());
            ids.unread = unread;
            let evaluated = self.evaluate(&plan, (&base, canonical), given, formats, (by, &mut ids)).await;
            held = Some((Arc::clone(&plan), ids));
            let Some((mut rows, mut registers)) = self.or_again(evaluated, &mut tries).await? else { continue };
            // Before constraints are judged: what breaks one may be about to go, with another transaction.
            let read = row_locks(plan.locking(), &[], 0, noted(&registers));
            let again = self.lock_rows(plan.locking(), &read, base.last(), &settings).await? == RowsTaken::Again;
            let locking = if read.is_empty() { &[] } else { plan.locking() };
            if self.enter_to_lock(locking, evaluated_at, &settings).await? || again {
                continue;
            }
            if let Err(report) = plan.first_row(&rows) {
                let ids = held.take().map(|(_, ids)| ids).unwrap_or_default();
                self.remember(plan.sequences(), plan.counted(), ids, &registers);
                return Err(report.into());
            }
            let taken = self.lock(&plan.locks(&rows), base.last(), &settings, false).await?;
            let crossed = !rows.is_empty() && self.enter_for(&plan, evaluated_at, &settings).await?;
            if crossed || (taken == Taken::Stale && self.reads_committed(&settings)) {
                self.pin_anew()?;
                continue;
            }
            let view = View { base: &base, own: &self.transaction.work.own };
            let mut judged = plan.decode(view, &rows);
            let by_values = plan.looks_for_rows() || judged.as_ref().is_err_and(sql::of_values);
            if taken == Taken::Stale || (by_values && self.relies(&settings)) {
                let (of, mut ids) = held.take().unwrap_or_else(|| (Arc::clone(&plan), Ids::default()));
                let again = (given, formats, by, &mut ids);
                if plan.finds_by_now() {
                    let before = std::mem::take(&mut rows);
                    ((rows, registers), judged) = self.found_by_now(&plan, &before, &base, again).await?;
                    // What it had found before may be gone, and is not to count as its own.
                    self.locks.pass(mark, &plan.others(&before, &rows));
                } else {
                    let by_now = self.by_now(&plan, &rows, &base, again).await?;
                    judged = plan.decode_by_now(View { base: &base, own: &self.transaction.work.own }, &rows, by_now);
                }
                held = Some((of, ids));
            }
            let ids = held.take().map(|(_, ids)| ids).unwrap_or_default();
            self.remember(plan.sequences(), plan.counted(), ids, &registers);
            let judged = judged?;
            self.locks.wrote(mark, plan.written(&rows));
            self.locks.pass(mark, &plan.passing(&rows));
            return Ok((plan, judged));
        }
    }

    /// Asks whether the role may write the table.
    pub(super) async fn may_write(&mut self, plan: &WritePlan, settings: &Settings) -> Result<(), Failure> {
        let refusal = || {
            let message = format!("permission denied for table {}", plan.target.name.name);
            Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
        };
        self.permitted(&plan.permission(), settings, refusal).await
    }

    /// Runs the evaluation, again when it took more values of sequences than it was given.
    pub(super) async fn evaluate(
        &mut self,
        plan: &WritePlan,
        (base, canonical): (&crate::overlay::Overlay, bool),
        given: &Given<'_>,
        formats: &[i16],
        (by, ids): (By, &mut Ids),
    ) -> Result<Evaluated, Failure> {
        let wanted = plan.formats(formats);
        for _ in 0..TRIES {
            let view = View { base, own: &self.transaction.work.own };
            let rendered = plan.render(view, given.parameters(), ids, canonical)?;
            self.set_registers(&rendered.registers).await?;
            let rows = self.run_evaluation(&rendered, given, &wanted, by).await?;
            let registers = self.registers(&rendered.registers).await?;
            if self.had_enough(plan.sequences(), ids, &registers).await? {
                return Ok((rows, registers));
            }
        }
        Err(unsteady().into())
    }

    pub(super) async fn run_evaluation(
        &mut self,
        rendered: &Rendered,
        given: &Given<'_>,
        formats: &[i16],
        by: By,
    ) -> Result<Vec<Vec<Option<Bytes>>>, Failure> {
        let types = given.types_with(rendered);
        let arguments = given.with(rendered);
        match by {
            By::Name => {
                let name = self.place(rendered, &types).await?;
                let out = self.ask();
                build::bind(out, b"pgoutpost", name.as_bytes(), &arguments, formats);
                build::execute(out, b"pgoutpost", 0);
                build::close_portal(out, b"pgoutpost");
            }
            By::Once => {
                let out = self.ask();
                build::close_statement(out, PART);
                build::parse(out, PART, rendered.sql.as_bytes(), &types);
                build::bind(out, b"pgoutpost", PART, &arguments, formats);
                build::execute(out, b"pgoutpost", 0);
                build::close_portal(out, b"pgoutpost");
            }
        }
        build::flush(self.ask());
        let limit = self.shared.limits.evaluation;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut to_close = if by == By::Once { 2 } else { 1 };
        loop {
            match self.reply().await? {
                (b'D', message) => {
                    bytes += message.len();
                    // What is too much is still read to its end, so that the connection stays usable.
                    if bytes <= limit {
                        rows.push(values(message)?);
                    }
                }
                (b'3', _) if to_close > 1 => to_close -= 1,
                (b'3', _) if bytes > limit => {
                    let message = format!("the rows of a statement may not exceed {} MiB", limit >> 20);
                    let report = Report::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message);
                    return Err(report.hint("Read or write fewer rows at a time.").into());
                }
                (b'3', _) => return Ok(rows),
                _ => {}
            }
        }
    }

    pub(super) fn collect(
        &mut self,
        plan: &WritePlan,
        statement: &Statement,
        decoded: Vec<Decoded>,
    ) -> Result<Written, Failure> {
        let count = decoded.len();
        let tag = match plan.kind {
            WriteKind::Insert => format!("INSERT 0 {count}"),
            WriteKind::Update | WriteKind::Delete | WriteKind::Merge => format!("{} {count}", plan.kind.verb()),
        };
        let mut rows = VecDeque::new();
        if count > 0 {
            self.transaction.work.statements.push(statement.text.to_string());
        }
        if plan.returning {
            rows.extend(decoded.iter().map(|row| {
                let mut message = BytesMut::new();
                build::data_row(&mut message, row.returning.iter().map(Option::as_deref));
                message
            }));
        }
        for row in plan.in_order(decoded)? {
            self.transaction.work.add(&row.table, row.via.as_deref(), row.outcome)?;
        }
        Ok((rows, tag))
    }

    /// Asks Postgres whether a text is right, without running it.
    pub(super) async fn analyse(&mut self, sql: &[u8]) -> Result<(), Failure> {
        let out = self.ask();
        build::close_statement(out, PART);
        build::parse(out, PART, sql, &[]);
        build::flush(out);
        self.reply_of(b'1').await.map(drop).map_err(as_clients)
    }
}

fn locks(statement: &Statement) -> bool {
    statement.class == Class::Query && Parsed::locks_rows(&statement.text)
}

fn writes(statement: &Statement) -> bool {
    matches!(statement.class, Class::Write | Class::CopyIn | Class::With | Class::Truncate(_))
}

/// A counted statement that takes more values each time.
pub(super) fn unsteady() -> Report {
    let message = "the statement takes a different number of sequence values each time it is evaluated";
    Report::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .hint("Take the values in a statement of their own first.")
}

/// One format for each RETURNING column.
pub(super) fn returning(description: &Description, results: &[i16]) -> Result<Vec<i16>, Failure> {
    let columns = match &description.columns {
        Some(columns) => format_places(&columns[HEADER..])?.len(),
        None => 0,
    };
    Ok(expand(results, columns))
}

/// A query string has no values for parameters.
pub(super) fn no_parameter(text: &str) -> Report {
    let (name, position) = sql::first_parameter(text).map_or(("$1", None), |(name, place)| (name, Some(place)));
    let report = Report::new(sqlstate::SqlState(*b"42P02"), format!("there is no parameter {name}"));
    Report { position, ..report }
}
