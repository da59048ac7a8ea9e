//! A log in memory that fails as told: for tests of what stands on a log. Not in a release build.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::log::{self, Answer, Claim, LeaseBlock, Log, LogError, Quarantined, Record};
use crate::cluster::MainRecord;
use crate::entry::Seq;

/// What becomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// No answer, not executed.
    Lost,
    /// No answer, executed.
    Executed,
    /// No answer; executed later, when a later operation comes.
    Late,
    /// Refused for certain.
    Refused,
    /// The log loses this many of its newest records, then does not answer.
    TailLost(u64),
}

/// What survives restarts of the daemon.
#[derive(Debug, Default)]
pub struct Disk {
    pub records: BTreeMap<Seq, Record>,
    pub last: Seq,
    /// How many have had it.
    processes: u64,
    owner: u64,
    epoch: u64,
    pub faults: VecDeque<Fault>,
    /// Of writing quarantine's records.
    pub faults_aside: VecDeque<Fault>,
    late: Vec<(u64, Vec<Record>)>,
    pub quarantined: BTreeMap<Seq, Quarantined>,
    leases: BTreeMap<String, LeaseBlock>,
    main: Option<MainRecord>,
}

/// One process' handle.
#[derive(Debug)]
pub struct MemoryLog {
    disk: Arc<Mutex<Disk>>,
    process: u64,
    epoch: Mutex<u64>,
}

/// What is in a mutex: no panic leaves it half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryLog {
    /// For a new process.
    pub fn new(disk: &Arc<Mutex<Disk>>) -> MemoryLog {
        let mut opened = lock(disk);
        opened.processes += 1;
        MemoryLog { disk: Arc::clone(disk), process: opened.processes, epoch: Mutex::new(0) }
    }

    /// For small changes by the owner only.
    fn owned(&self) -> Result<std::sync::MutexGuard<'_, Disk>, LogError> {
        let disk = lock(&self.disk);
        if disk.owner == self.process { Ok(disk) } else { Err(LogError::Fenced(disk.owner.to_string())) }
    }
}

impl Disk {
    fn execute(&mut self, epoch: u64, records: &[Record]) -> Result<(), LogError> {
        if epoch != self.epoch {
            return Err(LogError::Doubtful("an old epoch".into()));
        }
        let Some(first) = records.first().map(Record::seq) else { return Ok(()) };
        if first > self.last.next() {
            return Err(LogError::Doubtful("behind".into()));
        }
        for record in records.iter().filter(|record| record.seq() <= self.last) {
            if self.records.get(&record.seq()).map(|there| there.entry.uuid) != Some(record.entry.uuid) {
                return Err(LogError::Conflict(record.seq()));
            }
        }
        for record in records {
            self.last = self.last.max(record.seq());
            self.records.insert(record.seq(), record.clone());
        }
        Ok(())
    }

    fn deliver_late(&mut self) {
        for (epoch, records) in std::mem::take(&mut self.late) {
            drop(self.execute(epoch, &records));
        }
    }

    fn lose_tail(&mut self, count: u64) {
        self.last = Seq(self.last.0.saturating_sub(count));
        let lost = self.records.split_off(&self.last.next());
        drop(lost);
    }
}

impl Log for MemoryLog {
    fn claim(&self, takeover: bool, floor: Seq) -> Answer<'_, Claim> {
        Box::pin(async move {
            let mut disk = lock(&self.disk);
            let fault = if takeover { Fault::None } else { disk.faults.pop_front().unwrap_or(Fault::None) };
            match fault {
                Fault::Lost | Fault::Late => return Err(LogError::Doubtful("lost".into())),
                Fault::TailLost(count) => {
                    disk.lose_tail(count);
                    return Err(LogError::Doubtful("lost".into()));
                }
                Fault::None | Fault::Executed | Fault::Refused => {}
            }
            let mut epoch = lock(&self.epoch);
            if !takeover && disk.owner != self.process && disk.epoch >= *epoch {
                return Err(LogError::Fenced(disk.owner.to_string()));
            }
            disk.owner = self.process;
            disk.epoch = disk.epoch.max(*epoch) + 1;
            *epoch = disk.epoch;
            // Whatever is still under way arrives now, too late.
            disk.deliver_late();
            let found = disk.last;
            disk.last = found.max(floor);
            if fault == Fault::Executed {
                return Err(LogError::Doubtful("no answer".into()));
            }
            Ok(Claim { found, last: disk.last })
        })
    }

    fn append<'a>(&'a self, records: &'a [Record]) -> Answer<'a, ()> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let epoch = *lock(&self.epoch);
            let mut disk = lock(&self.disk);
            if disk.owner != self.process {
                return Err(LogError::Fenced(disk.owner.to_string()));
            }
            match disk.faults.pop_front().unwrap_or(Fault::None) {
                Fault::None => disk.execute(epoch, records),
                Fault::Lost => Err(LogError::Doubtful("lost".into())),
                Fault::Executed => {
                    drop(disk.execute(epoch, records));
                    Err(LogError::Doubtful("no answer".into()))
                }
                Fault::Late => {
                    disk.late.push((epoch, records.to_vec()));
                    Err(LogError::Doubtful("no answer".into()))
                }
                // What is there already is not refused, as in the script.
                Fault::Refused => match records.last() {
                    Some(last) if last.seq() > disk.last => Err(LogError::Refused("out of memory".into())),
                    Some(_) | None => disk.execute(epoch, records),
                },
                Fault::TailLost(count) => {
                    disk.lose_tail(count);
                    Err(LogError::Doubtful("restarted".into()))
                }
            }
        })
    }

    fn read(&self, after: Seq, limit: usize, bytes: u64) -> Answer<'_, Vec<Record>> {
        Box::pin(async move {
            Ok(log::within(
                lock(&self.disk).records.range(after.next()..).map(|(_, record)| record.clone()),
                limit,
                bytes,
            ))
        })
    }

    fn probe(&self) -> Answer<'_, Seq> {
        Box::pin(async move {
            let disk = lock(&self.disk);
            if disk.owner == self.process { Ok(disk.last) } else { Err(LogError::Doubtful("not the writer".into())) }
        })
    }

    fn trim(&self, upto: Seq) -> Answer<'_, ()> {
        Box::pin(async move {
            self.owned()?.records.retain(|&seq, _| seq > upto);
            Ok(())
        })
    }

    fn quarantine<'a>(&'a self, quarantined: &'a Quarantined) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut disk = self.owned()?;
            let fault = disk.faults_aside.pop_front().unwrap_or(Fault::None);
            if matches!(fault, Fault::None | Fault::Executed) {
                disk.quarantined.insert(quarantined.seq, quarantined.clone());
            }
            match fault {
                Fault::None => Ok(()),
                Fault::Refused => Err(LogError::Refused("no room".into())),
                Fault::Lost | Fault::Executed | Fault::Late | Fault::TailLost(_) => {
                    Err(LogError::Doubtful("no answer".into()))
                }
            }
        })
    }

    fn quarantine_index(&self) -> Answer<'_, Vec<(Seq, u64)>> {
        Box::pin(async move { Ok(lock(&self.disk).quarantined.keys().map(|seq| (*seq, 0)).collect()) })
    }

    fn quarantined<'a>(&'a self, seqs: &'a [Seq]) -> Answer<'a, Vec<Quarantined>> {
        Box::pin(async move {
            let disk = lock(&self.disk);
            Ok(seqs.iter().filter_map(|seq| disk.quarantined.get(seq).cloned()).collect())
        })
    }

    fn release(&self, seq: Seq) -> Answer<'_, ()> {
        Box::pin(async move {
            self.owned()?.quarantined.remove(&seq);
            Ok(())
        })
    }

    fn leases(&self) -> Answer<'_, BTreeMap<String, LeaseBlock>> {
        Box::pin(async move { Ok(lock(&self.disk).leases.clone()) })
    }

    fn store_lease<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut disk = self.owned()?;
            match disk.leases.get(sequence) {
                Some(there) if there == block => {}
                Some(there) if there.version >= block.version => return Err(LogError::Conflict(Seq::ZERO)),
                Some(_) | None => drop(disk.leases.insert(sequence.to_owned(), block.clone())),
            }
            Ok(())
        })
    }

    fn main_record(&self) -> Answer<'_, Option<MainRecord>> {
        Box::pin(async move { Ok(lock(&self.disk).main.clone()) })
    }

    fn store_main_record<'a>(&'a self, record: &'a MainRecord) -> Answer<'a, ()> {
        Box::pin(async move {
            lock(&self.disk).main = Some(record.clone());
            Ok(())
        })
    }
}
