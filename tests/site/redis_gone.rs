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
    execute(&client, "INSERT INTO token VALUES (gen_random_uuid(), 9, 1); UPDATE counter SET n = n + 1 WHERE id = 1")
        .await;

    stage.lab().kill_redis().unwrap();
    // A daemon that finds out by this very write cannot know what became of it, and says that (08007); all others are
    // refused at once.
    let mut in_doubt = false;
    for attempt in 0..4 {
        let start = Instant::now();
        let refused = client.execute("INSERT INTO token VALUES (gen_random_uuid(), 9, 2)", &[]).await;
        let took = start.elapsed();
        let error = refused.expect_err("nobody can promise this");
        if attempt == 0 && error.code() == Some(&SqlState::TRANSACTION_RESOLUTION_UNKNOWN) {
            in_doubt = true;
            continue;
        }
        let report = fails_with::<()>(Err(error), &SqlState::CANNOT_CONNECT_NOW);
        assert!(took < AT_ONCE, "attempt {attempt} took {took:?}");
        assert!(report.message().contains("buffer"), "{report:?}");
    }
    // In a transaction it is the COMMIT that cannot be promised, if no statement was refused before.
    let refused = client.batch_execute("BEGIN; INSERT INTO token VALUES (gen_random_uuid(), 9, 3); COMMIT").await;
    fails_with(refused, &SqlState::CANNOT_CONNECT_NOW);
    let _ = client.batch_execute("ROLLBACK").await;

    // Reads see what was acknowledged and nothing of what was refused, on old connections and new.
    for reader in [&client, &stage.client().await] {
        assert_eq!(value(reader, "SELECT count(*) FROM token WHERE client = 9 AND n <> 2").await, "1");
        assert_eq!(value(reader, "SELECT n FROM counter WHERE id = 1").await, "1");
    }

    stage.lab().restart_redis().await.unwrap();
    let insert = "INSERT INTO token VALUES (gen_random_uuid(), 9, 4)";
    eventually("writes are accepted again", async || client.execute(insert, &[]).await.is_ok()).await;
    // What was in doubt is there once or not at all, and the same everywhere.
    let numbers = "SELECT string_agg(n::text, ',' ORDER BY n) FROM token WHERE client = 9";
    let seen = value(&client, numbers).await;
    assert!(seen == "1,4" || (in_doubt && seen == "1,2,4"), "{seen}");
    stage.drain().await;
    assert_eq!(value(&stage.main().await, numbers).await, seen);
    assert_eq!(value(&client, numbers).await, seen);
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

/// A transaction whose fate is unknown may still be done when Redis is back. Until that is decided nobody may build on the
/// state without it: that would lose its increment.
#[tokio::test]
async fn what_is_in_doubt_is_not_overwritten() {
    let stage = Stage::own("redis_doubt", SCHEMA).await;
    let (one, two) = (stage.client().await, stage.client().await);
    stage.cut();
    let raise = |n: u8| {
        format!(
            "BEGIN; INSERT INTO token VALUES (gen_random_uuid(), 9, {n}); UPDATE counter SET n = n + 1 WHERE id = 1"
        )
    };
    execute(&one, &format!("{}; COMMIT", raise(1))).await;
    execute(&one, &raise(2)).await;
    stage.lab().kill_redis().unwrap();
    let doubtful = one.batch_execute("COMMIT").await.expect_err("nobody can promise this");
    println!("{:?}", doubtful.code());
    let second = raise(3);
    let building = tokio::spawn(async move {
        let outcome = two.batch_execute(&second).await;
        (two, outcome)
    });
    // Time enough to evaluate, if it does not wait.
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.lab().restart_redis().await.unwrap();
    eventually("writes are accepted again", async || {
        one.execute("UPDATE counter SET n = 0 WHERE id = 8", &[]).await.is_ok()
    })
    .await;
    let (two, outcome) = building.await.unwrap();
    outcome.unwrap();
    execute(&two, "COMMIT").await;
    let both = "SELECT (SELECT count(*) FROM token) - (SELECT n FROM counter WHERE id = 1)";
    assert_eq!(value(&two, both).await, "0", "an increment was lost");
    stage.drain().await;
    assert_eq!(value(&stage.main().await, both).await, "0", "an increment was lost");
}
