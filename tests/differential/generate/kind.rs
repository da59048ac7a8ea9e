//! Column types and their literals. Few values each, so that rows meet: equal keys, equal groups, parents that exist.

use super::dice::Dice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Small,
    Int,
    Big,
    Numeric,
    Bool,
    Text,
    Short,
    Icu,
    Fixed,
    Stamp,
    Date,
    Uuid,
    Bytes,
    Json,
    Ints,
    Texts,
    Range,
    Mood,
    Positive,
    Code,
    Double,
    Bits,
    Net,
    Local,
    Pair,
}

pub const ALL: [Kind; 25] = [
    Kind::Small,
    Kind::Int,
    Kind::Big,
    Kind::Numeric,
    Kind::Bool,
    Kind::Text,
    Kind::Short,
    Kind::Icu,
    Kind::Fixed,
    Kind::Stamp,
    Kind::Date,
    Kind::Uuid,
    Kind::Bytes,
    Kind::Json,
    Kind::Ints,
    Kind::Texts,
    Kind::Range,
    Kind::Mood,
    Kind::Positive,
    Kind::Code,
    Kind::Double,
    Kind::Bits,
    Kind::Net,
    Kind::Local,
    Kind::Pair,
];

/// What the types below need in a schema.
pub const TYPES: [&str; 4] = [
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'so happy', 'Über')",
    "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "CREATE DOMAIN code AS varchar(3) DEFAULT 'dd' CHECK (VALUE <> 'bad')",
    "CREATE TYPE pair AS (a int, b text)",
];

impl Kind {
    /// In CREATE TABLE.
    pub fn declared(self) -> &'static str {
        match self {
            Kind::Small => "smallint",
            Kind::Int => "int",
            Kind::Big => "bigint",
            Kind::Numeric => "numeric(8,2)",
            Kind::Bool => "boolean",
            Kind::Text => "text",
            Kind::Short => "varchar(6)",
            Kind::Icu => "text COLLATE \"und-x-icu\"",
            Kind::Fixed => "char(4)",
            Kind::Stamp => "timestamptz",
            Kind::Date => "date",
            Kind::Uuid => "uuid",
            Kind::Bytes => "bytea",
            Kind::Json => "jsonb",
            Kind::Ints => "int[]",
            Kind::Texts => "text[]",
            Kind::Range => "int4range",
            Kind::Mood => "mood",
            Kind::Positive => "positive",
            Kind::Code => "code",
            Kind::Double => "float8",
            Kind::Bits => "bit(4)",
            Kind::Net => "inet",
            Kind::Local => "timestamp(0)",
            Kind::Pair => "pair",
        }
    }

    /// In a cast.
    pub fn cast(self) -> &'static str {
        match self {
            Kind::Icu => "text",
            Kind::Numeric => "numeric",
            other => other.declared(),
        }
    }

    /// A group of types whose values go into each other's columns.
    pub fn family(self) -> Kind {
        match self {
            Kind::Small | Kind::Int | Kind::Big | Kind::Positive => Kind::Int,
            Kind::Text | Kind::Short | Kind::Icu | Kind::Fixed | Kind::Code => Kind::Text,
            other => other,
        }
    }

    /// Whether it has an order, and so min and max.
    pub fn is_ordered(self) -> bool {
        !matches!(
            self.family(),
            Kind::Bool | Kind::Json | Kind::Uuid | Kind::Bytes | Kind::Range | Kind::Mood | Kind::Bits | Kind::Pair
        )
    }

    /// A constant, that is not NULL.
    pub fn literal(self, dice: &mut Dice) -> String {
        let quoted = |values: &[&str], dice: &mut Dice| format!("'{}'", dice.one(values));
        match self {
            Kind::Small | Kind::Int | Kind::Big => dice.between(0, 12).to_string(),
            Kind::Positive if dice.chance(4) => "0".to_owned(),
            Kind::Positive => dice.between(1, 9).to_string(),
            Kind::Numeric => format!("{}.{}", dice.between(-3, 9), dice.one(&["00", "25", "50", "99"])),
            Kind::Bool => (*dice.one(&["true", "false"])).to_owned(),
            Kind::Text | Kind::Icu => {
                quoted(&["", "a", "b", "A", "Ä", "zz", "it''s", "x\"y", "back\\slash", "NULL", "a,b", "日本"], dice)
            }
            Kind::Short => match dice.chance(3) {
                true => "'too long for it'".to_owned(),
                false => quoted(&["", "a", "B", "ab  ", "éé", "123456"], dice),
            },
            Kind::Fixed => quoted(&["", "a", "ab", "abcd", "b "], dice),
            Kind::Stamp => quoted(
                &["2026-01-01 00:00:00+00", "2026-01-01 01:00:00+02", "2026-06-30 23:59:59.999999-07", "infinity"],
                dice,
            ),
            Kind::Date => quoted(&["2026-01-01", "2026-02-28", "1999-12-31", "-infinity"], dice),
            Kind::Uuid => format!("'00000000-0000-4000-8000-00000000000{}'", dice.between(0, 5)),
            Kind::Bytes => quoted(&["\\x", "\\x00", "\\xdeadbeef", "\\x5c27"], dice),
            Kind::Json => {
                quoted(&["{}", "{\"a\": 1}", "[1, \"x\", null]", "{\"a\": {\"b\": 2}}", "\"s\"", "null"], dice)
            }
            Kind::Ints => quoted(&["{}", "{1}", "{1,2,3}", "{NULL,2}", "{{1,2},{3,4}}"], dice),
            Kind::Texts => quoted(&["{}", "{a}", "{\"a,b\",\"\"}", "{NULL,\"NULL\"}", "{\"x\\\\y\"}"], dice),
            Kind::Range => quoted(&["empty", "[1,5)", "[3,9)", "(,4)", "[2,)", "(,)"], dice),
            Kind::Mood => quoted(&["sad", "ok", "so happy", "Über"], dice),
            Kind::Double => quoted(&["1.5", "-2", "0.1", "1e100", "NaN", "Infinity"], dice),
            Kind::Bits => match dice.chance(3) {
                true => "'101'".to_owned(),
                false => quoted(&["0000", "1010", "1111", "0001"], dice),
            },
            Kind::Net => quoted(&["10.0.0.1", "10.0.0.0/8", "::1", "192.168.1.5/24"], dice),
            Kind::Local => {
                quoted(&["2026-01-01 00:00:00", "2026-01-01 00:00:00.5", "1999-12-31 23:59:59.6", "infinity"], dice)
            }
            Kind::Pair => quoted(&["(1,a)", "(2,\"x y\")", "(,)", "(1,)", "(0,\"\")"], dice),
            Kind::Code => match dice.chance(3) {
                true => (*dice.one(&["'bad'", "'long'"])).to_owned(),
                false => quoted(&["a", "b", "abc", ""], dice),
            },
        }
    }

    /// A constant that the type takes: what is wrong with a default is found when a statement is planned.
    pub fn valid(self, dice: &mut Dice) -> String {
        loop {
            let literal = self.literal(dice);
            if !matches!(literal.as_str(), "'too long for it'" | "'bad'" | "'long'" | "'101'")
                && (self, literal.as_str()) != (Kind::Positive, "0")
            {
                return literal;
            }
        }
    }

    /// A constant with its type, for where Postgres could not know it. It is valid: whether a constant that nobody
    /// needs is cast at all would be the plan's affair.
    pub fn typed(self, dice: &mut Dice) -> String {
        let cast = self.cast();
        loop {
            let literal = self.literal(dice);
            if !matches!((self, literal.as_str()), (Kind::Positive, "0") | (Kind::Code, "'bad'" | "'long'")) {
                return format!("{literal}::{cast}");
            }
        }
    }
}
