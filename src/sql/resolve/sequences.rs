//! Calls of `nextval`, `currval` and `lastval`: their sequence is found, and values that the session has leased take
//! their place.
//!
//! Where it is certain that a call is evaluated once, its value stands in its place. Elsewhere ("counted" statements)
//! Postgres decides how often and in which order: values travel as an array, indexed by a setting that each evaluation
//! moves on; `set_config` is volatile, never run in parallel, and allowed on a standby.

use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::Report;
use super::super::syntax::{self, child, dotted, name_of_text, range, token};
use super::super::template::Piece;
use super::{Findings, Names, Text};
use crate::catalog::{RelationKind, Table};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// What a statement does with a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceUse {
    /// Quoted and qualified.
    pub name: Arc<str>,
    /// How many values an execution takes at least; exactly, unless the statement is counted.
    pub values: usize,
    /// Whether the role must have the right to take values (an identity column's are free).
    pub takes: bool,
    /// Whether it must have the right to look at the value taken last.
    pub looks: bool,
}

impl Findings {
    /// The place of a sequence among those used.
    fn sequence(&mut self, name: &Arc<str>) -> usize {
        match self.sequences.iter().position(|known| known.name == *name) {
            Some(place) => place,
            None => {
                self.sequences.push(SequenceUse { name: Arc::clone(name), values: 0, takes: false, looks: false });
                self.sequences.len() - 1
            }
        }
    }

    /// The next value of a sequence. `free`: taken without a right to it.
    pub(in super::super) fn next_id(&mut self, name: &Arc<str>, free: bool) -> Piece {
        let place = self.sequence(name);
        let sequence = &mut self.sequences[place];
        sequence.values += 1;
        sequence.takes |= !free;
        Piece::Id { sequence: place, place: sequence.values - 1 }
    }

    fn current_id(&mut self, name: &Arc<str>, call: &str) -> Piece {
        let sequence = self.sequence(name);
        self.sequences[sequence].looks = true;
        self.counted = true;
        Piece::CurrentId { sequence, call: call.to_owned() }
    }
}

impl Text<'_> {
    /// One of the functions about sequences.
    pub(super) fn sequence_call(&mut self, function: &str, node: &SyntaxNode, names: Names<'_>) -> Result<(), Report> {
        let call = self.text[range(node)].to_owned();
        let piece = match function {
            "lastval" => {
                self.findings.counted = true;
                Piece::LastId { call }
            }
            "setval" => {
                return Err(Report::new(FEATURE_NOT_SUPPORTED, "setval() cannot be buffered")
                    .hint("Run it in a statement of its own, when main can be reached."));
            }
            _ => {
                let Some(sequence) = sequence(function, node, names)? else { return Ok(()) };
                match function {
                    "currval" => self.findings.current_id(&sequence, &call),
                    _ => {
                        self.findings.counted |= !evaluated_once(node);
                        self.findings.next_id(&sequence, false)
                    }
                }
            }
        };
        self.edits.push((range(node), vec![piece]));
        Ok(())
    }
}

/// The sequence that the call names; `None`: there is none by this name, and Postgres says so itself.
fn sequence(function: &str, node: &SyntaxNode, names: Names<'_>) -> Result<Option<Arc<str>>, Report> {
    let unknown = || {
        Report::new(FEATURE_NOT_SUPPORTED, format!("{function}() of a sequence that is not named by a literal"))
            .hint("Write the sequence's name as a literal, or use pg_get_serial_sequence with literals.")
    };
    let arguments = arguments(node);
    let [argument] = arguments.as_slice() else { return Ok(None) };
    let argument = uncast(argument.clone());
    if argument.kind() == K::CALL_EXPR {
        return serial_sequence(&argument, names).ok_or_else(unknown).map(Some);
    }
    let text = literal(&argument).ok_or_else(unknown)?;
    let Some(path) = regclass(&text) else { return Ok(None) };
    let found = names.relation(&path).filter(|found| found.kind == RelationKind::Sequence);
    Ok(found.map(|found| quoted_as_needed(found).into()))
}

fn arguments(call: &SyntaxNode) -> Vec<SyntaxNode> {
    let arguments = child(call, K::ARG_LIST);
    let arguments = arguments.iter().flat_map(SyntaxNode::children).filter(|inner| inner.kind() == K::ARG);
    arguments.filter_map(|argument| argument.children().next()).collect()
}

/// What is left of `'s'::text::regclass` and `('s')`.
fn uncast(mut node: SyntaxNode) -> SyntaxNode {
    while matches!(node.kind(), K::CAST_EXPR | K::PAREN_EXPR)
        && let Some(inner) = node
            .children()
            .find(|inner| matches!(inner.kind(), K::CAST_EXPR | K::PAREN_EXPR | K::LITERAL | K::CALL_EXPR))
    {
        node = inner;
    }
    node
}

fn literal(node: &SyntaxNode) -> Option<String> {
    let literal = (node.kind() == K::LITERAL).then_some(node)?;
    if let Some(plain) = token(literal, K::STRING) {
        return syntax::plain_string(plain.text());
    }
    let quoted = token(literal, K::DOLLAR_QUOTED_STRING)?;
    let text = quoted.text().strip_prefix("$$")?.strip_suffix("$$")?;
    Some(text.to_owned())
}

/// The names in a text as `regclass` reads it; `None`: it is not one.
fn regclass(text: &str) -> Option<Vec<String>> {
    let (mut path, mut rest) = (Vec::new(), text.trim());
    loop {
        let end = match rest.strip_prefix('"') {
            Some(inner) => {
                let mut end = 1 + inner.find('"')?;
                while rest[end + 1..].starts_with('"') {
                    end += 2 + rest[end + 2..].find('"')?;
                }
                end + 1
            }
            None => rest.find(['.', ' ', '\t', '\n']).unwrap_or(rest.len()),
        };
        path.push(name_of_text(&rest[..end]).filter(|name| !name.is_empty())?);
        rest = rest[end..].trim_start();
        match rest.strip_prefix('.') {
            Some(next) => rest = next.trim_start(),
            None if rest.is_empty() => return Some(path),
            None => return None,
        }
    }
}

/// `pg_get_serial_sequence('table', 'column')`
fn serial_sequence(call: &SyntaxNode, names: Names<'_>) -> Option<Arc<str>> {
    let name = call.children().next().and_then(|callee| dotted(&callee))?;
    if name.last().is_none_or(|name| name != "pg_get_serial_sequence") {
        return None;
    }
    let arguments: Vec<String> =
        arguments(call).into_iter().map(|node| literal(&uncast(node))).collect::<Option<_>>()?;
    let [table, column] = arguments.as_slice() else { return None };
    let table = names.relation(&regclass(table)?)?;
    table.column(column)?.sequence.clone()
}

/// Whether the call is, bare or cast, a value of a VALUES row of the statement, or a column of a SELECT that is nothing
/// but a list of such.
fn evaluated_once(node: &SyntaxNode) -> bool {
    let Some(place) = node.ancestors().skip(1).find(|above| !matches!(above.kind(), K::CAST_EXPR | K::PAREN_EXPR))
    else {
        return false;
    };
    match place.kind() {
        K::ROW => place.ancestors().nth(3).is_some_and(|insert| insert.kind() == K::INSERT),
        K::TARGET => {
            let select = place.ancestors().find(|above| above.kind() == K::SELECT);
            select.is_some_and(|select| {
                let top = select.parent().is_some_and(|parent| parent.kind() == K::SOURCE_FILE);
                let bare = select.children().all(|part| part.kind() == K::SELECT_CLAUSE);
                let calls = select.descendants().filter(|inner| inner.kind() == K::CALL_EXPR);
                let plain = |call: SyntaxNode| {
                    let name = call.children().next().and_then(|callee| dotted(&callee));
                    name.is_some_and(|name| name.last().is_some_and(|name| name == "nextval"))
                };
                top && bare && calls.into_iter().all(plain)
            })
        }
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use super::regclass;

    #[test]
    fn names_are_read_as_regclass_reads_them() {
        let path = |text: &str| regclass(text).map(|path| path.join("|"));
        assert_eq!(path("S").as_deref(), Some("s"));
        assert_eq!(path(" public . \"My.S\" ").as_deref(), Some("public|My.S"));
        assert_eq!(path("\"a\"\"b\"").as_deref(), Some("a\"b"));
        assert_eq!(path("s s"), None);
        assert_eq!(path("\"s"), None);
        assert_eq!(path(""), None);
    }
}
