//! DELETE.

use squawk_syntax::SyntaxKind as K;

use super::super::Report;
use super::super::merge::key_columns;
use super::build::{Builder, Built, Request};
use super::update::{column_of, condition, old_row, target};
use super::{Output, WriteKind, tree, verdict};

pub(super) fn build(request: &Request<'_>, canonical: bool) -> Result<Built, Report> {
    let mut builder = Builder::new(request, canonical);
    target(&mut builder, K::USING_CLAUSE, K::USING_KW);
    let table = builder.table;
    let old = old_row(&builder);
    if tree::is_tree(&builder, WriteKind::Delete) {
        tree::check(&builder, WriteKind::Delete, &[])?;
        tree::old_member(&mut builder);
    }
    for column in key_columns(table) {
        builder.value(Output::Key, column, &column_of(&builder.alias, column));
    }
    for column in &table.columns {
        builder.value(Output::Old(column.attnum), column, &column_of(&builder.alias, column));
    }
    verdict::children(&mut builder, &old, None)?;
    builder.locks(&old, true, |_| true);
    builder.existence_locks(&old, None);
    condition(&mut builder);
    builder.returning(&old);
    Ok(builder.finish())
}
