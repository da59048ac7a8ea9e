//! Which unique indexes ON CONFLICT means
//! (<https://www.postgresql.org/docs/15/sql-insert.html#SQL-ON-CONFLICT>).
//!
//! Columns and constraints are matched by name, expressions and predicates by their words. Where Postgres, which knows
//! what implies what, might choose otherwise, the statement is left to main.

use squawk_lexer::{TokenKind, tokenize};
use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::Report;
use super::super::syntax::{child, name_of, path_of, range};
use super::build::Builder;
use crate::catalog::{AttNum, IndexItem, Table, UniqueIndex};
use crate::sqlstate::{FEATURE_NOT_SUPPORTED, INVALID_COLUMN_REFERENCE, WRONG_OBJECT_TYPE};

/// The places of the arbiters among the table's unique indexes; all of them when the client names none.
pub(super) fn arbiters(builder: &Builder<'_>, clause: &SyntaxNode) -> Result<Vec<usize>, Report> {
    let table = builder.table;
    let all = 0..table.unique.len();
    let found: Vec<usize> = if let Some(named) = child(clause, K::CONFLICT_ON_CONSTRAINT) {
        let name = child(&named, K::CONSTRAINT_NAME_REF).and_then(|name| path_of(&name)?.pop()).unwrap_or_default();
        let is_it = |place: &usize| table.unique[*place].constraint && name == table.unique[*place].name;
        // Names that no constraint of the table has, an index's for one, are Postgres' to complain of in its analysis; that
        // it is a CHECK or a foreign key, its planner would say.
        let wrong = || Report::new(WRONG_OBJECT_TYPE, "constraint in ON CONFLICT clause has no associated index");
        let place = all.into_iter().find(is_it).ok_or_else(wrong)?;
        vec![place]
    } else if let Some(described) = child(clause, K::CONFLICT_ON_INDEX) {
        inferred(builder, &described)?
    } else {
        all.collect()
    };
    match found.iter().find(|&&place| table.unique[place].deferrable) {
        Some(_) => Err(unknown("a deferrable constraint as arbiter")),
        None => Ok(found),
    }
}

fn unknown(what: &str) -> Report {
    Report::new(FEATURE_NOT_SUPPORTED, format!("ON CONFLICT with {what} cannot be buffered"))
        .hint("Name the constraint: ON CONFLICT ON CONSTRAINT ….")
}

fn inferred(builder: &Builder<'_>, described: &SyntaxNode) -> Result<Vec<usize>, Report> {
    let source = builder.request.source;
    let (mut columns, mut expressions) = (Vec::new(), Vec::new());
    let list = child(described, K::CONFLICT_INDEX_ITEM_LIST);
    for item in list.iter().flat_map(SyntaxNode::children).filter(|item| item.kind() == K::CONFLICT_INDEX_ITEM) {
        let Some(inner) = item.children().next() else { continue };
        if inner.kind() == K::COLLATE || child(&item, K::OP_CLASS_REF).is_some() {
            return Err(unknown("a collation or operator class"));
        }
        let column = name_of(&inner).filter(|_| inner.kind() == K::NAME_REF);
        match column.and_then(|name| builder.table.column(&name)) {
            Some(column) => columns.push(column.attnum),
            None => expressions.push(words(source.written(range(&inner)))),
        }
    }
    let condition = child(described, K::WHERE_CLAUSE).and_then(|clause| clause.children().next());
    let condition = condition.map(|condition| words(source.written(range(&condition))));
    let (mut certain, mut doubtful) = (Vec::new(), false);
    for (place, index) in builder.table.unique.iter().enumerate() {
        if !has_columns(index, &columns, expressions.len()) {
            continue;
        }
        let implied = match (&index.predicate, &condition) {
            (None, _) => true,
            (Some(_), None) => continue,
            (Some(predicate), Some(condition)) => words(predicate) == *condition && !mixes(condition),
        };
        if implied && has_expressions(index, &expressions) {
            certain.push(place);
        } else {
            doubtful = true;
        }
    }
    let is_odd = |item: &IndexItem| matches!(item, IndexItem::Expression { is_odd: true, .. });
    doubtful |= certain.is_empty() && builder.table.unique.iter().any(|index| index.items.iter().any(is_odd));
    match (certain.is_empty(), doubtful) {
        (_, true) => Err(unknown("an expression or predicate that is not worded as the index's")),
        (true, false) => Err(Report::new(
            INVALID_COLUMN_REFERENCE,
            "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        )),
        (false, false) => Ok(certain),
    }
}

fn has_columns(index: &UniqueIndex, columns: &[AttNum], expressions: usize) -> bool {
    let plain: Vec<AttNum> = index.items.iter().filter_map(column).collect();
    let same = plain.iter().all(|own| columns.contains(own)) && columns.iter().all(|named| plain.contains(named));
    same && (plain.len() < index.items.len()) == (expressions > 0)
}

fn column(item: &IndexItem) -> Option<AttNum> {
    match item {
        IndexItem::Column(attnum) => Some(*attnum),
        IndexItem::Expression { .. } => None,
    }
}

fn has_expressions(index: &UniqueIndex, named: &[Vec<String>]) -> bool {
    let own: Vec<Vec<String>> = index
        .items
        .iter()
        .filter_map(|item| match item {
            IndexItem::Expression { text, .. } => Some(words(text)),
            IndexItem::Column(_) => None,
        })
        .collect();
    own.iter().all(|own| named.contains(own)) && named.iter().all(|named| own.contains(named))
}

/// Without brackets `a AND b OR c` says nothing.
fn mixes(words: &[String]) -> bool {
    words.iter().any(|word| word == "and") && words.iter().any(|word| word == "or")
}

/// An expression's words, without what Postgres adds when it prints one: brackets, casts, qualifiers.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut start) = (Vec::<String>::new(), 0);
    let mut cast = false;
    for token in tokenize(text) {
        let word = &text[start..start + token.len as usize];
        start += token.len as usize;
        match token.kind {
            TokenKind::Whitespace | TokenKind::LineComment | TokenKind::BlockComment { .. } => continue,
            TokenKind::OpenParen | TokenKind::CloseParen => cast = false,
            TokenKind::Dot => drop(words.pop()),
            TokenKind::Colon => cast = true,
            TokenKind::OpenBracket | TokenKind::CloseBracket if cast => {}
            TokenKind::Ident if cast => {
                // Types of several words.
                let more = ["character", "double", "timestamp", "time", "with", "without", "bit"];
                cast = more.contains(&word.to_ascii_lowercase().as_str());
            }
            TokenKind::Ident => words.push(word.to_ascii_lowercase()),
            TokenKind::QuotedIdent { .. } => words.push(word.trim_matches('"').to_owned()),
            _ => {
                cast = false;
                words.push(word.to_owned());
            }
        }
    }
    words
}

/// Whether the key of rows is the only arbiter.
pub(super) fn is_key_alone(table: &Table, arbiters: &[usize]) -> bool {
    matches!(arbiters, [only] if super::unique::is_key(table, &table.unique[*only]) && table.unique[*only].predicate.is_none())
}
