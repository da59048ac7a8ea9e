//! Queries. What is ordered is ordered totally, so that LIMIT and windows have one answer.

use super::dice::Dice;
use super::expression::{Scope, condition, expression};
use super::kind::{ALL, Kind};
use super::schema::{Filled, Table};

/// A query over those tables.
pub fn query(dice: &mut Dice, tables: &[Table]) -> String {
    match dice.below(16) {
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
        8 => grouping_sets(dice, tables),
        9 => recursive(dice, tables),
        10 => firsts(dice, tables),
        11 => whole_rows(dice, tables),
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

fn grouping_sets(dice: &mut Dice, tables: &[Table]) -> String {
    let table = dice.one(tables);
    let (a, b) = (&dice.one(&table.columns).name, &dice.one(&table.columns).name);
    let sets = [
        format!("ROLLUP (t.{a}, t.{b})"),
        format!("CUBE (t.{a}, t.{b})"),
        format!("GROUPING SETS ((t.{a}), (t.{b}), ())"),
    ];
    let condition = condition(dice, &Scope::of("t", table, tables), 1);
    let sets = dice.one(&sets);
    format!(
        "SELECT t.{a}, t.{b}, grouping(t.{a}, t.{b}), count(*) FROM {} t WHERE {condition} GROUP BY {sets}",
        table.name
    )
}

/// From one row to the next, a few times.
fn recursive(dice: &mut Dice, tables: &[Table]) -> String {
    let (first, next) = (dice.one(tables), dice.one(tables));
    let all = if dice.chance(50) { " ALL" } else { "" };
    let condition = condition(dice, &Scope::of("n", next, tables), 1);
    format!(
        "WITH RECURSIVE r(id, depth) AS (SELECT f.id, 0 FROM {} f UNION{all} SELECT n.id, r.depth + 1 FROM r JOIN {} n \
         ON n.id = r.id + {} WHERE r.depth < 3 AND {condition}) SELECT * FROM r ORDER BY 1, 2",
        first.name,
        next.name,
        dice.between(0, 3)
    )
}

/// The first rows of all, of each group, or for each row of another table; in a total order.
fn firsts(dice: &mut Dice, tables: &[Table]) -> String {
    let table = dice.one(tables);
    let key: Vec<_> = table.key.iter().map(|place| format!("t.{}", table.columns[*place].name)).collect();
    let key = key.join(", ");
    let ordered: Vec<_> = table.columns.iter().filter(|column| column.kind.is_ordered()).collect();
    let column = &dice.one(&ordered).name;
    let condition = condition(dice, &Scope::of("t", table, tables), 1);
    let first = 1 + dice.below(3);
    match dice.below(3) {
        0 => format!(
            "SELECT DISTINCT ON (t.{column}) t.{column}, t.* FROM {} t WHERE {condition} ORDER BY t.{column}, {key}",
            table.name
        ),
        1 => format!(
            "SELECT t.{column} FROM {} t WHERE {condition} ORDER BY 1 DESC FETCH FIRST {first} ROWS WITH TIES",
            table.name
        ),
        _ => {
            let other = dice.one(tables);
            format!(
                "SELECT o.id, l.* FROM {} o LEFT JOIN LATERAL (SELECT t.* FROM {} t WHERE t.id >= o.id AND {condition} \
                 ORDER BY {key} LIMIT {first}) l ON true",
                other.name, table.name
            )
        }
    }
}

/// Rows as values, and rows that are compared as such.
fn whole_rows(dice: &mut Dice, tables: &[Table]) -> String {
    let table = dice.one(tables);
    let ordered: Vec<_> = table.columns.iter().filter(|column| column.kind.is_ordered()).collect();
    let column = dice.one(&ordered);
    let operator = dice.one(&["<", ">=", "=", "<>", "IS DISTINCT FROM"]);
    let what = dice.one(&["t::text", "row_to_json(t)", "t IS NOT NULL", "count(t)", "max(t::text)", "ROW(t.*)::text"]);
    let list = if what.contains("(t)") && what.starts_with("count") || what.starts_with("max") {
        (*what).to_owned()
    } else {
        format!("{what}, t.id")
    };
    format!(
        "SELECT {list} FROM {} t WHERE (t.{}, t.id) {operator} ({}, {})",
        table.name,
        column.name,
        column.kind.typed(dice),
        dice.between(0, 9)
    )
}

/// Rows of one table in the order of its key, locked. Those of tables with others below them are not locked at the site.
pub fn locked(dice: &mut Dice, tables: &[Table]) -> Option<String> {
    let fit: Vec<_> = tables.iter().filter(|t| !t.is_view && !t.is_partitioned && !t.is_inherited).cloned().collect();
    if fit.is_empty() {
        return None;
    }
    let strength = dice.one(&["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"]);
    let how = dice.one(&["", "", " NOWAIT", " SKIP LOCKED"]);
    Some(format!("{} FOR {strength}{how}", in_order(dice, &fit)))
}

/// Values of sequences, if a table has one.
pub fn sequence(dice: &mut Dice, tables: &[Table]) -> Option<String> {
    let has = |table: &&Table| {
        let filled = table.columns[0].filled;
        !table.is_view && matches!(filled, Filled::Serial | Filled::IdentityAlways | Filled::IdentityByDefault)
    };
    let fit: Vec<_> = tables.iter().filter(has).collect();
    if fit.is_empty() {
        return None;
    }
    let name = dice.one(&fit).name.replace('"', "");
    // What `currval` says after a statement that has failed is nobody's to rely on.
    Some(match dice.below(3) {
        0 => format!("SELECT nextval('\"{name}_id_seq\"'), lastval()"),
        1 => format!("SELECT nextval('\"{name}_id_seq\"'), currval('\"{name}_id_seq\"')"),
        _ => format!("SELECT nextval('\"{name}_id_seq\"')"),
    })
}

/// COPY of a table, or of a query, to the client.
pub fn copied(dice: &mut Dice, tables: &[Table]) -> String {
    let how = dice.one(&[
        "",
        " WITH (FORMAT csv)",
        " WITH (FORMAT csv, HEADER, NULL 'none')",
        " WITH (DELIMITER '|', NULL '')",
    ]);
    let table = dice.one(tables);
    let what = match dice.below(3) {
        0 => table.name.clone(),
        1 => format!("{} ({})", table.name, table.names(&(0..table.columns.len() - 1).collect::<Vec<_>>())),
        _ => format!("({})", query(dice, tables)),
    };
    format!("COPY {what} TO STDOUT{how}")
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
