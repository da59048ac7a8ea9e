//! Drawing more from main.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout_at};

use super::ranges::compress;
use super::stock::{Sequence, Stock, is_now};
use super::{CATCH_UP_STEP, IdsError, Leases, PASSED_OVER_MAX, REFILL_PAUSE, lock};
use crate::buffer::LeaseBlock;
use crate::catalog::SequenceId;

impl Leases {
    pub(super) async fn wait_for_refill(
        &self,
        name: &str,
        held: &Arc<Sequence>,
        (made, wanted): (Option<SequenceId>, u64),
        deadline: Instant,
    ) -> Result<(), IdsError> {
        let refilled = held.refilled.notified();
        tokio::pin!(refilled);
        refilled.as_mut().enable();
        let exhausted = || {
            let stock = lock(&held.stock);
            IdsError::Exhausted { sequence: name.to_owned(), why: stock.last_error.clone().unwrap_or_default() }
        };
        if lock(&held.stock).has(made, wanted) {
            return Ok(());
        }
        if !self.start_refill(name, held, (made, wanted)) {
            return Err(exhausted());
        }
        timeout_at(deadline, refilled).await.map_err(|_| exhausted())
    }

    /// Whether a refill runs.
    pub(super) fn refill_if_low(&self, name: &str, held: &Arc<Sequence>, made: Option<SequenceId>) -> bool {
        let enough = lock(&held.stock).has(made, u64::from(self.shared.lease_size).div_ceil(2));
        !enough && self.start_refill(name, held, (made, 0))
    }

    /// Sees to it that a refill runs. False: main failed a moment ago to give values of this sequence; one that has been
    /// made anew since has not failed.
    fn start_refill(&self, name: &str, held: &Arc<Sequence>, wanted: (Option<SequenceId>, u64)) -> bool {
        let mut stock = lock(&held.stock);
        if stock.refilling {
            return true;
        }
        let another = |of: Option<SequenceId>| of.is_some() && wanted.0.is_some() && of != wanted.0;
        if stock.pause.is_some_and(|(until, of)| Instant::now() < until && !another(of)) {
            return false;
        }
        stock.refilling = true;
        drop(stock);
        let (leases, name, held) = (self.clone(), name.to_owned(), Arc::clone(held));
        tokio::spawn(async move { leases.refill(&name, &held, wanted).await });
        true
    }

    async fn refill(&self, name: &str, held: &Sequence, wanted: (Option<SequenceId>, u64)) {
        let result = self.lease(name, held, wanted).await;
        let mut stock = lock(&held.stock);
        stock.refilling = false;
        stock.pause = result.is_err().then(|| (Instant::now() + REFILL_PAUSE, wanted.0));
        if let Err(why) = &result {
            tracing::warn!(sequence = name, %why, remaining = stock.remaining(), "no lease");
        }
        stock.last_error = result.err();
        drop(stock);
        held.refilled.notify_waiters();
    }

    async fn lease(&self, name: &str, held: &Sequence, wanted: (Option<SequenceId>, u64)) -> Result<(), String> {
        let (made, wanted) = wanted;
        let size = wanted.max(u64::from(self.shared.lease_size)).min(u64::from(u32::MAX)) as u32;
        let (leased_to, of) = {
            let stock = lock(&held.stock);
            (stock.block.leased_to, stock.block.of)
        };
        let mut went_back = false;
        let drawn = loop {
            let asked = match leased_to {
                Some(to) => Some((self.shared.source.position(name).await?, to)),
                None => None,
            };
            let mut behind = asked.map_or(0, |(position, to)| position.behind(of, to));
            if behind > PASSED_OVER_MAX {
                return Err(format!(
                    "main's sequence is {behind} values behind what it has given to this site; move it on there with setval"
                ));
            }
            went_back |= behind > 0;
            while behind > 0 {
                // Drawn, so that main gives them to nobody else either.
                let count = behind.min(u64::from(CATCH_UP_STEP)) as u32;
                self.shared.source.lease(name, count).await?;
                behind -= u64::from(count);
            }
            let drawn = self.shared.source.lease(name, size).await?;
            // Another main may have come up since it was asked: what it gives then was given to this site before.
            let again = asked.is_some_and(|(position, to)| drawn.follows(position).behind(of, to) > 0);
            if !again {
                break drawn;
            }
            went_back = true;
        };
        let _storing = held.storing.lock().await;
        let mut block = lock(&held.stock).block.clone();
        if block.leased_to != leased_to {
            return Err("the lease was given up meanwhile".to_owned());
        }
        if went_back {
            tracing::warn!(
                sequence = name,
                "main's sequence was at an older state; what is left of its lease is given up"
            );
            block.ranges.clear();
        }
        let replaced = is_now(&mut block, drawn.of, made);
        if replaced {
            tracing::info!(sequence = name, "made anew or restarted on main; what is left of its lease is given up");
        }
        compress(&mut block.ranges, &drawn.values);
        block.leased_to = drawn.values.last().copied().or(block.leased_to);
        let given_up = |stock: &mut Stock| {
            if went_back || replaced {
                self.shared.renewals.fetch_add(1, Ordering::SeqCst);
                stock.chunk.clear();
            }
        };
        self.store(name, held, block, given_up).await.map_err(|error| error.to_string())
    }

    /// Main may have come back at an older state: sequences that are behind what they gave to this site are moved on, and
    /// what is left of their leases is given up, since others may have drawn the same values meanwhile.
    pub async fn verify(&self) {
        let all: Vec<(String, Arc<Sequence>)> =
            lock(&self.shared.sequences).iter().map(|(name, held)| (name.clone(), Arc::clone(held))).collect();
        for (name, held) in all {
            let LeaseBlock { of, leased_to: Some(leased_to), .. } = lock(&held.stock).block.clone() else { continue };
            match self.shared.source.position(&name).await {
                Ok(position) if position.behind(of, leased_to) > 0 => {
                    self.start_refill(&name, &held, (None, 0));
                }
                Ok(_) => {}
                Err(why) => tracing::debug!(sequence = name, %why, "main does not say where the sequence is"),
            }
        }
    }
}
