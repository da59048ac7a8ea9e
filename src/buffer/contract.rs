//! What every log must do, run over all three: memory, Redis, files.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::file::FileLog;
use super::log::{Answer, Claim, LeaseBlock, LeaseRange, Log, LogError, Quarantined, Record};
use super::memory::{Disk, Fault, MemoryLog, lock};
use super::redis::RedisLog;
use super::redis::tests::{DURABLE, Server};
use super::testing::{catalog, draft};
use super::{Buffer, BufferConfig, CommitError};
use crate::cluster::MainRecord;
use crate::entry::{Effect, Seq};

mod reading;

use reading::{large_entries_are_read_once, reads_so_many_bytes};

/// Where a log's contents are, so that it can be opened again.
pub(super) enum Home {
    Memory(Arc<Mutex<Disk>>),
    Redis(Box<Server>),
    File(tempfile::TempDir),
}

impl Home {
    pub(super) async fn redis() -> Home {
        Home::Redis(Box::new(Server::start(DURABLE).await))
    }

    pub(super) fn file() -> Home {
        Home::File(tempfile::tempdir().unwrap())
    }

    /// What `buffer.url` would say.
    pub(super) fn url(&self) -> String {
        match self {
            Home::Memory(_) => unreachable!("a log in memory has no URL"),
            Home::Redis(server) => server.url(),
            Home::File(folder) => format!("file://{}", folder.path().display()),
        }
    }

    /// Another process' handle.
    pub(super) fn log(&self) -> Arc<dyn Log> {
        match self {
            Home::Memory(disk) => Arc::new(MemoryLog::new(disk)),
            Home::Redis(_) => Arc::new(RedisLog::new(&self.url(), "TEST", true).unwrap()),
            Home::File(_) => Arc::new(FileLog::new(&self.url(), "TEST", true).unwrap()),
        }
    }
}

pub(super) fn record(seq: u64) -> Record {
    let mut entry = draft(seq as u32).entry;
    entry.seq = Seq(seq);
    Record::new(entry).unwrap()
}

pub(super) fn records(range: std::ops::RangeInclusive<u64>) -> Vec<Record> {
    range.map(record).collect()
}

async fn seqs(log: &dyn Log) -> Vec<u64> {
    log.read(Seq::ZERO, 10_000, u64::MAX).await.unwrap().iter().map(|record| record.seq().0).collect()
}

/// What could not be read again must not be acknowledged.
#[test]
fn an_entry_that_does_not_fit_its_tables_is_no_record() {
    let mut entry = Arc::unwrap_or_clone(record(1).entry);
    if let Some(Effect::Insert { row, .. }) = entry.effects.first_mut() {
        row.push(None);
    }
    assert!(matches!(Record::new(entry), Err(LogError::Corrupt(_))));
}

async fn appends_in_order_and_once(home: Home) {
    let log = home.log();
    assert_eq!(log.claim(true, Seq::ZERO).await.unwrap().last, Seq(0));
    let first = records(1..=3);
    log.append(&first).await.unwrap();
    log.append(&first).await.unwrap();
    let mut overlapping = first[2..].to_vec();
    overlapping.extend(records(4..=5));
    log.append(&overlapping).await.unwrap();
    assert_eq!(seqs(&*log).await, [1, 2, 3, 4, 5]);
    assert_eq!(log.append(&records(3..=3)).await, Err(LogError::Conflict(Seq(3))));
    assert!(matches!(log.append(&records(7..=7)).await, Err(LogError::Doubtful(_))));
    log.claim(false, Seq::ZERO).await.unwrap();
    assert_eq!(log.probe().await, Ok(Seq(5)));
    let window = log.read(Seq(1), 2, u64::MAX).await.unwrap();
    assert_eq!(window.iter().map(Record::seq).collect::<Vec<_>>(), [Seq(2), Seq(3)]);
    assert_eq!(window[0].json, first[1].json);
    assert!(log.read(Seq(5), 10, u64::MAX).await.unwrap().is_empty());
    drop(log);
    let log = home.log();
    let claim = log.claim(true, Seq::ZERO).await.unwrap();
    assert_eq!((claim.found, claim.last), (Seq(5), Seq(5)));
    assert_eq!(seqs(&*log).await, [1, 2, 3, 4, 5]);
}

async fn goes_on_after_the_floor_and_after_trimming(home: Home) {
    let log = home.log();
    let claim = log.claim(true, Seq(41)).await.unwrap();
    assert_eq!((claim.found, claim.last), (Seq(0), Seq(41)));
    log.append(&records(42..=50)).await.unwrap();
    log.trim(Seq(45)).await.unwrap();
    assert_eq!(seqs(&*log).await, [46, 47, 48, 49, 50]);
    log.trim(Seq(50)).await.unwrap();
    assert!(seqs(&*log).await.is_empty());
    drop(log);
    let log = home.log();
    assert_eq!(log.claim(true, Seq(50)).await.unwrap().last, Seq(50));
    assert_eq!(log.claim(false, Seq(60)).await.unwrap().last, Seq(60));
    log.append(&records(61..=62)).await.unwrap();
    drop(log);
    let log = home.log();
    assert_eq!(log.claim(true, Seq(60)).await.unwrap().last, Seq(62));
    assert_eq!(seqs(&*log).await, [61, 62]);
}

/// By its own idea of what is confirmed; the new owner may know better.
async fn who_was_fenced_out_drops_nothing(home: Home) {
    let log = home.log();
    log.claim(true, Seq::ZERO).await.unwrap();
    log.append(&records(1..=9)).await.unwrap();
    log.trim(Seq(2)).await.unwrap();
    if let Home::File(folder) = &home {
        // Who holds the lock keeps others out; without it the epoch does.
        std::fs::remove_file(folder.path().join("TEST/lock")).unwrap();
    }
    let other = home.log();
    other.claim(true, Seq::ZERO).await.unwrap();
    let error = log.trim(Seq(9)).await.unwrap_err();
    assert!(matches!(error, LogError::Fenced(_)), "{error}");
    assert_eq!(seqs(&*other).await, (3..=9).collect::<Vec<_>>());
}

async fn what_was_asked_before_a_claim_is_void(home: Home) {
    let log = home.log();
    log.claim(true, Seq::ZERO).await.unwrap();
    let late = records(1..=1);
    let append = log.append(&late);
    // Redis and memory take the epoch when the command is sent, files when it is asked for.
    if matches!(home, Home::File(_)) {
        log.claim(false, Seq::ZERO).await.unwrap();
        assert!(matches!(append.await, Err(LogError::Doubtful(_))));
        assert!(seqs(&*log).await.is_empty());
    } else {
        append.await.unwrap();
    }
}

async fn keeps_what_stands_beside_the_entries(home: Home) {
    let log = home.log();
    log.claim(true, Seq::ZERO).await.unwrap();
    let block = |version, start| LeaseBlock {
        version,
        ranges: vec![LeaseRange { start, increment: 1, count: 10 }],
        leased_to: Some(7),
        ..LeaseBlock::default()
    };
    log.store_lease("public.s", &block(2, 100)).await.unwrap();
    log.store_lease("public.\"T/../ü\"", &block(1, 7)).await.unwrap();
    assert!(log.store_lease("public.s", &block(1, 1)).await.is_err(), "a late write");
    log.store_lease("public.s", &block(2, 100)).await.unwrap();
    assert_eq!(log.main_record().await.unwrap(), None);
    let main = MainRecord { system_identifier: u64::MAX - 1, timeline: 2, applied: Seq(7), events: Vec::new() };
    log.store_main_record(&MainRecord::default()).await.unwrap();
    log.store_main_record(&main).await.unwrap();
    let error = || serde_json::json!({"code": "23505"});
    let aside = |seq, waits_for| Quarantined { waits_for, ..Quarantined::new(record(seq).entry, error()) };
    let (first, second) = (aside(3, None), aside(20, Some(Seq(3))));
    log.quarantine(&second).await.unwrap();
    log.quarantine(&aside(3, None)).await.unwrap();
    log.quarantine(&first).await.unwrap();
    drop(log);
    let log = home.log();
    log.claim(true, Seq::ZERO).await.unwrap();
    assert_eq!(log.main_record().await.unwrap(), Some(main.clone()));
    let leases = log.leases().await.unwrap();
    assert_eq!((leases.len(), &leases["public.s"]), (2, &block(2, 100)));
    assert_eq!(quarantined(&*log).await, [first.clone(), second.clone()]);
    let some = log.quarantined(&[Seq(20), Seq(4), Seq(3)]).await.unwrap();
    assert_eq!(some, [second.clone(), first], "not in the order in which they were asked for");
    assert!(log.quarantined(&[]).await.unwrap().is_empty());
    log.release(Seq(3)).await.unwrap();
    log.release(Seq(3)).await.unwrap();
    assert_eq!(quarantined(&*log).await, [second]);
}

/// Everything in quarantine.
pub(super) async fn quarantined(log: &dyn Log) -> Vec<Quarantined> {
    let seqs: Vec<Seq> = log.quarantine_index().await.unwrap().into_iter().map(|(seq, _)| seq).collect();
    log.quarantined(&seqs).await.unwrap()
}

/// The handle above the log: commits of many clients, and the overlay made anew.
async fn carries_a_buffer(home: Home) {
    let config = BufferConfig::default();
    for round in 0..3_u32 {
        let stop = tokio_util::sync::CancellationToken::new();
        let opened = Buffer::open_log(home.log(), &config, Arc::new(catalog()), Seq::ZERO, stop.clone()).await;
        let (buffer, task) = opened.unwrap();
        assert_eq!(buffer.status().pending, u64::from(round) * 40);
        let commits: Vec<_> = (0..40)
            .map(|number| {
                let buffer = buffer.clone();
                tokio::spawn(async move { buffer.commit(draft(round * 40 + number)).await.unwrap() })
            })
            .collect();
        for commit in commits {
            commit.await.unwrap();
        }
        let last = u64::from(round + 1) * 40;
        assert_eq!(buffer.progress().borrow().last, Seq(last));
        assert_eq!(seqs(&*home.log()).await, (1..=last).collect::<Vec<_>>());
        stop.cancel();
        task.await.unwrap();
    }
}

/// A log whose answers get lost.
struct Faulty {
    inner: Arc<dyn Log>,
    faults: Mutex<VecDeque<Fault>>,
    /// How many bytes each answer to a read had.
    read: Mutex<Vec<u64>>,
}

impl Log for Faulty {
    fn claim(&self, takeover: bool, floor: Seq) -> Answer<'_, Claim> {
        self.inner.claim(takeover, floor)
    }

    fn append<'a>(&'a self, records: &'a [Record]) -> Answer<'a, ()> {
        let fault = lock(&self.faults).pop_front().unwrap_or(Fault::None);
        let lost = || Err(LogError::Doubtful("no answer".into()));
        Box::pin(async move {
            match fault {
                Fault::Lost => lost(),
                Fault::Executed | Fault::Late | Fault::TailLost(_) => {
                    self.inner.append(records).await?;
                    lost()
                }
                // What is there already is not refused.
                Fault::Refused if records.last().map(Record::seq) > self.inner.probe().await.ok() => {
                    Err(LogError::Refused("no room".into()))
                }
                Fault::None | Fault::Refused => self.inner.append(records).await,
            }
        })
    }

    fn read(&self, after: Seq, limit: usize, bytes: u64) -> Answer<'_, Vec<Record>> {
        Box::pin(async move {
            let found = self.inner.read(after, limit, bytes).await?;
            lock(&self.read).push(found.iter().map(Record::bytes).sum());
            Ok(found)
        })
    }

    fn probe(&self) -> Answer<'_, Seq> {
        self.inner.probe()
    }

    fn trim(&self, upto: Seq) -> Answer<'_, ()> {
        self.inner.trim(upto)
    }

    fn quarantine<'a>(&'a self, quarantined: &'a Quarantined) -> Answer<'a, ()> {
        self.inner.quarantine(quarantined)
    }

    fn quarantine_index(&self) -> Answer<'_, Vec<(Seq, u64)>> {
        self.inner.quarantine_index()
    }

    fn quarantined<'a>(&'a self, seqs: &'a [Seq]) -> Answer<'a, Vec<Quarantined>> {
        self.inner.quarantined(seqs)
    }

    fn release(&self, seq: Seq) -> Answer<'_, ()> {
        self.inner.release(seq)
    }

    fn leases(&self) -> Answer<'_, BTreeMap<String, LeaseBlock>> {
        self.inner.leases()
    }

    fn store_lease<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> Answer<'a, ()> {
        self.inner.store_lease(sequence, block)
    }

    fn main_record(&self) -> Answer<'_, Option<MainRecord>> {
        self.inner.main_record()
    }

    fn store_main_record<'a>(&'a self, record: &'a MainRecord) -> Answer<'a, ()> {
        self.inner.store_main_record(record)
    }
}

/// Answers get lost under load, and the daemon is killed now and then.
async fn keeps_what_was_acknowledged_whatever_fails(home: Home) {
    let mut told: HashMap<Uuid, Result<Seq, CommitError>> = HashMap::new();
    for life in 0..3_u32 {
        let faults = [Fault::None, Fault::Lost, Fault::None, Fault::Executed, Fault::Refused, Fault::None];
        let faults = Mutex::new((0..8 + life as usize).map(|place| faults[place * 7 % 6]).collect());
        let log = Arc::new(Faulty { inner: home.log(), faults, read: Mutex::default() });
        let config = BufferConfig::default();
        let opened = patiently(async || {
            let (log, stop) = (Arc::clone(&log), tokio_util::sync::CancellationToken::new());
            Buffer::open_log(log, &config, Arc::new(catalog()), Seq::ZERO, stop).await.ok()
        });
        let (buffer, task) = opened.await;
        for round in 0..12 {
            let commits: Vec<_> = (0..6)
                .map(|number| {
                    let (buffer, draft) = (buffer.clone(), draft(life * 1000 + round * 10 + number));
                    tokio::spawn(async move { (draft.entry.uuid, buffer.commit(draft).await) })
                })
                .collect();
            // A kill in the midst of the last round.
            if round == 11 {
                tokio::task::yield_now().await;
                task.abort();
            }
            for commit in commits {
                let (uuid, answer) = commit.await.unwrap();
                told.insert(uuid, answer);
            }
            if round < 11 {
                patiently(async || buffer.status().available.then_some(())).await;
            }
        }
        drop(task.await);
    }
    let log = home.log();
    let last = patiently(async || log.claim(true, Seq::ZERO).await.ok()).await.last;
    let records = log.read(Seq::ZERO, 10_000, u64::MAX).await.unwrap();
    assert_eq!(records.iter().map(|record| record.seq().0).collect::<Vec<_>>(), (1..=last.0).collect::<Vec<_>>());
    let places: HashMap<Uuid, Seq> = records.iter().map(|record| (record.entry.uuid, record.seq())).collect();
    assert_eq!(places.len(), records.len(), "something is there twice");
    let mut acknowledged = 0;
    for (uuid, answer) in told {
        match answer {
            Ok(seq) => {
                assert_eq!(places.get(&uuid), Some(&seq), "acknowledged");
                acknowledged += 1;
            }
            Err(CommitError::Unknown(_)) => {}
            Err(error) => assert_eq!(places.get(&uuid), None, "{error}"),
        }
    }
    assert!(acknowledged > 60, "{acknowledged}");
}

/// Until there is an answer.
async fn patiently<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "nothing");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Prints how long commits take: `cargo test --release --lib commit_latency -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn commit_latency() {
    for writers in [1_u32, 16, 64] {
        for (kind, home) in [("Redis", Home::redis().await), ("files", Home::file())] {
            let config = BufferConfig { url: home.url(), ..BufferConfig::default() };
            let stop = tokio_util::sync::CancellationToken::new();
            let opened = Buffer::open(&config, "TEST", Arc::new(catalog()), Seq::ZERO, stop).await;
            let buffer = opened.unwrap().0;
            let each = if writers == 1 { 3000 } else { 20_000 / writers };
            let started = Instant::now();
            let tasks: Vec<_> = (0..writers)
                .map(|writer| {
                    let buffer = buffer.clone();
                    tokio::spawn(async move {
                        let mut times = Vec::new();
                        for n in 0..each {
                            let at = Instant::now();
                            buffer.commit(draft(writer * each + n)).await.unwrap();
                            times.push(at.elapsed());
                        }
                        times
                    })
                })
                .collect();
            let mut times = Vec::new();
            for task in tasks {
                times.extend(task.await.unwrap());
            }
            let rate = f64::from(writers * each) / started.elapsed().as_secs_f64();
            times.sort();
            let at = |part: f64| times[(times.len() as f64 * part) as usize];
            println!("{kind}, {writers} writers: {rate:.0}/s, p50 {:?}, p99 {:?}", at(0.5), at(0.99));
        }
    }
}

macro_rules! over_all_logs {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $name() { super::$name(super::Home::Memory(Default::default())).await; })*
        }
        mod redis {
            $(#[tokio::test] async fn $name() { super::$name(super::Home::redis().await).await; })*
        }
        mod file {
            $(#[tokio::test] async fn $name() {
                super::$name(super::Home::file()).await;
            })*
        }
    };
}

over_all_logs!(
    appends_in_order_and_once,
    goes_on_after_the_floor_and_after_trimming,
    who_was_fenced_out_drops_nothing,
    what_was_asked_before_a_claim_is_void,
    keeps_what_stands_beside_the_entries,
    reads_so_many_bytes,
    large_entries_are_read_once,
    carries_a_buffer,
    keeps_what_was_acknowledged_whatever_fails,
);
