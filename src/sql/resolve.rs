//! Finds what in a statement has to change when a table in it has pending rows, and cuts templates out of the text.

use std::ops::Range;
use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use self::scope::Scopes;
use super::readers::By;
use super::syntax::{self, child, name_of, path_of, range, token};
use super::template::{Piece, Relation, Source, Template, UNDER_VIEW};
use super::{Report, parse, slice};
use crate::catalog::{Catalog, PolicyCommand, RelationKind, Table};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

mod correlated;
mod functions;
mod grouping;
mod indirect;
pub(super) use functions::{called, opaque_call};
mod locking;
pub(super) mod rows;
mod scope;
pub(super) mod security;
mod sequences;

pub(super) use correlated::Correlation;
pub use locking::{LOCKED, LockedRelation, Patience, Strength, row_locks};
pub use sequences::SequenceUse;

/// Views within views that are followed.
const VIEW_DEPTH_MAX: usize = 32;

/// Where names are looked up.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) search_path: &'a [Arc<str>],
    /// Below a view that its owner's rights and policies apply to.
    pub(super) owners: bool,
    /// How many policies this text is within.
    pub(super) policies: usize,
}

impl Names<'_> {
    /// The relation that a dotted name means.
    pub(super) fn relation(&self, path: &[String]) -> Option<&Arc<Table>> {
        match path {
            [name] => self.catalog.resolve(None, name, self.search_path),
            [schema, name] | [_, schema, name] => self.catalog.resolve(Some(schema), name, self.search_path),
            _ => None,
        }
    }
}

/// A statement's text and the changes to it.
pub(super) struct Text<'a> {
    text: &'a str,
    edits: Vec<(Range<usize>, Vec<Piece>)>,
    /// The FROM items that may be merged, with their places.
    from_items: Vec<(SyntaxNode, Arc<Relation>)>,
    /// It names `tableoid`: merged relations have it.
    pub(super) tableoid: bool,
    /// It has an outer join, in which a row may be NULL.
    outer: bool,
    pub(super) findings: Findings,
    /// A condition on the rows that an INSERT writes: of COPY … WHERE.
    pub(super) filter: Option<Template>,
}

/// What a statement does that forbids it while rows are pending.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    /// Functions that may look at tables behind our back.
    pub(super) opaque: Vec<String>,
    /// A system column it names.
    pub(super) system_column: Option<String>,
    /// A name of which we cannot tell whether it is a row or a column.
    pub(super) unclear_row: Option<String>,
    /// Sequences from which it takes values.
    pub(super) sequences: Vec<SequenceUse>,
    /// Relations whose rows it locks.
    pub(super) locking: Vec<LockedRelation>,
    /// Only its execution tells how many.
    pub(super) counted: bool,
}

impl Findings {
    /// Whether values of sequences are taken or looked at.
    pub(super) fn uses_sequences(&self) -> bool {
        self.counted || !self.sequences.is_empty()
    }
}

/// System columns that a merged relation does not have.
const SYSTEM: [&str; 5] = ["ctid", "xmin", "xmax", "cmin", "cmax"];

impl<'a> Text<'a> {
    /// Finds the changes in everything under `root`.
    pub(super) fn read(text: &'a str, root: &SyntaxNode, names: Names<'_>, depth: usize) -> Result<Text<'a>, Report> {
        Text::read_on(text, root, names, depth, Findings::default())
    }

    /// The same, added to what has been found in other texts of the statement.
    pub(super) fn read_on(
        text: &'a str,
        root: &SyntaxNode,
        names: Names<'_>,
        depth: usize,
        findings: Findings,
    ) -> Result<Text<'a>, Report> {
        let mut source = Text {
            text,
            edits: Vec::new(),
            from_items: Vec::new(),
            tableoid: rows::mentions_tableoid(root),
            outer: false,
            findings,
            filter: None,
        };
        let scopes = Scopes::of(root, names);
        for node in root.descendants() {
            match node.kind() {
                K::RELATION_NAME_REF => source.relation(&node, names, depth, &scopes)?,
                K::TABLE => {
                    if let Some(word) = token(&node, K::TABLE_KW) {
                        source.edits.push((word.text_range().into(), vec![Piece::Text("SELECT * FROM".into())]));
                    }
                }
                K::GROUP_BY_CLAUSE => source.group(&node),
                K::CALL_EXPR => source.call(&node, names)?,
                K::NAME_REF => source.system_column(&node),
                K::FIELD_EXPR => source.attribute(&node, &scopes, names),
                _ => {}
            }
        }
        source.indirect_calls(root, &scopes, names);
        source.rows(root, &scopes);
        for clause in root.descendants().filter(|node| node.kind() == K::LOCKING_CLAUSE) {
            // Once for each query: the others of the same are read with the first.
            if let Some(query) = clause.parent()
                && query.children().find(|part| part.kind() == K::LOCKING_CLAUSE).as_ref() == Some(&clause)
            {
                source.locking(&query, names)?;
            }
        }
        source.edits.sort_by_key(|(range, _)| (range.start, range.end));
        Ok(source)
    }

    fn relation(&mut self, node: &SyntaxNode, names: Names<'_>, depth: usize, scopes: &Scopes) -> Result<(), Report> {
        let path = path_of(node).ok_or_else(|| {
            Report::new(FEATURE_NOT_SUPPORTED, format!("the name {} is not understood", node.text()))
                .hint("Write it without Unicode escapes.")
        })?;
        let Some(parent) = node.parent() else { return Ok(()) };
        let in_from = match parent.kind() {
            K::RELATION_FROM_ITEM => true,
            K::RELATION_NAME => parent.parent().is_some_and(|above| above.kind() == K::TABLE),
            _ => false,
        };
        if !in_from || (path.len() == 1 && scope::is_cte(node, &path[0])) {
            return Ok(());
        }
        let Some(table) = names.relation(&path) else { return Ok(()) };
        let written = slice::alias_of(&parent);
        let visible = written.clone().unwrap_or_else(|| table.name.name.to_string());
        let place = place_of(&parent);
        let mut obstacle = child(&parent, K::TABLESAMPLE_CLAUSE).map(|_| "TABLESAMPLE");
        let mut security = None;
        let target = match table.kind {
            RelationKind::Table | RelationKind::Partitioned => {
                security = security::of(table, PolicyCommand::Select, names)?;
                if table.row_security && names.owners {
                    obstacle = Some(UNDER_VIEW);
                }
                Source::Table(Arc::clone(table))
            }
            RelationKind::View => match self.view(table, names, depth)? {
                Some(template) => Source::View(template),
                None => return Ok(()),
            },
            RelationKind::MaterializedView | RelationKind::Foreign | RelationKind::Sequence => return Ok(()),
        };
        let unique = scopes.at(&parent).and_then(|item| item.unique.clone());
        let relation = Relation {
            slice: match &target {
                Source::Table(table) => slice::of_from_item(&parent, table, &visible),
                Source::View(_) => None,
            },
            correlation: match &target {
                Source::Table(table) => correlated::of_from_item(&parent, table, &visible, scopes),
                Source::View(_) => None,
            },
            tableoid: self.tableoid && matches!(target, Source::Table(_)),
            source: target,
            original: self.text[place.clone()].to_owned(),
            alias: written.is_none().then(|| unique.unwrap_or(visible)),
            obstacle,
            only: syntax::has_token(&parent, K::ONLY_KW),
            security,
            by: if names.owners { By::Owner } else { By::Role },
        };
        let relation = Arc::new(relation);
        self.from_items.push((parent, Arc::clone(&relation)));
        self.edits.push((place, vec![Piece::Relation(relation)]));
        Ok(())
    }

    /// The relation that stands in the place of a FROM item.
    fn relation_of(&self, item: &scope::Item) -> Option<Arc<Relation>> {
        self.from_items.iter().find(|(node, _)| *node == item.node).map(|(_, relation)| Arc::clone(relation))
    }

    /// The template of a view's definition; `None` when no table is under it.
    fn view(&mut self, view: &Table, names: Names<'_>, depth: usize) -> Result<Option<Template>, Report> {
        let Some(definition) = &view.view else { return Ok(None) };
        if depth >= VIEW_DEPTH_MAX {
            return Err(Report::new(FEATURE_NOT_SUPPORTED, "views are nested too deeply"));
        }
        let definition = definition.trim().trim_end_matches(';');
        let owners = names.owners || !view.security_invoker;
        let names = Names { search_path: &[], owners, ..names };
        let read = parse::with_tree(definition, |root| {
            let source = Text::read(definition, root, names, depth + 1)?;
            Ok((source.cut(0..definition.len()), source.findings))
        });
        let (template, findings) = read.map_err(|error| {
            Report::new(FEATURE_NOT_SUPPORTED, format!("view \"{}\" is not understood", view.name.name))
                .detail(error.reason)
        })??;
        if findings.uses_sequences() {
            let message = format!("view \"{}\" takes values of sequences", view.name.name);
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Call nextval() in the statement itself."));
        }
        if !findings.locking.is_empty() {
            let message = format!("view \"{}\" locks rows", view.name.name);
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Lock rows in the statement itself."));
        }
        self.findings.opaque.extend(findings.opaque);
        let mut tables = Vec::new();
        template.tables(&mut tables);
        Ok((!tables.is_empty()).then_some(template))
    }

    fn system_column(&mut self, node: &SyntaxNode) {
        if let Some(name) = name_of(node)
            && SYSTEM.contains(&name.as_str())
        {
            self.findings.system_column = Some(name);
        }
    }

    /// The text in this range, as the client wrote it.
    pub(super) fn written(&self, range: Range<usize>) -> &str {
        &self.text[range]
    }

    /// The text in this range, its changes made.
    pub(super) fn cut(&self, range: Range<usize>) -> Template {
        let mut template = Template::default();
        let mut place = range.start;
        for (changed, pieces) in &self.edits {
            if changed.start < place || changed.end > range.end {
                continue;
            }
            template.push(&self.text[place..changed.start]);
            for piece in pieces {
                template.piece(piece.clone());
            }
            place = changed.end;
        }
        template.push(&self.text[place..range.end]);
        // What is put after this text must not become part of a comment.
        if self.text[range].contains("--") {
            template.push("\n");
        }
        template
    }
}

/// The range of the relation with its ONLY and `*`, without alias and TABLESAMPLE.
fn place_of(item: &SyntaxNode) -> Range<usize> {
    let mut place: Option<Range<usize>> = None;
    for element in item.children_with_tokens() {
        if matches!(element.kind(), K::FROM_ALIAS | K::TABLESAMPLE_CLAUSE) {
            break;
        }
        if element.kind().is_trivia() {
            continue;
        }
        let range: Range<usize> = element.text_range().into();
        place = Some(place.map_or(range.clone(), |so_far| so_far.start..range.end));
    }
    place.unwrap_or_else(|| range(item))
}
