use std::collections::HashMap;
use std::sync::Mutex;

use proptest::prelude::*;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::super::memory::{Disk, Fault, MemoryLog, lock};
use super::super::testing::{BY_NUMBER, catalog, draft};
use super::super::{Buffer, BufferConfig, Quarantined};
use super::*;
use crate::overlay::View;

type Site = Arc<Mutex<Disk>>;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

async fn open_with(disk: &Site, config: &BufferConfig) -> (Buffer, JoinHandle<()>, CancellationToken) {
    let shutdown = CancellationToken::new();
    let log = Arc::new(MemoryLog::new(disk));
    let (buffer, task) = Buffer::open_log(log, config, Arc::new(catalog()), Seq::ZERO, shutdown.clone()).await.unwrap();
    (buffer, task, shutdown)
}

async fn open(disk: &Site) -> (Buffer, JoinHandle<()>, CancellationToken) {
    open_with(disk, &BufferConfig::default()).await
}

/// The numbers of the pending rows that a session sees.
fn shown(buffer: &Buffer) -> Vec<String> {
    let overlay = buffer.overlay();
    let own = crate::overlay::Overlay::default();
    let view = View { base: &overlay, own: &own };
    let mut rows: Vec<String> = view
        .rows(BY_NUMBER)
        .map(|(row, _)| match row {
            crate::overlay::RowId::Key(key) => key[0].to_string(),
            crate::overlay::RowId::Anonymous(seq, number) => format!("{seq}/{number}"),
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn a_commit_is_durable_and_shown_when_it_is_answered() {
    runtime().block_on(async {
        let disk = Site::default();
        let (buffer, ..) = open(&disk).await;
        assert_eq!(buffer.commit(draft(7)).await, Ok(Seq(1)));
        assert_eq!(shown(&buffer), ["7"]);
        assert_eq!(lock(&disk).last, Seq(1));
        assert_eq!(buffer.progress().borrow().last, Seq(1));
        let read = buffer.read(Seq::ZERO, 10).await.unwrap();
        assert_eq!(read.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [Seq(1)]);
        buffer.confirm(Seq(1));
        assert!(shown(&buffer).is_empty());
        assert_eq!(buffer.status().pending, 0);
    });
}

#[test]
fn a_restart_rebuilds_what_was_shown() {
    runtime().block_on(async {
        let disk = Site::default();
        let (buffer, ..) = open(&disk).await;
        for number in 1..=3 {
            buffer.commit(draft(number)).await.unwrap();
        }
        let before = buffer.status();
        let (again, ..) = open(&disk).await;
        assert_eq!(shown(&again), ["1", "2", "3"]);
        assert_eq!((again.status().pending, again.status().pending_bytes), (3, before.pending_bytes));
        assert_eq!(again.commit(draft(4)).await, Ok(Seq(4)));
        // The first one is fenced out, and stops.
        let error = buffer.commit(draft(5)).await.unwrap_err();
        assert!(matches!(error, CommitError::Unavailable(_)), "{error:?}");
        assert!(!buffer.status().available);
    });
}

#[test]
fn limits_are_told_apart() {
    runtime().block_on(async {
        let size = Record::new(draft(1).entry).unwrap().bytes();
        let config = BufferConfig { max_transactions: 2, max_bytes: size * 3, ..BufferConfig::default() };
        let (buffer, ..) = open_with(&Site::default(), &config).await;
        buffer.commit(draft(1)).await.unwrap();
        let mut large = draft(2);
        large.entry.statements.push("x".repeat(size as usize));
        large.entry.statements.push("x".repeat(size as usize * 2));
        let error = buffer.commit(large).await.unwrap_err();
        assert_eq!(error.report().code, crate::sqlstate::PROGRAM_LIMIT_EXCEEDED);
        buffer.commit(draft(2)).await.unwrap();
        let error = buffer.commit(draft(3)).await.unwrap_err();
        assert_eq!(error, CommitError::Full { what: "max_transactions", limit: 2 });
        buffer.confirm(Seq(1));
        let mut medium = draft(3);
        medium.entry.statements.push("x".repeat(size as usize + 50));
        let error = buffer.commit(medium).await.unwrap_err();
        assert_eq!(error, CommitError::Full { what: "max_bytes", limit: size * 3 });
        assert_eq!(buffer.commit(draft(3)).await, Ok(Seq(3)));
    });
}

#[test]
fn a_log_that_refuses_is_not_said_to_accept() {
    runtime().block_on(async {
        let disk = Site::default();
        let (buffer, ..) = open(&disk).await;
        lock(&disk).faults.push_back(Fault::Refused);
        let error = buffer.commit(draft(1)).await.unwrap_err();
        assert!(matches!(error, CommitError::Refused(_)), "{error:?}");
        let status = buffer.status();
        assert!(status.available && !status.accepts() && status.error().is_some(), "{status:?}");
        buffer.commit(draft(1)).await.unwrap();
        assert!(buffer.status().accepts());
    });
}

#[test]
fn in_doubt_for_long_is_08007_and_still_completed() {
    runtime().block_on(async {
        let disk = Site::default();
        let (buffer, ..) = open(&disk).await;
        lock(&disk).faults.extend([Fault::Lost; 12]);
        let started = Instant::now();
        let doubted = tokio::spawn({
            let buffer = buffer.clone();
            async move { buffer.commit(draft(1)).await }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let refused = buffer.commit(draft(2)).await.unwrap_err();
        assert_eq!(refused.report().code, crate::sqlstate::CANNOT_CONNECT_NOW);
        let error = doubted.await.unwrap().unwrap_err();
        assert_eq!(error.report().code, crate::sqlstate::TRANSACTION_RESOLUTION_UNKNOWN);
        assert!(started.elapsed() <= DOUBT_WAIT + Duration::from_millis(50));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(shown(&buffer), ["1"]);
        assert_eq!(buffer.commit(draft(3)).await, Ok(Seq(2)));
    });
}

#[test]
fn shutdown_finishes_what_is_queued() {
    runtime().block_on(async {
        let disk = Site::default();
        let (buffer, task, shutdown) = open(&disk).await;
        let commits: Vec<_> = (0..20)
            .map(|number| {
                let buffer = buffer.clone();
                tokio::spawn(async move { buffer.commit(draft(number)).await })
            })
            .collect();
        tokio::task::yield_now().await;
        shutdown.cancel();
        task.await.unwrap();
        let mut done = 0;
        for commit in commits {
            done += u64::from(commit.await.unwrap().is_ok());
        }
        assert_eq!(lock(&disk).last, Seq(done));
        let error = buffer.commit(draft(99)).await.unwrap_err();
        assert!(matches!(error, CommitError::Unavailable(_)));
    });
}

#[test]
fn a_tail_nobody_has_stops_the_buffer() {
    runtime().block_on(async {
        let disk = Site::default();
        let (buffer, ..) = open(&disk).await;
        for number in 0..4 {
            buffer.commit(draft(number)).await.unwrap();
        }
        // After a restart nothing older than the pending entries is in memory.
        let shutdown = CancellationToken::new();
        let log = Arc::new(MemoryLog::new(&disk));
        let config = BufferConfig::default();
        let opened = Buffer::open_log(log, &config, Arc::new(catalog()), Seq(3), shutdown).await;
        let (buffer, task) = opened.unwrap();
        buffer.set_applied(Seq(2));
        lock(&disk).faults.push_back(Fault::TailLost(3));
        let error = buffer.commit(draft(5)).await.unwrap_err();
        assert!(error.to_string().contains("entries 3 to 3"), "{error}");
        task.await.unwrap();
    });
}

#[test]
fn quarantined_effects_are_hidden_or_shown_as_wanted() {
    runtime().block_on(async {
        let disk = Site::default();
        let (buffer, ..) = open(&disk).await;
        for number in 1..=3 {
            buffer.commit(draft(number)).await.unwrap();
        }
        let entry = buffer.read(Seq(1), 1).await.unwrap().remove(0);
        let rejected = Quarantined::new(entry, serde_json::json!({"code": "23505"}));
        buffer.quarantine(rejected.clone()).await.unwrap();
        // Shortly after.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(shown(&buffer), ["1", "3"]);
        assert_eq!(buffer.quarantined().await.unwrap(), [rejected]);
        let (again, ..) = open(&disk).await;
        assert_eq!(shown(&again), ["1", "3"]);
        assert!(again.is_quarantined(Seq(2)));
        // Shown, whatever the replica has, when that is wanted.
        again.show_quarantined(true);
        again.confirm(Seq(3));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(shown(&again), ["2"]);
        again.skip(Seq(2), "anna").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(shown(&again).is_empty());
    });
}

#[test]
fn an_overlay_goes_past_what_it_hides() {
    runtime().block_on(async {
        let (buffer, ..) = open(&Site::default()).await;
        for number in 1..=3 {
            buffer.commit(draft(number)).await.unwrap();
        }
        let entry = buffer.read(Seq(2), 1).await.unwrap().remove(0);
        buffer.quarantine(Quarantined::new(entry, serde_json::json!({"code": "23505"}))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(shown(&buffer), ["1", "2"]);
        // Else a lock on the third's row would look newer than what anybody can have seen, until the next commit.
        assert_eq!(buffer.overlay().last(), Seq(3));
    });
}

#[test]
fn a_replica_that_goes_back_brings_entries_back() {
    runtime().block_on(async {
        let (buffer, ..) = open(&Site::default()).await;
        for number in 1..=3 {
            buffer.commit(draft(number)).await.unwrap();
        }
        buffer.confirm(Seq(3));
        buffer.confirm(Seq(1));
        buffer.rebuild().await.unwrap();
        assert_eq!(shown(&buffer), ["2", "3"]);
        assert_eq!((buffer.status().pending, buffer.progress().borrow().confirmed), (2, Seq(1)));
    });
}

/// The tracker tells it each time it looks: with a long log each rebuild would keep commits waiting for seconds.
#[test]
fn a_replica_that_goes_back_is_rebuilt_for_once() {
    runtime().block_on(async {
        let (buffer, ..) = open(&Site::default()).await;
        for number in 1..=3 {
            buffer.commit(draft(number)).await.unwrap();
        }
        buffer.confirm(Seq(3));
        let before = buffer.published.generation();
        for _ in 0..20 {
            buffer.confirm(Seq(1));
        }
        buffer.commit(draft(4)).await.unwrap();
        assert_eq!(buffer.published.generation(), before + 1);
        assert_eq!(shown(&buffer), ["2", "3", "4"]);
        // And when it goes back once more.
        buffer.confirm(Seq(4));
        buffer.confirm(Seq(2));
        buffer.commit(draft(5)).await.unwrap();
        assert_eq!(buffer.published.generation(), before + 2);
        assert_eq!(shown(&buffer), ["3", "4", "5"]);
    });
}

#[test]
fn a_replica_older_than_the_log_brings_nothing_back_and_is_told() {
    runtime().block_on(async {
        let disk = Site::default();
        let (buffer, ..) = open(&disk).await;
        for number in 1..=4 {
            buffer.commit(draft(number)).await.unwrap();
        }
        buffer.confirm(Seq(3));
        lock(&disk).records.retain(|&seq, _| seq > Seq(2));
        assert_eq!(buffer.gap_after(Seq(2)).await.unwrap(), None);
        assert_eq!(buffer.gap_after(Seq(1)).await.unwrap(), Some(Seq(3)));
        buffer.confirm(Seq(1));
        buffer.rebuild().await.unwrap();
        assert_eq!(shown(&buffer), ["4"], "2 is missing: 3 alone would be a history that never was");
        assert_eq!(buffer.progress().borrow().confirmed, Seq(3));
        let log = Arc::new(MemoryLog::new(&disk));
        let (config, stop) = (BufferConfig::default(), CancellationToken::new());
        let again = Buffer::open_log(log, &config, Arc::new(catalog()), Seq(1), stop).await;
        let refused = LogError::ReplicaTooOld { has: Seq(1), kept: Seq(3) };
        assert!(matches!(again, Err(super::super::BufferError::Log(error)) if error == refused));
    });
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        5 => Just(Fault::None),
        1 => Just(Fault::Lost),
        1 => Just(Fault::Executed),
        1 => Just(Fault::Late),
        1 => Just(Fault::Refused),
        1 => (0..4_u64).prop_map(Fault::TailLost),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    /// So many sessions commit at once.
    Commit(u8),
    Confirm(u64),
    Kill,
    Stop,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..8_u8).prop_map(Step::Commit),
        1 => (0..30_u64).prop_map(Step::Confirm),
        1 => Just(Step::Kill),
        1 => Just(Step::Stop),
        1 => (0..8000_u64).prop_map(Step::Wait),
    ]
}

/// What the clients were told, by entry.
type Told = Arc<Mutex<HashMap<Uuid, Result<Seq, CommitError>>>>;

fn commit_all(buffer: &Buffer, count: u8, next: &mut u32, told: &Told) -> Vec<JoinHandle<()>> {
    let commit = |_| {
        *next += 1;
        let (draft, buffer, told) = (draft(*next), buffer.clone(), Arc::clone(told));
        tokio::spawn(async move {
            let uuid = draft.entry.uuid;
            let answer = buffer.commit(draft).await;
            if let Ok(seq) = answer {
                assert!(buffer.overlay().last() >= seq, "answered before it was shown");
            }
            lock(&told).insert(uuid, answer);
        })
    };
    (0..count).map(commit).collect()
}

/// No gap, nothing twice; whoever was told yes is there in its place, whoever was told no is not.
fn verify(disk: &Disk, told: &Told) {
    let seqs: Vec<u64> = disk.records.keys().map(|seq| seq.0).collect();
    assert_eq!(seqs, (1..=disk.last.0).collect::<Vec<_>>());
    let places: HashMap<Uuid, Seq> = disk.records.iter().map(|(&seq, record)| (record.entry.uuid, seq)).collect();
    assert_eq!(places.len(), disk.records.len());
    for (uuid, answer) in lock(told).iter() {
        match answer {
            Ok(seq) => assert_eq!(places.get(uuid), Some(seq), "acknowledged"),
            Err(CommitError::Unknown(_)) => {}
            Err(error) => assert_eq!(places.get(uuid), None, "{error}"),
        }
    }
}

async fn simulate(faults: Vec<Fault>, steps: Vec<Step>) {
    let (disk, told) = (Site::default(), Told::default());
    let (mut buffer, mut task, mut shutdown) = open(&disk).await;
    let mut next = 0;
    let mut faults = faults.into_iter();
    for step in steps {
        lock(&disk).faults.extend(faults.by_ref().take(2));
        match step {
            Step::Commit(count) => {
                for session in commit_all(&buffer, count, &mut next, &told) {
                    session.await.unwrap();
                }
            }
            Step::Confirm(seq) => {
                // Not in one expression: a borrowed progress keeps its writers out.
                let confirmed = buffer.progress().borrow().confirmed;
                buffer.confirm(Seq(seq).max(confirmed));
            }
            Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Step::Kill | Step::Stop => {
                let sessions = commit_all(&buffer, 3, &mut next, &told);
                tokio::task::yield_now().await;
                if matches!(step, Step::Kill) {
                    task.abort();
                } else {
                    shutdown.cancel();
                }
                for session in sessions {
                    session.await.unwrap();
                }
                drop(task.await);
                // A tail that is lost while nobody runs is lost: only whole disks are restarted on.
                lock(&disk).faults.clear();
                let settled = settle(&buffer, &disk);
                (buffer, task, shutdown) = open(&disk).await;
                assert!(settled <= disk_last(&disk));
            }
        }
    }
    lock(&disk).faults.clear();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(buffer.status().available, "{:?}", buffer.status());
    let last = buffer.commit(draft(1_000_000)).await.unwrap();
    assert_eq!((last, buffer.overlay().last()), (disk_last(&disk), last));
    verify(&lock(&disk), &told);
}

fn disk_last(disk: &Site) -> Seq {
    lock(disk).last
}

/// Before a restart: gives back to the disk what the dead process was about to append again.
fn settle(buffer: &Buffer, disk: &Site) -> Seq {
    let last = buffer.published.progress().last;
    let mut disk = lock(disk);
    if disk.last < last {
        for record in buffer.published.recent_after(disk.last, usize::MAX, u64::MAX).unwrap_or_default() {
            disk.last = record.seq();
            disk.records.insert(record.seq(), record);
        }
    }
    last
}

proptest! {
    #[test]
    fn acknowledged_is_kept_once_and_in_order(
        faults in prop::collection::vec(fault(), 0..40),
        steps in prop::collection::vec(step(), 0..25),
    ) {
        runtime().block_on(simulate(faults, steps));
    }
}
