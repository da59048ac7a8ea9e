//! Reads are bounded in bytes: what is large is read once, and never in one piece.

use std::sync::{Arc, Mutex};

use super::{Faulty, Home, lock};
use crate::buffer::log::{Log, READ_BYTES, Record, within};
use crate::buffer::testing::{catalog, draft};
use crate::buffer::{Buffer, BufferConfig, transfer};
use crate::entry::{Effect, Seq};

/// A record of about so many bytes.
fn large(seq: u64, bytes: usize) -> Record {
    let mut entry = draft(seq as u32).entry;
    entry.seq = Seq(seq);
    if let Some(Effect::Insert { row, .. }) = entry.effects.first_mut() {
        row[1] = Some("x".repeat(bytes).into());
    }
    Record::new(entry).unwrap()
}

/// However large they are: a read ends where it is to, and never before it has one.
pub(super) async fn reads_so_many_bytes(home: Home) {
    let log = home.log();
    log.claim(true, Seq::ZERO).await.unwrap();
    let written: Vec<Record> = (1..=40).map(|seq| large(seq, if seq % 5 == 0 { 300_000 } else { 900 })).collect();
    for some in written.chunks(7) {
        log.append(some).await.unwrap();
    }
    for log in [Arc::clone(&log), home.log()] {
        for (limit, bytes) in [(100, 1), (100, 2_000), (2, 1_000_000), (100, 299_000), (100, 700_000), (100, u64::MAX)]
        {
            let mut at = Seq::ZERO;
            loop {
                let found = log.read(at, limit, bytes).await.unwrap();
                let rest = written[at.0 as usize..].iter().cloned();
                let json = |records: Vec<Record>| records.into_iter().map(|record| record.json).collect::<Vec<_>>();
                let next = found.last().map(Record::seq);
                assert_eq!(json(found), json(within(rest, limit, bytes)), "{limit} or {bytes} after {at}");
                let Some(next) = next else { break };
                at = next;
            }
            assert_eq!(at, Seq(40), "{limit} or {bytes}");
        }
    }
}

/// A backlog of large entries is read once, and never in one piece: at start, by whoever goes through it, into a file.
pub(super) async fn large_entries_are_read_once(home: Home) {
    let log = home.log();
    log.claim(true, Seq::ZERO).await.unwrap();
    let written: Vec<Record> = (1..=64).map(|seq| large(seq, 250_000)).collect();
    for some in written.chunks(8) {
        log.append(some).await.unwrap();
    }
    drop(log);
    let one = written[0].bytes() + 100;
    let all: u64 = written.iter().map(Record::bytes).sum();
    let log = Arc::new(Faulty { inner: home.log(), faults: Mutex::default(), read: Mutex::default() });
    let once = |what: &str| {
        let read = std::mem::take(&mut *lock(&log.read));
        let sum: u64 = read.iter().sum();
        assert!(sum >= all - 40 * one && sum <= all + 2 * one, "{what}: {sum} of {all} bytes");
        assert!(read.iter().all(|answer| *answer <= READ_BYTES + one), "{what}: {read:?}");
    };
    let (config, stop) = (BufferConfig::default(), tokio_util::sync::CancellationToken::new());
    let reading = Arc::clone(&log) as Arc<dyn Log>;
    let opened = Buffer::open_log(reading, &config, Arc::new(catalog()), Seq::ZERO, stop.clone()).await;
    let (buffer, task) = opened.unwrap();
    assert_eq!(buffer.status().pending_bytes, all);
    once("at start");
    let mut at = Seq::ZERO;
    while let Some(last) = buffer.read(at, 256).await.unwrap().last() {
        at = last.seq;
    }
    assert_eq!(at, Seq(64));
    once("by its end");
    stop.cancel();
    task.await.unwrap();
    let mut file = Vec::new();
    assert_eq!(transfer::export(&*log, "TEST", &mut file).await.unwrap().entries, 64);
    once("into a file");
}
