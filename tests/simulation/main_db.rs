//! The simulated main and replica: one table store with its whole history, and a place in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use pgoutpost::entry::{Seq, Value};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::depends;
use crate::dice::Dice;
use crate::drift::{Change, Definitions};

/// The columns of every simulated table; the first is its key.
pub const COLUMNS: [&str; 3] = ["id", "a", "b"];
pub const TABLES: [&str; 3] = ["things", "notes", "parts"];
/// Rows of one table refer to rows of another, by key: no action, judged by each statement.
pub const PARENT: usize = 0;
pub const REFERRING: usize = 2;
/// The column that refers.
pub const REFERENCE: usize = 1;

pub type Text = Arc<str>;
pub type Row = Vec<Value>;

/// The place of a table among them.
pub fn place_of(table: &str) -> usize {
    TABLES.iter().position(|name| *name == table).expect("a simulated table")
}

/// A row's table and key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub Text, pub Text);

pub type Rows = OrdMap<Key, Row>;

/// Main after one of its commits.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    pub rows: Rows,
    pub ledger: (Seq, Option<Uuid>),
    /// The server process that may advance it; 0: any.
    pub replayer: u64,
    /// The last value that was drawn from the sequence.
    pub drawn: i64,
    /// Transactions of the site's clients that are applied, by their first place.
    pub applied: OrdSet<Seq>,
    pub definitions: Arc<Definitions>,
}

impl Commit {
    /// What the site sees of the rows: the columns that it knows.
    pub fn known_rows(&self) -> Rows {
        if self.definitions.tables.iter().all(|table| table.had == COLUMNS.len()) {
            return self.rows.clone();
        }
        self.rows.iter().map(|(key, row)| (key.clone(), row[..COLUMNS.len()].to_vec())).collect()
    }
}

pub struct Main {
    /// From the empty database on. The last one is what main is now.
    pub commits: Vec<Commit>,
    pub timeline: u32,
    /// Grows when main is started again: connections of before are gone.
    pub starts: u64,
    /// Values that are bad are taken: an operator has mended the tables.
    pub mended: bool,
    locks: BTreeMap<Lock, u64>,
    pub freed: Arc<Notify>,
    backends: u64,
}

/// What a transaction on main holds until its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lock {
    Ledger,
    Row(Key),
    /// All rows of a table, those to come as well.
    Table(Text),
}

impl Lock {
    /// Whether one backend cannot have the one while another has the other.
    fn excludes(&self, other: &Lock) -> bool {
        match (self, other) {
            (Lock::Table(table), Lock::Row(key)) | (Lock::Row(key), Lock::Table(table)) => key.0 == *table,
            (one, other) => one == other,
        }
    }
}

impl Main {
    pub fn new() -> Main {
        Main {
            commits: vec![Commit::default()],
            timeline: 1,
            starts: 0,
            mended: false,
            locks: BTreeMap::new(),
            freed: Arc::default(),
            backends: 0,
        }
    }

    pub fn now(&self) -> &Commit {
        self.commits.last().expect("there is always the empty database")
    }

    pub fn backend(&mut self) -> u64 {
        self.backends += 1;
        self.backends
    }

    /// Whether the backend has the lock now.
    pub fn lock(&mut self, lock: &Lock, backend: u64) -> bool {
        if self.locks.iter().any(|(other, holder)| *holder != backend && other.excludes(lock)) {
            return false;
        }
        self.locks.insert(lock.clone(), backend);
        true
    }

    pub fn is_locked(&self, lock: &Lock) -> bool {
        self.locks.keys().any(|other| other.excludes(lock))
    }

    /// The end of a backend's transaction.
    pub fn unlock(&mut self, backend: u64) {
        self.locks.retain(|_, holder| *holder != backend);
        self.freed.notify_waiters();
    }

    pub fn commit(&mut self, commit: Commit) {
        self.commits.push(commit);
    }

    /// Draws so many values from the sequence, the first of which it gives.
    pub fn draw(&mut self, count: i64) -> i64 {
        let mut next = self.now().clone();
        let first = next.drawn + 1;
        next.drawn += count;
        self.commit(next);
        first
    }

    /// Ends all connections and transactions; `keep`: how many commits the server that comes up has.
    pub fn restart(&mut self, keep: usize) {
        if keep < self.commits.len() {
            self.commits.truncate(keep.max(1));
            self.timeline += 1;
        }
        self.starts += 1;
        self.locks.clear();
        self.freed.notify_waiters();
    }

    /// A table's definition changes: at once, if nobody has locked any of it.
    pub fn alter(&mut self, table: usize, change: Change, dice: &Dice) -> bool {
        if self.is_locked(&Lock::Table(TABLES[table].into())) {
            return false;
        }
        let mut next = self.now().clone();
        let before = Arc::clone(&next.definitions.tables[table]);
        let Some(after) = before.changed(table, change, dice) else { return false };
        let rows = next.rows.iter().filter(|(key, _)| &*key.0 == TABLES[table]);
        let rows: Vec<(Key, Row)> =
            rows.map(|(key, row)| (key.clone(), after.converted(row.clone(), &before))).collect();
        next.rows.extend(rows);
        let definitions = Arc::make_mut(&mut next.definitions);
        definitions.version += 1;
        definitions.tables[table] = Arc::new(after);
        self.commit(next);
        true
    }

    /// Another site, or a person, changes a row: at once, if nobody is about to.
    pub fn write(&mut self, key: Key, row: Option<Row>) -> bool {
        let parent = row.as_ref().and_then(|row| depends::parent(place_of(&key.0), &row[REFERENCE]));
        let locked = |key: &Key| self.is_locked(&Lock::Row(key.clone()));
        if locked(&key) || parent.as_ref().is_some_and(locked) {
            return false;
        }
        // What the foreign key forbids, main refuses.
        let now = &self.now().rows;
        if parent.is_some_and(|parent| !now.contains_key(&parent))
            || (row.is_none() && depends::is_referred_to(now, &key))
        {
            return false;
        }
        let mut next = self.now().clone();
        match row {
            Some(row) => drop(next.rows.insert(key, row)),
            None => drop(next.rows.remove(&key)),
        }
        self.commit(next);
        true
    }
}

/// The standby: what it shows is some place of main's history, perhaps one that main has lost since.
pub struct Replica {
    pub shown: Commit,
    /// How many commits of main it has, while it follows main's history.
    pub at: usize,
    /// It shows what main has lost: it has to be made anew before it can follow.
    pub diverged: bool,
    pub up: bool,
    /// Grows when it is started again: it may show an older state only then.
    pub starts: u64,
}

impl Replica {
    pub fn new() -> Replica {
        Replica { shown: Commit::default(), at: 1, diverged: false, up: true, starts: 0 }
    }

    /// Replays up to so many commits.
    pub fn follow(&mut self, main: &Main, steps: usize) {
        if !self.diverged && self.up {
            self.at = (self.at + steps).min(main.commits.len());
            self.shown = main.commits[self.at - 1].clone();
        }
    }

    /// Comes up again with so many commits of main.
    pub fn restart(&mut self, main: &Main, at: usize) {
        self.at = at.clamp(1, main.commits.len());
        self.shown = main.commits[self.at - 1].clone();
        (self.diverged, self.up) = (false, true);
        self.starts += 1;
    }
}
