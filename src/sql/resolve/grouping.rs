//! GROUP BY of a table's key.

use std::collections::HashSet;
use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::slice;
use super::super::syntax::{child, dotted, has_token, name_of, quoted, range, token};
use super::super::template::Piece;
use super::{Source, Text};
use crate::catalog::Column;

impl Text<'_> {
    /// A query grouped by a table's key may use its other columns ungrouped
    /// (<https://www.postgresql.org/docs/15/sql-select.html#SQL-GROUPBY>); a merged relation has no key that Postgres
    /// knows of, so those that it uses are named. The groups stay the same.
    pub(super) fn group(&mut self, clause: &SyntaxNode) {
        let Some(list) = child(clause, K::GROUP_BY_LIST) else { return };
        let grouped: Vec<Vec<String>> = list.children().filter_map(|item| grouped_column(&item)).collect();
        let sets: Vec<Vec<String>> = list
            .children()
            .filter(|item| item.kind() != K::GROUPING_EXPR)
            .flat_map(|item| columns_of_sets(&item))
            .collect();
        let Some(query) = clause.parent() else { return };
        let used = Used::by(&query);
        for (from_item, relation) in &self.from_items {
            let Source::Table(table) = &relation.source else { continue };
            // The columns may have other names here.
            if from_item.descendants().any(|inner| inner.kind() == K::COLUMN_LIST) {
                continue;
            }
            let level = from_item.ancestors().find(|above| above.kind() == K::SELECT);
            let visible = relation.alias.clone().or_else(|| slice::alias_of(from_item));
            let (Some(visible), true) = (visible, level.as_ref() == Some(&query)) else { continue };
            let names = |paths: &[Vec<String>], name: &str| {
                paths.iter().any(|path| match path.as_slice() {
                    [column] => column == name,
                    [.., qualifier, column] => *qualifier == visible && column == name,
                    [] => false,
                })
            };
            let is_grouped = |name: &str| names(&grouped, name);
            let key = table.key.iter().filter_map(|key| table.attribute(*key));
            if table.key.is_empty() || !key.map(|column| &*column.name).all(is_grouped) {
                continue;
            }
            // What only some grouping sets have is NULL in the others: in each set it would be another query.
            let bare = |column: &&Column| !is_grouped(&column.name) && !names(&sets, &column.name);
            let rest = table.columns.iter().filter(bare);
            let rest = rest.filter(|column| used.has(&visible, &column.name) && groupable(column));
            let text: String = rest.map(|column| format!(", {}.{}", quoted(&visible), quoted(&column.name))).collect();
            let end = range(&list).end;
            let piece = Piece::IfMerged { relation: Arc::clone(relation), merged: text, otherwise: String::new() };
            self.edits.push((end..end, vec![piece]));
        }
    }
}

/// Names that a query has outside of FROM, WHERE and GROUP BY.
struct Used {
    names: HashSet<String>,
    /// All columns of everything.
    star: bool,
}

impl Used {
    fn by(query: &SyntaxNode) -> Used {
        let elsewhere =
            |node: &SyntaxNode| !matches!(node.kind(), K::FROM_CLAUSE | K::WHERE_CLAUSE | K::GROUP_BY_CLAUSE);
        let (mut names, mut star) = (HashSet::new(), false);
        for node in query.children().filter(elsewhere).flat_map(|part| part.descendants()) {
            match node.kind() {
                K::NAME_REF => names.extend(name_of(&node)),
                K::TARGET | K::FIELD_EXPR => star |= has_token(&node, K::STAR),
                _ => {}
            }
        }
        Used { names, star }
    }

    /// The relation as a whole is all of its columns.
    fn has(&self, relation: &str, column: &str) -> bool {
        self.star || self.names.contains(column) || self.names.contains(relation)
    }
}

/// Whether GROUP BY can take the column.
fn groupable(column: &Column) -> bool {
    !column.is_composite && !WITHOUT_EQUALITY.contains(&column.base_type_oid)
}

/// Types without an equality to group by: json, xml, point, lseg, path, box, polygon, line, circle, refcursor, txid_snapshot,
/// pg_snapshot, jsonpath, and arrays of them.
const WITHOUT_EQUALITY: [u32; 26] = [
    114, 142, 600, 601, 602, 603, 604, 628, 718, 1790, 2970, 5038, 4072, 199, 143, 1017, 1018, 1019, 1020, 1027, 629,
    719, 2201, 2949, 5039, 4073,
];

/// The column by which this item of GROUP BY groups, by its name or by its place in the output.
fn grouped_column(item: &SyntaxNode) -> Option<Vec<String>> {
    let mut by = (item.kind() == K::GROUPING_EXPR).then(|| item.children().next()).flatten()?;
    while by.kind() == K::PAREN_EXPR {
        by = by.children().next()?;
    }
    if by.kind() == K::LITERAL { output_column(&by) } else { dotted(&by) }
}

/// The columns that grouping sets name, also by their names or places in the output; perhaps some others.
fn columns_of_sets(sets: &SyntaxNode) -> Vec<Vec<String>> {
    let mut columns = Vec::new();
    for node in sets.descendants() {
        match node.kind() {
            K::LITERAL => columns.extend(output_column(&node)),
            K::NAME_REF => {
                let Some(name) = name_of(&node) else { continue };
                columns.extend(targets(&node).iter().filter_map(|target| {
                    let alias = child(target, K::AS_NAME).and_then(|alias| name_of(&alias.children().next()?))?;
                    (alias == name).then(|| dotted(&target.children().next()?)).flatten()
                }));
                columns.push(vec![name]);
            }
            _ => {}
        }
    }
    columns
}

/// What is selected by the query that this stands in.
fn targets(node: &SyntaxNode) -> Vec<SyntaxNode> {
    let query = node.ancestors().find(|above| above.kind() == K::SELECT);
    let list = query.and_then(|query| child(&child(&query, K::SELECT_CLAUSE)?, K::TARGET_LIST));
    list.iter().flat_map(SyntaxNode::children).filter(|target| target.kind() == K::TARGET).collect()
}

/// The column that the place in the output means.
fn output_column(literal: &SyntaxNode) -> Option<Vec<String>> {
    let targets = targets(literal);
    let place = token(literal, K::INT_NUMBER)?.text().parse::<usize>().ok()?.checked_sub(1)?;
    let column = targets.get(place)?.children().next()?;
    // A star stands for we do not know how many.
    let star = targets[..place].iter().any(|target| {
        has_token(target, K::STAR) || child(target, K::FIELD_EXPR).is_some_and(|field| has_token(&field, K::STAR))
    });
    (!star).then(|| dotted(&column)).flatten()
}
