//! COPY … FROM STDIN as a series of INSERTs: the stream is split into rows here, and what its fields mean is Postgres'
//! business, which casts them from text (or takes them in binary) in the evaluation of an INSERT … SELECT.
//!
//! Pure: bytes go in, rows come out.

use std::sync::Arc;

use bytes::Bytes;
use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::merge::list;
use super::resolve::{Names, Text};
use super::syntax::{child, name_of, path_of, quoted, range};
use super::write::Filter;
use super::{Report, WritePlan, arrays, parse};
use crate::catalog::{Column, Table};
use crate::sqlstate::{FEATURE_NOT_SUPPORTED, SqlState};

mod binary;
mod fields;
mod lines;
mod options;

pub use lines::{BATCH_BYTES, Broken, Reader, Row};
use options::Format;
pub use options::Options;

/// The template of a COPY … FROM STDIN.
#[derive(Debug)]
pub struct CopyPlan {
    pub target: Arc<Table>,
    /// What is wrong with the options, Postgres says after it has looked at the table and the role's rights.
    pub options: Result<Options, Report>,
    /// Writes the rows of one batch.
    pub insert: WritePlan,
    /// Postgres inserts each row before it reads the next: a default or the condition is volatile.
    pub row_by_row: bool,
    pub columns: Vec<Column>,
}

impl CopyPlan {
    pub(super) fn new(text: &str, root: &SyntaxNode, names: Names<'_>, gate: &str) -> Result<CopyPlan, Report> {
        let unsupported = |message: &str| Report::new(FEATURE_NOT_SUPPORTED, message);
        let copy = child(root, K::COPY).ok_or_else(|| unsupported("not a COPY"))?;
        let place = child(&copy, K::COPY_TABLE).ok_or_else(|| unsupported("COPY of a query FROM STDIN"))?;
        let path = child(&place, K::TABLE_NAME_REF).and_then(|name| path_of(&name));
        let target = path.as_ref().and_then(|path| names.relation(path)).cloned();
        let target = target.ok_or_else(|| unsupported("only ordinary tables of this database are known"))?;
        let columns = columns(&place, &target)?;
        let options = options::read(&copy, &target, &columns);
        let options = match options {
            Err(options::Wrong::NotHere(report)) => return Err(report),
            Err(options::Wrong::Option(report)) => Err(report),
            Ok(options) => Ok(options),
        };
        if columns.is_empty() {
            return Err(unsupported("COPY into a table without columns cannot be buffered"));
        }
        let binary = options.as_ref().is_ok_and(|options| options.format == Format::Binary);
        if !binary && let Some(column) = columns.iter().find(|column| read_otherwise(column)) {
            let message = format!("COPY into column \"{}\" of type {}", column.name, column.full_type_name);
            return Err(unsupported(&format!("{message} cannot be buffered")).hint("Use INSERT."));
        }
        let source = Text::read(text, root, names, 0)?;
        let condition = child(&copy, K::WHERE_CLAUSE).and_then(|clause| clause.children().next());
        let filter = condition
            .as_ref()
            .map(|node| Filter { template: source.cut(range(node)), opaque: source.findings.opaque.clone() });
        let insert = insert(&target, &columns, binary);
        let planned = parse::with_tree(&insert, |root| WritePlan::of_copy(&insert, root, names, gate, filter));
        let insert = planned.map_err(|error| unsupported(&error.reason))??;
        let given = |column: &Column| columns.iter().any(|given| given.attnum == column.attnum);
        let defaults = target.columns.iter().filter(|column| !given(column) && !column.generated);
        // As Postgres has it: rows that take a value of a sequence may still go together.
        let volatile = |text: &str| volatile_names(text, names).any(|name| !name.eq_ignore_ascii_case("nextval"));
        let row_by_row = defaults.filter_map(|column| column.default.as_deref()).any(volatile)
            || condition.is_some_and(|node| volatile(&node.text().to_string()));
        Ok(CopyPlan { target, options, insert, row_by_row, columns })
    }

    /// What Postgres has against the statement, which was made of this text, and would not have against an INSERT.
    pub fn refused(&self, text: &str) -> Option<Report> {
        refused(text, &self.columns, &self.target)
    }

    /// How many rows an evaluation can take.
    pub fn rows_max(&self) -> usize {
        let one = self.is_binary() && self.columns.iter().any(|column| column.is_array);
        if one { 1 } else { lines::ROWS_MAX }
    }

    pub fn is_binary(&self) -> bool {
        self.options.as_ref().is_ok_and(|options| options.format == Format::Binary)
    }

    /// The parameters of an evaluation: types and values, all in binary.
    pub fn arguments(&self, rows: &[Row]) -> (Vec<u32>, Vec<Option<Bytes>>) {
        let (mut types, mut values) = (Vec::new(), Vec::new());
        for (place, column) in self.columns.iter().enumerate() {
            let field = |row: &Row| row.fields.get(place).cloned().flatten();
            if self.is_binary() && self.rows_max() == 1 {
                types.push(column.base_type_oid);
                values.push(rows.first().and_then(field));
            } else {
                let element = if self.is_binary() { column.base_type_oid } else { TEXT };
                types.push(if self.is_binary() { 0 } else { TEXT_ARRAY });
                values.push(Some(arrays::of_elements(element, rows.iter().map(field))));
            }
        }
        (types, values)
    }

    /// The value of one column alone, from `$1`: what to ask when a row is wrong. With the parameter's type.
    pub fn alone(&self, place: usize) -> Option<(String, u32)> {
        let column = self.columns.get(place)?;
        let oid = if self.is_binary() { column.base_type_oid } else { TEXT };
        let value = super::write::assigned(column, &format!("($1)::{}", column.base_type_name));
        Some((format!("SELECT {value}"), oid))
    }
}

/// Whether a cast from text is something else than what the type reads.
fn read_otherwise(column: &Column) -> bool {
    const REGCLASS: u32 = 2205;
    const REGCLASS_ARRAY: u32 = 2210;
    [REGCLASS, REGCLASS_ARRAY].contains(&column.base_type_oid)
        || column.has_text_cast
        || super::write::has_fields(column)
}

const TEXT: u32 = 25;
const TEXT_ARRAY: u32 = 1009;

/// The columns in the order of the fields.
fn columns(place: &SyntaxNode, table: &Table) -> Result<Vec<Column>, Report> {
    let Some(written) = child(place, K::COLUMN_REF_LIST) else {
        return Ok(table.columns.iter().filter(|column| !column.generated).cloned().collect());
    };
    // Names that are not there, and those that are there twice, are Postgres' to complain of.
    let names = written.children().filter_map(|name| name_of_any(&name));
    Ok(names.filter_map(|name| table.column(&name).cloned()).collect())
}

pub(super) fn name_of_any(node: &SyntaxNode) -> Option<String> {
    name_of(node).or_else(|| node.children().find_map(|inner| name_of_any(&inner)))
}

fn insert(table: &Table, columns: &[Column], binary: bool) -> String {
    let one = binary && columns.iter().any(|column| column.is_array);
    let names = list(columns.iter().map(|column| quoted(&column.name)));
    let parameters = columns.iter().enumerate().map(|(place, column)| match (binary, one) {
        (true, true) => format!("${}::{}", place + 1, column.base_type_name),
        (true, false) => format!("${}::{}[]", place + 1, column.base_type_name),
        (false, _) => format!("${}::pg_catalog.text[]", place + 1),
    });
    let parameters: Vec<String> = parameters.collect();
    let rows = if one {
        format!("SELECT {}", list(parameters))
    } else {
        let arrays = list(parameters.iter().map(|array| format!("pg_catalog.unnest({array})")));
        let fields = list((1..=columns.len()).map(|place| format!("f{place}")));
        format!("SELECT {fields} FROM ROWS FROM ({arrays}) AS \"pgoutpost.i\"({fields})")
    };
    let target = super::merge::qualified(table);
    format!("INSERT INTO {target} ({names}) OVERRIDING SYSTEM VALUE {rows}")
}

/// The analysis of a COPY is not part of Parse: a text whose Parse has the same complaints about table and columns.
pub(super) fn judged_by(text: &str) -> Option<String> {
    let read = |root: &SyntaxNode| {
        let place = child(&child(root, K::COPY)?, K::COPY_TABLE)?;
        let table = text.get(range(&child(&place, K::TABLE_NAME_REF)?))?;
        Some(match child(&place, K::COLUMN_REF_LIST) {
            Some(columns) => {
                let nulls = list(columns.children().map(|_| "NULL".to_owned()));
                let columns = text.get(range(&columns))?;
                format!("INSERT INTO {table} {columns} OVERRIDING SYSTEM VALUE SELECT {nulls}")
            }
            None => format!("TABLE {table}"),
        })
    };
    parse::with_tree(text, read).ok().flatten()
}

/// What cannot be in the list of columns, or in the condition, although it could be in an INSERT or a query.
fn refused(text: &str, columns: &[Column], table: &Table) -> Option<Report> {
    if let Some(column) = columns.iter().find(|column| column.generated) {
        let message = format!("column \"{}\" is a generated column", column.name);
        return Some(Report::new(SqlState(*b"42P10"), message).detail("Generated columns cannot be used in COPY."));
    }
    let subquery = |root: &SyntaxNode| {
        let clause = child(&child(root, K::COPY)?, K::WHERE_CLAUSE)?;
        let mut names = clause.descendants().filter(|node| node.kind() == K::NAME_REF).filter_map(|n| name_of(&n));
        if let Some(name) = names.find(|name| table.column(name).is_some_and(|column| column.generated)) {
            let message = "generated columns are not supported in COPY FROM WHERE conditions";
            let detail = format!("Column \"{name}\" is a generated column.");
            return Some(Report::new(SqlState(*b"42P10"), message).detail(detail));
        }
        let inner = clause.descendants().find(|inner| super::classify::is_select(inner.kind()))?;
        let mut report = Report::new(FEATURE_NOT_SUPPORTED, "cannot use subquery in COPY FROM WHERE condition");
        let at = inner.parent().filter(|above| above.kind() == K::PAREN_EXPR).map_or(range(&inner), |a| range(&a));
        report.position = Some(text.get(..at.start)?.chars().count() + 1);
        Some(report)
    };
    parse::with_tree(text, subquery).ok().flatten()
}

/// The names of volatile functions in an expression; at times of other things that have such a name.
pub(super) fn volatile_names<'t>(expression: &'t str, names: Names<'t>) -> impl Iterator<Item = &'t str> {
    words(expression).filter(move |word| names.catalog.volatile_functions.contains(&word.to_lowercase()))
}

/// Names, keywords and numbers.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

#[cfg(test)]
mod tests;
