//! Which row of a COPY is wrong: asked on a connection of its own, since the session's transaction may have failed.
//!
//! Postgres reads and checks row by row, and looks at unique indexes when a batch is full; the first of these errors is
//! the one to report, with the line and column.

use std::io;

use bytes::Bytes;

use super::super::carry::carry_over;
use super::super::failure::Failure;
use super::super::{Session, Waited};
use super::{Copying, given};
use crate::overlay::View;
use crate::report::Report;
use crate::sql::{CopyPlan, Ids, Row, Stock};
use crate::sqlstate;
use crate::upstream::raw::{self, Raw};
use crate::wire::build::Argument;
use crate::wire::{HEADER, MESSAGE_MAX, build, error};

type Evaluated = Vec<Vec<Option<Bytes>>>;

/// The rows of an answer, or the server's error.
type Answer = Result<Evaluated, Report>;

/// The connection for questions.
struct Aside {
    raw: Raw,
}

impl Aside {
    async fn ask(
        &mut self,
        sql: &str,
        types: &[u32],
        arguments: &[Argument<'_>],
        formats: &[i16],
    ) -> io::Result<Answer> {
        let out = &mut self.raw.link.output;
        build::parse(out, b"", sql.as_bytes(), types);
        build::bind(out, b"", b"", arguments, formats);
        build::execute(out, b"", 0);
        build::sync(out);
        self.answer().await
    }

    /// The settings by which a counted statement takes values of sequences.
    async fn set(&mut self, registers: &[(String, String)]) -> io::Result<()> {
        for (name, value) in registers {
            build::query(
                &mut self.raw.link.output,
                format!("SELECT pg_catalog.set_config('{name}', '{value}', false)").as_bytes(),
            );
            self.answer().await?.ok();
        }
        Ok(())
    }

    async fn answer(&mut self) -> io::Result<Answer> {
        let (mut rows, mut failed) = (Vec::new(), None);
        loop {
            let (kind, message) = self.raw.link.next(MESSAGE_MAX).await?;
            match kind {
                b'D' => rows.push(super::super::read::values(message).map_err(io::Error::other)?),
                b'E' => failed = Some(error::to_report(&message[HEADER..])),
                b'Z' => return Ok(failed.map_or(Ok(rows), Err)),
                _ => {}
            }
        }
    }
}

/// What is asked of the first rows of a batch.
struct Question<'a> {
    plan: &'a CopyPlan,
    view: View<'a>,
    rows: &'a [Row],
    ids: &'a Ids,
    canonical: bool,
}

impl Question<'_> {
    /// The first `count` rows, evaluated. An error is the server's or ours.
    async fn evaluated(&self, aside: &mut Aside, count: usize) -> io::Result<Result<Evaluated, (Report, bool)>> {
        let (types, values) = self.plan.arguments(&self.rows[..count]);
        let given = given(&types, &values);
        let insert = &self.plan.insert;
        let rendered = match insert.render(self.view, given.parameters(), self.ids, self.canonical) {
            Ok(rendered) => rendered,
            Err(report) => return Ok(Err((report, false))),
        };
        aside.set(&rendered.registers).await?;
        let (types, arguments) = (given.types_with(&rendered), given.with(&rendered));
        let answer = aside.ask(&rendered.sql, &types, &arguments, &insert.formats(&[])).await?;
        Ok(answer.map_err(|report| (report, true)))
    }

    /// The first row that cannot stand with others, in Postgres' order; the rows by themselves are right.
    async fn refused(&self, aside: &mut Aside) -> io::Result<Option<(usize, Report)>> {
        match self.evaluated(aside, self.rows.len()).await? {
            Ok(evaluated) if evaluated.len() == self.rows.len() => {
                let refused = self.plan.insert.first_refused(self.view, &evaluated);
                refused.map_err(|report| io::Error::other(report.message))
            }
            // With WHERE, not every line is a row.
            _ => Ok(self.first(aside, true).await?.map(|(place, report, _)| (place, report))),
        }
    }

    /// What is wrong with the first `count` rows, unique values aside or not.
    async fn wrong(&self, aside: &mut Aside, count: usize, unique: bool) -> io::Result<Option<(Report, bool)>> {
        let insert = &self.plan.insert;
        Ok(match self.evaluated(aside, count).await? {
            Err(wrong) => Some(wrong),
            Ok(evaluated) => {
                let rules = insert.row_rules(&evaluated);
                let judged = rules.and_then(|()| match unique {
                    true => insert.decode(self.view, &evaluated).map(drop),
                    false => Ok(()),
                });
                judged.err().map(|report| (report, false))
            }
        })
    }

    /// The first row with which something is wrong.
    async fn first(&self, aside: &mut Aside, unique: bool) -> io::Result<Option<(usize, Report, bool)>> {
        let Some((report, server)) = self.wrong(aside, self.rows.len(), unique).await? else { return Ok(None) };
        let (mut right, mut wrong) = (0, (self.rows.len(), report, server));
        while wrong.0 - right > 1 {
            let middle = right + (wrong.0 - right) / 2;
            match self.wrong(aside, middle, unique).await? {
                Some((report, server)) => wrong = (middle, report, server),
                None => right = middle,
            }
        }
        Ok(Some((wrong.0 - 1, wrong.1, wrong.2)))
    }

    /// The first column of a row whose text is not a value of its type.
    async fn column(&self, aside: &mut Aside, row: &Row) -> io::Result<Option<(usize, Report)>> {
        for (place, field) in row.fields.iter().enumerate() {
            let Some((sql, oid)) = self.plan.alone(place) else { continue };
            let argument = Argument { binary: true, value: field.as_deref() };
            if let Err(mut report) = aside.ask(&sql, &[oid], &[argument], &[]).await? {
                // Of a value in binary it speaks as of a parameter, which is ours.
                if let Some(start) = report.message.find(" in bind parameter ") {
                    report.message.truncate(start);
                    report.context = None;
                }
                return Ok(Some((place, report)));
            }
        }
        Ok(None)
    }
}

impl Session {
    /// The report that Postgres would make of these rows. The last may lack fields. `ids`: those that they were evaluated
    /// with; `None`: new ones will do.
    pub(super) async fn fault_of(
        &mut self,
        copying: &Copying<'_>,
        rows: &[Row],
        ids: Option<&Ids>,
    ) -> Result<Option<Report>, Failure> {
        if rows.is_empty() {
            return Ok(None);
        }
        let settings = &copying.settings;
        let plan = self.copy_plan(copying.statement, settings).await?;
        let base = if self.relies(settings) { self.overlay() } else { self.base(settings) };
        let own = self.transaction.work.own.clone();
        let values = || Stock { current: None, values: (1..=rows.len() as i64).collect() };
        let stand_in = Ids { sequences: plan.insert.sequences().iter().map(|_| values()).collect(), ..Ids::default() };
        let shared = std::sync::Arc::clone(&self.shared);
        let prepare = carry_over(settings, &self.who.user);
        let parameters = self.who.parameters.clone();
        let limit = shared.limits.connect_replica;
        let looking = async {
            let mut raw = raw::connect(&shared.replica, &parameters, limit).await.map_err(io::Error::other)?;
            build::query(&mut raw.link.output, prepare.as_bytes());
            let mut aside = Aside { raw };
            if let Err(report) = aside.answer().await? {
                return Ok(Some(report));
            }
            let partial = rows.last().is_some_and(|row| row.fields.len() < plan.columns.len());
            let question = Question {
                plan: &plan,
                view: View { base: &base, own: &own },
                rows: &rows[..rows.len() - usize::from(partial)],
                ids: ids.unwrap_or(&stand_in),
                canonical: settings.canonical(),
            };
            let reader = &copying.reader;
            if !question.rows.is_empty()
                && let Some((place, report, server)) = question.first(&mut aside, plan.row_by_row).await?
            {
                let row = &rows[place];
                if server && let Some((field, report)) = question.column(&mut aside, row).await? {
                    return Ok(Some(report.context(reader.context_of(row, Some(field)))));
                }
                return Ok(Some(report.context(reader.context_of(row, None))));
            }
            if let Some(row) = rows.last().filter(|_| partial) {
                let found = question.column(&mut aside, row).await?;
                return Ok(found.map(|(field, report)| report.context(reader.context_of(row, Some(field)))));
            }
            if ids.is_some()
                && let Some((place, report)) = question.refused(&mut aside).await?
            {
                // A row without a partition is found before it is put into a batch.
                let context = match report.code == sqlstate::CHECK_VIOLATION {
                    true => reader.context_of(&rows[place], None),
                    false => reader.context(rows[place].line),
                };
                return Ok(Some(report.context(context)));
            }
            Ok(None)
        };
        match self.wait(looking).await? {
            Waited::Done(Ok(report)) => Ok(report),
            // Without the line; the error itself is known.
            Waited::Done(Err::<_, io::Error>(_)) => Ok(None),
            Waited::Cancelled => {
                let message = "canceling statement due to user request";
                Err(Report::new(sqlstate::QUERY_CANCELED, message).into())
            }
        }
    }
}
