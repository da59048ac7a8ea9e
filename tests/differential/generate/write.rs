//! Statements that write.

use super::super::script::Judged;
use super::Features;
use super::dice::Dice;
use super::expression::{Scope, condition, expression};
use super::kind::Kind;
use super::schema::{Filled, Table};
use super::upsert::{merge, on_conflict};

/// A statement, and how exactly its error is known.
#[derive(Debug)]
pub struct Write {
    pub sql: String,
    pub copy: Option<String>,
    pub judged: Judged,
}

impl Write {
    fn sure(sql: String) -> Write {
        Write { sql, copy: None, judged: Judged::Compared }
    }

    /// Several rows may fail, in an order that is the plan's affair.
    pub fn in_any_order(sql: String) -> Write {
        Write { sql, copy: None, judged: Judged::AnyError }
    }

    /// Rows that are written one after the other, as they stand there.
    pub fn in_order(sql: String, rows: usize) -> Write {
        Write { sql, copy: None, judged: if rows > 1 { Judged::ValueFirst } else { Judged::Compared } }
    }
}

type Form = fn(&mut Dice, &Features, &Table, &[Table]) -> Write;

pub fn write(dice: &mut Dice, features: &Features, tables: &[Table]) -> Write {
    let table = target(dice, tables);
    let through;
    let (table, in_do) = match !table.through.is_empty() && dice.chance(35) {
        false => (table, false),
        true if dice.chance(30) => (table, true),
        true => {
            through = Table { name: table.through.clone(), ..table.clone() };
            (&through, false)
        }
    };
    let mut forms: Vec<Form> = vec![insert, insert, insert, insert_select, update, update, update_key, delete, delete];
    if features.on_conflict {
        forms.extend([on_conflict as Form; 3]);
    }
    if features.merge {
        forms.push(merge);
    }
    if features.writing_ctes {
        forms.push(writing_cte);
    }
    if features.truncate && dice.chance(20) {
        forms.push(truncate);
    }
    if features.copy_in {
        forms.push(copy_in);
    }
    let write = dice.one(&forms)(dice, features, table, tables);
    if in_do { super::straight::in_do(write) } else { write }
}

pub fn target<'a>(dice: &mut Dice, tables: &'a [Table]) -> &'a Table {
    let tables: Vec<_> = tables.iter().filter(|table| !table.is_view).collect();
    tables[dice.below(tables.len())]
}

/// A value for a column in VALUES.
pub fn value(dice: &mut Dice, table: &Table, place: usize, tables: &[Table]) -> String {
    let column = &table.columns[place];
    match dice.below(12) {
        0 if column.filled != Filled::Null || !column.not_null || dice.chance(20) => "DEFAULT".to_owned(),
        1 if !column.not_null || dice.chance(15) => "NULL".to_owned(),
        2 if place != 0 => expression(dice, &Scope::empty(tables), column.kind, 2),
        _ if place == 0 => id(dice, table, 12),
        _ => column.kind.literal(dice),
    }
}

/// An id that the table may have.
pub fn id(dice: &mut Dice, table: &Table, last: i64) -> String {
    (dice.between(0, last) + table.first_id).to_string()
}

/// Columns that an INSERT names: those that must have a value, and some others.
pub fn named(dice: &mut Dice, table: &Table) -> Vec<usize> {
    let mut places = table.writable();
    let skips = dice.chance(50);
    places.retain(|place| {
        let column = &table.columns[*place];
        let needed = column.not_null && column.filled == Filled::Null && !dice.chance(3);
        let given = column.filled == Filled::Serial || column.filled == Filled::IdentityByDefault;
        needed || if given { dice.chance(30) } else { !skips || dice.chance(50) }
    });
    if places.is_empty() { table.writable() } else { places }
}

pub fn insert_into(dice: &mut Dice, table: &Table, tables: &[Table], rows: usize) -> String {
    if dice.chance(3) {
        return format!("INSERT INTO {} AS t DEFAULT VALUES", table.name);
    }
    let mut places = named(dice, table);
    let overrides = table.columns[0].filled == Filled::IdentityAlways && dice.chance(20);
    if overrides {
        places.insert(0, 0);
    }
    let rows = (0..rows).map(|_| {
        let values: Vec<_> = places.iter().map(|place| value(dice, table, *place, tables)).collect();
        format!("({})", values.join(", "))
    });
    let rows: Vec<_> = rows.collect();
    let overriding = if overrides { dice.one(&["", "OVERRIDING SYSTEM VALUE ", "OVERRIDING USER VALUE "]) } else { "" };
    format!("INSERT INTO {} AS t ({}) {overriding}VALUES {}", table.name, table.names(&places), rows.join(", "))
}

pub fn insert(dice: &mut Dice, _: &Features, table: &Table, tables: &[Table]) -> Write {
    let rows = if dice.chance(60) { 1 } else { 1 + dice.below(4) };
    let sql = insert_into(dice, table, tables, rows) + &returning(dice, table, tables);
    // Rows of the table are looked at before rows of the statement.
    if table.has_exclusion && rows > 1 { Write::in_any_order(sql) } else { Write::in_order(sql, rows) }
}

fn insert_select(dice: &mut Dice, features: &Features, table: &Table, tables: &[Table]) -> Write {
    let source = dice.one(tables);
    if source.is_inherited && table.is_inherited {
        // Their ids are to stay apart.
        return insert(dice, features, table, tables);
    }
    let scope = Scope::of("s", source, tables);
    let places = named(dice, table);
    let list = places.iter().map(|place| {
        let kind = table.columns[*place].kind;
        match *place == 0 {
            true => format!("s.id + {}", dice.between(5, 40) + table.first_id - source.first_id),
            false => format!("({})::{}", expression(dice, &scope, kind, 1), kind.cast()),
        }
    });
    let list: Vec<_> = list.collect();
    let order = source.key.iter().map(|place| format!("s.{}", source.columns[*place].name)).collect::<Vec<_>>();
    let sql = format!(
        "INSERT INTO {} AS t ({}) SELECT {} FROM {} s WHERE {} ORDER BY {}",
        table.name,
        table.names(&places),
        list.join(", "),
        source.name,
        condition(dice, &scope, 1),
        order.join(", ")
    );
    Write::in_any_order(sql + &returning(dice, table, tables))
}

pub fn returning(dice: &mut Dice, table: &Table, tables: &[Table]) -> String {
    match dice.below(5) {
        0 | 1 => String::new(),
        2 => " RETURNING *".to_owned(),
        3 => " RETURNING t.*, 1 AS one".to_owned(),
        _ => {
            let kind = *dice.one(&super::kind::ALL);
            format!(" RETURNING {}", expression(dice, &Scope::of("t", table, tables), kind, 2))
        }
    }
}

/// Assignments to columns that need not be unique: which row of several is first there would matter.
pub fn assignments(dice: &mut Dice, table: &Table, scope: &Scope<'_>) -> Option<String> {
    let places = table.writable().into_iter().filter(|place| !table.is_unique(*place));
    let places: Vec<_> = places.filter(|place| *place != 0).collect();
    if places.is_empty() {
        return None;
    }
    let set = dice.some(&places).into_iter().map(|place| {
        let column = &table.columns[place];
        match column.filled == Filled::Default && dice.chance(10) {
            true => format!("{} = DEFAULT", column.name),
            false => format!("{} = {}", column.name, expression(dice, scope, column.kind, 2)),
        }
    });
    Some(set.collect::<Vec<_>>().join(", "))
}

pub fn update(dice: &mut Dice, features: &Features, table: &Table, tables: &[Table]) -> Write {
    let own = Scope::of("t", table, tables);
    let mut joined = String::new();
    let (mut scope, mut on) = (own.clone(), String::new());
    if dice.chance(25) {
        // At most one row of the other table for each of ours: otherwise it would be any of them.
        let other = dice.one(tables);
        if other.key.len() == 1 {
            joined = format!(" FROM {} f", other.name);
            on = format!("f.id = {} AND ", expression(dice, &own, Kind::Int, 0));
            scope = scope.and(&Scope::of("f", other, tables));
        }
    }
    let Some(mut set) = assignments(dice, table, &scope) else { return delete(dice, features, table, tables) };
    if features.set_row && dice.chance(15) {
        let places = table.writable().into_iter().filter(|place| *place != 0 && !table.is_unique(*place));
        let places: Vec<_> = places.take(2).collect();
        if places.len() == 2 {
            let list = places.iter().map(|place| expression(dice, &own, table.columns[*place].kind, 1));
            let list = list.collect::<Vec<_>>().join(", ");
            set = format!("({}) = (SELECT {list})", table.names(&places));
        }
    }
    let sql = format!("UPDATE {} AS t SET {set}{joined} WHERE {on}{}", table.name, condition(dice, &scope, 1));
    Write::in_any_order(sql + &returning(dice, table, tables))
}

/// One row's key or unique column.
fn update_key(dice: &mut Dice, features: &Features, table: &Table, tables: &[Table]) -> Write {
    let places: Vec<_> = table.writable().into_iter().filter(|place| table.is_unique(*place)).collect();
    if places.is_empty() || table.key.len() != 1 || table.is_inherited {
        return update(dice, features, table, tables);
    }
    let place = *dice.one(&places);
    let column = &table.columns[place];
    let scope = Scope::of("t", table, tables);
    let value = expression(dice, &scope, column.kind, 1);
    let sql = format!("UPDATE {} AS t SET {} = {value} WHERE t.id = {}", table.name, column.name, id(dice, table, 9));
    Write::sure(sql + &returning(dice, table, tables))
}

pub fn delete(dice: &mut Dice, _: &Features, table: &Table, tables: &[Table]) -> Write {
    let scope = Scope::of("t", table, tables);
    let (using, all) = match dice.chance(20) {
        true => {
            let other = dice.one(tables);
            (format!(" USING {} f", other.name), scope.clone().and(&Scope::of("f", other, tables)))
        }
        false => (String::new(), scope.clone()),
    };
    let mut limits = vec![condition(dice, &all, 1)];
    if dice.chance(70) {
        limits.push(format!("t.id = {}", id(dice, table, 9)));
    }
    let sql = format!("DELETE FROM {} AS t{using} WHERE {}", table.name, limits.join(" AND "));
    // A row of the other table may be any of several.
    let returning = returning(dice, table, tables).replace("RETURNING *", "RETURNING t.*");
    Write::in_any_order(sql + &returning)
}

fn writing_cte(dice: &mut Dice, features: &Features, table: &Table, tables: &[Table]) -> Write {
    let first = match dice.below(3) {
        0 => delete(dice, features, table, tables).sql,
        1 => update(dice, features, table, tables).sql,
        _ => insert(dice, features, table, tables).sql,
    };
    let first = match first.split_once(" RETURNING ") {
        Some((first, _)) => first.to_owned(),
        None => first,
    };
    // Two writes of one table are not buffered.
    let other = target(dice, tables);
    let related = other.name == table.name || (other.is_inherited && table.is_inherited);
    let sql = match dice.chance(50) || related {
        true => {
            format!("WITH w AS ({first} RETURNING *) SELECT count(*), (SELECT count(*) FROM {}) FROM w", table.name)
        }
        false => format!("WITH w AS ({first} RETURNING *) {}", insert_into(dice, other, tables, 1)),
    };
    Write::in_any_order(sql)
}

/// The tables that go with it must not be partitioned: those are truncated on main.
fn truncate(dice: &mut Dice, features: &Features, table: &Table, tables: &[Table]) -> Write {
    if table.is_partitioned || table.is_inherited {
        return delete(dice, features, table, tables);
    }
    let how = if tables.iter().any(|table| table.is_partitioned || table.is_inherited) {
        &[""]
    } else {
        ["", " CASCADE"].as_slice()
    };
    Write::sure(format!("TRUNCATE {}{}", table.name, dice.one(how)))
}

fn copy_in(dice: &mut Dice, features: &Features, table: &Table, _: &[Table]) -> Write {
    let places = named(dice, table);
    let csv = features.csv && dice.chance(30);
    let header = csv && dice.chance(30);
    let mut data = String::new();
    if header {
        data += &(table.names(&places).replace(", ", ",") + "\n");
    }
    for _ in 0..dice.below(4) {
        let fields = places.iter().map(|place| match dice.chance(15) && !table.columns[*place].not_null {
            true if csv => String::new(),
            true => "\\N".to_owned(),
            false if *place == 0 => id(dice, table, 12),
            false if csv => {
                let literal = table.columns[*place].kind.literal(dice);
                let text = literal.trim_matches('\'').replace("''", "'");
                if dice.chance(40) && !text.is_empty() && !text.contains(['"', ',']) {
                    text
                } else {
                    format!("\"{}\"", text.replace('"', "\"\""))
                }
            }
            // As a string's literal, without its quotes, and its backslashes doubled.
            false => {
                let literal = table.columns[*place].kind.literal(dice);
                literal.trim_matches('\'').replace("''", "'").replace('\\', "\\\\")
            }
        });
        data += &fields.collect::<Vec<_>>().join(if csv { "," } else { "\t" });
        data.push('\n');
    }
    let how = match (csv, header) {
        (true, true) => " WITH (FORMAT csv, HEADER)",
        (true, false) => " WITH (FORMAT csv)",
        (false, _) => "",
    };
    let sql = format!("COPY {} ({}) FROM STDIN{how}", table.name, table.names(&places));
    // Rows of the table are looked at before rows of the statement.
    let judged = if table.has_exclusion && data.lines().count() > 1 { Judged::AnyError } else { Judged::Compared };
    Write { sql, copy: Some(data), judged }
}
