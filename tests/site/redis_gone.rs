//! Redis dies: writes say so at once, reads go on, and the site comes back by itself.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::load::{Load, SCHEMA};
use super::stage::{Stage, eventually, execute, fails_with, value};

/// What "at once" means for a write that cannot be made durable.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn writes_are_refused_at_once_and_reads_go_on() {
    let stage = Stage::own("redis_gone", SCHEMA).await;
    let client = stage.client().await;
    stage.cut();
    execute(&client, "INSERT INTO token VALUES (gen_random_uuid(), 9, 1); UPDATE counter SET n = n + 1 WHERE id = 1").await;

    stage.lab().kill_redis().unwrap();
    // The daemon may have to find out with the first one; from then on it knows.
    for attempt in 0..3 {
        let start = Instant::now();
        let refused = client.execute("INSERT INTO token VALUES (gen_random_uuid(), 9, 2)", &[]).await;
        let took = start.elapsed();
        let report = fails_with(refused, &SqlState::CANNOT_CONNECT_NOW);
        assert!(took < AT_ONCE, "attempt {attempt} took {took:?}");
        assert!(report.message().contains("buffer"), "{report:?}");
    }
    // In a transaction it is the COMMIT that cannot be promised, if no statement was refused before.
    let refused = client.batch_execute("BEGIN; INSERT INTO token VALUES (gen_random_uuid(), 9, 3); COMMIT").await;
    fails_with(refused, &SqlState::CANNOT_CONNECT_NOW);
    let _ = client.batch_execute("ROLLBACK").await;

    // Reads see what was acknowledged and nothing of what was refused, on old connections and new.
    for reader in [&client, &stage.client().await] {
        assert_eq!(value(reader, "SELECT count(*) FROM token WHERE client = 9").await, "1");
        assert_eq!(value(reader, "SELECT n FROM counter WHERE id = 1").await, "1");
    }

    stage.lab().restart_redis().await.unwrap();
    let insert = "INSERT INTO token VALUES (gen_random_uuid(), 9, 4)";
    eventually("writes are accepted again", async || client.execute(insert, &[]).await.is_ok()).await;
    assert_eq!(value(&client, "SELECT string_agg(n::text, ',' ORDER BY n) FROM token WHERE client = 9").await, "1,4");
    stage.drain().await;
    let main = stage.main().await;
    assert_eq!(value(&main, "SELECT string_agg(n::text, ',' ORDER BY n) FROM token WHERE client = 9").await, "1,4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_dies_under_load_and_nothing_acknowledged_is_lost() {
    let stage = Stage::own("redis_load", SCHEMA).await;
    let load = Load::start(&stage.outpost.url(), 4);
    for _ in 0..6 {
        let goal = load.acknowledged.load(Ordering::Relaxed) + 30;
        eventually("the clients write", async || load.acknowledged.load(Ordering::Relaxed) >= goal).await;
        stage.lab().kill_redis().unwrap();
        let refused = load.refused.load(Ordering::Relaxed);
        eventually("the clients are refused", async || load.refused.load(Ordering::Relaxed) > refused).await;
        stage.lab().restart_redis().await.unwrap();
    }
    let goal = load.acknowledged.load(Ordering::Relaxed) + 10;
    eventually("the clients write", async || load.acknowledged.load(Ordering::Relaxed) >= goal).await;
    let outcome = load.stop().await;
    println!("{outcome}");
    outcome.must_be_in(&stage.client().await).await;
    stage.drain().await;
    outcome.must_be_in(&stage.main().await).await;
}
