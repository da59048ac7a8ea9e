//! Thousands of records, over Redis and files.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::records::{PAGE_BYTES, PAGE_RECORDS};
use super::*;
use crate::buffer::BufferConfig;
use crate::buffer::contract::{Home, record, records};
use crate::buffer::log::Log;
use crate::buffer::testing::catalog;

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
