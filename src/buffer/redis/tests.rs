use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::log::LeaseRange;
use super::super::testing::{catalog, draft};
use super::super::{Buffer, BufferConfig, BufferError, CommitError};
use super::*;

/// A Redis of one test's own, in a folder of its own. Gone with the value.
pub(in crate::buffer) struct Server {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
    options: Vec<&'static str>,
}

pub(in crate::buffer) const DURABLE: &[&str] =
    &["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"];

impl Server {
    pub(in crate::buffer) async fn start(options: &[&'static str]) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let child = Server::spawn(port, &folder, options);
        let server = Server { child, port, folder, options: options.to_vec() };
        server.ready().await;
        server
    }

    fn spawn(port: u16, folder: &tempfile::TempDir, options: &[&str]) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder.path());
        command.args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    async fn ready(&self) {
        let client = Client::open(self.url()).unwrap();
        let started = Instant::now();
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                && cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "redis-server does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(in crate::buffer) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn restart(&mut self) {
        self.child = Server::spawn(self.port, &self.folder, &self.options);
        self.ready().await;
    }

    /// What redis-cli would do.
    async fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let client = Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::Cmd::new();
        command.arg(words);
        command.query_async(&mut connection).await.unwrap()
    }

    fn config(&self) -> BufferConfig {
        BufferConfig { url: self.url(), ..BufferConfig::default() }
    }

    async fn try_open(&self, config: &BufferConfig, confirmed: Seq) -> Result<(Buffer, JoinHandle<()>), BufferError> {
        Buffer::open(config, "TEST", Arc::new(catalog()), confirmed, CancellationToken::new()).await
    }

    async fn open(&self) -> Buffer {
        self.try_open(&self.config(), Seq::ZERO).await.unwrap().0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Commits until the buffer is back.
async fn commit_patiently(buffer: &Buffer, number: u32) -> Seq {
    let started = Instant::now();
    loop {
        match buffer.commit(draft(number)).await {
            Ok(seq) => return seq,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(10), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn seqs(buffer: &Buffer) -> Vec<u64> {
    // Past the recent entries in memory: from the log itself.
    let records = buffer.log.0.read(Seq::ZERO, 1000, u64::MAX).await.unwrap();
    records.iter().map(|record| record.seq().0).collect()
}

#[tokio::test]
async fn entries_are_readable_and_survive_everything() {
    let mut server = Server::start(DURABLE).await;
    let buffer = server.open().await;
    for number in 1..=3 {
        assert_eq!(buffer.commit(draft(number)).await.unwrap(), Seq(u64::from(number)));
    }
    let fields: Vec<(String, std::collections::HashMap<String, String>)> =
        server.run(&["XRANGE", "site:TEST:transaction_buffer", "2-0", "2-0"]).await;
    assert_eq!(fields[0].1["role"], "observer");
    let entry: serde_json::Value = serde_json::from_str(&fields[0].1["entry"]).unwrap();
    assert_eq!((&entry["seq"], &entry["effects"][0]["row"][0]), (&2.into(), &"2".into()));

    server.kill();
    let error = buffer.commit(draft(9)).await.unwrap_err();
    assert!(matches!(error, CommitError::Unavailable(_) | CommitError::Unknown(_)), "{error}");
    let started = Instant::now();
    assert!(matches!(buffer.commit(draft(9)).await, Err(CommitError::Unavailable(_))));
    assert!(started.elapsed() < Duration::from_millis(100));
    assert!(!buffer.status().available);
    server.restart().await;
    let seq = commit_patiently(&buffer, 4).await;
    assert_eq!(seqs(&buffer).await, (1..=seq.0).collect::<Vec<_>>());
    let again = server.open().await;
    assert_eq!(again.status().pending, seq.0);
    assert_eq!(again.commit(draft(5)).await.unwrap(), seq.next());
}

#[tokio::test]
async fn seqs_go_on_after_trimming_and_after_the_ledger() {
    let server = Server::start(DURABLE).await;
    let config = BufferConfig { retention: Duration::ZERO, ..server.config() };
    let buffer = server.try_open(&config, Seq::ZERO).await.unwrap().0;
    for number in 1..=5 {
        buffer.commit(draft(number)).await.unwrap();
    }
    buffer.confirm(Seq(3));
    let started = Instant::now();
    while seqs(&buffer).await != [4, 5] {
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", seqs(&buffer).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    buffer.confirm(Seq(5));
    while !seqs(&buffer).await.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let buffer = server.try_open(&config, Seq(5)).await.unwrap().0;
    assert_eq!(buffer.commit(draft(6)).await.unwrap(), Seq(6));
    let _: () = server.run(&["FLUSHALL"]).await;
    let buffer = server.try_open(&config, Seq(41)).await.unwrap().0;
    assert_eq!(buffer.commit(draft(7)).await.unwrap(), Seq(42));
    // Also when only the stream is left to tell.
    let _: () = server.run(&["DEL", "site:TEST:meta"]).await;
    let buffer = server.try_open(&config, Seq(41)).await.unwrap().0;
    assert_eq!(buffer.commit(draft(8)).await.unwrap(), Seq(43));
}

#[tokio::test]
async fn a_redis_that_may_forget_is_refused() {
    for (options, word) in [
        (&["--appendonly", "no"][..], "appendonly"),
        (&["--appendonly", "yes", "--appendfsync", "everysec"], "appendfsync"),
        (&["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "allkeys-lru"], "maxmemory-policy"),
        (
            &["--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "yes"],
            "no-appendfsync-on-rewrite",
        ),
    ] {
        let server = Server::start(options).await;
        let error = server.try_open(&server.config(), Seq::ZERO).await.unwrap_err();
        assert!(matches!(&error, BufferError::Log(LogError::NotDurable(why)) if why.contains(word)), "{error}");
        let config = BufferConfig { require_durable: false, ..server.config() };
        let buffer = server.try_open(&config, Seq::ZERO).await.unwrap().0;
        assert_eq!(buffer.commit(draft(1)).await.unwrap(), Seq(1));
    }
}

#[tokio::test]
async fn a_redis_that_is_made_forgetful_while_it_is_used_takes_nothing_more() {
    let server = Server::start(DURABLE).await;
    let buffer = server.open().await;
    buffer.commit(draft(1)).await.unwrap();
    let _: () = server.run(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "yes"]).await;
    let mut taken = 1;
    let started = Instant::now();
    let error = loop {
        match buffer.commit(draft(2)).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{taken} were taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(error.to_string().contains("no-appendfsync-on-rewrite"), "{error}");
    let _: () = server.run(&["CONFIG", "SET", "no-appendfsync-on-rewrite", "no"]).await;
    while buffer.commit(draft(3)).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(40));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn out_of_memory_is_a_definite_no() {
    let server = Server::start(DURABLE).await;
    let buffer = server.open().await;
    buffer.commit(draft(1)).await.unwrap();
    let _: () = server.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = buffer.commit(draft(2)).await.unwrap_err();
    assert!(matches!(&error, CommitError::Refused(why) if why.contains("OOM")), "{error}");
    let _: () = server.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(buffer.commit(draft(3)).await.unwrap(), Seq(2));
}

#[tokio::test]
async fn the_second_owner_fences_the_first() {
    let server = Server::start(DURABLE).await;
    let (first, task) = server.try_open(&server.config(), Seq::ZERO).await.unwrap();
    first.commit(draft(1)).await.unwrap();
    let second = server.open().await;
    // On a slow machine its own look at the log comes first; then it takes a moment to know why.
    first.commit(draft(2)).await.unwrap_err();
    task.await.unwrap();
    let error = first.commit(draft(2)).await.unwrap_err();
    assert!(error.to_string().contains("taken over"), "{error}");
    assert_eq!(second.commit(draft(2)).await.unwrap(), Seq(2));
    let error = first.store_lease("s", &LeaseBlock::default()).await.unwrap_err();
    assert!(matches!(error, BufferError::Log(LogError::Fenced(_))), "{error}");
    assert_eq!(seqs(&second).await, [1, 2]);
}

#[tokio::test]
async fn a_lost_tail_is_appended_again() {
    let mut server = Server::start(&["--appendonly", "no"]).await;
    let config = BufferConfig { require_durable: false, ..server.config() };
    let buffer = server.try_open(&config, Seq::ZERO).await.unwrap().0;
    for number in 1..=20 {
        buffer.commit(draft(number)).await.unwrap();
    }
    server.kill();
    server.restart().await;
    let seq = commit_patiently(&buffer, 21).await;
    assert_eq!(seqs(&buffer).await, (1..=seq.0).collect::<Vec<_>>());
    assert!(seq >= Seq(21));
}

#[tokio::test]
async fn leases_and_quarantine_are_kept() {
    let server = Server::start(DURABLE).await;
    let buffer = server.open().await;
    let range = |start| LeaseRange { start, increment: 1, count: 10 };
    let block = |version, start| LeaseBlock { version, ranges: vec![range(start)], ..LeaseBlock::default() };
    buffer.store_lease("public.s", &block(2, 100)).await.unwrap();
    assert!(buffer.store_lease("public.s", &block(1, 1)).await.is_err(), "a late write");
    buffer.store_lease("public.s", &block(2, 100)).await.unwrap();
    buffer.commit(draft(1)).await.unwrap();
    let entry = buffer.read(Seq::ZERO, 1).await.unwrap().remove(0);
    let error = serde_json::json!({"code": "23505"});
    let rejected = Quarantined::new(entry, error);
    buffer.quarantine(rejected.clone()).await.unwrap();
    let again = server.open().await;
    assert_eq!(again.leases().await.unwrap()["public.s"], block(2, 100));
    assert_eq!(again.quarantined().await.unwrap(), [rejected]);
    again.skip(Seq(1), "anna").await.unwrap();
    assert!(again.quarantined().await.unwrap().is_empty());
}
