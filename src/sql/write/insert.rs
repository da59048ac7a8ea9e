//! INSERT: of VALUES, of a query, of defaults.

use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::merge::list;
use super::super::resolve::Names;
use super::super::slice::{Constant, Slice, alias_of};
use super::super::syntax::{child, has_token, leading_with, name_of, path_of, range};
use super::super::template::Template;
use super::super::{Report, classify};
use super::build::{Builder, Built, Request, Row, hidden};
use super::update::column;
use super::{Output, WriteKind, assign, tree, unique, upsert, verdict};
use crate::catalog::{AttNum, Column, Table};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// The rows to be inserted, as the client wrote them.
enum Rows {
    /// Expressions, row by row.
    Values(Vec<Vec<SyntaxNode>>),
    Query(SyntaxNode),
    Default,
}

pub(super) fn build(request: &Request<'_>, canonical: bool) -> Result<Built, Report> {
    let mut builder = Builder::new(request, canonical);
    let table = Arc::clone(builder.table);
    let rows = rows(request.statement)?;
    let columns = columns(&builder, &table, &rows)?;
    builder.assigned = columns.iter().map(|column| column.attnum).collect();
    builder.row_order = match &rows {
        Rows::Values(values) if values.len() > 1 => Some(ROW_ORDER.into()),
        Rows::Query(_) => Some(ROW_ORDER.into()),
        Rows::Values(_) | Rows::Default => None,
    };
    let own_ids = child(request.statement, K::OVERRIDING_USER_VALUE).is_some();
    match &rows {
        Rows::Values(values) => of_values(&mut builder, &table, &columns, values, own_ids)?,
        Rows::Default => of_values(&mut builder, &table, &[], &[Vec::new()], own_ids)?,
        Rows::Query(query) => of_query(&mut builder, &table, &columns, query, own_ids)?,
    }
    let mut new = Row::new();
    let mut items = Vec::new();
    for column in table.columns.iter().filter(|column| !column.generated) {
        let value = format!("\"pgoutpost.s\".{}", hidden("c", column.attnum));
        items.push(format!("{} AS {}", assign::assigned(column, &value), hidden("n", column.attnum)));
        new.push((column.attnum, format!("\"pgoutpost.n\".{}", hidden("n", column.attnum))));
    }
    // The proposed row is computed, and what its domains forbid is an error, whatever becomes of it.
    let conflict = child(request.statement, K::ON_CONFLICT_CLAUSE);
    let (always, whole) = if conflict.is_some() { ("true", " OFFSET 0") } else { ("", "") };
    builder.lateral(&Template::text(format!("SELECT {}{whole}", list(items))), "pgoutpost.n");
    builder.generate(&mut new, "pgoutpost.g", always);
    if let Some(filter) = &request.source.filter {
        builder.filter(&new, filter);
    }
    if tree::is_tree(&builder, WriteKind::Insert) {
        tree::check(&builder, WriteKind::Insert, &[])?;
        tree::route(&mut builder, &new);
    }
    let slices = |other: &Table, column_for: &dyn Fn(&Column) -> Option<AttNum>| match &rows {
        Rows::Values(values) => {
            let given = |column: &Column| !(own_ids && column.identity.is_some());
            slice_of(values, &columns, other, &|key| {
                column_for(key).filter(|mine| table.attribute(*mine).is_some_and(given))
            })
        }
        Rows::Query(_) | Rows::Default => None,
    };
    if let Some(clause) = conflict {
        upsert::build(&mut builder, &clause, &new, Some(&slices))?;
        return Ok(builder.finish());
    }
    for column in &table.columns {
        let value = super::build::value_of(&new, column.attnum).unwrap_or("NULL").to_owned();
        builder.value(Output::New(column.attnum), column, &value);
    }
    verdict::row_rules(&mut builder, &new, None, 0, "");
    unique::unique(&mut builder, &new, None, Some(&slices));
    verdict::parents(&mut builder, &new, None, Some(&slices))?;
    builder.locks(&new, true, |_| true);
    builder.parent_locks(&new, None)?;
    builder.returning(&new);
    Ok(builder.finish())
}

/// The place of a row among those proposed.
pub(super) const ROW_ORDER: &str = "\"pgoutpost.s\".\"pgoutpost.row\"";

fn rows(statement: &SyntaxNode) -> Result<Rows, Report> {
    for inner in statement.children() {
        match inner.kind() {
            K::DEFAULT_VALUES => return Ok(Rows::Default),
            K::VALUES if inner.children().all(|part| part.kind() == K::ROW_LIST) => {
                let list = child(&inner, K::ROW_LIST);
                let rows = list.iter().flat_map(SyntaxNode::children).filter(|row| row.kind() == K::ROW);
                return Ok(Rows::Values(rows.map(|row| row.children().collect()).collect()));
            }
            kind if classify::is_select(kind) => return Ok(Rows::Query(inner)),
            _ => {}
        }
    }
    Err(Report::new(FEATURE_NOT_SUPPORTED, "this form of INSERT cannot be buffered"))
}

/// The columns that values are given for, in the order of the values.
fn columns<'b>(builder: &Builder<'b>, table: &Table, rows: &Rows) -> Result<Vec<&'b Column>, Report> {
    if let Some(list) = child(builder.request.statement, K::COLUMN_TARGET_LIST) {
        let targets = list.children().filter(|target| target.kind() == K::COLUMN_TARGET);
        return targets.map(|target| column(builder, &target)).collect();
    }
    let count = match rows {
        Rows::Values(rows) => rows.iter().map(Vec::len).max().unwrap_or(0),
        Rows::Query(query) => width(query, builder.request.names).unwrap_or(table.columns.len()),
        Rows::Default => 0,
    };
    Ok(builder.table.columns.iter().take(count).collect())
}

/// Whether only Postgres knows how many columns the query has: then it has at most as many as the table.
fn is_of_any_width(builder: &Builder<'_>, query: &SyntaxNode) -> bool {
    child(builder.request.statement, K::COLUMN_TARGET_LIST).is_none() && width(query, builder.request.names).is_none()
}

/// How many columns a query has; `None`: it has a `*` of something that is not a table.
fn width(query: &SyntaxNode, names: Names<'_>) -> Option<usize> {
    let first = query.descendants().find(|inner| match inner.kind() {
        K::TARGET_LIST => inner.ancestors().any(|above| above == *query) && !within_with(inner, query),
        K::ROW | K::TABLE => !within_with(inner, query),
        _ => false,
    })?;
    let with = first.ancestors().any(|above| leading_with(&above).is_some());
    let relations = |node: &SyntaxNode| -> Option<Vec<(String, usize)>> {
        let paths = node.descendants().filter(|inner| inner.kind() == K::RELATION_NAME_REF);
        let of = |name: SyntaxNode| {
            let path = path_of(&name)?;
            let alias = name.parent().and_then(|item| alias_of(&item)).or_else(|| path.last().cloned())?;
            Some((alias, names.relation(&path)?.columns.len()))
        };
        if with { None } else { paths.map(of).collect() }
    };
    match first.kind() {
        K::ROW => return Some(first.children().count()),
        K::TABLE => return relations(&first).map(|found| found.iter().map(|(_, width)| width).sum()),
        _ => {}
    }
    let from =
        first.ancestors().find(|above| above.kind() == K::SELECT).and_then(|select| child(&select, K::FROM_CLAUSE));
    let plain = |from: &SyntaxNode| {
        let odd =
            [K::PAREN_SELECT, K::JOIN_USING_CLAUSE, K::NATURAL_KW, K::FUNCTION_FROM_ITEM, K::ROWS_FROM_ITEM, K::VALUES];
        !from.descendants_with_tokens().any(|inner| odd.contains(&inner.kind()))
    };
    let tables = || from.as_ref().filter(|from| plain(from)).and_then(relations);
    let mut width = 0;
    for target in first.children().filter(|target| target.kind() == K::TARGET) {
        let text = target.text().to_string();
        let starred = target.descendants().take(3).any(|inner| has_token(&inner, K::STAR));
        width += match text.trim().strip_suffix('*').filter(|_| starred) {
            None => 1,
            Some("") => tables()?.iter().map(|(_, width)| width).sum(),
            Some(_) => {
                let name =
                    target.descendants().find(|inner| inner.kind() == K::NAME_REF).and_then(|name| name_of(&name))?;
                tables()?.iter().find(|(alias, _)| *alias == name)?.1
            }
        };
    }
    Some(width)
}

fn within_with(node: &SyntaxNode, query: &SyntaxNode) -> bool {
    node.ancestors().take_while(|above| above != query).any(|above| above.kind() == K::WITH_CLAUSE)
}

/// FROM for rows written out: every column of the table gets its value here, so that volatile defaults are
/// evaluated once for each row.
fn of_values(
    builder: &mut Builder<'_>,
    table: &Table,
    columns: &[&Column],
    rows: &[Vec<SyntaxNode>],
    own_ids: bool,
) -> Result<(), Report> {
    let mut values = Template::text("(VALUES ");
    for (number, row) in rows.iter().enumerate() {
        values.push(if number > 0 { ", (" } else { "(" }).push(&number.to_string());
        for column in table.columns.iter().filter(|column| !column.generated) {
            let given = columns.iter().position(|given| given.attnum == column.attnum).and_then(|place| row.get(place));
            let given = given.filter(|item| !has_token(item, K::DEFAULT_KW));
            let given = given.filter(|_| !(own_ids && column.identity.is_some()));
            let expression = match given {
                Some(item) => builder.cut(range(item)),
                None => builder.default_of(column, false)?,
            };
            values.push(", (").append(&expression).push(&format!(")::{}", assign::type_of(column)));
        }
        values.push(")");
    }
    let names = table.columns.iter().filter(|column| !column.generated).map(|column| hidden("c", column.attnum));
    let names = std::iter::once("\"pgoutpost.row\"".to_owned()).chain(names);
    if child(builder.request.statement, K::ON_CONFLICT_CLAUSE).is_some() {
        // Constants would otherwise be computed with before it is known whether DO UPDATE applies to the row.
        values.push(" OFFSET 0");
    }
    values.push(&format!(") AS \"pgoutpost.s\"({})", list(names)));
    builder.from.append(&values);
    Ok(())
}

/// FROM for the rows of a query. Its volatile defaults keep it a subquery of its own, evaluated in the rows' order.
fn of_query(
    builder: &mut Builder<'_>,
    table: &Table,
    columns: &[&Column],
    query: &SyntaxNode,
    own_ids: bool,
) -> Result<(), Report> {
    let names = list(columns.iter().map(|column| hidden("q", column.attnum)));
    let padded = is_of_any_width(builder, query);
    let mut source = Template::text("(SELECT q.\"pgoutpost.row\" AS \"pgoutpost.row\"");
    for column in table.columns.iter().filter(|column| !column.generated) {
        let given = columns.iter().any(|given| given.attnum == column.attnum);
        let literal = |node: &SyntaxNode| has_token(node, K::STRING);
        if given && assign::has_fields(column) && query.descendants().any(|inner| literal(&inner)) {
            // By now it is a text.
            let message = format!("a query with literals into column \"{}\" cannot be buffered", column.name);
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Use VALUES."));
        }
        let (before, after) = around_typed(column);
        source.push(", ").push(&before);
        if given && !(own_ids && column.identity.is_some()) {
            let value = format!("q.{}", hidden("q", column.attnum));
            if padded {
                source.push(&format!("CASE WHEN {} THEN (", is_padding(&value)));
                source.append(&builder.default_of(column, true)?);
                source.push(&format!(")::{0} ELSE ({value})::{0} END", column.base_type_name));
            } else {
                source.push(&value);
            }
        } else {
            source.append(&builder.default_of(column, true)?);
        }
        source.push(&after).push(&format!(" AS {}", hidden("c", column.attnum)));
    }
    source.push(" FROM (SELECT q.*, pg_catalog.row_number() OVER () AS \"pgoutpost.row\" FROM (");
    if padded {
        source.push("(");
    }
    source.append(&builder.cut(range(query)));
    if padded {
        let padding = list(columns.iter().map(|_| format!("pg_catalog.chr(1)::{PADDING}")));
        source.push(&format!(") AS c CROSS JOIN (SELECT {padding} OFFSET 0) AS p"));
    }
    source.push(&format!(") AS q({names})) AS q) AS \"pgoutpost.s\""));
    builder.from.append(&source);
    Ok(())
}

/// The type of the columns that stand after those of a query of unknown width, as many as the table has: a domain of which
/// nobody has this value. What does not come from the query is found by it.
const PADDING: &str = "information_schema.character_data";

fn is_padding(value: &str) -> String {
    format!("pg_catalog.pg_typeof({value}) = '{PADDING}'::pg_catalog.regtype AND ({value})::text = pg_catalog.chr(1)")
}

fn around_typed(column: &Column) -> (String, String) {
    ("(".into(), format!(")::{}", assign::type_of(column)))
}

/// The rows of another table (or this one) with a key that the values written out name.
fn slice_of(
    rows: &[Vec<SyntaxNode>],
    columns: &[&Column],
    other: &Table,
    column_for: &dyn Fn(&Column) -> Option<AttNum>,
) -> Option<Slice> {
    let slices: Option<Vec<Slice>> = rows
        .iter()
        .map(|row| {
            Slice::of_key(other, |key| {
                let mine = column_for(key)?;
                let place = columns.iter().position(|column| column.attnum == mine)?;
                // The assigned value is of this column's type; only within one family is it the written one.
                Constant::read(row.get(place)?, columns[place])?;
                Some((columns[place], Constant::read(row.get(place)?, key)?))
            })
        })
        .collect();
    Slice::union(slices?)
}
