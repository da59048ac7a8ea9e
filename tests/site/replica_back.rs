//! A replica that comes back in an older state: no client may see less than before.

use lab::outpost::OutpostOptions;
use lab::postgres::connect;

use super::stage::{Stage, eventually, execute, get, run, succeeded, value};

#[tokio::test]
async fn a_replica_that_went_back_shows_nobody_the_past() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)";
    let rarely = |options: OutpostOptions| options.setting("TRACKER__POLL_INTERVAL", "1s");
    let stage = Stage::own_with("replica_back", schema, rarely).await;
    let lab = stage.lab();
    let data = lab.replica().folder().join("data");
    let old = lab.replica().folder().join("old");
    let (data, old) = (data.to_str().unwrap(), old.to_str().unwrap());
    lab.kill_replica().unwrap();
    succeeded(&run("cp".as_ref(), &["-a", data, old]).await);
    lab.restart_replica().await.unwrap();

    let mut connected = None;
    eventually("the daemon serves again", async || {
        connected = connect(&stage.outpost.url()).await.ok();
        connected.is_some()
    })
    .await;
    let client = connected.unwrap();
    for id in 1..=20 {
        execute(&client, &format!("INSERT INTO t VALUES ({id})")).await;
    }
    stage.drain().await;
    eventually("everything is confirmed", async || nothing_pending(&stage).await).await;

    // The copy from before, and no main to catch up with.
    stage.cut();
    lab.kill_replica().unwrap();
    succeeded(&run("rm".as_ref(), &["-r", data]).await);
    succeeded(&run("mv".as_ref(), &[old, data]).await);
    // Whoever gets in sees everything, however early: they knock before it is up, and the tracker looks rarely.
    let knocking: Vec<_> = (0..8).map(|_| tokio::spawn(knock(stage.outpost.url()))).collect();
    lab.restart_replica().await.unwrap();
    let seen = stage.site.replica().await.unwrap();
    assert_eq!(value(&seen, "SELECT count(*) FROM t").await, "1", "the replica did not go back");
    for knocker in knocking {
        assert_eq!(knocker.await.unwrap(), "21");
    }
    assert_eq!(value(&stage.client().await, "SELECT max(id) FROM t").await, "20");
}

/// Tries to connect until it succeeds, and counts the rows at once.
async fn knock(url: String) -> String {
    loop {
        if let Ok(client) = connect(&url).await {
            return value(&client, "SELECT count(*) FROM t").await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

async fn nothing_pending(stage: &Stage) -> bool {
    let (_, _, body) = get(&stage.outpost.http_url(), "/buffer-stats").await;
    let stats: serde_json::Value = serde_json::from_str(&body).unwrap();
    stats["pending"] == 0
}
