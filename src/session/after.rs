//! What happens at the end of a statement, when its effects are there: foreign keys are judged, and act.
//!
//! Postgres queues an event for each row and constraint and fires them in order when the statement has done its work
//! (<https://www.postgresql.org/docs/15/trigger-definition.html>); what a referential action does queues more of them.
//! Here the events of one constraint that follow each other are judged, or acted upon, together.

use std::collections::VecDeque;

use super::Session;
use super::failure::Failure;
use super::read::Given;
use super::write::{By, Rights};
use crate::overlay::View;
use crate::report::Report;
use crate::sql::{self, Event, ReferentialAction, Rule};
use crate::sqlstate;

/// `text[]`
pub(super) const TEXT_ARRAY: u32 = 1009;

/// With more events than this, those of one constraint are taken together even where others stand between them: in
/// order, thousands of rows would be as many statements.
const IN_ORDER_MAX: usize = 100;

impl Session {
    /// To be called once for each statement of the client, when the effects of all its parts are collected.
    pub(super) async fn after_statement(&mut self, events: Vec<Event>) -> Result<(), Failure> {
        let due = self.put_off(events);
        self.fire(due).await
    }

    /// Keeps what is judged at the end of the transaction; returns the rest.
    fn put_off(&mut self, events: Vec<Event>) -> VecDeque<Event> {
        let work = &mut self.transaction.work;
        let (deferred, due): (Vec<Event>, Vec<Event>) =
            events.into_iter().partition(|event| work.constraints.defers(event));
        work.deferred.put_off(deferred);
        due.into_iter().filter(|event| !event.acquitted).collect()
    }

    /// Judges and acts upon events, and upon those that come of it.
    pub(super) async fn fire(&mut self, mut queue: VecDeque<Event>) -> Result<(), Failure> {
        while let Some(mut run) = next_run(&mut queue) {
            match run[0].rule.action() {
                None => {
                    let due = run.len();
                    if matches!(run[0].rule, Rule::Exclusion { .. }) {
                        // Of two rows the later one is refused, in its turn, which may come after other constraints'.
                        let later = queue.iter().filter(|event| event.rule == run[0].rule).cloned();
                        run.extend(later.collect::<Vec<_>>());
                    }
                    self.judge_events(&run, due).await?;
                }
                Some(action) => {
                    let events = self.act(&run).await?;
                    queue.extend(self.put_off(events));
                    if action == ReferentialAction::SetDefault {
                        // The default may be the value that has just gone, which no check of the row would notice.
                        self.judge_events(&run, run.len()).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Judges events of one constraint over the state as it is now. Those behind the first `due` are known, and judged later.
    async fn judge_events(&mut self, events: &[Event], due: usize) -> Result<(), Failure> {
        match self.first_broken(events).await? {
            Some((place, report)) if place < due => Err(report.into()),
            Some(_) | None => Ok(()),
        }
    }

    /// Which of these events of one constraint breaks it, as it is now, and the error for it.
    pub(super) async fn first_broken(&mut self, events: &[Event]) -> Result<Option<(usize, Report)>, Failure> {
        // The role may be another than the statement's, at the end of a transaction.
        let catalog = self.shared.catalog.current();
        let secured = |id: &crate::catalog::TableId| catalog.relations.get(id).is_some_and(|table| table.row_security);
        let rules = events.first().map(|event| event.rule.tables()).unwrap_or_default();
        let tables: Vec<_> = rules.into_iter().filter(secured).collect();
        self.refuse_secured(&tables).await?;
        let mut tries = 0;
        loop {
            let settings = self.settings().await?;
            let mut base = self.base(&settings);
            let catalog = self.shared.catalog.current();
            // As Postgres does at REPEATABLE READ: who refers to a row, or has a unique value, counts from its commit.
            if self.transaction.reliance
                && !self.reads_committed(&settings)
                && !matches!(events[0].rule, Rule::Parent(_))
            {
                let now = self.overlay();
                self.covered(&base, &now).await?;
                base = now;
            }
            let view = View { base: &base, own: &self.transaction.work.own };
            let question = sql::judge_events(events, &catalog, view, &self.shared.site)?;
            let rows = self.run_evaluation(&question, &Given::default(), &[], By::Name).await;
            let Some(rows) = self.or_again(rows, &mut tries).await? else { continue };
            let Some(row) = rows.first() else { return Ok(None) };
            let text = |place: usize| row.get(place).and_then(Option::as_ref).map(|text| String::from_utf8_lossy(text));
            let place: usize = text(0).and_then(|number| number.parse().ok()).unwrap_or(1);
            let place = place.saturating_sub(1).min(events.len() - 1);
            return Ok(Some((place, sql::violation(&events[place], &text(1).unwrap_or_default(), &catalog))));
        }
    }

    /// Carries out a referential action for events of one constraint; returns the events that come of it.
    async fn act(&mut self, events: &[Event]) -> Result<Vec<Event>, Failure> {
        let text = events[0].rule.statement(&self.shared.catalog.current())?;
        let script = sql::parse(&text).map_err(|error| Report::new(sqlstate::INTERNAL_ERROR, error.reason))?;
        let Some(statement) = script.statements.first() else { return Ok(Vec::new()) };
        let arguments = sql::arguments(events);
        let types = vec![TEXT_ARRAY; arguments.len()];
        let given = Given {
            types: &types,
            binary: vec![false; arguments.len()],
            values: arguments.iter().map(|array| Some(array.as_bytes())).collect(),
        };
        let (_, judged) = self.judge(statement, &given, &[], By::Name, Rights::Implied).await?;
        for row in judged.rows {
            self.transaction.work.add_action(&row.table, row.via.as_deref(), row.outcome)?;
        }
        Ok(judged.events)
    }
}

/// Takes the events of the first one's constraint off the queue, as far as they stand together.
fn next_run(queue: &mut VecDeque<Event>) -> Option<Vec<Event>> {
    let rule = queue.front()?.rule.clone();
    if queue.len() > IN_ORDER_MAX {
        let (run, rest) = std::mem::take(queue).into_iter().partition(|event| event.rule == rule);
        *queue = rest;
        return Some(Vec::from_iter::<VecDeque<Event>>(run));
    }
    let length = queue.iter().take_while(|event| event.rule == rule).count();
    Some(queue.drain(..length).collect())
}
