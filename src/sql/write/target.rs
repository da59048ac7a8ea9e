//! The table that a statement writes, and whether it is one that can be written here.

use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::resolve::Names;
use super::super::syntax::path_of;
use super::super::{Report, Table};
use super::WriteKind;
use super::hashes::is_odd;
use crate::catalog::{AttNum, Catalog, ForeignKey, RelationKind, TableId};
use crate::sqlstate::{FEATURE_NOT_SUPPORTED, OBJECT_NOT_IN_PREREQUISITE_STATE};

/// The name of the table a write is about.
pub(in crate::sql) fn target_path(statement: &SyntaxNode) -> Option<Vec<String>> {
    let name = statement.children().find_map(|inner| match inner.kind() {
        K::RELATION_NAME_REF => Some(inner),
        K::TABLE_RELATION_NAME => inner.children().find(|name| name.kind() == K::TABLE_NAME_REF),
        K::RELATION_NAME => inner.children().find(|name| name.kind() == K::RELATION_NAME_REF),
        _ => None,
    });
    path_of(&name?)
}

/// The table a write is about.
pub(super) fn target(statement: &SyntaxNode, names: Names<'_>) -> Result<Arc<Table>, Report> {
    let path = target_path(statement);
    let found = path.as_ref().and_then(|path| names.relation(path));
    found.cloned().ok_or_else(|| {
        let name = path.map_or_else(String::new, |path| path.join("."));
        Report::new(FEATURE_NOT_SUPPORTED, format!("writes to \"{name}\" cannot be buffered"))
            .hint("Only ordinary tables of this database are known; temporary and system tables are not.")
    })
}

pub(super) fn writable(table: &Table, kind: WriteKind, catalog: &Catalog) -> Result<(), Report> {
    let refuse = |why: &str| {
        let message = format!("writes to \"{}\" cannot be buffered: {why}", table.name.name);
        Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Connect to main for it."))
    };
    match table.kind {
        RelationKind::Table | RelationKind::Partitioned => {}
        RelationKind::View => return refuse("it is a view"),
        RelationKind::MaterializedView => return refuse("it is a materialized view"),
        RelationKind::Foreign => return refuse("it is a foreign table"),
        RelationKind::Sequence => return refuse("it is a sequence"),
    }
    if !table.exclusions.is_empty() && (table.key.is_empty() || !table.family.is_empty()) {
        return refuse("it has an exclusion constraint, and no key or tables below it");
    }
    if table.references.iter().chain(&table.referenced_by).any(|key| compares_otherwise(key, catalog)) {
        return refuse("a foreign key compares texts under a collation that not both of its sides have");
    }
    if table.key.is_empty() && kind != WriteKind::Insert {
        let message = format!("rows of \"{}\" cannot be updated or deleted: it has no key", table.name.name);
        return Err(Report::new(OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .hint("Give it a primary key, or a unique index over NOT NULL columns."));
    }
    Ok(())
}

/// Whether columns on the two sides of a foreign key have different collations, and equal texts under one of them need not be so
/// under the other. Postgres compares by the parent's.
fn compares_otherwise(key: &ForeignKey, catalog: &Catalog) -> bool {
    let side = |id: TableId, columns: &[AttNum]| {
        let table = catalog.relations.get(&id);
        let column = |attnum| table.and_then(|table| table.attribute(attnum)?.collation.clone());
        columns.iter().map(|attnum| column(*attnum)).collect::<Vec<_>>()
    };
    let sides = side(key.table, &key.columns).into_iter().zip(side(key.referenced, &key.referenced_columns));
    let odd = |collation: &Option<Arc<str>>| is_odd(collation.as_deref());
    sides.into_iter().any(|(child, parent)| child != parent && (odd(&child) || odd(&parent)))
}
