//! Rows that a transaction on main reads, locks and writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgoutpost::entry::Value;
use tokio::time::timeout;

use super::{Backend, Done, Outcome, Trouble, refused};
use crate::main_db::{COLUMNS, Key, Lock, Row, Text};
use crate::statement::Given;
use crate::wire::{self, Datum};

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
            let row = |n: usize| whole(columns, arrays.iter().map(|array| array[n].clone()).collect());
            (0..arrays[0].len()).map(row).collect()
        } else {
            vec![whole(columns, values.iter().map(wire::text).collect())]
        };
        let tag = format!("INSERT 0 {}", rows.len());
        for row in rows {
            let key = Key(table.clone(), row[0].clone().expect("keys are not null"));
            self.lock(Lock::Row(key.clone())).await?;
            if self.row(&key).is_some() {
                return refused("23505", format!("duplicate key: {key:?}"));
            }
            self.put(key, Some(row))?;
        }
        Ok(Done { rows: Vec::new(), tag })
    }

    /// An UPDATE or DELETE by key under the policy that the last write wins. Tells what became of a row that is not as the client
    /// saw it.
    pub(super) async fn settle(
        &mut self,
        table: &Text,
        set: &[Given],
        key: &[Given],
        old: &[Given],
        values: &[Option<Bytes>],
    ) -> Outcome<Vec<Vec<Datum>>> {
        let text = |place: usize| wire::text(&values[place]);
        let [(_, place)] = key else { panic!("one key column") };
        let key = Key(table.clone(), text(*place).expect("keys are not null"));
        self.lock(Lock::Row(key.clone())).await?;
        let told = |outcome: &str| vec![vec![Datum::Text(format!("{{\"{outcome}\": 1}}"))]];
        let Some(mut row) = self.row(&key) else { return Ok(told("gone")) };
        let same = old.iter().all(|(name, place)| row[column(name)] == text(*place));
        if set.is_empty() {
            self.put(key, None)?;
        } else {
            set.iter().for_each(|(name, place)| row[column(name)] = text(*place));
            let new = Key(table.clone(), row[0].clone().expect("keys are not null"));
            if new != key {
                self.lock(Lock::Row(new.clone())).await?;
                if self.row(&new).is_some() {
                    return refused("23505", format!("duplicate key: {new:?}"));
                }
                self.put(key, None)?;
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

pub(super) fn column(name: &str) -> usize {
    COLUMNS.iter().position(|column| *column == name).expect("a column of the simulated tables")
}

fn whole(columns: &[Text], values: Vec<Value>) -> Row {
    let mut row = vec![None; COLUMNS.len()];
    columns.iter().zip(values).for_each(|(name, value)| row[column(name)] = value);
    row
}
