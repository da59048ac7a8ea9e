//! Rows that a transaction on main reads, locks and writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgoutpost::entry::Value;
use tokio::time::timeout;

use super::{Backend, Done, Outcome, Trouble, refused};
use crate::depends;
use pgoutpost::replay::Policy;

use crate::main_db::{Key, Lock, PARENT, REFERENCE, REFERRING, Row, Rows, TABLES, Text, place_of};
use crate::statement::Given;
use crate::wire::{self, Datum};
use crate::world::Bug;

/// As replay asks for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

impl Backend {
    /// Waits until nobody else has it, as long as the lock's time-out allows.
    pub(super) async fn lock(&mut self, lock: Lock) -> Outcome<()> {
        let freed = Arc::clone(&self.world.main.lock().unwrap().freed);
        let taken = async {
            loop {
                let freed = freed.notified();
                if !self.lives() {
                    return Err(Trouble::Gone);
                }
                if self.world.main.lock().unwrap().lock(&lock, self.id) {
                    return Ok(());
                }
                freed.await;
            }
        };
        let taken = timeout(LOCK_TIMEOUT, taken).await;
        taken.unwrap_or_else(|_| refused("55P03", "canceling statement due to lock timeout"))
    }

    pub(super) async fn insert(
        &mut self,
        table: &Text,
        columns: &[Text],
        several: bool,
        values: &[Option<Bytes>],
    ) -> Outcome<Done> {
        let rows: Vec<Row> = if several {
            let arrays: Vec<Vec<Value>> = values.iter().map(wire::texts).collect();
            let row = |n: usize| self.whole(table, columns, arrays.iter().map(|array| array[n].clone()).collect());
            (0..arrays[0].len()).map(row).collect::<Outcome<_>>()?
        } else {
            vec![self.whole(table, columns, values.iter().map(wire::text).collect())?]
        };
        let tag = format!("INSERT 0 {}", rows.len());
        for row in rows {
            let key = Key(table.clone(), row[0].clone().expect("keys are not null"));
            self.lock(Lock::Row(key.clone())).await?;
            if self.row(&key).is_some() {
                return refused("23505", format!("duplicate key: {key:?}"));
            }
            self.has_parent(&key, &row).await?;
            self.put(key, Some(row))?;
        }
        Ok(Done { rows: Vec::new(), tag })
    }

    /// The foreign key, from the referring side: what is referred to must be there, and stay.
    async fn has_parent(&mut self, key: &Key, row: &Row) -> Outcome<()> {
        let Some(parent) = depends::parent(place_of(&key.0), &row[REFERENCE]) else { return Ok(()) };
        self.lock(Lock::Row(parent.clone())).await?;
        match self.row(&parent) {
            Some(_) => Ok(()),
            None => refused("23503", format!("{key:?} refers to {parent:?}, which is not there")),
        }
    }

    /// From the other side: nobody refers to a row that goes. (Who would, from now on, waits for its lock.)
    fn is_free(&self, key: &Key) -> Outcome<()> {
        let rows = self.rows();
        if depends::is_referred_to(&rows, key) {
            return refused("23503", format!("{key:?} is still referred to"));
        }
        Ok(())
    }

    pub(super) async fn truncate(&mut self, tables: &[Text]) -> Outcome<Done> {
        let referring: Text = TABLES[REFERRING].into();
        if tables.iter().any(|table| &**table == TABLES[PARENT]) && !tables.contains(&referring) {
            return refused("0A000", "cannot truncate a table referenced in a foreign key constraint");
        }
        for table in tables {
            self.lock(Lock::Table(table.clone())).await?;
        }
        let rows = self.rows();
        self.world.note(|| format!("backend {} truncates {tables:?}", self.id));
        let Some(transaction) = &mut self.transaction else { return refused("25P01", "no transaction") };
        let gone = rows.keys().filter(|key| tables.contains(&key.0));
        transaction.writes.extend(gone.map(|key| (key.clone(), None)));
        Ok(Done { rows: Vec::new(), tag: "TRUNCATE TABLE".to_owned() })
    }

    /// As the transaction has them.
    fn rows(&self) -> Rows {
        let mut rows = self.world.main.lock().unwrap().now().rows.clone();
        for (key, row) in self.transaction.iter().flat_map(|transaction| &transaction.writes) {
            match row {
                Some(row) => drop(rows.insert(key.clone(), row.clone())),
                None => drop(rows.remove(key)),
            }
        }
        rows
    }

    /// An INSERT that leaves main's row where there is one.
    pub(super) async fn insert_unless(
        &mut self,
        table: &Text,
        set: &[Given],
        values: &[Option<Bytes>],
    ) -> Outcome<Vec<Vec<Datum>>> {
        let (columns, texts) = set.iter().map(|(name, place)| (name.clone(), wire::text(&values[*place]))).unzip();
        let columns: Vec<Text> = columns;
        let row = self.whole(table, &columns, texts)?;
        let key = Key(table.clone(), row[0].clone().expect("keys are not null"));
        self.lock(Lock::Row(key.clone())).await?;
        if self.row(&key).is_some() {
            return Ok(vec![vec![Datum::Text("{\"kept\": 1}".to_owned())]]);
        }
        self.has_parent(&key, &row).await?;
        self.put(key, Some(row))?;
        Ok(Vec::new())
    }

    /// An UPDATE or DELETE by key. Tells what became of a row that is not as the client saw it.
    pub(super) async fn settle(&mut self, guarded: &Guarded<'_>, values: &[Option<Bytes>]) -> Outcome<Vec<Vec<Datum>>> {
        let Guarded { table, set, key, old, .. } = *guarded;
        let policy = if self.world.planted(Bug::DeafToPolicies) { Policy::LastWriteWins } else { guarded.policy };
        let text = |place: usize| wire::text(&values[place]);
        let [(_, place)] = key else { panic!("one key column") };
        let key = Key(table.clone(), text(*place).expect("keys are not null"));
        self.lock(Lock::Row(key.clone())).await?;
        let told = |outcome: &str| vec![vec![Datum::Text(format!("{{\"{outcome}\": 1}}"))]];
        let Some(mut row) = self.row(&key) else {
            return if policy == Policy::Reject { refused("PO003", "it is gone") } else { Ok(told("gone")) };
        };
        let mut same = true;
        for (name, place) in old {
            same &= row[self.column(table, name)?] == text(*place);
        }
        match policy {
            Policy::Reject if !same => return refused("PO003", "it is another one"),
            Policy::MainWins if !same => return Ok(told("kept")),
            _ => {}
        }
        if guarded.looks {
            return Ok(Vec::new());
        }
        if set.is_empty() {
            self.is_free(&key)?;
            self.put(key, None)?;
        } else {
            for (name, place) in set {
                row[self.column(table, name)?] = text(*place);
            }
            let new = Key(table.clone(), row[0].clone().expect("keys are not null"));
            if new != key {
                self.lock(Lock::Row(new.clone())).await?;
                if self.row(&new).is_some() {
                    return refused("23505", format!("duplicate key: {new:?}"));
                }
                self.is_free(&key)?;
                self.put(key, None)?;
            }
            let refers =
                |(name, _): &Given| self.column(table, name).is_ok_and(|place| depends::is_reference(table, place));
            if set.iter().any(refers) {
                self.has_parent(&new, &row).await?;
            }
            self.put(new, Some(row))?;
        }
        Ok(if same { Vec::new() } else { told("overwritten") })
    }

    fn row(&self, key: &Key) -> Option<Row> {
        let own = self.transaction.as_ref().and_then(|transaction| transaction.writes.get(key));
        match own {
            Some(row) => row.clone(),
            None => self.world.main.lock().unwrap().now().rows.get(key).cloned(),
        }
    }

    fn put(&mut self, key: Key, row: Option<Row>) -> Outcome<()> {
        let has = |word: &str| row.iter().flatten().flatten().any(|value| value.contains(word));
        let (bad, late) = (has("bad"), has("late"));
        let mended = self.world.main.lock().unwrap().mended;
        if bad && !mended {
            return refused("23514", "check constraint");
        }
        // A trigger that minds something else each time.
        if has("odd") && self.id.is_multiple_of(2) {
            return refused("P0001", "not now");
        }
        let Some(transaction) = &mut self.transaction else { return Ok(()) };
        transaction.refused_at_commit |= late && !mended;
        transaction.writes.insert(key, row);
        Ok(())
    }
}

/// A statement that notices what others did to its row.
#[derive(Clone, Copy)]
pub(super) struct Guarded<'a> {
    pub(super) policy: Policy,
    pub(super) looks: bool,
    pub(super) table: &'a Text,
    pub(super) set: &'a [Given],
    pub(super) key: &'a [Given],
    pub(super) old: &'a [Given],
}

impl Backend {
    /// Where main has the values of the column that is called so now.
    pub(super) fn column(&self, table: &Text, name: &str) -> Outcome<usize> {
        let definitions = Arc::clone(&self.world.main.lock().unwrap().now().definitions);
        match definitions.tables[place_of(table)].named(name) {
            Some(column) => Ok(column.place()),
            None => refused("42703", format!("column {name} of {table} does not exist")),
        }
    }

    fn whole(&self, table: &Text, columns: &[Text], values: Vec<Value>) -> Outcome<Row> {
        let definitions = Arc::clone(&self.world.main.lock().unwrap().now().definitions);
        let mut row = definitions.tables[place_of(table)].row();
        for (name, value) in columns.iter().zip(values) {
            row[self.column(table, name)?] = value;
        }
        Ok(row)
    }
}
