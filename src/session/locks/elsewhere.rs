//! Cycles of waiting sessions, also of those that wait for something else than a lock: for a table of the site, before
//! they go to main.

use std::collections::HashSet;

use super::{Holder, LockError, Owner, Table};

impl Holder {
    /// The number by which others know the session.
    pub fn id(&self) -> u64 {
        self.owner.0
    }

    /// The session is about to wait for the ends of these sessions' transactions, by their numbers.
    ///
    /// # Errors
    /// One of them waits, over any number of others, for this one: then it must not.
    pub fn waits_elsewhere(&mut self, others: impl Iterator<Item = u64>) -> Result<(), LockError> {
        let others: Vec<Owner> = others.map(Owner).filter(|other| *other != self.owner).collect();
        let mut table = self.locks.table();
        if table.lead_to(others.clone(), self.owner) {
            table.elsewhere.remove(&self.owner);
            return Err(LockError::Deadlock);
        }
        table.elsewhere.insert(self.owner, others);
        Ok(())
    }

    /// It does not wait any more.
    pub fn waits_no_more(&mut self) {
        self.locks.table().elsewhere.remove(&self.owner);
    }
}

impl Table {
    /// Whether an owner of this lock waits, over any number of others, for `target`.
    pub(super) fn leads_back(&self, hash: u64, target: Owner) -> bool {
        let owners = self.owners(hash).filter(|owner| *owner != target);
        self.lead_to(owners.collect(), target)
    }

    fn owners(&self, hash: u64) -> impl Iterator<Item = Owner> + '_ {
        self.locks.get(&hash).into_iter().flat_map(|lock| lock.owners.iter().copied())
    }

    fn lead_to(&self, mut open: Vec<Owner>, target: Owner) -> bool {
        let mut seen: HashSet<Owner> = open.iter().copied().collect();
        while let Some(owner) = open.pop() {
            let of_lock = self.waiting.get(&owner).into_iter().flat_map(|hash| self.owners(*hash));
            let elsewhere = self.elsewhere.get(&owner).into_iter().flatten().copied();
            for next in of_lock.chain(elsewhere) {
                if next == target {
                    return true;
                }
                // Who waits for a share of its own waits for the others.
                if next != owner && seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    }
}
