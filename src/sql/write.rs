//! Writes: INSERT, UPDATE and DELETE as one SELECT that a standby can run, which yields the effects, the verdict of
//! each constraint, and the RETURNING columns.

use super::{Arc, AttNum, Bytes, Parameters, Rendered, Report, Table, Value, View};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    Insert,
    Update,
    Delete,
}

/// The template of a write.
#[derive(Debug)]
pub struct WritePlan {
    pub kind: WriteKind,
    pub target: Arc<Table>,
    /// Whether the client's statement has RETURNING (its columns are the last of the evaluation's).
    pub returning: bool,
}

/// One row of the evaluation, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The effect on the target, as values of columns. `None`: the row was seen before (UPDATE … FROM matching twice).
    pub outcome: Outcome,
    /// Hashes of the values this row takes or frees, for locks: rows by key, unique values by index.
    pub locks: Vec<u64>,
    /// The RETURNING columns, in the formats the client asked for.
    pub returning: Vec<Option<Bytes>>,
}

/// What happens to one row of the target.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Values of all columns, in the table's order.
    Insert {
        row: Vec<Value>,
    },
    /// The row's key before; new and old values of the columns that were set; the whole new row when a key column
    /// changed its value.
    Update {
        key: Vec<Value>,
        set: Vec<(AttNum, Value)>,
        old: Vec<(AttNum, Value)>,
        row: Option<Vec<Value>>,
    },
    Delete {
        key: Vec<Value>,
        old: Vec<Value>,
    },
}

impl WritePlan {
    pub(super) fn new(
        _text: &str,
        _root: &squawk_syntax::SyntaxNode,
        _names: super::resolve::Names<'_>,
        _gate: &str,
    ) -> Result<WritePlan, Report> {
        Err(Report::new(crate::sqlstate::FEATURE_NOT_SUPPORTED, "not built yet"))
    }

    /// How many values of which sequences (quoted, qualified) an execution takes; `None`: as many as it has rows.
    pub fn sequences(&self) -> &[(Arc<str>, Option<usize>)] {
        &[]
    }

    /// The evaluation for one execution. `ids` holds values for each of [`WritePlan::sequences`], in that order.
    pub fn render(&self, _view: View<'_>, _parameters: Parameters<'_>, _ids: &[Vec<i64>]) -> Result<Rendered, Report> {
        Err(Report::new(crate::sqlstate::FEATURE_NOT_SUPPORTED, "not built yet"))
    }

    /// The result formats to ask for in Bind, given those the client wants for RETURNING (expanded: one each).
    pub fn formats(&self, _returning: &[i16]) -> Vec<i16> {
        Vec::new()
    }

    /// Reads all rows of the evaluation, in order: each row's effect, or the first constraint that fails, just as
    /// Postgres would have reported it.
    pub fn decode(&self, _rows: &[Vec<Option<Bytes>>]) -> Result<Vec<Decoded>, Report> {
        Ok(Vec::new())
    }
}
