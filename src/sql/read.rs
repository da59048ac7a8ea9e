//! Reads: a client's query with merged relations in place of tables that have pending rows.

use super::{Parameters, Rendered, Report, TableId, View};

/// The template of a read.
#[derive(Debug)]
pub struct ReadPlan {}

impl ReadPlan {
    /// Every table the statement reads, views expanded.
    pub fn tables(&self) -> &[TableId] {
        &[]
    }

    /// The statement for one execution; `None`: no pending row can be seen by it, the client's own text will do.
    ///
    /// # Errors
    /// 0A000 when a table has pending rows and the statement does with it what cannot be merged.
    pub fn render(&self, _view: View<'_>, _parameters: Parameters<'_>) -> Result<Option<Rendered>, Report> {
        Ok(None)
    }
}
