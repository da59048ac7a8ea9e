//! A disk that fails as told, for the tests of the file log and the simulation. Per thread: tests run beside each other.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// No room after so many bytes of a write.
    Full(usize),
    /// An error after so many bytes of a write.
    Broken(usize),
    /// The fsync fails.
    Sync,
}

thread_local! {
    static SLOW: RefCell<bool> = const { RefCell::new(true) };
    static WRITES: RefCell<VecDeque<Fault>> = const { RefCell::new(VecDeque::new()) };
    static REPLACES: RefCell<VecDeque<Fault>> = const { RefCell::new(VecDeque::new()) };
    static SYNCS: RefCell<VecDeque<Fault>> = const { RefCell::new(VecDeque::new()) };
}

/// What becomes of the next writes into segments, in this thread.
pub fn writes(faults: &[Fault]) {
    WRITES.set(faults.iter().copied().collect());
}

/// What becomes of the next small files that are replaced as a whole, in this thread: only whether there is room for them.
pub fn replaces(faults: &[Fault]) {
    REPLACES.set(faults.iter().copied().collect());
}

/// What becomes of the next fsyncs, in this thread.
pub fn syncs(faults: &[Fault]) {
    SYNCS.set(faults.iter().copied().collect());
}

/// From now on, in this thread: fsync does nothing, for tests of what is written and not of when.
pub fn without_fsync() {
    SLOW.set(false);
}

pub(super) fn syncs_for_real() -> bool {
    SLOW.with_borrow(|slow| *slow) && !super::power::is_simulated()
}

pub(super) fn on_write(file: &File, bytes: &[u8], at: u64) -> Option<io::Error> {
    let fault = WRITES.with_borrow_mut(VecDeque::pop_front)?;
    let part = |len: usize| drop(file.write_all_at(&bytes[..len.min(bytes.len())], at));
    match fault {
        Fault::None | Fault::Sync => None,
        Fault::Full(len) => {
            part(len);
            Some(io::Error::from(io::ErrorKind::StorageFull))
        }
        Fault::Broken(len) => {
            part(len);
            Some(io::Error::other("input/output error"))
        }
    }
}

pub(super) fn on_replace() -> Option<io::Error> {
    let fault = REPLACES.with_borrow_mut(VecDeque::pop_front)?;
    matches!(fault, Fault::Full(_)).then(|| io::Error::from(io::ErrorKind::StorageFull))
}

pub(super) fn on_sync() -> Option<io::Error> {
    let fault = SYNCS.with_borrow_mut(VecDeque::pop_front)?;
    (fault == Fault::Sync).then(|| io::Error::other("input/output error"))
}
