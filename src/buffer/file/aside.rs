//! What stands beside the entries: quarantine, leases and which main, each in small files that are replaced as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::disk;
use crate::buffer::log::{LeaseBlock, LogError, Quarantined};
use crate::cluster::MainRecord;
use crate::entry::Seq;

pub(super) fn put(folder: &Path, quarantined: &Quarantined) -> Result<(), LogError> {
    disk::make_folder(&folder.join("quarantine"))?;
    keep(folder, &place(folder, quarantined.seq), quarantined)
}

pub(super) fn index(folder: &Path) -> Result<Vec<(Seq, u64)>, LogError> {
    let mut index = Vec::new();
    for name in disk::names(&folder.join("quarantine"))? {
        if let Ok(seq) = name.parse().map(Seq)
            && let Some(bytes) = disk::size(&place(folder, seq))?
        {
            index.push((seq, bytes));
        }
    }
    Ok(index)
}

pub(super) fn of(folder: &Path, seqs: &[Seq]) -> Result<Vec<Quarantined>, LogError> {
    seqs.iter().filter_map(|seq| kept(&place(folder, *seq)).transpose()).collect()
}

pub(super) fn release(folder: &Path, seq: Seq) -> Result<(), LogError> {
    Ok(disk::remove(&place(folder, seq))?)
}

pub(super) fn leases(folder: &Path) -> Result<BTreeMap<String, LeaseBlock>, LogError> {
    Ok(kept(&folder.join("leases"))?.unwrap_or_default())
}

/// A late write never replaces a newer one.
pub(super) fn store_lease(folder: &Path, sequence: String, block: LeaseBlock) -> Result<(), LogError> {
    let mut all = leases(folder)?;
    match all.get(&sequence) {
        Some(there) if *there == block => return Ok(()),
        Some(there) if there.version >= block.version => return Err(LogError::Conflict(Seq::ZERO)),
        Some(_) | None => {}
    }
    all.insert(sequence, block);
    keep(folder, &folder.join("leases"), &all)
}

pub(super) fn main_record(folder: &Path) -> Result<Option<MainRecord>, LogError> {
    kept(&folder.join("main"))
}

pub(super) fn store_main_record(folder: &Path, record: &MainRecord) -> Result<(), LogError> {
    keep(folder, &folder.join("main"), record)
}

/// Names sort as numbers do.
fn place(folder: &Path, seq: Seq) -> PathBuf {
    folder.join("quarantine").join(format!("{:020}", seq.0))
}

/// On the reserve when the disk is full, which is filled again as soon as there is room.
fn keep(folder: &Path, path: &Path, value: &impl Serialize) -> Result<(), LogError> {
    let json = serde_json::to_string(value).map_err(|error| LogError::Corrupt(error.to_string()))?;
    disk::replace_urgently(path, &json, &folder.join(disk::RESERVE_ASIDE))?;
    disk::keep_reserve(folder, disk::RESERVE);
    disk::keep_reserve(folder, disk::RESERVE_ASIDE);
    Ok(())
}

fn kept<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LogError> {
    let Some(json) = disk::recall(path)? else { return Ok(None) };
    let read = serde_json::from_str(&json);
    read.map(Some).map_err(|error| LogError::Corrupt(format!("{}: {error}", path.display())))
}
