//! pgbench's own TPC-B script with the link cut, in each of its protocols, several clients at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stage::{Stage, eventually, run, succeeded, try_rows, value};

const CLIENTS: u64 = 4;
/// Of each client in each protocol.
const TRANSACTIONS: u64 = 40;

/// The four sums that TPC-B keeps equal, and the number of transactions.
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
    (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
    (SELECT count(*) FROM pgbench_history)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tpcb_with_the_link_cut_keeps_its_sums() {
    let stage = Stage::own("pgbench", "SELECT 1").await;
    let pgbench = lab::postgres::binary("pgbench").unwrap();
    succeeded(&run(&pgbench, &["-i", "-s", "2", "-q", &stage.site.main_url]).await);
    stage.lab().wait_replica_caught_up().await.unwrap();

    stage.cut();
    // What main made past the daemon is noticed with the tracker's next look at the replica.
    let client = stage.client().await;
    let probe = "BEGIN; UPDATE pgbench_accounts SET abalance = abalance WHERE aid = 1; ROLLBACK";
    eventually("the new tables are known", async || {
        client.batch_execute(probe).await.is_ok() || client.batch_execute("ROLLBACK").await.is_err()
    })
    .await;
    // Somebody looks on: every single read must find the sums equal, half a transaction never.
    let looking = Arc::new(AtomicBool::new(true));
    let onlooker = tokio::spawn(look_on(stage.client().await, Arc::clone(&looking)));
    let mut acknowledged = 0;
    for mode in ["simple", "extended", "prepared"] {
        let (clients, transactions) = (CLIENTS.to_string(), TRANSACTIONS.to_string());
        // `-n`: pgbench's own VACUUM and TRUNCATE beforehand are not part of TPC-B and need main.
        let arguments = ["-n", "-M", mode, "-c", &clients, "-j", "2", "-t", &transactions, &stage.outpost.url()];
        let printed = succeeded(&run(&pgbench, &arguments).await);
        println!("{printed}");
        let all = CLIENTS * TRANSACTIONS;
        assert!(printed.contains(&format!("number of transactions actually processed: {all}/{all}")), "{printed}");
        assert!(printed.contains("number of failed transactions: 0 "), "{printed}");
        acknowledged += all;
    }
    looking.store(false, Ordering::Relaxed);
    let looks = onlooker.await.unwrap();
    assert!(looks > 2, "only {looks} looks in all this time");

    let client = stage.client().await;
    let pending = try_rows(&client, SUMS).await.unwrap();
    assert_equal_sums(&pending[0]);
    assert_eq!(pending[0][4].as_deref(), Some(acknowledged.to_string().as_str()));
    assert_eq!(value(&stage.main().await, "SELECT count(*) FROM pgbench_history").await, "0", "the link was not cut");

    stage.drain().await;
    let main = stage.main().await;
    assert_eq!(try_rows(&main, SUMS).await.unwrap(), pending);
    assert_eq!(try_rows(&client, SUMS).await.unwrap(), pending);
    // Each account is what its own history says.
    let wrong = "SELECT count(*) FROM pgbench_accounts a WHERE abalance <> \
                 (SELECT coalesce(sum(delta), 0) FROM pgbench_history h WHERE h.aid = a.aid) \
                 AND (abalance <> 0 OR aid IN (SELECT aid FROM pgbench_history))";
    assert_eq!(value(&main, wrong).await, "0");
}

async fn look_on(client: tokio_postgres::Client, looking: Arc<AtomicBool>) -> u64 {
    let mut looks = 0;
    while looking.load(Ordering::Relaxed) {
        assert_equal_sums(&try_rows(&client, SUMS).await.unwrap()[0]);
        looks += 1;
    }
    looks
}

#[track_caller]
fn assert_equal_sums(row: &[Option<String>]) {
    assert!(row[0] == row[1] && row[1] == row[2] && row[2] == row[3], "the sums differ: {row:?}");
}
