//! Tables that inherit from others.

use super::Features;
use super::dice::Dice;
use super::kind::Kind;
use super::schema::{Column, Filled, Table};
use super::straight::tagged;

/// A table with the columns of another one and one more, whose rows are that one's as well.
pub fn heir(dice: &mut Dice, features: &Features, number: usize, parent: &Table, out: &mut Vec<String>) -> Table {
    let mut table = parent.clone();
    let name = tagged(&format!("heir{number}"), features.tag.as_deref().unwrap_or_default());
    (table.name, table.first_id, table.family) = (name, HEIRS_FIRST, vec![parent.name.clone()]);
    (table.unique, table.apart, table.references) = (Vec::new(), Vec::new(), Vec::new());
    table.arbiters.clear();
    (table.has_exclusion, table.has_deferrable) = (false, false);
    // Identity is not inherited, and a sequence's values are the parent's.
    table.columns[0].filled = Filled::Null;
    let kind = *dice.one(&[Kind::Int, Kind::Text, Kind::Json]);
    let key = table.names(&table.key);
    out.push(format!(
        "CREATE TABLE {} (more {}, PRIMARY KEY ({key})) INHERITS ({})",
        table.name,
        kind.declared(),
        parent.name
    ));
    table.columns.push(Column { name: "more".to_owned(), kind, not_null: false, filled: Filled::Null });
    table
}

pub fn is_fit_for_heirs(tables: &[Table], place: usize) -> bool {
    let table = &tables[place];
    let referenced = tables.iter().flat_map(|other| &other.references).any(|reference| reference.table == place);
    let generated = table.columns.iter().any(|column| column.filled == Filled::Generated);
    !table.is_partitioned
        && !referenced
        && table.references.is_empty()
        && !generated
        && table.apart.is_empty()
        && !table.has_index
}

/// Ids of tables that inherit begin here: so that those of parent and heir together are one order.
const HEIRS_FIRST: i64 = 1000;
