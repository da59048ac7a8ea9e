//! Queries. What is ordered is ordered totally, so that LIMIT and windows have one answer.

use super::dice::Dice;
use super::expression::{Scope, condition, expression};
use super::kind::{ALL, Kind};
use super::schema::Table;

/// A query over those tables.
pub fn query(dice: &mut Dice, tables: &[Table]) -> String {
    match dice.below(12) {
        0 | 1 => {
            let table = dice.one(tables);
            let mut text = format!("SELECT * FROM {}", table.name);
            if dice.chance(50) {
                text += &format!(" WHERE {}", condition(dice, &Scope::of(&table.name, table, tables), 1));
            }
            text
        }
        2 => aggregate(dice, tables),
        3 => window(dice, tables),
        4 => set_operation(dice, tables),
        5 => {
            let (inner, kinds) = select(dice, tables);
            let scope = derived("w", &kinds, tables);
            let condition = condition(dice, &scope, 1);
            let materialized = dice.one(&["", "MATERIALIZED ", "NOT MATERIALIZED "]);
            format!("WITH w({}) AS {materialized}({inner}) SELECT * FROM w WHERE {condition}", names(&kinds))
        }
        6 => {
            let (inner, kinds) = select(dice, tables);
            let scope = derived("d", &kinds, tables);
            let condition = condition(dice, &scope, 1);
            format!("SELECT count(*), count(c0) FROM ({inner}) d({}) WHERE {condition}", names(&kinds))
        }
        7 => partitioned(dice, tables),
        _ => {
            let (text, kinds) = select(dice, tables);
            ordered(dice, text, kinds.len())
        }
    }
}

/// `p`, `NOT p` and `p IS NULL` must add up to everything: the answer must be true, whatever the plain server says.
fn partitioned(dice: &mut Dice, tables: &[Table]) -> String {
    let table = dice.one(tables);
    let p = condition(dice, &Scope::of("t", table, tables), 2);
    let count = |condition: &str| format!("(SELECT count(*) FROM {} t WHERE {condition})", table.name);
    let parts = [format!("({p})"), format!("NOT ({p})"), format!("({p}) IS NULL")].map(|part| count(&part));
    format!("SELECT {} = {} AS {PARTITIONED}", parts.join(" + "), count("true"))
}

/// The column by which such a query is known.
pub const PARTITIONED: &str = "parts_add_up";

/// FROM with one to three items, and what can be named.
fn from<'a>(dice: &mut Dice, tables: &'a [Table]) -> (String, Scope<'a>) {
    let first = dice.one(tables);
    let (mut text, mut scope) = (format!("{} x0", first.name), Scope::of("x0", first, tables));
    for number in 1..1 + dice.below(3) {
        let table = dice.one(tables);
        let alias = format!("x{number}");
        let own = Scope::of(&alias, table, tables);
        if dice.chance(20) {
            let inner = condition(dice, &Scope::of("l", table, tables).and(&scope), 1);
            text += &format!(" CROSS JOIN LATERAL (SELECT * FROM {} l WHERE {inner}) {alias}", table.name);
        } else {
            let kind = dice.one(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
            // Equality of one pair of columns: FULL JOIN takes nothing else.
            let pairs = scope.columns.iter().flat_map(|a| own.columns.iter().map(move |b| (a, b)));
            let pairs: Vec<_> = pairs.filter(|(a, b)| a.1 == b.1 && a.1.is_ordered()).collect();
            let on = match pairs.is_empty() {
                true => "x0.id = x0.id".to_owned(),
                false => {
                    let (a, b) = dice.one(&pairs);
                    format!("{} = {}", a.0, b.0)
                }
            };
            let kind = if pairs.is_empty() { &"JOIN" } else { kind };
            text += &format!(" {kind} {} {alias} ON {on}", table.name);
        }
        scope = scope.and(&own);
    }
    (text, scope)
}

/// SELECT of some expressions, with their types.
fn select(dice: &mut Dice, tables: &[Table]) -> (String, Vec<Kind>) {
    let (from, scope) = from(dice, tables);
    let kinds: Vec<Kind> = (0..1 + dice.below(4)).map(|_| *dice.one(&ALL)).collect();
    let list: Vec<_> = kinds.iter().map(|kind| expression(dice, &scope, *kind, 2)).collect();
    let distinct = if dice.chance(15) { "DISTINCT " } else { "" };
    let mut text = format!("SELECT {distinct}{} FROM {from}", list.join(", "));
    if dice.chance(70) {
        text += &format!(" WHERE {}", condition(dice, &scope, 2));
    }
    (text, kinds)
}

fn ordered(dice: &mut Dice, text: String, columns: usize) -> String {
    if dice.chance(50) {
        return text;
    }
    let places = (1..=columns).map(|place| format!("{place}{}", dice.one(&["", " DESC", " NULLS FIRST"])));
    let mut text = format!("{text} ORDER BY {}", places.collect::<Vec<_>>().join(", "));
    if dice.chance(50) {
        text += &format!(" LIMIT {}", 1 + dice.below(5));
        if dice.chance(40) {
            text += &format!(" OFFSET {}", dice.below(3));
        }
    }
    text
}

/// Rows of one table in the order of its key.
pub fn in_order(dice: &mut Dice, tables: &[Table]) -> String {
    let table = dice.one(tables);
    let key: Vec<_> = table.key.iter().map(|place| format!("t.{}", table.columns[*place].name)).collect();
    let condition = condition(dice, &Scope::of("t", table, tables), 1);
    format!("SELECT * FROM {} t WHERE {condition} ORDER BY {}", table.name, key.join(", "))
}

fn aggregate(dice: &mut Dice, tables: &[Table]) -> String {
    let (from, scope) = from(dice, tables);
    let (group, kind) = dice.one(&scope.columns).clone();
    let mut list = vec![group.clone(), "count(*)".to_owned()];
    for _ in 0..1 + dice.below(3) {
        let (column, kind) = dice.one(&scope.columns).clone();
        let aggregate = match (kind.family(), dice.below(4)) {
            (_, 0) => format!("count(DISTINCT {column})"),
            (Kind::Int | Kind::Numeric, 1) => format!("sum({column})"),
            (Kind::Bool, _) => format!("bool_or({column})"),
            (_, 2) => format!("array_agg({column}::text ORDER BY {column}::text COLLATE \"C\")"),
            _ if kind.is_ordered() => format!("max({column})"),
            _ => format!("count({column})"),
        };
        list.push(match dice.chance(20) && !aggregate.contains("DISTINCT") {
            true => format!("{aggregate} FILTER (WHERE {})", condition(dice, &scope, 1)),
            false => aggregate,
        });
    }
    // char(n) groups values that print alike; numerics have one scale; jsonb has no 1 and 1.0.
    let _ = kind;
    let mut text = format!("SELECT {} FROM {from}", list.join(", "));
    if dice.chance(50) {
        text += &format!(" WHERE {}", condition(dice, &scope, 1));
    }
    text += &format!(" GROUP BY {group}");
    if dice.chance(30) {
        text += " HAVING count(*) > 1";
    }
    text
}

fn window(dice: &mut Dice, tables: &[Table]) -> String {
    let table = dice.one(tables);
    let key: Vec<_> = table.key.iter().map(|place| format!("t.{}", table.columns[*place].name)).collect();
    let (part, value) = (dice.one(&table.columns), dice.one(&table.columns));
    let function = match dice.below(4) {
        0 => "row_number()".to_owned(),
        1 => format!("lag(t.{})", value.name),
        2 => format!("first_value(t.{})", value.name),
        _ => format!("count(t.{})", value.name),
    };
    let order = key.join(", ");
    format!(
        "SELECT {order}, {function} OVER (PARTITION BY t.{} ORDER BY {order}) FROM {} t ORDER BY {order}",
        part.name, table.name
    )
}

fn set_operation(dice: &mut Dice, tables: &[Table]) -> String {
    let kinds: Vec<Kind> = (0..1 + dice.below(2)).map(|_| *dice.one(&ALL)).collect();
    let side = |dice: &mut Dice| {
        let table = dice.one(tables);
        let scope = Scope::of("s", table, tables);
        let list = kinds.iter().map(|kind| format!("({})::{}", expression(dice, &scope, *kind, 1), kind.cast()));
        let list = list.collect::<Vec<_>>().join(", ");
        format!("SELECT {list} FROM {} s WHERE {}", table.name, condition(dice, &scope, 1))
    };
    let (a, b) = (side(dice), side(dice));
    let operation = dice.one(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL"]);
    ordered(dice, format!("{a} {operation} {b}"), kinds.len())
}

fn derived<'a>(alias: &str, kinds: &[Kind], tables: &'a [Table]) -> Scope<'a> {
    let columns = kinds.iter().enumerate().map(|(place, kind)| (format!("{alias}.c{place}"), *kind));
    // The value of an expression has its family's type.
    Scope { columns: columns.map(|(name, kind)| (name, kind.family())).collect(), tables }
}

fn names(kinds: &[Kind]) -> String {
    (0..kinds.len()).map(|place| format!("c{place}")).collect::<Vec<_>>().join(", ")
}
