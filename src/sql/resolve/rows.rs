//! What a subquery in place of a table would change for expressions: rows as a whole, `tableoid`, and names with a schema.
//!
//! A subquery's row is of type `record`, it has no system columns, and its alias has no schema. So a reference to the
//! row is written as the table's own composite type, `tableoid` becomes a column that no `*` shows, and
//! `schema.table.column` is written with the alias.

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::merge::{list, qualified};
use super::super::syntax::{self, child, dotted, name_of, quoted, range};
use super::super::template::Piece;
use super::Text;
use super::scope::{Item, Scopes};

/// The system column that can be had of a merged relation.
pub(super) const TABLEOID: &str = "tableoid";

/// Whether a statement names `tableoid` anywhere.
pub(super) fn mentions_tableoid(root: &SyntaxNode) -> bool {
    root.descendants().any(|node| node.kind() == K::NAME_REF && name_of(&node).as_deref() == Some(TABLEOID))
}

/// A row as a value of its table's composite type. `outer`: the row may be the NULL of an outer join.
/// Always within CASE, which planning takes away: of a row that is written out IN, `= ANY` and the like would compare the
/// columns one by one, in which a NULL equals nothing.
pub(in super::super) fn row_value(
    table: &crate::catalog::Table,
    alias: &str,
    columns: &[String],
    outer: bool,
) -> String {
    let alias = quoted(alias);
    let values = list(columns.iter().map(|column| format!("{alias}.{}", quoted(column))));
    let row = format!("ROW({values})::{}", qualified(table));
    // A dropped column is NULL in the row, and `IS NOT NULL` of a row that is written out would look at it.
    let dropped = table.columns.last().is_some_and(|last| usize::try_from(last.attnum.0) != Ok(table.columns.len()));
    match outer || dropped {
        true => format!("(CASE WHEN {alias} IS NOT DISTINCT FROM NULL THEN NULL ELSE {row} END)"),
        false => format!("(CASE WHEN true THEN {row} END)"),
    }
}

impl Text<'_> {
    /// Finds references to rows, and names that a subquery would change.
    pub(super) fn rows(&mut self, root: &SyntaxNode, scopes: &Scopes) {
        self.outer = root.descendants().any(|node| matches!(node.kind(), K::JOIN_LEFT | K::JOIN_RIGHT | K::JOIN_FULL));
        // The join would compare the columns that `tableoid` has become.
        let is_natural = |node: SyntaxNode| node.kind() == K::JOIN && syntax::has_token(&node, K::NATURAL_KW);
        if self.tableoid && root.descendants().any(is_natural) {
            self.findings.system_column = Some(TABLEOID.into());
        }
        for node in root.descendants() {
            match node.kind() {
                K::NAME_REF => self.name(&node, scopes),
                K::FIELD_EXPR => self.field(&node, scopes),
                K::TARGET if syntax::has_token(&node, K::STAR) => self.star(&node, scopes),
                _ => {}
            }
        }
    }

    /// `t`, alone.
    fn name(&mut self, node: &SyntaxNode, scopes: &Scopes) {
        let (Some(name), Some(parent)) = (name_of(node), node.parent()) else { return };
        let first = parent.children().next().as_ref() == Some(node);
        match parent.kind() {
            K::CALL_EXPR if first => return,
            K::FIELD_EXPR => return,
            K::SORT_BY | K::GROUPING_EXPR if names_output(&parent, &name) => return,
            _ => {}
        }
        let Some(item) = scopes.named(node, &name).filter(|item| item.table.is_some()) else { return };
        match scopes.is_column(node, &name) {
            Some(false) => {
                let named = output_name(node).map_or_else(String::new, |_| format!(" AS {}", quoted(&name)));
                self.whole(item, node, &named);
            }
            Some(true) => {}
            None => self.findings.unclear_row = Some(name),
        }
    }

    /// `t.column`, `t.*`, `schema.t.column`, `schema.t.*`
    fn field(&mut self, node: &SyntaxNode, scopes: &Scopes) {
        let Some(parent) = node.parent() else { return };
        if syntax::has_token(node, K::STAR) {
            let Some(path) = node.children().next().and_then(|of| dotted(&of)) else { return };
            let item = match path.as_slice() {
                [name] => scopes.named(node, name),
                [.., schema, name] => scopes.qualified(node, schema, name),
                [] => None,
            };
            let Some(item) = item.filter(|item| item.table.is_some()) else { return };
            if matches!(parent.kind(), K::TARGET | K::TUPLE_EXPR | K::ROW) {
                if self.tableoid || path.len() > 1 || item.unique.is_some() {
                    let columns = self.columns(item);
                    self.either(item, node, columns);
                }
            } else {
                self.whole(item, node, "");
            }
            return;
        }
        if parent.kind() == K::FIELD_EXPR && dotted(&parent).is_some() {
            return;
        }
        let Some(path) = dotted(node) else { return };
        let (item, column) = match path.as_slice() {
            [name, column] => (scopes.named(node, name), column),
            [.., schema, name, column] => (scopes.qualified(node, schema, name), column),
            _ => return,
        };
        let Some(item) = item.filter(|item| item.table.is_some()) else { return };
        if path.len() == 2 && item.unique.is_none() {
            if column != TABLEOID
                && !super::SYSTEM.contains(&column.as_str())
                && !item.visible_columns().contains(column)
            {
                // `t.f` is `f(t)`.
                let Some(of) = node.children().next() else { return };
                self.whole(item, &of, "");
            }
            return;
        }
        let merged = format!("{}.{}", quoted(item.alias()), quoted(column));
        self.either(item, node, merged);
    }

    /// `*` does not show the column that `tableoid` has become.
    fn star(&mut self, target: &SyntaxNode, scopes: &Scopes) {
        let returning = target.ancestors().any(|above| above.kind() == K::RETURNING_CLAUSE);
        if !self.tableoid || returning {
            return;
        }
        let Some(items) = scopes.all(target) else {
            self.findings.system_column = Some(TABLEOID.into());
            return;
        };
        let Some(star) = syntax::token(target, K::STAR) else { return };
        let mut pieces = Vec::new();
        for item in items {
            let original = format!("{}.*", quoted(&item.name));
            if !pieces.is_empty() {
                pieces.push(Piece::Text(", ".into()));
            }
            pieces.push(match self.relation_of(item) {
                Some(relation) => Piece::IfMerged { relation, merged: self.columns(item), otherwise: original },
                None => Piece::Text(original),
            });
        }
        self.edits.push((star.text_range().into(), pieces));
    }

    /// The columns of an item, one by one.
    fn columns(&self, item: &Item) -> String {
        let alias = quoted(item.alias());
        list(item.visible_columns().iter().map(|column| format!("{alias}.{}", quoted(column))))
    }

    /// A reference to the whole row, or to a column of it by the names that the row has here: `(t).column`.
    fn whole(&mut self, item: &Item, node: &SyntaxNode, named: &str) {
        let Some(table) = item.table.clone() else { return };
        if let Some((field, column)) = selected(node)
            && item.visible_columns().contains(&column)
        {
            return self.either(item, &field, format!("({}.{})", quoted(item.alias()), quoted(&column)));
        }
        // A write's target, and the new row of RETURNING, are never the table itself.
        let outer = self.outer && !item.is_target();
        let merged = format!("{}{named}", row_value(&table, item.alias(), &item.visible_columns(), outer));
        self.either(item, node, merged);
    }

    fn either(&mut self, item: &Item, node: &SyntaxNode, merged: String) {
        let place = range(node);
        let otherwise = self.text[place.clone()].to_owned();
        let piece = match self.relation_of(item) {
            Some(relation) => Piece::IfMerged { relation, merged, otherwise },
            None if item.is_target() => Piece::Text(merged),
            None => return,
        };
        self.edits.push((place, vec![piece]));
    }
}

/// The expression that takes a column of the row, which stands in brackets, and the column.
fn selected(row: &SyntaxNode) -> Option<(SyntaxNode, String)> {
    let inner = row.ancestors().skip(1).take_while(|above| above.kind() == K::PAREN_EXPR).last()?;
    let field = inner.parent().filter(|above| above.kind() == K::FIELD_EXPR)?;
    let column = field.children().nth(1).filter(|column| column.kind() == K::NAME_REF)?;
    Some((field, name_of(&column)?))
}

/// Whether the name in ORDER BY or GROUP BY is that of an output column.
fn names_output(by: &SyntaxNode, name: &str) -> bool {
    let Some(query) = by.ancestors().find(|above| above.kind() == K::SELECT) else { return false };
    let targets = child(&query, K::SELECT_CLAUSE).and_then(|clause| child(&clause, K::TARGET_LIST));
    targets.iter().flat_map(SyntaxNode::children).any(|target| {
        let alias =
            target.children().find(|inner| inner.kind() == K::AS_NAME).and_then(|alias| alias.children().next());
        alias.and_then(|alias| name_of(&alias)).as_deref() == Some(name)
    })
}

/// Whether a target without alias takes its name from this expression.
fn output_name(node: &SyntaxNode) -> Option<()> {
    let parent = node.parent()?;
    (parent.kind() == K::TARGET && parent.children().count() == 1).then_some(())
}
