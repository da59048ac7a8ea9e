//! SET CONSTRAINTS, and what of a transaction is judged at its end.
//!
//! The replica runs the command too, so that its tags, warnings and errors are Postgres' own; which constraints it means
//! is found here as Postgres finds them (<https://www.postgresql.org/docs/15/sql-set-constraints.html>).

use std::collections::HashMap;

use super::Session;
use super::failure::Failure;
use crate::catalog::{Catalog, TableId};
use crate::sql::{Event, SetConstraints};

/// Which constraints the open transaction judges at its end.
#[derive(Debug, Clone, Default)]
pub struct Constraints {
    all: Option<bool>,
    named: HashMap<(TableId, String), bool>,
}

impl Constraints {
    /// Whether nothing has been said.
    pub fn is_default(&self) -> bool {
        self.all.is_none() && self.named.is_empty()
    }

    /// Whether something has been said of single ones.
    pub fn has_named(&self) -> bool {
        !self.named.is_empty()
    }

    /// Whether all were told to wait, or not to.
    pub fn of_all(&self) -> Option<bool> {
        self.all
    }

    /// Whether the event waits for the end of the transaction.
    pub fn defers(&self, event: &Event) -> bool {
        let Some((table, name, initially)) = event.rule.deferrable() else { return false };
        let named = self.named.get(&(table, name.to_owned())).copied();
        named.or(self.all).unwrap_or(initially)
    }

    fn set(&mut self, command: &SetConstraints, catalog: &Catalog, schemas: &[std::sync::Arc<str>]) {
        if command.names.is_empty() {
            *self = Constraints { all: Some(command.deferred), named: HashMap::new() };
            return;
        }
        for path in &command.names {
            let (schema, name) = match path.as_slice() {
                [name] => (None, name),
                [.., schema, name] => (Some(schema), name),
                [] => continue,
            };
            // The first schema of the path that has any, and there all of them.
            let schemas = schemas.iter().filter(|_| schema.is_none()).map(|schema| &**schema);
            for schema in schema.map(String::as_str).into_iter().chain(schemas) {
                let tables: Vec<_> = catalog.relations.values().filter(|t| *t.name.schema == *schema).collect();
                let having = tables.iter().filter(|table| {
                    table.references.iter().any(|key| key.name == *name)
                        || table.exclusions.iter().any(|exclusion| exclusion.index.name == *name)
                        || table.unique.iter().any(|index| index.constraint && index.name == *name)
                });
                let found: Vec<TableId> = having.map(|table| table.id).collect();
                if !found.is_empty() {
                    self.named.extend(found.into_iter().map(|table| ((table, name.clone()), command.deferred)));
                    break;
                }
            }
        }
    }
}

impl Session {
    /// After the replica has run the command. What is immediate from now on is judged at once.
    pub(super) async fn set_constraints(&mut self, command: &SetConstraints) -> Result<(), Failure> {
        let settings = self.settings().await?;
        let catalog = self.shared.catalog.current();
        self.transaction.work.constraints.set(command, &catalog, &settings.schemas);
        if command.deferred {
            return Ok(());
        }
        let work = &mut self.transaction.work;
        let due = work.deferred.take(|event| work.constraints.defers(event));
        work.queued.retain(|event| work.constraints.defers(event));
        self.fire(due).await
    }

    /// Judges what has waited for the end of the transaction.
    pub(super) async fn judge_deferred(&mut self) -> Result<(), Failure> {
        let due = self.transaction.work.deferred.take(|_| false);
        self.fire(due).await
    }
}
