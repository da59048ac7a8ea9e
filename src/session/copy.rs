//! COPY … FROM STDIN: rows are taken from the client as they come, and evaluated, locked and collected by the batch.
//!
//! Nothing but the effects grows with the stream. A batch is evaluated over the state before the statement: whether its
//! unique values are those of an earlier batch is told by the hashes that are locked, and only then are the rows
//! collected so far sent along.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::failure::{End, Failure};
use super::locks::Taken;
use super::read::Given;
use super::serve::TRIES;
use super::settings::Settings;
use super::write::{By, Evaluated};
use super::{Session, Wants};
use crate::catalog::Column;
use crate::entry::Value;
use crate::overlay::{Overlay, View};
use crate::report::Report;
use crate::sql::{self, Broken, CopyPlan, Decoded, Event, Ids, Plan, Reader, Row, Rule, Statement};
use crate::sqlstate;
use crate::status::StatementKind;
use crate::wire::read::copy_fail;
use crate::wire::{HEADER, build};

mod fault;

/// One COPY under way.
struct Copying<'a> {
    statement: &'a Statement,
    settings: Arc<Settings>,
    /// What the fields of a row are for.
    columns: Vec<Column>,
    /// The transaction's own effects before the statement.
    before: Overlay,
    /// The unique values of the batches so far, as locked.
    taken: HashSet<u64>,
    events: Vec<Event>,
    count: usize,
    reader: Reader,
}

/// A batch under way.
#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    bytes: usize,
}

/// What an evaluation gave that does not do, and whether the replica's transaction has failed with it.
enum Fault {
    Server(BytesMut),
    Own(Box<Report>),
}

impl Session {
    /// Runs the statement; returns its tag.
    pub(super) async fn copy_in(&mut self, statement: &Statement) -> Result<String, Failure> {
        self.guard.statement(StatementKind::Write);
        let settings = self.settings().await?;
        settings.readable()?;
        self.writes_as_one(&settings)?;
        self.caught_up().await?;
        let mut tries = 0;
        let (plan, mut copying) = loop {
            let plan = self.copy_plan(statement, &settings).await?;
            let made_with = self.planned_with;
            match self.copy_begin(statement, &plan, &settings).await {
                // The client has not been asked for rows of the columns that there were before.
                Err(_) if self.planned_with != made_with && tries < TRIES => tries += 1,
                begun => break (plan, begun?),
            }
        };
        self.held = false;
        build::copy_in(&mut self.client.output, plan.is_binary(), plan.columns.len());
        let (rows_max, bytes_max) = (plan.rows_max(), sql::COPY_BATCH_BYTES);
        drop(plan);
        let mut batch = Batch::default();
        let mut more = true;
        while more {
            more = self.copy_more(&mut copying).await?;
            loop {
                match copying.reader.next_row() {
                    Ok(Some(row)) => {
                        batch.bytes += row.size();
                        batch.rows.push(row);
                        if batch.rows.len() >= rows_max || batch.bytes >= bytes_max {
                            let full = std::mem::take(&mut batch);
                            self.copy_batch(&mut copying, &full.rows).await?;
                        }
                    }
                    Ok(None) => break,
                    Err(broken) => return Err(self.copy_broken(&copying, &batch.rows, *broken).await),
                }
            }
        }
        self.copy_batch(&mut copying, &batch.rows).await?;
        if copying.count > 0 {
            self.transaction.work.statements.push(statement.text.to_string());
        }
        let tag = format!("COPY {}", copying.count);
        self.after_statement(copying.events).await?;
        Ok(tag)
    }

    /// Says what is wrong with the statement, before the client sends any rows.
    async fn copy_begin<'s>(
        &mut self,
        statement: &'s Statement,
        plan: &CopyPlan,
        settings: &Arc<Settings>,
    ) -> Result<Copying<'s>, Failure> {
        if let Some(report) = plan.refused(&statement.text) {
            return Err(report.into());
        }
        self.analyse_copy(statement).await?;
        if self.is_read_only(settings) {
            let message = "cannot execute COPY FROM in a read-only transaction";
            return Err(Report::new(sqlstate::READ_ONLY_SQL_TRANSACTION, message).into());
        }
        self.may_write(&plan.insert, settings).await?;
        self.refuse_secured(plan.insert.secured()).await?;
        let options = plan.options.clone()?;
        if options.freeze && !self.transaction.has_truncated(plan.target.id) {
            let message = "cannot perform COPY FREEZE because the table was not created or truncated in the current \
                           subtransaction";
            return Err(Report::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into());
        }
        let mut copying = Copying {
            statement,
            settings: Arc::clone(settings),
            columns: plan.columns.clone(),
            before: self.transaction.work.own.clone(),
            taken: HashSet::new(),
            events: Vec::new(),
            count: 0,
            reader: Reader::new(plan, &options),
        };
        self.copy_batch(&mut copying, &[]).await?;
        Ok(copying)
    }

    async fn copy_plan(&mut self, statement: &Statement, settings: &Settings) -> Result<Arc<CopyPlan>, Failure> {
        let plan = self.plan(statement, settings).await;
        match &*plan {
            Ok(Plan::Copy(plan)) => Ok(Arc::clone(plan)),
            Ok(_) => Err(Report::new(sqlstate::INTERNAL_ERROR, "not a COPY").into()),
            Err(report) => Err(report.clone().into()),
        }
    }

    /// Asks Postgres what it has against the table and the columns.
    pub(super) async fn analyse_copy(&mut self, statement: &Statement) -> Result<(), Failure> {
        let Some(text) = sql::judged_by(&statement.text) else { return Ok(()) };
        self.analyse(text.as_bytes()).await.map_err(|failure| match failure {
            Failure::Server(message) => Failure::Inner(message),
            other => other,
        })
    }

    /// Takes the client's next data; false: it has ended.
    async fn copy_more(&mut self, copying: &mut Copying<'_>) -> Result<bool, Failure> {
        loop {
            let Some((kind, message)) = self.take()? else {
                self.pump(Wants::Both).await?;
                continue;
            };
            match kind {
                b'd' => {
                    copying.reader.push(&message[HEADER..]);
                    return Ok(true);
                }
                b'c' => {
                    copying.reader.end();
                    return Ok(false);
                }
                b'f' => {
                    let why = String::from_utf8_lossy(copy_fail(&message[HEADER..])?).into_owned();
                    let report = Report::new(sqlstate::QUERY_CANCELED, format!("COPY from stdin failed: {why}"));
                    return Err(report.context(copying.reader.here()).into());
                }
                // Ignored within COPY, as in Postgres.
                b'H' | b'S' => {}
                b'X' => return Err(End::Client.into()),
                _ if kind >= 0x80 => return Err(Failure::Own(Box::new(too_long(self.shared.limits.message)))),
                _ => {
                    let message = format!("unexpected message type 0x{kind:02X} during COPY from stdin");
                    let report = Report::new(sqlstate::PROTOCOL_VIOLATION, message);
                    return Err(report.context(copying.reader.here()).into());
                }
            }
        }
    }

    async fn copy_batch(&mut self, copying: &mut Copying<'_>, rows: &[Row]) -> Result<(), Failure> {
        let settings = Arc::clone(&copying.settings);
        // Written as one row, there is no statement without rows.
        if rows.is_empty() && self.copy_plan(copying.statement, &settings).await?.rows_max() == 1 {
            return Ok(());
        }
        let mut held: Option<(Arc<CopyPlan>, Ids)> = None;
        let (mut tries, mut whole) = (0, false);
        loop {
            let evaluated_at = self.evaluated(&settings);
            let base = self.base(&settings);
            let plan = self.copy_plan(copying.statement, &settings).await?;
            let same = |(one, other): (&Column, &Column)| one.attnum == other.attnum && one.type_oid == other.type_oid;
            if plan.columns.len() != copying.columns.len() || !plan.columns.iter().zip(&copying.columns).all(same) {
                // The table has other columns than when the client was asked for its rows.
                return Err(super::read::changed().into());
            }
            let ids = match held.take() {
                Some((of, ids)) if Arc::ptr_eq(&of, &plan) => ids,
                other => {
                    if let Some((of, ids)) = other {
                        self.spare(of.insert.sequences(), ids);
                    }
                    self.stock_for(&plan, rows.len(), &settings).await?
                }
            };
            let own = if whole { &self.transaction.work.own } else { &copying.before }.clone();
            let evaluated = self.evaluate_copy(&plan, View { base: &base, own: &own }, rows, &ids, &settings);
            let evaluated = evaluated.await;
            let ids = &held.insert((Arc::clone(&plan), ids)).1;
            let (evaluated, registers) = match evaluated {
                Err(Failure::Inner(error)) => match self.prepare_again(&error).await {
                    Ok(()) if tries < TRIES => {
                        tries += 1;
                        continue;
                    }
                    Ok(()) => return Err(super::read::changed().into()),
                    Err(Failure::Inner(error)) => {
                        return Err(self.at_fault(copying, rows, ids, Fault::Server(error)).await);
                    }
                    Err(failure) => return Err(failure),
                },
                evaluated => evaluated?,
            };
            let locks = plan.insert.locks(&evaluated);
            let taken = self.lock(&locks, base.last(), &settings, true).await?;
            let crossed = !evaluated.is_empty() && self.enter_for(&plan.insert, evaluated_at, &settings).await?;
            if crossed || (taken == Taken::Stale && self.reads_committed(&settings)) {
                continue;
            }
            let exclusive = || locks.iter().filter(|lock| !lock.shared).map(|lock| lock.hash);
            if !whole && exclusive().any(|hash| copying.taken.contains(&hash)) {
                whole = true;
                continue;
            }
            let view = View { base: &base, own: &self.transaction.work.own };
            let rules = if plan.row_by_row { Ok(()) } else { plan.insert.row_rules(&evaluated) };
            let mut judged = rules.and_then(|()| plan.insert.decode(view, &evaluated));
            if taken == Taken::Stale || (judged.as_ref().is_err_and(sql::of_values) && self.relies(&settings)) {
                let now = self.disturbed(&plan.insert, &evaluated, &base).await?;
                let stale = self.locks.stale().to_vec();
                let own = self.transaction.work.own.clone();
                let view = View { base: &now, own: &own };
                let (current, _) = self.evaluate_copy(&plan, view, rows, ids, &settings).await?;
                let by_now = plan.insert.undisturbed(&evaluated, &stale, view, (&plan.insert, &current));
                let then = View { base: &base, own: &own };
                judged = by_now.and_then(|by_now| plan.insert.decode_by_now(then, &evaluated, by_now));
            }
            let judged = match judged {
                Ok(judged) => judged,
                Err(report) if report.code == sqlstate::SERIALIZATION_FAILURE => return Err(report.into()),
                Err(report) => return Err(self.at_fault(copying, rows, ids, Fault::Own(Box::new(report))).await),
            };
            copying.taken.extend(exclusive());
            if let Some((_, ids)) = held.take() {
                self.remember(plan.insert.sequences(), plan.insert.counted(), ids, &registers);
            }
            copying.count += judged.rows.len();
            let constraints = &self.transaction.work.constraints;
            let is_due =
                |event: &Event| matches!(event.rule, Rule::Exclusion { .. }) && event.rule.deferrable().is_none();
            let (due, later): (Vec<Event>, Vec<Event>) = judged.events.into_iter().partition(is_due);
            let matters = |event: &Event| !event.acquitted || constraints.defers(event);
            copying.events.extend(later.into_iter().filter(matters));
            let keys = if due.is_empty() { Vec::new() } else { judged.rows.iter().map(Decoded::new_key).collect() };
            for row in judged.rows {
                self.transaction.work.add(&row.table, row.via.as_deref(), row.outcome)?;
            }
            return self.stand_beside(copying, &plan, due, (rows, keys)).await;
        }
    }

    /// Judges whether the rows of a batch may stand beside each other, which are collected by now. `keys`: theirs.
    async fn stand_beside(
        &mut self,
        copying: &Copying<'_>,
        plan: &CopyPlan,
        mut due: Vec<Event>,
        (rows, keys): (&[Row], Vec<Vec<Value>>),
    ) -> Result<(), Failure> {
        let mut first: Option<(usize, Report)> = None;
        while let Some(rule) = due.first().map(|event| event.rule.clone()) {
            let of_rule: Vec<Event> = due.extract_if(.., |event| event.rule == rule).collect();
            if let Some((place, report)) = self.first_broken(&of_rule).await? {
                let row = keys.iter().position(|key| *key == of_rule[place].values).unwrap_or(usize::MAX);
                if first.as_ref().is_none_or(|(known, _)| row < *known) {
                    first = Some((row, report));
                }
            }
        }
        let Some((place, report)) = first else { return Ok(()) };
        // With WHERE, not every line is a row.
        let row = rows.get(place).filter(|_| rows.len() == keys.len());
        Err(match row {
            Some(row) if plan.row_by_row => report.context(copying.reader.context_of(row, None)),
            Some(row) => report.context(copying.reader.context(row.line)),
            None => report,
        }
        .into())
    }

    /// A value of each sequence for each row, so that the rows are evaluated once.
    async fn stock_for(&mut self, plan: &CopyPlan, rows: usize, settings: &Settings) -> Result<Ids, Failure> {
        let uses = plan.insert.sequences();
        let mut ids = self.stock(uses, settings).await?;
        for (sequence, stock) in uses.iter().zip(&mut ids.sequences) {
            let missing = rows.saturating_sub(stock.values.len());
            stock.values.extend(self.take_ids(&sequence.name, missing).await?);
        }
        Ok(ids)
    }

    async fn evaluate_copy(
        &mut self,
        plan: &CopyPlan,
        view: View<'_>,
        rows: &[Row],
        ids: &Ids,
        settings: &Settings,
    ) -> Result<Evaluated, Failure> {
        let (types, values) = plan.arguments(rows);
        let given = given(&types, &values);
        let rendered = plan.insert.render(view, given.parameters(), ids, settings.canonical())?;
        self.set_registers(&rendered.registers).await?;
        let rows = self.run_evaluation(&rendered, &given, &plan.insert.formats(&[]), By::Name).await?;
        Ok((rows, self.registers(&rendered.registers).await?))
    }

    /// A row that cannot be read: what is wrong with those before it comes first.
    async fn copy_broken(&mut self, copying: &Copying<'_>, rows: &[Row], broken: Broken) -> Failure {
        let mut before = rows.to_vec();
        before.extend(broken.row);
        match self.fault_of(copying, &before, None).await {
            Ok(Some(report)) => report.into(),
            Ok(None) => broken.report.into(),
            Err(failure) => failure,
        }
    }

    /// Says where in the batch the fault is, in Postgres' order.
    async fn at_fault(&mut self, copying: &Copying<'_>, rows: &[Row], ids: &Ids, fault: Fault) -> Failure {
        let found = self.fault_of(copying, rows, Some(ids)).await;
        match (fault, found) {
            (_, Err(failure)) => failure,
            (Fault::Own(own), Ok(report)) => Failure::Own(report.map_or(own, Box::new)),
            (Fault::Server(message), Ok(None)) => Failure::Inner(message),
            // The replica has failed already, so this must not look like an error of ours.
            (Fault::Server(_), Ok(Some(report))) => {
                let mut message = BytesMut::new();
                crate::wire::error::report(&mut message, crate::wire::error::Severity::Error, &report);
                Failure::Server(message)
            }
        }
    }
}

fn given<'a>(types: &'a [u32], values: &'a [Option<Bytes>]) -> Given<'a> {
    let binary = vec![true; values.len()];
    Given { types, binary, values: values.iter().map(Option::as_deref).collect() }
}

fn too_long(limit: usize) -> Report {
    let message = format!("a piece of COPY data may not be longer than {} MiB", limit >> 20);
    Report::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
}
