//! Values of sequences on their way into a statement: by place, or by a counter that the statement itself moves on.

use std::sync::Arc;

use super::arrays::Element;
use super::template::Rendering;
use super::{AttNum, Report, TableId};
use crate::sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;

/// The setting that holds the value taken last, in a counted statement.
pub const LAST: &str = "pgoutpost.lastval";

/// What one execution may take, for each sequence of the plan and in that order.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    pub sequences: Vec<Stock>,
    /// How many leases had been given up when these values were taken.
    pub renewals: u64,
    /// What `lastval()` is before the statement.
    pub last: Option<i64>,
    /// What others have locked, where the statement skips that.
    pub busy: Busy,
    /// The tables whose row security applies to the session's role.
    pub secured: Vec<TableId>,
    /// The columns that the role may not read, of tables that the client names.
    pub unread: Arc<[(TableId, AttNum)]>,
}

/// Hashes of what other sessions have locked.
#[derive(Debug, Clone, Default)]
pub struct Busy {
    pub all: Vec<u64>,
    /// Only what is not shared.
    pub exclusive: Vec<u64>,
}

/// The values of one sequence.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// What `currval()` is before the statement.
    pub current: Option<i64>,
    /// To be taken in this order.
    pub values: Vec<i64>,
}

impl Ids {
    /// The settings that a counted statement needs: before it they must have these values, and after it they tell how
    /// many values were taken.
    pub(super) fn registers(&self) -> Vec<(String, String)> {
        let counters = (0..self.sequences.len()).map(|place| (counter(place), "1".to_owned()));
        let last = self.last.map_or_else(String::new, |last| last.to_string());
        counters.chain([(LAST.to_owned(), last)]).collect()
    }
}

/// The setting that counts a sequence's values: 1 more than were taken.
pub fn counter(place: usize) -> String {
    format!("pgoutpost.taken_{place}")
}

fn set(name: &str, value: &str) -> String {
    format!("pg_catalog.set_config('{name}', {value}, true)")
}

/// Moves the counter on, gives the value that it stands on, and notes it as the last. Past the end the last value is
/// given again: the statement is then run once more with enough of them, and must not fail before.
pub(super) fn next(sequence: usize, array: &str) -> String {
    let counter = counter(sequence);
    let moved = set(&counter, &format!("(pg_catalog.current_setting('{counter}')::pg_catalog.int4 + 1)::text"));
    let value = format!("({array})[least(pg_catalog.cardinality({array}), {moved}::pg_catalog.int4)]");
    format!("{}::pg_catalog.int8", set(LAST, &format!("{value}::text")))
}

/// The value that the counter stands on.
pub(super) fn current(sequence: usize, array: &str, call: &str) -> String {
    let counter = counter(sequence);
    // Not `current_setting` alone: it would be looked at once for all rows.
    let place = set(&counter, &format!("pg_catalog.current_setting('{counter}')"));
    format!("coalesce(({array})[least(pg_catalog.cardinality({array}), {place}::pg_catalog.int4)], {call})")
}

/// The value that was taken last.
pub(super) fn last(call: &str) -> String {
    let last = set(LAST, &format!("pg_catalog.current_setting('{LAST}')"));
    format!("coalesce(nullif({last}, '')::pg_catalog.int8, {call})")
}

impl Rendering<'_> {
    /// The value in this place.
    pub(super) fn id(&mut self, sequence: usize, place: usize) -> Result<String, Report> {
        if self.ids.sequences.get(sequence).is_none_or(|stock| stock.values.len() <= place) {
            return Err(too_few_ids());
        }
        Ok(format!("({})[{}]", self.id_array(sequence)?, place + 2))
    }

    /// The value taken last, and those to be taken, as `bigint[]`.
    pub(super) fn id_array(&mut self, sequence: usize) -> Result<String, Report> {
        if let Some(known) = self.id_parameters.get(&sequence) {
            return Ok(known.clone());
        }
        let stock = self.ids.sequences.get(sequence).ok_or_else(too_few_ids)?;
        let first = stock.current.map(|id| id.to_string());
        let texts: Vec<Option<String>> =
            std::iter::once(first).chain(stock.values.iter().map(|id| Some(id.to_string()))).collect();
        let array = self.array(Element::Int8, texts.iter().map(Option::as_deref))?;
        self.id_parameters.insert(sequence, array.clone());
        Ok(array)
    }
}

fn too_few_ids() -> Report {
    Report::new(OBJECT_NOT_IN_PREREQUISITE_STATE, "the statement needs more sequence values than it was given")
}
