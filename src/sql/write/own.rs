//! Columns that an UPDATE computes from the row's own columns (`n = n + 1`): what is needed to let main compute them again,
//! from what it has by then.
//!
//! Read are built-in operators and functions that are IMMUTABLE for all types they are used with here: numbers, text,
//! boolean and `jsonb`. Whatever holds no column of the row is a constant, evaluated by the replica once: `$1`, `now()`,
//! `excluded.n`. Anything else (sub-selects, volatile functions, operators of others, other types) is left alone: the
//! value is replayed then.

mod families;

use std::ops::Range;
use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

pub use self::families::NAMES;
use self::families::{Family, function, operator};
use super::super::copy;
use super::super::slice;
use super::super::syntax::{child, dotted, range};
use super::super::template::Template;
use super::build::Builder;
use super::{Output, update};
use crate::catalog::{AttNum, Column, IndexItem, Table};
use crate::entry::{Expression, Value};

/// A column and how it is computed.
#[derive(Debug)]
pub(super) struct Computed {
    pub(super) attnum: AttNum,
    tree: Tree,
}

#[derive(Debug)]
enum Tree {
    Column(AttNum),
    /// The place of its [`Output::Constant`]. `untyped`: a bare string literal, which is of the type it is needed in.
    Constant {
        place: usize,
        untyped: bool,
    },
    Operator(String, Vec<Tree>),
    Function(String, Vec<Tree>),
}

/// Adds what the SETs in this node compute from the row's own columns; returns the constants in them as items for the
/// select list in whose scope they are.
pub(super) fn read(builder: &mut Builder<'_>, of: &SyntaxNode) -> Vec<Template> {
    let mut items = Vec::new();
    if child(of, K::FROM_CLAUSE).is_some() {
        return items;
    }
    let list = child(of, K::SET_CLAUSE).and_then(|clause| child(&clause, K::SET_COLUMN_LIST));
    for (target, value) in list.iter().flat_map(SyntaxNode::children).flat_map(|item| assignments(&item)) {
        let Ok(column) = update::column(builder, &target) else { continue };
        let Some(expression) = value.children().next().filter(|_| may_be_computed(builder.table, column)) else {
            continue;
        };
        let mut reader = Reader { builder, constants: Vec::new(), columns: 0, depth: 0 };
        if let Some(tree) = reader.tree(&expression)
            && reader.columns > 0
        {
            let (constants, attnum) = (reader.constants, column.attnum);
            // Whether the types fit is known when the constants are.
            items.extend(constants);
            builder.computed.push(Computed { attnum, tree });
        } else {
            builder.constants = items.len();
        }
    }
    items
}

/// The outputs for the constants that [`read`] has put into this relation.
pub(super) fn outputs(builder: &mut Builder<'_>, relation: &str) {
    for place in 0..builder.constants {
        let item = format!("\"{relation}\".{}", name(place));
        builder.output(Output::Constant(place), &Template::text(item));
    }
}

fn name(place: usize) -> String {
    format!("\"pgoutpost.k{place}\"")
}

fn assignments(item: &SyntaxNode) -> Vec<(SyntaxNode, SyntaxNode)> {
    match item.kind() {
        K::SET_SINGLE_COLUMN => child(item, K::COLUMN_TARGET).zip(child(item, K::SET_EXPR)).into_iter().collect(),
        K::SET_MULTIPLE_COLUMNS => {
            let targets = child(item, K::COLUMN_TARGET_LIST);
            let values = child(item, K::SET_EXPR_LIST);
            let of =
                |list: &SyntaxNode, kind| list.children().filter(move |one| one.kind() == kind).collect::<Vec<_>>();
            let pairs = targets.zip(values).map(|(targets, values)| {
                of(&targets, K::COLUMN_TARGET).into_iter().zip(of(&values, K::SET_EXPR)).collect()
            });
            pairs.unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// Others go by its value: keys, unique values, what rows refer to, partitions.
fn may_be_computed(table: &Table, column: &Column) -> bool {
    let attnum = column.attnum;
    let in_text = |text: &str| copy::words(text).any(|word| word == &*column.name) || text.contains('"');
    let exclusions = table.exclusions.iter().map(|exclusion| &exclusion.index);
    let indexed = table.unique.iter().chain(exclusions).any(|index| {
        let item = |item: &IndexItem| match item {
            IndexItem::Column(of) => *of == attnum,
            IndexItem::Expression { text, .. } => in_text(text),
        };
        index.items.iter().any(item) || index.predicate.as_deref().is_some_and(in_text)
    });
    let divides = table
        .partition_key
        .as_ref()
        .is_some_and(|key| key.columns.contains(&attnum) || key.expressions.as_deref().is_some_and(in_text));
    let divides =
        divides || table.partition.as_ref().is_some_and(|part| part.constraint.as_deref().is_some_and(in_text));
    Family::of_column(column).is_some()
        && !column.generated
        && !table.key.contains(&attnum)
        && !indexed
        && !divides
        && !table.references.iter().any(|key| key.columns.contains(&attnum))
        && !table.referenced_by.iter().any(|key| key.referenced_columns.contains(&attnum))
        && !table
            .family
            .iter()
            .any(|below| below.column(&column.name).is_none_or(|own| !may_be_computed_alone(below, own)))
}

/// The same of a table below, whose own tables below are asked anyway.
fn may_be_computed_alone(table: &Table, column: &Column) -> bool {
    let taken = |index: &crate::catalog::UniqueIndex| {
        index.predicate.is_some()
            || index.items.iter().any(|item| !matches!(item, IndexItem::Column(of) if *of != column.attnum))
    };
    !table.key.contains(&column.attnum)
        && !table.unique.iter().any(taken)
        && !table.references.iter().any(|key| key.columns.contains(&column.attnum))
        && table
            .partition_key
            .as_ref()
            .is_none_or(|key| key.expressions.is_none() && !key.columns.contains(&column.attnum))
}

struct Reader<'r, 'b> {
    builder: &'r mut Builder<'b>,
    constants: Vec<Template>,
    columns: usize,
    depth: usize,
}

/// Entries are read again within bounds, too.
const DEPTH_MAX: usize = 16;

impl Reader<'_, '_> {
    fn tree(&mut self, node: &SyntaxNode) -> Option<Tree> {
        if self.depth == DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        let tree = self.tree_at(node);
        self.depth -= 1;
        tree
    }

    fn tree_at(&mut self, node: &SyntaxNode) -> Option<Tree> {
        if let Some(attnum) = self.own_column(node) {
            self.columns += 1;
            return Some(Tree::Column(attnum));
        }
        if self.is_constant(node) {
            return Some(self.constant(node));
        }
        match node.kind() {
            K::PAREN_EXPR if node.children().count() == 1 => self.tree(&node.children().next()?),
            K::BIN_EXPR => {
                let (mut operands, mut symbols) = (Vec::new(), Vec::new());
                self.flatten(node, &mut operands, &mut symbols)?;
                if symbols.iter().any(|(_, symbol)| self.shadowed(symbol)) {
                    return None;
                }
                let operands: Vec<Tree> = operands.iter().map(|operand| self.tree(operand)).collect::<Option<_>>()?;
                Some(joined(operands, symbols))
            }
            K::PREFIX_EXPR => {
                let operand = node.children().last()?;
                let symbol = self.text(range(node).start..range(&operand).start).trim().to_ascii_uppercase();
                // Where brackets are missing, it may be meant another way.
                let atom = matches!(operand.kind(), K::NAME_REF | K::FIELD_EXPR | K::PAREN_EXPR | K::CALL_EXPR);
                if !atom || !matches!(&*symbol, "-" | "NOT") || self.shadowed(&symbol) {
                    return None;
                }
                Some(Tree::Operator(symbol, vec![self.tree(&operand)?]))
            }
            K::CALL_EXPR => {
                let callee = dotted(&node.children().next()?)?;
                let name = match callee.as_slice() {
                    [name] => name,
                    [schema, name] if schema == "pg_catalog" => name,
                    _ => return None,
                };
                let list = child(node, K::ARG_LIST).filter(|_| node.children().count() == 2)?;
                if self.shadowed(name) || list.children().any(|argument| argument.kind() != K::ARG) {
                    return None;
                }
                let arguments: Vec<SyntaxNode> = list.children().collect();
                let plain = |argument: &SyntaxNode| {
                    let inner = argument.children().next()?;
                    (range(&inner) == range(argument)).then_some(inner)
                };
                let arguments = arguments.iter().map(|argument| self.tree(&plain(argument)?)).collect::<Option<_>>()?;
                Some(Tree::Function(name.clone(), arguments))
            }
            _ => None,
        }
    }

    fn text(&self, range: Range<usize>) -> String {
        self.builder.request.source.written(range).to_owned()
    }

    /// Operands, and between them operators and how tightly these bind: in which order they do is decided here, as
    /// Postgres does it.
    fn flatten(
        &self,
        node: &SyntaxNode,
        operands: &mut Vec<SyntaxNode>,
        symbols: &mut Vec<(u8, String)>,
    ) -> Option<()> {
        if node.kind() != K::BIN_EXPR {
            operands.push(node.clone());
            return (operands.len() <= DEPTH_MAX).then_some(());
        }
        let (left, right) = (node.children().next()?, node.children().last()?);
        self.flatten(&left, operands, symbols)?;
        let symbol = self.text(range(&left).end..range(&right).start).trim().to_owned();
        symbols.push((rank(&symbol)?, symbol));
        self.flatten(&right, operands, symbols)
    }

    /// Whether somebody has an operator or function of this name that could be meant.
    fn shadowed(&self, name: &str) -> bool {
        self.builder.request.names.catalog.overloaded.contains(name)
    }

    fn own_column(&self, node: &SyntaxNode) -> Option<AttNum> {
        let path = dotted(node)?;
        let table = self.builder.table;
        let name = match path.as_slice() {
            [name] => name,
            [qualifier, name] if *qualifier == self.builder.alias => name,
            _ => return None,
        };
        let column = table.column(name)?;
        Family::of_column(column)?;
        Some(column.attnum)
    }

    /// Whether nothing in it depends on the row as it is found, or on when it is evaluated.
    fn is_constant(&self, node: &SyntaxNode) -> bool {
        let names = self.builder.request.names;
        let volatile = copy::volatile_names(&node.text().to_string(), names).next().is_some();
        let whole = node.descendants().all(|inner| match inner.kind() {
            K::NAME_REF => {
                let Some(above) = inner.parent() else { return false };
                let callee = above.kind() == K::CALL_EXPR && above.children().next().as_ref() == Some(&inner);
                let excluded = above.kind() == K::FIELD_EXPR
                    && dotted(&above).is_some_and(|path| path.len() == 2 && path[0] == "excluded");
                let qualifies = above.kind() == K::FIELD_EXPR
                    && above.parent().is_some_and(|call| {
                        call.kind() == K::CALL_EXPR && call.children().next().as_ref() == Some(&above)
                    });
                callee || excluded || qualifies
            }
            kind => !super::super::classify::is_select(kind) && kind != K::PAREN_SELECT && kind != K::OVER_CLAUSE,
        });
        // Main would be told its value and type, not its collation.
        let collated = node.descendants_with_tokens().any(|inner| inner.kind() == K::COLLATE_KW);
        whole && !volatile && !collated && self.builder.alias != "excluded" && slice::alias_of(node).is_none()
    }

    fn constant(&mut self, node: &SyntaxNode) -> Tree {
        let place = self.builder.constants;
        self.builder.constants += 1;
        let text = |value: &str| match self.builder.canonical {
            true => format!("pg_catalog.concat({value})"),
            false => format!("pgoutpost.canonical_text({value})"),
        };
        let mut item = Template::text(format!(
            "(SELECT CASE pg_catalog.num_nulls(k.v) WHEN 0 THEN pg_catalog.concat(pg_catalog.pg_typeof(k.v), E'\\n', {}) \
             END FROM (SELECT ",
            text("k.v")
        ));
        item.append(&self.builder.cut(range(node))).push(&format!(") AS k(v)) AS {}", name(place)));
        self.constants.push(item);
        let text = node.text().to_string();
        let string = text.starts_with(['\'', 'e', 'E', 'u', 'U', 'n', 'N']) || text.starts_with("$$");
        Tree::Constant { place, untyped: node.kind() == K::LITERAL && string }
    }
}

/// From left to right where they bind alike.
fn joined(operands: Vec<Tree>, symbols: Vec<(u8, String)>) -> Tree {
    let mut operands = operands.into_iter();
    let (mut done, mut open): (Vec<Tree>, Vec<(u8, String)>) = (operands.next().into_iter().collect(), Vec::new());
    let close = |done: &mut Vec<Tree>, symbol: String| {
        let of = done.split_off(done.len().saturating_sub(2));
        done.push(Tree::Operator(symbol, of));
    };
    for ((rank, symbol), operand) in symbols.into_iter().zip(operands) {
        while let Some((_, before)) = open.pop_if(|(before, _)| *before >= rank) {
            close(&mut done, before);
        }
        open.push((rank, symbol));
        done.push(operand);
    }
    while let Some((_, symbol)) = open.pop() {
        close(&mut done, symbol);
    }
    done.swap_remove(0)
}

/// How tightly an operator binds (<https://www.postgresql.org/docs/15/sql-syntax-lexical.html#SQL-PRECEDENCE>).
fn rank(symbol: &str) -> Option<u8> {
    match symbol {
        "^" => Some(4),
        "*" | "/" | "%" => Some(3),
        "+" | "-" => Some(2),
        "||" | "&" | "|" | "#" | "<<" | ">>" => Some(1),
        _ => None,
    }
}

impl Computed {
    /// For a row of `table`, with these constants (`type` and text, a line each); `None`: the value is all there is.
    pub(super) fn expression(&self, target: &Table, table: &Table, constants: &[Value]) -> Option<Expression> {
        let context = Context { target, table, constants };
        let (family, expression) = context.typed(&self.tree, None)?;
        let column = target.attribute(self.attnum)?;
        (Family::of_column(column) == Some(family)).then_some(expression)
    }
}

struct Context<'a> {
    target: &'a Table,
    table: &'a Table,
    constants: &'a [Value],
}

impl Context<'_> {
    /// `wanted`: what a string literal would have to be.
    fn typed(&self, tree: &Tree, wanted: Option<Family>) -> Option<(Family, Expression)> {
        match tree {
            Tree::Column(attnum) => {
                let column = self.target.attribute(*attnum)?;
                let place = self.table.columns.iter().position(|own| own.name == column.name)?;
                Some((Family::of_column(column)?, Expression::Column(place)))
            }
            Tree::Constant { place, untyped } => {
                let (type_name, text) = self.constants.get(*place)?.as_deref()?.split_once('\n')?;
                let (family, type_name) = match untyped {
                    true => (wanted?, wanted?.literal()?),
                    false => (Family::of_type(type_name)?, type_name),
                };
                Some((family, Expression::Value(type_name.into(), text.into())))
            }
            Tree::Operator(name, operands) => {
                let (families, operands) = self.all(operands, |place, other| families::operand(name, place, other))?;
                let integer = matches!(operands.last(), Some(Expression::Value(kind, _)) if &**kind == "integer");
                Some((operator(name, &families, integer)?, Expression::Operator(Arc::from(name.as_str()), operands)))
            }
            Tree::Function(name, arguments) => {
                let (families, arguments) =
                    self.all(arguments, |place, other| families::argument(name, place, other))?;
                Some((function(name, &families)?, Expression::Function(Arc::from(name.as_str()), arguments)))
            }
        }
    }

    /// `literal`: what a bare literal is in this place, beside one of that family.
    fn all(
        &self,
        operands: &[Tree],
        literal: impl Fn(usize, Option<Family>) -> Option<Family>,
    ) -> Option<(Vec<Family>, Vec<Expression>)> {
        let is_bare = |tree: &Tree| matches!(tree, Tree::Constant { untyped: true, .. });
        let mut typed = Vec::with_capacity(operands.len());
        for operand in operands {
            typed.push(if is_bare(operand) { None } else { Some(self.typed(operand, None)?) });
        }
        let other = typed.iter().flatten().map(|(family, _)| *family).next();
        let whole = typed.into_iter().zip(operands).enumerate().map(|(place, (known, operand))| match known {
            Some(known) => Some(known),
            None => self.typed(operand, literal(place, other)),
        });
        let whole: Vec<_> = whole.collect::<Option<_>>()?;
        Some(whole.into_iter().unzip())
    }
}
