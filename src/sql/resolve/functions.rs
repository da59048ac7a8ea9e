//! Function calls that mean more than a value: those that may read tables, and those that take values of sequences.

use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::Report;
use super::super::syntax::{self, child, dotted, range, token};
use super::{Names, Text};
use crate::catalog::{RelationKind, Table};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

impl Text<'_> {
    pub(super) fn call(&mut self, node: &SyntaxNode, names: Names<'_>) -> Result<(), Report> {
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
