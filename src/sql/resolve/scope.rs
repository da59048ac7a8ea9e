//! Which FROM item a name in an expression means.
//! <https://www.postgresql.org/docs/15/queries-table-expressions.html>

use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::slice::alias_of;
use super::super::syntax::{self, child, dotted, leading_with, name_of, path_of};
use super::Names;
use crate::catalog::Table;

/// Everything in a statement that has a name in expressions.
pub(super) struct Scopes {
    pub(super) items: Vec<Item>,
}

/// A FROM item, or the target of a write.
pub(super) struct Item {
    pub(super) node: SyntaxNode,
    /// The query that it belongs to.
    level: SyntaxNode,
    pub(super) name: String,
    pub(super) aliased: bool,
    /// Of a relation that the catalog knows.
    pub(super) table: Option<Arc<Table>>,
    /// The names of its columns, where they are known.
    columns: Option<Vec<String>>,
    /// The alias that it needs in order to be told apart, when another item has its name too.
    pub(super) unique: Option<String>,
}

impl Item {
    /// Whether it is what a write is about.
    pub(super) fn is_target(&self) -> bool {
        is_write(self.node.kind())
    }

    /// The alias of the subquery that stands for it.
    pub(super) fn alias(&self) -> &str {
        self.unique.as_deref().unwrap_or(&self.name)
    }

    /// The names of a relation's columns in this place: those of its alias, then its own.
    pub(super) fn visible_columns(&self) -> Vec<String> {
        self.columns.clone().unwrap_or_default()
    }
}

fn is_write(kind: K) -> bool {
    matches!(kind, K::INSERT | K::UPDATE | K::DELETE | K::MERGE)
}

fn is_level(kind: K) -> bool {
    kind == K::SELECT || is_write(kind)
}

impl Scopes {
    pub(super) fn of(root: &SyntaxNode, names: Names<'_>) -> Scopes {
        let mut items: Vec<Item> = root.descendants().filter_map(|node| item(&node, names)).collect();
        let needs = |one: &Item| {
            !one.aliased
                && !one.is_target()
                && one.table.as_ref().is_some_and(|table| {
                    items.iter().any(|other| {
                        !other.aliased
                            && other.name == one.name
                            && other.table.as_ref().is_some_and(|t| t.id != table.id)
                    })
                })
        };
        let unique: Vec<Option<String>> = items
            .iter()
            .map(|one| {
                let schema = one.table.as_ref().filter(|_| needs(one)).map(|table| &table.name.schema)?;
                Some(format!("{schema}.{}", one.name))
            })
            .collect();
        items.iter_mut().zip(unique).for_each(|(item, unique)| item.unique = unique);
        Scopes { items }
    }

    /// The item of this node.
    pub(super) fn at(&self, node: &SyntaxNode) -> Option<&Item> {
        self.items.iter().find(|item| item.node == *node)
    }

    /// The queries whose names an expression sees, inner first.
    fn levels(node: &SyntaxNode) -> Vec<SyntaxNode> {
        let mut levels = Vec::new();
        let (mut lateral, mut below) = (true, node.clone());
        while let Some(above) = below.parent() {
            match below.kind() {
                // A subquery in FROM sees its neighbours only when LATERAL; a CTE or the source of an INSERT never does.
                K::PAREN_SELECT if above.kind() == K::PAREN_FROM_ITEM => {
                    lateral = syntax::has_token(&above, K::LATERAL_KW);
                }
                K::WITH_CLAUSE => lateral = false,
                K::SELECT | K::COMPOUND_SELECT | K::PAREN_SELECT | K::VALUES if above.kind() == K::INSERT => {
                    lateral = false;
                }
                _ => {}
            }
            if is_level(above.kind()) {
                if lateral {
                    levels.push(above.clone());
                }
                lateral = true;
            }
            below = above;
        }
        levels
    }

    /// What a table's name means in the place of this node.
    pub(super) fn named(&self, node: &SyntaxNode, name: &str) -> Option<&Item> {
        Scopes::levels(node)
            .iter()
            .find_map(|level| self.items.iter().find(|item| item.level == *level && item.name == name))
    }

    /// What `schema.table` means in the place of this node.
    pub(super) fn qualified(&self, node: &SyntaxNode, schema: &str, name: &str) -> Option<&Item> {
        let fits = |item: &&Item| {
            !item.aliased
                && item.table.as_ref().is_some_and(|table| &*table.name.schema == schema && &*table.name.name == name)
        };
        Scopes::levels(node).iter().find_map(|level| self.items.iter().filter(fits).find(|item| item.level == *level))
    }

    /// Whether a name alone may mean a column in this place: `None` when that is not certain.
    pub(super) fn is_column(&self, node: &SyntaxNode, name: &str) -> Option<bool> {
        let mut certain = true;
        for level in Scopes::levels(node) {
            for item in self.items.iter().filter(|item| item.level == level) {
                match &item.columns {
                    Some(columns) if columns.iter().any(|column| column == name) => return Some(true),
                    Some(_) => {}
                    None => certain &= !mentions(&item.node, name),
                }
            }
        }
        certain.then_some(false)
    }

    /// The items that `*` in a query's target list means, in order; `None` when a join merges columns of theirs.
    pub(super) fn all(&self, target: &SyntaxNode) -> Option<Vec<&Item>> {
        let level = target.ancestors().find(|above| is_level(above.kind()))?;
        let merges = |node: SyntaxNode| {
            node.kind() == K::JOIN_USING_CLAUSE || (node.kind() == K::JOIN && syntax::has_token(&node, K::NATURAL_KW))
        };
        let from = child(&level, K::FROM_CLAUSE)?;
        if from.descendants().any(merges) || from.descendants().any(|node| node.kind() == K::ROWS_FROM_ITEM) {
            return None;
        }
        Some(self.items.iter().filter(|item| item.level == level).collect())
    }
}

/// Whether a word occurs in the text of an item whose columns are not known.
fn mentions(node: &SyntaxNode, name: &str) -> bool {
    let inside =
        node.descendants().filter(|inner| inner.kind() != K::FROM_ALIAS || inner.parent().as_ref() != Some(node));
    let mut words = inside.flat_map(|inner| syntax::tokens(&inner).collect::<Vec<_>>());
    words.any(|token| token.kind() == K::STAR || syntax::name_of_text(token.text()).as_deref() == Some(name))
}

fn item(node: &SyntaxNode, names: Names<'_>) -> Option<Item> {
    let written = alias_of(node);
    let level = match node.kind() {
        K::RELATION_FROM_ITEM | K::PAREN_FROM_ITEM | K::FUNCTION_FROM_ITEM | K::ROWS_FROM_ITEM => {
            let level = node.ancestors().find(|above| is_level(above.kind()))?;
            // Within a join that has an alias, a name is not seen outside.
            let hidden = node
                .ancestors()
                .skip(1)
                .take_while(|above| *above != level)
                .any(|above| above.kind() == K::PAREN_FROM_ITEM && alias_of(&above).is_some());
            if hidden { node.parent()? } else { level }
        }
        kind if is_write(kind) => node.clone(),
        _ => return None,
    };
    let path = path_of_item(node);
    let table =
        path.as_ref().filter(|path| path.len() > 1 || !is_cte(node, &path[0])).and_then(|path| names.relation(path));
    let function = || child(node, K::CALL_EXPR).and_then(|call| dotted(&call.children().next()?)?.pop());
    let name = written.clone().or_else(|| path.as_ref()?.last().cloned()).or_else(function)?;
    let renamed = renamed(node);
    let columns = match table {
        Some(table) => {
            let own = table.columns.iter().map(|column| column.name.to_string());
            Some(renamed.iter().cloned().chain(own.skip(renamed.len())).collect())
        }
        // A function of one column takes the alias as its name.
        None if node.kind() == K::FUNCTION_FROM_ITEM && !renamed.is_empty() => Some(renamed),
        None => output_columns(node).map(|own| {
            let rest = own.into_iter().skip(renamed.len()).collect::<Vec<_>>();
            renamed.iter().cloned().chain(rest).collect()
        }),
    };
    Some(Item {
        node: node.clone(),
        level,
        name,
        aliased: written.is_some(),
        table: table.cloned(),
        columns,
        unique: None,
    })
}

/// The names of a subquery's columns, where each can be told from the text.
fn output_columns(node: &SyntaxNode) -> Option<Vec<String>> {
    let query = child(&child(node, K::PAREN_SELECT)?, K::SELECT)?;
    let targets = child(&child(&query, K::SELECT_CLAUSE)?, K::TARGET_LIST)?;
    let name = |target: SyntaxNode| {
        if let Some(alias) = child(&target, K::AS_NAME) {
            return name_of(&alias.children().next()?);
        }
        let expression = target.children().next()?;
        match expression.kind() {
            K::NAME_REF => name_of(&expression),
            K::FIELD_EXPR if !syntax::has_token(&expression, K::STAR) => dotted(&expression)?.pop(),
            K::CALL_EXPR => dotted(&expression.children().next()?)?.pop(),
            K::LITERAL | K::BIN_EXPR => Some("?column?".into()),
            _ => None,
        }
    };
    targets.children().filter(|target| target.kind() == K::TARGET).map(name).collect()
}

/// The names that an alias gives to columns.
fn renamed(node: &SyntaxNode) -> Vec<String> {
    let list = child(node, K::FROM_ALIAS).and_then(|alias| child(&alias, K::COLUMN_LIST));
    list.iter().flat_map(SyntaxNode::children).filter_map(|column| name_of(&column)).collect()
}

/// The relation that a FROM item or a write names.
fn path_of_item(node: &SyntaxNode) -> Option<Vec<String>> {
    let name = node.children().find_map(|inner| match inner.kind() {
        K::RELATION_NAME_REF => Some(inner),
        K::RELATION_NAME => child(&inner, K::RELATION_NAME_REF),
        K::TABLE_RELATION_NAME => child(&inner, K::TABLE_NAME_REF),
        _ => None,
    });
    path_of(&name?)
}

/// Whether an unqualified name means a CTE in this place.
/// <https://www.postgresql.org/docs/15/queries-with.html>
pub(super) fn is_cte(node: &SyntaxNode, name: &str) -> bool {
    let mut below = node.clone();
    while let Some(above) = below.parent() {
        // What stands in the clause itself is judged there; what a write is about is never a member of its own.
        let clause = leading_with(&above).filter(|clause| !clause.text_range().contains_range(node.text_range()));
        let clause = clause.filter(|clause| clause.parent().as_ref() != Some(node));
        if clause.is_some_and(|clause| with_tables(&clause).any(|with| named(&with, name))) {
            return true;
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
