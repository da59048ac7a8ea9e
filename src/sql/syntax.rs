//! Small readings of the syntax tree, and the writing of names and literals.

use squawk_syntax::{SyntaxKind, SyntaxNode, SyntaxToken};

use SyntaxKind::PATH_SEGMENT_REF;

/// The name an identifier token means: folded to lower case unless quoted. `None`: Unicode escapes, which we do not read.
pub(super) fn name_of_text(text: &str) -> Option<String> {
    let mut name = unfolded(text)?;
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    Some(name)
}

/// Postgres cuts longer names (`NAMEDATALEN` - 1).
const NAME_BYTES_MAX: usize = 63;

fn unfolded(text: &str) -> Option<String> {
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => Some(quoted.replace("\"\"", "\"")),
        None if text.starts_with("U&") || text.starts_with("u&") => None,
        None => Some(text.to_ascii_lowercase()),
    }
}

/// The name in a node that consists of one identifier (`NAME_REF`, `TABLE_ALIAS`, `COLUMN_NAME` …).
pub(super) fn name_of(node: &SyntaxNode) -> Option<String> {
    let token = tokens(node).next()?;
    name_of_text(token.text())
}

/// The parts of a dotted name under this node (`RELATION_NAME_REF`, `PATH_REF`, `TABLE_NAME_REF` …).
pub(super) fn path_of(node: &SyntaxNode) -> Option<Vec<String>> {
    let segments = node.descendants().filter(|child| child.kind() == PATH_SEGMENT_REF);
    segments.map(|segment| name_of(&segment)).collect()
}

/// The parts of a dotted name in an expression (`FIELD_EXPR` of `NAME_REF`s, or one `NAME_REF`).
pub(super) fn dotted(node: &SyntaxNode) -> Option<Vec<String>> {
    match node.kind() {
        SyntaxKind::NAME_REF => Some(vec![name_of(node)?]),
        SyntaxKind::FIELD_EXPR => {
            let mut parts = Vec::new();
            for child in node.children() {
                match child.kind() {
                    SyntaxKind::NAME_REF | SyntaxKind::FIELD_EXPR => parts.extend(dotted(&child)?),
                    _ => return None,
                }
            }
            Some(parts)
        }
        _ => None,
    }
}

/// The first child node of this kind.
pub(super) fn child(node: &SyntaxNode, kind: SyntaxKind) -> Option<SyntaxNode> {
    node.children().find(|child| child.kind() == kind)
}

/// The WITH that a statement or query begins with: our parser has the one of a UNION in its first arm.
pub(super) fn leading_with(node: &SyntaxNode) -> Option<SyntaxNode> {
    let start = range(node).start;
    let firsts = std::iter::successors(node.children().next(), |first| first.children().next());
    firsts.take_while(|first| range(first).start == start).find(|first| first.kind() == SyntaxKind::WITH_CLAUSE)
}

/// Whether a direct child token of this kind exists.
pub(super) fn has_token(node: &SyntaxNode, kind: SyntaxKind) -> bool {
    token(node, kind).is_some()
}

/// The first direct child token of this kind.
pub(super) fn token(node: &SyntaxNode, kind: SyntaxKind) -> Option<SyntaxToken> {
    tokens(node).find(|token| token.kind() == kind)
}

/// The direct child tokens, without blanks and comments.
pub(super) fn tokens(node: &SyntaxNode) -> impl Iterator<Item = SyntaxToken> + use<> {
    node.children_with_tokens().filter_map(rowan::NodeOrToken::into_token).filter(|token| !token.kind().is_trivia())
}

/// The words of a node's text, upper case, without comments: for statements that are told apart by keywords.
pub(super) fn words(node: &SyntaxNode) -> Vec<String> {
    let all = node.descendants_with_tokens().filter_map(rowan::NodeOrToken::into_token);
    all.filter(|token| !token.kind().is_trivia()).map(|token| token.text().to_ascii_uppercase()).collect()
}

/// Byte range of a node within the text it was parsed from.
pub(super) fn range(node: &SyntaxNode) -> std::ops::Range<usize> {
    node.text_range().into()
}

/// The identifier, always quoted.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether a value is NULL; a composite one of NULLs only is not, though it `IS NULL`.
pub(super) const IS_NULL: &str = "IS NOT DISTINCT FROM NULL";
pub(super) const IS_GIVEN: &str = "IS DISTINCT FROM NULL";

/// A string literal that means `text` under any `standard_conforming_strings`.
pub(super) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// What a plain string literal token (`'it''s'`) means; `None` for other forms and for backslashes.
pub(super) fn plain_string(text: &str) -> Option<String> {
    let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
    (!inner.contains('\\') && !inner.contains("'\n")).then(|| inner.replace("''", "'"))
}
