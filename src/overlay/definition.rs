//! What pending effects were made for: the definition of their table at that time, as far as reading them depends on it.
//!
//! Tables and columns are meant by their numbers, so a pending row stays right whatever its table is called by now. What
//! else may have changed is judged when the row is read, by what is kept here: so there is no moment at which rows are
//! read by a definition that they were not made for.

use std::sync::Arc;

use imbl::HashMap;

use crate::catalog::{AttNum, Column, Table, TableId};
use crate::entry::{Seq, Shape, Terms, Typed};

/// A table as it was when effects upon it were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub columns: Vec<DefinedColumn>,
    /// By what its pending rows are told apart.
    pub key: Vec<AttNum>,
    pub fingerprint: u64,
}

/// Number and type (as `format_type` prints it, with modifier).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinedColumn {
    pub attnum: AttNum,
    pub type_name: Arc<str>,
    /// What the texts of its values mean.
    pub shape: Option<Arc<Shape>>,
}

impl Definition {
    pub fn of(table: &Table) -> Definition {
        let columns = table.columns.iter().map(|column| DefinedColumn {
            attnum: column.attnum,
            type_name: Arc::clone(&column.full_type_name),
            shape: column.shape.clone(),
        });
        Definition { columns: columns.collect(), key: table.key.clone(), fingerprint: table.fingerprint }
    }

    /// Whether the table still is what it was.
    pub fn is_of(&self, table: &Table) -> bool {
        self.fingerprint == table.fingerprint
            && self.key == table.key
            && self.columns.len() == table.columns.len()
            && self.columns.iter().zip(&table.columns).all(|(then, now)| then.attnum == now.attnum && then.suits(now))
    }

    /// Whether the types of the table's columns have exactly the shapes that they had.
    pub fn has_shapes_of(&self, table: &Table) -> bool {
        self.columns.iter().map(|column| &column.shape).eq(table.columns.iter().map(|column| &column.shape))
    }

    /// Whether rows that were made for it are whole rows of the table as it is now.
    pub fn suits(&self, table: &Table) -> bool {
        let same = |column: &Column| {
            let then = self.column(column.attnum);
            !column.generated && then.is_some_and(|then| then.type_name == column.full_type_name && then.suits(column))
        };
        self.is_of(table) || (self.key == table.key && table.columns.iter().all(same))
    }

    /// What the column was; `None`: there was no such column.
    pub fn column(&self, attnum: AttNum) -> Option<&DefinedColumn> {
        self.columns.iter().find(|known| known.attnum == attnum)
    }
}

impl DefinedColumn {
    pub fn typed(&self) -> Typed<'_> {
        Typed { name: &self.type_name, shape: self.shape.as_ref() }
    }

    /// Whether its type's shape, if it is known, is one in which texts mean what they meant.
    fn suits(&self, now: &Column) -> bool {
        self.shape.is_none() || now.shape.is_none() || self.typed().stands_in(now.typed(), Terms::NUMBERS)
    }
}

/// A definition, and which entries were made for it.
#[derive(Debug, Clone)]
pub struct Made {
    pub definition: Arc<Definition>,
    /// Some rows came to their key from another one.
    pub rekeys: bool,
    first: Seq,
    last: Seq,
}

impl Made {
    /// Whether an effect of this entry can be made for it.
    pub fn covers(&self, seq: Seq) -> bool {
        (self.first..=self.last).contains(&seq)
    }
}

/// The definitions that each table's pending effects were made for.
#[derive(Debug, Clone, Default)]
pub(super) struct Definitions(HashMap<TableId, Arc<Vec<Made>>>);

impl Definitions {
    pub(super) fn of(&self, table: TableId) -> &[Made] {
        self.0.get(&table).map_or(&[], |made| made)
    }

    pub(super) fn note(&mut self, seq: Seq, table: TableId, definition: &Arc<Definition>, rekeys: bool) {
        let all = Arc::make_mut(self.0.entry(table).or_default());
        // Entries have one order; what is held or not committed is not in it.
        let beside = |made: &Made| made.last == seq || (made.last < Seq::HELD && seq < Seq::HELD);
        match all.iter_mut().find(|made| beside(made) && made.definition == *definition) {
            Some(made) => {
                made.last = seq;
                made.rekeys |= rekeys;
            }
            None => all.push(Made { definition: Arc::clone(definition), rekeys, first: seq, last: seq }),
        }
    }

    /// Drops those of which the replica has everything.
    pub(super) fn trim(&mut self, confirmed: Seq) {
        let is_past = |made: &Made| made.last <= confirmed;
        let past: Vec<TableId> =
            self.0.iter().filter(|(_, made)| made.iter().any(is_past)).map(|(table, _)| *table).collect();
        for table in past {
            let Some(made) = self.0.get_mut(&table) else { continue };
            Arc::make_mut(made).retain(|made| !is_past(made));
            if made.is_empty() {
                self.0.remove(&table);
            }
        }
    }
}
