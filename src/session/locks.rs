//! Locks on rows and unique values that open transactions have written, by hash.
//!
//! Two clients of the site that write the same row serialize as in Postgres: the second waits until the first has ended.
//! Locks are granted first come, first served; a cycle of waiting sessions is found when it would close. Shared locks
//! are for what a row needs to stay (its parents): any number of sessions hold one, and who wants it gone waits.
//! A lock remembers, after it is free, which entry last changed what it stands for: so a session can tell, once it holds
//! the lock, whether what it evaluated is still true. What was only locked has not been changed. Two things with one hash merely wait for each other needlessly.
//!
//! Never held across anything: the table's mutex is taken for a few map operations, and no `await` is under it.

mod elsewhere;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::entry::Seq;
use crate::report::Report;
use crate::sql::{Busy, Lock as Wanted};
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
    /// For whom sessions wait that wait for no lock.
    elsewhere: HashMap<Owner, Vec<Owner>>,
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
    owners: SmallVec<[Owner; 1]>,
    /// Held by any number of owners who only want it to stay.
    shared: bool,
    queue: VecDeque<Waiter>,
    /// The newest entry of an exclusive owner, and of a shared one.
    changed: Seq,
    relied_upon: Seq,
}

#[derive(Debug)]
struct Waiter {
    owner: Owner,
    shared: bool,
    grant: oneshot::Sender<()>,
}

impl Lock {
    /// The newest entry that matters to who takes the lock now: sharers do not disturb each other.
    fn disturbed(&self, shared: bool) -> Seq {
        if shared { self.changed } else { self.changed.max(self.relied_upon) }
    }

    fn is_idle(&self) -> bool {
        self.owners.is_empty() && self.queue.is_empty()
    }

    fn newest(&self) -> Seq {
        self.changed.max(self.relied_upon)
    }

    fn admits(&self, owner: Owner, shared: bool) -> bool {
        match self.owners.as_slice() {
            [] => true,
            [only] if *only == owner => true,
            _ => shared && self.shared,
        }
    }

    fn enter(&mut self, owner: Owner, shared: bool) {
        if !self.owners.contains(&owner) {
            self.owners.push(owner);
            self.shared = shared;
        }
        self.shared &= shared;
    }
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
        Holder { owner: Owner(table.last_owner), locks: self.clone(), held: Vec::new(), stale: Vec::new() }
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
    /// In the order they were taken; twice, when a shared lock became exclusive, or what was only read is written.
    held: Vec<Held>,
    stale: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    hash: u64,
    /// Taken by a write: when the transaction commits, it has changed what the lock stands for.
    written: bool,
}

/// A lock that others hold was not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

enum Attempt {
    Held,
    Granted { changed: Seq },
    Wait(oneshot::Receiver<()>),
    Deadlock,
}

impl Holder {
    /// Takes these locks, waiting where others hold them. `seen`: the newest entry in the state that the caller
    /// evaluated; what was changed later is [`Taken::Stale`]. `timeout`: for each wait.
    ///
    /// # Errors
    /// Locks taken before an error are kept until the transaction ends, as in Postgres.
    pub async fn take(&mut self, wanted: &[Wanted], seen: Seq, timeout: Option<Duration>) -> Result<Taken, LockError> {
        self.take_all(wanted, seen, timeout, true).await
    }

    /// The same for rows that are only read (`FOR UPDATE`), or judged: they do not count as changed afterwards, unless
    /// [`Holder::wrote`] says so.
    ///
    /// # Errors
    /// As [`Holder::take`].
    pub async fn take_read(
        &mut self,
        wanted: &[Wanted],
        seen: Seq,
        timeout: Option<Duration>,
    ) -> Result<Taken, LockError> {
        self.take_all(wanted, seen, timeout, false).await
    }

    /// Takes a lock for a row that is only read, if that can be had at once.
    ///
    /// # Errors
    /// Somebody has it, or waits for it.
    pub fn try_read(&mut self, wanted: Wanted, seen: Seq) -> Result<Taken, Unavailable> {
        let attempt = self.locks.table().attempt_now(self.owner, wanted.hash, wanted.shared);
        match attempt {
            Some(Attempt::Held) => Ok(Taken::Fresh),
            Some(Attempt::Granted { changed }) => {
                self.held.push(Held { hash: wanted.hash, written: false });
                Ok(if changed > seen { Taken::Stale } else { Taken::Fresh })
            }
            Some(Attempt::Wait(_) | Attempt::Deadlock) | None => Err(Unavailable),
        }
    }

    /// What others have locked.
    pub fn busy(&self) -> Busy {
        let table = self.locks.table();
        let others = |lock: &&Lock| lock.owners.iter().any(|owner| *owner != self.owner);
        let locked = table.locks.iter().filter(|(_, lock)| others(lock) || !lock.queue.is_empty());
        let mut busy = Busy::default();
        for (hash, lock) in locked {
            busy.all.push(*hash);
            if !lock.shared || !lock.queue.is_empty() {
                busy.exclusive.push(*hash);
            }
        }
        busy
    }

    async fn take_all(
        &mut self,
        wanted: &[Wanted],
        seen: Seq,
        timeout: Option<Duration>,
        written: bool,
    ) -> Result<Taken, LockError> {
        let mut wanted = wanted.to_vec();
        // In one order for all: two statements over the same rows then cannot deadlock.
        wanted.sort_unstable();
        wanted.dedup_by_key(|lock| lock.hash);
        self.stale.clear();
        for Wanted { hash, shared } in wanted {
            let attempt = self.locks.table().attempt(self.owner, hash, shared);
            match attempt {
                Attempt::Held => {
                    if written && !self.held.iter().any(|held| held.hash == hash && held.written) {
                        self.held.push(Held { hash, written });
                    }
                }
                Attempt::Granted { changed } => {
                    self.held.push(Held { hash, written });
                    if changed > seen {
                        self.stale.push(hash);
                    }
                }
                Attempt::Wait(granted) => {
                    self.wait(Held { hash, written }, granted, timeout).await?;
                    // Who was waited for may have rolled back.
                    if self.locks.table().disturbed(hash, shared) > seen {
                        self.stale.push(hash);
                    }
                }
                Attempt::Deadlock => return Err(LockError::Deadlock),
            }
        }
        Ok(if self.stale.is_empty() { Taken::Fresh } else { Taken::Stale })
    }

    /// Says which of the locks stand for what the statement has changed. `mark`: from before it took any.
    pub fn wrote(&mut self, mark: usize, mut hashes: HashSet<u64>) {
        let mark = mark.min(self.held.len());
        for held in &mut self.held[mark..] {
            held.written |= hashes.remove(&held.hash);
        }
        if hashes.is_empty() {
            return;
        }
        // Held before the statement: kept, but unchanged, when it is undone.
        for held in self.held.iter().filter(|held| held.written) {
            hashes.remove(&held.hash);
        }
        self.held.extend(hashes.into_iter().map(|hash| Held { hash, written: true }));
    }

    /// What had been changed, of the locks that were taken last.
    pub fn stale(&self) -> &[u64] {
        &self.stale
    }

    async fn wait(
        &mut self,
        wanted: Held,
        granted: oneshot::Receiver<()>,
        timeout: Option<Duration>,
    ) -> Result<(), LockError> {
        let mut waiting = Waiting { holder: self, wanted, granted: false };
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

    /// Frees those of these that were taken since the mark, unchanged.
    pub fn pass(&mut self, mark: usize, hashes: &[u64]) {
        if hashes.is_empty() || self.held.len() <= mark {
            return;
        }
        let since = self.held.split_off(mark);
        let (passed, kept): (Vec<Held>, Vec<Held>) = since.into_iter().partition(|held| hashes.contains(&held.hash));
        self.held.extend(kept);
        let mark = self.held.len();
        self.held.extend(passed);
        self.free(mark, None);
    }

    /// Frees everything. `changed`: the entry that was committed with it.
    pub fn release(&mut self, changed: Option<Seq>) {
        self.free(0, changed);
    }

    fn free(&mut self, mark: usize, changed: Option<Seq>) {
        if self.held.len() <= mark {
            return;
        }
        let freed = self.held.split_off(mark);
        let kept: HashSet<u64> = self.held.iter().map(|held| held.hash).collect();
        let written: HashSet<u64> = freed.iter().filter(|held| held.written).map(|held| held.hash).collect();
        let mut table = self.locks.table();
        for Held { hash, .. } in freed.into_iter().filter(|held| !kept.contains(&held.hash)) {
            table.free(self.owner, hash, changed.filter(|_| written.contains(&hash)));
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
    wanted: Held,
    granted: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.granted {
            self.holder.held.push(self.wanted);
            return;
        }
        let owner = self.holder.owner;
        let hash = self.wanted.hash;
        let had_it = self.holder.held.iter().any(|held| held.hash == hash);
        let mut table = self.holder.locks.table();
        table.waiting.remove(&owner);
        let Some(lock) = table.locks.get_mut(&hash) else { return };
        lock.queue.retain(|waiter| waiter.owner != owner);
        if had_it {
            // Those behind it may be let in now.
            table.admit(hash);
        } else {
            table.free(owner, hash, None);
        }
    }
}

impl Table {
    fn attempt(&mut self, owner: Owner, hash: u64, shared: bool) -> Attempt {
        self.attempt_now(owner, hash, shared).unwrap_or_else(|| self.queue(owner, hash, shared))
    }

    /// `None`: it has to be waited for.
    fn attempt_now(&mut self, owner: Owner, hash: u64, shared: bool) -> Option<Attempt> {
        let forgotten = self.forgotten;
        let lock = self.locks.entry(hash).or_insert_with(|| Lock { changed: forgotten, ..Lock::default() });
        let mine = lock.owners.contains(&owner);
        if mine && (shared || !lock.shared) {
            return Some(Attempt::Held);
        }
        if lock.admits(owner, shared) && (mine || lock.queue.is_empty()) {
            lock.enter(owner, shared);
            return Some(Attempt::Granted { changed: lock.disturbed(shared) });
        }
        None
    }

    fn queue(&mut self, owner: Owner, hash: u64, shared: bool) -> Attempt {
        if self.leads_back(hash, owner) {
            return Attempt::Deadlock;
        }
        let mine = self.locks.get(&hash).is_some_and(|lock| lock.owners.contains(&owner));
        let (grant, granted) = oneshot::channel();
        if let Some(lock) = self.locks.get_mut(&hash) {
            let waiter = Waiter { owner, shared, grant };
            // Who has a share already must not wait behind those who wait for it.
            if mine { lock.queue.push_front(waiter) } else { lock.queue.push_back(waiter) }
        }
        self.waiting.insert(owner, hash);
        Attempt::Wait(granted)
    }

    fn disturbed(&self, hash: u64, shared: bool) -> Seq {
        self.locks.get(&hash).map_or(self.forgotten, |lock| lock.disturbed(shared))
    }

    fn free(&mut self, owner: Owner, hash: u64, changed: Option<Seq>) {
        let Some(lock) = self.locks.get_mut(&hash) else { return };
        if let Some(place) = lock.owners.iter().position(|known| *known == owner) {
            lock.owners.swap_remove(place);
            if let Some(seq) = changed {
                let newest = if lock.shared { &mut lock.relied_upon } else { &mut lock.changed };
                *newest = seq.max(*newest);
                self.freed.push_back((hash, seq));
            }
        }
        self.admit(hash);
        if self.locks.get(&hash).is_some_and(|lock| lock.is_idle() && lock.newest() <= self.forgotten) {
            self.locks.remove(&hash);
        }
        self.forget();
    }

    /// Lets in who can be let in, in their order.
    fn admit(&mut self, hash: u64) {
        let Some(lock) = self.locks.get_mut(&hash) else { return };
        while let Some(waiter) = lock.queue.front()
            && lock.admits(waiter.owner, waiter.shared)
            && let Some(waiter) = lock.queue.pop_front()
        {
            self.waiting.remove(&waiter.owner);
            if waiter.grant.send(()).is_ok() {
                lock.enter(waiter.owner, waiter.shared);
            }
        }
    }

    fn forget(&mut self) {
        while self.freed.len() > REMEMBERED {
            let Some((hash, seq)) = self.freed.pop_front() else { return };
            self.forgotten = self.forgotten.max(seq);
            let idle = |lock: &Lock| lock.is_idle() && lock.newest() == seq;
            if self.locks.get(&hash).is_some_and(idle) {
                self.locks.remove(&hash);
            }
        }
    }
}
