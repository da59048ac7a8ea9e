//! Rows that a quarantined entry has written, and that main therefore does not have as later entries expect them.
//!
//! An entry that touches one of them waits with it: sent on, its update would find nothing, and what a client was told
//! is done would be lost without a trace. Rows that merely *refer* to such a row are rejected by main itself.

use std::collections::HashMap;

use crate::entry::{Effect, Entry, Seq, TableName, Value};

/// Which quarantined entry holds a row.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<(TableName, Vec<Value>), Seq>);

impl Held {
    /// Holds what the entry writes.
    pub(super) fn add(&mut self, entry: &Entry) {
        for row in rows(entry) {
            self.0.entry(row).or_insert(entry.seq);
        }
    }

    /// The quarantined entry that this one has to wait for.
    pub(super) fn holder_of(&self, entry: &Entry) -> Option<Seq> {
        if self.0.is_empty() {
            return None;
        }
        rows(entry).filter_map(|row| self.0.get(&row).copied()).find(|holder| *holder < entry.seq)
    }
}

/// The rows that an entry writes, by table and key: before and after, when the key changes.
fn rows(entry: &Entry) -> impl Iterator<Item = (TableName, Vec<Value>)> + '_ {
    entry.effects.iter().flat_map(|effect| {
        let Some(table) = entry.tables.get(effect.table()) else { return Vec::new() };
        let key_of = |row: &[Value]| table.key.iter().filter_map(|&place| row.get(place).cloned()).collect();
        let keys: Vec<Vec<Value>> = match effect {
            Effect::Insert { row, .. } => vec![key_of(row)],
            Effect::Update { key, row, .. } => {
                row.iter().map(|row| key_of(row)).chain(std::iter::once(key.clone())).collect()
            }
            Effect::Delete { key, .. } => vec![key.clone()],
        };
        let keyed = keys.into_iter().filter(|key| !key.is_empty());
        keyed.map(|key| (table.name.clone(), key)).collect::<Vec<_>>()
    })
}
