//! Definitions of the simulated tables, which change on main, and what becomes of an entry that was written before: told by
//! the rules that are promised, not by replay's own code.
//!
//! The site keeps the definitions that it began with: what it learns of DDL, the simulation does not show.

use std::sync::Arc;

use pgoutpost::entry::{Effect, Entry, Value};

use crate::dice::Dice;
use crate::main_db::{COLUMNS, REFERENCE, REFERRING, Row, TABLES, Text};
use crate::tables;

const NARROW: &str = "character varying(3)";

/// A column as main has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its values stand in this place of a row, from 1.
    pub attnum: i16,
    pub name: Text,
    pub type_name: &'static str,
    pub default: Value,
}

/// A table's live columns, and how many it has had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub columns: Vec<Column>,
    pub had: usize,
}

/// What DDL does to a column, or the table.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    Rename,
    /// Two columns get each other's names.
    Exchange,
    Widen,
    /// To a type that does not hold all values.
    Narrow,
    Drop,
    /// And another one gets its name.
    Replace,
    Add,
}

impl Definition {
    /// As the site knows it.
    pub fn first() -> Definition {
        let column =
            |(name, attnum): (&&str, i16)| Column { attnum, name: (*name).into(), type_name: "text", default: None };
        Definition { columns: COLUMNS.iter().zip(1..).map(column).collect(), had: COLUMNS.len() }
    }

    pub fn named(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }

    /// A row of defaults.
    pub fn row(&self) -> Row {
        let mut row = vec![None; self.had];
        self.columns.iter().for_each(|column| row[column.place()].clone_from(&column.default));
        row
    }

    fn add(&mut self, name: Text, default: Value) {
        self.had += 1;
        self.columns.push(Column { attnum: self.had as i16, name, type_name: "text", default });
    }

    /// The definition afterwards, if this can be done to this table now. The key, and what refers to other tables, stay.
    pub fn changed(&self, table: usize, change: Change, dice: &Dice) -> Option<Definition> {
        let mut next = self.clone();
        let stays = |column: &Column| column.attnum == 1 || (table == REFERRING && column.place() == REFERENCE);
        let free: Vec<usize> = (0..self.columns.len()).filter(|&n| !stays(&self.columns[n])).collect();
        let default = || -> Value { dice.happens(500).then(|| "default".into()) };
        if matches!(change, Change::Add) {
            next.add(format!("new{}", self.had).into(), default());
            return Some(next);
        }
        let n = *free.get(dice.below(free.len().max(1)))?;
        match change {
            Change::Rename => next.columns[n].name = format!("name{}", dice.below(1000)).into(),
            Change::Exchange => {
                let other = free[dice.below(free.len())];
                let names = (self.columns[n].name.clone(), self.columns[other].name.clone());
                (next.columns[other].name, next.columns[n].name) = names;
            }
            Change::Widen if self.columns[n].type_name == "text" => next.columns[n].type_name = "character varying",
            Change::Widen => return None,
            Change::Narrow => next.columns[n].type_name = NARROW,
            Change::Drop => drop(next.columns.remove(n)),
            Change::Replace => {
                let name = next.columns.remove(n).name;
                next.add(name, default());
            }
            Change::Add => {}
        }
        Some(next)
    }

    /// A row of before, as the table has it now.
    pub fn converted(&self, mut row: Row, before: &Definition) -> Row {
        let new = self.columns.iter().filter(|column| column.place() >= before.had);
        row.resize(self.had, None);
        new.for_each(|column| row[column.place()].clone_from(&column.default));
        for (place, value) in row.iter_mut().enumerate() {
            if self.columns.iter().all(|column| column.place() != place) {
                *value = None;
            }
        }
        row
    }
}

impl Column {
    pub fn place(&self) -> usize {
        self.attnum as usize - 1
    }
}

/// All tables' definitions, of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definitions {
    pub version: i64,
    pub tables: [Arc<Definition>; TABLES.len()],
}

impl Default for Definitions {
    fn default() -> Definitions {
        Definitions { version: 1, tables: std::array::from_fn(|_| Arc::new(Definition::first())) }
    }
}

impl Definitions {
    /// Main's column that this one of an entry's is: by its number, or by its name when an operator sends it again.
    pub fn column(&self, entry: &Entry, table: usize, place: usize) -> Option<&Column> {
        let definition = &self.tables[table];
        match entry.retry_of {
            None => definition.columns.iter().find(|column| column.place() == place),
            Some(_) => definition.named(COLUMNS[place]),
        }
    }

    /// Why the entry must not be applied to these tables.
    pub fn misfit(&self, entry: &Entry) -> Option<String> {
        entry.effects.iter().find_map(|effect| {
            let table = effect.table();
            let written: Vec<(usize, &Value)> = match effect {
                Effect::Insert { row, .. } => row.iter().enumerate().collect(),
                Effect::Update { set, .. } => set.iter().map(|(place, value)| (*place, value)).collect(),
                _ => Vec::new(),
            };
            let mut valued = written.into_iter().filter(|(_, value)| value.is_some()).map(|(place, _)| place);
            valued.find_map(|place| match self.column(entry, table, place) {
                None => Some(format!("has a value for {}.{}, which is gone", TABLES[table], COLUMNS[place])),
                Some(column) if column.type_name == NARROW => {
                    Some(format!("has a value for {}.{}, which is {NARROW}", TABLES[table], COLUMNS[place]))
                }
                Some(_) => None,
            })
        })
    }

    /// What main says about a table when it is asked what it looks like.
    pub fn told(&self, table: usize, by_place: bool) -> String {
        let column = |(n, column): (usize, &Column)| {
            let attnum = if by_place { n as i16 + 1 } else { column.attnum };
            serde_json::json!({
                "attnum": attnum, "name": column.name, "type": column.type_name, "required": false,
                "generated": false, "of": crate::wire::TEXT,
            })
        };
        let columns: Vec<_> = self.tables[table].columns.iter().enumerate().map(column).collect();
        serde_json::json!({
            "oid": tables::id(table).0, "schema": "public", "name": TABLES[table], "kind": "r", "columns": columns,
            "unique": [["id"]], "partition_of": [], "types": [],
        })
        .to_string()
    }
}
