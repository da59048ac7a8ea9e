//! SIGTERM: open statements finish, idle clients are told, nobody new is let in, nothing is left in doubt.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::error::SqlState;

use super::load::{Load, SCHEMA};
use super::stage::{Kept, PATIENCE, Stage, eventually, fails_with, over_both_buffers, value};

over_both_buffers!(sigterm_finishes_what_is_open_and_leaves_nothing_in_doubt);

/// A startup message of protocol 3.0.
pub fn startup(user: &str, database: &str) -> Vec<u8> {
    let mut body = 196_608_i32.to_be_bytes().to_vec();
    for word in ["user", user, "database", database] {
        body.extend_from_slice(word.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut message = (body.len() as i32 + 4).to_be_bytes().to_vec();
    message.extend(body);
    message
}

async fn sigterm_finishes_what_is_open_and_leaves_nothing_in_doubt(kept: Kept) {
    let stage = Stage::shared_on(kept, "sigterm", SCHEMA).await;
    stage.cut();

    // An idle client, byte by byte: what it is told without having asked.
    let mut idle = TcpStream::connect(("127.0.0.1", stage.outpost.port())).await.unwrap();
    idle.write_all(&startup("postgres", &stage.site.name)).await.unwrap();
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"Z\0\0\0\x05I") {
        let mut chunk = [0; 4096];
        let length = idle.read(&mut chunk).await.unwrap();
        assert!(length > 0, "the daemon hung up: {}", String::from_utf8_lossy(&greeting));
        greeting.extend_from_slice(&chunk[..length]);
    }

    let load = Load::start(&stage.outpost.url(), 3);
    eventually("the clients write", async || load.acknowledged.load(Ordering::Relaxed) > 20).await;
    // A statement that is open, and one that writes.
    let (reading, writing) = (stage.client().await, stage.client().await);
    let read = tokio::spawn(async move { value(&reading, "SELECT 'finished' FROM pg_sleep(3)").await });
    let write = tokio::spawn(async move {
        writing.execute("INSERT INTO token SELECT gen_random_uuid(), 99, 1 FROM pg_sleep(2)", &[]).await
    });
    let replica = stage.site.replica().await.unwrap();
    eventually("the statements run", async || {
        let asleep =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        value(&replica, asleep).await == "2"
    })
    .await;

    let ending = stage.outpost.terminate();
    let asking = async {
        // Refused outright, or told 57P03: not let in, and not left waiting.
        eventually("new clients are not let in", async || lab::postgres::connect(&stage.outpost.url()).await.is_err())
            .await;
    };
    let (status, ()) = tokio::join!(ending, asking);
    assert_eq!(status.unwrap().code(), Some(0));

    let mut farewell = Vec::new();
    tokio::time::timeout(PATIENCE, idle.read_to_end(&mut farewell)).await.unwrap().unwrap();
    let farewell = String::from_utf8_lossy(&farewell).into_owned();
    assert!(farewell.starts_with('E') && farewell.contains("FATAL") && farewell.contains("C57P01"), "{farewell:?}");
    assert_eq!(read.await.unwrap(), "finished");
    assert_eq!(write.await.unwrap().expect("an open write finishes"), 1);

    // What was not acknowledged before an orderly stop is not done: nothing is in doubt.
    let outcome = load.stop().await.unanswered_is_refused();
    println!("{outcome}");
    stage.outpost.restart().await.unwrap();
    let client = stage.client().await;
    assert_eq!(value(&client, "SELECT count(*) FROM token WHERE client = 99").await, "1");
    client.execute("DELETE FROM token WHERE client = 99", &[]).await.unwrap();
    outcome.must_be_in(&client).await;
    stage.drain().await;
    outcome.must_be_in(&stage.main().await).await;
}

#[tokio::test]
async fn a_transaction_left_open_does_not_keep_the_daemon() {
    let stage = Stage::shared("sigterm_open", SCHEMA).await;
    let client = stage.client().await;
    client.batch_execute("BEGIN; INSERT INTO token VALUES (gen_random_uuid(), 1, 1)").await.unwrap();
    let status = tokio::time::timeout(Duration::from_secs(25), stage.outpost.terminate()).await.unwrap();
    assert_eq!(status.unwrap().code(), Some(0));
    let refused = client.batch_execute("COMMIT").await.expect_err("the daemon has gone");
    if refused.as_db_error().is_some() {
        fails_with::<()>(Err(refused), &SqlState::ADMIN_SHUTDOWN);
    }
    stage.outpost.restart().await.unwrap();
    assert_eq!(value(&stage.client().await, "SELECT count(*) FROM token").await, "0");
}
