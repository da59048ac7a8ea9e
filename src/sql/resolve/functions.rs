//! Function calls that mean more than a value: those that may read tables, and those that take values of sequences.

use std::borrow::Cow;

use squawk_syntax::SyntaxNode;

use super::super::Report;
use super::super::syntax::dotted;
use super::{Names, Text, indirect};

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
        let is_cast = || schema.is_none() && names.catalog.indirect_calls.iter().any(|call| call.is_cast_to(function));
        if opaque || is_cast() || READS_TABLES.contains(&function.as_str()) {
            self.findings.opaque.push(function.clone());
        }
        if schema.is_some_and(|schema| schema != "pg_catalog") {
            return Ok(());
        }
        match function.as_str() {
            "nextval" | "currval" | "lastval" | "setval" => self.sequence_call(function, node, names),
            _ => Ok(()),
        }
    }
}

/// A function that may read tables, called in an expression of the catalog. By its words: better once too often.
pub(in super::super) fn opaque_call(expression: &str, names: Names<'_>) -> Option<String> {
    let opaque = |name: &str| names.catalog.opaque_functions.contains_key(name) || READS_TABLES.contains(&name);
    let called = called(expression).find(|name| opaque(name)).map(Cow::into_owned);
    called.or_else(|| indirect::in_expression(expression, names))
}

/// What stands before the brackets of a text, as Postgres folds names: the functions that it may call, and more.
pub(in super::super) fn called(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    text.match_indices('(').filter_map(|(at, _)| {
        let before = text[..at].trim_ascii_end();
        let name = match before.strip_suffix('"') {
            Some(quoted) => return quoted.rsplit('"').next().map(Cow::Borrowed),
            None => before.rsplit(|letter: char| !(letter.is_alphanumeric() || "_$".contains(letter))).next()?,
        };
        match name.bytes().any(|letter| letter.is_ascii_uppercase()) {
            _ if name.is_empty() => None,
            true => Some(Cow::Owned(name.to_ascii_lowercase())),
            false => Some(Cow::Borrowed(name)),
        }
    })
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
