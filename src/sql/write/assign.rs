//! Assignment: an expression as a value of a column, with Postgres' own errors.
//! <https://www.postgresql.org/docs/15/typeconv-query.html>

use crate::catalog::Column;

const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const BIT: u32 = 1560;
const VARBIT: u32 = 1562;
const INTERVAL: u32 = 1186;
/// `INTERVAL_FULL_RANGE`: all fields, perhaps with a precision.
const ALL_FIELDS: i32 = 0x7FFF;

/// Whether the column is an interval of some fields only: `'5'` as an `interval minute` is five minutes, not seconds.
pub(in super::super) fn has_fields(column: &Column) -> bool {
    let modifier = column.base_typmod;
    column.base_type_oid == INTERVAL && modifier >= 0 && (modifier >> 16) & ALL_FIELDS != ALL_FIELDS
}

/// The expression as the column's type, without modifier and domain: what makes `'1'` and `$1` mean what they mean
/// in the client's statement.
pub(super) fn typed(column: &Column, expression: &str) -> String {
    format!("({expression})::{}", type_of(column))
}

/// The type of [`typed`]. Which fields an interval's literal has depends on those of the type.
pub(super) fn type_of(column: &Column) -> &str {
    if has_fields(column) { &column.full_type_name } else { &column.base_type_name }
}

/// A value of [`typed`] as the column takes it: a cast would truncate what assignment refuses (22001).
pub(in super::super) fn assigned(column: &Column, value: &str) -> String {
    let modifier = column.base_typmod;
    let limited = if modifier < 0 {
        value.to_owned()
    } else if column.is_array {
        match ["character", "bit", "bpchar", "\"bit\""].iter().any(|name| column.base_type_name.starts_with(name)) {
            true => return collated(column, elements(column, value)),
            false => full(column, value),
        }
    } else {
        match column.base_type_oid {
            VARCHAR => format!("pg_catalog.\"varchar\"({value}, {modifier}, false)"),
            BPCHAR => format!("pg_catalog.bpchar({value}, {modifier}, false)"),
            BIT => format!("pg_catalog.\"bit\"({value}, {modifier}, false)"),
            VARBIT => format!("pg_catalog.varbit({value}, {modifier}, false)"),
            _ => full(column, value),
        }
    };
    collated(column, if column.is_domain { format!("({limited})::{}", column.full_type_name) } else { limited })
}

/// With the collation of the column, whatever the expression's is: what a check, a generated column or RETURNING compares.
fn collated(column: &Column, value: String) -> String {
    match (&column.collation, column.collates_by_default) {
        (Some(collation), _) => format!("({value}) COLLATE {collation}"),
        (None, true) => format!("({value}) COLLATE pg_catalog.\"default\""),
        (None, false) => value,
    }
}

/// An array whose elements must not be truncated: by the type's input, which is as strict as assignment.
fn elements(column: &Column, value: &str) -> String {
    format!(
        "(SELECT x.v FROM pg_catalog.json_to_record(pg_catalog.json_build_object('v', ({value})::text)) AS x(v {}))",
        column.full_type_name
    )
}

/// A cast to the type with its modifier; a domain's cast does that by itself.
fn full(column: &Column, value: &str) -> String {
    if column.is_domain { value.to_owned() } else { format!("({value})::{}", column.full_type_name) }
}
