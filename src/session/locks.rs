//! Locks on rows and unique values that open transactions have written, by hash.
//!
//! Two clients of the site that write the same row serialize as in Postgres: the second waits until the first has ended.
//! All locks are exclusive, granted first come, first served; a cycle of waiting sessions is found when it would close.
//! A lock remembers, after it is free, which entry last changed what it stands for: so a session can tell, once it holds
//! the lock, whether what it evaluated is still true. Two things with one hash merely wait for each other needlessly.
//!
//! Never held across anything: the table's mutex is taken for a few map operations, and no `await` is under it.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::entry::Seq;
use crate::report::Report;
use crate::sqlstate;

/// How many freed locks are remembered; older ones count as changed by [`Table::forgotten`].
const REMEMBERED: usize = 1 << 17;

/// The site's lock table; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Locks(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    locks: HashMap<u64, Lock>,
    /// What each waiting session waits for.
    waiting: HashMap<Owner, u64>,
    /// Freed and remembered, oldest first.
    freed: VecDeque<(u64, Seq)>,
    /// The newest change that is no longer remembered.
    forgotten: Seq,
    last_owner: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Owner(u64);

#[derive(Debug, Default)]
struct Lock {
    owner: Option<Owner>,
    queue: VecDeque<(Owner, oneshot::Sender<()>)>,
    changed: Seq,
}

/// What taking locks found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Nobody has changed these things since the state that the caller saw.
    Fresh,
    /// Somebody has, or may have: look again.
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    #[error("deadlock detected")]
    Deadlock,
    #[error("canceling statement due to lock timeout")]
    Timeout,
}

impl LockError {
    /// As Postgres says it.
    pub fn report(self) -> Report {
        match self {
            LockError::Deadlock => Report::new(sqlstate::DEADLOCK_DETECTED, self.to_string())
                .detail("Two or more transactions of this site wait for each other's rows.")
                .hint("Run the transaction again."),
            LockError::Timeout => Report::new(sqlstate::LOCK_NOT_AVAILABLE, self.to_string()),
        }
    }
}

impl Locks {
    /// A session's hands. Dropping it frees what it holds.
    pub fn holder(&self) -> Holder {
        let mut table = self.table();
        table.last_owner += 1;
        Holder { owner: Owner(table.last_owner), locks: self.clone(), held: Vec::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that runs under the mutex can leave the table half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The locks of one session.
#[derive(Debug)]
pub struct Holder {
    locks: Locks,
    owner: Owner,
    /// In the order they were taken.
    held: Vec<u64>,
}

enum Attempt {
    Held,
    Granted { changed: Seq },
    Wait(oneshot::Receiver<()>),
    Deadlock,
}

impl Holder {
    /// Takes these locks, waiting where others hold them. `seen`: the newest entry in the state that the caller
    /// evaluated; what was changed later, or had to be waited for, is [`Taken::Stale`]. `timeout`: for each wait.
    ///
    /// # Errors
    /// Locks taken before an error are kept until the transaction ends, as in Postgres.
    pub async fn take(&mut self, hashes: &[u64], seen: Seq, timeout: Option<Duration>) -> Result<Taken, LockError> {
        let mut hashes = hashes.to_vec();
        // In one order for all: two statements over the same rows then cannot deadlock.
        hashes.sort_unstable();
        hashes.dedup();
        let mut taken = Taken::Fresh;
        for hash in hashes {
            let attempt = self.locks.table().attempt(self.owner, hash);
            match attempt {
                Attempt::Held => {}
                Attempt::Granted { changed } => {
                    self.held.push(hash);
                    if changed > seen {
                        taken = Taken::Stale;
                    }
                }
                Attempt::Wait(granted) => {
                    self.wait(hash, granted, timeout).await?;
                    taken = Taken::Stale;
                }
                Attempt::Deadlock => return Err(LockError::Deadlock),
            }
        }
        Ok(taken)
    }

    async fn wait(
        &mut self,
        hash: u64,
        granted: oneshot::Receiver<()>,
        timeout: Option<Duration>,
    ) -> Result<(), LockError> {
        let mut waiting = Waiting { holder: self, hash, granted: false };
        let outcome = match timeout {
            Some(limit) => tokio::time::timeout(limit, granted).await.ok(),
            None => Some(granted.await),
        };
        match outcome {
            // A sender that was dropped means a lost lock table: nobody can hold anything any more.
            Some(Ok(()) | Err(_)) => waiting.granted = true,
            None => return Err(LockError::Timeout),
        }
        Ok(())
    }

    /// A place to come back to with [`Holder::release_to`].
    pub fn mark(&self) -> usize {
        self.held.len()
    }

    /// Frees what was taken since, unchanged.
    pub fn release_to(&mut self, mark: usize) {
        self.free(mark, None);
    }

    /// Frees everything. `changed`: the entry that was committed with it.
    pub fn release(&mut self, changed: Option<Seq>) {
        self.free(0, changed);
    }

    fn free(&mut self, mark: usize, changed: Option<Seq>) {
        if self.held.len() > mark {
            let mut table = self.locks.table();
            for hash in self.held.drain(mark..) {
                table.free(hash, changed);
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.release(None);
    }
}

/// Leaves the queue when the waiting task is dropped or gives up; passes on a lock that was granted meanwhile.
struct Waiting<'a> {
    holder: &'a mut Holder,
    hash: u64,
    granted: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.granted {
            self.holder.held.push(self.hash);
            return;
        }
        let owner = self.holder.owner;
        let mut table = self.holder.locks.table();
        table.waiting.remove(&owner);
        let Some(lock) = table.locks.get_mut(&self.hash) else { return };
        if lock.owner == Some(owner) {
            table.free(self.hash, None);
        } else {
            lock.queue.retain(|(waiter, _)| *waiter != owner);
        }
    }
}

impl Table {
    fn attempt(&mut self, owner: Owner, hash: u64) -> Attempt {
        let forgotten = self.forgotten;
        let lock = self.locks.entry(hash).or_insert_with(|| Lock { changed: forgotten, ..Lock::default() });
        let Some(holder) = lock.owner else {
            lock.owner = Some(owner);
            return Attempt::Granted { changed: lock.changed };
        };
        if holder == owner {
            return Attempt::Held;
        }
        if self.leads_back(holder, owner) {
            return Attempt::Deadlock;
        }
        let (grant, granted) = oneshot::channel();
        if let Some(lock) = self.locks.get_mut(&hash) {
            lock.queue.push_back((owner, grant));
        }
        self.waiting.insert(owner, hash);
        Attempt::Wait(granted)
    }

    /// Whether `from` waits, over any number of others, for `target`.
    fn leads_back(&self, from: Owner, target: Owner) -> bool {
        let mut current = from;
        while let Some(next) =
            self.waiting.get(&current).and_then(|hash| self.locks.get(hash)).and_then(|lock| lock.owner)
        {
            if next == target {
                return true;
            }
            current = next;
        }
        false
    }

    fn free(&mut self, hash: u64, changed: Option<Seq>) {
        let Some(lock) = self.locks.get_mut(&hash) else { return };
        lock.owner = None;
        if let Some(seq) = changed {
            lock.changed = seq;
            self.freed.push_back((hash, seq));
        }
        while let Some((waiter, grant)) = lock.queue.pop_front() {
            self.waiting.remove(&waiter);
            if grant.send(()).is_ok() {
                lock.owner = Some(waiter);
                break;
            }
        }
        if lock.owner.is_none() && lock.changed <= self.forgotten {
            self.locks.remove(&hash);
        }
        self.forget();
    }

    fn forget(&mut self) {
        while self.freed.len() > REMEMBERED {
            let Some((hash, seq)) = self.freed.pop_front() else { return };
            self.forgotten = self.forgotten.max(seq);
            if self.locks.get(&hash).is_some_and(|lock| lock.owner.is_none() && lock.changed == seq) {
                self.locks.remove(&hash);
            }
        }
    }
}
