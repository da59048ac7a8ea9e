//! A disk that forgets what was not synced when the power goes, for the simulation: the rest is the real log on real files. Per
//! thread; not in a release build.
//!
//! Every change notes how it is undone; an fsync makes it forget that. When the power goes, of what is noted some stays, some is
//! undone, and of some writes only sectors are.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk::{DiskError, Outcome};

/// The unit in which a disk writes all or nothing.
const SECTOR: u64 = 512;

thread_local! {
    static POWER: RefCell<Option<Power>> = const { RefCell::new(None) };
}

#[derive(Debug, Default)]
struct Power {
    changes: Vec<Change>,
    calls_left: Option<usize>,
    forgetful: bool,
}

/// What is not on the disk yet, and what is there instead.
#[derive(Debug)]
enum Change {
    Contents {
        path: PathBuf,
        at: u64,
        before: Vec<u8>,
        after: u64,
        len: u64,
    },
    /// A file that was made, replaced or removed.
    Name {
        path: PathBuf,
        before: Option<Vec<u8>>,
    },
}

/// From now on in this thread. `forgetful`: fsync does nothing, and says that it has.
pub fn simulate(forgetful: bool) {
    POWER.set(Some(Power { forgetful, ..Power::default() }));
}

/// The thread's disk is a real one again.
pub fn stop() {
    POWER.set(None);
}

/// The machine stops at the change after so many.
pub fn fails_after(calls: usize) {
    with(|power| power.calls_left = Some(calls));
}

/// It does not stop after all.
pub fn holds() {
    with(|power| power.calls_left = None);
}

/// Whether it has stopped.
pub fn is_gone() -> bool {
    with(|power| power.calls_left == Some(0)).unwrap_or(false)
}

/// The power goes and comes back. `below(n)`: a number less than `n`. Gives how many changes were lost in part or whole.
pub fn lose(below: impl Fn(usize) -> usize) -> usize {
    let changes = with(|power| {
        power.calls_left = None;
        std::mem::take(&mut power.changes)
    });
    changes.unwrap_or_default().into_iter().rev().filter(|change| change.undo(&below)).count()
}

impl Change {
    fn undo(&self, below: &impl Fn(usize) -> usize) -> bool {
        // Whoever cannot be opened any more was lost as a whole.
        match self {
            Change::Name { path, before } => {
                let lost = below(2) == 0;
                if lost {
                    match before {
                        Some(bytes) => drop(std::fs::write(path, bytes)),
                        None => drop(std::fs::remove_file(path)),
                    }
                }
                lost
            }
            Change::Contents { path, at, before, after, len } => {
                let Ok(file) = OpenOptions::new().write(true).open(path) else { return true };
                match below(3) {
                    0 => return false,
                    1 => {
                        drop(file.write_all_at(before, *at));
                        drop(file.set_len(*len));
                    }
                    _ => {
                        let mut sector = *at;
                        while sector < *after {
                            let next = ((sector / SECTOR + 1) * SECTOR).min(*after);
                            if below(2) == 0 {
                                let part: Vec<u8> = (sector..next)
                                    .map(|place| before.get((place - at) as usize).copied().unwrap_or(0))
                                    .collect();
                                drop(file.write_all_at(&part, sector));
                            }
                            sector = next;
                        }
                    }
                }
                true
            }
        }
    }
}

pub(super) fn is_simulated() -> bool {
    POWER.with_borrow(Option::is_some)
}

/// Before each change.
pub(super) fn call(path: &Path) -> Outcome<()> {
    let gone = with(|power| match &mut power.calls_left {
        Some(0) => true,
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    });
    match gone {
        Some(true) => Err(DiskError::Unknown(format!("{}: the machine has stopped", path.display()))),
        Some(false) | None => Ok(()),
    }
}

/// These bytes of a file are about to change.
pub(super) fn changes(file: &File, path: &Path, at: u64, after: u64) {
    with(|power| {
        let len = file.metadata().map_or(0, |found| found.len());
        let mut before = vec![0; after.min(len).saturating_sub(at) as usize];
        if file.read_exact_at(&mut before, at).is_ok() {
            power.changes.push(Change::Contents { path: path.to_owned(), at, before, after, len });
        }
    });
}

/// The file of this name is about to be made, replaced or removed.
pub(super) fn renames(path: &Path) {
    with(|power| power.changes.push(Change::Name { path: path.to_owned(), before: std::fs::read(path).ok() }));
}

/// An fsync of a file, or of a folder.
pub(super) fn syncs(synced: &Path) {
    with(|power| {
        if !power.forgetful {
            power.changes.retain(|change| match change {
                Change::Contents { path, .. } => path != synced,
                Change::Name { path, .. } => path.parent() != Some(synced),
            });
        }
    });
}

fn with<T>(work: impl FnOnce(&mut Power) -> T) -> Option<T> {
    POWER.with_borrow_mut(|power| power.as_mut().map(work))
}
