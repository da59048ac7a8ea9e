//! What an evaluation says is to be locked.

use std::collections::HashSet;

use bytes::Bytes;

use super::super::truncate::table_lock;
use super::decode::acts;
use super::{Lock, Output, WritePlan};

pub(super) fn locks(plan: &WritePlan, rows: &[Vec<Option<Bytes>>]) -> Vec<Lock> {
    let of_row = |row: &Vec<Option<Bytes>>| -> Vec<Lock> { plan.outputs.iter().zip(row).filter_map(lock_of).collect() };
    let mut locks: Vec<Lock> = rows.iter().flat_map(of_row).collect();
    if !rows.is_empty() {
        locks.push(table_lock(plan.target.id, true));
    }
    locks
}

/// The hashes of what is changed, of [`locks`].
pub(super) fn written(plan: &WritePlan, rows: &[Vec<Option<Bytes>>]) -> HashSet<u64> {
    let mut written = HashSet::new();
    for row in rows.iter().filter(|row| acts(plan, row)) {
        let changed = plan.outputs.iter().zip(row).filter(|(output, _)| **output != Output::PassingLock);
        written.extend(changed.filter_map(lock_of).map(|lock| lock.hash));
    }
    if !written.is_empty() {
        written.insert(table_lock(plan.target.id, true).hash);
    }
    written
}

/// What an output says is to be locked.
pub(super) fn lock_of((output, value): (&Output, &Option<Bytes>)) -> Option<Lock> {
    let shared = match output {
        Output::Lock => false,
        Output::SharedLock | Output::PassingLock => true,
        _ => return None,
    };
    let hash = std::str::from_utf8(value.as_ref()?).ok()?.parse::<i64>().ok()?;
    Some(Lock { hash: hash as u64, shared })
}

/// What is locked for the judgement only.
pub(super) fn passing(plan: &WritePlan, rows: &[Vec<Option<Bytes>>]) -> Vec<u64> {
    let (mut passing, mut lasting) = (Vec::new(), HashSet::new());
    for (output, value) in rows.iter().flat_map(|row| plan.outputs.iter().zip(row)) {
        let Some(lock) = lock_of((output, value)) else { continue };
        match output {
            Output::PassingLock => passing.push(lock.hash),
            _ => drop(lasting.insert(lock.hash)),
        }
    }
    passing.retain(|hash| !lasting.contains(hash));
    passing
}
