//! The log in files, as it is, on a disk that fails, stops in the middle of something, and forgets what was not synced.

use std::path::PathBuf;

use pgoutpost::buffer::file::faults::{self, Fault};
use pgoutpost::buffer::file::{FileLog, power};
use pgoutpost::buffer::memory;
use tempfile::TempDir;

use crate::dice::Dice;

/// The disk of a run. The files are real, in memory where the system has that.
pub struct Files {
    folder: TempDir,
}

impl Files {
    /// `forgetful`: an fsync does nothing.
    pub fn new(forgetful: bool) -> Files {
        let memory = PathBuf::from("/dev/shm");
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        power::simulate(forgetful);
        Files { folder: TempDir::new_in(place).unwrap() }
    }

    pub fn log(&self, process: u64) -> FileLog {
        FileLog::simulated(&self.folder.path().join("site"), format!("process {process}"))
    }

    /// What is told must not depend on where the files are.
    pub fn told(&self, text: &str) -> String {
        text.replace(&*self.folder.path().to_string_lossy(), "FOLDER")
    }

    /// What becomes of the next append. `true`: its answer is lost, whatever happens to it.
    pub fn meets(&self, fault: memory::Fault, dice: &Dice) -> bool {
        let part = dice.below(3000);
        match fault {
            memory::Fault::Late => faults::writes(&[Fault::Broken(part)]),
            memory::Fault::Refused => faults::writes(&[Fault::Full(part)]),
            memory::Fault::TailLost(_) => faults::syncs(&[Fault::Sync]),
            memory::Fault::None | memory::Fault::Lost | memory::Fault::Executed => {}
        }
        fault == memory::Fault::Executed
    }

    /// The machine may stop within the next operation.
    pub fn may_stop(&self, in_thousand: u32, dice: &Dice) {
        if dice.happens(in_thousand) {
            power::fails_after(dice.below(12));
        }
    }

    /// Whether it has.
    pub fn stopped(&self) -> bool {
        faults::writes(&[]);
        faults::syncs(&[]);
        let stopped = power::is_gone();
        if !stopped {
            power::holds();
        }
        stopped
    }

    /// The process that had the files is gone: alone, or with the machine. Tells how many changes were lost.
    pub fn left_behind(&self, dice: &Dice) -> usize {
        // What is left of the process in this program must not keep it.
        drop(std::fs::remove_file(self.folder.path().join("site/lock")));
        if power::is_gone() || dice.happens(500) { power::lose(|below| dice.below(below)) } else { 0 }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        power::stop();
    }
}
