//! On which side a table is written: here, by transactions that are evaluated at the site, or on main, by straight ones.
//!
//! Locks on rows hold on one side only: the site's are unknown to main, and main's to the site. So open transactions of
//! both sides do not write one table at a time. A straight transaction *claims* its tables: it waits, bounded, until the
//! open transactions that have written them here are over, and keeps them until the replica has what it did. Who
//! evaluates a write here *enters* its table after evaluation, which tells what has come in between.
//!
//! **Taking in writes goes before waiting**: a claim that is not granted soon lets others pass, and where main cannot be
//! reached a claim is *overtaken*, and its transaction fails.
//!
//! Pure state under a mutex that is never held across an `await`; who waits asks again at each [`Sides::changed`].

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::catalog::TableId;
use crate::sql::Writes;

/// How long a write waits for straight transactions before it goes to main too, and for those that wait themselves before
/// it goes ahead of them.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// A count of straight transactions that are over; see [`Sides::moment`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// What a write that is to be evaluated here does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is evaluated.
    Free,
    /// It waits a little.
    Wait,
    /// It goes to main, where the others are.
    Main,
}

/// What became of entering a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    In,
    /// A straight transaction has changed the table since: what was evaluated may be untrue.
    Changed,
    /// One has it.
    Busy,
}

/// The site's tables that open transactions write; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Sides(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// How many claims there are, to be looked at without the mutex.
    claims: AtomicUsize,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    tables: HashMap<TableId, Writers>,
    /// How many straight transactions have ended that may have changed something.
    ended: Moment,
    overtaken: HashSet<Owner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Owner(u64);

#[derive(Debug, Default)]
struct Writers {
    here: Vec<(Owner, Writes)>,
    claims: Vec<Claim>,
    /// When one was over that had changed rows, and the definition.
    rows: Moment,
    definition: Moment,
}

#[derive(Debug)]
struct Claim {
    owner: Owner,
    wanted: Writes,
    /// What it has of that.
    granted: Option<Writes>,
    since: Instant,
    /// Main does not hold all the locks that the transaction has upon the table's rows: nobody else may write it there, too.
    alone: bool,
}

impl Claim {
    fn has(&self, writes: Writes) -> bool {
        self.granted.is_some_and(|granted| granted >= writes)
    }

    fn waits(&self) -> bool {
        !self.has(self.wanted)
    }

    /// Whether what it has must not be beside this.
    fn excludes(&self, writes: Writes) -> bool {
        self.granted.is_some_and(|granted| granted.disturbs(writes))
    }
}

impl Writers {
    fn way(&self, owner: Owner, writes: Writes, waited: Duration) -> Way {
        let others = self.claims.iter().filter(|claim| claim.owner != owner && claim.wanted.disturbs(writes));
        let (mut way, mut old) = (Way::Free, false);
        for claim in others {
            let (is_old, excludes) = (claim.since.elapsed().max(waited) >= PATIENCE, claim.excludes(writes));
            if excludes || !is_old {
                way = Way::Wait;
            }
            old |= excludes && is_old && !claim.alone;
        }
        if old { Way::Main } else { way }
    }

    fn changed(&self, writes: Writes) -> Moment {
        if writes == Writes::Additions { self.definition } else { self.rows.max(self.definition) }
    }
}

impl Sides {
    /// A session's place, which has the session's number. Dropping it gives up what it has.
    pub fn seat(&self, number: u64) -> Seat {
        Seat {
            owner: Owner(number),
            sides: self.clone(),
            here: Vec::new(),
            kept: Vec::new(),
            handed_over: Vec::new(),
            claimed: Vec::new(),
        }
    }

    /// To be asked before the replica takes the snapshot that a write is evaluated in.
    pub fn moment(&self) -> Moment {
        self.state().ended
    }

    /// Whether any table is claimed.
    pub fn is_claimed(&self) -> bool {
        self.0.claims.load(Ordering::Acquire) > 0
    }

    /// Ends when something may have become free: ask again then. To be made before asking.
    pub fn changed(&self) -> OwnedNotified {
        Arc::clone(&self.0.changed).notified_owned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the mutex can leave the state half changed.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one session's transaction writes.
#[derive(Debug)]
pub struct Seat {
    sides: Sides,
    owner: Owner,
    here: Vec<(TableId, Writes)>,
    /// Those with rows that were locked and perhaps not written: of these main does not hear when the rest is handed over.
    kept: Vec<TableId>,
    /// Concerned by what was written here, which is on main by now, where the transaction goes on. Its locks on rows stay until it
    /// is over.
    handed_over: Vec<TableId>,
    claimed: Vec<TableId>,
}

impl Seat {
    /// What a write of the table should do, that has `waited` for so long.
    pub fn way(&self, table: TableId, writes: Writes, waited: Duration) -> Way {
        self.sides.state().tables.get(&table).map_or(Way::Free, |writers| writers.way(self.owner, writes, waited))
    }

    /// Notes that the transaction has written the table here. `evaluated`: from before it was evaluated. `waited`: as for
    /// [`Seat::way`].
    pub fn enter(&mut self, table: TableId, writes: Writes, evaluated: Moment, waited: Duration) -> Entered {
        let is_in = self.here.iter().any(|(known, has)| *known == table && *has >= writes);
        let mut state = self.sides.state();
        let writers = state.tables.entry(table).or_default();
        if !is_in && writers.way(self.owner, writes, waited) != Way::Free {
            return Entered::Busy;
        }
        // Also of who is in: what was handed over claims nothing.
        if writers.changed(writes) > evaluated {
            return Entered::Changed;
        }
        if is_in {
            return Entered::In;
        }
        writers.here.retain(|(owner, _)| *owner != self.owner);
        writers.here.push((self.owner, writes));
        self.here.retain(|(known, _)| *known != table);
        self.here.push((table, writes));
        Entered::In
    }

    /// Notes that rows of a table it has entered are to stay as they are, whether or not it writes them.
    pub fn keep(&mut self, table: TableId) {
        if !self.kept.contains(&table) {
            self.kept.push(table);
        }
    }

    /// What has to be claimed before the rest can be handed over.
    pub fn kept(&self) -> Vec<(TableId, Writes)> {
        self.kept.iter().map(|table| (*table, Writes::Rows)).collect()
    }

    /// What the transaction has written here is on main now. `concerned`: that, and what it may have looked at or acted upon.
    pub fn hand_over(&mut self, concerned: impl FnOnce(&[TableId]) -> Vec<TableId>) {
        let written: Vec<TableId> = self.here.iter().map(|(table, _)| *table).collect();
        self.handed_over.extend(concerned(&written));
        self.leave_here();
    }

    /// Whether anything was handed over.
    pub fn has_handed_over(&self) -> bool {
        !self.handed_over.is_empty()
    }

    /// Whether these are claimed already.
    pub fn has_claimed(&self, tables: &[(TableId, Writes)]) -> bool {
        if tables.is_empty() {
            return true;
        }
        let state = self.sides.state();
        let mine = |table: &TableId, writes: &Writes| {
            let mut claims = state.tables.get(table).into_iter().flat_map(|writers| &writers.claims);
            claims.any(|claim| claim.owner == self.owner && claim.has(*writes))
        };
        tables.iter().all(|(table, writes)| mine(table, writes))
    }

    /// Claims tables for a straight statement: writes that are evaluated here wait from now on, for a while.
    /// `alone`: other straight transactions are kept away as well.
    pub fn claim(&mut self, tables: &[(TableId, Writes)], alone: bool) {
        let (now, mut new) = (Instant::now(), 0);
        let mut state = self.sides.state();
        for &(table, writes) in tables {
            let claims = &mut state.tables.entry(table).or_default().claims;
            match claims.iter_mut().find(|claim| claim.owner == self.owner) {
                Some(claim) if claim.wanted >= writes => {}
                Some(claim) => (claim.wanted, claim.since) = (writes, now),
                None => {
                    claims.push(Claim { owner: self.owner, wanted: writes, granted: None, since: now, alone });
                    self.claimed.push(table);
                    new += 1;
                }
            }
        }
        self.sides.0.claims.fetch_add(new, Ordering::AcqRel);
    }

    /// Grants the claims if nobody else has written the tables here in a transaction that is open. All or none.
    pub fn granted(&mut self) -> bool {
        let mut state = self.sides.state();
        let mine = |claim: &&mut Claim| claim.owner == self.owner;
        for table in &self.claimed {
            // Who was overtaken has them no more.
            let Some(writers) = state.tables.get(table) else { return false };
            let Some(claim) = writers.claims.iter().find(|claim| claim.owner == self.owner) else { return false };
            if !claim.waits() {
                continue;
            }
            let (writes, alone) = (claim.wanted, claim.alone);
            let here = |(owner, has): &(Owner, Writes)| *owner != self.owner && has.disturbs(writes);
            let there = |other: &Claim| other.owner != self.owner && (alone || other.alone) && other.excludes(writes);
            if writers.here.iter().any(here) || writers.claims.iter().any(there) {
                return false;
            }
        }
        let now = Instant::now();
        for table in &self.claimed {
            let claim = state.tables.get_mut(table).and_then(|writers| writers.claims.iter_mut().find(mine));
            if let Some(claim) = claim.filter(|claim| claim.waits()) {
                (claim.granted, claim.since) = (Some(claim.wanted), now);
            }
        }
        true
    }

    /// The numbers of the sessions whose transactions the claims wait for.
    pub fn waits_for(&self) -> Vec<u64> {
        let state = self.sides.state();
        let mut found = Vec::new();
        for writers in self.claimed.iter().filter_map(|table| state.tables.get(table)) {
            let mut claims = writers.claims.iter();
            let Some(claim) = claims.find(|claim| claim.owner == self.owner && claim.waits()) else { continue };
            let here = writers.here.iter().filter(|(_, has)| has.disturbs(claim.wanted)).map(|(owner, _)| *owner);
            let there =
                writers.claims.iter().filter(|other| (claim.alone || other.alone) && other.excludes(claim.wanted));
            found.extend(here.chain(there.map(|other| other.owner)).filter(|owner| *owner != self.owner));
        }
        found.into_iter().map(|owner| owner.0).collect()
    }

    /// Gives up what was claimed and not granted.
    pub fn give_up(&mut self) {
        let mut state = self.sides.state();
        for table in &self.claimed {
            let mut claims = state.tables.get_mut(table).into_iter().flat_map(|writers| &mut writers.claims);
            if let Some(claim) = claims.find(|claim| claim.owner == self.owner)
                && let Some(granted) = claim.granted
            {
                claim.wanted = granted;
            }
        }
        drop(state);
        self.unclaim(|claim| claim.granted.is_none(), None);
    }

    /// The straight transaction, or statement, is over. `changed`: it may have changed what it had claimed.
    pub fn leave_main(&mut self, changed: bool) {
        let mut state = self.sides.state();
        state.overtaken.remove(&self.owner);
        if self.claimed.is_empty() && self.handed_over.is_empty() {
            return;
        }
        let handed_over = std::mem::take(&mut self.handed_over);
        let mut ended = None;
        if changed {
            state.ended.0 += 1;
            for table in handed_over {
                let moment = state.ended;
                state.tables.entry(table).or_default().rows = moment;
            }
            ended = Some(state.ended);
        }
        drop(state);
        self.unclaim(|_| true, ended);
    }

    /// The transaction that was evaluated here is over.
    pub fn leave_here(&mut self) {
        self.kept.clear();
        if self.here.is_empty() {
            return;
        }
        let mut state = self.sides.state();
        for (table, _) in self.here.drain(..) {
            if let Some(writers) = state.tables.get_mut(&table) {
                writers.here.retain(|(owner, _)| *owner != self.owner);
            }
        }
        drop(state);
        self.sides.0.changed.notify_waiters();
    }

    /// Goes ahead of those who have claimed the table, which cannot be reached: their transactions are to fail.
    pub fn overtake(&self, table: TableId) {
        let mut state = self.sides.state();
        let claims = state.tables.get(&table).map_or(&[][..], |writers| &writers.claims);
        let others: HashSet<Owner> =
            claims.iter().map(|claim| claim.owner).filter(|owner| *owner != self.owner).collect();
        let mut gone = 0;
        for writers in state.tables.values_mut() {
            let before = writers.claims.len();
            writers.claims.retain(|claim| !others.contains(&claim.owner));
            gone += before - writers.claims.len();
        }
        state.overtaken.extend(others);
        drop(state);
        self.sides.0.claims.fetch_sub(gone, Ordering::AcqRel);
        self.sides.0.changed.notify_waiters();
    }

    /// Whether somebody has gone ahead of the straight transaction, which must then not be committed.
    pub fn is_overtaken(&self) -> bool {
        self.sides.state().overtaken.contains(&self.owner)
    }

    fn unclaim(&mut self, which: impl Fn(&Claim) -> bool, ended: Option<Moment>) {
        if self.claimed.is_empty() {
            return;
        }
        let mut gone = 0;
        let mut state = self.sides.state();
        self.claimed.retain(|table| {
            let Some(writers) = state.tables.get_mut(table) else { return false };
            let of_mine = |claim: &Claim| claim.owner == self.owner && which(claim);
            let Some(place) = writers.claims.iter().position(of_mine) else {
                return writers.claims.iter().any(|claim| claim.owner == self.owner);
            };
            let claim = writers.claims.swap_remove(place);
            gone += 1;
            if let Some((ended, granted)) = ended.zip(claim.granted) {
                match granted {
                    Writes::Definition => writers.definition = ended,
                    Writes::Rows | Writes::Additions => writers.rows = ended,
                }
            }
            false
        });
        drop(state);
        self.sides.0.claims.fetch_sub(gone, Ordering::AcqRel);
        self.sides.0.changed.notify_waiters();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave_here();
        // What a lost transaction has done is not known.
        self.leave_main(true);
    }
}
