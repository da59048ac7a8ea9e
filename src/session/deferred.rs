//! The events that are judged at the end of a transaction, in their order. Persistent: a savepoint keeps them as they were.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use imbl::{OrdMap, OrdSet};

use crate::entry::Value;
use crate::sql::Event;

/// When an event was put off: they are judged in this order.
type Place = u64;

#[derive(Debug, Clone, Default)]
pub struct Deferred {
    events: OrdMap<Place, Event>,
    /// By the hash of their constraint and of the version of the row that they are about.
    versions: OrdSet<(u64, Place)>,
    next: Place,
}

impl Deferred {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.events.values()
    }

    /// Adds events, and takes away those for versions of rows that they replace: they are told in these ones' place.
    /// Returns how many of what was there it has looked at: an ORM changes thousands of rows, one by one, that it has added.
    pub fn put_off(&mut self, newer: Vec<Event>) -> usize {
        let mut looked = 0;
        for event in newer.iter().filter(|event| !event.versions.was.is_empty()) {
            let hash = hash(event, &event.versions.was);
            let alike: Vec<_> = self.versions.range((hash, 0)..=(hash, Place::MAX)).copied().collect();
            looked += alike.len();
            for known in alike {
                let is_it = |old: &Event| {
                    old.rule.deferrable() == event.rule.deferrable() && old.versions.is == event.versions.was
                };
                if self.events.get(&known.1).is_some_and(is_it) {
                    self.events.remove(&known.1);
                    self.versions.remove(&known);
                }
            }
        }
        newer.into_iter().for_each(|event| self.add(event));
        looked
    }

    /// Takes out what is to be judged now; the others stay, in their order.
    pub fn take(&mut self, stays: impl Fn(&Event) -> bool) -> VecDeque<Event> {
        let mut due = VecDeque::new();
        for (_, event) in std::mem::take(self).events {
            if stays(&event) { self.add(event) } else { due.push_back(event) }
        }
        due
    }

    fn add(&mut self, event: Event) {
        if !event.versions.is.is_empty() {
            self.versions.insert((hash(&event, &event.versions.is), self.next));
        }
        self.events.insert(self.next, event);
        self.next += 1;
    }
}

fn hash(event: &Event, version: &[Value]) -> u64 {
    let mut hasher = DefaultHasher::new();
    event.rule.deferrable().hash(&mut hasher);
    version.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
