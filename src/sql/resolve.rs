//! Finds what in a statement has to change when a table in it has pending rows, and cuts templates out of the text.

use std::ops::Range;
use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::syntax::{self, child, dotted, name_of, path_of, quoted, range, token};
use super::template::{Piece, Relation, Source, Template};
use super::{Report, parse, slice};
use crate::catalog::{Catalog, Column, RelationKind, Table};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// Views within views that are followed.
const VIEW_DEPTH_MAX: usize = 32;

/// Where names are looked up.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) search_path: &'a [Arc<str>],
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
    pub(super) findings: Findings,
}

/// What a statement does that forbids it while rows are pending.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    /// Functions that may look at tables behind our back.
    pub(super) opaque: Vec<String>,
    /// A system column it names.
    pub(super) system_column: Option<String>,
    /// Sequences from which it takes values (quoted, qualified) and how many.
    pub(super) sequences: Vec<(Arc<str>, Option<usize>)>,
}

impl Findings {
    /// The place of a sequence among those used.
    pub(super) fn sequence(&mut self, name: &Arc<str>) -> usize {
        match self.sequences.iter().position(|(known, _)| known == name) {
            Some(place) => place,
            None => {
                self.sequences.push((Arc::clone(name), Some(0)));
                self.sequences.len() - 1
            }
        }
    }

    /// The next value of a sequence, of those that one execution takes.
    pub(super) fn next_id(&mut self, name: &Arc<str>) -> Piece {
        let sequence = self.sequence(name);
        let taken = self.sequences[sequence].1.get_or_insert(0);
        *taken += 1;
        Piece::Id { sequence, place: *taken - 1 }
    }
}

/// Whether GROUP BY can take the column: these types have no equality.
fn groupable(column: &Column) -> bool {
    const WITHOUT_EQUALITY: [u32; 8] = [114, 142, 600, 602, 603, 604, 718, 1033];
    !column.is_composite && !WITHOUT_EQUALITY.contains(&column.base_type_oid)
}

impl<'a> Text<'a> {
    /// Finds the changes in everything under `root`.
    pub(super) fn read(text: &'a str, root: &SyntaxNode, names: Names<'_>, depth: usize) -> Result<Text<'a>, Report> {
        let mut source = Text { text, edits: Vec::new(), from_items: Vec::new(), findings: Findings::default() };
        let mut unaliased: Vec<Vec<String>> = Vec::new();
        for node in root.descendants() {
            match node.kind() {
                K::RELATION_NAME_REF => source.relation(&node, names, depth, &mut unaliased)?,
                K::TABLE => {
                    if let Some(word) = token(&node, K::TABLE_KW) {
                        source.edits.push((word.text_range().into(), vec![Piece::Text("SELECT * FROM".into())]));
                    }
                }
                K::GROUP_BY_CLAUSE => source.group(&node),
                K::CALL_EXPR => source.call(&node, names)?,
                K::NAME_REF => source.system_column(&node),
                _ => {}
            }
        }
        source.unqualify(root, &unaliased);
        source.edits.sort_by_key(|(range, _)| (range.start, range.end));
        Ok(source)
    }

    fn relation(
        &mut self,
        node: &SyntaxNode,
        names: Names<'_>,
        depth: usize,
        unaliased: &mut Vec<Vec<String>>,
    ) -> Result<(), Report> {
        let path = path_of(node).ok_or_else(|| {
            Report::new(FEATURE_NOT_SUPPORTED, format!("the name {} is not understood", node.text()))
                .hint("Write it without Unicode escapes.")
        })?;
        let Some(parent) = node.parent() else { return Ok(()) };
        let statement = if parent.kind() == K::RELATION_NAME { parent.parent() } else { Some(parent.clone()) };
        if let Some(write) = statement.filter(|node| matches!(node.kind(), K::INSERT | K::UPDATE | K::DELETE))
            && path.len() > 1
            && slice::alias_of(&write).is_none()
        {
            unaliased.push(path.clone());
        }
        let in_from = match parent.kind() {
            K::RELATION_FROM_ITEM => true,
            K::RELATION_NAME => parent.parent().is_some_and(|above| above.kind() == K::TABLE),
            _ => false,
        };
        if !in_from || (path.len() == 1 && is_cte(node, &path[0])) {
            return Ok(());
        }
        let Some(table) = names.relation(&path) else { return Ok(()) };
        let written = slice::alias_of(&parent);
        if written.is_none() && path.len() > 1 {
            unaliased.push(path.clone());
        }
        let visible = written.clone().unwrap_or_else(|| table.name.name.to_string());
        let place = place_of(&parent);
        let target = match table.kind {
            RelationKind::Table => Source::Table(Arc::clone(table)),
            RelationKind::View => match self.view(table, names, depth)? {
                Some(template) => Source::View(template),
                None => return Ok(()),
            },
            RelationKind::Partitioned
            | RelationKind::MaterializedView
            | RelationKind::Foreign
            | RelationKind::Sequence => return Ok(()),
        };
        let relation = Relation {
            slice: match &target {
                Source::Table(table) => slice::of_from_item(&parent, table, &visible),
                Source::View(_) => None,
            },
            source: target,
            original: self.text[place.clone()].to_owned(),
            alias: written.is_none().then_some(visible),
            obstacle: child(&parent, K::TABLESAMPLE_CLAUSE).map(|_| "TABLESAMPLE"),
        };
        let relation = Arc::new(relation);
        self.from_items.push((parent, Arc::clone(&relation)));
        self.edits.push((place, vec![Piece::Relation(relation)]));
        Ok(())
    }

    /// A query grouped by a table's key may use its other columns ungrouped
    /// (<https://www.postgresql.org/docs/15/sql-select.html#SQL-GROUPBY>); a merged relation has no key that Postgres
    /// knows of, so they are named. The groups stay the same.
    fn group(&mut self, clause: &SyntaxNode) {
        let Some(list) = child(clause, K::GROUP_BY_LIST) else { return };
        let items = list.children().filter(|item| item.kind() == K::GROUPING_EXPR);
        let grouped: Vec<Vec<String>> = items.filter_map(|item| dotted(&item.children().next()?)).collect();
        for (from_item, relation) in &self.from_items {
            let Source::Table(table) = &relation.source else { continue };
            let level = from_item.ancestors().find(|above| above.kind() == K::SELECT);
            let visible = relation.alias.clone().or_else(|| slice::alias_of(from_item));
            let (Some(visible), true) = (visible, level == clause.parent()) else { continue };
            let is_grouped = |name: &str| {
                grouped.iter().any(|path| match path.as_slice() {
                    [column] => column == name,
                    [.., qualifier, column] => *qualifier == visible && column == name,
                    [] => false,
                })
            };
            let key = table.key.iter().filter_map(|key| table.attribute(*key));
            if table.key.is_empty() || !key.map(|column| &*column.name).all(is_grouped) {
                continue;
            }
            let rest = table.columns.iter().filter(|column| !is_grouped(&column.name) && groupable(column));
            let text: String = rest.map(|column| format!(", {}.{}", quoted(&visible), quoted(&column.name))).collect();
            let end = range(&list).end;
            self.edits.push((end..end, vec![Piece::IfMerged { relation: Arc::clone(relation), text }]));
        }
    }

    /// The template of a view's definition; `None` when no table is under it.
    fn view(&mut self, view: &Table, names: Names<'_>, depth: usize) -> Result<Option<Template>, Report> {
        let Some(definition) = &view.view else { return Ok(None) };
        if depth >= VIEW_DEPTH_MAX {
            return Err(Report::new(FEATURE_NOT_SUPPORTED, "views are nested too deeply"));
        }
        let definition = definition.trim().trim_end_matches(';');
        let names = Names { catalog: names.catalog, search_path: &[] };
        let read = parse::with_tree(definition, |root| {
            let source = Text::read(definition, root, names, depth + 1)?;
            Ok((source.cut(0..definition.len()), source.findings))
        });
        let (template, findings) = read.map_err(|error| {
            Report::new(FEATURE_NOT_SUPPORTED, format!("view \"{}\" is not understood", view.name.name))
                .detail(error.reason)
        })??;
        self.findings.opaque.extend(findings.opaque);
        let mut tables = Vec::new();
        template.tables(&mut tables);
        Ok((!tables.is_empty()).then_some(template))
    }

    fn call(&mut self, node: &SyntaxNode, names: Names<'_>) -> Result<(), Report> {
        let Some(name) = node.children().next().and_then(|callee| dotted(&callee)) else { return Ok(()) };
        let (schema, function) = match name.as_slice() {
            [function] => (None, function),
            [.., schema, function] => (Some(schema), function),
            [] => return Ok(()),
        };
        let known = names.catalog.opaque_functions.get(function);
        let opaque = known.is_some_and(|all| schema.is_none_or(|schema| all.iter().any(|f| &f.schema == schema)));
        if opaque || READS_TABLES.contains(&function.as_str()) {
            self.findings.opaque.push(function.clone());
        }
        if schema.is_some_and(|schema| schema != "pg_catalog") {
            return Ok(());
        }
        match function.as_str() {
            "nextval" => self.nextval(node, names),
            "currval" | "lastval" | "setval" => {
                Err(Report::new(FEATURE_NOT_SUPPORTED, format!("{function}() is not available through pgoutpost yet"))
                    .hint("Use INSERT … RETURNING to learn the value that was taken."))
            }
            _ => Ok(()),
        }
    }

    /// `nextval('s')` where it is evaluated once: in VALUES of an INSERT, or in a SELECT without FROM.
    fn nextval(&mut self, node: &SyntaxNode, names: Names<'_>) -> Result<(), Report> {
        let argument =
            child(node, K::ARG_LIST).and_then(|list| child(&list, K::ARG)).and_then(|arg| arg.children().next());
        let literal = match argument {
            Some(cast) if cast.kind() == K::CAST_EXPR => child(&cast, K::LITERAL),
            other => other.filter(|argument| argument.kind() == K::LITERAL),
        };
        let text = literal.and_then(|literal| token(&literal, K::STRING)).and_then(|t| syntax::plain_string(t.text()));
        let sequence = text.and_then(|text| {
            let path: Option<Vec<String>> = text.split('.').map(syntax::name_of_text).collect();
            let found = names.relation(&path?)?;
            (found.kind == RelationKind::Sequence).then(|| Arc::<str>::from(quoted_as_needed(found)))
        });
        match sequence.filter(|_| evaluated_once(node)) {
            Some(sequence) => {
                let id = self.findings.next_id(&sequence);
                self.edits.push((range(node), vec![id]));
                Ok(())
            }
            None => Err(Report::new(FEATURE_NOT_SUPPORTED, "nextval() cannot be used in this place through pgoutpost")
                .hint("Use it with a literal name, in VALUES or in a SELECT without FROM.")),
        }
    }

    fn system_column(&mut self, node: &SyntaxNode) {
        const SYSTEM: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];
        if let Some(name) = name_of(node)
            && SYSTEM.contains(&name.as_str())
        {
            self.findings.system_column = Some(name);
        }
    }

    /// `schema.table.column` → `table.column`: a subquery's alias has no schema.
    fn unqualify(&mut self, root: &SyntaxNode, unaliased: &[Vec<String>]) {
        if unaliased.is_empty() {
            return;
        }
        for node in root.descendants().filter(|node| node.kind() == K::FIELD_EXPR) {
            let above = node.parent().is_some_and(|parent| parent.kind() == K::FIELD_EXPR);
            let Some(path) = dotted(&node).filter(|path| above && unaliased.contains(path)) else { continue };
            let name = path.last().cloned().unwrap_or_default();
            self.edits.push((range(&node), vec![Piece::Text(syntax::quoted(&name))]));
        }
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

/// Built-in functions that read tables named by text.
const READS_TABLES: [&str; 17] = [
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xmlschema",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xmlschema",
    "database_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "ts_stat",
    "ts_rewrite",
    "crosstab",
];

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

/// Whether an unqualified name means a CTE in this place.
/// <https://www.postgresql.org/docs/15/queries-with.html>
fn is_cte(node: &SyntaxNode, name: &str) -> bool {
    let mut below = node.clone();
    while let Some(above) = below.parent() {
        for clause in above.children().filter(|inner| inner.kind() == K::WITH_CLAUSE) {
            if clause != below && with_tables(&clause).any(|with| named(&with, name)) {
                return true;
            }
        }
        if above.kind() == K::WITH_CLAUSE {
            let recursive = syntax::has_token(&above, K::RECURSIVE_KW);
            let visible = with_tables(&above).take_while(|with| recursive || *with != below);
            if visible.into_iter().any(|with| named(&with, name)) {
                return true;
            }
        }
        below = above;
    }
    false
}

fn with_tables(clause: &SyntaxNode) -> impl Iterator<Item = SyntaxNode> {
    clause.children().filter(|inner| inner.kind() == K::WITH_TABLE)
}

fn named(with: &SyntaxNode, name: &str) -> bool {
    child(with, K::CTE_NAME).and_then(|cte| name_of(&cte)).as_deref() == Some(name)
}

/// Whether the expression is in a VALUES row of the statement, or in the select list of a query without FROM.
fn evaluated_once(node: &SyntaxNode) -> bool {
    for above in node.ancestors().skip(1) {
        match above.kind() {
            K::ROW => return above.ancestors().nth(3).is_some_and(|insert| insert.kind() == K::INSERT),
            K::SELECT => {
                let top = above.parent().is_some_and(|parent| parent.kind() == K::SOURCE_FILE);
                let once = |kind| child(&above, kind).is_none();
                return top && once(K::FROM_CLAUSE) && once(K::WHERE_CLAUSE);
            }
            K::PAREN_SELECT | K::SET_CLAUSE | K::RETURNING_CLAUSE => return false,
            _ => {}
        }
    }
    false
}

/// As Postgres prints names: quoted where needed only.
fn quoted_as_needed(table: &Table) -> String {
    let quote = |name: &str| {
        let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if plain { squawk_syntax::quote::quote_ident(name) } else { syntax::quoted(name) }
    };
    format!("{}.{}", quote(&table.name.schema), quote(&table.name.name))
}
