//! Exclusion constraints (<https://www.postgresql.org/docs/15/ddl-constraints.html#DDL-CONSTRAINTS-EXCLUSION>).
//!
//! Postgres compares a row with all others as it is written. So an output tells every row of the table, as it was, that the new
//! row cannot stand beside, and [`Before`] whether an earlier row of the statement has changed that one; rows of the
//! statement are compared with each other at its end, where those that it writes all are.

use std::sync::Arc;

use super::super::Report;
use super::super::after::{Event, Rule, Versions, excludes};
use super::super::merge::{key_columns, list};
use super::super::template::Template;
use super::Output;
use super::build::{Builder, Row, value_of};
use super::decode::Hidden;
use super::unique::{Before, applies, index_touched};
use super::verdict::{OTHER, of_other, printed};
use crate::catalog::{AttNum, Exclusion, IndexItem};
use crate::entry::Value;

/// Adds what the new row cannot stand beside, asked for where `condition` holds. `old`: the row before; `set`: the
/// columns that may have changed.
pub(super) fn excluded(
    builder: &mut Builder<'_>,
    new: &Row,
    old: Option<&Row>,
    set: Option<&[AttNum]>,
    condition: &str,
) {
    let table = Arc::clone(builder.table);
    for (place, exclusion) in table.exclusions.iter().enumerate() {
        let index = &exclusion.index;
        if set.is_some_and(|set| !index_touched(index, set)) {
            continue;
        }
        let items = builder.items(index, new);
        let other = |item: &IndexItem| match item {
            IndexItem::Column(attnum) => of_other(&table, *attnum),
            IndexItem::Expression { text, .. } => format!("({text})"),
        };
        let others: Vec<String> = index.items.iter().map(other).collect();
        let pairs = items.iter().zip(&exclusion.operators).zip(&others);
        let mut conditions: Vec<String> =
            pairs.map(|((value, operator), other)| format!("{other} {operator} {value}")).collect();
        conditions.extend(index.predicate.as_ref().map(|predicate| format!("({predicate})")));
        if let Some(old) = old {
            let theirs = list(table.key.iter().map(|key| of_other(&table, *key)));
            let own = list(table.key.iter().map(|key| value_of(old, *key).unwrap_or("NULL").to_owned()));
            conditions.push(format!("ROW({theirs}) IS DISTINCT FROM ROW({own})"));
        }
        let key = key_columns(&table).into_iter().map(|c| builder.text_of(c, &of_other(&table, c.attnum)));
        let said = list([printed(&items), printed(&others)].into_iter().chain(key));
        let applies = applies(builder, index, new);
        let mut verdict = Template::text(format!(
            "CASE WHEN {condition} AND {applies} THEN coalesce((SELECT \
             pg_catalog.json_agg(pg_catalog.json_build_array({said}))::text FROM "
        ));
        verdict.table(&table, None).push(&format!(" AS {OTHER} WHERE {}), '[]') END", conditions.join(" AND ")));
        builder.output(Output::Excluded(place), &verdict);
    }
}

impl Hidden<'_> {
    /// The constraints that the row is in, with the rows that it cannot stand beside: values of both, and the other's key.
    fn exclusions(&self) -> impl Iterator<Item = (&Exclusion, Vec<Vec<String>>)> {
        self.outputs().filter_map(|(output, value)| match (output, value) {
            (Output::Excluded(place), Some(text)) => {
                Some((self.plan.target.exclusions.get(*place)?, serde_json::from_str(text).ok()?))
            }
            _ => None,
        })
    }

    /// # Errors
    /// 23P01 when the row cannot be written after those before it, and the OID of the index.
    pub(super) fn excluded(&self, before: &Before) -> Result<(), (u32, Box<Report>)> {
        for (exclusion, others) in self.exclusions().filter(|(exclusion, _)| !exclusion.index.deferrable) {
            for other in others {
                let [new, old, key @ ..] = other.as_slice() else { continue };
                let key: Vec<Value> = key.iter().map(|text| Some(Arc::from(text.as_str()))).collect();
                if !before.changed.contains(&key) {
                    let report = excludes(&self.plan.target, exclusion, new, old);
                    return Err((exclusion.index.root, Box::new(report)));
                }
            }
        }
        Ok(())
    }

    /// What is judged when the statement, or the transaction, ends. `several`: the statement writes other rows as well.
    pub(super) fn exclusion_events(&self, several: bool, deferrable: bool, events: &mut Vec<Event>) {
        let table = &self.plan.target;
        for (exclusion, others) in self.exclusions().filter(|(of, _)| of.index.deferrable == deferrable) {
            if several || (deferrable && !others.is_empty()) {
                let rule = Rule::Exclusion { table: table.id, exclusion: Arc::new(exclusion.clone()) };
                let (values, versions) = (self.key_after(), Versions::default());
                events.push(Event { rule, values, new: Vec::new(), acquitted: false, versions });
            }
        }
    }
}
