//! The buffer's log in memory behind a connection that loses commands and answers, for one process.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgoutpost::buffer::log::{Answer, Claim, LeaseBlock, Log, LogError, Quarantined, Record};
use pgoutpost::buffer::memory::{Fault, MemoryLog};
use pgoutpost::cluster::MainRecord;
use pgoutpost::entry::Seq;
use tokio::time::sleep;

use crate::daemon::Process;
use crate::world::{Bug, World};

pub struct SimulatedLog {
    world: Arc<World>,
    process: Arc<Process>,
    log: MemoryLog,
}

impl SimulatedLog {
    pub fn new(world: &Arc<World>, process: &Arc<Process>) -> SimulatedLog {
        let log = MemoryLog::new(&world.disk);
        SimulatedLog { world: Arc::clone(world), process: Arc::clone(process), log }
    }

    /// On the way there or back. The process may die before it gets any further.
    async fn travel(&self) {
        self.process.step().await;
        sleep(self.world.disk_latency()).await;
        self.process.step().await;
    }

    /// One operation: it may get lost on its way, or its answer.
    async fn ask<T>(&self, what: &str, work: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        self.travel().await;
        let lost = || Err(LogError::Doubtful("simulated".into()));
        if self.world.log_fails() {
            return lost();
        }
        let answer = work.await;
        self.world.note(|| {
            let outcome = answer.as_ref().map_or_else(ToString::to_string, |_| "done".to_owned());
            format!("process {}: log {what}: {outcome}", self.process.id)
        });
        self.world.stored();
        self.travel().await;
        if self.world.log_fails() { lost() } else { answer }
    }
}

impl Log for SimulatedLog {
    fn claim(&self, takeover: bool, floor: Seq) -> Answer<'_, Claim> {
        Box::pin(self.ask("claim", async move {
            let claimed = self.log.claim(takeover, floor).await;
            if claimed.is_ok() {
                self.world.owned_by(&self.process);
            }
            claimed
        }))
    }

    fn append<'a>(&'a self, records: &'a [Record]) -> Answer<'a, ()> {
        Box::pin(async move {
            self.travel().await;
            let fault = self.world.log_fault();
            {
                let mut disk = self.world.disk.lock().unwrap();
                disk.faults.clear();
                disk.faults.push_back(fault);
            }
            self.world.arrive_late();
            if self.world.planted(Bug::AnswerBeforeDurable) && fault == Fault::Lost {
                return Ok(());
            }
            let answer = match self.world.planted(Bug::NoFence) {
                true => self.world.force(records),
                false => self.log.append(records).await,
            };
            if self.world.planted(Bug::LateArrivals) && fault == Fault::Late {
                self.world.late.lock().unwrap().extend_from_slice(records);
            }
            self.world.note(|| {
                let seqs: Vec<u64> = records.iter().map(|record| record.seq().0).collect();
                format!("process {}: log append {seqs:?} {fault:?}: {answer:?}", self.process.id)
            });
            self.world.stored();
            self.travel().await;
            answer
        })
    }

    fn read(&self, after: Seq, limit: usize) -> Answer<'_, Vec<Record>> {
        Box::pin(self.ask("read", self.log.read(after, limit)))
    }

    fn probe(&self) -> Answer<'_, Seq> {
        Box::pin(self.ask("probe", self.log.probe()))
    }

    fn trim(&self, upto: Seq) -> Answer<'_, ()> {
        Box::pin(self.ask("trim", self.log.trim(upto)))
    }

    fn quarantine<'a>(&'a self, quarantined: &'a Quarantined) -> Answer<'a, ()> {
        Box::pin(async move {
            let answer = self.ask("quarantine", self.log.quarantine(quarantined)).await;
            self.world.put_aside(&self.process);
            answer
        })
    }

    fn quarantined(&self) -> Answer<'_, Vec<Quarantined>> {
        Box::pin(self.ask("quarantined", self.log.quarantined()))
    }

    fn release(&self, seq: Seq) -> Answer<'_, ()> {
        Box::pin(self.ask("release", self.log.release(seq)))
    }

    fn leases(&self) -> Answer<'_, BTreeMap<String, LeaseBlock>> {
        Box::pin(self.ask("leases", self.log.leases()))
    }

    fn store_lease<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> Answer<'a, ()> {
        Box::pin(self.ask("store_lease", self.log.store_lease(sequence, block)))
    }

    fn main_record(&self) -> Answer<'_, Option<MainRecord>> {
        Box::pin(self.ask("main_record", self.log.main_record()))
    }

    fn store_main_record<'a>(&'a self, record: &'a MainRecord) -> Answer<'a, ()> {
        Box::pin(self.ask("store_main_record", self.log.store_main_record(record)))
    }
}
