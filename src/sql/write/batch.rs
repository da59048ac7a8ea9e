//! Rows that are written by the batch, as COPY writes them: a batch for each partition, in the order in which the partitions
//! first had a row.

use bytes::Bytes;

use super::decode::{Values, read, rows};
use super::{Report, WritePlan};
use crate::catalog::TableId;
use crate::overlay::View;

/// The first row that cannot be written after those before it, and why.
pub(super) fn first_refused(
    plan: &WritePlan,
    view: View<'_>,
    evaluated: &[Vec<Option<Bytes>>],
) -> Result<Option<(usize, Report)>, Report> {
    let mut members: Vec<TableId> = Vec::new();
    let mut order = Vec::with_capacity(evaluated.len());
    for (place, row) in evaluated.iter().enumerate() {
        let id = read(plan, row)?.table_after().id;
        let member = members.iter().position(|known| *known == id).unwrap_or_else(|| {
            members.push(id);
            members.len() - 1
        });
        order.push((member, place));
    }
    order.sort_unstable();
    let written: Vec<_> = order.iter().map(|(_, place)| evaluated[*place].clone()).collect();
    let refused = |count: usize| rows(plan, view, &written[..count], Values::Here).err();
    let Some(mut report) = refused(written.len()) else { return Ok(None) };
    let (mut right, mut wrong) = (0, written.len());
    while wrong - right > 1 {
        let middle = right + (wrong - right) / 2;
        match refused(middle) {
            Some(earlier) => (wrong, report) = (middle, earlier),
            None => right = middle,
        }
    }
    Ok(Some((order[wrong - 1].1, report)))
}
