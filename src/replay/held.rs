//! What quarantined entries have written, freed and stopped referring to: main does not have it as later entries expect.
//!
//! An entry that builds upon any of it waits with them: sent on, its update would find nothing or its row would be refused
//! for a reason that is not its own. Judged on what entries know, by value as text; what they do not know (columns of
//! a composite key that an update does not mention, expression indexes) is left to main, which refuses it then.
//!
//! In bounded memory: of each thing only a hash is kept (two that are alike would be a needless wait), and what an entry did to
//! very many rows is held as a whole.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::steps::MainTable;
use crate::buffer::{Aside, Fate, Quarantined};
use crate::entry::{Entry, Origin, Seq, TableName};

mod things;

#[cfg(test)]
mod tests;

use things::Thing;

/// What is known of main's tables.
pub(super) type Tables = HashMap<TableName, Arc<MainTable>>;

/// An entry with more effects is held by its tables, and so is every one that comes when so many things are held.
const EFFECTS_MAX: usize = 50_000;
const THINGS_MAX: usize = 1_000_000;

/// Who holds what.
#[derive(Debug)]
pub(super) struct Held {
    holders: HashMap<Seq, Holder>,
    /// By the hash of a thing: who holds it, by place. Those that `holders` does not know any more do not count.
    things: HashMap<u64, Holding>,
    /// What main's tables were like.
    seen: Tables,
    effects_max: usize,
    things_max: usize,
}

/// A reason to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) holder: Seq,
    /// The holder is being sent again, behind the entry that waits.
    pub(super) retrying: bool,
    pub(super) why: String,
}

#[derive(Debug)]
struct Holder {
    place: Seq,
    /// The entry's tables: a later one may have the name of one that was dropped.
    origins: HashMap<TableName, Origin>,
    /// Entries from here on find it done: it is being sent again as this entry.
    until: Option<Seq>,
    retrying: bool,
}

/// Most things are held by one entry only.
#[derive(Debug)]
enum Holding {
    One(Seq),
    More(Vec<Seq>),
}

impl Default for Held {
    fn default() -> Held {
        Held::within(EFFECTS_MAX, THINGS_MAX)
    }
}

impl Held {
    fn within(effects_max: usize, things_max: usize) -> Held {
        Held { holders: HashMap::new(), things: HashMap::new(), seen: Tables::new(), effects_max, things_max }
    }

    /// Goes by what has been decided since. What is in quarantine and not known here has to be added: these.
    pub(super) fn follow(&mut self, open: &BTreeMap<Seq, Aside>) -> Vec<Seq> {
        let before = self.holders.len();
        self.holders.retain(|seq, _| open.contains_key(seq));
        if self.holders.len() < before {
            let holders = &self.holders;
            self.things.retain(|_, holding| holding.keep(holders));
            self.things.shrink_to_fit();
        }
        let mut missing = Vec::new();
        for (seq, aside) in open {
            match self.holders.get_mut(seq) {
                Some(holder) => holder.meet(aside.fate),
                None => missing.push(*seq),
            }
        }
        missing
    }

    /// Whether main's tables are not what they were when things were added.
    pub(super) fn is_outdated(&self, tables: &Tables) -> bool {
        self.seen.iter().any(|(name, seen)| {
            let now = tables.get(name).filter(|now| !Arc::ptr_eq(now, seen));
            now.is_some_and(|now| now.unique != seen.unique || now.references != seen.references)
        })
    }

    /// Holds what a quarantined entry did.
    pub(super) fn add(&mut self, record: &Quarantined, tables: &Tables) {
        let (seq, entry) = (record.seq, &*record.entry);
        let origins = entry.tables.iter().filter_map(|table| Some((table.name.clone(), table.origin.clone()?)));
        let mut holder = Holder { place: entry.place(), origins: origins.collect(), until: None, retrying: false };
        holder.meet(record.fate);
        self.holders.insert(seq, holder);
        let seen = entry.tables.iter().filter_map(|table| tables.get_key_value(&table.name));
        self.seen.extend(seen.map(|(name, table)| (name.clone(), Arc::clone(table))));
        let coarse = entry.effects.len() > self.effects_max || self.things.len() > self.things_max;
        if coarse {
            tracing::warn!(%seq, effects = entry.effects.len(), "a quarantined entry is held by its tables, not row by row");
        }
        let (holders, held) = (&self.holders, &mut self.things);
        things::done(entry, tables, coarse, |thing| {
            held.entry(hash(&thing)).and_modify(|holding| holding.add(seq, holders)).or_insert(Holding::One(seq));
        });
    }

    /// Whether the entry has to wait, and why.
    pub(super) fn waits(&self, entry: &Entry, tables: &Tables) -> Option<Waits> {
        if self.holders.is_empty() {
            return None;
        }
        let place = entry.place();
        things::needs(entry, tables).find_map(|(thing, how)| {
            let known = self.things.get(&hash(&thing))?.seqs().iter();
            let holders = known.filter_map(|seq| Some((*seq, self.holders.get(seq)?)));
            let mut before = holders.take_while(|(_, holder)| holder.place < place);
            let (seq, holder) = before.find(|(_, holder)| {
                holder.until.is_none_or(|until| entry.seq < until) && !holder.is_about_another(thing.table(), entry)
            })?;
            let why = format!("it {how} {}, in quarantine, {}", thing.named(seq), thing.done());
            Some(Waits { holder: seq, retrying: holder.retrying, why })
        })
    }
}

impl Holder {
    fn meet(&mut self, fate: Fate) {
        (self.until, self.retrying) = match fate {
            Fate::Retrying { seq, .. } => (seq, true),
            Fate::Waiting | Fate::Retried { .. } | Fate::Skipped => (None, false),
        };
    }

    /// Whether the entry's table of this name was made after the holder's had been dropped.
    fn is_about_another(&self, name: &TableName, entry: &Entry) -> bool {
        let of_entry = entry.tables.iter().find(|table| table.name == *name).and_then(|table| table.origin.as_ref());
        let both = self.origins.get(name).zip(of_entry);
        both.is_some_and(|(ours, theirs)| ours.cluster == theirs.cluster && ours.table != theirs.table)
    }
}

impl Holding {
    fn seqs(&self) -> &[Seq] {
        match self {
            Holding::One(seq) => std::slice::from_ref(seq),
            Holding::More(seqs) => seqs,
        }
    }

    /// By place; once.
    fn add(&mut self, seq: Seq, holders: &HashMap<Seq, Holder>) {
        let place = |seq: Seq| (holders.get(&seq).map(|holder| holder.place), seq);
        let mut seqs = match self {
            Holding::One(there) if *there == seq => return,
            Holding::One(there) => vec![*there],
            Holding::More(seqs) => std::mem::take(seqs),
        };
        if let Err(at) = seqs.binary_search_by_key(&place(seq), |there| place(*there)) {
            seqs.insert(at, seq);
        }
        *self = Holding::More(seqs);
    }

    /// Forgets who is not among the holders any more. Whether anybody is left.
    fn keep(&mut self, holders: &HashMap<Seq, Holder>) -> bool {
        if let Holding::More(seqs) = self {
            seqs.retain(|seq| holders.contains_key(seq));
        }
        self.seqs().iter().any(|seq| holders.contains_key(seq))
    }
}

/// The same in every run of a program.
fn hash(thing: &Thing) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}
