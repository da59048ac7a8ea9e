//! One sequence's lease: what is in the store, what may be handed out, and which sequence of main it is of.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;
use super::ranges::{self, count, split_front};
use crate::buffer::{LeaseBlock, LeaseRange};
use crate::catalog::SequenceId;
use crate::sabotage::{self, Sabotage};

/// How many former sequences of a name are remembered.
const BEFORE_MAX: usize = 8;

/// One sequence.
#[derive(Default)]
pub(super) struct Sequence {
    pub(super) stock: Mutex<Stock>,
    /// Held while the block is changed in the store, so that versions follow each other.
    pub(super) storing: tokio::sync::Mutex<()>,
    /// Wakes those who wait for a refill, whether it succeeded or not.
    pub(super) refilled: Notify,
}

#[derive(Default)]
pub(super) struct Stock {
    /// Durably consumed already: may be handed out.
    pub(super) chunk: VecDeque<LeaseRange>,
    /// As it is in the store.
    pub(super) block: LeaseBlock,
    /// The last version that was tried: a write that got no answer may have been stored.
    pub(super) version_tried: u64,
    pub(super) refilling: bool,
    /// No refill before this moment, of that sequence.
    pub(super) pause: Option<(Instant, Option<SequenceId>)>,
    pub(super) last_error: Option<String>,
}

impl Stock {
    pub(super) fn remaining(&self) -> u64 {
        count(&self.chunk) + count(&self.block.ranges)
    }

    pub(super) fn has(&self, made: Option<SequenceId>, wanted: u64) -> bool {
        self.is_of(made) && self.remaining() >= wanted
    }

    /// Whether these are values of that sequence, or of one that has come after it. Otherwise the sequence was dropped and
    /// made again, or restarted, since they were leased, and they would be another's.
    pub(super) fn is_of(&self, made: Option<SequenceId>) -> bool {
        match (self.block.of, made) {
            (Some(of), Some(made)) => of == made || self.block.before.contains(&made),
            // Of a lease of an earlier version nothing more is known than its name.
            _ => true,
        }
    }
}

/// Main has said that the sequence of the lease is `now`; `made` is what the catalog, which may be older, said it was.
/// True: it was another one, and what is left of that is given up.
pub(super) fn is_now(block: &mut LeaseBlock, now: SequenceId, made: Option<SequenceId>) -> bool {
    let replaced = block.of.filter(|of| *of != now);
    if replaced.is_some() {
        block.ranges.clear();
        block.leased_to = None;
    }
    block.of = Some(now);
    for former in replaced.into_iter().chain(made).chain([now]) {
        block.before.retain(|before| *before != former);
        block.before.push(former);
    }
    block.before.pop();
    let forgotten = block.before.len().saturating_sub(BEFORE_MAX);
    block.before.drain(..forgotten);
    replaced.is_some()
}

impl Sequence {
    pub(super) fn take_from_chunk(&self, made: Option<SequenceId>, wanted: u64) -> Option<Vec<i64>> {
        let mut stock = lock(&self.stock);
        if !stock.is_of(made) || count(&stock.chunk) < wanted {
            return None;
        }
        let mut ranges: Vec<LeaseRange> = std::mem::take(&mut stock.chunk).into();
        let before = ranges.clone();
        let taken = split_front(&mut ranges, wanted);
        stock.chunk = if sabotage::on(Sabotage::Lease) { before } else { ranges }.into();
        Some(taken.iter().flat_map(|range| ranges::values(*range)).collect())
    }
}
