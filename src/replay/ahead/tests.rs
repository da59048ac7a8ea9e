use std::sync::Mutex;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::buffer::log::Log;
use crate::buffer::memory::{Disk, MemoryLog};
use crate::buffer::{BufferConfig, Draft};
use crate::catalog::Catalog;
use crate::entry::{EntryTable, FORMAT, TableName};

/// A buffer with entries of about so many bytes, and where its log keeps them.
async fn buffer(sizes: &[usize]) -> (Buffer, Arc<Mutex<Disk>>) {
    let disk = Arc::<Mutex<Disk>>::default();
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new(&disk));
    let (config, catalog) = (BufferConfig::default(), Arc::new(Catalog::default()));
    let opened = Buffer::open_log(log, &config, catalog, Seq::ZERO, CancellationToken::new()).await;
    let buffer = opened.unwrap().0;
    for bytes in sizes {
        let table = EntryTable {
            name: TableName { schema: "public".into(), name: "t".into() },
            columns: vec![crate::entry::EntryColumn { name: "body".into(), type_name: "text".into(), shape: None }],
            via: None,
            key: Vec::new(),
            fingerprint: 0,
            origin: None,
        };
        let entry = Entry {
            format: FORMAT,
            seq: Seq::ZERO,
            uuid: Uuid::now_v7(),
            database: String::new(),
            role: "postgres".into(),
            application_name: String::new(),
            created_at: String::new(),
            statements: Vec::new(),
            tables: vec![table],
            effects: vec![Effect::Insert { table: 0, row: vec![Some("x".repeat(*bytes).into())] }],
            actions: Vec::new(),
            retry_of: None,
        };
        buffer.commit(Draft { entry, changes: Vec::new() }).await.unwrap();
    }
    (buffer, disk)
}

async fn group(ahead: &mut Ahead, buffer: &Buffer, sent: u64, limit: usize) -> Vec<u64> {
    let group = ahead.group(buffer, Seq(sent), limit).await.unwrap().0;
    group.iter().map(|entry| entry.seq.0).collect()
}

#[tokio::test]
async fn a_group_has_so_many_bytes_and_one_entry_at_least() {
    let (buffer, _) = buffer(&[100, 600_000, 600_000, 3_000_000, 9_000_000, 100, 100, 100]).await;
    let mut ahead = Ahead::default();
    assert_eq!(group(&mut ahead, &buffer, 0, 256).await, [1, 2, 3]);
    assert_eq!(group(&mut ahead, &buffer, 3, 256).await, [4]);
    assert_eq!(group(&mut ahead, &buffer, 4, 256).await, [5]);
    assert_eq!(group(&mut ahead, &buffer, 5, 2).await, [6, 7]);
    assert_eq!(group(&mut ahead, &buffer, 7, 2).await, [8]);
    assert!(group(&mut ahead, &buffer, 8, 2).await.is_empty());
}

/// It goes on from wherever it is told to, whatever it has: main's ledger decides.
#[tokio::test]
async fn it_goes_back_and_forth() {
    let (buffer, disk) = buffer(&[1_000; 20]).await;
    let mut ahead = Ahead::default();
    assert_eq!(group(&mut ahead, &buffer, 4, 3).await, [5, 6, 7]);
    assert_eq!(group(&mut ahead, &buffer, 4, 1).await, [5], "what failed is still there");
    ahead.forget_before(Seq(7));
    assert_eq!(group(&mut ahead, &buffer, 6, 2).await, [7, 8]);
    assert_eq!(group(&mut ahead, &buffer, 5, 2).await, [6, 7], "main went back");
    assert_eq!(group(&mut ahead, &buffer, 0, 2).await, [1, 2]);
    assert_eq!(group(&mut ahead, &buffer, 18, 9).await, [19, 20], "main has more than was read");
    ahead.forget_before(Seq(20));
    assert_eq!(ahead.entry(&buffer, Seq(20)).await.unwrap().map(|entry| entry.seq), Some(Seq(20)));
    assert_eq!(ahead.entry(&buffer, Seq(3)).await.unwrap().map(|entry| entry.seq), Some(Seq(3)));
    assert_eq!(ahead.entry(&buffer, Seq(21)).await.unwrap(), None);
    assert_eq!(ahead.entry(&buffer, Seq::ZERO).await.unwrap(), None);
    drop(disk);
}

/// Neither what did not fit into a transaction nor what failed.
#[tokio::test]
async fn nothing_is_read_twice() {
    let (buffer, disk) = buffer(&[1_500_000; 12]).await;
    let mut ahead = Ahead::default();
    assert_eq!(group(&mut ahead, &buffer, 0, 256).await, [1]);
    // Who asks the log again finds a gap; the newest would come from memory.
    disk.lock().unwrap().records.clear();
    assert_eq!(group(&mut ahead, &buffer, 1, 256).await, [2]);
    assert_eq!(group(&mut ahead, &buffer, 0, 1).await, [1]);
    ahead.forget_before(Seq(2));
    assert_eq!(group(&mut ahead, &buffer, 1, 1).await, [2]);
    assert_eq!(ahead.entry(&buffer, Seq(2)).await.unwrap().map(|entry| entry.seq), Some(Seq(2)));
    assert_eq!(group(&mut ahead, &buffer, 2, 256).await, [3]);
    assert!(ahead.0.len() <= 3, "{} entries are kept", ahead.0.len());
}

/// What has been read does not hide what came since.
#[tokio::test]
async fn it_reads_on_behind_what_it_has() {
    let (buffer, _) = buffer(&[100; 3]).await;
    let mut ahead = Ahead::default();
    assert_eq!(group(&mut ahead, &buffer, 0, 2).await, [1, 2]);
    let again = ahead.entry(&buffer, Seq(3)).await.unwrap().unwrap();
    for _ in 0..2 {
        buffer.commit(Draft { entry: (*again).clone(), changes: Vec::new() }).await.unwrap();
    }
    assert_eq!(group(&mut ahead, &buffer, 2, 256).await, [3, 4, 5]);
    assert_eq!(group(&mut ahead, &buffer, 0, 256).await, [1, 2, 3, 4, 5]);
}

/// The ledger never passes over what is not there.
#[tokio::test]
async fn a_gap_ends_a_group_and_is_told() {
    let (buffer, disk) = buffer(&[3_000_000; 6]).await;
    disk.lock().unwrap().records.remove(&Seq(3));
    let mut ahead = Ahead::default();
    assert_eq!(group(&mut ahead, &buffer, 0, 256).await, [1]);
    assert_eq!(group(&mut ahead, &buffer, 1, 256).await, [2]);
    let gap = ahead.group(&buffer, Seq(2), 256).await;
    assert!(matches!(&gap, Err(Ending::Halted(why)) if why.contains("entry 3")), "{gap:?}");
    assert_eq!(group(&mut ahead, &buffer, 3, 256).await, [4]);
}
