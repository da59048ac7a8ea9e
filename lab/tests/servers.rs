//! Real servers behind the link: replication stops and goes on, faults, and nothing is left behind.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, LabOptions, Site};

const SOON: Duration = Duration::from_secs(20);

fn alive(pid: u32) -> bool {
    // A zombie is dead; it only waits for its parent to look.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !check().await {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn rows_on_replica(site: &Site) -> i64 {
    site.replica().await.unwrap().query_one("SELECT count(*) FROM notes", &[]).await.unwrap().get(0)
}

async fn insert(site: &Site) {
    site.main().await.unwrap().batch_execute("INSERT INTO notes VALUES ('x')").await.unwrap();
}

/// A write that would be on the replica long before this if nothing were in its way.
async fn stays_away(site: &Site, rows: i64) {
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(rows_on_replica(site).await, rows);
}

#[tokio::test]
async fn replication_follows_link_freeze_and_faults() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let site = lab.database("observatory").await.unwrap();
    site.main().await.unwrap().batch_execute("CREATE TABLE notes (text text)").await.unwrap();
    insert(&site).await;
    site.wait_replica_caught_up().await.unwrap();
    assert_eq!(rows_on_replica(&site).await, 1);

    lab.link().cut().unwrap();
    assert!(lab::postgres::connect(&site.main_link_url).await.is_err());
    insert(&site).await;
    stays_away(&site, 1).await;
    lab.link().heal().unwrap();
    eventually("catching up after a cut", async || rows_on_replica(&site).await == 2).await;

    lab.freeze().await.unwrap();
    insert(&site).await;
    stays_away(&site, 2).await;
    lab.thaw().await.unwrap();
    eventually("catching up after a freeze", async || rows_on_replica(&site).await == 3).await;

    lab.kill_main().unwrap();
    assert!(site.main().await.is_err());
    lab.restart_main().await.unwrap();
    insert(&site).await;
    eventually("catching up after main's crash", async || rows_on_replica(&site).await == 4).await;

    lab.kill_replica().unwrap();
    assert!(site.replica().await.is_err());
    insert(&site).await;
    lab.restart_replica().await.unwrap();
    eventually("catching up after the replica's crash", async || rows_on_replica(&site).await == 5).await;

    lab.link().delay(Duration::from_millis(100)).unwrap();
    let far = lab::postgres::connect(&site.main_link_url).await.unwrap();
    let start = Instant::now();
    far.batch_execute("SELECT 1").await.unwrap();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(100) && took < Duration::from_millis(250), "{took:?}");

    let (pids, folder) = (lab.pids(), lab.folder().to_owned());
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| alive(*pid)));
    drop(lab);
    assert!(!pids.iter().any(|pid| alive(*pid)), "a dropped lab leaves no process");
    assert!(!folder.exists(), "a dropped lab leaves no folder");
}

#[tokio::test]
async fn redis_keeps_what_it_acknowledged() {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let ask = |command: &'static str| {
        let address = lab.redis_url().replace("redis://", "");
        async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
            let mut answer = [0; 256];
            let count = stream.read(&mut answer).await.unwrap();
            String::from_utf8_lossy(&answer[..count]).into_owned()
        }
    };
    assert!(ask("CONFIG GET appendfsync").await.contains("always"));
    assert!(ask("CONFIG GET maxmemory-policy").await.contains("noeviction"));
    assert_eq!(ask("SET kept yes").await, "+OK\r\n");
    lab.kill_redis().unwrap();
    lab.restart_redis().await.unwrap();
    assert!(ask("GET kept").await.contains("yes"));
}

/// Starts the `lab` program's hidden `hold` command, which starts a lab, prints its pids and folder, and then ends as
/// told. Returns the printed line's words.
fn hold(ending: &str) -> (std::process::Child, Vec<String>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["hold", "--ending", ending])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.split_whitespace().map(str::to_owned).collect())
}

#[tokio::test]
async fn nothing_outlives_a_parent_that_is_killed_or_panics() {
    for ending in ["wait", "panic"] {
        let (mut child, words) = hold(ending);
        let (folder, pids) = words.split_last().unwrap();
        let pids: Vec<u32> = pids.iter().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), 3, "{ending}");
        if ending == "wait" {
            assert!(pids.iter().all(|pid| alive(*pid)));
            child.kill().unwrap();
        }
        assert!(!child.wait().unwrap().success());
        eventually(ending, async || !pids.iter().any(|pid| alive(*pid))).await;

        // A killed parent cannot remove its folder; the next lab does, this one or another test's.
        if ending == "wait" {
            drop(lab::folder::Folder::create(&lab::process::RunAs::detect().unwrap()).unwrap());
        }
        assert!(!Path::new(folder).exists(), "{ending}");
    }
}

/// Each test has a thread and a runtime of its own, and both end before the next test asks for the lab.
#[test]
fn a_shared_lab_outlives_the_test_that_started_it() {
    for name in ["first", "second"] {
        let test = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let site = Lab::shared().await.unwrap().database(name).await.unwrap();
                lab::postgres::connect(&site.main_link_url).await.unwrap();
                site.replica().await.unwrap();
            });
        });
        test.join().unwrap();
    }
}
