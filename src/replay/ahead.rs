//! What replay has read of the buffer: from the last entry that main has answered for up to some that are still to be sent.
//! So a large backlog is read once, though little of it goes into each transaction, and what failed is not read again.
//!
//! Under its number an entry never changes, so nothing here is out of date. Whether it is in quarantine is asked when it is
//! sent.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Ending;
use crate::buffer::{Buffer, BufferError};
use crate::entry::{Effect, Entry, Seq, Value};

/// A transaction on main, unless one entry alone is larger.
const GROUP_BYTES: usize = 1 << 20;
/// How many entries are read at a time, if they are small.
const READ: usize = 256;

/// Consecutive entries.
#[derive(Debug, Default)]
pub(super) struct Ahead(VecDeque<Arc<Entry>>);

impl Ahead {
    /// What one transaction takes of the entries after `sent`, `limit` of them at most, and about how many bytes that is.
    pub(super) async fn group(
        &mut self,
        buffer: &Buffer,
        sent: Seq,
        limit: usize,
    ) -> Result<(Vec<Arc<Entry>>, usize), Ending> {
        let (mut group, mut bytes, mut next) = (Vec::new(), 0, sent.next());
        while group.len() < limit && (group.is_empty() || bytes < GROUP_BYTES) {
            if self.get(next).is_none() {
                match self.read(buffer, next).await {
                    Err(ending) if group.is_empty() => return Err(ending),
                    // What is there goes first.
                    Err(_) | Ok(()) => {}
                }
            }
            let Some(entry) = self.get(next) else { break };
            bytes += weight(entry);
            group.push(Arc::clone(entry));
            next = next.next();
        }
        Ok((group, bytes))
    }

    /// One entry, wherever it is.
    pub(super) async fn entry(&self, buffer: &Buffer, seq: Seq) -> Result<Option<Arc<Entry>>, BufferError> {
        let Some(before) = seq.0.checked_sub(1).map(Seq) else { return Ok(None) };
        if let Some(entry) = self.get(seq) {
            return Ok(Some(Arc::clone(entry)));
        }
        Ok(buffer.read(before, 1).await?.pop().filter(|entry| entry.seq == seq))
    }

    /// Main has the entries up to this one. It stays itself: main's ledger names it.
    pub(super) fn forget_before(&mut self, seq: Seq) {
        while self.0.front().is_some_and(|entry| entry.seq < seq) {
            self.0.pop_front();
        }
    }

    fn get(&self, seq: Seq) -> Option<&Arc<Entry>> {
        let place = seq.0.checked_sub(self.0.front()?.seq.0)?;
        self.0.get(usize::try_from(place).ok()?)
    }

    /// Reads on, from an entry that is not here.
    async fn read(&mut self, buffer: &Buffer, next: Seq) -> Result<(), Ending> {
        let read = buffer.read(Seq(next.0.saturating_sub(1)), READ).await;
        let read = read.map_err(|error| Ending::Refused(error.to_string()))?;
        let Some(first) = read.first() else { return Ok(()) };
        if first.seq != next {
            return Err(Ending::Halted(format!("entry {next} is not in the buffer any more")));
        }
        // Replay went back, or further on than it had read.
        if self.0.back().is_some_and(|last| last.seq.next() != next) {
            self.0.clear();
        }
        for entry in read {
            // What comes after a gap is asked for when it is next.
            if self.0.back().is_some_and(|last| last.seq.next() != entry.seq) {
                break;
            }
            self.0.push_back(entry);
        }
        Ok(())
    }
}

/// About how many bytes an entry's values take.
fn weight(entry: &Entry) -> usize {
    let text = |value: &Value| value.as_ref().map_or(1, |text| text.len()) + 8;
    let effect = |effect: &Effect| match effect {
        Effect::Insert { row, .. } => row.iter().map(text).sum::<usize>(),
        Effect::Update { key, set, .. } | Effect::Move { key, set, .. } => {
            key.iter().map(text).sum::<usize>() + set.iter().map(|(_, value)| text(value)).sum::<usize>()
        }
        Effect::Delete { key, .. } => key.iter().map(text).sum(),
        Effect::Truncate { .. } => 0,
    };
    200 + entry.effects.iter().map(|one| effect(one) + 50).sum::<usize>()
}

#[cfg(test)]
mod tests;
