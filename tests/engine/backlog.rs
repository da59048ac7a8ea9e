//! A backlog of large entries: each is read once, whatever becomes of it.

use pgoutpost::entry::{Entry, EntryTable, Seq};

use crate::harness::{Outpost, entry, insert, table};

const BIG: &str = "CREATE TABLE big(id int PRIMARY KEY, body text)";
const BODY: usize = 400_000;

fn big() -> EntryTable {
    table("big", &["id integer", "body text"], 1)
}

fn large(id: usize, bytes: usize) -> Entry {
    entry("postgres", vec![big()], vec![insert(&[&id.to_string(), &"x".repeat(bytes)])])
}

/// 25 MB of them, of which the newest 6 MB are in memory anyway.
#[tokio::test]
async fn large_entries_are_read_once() {
    let outpost = Outpost::start("backlog", BIG).await;
    for id in 0..64 {
        outpost.commit(large(id, BODY)).await;
    }
    let (before, whole) = (outpost.bytes_read(), 64 * (BODY as u64 + 500));
    let replayer = outpost.replay();
    outpost.drained().await;
    let read = outpost.bytes_read() - before;
    assert!(read <= whole, "{read} bytes were read of {whole}");
    assert!(read >= whole / 2, "{read} bytes were read of {whole}: the backlog was in memory");
    assert_eq!(outpost.texts("SELECT count(*) || ' ' || sum(length(body)) FROM big").await, ["64 25600000"]);
    assert_eq!(replayer.stop().await.applied_total, 64);
}

/// The daemon goes, main goes back: what is larger than all that is read at a time gets there, in its place.
#[tokio::test]
async fn what_is_larger_than_any_budget_gets_there() {
    let mut outpost = Outpost::start("backlog_huge", BIG).await;
    for (id, bytes) in [(1, 10), (2, 9_000_000), (3, 10), (4, 6_000_000), (5, 5_000_000), (6, 10)] {
        outpost.commit(large(id, bytes)).await;
    }
    outpost.restart().await;
    let replayer = outpost.replay();
    outpost.drained().await;
    replayer.stop().await;
    let restored = format!(
        "DELETE FROM big WHERE id > 3; UPDATE pgoutpost.ledger SET seq = 3, entry = '{}'",
        outpost.buffer.read(Seq(2), 1).await.unwrap()[0].uuid
    );
    outpost.database.main().await.batch_execute(&restored).await.unwrap();
    let replayer = outpost.replay();
    replayer.status.clone().wait_for(|status| status.setbacks_total > 0).await.unwrap();
    outpost.drained().await;
    let there = "SELECT string_agg(id || ':' || length(body), ' ' ORDER BY id) FROM big";
    assert_eq!(outpost.texts(there).await, ["1:10 2:9000000 3:10 4:6000000 5:5000000 6:10"]);
    replayer.stop().await;
}
