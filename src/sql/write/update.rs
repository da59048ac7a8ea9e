//! UPDATE.

use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::Report;
use super::super::merge::{key_columns, list, qualified};
use super::super::readers::By;
use super::super::repeated;
use super::super::slice::{self, Reference};
use super::super::syntax::{child, has_token, name_of, quoted, range};
use super::super::template::{Piece, Relation, Source, Template};
use super::build::{Builder, Built, Request, Row, hidden};
use super::{Output, WriteKind, assign, own, tree, unique, verdict};
use crate::catalog::{AttNum, Column, Identity};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

pub(super) fn build(request: &Request<'_>, canonical: bool) -> Result<Built, Report> {
    let mut builder = Builder::new(request, canonical);
    let mut queries = Vec::new();
    let settings = settings(&mut builder, request.statement, Some(&mut queries))?;
    target(&mut builder, K::FROM_CLAUSE, K::FROM_KW);
    let mut subselect = Template::default();
    for (place, query) in queries.iter().enumerate() {
        let (word, name) = (if place == 0 { "WITH" } else { "," }, several_name(place));
        subselect.push(&format!("{word} {name} AS MATERIALIZED ")).append(query).push(" ");
    }
    subselect.push("SELECT ");
    for (place, (column, expression)) in settings.iter().enumerate() {
        if place > 0 {
            subselect.push(", ");
        }
        let (before, after) = around(column);
        subselect.push(&before).append(expression).push(&format!("{after} AS {}", hidden("n", column.attnum)));
    }
    for constant in own::read(&mut builder, request.statement) {
        subselect.push(", ").append(&constant);
    }
    subselect.push(&for_each_row(&builder));
    builder.lateral(&subselect, "pgoutpost.n");
    let old = old_row(&builder);
    let mut new: Row = old.clone();
    for (column, _) in &settings {
        let value = format!("\"pgoutpost.n\".{}", hidden("n", column.attnum));
        if let Some(item) = new.iter_mut().find(|(attnum, _)| *attnum == column.attnum) {
            item.1 = value;
        }
    }
    builder.generate(&mut new, "pgoutpost.g", "");
    let mut set: Vec<AttNum> = settings.iter().map(|(column, _)| column.attnum).collect();
    builder.assigned.clone_from(&set);
    let table = builder.table;
    set.extend(table.columns.iter().filter(|column| column.generated).map(|column| column.attnum));
    let tree = tree::is_tree(&builder, WriteKind::Update);
    let moves = tree && tree::moves(table, &set);
    let key_set = moves || table.key.iter().any(|key| set.contains(key));
    if tree {
        tree::check(&builder, WriteKind::Update, &set)?;
        tree::old_member(&mut builder);
    }
    if moves {
        tree::route(&mut builder, &new);
    }

    for column in key_columns(table) {
        builder.value(Output::Key, column, &column_of(&builder.alias, column));
    }
    for column in &table.columns {
        let is_set = set.contains(&column.attnum);
        if is_set || key_set {
            let value = super::build::value_of(&new, column.attnum).unwrap_or("NULL").to_owned();
            builder.value(Output::New(column.attnum), column, &value);
        }
        if is_set {
            builder.value(Output::Old(column.attnum), column, &column_of(&builder.alias, column));
        }
    }
    own::outputs(&mut builder, "pgoutpost.n");
    builder.row_order = Some(super::windows::AS_FOUND.into());
    builder.sets.push(set.clone());
    verdict::row_rules(&mut builder, &new, Some(&set), 1, "");
    unique::unique(&mut builder, &new, Some((&old, &set)), None);
    verdict::parents(&mut builder, &new, Some((&old, &set)), None)?;
    verdict::children(&mut builder, &old, Some((&new, &set)))?;
    builder.locks(&old, true, |_| false);
    let touched = |index: &crate::catalog::UniqueIndex| unique::index_touched(index, &set);
    builder.locks(&old, false, touched);
    builder.locks(&new, false, touched);
    builder.existence_locks(&old, Some(&set));
    builder.parent_locks(&new, Some(&set))?;
    condition(&mut builder);
    builder.returning(&new);
    Ok(builder.finish())
}

/// FROM: the target under its name, and the client's own items.
pub(super) fn target(builder: &mut Builder<'_>, clause: K, word: K) {
    let items = child(builder.request.statement, clause);
    let alone = items.is_none();
    let reference = Reference { table: builder.table, alias: &builder.alias, alone };
    let condition = child(builder.request.statement, K::WHERE_CLAUSE);
    let slice = condition.and_then(|condition| slice::of_where(&condition, &reference));
    let alias = quoted(&builder.alias);
    let only = if builder.only { "ONLY " } else { "" };
    let relation = Relation {
        source: Source::Table(Arc::clone(builder.table)),
        original: format!("{only}{}", qualified(builder.table)),
        alias: None,
        slice,
        correlation: None,
        obstacle: None,
        only: builder.only,
        tableoid: builder.request.source.tableoid || (!builder.only && !builder.table.family.is_empty()),
        security: None,
        by: By::Server,
    };
    builder.from.piece(Piece::Relation(Arc::new(relation))).push(&format!(" AS {alias}"));
    if let Some(items) = items {
        let start =
            super::super::syntax::token(&items, word).map_or(range(&items).start, |t| t.text_range().end().into());
        let text = builder.cut(start..range(&items).end);
        builder.from.push(", ").append(&text);
    }
}

/// A condition that is always true and depends on the target's row: a subselect of volatile expressions would
/// otherwise be evaluated once for all rows.
fn for_each_row(builder: &Builder<'_>) -> String {
    let key = list(key_columns(builder.table).into_iter().map(|column| column_of(&builder.alias, column)));
    format!(" WHERE pg_catalog.num_nonnulls({key}) >= 0")
}

/// WHERE. With RETURNING the condition gets a scope of its own, in which RETURNING's columns are not seen.
pub(super) fn condition(builder: &mut Builder<'_>) {
    let Some(clause) = child(builder.request.statement, K::WHERE_CLAUSE) else { return };
    let Some(word) = super::super::syntax::token(&clause, K::WHERE_KW) else { return };
    let condition = builder.cut(word.text_range().end().into()..range(&clause).end);
    if child(builder.request.statement, K::RETURNING_CLAUSE).is_none() {
        builder.condition(&condition);
        return;
    }
    let mut scoped = Template::text("SELECT (");
    scoped.append(&condition).push(") AS \"pgoutpost.w\"").push(&for_each_row(builder));
    builder.lateral(&scoped, "pgoutpost.w");
    builder.condition(&Template::text("\"pgoutpost.w\".\"pgoutpost.w\""));
}

pub(super) fn column_of(alias: &str, column: &Column) -> String {
    format!("{}.{}", quoted(alias), quoted(&column.name))
}

/// The row as it was.
pub(super) fn old_row(builder: &Builder<'_>) -> Row {
    let of = |column: &Column| (column.attnum, column_of(&builder.alias, column));
    builder.table.columns.iter().map(of).collect()
}

/// The text before and after an expression that make it an assigned value.
pub(super) fn around(column: &Column) -> (String, String) {
    const MARK: &str = "\u{1}";
    let whole = assign::assigned(column, &assign::typed(column, MARK));
    let (before, after) = whole.split_once(MARK).unwrap_or((&whole, ""));
    (before.to_owned(), after.to_owned())
}

fn refuse(what: &str) -> Report {
    Report::new(FEATURE_NOT_SUPPORTED, format!("{what} cannot be buffered")).hint("Assign the whole column.")
}

/// What the SET of this statement, or part of one, assigns to each column. `queries`: takes those that several columns share,
/// where a WITH can hold them.
pub(super) fn settings<'b>(
    builder: &mut Builder<'b>,
    of: &SyntaxNode,
    mut queries: Option<&mut Vec<Template>>,
) -> Result<Vec<(&'b Column, Template)>, Report> {
    let list = child(of, K::SET_CLAUSE).and_then(|clause| child(&clause, K::SET_COLUMN_LIST));
    let mut settings = Vec::new();
    for item in list.iter().flat_map(SyntaxNode::children) {
        match item.kind() {
            K::SET_SINGLE_COLUMN => single(builder, &item, &mut settings)?,
            K::SET_MULTIPLE_COLUMNS => several(builder, &item, &mut settings, queries.as_deref_mut())?,
            _ => return Err(refuse("this form of SET")),
        }
    }
    Ok(settings)
}

fn single<'b>(
    builder: &mut Builder<'b>,
    item: &SyntaxNode,
    settings: &mut Vec<(&'b Column, Template)>,
) -> Result<(), Report> {
    let (Some(target), Some(value)) = (child(item, K::COLUMN_TARGET), child(item, K::SET_EXPR)) else {
        return Err(refuse("this form of SET"));
    };
    let column = column(builder, &target)?;
    settings.push((column, expression(builder, column, &value)?));
    Ok(())
}

fn several<'b>(
    builder: &mut Builder<'b>,
    item: &SyntaxNode,
    settings: &mut Vec<(&'b Column, Template)>,
    queries: Option<&mut Vec<Template>>,
) -> Result<(), Report> {
    let targets = child(item, K::COLUMN_TARGET_LIST).ok_or_else(|| refuse("this form of SET"))?;
    let columns: Result<Vec<_>, _> = targets
        .children()
        .filter(|target| target.kind() == K::COLUMN_TARGET)
        .map(|target| column(builder, &target))
        .collect();
    let columns = columns?;
    if let Some(values) = child(item, K::SET_EXPR_LIST) {
        let values: Vec<_> = values.children().filter(|value| value.kind() == K::SET_EXPR).collect();
        for (column, value) in columns.into_iter().zip(values) {
            settings.push((column, expression(builder, column, &value)?));
        }
        return Ok(());
    }
    let Some(query) = child(item, K::PAREN_SELECT) else { return Err(refuse("this form of SET")) };
    let (text, by) = (query.text().to_string(), builder.request.names);
    let shared = columns.len() > 1;
    if shared && repeated::is_volatile(&text, by) {
        let message = "SET of several columns by a volatile query cannot be buffered";
        return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Use a query for each column."));
    }
    let mut from = builder.cut(range(&query));
    if shared && repeated::is_by_order(&text, by) {
        let Some(queries) = queries else {
            let message =
                "SET of several columns by a query whose result depends on the order of rows cannot be buffered";
            return Err(Report::new(FEATURE_NOT_SUPPORTED, format!("{message} in ON CONFLICT and MERGE"))
                .hint("Use a query for each column."));
        };
        // Each column's own might find another row first.
        queries.push(std::mem::replace(&mut from, Template::text(several_name(queries.len()))));
    }
    let names: Vec<String> = (0..columns.len()).map(|place| format!("\"pgoutpost.q{place}\"")).collect();
    for (place, column) in columns.into_iter().enumerate() {
        let mut one = Template::text(format!("SELECT q.\"pgoutpost.q{place}\" FROM "));
        one.append(&from).push(&format!(" AS q({})", names.join(", ")));
        let mut scalar = Template::text("(");
        scalar.append(&one).push(")");
        settings.push((column, scalar));
    }
    Ok(())
}

/// The query by which several columns are set.
fn several_name(place: usize) -> String {
    format!("\"pgoutpost.q{place}\"")
}

/// The column that an assignment names.
pub(super) fn column<'b>(builder: &Builder<'b>, target: &SyntaxNode) -> Result<&'b Column, Report> {
    let name = child(target, K::COLUMN_NAME_REF).and_then(|name| name_of(&name));
    if target.children().count() > 1 || has_token(target, K::DOT) {
        return Err(refuse("an assignment to a part of a column"));
    }
    let table = builder.table;
    name.as_ref().and_then(|name| table.column(name)).ok_or_else(|| {
        let name = name.unwrap_or_default();
        let message = format!("column \"{name}\" of relation \"{}\" does not exist", table.name.name);
        Report::new(crate::sqlstate::SqlState(*b"42703"), message)
    })
}

fn expression(builder: &mut Builder<'_>, column: &Column, value: &SyntaxNode) -> Result<Template, Report> {
    if has_token(value, K::DEFAULT_KW) {
        // Main takes no value for it in an UPDATE, and has no word for "this one nevertheless" there.
        if column.identity == Some(Identity::Always) {
            return Err(refuse("a new value of a column that is GENERATED ALWAYS AS IDENTITY"));
        }
        return builder.default_of(column, true);
    }
    Ok(builder.cut(range(value)))
}
