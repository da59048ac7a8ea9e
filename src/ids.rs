//! Sequence values, leased from main in blocks: `nextval` at a site that cannot reach main.
//!
//! A value is handed out once, ever. So a block is durable in the buffer before any of its values is used, and what is
//! left of it is made durable, a chunk ahead, before the chunk is handed out: a crash loses at most a chunk per
//! sequence, as Postgres' own cached sequences do.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::buffer::{Buffer, LeaseBlock};
use crate::catalog::SequenceId;
use crate::report::Report;
use crate::sqlstate;

mod ranges;
mod refill;
pub mod source;
mod stock;
#[cfg(test)]
mod tests;

use ranges::{compress, count, split_front};
use stock::{Sequence, Stock};

/// How long `nextval` waits for main when nothing is left.
const DEMAND_WAIT: Duration = Duration::from_secs(2);
/// How long main is left alone after it failed to give a lease.
const REFILL_PAUSE: Duration = Duration::from_secs(1);
/// How many values are drawn at a time from a sequence that is behind, and how many it may be behind at most.
const CATCH_UP_STEP: u32 = 100_000;
const PASSED_OVER_MAX: u64 = 10_000_000;
/// A block is consumed in this many chunks: one durable write each.
const CHUNKS_PER_BLOCK: u64 = 100;

/// The `[ids]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdsConfig {
    /// Values per block.
    pub lease_size: u32,
}

impl Default for IdsConfig {
    fn default() -> IdsConfig {
        IdsConfig { lease_size: 10_000 }
    }
}

/// Where blocks come from: main, which draws `nextval` that many times.
pub trait LeaseSource: Send + Sync + 'static {
    /// `count` new values of a sequence (quoted and qualified name), or why not.
    fn lease<'a>(&'a self, sequence: &'a str, count: u32) -> BoxFuture<'a, Result<Drawn, String>>;

    /// Where main's sequence is.
    fn position<'a>(&'a self, sequence: &'a str) -> BoxFuture<'a, Result<Position, String>>;
}

/// New values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    pub values: Vec<i64>,
    /// Whose.
    pub of: SequenceId,
}

impl Drawn {
    /// Where the sequence was before these were drawn, if it counts as it did.
    fn follows(&self, position: Position) -> Position {
        let before = |first: &i64| first.saturating_sub(position.increment);
        Position { of: self.of, last: self.values.first().map_or(position.last, before), ..position }
    }
}

/// A sequence on main.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub of: SequenceId,
    /// The last value drawn; before the first, the one that would come before it.
    pub last: i64,
    pub increment: i64,
    /// It begins again at its end.
    pub cycles: bool,
}

impl Position {
    /// How many values it has still to give before it is past one that it has given to us; none, if it was another that
    /// gave it.
    fn behind(&self, of: Option<SequenceId>, leased_to: i64) -> u64 {
        if self.cycles || self.increment == 0 || of.is_some_and(|of| of != self.of) {
            return 0;
        }
        let missing = (i128::from(leased_to) - i128::from(self.last)) / i128::from(self.increment);
        u64::try_from(missing).unwrap_or(0)
    }
}

/// Where blocks are kept: the buffer.
pub trait LeaseStore: Send + Sync + 'static {
    /// All blocks by sequence.
    fn load(&self) -> BoxFuture<'_, Result<BTreeMap<String, LeaseBlock>, String>>;
    /// Replaces a sequence's block by a later version of it; durable when it returns.
    fn store<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> BoxFuture<'a, Result<(), String>>;
}

impl LeaseStore for Buffer {
    fn load(&self) -> BoxFuture<'_, Result<BTreeMap<String, LeaseBlock>, String>> {
        Box::pin(async move { self.leases().await.map_err(|error| error.to_string()) })
    }

    fn store<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.store_lease(sequence, block).await.map_err(|error| error.to_string()) })
    }
}

/// All leases of a site; a handle, cheap to clone.
#[derive(Clone)]
pub struct Leases {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leases").field("remaining", &self.remaining()).finish()
    }
}

struct Shared {
    store: Box<dyn LeaseStore>,
    source: Box<dyn LeaseSource>,
    lease_size: u32,
    sequences: Mutex<HashMap<String, Arc<Sequence>>>,
    /// How many leases have been given up.
    renewals: AtomicU64,
}

impl Leases {
    /// Loads what is left of earlier leases.
    ///
    /// # Errors
    /// [`IdsError::Store`] when the buffer does not answer.
    pub async fn open(config: IdsConfig, store: impl LeaseStore, source: impl LeaseSource) -> Result<Leases, IdsError> {
        let blocks = store.load().await.map_err(IdsError::Store)?;
        let sequence = |block: LeaseBlock| {
            let version_tried = block.version;
            Arc::new(Sequence {
                stock: Mutex::new(Stock { block, version_tried, ..Stock::default() }),
                ..Sequence::default()
            })
        };
        let sequences = blocks.into_iter().map(|(name, block)| (name, sequence(block))).collect();
        let shared = Shared {
            store: Box::new(store),
            source: Box::new(source),
            lease_size: config.lease_size.max(1),
            sequences: Mutex::new(sequences),
            renewals: AtomicU64::new(0),
        };
        Ok(Leases { shared: Arc::new(shared) })
    }

    /// Leases blocks ahead for sequences that may be needed when main is away. One after the other: whoever needs values
    /// at once waits for one of these leases at most, not for those of hundreds of new tables.
    pub async fn prepare(&self, sequences: Vec<(Arc<str>, SequenceId)>) {
        for (name, made) in sequences {
            let held = self.sequence(&name);
            let refilled = held.refilled.notified();
            tokio::pin!(refilled);
            refilled.as_mut().enable();
            if self.refill_if_low(&name, &held, Some(made)) {
                refilled.await;
            }
        }
    }

    /// `count` values that nobody else gets, in the order main gave them. Waits for main, up to two seconds, only when
    /// nothing is left. `made`: the sequence that the catalog of now has by this name.
    ///
    /// # Errors
    /// [`IdsError::Exhausted`], [`IdsError::Store`]; no value is handed out then.
    pub async fn take(&self, sequence: &str, made: Option<SequenceId>, wanted: usize) -> Result<Vec<i64>, IdsError> {
        let deadline = Instant::now() + DEMAND_WAIT;
        let held = self.sequence(sequence);
        let wanted = wanted as u64;
        loop {
            if let Some(values) = held.take_from_chunk(made, wanted) {
                self.refill_if_low(sequence, &held, made);
                return Ok(values);
            }
            if self.consume_chunk(sequence, &held, (made, wanted)).await? {
                continue;
            }
            self.wait_for_refill(sequence, &held, (made, wanted), deadline).await?;
        }
    }

    /// Counts leases that were given up: what was taken before must not come back.
    pub fn renewals(&self) -> u64 {
        self.shared.renewals.load(Ordering::SeqCst)
    }

    /// Takes back values that nobody has seen, the next ones to be handed out. `renewals`: as it was when they were taken.
    pub fn give_back(&self, sequence: &str, values: &[i64], renewals: u64) {
        if values.is_empty() {
            return;
        }
        let held = self.sequence(sequence);
        let mut ranges = Vec::new();
        compress(&mut ranges, values);
        let mut stock = lock(&held.stock);
        if self.renewals() != renewals {
            return;
        }
        for range in ranges.into_iter().rev() {
            stock.chunk.push_front(range);
        }
    }

    /// Gives up what is left of a sequence's lease, after main's sequence was set to another place, and asks for a new one.
    ///
    /// # Errors
    /// [`IdsError::Store`]: the lease is kept then.
    pub async fn renew(&self, sequence: &str) -> Result<(), IdsError> {
        let held = self.sequence(sequence);
        let storing = held.storing.lock().await;
        let mut block = lock(&held.stock).block.clone();
        block.ranges.clear();
        block.leased_to = None;
        let given_up = |stock: &mut Stock| {
            self.shared.renewals.fetch_add(1, Ordering::SeqCst);
            stock.chunk.clear();
            stock.pause = None;
        };
        self.store(sequence, &held, block, given_up).await?;
        drop(storing);
        self.refill_if_low(sequence, &held, None);
        Ok(())
    }

    /// How many values are left, by sequence: for metrics and the console.
    pub fn remaining(&self) -> BTreeMap<String, u64> {
        let sequences = lock(&self.shared.sequences);
        sequences.iter().map(|(name, held)| (name.clone(), lock(&held.stock).remaining())).collect()
    }

    fn sequence(&self, name: &str) -> Arc<Sequence> {
        let mut sequences = lock(&self.shared.sequences);
        if let Some(held) = sequences.get(name) {
            return Arc::clone(held);
        }
        Arc::clone(sequences.entry(name.to_owned()).or_default())
    }

    /// Moves the next chunk from the block to the hand-out, durably. False: the block has not enough.
    async fn consume_chunk(
        &self,
        name: &str,
        held: &Sequence,
        (made, wanted): (Option<SequenceId>, u64),
    ) -> Result<bool, IdsError> {
        let _storing = held.storing.lock().await;
        let (mut block, missing) = {
            let stock = lock(&held.stock);
            if !stock.is_of(made) {
                return Ok(false);
            }
            (stock.block.clone(), wanted.saturating_sub(count(&stock.chunk)))
        };
        if missing == 0 {
            return Ok(true);
        }
        let left = count(&block.ranges);
        if left < missing {
            return Ok(false);
        }
        let usual = (u64::from(self.shared.lease_size) / CHUNKS_PER_BLOCK).max(1);
        let chunk = split_front(&mut block.ranges, missing.max(usual).min(left));
        self.store(name, held, block, |stock| stock.chunk.extend(chunk)).await?;
        Ok(true)
    }

    /// Makes a changed block durable, then current, together with what else changes then: nobody may take of a chunk that
    /// does not belong to the block. The caller holds `storing`.
    async fn store(
        &self,
        name: &str,
        held: &Sequence,
        mut block: LeaseBlock,
        with: impl FnOnce(&mut Stock),
    ) -> Result<(), IdsError> {
        block.version = {
            let mut stock = lock(&held.stock);
            stock.version_tried += 1;
            stock.version_tried
        };
        self.shared.store.store(name, &block).await.map_err(IdsError::Store)?;
        let mut stock = lock(&held.stock);
        stock.block = block;
        with(&mut stock);
        Ok(())
    }
}

/// Why there are no values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdsError {
    #[error("the lease of sequence {sequence} is used up")]
    Exhausted { sequence: String, why: String },
    #[error("the buffer cannot keep leases: {0}")]
    Store(String),
}

impl IdsError {
    /// What the client is told.
    pub fn report(&self) -> Report {
        match self {
            IdsError::Exhausted { why, .. } => {
                let report = Report::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, self.to_string())
                    .hint("New values come from the main database when it can be reached. A larger [ids] lease_size lasts longer.");
                if why.is_empty() { report } else { report.detail(why.clone()) }
            }
            IdsError::Store(_) => Report::new(sqlstate::CANNOT_CONNECT_NOW, self.to_string()),
        }
    }
}

/// A panic cannot leave these values half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
