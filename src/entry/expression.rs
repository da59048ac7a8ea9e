//! A value as it is computed from the row's own columns, so that main can compute it from what it has by then.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A column that an UPDATE computes, besides the value that came of it at the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// A place in [`super::EntryTable::columns`].
    pub column: usize,
    pub expression: Expression,
}

/// Built-in, immutable operators and functions over columns and values. What they are to be called with has been
/// decided where the client's statement was read: `pg_catalog` is meant by every name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expression {
    /// A place in [`super::EntryTable::columns`].
    Column(usize),
    /// A constant, or a parameter: its type as `pg_typeof` prints it, and its canonical text.
    Value(Arc<str>, Arc<str>),
    /// One operand or two.
    Operator(Arc<str>, Vec<Expression>),
    Function(Arc<str>, Vec<Expression>),
}

/// JSON that is nested deeper than 128 could not be read again; each level here is three there.
const DEPTH_MAX: usize = 20;

/// Looks like functions and are syntax: they cannot be qualified.
const SYNTAX: [&str; 4] = ["coalesce", "greatest", "least", "nullif"];

impl Expression {
    /// Whether it can be written as SQL for a table of so many columns.
    pub(crate) fn is_well_formed(&self, columns: usize) -> bool {
        self.is_well_formed_at(columns, 0)
    }

    fn is_well_formed_at(&self, columns: usize, depth: usize) -> bool {
        if depth > DEPTH_MAX {
            return false;
        }
        let all =
            |operands: &[Expression]| operands.iter().all(|operand| operand.is_well_formed_at(columns, depth + 1));
        match self {
            Expression::Column(place) => *place < columns,
            Expression::Value(..) => true,
            Expression::Operator(name, operands) => {
                let is_symbol = !name.is_empty() && name.chars().all(|c| "+-*/<>=~!@#%^&|".contains(c));
                (is_symbol || &**name == "NOT") && matches!(operands.len(), 1 | 2) && all(operands)
            }
            Expression::Function(name, operands) => {
                let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                !name.is_empty() && is_name && all(operands)
            }
        }
    }

    /// Its values, from left to right.
    pub(crate) fn values(&self) -> Vec<(&Arc<str>, &Arc<str>)> {
        match self {
            Expression::Column(_) => Vec::new(),
            Expression::Value(type_name, text) => vec![(type_name, text)],
            Expression::Operator(_, operands) | Expression::Function(_, operands) => {
                operands.iter().flat_map(Expression::values).collect()
            }
        }
    }

    /// As SQL. `value`: how to write the next of [`Expression::values`], given its type and text.
    pub(crate) fn sql(&self, column: &dyn Fn(usize) -> String, value: &mut dyn FnMut(&str, &str) -> String) -> String {
        match self {
            Expression::Column(place) => column(*place),
            Expression::Value(type_name, text) => value(type_name, text),
            Expression::Operator(name, operands) => {
                let operands: Vec<String> = operands.iter().map(|operand| operand.sql(column, value)).collect();
                let name = if &**name == "NOT" { "NOT".to_owned() } else { format!("OPERATOR(pg_catalog.{name})") };
                match operands.as_slice() {
                    [left, right] => format!("({left} {name} {right})"),
                    other => format!("({name} {})", other.join(" ")),
                }
            }
            Expression::Function(name, operands) => {
                let operands: Vec<String> = operands.iter().map(|operand| operand.sql(column, value)).collect();
                let schema = if SYNTAX.contains(&&**name) { "" } else { "pg_catalog." };
                format!("{schema}{name}({})", operands.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Effect;

    #[test]
    fn entries_of_before_are_read_and_none_is_written_that_could_not_be() {
        let before = r#"{"op":"update","table":0,"key":["1"],"set":[[1,"2"]],"old":[[1,"1"]]}"#;
        let Effect::Update { own, .. } = serde_json::from_str(before).unwrap() else { panic!("an update") };
        assert!(own.is_empty());
        let deep =
            |levels| (0..levels).fold(Expression::Column(0), |inner, _| Expression::Operator("-".into(), vec![inner]));
        let json = serde_json::to_string(&Own { column: 0, expression: deep(DEPTH_MAX) }).unwrap();
        assert!(deep(DEPTH_MAX).is_well_formed(1) && serde_json::from_str::<Own>(&json).is_ok());
        assert!(!deep(DEPTH_MAX + 1).is_well_formed(1));
    }

    #[test]
    fn what_could_be_other_sql_is_ill_formed() {
        let one = || vec![Expression::Column(0)];
        assert!(Expression::Function("abs".into(), one()).is_well_formed(1));
        assert!(!Expression::Function("abs".into(), one()).is_well_formed(0), "no such column");
        for name in ["", "a\"b", "x(", "A"] {
            assert!(!Expression::Function(name.into(), one()).is_well_formed(1), "{name}");
            assert!(!Expression::Operator(name.into(), one()).is_well_formed(1), "{name}");
        }
    }
}
