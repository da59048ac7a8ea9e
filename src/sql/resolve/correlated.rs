//! Sub-selects that are run once for each outer row: by which value they look for theirs.
//!
//! `(SELECT max(n) FROM b WHERE b.a = o.id)`: each run of it would look at every pending row of `b`, so these are shipped
//! as a map by the value of `a` ([`super::super::merge`]). Only an optimisation: the client's own condition stays.

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::slice;
use super::super::syntax::{child, dotted, has_token, quoted, tokens};
use super::scope::Scopes;
use crate::catalog::{AttNum, Table};

/// A column of the relation, and the value that it has to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Correlation {
    pub(in super::super) column: AttNum,
    /// A column of an outer query, as SQL.
    pub(in super::super) outer: String,
}

/// What the WHERE of a relation's own query says of an outer row.
pub(super) fn of_from_item(item: &SyntaxNode, table: &Table, alias: &str, scopes: &Scopes) -> Option<Correlation> {
    let (query, clause, alone) = slice::condition_of(item)?;
    if !runs_for_each_row(&query) || child(&query, K::LOCKING_CLAUSE).is_some() {
        return None;
    }
    let reference = slice::Reference { table, alias, alone };
    slice::conjuncts(&clause).iter().find_map(|node| {
        let sides: Vec<_> = node.children().collect();
        let [left, right] = sides.as_slice() else { return None };
        if !tokens(node).map(|token| token.kind()).eq([K::EQ]) {
            return None;
        }
        let (column, other) = match slice::column_of(left, &reference) {
            Some(column) => (column, right),
            None => (slice::column_of(right, &reference)?, left),
        };
        let path = dotted(other)?;
        let [name, wanted] = path.as_slice() else { return None };
        let outer = scopes.named(other, name)?;
        let is_outer = !query.text_range().contains_range(outer.node.text_range());
        let renames = outer.node.descendants().any(|inner| inner.kind() == K::COLUMN_LIST);
        if !is_outer || outer.is_target() || outer.unique.is_some() || renames {
            return None;
        }
        let theirs = outer.table.as_ref()?.column(wanted)?;
        slice::has_one_text(column, theirs)
            .then(|| Correlation { column: column.attnum, outer: format!("{}.{}", quoted(name), quoted(wanted)) })
    })
}

/// Whether Postgres runs the query anew for each outer row. EXISTS, IN, and a LATERAL query that does nothing but join
/// become joins, and these hash.
fn runs_for_each_row(query: &SyntaxNode) -> bool {
    let mut around = query.ancestors().skip(1);
    let Some(parent) = around.next() else { return false };
    match parent.kind() {
        K::ARRAY_EXPR => true,
        K::PAREN_EXPR => around.find(|above| above.kind() != K::PAREN_EXPR).is_some_and(|above| match above.kind() {
            K::BIN_EXPR => !has_token(&above, K::IN_KW) && child(&above, K::NOT_IN).is_none(),
            K::EXISTS_FN | K::ANY_FN | K::ALL_FN | K::SOME_FN | K::PAREN_FROM_ITEM => false,
            _ => true,
        }),
        K::PAREN_SELECT => around.next().is_some_and(|above| {
            above.kind() == K::PAREN_FROM_ITEM && has_token(&above, K::LATERAL_KW) && stays_apart(query)
        }),
        _ => false,
    }
}

/// Whether a subquery in FROM is more than a join.
fn stays_apart(query: &SyntaxNode) -> bool {
    const AGGREGATES: [&str; 11] = [
        "count",
        "max",
        "min",
        "sum",
        "avg",
        "array_agg",
        "string_agg",
        "json_agg",
        "jsonb_agg",
        "bool_or",
        "bool_and",
    ];
    let targets = child(query, K::SELECT_CLAUSE);
    let clauses = [K::LIMIT_CLAUSE, K::FETCH_CLAUSE, K::ORDER_BY_CLAUSE, K::GROUP_BY_CLAUSE, K::HAVING_CLAUSE];
    let aggregates = |call: SyntaxNode| {
        let name = call.children().next().and_then(|callee| dotted(&callee));
        name.is_some_and(|name| name.last().is_some_and(|name| AGGREGATES.contains(&name.as_str())))
    };
    let mut calls = targets.iter().flat_map(SyntaxNode::descendants).filter(|node| node.kind() == K::CALL_EXPR);
    clauses.into_iter().any(|kind| child(query, kind).is_some())
        || targets.iter().any(|targets| child(targets, K::DISTINCT_CLAUSE).is_some())
        || calls.any(aggregates)
}
