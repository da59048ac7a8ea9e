//! Which tables a statement that goes straight to main writes, as far as its text tells.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::syntax::words;
use super::write::target_path;
use super::{Class, Statement, parse};
use crate::catalog::{Catalog, ReferentialAction, RelationKind, Table, TableId};

/// What a transaction writes of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writes {
    /// Rows without a key are added: nobody else's rows matter.
    Additions,
    Rows,
    /// What the table is.
    Definition,
}

impl Writes {
    /// What a write of this table's rows is, if it only inserts.
    pub fn of(table: &Table, inserts: bool) -> Writes {
        let alone = inserts && table.key.is_empty() && table.unique.is_empty() && table.exclusions.is_empty();
        if alone && table.references.is_empty() { Writes::Additions } else { Writes::Rows }
    }

    /// Whether two transactions that do this and that must not be open on two sides.
    pub fn disturbs(self, other: Writes) -> bool {
        self.max(other) == Writes::Definition || self.min(other) == Writes::Rows
    }
}

/// Whether a statement changes what tables are, or locks them whole, by its first words. Others that do, as CREATE TABLE
/// with a reference, are main's own affair.
fn is_of_tables(words: &[String]) -> bool {
    let mut first = words.iter().take(4).map(String::as_str);
    match first.next() {
        Some("DROP" | "ALTER" | "LOCK") => true,
        Some("CREATE") => first.any(|word| matches!(word, "INDEX" | "TRIGGER" | "RULE")),
        _ => false,
    }
}

/// The tables that a straight statement writes, with those that their foreign keys lead to, and the rest of their family.
/// What functions and triggers write is not known.
pub(super) fn written(
    statement: &Statement,
    catalog: &Catalog,
    search_path: Option<&[Arc<str>]>,
) -> Vec<(TableId, Writes)> {
    let found = parse::with_tree(&statement.text, |root| {
        let mut found = Found { catalog, tables: BTreeMap::new() };
        match &statement.class {
            Class::Straight { outside_transaction: true, .. } => {}
            Class::Straight { ddl: true, .. } => {
                let words = words(root);
                if words.first().is_some_and(|word| word == "DO") {
                    found.named_in(&statement.text, Writes::Rows);
                } else if is_of_tables(&words) {
                    found.named_in(&statement.text, Writes::Definition);
                    if words.get(1).is_some_and(|word| word == "SCHEMA") {
                        found.in_schemas(&statement.text);
                    }
                }
            }
            Class::Truncate(_) => found.named_in(&statement.text, Writes::Definition),
            // LOCK: taken where the transaction is main's already.
            Class::Refused(_) if is_of_tables(&words(root)) => found.named_in(&statement.text, Writes::Definition),
            _ => {
                for node in root.descendants() {
                    match node.kind() {
                        K::INSERT => found.target(&node, search_path, true),
                        K::UPDATE | K::DELETE | K::MERGE => found.target(&node, search_path, false),
                        K::COPY => found.named_in(&statement.text, Writes::Rows),
                        K::LOCKING_CLAUSE => found.named_in(&statement.text, Writes::Rows),
                        _ => {}
                    }
                }
            }
        }
        found.tables.into_iter().collect()
    });
    found.unwrap_or_else(|_| {
        // A definition of which only the first word is known.
        let mut found = Found { catalog, tables: BTreeMap::new() };
        found.named_in(&statement.text, Writes::Definition);
        found.tables.into_iter().collect()
    })
}

/// Tables whose rows a transaction that has written these may have looked at or acted upon, these among them.
pub(super) fn concerned(catalog: &Catalog, written: &[TableId]) -> Vec<TableId> {
    let mut found = Found { catalog, tables: BTreeMap::new() };
    for table in written.iter().filter_map(|id| catalog.relations.get(id)) {
        found.add(table, Writes::Rows);
    }
    found.tables.into_keys().chain(written.iter().copied()).collect()
}

struct Found<'a> {
    catalog: &'a Catalog,
    tables: BTreeMap<TableId, Writes>,
}

impl Found<'_> {
    fn target(&mut self, statement: &SyntaxNode, search_path: Option<&[Arc<str>]>, inserts: bool) {
        let Some(path) = target_path(statement) else { return };
        let (schema, name) = match path.as_slice() {
            [.., schema, name] => (Some(schema.as_str()), name.as_str()),
            [name] => (None, name.as_str()),
            [] => return,
        };
        let catalog = self.catalog;
        let tables: Vec<&Arc<Table>> = match (schema, search_path) {
            (None, None) => catalog.relations.values().filter(|table| &*table.name.name == name).collect(),
            (schema, path) => catalog.resolve(schema, name, path.unwrap_or_default()).into_iter().collect(),
        };
        for table in tables {
            let inserts = inserts && table.kind != RelationKind::View;
            self.add(table, Writes::of(table, inserts));
        }
    }

    /// Every table whose name the text has, wherever: more than it writes, perhaps.
    fn named_in(&mut self, text: &str, writes: Writes) {
        let names = names(text);
        let catalog = self.catalog;
        for table in catalog.relations.values().filter(|table| names.contains(&*table.name.name)) {
            self.add(table, writes);
        }
    }

    fn in_schemas(&mut self, text: &str) {
        let names = names(text);
        let catalog = self.catalog;
        for table in catalog.relations.values().filter(|table| names.contains(&*table.name.schema)) {
            self.add(table, Writes::Definition);
        }
    }

    fn add(&mut self, table: &Arc<Table>, writes: Writes) {
        match table.kind {
            RelationKind::Table | RelationKind::Partitioned => {}
            RelationKind::View => {
                if let Some(view) = &table.view {
                    let within: Vec<Arc<Table>> = self.named(view).filter(|inner| inner.id != table.id).collect();
                    within.iter().for_each(|inner| self.add(inner, writes));
                }
                return;
            }
            RelationKind::MaterializedView | RelationKind::Foreign | RelationKind::Sequence => return,
        }
        if self.tables.get(&table.id).is_some_and(|known| *known >= writes) {
            return;
        }
        self.tables.insert(table.id, writes);
        let catalog = self.catalog;
        let known = |id: &TableId| catalog.relations.get(id).cloned();
        let family = table.children.iter().chain(&table.parents).filter_map(known);
        family.collect::<Vec<_>>().iter().for_each(|member| self.add(member, writes));
        if writes == Writes::Additions {
            return;
        }
        // Their rows are locked, looked at, or acted upon.
        for key in &table.references {
            self.tables.entry(key.referenced).or_insert(Writes::Rows);
        }
        for key in &table.referenced_by {
            let acts = |action: ReferentialAction| {
                !matches!(action, ReferentialAction::NoAction | ReferentialAction::Restrict)
            };
            match known(&key.table) {
                Some(child) if acts(key.on_delete) || acts(key.on_update) => self.add(&child, Writes::Rows),
                _ => drop(self.tables.entry(key.table).or_insert(Writes::Rows)),
            }
        }
    }

    fn named(&self, text: &str) -> impl Iterator<Item = Arc<Table>> + use<> {
        let names = names(text);
        let all = self.catalog.relations.values().filter(|table| names.contains(&*table.name.name));
        all.cloned().collect::<Vec<_>>().into_iter()
    }
}

/// The words of a text that may be names: within strings and comments, too, since DO has its body in one.
fn names(text: &str) -> HashSet<String> {
    let mut names = HashSet::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c == '"' || c == '_' || c.is_alphabetic()) {
        rest = &rest[start..];
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => match quoted.split_once('"') {
                Some((name, after)) => (name.to_owned(), after),
                None => return names,
            },
            None => {
                let word = |c: char| c == '_' || c == '$' || c.is_alphanumeric();
                let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
                (rest[..end].to_lowercase(), &rest[end..])
            }
        };
        names.insert(name);
        rest = after;
    }
    names
}
