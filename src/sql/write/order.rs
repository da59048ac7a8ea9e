//! In which order main gets the rows of one statement, when they can refer to each other: it judges foreign keys at the
//! end of each statement of replay, and one of those has rows of one kind only.

use std::collections::HashSet;

use super::super::Report;
use super::decode::{Decoded, Outcome};
use super::unique::index_touched;
use super::{Value, WritePlan};
use crate::catalog::AttNum;
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

const DELETES: usize = 0;
const UPDATES: usize = 1;
const INSERTS: usize = 2;

impl WritePlan {
    /// The rows as they are to be sent to main: kind by kind, where the table refers to itself and there are several.
    ///
    /// # Errors
    /// 0A000 when neither order of the kinds would do: rows that are updated give up unique values as well as references.
    pub fn in_order(&self, mut rows: Vec<Decoded>) -> Result<Vec<Decoded>, Report> {
        let own = |key: &&crate::catalog::ForeignKey| self.target.references.iter().any(|of| of.name == key.name);
        let keys: Vec<_> = self.target.referenced_by.iter().filter(own).collect();
        let kinds: HashSet<usize> = rows.iter().map(kind).collect();
        if keys.is_empty() || kinds.len() < 2 {
            return Ok(rows);
        }
        let updates = kinds.contains(&UPDATES);
        let set = |columns: &[AttNum]| updates && self.updates(columns);
        let refers = keys.iter().any(|key| set(&key.columns) || set(&key.referenced_columns));
        let set: Vec<AttNum> = self.sets.concat();
        let takes = updates && self.target.unique.iter().any(|index| index_touched(index, &set));
        let places: Vec<usize> = self.target.key.iter().filter_map(|key| self.target.position(*key)).collect();
        if deleted_and_inserted(&rows, &places) || (refers && (takes || kinds.contains(&DELETES))) {
            let message = format!(
                "these changes of \"{}\", which refers to itself, cannot be buffered together",
                self.target.name.name
            );
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message)
                .hint("Use a statement for each kind of change, in a transaction."));
        }
        // Values are given up before they are taken; but what an update refers to must be there.
        let last = |row: &Decoded| if refers { INSERTS - kind(row) } else { kind(row) };
        rows.sort_by_key(last);
        Ok(rows)
    }
}

fn kind(row: &Decoded) -> usize {
    match row.outcome {
        Outcome::Delete { .. } => DELETES,
        Outcome::Update { .. } | Outcome::Move { .. } => UPDATES,
        Outcome::Insert { .. } => INSERTS,
    }
}

/// Whether a row goes away and another one comes with its key, which others may refer to all along.
fn deleted_and_inserted(rows: &[Decoded], places: &[usize]) -> bool {
    let deleted = rows.iter().filter_map(|row| match &row.outcome {
        Outcome::Delete { key, .. } => Some(key.clone()),
        _ => None,
    });
    let deleted: HashSet<Vec<Value>> = deleted.collect();
    rows.iter().any(|row| match &row.outcome {
        Outcome::Insert { row } => {
            let key: Vec<Value> = places.iter().map(|&place| row.get(place).cloned().flatten()).collect();
            deleted.contains(&key)
        }
        _ => false,
    })
}
