//! Thousands of records, over Redis and files.

use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::records::{PAGE_BYTES, PAGE_RECORDS};
use super::*;
use crate::buffer::BufferConfig;
use crate::buffer::contract::{Home, record, records};
use crate::buffer::log::Log;
use crate::buffer::memory::{Disk, Fault, lock};
use crate::buffer::testing::{catalog, draft};

/// How many are in quarantine; every tenth waits for the one before.
const MANY: u64 = 3_000;
/// Four that are large.
const LARGE: [u64; 4] = [1_001, 1_002, 1_003, 2_001];

async fn fill(home: &Home) {
    let log = home.log();
    log.claim(true, Seq::ZERO).await.unwrap();
    for first in (1..=MANY).step_by(100) {
        log.append(&records(first..=first + 99)).await.unwrap();
        let put = (first..first + 100).map(|seq| {
            let message = "x".repeat(if LARGE.contains(&seq) { 600 << 10 } else { 10 });
            let waits_for = (seq % 10 == 0).then(|| Seq(seq - 1));
            Quarantined { waits_for, ..Quarantined::new(record(seq).entry, serde_json::json!({ "message": message })) }
        });
        for quarantined in put.collect::<Vec<_>>() {
            log.quarantine(&quarantined).await.unwrap();
        }
    }
}

/// What is in memory at a time is bounded, and nothing is left out.
async fn pages_are_small(log: &dyn Log) {
    let (mut pages, mut seen, mut count) = (Pages::all(log).await.unwrap(), Vec::new(), 0);
    while let Some(page) = pages.next(log).await.unwrap() {
        let bytes: usize = page.iter().map(|record| serde_json::to_string(record).unwrap().len()).sum();
        assert!(page.len() <= PAGE_RECORDS && (page.len() == 1 || bytes as u64 <= PAGE_BYTES + PAGE_BYTES / 10));
        seen.extend(page.iter().map(|record| record.seq.0));
        count += 1;
    }
    assert_eq!(seen, (1..=MANY).collect::<Vec<_>>());
    assert!(count < 30, "{count} pages");
}

async fn listed(buffer: &Buffer) -> Vec<u64> {
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let some = buffer.quarantine_heads(after, 700).await.unwrap();
        assert!(some.len() <= 700 && some.iter().all(|record| record.entry.effects.is_empty()));
        let Some(last) = some.last() else { return seen };
        after = Some(last.seq);
        seen.extend(some.iter().map(|record| record.entry.place().0));
    }
}

async fn open(home: &Home, stop: &CancellationToken) -> (Buffer, JoinHandle<()>) {
    let (config, catalog) = (BufferConfig::default(), Arc::new(catalog()));
    Buffer::open_log(home.log(), &config, catalog, Seq::ZERO, stop.clone()).await.unwrap()
}

async fn thousands_are_looked_through_and_decided(home: Home) {
    fill(&home).await;
    pages_are_small(&*home.log()).await;
    let stop = CancellationToken::new();
    let (buffer, task) = open(&home, &stop).await;
    assert_eq!(buffer.status().quarantined, MANY);
    assert_eq!(listed(&buffer).await, (1..=MANY).collect::<Vec<_>>());
    assert_eq!(buffer.quarantine_record(Seq(1_002)).await.unwrap().unwrap().entry.effects.len(), 1);
    // A dependent alone may not go; the one it waits for takes it along.
    assert!(matches!(buffer.retry(Which::One(Seq(20)), "anna").await, Err(ActError::Waits { .. })));
    let again = buffer.retry(Which::One(Seq(19)), "anna").await.unwrap();
    assert_eq!(again, [(Seq(19), Seq(MANY + 1)), (Seq(20), Seq(MANY + 2))]);
    assert_eq!(buffer.retry(Which::One(Seq(19)), "anna").await.unwrap(), again, "sent again twice");
    buffer.skip(Seq(1_002), "anna").await.unwrap();
    assert!(matches!(buffer.retry(Which::One(Seq(1_002)), "anna").await, Err(ActError::Decided { .. })));
    assert!(matches!(buffer.skip(Seq(MANY + 9), "anna").await, Err(ActError::NotThere(_))));
    buffer.settle_retries(Seq(MANY + 1)).await.unwrap();
    let left: Vec<u64> = (1..=MANY).filter(|seq| ![19, 1_002].contains(seq)).collect();
    assert_eq!((listed(&buffer).await, buffer.status().quarantined), (left.clone(), left.len() as u64));
    // As another process finds it. Entry 20 is still on its way.
    stop.cancel();
    task.await.unwrap();
    drop(buffer);
    let (again, _task) = open(&home, &CancellationToken::new()).await;
    assert_eq!(listed(&again).await, left);
    again.settle_retries(Seq(MANY + 2)).await.unwrap();
    assert_eq!(again.status().quarantined, left.len() as u64 - 1);
}

#[tokio::test]
async fn thousands_in_redis() {
    thousands_are_looked_through_and_decided(Home::redis().await).await;
}

#[tokio::test]
async fn thousands_in_files() {
    thousands_are_looked_through_and_decided(Home::file()).await;
}

/// Entry 1 is sent again as entry 2, and the answer about the record that says so is lost. Gives where all of it is.
async fn sent_again_without_an_answer(fault: Fault) -> (Home, CancellationToken, Buffer) {
    let disk = Arc::new(Mutex::new(Disk::default()));
    let home = Home::Memory(Arc::clone(&disk));
    let stop = CancellationToken::new();
    let (buffer, _task) = open(&home, &stop).await;
    assert_eq!(buffer.commit(draft(1)).await, Ok(Seq(1)));
    let entry = buffer.read(Seq::ZERO, 1).await.unwrap().remove(0);
    buffer.quarantine(Quarantined::new(entry, serde_json::json!({}))).await.unwrap();
    lock(&disk).faults_aside = [Fault::None, fault].into();
    assert!(buffer.retry(Which::One(Seq(1)), "anna").await.is_err());
    assert_eq!(buffer.progress().borrow().last, Seq(2));
    (home, stop, buffer)
}

async fn fate(buffer: &Buffer) -> Fate {
    buffer.quarantine_record(Seq(1)).await.unwrap().unwrap().fate
}

/// What main decides is written down although nobody knew which entry it was.
#[tokio::test]
async fn a_lost_answer_is_made_good_when_main_has_the_entry() {
    for fault in [Fault::Refused, Fault::Lost, Fault::Executed] {
        let (_home, _stop, buffer) = sent_again_without_an_answer(fault).await;
        buffer.retries_decided(&[(Seq(1), Seq(2))]).await.unwrap();
        assert_eq!(fate(&buffer).await, Fate::Retried { seq: Seq(2) }, "{fault:?}");
        assert!(matches!(buffer.retry(Which::One(Seq(1)), "anna").await, Err(ActError::Decided { .. })));
    }
}

/// The log keeps the new entry for as long as it has to be looked for there, whatever the time of retention says.
#[tokio::test(start_paused = true)]
async fn what_is_looked_for_is_not_dropped() {
    let (home, stop, buffer) = sent_again_without_an_answer(Fault::Refused).await;
    stop.cancel();
    drop(buffer);
    let config = BufferConfig { retention: Duration::from_secs(1), ..BufferConfig::default() };
    let (buffer, _task) =
        Buffer::open_log(home.log(), &config, Arc::new(catalog()), Seq(2), CancellationToken::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let kept = || async { home.log().read(Seq::ZERO, 10, u64::MAX).await.unwrap().len() };
    assert_eq!(kept().await, 1, "entry 1 may go, entry 2 is looked for");
    buffer.settle_retries(Seq(2)).await.unwrap();
    assert_eq!((fate(&buffer).await, buffer.progress().borrow().last), (Fate::Retried { seq: Seq(2) }, Seq(2)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(kept().await, 0);
}

/// A log that was emptied cannot tell: then nothing is sent again, and an operator decides.
#[tokio::test]
async fn what_a_log_has_lost_is_not_sent_again() {
    let (home, stop, buffer) = sent_again_without_an_answer(Fault::Refused).await;
    stop.cancel();
    drop(buffer);
    let Home::Memory(disk) = &home else { unreachable!("it is in memory") };
    lock(disk).records.clear();
    let (config, stop) = (BufferConfig::default(), CancellationToken::new());
    let (buffer, _task) = Buffer::open_log(home.log(), &config, Arc::new(catalog()), Seq(2), stop).await.unwrap();
    buffer.settle_retries(Seq(2)).await.unwrap();
    let error = buffer.retry(Which::One(Seq(1)), "anna").await.unwrap_err();
    assert!(matches!(error, ActError::Lost(Seq(1))), "{error}");
    assert_eq!(buffer.progress().borrow().last, Seq(2), "sent once more");
    buffer.skip(Seq(1), "anna").await.unwrap();
    assert_eq!(fate(&buffer).await, Fate::Skipped);
}

/// Whoever looks is told that replay cannot go on, although commits are still taken.
#[tokio::test(start_paused = true)]
async fn a_record_that_finds_no_room_is_told() {
    let disk = Arc::new(Mutex::new(Disk::default()));
    let (buffer, _task) = open(&Home::Memory(Arc::clone(&disk)), &CancellationToken::new()).await;
    assert_eq!(buffer.commit(draft(1)).await, Ok(Seq(1)));
    let rejected = Quarantined::new(buffer.read(Seq::ZERO, 1).await.unwrap().remove(0), serde_json::json!({}));
    let refuse = async || {
        lock(&disk).faults_aside = [Fault::Refused].into();
        assert!(buffer.quarantine(rejected.clone()).await.is_err());
        let status = buffer.status();
        assert!(status.available && !status.accepts(), "{status:?}");
        assert_eq!(status.error().map(String::as_str), Some("no room"));
    };
    refuse().await;
    buffer.commit(draft(2)).await.unwrap();
    assert!(!buffer.status().accepts(), "that another kind of thing found room says nothing");
    buffer.quarantine(rejected.clone()).await.unwrap();
    assert!(buffer.status().accepts());
    // Nobody tries again: then nothing is known any more.
    refuse().await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(buffer.status().accepts());
}
