//! What has to be true, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgoutpost::buffer::memory::Disk;
use pgoutpost::buffer::{Fate, Quarantined};
use pgoutpost::entry::{Effect, Entry, Seq, Value};
use pgoutpost::overlay::Overlay;
use pgoutpost::replay::Policy;
use uuid::Uuid;

use crate::depends;
use crate::drift::Definitions;
use crate::main_db::{Commit, Key, Row, Rows, TABLES};

/// What clients were told, and what follows from it.
#[derive(Default)]
pub struct Oracle {
    outcomes: BTreeMap<Uuid, Told>,
    /// By place, as the clients were told it.
    acknowledged: BTreeMap<Seq, Uuid>,
    /// What the log has held in each place last.
    history: BTreeMap<Seq, Arc<Entry>>,
    /// The entries in quarantine: as they were, one version after the other.
    aside: Vec<BTreeSet<Seq>>,
    /// The newest.
    records: BTreeMap<Seq, Quarantined>,
    /// Values of the sequence.
    handed: BTreeSet<i64>,
    /// All that main's tables have ever been.
    definitions: Vec<Arc<Definitions>>,
    pub violation: Option<String>,
    pub reads: u64,
}

/// What a client was told of its COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Nothing,
    Committed(Seq),
    NotCommitted,
}

type Judged = Result<(), String>;

impl Oracle {
    pub fn submitted(&mut self, uuid: Uuid) {
        self.outcomes.insert(uuid, Told::Nothing);
    }

    pub fn told(&mut self, uuid: Uuid, told: Told) -> Judged {
        self.outcomes.insert(uuid, told);
        if let Told::Committed(seq) = told
            && let Some(other) = self.acknowledged.insert(seq, uuid)
        {
            return Err(format!("entry {seq} was acknowledged as {uuid} and as {other}"));
        }
        Ok(())
    }

    /// A client of the site gets this value.
    pub fn handed_out(&mut self, value: i64) -> Judged {
        if self.handed.insert(value) {
            Ok(())
        } else {
            Err(format!("value {value} of the sequence is handed out twice"))
        }
    }

    /// Main's tables are these from now on.
    pub fn defined(&mut self, definitions: &Arc<Definitions>) {
        self.definitions.push(Arc::clone(definitions));
    }

    pub fn acknowledged(&self) -> Seq {
        self.acknowledged.keys().next_back().copied().unwrap_or_default()
    }

    pub fn acknowledgements(&self) -> usize {
        self.acknowledged.len()
    }

    pub fn asides(&self) -> usize {
        self.aside.len()
    }

    fn set_aside(&self, seq: Seq) -> bool {
        self.aside.last().is_some_and(|aside| aside.contains(&seq))
    }

    /// Looks at what the log holds.
    pub fn learn(&mut self, disk: &Disk, main: &Commit) -> Judged {
        for (&seq, record) in &disk.records {
            let known = self.history.get(&seq).is_some_and(|known| known.uuid == record.entry.uuid);
            if known {
                continue;
            }
            if let Some(before) = self.history.insert(seq, Arc::clone(&record.entry))
                && (self.acknowledged.contains_key(&seq) || main.ledger.0 >= seq)
            {
                return Err(format!("entry {seq} was {} and is {} now", before.uuid, record.entry.uuid));
            }
            if self.outcomes.get(&record.entry.uuid) == Some(&Told::NotCommitted) {
                return Err(format!("entry {seq} was refused to its client, and is in the log"));
            }
        }
        let aside: BTreeSet<Seq> = disk.quarantined.keys().copied().collect();
        let mut new = disk.quarantined.values().filter(|record| !self.set_aside(record.seq));
        if let Some(record) = new.find(|record| main.applied.contains(&record.entry.place())) {
            return Err(format!("entry {} is put into quarantine, and is applied", record.seq));
        }
        if self.aside.last().is_none_or(|last| *last != aside) {
            self.aside.push(aside);
        }
        self.records = disk.quarantined.clone();
        for (seq, record) in &disk.quarantined {
            let code = record.error["code"].as_str().unwrap_or_default();
            if record.waits_for.is_none() && !["23505", "23514", "23503", "P0001", "PO003", "PO004"].contains(&code) {
                return Err(format!("entry {seq} is in quarantine for {}", record.error));
            }
            if code == "PO004" && !self.definitions.iter().any(|were| were.misfit(&record.entry).is_some()) {
                return Err(format!("entry {seq} is put aside for {}, and always fitted", record.error));
            }
            let ours = |key: &Key| &*key.1 < "p" && !main.rows.contains_key(key);
            // As long as no operator has decided anything, what this site alone writes is all there.
            if record.waits_for.is_none()
                && code == "23503"
                && main.ledger.0.next() == *seq
                && disk.quarantined.values().all(|record| record.fate == Fate::Waiting)
                && let Some(key) = depends::referred(&record.entry).iter().find(|key| ours(key))
            {
                return Err(format!("entry {seq} is rejected since {key:?} is not there, and waits for nobody"));
            }
        }
        Ok(())
    }

    /// An earlier transaction that is in quarantine, and is not sent again before this entry, which builds upon it.
    fn built_upon(&self, entry: &Entry) -> Option<(Seq, String)> {
        let undone = |fate: Fate| match fate {
            Fate::Waiting | Fate::Retrying { seq: None, .. } => true,
            Fate::Retrying { seq: Some(again), .. } => again > entry.seq,
            Fate::Retried { .. } | Fate::Skipped => false,
        };
        let before = self.records.values().filter(|record| record.entry.place() < entry.place() && undone(record.fate));
        before.into_iter().find_map(|record| Some((record.seq, depends::builds_upon(entry, &record.entry)?)))
    }

    /// A transaction with entries is about to commit on main: it does exactly what they say.
    pub fn commit(
        &self,
        before: &Commit,
        after: &mut Commit,
        (from, to): (Seq, Seq),
        policies: [Policy; TABLES.len()],
    ) -> Judged {
        if from != before.ledger.0 {
            return Err(format!("main's ledger goes from {} to {to}, sent was from {from}", before.ledger.0));
        }
        let mut expected = before.rows.clone();
        for seq in (from.0 + 1..=to.0).map(Seq) {
            let entry =
                self.history.get(&seq).ok_or_else(|| format!("main gets entry {seq}, which the log never had"))?;
            if seq == to && after.ledger.1 != Some(entry.uuid) {
                return Err(format!("main gets entry {seq} as {:?}, which is {}", after.ledger.1, entry.uuid));
            }
            if self.set_aside(seq) {
                continue;
            }
            if let Some((other, why)) = self.built_upon(entry) {
                return Err(format!("entry {seq} is applied, and {why} as entry {other} does, which is in quarantine"));
            }
            if after.applied.insert(entry.place()).is_some() {
                return Err(format!("entry {seq}, of place {}, is applied twice", entry.place()));
            }
            if let Some(why) = before.definitions.misfit(entry) {
                return Err(format!("entry {seq} is applied, and {why}"));
            }
            let on_main = OnMain { definitions: &before.definitions, entry };
            for effect in &entry.effects {
                let applied = on_main.apply(&mut expected, effect, policies[effect.table()]);
                applied.map_err(|why| format!("entry {seq} is applied, and {why}"))?;
            }
        }
        if expected == after.rows {
            return Ok(());
        }
        Err(format!("entries {from}..{to} on main: {}", difference(&after.rows, &expected)))
    }

    /// Everything acknowledged is applied, pending or in quarantine.
    pub fn kept(&self, disk: &Disk, main: &Commit) -> Judged {
        for (&seq, uuid) in &self.acknowledged {
            let aside = disk.quarantined.contains_key(&seq);
            let pending = disk.records.get(&seq).is_some_and(|record| record.entry.uuid == *uuid);
            let entry = self.history.get(&seq);
            let applied = main.ledger.0 >= seq && entry.is_some_and(|entry| main.applied.contains(&entry.place()));
            if !aside && !applied && (main.ledger.0 >= seq || !pending) {
                return Err(format!(
                    "entry {seq} ({uuid}) was acknowledged and is neither applied, pending nor in quarantine"
                ));
            }
        }
        Ok(())
    }

    /// A read: one snapshot of the replica, and exactly what is pending upon it. `acknowledged`: before the overlay was taken.
    /// `since`: versions of the quarantine that the overlay may have been made with.
    pub fn read(
        &mut self,
        base: &Overlay,
        acknowledged: Seq,
        snapshot: &Commit,
        own: &[Effect],
        rows: &Rows,
        since: usize,
    ) -> Judged {
        self.reads += 1;
        if base.last() < acknowledged {
            return Err(format!("a read sees entries up to {}, but {acknowledged} is acknowledged", base.last()));
        }
        let none = BTreeSet::new();
        let versions = self.aside.get(since.saturating_sub(1)..).unwrap_or_default();
        let versions = versions.iter().chain(versions.is_empty().then_some(&none));
        let mut seen = None;
        for aside in versions {
            let expected = self.expected(snapshot, base.last(), aside, own)?;
            if expected == *rows {
                return Ok(());
            }
            seen.get_or_insert(expected);
        }
        let expected = seen.unwrap_or_default();
        Err(format!(
            "a read at ledger {} with entries up to {}, in quarantine {:?}: {}",
            snapshot.ledger.0,
            base.last(),
            self.aside.get(since.saturating_sub(1)..),
            difference(rows, &expected)
        ))
    }

    fn expected(&self, snapshot: &Commit, last: Seq, aside: &BTreeSet<Seq>, own: &[Effect]) -> Result<Rows, String> {
        let mut expected = snapshot.known_rows();
        for seq in (snapshot.ledger.0.0 + 1..=last.0).map(Seq).filter(|seq| !aside.contains(seq)) {
            let entry =
                self.history.get(&seq).ok_or_else(|| format!("entry {seq} is shown, which the log never had"))?;
            apply(&mut expected, &entry.effects);
        }
        apply(&mut expected, own);
        Ok(expected)
    }

    /// No client of the site has overwritten what it did not see, in rows that nobody else writes.
    pub fn serial(&self) -> Judged {
        if self.asides() > 1 {
            return Ok(());
        }
        let mut rows = Rows::new();
        for (seq, entry) in &self.history {
            for effect in &entry.effects {
                let saw = |key: &Key, old: &[(usize, pgoutpost::entry::Value)]| -> Judged {
                    let row = rows.get(key);
                    let same = row.is_some_and(|row: &Row| old.iter().all(|(place, value)| row[*place] == *value));
                    if same { Ok(()) } else { Err(format!("entry {seq} saw {old:?} in {key:?}, which was {row:?}")) }
                };
                match effect {
                    Effect::Update { table, key, old, .. } => {
                        let key = key_of(*table, key);
                        if &*key.1 < "p" {
                            saw(&key, old)?;
                        }
                    }
                    Effect::Insert { table, row } => {
                        let key = key_of(*table, row);
                        if &*key.1 < "p" && rows.contains_key(&key) {
                            return Err(format!("entry {seq} inserts {key:?} which was there"));
                        }
                    }
                    _ => {}
                }
                let (_, refers) = depends::references(effect);
                let parent = refers.and_then(|value| depends::parent(effect.table(), &value));
                if let Some(key) = parent.filter(|key| &*key.1 < "p" && !rows.contains_key(key)) {
                    return Err(format!("entry {seq} refers to {key:?} which was not there"));
                }
                apply(&mut rows, std::slice::from_ref(effect));
            }
        }
        Ok(())
    }
}

pub fn key_of(table: usize, values: &[pgoutpost::entry::Value]) -> Key {
    Key(TABLES[table].into(), values[0].clone().expect("keys are not null"))
}

/// An entry's effects as main takes them: in its columns as they are, under a table's policy.
struct OnMain<'a> {
    definitions: &'a Definitions,
    entry: &'a Entry,
}

impl OnMain<'_> {
    fn apply(&self, rows: &mut Rows, effect: &Effect, policy: Policy) -> Judged {
        let place = |table, place| self.definitions.column(self.entry, table, place).map(crate::drift::Column::place);
        let saw = |table, row: &Row, old: &mut dyn Iterator<Item = (usize, &Value)>| {
            old.filter_map(|(at, value)| Some((place(table, at)?, value))).all(|(at, value)| row[at] == *value)
        };
        // Whether the row is the entry's to change.
        let yields = |key: &Key, row: Option<&Row>, same: &dyn Fn(&Row) -> bool| match (row, policy) {
            (Some(row), _) if same(row) => Ok(true),
            (_, Policy::Reject) => Err(format!("overwrites {key:?}, which is {row:?}")),
            (Some(_), Policy::LastWriteWins) => Ok(true),
            (None, _) | (_, Policy::MainWins) => Ok(false),
        };
        match effect {
            Effect::Insert { table, row } => {
                let key = key_of(*table, row);
                if policy == Policy::MainWins && rows.contains_key(&key) {
                    return Ok(());
                }
                let mut new = self.definitions.tables[*table].row();
                for (at, value) in row.iter().enumerate() {
                    place(*table, at).into_iter().for_each(|at| new[at].clone_from(value));
                }
                rows.insert(key, new);
            }
            Effect::Delete { table, key, old } => {
                let key = key_of(*table, key);
                let same = |row: &Row| saw(*table, row, &mut old.iter().enumerate());
                if yields(&key, rows.get(&key), &same)? {
                    rows.remove(&key);
                }
            }
            Effect::Update { table, key, set, old, .. } => {
                let key = key_of(*table, key);
                let same = |row: &Row| saw(*table, row, &mut old.iter().map(|(at, value)| (*at, value)));
                if yields(&key, rows.get(&key), &same)?
                    && let Some(mut row) = rows.remove(&key)
                {
                    for (at, value) in set {
                        place(*table, *at).into_iter().for_each(|at| row[at].clone_from(value));
                    }
                    rows.insert(key_of(*table, &row), row);
                }
            }
            Effect::Truncate { .. } => apply(rows, std::slice::from_ref(effect)),
            Effect::Move { .. } => unreachable!("not simulated"),
        }
        Ok(())
    }
}

/// Pending: whole rows as the client saw them.
fn apply(rows: &mut Rows, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::Insert { table, row } => drop(rows.insert(key_of(*table, row), row.clone())),
            Effect::Delete { table, key, .. } => drop(rows.remove(&key_of(*table, key))),
            Effect::Update { table, key, row: Some(row), .. } => {
                rows.remove(&key_of(*table, key));
                rows.insert(key_of(*table, row), row.clone());
            }
            Effect::Update { table, key, set, .. } => {
                if let Some(mut row) = rows.remove(&key_of(*table, key)) {
                    set.iter().for_each(|(place, value)| row[*place] = value.clone());
                    rows.insert(key_of(*table, &row), row);
                }
            }
            Effect::Truncate { table } => {
                *rows = std::mem::take(rows).into_iter().filter(|(key, _)| *key.0 != *TABLES[*table]).collect();
            }
            Effect::Move { .. } => unreachable!("not simulated"),
        }
    }
}

fn difference(found: &Rows, expected: &Rows) -> String {
    let differs = |key: &&Key| found.get(*key) != expected.get(*key);
    let keys: BTreeSet<&Key> = found.keys().chain(expected.keys()).filter(differs).collect();
    let one = |key: &Key| format!("{key:?} is {:?}, expected {:?}", found.get(key), expected.get(key));
    keys.into_iter().map(one).collect::<Vec<_>>().join("; ")
}
