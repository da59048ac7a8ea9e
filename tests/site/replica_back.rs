//! A replica that comes back in an older state: no client may see less than before.

use lab::outpost::OutpostOptions;
use lab::postgres::connect;

use super::stage::{Stage, eventually, execute, get, redis, run, succeeded, value};

/// A site with 21 confirmed rows, and a copy of its replica's folder from when there was one.
struct Aged {
    stage: Stage,
    data: String,
    old: String,
}

impl Aged {
    async fn new(name: &str, settings: impl FnOnce(OutpostOptions) -> OutpostOptions) -> Aged {
        let schema = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)";
        let stage = Stage::own_with(name, schema, settings).await;
        let lab = stage.lab();
        let folder = |name: &str| lab.replica().folder().join(name).to_str().unwrap().to_owned();
        let (data, old) = (folder("data"), folder("old"));
        lab.kill_replica().unwrap();
        succeeded(&run("cp".as_ref(), &["-a", &data, &old]).await);
        lab.restart_replica().await.unwrap();
        eventually("clients are served", async || connect(&stage.outpost.url()).await.is_ok()).await;
        let client = stage.client().await;
        for id in 1..=20 {
            execute(&client, &format!("INSERT INTO t VALUES ({id})")).await;
        }
        stage.drain().await;
        eventually("everything is confirmed", async || nothing_pending(&stage).await).await;
        Aged { stage, data, old }
    }

    /// Kills the replica and puts the copy in its place.
    async fn go_back(&self) {
        self.stage.lab().kill_replica().unwrap();
        succeeded(&run("rm".as_ref(), &["-r", &self.data]).await);
        succeeded(&run("mv".as_ref(), &[&self.old, &self.data]).await);
    }
}

#[tokio::test]
async fn a_replica_that_went_back_shows_nobody_the_past() {
    let aged = Aged::new("replica_back", |options| options.setting("TRACKER__POLL_INTERVAL", "1s")).await;
    let Aged { stage, .. } = &aged;
    let lab = stage.lab();

    // The copy from before, and no main to catch up with.
    stage.cut();
    aged.go_back().await;
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

#[tokio::test]
async fn a_replica_older_than_what_the_buffer_keeps_answers_nobody() {
    let aged = Aged::new("replica_too_old", |options| options.setting("BUFFER__RETENTION", "1s")).await;
    let Aged { stage, .. } = &aged;
    let lab = stage.lab();
    let key = format!("site:{}:transaction_buffer", stage.site.name);
    eventually("the buffer has dropped what the replica has", async || {
        let answer = redis(&stage.site.redis_url, &["XLEN", &key]).await;
        let length = answer.lines().next().and_then(|line| line.strip_prefix(':'));
        length.unwrap().parse::<u32>().unwrap() < 15
    })
    .await;

    stage.cut();
    aged.go_back().await;
    lab.restart_replica().await.unwrap();
    let told = async || match connect(&stage.outpost.url()).await {
        Ok(client) => panic!("served with {} rows", value(&client, "SELECT count(*) FROM t").await),
        Err(error) => format!("{error:#}"),
    };
    eventually("clients are told why", async || told().await.contains("too old")).await;
    // A daemon that begins now waits for the replica as well.
    stage.outpost.kill9().unwrap();
    stage.outpost.launch().unwrap();
    for _ in 0..10 {
        assert!(connect(&stage.outpost.url()).await.is_err(), "a new daemon serves the past");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert!(stage.outpost.exited().unwrap().is_none(), "the daemon has given up");

    stage.heal();
    eventually("the replica has caught up", async || connect(&stage.outpost.url()).await.is_ok()).await;
    assert_eq!(value(&stage.client().await, "SELECT count(*) FROM t").await, "21");
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
