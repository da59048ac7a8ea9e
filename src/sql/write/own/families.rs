//! Which operators and functions of `pg_catalog` are IMMUTABLE whatever types of a family they are used with
//! (`pg_operator`, `pg_proc.provolatile`; a test of `tests/sql_exec` asks Postgres).

use crate::catalog::Column;

/// Types between which it makes no difference here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Number,
    Text,
    Json,
    Boolean,
    /// `text[]`, as a path into `jsonb`.
    Path,
}

impl Family {
    /// `None`: columns of this type are not computed.
    pub(super) fn of_column(column: &Column) -> Option<Family> {
        Some(match column.base_type_oid {
            20 | 21 | 23 | 700 | 701 | 1700 => Family::Number,
            25 | 1042 | 1043 => Family::Text,
            16 => Family::Boolean,
            3802 => Family::Json,
            _ => return None,
        })
    }

    /// By the name that `pg_typeof` prints.
    pub(super) fn of_type(name: &str) -> Option<Family> {
        Some(match name {
            "smallint" | "integer" | "bigint" | "numeric" | "real" | "double precision" => Family::Number,
            "text" | "character varying" | "character" => Family::Text,
            "boolean" => Family::Boolean,
            "jsonb" => Family::Json,
            "text[]" => Family::Path,
            _ => return None,
        })
    }

    /// The type that a string literal takes in this place; of numbers it depends on the other operand's.
    pub(super) fn literal(self) -> Option<&'static str> {
        match self {
            Family::Number => None,
            Family::Text => Some("text"),
            Family::Json => Some("jsonb"),
            Family::Boolean => Some("boolean"),
            Family::Path => Some("text[]"),
        }
    }
}

use Family::{Boolean, Json, Number, Path, Text};

/// What a string literal is as an operand, beside one of this family.
pub(super) fn operand(name: &str, place: usize, other: Option<Family>) -> Option<Family> {
    match (name, place, other) {
        ("-", 1, Some(Json)) => Some(Text),
        ("||", _, other) => other,
        _ => None,
    }
}

/// What comes of an operator; `None`: not one of ours. `integer`: the last operand is a constant of that type.
pub(super) fn operator(name: &str, operands: &[Family], integer: bool) -> Option<Family> {
    match (name, operands) {
        ("+" | "-" | "*" | "/" | "%" | "^" | "&" | "|" | "#" | "<<" | ">>", [Number, Number]) | ("-", [Number]) => {
            Some(Number)
        }
        ("||", [Text, Text]) => Some(Text),
        ("||", [Json, Json]) | ("-", [Json, Text]) => Some(Json),
        ("-", [Json, Number]) if integer => Some(Json),
        ("NOT", [Boolean]) => Some(Boolean),
        _ => None,
    }
}

/// Name, how many arguments there must be, all that there may be, and what comes of them.
pub(super) const FUNCTIONS: [(&str, usize, &[Family], Family); 29] = [
    ("abs", 1, &[Number], Number),
    ("ceil", 1, &[Number], Number),
    ("ceiling", 1, &[Number], Number),
    ("div", 2, &[Number, Number], Number),
    ("floor", 1, &[Number], Number),
    ("mod", 2, &[Number, Number], Number),
    ("power", 2, &[Number, Number], Number),
    ("round", 1, &[Number, Number], Number),
    ("sign", 1, &[Number], Number),
    ("sqrt", 1, &[Number], Number),
    ("trunc", 1, &[Number, Number], Number),
    ("btrim", 1, &[Text, Text], Text),
    ("initcap", 1, &[Text], Text),
    ("left", 2, &[Text, Number], Text),
    ("length", 1, &[Text], Number),
    ("lower", 1, &[Text], Text),
    ("lpad", 2, &[Text, Number, Text], Text),
    ("ltrim", 1, &[Text, Text], Text),
    ("repeat", 2, &[Text, Number], Text),
    ("replace", 3, &[Text, Text, Text], Text),
    ("reverse", 1, &[Text], Text),
    ("right", 2, &[Text, Number], Text),
    ("rpad", 2, &[Text, Number, Text], Text),
    ("rtrim", 1, &[Text, Text], Text),
    ("substr", 2, &[Text, Number, Number], Text),
    ("upper", 1, &[Text], Text),
    ("jsonb_insert", 3, &[Json, Path, Json, Boolean], Json),
    ("jsonb_set", 3, &[Json, Path, Json, Boolean], Json),
    ("jsonb_strip_nulls", 1, &[Json], Json),
];

/// These take any type, the same for all arguments.
const ALIKE: [&str; 4] = ["coalesce", "greatest", "least", "nullif"];

/// The names of [`FUNCTIONS`], for who asks Postgres about them.
pub const NAMES: [&str; FUNCTIONS.len()] = {
    let mut names = [""; FUNCTIONS.len()];
    let mut place = 0;
    while place < names.len() {
        names[place] = FUNCTIONS[place].0;
        place += 1;
    }
    names
};

/// What a string literal is as an argument, beside one of this family.
pub(super) fn argument(name: &str, place: usize, other: Option<Family>) -> Option<Family> {
    if ALIKE.contains(&name) {
        return other;
    }
    let (.., arguments, _) = FUNCTIONS.iter().find(|(known, ..)| *known == name)?;
    arguments.get(place).copied()
}

/// What comes of a function; `None`: not one of ours.
pub(super) fn function(name: &str, arguments: &[Family]) -> Option<Family> {
    if ALIKE.contains(&name) {
        let first = *arguments.first()?;
        return arguments.iter().all(|other| *other == first).then_some(first);
    }
    let (_, least, known, result) = FUNCTIONS.iter().find(|(known, ..)| *known == name)?;
    (arguments.len() >= *least && known.starts_with(arguments)).then_some(*result)
}
