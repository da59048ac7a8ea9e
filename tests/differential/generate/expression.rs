//! Typed expressions and conditions over the columns in scope. Nothing here may depend on the plan: no division by a
//! column (whether it is evaluated at all would be the plan's affair), no aggregate whose order is open.

use super::dice::Dice;
use super::kind::Kind;
use super::schema::Table;

/// What expressions may name.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    pub columns: Vec<(String, Kind)>,
    /// For sub-selects.
    pub tables: &'a [Table],
}

impl<'a> Scope<'a> {
    pub fn of(alias: &str, table: &Table, tables: &'a [Table]) -> Scope<'a> {
        let columns = table.columns.iter().map(|column| (format!("{alias}.{}", column.name), column.kind)).collect();
        Scope { columns, tables }
    }

    pub fn empty(tables: &'a [Table]) -> Scope<'a> {
        Scope { columns: Vec::new(), tables }
    }

    pub fn and(mut self, other: &Scope<'a>) -> Scope<'a> {
        self.columns.extend(other.columns.iter().cloned());
        self
    }

    /// A name for the table of a sub-select, which hides no other.
    fn alias(&self) -> String {
        let is_used = |alias: &str| self.columns.iter().any(|(name, _)| name.starts_with(&format!("{alias}.")));
        let mut all = (1..).map(|number| if number == 1 { "sub".to_owned() } else { format!("sub{number}") });
        all.find(|alias| !is_used(alias)).unwrap_or_default()
    }

    fn column(&self, dice: &mut Dice, kind: Kind) -> Option<String> {
        let fit: Vec<_> = self.columns.iter().filter(|(_, other)| other.family() == kind.family()).collect();
        (!fit.is_empty()).then(|| dice.one(&fit).0.clone())
    }
}

/// An expression of that type's family.
pub fn expression(dice: &mut Dice, scope: &Scope<'_>, kind: Kind, depth: u32) -> String {
    if depth == 0 || dice.chance(35) {
        return leaf(dice, scope, kind);
    }
    let e = |dice: &mut Dice| expression(dice, scope, kind, depth - 1);
    match dice.below(8) {
        0 => return format!("coalesce({}, {})", e(dice), kind.typed(dice)),
        1 => {
            let (yes, no) = (e(dice), e(dice));
            return format!("CASE WHEN {} THEN {yes} ELSE {no} END", condition(dice, scope, depth - 1));
        }
        2 if kind.is_ordered() => return format!("greatest({}, {})", e(dice), e(dice)),
        3 if kind.is_ordered() && depth > 1 => return scalar(dice, scope, kind),
        4 => return format!("nullif({}, {})", e(dice), kind.typed(dice)),
        _ => {}
    }
    match kind.family() {
        Kind::Int => match dice.below(5) {
            0 => format!("({} + {})", e(dice), e(dice)),
            1 => format!("abs({} - 3)", e(dice)),
            2 => format!("length({})", expression(dice, scope, Kind::Text, depth - 1)),
            3 => format!("({} % 5)", e(dice)),
            _ => format!("cardinality({})", expression(dice, scope, Kind::Ints, depth - 1)),
        },
        Kind::Numeric => match dice.below(3) {
            0 => format!("({} + 0.25)", e(dice)),
            1 => format!("round({}, 2)", e(dice)),
            _ => format!("({} + {})", e(dice), e(dice)),
        },
        Kind::Text => match dice.below(6) {
            0 => format!("({} || {})", e(dice), e(dice)),
            1 => format!("upper({})", e(dice)),
            2 => format!("substr({}, 1, 2)", e(dice)),
            3 => format!("({})::text", expression(dice, scope, Kind::Int, depth - 1)),
            4 => format!("replace({}, 'a', 'o')", e(dice)),
            _ => format!("left({}, 3)", e(dice)),
        },
        Kind::Bool => format!("({})", condition(dice, scope, depth - 1)),
        Kind::Stamp => format!("({} + interval '1 day')", e(dice)),
        Kind::Date => format!("({} + 1)", e(dice)),
        Kind::Json => match dice.below(3) {
            0 => format!("jsonb_build_object('k', {})", expression(dice, scope, Kind::Int, depth - 1)),
            1 => format!("({} -> 'a')", e(dice)),
            _ => format!("to_jsonb({})", expression(dice, scope, Kind::Text, depth - 1)),
        },
        Kind::Ints => match dice.below(2) {
            0 => format!("ARRAY[{}, 7]", expression(dice, scope, Kind::Int, depth - 1)),
            _ => format!("array_replace({}, 1, 4)", e(dice)),
        },
        Kind::Texts => format!("ARRAY[{}, 'x']::text[]", expression(dice, scope, Kind::Text, depth - 1)),
        Kind::Range => format!("({} * int4range(2, 8))", e(dice)),
        _ => leaf(dice, scope, kind),
    }
}

fn leaf(dice: &mut Dice, scope: &Scope<'_>, kind: Kind) -> String {
    let column = if dice.chance(70) { scope.column(dice, kind) } else { None };
    match column {
        Some(column) => column,
        None if dice.chance(8) => format!("NULL::{}", kind.cast()),
        None => kind.typed(dice),
    }
}

/// A sub-select with one value, often correlated.
fn scalar(dice: &mut Dice, scope: &Scope<'_>, kind: Kind) -> String {
    let (table, alias) = (dice.one(scope.tables), scope.alias());
    let inner = Scope::of(&alias, table, scope.tables);
    let Some(column) = inner.column(dice, kind) else { return leaf(dice, scope, kind) };
    let all = inner.and(scope);
    let function = dice.one(&["min", "max"]);
    format!("(SELECT {function}({column}) FROM {} {alias} WHERE {})", table.name, condition(dice, &all, 1))
}

const COMPARE: [&str; 8] = ["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"];

/// A condition.
pub fn condition(dice: &mut Dice, scope: &Scope<'_>, depth: u32) -> String {
    if depth > 0 && dice.chance(40) {
        let (a, b) = (condition(dice, scope, depth - 1), condition(dice, scope, depth - 1));
        return match dice.below(3) {
            0 => format!("({a} AND {b})"),
            1 => format!("({a} OR {b})"),
            _ => format!("NOT ({a})"),
        };
    }
    if depth > 0 && dice.chance(15) {
        return exists(dice, scope);
    }
    if scope.columns.is_empty() {
        return format!("{} < {}", Kind::Int.literal(dice), Kind::Int.literal(dice));
    }
    let (column, kind) = dice.one(&scope.columns).clone();
    let down = depth.saturating_sub(1);
    match (kind.family(), dice.below(7)) {
        (_, 0) => format!("{column} IS {}NULL", if dice.chance(50) { "NOT " } else { "" }),
        (_, 1) => {
            let values: Vec<_> = (0..1 + dice.below(3)).map(|_| kind.typed(dice)).collect();
            let not = if dice.chance(25) { "NOT " } else { "" };
            format!("{column} {not}IN ({})", values.join(", "))
        }
        (Kind::Int | Kind::Numeric | Kind::Date | Kind::Stamp, 2) => {
            format!("{column} BETWEEN {} AND {}", kind.typed(dice), expression(dice, scope, kind, down))
        }
        (Kind::Text, 2) => format!("{column} LIKE {}", dice.one(&["'a%'", "'%b%'", "'_'", "''", "'%\\\\%'"])),
        (Kind::Json, 2) => format!("{column} @> {}", kind.typed(dice)),
        (Kind::Ints | Kind::Range, 2) => format!("{column} && {}", kind.typed(dice)),
        (Kind::Int, 3) => format!("{column} = ANY ({})", Kind::Ints.typed(dice)),
        (Kind::Bool, 3) => column,
        (Kind::Range, 3) => format!("{column} @> {}", dice.between(0, 9)),
        (_, 4) if !scope.tables.is_empty() => in_select(dice, scope, &column, kind),
        _ => format!("{column} {} {}", dice.one(&COMPARE), expression(dice, scope, kind, down)),
    }
}

fn in_select(dice: &mut Dice, scope: &Scope<'_>, column: &str, kind: Kind) -> String {
    let (table, alias) = (dice.one(scope.tables), scope.alias());
    let inner = Scope::of(&alias, table, scope.tables);
    let Some(other) = inner.column(dice, kind) else { return format!("{column} IS NOT NULL") };
    let not = if dice.chance(25) { "NOT " } else { "" };
    format!("{column} {not}IN (SELECT {other} FROM {} {alias} WHERE {})", table.name, condition(dice, &inner, 0))
}

fn exists(dice: &mut Dice, scope: &Scope<'_>) -> String {
    let (table, alias) = (dice.one(scope.tables), scope.alias());
    let all = Scope::of(&alias, table, scope.tables).and(scope);
    format!("EXISTS (SELECT 1 FROM {} {alias} WHERE {})", table.name, condition(dice, &all, 1))
}
