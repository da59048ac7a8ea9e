//! Functions that may read tables and are called without their name: in attribute notation (`t.f` is `f(t)`), by operators
//! and casts (<https://www.postgresql.org/docs/15/sql-createcast.html>). By names, not by types: better once too often.

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::repeated::mentions;
use super::super::syntax::{dotted, has_token, name_of};
use super::scope::{Item, Scopes};
use super::{Names, Text};
use crate::catalog::IndirectCall;

impl Text<'_> {
    /// A field of something: perhaps a function of it.
    pub(super) fn attribute(&mut self, node: &SyntaxNode, scopes: &Scopes, names: Names<'_>) {
        let callee =
            |above: &SyntaxNode| above.kind() == K::CALL_EXPR && above.children().next().as_ref() == Some(node);
        if has_token(node, K::STAR) || node.parent().is_some_and(|above| callee(&above)) {
            return;
        }
        let Some(name) = node.children().filter(|inner| inner.kind() == K::NAME_REF).last().and_then(|n| name_of(&n))
        else {
            return;
        };
        if !names.catalog.opaque_functions.contains_key(&name) {
            return;
        }
        let item = |path: &[String]| match path {
            [name, _] => scopes.named(node, name),
            [.., schema, name, _] => scopes.qualified(node, schema, name),
            _ => None,
        };
        let is_column = match dotted(node) {
            Some(path) => match item(&path) {
                Some(item) if item.table.is_some() => item.visible_columns().contains(&name),
                // Of what is not looked into: it has the columns of what it is made of.
                Some(_) | None => scopes.items.iter().any(|item| item.visible_columns().contains(&name)),
            },
            None => {
                let row = node.children().next().and_then(|of| of.children().next()).and_then(|of| dotted(&of));
                let item = row.and_then(|path| scopes.named(node, path.first().filter(|_| path.len() == 1)?));
                item.is_some_and(|item| item.visible_columns().contains(&name))
            }
        };
        if !is_column {
            self.findings.opaque.push(name);
        }
    }

    /// Operators and casts in everything under `root`.
    pub(super) fn indirect_calls(&mut self, root: &SyntaxNode, scopes: &Scopes, names: Names<'_>) {
        let all = &names.catalog.indirect_calls;
        if all.is_empty() {
            return;
        }
        let operators = operators(root);
        let casts = root.descendants().filter(|node| node.kind() == K::CAST_EXPR);
        let casts: Vec<String> = casts.filter_map(|cast| Some(cast.children().last()?.text().to_string())).collect();
        let writes = root.descendants().any(|node| matches!(node.kind(), K::INSERT | K::UPDATE | K::MERGE));
        for call in all {
            let is_written = match call.operator {
                true => operators.iter().any(|run| call.names.iter().any(|name| run.contains(name))),
                false => casts.iter().any(|cast| call.names.iter().any(|name| mentions(cast, name))),
            };
            let of_type = |name: &String| mentions(self.text, name) || scopes.items.iter().any(|item| has(item, name));
            let may_be = match call.types.is_empty() {
                true => is_written,
                false => (is_written || call.implicit || (call.assigned && writes)) && call.types.iter().any(of_type),
            };
            if may_be {
                self.findings.opaque.push(call.function.clone());
            }
        }
    }
}

/// Whether the item's rows, or columns of it, are of the type.
fn has(item: &Item, name: &str) -> bool {
    item.table.as_ref().is_some_and(|table| {
        *table.name.name == *name || table.columns.iter().any(|column| mentions(&column.full_type_name, name))
    })
}

/// What stands together of the characters that operators are made of.
fn operators(root: &SyntaxNode) -> Vec<String> {
    let mut runs: Vec<(usize, String)> = Vec::new();
    for token in root.descendants_with_tokens().filter_map(rowan::NodeOrToken::into_token) {
        let text = token.text();
        if token.kind().is_trivia() || !text.chars().all(|letter| "+-*/<>=~!@#%^&|`?".contains(letter)) {
            continue;
        }
        let range: std::ops::Range<usize> = token.text_range().into();
        match runs.last_mut().filter(|(end, _)| *end == range.start) {
            Some((end, run)) => {
                *end = range.end;
                run.push_str(text);
            }
            None => runs.push((range.end, text.to_owned())),
        }
    }
    runs.into_iter().map(|(_, run)| run).collect()
}

/// The same in an expression that Postgres has printed: `OPERATOR(s.@@)`, `x::s.t`.
pub(super) fn in_expression(expression: &str, names: Names<'_>) -> Option<String> {
    let is_in = |call: &&IndirectCall| match call.operator {
        true => expression.match_indices("OPERATOR(").any(|(at, word)| {
            let rest = expression[at + word.len()..].split(')').next().unwrap_or_default();
            call.names.iter().any(|name| rest.ends_with(name.as_str()))
        }),
        false => {
            expression.split("::").skip(1).any(|cast| {
                let cast: String = cast.chars().take_while(|c| c.is_alphanumeric() || "_\". ".contains(*c)).collect();
                call.names.iter().any(|name| mentions(&cast, name))
            }) && call.types.iter().any(|name| mentions(expression, name))
        }
    };
    names.catalog.indirect_calls.iter().find(is_in).map(|call| call.function.clone())
}
