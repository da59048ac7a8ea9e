//! The buffer's log, in memory or in files, behind a connection that loses commands and answers, for one process.

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
    log: Box<dyn Log>,
}

impl SimulatedLog {
    pub fn new(world: &Arc<World>, process: &Arc<Process>) -> SimulatedLog {
        let log: Box<dyn Log> = match &world.files {
            Some(files) => Box::new(files.log(process.id)),
            None => Box::new(MemoryLog::new(&world.disk)),
        };
        SimulatedLog { world: Arc::clone(world), process: Arc::clone(process), log }
    }

    /// On the way there or back. The process may die before it gets any further.
    async fn travel(&self) {
        self.process.step().await;
        sleep(self.world.disk_latency()).await;
        self.process.step().await;
    }

    /// In files: the machine may stop meanwhile. What is there afterwards is learned.
    async fn on_disk<T>(&self, work: impl Future<Output = T>) -> T {
        let Some(files) = &self.world.files else { return work.await };
        files.may_stop(self.world.weather().stops, &self.world.log_dice);
        let answer = work.await;
        if files.stopped() {
            self.world.note(|| format!("process {}: the machine stops", self.process.id));
            self.process.die();
            self.process.step().await;
        }
        let last = self.world.disk.lock().unwrap().records.keys().next_back().copied().unwrap_or_default();
        let new = self.log.read(last, usize::MAX, u64::MAX).await.unwrap_or_default();
        let index = self.log.quarantine_index().await.unwrap_or_default();
        let seqs: Vec<Seq> = index.into_iter().map(|(seq, _)| seq).collect();
        let aside = self.log.quarantined(&seqs).await.unwrap_or_default();
        let mut disk = self.world.disk.lock().unwrap();
        disk.records.extend(new.into_iter().map(|record| (record.seq(), record)));
        disk.quarantined = aside.into_iter().map(|record| (record.seq, record)).collect();
        answer
    }

    /// One operation: it may get lost on its way, or its answer.
    async fn ask<T>(&self, what: &str, work: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        self.travel().await;
        let lost = || Err(LogError::Doubtful("simulated".into()));
        if self.world.log_fails() {
            return lost();
        }
        let answer = self.on_disk(work).await;
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
                if self.world.files.as_ref().is_some_and(|files| !files.stopped()) {
                    // Whatever the last process knew; what is there is learned next.
                    self.world.disk.lock().unwrap().records.clear();
                }
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
            let answer = match &self.world.files {
                _ if self.world.planted(Bug::NoFence) => self.world.force(records),
                Some(_) if fault == Fault::Lost => Err(LogError::Doubtful("the disk hangs".into())),
                Some(files) => {
                    let lost = files.meets(fault, &self.world.log_dice);
                    let answer = self.on_disk(self.log.append(records)).await;
                    if lost { Err(LogError::Doubtful("the disk hung".into())) } else { answer }
                }
                None => self.log.append(records).await,
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

    fn read(&self, after: Seq, limit: usize, bytes: u64) -> Answer<'_, Vec<Record>> {
        Box::pin(self.ask("read", self.log.read(after, limit, bytes)))
    }

    fn probe(&self) -> Answer<'_, Seq> {
        Box::pin(self.ask("probe", async {
            let answer = self.log.probe().await;
            if answer.is_err() && self.world.planted(Bug::BlindProbe) {
                return Ok(self.world.disk.lock().unwrap().last);
            }
            answer
        }))
    }

    fn trim(&self, upto: Seq) -> Answer<'_, ()> {
        Box::pin(self.ask("trim", async move {
            let trimmed = self.log.trim(upto).await;
            if trimmed.is_ok() {
                self.world.disk.lock().unwrap().records.retain(|&seq, _| seq > upto);
            }
            trimmed
        }))
    }

    fn quarantine<'a>(&'a self, quarantined: &'a Quarantined) -> Answer<'a, ()> {
        Box::pin(async move {
            let answer = self.ask("quarantine", self.log.quarantine(quarantined)).await;
            self.world.put_aside(&self.process);
            answer
        })
    }

    fn quarantine_index(&self) -> Answer<'_, Vec<(Seq, u64)>> {
        Box::pin(async {
            let index = self.ask("quarantine_index", self.log.quarantine_index()).await?;
            Ok(if self.world.planted(Bug::BlankQuarantine) { Vec::new() } else { index })
        })
    }

    fn quarantined<'a>(&'a self, seqs: &'a [Seq]) -> Answer<'a, Vec<Quarantined>> {
        Box::pin(self.ask("quarantined", self.log.quarantined(seqs)))
    }

    fn release(&self, seq: Seq) -> Answer<'_, ()> {
        Box::pin(self.ask("release", self.log.release(seq)))
    }

    fn leases(&self) -> Answer<'_, BTreeMap<String, LeaseBlock>> {
        Box::pin(self.ask("leases", self.log.leases()))
    }

    fn store_lease<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> Answer<'a, ()> {
        Box::pin(self.ask("store_lease", async move {
            if self.world.planted(Bug::ForgottenLease) && self.world.log_dice.happens(300) {
                return Ok(());
            }
            self.log.store_lease(sequence, block).await
        }))
    }

    fn main_record(&self) -> Answer<'_, Option<MainRecord>> {
        Box::pin(self.ask("main_record", self.log.main_record()))
    }

    fn store_main_record<'a>(&'a self, record: &'a MainRecord) -> Answer<'a, ()> {
        Box::pin(self.ask("store_main_record", self.log.store_main_record(record)))
    }
}
