//! Tables: keys, references, indexes, checks, generated columns, and their first rows.

use super::Features;
use super::dice::Dice;
use super::expression::{Scope, condition, expression};
use super::heirs::{heir, is_fit_for_heirs};
use super::kind::{ALL, Kind, TYPES};
use super::straight::tagged;

#[derive(Clone, Debug)]
pub struct Table {
    /// As it is written in SQL.
    pub name: String,
    pub columns: Vec<Column>,
    /// Places of the primary key's columns; empty when there is none.
    pub key: Vec<usize>,
    /// Other unique sets of columns, fit for ON CONFLICT.
    pub unique: Vec<Vec<usize>>,
    /// Columns of exclusion constraints, and of unique ones that are deferrable.
    pub apart: Vec<usize>,
    pub has_exclusion: bool,
    pub has_deferrable: bool,
    /// There is a unique index besides.
    pub has_index: bool,
    /// What else ON CONFLICT may name, as it is written there.
    pub arbiters: Vec<String>,
    /// Numbers are added to what ids are otherwise: those of a table that inherits must not be those of its parent.
    pub first_id: i64,
    pub references: Vec<Reference>,
    /// A view is read only; its key is the one of the table under it.
    pub is_view: bool,
    pub is_partitioned: bool,
    /// Another one has its columns, or it has another one's.
    pub is_inherited: bool,
    /// Other names by which its rows are written: those of tables above and below it.
    pub family: Vec<String>,
    /// A view by which it is written on main; empty when there is none.
    pub through: String,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
    pub not_null: bool,
    pub filled: Filled,
}

/// Where a value comes from when the statement gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Null,
    Default,
    Serial,
    IdentityAlways,
    IdentityByDefault,
    Generated,
}

#[derive(Clone, Debug)]
pub struct Reference {
    pub columns: Vec<usize>,
    pub table: usize,
}

impl Table {
    /// Columns that a statement may write.
    pub fn writable(&self) -> Vec<usize> {
        let given = |column: &Column| !matches!(column.filled, Filled::Generated | Filled::IdentityAlways);
        (0..self.columns.len()).filter(|place| given(&self.columns[*place])).collect()
    }

    /// Columns whose values must differ from row to row, or are referenced.
    pub fn is_unique(&self, place: usize) -> bool {
        self.key.contains(&place)
            || self.apart.contains(&place)
            || self.unique.iter().any(|places| places.contains(&place))
    }

    pub fn names(&self, places: &[usize]) -> String {
        places.iter().map(|place| self.columns[*place].name.clone()).collect::<Vec<_>>().join(", ")
    }
}

const NAMES: [&str; 5] = ["t0", "t1", "\"Odd Name\"", "t3", "\"select\""];
const COLUMN_NAMES: [&str; 8] = ["a", "b", "\"C\"", "d", "\"order\"", "\"f g\"", "\"ü\"", "\"h\"\"h\""];

/// Statements and tables.
pub fn schema(dice: &mut Dice, features: &Features) -> (Vec<String>, Vec<Table>) {
    let mut statements: Vec<String> = TYPES.iter().map(|&sql| sql.to_owned()).collect();
    let mut tables: Vec<Table> = Vec::new();
    for number in 0..2 + dice.below(3) {
        let table = table(dice, features, number, &tables, &mut statements);
        tables.push(table);
    }
    // What is buffered: writes to trees without foreign keys, checks and generated columns of single members.
    let parents: Vec<usize> = (0..tables.len()).filter(|place| is_fit_for_heirs(&tables, *place)).collect();
    if features.inheritance && dice.chance(20) && !parents.is_empty() {
        let parent = *dice.one(&parents);
        let heir = heir(dice, features, parent, &tables[parent], &mut statements);
        tables[parent].is_inherited = true;
        tables.push(Table { is_inherited: true, ..heir });
    }
    for table in &tables {
        rows(dice, table, &tables, &mut statements);
    }
    if features.views && dice.chance(35) {
        let view = view(dice, &tables, &mut statements);
        tables.push(view);
    }
    (statements, tables)
}

/// Some rows and columns of a table.
fn view(dice: &mut Dice, tables: &[Table], out: &mut Vec<String>) -> Table {
    let base = dice.one(tables);
    let kept: Vec<usize> =
        (0..base.columns.len()).filter(|place| base.key.contains(place) || dice.chance(70)).collect();
    let mut view = Table { name: "v".to_owned(), is_view: true, is_partitioned: false, ..base.clone() };
    view.columns = kept.iter().map(|place| base.columns[*place].clone()).collect();
    (view.unique, view.references) = (Vec::new(), Vec::new());
    let condition = condition(dice, &Scope::of("t", base, tables), 1);
    let security = if dice.chance(30) { " WITH (security_invoker)" } else { "" };
    let names = base.names(&kept);
    out.push(format!("CREATE VIEW v{security} AS SELECT {names} FROM {} t WHERE {condition}", base.name));
    view
}

fn table(dice: &mut Dice, features: &Features, number: usize, others: &[Table], out: &mut Vec<String>) -> Table {
    let mut table = Table {
        name: tagged(NAMES[number], features.tag.as_deref().unwrap_or_default()),
        columns: Vec::new(),
        key: Vec::new(),
        unique: Vec::new(),
        apart: Vec::new(),
        has_exclusion: false,
        has_deferrable: false,
        has_index: false,
        arbiters: Vec::new(),
        first_id: 0,
        references: Vec::new(),
        is_view: false,
        is_partitioned: features.partitions && dice.chance(12),
        is_inherited: false,
        family: Vec::new(),
        through: String::new(),
    };
    let (mut declared, mut constraints) = (Vec::new(), Vec::new());
    // Values of sequences are a site's own, or main's.
    key(dice, features.tag.is_none(), &mut table, &mut declared, &mut constraints);
    for name in COLUMN_NAMES.iter().take(2 + dice.below(5)) {
        let column = Column {
            name: (*name).to_owned(),
            kind: *dice.one(&ALL),
            not_null: dice.chance(25),
            filled: if dice.chance(35) { Filled::Default } else { Filled::Null },
        };
        let mut text = format!("{name} {}", column.kind.declared());
        if column.filled == Filled::Default {
            // What does not fit its type would be found when a statement is planned.
            let fits = !matches!(column.kind, Kind::Short | Kind::Fixed | Kind::Code | Kind::Positive);
            let default = match features.default_expressions && fits && dice.chance(35) {
                true => format!("({})", expression(dice, &Scope::empty(&[]), column.kind, 1)),
                false => column.kind.valid(dice),
            };
            text += &format!(" DEFAULT {default}");
        }
        if column.not_null {
            text += " NOT NULL";
        }
        declared.push(text);
        table.columns.push(column);
    }
    for (other, parent) in others.iter().enumerate() {
        if dice.chance(60) && !parent.key.is_empty() {
            reference(dice, features, &mut table, other, parent, &mut declared, &mut constraints);
        }
    }
    let own = table.key.len()..table.columns.len();
    let place = own.start + dice.below(own.len());
    let column = table.columns[place].clone();
    if dice.chance(40) && column.kind.is_ordered() {
        let name = column.name.replace('"', "");
        let value = column.kind.literal(dice);
        constraints
            .push(format!("CONSTRAINT \"check {name}\" CHECK ({} <> {value} OR {} IS NULL)", column.name, column.name));
    }
    if dice.chance(30) {
        let source = &table.columns[own.start];
        let expression = match source.kind.family() {
            Kind::Int => format!("{} * 2", source.name),
            Kind::Text => format!("upper({})", source.name),
            _ => format!("({} IS NULL)", source.name),
        };
        let kind = match source.kind.family() {
            Kind::Int => Kind::Int,
            Kind::Text => Kind::Text,
            _ => Kind::Bool,
        };
        declared.push(format!("gen {} GENERATED ALWAYS AS ({expression}) STORED", kind.declared()));
        table.columns.push(Column { name: "gen".to_owned(), kind, not_null: false, filled: Filled::Generated });
    }
    if dice.chance(30) && !table.is_partitioned {
        let nulls = if dice.chance(30) { "NULLS NOT DISTINCT " } else { "" };
        let late = match features.deferrable && dice.chance(35) {
            true => *dice.one(&[" DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]),
            false => "",
        };
        constraints.push(format!("UNIQUE {nulls}({}){late}", column.name));
        match late {
            "" => table.unique.push(vec![place]),
            _ => (table.has_deferrable, table.apart) = (true, vec![place]),
        }
    }
    if features.exclusion && !table.is_partitioned && dice.chance(25) {
        exclusion(dice, features, &mut table, &mut constraints);
    }
    let by = match (table.is_partitioned, dice.chance(50)) {
        (false, _) => "",
        (true, true) => " PARTITION BY RANGE (id)",
        (true, false) => " PARTITION BY HASH (id)",
    };
    out.push(format!("CREATE TABLE {} ({}){by}", table.name, [declared, constraints].concat().join(", ")));
    let bounds = match by {
        "" => [].as_slice(),
        range if range.contains("RANGE") => {
            &["FOR VALUES FROM (MINVALUE) TO (4)", "FOR VALUES FROM (4) TO (9)", "FOR VALUES FROM (10) TO (MAXVALUE)"]
        }
        _ => &["FOR VALUES WITH (MODULUS 2, REMAINDER 0)", "FOR VALUES WITH (MODULUS 2, REMAINDER 1)"],
    };
    for (part, bound) in bounds.iter().enumerate() {
        let name = tagged(&format!("p{number}_{part}"), features.tag.as_deref().unwrap_or_default());
        out.push(format!("CREATE TABLE {name} PARTITION OF {} {bound}", table.name));
        table.family.push(name);
    }
    if bounds.is_empty() {
        table.has_index = index(dice, number, &mut table, out);
    }
    table
}

/// Ranges that must not overlap, or values that must not be equal.
fn exclusion(dice: &mut Dice, features: &Features, table: &mut Table, constraints: &mut Vec<String>) {
    let own = table.key.len()..table.columns.len();
    let with = |column: &Column| match column.kind {
        Kind::Range => Some(("gist", "&&")),
        Kind::Int | Kind::Date | Kind::Uuid => Some(("btree", "=")),
        _ => None,
    };
    let fit: Vec<_> = own.filter_map(|place| Some((place, with(&table.columns[place])?))).collect();
    if fit.is_empty() {
        return;
    }
    let (place, (method, operator)) = *dice.one(&fit);
    let name = &table.columns[place].name;
    let condition = if dice.chance(30) { format!(" WHERE (id <> {})", dice.between(0, 9)) } else { String::new() };
    let late = match features.deferrable && dice.chance(25) {
        true => *dice.one(&[" DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]),
        false => "",
    };
    constraints.push(format!("EXCLUDE USING {method} ({name} WITH {operator}){condition}{late}"));
    (table.has_exclusion, table.has_deferrable) = (true, table.has_deferrable || !late.is_empty());
    table.apart.push(place);
}

fn key(dice: &mut Dice, sequences: bool, table: &mut Table, declared: &mut Vec<String>, constraints: &mut Vec<String>) {
    let (text, filled) = match dice.below(6) {
        0..=2 if !sequences => ("id int", Filled::Null),
        0 => ("id serial", Filled::Serial),
        1 | 2 if table.is_partitioned => ("id int", Filled::Null),
        1 => ("id int GENERATED ALWAYS AS IDENTITY", Filled::IdentityAlways),
        2 => ("id int GENERATED BY DEFAULT AS IDENTITY", Filled::IdentityByDefault),
        _ => ("id int", Filled::Null),
    };
    declared.push(text.to_owned());
    table.columns.push(Column { name: "id".to_owned(), kind: Kind::Int, not_null: true, filled });
    table.key.push(0);
    if filled == Filled::Null && dice.chance(35) {
        let kind = *dice.one(&[Kind::Text, Kind::Short, Kind::Date, Kind::Uuid, Kind::Mood, Kind::Numeric, Kind::Icu]);
        declared.push(format!("part {}", kind.declared()));
        table.columns.push(Column { name: "part".to_owned(), kind, not_null: true, filled: Filled::Null });
        table.key.push(1);
    }
    constraints.push(format!("PRIMARY KEY ({})", table.names(&table.key)));
}

fn reference(
    dice: &mut Dice,
    features: &Features,
    table: &mut Table,
    other: usize,
    parent: &Table,
    declared: &mut Vec<String>,
    constraints: &mut Vec<String>,
) {
    let mut columns = Vec::new();
    for (part, place) in parent.key.iter().enumerate() {
        let name = format!("ref{other}_{part}");
        let kind = parent.columns[*place].kind;
        declared.push(format!("{name} {}", kind.declared()));
        columns.push(table.columns.len());
        table.columns.push(Column { name, kind, not_null: false, filled: Filled::Null });
    }
    let full = if columns.len() > 1 && dice.chance(40) { " MATCH FULL" } else { "" };
    let actions = if features.referential_actions {
        ["", "", " RESTRICT", " CASCADE", " SET NULL", " SET DEFAULT"].as_slice()
    } else {
        &["", " RESTRICT"]
    };
    let mut text = format!("FOREIGN KEY ({}) REFERENCES {}{full}", table.names(&columns), parent.name);
    for event in ["ON DELETE", "ON UPDATE"] {
        let action = dice.one(actions);
        if !action.is_empty() {
            text += &format!(" {event}{action}");
        }
    }
    if features.deferrable && dice.chance(25) {
        text += *dice.one(&[" DEFERRABLE", " DEFERRABLE INITIALLY DEFERRED"]);
    }
    constraints.push(text);
    table.references.push(Reference { columns, table: other });
}

/// An index that is partial or over an expression, unique mostly; whether there is one.
fn index(dice: &mut Dice, number: usize, table: &mut Table, out: &mut Vec<String>) -> bool {
    let column = table.columns[table.columns.len() - 1].clone();
    let first = table.columns[table.key.len()].clone();
    table.arbiters.push(format!("ON CONSTRAINT \"{}_pkey\"", table.name.replace('"', "")));
    match dice.below(6) {
        0 if first.kind.family() == Kind::Text => {
            out.push(format!("CREATE UNIQUE INDEX lower{number} ON {} (lower({}))", table.name, first.name));
            table.arbiters.push(format!("(lower({}))", first.name));
        }
        1 => {
            let what = format!("({}, {}) WHERE {} IS NOT NULL", first.name, column.name, column.name);
            out.push(format!("CREATE UNIQUE INDEX partial{number} ON {} {what}", table.name));
            table.arbiters.push(what);
        }
        2 => out.push(format!("CREATE INDEX plain{number} ON {} ({})", table.name, first.name)),
        _ => return false,
    }
    true
}

/// The rows that the replica has.
fn rows(dice: &mut Dice, table: &Table, tables: &[Table], out: &mut Vec<String>) {
    let places = table.writable();
    for number in 0..dice.below(6) {
        let values = places.iter().map(|place| {
            let column = &table.columns[*place];
            match () {
                () if *place == 0 => (number as i64 + table.first_id).to_string(),
                () if !column.not_null && dice.chance(20) => "NULL".to_owned(),
                () if table.references.iter().any(|reference| reference.columns.contains(place)) => {
                    let known = table.references.iter().find(|reference| reference.columns.contains(place));
                    let parent = known.map(|reference| &tables[reference.table]);
                    match parent {
                        Some(parent) if parent.key.len() == 1 => dice.between(0, 3).to_string(),
                        _ => "NULL".to_owned(),
                    }
                }
                () => column.kind.literal(dice),
            }
        });
        let values: Vec<_> = values.collect();
        // A row that breaks a constraint is left out, on both sides alike; deferred ones would break it all.
        let insert = format!("INSERT INTO {} ({}) VALUES ({})", table.name, table.names(&places), values.join(", "));
        out.push(format!(
            "DO $$ BEGIN {insert}; SET CONSTRAINTS ALL IMMEDIATE; EXCEPTION WHEN OTHERS THEN NULL; END $$"
        ));
    }
}
