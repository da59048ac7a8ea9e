//! By whose rights a statement's tables are read.
//!
//! Postgres asks the session's role for what the client's text names, a view's owner for what stands under the view, and
//! nobody for what a constraint looks at. An evaluation or merged read names all of them in the session's name: so the
//! client's own text must be asked about, and what the role may not read must not be named.

use super::template::{Piece, Source, Template};
use super::{AttNum, TableId, View};

/// By whose rights a relation is read in the client's own statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The client names it, or a view that is read by its reader's rights does.
    Role,
    /// The owner's of the view that it is under.
    Owner,
    /// A write's target as a whole, or what a constraint looks at.
    Server,
}

/// The relations of one template.
#[derive(Debug, Clone, Default)]
pub struct Readers {
    role: Vec<TableId>,
    server: Vec<TableId>,
    /// Columns that are named besides.
    columns: Vec<(TableId, AttNum)>,
    views: Vec<Expanded>,
}

/// A view in the client's text.
#[derive(Debug, Clone)]
struct Expanded {
    /// All tables under it, those below them as well.
    tables: Vec<TableId>,
    /// Those that its owner's rights are asked for, and those of its reader.
    owners: Vec<TableId>,
    readers: Vec<TableId>,
}

impl Readers {
    pub(super) fn of(template: &Template) -> Readers {
        let mut readers = Readers::default();
        for piece in &template.pieces {
            let Piece::Relation(relation) = piece else { continue };
            match (&relation.source, relation.by) {
                (Source::Table(table), By::Server) => readers.server.push(table.id),
                (Source::Table(table), By::Role | By::Owner) => readers.role.push(table.id),
                (Source::View(below), _) => {
                    let mut tables = Vec::new();
                    below.tables(&mut tables);
                    let (owners, invoked) = (named(below, By::Owner), named(below, By::Role));
                    readers.views.push(Expanded { tables, owners, readers: invoked });
                }
            }
        }
        readers
    }

    /// With the target of a write, of which the evaluation looks at these columns.
    pub(super) fn and_target(mut self, table: TableId, columns: &[AttNum]) -> Readers {
        self.role.push(table);
        self.columns.extend(columns.iter().map(|column| (table, *column)));
        self
    }

    /// With what other parts of the statement read.
    pub(super) fn and(mut self, other: &Readers) -> Readers {
        self.role.extend(&other.role);
        self.server.extend(&other.server);
        self.columns.extend(&other.columns);
        self.views.extend(other.views.iter().cloned());
        self
    }

    /// Every table that an evaluation may name, views expanded, in order.
    pub fn all(&self) -> Vec<TableId> {
        let views = self.views.iter().flat_map(|view| view.owners.iter().chain(&view.readers));
        let mut all: Vec<TableId> = self.role.iter().chain(&self.server).chain(views).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether a view has to be expanded to show what is pending under it.
    pub fn expands(&self, pending: View<'_>) -> bool {
        self.views.iter().any(|view| view.shows(pending))
    }

    /// A table that has to be named though the role may not: it lacks a right that the client's own text does not need.
    /// `unread`: columns that it may not read, 0 for a table in a schema that it may not use.
    pub fn lacking(&self, pending: View<'_>, unread: &[(TableId, AttNum)]) -> Option<TableId> {
        let column = |id: &&TableId| unread.iter().any(|(table, _)| table == *id);
        let schema = |id: &&TableId| unread.contains(&(**id, AttNum(0)));
        let mut views = self.views.iter().filter(|view| view.shows(pending));
        let under = || views.find_map(|view| view.owners.iter().find(column).or(view.readers.iter().find(schema)));
        let columns = || self.columns.iter().find(|column| unread.contains(column)).map(|(table, _)| table);
        self.server.iter().find(column).or_else(columns).or_else(under).copied()
    }
}

impl Expanded {
    fn shows(&self, pending: View<'_>) -> bool {
        self.tables.iter().any(|id| pending.has_pending(*id))
    }
}

/// The tables in it that are named by these rights, those under views as well.
fn named(template: &Template, by: By) -> Vec<TableId> {
    let relations = template.pieces.iter().filter_map(|piece| match piece {
        Piece::Relation(relation) => Some(relation),
        _ => None,
    });
    let tables = relations.flat_map(|relation| match &relation.source {
        Source::Table(table) => Vec::from_iter((relation.by == by).then_some(table.id)),
        Source::View(below) => named(below, by),
    });
    tables.collect()
}
