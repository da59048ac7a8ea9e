use std::sync::Mutex;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::metrics::Metrics;
use crate::status::tests::Plain;

struct Served {
    address: std::net::SocketAddr,
    site: Arc<Mutex<Plain>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn serve(site: Plain) -> Served {
    let (status, site) = site.status();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(listener, status, Metrics::new().1, shutdown.clone()));
    Served { address, site, shutdown, task }
}

impl Served {
    /// Sends these bytes and reads to the end.
    async fn send(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Status code, head in small letters, body.
    async fn get(&self, path: &str) -> (u16, String, String) {
        let answer = self.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.2).unwrap()
    }
}

#[tokio::test]
async fn health_is_503_only_when_clients_are_not_served() {
    let served = serve(Plain::healthy()).await;
    let (code, _, body) = served.get("/health").await;
    let health: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &health["status"], &health["processor"]), (200, &"ok".into(), &"idle".into()));
    assert_eq!((&health["database"]["status"], &health["redis"]["size"]), (&"up".into(), &0.into()));

    served.site.lock().unwrap().replay.link_up = false;
    let (code, _, body) = served.get("/health").await;
    assert_eq!(code, 200, "a cut link is what we are for");
    assert!(body.contains(r#""status":"degraded""#) && body.contains(r#""main":{"status":"down"}"#), "{body}");

    served.site.lock().unwrap().tracker.replica_up = false;
    let (code, _, body) = served.get("/health").await;
    assert_eq!(code, 503);
    assert!(body.contains(r#""database":{"status":"down"}"#), "{body}");
}

#[tokio::test]
async fn stats_and_info_carry_the_figures_and_no_secret() {
    let mut site = Plain::healthy();
    site.buffer.pending = 3;
    site.buffer.quarantined = 1;
    site.replay.average = Some(Duration::from_micros(2500));
    let served = serve(site).await;
    let stats = served.json("/buffer-stats").await;
    assert_eq!((&stats["pending"], &stats["failed"]), (&3.into(), &1.into()));
    assert_eq!(stats["average_execution_time_ms"], 2.5);
    assert_eq!(stats["processing_rate"], 0.0);
    let (_, _, info) = served.get("/api/site/info").await;
    assert!(info.contains(r#""name":"kirkenes""#) && info.contains(r#""type":"secondary""#), "{info}");
    assert!(info.contains(r#""main_address":"far:5432""#) && !info.contains("geheim"), "{info}");
}

#[tokio::test]
async fn metrics_have_the_type_that_prometheus_asks_for() {
    let served = serve(Plain::healthy()).await;
    let (code, head, body) = served.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("pgoutpost_pending_transactions 0"), "{body}");
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let served = serve(Plain::healthy()).await;
    let (code, head, body) = served.get("/").await;
    assert!(code == 200 && head.contains("text/html") && head.contains("content-security-policy"), "{head}");
    assert!(!body.contains("http://") && !body.contains("https://") && !body.contains("//cdn"));
    assert_eq!(served.get("/nowhere").await.0, 404);
}

#[tokio::test]
async fn oversized_requests_are_refused() {
    let served = serve(Plain::healthy()).await;
    let mut socket = TcpStream::connect(served.address).await.unwrap();
    let request = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(HEADER_BYTES_MAX));
    // The server may hang up before everything is written.
    let _ = socket.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn stops_when_told_even_with_an_idle_connection() {
    let served = serve(Plain::healthy()).await;
    let _idle = TcpStream::connect(served.address).await.unwrap();
    served.get("/health").await;
    served.shutdown.cancel();
    tokio::time::timeout(FAREWELL_MAX * 3, served.task).await.unwrap().unwrap();
}
